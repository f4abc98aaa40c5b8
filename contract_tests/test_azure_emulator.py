"""The Azure emulator where it is not a table: TLS, tokens, time, faults, paging, threads, real cryptography."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import http.client
import importlib
import inspect
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest
from azure.keyvault.keys import (
    JsonWebKey,
    KeyClient,
    KeyRotationLifetimeAction,
    KeyRotationPolicy,
    KeyVaultKey,
)
from azure.keyvault.keys._generated.models import (
    JsonWebKeyCurveName,
    JsonWebKeyEncryptionAlgorithm,
    JsonWebKeySignatureAlgorithm,
)
from azure.keyvault.keys._shared import HttpChallengeCache
from azure.keyvault.keys._shared.client_base import ApiVersion
from azure.keyvault.keys.crypto import CryptographyClient, EncryptionAlgorithm, SignatureAlgorithm
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from anykms_emulators import Clock
from anykms_emulators.azure import AzureEmulator, VaultSettings
from anykms_emulators.azure.crypto import (
    AES_ENCRYPTION,
    AES_WRAPPING,
    EC_SIGNING,
    MAC,
    RSA_ENCRYPTION,
    RSA_RAW_SIGNING,
    RSA_SIGNING,
)
from anykms_emulators.azure.keys import API_VERSIONS, CURVES, decode, encode
from anykms_emulators.azure.operations import OPERATIONS, route
from anykms_emulators.azure.rotation import Duration, add_duration
from anykms_emulators.loopback import MAX_BODY_BYTES
from anykms_emulators.material import EcKey
from anykms_emulators.nonces import SHORT_SIGNATURES, check_nonce, sign_with_nonce

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anykms_emulators.nonces import ShortSignature

START = datetime(2030, 1, 1, tzinfo=UTC)
API = "api-version=2025-07-01"
VAULT = "my-vault.vault.azure.net"


@pytest.fixture(scope="module")
def az() -> Iterator[AzureEmulator]:
    with AzureEmulator(clock=Clock(START)) as emulator:
        emulator.add_vault("my-hsm", VaultSettings("hsm"))
        emulator.add_vault("premium", VaultSettings("premium"))
        yield emulator


@pytest.fixture(scope="module")
def keys(az: AzureEmulator) -> KeyClient:
    return az.key_client()


@pytest.fixture(scope="module")
def hsm(az: AzureEmulator) -> KeyClient:
    return az.key_client("my-hsm.managedhsm.azure.net")


@pytest.fixture
def own() -> Iterator[AzureEmulator]:
    """An emulator of the test's own, whose clock and faults it may move."""
    with AzureEmulator(clock=Clock(START), recoverable_days=7) as emulator:
        yield emulator


def call(client: KeyClient, method: str, url: str, body: Any = None) -> tuple[int, Any]:
    response = client.send_request(HttpRequest(method, url, json=body))
    text = response.text()
    return response.status_code, response.json() if text else None


def ask(client: KeyClient, method: str, url: str, body: Any = None) -> Any:
    status, reply = call(client, method, url, body)
    assert status < 300, reply
    return reply


def imported(client: KeyClient, name: str, jwk: dict[str, Any]) -> str:
    return cast("str", ask(client, "PUT", f"/keys/{name}", {"key": jwk})["key"]["kid"])


def number(jwk: dict[str, Any], member: str) -> int:
    return int.from_bytes(decode(jwk, member), "big")


EC_CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "P-256K": ec.SECP256K1(),
}


