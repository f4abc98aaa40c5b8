"""Keys in Cloud KMS: made once, changed in steps that can be resumed, and never anybody else's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from anykms import KeyConf, KeyInfo, KeyPurpose, KeyState, KMSClient, RetryPolicy, errors
from anykms.keys import ConnectionURI, KeyOrigin, ProtectionLevel
from anykms.provider import WrapContext
from anykms_emulators.gcp import GCPEmulator, Generation
from anykms_gcp import GCPProvider

WRAPPING = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT)
SIGNING = KeyConf("releases", KeyPurpose.SIGN_VERIFY, algorithm="ES256")
MAC = KeyConf("cookies", KeyPurpose.MAC, algorithm="HS256")
SECRET = bytes(range(32))
AAD = WrapContext({"anykms:bind": "x"}, b"\x07" * 32)


@pytest.fixture
def gcp() -> Iterator[GCPEmulator]:
    with GCPEmulator() as emulator:
        yield emulator


def connect(gcp: GCPEmulator, **options: Any) -> GCPProvider:
    where = ConnectionURI.parse(gcp.uri)
    return GCPProvider.connect(where, **gcp.options, clock=gcp.clock.now, **options)


@pytest.fixture
def provider(gcp: GCPEmulator) -> Iterator[GCPProvider]:
    opened = connect(gcp)
    yield opened
    opened.close()


@pytest.fixture
def client(provider: GCPProvider) -> KMSClient:
    return around(provider)


def around(provider: GCPProvider) -> KMSClient:
    waited = [0.0]

    def sleep(seconds: float) -> None:
        waited[0] += seconds

    return KMSClient(provider, retry=RetryPolicy(sleep=sleep, clock=lambda: waited[0]))


def states(gcp: GCPEmulator, info: KeyInfo) -> list[str]:
    rows = gcp.client().list_crypto_key_versions(parent=info.uri.resource)
    return [row.state.name for row in rows]


def attempt(call: Callable[[], object]) -> errors.KMSError | None:
    try:
        call()
    except errors.KMSError as error:
        return error
    return None


def versions_of(client: KMSClient, count: int) -> KeyInfo:
    info = client.generate_key(WRAPPING)
    for _ in range(count - 1):
        client.rotate_key(info)
    return info


FAULTS: Mapping[str, Callable[[GCPEmulator, str, int], object]] = {
    "UNAVAILABLE": lambda g, op, after: g.faults.add(op, "UNAVAILABLE", after=after),
    "DEADLINE_EXCEEDED": lambda g, op, after: g.faults.add(op, "DEADLINE_EXCEEDED", after=after),
    "RESOURCE_EXHAUSTED": lambda g, op, after: g.faults.add(op, kind="throttle", after=after),
    "ABORTED": lambda g, op, after: g.faults.add(op, "ABORTED", after=after),
    "reset": lambda g, op, after: g.faults.add(op, kind="reset", after=after),
    "lost-reply": lambda g, op, after: g.faults.add(op, kind="lost reply", after=after),
}
with_faults = pytest.mark.parametrize("fault", FAULTS)


# Creation


@with_faults
@pytest.mark.parametrize("conf", [WRAPPING, SIGNING, MAC], ids=lambda conf: conf.name)
@pytest.mark.parametrize(
    "operation",
    [
        "GetCryptoKey",
        "CreateCryptoKey",
        "GetCryptoKeyVersion",
        "GetPublicKey",
        "UpdateCryptoKey",
        "ListCryptoKeyVersions",
    ],
)
def test_a_fault_never_makes_a_key_twice(
    gcp: GCPEmulator, client: KMSClient, operation: str, conf: KeyConf, fault: str
) -> None:
    """One request to create, whatever fails; afterwards there is one key, whose facts stay readable, or none."""
    FAULTS[fault](gcp, operation, 0)
    made: KeyInfo | None = None
    with suppress(errors.KMSError):
        made = client.generate_key(conf)
    assert gcp.requests.operations.count("CreateCryptoKey") <= 1
    gcp.faults.clear()
    if made is None:
        assert [info.name for info in client.list_keys()] == []
        made = client.generate_key(conf)
    client.disable_key(made)
    assert client.get_key(conf.name) == made
    assert [info.name for info in client.list_keys()] == [conf.name]
    assert states(gcp, made) == ["DISABLED"]


@with_faults
def test_an_older_key_of_the_same_conf_is_not_taken_for_new(
    gcp: GCPEmulator, client: KMSClient, fault: str
) -> None:
    client.generate_key(WRAPPING)
    FAULTS[fault](gcp, "CreateCryptoKey", 0)
    error = attempt(lambda: client.generate_key(WRAPPING))
    assert error is not None
    assert error.retryable or type(error) is errors.KeyExistsError
    with pytest.raises(errors.KeyExistsError):
        client.generate_key(WRAPPING)


def test_a_name_is_taken_also_by_what_cannot_be_read(gcp: GCPEmulator, client: KMSClient) -> None:
    """Another's key, of a kind that anykms does not use, or one that we may not look at."""
    kms = gcp.client()
    raw = {"purpose": "RAW_ENCRYPT_DECRYPT", "version_template": {"algorithm": "AES_256_GCM"}}
    kms.create_crypto_key(parent=gcp.key_ring, crypto_key_id="orders", crypto_key=raw)
    with pytest.raises(errors.KeyExistsError):
        client.generate_key(WRAPPING)
    for operation in ("GetCryptoKey", "ListCryptoKeyVersions"):
        gcp.faults.add(operation, "PERMISSION_DENIED", times=None)
        with pytest.raises(errors.KeyExistsError):
            client.generate_key(WRAPPING)


