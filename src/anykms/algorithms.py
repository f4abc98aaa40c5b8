"""Key purposes, and the one table of algorithms.

Names are those of RFC 7518 (JWA), RFC 8812 (ES256K), RFC 9864 (Ed25519) and RFC 9964 (ML-DSA).
RSA1_5, OAEP with SHA-1, Ed25519ph and unpadded RSA are left out on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from anykms.errors import InvalidArgumentError

MAX_RAW_MESSAGE: Final = 4096
"""Bytes that a provider signs or MACs whole, without a digest made here first."""


class KeyPurpose(StrEnum):
    """What a key is for: one purpose, fixed when the key is made (NIST SP 800-57 part 1, 5.2)."""

    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
    """Wraps data keys; what a Keyring uses."""
    SIGN_VERIFY = "SIGN_VERIFY"
    MAC = "MAC"
    ASYMMETRIC_DECRYPT = "ASYMMETRIC_DECRYPT"
    """RSA-OAEP: others encrypt to the public key."""


class Algorithm(StrEnum):
    """The algorithm of a key: one, fixed when the key is made.

    >>> Algorithm("ES256").spec.digest
    'sha256'
    """

    A256GCM = "A256GCM"
    RSA_OAEP_256 = "RSA-OAEP-256"
    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    ES256K = "ES256K"
    ED25519 = "Ed25519"
    ML_DSA_44 = "ML-DSA-44"
    ML_DSA_65 = "ML-DSA-65"
    ML_DSA_87 = "ML-DSA-87"
    HS256 = "HS256"
    HS384 = "HS384"
    HS512 = "HS512"

    @property
    def spec(self) -> AlgorithmSpec:
        """The row of this algorithm in the table."""
        return _SPECS[self]

    @classmethod
    def named(cls, name: str) -> Algorithm:
        """The algorithm of that name.

        Raises:
            TypeError: not a str.
            InvalidArgumentError: no algorithm of the contract has that name.
        """
        if not isinstance(name, str):
            raise TypeError(f"algorithm is an Algorithm or its name, not {type(name).__name__}")
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(cls)
            raise InvalidArgumentError(f"unknown algorithm {name!r}; use one of {known}") from None


class KeyType(StrEnum):
    """JOSE key types (RFC 7517; AKP: RFC 9964)."""

    OCT = "oct"
    RSA = "RSA"
    EC = "EC"
    OKP = "OKP"
    AKP = "AKP"


@dataclass(frozen=True, slots=True)
class AlgorithmSpec:
    """What the contract fixes about one algorithm. Sizes in bytes, but ``key_sizes`` in bits."""

    algorithm: Algorithm
    purposes: frozenset[KeyPurpose]
    key_type: KeyType
    key_sizes: tuple[int, ...] = ()
    """RSA modulus sizes in bits; empty for all others, whose size the algorithm fixes."""
    default_key_size: int | None = None
    curve: str | None = None
    """JOSE name of the curve."""
    digest: str | None = None
    """hashlib name of the digest that is signed or MACed with; None where the whole message is signed."""
    digest_size: int | None = None
    coordinate_size: int | None = None
    """Width of r and of s in a P1363 signature (IEEE Std 1363)."""
    max_message: int | None = None
    """Longest message where the provider takes it whole; None where a digest is sent."""

    @property
    def prehashable(self) -> bool:
        """Whether a signature is made over a digest that the caller may bring."""
        return self.digest is not None and KeyPurpose.SIGN_VERIFY in self.purposes

    def size_or_default(self, key_size: int | None) -> int | None:
        """The key size to use when the caller asked for ``key_size`` bits.

        Raises:
            InvalidArgumentError: the algorithm has no such size.
        """
        if key_size is None:
            return self.default_key_size
        if key_size not in self.key_sizes:
            allowed = ", ".join(map(str, self.key_sizes)) or "none: the algorithm fixes it"
            raise InvalidArgumentError(
                f"key_size {key_size} does not fit {self.algorithm}; allowed: {allowed}"
            )
        return key_size


def oaep_max_plaintext(key_size: int) -> int:
    """Longest RSA-OAEP-256 plaintext in bytes for a modulus of ``key_size`` bits (RFC 8017, 7.1.1).

    >>> [oaep_max_plaintext(bits) for bits in (2048, 3072, 4096)]
    [190, 318, 446]
    """
    return key_size // 8 - 2 * 32 - 2


_SIGN = frozenset({KeyPurpose.SIGN_VERIFY})
_MAC = frozenset({KeyPurpose.MAC})
_RSA_SIZES = (2048, 3072, 4096)


def _rsa_signature(algorithm: Algorithm, digest: str, digest_size: int) -> AlgorithmSpec:
    widest_only = digest == "sha512"
    return AlgorithmSpec(
        algorithm,
        _SIGN,
        KeyType.RSA,
        key_sizes=(4096,) if widest_only else _RSA_SIZES,
        default_key_size=4096 if widest_only else 3072,
        digest=digest,
        digest_size=digest_size,
    )


def _ecdsa(algorithm: Algorithm, curve: str, digest: str, digest_size: int, width: int) -> AlgorithmSpec:
    return AlgorithmSpec(
        algorithm,
        _SIGN,
        KeyType.EC,
        curve=curve,
        digest=digest,
        digest_size=digest_size,
        coordinate_size=width,
    )


def _ml_dsa(algorithm: Algorithm) -> AlgorithmSpec:
    return AlgorithmSpec(algorithm, _SIGN, KeyType.AKP, max_message=MAX_RAW_MESSAGE)


def _hmac(algorithm: Algorithm, digest: str, digest_size: int) -> AlgorithmSpec:
    return AlgorithmSpec(
        algorithm, _MAC, KeyType.OCT, digest=digest, digest_size=digest_size, max_message=MAX_RAW_MESSAGE
    )


_SPECS: Final[dict[Algorithm, AlgorithmSpec]] = {
    spec.algorithm: spec
    for spec in (
        AlgorithmSpec(Algorithm.A256GCM, frozenset({KeyPurpose.ENCRYPT_DECRYPT}), KeyType.OCT),
        AlgorithmSpec(
            Algorithm.RSA_OAEP_256,
            frozenset({KeyPurpose.ENCRYPT_DECRYPT, KeyPurpose.ASYMMETRIC_DECRYPT}),
            KeyType.RSA,
            key_sizes=_RSA_SIZES,
            default_key_size=3072,
        ),
        _rsa_signature(Algorithm.RS256, "sha256", 32),
        _rsa_signature(Algorithm.RS384, "sha384", 48),
        _rsa_signature(Algorithm.RS512, "sha512", 64),
        _rsa_signature(Algorithm.PS256, "sha256", 32),
        _rsa_signature(Algorithm.PS384, "sha384", 48),
        _rsa_signature(Algorithm.PS512, "sha512", 64),
        _ecdsa(Algorithm.ES256, "P-256", "sha256", 32, 32),
        _ecdsa(Algorithm.ES384, "P-384", "sha384", 48, 48),
        _ecdsa(Algorithm.ES512, "P-521", "sha512", 64, 66),
        _ecdsa(Algorithm.ES256K, "secp256k1", "sha256", 32, 32),
        AlgorithmSpec(Algorithm.ED25519, _SIGN, KeyType.OKP, curve="Ed25519", max_message=MAX_RAW_MESSAGE),
        _ml_dsa(Algorithm.ML_DSA_44),
        _ml_dsa(Algorithm.ML_DSA_65),
        _ml_dsa(Algorithm.ML_DSA_87),
        _hmac(Algorithm.HS256, "sha256", 32),
        _hmac(Algorithm.HS384, "sha384", 48),
        _hmac(Algorithm.HS512, "sha512", 64),
    )
}
