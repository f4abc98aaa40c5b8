"""One message for a local, an AWS, a Google Cloud and an Azure key: any of them opens it alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import anykms
from anykms import Key, KeyConf, KeyInfo, KeyPurpose, Keyring, KMSClient, errors
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator

CONF = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT)
CONTEXT = {"tenant": "42"}


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[list[KMSClient]]:
    with ExitStack() as stack:
        clouds = [
            stack.enter_context(emulator)
            for emulator in (AWSEmulator(), GCPEmulator(), AzureEmulator(), AzureEmulator(sku="hsm"))
        ]
        yield [
            stack.enter_context(anykms.connect(f"local://{tmp_path}/keys.db", create=True)),
            *(stack.enter_context(anykms.connect(cloud.uri, **cloud.options)) for cloud in clouds),
        ]


@pytest.fixture
def keys(clients: list[KMSClient]) -> list[Key]:
    return [client.key(client.generate_key(CONF)) for client in clients]


def test_each_key_opens_a_message_alone_and_keeps_to_the_context(keys: list[Key]) -> None:
    for turn in range(len(keys)):
        message = Keyring(keys[turn:] + keys[:turn]).encrypt(b"4111", context=CONTEXT, aad=b"a")
        for key in keys:
            ring = Keyring([key])
            found = ring.decrypt_detailed(message, context=CONTEXT, aad=b"a")
            assert (found.plaintext, found.key, found.sender_authenticated) == (b"4111", key.info, True)
            for context in ({"tenant": "43"}, {}, {**CONTEXT, "more": "1"}):
                with pytest.raises(errors.ContextMismatchError):
                    ring.decrypt(message, context=context, aad=b"a")
            with pytest.raises(errors.InvalidCiphertextError):
                ring.decrypt(message, context=CONTEXT, aad=b"b")


def test_a_required_value_is_enforced_through_each(keys: list[Key]) -> None:
    for key in keys:
        wrapped = key.wrap(bytes(32), context=CONTEXT)
        assert key.unwrap(wrapped, context=CONTEXT) == bytes(32)
        with pytest.raises(errors.InvalidCiphertextError):
            key.unwrap(wrapped, context={"tenant": "43"})


def test_one_enabled_key_is_enough(clients: list[KMSClient], keys: list[Key]) -> None:
    message = Keyring(keys).encrypt(b"4111", context=CONTEXT)
    for survivor in keys:
        off: list[tuple[KMSClient, KeyInfo]] = [
            (client, key.info) for client, key in zip(clients, keys, strict=True) if key is not survivor
        ]
        for client, info in off:
            client.disable_key(info)
        found = Keyring(keys).decrypt_detailed(message, context=CONTEXT)
        assert (found.plaintext, found.key) == (b"4111", survivor.info)
        for client, info in off:
            client.enable_key(info)


def test_the_same_conf_has_the_same_digest_everywhere(keys: list[Key]) -> None:
    assert {key.info.conf_digest for key in keys} == {CONF.digest}
