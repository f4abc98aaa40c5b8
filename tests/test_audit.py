"""Audit events: one for each operation and refusal, what they say, and what they never hold."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from anykms import (
    Algorithm,
    DataKeyCache,
    Key,
    KeyConf,
    KeyInfo,
    Keyring,
    Keyset,
    KeysetAuthenticator,
    KeysetVerifier,
    KMSClient,
    KMSError,
    Ledger,
    MemoryRecordStore,
    Policy,
    Record,
    RetryPolicy,
    StoredRecords,
    TrustRoot,
    UnverifiedKeyInfo,
    UnverifiedSeal,
    connect,
    countersign,
    errors,
    seal,
)
from anykms.audit import (
    AuditDocument,
    AuditEvent,
    AuditFile,
    AuditReport,
    LoggingSink,
    OpenTelemetrySink,
    verify_audit_file,
)
from anykms.cli.application import application
from anykms.cli.failures import ExitCode
from anykms.client import DataKeyWrapper
from anykms.context import canonical_bytes
from anykms.envelope.stream import UNIT
from anykms.keys import ConnectionURI
from anykms.provider import WrapContext, Wrapped, note_request_id
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_local import LocalProvider

ORDERS = KeyConf("orders", "ENCRYPT_DECRYPT")
RELEASES = KeyConf("releases", "SIGN_VERIFY", algorithm="ES256")
TAGS = KeyConf("tags", "MAC", algorithm="HS256")
CONTEXT = {"tenant": "42"}
SECRET = b"4111 1111 1111 1111"


class Kept:
    """A sink in memory, that fails while it is told to."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.broken = False

    def record(self, event: AuditEvent) -> None:
        if self.broken:
            raise OSError("no space left on device")
        self.events.append(event)

    def last(self) -> AuditEvent:
        return self.events[-1]

    def names(self) -> list[tuple[str, str]]:
        """Operation and result of every event so far, which are then forgotten."""
        found = [(event.operation, event.result) for event in self.events]
        self.events.clear()
        return found


class Faulty(LocalProvider):
    """A keystore whose next wraps fail as told, and which names its requests."""

    failures: list[KMSError]

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        if self.failures:
            raise self.failures.pop(0)
        note_request_id("request-ok")
        return super().wrap(info, data_key, context)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def client(tmp_path: Path, kept: Kept) -> Iterator[KMSClient]:
    with audited_client(tmp_path, kept) as opened:
        yield opened


def audited_client(folder: Path, *sinks: Kept, **options: Any) -> KMSClient:
    return connect(
        f"local://{folder}/keys.db", create=True, audit=sinks, entity="orders-api", state_ttl=0.0, **options
    )


def digest(context: dict[str, str]) -> str:
    return hashlib.sha256(canonical_bytes(context)).hexdigest()


# What is told


def test_every_operation_leaves_one_event(client: KMSClient, kept: Kept) -> None:
    orders, releases, tags = [client.generate_key(conf) for conf in (ORDERS, RELEASES, TAGS)]
    assert kept.names() == [("KMSClient.generate_key", "ok")] * 3
    client.get_key("orders")
    list(client.list_keys())
    client.describe_key(orders)
    client.disable_key(orders)
    client.enable_key(orders)
    client.rotate_key(orders)
    client.schedule_destruction(orders)
    client.cancel_destruction(orders)
    client.enable_key(orders)
    assert kept.names() == [
        ("KMSClient.get_key", "ok"),
        ("KMSClient.list_keys", "ok"),
        ("KMSClient.describe_key", "ok"),
        ("KMSClient.disable_key", "ok"),
        ("KMSClient.enable_key", "ok"),
        ("KMSClient.rotate_key", "ok"),
        ("KMSClient.schedule_destruction", "ok"),
        ("KMSClient.cancel_destruction", "ok"),
        ("KMSClient.enable_key", "ok"),
    ]
    signer, macs, key = client.key(releases), client.key(tags), client.key(orders)
    signature, tag = signer.sign(b"m"), macs.mac(b"m")
    signer.verify(b"m", signature)
    signer.public_key()
    macs.verify_mac(b"m", tag)
    key.unwrap(key.wrap(bytes(32), context={}), context={})
    assert kept.names() == [
        ("Key.sign", "ok"),
        ("Key.mac", "ok"),
        ("Key.verify", "ok"),
        ("Key.public_key", "ok"),
        ("Key.verify_mac", "ok"),
        ("Key.wrap", "ok"),
        ("Key.unwrap", "ok"),
    ]
    ring = Keyring([key])
    message = ring.encrypt(SECRET, context=CONTEXT)
    ring.decrypt(message, context=CONTEXT)
    ring.decrypt_detailed(message, context=CONTEXT)
    assert kept.names() == [
        ("Keyring.encrypt", "ok"),
        ("Keyring.decrypt", "ok"),
        ("Keyring.decrypt_detailed", "ok"),
    ]


NOT_OPERATIONS = {
    # Properties and handles: nothing is done with a key yet.
    KMSClient: {"close", "provider", "capabilities", "key"},
    Key: {"info", "guarded", "allow"},
    # Audited without the decorator, for speed.
    Keyring: {"encrypt", "decrypt"}
    # What other modules of the envelope use of a ring or record belongs to their own operations.
    | {
        "keys",
        "prepare",
        "wrappers",
        "check_again",
        "allow_writing",
        "state_ttl",
        "new_record",
        "open_header",
    },
    Record: {"record_id", "to_bytes", "start"},
    StoredRecords: set[str](),
    # Audited without the decorator: it is generic, or belongs to the class.
    TrustRoot: {"open", "to_json", "audience", "clock", "check_signers", "generation_seen"},
    Keyset: {"save", "clock", "generation", "member", "ending"},
    KeysetVerifier: set[str](),
    KeysetAuthenticator: set[str](),
}


@pytest.mark.parametrize("kind", NOT_OPERATIONS, ids=lambda kind: kind.__name__)
def test_every_public_method_is_audited(kind: type) -> None:
    public = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
    bare = {name for name, member in public.items() if not hasattr(member, "__wrapped__")}
    assert bare == NOT_OPERATIONS[kind]


def test_an_event_says_who_what_when_and_with_which_key(client: KMSClient, kept: Kept) -> None:
    info = client.generate_key(ORDERS)
    client.rotate_key(info)
    ring = Keyring([client.key(info)])
    before = datetime.now(UTC)
    message = ring.encrypt(SECRET, context=CONTEXT, required=["tenant"])
    event = kept.last()
    assert event.operation == "Keyring.encrypt"
    assert event.entity == "orders-api"
    assert event.provider == "local"
    assert event.keys == (str(info.uri.with_version("2")),)
    assert event.context == digest(CONTEXT)
    assert event.result == "ok"
    assert event.calls == 1
    assert before <= event.time <= datetime.now(UTC)
    assert 0 < event.duration <= (datetime.now(UTC) - before).total_seconds()
    client.rotate_key(info)
    ring.decrypt(message, context=CONTEXT)
    assert kept.last().keys == (str(info.uri.with_version("2")),)


