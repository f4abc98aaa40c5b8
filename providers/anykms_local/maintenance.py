"""What an administrator does with a keystore file: init, check, backup, restore, rekey.

Each function takes the ``local:`` URI, ``root=`` and ``passphrase=`` as ``LocalProvider.connect`` does, and
raises the same errors; what it adds stands with it.
"""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anykms.algorithms import KeyType
from anykms.errors import ConflictError, InvalidArgumentError, KeystoreError, KMSError
from anykms.keys import ConnectionURI, KeyInfo, KeyState
from anykms.provider import DATA_KEY_SIZE, RootSecret
from anykms_local import keystore, material
from anykms_local.keystore import SENDER_SUFFIX, Entry, Header, Seals, Slot, Store
from anykms_local.records import Record, Version
from anykms_local.root import (
    SECRET_SIZE,
    FileRoot,
    Passphrase,
    default_root_file,
    kind_of,
    publish,
    root_from_options,
)

_OPTIONS: Final = ("root", "passphrase-file", "busy-timeout")
_BUSY_TIMEOUT: Final = 5.0
_MAX_BUSY_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """A connection URI, read. ``busy_timeout`` is in seconds."""

    path: Path
    root: RootSecret
    busy_timeout: float


def settings_of(
    uri: ConnectionURI, *, root: RootSecret | None = None, passphrase: Passphrase | None = None
) -> Settings:
    """Check every option of a ``local:`` URI, before any I/O."""
    if uri.scheme != "local":
        raise InvalidArgumentError(f"a local keystore has a local: URI, not {uri.scheme}:")
    for name in uri.options:
        if name not in _OPTIONS:
            raise InvalidArgumentError(
                f"unknown option {ascii(name)[:60]} of a local keystore; known are {', '.join(_OPTIONS)}"
            )
    path = Path(uri.address)
    if not path.name or "\0" in uri.address:
        raise InvalidArgumentError("the URI names no file; for example local:///var/lib/app/keys.db")
    given = uri.options.get("busy-timeout", str(_BUSY_TIMEOUT))
    try:
        busy_timeout = float(given)
    except ValueError:
        busy_timeout = -1.0
    if not 0 <= busy_timeout <= _MAX_BUSY_TIMEOUT:
        raise InvalidArgumentError(f"busy-timeout is seconds from 0 to {_MAX_BUSY_TIMEOUT:g}")
    return Settings(
        path, root_from_options(uri.options, path, root=root, passphrase=passphrase), busy_timeout
    )


def make_missing(settings: Settings) -> bool:
    """Make the store, and its root file, if there is no store; returns whether it was made."""
    if settings.path.exists():
        return False
    with keystore.creation_lock(settings.path):
        if settings.path.exists():
            return False
        root = settings.root
        made_root = isinstance(root, FileRoot) and root.create()
        try:
            keystore.create(settings.path, root)
        except BaseException:
            if made_root and isinstance(root, FileRoot):
                root.path.unlink(missing_ok=True)
            raise
    return True


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What a complete check of a store found.

    Attributes:
        keystore_id: 26 characters, as in key URIs.
        generation: grows by one with every write. Noted elsewhere, it shows a rollback of the whole file.
        root: the kind of root secret: file, passphrase or external.
        keys: those not destroyed.
        versions: versions of these keys, sender keys included.
        destroyed: tombstones.
        problems: everything that is not as it was written; empty for a sound store.
    """

    keystore_id: str
    generation: int
    root: str
    keys: int
    versions: int
    destroyed: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did.

    Attributes:
        store: the store as it is now.
        backup_generation: of the backup.
        replaced_generation: of the store that was there before; None if there was none, or none that could be
            verified.
        set_aside: where an unreadable store was moved to.
    """

    store: StoreReport
    backup_generation: int
    replaced_generation: int | None
    set_aside: Path | None

    @property
    def warning(self) -> str:
        """What to tell the administrator: a restore is a rollback."""
        text = (
            f"rolled back to generation {self.backup_generation}: keys, versions and states are those of the "
            "backup; a key destroyed, disabled or rotated since is back in its former state"
        )
        if self.replaced_generation is not None:
            text += f"; the replaced store was at generation {self.replaced_generation}"
        if self.set_aside is not None:
            text += f"; the unreadable store was moved to {self.set_aside}"
        return text


