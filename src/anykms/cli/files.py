"""Files of the command: inputs in pieces, outputs complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from io import RawIOBase
from pathlib import Path
from typing import IO, Final, Protocol

from anykms.cli.failures import usage
from anykms.cli.terminal import give_up_standard_output, is_text, progress

STANDARD: Final = "-"
_PIECE: Final = 4 * 1024 * 1024
_HELD: Final = 64 * 1024 * 1024
"""Bytes of plaintext that standard output waits for the end of."""


@contextmanager
def opened(source: str) -> Generator[tuple[IO[bytes], int | None]]:
    """A file to read, and its size in bytes where it is known; ``-`` is standard input."""
    if source == STANDARD:
        _check_open(sys.stdin, "standard input")
        yield sys.stdin.buffer, None
        return
    with open(source, "rb") as file, naming(source):
        facts = os.fstat(file.fileno())
        yield file, facts.st_size if stat.S_ISREG(facts.st_mode) else None


class Input:
    """A file that is read in order, with progress; its errors name it."""

    def __init__(self, file: IO[bytes], name: str, advance: Callable[[int], None]) -> None:
        self._file = file
        self._name = name
        self._advance = advance

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        with naming(self._name):
            piece = self._file.read(size)
        self._advance(len(piece))
        return piece

    def pieces(self) -> Iterator[bytes]:
        """All of it, some MiB at a time."""
        while piece := self.read(_PIECE):
            yield piece


@contextmanager
def reading(source: str) -> Generator[Input]:
    """A file to read in order; ``-`` is standard input."""
    with ExitStack() as stack:
        if source == STANDARD:
            _check_open(sys.stdin, "standard input")
            file: IO[bytes] = sys.stdin.buffer
        else:
            file = stack.enter_context(open(source, "rb"))
        with naming(source):
            facts = os.fstat(file.fileno()) if source != STANDARD else None
        size = facts.st_size if facts is not None and stat.S_ISREG(facts.st_mode) else None
        yield Input(file, source, stack.enter_context(progress("reading", size)))


def check_output(target: str, force: bool) -> None:
    """Fail early where ``write`` would fail, before a key is used.

    Raises:
        OSError: it exists (and ``force`` is not given), is a directory, or its directory is missing.
    """
    if target == STANDARD:
        return
    path = Path(target)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if os.path.lexists(path) and not force and not _is_stream(path):
        raise FileExistsError(errno.EEXIST, "the file exists", target)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(path.parent))


class Output(Protocol):
    """Where a result goes, piece by piece."""

    def write(self, data: bytes | memoryview, /) -> int | None:
        """Take all of ``data``."""
        ...


def write(target: str, data: bytes, *, force: bool, private: bool) -> None:
    """``data`` as the whole of a ``writing``."""
    with writing(target, force=force, private=private) as output:
        output.write(data)


@contextmanager
def writing(target: str, *, force: bool, private: bool) -> Generator[Output]:
    """Put what is written where ``target`` says: complete and on disk, or not at all if the block fails.

    It is written to a temporary file beside the target, synchronised, and renamed. A symbolic link is replaced,
    never followed. Devices and pipes are written to as they are. For standard output, see ``private``.

    Args:
        force: replace an existing file.
        private: a plaintext. A file is readable for its owner only (0600), else the umask decides; on standard
            output the first 64 MiB are held back until the block ends or more comes.

    Raises:
        OSError: it cannot be written; the target is as it was.
    """
    if target == STANDARD:
        _check_open(sys.stdout, "standard output")
        output = _StandardOutput(_HELD if private or sys.stdout.isatty() else 0)
        yield output
        output.finish()
        return
    check_output(target, force)
    path = Path(target)
    if _is_stream(path):
        with open(path, "wb", buffering=0) as stream:
            yield _Named(stream, target)
        return
    mode = 0o600 if private else 0o666
    unfinished = path.with_name(f".anykms-{secrets.token_hex(8)}.tmp")
    try:
        with naming(target):
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb", buffering=0) as file:
            yield _Named(file, target)
            with naming(target):
                os.fsync(descriptor)
        with naming(target):
            if force:
                os.replace(unfinished, path)
            else:
                _give_free_name(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    with naming(target):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Named:
    """An unbuffered file whose errors name it."""

    def __init__(self, file: RawIOBase, name: str) -> None:
        self._file = file
        self._name = name

    def write(self, data: bytes | memoryview, /) -> int:
        view = memoryview(data)
        with naming(self._name):
            while view:
                view = view[self._file.write(view) :]
        return len(data)


class _StandardOutput:
    """Standard output; up to ``held`` bytes are kept back until ``finish``, or until more comes."""

    def __init__(self, held: int) -> None:
        self._limit = held
        self._size = 0
        self._held: list[bytes] | None = []

    def write(self, data: bytes | memoryview, /) -> int:
        if self._held is None:
            self._put(data)
            return len(data)
        self._held.append(bytes(data))
        self._size += len(data)
        if self._size > self._limit:
            self._release()
        return len(data)

    def finish(self) -> None:
        if self._held is not None:
            self._release()
        with naming("standard output"):
            try:
                sys.stdout.buffer.flush()
            except OSError:
                give_up_standard_output()
                raise

    def _release(self) -> None:
        data = b"".join(self._held or ())
        self._held = None
        if sys.stdout.isatty() and (self._size > self._limit or not is_text(data)):
            raise usage(
                "the result is binary or very long, and standard output is a terminal",
                "write it to a file with -o FILE",
            )
        self._put(data)

    def _put(self, data: bytes | memoryview) -> None:
        with naming("standard output"):
            try:
                sys.stdout.buffer.write(data)
            except OSError:
                give_up_standard_output()
                raise


def _give_free_name(unfinished: Path, path: Path) -> None:
    """Rename, unless someone has made ``path`` meanwhile."""
    try:
        os.link(unfinished, path)
    except OSError as error:
        # File systems without hard links: the check before must do.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "the file exists", str(path)) from None
        os.replace(unfinished, path)


def _is_stream(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _check_open(stream: IO[str] | None, name: str) -> None:
    if stream is None:
        raise OSError(errno.EBADF, "closed", name)


@contextmanager
def naming(path: str) -> Generator[None]:
    """An OSError of a read or a write, which names no file, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise
