"""Kept data keys: what a hit may serve, how long, how often, and that nothing crosses from one ring to another."""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykms import (
    CacheCounters,
    DataKeyCache,
    KeyInfo,
    Keyring,
    KMSClient,
    Policy,
    RetryPolicy,
    errors,
    inspect,
)
from anykms.envelope.keyring import Prepared
from anykms.envelope.message import BodyKey
from anykms.provider import Operation, WrapContext, Wrapped
from anykms_contract.vectors import VectorProvider
from anykms_contract.vectors.generate import Recipe

CONTEXT = {"tenant": "42"}
LENIENT = Policy(require_sender_authentication=False)
ONCE = RetryPolicy(max_attempts=1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gate(VectorProvider):
    """The fixed keys; each call first waits for ``opened``, and fails with ``failure`` where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Event()
        self.failure: errors.KMSError | None = None

    def _pass(self) -> None:
        self.entered.set()
        self.opened.wait(60)
        if self.failure is not None:
            raise self.failure

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        self._pass()
        return super().wrap(info, data_key, context)

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        self._pass()
        return super().unwrap(info, wrapped, version, context)


def client_of(provider: VectorProvider | None = None, state_ttl: float = 60) -> KMSClient:
    return KMSClient(provider or VectorProvider(), retry=ONCE, state_ttl=state_ttl)


def ring_of(
    *names: str,
    cache: DataKeyCache | None = None,
    client: KMSClient | None = None,
    policy: Policy | None = None,
    clock: Callable[[], float] | None = None,
) -> Keyring:
    client = client or client_of()
    keys = [client.key(name) for name in names]
    if clock is None:
        return Keyring(keys, cache=cache, policy=policy)
    return Keyring(keys, cache=cache, policy=policy, clock=clock)


def record_id(message: bytes) -> bytes:
    return inspect(message).record_id


# What a hit is


def test_nothing_is_kept_unless_a_cache_is_given() -> None:
    provider = VectorProvider()
    ring = ring_of("alpha", client=client_of(provider))
    messages = [ring.encrypt(b"x", context=CONTEXT) for _ in range(20)]
    for message in messages:
        ring.decrypt(message, context=CONTEXT)
        ring.decrypt(message, context=CONTEXT)
    assert collections.Counter(provider.calls) == {"wrap": 20, "unwrap": 40}
    assert len({record_id(message) for message in messages}) == 20


def test_counters_tell_hits_misses_and_calls_saved() -> None:
    provider = VectorProvider()
    cache = DataKeyCache()
    ring = ring_of("alpha", "rho", cache=cache, client=client_of(provider))
    messages = [ring.encrypt(b"%d" % n, context=CONTEXT, aad=b"%d" % n) for n in range(50)]
    assert cache.counters == CacheCounters(hits=49, misses=1, calls_saved=49 * 3, entries=1)
    assert provider.calls.count("wrap") == 2
    assert provider.calls.count("sign") == 1
    for n, message in enumerate(messages):
        assert ring.decrypt(message, context=CONTEXT, aad=b"%d" % n) == b"%d" % n
    assert cache.counters == CacheCounters(hits=98, misses=2, calls_saved=49 * 3 + 49, entries=2)
    assert provider.calls.count("unwrap") == 1
    salts = {message[len(message) - inspect(message).body_size :][:24] for message in messages}
    assert len(salts) == len(messages)


def test_a_message_of_the_cache_is_one_as_any_other() -> None:
    message = [
        ring_of("alpha", cache=DataKeyCache()).encrypt(b"x" * n, context=CONTEXT) for n in (0, 1, 40000)
    ]
    assert [len(ring_of("alpha").decrypt(m, context=CONTEXT)) for m in message] == [0, 1, 40000]


def test_each_context_and_set_of_required_names_has_its_own_data_key() -> None:
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache)
    pair = {"a": "1", "b": "2"}
    made = [
        ring.encrypt(b"", context=CONTEXT),
        ring.encrypt(b"", context={}),
        ring.encrypt(b"", context={"tenant": "43"}),
        ring.encrypt(b"", context={"tenant4": "2"}),
        ring.encrypt(b"", context=pair),
        ring.encrypt(b"", context=pair, required=["a"]),
        ring.encrypt(b"", context=pair, required=["b"]),
        ring.encrypt(b"", context=pair, required=["b", "a"]),
    ]
    assert len({record_id(message) for message in made}) == len(made)
    same = ring.encrypt(b"", context={"b": "2", "a": "1"}, required={"a", "b"})
    assert record_id(same) == record_id(made[-1])
    assert cache.counters.hits == 1


def test_an_unwrapped_data_key_never_encrypts() -> None:
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache)
    foreign = ring_of("alpha").encrypt(b"x", context=CONTEXT)
    for _ in range(3):
        ring.decrypt(foreign, context=CONTEXT)
    assert record_id(ring.encrypt(b"y", context=CONTEXT)) != record_id(foreign)


def test_a_made_data_key_does_not_open_what_the_keys_would_not() -> None:
    provider = Gate()
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache, client=client_of(provider))
    message = ring.encrypt(b"x", context=CONTEXT)
    provider.failure = errors.KeyDisabledError("off")
    with pytest.raises(errors.KeyDisabledError):
        ring.decrypt(message, context=CONTEXT)


def test_bad_input_is_refused_as_without_a_cache() -> None:
    ring = ring_of("alpha", cache=DataKeyCache())
    for context in ({"awsome": "v"}, {"n": ""}, {f"n{i}": "v" for i in range(33)}):
        with pytest.raises(errors.InvalidArgumentError):
            ring.encrypt(b"", context=context)
    with pytest.raises(errors.InvalidArgumentError):
        ring.encrypt(b"", context=CONTEXT, required=["other"])
    wrong: list[object] = [None, {"n": 1}, {"n": []}, {1: "n"}, [("n", "v")]]
    for value in wrong:
        with pytest.raises(TypeError):
            ring.encrypt(b"", context=value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        ring.encrypt(b"", context=CONTEXT, required="tenant")
    for message in (b"", b"\x8aAKMS", bytes(200), b"\x8aAKMS\r\n\x01\xff\xff\xff\xff" + bytes(70000)):
        with pytest.raises(errors.InvalidCiphertextError):
            ring.decrypt(message, context=CONTEXT)


def test_every_changed_byte_is_refused_by_a_ring_that_knows_the_message() -> None:
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache)
    message = ring.encrypt(b"4111", context=CONTEXT, aad=b"a")
    assert ring.decrypt(message, context=CONTEXT, aad=b"a") == b"4111"
    for position in range(len(message)):
        damaged = bytearray(message)
        damaged[position] ^= 1
        with pytest.raises(errors.KMSError):
            ring.decrypt(damaged, context=CONTEXT, aad=b"a")
    for length in range(len(message)):
        with pytest.raises(errors.InvalidCiphertextError):
            ring.decrypt(message[:length], context=CONTEXT, aad=b"a")
    with pytest.raises(errors.InvalidCiphertextError):
        ring.decrypt(message, context=CONTEXT, aad=b"b")
    for context in ({}, {"tenant": "43"}, {"tenant": "42", "x": "y"}):
        with pytest.raises(errors.ContextMismatchError):
            ring.decrypt(message, context=context, aad=b"a")
    assert ring.decrypt(message, context=CONTEXT, aad=b"a") == b"4111"


def test_a_header_that_failed_is_never_remembered() -> None:
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache)
    forged = Recipe(tag=lambda tag: bytes(32)).build()
    for _ in range(2):
        with pytest.raises(errors.InvalidCiphertextError):
            ring.decrypt(forged, context=CONTEXT, aad=b"orders/17")
    assert cache.counters.entries == 0


# Nothing crosses


def test_two_policies_share_a_cache_and_no_entry() -> None:
    """CVE-2026-6550: a shared cache must not carry a lenient ring's data key to a strict one."""
    cache = DataKeyCache()
    client = client_of()
    lenient = ring_of("alpha", "sigma", cache=cache, client=client, policy=LENIENT)
    strict = ring_of("alpha", "sigma", cache=cache, client=client)
    forged = Recipe(("sigma",)).build()
    assert lenient.decrypt(forged, context=CONTEXT, aad=b"orders/17")
    with pytest.raises(errors.PolicyError):
        strict.decrypt(forged, context=CONTEXT, aad=b"orders/17")
    good = lenient.encrypt(b"x", context=CONTEXT)
    strict.encrypt(b"x", context=CONTEXT)
    lenient.decrypt(good, context=CONTEXT)
    strict.decrypt(good, context=CONTEXT)
    assert cache.counters.hits == 0


@pytest.mark.parametrize("difference", ["fewer keys", "another order", "another connection", "an age"])
def test_rings_that_differ_share_nothing(difference: str) -> None:
    cache = DataKeyCache()
    client = client_of()
    ring = ring_of("alpha", "beta", "rho", cache=cache, client=client)
    second = {
        "fewer keys": ring_of("alpha", "beta", cache=cache, client=client),
        "another order": ring_of("beta", "alpha", "rho", cache=cache, client=client),
        "another connection": ring_of("alpha", "beta", "rho", cache=cache),
        "an age": ring_of(
            "alpha", "beta", "rho", cache=cache, client=client, policy=Policy(max_age=timedelta(days=1))
        ),
    }[difference]
    message = ring.encrypt(b"x", context=CONTEXT)
    second.encrypt(b"x", context=CONTEXT)
    ring.decrypt(message, context=CONTEXT)
    second.decrypt(message, context=CONTEXT)
    assert cache.counters.hits == 0


def test_equal_rings_of_one_connection_share() -> None:
    cache = DataKeyCache()
    client = client_of()
    first, second = (ring_of("alpha", cache=cache, client=client, policy=Policy()) for _ in range(2))
    assert record_id(first.encrypt(b"", context=CONTEXT)) == record_id(second.encrypt(b"", context=CONTEXT))


def test_a_policy_of_another_class_or_rule_has_another_digest() -> None:
    class Stricter(Policy):
        pass

    policies = [
        Policy(),
        LENIENT,
        Stricter(),
        Policy(suites=frozenset()),
        Policy(providers=frozenset()),
        Policy(providers=frozenset({"local"})),
        Policy(providers=frozenset({"local", "awskms"})),
        Policy(max_age=timedelta(days=1)),
        Policy(clock_skew=timedelta(0)),
        Policy(max_recipients=3),
    ]
    assert len({policy.digest() for policy in policies}) == len(policies)
    both = ["local", "awskms", "gcpkms", "azurekms"]
    assert Policy(providers=frozenset(both)).digest() == Policy(providers=frozenset(reversed(both))).digest()


class Misplacing(DataKeyCache):
    """A cache that serves whatever was fetched first, to everyone."""

    planted: object = None

    def get(self, slot: bytes, size: int) -> object | None:
        if self.planted is not None:
            return self.planted
        self.planted = found = super().get(slot, size)
        return found


@pytest.mark.parametrize("second", ["another ring", "another context", "another header", "the other side"])
def test_a_forced_hit_is_refused(second: str) -> None:
    cache = Misplacing()
    client = client_of()
    ring = ring_of("alpha", cache=cache, client=client)
    message = ring.encrypt(b"x", context=CONTEXT)
    other = ring.encrypt(b"x", context={})
    if second == "another header":
        ring.decrypt(message, context=CONTEXT)
        ring.decrypt(message, context=CONTEXT)
    else:
        ring.encrypt(b"x", context=CONTEXT)
    assert cache.planted is not None
    calls: dict[str, Callable[[], object]] = {
        "another ring": lambda: ring_of("alpha", cache=cache, client=client, policy=LENIENT).encrypt(
            b"", context=CONTEXT
        ),
        "another context": lambda: ring.encrypt(b"", context={}),
        "another header": lambda: ring.decrypt(other, context={}),
        "the other side": lambda: ring.decrypt(message, context=CONTEXT),
    }
    with pytest.raises(errors.IntegrityError):
        calls[second]()


# A hit is judged again


def test_the_age_of_a_data_key_is_judged_on_every_hit() -> None:
    clock = Clock()
    policy = Policy(max_age=timedelta(seconds=100))
    ring = ring_of("alpha", cache=DataKeyCache(clock=clock), policy=policy, clock=clock)
    first = ring.encrypt(b"x", context=CONTEXT)
    clock.now += 60
    assert ring.decrypt(first, context=CONTEXT) == b"x"
    clock.now += 41
    with pytest.raises(errors.PolicyError, match="max_age"):
        ring.decrypt(first, context=CONTEXT)
    assert record_id(ring.encrypt(b"x", context=CONTEXT)) != record_id(first)


def test_the_generation_is_judged_on_every_hit() -> None:
    ring = ring_of("alpha", cache=DataKeyCache())
    message = Recipe(generation=3).build()
    for _ in range(2):
        assert ring.decrypt(message, context=CONTEXT, aad=b"orders/17", min_generation=3)
        with pytest.raises(errors.StaleMessageError):
            ring.decrypt(message, context=CONTEXT, aad=b"orders/17", min_generation=4)
        found = ring.decrypt_detailed(message, context=CONTEXT, aad=b"orders/17")
        assert (found.generation, found.key.name, found.sender_authenticated) == (3, "alpha", True)


def test_a_disabled_key_ends_reading_once_its_state_is_too_old_to_believe() -> None:
    clock, provider = Clock(), Gate()
    cache = DataKeyCache(clock=clock)
    ring = ring_of("alpha", cache=cache, client=client_of(provider, state_ttl=20))
    message = ring_of("alpha").encrypt(b"x", context=CONTEXT)
    assert ring.decrypt(message, context=CONTEXT) == b"x"
    provider.failure = errors.KeyDisabledError("off")
    clock.now += 19.9
    assert ring.decrypt(message, context=CONTEXT) == b"x"
    clock.now += 0.1
    with pytest.raises(errors.KeyDisabledError):
        ring.decrypt(message, context=CONTEXT)


def test_a_state_that_is_never_believed_keeps_nothing_to_read_with() -> None:
    provider = VectorProvider()
    ring = ring_of("alpha", cache=DataKeyCache(), client=client_of(provider, state_ttl=0))
    message = ring.encrypt(b"x", context=CONTEXT)
    for _ in range(3):
        ring.decrypt(message, context=CONTEXT)
    assert provider.calls.count("unwrap") == 3


def test_the_shortest_state_ttl_of_a_ring_binds() -> None:
    clock = Clock()
    provider = VectorProvider()
    long, short = client_of(provider, state_ttl=60), client_of(state_ttl=5)
    ring = Keyring([long.key("alpha"), short.key("beta")], cache=DataKeyCache(clock=clock))
    message = ring.encrypt(b"x", context=CONTEXT)
    ring.decrypt(message, context=CONTEXT)
    clock.now += 6
    ring.decrypt(message, context=CONTEXT)
    assert provider.calls.count("unwrap") == 2


# Limits


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(0, 20)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 100),
    st.integers(1, 3),
)
def test_no_data_key_serves_more_than_its_limits(
    steps: list[tuple[int, int, int]], max_messages: int, max_bytes: int, max_entries: int
) -> None:
    clock = Clock()
    cache = DataKeyCache(
        max_age=30,
        max_messages=max_messages,
        max_bytes=max_bytes,
        max_entries=max_entries,
        clock=clock,
    )
    ring = ring_of("alpha", cache=cache)
    served: dict[bytes, list[tuple[float, int]]] = collections.defaultdict(list)
    for tenant, size, pause in steps:
        clock.now += pause
        message = ring.encrypt(bytes(size), context={"tenant": str(tenant)})
        served[record_id(message)].append((clock.now, size))
        assert cache.counters.entries <= max_entries
    for uses in served.values():
        assert len(uses) <= max_messages
        assert uses[-1][0] - uses[0][0] < 30
        assert sum(size for _, size in uses) <= max_bytes or len(uses) == 1
    counters = cache.counters
    oversized = sum(size > max_bytes for _, size, _ in steps)
    assert counters.misses + oversized == len(served)
    assert counters.hits + counters.misses + oversized == len(steps)


