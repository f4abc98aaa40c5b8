"""Whoever can edit the place where an application keeps its sealed KeyInfo."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykms import (
    Key,
    KeyConf,
    KeyInfo,
    KMSClient,
    Policy,
    TrustRoot,
    UnverifiedKeyInfo,
    UnverifiedSeal,
    errors,
    seal,
)
from anykms.errors import SealError
from anykms.keys import canonical_json
from anykms.trust import KEY_INFO, pae
from anykms_contract.observed import ObservedProvider

Make = Callable[..., Key]
Sealed = Callable[..., bytes]


@pytest.fixture
def sealed(admin: Key, now: list[datetime]) -> Sealed:
    def one(document: Any, **changes: Any) -> bytes:
        chosen: dict[str, Any] = {
            "signers": [admin],
            "generation": 1,
            "audience": "shop",
            "clock": lambda: now[0],
        }
        return seal(document, **chosen | changes)

    return one


def envelope(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return found


def statement(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(envelope(data)["payload"]))
    return found


def with_statement(data: bytes, **changes: Any) -> bytes:
    """The document with its statement edited and its old signatures."""
    payload = canonical_json(statement(data) | changes)
    return canonical_json(envelope(data) | {"payload": base64.b64encode(payload).decode()})


def refused(root: TrustRoot, data: bytes, kind: Any = KeyInfo, name: str = "orders") -> None:
    with pytest.raises(SealError) as caught:
        root.open(data, kind, name=name)
    assert str(caught.value) == (
        "not a document that this root trusts for this name and audience now: altered, expired, outdated, "
        "meant for another use, or not signed by enough of its keys"
    )
    assert caught.value.__cause__ is None


def test_what_was_sealed_opens(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    info = make("orders").info
    assert root.open(sealed(info), KeyInfo, name="orders") == info


def test_substitution_of_the_attackers_key(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    good = sealed(make("orders").info)
    theirs = json.loads(make("attacker").info.to_json())
    refused(root, with_statement(good, document=theirs))


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "RSA-OAEP-256"},
        {"purpose": "MAC"},
        {"protection_level": "HSM"},
        {"sender_authenticated": False},
        {"uri": "local://aaaaaaaaaaaaaaaaaaaaaaaaaa/orders"},
        {"fingerprint": "0" * 64},
        {"tags": {"environment": "production"}},
        {"created_at": "2030-01-01T00:00:00Z"},
        {"destroy_window_enforced": False},
        {"conf_digest": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_edit_of_one_fact(make: Make, sealed: Sealed, root: TrustRoot, change: dict[str, Any]) -> None:
    good = sealed(make("orders").info)
    document = statement(good)["document"] | change
    refused(root, with_statement(good, document=document))


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 2},
        {"expires": "2099-01-01T00:00:00Z"},
        {"name": "payments"},
        {"audience": "test"},
        {"issued": "2025-01-01T00:00:00Z"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_edit_of_a_claim(make: Make, sealed: Sealed, root: TrustRoot, change: dict[str, Any]) -> None:
    good = sealed(make("orders").info)
    edited = with_statement(good, **change)
    refused(root, edited, name=change.get("name", "orders"))


def test_replay_under_another_name(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    refused(root, sealed(make("orders").info), name="payments")


def test_replay_in_another_environment(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    refused(root, sealed(make("orders").info, audience="shop-test"))


def test_replay_as_another_kind(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    conf = sealed(KeyConf("orders", "ENCRYPT_DECRYPT"))
    refused(root, conf)
    relabelled = canonical_json(envelope(conf) | {"payloadType": KEY_INFO.media_type})
    refused(root, relabelled)
    refused(root, sealed(make("orders").info), kind=Policy)


def test_rollback_to_an_older_document(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    old, new = sealed(make("orders").info), sealed(make("orders-2").info, name="orders", generation=2)
    root.open(old, KeyInfo, name="orders")
    root.open(new, KeyInfo, name="orders")
    refused(root, old)
    assert root.open(new, KeyInfo, name="orders").name == "orders-2"


def test_two_documents_of_one_generation(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    root.open(sealed(make("orders").info), KeyInfo, name="orders")
    refused(root, sealed(make("orders-2").info, name="orders"))


def test_an_expired_document(make: Make, sealed: Sealed, root: TrustRoot, now: list[datetime]) -> None:
    short = sealed(make("orders").info, expires=now[0] + timedelta(days=1))
    assert root.open(short, KeyInfo, name="orders")
    now[0] += timedelta(days=1)
    refused(root, short)


def test_a_document_without_signatures(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    bare = envelope(sealed(make("orders").info))
    bare["signatures"].clear()
    refused(root, canonical_json(bare))


def test_a_signature_of_another_document(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    one, other = sealed(make("orders").info), sealed(make("payments").info)
    refused(root, canonical_json(envelope(one) | {"signatures": envelope(other)["signatures"]}))


def test_the_attackers_own_key_under_the_administrators_key_id(
    make: Make, sealed: Sealed, root: TrustRoot, admin: Key
) -> None:
    forged = envelope(sealed(make("orders").info, signers=[make("attacker", "SIGN_VERIFY", "ES256")]))
    forged["signatures"][0]["keyid"] = admin.public_key().fingerprint
    refused(root, canonical_json(forged))


def test_a_mac_with_the_public_key_as_its_secret(
    make: Make, sealed: Sealed, root: TrustRoot, admin: Key
) -> None:
    """CVE-2022-29217: what is public must never serve as the key of a MAC."""
    good = envelope(sealed(make("orders").info))
    message = pae(KEY_INFO.media_type, base64.b64decode(good["payload"]))
    tag = hmac.digest(admin.public_key().pem().encode(), message, "sha256")
    good["signatures"] = [
        {"keyid": admin.public_key().fingerprint, "sig": base64.b64encode(tag).decode(), "alg": "HS256"}
    ]
    refused(root, canonical_json(good))
    del good["signatures"][0]["alg"]
    refused(root, canonical_json(good))


def test_a_signature_over_the_payload_without_its_type(
    make: Make, sealed: Sealed, root: TrustRoot, admin: Key
) -> None:
    good = envelope(sealed(make("orders").info))
    bare = admin.sign(base64.b64decode(good["payload"]))
    good["signatures"][0]["sig"] = base64.b64encode(bare).decode()
    refused(root, canonical_json(good))


REWRITES: dict[str, Callable[[bytes], bytes]] = {
    "spaces": lambda data: json.dumps(json.loads(data)).encode(),
    "order": lambda data: json.dumps(
        dict(reversed(json.loads(data).items())), separators=(",", ":")
    ).encode(),
    "newline": lambda data: data + b"\n",
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "unknown member": lambda data: canonical_json({**json.loads(data), "x": 1}),
    "name twice": lambda data: data[:-1] + b',"signatures":[]}',
    "escaped letters": lambda data: data.replace(b"payloadType", b"payload\\u0054ype"),
    "utf-16": lambda data: data.decode().encode("utf-16"),
    "cut": lambda data: data[:-1],
    "empty": lambda data: b"",
    "another type": lambda data: b"[]",
    "deep": lambda data: b"[" * 100_000,
    "huge": lambda data: data + b" " * 2**20,
    "float": lambda data: b'{"payload":1.0,"payloadType":"","signatures":[]}',
    "surrogate": lambda data: data.replace(b"payloadType", b"\\ud800"),
    "url-safe base64": lambda data: (
        data.replace(b"+", b"-").replace(b"/", b"_") if b"+" in data or b"/" in data else data[:-2]
    ),
    "line break in base64": lambda data: data.replace(b'"payload":"', b'"payload":"\\n'),
    "a bare KeyInfo": lambda data: canonical_json(statement(data)["document"]),
    "a bare statement": lambda data: canonical_json(statement(data)),
}


@pytest.mark.parametrize("rewrite", REWRITES.values(), ids=REWRITES.keys())
def test_other_bytes_with_the_same_signature(
    make: Make, sealed: Sealed, root: TrustRoot, rewrite: Callable[[bytes], bytes]
) -> None:
    good = sealed(make("orders").info)
    assert rewrite(good) != good
    refused(root, rewrite(good))


def test_a_payload_that_is_not_canonical_though_signed(
    make: Make, admin: Key, root: TrustRoot, sealed: Sealed
) -> None:
    """Even an administrator's key does not make two spellings of one document."""
    good = sealed(make("orders").info)
    payload = json.dumps(statement(good), indent=1).encode()
    signature = admin.sign(pae(KEY_INFO.media_type, payload))
    refused(
        root,
        canonical_json(
            {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": KEY_INFO.media_type,
                "signatures": [
                    {"keyid": admin.public_key().fingerprint, "sig": base64.b64encode(signature).decode()}
                ],
            }
        ),
    )


