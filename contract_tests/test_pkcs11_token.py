"""What the PKCS#11 provider leaves on a token, and what it notices there."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, exceptions
from pkcs11.mechanisms import GCMParams

import anykms_pkcs11
from anykms.algorithms import KeyPurpose
from anykms.client import KMSClient
from anykms.errors import (
    ConflictError,
    InvalidArgumentError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyExistsError,
    KeyStateError,
    KeystoreError,
    KMSError,
    ProviderError,
    QuotaExceededError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)
from anykms.keys import ConnectionURI, KeyConf, KeyInfo, KeyState
from anykms.provider import Operation
from anykms.registry import connect
from anykms.retrying import RetryPolicy
from anykms_pkcs11 import PKCS11Provider
from anykms_pkcs11.errors import translate
from softhsm import MODULE, PIN, SoftHSM, require_softhsm, softhsm

require_softhsm(__file__)

SECRET = bytes(range(32))


@dataclass
class Store:
    """A token with a connection of ours, and a way past it."""

    uri: str
    label: str
    ahead: timedelta = field(default=timedelta(0))

    def open(self) -> KMSClient:
        where = ConnectionURI.parse(self.uri)
        return KMSClient(PKCS11Provider.connect(where, create=True, clock=self.now))

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    @contextmanager
    def raw(self) -> Generator[pkcs11.Session]:
        """Another PKCS#11 application's view; the login is the process's, so it is made if nobody made it."""
        token = pkcs11.lib(str(MODULE)).get_token(token_label=self.label)
        try:
            session = token.open(rw=True, user_pin=PIN)
        except exceptions.UserAlreadyLoggedIn:
            session = token.open(rw=True)
        with session:
            yield session


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[SoftHSM]:
    with softhsm(tmp_path / "softhsm") as found:
        yield found


@pytest.fixture
def store(tokens: SoftHSM) -> Store:
    return Store(tokens.make("store"), "store")


@pytest.fixture
def client(store: Store) -> Iterator[KMSClient]:
    with store.open() as opened:
        yield opened


def wrapping_key(client: KMSClient, name: str = "orders") -> KeyInfo:
    return client.generate_key(KeyConf(name, KeyPurpose.ENCRYPT_DECRYPT))


def signing_key(client: KMSClient, name: str = "releases") -> KeyInfo:
    return client.generate_key(KeyConf(name, KeyPurpose.SIGN_VERIFY, algorithm="ES256"))


def record_of(session: pkcs11.Session, name: str) -> Any:
    return one(session, {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: f"anykms/key/{name}"})


def one(session: pkcs11.Session, attributes: dict[Attribute, Any]) -> Any:
    (found,) = session.get_objects(attributes)
    return found


def put_data(session: pkcs11.Session, label: str, value: bytes) -> None:
    session.create_object(
        {
            Attribute.CLASS: ObjectClass.DATA,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.APPLICATION: "anykms",
            Attribute.LABEL: label,
            Attribute.VALUE: value,
        }
    )


# The objects of a key


@pytest.mark.parametrize("make", [wrapping_key, signing_key])
def test_keys_are_born_on_the_token_and_cannot_leave_it(store: Store, client: KMSClient, make: Any) -> None:
    name = make(client).name
    with store.raw() as session:
        item = one(session, {Attribute.LABEL: f"anykms/{name}/1"})
        for attribute in (
            Attribute.LOCAL,
            Attribute.SENSITIVE,
            Attribute.ALWAYS_SENSITIVE,
            Attribute.NEVER_EXTRACTABLE,
        ):
            assert item[attribute] is True
        with pytest.raises(exceptions.AttributeSensitive):
            item[Attribute.VALUE]


