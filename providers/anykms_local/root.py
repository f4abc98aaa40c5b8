"""Root secrets: what protects a local keystore's data secret. There is no built-in one."""

from __future__ import annotations

import getpass
import os
import secrets
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from anykms.errors import InvalidArgumentError, KeystoreError
from anykms.provider import RootSecret

SECRET_SIZE: Final = 32
MIN_PASSPHRASE: Final = 12
"""Characters of a new passphrase."""
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_MAX_PASSPHRASE_FILE: Final = 4096

Passphrase = Callable[[], str | bytes]
"""Gives the passphrase when asked, so that nobody holds it longer than needed."""


class FileRoot:
    """32 random bytes in a file that only its owner can read (mode 0600 or 0400).

    The file is read at each use and never kept in memory.
    """

    kind: Final = "file"

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrap(self, secret: bytes) -> bytes:
        """AES-256-GCM under a key derived from the file: nonce (12) || 32 bytes || tag (16)."""
        return _seal(_derived(read_private_file(self.path, exact=SECRET_SIZE)), secret, b"")

    def unwrap(self, wrapped: bytes) -> bytes:
        """Raises KeystoreError: another root file, or ``wrapped`` was altered."""
        return _open(_derived(read_private_file(self.path, exact=SECRET_SIZE)), wrapped, b"")

    def create(self) -> bool:
        """Make the file with fresh random bytes, mode 0600; False if it exists, which is left as it is."""
        if os.path.lexists(self.path):
            return False
        write_private_file(self.path, secrets.token_bytes(SECRET_SIZE))
        return True


class PassphraseRoot:
    """A key stretched from a passphrase by Argon2id, RFC 9106 section 4, second recommended option.

    Wrapped: memory (u32be KiB) || iterations (u32be) || lanes (u8) || salt (16) || nonce (12) || secret (32)
    || tag (16). The parameters travel with the wrap and are its associated data.
    """

    kind: Final = "passphrase"
    _PARAMETERS: Final = struct.Struct(">IIB16s")
    # Bounds on stored parameters: a forged store must not make us allocate or spin without limit.
    _MAX_MEMORY: Final = 2 * 1024 * 1024
    _MAX_ITERATIONS: Final = 16
    _MAX_LANES: Final = 16

    def __init__(self, passphrase: Passphrase) -> None:
        self._passphrase = passphrase

    def wrap(self, secret: bytes) -> bytes:
        """Raises InvalidArgumentError: the new passphrase is too short."""
        passphrase = self._read()
        if len(passphrase.decode(errors="replace")) < MIN_PASSPHRASE:
            raise InvalidArgumentError(
                f"a new passphrase has at least {MIN_PASSPHRASE} characters; several random words are best"
            )
        header = self._PARAMETERS.pack(64 * 1024, 3, 4, secrets.token_bytes(16))
        return header + _seal(self._stretch(passphrase, header), secret, header)

    def unwrap(self, wrapped: bytes) -> bytes:
        """Raises KeystoreError: another passphrase, or ``wrapped`` was altered."""
        header, sealed = wrapped[: self._PARAMETERS.size], wrapped[self._PARAMETERS.size :]
        if len(sealed) != _NONCE_SIZE + SECRET_SIZE + _TAG_SIZE:
            raise _wrong_root()
        return _open(self._stretch(self._read(), header), sealed, header)

    def _stretch(self, passphrase: bytes, header: bytes) -> bytes:
        memory, iterations, lanes, salt = self._PARAMETERS.unpack(header)
        if not (
            1 <= lanes <= self._MAX_LANES
            and 1 <= iterations <= self._MAX_ITERATIONS
            and 8 * lanes <= memory <= self._MAX_MEMORY
        ):
            raise _wrong_root()
        argon2 = Argon2id(
            salt=salt, length=SECRET_SIZE, iterations=iterations, lanes=lanes, memory_cost=memory
        )
        return argon2.derive(passphrase)

    def _read(self) -> bytes:
        given = self._passphrase()
        if not isinstance(given, (str, bytes)):
            raise TypeError(f"a passphrase is str or bytes, not {type(given).__name__}")
        passphrase = given.encode() if isinstance(given, str) else given
        if not passphrase:
            raise InvalidArgumentError("the passphrase is empty")
        return passphrase


