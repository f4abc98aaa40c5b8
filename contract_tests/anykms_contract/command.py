"""``anykms contract``: judge providers by the clauses. Joins the command by its entry point."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from anykms.errors import InvalidArgumentError
from anykms_contract.journal import Journal
from anykms_contract.pages import summary, write_report
from anykms_contract.results import Outcome, Status
from anykms_contract.running import Estimate, Finished, Price, estimate, measurements, prices, run
from anykms_contract.stores import EMULATORS, Store, opened


@click.command()
@click.option("--store", "uris", metavar="URI", multiple=True, help="A provider to judge; may be repeated.")
@click.option(
    "--emulator",
    "emulators",
    multiple=True,
    type=click.Choice(["local", *EMULATORS]),
    help="Judge against an emulator, or a new local keystore, whose clock can be moved.",
)
@click.option("--yes", is_flag=True, help="Go on; without it the plan is shown and nothing is done.")
@click.option(
    "--read-only",
    "read_only",
    metavar="KEY",
    multiple=True,
    help="Only clauses that make and change nothing, on this key; may be repeated.",
)
@click.option("--max-calls", type=click.IntRange(1), metavar="N", help="Stop after N calls of the providers.")
@click.option("--resume", metavar="RUN", help="Go on with a run: what passed is not run again.")
@click.option(
    "--only", metavar="EXPRESSION", default="", help="Clauses by name, as pytest -k: 'Signing and PS256'."
)
@click.option(
    "--deviations",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON: clause, or clause[case], to the reason why it is not kept.",
)
@click.option(
    "--report",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write conformance.json, .md and .html there.",
)
@click.option("--measure", metavar="FILE", type=click.Path(path_type=Path), hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; errors too (on stderr).")
@click.pass_context
def contract(
    ctx: click.Context,
    uris: Sequence[str],
    emulators: Sequence[str],
    yes: bool,
    read_only: Sequence[str],
    max_calls: int | None,
    resume: str | None,
    only: str,
    deviations: Path | None,
    folder: Path | None,
    measure: Path | None,
    as_json: bool,
) -> None:
    """Judge key services by every clause of the contract.

    First the plan: clauses, calls and cost at most. With --yes the clauses run. Keys are named after the run; at the
    end each is scheduled for destruction, and named if that fails. What the run did is in
    anykms-contract-RUN.jsonl, in the current directory. Exit code 1: a clause is broken, or a key is left over.

    \b
    Examples:
      anykms contract --emulator aws --emulator local --yes --report out
      anykms contract --store 'awskms:///?region=eu-west-1'
      anykms contract --store 'awskms:///?region=eu-west-1' --yes --max-calls 5000
      anykms contract --resume r0a1b2c3d --yes
      anykms contract --store azurekms://team.vault.azure.net --read-only orders --yes
    """
    ctx.meta["anykms.json"] = as_json
    reasons = _reasons(deviations) if deviations else {}
    journal = _journal(uris, emulators, read_only, resume, only, reasons)
    settings = journal.settings
    with (
        tempfile.TemporaryDirectory(prefix="anykms-contract-") as scratch,
        opened(settings["stores"], settings["emulators"], Path(scratch)) as stores,
    ):
        plan = [_estimate(store, stores, journal) for store in stores]
        if not yes:
            _show_plan(plan, journal, as_json)
            return
        if not as_json:
            _show_plan(plan, journal, as_json, err=True)
        with _onlooker() as onlooker:
            finished = run(
                stores,
                journal,
                limit=max_calls,
                read_only=settings["read_only"] or None,
                deviations=settings["deviations"],
                only=settings["only"],
                onlooker=onlooker,
            )
    if folder is not None:
        write_report(finished.report, folder / "conformance")
    if measure is not None:  # what the estimates rest on: a whole run with --emulator local alone
        rows = (f"{json.dumps(case)}: {json.dumps(calls)}" for case, calls in measurements(journal).items())
        measure.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    _show(finished, journal, as_json)
    if finished.report.total(Status.FAILED) or finished.left_over or finished.problem:
        ctx.exit(1)


def _journal(
    uris: Sequence[str],
    emulators: Sequence[str],
    read_only: Sequence[str],
    resume: str | None,
    only: str,
    deviations: dict[str, str],
) -> Journal:
    if resume is None:
        if not uris and not emulators:
            raise InvalidArgumentError("name a provider: --store URI, or --emulator NAME")
        settings: dict[str, Any] = {
            "stores": list(uris),
            "emulators": list(emulators),
            "read_only": list(read_only),
            "only": only,
            "deviations": deviations,
        }
        return Journal.new(Path(), settings)
    if uris or emulators or read_only or only or deviations:
        raise InvalidArgumentError(
            "a resumed run keeps its stores, keys, clauses and deviations; leave them out"
        )
    journal = Journal.read(Path(), resume)
    if journal.settings["emulators"]:
        raise InvalidArgumentError("an emulator forgets its keys when it stops: begin a new run")
    return journal


def _reasons(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise InvalidArgumentError(f"{path} must be one JSON object: clause to reason") from error


def _estimate(store: Store, stores: Sequence[Store], journal: Journal) -> Estimate:
    return estimate(
        store,
        journal.finished(store.label),
        others=len(stores) - 1 - stores.index(store) if len(stores) > 1 else 1,
        read_only=bool(journal.settings["read_only"]),
        only=journal.settings["only"],
    )


def _show_plan(plan: Sequence[Estimate], journal: Journal, as_json: bool, *, err: bool = False) -> None:
    table = prices()
    if as_json:
        rows = [
            {
                "store": row.store,
                "clauses": row.clauses,
                "cases": row.cases,
                "calls": row.calls,
                "keys": row.keys,
                "cost": row.cost,
                "source": row.price and row.price.source,
            }
            for row in plan
        ]
        click.echo(json.dumps({"run": journal.run, "currency": table.currency, "plan": rows}, indent=2))
        return
    for row in plan:
        click.echo(
            f"{_shown(row.store)} ({_shown(row.description)}): {row.clauses} clauses, {row.cases} cases; "
            f"at most {row.calls} calls, {row.keys} keys and versions",
            err=err,
        )
        if row.price is not None and row.cost is not None:
            click.echo(
                f"  at most about {row.cost:.2f} {table.currency} ({row.price.requests_per_call} requests a call; "
                f"{row.price.key_note}; {_origin(row.price)})",
                err=err,
            )
    if not err:
        click.echo("Nothing was done. --yes goes on.")


def _origin(price: Price) -> str:
    """Where a price is from; nobody should take a remembered one for the cloud's own."""
    return f"{price.source}, {price.seen}" if price.seen else "unverified price"


