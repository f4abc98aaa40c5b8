"""The contract, bound to the local keystore. No deviation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anykms.keys import ConnectionURI
from anykms_contract import (
    AsymmetricDecryptionContract,
    CapabilityContract,
    ConsistencyContract,
    CrossProviderContract,
    EnvelopeContract,
    ErrorsContract,
    Harness,
    KeyInfoContract,
    LifecycleContract,
    MACContract,
    SigningContract,
    StateContract,
    WrappingContract,
)
from anykms_local import LocalProvider


class Clock:
    """The system's time, moved forward."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def advance(self, step: timedelta) -> None:
        self.ahead += step


def keystore(folder: Path) -> Harness:
    clock, uri = Clock(), f"local://{folder}/keys.db"
    where = ConnectionURI.parse(uri)
    return Harness(
        open_provider=lambda: LocalProvider.connect(where, create=True, clock=clock),
        advance=clock.advance,
        process_uri=uri,
        signatures=32,
    )


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with keystore(tmp_path_factory.mktemp("store")) as opened:
        yield opened


@pytest.fixture(scope="module")
def harnesses(
    harness: Harness, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Harness, Harness]]:
    with keystore(tmp_path_factory.mktemp("other")) as other:
        yield harness, other


class TestLifecycle(LifecycleContract): ...


class TestStates(StateContract): ...


class TestConsistency(ConsistencyContract): ...


class TestCapabilities(CapabilityContract): ...


class TestKeyInfo(KeyInfoContract): ...


class TestWrapping(WrappingContract): ...


class TestSigning(SigningContract): ...


class TestMAC(MACContract): ...


class TestAsymmetricDecryption(AsymmetricDecryptionContract): ...


class TestEnvelope(EnvelopeContract): ...


class TestErrors(ErrorsContract): ...


class TestCrossStore(CrossProviderContract): ...
