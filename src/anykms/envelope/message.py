"""The message format, version 1: pure functions over bytes (docs/message-format.md).

    Message = Magic || u32be HeaderLength || Header || HeaderTag || Body

The body is C2SP chunked encryption (Cobblestone-256) by pyca. Nothing here does I/O, and nothing read from a
message is trusted before ``DataKey.check_tag`` has passed.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import lt
from typing import Annotated, Final

import msgspec
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from anykms.context import MAX_CANONICAL_SIZE, MAX_PAIRS, canonicalise
from anykms.errors import (
    ContextMismatchError,
    InvalidArgumentError,
    InvalidCiphertextError,
    UnsupportedVersionError,
)
from anykms.keys import KeyInfo, KeyURI
from anykms.payload import BytesLike, octets
from anykms.provider import WrapContext
from anykms.wrapping import NOT_AUTHENTIC, WrappedKey, Wrapper, wrap_context, wrap_data_key

VERSION: Final = 1
MAGIC: Final = b"\x8aAKMS\r\n" + bytes([VERSION])
SUITE: Final = 1
MAX_HEADER: Final = 65536
MAX_RECIPIENTS_WRITTEN: Final = 8
MAX_RECIPIENTS_READ: Final = 32
MAX_AAD: Final = 65536
MAX_GENERATION: Final = 2**32 - 1
_TAG_SIZE: Final = 32
_LENGTH_SIZE: Final = 4
HEAD_START: Final = len(MAGIC) + _LENGTH_SIZE
"""Bytes from which ``head_size`` tells where the body begins."""
_AROUND_HEADER: Final = HEAD_START + _TAG_SIZE
_SALT_SIZE: Final = 24
BODY_START: Final = _SALT_SIZE + 32
CHUNK: Final = 16384
SEALED_CHUNK: Final = CHUNK + 16
SHORTEST_BODY: Final = BODY_START + 16
ATTACHED: Final = b"\x00"
DETACHED: Final = b"\x01"
_CHUNKED_LABEL: Final = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"
SMALL: Final = 65536
"""Bytes from which a message is made and opened in one buffer, without a copy."""
_SHA256: Final = SHA256()
_SHA512: Final = SHA512()

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CANONICAL_SIZE)]


class Immutable(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """I of the format: one per data key, bound into everything derived from it."""

    suite: int
    record_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    context: Annotated[tuple[tuple[_Name, _Name], ...], msgspec.Meta(max_length=MAX_PAIRS)]
    required: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=MAX_PAIRS)]
    created: Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    immutable: Immutable
    recipients: Annotated[tuple[WrappedKey, ...], msgspec.Meta(min_length=1, max_length=MAX_RECIPIENTS_READ)]
    generation: Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Header).decode


class Binding:
    """What one data key is bound to: the immutable part of the header and the whole context."""

    __slots__ = ("_bound", "context", "digest", "immutable")

    def __init__(self, immutable: bytes, context: Mapping[str, str], ctx: bytes) -> None:
        self.immutable = immutable
        self.context = context
        framed = b"".join((b"anykms/v1 header", len(immutable).to_bytes(4), immutable, ctx))
        self.digest = hashlib.sha512(framed).digest()
        self._bound: dict[int, WrapContext] = {}

    @classmethod
    def new(cls, context: Mapping[str, str], required: Collection[str], created: int) -> Binding:
        """That of a new data key: random record id, ``required`` names kept out of the stored context.

        Raises:
            TypeError: not a context.
            InvalidArgumentError: a broken rule of the context, or a required name that it lacks.
        """
        pairs, ctx = canonicalise(context)
        if unknown := set(required) - pairs.keys():
            raise InvalidArgumentError(f"required context names that the context lacks: {sorted(unknown)}")
        immutable = Immutable(
            suite=SUITE,
            record_id=os.urandom(16),
            context=tuple(pair for pair in pairs.items() if pair[0] not in required),
            required=tuple(sorted(set(required))),
            created=created,
        )
        return cls(_encode(immutable), pairs, ctx)

    def bound(self, origin: int) -> WrapContext:
        """What ties a wrapped data key to this record and to where the data key came from."""
        found = self._bound.get(origin)
        if found is None:
            framed = b"".join((b"anykms/v1 bind", bytes((origin,)), self.digest))
            bind = hashlib.sha256(framed).digest()
            found = self._bound[origin] = wrap_context(bind, self.context)
        return found


class DataKey:
    """A data key and what it is bound to. It proves headers and makes the key of bodies; its secret is never shown."""

    __slots__ = ("_secret", "_tags", "binding")

    def __init__(self, binding: Binding, secret: bytes) -> None:
        self.binding = binding
        self._secret = secret
        self._tags = HMAC(_expand(secret, b"anykms/v1 header-tag" + binding.digest), _SHA256)

    def body_key(self) -> BodyKey:
        """The key of this record's bodies, all that is needed to encrypt and decrypt once the header is proven."""
        return BodyKey(self._secret, self.binding.digest)

    def wrapped_for(self, wrappers: Iterable[Wrapper], *, origin: int, generation: int) -> bytes:
        """Magic through HeaderTag of a header whose recipients are ``wrappers``; each is asked once.

        Raises:
            InvalidArgumentError: the header would be longer than 65536 bytes.
            KMSError: one of them cannot wrap now.
        """
        bound = self.binding.bound(origin)
        recipients = [
            wrap_data_key(wrapper, self._secret, bound=bound, origin=origin) for wrapper in wrappers
        ]
        body = b"".join((b"\x93", self.binding.immutable, _encode(recipients), _encode(generation)))
        if len(body) > MAX_HEADER:
            raise InvalidArgumentError(
                f"the header takes {len(body)} bytes; at most {MAX_HEADER} are allowed"
            )
        prefix = b"".join((MAGIC, len(body).to_bytes(_LENGTH_SIZE), body))
        return prefix + self._tag(prefix)

    def check_tag(self, prefix: bytes | memoryview, tag: bytes | memoryview) -> None:
        """Raises InvalidCiphertextError unless a holder of the data key wrote this very header."""
        if not hmac.compare_digest(self._tag(prefix), tag):
            raise InvalidCiphertextError(NOT_AUTHENTIC)

    def _tag(self, prefix: bytes | memoryview) -> bytes:
        tag = self._tags.copy()
        tag.update(prefix)
        return tag.finalize()


