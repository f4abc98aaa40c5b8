"""Detached values: what a record seals and opens, and what somebody who owns the store cannot do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykms import (
    KeyInfo,
    Keyring,
    KMSClient,
    MemoryRecordStore,
    Policy,
    Record,
    RecordStore,
    RetryPolicy,
    SQLAlchemyRecordStore,
    SQLiteRecordStore,
    StoredRecords,
    errors,
    inspect,
)
from anykms.provider import WrapContext
from anykms.wrapping import NOT_AUTHENTIC
from anykms_contract.vectors import VectorProvider
from anykms_contract.vectors.generate import Recipe

CONTEXT = {"tenant": "42"}
LENIENT = Policy(require_sender_authentication=False)


class Counting(VectorProvider):
    def __init__(self) -> None:
        super().__init__()
        self.failure: errors.KMSError | None = None

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        if self.failure is not None:
            raise self.failure
        return super().unwrap(info, wrapped, version, context)


def ring_of(
    *names: str,
    provider: VectorProvider | None = None,
    policy: Policy | None = None,
    clock: Callable[[], float] | None = None,
    state_ttl: float = 60,
) -> Keyring:
    client = KMSClient(provider or VectorProvider(), retry=RetryPolicy(max_attempts=1), state_ttl=state_ttl)
    keys = [client.key(name) for name in names]
    return Keyring(keys, policy=policy) if clock is None else Keyring(keys, policy=policy, clock=clock)


def a_record(recipe: Recipe | None = None) -> bytes:
    """A record by the second writer, with no code of anykms."""
    recipe = recipe or Recipe()
    recipe.body = lambda _: b""
    return recipe.build()


# Values


@settings(max_examples=60)
@given(st.binary(max_size=40000), st.binary(max_size=100))
def test_what_a_record_seals_it_opens_and_so_does_the_stored_one(plaintext: bytes, aad: bytes) -> None:
    record = ring_of("alpha", "rho").record(context=CONTEXT)
    value = record.seal(plaintext, aad=aad)
    assert len(value) == len(plaintext) + 89 + 16 * (len(plaintext) // 16384)
    assert value[:17] == b"\x01" + record.record_id
    assert record.open(bytearray(value), aad=memoryview(aad)) == plaintext
    again = ring_of("rho").open_record(record.to_bytes(), context=CONTEXT)
    assert again.open(memoryview(value), aad=aad) == plaintext


def test_aad_and_context_must_be_written_out() -> None:
    record = ring_of("alpha").record(context={})
    with pytest.raises(TypeError):
        record.seal(b"x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError):
        record.open(b"x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError):
        ring_of("alpha").record()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError):
        record.seal("text", aad=b"")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.InvalidArgumentError):
        record.seal(b"x", aad=bytes(65537))


def test_every_changed_byte_and_every_cut_of_a_value_is_refused_in_one_text() -> None:
    record = ring_of("alpha").record(context=CONTEXT)
    value = record.seal(b"4111", aad=b"cards/17")
    damaged = [value[:length] for length in range(len(value))] + [value + b"\0"]
    for position in range(len(value)):
        for mask in (1, 0x80):
            flipped = bytearray(value)
            flipped[position] ^= mask
            damaged.append(bytes(flipped))
    for candidate in damaged:
        with pytest.raises(errors.InvalidCiphertextError) as caught:
            record.open(candidate, aad=b"cards/17")
        assert str(caught.value) == NOT_AUTHENTIC


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_no_bytes_raise_another_error(data: bytes) -> None:
    record = RECORD
    for candidate in (data, b"\x01" + record.record_id + data):
        with pytest.raises(errors.InvalidCiphertextError):
            record.open(candidate, aad=b"")


RECORD = ring_of("alpha").record(context=CONTEXT)


def test_rows_cannot_be_swapped_where_aad_names_them() -> None:
    record = ring_of("alpha").record(context=CONTEXT)
    value = record.seal(b"17's", aad=b"cards/17")
    with pytest.raises(errors.InvalidCiphertextError):
        record.open(value, aad=b"cards/18")


def test_values_and_messages_and_values_of_two_records_are_not_interchangeable() -> None:
    ring = ring_of("alpha")
    one, two = ring.record(context=CONTEXT), ring.record(context=CONTEXT)
    value = one.seal(b"x", aad=b"a")
    with pytest.raises(errors.InvalidCiphertextError):
        two.open(value, aad=b"a")
    with pytest.raises(errors.InvalidCiphertextError):
        two.open(b"\x01" + two.record_id + value[17:], aad=b"a")
    with pytest.raises(errors.InvalidCiphertextError):
        ring.decrypt(one.to_bytes() + value[17:], context=CONTEXT, aad=b"a")
    message = Recipe().build()
    head = a_record(Recipe(data_key=b"k" * 32, record_id=b"i" * 16))
    body = Recipe(data_key=b"k" * 32, record_id=b"i" * 16).build()[len(head) :]
    opened = ring.open_record(head, context=CONTEXT)
    with pytest.raises(errors.InvalidCiphertextError):
        opened.open(b"\x01" + opened.record_id + body, aad=b"orders/17")
    with pytest.raises(errors.InvalidCiphertextError):
        ring.open_record(message, context=CONTEXT)
    with pytest.raises(errors.InvalidCiphertextError):
        ring.decrypt(head, context=CONTEXT, aad=b"orders/17")


def test_a_record_put_under_the_values_of_another_opens_none_of_them() -> None:
    """CVE-2025-14763: a detached header that is replaced must not open what it was not made with."""
    ring = ring_of("alpha")
    value = ring.record(context=CONTEXT).seal(b"x", aad=b"a")
    planted = a_record(Recipe(record_id=value[1:17]))
    with pytest.raises(errors.InvalidCiphertextError):
        ring.open_record(planted, context=CONTEXT).open(value, aad=b"a")


# Who may seal


def test_a_record_from_a_store_is_for_opening() -> None:
    ring = ring_of("alpha")
    record = ring.record(context=CONTEXT)
    read = ring.open_record(record.to_bytes(), context=CONTEXT)
    with pytest.raises(errors.PolicyError, match="record_id"):
        read.seal(b"x", aad=b"")
    pinned = ring.open_record(record.to_bytes(), context=CONTEXT, record_id=record.record_id)
    assert record.open(pinned.seal(b"x", aad=b""), aad=b"") == b"x"


def test_a_planted_record_is_not_the_pinned_one() -> None:
    ring = ring_of("alpha")
    pinned = ring.record(context=CONTEXT).record_id
    with pytest.raises(errors.InvalidCiphertextError):
        ring.open_record(a_record(), context=CONTEXT, record_id=pinned)


@pytest.mark.parametrize("recipients", [("sigma",), ("sigma", "rho")])
def test_nothing_is_sealed_for_an_outsider_who_planted_a_record(recipients: tuple[str, ...]) -> None:
    """Whoever knows sigma's public key can make a record of any id, and knows its data key."""
    pinned = ring_of("alpha").record(context=CONTEXT).record_id
    planted = a_record(Recipe(("sigma",), record_id=pinned))
    with pytest.raises(errors.PolicyError):
        ring_of(*recipients).open_record(planted, context=CONTEXT, record_id=pinned)
    read = ring_of(*recipients, policy=LENIENT).open_record(planted, context=CONTEXT, record_id=pinned)
    with pytest.raises(errors.PolicyError, match="proves no sender"):
        read.seal(b"secret", aad=b"")


