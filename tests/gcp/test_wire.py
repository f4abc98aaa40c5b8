"""Cloud KMS on a bad wire: flipped bits, lost and refused calls, and what is never sent at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from google.api_core import exceptions as sdk
from google.rpc import error_details_pb2  # pyright: ignore[reportMissingTypeStubs] # it ships none

from anykms import (
    KeyConf,
    KeyInfo,
    KeyPurpose,
    Keyring,
    KeyState,
    KMSClient,
    RetryPolicy,
    errors,
)
from anykms.keys import ConnectionURI, KeyURI
from anykms.provider import WrapContext
from anykms_emulators.gcp import GCPEmulator
from anykms_gcp import GCPProvider
from anykms_gcp.errors import translate

SECRET = bytes(range(32))
AAD = WrapContext({"anykms:bind": "x"}, b"\x07" * 32)
ATTEMPTS = 5


@dataclass(frozen=True)
class Bench:
    """An emulator, a provider on it, a client around that, and one key of each purpose."""

    gcp: GCPEmulator
    provider: GCPProvider
    client: KMSClient
    wrapping: KeyInfo
    signing: KeyInfo
    ed25519: KeyInfo
    mac: KeyInfo
    opening: KeyInfo


def patient(provider: GCPProvider) -> KMSClient:
    return KMSClient(provider, retry=RetryPolicy(sleep=lambda _: None))


@pytest.fixture(scope="module")
def module_bench() -> Iterator[Bench]:
    with GCPEmulator() as gcp:
        provider = GCPProvider.connect(ConnectionURI.parse(gcp.uri), **gcp.options)
        with patient(provider) as client:
            yield Bench(
                gcp,
                provider,
                client,
                client.generate_key(KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT)),
                client.generate_key(KeyConf("releases", KeyPurpose.SIGN_VERIFY, algorithm="ES256")),
                client.generate_key(KeyConf("letters", KeyPurpose.SIGN_VERIFY, algorithm="Ed25519")),
                client.generate_key(KeyConf("cookies", KeyPurpose.MAC, algorithm="HS256")),
                client.generate_key(KeyConf("mailbox", KeyPurpose.ASYMMETRIC_DECRYPT, key_size=2048)),
            )


@pytest.fixture
def bench(module_bench: Bench) -> Iterator[Bench]:
    yield module_bench
    module_bench.gcp.faults.clear()
    assert module_bench.gcp.pending_corruptions == 0


# Each use returns nothing, and fails unless its result is right.


def wrap(bench: Bench) -> None:
    sealed = bench.client.key(bench.wrapping).wrap(SECRET, context={"t": "1"})
    assert bench.client.key(bench.wrapping).unwrap(sealed, context={"t": "1"}) == SECRET


def sign(bench: Bench) -> None:
    key = bench.client.key(bench.signing)
    key.public_key().verify(b"message", key.sign(b"message"))


def sign_data(bench: Bench) -> None:
    key = bench.client.key(bench.ed25519)
    key.public_key().verify(b"message", key.sign(b"message"))


def read_public_key(bench: Bench) -> None:
    # A client remembers public keys, so this one is new.
    assert patient(bench.provider).key(bench.signing).public_key().fingerprint == bench.signing.fingerprint


def open_oaep(bench: Bench) -> None:
    key = bench.client.key(bench.opening)
    assert key.decrypt(key.public_key().encrypt(b"letter")) == b"letter"


def mac(bench: Bench) -> None:
    key = bench.client.key(bench.mac)
    key.verify_mac(b"message", key.mac(b"message"))


def wrong_mac(bench: Bench) -> None:
    with pytest.raises(errors.InvalidMacError):
        bench.client.key(bench.mac).verify_mac(b"message", bytes(32))


FLIPS: Mapping[str, tuple[str, str, Callable[[Bench], None]]] = {
    f"{operation}-{field}": (operation, field, use)
    for operation, use, fields in (
        (
            "Encrypt",
            wrap,
            (
                "request.plaintext",
                "request.plaintext_crc32c",
                "request.additional_authenticated_data",
                "request.additional_authenticated_data_crc32c",
                "response.name",
                "response.ciphertext",
                "response.ciphertext_crc32c",
                "response.verified_plaintext_crc32c",
                "response.verified_additional_authenticated_data_crc32c",
            ),
        ),
        (
            "Decrypt",
            wrap,
            (
                "request.ciphertext",
                "request.ciphertext_crc32c",
                "request.additional_authenticated_data",
                "request.additional_authenticated_data_crc32c",
                "response.plaintext",
                "response.plaintext_crc32c",
            ),
        ),
        (
            "AsymmetricSign",
            sign,
            (
                "request.digest.sha256",
                "request.digest_crc32c",
                "response.name",
                "response.signature",
                "response.signature_crc32c",
                "response.verified_digest_crc32c",
            ),
        ),
        (
            "AsymmetricSign",
            sign_data,
            ("request.data", "request.data_crc32c", "response.signature", "response.verified_data_crc32c"),
        ),
        (
            "AsymmetricDecrypt",
            open_oaep,
            (
                "request.ciphertext",
                "request.ciphertext_crc32c",
                "response.plaintext",
                "response.plaintext_crc32c",
                "response.verified_ciphertext_crc32c",
            ),
        ),
        (
            "MacSign",
            mac,
            (
                "request.data",
                "request.data_crc32c",
                "response.name",
                "response.mac",
                "response.mac_crc32c",
                "response.verified_data_crc32c",
            ),
        ),
        (
            "MacVerify",
            mac,
            (
                "request.data",
                "request.data_crc32c",
                "request.mac",
                "request.mac_crc32c",
                "response.name",
                "response.success",
                "response.verified_data_crc32c",
                "response.verified_mac_crc32c",
                "response.verified_success_integrity",
            ),
        ),
        ("MacVerify", wrong_mac, ("response.success", "response.verified_success_integrity")),
        (
            "GetPublicKey",
            read_public_key,
            ("response.name", "response.public_key.data", "response.public_key.crc32c_checksum"),
        ),
    )
    for field in fields
}


@pytest.mark.parametrize(("operation", "field", "use"), FLIPS.values(), ids=FLIPS)
def test_a_flipped_bit_is_noticed_and_the_call_repeated(
    bench: Bench, operation: str, field: str, use: Callable[[Bench], None]
) -> None:
    bench.gcp.requests.clear()
    bench.gcp.corrupt(operation, field)
    use(bench)
    assert bench.gcp.requests.operations.count(operation) == 2


@pytest.mark.parametrize(("operation", "field", "use"), FLIPS.values(), ids=FLIPS)
def test_a_bit_that_is_always_flipped_is_an_integrity_error(
    bench: Bench, operation: str, field: str, use: Callable[[Bench], None]
) -> None:
    bench.gcp.requests.clear()
    bench.gcp.corrupt(operation, field, times=ATTEMPTS)
    with pytest.raises(errors.IntegrityError) as caught:
        use(bench)
    assert type(caught.value) is errors.IntegrityError
    assert bench.gcp.requests.operations.count(operation) == ATTEMPTS


def test_an_answer_about_another_key_is_noticed(bench: Bench) -> None:
    client, info = bench.client, bench.mac
    looks: tuple[Callable[[], object], ...] = (
        lambda: client.describe_key(info),
        lambda: client.get_key(info.name),
    )
    for look in looks:
        bench.gcp.corrupt("GetCryptoKey", "response.name")
        look()
        bench.gcp.corrupt("GetCryptoKey", "response.name", times=ATTEMPTS)
        with pytest.raises(errors.IntegrityError):
            look()


def test_a_new_key_under_another_name_is_looked_for_under_its_own(bench: Bench) -> None:
    bench.gcp.corrupt("CreateCryptoKey", "response.name")
    made = bench.client.generate_key(KeyConf("renamed", KeyPurpose.SIGN_VERIFY, algorithm="ES256"))
    assert made == bench.client.get_key("renamed")


def test_checksums_are_sent_with_everything_that_has_one(bench: Bench) -> None:
    bench.gcp.requests.clear()
    for use in (wrap, sign, sign_data, open_oaep, mac):
        use(bench)
    sent = {
        operation: {name for name in request.parameters if name.endswith("_crc32c")}
        for request in bench.gcp.requests
        for operation in [request.operation]
        if operation not in ("AsymmetricSign",)
    }
    aad = "additional_authenticated_data_crc32c"
    assert sent["Encrypt"] == {"plaintext_crc32c", aad}
    assert sent["Decrypt"] == {"ciphertext_crc32c", aad}
    assert sent["AsymmetricDecrypt"] == {"ciphertext_crc32c"}
    assert sent["MacSign"] == {"data_crc32c"}
    assert sent["MacVerify"] == {"data_crc32c", "mac_crc32c"}
    signatures = [r.parameters for r in bench.gcp.requests if r.operation == "AsymmetricSign"]
    assert [set(p) - {"name"} for p in signatures] == [{"digest", "digest_crc32c"}, {"data", "data_crc32c"}]


def test_a_checksum_of_zero_is_a_checksum(bench: Bench) -> None:
    """CRC-32C of nothing is 0, which protobuf could take for no checksum at all."""
    key = bench.client.key(bench.opening)
    public_key = load_der_public_key(key.public_key().spki)
    assert isinstance(public_key, RSAPublicKey)
    ciphertext = public_key.encrypt(b"", OAEP(MGF1(SHA256()), SHA256(), None))
    assert key.decrypt(ciphertext) == b""
    bench.gcp.corrupt("AsymmetricDecrypt", "response.plaintext_crc32c", times=ATTEMPTS)
    with pytest.raises(errors.IntegrityError):
        key.decrypt(ciphertext)


# Faults

CALLS: Mapping[str, tuple[str, Callable[[Bench], object]]] = {
    "get": ("GetCryptoKey", lambda b: b.provider.get_key("orders")),
    "get-versions": ("ListCryptoKeyVersions", lambda b: b.provider.get_key("releases")),
    "get-public-key": ("GetPublicKey", lambda b: b.provider.get_key("releases")),
    "list": ("ListCryptoKeys", lambda b: list(b.provider.list_keys())),
    "describe": ("GetCryptoKey", lambda b: b.provider.describe_key(b.wrapping)),
    "describe-versions": ("ListCryptoKeyVersions", lambda b: b.provider.describe_key(b.mac)),
    "public-key": ("GetPublicKey", lambda b: b.provider.get_public_key(b.signing, None)),
    "wrap": ("Encrypt", lambda b: b.provider.wrap(b.wrapping, SECRET, AAD)),
    "unwrap": ("Decrypt", lambda b: b.provider.unwrap(b.wrapping, b"x" * 100, "1", AAD)),
    "sign": ("AsymmetricSign", lambda b: b.provider.sign(b.signing, SECRET, True)),
    "decrypt": ("AsymmetricDecrypt", lambda b: b.provider.decrypt(b.opening, b"x" * 256)),
    "mac": ("MacSign", lambda b: b.provider.mac(b.mac, b"m")),
    "verify-mac": ("MacVerify", lambda b: b.provider.verify_mac(b.mac, b"m", SECRET)),
    "disable": ("UpdateCryptoKeyVersion", lambda b: b.provider.set_enabled(b.wrapping, False)),
    "rotate": ("CreateCryptoKeyVersion", lambda b: b.provider.rotate_key(b.wrapping)),
    "schedule": ("DestroyCryptoKeyVersion", lambda b: b.provider.schedule_destruction(b.wrapping)),
}
FAULTS: Mapping[str, tuple[Callable[[GCPEmulator, str], object], type[errors.KMSError]]] = {
    "UNAVAILABLE": (lambda g, op: g.faults.add(op, "UNAVAILABLE", times=None), errors.UnavailableError),
    "DEADLINE_EXCEEDED": (
        lambda g, op: g.faults.add(op, "DEADLINE_EXCEEDED", times=None),
        errors.DeadlineExceededError,
    ),
    "RESOURCE_EXHAUSTED": (
        lambda g, op: g.faults.add(op, kind="throttle", times=None),
        errors.ThrottledError,
    ),
    "ABORTED": (lambda g, op: g.faults.add(op, "ABORTED", times=None), errors.ConflictError),
    "reset": (lambda g, op: g.faults.add(op, kind="reset", times=None), errors.UnavailableError),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_the_sdk_repeats_nothing(bench: Bench, call: str, fault: str) -> None:
    """Every method is called without the SDK's retries: one fault, one request, one error of the right class."""
    operation, perform = CALLS[call]
    inject, expected = FAULTS[fault]
    inject(bench.gcp, operation)
    bench.gcp.requests.clear()
    with pytest.raises(errors.KMSError) as caught:
        perform(bench)
    assert type(caught.value) is expected
    assert caught.value.retryable
    assert caught.value.__cause__ is not None
    assert bench.gcp.requests.operations.count(operation) == 1


