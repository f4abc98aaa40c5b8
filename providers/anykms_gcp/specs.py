"""Cloud KMS's words for the contract's: purposes, algorithms, protection levels and states.

Source: google.cloud.kms.v1 (CryptoKeyPurpose, CryptoKeyVersionAlgorithm, ProtectionLevel, CryptoKeyVersionState)
and the Cloud KMS documentation, "Key purposes and algorithms".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    UnsupportedOperationError,
)
from anykms.keys import KeyInfo, KeyState, ProtectionLevel
from anykms.provider import LIFECYCLE, Capability, Operation, capabilities, mismatch


@dataclass(frozen=True, slots=True)
class Spec:
    """How Cloud KMS spells a key of one purpose, algorithm and size; hash and padding are part of the name."""

    purpose: KeyPurpose
    crypto_key_purpose: str
    algorithm: str


_WRAPS, _SIGNS = KeyPurpose.ENCRYPT_DECRYPT, KeyPurpose.SIGN_VERIFY
_MACS, _OPENS = KeyPurpose.MAC, KeyPurpose.ASYMMETRIC_DECRYPT
_PURPOSES: Final = {
    _WRAPS: "ENCRYPT_DECRYPT",
    _SIGNS: "ASYMMETRIC_SIGN",
    _MACS: "MAC",
    _OPENS: "ASYMMETRIC_DECRYPT",
}
_RSA: Final = (
    (_SIGNS, Algorithm.RS256, "RSA_SIGN_PKCS1_{}_SHA256"),
    (_SIGNS, Algorithm.RS512, "RSA_SIGN_PKCS1_{}_SHA512"),
    (_SIGNS, Algorithm.PS256, "RSA_SIGN_PSS_{}_SHA256"),
    (_SIGNS, Algorithm.PS512, "RSA_SIGN_PSS_{}_SHA512"),
    (_OPENS, Algorithm.RSA_OAEP_256, "RSA_DECRYPT_OAEP_{}_SHA256"),
)
_OTHERS: Final = (
    (_WRAPS, Algorithm.A256GCM, "GOOGLE_SYMMETRIC_ENCRYPTION"),
    (_SIGNS, Algorithm.ES256, "EC_SIGN_P256_SHA256"),
    (_SIGNS, Algorithm.ES384, "EC_SIGN_P384_SHA384"),
    (_SIGNS, Algorithm.ES256K, "EC_SIGN_SECP256K1_SHA256"),
    (_SIGNS, Algorithm.ED25519, "EC_SIGN_ED25519"),
    (_SIGNS, Algorithm.ML_DSA_44, "PQ_SIGN_ML_DSA_44"),
    (_SIGNS, Algorithm.ML_DSA_65, "PQ_SIGN_ML_DSA_65"),
    (_SIGNS, Algorithm.ML_DSA_87, "PQ_SIGN_ML_DSA_87"),
    (_MACS, Algorithm.HS256, "HMAC_SHA256"),
    (_MACS, Algorithm.HS384, "HMAC_SHA384"),
    (_MACS, Algorithm.HS512, "HMAC_SHA512"),
)
ML_DSA: Final = frozenset({Algorithm.ML_DSA_44, Algorithm.ML_DSA_65, Algorithm.ML_DSA_87})
"""Their public keys come in no other format than NIST_PQC: FIPS 204's raw bytes."""


def _table() -> dict[tuple[Algorithm, int | None], Spec]:
    found: dict[tuple[Algorithm, int | None], Spec] = {}
    for purpose, algorithm, name in _RSA:
        for bits in algorithm.spec.key_sizes:
            found[algorithm, bits] = Spec(purpose, _PURPOSES[purpose], name.format(bits))
    for purpose, algorithm, name in _OTHERS:
        found[algorithm, None] = Spec(purpose, _PURPOSES[purpose], name)
    return found


_SPECS: Final = _table()
_ALGORITHMS: Final = {
    (spec.crypto_key_purpose, spec.algorithm): (algorithm, bits) for (algorithm, bits), spec in _SPECS.items()
} | {("ENCRYPT_DECRYPT", "EXTERNAL_SYMMETRIC_ENCRYPTION"): (Algorithm.A256GCM, None)}
"""A key of an external key manager is made elsewhere; here it takes and authenticates additional data alike."""


