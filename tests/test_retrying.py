"""The retry policy by itself: how often, how long, and what is never repeated."""

from __future__ import annotations

import pytest

from anykms import KMSError, RetryPolicy, errors


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def policy(self, *, max_attempts: int = 5, deadline: float = 30.0, jitter: float = 0.5) -> RetryPolicy:
        return RetryPolicy(
            max_attempts=max_attempts,
            deadline=deadline,
            sleep=self.sleep,
            clock=lambda: self.now,
            jitter=lambda: jitter,
        )


class Flaky:
    """Raises the given errors in turn, then returns."""

    def __init__(self, *failures: KMSError) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


RETRYABLE = [
    errors.ThrottledError,
    errors.UnavailableError,
    errors.DeadlineExceededError,
    errors.IntegrityError,
    errors.ConflictError,
]


@pytest.mark.parametrize("kind", RETRYABLE)
def test_a_retryable_error_is_tried_again(kind: type[KMSError]) -> None:
    clock, flaky = Clock(), Flaky(kind("x"), kind("x"))
    assert clock.policy().call(flaky) == "done"
    assert flaky.calls == 3


def test_every_other_error_is_raised_at_once() -> None:
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KMSError)]
    final = [kind for kind in tree if not kind.retryable]
    assert len(final) > 20
    for kind in final:
        flaky = Flaky(kind("x"))
        with pytest.raises(kind):
            Clock().policy().call(flaky)
        assert flaky.calls == 1


def test_attempts_are_counted_and_the_last_error_is_raised() -> None:
    flaky = Flaky(*(errors.IntegrityError(f"attempt {n}") for n in range(1, 9)))
    with pytest.raises(errors.IntegrityError, match="attempt 5"):
        Clock().policy().call(flaky)
    assert flaky.calls == 5


def test_the_wait_doubles_under_full_jitter_up_to_its_ceiling() -> None:
    clock = Clock()
    flaky = Flaky(*(errors.UnavailableError("x") for _ in range(8)))
    clock.policy(max_attempts=9).call(flaky)
    assert clock.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5, 2.5])
    idle = Clock()
    idle.policy(jitter=0.0).call(Flaky(errors.UnavailableError("x")))
    assert idle.slept == [0.0]


def test_retry_after_is_honoured_and_not_shortened_by_jitter() -> None:
    clock = Clock()
    clock.policy().call(Flaky(errors.ThrottledError("x", retry_after=7.0)))
    assert clock.slept == [7.0]


def test_no_wait_begins_that_the_deadline_would_cut() -> None:
    clock, flaky = Clock(), Flaky(errors.ThrottledError("x", retry_after=31.0))
    with pytest.raises(errors.ThrottledError) as caught:
        clock.policy().call(flaky)
    assert (flaky.calls, clock.slept, caught.value.retry_after) == (1, [], 31.0)


def test_a_shared_deadline_that_has_passed_lets_nothing_begin() -> None:
    clock = Clock()
    policy = clock.policy(deadline=1.0)
    deadline = policy.start()
    clock.sleep(1.0)
    flaky = Flaky()
    with pytest.raises(errors.DeadlineExceededError):
        policy.call(flaky, deadline)
    assert flaky.calls == 0


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 0}, {"deadline": 0.0}, {"base_delay": -1.0}, {"max_delay": -1.0}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_the_default_jitter_stays_in_range() -> None:
    policy = RetryPolicy()
    assert all(0 <= policy.jitter() < 1 for _ in range(1000))
