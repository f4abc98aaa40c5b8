"""Public keys and signatures: the strict codecs, the bound algorithm, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Callable
from functools import cache

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed448,
    ed25519,
    mldsa,
    padding,
    rsa,
    utils,
    x25519,
)
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from anykms.algorithms import Algorithm, KeyPurpose, KeyType
from anykms.errors import (
    InvalidArgumentError,
    InvalidSignatureError,
    KeyUsageError,
    UnsupportedOperationError,
)
from anykms.payload import BytesLike
from anykms.provider import SignatureEncoding
from anykms.signing import (
    PublicKey,
    der_to_p1363,
    digest,
    p1363_to_der,
    prepare_message,
)

MESSAGE = b"release v1.2.0"
SIGNING = [a for a in Algorithm if KeyPurpose.SIGN_VERIFY in a.spec.purposes]
DIGESTED = [a for a in SIGNING if a.spec.prehashable]
WHOLE = [a for a in SIGNING if not a.spec.prehashable]
PUBLIC = [*SIGNING, Algorithm.RSA_OAEP_256]
SYMMETRIC = [a for a in Algorithm if a.spec.key_type is KeyType.OCT]
CURVES: dict[Algorithm, ec.EllipticCurve] = {
    Algorithm.ES256: ec.SECP256R1(),
    Algorithm.ES384: ec.SECP384R1(),
    Algorithm.ES512: ec.SECP521R1(),
    Algorithm.ES256K: ec.SECP256K1(),
}
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}

Signer = Callable[[bytes], bytes]
MLDSAPrivateKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def made(algorithm: Algorithm) -> tuple[PublicKeyTypes, Signer]:
    """A key of ``algorithm`` made by pyca, and how pyca signs a message with it."""
    spec = algorithm.spec
    if spec.key_type is KeyType.RSA:
        return rsa_pair(algorithm, 4096 if spec.key_sizes == (4096,) else 2048)
    if algorithm in CURVES:
        curve_key = ec.generate_private_key(CURVES[algorithm])
        scheme = ec.ECDSA(HASHES[str(spec.digest)])
        return curve_key.public_key(), lambda message: curve_key.sign(message, scheme)
    if algorithm is Algorithm.ED25519:
        edwards = ed25519.Ed25519PrivateKey.generate()
        return edwards.public_key(), edwards.sign
    makers: dict[Algorithm, Callable[[], MLDSAPrivateKey]] = {
        Algorithm.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
        Algorithm.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
        Algorithm.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
    }
    lattice = makers[algorithm]()
    return lattice.public_key(), lattice.sign


def rsa_pair(algorithm: Algorithm, bits: int) -> tuple[PublicKeyTypes, Signer]:
    key = rsa_key(bits)
    if algorithm is Algorithm.RSA_OAEP_256:
        return key.public_key(), lambda message: key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    hashed = HASHES[str(algorithm.spec.digest)]
    filling = (
        padding.PSS(padding.MGF1(hashed), hashed.digest_size)
        if algorithm.startswith("PS")
        else padding.PKCS1v15()
    )
    return key.public_key(), lambda message: key.sign(message, filling, hashed)


def public_key(algorithm: Algorithm) -> PublicKey:
    return PublicKey(made(algorithm)[0], algorithm)


def spki_of(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def refused(key: PublicKey, message: BytesLike, signature: bytes, encoding: str = "DER") -> None:
    with pytest.raises(
        InvalidSignatureError, match=r"^the signature does not belong to this message and key$"
    ):
        key.verify(message, signature, encoding=encoding)


class TestVerification:
    @pytest.mark.parametrize("algorithm", SIGNING)
    def test_signatures_that_pyca_made(self, algorithm: Algorithm) -> None:
        key, signature = public_key(algorithm), made(algorithm)[1](MESSAGE)
        key.verify(MESSAGE, signature)
        refused(key, MESSAGE + b".", signature)
        refused(key, MESSAGE[:-1], signature)

    @pytest.mark.parametrize(
        ("algorithm", "bits"),
        [(a, bits) for a in SIGNING for bits in a.spec.key_sizes],
    )
    def test_every_rsa_size(self, algorithm: Algorithm, bits: int) -> None:
        key, sign = rsa_pair(algorithm, bits)
        bound = PublicKey(key, algorithm)
        bound.verify(MESSAGE, sign(MESSAGE))
        assert bound.key_size == bits

    @pytest.mark.parametrize("algorithm", SIGNING)
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_bytes_like_inputs_behave_the_same(
        self, algorithm: Algorithm, kind: Callable[[bytes], BytesLike]
    ) -> None:
        signature = made(algorithm)[1](MESSAGE)
        public_key(algorithm).verify(kind(MESSAGE), kind(signature))

    def test_a_strided_memoryview_is_the_bytes_it_shows(self) -> None:
        strided = memoryview(bytes(byte for pair in zip(MESSAGE, MESSAGE, strict=True) for byte in pair))[::2]
        public_key(Algorithm.ES256).verify(strided, made(Algorithm.ES256)[1](MESSAGE))

    @pytest.mark.parametrize("algorithm", SIGNING)
    def test_text_is_a_type_error(self, algorithm: Algorithm) -> None:
        key, signature = public_key(algorithm), made(algorithm)[1](MESSAGE)
        with pytest.raises(TypeError, match="message is bytes"):
            key.verify("release v1.2.0", signature)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test
        with pytest.raises(TypeError, match="signature is bytes"):
            key.verify(MESSAGE, signature.hex())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test

    @pytest.mark.parametrize("algorithm", SIGNING)
    @pytest.mark.parametrize("encoding", ["DER", "P1363", *SignatureEncoding])
    def test_encodings(self, algorithm: Algorithm, encoding: str) -> None:
        key, signature = public_key(algorithm), made(algorithm)[1](MESSAGE)
        if algorithm in CURVES and encoding == "P1363":
            refused(key, MESSAGE, signature, "P1363")
            signature = der_to_p1363(signature, algorithm)
            refused(key, MESSAGE, signature, "DER")
        key.verify(MESSAGE, signature, encoding=encoding)

    @pytest.mark.parametrize("encoding", ["", "der", "IEEE", "\0"])
    def test_unknown_encodings(self, encoding: str) -> None:
        with pytest.raises(InvalidArgumentError, match="use DER or P1363"):
            public_key(Algorithm.ES256).verify(MESSAGE, b"", encoding=encoding)
        with pytest.raises(TypeError):
            public_key(Algorithm.ES256).verify(MESSAGE, b"", encoding=None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test

    @pytest.mark.parametrize("algorithm", SIGNING)
    def test_empty_truncated_padded_and_altered_signatures(self, algorithm: Algorithm) -> None:
        key, good = public_key(algorithm), made(algorithm)[1](MESSAGE)
        bad = [b"", good[:-1], good[1:], good + b"\0", b"\0" + good, good + good, bytes(len(good))]
        bad += [b"\xff" * len(good), bytes([good[0] ^ 1]) + good[1:], good[:-1] + bytes([good[-1] ^ 1])]
        for signature in bad:
            refused(key, MESSAGE, signature)
        if algorithm in CURVES:
            raw = der_to_p1363(good, algorithm)
            for signature in (
                b"",
                raw[:-1],
                raw + b"\0",
                b"\0" + raw,
                raw[:-2],
                b"\0" + raw + b"\0",
                raw * 2,
            ):
                refused(key, MESSAGE, signature, "P1363")

    @given(data=st.data(), algorithm=st.sampled_from([Algorithm.ES256, Algorithm.ED25519, Algorithm.PS256]))
    def test_no_altered_signature_passes(self, data: st.DataObject, algorithm: Algorithm) -> None:
        good = known_signature(algorithm)
        place = data.draw(st.integers(0, len(good) - 1))
        bit = data.draw(st.integers(0, 7))
        altered = bytearray(good)
        altered[place] ^= 1 << bit
        refused(public_key(algorithm), MESSAGE, bytes(altered))

    @given(
        signature=st.binary(max_size=600),
        algorithm=st.sampled_from(SIGNING),
        encoding=st.sampled_from(["DER", "P1363"]),
    )
    def test_no_noise_passes_and_no_foreign_error_escapes(
        self, signature: bytes, algorithm: Algorithm, encoding: str
    ) -> None:
        refused(public_key(algorithm), MESSAGE, signature, encoding)

    def test_another_key_is_refused(self) -> None:
        stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
        refused(PublicKey(stranger, "ES256"), MESSAGE, made(Algorithm.ES256)[1](MESSAGE))


@cache
def known_signature(algorithm: Algorithm) -> bytes:
    return made(algorithm)[1](MESSAGE)


class TestPreparedMessages:
    @pytest.mark.parametrize("algorithm", DIGESTED)
    def test_a_digest_stands_for_its_message(self, algorithm: Algorithm) -> None:
        key, signature = public_key(algorithm), made(algorithm)[1](MESSAGE)
        hashed = hashlib.new(str(algorithm.spec.digest), MESSAGE).digest()
        assert digest(algorithm, MESSAGE) == hashed
        assert prepare_message(algorithm, MESSAGE) == hashed
        assert prepare_message(algorithm, bytearray(hashed), prehashed=True) == hashed
        key.verify(hashed, signature, prehashed=True)
        with pytest.raises(InvalidSignatureError):
            key.verify(hashed, signature)

    @pytest.mark.parametrize("algorithm", DIGESTED)
    def test_a_digest_of_another_size_is_refused(self, algorithm: Algorithm) -> None:
        size = int(algorithm.spec.digest_size or 0)
        for wrong in {0, size - 1, size + 1, 20, 2 * size}:
            with pytest.raises(InvalidArgumentError, match=f"has {size} bytes"):
                prepare_message(algorithm, bytes(wrong), prehashed=True)
            with pytest.raises(InvalidArgumentError):
                public_key(algorithm).verify(bytes(wrong), known_signature(algorithm), prehashed=True)

    @pytest.mark.parametrize("algorithm", DIGESTED)
    @pytest.mark.parametrize("size", [0, 4097, 1 << 20])
    def test_digested_messages_have_any_size(self, algorithm: Algorithm, size: int) -> None:
        public_key(algorithm).verify(bytes(size), made(algorithm)[1](bytes(size)))

    @pytest.mark.parametrize("algorithm", WHOLE)
    def test_whole_messages_have_1_to_4096_bytes(self, algorithm: Algorithm) -> None:
        key, sign = public_key(algorithm), made(algorithm)[1]
        for size in (1, 4096):
            assert prepare_message(algorithm, bytes(size)) == bytes(size)
            key.verify(bytes(size), sign(bytes(size)))
        for size in (0, 4097):
            with pytest.raises(InvalidArgumentError, match="1 to 4096 bytes"):
                prepare_message(algorithm, bytes(size))
            with pytest.raises(InvalidArgumentError):
                key.verify(bytes(size), sign(bytes(size)))

    @pytest.mark.parametrize("algorithm", WHOLE)
    def test_whole_messages_are_not_prehashed(self, algorithm: Algorithm) -> None:
        with pytest.raises(UnsupportedOperationError):
            prepare_message(algorithm, bytes(64), prehashed=True)
        with pytest.raises(UnsupportedOperationError):
            public_key(algorithm).verify(bytes(64), known_signature(algorithm), prehashed=True)
        with pytest.raises(UnsupportedOperationError):
            digest(algorithm, MESSAGE)

    @pytest.mark.parametrize("algorithm", [*SYMMETRIC, Algorithm.RSA_OAEP_256])
    def test_algorithms_that_do_not_sign(self, algorithm: Algorithm) -> None:
        with pytest.raises(UnsupportedOperationError):
            prepare_message(algorithm, MESSAGE)
        with pytest.raises(UnsupportedOperationError):
            digest(algorithm, MESSAGE)

    def test_wrong_types_and_names(self) -> None:
        with pytest.raises(TypeError, match="message is bytes"):
            digest("ES256", "abc")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test
        with pytest.raises(TypeError, match="algorithm is"):
            digest(256, b"abc")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test
        for name in ("es256", "none", "RSA1_5", "RSA-OAEP", "EdDSA", "Ed25519ph", ""):
            with pytest.raises(InvalidArgumentError, match="unknown algorithm"):
                digest(name, b"abc")


class TestRSA:
    @pytest.mark.parametrize("salt", [0, 20, 31, 33, 64, padding.PSS.MAX_LENGTH])
    def test_pss_salts_of_another_length_are_refused(self, salt: int) -> None:
        filling = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        signature = rsa_key(2048).sign(MESSAGE, filling, hashes.SHA256())
        rsa_key(2048).public_key().verify(signature, MESSAGE, filling, hashes.SHA256())
        refused(PublicKey(rsa_key(2048).public_key(), "PS256"), MESSAGE, signature)

    def test_pss_with_another_mask_digest_is_refused(self) -> None:
        filling = padding.PSS(padding.MGF1(hashes.SHA1()), 32)  # noqa: S303 # what must be refused
        signature = rsa_key(2048).sign(MESSAGE, filling, hashes.SHA256())
        refused(PublicKey(rsa_key(2048).public_key(), "PS256"), MESSAGE, signature)

    @pytest.mark.parametrize("algorithm", [Algorithm.PS256, Algorithm.RS256])
    def test_a_leading_zero_byte_is_part_of_the_signature(self, algorithm: Algorithm) -> None:
        key, sign = rsa_pair(algorithm, 2048)
        messages = (number.to_bytes(4) for number in range(1 << 32))
        message, signature = next((m, s) for m in messages if not (s := sign(m))[0])
        PublicKey(key, algorithm).verify(message, signature)
        refused(PublicKey(key, algorithm), message, signature[1:])
        refused(PublicKey(key, algorithm), message, b"\0" + signature)

    def test_the_modulus_added_to_a_signature_is_refused(self) -> None:
        key, sign = rsa_pair(Algorithm.RS256, 2048)
        numbers = rsa_key(2048).public_key().public_numbers()
        messages = (number.to_bytes(4) for number in range(1 << 32))
        larger = ((m, int.from_bytes(sign(m)) + numbers.n) for m in messages)
        message, number = next(pair for pair in larger if pair[1] < 1 << 2048)
        refused(PublicKey(key, "RS256"), message, number.to_bytes(256))

    @pytest.mark.parametrize("bits", [1024, 2047, 2056, 8192])
    def test_other_sizes_are_refused(self, bits: int) -> None:
        modulus = (1 << bits) - 1
        key = rsa.RSAPublicNumbers(65537, modulus).public_key()
        for algorithm in (Algorithm.RS256, Algorithm.PS384, Algorithm.RSA_OAEP_256):
            with pytest.raises(InvalidArgumentError, match="key_size"):
                PublicKey(key, algorithm)

    @pytest.mark.parametrize("algorithm", [Algorithm.RS512, Algorithm.PS512])
    @pytest.mark.parametrize("bits", [2048, 3072])
    def test_sha512_takes_4096_bits(self, algorithm: Algorithm, bits: int) -> None:
        with pytest.raises(InvalidArgumentError, match="allowed: 4096"):
            PublicKey(rsa_key(bits).public_key(), algorithm)

    @pytest.mark.parametrize("exponent", [3, 17, 65535, 65539 - 4, (1 << 64) + 1])
    def test_other_public_exponents_are_refused(self, exponent: int) -> None:
        modulus = rsa_key(2048).public_key().public_numbers().n
        with pytest.raises(InvalidArgumentError, match="public exponent"):
            PublicKey(rsa.RSAPublicNumbers(exponent, modulus).public_key(), "RS256")

    @pytest.mark.parametrize("exponent", [65537, 65539, (1 << 64) - 1])
    def test_odd_exponents_from_65537_are_accepted(self, exponent: int) -> None:
        modulus = rsa_key(2048).public_key().public_numbers().n
        assert PublicKey(rsa.RSAPublicNumbers(exponent, modulus).public_key(), "RS256").key_size == 2048

    def test_an_even_modulus_is_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="even"):
            PublicKey(rsa.RSAPublicNumbers(65537, 1 << 2047).public_key(), "RS256")

    @pytest.mark.parametrize(("bits", "longest"), [(2048, 190), (3072, 318), (4096, 446)])
    def test_oaep_limits(self, bits: int, longest: int) -> None:
        private = rsa_key(bits)
        key = PublicKey(private.public_key(), "RSA-OAEP-256")
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        for plaintext in (b"\0", bytes(range(190)), bytes(longest)):
            ciphertext = key.encrypt(memoryview(plaintext))
            assert len(ciphertext) == bits // 8
            assert private.decrypt(ciphertext, oaep) == plaintext
        for size in (0, longest + 1, 5000):
            with pytest.raises(InvalidArgumentError, match=f"1 to {longest}"):
                key.encrypt(bytes(size))

    def test_oaep_is_randomised(self) -> None:
        key = PublicKey(rsa_key(2048).public_key(), "RSA-OAEP-256")
        assert key.encrypt(b"x") != key.encrypt(b"x")

    def test_usage(self) -> None:
        with pytest.raises(KeyUsageError, match="verifies no signatures"):
            PublicKey(rsa_key(2048).public_key(), "RSA-OAEP-256").verify(MESSAGE, bytes(256))
        with pytest.raises(TypeError):
            PublicKey(rsa_key(2048).public_key(), "RSA-OAEP-256").encrypt("text")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test
        for algorithm in SIGNING:
            with pytest.raises(KeyUsageError, match="does not encrypt"):
                public_key(algorithm).encrypt(b"x")


def der_integer(content: bytes) -> bytes:
    return b"\x02" + der_length(len(content)) + content


def der_length(size: int) -> bytes:
    return bytes([size]) if size < 128 else b"\x81" + bytes([size])


def der_sequence(content: bytes) -> bytes:
    return b"\x30" + der_length(len(content)) + content


def minimal(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1)


def converts(signature: bytes, algorithm: Algorithm) -> bool:
    try:
        der_to_p1363(signature, algorithm)
    except InvalidSignatureError:
        return False
    return True


ORDERS = {algorithm: curve.group_order for algorithm, curve in CURVES.items()}


class TestSignatureCodecs:
    @given(
        data=st.data(),
        algorithm=st.sampled_from(list(CURVES)),
        r_zeros=st.integers(0, 3),
        s_zeros=st.integers(0, 3),
    )
    def test_round_trip(self, data: st.DataObject, algorithm: Algorithm, r_zeros: int, s_zeros: int) -> None:
        width = int(algorithm.spec.coordinate_size or 0)
        r, s = (
            data.draw(st.integers(1, min(ORDERS[algorithm] - 1, (1 << 8 * (width - zeros)) - 1)))
            for zeros in (r_zeros, s_zeros)
        )
        raw = r.to_bytes(width) + s.to_bytes(width)
        der = der_sequence(der_integer(minimal(r)) + der_integer(minimal(s)))
        assert p1363_to_der(raw, algorithm) == der == utils.encode_dss_signature(r, s)
        assert der_to_p1363(der, algorithm) == raw

    @pytest.mark.parametrize("algorithm", CURVES)
    def test_range_of_r_and_s(self, algorithm: Algorithm) -> None:
        order, width = ORDERS[algorithm], int(algorithm.spec.coordinate_size or 0)
        for r, s in ((1, order - 1), (order - 1, 1)):
            raw = r.to_bytes(width) + s.to_bytes(width)
            assert der_to_p1363(p1363_to_der(raw, algorithm), algorithm) == raw
        for r, s in ((0, 1), (1, 0), (0, 0), (order, 1), (1, order), (order + 1, 1), (1, 2 * order - 1)):
            with pytest.raises(InvalidSignatureError):
                der_to_p1363(utils.encode_dss_signature(r, s), algorithm)
            if max(r, s).bit_length() <= 8 * width:
                with pytest.raises(InvalidSignatureError):
                    p1363_to_der(r.to_bytes(width) + s.to_bytes(width), algorithm)

    @pytest.mark.parametrize("algorithm", CURVES)
    def test_only_minimal_der(self, algorithm: Algorithm) -> None:
        one, high = minimal(1), minimal(ORDERS[algorithm] - 1)
        body = der_integer(one) + der_integer(high)
        size = bytes([len(body)])
        good = der_sequence(body)
        assert der_to_p1363(good, algorithm)
        lenient = {
            "over-padded r": der_sequence(der_integer(b"\0" + one) + der_integer(high)),
            "over-padded s": der_sequence(der_integer(one) + der_integer(b"\0" + high)),
            "long-form length": b"\x30\x81" + size + body if len(body) < 128 else b"\x30\x82\0" + size + body,
            "longer long-form length": b"\x30\x83\0\0" + size + body,
            "long-form integer length": der_sequence(b"\x02\x81\x01\x01" + der_integer(high)),
            "indefinite length": b"\x30\x80" + body + b"\0\0",
            "garbage after": good + b"\0",
            "garbage inside": der_sequence(body + b"\x05\0"),
            "third integer": der_sequence(body + der_integer(one)),
            "inflated length": b"\x30" + der_length(len(body) + 1) + body,
            "deflated length": b"\x30" + der_length(len(body) - 1) + body,
            "inflated inner length": der_sequence(b"\x02\x7f\x01" + der_integer(high)),
            "negative r": der_sequence(der_integer(b"\xff") + der_integer(high)),
            "negative s": der_sequence(der_integer(one) + der_integer(b"\x80" + bytes(31))),
            "empty integer": der_sequence(der_integer(b"") + der_integer(high)),
            "one integer": der_sequence(der_integer(one)),
            "a set": b"\x31" + good[1:],
            "an octet string for r": der_sequence(b"\x04\x01\x01" + der_integer(high)),
            "nested twice": der_sequence(good),
            "empty": b"",
            "tag alone": b"\x30",
            "huge length": b"\x30\x84\xff\xff\xff\xff" + body,
        }
        accepted = [what for what, signature in lenient.items() if converts(signature, algorithm)]
        assert accepted == []

    @given(noise=st.binary(max_size=160), algorithm=st.sampled_from(list(CURVES)))
    def test_what_is_accepted_is_canonical(self, noise: bytes, algorithm: Algorithm) -> None:
        try:
            raw = der_to_p1363(noise, algorithm)
        except InvalidSignatureError:
            return
        assert p1363_to_der(raw, algorithm) == noise

    @pytest.mark.parametrize("algorithm", CURVES)
    def test_exact_width(self, algorithm: Algorithm) -> None:
        width = int(algorithm.spec.coordinate_size or 0)
        half = bytes(width - 1) + b"\1"
        assert p1363_to_der(half + half, algorithm)
        for wrong in (b"", half, half + half[:-1], half + half + b"\0", b"\0" + half + half, half * 4):
            with pytest.raises(InvalidSignatureError):
                p1363_to_der(wrong, algorithm)

    @pytest.mark.parametrize("algorithm", [a for a in Algorithm if a not in CURVES])
    def test_other_algorithms_have_one_form(self, algorithm: Algorithm) -> None:
        for convert in (der_to_p1363, p1363_to_der):
            with pytest.raises(InvalidArgumentError, match="one form"):
                convert(b"", algorithm)

    @pytest.mark.parametrize("convert", [der_to_p1363, p1363_to_der])
    def test_text_is_a_type_error(self, convert: Callable[[str, str], bytes]) -> None:
        with pytest.raises(TypeError, match="signature is bytes"):
            convert("3006020101020101", "ES256")


# Affine arithmetic on y**2 = x**3 + ax + b, enough to make signatures with chosen r and s.

Point = tuple[int, int]
PRIMES = {
    Algorithm.ES256: 2**256 - 2**224 + 2**192 + 2**96 - 1,
    Algorithm.ES384: 2**384 - 2**128 - 2**96 + 2**32 - 1,
    Algorithm.ES512: 2**521 - 1,
    Algorithm.ES256K: 2**256 - 2**32 - 977,
}


def add(p: Point | None, q: Point | None, prime: int, a: int) -> Point | None:
    if p is None or q is None:
        return p or q
    if p[0] == q[0] and (p[1] + q[1]) % prime == 0:
        return None
    slope = (
        (3 * p[0] * p[0] + a) * pow(2 * p[1], -1, prime)
        if p == q
        else (q[1] - p[1]) * pow(q[0] - p[0], -1, prime)
    )
    x = (slope * slope - p[0] - q[0]) % prime
    return x, (slope * (p[0] - x) - p[1]) % prime


def multiply(factor: int, point: Point, prime: int, a: int) -> Point | None:
    total: Point | None = None
    power: Point | None = point
    while factor:
        if factor & 1:
            total = add(total, power, prime, a)
        power = add(power, power, prime, a)
        factor >>= 1
    return total


def key_for(algorithm: Algorithm, r_point: Point, s: int, hashed: bytes) -> ec.EllipticCurvePublicKey:
    """The key under which (x of r_point, s) signs ``hashed``: Q = (sR - hG) / r (SEC 1, 4.1.6)."""
    curve, prime, order = CURVES[algorithm], PRIMES[algorithm], ORDERS[algorithm]
    a = 0 if algorithm is Algorithm.ES256K else -3
    numbers = ec.derive_private_key(1, curve).public_key().public_numbers()
    h = int.from_bytes(hashed)
    inverse = pow(r_point[0], -1, order)
    point = add(
        multiply(s * inverse % order, r_point, prime, a),
        multiply(-h * inverse % order, (numbers.x, numbers.y), prime, a),
        prime,
        a,
    )
    assert point is not None
    return ec.EllipticCurvePublicNumbers(*point, curve).public_key()


def point_with_zeros(algorithm: Algorithm, zeros: int) -> Point:
    """A point whose x, at the curve's width, begins with exactly so many zero bytes."""
    width = int(algorithm.spec.coordinate_size or 0)
    first = 1 if (zeros, width) == (0, 66) else 0x5A
    x = int.from_bytes(bytes(zeros) + bytes([first]) + bytes(width - zeros - 1))
    while True:
        try:
            found = ec.EllipticCurvePublicKey.from_encoded_point(
                CURVES[algorithm], b"\2" + x.to_bytes(width)
            ).public_numbers()
        except ValueError:
            x += 1
        else:
            return found.x, found.y


