"""Test vectors of the message format, and the fixed keys they were made with.

The files give for each message, value and rewrap the data key, so that a second implementation can be checked from
the file and docs/message-format.md alone; the keys that wrapped it are in ``keys.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import cast

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import InvalidCiphertextError, KeyNotFoundError, UnsupportedOperationError
from anykms.keys import (
    KeyInfo,
    KeyOrigin,
    KeyState,
    KeyStatus,
    KeyTemplate,
    KeyURI,
    ProtectionLevel,
)
from anykms.provider import Capability, Operation, SignatureEncoding, WrapContext, Wrapped, capabilities
from anykms.signing import PublicKey


@dataclass(frozen=True, slots=True)
class MessageVector:
    """One message.

    Attributes:
        name: unique.
        fails_at: the step of decryption that must fail, None for a good message.
        error: name of the error class to raise, None for a good message.
        why: the fault, in words.
        message: the whole message.
        data_key: what its recipients wrap.
        context, aad: what the reader presents.
        plaintext: what a good message holds; empty for the others.
        ring: names in ``keys.json`` of the reader's keys.
    """

    name: str
    fails_at: str | None
    error: str | None
    why: str
    message: bytes
    data_key: bytes
    context: Mapping[str, str]
    aad: bytes
    plaintext: bytes
    ring: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ValueVector:
    """One detached value and the record that it names, or seems to; otherwise as ``MessageVector``.

    Attributes:
        fails_at: "value" for its own first 17 bytes and length, else a step of decryption.
    """

    name: str
    fails_at: str | None
    error: str | None
    why: str
    record: bytes
    value: bytes
    data_key: bytes
    context: Mapping[str, str]
    aad: bytes
    plaintext: bytes
    ring: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RewrapVector:
    """A message after a rewrap, and before it."""

    before: bytes
    after: MessageVector


def _load(name: str) -> object:
    return json.loads(files(__name__).joinpath(name).read_text("utf-8"))


def _rows(name: str) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", _load(name))


def _octets(row: dict[str, object], field: str) -> bytes:
    return bytes.fromhex(str(row[field]))


def _message(row: dict[str, object]) -> MessageVector:
    return MessageVector(
        name=str(row["name"]),
        fails_at=cast("str | None", row["fails_at"]),
        error=cast("str | None", row["error"]),
        why=str(row["why"]),
        message=_octets(row, "message"),
        data_key=_octets(row, "data_key"),
        context=cast("dict[str, str]", row["context"]),
        aad=_octets(row, "aad"),
        plaintext=_octets(row, "plaintext"),
        ring=tuple(cast("list[str]", row["ring"])),
    )


def messages() -> list[MessageVector]:
    """Every vector of ``messages.json``."""
    return [_message(row) for row in _rows("messages.json")]


def values() -> list[ValueVector]:
    """Every vector of ``values.json``."""
    return [
        ValueVector(
            name=str(row["name"]),
            fails_at=cast("str | None", row["fails_at"]),
            error=cast("str | None", row["error"]),
            why=str(row["why"]),
            record=_octets(row, "record"),
            value=_octets(row, "value"),
            data_key=_octets(row, "data_key"),
            context=cast("dict[str, str]", row["context"]),
            aad=_octets(row, "aad"),
            plaintext=_octets(row, "plaintext"),
            ring=tuple(cast("list[str]", row["ring"])),
        )
        for row in _rows("values.json")
    ]


def rewraps() -> list[RewrapVector]:
    """Every vector of ``rewraps.json``."""
    return [RewrapVector(_octets(row, "before"), _message(row)) for row in _rows("rewraps.json")]


def keys() -> dict[str, dict[str, str]]:
    """``keys.json``: for each name its URI, algorithm and secret, all of it published and worthless."""
    return cast("dict[str, dict[str, str]]", _load("keys.json"))


class VectorProvider:
    """A provider that holds the published keys of the vectors, to open messages with. It makes no keys.

    Attributes:
        calls: names of the operations asked for, so that "no provider was called" can be checked.
    """

    scheme = "local"
    signature_encoding = SignatureEncoding.DER
    ungated: frozenset[Operation] = frozenset()
    strongly_consistent = True

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._keys = keys()
        uses = (Operation.WRAP, Operation.UNWRAP)
        self.capabilities: frozenset[Capability] = capabilities(
            {Operation.GET_KEY, Operation.DESCRIBE_KEY, Operation.LIST_KEYS},
            {Algorithm.A256GCM: uses, Algorithm.RSA_OAEP_256: uses, Algorithm.ES256: (Operation.SIGN,)},
            [ProtectionLevel.SOFTWARE],
        )

    def get_key(self, name: str) -> KeyInfo:
        """The KeyInfo of a published key."""
        if name not in self._keys:
            raise KeyNotFoundError(f"no key {name} among the vectors")
        key = self._keys[name]
        symmetric = "kek" in key
        sender = key.get("sender")
        return KeyInfo(
            name=name,
            uri=KeyURI.parse(key["uri"]),
            provider=self.scheme,
            purpose=KeyPurpose.ENCRYPT_DECRYPT,
            algorithm=Algorithm.A256GCM if symmetric else Algorithm.RSA_OAEP_256,
            key_size=None if symmetric else 2048,
            protection_level=ProtectionLevel.SOFTWARE,
            origin=KeyOrigin.IMPORTED,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            sender_authenticated=symmetric or sender is not None,
            sender_fingerprint=None
            if sender is None
            else PublicKey(_ec(sender).public_key(), "ES256").fingerprint,
            tags={},
            destroy_window=None,
            destroy_window_enforced=False,
        )

    def list_keys(self) -> Iterator[KeyInfo]:
        """All of them."""
        return (self.get_key(name) for name in self._keys)

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        """Always ENABLED."""
        return KeyStatus(state=KeyState.ENABLED, current_version="1")

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        """The sender key's SPKI."""
        self.calls.append("get_public_key")
        public = self._sender(info).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        """As the local provider wraps."""
        self.calls.append("wrap")
        key = self._keys[info.name]
        if "kek" not in key:
            return Wrapped("1", _rsa(key["rsa"]).public_key().encrypt(data_key, _OAEP))
        encryptor = Cobblestone256Encryptor(bytes.fromhex(key["kek"]), b"anykms/v1 local-wrap" + context.aad)
        return Wrapped("1", encryptor.update(data_key) + encryptor.finalize())

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        """As the local provider unwraps."""
        self.calls.append("unwrap")
        key = self._keys[info.name]
        if version != "1":
            raise InvalidCiphertextError("no such version")
        try:
            if "kek" not in key:
                return _rsa(key["rsa"]).decrypt(wrapped, _OAEP)
            decryptor = Cobblestone256Decryptor(
                bytes.fromhex(key["kek"]), b"anykms/v1 local-wrap" + context.aad
            )
            return decryptor.update(wrapped) + decryptor.finalize()
        except (ValueError, InvalidTag) as error:
            raise InvalidCiphertextError("not authentic") from error

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        """As the sender key signs."""
        self.calls.append("sign")
        return self._sender(info).sign(message, ec.ECDSA(utils.Prehashed(SHA256())))

    def _sender(self, info: KeyInfo) -> ec.EllipticCurvePrivateKey:
        return _ec(self._keys[info.name.removesuffix("--sender")]["sender"])

    def close(self) -> None:
        """Nothing to release."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        """Raises UnsupportedOperationError, as everything below."""
        raise _only_wraps()

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        raise _only_wraps()

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        raise _only_wraps()

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        raise _only_wraps()

    def cancel_destruction(self, info: KeyInfo) -> None:
        raise _only_wraps()

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        raise _only_wraps()

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        raise _only_wraps()

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        raise _only_wraps()


def _only_wraps() -> UnsupportedOperationError:
    return UnsupportedOperationError("the published keys of the vectors only wrap")


_OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)


@cache
def _rsa(pem: str) -> rsa.RSAPrivateKey:
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    return key


@cache
def _ec(pem: str) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an EC key")
    return key
