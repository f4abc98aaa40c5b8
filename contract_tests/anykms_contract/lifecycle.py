"""Generate, find, disable, rotate and destroy keys."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import pytest

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.client import KMSClient
from anykms.envelope.keyring import Keyring
from anykms.errors import (
    InvalidArgumentError,
    InvalidCiphertextError,
    KeyConfMismatchError,
    KeyDestroyedError,
    KeyExistsError,
    KeyNotAllowedError,
    KeyNotFoundError,
    KeyStateError,
    NameReservedError,
    UnsupportedOperationError,
)
from anykms.keys import KeyConf, KeyInfo, KeyState, KeyStatus, UnverifiedKeyInfo
from anykms.provider import Operation
from anykms_contract.clauses import Contract, each
from anykms_contract.harness import ES256, HS256, OAEP, Harness, KeyKind

_NAMES = {
    "empty": "",
    "one-character": "a",
    "upper-case": "Orders",
    "digit-first": "1orders",
    "hyphen-first": "-orders",
    "hyphen-last": "orders-",
    "two-hyphens": "or--ders",
    "underscore": "or_ders",
    "dot": "or.ders",
    "slash": "or/ders",
    "space": "or ders",
    "newline": "orders\n",
    "null": "or\0ders",
    "64-characters": "a" * 64,
    "accent": "ordérs",
    "cyrillic-a": "\N{CYRILLIC SMALL LETTER A}orders",
    "surrogate": "or\ud800ders",
}
_TAGS = {
    "eleven": {f"tag{n}": "" for n in range(11)},
    "reserved": {"anykms-x": "1"},
    "empty-name": {"": "1"},
    "digit-first": {"1a": "1"},
    "upper-case-name": {"Team": "1"},
    "64-character-name": {"a" * 64: "1"},
    "upper-case-value": {"team": "Blue"},
    "64-character-value": {"team": "a" * 64},
    "space-in-value": {"team": "a b"},
    "newline-in-value": {"team": "blue\n"},
}
_NEW_PROCESS = """
import base64, sys
import anykms
uri, key, message = sys.argv[1:]
with anykms.connect(uri) as client:
    ring = anykms.Keyring([client.key(key)])
    sys.stdout.write(ring.decrypt(base64.b64decode(message), context={"n": "1"}, aad=b"a").hex())
