"""A pytest plugin that turns any run of the clauses into a report: ``pytest -p anykms_contract.recording``.

It records every binding that the run collects, on as many workers as pytest-xdist starts, and writes
``NAME.json``, ``NAME.md`` and ``NAME.html`` at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pytest

from anykms.errors import KMSError
from anykms_contract.clauses import Contract
from anykms_contract.harness import Harness
from anykms_contract.results import Column, Failure, Outcome, Report, Status, build

_PROPERTY: Final = "anykms-contract"
_LONGEST: Final = 2000
_NO_CLOCK: Final = (
    "needs a clock: this store's time cannot be moved, so the state was only reported at the seam"
)


class Recorder:
    """Collects outcomes, and hands each to ``sink`` as it comes; a worker only forwards them with its reports.

    Attributes:
        outcomes: so far, in order.
    """

    def __init__(self, sink: Callable[[Outcome], None] | None = None, *, forwards: bool = False) -> None:
        self._sink = sink
        self._forwards = forwards
        self._columns: dict[str, Column] = {}
        self.outcomes: list[Outcome] = []

    @property
    def report(self) -> Report:
        """What is known so far."""
        return build(self.outcomes, [self._columns[label] for label in sorted(self._columns)])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        before = [(harness.refusals, harness.missed_clock, harness.calls) for harness in harnesses_of(item)]
        try:
            return (yield)
        finally:
            after = [
                (harness.refusals, harness.missed_clock, harness.calls) for harness in harnesses_of(item)
            ]
            pairs = list(zip(before, after, strict=True))
            refused = any(new[0] > old[0] for old, new in pairs)
            asked = any(new[2] > old[2] for old, new in pairs)
            item.stash[_REFUSED] = refused and not asked
            item.stash[_MISSED_CLOCK] = any(new[1] > old[1] for old, new in pairs)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if _contract(item) is not None and (report.when == "call" or not report.passed):
            outcome = _outcome(item, report, call)
            described = _described(item)
            report.user_properties.append((_PROPERTY, msgspec.to_builtins([outcome, described])))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._forwards:
            return
        for name, value in report.user_properties:
            if name == _PROPERTY:
                outcome, column = msgspec.convert(value, tuple[Outcome, Column])
                self._columns.setdefault(column.label, column)
                self.outcomes.append(outcome)
                if self._sink is not None:
                    self._sink(outcome)
        report.user_properties[:] = [p for p in report.user_properties if p[0] != _PROPERTY]


_REFUSED: Final = pytest.StashKey[bool]()
_MISSED_CLOCK: Final = pytest.StashKey[bool]()
CALLS: Final = pytest.StashKey[Mapping[str, int]]()
"""Provider calls of the item, by operation, where somebody counts them."""
_RECORDER: Final = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("anykms").addoption(
        "--contract-report",
        metavar="PATH",
        help="Write the clauses' outcomes to PATH.json, PATH.md and PATH.html.",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--contract-report"):
        recorder = Recorder(forwards=hasattr(config, "workerinput"))
        config.stash[_RECORDER] = recorder
        config.pluginmanager.register(recorder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    recorder = session.config.stash.get(_RECORDER, None)
    if recorder is not None and recorder.outcomes and not hasattr(session.config, "workerinput"):
        from anykms_contract.pages import write_report

        write_report(recorder.report, Path(str(session.config.getoption("--contract-report"))))


def _contract(item: pytest.Item) -> type[Contract] | None:
    cls = getattr(item, "cls", None)
    if not (isinstance(cls, type) and issubclass(cls, Contract)):
        return None
    return next((base for base in cls.__mro__ if base in Contract.__subclasses__()), None)


def harnesses_of(item: pytest.Item) -> Iterator[Harness]:
    """The harnesses that the item uses."""
    found: dict[str, Any] = getattr(item, "funcargs", {})
    if isinstance(found.get("harness"), Harness):
        yield found["harness"]
    for harness in found.get("harnesses", ()):
        if isinstance(harness, Harness):
            yield harness


def _described(item: pytest.Item) -> Column:
    module: Any = cast("pytest.Function", item).module
    base = getattr(module, "provider_label", None) or re.sub(
        r"^(test|contract)_", "", module.__name__.rpartition(".")[2]
    )
    line = (module.__doc__ or "").partition("\n")[0]
    variant = _variant(item)
    return Column(f"{base} ({variant})" if variant else str(base), line)


def _variant(item: pytest.Item) -> str:
    """Where a binding runs the clauses on several stores, the store's id."""
    callspec = getattr(item, "callspec", None)
    variant = callspec.params.get("harness") if callspec is not None else None
    return variant if isinstance(variant, str) else ""


