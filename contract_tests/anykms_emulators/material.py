"""Key material and the real cryptography behind every emulator.

One class per kind of key; each does what a cloud's hardware would do, with pyca `cryptography`, and knows
nothing of names, states, limits or wire formats. An emulator adds those.

    >>> key = EcKey.generate("P-256")
    >>> signature = key.sign(b"message", "SHA-256")
    >>> key.verify(signature, b"message", "SHA-256")
    True

Nothing here has a repr that shows key bytes. Failure to decrypt is always `DecryptionError`, with no detail.
Bad sizes and unusable imports are `ValueError`.
"""

from __future__ import annotations

import hmac
import os
import threading
from typing import Final, Literal, Self, TypeAlias

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, keywrap, padding, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa, utils, x25519
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl import bindings as sodium
from nacl.exceptions import BadSignatureError

HashName: TypeAlias = Literal["SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512"]
CurveName: TypeAlias = Literal["P-256", "P-384", "P-521", "secp256k1"]
RsaPadding: TypeAlias = Literal["PKCS1", "PSS"]
MlDsaSet: TypeAlias = Literal["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"]
MlKemSet: TypeAlias = Literal["ML-KEM-768", "ML-KEM-1024"]

RSA_BITS: Final = (2048, 3072, 4096)
AES_BYTES: Final = (16, 24, 32)
GCM_NONCE_BYTES: Final = 12
GCM_TAG_BYTES: Final = 16