def ec_public(jwk: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    point = ec.EllipticCurvePublicNumbers(number(jwk, "x"), number(jwk, "y"), EC_CURVES[jwk["crv"]])
    return point.public_key()


def modulus(key: KeyVaultKey) -> bytes:
    return cast("bytes", cast("Any", key.key).n)


def rsa_public(jwk: dict[str, Any]) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(number(jwk, "e"), number(jwk, "n")).public_key()


# --- the table against the SDK's generated layer


def _builders() -> dict[str, Any]:
    generated = importlib.import_module("azure.keyvault.keys._generated._operations._operations")
    return {
        name.removeprefix("build_key_vault_").removesuffix("_request"): value
        for name, value in vars(generated).items()
        if name.startswith("build_key_vault_")
    }


@pytest.mark.parametrize("name", sorted(_builders()))
def test_every_operation_of_the_sdk_has_a_route(name: str) -> None:
    build = _builders()[name]
    values = {"key_name": "k", "key_version": "0" * 32}
    needed = {
        parameter: values[parameter]
        for parameter, shape in inspect.signature(build).parameters.items()
        if shape.default is inspect.Parameter.empty and shape.kind is not inspect.Parameter.VAR_KEYWORD
    }
    request = build(**needed)
    path, _, query = request.url.partition("?")
    operation, _ = route(request.method, [part for part in path.split("/") if part])
    assert operation.name.lower() == name.replace("_", "")
    assert query.removeprefix("api-version=") in API_VERSIONS


def test_every_api_version_of_the_sdk_is_known() -> None:
    assert {str(version.value) for version in ApiVersion} <= set(API_VERSIONS)


def test_every_algorithm_and_curve_of_the_sdk_is_known() -> None:
    encryption = {*RSA_ENCRYPTION, *AES_ENCRYPTION, *AES_WRAPPING}
    assert {str(name.value) for name in JsonWebKeyEncryptionAlgorithm} <= encryption
    signing = {*RSA_SIGNING, *EC_SIGNING, *MAC, RSA_RAW_SIGNING}
    assert {str(name.value) for name in JsonWebKeySignatureAlgorithm} <= signing
    assert {str(name.value) for name in JsonWebKeyCurveName} == CURVES.keys()


def test_importing_the_emulators_imports_no_sdk() -> None:
    code = (
        "import sys, anykms_emulators, anykms_emulators.azure, anykms_emulators.command;"
        "sys.exit(any(name.split('.')[0] in ('azure', 'requests', 'aiohttp') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


# --- TLS


def _context(az: AzureEmulator) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=az.ca_file)


def _shake(az: AzureEmulator, context: ssl.SSLContext, name: str) -> None:
    with (
        socket.create_connection(("127.0.0.1", az.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=name),
    ):
        pass


@pytest.mark.parametrize(
    "name", [VAULT, "other.managedhsm.azure.net", "localhost", "127.0.0.1", "UPPER.vault.azure.net"]
)
def test_the_certificate_is_for_vaults_and_this_machine(az: AzureEmulator, name: str) -> None:
    _shake(az, _context(az), name)


@pytest.mark.parametrize(
    "name", ["vault.azure.net", "a.b.vault.azure.net", "my-vault.vault.azure.net.example", "127.0.0.2"]
)
def test_the_certificate_is_for_nothing_else(az: AzureEmulator, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        _shake(az, _context(az), name)


def test_nobody_else_trusts_it(az: AzureEmulator) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed|unable to get"):
        _shake(az, ssl.create_default_context(), VAULT)


def test_its_authority_can_vouch_for_nothing_else(az: AzureEmulator) -> None:
    authority = x509.load_pem_x509_certificate(Path(az.ca_file).read_bytes())
    allowed = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert allowed.critical
    assert {str(name.value) for name in allowed.value.permitted_subtrees or ()} == {
        "vault.azure.net",
        "managedhsm.azure.net",
        "localhost",
        "127.0.0.1/32",
    }
    assert [path.name for path in Path(az.ca_file).parent.iterdir()] == ["ca.pem"], "no private key on disk"


def test_a_certificate_for_another_name_stops_the_official_client() -> None:
    # MongoDB CVE-2021-20328: a KMS connection whose host name was not checked
    with AzureEmulator(certificate_names=("kms.example.com",)) as other:
        with pytest.raises(ServiceRequestError, match=r"Hostname mismatch|doesn't match"):
            other.key_client(retry_total=0).get_key("k")
        assert (len(other.requests), len(other.challenges)) == (0, 0)


def test_a_request_without_tls_is_dropped(az: AzureEmulator) -> None:
    with socket.create_connection(("127.0.0.1", az.port), timeout=10) as plain:
        plain.sendall(b"GET /keys HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = plain.recv(4096)
        assert b"HTTP" not in answer


def test_the_authority_file_goes_with_its_emulator() -> None:
    az = AzureEmulator()
    path = az.ca_file
    assert Path(path).exists()
    del az
    gc.collect()
    assert not Path(path).exists()


# --- tokens and the challenge


def raw(
    az: AzureEmulator,
    method: str,
    path: str,
    body: bytes | object = b"",
    *,
    host: str = VAULT,
    authorization: str | None = "",
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """A request with no SDK. authorization: "" for a good token, None for none."""
    connection = http.client.HTTPSConnection("127.0.0.1", az.port, timeout=30, context=_context(az))
    sent = {"Host": host, **(headers or {})}
    if authorization is not None:
        resource = "managedhsm" if "managedhsm" in host else "vault"
        token = az.token(resource=f"https://{resource}.azure.net")
        sent["Authorization"] = authorization or f"Bearer {token}"
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, sent)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"/keys/k?{API}", b""),
        ("POST", f"/keys/k/sign?{API}", b"this is no JSON"),
        ("GET", "/nothing/here", b""),
        ("GET", "/keys?api-version=1", b""),
        ("PATCH", f"/keys/{'x' * 200}?{API}", b"{}"),
        ("DELETE", "/%ff", b""),
    ],
)
def test_the_challenge_comes_before_everything_else(
    az: AzureEmulator, method: str, path: str, body: bytes
) -> None:
    recorded = len(az.requests)
    status, headers, _ = raw(az, method, path, body, authorization=None)
    assert status == 401
    assert headers["WWW-Authenticate"].startswith('Bearer authorization="https://')
    assert len(az.requests) == recorded


def test_the_official_client_asks_first_with_an_empty_body(own: AzureEmulator) -> None:
    HttpChallengeCache.clear()
    own.key_client().create_ec_key("k")
    assert [request.headers["content-length"] for request in own.challenges] == ["0"]
    assert own.requests.operations == ["CreateKey"]
    own.key_client().get_key("k")
    assert len(own.challenges) == 1, "the client keeps the challenge of a host"


def _forged(token: str) -> str:
    head, claims, mac = token.split(".")
    changed = json.loads(decode({"c": claims}, "c")) | {"exp": 4_000_000_000}
    return f"{head}.{encode(json.dumps(changed).encode())}.{mac}"


def test_bad_tokens_are_refused(az: AzureEmulator) -> None:
    good = az.token()
    for authorization in (
        "Bearer",
        f"Basic {good}",
        "Bearer a.b.c",
        f"Bearer {good}x",
        f"Bearer {good[:-4]}",
        f"Bearer {_forged(good)}",
        f"Bearer {good.rsplit('.', 1)[0]}",
        f"Bearer {good}.{good}",
        f"Bearer {'a' * 9000}.b.c",
        f"Bearer {az.token(lifetime=-10)}",
        f"Bearer {az.token(resource='https://managedhsm.azure.net')}",
        f"Bearer {az.token(resource='https://vault.azure.net/')}",
        "Bearer \xff\xfe.\xff.\xff",
        f"Bearer {az.token(caller=cast('Any', 7))}",
    ):
        status, headers, body = raw(az, "GET", f"/keys?{API}", authorization=authorization)
        assert status == 401, authorization[:20]
        assert json.loads(body)["error"]["code"] == "Unauthorized"
        assert "WWW-Authenticate" in headers
    assert raw(az, "GET", f"/keys?{API}")[0] == 200


def test_a_token_of_another_emulator_is_refused(az: AzureEmulator) -> None:
    with AzureEmulator() as other:
        client = KeyClient(az.url(), other.credential(), transport=az.transport(), retry_total=0)
        with pytest.raises(ClientAuthenticationError):
            client.get_key("k")


def test_the_caller_is_recorded(own: AzureEmulator) -> None:
    client = KeyClient(own.url(), own.credential(caller="someone"), transport=own.transport())
    client.create_ec_key("k")
    assert own.requests[-1].caller == "someone"
    with pytest.raises(ValueError, match="one scope"):
        own.credential().get_token()


def test_a_loopback_url_needs_the_resource_check_off(az: AzureEmulator, keys: KeyClient) -> None:
    keys.create_ec_key("loopback")
    url = az.environment["AZURE_KEYVAULT_URL"]
    transport = RequestsTransport(connection_verify=az.ca_file)
    with (
        KeyClient(url, az.credential(), transport=transport) as strict,
        pytest.raises(ValueError, match="does not match the requested domain"),
    ):
        strict.get_key("loopback")
    transport = RequestsTransport(connection_verify=az.ca_file)
    with KeyClient(url, az.credential(), transport=transport, verify_challenge_resource=False) as lenient:
        assert lenient.get_key("loopback").id.startswith(f"{url}/keys/loopback/")


def _ask_machine(az: AzureEmulator, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(az.environment["HTTPS_PROXY"].removeprefix("http://"), timeout=30)
    connection.request(method, path, headers=headers)
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


def test_the_machines_identity_gives_tokens_to_who_has_its_secret(az: AzureEmulator) -> None:
    path = "/msi/token?api-version=2019-08-01&resource=https://vault.azure.net"
    secret = {"X-IDENTITY-HEADER": az.environment["IDENTITY_HEADER"]}
    status, body = _ask_machine(az, "GET", path, secret)
    assert status == 200
    assert {"token_type": "Bearer", "resource": "https://vault.azure.net"}.items() <= json.loads(body).items()
    assert _ask_machine(az, "GET", path, {"X-IDENTITY-HEADER": "guess"})[0] == 401
    assert _ask_machine(az, "GET", path, {})[0] == 401
    assert _ask_machine(az, "GET", "/msi/token", secret)[0] == 400
    assert _ask_machine(az, "GET", f"/keys?{API}", secret | {"Host": VAULT})[0] == 404


@pytest.mark.parametrize("host", ["example.com:443", "my-vault.vault.azure.net:80", "localhost:443", "x"])
def test_the_machines_proxy_leads_to_vaults_alone(az: AzureEmulator, host: str) -> None:
    assert _ask_machine(az, "CONNECT", host, {})[0] == 403


def test_the_machines_variables_are_all_that_the_sdk_needs(
    az: AzureEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in az.environment.items():
        monkeypatch.setenv(name, value)
    identity = importlib.import_module("azure.identity")
    with identity.DefaultAzureCredential() as credential, KeyClient(f"https://{VAULT}", credential) as client:
        client.create_ec_key("as-on-azure")
        assert client.get_key("as-on-azure").key_type == "EC"


# --- vaults


def test_vaults_are_told_apart_by_host(own: AzureEmulator) -> None:
    own.key_client("vault-a").create_ec_key("k")
    with pytest.raises(ResourceNotFoundError):
        own.key_client("vault-b").get_key("k")
    assert own.key_client("vault-a").get_key("k").properties.vault_url == "https://vault-a.vault.azure.net"
    assert raw(own, "GET", f"/keys/k?{API}", host="VAULT-A.vault.azure.net")[0] == 200


@pytest.mark.parametrize(
    "host", ["example.com", "", "vault.azure.net", "a_b.vault.azure.net", "x.vault.azure.net", "[::1]", "é"]
)
def test_no_vault_has_such_a_host(az: AzureEmulator, host: str) -> None:
    status, _, body = raw(
        az, "GET", f"/keys?{API}", headers={"Host": host.encode().decode("latin-1")}, host="x"
    )
    assert (status, json.loads(body)["error"]["code"]) == (404, "VaultNotFound")


def test_settings_are_checked(az: AzureEmulator) -> None:
    for days in (6, 91):
        with pytest.raises(ValueError, match="7 to 90"):
            VaultSettings(recoverable_days=days)
    with pytest.raises(ValueError, match="sku"):
        VaultSettings(cast("Any", "free"))
    with pytest.raises(ValueError, match="negative"):
        VaultSettings(eventual_reads=-1)
    with pytest.raises(ValueError, match="already exists"):
        az.add_vault("premium", VaultSettings("premium"))
    with pytest.raises(ValueError, match="name"):
        AzureEmulator(vault="-")


@pytest.mark.parametrize(
    ("days", "protection", "level"),
    [
        (90, False, "Recoverable+Purgeable"),
        (90, True, "Recoverable"),
        (30, False, "CustomizedRecoverable+Purgeable"),
        (30, True, "CustomizedRecoverable"),
    ],
)
def test_the_recovery_level_says_what_the_vault_does(
    own: AzureEmulator, days: int, protection: bool, level: str
) -> None:
    own.add_vault("levels", VaultSettings("standard", days, purge_protection=protection))
    key = own.key_client("levels").create_ec_key("k")
    assert (key.properties.recovery_level, key.properties.recoverable_days) == (level, days)


def test_uri_options_and_client_agree(own: AzureEmulator) -> None:
    assert own.uri == f"azurekms://{VAULT}"
    with KeyClient(f"https://{VAULT}", **own.options) as client:
        client.create_ec_key("k")
    assert own.client().get_key("k").name == "k"
    with AzureEmulator(vault="my-hsm", sku="hsm") as hsm:
        assert hsm.uri == "azurekms://my-hsm.managedhsm.azure.net?sku=hsm"
        assert hsm.client().create_oct_key("k", hardware_protected=True).key_type == "oct-HSM"
        assert hsm.key_client(VAULT).create_ec_key("k").key_type == "EC", "the host says what it is"


def test_state_outlasts_a_stop() -> None:
    az = AzureEmulator()
    with pytest.raises(RuntimeError, match="not started"):
        _ = az.port
    with az:
        made = az.client().create_ec_key("k")
        with pytest.raises(RuntimeError, match="already started"):
            az.start()
    with az:
        assert az.client().get_key("k").id == made.id


def test_stop_closes_open_connections() -> None:
    with AzureEmulator() as az:
        client = az.key_client(retry_total=0)
        assert list(client.list_properties_of_keys()) == []
    with pytest.raises((ServiceRequestError, ServiceResponseError, RuntimeError)):
        list(client.list_properties_of_keys())


def test_requests_are_recorded_without_telling_secrets(own: AzureEmulator) -> None:
    client = own.client()
    key = client.create_rsa_key("k", size=2048)
    ask(client, "POST", f"{key.id}/encrypt", {"alg": "RSA-OAEP-256", "value": encode(b"secret text")})
    assert own.requests.operations == ["CreateKey", "encrypt"]
    request = own.requests[-1]
    assert request.parameters["name"] == "k"
    assert request.parameters["version"] == key.properties.version
    assert request.parameters["vault"] == VAULT
    assert request.parameters["value"] == encode(b"secret text")
    assert request.headers["authorization"].split(".")[1] not in repr(request)
    assert encode(b"secret text") not in repr(request)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_interrupted(end: signal.Signals) -> None:
    code = "from anykms_emulators.command import emulator; emulator()"
    with subprocess.Popen(  # noqa: S603 - our own interpreter and our own words
        [sys.executable, "-c", code, "azure", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        environment = said["environment"]
        assert said["uri"] == f"azurekms://{VAULT}"
        host = environment["AZURE_KEYVAULT_URL"].removeprefix("https://")
        context = ssl.create_default_context(cafile=environment["REQUESTS_CA_BUNDLE"])
        connection = http.client.HTTPSConnection(host, timeout=30, context=context)
        token = environment["AZURE_KEYVAULT_TOKEN"]
        connection.request("GET", f"/keys?{API}", headers={"Authorization": f"Bearer {token}"})
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())) == (200, {"value": [], "nextLink": None})
        connection.close()
        process.send_signal(end)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in complaints
    assert not Path(environment["REQUESTS_CA_BUNDLE"]).exists()


# --- the official clients, from end to end


def test_a_tour_with_the_synchronous_client(own: AzureEmulator) -> None:
    client = own.client()
    first = client.create_rsa_key("orders", size=3072, tags={"a": "b"})
    assert (first.key_type, len(modulus(first)), first.properties.tags) == ("RSA", 384, {"a": "b"})
    updated = client.update_key_properties("orders", enabled=False, tags={"c": "d"})
    assert (updated.properties.enabled, updated.properties.tags) == (False, {"c": "d"})
    client.update_key_properties("orders", enabled=True)
    second = client.rotate_key("orders")
    assert second.properties.version != first.properties.version
    assert second.properties.tags == {"c": "d"}
    versions = {version.version for version in client.list_properties_of_key_versions("orders")}
    assert versions == {first.properties.version, second.properties.version}
    action = KeyRotationLifetimeAction("Rotate", time_after_create="P90D")
    policy = client.update_key_rotation_policy(
        "orders", KeyRotationPolicy(), lifetime_actions=[action], expires_in="P180D"
    )
    assert policy.expires_in == client.get_key_rotation_policy("orders").expires_in == "P180D"
    blob = client.backup_key("orders")
    with pytest.raises(ResourceExistsError):
        client.restore_key_backup(blob)
    deleted = client.begin_delete_key("orders", _polling_interval=0).result()
    assert deleted.scheduled_purge_date == START + timedelta(days=7)
    with pytest.raises(ResourceExistsError):
        client.create_rsa_key("orders")
    assert [key.name for key in client.list_deleted_keys()] == ["orders"]
    recovered = client.begin_recover_deleted_key("orders", _polling_interval=0).result()
    assert recovered.id == second.id
    client.begin_delete_key("orders", _polling_interval=0).wait()
    client.purge_deleted_key("orders")
    with pytest.raises(ResourceNotFoundError):
        client.get_deleted_key("orders")
    assert client.restore_key_backup(blob).id == second.id
    assert modulus(client.get_key("orders", first.properties.version)) == modulus(first)
    assert client.get_key_rotation_policy("orders").expires_in == "P180D"


def test_a_tour_with_the_asyncio_client(own: AzureEmulator) -> None:
    async def tour() -> list[str]:
        async with own.async_key_client() as client:
            made = await client.create_ec_key("k", curve="P-384")
            body = {"alg": "ES384", "value": encode(bytes(48))}
            reply = await client.send_request(HttpRequest("POST", f"{made.id}/sign", json=body))
            assert len(decode(reply.json(), "value")) == 96
            await client.delete_key("k")
            with pytest.raises(ResourceNotFoundError):
                await client.get_key("k")
            return [key.name async for key in client.list_deleted_keys()]

    assert asyncio.run(tour()) == ["k"]


def test_the_asyncio_client_checks_the_certificate_too() -> None:
    async def visit(az: AzureEmulator) -> None:
        async with az.async_key_client(retry_total=0) as client:
            await client.get_key("k")

    with AzureEmulator(certificate_names=("kms.example.com",)) as other, pytest.raises(ServiceRequestError):
        asyncio.run(visit(other))


def test_deletion_and_recovery_take_their_time(own: AzureEmulator) -> None:
    own.add_vault("slow", VaultSettings("standard", eventual_reads=3))
    client = own.key_client("slow")
    client.create_ec_key("k")
    poller = client.begin_delete_key("k", _polling_interval=0)
    for path, inner in (("recover", "POST"), ("", "DELETE")):
        status, reply = call(client, inner, f"/deletedkeys/k/{path}")
        assert (status, reply["error"]["innererror"]["code"]) == (409, "ObjectIsBeingDeleted")
    status, reply = call(client, "POST", "/keys/k/create", {"kty": "EC"})
    assert (status, reply["error"]["innererror"]["code"]) == (409, "ObjectIsBeingDeleted")
    assert list(client.list_deleted_keys()) == []
    poller.wait()
    assert own.requests.operations.count("GetDeletedKey") == 4
    client.begin_recover_deleted_key("k", _polling_interval=0).wait()
    assert client.get_key("k").name == "k"


def test_the_cryptography_client_works_with_it(own: AzureEmulator) -> None:
    keys = own.client()
    rsa_key, ec_key = keys.create_rsa_key("r", size=2048), keys.create_ec_key("e")
    transport = own.transport()
    with CryptographyClient(rsa_key.id, own.credential(), transport=transport) as crypto:
        sealed = crypto.encrypt(EncryptionAlgorithm.rsa_oaep_256, b"text").ciphertext
        assert crypto.decrypt(EncryptionAlgorithm.rsa_oaep_256, sealed).plaintext == b"text"
    with CryptographyClient(ec_key.id, own.credential(), transport=own.transport()) as crypto:
        signed = crypto.sign(SignatureAlgorithm.es256, bytes(32))
        assert crypto.verify(SignatureAlgorithm.es256, bytes(32), signed.signature).is_valid
    assert own.requests.operations.count("verify") == own.requests.operations.count("encrypt") == 0, (
        "the official client encrypts and verifies by itself"
    )
    assert own.requests.operations.count("sign") == own.requests.operations.count("decrypt") == 1


# --- pages


def test_pages_hold_each_key_once_while_keys_come_and_go(own: AzureEmulator) -> None:
    client = own.client()
    names = [f"k{number:03}" for number in range(60)]
    for name in names:
        client.create_ec_key(name)
    seen: list[str] = []
    pages = client.list_properties_of_keys(max_page_size=25).by_page()
    for page in pages:
        listed = [key.name for key in page]
        assert len(listed) <= 25
        seen += listed
        client.begin_delete_key(listed[0], _polling_interval=0)
        client.create_ec_key(f"a{len(seen)}")
    assert seen == names
    assert own.requests.operations.count("GetKeys") == 3


def test_every_list_pages(own: AzureEmulator) -> None:
    client = own.client()
    for name in ("a", "b", "c"):
        client.create_ec_key(name)
        client.create_ec_key("v")
    versions = list(client.list_properties_of_key_versions("v", max_page_size=1))
    assert len({version.version for version in versions}) == 3
    for name in ("a", "b", "c"):
        client.begin_delete_key(name, _polling_interval=0)
    assert [key.name for key in client.list_deleted_keys(max_page_size=2)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "query",
    ["maxresults=0", "maxresults=x", "maxresults=-1", "maxresults=", "$skiptoken=x", "$skiptoken=e30="],
)
def test_bad_page_requests_are_refused(az: AzureEmulator, query: str) -> None:
    status, _, body = raw(az, "GET", f"/keys?{API}&{query}")
    assert (status, json.loads(body)["error"]["code"]) == (400, "BadParameter")


def test_a_next_link_is_on_the_callers_host(own: AzureEmulator) -> None:
    for name in ("a", "b"):
        own.client().create_ec_key(name)
    host = f"localhost:{own.port}"
    _, _, body = raw(own, "GET", f"/keys?{API}&maxresults=1", host=host)
    link = json.loads(body)["nextLink"]
    assert link.startswith(f"https://{host}/keys?{API}&")
    _, _, body = raw(own, "GET", link.removeprefix(f"https://{host}"), host=host)
    page = json.loads(body)
    assert ([key["kid"] for key in page["value"]], page["nextLink"]) == ([f"https://{host}/keys/b"], None)


# --- faults


def versions_of(client: KeyClient, name: str) -> int:
    return len(list(client.list_properties_of_key_versions(name)))


def test_an_error_fault_does_nothing(own: AzureEmulator) -> None:
    client = own.key_client(retry_total=0)
    own.faults.add("CreateKey")
    with pytest.raises(HttpResponseError) as caught:
        client.create_ec_key("k")
    assert caught.value.status_code == 500
    with pytest.raises(ResourceNotFoundError):
        client.get_key("k")
    assert own.faults.pending == ()


def test_a_fault_may_have_an_inner_code(own: AzureEmulator) -> None:
    own.faults.add("GetKey", "Forbidden/ForbiddenByRbac", status=403, message="Caller is not authorized.")
    with pytest.raises(HttpResponseError) as caught:
        own.client().get_key("k")
    error = cast("Any", caught.value).error
    assert (caught.value.status_code, error.code, error.innererror["code"]) == (
        403,
        "Forbidden",
        "ForbiddenByRbac",
    )


@pytest.mark.parametrize(
    ("retry_after", "attempts"),
    [(None, 1), (0, 2)],  # the SDK repeats a POST after 429 only when there is a Retry-After
)
def test_throttling_with_and_without_retry_after(
    own: AzureEmulator, retry_after: int | None, attempts: int
) -> None:
    client = own.key_client(retry_backoff_factor=0)
    key = client.create_ec_key("k")
    own.requests.clear()
    own.faults.add("sign", kind="throttle", retry_after=retry_after)
    status, _ = call(client, "POST", f"{key.id}/sign", {"alg": "ES256", "value": encode(bytes(32))})
    assert status == (429 if retry_after is None else 200)
    assert own.requests.operations == ["sign"] * attempts


def test_a_get_is_repeated_after_throttling(own: AzureEmulator) -> None:
    client = own.key_client(retry_backoff_factor=0)
    client.create_ec_key("k")
    own.faults.add("GetKey", kind="throttle", times=2)
    assert client.get_key("k").name == "k"


@pytest.mark.parametrize(("kind", "made"), [("reset", 0), ("lost reply", 1)])
def test_a_cut_connection(own: AzureEmulator, kind: Any, made: int) -> None:
    client = own.key_client(retry_total=0)
    client.create_ec_key("k")
    own.faults.add("CreateKey", kind=kind)
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        client.create_ec_key("k")
    assert versions_of(client, "k") == 1 + made


@pytest.mark.parametrize("status", [500, 503])
def test_the_official_client_repeats_a_create(own: AzureEmulator, status: int) -> None:
    # why an adapter must turn its retries off: had the first one worked, there would be two versions
    own.faults.add("CreateKey", status=status)
    own.key_client(retry_backoff_factor=0).create_ec_key("k")
    assert own.requests.operations == ["CreateKey", "CreateKey"]


def test_a_delayed_reply_outlasts_a_read_timeout(own: AzureEmulator) -> None:
    client = own.key_client(retry_total=0)
    own.faults.add("CreateKey", kind="delay", delay=0.4)
    with pytest.raises(ServiceResponseTimeoutError):
        client.create_ec_key("k", read_timeout=0.05)


def test_faults_come_after_the_challenge_and_before_every_other_check(own: AzureEmulator) -> None:
    own.faults.add("sign", status=503, code="ServiceUnavailable")
    assert raw(own, "POST", f"/keys/absent/sign?{API}", authorization=None)[0] == 401
    assert raw(own, "POST", "/keys/absent/sign", b"no JSON, no version")[0] == 503
    assert own.requests.operations == ["sign"]


# --- time


def test_a_policy_rotates_with_the_clock(own: AzureEmulator) -> None:
    client = own.client()
    client.create_ec_key("k")
    action = KeyRotationLifetimeAction("Rotate", time_after_create="P1M")
    client.update_key_rotation_policy("k", KeyRotationPolicy(), lifetime_actions=[action], expires_in="P1Y")
    own.clock.advance(timedelta(days=31 + 28 + 31 + 1))
    listed = list(client.list_properties_of_key_versions("k"))
    months = sorted(cast("datetime", version.created_on).month for version in listed)
    assert months == [1, 2, 3, 4]
    current = client.get_key("k").properties
    assert current.expires_on == datetime(2031, 4, 1, tzinfo=UTC)


def test_a_policy_rotates_before_expiry(own: AzureEmulator) -> None:
    client = own.client()
    client.create_ec_key("k", expires_on=START + timedelta(days=100))
    action = KeyRotationLifetimeAction("Rotate", time_before_expiry="P10D")
    client.update_key_rotation_policy("k", KeyRotationPolicy(), lifetime_actions=[action], expires_in="P60D")
    own.clock.advance(timedelta(days=89))
    assert versions_of(client, "k") == 1
    own.clock.advance(timedelta(days=1))
    assert versions_of(client, "k") == 2
    assert client.get_key("k").properties.expires_on == START + timedelta(days=150)
    own.clock.advance(timedelta(days=50))
    assert versions_of(client, "k") == 3


def test_a_disabled_key_is_not_rotated(own: AzureEmulator) -> None:
    client = own.client()
    client.create_ec_key("k")
    action = KeyRotationLifetimeAction("Rotate", time_after_create="P30D")
    client.update_key_rotation_policy("k", KeyRotationPolicy(), lifetime_actions=[action])
    client.update_key_properties("k", enabled=False)
    own.clock.advance(timedelta(days=365))
    assert versions_of(client, "k") == 1


def test_old_ciphertexts_outlive_a_rotation(own: AzureEmulator) -> None:
    client = own.client()
    first = client.create_rsa_key("k", size=2048)
    sealed = ask(client, "POST", f"{first.id}/wrapkey", {"alg": "RSA-OAEP-256", "value": encode(b"old")})
    client.rotate_key("k")
    body = {"alg": "RSA-OAEP-256", "value": sealed["value"]}
    assert decode(ask(client, "POST", f"{sealed['kid']}/unwrapkey", body), "value") == b"old"
    status, reply = call(client, "POST", "/keys/k/unwrapkey", body)
    assert (status, reply["error"]["code"]) == (400, "BadParameter"), "the newest version cannot"


def test_a_key_opens_and_closes_by_the_clock(own: AzureEmulator) -> None:
    client = own.client()
    key = client.create_ec_key(
        "k", not_before=START + timedelta(days=1), expires_on=START + timedelta(days=2)
    )
    body = {"alg": "ES256", "value": encode(bytes(32))}
    outcomes: list[str] = []
    for _ in range(3):
        status, reply = call(client, "POST", f"{key.id}/sign", body)
        outcomes.append("signed" if status == 200 else reply["error"]["innererror"]["code"])
        own.clock.advance(timedelta(days=1))
    assert outcomes == ["KeyNotYetValid", "signed", "KeyExpired"]


def test_what_was_never_deleted_is_not_recovered(own: AzureEmulator) -> None:
    client = own.client()
    client.create_ec_key("k")
    for method, path in (("GET", ""), ("POST", "/recover"), ("DELETE", "")):
        status, reply = call(client, method, f"/deletedkeys/k{path}")
        assert (status, reply["error"]["message"]) == (404, "Deleted Key not found: k")


def test_a_purged_name_is_free_again(own: AzureEmulator) -> None:
    client = own.client()
    client.create_ec_key("k")
    client.begin_delete_key("k", _polling_interval=0)
    own.clock.advance(timedelta(days=7))
    client.create_ec_key("k")
    assert versions_of(client, "k") == 1


BAD_POLICIES: list[Any] = [
    {},
    {"lifetimeActions": {}},
    {"lifetimeActions": [1]},
    {"lifetimeActions": [{"trigger": {}}]},
    {"lifetimeActions": [{"action": {}}]},
    {"lifetimeActions": [{"action": {}, "trigger": {}}]},
    {"lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {}}]},
    {"lifetimeActions": [{"action": {"type": "Eat"}, "trigger": {"timeAfterCreate": "P30D"}}]},
    {"lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": "30"}}]},
    {"lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": "P"}}]},
    {"lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": "P4W"}}]},
    {"lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": 30}}]},
    {"lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeBeforeExpiry": "P30D"}}]},
    {"lifetimeActions": [{"action": {"type": "Notify"}, "trigger": {"timeAfterCreate": "P30D"}}]},
    {"lifetimeActions": [], "attributes": {"expiryTime": "P27D"}},
    {"lifetimeActions": [], "attributes": 1},
    {
        "lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": "P58D"}}],
        "attributes": {"expiryTime": "P60D"},
    },
    {"lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": "P30D"}}] * 2},
]