@pytest.mark.parametrize(("per_key", "pause"), [(100, 0.0), (2**20, 1.0), (100, 10.0)])
def test_no_more_calls_are_made_than_the_limits_imply(per_key: int, pause: float) -> None:
    clock, provider = Clock(), VectorProvider()
    cache = DataKeyCache(max_messages=per_key, clock=clock)
    ring = ring_of("alpha", cache=cache, client=client_of(provider))
    for number in range(1000):
        ring.encrypt(b"x", context=CONTEXT, aad=b"%d" % number)
        clock.now += pause
    in_one_age = per_key if not pause else min(per_key, int(300 / pause))
    assert len(provider.calls) == -(-1000 // in_one_age)


def test_the_entry_longest_unused_goes_first() -> None:
    cache = DataKeyCache(max_entries=2)
    ring = ring_of("alpha", cache=cache)
    one, two = ({"n": "1"}, {"n": "2"})
    first, second = (record_id(ring.encrypt(b"", context=c)) for c in (one, two))
    assert record_id(ring.encrypt(b"", context=one)) == first
    ring.encrypt(b"", context={"n": "3"})
    assert record_id(ring.encrypt(b"", context=one)) == first
    assert record_id(ring.encrypt(b"", context=two)) != second


def test_limits_out_of_range_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"max_age": 0},
        {"max_age": 300.1},
        {"max_age": float("nan")},
        {"max_messages": 0},
        {"max_messages": 2**20 + 1},
        {"max_bytes": 0},
        {"max_bytes": 64 * 2**30 + 1},
        {"max_entries": 0},
    ]
    for options in wrong:
        with pytest.raises(errors.InvalidArgumentError):
            DataKeyCache(**options)