def test_a_generated_key_is_named_by_its_uri(client: KMSClient, kept: Kept) -> None:
    info = client.generate_key(RELEASES)
    assert kept.last().keys == (str(info.uri),)
    with pytest.raises(errors.KeyExistsError):
        client.generate_key(RELEASES)
    assert kept.last().result == "KeyExistsError"
    assert kept.last().keys == (str(info.uri),)
    with pytest.raises(errors.KeyNotFoundError):
        client.get_key("nobody")
    assert kept.last().keys == ("nobody",)


def test_a_message_for_several_keys_names_them_all(client: KMSClient, kept: Kept) -> None:
    infos = [client.generate_key(KeyConf(name, "ENCRYPT_DECRYPT")) for name in ("orders", "backup")]
    Keyring([client.key(info) for info in infos]).encrypt(SECRET, context={})
    assert kept.last().keys == tuple(str(info.uri.with_version("1")) for info in infos)
    assert kept.last().calls == 2
    assert kept.last().context == digest({})


def test_attempts_and_request_ids_are_told(tmp_path: Path, kept: Kept) -> None:
    provider = Faulty.connect(ConnectionURI.parse(f"local://{tmp_path}/keys.db"), create=True)
    provider.failures = []
    retry = RetryPolicy(sleep=lambda seconds: None)
    client = KMSClient(provider, retry=retry, audit=[kept], entity="orders-api")
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    provider.failures = [
        errors.ThrottledError("slow down", request_id="request-1"),
        errors.UnavailableError("no"),
    ]
    ring.encrypt(SECRET, context={})
    assert (kept.last().calls, kept.last().request_ids) == (3, ("request-1", "request-ok"))
    provider.failures = [errors.PermissionDeniedError("no", request_id="request-2")]
    with pytest.raises(errors.PermissionDeniedError):
        ring.encrypt(SECRET, context={})
    assert kept.last().result == "PermissionDeniedError"
    assert (kept.last().calls, kept.last().request_ids) == (1, ("request-2",))
    client.close()


def test_aws_names_its_requests(kept: Kept) -> None:
    with AWSEmulator() as aws, connect(aws.uri, audit=[kept], entity="orders-api", **aws.options) as client:
        key = client.key(client.generate_key(TAGS))
        key.mac(b"m")
        done = kept.last()
        aws.faults.add(operation="GenerateMac", kind="throttle")
        key.mac(b"m")
        retried = kept.last()
    assert (done.provider, done.keys, done.calls) == ("awskms", (str(key.info.uri),), 1)
    assert [len(request_id) for request_id in done.request_ids] == [36]
    assert retried.calls == 2
    assert len(retried.request_ids) == 2


def test_what_a_cache_answers_is_told_with_no_call(client: KMSClient, kept: Kept) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))], cache=DataKeyCache())
    message = ring.encrypt(SECRET, context=CONTEXT)
    ring.encrypt(SECRET, context=CONTEXT)
    assert (kept.last().operation, kept.last().calls) == ("Keyring.encrypt", 0)
    ring.decrypt(message, context=CONTEXT)
    ring.decrypt(message, context=CONTEXT)
    assert (kept.last().operation, kept.last().context) == ("Keyring.decrypt", digest(CONTEXT))


def test_records_and_changes_of_recipients_are_told(client: KMSClient, kept: Kept, tmp_path: Path) -> None:
    infos = [client.generate_key(KeyConf(name, "ENCRYPT_DECRYPT")) for name in ("old", "new")]
    old, new = [Keyring([client.key(info)]) for info in infos]
    message = old.encrypt(SECRET, context=CONTEXT)
    kept.events.clear()
    old.rewrap(message, to=new)
    assert kept.last().keys == tuple(str(info.uri.with_version("1")) for info in infos)
    old.reencrypt(message, to=new, context=CONTEXT)
    path = tmp_path / "message"
    path.write_bytes(message)
    old.rewrap_file(path, to=[client.key(infos[0])])
    assert kept.names() == [
        ("Keyring.rewrap", "ok"),
        ("Keyring.reencrypt", "ok"),
        ("Keyring.rewrap_file", "ok"),
    ]
    record = old.record(context=CONTEXT)
    value = record.seal(SECRET, aad=b"1")
    assert kept.last().context == digest(CONTEXT)
    with pytest.raises(errors.InvalidCiphertextError):
        record.open(value, aad=b"2")
    old.open_record(record.to_bytes(), context=CONTEXT)
    records = StoredRecords(old, MemoryRecordStore(), context=CONTEXT)
    pinned = records.create().record_id
    records.open(records.record(pinned).seal(SECRET, aad=b"1"), aad=b"1")
    records.rewrap(pinned, to=new)
    assert kept.names() == [
        ("Keyring.record", "ok"),
        ("Record.seal", "ok"),
        ("Record.open", "InvalidCiphertextError"),
        ("Keyring.open_record", "ok"),
        ("StoredRecords.create", "ok"),
        ("StoredRecords.record", "ok"),
        ("Record.seal", "ok"),
        ("StoredRecords.open", "ok"),
        ("StoredRecords.rewrap", "ok"),
    ]


def test_azure_names_its_requests(kept: Kept) -> None:
    with AzureEmulator() as az, connect(az.uri, audit=[kept], entity="orders-api", **az.options) as client:
        key = client.key(client.generate_key(RELEASES))
        key.sign(b"m")
        kept.events.clear()
        key.sign(b"m")
    (event,) = kept.events
    assert (event.provider, event.keys, event.calls) == ("azurekms", (str(key.info.uri),), 1)
    assert len(event.request_ids) == 1


# Refusals


