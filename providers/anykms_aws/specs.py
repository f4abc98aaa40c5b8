"""AWS's words for the contract's: key specs, usages, algorithms, states and origins.

Source: AWS KMS API reference and service model 2014-11-01 (KeySpec, KeyUsageType, SigningAlgorithmSpec,
MacAlgorithmSpec, EncryptionAlgorithmSpec, KeyState, OriginType).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    UnsupportedOperationError,
)
from anykms.keys import KeyInfo, KeyOrigin, KeyState, ProtectionLevel
from anykms.provider import LIFECYCLE, Capability, Operation, capabilities, mismatch


@dataclass(frozen=True, slots=True)
class Spec:
    """How AWS spells a key of one purpose, algorithm and size.

    Attributes:
        key_spec, key_usage: fixed when the key is made.
        algorithm: chosen in every request; an RSA signing key serves six.
    """

    purpose: KeyPurpose
    key_spec: str
    key_usage: str
    algorithm: str


_SIGN: Final = "SIGN_VERIFY"
_RSA_SIGNING: Final = {
    Algorithm.RS256: "RSASSA_PKCS1_V1_5_SHA_256",
    Algorithm.RS384: "RSASSA_PKCS1_V1_5_SHA_384",
    Algorithm.RS512: "RSASSA_PKCS1_V1_5_SHA_512",
    Algorithm.PS256: "RSASSA_PSS_SHA_256",
    Algorithm.PS384: "RSASSA_PSS_SHA_384",
    Algorithm.PS512: "RSASSA_PSS_SHA_512",
}
_SIGNING: Final = {
    Algorithm.ES256: ("ECC_NIST_P256", "ECDSA_SHA_256"),
    Algorithm.ES384: ("ECC_NIST_P384", "ECDSA_SHA_384"),
    Algorithm.ES512: ("ECC_NIST_P521", "ECDSA_SHA_512"),
    Algorithm.ES256K: ("ECC_SECG_P256K1", "ECDSA_SHA_256"),
    Algorithm.ED25519: ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512"),
    Algorithm.ML_DSA_44: ("ML_DSA_44", "ML_DSA_SHAKE_256"),
    Algorithm.ML_DSA_65: ("ML_DSA_65", "ML_DSA_SHAKE_256"),
    Algorithm.ML_DSA_87: ("ML_DSA_87", "ML_DSA_SHAKE_256"),
}
_MACS: Final = {
    Algorithm.HS256: ("HMAC_256", "HMAC_SHA_256"),
    Algorithm.HS384: ("HMAC_384", "HMAC_SHA_384"),
    Algorithm.HS512: ("HMAC_512", "HMAC_SHA_512"),
}


def _table() -> dict[tuple[Algorithm, int | None], Spec]:
    wraps, opens = KeyPurpose.ENCRYPT_DECRYPT, KeyPurpose.ASYMMETRIC_DECRYPT
    signs, macs = KeyPurpose.SIGN_VERIFY, KeyPurpose.MAC
    found: dict[tuple[Algorithm, int | None], Spec] = {
        (Algorithm.A256GCM, None): Spec(wraps, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT")
    }
    for bits in Algorithm.RSA_OAEP_256.spec.key_sizes:
        found[Algorithm.RSA_OAEP_256, bits] = Spec(
            opens, f"RSA_{bits}", "ENCRYPT_DECRYPT", "RSAES_OAEP_SHA_256"
        )
    for algorithm, name in _RSA_SIGNING.items():
        for bits in algorithm.spec.key_sizes:
            found[algorithm, bits] = Spec(signs, f"RSA_{bits}", _SIGN, name)
    for algorithm, (key_spec, name) in _SIGNING.items():
        found[algorithm, None] = Spec(signs, key_spec, _SIGN, name)
    for algorithm, (key_spec, name) in _MACS.items():
        found[algorithm, None] = Spec(macs, key_spec, "GENERATE_VERIFY_MAC", name)
    return found


_SPECS: Final = _table()

# An RSA signing key made elsewhere serves six algorithms. PS256 is the one assumed: every size has it, and
# RFC 8017 section 8 recommends PSS for new applications.
_ASSUMED: Final = {
    (spec.key_spec, spec.key_usage): (algorithm, bits)
    for (algorithm, bits), spec in _SPECS.items()
    if algorithm not in _RSA_SIGNING or algorithm is Algorithm.PS256
}


def spec_of(algorithm: Algorithm, key_size: int | None) -> Spec:
    """AWS's spelling of a key.

    Raises:
        UnsupportedOperationError: AWS has no such key.
    """
    spec = _SPECS.get((algorithm, key_size))
    if spec is None:
        raise UnsupportedOperationError(f"AWS KMS has no {algorithm} key of size {key_size}")
    return spec


def algorithm_of(key_spec: str, key_usage: str, chosen: Algorithm | None) -> tuple[Algorithm, int | None]:
    """The algorithm and size of an existing key; ``chosen`` is what its tag says, None for a foreign key.

    Raises:
        IntegrityError: ``chosen`` is not one that the key serves.
        UnsupportedOperationError: a kind of key that the contract does not have (SM2, ML-KEM, HMAC_224, key
            agreement).
    """
    assumed = _ASSUMED.get((key_spec, key_usage))
    if assumed is None:
        raise UnsupportedOperationError(f"anykms does not use AWS keys of {key_spec} for {key_usage}")
    if chosen is None:
        return assumed
    spec = _SPECS.get((chosen, assumed[1]))
    if spec is None or (spec.key_spec, spec.key_usage) != (key_spec, key_usage):
        raise mismatch(
            f"tag anykms:algorithm of a key of {key_spec} for {key_usage}: someone edited it",
            expected=assumed[0],
            found=chosen,
        )
    return chosen, assumed[1]


def has_public_key(purpose: KeyPurpose) -> bool:
    """Whether a key of that purpose is asymmetric on AWS."""
    return purpose in (KeyPurpose.SIGN_VERIFY, KeyPurpose.ASYMMETRIC_DECRYPT)


STATES: Final[Mapping[str, KeyState]] = {
    "Creating": KeyState.PENDING_GENERATION,
    "Enabled": KeyState.ENABLED,
    "Updating": KeyState.ENABLED,  # a multi-Region primary changes; its replicas and itself can be used
    "Disabled": KeyState.DISABLED,
    "PendingImport": KeyState.PENDING_IMPORT,
    "PendingDeletion": KeyState.PENDING_DESTRUCTION,
    "PendingReplicaDeletion": KeyState.PENDING_DESTRUCTION,
    "Unavailable": KeyState.UNAVAILABLE,
}

ORIGINS: Final[Mapping[str, tuple[KeyOrigin, ProtectionLevel]]] = {
    "AWS_KMS": (KeyOrigin.PROVIDER, ProtectionLevel.HSM),
    "EXTERNAL": (KeyOrigin.IMPORTED, ProtectionLevel.HSM),
    "AWS_CLOUDHSM": (KeyOrigin.PROVIDER, ProtectionLevel.EXTERNAL),
    "EXTERNAL_KEY_STORE": (KeyOrigin.EXTERNAL, ProtectionLevel.EXTERNAL),
}
"""Where the material came from, and where it lives: AWS KMS's own HSMs, or the customer's key store."""

ROTATED_ORIGINS: Final = ("AWS_KMS", "EXTERNAL")
"""Origins whose symmetric keys have materials that rotate; a custom key store's have one for life."""


