"""The contract, bound to Azure Key Vault and Managed HSM as our strict emulator plays them. No deviation."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest

from anykms.keys import ConnectionURI
from anykms_azure import AzureProvider
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
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.recorder import Recorder
from anykms_local import LocalProvider


@contextmanager
def emulated(az: AzureEmulator) -> Generator[Harness]:
    az.requests = Recorder(limit=1_000_000)  # its length is the count of requests while none is forgotten
    with az:
        where = ConnectionURI.parse(az.uri)

        def fail(code: str, status: int) -> Callable[[int], object]:
            return lambda times: az.faults.add(code=code, status=status, times=times)

        with Harness(
            open_provider=lambda: AzureProvider.connect(where, clock=az.clock.now, **az.options),
            advance=az.clock.advance,
            requests=lambda: len(az.requests),
            wire_faults={
                "UnavailableError": fail("ServiceUnavailable", 503),
                "ThrottledError": lambda times: az.faults.add(kind="throttle", times=times),
            },
            lose_wire_reply=lambda passing: az.faults.add(kind="lost reply", after=passing),
            heal_wire=az.faults.clear,
            meanwhile=lambda passing, action: az.faults.add(kind="meanwhile", after=passing, action=action),
            lag=lambda reads: az.lag.behind(reads=reads),
            names_return=True,
            interleavings=5,  # its reads are many
        ) as opened:
            yield opened


@pytest.fixture(scope="module", params=["standard", "hsm"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with emulated(AzureEmulator(sku=request.param, recoverable_days=30)) as opened:
        yield opened


@pytest.fixture(scope="module")
def harnesses(
    harness: Harness, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Harness, Harness]]:
    where = ConnectionURI.parse(f"local://{tmp_path_factory.mktemp('store')}/keys.db")
    with Harness(open_provider=lambda: LocalProvider.connect(where, create=True)) as local:
        yield harness, local


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


class TestWithLocal(CrossProviderContract): ...
