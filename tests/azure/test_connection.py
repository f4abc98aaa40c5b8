"""Connecting to Key Vault: explicit, without I/O, with the SDK's own TLS and challenge checks, never twice."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import RequestsTransport

import anykms
import anykms_azure
from anykms import KeyConf, KeyPurpose, KMSClient, ProtectionLevel, RetryPolicy, errors
from anykms.algorithms import Algorithm
from anykms.keys import ConnectionURI
from anykms.provider import Capability, Operation
from anykms_azure import AzureProvider
from anykms_emulators.azure import AzureEmulator

VAULT = "azurekms://my-vault.vault.azure.net"
HSM = "azurekms://my-hsm.managedhsm.azure.net"
SIGNING = KeyConf("releases", KeyPurpose.SIGN_VERIFY, algorithm="ES256")


def connect(uri: str, **options: Any) -> AzureProvider:
    return AzureProvider.connect(ConnectionURI.parse(uri), **options)


def sources() -> list[ast.Module]:
    folder = Path(anykms_azure.__file__).parent
    return [ast.parse(path.read_text()) for path in sorted(folder.glob("*.py"))]


class TestOptions:
    def test_the_scheme_leads_here_and_nothing_is_sent(self, az: AzureEmulator) -> None:
        with anykms.connect(az.uri, **az.options) as client:
            assert client.provider == "azurekms"
            assert az.requests.operations == []
            assert len(az.challenges) == 0
            client.generate_key(SIGNING)
        assert repr(connect(VAULT)) == "<AzureProvider my-vault.vault.azure.net>"

    @pytest.mark.parametrize("option", ["verify=false", "client_secret=hunter2"])
    def test_an_unknown_option_names_the_known_ones(self, option: str) -> None:
        with pytest.raises(errors.InvalidArgumentError, match=r"unknown option.*known: sku") as refused:
            connect(f"{VAULT}?{option}")
        assert "hunter2" not in str(refused.value)

    @pytest.mark.parametrize("uri", [VAULT + "?sku=gold", VAULT + "?sku=hsm", HSM + "?sku=premium"])
    def test_a_sku_that_the_host_cannot_have(self, uri: str) -> None:
        with pytest.raises(errors.InvalidArgumentError, match="sku"):
            connect(uri)

    @pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
    def test_a_timeout_is_positive(self, timeout: float) -> None:
        with pytest.raises(errors.InvalidArgumentError, match="timeout"):
            connect(VAULT, timeout=timeout)
        with pytest.raises(TypeError):
            connect(VAULT, timeout="5")

    def test_a_key_client_brings_everything(self, az: AzureEmulator) -> None:
        keys = az.key_client("other-vault")
        with pytest.raises(errors.InvalidArgumentError, match="key_client"):
            connect(VAULT, key_client=keys)
        for more in ({"credential": az.credential()}, {"transport": az.transport()}):
            with pytest.raises(errors.InvalidArgumentError, match="key_client"):
                connect("azurekms://other-vault.vault.azure.net", key_client=keys, **more)


class TestCapabilities:
    @pytest.mark.parametrize(
        ("uri", "levels", "symmetric"),
        [
            (VAULT, {ProtectionLevel.SOFTWARE}, False),
            (VAULT + "?sku=premium", {ProtectionLevel.SOFTWARE, ProtectionLevel.HSM}, True),
            (HSM, {ProtectionLevel.HSM}, True),
        ],
    )
    def test_each_sku_has_its_own(self, uri: str, levels: set[ProtectionLevel], symmetric: bool) -> None:
        found = connect(uri).capabilities
        made = [c for c in found if c.operation is Operation.GENERATE_KEY]
        assert {c.protection_level for c in made} == levels
        assert (Capability(Operation.WRAP, Algorithm.A256GCM) in found) is symmetric
        assert {c.protection_level for c in made if c.algorithm is Algorithm.A256GCM} <= {ProtectionLevel.HSM}
        absent = {Algorithm.ED25519, Algorithm.ML_DSA_65, Algorithm.HS256}
        assert not absent & {c.algorithm for c in found}

    def test_premium_keys_are_in_an_hsm_unless_software_is_asked_for(
        self, connect_elsewhere: Callable[..., KMSClient]
    ) -> None:
        with AzureEmulator(sku="premium") as az, connect_elsewhere(az) as client:
            wrapping = client.generate_key(KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT))
            assert (wrapping.algorithm, wrapping.protection_level) == (Algorithm.A256GCM, ProtectionLevel.HSM)
            key = client.key(wrapping)
            assert key.unwrap(key.wrap(bytes(32), context={}), context={}) == bytes(32)
            assert client.generate_key(SIGNING).protection_level is ProtectionLevel.HSM
            soft = KeyConf(
                "soft", KeyPurpose.ENCRYPT_DECRYPT, algorithm="RSA-OAEP-256", protection_level="SOFTWARE"
            )
            info = client.generate_key(soft)
            assert info.protection_level is ProtectionLevel.SOFTWARE
            assert info.sender_fingerprint is not None
            with pytest.raises(errors.UnsupportedOperationError):
                client.generate_key(
                    KeyConf("no", KeyPurpose.ENCRYPT_DECRYPT, protection_level=ProtectionLevel.SOFTWARE)
                )


class TestTrust:
    def test_a_server_with_another_name_is_refused(self) -> None:
        with AzureEmulator(certificate_names=["kms.example.com"]) as az:
            client = KMSClient(connect(az.uri, **az.options), retry=RetryPolicy(max_attempts=1))
            with pytest.raises(errors.UnavailableError):
                client.get_key("orders")
            assert len(az.requests) == len(az.challenges) == 0

    def test_a_server_with_an_unknown_certificate_is_refused(self, az: AzureEmulator) -> None:
        transport = az.transport()
        transport.session.verify = True
        with AzureEmulator() as other:
            options = {
                "credential": az.credential(),
                "transport": RequestsTransport(
                    session=transport.session,
                    session_owner=False,
                    connection_verify=other.ca_file,
                    use_env_settings=False,
                ),
            }
            client = KMSClient(connect(az.uri, **options), retry=RetryPolicy(max_attempts=1))
            with pytest.raises(errors.UnavailableError):
                client.get_key("orders")
        assert len(az.requests) == 0

    def test_a_challenge_for_another_service_gets_no_token(self, az: AzureEmulator) -> None:
        asked: list[str] = []

        class Credential:
            def get_token(self, *scopes: str, **_: Any) -> Any:
                asked.extend(scopes)
                raise AssertionError

        client = KMSClient(
            connect("azurekms://localhost", credential=Credential(), transport=az.transport()),
            retry=RetryPolicy(max_attempts=1),
        )
        with pytest.raises(errors.UnauthenticatedError):
            client.get_key("orders")
        assert asked == []

    def test_without_credentials(self, az: AzureEmulator) -> None:
        class Nobody:
            def get_token(self, *scopes: str, **_: Any) -> Any:
                raise ClientAuthenticationError("no token")

        client = KMSClient(connect(az.uri, credential=Nobody(), transport=az.transport()))
        with pytest.raises(errors.UnauthenticatedError):
            client.get_key("orders")

    def test_no_local_cryptography_and_no_way_to_switch_checks_off(self) -> None:
        """The SDK's CryptographyClient encrypts, wraps and verifies locally, under disabled keys too."""
        forbidden = {
            "CryptographyClient",
            "get_cryptography_client",
            "verify_challenge_resource",
            "connection_verify",
            "verify",
        }
        seen = 0
        for tree in sources():
            for node in ast.walk(tree):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    seen += 1
                    modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                    assert not any("keyvault.keys.crypto" in module for module in modules)
                    assert not forbidden & set(modules)
                if isinstance(node, ast.Attribute):
                    assert node.attr not in forbidden
                if isinstance(node, ast.keyword):
                    assert node.arg not in forbidden
        assert seen > 20