@pytest.mark.parametrize("policy", BAD_POLICIES)
def test_bad_rotation_policies_are_refused(az: AzureEmulator, keys: KeyClient, policy: Any) -> None:
    keys.create_ec_key("policies")
    status, reply = call(keys, "PUT", "/keys/policies/rotationpolicy", policy)
    assert (status, reply["error"]["code"]) == (400, "BadParameter")


def test_a_managed_hsm_rotates_only_under_a_policy(hsm: KeyClient) -> None:
    hsm.create_oct_key("rotated", size=256, hardware_protected=True)
    assert call(hsm, "POST", "/keys/rotated/rotate")[0] == 400
    action = {"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": "P27D"}}
    assert call(hsm, "PUT", "/keys/rotated/rotationpolicy", {"lifetimeActions": [action]})[0] == 400
    action["trigger"] = {"timeAfterCreate": "P28D"}
    ask(hsm, "PUT", "/keys/rotated/rotationpolicy", {"lifetimeActions": [action]})
    ask(hsm, "POST", "/keys/rotated/rotate")
    assert versions_of(hsm, "rotated") == 2


@given(
    at=st.datetimes(datetime(1970, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)),
    years=st.integers(0, 9999),
    months=st.integers(0, 9999),
    days=st.integers(0, 99999),
    sign=st.sampled_from([1, -1]),
)
def test_durations_never_leave_the_calendar(
    at: datetime, years: int, months: int, days: int, sign: int
) -> None:
    duration = Duration.parse(f"P{years}Y{months}M{days}D")
    moved = add_duration(at, duration, sign=sign)
    assert moved.tzinfo is UTC
    # the far ends of the calendar are cut off, so order holds between them alone
    if datetime(1000, 1, 2, tzinfo=UTC) < moved < datetime(8999, 1, 1, tzinfo=UTC):
        assert moved >= at if sign == 1 else moved <= at