def spec_of(algorithm: Algorithm, key_size: int | None) -> Spec:
    """Cloud KMS's spelling of a key.

    Raises:
        UnsupportedOperationError: Cloud KMS has no such key.
    """
    spec = _SPECS.get((algorithm, key_size))
    if spec is None:
        raise UnsupportedOperationError(f"Cloud KMS has no {algorithm} key of size {key_size}")
    return spec


def algorithm_of(crypto_key_purpose: str, algorithm: str) -> tuple[Algorithm, int | None]:
    """The algorithm and size of an existing key.

    Raises:
        UnsupportedOperationError: a kind of key that the contract does not have (raw encryption, SHA-1, SLH-DSA,
            ML-KEM, key wrapping).
    """
    found = _ALGORITHMS.get((crypto_key_purpose, algorithm))
    if found is None:
        raise UnsupportedOperationError(f"anykms does not use {algorithm} keys for {crypto_key_purpose}")
    return found


def check_same_kind(info: KeyInfo, algorithm: str) -> None:
    """Raises IntegrityError unless a version of that algorithm can be one of the key that ``info`` describes."""
    purpose = spec_of(info.algorithm, info.key_size).crypto_key_purpose
    if _ALGORITHMS.get((purpose, algorithm)) != (info.algorithm, info.key_size):
        raise mismatch(
            f"Cloud KMS says that the key {info.name} is of another kind",
            expected=f"{info.algorithm}: {spec_of(info.algorithm, info.key_size).algorithm}",
            found=algorithm,
        )


def has_public_key(purpose: KeyPurpose) -> bool:
    """Whether a key of that purpose is asymmetric on Cloud KMS."""
    return purpose in (KeyPurpose.SIGN_VERIFY, KeyPurpose.ASYMMETRIC_DECRYPT)


STATES: Final[Mapping[str, KeyState]] = {
    "PENDING_GENERATION": KeyState.PENDING_GENERATION,
    "ENABLED": KeyState.ENABLED,
    "DISABLED": KeyState.DISABLED,
    "DESTROY_SCHEDULED": KeyState.PENDING_DESTRUCTION,
    "DESTROYED": KeyState.DESTROYED,
    "PENDING_IMPORT": KeyState.PENDING_IMPORT,
    "IMPORT_FAILED": KeyState.FAILED,
    "GENERATION_FAILED": KeyState.FAILED,
    # Cloud KMS has destroyed its part; an external key manager still has, or keeps, the material.
    "PENDING_EXTERNAL_DESTRUCTION": KeyState.DESTROYED,
    "EXTERNAL_DESTRUCTION_FAILED": KeyState.DESTROYED,
}

LEVELS: Final[Mapping[str, ProtectionLevel]] = {
    "SOFTWARE": ProtectionLevel.SOFTWARE,
    "HSM": ProtectionLevel.HSM,
    "HSM_SINGLE_TENANT": ProtectionLevel.HSM,
    "EXTERNAL": ProtectionLevel.EXTERNAL,
    "EXTERNAL_VPC": ProtectionLevel.EXTERNAL,
}

_BOTH: Final = (ProtectionLevel.SOFTWARE, ProtectionLevel.HSM)
_LEVELS_OF: Final = {Algorithm.ES256K: (ProtectionLevel.HSM,)} | dict.fromkeys(
    ML_DSA, (ProtectionLevel.SOFTWARE,)
)
"""Where not both: Cloud KMS has secp256k1 at HSM only; ML-DSA is not known to be generated at HSM."""

_SERVED: Final = {
    _WRAPS: (Operation.ROTATE_KEY, Operation.WRAP, Operation.UNWRAP),
    _SIGNS: (Operation.GET_PUBLIC_KEY, Operation.SIGN),
    _MACS: (Operation.MAC, Operation.VERIFY_MAC),
    _OPENS: (Operation.GET_PUBLIC_KEY, Operation.DECRYPT),
}


def levels_of(algorithm: Algorithm) -> tuple[ProtectionLevel, ...]:
    """The protection levels at which keys of the algorithm are generated, the default first."""
    return _LEVELS_OF.get(algorithm, _BOTH)


def _capabilities() -> frozenset[Capability]:
    found = capabilities(LIFECYCLE, {}, ())
    for (algorithm, _), spec in _SPECS.items():
        served = (Operation.GENERATE_KEY, *_SERVED[spec.purpose])
        found |= capabilities((), {algorithm: served}, levels_of(algorithm))
    return found


CAPABILITIES: Final = _capabilities()
"""All that Cloud KMS does, in every location."""
