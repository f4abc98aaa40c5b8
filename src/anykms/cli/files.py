"""Files of the command: inputs whole or in pieces, outputs complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from anykms.cli.failures import usage
from anykms.cli.terminal import give_up_standard_output, is_text, progress

STANDARD: Final = "-"
_PIECE: Final = 4 * 1024 * 1024


@contextmanager
def opened(source: str) -> Generator[tuple[IO[bytes], int | None]]:
    """A file to read, and its size in bytes where it is known; ``-`` is standard input."""
    if source == STANDARD:
        _check_open(sys.stdin, "standard input")
        yield sys.stdin.buffer, None
        return
    with open(source, "rb") as file, _naming(source):
        facts = os.fstat(file.fileno())
        yield file, facts.st_size if stat.S_ISREG(facts.st_mode) else None


def read_all(source: str) -> bytes | bytearray:
    """Everything in a file, held in memory once."""
    with opened(source) as (file, size), progress("reading", size) as advance:
        data = bytearray()
        while piece := file.read(_PIECE):
            data += piece
            advance(len(piece))
        return data


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


def write(target: str, data: bytes, *, force: bool, private: bool) -> None:
    """Put ``data`` where ``target`` says: complete and on disk, or not at all.

    It is written to a temporary file beside the target, synchronised, and renamed. A symbolic link is replaced,
    never followed. Devices and pipes are written to as they are.

    Args:
        force: replace an existing file.
        private: make it readable for its owner only (0600); else the umask decides.

    Raises:
        OSError: it cannot be written; the target is as it was.
    """
    if target == STANDARD:
        _to_standard_output(data)
        return
    check_output(target, force)
    path = Path(target)
    with _naming(target):
        if _is_stream(path):
            with open(path, "wb") as stream:
                stream.write(data)
            return
        _replace(path, data, force, 0o600 if private else 0o666)


def _replace(path: Path, data: bytes, force: bool, mode: int) -> None:
    unfinished = path.with_name(f".anykms-{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file, progress("writing", len(data)) as advance:
            view = memoryview(data)
            for start in range(0, len(view), _PIECE):
                advance(file.write(view[start : start + _PIECE]))
            file.flush()
            os.fsync(descriptor)
        if force:
            os.replace(unfinished, path)
        else:
            _give_free_name(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


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


def _to_standard_output(data: bytes) -> None:
    _check_open(sys.stdout, "standard output")
    if sys.stdout.isatty() and not is_text(data):
        raise usage(
            "the result is binary and standard output is a terminal", "write it to a file with -o FILE"
        )
    out = sys.stdout.buffer
    with _naming("standard output"):
        try:
            out.write(data)
            out.flush()
        except OSError:
            give_up_standard_output()
            raise


def _check_open(stream: IO[str] | None, name: str) -> None:
    if stream is None:
        raise OSError(errno.EBADF, "closed", name)


@contextmanager
def _naming(path: str) -> Generator[None]:
    """An OSError of a read or a write, which names no file, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise
