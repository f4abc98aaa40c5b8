"""Key.sign, Key.verify and the public key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from anykms.algorithms import Algorithm, KeyType
from anykms.errors import (
    IntegrityError,
    InvalidArgumentError,
    InvalidSignatureError,
    KeyDisabledError,
    KeyUsageError,
    UnavailableError,
    UnsupportedOperationError,
)
from anykms.keys import KeyState, KeyStatus
from anykms.provider import Operation, SignatureEncoding
from anykms.signing import PublicKey, der_to_p1363, p1363_to_der
from anykms_contract.clauses import Contract, each, of_kinds, refuses
from anykms_contract.harness import SIGNING_KINDS, Harness, KeyKind
from anykms_contract.payloads import FORMS, NOT_BYTES, Form, cut, flipped

_MESSAGE = b"v1.2.0"
_Hash: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
_HASHES: Final[dict[str, _Hash]] = {
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
_ECDSA = [kind for kind in SIGNING_KINDS if kind.algorithm.spec.coordinate_size]
_RSA = [kind for kind in SIGNING_KINDS if kind.key_size]
_PSS = [kind for kind in _RSA if kind.algorithm.startswith("PS")]
_DIGESTED = [kind for kind in SIGNING_KINDS if kind.algorithm.spec.prehashable]
_WHOLE = [kind for kind in SIGNING_KINDS if not kind.algorithm.spec.prehashable]

_FAULTY: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "flipped": lambda signature: signature[:-1] + bytes([signature[-1] ^ 1]),
    "empty": lambda signature: b"",
    "cut": lambda signature: signature[:-1],
    "longer": lambda signature: signature + b"\0",
}


class SigningContract(Contract):
    """Digital signatures."""

    @of_kinds(SIGNING_KINDS)
    def test_a_signature_verifies_everywhere(self, harness: Harness, kind: KeyKind) -> None:
        """C5.1: A signature verifies by the key, by its public key alone, and in another library."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        public_key = key.public_key()
        signature = key.sign(_MESSAGE)
        assert isinstance(signature, bytes)
        harness.connect().key(info).verify(_MESSAGE, signature)
        public_key.verify(_MESSAGE, signature)
        verify_with_pyca(public_key.spki, kind.algorithm, _MESSAGE, signature)

    @of_kinds(SIGNING_KINDS)
    def test_the_public_key_is_the_pinned_one(self, harness: Harness, kind: KeyKind) -> None:
        """C1.5, C5.2: The public key is canonical SPKI, whose SHA-256 is the KeyInfo's fingerprint and the
        version's.
        """
        info = harness.shared(kind)
        if info is None:
            return
        public_key = harness.main.key(info).public_key()
        assert hashlib.sha256(public_key.spki).hexdigest() == info.fingerprint == public_key.fingerprint
        loaded = load_der_public_key(public_key.spki)
        assert loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public_key.spki
        assert public_key.algorithm is kind.algorithm
        assert public_key.key_size == kind.key_size
        (version,) = harness.main.client.describe_key(info).versions or (None,)
        assert version is None or version.fingerprint == info.fingerprint

    @of_kinds(SIGNING_KINDS)
    def test_the_public_key_survives_every_encoding(self, harness: Harness, kind: KeyKind) -> None:
        """C5.2: SPKI, PEM and JWK give the same public key back."""
        info = harness.shared(kind)
        if info is None:
            return
        public_key = harness.main.key(info).public_key()
        algorithm = kind.algorithm
        assert PublicKey.from_spki(public_key.spki, algorithm) == public_key
        assert PublicKey.from_pem(public_key.pem(), algorithm) == public_key
        assert PublicKey.from_jwk(public_key.jwk(), algorithm) == public_key

    @of_kinds(SIGNING_KINDS)
    def test_another_message_or_key_is_refused(self, harness: Harness, kind: KeyKind) -> None:
        """C5.3: A signature belongs to one message and one key; else InvalidSignatureError."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        signature = key.sign(_MESSAGE)
        for message in (_MESSAGE + b"\0", _MESSAGE[:-1], b"\0" + _MESSAGE):
            with pytest.raises(InvalidSignatureError) as caught:
                key.verify(message, signature)
            assert type(caught.value) is InvalidSignatureError
        stranger = _own_public_key(kind)
        with pytest.raises(InvalidSignatureError):
            stranger.verify(_MESSAGE, signature)

    @of_kinds(SIGNING_KINDS)
    def test_a_damaged_signature_is_refused(self, harness: Harness, kind: KeyKind) -> None:
        """C5.3: A signature flipped anywhere, cut, over-padded or empty is InvalidSignatureError, in one text."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        signature = key.sign(_MESSAGE)
        texts: set[str] = set()
        for damaged in (*_flips(signature), *_cuts(signature), *_padded(signature)):
            with pytest.raises(InvalidSignatureError) as caught:
                key.verify(_MESSAGE, damaged)
            assert type(caught.value) is InvalidSignatureError
            texts.add(str(caught.value))
        assert len(texts) == 1

    @of_kinds(_ECDSA)
    def test_ecdsa_signatures_have_two_encodings(self, harness: Harness, kind: KeyKind) -> None:
        """C5.4: DER unless P1363 is asked for: r and s at the curve's exact width. Each converts to the other."""
        info = harness.shared(kind)
        if info is None:
            return
        key, algorithm = harness.main.key(info), kind.algorithm
        width = algorithm.spec.coordinate_size or 0
        for _ in range(harness.signatures):
            der, raw = key.sign(_MESSAGE), key.sign(_MESSAGE, encoding="P1363")
            r, s = utils.decode_dss_signature(der)
            assert utils.encode_dss_signature(r, s) == der
            assert len(raw) == 2 * width
            key.verify(_MESSAGE, raw, encoding="P1363")
            key.verify(_MESSAGE, der_to_p1363(der, algorithm), encoding=SignatureEncoding.P1363)
            key.verify(_MESSAGE, p1363_to_der(raw, algorithm))
            verify_with_pyca(key.public_key().spki, algorithm, _MESSAGE, p1363_to_der(raw, algorithm))

    @of_kinds(_ECDSA)
    def test_leading_zeros_of_r_and_s_are_kept(self, harness: Harness, kind: KeyKind) -> None:
        """C5.4: However short r or s is, DER is minimal and P1363 has its exact width, from either encoding."""
        info = harness.shared(kind)
        if info is None:
            return
        connection = harness.connect()
        width = kind.algorithm.spec.coordinate_size or 0
        private = ec.generate_private_key(_CURVES[str(kind.algorithm.spec.curve)])
        spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        key = connection.key(replace(info, fingerprint=hashlib.sha256(spki).hexdigest()))
        connection.seam.pretend(Operation.GET_PUBLIC_KEY, spki)
        connection.seam.pretend(Operation.DESCRIBE_KEY, _ENABLED)
        for number in (0, 1):  # r, then s
            der = _short_coordinate(private, kind.algorithm, number)
            pair = utils.decode_dss_signature(der)
            raw = b"".join(value.to_bytes(width) for value in pair)
            declared = connection.seam.signature_encoding
            connection.seam.pretend(Operation.SIGN, raw if declared is SignatureEncoding.P1363 else der)
            assert key.sign(_MESSAGE) == der
            assert key.sign(_MESSAGE, encoding="P1363") == raw
            assert p1363_to_der(raw, kind.algorithm) == der
            assert der_to_p1363(der, kind.algorithm) == raw
            key.verify(_MESSAGE, der)
            key.verify(_MESSAGE, raw, encoding="P1363")

    @of_kinds(_ECDSA)
    def test_malformed_ecdsa_signatures_are_refused(self, harness: Harness, kind: KeyKind) -> None:
        """C5.4: DER is minimal and P1363 of exact width; r and s are in 1..n-1. All else is InvalidSignatureError."""
        info = harness.shared(kind)
        if info is None:
            return
        key, width = harness.main.key(info), kind.algorithm.spec.coordinate_size or 0
        der = key.sign(_MESSAGE)
        raw = der_to_p1363(der, kind.algorithm)
        for damaged in _bad_der(der, kind.algorithm):
            with pytest.raises(InvalidSignatureError) as caught:
                key.verify(_MESSAGE, damaged)
            assert type(caught.value) is InvalidSignatureError
        r, s = raw[:width], raw[width:]
        for damaged in (
            b"",
            raw[:-1],
            raw + b"\0",
            b"\0" + raw,
            b"\0" + r + b"\0" + s,
            r[1:] + s[1:],
            bytes(width) + s,
            r + bytes(width),
            bytes(2 * width),
            b"\xff" * (2 * width),
            s + r,
            der,
        ):
            with pytest.raises(InvalidSignatureError) as caught:
                key.verify(_MESSAGE, damaged, encoding="P1363")
            assert type(caught.value) is InvalidSignatureError
        with pytest.raises(InvalidSignatureError):
            key.verify(_MESSAGE, raw)

    @of_kinds(_PSS)
    def test_pss_salts_of_another_length_are_refused(self, harness: Harness, kind: KeyKind) -> None:
        """C5.5: A PSS signature has a salt as long as its digest, when made and when verified."""
        info = harness.shared(kind)
        if info is None:
            return
        connection = harness.connect()
        digest = _HASHES[str(kind.algorithm.spec.digest)]
        private = _own_rsa_key(kind.key_size or 0)
        spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        key = connection.key(replace(info, fingerprint=hashlib.sha256(spki).hexdigest()))
        connection.seam.pretend(Operation.GET_PUBLIC_KEY, spki)
        connection.seam.pretend(Operation.DESCRIBE_KEY, _ENABLED)
        for salt in (0, 20, digest.digest_size - 1, digest.digest_size, digest.digest_size + 1):
            signature = private.sign(_MESSAGE, padding.PSS(padding.MGF1(digest), salt), digest)
            connection.seam.pretend(Operation.SIGN, signature)
            if salt == digest.digest_size:
                key.verify(_MESSAGE, signature)
                assert key.sign(_MESSAGE) == signature
                continue
            with pytest.raises(InvalidSignatureError):
                key.verify(_MESSAGE, signature)
            with pytest.raises(IntegrityError):
                key.sign(_MESSAGE)

    @of_kinds(_RSA)
    def test_rsa_paddings_are_not_confused(self, harness: Harness, kind: KeyKind) -> None:
        """C5.5: A signature by the same RSA key with another padding or digest is InvalidSignatureError."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        spki, signature = key.public_key().spki, key.sign(_MESSAGE)
        for other in SIGNING_KINDS:
            if other.key_size == kind.key_size and other.algorithm is not kind.algorithm:
                with pytest.raises(InvalidSignatureError):
                    PublicKey.from_spki(spki, other.algorithm).verify(_MESSAGE, signature)

    @of_kinds(_DIGESTED)
    def test_a_digest_can_be_brought(self, harness: Harness, kind: KeyKind) -> None:
        """C5.6: prehashed takes the digest itself, of its exact length; the signature is the message's."""
        info = harness.shared(kind)
        if info is None:
            return
        key, spec = harness.main.key(info), kind.algorithm.spec
        digest = hashlib.new(str(spec.digest), _MESSAGE).digest()
        signature = key.sign(digest, prehashed=True)
        key.verify(_MESSAGE, signature)
        key.verify(digest, key.sign(_MESSAGE), prehashed=True)
        with pytest.raises(InvalidSignatureError):
            key.verify(digest, signature)
        with harness.main.quiet():
            for size in {0, 1, 20, 32, 48, 64, len(digest) - 1, len(digest) + 1} - {len(digest)}:
                refuses(
                    InvalidArgumentError,
                    partial(key.sign, bytes(size), prehashed=True),
                    partial(key.verify, bytes(size), signature, prehashed=True),
                )

    @of_kinds(_WHOLE)
    def test_whole_message_algorithms_take_no_digest(self, harness: Harness, kind: KeyKind) -> None:
        """C5.6: prehashed with Ed25519 or ML-DSA is UnsupportedOperationError, unsent."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        with harness.main.quiet():
            refuses(
                UnsupportedOperationError,
                lambda: key.sign(bytes(32), prehashed=True),
                lambda: key.verify(bytes(32), bytes(64), prehashed=True),
            )

    @of_kinds(_WHOLE)
    def test_whole_messages_have_limits(self, harness: Harness, kind: KeyKind) -> None:
        """C2.7: Ed25519 and ML-DSA sign 1 to 4096 bytes; none and 4097 are InvalidArgumentError, unsent."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        for size in (1, 4095, 4096):
            key.verify(bytes(size), key.sign(bytes(size)))
        with harness.main.quiet():
            for size in (0, 4097):
                with pytest.raises(InvalidArgumentError) as caught:
                    key.sign(bytes(size))
                assert type(caught.value) is InvalidArgumentError
                with pytest.raises(InvalidArgumentError):
                    key.verify(bytes(size), bytes(64))

    @of_kinds(_DIGESTED)
    def test_digested_messages_have_any_size(self, harness: Harness, kind: KeyKind) -> None:
        """C2.7: Where a digest is signed the message is hashed here and has any size, none included."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        for size in (0, 4097, 1 << 20):
            key.verify(bytes(size), key.sign(bytes(size)))

    @FORMS
    def test_bytes_like_forms_are_the_same(self, harness: Harness, form: Form) -> None:
        """C2.10: bytes, bytearray and memoryview behave the same."""
        key = harness.main.key(harness.signing_key())
        signature = key.sign(form(_MESSAGE))
        assert isinstance(signature, bytes)
        key.verify(form(_MESSAGE), form(signature))
        key.public_key().verify(form(_MESSAGE), form(signature))

    @NOT_BYTES
    def test_other_types_are_a_type_error(self, harness: Harness, wrong: bytes) -> None:
        """C2.10: What is not bytes-like is TypeError, unsent."""
        key = harness.main.key(harness.signing_key())
        signature = key.sign(_MESSAGE)
        with harness.main.quiet():
            refuses(
                TypeError,
                lambda: key.sign(wrong),
                lambda: key.verify(wrong, signature),
                lambda: key.verify(_MESSAGE, wrong),
            )

    @each("encoding", {"unknown": "der", "empty": "", "jose": "JOSE"})
    def test_unknown_encodings_are_refused_unsent(self, harness: Harness, encoding: str) -> None:
        """C5.9: An encoding is DER or P1363; any other is InvalidArgumentError, unsent."""
        key = harness.main.key(harness.signing_key())
        with harness.main.quiet():
            with pytest.raises(InvalidArgumentError):
                key.sign(_MESSAGE, encoding=encoding)
            with pytest.raises(InvalidArgumentError):
                key.verify(_MESSAGE, bytes(64), encoding=encoding)

    @of_kinds(SIGNING_KINDS)
    def test_certificates_are_signed_by_the_key(self, harness: Harness, kind: KeyKind) -> None:
        """C5.10: pyca's builders sign certificates and requests with the key, and they verify by its public part."""
        info = harness.shared(kind)
        if info is None:
            return
        private = harness.main.key(info).as_private_key()
        own, pads = _x509_hash(kind.algorithm), _x509_padding(kind.algorithm)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anykms contract")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=1))
            .sign(private, own, rsa_padding=pads)
        )
        read = x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER))
        read.verify_directly_issued_by(read)
        spki = harness.main.key(info).public_key().spki
        verify_with_pyca(spki, kind.algorithm, read.tbs_certificate_bytes, read.signature)
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        assert builder.sign(private, own, rsa_padding=pads).is_signature_valid

    @of_kinds(_DIGESTED)
    def test_certificates_are_not_signed_by_another_algorithm(self, harness: Harness, kind: KeyKind) -> None:
        """C5.10: Another hash or padding than the key's is KeyUsageError in pyca's builders, unsent."""
        info = harness.shared(kind)
        if info is None:
            return
        private = harness.main.key(info).as_private_key()
        own = _HASHES[str(kind.algorithm.spec.digest)]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anykms contract")])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        with harness.main.quiet():
            for other in _HASHES.values():
                if other != own:
                    pads = _x509_padding(kind.algorithm, other)
                    refuses(KeyUsageError, partial(builder.sign, private, other, rsa_padding=pads))
            if kind.key_size:
                wrong = (
                    padding.PKCS1v15() if kind in _PSS else padding.PSS(padding.MGF1(own), own.digest_size)
                )
                refuses(KeyUsageError, partial(builder.sign, private, own, rsa_padding=wrong))

    def test_wrapping_keys_do_not_sign(self, harness: Harness) -> None:
        """C1.1: sign, verify and public_key of an ENCRYPT_DECRYPT key are KeyUsageError, unsent."""
        key = harness.main.key(harness.wrapping_key())
        with harness.main.quiet():
            refuses(
                KeyUsageError,
                lambda: key.sign(_MESSAGE),
                lambda: key.verify(_MESSAGE, bytes(64)),
                key.public_key,
            )

    # What the provider answers

    @each("change", _FAULTY)
    def test_a_faulty_signature_is_never_returned(
        self, harness: Harness, change: Callable[[bytes], bytes]
    ) -> None:
        """C5.7: A signature that does not verify with the pinned public key is IntegrityError, not an answer."""
        connection = harness.connect()
        connection.seam.answer(Operation.SIGN, change)
        with pytest.raises(IntegrityError) as caught:
            connection.key(harness.signing_key()).sign(_MESSAGE)
        assert type(caught.value) is IntegrityError

    def test_another_public_key_is_refused(self, harness: Harness) -> None:
        """C5.2: A public key without the pinned fingerprint is IntegrityError in every operation that needs it."""
        info, other = harness.signing_key(), harness.signing_key("second")
        signature = harness.main.key(info).sign(_MESSAGE)
        spki = harness.main.key(other).public_key().spki
        connection = harness.connect()
        connection.seam.answer(Operation.GET_PUBLIC_KEY, lambda _: spki)
        key = connection.key(info)
        refuses(
            IntegrityError,
            key.public_key,
            lambda: key.sign(_MESSAGE),
            lambda: key.verify(_MESSAGE, signature),
        )

    # State

    def test_verification_ends_with_the_key(self, harness: Harness) -> None:
        """C4.1, C5.8: verify and public_key read the state: once disabled both are refused; the public key
        alone goes on.
        """
        info = harness.generate(harness.signing)
        signature = harness.main.key(info).sign(_MESSAGE)
        public_key = harness.main.key(info).public_key()
        watching = harness.connect()
        watching.key(info).verify(_MESSAGE, signature)
        harness.bring(info, KeyState.DISABLED)
        for connection in (harness.connect(), harness.connect(state_ttl=0)):
            with pytest.raises(KeyDisabledError):
                connection.key(info).verify(_MESSAGE, signature)
            with pytest.raises(KeyDisabledError):
                connection.key(info).public_key()
        public_key.verify(_MESSAGE, signature)
        watching.time.now += 61
        with pytest.raises(KeyDisabledError) as caught:
            watching.key(info).verify(_MESSAGE, signature)
        assert type(caught.value) is KeyDisabledError

    def test_a_state_is_read_once_per_ttl(self, harness: Harness) -> None:
        """C4.3: verify believes a status for state_ttl seconds, 60 unless set, and then reads it again."""
        info, connection = harness.signing_key(), harness.connect()
        key = connection.key(info)
        signature = harness.main.key(info).sign(_MESSAGE)
        for _ in range(3):
            key.verify(_MESSAGE, signature)
        assert connection.seam.count(Operation.DESCRIBE_KEY) == 1
        connection.time.now += 59
        key.verify(_MESSAGE, signature)
        assert connection.seam.count(Operation.DESCRIBE_KEY) == 1
        connection.time.now += 2
        key.verify(_MESSAGE, signature)
        assert connection.seam.count(Operation.DESCRIBE_KEY) == 2

    def test_verification_fails_closed(self, harness: Harness) -> None:
        """C4.4: A state that cannot be read is that error, whatever the signature."""
        info, connection = harness.signing_key(), harness.connect()
        signature = harness.main.key(info).sign(_MESSAGE)
        connection.seam.fail(Operation.DESCRIBE_KEY, lambda: UnavailableError("injected"), times=99)
        with pytest.raises(UnavailableError):
            connection.key(info).verify(_MESSAGE, signature)
        connection.seam.heal()
        connection.key(info).verify(_MESSAGE, signature)

    def test_a_public_key_needs_nobody(self, harness: Harness) -> None:
        """C5.8: PublicKey.verify needs neither network nor state."""
        key = harness.main.key(harness.signing_key())
        signature, public_key = key.sign(_MESSAGE), key.public_key()
        with harness.main.quiet():
            public_key.verify(_MESSAGE, signature)
            with pytest.raises(InvalidSignatureError):
                public_key.verify(b"other", signature)


