"""What keysets are for: names that outlive keys, signatures of every period, a move between keystores."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anykms import (
    CryptoperiodWarning,
    Key,
    KeyConf,
    KeyInfo,
    Keyring,
    Keyset,
    KMSClient,
    Ledger,
    MemberState,
    PublicKey,
    RetryPolicy,
    TrustRoot,
    errors,
)
from anykms.keys import ConnectionURI
from anykms.keyset import PERIODS
from anykms_contract.observed import ObservedProvider
from anykms_local import LocalProvider

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Place:
    """One keystore, as one cloud among others."""

    def __init__(self, path: Path) -> None:
        uri = ConnectionURI.parse(f"local://{path}")
        self.provider = ObservedProvider(LocalProvider.connect(uri, create=True))
        self.client = KMSClient(self.provider, retry=RetryPolicy(max_attempts=1))

    def key(self, name: str, purpose: str = "ENCRYPT_DECRYPT", algorithm: str | None = None) -> Key:
        return self.client.key(self.client.generate_key(KeyConf(name, purpose, algorithm=algorithm)))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "here.db")
    yield place
    place.client.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "there.db")
    yield place
    place.client.close()


@pytest.fixture
def admin(here: Place) -> Key:
    return here.key("admin", "SIGN_VERIFY", "ES256")


@pytest.fixture
def root(admin: Key, tmp_path: Path) -> TrustRoot:
    return TrustRoot([admin.public_key()], ledger=Ledger(tmp_path / "ledger.db"))


def test_an_application_moves_by_an_edit_of_its_keyset_alone(
    tmp_path: Path, here: Place, there: Place, admin: Key, root: TrustRoot
) -> None:
    path = tmp_path / "orders.keyset"

    def client_of(info: KeyInfo) -> KMSClient:
        ours = str(there.client.get_key("orders-2").uri) if moved else ""
        return there.client if str(info.uri) == ours else here.client

    def application() -> Keyring:
        return Keyset.load(path, root, name="orders").keyring(client_of)

    moved = False
    keyset = Keyset.create("orders", here.key("orders-1")).save(path, root, signers=[admin])
    old = application().encrypt(b"old", context={"tenant": "42"})
    keyset.succeed(there.key("orders-2"), reason="moved").save(path, root, signers=[admin])
    moved = True
    ring = application()
    assert ring.decrypt(old, context={"tenant": "42"}) == b"old"
    new = ring.encrypt(b"new", context={"tenant": "42"})
    assert [key.name for key in ring.keys] == ["orders-2", "orders-1"]
    assert Keyring([there.client.key("orders-2")]).decrypt(new, context={"tenant": "42"}) == b"new"
    with pytest.raises(errors.KeyNotAllowedError):
        Keyring([here.client.key("orders-1")]).decrypt(new, context={"tenant": "42"})
    assert ring.rewrap(old, to=ring).recipients == (ring.keys[0].uri,)


def test_two_active_members_are_both_recipients(here: Place, there: Place) -> None:
    one, two = here.key("orders-1"), there.key("orders-2")
    keyset = Keyset.create("orders", one).add(two, activate=True)
    ring = keyset.keyring(lambda info: here.client if info == one.info else there.client)
    message = ring.encrypt(b"x", context={})
    for key in (one, two):
        assert Keyring([key]).decrypt(message, context={}) == b"x"


def test_a_decrypting_member_without_a_client_is_left_out(here: Place, there: Place) -> None:
    keyset = Keyset.create("orders", here.key("orders-1")).succeed(there.key("orders-2"))
    only_there = keyset.keyring(lambda info: there.client if info.name == "orders-2" else None)
    assert [key.name for key in only_there.keys] == ["orders-2"]


@pytest.mark.parametrize("successor", ["ES256", "Ed25519", "PS256", "ML-DSA-65"])
def test_signatures_of_both_periods_verify_offline(here: Place, successor: str) -> None:
    keyset = Keyset.create("releases", here.key("releases-1", "SIGN_VERIFY", "ES256"))
    old = keyset.signer([here.client]).sign(b"v1")
    keyset = keyset.succeed(here.key("releases-2", "SIGN_VERIFY", successor))
    new = keyset.signer([here.client]).sign(b"v2")
    calls = len(here.provider.calls)
    verifier = keyset.verifier()
    assert verifier.verify(b"v1", old).name == "releases-1"
    assert verifier.verify(b"v2", new).name == "releases-2"
    with pytest.raises(errors.InvalidSignatureError):
        verifier.verify(b"v2", old)
    assert len(here.provider.calls) == calls
    assert [PublicKey.from_jwk(key, key["alg"]).jwk()["kid"] for key in keyset.jwks()["keys"]] == [
        key["kid"] for key in keyset.jwks()["keys"]
    ]


def test_a_digest_is_verified_by_the_members_that_sign_digests(here: Place) -> None:
    keyset = Keyset.create("releases", here.key("releases-1", "SIGN_VERIFY", "ES256")).add(
        here.key("releases-2", "SIGN_VERIFY", "Ed25519"), activate=True
    )
    digest = hashlib.sha256(b"v1").digest()
    signature = keyset.signer([here.client]).sign(digest, prehashed=True)
    assert keyset.verifier().verify(digest, signature, prehashed=True).name == "releases-1"
    with pytest.raises(errors.InvalidSignatureError):
        keyset.verifier().verify(bytes(32), signature, prehashed=True)
    with pytest.raises((errors.InvalidArgumentError, errors.UnsupportedOperationError)):
        keyset.verifier().verify(bytes(31), signature, prehashed=True)


def test_a_jwk_set_overlaps(here: Place) -> None:
    """Published before the first signature, and until nothing signed with it needs to verify."""
    time = [NOW]
    keyset = Keyset.create(
        "releases",
        here.key("releases-1", "SIGN_VERIFY", "ES256"),
        protect_for=timedelta(days=10),
        process_for=timedelta(days=20),
        clock=lambda: time[0],
    ).add(here.key("releases-2", "SIGN_VERIFY", "ES256"))
    first, second = (member.uri for member in keyset.members)
    assert len(keyset.jwks()["keys"]) == 2
    keyset = keyset.promote(second).move(first, "deactivated")
    assert len(keyset.jwks()["keys"]) == 2
    time[0] += timedelta(days=30)
    assert len(keyset.jwks()["keys"]) == 1
    assert len(keyset.move(second, "compromised").jwks()["keys"]) == 0


def test_periods_begin_with_the_activation(here: Place) -> None:
    time = [NOW]
    keyset = Keyset.create("orders", here.key("orders-1"), clock=lambda: time[0]).add(here.key("orders-2"))
    waiting = keyset.members[1]
    assert (waiting.activated_at, waiting.protect_until, waiting.process_until) == (None, None, None)
    time[0] += timedelta(days=100)
    active = keyset.promote(waiting.uri).members[1]
    protect, process = PERIODS[active.info.purpose]
    assert process is not None
    assert active.activated_at == time[0]
    assert active.protect_until == time[0] + protect
    assert active.process_until == time[0] + protect + process
    resumed = keyset.promote(waiting.uri).move(waiting.uri, "suspended")
    time[0] += timedelta(days=1)
    assert resumed.promote(waiting.uri).members[1].protect_until == active.protect_until


def test_ending_names_what_ends(here: Place) -> None:
    time = [NOW]
    keyset = Keyset.create("orders", here.key("orders-1"), clock=lambda: time[0])
    assert keyset.ending() == []
    time[0] += timedelta(days=705)
    (sentence,) = keyset.ending()
    assert "orders-1" in sentence
    ring = keyset.keyring([here.client])
    with pytest.warns(CryptoperiodWarning):
        ring.encrypt(b"x", context={})


def test_a_saved_keyset_reads_back_the_same(tmp_path: Path, here: Place, admin: Key, root: TrustRoot) -> None:
    keyset = Keyset.create("releases", here.key("releases-1", "SIGN_VERIFY", "PS256"))
    keyset = keyset.move(keyset.primary, MemberState.SUSPENDED, reason="audit \N{WARNING SIGN} \U0001f511")
    saved = keyset.save(tmp_path / "k", root, signers=[admin])
    assert saved.generation == 1
    assert Keyset.load(tmp_path / "k", root, name="releases") == saved
    assert [file for file in os.listdir(tmp_path) if file.startswith(".anykms")] == []


def test_of_edits_at_once_one_wins(tmp_path: Path, here: Place, admin: Key, root: TrustRoot) -> None:
    keyset = Keyset.create("orders", here.key("orders-1")).save(tmp_path / "k", root, signers=[admin])
    edits = [keyset.add(here.key(f"orders-{n}")) for n in range(2, 6)]
    outcomes: list[str] = []

    def save(edit: Keyset) -> None:
        try:
            edit.save(tmp_path / "k", root, signers=[admin])
            outcomes.append("saved")
        except errors.ConflictError:
            outcomes.append("conflict")

    threads = [threading.Thread(target=save, args=(edit,)) for edit in edits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 3 + ["saved"]
    assert Keyset.load(tmp_path / "k", root, name="orders").generation == 2


def test_a_crash_between_rename_and_ledger_locks_nobody_out(
    tmp_path: Path, here: Place, admin: Key, root: TrustRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyset = Keyset.create("orders", here.key("orders-1")).save(tmp_path / "k", root, signers=[admin])
    edit = keyset.add(here.key("orders-2"))
    note = Ledger.note

    def crash(self: Ledger, use: tuple[str, str, str], generation: int, digest: bytes, now: datetime) -> None:
        if generation == 2:
            raise KeyboardInterrupt
        note(self, use, generation, digest, now)

    monkeypatch.setattr(Ledger, "note", crash)
    with pytest.raises(KeyboardInterrupt):
        edit.save(tmp_path / "k", root, signers=[admin])
    monkeypatch.undo()
    assert Keyset.load(tmp_path / "k", root, name="orders").generation == 2


def test_a_threshold_needs_as_many_sealers(tmp_path: Path, here: Place, admin: Key) -> None:
    bob = here.key("bob", "SIGN_VERIFY", "ES256")
    root = TrustRoot([admin.public_key(), bob.public_key()], threshold=2)
    keyset = Keyset.create("orders", here.key("orders-1"))
    with pytest.raises(errors.SealError):
        keyset.save(tmp_path / "k", root, signers=[admin])
    assert not (tmp_path / "k").exists()
    keyset.save(tmp_path / "k", root, signers=[admin, bob])
    assert Keyset.load(tmp_path / "k", root, name="orders").members == keyset.members
