"""What the client does on its own account: the state gate, read-back, lost replies, pinned keys, leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anykms import (
    Algorithm,
    KeyConf,
    KeyInfo,
    KeyPurpose,
    KeyState,
    KeyStatus,
    KMSClient,
    KMSError,
    RetryPolicy,
    UnverifiedKeyInfo,
    errors,
)
from anykms.keys import ConnectionURI, KeyTemplate
from anykms.provider import Operation
from anykms_local import LocalProvider

WRAPPING = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT)
SIGNING = KeyConf("releases", KeyPurpose.SIGN_VERIFY, algorithm="ES256")


class Watched(LocalProvider):
    """A real keystore that counts calls and fails where it is told to.

    Attributes:
        calls: operations in the order they were asked for.
        before, after: what to raise in place of, or after, an operation; each once.
    """

    calls: list[str]
    before: dict[str, list[KMSError]]
    after: dict[str, list[KMSError]]
    hide: int = 0
    forge: Callable[[KeyInfo], KeyInfo] | None = None
    careless: frozenset[Operation] = frozenset()

    def watch(self) -> None:
        self.calls, self.before, self.after = [], {}, {}

    def _enter(self, name: str) -> None:
        self.calls.append(name)
        if self.before.get(name):
            raise self.before[name].pop(0)

    def _leave(self, name: str) -> None:
        if self.after.get(name):
            raise self.after[name].pop(0)

    def _true(self, info: KeyInfo) -> KeyInfo:
        return super().get_key(str(info.uri)) if self.forge else info

    @property
    def ungated(self) -> frozenset[Operation]:
        return self.careless

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        self._enter("create_key")
        made = super().create_key(template)
        self._leave("create_key")
        return made

    def get_key(self, name: str) -> KeyInfo:
        self._enter("get_key")
        if self.hide:
            self.hide -= 1
            raise errors.KeyNotFoundError("not visible yet")
        found = super().get_key(name)
        return self.forge(found) if self.forge else found

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        self._enter("describe_key")
        return super().describe_key(self._true(info))

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        self._enter("set_enabled")
        super().set_enabled(self._true(info), enabled)
        self._leave("set_enabled")

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        self._enter("rotate_key")
        status = super().rotate_key(info)
        self._leave("rotate_key")
        return status

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        self._enter("schedule_destruction")
        when = super().schedule_destruction(info)
        self._leave("schedule_destruction")
        return when

    def cancel_destruction(self, info: KeyInfo) -> None:
        self._enter("cancel_destruction")
        super().cancel_destruction(info)
        self._leave("cancel_destruction")

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        self._enter("get_public_key")
        return super().get_public_key(info, version)

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        self._enter("sign")
        return super().sign(info, message, prehashed)


class World:
    """A keystore, its clock, and clients that never really sleep."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.monotonic = 0.0
        where = ConnectionURI.parse(f"local://{folder}/keys.db")
        self.provider = Watched.connect(where, create=True, clock=lambda: self.now)
        self.provider.watch()
        self.client = self.connect()

    def connect(self, *, state_ttl: float = 60.0) -> KMSClient:
        retry = RetryPolicy(sleep=self.sleep, clock=lambda: self.monotonic)
        return KMSClient(self.provider, retry=retry, state_ttl=state_ttl)

    def sleep(self, seconds: float) -> None:
        self.monotonic += seconds
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.client.close()


# Generation


def test_a_key_is_read_back_and_compared(world: World) -> None:
    info = world.client.generate_key(WRAPPING)
    assert world.provider.calls[:3] == ["get_key", "create_key", "get_key"]
    assert info.conf_digest == WRAPPING.digest


def test_a_key_that_cannot_be_seen_yet_is_waited_for(world: World) -> None:
    world.provider.hide = 3
    assert world.client.generate_key(WRAPPING).name == "orders"
    assert world.monotonic > 0


def test_a_key_that_never_becomes_visible_is_a_deadline(world: World) -> None:
    world.provider.hide = 10_000
    with pytest.raises(errors.DeadlineExceededError, match="read back"):
        world.client.generate_key(WRAPPING)
    assert 10 <= world.monotonic <= 12
    assert world.provider.calls.count("create_key") == 1


FORGERIES: dict[str, Callable[[KeyInfo], KeyInfo]] = {
    "algorithm": lambda info: replace(info, algorithm=Algorithm.ES384),
    "tags": lambda info: replace(info, tags={"extra": "tag"}),
    "conf_digest": lambda info: replace(info, conf_digest=None),
    "name": lambda info: replace(info, name="other"),
    "purpose": lambda info: replace(info, purpose=KeyPurpose.MAC),
}


