"""Finding keys on AWS: our own by name, other people's by whatever AWS calls them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.client import KMSClient
from anykms.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyPendingImportError,
    KeyStateError,
    KeyUsageError,
    PermissionDeniedError,
    QuotaExceededError,
    UnsupportedOperationError,
)
from anykms.keys import KeyConf, KeyInfo, KeyOrigin, KeyState, ProtectionLevel
from anykms_aws import facts
from anykms_aws.connection import Reply
from anykms_emulators.aws import AWSEmulator

Connect = Callable[[], KMSClient]

ORDERS = KeyConf("orders", "ENCRYPT_DECRYPT", tags={"team": "x"}, destroy_window=9)
RELEASES = KeyConf("releases", "SIGN_VERIFY", algorithm="RS256", key_size=2048)


def make(kms: Any, spec: str = "SYMMETRIC_DEFAULT", usage: str = "ENCRYPT_DECRYPT", **more: Any) -> Any:
    return Reply(kms.create_key(KeySpec=spec, KeyUsage=usage, **more)["KeyMetadata"])


def arn(info: KeyInfo) -> str:
    return str(info.uri).removeprefix("awskms:///")


def retag(kms: Any, info: KeyInfo, **tags: str) -> None:
    kms.tag_resource(
        KeyId=arn(info), Tags=[{"TagKey": f"anykms:{k}", "TagValue": v} for k, v in tags.items()]
    )


class TestForeignKeys:
    @pytest.mark.parametrize(
        "spelling",
        [
            "{KeyId}",
            "{Arn}",
            "awskms:///{Arn}",
            "aws-kms://{Arn}",
            "alias/existing",
            "arn:aws:kms:eu-west-1:111122223333:alias/existing",
        ],
    )
    def test_every_spelling(self, client: KMSClient, kms: Any, spelling: str) -> None:
        made = make(kms, Tags=[{"TagKey": "Owner", "TagValue": "x"}, {"TagKey": "team", "TagValue": "blue"}])
        kms.create_alias(AliasName="alias/existing", TargetKeyId=made["KeyId"])
        info = client.get_key(spelling.format(**made))
        assert info.name == made["KeyId"]
        assert str(info.uri) == f"awskms:///{made['Arn']}"
        assert (info.purpose, info.algorithm) == (KeyPurpose.ENCRYPT_DECRYPT, Algorithm.A256GCM)
        assert (info.conf_digest, info.destroy_window) == (None, None)
        assert info.tags == {"team": "blue"}
        key = client.key(info)
        assert key.unwrap(key.wrap(bytes(32), context={"a": "b"}), context={"a": "b"}) == bytes(32)

    @pytest.mark.parametrize(
        ("spec", "usage", "purpose", "algorithm", "size"),
        [
            ("RSA_2048", "SIGN_VERIFY", "SIGN_VERIFY", "PS256", 2048),
            ("RSA_2048", "ENCRYPT_DECRYPT", "ASYMMETRIC_DECRYPT", "RSA-OAEP-256", 2048),
            ("ECC_NIST_P384", "SIGN_VERIFY", "SIGN_VERIFY", "ES384", None),
            ("ECC_SECG_P256K1", "SIGN_VERIFY", "SIGN_VERIFY", "ES256K", None),
            ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY", "SIGN_VERIFY", "Ed25519", None),
            ("ML_DSA_65", "SIGN_VERIFY", "SIGN_VERIFY", "ML-DSA-65", None),
            ("HMAC_384", "GENERATE_VERIFY_MAC", "MAC", "HS384", None),
        ],
    )
    def test_every_kind(
        self,
        client: KMSClient,
        kms: Any,
        spec: str,
        usage: str,
        purpose: str,
        algorithm: str,
        size: int | None,
    ) -> None:
        info = client.get_key(make(kms, spec, usage)["Arn"])
        assert (info.purpose, info.algorithm, info.key_size) == (purpose, algorithm, size)
        key = client.key(info)
        if purpose == "MAC":
            key.verify_mac(b"m", key.mac(b"m"))
        elif purpose == "SIGN_VERIFY":
            key.verify(b"m", key.sign(b"m"))
        else:
            assert key.decrypt(key.public_key().encrypt(b"m")) == b"m"

    def test_an_rsa_key_with_the_callers_algorithm(self, client: KMSClient, kms: Any) -> None:
        """AWS lets an RSA signing key serve six algorithms; the caller's KeyInfo says which one."""
        info = replace(client.get_key(make(kms, "RSA_2048", "SIGN_VERIFY")["Arn"]), algorithm=Algorithm.RS256)
        key = client.key(info)
        assert key.public_key().algorithm is Algorithm.RS256
        key.verify(b"m", key.sign(b"m"))

    @pytest.mark.parametrize(
        ("spec", "usage"),
        [
            ("ECC_NIST_P256", "KEY_AGREEMENT"),
            ("ML_KEM_768", "ENCAPSULATE_DECAPSULATE"),
            ("HMAC_224", "GENERATE_VERIFY_MAC"),
        ],
    )
    def test_kinds_that_the_contract_lacks(self, client: KMSClient, kms: Any, spec: str, usage: str) -> None:
        with pytest.raises(UnsupportedOperationError, match=spec):
            client.get_key(make(kms, spec, usage)["Arn"])

    def test_imported_material(self, client: KMSClient, kms: Any) -> None:
        info = client.get_key(make(kms, Origin="EXTERNAL")["Arn"])
        assert (info.origin, info.protection_level) == (KeyOrigin.IMPORTED, ProtectionLevel.HSM)
        assert client.describe_key(info).state is KeyState.PENDING_IMPORT
        with pytest.raises(KeyPendingImportError):
            client.key(info).wrap(bytes(32), context={})
        with pytest.raises(KeyPendingImportError):
            client.enable_key(info)

    @pytest.mark.parametrize(
        ("origin", "expected"),
        [
            ("AWS_CLOUDHSM", (KeyOrigin.PROVIDER, ProtectionLevel.EXTERNAL)),
            ("EXTERNAL_KEY_STORE", (KeyOrigin.EXTERNAL, ProtectionLevel.EXTERNAL)),
            ("A_NEW_ONE", (KeyOrigin.UNKNOWN, ProtectionLevel.HSM)),
        ],
    )
    def test_custom_key_stores(
        self, kms: Any, origin: str, expected: tuple[KeyOrigin, ProtectionLevel]
    ) -> None:
        """The emulated account has none, so the answer is changed on its way."""
        metadata = make(kms)
        metadata["Origin"] = origin
        info = facts.read(metadata, {}, lambda: None)
        assert (info.origin, info.protection_level) == expected

    def test_the_status_of_a_key_in_a_custom_key_store(self, client: KMSClient, kms: Any) -> None:
        """Such a key never rotates, and AWS refuses to list its rotations."""
        made = Reply(make(kms), Origin="AWS_CLOUDHSM")
        provider: Any = client._session.provider  # pyright: ignore[reportPrivateUsage] # the seam under the client
        asked: list[str] = []

        def ask(method: str, **parameters: Any) -> Reply:
            asked.append(method)
            return Reply(KeyMetadata=made)

        provider._aws.ask = ask
        status = client.describe_key(facts.read(made, {}, lambda: None))
        assert asked == ["describe_key"]
        assert (status.rotations_left, [version.id for version in status.versions]) == (None, [made["KeyId"]])

    def test_aws_managed_keys_are_not_used(self, kms: Any) -> None:
        with pytest.raises(UnsupportedOperationError, match="manages"):
            facts.read(Reply(make(kms), KeyManager="AWS"), {}, lambda: None)

    def test_a_disabled_asymmetric_key(self, client: KMSClient, kms: Any) -> None:
        """AWS gives no public key then, and no tag of ours says what it was."""
        made = make(kms, "ECC_NIST_P256", "SIGN_VERIFY")
        kms.disable_key(KeyId=made["KeyId"])
        with pytest.raises(KeyDisabledError, match="public key"):
            client.get_key(made["Arn"])

    def test_another_accounts_tags_cannot_be_read(
        self, aws: AWSEmulator, client: KMSClient, kms: Any
    ) -> None:
        """ListResourceTags works within one account only (AWS KMS API reference)."""
        made = make(kms)
        aws.faults.add("ListResourceTags", "AccessDeniedException")
        assert client.get_key(made["Arn"]).conf_digest is None

    def test_our_names_need_their_tags(self, aws: AWSEmulator, client: KMSClient) -> None:
        client.generate_key(ORDERS)
        aws.faults.add("ListResourceTags", "AccessDeniedException")
        with pytest.raises(PermissionDeniedError):
            client.get_key("orders")

    def test_listing_passes_them_over(self, client: KMSClient, kms: Any) -> None:
        ours = client.generate_key(ORDERS)
        for number in range(3):
            kms.create_alias(AliasName=f"alias/existing{number}", TargetKeyId=make(kms)["KeyId"])
        kms.create_alias(AliasName="alias/anykms/planted", TargetKeyId=make(kms)["KeyId"])
        kms.create_alias(AliasName="alias/anykms/second-name", TargetKeyId=arn(ours))
        assert list(client.list_keys()) == [ours]

    def test_listing_reads_every_page(self, client: KMSClient, kms: Any) -> None:
        target = make(kms)["KeyId"], make(kms)["KeyId"], make(kms)["KeyId"]
        for number in range(120):
            kms.create_alias(AliasName=f"alias/a{number}", TargetKeyId=target[number % 3])
        ours = client.generate_key(ORDERS)
        assert list(client.list_keys()) == [ours]

    def test_a_multi_region_primary_with_replicas_cannot_be_scheduled(
        self, client: KMSClient, kms: Any
    ) -> None:
        """AWS starts its window only when the last replica is gone, so there is no date to give."""
        made = make(kms, MultiRegion=True)
        info = client.get_key(made["KeyId"])
        assert info.name == made["KeyId"]
        kms.replicate_key(KeyId=made["KeyId"], ReplicaRegion="us-east-1")
        with pytest.raises(UnsupportedOperationError, match="replicas"):
            client.schedule_destruction(info)
        assert client.describe_key(info).state is KeyState.ENABLED


