"""What every reader does with its options, with an entry, and with what is wrong about either."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from anykms.envelope.stream import Source
from anykms.errors import InvalidArgumentError, InvalidCiphertextError
from anykms.wrapping import NOT_AUTHENTIC

MAX_BYTES: Final = 64 * 1024 * 1024
"""Default greatest size in bytes of an entry that has to be held in memory whole."""
MAX_SECRET_FILE: Final = 1024 * 1024
_PIECE: Final = 1024 * 1024
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]*={0,2}")


def rejected(cause: BaseException | None = None) -> InvalidCiphertextError:
    """The one error for every ciphertext that does not open, raised ``from`` the cause of ``cause``."""
    return InvalidCiphertextError(NOT_AUTHENTIC, request_id=getattr(cause, "request_id", None))


class Options:
    """The options of one reader, as strings from the command line.

    Raises:
        InvalidArgumentError: one that the reader does not know.
    """

    def __init__(self, reader: str, given: Mapping[str, str], known: Sequence[str]) -> None:
        self._reader = reader
        self._given = given
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InvalidArgumentError(
                f"unknown option {', '.join(map(ascii, unknown))} of {reader}; there are {', '.join(known)}"
            )

    def get(self, name: str, default: str) -> str:
        """The value, or the default."""
        return self._given.get(name, default)

    def required(self, name: str, example: str) -> str:
        """The value.

        Raises:
            InvalidArgumentError: it is missing or empty.
        """
        value = self._given.get(name, "")
        if not value:
            raise InvalidArgumentError(
                f"{self._reader} needs the option {name}, for example {name}={example}"
            )
        return value

    def among(self, name: str, choices: Sequence[str], default: str) -> str:
        """One of the choices."""
        return chosen(f"the option {name} of {self._reader}", self._given.get(name, default), choices)

    def number(self, name: str, default: int) -> int:
        """A whole number of at least 1."""
        value = self._given.get(name, str(default))
        if not value.isascii() or not value.isdigit() or len(value) > 15 or int(value) < 1:
            raise InvalidArgumentError(f"the option {name} of {self._reader} is a whole number, 1 or more")
        return int(value)

    def insecure(self) -> dict[str, Any]:
        """``allow-insecure-endpoint``, as the argument of a provider's ``connect``."""
        allowed = self.among("allow-insecure-endpoint", ("no", "yes"), "no") == "yes"
        return {"allow_insecure_endpoint": True} if allowed else {}


def chosen(what: str, value: str, choices: Sequence[str]) -> str:
    """``value``, if it is one of the choices; InvalidArgumentError if not."""
    if value not in choices:
        raise InvalidArgumentError(f"{what} is one of {', '.join(choices)}")
    return value


def read_secret_file(path: str) -> bytes:
    """The bytes of a file of keys, once nobody but its owner can read it.

    Raises:
        InvalidArgumentError: not a regular file, open to others, another user's, or longer than 1 MiB.
        OSError: it cannot be read.
    """
    # O_NONBLOCK: opening a FIFO must not hang.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidArgumentError(f"the key file {path!r} is not a regular file")
        if facts.st_mode & 0o077 or facts.st_uid not in (0, os.geteuid()):
            raise InvalidArgumentError(
                f"the key file {path!r} is open to other users, or belongs to one "
                f"(mode {stat.S_IMODE(facts.st_mode):04o}); if nobody read it, run: chmod 600 {path}"
            )
        data = file.read(MAX_SECRET_FILE + 1)
    if len(data) > MAX_SECRET_FILE:
        raise InvalidArgumentError(f"the key file {path!r} holds more than {MAX_SECRET_FILE} bytes")
    return data


def whole(source: Source, limit: int) -> bytes:
    """All of an entry.

    Raises:
        InvalidCiphertextError: it is empty.
        InvalidArgumentError: it is longer than ``limit`` bytes.
    """
    pieces: list[bytes] = []
    size = 0
    while size <= limit:
        piece = source.read(min(_PIECE, limit + 1 - size))
        if piece is None:
            raise BlockingIOError("the source of an entry must be a blocking file")
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    if size > limit:
        raise InvalidArgumentError(
            f"the entry is longer than the {limit} bytes that are held in memory; where it is to be read, raise "
            "max-bytes"
        )
    if not size:
        raise rejected()
    return b"".join(pieces)


def blob(source: Source, limit: int, encoding: str) -> bytes:
    """All of an entry that a key service made, which is ``limit`` bytes at most, and that may be in base64.

    Raises:
        InvalidCiphertextError: longer, empty, or not base64.
    """
    longest = limit if encoding == "binary" else limit * 4 // 3 + 6
    try:
        data = whole(source, longest)
    except InvalidArgumentError:
        raise rejected() from None
    return data if encoding == "binary" else decoded(one_line(data), "base64")


def one_line(data: bytes) -> bytes:
    """Text without the one line end that editors and shells add."""
    return data.removesuffix(b"\n").removesuffix(b"\r")


def decoded(text: bytes, encoding: str) -> bytes:
    """The bytes that ``text`` stands for, in their one spelling.

    Args:
        encoding: ``base64``, with padding; ``base64url``, with or without; or ``hex``, in lower case.

    Raises:
        InvalidCiphertextError: it is not that, or not the encoder's own spelling.
    """
    try:
        if encoding == "hex":
            data, spelt = binascii.unhexlify(text), text
            again = binascii.hexlify(data)
        else:
            url = encoding == "base64url"
            spelt = text.rstrip(b"=") if url else text
            plain = spelt.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(spelt) % 4) if url else text
            if (url and (b"+" in text or b"/" in text)) or not _BASE64.fullmatch(plain):
                raise rejected()
            data = base64.b64decode(plain, validate=True)
            again = base64.urlsafe_b64encode(data).rstrip(b"=") if url else base64.b64encode(data)
    except (binascii.Error, ValueError):
        raise rejected() from None
    if again != spelt or (encoding == "base64url" and text not in (spelt, spelt + b"=" * (-len(spelt) % 4))):
        raise rejected()
    return data


@contextmanager
def plaintext(data: bytes) -> Generator[Source]:
    """What was authenticated whole, to be read."""
    with io.BytesIO(data) as opened:
        yield opened


@contextmanager
def one_text() -> Generator[None]:
    """Whatever a service says of a ciphertext that it does not open, say it in the one way."""
    try:
        yield
    except InvalidCiphertextError as error:
        raise rejected(error) from error.__cause__
