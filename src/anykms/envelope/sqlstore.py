"""Records in any database that SQLAlchemy knows. docs/records.md says how to set one up."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import Final, Self

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    LargeBinary,
    MetaData,
    Table,
    exc,
    insert,
    select,
    update,
)

from anykms.database import Database, in_transaction
from anykms.errors import ConflictError

_ROUNDS: Final = 10


class SQLAlchemyRecordStore:
    """Records in a table, and the highest generations in another one, which may be in another database.

    A file of ``SQLiteRecordStore`` is the same tables. Every change is one statement that commits by itself, so that
    the isolation level of the database does not matter. Threads may share a store; a forked child connects anew.

    Args:
        database: a SQLAlchemy URL or Engine.
        generations: where the generations are kept, if elsewhere: a database, or an account of the same one, that
            whoever can write the records cannot use.
        schema: of both tables; None is the database's default one.
        create: make the tables where there are none. False where the account may not, and for tables that your
            migrations make: ``tables`` shows their definition.

    Raises:
        TypeError, InvalidArgumentError: not a database, or a driver that is not installed.
        UnavailableError, PermissionDeniedError: the tables cannot be made.

    >>> import tempfile
    >>> with SQLAlchemyRecordStore(f"sqlite:///{tempfile.mkdtemp()}/records.db") as store:
    ...     store.add(bytes(16), b"record")
    ...     store.saw_generation(bytes(16), 3)
    ...     store.get(bytes(16)), store.generation(bytes(16))
    (b'record', 3)
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        generations: str | URL | Engine | None = None,
        schema: str | None = None,
        create: bool = True,
    ) -> None:
        self._database = Database(database)
        self._beside = self._database if generations is None else Database(generations)
        self._records, self._generations = tables(schema)
        if create:
            self._database.run(lambda connection: _make(connection, self._records))
            self._beside.run(lambda connection: _make(connection, self._generations))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SQLAlchemyRecordStore {self._database.place}>"

    def close(self) -> None:
        """Close the connections; an Engine that was given is left to its owner. What is used after opens new ones."""
        self._database.close()
        self._beside.close()

    def get(self, record_id: bytes) -> bytes | None:
        """See ``RecordStore``."""
        table = self._records
        found = self._database.run(
            lambda connection: connection.scalar(select(table.c.record).where(table.c.record_id == record_id))
        )
        return None if found is None else bytes(found)

    def add(self, record_id: bytes, record: bytes) -> None:
        """See ``RecordStore``."""
        row = {"record_id": record_id, "record": record}
        if not self._database.run(lambda connection: _inserted(connection, self._records, row)):
            raise ConflictError(f"the store has a record {record_id.hex()} already")

    def replace(self, record_id: bytes, record: bytes, *, expected: bytes) -> None:
        """See ``RecordStore``."""
        if not self._database.run(lambda connection: self._replaced(connection, record_id, record, expected)):
            raise ConflictError(f"the record {record_id.hex()} is not the one that was read; read it again")

    def generation(self, record_id: bytes) -> int:
        """See ``RecordStore``."""
        return self._beside.run(lambda connection: self._highest(connection, record_id)) or 0

    def saw_generation(self, record_id: bytes, generation: int) -> None:
        """See ``RecordStore``."""
        self._beside.run(lambda connection: self._raise(connection, record_id, generation))

    def advance(self, record_id: bytes, record: bytes, *, expected: bytes, generation: int) -> None:
        """``replace`` and ``saw_generation``; in one transaction where both tables are in one database.

        Raises:
            ConflictError: what is stored is not ``expected``; no generation was noted.
        """
        apart = self._beside is not self._database

        def both(connection: Connection) -> bool:
            if not self._replaced(connection, record_id, record, expected):
                return False
            if not apart:
                self._raise(connection, record_id, generation)
            return True

        if not self._database.run(both, whole=True):
            raise ConflictError(f"the record {record_id.hex()} is not the one that was read; read it again")
        if apart:
            self.saw_generation(record_id, generation)

    def _replaced(self, connection: Connection, record_id: bytes, record: bytes, expected: bytes) -> bool:
        table = self._records
        same = (table.c.record_id == record_id) & (table.c.record == expected)
        return connection.execute(update(table).where(same).values(record=record)).rowcount == 1

    def _highest(self, connection: Connection, record_id: bytes) -> int | None:
        table = self._generations
        return connection.scalar(select(table.c.highest).where(table.c.record_id == record_id))

    def _raise(self, connection: Connection, record_id: bytes, generation: int) -> None:
        table = self._generations
        lower = (table.c.record_id == record_id) & (table.c.highest < generation)
        for _ in range(_ROUNDS):
            known = self._highest(connection, record_id)
            if known is None:
                row = {"record_id": record_id, "highest": generation}
                if _inserted(connection, table, row):
                    return
            elif (
                known >= generation
                or connection.execute(update(table).where(lower).values(highest=generation)).rowcount
            ):
                return
        raise ConflictError(
            f"the generation of the record {record_id.hex()} cannot be noted; its row comes and goes"
        )


def tables(schema: str | None = None) -> tuple[Table, Table]:
    """The two tables, records and generations, of a ``MetaData`` of their own, for your migrations.

    >>> [table.name for table in tables()]
    ['anykms_records', 'anykms_generations']
    """
    metadata = MetaData(schema=schema)
    return (
        Table(
            "anykms_records",
            metadata,
            Column("record_id", LargeBinary(16), primary_key=True),
            Column("record", LargeBinary, nullable=False),
        ),
        Table(
            "anykms_generations",
            metadata,
            Column("record_id", LargeBinary(16), primary_key=True),
            Column("highest", BigInteger, nullable=False),
        ),
    )


def _make(connection: Connection, table: Table) -> None:
    try:
        table.create(connection, checkfirst=True)
    except exc.DBAPIError:
        # Another process may have made it since it was looked for; then there is nothing left to do.
        table.create(connection, checkfirst=True)


def _inserted(connection: Connection, table: Table, row: Mapping[str, object]) -> bool:
    try:
        # Within a transaction a failed INSERT would take the rest with it.
        with connection.begin_nested() if in_transaction(connection) else nullcontext():
            connection.execute(insert(table), row)
    except exc.IntegrityError:
        return False
    return True
