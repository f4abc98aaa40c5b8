"""The command against the emulators of the clouds, as a person would try it without an account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from anykms.cli.application import application
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.emulator import Emulator
from anykms_emulators.gcp import GCPEmulator


@pytest.fixture(scope="module", params=["awskms", "azurekms", "gcpkms"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, str]]]:
    emulators: dict[str, type[Emulator]] = {
        "awskms": AWSEmulator,
        "azurekms": AzureEmulator,
        "gcpkms": GCPEmulator,
    }
    with emulators[request.param]() as cloud:
        yield cloud.uri, dict(cloud.environment)


def run(
    store: tuple[str, dict[str, str]],
    *arguments: str,
    flags: tuple[str, ...] = ("--allow-insecure-endpoint",),
) -> str:
    uri, environment = store
    result = CliRunner().invoke(application, [*flags, *arguments], env={**environment, "ANYKMS_STORE": uri})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_file_goes_there_and_back(store: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    plain, sealed, back = (tmp_path / name for name in ("plain", "sealed", "back"))
    plain.write_bytes(b"4111 1111 1111 1111")
    name = f"orders-{tmp_path.name[-4:].strip('-_').lower()}x"
    run(store, "keys", "generate", name, "--purpose", "ENCRYPT_DECRYPT")
    run(store, "encrypt", "--key", name, "--context", "tenant=42", str(plain), "-o", str(sealed))
    run(store, "decrypt", "--key", name, "--context", "tenant=42", str(sealed), "-o", str(back))
    assert back.read_bytes() == plain.read_bytes()
    assert name in {row["name"] for row in json.loads(run(store, "keys", "list", "--json"))}


@pytest.mark.parametrize("emulator", [AWSEmulator, GCPEmulator])
def test_an_endpoint_without_tls_needs_the_flag(emulator: type[AWSEmulator | GCPEmulator]) -> None:
    with emulator() as cloud:
        environment = {**cloud.environment, "ANYKMS_STORE": cloud.uri}
        result = CliRunner().invoke(application, ["keys", "list"], env=environment)
    assert result.exit_code != 0
    assert "allow_insecure_endpoint" in str(result.exception) + result.output
