"""r || s of Key Vault against DER: short r and s, and many signatures on every curve."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from azure.keyvault.keys import JsonWebKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from anykms import KeyConf, KeyPurpose, KMSClient
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.nonces import SHORT_SIGNATURES, ShortSignature

CURVES: dict[str, tuple[str, ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "P-256": ("P-256", ec.SECP256R1(), hashes.SHA256()),
    "P-384": ("P-384", ec.SECP384R1(), hashes.SHA384()),
    "P-521": ("P-521", ec.SECP521R1(), hashes.SHA512()),
    "secp256k1": ("P-256K", ec.SECP256K1(), hashes.SHA256()),
}
ALGORITHMS = {"ES256": 32, "ES384": 48, "ES512": 66, "ES256K": 32}
SIGNATURES = 40
"""Of each curve; ``benchmarks/azure_signatures.py`` makes thousands."""


def public_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    found = load_der_public_key(spki)
    assert isinstance(found, ec.EllipticCurvePublicKey)
    return found


@pytest.mark.parametrize("vector", SHORT_SIGNATURES, ids=lambda v: f"{v.curve}-{v.part}-{v.zeros}")
def test_short_r_and_s_are_padded_and_stripped(
    az: AzureEmulator, client: KMSClient, keys: Any, vector: ShortSignature
) -> None:
    crv, curve, digest = CURVES[vector.curve]
    private = ec.derive_private_key(vector.scalar, curve)
    numbers, width = private.public_key().public_numbers(), (curve.key_size + 7) // 8
    jwk = JsonWebKey(
        kty="EC",
        crv=crv,
        key_ops=["sign", "verify"],
        **{
            name: value.to_bytes(width)
            for name, value in (("x", numbers.x), ("y", numbers.y), ("d", vector.scalar))
        },
    )
    keys.import_key("short", jwk)
    key = client.key("short")
    for encoding in ("P1363", "DER"):
        az.give_nonce(vector.curve, vector.nonce)
        signature = key.sign(vector.message, encoding=encoding)
        if encoding == "P1363":
            assert len(signature) == 2 * width
            half = signature[:width] if vector.part == "r" else signature[width:]
            assert half[: vector.zeros] == bytes(vector.zeros)
            assert half[vector.zeros] != 0
            der = utils.encode_dss_signature(
                int.from_bytes(signature[:width]), int.from_bytes(signature[width:])
            )
        else:
            der = signature
            assert utils.encode_dss_signature(*utils.decode_dss_signature(der)) == der
        private.public_key().verify(der, vector.message, ec.ECDSA(digest))
        key.verify(vector.message, signature, encoding=encoding)
        key.public_key().verify(vector.message, signature, encoding=encoding)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_signature_verifies(client: KMSClient, algorithm: str) -> None:
    key = client.key(client.generate_key(KeyConf("code", KeyPurpose.SIGN_VERIFY, algorithm=algorithm)))
    exported, width = key.public_key(), ALGORITHMS[algorithm]
    pyca = public_key(exported.spki)
    digest = {32: hashes.SHA256(), 48: hashes.SHA384(), 66: hashes.SHA512()}[width]
    for number in range(SIGNATURES):
        message = hashlib.sha256(number.to_bytes(4)).digest()
        raw = key.sign(message, encoding="P1363")
        assert len(raw) == 2 * width
        exported.verify(message, raw, encoding="P1363")
        pyca.verify(key.sign(message), message, ec.ECDSA(digest))
