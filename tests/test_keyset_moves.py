"""A keyset that begins in AWS KMS and moves on, all played by emulators; and what a console can do to it there."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from anykms import Key, KeyConf, Keyset, KMSClient, Ledger, RetryPolicy, TrustRoot, connect, errors, inspect
from anykms.keys import ConnectionURI
from anykms_aws import AWSProvider, client_config
from anykms_azure import AzureProvider
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator
from anykms_gcp import GCPProvider


@pytest.fixture
def kms() -> Iterator[Any]:
    """The SDK's own client: the application's connection, and a console."""
    with AWSEmulator() as emulator:
        made = importlib.import_module("boto3").client(
            "kms", config=client_config(5.0), **emulator.client_kwargs()
        )
        with closing(made):
            yield made


@pytest.fixture
def retry() -> RetryPolicy:
    """Waits that take no time."""
    waited = [0.0]

    def sleep(seconds: float) -> None:
        waited[0] += seconds

    return RetryPolicy(sleep=sleep, clock=lambda: waited[0])


@pytest.fixture
def aws(kms: Any, retry: RetryPolicy) -> KMSClient:
    uri = ConnectionURI.parse("awskms:///")
    return KMSClient(AWSProvider.connect(uri, client=kms, allow_insecure_endpoint=True), retry=retry)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[KMSClient]:
    with connect(f"local://{tmp_path}/keys.db", create=True) as client:
        yield client


@pytest.fixture(params=["azurekms", "gcpkms", "local"])
def elsewhere(request: pytest.FixtureRequest, local: KMSClient, retry: RetryPolicy) -> Iterator[KMSClient]:
    """Where the keyset moves to."""
    if request.param == "local":
        yield local
    elif request.param == "gcpkms":
        with GCPEmulator() as gcp:
            uri = ConnectionURI.parse(gcp.uri)
            with KMSClient(GCPProvider.connect(uri, **gcp.options, clock=gcp.clock.now), retry=retry) as made:
                yield made
    else:
        with AzureEmulator() as vault:
            uri = ConnectionURI.parse(vault.uri)
            azure = AzureProvider.connect(uri, clock=vault.clock.now, **vault.options)
            with KMSClient(azure, retry=retry) as made:
                yield made


@pytest.fixture
def admin(local: KMSClient) -> Key:
    return local.key(local.generate_key(KeyConf("admin", "SIGN_VERIFY", algorithm="ES256")))


@pytest.fixture
def root(admin: Key, tmp_path: Path) -> TrustRoot:
    return TrustRoot([admin.public_key()], ledger=Ledger(tmp_path / "ledger.db"))


def generate(client: KMSClient, name: str, purpose: str, algorithm: str | None = None) -> Key:
    return client.key(client.generate_key(KeyConf(name, purpose, algorithm=algorithm)))


def test_messages_outlive_a_move_to_another_provider(
    aws: KMSClient, elsewhere: KMSClient, admin: Key, root: TrustRoot, tmp_path: Path
) -> None:
    path, clients = tmp_path / "orders.keyset", [aws, elsewhere]
    keyset = Keyset.create("orders", generate(aws, "orders-1", "ENCRYPT_DECRYPT"))
    keyset = keyset.save(path, root, signers=[admin])

    def application(message: bytes | None) -> bytes:
        """What runs, unchanged, before and after."""
        ring = Keyset.load(path, root, name="orders").keyring(clients)
        if message is not None:
            assert ring.decrypt(message, context={"tenant": "42"}) == b"paid"
        return ring.encrypt(b"paid", context={"tenant": "42"})

    first = application(None)
    successor = generate(elsewhere, "orders-2", "ENCRYPT_DECRYPT")
    keyset.succeed(successor).save(path, root, signers=[admin])
    second = application(first)
    assert application(second)
    assert [recipient.uri.scheme for recipient in inspect(second).recipients] == [elsewhere.provider]
    assert Keyset.load(path, root, name="orders").check(clients) == []


def test_signatures_outlive_a_move_to_another_provider(
    aws: KMSClient, elsewhere: KMSClient, admin: Key, root: TrustRoot, tmp_path: Path
) -> None:
    path, clients = tmp_path / "releases.keyset", [aws, elsewhere]
    keyset = Keyset.create("releases", generate(aws, "releases-1", "SIGN_VERIFY", "PS256"))
    old = keyset.save(path, root, signers=[admin]).signer(clients).sign(b"v1")
    keyset = Keyset.load(path, root, name="releases")
    successor = generate(elsewhere, "releases-2", "SIGN_VERIFY", "ES384")
    keyset.succeed(successor).save(path, root, signers=[admin])
    moved = Keyset.load(path, root, name="releases")
    new = moved.signer(clients).sign(b"v2")
    verifier = moved.verifier()
    assert verifier.verify(b"v1", old).provider == "awskms"
    assert verifier.verify(b"v2", new).provider == elsewhere.provider
    assert {key["alg"] for key in moved.jwks()["keys"]} == {"PS256", "ES384"}


def certificate(issuer: str, subject: str, key: CertificatePublicKeyTypes, signer: Key) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime(2026, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(name(issuer))
        .subject_name(name(subject))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=90))
    )
    private = signer.as_private_key()
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return builder.sign(private, SHA256())


def test_certificates_of_both_periods_chain(aws: KMSClient, elsewhere: KMSClient) -> None:
    leaf = ec.generate_private_key(ec.SECP256R1()).public_key()
    clients = [aws, elsewhere]
    keyset = Keyset.create("issuers", generate(aws, "issuer-1", "SIGN_VERIFY", "ES256"))
    chains: list[tuple[x509.Certificate, x509.Certificate]] = []
    for number in (1, 2):
        signer = keyset.signer(clients)
        own = signer.as_private_key().public_key()
        assert isinstance(own, ec.EllipticCurvePublicKey)
        authority = certificate(f"ca-{number}", f"ca-{number}", own, signer)
        chains.append((authority, certificate(f"ca-{number}", "leaf", leaf, signer)))
        if number == 1:
            keyset = keyset.succeed(generate(elsewhere, "issuer-2", "SIGN_VERIFY", "ES256"))
    used: list[str] = []
    for authority, issued in chains:
        issued.verify_directly_issued_by(authority)
        used.append(keyset.verifier().verify(issued.tbs_certificate_bytes, issued.signature).provider)
    assert used == ["awskms", elsewhere.provider]


class Application:
    """A live application: made once, with connections to both clouds, and told the paths of its keysets.

    It names no key and no cloud, and nothing of it changes while it runs.
    """

    def __init__(self, folder: Path, root: TrustRoot, clients: list[KMSClient]) -> None:
        self._folder = folder
        self._root = root
        self._clients = clients

    def _keyset(self, name: str) -> Keyset:
        return Keyset.load(self._folder / f"{name}.keyset", self._root, name=name)

    def store(self, value: bytes) -> bytes:
        return self._keyset("orders").keyring(self._clients).encrypt(value, context={"tenant": "42"})

    def fetch(self, message: bytes) -> bytes:
        return self._keyset("orders").keyring(self._clients).decrypt(message, context={"tenant": "42"})

    def sign(self, message: bytes) -> bytes:
        return self._keyset("releases").signer(self._clients).sign(message)

    def verify(self, message: bytes, signature: bytes) -> str:
        return self._keyset("releases").verifier().verify(message, signature).provider

    def issue(self, subject: str) -> tuple[x509.Certificate, x509.Certificate]:
        """A certificate of the authority's own, and one that it issues."""
        signer = self._keyset("issuers").signer(self._clients)
        own: Any = signer.as_private_key().public_key()
        leaf = ec.generate_private_key(ec.SECP256R1()).public_key()
        return certificate("ca", "ca", own, signer), certificate("ca", subject, leaf, signer)

    def issuer(self, issued: x509.Certificate) -> str:
        found = self._keyset("issuers").verifier().verify(issued.tbs_certificate_bytes, issued.signature)
        return found.provider


