"""Connecting to Cloud KMS: explicit, without I/O, never to where data says, never in clear off this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.api_core import exceptions as sdk
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcTransport,
    KeyManagementServiceRestTransport,
)
from hypothesis import given
from hypothesis import strategies as st

import anykms
from anykms import KeyConf, KeyPurpose, Keyring, RetryPolicy, errors
from anykms.keys import ConnectionURI
from anykms_emulators.gcp import GCPEmulator
from anykms_gcp import GCPProvider
from anykms_gcp.errors import CODES, translate

RING = "projects/p/locations/global/keyRings/r"
URI = f"gcpkms://{RING}"
WRAPPING = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT)


@pytest.fixture
def gcp() -> Iterator[GCPEmulator]:
    with GCPEmulator() as emulator:
        yield emulator


def connect(uri: str, **options: Any) -> GCPProvider:
    return GCPProvider.connect(ConnectionURI.parse(uri), **options)


def test_the_scheme_leads_here(gcp: GCPEmulator) -> None:
    with anykms.connect(gcp.uri, **gcp.options) as client:
        assert client.provider == "gcpkms"
        assert gcp.requests.operations == []
        client.generate_key(WRAPPING)
    assert repr(connect(URI)) == f"<GCPProvider {RING}>"


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        ("127.0.0.1:1", {}),
        ("kms.example:443", {"allow_insecure_endpoint": True}),
        ("10.0.0.1:443", {"allow_insecure_endpoint": True}),
        ("0.0.0.0:1", {"allow_insecure_endpoint": True}),
        ("localhost.example:1", {"allow_insecure_endpoint": True}),
        ("127.0.0.1", {"allow_insecure_endpoint": True}),
        ("127.0.0.1:0", {"allow_insecure_endpoint": True}),
        ("127.0.0.1:99999", {"allow_insecure_endpoint": True}),
        ("127.0.0.1:1/path", {"allow_insecure_endpoint": True}),
        ("evil@127.0.0.1:1", {"allow_insecure_endpoint": True}),
        ("127.0.0.1:1@evil.example:1", {"allow_insecure_endpoint": True}),
        ("dns:127.0.0.1:1", {"allow_insecure_endpoint": True}),
        ("unix:kms.sock", {"allow_insecure_endpoint": True}),
        ("http://127.0.0.1:1", {"allow_insecure_endpoint": True}),
        ("", {"allow_insecure_endpoint": True}),
        ("127.0.0.1:1", {"allow_insecure_endpoint": True, "credentials": AnonymousCredentials()}),
    ],
)
def test_endpoints_are_refused(endpoint: str, options: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        connect(f"{URI}?endpoint={endpoint}", **options)


@given(
    st.text(max_size=40)
    | st.from_regex(r"\A[^ ]{0,12}(127\.0\.0\.1|localhost|\[::1\])[^ ]{0,12}:[0-9]{1,5}\Z")
)
def test_whatever_is_accepted_is_on_this_machine(endpoint: str) -> None:
    """No spelling hides another host: user info, zones, other schemes, look-alike names."""
    uri = ConnectionURI("gcpkms", RING, {"endpoint": endpoint})
    try:
        GCPProvider.connect(uri, allow_insecure_endpoint=True).close()
    except errors.InvalidArgumentError:
        return
    host, _, port = endpoint.rpartition(":")
    assert 0 < int(port) < 65536
    assert host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback


@pytest.mark.parametrize("endpoint", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.8.9.1:1"])
def test_this_machine_is_accepted(endpoint: str) -> None:
    connect(f"{URI}?endpoint={endpoint}", allow_insecure_endpoint=True).close()


def test_unknown_options_are_named() -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"'region'.*known: endpoint"):
        connect(f"{URI}?region=eu")


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_is_more_than_nothing(timeout: float) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        connect(URI, timeout=timeout)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": "5"},
        {"timeout": True},
        {"generation_timeout": "5"},
        {"credentials": {"token": "secret"}},
        {"region": "eu"},
    ],
)
def test_arguments_of_another_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as caught:
        connect(URI, **options)
    assert "secret" not in str(caught.value)


def test_an_injected_client_is_used_and_left_open(gcp: GCPEmulator) -> None:
    kms = gcp.client()
    client = anykms.connect(URI, client=kms)
    info = client.generate_key(WRAPPING)
    client.close()
    client.close()
    assert kms.get_crypto_key(name=info.uri.resource).name == info.uri.resource
    provider = connect(URI, client=kms)
    provider.close()
    with pytest.raises(errors.UnavailableError):
        provider.get_key("orders")


def test_an_injected_client_that_was_closed_is_unavailable(gcp: GCPEmulator) -> None:
    kms = gcp.client()
    provider = connect(URI, client=kms)
    kms.transport.close()
    with pytest.raises(errors.UnavailableError):
        provider.get_key("orders")


def test_only_a_client_over_grpc_will_do(gcp: GCPEmulator) -> None:
    """REST erases the difference between a wrong argument and a wrong state."""
    rest = KeyManagementServiceClient(
        transport=KeyManagementServiceRestTransport(
            host="127.0.0.1:1", url_scheme="http", credentials=AnonymousCredentials()
        )
    )
    for client in (rest, object(), "client"):
        with pytest.raises(errors.InvalidArgumentError):
            connect(URI, client=client)
    with pytest.raises(errors.InvalidArgumentError):
        connect(URI, client=gcp.client(), credentials=AnonymousCredentials())
    with pytest.raises(errors.InvalidArgumentError):
        connect(gcp.uri, client=gcp.client(), allow_insecure_endpoint=True)


def test_without_an_endpoint_it_is_googles_over_tls(
    gcp: GCPEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel is made by the SDK, for its own host and with our credentials, at the first call."""
    asked: list[tuple[str, Any]] = []
    credentials = AnonymousCredentials()

    def create_channel(host: str, **options: Any) -> grpc.Channel:
        asked.append((host, options["credentials"]))
        return grpc.insecure_channel(gcp.address, options=options["options"])

    monkeypatch.setattr(KeyManagementServiceGrpcTransport, "create_channel", create_channel)
    with anykms.connect(URI, credentials=credentials) as client:
        assert asked == []
        client.generate_key(WRAPPING)
        assert asked == [("cloudkms.googleapis.com:443", credentials)]
    assert "anykms/" in gcp.requests[0].headers["x-goog-api-client"] + gcp.requests[0].headers["user-agent"]


