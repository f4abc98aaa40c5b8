"""Plan, run, prove and undo a migration.

The driver here walks the targets, keeps the checkpoint and hands out batches; the steps that use keys and places run
on an executor. A header is put in place only once it and the one it replaces are on the disk of the checkpoint, so
that at any instant each entry is untouched, or its old header is kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Final, Protocol, TypeVar

from anykms.errors import (
    ConflictError,
    InvalidArgumentError,
    UnavailableError,
)
from anykms.keys import KeyURI
from anykms.migration.census import ADVICE, Claim, Kind, Mode, Reason, decide
from anykms.migration.checkpoint import Checkpoint, Facts, Found, Row, Shard, State, bucket_of
from anykms.migration.files import FileTarget
from anykms.migration.rates import Call, Pace, figures, limit_of, price_of, unwrap_calls, weights, wrap_calls
from anykms.migration.readers import ForeignReader
from anykms.migration.reports import (
    FORMAT,
    MAX_KEYS,
    SHOWN,
    CallUse,
    ClaimUse,
    Command,
    Counts,
    Ending,
    Estimate,
    KeyUse,
    Report,
    Waiting,
    moment,
)
from anykms.migration.steps import (
    NOT_NOW,
    NOTHING_CAN_BE_WRITTEN,
    Bindings,
    HeldKeys,
    Job,
    Keys,
    Outcome,
    Verdict,
    exchange,
    prepare,
    prove,
    restore,
    survey,
    verify,
)
from anykms.migration.targets import Entry, Swap, Target

T = TypeVar("T")

_WALK_BATCH: Final = 512
_FIRST_BATCH: Final = 8
_LARGEST_BATCH: Final = 512
_BATCH_SECONDS: Final = 0.25
"""How long a batch should take: short enough to stop soon and to spread evenly over a quota."""
_LOST_LIMIT: Final = 5
"""How often a batch is handed out again whose worker died."""
_FAILURES: Final = 200
"""Entries that fail one after the other, with no success between, before a run stops."""
_TRIES: Final = 5
"""How often an entry is read again that another writer changes, or holds open, each time."""
_WALKS: Final = 10
"""Walks after which a run no longer waits for writers that use the old keys."""


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


@dataclass(frozen=True, slots=True)
class _Task:
    """A batch to hand out, what it costs and what to do with its result; the latter runs in a transaction."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    then: Callable[[Any], Iterable[_Task]]
    calls: Mapping[Call, int] = field(default_factory=dict[Call, int])
    lost: int = 0


class StoppedError(Exception):
    """A command ends before its end. Everything it had begun is finished or noted."""


