"""A column full of messages, one a row, in any database that SQLAlchemy knows."""

from __future__ import annotations

import binascii
import io
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote, unquote_to_bytes

from sqlalchemy import (
    ARRAY,
    URL,
    Boolean,
    ColumnClause,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    Integer,
    LargeBinary,
    Numeric,
    String,
    TableClause,
    Text,
    Uuid,
    bindparam,
    cast,
    column,
    func,
    inspect,
    literal,
    select,
    table,
    update,
)
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import NullType, TypeEngine

from anykms.database import Database
from anykms.envelope.message import MAGIC
from anykms.envelope.stream import Sink, Source
from anykms.errors import ConflictError, InvalidArgumentError
from anykms.migration.targets import HEAD, Entry, Swap

T = TypeVar("T")

_PAGE: Final = 1000
"""Rows of one question."""
_MAX_ID: Final = 1024
_LOCK_WAIT: Final = "10s"
"""How long to wait for one row that somebody else has locked, holding no other row meanwhile."""
_BASE64_START: Final = b64encode(MAGIC[:6]).decode()


class TableTarget:
    """The messages of one column of a table. Rows without one (NULL) are passed over.

    A batch of headers is exchanged in one statement that the database computes itself, for rows that nobody else has
    locked; then those that are locked, one by one, so that no row stays locked because of another.

    Args:
        url: SQLAlchemy's URL of the database.
        table, schema: the table; no schema is the default one.
        id_column: a column that names each row: its primary key, or one that is unique. Whole numbers, text, bytes,
            UUIDs; except in SQLite also decimal numbers, dates and times.
        column: the column of messages: bytes, or text.
        encoding: ``base64`` for a text column of messages in base64 (RFC 4648, with padding); text in it that is no
            message is taken as its UTF-8 bytes.

    Raises:
        TypeError, InvalidArgumentError: bad input. What the database itself tells comes at first use: no such table
            or column, an id that is not unique or of another type, bytes where text is meant.

    >>> import sqlite3, tempfile
    >>> path = tempfile.mkdtemp() + "/shop.db"
    >>> with sqlite3.connect(path) as database:
    ...     _ = database.execute("CREATE TABLE cards (id INTEGER PRIMARY KEY, number BLOB)")
    ...     _ = database.execute("INSERT INTO cards VALUES (17, x'0102030405'), (18, NULL)")
    >>> database.close()
    >>> target = TableTarget(f"sqlite:///{path}", table="cards", id_column="id", column="number")
    >>> [(entry.id, entry.size) for entry in target.entries()]
    [('17', 5)]
    >>> target.swap([Swap("17", b"\\1\\2", b"new"), Swap("18", b"\\1\\2", b"new")])
    [True, False]
    >>> target.starts(["17"])
    [b'new\\x03\\x04\\x05']
    >>> target.close()
    """

    def __init__(
        self,
        url: str | URL,
        *,
        table: str,
        id_column: str,
        column: str,
        schema: str | None = None,
        encoding: Literal["binary", "base64"] = "binary",
    ) -> None:
        for what, given in (("table", table), ("id_column", id_column), ("column", column)):
            if not isinstance(given, str):
                raise TypeError(f"{what} is a name, not {type(given).__name__}")
            if not given:
                raise InvalidArgumentError(f"{what} is empty: give its name")
        if encoding not in ("binary", "base64"):
            raise InvalidArgumentError(f"encoding is binary or base64, not {encoding!r}")
        if not isinstance(url, (str, URL)):
            raise TypeError(f"a table's database is given by its URL, not by a {type(url).__name__}")
        self._database = Database(url, existing=True)
        self._schema = schema
        self._table = table
        self._id_column = id_column
        self._column = column
        self._encoding = encoding
        self._known: _Shape | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None}

    def __repr__(self) -> str:
        return f"<TableTarget {self.name}>"

    def close(self) -> None:
        """Close the connections. What is used after that opens new ones."""
        self._database.close()

    @property
    def name(self) -> str:
        """See ``Target``: ``postgresql://db.example/shop#cards/id/number``."""
        names = ([self._schema] if self._schema else []) + [self._table, self._id_column, self._column]
        return f"{self._database.place}#" + "/".join(quote(name, safe="") for name in names)

    def entries(self) -> Iterator[Entry]:
        """See ``Target``: in pages, each from the id at which the last one ended."""
        shape = self._shape
        without = select(shape.value.is_(None)).where(shape.id.is_(None), shape.value.is_not(None)).limit(1)
        if self._database.run(lambda connection: connection.execute(without).first()) is not None:
            raise InvalidArgumentError(
                f"{self._table} has rows with a message and without {self._id_column}: name another --id"
            )
        page = (
            select(shape.id, *shape.measures)
            .where(shape.value.is_not(None))
            .order_by(shape.order)
            .limit(_PAGE)
        )
        after = page
        while True:
            statement = after
            rows = self._database.run(lambda connection: connection.execute(statement).all())  # noqa: B023 # run at once
            for key, *measured in rows:
                yield Entry(shape.text_of(key), shape.size(measured))
            if len(rows) < _PAGE:
                return
            after = page.where(shape.order > rows[-1][0])

    def starts(self, ids: Sequence[str], size: int = HEAD) -> list[bytes | None]:
        """See ``Target``."""
        shape = self._shape
        keys = [shape.key_of(entry_id) for entry_id in ids]
        found: dict[Any, bytes] = {}
        for begin in range(0, len(keys), _PAGE):
            some = keys[begin : begin + _PAGE]
            statement = select(shape.id, shape.start(size)).where(
                shape.id.in_(some), shape.value.is_not(None)
            )
            rows = self._database.run(lambda connection: connection.execute(statement).all())  # noqa: B023 # run at once
            # SQLite's substr makes NULL of an empty value.
            found |= {key: shape.decoded(cell or b"")[:size] for key, cell in rows}
        return [found.get(key) for key in keys]

    @contextmanager
    def reading(self, entry_id: str) -> Generator[Source]:
        """See ``Target``: the whole value is in memory."""
        shape = self._shape
        yield io.BytesIO(shape.decoded(self._cell(shape, entry_id)))

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        """See ``Target``: a batch is one transaction, which holds only locks that it got without waiting."""
        shape = self._shape
        keys = [shape.key_of(swap.id) for swap in swaps]
        if len(set(keys)) < len(
            keys
        ):  # one after the other: a second one may begin where the first one ended
            return [self.swap([swap])[0] for swap in swaps]
        if not shape.computes:
            return [self._swap_whole(shape, swap) for swap in swaps]
        batch = list(zip(keys, swaps, strict=True))
        done = self._database.run(lambda connection: shape.swap_free(connection, batch), whole=True)
        if shape.postgresql and len(done) < len(batch):
            rest = [pair for pair in batch if pair[0] not in done]
            longest = max(len(swap.old) for _, swap in rest)
            now = self.starts([swap.id for _, swap in rest], longest)
            for (key, swap), start in zip(rest, now, strict=True):
                if start is not None and start.startswith(swap.old):
                    done |= self._database.run(lambda c: shape.swap_locked(c, key, swap), whole=True)  # noqa: B023 # run at once
        return [key in done for key in keys]

    def replace(self, entry_id: str, write: Callable[[Source, Sink], T]) -> T:
        """See ``Target``: the old and the new value are in memory."""
        shape = self._shape
        cell = self._cell(shape, entry_id)
        sink = io.BytesIO()
        result = write(io.BytesIO(shape.decoded(cell)), sink)
        if not self._put(shape, shape.key_of(entry_id), cell, shape.encoded(sink.getvalue())):
            self._cell(shape, entry_id)
            raise ConflictError("the row was changed meanwhile; nothing was replaced")
        return result

    def _swap_whole(self, shape: _Shape, swap: Swap) -> bool:
        """Where the database cannot exchange a part of a value."""
        key = shape.key_of(swap.id)
        statement = select(shape.whole).where(shape.id == key)
        cell = self._database.run(lambda connection: connection.scalar(statement))
        if cell is None:
            return False
        value = shape.decoded(cell)
        if not value.startswith(swap.old):
            return False
        return self._put(shape, key, cell, shape.encoded(swap.new + value[len(swap.old) :]))

    def _put(self, shape: _Shape, key: Any, old: Any, new: Any) -> bool:
        statement = update(shape.table).where(shape.id == key, shape.same(old)).values({shape.value: new})
        return self._database.run(lambda connection: connection.execute(statement).rowcount) == 1

    def _cell(self, shape: _Shape, entry_id: str) -> Any:
        statement = select(shape.whole).where(shape.id == shape.key_of(entry_id))
        cell = self._database.run(lambda connection: connection.scalar(statement))
        if cell is None:
            raise FileNotFoundError(2, "the row is gone, or has no message", entry_id)
        return cell

    @property
    def _shape(self) -> _Shape:
        if self._known is None:
            self._known = self._database.run(self._look)
        return self._known

    def _look(self, connection: Connection) -> _Shape:
        inspector = inspect(connection)
        try:
            found = {
                each["name"]: each["type"] for each in inspector.get_columns(self._table, schema=self._schema)
            }
        except NoSuchTableError:
            where = f"the schema {self._schema}" if self._schema else "the default schema"
            raise InvalidArgumentError(
                f"there is no table {self._table} in {where} of the database"
            ) from None
        for name in (self._id_column, self._column):
            if name not in found:
                raise InvalidArgumentError(f"{self._table} has no column {name}; it has: {', '.join(found)}")
        unique = [inspector.get_pk_constraint(self._table, schema=self._schema)["constrained_columns"]]
        unique += [
            each["column_names"]
            for each in inspector.get_unique_constraints(self._table, schema=self._schema)
        ]
        for index in inspector.get_indexes(self._table, schema=self._schema):
            partial = any(name.endswith("_where") for name in index.get("dialect_options", {}))
            if index["unique"] and not partial:
                unique.append([name or "" for name in index["column_names"]])
        if [self._id_column] not in unique:
            raise InvalidArgumentError(
                f"{self._table}.{self._id_column} is not unique: name the primary key, or a column with a unique index"
            )
        binary = self._encoding == "binary"
        kind = found[self._column]
        if not isinstance(kind, (LargeBinary if binary else String, NullType)):
            raise InvalidArgumentError(
                f"{self._table}.{self._column} is of type {kind}: "
                + ("use encoding base64 for text" if binary else "encoding base64 is for text")
            )
        sqlite = connection.dialect.name == "sqlite"
        utf8 = sqlite and connection.exec_driver_sql("PRAGMA encoding").scalar() == "UTF-8"
        return _Shape(
            table=table(
                self._table,
                column(self._id_column, found[self._id_column]),
                column(self._column, LargeBinary() if binary else Text()),
                schema=self._schema,
            ),
            id_name=self._id_column,
            value_name=self._column,
            keys=_keys(f"{self._table}.{self._id_column}", found[self._id_column], sqlite=sqlite),
            binary=binary,
            backend=connection.dialect.name,
            computes=binary and (utf8 or connection.dialect.name == "postgresql"),
        )


