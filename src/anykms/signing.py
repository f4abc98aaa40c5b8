"""Public keys and signatures: everything about a signing key that needs neither network nor key state.

A ``PublicKey`` is bound to one algorithm by the caller. Nothing that comes with the key or with the
signature chooses another one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Final, NoReturn, Self, TypeAlias, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from anykms.algorithms import Algorithm, AlgorithmSpec, KeyPurpose, KeyType, oaep_max_plaintext
from anykms.errors import (
    InvalidArgumentError,
    InvalidSignatureError,
    KeyUsageError,
    UnsupportedOperationError,
)
from anykms.keys import canonical_json
from anykms.payload import BytesLike, buffer, octets
from anykms.provider import SignatureEncoding

MAX_SPKI_SIZE: Final = 8192
"""Bytes; an ML-DSA-87 key, the largest here, takes 2614."""
MAX_JWK_SIZE: Final = 65536
RSA_EXPONENTS: Final = range(65537, 1 << 64, 2)
"""Odd, over 2**16 (FIPS 186-5, A.1.1), under the 2**64 that OpenSSL takes with large moduli."""

_REFUSED: Final = "the signature does not belong to this message and key"

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}
_MLDSAKey: TypeAlias = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey
_ML_DSA: Final[dict[Algorithm, type[_MLDSAKey]]] = {
    Algorithm.ML_DSA_44: mldsa.MLDSA44PublicKey,
    Algorithm.ML_DSA_65: mldsa.MLDSA65PublicKey,
    Algorithm.ML_DSA_87: mldsa.MLDSA87PublicKey,
}
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

# The y of every point whose order divides 8 on edwards25519 (RFC 8032, 5.1; RFC 7748, 7 on small order).
_ED25519_PRIME: Final = 2**255 - 19
_ORDER_8_Y: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y: Final = frozenset({0, 1, _ED25519_PRIME - 1, _ORDER_8_Y, _ED25519_PRIME - _ORDER_8_Y})


# What is signed


def digest(algorithm: Algorithm | str, message: BytesLike) -> bytes:
    """The digest that a signature of ``algorithm`` is made over: 32, 48 or 64 bytes.

    >>> digest("ES256", b"abc").hex()[:16]
    'ba7816bf8f01cfea'

    Raises:
        TypeError: the message is not bytes-like.
        UnsupportedOperationError: the algorithm signs the whole message (Ed25519, ML-DSA), or does not sign.
    """
    chosen = Algorithm.named(algorithm)
    if not chosen.spec.prehashable:
        raise UnsupportedOperationError(f"{chosen} signs no digest")
    return hashlib.new(str(chosen.spec.digest), buffer(message, "message")).digest()


def prepare_message(algorithm: Algorithm | str, message: BytesLike, *, prehashed: bool = False) -> bytes:
    """What ``Provider.sign`` is given, and what ``PublicKey.verify`` checks.

    A digest where ``algorithm.spec.prehashable``, else the message itself.

    Args:
        message: of any size where a digest is signed, 1 to 4096 bytes for Ed25519 and ML-DSA.
        prehashed: the message is the digest already, of exactly the algorithm's size.

    Raises:
        TypeError: the message is not bytes-like.
        InvalidArgumentError: a message or digest of the wrong size.
        UnsupportedOperationError: ``prehashed`` with Ed25519 or ML-DSA, or an algorithm that does not sign.
    """
    chosen = Algorithm.named(algorithm)
    spec = chosen.spec
    if KeyPurpose.SIGN_VERIFY not in spec.purposes:
        raise UnsupportedOperationError(f"{chosen} does not sign")
    if spec.prehashable and not prehashed:
        return digest(chosen, message)
    if prehashed and not spec.prehashable:
        raise UnsupportedOperationError(f"{chosen} signs whole messages; leave prehashed out")
    data = octets(message, "message")
    if prehashed and len(data) != spec.digest_size:
        raise InvalidArgumentError(
            f"a digest for {chosen} has {spec.digest_size} bytes ({spec.digest}), not {len(data)}"
        )
    if spec.max_message is not None and not 1 <= len(data) <= spec.max_message:
        raise InvalidArgumentError(
            f"a message for {chosen} has 1 to {spec.max_message} bytes, not {len(data)}; sign a digest of it"
        )
    return data


# How ECDSA signatures are written


def der_to_p1363(signature: BytesLike, algorithm: Algorithm | str) -> bytes:
    """An ECDSA signature as r || s (IEEE Std 1363), from its DER (RFC 3279, 2.2.3).

    >>> der_to_p1363(bytes.fromhex("3006020101020102"), "ES256").hex().lstrip("0")[-2:]
    '02'

    Returns:
        64 bytes for ES256 and ES256K, 96 for ES384, 132 for ES512.

    Raises:
        TypeError: the signature is not bytes-like.
        InvalidArgumentError: not an ECDSA algorithm.
        InvalidSignatureError: not the one minimal DER encoding, or r or s is not in 1..n-1.
    """
    order, width = _ecdsa(algorithm)
    data = octets(signature, "signature")
    try:
        r, s = utils.decode_dss_signature(data)
        # pyca's parser is strict today; the comparison keeps it so (GHSA-x5h4-9gqw-942j).
        minimal = utils.encode_dss_signature(r, s) == data
    except ValueError:
        raise InvalidSignatureError(_REFUSED) from None
    if not (minimal and 0 < r < order and 0 < s < order):
        raise InvalidSignatureError(_REFUSED)
    return r.to_bytes(width) + s.to_bytes(width)


def p1363_to_der(signature: BytesLike, algorithm: Algorithm | str) -> bytes:
    """An ECDSA signature in DER (RFC 3279, 2.2.3), from r || s (IEEE Std 1363).

    >>> p1363_to_der(bytes(31) + b"\\1" + bytes(31) + b"\\2", "ES256").hex()
    '3006020101020102'

    Raises:
        TypeError: the signature is not bytes-like.
        InvalidArgumentError: not an ECDSA algorithm.
        InvalidSignatureError: not exactly twice the curve's width, or r or s is not in 1..n-1.
    """
    order, width = _ecdsa(algorithm)
    data = octets(signature, "signature")
    r, s = int.from_bytes(data[:width]), int.from_bytes(data[width:])
    if not (len(data) == 2 * width and 0 < r < order and 0 < s < order):
        raise InvalidSignatureError(_REFUSED)
    return utils.encode_dss_signature(r, s)


def _ecdsa(algorithm: Algorithm | str) -> tuple[int, int]:
    chosen = Algorithm.named(algorithm)
    spec = chosen.spec
    if spec.curve is None or spec.coordinate_size is None:
        raise InvalidArgumentError(f"{chosen} signatures have one form; only ECDSA's are converted")
    return _CURVES[spec.curve].group_order, spec.coordinate_size


# Public keys


class PublicKey:
    """A public key and the one algorithm it is used with. Immutable; needs neither network nor key state.

    >>> key = PublicKey(ec.derive_private_key(1, ec.SECP256R1()).public_key(), "ES256")
    >>> key.jwk()["kid"]
    'xx0BcA-wMohw8atYDJOe6peGModklG2wRHBlXHMvl0M'
    >>> key.verify(b"v1.2.0", b"not a signature")
    Traceback (most recent call last):
    anykms.errors.InvalidSignatureError: the signature does not belong to this message and key

    Args:
        key: what pyca ``cryptography`` loaded or made.
        algorithm: what the caller uses the key for. RSA keys have 2048, 3072 or 4096 bits (RS512 and
            PS512: 4096) and an odd public exponent from 65537 to 2**64 - 1.

    Raises:
        TypeError: an argument of the wrong type.
        InvalidArgumentError: the key does not fit the algorithm, or is not safe: another RSA size or
            exponent, an Ed25519 point of small order or in a second encoding.
    """

    __slots__ = ("_algorithm", "_check", "_fingerprint", "_key", "_spki")

    def __init__(self, key: PublicKeyTypes, algorithm: Algorithm | str) -> None:
        chosen = _asymmetric(algorithm)
        _check_key(key, chosen)
        self._key = key
        self._algorithm = chosen
        self._check = _verifier(key, chosen.spec)
        self._spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._fingerprint = hashlib.sha256(self._spki).hexdigest()

    @classmethod
    def from_spki(cls, der: BytesLike, algorithm: Algorithm | str) -> Self:
        """The key of a DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).

        EC points may be compressed or not; everything else has one accepted encoding.

        Raises:
            TypeError: an argument of the wrong type.
            InvalidArgumentError: not such DER, or see the class.
        """
        chosen = _asymmetric(algorithm)
        data = octets(der, "an SPKI")
        try:
            if len(data) > MAX_SPKI_SIZE:
                raise ValueError
            loaded = load_der_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            # The parser's own words are left out: the bytes may be a private key.
            raise InvalidArgumentError(
                "not the DER of a SubjectPublicKeyInfo with a key that anykms uses"
            ) from None
        found = cls(loaded, chosen)
        # pyca also reads hybrid EC points, and id-RSASSA-PSS keys whose restrictions it drops.
        compressed = isinstance(loaded, ec.EllipticCurvePublicKey) and data.endswith(
            b"\0" + loaded.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        )
        if data != found.spki and not compressed:
            raise InvalidArgumentError("the SubjectPublicKeyInfo is not in its canonical encoding")
        return found

    @classmethod
    def from_pem(cls, pem: BytesLike | str, algorithm: Algorithm | str) -> Self:
        """The key of one ``PUBLIC KEY`` block (RFC 7468, 13).

        Raises:
            TypeError: an argument of the wrong type.
            InvalidArgumentError: not exactly one such block; a private key, too, is refused.
                Or see the class.
        """
        text = pem if isinstance(pem, str) else octets(pem, "a PEM").decode("ascii", "replace")
        if "PRIVATE KEY" in text:
            raise InvalidArgumentError("this PEM holds a private key; give the public key alone")
        block = _PEM.fullmatch(text.strip()) if len(text) <= 2 * MAX_SPKI_SIZE else None
        try:
            if block is None:
                raise ValueError
            der = base64.b64decode("".join(block[1].split()), validate=True)
        except (ValueError, binascii.Error):
            raise InvalidArgumentError("not one PEM block of type PUBLIC KEY") from None
        return cls.from_spki(der, algorithm)

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, object] | BytesLike | str, algorithm: Algorithm | str) -> Self:
        """The key of a JSON Web Key (RFC 7517, 7518, 8037, 9964), as a mapping or as JSON.

        The members ``alg``, ``use`` and ``key_ops``, where present, must agree with ``algorithm``; they never
        choose it. ``kid``, ``x5c`` and the like are not read.

        Raises:
            TypeError: an argument of the wrong type.
            InvalidArgumentError: not a public JWK for this algorithm; a private one, too, is refused.
                Or see the class.
        """
        chosen = _asymmetric(algorithm)
        members = _jwk_members(jwk)
        if not _PRIVATE_MEMBERS.isdisjoint(members):
            raise InvalidArgumentError("this JWK holds a private or symmetric key; give the public key alone")
        _check_jwk_use(members, chosen)
        try:
            loaded = _jwk_key(members, chosen)
        except ValueError:
            raise InvalidArgumentError(f"the JWK holds no valid public key for {chosen}") from None
        return cls(loaded, chosen)

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm the key is bound to."""
        return self._algorithm

    @property
    def key_size(self) -> int | None:
        """Modulus of an RSA key in bits; None for all others."""
        return self._key.key_size if isinstance(self._key, rsa.RSAPublicKey) else None

    @property
    def spki(self) -> bytes:
        """Canonical DER SubjectPublicKeyInfo, EC points uncompressed: same key, same bytes."""
        return self._spki

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ``spki``: 64 lower-case hex digits."""
        return self._fingerprint

    def pem(self) -> str:
        """The key as one ``PUBLIC KEY`` block (RFC 7468), with a final newline."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def jwk(self) -> dict[str, str]:
        """The key as a JSON Web Key, with ``alg``, and as ``kid`` its SHA-256 thumbprint (RFC 7638)."""
        required = _jwk_required(self._key, self._algorithm)
        thumbprint = hashlib.sha256(canonical_json(required)).digest()
        return {**required, "alg": str(self._algorithm), "kid": _to_base64url(thumbprint)}

    def verify(
        self,
        message: BytesLike,
        signature: BytesLike,
        *,
        encoding: SignatureEncoding | str = SignatureEncoding.DER,
        prehashed: bool = False,
    ) -> None:
        """Return only if ``signature`` is this key's for this message.

        Args:
            message: as in ``prepare_message``.
            signature: DER minimal or of exact width; PSS with a salt as long as the digest.
            encoding: of an ECDSA signature. The others have one form, so that both values mean it.
            prehashed: the message is its digest.

        Raises:
            TypeError: message or signature is not bytes-like.
            InvalidArgumentError: a message or digest of the wrong size, an unknown encoding.
            UnsupportedOperationError: ``prehashed`` with Ed25519 or ML-DSA.
            KeyUsageError: an RSA-OAEP-256 key.
            InvalidSignatureError: it is not; always with the same text.
        """
        form = signature_encoding(encoding)
        if self._check is None:
            raise KeyUsageError(f"a key for {self._algorithm} verifies no signatures")
        data = prepare_message(self._algorithm, message, prehashed=prehashed)
        given = octets(signature, "signature")
        if self._algorithm.spec.coordinate_size is not None:
            if form is SignatureEncoding.P1363:
                given = p1363_to_der(given, self._algorithm)
            else:
                der_to_p1363(given, self._algorithm)
        # OpenSSL takes a PSS signature whose leading zero bytes are missing.
        elif self.key_size is not None and len(given) != self.key_size // 8:
            raise InvalidSignatureError(_REFUSED)
        try:
            self._check(given, data)
        except InvalidSignature:
            raise InvalidSignatureError(_REFUSED) from None

    def encrypt(self, plaintext: BytesLike) -> bytes:
        """RSA-OAEP (RFC 8017, 7.1) with SHA-256, MGF1 with SHA-256 and an empty label.

        Args:
            plaintext: 1 to 190, 318 or 446 bytes for 2048, 3072 or 4096 bits.

        Returns:
            As many bytes as the modulus.

        Raises:
            TypeError: the plaintext is not bytes-like.
            InvalidArgumentError: the plaintext is empty or too long.
            KeyUsageError: the key is not for RSA-OAEP-256.
        """
        if self._algorithm is not Algorithm.RSA_OAEP_256 or not isinstance(self._key, rsa.RSAPublicKey):
            raise KeyUsageError(f"a key for {self._algorithm} does not encrypt")
        data = octets(plaintext, "plaintext")
        longest = oaep_max_plaintext(self._key.key_size)
        if not 1 <= len(data) <= longest:
            raise InvalidArgumentError(
                f"plaintext of {len(data)} bytes; this key takes 1 to {longest}. Use a Keyring for more"
            )
        return self._key.encrypt(data, _OAEP)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublicKey):
            return NotImplemented
        return self._algorithm is other._algorithm and self._spki == other._spki

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __repr__(self) -> str:
        return f"<PublicKey {self._algorithm} sha256:{self._fingerprint}>"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self).from_spki, (self._spki, self._algorithm)


