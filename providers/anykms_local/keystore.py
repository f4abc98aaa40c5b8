"""The keystore file: SQLite rows, each sealed, and all of them together under one MAC.

Two tables. ``store`` has one row: a header (keystore id, wrapped data secret), a generation that grows with
every write, and a MAC over the header, the generation and every entry's id, generation, nonce and tag.
``entries`` has a row for each key (its facts and state, sealing nothing) and for each version (sealing its
material). A row's id, generation, current version and metadata are the associated data of its seal.

A process keeps the tags it verified at some generation. Reading a row then costs one SELECT and a comparison;
the whole table is read again only when the generation has moved.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hmac
import json
import os
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from anykms.errors import (
    InvalidArgumentError,
    KeystoreError,
    KMSError,
    PermissionDeniedError,
    UnavailableError,
)
from anykms.keys import canonical_json
from anykms.provider import RootSecret
from anykms_local.root import SECRET_SIZE, kind_of, publish

SCHEMA_VERSION: Final = 1
SENDER_SUFFIX: Final = "--sender"
"""A key NAME's sender key has its rows under NAME--sender, a name that no key can have."""
_TABLES: Final = {
    "store": "CREATE TABLE store (id INTEGER PRIMARY KEY, header TEXT, generation INTEGER, mac BLOB)",
    "entries": (
        "CREATE TABLE entries "
        "(id TEXT PRIMARY KEY, generation INTEGER, current INTEGER, meta TEXT, sealed BLOB) WITHOUT ROWID"
    ),
}
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_MAX_IDLE: Final = 8
_MAX_GENERATION: Final = 2**62

_WITH_CURRENT: Final = (
    "SELECT s.generation, s.mac, k.id, k.generation, k.current, k.meta, k.sealed, "
    "v.id, v.generation, v.current, v.meta, v.sealed FROM store s LEFT JOIN entries k ON k.id = ? "
    "LEFT JOIN entries v ON v.id = k.id || '/' || k.current WHERE s.id = 1"
)
_WITH_NAMED: Final = (
    "SELECT s.generation, s.mac, k.id, k.generation, k.current, k.meta, k.sealed, "
    "v.id, v.generation, v.current, v.meta, v.sealed FROM store s LEFT JOIN entries k ON k.id = ? "
    "LEFT JOIN entries v ON v.id = ? WHERE s.id = 1"
)
_ONE: Final = "SELECT id, generation, current, meta, sealed FROM entries WHERE id = ?"
ALL_ENTRIES: Final = "SELECT id, generation, current, meta, sealed FROM entries ORDER BY id"
_FAMILY: Final = (
    "SELECT id, generation, current, meta, sealed FROM entries "
    "WHERE id = ?1 OR (id > ?1 || '/' AND id < ?1 || '0') "  # 0 comes after /
    "OR (id > ?1 || ?2 || '/' AND id < ?1 || ?2 || '0') ORDER BY id"
)
_PUT: Final = "INSERT OR REPLACE INTO entries (id, generation, current, meta, sealed) VALUES (?, ?, ?, ?, ?)"

_Columns = Sequence[object]
"""id, generation, current, meta and sealed of an entry as SQLite gave them: nothing is believed yet."""


@dataclass(slots=True)
class Entry:
    """An authentic row.

    Attributes:
        id: ``NAME`` of a key, ``NAME/N`` of a version.
        current: the key's current version; None for a version.
        meta: canonical JSON, public.
        secret: what the row seals: a version's material, empty for keys and once destroyed.
    """

    id: str
    current: int | None
    meta: str
    secret: bytes = field(repr=False)


