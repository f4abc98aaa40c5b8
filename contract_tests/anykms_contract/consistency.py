"""What is seen late, and what happens at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Final, TypeVar

import pytest

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.envelope.keyring import Keyring
from anykms.errors import (
    ConflictError,
    DeadlineExceededError,
    KeyDisabledError,
    KeyExistsError,
    KeyPendingDestructionError,
    KMSError,
)
from anykms.keys import KeyInfo, KeyState, KeyStatus
from anykms.provider import Operation
from anykms_contract.clauses import Contract, each
from anykms_contract.harness import Connection, Harness, KeyKind

T = TypeVar("T")

_SECRET: Final = bytes(range(32))
_MESSAGE: Final = b"message"
_READS: Final = (1, 2, 3, 8, 13)
_LAGS: Final = each("reads", {str(reads): reads for reads in _READS})
_SKEWS: Final = each(
    "ahead", {"ten-years-ahead": 315_360_000, "an-hour-behind": -3600, "ten-years-behind": -315_360_000}
)
_CHANGES: Final = (
    Operation.GENERATE_KEY,
    Operation.SET_ENABLED,
    Operation.ROTATE_KEY,
    Operation.SCHEDULE_DESTRUCTION,
    Operation.CANCEL_DESTRUCTION,
)
_SMALL: Final = KeyKind(KeyPurpose.ENCRYPT_DECRYPT, Algorithm.RSA_OAEP_256, 2048)


class ConsistencyContract(Contract):
    """Reads that lag and flip-flop, several administrators at once, and clocks that are wrong."""

    # Lag

    @each(
        "purpose,reads",
        {
            f"{name}-{reads}": (name == "wrapping", reads)
            for name in ("wrapping", "signing")
            for reads in _READS
        },
    )
    def test_a_new_key_is_usable_although_reads_lag(
        self, harness: Harness, purpose: bool, reads: int
    ) -> None:
        """C4.6: A key that generate_key has returned can be used, although reads lag and flip-flop."""
        connection, kind = harness.connect(), _quick(harness) if purpose else harness.signing
        with harness.lagging(connection, reads):
            info = connection.client.generate_key(harness.conf(kind))
            _use(connection, info)
        assert connection.seam.count(Operation.GENERATE_KEY) == 1
        assert harness.main.client.get_key(info.name) == info
        assert harness.main.client.describe_key(info).state is KeyState.ENABLED

    @_LAGS
    def test_what_a_lifecycle_call_has_said_stays(self, harness: Harness, reads: int) -> None:
        """C4.7: Once a lifecycle call has returned, no read of its client and no use takes its state back,
        although reads lag and flip-flop; each change was asked for once.
        """
        connection, info = harness.connect(), harness.generate(_quick(harness))
        client, before = connection.client, harness.main.client.describe_key(info)
        with harness.lagging(connection, reads):
            client.disable_key(info)
            _stays(connection, info, KeyState.DISABLED, KeyDisabledError)
            client.enable_key(info)
            _stays(connection, info, KeyState.ENABLED, None)
            wrapped = connection.key(info).wrap(_SECRET, context={})
            client.rotate_key(info)
            _stays(connection, info, KeyState.ENABLED, None)
            assert connection.key(info).unwrap(wrapped, context={}) == _SECRET
            client.schedule_destruction(info)
            _stays(connection, info, KeyState.PENDING_DESTRUCTION, KeyPendingDestructionError)
            client.cancel_destruction(info)
            _stays(connection, info, KeyState.DISABLED, KeyDisabledError)
        assert [call.operation for call in connection.seam.calls if call.operation in _CHANGES] == [
            Operation.SET_ENABLED,
            Operation.SET_ENABLED,
            Operation.ROTATE_KEY,
            Operation.SCHEDULE_DESTRUCTION,
            Operation.CANCEL_DESTRUCTION,
        ]
        after = harness.connect().client.describe_key(info)
        assert after.state is KeyState.DISABLED
        assert after.destroy_at is None
        if before.current_version is not None:
            assert len(after.versions) == len(before.versions) + 1

    def test_reads_that_never_agree_end_a_call(self, harness: Harness) -> None:
        """C4.5: Reads that flip-flop for longer than the deadline are DeadlineExceededError: the change was asked
        for once, and nothing is remembered of the state.
        """
        connection, info = harness.connect(), harness.generate()
        answers = count()
        states = {True: KeyState.ENABLED, False: KeyState.DISABLED}
        connection.seam.answer(
            Operation.DESCRIBE_KEY, lambda status: _in_state(status, states[next(answers) % 2 == 0])
        )
        with pytest.raises(DeadlineExceededError) as caught:
            connection.client.disable_key(info)
        assert caught.value.retryable
        assert connection.seam.count(Operation.SET_ENABLED) == 1
        connection.seam.heal()
        assert connection.client.describe_key(info).state is KeyState.DISABLED
        with pytest.raises(KeyDisabledError):
            connection.key(info).wrap(_SECRET, context={})

    def test_one_read_that_a_key_is_gone_decides_nothing(self, harness: Harness) -> None:
        """C4.7: Where reads lag, one that does not find the key is not believed after a change."""
        connection, info = harness.connect(), harness.generate()
        first = iter([True])

        def gone_once(status: KeyStatus) -> KeyStatus:
            return _in_state(status, KeyState.DESTROYED) if next(first, False) else status

        connection.seam.answer(Operation.DESCRIBE_KEY, gone_once)
        connection.seam.lag(1)
        connection.client.disable_key(info)
        assert connection.client.describe_key(info).state is KeyState.DISABLED

    @_LAGS
    def test_a_name_is_given_once_although_reads_lag(self, harness: Harness, reads: int) -> None:
        """C3.3, C4.8: While reads lag a taken name is KeyExistsError all the same, and there is one key."""
        first, second = harness.connect(), harness.connect()
        conf = harness.conf(_quick(harness))
        with harness.lagging(first, reads):
            made = first.client.generate_key(conf)
            with pytest.raises(KeyExistsError):
                second.client.generate_key(conf)
        _only(harness, made)

    # At the same time

    @each("purpose", {"wrapping": True, "signing": False})
    def test_a_name_is_given_once_to_two_at_once(self, harness: Harness, purpose: bool) -> None:
        """C14.1: Two that generate a key of one name at once get one key: the other one's is KeyExistsError,
        wherever one comes between the other's requests.
        """
        kind = _quick(harness) if purpose else harness.signing

        def race(passing: int) -> bool:
            conf, one, other = harness.conf(kind), harness.connect(), harness.connect()
            outcomes = _interrupted(
                harness,
                one,
                passing,
                lambda: one.client.generate_key(conf),
                lambda: other.client.generate_key(conf),
            )
            if outcomes is None:
                return False
            made = [outcome for outcome in outcomes if isinstance(outcome, KeyInfo)]
            lost = [outcome for outcome in outcomes if not isinstance(outcome, KeyInfo)]
            assert [type(error) for error in lost] == [KeyExistsError], f"after {passing} requests"
            _only(harness, made[0])
            return True

        _between_requests(harness, race, lambda c: c.client.generate_key(harness.conf(kind)))

    def test_two_rotations_at_once(self, harness: Harness) -> None:
        """C14.2: Of two that rotate a key at once each makes a version or gets a ConflictError, and all that any
        version wrapped opens.
        """
        kind = _quick(harness)

        def race(passing: int) -> bool:
            info, one, other = harness.generate(kind), harness.connect(), harness.connect()
            old = one.key(info).wrap(_SECRET, context={})
            before = one.client.describe_key(info)
            outcomes = _interrupted(
                harness,
                one,
                passing,
                lambda: one.client.rotate_key(info),
                lambda: other.client.rotate_key(info),
            )
            if outcomes is None:
                return False
            for outcome in outcomes:
                assert not isinstance(outcome, Exception) or type(outcome) is ConflictError, repr(outcome)
            after = harness.connect().client.describe_key(info)
            assert after.state is KeyState.ENABLED
            if before.current_version is not None:
                assert 1 <= len(after.versions) - len(before.versions) <= 2
            for connection in (one, other):
                wrapped = connection.key(info).wrap(_SECRET, context={})
                assert harness.main.key(info).unwrap(wrapped, context={}) == _SECRET
            assert harness.main.key(info).unwrap(old, context={}) == _SECRET
            return True

        spare = harness.generate(kind)
        _between_requests(harness, race, lambda c: c.client.rotate_key(spare))

    @each("first", {"disable": True, "schedule": False})
    def test_disabling_and_destroying_at_once(self, harness: Harness, first: bool) -> None:
        """C14.3: One disables a key while the other schedules its destruction: it ends pending destruction, and
        the disabling returns, or says that it is pending, or that reads do not agree.
        """
        kind = _quick(harness)

        def race(passing: int) -> bool:
            info, one, other = harness.generate(kind), harness.connect(), harness.connect()
            disable, schedule = (
                lambda: (one if first else other).client.disable_key(info),
                lambda: (other if first else one).client.schedule_destruction(info),
            )
            outcomes = _interrupted(
                harness, one, passing, disable if first else schedule, schedule if first else disable
            )
            if outcomes is None:
                return False
            disabled, scheduled = outcomes if first else outcomes[::-1]
            assert not isinstance(scheduled, Exception), repr(scheduled)
            allowed = (KeyPendingDestructionError, DeadlineExceededError)
            assert not isinstance(disabled, Exception) or isinstance(disabled, allowed), repr(disabled)
            assert harness.connect().client.describe_key(info).state is KeyState.PENDING_DESTRUCTION
            for connection in (one, other):
                with pytest.raises(KMSError):
                    connection.key(info).wrap(_SECRET, context={})
            return True

        spare = harness.generate(kind)
        _between_requests(
            harness,
            race,
            lambda c: c.client.disable_key(spare) if first else c.client.schedule_destruction(spare),
        )

    def test_a_rotation_disturbs_no_decryption(self, harness: Harness) -> None:
        """C14.4: While a key is rotated every message opens, old ones and new ones."""
        info, connection = harness.generate(_quick(harness)), harness.connect()
        ring = Keyring([connection.key(info)])
        old = ring.encrypt(_MESSAGE, context={})

        def decrypts() -> int:
            new = ring.encrypt(_MESSAGE, context={})
            assert ring.decrypt(old, context={}) == ring.decrypt(new, context={}) == _MESSAGE
            return 1

        done = _while(decrypts, lambda: [harness.main.client.rotate_key(info) for _ in range(2)])
        assert all(done)

    def test_a_disabling_ends_signing(self, harness: Harness) -> None:
        """C14.5: While a key is disabled each signature verifies or is KeyDisabledError, and once disable_key has
        returned there is none.
        """
        info, connection = harness.generate(harness.signing), harness.connect()
        key = connection.key(info)
        public_key = key.public_key()

        def signs() -> bool:
            try:
                public_key.verify(_MESSAGE, key.sign(_MESSAGE))
            except KeyDisabledError:
                return False
            return True

        done = _while(signs, lambda: connection.client.disable_key(info))
        assert done == sorted(done, reverse=True), "a signature after the key was seen disabled"
        for made in (key, harness.connect().key(info)):
            with pytest.raises(KeyDisabledError):
                made.sign(_MESSAGE)

    # Clocks

    @_SKEWS
    def test_dates_are_the_providers(self, harness: Harness, ahead: int) -> None:
        """C15.1: A caller whose clock is wrong gets the same facts, states and dates as any other."""
        now = harness.main.client.generate_key(harness.conf(harness.wrapping)).created_at
        connection = harness.connect(clock=lambda: now.timestamp() + ahead)
        info = connection.client.generate_key(harness.conf(harness.wrapping))
        assert timedelta(0) <= info.created_at - now < timedelta(hours=1)
        assert harness.main.client.get_key(info.name) == info
        due = connection.client.schedule_destruction(info)
        assert harness.main.client.describe_key(info).destroy_at == due
        if info.destroy_window is not None:
            assert abs(due - now - timedelta(days=info.destroy_window)) < timedelta(hours=1)
        connection.client.cancel_destruction(info)

    @_SKEWS
    def test_a_clock_that_jumps_changes_no_wait(self, harness: Harness, ahead: int) -> None:
        """C15.2: Retries, deadlines and the age of a state go by a clock that only runs: a jump of the caller's own
        clock neither ends a wait nor keeps a state.
        """
        jumps = iter(range(0, 10**12, abs(ahead)))
        connection = harness.connect(clock=lambda: next(jumps) * (1 if ahead > 0 else -1))
        info = harness.generate()
        connection.client.disable_key(info)
        with connection.quiet(), pytest.raises(KeyDisabledError):
            connection.key(info).wrap(_SECRET, context={})
        harness.main.client.enable_key(info)
        connection.time.now += 61
        connection.key(info).wrap(_SECRET, context={})
        assert sum(connection.time.waits) < 1


def _quick(harness: Harness) -> KeyKind:
    """A wrapping kind that is made quickly: symmetric, or the smallest RSA."""
    return harness.wrapping if harness.wrapping.key_size is None or not harness.supports(_SMALL) else _SMALL


def _in_state(status: KeyStatus, state: KeyState) -> KeyStatus:
    return replace(status, state=state)


def _use(connection: Connection, info: KeyInfo) -> None:
    if info.purpose is KeyPurpose.SIGN_VERIFY:
        key = connection.key(info)
        key.verify(_MESSAGE, key.sign(_MESSAGE))
        return
    wrapped = connection.key(info).wrap(_SECRET, context={})
    assert connection.key(info).unwrap(wrapped, context={}) == _SECRET


def _stays(connection: Connection, info: KeyInfo, state: KeyState, error: type[KMSError] | None) -> None:
    for _ in range(2):
        if error is None:
            _use(connection, info)
        else:
            with connection.quiet(), pytest.raises(error):
                _use(connection, info)
        assert connection.client.describe_key(info).state is state


def _only(harness: Harness, made: KeyInfo) -> None:
    """There is one key of that name, the one that was made, and it works."""
    connection = harness.connect()
    assert connection.client.get_key(made.name) == made
    assert [info for info in connection.client.list_keys() if info.name == made.name] == [made]
    assert connection.client.describe_key(made).state is KeyState.ENABLED
    assert len(connection.client.describe_key(made).versions) <= 1
    _use(connection, made)


def _outcome(call: Callable[[], T]) -> T | KMSError:
    try:
        return call()
    except KMSError as error:
        return error


def _interrupted(
    harness: Harness,
    one: Connection,
    passing: int,
    call: Callable[[], object],
    meanwhile: Callable[[], object],
) -> tuple[object, object] | None:
    """What ``call`` came to, and what ``meanwhile`` did before a request of it; None: that came too late."""
    happened: list[object] = []
    with ThreadPoolExecutor(1) as pool:  # another administrator is another thread
        harness.interrupt(one, passing, lambda: happened.append(pool.submit(_outcome, meanwhile).result()))
        try:
            mine = _outcome(call)
        finally:
            harness.uninterrupted(one)
    return (mine, happened[0]) if happened else None


def _between_requests(
    harness: Harness, race: Callable[[int], object], undisturbed: Callable[[Connection], object]
) -> None:
    """``race`` with the interruption before the first request of a call, before the last and at some between."""
    connection = harness.connect()
    requests, calls = connection.requests(), len(connection.seam.calls)
    undisturbed(connection)
    calls = len(connection.seam.calls) - calls
    points = calls if harness.meanwhile is None else connection.requests() - requests
    step = max(1, -(-points // harness.interleavings))
    came = [race(passing) for passing in (*range(0, points - 1, step), points - 1)]
    assert any(came), "nothing was interrupted"
    harness.release()


def _while(work: Callable[[], T], change: Callable[[], object]) -> list[T]:
    """What ``work`` gave, called again and again before, during and after ``change`` on another thread."""
    begun, over = threading.Event(), threading.Event()
    results: list[T] = []

    def run() -> None:
        for _ in _until(over):
            results.append(work())
            begun.set()
        results.append(work())

    with ThreadPoolExecutor(1) as pool:
        running: Future[None] = pool.submit(run)
        running.add_done_callback(lambda _: begun.set())
        begun.wait()
        try:
            change()
        finally:
            over.set()
        running.result()
    return results


def _until(over: threading.Event) -> Iterator[None]:
    while not over.is_set():
        yield