def test_nothing_is_sealed_under_a_laundered_record() -> None:
    pinned = os.urandom(16)
    planted = a_record(Recipe(("sigma",), record_id=pinned))
    laundered = ring_of("sigma", policy=LENIENT).rewrap(planted, to=ring_of("alpha")).message
    with pytest.raises(errors.PolicyError):
        ring_of("alpha").open_record(laundered, context=CONTEXT, record_id=pinned)
    read = ring_of("alpha", policy=LENIENT).open_record(laundered, context=CONTEXT, record_id=pinned)
    with pytest.raises(errors.PolicyError, match="proves no sender"):
        read.seal(b"secret", aad=b"")


def test_nothing_is_sealed_below_the_demanded_generation() -> None:
    old = a_record(Recipe(generation=3, record_id=b"i" * 16))
    ring = ring_of("alpha")
    assert ring.open_record(old, context=CONTEXT, record_id=b"i" * 16, min_generation=3).seal(b"x", aad=b"")
    with pytest.raises(errors.StaleMessageError):
        ring.open_record(old, context=CONTEXT, record_id=b"i" * 16, min_generation=4)


def test_nothing_is_sealed_or_opened_beyond_the_age_of_the_policy() -> None:
    now = [1_000_000.0]
    ring = ring_of("alpha", policy=Policy(max_age=timedelta(days=1)), clock=lambda: now[0])
    record = ring.record(context=CONTEXT)
    value = record.seal(b"x", aad=b"")
    now[0] += 86_401
    with pytest.raises(errors.PolicyError, match="max_age"):
        record.seal(b"x", aad=b"")
    with pytest.raises(errors.PolicyError, match="max_age"):
        record.open(value, aad=b"")


