"""Files and directory trees as places full of messages, exchanged one by one and never written in place.

A file is replaced by way of a new one beside it. On Linux the two change places in one step (renameat2), and what came
out is looked at before it is let go: a write that another program made meanwhile is put back, not lost. Elsewhere the
file is looked at, then replaced.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import signal
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Self, TypeVar

from anykms.envelope.stream import Sink, Source
from anykms.errors import ConflictError, InvalidArgumentError
from anykms.migration.targets import HEAD, MAX_ID, Entry, Swap

T = TypeVar("T")

_GROUP: Final = 32
"""Files that are synchronised together; each holds two descriptors meanwhile."""
_AT_ONCE: Final = threading.BoundedSemaphore(8)
"""Groups of this process, so that they stay below the usual limit of 1,024 descriptors."""
_FOLDERS: Final = 8
_FEW: Final = 4
"""Files that are synchronised one by one; for more, their file system as a whole is quicker."""
_PIECE: Final = 1024 * 1024
_TICK: Final = 20_000_000
"""Nanoseconds within which two writes may leave one time stamp; kernels keep it to a timer tick, 1 to 10 ms."""
_PAUSES: Final = 5
"""How often a file is waited for that is being written."""
_SETTLED: Final = 2.0
"""Seconds after which nobody is in the middle of an exchange, which takes microseconds."""
_TEMPORARY: Final = re.compile(r"\.anykms-(?:(\d+)-(\d+)-(\d+)\.swap|.*\.(?:new|tmp))", re.DOTALL)
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_EXCHANGE: Final = 2
"""RENAME_EXCHANGE of renameat2(2)."""


class FileTarget:
    """A file, or every regular file below a directory.

    Symbolic links are no entries and are not followed, but for ``path`` itself. Mode, owner, group and extended
    attributes (access lists too) are kept; other hard links keep the old content. Names of temporary files
    (``.anykms-*.new``, ``.swap``, ``.tmp``) are never entries.

    Args:
        path: a file or a directory.
        tidy: remove, on a walk, the temporary files that an interrupted run left.

    Raises:
        FileNotFoundError: there is no such path.

    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_bytes(b"old header, body")
    >>> target = FileTarget(folder)
    >>> [(entry.id, entry.size) for entry in target.entries()]
    [('a', 16)]
    >>> target.swap([Swap("a", b"old header", b"new"), Swap("b", b"x", b"y")])
    [True, False]
    >>> (folder / "a").read_bytes()
    b'new, body'
    """

    def __init__(self, path: str | os.PathLike[str], *, tidy: bool = False) -> None:
        self._path = os.path.realpath(path, strict=True)
        self._single = not os.path.isdir(self._path)
        self._root = os.path.dirname(self._path) if self._single else self._path
        self._tidy = tidy

    def __repr__(self) -> str:
        return f"FileTarget({self._path!r})"

    @property
    def name(self) -> str:
        """``file://`` and the absolute path."""
        return f"file://{_shown(self._path)}"

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether ``path`` lies within, so that a walk would meet it."""
        found = os.path.realpath(path)
        return found == self._path or (not self._single and found.startswith(self._root.rstrip("/") + "/"))

    def entries(self) -> Iterator[Entry]:
        """Every regular file. See ``Target``."""
        if self._single:
            facts = os.lstat(self._path)
            if stat.S_ISREG(facts.st_mode):
                yield Entry(_shown(os.path.basename(self._path)), facts.st_size)
            return
        with ExitStack() as stack:
            stack.callback(_leave_all, open_folders := list[_Level]())
            open_folders.append(_Level.enter(os.open(self._root, _FOLDER), ""))
            while open_folders:
                level = open_folders[-1]
                found = next(level.names, None)
                if found is None:
                    _leave(open_folders.pop())
                elif found.is_dir(follow_symlinks=False):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        inner = os.open(found.name, _FOLDER, dir_fd=level.descriptor)
                        open_folders.append(_Level.enter(inner, level.prefix + found.name + "/"))
                elif _TEMPORARY.fullmatch(found.name):
                    if self._tidy:
                        _tidy(level.descriptor, found.name)
                elif found.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        size = found.stat(follow_symlinks=False).st_size
                        yield Entry(_checked_id(level.prefix + found.name), size)

    def starts(self, ids: Sequence[str], size: int = HEAD) -> Sequence[bytes | None]:
        """See ``Target``."""
        with _Folders(self._root) as folders:
            return [_start(folders, entry_id, size) for entry_id in ids]

    @contextmanager
    def reading(self, entry_id: str) -> Generator[Source]:
        """See ``Target``."""
        with _Folders(self._root) as folders:
            folder, name = folders.find(entry_id)
            descriptor = os.open(name, _READ, dir_fd=folder)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a regular file any more", entry_id)
            yield file

    def swap(self, swaps: Sequence[Swap]) -> Sequence[bool]:
        """See ``Target``."""
        done: list[bool] = []
        with _Folders(self._root) as folders:
            for start in range(0, len(swaps), _GROUP):
                folders.trim()
                with _AT_ONCE, ExitStack() as stack:
                    successors = [_begin(folders, swap, stack) for swap in swaps[start : start + _GROUP]]
                    _synchronise(s.new for s in successors if s is not None)
                    done += [successor is not None and successor.take_place() for successor in successors]
                    _synchronise(s.folder for s in successors if s is not None)
        return done

    def replace(self, entry_id: str, write: Callable[[Source, Sink], T]) -> T:
        """See ``Target``."""
        with _Folders(self._root) as folders, ExitStack() as stack:
            folder, name = folders.find(entry_id)
            successor = _Successor.beside(folder, name, stack)
            with (
                open(successor.old, "rb", buffering=0, closefd=False) as source,
                open(successor.new, "wb", buffering=0, closefd=False) as sink,
            ):
                result = write(source, sink)
            os.fsync(successor.new)
            if not successor.take_place():
                raise ConflictError(
                    f"{entry_id} was changed while its successor was written; it was left alone"
                )
            _synchronise([folder])
            return result


# Names


def _shown(path: str) -> str:
    """``path`` with everything escaped that is not printable, so that ``_named`` finds the same bytes again.

    >>> _named(_shown("caf\\xe9/a\\\\b\\n")) == "caf\\xe9/a\\\\b\\n"
    True
    """
    if path.isprintable() and "\\" not in path:
        return path
    return "".join(
        letter
        if letter.isprintable() and letter != "\\"
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
        for letter in path
    )


def _named(entry_id: str) -> str:
    if "\\" not in entry_id:
        return entry_id
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found.group(1), 16)]), os.fsencode(entry_id))
    return os.fsdecode(raw)


def _checked_id(path: str) -> str:
    shown = _shown(path)
    if len(shown) > MAX_ID:
        raise InvalidArgumentError(
            f"the path {shown[:100]}... takes {len(shown)} characters, at most {MAX_ID} are allowed: "
            "name the folder further down as a target of its own"
        )
    return shown


# Walking


@dataclass(slots=True)
class _Level:
    descriptor: int
    prefix: str
    names: Iterator[os.DirEntry[str]] = field(repr=False)

    @classmethod
    def enter(cls, descriptor: int, prefix: str) -> Self:
        try:
            return cls(descriptor, prefix, os.scandir(descriptor))
        except BaseException:
            os.close(descriptor)
            raise


def _leave_all(levels: list[_Level]) -> None:
    while levels:
        _leave(levels.pop())


def _leave(level: _Level) -> None:
    level.names.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue] # of os.scandir
    os.close(level.descriptor)


class _Folders:
    """Descriptors of the folders below a root, opened step by step and never through a symbolic link."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()

    def find(self, entry_id: str) -> tuple[int, str]:
        """The folder of an entry and the entry's name within it, as ``os.open`` takes them."""
        path = _named(entry_id)
        if "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise InvalidArgumentError("an entry's id is a path within the directory")
        folder, _, name = path.rpartition("/")
        known = self._known.get(folder)
        if known is None:
            known = self._known[folder] = self._open(folder)
        return known, name

    def trim(self) -> None:
        """Close what is open, if it is much; nobody may be using a folder."""
        if len(self._known) >= _FOLDERS:
            self._forget()

    def _forget(self) -> None:
        while self._known:
            os.close(self._known.popitem()[1])

    def _open(self, folder: str) -> int:
        descriptor = os.open(self._root, _FOLDER)
        for part in folder.split("/") if folder else ():
            try:
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor


def _start(folders: _Folders, entry_id: str, size: int) -> bytes | None:
    folders.trim()
    try:
        folder, name = folders.find(entry_id)
        descriptor = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        return os.read(descriptor, size) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


# Changing places


@dataclass(slots=True)
class _Successor:
    """A new file beside an old one, both open, and what the old one was when it was read."""

    folder: int
    name: str
    old: int
    new: int
    before: os.stat_result
    temporary: str

    @classmethod
    def beside(cls, folder: int, name: str, stack: ExitStack) -> Self:
        """Raises FileNotFoundError where there is no such regular file, ConflictError where writers never rest."""
        old = os.open(name, _READ, dir_fd=folder)
        stack.callback(os.close, old)
        before = _settled(old)
        if before is None:
            raise ConflictError(f"{_shown(name)} is being written; it was left alone")
        if not stat.S_ISREG(before.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file any more", _shown(name))
        while True:
            temporary = f".anykms-{secrets.token_hex(8)}.new"
            new = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
            # Held while this process lives; who tidies up leaves a locked file alone.
            fcntl.flock(new, fcntl.LOCK_EX)
            if os.fstat(new).st_nlink:
                break
            os.close(new)
        found = cls(folder, name, old, new, before, temporary)
        stack.callback(found.discard)
        stack.callback(os.close, new)
        _copy_owner(old, new, before)
        return found

    def discard(self) -> None:
        """Remove what lies under the temporary name."""
        if self.temporary:
            with suppress(FileNotFoundError):
                os.unlink(self.temporary, dir_fd=self.folder)
            self.temporary = ""

    def take_place(self) -> bool:
        """Give the new file the old one's name, unless the old one is not what it was."""
        # Asked before too: a file that is not moved away need not be brought back.
        if not (_unwritten(self.old) and self._untouched() and _is_file(self.name, self.folder, self.before)):
            return False
        made = os.fstat(self.new)
        ours = made.st_ino
        # Whoever finds the name after a crash can tell by it which file is which.
        marked = f".anykms-{ours}-{self.before.st_ino}-{self.before.st_mtime_ns}.swap"
        os.rename(self.temporary, marked, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        self.temporary = marked
        try:
            exchanged = _exchange(self.folder, marked, self.name)
        except FileNotFoundError:
            return False
        if not exchanged:
            os.replace(marked, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            self.temporary = ""
            return True
        if _inode(marked, self.folder) == self.before.st_ino and self._untouched() and _unwritten(self.old):
            self.discard()
            return True
        _put_back(self.folder, marked, self.name, ours)
        if _version(os.fstat(self.new)) != _version(made) and _inode(marked, self.folder) == ours:
            # While it stood there someone wrote into it, and that is the last word.
            _put_back(self.folder, marked, self.name, self.before.st_ino)
        return False

    def _untouched(self) -> bool:
        return _version(os.fstat(self.old)) == _version(self.before)


def _begin(folders: _Folders, swap: Swap, stack: ExitStack) -> _Successor | None:
    """The whole new file, not yet synchronised; None where the old one does not begin as it should."""
    try:
        folder, name = folders.find(swap.id)
        successor = _Successor.beside(folder, name, stack)
    except ConflictError:
        return None
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    size = successor.before.st_size
    start = os.pread(successor.old, max(len(swap.old), min(size, _PIECE)), 0)
    if not start.startswith(swap.old):
        return None
    _write(successor.new, swap.new + start[len(swap.old) :])
    position = len(start)
    while position < size:
        copied = os.sendfile(successor.new, successor.old, position, size - position)
        if not copied:
            return None
        position += copied
    return successor


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _settled(descriptor: int) -> os.stat_result | None:
    """What the file is, once a further write is sure to leave another time stamp; None if writers give it no pause."""
    for _ in range(_PAUSES):
        facts = os.fstat(descriptor)
        since = time.time_ns() - facts.st_mtime_ns
        if abs(since) >= _TICK:
            return facts
        time.sleep((_TICK - since) / 1e9)
    return None


def _version(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_file(name: str, folder: int, facts: os.stat_result) -> bool:
    try:
        return _version(os.stat(name, dir_fd=folder, follow_symlinks=False)) == _version(facts)
    except FileNotFoundError:
        return False


def _inode(name: str, folder: int) -> int | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None


def _unwritten(descriptor: int) -> bool:
    """Whether no process has the file open for writing, as far as the kernel tells; for an instant nobody can."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return True
    try:
        # Should someone open it in between: a signal that is ignored, not the SIGIO that would end the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno != errno.EAGAIN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _put_back(folder: int, aside: str, name: str, ours: int) -> None:
    """Another program's file came out: exchange until what comes out is what went in last."""
    expected = ours
    while True:
        going_in = _inode(aside, folder)
        try:
            _exchange(folder, aside, name)
        except FileNotFoundError:
            # It was removed meanwhile, by someone who meant what came out, or ours.
            return
        if going_in is None or _inode(aside, folder) == expected:
            return
        expected = going_in


def _copy_owner(old: int, new: int, before: os.stat_result) -> None:
    made = os.fstat(new)
    if (before.st_uid, before.st_gid) != (made.st_uid, made.st_gid):
        os.fchown(new, before.st_uid, before.st_gid)
    os.fchmod(new, before.st_mode & 0o7777)
    if hasattr(os, "listxattr"):
        with suppress(OSError):  # a file system without them, or a security label that only the kernel sets
            for attribute in os.listxattr(old):
                os.setxattr(new, attribute, os.getxattr(old, attribute))


def _synchronise(descriptors: Iterable[int]) -> None:
    """Bring files or folders to the disk."""
    left = set(descriptors)
    call = _function("syncfs")
    if len(left) > _FEW and call is not None:
        places = {os.fstat(descriptor).st_dev: descriptor for descriptor in left}
        for descriptor in places.values():
            if call(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        return
    for descriptor in left:
        os.fsync(descriptor)


@cache
def _function(name: str) -> Callable[..., int] | None:
    """A function of the C library that Python lacks; None where the system has none."""
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


def _exchange(folder: int, one: str, other: str) -> bool:
    """Let two names of a folder change files, in one step; False where the system cannot."""
    call = _function("renameat2")
    if call is None:
        return False
    if call(folder, os.fsencode(one), folder, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), one)


# Tidying up


def _tidy(folder: int, name: str) -> None:
    """Remove a temporary file that nobody holds; if it is a write that came out of an exchange, put it back first."""
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if error.errno in _GONE:
            return
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        facts = os.fstat(descriptor)
        found = _TEMPORARY.fullmatch(name)
        if name.endswith(".tmp") or found is None:
            return
        if found.group(1) is not None and facts.st_ino != (ours := int(found.group(1))):
            time.sleep(max(0.0, _SETTLED - (time.time() - facts.st_ctime)))
            if (facts.st_ino, facts.st_mtime_ns) != (int(found.group(2)), int(found.group(3))):
                _restore(folder, name, ours)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _restore(folder: int, aside: str, ours: int) -> None:
    # A descriptor of its own: one that is duplicated shares its position with the walk.
    again = os.open(".", _FOLDER, dir_fd=folder)
    try:
        with os.scandir(again) as names:
            place = next((found.name for found in names if found.inode() == ours), None)
    finally:
        os.close(again)
    if place is not None:
        _put_back(folder, aside, place, ours)