class TestIdentifiers:
    @pytest.mark.parametrize("name", ["Orders", "a", "or--ders", "or ders", "-orders", "orders\u00e9"])
    def test_names_that_no_key_can_have(self, aws: AWSEmulator, client: KMSClient, name: str) -> None:
        with pytest.raises(KeyNotFoundError):
            client.get_key(name)
        assert len(aws.requests) == 0

    @pytest.mark.parametrize(
        "identifier",
        [
            "awskms:///arn:aws:kms:eu-west-1:111122223333:key/../x",
            "awskms://user@host/arn:aws:kms:eu-west-1:111122223333:key/0",
            "arn:aws:kms:eu-west-1:111122223333:key/x",
            "arn:aws:s3:::bucket",
            "alias/with space",
            "https://kms.eu-west-1.amazonaws.com/",
        ],
    )
    def test_odd_identifiers_are_refused_unsent(
        self, aws: AWSEmulator, client: KMSClient, identifier: str
    ) -> None:
        with pytest.raises(InvalidArgumentError):
            client.get_key(identifier)
        assert len(aws.requests) == 0

    @pytest.mark.parametrize(
        "identifier",
        [
            "arn:aws:kms:us-west-2:111122223333:key/01234567-89ab-cdef-0123-456789abcdef",
            "arn:aws:kms:us-west-2:111122223333:alias/orders",
            "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k",
        ],
    )
    def test_keys_of_elsewhere_are_not_asked_for(
        self, aws: AWSEmulator, client: KMSClient, identifier: str
    ) -> None:
        with pytest.raises(KeyNotFoundError):
            client.get_key(identifier)
        assert len(aws.requests) == 0

    def test_a_key_info_of_another_region_is_not_destroyed(self, aws: AWSEmulator, client: KMSClient) -> None:
        """Asking this Region for it would look as if the key were gone."""
        info = client.generate_key(ORDERS)
        elsewhere = replace(info, uri=type(info.uri).parse(str(info.uri).replace("eu-west-1", "us-west-2")))
        aws.requests.clear()
        with pytest.raises(KeyNotFoundError, match="us-west-2") as refused:
            client.key(elsewhere).wrap(bytes(32), context={})
        assert type(refused.value) is KeyNotFoundError
        assert len(aws.requests) == 0

    def test_aws_describes_another_key(self, client: KMSClient, kms: Any) -> None:
        first, second = make(kms), make(kms)
        provider: Any = client._session.provider  # pyright: ignore[reportPrivateUsage] # the seam under the client
        aws = provider._aws
        real = aws.ask

        def lie(method: str, **parameters: Any) -> Any:
            return real(method, **{**parameters, "KeyId": second["Arn"]})

        aws.ask = lie
        with pytest.raises(IntegrityError):
            client.get_key(first["Arn"])
        info = facts.read(first, {}, lambda: None)
        with pytest.raises(IntegrityError, match="another key"):
            client.key(info).wrap(bytes(32), context={})


