"""How far a command of a migration is, how fast, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command is.

    Attributes:
        phase: ``walking``, ``proving``, ``migrating``, ``verifying`` or ``rolling back``.
        done: entries of this phase.
        total: all of them, where that is known.
        per_second: entries, lately.
        seconds_left: at that rate.
        slowed: providers that are asked more slowly because they throttled, and the factor.
        obstacle: what the command waits for.
    """

    phase: str
    done: int
    total: int | None
    per_second: float
    seconds_left: float | None
    slowed: Mapping[str, float]
    obstacle: str | None


class Meter:
    """Progress, its rate, and how long there has been none."""

    def __init__(self) -> None:
        self.begin("walking", None)

    def begin(self, phase: str, total: int | None) -> None:
        """A new phase."""
        self._phase, self._total, self._done = phase, total, 0
        self._rate = 0.0
        self._told = self._marked = time.monotonic()
        self._marked_done = 0
        self._hindered_since: float | None = None
        self._blocked_until = 0.0
        self._obstacle: str | None = None

    def add(self, number: int) -> None:
        """Entries that are finished."""
        self._done += number

    def progressed(self) -> None:
        """Nothing stands in the way any more."""
        self._hindered_since = self._obstacle = None

    def hindered(self, what: str, wait_for: float) -> float:
        """Something stands in the way; seconds since the last progress."""
        now = time.monotonic()
        self._obstacle = what
        if self._hindered_since is None:
            self._hindered_since = now
        without = now - self._hindered_since
        self._blocked_until = max(self._blocked_until, now + max(wait_for, min(5.0, 0.2 + without / 4)))
        return without

    def blocked_for(self) -> float:
        """Seconds before anything more is tried."""
        return self._blocked_until - time.monotonic()

    def read(self, slowed: Mapping[str, float]) -> Progress | None:
        """The progress, if it is time to tell."""
        now = time.monotonic()
        if now - self._told < 0.25:
            return None
        self._told = now
        if (passed := now - self._marked) >= 1:
            lately = (self._done - self._marked_done) / passed
            self._rate = lately if not self._rate else 0.7 * self._rate + 0.3 * lately
            self._marked, self._marked_done = now, self._done
        left = None
        if self._total is not None and self._rate > 0:
            left = max(0, self._total - self._done) / self._rate
        return Progress(self._phase, self._done, self._total, self._rate, left, slowed, self._obstacle)
