"""init, check, backup, restore and rekey of a local keystore."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    ConflictError,
    InvalidArgumentError,
    KeyDestroyedError,
    KeystoreError,
    UnavailableError,
)
from anykms.keys import ConnectionURI, KeyConf, KeyInfo, KeyState
from anykms.provider import WrapContext
from anykms_local import (
    FileRoot,
    LocalProvider,
    PassphraseRoot,
    backup_store,
    check_store,
    init_store,
    keystore,
    maintenance,
    rekey_store,
    restore_store,
)

CONTEXT = WrapContext({}, b"b" * 32)
DATA_KEY = bytes(range(32))
PASSPHRASE = "four random words here"  # noqa: S105 (protects nothing)


@pytest.fixture
def uri(tmp_path: Path) -> ConnectionURI:
    return ConnectionURI.parse(f"local://{tmp_path}/keys.db?busy-timeout=0.05")


@pytest.fixture
def provider(uri: ConnectionURI) -> Iterator[LocalProvider]:
    with closing(LocalProvider.connect(uri, create=True)) as made:
        yield made


def make(provider: LocalProvider, name: str, **conf: str) -> KeyInfo:
    return provider.create_key(KeyConf(name, KeyPurpose.ENCRYPT_DECRYPT, **conf).template(Algorithm.A256GCM))  # type: ignore[arg-type]


def edit(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def files(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm")))


# init


def test_init_makes_an_empty_store_once(uri: ConnectionURI, tmp_path: Path) -> None:
    report = init_store(uri)
    assert (report.generation, report.root, report.keys, report.problems) == (1, "file", 0, ())
    assert files(tmp_path) == ["keys.db", "keys.db.root"]
    root = (tmp_path / "keys.db.root").read_bytes()
    with pytest.raises(FileExistsError):
        init_store(uri)
    assert check_store(uri) == report
    assert (tmp_path / "keys.db.root").read_bytes() == root


def test_init_that_fails_leaves_nothing(
    uri: ConnectionURI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_sync(descriptor: int) -> None:
        raise OSError(5, "no disk")

    monkeypatch.setattr(os, "fsync", no_sync)
    with pytest.raises(OSError, match="no disk"):
        init_store(uri)
    assert files(tmp_path) == []


# check


def test_check_counts(provider: LocalProvider, uri: ConnectionURI) -> None:
    make(provider, "orders")
    provider.rotate_key(provider.get_key("orders"))
    make(provider, "vault", algorithm="RSA-OAEP-256")
    report = check_store(uri)
    assert (report.keys, report.versions, report.destroyed, report.problems) == (2, 4, 0, ())
    assert provider.get_key("orders").uri.resource == f"{report.keystore_id}/orders"
    assert len(report.keystore_id) == 26
    make(provider, "later")
    assert check_store(uri).generation == report.generation + 1


def test_check_names_what_is_wrong(provider: LocalProvider, uri: ConnectionURI) -> None:
    make(provider, "orders")
    make(provider, "others")
    edit(Path(uri.address), "UPDATE entries SET sealed = zeroblob(60) WHERE id = 'orders/1'")
    problems = check_store(uri).problems
    assert any("'orders/1'" in problem for problem in problems)
    assert any("MAC" in problem for problem in problems)
    assert not any("others" in problem for problem in problems)


def test_check_of_a_missing_store(uri: ConnectionURI) -> None:
    with pytest.raises(KeystoreError, match="anykms store init"):
        check_store(uri)


# backup and restore


def test_a_backup_is_one_private_file_without_the_root_secret(
    provider: LocalProvider, uri: ConnectionURI, tmp_path: Path
) -> None:
    info = make(provider, "orders")
    wrapped = provider.wrap(info, DATA_KEY, CONTEXT)
    backup = tmp_path / "elsewhere" / "backup"
    backup.parent.mkdir()
    report = backup_store(uri, backup)
    assert report == check_store(uri)
    assert [file.name for file in backup.parent.iterdir()] == ["backup"]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert (tmp_path / "keys.db.root").read_bytes() not in backup.read_bytes()
    with pytest.raises(FileExistsError):
        backup_store(uri, backup)
    copy = ConnectionURI.parse(f"local://{backup}?root=file:{tmp_path}/keys.db.root")
    with closing(LocalProvider.connect(copy)) as other:
        assert other.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY


def test_an_edited_store_is_not_backed_up(
    provider: LocalProvider, uri: ConnectionURI, tmp_path: Path
) -> None:
    make(provider, "orders")
    edit(Path(uri.address), "UPDATE entries SET current = 2")
    with pytest.raises(KeystoreError):
        backup_store(uri, tmp_path / "backup")
    assert files(tmp_path) == ["keys.db", "keys.db.root"]


def test_restore_into_an_empty_place(provider: LocalProvider, uri: ConnectionURI, tmp_path: Path) -> None:
    info = make(provider, "orders")
    wrapped = provider.wrap(info, DATA_KEY, CONTEXT)
    backup_store(uri, tmp_path / "backup")
    provider.close()
    Path(uri.address).unlink()
    report = restore_store(uri, tmp_path / "backup")
    assert (report.store.keys, report.replaced_generation, report.set_aside) == (1, None, None)
    assert "rolled back" in report.warning
    assert stat.S_IMODE(Path(uri.address).stat().st_mode) == 0o600
    with closing(LocalProvider.connect(uri)) as other:
        assert other.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY
        other.rotate_key(info)
    assert check_store(uri).problems == ()


def test_restore_over_a_store_needs_force_and_says_what_it_does(
    provider: LocalProvider, uri: ConnectionURI, tmp_path: Path
) -> None:
    info = make(provider, "orders")
    backup = backup_store(uri, tmp_path / "backup")
    provider.set_enabled(info, False)
    later = make(provider, "later")
    now = check_store(uri)
    with pytest.raises(FileExistsError, match="force"):
        restore_store(uri, tmp_path / "backup")
    assert check_store(uri) == now
    report = restore_store(uri, tmp_path / "backup", force=True)
    assert (report.backup_generation, report.replaced_generation) == (backup.generation, now.generation)
    assert report.store.generation == now.generation + 1
    assert str(now.generation) in report.warning
    # A process that has it open goes on with the restored keys.
    assert provider.describe_key(info).state is KeyState.ENABLED
    with pytest.raises(KeyDestroyedError):
        provider.describe_key(later)
    assert files(tmp_path) == ["backup", "keys.db", "keys.db.root"]


@pytest.mark.parametrize("damage", [b"", b"garbage", b"SQLite format 3\0" + bytes(4080)])
def test_restore_moves_an_unreadable_store_aside(
    provider: LocalProvider, uri: ConnectionURI, tmp_path: Path, damage: bytes
) -> None:
    info = make(provider, "orders")
    backup_store(uri, tmp_path / "backup")
    provider.close()
    Path(uri.address).write_bytes(damage)
    report = restore_store(uri, tmp_path / "backup", force=True)
    assert report.set_aside is not None
    assert report.set_aside.read_bytes() == damage
    assert str(report.set_aside) in report.warning
    with closing(LocalProvider.connect(uri)) as other:
        assert other.get_key("orders") == info


def test_restore_moves_an_edited_store_aside(
    provider: LocalProvider, uri: ConnectionURI, tmp_path: Path
) -> None:
    make(provider, "orders")
    backup_store(uri, tmp_path / "backup")
    provider.close()
    edit(Path(uri.address), "CREATE TRIGGER t AFTER DELETE ON entries BEGIN SELECT 1; END")
    assert restore_store(uri, tmp_path / "backup", force=True).set_aside is not None
    assert check_store(uri).problems == ()


def test_a_bad_backup_changes_nothing(provider: LocalProvider, uri: ConnectionURI, tmp_path: Path) -> None:
    make(provider, "orders")
    backup = tmp_path / "backup"
    backup_store(uri, backup)
    provider.rotate_key(provider.get_key("orders"))
    now = check_store(uri)
    good = backup.read_bytes()
    edit(backup, "UPDATE entries SET meta = replace(meta, 'ENABLED', 'DISABLED')")
    with pytest.raises(KeystoreError, match="nothing was changed"):
        restore_store(uri, backup, force=True)
    for content in (good[:-4096], good[:1000], b"garbage", b""):
        backup.write_bytes(content)
        with pytest.raises(KeystoreError):
            restore_store(uri, backup, force=True)
    with pytest.raises(FileNotFoundError):
        restore_store(uri, tmp_path / "none", force=True)
    assert check_store(uri) == now
    assert files(tmp_path) == ["backup", "keys.db", "keys.db.root"]


def test_a_backup_under_another_root_changes_nothing(
    provider: LocalProvider, uri: ConnectionURI, tmp_path: Path
) -> None:
    make(provider, "orders")
    backup_store(uri, tmp_path / "backup")
    rekey_store(uri, new_root="file")
    now = check_store(uri)
    with pytest.raises(KeystoreError, match="root secret"):
        restore_store(uri, tmp_path / "backup", force=True)
    assert check_store(uri) == now


def test_restore_waits_for_no_writer(provider: LocalProvider, uri: ConnectionURI, tmp_path: Path) -> None:
    backup_store(uri, tmp_path / "backup")
    with closing(sqlite3.connect(uri.address, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="locked"):
            restore_store(uri, tmp_path / "backup", force=True)
    assert files(tmp_path) == ["backup", "keys.db", "keys.db.root"]


# rekey


def test_a_fresh_root_file_takes_the_place_of_the_old(
    provider: LocalProvider, uri: ConnectionURI, tmp_path: Path
) -> None:
    info = make(provider, "orders")
    root = tmp_path / "keys.db.root"
    old = root.read_bytes()
    assert rekey_store(uri, new_root="file").problems == ()
    assert root.read_bytes() != old
    assert stat.S_IMODE(root.stat().st_mode) == 0o600
    assert files(tmp_path) == ["keys.db", "keys.db.root"]
    assert provider.get_key("orders") == info
    with closing(LocalProvider.connect(uri)) as other:
        assert other.get_key("orders") == info
    root.write_bytes(old)
    with pytest.raises(KeystoreError):
        LocalProvider.connect(uri)


def test_a_root_file_elsewhere(provider: LocalProvider, uri: ConnectionURI, tmp_path: Path) -> None:
    make(provider, "orders")
    old = (tmp_path / "keys.db.root").read_bytes()
    other = tmp_path / "other.root"
    rekey_store(uri, new_root=f"file:{other}")
    assert (tmp_path / "keys.db.root").read_bytes() == old
    with pytest.raises(KeystoreError):
        LocalProvider.connect(uri)
    there = ConnectionURI.parse(f"local://{uri.address}?root=file:{other}")
    assert check_store(there).keys == 1
    with pytest.raises(FileExistsError):
        rekey_store(there, new_root=f"file:{tmp_path}/keys.db.root")
    assert check_store(there).problems == ()


def test_from_a_file_to_a_passphrase_and_back(
    provider: LocalProvider, uri: ConnectionURI, tmp_path: Path
) -> None:
    info = make(provider, "orders")
    wrapped = provider.wrap(info, DATA_KEY, CONTEXT)

    def passphrase() -> str:
        return PASSPHRASE

    assert rekey_store(uri, new_root="passphrase", new_passphrase=passphrase).root == "passphrase"
    with pytest.raises(KeystoreError, match="passphrase"):
        LocalProvider.connect(uri)
    with closing(LocalProvider.connect(uri, passphrase=passphrase)) as other:
        assert other.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY
    (tmp_path / "keys.db.root").unlink()
    with pytest.raises(InvalidArgumentError, match="at least 12"):
        rekey_store(uri, passphrase=passphrase, new_root="passphrase", new_passphrase=lambda: "short")
    assert rekey_store(uri, passphrase=passphrase, new_root="file", rotate_data_secret=True).root == "file"
    with closing(LocalProvider.connect(uri)) as other:
        assert other.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY


def test_to_a_root_object(provider: LocalProvider, uri: ConnectionURI, tmp_path: Path) -> None:
    make(provider, "orders")
    FileRoot(tmp_path / "x").create()

    class Wrapper:
        """Any object with the two methods; here over a file elsewhere."""

        def wrap(self, secret: bytes) -> bytes:
            return FileRoot(tmp_path / "x").wrap(secret)

        def unwrap(self, wrapped: bytes) -> bytes:
            return FileRoot(tmp_path / "x").unwrap(wrapped)

    assert rekey_store(uri, new_root=Wrapper()).root == "external"
    assert check_store(uri, root=Wrapper()).keys == 1


def test_a_rotated_data_secret_seals_every_row_anew(provider: LocalProvider, uri: ConnectionURI) -> None:
    info = make(provider, "orders")
    wrapped = provider.wrap(info, DATA_KEY, CONTEXT)
    make(provider, "vault", algorithm="RSA-OAEP-256")

    def sealed() -> set[bytes]:
        with closing(sqlite3.connect(uri.address)) as connection:
            return {row[0] for row in connection.execute("SELECT sealed FROM entries")}

    before = sealed()
    rekey_store(uri, rotate_data_secret=True)
    assert len(sealed()) == len(before)
    assert not sealed() & before
    # The open provider finds the new secret by itself.
    assert provider.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY
    assert provider.rotate_key(info).current_version == "2"


def test_rekey_needs_something_to_do(provider: LocalProvider, uri: ConnectionURI) -> None:
    with pytest.raises(InvalidArgumentError, match="nothing to change"):
        rekey_store(uri)
    with pytest.raises(InvalidArgumentError):
        rekey_store(uri, new_root="env:SECRET")
    with pytest.raises(InvalidArgumentError):
        rekey_store(uri, new_root="file", new_passphrase=lambda: PASSPHRASE)
    with pytest.raises(InvalidArgumentError):
        rekey_store(uri, rotate_data_secret=True, new_passphrase=lambda: PASSPHRASE)


def interrupted_at(name: str, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the ``call``-th call of a step of rekey fail."""
    real: Callable[..., object] = getattr(maintenance, name)
    calls = 0

    def failing(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(maintenance, name, failing)


@pytest.mark.parametrize(
    ("step", "call", "both"), [("_rewrap", 1, False), ("publish", 1, True), ("_rewrap", 2, True)]
)
@pytest.mark.parametrize("rotate", [False, True])
def test_a_rekey_interrupted_anywhere_leaves_a_store_that_opens(
    provider: LocalProvider,
    uri: ConnectionURI,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: int,
    both: bool,
    rotate: bool,
) -> None:
    info = make(provider, "orders")
    wrapped = provider.wrap(info, DATA_KEY, CONTEXT)
    with monkeypatch.context() as patch:
        interrupted_at(step, patch, call)
        with pytest.raises(KeyboardInterrupt):
            rekey_store(uri, new_root="file", rotate_data_secret=rotate)
    with closing(LocalProvider.connect(uri)) as other:
        assert other.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY
    problems = check_store(uri).problems
    assert (problems != ()) == both
    assert all("run rekey again" in problem for problem in problems)
    assert rekey_store(uri, new_root="file").problems == ()
    assert provider.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY


def test_a_rekey_notices_another_one(
    provider: LocalProvider, uri: ConnectionURI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make(provider, "orders")
    real = PassphraseRoot.wrap

    def wrap(self: PassphraseRoot, secret: bytes) -> bytes:
        store = provider._store  # pyright: ignore[reportPrivateUsage] (another process, at the worst moment)
        with store.transaction() as change:
            change.replace_slots(
                (keystore.Slot("file", FileRoot(tmp_path / "keys.db.root").wrap(bytes(32))),)
            )
        return real(self, secret)

    monkeypatch.setattr(PassphraseRoot, "wrap", wrap)
    with pytest.raises(ConflictError):
        rekey_store(uri, new_root="passphrase", new_passphrase=lambda: PASSPHRASE)


# Destruction


def test_check_counts_tombstones(uri: ConnectionURI) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    with closing(LocalProvider.connect(uri, create=True, clock=lambda: now)) as provider:
        provider.schedule_destruction(make(provider, "vault", algorithm="RSA-OAEP-256"))
        make(provider, "orders")
        now += timedelta(days=30)
        assert [info.name for info in provider.list_keys()] == ["orders"]
    report = check_store(uri)
    assert (report.keys, report.versions, report.destroyed, report.problems) == (1, 1, 1, ())
