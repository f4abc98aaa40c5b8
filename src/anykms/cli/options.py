"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from anykms.cli.failures import JSON_WANTED, usage

F = TypeVar("F", bound=Callable[..., Any])


def _note_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON_WANTED] = value
    return value


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_note_json,
    help="Print JSON; errors too (on stderr).",
)
stores_option = click.option(
    "--store",
    "stores",
    metavar="URI",
    multiple=True,
    envvar="ANYKMS_STORE",
    help="Keystore or key service, for example local:///home/me/keys.db; may be repeated. "
    "Default: ANYKMS_STORE, several separated by spaces.",
)
keys_option = click.option(
    "--key",
    "names",
    metavar="NAME",
    multiple=True,
    required=True,
    help="Key: its name, its URI or its provider's own identifier; may be repeated.",
)
to_option = click.option(
    "--to",
    "recipients",
    metavar="NAME",
    multiple=True,
    required=True,
    help="Key that the result is for, named as with --key; may be repeated. All of them must be named.",
)
generation_option = click.option(
    "--min-generation", metavar="N", type=int, default=0, help="Oldest generation of recipients to accept."
)
output_option = click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="-",
    help="Where the result goes; - is standard output, the default.",
)
force_option = click.option("--force", is_flag=True, help="Overwrite an existing output file.")
input_argument = click.argument("source", metavar="[FILE]", default="-")


def binding_options(function: F) -> F:
    """--context or --no-context, and --aad or --aad-file."""
    for option in (
        click.option("--aad-file", metavar="FILE", help="The same, from a file."),
        click.option(
            "--aad", metavar="TEXT", help="Text that the message is bound to and that is not stored in it."
        ),
        click.option("--no-context", is_flag=True, help="Say that there is no context."),
        click.option(
            "--context",
            "pairs",
            metavar="NAME=VALUE",
            multiple=True,
            help="Pair that the message is bound to; visible in it. May be repeated. This or --no-context is required.",
        ),
    ):
        function = option(function)
    return function


def read_context(pairs: Iterable[str], none: bool) -> dict[str, str]:
    """The context that the options give."""
    if bool(pairs) == none:
        raise usage(
            "give either --context or --no-context",
            "for example --context tenant=42; --no-context says that there is none",
        )
    return read_pairs(pairs, "--context")


def read_pairs(pairs: Iterable[str], option: str) -> dict[str, str]:
    """NAME=VALUE pairs, each name once."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise usage(f"{option} is NAME=VALUE, neither of them empty", f"for example {option} tenant=42")
        if name in found:
            raise usage(f"{option} gives one name twice", "give each name once")
        found[name] = value
    return found


def read_aad(text: str | None, file: str | None) -> bytes:
    """The aad that the options give; none is empty."""
    if text is not None and file is not None:
        raise usage("--aad and --aad-file are both given", "choose one")
    if file is not None:
        return Path(file).read_bytes()
    try:
        return (text or "").encode()
    except UnicodeEncodeError:
        raise usage("--aad is not UTF-8", "put the bytes into a file and use --aad-file") from None
