"""Ciphertext that anykms did not make, as a way in: the seam between a migration and each foreign format."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol, Self

from anykms.envelope.stream import Source


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

    def keys(self, start: bytes) -> tuple[str, ...]:
        """The keys that the entry claims to need, for the census; unverified, empty where it names none. No I/O."""
        ...

    def opening(self, source: Source, context: Mapping[str, str]) -> AbstractContextManager[Source]:
        """The plaintext, to be read to its end; what was read is authentic only once the end was reached.

        Args:
            source: the whole entry.
            context: what the caller gave for this entry: encryption context, associated data.

        Raises:
            InvalidCiphertextError: not authentic, not of this format, or of other keys.
            KMSError: the key cannot be used now.
        """
        ...
