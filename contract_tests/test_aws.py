"""The contract, bound to AWS KMS as our strict emulator plays it. No deviation."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from anykms.keys import ConnectionURI
from anykms_aws import AWSProvider, client_config
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
from anykms_local import LocalProvider

SDK = ConnectionURI.parse("awskms:///")


def sdk_client(where: Mapping[str, Any]) -> Any:
    return importlib.import_module("boto3").client("kms", config=client_config(), **where)


@pytest.fixture(scope="class")
def harness() -> Iterator[Harness]:
    # One SDK client for all: it keeps nothing between calls, and takes 0.1 s to make.
    with (
        AWSEmulator() as aws,
        closing(sdk_client(aws.client_kwargs())) as sdk,
        Harness(
            open_provider=lambda: AWSProvider.connect(SDK, client=sdk, allow_insecure_endpoint=True),
            advance=aws.clock.advance,
            requests=lambda: aws.requests.total,
            wire_faults={
                "UnavailableError": lambda times: aws.faults.add(times=times),
                "ThrottledError": lambda times: aws.faults.add(kind="throttle", times=times),
            },
            lose_wire_reply=lambda after: aws.faults.add(kind="lost reply", after=after),
            heal_wire=aws.faults.clear,
            meanwhile=lambda passing, action: aws.faults.add(kind="meanwhile", after=passing, action=action),
            lag=lambda reads: aws.lag.behind(reads=reads),
            names_return=True,
        ) as opened,
    ):
        yield opened


@pytest.fixture(scope="class")
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