class BodyKey:
    """K_body of one record: encrypts and decrypts its bodies.

    The key lies in one buffer, which is zeroed when the last user lets go of this object. Copies that OpenSSL makes
    while it works, and the data key that the provider returned as ``bytes``, are freed but not zeroed.
    """

    __slots__ = ("_digest", "_key")

    def __init__(self, secret: bytes, digest: bytes) -> None:
        self._key = bytearray(32)
        self._digest = digest
        HKDFExpand(_SHA512, 32, b"anykms/v1 payload" + digest).derive_into(secret, self._key)

    def __del__(self) -> None:
        self._key[:] = bytes(32)

    def encryptor(self, aad: bytes, form: bytes = ATTACHED) -> Cobblestone256Encryptor:
        """A writer of one body. It draws its salt here, so make it at the first write."""
        return Cobblestone256Encryptor(self._key, self._digest + form + aad)

    def decryptor(self, aad: bytes, form: bytes = ATTACHED) -> Cobblestone256Decryptor:
        """A reader of one body."""
        return Cobblestone256Decryptor(self._key, self._digest + form + aad)

    def encrypt(
        self, plaintext: bytes | memoryview, aad: bytes, form: bytes = ATTACHED, start: bytes = b""
    ) -> bytes:
        """``start``, and a whole body after it."""
        if len(plaintext) < SMALL:
            encryptor = Cobblestone256Encryptor(self._key, self._digest + form + aad)
            return b"".join((start, encryptor.update(plaintext), encryptor.finalize()))
        # Memory that was never touched costs more than AES: BytesIO hands out the one buffer that was written.
        whole = io.BytesIO(bytes(len(start) + body_size(len(plaintext))))
        with whole.getbuffer() as target:
            self.encrypt_into(plaintext, aad, target, form, start)
        return whole.getvalue()

    def encrypt_into(
        self,
        plaintext: bytes | memoryview,
        aad: bytes,
        target: memoryview,
        form: bytes = ATTACHED,
        start: bytes = b"",
    ) -> None:
        """The same into ``target``, of exactly its size."""
        encryptor = Cobblestone256Encryptor(self._key, self._digest + form + aad)
        done = len(start)
        target[:done] = start
        done += encryptor.update_into(plaintext, target[done:])
        target[done:] = encryptor.finalize()

    def decrypt(self, body: bytes | memoryview, aad: bytes, form: bytes = ATTACHED) -> bytes:
        """The plaintext, once the last chunk has been authenticated.

        Raises:
            InvalidCiphertextError: any chunk, the commitment or the end is wrong; nothing is released.
        """
        if len(body) < SHORTEST_BODY:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        decryptor = Cobblestone256Decryptor(self._key, self._digest + form + aad)
        try:
            if len(body) < SMALL:
                first = decryptor.update(body)
                return first + decryptor.finalize() if first else decryptor.finalize()
            return _decrypted(decryptor, body)
        except InvalidTag as error:
            raise InvalidCiphertextError(NOT_AUTHENTIC) from error

    def chunks(self, start: bytes, aad: bytes) -> Chunks:
        """Random access to an attached body that begins with ``start``, its salt and commitment (56 bytes).

        Raises:
            InvalidCiphertextError: the commitment is not that of this key, context and aad.
        """
        salt, commitment = start[:_SALT_SIZE], start[_SALT_SIZE:]
        info = _CHUNKED_LABEL + salt + self._digest + ATTACHED + aad
        derived = _expand(self._key, info, 32 + 12 + 32)
        if len(start) != BODY_START or not hmac.compare_digest(derived[44:], commitment):
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        return Chunks(AESGCM(derived[:32]), int.from_bytes(derived[32:44]))


