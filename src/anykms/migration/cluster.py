"""The steps of a migration on a Dask distributed cluster.

The driver walks the targets, keeps the checkpoint and the rates, and hands out batches; workers open the keys with
their own credentials, by name. What crosses the wire is pickled, so driver, scheduler and workers trust one another.
Dask sees parcels only: bytes that have no repr, under keys that say nothing.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import islice
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

try:
    import distributed
except ImportError as missing:
    raise ModuleNotFoundError(
        "a cluster needs Dask; run: pip install 'anykms[dask]'", name="distributed"
    ) from missing

from anykms.errors import IntegrityError, InvalidArgumentError, KMSError, UnavailableError
from anykms.migration.checkpoint import Row, State, digest_of
from anykms.migration.executors import TimedFuture
from anykms.migration.steps import NOT_NOW, Job, NamedKeys, exchange, prepare, prove, verify

T = TypeVar("T")

_dask: Any = distributed  # marked as typed, and most of it is not

_REMOTE: Final[Mapping[str, Callable[..., Any]]] = {
    function.__name__: function for function in (prepare, exchange, prove, verify)
}
"""What workers do. A walk stays with the driver: what is left to do is never a worker's word."""
_SAMPLES: Final = 3
"""Entries of each target that a worker must find, and open, as the driver does before it gets work."""
_TRIES: Final = 3
"""How often a worker is shown samples that others may be writing."""
_MISSES: Final = 3
"""Entries from which on a worker that does not find them is left out; one may be gone and back in between."""
_LOOK: Final = 0.5
_NEXT_TRY: Final = 5.0
_CONNECTING: Final = 10.0
_COLLECTORS: Final = 8

# What crosses the wire


@dataclass(frozen=True, slots=True, repr=False)
class _Parcel:
    """A step and its arguments. The job is apart, so that a worker unpickles it and connects but once."""

    version: str
    step: str
    job: bytes
    arguments: bytes

    def __repr__(self) -> str:
        return "<anykms parcel>"


@dataclass(frozen=True, slots=True, repr=False)
class _Answer:
    """A pickled result, or error, and the worker that gave it."""

    worker: str
    version: str
    result: bytes = b""
    error: bytes = b""
    seconds: float = 0.0

    def __repr__(self) -> str:
        return "<anykms answer>"


@dataclass(frozen=True, slots=True)
class _Found:
    """What a worker makes of the samples of a job."""

    digests: list[bytes | None]
    trouble: str | None = None
    wait: bool = False
    """The trouble is the provider's, and may pass."""


class _Pickler(pickle.Pickler):
    """Refuses a URL with a password, which SQLAlchemy's shows by these names."""

    def reducer_override(self, value: Any, /) -> Any:
        if isinstance(value, tuple):
            url = cast("Any", value)
            query = getattr(url, "query", None)
            hidden = isinstance(query, Mapping) and "password" in query
            if hidden or isinstance(getattr(url, "password", None), str):
                raise InvalidArgumentError(
                    "the URL of a target holds a password, which would go to the scheduler: leave it out, and let "
                    "each worker's own configuration give it (PGPASSFILE, PGSERVICE)"
                )
        return NotImplemented


def _packed(value: object) -> bytes:
    with io.BytesIO() as buffer:
        _Pickler(buffer, protocol=5).dump(value)
        return buffer.getvalue()


# On the worker


@lru_cache(maxsize=64)
def _job(data: bytes) -> Job:
    job = pickle.loads(data)  # noqa: S301 # the driver's, which a worker trusts as it does the scheduler
    if not isinstance(job, Job):
        raise TypeError("a parcel without a job")
    return job


_opening = threading.Lock()