_HASHES: Final[dict[HashName, hashes.HashAlgorithm]] = {
    "SHA-1": hashes.SHA1(),  # noqa: S303 - the clouds still offer RSA-OAEP and HMAC with SHA-1
    "SHA-224": hashes.SHA224(),
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}
_CURVES: Final[dict[CurveName, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}
_MlDsaPrivate: TypeAlias = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
_MLDSA: Final[dict[MlDsaSet, type[_MlDsaPrivate]]] = {
    "ML-DSA-44": mldsa.MLDSA44PrivateKey,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey,
}
_MlKemPrivate: TypeAlias = mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey
_MLKEM: Final[dict[MlKemSet, type[_MlKemPrivate]]] = {
    "ML-KEM-768": mlkem.MLKEM768PrivateKey,
    "ML-KEM-1024": mlkem.MLKEM1024PrivateKey,
}
_SPKI: Final = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
_PKCS8: Final = (
    serialization.Encoding.DER,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


class DecryptionError(Exception):
    """A ciphertext, tag, wrapped key or padding does not fit the key; deliberately without detail."""


def digest(name: HashName, data: bytes) -> bytes:
    """The hash of `data`: 20 to 64 bytes."""
    hasher = hashes.Hash(_HASHES[name])
    hasher.update(data)
    return hasher.finalize()


def digest_size(name: HashName) -> int:
    """The length in bytes of a digest made by `name`."""
    return _HASHES[name].digest_size


class _Unchanging:
    """Never changed once made, so that a copy of a state can share it."""

    __slots__ = ()

    def __deepcopy__(self, memo: object) -> Self:
        return self


class SecretKey(_Unchanging):
    """Symmetric key bytes: AES of 16, 24 or 32 bytes, or an HMAC key of any length (1 byte at least).

    Each cipher checks the length that it needs and raises ValueError for another.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if not raw:
            raise ValueError("key material must be at least 1 byte")
        self._raw = bytes(raw)

    @classmethod
    def generate(cls, size: int) -> Self:
        """A fresh random key of `size` bytes."""
        return cls(os.urandom(size))

    def __len__(self) -> int:
        return len(self._raw)

    def raw(self) -> bytes:
        """The key bytes (an emulator's backup, release or derivation needs them)."""
        return self._raw

    def same_as(self, other: SecretKey) -> bool:
        """Whether both hold the same bytes, compared in constant time."""
        return hmac.compare_digest(self._raw, other._raw)

    def seal(self, plaintext: bytes, aad: bytes, nonce: bytes) -> bytes:
        """AES-GCM (NIST SP 800-38D): ciphertext followed by the 16-byte tag; `nonce` of 8 to 128 bytes."""
        return AESGCM(self._raw).encrypt(nonce, plaintext, aad)

    def open(self, sealed: bytes, aad: bytes, nonce: bytes) -> bytes:
        """The plaintext of `seal`; DecryptionError for any changed bit of key, nonce, aad, text or tag."""
        if len(sealed) < GCM_TAG_BYTES:
            raise DecryptionError
        try:
            return AESGCM(self._raw).decrypt(nonce, sealed, aad)
        except InvalidTag:
            raise DecryptionError from None

    def cbc_encrypt(self, plaintext: bytes, iv: bytes, *, pkcs7: bool) -> bytes:
        """AES-CBC (NIST SP 800-38A); without `pkcs7` the plaintext must be whole 16-byte blocks."""
        if pkcs7:
            padder = padding.PKCS7(128).padder()
            plaintext = padder.update(plaintext) + padder.finalize()
        encryptor = Cipher(algorithms.AES(self._raw), modes.CBC(iv)).encryptor()
        return encryptor.update(plaintext) + encryptor.finalize()

    def cbc_decrypt(self, ciphertext: bytes, iv: bytes, *, pkcs7: bool) -> bytes:
        """The plaintext of `cbc_encrypt`; DecryptionError for a partial block or bad PKCS #7 padding."""
        decryptor = Cipher(algorithms.AES(self._raw), modes.CBC(iv)).decryptor()
        try:
            padded = decryptor.update(ciphertext) + decryptor.finalize()
            if not pkcs7:
                return padded
            unpadder = padding.PKCS7(128).unpadder()
            return unpadder.update(padded) + unpadder.finalize()
        except ValueError:
            raise DecryptionError from None

    def ctr(self, data: bytes, counter: bytes) -> bytes:
        """AES-CTR (NIST SP 800-38A) from a 16-byte initial counter block; its own inverse."""
        cipher = Cipher(algorithms.AES(self._raw), modes.CTR(counter)).encryptor()
        return cipher.update(data) + cipher.finalize()

    def wrap(self, secret: bytes, *, padded: bool) -> bytes:
        """AES key wrap: RFC 3394, or RFC 5649 with `padded` (any length of `secret`)."""
        if padded:
            return keywrap.aes_key_wrap_with_padding(self._raw, secret)
        return keywrap.aes_key_wrap(self._raw, secret)

    def unwrap(self, wrapped: bytes, *, padded: bool) -> bytes:
        """The secret of `wrap`; DecryptionError when the integrity check fails."""
        try:
            if padded:
                return keywrap.aes_key_unwrap_with_padding(self._raw, wrapped)
            return keywrap.aes_key_unwrap(self._raw, wrapped)
        except (keywrap.InvalidUnwrap, ValueError):
            raise DecryptionError from None

    def mac(self, message: bytes, hash_name: HashName) -> bytes:
        """HMAC (RFC 2104) of the whole digest length."""
        return hmac.digest(self._raw, message, _HASHES[hash_name].name)

    def verify_mac(self, tag: bytes, message: bytes, hash_name: HashName) -> bool:
        """Whether `tag` is the whole HMAC, compared in constant time."""
        return hmac.compare_digest(self.mac(message, hash_name), tag)


class RsaKey(_Unchanging):
    """An RSA private key of 2048, 3072 or 4096 bits, exponent 65537.

    `generate` returns at once: the primes are searched when the key is first used, so that keys which a test
    only lists or deletes cost nothing. Every key has primes of its own.
    """

    def __init__(self, bits: int, private: rsa.RSAPrivateKey | None = None) -> None:
        if bits not in RSA_BITS:
            raise ValueError(f"RSA keys have 2048, 3072 or 4096 bits, not {bits}")
        self.bits = bits
        self._private = private
        self._lock = threading.Lock()

    @classmethod
    def generate(cls, bits: int) -> Self:
        """A new key of `bits` bits, its primes not yet searched."""
        return cls(bits)

    @classmethod
    def from_pkcs8(cls, der: bytes) -> Self:
        """The key in a PKCS #8 DER document without password."""
        private = _load_pkcs8(der)
        if not isinstance(private, rsa.RSAPrivateKey):
            raise ValueError("not an RSA private key")
        return cls(private.key_size, private)

    @classmethod
    def from_numbers(cls, n: int, e: int, d: int, p: int, q: int) -> Self:
        """The key with these numbers (a JSON web key's n, e, d, p, q)."""
        private = rsa.RSAPrivateNumbers(
            p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q),
            rsa.RSAPublicNumbers(e, n),
        ).private_key()  # fmt: skip
        return cls(private.key_size, private)

    @property
    def private(self) -> rsa.RSAPrivateKey:
        """The private key, generated now if it was not yet."""
        with self._lock:
            if self._private is None:
                self._private = rsa.generate_private_key(public_exponent=65537, key_size=self.bits)
            return self._private

    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.private.public_key().public_bytes(*_SPKI)

    def public_numbers(self) -> rsa.RSAPublicNumbers:
        """Modulus and exponent."""
        return self.private.public_key().public_numbers()

    def pkcs8(self) -> bytes:
        """PKCS #8 DER without password (GenerateDataKeyPair, backups)."""
        return self.private.private_bytes(*_PKCS8)

    def sign(self, data: bytes, hash_name: HashName, scheme: RsaPadding, *, prehashed: bool = False) -> bytes:
        """RSASSA-PKCS1-v1_5 or RSASSA-PSS (RFC 8017); PSS salt = digest length, MGF1 of the same hash.

        `data` is the message, or its digest when `prehashed`. The signature has the modulus length.
        """
        return self.private.sign(data, _rsa_scheme(scheme, hash_name), _hash(hash_name, prehashed))

    def verify(
        self,
        signature: bytes,
        data: bytes,
        hash_name: HashName,
        scheme: RsaPadding,
        *,
        prehashed: bool = False,
    ) -> bool:
        """Whether `signature` is one that `sign` could have made (another salt length is refused)."""
        public = self.private.public_key()
        try:
            public.verify(signature, data, _rsa_scheme(scheme, hash_name), _hash(hash_name, prehashed))
        except InvalidSignature:
            return False
        return True

    def sign_raw_pkcs1(self, data: bytes) -> bytes:
        """PKCS #1 v1.5 signature over `data` as it is, with no DigestInfo; at most modulus - 11 bytes."""
        return self.private.sign(data, rsa_padding.PKCS1v15(), utils.NoDigestInfo())

    def oaep_limit(self, hash_name: HashName) -> int:
        """The longest plaintext in bytes: modulus - 2 * digest - 2 (RFC 8017 section 7.1.1)."""
        return self.bits // 8 - 2 * digest_size(hash_name) - 2

    def oaep_encrypt(self, plaintext: bytes, hash_name: HashName) -> bytes:
        """RSAES-OAEP, empty label, MGF1 of the same hash."""
        return self.private.public_key().encrypt(plaintext, _oaep(hash_name))

    def oaep_decrypt(self, ciphertext: bytes, hash_name: HashName) -> bytes:
        """The plaintext of `oaep_encrypt`."""
        return self._decrypt(ciphertext, _oaep(hash_name))

    def pkcs1_encrypt(self, plaintext: bytes) -> bytes:
        """RSAES-PKCS1-v1_5, which Azure still offers as RSA1_5."""
        return self.private.public_key().encrypt(plaintext, rsa_padding.PKCS1v15())

    def pkcs1_decrypt(self, ciphertext: bytes) -> bytes:
        """The plaintext of `pkcs1_encrypt`; a bad padding decrypts to random bytes (implicit rejection)."""
        return self._decrypt(ciphertext, rsa_padding.PKCS1v15())

    def _decrypt(self, ciphertext: bytes, scheme: rsa_padding.AsymmetricPadding) -> bytes:
        try:
            return self.private.decrypt(ciphertext, scheme)
        except ValueError:
            raise DecryptionError from None


class EcKey(_Unchanging):
    """A private key on P-256, P-384, P-521 or secp256k1. Signatures are DER unless a name says raw."""

    def __init__(self, curve: CurveName, private: ec.EllipticCurvePrivateKey) -> None:
        self.curve: CurveName = curve
        self.private = private

    @classmethod
    def generate(cls, curve: CurveName) -> Self:
        """A fresh key on `curve`."""
        return cls(curve, ec.generate_private_key(_CURVES[curve]))

    @classmethod
    def from_pkcs8(cls, der: bytes) -> Self:
        """The key in a PKCS #8 DER document without password."""
        private = _load_pkcs8(der)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            for name, curve in _CURVES.items():
                if private.curve.name == curve.name:
                    return cls(name, private)
        raise ValueError("not a private key on P-256, P-384, P-521 or secp256k1")

    @classmethod
    def from_scalar(cls, curve: CurveName, d: int) -> Self:
        """The key with private value `d` (a JSON web key's d)."""
        return cls(curve, ec.derive_private_key(d, _CURVES[curve]))

    @property
    def field_bytes(self) -> int:
        """Bytes of a coordinate, of r and of s: 32, 48 or 66."""
        return (self.private.curve.key_size + 7) // 8

    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER, named curve, uncompressed point."""
        return self.private.public_key().public_bytes(*_SPKI)

    def public_numbers(self) -> ec.EllipticCurvePublicNumbers:
        """The coordinates of the public point."""
        return self.private.public_key().public_numbers()

    def pkcs8(self) -> bytes:
        """PKCS #8 DER without password."""
        return self.private.private_bytes(*_PKCS8)

    def sign(self, data: bytes, hash_name: HashName, *, prehashed: bool = False) -> bytes:
        """ECDSA (FIPS 186-5), DER; `data` is the message, or its digest when `prehashed`."""
        return self.private.sign(data, ec.ECDSA(_hash(hash_name, prehashed)))

    def verify(self, signature: bytes, data: bytes, hash_name: HashName, *, prehashed: bool = False) -> bool:
        """Whether a DER `signature` fits."""
        try:
            self.private.public_key().verify(signature, data, ec.ECDSA(_hash(hash_name, prehashed)))
        except InvalidSignature:
            return False
        return True

    def to_raw(self, signature: bytes) -> bytes:
        """A DER signature as r || s of fixed width (RFC 7518 section 3.4): 64, 96 or 132 bytes."""
        r, s = utils.decode_dss_signature(signature)
        return r.to_bytes(self.field_bytes, "big") + s.to_bytes(self.field_bytes, "big")

    def from_raw(self, signature: bytes) -> bytes:
        """The DER form of r || s; ValueError unless it has exactly the width of the curve."""
        if len(signature) != 2 * self.field_bytes:
            raise ValueError(f"a raw signature has {2 * self.field_bytes} bytes, not {len(signature)}")
        r, s = signature[: self.field_bytes], signature[self.field_bytes :]
        return utils.encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))

    def agree(self, peer_der: bytes) -> bytes:
        """ECDH (NIST SP 800-56A) with a SubjectPublicKeyInfo on the same curve: the raw x coordinate.

        Raises ValueError for anything but a valid point of this curve.
        """
        try:
            peer = serialization.load_der_public_key(peer_der)
        except Exception as error:  # pyca raises several unrelated types for a damaged document
            raise ValueError("not a DER public key") from error
        if not isinstance(peer, ec.EllipticCurvePublicKey) or peer.curve.name != self.private.curve.name:
            raise ValueError(f"not a public key on {self.curve}")
        return self.private.exchange(ec.ECDH(), peer)