def test_pending_generation_is_waited_out(gcp: GCPEmulator, client: KMSClient) -> None:
    gcp.generation = Generation(reads=2)
    made = client.generate_key(SIGNING)
    assert client.describe_key(made).state is KeyState.ENABLED
    assert gcp.requests.operations.count("GetCryptoKeyVersion") == 3
    client.key(made).sign(b"message")


def test_generation_that_takes_too_long_can_be_picked_up_later(gcp: GCPEmulator) -> None:
    gcp.generation = Generation(reads=None)
    client = around(connect(gcp, generation_timeout=0))
    with pytest.raises(errors.DeadlineExceededError):
        client.generate_key(SIGNING)
    with pytest.raises(errors.KeyNotReadyError):
        client.get_key(SIGNING.name)
    assert list(client.list_keys()) == []
    gcp.finish_generation()
    made = client.get_key(SIGNING.name)
    client.key(made).sign(b"message")
    client.disable_key(made)
    assert client.get_key(SIGNING.name) == made


def test_failed_generation_is_told(gcp: GCPEmulator, client: KMSClient) -> None:
    gcp.generation = Generation(failure="no entropy")
    with pytest.raises(errors.KeyStateError) as caught:
        client.generate_key(SIGNING)
    assert type(caught.value) is errors.KeyStateError
    assert list(client.list_keys()) == []


def test_a_key_that_cannot_be_finished_is_given_up(gcp: GCPEmulator, client: KMSClient) -> None:
    """Without the permission to read public keys nothing usable is left behind."""
    gcp.faults.add("GetPublicKey", "PERMISSION_DENIED", times=None)
    with pytest.raises(errors.PermissionDeniedError):
        client.generate_key(SIGNING)
    rows = gcp.client().list_crypto_key_versions(parent=f"{gcp.key_ring}/cryptoKeys/releases")
    assert [row.state.name for row in rows] == ["DESTROY_SCHEDULED"]
    gcp.faults.clear()
    with pytest.raises(errors.NameReservedError):
        client.generate_key(SIGNING)