def init_store(
    uri: ConnectionURI, *, root: RootSecret | None = None, passphrase: Passphrase | None = None
) -> StoreReport:
    """Make an empty store, and its root file if that is its root secret and does not exist.

    Raises:
        FileExistsError: there is a file already.
    """
    settings = settings_of(uri, root=root, passphrase=passphrase)
    if not make_missing(settings):
        raise FileExistsError(errno.EEXIST, "there is a keystore already", str(settings.path))
    with closing(keystore.connect(settings.path, settings.busy_timeout)) as connection:
        header, generation, _ = keystore.read_store(connection)
    return StoreReport(Header.parse(header).keystore_id, generation, kind_of(settings.root), 0, 0, 0, ())


def check_store(
    uri: ConnectionURI, *, root: RootSecret | None = None, passphrase: Passphrase | None = None
) -> StoreReport:
    """Check every page, row, seal and key of a store; it changes nothing.

    Raises:
        KeystoreError: so damaged that nothing can be reported, or another root secret.
    """
    settings = settings_of(uri, root=root, passphrase=passphrase)
    keystore.check_file(settings.path)
    try:
        with closing(keystore.connect(settings.path, settings.busy_timeout)) as connection:
            connection.execute("BEGIN")
            header = Header.parse(keystore.read_store(connection)[0])
            return _examine(connection, header.data_secret(settings.root))
    except sqlite3.Error as error:
        raise keystore.translated(error, settings.path) from error


def backup_store(
    uri: ConnectionURI,
    target: Path,
    *,
    root: RootSecret | None = None,
    passphrase: Passphrase | None = None,
) -> StoreReport:
    """Copy the store, as of one moment, to a new file of mode 0600, while others read and write.

    The copy is checked before it gets its name. It opens under the same root secret, which is not copied:
    keep that elsewhere.

    Raises:
        FileExistsError: ``target`` exists.
    """
    settings = settings_of(uri, root=root, passphrase=passphrase)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "choose a new name for the backup", str(target))
    store = Store(settings.path, settings.root, settings.busy_timeout)
    try:
        with keystore.unfinished_database(target) as unfinished:
            with closing(keystore.connect(unfinished, 0)) as connection:
                store.copy_to(connection)
                connection.execute("PRAGMA journal_mode = DELETE")
                report = _report(connection, store.snapshot.seals)
            if report.problems:
                raise KeystoreError(f"the copy is not sound: {'; '.join(report.problems)}")
            keystore.sync_file(unfinished)
            publish(unfinished, target)
    except sqlite3.Error as error:
        raise keystore.translated(error, target) from error
    finally:
        store.close()
    return report


def restore_store(
    uri: ConnectionURI,
    backup: Path,
    *,
    force: bool = False,
    root: RootSecret | None = None,
    passphrase: Passphrase | None = None,
) -> RestoreReport:
    """Put a backup in the store's place, after checking that it is sound and opens under the root secret.

    This is a rollback: print ``RestoreReport.warning``. Processes that have the store open go on with the
    restored keys. The generation continues above both the backup's and the replaced store's.

    Args:
        force: replace a store that exists. An unreadable one is moved aside.

    Raises:
        KeystoreError: the backup is damaged, or made under another root secret; nothing was changed.
        FileExistsError: there is a store and ``force`` is False.
    """
    settings = settings_of(uri, root=root, passphrase=passphrase)
    path = settings.path
    if not backup.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such backup", str(backup))
    if os.path.lexists(path) and not force:
        raise FileExistsError(errno.EEXIST, "restoring would roll this keystore back; use force", str(path))
    with keystore.creation_lock(path), keystore.unfinished_database(path) as unfinished:
        try:
            with (
                closing(keystore.connect(backup, settings.busy_timeout, mode="ro")) as source,
                closing(keystore.connect(unfinished, 0)) as connection,
            ):
                source.execute("BEGIN")
                header, generation, _ = keystore.read_store(source)
                source.backup(connection)
                connection.execute("PRAGMA journal_mode = DELETE")
                data_secret = Header.parse(header).data_secret(settings.root)
                report = _examine(connection, data_secret)
        except sqlite3.Error as error:
            raise keystore.translated(error, backup) from error
        if report.problems:
            raise KeystoreError(f"the backup is not sound, nothing was changed: {'; '.join(report.problems)}")
        keystore.sync_file(unfinished)
        replaced, set_aside = None, None
        if os.path.lexists(path):
            try:
                replaced = _replace_content(settings, unfinished, Header.parse(header), data_secret)
            except KeystoreError:
                set_aside = _set_aside(path)
        if not os.path.lexists(path):
            publish(unfinished, path)
    with closing(keystore.connect(path, settings.busy_timeout)) as connection:
        report = _examine(connection, data_secret)
    return RestoreReport(report, generation, replaced, set_aside)