_PEM: Final = re.compile(
    r"-----BEGIN PUBLIC KEY-----[ \t]*\r?\n([A-Za-z0-9+/=\s]+)\r?\n-----END PUBLIC KEY-----"
)


def _asymmetric(name: Algorithm | str) -> Algorithm:
    chosen = Algorithm.named(name)
    if chosen.spec.key_type is KeyType.OCT:
        raise InvalidArgumentError(f"{chosen} is symmetric; it has no public key")
    return chosen


def signature_encoding(name: SignatureEncoding | str) -> SignatureEncoding:
    if not isinstance(name, str):
        raise TypeError(f"encoding is a SignatureEncoding or its name, not {type(name).__name__}")
    try:
        return SignatureEncoding(name)
    except ValueError:
        raise InvalidArgumentError("unknown signature encoding; use DER or P1363") from None


# Key against algorithm


def _check_key(key: PublicKeyTypes, algorithm: Algorithm) -> None:
    spec = algorithm.spec
    match spec.key_type:
        case KeyType.RSA if isinstance(key, rsa.RSAPublicKey):
            numbers = key.public_numbers()
            spec.size_or_default(key.key_size)
            if numbers.e not in RSA_EXPONENTS:
                raise InvalidArgumentError(
                    "the RSA public exponent is not an odd number from 65537 to 2**64 - 1"
                )
            if numbers.n % 2 == 0:
                raise InvalidArgumentError("the RSA modulus is even")
        case KeyType.EC if isinstance(key, ec.EllipticCurvePublicKey):
            if key.curve.name != _CURVES[str(spec.curve)].name:
                _misfit(algorithm, f"an EC key on {spec.curve}")
        case KeyType.OKP if isinstance(key, ed25519.Ed25519PublicKey):
            y = int.from_bytes(key.public_bytes_raw(), "little") & ((1 << 255) - 1)
            if y >= _ED25519_PRIME or y in _SMALL_ORDER_Y:
                raise InvalidArgumentError("the Ed25519 point is of small order or not canonically encoded")
        case KeyType.AKP if isinstance(key, _ML_DSA[algorithm]):
            pass
        case _:
            _misfit(algorithm, f"a key of type {spec.key_type}")


