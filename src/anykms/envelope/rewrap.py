"""What became of a message that was rewrapped or reencrypted, and how a file is replaced by its successor."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, ClassVar, TypeVar

from anykms.errors import ConflictError
from anykms.keys import KeyURI

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """A message with other recipients and the same data key and body. Nothing was decrypted.

    Attributes:
        message: the whole message, or record; empty where a stream or a file holds it.
        record_id: 16 bytes, unchanged.
        generation: one more than before. Remember it as ``min_generation``, so that the old header is refused.
        recipients: the keys that open it now, without versions.
        removed: those that opened it before and are not named any more.
        opened_by: the key that the data key came through.
        sender_authenticated: whether that proves who made the message; if it does not, no new recipient proves it.
    """

    operation: ClassVar[str] = "rewrap"
    message: bytes = field(repr=False)
    record_id: bytes
    generation: int
    recipients: tuple[KeyURI, ...]
    removed: tuple[KeyURI, ...]
    opened_by: KeyURI
    sender_authenticated: bool

    @property
    def not_achieved(self) -> str:
        """What a rewrap cannot do, in words for a person."""
        gone = ", ".join(str(uri) for uri in self.removed) or "nobody here"
        return (
            "The data key is the same. Every present recipient, and every removed one that kept the data key "
            f"({gone}), can still read this message (of a record, every value) and can replace its body and "
            "recipients undetected. After a compromise use reencrypt. No key was rotated."
        )


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """A new message with the old one's plaintext, context and aad, under a new data key.

    Attributes:
        message: the whole message; empty where a stream or a file holds it.
        record_id: 16 bytes, another than before.
        generation: 0.
        recipients: the keys that open it, without versions.
        removed: those that open the old message and not this one.
        opened_by: the key that opened the old message.
        sender_authenticated: whether the old message's sender was; if not, the new one says so too.
    """

    operation: ClassVar[str] = "reencrypt"
    message: bytes = field(repr=False)
    record_id: bytes
    generation: int
    recipients: tuple[KeyURI, ...]
    removed: tuple[KeyURI, ...]
    opened_by: KeyURI
    sender_authenticated: bool

    @property
    def not_achieved(self) -> str:
        """What a new data key cannot do, in words for a person."""
        return (
            "Copies of the old message, in backups for example, stay readable for its recipients, and whoever has "
            "read it knows the plaintext. Whoever can write the store can put the old message back. "
            "No key was rotated."
        )


def replace_file(path: str | os.PathLike[str], write: Callable[[BinaryIO, BinaryIO], T]) -> T:
    """Give a file new content at once or not at all, by way of a temporary file beside it.

    Mode, owner and group are kept, access lists and extended attributes are not; a symbolic link stays and its target
    is replaced; other hard links keep the old content.

    Args:
        write: reads the old content from its first argument and writes the new one to its second.

    Raises:
        ConflictError: the file was changed meanwhile; it is left as it is.
        OSError: it cannot be read, or no file can be made beside it.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    with open(target, "rb", buffering=0) as source:
        before = os.fstat(source.fileno())
        handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)[:100]}.", dir=folder)
        try:
            with open(handle, "wb", buffering=0) as sink:
                result = write(source, sink)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.fstat(sink.fileno()).st_gid):
                    os.fchown(sink.fileno(), before.st_uid, before.st_gid)
                os.fchmod(sink.fileno(), before.st_mode & 0o7777)
                os.fsync(sink.fileno())
            if _state(os.stat(target)) != _state(before):
                raise ConflictError(
                    "the file was changed while its successor was written; nothing was replaced"
                )
            os.replace(temporary, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return result


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
