"""``anykms new-provider``: the beginning of a provider, as a distribution that keeps the contract at once."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import click

from anykms.errors import InvalidArgumentError
from anykms.registry import schemes

_NAME: Final = re.compile(r"[a-z][a-z0-9]{1,30}")
_LEFT_OUT: Final = frozenset({"__pycache__", "__init__.pyc"})


def write_provider(name: str, folder: Path) -> list[Path]:
    """Write the template under ``folder``, named ``name``. Returns the files.

    Raises:
        InvalidArgumentError: not a name of 2 to 31 of a-z and 0-9, or the scheme of an installed provider.
        FileExistsError: ``folder`` is there and not empty.
    """
    if not _NAME.fullmatch(name) or name in ("http", "https"):
        raise InvalidArgumentError(
            f"{name!r} cannot be a URI scheme and a Python module; use 2 to 31 of a-z and 0-9, a letter first"
        )
    if name in schemes():
        raise InvalidArgumentError(
            f"a provider with the scheme {name} is installed already; choose another name"
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(17, "the directory is not empty", str(folder))
    written: list[Path] = []
    for path, text in _files(files("anykms_contract").joinpath("template"), Path()):
        target = folder / _named(path.as_posix(), name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(_named(text, name))
        written.append(target)
    return written


def _files(folder: Traversable, below: Path) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name in _LEFT_OUT:
            continue
        if entry.is_dir():
            found += _files(entry, below / entry.name)
        else:
            found.append((below / entry.name, entry.read_text(encoding="utf-8")))
    return found


def _named(text: str, name: str) -> str:
    return text.replace("acmekms", name).replace("AcmeProvider", f"{name.capitalize()}Provider")


@click.command()
@click.argument("name")
@click.option(
    "--into",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Default: ./NAME.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; errors too (on stderr).")
@click.pass_context
def new_provider(ctx: click.Context, name: str, folder: Path | None, as_json: bool) -> None:
    """Begin a provider of your own: a distribution with an in-memory provider that keeps the whole contract.

    \b
    Example:
      anykms new-provider vaultkms --into vaultkms
      cd vaultkms && pip install -e . && pytest
    """
    ctx.meta["anykms.json"] = as_json
    written = write_provider(name, folder or Path(name))
    if as_json:
        click.echo(json.dumps([str(path) for path in written]))
        return
    for path in written:
        click.echo(str(path))
    click.echo(f"Next: cd {folder or name} && pip install -e . && pytest")
