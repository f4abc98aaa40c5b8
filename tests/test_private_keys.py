"""Keys of pyca that sign in a key service, in the libraries that take pyca's keys."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import joserfc.jwk
import joserfc.jws
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from jwt.utils import base64url_decode

from anykms import Key, KeyConf, KMSClient, connect, errors
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator

SIZES = {"RS256": 2048, "RS384": 2048, "RS512": 4096, "PS256": 2048, "PS384": 2048, "PS512": 4096}
EC = ["ES256", "ES384", "ES512", "ES256K"]
ML_DSA = ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"]
HASHED = [*SIZES, *EC]
ALL = [*HASHED, "Ed25519", *ML_DSA]
HASHES: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
KINDS: dict[str, type] = {
    "RS": rsa.RSAPrivateKey,
    "PS": rsa.RSAPrivateKey,
    "ES": ec.EllipticCurvePrivateKey,
    "Ed": ed25519.Ed25519PrivateKey,
}
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> KMSClient:
    return connect(f"local://{tmp_path_factory.mktemp('store')}/keys.db", create=True)


@pytest.fixture(scope="module")
def keys(client: KMSClient) -> Callable[[str], Key]:
    """A key for an algorithm, made once."""
    made: dict[str, Key] = {}

    def of(algorithm: str) -> Key:
        if algorithm not in made:
            conf = KeyConf(
                algorithm.lower(), "SIGN_VERIFY", algorithm=algorithm, key_size=SIZES.get(algorithm)
            )
            made[algorithm] = client.key(client.generate_key(conf))
        return made[algorithm]

    return of


def hash_of(algorithm: str) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """None where x509 is given none."""
    return HASHES[algorithm.rstrip("K")[-3:]] if algorithm in HASHED else None


def pss(algorithm: str) -> padding.PSS | None:
    own = hash_of(algorithm)
    return padding.PSS(padding.MGF1(own), own.digest_size) if own and algorithm.startswith("PS") else None


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(
    subject: str,
    public_key: Any,
    issuer: str,
    signer: Key,
    *,
    ca: bool,
    names: list[x509.GeneralName] | None = None,
) -> x509.Certificate:
    algorithm = str(signer.info.algorithm)
    ski = x509.SubjectKeyIdentifier.from_public_key
    usage = dict.fromkeys(
        [
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(ski(public_key), critical=False)
        .add_extension(
            x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.as_private_key().public_key()),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    return builder.sign(signer.as_private_key(), hash_of(algorithm), rsa_padding=pss(algorithm))


@pytest.mark.parametrize("algorithm", ALL)
def test_it_is_pycas_own_kind_of_key(keys: Callable[[str], Key], algorithm: str) -> None:
    private = keys(algorithm).as_private_key()
    expected = KINDS.get(algorithm[:2]) or getattr(mldsa, algorithm.replace("-", "") + "PrivateKey")
    assert isinstance(private, expected)
    spki = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert hashlib.sha256(spki).hexdigest() == keys(algorithm).info.fingerprint
    assert copy.copy(private) is private
    assert copy.deepcopy(private) is private
    assert algorithm in repr(private)
    with pytest.raises(TypeError, match="connect again"):
        pickle.dumps(private)


def test_sizes_and_curve_are_those_of_the_key(keys: Callable[[str], Key]) -> None:
    private = keys("RS512").as_private_key()
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.key_size == 4096
    private = keys("ES512").as_private_key()
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert (private.key_size, private.curve.name) == (521, "secp521r1")


# X.509


@pytest.mark.parametrize("algorithm", ALL)
def test_a_self_signed_certificate_verifies(keys: Callable[[str], Key], algorithm: str) -> None:
    key = keys(algorithm)
    made = certificate("root", key.as_private_key().public_key(), "root", key, ca=True)
    loaded = x509.load_pem_x509_certificate(made.public_bytes(serialization.Encoding.PEM))
    loaded.verify_directly_issued_by(loaded)
    # Without pyca's X.509 code: the signature is over the bytes as they stand, by the pinned key.
    key.public_key().verify(loaded.tbs_certificate_bytes, loaded.signature)


@pytest.mark.parametrize("algorithm", ALL)
def test_a_certificate_request_verifies(keys: Callable[[str], Key], algorithm: str) -> None:
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(named("service"))
        .sign(keys(algorithm).as_private_key(), hash_of(algorithm), rsa_padding=pss(algorithm))
    )
    assert x509.load_der_x509_csr(request.public_bytes(serialization.Encoding.DER)).is_signature_valid


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "RS256", "PS256"])
def test_a_chain_of_three_verifies(keys: Callable[[str], Key], algorithm: str) -> None:
    # pyca's verifier takes what the web does: no Ed25519, no P-521, no ML-DSA (CA/Browser Forum BR 7.1.3).
    root, middle = keys(algorithm), keys("ES384")
    leaf = ec.generate_private_key(ec.SECP256R1()).public_key()
    top = certificate("root", root.as_private_key().public_key(), "root", root, ca=True)
    between = certificate("between", middle.as_private_key().public_key(), "root", root, ca=True)
    bottom = certificate(
        "example.com", leaf, "between", middle, ca=False, names=[x509.DNSName("example.com")]
    )
    verifier = (
        PolicyBuilder()
        .store(Store([top]))
        .time(START + timedelta(days=1))
        .build_server_verifier(x509.DNSName("example.com"))
    )
    assert verifier.verify(bottom, [between]) == [bottom, between, top]


def test_a_revocation_list_verifies(keys: Callable[[str], Key]) -> None:
    private = keys("ES256").as_private_key()
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(named("root"))
        .last_update(START)
        .next_update(START + timedelta(days=1))
        .sign(private, hashes.SHA256())
    )
    public = private.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert made.is_signature_valid(public)


def test_an_error_of_the_key_service_ends_the_builder(client: KMSClient) -> None:
    key = client.key(client.generate_key(KeyConf("revoked", "SIGN_VERIFY", algorithm="ES256")))
    private = key.as_private_key()
    client.disable_key(key.info)
    builder = x509.CertificateSigningRequestBuilder().subject_name(named("service"))
    with pytest.raises(errors.KeyDisabledError):
        builder.sign(private, hashes.SHA256())
    with pytest.raises(errors.KeyDisabledError):
        key.as_private_key()


@pytest.mark.parametrize(("algorithm", "other"), [("ES256", hashes.SHA384()), ("RS256", hashes.SHA512())])
def test_a_certificate_under_another_hash_is_refused(
    keys: Callable[[str], Key], algorithm: str, other: hashes.SHA384 | hashes.SHA512
) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(named("service"))
    with pytest.raises(errors.KeyUsageError, match=f"{algorithm}, which hashes with sha256"):
        builder.sign(keys(algorithm).as_private_key(), other)


def test_a_certificate_under_another_padding_is_refused(keys: Callable[[str], Key]) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(named("service"))
    with pytest.raises(errors.KeyUsageError, match="PS256, which pads with PSS"):
        builder.sign(keys("PS256").as_private_key(), hashes.SHA256())
    with pytest.raises(errors.KeyUsageError, match="RS256, which pads with PKCS1v15"):
        builder.sign(keys("RS256").as_private_key(), hashes.SHA256(), rsa_padding=pss("PS256"))


# JOSE


@pytest.mark.parametrize("algorithm", [*HASHED, "Ed25519"])
def test_pyjwt_signs_and_verifies(keys: Callable[[str], Key], algorithm: str) -> None:
    private: Any = keys(algorithm).as_private_key()
    name = "EdDSA" if algorithm == "Ed25519" else algorithm
    token = jwt.encode({"sub": "ada"}, private, algorithm=name)
    assert jwt.decode(token, private.public_key(), algorithms=[name]) == {"sub": "ada"}
    signed, _, signature = token.rpartition(".")
    keys(algorithm).public_key().verify(signed.encode(), base64url_decode(signature), encoding="P1363")


@pytest.mark.parametrize(
    ("algorithm", "asked"), [("RS256", "PS256"), ("PS256", "RS256"), ("RS256", "RS512"), ("RS384", "RS256")]
)
def test_pyjwt_cannot_choose_another_algorithm(
    keys: Callable[[str], Key], algorithm: str, asked: str
) -> None:
    private: Any = keys(algorithm).as_private_key()
    with pytest.raises(errors.KeyUsageError, match=algorithm):
        jwt.encode({"sub": "ada"}, private, algorithm=asked)


def joserfc_kind(algorithm: str) -> type:
    if algorithm == "Ed25519":
        return joserfc.jwk.OKPKey
    return joserfc.jwk.ECKey if algorithm.startswith("ES") else joserfc.jwk.RSAKey


@pytest.mark.parametrize("algorithm", [*HASHED, "Ed25519"])
def test_joserfc_signs_and_verifies(keys: Callable[[str], Key], algorithm: str) -> None:
    private: Any = keys(algorithm).as_private_key()
    kind: Any = joserfc_kind(algorithm)
    # import_key would export the private part; given the public JWK beside it, joserfc does not ask for it.
    jwk = keys(algorithm).public_key().jwk()
    token = joserfc.jws.serialize_compact(
        {"alg": algorithm, "kid": jwk["kid"]}, b"payload", kind(private, jwk), algorithms=[algorithm]
    )
    verified = joserfc.jws.deserialize_compact(token, kind.import_key(jwk), algorithms=[algorithm])
    assert verified.payload == b"payload"
    assert "d" not in kind(private, jwk).as_dict(private=True)


Emulator = AWSEmulator | AzureEmulator | GCPEmulator


@pytest.mark.parametrize("emulator", [AWSEmulator, AzureEmulator, GCPEmulator])
def test_cloud_keys_sign_for_x509_pyjwt_and_joserfc(emulator: Callable[[], Emulator]) -> None:
    with emulator() as cloud, connect(cloud.uri, **cloud.options) as client:
        capable = {
            capability.algorithm for capability in client.capabilities if capability.operation == "sign"
        }
        chosen = [name for name in ("ES256", "RS256", "PS256", "Ed25519") if name in capable]
        assert chosen[:3] == ["ES256", "RS256", "PS256"]
        for algorithm in chosen:
            conf = KeyConf(
                algorithm.lower(), "SIGN_VERIFY", algorithm=algorithm, key_size=SIZES.get(algorithm)
            )
            key = client.key(client.generate_key(conf))
            private: Any = key.as_private_key()
            made = certificate("root", private.public_key(), "root", key, ca=True)
            made.verify_directly_issued_by(made)
            key.public_key().verify(made.tbs_certificate_bytes, made.signature)
            request = (
                x509.CertificateSigningRequestBuilder()
                .subject_name(named("service"))
                .sign(private, hash_of(algorithm), rsa_padding=pss(algorithm))
            )
            der = request.public_bytes(serialization.Encoding.DER)
            assert x509.load_der_x509_csr(der).is_signature_valid
            jwk = key.public_key().jwk()
            name = "EdDSA" if algorithm == "Ed25519" else algorithm
            token = jwt.encode({"sub": "ada"}, private, algorithm=name)
            assert jwt.decode(token, private.public_key(), algorithms=[name]) == {"sub": "ada"}
            kind: Any = joserfc_kind(algorithm)
            signed = joserfc.jws.serialize_compact(
                {"alg": algorithm}, b"payload", kind(private, jwk), algorithms=[algorithm]
            )
            verified = joserfc.jws.deserialize_compact(signed, kind.import_key(jwk), algorithms=[algorithm])
            assert verified.payload == b"payload"


# Digests made elsewhere


@pytest.mark.parametrize("algorithm", HASHED)
def test_a_digest_made_elsewhere_is_signed(keys: Callable[[str], Key], algorithm: str) -> None:
    private: Any = keys(algorithm).as_private_key()
    own = hash_of(algorithm)
    assert own is not None
    digest = hashlib.new(own.name, b"message").digest()
    chosen: Any = utils.Prehashed(own)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        private.public_key().verify(private.sign(digest, ec.ECDSA(chosen)), b"message", ec.ECDSA(own))
    else:
        pads = pss(algorithm) or padding.PKCS1v15()
        private.public_key().verify(private.sign(digest, pads, chosen), b"message", pads, own)


@pytest.mark.parametrize("other", [hashes.SHA3_256(), hashes.SHA512_256(), hashes.SHA384(), hashes.SHA1()])  # noqa: S303 # refused
def test_another_hash_is_refused_made_here_or_elsewhere(
    keys: Callable[[str], Key], other: hashes.HashAlgorithm
) -> None:
    signer: Any = keys("ES256").as_private_key()
    padded: Any = keys("PS256").as_private_key()
    digest = bytes(other.digest_size)
    for algorithm in (other, utils.Prehashed(other)):
        with pytest.raises(errors.KeyUsageError, match="not with"):
            signer.sign(digest, ec.ECDSA(algorithm))
        with pytest.raises(errors.KeyUsageError, match="not with"):
            padded.sign(digest, pss("PS256"), algorithm)


def test_paddings_that_are_not_the_keys_are_refused(keys: Callable[[str], Key]) -> None:
    own = hashes.SHA256()
    signer: Any = keys("PS256").as_private_key()
    for pads in (
        padding.PKCS1v15(),
        padding.PSS(padding.MGF1(own), padding.PSS.MAX_LENGTH),
        padding.PSS(padding.MGF1(own), padding.PSS.AUTO),
        padding.PSS(padding.MGF1(own), 20),
        padding.PSS(padding.MGF1(hashes.SHA384()), 32),
        padding.OAEP(padding.MGF1(own), own, None),
        None,
    ):
        with pytest.raises(errors.KeyUsageError, match="pads with PSS"):
            signer.sign(b"m", pads, own)
    pads = padding.PSS(padding.MGF1(own), padding.PSS.DIGEST_LENGTH)
    signer.public_key().verify(signer.sign(b"m", pads, own), b"m", pads, own)
    plain: Any = keys("RS256").as_private_key()
    with pytest.raises(errors.KeyUsageError, match="not with NoDigestInfo"):
        plain.sign(b"m", padding.PKCS1v15(), utils.NoDigestInfo())


def test_a_digest_of_another_size_is_refused(keys: Callable[[str], Key]) -> None:
    signer: Any = keys("ES256").as_private_key()
    with pytest.raises(errors.InvalidArgumentError, match="32 bytes"):
        signer.sign(bytes(31), ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def test_a_nonce_of_the_callers_choice_is_refused(keys: Callable[[str], Key]) -> None:
    signer: Any = keys("ES256").as_private_key()
    with pytest.raises(errors.KeyUsageError, match="nonces"):
        signer.sign(b"m", ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    with pytest.raises(errors.KeyUsageError, match="ECDSA"):
        signer.sign(b"m", hashes.SHA256())


@pytest.mark.parametrize("algorithm", ["Ed25519", *ML_DSA])
def test_whole_messages_have_the_contracts_limits(keys: Callable[[str], Key], algorithm: str) -> None:
    signer: Any = keys(algorithm).as_private_key()
    signer.public_key().verify(signer.sign(bytearray(4096)), bytes(4096))
    for size in (0, 4097):
        with pytest.raises(errors.InvalidArgumentError, match="1 to 4096 bytes"):
            signer.sign(bytes(size))
    with pytest.raises(TypeError, match="data is bytes"):
        signer.sign("text")


@pytest.mark.parametrize("algorithm", ML_DSA)
def test_ml_dsa_takes_no_context(keys: Callable[[str], Key], algorithm: str) -> None:
    signer: Any = keys(algorithm).as_private_key()
    signer.public_key().verify(signer.sign(b"m", b""), b"m")
    with pytest.raises(errors.UnsupportedOperationError, match="context"):
        signer.sign(b"m", b"context")
    with pytest.raises(errors.UnsupportedOperationError, match="use sign"):
        signer.sign_mu(bytes(64))


# What is not here


@pytest.mark.parametrize("algorithm", ALL)
def test_nothing_gives_the_private_part(keys: Callable[[str], Key], algorithm: str) -> None:
    private: Any = keys(algorithm).as_private_key()
    names = {name for name in dir(private) if not name.startswith("_")}
    refused = {"private_bytes", "private_bytes_raw", "private_numbers", "decrypt", "exchange"}
    plain = {"sign", "sign_mu", "public_key", "key_size", "curve"}
    makers = {"generate", "from_private_bytes", "from_seed_bytes"}
    assert names <= refused | plain | makers
    with pytest.raises(errors.UnsupportedOperationError, match="stays in its key service; store"):
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    for name in names & refused - {"private_bytes"}:
        arguments = {"decrypt": (b"c", padding.PKCS1v15()), "exchange": (ec.ECDH(), private.public_key())}
        with pytest.raises(errors.UnsupportedOperationError, match=r"stays in|does not decrypt|agrees on no"):
            getattr(private, name)(*arguments.get(name, ()))


def test_a_key_for_something_else_has_none(client: KMSClient) -> None:
    for conf in (
        KeyConf("orders", "ENCRYPT_DECRYPT"),
        KeyConf("tags", "MAC", algorithm="HS256"),
        KeyConf("inbox", "ASYMMETRIC_DECRYPT", algorithm="RSA-OAEP-256", key_size=2048),
    ):
        with pytest.raises(errors.KeyUsageError, match="not for SIGN_VERIFY"):
            client.key(client.generate_key(conf)).as_private_key()
