"""Seals as others read them: a DSSE envelope that pyca alone can verify, in canonical JSON."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from anykms import Key, KeyConf, KeyInfo, KMSClient, Policy, TrustRoot, UnverifiedSeal, connect, errors, seal
from anykms.errors import InvalidArgumentError, SealError
from anykms.trust import pae
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[KMSClient]:
    with connect(f"local://{tmp_path}/keys.db", create=True) as opened:
        yield opened


@pytest.fixture
def admin(client: KMSClient) -> Key:
    return client.key(client.generate_key(KeyConf("admin", "SIGN_VERIFY", algorithm="ES256")))


def test_another_program_verifies_a_seal_from_the_specification_alone(client: KMSClient, admin: Key) -> None:
    """https://github.com/secure-systems-lab/dsse, protocol.md; nothing of anykms verifies here."""
    info = client.generate_key(KeyConf("orders", "ENCRYPT_DECRYPT"))
    sealed = seal(info, signers=[admin], generation=7, audience="shop", clock=lambda: NOW)
    envelope: dict[str, Any] = json.loads(sealed)
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    kind = envelope["payloadType"].encode()
    assert kind == b"application/vnd.anykms.keyinfo.v1+json"
    payload = base64.b64decode(envelope["payload"])
    message = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    (signature,) = envelope["signatures"]
    spki = admin.public_key().spki
    assert signature["keyid"] == hashlib.sha256(spki).hexdigest()
    public = load_der_public_key(spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(base64.b64decode(signature["sig"]), message, ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature["sig"]), message + b" ", ec.ECDSA(SHA256()))
    statement = json.loads(payload)
    assert statement == {
        "audience": "shop",
        "document": json.loads(info.to_json()),
        "expires": None,
        "generation": 7,
        "issued": "2026-01-01T00:00:00Z",
        "name": "orders",
    }
    for text, value in ((sealed, envelope), (payload, statement)):
        assert json.dumps(value, sort_keys=True, separators=(",", ":")).encode() == text


def test_a_mac_seal_is_an_hmac_of_the_same_bytes(client: KMSClient) -> None:
    mac = client.key(client.generate_key(KeyConf("seals", "MAC", algorithm="HS256")))
    sealed = seal(KeyConf("orders", "ENCRYPT_DECRYPT"), signers=[mac], generation=1, clock=lambda: NOW)
    envelope: dict[str, Any] = json.loads(sealed)
    message = pae(envelope["payloadType"], base64.b64decode(envelope["payload"]))
    assert hmac.compare_digest(mac.mac(message), base64.b64decode(envelope["signatures"][0]["sig"]))


@given(kind=st.text(max_size=20), payload=st.binary(max_size=40), other=st.binary(max_size=40))
def test_the_encoding_tells_apart_what_differs(kind: str, payload: bytes, other: bytes) -> None:
    assert (pae(kind, payload) == pae(kind, other)) == (payload == other)
    assert pae(kind + " 1 x", payload) != pae(kind, b"1 x " + payload)


def test_a_claim_is_read_without_a_root_and_is_only_a_claim(client: KMSClient, admin: Key) -> None:
    expires = NOW + timedelta(days=1)
    sealed = seal(Policy(), name="shop", signers=[admin], generation=2, expires=expires, clock=lambda: NOW)
    found = UnverifiedSeal.read(sealed)
    assert (found.name, found.generation, found.issued, found.expires) == ("shop", 2, NOW, expires)
    assert found.keyids == (admin.public_key().fingerprint,)
    assert found.document == json.loads(Policy().to_json())
    with pytest.raises(SealError):
        UnverifiedSeal.read(b"{}")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"generation": 0}, InvalidArgumentError),
        ({"generation": 2**53}, InvalidArgumentError),
        ({"generation": True}, TypeError),
        ({"generation": "1"}, TypeError),
        ({"name": ""}, InvalidArgumentError),
        ({"name": "n" * 257}, InvalidArgumentError),
        ({"name": "a\nb"}, InvalidArgumentError),
        ({"audience": "\ud800"}, InvalidArgumentError),
        ({"expires": datetime(2026, 2, 1)}, InvalidArgumentError),  # without a zone
        ({"signers": []}, InvalidArgumentError),
    ],
    ids=str,
)
def test_what_cannot_be_sealed(admin: Key, change: dict[str, Any], error: type[Exception]) -> None:
    options: dict[str, Any] = {"signers": [admin], "generation": 1, "clock": lambda: NOW}
    with pytest.raises(error):
        seal(KeyConf("orders", "ENCRYPT_DECRYPT"), **options | change)


def test_only_documents_are_sealed_and_only_keys_seal(client: KMSClient, admin: Key) -> None:
    things: list[object] = [{"name": "orders"}, b"bytes", UnverifiedSeal]
    for thing in things:
        with pytest.raises(TypeError):
            seal(thing, signers=[admin], generation=1)
    with pytest.raises(TypeError):
        seal(Policy(), name="p", signers=[admin.public_key()], generation=1)  # type: ignore[list-item] # pyright: ignore[reportArgumentType] # the mistake
    with pytest.raises(InvalidArgumentError, match="name"):
        seal(Policy(), signers=[admin], generation=1)
    with pytest.raises(TypeError):
        TrustRoot([admin.public_key()]).open(b"", dict, name="orders")
    with pytest.raises(TypeError):
        TrustRoot([admin.public_key()]).open("text", KeyInfo, name="orders")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue] # the mistake


# Sealing keys in a service


Cloud = AWSEmulator | AzureEmulator | GCPEmulator


@pytest.mark.parametrize("emulator", [AWSEmulator, AzureEmulator, GCPEmulator])
def test_keys_in_a_cloud_seal_and_open(emulator: Callable[[], Cloud], admin: Key) -> None:
    conf = KeyConf("orders", "ENCRYPT_DECRYPT")
    with emulator() as cloud, connect(cloud.uri, **cloud.options) as client:
        signer = client.key(client.generate_key(KeyConf("sealer", "SIGN_VERIFY", algorithm="ES256")))
        sealed = seal(conf, signers=[signer, admin], generation=1)
        # Offline, with pinned public keys; and by the key itself, whose state is asked.
        for key in (signer.public_key(), signer):
            root = TrustRoot([key, admin.public_key()], threshold=2)
            assert root.open(sealed, KeyConf, name="orders") == conf
        client.disable_key(signer.info)
        with pytest.raises(errors.KeyDisabledError):
            TrustRoot([signer]).open(sealed, KeyConf, name="orders")
        if not any(capability.operation == "mac" for capability in client.capabilities):
            assert client.provider == "azurekms"
            return
        mac = client.key(client.generate_key(KeyConf("macs", "MAC", algorithm="HS256")))
        maced = seal(conf, signers=[mac], generation=1)
        assert TrustRoot([mac]).open(maced, KeyConf, name="orders") == conf
        with pytest.raises(errors.SealError):
            TrustRoot([mac]).open(sealed, KeyConf, name="orders")
