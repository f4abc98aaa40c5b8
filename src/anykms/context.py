"""The encryption context: visible name-value pairs that a ciphertext is bound to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from anykms.errors import InvalidArgumentError

EncryptionContext = Mapping[str, str]
"""Pairs bound to a ciphertext. They are not secret: the KMS's audit log shows them."""

LABEL: Final = b"anykms/v1 ctx"
MAX_PAIRS: Final = 32
MAX_CANONICAL_SIZE: Final = 4096
_RESERVED_PREFIXES: Final = ("anykms", "aws")


def validate(context: EncryptionContext) -> dict[str, str]:
    """A plain copy of ``context``, in canonical order, once it keeps every rule.

    Args:
        context: at most 32 pairs, 4096 canonical bytes. Names and values are not empty and are compared
            code point by code point, without normalisation. The prefixes ``anykms`` and ``aws`` are reserved.

    Raises:
        TypeError: not a mapping of str to str.
        InvalidArgumentError: a rule is broken.
    """
    return dict(canonicalise(context)[0])


def canonical_bytes(context: EncryptionContext) -> bytes:
    """The bytes that stand for ``context`` in every key derivation.

    ``b"anykms/v1 ctx"`` then, sorted by UTF-8 bytes of the name, u32be length, name, u32be length, value.

    >>> canonical_bytes({"tenant": "42"}).hex(" ", -4)
    '616e796b 6d732f76 31206374 78000000 0674656e 616e7400 00000234 32'
    >>> canonical_bytes({})
    b'anykms/v1 ctx'

    Raises:
        TypeError: not a mapping of str to str.
        InvalidArgumentError: a rule of ``validate`` is broken.
    """
    return canonicalise(context)[1]


def canonicalise(context: EncryptionContext) -> tuple[Mapping[str, str], bytes]:
    """``validate``, read-only, and ``canonical_bytes`` at once."""
    if context.__class__ is not dict and not isinstance(context, Mapping):
        raise TypeError(
            f"context is a mapping of str to str, not {type(context).__name__}; write {{}} for none"
        )
    pairs = tuple(context.items())
    try:
        return _canonicalised(pairs)
    except TypeError:
        return _canonical(pairs)  # not hashable, so not str: it says so


def _canonical(context: tuple[tuple[str, str], ...]) -> tuple[Mapping[str, str], bytes]:
    if len(context) > MAX_PAIRS:
        raise InvalidArgumentError(f"context has {len(context)} pairs; at most {MAX_PAIRS} are allowed")
    encoded = sorted((_encode(name), _encode(value), name, value) for name, value in context)
    parts = [LABEL]
    for name_bytes, value_bytes, name, _ in encoded:
        if name.startswith(_RESERVED_PREFIXES):
            raise InvalidArgumentError(f"context name {name!r}: the prefixes anykms and aws are reserved")
        parts += (len(name_bytes).to_bytes(4), name_bytes, len(value_bytes).to_bytes(4), value_bytes)
    canonical = b"".join(parts)
    if len(canonical) > MAX_CANONICAL_SIZE:
        raise InvalidArgumentError(
            f"context takes {len(canonical)} canonical bytes; at most {MAX_CANONICAL_SIZE} are allowed"
        )
    return MappingProxyType({name: value for _, _, name, value in encoded}), canonical


# An application meets few contexts, and meets them with every message.
_canonicalised = lru_cache(maxsize=256)(_canonical)


def _encode(text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"context names and values are str, not {type(text).__name__}")
    if not text:
        raise InvalidArgumentError("context names and values must not be empty")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError("context names and values must not hold lone surrogates") from None
