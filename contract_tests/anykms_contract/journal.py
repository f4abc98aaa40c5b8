"""What a run did, in a file of JSON lines: so that it can be resumed, and what it made can be found and destroyed."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from anykms.errors import InvalidArgumentError
from anykms_contract.results import Outcome, Status

FORMAT: Final = "anykms-contract-run/1"
_RUN: Final = re.compile(r"r[0-9a-f]{8}")


@dataclass
class Journal:
    """The journal of one run, appended to and synchronised line by line.

    Attributes:
        run: its name, with which the names of its keys begin.
        settings: how it was started; a resumed run goes on with the same.
        begun: how often it was started: keys are named anew each time.
        outcomes: results so far.
        asked: names of keys that were asked for, by store.
        settled: names among them that are scheduled for destruction, or were never made.
        calls: provider calls so far.
    """

    path: Path
    run: str
    settings: dict[str, Any]
    begun: int = 0
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    asked: dict[str, dict[str, None]] = field(default_factory=dict[str, dict[str, None]])
    settled: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    calls: Counter[str] = field(default_factory=Counter[str])

    @classmethod
    def new(cls, folder: Path, settings: dict[str, Any]) -> Self:
        """A run that is to begin. Nothing is written yet."""
        run = f"r{secrets.token_hex(4)}"
        return cls(folder / f"anykms-contract-{run}.jsonl", run, settings)

    @classmethod
    def read(cls, folder: Path, run: str) -> Self:
        """A run to go on with.

        Raises:
            InvalidArgumentError: there is no such run here, or its file is none of ours.
        """
        if not _RUN.fullmatch(run):
            raise InvalidArgumentError(
                f"{run!r} is no run; its name is the r and 8 hex digits that it began with"
            )
        path = folder / f"anykms-contract-{run}.jsonl"
        if not path.is_file():
            raise InvalidArgumentError(f"no run {run} here: there is no file {path}")
        lines = path.read_text(encoding="utf-8").split("\n")
        journal: Self | None = None
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if journal is None:
                    if entry["format"] != FORMAT or entry["run"] != run:
                        raise InvalidArgumentError(f"{path} is no journal of run {run}")
                    journal = cls(path, run, entry["settings"])
                else:
                    journal._apply(entry)
            except (ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
                if number == len(lines):  # nothing, or a line that an interrupt cut
                    break
                raise InvalidArgumentError(f"{path}, line {number}, is no line of a journal") from error
        if journal is None:
            raise InvalidArgumentError(f"{path} is empty")
        return journal

    def begin(self) -> None:
        """Note that the run begins, or goes on."""
        if not self.path.exists():
            with self.path.open("x", encoding="utf-8") as file:
                file.write(json.dumps({"format": FORMAT, "run": self.run, "settings": self.settings}) + "\n")
        else:
            with self.path.open("r+b") as file:  # drop a line that an interrupt cut
                file.truncate(file.read().rfind(b"\n") + 1)
        self._append({"begun": self.begun + 1})

    def prefix(self, number: int) -> str:
        """What the names of the keys of that harness begin with, this time."""
        return f"{self.run}-{self.begun}-{number}"

    def owns(self, name: str) -> bool:
        """Whether the name is one of this run's."""
        return name.startswith(f"{self.run}-")

    def ask(self, store: str, name: str) -> None:
        """A key of that name is about to be made: noted before, so that a lost reply loses no key."""
        if name not in self.asked.get(store, {}):
            self._append({"asked": name, "store": store})

    def settle(self, store: str, name: str) -> None:
        """The key of that name is scheduled for destruction, or was never made."""
        self._append({"settled": name, "store": store})

    def record(self, outcome: Outcome) -> None:
        """A result."""
        self._append({"outcome": msgspec.to_builtins(outcome)})

    def left(self, store: str) -> list[str]:
        """Names that may belong to keys which nobody has scheduled for destruction yet."""
        return [name for name in self.asked.get(store, {}) if name not in self.settled.get(store, set())]

    def finished(self, store: str) -> set[tuple[str, str]]:
        """Clause and case of what need not be run again."""
        latest = {(o.clause, o.case): o for o in self.outcomes if o.provider == store}
        again = (Status.FAILED, Status.NOT_RUN)
        return {key for key, outcome in latest.items() if outcome.status not in again}

    def _append(self, entry: dict[str, Any]) -> None:
        self._apply(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, separators=(",", ":")) + "\n")
            file.flush()
            if "asked" in entry:
                os.fsync(file.fileno())

    def _apply(self, entry: dict[str, Any]) -> None:
        match entry:
            case {"begun": int(times)}:
                self.begun = times
            case {"asked": str(name), "store": str(store)}:
                self.asked.setdefault(store, {})[name] = None
                self.settled.get(store, set()).discard(name)
            case {"settled": str(name), "store": str(store)}:
                self.settled.setdefault(store, set()).add(name)
            case {"outcome": found}:
                outcome = msgspec.convert(found, Outcome)
                self.outcomes.append(outcome)
                self.calls.update(outcome.calls)
            case _:
                raise ValueError("no line of a journal")
