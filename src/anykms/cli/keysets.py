"""``anykms keyset``: logical keys that outlive their keys."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from anykms.cli.anchoring import root_options, sealers_option, sealing_keys, trusted
from anykms.cli.connecting import Stores
from anykms.cli.failures import ExitCode, usage
from anykms.cli.options import json_option, stores_option
from anykms.cli.terminal import print_json, print_table, shown, warn
from anykms.errors import KeyNotFoundError

if TYPE_CHECKING:
    from anykms.client import Key, KMSClient
    from anykms.keys import KeyInfo, KeyURI
    from anykms.keyset import Keyset
    from anykms.trust import TrustRoot

_name_argument = click.argument("name", metavar="KEYSET")
_file_option = click.option(
    "--file", "path", metavar="FILE", help="The keyset's file. Default: KEYSET.keyset in this directory."
)
_key_option = click.option("--key", metavar="NAME", required=True, help="The key: its name or URI.")
_reason_option = click.option("--reason", metavar="TEXT", help="Why; kept in the keyset.")
_protect_option = click.option(
    "--protect-days",
    metavar="DAYS",
    type=click.IntRange(1, 36500),
    help="How long it encrypts, signs or MACs. Default: 730.",
)
_process_option = click.option(
    "--process-days",
    metavar="DAYS",
    type=click.IntRange(0, 36500),
    help="How long it decrypts or verifies after that. Default: 1095; signing keys without end.",
)


_expires_option = click.option(
    "--expires",
    metavar="DAYS",
    type=click.IntRange(1, 36500),
    help="Days until the document is no longer to be used, unless it is edited before. Default: never.",
)


def _reading(function: Callable[..., None]) -> Callable[..., None]:
    """A command that is given the keyset, whether JSON is wanted, and its own options."""

    @functools.wraps(function)
    def run(
        name: str, path: str | None, root_file: str, ledger_file: str | None, as_json: bool, **own: Any
    ) -> None:
        from anykms.keyset import Keyset

        with trusted(root_file, ledger_file) as anchor:
            found = Keyset.load(_path(name, path), anchor, name=name)
        function(found, as_json, **own)

    for option in (json_option, root_options, _file_option, _name_argument):
        run = option(run)
    return run


def _editing(function: Callable[..., None]) -> Callable[..., None]:
    """A command that is given the editing of a keyset, and its own options."""

    @functools.wraps(function)
    def run(
        name: str,
        path: str | None,
        root_file: str,
        ledger_file: str | None,
        sealers: Sequence[str],
        stores: Sequence[str],
        expires: int | None,
        as_json: bool,
        **own: Any,
    ) -> None:
        with (
            trusted(root_file, ledger_file) as anchor,
            Stores(stores) as opened,
        ):
            edit = Editing(name, _path(name, path), anchor, opened, sealers, _days(expires), as_json)
            function(edit, **own)

    for option in (
        json_option,
        _expires_option,
        stores_option,
        sealers_option,
        root_options,
        _file_option,
        _name_argument,
    ):
        run = option(run)
    return run


@click.group()
def keyset() -> None:
    """Make, edit and check keysets: sealed documents that say which keys stand behind one name.

    Each edit writes a new sealed generation, at once or not at all. Only transitions of NIST SP 800-57 are made.
    """


@keyset.command()
@_editing
@_key_option
@_protect_option
@_process_option
def create(edit: Editing, key: str, protect_days: int | None, process_days: int | None) -> None:
    """Make KEYSET with one active key, its primary.

    \b
    Example:
      anykms keyset create orders --key orders-1 --seal-with admin --root root.json
    """
    from anykms.keyset import Keyset

    protect, process = _days(protect_days), _days(process_days)
    edit.save(Keyset.create(edit.name, edit.key(key), protect_for=protect, process_for=process))


@keyset.command()
@_reading
def show(found: Keyset, as_json: bool) -> None:
    """Show the members of KEYSET: state, dates, and which is the primary.

    \b
    Examples:
      anykms keyset show orders --root root.json
      anykms keyset show orders --root root.json --json | jq -r .document.primary
    """
    _print(found, as_json)


@keyset.command()
@_editing
@_key_option
@click.option("--activate", is_flag=True, help="Active at once, and no primary. Default: waiting.")
@_protect_option
@_process_option
def add(edit: Editing, key: str, activate: bool, protect_days: int | None, process_days: int | None) -> None:
    """Add a key to KEYSET, waiting in pre-activation: a signing key is published before it signs.

    \b
    Example:
      anykms keyset add orders --key orders-2 --seal-with admin --root root.json
    """
    protect, process = _days(protect_days), _days(process_days)
    added = edit.load().add(edit.key(key), activate=activate, protect_for=protect, process_for=process)
    edit.save(added)


@keyset.command()
@_editing
@_key_option
@_reason_option
def promote(edit: Editing, key: str, reason: str | None) -> None:
    """Make a member of KEYSET active and the primary.

    \b
    Example:
      anykms keyset promote orders --key orders-2 --seal-with admin --root root.json
    """
    found = edit.load()
    edit.save(found.promote(_member(found, key), reason=reason))


@keyset.command()
@_editing
@click.option(
    "--to", metavar="URI", required=True, help="Keystore or key service that the new key is made in."
)
@click.option("--as", "key_name", metavar="NAME", help="Name of the new key. Default: KEYSET-N.")
@click.option(
    "--algorithm", metavar="NAME", help="Of the new key. Default: the old one's, or the provider's own."
)
@_reason_option
def succeed(edit: Editing, to: str, key_name: str | None, algorithm: str | None, reason: str | None) -> None:
    """Generate a new key, make it the primary of KEYSET, and deactivate the old primary.

    What the old key protected still opens and verifies. --to may name another cloud: that moves the keyset there.

    \b
    Examples:
      anykms keyset succeed orders --to local:keys.db --seal-with admin --root root.json
      anykms keyset succeed orders --to azurekms://my-vault.vault.azure.net --seal-with admin --root root.json
    """
    from anykms.algorithms import KeyPurpose
    from anykms.keys import KeyConf

    found = edit.load()
    old = found.member(found.primary).info
    kept = None if found.purpose is KeyPurpose.ENCRYPT_DECRYPT else str(old.algorithm)
    conf = KeyConf(
        key_name or f"{edit.name}-{len(found.members) + 1}",
        found.purpose,
        algorithm=algorithm or kept,
        key_size=old.key_size if algorithm is None and kept is not None else None,
    )
    with Stores([to]) as target:
        client = target.only()
        edit.save(found.succeed(client.key(client.generate_key(conf)), reason=reason))


def _moving(command: str, state: str, text: str) -> None:
    @keyset.command(
        command,
        help=f"{text}\n\n\b\nExample:\n"
        f'  anykms keyset {command} orders --key orders-1 --reason "why" --seal-with admin --root root.json',
    )
    @_editing
    @_key_option
    @_reason_option
    def move(  # pyright: ignore[reportUnusedFunction] # registered with the group
        edit: Editing, key: str, reason: str | None
    ) -> None:
        found = edit.load()
        edit.save(found.move(_member(found, key), state, reason=reason))


_moving("suspend", "suspended", "Let a member of KEYSET do nothing, until it is promoted again.")
_moving("deactivate", "deactivated", "Let a member of KEYSET only decrypt and verify, from now on for good.")
_moving("compromise", "compromised", "Let a member of KEYSET do nothing any more: someone else has the key.")
_moving(
    "destroyed", "destroyed", "Note that a member's key is destroyed; destroy it with 'anykms keys destroy'."
)


@keyset.command()
@_editing
@_key_option
def remove(edit: Editing, key: str) -> None:
    """Take a member out of KEYSET: one that was never active, or whose key is destroyed.

    \b
    Example:
      anykms keyset remove orders --key orders-1 --seal-with admin --root root.json
    """
    found = edit.load()
    edit.save(found.remove(_member(found, key)))


@keyset.command()
@_reading
@stores_option
def check(found: Keyset, as_json: bool, stores: Sequence[str]) -> None:
    """Compare KEYSET with what the providers say of its keys now. Exit code 5: they differ.

    Whichever is stricter wins when a key is used; this finds what someone changed in a console.

    \b
    Example:
      anykms keyset check orders --root root.json
    """
    with Stores(stores) as opened:
        drifts = found.check(lambda info: _client_of(opened, info))
    ending = found.ending()
    if as_json:
        print_json(
            {
                "drift": [
                    {"key": str(d.key), "expected": d.expected, "found": d.found, "stricter": d.stricter}
                    for d in drifts
                ],
                "ending": ending,
            }
        )
    else:
        for text in ending:
            warn(text)
        rows = [(str(d.key), d.expected, d.found, d.stricter) for d in drifts]
        if rows:
            print_table(f"{len(rows)} differences", ("key", "keyset", "provider", "stricter"), rows)
        else:
            click.echo(f"Keyset {shown(found.name)}: its providers agree")
    if drifts:
        raise click.exceptions.Exit(ExitCode.STATE)


@keyset.command()
@_reading
def jwks(found: Keyset, as_json: bool) -> None:
    """Print the public keys of the signing KEYSET as a JWK Set (RFC 7517); JSON with or without --json.

    \b
    Example:
      anykms keyset jwks releases --root root.json > jwks.json
    """
    print_json(found.jwks())


class Editing:
    """A keyset that is being edited, and all that it takes. The sealing keys are found before anything is made."""

    def __init__(
        self,
        name: str,
        path: str,
        root: TrustRoot,
        opened: Stores,
        sealers: Sequence[str],
        expires: timedelta | None,
        as_json: bool,
    ) -> None:
        self.name = name
        self._path = path
        self._root = root
        self._opened = opened
        self._signers = sealing_keys(opened, sealers)
        root.check_signers(self._signers)
        self._expires = expires
        self._as_json = as_json

    def load(self) -> Keyset:
        """The keyset as it is."""
        from anykms.keyset import Keyset

        return Keyset.load(self._path, self._root, name=self.name)

    def key(self, name: str) -> Key:
        """A key of the named keystores."""
        client, info = self._opened.find(name)
        return client.key(info)

    def save(self, edited: Keyset) -> None:
        """Seal it as the next generation, write it, and say so."""
        expires = None if self._expires is None else self._root.clock() + self._expires
        saved = edited.save(self._path, self._root, signers=self._signers, expires=expires)
        if self._as_json:
            _print(saved, True)
            return
        primary = saved.member(saved.primary)
        click.echo(
            f"Keyset {shown(saved.name)}: generation {saved.generation}, {len(saved.members)} members, "
            f"primary {shown(str(primary.info.uri))} ({primary.state})"
        )


def _path(name: str, path: str | None) -> str:
    return path or f"{name}.keyset"


def _days(days: int | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def _member(found: Keyset, key: str) -> KeyURI:
    """The member of that name or URI."""
    from anykms.keys import KeyURI

    if "://" in key:
        return KeyURI.from_spelling(key)
    named = [member.uri for member in found.members if member.info.name == key]
    if len(named) > 1:
        raise usage(f"{len(named)} members are called {shown(key)}", "name it by its URI")
    if not named:
        raise KeyNotFoundError(f"the keyset {found.name} has no member {key!a}", key=key)
    return named[0]


def _client_of(opened: Stores, info: KeyInfo) -> KMSClient | None:
    """The one client of the key's provider; among several, the one that knows the key."""
    fitting = [client for client in opened.clients if client.provider == info.provider]
    if len(fitting) <= 1:
        return fitting[0] if fitting else None
    for client in fitting:
        try:
            client.get_key(str(info.uri))
        except KeyNotFoundError:
            continue
        return client
    return None


def _print(found: Keyset, as_json: bool) -> None:
    from anykms.keyset import KEYSET
    from anykms.trust import time_text

    if as_json:
        print_json({"generation": found.generation, "document": json.loads(KEYSET.write(found))})
        return
    for text in found.ending():
        warn(text)
    rows = [
        (
            "* " + member.info.name if member.uri == found.primary else "  " + member.info.name,
            str(member.state),
            time_text(member.activated_at) or "-",
            time_text(member.protect_until) or "-",
            time_text(member.process_until) or "-",
            member.reason or "-",
            str(member.info.uri),
        )
        for member in found.members
    ]
    columns = ("key", "state", "active from", "protects until", "processes until", "reason", "uri")
    print_table(f"{found.name}: {found.purpose}, generation {found.generation}", columns, rows)
