"""The GCP emulator beyond the wire truth: faults, clock, generation, drift, hostile requests, real cryptography."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import inspect
import json
import random
import socket
import subprocess
import sys
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import google_crc32c
import grpc
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed25519,
    mldsa,
    mlkem,
    padding,
    rsa,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.api_core import exceptions
from google.cloud import kms_v1
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykms_emulators import Clock
from anykms_emulators.gcp import GCPEmulator, Generation
from anykms_emulators.gcp.algorithms import ALGORITHMS
from anykms_emulators.gcp.algorithms import NOT_EMULATED as ALGORITHMS_NOT_EMULATED
from anykms_emulators.gcp.control_plane import ControlPlane
from anykms_emulators.gcp.data_plane import DataPlane
from anykms_emulators.gcp.methods import NOT_EMULATED, emulated
from anykms_emulators.gcp.resources import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

RING = "projects/p/locations/global/keyRings/r"
SECRET = b"I'm a secret message!"
RPCS = emulated(ControlPlane(Store(Clock())), DataPlane(Store(Clock())))


@pytest.fixture
def gcp() -> Iterator[GCPEmulator]:
    with GCPEmulator() as emulator:
        yield emulator


@pytest.fixture
def kms(gcp: GCPEmulator) -> Any:
    return gcp.client()


def crc32c(data: bytes) -> int:
    checksum: Any = google_crc32c
    return int(checksum.value(data))


def make_key(
    kms: Any,
    purpose: str = "ENCRYPT_DECRYPT",
    algorithm: str | None = None,
    name: str = "key",
    level: str = "SOFTWARE",
    **more: Any,
) -> str:
    template = {"protection_level": level} | ({"algorithm": algorithm} if algorithm else {})
    wanted = {"purpose": purpose, "version_template": template, **more}
    key = kms.create_crypto_key(parent=RING, crypto_key_id=name, crypto_key=wanted, retry=None)
    return str(key.name)


def version_of(key: str, number: int = 1) -> str:
    return f"{key}/cryptoKeyVersions/{number}"


def set_state(kms: Any, version: str, state: str) -> Any:
    return kms.update_crypto_key_version(
        crypto_key_version={"name": version, "state": state}, update_mask={"paths": ["state"]}
    )


def _paths_sent_by(client_class: Any, transport_class: Any, address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        client = client_class(transport=transport_class(channel=channel))
        for name, method in inspect.getmembers(client, inspect.ismethod):
            if name.startswith("_") or "request" not in inspect.signature(method).parameters:
                continue
            with contextlib.suppress(exceptions.MethodNotImplemented):
                reply = method(request={}, retry=None, timeout=20)
                raise AssertionError(f"{name} was answered with {reply}")


def test_every_method_of_the_installed_clients_is_in_a_table() -> None:
    sent: set[str] = set()

    class Everything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
            sent.add(handler_call_details.method)

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Everything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    clients = [name for name in dir(kms_v1) if name.endswith("Client") and "Async" not in name]
    assert "KeyManagementServiceClient" in clients
    for name in clients:
        client_class: Any = getattr(kms_v1, name)
        _paths_sent_by(client_class, client_class.get_transport_class("grpc"), f"127.0.0.1:{port}")
    server.stop(None).wait()
    assert len(sent) > 60
    assert sent - RPCS.keys() - NOT_EMULATED.keys() == set()
    assert RPCS.keys() & NOT_EMULATED.keys() == set()


def test_every_algorithm_of_the_installed_enum_is_in_a_table() -> None:
    enum: Any = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
    assert {each.name for each in enum} == ALGORITHMS.keys() | ALGORITHMS_NOT_EMULATED.keys()
    assert ALGORITHMS.keys() & ALGORITHMS_NOT_EMULATED.keys() == set()


@pytest.mark.parametrize(
    "name", sorted(ALGORITHMS_NOT_EMULATED.keys() - {"CRYPTO_KEY_VERSION_ALGORITHM_UNSPECIFIED"})
)
def test_other_algorithms_are_refused_by_name(kms: Any, name: str) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match=name):
        make_key(kms, "ASYMMETRIC_SIGN", name)


def test_other_methods_are_refused_by_name(gcp: GCPEmulator) -> None:
    with grpc.insecure_channel(gcp.address) as channel:
        for path in NOT_EMULATED:
            with pytest.raises(grpc.RpcError) as caught:
                cast("Any", channel).unary_unary(path)(b"")
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert path in error.details()


def test_an_injected_error_happens_once_and_does_nothing(gcp: GCPEmulator, kms: Any) -> None:
    gcp.faults.add("CreateCryptoKey", "ABORTED", message="try again", retry_after=3)
    with pytest.raises(exceptions.Aborted, match="try again") as caught:
        make_key(kms)
    error: Any = caught.value
    assert [detail.retry_delay.seconds for detail in error.details] == [3]
    assert gcp.faults.pending == ()
    make_key(kms)


def test_the_official_retry_survives_an_injected_unavailable(gcp: GCPEmulator, kms: Any) -> None:
    key = make_key(kms)
    gcp.requests.clear()
    gcp.faults.add("Encrypt", "UNAVAILABLE", times=2)
    assert kms.encrypt(name=key, plaintext=SECRET).ciphertext
    assert gcp.requests.operations == ["Encrypt"] * 3


def test_throttling_carries_the_retry_delay(gcp: GCPEmulator, kms: Any) -> None:
    gcp.faults.add(kind="throttle", retry_after=7)
    with pytest.raises(exceptions.ResourceExhausted) as caught:
        kms.get_key_ring(name=RING)
    error: Any = caught.value
    details = {type(detail).__name__: detail for detail in error.details}
    assert details["RetryInfo"].retry_delay.seconds == 7
    assert error.reason == "RATE_LIMIT_EXCEEDED"


def test_a_reset_cuts_the_connection_before_anything_is_done(gcp: GCPEmulator, kms: Any) -> None:
    gcp.faults.add("CreateCryptoKey", kind="reset")
    with pytest.raises(exceptions.ServiceUnavailable):
        make_key(kms)
    assert list(kms.list_crypto_keys(parent=RING)) == []


def test_a_lost_reply_has_done_its_work(gcp: GCPEmulator, kms: Any) -> None:
    gcp.faults.add("CreateCryptoKey", kind="lost reply")
    with pytest.raises(exceptions.ServiceUnavailable):
        make_key(kms)
    with pytest.raises(exceptions.AlreadyExists):
        make_key(kms)


@pytest.mark.parametrize("kind", ["reset", "lost reply"])
def test_a_cut_costs_one_call(gcp: GCPEmulator, kms: Any, kind: Any) -> None:
    for _ in range(25):
        gcp.faults.add("GetKeyRing", kind=kind)
        with pytest.raises(exceptions.ServiceUnavailable):
            kms.get_key_ring(name=RING, retry=None)
        assert kms.get_key_ring(name=RING, retry=None).name == RING
    assert len(gcp.requests) == 50


def test_a_delay_beyond_the_deadline_still_does_the_work(gcp: GCPEmulator, kms: Any) -> None:
    key = make_key(kms)
    gcp.faults.add("CreateCryptoKeyVersion", kind="delay", delay=0.5)
    with pytest.raises(exceptions.DeadlineExceeded):
        kms.create_crypto_key_version(parent=key, crypto_key_version={}, timeout=0.1)
    gcp.stop()
    gcp.start()
    assert len(list(gcp.client().list_crypto_key_versions(parent=key))) == 2


def test_goaway_moves_the_client_to_another_connection_without_an_error(gcp: GCPEmulator) -> None:
    left = threading.Event()
    seen: list[grpc.ChannelConnectivity] = []

    def watch(state: grpc.ChannelConnectivity) -> None:
        seen.append(state)
        if state is grpc.ChannelConnectivity.IDLE and grpc.ChannelConnectivity.READY in seen:
            left.set()

    with grpc.insecure_channel(gcp.address) as channel:
        channel.subscribe(watch)
        call = cast("Any", channel).unary_unary("/google.cloud.kms.v1.KeyManagementService/GetKeyRing")
        request = cast("Any", kms_v1.GetKeyRingRequest).serialize({"name": RING})
        header = (("x-goog-request-params", f"name={RING}"),)
        assert call(request, metadata=header)
        gcp.goaway()
        assert left.wait(timeout=20)
        assert call(request, metadata=header)


def test_goaway_lets_calls_in_flight_finish(gcp: GCPEmulator, kms: Any) -> None:
    gcp.faults.add("GetKeyRing", kind="delay", delay=0.3)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(kms.get_key_ring, name=RING, retry=None)
        while "GetKeyRing" not in gcp.requests.operations:
            threading.Event().wait(0.01)
        gcp.goaway()
        assert late.result(timeout=20).name == RING
    assert kms.get_key_ring(name=RING, retry=None).name == RING


def test_a_fault_with_an_unknown_code_says_so(gcp: GCPEmulator, kms: Any) -> None:
    gcp.faults.add("GetKeyRing", "TEAPOT")
    with pytest.raises(exceptions.InternalServerError, match="TEAPOT is not a gRPC status code"):
        kms.get_key_ring(name=RING, retry=None)


REQUEST_FLIPS = [
    ("Encrypt", "plaintext"),
    ("Encrypt", "additional_authenticated_data"),
    ("Decrypt", "ciphertext"),
    ("Decrypt", "additional_authenticated_data"),
    ("RawEncrypt", "plaintext"),
    ("RawEncrypt", "additional_authenticated_data"),
    ("RawDecrypt", "ciphertext"),
    ("RawDecrypt", "additional_authenticated_data"),
    ("RawDecrypt", "initialization_vector"),
    ("AsymmetricSign", "digest.sha256"),
    ("AsymmetricDecrypt", "ciphertext"),
    ("MacSign", "data"),
    ("MacVerify", "data"),
    ("MacVerify", "mac"),
    ("Decapsulate", "ciphertext"),
]
RESPONSE_FLIPS = [
    ("Encrypt", "ciphertext"),
    ("Decrypt", "plaintext"),
    ("RawEncrypt", "ciphertext"),
    ("RawEncrypt", "initialization_vector"),
    ("RawDecrypt", "plaintext"),
    ("AsymmetricSign", "signature"),
    ("AsymmetricDecrypt", "plaintext"),
    ("MacSign", "mac"),
    ("Decapsulate", "shared_secret"),
    ("GetPublicKey", "pem"),
    ("GenerateRandomBytes", "data"),
]


class Caller:
    """One good call of every cryptographic method, with every checksum that the method takes."""

    def __init__(self, kms: Any) -> None:
        self.kms = kms
        self.key = make_key(kms)
        self.raw = version_of(make_key(kms, "RAW_ENCRYPT_DECRYPT", "AES_256_GCM", "raw"))
        self.signer = version_of(make_key(kms, "ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256", "signer"))
        self.decrypter = version_of(
            make_key(kms, "ASYMMETRIC_DECRYPT", "RSA_DECRYPT_OAEP_2048_SHA256", "decrypter")
        )
        self.mac = version_of(make_key(kms, "MAC", "HMAC_SHA256", "mac"))
        self.kem = version_of(make_key(kms, "KEY_ENCAPSULATION", "ML_KEM_768", "kem"))

    def request(self, operation: str) -> dict[str, Any]:
        aad = {"additional_authenticated_data": b"aad"}
        if operation == "Encrypt":
            return {"name": self.key, "plaintext": SECRET} | aad
        if operation == "Decrypt":
            sealed = self.kms.encrypt(request={"name": self.key, "plaintext": SECRET} | aad)
            return {"name": self.key, "ciphertext": sealed.ciphertext} | aad
        if operation == "RawEncrypt":
            return {"name": self.raw, "plaintext": SECRET} | aad
        if operation == "RawDecrypt":
            sealed = self.kms.raw_encrypt(request={"name": self.raw, "plaintext": SECRET} | aad)
            return {
                "name": self.raw,
                "ciphertext": sealed.ciphertext,
                "initialization_vector": sealed.initialization_vector,
            } | aad
        if operation == "AsymmetricSign":
            return {"name": self.signer, "digest": {"sha256": hashlib.sha256(SECRET).digest()}}
        if operation == "AsymmetricDecrypt":
            public = public_key(self.kms, self.decrypter)
            assert isinstance(public, rsa.RSAPublicKey)
            scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
            return {"name": self.decrypter, "ciphertext": public.encrypt(SECRET, scheme)}
        if operation == "MacSign":
            return {"name": self.mac, "data": SECRET}
        if operation == "MacVerify":
            return {
                "name": self.mac,
                "data": SECRET,
                "mac": self.kms.mac_sign(name=self.mac, data=SECRET).mac,
            }
        if operation == "Decapsulate":
            public = public_key(self.kms, self.kem)
            assert isinstance(public, mlkem.MLKEM768PublicKey)
            return {"name": self.kem, "ciphertext": public.encapsulate()[1]}
        if operation == "GetPublicKey":
            return {"name": self.signer}
        return {
            "location": "projects/p/locations/global",
            "length_bytes": 32,
            "protection_level": "HSM",
        }

    def call(self, operation: str, request: dict[str, Any]) -> Any:
        sums: dict[str, Any] = {}
        for field, value in request.items():
            if isinstance(value, bytes):
                sums[f"{field}_crc32c"] = crc32c(value)
            elif field == "digest":
                sums["digest_crc32c"] = crc32c(value["sha256"])
        method = "".join("_" + c.lower() if c.isupper() else c for c in operation).lstrip("_")
        return getattr(self.kms, method)(request=request | sums, retry=None)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[GCPEmulator, Caller]]:
    with GCPEmulator() as emulator:
        yield emulator, Caller(emulator.client())


@pytest.mark.parametrize(("operation", "field"), REQUEST_FLIPS)
def test_a_damaged_request_is_refused_by_its_checksum(
    shared: tuple[GCPEmulator, Caller], operation: str, field: str
) -> None:
    gcp, caller = shared
    request = caller.request(operation)
    gcp.corrupt(operation, f"request.{field}")
    name = field.partition(".")[0]
    expected = f"The checksum in field {name}_crc32c did not match the data in field {name}."
    with pytest.raises(exceptions.InvalidArgument, match=expected):
        caller.call(operation, request)
    assert gcp.pending_corruptions == 0
    caller.call(operation, request)


@pytest.mark.parametrize(("operation", "field"), RESPONSE_FLIPS)
def test_a_damaged_response_differs_from_its_checksum(
    shared: tuple[GCPEmulator, Caller], operation: str, field: str
) -> None:
    gcp, caller = shared
    request = caller.request(operation)
    for damaged in (True, False):
        if damaged:
            gcp.corrupt(operation, f"response.{field}")
        reply = caller.call(operation, request)
        value = getattr(reply, field)
        data = value.encode() if isinstance(value, str) else value
        assert (crc32c(data) != getattr(reply, f"{field}_crc32c")) is damaged


def test_flags_and_checksums_can_be_damaged_too(shared: tuple[GCPEmulator, Caller]) -> None:
    gcp, caller = shared
    gcp.corrupt("Encrypt", "response.verified_plaintext_crc32c")
    assert caller.call("Encrypt", caller.request("Encrypt")).verified_plaintext_crc32c is False
    gcp.corrupt("MacVerify", "response.success")
    reply = caller.call("MacVerify", caller.request("MacVerify"))
    assert (reply.success, reply.verified_success_integrity) == (False, True)
    gcp.corrupt("Encrypt", "response.ciphertext_crc32c")
    reply = caller.call("Encrypt", caller.request("Encrypt"))
    assert crc32c(reply.ciphertext) != reply.ciphertext_crc32c
    assert gcp.pending_corruptions == 0


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        ("Encrypt", "request.nothing"),
        ("Encrypt", "plaintext"),
        ("Encrypt", "request"),
        ("Nothing", "request.name"),
        ("CreateImportJob", "request.import_job"),
        ("ListCryptoKeys", "response.crypto_keys"),
    ],
)
def test_corrupt_refuses_what_does_not_exist(gcp: GCPEmulator, operation: str, field: str) -> None:
    with pytest.raises(ValueError, match=r"corrupt takes|has no single-valued field"):
        gcp.corrupt(operation, field)


def test_a_checksum_of_zero_is_a_checksum(shared: tuple[GCPEmulator, Caller]) -> None:
    _, caller = shared
    reply = caller.kms.encrypt(request={"name": caller.key, "plaintext": b"", "plaintext_crc32c": 0})
    assert reply.verified_plaintext_crc32c is True
    reply = caller.kms.decrypt(request={"name": caller.key, "ciphertext": reply.ciphertext})
    assert (reply.plaintext, reply.plaintext_crc32c) == (b"", 0)


def test_crc32c_is_the_published_one() -> None:
    # RFC 3720 appendix B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"123456789") == 0xE3069283


def test_each_damaged_bit_of_a_ciphertext_is_noticed(shared: tuple[GCPEmulator, Caller]) -> None:
    _, caller = shared
    first = caller.kms.encrypt(name=caller.key, plaintext=SECRET).ciphertext
    assert caller.kms.encrypt(name=caller.key, plaintext=SECRET).ciphertext != first
    for position in range(len(first)):
        damaged = bytearray(first)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(exceptions.InvalidArgument, match="Decryption failed"):
            caller.kms.decrypt(name=caller.key, ciphertext=bytes(damaged))


@pytest.mark.parametrize(
    "header",
    [
        (),
        (("x-goog-request-params", "name=projects/p/locations/global/keyRings/other"),),
        (("x-goog-request-params", f"parent={RING}"),),
        (("x-goog-request-params", f"name={RING}&name={RING}"),),
        (("x-goog-request-params", "%zz=%ff&&=;"),),
    ],
)
def test_a_request_without_its_routing_header_is_refused(
    gcp: GCPEmulator, header: tuple[tuple[str, str], ...]
) -> None:
    with grpc.insecure_channel(gcp.address) as channel:
        call = cast("Any", channel).unary_unary("/google.cloud.kms.v1.KeyManagementService/GetKeyRing")
        request = cast("Any", kms_v1.GetKeyRingRequest).serialize({"name": RING})
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=header)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "x-goog-request-params" in error.details()
        assert call(request, metadata=(("x-goog-request-params", f"name={RING}"),))


def test_requests_are_recorded_as_they_came(gcp: GCPEmulator, kms: Any) -> None:
    key = make_key(kms, labels={"team": "alpha"})
    kms.encrypt(request={"name": key, "plaintext": SECRET, "plaintext_crc32c": crc32c(SECRET)})
    created, encrypted = gcp.requests
    assert created.operation == "CreateCryptoKey"
    assert created.parameters["crypto_key"]["labels"] == {"team": "alpha"}
    assert encrypted.parameters == {
        "name": key,
        "plaintext": SECRET,
        "plaintext_crc32c": crc32c(SECRET),
    }
    assert encrypted.headers["x-goog-request-params"].startswith("name=projects")
    assert (
        "gccl" in encrypted.headers["x-goog-api-client"] or "gapic" in encrypted.headers["x-goog-api-client"]
    )
    assert SECRET.decode() not in repr(encrypted)


def test_rotations_that_are_overdue_all_happen() -> None:
    clock = Clock(datetime(2030, 1, 1, tzinfo=UTC))
    with GCPEmulator(clock=clock) as gcp:
        kms = gcp.client()
        key = make_key(
            kms,
            rotation_period=timedelta(days=90),
            next_rotation_time=datetime(2030, 1, 2, tzinfo=UTC),
        )
        sealed = kms.encrypt(name=key, plaintext=SECRET)
        assert sealed.name == version_of(key)
        clock.advance(timedelta(days=182))
        assert kms.encrypt(name=key, plaintext=SECRET).name == version_of(key, 4)
        versions = list(kms.list_crypto_key_versions(parent=key))
        assert [str(version.create_time.date()) for version in versions] == [
            "2030-01-01",
            "2030-01-02",
            "2030-04-02",
            "2030-07-01",
        ]
        assert str(kms.get_crypto_key(name=key).next_rotation_time.date()) == "2030-09-29"
        reply = kms.decrypt(name=key, ciphertext=sealed.ciphertext)
        assert (reply.plaintext, reply.used_primary) == (SECRET, False)


def test_destruction_waits_for_its_time_and_takes_the_material() -> None:
    clock = Clock(datetime(2030, 1, 1, tzinfo=UTC))
    with GCPEmulator(clock=clock) as gcp:
        kms = gcp.client()
        key = make_key(kms, destroy_scheduled_duration=timedelta(days=7))
        sealed = kms.encrypt(name=key, plaintext=SECRET).ciphertext
        kms.destroy_crypto_key_version(name=version_of(key))
        clock.advance(timedelta(days=7) - timedelta(seconds=1))
        assert kms.restore_crypto_key_version(name=version_of(key)).state.name == "DISABLED"
        set_state(kms, version_of(key), "ENABLED")
        assert kms.decrypt(name=key, ciphertext=sealed).plaintext == SECRET
        kms.destroy_crypto_key_version(name=version_of(key))
        clock.advance(timedelta(days=7))
        gone = kms.get_crypto_key(name=key).primary
        destroyed = datetime(2030, 1, 14, 23, 59, 59, tzinfo=UTC)
        assert (gone.state.name, gone.destroy_event_time) == ("DESTROYED", destroyed)


def test_import_only_keys_may_destroy_at_once(gcp: GCPEmulator, kms: Any) -> None:
    job = import_job(kms)
    name = make_import_key(kms, "ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION", "once", destroy=timedelta())
    version = import_material(kms, name, "GOOGLE_SYMMETRIC_ENCRYPTION", job, b"k" * 32)
    assert kms.destroy_crypto_key_version(name=version).state.name == "DESTROYED"


def test_asymmetric_versions_wait_as_many_reads_as_asked(gcp: GCPEmulator, kms: Any) -> None:
    gcp.generation = Generation(reads=2)
    version = version_of(make_key(kms, "ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256"))
    with pytest.raises(exceptions.FailedPrecondition, match="current state is: PENDING_GENERATION"):
        kms.asymmetric_sign(name=version, digest={"sha256": bytes(32)})
    with pytest.raises(exceptions.FailedPrecondition):
        set_state(kms, version, "DISABLED")
    with pytest.raises(exceptions.FailedPrecondition):
        kms.destroy_crypto_key_version(name=version)
    states = [kms.get_crypto_key_version(name=version).state.name for _ in range(3)]
    assert states == ["PENDING_GENERATION", "PENDING_GENERATION", "ENABLED"]
    assert kms.asymmetric_sign(name=version, digest={"sha256": bytes(32)}).signature
    assert make_key(kms, name="symmetric")
    assert kms.encrypt(name=f"{RING}/cryptoKeys/symmetric", plaintext=SECRET).ciphertext


def test_generation_can_be_held_and_finished(gcp: GCPEmulator, kms: Any) -> None:
    gcp.generation = Generation(reads=None)
    version = version_of(make_key(kms, "ASYMMETRIC_SIGN", "EC_SIGN_ED25519"))
    job = kms.create_import_job(
        parent=RING,
        import_job_id="job",
        import_job={"import_method": "RSA_OAEP_3072_SHA256_AES_256", "protection_level": "SOFTWARE"},
    )
    for _ in range(5):
        assert kms.get_crypto_key_version(name=version).state.name == "PENDING_GENERATION"
        assert not kms.get_import_job(name=job.name).public_key.pem
    gcp.finish_generation()
    assert kms.get_crypto_key_version(name=version).state.name == "ENABLED"
    assert kms.get_import_job(name=job.name).state.name == "ACTIVE"


def test_generation_can_fail(gcp: GCPEmulator, kms: Any) -> None:
    gcp.generation = Generation(failure="the HSM is full")
    key = make_key(kms, "ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256")
    failed = kms.get_crypto_key_version(name=version_of(key))
    assert (failed.state.name, failed.generation_failure_reason) == ("GENERATION_FAILED", "the HSM is full")
    kms.delete_crypto_key_version(name=failed.name).result(timeout=20)
    kms.delete_crypto_key(name=key).result(timeout=20)


def test_a_deleted_key_is_retired_for_ever(gcp: GCPEmulator, kms: Any) -> None:
    key = make_key(kms)
    sealed = kms.encrypt(name=key, plaintext=SECRET).ciphertext
    kms.destroy_crypto_key_version(name=version_of(key))
    gcp.clock.advance(timedelta(days=30))
    kms.delete_crypto_key_version(name=version_of(key)).result(timeout=20)
    with pytest.raises(exceptions.FailedPrecondition, match="no primary version"):
        kms.encrypt(name=key, plaintext=SECRET)
    with pytest.raises(exceptions.InvalidArgument, match="correct CryptoKey"):
        kms.decrypt(name=key, ciphertext=sealed)
    assert kms.create_crypto_key_version(parent=key, crypto_key_version={}).name == version_of(key, 2)
    kms.destroy_crypto_key_version(name=version_of(key, 2))
    gcp.clock.advance(timedelta(days=30))
    kms.delete_crypto_key_version(name=version_of(key, 2)).result(timeout=20)
    operation = kms.delete_crypto_key(name=key)
    operation.result(timeout=20)
    assert kms.get_operation({"name": operation.operation.name}).done
    retired = kms.get_retired_resource(name=operation.metadata.retired_resource)
    assert retired.original_resource == key
    with pytest.raises(exceptions.AlreadyExists):
        make_key(kms)
    with pytest.raises(exceptions.NotFound):
        kms.get_crypto_key(name=key)


def test_disabling_again_is_no_error(kms: Any) -> None:
    version = version_of(make_key(kms))
    assert set_state(kms, version, "DISABLED").state.name == "DISABLED"
    assert set_state(kms, version, "DISABLED").state.name == "DISABLED"


def test_a_disabled_version_cannot_become_primary(kms: Any) -> None:
    key = make_key(kms)
    second = kms.create_crypto_key_version(parent=key, crypto_key_version={}).name
    set_state(kms, second, "DISABLED")
    with pytest.raises(exceptions.FailedPrecondition, match="is not enabled"):
        kms.update_crypto_key_primary_version(name=key, crypto_key_version_id="2")


# what the wire truth has no source for: refused all the same, so that a mistake in a program shows

KEY = f"{RING}/cryptoKeys/key"
IMPORT: dict[str, Any] = {
    "parent": KEY,
    "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
    "import_job": f"{RING}/importJobs/job",
    "wrapped_key": b"w",
}


def creating(**members: Any) -> dict[str, Any]:
    return {"parent": RING, "crypto_key_id": "new", "crypto_key": {"purpose": "ENCRYPT_DECRYPT", **members}}


@pytest.mark.parametrize(
    ("method", "request_", "error"),
    [
        ("create_crypto_key", creating(purpose="AES_WRAPPING"), exceptions.MethodNotImplemented),
        ("create_crypto_key", creating(purpose=999), exceptions.MethodNotImplemented),
        ("create_crypto_key", creating(version_template={"algorithm": 999}), exceptions.MethodNotImplemented),
        (
            "create_crypto_key",
            creating(version_template={"protection_level": "EXTERNAL"}),
            exceptions.MethodNotImplemented,
        ),
        (
            "create_crypto_key",
            creating(key_access_justifications_policy={}),
            exceptions.MethodNotImplemented,
        ),
        ("create_crypto_key", creating(crypto_key_backend="b"), exceptions.InvalidArgument),
        ("create_crypto_key", creating(import_only=True), exceptions.InvalidArgument),
        ("create_crypto_key", creating(labels={"": "v"}), exceptions.InvalidArgument),
        ("create_crypto_key", creating(labels={"1": "v"}), exceptions.InvalidArgument),
        (
            "create_crypto_key",
            creating(destroy_scheduled_duration=timedelta(days=120, seconds=1)),
            exceptions.InvalidArgument,
        ),
        (
            "create_crypto_key",
            creating(next_rotation_time=datetime(2000, 1, 1, tzinfo=UTC)),
            exceptions.InvalidArgument,
        ),
        (
            "create_crypto_key",
            creating() | {"trusted_wrapping_enabled": True},
            exceptions.InvalidArgument,
        ),
        (
            "create_crypto_key_version",
            {"parent": KEY, "crypto_key_version": {"state": "DISABLED"}},
            exceptions.InvalidArgument,
        ),
        (
            "create_crypto_key_version",
            {"parent": KEY, "crypto_key_version": {"external_protection_level_options": {}}},
            exceptions.InvalidArgument,
        ),
        ("create_import_job", {"parent": RING, "import_job_id": "j"}, exceptions.InvalidArgument),
        (
            "create_import_job",
            {
                "parent": RING,
                "import_job_id": "j",
                "import_job": {"import_method": "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM"},
            },
            exceptions.MethodNotImplemented,
        ),
        (
            "create_import_job",
            {"parent": RING, "import_job_id": "j", "import_job": {"import_method": "RSA_OAEP_3072_SHA256"}},
            exceptions.InvalidArgument,
        ),
        (
            "create_import_job",
            {
                "parent": RING,
                "import_job_id": "job",
                "import_job": {"import_method": "RSA_OAEP_3072_SHA256", "protection_level": "SOFTWARE"},
            },
            exceptions.AlreadyExists,
        ),
        ("import_crypto_key_version", IMPORT | {"algorithm": 0}, exceptions.InvalidArgument),
        ("import_crypto_key_version", IMPORT | {"wrapped_key": b""}, exceptions.InvalidArgument),
        (
            "import_crypto_key_version",
            IMPORT | {"import_job": "projects/p/locations/global/keyRings/other/importJobs/job"},
            exceptions.InvalidArgument,
        ),
        (
            "import_crypto_key_version",
            IMPORT | {"crypto_key_version": f"{RING}/cryptoKeys/other/cryptoKeyVersions/1"},
            exceptions.InvalidArgument,
        ),
        (
            "update_crypto_key",
            {
                "crypto_key": {"name": KEY, "version_template": {"protection_level": "HSM"}},
                "update_mask": {"paths": ["version_template"]},
            },
            exceptions.InvalidArgument,
        ),
        (
            "update_crypto_key",
            {
                "crypto_key": {"name": KEY},
                "update_mask": {"paths": ["key_access_justifications_policy"]},
            },
            exceptions.MethodNotImplemented,
        ),
        (
            "update_crypto_key_version",
            {
                "crypto_key_version": {"name": version_of(KEY)},
                "update_mask": {"paths": ["external_protection_level_options"]},
            },
            exceptions.MethodNotImplemented,
        ),
        (
            "get_import_job",
            {"name": f"{RING}/importJobs/job", "public_key_format": "NIST_PQC"},
            exceptions.InvalidArgument,
        ),
        (
            "get_retired_resource",
            {"name": "projects/p/locations/global/retiredResources/none"},
            exceptions.NotFound,
        ),
        ("get_operation", {"name": "projects/p/locations/global/operations/none"}, exceptions.NotFound),
        ("get_operation", {"name": "operations/none"}, exceptions.InvalidArgument),
        (
            "asymmetric_sign",
            {"name": f"{RING}/cryptoKeys/signer/cryptoKeyVersions/1"},
            exceptions.InvalidArgument,
        ),
        (
            "mac_verify",
            {"name": f"{RING}/cryptoKeys/mac/cryptoKeyVersions/1", "data": b"d", "mac": b"short"},
            exceptions.InvalidArgument,
        ),
        ("mac_sign", {"name": f"{RING}/cryptoKeys/mac/cryptoKeyVersions/1"}, exceptions.InvalidArgument),
        (
            "raw_decrypt",
            {
                "name": f"{RING}/cryptoKeys/raw/cryptoKeyVersions/1",
                "ciphertext": b"c" * 20,
                "initialization_vector": b"i" * 12,
                "tag_length": 12,
            },
            exceptions.InvalidArgument,
        ),
    ],
)
def test_refusals(attacked_kms: Any, method: str, request_: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        getattr(attacked_kms, method)(request=request_, retry=None)


@pytest.fixture(scope="module")
def attacked_kms() -> Iterator[Any]:
    with GCPEmulator() as emulator:
        kms = emulator.client()
        Caller(kms)
        kms.create_import_job(
            parent=RING,
            import_job_id="job",
            import_job={"import_method": "RSA_OAEP_3072_SHA256", "protection_level": "SOFTWARE"},
        )
        yield kms


def test_a_wrapping_key_in_der(attacked_kms: Any) -> None:
    name = f"{RING}/importJobs/job"
    der = attacked_kms.get_import_job(request={"name": name, "public_key_format": "DER"}).public_key.data
    pem = attacked_kms.get_import_job(name=name).public_key.pem
    assert serialization.load_der_public_key(der) == serialization.load_pem_public_key(pem.encode())
    assert [job.name for job in attacked_kms.list_import_jobs(parent=RING)] == [name]


@pytest.mark.parametrize(
    "refused",
    [
        {"page_size": -1},
        {"page_token": "AAAA"},
        {"page_token": "%%%"},
        {"page_token": "bm90IG91cnM="},
        {"order_by": "name upwards"},
        {"order_by": "nothing"},
        {"order_by": ","},
        {"order_by": "name," * 1000},
        {"filter": "("},
        {"filter": "name"},
        {"filter": "name="},
        {"filter": "name=a)"},
        {"filter": "nothing=a"},
        {"filter": "labels=a"},
        {"filter": "labels.=a"},
        {"filter": "primary=a"},
        {"filter": "primary.nothing=a"},
        {"filter": "create_time=yesterday"},
        {"filter": "import_only=perhaps"},
        {"filter": "destroy_scheduled_duration=9999999999999999999s"},
        {"filter": "create_time:2000"},
        {"filter": "name ~ a"},
        {"filter": '"name"=a'},
        {"filter": "name=a AND"},
        {"filter": "NOT NOT name=a"},
        {"filter": "(" * 40 + "name=a" + ")" * 40},
        {"filter": "name=" + "a" * 4000},
        {"filter": 'name="unclosed'},
    ],
)
def test_a_list_refuses(kms: Any, refused: dict[str, Any]) -> None:
    make_key(kms)
    with pytest.raises(exceptions.InvalidArgument):
        kms.list_crypto_keys(request={"parent": RING, **refused})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("purpose=MAC", ["m"]),
        ("purpose!=MAC", ["a", "b"]),
        ("labels.team=alpha OR labels.team=beta", ["a", "b"]),
        ("labels.team!=alpha", ["b", "m"]),
        ('-labels.team="alpha" purpose:encrypt', ["b"]),
        ("(purpose=MAC OR labels.team=beta) AND NOT name:cryptoKeys/M", ["b"]),
        ("primary.state=ENABLED", ["a", "b"]),
        ("primary.state=DISABLED", []),
        ("importOnly=false", ["a", "b", "m"]),
        ("destroyScheduledDuration>=2592000s", ["a", "b", "m"]),
        ('createTime<"2000-01-01T00:00:00Z"', []),
        ("version_template.protection_level=HSM", ["m"]),
    ],
)
def test_filters(shared_list: Any, text: str, names: list[str]) -> None:
    found = shared_list.list_crypto_keys(request={"parent": RING, "filter": text})
    assert [key.name.rpartition("/")[2] for key in found] == names


@pytest.fixture(scope="module")
def shared_list() -> Iterator[Any]:
    with GCPEmulator() as emulator:
        kms = emulator.client()
        make_key(kms, name="a", labels={"team": "alpha"})
        make_key(kms, name="b", labels={"team": "beta"})
        make_key(kms, "MAC", "HMAC_SHA256", "m", "HSM")
        yield kms


def test_order_and_pages_agree(shared_list: Any) -> None:
    request = {"parent": RING, "order_by": "purpose desc, name desc", "page_size": 1}
    assert [key.name[-1] for key in shared_list.list_crypto_keys(request=request)] == ["m", "b", "a"]
    first = shared_list.list_crypto_keys(request={"parent": RING, "page_size": 1})
    token = next(iter(first.pages)).next_page_token
    with pytest.raises(exceptions.InvalidArgument, match="page_token"):
        shared_list.list_crypto_keys(request={"parent": RING, "page_token": token, "filter": "purpose=MAC"})


def import_job(kms: Any, method: str = "RSA_OAEP_3072_SHA256_AES_256") -> str:
    job = kms.create_import_job(
        parent=RING,
        import_job_id=f"job-{method}",
        import_job={"import_method": method, "protection_level": "SOFTWARE"},
    )
    return str(job.name)


def make_import_key(
    kms: Any, purpose: str, algorithm: str, name: str, *, destroy: timedelta = timedelta(days=1)
) -> str:
    wanted = {
        "purpose": purpose,
        "version_template": {"algorithm": algorithm},
        "import_only": True,
        "destroy_scheduled_duration": destroy,
    }
    request = {
        "parent": RING,
        "crypto_key_id": name,
        "crypto_key": wanted,
        "skip_initial_version_creation": True,
    }
    return str(kms.create_crypto_key(request=request).name)


def import_material(kms: Any, key: str, algorithm: str, job: str, material: bytes, **more: Any) -> str:
    """The material wrapped as CKM_RSA_AES_KEY_WRAP by pyca and imported: the version's name."""
    ready = kms.get_import_job(name=job)
    public = serialization.load_pem_public_key(ready.public_key.pem.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    digest = hashes.SHA1() if "SHA1" in job else hashes.SHA256()  # noqa: S303 - the method's own hash
    ephemeral = bytes(range(100, 132))
    wrapped = public.encrypt(ephemeral, padding.OAEP(padding.MGF1(digest), digest, None))
    wrapped += keywrap.aes_key_wrap_with_padding(ephemeral, material)
    request = {"parent": key, "algorithm": algorithm, "import_job": job, "wrapped_key": wrapped, **more}
    return str(kms.import_crypto_key_version(request=request).name)


@pytest.mark.parametrize("method", ["RSA_OAEP_3072_SHA1_AES_256", "RSA_OAEP_3072_SHA256_AES_256"])
def test_an_imported_key_is_the_key_that_was_wrapped(kms: Any, method: str) -> None:
    job = import_job(kms, method)
    key = make_import_key(kms, "RAW_ENCRYPT_DECRYPT", "AES_256_GCM", "raw")
    version = import_material(kms, key, "AES_256_GCM", job, bytes(range(32)))
    sealed = kms.raw_encrypt(
        request={"name": version, "plaintext": SECRET, "additional_authenticated_data": b"aad"}
    )
    opened = AESGCM(bytes(range(32))).decrypt(sealed.initialization_vector, sealed.ciphertext, b"aad")
    assert opened == SECRET


def test_cbc_and_ctr_are_the_standard_modes(kms: Any) -> None:
    job = import_job(kms)
    material, iv = bytes(range(16)), b"my_custom_iv_123"
    for algorithm, mode in (("AES_128_CBC", modes.CBC(iv)), ("AES_128_CTR", modes.CTR(iv))):
        key = make_import_key(kms, "RAW_ENCRYPT_DECRYPT", algorithm, algorithm)
        version = import_material(kms, key, algorithm, job, material)
        encryptor = Cipher(algorithms.AES(material), mode).encryptor()
        expected = encryptor.update(b"p" * 32) + encryptor.finalize()
        reply = kms.raw_encrypt(
            request={"name": version, "plaintext": b"p" * 32, "initialization_vector": iv}
        )
        assert reply.ciphertext == expected
        reply = kms.raw_decrypt(
            request={"name": version, "ciphertext": expected, "initialization_vector": iv}
        )
        assert reply.plaintext == b"p" * 32


def test_only_the_same_material_can_be_reimported(gcp: GCPEmulator, kms: Any) -> None:
    job = import_job(kms)
    key = make_import_key(kms, "MAC", "HMAC_SHA256", "mac")
    version = import_material(kms, key, "HMAC_SHA256", job, b"m" * 32)
    tag = kms.mac_sign(name=version, data=SECRET).mac
    assert tag == hmac.digest(b"m" * 32, SECRET, "sha256")
    with pytest.raises(exceptions.FailedPrecondition, match="not eligible for reimport"):
        import_material(kms, key, "HMAC_SHA256", job, b"m" * 32, crypto_key_version=version)
    kms.destroy_crypto_key_version(name=version)
    gcp.clock.advance(timedelta(days=1))
    assert kms.get_crypto_key_version(name=version).reimport_eligible
    import_material(kms, key, "HMAC_SHA256", job, b"x" * 32, crypto_key_version=version)
    assert kms.get_crypto_key_version(name=version).state.name == "IMPORT_FAILED"
    with pytest.raises(exceptions.FailedPrecondition, match="IMPORT_FAILED"):
        kms.mac_sign(name=version, data=SECRET)
    import_material(kms, key, "HMAC_SHA256", job, b"m" * 32, crypto_key_version=version)
    assert kms.mac_sign(name=version, data=SECRET).mac == tag


def public_key(kms: Any, version: str) -> Any:
    reply = kms.get_public_key(request={"name": version, "public_key_format": "DER"})
    assert crc32c(reply.public_key.data) == reply.public_key.crc32c_checksum
    return serialization.load_der_public_key(reply.public_key.data)


@pytest.fixture(scope="module")
def rsa_keys() -> dict[int, bytes]:
    """One key of each size, imported wherever a test needs RSA: the search for primes is slow."""
    return {
        bits: rsa.generate_private_key(65537, bits).private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        for bits in (2048, 3072, 4096)
    }


@pytest.fixture(scope="module")
def crypto() -> Iterator[tuple[Any, str]]:
    with GCPEmulator() as emulator:
        kms = emulator.client()
        yield kms, import_job(kms)


def a_version(crypto: tuple[Any, str], name: str, rsa_keys: dict[int, bytes]) -> str:
    kms, job = crypto
    algorithm = ALGORITHMS[name]
    bits = next((int(part) for part in name.split("_") if part in ("2048", "3072", "4096")), None)
    if bits is None:
        level = "HSM" if algorithm.hsm_only else "SOFTWARE"
        return version_of(make_key(kms, algorithm.purpose, name, name, level))
    key = make_import_key(kms, algorithm.purpose, name, name)
    return import_material(kms, key, name, job, rsa_keys[bits])


HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}


