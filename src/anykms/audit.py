"""Audit: one event for each public operation that ends, and for each one that is refused.

An event says who did what with which keys, under which context, with what result. It never holds data: no plaintext,
ciphertext, key, signature or message of an error, and of a context only its digest.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import logging
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Concatenate, Final, ParamSpec, Protocol, TypeVar

import msgspec

from anykms.context import canonical_bytes
from anykms.errors import AuditError, InvalidArgumentError, KMSError, UnsupportedOperationError
from anykms.keys import KeyInfo, KeyURI
from anykms.provider import REQUEST_IDS, Wrapped

OK: Final = "ok"
_MAX_ENTITY: Final = 256
_LOG: Final = logging.getLogger("anykms.audit")


class AuditDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sealed document that an operation made, opened, refused or edited.

    Attributes:
        kind: its payload type, for example ``application/vnd.anykms.keyset.v1+json``: the one asked for.
        name: what it is for: the name asked for.
        generation: what it says of itself; of an edit, the one that was edited, 0 before a keyset is first saved;
            None where it could not be read.
        digest: SHA-256 of the sealed bytes, hexadecimal, as ``sha256sum`` gives it of the file; None for an edit
            that is not saved yet.
        detail: of an edit, what becomes of the member; of ``Keyset.check``, how many differences it found.
    """

    kind: str
    name: str
    generation: int | None
    digest: str | None
    detail: str | None = None


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operation, done or refused.

    Attributes:
        time: when it began, UTC.
        entity: who did it, as the application named itself to ``connect``.
        operation: the method, for example ``Keyring.decrypt``.
        provider: scheme of the key service, None where none was involved.
        keys: URIs of the keys used, with the version where it is known; a name where that is all there is.
        context: SHA-256 of the canonical context, hexadecimal; None for an operation without one.
        result: ``ok``, or the error's class.
        calls: how often a key service was asked; 0 where the library refused, or knew the answer.
        request_ids: the service's ids of the requests, where it gave them.
        duration: seconds.
        document: of an operation on a sealed document, which one.
    """

    time: datetime
    entity: str
    operation: str
    provider: str | None
    keys: tuple[str, ...]
    context: str | None
    result: str
    calls: int
    request_ids: tuple[str, ...]
    duration: float
    document: AuditDocument | None = None


class AuditSink(Protocol):
    """Where events go. It is called in the thread of the operation, before its result is handed out."""

    def record(self, event: AuditEvent) -> None:
        """Keep the event; whatever is raised counts as a failure of the sink."""
        ...


class AuditTrail:
    """The sinks of one client.

    Args:
        sinks: where events go.
        entity: who the application is, 1 to 256 printable characters.
        required: a failing sink fails the operation.

    Raises:
        InvalidArgumentError: no entity, or not such a text.
    """

    def __init__(self, sinks: Sequence[AuditSink], entity: str | None, *, required: bool) -> None:
        if not isinstance(entity, str) or not 1 <= len(entity) <= _MAX_ENTITY or not entity.isprintable():
            raise InvalidArgumentError(
                f"an audit trail needs entity=, who the application is: 1 to {_MAX_ENTITY} printable characters"
            )
        self.sinks = tuple(sinks)
        self.entity = entity
        self.required = required


def trails_of(sinks: Sequence[AuditSink], entity: str | None, *, required: bool) -> tuple[AuditTrail, ...]:
    """The trail of these sinks; none where there are none. Raises as ``AuditTrail``."""
    return (AuditTrail(sinks, entity, required=required),) if sinks else ()


P = ParamSpec("P")
T = TypeVar("T")


class _Audited(Protocol):
    @property
    def _trails(self) -> tuple[AuditTrail, ...]: ...


S = TypeVar("S", bound=_Audited)


@functools.lru_cache(maxsize=1024)
def _spelt(key: str, version: str | None) -> tuple[str, str, bool]:
    """A key without a version, with the one used, and whether there is one. A name stays as it is."""
    try:
        uri = KeyURI.parse(key)
    except InvalidArgumentError:
        return key, key, False
    version = version or uri.version
    return str(uri.without_version()), str(uri.with_version(version)), version is not None


class _Operation:
    """A public method at work, and what its calls have told so far."""

    def __init__(self, name: str, trails: tuple[AuditTrail, ...], context: object) -> None:
        self.name = name
        self.trails = trails
        self.context = context
        self.provider: str | None = None
        self.keys: dict[str, str] = {}
        self.calls = 0
        self.request_ids: list[str] = []
        self.document: AuditDocument | None = None
        self.time = datetime.now(UTC)
        self._began = time.perf_counter()

    def join(self, trails: tuple[AuditTrail, ...]) -> None:
        """Tell these too: a key of theirs plays a part."""
        self.trails += tuple(trail for trail in trails if trail not in self.trails)

    def note(self, key: str, version: str | None = None) -> None:
        """A key plays a part; its latest version is the one used."""
        plain, spelt, versioned = _spelt(key, version)
        if versioned or plain not in self.keys:
            self.keys[plain] = spelt

    def end(self, error: BaseException | None) -> None:
        """Tell every sink.

        Raises:
            AuditError: the operation was done, but a sink that is required has failed.
        """
        if isinstance(error, KMSError):
            self.provider = self.provider or error.provider
            if error.key is not None and not self.keys:
                self.note(error.key)
        event = AuditEvent(
            time=self.time,
            entity=self.trails[0].entity,
            operation=self.name,
            provider=self.provider,
            keys=tuple(dict.fromkeys(self.keys.values())),
            context=_context_digest(self.context),
            result=OK if error is None else type(error).__name__,
            calls=self.calls,
            request_ids=tuple(dict.fromkeys(self.request_ids)),
            duration=time.perf_counter() - self._began,
            document=self.document,
        )
        failure = self._tell(event)
        if failure is None:
            return
        sink, cause = failure
        if error is not None:
            error.add_note(f"the audit sink {sink} failed too: {type(cause).__name__}")
            return
        raise AuditError(
            f"{self.name} was done, but the audit sink {sink} failed; its result is withheld"
        ) from cause

    def _tell(self, event: AuditEvent) -> tuple[str, Exception] | None:
        """The first failure of a required sink. Every other sink is told all the same."""
        failure: tuple[str, Exception] | None = None
        told: list[AuditSink] = []
        for trail in self.trails:
            own = msgspec.structs.replace(event, entity=trail.entity)
            for sink in trail.sinks:
                if any(sink is other for other in told):
                    continue
                told.append(sink)
                try:
                    sink.record(own)
                except Exception as cause:
                    name = type(sink).__name__
                    _LOG.error("the audit sink %s failed: %s", name, type(cause).__name__)
                    if trail.required:
                        failure = failure or (name, cause)
        return failure


_current: ContextVar[_Operation | None] = ContextVar("anykms audited operation", default=None)


def audited(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A public method that leaves one event, whatever it returns or raises.

    What it calls is part of it. Costs one more function call where no sink is set.
    """
    name = method.__qualname__

    @functools.wraps(method)
    def recorded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        trails = self._trails  # pyright: ignore[reportPrivateUsage] # declared here
        if not trails:
            return method(self, *args, **kwargs)
        return observed(trails, name, lambda: method(self, *args, **kwargs), _context_of(self, kwargs))

    return recorded


