"""An Azure emulator for each test, and clients whose waits take no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from azure.core.rest import HttpRequest

from anykms.client import KMSClient
from anykms.keys import ConnectionURI
from anykms.retrying import RetryPolicy
from anykms_azure import AzureProvider
from anykms_emulators.azure import AzureEmulator

Connect = Callable[..., KMSClient]


class Between:
    """A KeyClient with something between it and the network: another caller, or a damaged answer."""

    def __init__(self, keys: Any) -> None:
        self.vault_url: str = keys.vault_url
        self._keys = keys
        self.before: Callable[[HttpRequest], object] = lambda _: None
        self.after: Callable[[HttpRequest, Any], Any] = lambda _, response: response

    def send_request(self, request: HttpRequest, **options: Any) -> Any:
        self.before(request)
        return self.after(request, self._keys.send_request(request, **options))


class Answer:
    """An answer with another document in it."""

    def __init__(self, response: Any, document: object) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self.content = b"{}"
        self._document = document

    def json(self) -> object:
        return self._document


def connect_to(az: AzureEmulator, **options: Any) -> KMSClient:
    """A client with a provider of its own, as a new process has it."""
    given = options if "key_client" in options else {**az.options, **options}
    provider = AzureProvider.connect(ConnectionURI.parse(az.uri), clock=az.clock.now, **given)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return KMSClient(provider, retry=RetryPolicy(sleep=sleep, clock=lambda: now[0], jitter=lambda: 0.5))


@pytest.fixture
def az() -> Iterator[AzureEmulator]:
    with AzureEmulator() as emulator:
        yield emulator


@pytest.fixture
def connect(az: AzureEmulator) -> Connect:
    return partial(connect_to, az)


@pytest.fixture
def connect_elsewhere() -> Callable[..., KMSClient]:
    """Connects to an emulator that the test made itself."""
    return connect_to


@pytest.fixture
def client(connect: Connect) -> KMSClient:
    return connect()


@pytest.fixture
def keys(az: AzureEmulator) -> Any:
    """The official KeyClient, for what other people do to keys."""
    return az.key_client()


@pytest.fixture
def between(keys: Any) -> Between:
    return Between(keys)


@pytest.fixture
def answer() -> type[Answer]:
    return Answer
