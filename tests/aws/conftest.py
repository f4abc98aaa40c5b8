"""An AWS KMS emulator for each test, and a client whose waits take no time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anykms.client import KMSClient
from anykms.keys import ConnectionURI
from anykms.retrying import RetryPolicy
from anykms_aws import AWSProvider, client_config
from anykms_emulators.aws import AWSEmulator

Connect = Callable[[], KMSClient]


class Waits:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.seconds.append(seconds)

    def policy(self, max_attempts: int = 5) -> RetryPolicy:
        return RetryPolicy(
            max_attempts=max_attempts, sleep=self.sleep, clock=lambda: self.now, jitter=lambda: 0.5
        )


@pytest.fixture
def aws() -> Iterator[AWSEmulator]:
    with AWSEmulator(replica_regions=("us-east-1",)) as emulator:
        yield emulator


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def new_kms(aws: AWSEmulator) -> Iterator[Callable[[], Any]]:
    """Makes clients of the SDK, of one session, for that takes long to make."""
    opened: list[Any] = []

    def make() -> Any:
        opened.append(
            importlib.import_module("boto3").client("kms", config=client_config(5.0), **aws.client_kwargs())
        )
        return opened[-1]

    yield make
    for made in opened:
        made.close()


@pytest.fixture
def connect(new_kms: Callable[[], Any], waits: Waits) -> Connect:
    """Connects anew, as a new process would."""

    def open_client() -> KMSClient:
        provider = AWSProvider.connect(
            ConnectionURI.parse("awskms:///"), client=new_kms(), allow_insecure_endpoint=True
        )
        return KMSClient(provider, retry=waits.policy())

    return open_client


@pytest.fixture
def client(connect: Connect) -> KMSClient:
    return connect()


@pytest.fixture
def kms(new_kms: Callable[[], Any]) -> Any:
    """Plain boto3, for what other people do to keys."""
    return new_kms()