class Migration:
    """One migration: places, keys, and a checkpoint that remembers.

    Args:
        targets: the places; no two of the same name.
        keys: ``HeldKeys`` or ``NamedKeys``.
        checkpoint: path of the SQLite file; not within a target. A proof needs none.
        mode: what happens to the recipients of each message.
        bindings: required context, and aad, of the entries.
        readers: foreign formats to re-encrypt, in the order in which they are asked.
        shard: the part of the entries to work on; every shard has the same checkpoint.
        rates: calls per second by provider scheme, instead of its published quota.
        executor: where the steps run; None for ``concurrency`` threads. The caller closes its own.
        concurrency: threads.
        patience: seconds without any progress, because a provider or a place cannot be used, before a command stops.
        on_progress: called about four times a second, in the thread that called the command.

    Raises:
        InvalidArgumentError: an argument is bad, or the checkpoint lies within a target.

    >>> import anykms, tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "messages").mkdir()
    >>> client = anykms.connect(f"local://{folder}/keys.db", create=True)
    >>> old, new = (
    ...     client.key(client.generate_key(anykms.KeyConf(name, "ENCRYPT_DECRYPT"))) for name in ("old", "new")
    ... )
    >>> _ = (folder / "messages" / "a").write_bytes(anykms.Keyring([old]).encrypt(b"paid", context={}))
    >>> move = Migration(
    ...     [FileTarget(folder / "messages")], HeldKeys([old], [new]), checkpoint=folder / "migration.db"
    ... )
    >>> move.plan().counts.todo, move.run().counts.done, move.verify().ending
    (1, 1, 'done')
    >>> anykms.Keyring([new]).decrypt((folder / "messages" / "a").read_bytes(), context={})
    b'paid'
    """

    def __init__(
        self,
        targets: Sequence[Target],
        keys: Keys,
        *,
        checkpoint: str | os.PathLike[str] = "anykms-migration.db",
        mode: Mode = Mode.REPLACE,
        bindings: Bindings | None = None,
        readers: Sequence[ForeignReader] = (),
        shard: Shard | None = None,
        rates: Mapping[str, float] | None = None,
        executor: Executor | None = None,
        concurrency: int = 16,
        patience: float = 60.0,
        on_progress: Callable[[Progress], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._targets = tuple(targets)
        names = [target.name for target in self._targets]
        if not names:
            raise InvalidArgumentError("a migration needs at least one target")
        if len(set(names)) != len(names):
            raise InvalidArgumentError("a target is named twice")
        self._path = os.path.abspath(checkpoint)
        for target in self._targets:
            if isinstance(target, FileTarget) and target.holds(self._path):
                raise InvalidArgumentError(
                    f"the checkpoint {self._path} lies within the target {target.name}: give a --checkpoint elsewhere"
                )
        self._keys = keys
        self._mode = Mode(mode)
        self._bindings = bindings or Bindings()
        self._readers = tuple(readers)
        if self._readers and self._mode is Mode.REMOVE:
            raise InvalidArgumentError("foreign entries cannot be re-encrypted by removing a key")
        self._shard = shard or Shard()
        self._rates = dict(rates or {})
        self._pace = Pace(self._rates, 1 / self._shard.count)
        self._own_executor = executor is None
        self._executor: Executor = executor or ThreadExecutor(concurrency)
        self._patience = patience
        self._on_progress = on_progress
        self._clock = clock
        self._stop = threading.Event()
        self._why: str | None = None
        self._batch = _FIRST_BATCH
        self._most: int | None = None
        self._meter = _Meter()

    def stop(self, why: str = "it was asked to stop") -> None:
        """Let a running command finish its batches and end. May be called from a signal handler or another thread."""
        self._why = self._why or why
        self._stop.set()

    def close(self) -> None:
        """Let go of the threads. A command after that fails."""
        if self._own_executor:
            self._executor.close()

    # Commands

    def plan(self, *, prove_claims: bool = False) -> Report:
        """Walk the targets and take the census; nothing is changed.

        Args:
            prove_claims: open the header of every message with the keys at hand.

        Returns:
            counts of what a run would do, keys in use, calls, hours and money.

        Raises:
            KMSError, OSError: a target or the checkpoint cannot be used.
        """
        started = self._begin()
        self._executor.begin(self._plain_jobs(), wraps=False)
        with self._checkpoint() as checkpoint:
            run = checkpoint.begin_run("plan", self._shard, started)
            jobs = self._jobs(checkpoint)
            with self._stopping():
                self._walk(checkpoint, jobs, run)
                if prove_claims:
                    self._prove(checkpoint, jobs, run)
            self._end(checkpoint, run, 0)
            return self._report(checkpoint, "plan", started, proven=prove_claims)

    def run(self) -> Report:
        """Give every entry its new header, until a walk over the targets finds nothing more to do.

        Goes on where an earlier run ended, however it ended. May be called while applications read and write.

        Returns:
            counts, of earlier runs of this checkpoint too; ``ending`` says whether anything is left.

        Raises:
            KMSError, OSError: a target or the checkpoint cannot be used.
        """
        started = self._begin()
        self._executor.begin(self._plain_jobs(), wraps=True)
        with self._checkpoint() as checkpoint:
            run = checkpoint.begin_run("run", self._shard, started)
            jobs = self._jobs(checkpoint)
            changed = 0
            with self._stopping():
                self._answer()
                for number in range(_WALKS):
                    if number or checkpoint.count(self._shard, (State.TODO, State.PREPARED)) == 0:
                        self._walk(checkpoint, jobs, run)
                        if checkpoint.count(self._shard, (State.TODO, State.PREPARED)) == 0:
                            break
                    changed += self._migrate(checkpoint, jobs, run)
                else:
                    self.stop(f"after {_WALKS} walks something still writes with the old keys")
            self._end(checkpoint, run, changed)
            return self._report(checkpoint, "run", started)

    def rollback(self) -> Report:
        """Put every kept header back where the new one still stands. What was written since stays as it is.

        Raises:
            FileNotFoundError: there is no checkpoint.
            KMSError, OSError: a target or the checkpoint cannot be used.
        """
        started = self._begin()
        self._most = _LARGEST_BATCH
        if not os.path.exists(self._path):
            raise FileNotFoundError(2, "there is no checkpoint to roll back from", self._path)
        with self._checkpoint() as checkpoint:
            run = checkpoint.begin_run("rollback", self._shard, started)
            jobs = self._jobs(checkpoint)
            kept = (State.DONE, State.PREPARED)
            with self._stopping():
                self._meter.begin("rolling back", checkpoint.count(self._shard, kept))
                note = partial(self._note_restored, checkpoint, run)
                self._pump(
                    checkpoint,
                    (
                        _Task(restore, (jobs[target], rows), partial(note, jobs[target], rows))
                        for target, rows in self._grouped(checkpoint.rows(self._shard, kept))
                        if target in jobs
                    ),
                )
            self._end(checkpoint, run, 0)
            return self._report(checkpoint, "rollback", started)

    def verify(self, *, full: bool = False) -> Report:
        """Open every message with each new key that it names, by a fresh walk; nothing of the checkpoint is used.

        Args:
            full: read each message to its last byte; needs its aad.

        Returns:
            counts of its own; ``ending`` is "done" where every message opens and none names a key to leave.

        Raises:
            KMSError, OSError: a target cannot be used.
        """
        started = self._begin()
        proof = _Proof()
        jobs = self._plain_jobs()
        self._executor.begin(jobs, wraps=False)
        whole = False
        with self._stopping():
            self._meter.begin("verifying", None)
            self._pump(
                None,
                (
                    self._verifying(job, entries, full, proof)
                    for job in jobs
                    for entries in self._batches(job.target, self._size_limit())
                ),
            )
            whole = True
        ended = self._clock()
        return self._proof_report(proof, started, ended, whole, full)

    def _end(self, checkpoint: Checkpoint, run: int, changed: int) -> None:
        # A full disk must not hide the report.
        with suppress(OSError) if self._stop.is_set() else nullcontext():
            checkpoint.end_run(run, changed, self._clock())

    # Walks

    def _checkpoint(self) -> Checkpoint:
        checkpoint = Checkpoint(
            self._path,
            Facts(
                str(self._mode),
                sorted(target.name for target in self._targets),
                sorted(map(str, self._keys.old_uris)),
                sorted(map(str, self._keys.new_uris)),
            ),
        )
        try:
            checkpoint.hold(self._shard)
        except BaseException:
            checkpoint.close()
            raise
        return checkpoint

    def _begin(self) -> float:
        """The moment at which a command begins."""
        self._stop.clear()
        self._why = None
        self._pace = Pace(self._rates, 1 / self._shard.count)
        return self._clock()

    def _jobs(self, checkpoint: Checkpoint) -> dict[int, Job]:
        jobs = [
            replace(job, number=checkpoint.target(job.target.name), originals=checkpoint.originals)
            for job in self._plain_jobs()
        ]
        return {job.number: job for job in jobs}

    def _plain_jobs(self) -> list[Job]:
        return [
            Job(target, 0, self._keys, self._mode, self._bindings, self._readers) for target in self._targets
        ]

    def _batches(self, target: Target, size: int) -> Iterator[list[Entry]]:
        """Entries of this shard."""
        batch: list[Entry] = []
        name = target.name
        everything = self._shard.count == 1
        for entry in target.entries():
            if everything or self._shard.has(bucket_of(name, entry.id)):
                batch.append(entry)
                if len(batch) >= size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _walk(self, checkpoint: Checkpoint, jobs: Mapping[int, Job], run: int) -> None:
        """See every entry once and write down what it claims."""
        walk = checkpoint.begin_walk(self._shard, self._clock())
        walked = 0
        self._meter.begin("walking", None)

        def note(found: list[Found]) -> Iterable[_Task]:
            nonlocal walked
            with checkpoint.transaction() as database:
                checkpoint.put(database, found, walk, run)
            walked += len(found)
            self._meter.add(len(found))
            return ()

        self._pump(
            checkpoint,
            (
                _Task(survey, (job, entries), note)
                for job in jobs.values()
                for entries in self._batches(job.target, _WALK_BATCH)
            ),
        )
        checkpoint.end_walk(walk, walked, self._clock())

    def _grouped(self, rows: Iterator[Row]) -> Iterator[tuple[int, list[Row]]]:
        """Rows of one target at a time, as many as a batch has now."""
        batch: list[Row] = []
        for row in rows:
            if batch and (row.target != batch[0].target or len(batch) >= self._size_limit()):
                yield batch[0].target, batch
                batch = []
            batch.append(row)
        if batch:
            yield batch[0].target, batch

    # Work

    def _answer(self) -> None:
        """Refuse to begin unless every new key wraps and unwraps now: what nobody can open must not be made.

        Raises:
            KMSError: one does not.
        """
        held = self._keys.open()
        self._meter.begin("asking the new keys", len(held.new_uris))
        for uri in held.new_uris:
            ring = held.ring([uri])
            while not self._stop.is_set():
                self._tell()
                try:
                    ring.decrypt(ring.encrypt(b"", context={}), context={})
                    self._meter.progressed()
                    break
                except NOT_NOW as error:
                    obstacle = Outcome(0, State.TODO, error=type(error).__name__, provider=error.provider)
                    self._obstacles([obstacle], 0)
                self._stop.wait(max(0.0, self._meter.blocked_for()))
        if self._stop.is_set():
            raise StoppedError

    def _migrate(self, checkpoint: Checkpoint, jobs: Mapping[int, Job], run: int) -> int:
        """Work off what is to be done; how often another writer was first."""
        total = checkpoint.count(self._shard, (State.TODO, State.PREPARED))
        self._meter.begin("migrating", total)
        work = _Work(checkpoint, run, self._meter)
        costs = _Costs(checkpoint, self._keys.open(), self._mode, self._bindings)

        def task(job: Job, rows: list[Row]) -> _Task:
            calls = costs.of(rows)
            return _Task(prepare, (job, rows), partial(prepared, job, rows), calls)

        def again(job: Job, rows: list[Row], outcomes: Sequence[Outcome]) -> Iterable[_Task]:
            """What was left for later, or has changed, is begun anew."""
            found = {outcome.n: outcome for outcome in outcomes if outcome.state is State.TODO}
            left = [row for row in rows if row.n in found]
            self._obstacles(outcomes, len(outcomes) - len(left))
            if left and not self._stop.is_set():
                yield task(job, left)

        def prepared(job: Job, rows: list[Row], outcomes: list[Outcome]) -> Iterable[_Task]:
            work.note(outcomes)
            self._check_failures(work)
            named = {row.n: row.id for row in rows}
            swaps = [(o.n, Swap(named[o.n], o.old, o.new)) for o in outcomes if o.state is State.PREPARED]
            if swaps:
                kept = {o.n: o for o in outcomes if o.state is State.PREPARED}
                again_rows = [
                    replace(row, state=State.PREPARED, old=kept[row.n].old, new=kept[row.n].new)
                    for row in rows
                    if row.n in kept
                ]
                yield _Task(exchange, (job, swaps), partial(exchanged, job, again_rows))
            yield from again(
                job,
                [row for row in rows if row.n not in {n for n, _ in swaps}],
                [o for o in outcomes if o.state is not State.PREPARED],
            )

        def exchanged(job: Job, rows: list[Row], outcomes: list[Outcome]) -> Iterable[_Task]:
            work.note(outcomes)
            lost = {o.n for o in outcomes if o.state is State.TODO and o.error is None}
            work.changed += len(lost)
            for row in rows:
                if row.n in lost and row.tries >= _TRIES:
                    work.note([Outcome(row.n, State.FAILED, ConflictError.__name__)])
            rows = [replace(row, tries=row.tries + 1) if row.n in lost else row for row in rows]
            yield from again(job, [row for row in rows if row.tries <= _TRIES], outcomes)

        self._pump(
            checkpoint,
            (
                task(jobs[target], rows)
                for target, rows in self._grouped(checkpoint.rows(self._shard, (State.TODO, State.PREPARED)))
                if target in jobs
            ),
            work.flush,
        )
        return work.changed

    def _prove(self, checkpoint: Checkpoint, jobs: Mapping[int, Job], run: int) -> None:
        states = (State.TODO, State.ALREADY, State.DONE)
        self._meter.begin("proving", checkpoint.count(self._shard, states))
        costs = _Costs(checkpoint, self._keys.open(), self._mode, self._bindings, opening_only=True)

        def task(job: Job, rows: list[Row]) -> _Task:
            return _Task(prove, (job, rows), partial(proven, job, rows), costs.of(rows))

        def proven(job: Job, rows: list[Row], outcomes: list[Outcome]) -> Iterable[_Task]:
            with checkpoint.transaction() as database:
                checkpoint.note_proven(database, [o.n for o in outcomes if o.state is State.ALREADY])
                checkpoint.note(
                    database,
                    run,
                    [(o.n, o.state, o.why) for o in outcomes if o.state in (State.REPORTED, State.FAILED)],
                )
            later = {o.n for o in outcomes if o.state is State.TODO}
            self._meter.add(len(outcomes) - len(later))
            self._obstacles(outcomes, len(outcomes) - len(later))
            left = [row for row in rows if row.n in later]
            if left and not self._stop.is_set():
                yield task(job, left)

        def messages() -> Iterator[Row]:
            for row in checkpoint.rows(self._shard, states):
                if checkpoint.claim_of(row.claim).kind is Kind.MESSAGE:
                    yield row

        self._pump(
            checkpoint,
            (task(jobs[target], rows) for target, rows in self._grouped(messages()) if target in jobs),
        )

    def _note_restored(
        self, checkpoint: Checkpoint, run: int, job: Job, rows: list[Row], outcomes: list[Outcome]
    ) -> Iterable[_Task]:
        final = [o for o in outcomes if o.state is not State.TODO]
        with checkpoint.transaction() as database:
            checkpoint.note(database, run, [(o.n, o.state, o.why) for o in final])
        self._meter.add(len(final))
        self._obstacles(outcomes, len(final))
        later = {o.n for o in outcomes if o.state is State.TODO}
        left = [row for row in rows if row.n in later]
        if left and not self._stop.is_set():
            yield _Task(restore, (job, left), partial(self._note_restored, checkpoint, run, job, left))

    def _verifying(self, job: Job, entries: list[Entry], full: bool, proof: _Proof) -> _Task:
        held = self._keys.open()
        calls = Counter[Call]()
        for uri in held.new_uris:
            for call in unwrap_calls(held.keys[uri].info):
                calls[call] += len(entries)

        def judged(verdicts: list[Verdict | None]) -> Iterable[_Task]:
            later: list[Entry] = []
            obstacles: list[Outcome] = []
            for entry, verdict in zip(entries, verdicts, strict=True):
                if verdict is not None and verdict.error is not None:
                    later.append(entry)
                    obstacles.append(
                        Outcome(
                            0, State.TODO, error=verdict.error, provider=verdict.provider, wait=verdict.wait
                        )
                    )
                elif verdict is not None:
                    proof.add(job.target.name, verdict)
            self._meter.add(len(entries) - len(later))
            self._obstacles(obstacles, len(entries) - len(later))
            if later and not self._stop.is_set():
                yield self._verifying(job, later, full, proof)

        return _Task(verify, (job, entries, full), judged, calls)

    def _check_failures(self, work: _Work) -> None:
        if work.failing >= _FAILURES:
            self.stop(
                f"{work.failing} entries failed one after the other, the last one with {work.last_failure}"
            )

    # The pump

    def _pump(
        self, checkpoint: Checkpoint | None, source: Iterator[_Task], flush: Callable[[], None] | None = None
    ) -> None:
        """Hand out tasks and what follows from them, as fast as executor and quotas take them.

        Raises:
            StoppedError: it was asked to stop; what had been prepared is finished.
        """
        running: dict[Future[Any], tuple[_Task, float]] = {}
        following: deque[_Task] = deque()
        ahead: _Task | None = None
        exhausted = False
        try:
            while True:
                pause = 0.25
                while len(running) < self._executor.capacity:
                    if ahead is None and following:
                        ahead = following.popleft()
                    if ahead is None and not exhausted and not self._stop.is_set():
                        ahead = next(source, None)
                        exhausted = ahead is None
                    if ahead is None:
                        break
                    if self._stop.is_set() and ahead.function is not exchange:
                        ahead = None
                        continue
                    if (wait_for := self._pause(ahead)) > 0:
                        pause = min(pause, wait_for)
                        break
                    running[self._executor.submit(ahead.function, *ahead.arguments)] = ahead, time.monotonic()
                    ahead = None
                self._tell()
                if not running:
                    if ahead is None and not following:
                        break
                    time.sleep(pause)
                    continue
                finished, _ = wait(running, timeout=pause, return_when=FIRST_COMPLETED)
                ready: list[tuple[_Task, Any]] = []
                for future in finished:
                    task, since = running.pop(future)
                    try:
                        ready.append((task, future.result()))
                    except BrokenExecutor as error:
                        if task.lost >= _LOST_LIMIT:
                            raise UnavailableError(
                                f"workers were lost {task.lost} times over one batch"
                            ) from error
                        following.append(replace(task, lost=task.lost + 1))
                        continue
                    measured = future.seconds if isinstance(future, TimedFuture) else None
                    self._adapt(task, time.monotonic() - since if measured is None else measured)
                for task, result in ready:
                    following.extend(task.then(result))
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

    def _pause(self, task: _Task) -> float:
        """Seconds before the task may be handed out."""
        if task.function is exchange:
            return 0.0
        if (blocked := self._meter.blocked_for()) > 0:
            return blocked
        return self._pace.take(task.calls) if task.calls else 0.0

    def _adapt(self, task: _Task, seconds: float) -> None:
        if task.function not in (prepare, prove, verify):
            return
        size = len(task.arguments[1])
        if seconds > 2 * _BATCH_SECONDS:
            self._batch = max(1, min(self._batch, size) // 2)
        elif seconds < _BATCH_SECONDS and size >= self._batch:
            self._batch = min(_LARGEST_BATCH, self._batch * 2)

    def _size_limit(self) -> int:
        """Entries of the next batch: short, and no more than half a second's worth of a quota."""
        if self._most is None:
            limits = [
                limit
                for key in self._keys.open().keys.values()
                for call in (*unwrap_calls(key.info), *wrap_calls(key.info))
                if (limit := limit_of(call, self._rates)) is not None
            ]
            self._most = max(1, int(min(limits, default=2 * _LARGEST_BATCH) / self._shard.count / 2))
        return min(self._batch, self._most)

    def _obstacles(self, outcomes: Iterable[Outcome], progressed: int) -> None:
        """Slow down for a provider that throttles; wait, and at last stop, for what cannot be used at all."""
        if progressed:
            self._meter.progressed()
        for outcome in outcomes:
            if outcome.error is None:
                continue
            if outcome.error.startswith("OSError"):
                self.stop(outcome.error)
                continue
            if outcome.provider is not None and outcome.error == "ThrottledError":
                self._pace.throttled(outcome.provider, outcome.wait)
            where = f"{outcome.error} of {outcome.provider or 'a target'}"
            if self._meter.hindered(where, outcome.wait) > self._patience:
                self.stop(f"no progress for {self._patience:.0f} s: {where}")

    def _tell(self) -> None:
        if self._on_progress is not None and (progress := self._meter.read(self._pace.slowed())) is not None:
            self._on_progress(progress)

    @contextmanager
    def _stopping(self) -> Generator[None]:
        """What ends a command before its end, and may pass: the report says it, and the next run goes on."""
        try:
            yield
        except StoppedError:
            self.stop()
        except NOT_NOW as error:
            self.stop(f"{type(error).__name__}: {error}")
        except OSError as error:
            if error.errno not in NOTHING_CAN_BE_WRITTEN:
                raise
            self.stop(f"OSError: {error.strerror}: {error.filename}")

    # Reports

    def _report(
        self, checkpoint: Checkpoint, command: Command, started: float, *, proven: bool = False
    ) -> Report:
        shard = self._shard
        walk = checkpoint.last_walk(shard)
        since = walk[0] if walk else 0
        states: Counter[State] = Counter()
        reported: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        for state, reason, entries, _ in checkpoint.by_state(shard, since):
            states[state] += entries
            if state is State.REPORTED:
                reported[reason or "unknown"] += entries
            if state is State.FAILED:
                failed[reason or "unknown"] += entries
        census = _Census(self._keys.old_uris)
        for claim, entries, size, opened in checkpoint.by_claim(shard, since):
            census.add(claim, entries, size, opened)
        waiting = [
            _waiting(name, entry_id, state is State.FAILED, reason)
            for name, entry_id, state, reason in checkpoint.waiting(shard, since, SHOWN)
        ]
        stopped = self._why if self._stop.is_set() else None
        counts = Counts(
            walked=sum(states.values()) - states[State.GONE],
            messages=census.messages,
            nothing=states[State.NOTHING],
            todo=states[State.TODO] + states[State.PREPARED],
            done=states[State.DONE],
            already=states[State.ALREADY],
            back=states[State.BACK],
            reported=dict(reported),
            failed=dict(failed),
            gone=states[State.GONE],
            changed=checkpoint.changed(),
            with_old_key=census.with_old_key,
        )
        todo: Counter[Call] = Counter()
        if command == "plan":
            costs = _Costs(checkpoint, self._keys.open(), self._mode, self._bindings)
            for claim, entries in checkpoint.todo_by_claim(shard):
                for call, number in costs.of_claim(claim).items():
                    todo[call] += number * entries
        calls = todo if command == "plan" else self._pace.calls
        return Report(
            format=FORMAT,
            anykms=version("anykms"),
            command=command,
            ending=_ending(stopped, counts, unfinished=command in ("run", "rollback")),
            mode=str(self._mode),
            targets=[target.name for target in self._targets],
            old_keys=sorted(map(str, self._keys.old_uris)),
            new_keys=sorted(map(str, self._keys.new_uris)),
            started=moment(started),
            ended=moment(self._clock()),
            walk_started=moment(walk[1]) if walk else None,
            walk_ended=moment(walk[2]) if walk else None,
            shard=str(shard),
            complete=walk is not None and shard.count == 1 and stopped is None,
            verified="census" if proven and stopped is None else "no",
            counts=counts,
            keys=census.keys(),
            claims=census.claims,
            calls=[
                CallUse(c.provider, c.kind, c.key, n, limit_of(c, self._rates))
                for c, n in sorted(
                    calls.items(), key=lambda pair: (pair[0].provider, pair[0].kind, pair[0].key)
                )
            ],
            estimate=self._estimate(todo) if command == "plan" else None,
            waiting=waiting,
            left_out=census.left_out
            | {"waiting": sum(reported.values()) + sum(failed.values()) - len(waiting)},
            stopped_by=stopped,
            advice=_advice(command, counts, stopped),
        )

    def _estimate(self, calls: Mapping[Call, int]) -> Estimate:
        hours = {name: round(taken / 3600, 3) for name, taken in weights(calls, self._rates).items() if taken}
        sources: list[str] = []
        for name in sorted({call.provider for call in calls}):
            known = figures().get(name)
            if known is None:
                sources.append(f"{name}: no quota and no price are known")
                continue
            own = f"{name}: {self._rates[name]:g} calls per second as given" if name in self._rates else None
            sources.append(
                own
                or f"{name} quota: {known.quota_source} ({known.quota_seen or 'unverified'}): {known.quota_note}"
            )
            sources.append(f"{name} price: {known.price_source} ({known.price_seen or 'unverified'})")
        usd = price_of(calls)
        return Estimate(
            hours, max(hours.values(), default=0.0), None if usd is None else round(usd, 4), sources
        )

    def _proof_report(self, proof: _Proof, started: float, ended: float, whole: bool, full: bool) -> Report:
        stopped = self._why if not whole else None
        counts = proof.counts()
        census = proof.census(self._keys.old_uris)
        return Report(
            format=FORMAT,
            anykms=version("anykms"),
            command="verify",
            ending=_ending(stopped, counts, unfinished=False),
            mode=str(self._mode),
            targets=[target.name for target in self._targets],
            old_keys=sorted(map(str, self._keys.old_uris)),
            new_keys=sorted(map(str, self._keys.new_uris)),
            started=moment(started),
            ended=moment(ended),
            walk_started=moment(started),
            walk_ended=moment(ended) if whole else None,
            shard=str(self._shard),
            complete=whole and self._shard.count == 1,
            verified="no" if not whole else "full" if full else "headers",
            counts=counts,
            keys=census.keys(),
            claims=census.claims,
            calls=[
                CallUse(c.provider, c.kind, c.key, n, limit_of(c, self._rates))
                for c, n in self._pace.calls.items()
            ],
            estimate=None,
            waiting=proof.waiting,
            left_out=census.left_out
            | {"waiting": sum(counts.reported.values()) + sum(counts.failed.values()) - len(proof.waiting)},
            stopped_by=stopped,
            advice=_advice("verify", counts, stopped),
        )


class _Work:
    """Outcomes that wait for their transaction, and counters of one run."""

    def __init__(self, checkpoint: Checkpoint, run: int, meter: _Meter) -> None:
        self._checkpoint = checkpoint
        self._run = run
        self._meter = meter
        self._kept: list[tuple[int, bytes, bytes]] = []
        self._done: list[tuple[int, bytes]] = []
        self._other: list[tuple[int, State, str | None]] = []
        self.changed = 0
        self.failing = 0
        self.last_failure = ""

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes for the next transaction."""
        for outcome in outcomes:
            match outcome.state:
                case State.PREPARED:
                    self._kept.append((outcome.n, outcome.old, outcome.new))
                    continue
                case State.TODO:
                    continue
                case State.DONE:
                    self._done.append((outcome.n, outcome.new))
                case _:
                    self._other.append((outcome.n, outcome.state, outcome.why))
            if outcome.state is State.FAILED:
                self.failing += 1
                self.last_failure = outcome.why or ""
            elif outcome.state is State.DONE:
                self.failing = 0
            self._meter.add(1)

    def flush(self) -> None:
        """One transaction for all that came since the last."""
        if not (self._kept or self._done or self._other):
            return
        with self._checkpoint.transaction() as database:
            self._checkpoint.keep(database, self._kept)
            self._checkpoint.note_done(database, self._done)
            self._checkpoint.note(database, self._run, self._other)
        self._kept, self._done, self._other = [], [], []


class _Costs:
    """The calls that entries take, by what they claim."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        held: HeldKeys,
        mode: Mode,
        bindings: Bindings,
        *,
        opening_only: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._held = held
        self._mode = mode
        self._bindings = bindings
        self._opening_only = opening_only
        self._known: dict[int, Mapping[Call, int]] = {}

    def of(self, rows: Sequence[Row]) -> Mapping[Call, int]:
        """The calls of a batch."""
        total: Counter[Call] = Counter()
        for number, count in Counter(row.claim for row in rows).items():
            known = self._known.get(number)
            if known is None:
                if len(self._known) > 4096:
                    self._known.clear()
                known = self._known[number] = self.of_claim(self._checkpoint.claim_of(number))
            for call, calls in known.items():
                total[call] += calls * count
        return total

    def of_claim(self, claim: Claim) -> Mapping[Call, int]:
        """The calls of one entry."""
        held = self._held
        ahead = decide(claim, self._mode, held.old_uris, held.new_uris, self._bindings.names)
        calls: Counter[Call] = Counter()
        if claim.kind is Kind.MESSAGE:
            opening = (
                ahead.recipients if self._mode is Mode.REMOVE and not self._opening_only else claim.recipients
            )
            first = next((held.keys[uri] for uri in held.keys if uri in opening), None)
            calls.update(unwrap_calls(first.info) if first is not None else ())
        if not self._opening_only:
            for uri in ahead.recipients:
                if uri in held.keys:
                    calls.update(wrap_calls(held.keys[uri].info))
        return calls


class _Census:
    """Which keys are used how much; memory is bounded."""

    def __init__(self, old: frozenset[KeyURI]) -> None:
        self._old = old
        self._keys: dict[str, list[int]] = {}
        self.claims: list[ClaimUse] = []
        self.left_out = {"keys": 0, "claims": 0}
        self.messages = 0
        self.with_old_key = 0

    def add(self, claim: Claim, entries: int, size: int, opened: int) -> None:
        """Entries that make one claim."""
        if claim.kind is Kind.MESSAGE:
            self.messages += entries
            if claim.recipients & self._old:
                self.with_old_key += entries
        if len(self.claims) < MAX_KEYS:
            self.claims.append(
                ClaimUse(claim.kind, claim.format, list(claim.keys), list(claim.required), entries, size)
            )
        else:
            self.left_out["claims"] += 1
        for key in claim.keys:
            known = self._keys.get(key)
            if known is None:
                if len(self._keys) >= MAX_KEYS:
                    self.left_out["keys"] += 1
                    continue
                known = self._keys[key] = [0, 0, 0]
            for place, number in enumerate((entries, size, opened)):
                known[place] += number

    def keys(self) -> list[KeyUse]:
        """By key, in order of their names."""
        return [KeyUse(key, *numbers) for key, numbers in sorted(self._keys.items())]


class _Proof:
    """What a proof has found so far; memory does not grow with the number of entries."""

    def __init__(self) -> None:
        self._claims: dict[Claim, list[int]] = {}
        self._reported: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()
        self.waiting: list[Waiting] = []

    def add(self, target: str, verdict: Verdict) -> None:
        """One entry more."""
        numbers = self._numbers
        numbers["walked"] += 1
        message = verdict.claim.kind is Kind.MESSAGE
        numbers["messages"] += message
        numbers["without_body"] += verdict.without_body
        numbers["with_old_key"] += bool(verdict.old_keys)
        known = self._claims.get(verdict.claim)
        if known is None and len(self._claims) < MAX_KEYS:
            known = self._claims[verdict.claim] = [0, 0, 0]
        if known is None:
            numbers["claims left out"] += 1
        else:
            for place, number in enumerate((1, verdict.size, int(verdict.opened))):
                known[place] += number
        if verdict.failure is not None:
            self._failed[verdict.failure] += 1
        elif verdict.reasons:
            self._reported[verdict.reasons[0]] += 1
        elif message:
            numbers["already"] += 1
        else:
            numbers["nothing"] += 1
        wrong = verdict.failure or (verdict.reasons[0] if verdict.reasons else None)
        if wrong is not None and len(self.waiting) < SHOWN:
            self.waiting.append(_waiting(target, verdict.id, verdict.failure is not None, wrong))

    def counts(self) -> Counts:
        """Entries by what was found."""
        numbers = self._numbers
        return Counts(
            walked=numbers["walked"],
            messages=numbers["messages"],
            nothing=numbers["nothing"],
            already=numbers["already"],
            reported=dict(self._reported),
            failed=dict(self._failed),
            without_body=numbers["without_body"],
            with_old_key=numbers["with_old_key"],
        )

    def census(self, old: frozenset[KeyURI]) -> _Census:
        """Keys and claims."""
        census = _Census(old)
        for claim, (entries, size, opened) in self._claims.items():
            census.add(claim, entries, size, opened)
        census.left_out["claims"] += self._numbers["claims left out"]
        return census


class _Meter:
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


def _waiting(target: str, entry_id: str, failed: bool, reason: str | None) -> Waiting:
    why = reason or "unknown"
    advice = ADVICE[Reason(why)] if why in set(Reason) else "an error of the provider or the place: run again"
    return Waiting(target, entry_id, "failed" if failed else "reported", why, advice)


def _ending(stopped: str | None, counts: Counts, *, unfinished: bool) -> Ending:
    if stopped is not None:
        return "stopped"
    if counts.failed:
        return "failed"
    if counts.reported or (unfinished and counts.todo):
        return "left"
    return "done"


def _advice(command: Command, counts: Counts, stopped: str | None) -> list[str]:
    told = [f"{number} entries: {ADVICE[Reason(reason)]}" for reason, number in counts.reported.items()]
    if counts.failed:
        told.append(f"{sum(counts.failed.values())} entries failed: run the same command again")
    if stopped is not None:
        told.append("run the same command again: it goes on where it stopped")
    elif not told and command == "run":
        told.append("prove it with 'anykms migrate verify'")
    return told
