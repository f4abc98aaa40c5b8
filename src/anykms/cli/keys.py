"""``anykms keys``: the administrator's plane."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from anykms.cli import files
from anykms.cli.connecting import Stores
from anykms.cli.destruction import (
    Guard,
    census_options,
    census_root_option,
    checkpoints_about,
    demands_of,
    evidence_options,
    evidence_signers,
    note,
    read_censuses,
    read_evidence,
    reports_of,
)
from anykms.cli.failures import ExitCode, usage
from anykms.cli.options import force_option, json_option, output_option, read_pairs, stores_option
from anykms.cli.terminal import on_terminal, print_json, print_table, shown, warn

if TYPE_CHECKING:
    from anykms.client import KMSClient
    from anykms.keys import KeyInfo, KeyStatus

_name_argument = click.argument("name", metavar="NAME")


@click.group()
def keys() -> None:
    """Generate, list, rotate, disable and destroy keys.

    NAME is a key's name, its URI, or its provider's own identifier.
    """


@keys.command()
@_name_argument
@click.option(
    "--purpose",
    required=True,
    type=click.Choice(["ENCRYPT_DECRYPT", "SIGN_VERIFY", "MAC", "ASYMMETRIC_DECRYPT"], case_sensitive=False),
    help="What the key is for; fixed for its life.",
)
@click.option(
    "--algorithm", metavar="NAME", help="For example ES256, PS256, Ed25519, HS256; fixed for its life."
)
@click.option("--key-size", metavar="BITS", type=int, help="RSA only: 2048, 3072 or 4096.")
@click.option(
    "--protection-level",
    type=click.Choice(["SOFTWARE", "HSM", "EXTERNAL"], case_sensitive=False),
    help="Exactly this level. Default: the provider's.",
)
@click.option("--tag", "tags", metavar="NAME=VALUE", multiple=True, help="At most 10.")
@click.option(
    "--destroy-window", metavar="DAYS", type=int, help="7 to 30, from 'destroy' to the end. Default: 30."
)
@click.option(
    "--rotation-period", metavar="DAYS", type=int, help="90 to 2560. Default: rotated on demand only."
)
@stores_option
@json_option
def generate(
    name: str,
    purpose: str,
    algorithm: str | None,
    key_size: int | None,
    protection_level: str | None,
    tags: Sequence[str],
    destroy_window: int | None,
    rotation_period: int | None,
    stores: Sequence[str],
    as_json: bool,
) -> None:
    """Make the key NAME. A name is used once, and never again.

    \b
    Examples:
      anykms keys generate orders --purpose ENCRYPT_DECRYPT --rotation-period 365
      anykms keys generate releases --purpose SIGN_VERIFY --algorithm ES256 --tag team=build
    """
    from anykms.keys import KeyConf

    conf = KeyConf(
        name,
        purpose,
        algorithm=algorithm,
        key_size=key_size,
        protection_level=protection_level,
        tags=read_pairs(tags, "--tag"),
        destroy_window=destroy_window,
        rotation_period=rotation_period,
    )
    with Stores(stores) as opened:
        info = opened.only().generate_key(conf)
    if as_json:
        print_json(_facts(info))
    else:
        click.echo(f"Generated {shown(str(info.uri))} ({info.algorithm}, {info.purpose})")


@keys.command("list")
@click.option("--states", is_flag=True, help="Read each key's state too: one more call per key.")
@stores_option
@json_option
def list_(states: bool, stores: Sequence[str], as_json: bool) -> None:
    """List the keys that anykms made, destroyed ones excepted.

    \b
    Examples:
      anykms keys list --states
      anykms keys list --json | jq -r '.[].uri'
    """
    found: list[tuple[KeyInfo, str | None]] = []
    with Stores(stores) as opened:
        for client in opened.clients:
            for info in client.list_keys():
                found.append((info, str(client.describe_key(info).state) if states else None))
    if as_json:
        print_json([_facts(info) | ({"state": state} if states else {}) for info, state in found])
        return
    columns = ["name", "purpose", "algorithm", "created", "uri"] + (["state"] if states else [])
    rows = [
        [info.name, info.purpose, _algorithm(info), _moment(info.created_at), str(info.uri)]
        + ([state] if state else [])
        for info, state in found
    ]
    print_table(f"{len(rows)} keys", columns, rows)


@keys.command()
@_name_argument
@stores_option
@json_option
def describe(name: str, stores: Sequence[str], as_json: bool) -> None:
    """Show a key's immutable facts, and its state and versions as they are now.

    \b
    Examples:
      anykms keys describe orders
      anykms keys describe orders --json | jq -r .status.state
    """
    with Stores(stores) as opened:
        client, info = opened.find(name)
        status = client.describe_key(info)
    if as_json:
        print_json({"info": _facts(info), "status": _status(status)})
        return
    rows = [
        (field, _cell(value))
        for field, value in (_facts(info) | _status(status)).items()
        if field != "versions"
    ]
    rows += [
        (f"version {version.id}", f"{version.state}, made {_moment(version.created_at)}")
        for version in status.versions
    ]
    print_table(info.name, ("fact", "value"), rows)


@keys.command()
@_name_argument
@stores_option
@json_option
def rotate(name: str, stores: Sequence[str], as_json: bool) -> None:
    """Make a new version of an ENCRYPT_DECRYPT key. Old messages still open.

    \b
    Example:
      anykms keys rotate orders
    """
    _change(stores, name, as_json, "Rotated", lambda client, info: client.rotate_key(info))


@keys.command()
@_name_argument
@stores_option
@json_option
def disable(name: str, stores: Sequence[str], as_json: bool) -> None:
    """Stop every use of a key, until it is enabled again.

    \b
    Example:
      anykms keys disable orders
    """
    _change(stores, name, as_json, "Disabled", lambda client, info: client.disable_key(info))


@keys.command()
@_name_argument
@stores_option
@json_option
def enable(name: str, stores: Sequence[str], as_json: bool) -> None:
    """Let a key be used again.

    \b
    Example:
      anykms keys enable orders
    """
    _change(stores, name, as_json, "Enabled", lambda client, info: client.enable_key(info))


@keys.command()
@_name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@census_options
@evidence_options
@stores_option
@force_option
@json_option
def destroy(
    name: str,
    yes: bool,
    reports: Sequence[str],
    root_file: str | None,
    expected: Sequence[str],
    max_age: float,
    not_messages: int,
    full_census: bool,
    checkpoints: Sequence[str],
    evidence_file: str | None,
    sealers: Sequence[str],
    audience: str,
    by: str | None,
    stores: Sequence[str],
    force: bool,
    as_json: bool,
) -> None:
    """Schedule the destruction of a key: after its window, nothing encrypted under it alone can ever be read.

    Asks for the key's name once more. Until the window has passed, 'anykms keys cancel-destroy' takes it back.

    With --census it is refused (exit code 3) unless the reports show that no message needs the key: disable the key,
    take the census, then destroy it. See docs/destruction.md.

    \b
    Examples:
      anykms keys destroy orders
      anykms keys destroy orders --yes --json
      anykms keys destroy orders --census proof.json --expect-target s3://archive --evidence orders.destroyed.json
    """
    if not reports and (expected or checkpoints or not_messages or full_census):
        raise usage("this is asked of a census, and none is given", "give --census REPORT")
    if sealers and evidence_file is None:
        raise usage("--seal-with seals the evidence, and none is written", "give --evidence FILE")
    if evidence_file == files.STANDARD:
        raise usage("evidence is kept in a file", "give --evidence FILE")
    if evidence_file is not None:
        for path in (evidence_file, *([f"{evidence_file}.seal"] if sealers else [])):
            files.check_output(path, force)
    censuses = read_censuses(reports, root_file)
    demands = demands_of(censuses, expected, max_age, not_messages, full_census)
    with Stores(stores) as opened:
        client, info = opened.find(name)
        signers = evidence_signers(opened, sealers, audience, root_file) if sealers else []
        guard = Guard(
            client, info, censuses, demands, checkpoints_about(info, checkpoints) if reports else ()
        )
        state, written = guard.check()
        if not censuses:
            warn("no --census was given: whether anything still needs the key is not known")
        elif root_file is None:
            warn(
                "no --root was given: the reports are taken at their word, and whoever can edit them decides"
            )
        if not yes:
            _confirm(info)
            # It may have taken long to answer.
            state, written = guard.check()
        when = client.schedule_destruction(info)
        if evidence_file is not None:
            note(
                guard,
                evidence_file,
                when,
                state=state,
                written=written,
                by=by,
                signers=signers,
                audience=audience,
                force=force,
            )
        status = client.describe_key(info)
    if as_json:
        print_json(
            {
                "uri": str(info.uri),
                "status": _status(status),
                "censuses": [census.digest.sha256 for census in censuses],
                "evidence": evidence_file,
            }
        )
        return
    for census in censuses:
        report = census.report
        click.echo(
            f"{shown(census.file)}: {report.counts.messages:,} messages opened without it ({report.verified}) in "
            + shown(", ".join(report.targets))
        )
    click.echo(f"Will be destroyed at {_moment(when)}: {shown(str(info.uri))}")


@keys.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--census",
    "reports",
    metavar="REPORT",
    multiple=True,
    help="Reports of the evidence. Default: those that lie beside FILE.",
)
@census_root_option
@click.option("--final", is_flag=True, help="Fail (exit code 5) until the key is destroyed.")
@stores_option
@json_option
def evidence(
    file: str,
    reports: Sequence[str],
    root_file: str | None,
    final: bool,
    stores: Sequence[str],
    as_json: bool,
) -> None:
    """Check the evidence of a destruction: against its reports, and against what the key's provider says now.

    The reports are judged again, as on the day of the destruction. Exit code 3: evidence or reports are not those of
    that day. Exit code 5: the key was taken back, waits for another date, or has gone before its date.

    \b
    Examples:
      anykms keys evidence orders.destroyed.json
      anykms keys evidence orders.destroyed.json --census proof.json --root root.json --final
    """
    from anykms.migration.destruction import Verdict, follow_up, judge_again, refusal

    found = read_evidence(file, root_file)
    reports = reports or reports_of(found, file)
    if reports and (objections := judge_again(found, read_censuses(reports, root_file))):
        raise refusal(found.key_info, objections)
    with Stores(stores) as opened:
        fitting = [client for client in opened.clients if client.provider == found.key_info.provider]
        if len(fitting) != 1:
            raise usage(
                f"the key is of {shown(found.key_info.provider)}, and {len(fitting)} such keystores are named",
                "name the one with --store",
            )
        finding = follow_up(found, fitting[0])
    date = found.destroy_at if finding.destroy_at is None else _moment(finding.destroy_at)
    told = {
        Verdict.SCHEDULED: f"scheduled until {date}",
        Verdict.DESTROYED: f"destroyed; its date was {date}",
        Verdict.TAKEN_BACK: f"taken back: it is {finding.state}",
        Verdict.RESCHEDULED: f"scheduled anew until {date}, so that it was taken back meanwhile",
        Verdict.GONE_EARLY: f"gone before its date, {date}: purged by someone, or the wrong account was asked",
    }[finding.verdict]
    if as_json:
        print_json(
            {
                "uri": found.key,
                "verdict": str(finding.verdict),
                "state": str(finding.state),
                "destroy_at": date,
                "scheduled": found.scheduled,
                "by": found.by,
                "sealed": root_file is not None,
                "reports": "judged" if reports else "not at hand" if found.censuses else "none",
                "limits": found.limits,
            }
        )
    else:
        click.echo(f"{shown(found.key)}: {told}")
        click.echo(f"asked for at {shown(found.scheduled)} by {shown(found.by)}")
        if reports:
            click.echo(f"{len(reports)} reports judged again: nothing needed it, as far as they saw")
        elif found.censuses:
            names = ", ".join(census.file for census in found.censuses)
            click.echo(f"reports not at hand, and not judged: {shown(names)}")
        else:
            click.echo("no census was asked for: nothing is known of what needed it")
    pending = finding.verdict is Verdict.SCHEDULED
    if (pending and final) or finding.verdict not in (Verdict.SCHEDULED, Verdict.DESTROYED):
        raise click.exceptions.Exit(ExitCode.STATE)


@keys.command("cancel-destroy")
@_name_argument
@stores_option
@json_option
def cancel_destroy(name: str, stores: Sequence[str], as_json: bool) -> None:
    """Take a key back from its destruction. It is disabled afterwards.

    \b
    Example:
      anykms keys cancel-destroy orders && anykms keys enable orders
    """
    _change(
        stores,
        name,
        as_json,
        "Cancelled the destruction of",
        lambda client, info: client.cancel_destruction(info),
    )


@keys.command("public-key")
@_name_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["pem", "der", "jwk"], case_sensitive=False),
    default="pem",
    show_default=True,
    help="DER is the SubjectPublicKeyInfo alone.",
)
@output_option
@stores_option
@force_option
@json_option
def public_key(name: str, form: str, output: str, stores: Sequence[str], force: bool, as_json: bool) -> None:
    """Write the public part of a signing or asymmetric decryption key.

    \b
    Examples:
      anykms keys public-key releases -o releases.pem
      anykms keys public-key releases --format jwk
    """
    files.check_output(output, force)
    with Stores(stores) as opened:
        client, info = opened.find(name)
        found = client.key(info).public_key()
    forms: dict[str, Callable[[], bytes]] = {
        "pem": lambda: found.pem().encode(),
        "der": lambda: found.spki,
        "jwk": lambda: json.dumps(found.jwk(), indent=2).encode() + b"\n",
    }
    if output != files.STANDARD or not as_json:
        files.write(output, forms[form](), force=force, private=False)
    if as_json:
        print_json(
            {
                "uri": str(info.uri),
                "algorithm": str(info.algorithm),
                "fingerprint": found.fingerprint,
                "pem": found.pem(),
                "jwk": found.jwk(),
            }
        )


def _change(
    stores: Sequence[str], name: str, as_json: bool, done: str, change: Callable[[KMSClient, KeyInfo], object]
) -> None:
    with Stores(stores) as opened:
        client, info = opened.find(name)
        change(client, info)
        status = client.describe_key(info)
    if as_json:
        print_json({"uri": str(info.uri), "status": _status(status)})
    else:
        click.echo(f"{done} {shown(str(info.uri))}; state: {status.state}")


def _confirm(info: KeyInfo) -> None:
    if not on_terminal():
        raise usage("there is no terminal to confirm the destruction on", "give --yes if you are sure")
    click.echo(
        f"After its window of {info.destroy_window or 'unknown'} days, what is encrypted for "
        f"{shown(str(info.uri))} alone can never be read again.",
        err=True,
    )
    if click.prompt("Type the key's name to go on", default="", show_default=False, err=True) != info.name:
        click.echo("anykms: another name was typed; nothing was changed", err=True)
        raise click.exceptions.Exit(ExitCode.FAILED)


def _facts(info: KeyInfo) -> dict[str, object]:
    facts: dict[str, object] = json.loads(info.to_json())
    return facts


def _status(status: KeyStatus) -> dict[str, object]:
    return {
        "state": str(status.state),
        "current_version": status.current_version,
        "destroy_at": _optional_moment(status.destroy_at),
        "rotation_period": status.rotation_period,
        "next_rotation_at": _optional_moment(status.next_rotation_at),
        "rotations_left": status.rotations_left,
        "versions": [
            {
                "id": version.id,
                "state": str(version.state),
                "created_at": _moment(version.created_at),
                "fingerprint": version.fingerprint,
            }
            for version in status.versions
        ],
    }


def _algorithm(info: KeyInfo) -> str:
    return f"{info.algorithm} {info.key_size}" if info.key_size else str(info.algorithm)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _optional_moment(moment: datetime | None) -> str | None:
    return None if moment is None else _moment(moment)
