"""What the attacks are made on: a keystore whose calls are counted, a clock, and an administrator's key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from anykms import Key, KeyConf, KMSClient, Ledger, RetryPolicy, TrustRoot
from anykms.keys import ConnectionURI
from anykms_contract.observed import ObservedProvider
from anykms_local import LocalProvider

Make = Callable[..., Key]


@pytest.fixture
def now() -> list[datetime]:
    """The time, to be set: ``now[0]``."""
    return [datetime(2026, 1, 1, tzinfo=UTC)]


@pytest.fixture
def provider(tmp_path: Path, now: list[datetime]) -> Iterator[ObservedProvider]:
    uri = ConnectionURI.parse(f"local://{tmp_path}/keys.db")
    made = ObservedProvider(LocalProvider.connect(uri, create=True, clock=lambda: now[0]))
    yield made
    made.close()


@pytest.fixture
def client(provider: ObservedProvider, now: list[datetime]) -> KMSClient:
    once = RetryPolicy(max_attempts=1, sleep=lambda seconds: None)
    return KMSClient(provider, retry=once, clock=lambda: now[0].timestamp())


@pytest.fixture
def make(client: KMSClient) -> Make:
    """Makes a key: name, purpose, algorithm."""

    def generate(name: str, purpose: str = "ENCRYPT_DECRYPT", algorithm: str | None = None) -> Key:
        return client.key(client.generate_key(KeyConf(name, purpose, algorithm=algorithm)))

    return generate


@pytest.fixture
def admin(make: Make) -> Key:
    return make("admin", "SIGN_VERIFY", "ES256")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def root(admin: Key, ledger: Ledger, now: list[datetime]) -> TrustRoot:
    """Trusts the administrator's public key, offline, for the audience shop."""
    return TrustRoot([admin.public_key()], audience="shop", ledger=ledger, clock=lambda: now[0])
