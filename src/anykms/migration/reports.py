"""What a migration has to say at its end: counts, census, calls, and what waits for a person. JSON for programs."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from anykms.errors import InvalidArgumentError

FORMAT: Final = "anykms migration report 1"
SHOWN: Final = 1000
"""Entries that a report names one by one."""
MAX_KEYS: Final = 10_000
"""Keys and claims that a report names one by one."""

Command = Literal["plan", "run", "verify", "rollback"]
Ending = Literal["done", "left", "failed", "stopped"]


class KeyUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much refers to one key, or to one version of it where messages tell.

    ``opened`` counts the messages whose header was opened with the keys at hand, so that the claim is proven.
    """

    key: str
    entries: int
    bytes: int
    opened: int


class ClaimUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many entries make one and the same claim: kind, format, keys, and names of required context."""

    kind: str
    format: str
    keys: list[str]
    required: list[str]
    entries: int
    bytes: int


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Entries by what became of them. Of a plan: by what a run would do.

    Attributes:
        walked: entries that the last whole walk saw; all others here but ``gone`` are parts of it.
        messages: of ``walked``, those that are messages.
        nothing: neither messages nor of a foreign format that was asked for.
        todo: still to be done.
        done: changed by this migration, in this run or an earlier one.
        already: as they should be without it; of a proof: opened.
        back: with their old header again.
        reported: left alone, by reason; each needs a person's decision.
        failed: by class of error; a further run tries again.
        gone: vanished between the walk and the work.
        changed: how often another writer was first, so that an entry was read again.
        without_body: headers alone: records, or messages cut off at their header.
        with_old_key: messages that name a key to leave.
    """

    walked: int = 0
    messages: int = 0
    nothing: int = 0
    todo: int = 0
    done: int = 0
    already: int = 0
    back: int = 0
    reported: dict[str, int] = {}
    failed: dict[str, int] = {}
    gone: int = 0
    changed: int = 0
    without_body: int = 0
    with_old_key: int = 0


class CallUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls of one kind, and how many a second were reckoned with (null: no limit known)."""

    provider: str
    kind: str
    key: str
    calls: int
    per_second: float | None


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the calls take at least.

    Attributes:
        hours: by provider, were it asked without pause at its quota or the rate that was given.
        hours_at_least: the longest of them.
        usd: the price of all calls; null where one is not known.
        sources: where the figures come from, and when they were read there or "unverified".
    """

    hours: dict[str, float]
    hours_at_least: float
    usd: float | None
    sources: list[str]


class KeyWatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a key to leave, as its provider told it before the walk and after it; null: it was not asked.

    A key that was DISABLED before a walk has made nothing that the walk could have missed.
    """

    key: str
    before: str | None
    after: str | None


class Waiting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry that was reported or failed, and what to do."""

    target: str
    id: str
    state: str
    reason: str
    advice: str


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The report of one command.

    Attributes:
        targets: canonical names of all places.
        old_keys, new_keys: key URIs without versions.
        started, ended: of the command; UTC, ISO 8601, to the millisecond.
        walk_started, walk_ended: of the walk that the census and the counts are about.
        shard: ``I/N``; the report is about this part only.
        complete: whether one whole walk saw every entry of every target: not stopped, no shard missing.
        verified: how far messages were opened: ``no``; ``census``: with all keys at hand; ``headers``: with the
            new keys alone; ``full``: and to their last byte.
        keys, claims: the census.
        watched: the keys to leave, while the census was taken.
        left_out: keys, claims and waiting entries that the lists have no room for.
        stopped_by: why it ended before its end.
    """

    format: Literal["anykms migration report 1"]
    anykms: str
    command: Command
    ending: Ending
    mode: str
    targets: list[str]
    old_keys: list[str]
    new_keys: list[str]
    started: str
    ended: str
    walk_started: str | None
    walk_ended: str | None
    shard: str
    complete: bool
    verified: Literal["no", "census", "headers", "full"]
    counts: Counts
    keys: list[KeyUse]
    claims: list[ClaimUse]
    watched: list[KeyWatch]
    calls: list[CallUse]
    estimate: Estimate | None
    waiting: list[Waiting]
    left_out: dict[str, int]
    stopped_by: str | None
    advice: list[str]

    def to_json(self) -> bytes:
        """Indented JSON, ASCII only."""
        return (json.dumps(msgspec.to_builtins(self), indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Report:
        """What ``to_json`` gave.

        Raises:
            InvalidArgumentError: it is no such report.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidArgumentError(f"not a report of a migration: {error}") from error


def schema() -> dict[str, object]:
    """The JSON schema of a report."""
    return msgspec.json.schema(Report)


def write_file(data: bytes, path: str | os.PathLike[str]) -> None:
    """A report, its seal or its page as a file: all of it or the old one.

    Raises:
        OSError: it cannot be written.
    """
    target = os.path.realpath(path)
    handle, temporary = tempfile.mkstemp(prefix=".anykms-", suffix=".tmp", dir=os.path.dirname(target))
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def moment(seconds: float) -> str:
    """A time as ISO 8601, UTC, down to the millisecond: writes are told from the walk that follows them.

    >>> moment(0)
    '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(int(seconds * 1000) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