def names_with(*purposes: str) -> list[str]:
    return [name for name, algorithm in ALGORITHMS.items() if algorithm.purpose in purposes]


@pytest.mark.parametrize("name", names_with("ASYMMETRIC_SIGN"))
def test_signatures_verify(crypto: tuple[Any, str], rsa_keys: dict[int, bytes], name: str) -> None:
    kms, _ = crypto
    version = a_version(crypto, name, rsa_keys)
    algorithm = ALGORITHMS[name]
    public = public_key(kms, version)
    if algorithm.scheme == "ML-DSA external mu":
        mu = bytes(range(64))
        reply = kms.asymmetric_sign(name=version, digest={"external_mu": mu})
        assert isinstance(public, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey)
        public.verify_mu(reply.signature, mu)
        return
    signatures = [kms.asymmetric_sign(request={"name": version, "data": SECRET}).signature]
    digest_free = algorithm.scheme in ("raw PKCS1", "Ed25519", "ML-DSA")
    if not digest_free:
        field = algorithm.hash_name.replace("-", "").lower()
        digest = hashlib.new(field, SECRET).digest()
        signatures.append(kms.asymmetric_sign(name=version, digest={field: digest}).signature)
    for signature in signatures:
        verify(public, algorithm.scheme, HASHES[algorithm.hash_name], signature, SECRET)
        with pytest.raises(InvalidSignature):
            verify(public, algorithm.scheme, HASHES[algorithm.hash_name], signature, b"another message")


