"""The root of the command: finds sub-commands when asked for them, and explains every error."""

from __future__ import annotations

import importlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import click

from anykms.cli.failures import JSON_WANTED, MEANINGS, ExitCode, Failed, explain

GROUP: Final = "anykms.commands"

_OWN: Final = {
    "demo": "anykms.cli.demo",
    "keys": "anykms.cli.keys",
    "encrypt": "anykms.cli.messages",
    "decrypt": "anykms.cli.messages",
    "inspect": "anykms.cli.messages",
    "rewrap": "anykms.cli.messages",
    "reencrypt": "anykms.cli.messages",
    "migrate": "anykms.cli.migrations",
    "sign": "anykms.cli.signatures",
    "verify": "anykms.cli.signatures",
    "trust": "anykms.cli.seals",
    "keyset": "anykms.cli.keysets",
    "audit": "anykms.cli.audit",
}


class Application(click.Group):
    """The group ``anykms``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Its own commands, then those of installed packages."""
        return [*_OWN, *sorted(_installed())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name in _OWN:
            found = getattr(importlib.import_module(_OWN[cmd_name]), cmd_name)
        elif cmd_name in (installed := _installed()):
            found = installed[cmd_name].load()
        else:
            return None
        if not isinstance(found, click.Command):
            raise TypeError(f"the entry point {cmd_name} of group {GROUP} is not a click.Command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands, other packages' commands, exit codes. Other packages are not imported for this."""
        own = [(name, self.get_command(ctx, name)) for name in _OWN]
        with formatter.section("Commands"):
            formatter.write_dl([(n, c.get_short_help_str(70)) for n, c in own if c is not None])
        if installed := _installed():
            with formatter.section("Commands of installed packages"):
                formatter.write_dl(
                    [
                        (name, f"from {point.module}; see: anykms {name} --help")
                        for name, point in sorted(installed.items())
                    ]
                )
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), meaning) for code, meaning in MEANINGS.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the root's own arguments; --help and --version write here already."""
        with _explaining(None):
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the sub-command; whatever it raises ends as text, next step and exit code."""
        with _explaining(ctx):
            return super().invoke(ctx)


@contextmanager
def _explaining(ctx: click.Context | None) -> Generator[None]:
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except (KeyboardInterrupt, EOFError, click.Abort):
        click.echo("anykms: interrupted; no output was changed", err=True)
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:
        raise click.exceptions.Exit(ExitCode.BROKEN_PIPE) from None
    except Exception as error:
        if os.environ.get("ANYKMS_TRACEBACK"):
            raise
        raise Failed(explain(error), bool(ctx and ctx.meta.get(JSON_WANTED))) from error


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _OWN}


@click.group(
    "anykms",
    cls=Application,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: anykms demo",
)
@click.version_option(package_name="anykms", prog_name="anykms")
@click.option(
    "--allow-insecure-endpoint",
    is_flag=True,
    help="Accept an endpoint without TLS in a --store URI: an emulator's on this machine, no other.",
)
def application(allow_insecure_endpoint: bool) -> None:  # read where a keystore is opened
    """Encrypt, decrypt, sign and verify files with keys of a local keystore or a cloud KMS.

    \b
    Keystores and keys are named by URI, from --store or the variable ANYKMS_STORE:
      export ANYKMS_STORE=local:///home/me/keys.db
      anykms store init
      anykms keys generate orders --purpose ENCRYPT_DECRYPT
      anykms encrypt --key orders --context tenant=42 report.pdf -o report.pdf.anykms
      anykms decrypt --key orders --context tenant=42 report.pdf.anykms -o report.pdf
    """
