"""The steps of a migration that use keys and places: functions of data, each safe to do twice.

They run on threads or on other machines. What they are given can be pickled where the keys are ``NamedKeys``; what
they return says what happened, and nothing is remembered here.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from anykms.client import Key, KMSClient
from anykms.context import canonicalise
from anykms.envelope.keyring import Keyring
from anykms.envelope.message import MAX_GENERATION, Message, checked_aad
from anykms.envelope.stream import Sink, Source, copy_rest
from anykms.errors import (
    ConflictError,
    ContextMismatchError,
    DeadlineExceededError,
    InvalidArgumentError,
    InvalidCiphertextError,
    KeyNotAllowedError,
    KMSError,
    PolicyError,
    StaleMessageError,
    ThrottledError,
    UnavailableError,
)
from anykms.keys import ConnectionURI, KeyURI
from anykms.migration.census import Ahead, Claim, Kind, Mode, Reason, classify, decide, read_heads
from anykms.migration.checkpoint import Found, Row, State, bucket_of, digest_of
from anykms.migration.readers import ForeignReader, reader_of
from anykms.migration.targets import Entry, Swap, Target
from anykms.registry import connect

NOT_NOW: Final = (ThrottledError, UnavailableError, DeadlineExceededError)
"""The provider cannot do it now; the same call may succeed later."""
NOTHING_CAN_BE_WRITTEN: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""No entry of the place can be written now."""
_HEADERS: Final = 4096
"""Headers, of some hundred bytes each, that a process remembers."""
_AGAIN: Final = 5
_REASONS: Final[tuple[tuple[type[KMSError], Reason], ...]] = (
    (ContextMismatchError, Reason.CONTEXT_MISSING),
    (PolicyError, Reason.POLICY),
    (KeyNotAllowedError, Reason.OTHER_KEYS),
    (InvalidCiphertextError, Reason.NOT_AUTHENTIC),
    (StaleMessageError, Reason.GENERATION_DEMANDED),
)

# Keys


class HeldKeys:
    """The keys of a migration, held in this process.

    Args:
        old: those to leave; for a proof that needs the new ones only, none.
        new: those to go to; for ``REMOVE`` the ones that stay.
        leaving: further keys to leave, known by their URI only: their provider may be out of reach.

    Raises:
        InvalidArgumentError: no new key, or one key is both.
    """

    def __init__(self, old: Sequence[Key], new: Sequence[Key], leaving: Collection[KeyURI] = ()) -> None:
        self._old = {key.info.uri.without_version(): key for key in old}
        self._new = {key.info.uri.without_version(): key for key in new}
        self._leaving = frozenset(uri.without_version() for uri in leaving) | self._old.keys()
        if not new:
            raise InvalidArgumentError("a migration needs at least one new key (--to)")
        if both := self._leaving & self._new.keys():
            raise InvalidArgumentError(
                f"{', '.join(sorted(map(str, both)))} is both an old key and a new one; name it once"
            )
        self._rings: dict[tuple[KeyURI, ...], Keyring] = {}
        # All messages of one data key share their header: what was made of it, or proven of it, holds for the next.
        self._rewrapped = lru_cache(_HEADERS)(self._rewrap)
        self._opened = lru_cache(_HEADERS)(self._open)

    @property
    def old_uris(self) -> frozenset[KeyURI]:
        """The keys to leave, without versions."""
        return self._leaving

    @property
    def new_uris(self) -> frozenset[KeyURI]:
        """The keys to go to, without versions."""
        return frozenset(self._new)

    @property
    def keys(self) -> Mapping[KeyURI, Key]:
        """All that are held, the old ones first."""
        return {**self._old, **self._new}

    def open(self) -> HeldKeys:
        """Itself."""
        return self

    def ring(self, uris: Iterable[KeyURI]) -> Keyring:
        """A ring of some of the keys, in their order here; those that are not held are left out.

        Raises:
            KeyNotAllowedError: none of them is held.
        """
        wanted = frozenset(uris)
        chosen = tuple(uri for uri in (*self._old, *self._new) if uri in wanted)
        known = self._rings.get(chosen)
        if known is None:
            if not chosen:
                raise KeyNotAllowedError("none of the message's keys is at hand")
            held = [self.keys[uri] for uri in chosen]
            if len(self._rings) >= 1024:
                self._rings.clear()
            known = self._rings[chosen] = Keyring(held[:8], decrypt_only=held[8:])
        return known

    def rewrap(
        self,
        head: bytes,
        context: Mapping[str, str],
        *,
        opening: frozenset[KeyURI],
        recipients: frozenset[KeyURI],
    ) -> bytes:
        """The header for other recipients; the same one again for the same header.

        Raises:
            KMSError: as ``Keyring.rewrap``.
        """
        return self._rewrapped(head, tuple(sorted(context.items())), opening, recipients)

    def _rewrap(
        self,
        head: bytes,
        context: tuple[tuple[str, str], ...],
        opening: frozenset[KeyURI],
        recipients: frozenset[KeyURI],
    ) -> bytes:
        return self.ring(opening).rewrap(head, to=self.ring(recipients), context=dict(context)).message

    def prove(self, head: bytes, context: Mapping[str, str], through: frozenset[KeyURI]) -> None:
        """Check a header through one of some keys. No body is read.

        Raises:
            KMSError: as ``Keyring.decrypt``, as far as the header.
        """
        self._opened(head, tuple(sorted(context.items())), through)

    def _open(self, head: bytes, context: tuple[tuple[str, str], ...], through: frozenset[KeyURI]) -> None:
        self.ring(through).open_header(Message(head), dict(context))


