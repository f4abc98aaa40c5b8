"""Counts that become a report: which keys are in use, what a proof found, and what is to be done about it."""

from __future__ import annotations

from collections import Counter

from anykms.keys import KeyURI
from anykms.migration.census import ADVICE, Claim, Kind, Reason
from anykms.migration.reports import MAX_KEYS, SHOWN, ClaimUse, Command, Counts, Ending, KeyUse, Waiting
from anykms.migration.steps import Verdict


class Census:
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


class Proof:
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
            self.waiting.append(waiting_entry(target, verdict.id, verdict.failure is not None, wrong))

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

    def census(self, old: frozenset[KeyURI]) -> Census:
        """Keys and claims."""
        census = Census(old)
        for claim, (entries, size, opened) in self._claims.items():
            census.add(claim, entries, size, opened)
        census.left_out["claims"] += self._numbers["claims left out"]
        return census


def waiting_entry(target: str, entry_id: str, failed: bool, reason: str | None) -> Waiting:
    why = reason or "unknown"
    advice = ADVICE[Reason(why)] if why in set(Reason) else "an error of the provider or the place: run again"
    return Waiting(target, entry_id, "failed" if failed else "reported", why, advice)


def ending_of(stopped: str | None, counts: Counts, *, unfinished: bool) -> Ending:
    if stopped is not None:
        return "stopped"
    if counts.failed:
        return "failed"
    if counts.reported or (unfinished and counts.todo):
        return "left"
    return "done"


def advice_on(command: Command, counts: Counts, stopped: str | None) -> list[str]:
    told = [f"{number} entries: {ADVICE[Reason(reason)]}" for reason, number in counts.reported.items()]
    if counts.failed:
        told.append(f"{sum(counts.failed.values())} entries failed: run the same command again")
    if stopped is not None:
        told.append("run the same command again: it goes on where it stopped")
    elif not told and command == "run":
        told.append("prove it with 'anykms migrate verify'")
    return told
