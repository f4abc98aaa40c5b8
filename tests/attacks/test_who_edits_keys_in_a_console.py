"""Whoever can edit keys in a provider's console: every refusal says what was expected and what was found.

AWS KMS, Google Cloud KMS and Azure Key Vault are played by their emulators, and the console by their own SDKs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anykms import KeyConf, KeyInfo, Keyring, KMSClient, RetryPolicy, errors
from anykms.algorithms import Algorithm, KeyPurpose
from anykms.keys import ConnectionURI, ProtectionLevel
from anykms_aws import AWSProvider, client_config
from anykms_azure import AzureProvider
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator
from anykms_gcp import GCPProvider

ORDERS = KeyConf("orders", "ENCRYPT_DECRYPT")
RELEASES = KeyConf("releases", "SIGN_VERIFY", algorithm="PS256", key_size=2048)
WRONG = "0" * 64


def once() -> RetryPolicy:
    """One attempt, and waits that take no time."""
    waited = [0.0]

    def sleep(seconds: float) -> None:
        waited[0] += seconds

    return RetryPolicy(max_attempts=1, sleep=sleep, clock=lambda: waited[0])


def refused(
    act: Callable[[], object],
    expected: object,
    found: object,
    kind: type[errors.KMSError] = errors.IntegrityError,
) -> None:
    with pytest.raises(kind) as caught:
        act()
    text = str(caught.value)
    before, _, after = text.partition(", found ")
    assert f"expected {expected}" in before.replace("'", ""), text
    assert str(found) in after, text


@pytest.fixture
def aws() -> Iterator[AWSEmulator]:
    with AWSEmulator() as emulator:
        yield emulator


@pytest.fixture
def kms(aws: AWSEmulator) -> Iterator[Any]:
    made = importlib.import_module("boto3").client("kms", config=client_config(5.0), **aws.client_kwargs())
    with closing(made):
        yield made


@pytest.fixture
def aws_client(kms: Any) -> KMSClient:
    uri = ConnectionURI.parse("awskms:///")
    return KMSClient(AWSProvider.connect(uri, client=kms, allow_insecure_endpoint=True), retry=once())


@pytest.fixture
def gcp() -> Iterator[GCPEmulator]:
    with GCPEmulator() as emulator:
        yield emulator


@pytest.fixture
def gcp_client(gcp: GCPEmulator) -> Iterator[KMSClient]:
    provider = GCPProvider.connect(ConnectionURI.parse(gcp.uri), **gcp.options, clock=gcp.clock.now)
    with KMSClient(provider, retry=once()) as made:
        yield made


@pytest.fixture
def vault() -> Iterator[AzureEmulator]:
    with AzureEmulator() as emulator:
        yield emulator


@pytest.fixture
def azure_client(vault: AzureEmulator) -> Iterator[KMSClient]:
    provider = AzureProvider.connect(ConnectionURI.parse(vault.uri), **vault.options, clock=vault.clock.now)
    with KMSClient(provider, retry=once()) as made:
        yield made


@pytest.fixture(params=["aws", "gcp", "azure"])
def client(request: pytest.FixtureRequest) -> KMSClient:
    found: KMSClient = request.getfixturevalue(f"{request.param}_client")
    return found


def arn(info: KeyInfo) -> str:
    return str(info.uri).removeprefix("awskms:///")


def answers(client: KMSClient) -> Any:
    """The adapter's own connection, to be lied to."""
    provider: Any = client._session.provider  # pyright: ignore[reportPrivateUsage] # the seam under the client
    return provider


# On every provider

