"""The contract, bound to acmekms."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from acmekms import AcmeProvider, Vault

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


def vault(host: str) -> Harness:
    store = Vault()

    def advance(step: timedelta) -> None:
        store.ahead += step

    return Harness(open_provider=lambda: AcmeProvider(store, host), advance=advance)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with vault("one.acmekms.example") as opened:
        yield opened


@pytest.fixture(scope="module")
def harnesses(harness: Harness) -> Iterator[tuple[Harness, Harness]]:
    with vault("two.acmekms.example") as other:
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


class TestCross(CrossProviderContract): ...