def _perform(parcel: _Parcel) -> _Answer:
    """Run a step here. Errors are part of the answer, so that neither Dask's log nor its dashboard has them."""
    here = _dask.get_worker().address
    if parcel.version != version("anykms"):
        return _Answer(here, version("anykms"))
    try:
        job = _job(parcel.job)
        arguments = pickle.loads(parcel.arguments)  # noqa: S301 # as above
        with _opening:  # several threads would connect several times
            job.keys.open()
        step = _introduce if parcel.step == _introduce.__name__ else _REMOTE[parcel.step]
        began = time.monotonic()
        result = pickle.dumps(step(job, *arguments), protocol=5)
        return _Answer(here, parcel.version, result, seconds=time.monotonic() - began)
    except Exception as error:
        return _Answer(here, parcel.version, error=_packed_error(error))


def _packed_error(error: Exception) -> bytes:
    error.__traceback__ = error.__cause__ = error.__context__ = None
    if isinstance(error, (KMSError, OSError)):
        with suppress(Exception):
            data = pickle.dumps(error, protocol=5)
            pickle.loads(data)  # noqa: S301 # our own, a moment ago: some errors can be written and not read
            return data
    return pickle.dumps(IntegrityError(f"a worker failed with {type(error).__name__}"), protocol=5)


def _digests(job: Job, ids: Sequence[str]) -> list[bytes | None]:
    if not ids:
        return []
    return [None if head is None else digest_of(head) for head in job.target.starts(ids)]


def _introduce(job: Job, ids: Sequence[str], wraps: bool) -> _Found:
    """Show that this process sees the place, opens what lies there, and can use the new keys."""
    digests = _digests(job, ids)
    held = job.keys.open()
    rows = [Row(n, job.number, name, State.TODO, 0, b"", b"") for n, name in enumerate(ids)]
    for outcome in prove(job, rows):
        if outcome.error is not None:
            return _Found(digests, f"{outcome.error} of {outcome.provider or 'a target'}", wait=True)
        if outcome.state is State.FAILED:
            return _Found(digests, f"{outcome.why} at opening an entry")
    for uri in held.new_uris if wraps else ():
        ring = held.ring([uri])
        try:
            ring.decrypt(ring.encrypt(b"", context={}), context={})
        except KMSError as error:
            return _Found(digests, f"{type(error).__name__} of {uri}", wait=isinstance(error, NOT_NOW))
    return _Found(digests)


# In the driver


