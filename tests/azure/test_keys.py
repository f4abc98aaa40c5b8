"""Keys of a vault over their life: the pair as one, other people's changes, other people's keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from anykms import KeyConf, KeyInfo, KeyPurpose, Keyring, KMSClient, Policy, errors
from anykms.algorithms import Algorithm
from anykms.keys import KeyOrigin, KeyState
from anykms_emulators.azure import AzureEmulator

WRAPPING = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT, algorithm="RSA-OAEP-256", key_size=2048)
SIGNING = KeyConf("releases", KeyPurpose.SIGN_VERIFY, algorithm="ES256")
SENDER = "orders--sender"
HOST = "my-vault.vault.azure.net"
Connect = Callable[..., KMSClient]

CHANGES: dict[str, tuple[KeyState, KeyState, Callable[[KMSClient, KeyInfo], object]]] = {
    "disable": (KeyState.ENABLED, KeyState.DISABLED, lambda c, info: c.disable_key(info)),
    "enable": (KeyState.DISABLED, KeyState.ENABLED, lambda c, info: c.enable_key(info)),
    "schedule": (
        KeyState.ENABLED,
        KeyState.PENDING_DESTRUCTION,
        lambda c, info: c.schedule_destruction(info),
    ),
    "cancel": (KeyState.PENDING_DESTRUCTION, KeyState.DISABLED, lambda c, info: c.cancel_destruction(info)),
}


def flags(keys: Any, name: str) -> set[bool]:
    return {version.enabled for version in keys.list_properties_of_key_versions(name)}


class TestPairs:
    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_that_failed_anywhere_is_finished_by_the_next_call(
        self, az: AzureEmulator, client: KMSClient, keys: Any, change: str
    ) -> None:
        before, after, perform = CHANGES[change]
        position, failed = 0, True
        while failed:
            info = client.generate_key(
                KeyConf(
                    f"orders-{position}",
                    KeyPurpose.ENCRYPT_DECRYPT,
                    algorithm=Algorithm.RSA_OAEP_256,
                    key_size=2048,
                )
            )
            client.rotate_key(info)
            if before is not KeyState.ENABLED:
                client.disable_key(info)
            if before is KeyState.PENDING_DESTRUCTION:
                client.schedule_destruction(info)
            az.faults.add("*", "Forbidden/ForbiddenByRbac", status=403, after=position)
            failed = False
            try:
                perform(client, info)
            except errors.PermissionDeniedError:
                failed = True
            az.faults.clear()
            if failed and client.describe_key(info).state is not after:
                perform(client, info)
            assert client.describe_key(info).state is after
            if after is not KeyState.PENDING_DESTRUCTION:
                for name in (info.name, f"{info.name}--sender"):
                    assert flags(keys, name) == {after is KeyState.ENABLED}
            else:
                assert keys.get_deleted_key(f"{info.name}--sender").properties.enabled is False
                assert keys.get_deleted_key(info.name).properties.enabled is False
            assert client.get_key(info.name) == info
            position += 1
        assert position > 6

    def test_half_a_pair_wraps_nothing(self, client: KMSClient, keys: Any) -> None:
        info = client.generate_key(WRAPPING)
        wrapped = client.key(info).wrap(bytes(32), context={})
        keys.update_key_properties(SENDER, enabled=False)
        assert client.key(info).unwrap(wrapped, context={}) == bytes(32)
        with pytest.raises(errors.KeyDisabledError):
            client.key(info).wrap(bytes(32), context={})
        client.enable_key(info)
        keys.begin_delete_key(SENDER, _polling_interval=0).result()
        with pytest.raises(errors.KeyPendingDestructionError):
            client.key(info).wrap(bytes(32), context={})
        with pytest.raises(errors.KeyPendingDestructionError, match="schedule"):
            client.enable_key(info)
        with pytest.raises(errors.KeyStateError, match="schedule it again"):
            client.cancel_destruction(info)
        client.schedule_destruction(info)
        client.cancel_destruction(info)
        client.enable_key(info)
        assert client.key(info).wrap(bytes(32), context={})

    def test_the_list_counts_a_pair_once(self, client: KMSClient, keys: Any) -> None:
        keys.create_ec_key("foreign", curve="P-256")
        made = [client.generate_key(WRAPPING), client.generate_key(SIGNING)]
        many = [KeyConf(f"k-{n}", KeyPurpose.SIGN_VERIFY, algorithm="ES256") for n in range(26)]
        made += [client.generate_key(conf) for conf in many]
        client.schedule_destruction(made[0])
        client.schedule_destruction(made[-1])
        found = list(client.list_keys())
        assert len(found) == len(made)
        assert {info.name: info for info in found} == {info.name: info for info in made}

    def test_what_was_deleted_while_enabled_comes_back_disabled(self, client: KMSClient, keys: Any) -> None:
        info = client.generate_key(WRAPPING)
        for name in (SENDER, "orders"):
            keys.begin_delete_key(name, _polling_interval=0).result()
        assert client.describe_key(info).state is KeyState.PENDING_DESTRUCTION
        client.cancel_destruction(info)
        assert flags(keys, "orders") == flags(keys, SENDER) == {False}

    def test_late_reads_are_waited_for(self, connect_elsewhere: Connect) -> None:
        with AzureEmulator(eventual_reads=5) as az, connect_elsewhere(az) as client:
            info = client.generate_key(SIGNING)
            client.schedule_destruction(info)
            client.cancel_destruction(info)
            assert client.describe_key(info).state is KeyState.DISABLED
            impatient = connect_elsewhere(az, transition_timeout=0)
            with pytest.raises(errors.KMSError):
                impatient.schedule_destruction(info)


class TestRotation:
    def test_the_sender_stays_and_every_version_has_the_tags(self, client: KMSClient, keys: Any) -> None:
        info = client.generate_key(
            KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT, algorithm=WRAPPING.algorithm, tags={"team": "blue"})
        )
        sender = keys.get_key(SENDER).id
        for _ in range(2):
            client.rotate_key(info)
        assert keys.get_key(SENDER).id == sender
        found = [version.tags for version in keys.list_properties_of_key_versions("orders")]
        assert len(found) == 3
        assert found[0] == found[1] == found[2]
        assert len([tag for tag in found[0] if tag.startswith("anykms")]) <= 5

    @pytest.mark.parametrize("how", ["rotated", "created", "imported tags"])
    def test_versions_that_others_make_are_used_and_the_facts_stay(
        self, az: AzureEmulator, client: KMSClient, connect: Connect, keys: Any, how: str
    ) -> None:
        info = client.generate_key(WRAPPING)
        old = Keyring([client.key(info)]).encrypt(b"old", context={})
        az.clock.advance(timedelta(days=3))
        if how == "rotated":
            keys.rotate_key("orders")
        else:
            tags = {"team": "red"} if how == "imported tags" else None
            keys.create_rsa_key("orders", size=2048, key_operations=["wrapKey", "unwrapKey"], tags=tags)
        fresh = connect()
        assert fresh.get_key("orders") == info
        assert len(fresh.describe_key(info).versions) == 2
        ring = Keyring([fresh.key(info)])
        assert ring.decrypt(old, context={}) == b"old"
        assert ring.decrypt(ring.encrypt(b"new", context={}), context={}) == b"new"
        fresh.rotate_key(info)
        fresh.schedule_destruction(info)
        assert connect().get_key("orders") == info
        fresh.cancel_destruction(info)
        fresh.enable_key(info)
        assert Keyring([connect().key("orders")]).decrypt(old, context={}) == b"old"

    def test_a_disabled_old_version_is_named(self, client: KMSClient, keys: Any) -> None:
        info = client.generate_key(WRAPPING)
        wrapped = client.key(info).wrap(bytes(32), context={})
        first = client.describe_key(info).current_version
        client.rotate_key(info)
        keys.update_key_properties("orders", first, enabled=False)
        with pytest.raises(errors.KeyDisabledError) as caught:
            client.key(info).unwrap(wrapped, context={})
        assert caught.value.version == first

    def test_without_the_right_to_read_policies(self, az: AzureEmulator, client: KMSClient) -> None:
        info = client.generate_key(WRAPPING)
        az.faults.add("GetKeyRotationPolicy", "Forbidden/ForbiddenByRbac", status=403, times=None)
        assert client.describe_key(info).rotation_period is None
        assert client.key(info).wrap(bytes(32), context={})


class TestOtherPeoplesChanges:
    def test_a_second_version_of_a_signing_key(self, client: KMSClient, keys: Any) -> None:
        info = client.generate_key(SIGNING)
        keys.rotate_key("releases")
        for look in (lambda: client.get_key("releases"), lambda: client.describe_key(info)):
            with pytest.raises(errors.IntegrityError, match="2 versions"):
                look()

    def test_a_second_version_of_a_sender_key(self, client: KMSClient, keys: Any) -> None:
        info = client.generate_key(WRAPPING)
        keys.rotate_key(SENDER)
        for look in (
            lambda: client.get_key("orders"),
            lambda: client.key(info).wrap(bytes(32), context={}),
            lambda: client.disable_key(info),
            lambda: client.schedule_destruction(info),
        ):
            with pytest.raises(errors.IntegrityError):
                look()

    @pytest.mark.parametrize(
        "tag", [{"anykms-algorithm": "PS256"}, {"anykms-conf": "a" * 52}, {"anykms-sender": "0" * 64}]
    )
    def test_an_edited_tag(self, client: KMSClient, connect: Connect, keys: Any, tag: dict[str, str]) -> None:
        info = client.generate_key(WRAPPING)
        keys.update_key_properties("orders", tags={**keys.get_key("orders").properties.tags, **tag})
        looks: list[Callable[[KMSClient], object]] = [
            lambda c: c.describe_key(info),
            lambda c: c.key(info).wrap(bytes(32), context={}),
            lambda c: c.schedule_destruction(info),
        ]
        for look in looks:
            with pytest.raises(errors.IntegrityError, match=next(iter(tag))):
                look(connect())

    @pytest.mark.parametrize("name", ["orders", "releases"])
    def test_widened_key_ops(self, client: KMSClient, keys: Any, name: str) -> None:
        client.generate_key(WRAPPING if name == "orders" else SIGNING)
        wider = ["wrapKey", "unwrapKey", "sign"] if name == "orders" else ["sign"]
        keys.update_key_properties(name, key_operations=wider)
        with pytest.raises(errors.IntegrityError, match="key_ops"):
            client.get_key(name)

    def test_an_exchanged_sender_key(
        self, az: AzureEmulator, client: KMSClient, connect: Connect, keys: Any
    ) -> None:
        info = client.generate_key(WRAPPING)
        message = Keyring([client.key(info)]).encrypt(b"m", context={})
        tags = keys.get_key(SENDER).properties.tags
        az.clock.advance(timedelta(seconds=5))
        keys.begin_delete_key(SENDER, _polling_interval=0).result()
        keys.purge_deleted_key(SENDER)
        keys.create_ec_key(SENDER, curve="P-256", tags=tags, key_operations=["sign", "verify"])
        fresh = connect()
        with pytest.raises(errors.IntegrityError):
            fresh.get_key("orders")
        ring = Keyring([fresh.key(info)])
        with pytest.raises(errors.KeyDestroyedError, match="another has its name"):
            ring.encrypt(b"m", context={})
        with pytest.raises(errors.KeyDestroyedError, match="another has its name"):
            ring.decrypt(message, context={})

    @pytest.mark.parametrize("verb", ["wrapkey", "unwrapkey", "sign", "decrypt"])
    def test_an_answer_of_another_key(
        self, client: KMSClient, connect: Connect, between: Any, answer: Any, verb: str
    ) -> None:
        confs = {
            "sign": SIGNING,
            "decrypt": KeyConf("private", KeyPurpose.ASYMMETRIC_DECRYPT, key_size=2048),
        }
        info = client.generate_key(confs.get(verb, WRAPPING))
        other = connect(key_client=between)
        key = other.key(info)
        wrapped = b"" if verb not in ("wrapkey", "unwrapkey") else key.wrap(bytes(32), context={})

        def exchange(request: Any, response: Any) -> Any:
            if f"/{verb}?" not in request.url:
                return response
            document = response.json()
            kid: str = document["kid"]
            return answer(response, {**document, "kid": kid[:-1] + ("0" if kid[-1] != "0" else "1")})

        between.after = exchange
        uses: dict[str, Callable[[], object]] = {
            "wrapkey": lambda: key.wrap(bytes(32), context={}),
            "unwrapkey": lambda: key.unwrap(wrapped, context={}),
            "sign": lambda: key.sign(b"m"),
            "decrypt": lambda: key.decrypt(key.public_key().encrypt(b"m")),
        }
        with pytest.raises(errors.IntegrityError, match="another key"):
            uses[verb]()

    @pytest.mark.parametrize("change", ["shorter", "longer"])
    def test_a_signature_of_another_width(
        self, client: KMSClient, connect: Connect, between: Any, answer: Any, change: str
    ) -> None:
        info = client.generate_key(SIGNING)

        def cut(request: Any, response: Any) -> Any:
            if "/sign?" not in request.url:
                return response
            document = response.json()
            value = document["value"][:-3] if change == "shorter" else "AAAA" + document["value"]
            return answer(response, {**document, "value": value})

        between.after = cut
        with pytest.raises(errors.IntegrityError, match="bytes, not 64"):
            connect(key_client=between).key(info).sign(b"m")


class TestForeignKeys:
    @pytest.fixture
    def foreign(self, keys: Any) -> Any:
        return keys.create_rsa_key("Legacy", size=2048)

    @pytest.mark.parametrize(
        "spelling", ["legacy", "LEGACY", f"https://{HOST}/keys/Legacy", f"azurekms://{HOST}/legacy", "kid"]
    )
    def test_it_is_used_by_any_identifier(self, client: KMSClient, foreign: Any, spelling: str) -> None:
        info = client.get_key(foreign.id if spelling == "kid" else spelling)
        assert str(info.uri) == f"azurekms://{HOST}/legacy"
        assert (info.purpose, info.origin) == (KeyPurpose.ENCRYPT_DECRYPT, KeyOrigin.UNKNOWN)
        assert (info.conf_digest, info.sender_fingerprint, info.sender_authenticated) == (None, None, False)
        lax = Policy(require_sender_authentication=False)
        ring = Keyring([client.key(info)], policy=lax)
        assert ring.decrypt(ring.encrypt(b"m", context={}), context={}) == b"m"

    def test_without_a_sender_key_it_opens_nothing_by_default(
        self, az: AzureEmulator, client: KMSClient, foreign: Any
    ) -> None:
        ours, theirs = client.key(client.generate_key(WRAPPING)), client.key("legacy")
        message = Keyring([ours, theirs]).encrypt(b"m", context={})
        assert Keyring([ours]).decrypt(message, context={}) == b"m"
        before = len(az.requests)
        with pytest.raises(errors.PolicyError):
            Keyring([theirs]).decrypt(message, context={})
        assert len(az.requests) == before

    def test_another_vaults_key_is_not_here(self, az: AzureEmulator, client: KMSClient) -> None:
        before = len(az.requests) + len(az.challenges)
        for name in (
            "https://other-vault.vault.azure.net/keys/orders",
            "awskms:///arn:aws:kms:eu-west-1:1:key/x",
        ):
            with pytest.raises((errors.KeyNotFoundError, errors.InvalidArgumentError)):
                client.get_key(name)
        assert len(az.requests) + len(az.challenges) == before

    def test_a_signing_key_is_pinned_at_its_version(self, client: KMSClient, keys: Any) -> None:
        first = keys.create_ec_key("code", curve="P-256K")
        second = keys.rotate_key("code")
        old, new = client.get_key(first.id), client.get_key("code")
        assert old.algorithm is new.algorithm is Algorithm.ES256K
        assert (old.uri.version, new.uri.version) == (first.properties.version, second.properties.version)
        for info in (old, new):
            key = client.key(info)
            key.verify(b"m", key.sign(b"m"))
        client.disable_key(old)
        assert client.describe_key(new).state is KeyState.ENABLED
        with pytest.raises(errors.UnsupportedOperationError, match="2 versions"):
            client.schedule_destruction(new)

    def test_their_key_ops_are_kept_to_before_the_call(
        self, az: AzureEmulator, client: KMSClient, keys: Any
    ) -> None:
        keys.create_rsa_key("limited", size=2048)
        keys.create_ec_key("code", curve="P-256")
        wrapping, signing = client.key("limited"), client.key("code")
        lax = Policy(require_sender_authentication=False)
        message = Keyring([wrapping], policy=lax).encrypt(b"m", context={})
        keys.update_key_properties("limited", key_operations=["encrypt", "verify"])
        keys.update_key_properties("code", key_operations=["verify"])
        before = len(az.requests)
        with pytest.raises(errors.KeyUsageError):
            Keyring([wrapping], policy=lax).decrypt(message, context={})
        with pytest.raises(errors.KeyUsageError):
            wrapping.wrap(bytes(32), context={})
        with pytest.raises(errors.KeyUsageError):
            signing.sign(b"m")
        assert not {"wrapKey", "unwrapKey", "sign"} & set(az.requests.operations[before:])
        for name in ("limited", "code"):
            with pytest.raises(errors.UnsupportedOperationError):
                client.get_key(name)

    @pytest.mark.parametrize("bound", ["not_before", "expires_on"])
    def test_their_dates_are_kept_to_before_the_call(
        self, az: AzureEmulator, client: KMSClient, connect: Connect, keys: Any, bound: str
    ) -> None:
        keys.create_rsa_key("dated", size=2048)
        lax = Policy(require_sender_authentication=False)
        message = Keyring([client.key("dated")], policy=lax).encrypt(b"m", context={})
        step = timedelta(days=1 if bound == "not_before" else -1)
        keys.update_key_properties("dated", **{bound: az.clock.now() + step})
        fresh = connect()
        key = fresh.key("dated")
        assert fresh.describe_key(key.info).state is KeyState.DISABLED
        before = len(az.requests)
        uses: list[Callable[[KMSClient], object]] = [
            lambda c: Keyring([c.key("dated")], policy=lax).decrypt(message, context={}),
            lambda c: c.key("dated").wrap(bytes(32), context={}),
        ]
        for use in uses:
            with pytest.raises(errors.KeyStateError):
                use(connect())
        assert not {"wrapKey", "unwrapKey"} & set(az.requests.operations[before:])

    def test_kinds_that_the_contract_does_not_have(self, client: KMSClient, keys: Any) -> None:
        keys.create_rsa_key("verifier", size=2048, key_operations=["verify"])
        with pytest.raises(errors.UnsupportedOperationError, match="verify"):
            client.get_key("verifier")
        keys.create_rsa_key("signer", size=2048, key_operations=["sign"])
        assert client.get_key("signer").algorithm is Algorithm.PS256
        keys.create_rsa_key("opener", size=2048, key_operations=["decrypt"])
        assert client.get_key("opener").purpose is KeyPurpose.ASYMMETRIC_DECRYPT


def test_a_senders_version_is_looked_up_once(az: AzureEmulator, client: KMSClient, keys: Any) -> None:
    info = client.generate_key(WRAPPING)
    ring = Keyring([client.key(info)])
    message = ring.encrypt(b"first", context={})
    before = len(az.requests)
    ring.encrypt(b"second", context={})
    assert az.requests.operations[before:] == ["GetKey", "wrapKey", "sign"]
    keys.begin_delete_key(SENDER).wait()
    keys.purge_deleted_key(SENDER)
    keys.create_ec_key(SENDER)  # another key pair of the same name
    with pytest.raises(errors.KMSError):
        ring.encrypt(b"third", context={})
    assert ring.decrypt(message, context={}) == b"first"


class TestOutsiders:
    """Who has only the RSA public key can wrap under it; nobody takes that for a message of the key's users."""

    def test_a_message_without_the_senders_signature_is_refused_unsent(
        self, az: AzureEmulator, client: KMSClient, connect: Connect
    ) -> None:
        info = client.generate_key(WRAPPING)
        ring = Keyring([connect().key(info)])
        outsider = replace(info, sender_fingerprint=None, sender_authenticated=False, conf_digest=None)
        forged = Keyring([client.key(outsider)]).encrypt(b"pay me", context={})
        before = len(az.requests)
        for use in (ring.decrypt, ring.decrypt_detailed):
            with pytest.raises(errors.PolicyError):
                use(forged, context={})
        assert len(az.requests) == before

    def test_another_keys_signature_does_not_do(
        self, az: AzureEmulator, client: KMSClient, connect: Connect
    ) -> None:
        info = client.generate_key(WRAPPING)
        mallory = client.generate_key(KeyConf("mallory", KeyPurpose.ENCRYPT_DECRYPT))
        genuine = Keyring([client.key(mallory)]).encrypt(b"pay me", context={})
        forged = genuine.replace(b"/mallory/", b"/orders/")
        before = len(az.requests)
        with pytest.raises(errors.KMSError):
            Keyring([connect().key(info)]).decrypt(forged, context={})
        assert "unwrapKey" not in az.requests.operations[before:]

    def test_rewrapping_a_forgery_does_not_make_it_genuine(
        self, az: AzureEmulator, client: KMSClient, connect: Connect
    ) -> None:
        info = client.generate_key(WRAPPING)
        successor = client.generate_key(KeyConf("successor", KeyPurpose.ENCRYPT_DECRYPT))
        outsider = replace(info, sender_fingerprint=None, sender_authenticated=False, conf_digest=None)
        forged = Keyring([client.key(outsider)]).encrypt(b"pay me", context={})
        target = [connect().key(successor)]
        before = len(az.requests)
        with pytest.raises(errors.PolicyError):
            Keyring([connect().key(info)]).rewrap(forged, to=target)
        assert len(az.requests) == before
        lenient = Policy(require_sender_authentication=False)
        laundered = Keyring([connect().key(info)], policy=lenient).rewrap(forged, to=target).message
        with pytest.raises(errors.PolicyError):
            Keyring(target).decrypt(laundered, context={})
        found = Keyring(target, policy=lenient).decrypt_detailed(laundered, context={})
        assert (found.plaintext, found.sender_authenticated) == (b"pay me", False)
