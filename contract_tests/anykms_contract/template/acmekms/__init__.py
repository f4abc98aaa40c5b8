"""The keys of acmekms, in memory: A256GCM, ES256 and HS256. Written against the seam alone."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    InvalidArgumentError,
    InvalidCiphertextError,
    InvalidMacError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyExistsError,
    KeyNotFoundError,
    KeyPendingDestructionError,
    KeyStateError,
    KMSError,
    NameReservedError,
    UnsupportedOperationError,
)
from anykms.keys import (
    DEFAULT_DESTROY_WINDOW,
    ConnectionURI,
    KeyInfo,
    KeyOrigin,
    KeyState,
    KeyStatus,
    KeyTemplate,
    KeyURI,
    KeyVersion,
    ProtectionLevel,
)
from anykms.provider import (
    LIFECYCLE,
    Capability,
    Operation,
    SignatureEncoding,
    WrapContext,
    Wrapped,
    capabilities,
)

SCHEME = "acmekms"
_CAPABILITIES = capabilities(
    LIFECYCLE,
    {
        Algorithm.A256GCM: (
            Operation.GENERATE_KEY,
            Operation.ROTATE_KEY,
            Operation.WRAP,
            Operation.UNWRAP,
        ),
        Algorithm.ES256: (Operation.GENERATE_KEY, Operation.GET_PUBLIC_KEY, Operation.SIGN),
        Algorithm.HS256: (Operation.GENERATE_KEY, Operation.MAC, Operation.VERIFY_MAC),
    },
    [ProtectionLevel.SOFTWARE],
)
_STATE_ERRORS: dict[KeyState, type[KMSError]] = {
    KeyState.DISABLED: KeyDisabledError,
    KeyState.PENDING_DESTRUCTION: KeyPendingDestructionError,
    KeyState.DESTROYED: KeyDestroyedError,
}


@dataclass
class _Version:
    created_at: datetime
    secret: bytes = field(default_factory=lambda: os.urandom(32))


@dataclass
class _Entry:
    info: KeyInfo
    versions: list[_Version]
    signer: ec.EllipticCurvePrivateKey | None
    state: KeyState = KeyState.ENABLED
    destroy_at: datetime | None = None
    rotation_period: int | None = None


class Vault:
    """The keys of one vault: what would be a server."""

    def __init__(self) -> None:
        self.keys: dict[str, _Entry] = {}
        self.lock = threading.RLock()
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return (datetime.now(UTC) + self.ahead).replace(microsecond=0)


_VAULTS: dict[str, Vault] = {}


class AcmeProvider:
    """A connection to a vault: ``acmekms://NAME``."""

    def __init__(self, vault: Vault, host: str) -> None:
        self._vault = vault
        self._host = host

    @classmethod
    def connect(cls, uri: ConnectionURI) -> Self:
        if uri.options:
            raise InvalidArgumentError("acmekms has no options")
        return cls(_VAULTS.setdefault(uri.address, Vault()), uri.address)

    @property
    def scheme(self) -> str:
        return SCHEME

    @property
    def capabilities(self) -> frozenset[Capability]:
        return _CAPABILITIES

    @property
    def signature_encoding(self) -> SignatureEncoding:
        return SignatureEncoding.P1363

    @property
    def ungated(self) -> frozenset[Operation]:
        return frozenset()

    @property
    def strongly_consistent(self) -> bool:
        return True

    def close(self) -> None:
        pass

    # Lifecycle

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        with self._vault.lock:
            known = self._vault.keys.get(template.name)
            if known is not None:
                self._settle(known)
                gone = known.state in (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED)
                raise (NameReservedError if gone else KeyExistsError)(f"the name {template.name} is taken")
            now = self._vault.now()
            uri = KeyURI(SCHEME, f"{self._host}/{template.name}")
            signer = None
            if template.algorithm is Algorithm.ES256:
                signer = ec.generate_private_key(ec.SECP256R1())
            info = KeyInfo(
                name=template.name,
                uri=uri if template.purpose is KeyPurpose.ENCRYPT_DECRYPT else uri.with_version("1"),
                provider=SCHEME,
                purpose=template.purpose,
                algorithm=template.algorithm,
                key_size=None,
                protection_level=ProtectionLevel.SOFTWARE,
                origin=KeyOrigin.PROVIDER,
                created_at=now,
                fingerprint=None if signer is None else hashlib.sha256(_spki(signer)).hexdigest(),
                tags=template.tags,
                destroy_window=template.destroy_window or DEFAULT_DESTROY_WINDOW,
                destroy_window_enforced=True,
                conf_digest=template.conf_digest,
            )
            self._vault.keys[template.name] = _Entry(
                info, [_Version(now)], signer, rotation_period=template.rotation_period
            )
            return info

    def get_key(self, name: str) -> KeyInfo:
        with self._vault.lock:
            if "://" in name:
                name = KeyURI.parse(name).resource.removeprefix(self._host + "/")
            entry = self._vault.keys.get(name)
            if entry is not None:
                self._settle(entry)
            if entry is None or entry.state is KeyState.DESTROYED:
                raise KeyNotFoundError("no such key in this vault")
            return entry.info

    def list_keys(self) -> Iterator[KeyInfo]:
        with self._vault.lock:
            for entry in self._vault.keys.values():
                self._settle(entry)
            live = [e.info for e in self._vault.keys.values() if e.state is not KeyState.DESTROYED]
        return iter(live)

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        with self._vault.lock:
            entry = self._entry(info)
            period = entry.rotation_period
            return KeyStatus(
                state=entry.state,
                current_version=str(len(entry.versions)),
                versions=tuple(
                    KeyVersion(
                        id=str(number),
                        state=entry.state,
                        created_at=version.created_at,
                        fingerprint=entry.info.fingerprint,
                    )
                    for number, version in enumerate(entry.versions, 1)
                ),
                destroy_at=entry.destroy_at,
                rotation_period=period,
                next_rotation_at=(
                    None if period is None else entry.versions[-1].created_at + timedelta(days=period)
                ),
            )

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        with self._vault.lock:
            entry = self._entry(info)
            if entry.state in (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED):
                raise _STATE_ERRORS[entry.state]("the key is on its way out")
            entry.state = KeyState.ENABLED if enabled else KeyState.DISABLED

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        with self._vault.lock:
            self._usable(info).versions.append(_Version(self._vault.now()))
            return self.describe_key(info)

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        with self._vault.lock:
            entry = self._entry(info)
            if entry.state in (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED):
                raise _STATE_ERRORS[entry.state]("the key is on its way out already")
            due = self._vault.now() + timedelta(days=info.destroy_window or DEFAULT_DESTROY_WINDOW)
            entry.state, entry.destroy_at = KeyState.PENDING_DESTRUCTION, due
            return due

    def cancel_destruction(self, info: KeyInfo) -> None:
        with self._vault.lock:
            entry = self._entry(info)
            if entry.state is KeyState.DESTROYED:
                raise KeyDestroyedError("the key is destroyed")
            if entry.state is not KeyState.PENDING_DESTRUCTION:
                raise KeyStateError("no destruction is scheduled")
            entry.state, entry.destroy_at = KeyState.DISABLED, None

    # Cryptography

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        return _spki(self._signer(info))

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        with self._vault.lock:
            entry = self._usable(info)
            number, secret = len(entry.versions), entry.versions[-1].secret
        nonce = os.urandom(12)
        return Wrapped(str(number), nonce + AESGCM(secret).encrypt(nonce, data_key, context.aad))

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        with self._vault.lock:
            entry = self._usable(info)
            number = int(version) if version is not None and version.isdecimal() else 0
            if not 1 <= number <= len(entry.versions) or len(wrapped) != 60:
                raise InvalidCiphertextError("not authentic")
            secret = entry.versions[number - 1].secret
        try:
            return AESGCM(secret).decrypt(wrapped[:12], wrapped[12:], context.aad)
        except InvalidTag as error:
            raise InvalidCiphertextError("not authentic") from error

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        signer = self._signer(info)
        der = signer.sign(message, ec.ECDSA(utils.Prehashed(SHA256()) if prehashed else SHA256()))
        r, s = utils.decode_dss_signature(der)
        return r.to_bytes(32) + s.to_bytes(32)

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        raise UnsupportedOperationError("acmekms has no RSA")

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        with self._vault.lock:
            secret = self._usable(info).versions[0].secret
        return hmac.digest(secret, message, "sha256")

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        if not hmac.compare_digest(self.mac(info, message), tag):
            raise InvalidMacError("the tag does not belong to this message and key")

    # Entries

    def _entry(self, info: KeyInfo) -> _Entry:
        entry = self._vault.keys.get(info.name)
        if entry is None or entry.info.uri != info.uri:
            raise KeyDestroyedError("no such key in this vault any more")
        self._settle(entry)
        return entry

    def _settle(self, entry: _Entry) -> None:
        if entry.destroy_at is not None and self._vault.now() >= entry.destroy_at:
            entry.state, entry.destroy_at, entry.versions, entry.signer = KeyState.DESTROYED, None, [], None

    def _usable(self, info: KeyInfo) -> _Entry:
        entry = self._entry(info)
        if entry.state is not KeyState.ENABLED:
            raise _STATE_ERRORS[entry.state]("the key cannot be used")
        return entry

    def _signer(self, info: KeyInfo) -> ec.EllipticCurvePrivateKey:
        with self._vault.lock:
            signer = self._usable(info).signer
        if signer is None:
            raise UnsupportedOperationError("the key does not sign")
        return signer


def _spki(signer: ec.EllipticCurvePrivateKey) -> bytes:
    return signer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