def signed(admin: Key, media_type: str, body: dict[str, Any]) -> bytes:
    payload = canonical_json(body)
    signature = admin.sign(pae(media_type, payload))
    return canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": media_type,
            "signatures": [
                {"keyid": admin.public_key().fingerprint, "sig": base64.b64encode(signature).decode()}
            ],
        }
    )


BAD_STATEMENTS: dict[str, dict[str, Any]] = {
    "generation 0": {"generation": 0},
    "generation as text": {"generation": "1"},
    "generation too large": {"generation": 2**53},
    "generation true": {"generation": True},
    "unknown member": {"critical": True},
    "expired when issued": {"expires": "2020-01-01T00:00:00Z"},
    "a date of another form": {"issued": "2026-01-01"},
    "a date that is none": {"issued": "2026-13-01T00:00:00Z"},
    "issued in the future": {"issued": "2026-01-01T00:06:00Z"},
    "no document": {"document": None},
    "document of another shape": {"document": {"name": "orders"}},
}


@pytest.mark.parametrize("change", BAD_STATEMENTS.values(), ids=BAD_STATEMENTS.keys())
def test_a_signed_statement_that_breaks_a_rule(
    make: Make, admin: Key, root: TrustRoot, sealed: Sealed, change: dict[str, Any]
) -> None:
    body = statement(sealed(make("orders").info))
    assert root.open(signed(admin, KEY_INFO.media_type, body), KeyInfo, name="orders")
    refused(root, signed(admin, KEY_INFO.media_type, body | change))


