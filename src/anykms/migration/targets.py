"""What a migration walks over: the seam between it and files, object stores and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Final, Protocol, TypeVar, cast

from anykms.envelope.stream import Sink, Source
from anykms.errors import InvalidArgumentError
from anykms.registry import load

T = TypeVar("T")

GROUP: Final = "anykms.targets"
"""Entry points of stores: the URL's scheme names what makes a ``Target`` of a URL."""
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_OTHERS: Final = "fsspec"
_EXTRAS: Final = {"s3": "objects", _OTHERS: "objects"}

HEAD: Final = 4096
"""Bytes of an entry that a census reads at first; longer headers are read again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a target, or what may be one.

    Attributes:
        id: names it within its target, the same on every walk, printable and at most 1,024 characters: a path
            relative to the directory, an object's name, a primary key.
        size: bytes, as the walk found it.
    """

    id: str
    size: int


@dataclass(frozen=True, slots=True)
class Swap:
    """A header to put in another one's place. The body behind it is not touched.

    Attributes:
        id: the entry's.
        old: bytes that the entry must begin with, a whole header.
        new: bytes to begin with instead; of another length, it may be.
    """

    id: str
    old: bytes = field(repr=False)
    new: bytes = field(repr=False)


class Target(Protocol):
    """A place full of messages. Holds its configuration only and connects at first use, so that it can be pickled.

    Several threads and processes may use one place at once; every change is a compare-and-swap, and one entry is
    replaced at once or not at all.
    """

    @property
    def name(self) -> str:
        """Names the place in a checkpoint and a report: canonical, without credentials."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Every entry, in any order, with memory that does not grow with their number.

        Entries that come or go during the walk may be missed.

        Raises:
            OSError, UnavailableError: the place cannot be read.
        """
        ...

    def starts(self, ids: Sequence[str], size: int = HEAD) -> Sequence[bytes | None]:
        """The first ``size`` bytes of each, fewer where it is shorter; None where it is gone."""
        ...

    def reading(self, entry_id: str) -> AbstractContextManager[Source]:
        """The whole entry, to be read in order.

        Raises:
            FileNotFoundError: it is gone.
        """
        ...

    def swap(self, swaps: Sequence[Swap]) -> Sequence[bool]:
        """Put new headers in place of old ones.

        Returns:
            for each, whether it happened; False where the entry is gone or begins with other bytes.

        Raises:
            OSError, UnavailableError: some are not known to have happened. To ask again is safe.
        """
        ...

    def replace(self, entry_id: str, write: Callable[[Source, Sink], T]) -> T:
        """Give an entry other content, written by ``write`` from what it was.

        Raises:
            ConflictError: it was changed meanwhile; it is as the other writer left it.
            FileNotFoundError: it is gone.
        """
        ...


def open_target(url: str) -> Target:
    """The target at a URL with a scheme; nothing is sent yet.

    The entry point of group ``anykms.targets`` that has the scheme's name makes it; without one, fsspec does.

    Args:
        url: ``s3://bucket/prefix``, or one of a store that fsspec or another distribution knows. Only from the
            caller or the configuration, never from data.

    Raises:
        InvalidArgumentError: not such a URL, or one of no known store.
        UnsupportedOperationError: what the store needs is not installed; the message says what to install.

    >>> open_target("s3://archive/2024?region=eu-west-1").name
    's3://archive/2024/'
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a target is a str, not {type(url).__name__}")
    scheme, colon, _ = url.partition("://")
    if not colon or not _SCHEME.fullmatch(scheme) or not url.isprintable():
        raise InvalidArgumentError("the URL of a target is SCHEME://..., for example s3://bucket/prefix")
    own = any(point.name == scheme for point in entry_points(group=GROUP))
    made = cast("Callable[[str], Target]", load(GROUP, scheme if own else _OTHERS, "target", _EXTRAS))
    return made(url)
