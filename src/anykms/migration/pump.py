"""Hands out the batches of a migration, as fast as workers and quotas take them, and stops in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from anykms.errors import UnavailableError
from anykms.migration.executors import Executor, TimedFuture
from anykms.migration.progress import Meter, Progress
from anykms.migration.rates import Call, Pace
from anykms.migration.steps import NOT_NOW, NOTHING_CAN_BE_WRITTEN, Outcome, exchange, prepare, prove, verify

_FIRST_BATCH: Final = 8
LARGEST_BATCH: Final = 512
_BATCH_SECONDS: Final = 0.25
"""How long a batch should take: short enough to stop soon and to spread evenly over a quota."""
_LOST_LIMIT: Final = 5
"""How often a batch is handed out again whose worker died."""


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to hand out, what it costs and what to do with its result; the latter runs in a transaction."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    then: Callable[[Any], Iterable[Task]]
    calls: Mapping[Call, int] = field(default_factory=dict[Call, int])
    lost: int = 0


class StoppedError(Exception):
    """A command ends before its end. Everything it had begun is finished or noted."""


class Pump:
    """The one place that hands out batches.

    Args:
        executor: where they run.
        pace: how fast each provider may be asked.
        patience: seconds without any progress before it stops.
        on_progress: told about four times a second.
    """

    def __init__(
        self,
        executor: Executor,
        pace: Pace,
        patience: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._executor = executor
        self._patience = patience
        self._on_progress = on_progress
        self._stop = threading.Event()
        self._why: str | None = None
        self._batch = _FIRST_BATCH
        self.most = LARGEST_BATCH
        """Entries that no batch has more of."""
        self.pace = pace
        self.meter = Meter()

    @property
    def stopped_by(self) -> str | None:
        """Why it stops or has stopped; None while it does not."""
        return self._why if self._stop.is_set() else None

    def stop(self, why: str) -> None:
        """Hand out nothing new. From any thread or signal handler."""
        self._why = self._why or why
        self._stop.set()

    def pause(self, seconds: float) -> None:
        """Wait, unless it stops.

        Raises:
            StoppedError: it stops.
        """
        self.tell()
        if self._stop.wait(max(0.0, seconds)):
            raise StoppedError

    def run(self, source: Iterator[Task], flush: Callable[[], None] | None = None) -> None:
        """Hand out tasks and what follows from them, as fast as executor and quotas take them.

        Raises:
            StoppedError: it was asked to stop; what had been prepared is finished.
        """
        running: dict[Future[Any], tuple[Task, float]] = {}
        following: deque[Task] = deque()
        urgent: deque[Task] = deque()
        ahead: Task | None = None
        exhausted = False

        def hand_out(task: Task) -> None:
            running[self._executor.submit(task.function, *task.arguments)] = task, time.monotonic()

        def queue(task: Task) -> None:
            # What was prepared is put in place first, and even if everything stops.
            (urgent if task.function is exchange else following).append(task)

        try:
            while True:
                pause = 0.25
                while len(running) < self._executor.capacity:
                    if urgent:
                        hand_out(urgent.popleft())
                        continue
                    if ahead is None and following:
                        ahead = following.popleft()
                    if ahead is None and not exhausted and not self._stop.is_set():
                        ahead = next(source, None)
                        exhausted = ahead is None
                    if ahead is None:
                        break
                    if self._stop.is_set():
                        ahead = None
                        continue
                    if (wait_for := self._pause(ahead)) > 0:
                        pause = min(pause, wait_for)
                        break
                    hand_out(ahead)
                    ahead = None
                self.tell()
                if not running:
                    if ahead is None and not following:
                        break
                    self._stop.wait(pause)
                    continue
                finished, _ = wait(running, timeout=pause, return_when=FIRST_COMPLETED)
                ready: list[tuple[Task, Any]] = []
                for future in finished:
                    task, since = running.pop(future)
                    try:
                        ready.append((task, future.result()))
                    except BrokenExecutor as error:
                        if task.lost >= _LOST_LIMIT:
                            raise UnavailableError(
                                f"workers were lost {task.lost} times over one batch"
                            ) from error
                        queue(replace(task, lost=task.lost + 1))
                        continue
                    measured = future.seconds if isinstance(future, TimedFuture) else None
                    self._adapt(task, time.monotonic() - since if measured is None else measured)
                for task, result in ready:
                    for follower in task.then(result):
                        queue(follower)
                if flush is not None:
                    # Only now may what follows be handed out: what it relies on is on the disk.
                    flush()
        except BaseException:
            for future in running:
                future.cancel()
            wait(running)
            raise
        if self._stop.is_set():
            raise StoppedError

    def _pause(self, task: Task) -> float:
        """Seconds before the task may be handed out."""
        if (blocked := self.meter.blocked_for()) > 0:
            return blocked
        return self.pace.take(task.calls) if task.calls else 0.0

    def _adapt(self, task: Task, seconds: float) -> None:
        if task.function not in (prepare, prove, verify):
            return
        size = len(task.arguments[1])
        if seconds > 2 * _BATCH_SECONDS:
            self._batch = max(1, min(self._batch, size) // 2)
        elif seconds < _BATCH_SECONDS and size >= self._batch:
            self._batch = min(LARGEST_BATCH, self._batch * 2)

    @property
    def batch(self) -> int:
        """Entries of the next batch."""
        return min(self._batch, self.most)

    def obstacles(self, outcomes: Iterable[Outcome], progressed: int) -> None:
        """Slow down for a provider that throttles; wait, and at last stop, for what cannot be used at all."""
        if progressed:
            self.meter.progressed()
        for outcome in outcomes:
            if outcome.error is None:
                continue
            if outcome.error.startswith("OSError"):
                self.stop(outcome.error)
                continue
            if outcome.provider is not None and outcome.error == "ThrottledError":
                self.pace.throttled(outcome.provider, outcome.wait)
            where = f"{outcome.error} of {outcome.provider or 'a target'}"
            if self.meter.hindered(where, outcome.wait) > self._patience:
                self.stop(f"no progress for {self._patience:.0f} s: {where}")

    def tell(self) -> None:
        """Tell the progress, if it is time to."""
        if self._on_progress is not None and (progress := self.meter.read(self.pace.slowed())) is not None:
            self._on_progress(progress)

    @contextmanager
    def stopping(self) -> Generator[None]:
        """What ends a command before its end, and may pass: the report says it, and the next run goes on."""
        try:
            yield
        except StoppedError:
            return
        except NOT_NOW as error:
            self.stop(f"{type(error).__name__}: {error}")
        except OSError as error:
            if error.errno not in NOTHING_CAN_BE_WRITTEN:
                raise
            self.stop(f"OSError: {error.strerror}: {error.filename}")