# --- real cryptography, checked offline

RSA_SIGNERS = [
    ("RS256", hashes.SHA256(), "PKCS1"),
    ("RS384", hashes.SHA384(), "PKCS1"),
    ("RS512", hashes.SHA512(), "PKCS1"),
    ("PS256", hashes.SHA256(), "PSS"),
    ("PS384", hashes.SHA384(), "PSS"),
    ("PS512", hashes.SHA512(), "PSS"),
]
EC_SIGNERS = [
    ("ES256", "P-256", hashes.SHA256(), 32),
    ("ES384", "P-384", hashes.SHA384(), 48),
    ("ES512", "P-521", hashes.SHA512(), 66),
    ("ES256K", "P-256K", hashes.SHA256(), 32),
]


def _scheme(name: str, hashing: hashes.HashAlgorithm, salt: int | None = None) -> Any:
    if name == "PKCS1":
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(hashing), hashing.digest_size if salt is None else salt)


def _digest(hashing: hashes.HashAlgorithm, data: bytes) -> bytes:
    hasher = hashes.Hash(hashing)
    hasher.update(data)
    return hasher.finalize()


@pytest.mark.parametrize("size", [2048, 3072, 4096])
@pytest.mark.parametrize(("alg", "hashing", "scheme"), RSA_SIGNERS)
def test_rsa_signatures_verify_offline(
    keys: KeyClient, alg: str, hashing: hashes.HashAlgorithm, scheme: str, size: int
) -> None:
    name = f"rsa-{size}"
    status, reply = call(keys, "GET", f"/keys/{name}")
    if status == 404:
        reply = ask(keys, "POST", f"/keys/{name}/create", {"kty": "RSA", "key_size": size})
    digest = _digest(hashing, b"message")
    signed = ask(keys, "POST", f"/keys/{name}/sign", {"alg": alg, "value": encode(digest)})
    signature = decode(signed, "value")
    rsa_public(reply["key"]).verify(signature, b"message", _scheme(scheme, hashing), hashing)
    body = {"alg": alg, "digest": encode(digest), "value": signed["value"]}
    assert ask(keys, "POST", f"/keys/{name}/verify", body) == {"value": True}
    body["digest"] = encode(_digest(hashing, b"another message"))
    assert ask(keys, "POST", f"/keys/{name}/verify", body) == {"value": False}


