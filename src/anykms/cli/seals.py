"""``anykms trust``: seal, countersign, show and open documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from anykms.cli import files
from anykms.cli.anchoring import read_document, root_options, sealers_option, sealing_keys, trusted
from anykms.cli.connecting import Stores
from anykms.cli.failures import usage
from anykms.cli.options import force_option, input_argument, json_option, output_option, stores_option
from anykms.cli.terminal import print_json, print_table, shown

if TYPE_CHECKING:
    from anykms.trust import UnverifiedSeal

_kind_option = click.option(
    "--kind",
    required=True,
    type=click.Choice(["keyinfo", "keyconf", "policy"], case_sensitive=False),
    help="What the document is.",
)


@click.group()
def trust() -> None:
    """Seal documents that name, configure or limit keys, and check such seals.

    A sealed document can lie anywhere; the trust root must be guarded as code is.
    """


@trust.command()
@click.option(
    "--key",
    "names",
    metavar="NAME",
    multiple=True,
    required=True,
    help="Signing key that may seal; may be repeated.",
)
@click.option(
    "--threshold", metavar="N", type=int, default=1, show_default=True, help="How many of them it takes."
)
@click.option(
    "--audience",
    metavar="TEXT",
    default="",
    help="The environment that documents must be for, for example shop/production.",
)
@output_option
@stores_option
@force_option
def root(
    names: Sequence[str], threshold: int, audience: str, output: str, stores: Sequence[str], force: bool
) -> None:
    """Write a trust root: the public keys that may seal documents, and how many of them it takes.

    \b
    Examples:
      anykms trust root --key admin -o root.json
      anykms trust root --key alice --key bob --key carol --threshold 2 --audience shop/production -o root.json
    """
    from anykms.trust import TrustRoot

    files.check_output(output, force)
    with Stores(stores) as opened:
        keys = [key.public_key() for key in opened.keys(names)]
    text = TrustRoot(keys, threshold=threshold, audience=audience).to_json()
    files.write(output, text, force=force, private=False)


@trust.command()
@click.argument("source", metavar="SOURCE")
@_kind_option
@click.option(
    "--name", metavar="NAME", help="What the application asks for it by. Default: the key's or conf's name."
)
@click.option(
    "--generation", metavar="N", type=int, required=True, help="Higher than that of the document before."
)
@click.option("--audience", metavar="TEXT", default="", help="As in the trust root.")
@click.option(
    "--expires",
    metavar="DAYS",
    type=click.IntRange(1, 36500),
    help="Days until it is no longer to be used. Default: never.",
)
@sealers_option
@output_option
@stores_option
@force_option
def seal(
    source: str,
    kind: str,
    name: str | None,
    generation: int,
    audience: str,
    expires: int | None,
    sealers: Sequence[str],
    output: str,
    stores: Sequence[str],
    force: bool,
) -> None:
    """Seal the KeyInfo of the key SOURCE, or the KeyConf or Policy in the JSON file SOURCE.

    A file may leave out what has its default.

    \b
    Examples:
      anykms trust seal orders --kind keyinfo --generation 1 --seal-with admin -o orders.keyinfo
      anykms trust seal conf.json --kind keyconf --generation 3 --expires 30 --seal-with admin -o orders.keyconf
      anykms trust seal policy.json --kind policy --name production --generation 1 --seal-with admin -o policy.sealed
    """
    from anykms.trust import seal as make_seal

    files.check_output(output, force)
    with Stores(stores) as opened:
        document = opened.find(source)[1] if kind == "keyinfo" else _document(kind, read_document(source))
        sealed = make_seal(
            document,
            signers=sealing_keys(opened, sealers),
            generation=generation,
            name=name,
            audience=audience,
            expires=None if expires is None else datetime.now(UTC) + timedelta(days=expires),
        )
    files.write(output, sealed, force=force, private=False)


@trust.command()
@input_argument
@sealers_option
@output_option
@stores_option
@force_option
def countersign(source: str, sealers: Sequence[str], output: str, stores: Sequence[str], force: bool) -> None:
    """Add a signature to the sealed FILE. Look at it first with 'anykms trust show'.

    \b
    Example:
      anykms trust countersign orders.keyinfo --seal-with bob -o orders.keyinfo --force
    """
    from anykms.trust import UnverifiedSeal
    from anykms.trust import countersign as add_signatures

    files.check_output(output, force)
    data = read_document(source)
    with Stores(stores) as opened:
        sealed = add_signatures(data, sealing_keys(opened, sealers), expected=UnverifiedSeal.read(data))
    files.write(output, sealed, force=force, private=False)


@trust.command()
@input_argument
@json_option
def show(source: str, as_json: bool) -> None:
    """Show what the sealed FILE (default: standard input) claims of itself. Nothing of it is verified.

    \b
    Example:
      anykms trust show orders.keyinfo
    """
    from anykms.trust import UnverifiedSeal

    seal_ = UnverifiedSeal.read(read_document(source))
    claims = _claims(seal_)
    if as_json:
        print_json({"verified": False, "seal": claims, "document": dict(seal_.document)})
        return
    rows = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in claims.items()]
    rows += [(f"document: {name}", json.dumps(value)) for name, value in seal_.document.items()]
    print_table("UNVERIFIED: what the document claims of itself", ("", "claim"), rows)


@trust.command("open")
@input_argument
@_kind_option
@click.option("--name", metavar="NAME", required=True, help="The name that it must be for.")
@root_options
@json_option
def open_(source: str, kind: str, name: str, root_file: str, ledger_file: str | None, as_json: bool) -> None:
    """Print the document in the sealed FILE (default: standard input), once its seal has been checked.

    Exit code 3: altered, expired, older than one seen before, meant for another use, or not signed by enough keys.

    \b
    Examples:
      anykms trust open orders.keyinfo --kind keyinfo --name orders --root root.json
      anykms trust open policy.sealed --kind policy --name production --root root.json --json | jq .document
    """
    from anykms.trust import KEY_CONF, KEY_INFO, POLICY, PayloadType

    data = read_document(source)
    kinds: dict[str, PayloadType[Any]] = {"keyinfo": KEY_INFO, "keyconf": KEY_CONF, "policy": POLICY}
    with trusted(root_file, ledger_file) as anchor:
        opened = anchor.open_sealed(data, kinds[kind], name=name)
    document: dict[str, object] = json.loads(kinds[kind].write(opened.document))
    if as_json:
        print_json(
            {
                "verified": True,
                "generation": opened.generation,
                "signed_by": list(opened.signed_by),
                "document": document,
            }
        )
        return
    print_table(
        f"{name}, generation {opened.generation}, {len(opened.signed_by)} signatures",
        ("", ""),
        [(field, json.dumps(value)) for field, value in document.items()],
    )


def _document(kind: str, text: bytes) -> Any:
    from anykms.policy import Policy
    from anykms.trust import KEY_CONF, POLICY

    payload_type, defaults = (
        (KEY_CONF, _CONF_DEFAULTS) if kind == "keyconf" else (POLICY, json.loads(Policy().to_json()))
    )
    try:
        given = json.loads(text)
        return payload_type.read({**defaults, **given})
    except (ValueError, TypeError) as error:
        raise usage(f"the file is no {kind}: {shown(str(error))[:200]}", "see docs/keysets.md") from None


_CONF_DEFAULTS: dict[str, object] = {
    "algorithm": None,
    "key_size": None,
    "protection_level": None,
    "tags": {},
    "destroy_window": None,
    "rotation_period": None,
}


def _claims(found: UnverifiedSeal) -> dict[str, object]:
    return {
        "payload_type": found.payload_type,
        "name": found.name,
        "audience": found.audience,
        "generation": found.generation,
        "issued": found.issued.isoformat(),
        "expires": None if found.expires is None else found.expires.isoformat(),
        "keyids": list(found.keyids),
    }