def rekey_store(
    uri: ConnectionURI,
    *,
    new_root: str | RootSecret | None = None,
    new_passphrase: Passphrase | None = None,
    rotate_data_secret: bool = False,
    root: RootSecret | None = None,
    passphrase: Passphrase | None = None,
) -> StoreReport:
    """Change the root secret, the data secret that it wraps, or both. Keys and versions stay as they are.

    Args:
        new_root: ``file:PATH`` or ``file`` (beside the store) for a fresh root file, which takes the place of
            the present one if it has that path; ``passphrase``; an object; or None to keep the present root.
        new_passphrase: gives the new passphrase, instead of the terminal.
        rotate_data_secret: also seal every row anew, so that who once saw the data secret learns no more.

    Raises:
        InvalidArgumentError: nothing to change, or arguments that exclude each other.
        FileExistsError: another file is at the new root file's path.
        ConflictError: the store was rekeyed by another process meanwhile.
    """
    settings = settings_of(uri, root=root, passphrase=passphrase)
    if new_root is None and not rotate_data_secret:
        raise InvalidArgumentError("nothing to change: give new_root, rotate_data_secret, or both")
    if new_root is None and new_passphrase is not None:
        raise InvalidArgumentError("new_passphrase needs new_root='passphrase' beside it")
    old = settings.root
    new = old if new_root is None else _new_root(settings.path, new_root, new_passphrase)
    with keystore.creation_lock(settings.path):
        store = Store(settings.path, old, settings.busy_timeout)
        try:
            header = store.snapshot.header
            present = Header.parse(header).data_secret(old)
            data_secret = secrets.token_bytes(SECRET_SIZE) if rotate_data_secret else present
            fresh = data_secret if rotate_data_secret else None
            if isinstance(new, FileRoot) and new is not old:
                _rekey_to_file(store, header, old, new, data_secret, fresh)
            else:
                _rewrap(store, header, (keystore.new_slot(new, data_secret),), fresh)
            store.truncate_log()
        finally:
            store.close()
    with closing(keystore.connect(settings.path, settings.busy_timeout)) as connection:
        return _examine(connection, data_secret)


def _new_root(path: Path, new_root: str | RootSecret, passphrase: Passphrase | None) -> RootSecret:
    if not isinstance(new_root, str):
        return root_from_options({}, path, root=new_root, passphrase=passphrase)
    spelt = f"file:{default_root_file(path)}" if new_root == "file" else new_root
    return root_from_options({"root": spelt}, path, root=None, passphrase=passphrase)


def _rekey_to_file(
    store: Store, header: str, old: RootSecret, new: FileRoot, data_secret: bytes, fresh: bytes | None
) -> None:
    """Two files cannot change at once, so for a moment both root secrets open the store."""
    in_place = isinstance(old, FileRoot) and os.path.realpath(old.path) == os.path.realpath(new.path)
    if not in_place and os.path.lexists(new.path):
        raise FileExistsError(errno.EEXIST, "choose a new name for the root file", str(new.path))
    unnamed = FileRoot(new.path.with_name(f".{new.path.name}.{secrets.token_hex(8)}"))
    unnamed.create()
    try:
        new_slot = keystore.new_slot(unnamed, data_secret)
        both = (keystore.new_slot(old, data_secret), new_slot)
        header = _rewrap(store, header, both, fresh)
        publish(unnamed.path, Path(os.path.realpath(new.path)), replace=in_place)
        _rewrap(store, header, (new_slot,), None)
    finally:
        unnamed.path.unlink(missing_ok=True)


def _rewrap(store: Store, header: str, slots: tuple[Slot, ...], fresh: bytes | None) -> str:
    with store.transaction() as change:
        if change.header != header:
            raise ConflictError("the keystore was rekeyed by another process meanwhile; look, then try again")
        change.replace_slots(slots)
        if fresh is not None:
            change.reseal(fresh)
        return change.header


