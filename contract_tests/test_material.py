"""The emulators' cryptography, held to published vectors and to pyca from the exported public key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from anykms_emulators import Clock, Faults
from anykms_emulators.material import (
    CurveName,
    DecryptionError,
    EcKey,
    Ed25519Key,
    MlDsaKey,
    MlKemKey,
    RsaKey,
    SecretKey,
    X25519Key,
    digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_rsa_pss_salt_is_the_digest_length() -> None:
    key = RsaKey.generate(2048)
    public = serialization.load_der_public_key(key.public_der())
    assert isinstance(public, rsa.RSAPublicKey)
    signature = key.sign(digest("SHA-384", b"message"), "SHA-384", "PSS", prehashed=True)
    public.verify(signature, b"message", padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    with pytest.raises(InvalidSignature):
        public.verify(
            signature,
            b"message",
            padding.PSS(padding.MGF1(hashes.SHA384()), 206),
            hashes.SHA384(),
        )
    other_salt = key.private.sign(b"message", padding.PSS(padding.MGF1(hashes.SHA384()), 20), hashes.SHA384())
    assert not key.verify(other_salt, b"message", "SHA-384", "PSS")


def test_rsa_keys_are_never_shared() -> None:
    first, second = RsaKey.generate(2048), RsaKey.generate(2048)
    assert first.public_numbers().n != second.public_numbers().n
    assert first.public_der() == first.public_der()


def test_rsa_oaep_is_read_by_pyca_and_refuses_damage() -> None:
    key = RsaKey.generate(2048)
    assert key.oaep_limit("SHA-256") == 190
    public = serialization.load_der_public_key(key.public_der())
    assert isinstance(public, rsa.RSAPublicKey)
    sealed = public.encrypt(b"x" * 190, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    assert key.oaep_decrypt(sealed, "SHA-256") == b"x" * 190
    with pytest.raises(DecryptionError):
        key.oaep_decrypt(sealed, "SHA-1")
    with pytest.raises(DecryptionError):
        key.oaep_decrypt(b"short", "SHA-256")


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521", "secp256k1"])
def test_ec_signature_forms(curve: CurveName) -> None:
    key = EcKey.generate(curve)
    public = serialization.load_der_public_key(key.public_der())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    signature = key.sign(b"message", "SHA-256")
    public.verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
    raw = key.to_raw(signature)
    assert len(raw) == 2 * key.field_bytes
    assert key.from_raw(raw) == signature
    with pytest.raises(ValueError, match="raw signature"):
        key.from_raw(b"\0" + raw)


def test_ed25519ph_rfc8032_vector() -> None:
    # RFC 8032 section 7.3, TEST abc
    seed = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
    key = Ed25519Key(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    signature = key.sign_ph(b"abc")
    assert signature.hex() == (
        "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41"
        "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"
    )
    assert key.verify_ph(signature, b"abc")
    assert not key.verify_ph(signature, b"abd")
    assert not key.verify(signature, b"abc")


def test_aes_key_wrap_rfc3394_vector() -> None:
    # RFC 3394 section 4.6: 256 bits of key data with a 256-bit KEK
    kek = SecretKey(bytes(range(32)))
    data = bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
    wrapped = kek.wrap(data, padded=False)
    assert wrapped.hex() == (
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    )
    assert kek.unwrap(wrapped, padded=False) == data
    with pytest.raises(DecryptionError):
        kek.unwrap(bytes(40), padded=True)


def test_aes_key_wrap_with_padding_rfc5649_vector() -> None:
    # RFC 5649 section 6: 20 octets of key data with a 192-bit KEK
    kek = SecretKey(bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"))
    data = bytes.fromhex("c37b7e6492584340bed12207808941155068f738")
    wrapped = kek.wrap(data, padded=True)
    assert wrapped.hex() == "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"
    assert kek.unwrap(wrapped, padded=True) == data
    with pytest.raises(DecryptionError):
        kek.unwrap(wrapped[:-8], padded=False)


def test_aes_block_modes_sp800_38a_vectors() -> None:
    # NIST SP 800-38A sections F.2.5 and F.5.5, first block
    key = SecretKey(bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"))
    block = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    iv = bytes(range(16))
    assert key.cbc_encrypt(block, iv, pkcs7=False).hex() == "f58c4c04d6e5f1ba779eabfb5f7bfbd6"
    assert key.ctr(block, bytes(range(0xF0, 0x100))).hex() == "601ec313775789a5b7a7f504bbf3d228"
    for text in (b"", b"x" * 15, block, b"x" * 17):
        assert key.cbc_decrypt(key.cbc_encrypt(text, iv, pkcs7=True), iv, pkcs7=True) == text
    with pytest.raises(ValueError, match="multiple of the block"):
        key.cbc_encrypt(b"x", iv, pkcs7=False)
    for damaged, pkcs7 in ((b"x", False), (b"", True), (key.cbc_encrypt(block, iv, pkcs7=False), True)):
        with pytest.raises(DecryptionError):
            key.cbc_decrypt(damaged, iv, pkcs7=pkcs7)


def test_secret_keys_compare_and_count() -> None:
    key = SecretKey.generate(24)
    assert len(key) == 24
    assert key.same_as(SecretKey(key.raw()))
    assert not key.same_as(SecretKey.generate(24))
    with pytest.raises(ValueError, match="at least 1 byte"):
        SecretKey(b"")


def test_rsa_pkcs1() -> None:
    key = RsaKey.generate(2048)
    assert key.pkcs1_decrypt(key.pkcs1_encrypt(b"text")) == b"text"
    public = serialization.load_der_public_key(key.public_der())
    assert isinstance(public, rsa.RSAPublicKey)
    digest_info = bytes.fromhex("3031300d060960864801650304020105000420") + digest("SHA-256", b"m")
    assert key.sign_raw_pkcs1(digest_info) == key.sign(b"m", "SHA-256", "PKCS1")


def test_private_keys_come_back_from_their_forms() -> None:
    first = RsaKey.generate(2048)
    assert RsaKey.from_pkcs8(first.pkcs8()).public_der() == first.public_der()
    numbers = first.private.private_numbers()
    again = RsaKey.from_numbers(
        numbers.public_numbers.n, numbers.public_numbers.e, numbers.d, numbers.p, numbers.q
    )
    assert again.public_der() == first.public_der()
    point = EcKey.generate("P-521")
    scalar = point.private.private_numbers().private_value
    assert EcKey.from_scalar("P-521", scalar).public_numbers() == point.public_numbers()
    assert EcKey.from_pkcs8(point.pkcs8()).curve == "P-521"
    edwards = Ed25519Key.generate()
    assert Ed25519Key.from_pkcs8(edwards.pkcs8()).public_der() == edwards.public_der()


@pytest.mark.parametrize("load", [RsaKey.from_pkcs8, EcKey.from_pkcs8, Ed25519Key.from_pkcs8])
def test_what_is_no_private_key_is_refused(load: Callable[[bytes], object]) -> None:
    other = MlDsaKey.generate("ML-DSA-44").private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for der in (b"", b"\x30\x03\x02\x01\x00", other):
        with pytest.raises(ValueError, match="private key"):
            load(der)
    with pytest.raises(ValueError, match="not 1024"):
        RsaKey.generate(1024)


def test_x25519_agreement() -> None:
    one, two = X25519Key.generate(), X25519Key.generate()
    assert one.agree(two.public_raw()) == two.agree(one.public_raw())
    assert one.public_der().endswith(one.public_raw())
    with pytest.raises(ValueError, match="shared key"):
        one.agree(bytes(32))


def test_aes_gcm_refuses_every_changed_part() -> None:
    key, nonce = SecretKey.generate(32), bytes(12)
    sealed = key.seal(b"text", b"aad", nonce)
    assert key.open(sealed, b"aad", nonce) == b"text"
    for args in (
        (sealed[:-1], b"aad", nonce),
        (sealed, b"aae", nonce),
        (sealed, b"aad", b"\1" * 12),
        (b"", b"aad", nonce),
    ):
        with pytest.raises(DecryptionError):
            key.open(*args)


def test_post_quantum_round_trips() -> None:
    signer = MlDsaKey.generate("ML-DSA-44")
    assert signer.verify(signer.sign(b"message"), b"message")
    assert not signer.verify(signer.sign(b"message"), b"massage")
    kem = MlKemKey.generate("ML-KEM-768")
    secret, ciphertext = kem.encapsulate()
    assert kem.decapsulate(ciphertext) == secret


def test_no_key_has_a_telling_repr() -> None:
    key = SecretKey(b"0123456789abcdef")
    assert "0123" not in repr(key)


def test_clock_stands_still_where_it_was_set() -> None:
    clock = Clock(datetime(2030, 1, 1, tzinfo=UTC))
    assert clock.now() == clock.now() == datetime(2030, 1, 1, tzinfo=UTC)
    clock.advance(timedelta(days=7))
    assert clock.now() == datetime(2030, 1, 8, tzinfo=UTC)
    with pytest.raises(ValueError, match="goes forward"):
        clock.advance(timedelta(days=-1))
    with pytest.raises(ValueError, match="with its zone"):
        clock.set(datetime(2030, 1, 1))


def test_faults_count_calls_of_their_operation() -> None:
    faults = Faults()
    second = faults.add("Encrypt", after=1, times=1)
    every = faults.add(times=None, kind="delay")
    assert faults.take("Decrypt") is every
    assert faults.take("Encrypt") is every
    assert faults.take("Encrypt") is second
    assert faults.pending == (every,)
    faults.clear()
    assert faults.take("Encrypt") is None