class Keys(Protocol):
    """The keys of a migration, or how to come by them in another process."""

    @property
    def old_uris(self) -> frozenset[KeyURI]:
        """The keys to leave, without versions."""
        ...

    @property
    def new_uris(self) -> frozenset[KeyURI]:
        """The keys to go to, without versions."""
        ...

    def open(self) -> HeldKeys:
        """The keys, connected once in each process."""
        ...


@dataclass(frozen=True, slots=True)
class KeyNames:
    """Keys by name only, where none is used: to roll back."""

    old_uris: frozenset[KeyURI]
    new_uris: frozenset[KeyURI]

    def open(self) -> HeldKeys:
        """Raises InvalidArgumentError: there are no keys."""
        raise InvalidArgumentError("this command was given names of keys, and no keys")


@dataclass(frozen=True, slots=True)
class NamedKeys:
    """Keys by connection URI and key URI, so that a worker on another machine connects for itself.

    Its credentials are that machine's own. A connection lives as long as its process.

    Attributes:
        old, new: pairs of a connection URI and a key URI.
        leaving: as for ``HeldKeys``.
        insecure: allow endpoints without TLS, where a connection URI names one: an emulator's.
    """

    old: tuple[tuple[str, str], ...]
    new: tuple[tuple[str, str], ...]
    leaving: tuple[str, ...] = ()
    insecure: bool = False

    @property
    def old_uris(self) -> frozenset[KeyURI]:
        """See ``Keys``."""
        return _bare([*(uri for _, uri in self.old), *self.leaving])

    @property
    def new_uris(self) -> frozenset[KeyURI]:
        """See ``Keys``."""
        return _bare([uri for _, uri in self.new])

    def open(self) -> HeldKeys:
        """See ``Keys``."""
        return _connected(self)


def _bare(uris: Iterable[str]) -> frozenset[KeyURI]:
    return frozenset(KeyURI.parse(uri).without_version() for uri in uris)


@lru_cache(maxsize=16)
def _connected(named: NamedKeys) -> HeldKeys:
    def key(connection: str, uri: str) -> Key:
        return _client(connection, named.insecure).key(uri)

    return HeldKeys(
        [key(*pair) for pair in named.old],
        [key(*pair) for pair in named.new],
        [KeyURI.parse(uri) for uri in named.leaving],
    )


@lru_cache(maxsize=16)
def _client(connection: str, insecure: bool) -> KMSClient:
    where = ConnectionURI.parse(connection)
    if insecure and {"endpoint", "endpoint_url"} & where.options.keys():
        return connect(where, allow_insecure_endpoint=True)
    return connect(where)


# What the caller knows of each entry


class HookError(Exception):
    """A hook of the caller raised an error, or gave something else than it must."""


