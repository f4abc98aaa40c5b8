"""A run of the clauses against stores, by pytest: what it will do and cost, and then doing it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from anykms.client import KMSClient
from anykms.errors import InvalidArgumentError
from anykms.provider import Capability, Operation
from anykms.registry import open_provider
from anykms_contract.clauses import Contract
from anykms_contract.crossing import CrossProviderContract
from anykms_contract.harness import DECRYPTION_KINDS, MAC_KINDS, SIGNING_KINDS, WRAPPING_KINDS, Harness
from anykms_contract.journal import Journal
from anykms_contract.recording import CALLS, Recorder, harnesses_of, identify
from anykms_contract.results import Column, Outcome, Report, build, suite
from anykms_contract.stores import CHANGES, Store, Watch, destroy_all, harness

_KINDS: Final = {str(kind): kind for kind in (*WRAPPING_KINDS, *SIGNING_KINDS, *MAC_KINDS, *DECRYPTION_KINDS)}
_PAIRED: Final = CrossProviderContract.__name__
_UNMEASURED: Final[Mapping[str, int]] = {"generate_key": 2, "describe_key": 25, "sign+": 25}
"""What is assumed of a case that calls.json does not have yet: more than most need."""
_BINDING: Final = """
from anykms_contract.running import bindings

globals().update(bindings(__name__, {number}))
"""


def measurements(journal: Journal) -> dict[str, dict[str, int]]:
    """What ``measured`` gives, from a run on one local keystore."""
    found: dict[str, dict[str, int]] = {}
    for outcome in journal.outcomes:
        case = outcome.case
        if outcome.clause.startswith(f"{_PAIRED}."):
            case = case.rpartition(", ")[0]
        name = f"{outcome.clause}[{case}]" if case else outcome.clause
        found[name] = dict(sorted(outcome.calls.items()))
    return dict(sorted(found.items()))


class Price(msgspec.Struct, frozen=True):
    """What a cloud asks, from its public price list."""

    source: str
    seen: str
    requests_per_call: int
    plain_per_10000: float
    advanced_per_10000: float
    administration_per_10000: float
    key: float
    key_note: str


class Prices(msgspec.Struct, frozen=True):
    """The price table."""

    currency: str
    note: str
    providers: Mapping[str, Price]


@dataclass(frozen=True)
class Estimate:
    """What a run on one store does at most.

    Attributes:
        store: its label.
        description: what it is.
        clauses: to run.
        cases: of them.
        calls: of the provider, at most.
        keys: made, at most.
        cost: in the price table's currency; None for a provider that is not in it.
        price: the row of the price table.
    """

    store: str
    description: str
    clauses: int
    cases: int
    calls: int
    keys: int
    cost: float | None
    price: Price | None


def prices() -> Prices:
    """The price table that ships with the suite."""
    return msgspec.json.decode(_data("prices.json"), type=Prices)


def measured() -> dict[str, dict[str, int]]:
    """Calls by operation of each case, ``Contract.clause[case]``, as counted on the local keystore."""
    return msgspec.json.decode(_data("calls.json"), type=dict[str, dict[str, int]])


def _cases() -> Iterator[str]:
    """Every case of every clause; the clause itself where it has one case only."""
    for contract in suite():
        names = contract.cases()
        several = {name.partition("[")[0] for name in names if "[" in name}
        yield from (f"{contract.__name__}.{name}" for name in names if name not in several)


def _data(name: str) -> bytes:
    return files("anykms_contract").joinpath(name).read_bytes()


def estimate(
    store: Store, done: set[tuple[str, str]], *, others: int, read_only: bool, only: str = ""
) -> Estimate:
    """What a run on the store will do at most: measured calls, less what its capabilities rule out.

    Args:
        done: clause and case of what was run before.
        others: how many stores this one is paired with.
        read_only: whether clauses that change something are left out.
        only: the words of a ``-k`` expression; a plain word narrows the estimate, other expressions do not.
    """
    with KMSClient(store.connect()) as client:
        scheme, capabilities = client.provider, client.capabilities
    calls: Counter[str] = Counter()
    clauses: set[str] = set()
    cases = 0
    counted = measured()
    for case in _cases():
        spent = counted.get(case, _UNMEASURED)
        clause, _, name = case.rstrip("]").partition("[")
        times = max(1, others) if clause.startswith(f"{_PAIRED}.") else 1
        if (clause, name) in done or (only.isidentifier() and only.lower() not in case.lower()):
            continue
        clauses.add(clause)
        cases += times
        kind = _KINDS.get(name)
        if kind is not None and Capability(Operation.GENERATE_KEY, kind.algorithm, kind.key_size) not in {
            Capability(c.operation, c.algorithm, c.key_size) for c in capabilities
        }:
            continue
        for operation, count in spent.items():
            if not (read_only and operation.rstrip("+") in CHANGES):
                calls[operation] += count * times
    price = prices().providers.get(scheme)
    made = {op.rstrip("+"): 0 for op in calls}
    for operation, count in calls.items():
        made[operation.rstrip("+")] += count
    keys = made.get(Operation.GENERATE_KEY, 0) + made.get(Operation.ROTATE_KEY, 0)
    return Estimate(
        store.label,
        store.description,
        len(clauses),
        cases,
        calls.total(),
        keys,
        _cost(calls, keys, price),
        price,
    )


def _cost(calls: Counter[str], keys: int, price: Price | None) -> float | None:
    if price is None:
        return None
    cryptography = {str(op) for op in Operation} - {str(op) for op in CHANGES}
    cryptography -= {"get_key", "list_keys", "describe_key"}
    cost = keys * price.key
    for operation, count in calls.items():
        rate = price.administration_per_10000
        if operation.rstrip("+") in cryptography:
            rate = price.advanced_per_10000 if operation.endswith("+") else price.plain_per_10000
        cost += count * price.requests_per_call * rate / 10_000
    return cost


@dataclass(frozen=True)
class Finished:
    """What a run came to.

    Attributes:
        left_over: keys that could not be scheduled for destruction, and why, by store.
        problem: why pytest stopped early, empty if it did not.
    """

    report: Report
    left_over: Mapping[str, Mapping[str, str]]
    problem: str


@dataclass
class _Run:
    """What the bindings of the run in progress find."""

    stores: list[Store]
    watch: Watch
    journal: Journal
    read_only: list[str] | None
    deviations: Mapping[str, str]
    harnesses: int = 0

    def harness(self, store: Store) -> Harness:
        """A harness of the store with names of its own."""
        self.harnesses += 1
        return harness(store, self.harnesses, self.watch, self.journal, self.read_only)

    def bind(self, module: str, contract: type[Contract], name: str) -> Any:
        """A binding class of the contract, with the deviations that concern it."""
        mine = set(contract.cases())
        deviations = {clause: reason for clause, reason in self.deviations.items() if clause in mine}
        return type(name, (contract,), {"__module__": module, "deviations": deviations})


_RUNS: Final[list[_Run]] = []
"""The run in progress: its generated modules are imported by pytest, which passes them nothing."""


class Onlooker(Protocol):
    """Who is told how far a run is."""

    def selected(self, cases: int) -> None:
        """So many cases are to be run."""
        ...

    def finished(self, outcome: Outcome) -> None:
        """One of them was."""
        ...


def run(
    stores: list[Store],
    journal: Journal,
    *,
    limit: int | None = None,
    read_only: list[str] | None = None,
    deviations: Mapping[str, str] | None = None,
    only: str = "",
    onlooker: Onlooker | None = None,
) -> Finished:
    """Run the clauses that are not done yet, then schedule the destruction of every key that was made.

    Args:
        limit: calls of providers at most, over all stores and resumptions.
        read_only: names or URIs of keys; only clauses that make and change nothing are run, on them.
        deviations: clause, or ``clause[case]``, to the reason why it is not kept.
        only: a pytest ``-k`` expression over the clauses.
        onlooker: is told what is to be run, and each outcome.
    """
    watch = Watch(limit, journal.calls.total())

    def note(outcome: Outcome) -> None:
        journal.record(outcome)
        if onlooker is not None:
            onlooker.finished(outcome)

    _check_deviations(deviations or {})
    session = _Run(stores, watch, journal, read_only, deviations or {})
    left_over: dict[str, dict[str, str]] = {}
    problem = ""
    recorder = Recorder(note)
    journal.begin()
    _RUNS.append(session)
    try:
        with tempfile.TemporaryDirectory(prefix="anykms-contract-") as folder:
            problem = _pytest(Path(folder), _Selection(session, onlooker), recorder, only)
    finally:
        _RUNS.remove(session)
        for store in stores:
            try:
                failed = destroy_all(store, journal)
            except Exception as error:  # named below, with every key: the other stores come first
                failed = {name: f"{type(error).__name__}: {error}" for name in journal.left(store.label)}
            if failed:
                left_over[store.label] = failed
    columns = [Column(store.label, store.description) for store in stores]
    return Finished(build(journal.outcomes, columns), left_over, problem)


def _pytest(folder: Path, selection: _Selection, recorder: Recorder, only: str) -> str:
    for number in range(len(selection.session.stores)):
        name = f"test_store_{number}.py"
        (folder / name).write_text(_BINDING.format(number=number), encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    arguments = [
        str(folder),
        f"--rootdir={folder}",
        f"--config-file={folder / 'pytest.ini'}",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:terminal",
        "-p",
        "no:xdist",
        *(["-k", only] if only else []),
    ]
    set_hypothesis_home_dir(folder / "hypothesis")
    before = set(sys.modules)
    # what the caller's shell wants of pytest is not meant for this run
    theirs = {
        name: os.environ.pop(name) for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS") if name in os.environ
    }
    try:
        code = pytest.main(arguments, plugins=[selection, recorder])
    finally:
        os.environ |= theirs
        for name in set(sys.modules) - before:
            if name.startswith("test_store_"):
                del sys.modules[name]
    meanings = {
        pytest.ExitCode.INTERRUPTED: "the run was interrupted",
        pytest.ExitCode.INTERNAL_ERROR: "pytest met an internal error",
        pytest.ExitCode.USAGE_ERROR: "pytest refused its arguments",
        pytest.ExitCode.NO_TESTS_COLLECTED: "no clause was left to run",
    }
    return meanings.get(pytest.ExitCode(code), "")


class _Selection:
    """Leaves out what was run before, and counts the calls of each case."""

    def __init__(self, session: _Run, onlooker: Onlooker | None) -> None:
        self.session = session
        self._onlooker = onlooker

    def pytest_collection_modifyitems(self, items: list[pytest.Item], config: pytest.Config) -> None:
        kept: list[pytest.Item] = []
        dropped: list[pytest.Item] = []
        for item in items:
            clause, case, label = identify(item)
            done = self.session.journal.finished(label)
            (dropped if (clause, case) in done else kept).append(item)
        items[:] = kept
        config.hook.pytest_deselected(items=dropped)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._onlooker is not None:
            self._onlooker.selected(len(session.items))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        for used in harnesses_of(item):
            used.release()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        self.session.watch.calls.clear()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, object, object]:
        if call.excinfo is not None and isinstance(call.excinfo.value, SystemExit):
            item.session.shouldstop = "ended by a signal"  # pytest would go on to the next clause
        item.stash[CALLS] = dict(self.session.watch.calls)
        return (yield)


def bindings(module: str, number: int) -> dict[str, Any]:
    """What a generated module holds: fixtures and a class per contract, for the store of that number."""
    session = _RUNS[-1]
    store = session.stores[number]
    found: dict[str, Any] = {"provider_label": store.label, "harness": _one(session, store)}
    for contract in suite():
        if contract is not CrossProviderContract:
            found[f"Test{contract.__name__}"] = session.bind(module, contract, contract.__name__)
    for other in session.stores[number + 1 :]:
        pair = session.bind(module, CrossProviderContract, f"With {other.label}")
        pair.harnesses = _pair(session, other)
        found[f"Test{pair.__name__}"] = pair
    if len(session.stores) == 1:
        pair = session.bind(module, CrossProviderContract, "With a local keystore")
        pair.harnesses = _pair(session, None)
        found[f"Test{pair.__name__}"] = pair
    return found


def _one(session: _Run, store: Store) -> object:
    @pytest.fixture(scope="session", name="harness")
    def one() -> Iterator[Harness]:
        with session.harness(store) as harness:
            yield harness

    return one


def _pair(session: _Run, other: Store | None) -> object:
    """The store's harness and another: of a second store, or of a local keystore made for it."""

    @pytest.fixture(scope="class", name="harnesses")
    def pair(
        self: object, harness: Harness, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[tuple[Harness, Harness]]:
        if other is not None:
            with session.harness(other) as second:
                yield harness, second
            return
        uri = f"local://{tmp_path_factory.mktemp('pair')}/keys.db"
        with Harness(open_provider=lambda: open_provider(uri, create=True)) as local:
            yield harness, local

    return pair


def _check_deviations(deviations: Mapping[str, str]) -> None:
    """Raises InvalidArgumentError for one that names no clause, or gives no reason."""
    known = {name for contract in suite() for name in contract.cases()}
    for name, reason in deviations.items():
        if name not in known:
            raise InvalidArgumentError(
                f"the deviation {name!r} is no clause; clauses are named as in the report"
            )
        if not reason.strip():
            raise InvalidArgumentError(f"the deviation from {name} gives no reason")
