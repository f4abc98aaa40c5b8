"""Inputs that several contracts share: bytes in every form, and damage in every place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from anykms_contract.clauses import each

Form = Callable[[bytes], bytes | bytearray | memoryview]

_FORMS: Final[Mapping[str, Form]] = {
    "bytearray": bytearray,
    "memoryview": memoryview,
    "part-of-a-memoryview": lambda data: memoryview(b"\0" + data + b"\0")[1:-1],
    "strided-memoryview": lambda data: memoryview(bytes(b for byte in data for b in (byte, 0)))[::2],
}
FORMS = each("form", _FORMS)
"""The bytes-like forms that mean the same as bytes; ``form`` makes one of them of bytes."""

NOT_BYTES = each("wrong", {"str": "text", "none": None, "int": 7, "list": [1, 2], "bool": True})
"""Values that are not bytes-like."""


def flipped(data: bytes) -> Iterator[tuple[int, bytes]]:
    """``data`` with one byte changed: each byte twice, its lowest bit and its highest."""
    for index in range(len(data)):
        for mask in (0x01, 0x80):
            yield index, data[:index] + bytes([data[index] ^ mask]) + data[index + 1 :]


def cut(data: bytes) -> Iterator[bytes]:
    """``data`` without its end, from nothing to all but the last byte."""
    for size in range(len(data)):
        yield data[:size]