def verify(public: Any, scheme: str, digest: hashes.HashAlgorithm, signature: bytes, data: bytes) -> None:
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, data, ec.ECDSA(digest))
    elif isinstance(public, rsa.RSAPublicKey) and scheme == "PSS":
        public.verify(signature, data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    elif isinstance(public, rsa.RSAPublicKey) and scheme == "raw PKCS1":
        if public.recover_data_from_signature(signature, padding.PKCS1v15(), None) != data:
            raise InvalidSignature
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, data, padding.PKCS1v15(), digest)
    else:
        assert isinstance(
            public,
            ed25519.Ed25519PublicKey
            | mldsa.MLDSA44PublicKey
            | mldsa.MLDSA65PublicKey
            | mldsa.MLDSA87PublicKey,
        )
        public.verify(signature, data)


@pytest.mark.parametrize("name", names_with("ASYMMETRIC_DECRYPT"))
def test_oaep_decrypts_what_pyca_encrypts(
    crypto: tuple[Any, str], rsa_keys: dict[int, bytes], name: str
) -> None:
    kms, _ = crypto
    version = a_version(crypto, name, rsa_keys)
    public = public_key(kms, version)
    assert isinstance(public, rsa.RSAPublicKey)
    digest: hashes.HashAlgorithm = {
        "SHA1": hashes.SHA1(),  # noqa: S303 - Cloud KMS still offers it
        "SHA256": hashes.SHA256(),
        "SHA512": hashes.SHA512(),
    }[name.rpartition("_")[2]]
    sealed = public.encrypt(SECRET, padding.OAEP(padding.MGF1(digest), digest, None))
    assert kms.asymmetric_decrypt(name=version, ciphertext=sealed).plaintext == SECRET


