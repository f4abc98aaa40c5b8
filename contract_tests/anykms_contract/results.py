"""The report as data: what each provider did with each clause. Its JSON is the published format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Final

import msgspec

from anykms_contract import load_clauses
from anykms_contract.clauses import Contract

FORMAT: Final = "anykms-contract-report/1"


class Status(StrEnum):
    """What became of a case of a clause."""

    PASSED = "passed"
    UNSUPPORTED = "unsupported"
    NOT_RUN = "not_run"
    DEVIATION = "deviation"
    FAILED = "failed"


MEANINGS: Final[Mapping[Status, str]] = {
    Status.PASSED: "the provider keeps it",
    Status.UNSUPPORTED: "the provider lacks the kind of key: it was tested that it says so and asks nobody",
    Status.NOT_RUN: "not judged, for the reason given",
    Status.DEVIATION: "the provider does not keep it, which is known and has a reason",
    Status.FAILED: "the provider breaks it",
}


_TELLING: Final = (Status.FAILED, Status.DEVIATION, Status.PASSED, Status.NOT_RUN, Status.UNSUPPORTED)


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was observed where a clause was broken.

    Attributes:
        error: class of the exception, ``AssertionError`` where the outcome was another than the clause's.
        text: what it says, cut after 2000 characters.
        request_ids: the provider's ids of the failed requests, as far as it gave them.
    """

    error: str
    text: str
    provider: str | None = None
    operation: str | None = None
    key: str | None = None
    request_ids: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """One case of one clause on one provider.

    Attributes:
        provider: label of the provider's column.
        clause: ``SigningContract.test_a_signature_verifies_everywhere``.
        case: which case of the clause, empty where there is one only; with the partner of a pair.
        reason: why it was not run, or why the provider deviates.
        calls: how often the provider was called, by operation, where that was counted.
    """

    provider: str
    clause: str
    status: Status
    case: str = ""
    reason: str = ""
    failure: Failure | None = None
    calls: Mapping[str, int] = msgspec.field(default_factory=dict[str, int])


class Clause(msgspec.Struct, frozen=True):
    """A clause: its id, the sentences of docs/contract.md that it proves, and what it says."""

    id: str
    group: str
    sentences: tuple[str, ...]
    text: str


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """A provider as it was tested."""

    label: str
    description: str = ""


class Explained(msgspec.Struct, frozen=True, omit_defaults=True):
    """Cases that did not pass for one reason."""

    status: Status
    cases: tuple[str, ...]
    reason: str = ""
    failure: Failure | None = None


class Cell(msgspec.Struct, frozen=True, omit_defaults=True):
    """A clause on a provider. ``status`` is failed or deviation if any case is, else passed if any case is."""

    clause: str
    provider: str
    status: Status
    passed: tuple[str, ...] = ()
    others: tuple[Explained, ...] = ()

    @property
    def cases(self) -> int:
        """How many there are."""
        return len(self.passed) + sum(len(other.cases) for other in self.others)


class Report(msgspec.Struct, frozen=True):
    """The whole matrix.

    Attributes:
        counts: by provider and status, in cases.
    """

    format: str
    anykms: str
    made_on: str
    clauses: tuple[Clause, ...]
    providers: tuple[Column, ...]
    counts: Mapping[str, Mapping[str, int]]
    cells: tuple[Cell, ...]

    def cell(self, clause: str, provider: str) -> Cell | None:
        """The cell, None where the clause was not collected for the provider."""
        return next((c for c in self.cells if (c.clause, c.provider) == (clause, provider)), None)

    def total(self, status: Status) -> int:
        """Cases of that status on all providers."""
        return sum(counts.get(status, 0) for counts in self.counts.values())

    @property
    def unexplained(self) -> int:
        """Cases that did not pass and give no reason."""
        return sum(
            len(other.cases)
            for cell in self.cells
            for other in cell.others
            if other.status in (Status.DEVIATION, Status.NOT_RUN) and not other.reason
        )


_ORDER: Final = (
    "Lifecycle",
    "State",
    "Key info",
    "Capability",
    "Wrapping",
    "Envelope",
    "Signing",
    "MAC",
    "Asymmetric decryption",
    "Errors",
    "Cross provider",
)
"""Groups as docs/contract.md goes."""


def suite() -> list[type[Contract]]:
    """The contracts of the suite, in the order of docs/contract.md."""
    load_clauses()
    known = [c for c in Contract.__subclasses__() if c.__module__.startswith("anykms_contract.")]
    return sorted(known, key=lambda contract: _ORDER.index(title(contract)))


def known_clauses() -> list[Clause]:
    """Every clause of the suite."""
    found: list[Clause] = []
    for contract in suite():
        for name, doc in contract.clauses().items():
            numbers, _, text = " ".join(doc.split()).partition(": ")
            found.append(
                Clause(f"{contract.__name__}.{name}", title(contract), tuple(numbers.split(", ")), text)
            )
    return found


def title(contract: type[Contract]) -> str:
    """The group of a contract's clauses, in words.

    >>> from anykms_contract import AsymmetricDecryptionContract
    >>> title(AsymmetricDecryptionContract)
    'Asymmetric decryption'
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", contract.__name__.removesuffix("Contract"))
    return " ".join([words[0], *(word if word.isupper() else word.lower() for word in words[1:])])


def build(outcomes: Iterable[Outcome], providers: Sequence[Column]) -> Report:
    """The report of a run. Of several outcomes of one case the last counts."""
    latest = {(o.provider, o.clause, o.case): o for o in outcomes}
    clauses = known_clauses()
    cells: list[Cell] = []
    by_cell: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in latest.values():
        by_cell.setdefault((outcome.clause, outcome.provider), []).append(outcome)
    for clause in clauses:
        for column in providers:
            found = by_cell.get((clause.id, column.label))
            if not found:
                continue
            others: dict[tuple[Status, str, Failure | None], list[str]] = {}
            for outcome in found:
                if outcome.status is not Status.PASSED:
                    others.setdefault((outcome.status, outcome.reason, outcome.failure), []).append(
                        outcome.case
                    )
            cells.append(
                Cell(
                    clause.id,
                    column.label,
                    next(status for status in _TELLING if any(o.status is status for o in found)),
                    tuple(o.case for o in found if o.status is Status.PASSED),
                    tuple(Explained(s, tuple(cases), reason, f) for (s, reason, f), cases in others.items()),
                )
            )
    counts: dict[str, dict[str, int]] = {}
    for column in providers:
        mine = [o.status for o in latest.values() if o.provider == column.label]
        counts[column.label] = {str(status): mine.count(status) for status in Status}
    today = datetime.now(UTC).date().isoformat()
    return Report(FORMAT, version("anykms"), today, tuple(clauses), tuple(providers), counts, tuple(cells))


def to_json(report: Report) -> bytes:
    """The published JSON, one cell a line so that versions can be compared."""
    fields: dict[str, Any] = msgspec.to_builtins(report)
    rows = ",\n".join(f"  {msgspec.json.encode(cell).decode()}" for cell in fields.pop("cells"))
    head = msgspec.json.format(msgspec.json.encode(fields), indent=1).decode().removesuffix("\n}")
    return f'{head},\n "cells": [\n{rows}\n ]\n}}\n'.encode()


def from_json(data: bytes) -> Report:
    """A report read back. Raises ``msgspec.ValidationError`` for anything else."""
    return msgspec.json.decode(data, type=Report)


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the report."""
    found = msgspec.json.schema(Report)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": FORMAT, **found}
