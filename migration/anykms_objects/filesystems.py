"""Whatever fsspec knows as a place full of messages."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Any, Final, TypeVar
from urllib.parse import parse_qsl

import fsspec as untyped_fsspec  # pyright: ignore[reportMissingTypeStubs] # it has no types
from fsspec.implementations.local import (  # pyright: ignore[reportMissingTypeStubs] # as above
    LocalFileSystem as UntypedLocalFileSystem,
)

from anykms.envelope.rewrap import replace_file
from anykms.envelope.stream import Sink, Source
from anykms.errors import ConflictError, InvalidArgumentError, KMSError, UnsupportedOperationError
from anykms.migration.targets import HEAD, Entry, Swap
from anykms_objects.names import id_of, name_of

T = TypeVar("T")

_fsspec: Any = untyped_fsspec
_LocalFileSystem: Any = UntypedLocalFileSystem

OPTION: Final = "allow_unconditional"
_PIECE: Final = 1024 * 1024
_TEMPORARY: Final = re.compile(r"(?:.*/)?\.anykms-[0-9a-f]{16}\.tmp")


class FsspecTarget:
    """The files below a folder of any file system or store that fsspec knows: ``gs://``, ``abfs://``, ``sftp://``.

    fsspec has no conditional write. A change is prepared beside the file, the file is then compared with what was
    read, and replaced at once by a move: what another program writes between the comparison and the move, within
    some milliseconds to seconds, is lost. So changes are refused unless the caller says that nobody else writes, with
    ``allow_unconditional``. Local files (``file://``) need no such word; they are replaced as ``replace_file`` does.
    Metadata of objects is not kept: for S3 there is ``S3Target``, which keeps it and is conditional.

    Args:
        url: of a folder; the option ``allow_unconditional=yes`` may follow a ``?``. Credentials come from the
            library's own configuration.
        allow_unconditional: the same as an argument.

    Raises:
        InvalidArgumentError: not such a URL, one with a password, or of a protocol that fsspec does not know.
        UnsupportedOperationError: the library for the protocol is not installed.

    >>> FsspecTarget("memory://archive").name
    'memory://archive/'
    """

    def __init__(self, url: str, *, allow_unconditional: bool = False) -> None:
        place, mark, query = url.partition("?")
        protocol, colon, _ = place.partition("://")
        if not colon or not protocol or "::" in place or not url.isprintable():
            raise InvalidArgumentError("the URL of a target is PROTOCOL://..., without chains (::)")
        user, at, _ = place.partition("://")[2].partition("/")[0].rpartition("@")
        if at and ":" in user:
            raise InvalidArgumentError("the URL of a target holds no password: configure fsspec instead")
        if mark:
            try:
                options = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
            except ValueError:
                options = []
            if options not in ([(OPTION, "yes")], [(OPTION, "no")]):
                raise InvalidArgumentError(f"the one option of such a target is {OPTION}=yes or no")
            allow_unconditional = allow_unconditional or options[0][1] == "yes"
        self._allowed = allow_unconditional
        self._url = place.rstrip("/") + "/" if not place.endswith("://") else place
        try:
            kind: Any = _fsspec.get_filesystem_class(protocol)
        except ValueError:
            raise InvalidArgumentError(f"fsspec knows no protocol {ascii(protocol)[:40]}") from None
        except ImportError as error:
            raise UnsupportedOperationError(
                f"{protocol}:// needs another package of fsspec: {str(error)[:200]}"
            ) from error
        self._is_local = issubclass(kind, _LocalFileSystem)
        self._root: str = kind._strip_protocol(place).rstrip("/")
        self._fs: Any = None

    def __reduce__(self) -> tuple[object, ...]:
        return partial(FsspecTarget, allow_unconditional=self._allowed), (self._url,)

    def __repr__(self) -> str:
        return f"<FsspecTarget {self.name}>"

    @property
    def name(self) -> str:
        """The URL, which ends with a slash."""
        return self._url

    def _files(self) -> Any:
        if self._fs is None:
            with _seam():
                self._fs = _fsspec.core.url_to_fs(self._url)[0]
        # Every answer is to be about now.
        self._fs.invalidate_cache()
        return self._fs

    def _path(self, entry_id: str) -> str:
        name = name_of(entry_id, "")
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise InvalidArgumentError("the entry is not one of this target")
        return f"{self._root}/{name}"

    def entries(self) -> Iterator[Entry]:
        """See ``Target.entries``; ids are paths relative to the folder. Holds one folder's listing at a time:
        fsspec gives a listing whole."""
        with _seam():
            fs = self._files()
            folders = [self._root]
            while folders:
                for row in fs.ls(folders.pop() or "/", detail=True):
                    path: str = row["name"]
                    if row["type"] == "directory":
                        if not row.get("islink"):
                            folders.append(path)
                    elif row["type"] == "file" and not _TEMPORARY.fullmatch(path):
                        relative = path.removeprefix(f"{self._root}/")
                        yield Entry(id_of(relative), int(row["size"] or 0))

    def starts(self, ids: Sequence[str], size: int = HEAD) -> Sequence[bytes | None]:
        """See ``Target.starts``."""
        return [self._start(self._path(entry_id), size) for entry_id in ids]

    def _start(self, path: str, size: int) -> bytes | None:
        try:
            with _seam():
                start: bytes = self._files().cat_file(path, start=0, end=size)
        except (FileNotFoundError, IsADirectoryError):
            return None
        return start

    @contextmanager
    def reading(self, entry_id: str) -> Generator[Source]:
        """See ``Target.reading``."""
        with _seam():
            source: Any = self._files().open(self._path(entry_id), "rb")
        try:
            yield _Reading(source)
        finally:
            source.close()

    def swap(self, swaps: Sequence[Swap]) -> Sequence[bool]:
        """See ``Target.swap``; see the class for what other writers must not do meanwhile."""
        return [self._swap(swap) for swap in swaps]

    def _swap(self, swap: Swap) -> bool:
        def write(source: Source, sink: Sink) -> bool:
            if _read(source, len(swap.old)) != swap.old:
                raise _OtherStartError
            sink.write(swap.new)
            while piece := source.read(_PIECE):
                sink.write(piece)
            return True

        if self._start(self._path(swap.id), len(swap.old)) != swap.old:
            return False
        try:
            return self.replace(swap.id, write)
        except (_OtherStartError, FileNotFoundError):
            return False

    def replace(self, entry_id: str, write: Callable[[Source, Sink], T]) -> T:
        """See ``Target.replace``; see the class for what other writers must not do meanwhile.

        Raises:
            UnsupportedOperationError: it would be unconditional, and the caller has not allowed that.
        """
        path = self._path(entry_id)
        if self._is_local:
            return replace_file(path, write)
        if not self._allowed:
            raise UnsupportedOperationError(
                "fsspec cannot replace an entry on the condition that nobody has changed it; where nobody else "
                f"writes, say so: {OPTION}=yes"
            )
        fs = self._files()
        temporary = f"{path.rpartition('/')[0]}/.anykms-{secrets.token_hex(8)}.tmp"
        with _seam():
            before = fs.ukey(path)
            source: Any = fs.open(path, "rb")
        try:
            with source, _made(fs, temporary) as sink:
                result = write(_Reading(source), sink)
            with _seam():
                if self._files().ukey(path) != before:
                    raise ConflictError(
                        "the file was changed while its successor was written; nothing was replaced"
                    )
                fs.mv(temporary, path)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(temporary)
            raise
        return result


class _OtherStartError(Exception):
    """The entry does not begin as it should."""


class _Reading:
    """A file of fsspec, whose errors are the seam's."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        with _seam():
            return self._file.read(size)


class _Writing:
    """A file of fsspec that is written, whose errors are the seam's."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes | memoryview, /) -> int:
        with _seam():
            return self._file.write(data)


@contextmanager
def _made(fs: Any, path: str) -> Generator[Sink]:
    """A new file, which is there as a whole once the block has ended."""
    with _seam():
        file: Any = fs.open(path, "wb")
    try:
        yield _Writing(file)
    finally:
        with _seam():
            file.close()


def _read(source: Source, size: int) -> bytes:
    pieces: list[bytes] = []
    while size and (piece := source.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


@contextmanager
def _seam() -> Generator[None]:
    """Stores raise what their libraries raise; the seam has OSError."""
    try:
        yield
    except (OSError, KMSError):
        raise
    except Exception as error:
        raise OSError(f"the store cannot do this: {type(error).__name__}") from error
