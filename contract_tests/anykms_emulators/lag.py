"""Lag switch: changes are not seen everywhere at once, as behind a load balancer whose replicas are not in step.

>>> lag = Lag()
>>> lag.behind(reads=3)
>>> state = "old"
>>> lag.change("account", lambda: state)  # an emulator says so before it changes something
>>> state = "new"
>>> [lag.view("account") or state for _ in range(5)]
['old', 'new', 'old', 'new', 'new']
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from anykms_emulators.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


class Lag:
    """How far one replica of an emulator is behind the other; in step unless `behind` says otherwise.

    What changes something is done at once, by the replica that is ahead. What only reads, and uses of keys, are
    answered by the replicas in turn, first by the one that is behind. That one shows the state before the oldest
    change that has not reached it. Each emulator's page says which calls lag: those that its cloud says do.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._reads: int | None = 0
        self._lasting: timedelta | None = None
        self._flip_flop = True
        self._changes: list[_Change] = []
        self._turns: dict[str, bool] = {}

    def behind(
        self, *, reads: int | None = None, lasting: timedelta | None = None, flip_flop: bool = True
    ) -> None:
        """Hide each change made from now on from the replica that is behind.

        reads: until that many calls that can lag were answered, by either replica; None for any number, 0 for none.
        lasting: until that much time has passed on the emulator's clock; None for ever. The first of both ends it.
        flip_flop: False lets the replica that is behind answer every call, not every second one.
        """
        if (reads is not None and reads < 0) or (lasting is not None and lasting <= timedelta()):
            raise ValueError("reads is not negative, and lasting is more than no time")
        with self._lock:
            self._reads, self._lasting, self._flip_flop = reads, lasting, flip_flop

    def clear(self) -> None:
        """Bring the replicas in step, and keep them so."""
        with self._lock:
            self._reads = 0
            self._changes.clear()

    @property
    def pending(self) -> int:
        """How many changes have not reached the replica that is behind."""
        with self._lock:
            self._forget()
            return len(self._changes)

    def change(self, scope: str, copy: Callable[[], object]) -> None:
        """Called by the emulator before it changes what is in `scope`: `copy` gives the state, safe to keep."""
        with self._lock:
            if self._reads == 0:
                return
            until = None if self._lasting is None else self._clock.now() + self._lasting
            self._changes.append(_Change(scope, copy(), self._reads, until))
            self._turns[scope] = True

    def strong(self, scope: str) -> None:
        """Called by the emulator for a change that its cloud says is seen at once: all of `scope` is in step."""
        with self._lock:
            self._changes = [change for change in self._changes if change.scope != scope]

    def view(self, scope: str) -> object | None:
        """Called by the emulator for a call that can lag: an old state to answer from, or None for the newest."""
        with self._lock:
            self._forget()
            hidden = [change for change in self._changes if change.scope == scope]
            if not hidden:
                return None
            for change in hidden:
                if change.reads is not None:
                    change.reads -= 1
            shown = self._turns.get(scope, True) or not self._flip_flop
            self._turns[scope] = not shown
            return hidden[0].state if shown else None

    def _forget(self) -> None:
        now = self._clock.now()
        self._changes = [
            change
            for change in self._changes
            if change.reads != 0 and (change.until is None or now < change.until)
        ]


@dataclass(slots=True, eq=False)
class _Change:
    scope: str
    state: object
    reads: int | None
    until: datetime | None
