"""Messages of any size in constant memory: written and read in order, or read anywhere.

What is handed out has been authenticated, always: whole chunks, by way of one internal buffer that is zeroed when a
tag is wrong. A reader learns only at the end that nothing is missing, so it says so there.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from anykms.audit import Afterwards
from anykms.envelope.message import (
    BODY_START,
    CHUNK,
    HEAD_START,
    SEALED_CHUNK,
    BodyKey,
    HeaderFacts,
    Message,
    head_size,
)
from anykms.errors import InvalidArgumentError, InvalidCiphertextError, TruncatedMessageError
from anykms.payload import buffer as flat
from anykms.wrapping import NOT_AUTHENTIC

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_UNIT_CHUNKS: Final = 64
UNIT: Final = _UNIT_CHUNKS * CHUNK
"""Bytes of plaintext handled at once: 1 MiB."""
_SEALED_UNIT: Final = _UNIT_CHUNKS * SEALED_CHUNK
_SEALED_PIECE: Final = 16 * SEALED_CHUNK
"""Bytes read at once: 256 KiB stay in a processor's cache while they are decrypted and copied."""
_KEPT_CHUNKS: Final = 16
_END_MISSING: Final = "the end of the message is missing or altered"
_NOT_READ: Final = "the message was not read to its end, so nothing shows that it is whole"


class Sink(Protocol):
    """Where a message goes: any binary file that can be written."""

    def write(self, data: bytes | memoryview, /) -> int | None: ...


class Source(Protocol):
    """Where a message comes from: any binary file that can be read."""

    def read(self, size: int, /) -> bytes | None: ...


class _Owner:
    """The process and the thread that a stream belongs to.

    A child of a fork has a copy of the encryptor's state: two writers would use one key and nonce twice.
    """

    __slots__ = ("_forks", "_thread")
    forks = 0

    def __init__(self) -> None:
        self._forks = _Owner.forks
        self._thread = threading.get_ident()

    def check(self) -> None:
        """Raises InvalidArgumentError in any other process or thread."""
        if self._forks != _Owner.forks:
            raise InvalidArgumentError(
                "a stream stays in the process that opened it; open another after a fork"
            )
        if self._thread != threading.get_ident():
            raise InvalidArgumentError("a stream stays in the thread that opened it; open one in each thread")

    @classmethod
    def forked(cls) -> None:
        cls.forks += 1


os.register_at_fork(after_in_child=_Owner.forked)