def test_every_refusal_leaves_one_event(client: KMSClient, kept: Kept) -> None:
    orders, releases = client.generate_key(ORDERS), client.generate_key(RELEASES)
    other = client.generate_key(KeyConf("other", "ENCRYPT_DECRYPT"))
    key, signer = client.key(orders), client.key(releases)
    ring, foreign = Keyring([key]), Keyring([client.key(other)])
    message = ring.encrypt(SECRET, context=CONTEXT)
    signature = signer.sign(b"m")
    wrapped = key.wrap(bytes(32), context={})
    strict = Keyring([key], policy=Policy(suites=frozenset()))
    kept.events.clear()

    def refused(act: Callable[[], object], kind: type[BaseException], calls: int = 0) -> AuditEvent:
        with pytest.raises(kind):
            act()
        (event,) = kept.events
        kept.events.clear()
        assert event.result == kind.__name__
        assert event.calls == calls
        return event

    event = refused(lambda: foreign.decrypt(message, context=CONTEXT), errors.KeyNotAllowedError)
    assert (event.operation, event.keys, event.context) == ("Keyring.decrypt", (), digest(CONTEXT))
    event = refused(lambda: ring.decrypt(message, context={"tenant": "43"}), errors.ContextMismatchError)
    assert event.context == digest({"tenant": "43"})
    refused(lambda: strict.decrypt(message, context=CONTEXT), errors.PolicyError)
    refused(lambda: ring.decrypt(message, context=CONTEXT, min_generation=1), errors.StaleMessageError)
    refused(lambda: ring.decrypt(message[:20], context=CONTEXT), errors.InvalidCiphertextError)
    flipped = message[:-1] + bytes([message[-1] ^ 1])
    event = refused(lambda: ring.decrypt(flipped, context=CONTEXT), errors.InvalidCiphertextError, calls=1)
    assert event.keys == (str(orders.uri.with_version("1")),)
    event = refused(lambda: client.key(other).unwrap(wrapped, context={}), errors.KeyNotAllowedError)
    assert event.keys == (str(other.uri),)
    event = refused(lambda: key.sign(b"m"), errors.KeyUsageError)
    assert (event.operation, event.keys) == ("Key.sign", (str(orders.uri),))
    refused(lambda: signer.verify(b"n", signature), errors.InvalidSignatureError, calls=1)
    refused(lambda: signer.sign(b"m", encoding="PEM"), errors.InvalidArgumentError)
    refused(lambda: client.rotate_key(releases), errors.UnsupportedOperationError)
    refused(lambda: ring.encrypt("text", context={}), TypeError)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # refused
    refused(lambda: ring.encrypt(b"", context={"anykms": "x"}), errors.InvalidArgumentError)
    client.disable_key(orders)
    kept.events.clear()
    refused(lambda: ring.decrypt(message, context=CONTEXT), errors.KeyDisabledError, calls=1)


def test_a_state_that_is_remembered_is_refused_without_a_call(tmp_path: Path, kept: Kept) -> None:
    client = connect(f"local://{tmp_path}/keys.db", create=True, audit=[kept], entity="orders-api")
    key = client.key(client.generate_key(TAGS))
    client.disable_key(key.info)
    client.describe_key(key.info)
    with pytest.raises(errors.KeyDisabledError):
        key.mac(b"m")
    assert (kept.last().result, kept.last().calls, kept.last().keys) == (
        "KeyDisabledError",
        0,
        (str(key.info.uri),),
    )
    client.close()


def test_an_event_never_holds_data(client: KMSClient, kept: Kept) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    context = {"patient": "ada-lovelace"}
    message = ring.encrypt(SECRET, context=context, aad=b"row-of-ada")
    ring.decrypt(message, context=context, aad=b"row-of-ada")
    for wrong in ({"patient": "grace-hopper"}, {"anykms-patient": "ada-lovelace"}, "ada-lovelace"):
        with pytest.raises((KMSError, TypeError)):
            ring.decrypt(message, context=wrong, aad=b"row-of-ada")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # refused
    for act in (
        lambda: client.get_key("ada\nlovelace"),
        lambda: ring.encrypt(SECRET.decode(), context={}),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # refused
    ):
        with pytest.raises((KMSError, TypeError)):
            act()
    text = repr(kept.events)
    for secret in ("4111", "ada", "grace", "hopper"):
        assert secret not in text


def test_operations_of_two_clients_go_to_both_trails_once(tmp_path: Path, kept: Kept) -> None:
    second = Kept()
    (tmp_path / "b").mkdir()
    first = audited_client(tmp_path, kept)
    other = connect(f"local://{tmp_path}/b/keys.db", create=True, audit=[kept, second], entity="backup-job")
    ring = Keyring([c.key(c.generate_key(ORDERS)) for c in (first, other)])
    kept.events.clear()
    second.events.clear()
    ring.encrypt(SECRET, context={})
    assert [event.entity for event in kept.events] == ["orders-api"]
    assert [event.entity for event in second.events] == ["backup-job"]
    first.close()
    other.close()


def test_a_keystore_whose_root_is_an_audited_key_tells_of_it_once(tmp_path: Path, kept: Kept) -> None:
    (tmp_path / "outer").mkdir()
    root_client = audited_client(tmp_path, kept)
    root = root_client.key(root_client.generate_key(ORDERS))

    class Root:
        def wrap(self, secret: bytes) -> bytes:
            return root.wrap(secret, context={})

        def unwrap(self, wrapped: bytes) -> bytes:
            return root.unwrap(wrapped, context={})

    kept.events.clear()
    with connect(f"local://{tmp_path}/outer/keys.db", create=True, root=Root()) as client:
        client.generate_key(ORDERS)
    assert ("Key.wrap", "ok") in kept.names()
    root_client.close()


def test_a_call_outside_of_any_method_is_told_too(client: KMSClient, kept: Kept) -> None:
    key = client.key(client.generate_key(ORDERS))
    kept.events.clear()
    DataKeyWrapper.of(key).wrap(bytes(32), WrapContext({}, b""))
    (event,) = kept.events
    assert (event.operation, event.keys, event.calls) == ("wrap", (str(key.info.uri.with_version("1")),), 1)


def test_a_client_without_sinks_tells_nobody(tmp_path: Path) -> None:
    with connect(f"local://{tmp_path}/keys.db", create=True, entity="orders-api") as client:
        assert Keyring([client.key(client.generate_key(ORDERS))]).encrypt(b"", context={})


@pytest.mark.parametrize("entity", [None, "", "a\nb", "x" * 257])
def test_a_trail_needs_an_entity(tmp_path: Path, kept: Kept, entity: str | None) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="entity="):
        connect(f"local://{tmp_path}/keys.db", create=True, audit=[kept], entity=entity)


# Seals and keysets