@dataclass(frozen=True, slots=True)
class Bindings:
    """The context and aad of entries, as far as messages do not hold them.

    Attributes:
        context: pairs of every entry; a message uses those whose names it requires.
        context_from: ``module:function`` that is called with the target's name and the entry's id and gives further
            pairs.
        aad: of every entry; needed to read bodies and to re-encrypt foreign ciphertext.
        aad_from: ``module:function``, called in the same way, gives bytes.
        vouched: the caller answers for foreign entries that prove no sender: nobody else could write where they lie.
    """

    context: Mapping[str, str] = field(default_factory=dict[str, str])
    context_from: str | None = None
    aad: bytes = b""
    aad_from: str | None = None
    vouched: bool = False

    def __post_init__(self) -> None:
        canonicalise(self.context)
        checked_aad(self.aad)
        for name in (self.context_from, self.aad_from):
            if name is not None:
                _hook(name)

    @property
    def names(self) -> frozenset[str] | None:
        """The names of all pairs; None where a hook is asked for each entry."""
        return frozenset(self.context) if self.context_from is None else None

    def context_for(self, target: str, entry_id: str) -> dict[str, str]:
        """All pairs that are known for an entry.

        Raises:
            HookError: the hook failed.
        """
        if self.context_from is None:
            return dict(self.context)
        given: object = _ask(self.context_from, target, entry_id)
        try:
            return {**self.context, **canonicalise(given)[0]}  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # checked there
        except (TypeError, KMSError) as error:
            raise HookError(f"{self.context_from} gave no context") from error

    def aad_for(self, target: str, entry_id: str) -> bytes:
        """The aad of an entry.

        Raises:
            HookError: the hook failed.
        """
        if self.aad_from is None:
            return self.aad
        given: object = _ask(self.aad_from, target, entry_id)
        try:
            return checked_aad(given)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # checked there
        except (TypeError, KMSError) as error:
            raise HookError(f"{self.aad_from} gave no aad") from error


Hook: TypeAlias = Callable[[str, str], object]


@lru_cache(maxsize=16)
def _hook(name: str) -> Hook:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise InvalidArgumentError("a hook is module:function, for example myapp.contexts:of_path")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidArgumentError(
            f"the hook {name!a} cannot be imported; is its folder in PYTHONPATH?"
        ) from error
    if not callable(found):
        raise InvalidArgumentError(f"the hook {name!a} is not a function")
    return found


def _ask(name: str, target: str, entry_id: str) -> object:
    try:
        return _hook(name)(target, entry_id)
    except Exception as error:
        raise HookError(f"{name} raised {type(error).__name__}") from error


# Steps


