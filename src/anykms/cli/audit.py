"""``anykms audit``."""

from __future__ import annotations

from datetime import datetime

import click

from anykms.cli.options import json_option
from anykms.cli.terminal import print_json, shown


@click.group()
def audit() -> None:
    """Check files that an application's audit trail was written to."""


@audit.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--head",
    metavar="HASH",
    help="What an earlier check printed as head: FILE must still contain all that it stood for.",
)
@json_option
def verify(file: str, head: str | None, as_json: bool) -> None:
    """Check that no event in FILE was changed, removed, reordered or cut off. Exit code 8: one was.

    FILE.head must lie beside FILE. Someone who can write both can make both anew: keep the head that this prints
    where they cannot, and give it with --head next time.

    \b
    Examples:
      anykms audit verify audit.jsonl
      anykms audit verify --head 5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef audit.jsonl
    """
    from anykms.audit import verify_audit_file

    report = verify_audit_file(file, head=head)
    if as_json:
        print_json(
            {
                "whole": True,
                "records": report.records,
                "interrupted": report.interrupted,
                "first": _text(report.first),
                "last": _text(report.last),
                "head": report.head,
            }
        )
        return
    click.echo(f"{shown(file)}: whole, {report.records} events")
    if report.first is not None and report.last is not None:
        click.echo(f"from {_text(report.first)} to {_text(report.last)}")
    if report.interrupted:
        click.echo(f"{report.interrupted} cut short by a crash; their operations handed out no result")
    click.echo(f"head {report.head}")


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