class Seals:
    """The two keys derived from a store's data secret."""

    __slots__ = ("_mac_key", "_row_cipher")

    def __init__(self, data_secret: bytes, keystore_id: str) -> None:
        def derive(label: bytes) -> bytes:
            return HKDFExpand(SHA256(), 32, label + b" " + keystore_id.encode()).derive(data_secret)

        # Random 96-bit nonces: a store sees far fewer than the 2^32 writes of SP 800-38D 8.3.
        self._row_cipher = AESGCM(derive(b"anykms/v1 local-row"))
        self._mac_key = derive(b"anykms/v1 local-store")

    def seal(self, generation: int, entry: Entry) -> bytes:
        nonce = secrets.token_bytes(_NONCE_SIZE)
        aad = _associated(entry.id, generation, entry.current, entry.meta)
        return nonce + self._row_cipher.encrypt(nonce, entry.secret, aad)

    def open(self, columns: _Columns) -> Entry:
        """The entry. Raises KeystoreError unless every column is as it was written."""
        name, generation, current, meta, sealed = columns
        if not (
            type(name) is str
            and type(generation) is int
            and (current is None or type(current) is int)
            and type(meta) is str
            and type(sealed) is bytes
            and len(sealed) >= _NONCE_SIZE + _TAG_SIZE
        ):
            raise edited("a row has columns of the wrong type")
        try:
            secret = self._row_cipher.decrypt(
                sealed[:_NONCE_SIZE],
                sealed[_NONCE_SIZE:],
                _associated(name, generation, current, meta),
            )
        except (InvalidTag, UnicodeEncodeError):
            raise edited(f"the row {ascii(name)[:100]} is not authentic") from None
        return Entry(name, current, meta, secret)

    def store_mac(self, header: str, generation: int, tags: Mapping[str, bytes]) -> bytes:
        """HMAC-SHA-256 over everything a store consists of."""
        parts = [b"anykms/v1 local-store", generation.to_bytes(8)]
        for text, tag in ((header, b""), *sorted(tags.items())):
            encoded = text.encode()
            parts += (len(encoded).to_bytes(4), encoded, tag)
        return hmac.digest(self._mac_key, b"".join(parts), "sha256")


def _associated(name: str, generation: int, current: int | None, meta: str) -> bytes:
    # The length makes the split unique; numbers hold no separator and the metadata comes last.
    return f"anykms/v1 local-row:{len(name)}:{name}:{generation}:{current}:{meta}".encode()


def _belongs(name: str, key: str) -> bool:
    return name == key or name.partition("/")[0] in (key, key + SENDER_SUFFIX)


def tag_of(generation: object, sealed: object) -> bytes:
    """What the store's MAC covers of a row: generation (u64be) || nonce (12) || tag (16)."""
    if not (
        type(generation) is int
        and 0 < generation < _MAX_GENERATION
        and type(sealed) is bytes
        and len(sealed) >= _NONCE_SIZE + _TAG_SIZE
    ):
        raise edited("a row has columns of the wrong type")
    return generation.to_bytes(8) + sealed[:_NONCE_SIZE] + sealed[-_TAG_SIZE:]