@dataclass(frozen=True, slots=True)
class Job:
    """All that a step needs besides the entries.

    Attributes:
        number: the target's, in the checkpoint.
        originals: folder of foreign entries as they were; every worker needs it.
    """

    target: Target
    number: int
    keys: Keys
    mode: Mode = Mode.REPLACE
    bindings: Bindings = Bindings()
    readers: tuple[ForeignReader, ...] = ()
    originals: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one entry in one step.

    Attributes:
        n: the entry's number in the checkpoint.
        state: where it stands now. TODO: it must be begun again; see ``error``.
        why: a reason, or the name of an error's class.
        old, new: headers to keep (PREPARED) or the one in place (DONE).
        made: when the message that was opened, and names an old key, was made; UTC seconds.
        converted: it was foreign; what it was lies in the folder of originals.
        error: what stands in the way of this entry and of others like it.
        provider: whose error that is.
        wait: seconds that the provider asked to wait.
    """

    n: int
    state: State
    why: str | None = None
    old: bytes = field(default=b"", repr=False)
    new: bytes = field(default=b"", repr=False)
    converted: bool = False
    error: str | None = None
    provider: str | None = None
    wait: float = 0.0
    made: int = 0


def survey(job: Job, entries: Sequence[Entry]) -> list[Found]:
    """What entries claim to be and whether something is to be done about them. Uses no key."""
    target, keys, names = job.target.name, job.keys, job.bindings.names
    old, new = keys.old_uris, keys.new_uris
    found: list[Found] = []
    for entry, head in zip(entries, _heads(job, [entry.id for entry in entries]), strict=True):
        if head is None:
            continue
        claim = Claim(Kind.UNREADABLE) if isinstance(head, OSError) else classify(head, job.readers)[0]
        ahead = decide(claim, job.mode, old, new, names)
        found.append(
            Found(
                target=job.number,
                id=entry.id,
                bucket=bucket_of(target, entry.id),
                size=entry.size,
                claim=claim,
                head=b"" if isinstance(head, OSError) else digest_of(head),
                state=_state(claim, ahead),
                reason=ahead.reason,
            )
        )
    return found


def _heads(job: Job, ids: Sequence[str]) -> Sequence[bytes | OSError | None]:
    """Heads, or what stands in the way of a single one of them."""
    try:
        return read_heads(job.target, ids)
    except (PermissionError, IsADirectoryError) as error:
        return [error] if len(ids) == 1 else [_heads(job, [name])[0] for name in ids]


def _state(claim: Claim, ahead: Ahead) -> State:
    if ahead.reason:
        return State.REPORTED
    if ahead.recipients:
        return State.TODO
    return State.ALREADY if claim.kind is Kind.MESSAGE else State.NOTHING


def prepare(job: Job, rows: Sequence[Row]) -> list[Outcome]:
    """New headers for entries that need them, and what became of those that an interrupted run left half-way.

    Nothing is written. Once the provider cannot be used, the rest is left for later.
    """
    keys = job.keys.open()
    outcomes: list[Outcome] = []
    obstacle: Outcome | None = None
    for row, head in zip(rows, _heads(job, [row.id for row in rows]), strict=True):
        if obstacle is not None:
            outcomes.append(Outcome(row.n, State.TODO))
            continue
        try:
            outcome = _prepare(job, keys, row, head)
        except Exception as error:
            outcome = _failed(row.n, error)
            if outcome.error is not None:
                obstacle = outcome
        outcomes.append(outcome)
    return outcomes


def _prepare(job: Job, keys: HeldKeys, row: Row, head: bytes | OSError | None) -> Outcome:
    if head is None:
        return Outcome(row.n, State.GONE)
    if isinstance(head, OSError):
        return Outcome(row.n, State.REPORTED, Reason.UNREADABLE)
    if row.state is State.PREPARED:
        if head == row.new:
            return Outcome(row.n, State.DONE, new=head)
        if head == row.old:
            return Outcome(row.n, State.PREPARED, old=row.old, new=row.new)
    if job.originals is not None and _was_converted(job.originals, job.target.name, row.id, head):
        return Outcome(row.n, State.DONE, new=head, converted=True)
    claim, message = classify(head, job.readers)
    ahead = decide(claim, job.mode, keys.old_uris, keys.new_uris, job.bindings.names)
    if ahead.reason or not ahead.recipients:
        return Outcome(row.n, _state(claim, ahead), ahead.reason)
    if message is None:
        return _convert(job, keys, row)
    if message.generation == MAX_GENERATION:
        return Outcome(row.n, State.REPORTED, Reason.GENERATION_END)
    context = _required(job, claim.required, row.id)
    # Where a key is removed, one that stays must open the message; that proves that it still answers.
    opening = ahead.recipients if job.mode is Mode.REMOVE else claim.recipients
    new = keys.rewrap(head, context, opening=opening, recipients=ahead.recipients)
    made = message.immutable.created if claim.recipients & keys.old_uris else 0
    return Outcome(row.n, State.PREPARED, old=head, new=new, made=made)


def _required(job: Job, names: Collection[str], entry_id: str) -> dict[str, str]:
    """The values that a message requires and does not hold."""
    if not names:
        return {}
    given = job.bindings.context_for(job.target.name, entry_id)
    return {name: given[name] for name in names if name in given}


def _whole_context(job: Job, message: Message, entry_id: str) -> dict[str, str]:
    """The pairs that a message holds, and those that it requires as far as they are known."""
    claims = message.immutable
    return dict(claims.context) | _required(job, claims.required, entry_id)


def _failed(n: int, error: Exception) -> Outcome:
    match error:
        case HookError():
            return Outcome(n, State.REPORTED, Reason.HOOK_FAILED)
        case _ if isinstance(error, NOT_NOW):
            wait = error.retry_after or 0.0
            return Outcome(n, State.TODO, error=type(error).__name__, provider=error.provider, wait=wait)
        case KMSError():
            for kind, reason in _REASONS:
                if isinstance(error, kind):
                    return Outcome(n, State.REPORTED, reason)
            return Outcome(n, State.FAILED, type(error).__name__, provider=error.provider)
        case OSError(errno=number) if number in NOTHING_CAN_BE_WRITTEN:
            return Outcome(n, State.TODO, error=f"OSError: {os.strerror(number or 0)}")
        case FileNotFoundError():
            return Outcome(n, State.GONE)
        case OSError():
            return Outcome(n, State.FAILED, type(error).__name__)
        case _:
            return Outcome(n, State.FAILED, type(error).__name__)


def exchange(job: Job, swaps: Sequence[tuple[int, Swap]]) -> list[Outcome]:
    """Put prepared headers in place: DONE, or TODO where the entry has changed meanwhile."""
    try:
        done = job.target.swap([swap for _, swap in swaps])
    except (OSError, KMSError) as error:
        nobody = isinstance(error, NOT_NOW) or getattr(error, "errno", None) in NOTHING_CAN_BE_WRITTEN
        if len(swaps) == 1 or nobody:
            failed = _failed(swaps[0][0], error)
            return [
                Outcome(n, failed.state, failed.why, error=failed.error, provider=failed.provider)
                for n, _ in swaps
            ]
        return [outcome for single in swaps for outcome in exchange(job, [single])]
    return [
        Outcome(n, State.DONE, new=swap.new) if happened else Outcome(n, State.TODO)
        for (n, swap), happened in zip(swaps, done, strict=True)
    ]


def prove(job: Job, rows: Sequence[Row]) -> list[Outcome]:
    """Open each header with the keys at hand: ALREADY where it opens."""
    keys = job.keys.open()
    outcomes: list[Outcome] = []
    for row, head in zip(rows, _heads(job, [row.id for row in rows]), strict=True):
        try:
            outcomes.append(_prove(job, keys, row, head))
        except Exception as error:
            outcomes.append(_failed(row.n, error))
            if outcomes[-1].error is not None:
                outcomes += [Outcome(left.n, State.TODO) for left in rows[len(outcomes) :]]
                break
    return outcomes


def _prove(job: Job, keys: HeldKeys, row: Row, head: bytes | OSError | None) -> Outcome:
    if head is None:
        return Outcome(row.n, State.GONE)
    if isinstance(head, OSError):
        return Outcome(row.n, State.REPORTED, Reason.UNREADABLE)
    claim, message = classify(head)
    if message is None:
        return Outcome(row.n, State.GONE)
    _open(job, keys, claim.recipients, head, message, row.id)
    return Outcome(row.n, State.ALREADY)


def _open(
    job: Job, keys: HeldKeys, through: frozenset[KeyURI], head: bytes, message: Message, entry_id: str
) -> None:
    """Check a header through one of some keys; no body is read."""
    keys.prove(head, _whole_context(job, message, entry_id), through)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a proof found of one entry.

    Attributes:
        opened: whether every new key that it names opens it, and to its end where that was asked for.
        reasons: what is wrong with it.
        old_keys: keys to leave that it still names.
        error, provider, wait: as in ``Outcome``; the entry was not looked at.
    """

    id: str
    size: int
    claim: Claim
    opened: bool = False
    reasons: tuple[Reason, ...] = ()
    old_keys: tuple[str, ...] = ()
    without_body: bool = False
    failure: str | None = None
    error: str | None = None
    provider: str | None = None
    wait: float = 0.0