class MessageWriter(io.RawIOBase):
    """A binary file that encrypts what is written to it. ``Keyring.encrypt_stream`` makes one.

    ``close`` writes the end of the message; without it the message does not open. Leaving a ``with`` block by an
    exception aborts instead. The sink stays open. It belongs to one thread and one process. Do not snapshot a
    machine while one is open: a snapshot that is resumed twice would use one key and nonce twice.
    """

    def __init__(self, sink: Sink, header: bytes, key: BodyKey, aad: bytes) -> None:
        super().__init__()
        self._sink = sink
        self._header = header
        self._key = key
        self._aad = aad
        self._owner = _Owner()
        self._encryptor: Cobblestone256Encryptor | None = None
        self._sealed = bytearray()
        self._failed = False

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Encrypt bytes; all of them are taken.

        Raises:
            TypeError: not bytes-like.
            InvalidArgumentError: another thread or process than the one that opened it.
            ValueError: it is closed, or a write failed before.
        """
        self._check()
        view = memoryview(flat(data, "data"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # checked there
        encryptor = self._started()
        for start in range(0, len(view), UNIT):
            size = encryptor.update_into(view[start : start + UNIT], self._sealed)
            self._put(memoryview(self._sealed)[:size])
        return len(view)

    def close(self) -> None:
        """Write the end of the message. A second call does nothing."""
        if self.closed:
            return
        try:
            if not self._failed:
                self._owner.check()
                self._put(memoryview(self._started().finalize()))
        finally:
            super().close()

    def abort(self) -> None:
        """Close without an end: what was written stays unreadable as a whole."""
        self._failed = True
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # A file that nobody closed was not finished: its message must not look whole.
        self.abort()

    def _check(self) -> None:
        if self.closed or self._failed:
            raise ValueError("the stream is closed, or a write to its sink has failed")
        self._owner.check()

    def _started(self) -> Cobblestone256Encryptor:
        if self._encryptor is None:
            self._put(memoryview(self._header))
            # Drawn now and not at opening, so that a fork in between copies no salt.
            self._encryptor = self._key.encryptor(self._aad)
            self._sealed = bytearray(BODY_START + _SEALED_UNIT + SEALED_CHUNK)
        return self._encryptor

    def _put(self, data: memoryview) -> None:
        try:
            write_all(self._sink, data)
        except BaseException:
            self._failed = True
            raise


class MessageReader(io.BufferedIOBase):
    """A binary file that decrypts as it is read. ``Keyring.decrypt_stream`` makes one.

    Everything it gives is authenticated, but that nothing is missing shows only at the end: act on the whole only
    once it has been read, or once ``close`` has returned. The source stays open.
    """

    def __init__(self, source: Source, key: BodyKey, aad: bytes, facts: HeaderFacts) -> None:
        super().__init__()
        self.facts = facts
        """What the authentic header says."""
        self._source = source
        self._owner = _Owner()
        self._decryptor = key.decryptor(aad)
        self._sealed = memoryview(bytearray(BODY_START + _SEALED_PIECE))
        self._plain = bytearray(BODY_START + _SEALED_PIECE)
        # After the first read every other one begins with a chunk, so that none is kept back and copied.
        self._wanted = BODY_START + _SEALED_PIECE
        # Reading into memory that is there spares what new memory costs; a class of others may have read only.
        known = type(source) in (io.FileIO, io.BufferedReader, io.BytesIO)
        self._readinto: Callable[[memoryview], int | None] | None = source.readinto if known else None  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] # these three have it
        self._start = self._end = 0
        self._finished = False
        self._broken: InvalidCiphertextError | None = None
        self._audit = Afterwards()

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, target: WriteableBuffer, /) -> int:
        """Fill ``target`` as far as the next chunks go; 0 at the end.

        Raises:
            InvalidCiphertextError: a chunk is not authentic.
            TruncatedMessageError: the last chunk is missing or altered.
            InvalidArgumentError: another thread or process than the one that opened it.
        """
        view = memoryview(target).cast("B")
        taken = self._take(len(view))
        view[: len(taken)] = taken
        return len(taken)

    def readinto1(self, target: WriteableBuffer, /) -> int:
        """The same as ``readinto``."""
        return self.readinto(target)

    def read1(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes, of one unit; empty at the end. Raises as ``readinto``."""
        self._check()
        if self._start == self._end and (size < 0 or size >= len(self._plain) + CHUNK):
            return self._piece()
        return bytes(self._take(UNIT if size < 0 else size))

    def read(self, size: int | None = -1, /) -> bytes:
        """``size`` bytes, fewer only at the end; all for None or a negative size. Raises as ``readinto``."""
        pieces: list[bytes] = []
        left = None if size is None or size < 0 else size
        while left is None or left > 0:
            piece = self.read1(UNIT if left is None else min(left, UNIT))
            if not piece:
                break
            pieces.append(piece)
            left = None if left is None else left - len(piece)
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """The plaintext, up to 256 KiB at a time. Raises as ``readinto``."""
        while piece := self.read1():
            yield piece

    def close(self) -> None:
        """Close; the source stays open.

        Raises:
            TruncatedMessageError: the end of the message has not been read, so it may be missing.
            InvalidCiphertextError: the failure that a read has met, again.
        """
        if self.closed:
            return
        super().close()
        self._forget()
        if self._broken is not None:
            raise self._broken
        if not self._finished:
            unread = TruncatedMessageError(_NOT_READ)
            self._audit.refused("MessageReader.close", unread)
            raise unread

    def abort(self) -> None:
        """Close without asking whether the message is whole."""
        self._forget()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        self.abort()

    def _take(self, size: int) -> memoryview:
        """Up to ``size`` bytes of the buffer, filled first where it is empty."""
        self._check()
        while self._start == self._end and not self._finished and size:
            self._fill()
        start, self._start = self._start, min(self._end, self._start + size)
        return memoryview(self._plain)[start : self._start]

    def _check(self) -> None:
        if self.closed:
            raise ValueError("the stream is closed")
        self._owner.check()
        if self._broken is not None:
            raise self._broken

    def _fill(self) -> None:
        sealed = self._next()
        try:
            if sealed:
                self._start, self._end = 0, self._decryptor.update_into(sealed, self._plain)
            else:
                last = self._decryptor.finalize()
                self._plain[: len(last)] = last
                self._start, self._end, self._finished = 0, len(last), True
        except InvalidTag as error:
            # update_into leaves what it could not authenticate in the buffer.
            self._forget()
            raise self._break(sealed) from error

    def _piece(self) -> bytes:
        """What ``_fill`` would put into the buffer, without a copy; empty at the end."""
        piece = b""
        while not piece and not self._finished:
            sealed = self._next()
            try:
                piece = self._decryptor.update(sealed) if sealed else self._decryptor.finalize()
            except InvalidTag as error:
                raise self._break(sealed) from error
            self._finished = not sealed
        return piece

    def _break(self, sealed: bytes | memoryview) -> InvalidCiphertextError:
        """The error of this and of every later read; the audit trail hears of it once."""
        self._broken = (
            InvalidCiphertextError(NOT_AUTHENTIC) if sealed else TruncatedMessageError(_END_MISSING)
        )
        self._audit.refused("MessageReader.read", self._broken)
        return self._broken

    def _next(self) -> bytes | memoryview:
        """The next sealed bytes, empty at the end."""
        if self._readinto is None:
            sealed: bytes | memoryview | None = self._source.read(self._wanted)
        else:
            size = self._readinto(self._sealed[: self._wanted])
            sealed = None if size is None else self._sealed[:size]
        if sealed is None:
            raise BlockingIOError("the source of a message must be a blocking file")
        self._wanted = _SEALED_PIECE
        return sealed

    def _forget(self) -> None:
        self._plain[:] = bytes(len(self._plain))
        self._start = self._end = 0