def _context_of(subject: object, arguments: Mapping[str, object]) -> object:
    """The context of a call, or of the record that it is made on."""
    return arguments.get("context", getattr(subject, "_context", None))


def observed(
    trails: tuple[AuditTrail, ...],
    name: str,
    work: Callable[[], T],
    context: object = None,
    *,
    only_refusals: bool = False,
) -> T:
    """``work()`` as an operation of its own, or as part of the one at work, which these trails then hear of too.

    With ``only_refusals`` it leaves no event when it is done: for what takes up a key and uses none.
    """
    outer = _current.get()
    if outer is not None:
        outer.join(trails)
        return work()
    if not trails:
        return work()
    operation = _Operation(name, trails, context)
    token, ids_token = _current.set(operation), REQUEST_IDS.set(operation.request_ids)
    try:
        try:
            result = work()
        finally:
            _current.reset(token)
            REQUEST_IDS.reset(ids_token)
    except BaseException as error:
        operation.end(error)
        raise
    if only_refusals:
        return result
    try:
        operation.end(None)
    except AuditError:
        _abandon(result)
        raise
    return result


def _abandon(result: object) -> None:
    """A stream or file that nobody will get is given up; a message that it was to write does not look whole."""
    give_up = getattr(result, "abort", None) or getattr(result, "close", None)
    if callable(give_up):
        give_up()