def test_the_conf_reaches_cloud_kms(gcp: GCPEmulator, client: KMSClient) -> None:
    made = client.generate_key(
        KeyConf(
            "orders",
            KeyPurpose.ENCRYPT_DECRYPT,
            protection_level="HSM",
            tags={"team": "blue"},
            destroy_window=7,
            rotation_period=90,
        )
    )
    key = gcp.client().get_crypto_key(name=made.uri.resource)
    assert key.version_template.protection_level.name == "HSM"
    assert key.destroy_scheduled_duration == timedelta(days=7)
    assert key.rotation_period == timedelta(days=90)
    assert abs(key.next_rotation_time - key.create_time - timedelta(days=90)) < timedelta(minutes=1)
    assert dict(key.labels) == {"team": "blue", "anykms-conf": made.conf_digest}
    assert made.destroy_window_enforced


def test_secp256k1_is_made_at_hsm(client: KMSClient) -> None:
    made = client.generate_key(KeyConf("coins", KeyPurpose.SIGN_VERIFY, algorithm="ES256K"))
    assert made.protection_level is ProtectionLevel.HSM


# Names


def test_names_are_never_free_again(gcp: GCPEmulator, client: KMSClient, provider: GCPProvider) -> None:
    info = versions_of(client, 2)
    gcp.client().destroy_crypto_key_version(name=f"{info.uri.resource}/cryptoKeyVersions/1")
    with pytest.raises(errors.KeyExistsError):
        client.generate_key(WRAPPING)
    client.schedule_destruction(info)
    with pytest.raises(errors.NameReservedError):
        client.generate_key(WRAPPING)
    gcp.clock.advance(timedelta(days=31))
    with pytest.raises(errors.NameReservedError):
        client.generate_key(WRAPPING)
    for number in ("1", "2"):
        gcp.client().delete_crypto_key_version(name=f"{info.uri.resource}/cryptoKeyVersions/{number}")
    with pytest.raises(errors.KeyDestroyedError):
        client.describe_key(info)
    gcp.client().delete_crypto_key(name=info.uri.resource)
    with pytest.raises(errors.KeyDestroyedError):
        client.describe_key(info)
    with pytest.raises(errors.KeyDestroyedError):
        provider.wrap(info, SECRET, AAD)
    with pytest.raises(errors.NameReservedError):
        client.generate_key(WRAPPING)


def test_a_missing_key_ring_is_told(gcp: GCPEmulator) -> None:
    where = ConnectionURI.parse(gcp.uri.replace("keyRings/r?", "keyRings/missing?"))
    client = around(GCPProvider.connect(where, **gcp.options))
    with pytest.raises(errors.KeyNotFoundError):
        client.generate_key(WRAPPING)
    with pytest.raises(errors.KeyNotFoundError):
        list(client.list_keys())


# Changes over several versions


@pytest.mark.parametrize("passing", [0, 1, 2])
@with_faults
@pytest.mark.parametrize(
    ("operation", "before", "change", "after"),
    [
        ("UpdateCryptoKeyVersion", (), KMSClient.disable_key, "DISABLED"),
        ("UpdateCryptoKeyVersion", (KMSClient.disable_key,), KMSClient.enable_key, "ENABLED"),
        ("DestroyCryptoKeyVersion", (), KMSClient.schedule_destruction, "DESTROY_SCHEDULED"),
        (
            "RestoreCryptoKeyVersion",
            (KMSClient.schedule_destruction,),
            KMSClient.cancel_destruction,
            "DISABLED",
        ),
    ],
    ids=["disable", "enable", "schedule", "cancel"],
)
def test_a_half_done_change_is_finished_by_calling_again(
    gcp: GCPEmulator,
    client: KMSClient,
    operation: str,
    before: tuple[Callable[[KMSClient, KeyInfo], object], ...],
    change: Callable[[KMSClient, KeyInfo], object],
    after: str,
    fault: str,
    passing: int,
) -> None:
    """It never passes for done while a version is left, and the second call touches what is left alone."""
    info = versions_of(client, 3)
    for step in before:
        step(client, info)
    FAULTS[fault](gcp, operation, passing)
    gcp.requests.clear()
    error = attempt(lambda: change(client, info))
    if error is None:  # the last reply was lost, and the state told that all was done
        assert (fault, passing) == ("lost-reply", 2)
    else:
        assert error.retryable
        done = states(gcp, info).count(after)
        assert done == passing + (fault == "lost-reply")
        gcp.requests.clear()
        change(client, info)
        assert gcp.requests.operations.count(operation) == 3 - done
    assert states(gcp, info) == [after] * 3