class Ed25519Key(_Unchanging):
    """An Ed25519 private key (RFC 8032): pure signatures, and the pre-hashed variant with no context."""

    def __init__(self, private: ed25519.Ed25519PrivateKey) -> None:
        self.private = private

    @classmethod
    def generate(cls) -> Self:
        """A fresh key."""
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def from_pkcs8(cls, der: bytes) -> Self:
        """The key in a PKCS #8 DER document without password."""
        private = _load_pkcs8(der)
        if not isinstance(private, ed25519.Ed25519PrivateKey):
            raise ValueError("not an Ed25519 private key")
        return cls(private)

    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER: 44 bytes."""
        return self.private.public_key().public_bytes(*_SPKI)

    def pkcs8(self) -> bytes:
        """PKCS #8 DER without password."""
        return self.private.private_bytes(*_PKCS8)

    def sign(self, message: bytes) -> bytes:
        """Ed25519 over the message itself: 64 bytes."""
        return self.private.sign(message)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether a 64-byte `signature` fits `message`."""
        try:
            self.private.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def sign_ph(self, message: bytes) -> bytes:
        """Ed25519ph: `message` is hashed with SHA-512 here, whatever it is (libsodium; pyca has none)."""
        secret = self.private.private_bytes_raw() + self.private.public_key().public_bytes_raw()
        return sodium.crypto_sign_ed25519ph_final_create(_ph_state(message), secret)

    def verify_ph(self, signature: bytes, message: bytes) -> bool:
        """Whether a 64-byte Ed25519ph `signature` fits `message`."""
        if len(signature) != sodium.crypto_sign_BYTES:
            return False
        try:
            return sodium.crypto_sign_ed25519ph_final_verify(
                _ph_state(message), signature, self.private.public_key().public_bytes_raw()
            )
        except BadSignatureError:
            return False


class X25519Key(_Unchanging):
    """An X25519 private key (RFC 7748), for key agreement and hybrid encapsulation."""

    def __init__(self, private: x25519.X25519PrivateKey) -> None:
        self.private = private

    @classmethod
    def generate(cls) -> Self:
        """A fresh key."""
        return cls(x25519.X25519PrivateKey.generate())

    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER: 44 bytes."""
        return self.private.public_key().public_bytes(*_SPKI)

    def pkcs8(self) -> bytes:
        """PKCS #8 DER without password."""
        return self.private.private_bytes(*_PKCS8)

    def public_raw(self) -> bytes:
        """The 32-byte u coordinate."""
        return self.private.public_key().public_bytes_raw()

    def agree(self, peer_raw: bytes) -> bytes:
        """The 32-byte shared secret; ValueError for a point of small order or another length."""
        return self.private.exchange(x25519.X25519PublicKey.from_public_bytes(peer_raw))