def note_key(key: str) -> None:
    """The audited operation at work concerns this key."""
    operation = _current.get()
    if operation is not None:
        operation.note(key)


def note_document(document: AuditDocument) -> None:
    """The audited operation at work concerns this document; the last one told is the one that counts."""
    operation = _current.get()
    if operation is not None:
        operation.document = document


class Afterwards:
    """What an operation has opened and handed out, which may have to be refused after the operation has ended.

    It remembers who is to hear of that, and what the operation knew of keys and context.
    """

    __slots__ = ("_context", "_keys", "_provider", "_trails")

    def __init__(self) -> None:
        operation = _current.get()
        self._trails = () if operation is None else operation.trails
        self._provider = None if operation is None else operation.provider
        self._keys = () if operation is None else tuple(operation.keys.values())
        self._context = None if operation is None else operation.context

    def refused(self, name: str, error: KMSError) -> None:
        """Leave the event of a refusal, called ``name``; within another operation it is that one's."""
        outer = _current.get()
        if outer is not None:
            outer.join(self._trails)
        elif self._trails:
            operation = _Operation(name, self._trails, self._context)
            operation.provider = self._provider
            for key in self._keys:
                operation.note(key)
            operation.end(error)


def attempted(provider: str, key: str | None, version: str | None, call: Callable[[], T]) -> Callable[[], T]:
    """``call``, every attempt of it told to the operation at work. ``version`` is what the call names of ``key``."""

    def attempt() -> T:
        operation = _current.get()
        if operation is None:
            return call()
        operation.calls += 1
        operation.provider = provider
        if key is not None:
            operation.note(key, version)
        try:
            result = call()
        except KMSError as error:
            if error.request_id is not None:
                operation.request_ids.append(error.request_id)
            raise
        if isinstance(result, Wrapped) and key is not None:
            operation.note(key, result.version)
        elif isinstance(result, KeyInfo):
            # Asked for by name: its URI says more.
            operation.keys[key or result.name] = str(result.uri)
        return result

    return attempt


def _context_digest(context: object) -> str | None:
    if not isinstance(context, Mapping):
        return None
    try:
        return hashlib.sha256(canonical_bytes(context)).hexdigest()  # pyright: ignore[reportUnknownArgumentType] # checked there
    except (TypeError, KMSError):
        return None


# Logging


class LoggingSink:
    """Events as log records: ``ok`` at INFO, everything else at WARNING. The event is the record's ``audit``.

    A handler of ``logging`` that fails does so silently, so that this sink never fails an operation.

    Args:
        logger: ``anykms.audit`` by default.
    """

    def __init__(self, logger: logging.Logger = _LOG) -> None:
        self._logger = logger

    def record(self, event: AuditEvent) -> None:
        """Log it."""
        self._logger.log(
            logging.INFO if event.result == OK else logging.WARNING,
            "%s %s %s %s",
            event.entity,
            event.operation,
            event.result,
            " ".join(event.keys) or "-",
            extra={"audit": event},
        )


# OpenTelemetry


