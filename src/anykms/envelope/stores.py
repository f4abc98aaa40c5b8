"""Where records lie: in memory or in SQLite. Other databases implement ``RecordStore``."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from anykms.errors import ConflictError, IntegrityError, UnavailableError


@runtime_checkable
class RecordStore(Protocol):
    """Records by their 16-byte id and, apart from them, the highest generation that was seen of each.

    Nothing that a store gives is trusted; it is asked for bytes and for a number that only rises. Put the numbers
    where whoever can write the records cannot lower them, if there is such a place. Thread-safe.
    """

    def get(self, record_id: bytes) -> bytes | None:
        """The record, None where there is none."""
        ...

    def add(self, record_id: bytes, record: bytes) -> None:
        """Store a new record.

        Raises:
            ConflictError: there is one of that id.
        """
        ...

    def replace(self, record_id: bytes, record: bytes, *, expected: bytes) -> None:
        """Compare and swap, in one step.

        Raises:
            ConflictError: what is stored is not ``expected``.
        """
        ...

    def generation(self, record_id: bytes) -> int:
        """The highest generation given to ``saw_generation``, 0 where there was none."""
        ...

    def saw_generation(self, record_id: bytes, generation: int) -> None:
        """Remember a generation, unless a higher one is known. It is that of an authentic record, 0 to 2^32 - 1."""
        ...


class MemoryRecordStore:
    """Records in this process, for tests and for records kept elsewhere.

    >>> store = MemoryRecordStore()
    >>> store.add(bytes(16), b"record")
    >>> store.get(bytes(16))
    b'record'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[bytes, bytes] = {}
        self._generations: dict[bytes, int] = {}

    def get(self, record_id: bytes) -> bytes | None:
        """See ``RecordStore``."""
        return self._records.get(record_id)

    def add(self, record_id: bytes, record: bytes) -> None:
        """See ``RecordStore``."""
        with self._lock:
            if record_id in self._records:
                raise _exists(record_id)
            self._records[record_id] = record

    def replace(self, record_id: bytes, record: bytes, *, expected: bytes) -> None:
        """See ``RecordStore``."""
        with self._lock:
            if self._records.get(record_id) != expected:
                raise _changed(record_id)
            self._records[record_id] = record

    def generation(self, record_id: bytes) -> int:
        """See ``RecordStore``."""
        return self._generations.get(record_id, 0)

    def saw_generation(self, record_id: bytes, generation: int) -> None:
        """See ``RecordStore``."""
        with self._lock:
            self._generations[record_id] = max(generation, self._generations.get(record_id, 0))


_SCHEMA = """
CREATE TABLE IF NOT EXISTS anykms_records (record_id BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS anykms_generations
    (record_id BLOB PRIMARY KEY, highest INTEGER NOT NULL) WITHOUT ROWID;
"""


class SQLiteRecordStore:
    """Records in one SQLite file, in WAL mode, for several threads and processes.

    Args:
        path: the file; made where there is none. Its folder must exist.

    Raises:
        UnavailableError: the file cannot be opened, or stays locked for 30 s.
        IntegrityError: it is not a SQLite database, or a damaged one.

    >>> import tempfile
    >>> with SQLiteRecordStore(tempfile.mkdtemp() + "/records.db") as store:
    ...     store.add(bytes(16), b"record")
    ...     store.saw_generation(bytes(16), 3)
    ...     store.get(bytes(16)), store.generation(bytes(16))
    (b'record', 3)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._connect()
        with self._database() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_SCHEMA)

    def _connect(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        with _mapped():
            self._connection = sqlite3.connect(
                self._path, timeout=30, isolation_level=None, check_same_thread=False
            )

    @contextmanager
    def _database(self) -> Generator[sqlite3.Connection]:
        if self._pid != os.getpid():
            # A connection must not be used, nor closed, in a forked child: it is left to the parent.
            _inherited.append(self._connection)
            self._connect()
        with self._lock, _mapped():
            yield self._connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._database() as database:
            database.close()

    def get(self, record_id: bytes) -> bytes | None:
        """See ``RecordStore``."""
        with self._database() as database:
            row = database.execute(
                "SELECT record FROM anykms_records WHERE record_id = ?", (record_id,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def add(self, record_id: bytes, record: bytes) -> None:
        """See ``RecordStore``."""
        with self._database() as database:
            added = database.execute(
                "INSERT INTO anykms_records VALUES (?, ?) ON CONFLICT DO NOTHING", (record_id, record)
            ).rowcount
        if added != 1:
            raise _exists(record_id)

    def replace(self, record_id: bytes, record: bytes, *, expected: bytes) -> None:
        """See ``RecordStore``."""
        with self._database() as database:
            replaced = database.execute(
                "UPDATE anykms_records SET record = ? WHERE record_id = ? AND record = ?",
                (record, record_id, expected),
            ).rowcount
        if replaced != 1:
            raise _changed(record_id)

    def generation(self, record_id: bytes) -> int:
        """See ``RecordStore``."""
        with self._database() as database:
            row = database.execute(
                "SELECT highest FROM anykms_generations WHERE record_id = ?", (record_id,)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def saw_generation(self, record_id: bytes, generation: int) -> None:
        """See ``RecordStore``."""
        with self._database() as database:
            database.execute(
                "INSERT INTO anykms_generations VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET highest = max(highest, excluded.highest)",
                (record_id, generation),
            )


_inherited: list[sqlite3.Connection] = []


@contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
        raise UnavailableError(f"the record store cannot be used: {error}") from error
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise IntegrityError("the record store is damaged, or not one") from error


def _exists(record_id: bytes) -> ConflictError:
    return ConflictError(f"the store has a record {record_id.hex()} already")


def _changed(record_id: bytes) -> ConflictError:
    return ConflictError(f"the record {record_id.hex()} is not the one that was read; read it again")
