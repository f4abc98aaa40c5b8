"""generate_key on AWS: one key, one alias, whatever fails and whenever it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from anykms.algorithms import Algorithm
from anykms.client import KMSClient
from anykms.errors import (
    InvalidArgumentError,
    KeyConfMismatchError,
    KeyExistsError,
    KeyNotFoundError,
    KMSError,
    NameReservedError,
    PermissionDeniedError,
    QuotaExceededError,
    ThrottledError,
    UnavailableError,
    UnsupportedOperationError,
)
from anykms.keys import KeyConf, KeyOrigin, KeyState
from anykms.provider import Operation
from anykms_aws import creation
from anykms_aws.specs import capabilities_in
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.faults import FaultKind

Connect = Callable[[], KMSClient]

ORDERS = KeyConf("orders", "ENCRYPT_DECRYPT", tags={"team": "x"}, destroy_window=9, rotation_period=90)
SIGNER = KeyConf("orders", "SIGN_VERIFY", algorithm="ES256", tags={"team": "x"})
CONFS = {"wrapping": ORDERS, "signing": SIGNER}
STEPS = {
    "wrapping": [
        "DescribeKey",  # what was there before
        "DescribeKey", "ListKeys", "ListAliases", "CreateKey", "EnableKeyRotation", "CreateAlias", "TagResource",
        # read back, until two reads agree
        *["DescribeKey", "ListResourceTags", "DescribeKey", "GetKeyRotationStatus", "ListKeyRotations"] * 2,
    ],
    "signing": [
        "DescribeKey",  # what was there before
        "DescribeKey", "ListKeys", "ListAliases", "CreateKey", "GetPublicKey", "TagResource", "CreateAlias",
        "TagResource",
        # read back, until two reads agree
        *["DescribeKey", "ListResourceTags", "GetPublicKey", "DescribeKey"] * 2,
    ],
}  # fmt: skip
EVERY_STEP = [(name, number) for name, steps in STEPS.items() for number in range(len(steps))]
KINDS: tuple[FaultKind, ...] = ("error", "throttle", "reset", "lost reply", "delay")


def live_keys(kms: Any) -> list[str]:
    """ARNs of the account's keys that are not pending deletion."""
    found = [kms.describe_key(KeyId=row["KeyId"])["KeyMetadata"] for row in kms.list_keys()["Keys"]]
    return [metadata["Arn"] for metadata in found if metadata["KeyState"] != "PendingDeletion"]


def our_aliases(kms: Any) -> dict[str, str]:
    rows = kms.list_aliases(Limit=100)["Aliases"]
    return {
        row["AliasName"]: row["TargetKeyId"] for row in rows if row["AliasName"].startswith("alias/anykms/")
    }


def arn(info: Any) -> str:
    return str(info.uri).removeprefix("awskms:///")


class TestSteps:
    @pytest.mark.parametrize("which", CONFS)
    def test_the_calls_in_their_order(self, aws: AWSEmulator, client: KMSClient, which: str) -> None:
        client.generate_key(CONFS[which])
        assert aws.requests.operations == STEPS[which]

    def test_at_most_five_tags_are_ours(self, client: KMSClient, kms: Any) -> None:
        for conf in (ORDERS, KeyConf("signer", "SIGN_VERIFY", algorithm="ES256")):
            tags = kms.list_resource_tags(KeyId=arn(client.generate_key(conf)))["Tags"]
            ours = [tag["TagKey"] for tag in tags if tag["TagKey"].startswith("anykms")]
            assert len(ours) <= 5
            assert {tag["TagKey"]: tag["TagValue"] for tag in tags if tag["TagKey"] not in ours} == conf.tags

    def test_what_create_key_returns_is_what_is_read(self, client: KMSClient) -> None:
        """The core reads back; a provider's own answer must be the same."""
        provider = client._session.provider  # pyright: ignore[reportPrivateUsage] # the seam under the client
        for conf in (ORDERS, KeyConf("signer", "SIGN_VERIFY", algorithm="ES256")):
            assert provider.create_key(conf.template(Algorithm.A256GCM)) == provider.get_key(conf.name)