KEYSET_TYPE = "application/vnd.anykms.keyset.v1+json"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Sealed:
    """A root and keysets whose every operation is told to one sink."""

    def __init__(self, folder: Path, client: KMSClient, kept: Kept) -> None:
        self.client = client
        self.admin = self.key(RELEASES)
        self.path = folder / "orders.keyset"
        self.kept = kept
        self.root = TrustRoot(
            [self.admin.public_key()], ledger=Ledger(folder / "ledger.db"), audit=[kept], entity="orders-api"
        )
        kept.events.clear()

    def key(self, conf: KeyConf) -> Key:
        return self.client.key(self.client.generate_key(conf))

    def save(self, keyset: Keyset) -> Keyset:
        return keyset.save(self.path, self.root, signers=[self.admin])

    def load(self) -> Keyset:
        return Keyset.load(self.path, self.root, name="orders")

    def told(self) -> AuditEvent:
        (event,) = self.kept.events
        self.kept.events.clear()
        return event


@pytest.fixture
def sealed(tmp_path: Path, client: KMSClient, kept: Kept) -> Sealed:
    return Sealed(tmp_path, client, kept)


def test_a_seal_and_its_opening_leave_one_event_each(sealed: Sealed) -> None:
    conf = KeyConf("orders", "ENCRYPT_DECRYPT", tags={"team": "ada-lovelace"})
    made = seal(conf, signers=[sealed.admin], generation=7)
    event = sealed.told()
    wanted = AuditDocument(
        kind="application/vnd.anykms.keyconf.v1+json", name="orders", generation=7, digest=sha256(made)
    )
    assert (event.operation, event.result, event.document) == ("seal", "ok", wanted)
    assert event.keys == (str(sealed.admin.info.uri),)
    sealed.root.open(made, KeyConf, name="orders")
    event = sealed.told()
    assert (event.operation, event.result, event.document) == ("TrustRoot.open", "ok", wanted)
    assert (event.entity, event.calls) == ("orders-api", 0)
    assert "ada-lovelace" not in repr(event)
    second = sealed.key(KeyConf("second", "SIGN_VERIFY", algorithm="ES256"))
    sealed.kept.events.clear()
    more = countersign(made, [second], expected=UnverifiedSeal.read(made))
    event = sealed.told()
    assert event.operation == "countersign"
    assert event.document == msgspec.structs.replace(wanted, digest=sha256(more))


def test_every_refusal_of_a_seal_leaves_one_event(sealed: Sealed) -> None:
    conf = KeyConf("orders", "ENCRYPT_DECRYPT")
    older, newer = (seal(conf, signers=[sealed.admin], generation=n) for n in (1, 2))
    sealed.root.open(newer, KeyConf, name="orders")
    flipped = newer.replace(b'"sig":"', b'"sig":"AAAA')
    sealed.kept.events.clear()

    def refused(act: Callable[[], object], kind: type[BaseException]) -> AuditEvent:
        with pytest.raises(kind):
            act()
        event = sealed.told()
        assert (event.result, event.calls) == (kind.__name__, 0)
        return event

    for data, generation in ((older, 1), (flipped, 2), (b"junk", None)):
        event = refused(lambda data=data: sealed.root.open(data, KeyConf, name="orders"), errors.SealError)  # type: ignore[misc] # bound now
        assert event.document == AuditDocument(
            kind="application/vnd.anykms.keyconf.v1+json",
            name="orders",
            generation=generation,
            digest=sha256(data),
        )
    event = refused(lambda: sealed.root.open(newer, KeyInfo, name="invoices"), errors.SealError)
    assert event.document is not None
    assert (event.document.kind, event.document.name) == (
        "application/vnd.anykms.keyinfo.v1+json",
        "invoices",
    )
    refused(lambda: sealed.root.open_sealed("text", KeyConf, name="orders"), TypeError)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # refused
    expired = datetime.now(UTC) - timedelta(days=1)
    event = refused(
        lambda: seal(conf, signers=[sealed.admin], generation=3, expires=expired), errors.InvalidArgumentError
    )
    assert event.operation == "seal"
    looked_at = UnverifiedSeal.read(older)
    event = refused(lambda: countersign(newer, [sealed.admin], expected=looked_at), errors.SealError)
    assert event.operation == "countersign"
    orders = sealed.key(ORDERS)
    sealed.kept.events.clear()
    refused(lambda: seal(conf, signers=[orders], generation=3), errors.KeyUsageError)


def test_a_root_tells_the_clients_of_its_keys(client: KMSClient, kept: Kept, tmp_path: Path) -> None:
    mac = client.key(client.generate_key(TAGS))
    made = seal(Policy(), name="shop", signers=[mac], generation=1)
    kept.events.clear()
    TrustRoot([mac]).open(made, Policy, name="shop")
    (event,) = kept.events
    assert (event.operation, event.keys, event.calls) == ("TrustRoot.open", (str(mac.info.uri),), 1)


def test_a_root_from_a_file_has_its_own_trail(sealed: Sealed) -> None:
    root = TrustRoot.from_json(sealed.root.to_json(), audit=[sealed.kept], entity="invoices-api")
    with pytest.raises(errors.SealError):
        root.open(b"{}", Policy, name="shop")
    assert sealed.told().entity == "invoices-api"
    with pytest.raises(errors.InvalidArgumentError, match="entity="):
        TrustRoot.from_json(sealed.root.to_json(), audit=[sealed.kept])


def test_every_edit_of_a_keyset_leaves_one_event(sealed: Sealed) -> None:
    first, second, third = (
        sealed.key(KeyConf(f"orders-{n}", "ENCRYPT_DECRYPT")) for n in ("one", "two", "three")
    )
    sealed.kept.events.clear()

    def edited(operation: str, generation: int, detail: str, *keys: Key) -> None:
        event = sealed.told()
        assert (event.operation, event.result, event.entity) == (operation, "ok", "orders-api")
        assert event.document == AuditDocument(
            kind=KEYSET_TYPE, name="orders", generation=generation, digest=None, detail=detail
        )
        assert event.keys == tuple(str(key.info.uri) for key in keys)

    def saved(keyset: Keyset) -> Keyset:
        done = sealed.save(keyset)
        event = sealed.told()
        assert (event.operation, event.result) == ("Keyset.save", "ok")
        assert event.document == AuditDocument(
            kind=KEYSET_TYPE,
            name="orders",
            generation=keyset.generation + 1,
            digest=sha256(sealed.path.read_bytes()),
        )
        return done

    keyset = Keyset.create("orders", first)
    edited("Keyset.create", 0, "active", first)
    saved(keyset)
    keyset = sealed.load()
    loaded = sealed.told()
    assert (loaded.operation, loaded.result) == ("Keyset.load", "ok")
    assert loaded.document == AuditDocument(
        kind=KEYSET_TYPE, name="orders", generation=1, digest=sha256(sealed.path.read_bytes())
    )
    keyset = keyset.add(second)
    edited("Keyset.add", 1, "pre-activation", second)
    keyset = keyset.promote(second.info.uri)
    edited("Keyset.promote", 1, "primary", second)
    keyset = saved(keyset).move(first.info.uri, "deactivated")
    edited("Keyset.move", 2, "deactivated", first)
    keyset = keyset.succeed(third)
    edited("Keyset.succeed", 2, "succeeded", second, third)
    keyset = keyset.move(first.info.uri, "compromised")
    edited("Keyset.move", 2, "compromised", first)
    keyset = keyset.move(first.info.uri, "destroyed").remove(first.info.uri)
    assert [(e.operation, e.document and e.document.detail) for e in sealed.kept.events] == [
        ("Keyset.move", "destroyed"),
        ("Keyset.remove", "removed"),
    ]
    sealed.kept.events.clear()
    sealed.client.disable_key(second.info)
    sealed.kept.events.clear()
    assert len(keyset.check([sealed.client])) == 1
    event = sealed.told()
    assert (event.operation, event.document and event.document.detail) == ("Keyset.check", "1 differences")
    assert event.calls > 1