def _show(finished: Finished, journal: Journal, as_json: bool) -> None:
    report = finished.report
    if as_json:
        counts = {provider: dict(found) for provider, found in report.counts.items()}
        left_over = {store: dict(keys) for store, keys in finished.left_over.items()}
        click.echo(
            json.dumps(
                {"run": journal.run, "counts": counts, "left_over": left_over, "problem": finished.problem},
                indent=2,
            )
        )
        return
    for cell in report.cells:
        for other in cell.others:
            if other.status is Status.FAILED and other.failure is not None:
                cases = " ".join(f"[{case}]" for case in other.cases if case)
                click.echo(
                    f"failed: {_shown(cell.provider)}: {cell.clause}{_shown(cases)}: {other.failure.error}: "
                    f"{_shown(other.failure.text[:300])}"
                )
    for store, keys in finished.left_over.items():
        for name, why in keys.items():
            click.echo(f"left over: {_shown(store)}: {_shown(name)}: {_shown(why)}")
    if finished.problem:
        click.echo(f"stopped early: {finished.problem}")
    click.echo(f"{journal.run}: {summary(report)}")
    if finished.left_over or report.total(Status.FAILED) or report.total(Status.NOT_RUN) or finished.problem:
        click.echo(f"Next: anykms contract --resume {journal.run} --yes runs again what did not pass")


class _Bar:
    """A bar that knows how many cases there are once they are selected."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("clauses", total=None, failed=0)
        self._failed = 0

    def selected(self, cases: int) -> None:
        """See ``Onlooker``."""
        self._bar.update(self._task, total=cases)

    def finished(self, outcome: Outcome) -> None:
        """See ``Onlooker``."""
        self._failed += outcome.status is Status.FAILED
        self._bar.update(self._task, advance=1, failed=self._failed)


@contextmanager
def _onlooker() -> Generator[_Bar | None]:
    """A bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
