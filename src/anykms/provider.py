"""The seam: what a provider implements. Adapters see it, keys, algorithms, context and errors, no more.

Every argument that reaches a provider is validated, every name canonical. A provider raises only ``KMSError``
subclasses, with the SDK's error as ``__cause__``. It neither retries nor caches answers, and never logs data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol, runtime_checkable

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyExistsError,
    KeyNotReadyError,
    KeyPendingDestructionError,
    KeyPendingImportError,
    KeyStateError,
    KeyUsageError,
    KMSError,
    NameReservedError,
    UnavailableError,
)
from anykms.keys import KeyInfo, KeyState, KeyStatus, KeyTemplate, ProtectionLevel, check_name

DATA_KEY_SIZE = 32


class Operation(StrEnum):
    """What a provider can be asked for. The values name the operation in errors and events."""

    GENERATE_KEY = "generate_key"
    GET_KEY = "get_key"
    LIST_KEYS = "list_keys"
    DESCRIBE_KEY = "describe_key"
    SET_ENABLED = "set_enabled"
    ROTATE_KEY = "rotate_key"
    SCHEDULE_DESTRUCTION = "schedule_destruction"
    CANCEL_DESTRUCTION = "cancel_destruction"
    GET_PUBLIC_KEY = "get_public_key"
    WRAP = "wrap"
    UNWRAP = "unwrap"
    SIGN = "sign"
    DECRYPT = "decrypt"
    MAC = "mac"
    VERIFY_MAC = "verify_mac"


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing a connected provider can do.

    GENERATE_KEY has one for each algorithm, size and protection level; ROTATE_KEY, GET_PUBLIC_KEY and the
    cryptographic operations one for each algorithm and size; the rest of the lifecycle has neither.
    """

    operation: Operation
    algorithm: Algorithm | None = None
    key_size: int | None = None
    protection_level: ProtectionLevel | None = None


LIFECYCLE = frozenset(
    {
        Operation.GET_KEY,
        Operation.LIST_KEYS,
        Operation.DESCRIBE_KEY,
        Operation.SET_ENABLED,
        Operation.SCHEDULE_DESTRUCTION,
        Operation.CANCEL_DESTRUCTION,
    }
)
"""Operations that do not depend on the algorithm."""


def capabilities(
    operations: Iterable[Operation],
    algorithms: Mapping[Algorithm, Iterable[Operation]],
    levels: Iterable[ProtectionLevel],
    *,
    key_sizes: Mapping[Algorithm, Iterable[int]] | None = None,
) -> frozenset[Capability]:
    """The capability set of a provider with a regular table.

    Args:
        operations: those that do not depend on the algorithm.
        algorithms: for each algorithm what a key of it can do; GENERATE_KEY is given once per level.
        levels: the protection levels that a generated key can have.
        key_sizes: RSA sizes where the provider has fewer than the contract.
    """
    found = {Capability(operation) for operation in operations}
    for algorithm, served in algorithms.items():
        sizes = (key_sizes or {}).get(algorithm, algorithm.spec.key_sizes) or (None,)
        for size in sizes:
            for operation in served:
                if operation is Operation.GENERATE_KEY:
                    found |= {Capability(operation, algorithm, size, level) for level in levels}
                else:
                    found.add(Capability(operation, algorithm, size))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class WrapContext:
    """What a wrapped key is bound to, in both shapes that providers know.

    Attributes:
        pairs: readable pairs plus ``anykms:bind``, for a provider whose context is a map (AWS).
        aad: 32 bytes, for a provider with associated data (GCP, local). Both say the same.
    """

    pairs: Mapping[str, str]
    aad: bytes


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A wrapped data key. ``version`` is the key version used, where the provider tells (None on AWS)."""

    version: str | None
    ciphertext: bytes


REQUEST_IDS: Final[ContextVar[list[str] | None]] = ContextVar("anykms request ids", default=None)
"""Where ids of requests are gathered for the audit trail, while someone keeps one."""


def note_request_id(request_id: str) -> None:
    """For adapters: the service's own id of a request that it has answered, for the audit trail.

    An error carries its ``request_id`` itself.
    """
    gathered = REQUEST_IDS.get()
    if gathered is not None:
        gathered.append(request_id)


_STATE_ERRORS: Final[Mapping[KeyState, tuple[type[KMSError], str]]] = {
    KeyState.DISABLED: (KeyDisabledError, "the key is disabled; enable it first"),
    KeyState.PENDING_DESTRUCTION: (
        KeyPendingDestructionError,
        "the key is pending destruction; cancel that, then enable it",
    ),
    KeyState.PENDING_IMPORT: (KeyPendingImportError, "the key waits for its material to be imported"),
    KeyState.PENDING_GENERATION: (KeyNotReadyError, "the provider is still generating the key"),
    KeyState.DESTROYED: (KeyDestroyedError, "the key is destroyed; its material is gone"),
    KeyState.FAILED: (KeyStateError, "the provider failed to make or import the key; generate another"),
    KeyState.UNAVAILABLE: (UnavailableError, "the key's store is not reachable from its provider"),
}


def state_error(state: KeyState) -> KMSError:
    """The error of a key that cannot be used because of its state, the same on every provider.

    >>> state_error(KeyState.DISABLED)
    KeyDisabledError('the key is disabled; enable it first')
    """
    kind, text = _STATE_ERRORS.get(state, (KeyStateError, f"the key is {state}"))
    return kind(text)


def mismatch(what: str, *, expected: object, found: object) -> IntegrityError:
    """The error of a key that is not the one its KeyInfo describes: what was expected, and what was found.

    Both are escaped, and cut: what is found comes from outside.

    >>> mismatch("AWS KMS used another key", expected="key/a", found="key/b")
    IntegrityError("AWS KMS used another key: expected 'key/a', found 'key/b'")
    """
    return IntegrityError(f"{what}: expected {_shown(expected)}, found {_shown(found)}")


def _shown(value: object) -> str:
    return "nothing" if value is None or value == "" else ascii(str(value))[:200]


def is_name(text: str) -> bool:
    """Whether anykms can have made a key of this name; see ``check_name``."""
    try:
        check_name(text)
    except InvalidArgumentError:
        return False
    return True


def require_purpose(info: KeyInfo, purpose: KeyPurpose) -> None:
    """Raises KeyUsageError unless the key is for ``purpose``."""
    if info.purpose is not purpose:
        raise KeyUsageError(f"the key {info.name} is for {info.purpose}; this needs {purpose}")


def forbid_state(state: KeyState, *, pending: bool = False, disabled: bool = False) -> None:
    """Raises the state's own error: always for DESTROYED, for the two others where their flag is set."""
    refused = {KeyState.DESTROYED: True, KeyState.PENDING_DESTRUCTION: pending, KeyState.DISABLED: disabled}
    if refused.get(state, False):
        raise state_error(state)