def test_the_version_in_use_is_changed_last(gcp: GCPEmulator, client: KMSClient) -> None:
    """Its state is the key's, so that an interrupted change is seen as one."""
    info = versions_of(client, 2)
    gcp.client().update_crypto_key_primary_version(name=info.uri.resource, crypto_key_version_id="1")
    for change in (client.disable_key, client.enable_key):
        gcp.requests.clear()
        change(info)
        names = [
            r.parameters["crypto_key_version"]["name"][-1]
            for r in gcp.requests
            if r.operation == "UpdateCryptoKeyVersion"
        ]
        assert names == ["2", "1"]


def test_a_half_scheduled_destruction_is_not_cancelled_silently(gcp: GCPEmulator, client: KMSClient) -> None:
    info = versions_of(client, 2)
    gcp.client().destroy_crypto_key_version(name=f"{info.uri.resource}/cryptoKeyVersions/1")
    with pytest.raises(errors.KeyStateError, match="schedule it again"):
        client.cancel_destruction(info)
    assert states(gcp, info) == ["DESTROY_SCHEDULED", "ENABLED"]
    gcp.clock.advance(timedelta(days=1))
    due = client.schedule_destruction(info)
    assert due - client.get_key(info.name).created_at >= timedelta(days=31)
    client.cancel_destruction(info)
    assert states(gcp, info) == ["DISABLED", "DISABLED"]


@with_faults
@pytest.mark.parametrize("operation", ["CreateCryptoKeyVersion", "UpdateCryptoKeyPrimaryVersion"])
def test_an_interrupted_rotation_is_finished_by_calling_again(
    gcp: GCPEmulator, client: KMSClient, operation: str, fault: str
) -> None:
    info = client.generate_key(WRAPPING)
    FAULTS[fault](gcp, operation, 0)
    error = attempt(lambda: client.rotate_key(info))
    if error is None:
        assert (operation, fault) == ("UpdateCryptoKeyPrimaryVersion", "lost-reply")
    else:
        assert error.retryable
        assert client.describe_key(info).current_version == "1"
        client.rotate_key(info)
    status = client.describe_key(info)
    assert status.current_version == "2"
    assert [version.id for version in status.versions] == ["1", "2"]
    assert client.rotate_key(info).current_version == "3"


def test_a_rotation_does_not_take_a_version_that_was_brought_in(gcp: GCPEmulator, client: KMSClient) -> None:
    """Whoever imported it knows its material."""
    info = client.generate_key(WRAPPING)
    bring_in(gcp, info.uri.resource)
    with pytest.raises(errors.IntegrityError):
        client.rotate_key(info)
    key = gcp.client().get_crypto_key(name=info.uri.resource)
    assert key.primary.name.endswith("/1")


def test_automatic_rotation_is_seen(gcp: GCPEmulator, client: KMSClient) -> None:
    info = client.generate_key(KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT, rotation_period=90))
    sealed = client.key(info).wrap(SECRET, context={})
    gcp.clock.advance(timedelta(days=91))
    status = client.describe_key(info)
    assert status.current_version == "2"
    assert client.key(info).unwrap(sealed, context={}) == SECRET