def root_from_options(
    options: Mapping[str, str], path: Path, *, root: RootSecret | None, passphrase: Passphrase | None
) -> RootSecret:
    """The root secret that a connection asks for: an object, ``?root=file:PATH`` or ``?root=passphrase``.

    Args:
        path: the keystore; the default root file is its path with ``.root`` behind.

    Raises:
        InvalidArgumentError: an unknown spelling, or two that exclude each other.
    """
    asked = options.get("root")
    passphrase_file = options.get("passphrase-file")
    if root is not None:
        if asked is not None or passphrase is not None or passphrase_file is not None:
            raise InvalidArgumentError("root= is given as an object; leave ?root and passphrases out")
        if not isinstance(root, RootSecret):
            raise TypeError("root= is an object with wrap and unwrap (anykms.provider.RootSecret)")
        return root
    if passphrase is not None and passphrase_file is not None:
        raise InvalidArgumentError("passphrase= and ?passphrase-file are both given; choose one")
    if asked == "passphrase" or (asked is None and (passphrase or passphrase_file)):
        if passphrase is not None:
            return PassphraseRoot(passphrase)
        if passphrase_file is not None:
            return PassphraseRoot(lambda: _passphrase_from_file(passphrase_file))
        return PassphraseRoot(_ask)
    if passphrase is not None or passphrase_file is not None:
        raise InvalidArgumentError(f"a passphrase does not go with ?root={asked}; use ?root=passphrase")
    if asked is None:
        return FileRoot(default_root_file(path))
    if asked.startswith("file:") and asked != "file:":
        return FileRoot(Path(asked.removeprefix("file:")))
    raise InvalidArgumentError("?root is file:PATH or passphrase")


def default_root_file(path: Path) -> Path:
    """Where the root secret of the keystore at ``path`` is, unless the options say otherwise."""
    return path.with_name(path.name + ".root")


def kind_of(root: RootSecret) -> str:
    """What the store notes about its root, for a helpful error only: file, passphrase or external."""
    return root.kind if isinstance(root, (FileRoot, PassphraseRoot)) else "external"


def read_private_file(path: Path, *, exact: int | None = None, limit: int = SECRET_SIZE) -> bytes:
    """The bytes of a secret file, once nobody else can read it.

    Args:
        exact: its only allowed size in bytes.
        limit: its greatest size, where ``exact`` is not given.

    Raises:
        KeystoreError: missing, not a regular file, of another size, open to others, or another user's.
        OSError: it cannot be read.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeystoreError(
            f"the secret file {str(path)!r} is missing; put back your copy of it, or name the right one "
            "(?root=file:PATH)"
        ) from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise KeystoreError(f"the secret file {str(path)!r} is not a regular file")
        if facts.st_mode & 0o077:
            raise KeystoreError(
                f"the secret file {str(path)!r} is open to other users "
                f"(mode {stat.S_IMODE(facts.st_mode):04o}); if nobody read it, run: chmod 600 {path}"
            )
        if facts.st_uid not in (0, os.geteuid()):
            raise KeystoreError(f"the secret file {str(path)!r} belongs to another user")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read((limit if exact is None else exact) + 1)
    finally:
        os.close(descriptor)
    if exact is not None and len(data) != exact:
        raise KeystoreError(f"the secret file {str(path)!r} must hold exactly {exact} bytes")
    if len(data) > limit:
        raise KeystoreError(f"the secret file {str(path)!r} holds more than {limit} bytes")
    return data


def write_private_file(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a whole file, mode 0600, which appears at ``path`` complete or not at all, and is on disk.

    Raises:
        FileExistsError: it exists and ``replace`` is False.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        publish(unfinished, path, replace=replace)
    finally:
        unfinished.unlink(missing_ok=True)


def publish(unfinished: Path, path: Path, *, replace: bool = False) -> None:
    """Give a finished file its name, atomically and durably.

    Raises:
        FileExistsError: ``path`` exists and ``replace`` is False.
    """
    if replace:
        os.replace(unfinished, path)
    else:
        os.link(unfinished, path)
        unfinished.unlink()
    sync_directory(path)


def sync_directory(path: Path) -> None:
    """Make the entry of ``path`` in its directory durable."""
    descriptor = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _passphrase_from_file(path: str) -> bytes:
    data = read_private_file(Path(path), limit=_MAX_PASSPHRASE_FILE)
    return data.removesuffix(b"\n").removesuffix(b"\r")


def _ask() -> str:
    if not _has_terminal():
        raise InvalidArgumentError(
            "no terminal to ask for the passphrase; use ?passphrase-file=PATH, or passphrase= in code"
        )
    return getpass.getpass("Passphrase of the keystore: ")


def _has_terminal() -> bool:
    """Whether ``getpass`` can ask without echo; data may come through standard input at the same time."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _derived(secret: bytes) -> bytes:
    return HKDFExpand(SHA256(), SECRET_SIZE, b"anykms/v1 local-root").derive(secret)


def _seal(key: bytes, secret: bytes, aad: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, secret, aad)


def _open(key: bytes, wrapped: bytes, aad: bytes) -> bytes:
    if len(wrapped) != _NONCE_SIZE + SECRET_SIZE + _TAG_SIZE:
        raise _wrong_root()
    try:
        return AESGCM(key).decrypt(wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:], aad)
    except InvalidTag:
        raise _wrong_root() from None


def _wrong_root() -> KeystoreError:
    return KeystoreError("the root secret does not open this keystore; name the one it was made with")