@dataclass(frozen=True, slots=True)
class Slot:
    """One wrap of the data secret. There are two only while the root secret is being replaced."""

    kind: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """The public part of a store."""

    keystore_id: str
    slots: tuple[Slot, ...]

    def to_json(self) -> str:
        slots = [{"kind": slot.kind, "wrapped": slot.wrapped.hex()} for slot in self.slots]
        plain = {"keystore": self.keystore_id, "schema": SCHEMA_VERSION, "slots": slots}
        return canonical_json(plain).decode()

    @classmethod
    def parse(cls, text: object) -> Header:
        try:
            raw = json.loads(cast(str, text))
            slots = tuple(Slot(str(slot["kind"]), bytes.fromhex(slot["wrapped"])) for slot in raw["slots"])
            found = cls(str(raw["keystore"]), slots)
            same = found.to_json() == text
        except (ValueError, KeyError, TypeError, RecursionError):
            same, found = False, cls("", ())
        if not same or not 1 <= len(found.slots) <= 2:
            raise edited("its header is not readable")
        return found

    def data_secret(self, root: RootSecret) -> bytes:
        """The data secret. Raises KeystoreError if the root opens no slot."""
        problem: KeystoreError | None = None
        for slot in self.slots:
            try:
                secret = root.unwrap(slot.wrapped)
            except KeystoreError as error:
                problem = error
                continue
            if len(secret) != SECRET_SIZE:
                raise KeystoreError(f"the root secret gave {len(secret)} bytes instead of {SECRET_SIZE}")
            return secret
        kinds = {slot.kind for slot in self.slots}
        if problem is not None and kind_of(root) not in kinds:
            hint = " or ".join(sorted(kinds))
            raise KeystoreError(
                f"this keystore's root secret is of another kind: {ascii(hint)[:60]}"
            ) from problem
        raise problem or edited("its header is not readable")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was verified, at one generation."""

    header: str
    generation: int
    mac: bytes
    tags: Mapping[str, bytes] = field(repr=False)
    seals: Seals = field(repr=False)

    def open(self, columns: _Columns, name: str | None = None) -> Entry:
        """The entry, if it is the very row that was verified, and the one of the id ``name`` if given."""
        tag = self.tags.get(cast(str, columns[0]))
        if name is not None and columns[0] != name:
            raise edited("a row was given for another")
        if tag is None or tag_of(columns[1], columns[4]) != tag:
            raise edited("a row was put in or put back")
        return self.seals.open(columns)

    def is_of(self, store: tuple[str, int, bytes]) -> bool:
        """Whether a store with this header, generation and MAC is the one that was verified."""
        return store == (self.header, self.generation, self.mac)

    def all_there(self, rows: Sequence[_Columns], key: str | None) -> None:
        """Raises KeystoreError unless ``rows`` are as many as belong to the key, or to all."""
        if len(rows) != (len(self.tags) if key is None else sum(_belongs(name, key) for name in self.tags)):
            raise edited("a row is missing or was put in")

    def check_absent(self, name: str) -> None:
        """Note that a row is not there. Raises KeystoreError if it ought to be."""
        if name in self.tags:
            raise edited(f"the row {name} is missing")


class Pool:
    """Connections of one process to one file; each serves one operation at a time, and no forked child."""

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._idle: list[sqlite3.Connection] = []
        self._in_use = 0
        self._forking = False
        self._closed = False
        self._changed = threading.Condition(threading.Lock())
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        _pools.add(self)

    def acquire(self) -> sqlite3.Connection:
        """A connection for the caller alone, to be released."""
        with self._changed:
            while self._forking:
                self._changed.wait()
            if self._closed:
                raise InvalidArgumentError("this connection to the keystore is closed; connect again")
            self._in_use += 1
            if self._idle:
                return self._idle.pop()
        try:
            return connect(self._path, self._busy_timeout)
        except BaseException:
            self._returned(None)
            raise

    def release(self, connection: sqlite3.Connection) -> None:
        """Give a connection back, outside any transaction."""
        self._returned(connection)

    def _returned(self, connection: sqlite3.Connection | None) -> None:
        with self._changed:
            self._in_use -= 1
            if connection is not None and not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                connection = None
            if self._forking:
                self._changed.notify_all()
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close what is idle now and the rest when it comes back."""
        with self._changed:
            self._closed = True
            idle, self._idle[:] = list(self._idle), []
        _close_all(idle)

    def before_fork(self) -> None:
        # SQLite keeps its locks in process memory: a child inherits none (sqlite.org/howtocorrupt.html 2.6).
        self._changed.acquire()
        self._forking = True
        while self._in_use:
            self._changed.wait()
        idle, self._idle[:] = list(self._idle), []
        _close_all(idle)

    def after_fork_in_parent(self) -> None:
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._forking = False


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_forked: list[Pool] = []


def _before_fork() -> None:
    _forked[:] = list(_pools)
    for pool in _forked:
        pool.before_fork()


def _after_fork_in_parent() -> None:
    for pool in _forked:
        pool.after_fork_in_parent()
    _forked.clear()


def _after_fork_in_child() -> None:
    for pool in _forked:
        pool.after_fork_in_child()
    _forked.clear()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