class Chunks:
    """The chunks of one body in any order (C2SP chunked-encryption@v1: nonce = base XOR index, no aad)."""

    __slots__ = ("_base", "_cipher")

    def __init__(self, cipher: AESGCM, base: int) -> None:
        self._cipher = cipher
        self._base = base

    def open(self, index: int, chunk: bytes | memoryview) -> bytes:
        """The plaintext of chunk ``index``, authenticated whole.

        Raises:
            InvalidCiphertextError: it is not that chunk of this body.
        """
        try:
            return self._cipher.decrypt((self._base ^ index).to_bytes(12), chunk, None)
        except InvalidTag as error:
            raise InvalidCiphertextError(NOT_AUTHENTIC) from error


def _decrypted(decryptor: Cobblestone256Decryptor, body: bytes | memoryview) -> bytes:
    chunks, tail = divmod(len(body) - BODY_START, SEALED_CHUNK)
    whole = io.BytesIO(bytes(chunks * CHUNK + max(0, tail - (SEALED_CHUNK - CHUNK))))
    with whole.getbuffer() as plain:
        try:
            done = decryptor.update_into(body, plain)
            plain[done:] = decryptor.finalize()
        except BaseException:
            # update_into leaves what it could not authenticate.
            plain[:] = bytes(len(plain))
            raise
    return whole.getvalue()