def test_every_refusal_of_a_keyset_leaves_one_event(sealed: Sealed, tmp_path: Path) -> None:
    first, second = (sealed.key(KeyConf(f"orders-{n}", "ENCRYPT_DECRYPT")) for n in ("one", "two"))
    stranger = sealed.admin.info.uri.without_version()
    keyset = sealed.save(Keyset.create("orders", first))
    stale = sealed.load()
    keyset = sealed.save(keyset.add(second, activate=True))
    suspended = keyset.move(first.info.uri, "suspended")
    data = sealed.path.read_bytes()
    sealed.kept.events.clear()

    def refused(act: Callable[[], object], kind: type[BaseException], operation: str) -> AuditEvent:
        with pytest.raises(kind):
            act()
        event = sealed.told()
        assert (event.operation, event.result) == (operation, kind.__name__)
        if event.document is not None:
            assert event.document.kind == KEYSET_TYPE
        return event

    refused(lambda: keyset.add(second), errors.InvalidArgumentError, "Keyset.add")
    refused(lambda: keyset.add(sealed.admin), errors.KeyUsageError, "Keyset.add")
    event = refused(lambda: keyset.promote(stranger), errors.KeyNotFoundError, "Keyset.promote")
    assert event.keys == (str(stranger),)
    refused(lambda: keyset.succeed(second), errors.InvalidArgumentError, "Keyset.succeed")
    event = refused(lambda: keyset.move(first.info.uri, "destroyed"), errors.KeyStateError, "Keyset.move")
    assert event.keys == (str(first.info.uri),)
    assert event.document is not None
    assert (event.document.generation, event.document.detail) == (2, "destroyed")
    refused(lambda: keyset.remove(first.info.uri), errors.KeyStateError, "Keyset.remove")
    refused(lambda: sealed.save(stale), errors.ConflictError, "Keyset.save")
    refused(lambda: keyset.save(sealed.path, sealed.root, signers=[]), errors.SealError, "Keyset.save")
    refused(lambda: keyset.check([]), errors.InvalidArgumentError, "Keyset.check")
    refused(lambda: suspended.keyring([sealed.client]), errors.KeyStateError, "Keyset.keyring")
    refused(lambda: keyset.signer([sealed.client]), errors.KeyUsageError, "Keyset.signer")
    refused(lambda: keyset.verifier(), errors.KeyUsageError, "Keyset.verifier")
    refused(lambda: keyset.authenticator([sealed.client]), errors.KeyUsageError, "Keyset.authenticator")
    refused(lambda: keyset.jwks(), errors.KeyUsageError, "Keyset.jwks")
    sealed.path.write_bytes(data[:-1])
    event = refused(sealed.load, errors.SealError, "Keyset.load")
    assert event.document is not None
    assert event.document.digest == sha256(data[:-1])
    sealed.path.unlink()
    event = refused(sealed.load, FileNotFoundError, "Keyset.load")
    assert event.document is not None
    assert (event.document.name, event.document.digest) == ("orders", None)


def test_what_a_keyset_verifies_is_told(sealed: Sealed) -> None:
    keyset = Keyset.create("releases", sealed.admin)
    signature = sealed.admin.sign(b"m")
    sealed.kept.events.clear()
    verifier = keyset.verifier()
    verifier.verify(b"m", signature)
    with pytest.raises(errors.InvalidSignatureError):
        verifier.verify(b"n", signature)
    opening, done, refused = sealed.kept.events
    assert (opening.operation, opening.result) == ("Keyset.verifier", "ok")
    assert (done.operation, done.result, done.keys) == (
        "KeysetVerifier.verify",
        "ok",
        (str(sealed.admin.info.uri),),
    )
    assert (refused.result, refused.keys, refused.calls) == ("InvalidSignatureError", (), 0)


def test_a_tag_of_an_older_member_is_one_event(sealed: Sealed) -> None:
    old, new = (sealed.key(KeyConf(f"tags-{n}", "MAC", algorithm="HS256")) for n in ("one", "two"))
    macs = Keyset.create("tags", old).succeed(new).authenticator([sealed.client])
    tag = old.mac(b"m")
    sealed.kept.events.clear()
    macs.mac(b"m")
    event = sealed.told()
    assert (event.operation, event.keys) == ("KeysetAuthenticator.mac", (str(new.info.uri),))
    macs.verify_mac(b"m", tag)
    event = sealed.told()
    assert (event.operation, event.result, event.calls) == ("KeysetAuthenticator.verify_mac", "ok", 2)
    with pytest.raises(errors.InvalidMacError):
        macs.verify_mac(b"n", tag)
    assert sealed.told().result == "InvalidMacError"


def test_a_sink_that_fails_withholds_a_document(sealed: Sealed) -> None:
    made = seal(Policy(), name="shop", signers=[sealed.admin], generation=1)
    sealed.kept.broken = True
    with pytest.raises(errors.AuditError, match=r"TrustRoot\.open was done"):
        sealed.root.open(made, Policy, name="shop")


def test_a_document_is_told_to_opentelemetry(sealed: Sealed) -> None:
    spans = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    made = seal(Policy(), name="shop", signers=[sealed.admin], generation=4)
    root = TrustRoot([sealed.admin.public_key()], audit=[OpenTelemetrySink(tracing)], entity="orders-api")
    root.open(made, Policy, name="shop")
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    found = {name: value for name, value in span.attributes.items() if name.startswith("anykms.document")}
    assert found == {
        "anykms.document.kind": "application/vnd.anykms.policy.v1+json",
        "anykms.document.name": "shop",
        "anykms.document.generation": 4,
        "anykms.document.digest": sha256(made),
    }