def test_clear_forgets_and_close_ends() -> None:
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache)
    with cache:
        first = ring.encrypt(b"", context=CONTEXT)
        ring.decrypt(first, context=CONTEXT)
        assert cache.counters.entries == 2
        cache.clear()
        assert cache.counters.entries == 0
        assert record_id(ring.encrypt(b"", context=CONTEXT)) != record_id(first)
    calls: list[Callable[[], bytes]] = [
        lambda: ring.encrypt(b"", context=CONTEXT),
        lambda: ring.decrypt(first, context=CONTEXT),
    ]
    for call in calls:
        with pytest.raises(errors.InvalidArgumentError, match="closed"):
            call()


def test_a_forgotten_key_is_zeroed_once_nobody_uses_it() -> None:
    seen: list[BodyKey] = []

    class Watching(DataKeyCache):
        def get(self, slot: bytes, size: int) -> object | None:
            found = super().get(slot, size)
            if found is not None:
                assert isinstance(found, Prepared)
                seen.append(found.body_key)
            return found

    cache = Watching()
    ring = ring_of("alpha", cache=cache)
    for _ in range(2):
        ring.encrypt(b"x", context=CONTEXT)
    buffer: bytearray = seen[0]._key  # pyright: ignore[reportPrivateUsage] # nothing public shows a key
    cache.clear()
    assert any(buffer), "still in use here"
    seen.clear()
    assert buffer == bytes(32)