_WholeMessageKey: TypeAlias = (
    ed25519.Ed25519PrivateKey | mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
)
_ENABLED = KeyStatus(state=KeyState.ENABLED)
_own_rsa_keys: dict[int, rsa.RSAPrivateKey] = {}


def _x509_hash(algorithm: Algorithm) -> _Hash | None:
    """What a builder is given for a key of the algorithm: None for Ed25519 and ML-DSA."""
    return _HASHES[algorithm.spec.digest] if algorithm.spec.digest else None


def _x509_padding(algorithm: Algorithm, other: _Hash | None = None) -> padding.PSS | None:
    digest = other or _x509_hash(algorithm)
    if digest is None or not algorithm.startswith("PS"):
        return None
    return padding.PSS(padding.MGF1(digest), digest.digest_size)


def verify_with_pyca(spki: bytes, algorithm: Algorithm, message: bytes, signature: bytes) -> None:
    """Verify as a stranger would who has the exported key and pyca cryptography, and no anykms."""
    key = load_der_public_key(spki)
    digest = _HASHES[algorithm.spec.digest] if algorithm.spec.digest else None
    if isinstance(key, ec.EllipticCurvePublicKey) and digest:
        key.verify(signature, message, ec.ECDSA(digest))
    elif isinstance(key, rsa.RSAPublicKey) and digest:
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        key.verify(signature, message, pss if algorithm.startswith("PS") else padding.PKCS1v15(), digest)
    else:
        assert isinstance(
            key,
            ed25519.Ed25519PublicKey
            | mldsa.MLDSA44PublicKey
            | mldsa.MLDSA65PublicKey
            | mldsa.MLDSA87PublicKey,
        )
        key.verify(signature, message)