class TestTags:
    """What anyone with kms:TagResource can do, and cannot."""

    def test_the_callers_key_info_wins(self, client: KMSClient, kms: Any) -> None:
        info = client.generate_key(RELEASES)
        retag(kms, info, algorithm="PS256")
        key = client.key(info)
        signature = key.sign(b"m")
        assert info.algorithm is Algorithm.RS256
        key.public_key().verify(b"m", signature)

    @pytest.mark.parametrize(
        "tags", [{"algorithm": "PS256"}, {"destroy-window": "7"}, {"name": "other"}, {"conf": "a" * 52}]
    )
    def test_a_disagreeing_tag_stops_the_destruction(
        self, client: KMSClient, kms: Any, tags: dict[str, str]
    ) -> None:
        info = client.generate_key(RELEASES)
        retag(kms, info, **tags)
        with pytest.raises(IntegrityError, match="tag anykms:"):
            client.schedule_destruction(info)
        assert client.describe_key(info).state is KeyState.ENABLED

    @pytest.mark.parametrize(
        "tags",
        [
            {"algorithm": "ES256"},
            {"algorithm": "none"},
            {"algorithm": "A256GCM"},
            {"destroy-window": "1"},
            {"destroy-window": "007"},
            {"conf": "x"},
            {"fingerprint": "0" * 64},
            {"name": "other"},
        ],
    )
    def test_tags_that_do_not_fit_the_key(self, client: KMSClient, kms: Any, tags: dict[str, str]) -> None:
        info = client.generate_key(RELEASES)
        retag(kms, info, **tags)
        with pytest.raises(IntegrityError):
            client.get_key("releases")

    @pytest.mark.parametrize(
        "tag", ["anykms:algorithm", "anykms:destroy-window", "anykms:conf", "anykms:name"]
    )
    def test_missing_tags(self, client: KMSClient, kms: Any, tag: str) -> None:
        info = client.generate_key(RELEASES)
        kms.untag_resource(KeyId=arn(info), TagKeys=[tag])
        with pytest.raises(IntegrityError):
            client.get_key("releases")

    def test_a_wrong_fingerprint_of_a_disabled_key_gets_nowhere(self, client: KMSClient, kms: Any) -> None:
        info = client.generate_key(RELEASES)
        client.disable_key(info)
        retag(kms, info, fingerprint="0" * 64)
        believed = client.get_key("releases")
        client.enable_key(info)
        with pytest.raises(IntegrityError, match="fingerprint"):
            client.key(believed).public_key()

    def test_other_tags_are_not_the_callers(self, client: KMSClient, kms: Any) -> None:
        info = client.generate_key(ORDERS)
        kms.tag_resource(KeyId=arn(info), Tags=[{"TagKey": "CreatedBy", "TagValue": "Someone"}])
        assert client.get_key("orders") == info

    def test_an_alias_moved_to_another_key_is_noticed(self, client: KMSClient, kms: Any) -> None:
        client.generate_key(ORDERS)
        invoices = client.generate_key(KeyConf("invoices", "ENCRYPT_DECRYPT"))
        kms.update_alias(AliasName="alias/anykms/orders", TargetKeyId=arn(invoices))
        with pytest.raises(IntegrityError, match="not made under this name"):
            client.get_key("orders")


