"""The memory of a migration: one SQLite file with every entry that was seen, and the headers that were replaced.

It holds names, key URIs and headers, never a key or a plaintext. Several processes share it, each with its own range
of entries. What it says was committed to disk before the next step was taken.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import msgspec

from anykms.errors import IntegrityError, InvalidArgumentError, UnavailableError
from anykms.migration.census import Claim, Reason

_FORMAT: Final = 1
_BUSY: Final = 60.0
_SHAPES: Final = 4096
BUCKETS: Final = 2**32
_DIGEST: Final = 16

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS migration (
    one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS targets (target INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS claims (claim INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS walks (
    walk INTEGER PRIMARY KEY AUTOINCREMENT, low INTEGER NOT NULL, high INTEGER NOT NULL,
    started REAL NOT NULL, ended REAL, walked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT, command TEXT NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    started REAL NOT NULL, ended REAL, changed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS entries (
    n INTEGER PRIMARY KEY, target INTEGER NOT NULL, id TEXT NOT NULL, bucket INTEGER NOT NULL, size INTEGER NOT NULL,
    claim INTEGER NOT NULL, head BLOB NOT NULL, walk INTEGER NOT NULL, state INTEGER NOT NULL, reason TEXT,
    run INTEGER, proven INTEGER NOT NULL DEFAULT 0, UNIQUE (target, id));
CREATE INDEX IF NOT EXISTS todo ON entries (n) WHERE state <= 1;
CREATE TABLE IF NOT EXISTS writes (
    one INTEGER PRIMARY KEY CHECK (one = 1), exchanged REAL NOT NULL, made REAL NOT NULL);
CREATE TABLE IF NOT EXISTS headers (n INTEGER PRIMARY KEY, old BLOB NOT NULL, new BLOB NOT NULL);
"""


class State(IntEnum):
    """Where an entry stands."""

    TODO = 0
    PREPARED = 1
    """Old and new header are kept; whether they were exchanged is not known."""
    DONE = 2
    ALREADY = 3
    REPORTED = 4
    FAILED = 5
    GONE = 6
    NOTHING = 7
    """No message: nothing to do."""
    BACK = 8
    """It has its old header again."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the entries a process works on: ``number`` of ``count``, from 1.

    >>> Shard.parse("2/4").range
    (1073741824, 2147483648)
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count <= 4096:
            raise InvalidArgumentError("a shard is I/N with 1 <= I <= N <= 4096, for example 1/4")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``I/N``."""
        number, slash, count = text.partition("/")
        if not slash or not number.isdecimal() or not count.isdecimal():
            raise InvalidArgumentError("a shard is I/N with 1 <= I <= N <= 4096, for example 1/4")
        return cls(int(number), int(count))

    @property
    def range(self) -> tuple[int, int]:
        """Buckets from the first to before the second."""
        return (self.number - 1) * BUCKETS // self.count, self.number * BUCKETS // self.count

    def has(self, bucket: int) -> bool:
        """Whether an entry of that bucket is this shard's."""
        low, high = self.range
        return low <= bucket < high

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def bucket_of(target: str, entry_id: str) -> int:
    """The bucket of an entry, 0 to 2^32 - 1, the same in every process."""
    named = f"{target}\0{entry_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(named, digest_size=4).digest())


def digest_of(head: bytes) -> bytes:
    """What is kept of a header that was put in place: 16 bytes."""
    return hashlib.sha256(head).digest()[:_DIGEST]