def test_an_old_file_of_events_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    line = json.loads(written(path, 1)[0])
    assert line["event"].pop("document") is None
    old = json.dumps(line).encode()
    path.write_bytes(old + b"\n")
    head = {"records": 1, "size": len(old) + 1, "head": sha256(bytes(32) + old)}
    path.with_name(path.name + ".head").write_text(json.dumps(head))
    assert verify_audit_file(path).records == 1


# What is found out after the operation


def big(ring: Keyring) -> bytes:
    """A message of three units, so that damage shows after the first was given."""
    return ring.encrypt(bytes(3 * UNIT), context=CONTEXT)


def test_a_stream_that_meets_damage_leaves_the_event_of_a_refusal(client: KMSClient, kept: Kept) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    message = big(ring)
    damaged = bytearray(message)
    damaged[-UNIT] ^= 1
    for data, kind in (
        (bytes(damaged), errors.InvalidCiphertextError),
        (message[:-20_000], errors.TruncatedMessageError),
    ):
        kept.events.clear()
        reader = ring.decrypt_stream(io.BytesIO(data), context=CONTEXT)
        assert reader.read(1000) == bytes(1000)
        assert kept.names() == [("Keyring.decrypt_stream", "ok")]
        # However often it is read on and closed, it is refused once.
        for act in (reader.read, reader.read, reader.close):
            with pytest.raises(kind):
                act()
        (event,) = kept.events
        assert (event.operation, event.result) == ("MessageReader.read", kind.__name__)
        assert event.keys == (str(ring.keys[0].uri.with_version("1")),)
        assert (event.provider, event.context, event.calls) == ("local", digest(CONTEXT), 0)
        assert (event.entity, event.document) == ("orders-api", None)


def test_a_stream_that_is_closed_before_its_end_leaves_an_event(client: KMSClient, kept: Kept) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    reader = ring.decrypt_stream(io.BytesIO(big(ring)), context=CONTEXT)
    kept.events.clear()
    with pytest.raises(errors.TruncatedMessageError):
        reader.close()
    assert kept.names() == [("MessageReader.close", "TruncatedMessageError")]


def test_a_whole_stream_and_an_aborted_one_leave_no_more_events(client: KMSClient, kept: Kept) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    message = big(ring)
    kept.events.clear()
    with ring.decrypt_stream(io.BytesIO(message), context=CONTEXT) as reader:
        assert len(reader.read()) == 3 * UNIT
    ring.decrypt_stream(io.BytesIO(message), context=CONTEXT).abort()
    assert kept.names() == [("Keyring.decrypt_stream", "ok")] * 2


def test_a_file_that_meets_damage_leaves_an_event_each_time(
    client: KMSClient, kept: Kept, tmp_path: Path
) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    damaged = bytearray(big(ring))
    damaged[-UNIT] ^= 1
    path = tmp_path / "message"
    path.write_bytes(damaged)
    kept.events.clear()
    with ring.open(path, context=CONTEXT) as file:
        assert file.read(1000) == bytes(1000)
        for _ in range(2):
            with pytest.raises(errors.InvalidCiphertextError):
                file.read()
        path.write_bytes(damaged[: 2 * UNIT])
        file.seek(2 * UNIT + 50_000)
        with pytest.raises(errors.InvalidCiphertextError):
            file.read()
    assert kept.names() == [
        ("Keyring.open", "ok"),
        *[("MessageFile.read", "InvalidCiphertextError")] * 3,
    ]


def test_damage_within_another_operation_is_part_of_it(client: KMSClient, kept: Kept) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    damaged = bytearray(big(ring))
    damaged[-UNIT] ^= 1
    kept.events.clear()
    with pytest.raises(errors.InvalidCiphertextError):
        ring.reencrypt_stream(io.BytesIO(damaged), io.BytesIO(), to=ring, context=CONTEXT)
    assert kept.names() == [("Keyring.reencrypt_stream", "InvalidCiphertextError")]


def test_a_failing_sink_leaves_the_refusal_of_a_stream_what_it_is(client: KMSClient, kept: Kept) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    message = big(ring)
    reader = ring.decrypt_stream(io.BytesIO(message[:-20_000]), context=CONTEXT)
    kept.broken = True
    with pytest.raises(errors.TruncatedMessageError) as caught:
        reader.read()
    assert caught.value.__notes__ == ["the audit sink Kept failed too: OSError"]


# What is refused before a key is used


def test_a_key_that_a_policy_forbids_is_told(tmp_path: Path, kept: Kept) -> None:
    with audited_client(tmp_path, kept) as client:
        info = client.generate_key(ORDERS)
        key = client.key(info)
        strict = Policy(forbid_development_keys=True, algorithms=frozenset({Algorithm.RSA_OAEP_256}))
        kept.events.clear()
        with pytest.raises(errors.PolicyError):
            Keyring([key], policy=strict)
        with pytest.raises(TypeError):
            client.key(UnverifiedKeyInfo.from_json(info.to_json()))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # refused
        assert [(e.operation, e.result, e.keys) for e in kept.events] == [
            ("Keyring", "PolicyError", (str(info.uri),)),
            ("KMSClient.key", "TypeError", ()),
        ]
    kept.events.clear()
    with audited_client(tmp_path, kept, policy=strict) as client:
        with pytest.raises(errors.PolicyError):
            client.key(info)
        assert [(e.operation, e.result, e.keys) for e in kept.events] == [
            ("KMSClient.key", "PolicyError", (str(info.uri),))
        ]


# Sinks that fail


def test_a_failing_sink_withholds_the_result(client: KMSClient, kept: Kept) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    message = ring.encrypt(SECRET, context={})
    kept.broken = True
    with pytest.raises(
        errors.AuditError, match=r"Keyring\.decrypt was done, but the audit sink Kept"
    ) as caught:
        ring.decrypt(message, context={})
    assert isinstance(caught.value.__cause__, OSError)
    # A refusal stays what it is: there is nothing to withhold.
    with pytest.raises(errors.ContextMismatchError) as refused:
        ring.decrypt(message, context=CONTEXT)
    assert refused.value.__notes__ == ["the audit sink Kept failed too: OSError"]


def test_a_failing_sink_gives_up_streams_and_files(client: KMSClient, kept: Kept, tmp_path: Path) -> None:
    ring = Keyring([client.key(client.generate_key(ORDERS))])
    path = tmp_path / "message"
    path.write_bytes(ring.encrypt(SECRET, context={}))
    kept.broken = True
    with pytest.raises(errors.AuditError), path.open("rb") as source:
        ring.decrypt_stream(source, context={})
    with pytest.raises(errors.AuditError):
        ring.open(path, context={})
    with pytest.raises(errors.AuditError), (tmp_path / "sink").open("wb") as sink:
        ring.encrypt_stream(sink, context={})
    assert (tmp_path / "sink").read_bytes() == b""