def body_size(size: int) -> int:
    """Bytes of the body of a plaintext of ``size`` bytes: there is always a last, short chunk."""
    return BODY_START + size + (size // CHUNK + 1) * (SEALED_CHUNK - CHUNK)


def _expand(key: bytes | bytearray, info: bytes, size: int = 32) -> bytes:
    return HKDFExpand(_SHA512, size, info).derive(key)


def head_size(start: bytes | memoryview) -> int:
    """Size of Magic through HeaderTag, from the first 12 bytes of a message.

    Raises:
        UnsupportedVersionError: a message of another format version.
        InvalidCiphertextError: no message begins like that.
    """
    if len(start) < HEAD_START:
        raise InvalidCiphertextError(NOT_AUTHENTIC)
    if start[: len(MAGIC)] != MAGIC:
        if start[: len(MAGIC) - 1] != MAGIC[:-1]:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        raise UnsupportedVersionError("the message is of a format version that this release does not read")
    length = int.from_bytes(start[len(MAGIC) : HEAD_START])
    if not 1 <= length <= MAX_HEADER:
        raise InvalidCiphertextError(NOT_AUTHENTIC)
    return HEAD_START + length + _TAG_SIZE


def checked_aad(aad: BytesLike) -> bytes:
    """``aad`` as bytes, of at most 64 KiB."""
    bound = aad if type(aad) is bytes else octets(aad, "aad")
    if len(bound) > MAX_AAD:
        raise InvalidArgumentError(f"aad takes {len(bound)} bytes; at most {MAX_AAD} are allowed")
    return bound


def claimed_head_size(data: bytes | memoryview) -> int:
    """``head_size`` of bytes that nobody looked at yet: meaningless unless the header is known already."""
    return int.from_bytes(data[len(MAGIC) : HEAD_START]) + _AROUND_HEADER


@dataclass(frozen=True, slots=True)
class UnverifiedRecipient:
    """A recipient as the header claims it."""

    uri: KeyURI
    algorithm: str
    origin: int
    sender_authenticated: bool
    """What opening through this recipient would prove, were the header authentic."""


@dataclass(frozen=True, slots=True)
class UnverifiedHeader:
    """What a message claims of itself. Anyone could have written it; no cryptography has been checked.

    Attributes:
        suite: 1.
        record_id: 16 bytes.
        context: the stored pairs.
        required: names whose values the reader must bring.
        created: when the data key was made, UTC seconds since 1970; a claim may lie past the year 9999.
        recipients: in the message's order, which decides nothing.
        generation: how often the recipients were replaced.
        body_size: bytes after the header.
    """

    suite: int
    record_id: bytes
    context: Mapping[str, str]
    required: tuple[str, ...]
    created: int
    recipients: tuple[UnverifiedRecipient, ...]
    generation: int
    body_size: int


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What is known of a message whose header is authentic.

    Attributes:
        key: the key that opened it.
        key_uri: the same with the version used, where the provider tells.
        generation: how often the recipients were replaced.
        sender_authenticated: whether someone with the right to encrypt under ``key`` made it.
        record_id: 16 bytes, the same for all messages of one data key.
        created: when the data key was made, UTC seconds.
        suite: 1.
        recipients: how many keys it is for.
    """

    key: KeyInfo
    key_uri: KeyURI
    generation: int
    sender_authenticated: bool
    record_id: bytes
    created: int
    suite: int
    recipients: int


class Message:
    """A parsed message. Everything in it is a claim until ``DataKey.check_tag`` has passed."""

    __slots__ = ("_bytes", "_end", "_header", "generation", "immutable", "wrapped_keys")

    def __init__(self, data: bytes | memoryview) -> None:
        """Parse strictly.

        Raises:
            UnsupportedVersionError: a message of another format version.
            InvalidCiphertextError: not a message of version 1 in its one encoding.
        """
        size = head_size(data)
        if len(data) < size:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        view = memoryview(data)
        end = size - _TAG_SIZE
        header = _read_header(bytes(view[HEAD_START:end]))
        self._bytes = view
        self._end = end
        self._header = header
        self.immutable: Final = header.immutable
        """I of the header."""
        self.generation: Final = header.generation
        """G of the header."""
        self.wrapped_keys: Final[Mapping[KeyURI, WrappedKey]] = {
            recipient.key_uri().without_version(): recipient for recipient in header.recipients
        }
        """The recipients by key URI without version."""
        if len(self.wrapped_keys) != len(header.recipients):
            raise InvalidCiphertextError(NOT_AUTHENTIC)

    @property
    def header(self) -> UnverifiedHeader:
        """What the message claims of itself, for people."""
        immutable = self.immutable
        return UnverifiedHeader(
            suite=immutable.suite,
            record_id=immutable.record_id,
            context=dict(immutable.context),
            required=immutable.required,
            created=immutable.created,
            recipients=tuple(
                UnverifiedRecipient(r.key_uri(), r.algorithm, r.origin, r.sender_authenticated)
                for r in self._header.recipients
            ),
            generation=self.generation,
            body_size=len(self._bytes) - self._end - _TAG_SIZE,
        )

    @property
    def prefix(self) -> memoryview:
        """Magic through Header: what HeaderTag covers."""
        return self._bytes[: self._end]

    @property
    def tag(self) -> memoryview:
        """HeaderTag."""
        return self._bytes[self._end : self._end + _TAG_SIZE]

    @property
    def body(self) -> memoryview:
        """Body, to the end of the input."""
        return self._bytes[self._end + _TAG_SIZE :]

    def binding(self, context: Mapping[str, str]) -> Binding:
        """What the data key is bound to, by the caller's context.

        Raises:
            ContextMismatchError: it is not the stored context plus exactly the required names.
        """
        pairs, ctx = canonicalise(context)
        immutable = self.immutable
        expected: dict[str, str | None] = dict(immutable.context)
        for name in immutable.required:
            expected[name] = pairs.get(name)
        if pairs != expected:
            raise ContextMismatchError(_difference(pairs, expected))
        return Binding(_encode(immutable), pairs, ctx)


def _read_header(raw: bytes) -> _Header:
    try:
        header = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidCiphertextError(NOT_AUTHENTIC) from error
    immutable = header.immutable
    names, required = [name for name, _ in immutable.context], immutable.required
    canonical = (
        immutable.suite == SUITE
        and _rising(names)
        and (not required or (_rising(required) and set(required).isdisjoint(names)))
        and _encode(header) == raw
    )
    if not canonical:
        raise InvalidCiphertextError(NOT_AUTHENTIC)
    return header


def _rising(names: Sequence[str]) -> bool:
    """Sorted and distinct. Code points order as their UTF-8 bytes do."""
    return len(names) < 2 or all(map(lt, names, names[1:]))


def _difference(given: Mapping[str, str], expected: Mapping[str, str | None]) -> str:
    """Names only: values may be nobody's business."""
    missing = sorted(expected.keys() - given.keys())
    extra = sorted(given.keys() - expected.keys())
    changed = sorted(n for n in given.keys() & expected.keys() if given[n] != expected[n])
    told = (("missing", missing), ("not in the message", extra), ("another value for", changed))
    return "the context differs from the message's: " + ", ".join(
        f"{what} {names!a}" for what, names in told if names
    )