CHANGES: dict[str, dict[str, Any]] = {
    "a changed algorithm": {"algorithm": Algorithm.RS256},
    "another size": {"key_size": 4096},
    "another protection level": {"protection_level": ProtectionLevel.EXTERNAL},
    "a changed tag": {"tags": {"environment": "production"}},
    "a re-created key": {"created_at": datetime(2020, 1, 1, tzinfo=UTC)},
    "another conf": {"conf_digest": "a" * 52},
    "another public key": {"fingerprint": WRONG},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_fact_that_is_not_the_stored_one(client: KMSClient, change: dict[str, Any]) -> None:
    info = client.generate_key(RELEASES)
    client.confirm_key(info)
    ((name, value),) = change.items()
    wanted = value.isoformat(sep=" ") if isinstance(value, datetime) else value
    wanted = str(wanted).replace("'", "")
    found = str(getattr(info, name) if name != "tags" else {})
    if name == "algorithm" and info.provider == "gcpkms":
        found = "RSA_SIGN_PSS_2048_SHA256"  # its own name of PS256
    # Only the whole comparison reads every fact; a use reads those that it needs, below.
    with pytest.raises((errors.IntegrityError, errors.KeyDestroyedError)) as caught:
        client.confirm_key(replace(info, **change))
    text = str(caught.value).replace("'", "")
    assert "expected " in text, text
    assert wanted in text.partition(", found ")[0], text
    assert found in text.partition(", found ")[2], text


def test_another_public_key_than_the_pinned_one(client: KMSClient) -> None:
    info = client.generate_key(RELEASES)
    stored = replace(info, fingerprint=WRONG)
    key = client.key(stored)
    refused(key.public_key, f"fingerprint {WRONG}", info.fingerprint)
    refused(lambda: key.sign(b"v1"), f"fingerprint {WRONG}", info.fingerprint)
    refused(lambda: key.verify(b"v1", b"any"), f"fingerprint {WRONG}", info.fingerprint)


def test_another_purpose_and_kind_than_the_stored_one(client: KMSClient) -> None:
    info = client.generate_key(RELEASES)
    stored = replace(
        info,
        purpose=KeyPurpose.ASYMMETRIC_DECRYPT,
        algorithm=Algorithm.RSA_OAEP_256,
    )
    with pytest.raises(errors.IntegrityError) as caught:
        client.confirm_key(stored)
    text = str(caught.value)
    assert "RSA-OAEP-256" in text.partition(", found ")[0]


# AWS KMS


def test_aws_an_alias_that_was_moved(aws_client: KMSClient, kms: Any) -> None:
    orders, invoices = (
        aws_client.generate_key(ORDERS),
        aws_client.generate_key(replace(ORDERS, name="invoices")),
    )
    kms.update_alias(AliasName="alias/anykms/orders", TargetKeyId=arn(invoices))
    refused(lambda: aws_client.get_key("orders"), "orders", "'invoices'")
    stranger = kms.create_key()["KeyMetadata"]
    kms.update_alias(AliasName="alias/anykms/orders", TargetKeyId=stranger["Arn"])
    refused(lambda: aws_client.confirm_key(orders), orders.uri, "no key")
    # A use names the pinned key, whatever the alias leads to.
    assert aws_client.key(orders).wrap(bytes(32), context={})


@pytest.mark.parametrize(
    ("tag", "value"), [("algorithm", "RS256"), ("destroy-window", "7"), ("conf", "a" * 52), ("name", "other")]
)
def test_aws_an_edited_tag(aws_client: KMSClient, kms: Any, tag: str, value: str) -> None:
    info = aws_client.generate_key(RELEASES)
    before = {row["TagKey"]: row["TagValue"] for row in kms.list_resource_tags(KeyId=arn(info))["Tags"]}
    kms.tag_resource(KeyId=arn(info), Tags=[{"TagKey": f"anykms:{tag}", "TagValue": value}])
    refused(lambda: aws_client.schedule_destruction(info), before[f"anykms:{tag}"], value)
    assert aws_client.describe_key(info).destroy_at is None


@pytest.mark.parametrize("tag", ["algorithm", "destroy-window", "conf"])
def test_aws_a_removed_tag(aws_client: KMSClient, kms: Any, tag: str) -> None:
    info = aws_client.generate_key(RELEASES)
    kms.untag_resource(KeyId=arn(info), TagKeys=[f"anykms:{tag}"])
    refused(lambda: aws_client.get_key("releases"), "a", "nothing")


def test_aws_a_tag_of_another_kind_of_key(aws_client: KMSClient, kms: Any) -> None:
    info = aws_client.generate_key(RELEASES)
    kms.tag_resource(KeyId=arn(info), Tags=[{"TagKey": "anykms:algorithm", "TagValue": "ES256"}])
    refused(lambda: aws_client.get_key("releases"), "", "ES256")


def test_aws_an_edited_fingerprint(aws_client: KMSClient, kms: Any) -> None:
    info = aws_client.generate_key(RELEASES)
    kms.tag_resource(KeyId=arn(info), Tags=[{"TagKey": "anykms:fingerprint", "TagValue": WRONG}])
    refused(lambda: aws_client.get_key("releases"), WRONG, info.fingerprint)


def test_aws_a_key_of_another_kind(aws_client: KMSClient) -> None:
    info = aws_client.generate_key(ORDERS)
    stored = replace(info, purpose=KeyPurpose.MAC, algorithm=Algorithm.HS256)
    refused(
        lambda: aws_client.describe_key(stored),
        "HS256: HMAC_256 for GENERATE_VERIFY_MAC",
        "SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT",
    )


def test_aws_another_key_answers(aws_client: KMSClient, monkeypatch: pytest.MonkeyPatch) -> None:
    info, other = aws_client.generate_key(ORDERS), aws_client.generate_key(replace(ORDERS, name="invoices"))
    aws = answers(aws_client)._aws
    real = aws.ask

    def lie(method: str, **sent: Any) -> Any:
        return {**real(method, **sent), "KeyId": arn(other)}

    monkeypatch.setattr(aws, "ask", lie)
    refused(lambda: aws_client.key(info).wrap(bytes(32), context={}), arn(info), arn(other))


# Google Cloud KMS


def relabel(gcp: GCPEmulator, info: KeyInfo, labels: dict[str, str]) -> dict[str, str]:
    """Change labels as anyone with cloudkms.cryptoKeys.update can; what they were before."""
    name = info.uri.resource
    before = dict(gcp.client().get_crypto_key(name=name).labels)
    key = {"name": name, "labels": {**before, **labels}}
    gcp.client().update_crypto_key(crypto_key=key, update_mask={"paths": ["labels"]})
    return before


def test_gcp_an_edited_digest(gcp: GCPEmulator, gcp_client: KMSClient) -> None:
    info = gcp_client.generate_key(RELEASES)
    relabel(gcp, info, {"anykms-conf": "a" * 52})
    refused(lambda: gcp_client.confirm_key(info), info.conf_digest, "a" * 52)
    relabel(gcp, info, {"anykms-conf": "short"})
    refused(lambda: gcp_client.get_key("releases"), "a digest of 52 characters", "short")


def test_gcp_an_edited_fingerprint(gcp: GCPEmulator, gcp_client: KMSClient) -> None:
    info = gcp_client.generate_key(RELEASES)
    relabel(gcp, info, {"anykms-fingerprint": "a" * 52})
    refused(lambda: gcp_client.get_key("releases"), WRONG, info.fingerprint)


def test_gcp_a_second_version(gcp: GCPEmulator, gcp_client: KMSClient) -> None:
    info = gcp_client.generate_key(RELEASES)
    gcp.client().create_crypto_key_version(parent=info.uri.resource, crypto_key_version={})
    refused(lambda: gcp_client.get_key("releases"), "version 1 alone", "'1, 2'")
    refused(lambda: gcp_client.describe_key(info), "version 1 alone", "'1, 2'")


def test_gcp_a_key_of_another_kind(gcp_client: KMSClient) -> None:
    info = gcp_client.generate_key(RELEASES)
    stored = replace(info, algorithm=Algorithm.RS256)
    refused(
        lambda: gcp_client.describe_key(stored),
        "RS256: RSA_SIGN_PKCS1_2048_SHA256",
        "RSA_SIGN_PSS_2048_SHA256",
    )


def test_gcp_another_key_answers(gcp_client: KMSClient, monkeypatch: pytest.MonkeyPatch) -> None:
    info, other = gcp_client.generate_key(ORDERS), gcp_client.generate_key(replace(ORDERS, name="invoices"))
    gcp = answers(gcp_client)._gcp
    real = gcp.ask

    def lie(method: str, **sent: Any) -> Any:
        reply = real(method, **sent)
        if method in ("encrypt", "get_crypto_key"):
            reply.name = reply.name.replace("orders", "invoices")
        return reply

    monkeypatch.setattr(gcp, "ask", lie)
    names = info.uri.resource, other.uri.resource
    refused(lambda: gcp_client.key(info).wrap(bytes(32), context={}), *names)
    refused(lambda: gcp_client.describe_key(info), *names)


# Azure Key Vault


def retag(keys: Any, name: str, tags: dict[str, str]) -> dict[str, str]:
    before: dict[str, str] = dict(keys.get_key(name).properties.tags)
    keys.update_key_properties(name, tags={**before, **tags})
    return before


@pytest.mark.parametrize(("tag", "value"), [("algorithm", "PS256"), ("conf", "a" * 52), ("sender", WRONG)])
def test_azure_an_edited_tag(vault: AzureEmulator, azure_client: KMSClient, tag: str, value: str) -> None:
    info = azure_client.generate_key(ORDERS)
    before = retag(vault.key_client(), "orders", {f"anykms-{tag}": value})[f"anykms-{tag}"]
    refused(lambda: azure_client.describe_key(info), before, value)
    refused(lambda: azure_client.key(info).wrap(bytes(32), context={}), before, value)
    refused(lambda: azure_client.schedule_destruction(info), before, value)


def test_azure_a_tag_that_is_no_algorithm(vault: AzureEmulator, azure_client: KMSClient) -> None:
    azure_client.generate_key(RELEASES)
    retag(vault.key_client(), "releases", {"anykms-algorithm": "none"})
    refused(lambda: azure_client.get_key("releases"), "an algorithm", "none")


def test_azure_widened_key_ops(vault: AzureEmulator, azure_client: KMSClient) -> None:
    azure_client.generate_key(RELEASES)
    vault.key_client().update_key_properties("releases", key_operations=["sign", "verify", "decrypt"])
    refused(
        lambda: azure_client.get_key("releases"),
        "RSA with key_ops sign, verify",
        "RSA with key_ops decrypt, sign, verify",
    )


def test_azure_a_second_version(vault: AzureEmulator, azure_client: KMSClient) -> None:
    info = azure_client.generate_key(RELEASES)
    vault.key_client().rotate_key("releases")
    refused(lambda: azure_client.describe_key(info), f"version {info.uri.version} alone", info.uri.version)
    refused(lambda: azure_client.get_key("releases"), "one version", info.uri.version)


def purged(vault: AzureEmulator, name: str) -> Any:
    keys = vault.key_client()
    keys.begin_delete_key(name, _polling_interval=0).result()
    keys.purge_deleted_key(name)
    return keys


def test_azure_a_key_made_anew_under_the_same_name(vault: AzureEmulator, azure_client: KMSClient) -> None:
    info = azure_client.generate_key(RELEASES)
    tags = vault.key_client().get_key("releases").properties.tags
    vault.clock.advance(timedelta(seconds=5))
    keys = purged(vault, "releases")
    again = keys.create_rsa_key("releases", size=2048, tags=tags, key_operations=["sign", "verify"])
    for act in (
        lambda: azure_client.describe_key(info),
        lambda: azure_client.key(info).sign(b"v1"),
        lambda: azure_client.confirm_key(info),
    ):
        refused(act, f"version {info.uri.version}", again.properties.version, errors.KeyDestroyedError)


def test_azure_a_wrapping_key_made_anew_under_the_same_name(
    vault: AzureEmulator, azure_client: KMSClient
) -> None:
    info = azure_client.generate_key(ORDERS)
    tags = vault.key_client().get_key("orders").properties.tags
    vault.clock.advance(timedelta(seconds=5))
    keys = purged(vault, "orders")
    keys.create_rsa_key("orders", size=3072, tags=tags, key_operations=["wrapKey", "unwrapKey"])
    refused(
        lambda: azure_client.key(info).wrap(bytes(32), context={}),
        f"one made at {info.created_at}",
        "one made at",
        errors.KeyDestroyedError,
    )


@pytest.mark.parametrize("later", [0, 5])
def test_azure_an_exchanged_sender_key(vault: AzureEmulator, azure_client: KMSClient, later: int) -> None:
    info = azure_client.generate_key(ORDERS)
    sender = "orders--sender"
    tags = vault.key_client().get_key(sender).properties.tags
    vault.clock.set(info.created_at + timedelta(seconds=later))
    keys = purged(vault, sender)
    keys.create_ec_key(sender, curve="P-256", tags=tags, key_operations=["sign", "verify"])
    refused(lambda: azure_client.get_key("orders"), info.sender_fingerprint, "")
    ring = Keyring([azure_client.key(info)])
    if later:
        refused(
            lambda: ring.encrypt(b"m", context={}), "one made at", "one made at", errors.KeyDestroyedError
        )
    else:
        refused(lambda: ring.encrypt(b"m", context={}), info.sender_fingerprint, "")


def test_azure_another_key_answers(azure_client: KMSClient, monkeypatch: pytest.MonkeyPatch) -> None:
    info = azure_client.generate_key(RELEASES)
    azure = answers(azure_client)._azure
    real = azure.ask

    def lie(method: str, path: str, *rest: Any, **more: Any) -> Any:
        reply = real(method, path, *rest, **more)
        return {**reply, "kid": reply["kid"].replace("releases", "invoices")} if "/sign" in path else reply

    monkeypatch.setattr(azure, "ask", lie)
    refused(
        lambda: azure_client.key(info).sign(b"v1"),
        f"https://{azure.host}/keys/releases/{info.uri.version}",
        f"https://{azure.host}/keys/invoices/{info.uri.version}",
    )
