"""The one retry and deadline policy. SDK retries are off, so attempts are counted here and nowhere else."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from anykms.errors import DeadlineExceededError, InvalidArgumentError, KMSError

T = TypeVar("T")

_jitter: Final = random.SystemRandom().random


class Deadline:
    """A point in time that all attempts of one operation share."""

    __slots__ = ("clock", "end")

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.clock: Final = clock
        self.end: Final = clock() + seconds

    def remaining(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.end - self.clock()

    def check(self) -> None:
        """Raises DeadlineExceededError once the deadline has passed."""
        if self.remaining() <= 0:
            raise DeadlineExceededError("the deadline passed before the provider was asked; try again later")


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter, for reads and cryptographic calls.

    What creates, rotates or destroys is never repeated blindly, whatever the policy says.

    Args:
        max_attempts: calls in all, 1 or more.
        deadline: seconds over all attempts and the waiting between them.
        base_delay: seconds; attempt n waits at most ``base_delay * 2**n``.
        max_delay: seconds that one wait never exceeds, unless the provider asks for more.
        sleep, clock, jitter: for tests; ``jitter`` gives 0 <= x < 1.

    Raises:
        InvalidArgumentError: a number out of range.

    >>> RetryPolicy(max_attempts=1).call(lambda: "done")
    'done'
    """

    max_attempts: int = 5
    deadline: float = 30.0
    base_delay: float = 0.1
    max_delay: float = 5.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    jitter: Callable[[], float] = field(default=_jitter, repr=False)

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.deadline <= 0 or self.base_delay < 0 or self.max_delay < 0:
            raise InvalidArgumentError("a retry policy needs max_attempts >= 1, deadline > 0 and delays >= 0")

    def start(self) -> Deadline:
        """A deadline that begins now."""
        return Deadline(self.deadline, self.clock)

    def call(self, function: Callable[[], T], deadline: Deadline | None = None) -> T:
        """What ``function`` returns, called again while it raises a retryable error and time is left.

        The last error is the one raised.
        """
        if deadline is None:
            end, clock = self.clock() + self.deadline, self.clock
        else:
            deadline.check()
            end, clock = deadline.end, deadline.clock
        attempt = 1
        while True:
            try:
                return function()
            except KMSError as error:
                delay = self._delay(attempt, error)
                if not error.retryable or attempt >= self.max_attempts or delay >= end - clock():
                    raise
            self.sleep(delay)
            attempt += 1

    def _delay(self, attempt: int, error: KMSError) -> float:
        backoff: float = min(self.max_delay, self.base_delay * 2**attempt) * self.jitter()
        return max(backoff, error.retry_after or 0.0)
