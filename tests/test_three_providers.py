"""One message for a local, an AWS and a Google Cloud key: any of the three opens it alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import anykms
from anykms import Key, KeyConf, KeyInfo, KeyPurpose, Keyring, KMSClient, errors
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.gcp import GCPEmulator

CONF = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT)
CONTEXT = {"tenant": "42"}


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[list[KMSClient]]:
    with ExitStack() as stack:
        aws, gcp = stack.enter_context(AWSEmulator()), stack.enter_context(GCPEmulator())
        yield [
            stack.enter_context(anykms.connect(f"local://{tmp_path}/keys.db", create=True)),
            stack.enter_context(anykms.connect(aws.uri, **aws.options)),
            stack.enter_context(anykms.connect(gcp.uri, **gcp.options)),
        ]


@pytest.fixture
def keys(clients: list[KMSClient]) -> list[Key]:
    return [client.key(client.generate_key(CONF)) for client in clients]


def test_each_of_three_keys_opens_a_message_alone(keys: list[Key]) -> None:
    for order in itertools.permutations(keys):
        message = Keyring(list(order)).encrypt(b"4111", context=CONTEXT, aad=b"a")
        for key in keys:
            found = Keyring([key]).decrypt_detailed(message, context=CONTEXT, aad=b"a")
            assert (found.plaintext, found.key) == (b"4111", key.info)
            with pytest.raises(errors.KMSError):
                Keyring([key]).decrypt(message, context={"tenant": "43"}, aad=b"a")


def test_two_disabled_keys_do_not_matter(clients: list[KMSClient], keys: list[Key]) -> None:
    message = Keyring(keys).encrypt(b"4111", context=CONTEXT)
    for survivor in range(3):
        off: list[tuple[KMSClient, KeyInfo]] = [
            (client, key.info)
            for number, (client, key) in enumerate(zip(clients, keys, strict=True))
            if number != survivor
        ]
        for client, info in off:
            client.disable_key(info)
        found = Keyring(keys).decrypt_detailed(message, context=CONTEXT)
        assert (found.plaintext, found.key) == (b"4111", keys[survivor].info)
        for client, info in off:
            client.enable_key(info)


def test_the_same_conf_has_the_same_digest_everywhere(keys: list[Key]) -> None:
    assert {key.info.conf_digest for key in keys} == {CONF.digest}
