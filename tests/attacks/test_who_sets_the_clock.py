"""Whoever can set the clock, or delete and damage the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from anykms import Key, KeyInfo, Keyset, KMSClient, Ledger, TrustRoot, errors, seal
from anykms.errors import InvalidArgumentError, SealError

Make = Callable[..., Key]


def sealed(key: Key, admin: Key, now: list[datetime], days: int | None = 30, generation: int = 1) -> bytes:
    return seal(
        key.info,
        signers=[admin],
        generation=generation,
        audience="shop",
        expires=None if days is None else now[0] + timedelta(days=days),
        clock=lambda: now[0],
    )


def test_setting_the_clock_back_revives_nothing(
    make: Make, admin: Key, root: TrustRoot, now: list[datetime]
) -> None:
    """The ledger remembers when it last was asked."""
    data = sealed(make("orders"), admin, now)
    root.open(data, KeyInfo, name="orders")
    now[0] += timedelta(days=29)
    root.open(data, KeyInfo, name="orders")
    now[0] += timedelta(days=2)
    with pytest.raises(SealError):
        root.open(data, KeyInfo, name="orders")
    now[0] -= timedelta(days=10)
    with pytest.raises(SealError):
        root.open(data, KeyInfo, name="orders")


def test_a_document_from_the_future(make: Make, admin: Key, root: TrustRoot, now: list[datetime]) -> None:
    data = sealed(make("orders"), admin, now, days=None)
    now[0] -= timedelta(minutes=6)
    with pytest.raises(SealError):
        root.open(data, KeyInfo, name="orders")
    now[0] += timedelta(minutes=2)
    assert root.open(data, KeyInfo, name="orders")


def test_a_small_step_back_is_no_attack(make: Make, admin: Key, root: TrustRoot, now: list[datetime]) -> None:
    data = sealed(make("orders"), admin, now)
    now[0] += timedelta(days=1)
    root.open(data, KeyInfo, name="orders")
    now[0] -= timedelta(minutes=30)
    assert root.open(data, KeyInfo, name="orders")


def test_nothing_is_sealed_that_has_expired(make: Make, admin: Key, now: list[datetime]) -> None:
    with pytest.raises(InvalidArgumentError, match="past"):
        sealed(make("orders"), admin, now, days=0)


def test_a_clock_without_a_time_zone(make: Make, admin: Key, now: list[datetime]) -> None:
    data = sealed(make("orders"), admin, now)
    naive = TrustRoot([admin.public_key()], audience="shop", clock=lambda: now[0].replace(tzinfo=None))
    with pytest.raises((InvalidArgumentError, SealError)):
        naive.open(data, KeyInfo, name="orders")


def test_the_ledger_outlives_the_process(make: Make, admin: Key, tmp_path: Path, now: list[datetime]) -> None:
    key = make("orders")
    old, new = sealed(key, admin, now), sealed(key, admin, now, generation=2)

    def fresh() -> TrustRoot:
        return TrustRoot(
            [admin.public_key()], audience="shop", ledger=Ledger(tmp_path / "own.db"), clock=lambda: now[0]
        )

    fresh().open(new, KeyInfo, name="orders")
    with pytest.raises(SealError):
        fresh().open(old, KeyInfo, name="orders")
    assert (os.stat(tmp_path / "own.db").st_mode & 0o777) == 0o600


def test_a_refused_document_does_not_move_the_ledger(
    make: Make, admin: Key, root: TrustRoot, ledger: Ledger, now: list[datetime]
) -> None:
    """A forgery of generation 2**53 - 1 must not lock the honest one out."""
    key = make("orders")
    forged = seal(
        key.info,
        signers=[make("mallory", "SIGN_VERIFY", "ES256")],
        generation=2**53 - 1,
        audience="shop",
        clock=lambda: now[0],
    )
    with pytest.raises(SealError):
        root.open(forged, KeyInfo, name="orders")
    assert ledger.generation("application/vnd.anykms.keyinfo.v1+json", "shop", "orders") == 0
    assert root.open(sealed(key, admin, now), KeyInfo, name="orders")


def test_one_ledger_keeps_names_kinds_and_audiences_apart(
    make: Make, admin: Key, root: TrustRoot, ledger: Ledger, now: list[datetime]
) -> None:
    root.open(sealed(make("orders"), admin, now, generation=9), KeyInfo, name="orders")
    assert root.open(sealed(make("payments"), admin, now), KeyInfo, name="payments")
    other = TrustRoot([admin.public_key()], audience="test", ledger=ledger, clock=lambda: now[0])
    data = seal(
        make("tested").info,
        name="orders",
        signers=[admin],
        generation=1,
        audience="test",
        clock=lambda: now[0],
    )
    assert other.open(data, KeyInfo, name="orders")


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be read as one" * 40, b"\0" * 8192]
)
def test_a_damaged_ledger_opens_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.db"
    path.write_bytes(content)
    with pytest.raises((errors.KeystoreError, errors.UnavailableError)):
        Ledger(path)


def test_a_ledger_damaged_while_in_use(
    make: Make, admin: Key, root: TrustRoot, tmp_path: Path, now: list[datetime]
) -> None:
    data = sealed(make("orders"), admin, now)
    root.open(data, KeyInfo, name="orders")
    (tmp_path / "ledger.db").write_bytes(b"x" * 20_000)
    with pytest.raises((errors.KeystoreError, errors.UnavailableError)):
        root.open(data, KeyInfo, name="orders")


def test_a_ledger_is_no_link_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(OSError, match=r"symbolic link|loop"):
        Ledger(tmp_path / "link.db")
    assert not (tmp_path / "elsewhere.db").exists()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_ledger_that_other_users_can_write(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "shared.db"
    Ledger(path).close()
    path.chmod(mode)
    with pytest.raises(errors.KeystoreError, match="other users"):
        Ledger(path)


def test_a_period_does_not_begin_again_when_the_clock_is_set_back(
    make: Make, client: KMSClient, root: TrustRoot, admin: Key, now: list[datetime], tmp_path: Path
) -> None:
    keyset = Keyset.create("orders", make("orders-1"), clock=lambda: now[0])
    keyset.save(tmp_path / "orders.keyset", root, signers=[admin])
    now[0] += timedelta(days=731)
    with pytest.raises(errors.KeyStateError, match="originator-usage"):
        Keyset.load(tmp_path / "orders.keyset", root, name="orders").keyring([client])
    now[0] -= timedelta(days=100)
    with pytest.raises(SealError):
        Keyset.load(tmp_path / "orders.keyset", root, name="orders")
