"""``anykms demo``: everything once, on a keystore that is thrown away, each step checked."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import click

from anykms import errors
from anykms.cli.failures import ExitCode
from anykms.cli.files import write
from anykms.cli.options import json_option
from anykms.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from anykms.client import Key, KMSClient

_DOCUMENT: Final = b"name,card\nAda,4111 1111 1111 1111\nGrace,5500 0000 0000 0004\n"
_TENANT: Final = {"tenant": "42"}
_AAD: Final = b"customers.csv"


@dataclass(frozen=True, slots=True)
class Step:
    """A step, what it must give, and what it gave."""

    step: str
    expected: str
    got: str
    ok: bool


class StepFailedError(Exception):
    """A step did not do what it should; the rest would prove nothing."""


class Demo:
    """The steps in order, over one keystore in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now = datetime.now(UTC)
        self.steps: list[Step] = []

    def run(self) -> None:
        """All steps, up to the first that fails."""
        from anykms.client import KMSClient
        from anykms.registry import open_provider

        uri = "local://" + quote(str(self._folder / "keys.db"))
        with KMSClient(open_provider(uri, create=True, clock=lambda: self._now)) as client:
            mode = stat.S_IMODE((self._folder / "keys.db").stat().st_mode)
            self._note("make a keystore in a temporary directory", "mode 0600", f"mode {mode:04o}")
            self._encryption(client)
            self._signatures(client)

    def _encryption(self, client: KMSClient) -> None:
        from anykms import KeyConf, KeyPurpose, Keyring

        def generate(name: str) -> Key:
            return client.key(
                client.generate_key(KeyConf(name, KeyPurpose.ENCRYPT_DECRYPT, destroy_window=7))
            )

        orders, backup, stranger = generate("orders"), generate("orders-backup"), generate("stranger")
        self._note(
            "generate the keys orders, orders-backup and stranger",
            "3 keys",
            f"{len(list(client.list_keys()))} keys",
        )

        both, by_orders, by_backup = Keyring([orders, backup]), Keyring([orders]), Keyring([backup])
        plain, sealed = self._folder / "customers.csv", self._folder / "customers.csv.anykms"
        plain.write_bytes(_DOCUMENT)
        write(
            str(sealed),
            both.encrypt(plain.read_bytes(), context=_TENANT, aad=_AAD),
            force=False,
            private=False,
        )
        message = sealed.read_bytes()
        hidden = b"4111" not in message and len(message) > len(_DOCUMENT)
        self._note(
            "encrypt a file for orders and orders-backup",
            "ciphertext",
            "ciphertext" if hidden else "plaintext",
        )

        def opens(step: str, ring: Keyring, text: bytes = message) -> None:
            same = ring.decrypt(text, context=_TENANT, aad=_AAD) == _DOCUMENT
            self._note(step, "same bytes", "same bytes" if same else "other bytes")

        opens("decrypt it with orders alone", by_orders)
        opens("decrypt it with orders-backup alone", by_backup)

        flipped = bytearray(message)
        flipped[-20] ^= 1
        self._refused(
            "decrypt it with one bit flipped",
            errors.InvalidCiphertextError,
            lambda: both.decrypt(flipped, context=_TENANT, aad=_AAD),
        )
        self._refused(
            "decrypt it as another tenant",
            errors.ContextMismatchError,
            lambda: both.decrypt(message, context={"tenant": "43"}, aad=_AAD),
        )
        self._refused(
            "decrypt it as another file",
            errors.InvalidCiphertextError,
            lambda: both.decrypt(message, context=_TENANT, aad=b"salaries.csv"),
        )
        self._refused(
            "decrypt it with a foreign key",
            errors.KeyNotAllowedError,
            lambda: Keyring([stranger]).decrypt(message, context=_TENANT, aad=_AAD),
        )

        client.disable_key(orders.info)
        self._refused(
            "disable orders, and use it",
            errors.KeyDisabledError,
            lambda: by_orders.decrypt(message, context=_TENANT, aad=_AAD),
        )
        client.enable_key(orders.info)
        opens("enable orders, and use it", by_orders)

        status = client.rotate_key(orders.info)
        self._note("rotate orders", "version 2", f"version {status.current_version}")
        opens("decrypt the old message after the rotation", by_orders)
        opens("encrypt and decrypt a new one", by_orders, both.encrypt(_DOCUMENT, context=_TENANT, aad=_AAD))

        client.schedule_destruction(orders.info)
        self._refused(
            "schedule the destruction of orders, and use it",
            errors.KeyPendingDestructionError,
            lambda: by_orders.decrypt(message, context=_TENANT, aad=_AAD),
        )
        self._now += timedelta(days=8)
        self._refused(
            "set the clock 8 days on: orders is destroyed",
            errors.KeyDestroyedError,
            lambda: client.describe_key(orders.info),
        )
        self._refused(
            "decrypt the message with orders alone",
            errors.KeyDestroyedError,
            lambda: by_orders.decrypt(message, context=_TENANT, aad=_AAD),
        )
        opens("decrypt it with orders-backup, as the ring holds both", both)

    def _signatures(self, client: KMSClient) -> None:
        from anykms import KeyConf, KeyPurpose

        releases = client.key(
            client.generate_key(KeyConf("releases", KeyPurpose.SIGN_VERIFY, algorithm="ES256"))
        )
        signature = releases.sign(_DOCUMENT)
        releases.verify(_DOCUMENT, signature)
        self._note("sign the file with releases (ES256), and verify", "authentic", "authentic")
        public_key = releases.public_key()
        public_key.verify(_DOCUMENT, signature)
        self._note("verify with the public key alone, offline", "authentic", "authentic")
        self._refused(
            "verify another file",
            errors.InvalidSignatureError,
            lambda: public_key.verify(_DOCUMENT + b"Eve,0\n", signature),
        )

    def _refused(self, step: str, kind: type[errors.KMSError], function: Callable[[], object]) -> None:
        got = "not refused"
        try:
            function()
        except errors.KMSError as error:
            got = type(error).__name__
        self._note(step, kind.__name__, got)

    def _note(self, step: str, expected: str, got: str) -> None:
        self.steps.append(Step(step, expected, got, expected == got))
        if expected != got:
            raise StepFailedError


@click.command()
@json_option
def demo(as_json: bool) -> None:
    """Show everything once on a throw-away keystore, each step checked.

    Nothing outside a temporary directory is touched, and that is removed. Exit code 1 if any step does not do what
    it should.

    \b
    Examples:
      anykms demo
      anykms demo --json
    """
    with tempfile.TemporaryDirectory(prefix="anykms-demo-") as folder:
        shown = Demo(Path(folder))
        try:
            shown.run()
        except StepFailedError:
            pass
        except errors.KMSError as error:
            shown.steps.append(
                Step("the step after these", "no error", f"{type(error).__name__}: {error}", False)
            )
    ok = all(step.ok for step in shown.steps)
    if as_json:
        print_json({"ok": ok, "steps": [asdict(step) for step in shown.steps]})
    else:
        rows = [
            (
                str(number),
                step.step,
                step.got if step.ok else f"{step.got}, not {step.expected}",
                "ok" if step.ok else "FAILED",
            )
            for number, step in enumerate(shown.steps, 1)
        ]
        print_table("anykms demo", ("", "step", "result", ""), rows)
        click.echo("Every step did what it should." if ok else "A step failed; please report this.")
    if not ok:
        raise click.exceptions.Exit(ExitCode.FAILED)