@pytest.mark.parametrize("call", CALLS)
def test_every_method_has_a_deadline(bench: Bench, call: str) -> None:
    """Also those that the SDK would wait for without end."""
    operation, perform = CALLS[call]
    where = ConnectionURI.parse(bench.gcp.uri)
    hasty = GCPProvider.connect(where, **bench.gcp.options, timeout=0.2)
    bench.gcp.faults.add(operation, "UNAVAILABLE", delay=1, times=None)
    with pytest.raises(errors.DeadlineExceededError) as caught:
        perform(replace(bench, provider=hasty))
    assert caught.value.retryable
    hasty.close()


def test_the_provider_is_given_the_time_it_asks_for(bench: Bench) -> None:
    waits: list[float] = []
    client = KMSClient(bench.provider, retry=RetryPolicy(sleep=waits.append))
    bench.gcp.faults.add("MacSign", kind="throttle", retry_after=7, times=2)
    client.key(bench.mac).mac(b"m")
    assert waits == [7.0, 7.0]


CODES = {
    "CANCELLED": errors.UnavailableError,
    "UNKNOWN": errors.UnavailableError,
    "INVALID_ARGUMENT": errors.InvalidArgumentError,
    "DEADLINE_EXCEEDED": errors.DeadlineExceededError,
    "NOT_FOUND": errors.KeyDestroyedError,
    "ALREADY_EXISTS": errors.KeyExistsError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "RESOURCE_EXHAUSTED": errors.ThrottledError,
    "FAILED_PRECONDITION": errors.KeyStateError,
    "ABORTED": errors.ConflictError,
    "OUT_OF_RANGE": errors.InvalidArgumentError,
    "UNIMPLEMENTED": errors.UnsupportedOperationError,
    "INTERNAL": errors.UnavailableError,
    "UNAVAILABLE": errors.UnavailableError,
    "DATA_LOSS": errors.UnavailableError,
    "UNAUTHENTICATED": errors.UnauthenticatedError,
}
BY_INFO = [call for call in CALLS if call not in ("list", "get", "get-versions", "get-public-key")]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("call", BY_INFO)
def test_every_code_at_every_call_is_an_error_of_ours(bench: Bench, call: str, code: str) -> None:
    """No error of the SDK leaves, none is unmapped, and none is taken for success (active_kms issue 4)."""
    operation, perform = CALLS[call]
    bench.gcp.faults.add(operation, code, message="\x1b[31mplaintext", times=None)
    with pytest.raises(errors.KMSError) as caught:
        perform(bench)
    expected = CODES[code]
    if call in ("unwrap", "decrypt") and expected is errors.InvalidArgumentError:
        expected = errors.InvalidCiphertextError
    assert type(caught.value) is expected
    assert str(caught.value).isprintable()