def test_a_disabled_key_is_refused_to_other_applications_too(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    parameters = {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(bytes(12), b"")}
    with store.raw() as session:
        client.rotate_key(info)
        versions = [one(session, {Attribute.LABEL: f"anykms/orders/{number}"}) for number in (1, 2)]
        for item in versions:
            assert item.encrypt(SECRET, **parameters)
        for forbid in (client.disable_key, client.schedule_destruction):
            forbid(info)
            for item in versions:
                with pytest.raises(exceptions.PKCS11Error, match="0x68"):
                    item.encrypt(SECRET, **parameters)
        client.cancel_destruction(info)
        assert not any(item[Attribute.DECRYPT] for item in versions)
        client.enable_key(info)
        for item in versions:
            assert item.encrypt(SECRET, **parameters)


def test_usage_taken_away_behind_our_back_comes_back_with_enable(store: Store, client: KMSClient) -> None:
    info = signing_key(client)
    key = client.key(info)
    for sign_before in (False, True):
        if sign_before:
            key.sign(b"message")
        with store.raw() as session:
            one(session, {Attribute.LABEL: "anykms/releases/1"})[Attribute.SIGN] = False
        with pytest.raises(KeyStateError, match="enable"):
            key.sign(b"message")
        client.enable_key(info)
        key.sign(b"message")


@pytest.mark.parametrize("make", [wrapping_key, signing_key])
def test_a_key_found_disabled_works_once_enabled(store: Store, make: Any) -> None:
    with store.open() as client:
        info = make(client)
        client.disable_key(info)
    with store.open() as client:
        client.enable_key(info)
        if make is wrapping_key:
            client.key(info).wrap(SECRET, context={})
        else:
            client.key(info).sign(b"message")


def test_usage_given_back_behind_our_back_does_not_enable_the_key(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    client.disable_key(info)
    with store.raw() as session:
        item = one(session, {Attribute.LABEL: "anykms/orders/1"})
        item[Attribute.ENCRYPT] = True
        with pytest.raises(KeyDisabledError):
            client.key(info).wrap(SECRET, context={})
        client.disable_key(info)
        assert not item[Attribute.ENCRYPT]


def test_destruction_destroys_every_version(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    client.rotate_key(info)
    client.schedule_destruction(info)
    store.ahead = timedelta(days=29)
    assert client.describe_key(info).state is KeyState.PENDING_DESTRUCTION
    store.ahead = timedelta(days=30, seconds=1)
    with store.raw() as session:
        assert len(list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY}))) == 3
        with store.open():  # whoever comes by does it
            assert [
                item[Attribute.LABEL]
                for item in session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY})
            ] == ["anykms/mac"]
    with pytest.raises(KeyDestroyedError):
        client.describe_key(info)


def test_nothing_is_left_of_a_key_that_was_refused(store: Store, client: KMSClient) -> None:
    wrapping_key(client)
    with store.raw() as session:
        before = len(list(session.get_objects({})))
        with pytest.raises(KeyExistsError):
            signing_key(client, "orders")
        assert len(list(session.get_objects({}))) == before


# Tampering


