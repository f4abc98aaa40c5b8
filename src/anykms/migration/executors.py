"""Where the steps of a migration run: threads of this process, or whatever else has an executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from anykms.errors import InvalidArgumentError
from anykms.migration.steps import Job

T = TypeVar("T")


class TimedFuture(Future[T]):
    """A future that says how long the work took, without the way there and back: batches are made to measure."""

    seconds: float | None = None


class Executor(Protocol):
    """Where the steps run: threads of this process, or a cluster. ``concurrent.futures`` gives the futures."""

    @property
    def capacity(self) -> int:
        """Batches that may be handed out at once."""
        ...

    def begin(self, jobs: Sequence[Job], *, wraps: bool) -> None:
        """Called before a command hands out anything.

        Args:
            jobs: what the steps will be about.
            wraps: whether they wrap for the new keys, too.

        Raises:
            KMSError: it cannot do that work.
        """
        ...

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Call it somewhere. A future that raises ``BrokenExecutor`` was lost, and is handed out again."""
        ...

    def close(self) -> None:
        """Wait for what runs, and let go of the workers."""
        ...


class ThreadExecutor:
    """Threads of this process.

    Args:
        workers: 1 to 256.
    """

    def __init__(self, workers: int = 16) -> None:
        if not 1 <= workers <= 256:
            raise InvalidArgumentError("a migration runs on 1 to 256 threads")
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="anykms-migration")

    @property
    def capacity(self) -> int:
        """One batch in work and a half in reserve for each thread."""
        return self._workers + (self._workers + 1) // 2

    def begin(self, jobs: Sequence[Job], *, wraps: bool) -> None:
        """See ``Executor``: threads can do all of it."""

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """See ``Executor``."""
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        """See ``Executor``."""
        self._pool.shutdown(cancel_futures=True)