def test_a_quota_that_waiting_does_not_lift_is_not_retried(bench: Bench) -> None:
    info = error_details_pb2.ErrorInfo(reason="RESOURCE_QUOTA_EXCEEDED", domain="googleapis.com")
    request = error_details_pb2.RequestInfo(request_id="r-1")
    found = translate(sdk.ResourceExhausted("too many", details=[info, request], error_info=info))
    assert type(found) is errors.QuotaExceededError
    assert found.request_id == "r-1"
    assert not found.retryable


# What is never sent


def test_decrypt_always_names_the_key_of_the_ring(bench: Bench) -> None:
    """GHSA-wqgp-vphw-hphf, ciphertext forgery: both keys are usable, the ring holds one, the other is not asked."""
    other = bench.client.generate_key(KeyConf("attacker", KeyPurpose.ENCRYPT_DECRYPT))
    forged = Keyring([bench.client.key(other)]).encrypt(b"forged", context={})
    bench.gcp.requests.clear()
    with pytest.raises(errors.KeyNotAllowedError):
        Keyring([bench.client.key(bench.wrapping)]).decrypt(forged, context={})
    assert bench.gcp.requests.operations == []
    own = Keyring([bench.client.key(bench.wrapping)])
    own.decrypt(own.encrypt(b"own", context={}), context={})
    decrypts = [r.parameters["name"] for r in bench.gcp.requests if r.operation == "Decrypt"]
    assert decrypts == [bench.wrapping.uri.resource]


