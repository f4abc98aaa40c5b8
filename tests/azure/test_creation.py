"""Making keys in a vault, where a second create is a rotation and one wrapping key is two keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from anykms import KeyConf, KeyInfo, KeyPurpose, KMSClient, errors
from anykms.keys import KeyState
from anykms_emulators.azure import AzureEmulator

WRAPPING = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT)
SIGNING = KeyConf("releases", KeyPurpose.SIGN_VERIFY, algorithm="ES256")
SENDER = "orders--sender"
Connect = Callable[..., KMSClient]


def versions(keys: Any, name: str) -> list[Any]:
    return list(keys.list_properties_of_key_versions(name))


def operations(az: AzureEmulator, since: int) -> list[str]:
    return az.requests.operations[since:]


class TestPairs:
    def test_a_wrapping_key_is_two_keys_each_for_its_own_use(self, client: KMSClient, keys: Any) -> None:
        info = client.generate_key(WRAPPING)
        main, sender = keys.get_key("orders"), keys.get_key(SENDER)
        assert (main.key_type, len(main.key.n)) == ("RSA", 384)
        assert sorted(main.key_operations) == ["unwrapKey", "wrapKey"]
        assert (sender.key_type, sender.key.crv) == ("EC", "P-256")
        assert sorted(sender.key_operations) == ["sign", "verify"]
        for key in (main, sender):
            assert key.properties.enabled
            assert key.properties.not_before is None
            assert key.properties.expires_on is None
            assert len(versions(keys, key.name)) == 1
            assert len([tag for tag in key.properties.tags if tag.startswith("anykms")]) <= 5
        assert info.sender_authenticated
        found = info.sender_key()
        assert found is not None
        assert found.fingerprint == info.sender_fingerprint
        signer = client.key(found)
        signer.verify(b"message", signer.sign(b"message"))

    @pytest.mark.parametrize(
        ("algorithm", "operations"), [("PS256", ["sign", "verify"]), ("RSA-OAEP-256", ["decrypt"])]
    )
    def test_other_keys_have_one_use_too(
        self, client: KMSClient, keys: Any, algorithm: str, operations: list[str]
    ) -> None:
        purpose = KeyPurpose.SIGN_VERIFY if algorithm == "PS256" else KeyPurpose.ASYMMETRIC_DECRYPT
        client.generate_key(KeyConf("single", purpose, algorithm=algorithm, key_size=2048))
        assert sorted(keys.get_key("single").key_operations) == operations

    def test_an_interrupted_pair_is_finished(self, az: AzureEmulator, client: KMSClient, keys: Any) -> None:
        az.faults.add("CreateKey", "Forbidden/ForbiddenByRbac", status=403, after=1)
        with pytest.raises(errors.PermissionDeniedError):
            client.generate_key(WRAPPING)
        with pytest.raises(errors.KeyNotFoundError):
            client.get_key("orders")
        with pytest.raises(errors.KeyNotFoundError):
            client.get_key(SENDER)
        assert list(client.list_keys()) == []
        begun = keys.get_key(SENDER).id
        info = client.generate_key(WRAPPING)
        assert keys.get_key(SENDER).id == begun
        assert len(versions(keys, SENDER)) == 1
        key = client.key(info)
        assert key.unwrap(key.wrap(bytes(32), context={}), context={}) == bytes(32)

    @pytest.mark.parametrize("stranger", ["plain", "another conf", "two versions", "other key_ops"])
    def test_what_is_not_exactly_begun_is_not_adopted(
        self, az: AzureEmulator, client: KMSClient, keys: Any, stranger: str
    ) -> None:
        if stranger == "plain":
            keys.create_ec_key(SENDER, curve="P-256")
        else:
            az.faults.add("CreateKey", "Forbidden/ForbiddenByRbac", status=403, after=1)
            tags = {"team": "red"} if stranger == "another conf" else None
            with pytest.raises(errors.PermissionDeniedError):
                client.generate_key(KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT, tags=tags))
        if stranger == "two versions":
            keys.rotate_key(SENDER)
        if stranger == "other key_ops":
            keys.update_key_properties(SENDER, key_operations=["sign"])
        before = [version.id for version in versions(keys, SENDER)]
        with pytest.raises(errors.KeyExistsError, match=SENDER):
            client.generate_key(WRAPPING)
        assert [version.id for version in versions(keys, SENDER)] == before
        with pytest.raises(errors.KeyNotFoundError):
            client.get_key("orders")

    @pytest.mark.parametrize("deleted", ["orders", SENDER])
    def test_a_deleted_key_blocks_both_names_and_the_way_out_is_told(
        self, az: AzureEmulator, client: KMSClient, keys: Any, deleted: str
    ) -> None:
        keys.create_ec_key(deleted, curve="P-256")
        keys.begin_delete_key(deleted, _polling_interval=0).result()
        before = len(az.requests)
        with pytest.raises(errors.NameReservedError, match=r"recover.*purge") as caught:
            client.generate_key(WRAPPING)
        assert deleted in str(caught.value)
        assert "CreateKey" not in operations(az, before)
        keys.purge_deleted_key(deleted)
        client.generate_key(WRAPPING)


class TestRotationPolicy:
    def test_a_key_whose_policy_is_refused_is_not_left_behind(
        self, az: AzureEmulator, client: KMSClient, keys: Any
    ) -> None:
        az.faults.add("UpdateKeyRotationPolicy", "Forbidden/ForbiddenByRbac", status=403)
        conf = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT, rotation_period=90)
        with pytest.raises(errors.PermissionDeniedError):
            client.generate_key(conf)
        assert list(keys.list_properties_of_keys()) == list(keys.list_deleted_keys()) == []
        info = client.generate_key(conf)
        assert client.describe_key(info).rotation_period == 90
        policy = keys.get_key_rotation_policy("orders")
        assert policy.expires_in is None


class TestRaces:
    """Someone makes the key after we looked and before we create."""

    @pytest.mark.parametrize("name", ["orders", SENDER])
    @pytest.mark.parametrize("later", [False, True])
    def test_the_second_version_is_found_disabled_and_reported(
        self, az: AzureEmulator, connect: Connect, between: Any, keys: Any, name: str, later: bool
    ) -> None:
        other = connect()
        winner: list[KeyInfo] = []

        def race(request: Any) -> None:
            if f"/keys/{name}/create" in request.url and not winner:
                winner.append(other.generate_key(WRAPPING))
                if later:
                    az.clock.advance(timedelta(seconds=5))

        between.before = race
        with pytest.raises(errors.KeyExistsError):
            connect(key_client=between).generate_key(WRAPPING)
        info = winner[0]
        made = versions(keys, name)
        assert len(made) == 2
        assert sorted(version.enabled for version in made) == [False, True]
        fresh = connect()
        assert fresh.get_key("orders") == info
        assert fresh.describe_key(info).state is KeyState.ENABLED
        assert len(fresh.describe_key(info).versions) == 1
        key = fresh.key(info)
        assert key.unwrap(key.wrap(bytes(32), context={}), context={}) == bytes(32)
        fresh.disable_key(info)
        fresh.enable_key(info)
        assert sorted(version.enabled for version in versions(keys, name)) == [False, True]

    def test_a_signing_key_survives_a_race(self, connect: Connect, between: Any, keys: Any) -> None:
        winner: list[Any] = []

        def race(request: Any) -> None:
            if "/create" in request.url and not winner:
                winner.append(connect().generate_key(SIGNING))

        between.before = race
        with pytest.raises(errors.KeyExistsError):
            connect(key_client=between).generate_key(SIGNING)
        assert len(versions(keys, "releases")) == 2
        fresh = connect()
        assert fresh.get_key("releases") == winner[0]
        key = fresh.key("releases")
        key.verify(b"m", key.sign(b"m"))

    def test_the_first_of_two_wins(
        self, az: AzureEmulator, connect: Connect, between: Any, keys: Any
    ) -> None:
        """The other's create arrives between ours and our listing: the other must give way, not we."""
        raced: list[str] = []

        def race(request: Any, response: Any) -> Any:
            if "/create" in request.url and not raced:
                raced.append(keys.create_ec_key("releases", curve="P-256").properties.version)
                keys.update_key_properties(
                    "releases", raced[0], enabled=False, tags={"anykms-discarded": "1"}
                )
            return response

        between.after = race
        info = connect(key_client=between).generate_key(SIGNING)
        assert info.uri.version != raced[0]
        assert connect().get_key("releases") == info


