"""Whoever holds fewer sealing keys than the root demands, or a key that the root does not hold."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from anykms import (
    Key,
    KeyConf,
    KeyInfo,
    KMSClient,
    Policy,
    PublicKey,
    RetryPolicy,
    TrustRoot,
    UnverifiedSeal,
    countersign,
    errors,
    seal,
)
from anykms.errors import InvalidArgumentError, SealError
from anykms.keys import ConnectionURI, KeyURI, canonical_json
from anykms.provider import Operation
from anykms.trust import pae
from anykms_contract.observed import ObservedProvider
from anykms_local import LocalProvider

Make = Callable[..., Key]


@pytest.fixture
def three(make: Make) -> list[Key]:
    return [make(f"admin-{n}", "SIGN_VERIFY", "ES256") for n in (1, 2, 3)]


@pytest.fixture
def two_of_three(three: list[Key], now: list[datetime]) -> TrustRoot:
    return TrustRoot([key.public_key() for key in three], threshold=2, clock=lambda: now[0])


def sealed_by(signers: list[Key], info: KeyInfo, now: list[datetime]) -> bytes:
    return seal(info, signers=signers, generation=1, clock=lambda: now[0])


def with_signatures(data: bytes, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> bytes:
    found: dict[str, Any] = json.loads(data)
    return canonical_json(found | {"signatures": change(found["signatures"])})


def refused(root: TrustRoot, data: bytes) -> None:
    with pytest.raises(SealError, match="not a document that this root trusts"):
        root.open(data, KeyInfo, name="orders")


def test_enough_distinct_keys_open(
    make: Make, three: list[Key], two_of_three: TrustRoot, now: list[datetime]
) -> None:
    info = make("orders").info
    for pair in (three[:2], three[1:], [three[2], three[0]], three):
        assert two_of_three.open(sealed_by(pair, info, now), KeyInfo, name="orders") == info


def test_one_key_is_not_two(
    make: Make, three: list[Key], two_of_three: TrustRoot, now: list[datetime]
) -> None:
    refused(two_of_three, sealed_by(three[:1], make("orders").info, now))


def test_one_signature_twice_is_one(
    make: Make, three: list[Key], two_of_three: TrustRoot, now: list[datetime]
) -> None:
    """CVE-2020-6174: thresholds count keys, not signatures."""
    one = sealed_by(three[:1], make("orders").info, now)
    refused(two_of_three, with_signatures(one, lambda found: found * 2))


def test_one_signature_under_two_key_ids_is_one(
    make: Make, three: list[Key], two_of_three: TrustRoot, now: list[datetime]
) -> None:
    one = sealed_by(three[:1], make("orders").info, now)
    other = three[1].public_key().fingerprint
    refused(two_of_three, with_signatures(one, lambda found: [*found, found[0] | {"keyid": other}]))


def test_two_signatures_of_one_key_are_one(
    make: Make, three: list[Key], two_of_three: TrustRoot, now: list[datetime]
) -> None:
    """ECDSA signatures are random: a second one of the same key has other bytes."""
    info = make("orders").info
    one, again = (sealed_by(three[:1], info, now) for _ in range(2))
    assert one != again
    second = json.loads(again)["signatures"]
    refused(two_of_three, with_signatures(one, lambda found: found + second))


def test_a_key_outside_the_root_does_not_count(
    make: Make, three: list[Key], two_of_three: TrustRoot, now: list[datetime]
) -> None:
    mallory, info = make("mallory", "SIGN_VERIFY", "ES256"), make("orders").info
    refused(two_of_three, sealed_by([three[0], mallory], info, now))
    refused(two_of_three, sealed_by([mallory], info, now))


def test_a_root_does_not_take_a_key_twice_to_lower_its_threshold(three: list[Key]) -> None:
    public = three[0].public_key()
    rings: list[list[PublicKey | Key]] = [
        [public, public],
        [public, three[0]],
        [public, PublicKey.from_pem(public.pem(), "ES256")],
    ]
    for keys in rings:
        with pytest.raises(InvalidArgumentError, match="distinct"):
            TrustRoot(keys, threshold=2)


@pytest.mark.parametrize("threshold", [0, -1, 4])
def test_a_threshold_that_means_nothing(three: list[Key], threshold: int) -> None:
    with pytest.raises(InvalidArgumentError, match="threshold"):
        TrustRoot([key.public_key() for key in three], threshold=threshold)
    with pytest.raises(InvalidArgumentError, match="distinct"):
        TrustRoot([])


def test_one_rsa_key_under_two_algorithms_is_one_key(make: Make) -> None:
    public = make("rsa", "SIGN_VERIFY", "PS256").public_key()
    with pytest.raises(InvalidArgumentError, match="distinct"):
        TrustRoot([public, PublicKey.from_spki(public.spki, "RS256")], threshold=2)


def test_a_signature_of_the_right_key_by_another_algorithm(make: Make, now: list[datetime]) -> None:
    """The root binds a key to its algorithm; nothing in the document chooses another one."""
    key = make("rsa", "SIGN_VERIFY", "PS256")
    other = PublicKey.from_spki(key.public_key().spki, "RS256")
    data = sealed_by([key], make("orders").info, now)
    refused(TrustRoot([other], clock=lambda: now[0]), data)
    assert TrustRoot([key.public_key()], clock=lambda: now[0]).open(data, KeyInfo, name="orders")


def test_more_signatures_than_any_root_can_hold(
    make: Make, three: list[Key], two_of_three: TrustRoot, now: list[datetime]
) -> None:
    good = sealed_by(three, make("orders").info, now)
    junk = {"keyid": "", "sig": base64.b64encode(bytes(70)).decode()}
    refused(two_of_three, with_signatures(good, lambda found: found + [junk] * 14))
    assert two_of_three.open(with_signatures(good, lambda found: [junk] * 13 + found), KeyInfo, name="orders")


def test_no_document_is_countersigned_unseen(
    make: Make, three: list[Key], two_of_three: TrustRoot, now: list[datetime]
) -> None:
    good = sealed_by(three[:1], make("orders").info, now)
    looked_at = UnverifiedSeal.read(good)
    swapped = sealed_by(three[:1], make("attacker").info, now)
    with pytest.raises(SealError, match="looked at"):
        countersign(swapped, [three[1]], expected=looked_at)
    both = countersign(good, [three[1]], expected=looked_at)
    assert two_of_three.open(both, KeyInfo, name="orders")


def test_a_key_signs_a_document_once(make: Make, three: list[Key], now: list[datetime]) -> None:
    good = sealed_by(three[:1], make("orders").info, now)
    with pytest.raises(InvalidArgumentError, match="once"):
        countersign(good, [three[0]], expected=UnverifiedSeal.read(good))
    with pytest.raises(InvalidArgumentError, match="once"):
        sealed_by([three[0], three[0]], make("payments").info, now)


def test_an_encryption_key_seals_nothing(make: Make, now: list[datetime]) -> None:
    orders = make("orders")
    with pytest.raises(errors.KeyUsageError, match="SIGN_VERIFY or MAC"):
        sealed_by([orders], orders.info, now)
    with pytest.raises(errors.KeyUsageError):
        TrustRoot([orders])


# MAC keys


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_mac_seals_for_whoever_may_ask_its_key(make: Make, now: list[datetime], algorithm: str) -> None:
    mac, info = make("seals", "MAC", algorithm), make("orders").info
    root = TrustRoot([mac], clock=lambda: now[0])
    data = sealed_by([mac], info, now)
    assert root.open(data, KeyInfo, name="orders") == info
    other = sealed_by([make("other-seals", "MAC", algorithm)], info, now)
    claimed: str = json.loads(data)["signatures"][0]["keyid"]
    refused(root, with_signatures(other, lambda found: [found[0] | {"keyid": claimed}]))


@pytest.fixture
def two_doors(tmp_path: Path) -> Iterator[tuple[Key, Key]]:
    """One MAC key that two KeyInfo name by different URIs."""
    provider = ObservedProvider(
        LocalProvider.connect(ConnectionURI.parse(f"local://{tmp_path}/twin.db"), create=True)
    )
    client = KMSClient(provider, retry=RetryPolicy(max_attempts=1))
    key = client.key(client.generate_key(KeyConf("seals", "MAC", algorithm="HS256")))
    replica = replace(key.info, uri=KeyURI("local", "aaaaaaaaaaaaaaaaaaaaaaaaaa/seals", "1"))
    real_mac, real_verify = provider.mac, provider.verify_mac
    provider.mac = lambda info, message: real_mac(key.info, message)  # type: ignore[method-assign]
    provider.verify_mac = lambda info, message, tag: real_verify(key.info, message, tag)  # type: ignore[method-assign]
    yield key, client.key(replica)
    provider.close()


def test_one_mac_key_behind_two_uris_counts_once(
    two_doors: tuple[Key, Key], make: Make, now: list[datetime]
) -> None:
    info = make("orders").info
    root = TrustRoot(two_doors, threshold=2, clock=lambda: now[0])
    refused(root, sealed_by(list(two_doors), info, now))
    one = TrustRoot(two_doors, threshold=1, clock=lambda: now[0])
    assert one.open(sealed_by([two_doors[1]], info, now), KeyInfo, name="orders") == info


def test_a_root_key_that_cannot_be_asked_opens_nothing(
    make: Make, provider: ObservedProvider, now: list[datetime]
) -> None:
    mac, info = make("seals", "MAC", "HS256"), make("orders").info
    data = sealed_by([mac], info, now)
    provider.fail(Operation.VERIFY_MAC, lambda: errors.UnavailableError("down"))
    with pytest.raises(errors.UnavailableError):
        TrustRoot([mac], clock=lambda: now[0]).open(data, KeyInfo, name="orders")


def test_many_signatures_in_the_name_of_a_root_key_cost_no_calls(
    make: Make, provider: ObservedProvider, now: list[datetime]
) -> None:
    mac, info = make("seals", "MAC", "HS256"), make("orders").info
    root = TrustRoot([mac], clock=lambda: now[0])
    data = sealed_by([mac], info, now)
    calls = len(provider.calls)
    refused(root, with_signatures(data, lambda found: found * 16))
    assert len(provider.calls) == calls
    assert root.open(data, KeyInfo, name="orders") == info
    assert len(provider.calls) == calls + 1


def test_a_disabled_root_key_opens_nothing(make: Make, client: KMSClient, now: list[datetime]) -> None:
    signer, info = make("admin-live", "SIGN_VERIFY", "ES256"), make("orders").info
    data = sealed_by([signer], info, now)
    root = TrustRoot([signer], clock=lambda: now[0])
    assert root.open(data, KeyInfo, name="orders")
    client.disable_key(signer.info)
    with pytest.raises(errors.KeyDisabledError):
        root.open(data, KeyInfo, name="orders")


@pytest.mark.parametrize("algorithm", ["Ed25519", "ML-DSA-44", "HS256", "ES256", "PS256"])
def test_a_long_document_is_bound_to_its_last_byte(make: Make, now: list[datetime], algorithm: str) -> None:
    """Keys that take 4096 bytes at most sign a digest of more, and of nothing else."""
    purpose = "MAC" if algorithm == "HS256" else "SIGN_VERIFY"
    key = make("sealer", purpose, algorithm)
    public = key if purpose == "MAC" else key.public_key()
    root = TrustRoot([public], clock=lambda: now[0], audience="a" * 256)
    policy = Policy(required_context=frozenset(f"name-{n:04}" for n in range(500)))
    data = seal(policy, name="orders", signers=[key], generation=1, audience="a" * 256, clock=lambda: now[0])
    assert len(data) > 4096
    assert root.open(data, Policy, name="orders") == policy
    found: dict[str, Any] = json.loads(data)
    payload = base64.b64decode(found["payload"]).replace(b"name-0499", b"name-0599")
    edited = canonical_json(found | {"payload": base64.b64encode(payload).decode()})
    with pytest.raises(SealError):
        root.open(edited, Policy, name="orders")


def test_a_digest_is_not_taken_for_a_document(make: Make, now: list[datetime]) -> None:
    """What an Ed25519 key signs of a long document is itself of a kind that no root opens."""
    key = make("sealer", "SIGN_VERIFY", "Ed25519")
    root = TrustRoot([key.public_key()], clock=lambda: now[0])
    payload = bytes(64)
    signature = key.sign(pae("application/vnd.anykms.pae-sha512", payload))
    forged = canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": "application/vnd.anykms.pae-sha512",
            "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
        }
    )
    refused(root, forged)


def test_a_root_file_holds_public_keys_only(make: Make, three: list[Key], two_of_three: TrustRoot) -> None:
    text = two_of_three.to_json()
    assert b'"d"' not in text
    again = TrustRoot.from_json(text)
    assert again.to_json() == text
    with pytest.raises(errors.KeyUsageError):
        TrustRoot([make("seals", "MAC", "HS256")]).to_json()
    with pytest.raises(InvalidArgumentError):
        TrustRoot.from_json(text.replace(b'"threshold": 2', b'"threshold": 0'))
    with pytest.raises(InvalidArgumentError):
        TrustRoot.from_json(text.replace(b'"threshold": 2', b'"threshold": 2, "threshhold": 1'))
    with pytest.raises(InvalidArgumentError):
        TrustRoot.from_json(text.replace(b"ES256", b"HS256"))
