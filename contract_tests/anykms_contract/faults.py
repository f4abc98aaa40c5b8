"""Errors: what is repeated, what never is, what a lost reply leads to, and what an error tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import pytest

from anykms.client import KMSClient
from anykms.envelope.keyring import Keyring
from anykms.errors import (
    ConflictError,
    DeadlineExceededError,
    IntegrityError,
    InvalidCiphertextError,
    InvalidMacError,
    KeyConfMismatchError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyPendingDestructionError,
    KeystoreError,
    KeyUsageError,
    KMSError,
    PermissionDeniedError,
    ProviderError,
    QuotaExceededError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
)
from anykms.keys import KeyInfo, KeyState, KeyStatus
from anykms.provider import Operation
from anykms_contract.clauses import Contract, each
from anykms_contract.harness import HS256, OAEP, Connection, Harness, KeyKind

_SECRET: Final = bytes(range(32))
_MESSAGE: Final = b"message"
_ATTEMPTS: Final = 5

_RETRYABLE: Final = (UnavailableError, ThrottledError, DeadlineExceededError, IntegrityError, ConflictError)
_FINAL: Final = (
    PermissionDeniedError,
    UnauthenticatedError,
    QuotaExceededError,
    KeyDisabledError,
    KeyPendingDestructionError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyUsageError,
    KeystoreError,
    ProviderError,
)


@dataclass(frozen=True)
class _Repeatable:
    """An operation that may be repeated: a read, or cryptography."""

    operation: Operation
    kind: Callable[[Harness], KeyKind]
    perform: Callable[[Connection, KeyInfo], object]


_REPEATABLE: Final[Mapping[str, _Repeatable]] = {
    "get": _Repeatable(Operation.GET_KEY, lambda h: h.wrapping, lambda c, info: c.client.get_key(info.name)),
    "list": _Repeatable(Operation.LIST_KEYS, lambda h: h.wrapping, lambda c, _: list(c.client.list_keys())),
    "describe": _Repeatable(
        Operation.DESCRIBE_KEY, lambda h: h.wrapping, lambda c, info: c.client.describe_key(info)
    ),
    "public-key": _Repeatable(
        Operation.GET_PUBLIC_KEY, lambda h: h.signing, lambda c, info: c.key(info).public_key()
    ),
    "wrap": _Repeatable(
        Operation.WRAP, lambda h: h.wrapping, lambda c, info: c.key(info).wrap(_SECRET, context={})
    ),
    "unwrap": _Repeatable(
        Operation.UNWRAP,
        lambda h: h.wrapping,
        lambda c, info: c.key(info).unwrap(c.key(info).wrap(_SECRET, context={}), context={}),
    ),
    "encrypt": _Repeatable(
        Operation.WRAP,
        lambda h: h.wrapping,
        lambda c, info: Keyring([c.key(info)]).encrypt(_MESSAGE, context={}),
    ),
    "keyring-decrypt": _Repeatable(
        Operation.UNWRAP,
        lambda h: h.wrapping,
        lambda c, info: Keyring([c.key(info)]).decrypt(
            Keyring([c.key(info)]).encrypt(_MESSAGE, context={}), context={}
        ),
    ),
    "sign": _Repeatable(Operation.SIGN, lambda h: h.signing, lambda c, info: c.key(info).sign(_MESSAGE)),
    "mac": _Repeatable(Operation.MAC, lambda h: HS256, lambda c, info: c.key(info).mac(_MESSAGE)),
    "verify-mac": _Repeatable(
        Operation.VERIFY_MAC,
        lambda h: HS256,
        lambda c, info: c.key(info).verify_mac(_MESSAGE, c.key(info).mac(_MESSAGE)),
    ),
    "decrypt": _Repeatable(
        Operation.DECRYPT,
        lambda h: OAEP,
        lambda c, info: c.key(info).decrypt(c.key(info).public_key().encrypt(_MESSAGE)),
    ),
}


@dataclass(frozen=True)
class _Change:
    """An operation that must never be repeated blindly."""

    operation: Operation
    before: KeyState
    after: KeyState
    perform: Callable[[KMSClient, KeyInfo], object]


_CHANGES: Final[Mapping[str, _Change]] = {
    "disable": _Change(
        Operation.SET_ENABLED, KeyState.ENABLED, KeyState.DISABLED, lambda c, info: c.disable_key(info)
    ),
    "enable": _Change(
        Operation.SET_ENABLED, KeyState.DISABLED, KeyState.ENABLED, lambda c, info: c.enable_key(info)
    ),
    "rotate": _Change(
        Operation.ROTATE_KEY, KeyState.ENABLED, KeyState.ENABLED, lambda c, info: c.rotate_key(info)
    ),
    "schedule": _Change(
        Operation.SCHEDULE_DESTRUCTION,
        KeyState.ENABLED,
        KeyState.PENDING_DESTRUCTION,
        lambda c, info: c.schedule_destruction(info),
    ),
    "cancel": _Change(
        Operation.CANCEL_DESTRUCTION,
        KeyState.PENDING_DESTRUCTION,
        KeyState.DISABLED,
        lambda c, info: c.cancel_destruction(info),
    ),
}


class ErrorsContract(Contract):
    """Faults at every call."""

    # What is repeated

    @each(
        "use,error",
        {f"{use}-{error.__name__}": (use, error) for use in _REPEATABLE for error in _RETRYABLE},
    )
    def test_passing_faults_are_retried(self, harness: Harness, use: str, error: type[KMSError]) -> None:
        """C11.1: Reads and cryptography are repeated on a retryable error: as often for every operation and
        provider.
        """
        chosen = _REPEATABLE[use]
        info = harness.shared(chosen.kind(harness))
        if info is None:
            return
        connection = harness.connect()
        connection.seam.fail(chosen.operation, lambda: error("injected"), times=_ATTEMPTS - 1)
        chosen.perform(connection, info)
        assert connection.seam.count(chosen.operation) == _ATTEMPTS
        assert len(connection.time.waits) == _ATTEMPTS - 1

    @each(
        "use,error",
        {f"{use}-{error.__name__}": (use, error) for use in _REPEATABLE for error in _RETRYABLE},
    )
    def test_lasting_faults_are_raised(self, harness: Harness, use: str, error: type[KMSError]) -> None:
        """C11.1, C10.2: After five attempts the last error is raised as it is, saying where it happened."""
        chosen = _REPEATABLE[use]
        info = harness.shared(chosen.kind(harness))
        if info is None:
            return
        connection = harness.connect()
        raised: list[KMSError] = []

        def fault() -> KMSError:
            raised.append(error("injected"))
            return raised[-1]

        connection.seam.fail(chosen.operation, fault, times=99)
        with pytest.raises(KMSError) as caught:
            chosen.perform(connection, info)
        assert caught.value is raised[-1]
        assert connection.seam.count(chosen.operation) == _ATTEMPTS
        assert caught.value.retryable
        assert caught.value.provider == harness.scheme
        assert caught.value.operation == chosen.operation
        if chosen.operation is not Operation.LIST_KEYS:
            assert caught.value.key in (info.name, str(info.uri))

    @each(
        "use,error",
        {f"{use}-{error.__name__}": (use, error) for use in _REPEATABLE for error in _FINAL},
    )
    def test_final_faults_are_not_retried(self, harness: Harness, use: str, error: type[KMSError]) -> None:
        """C11.1: An error that waiting does not cure is raised after one attempt."""
        chosen = _REPEATABLE[use]
        info = harness.shared(chosen.kind(harness))
        if info is None:
            return
        connection = harness.connect()
        connection.seam.fail(chosen.operation, lambda: error("injected"), times=99)
        with pytest.raises(error) as caught:
            chosen.perform(connection, info)
        assert type(caught.value) is error
        assert not caught.value.retryable
        assert connection.seam.count(chosen.operation) == 1
        assert connection.time.waits == []

    @each(
        "use,error",
        {
            "unwrap": ("unwrap", InvalidCiphertextError),
            "keyring-decrypt": ("keyring-decrypt", InvalidCiphertextError),
            "decrypt": ("decrypt", InvalidCiphertextError),
            "verify-mac": ("verify-mac", InvalidMacError),
        },
    )
    def test_refusals_are_not_retried(self, harness: Harness, use: str, error: type[KMSError]) -> None:
        """C11.1: What is not authentic is asked for once."""
        chosen = _REPEATABLE[use]
        info = harness.shared(chosen.kind(harness))
        if info is None:
            return
        connection = harness.connect()
        connection.seam.fail(chosen.operation, lambda: error("injected"), times=99)
        with pytest.raises(error) as caught:
            chosen.perform(connection, info)
        assert type(caught.value) is error
        assert connection.seam.count(chosen.operation) == 1

    def test_the_provider_is_given_the_time_it_asks_for(self, harness: Harness) -> None:
        """C11.2: retry_after is waited out in full."""
        info, connection = harness.wrapping_key(), harness.connect()
        connection.seam.fail(Operation.WRAP, lambda: ThrottledError("slow down", retry_after=7.0), times=2)
        connection.key(info).wrap(_SECRET, context={})
        assert connection.time.waits == [7.0, 7.0]

    def test_a_wait_beyond_the_deadline_is_not_begun(self, harness: Harness) -> None:
        """C11.2: All attempts share one deadline of 30 seconds; what cannot be waited out is raised at once."""
        info, connection = harness.wrapping_key(), harness.connect()
        connection.seam.fail(Operation.WRAP, lambda: ThrottledError("slow down", retry_after=31.0), times=9)
        with pytest.raises(ThrottledError):
            connection.key(info).wrap(_SECRET, context={})
        assert connection.seam.count(Operation.WRAP) == 1
        assert connection.time.waits == []
        connection.seam.heal()
        connection.seam.fail(Operation.WRAP, lambda: ThrottledError("slow down", retry_after=12.0), times=9)
        with pytest.raises(ThrottledError):
            connection.key(info).wrap(_SECRET, context={})
        assert connection.time.waits == [12.0, 12.0]

    def test_waits_grow_with_jitter(self, harness: Harness) -> None:
        """C11.2: Waits grow exponentially with full jitter."""
        info, connection = harness.wrapping_key(), harness.connect()
        connection.seam.fail(Operation.WRAP, lambda: UnavailableError("injected"), times=4)
        connection.key(info).wrap(_SECRET, context={})
        waits = connection.time.waits
        assert [later / earlier for earlier, later in pairwise(waits)] == [2.0] * 3

    # What is never repeated

    @each(
        "change,error",
        {
            f"{change}-{error.__name__}": (change, error)
            for change in _CHANGES
            for error in (*_RETRYABLE, PermissionDeniedError)
        },
    )
    def test_a_change_that_failed_is_raised_and_not_repeated(
        self, harness: Harness, change: str, error: type[KMSError]
    ) -> None:
        """C11.3: Rotate, enable, disable, schedule and cancel are called once; where nothing happened the
        error is raised.
        """
        chosen = _CHANGES[change]
        info = _fresh(harness, chosen.before)
        before = harness.main.client.describe_key(info)
        connection = harness.connect()
        connection.seam.fail(chosen.operation, lambda: error("injected"))
        with pytest.raises(error) as caught:
            chosen.perform(connection.client, info)
        assert type(caught.value) is error
        assert connection.seam.count(chosen.operation) == 1
        assert harness.main.client.describe_key(info) == before

    @each(
        "change,error",
        {f"{change}-{error.__name__}": (change, error) for change in _CHANGES for error in _RETRYABLE},
    )
    def test_a_change_whose_reply_was_lost_is_finished(
        self, harness: Harness, change: str, error: type[KMSError]
    ) -> None:
        """C11.3, C11.4: After a lost reply the state is read, and the call returns as if nothing had been lost."""
        chosen = _CHANGES[change]
        info = _fresh(harness, chosen.before)
        before = harness.main.client.describe_key(info)
        connection = harness.connect()
        connection.seam.lose_reply(chosen.operation, lambda: error("injected"))
        chosen.perform(connection.client, info)
        assert connection.seam.count(chosen.operation) == 1
        after = harness.main.client.describe_key(info)
        assert after.state is chosen.after
        if change == "rotate":
            assert _rotations(after) == _rotations(before) + 1

    @each("error", {error.__name__: error for error in _RETRYABLE})
    def test_a_key_whose_reply_was_lost_is_found(self, harness: Harness, error: type[KMSError]) -> None:
        """C11.3, C11.4: generate_key is called once; after a lost reply the key is found by its name and conf."""
        connection = harness.connect()
        connection.seam.lose_reply(Operation.GENERATE_KEY, lambda: error("injected"))
        conf = harness.conf(harness.wrapping)
        made = connection.client.generate_key(conf)
        assert connection.seam.count(Operation.GENERATE_KEY) == 1
        assert made == harness.main.client.get_key(conf.name)
        assert made.conf_digest == conf.digest

    @each("error", {error.__name__: error for error in (*_RETRYABLE, PermissionDeniedError)})
    def test_a_key_that_was_not_made_is_an_error(self, harness: Harness, error: type[KMSError]) -> None:
        """C11.3, C11.4: Where no key was made the error is raised, after one call, and nothing is left."""
        connection = harness.connect()
        connection.seam.fail(Operation.GENERATE_KEY, lambda: error("injected"))
        conf = harness.conf(harness.wrapping)
        with pytest.raises(error) as caught:
            connection.client.generate_key(conf)
        assert type(caught.value) is error
        assert connection.seam.count(Operation.GENERATE_KEY) == 1
        with pytest.raises(KeyNotFoundError):
            harness.main.client.get_key(conf.name)

    def test_another_conf_under_the_name_is_not_taken_for_ours(self, harness: Harness) -> None:
        """C11.4: After a lost reply a key of another conf under the same name is not returned as the new one."""
        other, connection = harness.generate(), harness.connect()
        connection.seam.fail(Operation.GENERATE_KEY, lambda: UnavailableError("injected"))
        with pytest.raises(UnavailableError):
            connection.client.generate_key(
                harness.conf(harness.wrapping, name=other.name, tags={"team": "red"})
            )
        assert harness.main.client.get_key(other.name) == other

    def test_an_outcome_that_stays_unknown_is_the_first_error(self, harness: Harness) -> None:
        """C11.4: Where the state cannot be read after a lost reply the first error is raised."""
        info, connection = harness.generate(), harness.connect()
        connection.seam.lose_reply(Operation.SET_ENABLED, lambda: UnavailableError("injected"))
        connection.seam.fail(Operation.DESCRIBE_KEY, lambda: PermissionDeniedError("injected"), times=9)
        with pytest.raises(UnavailableError):
            connection.client.disable_key(info)
        assert connection.seam.count(Operation.SET_ENABLED) == 1

    @each("change", {name: name for name in ("disable", "rotate", "schedule")})
    def test_reads_that_never_agree_end_at_the_deadline(self, harness: Harness, change: str) -> None:
        """C4.5: A change that reads do not confirm within 30 seconds is DeadlineExceededError, and is not repeated."""
        chosen = _CHANGES[change]
        info = _fresh(harness, chosen.before)
        old = harness.main.client.describe_key(info)
        connection = harness.connect()
        connection.seam.answer(Operation.DESCRIBE_KEY, lambda _: old)
        with pytest.raises(DeadlineExceededError) as caught:
            chosen.perform(connection.client, info)
        assert type(caught.value) is DeadlineExceededError
        assert connection.seam.count(chosen.operation) == 1
        assert connection.time.now >= 30

    def test_reads_that_flip_are_waited_out(self, harness: Harness) -> None:
        """C4.5: Reads that disagree in turn are waited for until consecutive ones agree."""
        info, connection = harness.generate(), harness.connect()
        reads: list[KeyStatus] = []

        def lagging(status: KeyStatus) -> KeyStatus:
            reads.append(status)
            return replace(status, state=KeyState.ENABLED) if len(reads) in (1, 3) else status

        connection.seam.answer(Operation.DESCRIBE_KEY, lagging)
        connection.client.disable_key(info)
        assert len(reads) == 5
        assert connection.seam.count(Operation.SET_ENABLED) == 1

    @each("change", {name: name for name in (*_CHANGES, "generate")})
    def test_a_reply_lost_anywhere_repeats_nothing(self, harness: Harness, change: str) -> None:
        """C11.3, C11.4: Whichever reply of a change is lost, at the seam or on the wire: it is done once, and
        the outcome told.
        """
        wire = harness.lose_wire_reply is not None
        lost, position = True, 0
        while lost:
            info = None if change == "generate" else _fresh(harness, _CHANGES[change].before)
            before = None if info is None else harness.main.client.describe_key(info)
            conf, connection = harness.conf(harness.wrapping), harness.connect()
            requests, calls = connection.requests(), len(connection.seam.calls)
            if harness.lose_wire_reply is not None:
                harness.lose_wire_reply(position)
            else:
                connection.seam.lose_reply_after(position, lambda: UnavailableError("lost"))
            with suppress(UnavailableError, ThrottledError, DeadlineExceededError):
                if info is None:
                    connection.client.generate_key(conf)
                else:
                    _CHANGES[change].perform(connection.client, info)
            harness.heal_wire()
            connection.seam.heal()
            made = connection.requests() - requests if wire else len(connection.seam.calls) - calls
            lost, position = made > position, position + 1
            if info is None:
                assert [key.name for key in harness.main.client.list_keys()].count(conf.name) <= 1
                continue
            after = harness.main.client.describe_key(info)
            assert after.state in (_CHANGES[change].before, _CHANGES[change].after)
            assert before is not None
            assert _rotations(after) - _rotations(before) in ((0, 1) if change == "rotate" else (0,))
        assert position > 2

    @each(
        "use,error",
        {
            f"{use}-{error.__name__}": (use, error)
            for use in _REPEATABLE
            if use not in ("list", "get")
            for error in (UnavailableError, ThrottledError)
        },
    )
    def test_faults_on_the_wire_cost_the_same_attempts(
        self, harness: Harness, use: str, error: type[KMSError]
    ) -> None:
        """C11.5: An answer of 5xx, a throttling or a reset on the wire is one attempt: nothing below the seam
        repeats it.
        """
        chosen = _REPEATABLE[use]
        info = harness.shared(chosen.kind(harness))
        if info is None:
            return
        arm = harness.wire_faults.get(error.__name__)
        connection = harness.connect()
        if arm is None:
            connection.seam.fail(chosen.operation, lambda: error("injected"), times=99)
        else:
            arm(99)
        requests = connection.requests()
        with pytest.raises(error) as caught:
            chosen.perform(connection, info)
        harness.heal_wire()
        assert type(caught.value) is error
        attempts = [call for call in connection.seam.calls if call.operation is caught.value.operation]
        assert len(attempts) == _ATTEMPTS
        if arm is not None:
            assert connection.requests() - requests == _ATTEMPTS

    # What an error tells

    @each(
        "foreign",
        {
            "ValueError": ValueError,
            "KeyError": KeyError,
            "RuntimeError": RuntimeError,
            "ConnectionError": ConnectionError,
            "AttributeError": AttributeError,
            "AssertionError": AssertionError,
        },
    )
    def test_nothing_but_our_errors_leaves(self, harness: Harness, foreign: type[Exception]) -> None:
        """C10.1: An exception that a provider does not map is ProviderError, with the exception as its cause."""
        for chosen in _REPEATABLE.values():
            info = harness.shared(chosen.kind(harness))
            if info is None:
                continue
            connection = harness.connect()
            connection.seam.fail(chosen.operation, lambda: foreign("secret-0815"), times=9)
            with pytest.raises(ProviderError) as caught:
                chosen.perform(connection, info)
            assert type(caught.value) is ProviderError
            assert type(caught.value.__cause__) is foreign
            assert "secret-0815" not in str(caught.value)
            assert connection.seam.count(chosen.operation) == 1

    @each("change", {name: name for name in _CHANGES})
    def test_nothing_but_our_errors_leaves_a_change(self, harness: Harness, change: str) -> None:
        """C10.1: The same for lifecycle calls, which are not repeated."""
        chosen = _CHANGES[change]
        info = _fresh(harness, chosen.before)
        connection = harness.connect()
        connection.seam.fail(chosen.operation, lambda: ValueError("injected"))
        with pytest.raises(ProviderError) as caught:
            chosen.perform(connection.client, info)
        assert type(caught.value) is ProviderError
        assert connection.seam.count(chosen.operation) == 1

    @each("use", {name: name for name in _REPEATABLE})
    def test_errors_hold_no_secrets(self, harness: Harness, use: str) -> None:
        """C10.2: No error shows plaintext, key or tag bytes, in its text, notes or arguments."""
        chosen = _REPEATABLE[use]
        info = harness.shared(chosen.kind(harness))
        if info is None:
            return
        connection = harness.connect()
        connection.seam.fail(chosen.operation, lambda: UnavailableError("injected"), times=99)
        with pytest.raises(UnavailableError) as caught:
            chosen.perform(connection, info)
        shown = repr(caught.value) + str(caught.value.__dict__)
        assert _MESSAGE.decode() not in shown
        assert repr(_SECRET) not in shown

    def test_real_errors_say_where(self, harness: Harness) -> None:
        """C10.2: An error names provider, operation and key; its text is one printable line."""
        info = harness.generate()
        harness.bring(info, KeyState.DISABLED)
        connection = harness.connect()
        with pytest.raises(KeyDisabledError) as caught:
            connection.key(info).wrap(_SECRET, context={})
        error = caught.value
        assert (error.provider, error.operation, error.key) == (harness.scheme, "wrap", str(info.uri))
        assert str(error)
        assert str(error).isprintable()

    def test_a_vanished_key_is_destroyed(self, harness: Harness) -> None:
        """C10.3: A KeyInfo whose key the provider does not know is KeyDestroyedError in every operation."""
        info = harness.wrapping_key()
        wrapped = harness.main.key(info).wrap(_SECRET, context={})
        connection = harness.connect()
        connection.seam.fail(Operation.UNWRAP, lambda: KeyDestroyedError("gone"))
        with pytest.raises(KeyDestroyedError) as caught:
            connection.key(info).unwrap(wrapped, context={})
        assert type(caught.value) is KeyDestroyedError

    def test_a_key_that_cannot_be_disowned_says_so(self, harness: Harness) -> None:
        """C3.2: Where a wrong key cannot be disabled either, the error says that it must be done by hand."""
        connection = harness.connect()
        connection.seam.misread(lambda template: replace(template, conf_digest="a" * 52))
        connection.seam.fail(Operation.SET_ENABLED, lambda: PermissionDeniedError("no"))
        with pytest.raises(KeyConfMismatchError) as caught:
            connection.client.generate_key(harness.conf(harness.wrapping))
        assert "by hand" in str(caught.value)


def _fresh(harness: Harness, state: KeyState) -> KeyInfo:
    info = harness.generate()
    harness.bring(info, state)
    return info


def _rotations(status: KeyStatus) -> int:
    """How often the key was rotated, up to a constant."""
    return len(status.versions) if status.rotations_left is None else -status.rotations_left
