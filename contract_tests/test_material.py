"""The emulators' cryptography, held to published vectors and to pyca from the exported public key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
    digest,
)


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
