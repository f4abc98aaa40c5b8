"""``anykms store``: what an administrator does with a keystore file. Joins the command by its entry point."""

from __future__ import annotations

import functools
import getpass
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from anykms.errors import InvalidArgumentError, KeystoreError
from anykms.keys import ConnectionURI
from anykms_local.maintenance import (
    StoreReport,
    backup_store,
    check_store,
    init_store,
    rekey_store,
    restore_store,
)
from anykms_local.root import Passphrase, read_private_file

_MAX_PASSPHRASE_FILE = 4096

F = TypeVar("F", bound=Callable[..., Any])


def _note_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta["anykms.json"] = value
    return value


def _options(function: F) -> F:
    """--store and --json."""
    json_option = click.option(
        "--json",
        "as_json",
        is_flag=True,
        is_eager=True,
        callback=_note_json,
        help="Print JSON; errors too (on stderr).",
    )
    store_option = click.option(
        "--store",
        "stores",
        metavar="URI",
        multiple=True,
        envvar="ANYKMS_STORE",
        help="The keystore: local:///PATH, with ?root=file:PATH, ?root=passphrase or "
        "?root=passphrase&passphrase-file=PATH. Default: ANYKMS_STORE.",
    )
    return store_option(json_option(function))


@click.group()
def store() -> None:
    """Make, check, back up, restore and rekey a local keystore.

    The keystore is a file; its root secret, without which it does not open, is another file beside it (PATH.root), a
    passphrase, or an anykms key. Keep a copy of the root secret apart from the backups of the keystore.
    """


@store.command()
@_options
def init(stores: Sequence[str], as_json: bool) -> None:
    """Make an empty keystore, and its root file unless a passphrase is its root secret.

    \b
    Examples:
      anykms store init --store local:///home/me/keys.db
      anykms store init --store 'local:///home/me/keys.db?root=passphrase'
    """
    uri = _only(stores)
    asks = uri.options.get("root") == "passphrase" and "passphrase-file" not in uri.options
    report = init_store(uri, passphrase=_new_passphrase() if asks else None)
    _print(report, as_json, "made")


@store.command()
@_options
def check(stores: Sequence[str], as_json: bool) -> None:
    """Check every page, row, seal and key of a keystore. Changes nothing. Exit code 8: it is not sound.

    Note the generation elsewhere: it grows with every write, and so shows a rollback of the whole file.

    \b
    Examples:
      anykms store check
      anykms store check --json | jq .generation
    """
    report = check_store(_only(stores))
    _print(report, as_json, "sound" if not report.problems else "NOT sound")
    if report.problems:
        raise KeystoreError(f"{len(report.problems)} problems: {'; '.join(report.problems)}")


@store.command()
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@_options
def backup(target: Path, stores: Sequence[str], as_json: bool) -> None:
    """Copy the keystore, as of one moment, to the new FILE, while others use it.

    The root secret is not copied: keep that elsewhere.

    \b
    Example:
      anykms store backup /backup/keys-2026-11-24.db
    """
    _print(backup_store(_only(stores), target), as_json, "backed up")


@store.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the keystore that is there: keys are rolled back.")
@_options
def restore(source: Path, force: bool, stores: Sequence[str], as_json: bool) -> None:
    """Put the backup FILE in the keystore's place, once it is found sound.

    This is a rollback: a key destroyed, disabled or rotated since the backup is back in its former state.

    \b
    Example:
      anykms store restore /backup/keys-2026-11-24.db --force
    """
    report = restore_store(_only(stores), source, force=force)
    click.echo(f"anykms: warning: {_shown(report.warning)}", err=True)
    _print(report.store, as_json, "restored")


@store.command()
@click.option(
    "--new-root",
    metavar="ROOT",
    help="file (beside the keystore), file:PATH, or passphrase. Default: the present one.",
)
@click.option(
    "--new-passphrase-file", metavar="FILE", help="With --new-root passphrase: do not ask, read it there."
)
@click.option("--rotate-data-secret", is_flag=True, help="Also seal every row anew, under a fresh secret.")
@_options
def rekey(
    new_root: str | None,
    new_passphrase_file: str | None,
    rotate_data_secret: bool,
    stores: Sequence[str],
    as_json: bool,
) -> None:
    """Change the root secret. Keys and versions stay as they are.

    \b
    Examples:
      anykms store rekey --new-root file
      anykms store rekey --new-root passphrase --rotate-data-secret
    """
    passphrase: Passphrase | None = None
    if new_passphrase_file is not None:
        passphrase = _from_file(Path(new_passphrase_file))
    elif new_root == "passphrase":
        passphrase = _new_passphrase()
    report = rekey_store(
        _only(stores), new_root=new_root, new_passphrase=passphrase, rotate_data_secret=rotate_data_secret
    )
    _print(report, as_json, "rekeyed")


def _only(stores: Sequence[str]) -> ConnectionURI:
    if len(stores) != 1:
        raise InvalidArgumentError(
            f"{len(stores)} keystores are named; give one with --store local:///PATH or ANYKMS_STORE"
        )
    return ConnectionURI.parse(stores[0])


def _new_passphrase() -> Passphrase:
    """Asks twice, once; a command needs the passphrase more than once."""

    @functools.cache
    def ask() -> str:
        if not sys.stdin.isatty():
            raise InvalidArgumentError(
                "no terminal to ask for the passphrase; give it in a file of mode 0600"
            )
        first = getpass.getpass("New passphrase of the keystore: ")
        if getpass.getpass("The same again: ") != first:
            raise InvalidArgumentError("the two passphrases differ; nothing was changed")
        return first

    return ask


def _from_file(path: Path) -> Passphrase:
    def read() -> bytes:
        return read_private_file(path, limit=_MAX_PASSPHRASE_FILE).removesuffix(b"\n").removesuffix(b"\r")

    return read


def _print(report: StoreReport, as_json: bool, what: str) -> None:
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
        return
    click.echo(f"Keystore {report.keystore_id}: {what}")
    click.echo(
        f"{report.keys} keys, {report.versions} versions, {report.destroyed} destroyed; root secret: {report.root}; "
        f"generation {report.generation}"
    )


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