def identify(item: pytest.Item) -> tuple[str, str, str]:
    """Clause, case and column of a bound clause."""
    contract = _contract(item)
    assert contract is not None
    function = cast("pytest.Function", item)
    case = item.name.removeprefix(function.originalname).removeprefix("[").removesuffix("]")
    variant = _variant(item)
    if variant:
        case = "" if case == variant else case.removeprefix(f"{variant}-").removesuffix(f"-{variant}")
    if "harnesses" in function.fixturenames:
        name = cast("type", function.cls).__name__.removeprefix("Test")
        partner = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
        case = f"{case}, {partner}" if case else partner
    return f"{contract.__name__}.{function.originalname}", case, _described(item).label


def _outcome(item: pytest.Item, report: pytest.TestReport, call: pytest.CallInfo[None]) -> Outcome:
    clause, case, label = identify(item)
    status, reason, failure = _judged(item, report, call)
    return Outcome(label, clause, status, case, reason, failure, item.stash.get(CALLS, dict[str, int]()))


def _judged(
    item: pytest.Item, report: pytest.TestReport, call: pytest.CallInfo[None]
) -> tuple[Status, str, Failure | None]:
    xfail = getattr(report, "wasxfail", None)
    if report.skipped and xfail is not None:
        return Status.DEVIATION, str(xfail).removeprefix("reason: "), None
    if report.skipped:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return Status.NOT_RUN, text.removeprefix("Skipped: "), None
    if report.failed:
        return Status.FAILED, "", _failure(report, call)
    if item.stash.get(_MISSED_CLOCK, False):
        return Status.NOT_RUN, _NO_CLOCK, None
    if item.stash.get(_REFUSED, False):
        return Status.UNSUPPORTED, "", None
    return Status.PASSED, "", None


def _failure(report: pytest.TestReport, call: pytest.CallInfo[None]) -> Failure:
    if call.excinfo is None:  # a deviation that passed
        return Failure("StaleDeviation", str(report.longrepr)[:_LONGEST])
    error = call.excinfo.value
    chain = list(_chain(error))
    ours = next((found for found in chain if isinstance(found, KMSError)), None)
    ids = dict.fromkeys(
        found.request_id for found in chain if isinstance(found, KMSError) and found.request_id
    )
    return Failure(
        error=type(error).__name__,
        text=(f"{report.when}: " if report.when != "call" else "")
        + (str(error) or _observed(call.excinfo))[:_LONGEST],
        provider=None if ours is None else ours.provider,
        operation=None if ours is None else ours.operation,
        key=None if ours is None else ours.key,
        request_ids=tuple(ids),
    )


def _observed(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """The assertion that failed, and what its names stood for, where pytest could not rewrite it."""
    entry = caught.traceback[-1]
    statement = str(entry.statement).strip()
    names = dict.fromkeys(re.findall(r"\b[a-z_]\w*\b(?!\()", statement))
    values = {
        name: entry.frame.f_locals[name] for name in names if name in entry.frame.f_locals and name != "self"
    }
    shown = (
        f"{name} = {f'{len(value)} bytes' if isinstance(value, bytes) else repr(value)[:300]}"
        for name, value in values.items()
    )
    return "; where ".join([statement, *([", ".join(shown)] if values else [])])


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
