"""Where the AWS provider connects, as whom, and what it refuses to connect to."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import anykms
from anykms.client import KMSClient
from anykms.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    UnauthenticatedError,
    UnavailableError,
)
from anykms.keys import ConnectionURI
from anykms.retrying import RetryPolicy
from anykms_aws import AWSProvider
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.loopback import HttpRequest, LoopbackServer, Reply

KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "not-a-secret"}
REGION = "awskms:///?region=eu-west-1"


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own AWS configuration, and no instance metadata."""
    for name in (
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_KMS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def connect(uri: str, **options: Any) -> AWSProvider:
    return AWSProvider.connect(ConnectionURI.parse(uri), **options)


class TestOptions:
    def test_an_unknown_option_names_the_known_ones(self) -> None:
        with pytest.raises(InvalidArgumentError, match=r"verify.*region, profile, endpoint_url"):
            connect(REGION + "&verify=false")

    def test_secrets_in_the_uri_are_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="unknown option") as refused:
            connect(REGION + "&aws_secret_access_key=hunter2")
        assert "hunter2" not in str(refused.value)

    def test_a_region_is_needed(self) -> None:
        with pytest.raises(InvalidArgumentError, match="region"):
            connect("awskms:///")

    def test_the_region_may_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
        assert repr(connect("awskms:///")) == "<AWSProvider eu-north-1>"

    def test_an_unknown_profile(self) -> None:
        with pytest.raises(InvalidArgumentError):
            connect(REGION + "&profile=nobody")

    def test_the_profile_brings_region_and_endpoint(
        self, aws: AWSEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "config").write_text(
            f"[profile emulated]\nregion = {aws.region}\nendpoint_url = {aws.endpoint_url}\n"
            f"aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = x\n"
        )
        provider = connect("awskms:///?profile=emulated", allow_insecure_endpoint=True)
        assert list(provider.list_keys()) == []
        assert aws.requests.operations == ["ListAliases"]
        provider.close()

    @pytest.mark.parametrize(
        "credentials",
        [
            {"aws_access_key_id": "a"},
            {**KEYS, "profile_name": "x"},
            {**KEYS, "aws_session_token": ""},
        ],
    )
    def test_odd_credentials(self, credentials: dict[str, str]) -> None:
        with pytest.raises(InvalidArgumentError, match="credentials"):
            connect(REGION, credentials=credentials)

    def test_a_profile_and_credentials_exclude_each_other(self) -> None:
        with pytest.raises(InvalidArgumentError, match="either"):
            connect(REGION + "&profile=x", credentials=KEYS)

    @pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
    def test_odd_timeouts(self, timeout: float) -> None:
        with pytest.raises(InvalidArgumentError, match="timeout"):
            connect(REGION, timeout=timeout)

    def test_a_timeout_is_a_number(self) -> None:
        with pytest.raises(TypeError, match="timeout"):
            connect(REGION, timeout="5")

    def test_nothing_is_sent_and_no_credentials_are_looked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **options: object) -> NoReturn:
            raise AssertionError("a socket was opened")

        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)
        provider = connect(REGION)
        assert provider.capabilities
        provider.close()

    def test_no_credentials(self) -> None:
        provider = connect(REGION)
        with pytest.raises(UnauthenticatedError):
            provider.get_key("orders")
        provider.close()

    def test_threads_share_one_client(self, aws: AWSEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
        provider = connect(aws.uri, **aws.options)
        made: list[object] = []
        real = provider._aws._make  # pyright: ignore[reportPrivateUsage] # counts the clients made

        def count() -> Any:
            made.append(None)
            return real()

        monkeypatch.setattr(provider._aws, "_make", count)  # pyright: ignore[reportPrivateUsage] # likewise
        with ThreadPoolExecutor(8) as pool:
            listings = [pool.submit(lambda: list(provider.list_keys())) for _ in range(32)]
            assert [listing.result() for listing in listings] == [[]] * 32
        assert len(made) == 1
        assert len(aws.requests) == 32
        provider.close()
        provider.close()

    def test_through_the_entry_point(self, aws: AWSEmulator) -> None:
        with anykms.connect(aws.uri, **aws.options) as client:
            assert client.provider == "awskms"
            assert list(client.list_keys()) == []


class TestEndpoints:
    @pytest.mark.parametrize(
        "endpoint",
        [
            "http://kms.example.com",
            "http://10.0.0.1:8080",
            "http://127.0.0.1.example.com",
            "http://localhost.example.com",
            "http://0.0.0.0:4566",
        ],
    )
    def test_http_only_to_this_machine(self, endpoint: str) -> None:
        with pytest.raises(InvalidArgumentError, match="on this machine"):
            connect(f"{REGION}&endpoint_url={endpoint}", allow_insecure_endpoint=True, credentials=KEYS)

    @pytest.mark.parametrize(
        "endpoint", ["http://127.0.0.1:4566", "http://localhost:4566", "http://[::1]:4566"]
    )
    def test_http_only_when_allowed(self, endpoint: str) -> None:
        with pytest.raises(InvalidArgumentError, match="allow_insecure_endpoint"):
            connect(f"{REGION}&endpoint_url={endpoint}", credentials=KEYS)
        connect(f"{REGION}&endpoint_url={endpoint}", allow_insecure_endpoint=True, credentials=KEYS).close()

    @pytest.mark.parametrize(
        "endpoint",
        [
            "ftp://127.0.0.1",
            "https://",
            "127.0.0.1:4566",
            "https://user:secret@kms.example.com",
            "https://kms.example.com/path",
            "https://kms.example.com:0",
            "https://kms.example.com:99999",
            "https://kms.example.com/%3Fa=b",
            "https://[half",
        ],
    )
    def test_odd_endpoints(self, endpoint: str) -> None:
        with pytest.raises(InvalidArgumentError, match="endpoint_url") as refused:
            connect(f"{REGION}&endpoint_url={endpoint}", allow_insecure_endpoint=True, credentials=KEYS)
        assert "secret" not in str(refused.value)

    def test_an_endpoint_of_the_environment_keeps_the_same_rules(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example.com")
        provider = connect(REGION, allow_insecure_endpoint=True, credentials=KEYS)
        with pytest.raises(InvalidArgumentError, match="on this machine"):
            provider.get_key("orders")

    def test_nobody_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            provider = connect(
                f"{REGION}&endpoint_url=http://127.0.0.1:{taken.getsockname()[1]}",
                allow_insecure_endpoint=True,
                credentials=KEYS,
            )
            with pytest.raises(UnavailableError):
                provider.get_key("orders")
            provider.close()

    def test_nobody_answers(self, aws: AWSEmulator) -> None:
        aws.faults.add("DescribeKey", kind="delay", delay=0.6)
        provider = connect(aws.uri, timeout=0.1, **aws.options)
        with pytest.raises(DeadlineExceededError):
            provider.get_key("orders")
        provider.close()


class TestInjectedClient:
    def test_it_is_used_and_stays_open(self, kms: Any) -> None:
        provider = connect("awskms:///", client=kms, allow_insecure_endpoint=True)
        assert list(provider.list_keys()) == []
        provider.close()
        assert kms.list_keys()["Keys"] == []

    def test_one_that_repeats_creations_is_refused(self, aws: AWSEmulator) -> None:
        sdk: Any = aws.client()
        with pytest.raises(InvalidArgumentError, match="client_config"):
            connect("awskms:///", client=sdk, allow_insecure_endpoint=True)
        sdk.close()

    def test_its_endpoint_keeps_the_same_rules(self, kms: Any) -> None:
        with pytest.raises(InvalidArgumentError, match="allow_insecure_endpoint"):
            connect("awskms:///", client=kms)

    def test_it_excludes_options(self, kms: Any) -> None:
        with pytest.raises(InvalidArgumentError, match="brings its own"):
            connect(REGION, client=kms, allow_insecure_endpoint=True)
        with pytest.raises(InvalidArgumentError, match="brings its own"):
            connect("awskms:///", client=kms, credentials=KEYS, allow_insecure_endpoint=True)


class TestTLS:
    """MongoDB CVE-2021-20328: a KMS client that did not check the host name."""

    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[Callable[..., LoopbackServer]]:
        servers: list[LoopbackServer] = []

        def start(*names: x509.GeneralName) -> LoopbackServer:
            server = LoopbackServer(_answer, tls=_certified(tmp_path, names))
            server.start()
            servers.append(server)
            return server

        yield start
        for server in servers:
            server.stop()

    def test_the_right_name_under_a_trusted_root(
        self, served: Callable[..., LoopbackServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        server = served(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "root.pem"))
        assert _list(server) == []

    def test_another_name_under_a_trusted_root(
        self, served: Callable[..., LoopbackServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        server = served(x509.DNSName("kms.eu-west-1.amazonaws.com"))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "root.pem"))
        with pytest.raises(UnavailableError, match="certificate"):
            _list(server)

    def test_an_untrusted_root(self, served: Callable[..., LoopbackServer]) -> None:
        server = served(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        with pytest.raises(UnavailableError, match="certificate"):
            _list(server)


def _list(server: LoopbackServer) -> list[Any]:
    provider = connect(f"{REGION}&endpoint_url=https://127.0.0.1:{server.port}", credentials=KEYS)
    with KMSClient(provider, retry=RetryPolicy(max_attempts=1)) as client:
        return list(client.list_keys())


def _answer(request: HttpRequest) -> Reply:
    return Reply(200, json.dumps({"Aliases": [], "Truncated": False}).encode())


def _certified(folder: Path, names: tuple[x509.GeneralName, ...]) -> ssl.SSLContext:
    """A server context for ``names``, under a root that is written to ``root.pem``."""
    now = datetime.datetime.now(datetime.UTC)

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def builder(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = (
        builder("root", root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        builder("leaf", key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    (folder / "root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    chain = folder / "leaf.pem"
    chain.write_bytes(
        leaf.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context