def _own_rsa_key(size: int) -> rsa.RSAPrivateKey:
    if size not in _own_rsa_keys:
        _own_rsa_keys[size] = rsa.generate_private_key(65537, size)
    return _own_rsa_keys[size]


def _own_public_key(kind: KeyKind) -> PublicKey:
    """Another public key of the same kind, made here."""
    spec = kind.algorithm.spec
    if spec.key_type is KeyType.RSA:
        return PublicKey(_own_rsa_key(kind.key_size or 0).public_key(), kind.algorithm)
    if spec.key_type is KeyType.EC:
        return PublicKey(ec.generate_private_key(_CURVES[str(spec.curve)]).public_key(), kind.algorithm)
    generate: dict[Algorithm, Callable[[], _WholeMessageKey]] = {
        Algorithm.ED25519: ed25519.Ed25519PrivateKey.generate,
        Algorithm.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
        Algorithm.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
        Algorithm.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
    }
    return PublicKey(generate[kind.algorithm]().public_key(), kind.algorithm)


def _short_coordinate(private: ec.EllipticCurvePrivateKey, algorithm: Algorithm, number: int) -> bytes:
    """A DER signature whose r (0) or s (1) has a leading zero byte at the curve's width."""
    spec = algorithm.spec
    bits = 8 * (spec.coordinate_size or 0) - 8
    digest = _HASHES[str(spec.digest)]
    while True:
        signature = private.sign(_MESSAGE, ec.ECDSA(digest))
        if utils.decode_dss_signature(signature)[number].bit_length() <= bits:
            return signature