@dataclass(frozen=True, slots=True)
class _Keys:
    """The ids of one column as text, and back."""

    what: str
    kind: type
    written: Callable[[Any], str]
    read: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known of a table, and the expressions over it."""

    table: TableClause
    id_name: str
    value_name: str
    keys: _Keys
    binary: bool
    backend: str
    computes: bool
    """Whether the database can put another start before the rest of a value."""

    @property
    def postgresql(self) -> bool:
        return self.backend == "postgresql"

    @property
    def id(self) -> ColumnClause[Any]:
        return self.table.c[self.id_name]

    @property
    def value(self) -> ColumnClause[Any]:
        return self.table.c[self.value_name]

    @property
    def order(self) -> ColumnElement[Any]:
        """The id in an order in which no two of different spelling are equal."""
        return self.id.collate("BINARY") if self.backend == "sqlite" and self.keys.kind is str else self.id

    @property
    def whole(self) -> ColumnElement[Any]:
        """The value as bytes or text, whatever SQLite has in that cell."""
        if self.backend == "sqlite":
            return cast(self.value, LargeBinary if self.binary else Text)
        return self.value

    @property
    def measures(self) -> list[ColumnElement[Any]]:
        size = (
            func.length(cast(self.value, LargeBinary))
            if self.backend == "sqlite"
            else func.octet_length(self.value)
        )
        if self.binary:
            return [size]
        ends = func.substr(self.whole, func.length(self.whole) - 1, 2)
        return [size, func.substr(self.whole, 1, len(_BASE64_START)), ends]

    def size(self, measured: Sequence[Any]) -> int:
        """Bytes of an entry, from ``measures``."""
        if self.binary or measured[1] != _BASE64_START:
            return int(measured[0])
        return int(measured[0]) * 3 // 4 - str(measured[2]).count("=")

    def start(self, size: int) -> ColumnElement[Any]:
        """Enough of a cell to decode ``size`` bytes."""
        if self.binary:
            return func.substr(self.whole, 1, size, type_=LargeBinary())
        return func.substr(self.whole, 1, -(-max(size, len(MAGIC)) // 3) * 4, type_=Text())

    def same(self, cell: bytes | str) -> ColumnElement[bool]:
        """Whether the cell is this one, byte for byte, whatever the column's collation."""
        if self.binary:
            return self.whole == cell
        if self.backend in ("sqlite", "postgresql"):
            return self.whole.collate("BINARY" if self.backend == "sqlite" else "C") == cell
        return cast(self.value, LargeBinary) == str(cell).encode()

    def decoded(self, cell: bytes | str) -> bytes:
        """The entry in a cell, or its start in the start of one."""
        if isinstance(cell, bytes):
            return cell
        if cell.startswith(_BASE64_START):
            try:
                return b64decode(cell, validate=True)
            except binascii.Error:
                pass
        return cell.encode()

    def encoded(self, entry: bytes) -> bytes | str:
        """The cell for an entry."""
        if self.binary:
            return entry
        if entry.startswith(MAGIC[:6]):
            return b64encode(entry).decode()
        try:
            return entry.decode()
        except UnicodeDecodeError:
            raise InvalidArgumentError(
                "this is neither a message nor text, and the column holds text"
            ) from None

    def text_of(self, key: Any) -> str:
        """The id of a row."""
        if type(key) is not self.keys.kind:
            raise InvalidArgumentError(
                f"{self.keys.what} holds a {type(key).__name__} where its type says {self.keys.kind.__name__}"
            )
        text = self.keys.written(key)
        if len(text) > _MAX_ID:
            raise InvalidArgumentError(f"{self.keys.what} holds an id of more than {_MAX_ID} characters")
        return text

    def key_of(self, text: str) -> Any:
        """The row of an id."""
        try:
            key = self.keys.read(text)
            if self.keys.written(key) == text:
                return key
        except (ValueError, ArithmeticError):
            pass
        raise InvalidArgumentError(f"{text!r} is no id of {self.keys.what}")

    def swap_free(self, connection: Connection, batch: Sequence[tuple[Any, Swap]]) -> set[Any]:
        """Exchange the starts of rows that nobody else has locked; in SQLite those are all."""
        if not self.postgresql:
            value, size = cast(self.value, LargeBinary), bindparam("size", type_=Integer)
            # Its substr makes NULL of nothing, and || text of two values; the cast makes the same bytes of that.
            start = func.coalesce(func.substr(value, 1, size), literal(b"", LargeBinary))
            rest = func.coalesce(func.substr(value, size + 1), literal(b"", LargeBinary))
            statement = (
                update(self.table)
                .where(
                    self.id == bindparam("key", type_=self.id.type),
                    self.value.is_not(None),
                    start == bindparam("old", type_=LargeBinary),
                )
                .values({self.value: cast(bindparam("new", type_=LargeBinary).op("||")(rest), LargeBinary)})
            )
            return {
                key
                for key, swap in batch
                if connection.execute(
                    statement, {"key": key, "size": len(swap.old), "old": swap.old, "new": swap.new}
                ).rowcount
            }
        given = (
            func.unnest(
                bindparam("keys", type_=ARRAY(self.id.type)),
                bindparam("olds", type_=ARRAY(LargeBinary)),
                bindparam("news", type_=ARRAY(LargeBinary)),
            )
            .table_valued(column("key", self.id.type), column("old", LargeBinary), column("new", LargeBinary))
            .render_derived(name="given")
        )
        begins = (self.id == given.c.key) & (
            func.substr(self.value, 1, func.length(given.c.old)) == given.c.old
        )
        free = select(self.id).where(begins).with_for_update(of=self.table, key_share=True, skip_locked=True)
        behind = func.substr(self.value, func.length(given.c.old) + 1)
        exchange = (
            update(self.table)
            .where(begins)
            .values({self.value: given.c.new.op("||")(behind)})
            .returning(self.id)
        )
        locked = set(connection.scalars(free, _arrays(batch)))
        mine = [(key, swap) for key, swap in batch if key in locked]
        return set(connection.scalars(exchange, _arrays(mine))) if mine else set()

    def swap_locked(self, connection: Connection, key: Any, swap: Swap) -> set[Any]:
        """The same for one row of PostgreSQL, once its other writer is done."""
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'")
        begins = func.substr(self.value, 1, len(swap.old)) == swap.old
        rest = func.substr(self.value, len(swap.old) + 1, type_=LargeBinary)
        new = bindparam("new", swap.new, LargeBinary).op("||")(rest)
        statement = update(self.table).where(self.id == key, begins).values({self.value: new})
        return {key} if connection.execute(statement).rowcount else set()