@dataclass(frozen=True, slots=True)
class Found:
    """What a walk found of one entry."""

    target: int
    id: str
    bucket: int
    size: int
    claim: Claim
    head: bytes
    state: State
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as it stands, with the headers that are kept of it; ``new`` is a digest once it is DONE."""

    n: int
    target: int
    id: str
    state: State
    claim: int
    old: bytes
    new: bytes
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Writes:
    """The last writes that a checkpoint knows of, seconds since 1970; 0: none.

    Attributes:
        exchanged: when a header or a foreign entry was last put in place, forth or back.
        made: when the newest message that was opened and named a key to leave was made, and at the latest seen.
        rolled_back: when a rollback last began; it gives messages back to the old keys.
        unfinished: entries whose exchange was begun, and whose end is not known.
    """

    exchanged: float = 0.0
    made: float = 0.0
    rolled_back: float = 0.0
    unfinished: int = 0


class Facts(msgspec.Struct, frozen=True):
    """What a migration is: a checkpoint serves one.

    Attributes:
        targets: names, sorted.
        old_keys, new_keys: key URIs without versions, sorted.
    """

    mode: str
    targets: list[str]
    old_keys: list[str]
    new_keys: list[str]


class _Held:
    """A range of a file of locks, kept from every other process, and from the rest of this one.

    POSIX locks are the process's: a second one of it is granted, and all of them end when any descriptor of the file
    is closed. So this process has one descriptor of each file, and knows itself what it holds.

    Raises:
        BlockingIOError, PermissionError: somebody holds some of it.
    """

    _guard: ClassVar = threading.Lock()
    _files: ClassVar[dict[tuple[int, int], tuple[int, list[tuple[int, int]]]]] = {}

    def __init__(self, path: str, low: int, high: int) -> None:
        self._range = low, high
        with self._guard:
            descriptor = -1
            try:
                found = os.stat(path)
            except FileNotFoundError:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                found = os.fstat(descriptor)
            self._file = found.st_dev, found.st_ino
            if self._file in self._files:
                descriptor, ranges = self._files[self._file]
            else:
                if descriptor < 0:
                    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                ranges = []
            try:
                if any(low < other[1] and other[0] < high for other in ranges):
                    raise BlockingIOError(errno.EAGAIN, "this process holds some of it")
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, high - low, low)
            except BaseException:
                if not ranges:
                    os.close(descriptor)
                raise
            ranges.append(self._range)
            self._files[self._file] = descriptor, ranges

    def release(self) -> None:
        """Let go of it."""
        low, high = self._range
        with self._guard:
            descriptor, ranges = self._files[self._file]
            ranges.remove(self._range)
            if ranges:
                fcntl.lockf(descriptor, fcntl.LOCK_UN, high - low, low)
            else:
                del self._files[self._file]
                os.close(descriptor)


class Checkpoint:
    """The file, open. Used by one thread.

    Args:
        path: made with mode 0600 where there is none; its folder must exist. ``PATH.lock`` and ``PATH.originals``
            lie beside it.
        facts: what the migration is; None takes the file's own word, and there must be one.

    Raises:
        InvalidArgumentError: the file belongs to another migration.
        IntegrityError: it is no checkpoint, or damaged.
        UnavailableError: another process holds it for more than a minute.
        OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Facts | None) -> None:
        self.path = os.path.abspath(path)
        self._held: _Held | None = None
        if facts is None and not os.path.exists(self.path):
            raise FileNotFoundError(errno.ENOENT, "there is no checkpoint", self.path)
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._claims: OrderedDict[Claim, int] = OrderedDict()
        self._database = sqlite3.connect(
            self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False
        )
        try:
            with self._mapped():
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.executescript(_SCHEMA)
            self.facts: Final = self._identify(facts)
            """What the migration is."""
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of the range."""
        self._database.close()
        if self._held is not None:
            self._held.release()
            self._held = None

    @property
    def originals(self) -> Path:
        """The folder of foreign entries as they were."""
        return Path(f"{self.path}.originals")

    def _identify(self, facts: Facts | None) -> Facts:
        with self.transaction() as database:
            if facts is not None:
                text = msgspec.json.encode(facts).decode()
                database.execute("INSERT OR IGNORE INTO migration VALUES (1, ?, ?)", (_FORMAT, text))
            row = database.execute("SELECT format, facts FROM migration").fetchone()
        if row is None or row[0] != _FORMAT:
            raise IntegrityError("the checkpoint is not one that this release reads")
        found = msgspec.json.decode(row[1], type=Facts)
        if facts is not None and found != facts:
            names = [name for name in Facts.__struct_fields__ if getattr(found, name) != getattr(facts, name)]
            raise InvalidArgumentError(
                f"the checkpoint {self.path} belongs to another migration (other {', '.join(names)}): "
                "give another --checkpoint"
            )
        return found

    @contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise UnavailableError(f"another process holds the checkpoint {self.path}") from error
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise OSError(
                    errno.ENOSPC, f"the checkpoint cannot be written ({error})", self.path
                ) from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
                raise OSError(
                    errno.EACCES, f"the checkpoint cannot be written ({error})", self.path
                ) from error
            raise IntegrityError(f"{self.path} is no checkpoint, or a damaged one") from error

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """All of it on the disk, or nothing."""
        with self._mapped():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    def hold(self, shard: Shard) -> None:
        """Keep every other process out of this shard's range, until ``close`` or the end of this process.

        Raises:
            UnavailableError: another process works on some of it.
        """
        try:
            self._held = _Held(f"{self.path}.lock", *shard.range)
        except (BlockingIOError, PermissionError) as error:
            raise UnavailableError(
                f"another process works on shard {shard} of this migration; let it end, or give each its own --shard"
            ) from error

    # Names

    def target(self, name: str) -> int:
        """The number of a target."""
        with self.transaction() as database:
            database.execute("INSERT OR IGNORE INTO targets (name) VALUES (?)", (name,))
            return int(database.execute("SELECT target FROM targets WHERE name = ?", (name,)).fetchone()[0])

    def _claim(self, claim: Claim) -> int:
        known = self._claims.get(claim)
        if known is None:
            text = claim.to_json()
            self._database.execute("INSERT OR IGNORE INTO claims (text) VALUES (?)", (text,))
            row = self._database.execute("SELECT claim FROM claims WHERE text = ?", (text,)).fetchone()
            known = self._claims[claim] = int(row[0])
            if len(self._claims) > _SHAPES:
                self._claims.popitem(last=False)
        return known

    def claim_of(self, number: int) -> Claim:
        """The claim of that number."""
        with self._mapped():
            row = self._database.execute("SELECT text FROM claims WHERE claim = ?", (number,)).fetchone()
        return Claim.from_json(row[0])

    # Walks and runs

    def begin_run(self, command: str, shard: Shard, now: float) -> int:
        """The number of a new run."""
        low, high = shard.range
        with self.transaction() as database:
            cursor = database.execute(
                "INSERT INTO runs (command, low, high, started) VALUES (?, ?, ?, ?)",
                (command, low, high, now),
            )
        return int(cursor.lastrowid or 0)

    def end_run(self, run: int, changed: int, now: float) -> None:
        """The run came to its end."""
        with self.transaction() as database:
            database.execute("UPDATE runs SET ended = ?, changed = ? WHERE run = ?", (now, changed, run))

    def begin_walk(self, shard: Shard, now: float) -> int:
        """The number of a new walk."""
        low, high = shard.range
        with self.transaction() as database:
            cursor = database.execute(
                "INSERT INTO walks (low, high, started) VALUES (?, ?, ?)", (low, high, now)
            )
        return int(cursor.lastrowid or 0)

    def end_walk(self, walk: int, walked: int, now: float) -> None:
        """The walk has seen everything there was."""
        with self.transaction() as database:
            database.execute("UPDATE walks SET ended = ?, walked = ? WHERE walk = ?", (now, walked, walk))

    def last_walk(self, shard: Shard) -> tuple[int, float, float, int] | None:
        """Number, start, end and entries of the last whole walk over this very shard."""
        with self._mapped():
            row = self._database.execute(
                "SELECT walk, started, ended, walked FROM walks WHERE low = ? AND high = ? AND ended IS NOT NULL"
                " ORDER BY walk DESC LIMIT 1",
                shard.range,
            ).fetchone()
        return None if row is None else (int(row[0]), float(row[1]), float(row[2]), int(row[3]))

    def put(self, database: sqlite3.Connection, found: Iterable[Found], walk: int, run: int) -> None:
        """Write what a walk found. An entry that is prepared stays so; so does one that is done and still is."""
        database.executemany(
            """
            INSERT INTO entries (target, id, bucket, size, claim, head, walk, state, reason, run)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (target, id) DO UPDATE SET
                size = excluded.size, claim = excluded.claim, walk = excluded.walk, head = excluded.head,
                proven = CASE WHEN head = excluded.head THEN proven ELSE 0 END,
                reason = CASE
                    WHEN state IN (4, 5) AND run = excluded.run AND head = excluded.head THEN reason
                    ELSE excluded.reason END,
                state = CASE
                    WHEN state = 1 THEN 1
                    WHEN state = 2 AND excluded.state = 3 THEN 2
                    WHEN state IN (4, 5) AND run = excluded.run AND head = excluded.head THEN state
                    ELSE excluded.state END
            """,
            [
                (f.target, f.id, f.bucket, f.size, self._claim(f.claim), f.head, walk, f.state, f.reason, run)
                for f in found
            ],
        )

    # Work

    def rows(self, shard: Shard, states: Sequence[State], batch: int = 1024) -> Iterator[Row]:
        """Entries in those states, by their number. Rows that come into the state behind the reader are not seen."""
        low, high = shard.range
        # The index of what is to be done is used where the text of the condition implies its own.
        condition = (
            "state <= 1"
            if set(states) == {State.TODO, State.PREPARED}
            else f"state IN ({', '.join(str(int(state)) for state in states)})"
        )
        last = 0
        while True:
            with self._mapped():
                rows = self._database.execute(
                    "SELECT n, target, id, state, claim, coalesce(old, x''), coalesce(new, x'')"  # noqa: S608 # numbers only
                    " FROM entries LEFT JOIN headers USING (n)"
                    f" WHERE {condition} AND n > ? AND bucket >= ? AND bucket < ? ORDER BY n LIMIT ?",
                    (last, low, high, batch),
                ).fetchall()
            if not rows:
                return
            for n, target, name, state, claim, old, new in rows:
                yield Row(n, target, name, State(state), claim, old, new)
            last = rows[-1][0]

    def count(self, shard: Shard, states: Sequence[State]) -> int:
        """How many entries are in those states."""
        low, high = shard.range
        condition = (
            "state <= 1"
            if set(states) == {State.TODO, State.PREPARED}
            else f"state IN ({', '.join(str(int(state)) for state in states)})"
        )
        with self._mapped():
            row = self._database.execute(
                f"SELECT count(*) FROM entries WHERE {condition} AND bucket >= ? AND bucket < ?",  # noqa: S608 # numbers
                (low, high),
            ).fetchone()
        return int(row[0])

    def keep(self, database: sqlite3.Connection, headers: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Old and new header of entries that are about to be swapped."""
        kept = list(headers)
        database.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?, ?)", kept)
        database.executemany("UPDATE entries SET state = 1 WHERE n = ?", [(n,) for n, _, _ in kept])

    def note_done(self, database: sqlite3.Connection, heads: Iterable[tuple[int, bytes, bool]]) -> None:
        """Entries whose new header is in place; of it the digest is kept. True: the entry was foreign."""
        done = [(n, digest_of(head), converted) for n, head, converted in heads]
        database.executemany(
            "INSERT INTO headers VALUES (?, x'', ?) ON CONFLICT DO UPDATE"
            " SET new = excluded.new, old = CASE WHEN ? THEN x'' ELSE old END",
            done,
        )
        database.executemany(
            "UPDATE entries SET head = ?, state = 2, reason = NULL WHERE n = ?",
            [(head, n) for n, head, _ in done],
        )

    def note(
        self, database: sqlite3.Connection, run: int, states: Iterable[tuple[int, State, str | None]]
    ) -> None:
        """Where entries stand now, and why."""
        database.executemany(
            "UPDATE entries SET state = ?, reason = ?, run = ? WHERE n = ?",
            [(state, reason, run, n) for n, state, reason in states],
        )

    def note_proven(self, database: sqlite3.Connection, numbers: Iterable[int]) -> None:
        """Entries whose header was opened."""
        database.executemany("UPDATE entries SET proven = 1 WHERE n = ?", [(n,) for n in numbers])

    def note_write(self, database: sqlite3.Connection, *, exchanged: float = 0.0, made: float = 0.0) -> None:
        """Remember a write, if it is later than those before."""
        database.execute(
            "INSERT INTO writes VALUES (1, ?, ?) ON CONFLICT DO UPDATE SET"
            " exchanged = max(exchanged, excluded.exchanged), made = max(made, excluded.made)",
            (exchanged, made),
        )

    # Counts

    def last_writes(self) -> Writes:
        """What is known of writes, of all shards."""
        with self._mapped():
            row = self._database.execute("SELECT exchanged, made FROM writes").fetchone() or (0.0, 0.0)
            (back,) = self._database.execute(
                "SELECT coalesce(max(started), 0) FROM runs WHERE command = 'rollback'"
            ).fetchone()
        return Writes(float(row[0]), float(row[1]), float(back), self.count(Shard(), (State.PREPARED,)))

    def by_state(self, shard: Shard, walk: int) -> Iterator[tuple[State, str | None, int, int]]:
        """State, reason, entries and bytes of what the walk saw."""
        yield from (
            (State(state), reason, int(entries), int(size))
            for state, reason, entries, size in self._grouped(shard, walk, "state, reason")
        )

    def by_claim(self, shard: Shard, walk: int) -> Iterator[tuple[Claim, int, int, int]]:
        """Claim, entries, bytes and how many of them were opened, of what the walk saw."""
        low, high = shard.range
        with self._mapped():
            rows = self._database.execute(
                "SELECT text, count(*), sum(size), sum(proven) FROM entries JOIN claims USING (claim)"
                " WHERE walk >= ? AND bucket >= ? AND bucket < ? GROUP BY claim",
                (walk, low, high),
            )
            for text, entries, size, proven in rows:
                yield Claim.from_json(text), int(entries), int(size), int(proven)

    def todo_by_claim(self, shard: Shard) -> Iterator[tuple[Claim, int]]:
        """Claim and number of the entries that wait to be done."""
        low, high = shard.range
        with self._mapped():
            rows = self._database.execute(
                "SELECT text, count(*) FROM entries JOIN claims USING (claim)"
                " WHERE state <= 1 AND bucket >= ? AND bucket < ? GROUP BY claim",
                (low, high),
            )
            for text, entries in rows:
                yield Claim.from_json(text), int(entries)

    def _grouped(self, shard: Shard, walk: int, what: str) -> Iterator[tuple[int, str | None, int, int]]:
        low, high = shard.range
        with self._mapped():
            yield from self._database.execute(
                f"SELECT {what}, count(*), sum(size) FROM entries"  # noqa: S608 # our own words
                f" WHERE walk >= ? AND bucket >= ? AND bucket < ? GROUP BY {what}",
                (walk, low, high),
            )

    def waiting(self, shard: Shard, walk: int, limit: int) -> Iterator[tuple[str, str, State, str | None]]:
        """Target, id, state and reason of up to ``limit`` entries that wait for a person or failed."""
        low, high = shard.range
        with self._mapped():
            rows = self._database.execute(
                "SELECT name, id, state, reason FROM entries JOIN targets USING (target)"
                " WHERE state IN (4, 5) AND walk >= ? AND bucket >= ? AND bucket < ? ORDER BY n LIMIT ?",
                (walk, low, high, limit),
            )
            for name, entry_id, state, reason in rows:
                yield str(name), str(entry_id), State(state), reason

    def changed(self) -> int:
        """How often a swap found that another writer had been there first."""
        with self._mapped():
            return int(self._database.execute("SELECT coalesce(sum(changed), 0) FROM runs").fetchone()[0])