def test_a_cache_shows_no_key() -> None:
    cache = DataKeyCache()
    ring_of("alpha", cache=cache).encrypt(b"x", context=CONTEXT)
    assert repr(cache) == "<DataKeyCache CacheCounters(hits=0, misses=1, calls_saved=0, entries=1)>"


# Threads and forks


@pytest.mark.parametrize("side", ["encrypt", "decrypt"])
def test_many_threads_that_miss_one_entry_make_one_call(side: str) -> None:
    provider = Gate()
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache, client=client_of(provider))
    message = ring_of("alpha").encrypt(b"x", context=CONTEXT)
    provider.opened.clear()
    started = threading.Barrier(33)

    def work() -> bytes:
        started.wait(60)
        if side == "encrypt":
            return record_id(ring.encrypt(b"x", context=CONTEXT))
        return ring.decrypt(message, context=CONTEXT)

    with ThreadPoolExecutor(32) as pool:
        results = [pool.submit(work) for _ in range(32)]
        started.wait(60)
        provider.opened.set()
        assert len({result.result() for result in results}) == 1
    assert provider.calls == ["wrap" if side == "encrypt" else "unwrap"]
    assert (cache.counters.hits, cache.counters.misses) == (31, 1)


def test_a_failed_call_fails_those_that_waited_and_is_not_remembered() -> None:
    provider = Gate()
    provider.failure = errors.PermissionDeniedError("no")
    ring = ring_of("alpha", cache=DataKeyCache(), client=client_of(provider))
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(lambda: ring.encrypt(b"x", context=CONTEXT)) for _ in range(8)]
        assert all(isinstance(r.exception(), errors.PermissionDeniedError) for r in results)
    provider.failure = None
    assert ring.encrypt(b"x", context=CONTEXT)