def _arrays(batch: Sequence[tuple[Any, Swap]]) -> dict[str, list[Any]]:
    return {
        "keys": [key for key, _ in batch],
        "olds": [swap.old for _, swap in batch],
        "news": [swap.new for _, swap in batch],
    }


def _keys(what: str, kind: TypeEngine[Any], *, sqlite: bool) -> _Keys:
    """How the ids of a column of this type are written: one text for each, and printable."""
    if isinstance(kind, Integer):
        return _Keys(what, int, str, int)
    if isinstance(kind, Uuid):
        return _Keys(what, uuid.UUID, str, uuid.UUID)
    if isinstance(kind, LargeBinary):
        return _Keys(what, bytes, bytes.hex, bytes.fromhex)
    if isinstance(kind, String):
        return _Keys(what, str, _escaped, _unescaped)
    if not sqlite and not isinstance(kind, Boolean):  # SQLite keeps these as text or floating point numbers
        if isinstance(kind, Numeric) and kind.asdecimal:
            return _Keys(what, Decimal, "{:f}".format, Decimal)
        if isinstance(kind, DateTime):
            return _Keys(what, datetime, _instant, datetime.fromisoformat)
        if isinstance(kind, Date):
            return _Keys(what, date, date.isoformat, date.fromisoformat)
    raise InvalidArgumentError(
        f"{what} is of type {kind}, which cannot name entries: name another unique column"
    )


def _escaped(text: str) -> str:
    """Text as printable text: percent signs and what is not printable as %XX of its UTF-8 (RFC 3986).

    >>> _escaped("50 % ä\\n")
    '50 %25 ä%0A'
    """
    return "".join(each if each != "%" and each.isprintable() else quote(each) for each in text)


def _unescaped(text: str) -> str:
    return unquote_to_bytes(text).decode()


def _instant(moment: datetime) -> str:
    return (moment if moment.tzinfo is None else moment.astimezone(UTC)).isoformat()