def test_an_edited_record_is_noticed(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    client.disable_key(info)
    with store.raw() as session:
        old = record_of(session, "orders")
        value = bytes(old[Attribute.VALUE])
        assert value.count(b'"DISABLED"') == 1
        old.destroy()
        put_data(session, "anykms/key/orders", value.replace(b'"DISABLED"', b'"ENABLED"'))
    for attempt in (
        lambda: client.describe_key(info),
        lambda: client.get_key("orders"),
        lambda: client.enable_key(info),
        lambda: client.key(info).wrap(SECRET, context={}),
        lambda: list(client.list_keys()),
        lambda: wrapping_key(client),
    ):
        with pytest.raises(KeystoreError, match="not authentic"):
            attempt()


@pytest.mark.parametrize("size", [0, 1, 31, 32, 39, 40])
def test_a_record_cut_short_is_noticed(store: Store, client: KMSClient, size: int) -> None:
    info = wrapping_key(client)
    with store.raw() as session:
        old = record_of(session, "orders")
        value = bytes(old[Attribute.VALUE])[:size]
        old.destroy()
        put_data(session, "anykms/key/orders", value)
    with pytest.raises(KeystoreError, match="not authentic"):
        client.describe_key(info)


def test_a_record_under_another_name_is_noticed(store: Store, client: KMSClient) -> None:
    wrapping_key(client)
    other = wrapping_key(client, "payments")
    with store.raw() as session:
        value = bytes(record_of(session, "orders")[Attribute.VALUE])
        record_of(session, "payments").destroy()
        put_data(session, "anykms/key/payments", value)
    with pytest.raises(KeystoreError, match="not authentic"):
        client.describe_key(other)


def test_a_record_that_is_gone_or_old_is_noticed(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    with store.raw() as session:
        enabled = bytes(record_of(session, "orders")[Attribute.VALUE])
        client.disable_key(info)
        record_of(session, "orders").destroy()
        with pytest.raises(KeystoreError, match="gone"):
            client.describe_key(info)
        put_data(session, "anykms/key/orders", enabled)
        with pytest.raises(KeystoreError, match="older"):
            client.describe_key(info)


def test_an_old_record_beside_the_new_one_is_cleared_away(store: Store) -> None:
    with store.open() as client:
        info = wrapping_key(client)
        with store.raw() as session:
            enabled = bytes(record_of(session, "orders")[Attribute.VALUE])
        client.disable_key(info)
    with store.raw() as session:
        put_data(session, "anykms/key/orders", enabled)
    with store.open() as client, store.raw() as session:  # remembers nothing
        assert client.describe_key(info).state is KeyState.DISABLED
        assert b'"DISABLED"' in record_of(session, "orders")[Attribute.VALUE]


def test_a_record_twice_there_is_noticed(store: Store) -> None:
    with store.open() as client:
        wrapping_key(client)
    with store.raw() as session:
        put_data(session, "anykms/key/orders", bytes(record_of(session, "orders")[Attribute.VALUE]))
    with pytest.raises(KeystoreError, match="several"):
        store.open()


def test_a_planted_key_is_not_used(store: Store) -> None:
    with store.open() as client:
        info = wrapping_key(client)
    with store.open() as client, store.raw() as session:
        made = one(session, {Attribute.LABEL: "anykms/orders/1"})
        planted = {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.ENCRYPT: True,
            Attribute.DECRYPT: True,
            Attribute.ID: made[Attribute.ID],
            Attribute.LABEL: "anykms/orders/1",
            Attribute.VALUE: bytes(32),
        }
        session.create_object(planted)
        with pytest.raises(KeystoreError, match="2 objects"):
            client.key(info).wrap(SECRET, context={})
        made.destroy()
        with pytest.raises(KeystoreError, match="not the one"):
            client.key(info).wrap(SECRET, context={})


def test_a_lost_object_is_a_keystore_error(store: Store, client: KMSClient) -> None:
    info = signing_key(client)
    key = client.key(info)
    key.sign(b"message")
    with store.raw() as session:
        one(session, {Attribute.LABEL: "anykms/releases/1"}).destroy()
    with pytest.raises(KeystoreError, match="0 objects"):
        key.sign(b"message")


def test_a_mac_key_that_may_not_sign_is_noticed(store: Store) -> None:
    store.open().close()
    with store.raw() as session:
        one(session, {Attribute.LABEL: "anykms/mac"})[Attribute.SIGN] = False
    with pytest.raises(KeyStateError, match="usage"):
        store.open()


def test_an_edited_store_object_is_noticed(store: Store) -> None:
    store.open().close()
    with store.raw() as session:
        old = one(session, {Attribute.LABEL: "anykms/store"})
        value = bytes(old[Attribute.VALUE])
        old.destroy()
        put_data(session, "anykms/store", value[:40] + b"a" * 26 + value[66:])
    with pytest.raises(KeystoreError, match="not authentic"):
        store.open()


# Login


def test_a_wrong_pin_is_refused(store: Store) -> None:
    where = ConnectionURI.parse(store.uri.partition("&")[0])
    with pytest.raises(UnauthenticatedError) as first:
        PKCS11Provider.connect(where, pin=lambda: "wrong-9876")
    with store.open(), pytest.raises(UnauthenticatedError) as second:  # though this process is logged in
        PKCS11Provider.connect(where, pin=lambda: "wrong-9876")
    for caught in (first, second):
        assert "9876" not in str(caught.value)
    PKCS11Provider.connect(where, pin=lambda: PIN, create=True).close()


def test_a_login_made_by_others_proves_no_pin(store: Store) -> None:
    with store.raw(), pytest.raises(UnauthenticatedError, match="outside of anykms"):
        store.open()


def test_connections_of_a_process_share_the_login(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    with store.open() as second:
        wrapped = second.key(info).wrap(SECRET, context={})
    assert client.key(info).unwrap(wrapped, context={}) == SECRET
    second.close()
    assert client.key(info).unwrap(wrapped, context={}) == SECRET
    with pytest.raises(InvalidArgumentError, match="closed"):
        second.key(info).unwrap(wrapped, context={})


@pytest.mark.parametrize(
    ("query", "pin"),
    [
        ("", PIN),
        ("?module=softhsm.so", PIN),
        (f"?module={MODULE}", None),
        (f"?module={MODULE}&pin=1234", None),
        (f"?module={MODULE}&pin-value=1234", None),
        (f"?module={MODULE}&pin-file=/nowhere", PIN),
        (f"?module={MODULE}&slot=1", PIN),
    ],
)
def test_bad_options_are_refused(query: str, pin: str | None) -> None:
    where = ConnectionURI.parse("pkcs11://any" + query)
    with pytest.raises(InvalidArgumentError) as caught:
        PKCS11Provider.connect(where, pin=None if pin is None else lambda: PIN)
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize(("mode", "content"), [(0o644, PIN), (0o600, ""), (0o600, "\n"), (0o600, "x" * 256)])
def test_bad_pin_files_are_refused(tmp_path: Path, mode: int, content: str) -> None:
    path = tmp_path / "pin"
    path.write_text(content)
    path.chmod(mode)
    where = ConnectionURI.parse(f"pkcs11://any?module={MODULE}&pin-file={path}")
    with pytest.raises(KeystoreError, match="PIN file"):
        PKCS11Provider.connect(where)


def test_an_absent_token_or_module_is_named(tokens: SoftHSM, tmp_path: Path) -> None:
    where = ConnectionURI.parse(f"pkcs11://absent?module={MODULE}&pin-file={tokens.pin_file}")
    with pytest.raises(UnavailableError, match="absent"):
        PKCS11Provider.connect(where)
    where = ConnectionURI.parse(f"pkcs11://absent?module={tmp_path}/none.so&pin-file={tokens.pin_file}")
    with pytest.raises(KeystoreError, match=r"none\.so"):
        PKCS11Provider.connect(where)


def test_a_token_without_our_objects_needs_create(store: Store) -> None:
    with pytest.raises(KeystoreError, match="create=True"):
        connect(store.uri)
    connect(store.uri, create=True).close()
    with connect(store.uri) as client:
        assert list(client.list_keys()) == []


@pytest.mark.parametrize(
    ("label", "spelling"), [("My Token", "my-token"), ("HSM_1 (Berlin)", "hsm-1-berlin"), ("a.b", "a.b")]
)
def test_a_label_has_one_spelling_in_the_uri(tokens: SoftHSM, label: str, spelling: str) -> None:
    connect(tokens.make(label, spelt=spelling), create=True).close()


def test_tokens_of_one_label_are_told_apart_by_serial(tokens: SoftHSM) -> None:
    uris = [tokens.make("twin"), tokens.make("twin")]
    serials = [
        token.serial.decode() for token in pkcs11.lib(str(MODULE)).get_tokens() if token.label == "twin"
    ]
    with pytest.raises(InvalidArgumentError, match=serials[0]):
        connect(uris[0], create=True)
    infos: list[KeyInfo] = []
    for serial in serials:
        with connect(f"{uris[0]}&serial={serial}", create=True) as client:
            infos.append(wrapping_key(client))
    assert infos[0].uri != infos[1].uri


def test_a_session_that_ended_is_unavailable_until_connected_anew(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    quick = KMSClient(PKCS11Provider.connect(ConnectionURI.parse(store.uri)), retry=RetryPolicy(sleep=ignore))
    pkcs11.lib(str(MODULE)).reinitialize()  # as when the token is pulled out and put back
    with pytest.raises(UnavailableError, match="connect again"):
        quick.describe_key(info)
    with store.open() as anew:
        assert anew.describe_key(info).state is KeyState.ENABLED
        with pytest.raises(UnavailableError, match="connect again"):
            quick.describe_key(info)
        quick.close()
        client.close()
        assert anew.describe_key(info).state is KeyState.ENABLED


def test_a_login_ended_by_others_does_not_look_like_missing_keys(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    with store.raw() as session:
        assert ctypes.CDLL(str(MODULE)).C_Logout(ctypes.c_ulong(session.handle)) == 0  # type: ignore[attr-defined]
        for attempt in (
            lambda: client.describe_key(info),
            lambda: client.get_key("payments"),
            lambda: list(client.list_keys()),
            lambda: wrapping_key(client, "payments"),
        ):
            with pytest.raises(UnauthenticatedError):
                attempt()
    with store.open() as anew:
        assert [found.name for found in anew.list_keys()] == ["orders"]


def ignore(seconds: float) -> None:
    """Wait no time."""


# Threads and processes


def test_threads_share_a_token(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    with store.open() as second, ThreadPoolExecutor(4) as pool:
        keys = [client.key(info), second.key(info)]

        def round_trip(number: int) -> bytes:
            wrapped = keys[number % 2].wrap(SECRET, context={"n": str(number)})
            return keys[(number + 1) % 2].unwrap(wrapped, context={"n": str(number)})

        assert set(pool.map(round_trip, range(80))) == {SECRET}


_MAKE = """
import sys, anykms
from anykms.errors import KeyExistsError
with anykms.connect(sys.argv[1]) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    made = 0
    for number in range(12):
        try:
            client.generate_key(anykms.KeyConf(f"orders-{number}", "ENCRYPT_DECRYPT"))
            made += 1
        except KeyExistsError:
            pass
    print(made)
"""
_ROTATE = """
import sys, anykms
from anykms.errors import ConflictError
with anykms.connect(sys.argv[1]) as client:
    info = client.get_key("orders")
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    for _ in range(5):
        try:
            client.rotate_key(info)
            done += 1
        except ConflictError:
            pass
    print(done)
"""


def together(script: str, uri: str) -> list[str]:
    """What two processes say that run the script at the same time."""
    racers = [
        subprocess.Popen(  # noqa: S603 # a script of this file
            [sys.executable, "-c", script, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate()[0].strip() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    return said


def test_two_processes_cannot_make_one_key_twice(store: Store, client: KMSClient) -> None:
    assert sum(map(int, together(_MAKE, store.uri))) == 12
    assert {info.name for info in client.list_keys()} == {f"orders-{number}" for number in range(12)}
    with store.raw() as session:
        assert len(list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY}))) == 12 + 1


def test_no_change_of_two_processes_is_lost(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    wrapped = client.key(info).wrap(SECRET, context={})
    done = sum(map(int, together(_ROTATE, store.uri)))
    assert done >= 5
    assert len(client.describe_key(info).versions) == 1 + done
    assert client.key(info).unwrap(wrapped, context={}) == SECRET
    with store.raw() as session:
        assert list(session.get_objects({Attribute.LABEL: "anykms/lock/key/orders"})) == []


_TOGGLE = """
import sys, anykms
with anykms.connect(sys.argv[1]) as client:
    info = client.get_key("orders")
    for _ in range(25):
        client.disable_key(info)
        client.enable_key(info)
"""


def test_reads_in_the_middle_of_changes_see_one_state_or_the_other(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    key = client.key(info)
    with subprocess.Popen([sys.executable, "-c", _TOGGLE, store.uri]) as toggling:  # noqa: S603 # a script of this file
        while toggling.poll() is None:
            with suppress(KeyDisabledError):
                key.wrap(SECRET, context={})
            assert [found.name for found in client.list_keys()] == ["orders"]
            assert client.get_key("orders") == info
    assert toggling.returncode == 0
    assert client.describe_key(info).state is KeyState.ENABLED


def test_a_change_by_another_process_is_seen_at_once(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    key = client.key(info)
    wrapped = key.wrap(SECRET, context={})
    script = "import sys, anykms\nwith anykms.connect(sys.argv[1]) as c: c.disable_key(c.get_key('orders'))"
    subprocess.run([sys.executable, "-c", script, store.uri], check=True)  # noqa: S603 # the lines above
    with pytest.raises(KeyDisabledError):
        key.unwrap(wrapped, context={})


def test_a_connection_does_not_survive_a_fork(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    wrapped = client.key(info).wrap(SECRET, context={})
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            with pytest.raises(UnsupportedOperationError, match="fork"):
                client.key(info).unwrap(wrapped, context={})
            client.close()
            with store.open() as anew:
                said = anew.key(info).unwrap(wrapped, context={})
        finally:
            os.write(writer, said or b"failed")
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == SECRET
    os.waitpid(child, 0)
    assert client.key(info).unwrap(wrapped, context={}) == SECRET


def test_the_lock_of_a_dead_process_is_taken_over(store: Store, client: KMSClient) -> None:
    info = wrapping_key(client)
    now = int(datetime.now(UTC).timestamp())
    with store.raw() as session:
        put_data(session, "anykms/lock/key/orders", now.to_bytes(8) + bytes(16))
        with pytest.raises(ConflictError):
            client.disable_key(info)
        assert client.describe_key(info).state is KeyState.ENABLED
        one(session, {Attribute.LABEL: "anykms/lock/key/orders"}).destroy()
        put_data(session, "anykms/lock/key/orders", (now - 100).to_bytes(8) + bytes(16))
        client.disable_key(info)
        assert client.describe_key(info).state is KeyState.DISABLED
        assert list(session.get_objects({Attribute.LABEL: "anykms/lock/key/orders"})) == []


# Limits


def test_wraps_of_a_version_are_counted(
    store: Store, client: KMSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anykms_pkcs11, "MAX_WRAPS", 256 + 512 + 100)
    info = wrapping_key(client)
    key = client.key(info)
    for _ in range(256 + 512):
        key.wrap(SECRET, context={})
    with pytest.raises(QuotaExceededError, match="rotate"):
        key.wrap(SECRET, context={})
    with store.open() as second, pytest.raises(QuotaExceededError):
        second.key(info).wrap(SECRET, context={})
    client.rotate_key(info)
    wrapped = key.wrap(SECRET, context={})
    assert key.unwrap(wrapped, context={}) == SECRET


def test_wraps_set_aside_are_not_used_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anykms_pkcs11, "MAX_WRAPS", 3 * 256)
    with store.open() as client:
        info = wrapping_key(client)
        client.key(info).wrap(SECRET, context={})
    for _ in range(2):  # each forgets what it set aside
        with store.open() as client:
            client.key(info).wrap(SECRET, context={})
    with store.open() as client, pytest.raises(QuotaExceededError):
        client.key(info).wrap(SECRET, context={})


_WITHOUT = """
import sys
import anykms
from anykms.errors import KMSError
try:
    with anykms.connect(sys.argv[1], create=True) as client:
        print(*sorted({f"{c.operation} {c.algorithm}" for c in client.capabilities if c.algorithm}), sep="\\n")
        client.generate_key(anykms.KeyConf("orders", "ENCRYPT_DECRYPT"))
        print("made")
except KMSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("mechanism", "present", "absent"),
    [
        ("CKM_AES_GCM", "sign ES256", "wrap A256GCM"),
        ("CKM_ECDSA", "wrap A256GCM", "sign ES256"),
        ("CKM_RSA_PKCS_PSS", "sign RS256", "sign PS256"),
        ("CKM_SHA512_RSA_PKCS_PSS", "sign PS256", "sign PS512"),
        ("CKM_SHA512_HMAC", "mac HS256", "mac HS512"),
        ("CKM_SHA256_HMAC", "", "mac HS256"),
    ],
)
def test_a_token_without_a_mechanism_lacks_the_capability(
    tmp_path: Path, mechanism: str, present: str, absent: str
) -> None:
    with softhsm(tmp_path / "softhsm", without=mechanism) as poor:
        done = subprocess.run(  # noqa: S603 # the lines above
            [sys.executable, "-c", _WITHOUT, poor.make("poor")], check=True, capture_output=True, text=True
        )
    lines = done.stdout.splitlines()
    assert absent not in lines
    assert not present or present in lines
    assert lines[-1] == ("made" if "wrap A256GCM" in lines else "UnsupportedOperationError")


def test_what_softhsm_cannot_do(client: KMSClient) -> None:
    """docs/providers/pkcs11.md names these as absent."""
    algorithms = {str(c.algorithm) for c in client.capabilities if c.operation is Operation.GENERATE_KEY}
    assert algorithms == {
        *("A256GCM", "ES256", "ES384", "ES512", "ES256K", "Ed25519", "HS256", "HS384", "HS512"),
        *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    }


# Errors


_NEVER_MAPPED = """
PKCS11Error AttributeTypeInvalid AttributeValueInvalid AttributeSensitive ArgumentsBad EncryptedDataInvalid
EncryptedDataLenRange ExceededMaxIterations KeyIndigestible KeyNeeded KeyNotNeeded KeyNotWrappable KeyUnextractable
MultipleObjectsReturned MultipleTokensReturned NoEvent NoSuchKey NoSuchToken PinTooWeak PublicKeyInvalid
RandomSeedNotSupported SessionExists SessionReadOnlyExists SessionReadWriteSOExists SignatureLenRange SignatureInvalid
TemplateIncomplete TemplateInconsistent UnwrappingKeyHandleInvalid UnwrappingKeySizeRange
UnwrappingKeyTypeInconsistent WrappedKeyInvalid WrappedKeyLenRange WrappingKeyHandleInvalid WrappingKeySizeRange
WrappingKeyTypeInconsistent
"""
"""What only a fault in our own arguments brings, what is dealt with where it occurs, and calls never made."""


def _return_values() -> dict[str, type[exceptions.PKCS11Error]]:
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type)]
    return {kind.__name__: kind for kind in kinds if issubclass(kind, exceptions.PKCS11Error)}


@pytest.mark.parametrize("name", _return_values())
def test_every_return_value_becomes_an_error_of_the_contract(name: str) -> None:
    found = translate(_return_values()[name]())
    assert isinstance(found, KMSError)
    assert (type(found) is ProviderError) is (name in _NEVER_MAPPED.split())


# The document


def test_the_documents_steps_work(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "providers" / "pkcs11.md"
    (block,) = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if name != "SOFTHSM2_CONF"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(  # noqa: S603 # our own document
        ["bash", "-e", "-c", block],  # noqa: S607 # any bash
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path), "PATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "4111 1111 1111 1111"