@pytest.mark.parametrize("field", FORGERIES)
def test_a_difference_that_three_reads_confirm_disables_the_key(world: World, field: str) -> None:
    world.provider.forge = FORGERIES[field]
    with pytest.raises(errors.KeyConfMismatchError, match=field):
        world.client.generate_key(SIGNING)
    world.provider.forge = None
    assert world.provider.calls.count("get_key") == 1 + 3
    assert world.client.describe_key(world.client.get_key("releases")).state is KeyState.DISABLED


def test_a_difference_that_passes_is_forgiven(world: World) -> None:
    left = [2]

    def forge(info: KeyInfo) -> KeyInfo:
        left[0] -= 1
        return replace(info, tags={"stale": "tag"}) if left[0] >= 0 else info

    world.provider.forge = forge
    assert world.client.generate_key(SIGNING).tags == {}


def test_a_lost_reply_of_create_is_finished_not_repeated(world: World) -> None:
    world.provider.after["create_key"] = [errors.UnavailableError("reset")]
    assert world.client.generate_key(WRAPPING).name == "orders"
    assert world.provider.calls.count("create_key") == 1


def test_a_create_that_never_happened_is_raised_not_repeated(world: World) -> None:
    world.provider.before["create_key"] = [errors.UnavailableError("down")]
    with pytest.raises(errors.UnavailableError, match="down"):
        world.client.generate_key(WRAPPING)
    assert world.provider.calls.count("create_key") == 1


def test_another_key_of_that_name_is_not_taken_for_the_lost_one(world: World) -> None:
    world.client.generate_key(replace_conf(WRAPPING, tags={"by": "another"}))
    world.provider.before["create_key"] = [errors.UnavailableError("down")]
    with pytest.raises(errors.UnavailableError):
        world.client.generate_key(WRAPPING)


def test_an_older_key_of_the_same_conf_is_not_taken_for_the_lost_one(world: World) -> None:
    world.client.generate_key(WRAPPING)
    world.provider.before["create_key"] = [errors.UnavailableError("down")]
    with pytest.raises(errors.UnavailableError, match="down"):
        world.client.generate_key(WRAPPING)


def replace_conf(conf: KeyConf, *, tags: dict[str, str]) -> KeyConf:
    return KeyConf(conf.name, conf.purpose, algorithm=conf.algorithm, tags=tags)


# Lifecycle


CHANGES: list[tuple[str, Callable[[KMSClient, KeyInfo], object]]] = [
    ("set_enabled", lambda client, info: client.disable_key(info)),
    ("rotate_key", lambda client, info: client.rotate_key(info)),
    ("schedule_destruction", lambda client, info: client.schedule_destruction(info)),
]


@pytest.mark.parametrize(("operation", "change"), CHANGES)
@pytest.mark.parametrize(
    "kind", [errors.UnavailableError, errors.DeadlineExceededError, errors.ConflictError]
)
def test_a_lost_reply_of_a_change_is_finished_from_the_state(
    world: World, operation: str, change: Callable[[KMSClient, KeyInfo], object], kind: type[KMSError]
) -> None:
    info = world.client.generate_key(WRAPPING)
    world.provider.after[operation] = [kind("reset")]
    change(world.client, info)
    assert world.provider.calls.count(operation) == 1


@pytest.mark.parametrize(("operation", "change"), CHANGES)
def test_a_change_that_never_happened_is_raised(
    world: World, operation: str, change: Callable[[KMSClient, KeyInfo], object]
) -> None:
    info = world.client.generate_key(WRAPPING)
    world.provider.before[operation] = [errors.ThrottledError("slow down", retry_after=3.0)]
    with pytest.raises(errors.ThrottledError) as caught:
        change(world.client, info)
    assert world.provider.calls.count(operation) == 1
    assert (caught.value.provider, caught.value.operation, caught.value.key) == (
        "local",
        operation,
        str(info.uri),
    )


def test_cancelling_gives_a_disabled_key_and_says_so_after_a_lost_reply_too(world: World) -> None:
    info = world.client.generate_key(WRAPPING)
    due = world.client.schedule_destruction(info)
    assert due == world.now.replace(microsecond=0) + timedelta(days=30)
    world.provider.after["cancel_destruction"] = [errors.UnavailableError("reset")]
    world.client.cancel_destruction(info)
    assert world.client.describe_key(info).state is KeyState.DISABLED


def test_only_wrapping_keys_rotate(world: World) -> None:
    info = world.client.generate_key(SIGNING)
    world.provider.calls.clear()
    with pytest.raises(errors.UnsupportedOperationError, match="successor"):
        world.client.rotate_key(info)
    assert world.provider.calls == []


# State gate