@pytest.mark.parametrize("name", names_with("MAC"))
def test_tags_are_hmac(crypto: tuple[Any, str], name: str) -> None:
    kms, job = crypto
    digest = name.rpartition("_")[2].lower()
    material = bytes(range(hashlib.new(digest).digest_size))
    key = make_import_key(kms, "MAC", name, name)
    version = import_material(kms, key, name, job, material)
    assert kms.mac_sign(name=version, data=SECRET).mac == hmac.digest(material, SECRET, digest)


@pytest.mark.parametrize("name", names_with("KEY_ENCAPSULATION"))
def test_decapsulation_finds_the_secret_that_pyca_encapsulated(
    crypto: tuple[Any, str], rsa_keys: dict[int, bytes], name: str
) -> None:
    kms, _ = crypto
    version = a_version(crypto, name, rsa_keys)
    public = public_key(kms, version)
    assert isinstance(public, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey)
    raw = kms.get_public_key(request={"name": version, "public_key_format": "NIST_PQC"}).public_key.data
    assert raw == public.public_bytes_raw()
    secret, ciphertext = public.encapsulate()
    assert kms.decapsulate(request={"name": version, "ciphertext": ciphertext}).shared_secret == secret


def test_concurrent_calls_keep_versions_in_sequence(gcp: GCPEmulator, kms: Any) -> None:
    key = make_key(kms)
    clients = [gcp.client() for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(clients[n % 4].create_crypto_key_version, parent=key, crypto_key_version={})
            for n in range(40)
        ]
        rings = [
            pool.submit(
                clients[n % 4].create_crypto_key,
                parent=RING,
                crypto_key_id="same",
                crypto_key={"purpose": "ENCRYPT_DECRYPT"},
                retry=None,
            )
            for n in range(8)
        ]
        wait([*jobs, *rings])
    numbers = sorted(int(job.result().name.rpartition("/")[2]) for job in jobs)
    assert numbers == list(range(2, 42))
    errors = [ring.exception() for ring in rings]
    assert errors.count(None) == 1
    assert sum(isinstance(error, exceptions.AlreadyExists) for error in errors) == 7