def verify(job: Job, entries: Sequence[Entry], full: bool) -> list[Verdict | None]:
    """Whether entries open through the new keys alone, each of them by itself. None where one is gone."""
    keys = job.keys.open()
    verdicts: list[Verdict | None] = []
    obstacle = None
    for entry, head in zip(entries, _heads(job, [entry.id for entry in entries]), strict=True):
        if head is None:
            verdicts.append(None)
        elif isinstance(head, OSError):
            verdicts.append(
                Verdict(entry.id, entry.size, Claim(Kind.UNREADABLE), reasons=(Reason.UNREADABLE,))
            )
        elif obstacle is not None:
            verdicts.append(Verdict(entry.id, entry.size, Claim(Kind.OTHER), error=obstacle))
        else:
            verdict = _verify(job, keys, entry, head, full)
            for _ in range(_AGAIN):
                if verdict is None or verdict.opened or not verdict.claim.keys:
                    break
                # Was it written while it was looked at?
                again = _heads(job, [entry.id])[0]
                if again is None or isinstance(again, OSError) or again == head:
                    break
                head = again
                verdict = _verify(job, keys, entry, head, full)
            obstacle = verdict.error if verdict is not None else None
            verdicts.append(verdict)
    return verdicts


def _verify(job: Job, keys: HeldKeys, entry: Entry, head: bytes, full: bool) -> Verdict | None:
    claim, message = classify(head, job.readers)
    if message is None:
        wrong: dict[Kind, tuple[Reason, ...]] = {
            Kind.FOREIGN: (Reason.STILL_FOREIGN,),
            Kind.DAMAGED: (Reason.DAMAGED,),
            Kind.UNSUPPORTED: (Reason.UNSUPPORTED,),
        }
        return Verdict(entry.id, entry.size, claim, reasons=wrong.get(claim.kind, ()))
    present = claim.recipients
    old_keys = () if job.mode is Mode.ADD else tuple(sorted(map(str, present & keys.old_uris)))
    reasons: tuple[Reason, ...] = (Reason.OLD_KEY_NAMED,) if old_keys else ()
    joined = present & keys.new_uris
    if not present & (keys.new_uris | keys.old_uris):
        reasons += (Reason.OTHER_KEYS,)
    elif joined != keys.new_uris and (job.mode is not Mode.REMOVE or not joined):
        reasons += (Reason.NEW_KEY_MISSING,)
    without_body = entry.size == len(head)
    opened = False
    try:
        for uri in joined:
            if full and not without_body:
                _read_through(job, keys, uri, message, entry.id)
            else:
                _open(job, keys, frozenset((uri,)), head, message, entry.id)
            opened = True
    except FileNotFoundError:
        return None
    except Exception as error:
        failed = _failed(0, error)
        if failed.error is not None:
            return Verdict(
                entry.id, entry.size, claim, error=failed.error, provider=failed.provider, wait=failed.wait
            )
        opened = False
        if failed.state is State.REPORTED and failed.why is not None:
            reasons += (Reason(failed.why),)
        else:
            return Verdict(
                entry.id, entry.size, claim, False, reasons, old_keys, without_body, failure=failed.why
            )
    return Verdict(entry.id, entry.size, claim, opened, reasons, old_keys, without_body)


