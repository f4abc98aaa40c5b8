"""From --root and --ledger to a trust root, and from --seal-with to the keys that seal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anykms.cli import files
from anykms.cli.connecting import Stores
from anykms.cli.failures import usage

if TYPE_CHECKING:
    from anykms.client import Key
    from anykms.trust import TrustRoot

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_ROOT = 65536
_LONGEST_DOCUMENT = 1024 * 1024


def root_options(function: F) -> F:
    """--root and --ledger."""
    for option in (
        click.option(
            "--ledger",
            "ledger_file",
            metavar="FILE",
            envvar="ANYKMS_LEDGER",
            help="Keeps the highest generation seen. Default: ANYKMS_LEDGER, else the root's path with .ledger behind.",
        ),
        click.option(
            "--root",
            "root_file",
            metavar="FILE",
            required=True,
            envvar="ANYKMS_ROOT",
            help="Trust root, from 'anykms trust root'. Default: ANYKMS_ROOT.",
        ),
    ):
        function = option(function)
    return function


sealers_option = click.option(
    "--seal-with",
    "sealers",
    metavar="NAME",
    multiple=True,
    required=True,
    help="SIGN_VERIFY or MAC key that seals; may be repeated, as often as the root's threshold asks for.",
)


@contextmanager
def trusted(root_file: str, ledger_file: str | None) -> Generator[TrustRoot]:
    """The root of a file, with its ledger."""
    from anykms.trust import Ledger, TrustRoot

    with Path(root_file).open("rb") as file:
        text = file.read(_LONGEST_ROOT + 1)
    with Ledger(ledger_file or root_file + ".ledger") as ledger:
        yield TrustRoot.from_json(text, ledger=ledger)


def read_root(path: str) -> TrustRoot:
    """The root of a file, without a ledger: for seals of files, which have no generations."""
    from anykms.trust import TrustRoot

    with Path(path).open("rb") as file:
        return TrustRoot.from_json(file.read(_LONGEST_ROOT + 1))


def read_document(source: str) -> bytes:
    """What a file holds; of a longer one than any document, so much that it is refused."""
    with files.opened(source) as (file, _):
        return file.read(_LONGEST_DOCUMENT + 1)


def sealing_keys(opened: Stores, names: Sequence[str]) -> list[Key]:
    """The keys that seal, each once."""
    if len(set(names)) != len(names):
        raise usage("--seal-with names a key twice", "name each key once")
    return opened.keys(names)