def _replace_content(settings: Settings, restored: Path, header: Header, data_secret: bytes) -> int | None:
    """Put the rows of ``restored`` in the place of the store's, in one transaction."""
    seals = Seals(data_secret, header.keystore_id)
    with closing(keystore.connect(settings.path, settings.busy_timeout)) as connection:
        try:
            connection.execute("ATTACH DATABASE ? AS restored", (str(restored.absolute()),))
            connection.execute("BEGIN IMMEDIATE")
            keystore.check_schema(connection)
            before = keystore.read_store(connection)
            authentic = seals.store_mac(before[0], before[1], keystore.read_tags(connection)) == before[2]
            connection.execute("DELETE FROM main.entries")
            connection.execute("INSERT INTO main.entries SELECT * FROM restored.entries")
            (text, generation) = connection.execute(
                "SELECT header, generation FROM restored.store"
            ).fetchone()
            generation = max(generation, before[1] if authentic else 0) + 1
            mac = seals.store_mac(text, generation, keystore.read_tags(connection))
            connection.execute(
                "UPDATE main.store SET header = ?, generation = ?, mac = ? WHERE id = 1",
                (text, generation, mac),
            )
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise keystore.translated(error, settings.path) from error
    return before[1] if authentic else None


def _set_aside(path: Path) -> Path:
    """Move an unreadable store, with its log, out of the way."""
    aside = path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}")
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if os.path.lexists(part):
            os.replace(part, aside.with_name(aside.name + suffix))
    return aside


def _examine(connection: sqlite3.Connection, data_secret: bytes) -> StoreReport:
    header = Header.parse(keystore.read_store(connection)[0])
    return _report(connection, Seals(data_secret, header.keystore_id))


def _report(connection: sqlite3.Connection, seals: Seals) -> StoreReport:
    """Check the store in ``connection`` in every way there is."""
    problems: list[str] = []
    for (line,) in connection.execute("PRAGMA integrity_check(10)"):
        if line != "ok":
            problems.append(f"SQLite: {line}")
    text, generation, mac = keystore.read_store(connection)
    header = Header.parse(text)
    entries: dict[str, Entry] = {}
    try:
        keystore.check_schema(connection)
        if seals.store_mac(text, generation, keystore.read_tags(connection)) != mac:
            problems.append("the MAC over the whole store does not fit")
    except KeystoreError as error:
        problems.append(str(error))
    for columns in connection.execute(keystore.ALL_ENTRIES):
        try:
            entry = seals.open(columns)
            entries[entry.id] = entry
        except KeystoreError as error:
            problems.append(str(error))
    if len(header.slots) > 1:
        problems.append("an earlier rekey was interrupted, two root secrets open the store: run rekey again")
    records = {entry.id: Record.parse(entry.meta) for entry in entries.values() if entry.current is not None}
    versions = 0
    for name, record in records.items():
        gone = record.state is KeyState.DESTROYED
        sender = record.info.sender_key()
        numbered = [(f"{name}/{n}", record.info) for n in range(1, (entries[name].current or 0) + 1)]
        for row, info in numbered + ([(f"{name}{SENDER_SUFFIX}/1", sender)] if sender else []):
            held = entries.pop(row) if row in entries else None
            versions += not gone
            if held is None or not _fits(info, held, gone):
                problems.append(f"the material of {row} is missing or not of the key")
    problems += [f"the row {ascii(name)[:80]} belongs to no key" for name in entries.keys() - records.keys()]
    destroyed = sum(record.state is KeyState.DESTROYED for record in records.values())
    return StoreReport(
        keystore_id=header.keystore_id,
        generation=generation,
        root=[slot.kind for slot in header.slots][-1],
        keys=len(records) - destroyed,
        versions=versions,
        destroyed=destroyed,
        problems=tuple(problems),
    )


def _fits(info: KeyInfo, entry: Entry, gone: bool) -> bool:
    """Whether a version's row holds what its key says."""
    spki = Version.parse(entry.meta).spki
    spec = info.algorithm.spec
    if info.fingerprint is not None and (spki is None or material.fingerprint(spki) != info.fingerprint):
        return False
    if gone:
        return not entry.secret
    if spec.key_type is KeyType.OCT:
        return spki is None and len(entry.secret) == (spec.digest_size or DATA_KEY_SIZE)
    try:
        return material.public_key(entry.secret) == spki
    except (ValueError, TypeError, KMSError):
        return False