def test_facts_that_do_not_fit_together(make: Make, admin: Key, root: TrustRoot, sealed: Sealed) -> None:
    body = statement(sealed(make("orders").info))
    for change in ({"provider": "awskms"}, {"algorithm": "ES256"}, {"key_size": "2048"}, {"extra": 1}):
        refused(root, signed(admin, KEY_INFO.media_type, body | {"document": body["document"] | change}))


def test_any_flipped_bit(make: Make, sealed: Sealed, root: TrustRoot) -> None:
    good = sealed(make("orders").info)

    @settings(max_examples=100, database=None)
    @given(position=st.integers(0, len(good) - 1), bit=st.integers(0, 7))
    def attack(position: int, bit: int) -> None:
        edited = bytearray(good)
        edited[position] ^= 1 << bit
        # A changed key id alone changes nothing: it is a hint, and the signature decides.
        if _without_hints(bytes(edited)) != _without_hints(good):
            refused(root, bytes(edited))

    attack()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig", "keys", "alg", "x"]),
            inner,
        )
    ),
    max_leaves=12,
)


def test_any_bytes_and_any_json(root: TrustRoot) -> None:
    """Nothing but our own errors leaves a parser, whatever it reads."""

    @settings(max_examples=200, database=None)
    @given(data=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
    def attack(data: bytes) -> None:
        refused(root, data)
        with pytest.raises(SealError):
            UnverifiedSeal.read(data)
        with pytest.raises(errors.InvalidArgumentError):
            TrustRoot.from_json(data)

    attack()


@pytest.mark.parametrize(
    "keys",
    [
        [{"kty": 5, "alg": "ES256"}],
        [{"alg": "HS256", "k": "AAAA", "kty": "oct"}],
        [{"alg": "none"}],
        [{"alg": ["ES256"]}],
        [{}],
        ["ES256"],
        [],
    ],
    ids=str,
)
def test_a_root_of_keys_that_are_none(keys: list[Any]) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        TrustRoot.from_json(json.dumps({"audience": "", "keys": keys, "threshold": 1}).encode())


def _without_hints(data: bytes) -> object:
    try:
        found = envelope(data)
        for signature in found["signatures"]:
            signature["keyid"] = ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return data
    return found


def test_facts_without_a_seal_are_no_key(make: Make, client: KMSClient, provider: ObservedProvider) -> None:
    unverified = UnverifiedKeyInfo.from_json(make("orders").info.to_json())
    calls = len(provider.calls)
    with pytest.raises(TypeError, match="seal"):
        client.key(unverified)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the attack
    assert len(provider.calls) == calls


def test_a_refused_document_costs_no_call(
    make: Make, sealed: Sealed, root: TrustRoot, provider: ObservedProvider
) -> None:
    good = sealed(make("orders").info)
    calls = len(provider.calls)
    root.open(good, KeyInfo, name="orders")
    refused(root, with_statement(good, generation=7))
    assert len(provider.calls) == calls


def test_junk_signatures_cost_no_call_of_a_root_key_in_a_service(
    make: Make, sealed: Sealed, provider: ObservedProvider, now: list[datetime]
) -> None:
    mac = make("seals", "MAC", "HS256")
    root = TrustRoot([mac], audience="shop", clock=lambda: now[0])
    data = envelope(sealed(make("orders").info))
    calls = len(provider.calls)
    refused(root, canonical_json(data))
    assert len(provider.calls) == calls


def test_a_fact_that_the_provider_does_not_confirm(make: Make, client: KMSClient) -> None:
    """A KeyInfo of other facts, whoever sealed it, is refused when it is used, with both values."""
    info = make("orders").info
    wrong = replace(info, created_at=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(errors.IntegrityError, match=r"created_at: expected '2020-01-01.*found '2026"):
        client.key(wrong).wrap(bytes(32), context={})
