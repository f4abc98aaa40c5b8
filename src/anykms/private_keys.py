"""Private keys of pyca ``cryptography`` that sign in a key service.

Each is a subclass of pyca's own class, so that whatever takes such a key and only signs with it works unchanged:
``x509`` certificates, requests and revocation lists, PyJWT, joserfc. The private part is not here. What would need
it is refused, and so is any hash, padding or curve but the key's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, Self, TypeAlias, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from anykms.algorithms import Algorithm, KeyType
from anykms.errors import KeyUsageError, UnsupportedOperationError
from anykms.payload import BytesLike, octets
from anykms.signing import PublicKey

SigningPrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
Sign: TypeAlias = Callable[[bytes, bool], bytes]
"""Message or digest, and whether it is the digest; gives the signature, ECDSA's in DER."""

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_NOT_HERE: Final = "the private key stays in its key service"


def private_key(public_key: PublicKey, sign: Sign) -> SigningPrivateKey:
    """The pyca key that signs by ``sign``; ``Key.as_private_key`` is what applications call.

    Args:
        public_key: what its signatures verify with, and the one algorithm they are made by.
        sign: makes them.
    """
    algorithm = public_key.algorithm
    kind = _ML_DSA.get(algorithm) or _KINDS[algorithm.spec.key_type]
    return kind(public_key, sign)


class _RemoteKey:
    """What all of them share."""

    def __init__(self, public_key: PublicKey, sign: Sign) -> None:
        self._algorithm = public_key.algorithm
        self._sign = sign
        self._public: PublicKeyTypes = load_der_public_key(public_key.spki)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._algorithm}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("it signs through an open connection; pickle the KeyInfo and connect again")

    def private_bytes(self, *arguments: object, **options: object) -> NoReturn:
        """Refused. Raises UnsupportedOperationError."""
        raise UnsupportedOperationError(f"{_NOT_HERE}; store its KeyInfo, or its public_key().public_bytes()")

    def private_bytes_raw(self) -> NoReturn:
        """Refused. Raises UnsupportedOperationError."""
        self.private_bytes()

    def private_numbers(self) -> NoReturn:
        """Refused. Raises UnsupportedOperationError."""
        raise UnsupportedOperationError(f"{_NOT_HERE}; public_key().public_numbers() has the public ones")

    def decrypt(self, *arguments: object, **options: object) -> NoReturn:
        """Refused. Raises UnsupportedOperationError."""
        raise UnsupportedOperationError(
            "a signing key does not decrypt; generate an ASYMMETRIC_DECRYPT key and use Key.decrypt"
        )

    def exchange(self, *arguments: object, **options: object) -> NoReturn:
        """Refused. Raises UnsupportedOperationError."""
        raise UnsupportedOperationError(
            "a signing key agrees on no secrets; encrypt for others with a Keyring, or with an ASYMMETRIC_DECRYPT key"
        )

    def _whole(self, data: BytesLike) -> bytes:
        return self._sign(octets(data, "data"), False)

    def _hashed(self, data: BytesLike, algorithm: object) -> bytes:
        """A signature over data, or over its digest, where ``algorithm`` is the key's own."""
        prehashed = isinstance(algorithm, utils.Prehashed)
        # pyca has no public name for the hash of a Prehashed; a release that moves it makes this refuse.
        chosen = vars(algorithm).get("_algorithm") if prehashed else algorithm
        name = self._algorithm.spec.digest
        if not isinstance(chosen, hashes.HashAlgorithm) or chosen.name != name:
            asked = chosen.name if isinstance(chosen, hashes.HashAlgorithm) else type(algorithm).__name__
            self._refuse(f"hashes with {name}, not with {asked}")
        return self._sign(octets(data, "data"), prehashed)

    def _refuse(self, why: str) -> NoReturn:
        raise KeyUsageError(f"the key is for {self._algorithm}, which {why}; its algorithm was fixed with it")


class KMSRSAPrivateKey(_RemoteKey, rsa.RSAPrivateKey):
    """An RSA key for RS256 to PS512."""

    @property
    def key_size(self) -> int:
        """Modulus in bits."""
        return self.public_key().key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """The public part, in this process."""
        return cast("rsa.RSAPublicKey", self._public)

    def sign(
        self,
        data: BytesLike,
        padding: padding.AsymmetricPadding,
        algorithm: utils.Prehashed | hashes.HashAlgorithm | utils.NoDigestInfo,
    ) -> bytes:
        """Sign in the key service.

        Args:
            data: of any size, or a digest with ``Prehashed``.
            padding: PKCS1v15 for RS*, PSS with a salt as long as the digest and MGF1 of the same hash for PS*.
            algorithm: the key's own hash.

        Raises:
            KeyUsageError: another padding or hash than the key's.
            KMSError: as ``Key.sign``.
        """
        if padding not in _paddings(self._algorithm):
            self._refuse(_PADDING_RULE[str(self._algorithm)[:2]])
        return self._hashed(data, algorithm)