def _read_through(job: Job, keys: HeldKeys, uri: KeyURI, message: Message, entry_id: str) -> None:
    name = job.target.name
    context = _whole_context(job, message, entry_id)
    with (
        job.target.reading(entry_id) as source,
        keys.ring([uri]).decrypt_stream(
            source, context=context, aad=job.bindings.aad_for(name, entry_id)
        ) as reader,
    ):
        for _ in reader.pieces():
            pass


def restore(job: Job, rows: Sequence[Row]) -> list[Outcome]:
    """Put old headers back where the new ones still stand: BACK, or REPORTED where someone has written since."""
    outcomes: list[Outcome] = []
    swaps: list[tuple[Row, Swap]] = []
    for row, head in zip(rows, _heads(job, [row.id for row in rows]), strict=True):
        if head is None:
            outcomes.append(Outcome(row.n, State.GONE))
        elif isinstance(head, OSError):
            outcomes.append(Outcome(row.n, State.FAILED, type(head).__name__))
        elif not row.old:
            outcomes.append(_restore_original(job, row, head))
        elif head == row.old:
            outcomes.append(Outcome(row.n, State.BACK))
        elif digest_of(head) == row.new or head == row.new:
            swaps.append((row, Swap(row.id, head, row.old)))
        else:
            outcomes.append(Outcome(row.n, State.REPORTED, Reason.CHANGED_SINCE))
    for outcome in exchange(job, [(row.n, swap) for row, swap in swaps]) if swaps else ():
        if outcome.state is State.DONE:
            outcomes.append(Outcome(outcome.n, State.BACK))
        elif outcome.state is State.TODO and outcome.error is None:
            outcomes.append(Outcome(outcome.n, State.REPORTED, Reason.CHANGED_SINCE))
        else:
            outcomes.append(outcome)
    return outcomes


