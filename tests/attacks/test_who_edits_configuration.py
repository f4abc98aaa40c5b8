"""Whoever can edit key configuration or policy where they are stored, or chooses keys that the policy forbids."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from anykms import (
    Algorithm,
    Key,
    KeyConf,
    KeyInfo,
    Keyring,
    KeyState,
    KeyURI,
    KMSClient,
    Policy,
    ProtectionLevel,
    TrustRoot,
    errors,
    seal,
)
from anykms.envelope.cache import DataKeyCache
from anykms.errors import InvalidArgumentError, PolicyError, SealError
from anykms.keys import canonical_json
from anykms.policy import region_of
from anykms.trust import POLICY, pae
from anykms_contract.observed import ObservedProvider

Make = Callable[..., Key]

CONF = KeyConf(
    "orders", "ENCRYPT_DECRYPT", protection_level="SOFTWARE", tags={"team": "x"}, destroy_window=30
)
STRICT = Policy(
    algorithms=frozenset({Algorithm.A256GCM, Algorithm.ES384}),
    providers=frozenset({"local"}),
    regions=frozenset({"local"}),
    min_key_size=3072,
    required_context=frozenset({"tenant"}),
    forbid_development_keys=True,
    max_key_age=timedelta(days=365),
    min_recipients=2,
    max_recipients=3,
    max_cache_age=timedelta(seconds=10),
    max_cache_messages=100,
    max_age=timedelta(days=30),
)


# Configuration


def test_a_sealed_conf_makes_the_key(
    client: KMSClient, admin: Key, root: TrustRoot, now: list[datetime]
) -> None:
    sealed = seal(CONF, signers=[admin], generation=1, audience="shop", clock=lambda: now[0])
    opened = root.open(sealed, KeyConf, name="orders")
    assert opened == CONF
    info = client.generate_key(opened)
    assert info.conf_digest == CONF.digest


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "RSA-OAEP-256", "key_size": 2048},
        {"protection_level": None},
        {"destroy_window": 7},
        {"purpose": "ASYMMETRIC_DECRYPT", "algorithm": "RSA-OAEP-256"},
        {"tags": {}},
        {"rotation_period": 2560},
        {"name": "attacker"},
        {"exportable": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_weakened_conf(admin: Key, root: TrustRoot, now: list[datetime], change: dict[str, Any]) -> None:
    sealed = seal(CONF, signers=[admin], generation=1, audience="shop", clock=lambda: now[0])
    envelope: dict[str, Any] = json.loads(sealed)
    statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    statement["document"] |= change
    envelope["payload"] = base64.b64encode(canonical_json(statement)).decode()
    with pytest.raises(SealError):
        root.open(canonical_json(envelope), KeyConf, name="orders")


def test_a_conf_without_a_seal_makes_nothing(client: KMSClient, provider: ObservedProvider) -> None:
    calls = len(provider.calls)
    with pytest.raises(TypeError):
        client.generate_key(json.loads(CONF.to_json()))
    assert len(provider.calls) == calls


# Policy documents


def test_every_rule_is_sealed(admin: Key, root: TrustRoot, now: list[datetime]) -> None:
    sealed = seal(
        STRICT, name="production", signers=[admin], generation=1, audience="shop", clock=lambda: now[0]
    )
    assert root.open(sealed, Policy, name="production") == STRICT
    assert root.open(sealed, Policy, name="production").digest() == STRICT.digest()


@pytest.mark.parametrize("rule", sorted(json.loads(Policy().to_json())))
def test_a_relaxed_policy(admin: Key, root: TrustRoot, now: list[datetime], rule: str) -> None:
    """Each rule of a sealed policy, set back to what allows most."""
    loose: dict[str, Any] = json.loads(Policy(require_sender_authentication=False).to_json())
    sealed = seal(
        STRICT, name="production", signers=[admin], generation=1, audience="shop", clock=lambda: now[0]
    )
    envelope: dict[str, Any] = json.loads(sealed)
    statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    for edited in (statement["document"] | {rule: loose[rule]}, _without(statement["document"], rule)):
        if edited == statement["document"]:
            continue
        payload = canonical_json(statement | {"document": edited})
        with pytest.raises(SealError):
            root.open(
                canonical_json(envelope | {"payload": base64.b64encode(payload).decode()}),
                Policy,
                name="production",
            )


def _without(document: dict[str, Any], rule: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != rule}


@pytest.mark.parametrize(
    "change",
    [
        {"suites": [1, 1]},
        {"suites": [True]},
        {"max_age": -1},
        {"max_age": 1.5},
        {"max_age": 10**30},
        {"max_recipients": 33},
        {"min_recipients": 4, "max_recipients": 3},
        {"algorithms": ["none"]},
        {"algorithms": "A256GCM"},
        {"min_protection_level": "hsm"},
        {"providers": ["b", "a"]},
        {"unknown_rule": True},
    ],
    ids=str,
)
def test_a_signed_policy_that_is_none(
    admin: Key, root: TrustRoot, now: list[datetime], change: dict[str, Any]
) -> None:
    """A rule that cannot be read is not a rule that is left out."""
    sealed = seal(
        Policy(), name="production", signers=[admin], generation=1, audience="shop", clock=lambda: now[0]
    )
    statement: dict[str, Any] = json.loads(base64.b64decode(json.loads(sealed)["payload"]))
    statement["document"] |= change
    payload = json.dumps(statement, separators=(",", ":"), sort_keys=True).encode()
    signature = admin.sign(pae(POLICY.media_type, payload))
    forged = canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": POLICY.media_type,
            "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
        }
    )
    with pytest.raises(SealError):
        root.open(forged, Policy, name="production")


@pytest.mark.parametrize(
    "rules",
    [
        {"providers": "local"},
        {"required_context": "tenant"},
        {"algorithms": frozenset({"none"})},
        {"suites": None},
        {"suites": frozenset({True})},
        {"require_sender_authentication": 0},
        {"min_key_size": 0},
        {"max_key_age": timedelta(seconds=-1)},
        {"max_key_age": timedelta.max},
        {"min_protection_level": "hsm"},
        {"min_recipients": 0},
        {"max_cache_messages": 0},
    ],
    ids=str,
)
def test_a_policy_that_would_not_mean_what_it_says(rules: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Policy(**rules)


# Keys that a policy forbids: each refusal names its rule, and nothing is sent


@pytest.mark.parametrize(
    ("rule", "policy", "conf"),
    [
        ("algorithms", Policy(algorithms=frozenset({Algorithm.ES384})), KeyConf("k1", "MAC", algorithm="HS256")),
        ("min_key_size", Policy(min_key_size=3072), KeyConf("k1", "SIGN_VERIFY", algorithm="PS256", key_size=2048)),
        ("min_protection_level", Policy(min_protection_level=ProtectionLevel.HSM), KeyConf("k1", "ENCRYPT_DECRYPT")),
        (
            "min_protection_level",
            Policy(min_protection_level=ProtectionLevel.HSM),
            KeyConf("k1", "ENCRYPT_DECRYPT", protection_level="SOFTWARE"),
        ),
        (
            "forbid_development_keys",
            Policy(forbid_development_keys=True),
            KeyConf("k1", "ENCRYPT_DECRYPT", tags={"environment": "development"}),
        ),
    ],
)  # fmt: skip
def test_a_forbidden_key_is_not_made(
    provider: ObservedProvider, rule: str, policy: Policy, conf: KeyConf
) -> None:
    with pytest.raises(PolicyError, match=f"policy rule {rule}: "):
        KMSClient(provider, policy=policy).generate_key(conf)
    assert provider.calls == []


def test_a_key_made_where_it_must_not_live_is_disabled(provider: ObservedProvider) -> None:
    """A provider alone knows where it makes keys: that rule is judged when the key is read back."""
    elsewhere = KMSClient(provider, policy=Policy(regions=frozenset({"eu-west-1"})))
    with pytest.raises(PolicyError, match=r"policy rule regions: .*; it is disabled"):
        elsewhere.generate_key(KeyConf("orders", "ENCRYPT_DECRYPT"))
    free = KMSClient(provider)
    assert free.describe_key(free.get_key("orders")).state is KeyState.DISABLED


FORBIDDING = {
    "providers": Policy(providers=frozenset({"awskms"})),
    "regions": Policy(regions=frozenset({"eu-west-1"})),
    "algorithms": Policy(algorithms=frozenset({Algorithm.ES256})),
    "min_protection_level": Policy(min_protection_level=ProtectionLevel.HSM),
    "forbid_development_keys": Policy(forbid_development_keys=True),
}


@pytest.mark.parametrize("rule", FORBIDDING)
def test_a_forbidden_key_is_not_used(client: KMSClient, provider: ObservedProvider, rule: str) -> None:
    info = client.generate_key(KeyConf("orders", "ENCRYPT_DECRYPT", tags={"environment": "development"}))
    key = client.key(info)
    calls = len(provider.calls)
    with pytest.raises(PolicyError, match=f"policy rule {rule}: "):
        Keyring([key], policy=FORBIDDING[rule])
    with pytest.raises(PolicyError, match=f"policy rule {rule}: "):
        KMSClient(provider, policy=FORBIDDING[rule]).key(info)
    assert len(provider.calls) == calls


def test_a_short_rsa_key_is_not_used(make: Make, provider: ObservedProvider) -> None:
    info = make("releases", "SIGN_VERIFY", "PS256").info
    with pytest.raises(PolicyError, match="policy rule min_key_size: "):
        KMSClient(provider, policy=Policy(min_key_size=4096)).key(info)


def test_an_old_key_protects_nothing_new(make: Make, provider: ObservedProvider, now: list[datetime]) -> None:
    aging = KMSClient(
        provider, policy=Policy(max_key_age=timedelta(days=365)), clock=lambda: now[0].timestamp()
    )
    orders, releases, tags = (
        aging.key(key.info)
        for key in (
            make("orders"),
            make("releases", "SIGN_VERIFY", "ES256"),
            make("tags", "MAC", "HS256"),
        )
    )
    ring = Keyring([orders])
    message, signature, tag = ring.encrypt(b"x", context={}), releases.sign(b"x"), tags.mac(b"x")
    wrapped = orders.wrap(bytes(32), context={})
    now[0] += timedelta(days=366)
    calls = len(provider.calls)
    uses: list[Callable[[], object]] = [
        lambda: ring.encrypt(b"x", context={}),
        lambda: releases.sign(b"x"),
        lambda: tags.mac(b"x"),
        lambda: orders.wrap(bytes(32), context={}),
    ]
    for use in uses:
        with pytest.raises(PolicyError, match=r"policy rule max_key_age: .*successor"):
            use()
    assert len(provider.calls) == calls
    assert ring.decrypt(message, context={}) == b"x"
    assert orders.unwrap(wrapped, context={}) == bytes(32)
    releases.verify(b"x", signature)
    tags.verify_mac(b"x", tag)


def test_a_context_that_lacks_what_it_must_have(make: Make, provider: ObservedProvider) -> None:
    lax, key = Keyring([make("orders")]), make("other")
    demanding = Policy(required_context=frozenset({"tenant"}))
    ring = Keyring([make("third")], policy=demanding)
    message = lax.encrypt(b"x", context={"user": "7"})
    calls = len(provider.calls)
    uses: list[Callable[[], object]] = [
        lambda: ring.encrypt(b"x", context={"user": "7"}),
        lambda: Keyring([key], policy=demanding).record(context={}),
        lambda: KMSClient(provider, policy=demanding).key(key.info).wrap(bytes(32), context={}),
    ]
    for use in uses:
        with pytest.raises(PolicyError, match="policy rule required_context: the context lacks tenant"):
            use()
    assert len(provider.calls) == calls
    assert ring.encrypt(b"x", context={"tenant": "42"})
    assert message


def test_a_message_of_another_tenants_lax_writer(make: Make, provider: ObservedProvider) -> None:
    key = make("orders")
    message = Keyring([key]).encrypt(b"x", context={"user": "7"})
    reader = Keyring([key], policy=Policy(required_context=frozenset({"tenant"})))
    calls = len(provider.calls)
    with pytest.raises(PolicyError, match="required_context"):
        reader.decrypt(message, context={"user": "7"})
    assert len(provider.calls) == calls


def test_too_few_recipients(make: Make, provider: ObservedProvider) -> None:
    one, two = make("one"), make("two")
    lonely = Keyring([one]).encrypt(b"x", context={})
    policy = Policy(min_recipients=2)
    calls = len(provider.calls)
    with pytest.raises(PolicyError, match="policy rule min_recipients: "):
        Keyring([one], policy=policy).encrypt(b"x", context={})
    with pytest.raises(PolicyError, match="policy rule min_recipients: "):
        Keyring([one], policy=policy).decrypt(lonely, context={})
    assert len(provider.calls) == calls
    assert Keyring([two], policy=policy).decrypt(
        Keyring([one, two], policy=policy).encrypt(b"x", context={}), context={}
    )


def test_too_many_recipients_to_encrypt_for(make: Make) -> None:
    ring = Keyring([make("one"), make("two")], policy=Policy(max_recipients=1))
    with pytest.raises(PolicyError, match="policy rule max_recipients: "):
        ring.encrypt(b"x", context={})


def test_a_key_that_only_decrypts_is_no_recipient(make: Make) -> None:
    old, new = make("old"), make("new")
    message = Keyring([old]).encrypt(b"x", context={})
    ring = Keyring([new], decrypt_only=[old])
    assert ring.decrypt(message, context={}) == b"x"
    with pytest.raises(errors.KeyNotAllowedError):
        Keyring([old]).decrypt(ring.encrypt(b"y", context={}), context={})
    reader = Keyring([], decrypt_only=[old])
    with pytest.raises(InvalidArgumentError, match="encrypt for"):
        reader.encrypt(b"x", context={})
    with pytest.raises(InvalidArgumentError, match="twice"):
        Keyring([old], decrypt_only=[old])


def test_rings_of_other_recipients_share_no_cached_data_key(make: Make) -> None:
    one, two, cache = make("one"), make("two"), DataKeyCache()
    both = Keyring([one, two], cache=cache)
    single = Keyring([one], decrypt_only=[two], cache=cache)
    both.encrypt(b"x", context={})
    with pytest.raises(errors.KeyNotAllowedError):
        Keyring([two]).decrypt(single.encrypt(b"x", context={}), context={})


@pytest.mark.parametrize(
    ("rule", "cache"),
    [
        ("max_cache_age", DataKeyCache(max_age=11, max_messages=10)),
        ("max_cache_messages", DataKeyCache(max_age=10, max_messages=101)),
    ],
)
def test_a_cache_that_keeps_too_much(make: Make, rule: str, cache: DataKeyCache) -> None:
    policy = Policy(max_cache_age=timedelta(seconds=10), max_cache_messages=100)
    with pytest.raises(PolicyError, match=f"policy rule {rule}: "):
        Keyring([make("orders")], policy=policy, cache=cache)
    assert Keyring([make("other")], policy=policy, cache=DataKeyCache(max_age=10, max_messages=100))


def test_regions_are_what_the_uri_says(make: Make) -> None:
    spelt = {
        "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab": "eu-west-1",
        "gcpkms://projects/p/locations/us-east1/keyRings/r/cryptoKeys/k": "us-east1",
        "azurekms://v.vault.azure.net/orders": "v.vault.azure.net",
        str(make("orders").info.uri): "local",
        "acmekms://kms.acme.example/k": "kms.acme.example",
    }
    assert {text: region_of(KeyURI.parse(text)) for text in spelt} == spelt


def test_the_conf_of_a_key_is_recorded(client: KMSClient) -> None:
    info: KeyInfo = client.generate_key(CONF)
    assert client.get_key("orders").conf_digest == info.conf_digest == CONF.digest