@pytest.mark.parametrize(("alg", "crv", "hashing", "width"), EC_SIGNERS)
@pytest.mark.parametrize("vault", [VAULT, "premium.vault.azure.net", "my-hsm.managedhsm.azure.net"])
def test_ecdsa_signatures_verify_offline(
    az: AzureEmulator, alg: str, crv: str, hashing: hashes.HashAlgorithm, width: int, vault: str
) -> None:
    client = az.key_client(vault)
    kty = "EC" if vault == VAULT else "EC-HSM"
    made = ask(client, "POST", f"/keys/ec-{crv}/create", {"kty": kty, "crv": crv})
    assert made["key"]["kty"] == kty
    digest = _digest(hashing, b"message")
    signed = ask(client, "POST", f"{made['key']['kid']}/sign", {"alg": alg, "value": encode(digest)})
    signature = decode(signed, "value")
    assert len(signature) == 2 * width
    r, s = (int.from_bytes(part, "big") for part in (signature[:width], signature[width:]))
    public = ec_public(made["key"])
    public.verify(utils.encode_dss_signature(r, s), b"message", ec.ECDSA(hashing))
    for value in (signature, signature[:-1], b"\0" + signature, bytes(2 * width), signature[::-1]):
        body = {"alg": alg, "digest": encode(digest), "value": encode(value)}
        answer = ask(client, "POST", f"{made['key']['kid']}/verify", body)
        assert answer["value"] is (value == signature)


@pytest.mark.parametrize("vector", SHORT_SIGNATURES, ids=lambda v: f"{v.curve}-{v.part}-{v.zeros}")
def test_a_given_nonce_makes_the_short_signature_asked_for(
    own: AzureEmulator, vector: ShortSignature
) -> None:
    crv = {curve: name for name, curve in CURVES.items()}[vector.curve]
    alg, _, hashing, width = next(signer for signer in EC_SIGNERS if signer[1] == crv)
    private = ec.derive_private_key(vector.scalar, EC_CURVES[crv])
    point = private.public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": crv,
        "x": encode(point.x.to_bytes(width, "big")),
        "y": encode(point.y.to_bytes(width, "big")),
        "d": encode(vector.scalar.to_bytes(width, "big")),
    }
    client = own.client()
    kid = imported(client, "k", jwk)
    body = {"alg": alg, "value": encode(vector.digest())}
    own.give_nonce(vector.curve, vector.nonce)
    signature = decode(ask(client, "POST", f"{kid}/sign", body), "value")
    assert len(signature) == 2 * width
    r, s = signature[:width], signature[width:]
    short = r if vector.part == "r" else s
    assert short[: vector.zeros] == bytes(vector.zeros)
    assert short[vector.zeros] != 0
    der = utils.encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    private.public_key().verify(der, vector.message, ec.ECDSA(hashing))
    assert decode(ask(client, "POST", f"{kid}/sign", body), "value") != signature, "one nonce, one signature"


def test_nonces_are_checked(own: AzureEmulator) -> None:
    order = ec.SECP256R1().group_order
    for nonce in (0, -1, order, order + 1):
        with pytest.raises(ValueError, match="between 1 and"):
            own.give_nonce("P-256", nonce)
    assert check_nonce("P-256", order - 1) == order - 1


def test_a_nonce_that_gives_no_signature_is_refused(own: AzureEmulator) -> None:
    order, scalar, nonce = ec.SECP256R1().group_order, 3, 5
    key = EcKey.from_scalar("P-256", scalar)
    r = ec.derive_private_key(nonce, ec.SECP256R1()).public_key().public_numbers().x % order
    digest = (-r * scalar % order).to_bytes(32, "big")  # for which s would be 0
    with pytest.raises(ValueError, match="no signature"):
        sign_with_nonce(key, digest, nonce)
    point = key.public_numbers()
    jwk = {"kty": "EC", "crv": "P-256", "d": encode(scalar.to_bytes(32, "big"))}
    jwk |= {"x": encode(point.x.to_bytes(32, "big")), "y": encode(point.y.to_bytes(32, "big"))}
    kid = imported(own.client(), "k", jwk)
    own.give_nonce("P-256", nonce)
    assert call(own.client(), "POST", f"{kid}/sign", {"alg": "ES256", "value": encode(digest)})[0] == 400


def test_a_nonce_signs_as_the_standard_says() -> None:
    # RFC 6979, A.2.5, SHA-256, message "sample"
    key = EcKey.from_scalar("P-256", 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721)
    nonce = 0xA6E3C57DD01ABE90086538398355DD4C3B17AA873382B0F24D6129493D8AAD60
    r, s = utils.decode_dss_signature(sign_with_nonce(key, hashlib.sha256(b"sample").digest(), nonce))
    assert r == 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
    assert s == 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8


def test_a_pss_signature_of_another_salt_length_is_refused(keys: KeyClient) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kid = imported(keys, "salted", _rsa_jwk(private))
    digest = _digest(hashes.SHA256(), b"message")
    for salt, good in ((32, True), (0, False), (20, False), (222, False)):
        signature = private.sign(b"message", _scheme("PSS", hashes.SHA256(), salt), hashes.SHA256())
        body = {"alg": "PS256", "digest": encode(digest), "value": encode(signature)}
        assert ask(keys, "POST", f"{kid}/verify", body) == {"value": good}


def _rsa_jwk(private: rsa.RSAPrivateKey) -> dict[str, Any]:
    numbers = private.private_numbers()

    def text(value: int) -> str:
        return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))

    return {
        "kty": "RSA",
        "n": text(numbers.public_numbers.n),
        "e": text(numbers.public_numbers.e),
        "d": text(numbers.d),
        "p": text(numbers.p),
        "q": text(numbers.q),
        "dp": text(numbers.dmp1),
        "dq": text(numbers.dmq1),
        "qi": text(numbers.iqmp),
    }


def test_raw_rsa_signatures(keys: KeyClient) -> None:
    key = keys.create_rsa_key("null", size=2048)
    signed = ask(keys, "POST", f"{key.id}/sign", {"alg": "RSNULL", "value": encode(b"any bytes")})
    public = rsa.RSAPublicNumbers(65537, int.from_bytes(modulus(key), "big")).public_key()
    found = public.recover_data_from_signature(decode(signed, "value"), padding.PKCS1v15(), None)
    assert found == b"any bytes"
    body = {"alg": "RSNULL", "digest": encode(b"any bytes"), "value": signed["value"]}
    assert ask(keys, "POST", f"{key.id}/verify", body) == {"value": True}
    body["digest"] = encode(b"any byteZ")
    assert ask(keys, "POST", f"{key.id}/verify", body) == {"value": False}
    assert call(keys, "POST", f"{key.id}/sign", {"alg": "RSNULL", "value": encode(bytes(246))})[0] == 400


@pytest.mark.parametrize(
    ("alg", "scheme"),
    [
        ("RSA-OAEP-256", padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)),
        ("RSA-OAEP", padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)),  # noqa: S303
        ("RSA1_5", padding.PKCS1v15()),
    ],
)
def test_what_is_encrypted_offline_is_decrypted(
    keys: KeyClient, alg: str, scheme: padding.AsymmetricPadding
) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kid = imported(keys, "offline", _rsa_jwk(private))
    sealed = private.public_key().encrypt(b"text", scheme)
    for operation in ("decrypt", "unwrapkey"):
        body = {"alg": alg, "value": encode(sealed)}
        assert decode(ask(keys, "POST", f"{kid}/{operation}", body), "value") == b"text"
    for operation in ("encrypt", "wrapkey"):
        reply = ask(keys, "POST", f"{kid}/{operation}", {"alg": alg, "value": encode(b"other")})
        assert private.decrypt(decode(reply, "value"), scheme) == b"other"


def test_rsa_keys_refuse_what_does_not_fit(keys: KeyClient) -> None:
    key = keys.create_rsa_key("fits", size=2048)
    for operation in ("encrypt", "decrypt", "sign", "verify"):
        for alg in ("ES256", "A256GCM", "HS256", "RS256" if "crypt" in operation else "RSA-OAEP"):
            body = {"alg": alg, "value": encode(bytes(32)), "digest": encode(bytes(32))}
            status, reply = call(keys, "POST", f"{key.id}/{operation}", body)
            assert (status, reply["error"]["code"]) == (400, "BadParameter")


def test_rsa_ciphertexts_of_another_length_are_bad(keys: KeyClient) -> None:
    key = keys.create_rsa_key("lengths", size=2048)
    for size in (1, 255, 257, 512):
        body = {"alg": "RSA-OAEP-256", "value": encode(bytes(size))}
        status, reply = call(keys, "POST", f"{key.id}/decrypt", body)
        assert (status, reply["error"]["message"]) == (400, "The parameter is incorrect.\r\n")


