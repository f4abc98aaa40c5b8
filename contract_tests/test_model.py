"""The local keystore as the model, against each cloud: any history of keys has the same outcomes on both."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from anykms.keys import ConnectionURI, KeyInfo
from anykms.provider import Provider, WrapContext
from anykms.registry import open_provider
from anykms_contract import Harness, ObservedProvider
from anykms_contract.model import ALLOWED, explore
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator
from anykms_local import LocalProvider

EXAMPLES: Final = int(os.environ.get("ANYKMS_MODEL_EXAMPLES", "6"))
"""Histories for each store. Who asks for more by the variable gets a shorter history too, where one differs."""
PAGE: Final = Path(__file__).parents[1] / "docs" / "contract.md"


@contextmanager
def local(
    folder: Path, change: Callable[[Provider], Provider] = lambda provider: provider
) -> Generator[Harness]:
    where, ahead = ConnectionURI.parse(f"local://{folder}/keys.db"), [timedelta()]

    def advance(step: timedelta) -> None:
        ahead[0] += step

    with Harness(
        open_provider=lambda: change(
            LocalProvider.connect(where, create=True, clock=lambda: datetime.now(UTC) + ahead[0])
        ),
        advance=advance,
    ) as opened:
        yield opened


@contextmanager
def emulated(cloud: Any, **options: Any) -> Generator[Harness]:
    with (
        cloud,
        Harness(
            open_provider=lambda: open_provider(cloud.uri, **cloud.options, **options),
            advance=cloud.clock.advance,
            names_return=True,
        ) as opened,
    ):
        yield opened


def aws() -> Any:
    return emulated(AWSEmulator())


def gcp() -> Any:
    cloud = GCPEmulator()
    return emulated(cloud, clock=cloud.clock.now)


def vault() -> Any:
    cloud = AzureEmulator(recoverable_days=30)
    return emulated(cloud, clock=cloud.clock.now)


def hsm() -> Any:
    cloud = AzureEmulator(sku="hsm", recoverable_days=30)
    return emulated(cloud, clock=cloud.clock.now)


@pytest.mark.parametrize("cloud", [aws, gcp, vault, hsm])
def test_any_history_has_the_models_outcomes(tmp_path: Path, cloud: Callable[[], Any]) -> None:
    with local(tmp_path) as model, cloud() as subject:
        explore(model, subject, examples=EXAMPLES, shrink="ANYKMS_MODEL_EXAMPLES" in os.environ)


class EnablesOnCancel(ObservedProvider):
    """Gives ENABLED when a destruction is cancelled."""

    def cancel_destruction(self, info: KeyInfo) -> None:
        super().cancel_destruction(info)
        super().set_enabled(info, True)


class ForgetsOldVersions(ObservedProvider):
    """Unwraps with the current version, whichever wrapped."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, self.describe_key(info).current_version, context)


@pytest.mark.parametrize("mutant", [EnablesOnCancel, ForgetsOldVersions])
def test_a_seeded_bug_is_found(tmp_path: Path, mutant: type[ObservedProvider]) -> None:
    model_folder, subject_folder = tmp_path / "model", tmp_path / "subject"
    model_folder.mkdir()
    subject_folder.mkdir()
    with (
        local(model_folder) as model,
        local(subject_folder, mutant) as subject,
        pytest.raises(AssertionError),
    ):
        explore(model, subject, examples=100, uses=["wrap"], repeatable=True)


def test_every_allowed_difference_has_its_sentence() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for sentence in ALLOWED.values():
        number, _, text = sentence.partition(": ")
        assert f"**{number}**" in page
        (line,) = [line for line in page.splitlines() if line.startswith(f"- **{number}**")]
        assert text in line.replace("`", "")
