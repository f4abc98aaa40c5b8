"""Whoever sits between the application and its provider, or in the provider's console."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from anykms import (
    Algorithm,
    ConnectionURI,
    Key,
    KeyConf,
    KeyInfo,
    KeyPurpose,
    Keyring,
    KeyURI,
    KMSClient,
    ProtectionLevel,
    errors,
)
from anykms.provider import Operation
from anykms_contract.observed import ObservedProvider

Make = Callable[..., Key]


def spki() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_another_public_key(make: Make, provider: ObservedProvider) -> None:
    key = make("releases", "SIGN_VERIFY", "ES256")
    provider.answer(Operation.GET_PUBLIC_KEY, lambda found: spki())
    with pytest.raises(
        errors.IntegrityError, match=r"pins: expected fingerprint [0-9a-f]{64}, found [0-9a-f]{64}"
    ):
        key.public_key()
    with pytest.raises(errors.IntegrityError):
        key.sign(b"v1")
    with pytest.raises(errors.IntegrityError):
        key.verify(b"v1", b"any signature")
    assert provider.count(Operation.SIGN) == 0


def test_another_sender_key(client: KMSClient, provider: ObservedProvider) -> None:
    """An RSA wrapping key proves its sender by a second key, whose public part is pinned too."""
    conf = KeyConf("orders", "ENCRYPT_DECRYPT", algorithm="RSA-OAEP-256", key_size=2048)
    key = client.key(client.generate_key(conf))
    wrapped = key.wrap(bytes(32), context={})
    fresh = KMSClient(provider).key(key.info)
    provider.answer(Operation.GET_PUBLIC_KEY, lambda found: spki())
    with pytest.raises(errors.IntegrityError, match="pins"):
        fresh.unwrap(wrapped, context={})
    assert provider.count(Operation.UNWRAP) == 0


def test_a_signature_of_another_message(make: Make, provider: ObservedProvider) -> None:
    key = make("releases", "SIGN_VERIFY", "ES256")
    other = key.sign(b"v0")
    provider.answer(Operation.SIGN, lambda found: other)
    with pytest.raises(errors.IntegrityError, match="does not verify"):
        key.sign(b"v1")


CHANGES: dict[str, dict[str, Any]] = {
    "a changed algorithm": {"algorithm": Algorithm.RSA_OAEP_256},
    "a changed purpose": {"purpose": KeyPurpose.MAC},
    "a lower protection level": {"protection_level": ProtectionLevel.EXTERNAL},
    "a changed tag": {"tags": {"environment": "development"}},
    "a re-created key": {"created_at": datetime(2030, 1, 1, tzinfo=UTC)},
    "another conf": {"conf_digest": "a" * 52},
    "another window": {"destroy_window": 7},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_facts_that_changed(
    make: Make, client: KMSClient, provider: ObservedProvider, change: dict[str, Any]
) -> None:
    info = make("orders").info
    client.confirm_key(info)
    provider.answer(Operation.GET_KEY, lambda found: replace(found, **change))
    (name,) = change
    with pytest.raises(errors.IntegrityError, match=rf"{name}: expected .*, found "):
        client.confirm_key(info)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_facts_that_changed_are_found_at_use(make: Make, client: KMSClient, change: dict[str, Any]) -> None:
    stored = replace(make("orders").info, **change)
    refusals = (errors.IntegrityError, errors.KeyUsageError, errors.UnsupportedOperationError)
    with pytest.raises(refusals) as caught:
        client.key(stored).wrap(bytes(32), context={})
    if isinstance(caught.value, errors.IntegrityError):
        assert f"{next(iter(change))}: expected " in str(caught.value)


def test_a_name_that_leads_to_another_key(make: Make, client: KMSClient, provider: ObservedProvider) -> None:
    info, other = make("orders").info, make("attacker").info
    provider.answer(Operation.GET_KEY, lambda found: other if provider.calls[-1].key == "orders" else found)
    with pytest.raises(errors.IntegrityError, match=rf"expected {info.uri}, found {other.uri}"):
        client.confirm_key(info)


def test_a_name_that_leads_nowhere(make: Make, client: KMSClient, provider: ObservedProvider) -> None:
    info = make("orders").info

    def gone(found: KeyInfo) -> KeyInfo:
        if provider.calls[-1].key == "orders":
            raise errors.KeyNotFoundError("no such alias")
        return found

    provider.answer(Operation.GET_KEY, gone)
    with pytest.raises(errors.IntegrityError, match="found no key"):
        client.confirm_key(info)


def test_a_moved_name_changes_nothing_for_a_pinned_key(
    make: Make, client: KMSClient, provider: ObservedProvider
) -> None:
    key, other = make("orders"), make("attacker").info
    provider.answer(Operation.GET_KEY, lambda found: other)
    asked = provider.count(Operation.GET_KEY)
    assert key.unwrap(key.wrap(bytes(32), context={}), context={}) == bytes(32)
    assert client.key(key.info).info == key.info
    assert provider.count(Operation.GET_KEY) == asked


def test_a_weaker_key_than_asked_for(client: KMSClient, provider: ObservedProvider) -> None:
    provider.misread(lambda template: replace(template, key_size=2048))
    with pytest.raises(errors.KeyConfMismatchError, match="key_size is 2048, not 3072"):
        client.generate_key(KeyConf("releases", "SIGN_VERIFY", algorithm="PS256"))


def test_a_key_of_another_purpose_than_asked_for(client: KMSClient, provider: ObservedProvider) -> None:
    provider.misread(lambda template: replace(template, tags={}))
    with pytest.raises(errors.KeyConfMismatchError, match="tags"):
        client.generate_key(KeyConf("orders", "ENCRYPT_DECRYPT", tags={"team": "x"}))


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_an_unwrapped_key_of_another_size(make: Make, provider: ObservedProvider, size: int) -> None:
    key = make("orders")
    wrapped = key.wrap(bytes(32), context={})
    provider.answer(Operation.UNWRAP, lambda found: bytes(size))
    with pytest.raises(errors.InvalidCiphertextError):
        key.unwrap(wrapped, context={})


def test_another_data_key_than_the_wrapped_one(make: Make, provider: ObservedProvider) -> None:
    ring = Keyring([make("orders")])
    message = ring.encrypt(b"paid", context={})
    provider.answer(Operation.UNWRAP, lambda found: bytes(32))
    with pytest.raises(errors.InvalidCiphertextError):
        ring.decrypt(message, context={})


@pytest.mark.parametrize(
    "text",
    [
        "awskms:///?endpoint_url=http://attacker.example",
        "local:///etc/passwd",
        "azurekms://attacker.example:8443/orders",
        "gcpkms://projects/p/locations/l/keyRings/r",
        "https://attacker.example/keys/orders",
    ],
)
def test_an_endpoint_where_a_key_is_named(text: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        KeyURI.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "azurekms://v.vault.azure.net/orders",
        "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    ],
)
def test_a_key_where_an_endpoint_is_named(text: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        ConnectionURI.parse(text)