# Versions that others made or changed


def test_an_old_version_that_was_disabled_is_named(gcp: GCPEmulator, client: KMSClient) -> None:
    info = client.generate_key(WRAPPING)
    sealed = client.key(info).wrap(SECRET, context={})
    client.rotate_key(info)
    name = f"{info.uri.resource}/cryptoKeyVersions/1"
    gcp.client().update_crypto_key_version(
        crypto_key_version={"name": name, "state": "DISABLED"}, update_mask={"paths": ["state"]}
    )
    assert client.describe_key(info).state is KeyState.ENABLED
    with pytest.raises(errors.KeyDisabledError) as caught:
        client.key(info).unwrap(sealed, context={})
    assert caught.value.version == "1"
    client.key(info).wrap(SECRET, context={})


def test_an_old_version_that_was_destroyed_opens_nothing(gcp: GCPEmulator, client: KMSClient) -> None:
    info = client.generate_key(WRAPPING)
    sealed = client.key(info).wrap(SECRET, context={})
    client.rotate_key(info)
    gcp.client().destroy_crypto_key_version(name=f"{info.uri.resource}/cryptoKeyVersions/1")
    gcp.clock.advance(timedelta(days=31))
    with pytest.raises(errors.KeyDestroyedError):
        client.key(info).unwrap(sealed, context={})
    client.key(info).wrap(SECRET, context={})


def test_a_key_without_its_primary_version_still_opens(gcp: GCPEmulator, client: KMSClient) -> None:
    info = client.generate_key(WRAPPING)
    sealed = client.key(info).wrap(SECRET, context={})
    client.rotate_key(info)
    gcp.client().destroy_crypto_key_version(name=f"{info.uri.resource}/cryptoKeyVersions/2")
    gcp.clock.advance(timedelta(days=31))
    assert client.get_key(info.name) == info
    assert client.key(info).unwrap(sealed, context={}) == SECRET
    with pytest.raises(errors.KeyStateError):
        client.key(info).wrap(SECRET, context={})
    assert client.rotate_key(info).current_version == "3"
    client.key(info).wrap(SECRET, context={})


@pytest.mark.parametrize("conf", [SIGNING, MAC], ids=lambda conf: conf.name)
def test_a_second_version_made_outside_is_an_integrity_error(
    gcp: GCPEmulator, client: KMSClient, provider: GCPProvider, conf: KeyConf
) -> None:
    """What is used stays the pinned version; disabling reaches both, and still says that something is wrong."""
    info = client.generate_key(conf)
    gcp.client().create_crypto_key_version(parent=info.uri.resource, crypto_key_version={})
    for call in (lambda: client.get_key(info.name), lambda: client.describe_key(info)):
        with pytest.raises(errors.IntegrityError):
            call()
    gcp.requests.clear()
    if conf is SIGNING:
        provider.sign(info, SECRET, True)
    else:
        provider.mac(info, b"m")
    assert gcp.requests[0].parameters["name"].endswith("/cryptoKeyVersions/1")
    with pytest.raises(errors.IntegrityError):
        client.disable_key(info)
    assert states(gcp, info) == ["DISABLED", "DISABLED"]


# Labels


@pytest.mark.parametrize(
    "labels",
    [
        {"anykms-conf": "short"},
        {"anykms-conf": "a" * 52, "anykms-fingerprint": "b" * 52},
    ],
    ids=["conf", "fingerprint"],
)
def test_edited_labels_are_an_integrity_error(
    gcp: GCPEmulator, client: KMSClient, labels: dict[str, str]
) -> None:
    info = client.generate_key(SIGNING)
    relabel(gcp, info, labels)
    with pytest.raises(errors.IntegrityError):
        client.get_key(info.name)