# Foreign entries


def _original(folder: Path, target: str, entry_id: str) -> Path:
    named = f"{target}\0{entry_id}".encode("utf-8", "surrogatepass")
    return folder / hashlib.sha256(named).hexdigest()


def _was_converted(folder: Path, target: str, entry_id: str, head: bytes) -> bool:
    """Whether an interrupted run wrote this very header over a foreign entry."""
    try:
        return _original(folder, target, entry_id).with_suffix(".head").read_bytes() == digest_of(head)
    except FileNotFoundError:
        return False


def _convert(job: Job, keys: HeldKeys, row: Row) -> Outcome:
    """Encrypt a foreign entry's plaintext for the new keys. What it was, and the header to come, are kept before."""
    if job.originals is None:
        raise InvalidArgumentError("foreign entries need a folder to keep them in")
    kept = _original(job.originals, job.target.name, row.id)
    context = job.bindings.context_for(job.target.name, row.id)
    aad = job.bindings.aad_for(job.target.name, row.id)
    head = b""

    def write(source: Source, sink: Sink) -> None:
        nonlocal head
        _keep(kept, source)
        with kept.open("rb", buffering=0) as original:
            start = original.read(4096)
            reader = reader_of(start, job.readers)
            if reader is None:
                raise ConflictError("the entry was changed meanwhile")
            if not (reader.sender_authenticated or job.bindings.vouched):
                # A public key must not be enough to make what the new keys vouch for.
                raise _UnprovenSenderError
            original.seek(0)
            noted = _Noted(sink, kept.with_suffix(".head"))
            with (
                reader.opening(original, context, aad) as plain,
                keys.ring(keys.new_uris).encrypt_stream(noted, context=context, aad=aad) as writer,
            ):
                copy_rest(plain, writer)
            head = noted.head

    try:
        job.target.replace(row.id, write)
    except ConflictError:
        return Outcome(row.n, State.TODO)
    except InvalidCiphertextError:
        return Outcome(row.n, State.REPORTED, Reason.READER_REFUSED)
    except _UnprovenSenderError:
        return Outcome(row.n, State.REPORTED, Reason.SENDER_UNPROVEN)
    return Outcome(row.n, State.DONE, new=head, converted=True)


class _UnprovenSenderError(Exception):
    """Anyone with a public key could have made the entry."""


class _Noted:
    """A sink that keeps the digest of the header, on disk, before anything of it is passed on."""

    def __init__(self, sink: Sink, path: Path) -> None:
        self._sink = sink
        self._path = path
        self.head = b""

    def write(self, data: bytes | memoryview, /) -> int | None:
        if not self.head:
            # A message writer's first piece is its whole header.
            self.head = bytes(data)
            _write_durably(self._path, [digest_of(self.head)])
        return self._sink.write(data)


def _keep(path: Path, source: Source) -> None:
    def pieces() -> Iterable[bytes]:
        while piece := source.read(1024 * 1024):
            yield piece

    _write_durably(path, pieces())


def _write_durably(path: Path, pieces: Iterable[bytes]) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _restore_original(job: Job, row: Row, head: bytes) -> Outcome:
    if job.originals is None:
        return Outcome(row.n, State.FAILED, "FileNotFoundError")
    kept = _original(job.originals, job.target.name, row.id)
    if digest_of(head) != row.new:
        with suppress(FileNotFoundError), kept.open("rb") as original:
            if original.read(len(head)) == head:
                return Outcome(row.n, State.BACK)
        return Outcome(row.n, State.REPORTED, Reason.CHANGED_SINCE)

    def write(source: Source, sink: Sink) -> None:
        start = b""
        while len(start) < len(head) and (piece := source.read(len(head) - len(start))):
            start += piece
        if start != head:
            raise ConflictError("the entry was written since")
        with kept.open("rb") as original:
            copy_rest(original, sink)

    try:
        job.target.replace(row.id, write)
    except ConflictError:
        return Outcome(row.n, State.REPORTED, Reason.CHANGED_SINCE)
    except Exception as error:
        return _failed(row.n, error)
    return Outcome(row.n, State.BACK)