class MlDsaKey(_Unchanging):
    """An ML-DSA private key (FIPS 204), empty context string, hedged signatures."""

    def __init__(self, parameter_set: MlDsaSet, private: _MlDsaPrivate) -> None:
        self.parameter_set: MlDsaSet = parameter_set
        self.private = private

    @classmethod
    def generate(cls, parameter_set: MlDsaSet) -> Self:
        """A fresh key."""
        return cls(parameter_set, _MLDSA[parameter_set].generate())

    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER (RFC 9881)."""
        return self.private.public_key().public_bytes(*_SPKI)

    def public_raw(self) -> bytes:
        """The bare public key: 1,312, 1,952 or 2,592 bytes."""
        return self.private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """A signature over the message: 2,420, 3,309 or 4,627 bytes."""
        return self.private.sign(message)

    def sign_mu(self, mu: bytes) -> bytes:
        """A signature over a 64-byte external mu (FIPS 204 algorithm 7, line 6)."""
        return self.private.sign_mu(mu)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` fits `message`."""
        try:
            self.private.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def verify_mu(self, signature: bytes, mu: bytes) -> bool:
        """Whether `signature` fits a 64-byte external mu."""
        try:
            self.private.public_key().verify_mu(signature, mu)
        except InvalidSignature:
            return False
        return True