class KMSEllipticCurvePrivateKey(_RemoteKey, ec.EllipticCurvePrivateKey):
    """An EC key for ES256 to ES512 and ES256K."""

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve of the key."""
        return self.public_key().curve

    @property
    def key_size(self) -> int:
        """Size of the curve's order in bits."""
        return self.public_key().key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public part, in this process."""
        return cast("ec.EllipticCurvePublicKey", self._public)

    def sign(self, data: BytesLike, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign in the key service; the signature is DER.

        Args:
            data: of any size, or a digest with ``Prehashed``.
            signature_algorithm: ECDSA with the key's own hash, not deterministic: the service draws the nonce.

        Raises:
            KeyUsageError: another algorithm or hash than the key's.
            KMSError: as ``Key.sign``.
        """
        if not isinstance(signature_algorithm, ec.ECDSA):
            self._refuse(f"signs with ECDSA, not with {type(signature_algorithm).__name__}")
        if signature_algorithm.deterministic_signing:
            self._refuse("draws its nonces in the key service; leave deterministic signing out")
        return self._hashed(data, signature_algorithm.algorithm)


class KMSEd25519PrivateKey(_RemoteKey, ed25519.Ed25519PrivateKey):
    """An Ed25519 key."""

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """The public part, in this process."""
        return cast("ed25519.Ed25519PublicKey", self._public)

    def sign(self, data: BytesLike) -> bytes:
        """Sign 1 to 4096 bytes in the key service. Raises as ``Key.sign``."""
        return self._whole(data)


class _RemoteMLDSA(_RemoteKey):
    def public_key(self) -> Any:
        """The public part, in this process."""
        return self._public

    def sign(self, data: BytesLike, context: BytesLike | None = None) -> bytes:
        """Sign 1 to 4096 bytes in the key service, without a context.

        Raises:
            UnsupportedOperationError: a context.
            KMSError: as ``Key.sign``.
        """
        if context is not None and octets(context, "context"):
            raise UnsupportedOperationError("key services sign with an empty ML-DSA context; leave it out")
        return self._whole(data)

    def sign_mu(self, mu: BytesLike) -> NoReturn:
        """Refused. Raises UnsupportedOperationError."""
        raise UnsupportedOperationError("key services are given the whole message; use sign")


class KMSMLDSA44PrivateKey(_RemoteMLDSA, mldsa.MLDSA44PrivateKey):
    """An ML-DSA-44 key."""


class KMSMLDSA65PrivateKey(_RemoteMLDSA, mldsa.MLDSA65PrivateKey):
    """An ML-DSA-65 key."""


class KMSMLDSA87PrivateKey(_RemoteMLDSA, mldsa.MLDSA87PrivateKey):
    """An ML-DSA-87 key."""


_PADDING_RULE: Final = {
    "RS": "pads with PKCS1v15",
    "PS": "pads with PSS, MGF1 of its own hash and a salt as long as the digest",
}


def _paddings(algorithm: Algorithm) -> tuple[padding.AsymmetricPadding, ...]:
    if algorithm.startswith("RS"):
        return (padding.PKCS1v15(),)
    own = _HASHES[str(algorithm.spec.digest)]
    mgf = padding.MGF1(own)
    return padding.PSS(mgf, own.digest_size), padding.PSS(mgf, padding.PSS.DIGEST_LENGTH)


_KINDS: Final[dict[KeyType, type[KMSRSAPrivateKey | KMSEllipticCurvePrivateKey | KMSEd25519PrivateKey]]] = {
    KeyType.RSA: KMSRSAPrivateKey,
    KeyType.EC: KMSEllipticCurvePrivateKey,
    KeyType.OKP: KMSEd25519PrivateKey,
}
_ML_DSA: Final[dict[Algorithm, type[KMSMLDSA44PrivateKey | KMSMLDSA65PrivateKey | KMSMLDSA87PrivateKey]]] = {
    Algorithm.ML_DSA_44: KMSMLDSA44PrivateKey,
    Algorithm.ML_DSA_65: KMSMLDSA65PrivateKey,
    Algorithm.ML_DSA_87: KMSMLDSA87PrivateKey,
}
