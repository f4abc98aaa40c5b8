"""What users would pick instead of anykms, and the ciphers underneath, each behind one shape.

Nothing here asks a network: the wrapping keys of all of them are in this process's memory.
"""

# Neither aws-encryption-sdk nor tink ships types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportCallIssue=false

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol, cast

import aws_encryption_sdk
import tink
from aws_encryption_sdk.identifiers import Algorithm, EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKey
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tink import aead, streaming_aead

from anykms import DataKeyCache, Keyring, KMSClient
from anykms.keys import KeyInfo
from anykms.provider import WrapContext, Wrapped
from anykms_contract.vectors import VectorProvider, keys
from anykms_local import material

CONTEXT: Final = {"tenant": "42"}
AAD: Final = b"tenant=42"
UNIT: Final = 1024 * 1024
"""Bytes of plaintext that streams are fed at once."""
_SEALED_UNIT: Final = UNIT + UNIT // 16384 * 16


class Sink(Protocol):
    """Where a stream goes."""

    def write(self, data: Any, /) -> int | None:
        """Take all of it."""
        ...


class Nowhere(io.RawIOBase):
    """A sink that keeps nothing."""

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any, /) -> int:
        """Take it."""
        return len(data)


class Repeated(io.RawIOBase):
    """A source of ``size`` bytes that takes no memory."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._block = bytes(UNIT)
        self._left = size

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; the whole block without a copy."""
        size = min(self._left, UNIT if size < 0 else size, UNIT)
        self._left -= size
        return self._block if size == UNIT else self._block[:size]


class MemoryKeys(VectorProvider):
    """Keys in memory: every wrap and unwrap is the cryptography of the local keystore, without its file.

    Attributes:
        asked: how often it was asked to wrap or unwrap.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self._material = {name: bytes.fromhex(key["kek"]) for name, key in keys().items() if "kek" in key}

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        """See ``Provider.wrap``."""
        self.asked += 1
        return Wrapped("1", material.wrap(self._material[info.name], data_key, context.aad))

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        """See ``Provider.unwrap``."""
        self.asked += 1
        if version != "1":
            raise material.invalid_ciphertext()
        return material.unwrap(self._material[info.name], wrapped, context.aad)


@dataclass(frozen=True)
class Peer:
    """One way to protect a message.

    Attributes:
        encrypt, decrypt: bytes in, bytes out.
        unlike: what it does more or less than the others, for the page.
    """

    encrypt: Callable[[bytes], bytes]
    decrypt: Callable[[bytes], bytes]
    unlike: str


@dataclass(frozen=True)
class Stream:
    """One way to protect a file of any size. Both copy from a file to a sink."""

    encrypt: Callable[[BinaryIO, Sink], None]
    decrypt: Callable[[BinaryIO, Sink], None]
    unlike: str


def cobblestone_encrypt(key: bytes, data: bytes) -> bytes:
    """One message of pyca's Cobblestone-256."""
    encryptor = Cobblestone256Encryptor(key, AAD)
    return encryptor.update(data) + encryptor.finalize()


def cobblestone_decrypt(key: bytes, data: bytes) -> bytes:
    """The plaintext of ``cobblestone_encrypt``."""
    decryptor = Cobblestone256Decryptor(key, AAD)
    return decryptor.update(data) + decryptor.finalize()


def ring(*, cache: DataKeyCache | None = None, key: str = "alpha") -> Keyring:
    """A keyring of one key in memory."""
    return Keyring([KMSClient(MemoryKeys()).key(key)], cache=cache)


def _anykms(keyring: Keyring, unlike: str) -> Peer:
    return Peer(
        lambda data: keyring.encrypt(data, context=CONTEXT),
        lambda message: keyring.decrypt(message, context=CONTEXT),
        unlike,
    )


def _esdk_key() -> Any:
    secret = WrappingKey(
        wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
        wrapping_key=os.urandom(32),
        wrapping_key_type=EncryptionKeyType.SYMMETRIC,
    )
    return RawMasterKey(provider_id="memory", key_id="alpha", wrapping_key=secret)