def _close_all(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()


def connect(path: Path, busy_timeout: float, *, mode: str = "rw") -> sqlite3.Connection:
    """A connection set up as every one of ours is. It never makes a file."""
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise translated(error, path) from error
    try:
        for pragma in (
            "synchronous = FULL",
            "fullfsync = ON",
            "secure_delete = ON",
            "trusted_schema = OFF",
            "cell_size_check = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        connection.close()
        raise translated(error, path) from error
    return connection


class Store:
    """An open keystore file. Every method may be called from any thread."""

    def __init__(self, path: Path, root: RootSecret, busy_timeout: float) -> None:
        """Open and check it all.

        Raises:
            KeystoreError: missing, damaged, edited, or another root secret.
            UnavailableError: locked.
        """
        check_file(path)
        self.path = path
        self._root = root
        self._pool = Pool(path, busy_timeout)
        self._publishing = threading.Lock()
        try:
            self._use_write_ahead_log()
            with self._reading() as connection:
                self._snapshot = verify(connection, root, None)
                for columns in connection.execute(ALL_ENTRIES):
                    self._snapshot.open(columns)
        except BaseException:
            self._pool.close()
            raise
        self.keystore_id: Final = Header.parse(self._snapshot.header).keystore_id

    @property
    def snapshot(self) -> Snapshot:
        """What this process verified last."""
        return self._snapshot

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._pool.close()

    def fetch(self, key: str, version: str | None = None) -> tuple[Entry | None, Entry | None]:
        """A key's row, and that of a version: the one with the id ``version``, or the current one.

        Raises:
            KeystoreError: a row is not what was written last, or missing.
            UnavailableError: locked.
        """
        seen = self._snapshot
        query, values = (_WITH_CURRENT, (key,)) if version is None else (_WITH_NAMED, (key, version))
        connection = self._pool.acquire()
        try:
            row = connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            self._pool.release(connection)
        if row is None or row[0] != seen.generation or row[1] != seen.mac:
            with self._reading() as connection:
                seen = self._verified(connection, seen)
                row = connection.execute(query, values).fetchone()
        if row[2] is None:
            seen.check_absent(key)
            return None, None
        found = seen.open(row[2:7], key)
        wanted = version or f"{key}/{found.current}"
        if row[7] is None:
            seen.check_absent(wanted)
            return found, None
        return found, seen.open(row[7:12], wanted)

    def scan(self, key: str | None = None) -> Iterator[Entry]:
        """Every row, or those of one key with its versions and sender key, as of one moment, by id."""
        seen = self._snapshot
        with self._reading() as connection:
            seen = self._verified(connection, seen)
            if key is None:
                rows = connection.execute(ALL_ENTRIES).fetchall()
            else:
                rows = connection.execute(_FAMILY, (key, SENDER_SUFFIX)).fetchall()
        seen.all_there(rows, key)
        for columns in rows:
            yield seen.open(columns)

    def keys_in_state(self, state: str) -> list[str]:
        """Keys that are perhaps in ``state``: a quick look, to be followed by an authentic read."""
        with self._reading() as connection:
            query = "SELECT id FROM entries WHERE current IS NOT NULL AND instr(meta, ?)"
            return [str(name) for (name,) in connection.execute(query, (f'"state":"{state}"',))]

    @contextlib.contextmanager
    def transaction(self) -> Generator[Transaction, None, None]:
        """Change rows together: all is on disk when the block ends, nothing when it raises.

        Raises:
            UnavailableError: another writer holds the store, or the disk is full.
        """
        seen = self._snapshot
        connection = self._pool.acquire()
        try:
            try:
                connection.execute("BEGIN IMMEDIATE")
                change = Transaction(connection, self._verified(connection, seen))
                yield change
                after = change.finish()
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.rollback()
                raise
            self._advance(after)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            self._pool.release(connection)

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy the store, as of one moment, into an empty database."""
        with self._reading() as connection:
            self._verified(connection, self._snapshot)
            connection.backup(target)

    def truncate_log(self) -> bool:
        """Empty the write-ahead log, so that it holds no older content of a row.

        Returns:
            False if readers of other connections were still using it; the next call may succeed.
        """
        connection = self._pool.acquire()
        try:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return bool(busy == 0)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            self._pool.release(connection)

    def _use_write_ahead_log(self) -> None:
        """Where it is not in use yet: a backup is one file without a log."""
        connection = self._pool.acquire()
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            self._pool.release(connection)

    @contextlib.contextmanager
    def _reading(self) -> Generator[sqlite3.Connection, None, None]:
        connection = self._pool.acquire()
        try:
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                with contextlib.suppress(sqlite3.Error):
                    connection.rollback()
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            self._pool.release(connection)

    def _verified(self, connection: sqlite3.Connection, seen: Snapshot) -> Snapshot:
        """The snapshot of what the connection's transaction sees; ``seen`` was taken before that began."""
        latest = self._snapshot
        if latest is not seen and latest.is_of(read_store(connection)):
            return latest  # another thread checked it already
        after = verify(connection, self._root, seen)
        self._advance(after)
        return after

    def _advance(self, after: Snapshot) -> None:
        with self._publishing:
            if after.generation > self._snapshot.generation:
                self._snapshot = after


class Transaction:
    """Rows as they are inside one write."""

    def __init__(self, connection: sqlite3.Connection, before: Snapshot) -> None:
        self._connection = connection
        self._before = before
        self._tags = dict(before.tags)
        self._generation = before.generation + 1
        self._seals = before.seals
        self._header = before.header
        self._changed = False

    def get(self, name: str) -> Entry | None:
        """The row of that id, before this transaction."""
        columns = self._connection.execute(_ONE, (name,)).fetchone()
        if columns is None:
            self._before.check_absent(name)
            return None
        return self._before.open(columns, name)

    def versions(self, key: str) -> list[Entry]:
        """The rows of a key's versions, and of its sender key, before this transaction."""
        rows = self._connection.execute(_FAMILY, (key, SENDER_SUFFIX)).fetchall()
        self._before.all_there(rows, key)
        return [entry for entry in map(self._before.open, rows) if entry.id != key]

    def put(self, entry: Entry) -> None:
        """Write a row, new or in place of the one with its id."""
        sealed = self._seals.seal(self._generation, entry)
        self._connection.execute(_PUT, (entry.id, self._generation, entry.current, entry.meta, sealed))
        self._tags[entry.id] = tag_of(self._generation, sealed)
        self._changed = True

    @property
    def header(self) -> str:
        """The header as it is in this transaction."""
        return self._header

    def replace_slots(self, slots: tuple[Slot, ...]) -> None:
        """Change how the data secret is wrapped."""
        self._header = Header(Header.parse(self._header).keystore_id, slots).to_json()
        self._changed = True

    def reseal(self, data_secret: bytes) -> None:
        """Seal every row anew under another data secret."""
        rows = self._connection.execute(ALL_ENTRIES).fetchall()
        self._before.all_there(rows, None)
        entries = [self._before.open(columns) for columns in rows]
        self._seals = Seals(data_secret, Header.parse(self._header).keystore_id)
        for entry in entries:
            self.put(entry)

    def finish(self) -> Snapshot:
        """Write the new generation and MAC, if anything changed."""
        if not self._changed:
            return self._before
        mac = self._seals.store_mac(self._header, self._generation, self._tags)
        self._connection.execute(
            "UPDATE store SET header = ?, generation = ?, mac = ? WHERE id = 1",
            (self._header, self._generation, mac),
        )
        return Snapshot(self._header, self._generation, mac, self._tags, self._seals)


def verify(connection: sqlite3.Connection, root: RootSecret, seen: Snapshot | None) -> Snapshot:
    """Check the whole store against its MAC, unless it is still at the generation of ``seen``.

    Raises:
        KeystoreError: edited, older than ``seen``, or the root secret is another.
    """
    if seen is None:
        check_schema(connection)
    header, generation, mac = read_store(connection)
    if seen is not None:
        if seen.is_of((header, generation, mac)):
            return seen
        if generation <= seen.generation:
            raise KeystoreError(
                f"the keystore was rolled back or edited: this process saw generation {seen.generation}, "
                f"now it is {generation}; if a backup was restored on purpose, connect again"
            )
        check_schema(connection)
    tags = read_tags(connection)
    parsed = Header.parse(header)
    if seen is None:
        seals = Seals(parsed.data_secret(root), parsed.keystore_id)
    else:
        seals = seen.seals
        if parsed.keystore_id != Header.parse(seen.header).keystore_id:
            raise KeystoreError("another keystore was put in this one's place; connect again")
    authentic = hmac.compare_digest(seals.store_mac(header, generation, tags), mac)
    if not authentic and seen is not None and header != seen.header:
        # The data secret may have been replaced since (rekey).
        seals = Seals(parsed.data_secret(root), parsed.keystore_id)
        authentic = hmac.compare_digest(seals.store_mac(header, generation, tags), mac)
    if not authentic:
        raise edited("rows were added, removed, put back or changed")
    return Snapshot(header, generation, mac, tags, seals)


def read_store(connection: sqlite3.Connection) -> tuple[str, int, bytes]:
    """The header, generation and MAC, unverified but of the right types."""
    row = connection.execute("SELECT header, generation, mac FROM store WHERE id = 1").fetchone()
    if row is None:
        raise edited("its header is missing")
    header, generation, mac = row
    if not (type(header) is str and type(generation) is int and type(mac) is bytes):
        raise edited("its header is not readable")
    if not 0 < generation < _MAX_GENERATION:
        raise edited("its generation is out of range")
    return header, generation, mac


def read_tags(connection: sqlite3.Connection) -> dict[str, bytes]:
    """What the store's MAC covers of every row, by id."""
    tags: dict[str, bytes] = {}
    for name, generation, sealed in connection.execute("SELECT id, generation, sealed FROM entries"):
        if type(name) is not str:
            raise edited("a row has columns of the wrong type")
        tags[name] = tag_of(generation, sealed)
    return tags


def check_schema(connection: sqlite3.Connection) -> None:
    """Raises KeystoreError unless the file holds our tables and nothing else: no trigger, no view."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    found = connection.execute("SELECT name, sql FROM sqlite_schema").fetchall()
    if not found:
        raise KeystoreError(
            "the file holds no keystore, not even an empty one; name the right file, or restore a backup"
        )
    if version > SCHEMA_VERSION:
        raise KeystoreError(f"the keystore has schema {version}, made by a later release; update anykms")
    if version != SCHEMA_VERSION or dict(found) != _TABLES or len(found) != len(_TABLES):
        raise edited("its tables are not the ones that anykms makes")


def check_file(path: Path) -> None:
    """Raises KeystoreError or PermissionError unless ``path`` is a file that we can use."""
    # It is not opened here: closing it again would drop the locks of SQLite in this process.
    if not os.path.lexists(path):
        raise KeystoreError(
            f"there is no keystore at {str(path)!r}; make one with create=True or: anykms store init"
        )
    if not path.is_file():
        raise KeystoreError(f"{str(path)!r} is not a regular file, so it is no keystore")
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, "the keystore cannot be read and written", str(path))


def create(path: Path, root: RootSecret) -> None:
    """Make an empty store at ``path``, mode 0600, complete or not at all.

    Raises:
        FileExistsError: ``path`` exists.
    """
    keystore_id = base64.b32encode(secrets.token_bytes(16)).decode().lower().rstrip("=")
    data_secret = secrets.token_bytes(SECRET_SIZE)
    header = Header(keystore_id, (new_slot(root, data_secret),)).to_json()
    mac = Seals(data_secret, keystore_id).store_mac(header, 1, {})
    with unfinished_database(path) as unfinished:
        connection = connect(unfinished, 0)
        try:
            connection.execute("BEGIN")
            for statement in _TABLES.values():
                connection.execute(statement)
            connection.execute("INSERT INTO store VALUES (1, ?, 1, ?)", (header, mac))
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            raise translated(error, path) from error
        finally:
            connection.close()
        sync_file(unfinished)
        publish(unfinished, path)


def new_slot(root: RootSecret, data_secret: bytes) -> Slot:
    """The data secret wrapped, once the root has shown that it can unwrap it again."""
    wrapped = bytes(root.wrap(data_secret))
    try:
        same = hmac.compare_digest(bytes(root.unwrap(wrapped)), data_secret)
    except KeystoreError as error:
        raise InvalidArgumentError(
            "the root secret does not open what it just wrapped (passphrases that differ?); nothing was made"
        ) from error
    if not same:
        raise InvalidArgumentError("the root secret does not give back what it wrapped; nothing was made")
    return Slot(kind_of(root), wrapped)


@contextlib.contextmanager
def unfinished_database(path: Path) -> Generator[Path, None, None]:
    """An empty file of mode 0600 beside ``path`` to build a database in; gone afterwards unless published."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        yield unfinished
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Make the content of a file durable. No database may be open on it: closing it drops SQLite's locks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def creation_lock(path: Path) -> Generator[None, None, None]:
    """Let one process at a time make files beside ``path``."""
    descriptor = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def edited(what: str) -> KeystoreError:
    """The error of a store that is not as it was written."""
    return KeystoreError(
        f"the keystore is damaged or was edited: {what}; restore it from a backup (anykms store restore)"
    )


def translated(error: sqlite3.Error, path: Path) -> KMSError:
    """What an SQLite error means to a caller (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", None)
    where = repr(str(path))
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return UnavailableError(f"the keystore {where} is locked by another process; try again")
        case sqlite3.SQLITE_FULL:
            return UnavailableError(f"the disk of the keystore {where} is full; nothing was written")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_INTERRUPT:
            return UnavailableError(f"the keystore {where} could not be read or written: {error}")
        case sqlite3.SQLITE_READONLY if _is_writable(path):
            return edited(f"{where} claims to be read-only")
        case sqlite3.SQLITE_CANTOPEN if _is_writable(path):
            return UnavailableError(f"the keystore {where} could not be opened; too many open files?")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            return PermissionDeniedError(
                f"the keystore {where} cannot be opened for writing; check the rights on it and its directory"
            )
        case _:
            return edited(f"{where} is not a readable database")


def _is_writable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK) and os.access(path.absolute().parent, os.W_OK | os.X_OK)
