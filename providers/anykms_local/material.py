"""Key material: how each algorithm is generated and used. Bytes in, bytes out; no state, no I/O.

Material is raw bytes for symmetric keys and PKCS #8 DER for all others.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, cast

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils

from anykms.algorithms import Algorithm, KeyType
from anykms.errors import (
    InvalidArgumentError,
    InvalidCiphertextError,
    InvalidMacError,
    UnsupportedOperationError,
)
from anykms.provider import DATA_KEY_SIZE

WRAPPED_SIZE: Final = 104
"""Salt 24, commitment 32, data key 32, tag 16."""
_WRAP_LABEL: Final = b"anykms/v1 local-wrap"

_CURVES: Final[dict[Algorithm, ec.EllipticCurve]] = {
    Algorithm.ES256: ec.SECP256R1(),
    Algorithm.ES384: ec.SECP384R1(),
    Algorithm.ES512: ec.SECP521R1(),
    Algorithm.ES256K: ec.SECP256K1(),
}
_DIGESTS: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_PSS: Final = frozenset({Algorithm.PS256, Algorithm.PS384, Algorithm.PS512})
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)


def generate(algorithm: Algorithm, key_size: int | None) -> tuple[bytes, bytes | None]:
    """Fresh material, and the SPKI DER of its public key (None for symmetric keys).

    Args:
        key_size: RSA modulus in bits; None for all others.
    """
    spec = algorithm.spec
    if spec.key_type is KeyType.OCT:
        return secrets.token_bytes(spec.digest_size or DATA_KEY_SIZE), None
    private = _generate_private(algorithm, key_size)
    material = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return material, _spki(private)


def public_key(material: bytes) -> bytes:
    """SPKI DER of the public key that belongs to asymmetric ``material``."""
    return _spki(_private(material))


def _generate_private(algorithm: Algorithm, key_size: int | None) -> PrivateKey:
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    match algorithm:
        case Algorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case Algorithm.ML_DSA_44:
            return mldsa.MLDSA44PrivateKey.generate()
        case Algorithm.ML_DSA_65:
            return mldsa.MLDSA65PrivateKey.generate()
        case Algorithm.ML_DSA_87:
            return mldsa.MLDSA87PrivateKey.generate()
        case _:
            if key_size is None:
                raise InvalidArgumentError(f"{algorithm} needs a key size")
            return rsa.generate_private_key(65537, key_size)


def _private(material: bytes) -> PrivateKey:
    # The material comes from an authenticated row, so RSA's slow consistency check is left out.
    return cast(
        PrivateKey, serialization.load_der_private_key(material, None, unsafe_skip_rsa_key_validation=True)
    )


def _spki(private: PrivateKey) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def wrap(material: bytes, data_key: bytes, aad: bytes) -> bytes:
    """104 bytes: Cobblestone-256 (C2SP chunked-encryption@v1) of 32, bound to ``aad``."""
    encryptor = Cobblestone256Encryptor(material, _WRAP_LABEL + aad)
    return encryptor.update(data_key) + encryptor.finalize()


def unwrap(material: bytes, wrapped: bytes, aad: bytes) -> bytes:
    """The 32 bytes again.

    Raises:
        InvalidCiphertextError: of another length, or not authentic.
    """
    if len(wrapped) != WRAPPED_SIZE:
        raise invalid_ciphertext()
    decryptor = Cobblestone256Decryptor(material, _WRAP_LABEL + aad)
    try:
        return decryptor.update(wrapped) + decryptor.finalize()
    except InvalidTag:
        raise invalid_ciphertext() from None


def rsa_encrypt(spki: bytes, plaintext: bytes) -> bytes:
    """RSA-OAEP-256 (RFC 8017: SHA-256, MGF1-SHA-256, empty label)."""
    return cast(rsa.RSAPublicKey, serialization.load_der_public_key(spki)).encrypt(plaintext, _OAEP)


def rsa_decrypt(material: bytes, ciphertext: bytes) -> bytes:
    """What ``rsa_encrypt`` encrypted.

    Raises:
        InvalidCiphertextError: of another length than the modulus, or not valid; always the same text.
    """
    private = cast(rsa.RSAPrivateKey, _private(material))
    if len(ciphertext) != private.key_size // 8:
        raise invalid_ciphertext()
    try:
        return private.decrypt(ciphertext, _OAEP)
    except ValueError:
        raise invalid_ciphertext() from None


def sign(algorithm: Algorithm, material: bytes, message: bytes, prehashed: bool) -> bytes:
    """A signature; ECDSA's in DER (RFC 3279).

    Args:
        message: the digest, exactly as long as the algorithm's, or 1 to 4096 bytes for Ed25519 and ML-DSA.
        prehashed: True with a digest.

    Raises:
        UnsupportedOperationError: a digest for an algorithm that signs whole messages.
        InvalidArgumentError: a wrong length, or a message where a digest is needed.
    """
    spec = algorithm.spec
    if spec.digest is None:
        if prehashed:
            raise UnsupportedOperationError(f"{algorithm} signs the message itself, not a digest")
        _check_raw(message)
        private = cast("ed25519.Ed25519PrivateKey | mldsa.MLDSA44PrivateKey", _private(material))
        return private.sign(message)
    if not prehashed or len(message) != spec.digest_size:
        raise InvalidArgumentError(f"{algorithm} signs a {spec.digest} digest of {spec.digest_size} bytes")
    digest = utils.Prehashed(_DIGESTS[spec.digest])
    if algorithm in _CURVES:
        return cast(ec.EllipticCurvePrivateKey, _private(material)).sign(message, ec.ECDSA(digest))
    scheme: padding.PSS | padding.PKCS1v15 = padding.PKCS1v15()
    if algorithm in _PSS:
        # Contract section 3: the salt is as long as the digest.
        scheme = padding.PSS(padding.MGF1(_DIGESTS[spec.digest]), padding.PSS.DIGEST_LENGTH)
    return cast(rsa.RSAPrivateKey, _private(material)).sign(message, scheme, digest)


def mac(algorithm: Algorithm, material: bytes, message: bytes) -> bytes:
    """HMAC (FIPS 198-1) of 1 to 4096 bytes, as long as the digest.

    Raises:
        InvalidArgumentError: a message of another length.
    """
    _check_raw(message)
    return hmac.digest(material, message, algorithm.spec.digest or "")


def verify_mac(algorithm: Algorithm, material: bytes, message: bytes, tag: bytes) -> None:
    """Compares in constant time.

    Raises:
        InvalidMacError: the tag is another.
    """
    if not hmac.compare_digest(mac(algorithm, material, message), tag):
        raise InvalidMacError("the tag does not belong to this message and key")


def fingerprint(spki: bytes) -> str:
    """SHA-256 of SPKI DER, lower-case hex."""
    return hashlib.sha256(spki).hexdigest()


def invalid_ciphertext() -> InvalidCiphertextError:
    """The one error of every failed decryption: it says nothing about the cause."""
    return InvalidCiphertextError("the ciphertext is not authentic under this key and context")


def _check_raw(message: bytes) -> None:
    if not 1 <= len(message) <= 4096:
        raise InvalidArgumentError(f"the message has {len(message)} bytes; 1 to 4096 are allowed")
