"""How a 32-byte data key is wrapped under any key (docs/message-format.md).

With associated data where the provider has it; through an intermediate key and a sender signature where it
has RSA only.
"""

from __future__ import annotations

import hashlib
import os
from binascii import b2a_base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Final, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from anykms.algorithms import Algorithm
from anykms.errors import InvalidArgumentError, InvalidCiphertextError, InvalidSignatureError
from anykms.keys import MAX_URI_SIZE, KeyInfo, KeyURI
from anykms.provider import DATA_KEY_SIZE, WrapContext, Wrapped

A256GCM: Final = "A256GCM"
RSA: Final = "RSA-OAEP-256+A256GCM"
RSA_WITH_SENDER: Final = "RSA-OAEP-256+A256GCM+ES256"

NOT_AUTHENTIC: Final = "not authentic under this key, context and aad: altered, or made under others"
"""The one text of every failure to open something."""

_MAX_WRAPPED: Final = 4096
_SEALED_KEY_SIZE: Final = DATA_KEY_SIZE + 16
_SENDER_SIGNATURE_SIZE: Final = 64
_RSA_SIZES: Final = (256, 384, 512)
# The intermediate key encrypts once in its life, so a fixed nonce never repeats under it.
_SINGLE_USE_NONCE: Final = bytes(12)
_SHA512: Final = SHA512()
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_NO_CONTEXT: Final = WrapContext({}, b"")


class WrappedKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A data key wrapped under one key: a recipient of a message. Nothing in it is trusted before it opens."""

    uri: Annotated[str, msgspec.Meta(max_length=MAX_URI_SIZE)]
    algorithm: Annotated[str, msgspec.Meta(max_length=32)]
    wrapped: Annotated[bytes, msgspec.Meta(min_length=1, max_length=_MAX_WRAPPED)]
    origin: Annotated[int, msgspec.Meta(ge=0, le=1)]
    data_key: Annotated[bytes, msgspec.Meta(max_length=_SEALED_KEY_SIZE)]
    sender: Annotated[bytes, msgspec.Meta(max_length=_SENDER_SIGNATURE_SIZE)]

    @property
    def sender_authenticated(self) -> bool:
        """Whether opening it proves that someone with the right to encrypt made it."""
        return self.algorithm != RSA and self.origin == 0

    def key_uri(self) -> KeyURI:
        """The key it is for, with the version it was wrapped under where there is one.

        Raises:
            InvalidCiphertextError: the fields do not fit together, or the URI is not canonical.
        """
        if self.algorithm == A256GCM:
            fits = not self.data_key and not self.sender
        else:
            fits = (
                self.algorithm in (RSA, RSA_WITH_SENDER)
                and len(self.wrapped) in _RSA_SIZES
                and len(self.data_key) == _SEALED_KEY_SIZE
                and len(self.sender) == (_SENDER_SIGNATURE_SIZE if self.algorithm == RSA_WITH_SENDER else 0)
            )
        if not fits:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        try:
            return _read_uri(self.uri)
        except InvalidArgumentError as error:
            raise InvalidCiphertextError(NOT_AUTHENTIC) from error


class Wrapper(Protocol):
    """One wrapping key as this module needs it; ``anykms.client`` makes them from a ``Key``."""

    @property
    def info(self) -> KeyInfo: ...

    def wrap(self, secret: bytes, context: WrapContext) -> Wrapped: ...

    def unwrap(self, wrapped: bytes, version: str | None, context: WrapContext) -> bytes: ...

    def sign_as_sender(self, digest: bytes) -> bytes:
        """P1363 signature, 64 bytes, by the companion sender key."""
        ...

    def verify_sender(self, digest: bytes, signature: bytes) -> None:
        """Raises InvalidSignatureError unless the pinned sender key made the signature."""
        ...


def wrap_algorithm(info: KeyInfo) -> str:
    """How data keys are wrapped under the key."""
    if info.algorithm is Algorithm.A256GCM:
        return A256GCM
    return RSA if info.sender_fingerprint is None else RSA_WITH_SENDER


def wrap_data_key(key: Wrapper, data_key: bytes, *, bound: WrapContext, origin: int) -> WrappedKey:
    """Wrap ``data_key`` (32 bytes), bound to what ``wrap_context`` made."""
    algorithm = wrap_algorithm(key.info)
    if algorithm == A256GCM:
        result = key.wrap(data_key, bound)
        sealed = sender = b""
    else:
        bind = bound.aad
        intermediate = os.urandom(DATA_KEY_SIZE)
        result = key.wrap(intermediate, _NO_CONTEXT)
        sealed = _intermediate_cipher(intermediate, bind).encrypt(_SINGLE_USE_NONCE, data_key, bind)
        sender = b""
        if algorithm == RSA_WITH_SENDER:
            sender = key.sign_as_sender(_sender_digest(bind, result.ciphertext, sealed))
    return WrappedKey(
        _spelt(key.info.uri, result.version), algorithm, result.ciphertext, origin, sealed, sender
    )


def unwrap_data_key(key: Wrapper, wrapped: WrappedKey, *, bound: WrapContext) -> bytes:
    """The 32-byte data key that ``wrap_data_key`` wrapped under the same key, bound to the same.

    Raises:
        InvalidCiphertextError: anything else, with one text; a bad sender signature before any call is made.
    """
    version = wrapped.key_uri().version
    allowed = wrap_algorithm(key.info)
    # A key with a sender key may still open what lacks the signature, where the policy lets it come this far.
    if wrapped.algorithm != allowed and not (allowed == RSA_WITH_SENDER and wrapped.algorithm == RSA):
        raise InvalidCiphertextError(NOT_AUTHENTIC)
    try:
        if wrapped.algorithm == A256GCM:
            return _exactly_32(key.unwrap(wrapped.wrapped, version, bound))
        bind = bound.aad
        if wrapped.algorithm == RSA_WITH_SENDER:
            key.verify_sender(_sender_digest(bind, wrapped.wrapped, wrapped.data_key), wrapped.sender)
        intermediate = _exactly_32(key.unwrap(wrapped.wrapped, version, _NO_CONTEXT))
        cipher = _intermediate_cipher(intermediate, bind)
        return _exactly_32(cipher.decrypt(_SINGLE_USE_NONCE, wrapped.data_key, bind))
    except InvalidCiphertextError as error:
        raise InvalidCiphertextError(NOT_AUTHENTIC, request_id=error.request_id) from error
    except (InvalidSignatureError, InvalidTag) as error:
        raise InvalidCiphertextError(NOT_AUTHENTIC) from error


# A reader meets the same few keys over and over; both caches hold names only.
@lru_cache(maxsize=1024)
def _read_uri(text: str) -> KeyURI:
    return KeyURI.parse(text)


@lru_cache(maxsize=1024)
def _spelt(uri: KeyURI, version: str | None) -> str:
    return str(uri.with_version(version))


def wrap_context(bind: bytes, pairs: Mapping[str, str]) -> WrapContext:
    """What a data key is bound to while it is wrapped: ``bind`` (32 bytes) and the readable ``pairs``."""
    # Base64 of 32 bytes is 43 characters and one "=".
    text = b2a_base64(bind, newline=False).translate(_URL_SAFE)[:43].decode()
    return WrapContext({**pairs, "anykms:bind": text}, bind)


def _intermediate_cipher(intermediate: bytes, bind: bytes) -> AESGCM:
    return AESGCM(HKDFExpand(_SHA512, 32, b"anykms/v1 ik" + bind).derive(intermediate))


def _sender_digest(bind: bytes, wrapped: bytes, sealed: bytes) -> bytes:
    framed = b"anykms/v1 sender" + bind + len(wrapped).to_bytes(4) + wrapped + sealed
    return hashlib.sha256(framed).digest()


def _exactly_32(secret: bytes) -> bytes:
    if len(secret) != DATA_KEY_SIZE:
        raise InvalidCiphertextError(NOT_AUTHENTIC)
    return secret