def _bad_der(der: bytes, algorithm: Algorithm) -> Iterator[bytes]:
    r, s = utils.decode_dss_signature(der)
    order = _CURVES[str(algorithm.spec.curve)].group_order
    for pair in ((0, s), (r, 0), (0, 0), (r + order, s), (r, s + order), (order, s), (r, order), (s, r)):
        yield utils.encode_dss_signature(*pair)
    body = der[2:] if der[1] < 0x80 else der[3:]
    yield b"\x30\x82" + len(body).to_bytes(2) + body  # a length longer than need be
    yield b"\x30\x80" + body + b"\0\0"  # indefinite length, which is BER
    yield b"\x31" + der[1:]
    integers = [b"\x02" + bytes([len(value)]) + value for value in (_minimal(r), _minimal(s))]
    padded = b"\x02" + bytes([len(_minimal(r)) + 1]) + b"\0" + _minimal(r)
    for parts in ([padded, integers[1]], [*integers, b"\x02\x01\x00"], [integers[0]], [*integers, b"\0"]):
        joined = b"".join(parts)
        yield (
            b"\x30" + bytes([len(joined)]) if len(joined) < 0x80 else b"\x30\x81" + bytes([len(joined)])
        ) + joined


def _minimal(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1)


def _flips(signature: bytes) -> Iterator[bytes]:
    """Every byte of a short signature; of a long one its ends and every 16th byte."""
    for index, damaged in flipped(signature):
        if len(signature) <= 150 or index < 16 or index >= len(signature) - 16 or index % 16 == 0:
            yield damaged


def _cuts(signature: bytes) -> Iterator[bytes]:
    for damaged in cut(signature):
        if len(signature) <= 150 or len(damaged) % 64 in (0, 63):
            yield damaged


def _padded(signature: bytes) -> Iterator[bytes]:
    yield signature + b"\0"
    yield b"\0" + signature
    yield signature + signature
    yield signature.rjust(8192, b"\0")