def name_taken(name: str, holder: KeyState) -> KMSError:
    """The error of a key that cannot be made, because another one in state ``holder`` has its name."""
    if holder in (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED):
        return NameReservedError(f"the name {name} belongs to a key that is {holder}; choose another")
    return KeyExistsError(f"a key named {name} exists")


class SignatureEncoding(StrEnum):
    """How a signature is written down. Only ECDSA's differ: DER (RFC 3279) or r || s (IEEE Std 1363)."""

    DER = "DER"
    P1363 = "P1363"


@runtime_checkable
class Provider(Protocol):
    """One key service behind the neutral contract."""

    @property
    def scheme(self) -> str:
        """The provider's URI scheme, also its name in errors and in ``KeyInfo.provider``."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """All it can do, known without I/O once connected."""
        ...

    @property
    def signature_encoding(self) -> SignatureEncoding:
        """How ``sign`` writes ECDSA signatures."""
        ...

    @property
    def ungated(self) -> frozenset[Operation]:
        """Operations that the service performs in any key state, so that the core reads the state first."""
        ...

    @property
    def strongly_consistent(self) -> bool:
        """Whether a read sees every write before it; elsewhere the core waits between reads."""
        ...

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        """Make the key, ENABLED or on its way there, and leave nothing behind on failure.

        Raises:
            KeyExistsError: a live key has the name.
            NameReservedError: a key pending destruction, or a destroyed one, has it.
        """
        ...

    def get_key(self, name: str) -> KeyInfo:
        """The facts of a key by name, canonical key URI, or the provider's own identifier.

        Raises:
            KeyNotFoundError: there is none, or it is destroyed.
        """
        ...

    def list_keys(self) -> Iterator[KeyInfo]:
        """The keys that anykms made, in every state but DESTROYED."""
        ...

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        """The live status: DESTROYED, or KeyDestroyedError, once the material is gone."""
        ...

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        """Enable or disable every version. A key already there is left as it is.

        Raises:
            KeyStateError: its subclass for the state that forbids it (pending destruction, destroyed, ...).
        """
        ...

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        """Make a new version and use it from now on; old versions still unwrap."""
        ...

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        """Destroy after the key's window; returns when.

        Raises:
            KeyPendingDestructionError: it is scheduled already.
        """
        ...

    def cancel_destruction(self, info: KeyInfo) -> None:
        """Take the key back; it is DISABLED afterwards. Raises KeyStateError if it was not scheduled."""
        ...

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        """SPKI DER of the version, None meaning the current one."""
        ...

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        """Encrypt 32 bytes under the current version. An RSA key uses RSA-OAEP-256 and has no context."""
        ...

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        """Decrypt what ``wrap`` made, under exactly this key. The version comes from the message's label.

        Raises:
            InvalidCiphertextError: not authentic, or no such version.
        """
        ...

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        """Sign a digest (``prehashed``), or a message of 1 to 4096 bytes for Ed25519 and ML-DSA."""
        ...

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        """RSA-OAEP-256 decryption (SHA-256, MGF1-SHA-256, empty label)."""
        ...

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        """HMAC of 1 to 4096 bytes."""
        ...

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        """Raises InvalidMacError unless the tag is right."""
        ...

    def close(self) -> None:
        """Release connections; a second call does nothing."""
        ...


@runtime_checkable
class RootSecret(Protocol):
    """What protects a local keystore's own keys: bytes in, bytes out.

    Both handle 32 bytes. Any anykms key can serve, so a keystore's root can be a cloud key.
    """

    def wrap(self, secret: bytes) -> bytes:
        """Protect 32 bytes."""
        ...

    def unwrap(self, wrapped: bytes) -> bytes:
        """The 32 bytes again. Raises KeystoreError if ``wrapped`` is not authentic under this root."""
        ...