def test_a_ring_that_proves_no_sender_makes_no_record() -> None:
    with pytest.raises(errors.PolicyError):
        ring_of("sigma").record(context=CONTEXT)
    record = ring_of("sigma", policy=LENIENT).record(context=CONTEXT)
    assert record.open(record.seal(b"x", aad=b""), aad=b"") == b"x"


def test_a_record_needs_its_context_and_its_keys() -> None:
    context = {"tenant": "42", "region": "eu"}
    stored = ring_of("alpha").record(context=context, required=["region"]).to_bytes()
    assert dict(inspect(stored).context) == {"tenant": "42"}
    assert ring_of("alpha").open_record(stored, context=context)
    with pytest.raises(errors.ContextMismatchError):
        ring_of("alpha").open_record(stored, context={"tenant": "42"})
    with pytest.raises(errors.KeyNotAllowedError):
        ring_of("beta").open_record(stored, context=context)
    for wrong in (b"short", bytes(17)):
        with pytest.raises(errors.InvalidArgumentError):
            ring_of("alpha").open_record(stored, context=context, record_id=wrong)


# How long an opened record lasts


def test_a_record_asks_its_key_again_after_the_state_ttl() -> None:
    provider = Counting()
    record = ring_of("alpha", provider=provider, state_ttl=0).record(context=CONTEXT)
    value = record.seal(b"x", aad=b"")
    assert provider.calls.count("unwrap") == 1
    provider.failure = errors.KeyDisabledError("off")
    with pytest.raises(errors.KeyDisabledError):
        record.open(value, aad=b"")
    with pytest.raises(errors.KeyDisabledError):
        record.seal(b"x", aad=b"")


def test_a_record_in_use_costs_no_call() -> None:
    provider = Counting()
    ring = ring_of("alpha", provider=provider)
    record = ring.record(context=CONTEXT)
    values = [record.seal(b"%d" % n, aad=b"%d" % n) for n in range(200)]
    again = ring.open_record(record.to_bytes(), context=CONTEXT)
    assert [again.open(value, aad=b"%d" % n) for n, value in enumerate(values)] == [
        b"%d" % n for n in range(200)
    ]
    assert (provider.calls.count("wrap"), provider.calls.count("unwrap")) == (1, 1)
    assert len({value[17:41] for value in values}) == 200


def test_threads_share_a_record() -> None:
    record = ring_of("alpha", "rho").record(context=CONTEXT)

    def work(seed: int) -> None:
        for n in range(50):
            plain = b"%d %d" % (seed, n)
            assert record.open(record.seal(plain, aad=plain), aad=plain) == plain

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_asks_the_key_before_it_seals(tmp_path: Path) -> None:
    report = tmp_path / "report"
    provider = Counting()
    record = ring_of("alpha", provider=provider).record(context=CONTEXT)
    assert record.seal(b"x", aad=b"")
    child = os.fork()
    if child == 0:
        try:
            value = record.seal(b"child", aad=b"")
            report.write_bytes(b"%d" % provider.calls.count("unwrap") + value)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    told = report.read_bytes()
    assert told[:1] == b"1"
    assert record.open(told[1:], aad=b"") == b"child"
    assert provider.calls.count("unwrap") == 0


def test_nothing_secret_in_a_repr() -> None:
    record = ring_of("alpha").record(context=CONTEXT)
    assert repr(record) == f"<Record {record.record_id.hex()}>"


# Stores


