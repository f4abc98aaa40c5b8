"""Ciphertext that anykms did not make, as a way in: the seam between a migration and each foreign format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from typing import ClassVar, Final, Protocol, Self, cast

from anykms.envelope.stream import Source
from anykms.errors import InvalidArgumentError
from anykms.registry import load

GROUP: Final = "anykms.readers"
"""Entry points of readers: the format's name, and the class that reads it."""
_EXTRAS: Final = {
    "awskms": "aws",
    "aws-encryption-sdk": "readers",
    "azure-rsa-oaep": "azure",
    "gcpkms": "gcp",
    "tink": "readers",
}


class ForeignReader(Protocol):
    """One foreign format and the keys to read it with. Found by the entry-point group ``anykms.readers``.

    The caller's options choose the keys, the endpoint and the algorithm; the ciphertext never does.
    """

    format: ClassVar[str]
    """Names the format on the command line: ``fernet``."""

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """A reader from the options that follow its name on the command line.

        Raises:
            InvalidArgumentError: one is unknown, missing or bad; says which there are.
        """
        ...

    def recognises(self, start: bytes) -> bool:
        """Whether an entry that begins so, by up to 4,096 bytes, may be of this format. No I/O.

        A format without marks of its own says yes only where it was asked for explicitly; see ``distinctive``.
        """
        ...

    @property
    def distinctive(self) -> bool:
        """Whether ``recognises`` is sure enough for ``--format auto``."""
        ...

    @property
    def sender_authenticated(self) -> bool:
        """Whether an entry that opens was made by a holder of the key.

        False where a public key is enough, as for RSA-OAEP: whoever has it can make entries, so a message made from
        one must not claim more.
        """
        ...

    def keys(self, start: bytes) -> tuple[str, ...]:
        """The keys that the entry claims to need, for the census; unverified, empty where it names none. No I/O."""
        ...

    def opening(
        self, source: Source, context: Mapping[str, str], aad: bytes = b""
    ) -> AbstractContextManager[Source]:
        """The plaintext, to be read to its end; what was read is authentic only once the end was reached.

        Args:
            source: the whole entry.
            context: what the caller gave for this entry, where the format has an encryption context.
            aad: what the caller gave for this entry, where the format has associated data.

        Raises:
            InvalidCiphertextError: not authentic, not of this format, or of other keys.
            KMSError: the key cannot be used now.
        """
        ...

    def close(self) -> None:
        """Release connections; a second call does nothing."""
        ...


def known_readers() -> dict[str, str]:
    """Installed readers: the format's name, and the distribution it comes from."""
    return {point.name: point.dist.name if point.dist else "" for point in entry_points(group=GROUP)}


def find_reader(name: str, options: Mapping[str, str]) -> ForeignReader:
    """The reader of a format, with the caller's options. Nothing is sent yet, but to open an encrypted Tink keyset.

    Args:
        name: of the format, as in ``known_readers``.
        options: see docs/foreign-ciphertext.md. Only from the caller or the configuration, never from data.

    Raises:
        InvalidArgumentError: no such format, or a bad option.
        UnsupportedOperationError: what the reader needs is not installed; the message says what to install.
        OSError: a file that an option names cannot be read.
    """
    found = cast("type[ForeignReader]", load(GROUP, name, "reader", _EXTRAS))
    return found.from_options(options)


def reader_of(start: bytes, readers: Sequence[ForeignReader]) -> ForeignReader | None:
    """The one reader, among those that the caller has configured, that an entry is for; None if it is for none.

    A single reader was asked for explicitly, so its ``recognises`` decides. Among several only the distinctive ones
    count: that is ``--format auto``.

    Args:
        start: the first bytes of the entry, up to 4,096.

    Raises:
        InvalidArgumentError: several say yes; names them.
    """
    asked = [reader for reader in readers if len(readers) == 1 or reader.distinctive]
    found = [reader for reader in asked if reader.recognises(start)]
    if len(found) > 1:
        rivals = ", ".join(sorted(reader.format for reader in found))
        raise InvalidArgumentError(f"the entry may be of several formats: {rivals}; say which with --format")
    return found[0] if found else None
