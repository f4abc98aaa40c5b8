"""``anykms encrypt``, ``decrypt`` and ``inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Final

import click

from anykms.cli import files
from anykms.cli.connecting import Stores
from anykms.cli.failures import usage
from anykms.cli.options import (
    binding_options,
    force_option,
    input_argument,
    json_option,
    keys_option,
    output_option,
    read_aad,
    read_context,
    stores_option,
)
from anykms.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from anykms.envelope.message import UnverifiedHeader

_LONGEST_PREFIX: Final = 128 * 1024
"""Bytes that hold any header and more."""


@click.command()
@input_argument
@output_option
@stores_option
@keys_option
@binding_options
@click.option(
    "--required",
    metavar="NAME",
    multiple=True,
    help="Context name whose value is not stored, so that the reader must know it. May be repeated.",
)
@force_option
@json_option
def encrypt(
    source: str,
    output: str,
    stores: Sequence[str],
    names: Sequence[str],
    pairs: Sequence[str],
    no_context: bool,
    aad: str | None,
    aad_file: str | None,
    required: Sequence[str],
    force: bool,
    as_json: bool,
) -> None:
    """Encrypt FILE (default: standard input) for every --key.

    Any one of the keys opens the result. The file is held in memory, about three times.

    \b
    Examples:
      anykms encrypt --key orders --context tenant=42 report.pdf -o report.pdf.anykms
      tar c docs | anykms encrypt --key orders --no-context > docs.tar.anykms
      anykms encrypt --store local:///a.db --store local:///b.db --key orders --key backup \\
          --context tenant=42 --aad report.pdf report.pdf -o report.pdf.anykms
    """
    context, bound = read_context(pairs, no_context), read_aad(aad, aad_file)
    _check_json(as_json, output)
    files.check_output(output, force)
    with Stores(stores) as opened:
        from anykms.envelope.keyring import Keyring

        ring = Keyring(opened.keys(names))
        plaintext = files.read_all(source)
        message = ring.encrypt(plaintext, context=context, aad=bound, required=required)
        size = len(plaintext)
        del plaintext
        files.write(output, message, force=force, private=False)
        if as_json:
            keys = [str(info.uri) for info in ring.keys]
            print_json({"output": output, "plaintext_size": size, "size": len(message), "keys": keys})


@click.command()
@input_argument
@output_option
@stores_option
@keys_option
@binding_options
@click.option(
    "--min-generation", metavar="N", type=int, default=0, help="Oldest generation of recipients to accept."
)
@force_option
@json_option
def decrypt(
    source: str,
    output: str,
    stores: Sequence[str],
    names: Sequence[str],
    pairs: Sequence[str],
    no_context: bool,
    aad: str | None,
    aad_file: str | None,
    min_generation: int,
    force: bool,
    as_json: bool,
) -> None:
    """Decrypt FILE (default: standard input) with the --keys, and with no others.

    Nothing is written before all of it is authenticated. An output file is readable for its owner only (0600).
    A keystore or key that cannot be used is passed over, with a warning, while another one can.

    \b
    Examples:
      anykms decrypt --key orders --context tenant=42 report.pdf.anykms -o report.pdf
      anykms decrypt --key orders --no-context < docs.tar.anykms | tar x
    """
    context, bound = read_context(pairs, no_context), read_aad(aad, aad_file)
    _check_json(as_json, output)
    files.check_output(output, force)
    with Stores(stores, tolerant=True) as opened:
        from anykms.envelope.keyring import Keyring

        ring = Keyring(opened.keys(names))
        message = files.read_all(source)
        found = ring.decrypt_detailed(message, context=context, aad=bound, min_generation=min_generation)
        del message
        files.write(output, found.plaintext, force=force, private=True)
        if as_json:
            print_json(
                {
                    "output": output,
                    "size": len(found.plaintext),
                    "key": str(found.key_uri),
                    "generation": found.generation,
                    "sender_authenticated": found.sender_authenticated,
                    "record_id": found.record_id.hex(),
                    "created": _moment(found.created),
                }
            )


@click.command()
@input_argument
@json_option
def inspect(source: str, as_json: bool) -> None:
    """Show what the message in FILE (default: standard input) claims of itself. No key is needed.

    Everything shown is UNVERIFIED: anyone could have written it. Decrypt the message to know.

    \b
    Examples:
      anykms inspect report.pdf.anykms
      anykms inspect --json < report.pdf.anykms
    """
    from anykms.envelope.keyring import inspect as read_header

    with files.opened(source) as (file, size):
        prefix = file.read(_LONGEST_PREFIX)
        header = read_header(prefix)
        body_size = header.body_size + (_rest(file) if size is None else size - len(prefix))
    claims = _claims(header, body_size)
    if as_json:
        print_json({"verified": False, "header": claims})
        return
    rows = [(name, value if isinstance(value, str) else str(value)) for name, value in claims.items()]
    rows = [row for row in rows if row[0] not in ("context", "required", "recipients")]
    rows += [("context", f"{name} = {value}") for name, value in header.context.items()]
    rows += [("required context", name) for name in header.required]
    rows += [("recipient", f"{r.uri} ({r.algorithm})") for r in header.recipients]
    print_table("UNVERIFIED: what the message claims of itself", ("", "claim"), rows)


def _claims(header: UnverifiedHeader, body_size: int) -> dict[str, object]:
    return {
        "suite": header.suite,
        "record_id": header.record_id.hex(),
        "created": _moment(header.created),
        "generation": header.generation,
        "body_size": body_size,
        "context": dict(header.context),
        "required": list(header.required),
        "recipients": [{**asdict(recipient), "uri": str(recipient.uri)} for recipient in header.recipients],
    }


def _rest(file: IO[bytes]) -> int:
    """Bytes that a pipe still holds."""
    rest = 0
    while piece := file.read(_LONGEST_PREFIX):
        rest += len(piece)
    return rest


def _moment(seconds: int) -> str:
    """A date as ISO 8601; the number itself where it lies past the year 9999."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return str(seconds)


def _check_json(as_json: bool, output: str) -> None:
    if as_json and output == files.STANDARD:
        raise usage(
            "--json and the result both want standard output", "write the result to a file with -o FILE"
        )