class MessageFile(io.BufferedIOBase):
    """A seekable binary file inside a message, decrypted where it is read. ``Keyring.open`` makes one.

    The last chunk is authenticated before a size is told or a byte is given, every other chunk whole before a byte of
    it is given. A file in which one chunk was found altered gives nothing more. It may be used by several threads, one
    at a time. It closes its source.
    """

    def __init__(
        self,
        source: io.BufferedIOBase | io.RawIOBase,
        key: BodyKey,
        aad: bytes,
        body: int,
        facts: HeaderFacts,
    ) -> None:
        super().__init__()
        self.facts = facts
        """What the authentic header says."""
        self._source = source
        self._lock = threading.Lock()
        self._audit = Afterwards()
        self._body = body + BODY_START
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._broken: InvalidCiphertextError | None = None
        self._position = 0
        source.seek(body)
        self._chunks = key.chunks(_exactly(source, BODY_START), aad)
        sealed = source.seek(0, io.SEEK_END) - self._body
        self._last, tail = divmod(sealed, SEALED_CHUNK)
        try:
            if tail < SEALED_CHUNK - CHUNK:
                raise InvalidCiphertextError(NOT_AUTHENTIC)
            self._tail_size = tail
            self._size = self._last * CHUNK + len(self._chunk(self._last))
        except InvalidCiphertextError as error:
            raise TruncatedMessageError(_END_MISSING) from error

    @property
    def size(self) -> int:
        """Size of the plaintext in bytes."""
        return self._size

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position in the plaintext."""
        self._check()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move, as in any file; beyond the end is allowed, before the beginning is a ValueError."""
        self._check()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in base or base[whence] + offset < 0:
            raise ValueError("no such position")
        self._position = base[whence] + offset
        return self._position

    def readinto(self, target: WriteableBuffer, /) -> int:
        """Fill ``target``; less only at the end.

        Raises:
            InvalidCiphertextError: a chunk is not authentic; nothing of it is given, nor of any other from then on.
        """
        self._check()
        view = memoryview(target).cast("B")
        with self._lock:
            done = 0
            while done < len(view) and self._position < self._size:
                index, offset = divmod(self._position, CHUNK)
                try:
                    piece = memoryview(self._chunk(index))[offset : offset + len(view) - done]
                except InvalidCiphertextError as error:
                    self._audit.refused("MessageFile.read", error)
                    raise
                view[done : done + len(piece)] = piece
                done += len(piece)
                self._position += len(piece)
            return done

    def read(self, size: int | None = -1, /) -> bytes:
        """``size`` bytes, fewer only at the end; all the rest for None or a negative size. Raises as ``readinto``."""
        self._check()
        left = max(0, self._size - self._position)
        target = bytearray(left if size is None or size < 0 else min(size, left))
        got = self.readinto(target)
        return bytes(target) if got == len(target) else bytes(memoryview(target)[:got])

    def read1(self, size: int = -1, /) -> bytes:
        """The same as ``read``."""
        return self.read(size)

    def readinto1(self, target: WriteableBuffer, /) -> int:
        """The same as ``readinto``."""
        return self.readinto(target)

    def close(self) -> None:
        """Close, and close the source."""
        if not self.closed:
            self._kept.clear()
            try:
                self._source.close()
            finally:
                super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")

    def _chunk(self, index: int) -> bytes:
        if self._broken is not None:
            raise self._broken
        known = self._kept.get(index)
        if known is not None:
            self._kept.move_to_end(index)
            return known
        self._source.seek(self._body + index * SEALED_CHUNK)
        size = self._tail_size if index == self._last else SEALED_CHUNK
        try:
            plain = self._chunks.open(index, _exactly(self._source, size))
        except InvalidCiphertextError as error:
            self._kept.clear()
            self._broken = error
            raise
        self._kept[index] = plain
        if len(self._kept) > _KEPT_CHUNKS:
            self._kept.popitem(last=False)
        return plain


def read_head(source: Source) -> Message:
    """The header of a message, read from a file that stands at its beginning; no byte more is taken.

    Raises:
        UnsupportedVersionError, InvalidCiphertextError: no message begins there.
    """
    start = _exactly(source, HEAD_START)
    return Message(start + _exactly(source, head_size(start) - HEAD_START))


def write_all(sink: Sink, data: memoryview) -> None:
    """Write all of ``data``, however little the sink takes at a time."""
    while data:
        written = sink.write(data)
        data = data[len(data) if written is None else written :]


def copy_rest(source: Source, sink: Sink) -> None:
    """Copy bytes to the source's end."""
    while piece := source.read(UNIT):
        write_all(sink, memoryview(piece))
    if piece is None:
        raise BlockingIOError("the source of a message must be a blocking file")


def _exactly(source: Source, size: int) -> bytes:
    """``size`` bytes. Raises InvalidCiphertextError where the source ends before."""
    pieces: list[bytes] = []
    left = size
    while left:
        piece = source.read(left)
        if piece is None:
            raise BlockingIOError("the source of a message must be a blocking file")
        if not piece:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
