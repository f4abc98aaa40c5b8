"""A big encrypted file, one byte flipped or the end cut off, many times: what do the readers still give?

``python benchmarks/tampering.py [BYTES]``; benchmarks/performance.py runs it too.
"""

from __future__ import annotations

import io
import os
import random
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import peers
from anykms import Keyring
from anykms.envelope.message import BODY_START, CHUNK, SEALED_CHUNK, Message
from anykms.errors import InvalidCiphertextError, KMSError, TruncatedMessageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_STREAMED: Final = 200
"""Flips and cuts that a stream is read for; each reads everything before it."""


class Altered(io.RawIOBase):
    """A file over ``data`` that ends early, or has one bit of one byte flipped, without a copy of the rest."""

    def __init__(self, data: bytes, *, end: int | None = None, flipped: int | None = None) -> None:
        super().__init__()
        self._data = memoryview(data)[:end]
        self._flipped = flipped
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As in any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        """As in any file."""
        return self._position

    def readinto(self, target: WriteableBuffer, /) -> int:
        """As in any file."""
        view = memoryview(target).cast("B")
        piece = self._data[self._position : self._position + len(view)]
        view[: len(piece)] = piece
        if self._flipped is not None and 0 <= self._flipped - self._position < len(piece):
            view[self._flipped - self._position] ^= 0x01
        self._position += len(piece)
        return len(piece)


class _Attack:
    def __init__(self, ring: Keyring, plain: bytes, sealed: bytes) -> None:
        self.ring = ring
        self.plain = plain
        self.sealed = sealed
        self.body = len(sealed) - Message(sealed).header.body_size
        self.most = 0

    def stream(self, source: Altered) -> BinaryIO:
        return cast("BinaryIO", self.ring.decrypt_stream(source, context=peers.CONTEXT))

    def file(self, source: Altered) -> BinaryIO:
        return cast("BinaryIO", self.ring.open(source, context=peers.CONTEXT))

    def chunk_of(self, position: int) -> int:
        return max(0, position - self.body - BODY_START) // SEALED_CHUNK

    def flipped(self, position: int, start: Callable[[Altered], BinaryIO], *, at: int = 0) -> None:
        """Read from ``at`` on. Raises AssertionError if anything of the chunk, or after it, comes out."""
        done, limit = at, self.chunk_of(position) * CHUNK
        try:
            with start(Altered(self.sealed, flipped=position)) as reader:
                if at:
                    reader.seek(at)
                while piece := reader.read(peers.UNIT if not at else CHUNK):
                    done += len(piece)
                    if done > limit or piece != self.plain[done - len(piece) : done]:
                        raise AssertionError(f"byte {position} flipped, and {done} bytes came out")
        except KMSError:
            return
        raise AssertionError(f"byte {position} flipped, and nobody noticed")

    def cut(self, end: int) -> None:
        """Raises AssertionError unless a file of ``end`` bytes is refused before it tells its length."""
        try:
            self.ring.open(Altered(self.sealed, end=end), context=peers.CONTEXT).close()
        except InvalidCiphertextError as error:
            if end >= self.body + BODY_START and not isinstance(error, TruncatedMessageError):
                raise AssertionError(f"cut at {end}, and called {type(error).__name__}") from error
            return
        raise AssertionError(f"cut at {end}, and opened")

    def cut_stream(self, end: int) -> None:
        """Raises AssertionError unless a stream of ``end`` bytes ends with an error, its pieces authentic."""
        done = 0
        try:
            with self.stream(Altered(self.sealed, end=end)) as reader:
                while piece := reader.read(peers.UNIT):
                    done += len(piece)
                    if piece != self.plain[done - len(piece) : done]:
                        raise AssertionError(f"cut at {end}, and other bytes came out")
        except InvalidCiphertextError:
            return
        raise AssertionError(f"cut at {end}, and the stream ended as if whole")


def attack(size: int, *, seed: int = 7) -> dict[str, object]:
    """Flip and cut a message of ``size`` bytes of plaintext.

    Returns:
        How many flips and cuts there were; all of them were noticed, and nothing came out that must not.

    Raises:
        AssertionError: one was not.
    """
    began = time.monotonic()
    ring, plain = peers.ring(), os.urandom(size)
    sealed = ring.encrypt(plain, context=peers.CONTEXT)
    them = _Attack(ring, plain, sealed)
    chance = random.Random(seed)  # noqa: S311 # which bytes are tried, no secret
    start = them.body + BODY_START
    head = range(start)
    chunks = range(them.chunk_of(len(sealed) - 1) + 1)
    edges = [start + index * SEALED_CHUNK for index in chunks]
    inside = [chance.randrange(edge, min(edge + SEALED_CHUNK, len(sealed))) for edge in edges]
    for position in head:
        them.flipped(position, them.stream)
        them.flipped(position, them.file)
    # Random access goes to the chunk itself; what it gives before is judged by the streams.
    for position in (*edges[:-1], *inside):
        them.flipped(position, them.file, at=them.chunk_of(position) * CHUNK)
    streamed = [*chance.sample(range(start, len(sealed)), _STREAMED), start, len(sealed) - 1]
    for position in streamed:
        them.flipped(position, them.stream)
    ends = sorted({*head, *edges[1:], *(edge + 1 for edge in edges[:-1]), *inside, len(sealed) - 1})
    for end in ends:
        them.cut(end)
    stream_ends = [*chance.sample(range(len(sealed)), _STREAMED // 2), *edges[-2:], len(sealed) - 1]
    for end in stream_ends:
        them.cut_stream(end)
    return {
        "size": size,
        "chunks": len(chunks),
        "head_bytes": len(head),
        "flips_random_access": len(head) + len(edges) - 1 + len(inside),
        "flips_streams": len(head) + len(streamed),
        "cuts_random_access": len(ends),
        "cuts_streams": len(stream_ends),
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    print(attack(int(sys.argv[1]) if len(sys.argv) > 1 else 100 * 1024 * 1024))