def test_an_unknown_recipient_causes_no_call(bench: Bench) -> None:
    """The same incident's information leak: what a message names is only compared with what the ring holds."""
    ring = Keyring([bench.client.key(bench.wrapping)])
    message = ring.encrypt(b"data", context={})
    bench.gcp.requests.clear()
    forged = message.replace(b"cryptoKeys/orders", b"cryptoKeys/0rders")
    assert forged != message
    with pytest.raises(errors.KeyNotAllowedError):
        ring.decrypt(forged, context={})
    assert bench.gcp.requests.operations == []


@pytest.mark.parametrize(
    "spelling",
    [
        "gcpkms://user@projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "gcpkms://evil.example:443/projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "projects/p/locations/l/keyRings/r/cryptoKeys/k?endpoint=evil.example:1",
        "projects/p/locations/l/keyRings/../cryptoKeys/k",
        "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/01",
        "projects/p/locations/l/keyRings/r%2f/cryptoKeys/k",
    ],
)
def test_hostile_key_names_are_refused_unsent(bench: Bench, spelling: str) -> None:
    """A key's name never leads to another endpoint (sops GHSA-jgf3-f6rg-8x3h, Vault CVE-2020-16250)."""
    bench.gcp.requests.clear()
    with pytest.raises(errors.InvalidArgumentError):
        bench.client.get_key(spelling)
    assert bench.gcp.requests.operations == []