def test_concurrent_cryptography(gcp: GCPEmulator, kms: Any) -> None:
    key = make_key(kms)

    def round_trip(number: int) -> bool:
        text = f"message {number}".encode()
        sealed = kms.encrypt(name=key, plaintext=text, retry=None)
        return bool(kms.decrypt(name=key, ciphertext=sealed.ciphertext, retry=None).plaintext == text)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(round_trip, range(200)))


def test_the_official_async_client(gcp: GCPEmulator) -> None:
    async def calls() -> list[bytes]:
        kms = gcp.async_client()
        key = await kms.create_crypto_key(
            parent=RING, crypto_key_id="key", crypto_key={"purpose": "ENCRYPT_DECRYPT"}
        )
        sealed = await asyncio.gather(
            *(kms.encrypt(name=key.name, plaintext=str(number).encode()) for number in range(8))
        )
        opened = await asyncio.gather(
            *(kms.decrypt(name=key.name, ciphertext=each.ciphertext) for each in sealed)
        )
        listed = [each.name async for each in await kms.list_crypto_keys(parent=RING)]
        assert listed == [key.name]
        gcp.faults.add("GetCryptoKey", kind="reset")
        with pytest.raises(exceptions.ServiceUnavailable):
            await kms.get_crypto_key(name=key.name, retry=None)
        await kms.transport.close()
        return [each.plaintext for each in opened]

    assert asyncio.run(calls()) == [str(number).encode() for number in range(8)]


