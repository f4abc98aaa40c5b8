"""May a key be destroyed? What censuses prove about it, and the evidence that is left of a destruction.

A census is the report of ``migrate plan --prove`` or ``migrate verify``. It counts in favour of a destruction only if
nothing in it could hide a message that needs the key: every doubt is a refusal, and has a name here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import version
from typing import Final, Literal

import msgspec

from anykms.algorithms import KeyPurpose
from anykms.client import KMSClient
from anykms.errors import InvalidArgumentError, KeyDestroyedError, KMSError, PolicyError
from anykms.keys import KeyInfo, KeyState, KeyStatus, KeyURI
from anykms.migration.attestation import EVIDENCE, REPORT, FileDigest, check_seal
from anykms.migration.census import Kind
from anykms.migration.checkpoint import Shard, Writes
from anykms.migration.reports import Report
from anykms.trust import CLOCK_SKEW, TrustRoot, read_key_info

FORMAT: Final = "anykms destruction evidence 1"
MAX_AGE: Final = timedelta(hours=24)
MAX_REPORT: Final = 64 * 1024 * 1024
"""Bytes of a report that is read: one with every list full takes less."""

LIMITS: Final = (
    "places that no census names: other targets, backups, snapshots, old versions of objects, messages in flight",
    "entries that came, went or were renamed while a walk was under way",
    "data keys of the destroyed key that a process still holds: it can read, and make, messages without the key",
    "what the key wrapped or encrypted other than messages",
    "whether the key was enabled for a while between two looks at its state: its provider's own log tells",
    "the old headers in a migration's checkpoint: after the destruction nothing can be rolled back",
)
"""What no census shows. Evidence says it, so that nobody reads more into it."""


class Doubt(StrEnum):
    """Why a census, or all of them together, do not allow a destruction."""

    PURPOSE = "purpose"
    """The key is not one that messages are made for."""
    ENABLED = "enabled"
    """The key is not disabled now."""
    NO_CENSUS = "no_census"
    """The report is of a command that takes no census, or nothing was opened."""
    INCOMPLETE = "incomplete"
    """The walk was stopped, or has no end."""
    SHARD_MISSING = "shard_missing"
    """Reports of shards do not make a whole."""
    NOT_ASKED = "not_asked"
    """The key is not one that the census was to leave."""
    STAYS = "stays"
    """The key is one that the migration goes to."""
    NAMED = "named"
    """Messages name the key."""
    NOT_OPENED = "not_opened"
    """Messages were not opened, so that what they claim is not proven."""
    NOT_LISTED = "not_listed"
    """Lists overflowed: keys are named that the report does not show."""
    WAITING = "waiting"
    """Entries were reported or failed."""
    FOREIGN = "foreign"
    """Entries are of a foreign format."""
    NOT_MESSAGES = "not_messages"
    """Entries are no messages, and nobody has said that they need no key."""
    BODIES = "bodies"
    """Bodies were to be read, and were not."""
    OLD = "old"
    """The census is older than allowed."""
    FUTURE = "future"
    """It was taken in the future: a clock is wrong."""
    NOT_DISABLED = "not_disabled"
    """The key was not seen disabled before and after the walk: something may have been written behind it."""
    WRITTEN_SINCE = "written_since"
    """A write is known that is not older than the census."""
    UNFINISHED = "unfinished"
    """The migration was interrupted, and has left exchanges whose end is not known."""
    NOT_COVERED = "not_covered"
    """A target that had to be covered is not."""
    INCONSISTENT = "inconsistent"
    """The report's own numbers contradict each other."""


@dataclass(frozen=True, slots=True)
class Objection:
    """One reason to refuse a destruction, in words for a person. ``text`` may quote what reports say: escape it."""

    doubt: Doubt
    text: str


