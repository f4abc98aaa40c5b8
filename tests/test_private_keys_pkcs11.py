"""Keys of pyca that sign on a PKCS#11 token, in the libraries that take pyca's keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import joserfc.jwk
import joserfc.jws
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from anykms import Key, KeyConf, connect
from softhsm import require_softhsm, softhsm

require_softhsm(__file__)

SIZES = {"RS256": 2048, "PS256": 2048, "ES256": None}
JWKS: dict[str, Any] = {"RS256": joserfc.jwk.RSAKey, "PS256": joserfc.jwk.RSAKey, "ES256": joserfc.jwk.ECKey}
START = datetime(2026, 1, 1, tzinfo=UTC)
WHO = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "token")])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Key]]:
    """A key for an algorithm, made once, on one token."""
    with (
        softhsm(tmp_path_factory.mktemp("softhsm")) as installed,
        connect(installed.make("private-keys"), create=True) as client,
    ):
        made: dict[str, Key] = {}

        def of(algorithm: str) -> Key:
            if algorithm not in made:
                conf = KeyConf(
                    algorithm.lower(), "SIGN_VERIFY", algorithm=algorithm, key_size=SIZES[algorithm]
                )
                made[algorithm] = client.key(client.generate_key(conf))
            return made[algorithm]

        yield of


def pss(algorithm: str) -> padding.PSS | None:
    return padding.PSS(padding.MGF1(SHA256()), 32) if algorithm == "PS256" else None


@pytest.mark.parametrize("algorithm", SIZES)
def test_a_certificate_and_a_request_verify(keys: Callable[[str], Key], algorithm: str) -> None:
    key = keys(algorithm)
    private: Any = key.as_private_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(WHO)
        .issuer_name(WHO)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=30))
        .sign(private, SHA256(), rsa_padding=pss(algorithm))
    )
    certificate.verify_directly_issued_by(certificate)
    key.public_key().verify(certificate.tbs_certificate_bytes, certificate.signature)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(WHO)
        .sign(private, SHA256(), rsa_padding=pss(algorithm))
    )
    assert x509.load_der_x509_csr(request.public_bytes(Encoding.DER)).is_signature_valid


@pytest.mark.parametrize("algorithm", SIZES)
def test_pyjwt_and_joserfc_sign_and_verify(keys: Callable[[str], Key], algorithm: str) -> None:
    key = keys(algorithm)
    private: Any = key.as_private_key()
    jwk = key.public_key().jwk()
    token = jwt.encode({"sub": "ada"}, private, algorithm=algorithm)
    assert jwt.decode(token, private.public_key(), algorithms=[algorithm]) == {"sub": "ada"}
    kind = JWKS[algorithm]
    signed = joserfc.jws.serialize_compact(
        {"alg": algorithm}, b"payload", kind(private, jwk), algorithms=[algorithm]
    )
    verified = joserfc.jws.deserialize_compact(signed, kind.import_key(jwk), algorithms=[algorithm])
    assert verified.payload == b"payload"