def test_a_failing_sink_can_be_tolerated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken, kept = Kept(), Kept()
    broken.broken = True
    with audited_client(tmp_path, broken, kept, audit_required=False) as client:
        client.generate_key(ORDERS)
    assert kept.names() == [("KMSClient.generate_key", "ok")]
    assert "the audit sink Kept failed: OSError" in caplog.text


def test_one_failing_sink_does_not_silence_another(tmp_path: Path, kept: Kept) -> None:
    broken = Kept()
    broken.broken = True
    with audited_client(tmp_path, broken, kept) as client, pytest.raises(errors.AuditError):
        client.generate_key(ORDERS)
    assert kept.names() == [("KMSClient.generate_key", "ok")]


# Logging


def test_events_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anykms.audit")
    with connect(
        f"local://{tmp_path}/k.db", create=True, audit=[LoggingSink()], entity="orders-api"
    ) as client:
        info = client.generate_key(ORDERS)
        with pytest.raises(errors.KeyUsageError):
            client.key(info).sign(b"m")
    done, refused = caplog.records
    assert (done.levelname, refused.levelname) == ("INFO", "WARNING")
    assert done.getMessage() == f"orders-api KMSClient.generate_key ok {info.uri}"
    assert vars(refused)["audit"].result == "KeyUsageError"


# OpenTelemetry


def test_events_are_spans_and_metrics(tmp_path: Path) -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracing, metering = TracerProvider(), MeterProvider([reader])
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    sink = OpenTelemetrySink(tracing, metering)
    with connect(f"local://{tmp_path}/k.db", create=True, audit=[sink], entity="orders-api") as client:
        ring = Keyring([client.key(client.generate_key(ORDERS))])
        with tracing.get_tracer("app").start_as_current_span("request") as request:
            message = ring.encrypt(SECRET, context=CONTEXT)
        with pytest.raises(errors.ContextMismatchError):
            ring.decrypt(message, context={})
    _, done, _, refused = spans.get_finished_spans()
    assert done.name == "anykms Keyring.encrypt"
    assert done.parent == request.get_span_context()
    assert done.attributes is not None
    assert dict(done.attributes) == {
        "anykms.operation": "Keyring.encrypt",
        "anykms.provider": "local",
        "anykms.entity": "orders-api",
        "anykms.keys": (str(ring.keys[0].uri.with_version("1")),),
        "anykms.calls": 1,
        "anykms.request_ids": (),
        "anykms.context": digest(CONTEXT),
    }
    assert done.status.status_code is StatusCode.UNSET
    assert done.start_time is not None
    assert done.end_time is not None
    assert done.start_time < done.end_time
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == "ContextMismatchError"
    found = {metric["name"]: metric["data"]["data_points"] for metric in metrics_of(reader)}
    durations = {
        point["attributes"]["anykms.operation"]: point["count"]
        for point in found["anykms.operation.duration"]
    }
    assert durations == {"KMSClient.generate_key": 1, "Keyring.encrypt": 1, "Keyring.decrypt": 1}
    calls = {
        point["attributes"]["anykms.operation"]: point["value"] for point in found["anykms.provider.calls"]
    }
    assert calls["Keyring.encrypt"] == 1
    assert "Keyring.decrypt" not in calls


def metrics_of(reader: InMemoryMetricReader) -> list[Any]:
    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = json.loads(data.to_json())["resource_metrics"]
    (scope,) = resource["scope_metrics"]
    return list(scope["metrics"])


def test_without_opentelemetry_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(errors.UnsupportedOperationError, match=r"anykms\[otel\]"):
        OpenTelemetrySink()


# The chained file


def event(n: int = 0, **changes: Any) -> AuditEvent:
    values: dict[str, Any] = {
        "time": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n),
        "entity": "orders-api",
        "operation": "Key.mac",
        "provider": "local",
        "keys": (f"local://store/tags-{n}",),
        "context": None,
        "result": "ok",
        "calls": 1,
        "request_ids": (),
        "duration": 0.001,
    }
    return AuditEvent(**{**values, **changes})


def written(path: Path, count: int = 5) -> list[bytes]:
    """A file of ``count`` events, and its lines."""
    log = AuditFile(path, sync=False)
    for n in range(count):
        log.record(event(n))
    return path.read_bytes().splitlines(keepends=True)


def broken(path: Path, match: str | None = None) -> None:
    with pytest.raises(errors.AuditError, match=match):
        verify_audit_file(path)