"""


class LifecycleContract(Contract):
    """The administrator's plane."""

    # Names and limits

    @each("name", _NAMES)
    def test_a_name_outside_the_limits_is_refused_unsent(self, harness: Harness, name: str) -> None:
        """C2.1: A key's name has 2 to 63 of a-z, 0-9 and single hyphens, a letter first, no hyphen last."""
        connection = harness.main
        with connection.quiet(), pytest.raises(InvalidArgumentError) as caught:
            connection.client.generate_key(harness.conf(harness.wrapping, name=name))
        assert type(caught.value) is InvalidArgumentError

    def test_the_longest_name_is_kept(self, harness: Harness) -> None:
        """C2.1: A name of 63 characters is as good as any, and is given back as it was."""
        name = f"{harness.name()}-".ljust(63, "z")
        made = harness.main.client.generate_key(harness.conf(harness.wrapping, name=name))
        assert made.name == name
        assert harness.main.client.get_key(name) == made

    @each("tags", _TAGS)
    def test_tags_outside_the_limits_are_refused_unsent(self, harness: Harness, tags: dict[str, str]) -> None:
        """C2.2: At most 10 tags, in small letters, digits, _ and -; names beginning with anykms are reserved."""
        with harness.main.quiet(), pytest.raises(InvalidArgumentError) as caught:
            harness.main.client.generate_key(harness.conf(harness.wrapping, tags=tags))
        assert type(caught.value) is InvalidArgumentError

    def test_tags_at_the_limits_are_kept(self, harness: Harness) -> None:
        """C2.2: Ten tags, the longest name, the longest and the empty value are kept exactly."""
        tags = {f"tag{n}": str(n) for n in range(8)} | {"a" * 63: "b" * 63, "c_-9": ""}
        made = harness.main.client.generate_key(harness.conf(harness.wrapping, tags=tags))
        assert dict(made.tags) == tags
        assert dict(harness.main.client.get_key(made.name).tags) == tags

    @each("days", {str(days): days for days in (-1, 0, 6, 31, 90)})
    def test_a_destroy_window_outside_the_limits_is_refused_unsent(self, harness: Harness, days: int) -> None:
        """C2.3: A destroy window is 7 to 30 whole days."""
        with harness.main.quiet(), pytest.raises(InvalidArgumentError) as caught:
            harness.main.client.generate_key(harness.conf(harness.wrapping, destroy_window=days))
        assert type(caught.value) is InvalidArgumentError

    @each("days", {str(days): days for days in (-1, 0, 89, 2561)})
    def test_a_rotation_period_outside_the_limits_is_refused_unsent(
        self, harness: Harness, days: int
    ) -> None:
        """C2.4: A rotation period is 90 to 2560 whole days."""
        with harness.main.quiet(), pytest.raises(InvalidArgumentError) as caught:
            harness.main.client.generate_key(harness.conf(harness.wrapping, rotation_period=days))
        assert type(caught.value) is InvalidArgumentError

    @each("days", {"90": 90, "2560": 2560})
    def test_a_rotation_period_at_the_limits_is_kept(self, harness: Harness, days: int) -> None:
        """C2.4: The rotation period is the one asked for, and the status says when it is due."""
        made = harness.main.client.generate_key(harness.conf(harness.wrapping, rotation_period=days))
        status = harness.main.client.describe_key(made)
        assert status.rotation_period == days
        assert status.next_rotation_at is not None
        assert abs(status.next_rotation_at - made.created_at - timedelta(days=days)) <= timedelta(days=1)

    # Generate

    def test_the_default_key_wraps(self, harness: Harness) -> None:
        """C3.1: Without an algorithm an ENCRYPT_DECRYPT key gets the provider's default, which authenticates
        senders.
        """
        made = harness.main.client.generate_key(KeyConf(harness.name(), KeyPurpose.ENCRYPT_DECRYPT))
        assert made.algorithm is harness.wrapping.algorithm
        assert made.key_size == harness.wrapping.key_size
        assert made.sender_authenticated
        assert harness.main.client.describe_key(made).state is KeyState.ENABLED

    @each("kind", {"wrapping": None, "ES256": ES256, "HS256": HS256, "RSA-OAEP-256-2048": OAEP})
    def test_create_twice_is_refused_and_leaves_nothing(self, harness: Harness, kind: KeyKind | None) -> None:
        """C3.3: A live key's name is KeyExistsError; the key that has it is untouched and no other appears."""
        made = harness.shared(kind or harness.wrapping)
        if made is None:
            return
        before = harness.main.client.describe_key(made)
        listed = sorted(str(info.uri) for info in harness.main.client.list_keys())
        with pytest.raises(KeyExistsError) as caught:
            harness.main.client.generate_key(harness.conf(harness.wrapping, name=made.name))
        assert type(caught.value) is KeyExistsError
        assert harness.main.client.get_key(made.name) == made
        assert harness.main.client.describe_key(made) == before
        assert sorted(str(info.uri) for info in harness.main.client.list_keys()) == listed

    def test_the_name_of_a_disabled_key_is_taken(self, harness: Harness) -> None:
        """C3.3: A disabled key is a live key: its name is KeyExistsError."""
        made = harness.generate()
        harness.main.client.disable_key(made)
        with pytest.raises(KeyExistsError):
            harness.main.client.generate_key(harness.conf(harness.wrapping, name=made.name))

    def test_the_name_of_a_key_pending_destruction_is_reserved(self, harness: Harness) -> None:
        """C3.4: The name of a key pending destruction is NameReservedError, and the key can still be taken back."""
        made = harness.generate()
        harness.main.client.schedule_destruction(made)
        with pytest.raises(NameReservedError) as caught:
            harness.main.client.generate_key(harness.conf(harness.wrapping, name=made.name))
        assert type(caught.value) is NameReservedError
        harness.main.client.cancel_destruction(made)
        assert harness.main.client.describe_key(made).state is KeyState.DISABLED

    def test_a_destroyed_keys_name_never_names_the_old_key(self, harness: Harness) -> None:
        """C3.4: After destruction a name is reserved; where it can come back it names another key: the old
        KeyInfo stays destroyed, and the new key opens nothing of the old one's.
        """
        if harness.advance is None:
            _vanishes_by_report(harness)
            return
        made = harness.generate()
        wrapped = harness.main.key(made).wrap(bytes(32), context={})
        harness.destroy(harness.main.client, made)
        conf = harness.conf(harness.wrapping, name=made.name)
        if not harness.names_return:
            with pytest.raises(NameReservedError) as caught:
                harness.main.client.generate_key(conf)
            assert type(caught.value) is NameReservedError
            return
        successor = harness.main.client.generate_key(conf)
        assert successor != made
        for connection in (harness.main, harness.connect()):
            with pytest.raises(
                KeyDestroyedError
            ):  # first: until it is read again a status is believed (C4.3)
                connection.client.describe_key(made)
            with pytest.raises(KeyDestroyedError):
                connection.key(made).wrap(bytes(32), context={})
            with pytest.raises(KeyDestroyedError):
                connection.key(made).unwrap(wrapped, context={})
            with pytest.raises((KeyNotAllowedError, InvalidCiphertextError)):
                connection.key(successor).unwrap(wrapped, context={})

    @each(
        "change",
        {
            "tags": {"tags": {"team": "red"}},
            "conf_digest": {"conf_digest": "a" * 52},
            "rotation_period": {"rotation_period": 360},
        },
    )
    def test_a_key_that_differs_from_its_conf_is_disabled(
        self, harness: Harness, change: dict[str, Any]
    ) -> None:
        """C3.2: generate_key reads the key back; what three reads confirm to differ is KeyConfMismatchError."""
        connection = harness.connect()
        seam = connection.seam
        conf = harness.conf(harness.wrapping, tags={"team": "blue"}, rotation_period=180)
        seam.misread(lambda template: replace(template, **change))
        with pytest.raises(KeyConfMismatchError) as caught:
            connection.client.generate_key(conf)
        assert type(caught.value) is KeyConfMismatchError
        assert next(iter(change)) in str(caught.value)
        assert seam.count(Operation.GET_KEY) == 1 + 3  # once to see that the name is free
        assert seam.count(Operation.GENERATE_KEY) == 1
        left = harness.main.client.get_key(conf.name)
        assert harness.main.client.describe_key(left).state is KeyState.DISABLED

    @each(
        "wanted,change",
        {
            "size": (KeyKind(KeyPurpose.SIGN_VERIFY, Algorithm.RS256, 2048), {"key_size": 3072}),
            "algorithm": (ES256, {"algorithm": Algorithm.ES384}),
        },
    )
    def test_a_key_of_another_algorithm_or_size_is_disabled(
        self, harness: Harness, wanted: KeyKind, change: dict[str, Any]
    ) -> None:
        """C3.2: A key of another algorithm or size than asked for is KeyConfMismatchError, and disabled."""
        if not harness.supports(wanted):
            harness.refuses(wanted)
            return
        connection = harness.connect()
        conf = harness.conf(wanted)
        connection.seam.misread(lambda template: replace(template, **change))
        with pytest.raises(KeyConfMismatchError) as caught:
            connection.client.generate_key(conf)
        assert next(iter(change)) in str(caught.value)
        left = harness.main.client.get_key(conf.name)
        assert harness.main.client.describe_key(left).state is KeyState.DISABLED

    def test_differing_reads_are_forgiven_until_the_third(self, harness: Harness) -> None:
        """C3.2: A read that lags is no mismatch: only three in a row are."""
        connection = harness.connect()
        reads: list[KeyStatus] = []

        def lagging(status: KeyStatus) -> KeyStatus:
            reads.append(status)
            return replace(status, state=KeyState.DISABLED) if len(reads) < 3 else status

        connection.seam.answer(Operation.DESCRIBE_KEY, lagging)
        made = connection.client.generate_key(harness.conf(harness.wrapping))
        assert len(reads) == (
            3 if connection.seam.strongly_consistent else 4
        )  # where reads lag, two must agree
        assert harness.main.client.describe_key(made).state is KeyState.ENABLED

    # Find

    def test_a_key_is_found_by_name_and_by_uri(self, harness: Harness) -> None:
        """C3.5: A key is the same by its name and by its canonical URI, in every connection."""
        made = harness.wrapping_key()
        other = harness.connect().client
        assert other.get_key(made.name) == made
        assert other.get_key(str(made.uri)) == made
        assert other.key(made.name).info == made

    def test_an_unknown_name_is_not_found(self, harness: Harness) -> None:
        """C3.5: A name that no key has is KeyNotFoundError."""
        with pytest.raises(KeyNotFoundError) as caught:
            harness.main.client.get_key(harness.name())
        assert type(caught.value) is KeyNotFoundError

    def test_the_list_holds_every_key_but_destroyed_ones(self, harness: Harness) -> None:
        """C3.6: list_keys gives the keys that anykms made, in every state but DESTROYED."""
        client = harness.main.client
        made = {state: harness.generate() for state in _LIVE_STATES}
        for state, info in made.items():
            harness.bring(info, state)
        gone = harness.generate()
        if harness.has_clock():
            for info in made.values():  # what is pending would go with it
                if client.describe_key(info).state is KeyState.PENDING_DESTRUCTION:
                    client.cancel_destruction(info)
            harness.destroy(client, gone)
            client.schedule_destruction(made[KeyState.PENDING_DESTRUCTION])
        listed = {info.name: info for info in client.list_keys()}
        for info in made.values():
            assert listed.get(info.name) == info
        assert (gone.name in listed) is (harness.advance is None)

    # States

    def test_disable_and_enable(self, harness: Harness) -> None:
        """C3.7: A key can be disabled and enabled; doing it again changes nothing."""
        client, made = harness.main.client, harness.generate()
        for _ in range(2):
            client.disable_key(made)
            assert client.describe_key(made).state is KeyState.DISABLED
            assert client.get_key(made.name) == made
        for _ in range(2):
            client.enable_key(made)
            assert client.describe_key(made).state is KeyState.ENABLED
        assert client.key(made).wrap(bytes(32), context={})

    def test_a_scheduled_destruction_says_when(self, harness: Harness) -> None:
        """C3.8: schedule_destruction returns the moment, which the status repeats: UTC, whole seconds."""
        client, made = harness.main.client, harness.generate()
        due = client.schedule_destruction(made)
        status = client.describe_key(made)
        assert status.state is KeyState.PENDING_DESTRUCTION
        assert status.destroy_at == due
        assert due.tzinfo is UTC
        assert due.microsecond == 0
        assert client.get_key(made.name) == made

    @each("days", {"7": 7, "30": 30})
    def test_the_destroy_window_is_kept_exactly(self, harness: Harness, days: int) -> None:
        """C2.3: A destroy window is kept to the day, or refused before the key is made."""
        client = harness.main.client
        conf = harness.conf(harness.wrapping, destroy_window=days)
        calls = harness.main.seam.count(Operation.GENERATE_KEY)
        try:
            made = client.generate_key(conf)
        except InvalidArgumentError:
            assert harness.main.seam.count(Operation.GENERATE_KEY) <= calls + 1
            with pytest.raises(KeyNotFoundError):
                client.get_key(conf.name)
            return
        assert made.destroy_window == days
        due = client.schedule_destruction(made)
        assert timedelta(0) <= due - made.created_at - timedelta(days=days) < timedelta(hours=1)

    def test_a_cancelled_destruction_gives_a_disabled_key(self, harness: Harness) -> None:
        """C3.9: Cancelling a destruction gives DISABLED, never ENABLED; the key then works once enabled."""
        client, made = harness.main.client, harness.generate()
        wrapped = client.key(made).wrap(bytes(range(32)), context={})
        client.schedule_destruction(made)
        client.cancel_destruction(made)
        status = client.describe_key(made)
        assert status.state is KeyState.DISABLED
        assert status.destroy_at is None
        client.enable_key(made)
        assert client.key(made).unwrap(wrapped, context={}) == bytes(range(32))

    def test_what_is_not_scheduled_cannot_be_cancelled(self, harness: Harness) -> None:
        """C3.9: Cancelling a destruction that nobody scheduled is KeyStateError, and changes nothing."""
        client, made = harness.main.client, harness.generate()
        with pytest.raises(KeyStateError):
            client.cancel_destruction(made)
        assert client.describe_key(made).state is KeyState.ENABLED

    def test_a_destroyed_key_is_gone(self, harness: Harness) -> None:
        """C3.10: By KeyInfo a destroyed key is KeyDestroyedError, by name KeyNotFoundError, for good."""
        if harness.advance is None:
            _vanishes_by_report(harness)
            return
        client, made = harness.main.client, harness.generate()
        wrapped = client.key(made).wrap(bytes(32), context={})
        harness.destroy(client, made)
        for connection in (harness.main, harness.connect()):
            with pytest.raises(KeyDestroyedError):
                connection.client.describe_key(made)
            with pytest.raises(KeyNotFoundError):
                connection.client.get_key(made.name)
            with pytest.raises(KeyDestroyedError):
                connection.client.key(made).unwrap(wrapped, context={})
            with pytest.raises(KeyDestroyedError):
                connection.client.cancel_destruction(made)

    def test_destruction_waits_for_its_window(self, harness: Harness) -> None:
        """C3.8: Until the window has passed the destruction can be cancelled."""
        client, made = harness.main.client, harness.generate()
        due = client.schedule_destruction(made)
        harness.let_pass(due - made.created_at - timedelta(hours=1))
        assert client.describe_key(made).state is KeyState.PENDING_DESTRUCTION
        client.cancel_destruction(made)
        assert client.describe_key(made).state is KeyState.DISABLED

    # Rotation

    def test_rotation_makes_a_new_version_of_the_same_key(self, harness: Harness) -> None:
        """C3.11: After a rotation the key's facts are the same and new wraps use another version."""
        client, made = harness.main.client, harness.generate()
        before = client.describe_key(made)
        after = client.rotate_key(made)
        assert after.state is KeyState.ENABLED
        assert client.get_key(made.name) == made
        moved = after.current_version != before.current_version
        assert (
            moved
            or len(after.versions) > len(before.versions)
            or (before.rotations_left is not None and after.rotations_left == before.rotations_left - 1)
        )
        if after.current_version is not None:
            assert moved
            assert [v.id for v in after.versions].count(after.current_version) == 1
            assert {v.id for v in before.versions} < {v.id for v in after.versions}

    def test_old_messages_open_after_rotation_in_a_new_process(self, harness: Harness) -> None:
        """C3.11: What an old version wrapped opens after rotations, also in a process that saw none of them."""
        client, made = harness.main.client, harness.generate()
        ring = Keyring([client.key(made)])
        messages = [ring.encrypt(b"before", context={"n": "1"}, aad=b"a")]
        wrapped = client.key(made).wrap(bytes(range(32)), context={})
        for _ in range(2):
            client.rotate_key(made)
            messages.append(ring.encrypt(b"before", context={"n": "1"}, aad=b"a"))
        other = harness.connect().client
        for message in messages:
            assert Keyring([other.key(made.name)]).decrypt(message, context={"n": "1"}, aad=b"a") == b"before"
            assert _decrypt_elsewhere(harness, made, message) == b"before"
        assert other.key(made).unwrap(wrapped, context={}) == bytes(range(32))

    @each("kind", {"ES256": ES256, "HS256": HS256, "RSA-OAEP-256-2048": OAEP})
    def test_other_purposes_do_not_rotate(self, harness: Harness, kind: KeyKind) -> None:
        """C3.12: A signing, MAC or decryption key has one version for life: Unsupported, and nothing is sent."""
        made = harness.shared(kind)
        if made is None:
            return
        with harness.main.quiet(), pytest.raises(UnsupportedOperationError) as caught:
            harness.main.client.rotate_key(made)
        assert type(caught.value) is UnsupportedOperationError
        assert len(harness.main.client.describe_key(made).versions) <= 1

    # Arguments

    def test_facts_without_a_seal_name_no_key(self, harness: Harness) -> None:
        """C1.8: Facts read from bytes are no KeyInfo: every method refuses them with TypeError, unsent."""
        client, made = harness.main.client, harness.wrapping_key()
        unverified = UnverifiedKeyInfo.from_json(made.to_json())
        with harness.main.quiet():
            for method in _takes_key_info(client):
                with pytest.raises(TypeError):
                    method(unverified)

    def test_another_providers_facts_are_refused(self, harness: Harness) -> None:
        """C1.10: A KeyInfo of another provider is InvalidArgumentError, unsent."""
        foreign = replace(harness.wrapping_key(), provider="elsewhere")
        with harness.main.quiet():
            for method in _takes_key_info(harness.main.client):
                with pytest.raises(InvalidArgumentError):
                    method(foreign)


_LIVE_STATES = (KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DESTRUCTION)


def _takes_key_info(client: KMSClient) -> tuple[Callable[[Any], object], ...]:
    return (
        client.describe_key,
        client.enable_key,
        client.disable_key,
        client.rotate_key,
        client.schedule_destruction,
        client.cancel_destruction,
        client.key,
    )


def _decrypt_elsewhere(harness: Harness, info: KeyInfo, message: bytes) -> bytes:
    """Decrypt in a really new interpreter where the store can be opened by URI, else on a new connection."""
    if harness.process_uri is None:
        return Keyring([harness.connect().client.key(info)]).decrypt(message, context={"n": "1"}, aad=b"a")
    done = subprocess.run(  # noqa: S603 # our own interpreter and script
        [
            sys.executable,
            "-c",
            _NEW_PROCESS,
            harness.process_uri,
            info.name,
            base64.b64encode(message).decode(),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return bytes.fromhex(done.stdout)


def _vanishes_by_report(harness: Harness) -> None:
    """A store whose clock stands still destroys nothing in time, so the seam reports it."""
    connection = harness.seeing(harness.wrapping_key(), KeyState.DESTROYED)
    with pytest.raises(KeyDestroyedError):
        connection.client.describe_key(harness.wrapping_key())