class MlKemKey(_Unchanging):
    """An ML-KEM decapsulation key (FIPS 203)."""

    def __init__(self, parameter_set: MlKemSet, private: _MlKemPrivate) -> None:
        self.parameter_set: MlKemSet = parameter_set
        self.private = private

    @classmethod
    def generate(cls, parameter_set: MlKemSet) -> Self:
        """A fresh key."""
        return cls(parameter_set, _MLKEM[parameter_set].generate())

    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.private.public_key().public_bytes(*_SPKI)

    def public_raw(self) -> bytes:
        """The bare encapsulation key: 1,184 or 1,568 bytes."""
        return self.private.public_key().public_bytes_raw()

    def pkcs8(self) -> bytes:
        """PKCS #8 DER without password, seed form."""
        return self.private.private_bytes(*_PKCS8)

    def encapsulate(self) -> tuple[bytes, bytes]:
        """A fresh shared secret of 32 bytes and its ciphertext of 1,088 or 1,568 bytes."""
        return self.private.public_key().encapsulate()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The 32-byte shared secret; a wrong ciphertext of the right length gives a wrong secret, no error.

        Raises ValueError for another length.
        """
        return self.private.decapsulate(ciphertext)


KeyMaterial: TypeAlias = SecretKey | RsaKey | EcKey | Ed25519Key | X25519Key | MlDsaKey | MlKemKey


def _load_pkcs8(der: bytes) -> object:
    try:
        return serialization.load_der_private_key(der, password=None)
    except Exception as error:  # pyca raises several unrelated types for a damaged document
        raise ValueError("not a PKCS #8 private key in DER") from error


def _rsa_scheme(scheme: RsaPadding, hash_name: HashName) -> rsa_padding.AsymmetricPadding:
    if scheme == "PKCS1":
        return rsa_padding.PKCS1v15()
    return rsa_padding.PSS(rsa_padding.MGF1(_HASHES[hash_name]), digest_size(hash_name))


def _hash(hash_name: HashName, prehashed: bool) -> hashes.HashAlgorithm | utils.Prehashed:
    return utils.Prehashed(_HASHES[hash_name]) if prehashed else _HASHES[hash_name]


def _oaep(hash_name: HashName) -> rsa_padding.OAEP:
    return rsa_padding.OAEP(rsa_padding.MGF1(_HASHES[hash_name]), _HASHES[hash_name], None)


def _ph_state(message: bytes) -> sodium.crypto_sign_ed25519ph_state:
    state = sodium.crypto_sign_ed25519ph_state()
    sodium.crypto_sign_ed25519ph_update(state, message)
    return state