KINDS = {
    "orders": ("ENCRYPT_DECRYPT", None),
    "releases": ("SIGN_VERIFY", "PS256"),
    "issuers": ("SIGN_VERIFY", "ES256"),
}


def test_a_live_application_moves_by_an_edit_of_its_keysets_alone(
    aws: KMSClient, elsewhere: KMSClient, admin: Key, root: TrustRoot, tmp_path: Path
) -> None:
    for name, kind in KINDS.items():
        keyset = Keyset.create(name, generate(aws, f"{name}-1", *kind))
        keyset.save(tmp_path / f"{name}.keyset", root, signers=[admin])
    application = Application(tmp_path, root, [aws, elsewhere])
    old_message, old_signature = application.store(b"paid"), application.sign(b"v1")
    old_chain = application.issue("before")

    for name, kind in KINDS.items():
        path = tmp_path / f"{name}.keyset"
        successor = generate(elsewhere, f"{name}-2", *kind)
        Keyset.load(path, root, name=name).succeed(successor).save(path, root, signers=[admin])

    new_message, new_signature = application.store(b"sent"), application.sign(b"v2")
    new_chain = application.issue("after")
    assert [r.uri.scheme for r in inspect(new_message).recipients] == [elsewhere.provider]
    assert (application.fetch(old_message), application.fetch(new_message)) == (b"paid", b"sent")
    assert application.verify(b"v1", old_signature) == "awskms"
    assert application.verify(b"v2", new_signature) == elsewhere.provider
    with pytest.raises(errors.InvalidSignatureError):
        application.verify(b"v2", old_signature)
    for authority, issued in (old_chain, new_chain):
        issued.verify_directly_issued_by(authority)
    assert [application.issuer(issued) for _, issued in (old_chain, new_chain)] == [
        "awskms",
        elsewhere.provider,
    ]