class TestDestroyWindow:
    @pytest.mark.parametrize("conf", [WRAPPING, SIGNING])
    @pytest.mark.parametrize("purge_protection", [False, True])
    def test_a_wrong_window_leaves_no_live_key_in_an_empty_vault(
        self, connect_elsewhere: Connect, conf: KeyConf, purge_protection: bool
    ) -> None:
        wrong = KeyConf(conf.name, conf.purpose, algorithm=conf.algorithm, destroy_window=7)
        az = AzureEmulator(recoverable_days=14, purge_protection=purge_protection)
        with az, connect_elsewhere(az) as client:
            with pytest.raises(errors.InvalidArgumentError, match="14 days"):
                client.generate_key(wrong)
            keys = az.key_client()
            assert list(keys.list_properties_of_keys()) == []
            assert bool(list(keys.list_deleted_keys())) is purge_protection
            bodies = [r.parameters for r in az.requests if r.operation == "CreateKey"]
            assert [body["attributes"] for body in bodies] == [{"enabled": False}]
            if purge_protection:
                with pytest.raises(errors.NameReservedError):
                    client.generate_key(conf)
            else:
                assert client.generate_key(conf).destroy_window == 14

    @pytest.mark.parametrize("conf", [WRAPPING, SIGNING])
    def test_the_right_window_in_an_empty_vault(self, connect_elsewhere: Connect, conf: KeyConf) -> None:
        right = KeyConf(conf.name, conf.purpose, algorithm=conf.algorithm, destroy_window=14)
        with AzureEmulator(recoverable_days=14, purge_protection=True) as az, connect_elsewhere(az) as client:
            info = client.generate_key(right)
            assert (info.destroy_window, info.destroy_window_enforced) == (14, True)
            assert client.describe_key(info).state is KeyState.ENABLED

    def test_another_key_of_the_vault_tells_its_window(
        self, az: AzureEmulator, client: KMSClient, keys: Any
    ) -> None:
        keys.create_ec_key("other", curve="P-256")
        before = len(az.requests)
        conf = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT, destroy_window=30)
        with pytest.raises(errors.InvalidArgumentError, match="90 days, not for 30"):
            client.generate_key(conf)
        assert "CreateKey" not in operations(az, before)
        assert client.generate_key(WRAPPING).destroy_window == 90
        assert not client.get_key("orders").destroy_window_enforced