def test_what_one_caller_demands_does_not_fail_another_that_waits() -> None:
    provider = Gate()
    ring = ring_of("alpha", cache=DataKeyCache(), client=client_of(provider))
    message = Recipe(generation=3).build()
    provider.opened.clear()

    def read(oldest: int) -> bytes:
        return ring.decrypt(message, context=CONTEXT, aad=b"orders/17", min_generation=oldest)

    with ThreadPoolExecutor(8) as pool:
        strict = [pool.submit(read, 4) for _ in range(4)]
        results = [pool.submit(read, 3) for _ in range(4)]
        provider.opened.set()
        assert all(isinstance(r.exception(), errors.StaleMessageError) for r in strict)
        assert all(r.result() for r in results)


def test_a_cache_cleared_in_mid_flight_keeps_nothing_of_it() -> None:
    provider = Gate()
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache, client=client_of(provider))
    provider.opened.clear()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(lambda: ring.encrypt(b"x", context=CONTEXT))
        assert provider.entered.wait(60)
        cache.clear()
        provider.opened.set()
        first = result.result()
    assert cache.counters.entries == 0
    assert record_id(ring.encrypt(b"x", context=CONTEXT)) != record_id(first)


def test_threads_that_encrypt_and_decrypt_in_a_tiny_cache_never_meet_a_wrong_key() -> None:
    cache = DataKeyCache(max_entries=2, max_messages=3)
    ring = ring_of("alpha", cache=cache)

    def work(seed: int) -> int:
        for n in range(60):
            context = {"tenant": str((seed + n) % 5)}
            plain = b"%d %d" % (seed, n)
            assert ring.decrypt(ring.encrypt(plain, context=context), context=context) == plain
        return 60

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 480


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_empty(tmp_path: Path) -> None:
    report = tmp_path / "report"
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache)
    first = ring.encrypt(b"x", context=CONTEXT)
    child = os.fork()
    if child == 0:
        try:
            entries = cache.counters.entries
            message = ring.encrypt(b"x", context=CONTEXT)
            report.write_bytes(b"%d" % entries + record_id(message))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    told = report.read_bytes()
    assert told[:1] == b"0"
    assert told[1:] != record_id(first)
    assert record_id(ring.encrypt(b"x", context=CONTEXT)) == record_id(first)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_fetches_does_not_lock_the_child(tmp_path: Path) -> None:
    report = tmp_path / "report"
    provider = Gate()
    cache = DataKeyCache()
    ring = ring_of("alpha", cache=cache, client=client_of(provider))
    provider.opened.clear()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(lambda: ring.encrypt(b"x", context=CONTEXT))
        assert provider.entered.wait(60)
        child = os.fork()
        if child == 0:
            try:
                provider.opened = threading.Event()
                provider.opened.set()
                report.write_bytes(ring.encrypt(b"child", context=CONTEXT))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        provider.opened.set()
        assert result.result()
    assert ring_of("alpha").decrypt(report.read_bytes(), context=CONTEXT) == b"child"


# Guards


def test_a_guard_is_asked_although_the_data_key_is_kept() -> None:
    shut: list[Operation] = []

    def guard(operation: Operation) -> None:
        if operation in shut:
            raise errors.PolicyError(f"{operation} is shut")

    key = KMSClient(VectorProvider()).key("alpha").guarded(guard)
    ring = Keyring([key], cache=DataKeyCache())
    message = ring.encrypt(b"x", context={})
    record = ring.record(context={})
    value = record.seal(b"x", aad=b"")
    assert ring.decrypt(message, context={}) == record.open(value, aad=b"") == b"x"
    shut.append(Operation.WRAP)
    with pytest.raises(errors.PolicyError, match="wrap is shut"):
        ring.encrypt(b"x", context={})
    with pytest.raises(errors.PolicyError, match="wrap is shut"):
        record.seal(b"x", aad=b"")
    assert ring.decrypt(message, context={}) == record.open(value, aad=b"") == b"x"
    shut.append(Operation.UNWRAP)
    with pytest.raises(errors.PolicyError, match="unwrap is shut"):
        ring.decrypt(message, context={})
    with pytest.raises(errors.PolicyError, match="unwrap is shut"):
        record.open(value, aad=b"")