def test_a_whole_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = written(path)
    report = verify_audit_file(path)
    assert report == AuditReport(5, 0, event(0).time, event(4).time, report.head)
    assert [json.loads(line)["n"] for line in lines] == [1, 2, 3, 4, 5]
    assert json.loads(lines[2])["event"]["keys"] == ["local://store/tags-2"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_client_writes_its_events(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with connect(
        f"local://{tmp_path}/k.db", create=True, audit=[AuditFile(path)], entity="orders-api"
    ) as client:
        Keyring([client.key(client.generate_key(ORDERS))]).encrypt(SECRET, context=CONTEXT)
    assert verify_audit_file(path).records == 2
    assert SECRET not in path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_changed_byte_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "changed.jsonl"
    for file in (path, path.with_name(path.name + ".head")):
        file.unlink(missing_ok=True)
    original = b"".join(written(path, 3))
    at = data.draw(st.integers(0, len(original) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != original[at]))
    path.write_bytes(original[:at] + bytes([other]) + original[at + 1 :])
    broken(path)
    cut = data.draw(st.integers(0, len(original) - 1))
    path.write_bytes(original[:cut])
    broken(path, "its end was cut off")


Change = Callable[[list[bytes]], list[bytes]]
CHANGES: dict[str, tuple[Change, str]] = {
    "last removed": (lambda lines: lines[:-1], "cut off"),
    "all removed": (lambda lines: [], "cut off"),
    "first removed": (lambda lines: lines[1:], "does not follow"),
    "one removed": (lambda lines: [*lines[:2], *lines[3:]], "does not follow"),
    "reordered": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "does not follow"),
    "repeated": (lambda lines: [*lines[:2], lines[1], *lines[2:]], "does not follow"),
    "first changed": (lambda lines: [_renamed(lines[0]), *lines[1:]], "does not follow"),
    "last changed": (lambda lines: [*lines[:4], _renamed(lines[4])], "does not fit"),
    "last unreadable": (lambda lines: [*lines[:4], b"x" * (len(lines[4]) - 1) + b"\n"], "does not fit"),
    "last repeated": (lambda lines: [*lines, lines[4]], "does not follow"),
    "more added": (lambda lines: [*lines, b"a\n", b"b\n", b"c\n"], "added from outside"),
}


def _renamed(line: bytes) -> bytes:
    return line.replace(b"orders-api", b"nobody-api")


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_done_to_a_file_is_noticed(tmp_path: Path, name: str) -> None:
    change, match = CHANGES[name]
    path = tmp_path / "audit.jsonl"
    lines = written(path)
    path.write_bytes(b"".join(change(lines)))
    broken(path, match)


def test_a_file_that_was_cut_off_takes_no_more_events(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = written(path)
    for left in (b"".join(lines[:-1]), b"".join(lines) + b"a\nb\nc\n"):
        path.write_bytes(left)
        with pytest.raises(errors.AuditError, match=r"cut off|added from outside"):
            AuditFile(path).record(event(5))
        assert path.read_bytes() == left
    path.unlink()
    with pytest.raises(errors.AuditError, match="cut off"):
        AuditFile(path).record(event(5))


def test_a_damaged_or_missing_head_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    head = tmp_path / "audit.jsonl.head"
    content = head.read_bytes()
    for damage in (b"{}", content[:20], content.replace(b'"records":5', b'"records":4')):
        head.write_bytes(damage)
        broken(path, "damaged|does not fit")
    head.unlink()
    with pytest.raises(FileNotFoundError):
        verify_audit_file(path)
    head.write_bytes(b"")
    broken(path, "added from outside|does not fit")


def test_a_file_made_anew_does_not_hold_a_head_kept_elsewhere(tmp_path: Path) -> None:
    path, other = tmp_path / "audit.jsonl", tmp_path / "other.jsonl"
    written(path, 3)
    head = verify_audit_file(path).head
    AuditFile(path).record(event(3))
    assert verify_audit_file(path, head=head).records == 4
    AuditFile(other).record(event(9))
    written(other, 3)
    assert verify_audit_file(other).records == 4
    with pytest.raises(errors.AuditError, match="not in the chain"):
        verify_audit_file(other, head=head)


@pytest.mark.parametrize("rest", [1, 40, -1])
def test_a_record_cut_short_by_a_crash_is_kept_and_told(tmp_path: Path, rest: int) -> None:
    # The crash came after the write and before the head was brought forward.
    path, head = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.head"
    before = b"".join(written(path, 2))
    content = head.read_bytes()
    AuditFile(path).record(event(2))
    line = path.read_bytes()[len(before) :]
    path.write_bytes(before + line[:rest])
    head.write_bytes(content)
    whole = rest == -1  # only the end of the line is missing
    assert verify_audit_file(path).interrupted == (0 if whole else 1)
    AuditFile(path).record(event(3))
    report = verify_audit_file(path)
    assert (report.records, report.interrupted) == ((4, 0) if whole else (3, 1))
    # What was cut short is under the chain as well.
    path.write_bytes(path.read_bytes().replace(line[:rest] + b"\n", b"y" * len(line[:rest]) + b"\n"))
    broken(path)


def test_a_record_whose_head_was_not_written_is_kept(tmp_path: Path) -> None:
    path, head = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.head"
    written(path, 2)
    content = head.read_bytes()
    AuditFile(path).record(event(2))
    head.write_bytes(content)
    assert verify_audit_file(path).records == 3
    AuditFile(path).record(event(3))
    assert verify_audit_file(path).records == 4


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        AuditFile(path).record(event())


def test_threads_share_a_file(tmp_path: Path) -> None:
    log = AuditFile(tmp_path / "audit.jsonl", sync=False)
    start = threading.Barrier(4)

    def write(worker: int) -> None:
        start.wait(60)
        for n in range(25):
            log.record(event(worker * 100 + n))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert verify_audit_file(tmp_path / "audit.jsonl").records == 100


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    program = (
        "import sys\n"
        "from datetime import UTC, datetime\n"
        "from anykms.audit import AuditEvent, AuditFile\n"
        "log = AuditFile(sys.argv[1], sync=False)\n"
        "for n in range(40):\n"
        "    log.record(AuditEvent(time=datetime.now(UTC), entity=sys.argv[2], operation='Key.mac', provider='local',"
        " keys=(), context=None, result='ok', calls=1, request_ids=(), duration=0.0))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(path), f"worker-{n}"])  # noqa: S603 # our own program
        for n in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert verify_audit_file(path).records == 120
    entities = {json.loads(line)["event"]["entity"] for line in path.read_bytes().splitlines()}
    assert entities == {"worker-0", "worker-1", "worker-2"}


def test_records_are_on_disk_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    AuditFile(tmp_path / "a.jsonl").record(event())
    AuditFile(tmp_path / "a.jsonl").record(event(1))
    assert synced == ["a.jsonl", "a.jsonl.head", tmp_path.name, "a.jsonl", "a.jsonl.head"]
    AuditFile(tmp_path / "a.jsonl", sync=False).record(event(2))
    assert len(synced) == 5


# The command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(application, ["audit", "verify", *arguments])


def test_the_command_checks_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    head = verify_audit_file(path).head
    result = run(str(path))
    assert result.exit_code == 0
    assert f"{path}: whole, 5 events" in result.output
    assert "from 2026-01-01T00:00:00+00:00 to 2026-01-01T00:00:04+00:00" in result.output
    assert f"head {head}" in result.output
    report = json.loads(run(str(path), "--json", "--head", head).output)
    assert report == {
        "whole": True,
        "records": 5,
        "interrupted": 0,
        "first": "2026-01-01T00:00:00+00:00",
        "last": "2026-01-01T00:00:04+00:00",
        "head": head,
    }


def test_the_command_refuses_a_file_that_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(written(path)[:-1]))
    result = run(str(path))
    assert result.exit_code == ExitCode.DAMAGED
    assert "AuditError" in result.stderr
    assert "its end was cut off" in result.stderr
    result = run(str(path), "--json", "--head", "0" * 63)
    assert json.loads(result.stderr)["error"]["class"] == "AuditError"
    assert run(str(tmp_path / "none")).exit_code == ExitCode.FILE


def test_the_command_says_what_a_crash_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 2)
    with path.open("ab") as file:
        file.write(b'{"n":3')
    assert "1 cut short by a crash" in run(str(path)).output


def test_an_empty_trail_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.touch()
    (tmp_path / "audit.jsonl.head").touch()
    assert "whole, 0 events" in run(str(path)).output