@dataclass(frozen=True, slots=True)
class Census:
    """A report, read from a file.

    Attributes:
        file: what messages call it.
        sealed_by: ids of the keys whose seal was checked; empty: its word was taken.
    """

    report: Report
    digest: FileDigest
    file: str
    sealed_by: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, data: bytes, file: str, *, sealed: bytes | None = None, root: TrustRoot | None = None
    ) -> Census:
        """A census of a report's bytes.

        Args:
            data: what the file holds.
            file: its name, for messages.
            sealed: its seal; needed with ``root``.
            root: whose keys must have sealed it.

        Raises:
            InvalidArgumentError: no such report.
            SealError: it is not sealed as the root asks for.
            KMSError: a key of the root cannot be asked now.
        """
        sealed_by = check_seal(data, sealed or b"", REPORT, root) if root is not None else ()
        return cls(Report.from_json(data), FileDigest.of(data), file, sealed_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What is asked of censuses.

    Attributes:
        max_age: from the start of their walk until now.
        targets: names, as reports spell them, that must be covered.
        not_messages: exactly so many entries are no messages, and the caller knows that they do not need the key.
        full: every message was read to its last byte.
    """

    max_age: timedelta = MAX_AGE
    targets: tuple[str, ...] = ()
    not_messages: int = 0
    full: bool = False


# The judgement


def last_write(info: KeyInfo, status: KeyStatus, writes: Writes | None = None) -> datetime:
    """When the key was last in use, as far as anything at hand tells: a lower bound.

    Args:
        info: when the key was made.
        status: when its versions were made.
        writes: what the checkpoint of a migration away from it knows: its last exchange, the newest message of an old
            key that it opened, and the start of the last rollback.
    """
    known = [info.created_at, *(v.created_at for v in status.versions)]
    if writes is not None:
        known += [
            datetime.fromtimestamp(at, UTC) for at in (writes.exchanged, writes.made, writes.rolled_back)
        ]
    return max(known)


def examine(
    info: KeyInfo,
    state: KeyState,
    censuses: Sequence[Census],
    demands: Demands = Demands(),  # frozen
    *,
    written: datetime,
    unfinished: int = 0,
    now: datetime,
) -> list[Objection]:
    """All that stands against the destruction of a key; nothing: the censuses show that no message needs it.

    Args:
        info: the key.
        state: its state now.
        censuses: at least one. Together they must cover what is to be covered; each alone must be without doubt.
        demands: what is asked of them.
        written: ``last_write``.
        unfinished: exchanges of the checkpoint whose end is not known.
        now: with a time zone.

    Raises:
        InvalidArgumentError: no census.
    """
    if not censuses:
        raise InvalidArgumentError("a destruction is judged by at least one census")
    found: list[Objection] = []
    if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
        text = f"the key is for {info.purpose}; a census of messages says nothing about its use"
        found.append(Objection(Doubt.PURPOSE, text))
    if state is not KeyState.DISABLED:
        text = f"the key is {state}, not DISABLED: disable it, and take the census after that"
        found.append(Objection(Doubt.ENABLED, text))
    if unfinished:
        text = f"{unfinished} exchanges of the migration were interrupted: let 'migrate run' go to its end"
        found.append(Objection(Doubt.UNFINISHED, text))
    key = info.uri.without_version()
    for census in censuses:
        for doubt, text in _Judgement(census.report, key, demands, written, now).doubts():
            found.append(Objection(doubt, f"{census.file}: {text}"))
    found += _gaps(censuses, demands)
    return found


def shortfalls(report: Report) -> list[Objection]:
    """What one report lacks to show that nothing in its targets needed any key to leave, on the day of its walk.

    Its age, and what was written since, are not looked at.
    """
    if not report.old_keys:
        return [Objection(Doubt.NOT_ASKED, "no key to leave was named: give it with --from")]
    found: dict[Objection, None] = {}
    for text in report.old_keys:
        key = _parsed(text)
        if key is None:
            found[Objection(Doubt.INCONSISTENT, "a key to leave is none")] = None
            continue
        judgement = _Judgement(report, key, Demands(), datetime.min.replace(tzinfo=UTC), None)
        found |= {Objection(*doubt): None for doubt in judgement.doubts()}
    if report.shard != "1/1":
        found[Objection(Doubt.SHARD_MISSING, f"it is about the shard {report.shard} only")] = None
    if others := report.counts.nothing:
        text = f"{others} entries are no messages; what they are, and whether they need a key, is not known"
        found[Objection(Doubt.NOT_MESSAGES, text)] = None
    return list(found)


def refusal(info: KeyInfo, objections: Sequence[Objection]) -> PolicyError:
    """The error that says all of them, one a note."""
    error = PolicyError(
        "it is not shown that nothing needs the key, and nothing was changed",
        key=str(info.uri),
    )
    for objection in objections:
        error.add_note(f"- {objection.text}")
    return error


def _gaps(censuses: Sequence[Census], demands: Demands) -> Iterator[Objection]:
    """What the censuses lack together."""
    parts: dict[tuple[tuple[str, ...], int], set[int]] = {}
    for census in censuses:
        try:
            shard = Shard.parse(census.report.shard)
        except InvalidArgumentError:
            yield Objection(Doubt.INCONSISTENT, f"{census.file}: its shard is none")
            continue
        parts.setdefault((tuple(sorted(census.report.targets)), shard.count), set()).add(shard.number)
    for (targets, count), numbers in parts.items():
        if missing := sorted(set(range(1, count + 1)) - numbers):
            shown = ", ".join(f"{number}/{count}" for number in missing[:8])
            yield Objection(
                Doubt.SHARD_MISSING,
                f"of {', '.join(targets)} the shards {shown}{' ...' if missing[8:] else ''} are missing",
            )
    covered = {target for census in censuses for target in census.report.targets}
    for target in demands.targets:
        if target not in covered:
            yield Objection(
                Doubt.NOT_COVERED,
                f"no census covers {target}; covered: {', '.join(sorted(covered))}",
            )
    others = sum(census.report.counts.nothing for census in censuses)
    if others != demands.not_messages:
        yield Objection(
            Doubt.NOT_MESSAGES,
            f"{others} entries are no messages, {demands.not_messages} were said to be: find out what they are "
            "(migrate verify --format auto knows foreign ciphertext), then give their number with --not-messages",
        )


class _Judgement:
    """What speaks against one report."""

    def __init__(
        self, report: Report, key: KeyURI, demands: Demands, written: datetime, now: datetime | None
    ) -> None:
        self._report = report
        self._key = key
        self._demands = demands
        self._written = written
        self._now = now

    def doubts(self) -> Iterator[tuple[Doubt, str]]:
        report = self._report
        if report.command not in ("plan", "verify") or report.verified == "no":
            yield (
                Doubt.NO_CENSUS,
                f"'migrate {report.command}' opened nothing: take a census with 'migrate verify'",
            )
        elif (report.command == "plan") != (report.verified == "census"):
            yield Doubt.INCONSISTENT, f"'migrate {report.command}' does not verify {report.verified}"
        if self._demands.full and report.verified != "full":
            yield Doubt.BODIES, "bodies were not read: use 'migrate verify --full'"
        if report.stopped_by is not None or report.walk_ended is None or report.ending == "stopped":
            yield Doubt.INCOMPLETE, "it was stopped before its end: take it again"
        elif not report.complete and report.shard == "1/1":
            yield Doubt.INCOMPLETE, "it does not say that it saw every entry"
        yield from self._of_keys()
        yield from self._of_entries()
        yield from self._of_time()
        yield from _contradictions(report)

    def _of_keys(self) -> Iterator[tuple[Doubt, str]]:
        report, key = self._report, self._key
        if key not in _bare(report.old_keys):
            yield (
                Doubt.NOT_ASKED,
                f"it was not taken to leave {key}, but {', '.join(report.old_keys) or 'no key'}: "
                "take one with --from and this key",
            )
        if key in _bare(report.new_keys):
            yield Doubt.STAYS, "the key is one that its migration goes to"
        named = [use for use in report.keys if _is(use.key, key)]
        claimed = [c for c in report.claims if c.kind == Kind.MESSAGE and any(_is(k, key) for k in c.keys)]
        entries = max(sum(use.entries for use in named), sum(claim.entries for claim in claimed))
        if named or claimed:
            yield Doubt.NAMED, f"{entries} messages name {key}: migrate them"
        elif report.counts.with_old_key and len(report.old_keys) == 1:
            yield Doubt.NAMED, f"{report.counts.with_old_key} messages name {key}: migrate them"
        if any(report.left_out.get(name, 1) for name in ("keys", "claims")):
            yield (
                Doubt.NOT_LISTED,
                "it names more keys than its lists hold, and the key could be one of those left out: "
                "take a census of each target, or of parts of them",
            )

    def _of_entries(self) -> Iterator[tuple[Doubt, str]]:
        counts = self._report.counts
        for number, what in ((counts.reported, "were reported"), (counts.failed, "failed")):
            if number:
                reasons = ", ".join(f"{reason}: {entries}" for reason, entries in sorted(number.items()))
                yield Doubt.WAITING, f"entries {what} ({reasons}), and any could need the key"
        if self._report.waiting and not (counts.reported or counts.failed):
            yield Doubt.WAITING, "entries wait for a decision, and any could need the key"
        foreign = sum(claim.entries for claim in self._report.claims if claim.kind == Kind.FOREIGN)
        if foreign:
            yield Doubt.FOREIGN, f"{foreign} entries are foreign ciphertext: migrate them"
        unopened = [use for use in self._report.keys if use.opened != use.entries]
        if unopened:
            yield (
                Doubt.NOT_OPENED,
                f"not all messages of {len(unopened)} of the keys were opened, so that it is not proven which keys "
                "they are for",
            )

    def _of_time(self) -> Iterator[tuple[Doubt, str]]:
        report = self._report
        watched = next((watch for watch in report.watched if _is(watch.key, self._key)), None)
        if watched is None or {watched.before, watched.after} != {KeyState.DISABLED.value}:
            looked = (None, None) if watched is None else (watched.before, watched.after)
            states = ", then ".join(state or "not asked" for state in looked)
            yield (
                Doubt.NOT_DISABLED,
                f"the key was not DISABLED before and after its walk ({states}), so that something may have been "
                "written behind it: disable the key, then take it again",
            )
        started, ended = _time(report.walk_started), _time(report.walk_ended)
        if started is None:
            yield Doubt.INCOMPLETE, "it does not say when its walk began"
            return
        if ended is not None and ended < started:
            yield Doubt.INCONSISTENT, "its walk ended before it began"
        if self._now is None:
            return
        age = self._now - started
        if age > self._demands.max_age:
            yield (
                Doubt.OLD,
                f"its walk began {_hours(age)} hours ago; {_hours(self._demands.max_age)} are allowed",
            )
        if age < -CLOCK_SKEW:
            yield Doubt.FUTURE, "its walk began in the future: a clock is wrong"
        if self._written >= started:
            yield (
                Doubt.WRITTEN_SINCE,
                f"something was written at {_text(self._written)}, and its walk began at {report.walk_started}: "
                "take it again",
            )


def _contradictions(report: Report) -> Iterator[tuple[Doubt, str]]:
    """Where a report that nobody edited cannot contradict itself."""
    counts = report.counts
    use: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for claim in report.claims:
        for name in claim.keys:
            use[name] += claim.entries
            size[name] += claim.bytes
    messages = [claim for claim in report.claims if claim.kind == Kind.MESSAGE]
    wrong: list[str] = []
    if not report.left_out.get("claims", 1):
        if sum(claim.entries for claim in report.claims) != counts.walked:
            wrong.append("claims are not as many as entries")
        if sum(claim.entries for claim in messages) != counts.messages:
            wrong.append("claims of messages are not as many as messages")
        if not report.left_out.get("keys", 1) and {u.key: (u.entries, u.bytes) for u in report.keys} != {
            name: (use[name], size[name]) for name in use
        }:
            wrong.append("keys are not those of its claims")
    if any(not claim.keys or not all(map(_parsed, claim.keys)) for claim in messages):
        wrong.append("messages name no key, or something else")
    if any(found.opened > found.entries for found in report.keys):
        wrong.append("more was opened than there is")
    parts = counts.nothing + counts.todo + counts.done + counts.already + counts.back
    if parts + sum(counts.reported.values()) + sum(counts.failed.values()) != counts.walked:
        wrong.append("its parts do not make the whole")
    numbers = [*_numbers(counts), *use.values(), *(u.opened for u in report.keys)]
    if any(number < 0 for number in numbers):
        wrong.append("a count is negative")
    for text in wrong:
        yield Doubt.INCONSISTENT, f"its numbers contradict each other: {text}"


def _numbers(counts: msgspec.Struct) -> Iterator[int]:
    """Every number of the counts."""
    for value in msgspec.structs.asdict(counts).values():
        yield from value.values() if isinstance(value, dict) else (value,)


def _parsed(text: str) -> KeyURI | None:
    try:
        return KeyURI.parse(text).without_version()
    except KMSError:
        return None


def _is(text: str, key: KeyURI) -> bool:
    return _parsed(text) == key


def _bare(uris: Collection[str]) -> set[KeyURI | None]:
    return {_parsed(uri) for uri in uris}


def _time(text: str | None) -> datetime | None:
    try:
        found = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _hours(time: timedelta) -> str:
    return f"{time.total_seconds() / 3600:.4g}"


# The evidence


class CensusUsed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A report that a destruction relied on.

    Attributes:
        file: the last part of its path.
        sealed_by: ids of the keys whose seal was checked; empty: its word was taken.
        messages: how many it opened.
    """

    file: str
    sha256: str
    size: int
    sealed_by: list[str]
    command: str
    verified: str
    shard: str
    targets: list[str]
    messages: int
    walk_started: str
    walk_ended: str


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left of a destruction beside the provider's tombstone.

    Attributes:
        key: URI without version.
        info: the key's immutable facts.
        state_before: when it was judged.
        scheduled: when the provider was told; UTC.
        destroy_at: when the material goes; UTC.
        by: who says to have done it.
        censuses: empty: none was asked for, and nothing is known of what needs the key.
        targets: what had to be covered.
        not_messages: entries that the caller said to need no key.
        last_write: the last use of the key that was known.
        limits: what no census shows.
    """

    format: Literal["anykms destruction evidence 1"]
    anykms: str
    key: str
    info: dict[str, object]
    state_before: str
    scheduled: str
    destroy_at: str
    by: str
    censuses: list[CensusUsed]
    targets: list[str]
    not_messages: int
    max_age_seconds: int
    full: bool
    last_write: str
    limits: list[str]

    def to_json(self) -> bytes:
        """Indented JSON, ASCII only."""
        return (json.dumps(msgspec.to_builtins(self), indent=2) + "\n").encode()

    @classmethod
    def read(cls, data: bytes, *, sealed: bytes | None = None, root: TrustRoot | None = None) -> Evidence:
        """What ``to_json`` gave.

        Raises:
            InvalidArgumentError: no such evidence.
            SealError: it is not sealed as the root asks for.
            KMSError: a key of the root cannot be asked now.
        """
        if root is not None:
            check_seal(data, sealed or b"", EVIDENCE, root)
        try:
            found = msgspec.json.decode(data, type=cls)
            info = found.key_info
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, KMSError) as error:
            raise InvalidArgumentError(f"not the evidence of a destruction: {error}") from error
        if str(info.uri.without_version()) != found.key or _time(found.scheduled) is None:
            raise InvalidArgumentError("not the evidence of a destruction: its parts do not fit together")
        if _time(found.destroy_at) is None or _time(found.last_write) is None:
            raise InvalidArgumentError("not the evidence of a destruction: a date is none")
        if found.state_before not in set(KeyState) or found.max_age_seconds < 0:
            raise InvalidArgumentError("not the evidence of a destruction: it says what cannot be")
        return found

    @property
    def key_info(self) -> KeyInfo:
        """The key's facts, to ask its provider with. Raises ValueError or KMSError where they are none."""
        return read_key_info(self.info)


def evidence_of(
    info: KeyInfo,
    state: KeyState,
    destroy_at: datetime,
    censuses: Sequence[Census],
    demands: Demands,
    *,
    written: datetime,
    scheduled: datetime,
    by: str,
) -> Evidence:
    """The evidence of a destruction that was just scheduled."""
    facts: dict[str, object] = json.loads(info.to_json())
    return Evidence(
        format=FORMAT,
        anykms=version("anykms"),
        key=str(info.uri.without_version()),
        info=facts,
        state_before=str(state),
        scheduled=_text(scheduled),
        destroy_at=_text(destroy_at),
        by=by,
        censuses=[
            CensusUsed(
                file=census.file.replace("\\", "/").rpartition("/")[2],
                sha256=census.digest.sha256,
                size=census.digest.size,
                sealed_by=list(census.sealed_by),
                command=census.report.command,
                verified=census.report.verified,
                shard=census.report.shard,
                targets=list(census.report.targets),
                messages=census.report.counts.messages,
                walk_started=census.report.walk_started or "",
                walk_ended=census.report.walk_ended or "",
            )
            for census in censuses
        ],
        targets=list(demands.targets),
        not_messages=demands.not_messages,
        max_age_seconds=int(demands.max_age.total_seconds()),
        full=demands.full,
        last_write=written.astimezone(UTC).isoformat(timespec="microseconds"),
        limits=list(LIMITS),
    )


class Verdict(StrEnum):
    """What has become of a key whose destruction was scheduled."""

    SCHEDULED = "scheduled"
    """It waits for the date of the evidence."""
    DESTROYED = "destroyed"
    """The date has passed, and its provider no longer has it."""
    TAKEN_BACK = "taken back"
    """It can be used, or be made usable, again."""
    RESCHEDULED = "rescheduled"
    """It waits for another date: it was taken back meanwhile, and may have been used."""
    GONE_EARLY = "gone early"
    """Its provider no longer has it, before the date: someone purged it, or another account was asked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the provider says now of the key of some evidence.

    Attributes:
        state: as its provider tells it.
        destroy_at: while it is scheduled.
    """

    verdict: Verdict
    state: KeyState
    destroy_at: datetime | None


def follow_up(
    evidence: Evidence, client: KMSClient, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Finding:
    """Ask the provider what has become of the key.

    Raises:
        IntegrityError: the provider has another key there.
        KMSError: it cannot be asked.
    """
    info = evidence.key_info
    due = datetime.fromisoformat(evidence.destroy_at)
    try:
        status = client.describe_key(info)
    except KeyDestroyedError:
        early = clock() < due
        return Finding(Verdict.GONE_EARLY if early else Verdict.DESTROYED, KeyState.DESTROYED, None)
    if status.state is not KeyState.PENDING_DESTRUCTION:
        return Finding(Verdict.TAKEN_BACK, status.state, None)
    same = status.destroy_at is not None and _text(status.destroy_at) == evidence.destroy_at
    return Finding(Verdict.SCHEDULED if same else Verdict.RESCHEDULED, status.state, status.destroy_at)


def judge_again(evidence: Evidence, censuses: Sequence[Census]) -> list[Objection]:
    """What the reports say against the destruction, judged as on its day.

    Args:
        censuses: every report of the evidence, byte for byte.

    Raises:
        PolicyError: one is missing, is another, or is one too many.
    """
    wanted = Counter(census.sha256 for census in evidence.censuses)
    given = Counter(census.digest.sha256 for census in censuses)
    if wanted != given:
        names = [census.file for census in evidence.censuses if wanted[census.sha256] > given[census.sha256]]
        raise PolicyError(
            f"the reports are not those of the evidence; missing or altered: {', '.join(names) or 'none'}; "
            f"{(given - wanted).total()} others were given"
        )
    return examine(
        evidence.key_info,
        KeyState(evidence.state_before),
        censuses,
        Demands(
            max_age=timedelta(seconds=evidence.max_age_seconds),
            targets=tuple(evidence.targets),
            not_messages=evidence.not_messages,
            full=evidence.full,
        ),
        written=datetime.fromisoformat(evidence.last_write),
        now=datetime.fromisoformat(evidence.scheduled),
    )
