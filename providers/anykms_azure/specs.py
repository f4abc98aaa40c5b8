"""Azure's words for the contract's: kinds of key, curves, key_ops and what each SKU has.

Source: Azure Key Vault REST API 2025-07-01 (JsonWebKeyType, JsonWebKeyCurveName, JsonWebKeyOperation) and
"About keys" (key types and protection methods).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from anykms.algorithms import Algorithm, KeyPurpose, KeyType
from anykms.errors import (
    UnsupportedOperationError,
)
from anykms.keys import ProtectionLevel
from anykms.provider import LIFECYCLE, Capability, Operation, capabilities


class Sku(StrEnum):
    """What kind of vault: a vault of the SKU Standard or Premium, or a managed HSM."""

    STANDARD = "standard"
    PREMIUM = "premium"
    HSM = "hsm"

    @property
    def levels(self) -> tuple[ProtectionLevel, ...]:
        """The protection levels of RSA and EC keys, the default first."""
        if self is Sku.STANDARD:
            return (ProtectionLevel.SOFTWARE,)
        if self is Sku.HSM:
            return (ProtectionLevel.HSM,)
        return (ProtectionLevel.HSM, ProtectionLevel.SOFTWARE)


@dataclass(frozen=True, slots=True)
class Kind:
    """How Azure spells a key of one purpose and algorithm.

    Attributes:
        kty: ``RSA``, ``EC`` or ``oct``, before ``-HSM``.
        crv: of an EC key.
        key_ops: all that the key may do; the service chooses the algorithm per request, so they are exclusive.
    """

    kty: str
    crv: str | None
    key_ops: frozenset[str]


_CURVES: Final = {"P-256": "P-256", "P-384": "P-384", "P-521": "P-521", "secp256k1": "P-256K"}
_SIGNING: Final = (
    *(Algorithm.RS256, Algorithm.RS384, Algorithm.RS512),
    *(Algorithm.PS256, Algorithm.PS384, Algorithm.PS512),
    *(Algorithm.ES256, Algorithm.ES384, Algorithm.ES512, Algorithm.ES256K),
)
_KTY: Final = {KeyType.RSA: "RSA", KeyType.EC: "EC", KeyType.OCT: "oct"}
_WRAP: Final = frozenset({"wrapKey", "unwrapKey"})
_ENCRYPT: Final = frozenset({"encrypt", "decrypt"})
_SIGN: Final = frozenset({"sign", "verify"})
_DECRYPT: Final = frozenset({"decrypt"})

_KINDS: Final[Mapping[tuple[KeyPurpose, Algorithm], Kind]] = {
    (KeyPurpose.ENCRYPT_DECRYPT, Algorithm.RSA_OAEP_256): Kind("RSA", None, _WRAP),
    (KeyPurpose.ENCRYPT_DECRYPT, Algorithm.A256GCM): Kind("oct", None, _ENCRYPT),
    (KeyPurpose.ASYMMETRIC_DECRYPT, Algorithm.RSA_OAEP_256): Kind("RSA", None, _DECRYPT),
} | {
    (KeyPurpose.SIGN_VERIFY, algorithm): Kind(
        _KTY[algorithm.spec.key_type], _CURVES.get(algorithm.spec.curve or ""), _SIGN
    )
    for algorithm in _SIGNING
}
_BY_CURVE: Final = {kind.crv: algorithm for (_, algorithm), kind in _KINDS.items() if kind.crv is not None}

A256GCM_BITS: Final = 256
ALGORITHMS: Final = frozenset(algorithm for _, algorithm in _KINDS)


def kind_of(purpose: KeyPurpose, algorithm: Algorithm) -> Kind:
    """Azure's spelling of a key.

    Raises:
        UnsupportedOperationError: Azure has no such key.
    """
    kind = _KINDS.get((purpose, algorithm))
    if kind is None:
        raise UnsupportedOperationError(f"Azure has no {algorithm} key for {purpose}")
    return kind


def assumed(kty: str, crv: str | None, key_ops: Iterable[str], sku: Sku) -> tuple[KeyPurpose, Algorithm]:
    """What a key made elsewhere is used for: the first use that its key_ops allow.

    An RSA key wraps, else decrypts, else signs by PS256, which every size has and RFC 8017 section 8 recommends.

    Raises:
        UnsupportedOperationError: a kind of key, or key_ops, that the contract does not have.
    """
    allowed, bare = frozenset(key_ops), kty.removesuffix("-HSM")
    if bare == "RSA":
        if allowed >= _WRAP:
            return KeyPurpose.ENCRYPT_DECRYPT, Algorithm.RSA_OAEP_256
        if "decrypt" in allowed:
            return KeyPurpose.ASYMMETRIC_DECRYPT, Algorithm.RSA_OAEP_256
        if "sign" in allowed:
            return KeyPurpose.SIGN_VERIFY, Algorithm.PS256
    elif bare == "EC" and crv in _BY_CURVE and "sign" in allowed:
        return KeyPurpose.SIGN_VERIFY, _BY_CURVE[crv]
    elif bare == "oct" and allowed >= _ENCRYPT and sku is not Sku.STANDARD:
        return KeyPurpose.ENCRYPT_DECRYPT, Algorithm.A256GCM
    raise UnsupportedOperationError(
        f"anykms does not use Azure keys of kind {ascii(kty)[1:-1][:40]} with key_ops "
        f"{', '.join(sorted(ascii(op)[1:-1][:40] for op in allowed)) or 'none'}"
    )


def has_public_key(algorithm: Algorithm) -> bool:
    """Whether the key is asymmetric."""
    return algorithm is not Algorithm.A256GCM


_WRAPS: Final = (Operation.GENERATE_KEY, Operation.ROTATE_KEY, Operation.WRAP, Operation.UNWRAP)


def _capabilities(sku: Sku) -> frozenset[Capability]:
    signs = (Operation.GENERATE_KEY, Operation.GET_PUBLIC_KEY, Operation.SIGN)
    asymmetric: dict[Algorithm, tuple[Operation, ...]] = dict.fromkeys(_SIGNING, signs)
    asymmetric[Algorithm.RSA_OAEP_256] = (*_WRAPS, Operation.GET_PUBLIC_KEY, Operation.DECRYPT)
    found = capabilities(LIFECYCLE, asymmetric, sku.levels)
    if sku is Sku.STANDARD:
        return found
    return found | capabilities((), {Algorithm.A256GCM: _WRAPS}, (ProtectionLevel.HSM,))


CAPABILITIES: Final = {sku: _capabilities(sku) for sku in Sku}
