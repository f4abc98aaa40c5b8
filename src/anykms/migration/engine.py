"""Plan, run, prove and undo a migration.

The driver here walks the targets, keeps the checkpoint and hands out batches; the steps that use keys and places run
on an executor. A header is put in place only once it and the one it replaces are on the disk of the checkpoint, so
that at any instant each entry is untouched, or its old header is kept.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Final, TypeVar

from anykms.errors import (
    ConflictError,
    InvalidArgumentError,
)
from anykms.keys import KeyURI
from anykms.migration.census import Claim, Kind, Mode, Reason, decide
from anykms.migration.checkpoint import Checkpoint, Facts, Found, Row, Shard, State, bucket_of
from anykms.migration.executors import Executor, ThreadExecutor
from anykms.migration.files import FileTarget
from anykms.migration.progress import Meter, Progress
from anykms.migration.pump import LARGEST_BATCH, Pump, Task
from anykms.migration.rates import (
    Call,
    Pace,
    checked_rates,
    figures,
    limit_of,
    price_of,
    unwrap_calls,
    weights,
    wrap_calls,
)
from anykms.migration.readers import ForeignReader
from anykms.migration.reports import (
    FORMAT,
    SHOWN,
    CallUse,
    Command,
    Counts,
    Estimate,
    KeyWatch,
    Report,
    moment,
)
from anykms.migration.steps import (
    NOT_NOW,
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
from anykms.migration.tallies import Census, Proof, advice_on, ending_of, waiting_entry
from anykms.migration.targets import Entry, Swap, Target

T = TypeVar("T")

_WALK_BATCH: Final = 512
_FAILURES: Final = 200
"""Entries that fail one after the other, with no success between, before a run stops."""
_TRIES: Final = 5
"""How often an entry is read again that another writer changes, or holds open, each time."""
_OF_A_ROLLBACK: Final = frozenset({Reason.CHANGED_SINCE, Reason.GENERATION_DEMANDED, Reason.UNREADABLE})
_WALKS: Final = 10
"""Walks after which a run no longer waits for writers that use the old keys."""


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
        watch: tells the state of a key to leave, None where its provider cannot be asked. It is called before and
            after a census, so that the report can show that the key was disabled meanwhile.
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
        watch: Callable[[KeyURI], str | None] | None = None,
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
        self._rates = checked_rates(rates or {})
        self._own_executor = executor is None
        self._executor: Executor = executor or ThreadExecutor(concurrency)
        self._patience = patience
        self._watch = watch
        self._on_progress = on_progress
        self._clock = clock
        self._pump = self._new_pump()
        self._begun = False

    def _new_pump(self) -> Pump:
        pace = Pace(self._rates, 1 / self._shard.count)
        return Pump(self._executor, pace, self._patience, self._on_progress)

    def stop(self, why: str = "it was asked to stop") -> None:
        """Let a running command finish its batches and end. May be called from a signal handler or another thread."""
        self._pump.stop(why)

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
        watched = self._watched()
        self._executor.begin(self._plain_jobs(), wraps=False)
        with self._checkpoint() as checkpoint:
            run = checkpoint.begin_run("plan", self._shard, started)
            jobs = self._jobs(checkpoint)
            with self._pump.stopping():
                self._walk(checkpoint, jobs, run)
                if prove_claims:
                    self._limit_batches()
                    self._prove(checkpoint, jobs, run)
            self._end(checkpoint, run, 0)
            return self._report(
                checkpoint, "plan", started, proven=prove_claims, watched=self._watched(watched)
            )

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
            with self._pump.stopping():
                self._limit_batches()
                self._answer()
                for number in range(_WALKS):
                    if number or checkpoint.count(self._shard, (State.TODO, State.PREPARED)) == 0:
                        self._walk(checkpoint, jobs, run)
                        if checkpoint.count(self._shard, (State.TODO, State.PREPARED)) == 0:
                            break
                    changed += self._migrate(checkpoint, jobs, run)
                else:
                    self._pump.stop(f"after {_WALKS} walks something still writes with the old keys")
            self._end(checkpoint, run, changed)
            return self._report(checkpoint, "run", started)

    def rollback(self) -> Report:
        """Put every kept header back where the new one still stands. What was written since stays as it is.

        Raises:
            FileNotFoundError: there is no checkpoint.
            KMSError, OSError: a target or the checkpoint cannot be used.
        """
        started = self._begin()
        if not os.path.exists(self._path):
            raise FileNotFoundError(2, "there is no checkpoint to roll back from", self._path)
        with self._checkpoint() as checkpoint:
            run = checkpoint.begin_run("rollback", self._shard, started)
            jobs = self._jobs(checkpoint)
            kept = (State.DONE, State.PREPARED)
            with self._pump.stopping():
                self._pump.meter.begin("rolling back", checkpoint.count(self._shard, kept))
                note = partial(self._note_restored, checkpoint, run)
                self._pump.run(
                    (
                        Task(restore, (jobs[target], rows), partial(note, jobs[target], rows))
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
        watched = self._watched()
        proof = Proof()
        jobs = self._plain_jobs()
        self._executor.begin(jobs, wraps=False)
        whole = False
        with self._pump.stopping():
            self._limit_batches()
            self._pump.meter.begin("verifying", None)
            self._pump.run(
                (
                    self._verifying(job, entries, full, proof)
                    for job in jobs
                    for entries in self._batches(job.target, self._pump.batch)
                ),
            )
            whole = True
        ended = self._clock()
        return self._proof_report(proof, started, ended, whole, full, self._watched(watched))

    def _watched(self, before: Sequence[KeyWatch] = ()) -> list[KeyWatch]:
        """The state of every key to leave: before a census, and with what was found then, after it."""
        found = {
            str(uri): None if self._watch is None else self._watch(uri)
            for uri in sorted(self._keys.old_uris, key=str)
        }
        if not before:
            return [KeyWatch(key, state, None) for key, state in found.items()]
        return [KeyWatch(watch.key, watch.before, found[watch.key]) for watch in before]

    def _end(self, checkpoint: Checkpoint, run: int, changed: int) -> None:
        # A full disk must not hide the report.
        with suppress(OSError) if self._pump.stopped_by else nullcontext():
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
        if self._begun:
            self._pump = self._new_pump()
        self._begun = True
        return self._clock()

    def _limit_batches(self) -> None:
        """No batch takes more than half a second's worth of a quota."""
        limits = [
            limit
            for key in self._keys.open().keys.values()
            for call in (*unwrap_calls(key.info), *wrap_calls(key.info))
            if (limit := limit_of(call, self._rates)) is not None
        ]
        most = min(limits, default=2 * LARGEST_BATCH) / self._shard.count / 2
        self._pump.most = max(1, min(LARGEST_BATCH, int(most)))

    def _jobs(self, checkpoint: Checkpoint) -> dict[int, Job]:
        folder = checkpoint.originals
        originals = folder if self._readers or folder.is_dir() else None
        jobs = [
            replace(job, number=checkpoint.target(job.target.name), originals=originals)
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
        self._pump.meter.begin("walking", None)

        def note(found: list[Found]) -> Iterable[Task]:
            nonlocal walked
            with checkpoint.transaction() as database:
                checkpoint.put(database, found, walk, run)
            walked += len(found)
            self._pump.meter.add(len(found))
            return ()

        self._pump.run(
            (
                Task(survey, (job, entries), note)
                for job in jobs.values()
                for entries in self._batches(job.target, _WALK_BATCH)
            ),
        )
        checkpoint.end_walk(walk, walked, self._clock())

    def _grouped(self, rows: Iterator[Row]) -> Iterator[tuple[int, list[Row]]]:
        """Rows of one target at a time, as many as a batch has now."""
        batch: list[Row] = []
        for row in rows:
            if batch and (row.target != batch[0].target or len(batch) >= self._pump.batch):
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
        self._pump.meter.begin("asking the new keys", len(held.new_uris))
        for uri in held.new_uris:
            ring = held.ring([uri])
            while True:
                try:
                    ring.decrypt(ring.encrypt(b"", context={}), context={})
                    break
                except NOT_NOW as error:
                    obstacle = Outcome(0, State.TODO, error=type(error).__name__, provider=error.provider)
                    self._pump.obstacles([obstacle], 0)
                self._pump.pause(self._pump.meter.blocked_for())
            self._pump.meter.progressed()

    def _migrate(self, checkpoint: Checkpoint, jobs: Mapping[int, Job], run: int) -> int:
        """Work off what is to be done; how often another writer was first."""
        total = checkpoint.count(self._shard, (State.TODO, State.PREPARED))
        self._pump.meter.begin("migrating", total)
        work = _Work(checkpoint, run, self._pump.meter, self._clock)
        costs = _Costs(checkpoint, self._keys.open(), self._mode, self._bindings)

        def task(job: Job, rows: list[Row]) -> Task:
            calls = costs.of(rows)
            return Task(prepare, (job, rows), partial(prepared, job, rows), calls)

        def again(job: Job, rows: list[Row], outcomes: Sequence[Outcome]) -> Iterable[Task]:
            """What was left for later, or has changed, is begun anew."""
            found = {outcome.n: outcome for outcome in outcomes if outcome.state is State.TODO}
            left = [row for row in rows if row.n in found]
            self._pump.obstacles(outcomes, len(outcomes) - len(left))
            if left and not self._pump.stopped_by:
                yield task(job, left)

        def prepared(job: Job, rows: list[Row], outcomes: list[Outcome]) -> Iterable[Task]:
            work.note(outcomes)
            self._check_failures(work)
            ready = {o.n: o for o in outcomes if o.state is State.PREPARED}
            if ready:
                kept = [
                    replace(row, state=State.PREPARED, old=ready[row.n].old, new=ready[row.n].new)
                    for row in rows
                    if row.n in ready
                ]
                swaps = [(row.n, Swap(row.id, row.old, row.new)) for row in kept]
                yield Task(exchange, (job, swaps), partial(exchanged, job, kept))
            if len(ready) < len(outcomes):
                yield from again(job, rows, [o for o in outcomes if o.state is not State.PREPARED])
            else:
                self._pump.meter.progressed()

        def exchanged(job: Job, rows: list[Row], outcomes: list[Outcome]) -> Iterable[Task]:
            work.note(outcomes)
            lost = {o.n for o in outcomes if o.state is State.TODO and o.error is None}
            work.changed += len(lost)
            for row in rows:
                if row.n in lost and row.tries >= _TRIES:
                    work.note([Outcome(row.n, State.FAILED, ConflictError.__name__)])
            rows = [replace(row, tries=row.tries + 1) if row.n in lost else row for row in rows]
            yield from again(job, [row for row in rows if row.tries <= _TRIES], outcomes)

        self._pump.run(
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
        self._pump.meter.begin("proving", checkpoint.count(self._shard, states))
        costs = _Costs(checkpoint, self._keys.open(), self._mode, self._bindings, opening_only=True)

        def task(job: Job, rows: list[Row]) -> Task:
            return Task(prove, (job, rows), partial(proven, job, rows), costs.of(rows))

        def proven(job: Job, rows: list[Row], outcomes: list[Outcome]) -> Iterable[Task]:
            with checkpoint.transaction() as database:
                checkpoint.note_proven(database, [o.n for o in outcomes if o.state is State.ALREADY])
                checkpoint.note(
                    database,
                    run,
                    [(o.n, o.state, o.why) for o in outcomes if o.state in (State.REPORTED, State.FAILED)],
                )
            later = {o.n for o in outcomes if o.state is State.TODO}
            self._pump.meter.add(len(outcomes) - len(later))
            self._pump.obstacles(outcomes, len(outcomes) - len(later))
            left = [row for row in rows if row.n in later]
            if left and not self._pump.stopped_by:
                yield task(job, left)

        def messages() -> Iterator[Row]:
            for row in checkpoint.rows(self._shard, states):
                if checkpoint.claim_of(row.claim).kind is Kind.MESSAGE:
                    yield row

        self._pump.run(
            (task(jobs[target], rows) for target, rows in self._grouped(messages()) if target in jobs),
        )

    def _note_restored(
        self, checkpoint: Checkpoint, run: int, job: Job, rows: list[Row], outcomes: list[Outcome]
    ) -> Iterable[Task]:
        final = [o for o in outcomes if o.state is not State.TODO]
        with checkpoint.transaction() as database:
            checkpoint.note(database, run, [(o.n, o.state, o.why) for o in final])
            if any(o.state is State.BACK for o in final):
                checkpoint.note_write(database, exchanged=self._clock())
        self._pump.meter.add(len(final))
        self._pump.obstacles(outcomes, len(final))
        later = {o.n for o in outcomes if o.state is State.TODO}
        left = [row for row in rows if row.n in later]
        if left and not self._pump.stopped_by:
            yield Task(restore, (job, left), partial(self._note_restored, checkpoint, run, job, left))

    def _verifying(self, job: Job, entries: list[Entry], full: bool, proof: Proof) -> Task:
        held = self._keys.open()
        each = Counter(call for uri in held.new_uris for call in unwrap_calls(held.keys[uri].info))
        calls = {call: number * len(entries) for call, number in each.items()}

        def judged(verdicts: list[Verdict | None]) -> Iterable[Task]:
            later: list[Entry] = []
            obstacles: list[Outcome] = []
            # What is no message took no calls, though that could not be known before.
            idle = sum(verdict is None or verdict.claim.kind is not Kind.MESSAGE for verdict in verdicts)
            self._pump.pace.calls.subtract({call: idle * number for call, number in each.items()})
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
            self._pump.meter.add(len(entries) - len(later))
            self._pump.obstacles(obstacles, len(entries) - len(later))
            if later and not self._pump.stopped_by:
                yield self._verifying(job, later, full, proof)

        return Task(verify, (job, entries, full), judged, calls)

    def _check_failures(self, work: _Work) -> None:
        if work.failing >= _FAILURES:
            self.stop(
                f"{work.failing} entries failed one after the other, the last one with {work.last_failure}"
            )

    # Reports

    def _report(
        self,
        checkpoint: Checkpoint,
        command: Command,
        started: float,
        *,
        proven: bool = False,
        watched: Sequence[KeyWatch] = (),
    ) -> Report:
        shard = self._shard
        walk = checkpoint.last_walk(shard)
        # What a walk has missed may have been put back all the same.
        since = walk[0] if walk and command != "rollback" else 0
        states: Counter[State] = Counter()
        reported: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        for state, reason, entries, _ in checkpoint.by_state(shard, since):
            states[state] += entries
            if state is State.REPORTED and (command != "rollback" or reason in _OF_A_ROLLBACK):
                reported[reason or "unknown"] += entries
            if state is State.FAILED:
                failed[reason or "unknown"] += entries
        census = Census(self._keys.old_uris)
        for claim, entries, size, opened in checkpoint.by_claim(shard, since):
            census.add(claim, entries, size, opened)
        waiting = [
            waiting_entry(name, entry_id, state is State.FAILED, reason)
            for name, entry_id, state, reason in checkpoint.waiting(shard, since, SHOWN)
            if command != "rollback" or state is State.FAILED or reason in _OF_A_ROLLBACK
        ]
        stopped = self._pump.stopped_by
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
        calls = todo if command == "plan" else self._pump.pace.calls
        return Report(
            format=FORMAT,
            anykms=version("anykms"),
            command=command,
            ending=ending_of(stopped, counts, unfinished=command in ("run", "rollback")),
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
            watched=list(watched),
            calls=[
                CallUse(c.provider, c.kind, c.key, n, limit_of(c, self._rates))
                for c, n in sorted(
                    calls.items(), key=lambda pair: (pair[0].provider, pair[0].kind, pair[0].key)
                )
            ],
            estimate=self._estimate(todo) if command == "plan" else None,
            waiting=waiting,
            left_out=census.left_out
            | {"waiting": max(0, sum(reported.values()) + sum(failed.values()) - len(waiting))},
            stopped_by=stopped,
            advice=advice_on(command, counts, stopped),
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

    def _proof_report(
        self,
        proof: Proof,
        started: float,
        ended: float,
        whole: bool,
        full: bool,
        watched: Sequence[KeyWatch],
    ) -> Report:
        stopped = None if whole else self._pump.stopped_by
        counts = proof.counts()
        census = proof.census(self._keys.old_uris)
        return Report(
            format=FORMAT,
            anykms=version("anykms"),
            command="verify",
            ending=ending_of(stopped, counts, unfinished=False),
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
            watched=list(watched),
            calls=[
                CallUse(c.provider, c.kind, c.key, n, limit_of(c, self._rates))
                for c, n in self._pump.pace.calls.items()
            ],
            estimate=None,
            waiting=proof.waiting,
            left_out=census.left_out
            | {"waiting": sum(counts.reported.values()) + sum(counts.failed.values()) - len(proof.waiting)},
            stopped_by=stopped,
            advice=advice_on("verify", counts, stopped),
        )


class _Work:
    """Outcomes that wait for their transaction, and counters of one run."""

    def __init__(self, checkpoint: Checkpoint, run: int, meter: Meter, clock: Callable[[], float]) -> None:
        self._checkpoint = checkpoint
        self._clock = clock
        self._made = 0
        self._run = run
        self._meter = meter
        self._kept: list[tuple[int, bytes, bytes]] = []
        self._done: list[tuple[int, bytes, bool]] = []
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
                    self._made = max(self._made, outcome.made)
                    continue
                case State.TODO:
                    continue
                case State.DONE:
                    self._done.append((outcome.n, outcome.new, outcome.converted))
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
            if self._kept or self._done:
                # What was seen now was not made later, whatever its writer's clock said.
                now = self._clock()
                self._checkpoint.note_write(
                    database, exchanged=now if self._done else 0.0, made=min(float(self._made), now)
                )
        self._kept, self._done, self._other, self._made = [], [], [], 0


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