def test_every_part_of_a_gcm_ciphertext_counts(hsm: KeyClient) -> None:
    secret = os.urandom(32)
    kid = imported(hsm, "gcm", {"kty": "oct-HSM", "k": encode(secret)})
    sealed = ask(
        hsm, "POST", f"{kid}/encrypt", {"alg": "A256GCM", "value": encode(b"text"), "aad": encode(b"aad")}
    )
    parts = {name: decode(sealed, name) for name in ("value", "iv", "tag", "aad")}
    assert AESGCM(secret).decrypt(parts["iv"], parts["value"] + parts["tag"], b"aad") == b"text"
    for name, part in parts.items():
        changed = bytes([part[0] ^ 1]) + part[1:]
        body = {"alg": "A256GCM", **{n: encode(changed if n == name else p) for n, p in parts.items()}}
        status, reply = call(hsm, "POST", f"{kid}/decrypt", body)
        assert (status, reply["error"]["code"]) == (400, "BadParameter"), name
    body = {"alg": "A256GCM"} | {name: encode(part) for name, part in parts.items() if name != "aad"}
    assert call(hsm, "POST", f"{kid}/decrypt", body)[0] == 400, "the aad left out"
    assert ask(hsm, "POST", f"{kid}/decrypt", {**body, "aad": encode(b"aad")})["value"] == encode(b"text")
    again = ask(hsm, "POST", f"{kid}/encrypt", {"alg": "A256GCM", "value": encode(b"text")})
    assert again["iv"] != sealed["iv"]
    assert "aad" not in again
    given_iv = {"alg": "A256GCM", "value": encode(b"text"), "iv": sealed["iv"]}
    assert call(hsm, "POST", f"{kid}/encrypt", given_iv)[0] == 400, "an iv is the service's to choose"


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_aes_key_wrap_meets_an_offline_peer(hsm: KeyClient, bits: int) -> None:
    secret = os.urandom(bits // 8)
    kid = imported(hsm, f"kw-{bits}", {"kty": "oct-HSM", "k": encode(secret)})
    for alg in (f"A{bits}KW", "CKM_AES_KEY_WRAP"):
        wrapped = ask(hsm, "POST", f"{kid}/wrapkey", {"alg": alg, "value": encode(bytes(32))})
        assert keywrap.aes_key_unwrap(secret, decode(wrapped, "value")) == bytes(32)
        body = {"alg": alg, "value": encode(keywrap.aes_key_wrap(secret, b"s" * 24))}
        assert decode(ask(hsm, "POST", f"{kid}/unwrapkey", body), "value") == b"s" * 24
    wrapped = ask(hsm, "POST", f"{kid}/wrapkey", {"alg": "CKM_AES_KEY_WRAP_PAD", "value": encode(b"odd")})
    assert keywrap.aes_key_unwrap_with_padding(secret, decode(wrapped, "value")) == b"odd"
    assert call(hsm, "POST", f"{kid}/wrapkey", {"alg": f"A{bits}KW", "value": encode(b"odd")})[0] == 400
    body = {"alg": f"A{bits}KW", "value": encode(bytes(40))}
    status, reply = call(hsm, "POST", f"{kid}/unwrapkey", body)
    assert (status, reply["error"]["code"]) == (400, "BadParameter")


@pytest.mark.parametrize(
    ("path", "alg"),
    [
        ("encrypt", "A128GCM"),
        ("encrypt", "A128CBC"),
        ("encrypt", "A256KW"),
        ("wrapkey", "A128KW"),
        ("wrapkey", "A256GCM"),
        ("encrypt", "RSA-OAEP"),
        ("encrypt", "ES256"),
        ("encrypt", "A512GCM"),
    ],
)
def test_secret_keys_refuse_what_does_not_fit(hsm: KeyClient, path: str, alg: str) -> None:
    kid = imported(hsm, "fits", {"kty": "oct-HSM", "k": encode(bytes(32))})
    body = {"alg": alg, "value": encode(bytes(16)), "iv": encode(bytes(16))}
    status, reply = call(hsm, "POST", f"{kid}/{path}", body)
    assert (status, reply["error"]["code"]) == (400, "BadParameter")


def test_hmac_is_refused_in_words(hsm: KeyClient) -> None:
    made = ask(hsm, "POST", "/keys/hs/create", {"kty": "oct-HSM", "key_ops": ["sign", "verify"]})
    for alg, code in (("HS256", "NotSupported"), ("RS256", "BadParameter")):
        body = {"alg": alg, "value": encode(bytes(32))}
        status, reply = call(hsm, "POST", f"{made['key']['kid']}/sign", body)
        assert (status, reply["error"]["code"]) == (400, code)
    made = ask(hsm, "POST", "/keys/mac/create", {"kty": "oct-HSM"})
    status, reply = call(
        hsm, "POST", f"{made['key']['kid']}/sign", {"alg": "HS256", "value": encode(bytes(32))}
    )
    assert (status, reply["error"]["innererror"]["code"]) == (403, "KeyOperationForbidden")


def test_symmetric_keys_are_for_premium_vaults_and_managed_hsms(az: AzureEmulator) -> None:
    premium = az.key_client("premium")
    key = premium.create_oct_key("aes", size=192, hardware_protected=True)
    assert (key.key_type, key.properties.hsm_platform) == ("oct-HSM", "2")
    assert "k" not in ask(premium, "GET", key.id)["key"]
    sealed = ask(premium, "POST", f"{key.id}/encrypt", {"alg": "A192GCM", "value": encode(b"text")})
    assert "alg" not in sealed, "a vault does not repeat the algorithm"
    body = {**sealed, "alg": "A192GCM"}
    assert decode(ask(premium, "POST", f"{key.id}/decrypt", body), "value") == b"text"
    status, reply = call(az.client(), "POST", "/keys/aes/create", {"kty": "oct-HSM"})
    assert (status, reply["error"]["innererror"]["code"]) == (400, "KeyTypeNotSupported")


# --- requests that are none


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("create", b"{"),
        ("create", b"[]"),
        ("create", b"null"),
        ("create", b'"text"'),
        ("create", b"\xff"),
        ("create", b'{"kty": NaN}'),
        ("create", b"[" * 100_000),
        ("create", b'{"a":' * 100_000),
        ("create", b'{"attributes": {"exp": ' + b"9" * 5000 + b"}}"),
        ("create", {"kty": 1}),
        ("create", {"kty": ""}),
        ("create", {"kty": "\ud800"}),
        ("create", {"kty": "AKP"}),
        ("create", {"kty": "RSA-HSM"}),
        ("create", {"kty": "RSA", "key_size": "2048"}),
        ("create", {"kty": "RSA", "key_size": True}),
        ("create", {"kty": "RSA", "key_size": 2049}),
        ("create", {"kty": "RSA", "key_size": -1}),
        ("create", {"kty": "EC", "crv": 256}),
        ("create", {"kty": "EC", "key_ops": "sign"}),
        ("create", {"kty": "EC", "key_ops": [1]}),
        ("create", {"kty": "EC", "key_ops": [["sign"]]}),
        ("create", {"kty": "EC", "key_ops": ["encrypt"]}),
        ("create", {"kty": "EC", "key_ops": ["deriveKey"]}),
        ("create", {"kty": "RSA", "key_ops": ["import"]}),
        ("create", {"kty": "EC", "attributes": []}),
        ("create", {"kty": "EC", "attributes": {"enabled": 1}}),
        ("create", {"kty": "EC", "attributes": {"exp": "never"}}),
        ("create", {"kty": "EC", "attributes": {"exp": 1.5}}),
        ("create", {"kty": "EC", "attributes": {"exp": -1}}),
        ("create", {"kty": "EC", "attributes": {"exp": 10**15}}),
        ("create", {"kty": "EC", "attributes": {"nbf": 2, "exp": 1}}),
        ("create", {"kty": "EC", "attributes": {"exportable": "yes"}}),
        ("create", {"kty": "EC", "tags": []}),
        ("create", {"kty": "EC", "tags": {"a": 1}}),
        ("create", {"kty": "EC", "release_policy": 1}),
        ("create", {"kty": "EC", "release_policy": {"data": "e30"}}),
        ("create", {"kty": "RSA", "public_exponent": 3}),
        ("sign", {}),
        ("sign", {"alg": "ES256"}),
        ("sign", {"alg": 1, "value": "aa"}),
        ("sign", {"alg": "ES256", "value": 1}),
        ("sign", {"alg": "ES256", "value": ""}),
        ("sign", {"alg": "ES256", "value": "a"}),
        ("sign", {"alg": "ES256", "value": "aa=="}),
        ("sign", {"alg": "ES256", "value": "ab"}),
        ("sign", {"alg": "ES256", "value": "a a a"}),
        ("sign", {"alg": "none", "value": "aaaa"}),
        ("sign", {"alg": "RS256", "value": encode(bytes(32))}),
        ("verify", {"alg": "ES256", "value": "aaaa"}),
        ("verify", {"alg": "ES256", "value": "aaaa", "digest": "aaaa"}),
        ("release", {}),
        ("release", {"target": "x"}),
        ("backup/more", {}),
    ],
)
def test_bad_requests_are_told_so(az: AzureEmulator, keys: KeyClient, path: str, body: Any) -> None:
    keys.create_ec_key("bad")
    status, _, reply = raw(az, "POST", f"/keys/bad/{path}?{API}", body)
    assert status in (400, 404)
    assert json.loads(reply)["error"]["message"]
    assert versions_of(keys, "bad") >= 1


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "EC"},
        {"n": "AQ"},
        {"e": "Ag"},
        {"d": "AQ"},
        {"p": "AQ"},
        {"p": "AA"},
        {"q": None},
        {"dp": "AQ"},
        {"qi": "AQ"},
        {"key_hsm": "e30"},
        {"key_ops": ["sign", "fly"]},
        {"d": encode(b"\xff" * 300)},
        {"e": encode(b"\xff" * 300)},
    ],
)
def test_bad_rsa_imports_are_refused(keys: KeyClient, change: dict[str, Any]) -> None:
    jwk = _rsa_jwk(_PRIVATE) | change
    status, reply = call(keys, "PUT", "/keys/import", {"key": jwk})
    assert status == 400, reply
    assert call(keys, "GET", "/keys/import")[0] == 404


_PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def test_an_import_of_another_exponent_is_used(keys: KeyClient) -> None:
    private = rsa.generate_private_key(public_exponent=3, key_size=2048)
    kid = imported(keys, "three", _rsa_jwk(private))
    signed = ask(keys, "POST", f"{kid}/sign", {"alg": "RS256", "value": encode(bytes(32))})
    private.public_key().verify(
        decode(signed, "value"), bytes(32), padding.PKCS1v15(), utils.Prehashed(hashes.SHA256())
    )


@pytest.mark.parametrize(
    "change",
    [
        {"d": "AA"},
        {"d": encode(b"\xff" * 32)},
        {"d": encode(b"\xff" * 3000)},
        {"x": "AQ"},
        {"crv": "P-384"},
        {"crv": None},
        {"y": None},
    ],
)
def test_bad_ec_imports_are_refused(keys: KeyClient, change: dict[str, Any]) -> None:
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": encode(numbers.public_numbers.x.to_bytes(32, "big")),
        "y": encode(numbers.public_numbers.y.to_bytes(32, "big")),
        "d": encode(numbers.private_value.to_bytes(32, "big")),
    }
    assert call(keys, "PUT", "/keys/ec-import", {"key": jwk | change})[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "keys/new/create", {"kty": "oct-HSM", "key_size": 100}),
        ("POST", "keys/new/create", {"kty": "oct-HSM", "key_ops": ["deriveKey"]}),
        ("PUT", "keys/new", {"key": {"kty": "oct-HSM", "k": encode(bytes(15))}}),
        ("PUT", "keys/new", {}),
        ("PUT", "keys/new", {"key": 1}),
        (
            "POST",
            "keys/new/create",
            {"kty": "EC", "attributes": {"exportable": True}, "release_policy": {"data": encode(b"text")}},
        ),
        ("PATCH", "keys/there", {"attributes": {"exportable": True}}),
        ("PATCH", "keys/there", {"release_policy": {"data": "e30"}}),
        ("PATCH", "keys/there", {"key_ops": ["sign", "deriveKey", "encrypt", "fly"]}),
        ("POST", "keys/there/encrypt", {"alg": "A256CBC", "value": "AAAA", "iv": "AAAA"}),
        ("POST", "keys/there/decrypt", {"alg": "A256CBC", "value": "AAAA", "iv": encode(bytes(16))}),
        ("POST", "keys/there/decrypt", {"alg": "A256GCM", "value": "AAAA", "iv": "AAAA", "tag": "AAAA"}),
        ("POST", "rng", {"count": 0}),
        ("POST", "rng", {"count": 129}),
        ("POST", "rng", {"count": True}),
        ("POST", "rng", {}),
    ],
)
def test_bad_requests_to_a_managed_hsm(hsm: KeyClient, method: str, path: str, body: Any) -> None:
    if call(hsm, "GET", "/keys/there")[0] == 404:
        ask(hsm, "POST", "/keys/there/create", {"kty": "oct-HSM"})
    status, reply = call(hsm, method, f"/{path}", body)
    assert (status, reply["error"]["code"] in ("BadParameter", "NotSupported")) == (400, True)
    assert "(Activity ID: " in reply["error"]["message"]
    assert call(hsm, "GET", "/keys/new")[0] == 404


def test_a_notification_of_ones_own_takes_the_place_of_the_default(keys: KeyClient) -> None:
    keys.create_ec_key("notified")
    action = {"action": {"type": "notify"}, "trigger": {"timeBeforeExpiry": "P10D", "timeAfterCreate": None}}
    body = {"lifetimeActions": [action], "attributes": {"expiryTime": "P2M"}}
    reply = ask(keys, "PUT", "/keys/notified/rotationpolicy", body)
    wanted = [{"trigger": {"timeBeforeExpiry": "P10D"}, "action": {"type": "Notify"}}]
    assert reply["lifetimeActions"] == wanted
    assert len(list(keys.list_properties_of_key_versions("notified"))) == 1


def test_a_key_without_expiry_is_not_rotated_before_it(own: AzureEmulator) -> None:
    client = own.client()
    client.create_ec_key("k")
    action = KeyRotationLifetimeAction("Rotate", time_before_expiry="P10D")
    client.update_key_rotation_policy("k", KeyRotationPolicy(), lifetime_actions=[action], expires_in="P60D")
    own.clock.advance(timedelta(days=3650))
    assert versions_of(client, "k") == 1


def test_the_official_client_imports(hsm: KeyClient) -> None:
    jwk = JsonWebKey(kty="oct-HSM", k=bytes(16), key_ops=["encrypt", "decrypt"])
    key = hsm.import_key("imported", jwk, tags={"from": "here"})
    assert (key.key_type, key.key_operations, key.properties.tags) == (
        "oct-HSM",
        ["encrypt", "decrypt"],
        {"from": "here"},
    )


@pytest.mark.parametrize("name", ["a_b", "a b", "a.b", "x" * 128, "é", "a%2Fb", "%00"])
def test_bad_names_are_refused(az: AzureEmulator, name: str) -> None:
    status, _, body = raw(az, "POST", f"/keys/{quote(name, safe='%')}/create?{API}", {"kty": "EC"})
    assert (status, json.loads(body)["error"]["code"]) == (400, "BadParameter")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/secrets", 404),
        ("POST", "/keys", 405),
        ("PUT", "/keys/k/sign", 405),
        ("HEAD", "/keys", 405),
        ("OPTIONS", "/keys", 405),
        ("GET", "/keys/a/b/c/d/e", 404),
        ("GET", "//keys//", 200),
        ("GET", "/KEYS", 200),
        ("GET", "//[", 404),
        ("GET", "/%ff", 400),
        ("GET", "/keys/%zz", 400),
        ("GET", "*", 404),
        ("GET", "http://elsewhere.example/keys", 404),
        ("POST", "/rng", 404),
    ],
)
def test_paths_that_name_little(az: AzureEmulator, method: str, path: str, status: int) -> None:
    assert raw(az, method, f"{path}?{API}")[0] == status


@pytest.mark.parametrize(
    "query", ["", "api-version=", "api-version=7.9", "api-version=%ff", "&" * 60 + "a=b"]
)
def test_an_api_version_is_required_and_known(az: AzureEmulator, query: str) -> None:
    status, _, body = raw(az, "GET", f"/keys?{query}")
    assert (status, json.loads(body)["error"]["code"]) == (400, "BadParameter")


def test_an_old_api_version_has_fewer_operations_and_fields(az: AzureEmulator, keys: KeyClient) -> None:
    keys.create_rsa_key("aged", size=2048)
    assert raw(az, "POST", "/keys/aged/rotate?api-version=7.2")[0] == 404
    shown = [
        json.loads(raw(az, "GET", f"/keys/aged?api-version={api}")[2])["attributes"].keys()
        for api in API_VERSIONS
    ]
    assert all(earlier <= later for earlier, later in pairwise(shown))
    assert "recoverableDays" not in shown[0]
    assert "key_size" in shown[-1]
    assert raw(az, "GET", "/keys?api-version=7.1", host="my-hsm.managedhsm.azure.net")[0] == 400


@pytest.mark.parametrize("path", ["attestation", "securewrapkey", "secureunwrapkey"])
def test_what_is_not_played_is_refused_in_words(az: AzureEmulator, keys: KeyClient, path: str) -> None:
    key = keys.create_ec_key("refused")
    method = "GET" if path == "attestation" else "POST"
    url = f"/keys/refused/{key.properties.version}/{path}?api-version=2026-04-01"
    status, _, body = raw(az, method, url, b"" if method == "GET" else {})
    assert (status, json.loads(body)["error"]["code"]) == (400, "NotSupported")
    assert "does not play" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "blob", [b"x", bytes(12), bytes(28), bytes(100)], ids=["short", "nonce", "empty", "zeros"]
)
def test_damaged_backups_are_refused(az: AzureEmulator, blob: bytes) -> None:
    status, _, body = raw(az, "POST", f"/keys/restore?{API}", {"value": encode(blob)})
    assert (status, json.loads(body)["error"]["code"]) == (400, "BadParameter")


def test_backups_cross_vaults_but_not_kinds(own: AzureEmulator) -> None:
    own.client().create_ec_key("k")
    blob = own.client().backup_key("k")
    assert own.key_client("elsewhere").restore_key_backup(blob).name == "k"
    hsm = own.add_vault("my-hsm", VaultSettings("hsm")).removeprefix("https://")
    with pytest.raises(HttpResponseError):
        own.key_client(hsm).restore_key_backup(blob)
    with AzureEmulator() as other, pytest.raises(HttpResponseError):
        other.client().restore_key_backup(blob)
    damaged = blob[:-1] + bytes([blob[-1] ^ 1])
    with pytest.raises(HttpResponseError):
        own.key_client("third").restore_key_backup(damaged)