@dataclass(slots=True, eq=False)
class _Pending:
    """A step that was asked for, and what Dask knows of it."""

    step: str
    job: Job
    arguments: tuple[Any, ...]
    result: TimedFuture[Any] = field(default_factory=TimedFuture[Any])
    sent: Any = None
    to: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker that the scheduler names; ``id`` tells it from one that has its address later."""

    id: str
    threads: int
    admitted: bool = False
    refused: str | None = None
    version: str | None = None
    asked: bool = False
    question: Any = None
    not_before: float = 0.0
    misses: int = 0


class DaskExecutor:
    """The workers of a Dask cluster, as the executor of a ``Migration`` whose keys are ``NamedKeys``.

    Before a worker gets work it shows that it has this release of anykms, sees the entries that this process sees,
    and can use the keys; one that does not is left out, and ``on_notice`` is told. When a worker dies, another one
    does its batch. Where the scheduler goes away, or no worker is left, the command stops, and the next run goes on.

    Args:
        address: of the scheduler, ``tls://host:8786``; certificates come from Dask's configuration
            (``distributed.comm.tls``). ``tcp://`` is for this machine only.
        threads: of this process, which walks the targets; 1 to 256.
        patience: seconds to wait for workers, at the beginning and whenever none is left.
        allow_insecure_endpoint: ``tcp://`` beyond this machine, where everybody on the way can read what crosses
            and run programs on the workers.
        on_notice: is told of workers that are left out, in another thread.

    Raises:
        TypeError, InvalidArgumentError: not such an address.

    >>> DaskExecutor("tcp://10.0.0.5:8786")
    Traceback (most recent call last):
    anykms.errors.InvalidArgumentError: tcp://10.0.0.5:8786 is neither encrypted nor authenticated: use tls://
    """

    def __init__(
        self,
        address: str,
        *,
        threads: int = 16,
        patience: float = 60.0,
        allow_insecure_endpoint: bool = False,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        if not 1 <= threads <= 256:
            raise InvalidArgumentError("a migration runs on 1 to 256 threads")
        self._insecure = allow_insecure_endpoint
        self.address: Final = _checked(address)
        self._check_wire(self.address)
        self._patience = patience
        self._on_notice = on_notice
        self._version = version("anykms")
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="anykms-migration")
        self._collectors = ThreadPoolExecutor(_COLLECTORS, thread_name_prefix="anykms-cluster")
        self._askers = ThreadPoolExecutor(_COLLECTORS, thread_name_prefix="anykms-admission")
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._client: Any = None
        self._watcher: threading.Thread | None = None
        self._workers: dict[str, _Worker] = {}
        self._pending: set[_Pending] = set()
        self._jobs: tuple[Job, ...] = ()
        self._wraps = False
        self._packed: dict[int, tuple[Job, bytes]] = {}
        self._alone_since: float | None = None

    def _check_wire(self, address: str) -> None:
        if not self._insecure and not address.startswith("tls://") and not _is_loopback(address):
            raise InvalidArgumentError(f"{address} is neither encrypted nor authenticated: use tls://")

    # The seam

    @property
    def capacity(self) -> int:
        """One batch in work and a half in reserve for each thread of an admitted worker."""
        with self._lock:
            threads = sum(worker.threads for worker in self._workers.values() if worker.admitted)
        return max(1, threads + (threads + 1) // 2)

    @property
    def left_out(self) -> dict[str, str]:
        """Workers that get no work, and why."""
        with self._lock:
            return {name: worker.refused for name, worker in self._workers.items() if worker.refused}

    def begin(self, jobs: Sequence[Job], *, wraps: bool) -> None:
        """Connect, and admit the workers that are there.

        Raises:
            InvalidArgumentError: a cluster cannot do this work, or a worker has another release of anykms.
            UnavailableError: no scheduler answers, or no worker can do the work.
        """
        with self._lock:
            self._packed.clear()
        for job in jobs:
            self._packed_job(job)
        client = self._connected()
        with self._lock:
            self._jobs, self._wraps, self._alone_since = tuple(jobs), wraps, None
            self._workers.clear()
        deadline = time.monotonic() + self._patience
        while True:
            self._look(client)
            with self._lock:
                workers = dict(self._workers)
            if strangers := {
                n: w.version for n, w in workers.items() if w.version not in (None, self._version)
            }:
                told = ", ".join(f"{found} at {name}" for name, found in sorted(strangers.items())[:5])
                raise InvalidArgumentError(
                    f"this is anykms {self._version}, and workers have another: {told}; install one release everywhere"
                )
            admitted = any(worker.admitted for worker in workers.values())
            if admitted and not any(worker.asked for worker in workers.values()):
                break
            refused = workers and all(worker.refused for worker in workers.values())
            if refused or time.monotonic() > deadline:
                if admitted:
                    break
                raise UnavailableError(self._nobody())
            time.sleep(0.05)
        if self._watcher is None:
            self._watcher = threading.Thread(
                target=self._watch, args=(client,), name="anykms-watch", daemon=True
            )
            self._watcher.start()

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """See ``Executor``: on a worker, or in a thread of this process where it is part of a walk or a way back."""
        if _REMOTE.get(function.__name__) is not function:
            return self._threads.submit(function, *arguments)
        job, *others = arguments
        pending = _Pending(function.__name__, job, tuple(others))
        # It cannot be cancelled: nobody knows whether a worker has begun with it.
        pending.result.set_running_or_notify_cancel()
        with self._lock:
            self._pending.add(pending)
        self._send(pending)
        return pending.result

    def close(self) -> None:
        """See ``Executor``. Workers keep their connections until their own end."""
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._lock:
            left = list(self._pending)
        for pending in left:
            self._settle(pending, error=UnavailableError("the cluster was let go of"))
        self._threads.shutdown(cancel_futures=True)
        if self._client is not None:
            with suppress(Exception):  # a scheduler that is gone; there is nothing left to lose
                self._client.close(timeout=5)
        for pool in (self._collectors, self._askers):
            pool.shutdown(cancel_futures=True)

    # Connecting

    def _connected(self) -> Any:
        client = self._client
        if client is not None and client.status != "running":
            with suppress(Exception):  # as in ``close``
                client.close(timeout=5)
            client = self._client = None
        if client is None:
            timeout = min(_CONNECTING, self._patience)
            try:
                # First by itself: a client that cannot connect keeps threads, and complains at its end.
                self._askers.submit(asyncio.run, _reach(self.address, timeout)).result()
                client = _dask.Client(self.address, timeout=timeout, set_as_default=False, name="anykms")
            except (OSError, TimeoutError) as error:
                raise UnavailableError(
                    f"no scheduler answers at {self.address} ({type(error).__name__})"
                ) from error
            except (TypeError, ValueError, RuntimeError) as error:
                raise InvalidArgumentError(
                    f"Dask cannot connect to {self.address}: for tls:// its configuration names the certificates "
                    "(distributed.comm.tls.ca-file, client.cert and client.key)"
                ) from error
            self._client = client
        return client

    def _packed_job(self, job: Job) -> bytes:
        with self._lock:
            known = self._packed.get(id(job))
        if known is not None:
            return known[1]
        if not isinstance(job.keys, NamedKeys):
            raise InvalidArgumentError(
                "keys cross to other machines by name only: give NamedKeys, with which each worker connects by itself"
            )
        if job.readers or (job.originals is not None and job.originals.exists()):
            raise InvalidArgumentError(
                "foreign ciphertext is re-encrypted on one machine, which keeps what it was: run without a cluster"
            )
        try:
            data = _packed(replace(job, originals=None))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InvalidArgumentError(
                f"the target {job.target.name} cannot be used on another machine"
            ) from error
        with self._lock:
            self._packed[id(job)] = job, data
        return data

    # Workers

    def _look(self, client: Any) -> None:
        """See which workers there are, and ask those that are new."""
        found: Mapping[str, Any] = client.scheduler_info()["workers"]
        now = time.monotonic()
        with self._lock:
            gone = [n for n, worker in self._workers.items() if n not in found or found[n]["id"] != worker.id]
            questions = [self._workers.pop(name).question for name in gone]
            for name, facts in found.items():
                if name not in self._workers:
                    self._workers[name] = _Worker(facts["id"], int(facts["nthreads"]))
            for name, worker in self._workers.items():
                if worker.admitted or worker.refused or worker.asked or worker.not_before > now:
                    continue
                worker.asked = True
                self._askers.submit(self._ask, client, name, worker)
        for question in questions:
            if question is not None:
                question.cancel()  # it would wait for the worker that is gone

    def _ask(self, client: Any, name: str, worker: _Worker) -> None:
        """Admit a worker, or leave it out."""
        trouble: str | None
        try:
            self._check_wire(name)
            trouble = None
            for job in self._jobs:
                trouble = trouble or self._examine(client, name, worker, job)
        except (*NOT_NOW, BrokenExecutor) as error:
            trouble, worker.not_before = f"{type(error).__name__}: {error}", time.monotonic() + _NEXT_TRY
        except (KMSError, OSError) as error:
            trouble = f"{type(error).__name__}: {error}"
        except Exception as error:
            trouble = f"{type(error).__name__}: the worker cannot load anykms, or failed"
            worker.version = worker.version or "none that works"
        with self._lock:
            worker.asked = False
            if trouble is None:
                worker.admitted = True
            elif not worker.not_before > time.monotonic():
                self._leave_out(name, worker, trouble)

    def _examine(self, client: Any, name: str, worker: _Worker, job: Job) -> str | None:
        """What is wrong with a worker, by some entries that both sides read."""
        for _ in range(_TRIES):
            # Others may be writing: then the next try has other entries, or the same again.
            ids = [entry.id for entry in islice(job.target.entries(), _SAMPLES)]
            worker.question = self._dispatch(client, _introduce.__name__, job, (ids, self._wraps), [name])
            answer = self._fetch(worker.question)
            worker.version = answer.version
            if answer.version != self._version:
                return f"it has anykms {answer.version}"
            found: _Found = _opened(answer)
            if found.wait:
                raise UnavailableError(found.trouble or "not now")
            if found.trouble:
                return found.trouble
            ours = (
                [None if head is None else digest_of(head) for head in job.target.starts(ids)] if ids else []
            )
            if list(found.digests) == ours:
                return None
        return f"it does not see {job.target.name} as this machine does"

    def _leave_out(self, name: str, worker: _Worker, why: str) -> None:
        """Give a worker no more work."""
        worker.admitted, worker.refused = False, why
        if self._on_notice is not None:
            self._on_notice(f"the worker {name} is left out: {why}")

    def _gone(self) -> str:
        return f"the scheduler at {self.address} went away"

    def _nobody(self) -> str:
        told = "; ".join(f"{name}: {why}" for name, why in sorted(self.left_out.items())[:3])
        return f"no worker at {self.address} can do the work" + (f" ({told})" if told else "")

    def _watch(self, client: Any) -> None:
        """Follow the cluster, so that nothing waits for a worker that will not come."""
        while not self._closing.wait(_LOOK):
            client = self._client or client
            with suppress(
                Exception
            ):  # whatever Dask raises while the scheduler does not answer; the status tells
                self._look(client)
            if client.status == "running":
                self._see_to_pending()
            else:
                self._settle_all(UnavailableError(self._gone()))

    def _see_to_pending(self) -> None:
        now = time.monotonic()
        with self._lock:
            admitted = self._admitted()
            if admitted:
                self._alone_since = None
            elif self._alone_since is None:
                self._alone_since = now
            alone = self._alone_since is not None and now - self._alone_since > self._patience
            waiting = [pending for pending in self._pending if pending.sent is None]
            lost = [
                pending for pending in self._pending if pending.sent and not pending.to & self._workers.keys()
            ]
        if alone:
            self._settle_all(UnavailableError(self._nobody()))
            return
        for pending in waiting:
            self._send(pending)
        for pending in lost:
            self._settle(pending, error=BrokenExecutor("its workers are gone"))

    def _admitted(self) -> frozenset[str]:
        return frozenset(name for name, worker in self._workers.items() if worker.admitted)

    # Batches

    def _dispatch(self, client: Any, step: str, job: Job, arguments: tuple[Any, ...], to: list[str]) -> Any:
        parcel = _Parcel(self._version, step, self._packed_job(job), pickle.dumps(arguments, protocol=5))
        return client.submit(
            _perform, parcel, key=_key(step), workers=to, allow_other_workers=False, pure=False
        )

    def _send(self, pending: _Pending) -> None:
        """Hand it to Dask; where there is nobody to do it now, it waits for ``_watch``."""
        with self._lock:
            to = self._admitted()
        client = self._client
        if not to or client is None:
            return
        try:
            pending.to = to
            pending.sent = self._dispatch(client, pending.step, pending.job, pending.arguments, sorted(to))
            pending.sent.add_done_callback(partial(self._collect_soon, pending))
        except KMSError as error:
            self._settle(pending, error=error)
        except Exception:  # a client that has lost its scheduler
            self._settle(pending, error=UnavailableError(self._gone()))

    def _collect_soon(self, pending: _Pending, _: object) -> None:
        with suppress(RuntimeError):  # closed meanwhile, and everything settled
            self._collectors.submit(self._collect, pending)

    def _collect(self, pending: _Pending) -> None:
        sent = pending.sent
        if sent is None:
            return
        try:
            answer = self._fetch(sent)
            pending.result.seconds = answer.seconds
            if answer.version != self._version:
                self._distrust(answer.worker, f"it has anykms {answer.version}", _MISSES)
            result = _opened(answer)
            if missed := self._missed(pending, result):
                self._distrust(answer.worker, "it does not see entries that are there", missed)
        except BrokenExecutor as error:
            self._settle(pending, error=error)
        except (KMSError, OSError) as error:
            self._settle(pending, error=error)
        except Exception as error:
            self._settle(pending, error=IntegrityError(f"the cluster failed with {type(error).__name__}"))
        else:
            self._settle(pending, result=result)

    def _fetch(self, sent: Any) -> _Answer:
        """The answer, or why there is none."""
        try:
            answer: object = sent.result()
        except _dask.KilledWorker as error:
            raise BrokenExecutor("its workers died") from error
        except CancelledError as error:
            raise UnavailableError(self._gone()) from error
        except OSError as error:
            raise BrokenExecutor("the answer was lost") from error
        if not isinstance(answer, _Answer):
            raise IntegrityError("a worker gave no answer of this program")
        return answer

    def _missed(self, pending: _Pending, result: Any) -> int:
        """Entries that are gone, says the worker, and which this machine finds."""
        if pending.step == prepare.__name__:
            names = {row.n: row.id for row in pending.arguments[0]}
            gone = [names[outcome.n] for outcome in result if outcome.state is State.GONE]
        elif pending.step == verify.__name__:
            gone = [
                entry.id for entry, found in zip(pending.arguments[0], result, strict=True) if found is None
            ]
        else:
            return 0
        return sum(head is not None for head in pending.job.target.starts(gone, 1)) if gone else 0

    def _distrust(self, name: str, why: str, misses: int) -> None:
        """Have a batch done again, and leave its worker out where that is no accident."""
        with self._lock:
            worker = self._workers.get(name)
            if worker is not None:
                worker.misses += misses
                if worker.misses >= _MISSES and worker.refused is None:
                    self._leave_out(name, worker, why)
        raise BrokenExecutor(f"the worker {name}: {why}")

    def _settle(self, pending: _Pending, result: Any = None, error: Exception | None = None) -> None:
        """Once, whoever comes first."""
        with self._lock:
            if pending not in self._pending:
                return
            self._pending.remove(pending)
            sent, pending.sent = pending.sent, None
        if error is None:
            pending.result.set_result(result)
        else:
            pending.result.set_exception(error)
        if sent is not None:
            with suppress(Exception):  # as in ``close``
                if isinstance(error, BrokenExecutor):
                    sent.cancel()
                sent.release()

    def _settle_all(self, error: Exception) -> None:
        with self._lock:
            left = list(self._pending)
        for pending in left:
            self._settle(pending, error=error)


def _opened(answer: _Answer) -> Any:
    # Dask has unpickled what came with it, too: the driver trusts its cluster.
    if answer.error:
        error = pickle.loads(answer.error)  # noqa: S301 # see above
        error.add_note(f"on the worker {answer.worker}")
        raise error
    return pickle.loads(answer.result)  # noqa: S301 # see above


async def _reach(address: str, timeout: float) -> None:
    arguments = _dask.Security().get_connection_args("client")
    connection = await _dask.comm.connect(address, timeout=timeout, **arguments)
    await connection.close()


def _key(step: str) -> str:
    """A key for Dask, which says what is done and not to what."""
    return f"anykms-{step.strip('_')}-{uuid.uuid4().hex}"


def _checked(address: str) -> str:
    if not isinstance(address, str):
        raise TypeError(f"the address of a scheduler is a str, not {type(address).__name__}")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        port = None
    else:
        bare = parts._replace(netloc="", scheme="").geturl() in ("", "/")
        if parts.scheme in ("tls", "tcp") and parts.hostname and port and bare and "@" not in parts.netloc:
            return address.rstrip("/")
    raise InvalidArgumentError(
        "the address of a scheduler is tls://HOST:PORT, or tcp://127.0.0.1:PORT on this machine"
    )


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