class OpenTelemetrySink:
    """Events as spans and metrics of OpenTelemetry; extra ``otel``.

    A span for each event, under the caller's current one, named for example ``anykms Keyring.decrypt``. The histogram
    ``anykms.operation.duration`` (seconds) and the counter ``anykms.provider.calls``, by operation, provider and error.

    Args:
        tracer_provider, meter_provider: the global ones by default.

    Raises:
        UnsupportedOperationError: opentelemetry-api is not installed.
    """

    def __init__(self, tracer_provider: object = None, meter_provider: object = None) -> None:
        try:
            from opentelemetry import metrics, trace
        except ModuleNotFoundError as error:
            raise UnsupportedOperationError(
                "OpenTelemetrySink needs opentelemetry-api; run: pip install 'anykms[otel]'"
            ) from error
        self._tracer = trace.get_tracer("anykms", tracer_provider=tracer_provider)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # its type is not imported before it is needed
        meter = metrics.get_meter("anykms", meter_provider=meter_provider)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # its type is not imported before it is needed
        self._durations = meter.create_histogram(
            "anykms.operation.duration", unit="s", description="Duration of anykms operations"
        )
        self._calls = meter.create_counter(
            "anykms.provider.calls", unit="{call}", description="Requests to key services"
        )
        self._failed = trace.Status(trace.StatusCode.ERROR)

    def record(self, event: AuditEvent) -> None:
        """Make the span and count."""
        shared: dict[str, str] = {"anykms.operation": event.operation}
        if event.provider is not None:
            shared["anykms.provider"] = event.provider
        if event.result != OK:
            shared["error.type"] = event.result
        began = int(event.time.timestamp() * 1e9)
        span = self._tracer.start_span(
            f"anykms {event.operation}",
            start_time=began,
            attributes={
                **shared,
                "anykms.entity": event.entity,
                "anykms.keys": event.keys,
                "anykms.calls": event.calls,
                "anykms.request_ids": event.request_ids,
                **({} if event.context is None else {"anykms.context": event.context}),
                **_document_attributes(event.document),
            },
        )
        if event.result != OK:
            span.set_status(self._failed)
        span.end(began + int(event.duration * 1e9))
        self._durations.record(event.duration, shared)
        if event.calls:
            self._calls.add(event.calls, shared)


def _document_attributes(document: AuditDocument | None) -> dict[str, str | int]:
    """What is known of it; OpenTelemetry has no attribute without a value."""
    if document is None:
        return {}
    known = {name: getattr(document, name) for name in document.__struct_fields__}
    return {f"anykms.document.{name}": value for name, value in known.items() if value is not None}


# A file with a hash chain

_MAX_LINE: Final = 1024 * 1024
_START: Final = "0" * 64
_UNKNOWN_LINES: Final = 2
"""Lines that a crash can leave behind the head: a record cut short and the one that followed it."""
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    n: int
    previous: _Digest
    event: AuditEvent


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    records: int
    size: int
    head: _Digest


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A file of events whose chain is whole.

    Attributes:
        records: events in it.
        interrupted: records cut short by a crash; their operations handed out no result.
        first, last: times of the first and last event.
        head: digest of everything in it. Kept elsewhere, it proves later that nothing of this was changed.
    """

    records: int
    interrupted: int
    first: datetime | None
    last: datetime | None
    head: str


class _Chain:
    """The state after some lines: each digest is over the one before and the next line."""

    def __init__(self, records: int = 0, head: str = _START) -> None:
        self.records = records
        self.head = head
        self.interrupted = 0
        self.times: list[datetime] = []

    def follow(self, line: bytes) -> None:
        """Take in one line, without its end.

        Raises:
            AuditError: a record that does not follow.
        """
        try:
            record = _decode(line)
        except _UNREADABLE:
            # Proven by what follows: the next record's digest, or the head, is over these very bytes.
            self.interrupted += 1
        else:
            if record.n != self.records + 1 or record.previous != self.head:
                raise AuditError(
                    f"after record {self.records} comes one that does not follow it: changed, removed or reordered"
                )
            self.records += 1
            self.times[1:] = [record.event.time]
        self.head = _next(self.head, line)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Record).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _next(head: str, line: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(head) + line).hexdigest()


class AuditFile:
    """Events as JSON lines, each chained to all before it. ``anykms audit verify`` checks the file.

    Beside FILE stands FILE.head, which says how far FILE goes; the two belong together. Several processes may append
    to one file; a lock on FILE.head keeps them apart. The chain shows what was changed, reordered or cut off by
    someone who could not rewrite both files; against one who can, keep the head that a report gives somewhere else.

    Args:
        path: FILE; made with mode 0600 if missing.
        sync: fsync both files before ``record`` returns, so that no result of an unrecorded operation survives a power
            cut. Without it the system writes when it likes, and a power cut can look like a truncation.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = True) -> None:
        self._path = Path(path)
        self._sync = sync

    def record(self, event: AuditEvent) -> None:
        """Append the event.

        Raises:
            AuditError: FILE is not what FILE.head says, so that something was removed: move both aside.
            OSError: a file cannot be written.
        """
        with _locked(self._path, fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT) as head_file:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            log = os.open(self._path, flags, 0o600)
            try:
                head, cut_short = self._recovered(head_file, log)
                line = _encode(_Record(head.records + 1, head.head, event))
                written = (b"\n" if cut_short else b"") + line + b"\n"
                self._write(log, written)
                after = _Head(head.records + 1, head.size + len(written), _next(head.head, line))
                content = _encode(after) + b"\n"
                os.pwrite(head_file, content, 0)
                os.ftruncate(head_file, len(content))
                if self._sync:
                    os.fsync(head_file)
                    if head.size == 0:
                        _sync_folder(self._path.absolute().parent)
            finally:
                os.close(log)

    def _recovered(self, head_file: int, log: int) -> tuple[_Head, bool]:
        """The head, brought forward over what a crash left behind it, and whether the last line lacks its end."""
        head = _read_head(head_file, self._path)
        size = os.fstat(log).st_size
        if size < head.size:
            raise _shorter(self._path)
        if size == head.size:
            return head, False
        tail = os.pread(log, _UNKNOWN_LINES * _MAX_LINE, head.size)
        lines = tail.split(b"\n")
        whole, rest = lines[:-1], lines[-1]
        if head.size + len(tail) != size or len(whole) + bool(rest) > _UNKNOWN_LINES:
            raise _longer(self._path)
        chain = _Chain(head.records, head.head)
        for line in (*whole, *([rest] if rest else [])):
            chain.follow(line)
        return _Head(chain.records, size, chain.head), bool(rest)

    def _write(self, log: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(log, view) :]
        if self._sync:
            os.fsync(log)