def _misfit(algorithm: Algorithm, needed: str) -> NoReturn:
    raise InvalidArgumentError(f"{algorithm} needs {needed}; this is another key")


def _verifier(key: PublicKeyTypes, spec: AlgorithmSpec) -> Callable[[bytes, bytes], None] | None:
    """The check of a signature over prepared data, decided once; None for a key that does not verify."""
    if isinstance(key, ed25519.Ed25519PublicKey | _MLDSAKey):
        return key.verify
    if spec.digest is None:
        return None
    hashed = _HASHES[spec.digest]
    given = utils.Prehashed(hashed)
    if isinstance(key, ec.EllipticCurvePublicKey):
        curve_key, scheme = key, ec.ECDSA(given)
        return lambda signature, data: curve_key.verify(signature, data, scheme)
    rsa_key = cast("rsa.RSAPublicKey", key)
    filling: padding.PSS | padding.PKCS1v15 = (
        padding.PSS(padding.MGF1(hashed), hashed.digest_size)
        if spec.algorithm.startswith("PS")
        else padding.PKCS1v15()
    )
    return lambda signature, data: rsa_key.verify(signature, data, filling, given)


# JSON Web Keys

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})


def _jwk_members(jwk: Mapping[str, object] | BytesLike | str) -> Mapping[str, object]:
    if isinstance(jwk, Mapping):
        return jwk
    problem = "the JWK is not one JSON object with each member given once"
    text = jwk if isinstance(jwk, str) else octets(jwk, "a JWK is a mapping or JSON; JSON")
    if len(text) > MAX_JWK_SIZE:
        raise InvalidArgumentError(f"the JWK is longer than {MAX_JWK_SIZE} bytes")
    try:
        found: object = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise InvalidArgumentError(problem) from None
    if not isinstance(found, dict):
        raise InvalidArgumentError(problem)
    return cast("dict[str, object]", found)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _check_jwk_use(members: Mapping[str, object], algorithm: Algorithm) -> None:
    signs = KeyPurpose.SIGN_VERIFY in algorithm.spec.purposes
    # RFC 8037 keys still say EdDSA, which RFC 9864 splits by curve; the curve is checked below.
    # A list, since a member of a foreign JWK need not be hashable.
    names = [str(algorithm), "EdDSA"] if algorithm is Algorithm.ED25519 else [str(algorithm)]
    if "alg" not in members and algorithm.spec.key_type is KeyType.AKP:
        raise InvalidArgumentError("a JWK of type AKP has the member alg (RFC 9964)")
    if members.get("alg", str(algorithm)) not in names:
        raise InvalidArgumentError(f"the JWK's alg is not {algorithm}")
    if members.get("use", "sig" if signs else "enc") != ("sig" if signs else "enc"):
        raise InvalidArgumentError(f"the JWK's use does not allow {algorithm}")
    wanted = {"verify"} if signs else {"encrypt", "wrapKey"}
    operations = members.get("key_ops")
    if operations is not None and not (
        isinstance(operations, list) and any(name in wanted for name in cast("list[object]", operations))
    ):
        raise InvalidArgumentError(f"the JWK's key_ops do not allow {algorithm}")