_SERVED: Final = {
    KeyPurpose.ENCRYPT_DECRYPT: (Operation.ROTATE_KEY, Operation.WRAP, Operation.UNWRAP),
    KeyPurpose.SIGN_VERIFY: (Operation.GET_PUBLIC_KEY, Operation.SIGN),
    KeyPurpose.MAC: (Operation.MAC, Operation.VERIFY_MAC),
    KeyPurpose.ASYMMETRIC_DECRYPT: (Operation.GET_PUBLIC_KEY, Operation.DECRYPT),
}


def capabilities_in(region: str) -> frozenset[Capability]:
    """All that AWS KMS does in a Region.

    In the China Regions SYMMETRIC_DEFAULT is SM4, not AES, so nothing is offered there under the name A256GCM.
    """
    served = {
        algorithm: (Operation.GENERATE_KEY, *_SERVED[spec.purpose])
        for (algorithm, _), spec in _SPECS.items()
        if not (algorithm is Algorithm.A256GCM and region.startswith("cn-"))
    }
    return capabilities(LIFECYCLE, served, (ProtectionLevel.HSM,))


def check_same_kind(info: KeyInfo, key_spec: str, key_usage: str) -> None:
    """Raises IntegrityError unless a key of that spec and usage can be the one that ``info`` describes."""
    spec = spec_of(info.algorithm, info.key_size)
    if (spec.key_spec, spec.key_usage) != (key_spec, key_usage):
        raise mismatch(
            f"AWS says that the key {info.name} is of another kind",
            expected=f"{info.algorithm}: {spec.key_spec} for {spec.key_usage}",
            found=f"{key_spec} for {key_usage}",
        )
