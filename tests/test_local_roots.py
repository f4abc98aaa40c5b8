"""Opening a local keystore: root secrets, options, and files that are missing, locked or full."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import InvalidArgumentError, KeystoreError, PermissionDeniedError, UnavailableError
from anykms.keys import ConnectionURI, KeyConf
from anykms.provider import RootSecret, WrapContext
from anykms_local import FileRoot, LocalProvider, PassphraseRoot, check_store, keystore

PASSPHRASE = "four random words here"  # noqa: S105 (protects nothing)
CONTEXT = WrapContext({}, b"b" * 32)
DATA_KEY = bytes(32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


def uri(path: Path, options: str = "") -> ConnectionURI:
    return ConnectionURI.parse(f"local://{path}{options}")


def made(path: Path, options: str = "", passphrase: Callable[[], str] | None = None) -> Path:
    """A store with one key."""
    with closing(LocalProvider.connect(uri(path, options), create=True, passphrase=passphrase)) as provider:
        provider.create_key(KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT).template(Algorithm.A256GCM))
    return path


def opens(path: Path, options: str = "", passphrase: Callable[[], str] | None = None) -> bool:
    with closing(LocalProvider.connect(uri(path, options), passphrase=passphrase)) as provider:
        return provider.get_key("orders").name == "orders"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Root files


def test_create_makes_private_files_and_nothing_else(path: Path) -> None:
    before = os.umask(0)
    try:
        made(path)
    finally:
        os.umask(before)
    root = path.with_name("keys.db.root")
    assert sorted(path.parent.iterdir()) == [path, root]
    assert (mode(path), mode(root), len(root.read_bytes())) == (0o600, 0o600, 32)
    assert opens(path)


def test_create_opens_what_exists(path: Path) -> None:
    made(path)
    with closing(LocalProvider.connect(uri(path), create=True)) as provider:
        assert provider.get_key("orders").name == "orders"


def test_without_create_a_missing_store_is_an_error_with_the_next_step(path: Path) -> None:
    with pytest.raises(KeystoreError, match="create=True or: anykms store init"):
        LocalProvider.connect(uri(path))
    assert list(path.parent.iterdir()) == []


def test_a_store_does_not_open_without_its_root_file(path: Path) -> None:
    made(path).with_name("keys.db.root").unlink()
    for create in (False, True):
        with pytest.raises(KeystoreError, match="missing"):
            LocalProvider.connect(uri(path), create=create)
    assert not path.with_name("keys.db.root").exists()


@pytest.mark.parametrize("permissions", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666, 0o777])
def test_a_root_file_open_to_others_is_refused(path: Path, permissions: int) -> None:
    made(path).with_name("keys.db.root").chmod(permissions)
    with pytest.raises(KeystoreError, match="chmod 600"):
        opens(path)


def test_a_root_file_may_be_read_only(path: Path) -> None:
    made(path).with_name("keys.db.root").chmod(0o400)
    assert opens(path)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 100_000])
def test_a_root_file_has_exactly_32_bytes(path: Path, size: int) -> None:
    root = made(path).with_name("keys.db.root")
    root.write_bytes((root.read_bytes() * 4000)[:size])
    with pytest.raises(KeystoreError, match="exactly 32 bytes"):
        opens(path)


def test_every_bit_of_the_root_file_matters(path: Path) -> None:
    root = made(path).with_name("keys.db.root")
    secret = root.read_bytes()
    for bit in range(256):
        flipped = bytearray(secret)
        flipped[bit // 8] ^= 1 << bit % 8
        root.write_bytes(flipped)
        with pytest.raises(KeystoreError, match="root secret does not open"):
            opens(path)
    root.write_bytes(secret)
    assert opens(path)


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_a_root_that_is_no_regular_file_is_refused(path: Path, kind: str) -> None:
    root = made(path).with_name("keys.db.root")
    root.unlink()
    match kind:
        case "directory":
            root.mkdir(0o700)
        case "fifo":
            os.mkfifo(root, 0o600)
        case _:
            root.symlink_to("/dev/zero")
    with pytest.raises(KeystoreError, match="not a regular file"):
        opens(path)


def test_a_root_file_elsewhere(path: Path, tmp_path: Path) -> None:
    (tmp_path / "safe").mkdir()
    options = f"?root=file:{tmp_path}/safe/root"
    made(path, options)
    assert not path.with_name("keys.db.root").exists()
    assert opens(path, options)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "safe" / "root")  # as secret stores mount them
    assert opens(path, f"?root=file:{link}")


def test_an_existing_root_file_is_used_and_not_replaced(path: Path) -> None:
    root = path.with_name("keys.db.root")
    root.write_bytes(bytes(range(32)))
    root.chmod(0o600)
    made(path)
    assert root.read_bytes() == bytes(range(32))
    root.chmod(0o644)
    other = path.with_name("keys2.db")
    with pytest.raises(KeystoreError, match="chmod 600"):
        made(other, f"?root=file:{root}")
    assert not other.exists()


# Passphrases


def test_a_passphrase_opens_its_store_and_no_other_does(path: Path) -> None:
    made(path, "?root=passphrase", lambda: PASSPHRASE)
    assert sorted(path.parent.iterdir()) == [path]
    assert opens(path, "?root=passphrase", lambda: PASSPHRASE)
    assert opens(path, "", lambda: PASSPHRASE)
    for wrong in (PASSPHRASE + " ", PASSPHRASE.upper(), "x"):
        with pytest.raises(KeystoreError, match="root secret does not open"):
            opens(path, "?root=passphrase", partial(str, wrong))
    with pytest.raises(InvalidArgumentError, match="empty"):
        opens(path, "?root=passphrase", lambda: "")
    FileRoot(path.with_name("keys.db.root")).create()
    with pytest.raises(KeystoreError, match="another kind: 'passphrase'"):
        opens(path)


@pytest.mark.parametrize("passphrase", ["short", "eleven char"])
def test_a_new_passphrase_is_long_enough(path: Path, passphrase: str) -> None:
    with pytest.raises(InvalidArgumentError, match="at least 12"):
        made(path, "?root=passphrase", lambda: passphrase)
    assert list(path.parent.iterdir()) == []


def test_a_new_passphrase_is_asked_for_twice(path: Path) -> None:
    answers = iter([PASSPHRASE, PASSPHRASE + "!"])
    with pytest.raises(InvalidArgumentError, match="nothing was made"):
        LocalProvider.connect(uri(path, "?root=passphrase"), create=True, passphrase=lambda: next(answers))
    assert list(path.parent.iterdir()) == []


def test_a_passphrase_file(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    options = f"?root=passphrase&passphrase-file={file}"
    made(path, options)
    assert opens(path, options)
    assert opens(path, f"?passphrase-file={file}")
    assert opens(path, "?root=passphrase", lambda: PASSPHRASE)
    file.chmod(0o644)
    with pytest.raises(KeystoreError, match="chmod 600"):
        opens(path, options)
    file.chmod(0o600)
    file.write_bytes(b"x" * 5000)
    with pytest.raises(KeystoreError, match="more than 4096"):
        opens(path, options)


def read(terminal: int) -> bytes:
    """What a terminal shows next; nothing once nobody has it open any more."""
    try:
        return os.read(terminal, 1024)
    except OSError:
        return b""


def test_the_terminal_is_asked_although_standard_input_is_none(path: Path) -> None:
    """Data may come through standard input while the passphrase comes from the terminal, as getpass does it."""
    program = (
        "import fcntl, sys, termios\n"
        "fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)\n"
        "import anykms\n"
        "with anykms.connect(sys.argv[2], create=True) as client:\n"
        "    client.generate_key(anykms.KeyConf('orders', 'ENCRYPT_DECRYPT'))\n"
    )
    ours, theirs = os.openpty()
    try:
        child = subprocess.Popen(  # noqa: S603 # our own program
            [sys.executable, "-c", program, str(theirs), str(uri(path, "?root=passphrase"))],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[theirs],
        )
        os.close(theirs)
        shown = b""
        answered = 0
        while piece := read(ours):
            shown += piece
            while answered < shown.count(b"Passphrase"):
                os.write(ours, PASSPHRASE.encode() + b"\n")
                answered += 1
        assert child.wait(60) == 0
        assert answered
        # What was typed was not echoed.
        assert PASSPHRASE.encode() not in shown
    finally:
        os.close(ours)
    assert opens(path, "?root=passphrase", lambda: PASSPHRASE)


def test_the_terminal_is_asked_where_there_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anykms_local.root._has_terminal", lambda: False)
    with pytest.raises(InvalidArgumentError, match="no terminal"):
        LocalProvider.connect(uri(path, "?root=passphrase"), create=True)
    monkeypatch.setattr("anykms_local.root._has_terminal", lambda: True)
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return PASSPHRASE

    monkeypatch.setattr("getpass.getpass", answer)
    made(path, "?root=passphrase")
    assert asked
    assert PASSPHRASE not in "".join(asked)


def test_argon2_parameters_are_authenticated_and_bounded() -> None:
    root = PassphraseRoot(lambda: PASSPHRASE)
    wrapped = root.wrap(DATA_KEY)
    assert wrapped[:9] == bytes.fromhex("00010000 00000003 04")  # RFC 9106, 4: 64 MiB, 3 passes, 4 lanes
    assert root.unwrap(wrapped) == DATA_KEY
    for at in (0, 3, 4, 7, 8, 9, 24, 30, 84):
        flipped = bytearray(wrapped)
        flipped[at] ^= 0x40
        with pytest.raises(KeystoreError):
            root.unwrap(bytes(flipped))
    for other in (b"", wrapped[:-1], wrapped + b"\0", wrapped[:25]):
        with pytest.raises(KeystoreError):
            root.unwrap(other)


# Other roots


class XorRoot:
    """A stand-in for a key of another provider: no security, but exactly the protocol."""

    def __init__(self, key: int = 0x5A) -> None:
        self.key = key

    def wrap(self, secret: bytes) -> bytes:
        return bytes(byte ^ self.key for byte in secret)

    def unwrap(self, wrapped: bytes) -> bytes:
        return bytes(byte ^ self.key for byte in wrapped)


class Forgetful(XorRoot):
    def unwrap(self, wrapped: bytes) -> bytes:
        return bytes(32)


def test_any_root_secret_object_serves(path: Path) -> None:
    root = XorRoot()
    assert isinstance(root, RootSecret)
    LocalProvider.connect(uri(path), create=True, root=root).close()
    assert sorted(path.parent.iterdir()) == [path]
    LocalProvider.connect(uri(path), root=root).close()
    assert check_store(uri(path), root=root).root == "external"
    with pytest.raises(KeystoreError):
        LocalProvider.connect(uri(path), root=XorRoot(1))


def test_a_root_that_does_not_give_back_what_it_wrapped_makes_no_store(path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="nothing was made"):
        LocalProvider.connect(uri(path), create=True, root=Forgetful())
    assert list(path.parent.iterdir()) == []


# Options


@pytest.mark.parametrize(
    "options",
    [
        "?rot=file:x",
        "?root=",
        "?root=file",
        "?root=file:",
        "?root=env:SECRET",
        "?root=passphrase:secret",
        "?passphrase=secret",
        "?root=file:x&passphrase-file=y",
        "?busy-timeout=soon",
        "?busy-timeout=-1",
        "?busy-timeout=61",
        "?busy-timeout=nan",
    ],
)
def test_options_are_checked_before_any_file_is_touched(path: Path, options: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        LocalProvider.connect(uri(path, options), create=True)
    assert "secret" not in str(caught.value).replace("root secret", "")
    assert list(path.parent.iterdir()) == []


def test_unknown_options_are_answered_with_the_known_ones(path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="root, passphrase-file, busy-timeout"):
        LocalProvider.connect(uri(path, "?region=eu"))


def test_roots_that_exclude_each_other(path: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("?root=passphrase", {"root": XorRoot()}),
        ("?passphrase-file=x", {"root": XorRoot()}),
        ("", {"root": XorRoot(), "passphrase": lambda: PASSPHRASE}),
        ("?root=file:x", {"passphrase": lambda: PASSPHRASE}),
        ("?passphrase-file=x", {"passphrase": lambda: PASSPHRASE}),
    ]
    for options, arguments in cases:
        with pytest.raises(InvalidArgumentError):
            LocalProvider.connect(uri(path, options), create=True, **arguments)
    with pytest.raises(TypeError):
        LocalProvider.connect(uri(path), create=True, root=cast(RootSecret, b"secret"))
    assert list(path.parent.iterdir()) == []


def test_another_scheme_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        LocalProvider.connect(ConnectionURI.parse("awskms:///"))


# Files that cannot be used


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program that is in the middle of a write."""
    made(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_a_locked_store_is_unavailable_to_writers_and_open_to_readers(
    writer: sqlite3.Connection, path: Path
) -> None:
    with closing(LocalProvider.connect(uri(path, "?busy-timeout=0.05"))) as provider:
        info = provider.get_key("orders")
        assert provider.wrap(info, DATA_KEY, CONTEXT).version == "1"
        with pytest.raises(UnavailableError, match="locked") as caught:
            provider.rotate_key(info)
        assert caught.value.retryable
        writer.rollback()
        assert provider.rotate_key(info).current_version == "2"


def test_an_exclusively_locked_store_is_unavailable(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError, match="locked"):
            LocalProvider.connect(uri(path, "?busy-timeout=0.05"))
        with pytest.raises(UnavailableError, match="locked"):
            check_store(uri(path, "?busy-timeout=0.05"))
    assert opens(path)


def test_a_full_disk_writes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path)
    real = keystore.connect

    def small(path: Path, busy_timeout: float, *, mode: str = "rw") -> sqlite3.Connection:
        connection = real(path, busy_timeout, mode=mode)
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size for the limit
        return connection

    monkeypatch.setattr(keystore, "connect", small)
    with closing(LocalProvider.connect(uri(path))) as provider:
        held = ["orders"]

        def fill() -> None:
            for number in range(100):
                conf = KeyConf(f"key-{number}", KeyPurpose.ENCRYPT_DECRYPT)
                held.append(provider.create_key(conf.template(Algorithm.A256GCM)).name)

        with pytest.raises(UnavailableError, match="full; nothing was written"):
            fill()
        assert 1 < len(held) < 100
        assert sorted(info.name for info in provider.list_keys()) == sorted(held)
    with pytest.raises(UnavailableError, match="full; nothing was written"):
        made(path.with_name("new.db"))
    assert sorted(file.name for file in path.parent.iterdir()) == ["keys.db", "keys.db.root"]
    monkeypatch.undo()
    assert check_store(uri(path)).problems == ()


def test_a_directory_in_the_stores_place(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="not a regular file"):
        LocalProvider.connect(uri(tmp_path), create=True)


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LocalProvider.connect(uri(tmp_path / "no" / "keys.db"), create=True)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (sqlite3.SQLITE_BUSY, UnavailableError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, UnavailableError),
        (sqlite3.SQLITE_LOCKED, UnavailableError),
        (sqlite3.SQLITE_FULL, UnavailableError),
        (sqlite3.SQLITE_IOERR_FSYNC, UnavailableError),
        (sqlite3.SQLITE_NOMEM, UnavailableError),
        (sqlite3.SQLITE_READONLY, PermissionDeniedError),
        (sqlite3.SQLITE_CANTOPEN, PermissionDeniedError),
        (sqlite3.SQLITE_CORRUPT, KeystoreError),
        (sqlite3.SQLITE_NOTADB, KeystoreError),
        (None, KeystoreError),
    ],
)
def test_what_sqlite_says_and_what_we_say(code: int | None, error: type[Exception]) -> None:
    said = sqlite3.OperationalError("as SQLite puts it")
    if code is not None:
        said.sqlite_errorcode = code
    assert type(keystore.translated(said, Path("/nowhere/keys.db"))) is error