def test_missing_credentials_are_unauthenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json")
    with (
        anykms.connect(URI) as client,
        pytest.raises(errors.UnauthenticatedError, match="DefaultCredentialsError"),
    ):
        client.get_key("orders")


def test_a_lost_server_is_unavailable(gcp: GCPEmulator) -> None:
    client = anykms.connect(gcp.uri, **gcp.options, retry=RetryPolicy(sleep=lambda _: None, max_attempts=2))
    client.generate_key(WRAPPING)
    gcp.stop()
    with pytest.raises(errors.UnavailableError):
        client.get_key("orders")
    client.close()


def test_a_polite_goodbye_is_not_noticed(gcp: GCPEmulator) -> None:
    client = anykms.connect(gcp.uri, **gcp.options)
    ring = Keyring([client.key(client.generate_key(WRAPPING))])
    gcp.goaway()
    assert ring.decrypt(ring.encrypt(b"data", context={}), context={}) == b"data"


def test_threads_share_one_connection(gcp: GCPEmulator) -> None:
    """Also for the first call, which makes it."""
    info = anykms.connect(gcp.uri, **gcp.options).generate_key(WRAPPING)
    with anykms.connect(gcp.uri, **gcp.options) as client, ThreadPoolExecutor(8) as pool:

        def there_and_back(number: int) -> bytes:
            ring = Keyring([client.key(info)])
            return ring.decrypt(ring.encrypt(bytes([number]), context={}), context={})

        assert list(pool.map(there_and_back, range(32))) == [bytes([n]) for n in range(32)]


# Errors that need no server


def test_every_status_code_has_a_place() -> None:
    assert set(CODES) == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize(
    "error",
    [
        auth.DefaultCredentialsError("no credentials"),
        auth.RefreshError("invalid_grant", {"access_token": "secret-0815"}),
        auth.TransportError("metadata server"),
        sdk.ServiceUnavailable(
            "Getting metadata from plugin failed with error: ('invalid_grant', 'secret-0815')"
        ),
        sdk.Unauthenticated("Request had invalid authentication credentials: secret-0815"),
    ],
)
def test_credentials_that_fail_are_unauthenticated(error: Exception) -> None:
    found = translate(error)
    assert type(found) is errors.UnauthenticatedError
    assert "secret-0815" not in str(found)


def test_what_is_not_a_status_is_a_provider_error() -> None:
    for error in (sdk.GoogleAPICallError("odd"), sdk.RetryError("odd", None)):
        assert type(translate(error)) is errors.ProviderError