def test_no_flipped_byte_of_a_wrapped_key_is_accepted(bench: Bench) -> None:
    """Tink, envelope AEAD malleability: the provider's own framing of a wrapped key must not be malleable for us."""
    ring = Keyring([bench.client.key(bench.wrapping)])
    message = ring.encrypt(b"data", context={})
    wrapped = _wrapped_in(message, bench)
    start = message.index(wrapped)
    for position in range(start, start + len(wrapped)):
        forged = bytearray(message)
        forged[position] ^= 1
        with pytest.raises(errors.InvalidCiphertextError):
            ring.decrypt(forged, context={})


def _wrapped_in(message: bytes, bench: Bench) -> bytes:
    bench.gcp.requests.clear()
    Keyring([bench.client.key(bench.wrapping)]).decrypt(message, context={})
    sent: bytes = next(r.parameters["ciphertext"] for r in bench.gcp.requests if r.operation == "Decrypt")
    return sent


def test_invalid_and_unsupported_input_is_not_sent(bench: Bench) -> None:
    bench.gcp.requests.clear()
    client = bench.client
    refused: list[tuple[type[errors.KMSError], Callable[[], object]]] = [
        (errors.InvalidArgumentError, lambda: client.key(bench.mac).mac(b"m" * 4097)),
        (errors.InvalidArgumentError, lambda: client.key(bench.wrapping).wrap(b"short", context={})),
        (errors.InvalidArgumentError, lambda: client.key(bench.signing).sign(b"short", prehashed=True)),
        (errors.UnsupportedOperationError, lambda: client.key(bench.ed25519).sign(SECRET, prehashed=True)),
        (errors.UnsupportedOperationError, lambda: client.rotate_key(bench.signing)),
        (errors.KeyUsageError, lambda: client.key(bench.signing).mac(b"m")),
        *(
            (
                errors.UnsupportedOperationError,
                lambda algorithm=algorithm: client.generate_key(
                    KeyConf("never", KeyPurpose.SIGN_VERIFY, algorithm=algorithm)
                ),
            )
            for algorithm in ("ES512", "RS384", "PS384")
        ),
        (
            errors.UnsupportedOperationError,
            lambda: client.generate_key(
                KeyConf("never", KeyPurpose.SIGN_VERIFY, algorithm="ES256K", protection_level="SOFTWARE")
            ),
        ),
        (
            errors.UnsupportedOperationError,
            lambda: client.generate_key(
                KeyConf("never", KeyPurpose.ENCRYPT_DECRYPT, algorithm="RSA-OAEP-256")
            ),
        ),
        (
            errors.UnsupportedOperationError,
            lambda: client.generate_key(
                KeyConf("never", KeyPurpose.ENCRYPT_DECRYPT, protection_level="EXTERNAL")
            ),
        ),
    ]
    for expected, call in refused:
        with pytest.raises(expected):
            call()
    assert bench.gcp.requests.operations == []


def test_a_key_uri_of_another_provider_is_not_sent(bench: Bench) -> None:
    bench.gcp.requests.clear()
    foreign = replace(bench.wrapping, uri=KeyURI.parse("local://" + "a" * 26 + "/orders"))
    with pytest.raises(errors.KeyNotFoundError):
        bench.provider.wrap(foreign, SECRET, AAD)
    with pytest.raises(errors.KeyNotFoundError):
        bench.client.get_key("local://" + "a" * 26 + "/orders")
    assert bench.gcp.requests.operations == []


def test_states_are_read_where_cloud_kms_does_not_say(bench: Bench) -> None:
    """FAILED_PRECONDITION alone does not tell disabled from pending destruction."""
    info = bench.client.generate_key(KeyConf("shortlived", KeyPurpose.ENCRYPT_DECRYPT))
    bench.client.schedule_destruction(info)
    with pytest.raises(errors.KeyPendingDestructionError):
        bench.provider.wrap(info, SECRET, AAD)
    bench.client.cancel_destruction(info)
    with pytest.raises(errors.KeyDisabledError):
        bench.provider.wrap(info, SECRET, AAD)
    bench.client.enable_key(info)
    assert bench.client.describe_key(info).state is KeyState.ENABLED
