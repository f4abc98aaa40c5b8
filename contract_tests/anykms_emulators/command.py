"""`anykms emulator aws` and its like: run one emulator until Ctrl-C."""

from __future__ import annotations

import json
import signal
import threading
from typing import TYPE_CHECKING, Literal

import click

from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator

if TYPE_CHECKING:
    from anykms_emulators.emulator import Emulator


@click.group()
def emulator() -> None:
    """Run a strict emulator of a cloud's key service on a loopback port."""


def run(cloud: Emulator, *, as_json: bool) -> None:
    """Start `cloud`, print where it is, and serve until Ctrl-C or a termination signal."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` lets it tidy up as Ctrl-C does
    with cloud:
        if as_json:
            click.echo(json.dumps({"uri": cloud.uri, "environment": dict(cloud.environment)}))
        else:
            click.echo(cloud.uri)
            for name, value in cloud.environment.items():
                click.echo(f"export {name}={value}")
            click.echo("Ctrl-C stops it; its keys live in memory only.", err=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("stopped", err=True)


@emulator.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free port.")
@click.option("--region", default="eu-west-1", show_default=True, help="The Region to serve.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of shell lines.")
def aws(port: int, region: str, as_json: bool) -> None:
    """AWS KMS. Its environment variables point every AWS SDK and the aws command here.

    \b
    Examples:
      anykms emulator aws --port 4599
      anykms emulator aws --json
    """
    run(AWSEmulator(region=region, port=port), as_json=as_json)


@emulator.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free port.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of shell lines.")
def gcp(port: int, as_json: bool) -> None:
    """Google Cloud KMS over gRPC. Needs google-cloud-kms.

    \b
    Examples:
      anykms emulator gcp --port 4600
      anykms emulator gcp --json
    """
    # imported here: the other emulators must not need gRPC
    from anykms_emulators.gcp import GCPEmulator

    run(GCPEmulator(port=port), as_json=as_json)


@emulator.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free port.")
@click.option("--vault", default="my-vault", show_default=True, help="The vault's name.")
@click.option(
    "--sku", type=click.Choice(["standard", "premium", "hsm"]), default="standard", show_default=True
)
@click.option("--recoverable-days", type=click.IntRange(7, 90), default=90, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of shell lines.")
def azure(
    port: int, vault: str, sku: Literal["standard", "premium", "hsm"], recoverable_days: int, as_json: bool
) -> None:
    """Azure Key Vault over TLS. Its variables hold a URL, a token and the certificate authority to trust.

    \b
    Examples:
      anykms emulator azure --vault orders --recoverable-days 7
      anykms emulator azure --sku hsm --json
    """
    try:
        cloud = AzureEmulator(vault=vault, sku=sku, recoverable_days=recoverable_days, port=port)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    run(cloud, as_json=as_json)
