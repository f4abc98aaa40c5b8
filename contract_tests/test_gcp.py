"""The contract, bound to Google Cloud KMS as our strict emulator plays it. No deviation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anykms.keys import ConnectionURI
from anykms_aws import AWSProvider
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
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.gcp import GCPEmulator
from anykms_gcp import GCPProvider
from anykms_local import LocalProvider


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with GCPEmulator() as gcp:
        where = ConnectionURI.parse(gcp.uri)
        with Harness(
            open_provider=lambda: GCPProvider.connect(where, **gcp.options, clock=gcp.clock.now),
            advance=gcp.clock.advance,
            requests=lambda: gcp.requests.total,
            wire_faults={
                "UnavailableError": lambda times: gcp.faults.add(code="UNAVAILABLE", times=times),
                "ThrottledError": lambda times: gcp.faults.add(kind="throttle", times=times),
            },
            lose_wire_reply=lambda passing: gcp.faults.add(kind="lost reply", after=passing),
            heal_wire=gcp.faults.clear,
            meanwhile=lambda passing, action: gcp.faults.add(kind="meanwhile", after=passing, action=action),
            lag=lambda reads: gcp.lag.behind(reads=reads),
        ) as opened:
            yield opened


@pytest.fixture(scope="module")
def harnesses(
    harness: Harness, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Harness, Harness]]:
    where = ConnectionURI.parse(f"local://{tmp_path_factory.mktemp('store')}/keys.db")
    with Harness(open_provider=lambda: LocalProvider.connect(where, create=True)) as local:
        yield harness, local


@pytest.fixture(scope="module")
def aws_harness() -> Iterator[Harness]:
    with AWSEmulator() as aws:
        where = ConnectionURI.parse(aws.uri)
        with Harness(
            open_provider=lambda: AWSProvider.connect(where, **aws.options), names_return=True
        ) as opened:
            yield opened


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


class TestWithAWS(CrossProviderContract):
    @pytest.fixture
    def harnesses(self, harness: Harness, aws_harness: Harness) -> tuple[Harness, Harness]:
        return harness, aws_harness