def test_a_backup_brings_back_symmetric_keys_and_release_policies(az: AzureEmulator) -> None:
    premium = az.key_client("premium")
    made = ask(premium, "POST", "/keys/oct/create", {"kty": "oct-HSM", "key_ops": ["wrapKey", "unwrapKey"]})
    wrapped = ask(premium, "POST", "/keys/oct/wrapkey", {"alg": "A256KW", "value": encode(bytes(32))})
    policy = encode(b'{"version": "1.0.0"}')
    released = ask(
        premium,
        "POST",
        "/keys/released/create",
        {"kty": "RSA-HSM", "attributes": {"exportable": True}, "release_policy": {"data": policy}},
    )
    for name, before in (("oct", made), ("released", released)):
        blob = ask(premium, "POST", f"/keys/{name}/backup")
        ask(premium, "DELETE", f"/keys/{name}")
        ask(premium, "DELETE", f"/deletedkeys/{name}")
        assert ask(premium, "POST", "/keys/restore", blob) == before
    body = {"alg": "A256KW", "value": wrapped["value"]}
    assert decode(ask(premium, "POST", "/keys/oct/unwrapkey", body), "value") == bytes(32)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "x"}, 400),
        ({"Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"Transfer-Encoding": "chunked"}, 501),
    ],
)
def test_bodies_are_bounded(az: AzureEmulator, headers: dict[str, str], status: int) -> None:
    assert raw(az, "POST", f"/keys/k/create?{API}", b"{}", headers=headers)[0] == status


def test_one_connection_serves_many_requests(az: AzureEmulator) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", az.port, timeout=30, context=_context(az))
    sockets: set[int] = set()
    for authorization in (f"Bearer {az.token()}", "Bearer x", f"Bearer {az.token()}"):
        connection.request("GET", f"/keys?{API}", headers={"Host": VAULT, "Authorization": authorization})
        sockets.add(id(connection.sock))
        reply = connection.getresponse()
        assert reply.getheader("Content-Length") == str(len(reply.read()))
    assert len(sockets) == 1
    connection.close()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_BASE64 = st.binary(max_size=80).map(encode)
_ALGORITHMS = [
    *RSA_ENCRYPTION,
    *RSA_SIGNING,
    *EC_SIGNING,
    *AES_ENCRYPTION,
    *AES_WRAPPING,
    *MAC,
    RSA_RAW_SIGNING,
]
_OPS = ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey", "import", "export", "deriveKey"]
_DURATIONS = st.from_regex(r"P(\d{1,4}Y)?(\d{1,4}M)?(\d{1,5}D)?", fullmatch=True)
_TRIGGER = st.fixed_dictionaries({}, optional={"timeAfterCreate": _DURATIONS, "timeBeforeExpiry": _DURATIONS})
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "kty": st.sampled_from(["EC", "EC-HSM", "oct", "oct-HSM", "AKP"]),
    "crv": st.sampled_from(sorted(CURVES)),
    "key_size": st.integers(0, 512),
    "key_ops": st.lists(st.sampled_from(_OPS), max_size=3),
    "attributes": st.fixed_dictionaries(
        {},
        optional={
            "enabled": st.booleans(),
            "nbf": st.integers(0, 2**34),
            "exp": st.integers(0, 2**34),
            "exportable": st.booleans(),
            "expiryTime": _DURATIONS,
        },
    ),
    "tags": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    "release_policy": st.fixed_dictionaries({"data": _BASE64}),
    "alg": st.sampled_from(_ALGORITHMS),
    "value": _BASE64,
    "digest": _BASE64,
    "iv": _BASE64,
    "tag": _BASE64,
    "aad": _BASE64,
    "target": st.text(max_size=5),
    "count": st.integers(-1, 200),
    "lifetimeActions": st.lists(
        st.fixed_dictionaries(
            {
                "action": st.fixed_dictionaries({"type": st.sampled_from(["Rotate", "Notify"])}),
                "trigger": _TRIGGER,
            }
        ),
        max_size=3,
    ),
}
FIELDS["key"] = st.fixed_dictionaries(
    {},
    optional={
        name: FIELDS.get(name, _BASE64)
        for name in ("kty", "crv", "key_ops", "n", "e", "d", "p", "q", "dp", "dq", "qi", "x", "y", "k")
    },
)
EMPTY: dict[str, st.SearchStrategy[Any]] = {}
NAMES = ["sym", "elliptic", "modular", "absent", "a_b"]


@pytest.fixture(scope="module")
def attacked() -> Iterator[tuple[AzureEmulator, http.client.HTTPSConnection]]:
    """An emulator with a vault and an HSM that hold something, and one connection to it."""
    clock = Clock(START)
    with AzureEmulator(clock=clock) as az:
        for host in ("attacked.vault.azure.net", "attacked.managedhsm.azure.net"):
            client = az.key_client(host)
            ask(client, "POST", "/keys/elliptic/create", {"kty": "EC"})
            ask(client, "POST", "/keys/modular/create", {"kty": "RSA"})
        ask(az.key_client("attacked.managedhsm.azure.net"), "POST", "/keys/sym/create", {"kty": "oct"})
        connection = http.client.HTTPSConnection("127.0.0.1", az.port, timeout=60, context=_context(az))
        yield az, connection
        connection.close()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_request_upsets_the_server(
    data: st.DataObject, attacked: tuple[AzureEmulator, http.client.HTTPSConnection]
) -> None:
    az, connection = attacked
    operation = data.draw(st.sampled_from(OPERATIONS))
    segments = [
        data.draw(st.sampled_from(NAMES))
        if part == "{name}"
        else data.draw(st.sampled_from(["0" * 32, "x", "versions"]))
        if part == "{version}"
        else part
        for part in operation.path
    ]
    wild = data.draw(st.booleans())
    fields = {name: value | JSON_VALUES if wild else value for name, value in FIELDS.items()}
    body = data.draw(st.fixed_dictionaries(EMPTY, optional=fields))
    api = data.draw(st.sampled_from(API_VERSIONS))
    host = data.draw(st.sampled_from(["attacked.vault.azure.net", "attacked.managedhsm.azure.net"]))
    resource = "https://vault.azure.net" if ".vault." in host else "https://managedhsm.azure.net"
    az.clock.advance(timedelta(days=data.draw(st.integers(0, 40))))
    connection.request(
        operation.method,
        f"/{'/'.join(segments)}?api-version={api}",
        json.dumps(body).encode(),
        {"Host": host, "Authorization": f"Bearer {az.token(resource=resource)}"},
    )
    reply = connection.getresponse()
    text = reply.read()
    assert reply.status < 500
    if reply.status >= 400:
        error = json.loads(text)["error"]
        assert error.keys() <= {"code", "message", "innererror"}
        assert error["code"]
        assert error["message"]


@settings(max_examples=100, deadline=None)
@given(
    path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
    method=st.text("GETPUOSD", min_size=1, max_size=6),
)
def test_no_request_line_upsets_the_server(
    path: str, method: str, attacked: tuple[AzureEmulator, http.client.HTTPSConnection]
) -> None:
    az, _ = attacked
    status, _, _ = raw(az, method, f"/{path}")
    assert status != 500


# --- threads


def test_threads_use_and_change_one_key(own: AzureEmulator) -> None:
    client = own.client()
    key = client.create_rsa_key("k", size=2048)
    sealed = ask(client, "POST", f"{key.id}/encrypt", {"alg": "RSA-OAEP-256", "value": encode(b"text")})
    body = {"alg": "RSA-OAEP-256", "value": sealed["value"]}

    def work(number: int) -> bytes:
        mine = own.client()
        mine.rotate_key("k")
        mine.update_key_properties("k", tags={"n": str(number)})
        mine.create_ec_key(f"other-{number}")
        list(mine.list_properties_of_keys())
        return decode(ask(mine, "POST", f"{key.id}/decrypt", body), "value")

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(24))) == {b"text"}
    assert versions_of(client, "k") == 25
    assert len(list(client.list_properties_of_keys())) == 25


def test_one_delete_wins(own: AzureEmulator) -> None:
    own.client().create_ec_key("k")

    def delete(_: int) -> int:
        return call(own.client(), "DELETE", "/keys/k")[0]

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(delete, range(8))) == [200] + [404] * 7


def test_a_nonce_is_given_once(own: AzureEmulator) -> None:
    key = own.client().create_ec_key("k")
    body = {"alg": "ES256", "value": encode(bytes(32))}
    own.give_nonce("P-256", 12345)

    def sign(_: int) -> str:
        return cast("str", ask(own.client(), "POST", f"{key.id}/sign", body)["value"])

    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(sign, range(16)))
    assert len(set(signatures)) == 16
    point = ec.derive_private_key(12345, ec.SECP256R1()).public_key().public_numbers()
    assert sum(decode({"v": value}, "v")[:32] == point.x.to_bytes(32, "big") for value in signatures) == 1


def test_signatures_are_raw_and_many_have_a_short_half(own: AzureEmulator) -> None:
    client = own.client()
    key = client.create_ec_key("k")
    public = ec_public(ask(client, "GET", key.id)["key"])
    widths: set[int] = set()
    for count in range(300):
        digest = hashlib.sha256(str(count).encode()).digest()
        signed = ask(client, "POST", f"{key.id}/sign", {"alg": "ES256", "value": encode(digest)})
        raw_signature = decode(signed, "value")
        widths.add(len(raw_signature))
        r, s = (int.from_bytes(raw_signature[at : at + 32], "big") for at in (0, 32))
        public.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    assert widths == {64}
    with pytest.raises(InvalidSignature):
        public.verify(utils.encode_dss_signature(1, 1), b"", ec.ECDSA(hashes.SHA256()))


def test_a_fault_for_an_operation_that_does_not_exist_is_refused(own: AzureEmulator) -> None:
    with pytest.raises(ValueError, match="unwrapkey"):
        own.faults.add("unwrapkey")
    own.faults.add("unwrapKey")