def test_an_alias_moved_in_the_console_is_found_and_changes_nothing(aws: KMSClient, kms: Any) -> None:
    keyset = Keyset.create("orders", generate(aws, "orders-1", "ENCRYPT_DECRYPT"))
    message = keyset.keyring([aws]).encrypt(b"paid", context={})
    stolen = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.update_alias(AliasName="alias/anykms/orders-1", TargetKeyId=stolen)
    (drift,) = keyset.check([aws])
    assert (drift.key, drift.stricter) == (keyset.primary, "keyset")
    assert keyset.keyring([aws]).decrypt(message, context={}) == b"paid"


@pytest.mark.parametrize("tag", ["algorithm", "conf"])
def test_tags_edited_in_the_console_are_found(aws: KMSClient, kms: Any, tag: str) -> None:
    keyset = Keyset.create("releases", generate(aws, "releases-1", "SIGN_VERIFY", "PS256"))
    arn = str(keyset.primary).removeprefix("awskms:///")
    kms.tag_resource(KeyId=arn, Tags=[{"TagKey": f"anykms:{tag}", "TagValue": "RS256"}])
    drifts = keyset.check([aws])
    assert [drift.stricter for drift in drifts] == ["keyset"]


def test_a_key_disabled_in_the_console_is_found_and_stops_the_application(aws: KMSClient, kms: Any) -> None:
    keyset = Keyset.create("orders", generate(aws, "orders-1", "ENCRYPT_DECRYPT"))
    ring = keyset.keyring([aws])
    kms.disable_key(KeyId=str(keyset.primary).removeprefix("awskms:///"))
    assert [drift.found for drift in keyset.check([aws])] == ["DISABLED"]
    with pytest.raises(errors.KeyDisabledError):
        ring.encrypt(b"paid", context={})