def _esdk(suite: Any, unlike: str, *, cached: bool) -> Peer:
    client = aws_encryption_sdk.EncryptionSDKClient()
    key = _esdk_key()
    given: dict[str, Any] = {"key_provider": key}
    if cached:
        given = {
            "materials_manager": aws_encryption_sdk.CachingCryptoMaterialsManager(
                master_key_provider=key,
                cache=aws_encryption_sdk.LocalCryptoMaterialsCache(100),
                max_age=300.0,
                max_messages_encrypted=2**20,
            )
        }
    return Peer(
        lambda data: client.encrypt(source=data, algorithm=suite, encryption_context=CONTEXT, **given)[0],
        lambda message: client.decrypt(source=message, **given)[0],
        unlike,
    )


_SIGNED: Final = Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
_UNSIGNED: Final = Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY


def _tink(primitive: Any, unlike: str) -> Peer:
    return Peer(
        lambda data: primitive.encrypt(data, AAD), lambda message: primitive.decrypt(message, AAD), unlike
    )


def _tink_aead() -> Any:
    aead.register()
    return tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)


def messages(keystore: Keyring) -> dict[str, Peer]:
    """Every peer for whole messages; ``keystore`` is a ring of one key in a local keystore."""
    key, nonce = os.urandom(32), os.urandom(12)
    raw = AESGCM(key)
    return {
        "raw AESGCM": Peer(
            lambda data: raw.encrypt(nonce, data, None),
            lambda message: raw.decrypt(nonce, message, None),
            "pyca's cipher alone: one key, one nonce, no header, no commitment; no format could use it so",
        ),
        "bare Cobblestone": Peer(
            lambda data: cobblestone_encrypt(key, data),
            lambda message: cobblestone_decrypt(key, message),
            "pyca's Cobblestone-256, which the body of our message is: committing, no header, no wrapped key",
        ),
        "anykms, cached data key": _anykms(
            ring(cache=DataKeyCache()),
            "AES-256, committing, header authenticated; one data key for many messages",
        ),
        "anykms, key in memory": _anykms(ring(), "the same with a new wrapped data key for every message"),
        "anykms, key in a keystore": _anykms(
            keystore, "the same with the wrapping key in an SQLite keystore"
        ),
        "AWS Encryption SDK, unsigned, cached": _esdk(
            _UNSIGNED, "AES-256, committing, data key from its caching materials manager", cached=True
        ),
        "AWS Encryption SDK, default": _esdk(
            _SIGNED,
            "AES-256, committing, and signs every message with ECDSA P-384, which anykms does not",
            cached=False,
        ),
        "Tink AEAD": _tink(
            _tink_aead(), "AES-256-GCM under one key that never changes: no data key, no commitment, no KMS"
        ),
        "Tink KMS envelope": _tink(
            aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, _tink_aead()),
            "AES-256-GCM under a new data key for every message, wrapped in memory; no commitment, no context",
        ),
    }


def _copy(source: Any, sink: Sink) -> None:
    while piece := source.read(UNIT):
        sink.write(piece)


def _bare() -> Stream:
    key = os.urandom(32)

    def encrypt(source: BinaryIO, sink: Sink) -> None:
        encryptor, sealed = Cobblestone256Encryptor(key, AAD), bytearray(2 * UNIT)
        view = memoryview(sealed)
        while piece := source.read(UNIT):
            sink.write(view[: encryptor.update_into(piece, sealed)])
        sink.write(encryptor.finalize())

    def decrypt(source: BinaryIO, sink: Sink) -> None:
        decryptor, plain = Cobblestone256Decryptor(key, AAD), bytearray(2 * UNIT)
        view = memoryview(plain)
        while piece := source.read(_SEALED_UNIT):
            sink.write(view[: decryptor.update_into(piece, plain)])
        sink.write(decryptor.finalize())

    return Stream(encrypt, decrypt, "`update_into` one buffer, 1 MiB at a time")


def _anykms_stream() -> Stream:
    keyring = ring()

    def encrypt(source: BinaryIO, sink: Sink) -> None:
        with keyring.encrypt_stream(sink, context=CONTEXT) as writer:
            while piece := source.read(UNIT):
                writer.write(piece)

    def decrypt(source: BinaryIO, sink: Sink) -> None:
        with keyring.decrypt_stream(source, context=CONTEXT) as reader:
            for piece in reader.pieces():
                sink.write(piece)

    return Stream(encrypt, decrypt, "16 KiB chunks, committing")