@pytest.fixture(params=["memory", "sqlite", "sqlalchemy-sqlite", "sqlalchemy-postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    if request.param == "memory":
        yield MemoryRecordStore()
        return
    if request.param == "sqlite":
        with SQLiteRecordStore(tmp_path / "records.db") as opened:
            yield opened
        return
    postgresql = request.param == "sqlalchemy-postgresql"
    url = request.getfixturevalue("postgresql_url") if postgresql else f"sqlite:///{tmp_path}/records.db"
    with SQLAlchemyRecordStore(url) as database:
        yield database


def test_a_store_keeps_records_and_swaps_them_only_for_what_was_read(store: RecordStore) -> None:
    one, two = b"1" * 16, b"2" * 16
    assert isinstance(store, RecordStore)
    assert (store.get(one), store.generation(one)) == (None, 0)
    store.add(one, b"first")
    with pytest.raises(errors.ConflictError):
        store.add(one, b"first, again")
    with pytest.raises(errors.ConflictError):
        store.replace(one, b"third", expected=b"second")
    with pytest.raises(errors.ConflictError):
        store.replace(two, b"third", expected=b"")
    store.replace(one, b"second", expected=b"first")
    assert (store.get(one), store.get(two)) == (b"second", None)
    for seen in (3, 2**32 - 1, 7):
        store.saw_generation(one, seen)
    assert (store.generation(one), store.generation(two)) == (2**32 - 1, 0)


def test_one_of_many_threads_adds_and_one_replaces(store: RecordStore) -> None:
    started = threading.Barrier(8)

    def work(n: int) -> tuple[bool, bool]:
        started.wait(60)
        added = replaced = False
        with contextlib.suppress(errors.ConflictError):
            store.add(b"1" * 16, b"first")
            added = True
        started.wait(60)
        with contextlib.suppress(errors.ConflictError):
            store.replace(b"1" * 16, b"next %d" % n, expected=b"first")
            replaced = True
        store.saw_generation(b"1" * 16, n)
        return added, replaced

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert (sum(a for a, _ in results), sum(r for _, r in results)) == (1, 1)
    assert store.generation(b"1" * 16) == 7


def test_stored_records_seal_under_the_pinned_id_and_open_by_the_value(store: RecordStore) -> None:
    provider = Counting()
    records = StoredRecords(ring_of("alpha", provider=provider), store, context=CONTEXT)
    made = [records.create() for _ in range(3)]
    values = [record.seal(b"%d" % n, aad=b"a") for n, record in enumerate(made)]
    again = StoredRecords(ring_of("alpha"), store, context=CONTEXT)
    assert [again.open(value, aad=b"a") for value in values] == [b"0", b"1", b"2"]
    pinned = again.record(made[1].record_id)
    assert records.open(pinned.seal(b"new", aad=b"a"), aad=b"a") == b"new"
    assert provider.calls == ["wrap"] * 3


def test_an_unknown_record_id_in_a_value_is_an_invalid_ciphertext(store: RecordStore) -> None:
    records = StoredRecords(ring_of("alpha"), store, context=CONTEXT)
    value = records.create().seal(b"x", aad=b"")
    with pytest.raises(errors.InvalidCiphertextError) as caught:
        records.open(b"\x01" + bytes(16) + value[17:], aad=b"")
    assert str(caught.value) == NOT_AUTHENTIC
    for data in (b"", b"\x01", b"\x02" + value[1:], value[:88]):
        with pytest.raises(errors.InvalidCiphertextError):
            records.open(data, aad=b"")
    with pytest.raises(errors.KeyNotFoundError):
        records.record(bytes(16))


def test_the_id_in_a_value_never_chooses_what_is_sealed_under(store: RecordStore) -> None:
    records = StoredRecords(ring_of("alpha", "sigma", policy=LENIENT), store, context=CONTEXT)
    planted = a_record(Recipe(("sigma",), record_id=b"p" * 16))
    store.add(b"p" * 16, planted)
    with pytest.raises(errors.PolicyError):
        records.record(b"p" * 16).seal(b"secret", aad=b"")


def test_a_record_that_was_rolled_back_is_stale(store: RecordStore) -> None:
    ring = ring_of("alpha")
    records = StoredRecords(ring, store, context=CONTEXT)
    record = records.create()
    old = record.to_bytes()
    value = record.seal(b"x", aad=b"")
    result = records.rewrap(record.record_id, to=ring_of("alpha", "beta"))
    assert (result.generation, store.generation(record.record_id)) == (1, 1)
    assert records.open(value, aad=b"") == b"x"
    assert record.open(value, aad=b"") == b"x"
    store.replace(record.record_id, old, expected=result.message)
    again = StoredRecords(ring_of("alpha"), store, context=CONTEXT)
    with pytest.raises(errors.StaleMessageError):
        again.record(record.record_id)
    with pytest.raises(errors.StaleMessageError):
        again.open(value, aad=b"")
    with pytest.raises(errors.StaleMessageError):
        again.rewrap(record.record_id, to=ring)


def test_a_process_remembers_a_generation_that_its_store_forgot() -> None:
    store = MemoryRecordStore()
    records = StoredRecords(ring_of("alpha", state_ttl=0), store, context=CONTEXT)
    record = records.create()
    old = record.to_bytes()
    result = records.rewrap(record.record_id, to=ring_of("alpha"))
    value = record.seal(b"x", aad=b"")
    forgetful = MemoryRecordStore()
    forgetful.add(record.record_id, old)
    store.__dict__.update(forgetful.__dict__)
    with pytest.raises(errors.StaleMessageError):
        record.open(value, aad=b"")
    assert result.generation == 1


def test_an_unproven_generation_is_not_remembered(store: RecordStore) -> None:
    forged = a_record(Recipe(generation=9, record_id=b"i" * 16, tag=lambda _: bytes(32)))
    store.add(b"i" * 16, forged)
    records = StoredRecords(ring_of("alpha"), store, context=CONTEXT)
    with pytest.raises(errors.InvalidCiphertextError):
        records.record(b"i" * 16)
    assert store.generation(b"i" * 16) == 0


def test_a_record_under_the_id_of_another_is_refused(store: RecordStore) -> None:
    records = StoredRecords(ring_of("alpha"), store, context=CONTEXT)
    store.add(b"j" * 16, a_record(Recipe(record_id=b"i" * 16)))
    with pytest.raises(errors.InvalidCiphertextError):
        records.record(b"j" * 16)
    with pytest.raises(errors.InvalidCiphertextError):
        records.rewrap(b"j" * 16, to=ring_of("alpha"))


def test_a_rewrap_that_lost_a_race_replaces_nothing() -> None:
    class Racing(MemoryRecordStore):
        def replace(self, record_id: bytes, record: bytes, *, expected: bytes) -> None:
            super().replace(record_id, expected + b"!", expected=expected)
            super().replace(record_id, record, expected=expected)

    store = Racing()
    records = StoredRecords(ring_of("alpha"), store, context=CONTEXT)
    record_id = records.create().record_id
    with pytest.raises(errors.ConflictError):
        records.rewrap(record_id, to=ring_of("alpha"))
    assert store.generation(record_id) == 0


def test_a_sqlite_store_lasts_and_is_shared_by_processes(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with SQLiteRecordStore(path) as first, SQLiteRecordStore(path) as second:
        first.add(b"1" * 16, b"x")
        assert second.get(b"1" * 16) == b"x"
    with SQLiteRecordStore(path) as again:
        assert again.get(b"1" * 16) == b"x"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_sqlite_store_works_on_both_sides_of_a_fork(tmp_path: Path) -> None:
    with SQLiteRecordStore(tmp_path / "records.db") as store:
        store.add(b"1" * 16, b"parent")
        child = os.fork()
        if child == 0:
            try:
                store.add(b"2" * 16, store.get(b"1" * 16) or b"")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert store.get(b"2" * 16) == b"parent"


def test_a_file_that_is_no_record_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(errors.IntegrityError):
        SQLiteRecordStore(path)
    with pytest.raises(errors.UnavailableError):
        SQLiteRecordStore(tmp_path / "missing" / "records.db")
    with SQLiteRecordStore(tmp_path / "good.db") as store:
        pass
    with pytest.raises(errors.UnavailableError):
        store.get(b"1" * 16)


def test_a_record_is_what_the_type_says() -> None:
    assert isinstance(ring_of("alpha").record(context={}), Record)