def verify_audit_file(path: str | os.PathLike[str], *, head: str | None = None) -> AuditReport:
    """Check the whole chain of an ``AuditFile``.

    Args:
        path: FILE, with FILE.head beside it.
        head: what an earlier report gave; the file must contain everything that it stood for.

    Raises:
        AuditError: something was changed, removed, reordered or cut off, or ``head`` is not in the chain.
        OSError: a file cannot be read.
    """
    log = Path(path)
    chain = _Chain()
    with _locked(log, fcntl.LOCK_SH, os.O_RDONLY) as head_file, log.open("rb") as lines:
        expected = _read_head(head_file, log)
        size = unknown = 0
        found = head in (None, _START)
        reached = expected == _Head(0, 0, _START)
        while line := lines.readline(_MAX_LINE + 1):
            size += len(line)
            # The last line may lack its end, where a crash cut it short.
            chain.follow(line.removesuffix(b"\n"))
            found = found or chain.head == head
            if size > expected.size:
                unknown += 1
            elif size == expected.size:
                reached = (chain.records, chain.head) == (expected.records, expected.head)
    if size < expected.size:
        raise _shorter(log)
    if not reached:
        raise AuditError(f"{log.name}.head does not fit {log.name}: a record was changed or added")
    if unknown > _UNKNOWN_LINES:
        raise _longer(log)
    if not found:
        raise AuditError(f"the head {head!a} is not in the chain: {log.name} is not the file it was taken of")
    return AuditReport(
        chain.records,
        chain.interrupted,
        chain.times[0] if chain.times else None,
        chain.times[-1] if chain.times else None,
        chain.head,
    )


@contextmanager
def _locked(log: Path, how: int, flags: int) -> Generator[int]:
    """FILE.head, opened and locked; the lock goes with the descriptor, however the process ends."""
    head = os.open(log.with_name(log.name + ".head"), flags | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(head, how)
        yield head
    finally:
        os.close(head)


def _read_head(head_file: int, log: Path) -> _Head:
    content = os.pread(head_file, 4096, 0)
    if not content:
        return _Head(0, 0, _START)
    try:
        return msgspec.json.decode(content, type=_Head)
    except _UNREADABLE as error:
        raise AuditError(f"{log.name}.head is damaged; move both files aside to begin anew") from error


def _shorter(log: Path) -> AuditError:
    return AuditError(f"{log.name} is shorter than {log.name}.head says: its end was cut off")


def _longer(log: Path) -> AuditError:
    return AuditError(
        f"{log.name} has records that {log.name}.head does not know: they were added from outside"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