def _tink_stream() -> Stream:
    streaming_aead.register()
    template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
    primitive = tink.new_keyset_handle(template).primitive(streaming_aead.StreamingAead)

    class Held(io.RawIOBase):
        """Tink closes what it writes to, and asks for a whole file."""

        def __init__(self, sink: Sink) -> None:
            super().__init__()
            self._sink = sink

        def writable(self) -> bool:
            return True

        def write(self, data: Any, /) -> int:
            self._sink.write(data)
            return len(data)

    def encrypt(source: BinaryIO, sink: Sink) -> None:
        with primitive.new_encrypting_stream(cast("BinaryIO", Held(sink)), AAD) as writer:
            while piece := source.read(UNIT):
                writer.write(piece)

    def decrypt(source: BinaryIO, sink: Sink) -> None:
        with primitive.new_decrypting_stream(source, AAD) as reader:
            _copy(reader, sink)

    return Stream(encrypt, decrypt, "AES-256-GCM, 1 MiB segments, not committing; one key, no KMS")


def _esdk_stream(suite: Any, unlike: str) -> Stream:
    client, key = aws_encryption_sdk.EncryptionSDKClient(), _esdk_key()

    def encrypt(source: BinaryIO, sink: Sink) -> None:
        with client.stream(
            mode="encrypt",
            source=source,
            source_length=None,
            key_provider=key,
            algorithm=suite,
            encryption_context=CONTEXT,
            frame_length=65536,
        ) as reader:
            _copy(reader, sink)

    def decrypt(source: BinaryIO, sink: Sink) -> None:
        with client.stream(mode="decrypt", source=source, key_provider=key) as reader:
            _copy(reader, sink)

    return Stream(encrypt, decrypt, unlike)


def streams() -> dict[str, Stream]:
    """Every peer for files."""
    return {
        "bare Cobblestone": _bare(),
        "anykms": _anykms_stream(),
        "Tink streaming": _tink_stream(),
        "AWS Encryption SDK, unsigned": _esdk_stream(_UNSIGNED, "64 KiB frames, committing"),
        "AWS Encryption SDK, default": _esdk_stream(_SIGNED, "64 KiB frames, committing, signed"),
    }


def rewraps() -> dict[str, tuple[Callable[[], object], str]]:
    """For each peer the nearest thing to new recipients for a message of 1 KiB, and what it is."""
    old, new = ring(), ring(key="beta")
    record = old.record(context=CONTEXT).to_bytes()
    message = old.encrypt(bytes(1024), context=CONTEXT)
    found: dict[str, tuple[Callable[[], object], str]] = {
        "anykms, a header": (
            lambda: old.rewrap(record, to=new),
            "unwraps, checks the header's tag, wraps, writes a new header",
        ),
        "anykms, a message": (lambda: old.rewrap(message, to=new), "the same, and copies the body"),
    }
    before, after = _tink_aead(), _tink_aead()
    sealed = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, before).encrypt(bytes(1024), AAD)
    size = int.from_bytes(sealed[:4])

    def tink_rewrap() -> bytes:
        wrapped = after.encrypt(before.decrypt(sealed[4 : 4 + size], b""), b"")
        return b"".join((len(wrapped).to_bytes(4), wrapped, sealed[4 + size :]))

    found["Tink KMS envelope"] = (
        tink_rewrap,
        "by hand, it has none: two AEAD calls in C++; nothing else is checked",
    )
    for name, suite in (("unsigned", _UNSIGNED), ("default", _SIGNED)):
        one, other = (_esdk(suite, "", cached=False) for _ in range(2))
        protected = one.encrypt(bytes(1024))

        def esdk_rewrap(one: Peer = one, other: Peer = other, protected: bytes = protected) -> bytes:
            return other.encrypt(one.decrypt(protected))

        found[f"AWS Encryption SDK, {name}"] = esdk_rewrap, "has none: decrypts and encrypts again"
    return found
