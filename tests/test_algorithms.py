"""The algorithm table against the documents it comes from."""

from __future__ import annotations

import hashlib

import pytest

from anykms.algorithms import Algorithm, KeyPurpose, KeyType, oaep_max_plaintext
from anykms.errors import InvalidArgumentError

DIGESTS = {"256": ("sha256", 32), "384": ("sha384", 48), "512": ("sha512", 64)}
FORBIDDEN = ["RSA1_5", "RSA-OAEP", "Ed25519ph", "RSNULL", "none", "EdDSA", "es256", "", "A128GCM", "ES256 "]


def test_the_table_has_every_algorithm_of_the_contract_and_no_other() -> None:
    contract = (
        "A256GCM RSA-OAEP-256 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 ES256K Ed25519 "
        "ML-DSA-44 ML-DSA-65 ML-DSA-87 HS256 HS384 HS512"
    )
    assert sorted(Algorithm) == sorted(contract.split())
    for algorithm in Algorithm:
        assert algorithm.spec.algorithm is algorithm


def test_one_purpose_each_but_for_oaep() -> None:
    for algorithm in Algorithm:
        purposes = algorithm.spec.purposes
        if algorithm is Algorithm.RSA_OAEP_256:
            assert purposes == {KeyPurpose.ENCRYPT_DECRYPT, KeyPurpose.ASYMMETRIC_DECRYPT}
        elif algorithm is Algorithm.A256GCM:
            assert purposes == {KeyPurpose.ENCRYPT_DECRYPT}
        else:
            assert purposes == {KeyPurpose.MAC if algorithm.startswith("HS") else KeyPurpose.SIGN_VERIFY}


@pytest.mark.parametrize("algorithm", [a for a in Algorithm if a[:2] in ("RS", "PS", "ES", "HS")])
def test_names_tell_the_digest(algorithm: Algorithm) -> None:
    if algorithm is Algorithm.RSA_OAEP_256:
        assert algorithm.spec.digest is None
        return
    name, size = DIGESTS[algorithm[2:5]]
    assert (algorithm.spec.digest, algorithm.spec.digest_size) == (name, size)
    assert hashlib.new(name).digest_size == size
    assert algorithm.spec.prehashable is not algorithm.startswith("HS")


def test_whole_messages_are_limited_and_have_no_digest() -> None:
    for algorithm in Algorithm:
        whole = algorithm is Algorithm.ED25519 or algorithm.startswith("ML-DSA")
        limited = whole or algorithm.startswith("HS")
        assert algorithm.spec.max_message == (4096 if limited else None)
        if whole:
            assert algorithm.spec.digest is None
            assert not algorithm.spec.prehashable


def test_curves_and_widths() -> None:
    curves = {a: (a.spec.curve, a.spec.coordinate_size) for a in Algorithm if a.spec.curve}
    assert curves == {
        "ES256": ("P-256", 32),
        "ES384": ("P-384", 48),
        "ES512": ("P-521", 66),
        "ES256K": ("secp256k1", 32),
        "Ed25519": ("Ed25519", None),
    }


def test_rsa_sizes() -> None:
    for algorithm in Algorithm:
        spec = algorithm.spec
        if spec.key_type is not KeyType.RSA:
            assert spec.key_sizes == ()
            assert spec.default_key_size is None
            with pytest.raises(InvalidArgumentError, match="the algorithm fixes it"):
                spec.size_or_default(2048)
            assert spec.size_or_default(None) is None
            continue
        widest = algorithm in (Algorithm.RS512, Algorithm.PS512)
        assert spec.key_sizes == ((4096,) if widest else (2048, 3072, 4096))
        assert spec.size_or_default(None) == (4096 if widest else 3072)
        for wrong in (0, -1, 1024, 2047, 3071, 8192):
            with pytest.raises(InvalidArgumentError, match=f"key_size {wrong}"):
                spec.size_or_default(wrong)


def test_oaep_limits() -> None:
    assert [oaep_max_plaintext(size) for size in Algorithm.RSA_OAEP_256.spec.key_sizes] == [190, 318, 446]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="use one of A256GCM"):
        Algorithm.named(name)


def test_names() -> None:
    for algorithm in Algorithm:
        assert Algorithm.named(str(algorithm)) is algorithm
    for wrong in (None, 7, b"ES256", ["ES256"]):
        with pytest.raises(TypeError):
            Algorithm.named(wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test