def test_a_state_once_seen_is_believed_until_it_expires(world: World) -> None:
    info = world.client.generate_key(SIGNING)
    key, elsewhere = world.client.key(info), world.connect()
    signature = key.sign(b"v1")
    key.verify(b"v1", signature)
    elsewhere.disable_key(info)
    key.verify(b"v1", signature)
    world.sleep(60)
    with pytest.raises(errors.KeyDisabledError):
        key.verify(b"v1", signature)
    with pytest.raises(errors.KeyDisabledError):
        key.public_key()
    public = world.client.key(info)
    elsewhere.enable_key(info)
    world.sleep(60)
    public.public_key().verify(b"v1", signature)


def test_the_clients_own_changes_are_seen_at_once(world: World) -> None:
    info = world.client.generate_key(SIGNING)
    key = world.client.key(info)
    signature = key.sign(b"v1")
    key.verify(b"v1", signature)
    world.client.disable_key(info)
    for use in (lambda: key.verify(b"v1", signature), key.public_key, lambda: key.sign(b"v1")):
        with pytest.raises(errors.KeyDisabledError):
            use()
    world.client.enable_key(info)
    key.verify(b"v1", signature)


def test_a_known_state_saves_the_call_and_an_unknown_one_fails_closed(world: World) -> None:
    info = world.client.generate_key(SIGNING)
    key = world.client.key(info)
    signature = key.sign(b"v1")
    world.client.disable_key(info)
    world.provider.calls.clear()
    with pytest.raises(errors.KeyDisabledError):
        key.sign(b"v1")
    assert "sign" not in world.provider.calls
    world.client.enable_key(info)
    world.sleep(61)
    world.provider.before["describe_key"] = [errors.PermissionDeniedError("no describe")]
    with pytest.raises(errors.PermissionDeniedError):
        key.verify(b"v1", signature)


def test_a_service_that_ignores_the_state_is_gated_before_it_is_asked(world: World) -> None:
    info = world.client.generate_key(WRAPPING)
    world.provider.careless = frozenset({Operation.WRAP})
    key, elsewhere = world.connect().key(info), world.connect()
    elsewhere.disable_key(info)
    with pytest.raises(errors.KeyDisabledError):
        key.wrap(b"k" * 32, context={})


# Public keys and signatures


def test_another_public_key_than_the_pinned_one_is_refused(world: World) -> None:
    info = world.client.generate_key(SIGNING)
    other = world.client.generate_key(KeyConf("other", KeyPurpose.SIGN_VERIFY, algorithm="ES256"))
    confused = replace(info, fingerprint=other.fingerprint)
    with pytest.raises(errors.IntegrityError):
        world.client.key(confused).public_key()


def test_a_faulty_signature_is_never_handed_out(world: World) -> None:
    info = world.client.generate_key(SIGNING)
    right = world.provider.sign

    def faulty(info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        return right(info, bytes(32), prehashed)

    world.provider.sign = faulty  # type: ignore[method-assign]
    with pytest.raises(errors.IntegrityError, match="does not verify"):
        world.client.key(info).sign(b"v1")


# Handles


def test_a_key_info_from_bytes_opens_nothing(world: World) -> None:
    info = world.client.generate_key(SIGNING)
    unverified = UnverifiedKeyInfo.from_json(info.to_json())
    for use in (
        lambda: world.client.key(unverified),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: world.client.disable_key(unverified),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(TypeError, match="seal"):
            use()


def test_a_key_of_another_provider_is_refused(world: World) -> None:
    info = world.client.generate_key(SIGNING)
    with pytest.raises(errors.InvalidArgumentError, match="awskms"):
        world.client.key(replace(info, provider="awskms"))


@pytest.mark.parametrize("name", ["", "x" * 3000, "a\nb", "\x1b[31m"])
def test_an_identifier_is_checked_before_the_provider_sees_it(world: World, name: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        world.client.get_key(name)
    assert world.provider.calls == []


def test_each_purpose_has_its_own_operations(world: World) -> None:
    wrapping, signing = (world.client.key(world.client.generate_key(conf)) for conf in (WRAPPING, SIGNING))
    world.provider.calls.clear()
    uses: list[Callable[[], object]] = [
        lambda: wrapping.sign(b"x"),
        lambda: wrapping.verify(b"x", b"x"),
        lambda: wrapping.mac(b"x"),
        lambda: wrapping.decrypt(b"x"),
        wrapping.public_key,
        lambda: signing.wrap(b"k" * 32, context={}),
        lambda: signing.unwrap(b"x", context={}),
        lambda: signing.verify_mac(b"x", b"x"),
    ]
    for use in uses:
        with pytest.raises(errors.KeyUsageError):
            use()
    assert world.provider.calls == []


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_only_32_bytes_are_wrapped(world: World, size: int) -> None:
    key = world.client.key(world.client.generate_key(WRAPPING))
    with pytest.raises(errors.InvalidArgumentError, match="32"):
        key.wrap(bytes(size), context={})