def test_a_lost_fingerprint_is_written_again_before_it_is_needed(gcp: GCPEmulator, client: KMSClient) -> None:
    info = client.generate_key(SIGNING)
    assert info.conf_digest is not None
    relabel(gcp, info, {"anykms-conf": info.conf_digest, "owner": "terraform"})
    client.schedule_destruction(info)
    found = client.get_key(info.name)
    assert found.fingerprint == info.fingerprint
    key = gcp.client().get_crypto_key(name=info.uri.resource)
    assert key.labels["owner"] == "terraform"


def test_what_cannot_be_labelled_is_disabled_all_the_same(gcp: GCPEmulator, client: KMSClient) -> None:
    info = client.generate_key(SIGNING)
    assert info.conf_digest is not None
    relabel(gcp, info, {"anykms-conf": info.conf_digest})
    gcp.faults.add("UpdateCryptoKey", "PERMISSION_DENIED", times=None)
    client.disable_key(info)
    assert client.describe_key(info).state is KeyState.DISABLED
    with pytest.raises(errors.KeyDisabledError):
        client.get_key(info.name)


def relabel(gcp: GCPEmulator, info: KeyInfo, labels: dict[str, str]) -> None:
    gcp.client().update_crypto_key(
        crypto_key={"name": info.uri.resource, "labels": labels}, update_mask={"paths": ["labels"]}
    )


# Foreign keys


def foreign(gcp: GCPEmulator, purpose: str, algorithm: str, ring: str = "other", **rest: Any) -> str:
    kms = gcp.client()
    parent = f"projects/q/locations/europe-west1/keyRings/{ring}"
    with suppress(Exception):
        kms.create_key_ring(parent=parent.rpartition("/keyRings/")[0], key_ring_id=ring)
    key = {"purpose": purpose, "version_template": {"algorithm": algorithm}, **rest}
    name: str = kms.create_crypto_key(parent=parent, crypto_key_id="My_Key", crypto_key=key).name
    return name


@pytest.mark.parametrize(
    "spelling",
    ["{}", "gcpkms://{}", "gcp-kms://{}", "//cloudkms.googleapis.com/{}", "{}/cryptoKeyVersions/1"],
)
def test_a_foreign_key_is_found_by_its_resource_name(
    gcp: GCPEmulator, client: KMSClient, spelling: str
) -> None:
    name = foreign(gcp, "ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION")
    info = client.get_key(spelling.format(name))
    assert (info.name, str(info.uri), info.conf_digest) == ("My_Key", f"gcpkms://{name}", None)
    assert info.destroy_window == 30
    key = client.key(info)
    assert key.unwrap(key.wrap(SECRET, context={}), context={}) == SECRET
    assert list(client.list_keys()) == []


def test_a_foreign_signing_key_is_used_at_the_version_named(gcp: GCPEmulator, client: KMSClient) -> None:
    """Its lifecycle is that of the version: the others are somebody else's business."""
    name = foreign(gcp, "ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256")
    assert client.get_key(name).uri.version == "1"
    gcp.client().create_crypto_key_version(parent=name, crypto_key_version={})
    with pytest.raises(errors.InvalidArgumentError, match="1, 2"):
        client.get_key(name)
    first, second = (client.get_key(f"{name}/cryptoKeyVersions/{n}") for n in "12")
    assert first.fingerprint != second.fingerprint
    with pytest.raises(errors.KeyNotFoundError):
        client.get_key(f"{name}/cryptoKeyVersions/3")
    signature = client.key(second).sign(b"message")
    client.key(second).verify(b"message", signature)
    client.schedule_destruction(second)
    assert states(gcp, second) == ["ENABLED", "DESTROY_SCHEDULED"]
    assert client.describe_key(first).state is KeyState.ENABLED
    assert client.describe_key(second).state is KeyState.PENDING_DESTRUCTION
    gcp.clock.advance(timedelta(days=31))
    with pytest.raises(errors.KeyDestroyedError):
        client.describe_key(second)
    assert client.get_key(name) == first