def _jwk_key(members: Mapping[str, object], algorithm: Algorithm) -> PublicKeyTypes:
    spec = algorithm.spec
    if members.get("kty") != str(spec.key_type) or members.get("crv") != spec.curve:
        raise ValueError
    match spec.key_type:
        case KeyType.RSA:
            n, e = _from_base64url(members.get("n")), _from_base64url(members.get("e"))
            if n[:1] in (b"", b"\0") or e[:1] in (b"", b"\0") or 8 * len(n) > max(spec.key_sizes):
                raise ValueError
            return rsa.RSAPublicNumbers(int.from_bytes(e), int.from_bytes(n)).public_key()
        case KeyType.EC:
            x, y = _from_base64url(members.get("x")), _from_base64url(members.get("y"))
            if not len(x) == len(y) == spec.coordinate_size:
                raise ValueError
            curve = _CURVES[str(spec.curve)]
            return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
        case KeyType.OKP:
            return ed25519.Ed25519PublicKey.from_public_bytes(_from_base64url(members.get("x")))
        case KeyType.AKP:
            return _ML_DSA[algorithm].from_public_bytes(_from_base64url(members.get("pub")))
        case KeyType.OCT:
            raise ValueError


def _jwk_required(key: PublicKeyTypes, algorithm: Algorithm) -> dict[str, str]:
    """The members that a thumbprint is made of (RFC 7638, 3.2; RFC 8037, 2; RFC 9964 for AKP)."""
    spec = algorithm.spec
    required = {"kty": str(spec.key_type)}
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        required |= {"n": _uint(numbers.n), "e": _uint(numbers.e)}
    elif isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        half = len(point) // 2
        required |= {
            "crv": str(spec.curve),
            "x": _to_base64url(point[:half]),
            "y": _to_base64url(point[half:]),
        }
    elif isinstance(key, ed25519.Ed25519PublicKey):
        required |= {"crv": str(spec.curve), "x": _to_base64url(key.public_bytes_raw())}
    else:
        raw = cast("_MLDSAKey", key).public_bytes_raw()
        required |= {"alg": str(algorithm), "pub": _to_base64url(raw)}
    return required


def _uint(number: int) -> str:
    return _to_base64url(number.to_bytes((number.bit_length() + 7) // 8))


def _to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_base64url(text: object) -> bytes:
    if not isinstance(text, str) or not text.isascii():
        raise ValueError
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _to_base64url(data) != text:
        raise ValueError
    return data
