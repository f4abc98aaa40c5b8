"""Fernet tokens (github.com/fernet/spec), by pyca cryptography."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import ClassVar, Final, Self

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from anykms.envelope.stream import Source
from anykms.errors import InvalidArgumentError
from anykms_readers.entries import (
    MAX_BYTES,
    Options,
    decoded,
    one_line,
    plaintext,
    read_secret_file,
    rejected,
    whole,
)

# Version 0x80, then the time in seconds as 64 bits, of which 32 are zero until 2106.
_MARK: Final = re.compile(rb"gAAAAA[A-Za-z0-9_-]+={0,2}\r?\n?")


class FernetReader:
    """Fernet tokens, each whole in one entry. They have no context; when they were made is not asked.

    Args:
        key_file: a file with one key to a line, which only its owner can read; any of them may open a token.
        max_bytes: greatest size of a token, which is held in memory some times over.

    Raises:
        InvalidArgumentError: a file open to others, or a line that is no Fernet key.
        OSError: it cannot be read.
    """

    format: ClassVar[str] = "fernet"
    options: ClassVar[tuple[str, ...]] = ("key-file", "max-bytes")

    def __init__(self, key_file: str, *, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        lines = read_secret_file(key_file).split()
        try:
            self._fernet = MultiFernet([Fernet(line) for line in lines])
        except ValueError:
            raise InvalidArgumentError(
                f"the key file {key_file!r} has one Fernet key to a line: 32 bytes in URL-safe base64"
            ) from None

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """See ``ForeignReader.from_options``."""
        found = Options(cls.format, options, cls.options)
        return cls(found.required("key-file", "fernet.keys"), max_bytes=found.number("max-bytes", MAX_BYTES))

    @property
    def distinctive(self) -> bool:
        """True."""
        return True

    @property
    def sender_authenticated(self) -> bool:
        """True."""
        return True

    def recognises(self, start: bytes) -> bool:
        """Whether it begins as a token does, and is text of its alphabet so far."""
        return _MARK.fullmatch(start) is not None

    def keys(self, start: bytes) -> tuple[str, ...]:
        """None: a token does not say which key it is of."""
        return ()

    def opening(
        self, source: Source, context: Mapping[str, str], aad: bytes = b""
    ) -> AbstractContextManager[Source]:
        """See ``ForeignReader.opening``."""
        token = one_line(whole(source, self._max_bytes))
        decoded(token, "base64url")  # pyca drops what is not of the alphabet
        try:
            return plaintext(self._fernet.decrypt(token))
        except InvalidToken as error:
            raise rejected() from error

    def close(self) -> None:
        """Nothing to close."""
