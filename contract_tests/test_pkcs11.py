"""The contract, bound to SoftHSM2 tokens. What they cannot do is a capability; no deviation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

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
from anykms_pkcs11 import PKCS11Provider
from softhsm import require_softhsm, softhsm

require_softhsm(__file__)


class Clock:
    """The system's time, moved forward."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def advance(self, step: timedelta) -> None:
        self.ahead += step


def bound(uri: str) -> Harness:
    clock, where = Clock(), ConnectionURI.parse(uri)
    return Harness(
        open_provider=lambda: PKCS11Provider.connect(where, create=True, clock=clock),
        advance=clock.advance,
        process_uri=uri,
    )


@pytest.fixture(scope="module")
def uris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with softhsm(tmp_path_factory.mktemp("softhsm")) as installed:
        yield installed.make("contract"), installed.make("other")


@pytest.fixture(scope="module")
def harness(uris: tuple[str, str]) -> Iterator[Harness]:
    with bound(uris[0]) as opened:
        yield opened


@pytest.fixture(scope="module")
def harnesses(harness: Harness, uris: tuple[str, str]) -> Iterator[tuple[Harness, Harness]]:
    with bound(uris[1]) as other:
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
