"""The records of a store, each under its id. The values that were sealed with them are not touched, and not read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, TypeVar

from sqlalchemy import URL

from anykms.envelope.record import parse_record
from anykms.envelope.sqlstore import SQLAlchemyRecordStore, tables
from anykms.envelope.stream import Sink, Source
from anykms.errors import ConflictError, InvalidArgumentError, InvalidCiphertextError, StaleMessageError
from anykms.migration.tables import TableTarget
from anykms.migration.targets import HEAD, Entry, Swap

T = TypeVar("T")

_ONLY_RISES: Final = (
    "the generation of a record only rises: this record is of an older one than was seen of it, or would become so; "
    "look who put it back, or migrate in the other direction instead of going back"
)


class RecordTarget:
    """The records of a ``SQLiteRecordStore`` or ``SQLAlchemyRecordStore``. A swap notes the new generation.

    Args:
        url: SQLAlchemy's URL of the database: ``sqlite:///records.db``.
        generations: URL of the one that has the generations, if that is another.
        schema: of the store's tables.

    Raises:
        TypeError, InvalidArgumentError: not URLs of databases that can be used here.

    >>> import anykms, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> client = anykms.connect(f"local://{folder}/keys.db", create=True)
    >>> old, new = (
    ...     anykms.Keyring([client.key(client.generate_key(anykms.KeyConf(name, "ENCRYPT_DECRYPT")))])
    ...     for name in ("old", "new")
    ... )
    >>> with anykms.SQLiteRecordStore(f"{folder}/records.db") as store:
    ...     made = anykms.StoredRecords(old, store, context={"table": "cards"}).create()
    ...     target = RecordTarget(f"sqlite:///{folder}/records.db")
    ...     (entry,) = target.entries()
    ...     (start,) = target.starts([entry.id])
    ...     done = target.swap([Swap(entry.id, start, old.rewrap(start, to=new).message)])
    ...     entry.id == made.record_id.hex(), done, store.generation(made.record_id)
    (True, [True], 1)
    >>> target.close()
    """

    def __init__(
        self, url: str | URL, *, generations: str | URL | None = None, schema: str | None = None
    ) -> None:
        records = tables(schema)[0]
        self._walked = TableTarget(
            url, table=records.name, id_column="record_id", column="record", schema=schema
        )
        self._store = SQLAlchemyRecordStore(url, generations=generations, schema=schema, create=False)

    def __repr__(self) -> str:
        return f"<RecordTarget {self.name}>"

    def close(self) -> None:
        """Close the connections. What is used after that opens new ones."""
        self._walked.close()
        self._store.close()

    @property
    def name(self) -> str:
        """See ``Target``."""
        return self._walked.name

    def entries(self) -> Iterator[Entry]:
        """See ``Target``: the ids of records in hex."""
        return self._walked.entries()

    def starts(self, ids: Sequence[str], size: int = HEAD) -> Sequence[bytes | None]:
        """See ``Target``."""
        return self._walked.starts(ids, size)

    def reading(self, entry_id: str) -> AbstractContextManager[Source]:
        """See ``Target``."""
        return self._walked.reading(entry_id)

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        """See ``Target``: record and generation in one transaction, where both are in one database.

        Raises:
            StaleMessageError: a record is of an older generation than the store has seen of it, or would become so:
                a swap would hide that somebody put it back. Nothing was changed.
            InvalidCiphertextError: what is new is no record. Nothing was changed.
        """
        wanted = [(bytes.fromhex(swap.id), swap) for swap in swaps]
        for record_id, swap in wanted:
            if self._store.get(record_id) == swap.old:
                self._check(record_id, swap.old, swap.new)
        return [self._swap(record_id, swap) for record_id, swap in wanted]

    def replace(self, entry_id: str, write: Callable[[Source, Sink], T]) -> T:
        """See ``Target``: by the same record with other recipients, and by nothing else.

        Raises:
            InvalidArgumentError: another record, or none: every value that was sealed with this one would be lost.
            StaleMessageError: as ``swap``.
        """
        record_id = bytes.fromhex(entry_id)
        old = self._store.get(record_id)
        if old is None:
            raise FileNotFoundError(2, "the store has no such record", entry_id)
        sink = io.BytesIO()
        result = write(io.BytesIO(old), sink)
        new = sink.getvalue()
        try:
            same = parse_record(new).immutable == parse_record(old).immutable
        except InvalidCiphertextError:
            same = False
        if not same:
            raise InvalidArgumentError(
                "a record is replaced by itself with other recipients only: its values could not be opened any more"
            )
        self._check(record_id, old, new)
        self._store.advance(record_id, new, expected=old, generation=parse_record(new).generation)
        return result

    def _check(self, record_id: bytes, old: bytes, new: bytes) -> None:
        highest = self._store.generation(record_id)
        if min(parse_record(old).generation, parse_record(new).generation) < highest:
            raise StaleMessageError(f"{record_id.hex()}: {_ONLY_RISES}")

    def _swap(self, record_id: bytes, swap: Swap) -> bool:
        generation = parse_record(swap.new).generation
        try:
            self._store.advance(record_id, swap.new, expected=swap.old, generation=generation)
        except ConflictError:
            if self._store.get(record_id) == swap.new:
                # An earlier call put it there, and may have ended before it noted the generation.
                self._store.saw_generation(record_id, generation)
            return False
        return True
