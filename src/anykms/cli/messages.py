"""``anykms encrypt``, ``decrypt``, ``rewrap``, ``reencrypt`` and ``inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Final, Self

import click

from anykms.cli import files
from anykms.cli.connecting import Stores
from anykms.cli.failures import usage
from anykms.cli.options import (
    binding_options,
    force_option,
    generation_option,
    input_argument,
    json_option,
    keys_option,
    output_option,
    read_aad,
    read_context,
    read_pairs,
    stores_option,
    to_option,
)
from anykms.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from anykms.envelope.message import UnverifiedHeader
    from anykms.envelope.rewrap import Reencrypted, Rewrapped

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

    Any one of the keys opens the result. Files of every size take the same few MiB of memory.

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
        plain_size = 0
        with (
            files.reading(source) as file,
            files.writing(output, force=force, private=False) as sealed,
            _Counted(sealed) as sink,
            ring.encrypt_stream(sink, context=context, aad=bound, required=required) as writer,
        ):
            for piece in file.pieces():
                plain_size += writer.write(piece)
        if as_json:
            keys = [str(info.uri) for info in ring.keys]
            print_json({"output": output, "plaintext_size": plain_size, "size": sink.size, "keys": keys})


@click.command()
@input_argument
@output_option
@stores_option
@keys_option
@binding_options
@generation_option
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

    A file appears once all of it is authenticated, readable for its owner only (0600). Standard output gets nothing
    before that either, up to 64 MiB; a longer result is written as it is authenticated, so look at the exit code.
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
        with (
            files.reading(source) as file,
            files.writing(output, force=force, private=True) as plain,
            _Counted(plain) as sink,
            ring.decrypt_stream(file, context=context, aad=bound, min_generation=min_generation) as reader,
        ):
            for piece in reader.pieces():
                sink.write(piece)
        if as_json:
            facts = reader.facts
            print_json(
                {
                    "output": output,
                    "size": sink.size,
                    "key": str(facts.key_uri),
                    "generation": facts.generation,
                    "sender_authenticated": facts.sender_authenticated,
                    "record_id": facts.record_id.hex(),
                    "created": _moment(facts.created),
                }
            )


@click.command()
@click.argument("path", metavar="FILE")
@stores_option
@keys_option
@to_option
@click.option(
    "--context",
    "pairs",
    metavar="NAME=VALUE",
    multiple=True,
    help="Pair whose value is required and so not stored in the message. May be repeated.",
)
@generation_option
@json_option
def rewrap(
    path: str,
    stores: Sequence[str],
    names: Sequence[str],
    recipients: Sequence[str],
    pairs: Sequence[str],
    min_generation: int,
    as_json: bool,
) -> None:
    """Make the message in FILE one for the keys --to, in place. Its body is copied, not decrypted.

    The data key stays the same: a recipient that is left out, and kept the data key, can still read the message
    and replace it. After a compromise use reencrypt. FILE is replaced at once or not at all; a symbolic link stays
    and its target is replaced.

    \b
    Examples:
      anykms rewrap --key orders --to orders-eu report.pdf.anykms
      anykms rewrap --key orders --to orders --to backup --context user=7 report.pdf.anykms
    """
    context = read_pairs(pairs, "--context")
    with Stores(stores) as opened:
        from anykms.envelope.keyring import Keyring

        ring, target = Keyring(opened.keys(names)), Keyring(opened.keys(recipients))
        with files.naming(path):
            found = ring.rewrap_file(path, to=target, context=context, min_generation=min_generation)
        _tell(path, found, as_json)


@click.command()
@click.argument("path", metavar="FILE")
@stores_option
@keys_option
@to_option
@binding_options
@generation_option
@json_option
def reencrypt(
    path: str,
    stores: Sequence[str],
    names: Sequence[str],
    recipients: Sequence[str],
    pairs: Sequence[str],
    no_context: bool,
    aad: str | None,
    aad_file: str | None,
    min_generation: int,
    as_json: bool,
) -> None:
    """Encrypt the message in FILE again, for the keys --to and under a new data key, in place.

    Context and aad stay what they are, so give those it was made with. FILE is replaced at once or not at all,
    once all of it is authenticated; no plaintext touches the disk.

    \b
    Examples:
      anykms reencrypt --key orders --to orders --context tenant=42 report.pdf.anykms
    """
    context, bound = read_context(pairs, no_context), read_aad(aad, aad_file)
    with Stores(stores) as opened:
        from anykms.envelope.keyring import Keyring

        ring, target = Keyring(opened.keys(names)), Keyring(opened.keys(recipients))
        with files.naming(path):
            found = ring.reencrypt_file(
                path, to=target, context=context, aad=bound, min_generation=min_generation
            )
        _tell(path, found, as_json)


def _tell(path: str, found: Rewrapped | Reencrypted, as_json: bool) -> None:
    """Which of the three words happened, and what it does not do."""
    if as_json:
        print_json(
            {
                "operation": found.operation,
                "file": path,
                "generation": found.generation,
                "record_id": found.record_id.hex(),
                "recipients": [str(uri) for uri in found.recipients],
                "removed": [str(uri) for uri in found.removed],
                "opened_by": str(found.opened_by),
                "sender_authenticated": found.sender_authenticated,
                "not_achieved": found.not_achieved,
            }
        )
        return
    rows = [("file", path), ("generation", str(found.generation)), ("opened by", str(found.opened_by))]
    rows += [("recipient", str(uri)) for uri in found.recipients]
    rows += [("removed", str(uri)) for uri in found.removed]
    rows += [("not achieved", found.not_achieved)]
    print_table(f"{found.operation}: done", ("", "now"), rows)


class _Counted:
    """A sink that knows how many bytes it took."""

    def __init__(self, output: files.Output) -> None:
        self._output = output
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take all of ``data``."""
        self._output.write(data)
        self.size += len(data)
        return len(data)


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
