"""Key.decrypt: what others encrypted to the public key."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from anykms.algorithms import oaep_max_plaintext
from anykms.errors import InvalidArgumentError, InvalidCiphertextError, KeyUsageError
from anykms.provider import Operation
from anykms_contract.clauses import Contract, each, of_kinds
from anykms_contract.harness import DECRYPTION_KINDS, OAEP, Harness, KeyKind
from anykms_contract.payloads import FORMS, NOT_BYTES, Form

_LONGEST = {2048: 190, 3072: 318, 4096: 446}


class AsymmetricDecryptionContract(Contract):
    """RSA-OAEP with SHA-256, MGF1 with SHA-256 and no label."""

    @of_kinds(DECRYPTION_KINDS)
    def test_plaintexts_of_every_size_come_back(self, harness: Harness, kind: KeyKind) -> None:
        """C2.9, C7.1: 1 byte to the longest that the modulus takes, encrypted with the public key, are decrypted."""
        info = harness.shared(kind)
        if info is None:
            return
        longest = _LONGEST[kind.key_size or 0]
        assert longest == oaep_max_plaintext(kind.key_size or 0)
        key = harness.main.key(info)
        public_key = key.public_key()
        for size in (1, 2, 32, longest):
            plaintext = os.urandom(size)
            ciphertext = public_key.encrypt(plaintext)
            assert len(ciphertext) == (kind.key_size or 0) // 8
            assert key.decrypt(ciphertext) == plaintext

    @of_kinds(DECRYPTION_KINDS)
    def test_what_another_library_encrypted_is_decrypted(self, harness: Harness, kind: KeyKind) -> None:
        """C7.1: The exported public key works in another library, with these parameters and no others."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        public_key = load_der_public_key(key.public_key().spki)
        assert isinstance(public_key, rsa.RSAPublicKey)
        assert public_key.key_size == kind.key_size
        sha256, sha1 = hashes.SHA256(), hashes.SHA1()  # noqa: S303 # shown to be refused
        ciphertext = public_key.encrypt(b"data", padding.OAEP(padding.MGF1(sha256), sha256, None))
        assert key.decrypt(ciphertext) == b"data"
        for other in (
            padding.OAEP(padding.MGF1(sha1), sha1, None),
            padding.OAEP(padding.MGF1(sha1), sha256, None),
            padding.OAEP(padding.MGF1(sha256), sha256, b"label"),
            padding.PKCS1v15(),
        ):
            with pytest.raises(InvalidCiphertextError) as caught:
                key.decrypt(public_key.encrypt(b"data", other))
            assert type(caught.value) is InvalidCiphertextError

    @each("size", {str(size): size for size in (0, 191, 192, 256, 4096)})
    def test_other_plaintext_sizes_are_refused(self, harness: Harness, size: int) -> None:
        """C2.9: An empty plaintext, or one longer than the modulus takes, is InvalidArgumentError."""
        info = harness.shared(OAEP)
        if info is None:
            return
        public_key = harness.main.key(info).public_key()
        with harness.main.quiet(), pytest.raises(InvalidArgumentError) as caught:
            public_key.encrypt(bytes(size))
        assert type(caught.value) is InvalidArgumentError

    @of_kinds(DECRYPTION_KINDS)
    def test_every_failure_is_one_class_and_text_and_is_not_retried(
        self, harness: Harness, kind: KeyKind
    ) -> None:
        """C7.2: A damaged ciphertext, or another key's, is InvalidCiphertextError in one text, asked for once."""
        info, other = harness.shared(kind), harness.shared(kind, "second")
        if info is None or other is None:
            return
        connection = harness.connect()
        key = connection.key(info)
        ciphertext = key.public_key().encrypt(b"data")
        damaged = [
            ciphertext[:index] + bytes([ciphertext[index] ^ 1]) + ciphertext[index + 1 :]
            for index in (0, 1, len(ciphertext) // 2, len(ciphertext) - 1)
        ]
        damaged += [
            bytes(len(ciphertext)),
            b"\xff" * len(ciphertext),
            connection.key(other).public_key().encrypt(b"data"),
        ]
        texts: set[str] = set()
        for number, attempt in enumerate(damaged, 1):
            with pytest.raises(InvalidCiphertextError) as caught:
                key.decrypt(attempt)
            assert type(caught.value) is InvalidCiphertextError
            assert connection.seam.count(Operation.DECRYPT) == number
            texts.add(str(caught.value))
        with pytest.raises(InvalidCiphertextError) as caught:
            key.decrypt(ciphertext[:-1])
        assert texts == {str(caught.value)}

    @of_kinds(DECRYPTION_KINDS)
    def test_a_ciphertext_of_another_length_is_refused_unsent(self, harness: Harness, kind: KeyKind) -> None:
        """C7.2: Cut, longer and empty ciphertexts are InvalidCiphertextError, and nobody is asked."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        ciphertext = key.public_key().encrypt(b"data")
        with harness.main.quiet():
            for damaged in (b"", ciphertext[:1], ciphertext[:-1], ciphertext + b"\0", b"\0" + ciphertext):
                with pytest.raises(InvalidCiphertextError) as caught:
                    key.decrypt(damaged)
                assert type(caught.value) is InvalidCiphertextError

    @FORMS
    def test_bytes_like_forms_are_the_same(self, harness: Harness, form: Form) -> None:
        """C2.10: bytes, bytearray and memoryview behave the same."""
        info = harness.shared(OAEP)
        if info is None:
            return
        key = harness.main.key(info)
        ciphertext = key.public_key().encrypt(form(b"data"))
        assert key.decrypt(form(ciphertext)) == b"data"

    @NOT_BYTES
    def test_other_types_are_a_type_error(self, harness: Harness, wrong: bytes) -> None:
        """C2.10: What is not bytes-like is TypeError, unsent."""
        info = harness.shared(OAEP)
        if info is None:
            return
        key = harness.main.key(info)
        public_key = key.public_key()
        with harness.main.quiet():
            with pytest.raises(TypeError):
                key.decrypt(wrong)
            with pytest.raises(TypeError):
                public_key.encrypt(wrong)

    @each("purpose", {"wrapping": "wrapping", "signing": "signing"})
    def test_keys_of_another_purpose_do_not_decrypt(self, harness: Harness, purpose: str) -> None:
        """C1.1: decrypt under a key of another purpose is KeyUsageError, unsent."""
        info = harness.wrapping_key() if purpose == "wrapping" else harness.signing_key()
        key = harness.main.key(info)
        with harness.main.quiet(), pytest.raises(KeyUsageError) as caught:
            key.decrypt(bytes(256))
        assert type(caught.value) is KeyUsageError