class TestFaults:
    """A fault at each call of generate_key in turn: never two keys, never an orphan alias."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("which", "step"), EVERY_STEP)
    def test_one_fault(
        self,
        aws: AWSEmulator,
        client: KMSClient,
        connect: Connect,
        kms: Any,
        which: str,
        step: int,
        kind: FaultKind,
    ) -> None:
        conf, operation = CONFS[which], STEPS[which][step]
        earlier = STEPS[which][:step].count(operation)
        aws.faults.add(operation, kind=kind, after=earlier, delay=0.01 if kind == "delay" else 0.0)
        try:
            made = client.generate_key(conf)
        except (UnavailableError, ThrottledError):
            # as another process would do after a crash
            made = connect().generate_key(conf)
        assert not aws.faults.pending
        assert live_keys(kms) == [arn(made)]
        assert our_aliases(kms) == {"alias/anykms/orders": arn(made).rpartition("/")[2]}
        assert kms.list_keys()["Keys"] == [{"KeyId": arn(made).rpartition("/")[2], "KeyArn": arn(made)}]
        assert client.get_key("orders") == made
        assert client.describe_key(made).rotation_period == conf.rotation_period

    @pytest.mark.parametrize("which", CONFS)
    def test_a_crash_after_each_call(
        self, aws: AWSEmulator, client: KMSClient, connect: Connect, kms: Any, which: str
    ) -> None:
        """Nothing gets through after a call, as if the process had been killed there: no code of ours cleans up."""
        for step in range(len(STEPS[which])):
            conf = _renamed(CONFS[which], f"orders-{step}")
            aws.faults.add(kind="reset", times=None, after=step)
            with pytest.raises(KMSError):
                client.generate_key(conf)
            aws.faults.clear()
            try:
                made = connect().generate_key(conf)
            except KeyExistsError:  # it was complete
                made = client.get_key(conf.name)
            assert client.get_key(conf.name) == made
            assert our_aliases(kms)[f"alias/anykms/orders-{step}"] == arn(made).rpartition("/")[2]
            assert len(live_keys(kms)) == len(our_aliases(kms)) == step + 1

    @pytest.mark.parametrize("operation", ["EnableKeyRotation", "CreateAlias"])
    def test_a_definite_refusal_gives_the_key_up(
        self, aws: AWSEmulator, client: KMSClient, kms: Any, operation: str
    ) -> None:
        aws.faults.add(operation, "AccessDeniedException")
        with pytest.raises(PermissionDeniedError):
            client.generate_key(ORDERS)
        assert live_keys(kms) == []
        assert our_aliases(kms) == {}
        assert client.generate_key(ORDERS) == client.get_key("orders")

    def test_tags_refused(self, aws: AWSEmulator, client: KMSClient, kms: Any) -> None:
        """kms:CreateKey without kms:TagResource: AWS refuses CreateKey as a whole."""
        aws.faults.add(
            "CreateKey", "AccessDeniedException", message="User: x is not authorized: kms:TagResource"
        )
        with pytest.raises(PermissionDeniedError, match="kms:TagResource") as refused:
            client.generate_key(ORDERS)
        assert kms.list_keys()["Keys"] == []
        assert refused.value.request_id == aws.requests[-2].request_id

    def test_fingerprint_tag_refused(self, aws: AWSEmulator, client: KMSClient, kms: Any) -> None:
        aws.faults.add("TagResource", "TagException")
        with pytest.raises(InvalidArgumentError):
            client.generate_key(SIGNER)
        assert live_keys(kms) == []
        assert our_aliases(kms) == {}

    def test_quota(self, aws: AWSEmulator, client: KMSClient) -> None:
        aws.faults.add("CreateKey", "LimitExceededException", message="100000 keys")
        with pytest.raises(QuotaExceededError, match="100000 keys"):
            client.generate_key(ORDERS)
        assert aws.requests.operations.count("CreateKey") == 1

    def test_a_new_key_that_is_not_visible_yet(self, aws: AWSEmulator, client: KMSClient, kms: Any) -> None:
        aws.faults.add("CreateAlias", "NotFoundException", times=3)
        made = client.generate_key(ORDERS)
        assert live_keys(kms) == [arn(made)]

    def test_a_new_key_that_is_not_visible_for_long(
        self, aws: AWSEmulator, client: KMSClient, kms: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("anykms_aws.creation._PAUSES", (0.0,))
        aws.faults.add("CreateAlias", "NotFoundException", times=2)
        with pytest.raises(UnavailableError, match="generate it again"):
            client.generate_key(ORDERS)
        made = client.generate_key(ORDERS)
        assert live_keys(kms) == [arn(made)]


class TestNames:
    def test_a_live_key_has_the_name(self, aws: AWSEmulator, client: KMSClient) -> None:
        client.generate_key(ORDERS)
        aws.requests.clear()
        with pytest.raises(KeyExistsError):
            client.generate_key(ORDERS)
        assert "CreateKey" not in aws.requests.operations

    def test_a_key_pending_destruction_has_the_name(self, aws: AWSEmulator, client: KMSClient) -> None:
        first = client.generate_key(ORDERS)
        client.schedule_destruction(first)
        with pytest.raises(NameReservedError):
            client.generate_key(ORDERS)
        aws.clock.advance(timedelta(days=9, seconds=1))
        assert client.generate_key(ORDERS).uri != first.uri

    def test_an_alias_of_somebody_elses_key_has_the_name(self, client: KMSClient, kms: Any) -> None:
        theirs = kms.create_key()["KeyMetadata"]["Arn"]
        kms.create_alias(AliasName="alias/anykms/orders", TargetKeyId=theirs)
        with pytest.raises(KeyNotFoundError, match="did not make"):
            client.get_key("orders")
        with pytest.raises(KeyExistsError):
            client.generate_key(ORDERS)
        assert live_keys(kms) == [theirs]

    def test_a_race_for_the_alias(
        self, aws: AWSEmulator, client: KMSClient, connect: Connect, kms: Any
    ) -> None:
        """Somebody takes the alias between our check and our CreateAlias: our key goes, theirs stays."""
        theirs = kms.create_key()["KeyMetadata"]["Arn"]
        rival = _Rival(client, lambda: kms.create_alias(AliasName="alias/anykms/orders", TargetKeyId=theirs))
        with pytest.raises(KeyExistsError):
            rival.generate(ORDERS)
        assert live_keys(kms) == [theirs]
        assert our_aliases(kms) == {"alias/anykms/orders": theirs.rpartition("/")[2]}

    def test_a_race_for_an_unfinished_key(self, client: KMSClient, connect: Connect, kms: Any) -> None:
        """Another process finds our key before it has its alias, and finishes it: it stays, once."""
        other = connect()
        rival = _Rival(client, lambda: other.generate_key(ORDERS))
        with pytest.raises(KeyExistsError):
            rival.generate(ORDERS)
        assert live_keys(kms) == [arn(client.get_key("orders"))]

    def test_a_name_that_looks_like_a_key_id(self, client: KMSClient) -> None:
        name = "abcdef01-2345-4678-9abc-def012345678"
        made = client.generate_key(KeyConf(name, "ENCRYPT_DECRYPT"))
        assert client.get_key(name) == made


class _Rival:
    """Does something else just before our CreateAlias."""

    def __init__(self, client: KMSClient, before: Callable[[], object]) -> None:
        self._client = client
        self._before = before

    def generate(self, conf: KeyConf) -> None:
        with pytest.MonkeyPatch.context() as patch:
            real = creation._finish  # pyright: ignore[reportPrivateUsage] # the moment of the race

            def late(*arguments: Any) -> Any:
                patch.setattr(creation, "_finish", real)
                self._before()
                return real(*arguments)

            patch.setattr(creation, "_finish", late)
            self._client.generate_key(conf)


class TestUnfinishedKeys:
    def begin(self, aws: AWSEmulator, client: KMSClient, conf: KeyConf) -> None:
        aws.faults.add("CreateAlias", kind="reset")
        with pytest.raises(UnavailableError):
            client.generate_key(conf)

    def test_it_is_not_listed(self, aws: AWSEmulator, client: KMSClient) -> None:
        self.begin(aws, client, ORDERS)
        assert list(client.list_keys()) == []

    def test_another_conf_reports_it(self, aws: AWSEmulator, client: KMSClient, kms: Any) -> None:
        self.begin(aws, client, ORDERS)
        [left] = live_keys(kms)
        with pytest.raises(NameReservedError, match=left):
            client.generate_key(KeyConf("orders", "ENCRYPT_DECRYPT"))
        assert live_keys(kms) == [left]
        kms.schedule_key_deletion(KeyId=left, PendingWindowInDays=7)
        client.generate_key(KeyConf("orders", "ENCRYPT_DECRYPT"))

    def test_another_name_is_not_touched(self, aws: AWSEmulator, client: KMSClient, kms: Any) -> None:
        self.begin(aws, client, ORDERS)
        client.generate_key(KeyConf("invoices", "ENCRYPT_DECRYPT"))
        assert len(live_keys(kms)) == 2

    def test_a_finished_key_whose_alias_was_removed_is_not_taken(self, client: KMSClient, kms: Any) -> None:
        """It may hold data; the name is free again, for a new key."""
        first = client.generate_key(ORDERS)
        kms.delete_alias(AliasName="alias/anykms/orders")
        assert client.generate_key(ORDERS).uri != first.uri

    def test_a_key_that_may_not_be_looked_at_is_passed_over(
        self, aws: AWSEmulator, client: KMSClient, kms: Any
    ) -> None:
        kms.create_key()
        aws.faults.add("ListResourceTags", "AccessDeniedException")
        client.generate_key(ORDERS)

    @pytest.mark.parametrize(
        "trick", ["material", "policy", "grant", "spec", "disabled", "multi-region", "tags"]
    )
    def test_a_planted_key_is_not_taken(
        self, aws: AWSEmulator, client: KMSClient, kms: Any, trick: str
    ) -> None:
        """Tags prove nothing: a principal with kms:CreateKey can plant a key that it knows, or may use."""
        self.begin(aws, client, ORDERS)
        [model] = live_keys(kms)
        tags = kms.list_resource_tags(KeyId=model)["Tags"]
        policy = json.loads(kms.get_key_policy(KeyId=model)["Policy"])
        kms.schedule_key_deletion(KeyId=model, PendingWindowInDays=7)
        planted: dict[str, Any] = {"Tags": tags}
        if trick == "material":
            planted["Origin"] = "EXTERNAL"
        elif trick == "policy":
            policy["Statement"].append(
                {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*"}
            )
            planted["Policy"] = json.dumps(policy)
        elif trick == "spec":
            planted |= {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}
        elif trick == "multi-region":
            planted["MultiRegion"] = True
        elif trick == "tags":
            planted["Tags"] = [*tags, {"TagKey": "more", "TagValue": "x"}]
        key = kms.create_key(**planted)["KeyMetadata"]["Arn"]
        if trick == "grant":
            kms.create_grant(
                KeyId=key, GranteePrincipal="arn:aws:iam::111122223333:user/x", Operations=["Decrypt"]
            )
        elif trick == "disabled":
            kms.disable_key(KeyId=key)
        with pytest.raises(NameReservedError, match="look at it"):
            client.generate_key(ORDERS)
        assert our_aliases(kms) == {}

    def test_the_search_is_bounded(
        self, aws: AWSEmulator, client: KMSClient, kms: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(5):
            kms.create_key()
        monkeypatch.setattr(creation, "MAX_WITHOUT_ALIAS", 3)
        aws.requests.clear()
        client.generate_key(KeyConf("mac", "MAC", algorithm="HS256"))
        before_creation = aws.requests.operations[: aws.requests.operations.index("CreateKey")]
        assert before_creation.count("ListResourceTags") == 3


class TestReadBack:
    def test_an_edited_tag_disables_the_key(self, client: KMSClient, kms: Any) -> None:
        provider = client._session.provider  # pyright: ignore[reportPrivateUsage] # the seam under the client
        real = provider.create_key
        with pytest.MonkeyPatch.context() as patch:

            def create_and_edit(template: Any) -> Any:
                made = real(template)
                kms.tag_resource(KeyId=arn(made), Tags=[{"TagKey": "team", "TagValue": "y"}])
                return made

            patch.setattr(provider, "create_key", create_and_edit)
            with pytest.raises(KeyConfMismatchError, match="tags"):
                client.generate_key(ORDERS)
        assert client.describe_key(client.get_key("orders")).state is KeyState.DISABLED

    def test_origin(self, client: KMSClient) -> None:
        assert client.generate_key(ORDERS).origin is KeyOrigin.PROVIDER


class TestRefusedBeforeAnyCall:
    @pytest.mark.parametrize(
        "conf",
        [
            KeyConf("orders", "ENCRYPT_DECRYPT", algorithm="RSA-OAEP-256"),
            KeyConf("orders", "ENCRYPT_DECRYPT", protection_level="SOFTWARE"),
            KeyConf("orders", "SIGN_VERIFY", algorithm="ES256", protection_level="EXTERNAL"),
        ],
    )
    def test_what_aws_lacks(self, aws: AWSEmulator, client: KMSClient, conf: KeyConf) -> None:
        with pytest.raises(UnsupportedOperationError):
            client.generate_key(conf)
        assert len(aws.requests) == 0

    def test_china_has_sm4_and_not_aes(self) -> None:
        assert not [c for c in capabilities_in("cn-north-1") if c.algorithm is Algorithm.A256GCM]
        assert [c for c in capabilities_in("eu-west-1") if c.operation is Operation.WRAP]


def _renamed(conf: KeyConf, name: str) -> KeyConf:
    return KeyConf(
        name,
        conf.purpose,
        algorithm=conf.algorithm,
        tags=conf.tags,
        destroy_window=conf.destroy_window,
        rotation_period=conf.rotation_period,
    )