class TestAttempts:
    def test_an_injected_client_repeats_nothing_and_stays_open(
        self, az: AzureEmulator, connect: Callable[..., KMSClient]
    ) -> None:
        """Its own retries, ten by default, are off in every call."""
        keys = az.key_client(retry_total=10)
        client = connect(key_client=keys)
        info = client.generate_key(SIGNING)
        faults: list[dict[str, Any]] = [{"status": 503}, {"kind": "reset"}, {"kind": "throttle"}]
        for fault in faults:
            az.faults.add("GetKeyVersions", times=None, **fault)
            before = len(az.requests)
            with pytest.raises((errors.UnavailableError, errors.ThrottledError)):
                client.describe_key(info)
            assert len(az.requests) - before == 5
            az.faults.clear()
        client.close()
        client.close()
        assert keys.get_key("releases").name == "releases"

    def test_a_slow_answer_is_a_deadline(self, az: AzureEmulator) -> None:
        quick = connect(az.uri, timeout=0.2, **az.options)
        client = KMSClient(quick, retry=RetryPolicy(max_attempts=1))
        az.faults.add("GetKey", kind="delay", delay=1.0)
        with pytest.raises(errors.DeadlineExceededError):
            client.get_key("orders")

    def test_closing_leaves_an_injected_transport_open(self, az: AzureEmulator) -> None:
        options = dict(az.options)
        for _ in range(2):
            with KMSClient(connect(az.uri, **options)) as client, pytest.raises(errors.KeyNotFoundError):
                client.get_key("orders")
