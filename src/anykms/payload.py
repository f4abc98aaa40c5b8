"""Payloads are bytes-like, everywhere; a str is never encoded on the caller's behalf."""

from __future__ import annotations

from typing import TypeAlias

BytesLike: TypeAlias = bytes | bytearray | memoryview


def buffer(value: BytesLike, what: str) -> bytes | memoryview:
    """``value`` as bytes or as a flat memoryview of bytes, copied only if it is not contiguous.

    Raises:
        TypeError: not bytes, bytearray or memoryview; ``what`` names the argument.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        view = memoryview(value)
        return view.cast("B") if view.c_contiguous and view.nbytes else bytes(view)
    raise TypeError(f"{what} is bytes, bytearray or memoryview, not {type(value).__name__}")


def octets(value: BytesLike, what: str) -> bytes:
    """``value`` as bytes; copied unless it is bytes already.

    >>> octets(memoryview(b"abc")[1:], "message")
    b'bc'

    Raises:
        TypeError: not bytes, bytearray or memoryview; ``what`` names the argument.
    """
    return bytes(buffer(value, what))