def test_state_outlasts_a_stop() -> None:
    gcp = GCPEmulator()
    with pytest.raises(RuntimeError, match="not started"):
        _ = gcp.uri
    with gcp:
        key = make_key(gcp.client())
        assert gcp.uri == f"gcpkms://{RING}?endpoint={gcp.address}"
        with pytest.raises(RuntimeError, match="already started"):
            gcp.start()
        port = int(gcp.address.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            GCPEmulator(port=port).start()
    gcp.stop()
    with gcp:
        assert gcp.client().get_crypto_key(name=key).name == key


@pytest.mark.parametrize(
    "garbage",
    [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(5000), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000],
)
def test_garbage_on_the_port_does_not_stop_it(gcp: GCPEmulator, garbage: bytes) -> None:
    host, _, port = gcp.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
    assert gcp.client().get_key_ring(name=RING, retry=None).name == RING


def test_it_listens_on_loopback_only(gcp: GCPEmulator) -> None:
    assert gcp.address.startswith("127.0.0.1:")


def test_the_package_alone_imports_no_cloud_library() -> None:
    code = (
        "import sys, anykms_emulators, anykms_emulators.command\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('grpc', 'google')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert found.stdout.strip() == "[]"


def test_the_command_serves_until_it_is_stopped() -> None:
    code = "from anykms_emulators.command import emulator; emulator()"
    process = subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", code, "gcp", "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        uri = json.loads(process.stdout.readline())["uri"]
        address = uri.partition("?endpoint=")[2]
        with grpc.insecure_channel(address) as channel:
            transport: Any = kms_v1.KeyManagementServiceClient.get_transport_class("grpc")
            kms: Any = kms_v1.KeyManagementServiceClient(transport=transport(channel=channel))
            assert kms.get_key_ring(name=RING).name == RING
    finally:
        process.kill()
        process.communicate()


NAMES = st.sampled_from(
    [
        RING,
        f"{RING}/cryptoKeys/key",
        f"{RING}/cryptoKeys/key/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/raw/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/signer/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/decrypter/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/mac/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/kem/cryptoKeyVersions/1",
        f"{RING}/cryptoKeys/fresh",
        f"{RING}/importJobs/job",
        "projects/p/locations/global",
        "projects/p/locations/global/operations/o",
        "",
        "\n",
        "1",
        "state",
        "labels",
        "name",
        "next_rotation_time",
        "version_template",
        "name asc",
        "labels.team=a",
        "(((",
    ]
)


def message(kind: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Messages of a type with any of its fields set, to values both plausible and absurd."""
    descriptor = kind.DESCRIPTOR
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        one: st.SearchStrategy[Any]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            one = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
        elif field.message_type is not None:
            if depth > 2:
                continue
            one = message(field.message_type._concrete_class, depth + 1)
        elif field.enum_type is not None:
            one = st.sampled_from([*field.enum_type.values_by_number, 999])
        elif field.type == field.TYPE_STRING:
            one = NAMES | st.text(max_size=20)
        elif field.type == field.TYPE_BYTES:
            sizes = st.sampled_from([0, 1, 12, 16, 32, 48, 64, 256, 384, 1088, 65536, 65537])
            one = sizes.map(lambda size: random.Random(size).randbytes(size))  # noqa: S311 - only bytes
        elif field.type == field.TYPE_BOOL:
            one = st.booleans()
        elif field.type == field.TYPE_INT32:
            one = st.sampled_from([-(2**31), -1, 0, 1, 7, 8, 1024, 2**31 - 1, 16])
        else:
            one = st.sampled_from([-(2**63), -1, 0, 1, 86_400, 253_402_300_800, 2**63 - 1])
        fields[field.name] = st.lists(one, max_size=2) if _is_list(field) else one
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: kind(**chosen))


def _is_list(field: Any) -> bool:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    return bool(field.is_repeated and not is_map)


def _raw_type(kind: Any) -> Any:
    return cast("Any", type)(kind.pb(kind())) if hasattr(kind, "pb") else kind


GOOD: dict[str, dict[str, Any]] = {
    "CreateKeyRing": {"parent": "projects/p/locations/global", "key_ring_id": "another"},
    "CreateCryptoKey": creating(),
    "CreateCryptoKeyVersion": {"parent": KEY},
    "CreateImportJob": {
        "parent": RING,
        "import_job_id": "another",
        "import_job": {"import_method": 5, "protection_level": 1},
    },
    "ImportCryptoKeyVersion": IMPORT | {"algorithm": 1, "import_job": f"{RING}/importJobs/job"},
    "UpdateCryptoKey": {"crypto_key": {"name": KEY}, "update_mask": {"paths": ["labels"]}},
    "UpdateCryptoKeyVersion": {
        "crypto_key_version": {"name": version_of(KEY), "state": 1},
        "update_mask": {"paths": ["state"]},
    },
}


@st.composite
def hostile_calls(draw: st.DrawFn) -> tuple[str, bytes, str]:
    path = draw(st.sampled_from(sorted(RPCS)))
    rpc = RPCS[path]
    if draw(st.integers(0, 9)) == 0:
        header = st.text(st.characters(codec="ascii", exclude_categories=["C"]))
        return path, draw(st.binary(max_size=40)), draw(header)
    request = draw(message(_raw_type(rpc.request)))
    good = GOOD.get(path.rpartition("/")[2])
    if good is not None and draw(st.booleans()):
        # a good request with one or two fields made hostile gets further than a random one
        kept = draw(st.sets(st.sampled_from([field.name for field in request.DESCRIPTOR.fields]), max_size=2))
        base = _raw_type(rpc.request)()
        base.MergeFrom(cast("Any", rpc.request).pb(rpc.request(good)))
        for name in kept:
            if any(field.name == name for field, _ in request.ListFields()):
                part = type(request)(**{name: getattr(request, name)})
                base.MergeFrom(part)
        request = base
    value: Any = request
    for part in rpc.routing.split("."):
        value = getattr(value, part)
    return path, request.SerializeToString(), f"{rpc.routing}={value}"


@pytest.fixture(scope="module")
def attacked() -> Iterator[tuple[GCPEmulator, grpc.Channel]]:
    with GCPEmulator() as emulator:
        kms = emulator.client()
        Caller(kms)
        kms.create_import_job(
            parent=RING, import_job_id="job", import_job={"import_method": 5, "protection_level": 1}
        )
        with grpc.insecure_channel(emulator.address) as channel:
            yield emulator, channel


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(call=hostile_calls())
def test_no_request_breaks_the_emulator(
    attacked: tuple[GCPEmulator, grpc.Channel], call: tuple[str, bytes, str]
) -> None:
    path, request, routing = call
    _, channel = attacked
    header = urllib.parse.quote(routing, safe="=/")
    answer = (
        cast("Any", channel)
        .unary_unary(path)
        .future(request, metadata=(("x-goog-request-params", header),), timeout=60)
    )
    assert answer.code() in {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }, answer.details()