class TestLifecycle:
    def test_the_key_info_of_another_kind(self, client: KMSClient) -> None:
        info = client.generate_key(ORDERS)
        forged = replace(info, purpose=KeyPurpose.MAC, algorithm=Algorithm.HS256)
        with pytest.raises(IntegrityError):
            client.describe_key(forged)
        with pytest.raises(KeyUsageError):
            client.key(forged).mac(b"m")

    def test_the_keys_own_window(self, aws: AWSEmulator, client: KMSClient) -> None:
        info = client.generate_key(ORDERS)
        at = client.schedule_destruction(info)
        [call] = [request for request in aws.requests if request.operation == "ScheduleKeyDeletion"]
        assert call.parameters["PendingWindowInDays"] == 9
        assert (at - info.created_at).days == 9

    def test_destroyed_before_the_schedule(self, aws: AWSEmulator, client: KMSClient) -> None:
        info = client.generate_key(ORDERS)
        client.schedule_destruction(info)
        aws.clock.advance(timedelta(days=10))
        with pytest.raises(KeyDestroyedError):
            client.schedule_destruction(info)

    def test_rotations_for_life(self, client: KMSClient) -> None:
        info = client.generate_key(ORDERS)
        key = client.key(info)
        wrapped = key.wrap(bytes(32), context={})
        for left in range(24, -1, -1):
            status = client.rotate_key(info)
            assert status.rotations_left == left
            assert len({version.id for version in status.versions}) == len(status.versions) == 26 - left
            assert status.current_version == status.versions[-1].id
        with pytest.raises(QuotaExceededError):
            client.rotate_key(info)
        assert key.unwrap(wrapped, context={}) == bytes(32)

    def test_imported_material_rotates_with_the_next_import_only(self, client: KMSClient, kms: Any) -> None:
        made = make(kms, Origin="EXTERNAL")
        given = kms.get_parameters_for_import(
            KeyId=made["Arn"], WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
        )
        wrapping = serialization.load_der_public_key(given["PublicKey"])
        assert isinstance(wrapping, rsa.RSAPublicKey)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        kms.import_key_material(
            KeyId=made["Arn"],
            ImportToken=given["ImportToken"],
            EncryptedKeyMaterial=wrapping.encrypt(os.urandom(32), oaep),
            ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )
        info = client.get_key(made["Arn"])
        assert client.describe_key(info).rotations_left == 25
        with pytest.raises(KeyStateError) as refused:
            client.rotate_key(info)
        assert type(refused.value) is KeyStateError
