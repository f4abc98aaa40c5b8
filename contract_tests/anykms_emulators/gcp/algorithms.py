"""The algorithms of the installed google-cloud-kms, and what each one is made of.

Every name of CryptoKeyVersionAlgorithm is either in `ALGORITHMS`, with key material that pyca can make, or in
`NOT_EMULATED` with the reason. A test holds the two tables against the enum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from anykms_emulators.material import (
    CurveName,
    EcKey,
    Ed25519Key,
    HashName,
    KeyMaterial,
    MlDsaKey,
    MlDsaSet,
    MlKemKey,
    MlKemSet,
    RsaKey,
    SecretKey,
    digest_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Purpose: TypeAlias = Literal[
    "ENCRYPT_DECRYPT",
    "RAW_ENCRYPT_DECRYPT",
    "ASYMMETRIC_SIGN",
    "ASYMMETRIC_DECRYPT",
    "MAC",
    "KEY_ENCAPSULATION",
]
Scheme: TypeAlias = Literal[
    "google symmetric",
    "AES-GCM",
    "AES-CBC",
    "AES-CTR",
    "PSS",
    "PKCS1",
    "raw PKCS1",
    "OAEP",
    "ECDSA",
    "Ed25519",
    "ML-DSA",
    "ML-DSA external mu",
    "HMAC",
    "ML-KEM",
]
PURPOSES: Final[tuple[Purpose, ...]] = (
    "ENCRYPT_DECRYPT",
    "RAW_ENCRYPT_DECRYPT",
    "ASYMMETRIC_SIGN",
    "ASYMMETRIC_DECRYPT",
    "MAC",
    "KEY_ENCAPSULATION",
)
POST_QUANTUM: Final = frozenset({"ML-DSA", "ML-DSA external mu", "ML-KEM"})


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm: its enum name, purpose, scheme, hash, and how to make or load its key material.

    `load` takes raw bytes for symmetric keys and PKCS #8 DER otherwise; ValueError when the material does
    not fit the algorithm.
    """

    name: str
    purpose: Purpose
    scheme: Scheme
    generate: Callable[[], KeyMaterial]
    load: Callable[[bytes], KeyMaterial]
    hash_name: HashName = "SHA-256"
    hsm_only: bool = False

    @property
    def asymmetric(self) -> bool:
        """Whether a version has a public key, and so is generated in the background."""
        return self.purpose in ("ASYMMETRIC_SIGN", "ASYMMETRIC_DECRYPT", "KEY_ENCAPSULATION")


def _secret(
    name: str, purpose: Purpose, scheme: Scheme, size: int, hash_name: HashName = "SHA-256"
) -> Algorithm:
    def load(raw: bytes) -> SecretKey:
        if len(raw) != size:
            raise ValueError(f"{name} keys have {size} bytes, not {len(raw)}")
        return SecretKey(raw)

    return Algorithm(name, purpose, scheme, lambda: SecretKey.generate(size), load, hash_name)


def _rsa(name: str, purpose: Purpose, scheme: Scheme, bits: int, hash_name: HashName) -> Algorithm:
    def load(der: bytes) -> RsaKey:
        key = RsaKey.from_pkcs8(der)
        if key.bits != bits:
            raise ValueError(f"{name} keys have {bits} bits, not {key.bits}")
        return key

    return Algorithm(name, purpose, scheme, lambda: RsaKey.generate(bits), load, hash_name)


def _ec(name: str, curve: CurveName, hash_name: HashName, *, hsm_only: bool = False) -> Algorithm:
    def load(der: bytes) -> EcKey:
        key = EcKey.from_pkcs8(der)
        if key.curve != curve:
            raise ValueError(f"{name} keys are on {curve}, not on {key.curve}")
        return key

    return Algorithm(
        name, "ASYMMETRIC_SIGN", "ECDSA", lambda: EcKey.generate(curve), load, hash_name, hsm_only
    )


def _not_importable(name: str) -> Callable[[bytes], KeyMaterial]:
    def load(_: bytes) -> KeyMaterial:
        raise ValueError(f"{name} key material cannot be imported")

    return load


def _ml_dsa(name: str, scheme: Scheme, parameter_set: MlDsaSet) -> Algorithm:
    return Algorithm(
        name, "ASYMMETRIC_SIGN", scheme, lambda: MlDsaKey.generate(parameter_set), _not_importable(name)
    )