@pytest.mark.parametrize("algorithm", CURVES)
@pytest.mark.parametrize("zeros", [(0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (3, 0), (0, 3), (3, 3)])
def test_valid_signatures_with_leading_zero_bytes(algorithm: Algorithm, zeros: tuple[int, int]) -> None:
    width = int(algorithm.spec.coordinate_size or 0)
    hashed = digest(algorithm, MESSAGE)
    r_point = point_with_zeros(algorithm, zeros[0])
    s = int.from_bytes(bytes(zeros[1]) + b"\1" + b"\xa5" * (width - zeros[1] - 1))
    pyca_key = key_for(algorithm, r_point, s, hashed)
    der = utils.encode_dss_signature(r_point[0], s)
    pyca_key.verify(der, MESSAGE, ec.ECDSA(HASHES[str(algorithm.spec.digest)]))
    raw = r_point[0].to_bytes(width) + s.to_bytes(width)
    assert der_to_p1363(der, algorithm) == raw
    key = PublicKey(pyca_key, algorithm)
    key.verify(MESSAGE, der)
    key.verify(MESSAGE, raw, encoding="P1363")
    if zeros[0]:
        refused(key, MESSAGE, raw[1:], "P1363")
        refused(key, MESSAGE, raw[zeros[0] :], "P1363")


class TestAlgorithmConfusion:
    """A key serves the one algorithm it was bound to (CVE-2022-29217, CVE-2024-33663)."""

    @pytest.mark.parametrize("algorithm", PUBLIC)
    @pytest.mark.parametrize("other", list(Algorithm))
    def test_every_key_with_every_other_algorithm(self, algorithm: Algorithm, other: Algorithm) -> None:
        if algorithm is other:
            return (
                public_key(algorithm).verify(MESSAGE, known_signature(algorithm))
                if other in SIGNING
                else None
            )
        key, sign = made(algorithm)
        try:
            bound = PublicKey(key, other)
        except InvalidArgumentError:
            with pytest.raises(InvalidArgumentError):
                PublicKey.from_spki(spki_of(key), other)
            return None
        assert algorithm.spec.key_type is other.spec.key_type is KeyType.RSA
        if other is Algorithm.RSA_OAEP_256:
            with pytest.raises(KeyUsageError):
                bound.verify(MESSAGE, sign(MESSAGE))
        elif algorithm is Algorithm.RSA_OAEP_256:
            refused(bound, MESSAGE, rsa_key(2048).sign(MESSAGE, padding.PKCS1v15(), hashes.SHA224()))
        else:
            refused(bound, MESSAGE, sign(MESSAGE))
        return None

    @pytest.mark.parametrize("algorithm", SYMMETRIC)
    def test_symmetric_algorithms_have_no_public_key(self, algorithm: Algorithm) -> None:
        secret = spki_of(made(Algorithm.RS256)[0])
        with pytest.raises(InvalidArgumentError, match="symmetric"):
            PublicKey.from_spki(secret, algorithm)
        with pytest.raises(InvalidArgumentError, match="symmetric"):
            PublicKey.from_pem(public_key(Algorithm.RS256).pem(), algorithm)
        with pytest.raises(InvalidArgumentError, match="symmetric"):
            PublicKey.from_jwk({"kty": "oct", "k": "AAAA"}, algorithm)

    @pytest.mark.parametrize("key", [ed448.Ed448PrivateKey.generate(), x25519.X25519PrivateKey.generate()])
    def test_other_kinds_of_key(self, key: ed448.Ed448PrivateKey | x25519.X25519PrivateKey) -> None:
        for algorithm in PUBLIC:
            with pytest.raises(InvalidArgumentError):
                PublicKey.from_spki(spki_of(key.public_key()), algorithm)

    def test_ed25519_is_not_ed25519ph(self) -> None:
        private = ed25519.Ed25519PrivateKey.generate()
        signature = private.sign(hashlib.sha512(MESSAGE).digest())
        refused(PublicKey(private.public_key(), "Ed25519"), MESSAGE, signature)

    def test_ml_dsa_context_is_empty(self) -> None:
        private = mldsa.MLDSA65PrivateKey.generate()
        refused(PublicKey(private.public_key(), "ML-DSA-65"), MESSAGE, private.sign(MESSAGE, b"context"))


ED25519_PRIME = 2**255 - 19
ED25519_D = -121665 * pow(121666, -1, ED25519_PRIME) % ED25519_PRIME
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


def edwards_add(p: Point, q: Point) -> Point:
    product = ED25519_D * p[0] * q[0] * p[1] * q[1] % ED25519_PRIME
    x = (p[0] * q[1] + p[1] * q[0]) * pow(1 + product, -1, ED25519_PRIME)
    y = (p[1] * q[1] + p[0] * q[0]) * pow(1 - product, -1, ED25519_PRIME)
    return x % ED25519_PRIME, y % ED25519_PRIME


def edwards_multiply(factor: int, point: Point) -> Point:
    total = (0, 1)
    while factor:
        if factor & 1:
            total = edwards_add(total, point)
        point = edwards_add(point, point)
        factor >>= 1
    return total


def edwards_x(y: int) -> int | None:
    square = (y * y - 1) * pow(ED25519_D * y * y + 1, -1, ED25519_PRIME) % ED25519_PRIME
    x = pow(square, (ED25519_PRIME + 3) // 8, ED25519_PRIME)
    if x * x % ED25519_PRIME != square:
        x = x * pow(2, (ED25519_PRIME - 1) // 4, ED25519_PRIME) % ED25519_PRIME
    return x if x * x % ED25519_PRIME == square else None


@cache
def torsion() -> frozenset[Point]:
    """The eight points of small order, found by clearing the large order from points of the full group."""
    found: set[Point] = set()
    y = 2
    while len(found) < 8:
        if (x := edwards_x(y)) is not None:
            generator = edwards_multiply(ED25519_ORDER, (x, y))
            found |= {edwards_multiply(factor, generator) for factor in range(8)}
        y += 1
    return frozenset(found)


def small_order_encodings() -> list[bytes]:
    """Every 32 bytes that OpenSSL or another decoder may read as a point of small order."""
    encodings: set[int] = set()
    for _, y in torsion():
        for spelt in {y, y + ED25519_PRIME} if y < 19 else {y}:
            encodings |= {spelt, spelt | 1 << 255}
    return [number.to_bytes(32, "little") for number in sorted(encodings)]


class TestEd25519:
    def test_the_eight_points_have_fourteen_encodings(self) -> None:
        assert len(torsion()) == 8
        assert len(small_order_encodings()) == 14

    @pytest.mark.parametrize("encoded", small_order_encodings(), ids=bytes.hex)
    def test_small_order_points_are_refused(self, encoded: bytes) -> None:
        with pytest.raises(InvalidArgumentError, match="small order"):
            PublicKey(ed25519.Ed25519PublicKey.from_public_bytes(encoded), "Ed25519")
        with pytest.raises(InvalidArgumentError, match="small order"):
            PublicKey.from_spki(bytes.fromhex("302a300506032b6570032100") + encoded, "Ed25519")

    def test_the_universal_signature_is_why(self) -> None:
        identity = (1).to_bytes(32, "little")
        universal = identity + bytes(32)
        for message in (b"pay 1", b"pay 1000000"):
            ed25519.Ed25519PublicKey.from_public_bytes(identity).verify(universal, message)
        refused(public_key(Algorithm.ED25519), b"pay 1", universal)

    @pytest.mark.parametrize("y", range(ED25519_PRIME, 2**255))
    def test_second_encodings_are_refused(self, y: int) -> None:
        for sign in (0, 1 << 255):
            key = ed25519.Ed25519PublicKey.from_public_bytes((y | sign).to_bytes(32, "little"))
            with pytest.raises(InvalidArgumentError, match="not canonically encoded"):
                PublicKey(key, "Ed25519")

    def test_points_off_the_curve_verify_nothing(self) -> None:
        off = next(y for y in range(2, 100) if edwards_x(y) is None)
        key = ed25519.Ed25519PublicKey.from_public_bytes(off.to_bytes(32, "little"))
        refused(PublicKey(key, "Ed25519"), MESSAGE, (1).to_bytes(32, "little") + bytes(32))

    def test_s_beyond_the_order_is_refused(self) -> None:
        good = known_signature(Algorithm.ED25519)
        s = int.from_bytes(good[32:], "little") + ED25519_ORDER
        refused(public_key(Algorithm.ED25519), MESSAGE, good[:32] + s.to_bytes(32, "little"))

    def test_rfc_8032_vector(self) -> None:
        key = ed25519.Ed25519PublicKey.from_public_bytes(
            bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
        )
        signature = bytes.fromhex(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        )
        PublicKey(key, "Ed25519").verify(b"\x72", signature)
        refused(PublicKey(key, "Ed25519"), b"\x73", signature)


class TestSerialisation:
    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_every_form_gives_the_same_key(self, algorithm: Algorithm) -> None:
        key = public_key(algorithm)
        assert key.spki == spki_of(made(algorithm)[0])
        assert key.fingerprint == hashlib.sha256(key.spki).hexdigest()
        assert spki_of(load_pem_public_key(key.pem().encode())) == key.spki
        pem, text = key.pem(), json.dumps(key.jwk())
        copies = [
            PublicKey.from_spki(memoryview(key.spki), str(algorithm)),
            PublicKey.from_pem(pem, algorithm),
            PublicKey.from_pem(bytearray(pem.encode()), algorithm),
            PublicKey.from_pem("\n" + pem.replace("\n", "\r\n") + "\n", algorithm),
            PublicKey.from_jwk(key.jwk(), algorithm),
            PublicKey.from_jwk(text, algorithm),
            PublicKey.from_jwk(text.encode(), algorithm),
            pickle.loads(pickle.dumps(key)),  # noqa: S301 # our own bytes
            copy.deepcopy(key),
        ]
        for other in copies:
            assert other == key
            assert hash(other) == hash(key)
            assert (other.spki, other.algorithm, other.key_size) == (key.spki, algorithm, key.key_size)

    def test_equality_includes_the_algorithm(self) -> None:
        one = rsa_key(4096).public_key()
        assert PublicKey(one, "RS256") != PublicKey(one, "PS256")
        assert PublicKey(one, "RS256") == PublicKey(one, "RS256")
        assert PublicKey(one, "RS256") != "RS256"
        assert len({PublicKey(one, "RS256"), PublicKey(one, "PS256"), PublicKey(one, "RS256")}) == 2

    def test_a_key_cannot_be_changed(self) -> None:
        key = public_key(Algorithm.ES256)
        for name in ("algorithm", "spki", "fingerprint", "key_size", "other"):
            with pytest.raises(AttributeError):
                setattr(key, name, None)
        key.jwk()["kty"] = "oct"
        assert key.jwk()["kty"] == "EC"

    def test_repr_names_the_key(self) -> None:
        key = public_key(Algorithm.ES256)
        assert repr(key) == f"<PublicKey ES256 sha256:{key.fingerprint}>"

    @pytest.mark.parametrize("algorithm", CURVES)
    def test_compressed_points_are_read_and_written_uncompressed(self, algorithm: Algorithm) -> None:
        key = public_key(algorithm)
        point = made(algorithm)[0].public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        compressed = ec_spki(CURVES[algorithm], point)
        assert PublicKey.from_spki(compressed, algorithm) == key
        assert PublicKey.from_spki(compressed, algorithm).spki == key.spki

    @pytest.mark.parametrize("algorithm", CURVES)
    def test_points_in_other_forms_are_refused(self, algorithm: Algorithm) -> None:
        point = made(algorithm)[0].public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        hybrid = bytes([6 | point[-1] & 1]) + point[1:]
        for wrong in (hybrid, b"\0", point[1:], point + b"\0", point[:-1], point[:1] + bytes(len(point) - 1)):
            with pytest.raises(InvalidArgumentError):
                PublicKey.from_spki(ec_spki(CURVES[algorithm], wrong), algorithm)

    def test_a_pss_only_key_is_not_widened(self) -> None:
        spki = public_key(Algorithm.PS256).spki
        header = bytes.fromhex("300d06092a864886f70d0101010500")
        pss = bytes.fromhex("300b06092a864886f70d01010a")
        assert spki[4 : 4 + len(header)] == header
        body = pss + spki[4 + len(header) :]
        for algorithm in (Algorithm.RS256, Algorithm.PS256):
            with pytest.raises(InvalidArgumentError, match="canonical"):
                PublicKey.from_spki(b"\x30\x82" + len(body).to_bytes(2) + body, algorithm)

    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_damaged_spki_is_refused(self, algorithm: Algorithm) -> None:
        spki = public_key(algorithm).spki
        for wrong in (b"", spki[:-1], spki + b"\0", b"\0" + spki, spki * 2, spki[:10], bytes(10_000)):
            with pytest.raises(InvalidArgumentError):
                PublicKey.from_spki(wrong, algorithm)

    @given(data=st.data(), algorithm=st.sampled_from([*CURVES, Algorithm.ED25519, Algorithm.RS256]))
    def test_altered_spki_is_refused_or_another_canonical_key(
        self, data: st.DataObject, algorithm: Algorithm
    ) -> None:
        altered = bytearray(public_key(algorithm).spki)
        altered[data.draw(st.integers(0, len(altered) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        try:
            key = PublicKey.from_spki(altered, algorithm)
        except InvalidArgumentError:
            return
        assert key.spki == altered
        assert key != public_key(algorithm)

    def test_private_keys_are_refused_and_not_echoed(self) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            pem = private.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
            for text in (pem, PublicKey(private.public_key(), "ES256").pem() + pem):
                with pytest.raises(InvalidArgumentError, match="private key") as caught:
                    PublicKey.from_pem(text, "ES256")
                assert pem.splitlines()[1][:16] not in str(caught.value)
            der = private.private_bytes(Encoding.DER, form, NoEncryption())
            with pytest.raises(InvalidArgumentError) as caught:
                PublicKey.from_spki(der, "ES256")
            assert caught.value.__cause__ is None

    def test_pem_is_one_public_key_block(self) -> None:
        pem = public_key(Algorithm.ES256).pem()
        lines = pem.splitlines()
        wrong = [
            "",
            pem + pem,
            "text\n" + pem,
            pem + "text",
            pem.replace("PUBLIC KEY", "CERTIFICATE"),
            pem.replace("PUBLIC KEY", "RSA PUBLIC KEY"),
            pem.replace("-----END PUBLIC KEY-----", ""),
            "\n".join([lines[0], "Proc-Type: 4,ENCRYPTED", "", *lines[1:]]),
            "\n".join([lines[0], "!" + lines[1], *lines[2:]]),
            "\n".join([lines[0], lines[1][:-1], *lines[2:]]),
            "\n".join([lines[0], "=", lines[-1]]),
            pem.replace("A", "\u0410", 1),
            lines[0] + "\n" + "A" * 20_000 + "\n" + lines[-1],
        ]
        for text in wrong:
            with pytest.raises(InvalidArgumentError):
                PublicKey.from_pem(text, "ES256")
        with pytest.raises(TypeError, match="PEM is bytes"):
            PublicKey.from_pem(7, "ES256")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test


def ec_spki(curve: ec.EllipticCurve, point: bytes) -> bytes:
    """SPKI around any bytes in place of the point, with the header taken from pyca's own."""
    whole = spki_of(ec.derive_private_key(1, curve).public_key())
    known = ec.derive_private_key(1, curve).public_key()
    tail = b"\0" + known.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    start = whole.index(b"\x30", 1)
    algorithm = whole[start : start + 2 + whole[start + 1]]
    assert whole.endswith(tail)
    return der_sequence(algorithm + b"\x03" + der_length(1 + len(point)) + b"\0" + point)


class TestJWK:
    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_members(self, algorithm: Algorithm) -> None:
        jwk = public_key(algorithm).jwk()
        named = {
            KeyType.RSA: {"n", "e"},
            KeyType.EC: {"crv", "x", "y"},
            KeyType.OKP: {"crv", "x"},
            KeyType.AKP: {"pub"},
        }[algorithm.spec.key_type]
        assert jwk.keys() == {"kty", "alg", "kid"} | named
        assert jwk["alg"] == algorithm
        assert jwk["kty"] == algorithm.spec.key_type
        assert jwk.get("crv") == algorithm.spec.curve
        assert not any("=" in value or "+" in value or "/" in value for value in jwk.values())

    def test_rfc_7638_thumbprint(self) -> None:
        jwk = {
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJEC"
            "PebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY36"
            "8QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lF"
            "d2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
            "alg": "RS256",
            "kid": "2011-04-29",
        }
        key = PublicKey.from_jwk(jwk, "RS256")
        assert key.jwk() == {**jwk, "kid": "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"}

    def test_rfc_8037_thumbprint(self) -> None:
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
        key = PublicKey.from_jwk({**jwk, "alg": "EdDSA"}, "Ed25519")
        assert key.jwk() == {**jwk, "alg": "Ed25519", "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"}

    def test_rfc_7515_es256_signature(self) -> None:
        key = PublicKey.from_jwk(
            {
                "kty": "EC",
                "crv": "P-256",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            },
            "ES256",
        )
        message = (
            b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNv"
            b"bS9pc19yb290Ijp0cnVlfQ"
        )
        signature = bytes.fromhex(
            "0ed1215379636c483c2f7f155807d402a3b228033af97c7e17819ac3169ea665"
            "c50a07d38c3c70e5d8f12daf084a5480a66590c5f293509a8f3f7f8a83a354d5"
        )
        key.verify(message, signature, encoding="P1363")
        refused(key, message + b".", signature, "P1363")

    @pytest.mark.parametrize("algorithm", PUBLIC)
    @pytest.mark.parametrize(
        "alg", ["none", "None", "HS256", "RSA1_5", "RSA-OAEP", "", None, 7, ["ES256"], *Algorithm]
    )
    def test_its_alg_confirms_and_never_chooses(self, algorithm: Algorithm, alg: object) -> None:
        jwk = {**public_key(algorithm).jwk(), "alg": alg}
        if alg == algorithm:
            assert PublicKey.from_jwk(jwk, algorithm) == public_key(algorithm)
        else:
            with pytest.raises(InvalidArgumentError, match="alg is not"):
                PublicKey.from_jwk(jwk, algorithm)

    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_alg_may_be_left_out_unless_it_is_the_key_type(self, algorithm: Algorithm) -> None:
        jwk = public_key(algorithm).jwk()
        del jwk["alg"]
        if algorithm.spec.key_type is KeyType.AKP:
            with pytest.raises(InvalidArgumentError, match="RFC 9964"):
                PublicKey.from_jwk(jwk, algorithm)
        else:
            assert PublicKey.from_jwk(jwk, algorithm) == public_key(algorithm)

    @pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"])
    def test_private_keys_are_refused_and_not_echoed(self, member: str) -> None:
        for algorithm in PUBLIC:
            jwk = {**public_key(algorithm).jwk(), member: "c2VjcmV0LXNlY3JldA"}
            with pytest.raises(InvalidArgumentError, match="private or symmetric") as caught:
                PublicKey.from_jwk(json.dumps(jwk), algorithm)
            assert "c2VjcmV0" not in str(caught.value)

    def test_use_and_operations_must_allow_it(self) -> None:
        signs, encrypts = public_key(Algorithm.ES256), public_key(Algorithm.RSA_OAEP_256)
        for key, allowed in ((signs, {"use": "sig"}), (signs, {"key_ops": ["verify"]})):
            assert PublicKey.from_jwk({**key.jwk(), **allowed}, "ES256") == key
        wrong: list[dict[str, object]] = [{"use": "enc"}, {"use": 1}, {"key_ops": []}, {"key_ops": "verify"}]
        wrong.append({"key_ops": ["sign"]})
        for refused_member in wrong:
            with pytest.raises(InvalidArgumentError, match=r"not allow"):
                PublicKey.from_jwk({**signs.jwk(), **refused_member}, "ES256")
        for member in ({"use": "enc"}, {"key_ops": ["wrapKey"]}, {"key_ops": ["encrypt", "wrapKey"]}):
            assert PublicKey.from_jwk({**encrypts.jwk(), **member}, "RSA-OAEP-256") == encrypts
        for member in ({"use": "sig"}, {"key_ops": ["verify"]}):
            with pytest.raises(InvalidArgumentError):
                PublicKey.from_jwk({**encrypts.jwk(), **member}, "RSA-OAEP-256")

    @pytest.mark.parametrize("algorithm", PUBLIC)
    def test_each_required_member_missing_or_spelt_otherwise(self, algorithm: Algorithm) -> None:
        jwk = public_key(algorithm).jwk()
        for member in set(jwk) - {"alg", "kid"}:
            value = jwk[member]
            wrong: list[object] = ["", value + "=", value + "A", value[:-1], "\u00e9", " " + value, None, 7]
            wrong += [value + "\n", "AA" + value, value[:5] + "+" + value[6:], [value]]
            for other in wrong:
                with pytest.raises(InvalidArgumentError):
                    PublicKey.from_jwk({**jwk, member: other}, algorithm)
            with pytest.raises(InvalidArgumentError):
                PublicKey.from_jwk({k: v for k, v in jwk.items() if k != member}, algorithm)

    def test_a_point_off_the_curve(self) -> None:
        jwk = public_key(Algorithm.ES256).jwk()
        with pytest.raises(InvalidArgumentError):
            PublicKey.from_jwk({**jwk, "y": jwk["x"]}, "ES256")

    def test_a_curve_of_another_algorithm(self) -> None:
        jwk = public_key(Algorithm.ES256).jwk()
        del jwk["alg"]
        with pytest.raises(InvalidArgumentError):
            PublicKey.from_jwk({**jwk, "crv": "secp256k1"}, "ES256")
        with pytest.raises(InvalidArgumentError):
            PublicKey.from_jwk(jwk, "ES256K")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "null",
            "{",
            "[" * 60_000,
            '{"kty":"EC","kty":"EC"}',
            " " * 70_000,
            b"\xff\xfe\x00",
            b'{"kty":"\xff"}',
            '{"keys":[]}',
        ],
        ids=range(10),
    )
    def test_text_that_is_no_jwk(self, text: str | bytes) -> None:
        with pytest.raises(InvalidArgumentError):
            PublicKey.from_jwk(text, "ES256")

    def test_members_given_twice_are_refused(self) -> None:
        text = json.dumps(public_key(Algorithm.ES256).jwk())
        with pytest.raises(InvalidArgumentError, match="once"):
            PublicKey.from_jwk(text[:-1] + ', "alg": "ES256"}', "ES256")

    def test_another_type_is_a_type_error(self) -> None:
        with pytest.raises(TypeError):
            PublicKey.from_jwk(7, "ES256")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test