@pytest.mark.parametrize(
    ("purpose", "algorithm"),
    [
        ("ASYMMETRIC_SIGN", "RSA_SIGN_RAW_PKCS1_2048"),
        ("ASYMMETRIC_SIGN", "PQ_SIGN_ML_DSA_65_EXTERNAL_MU"),
        ("ASYMMETRIC_DECRYPT", "RSA_DECRYPT_OAEP_2048_SHA1"),
        ("MAC", "HMAC_SHA1"),
        ("RAW_ENCRYPT_DECRYPT", "AES_256_GCM"),
        ("KEY_ENCAPSULATION", "ML_KEM_768"),
    ],
)
def test_kinds_of_keys_that_the_contract_lacks_are_refused(
    gcp: GCPEmulator, client: KMSClient, purpose: str, algorithm: str
) -> None:
    with pytest.raises(errors.UnsupportedOperationError):
        client.get_key(foreign(gcp, purpose, algorithm))


def test_imported_keys_say_so(gcp: GCPEmulator, client: KMSClient) -> None:
    name = foreign(gcp, "ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION")
    bring_in(gcp, name)
    gcp.client().update_crypto_key_primary_version(name=name, crypto_key_version_id="2")
    info = client.get_key(name)
    assert info.origin is KeyOrigin.IMPORTED
    with pytest.raises(errors.UnsupportedOperationError):
        client.rotate_key(info)


def test_a_key_that_waits_for_its_material_says_so(gcp: GCPEmulator, client: KMSClient) -> None:
    key = gcp.client().create_crypto_key(
        request={
            "parent": gcp.key_ring,
            "crypto_key_id": "waiting",
            "crypto_key": {"purpose": "ENCRYPT_DECRYPT", "import_only": True},
            "skip_initial_version_creation": True,
        }
    )
    with pytest.raises(errors.KeyPendingImportError):
        client.get_key("waiting")
    bring_in(gcp, key.name)
    info = client.get_key("waiting")
    assert (info.origin, info.conf_digest) == (KeyOrigin.IMPORTED, None)


def test_a_key_of_ours_is_never_imported(gcp: GCPEmulator, client: KMSClient) -> None:
    info = client.generate_key(WRAPPING)
    bring_in(gcp, info.uri.resource)
    with pytest.raises(errors.IntegrityError):
        client.describe_key(info)
    gcp.client().update_crypto_key_primary_version(name=info.uri.resource, crypto_key_version_id="2")
    with pytest.raises(errors.IntegrityError):
        client.get_key(info.name)


def bring_in(gcp: GCPEmulator, key_name: str) -> None:
    """Import a version, as the key's administrator can."""
    kms = gcp.client()
    job = kms.create_import_job(
        parent=key_name.rpartition("/cryptoKeys/")[0],
        import_job_id="job",
        import_job={"import_method": "RSA_OAEP_3072_SHA256", "protection_level": "SOFTWARE"},
    )
    job = kms.get_import_job(name=job.name)
    wrapping_key = load_pem_public_key(job.public_key.pem.encode())
    assert isinstance(wrapping_key, RSAPublicKey)
    kms.import_crypto_key_version(
        request={
            "parent": key_name,
            "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            "import_job": job.name,
            "wrapped_key": wrapping_key.encrypt(os.urandom(32), OAEP(MGF1(SHA256()), SHA256(), None)),
        }
    )


# Listing


def test_the_list_goes_over_every_page(gcp: GCPEmulator, client: KMSClient) -> None:
    kms = gcp.client()
    for number in range(1000):
        kms.create_crypto_key(
            parent=gcp.key_ring, crypto_key_id=f"k{number}", crypto_key={"purpose": "ENCRYPT_DECRYPT"}
        )
    made = client.generate_key(WRAPPING)
    assert list(client.list_keys()) == [made]
    assert gcp.requests.operations.count("ListCryptoKeys") == 2