def _ml_kem(name: str, parameter_set: MlKemSet) -> Algorithm:
    return Algorithm(
        name,
        "KEY_ENCAPSULATION",
        "ML-KEM",
        lambda: MlKemKey.generate(parameter_set),
        _not_importable(name),
    )


def _all() -> Iterator[Algorithm]:
    yield _secret("GOOGLE_SYMMETRIC_ENCRYPTION", "ENCRYPT_DECRYPT", "google symmetric", 32)
    for bits in (128, 256):
        yield _secret(f"AES_{bits}_GCM", "RAW_ENCRYPT_DECRYPT", "AES-GCM", bits // 8)
        yield _secret(f"AES_{bits}_CBC", "RAW_ENCRYPT_DECRYPT", "AES-CBC", bits // 8)
        yield _secret(f"AES_{bits}_CTR", "RAW_ENCRYPT_DECRYPT", "AES-CTR", bits // 8)
    for bits in (2048, 3072, 4096):
        yield _rsa(f"RSA_SIGN_PSS_{bits}_SHA256", "ASYMMETRIC_SIGN", "PSS", bits, "SHA-256")
        yield _rsa(f"RSA_SIGN_PKCS1_{bits}_SHA256", "ASYMMETRIC_SIGN", "PKCS1", bits, "SHA-256")
        yield _rsa(f"RSA_SIGN_RAW_PKCS1_{bits}", "ASYMMETRIC_SIGN", "raw PKCS1", bits, "SHA-256")
        yield _rsa(f"RSA_DECRYPT_OAEP_{bits}_SHA256", "ASYMMETRIC_DECRYPT", "OAEP", bits, "SHA-256")
        yield _rsa(f"RSA_DECRYPT_OAEP_{bits}_SHA1", "ASYMMETRIC_DECRYPT", "OAEP", bits, "SHA-1")
    yield _rsa("RSA_SIGN_PSS_4096_SHA512", "ASYMMETRIC_SIGN", "PSS", 4096, "SHA-512")
    yield _rsa("RSA_SIGN_PKCS1_4096_SHA512", "ASYMMETRIC_SIGN", "PKCS1", 4096, "SHA-512")
    yield _rsa("RSA_DECRYPT_OAEP_4096_SHA512", "ASYMMETRIC_DECRYPT", "OAEP", 4096, "SHA-512")
    yield _ec("EC_SIGN_P256_SHA256", "P-256", "SHA-256")
    yield _ec("EC_SIGN_P384_SHA384", "P-384", "SHA-384")
    yield _ec("EC_SIGN_SECP256K1_SHA256", "secp256k1", "SHA-256", hsm_only=True)
    yield Algorithm(
        "EC_SIGN_ED25519", "ASYMMETRIC_SIGN", "Ed25519", Ed25519Key.generate, Ed25519Key.from_pkcs8
    )
    hashes: tuple[HashName, ...] = ("SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512")
    for hash_name in hashes:
        name = "HMAC_" + hash_name.replace("-", "")
        yield _secret(name, "MAC", "HMAC", digest_size(hash_name), hash_name)
    dsa_sets: tuple[MlDsaSet, ...] = ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
    for dsa_set in dsa_sets:
        name = "PQ_SIGN_" + dsa_set.replace("-", "_")
        yield _ml_dsa(name, "ML-DSA", dsa_set)
        yield _ml_dsa(f"{name}_EXTERNAL_MU", "ML-DSA external mu", dsa_set)
    yield _ml_kem("ML_KEM_768", "ML-KEM-768")
    yield _ml_kem("ML_KEM_1024", "ML-KEM-1024")


ALGORITHMS: Final[dict[str, Algorithm]] = {algorithm.name: algorithm for algorithm in _all()}

NOT_EMULATED: Final[dict[str, str]] = {
    "CRYPTO_KEY_VERSION_ALGORITHM_UNSPECIFIED": "not an algorithm",
    "EXTERNAL_SYMMETRIC_ENCRYPTION": "keys in an external key manager are not emulated",
    "KEM_XWING": "pyca cryptography has X-Wing only inside HPKE",
    "PQ_SIGN_SLH_DSA_SHA2_128S": "pyca cryptography has no SLH-DSA",
    "PQ_SIGN_HASH_SLH_DSA_SHA2_128S_SHA256": "pyca cryptography has no SLH-DSA",
    "AES_256_KWP": "single-tenant HSM instances are not emulated",
}
