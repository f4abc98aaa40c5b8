"""Whoever can edit a keyset's file, its keys in a console, or an edit of it that is under way."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from anykms import (
    CryptoperiodWarning,
    Key,
    KeyInfo,
    Keyring,
    Keyset,
    KMSClient,
    MemberState,
    PublicKey,
    TrustRoot,
    errors,
)
from anykms.errors import ConflictError, KeyStateError, SealError
from anykms.keys import canonical_json
from anykms.keyset import KEYSET, TRANSITIONS
from anykms.provider import Operation
from anykms.trust import pae
from anykms_contract.observed import ObservedProvider

Make = Callable[..., Key]


class Stage:
    """A keyset file, and everything that it takes to edit and to use it."""

    def __init__(
        self,
        path: Path,
        root: TrustRoot,
        admin: Key,
        make: Make,
        client: KMSClient,
        now: list[datetime],
    ) -> None:
        self.path, self.root, self.admin = path, root, admin
        self.make, self.client, self.now = make, client, now

    def create(self, purpose: str = "ENCRYPT_DECRYPT", algorithm: str | None = None) -> Keyset:
        key = self.make("orders-1", purpose, algorithm)
        return self.save(Keyset.create("orders", key, clock=lambda: self.now[0]))

    def save(self, keyset: Keyset) -> Keyset:
        return keyset.save(self.path, self.root, signers=[self.admin])

    def load(self, name: str = "orders") -> Keyset:
        return Keyset.load(self.path, self.root, name=name)

    def ring(self) -> Keyring:
        return self.load().keyring([self.client])

    def edit(self, change: Callable[[dict[str, Any]], object], *, signed: bool = False) -> None:
        """Change the document in the file, with the old signature, or as a new generation by the administrator."""
        envelope: dict[str, Any] = json.loads(self.path.read_bytes())
        statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
        change(statement)
        statement["generation"] += signed
        payload = canonical_json(statement)
        envelope["payload"] = base64.b64encode(payload).decode()
        if signed:
            signature = self.admin.sign(pae(KEYSET.media_type, payload))
            envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        self.path.write_bytes(canonical_json(envelope))

    def refused(self, name: str = "orders") -> None:
        with pytest.raises(SealError, match="not a document that this root trusts"):
            self.load(name)


@pytest.fixture
def stage(
    tmp_path: Path, root: TrustRoot, admin: Key, make: Make, client: KMSClient, now: list[datetime]
) -> Stage:
    return Stage(tmp_path / "orders.keyset", root, admin, make, client, now)


def member(statement: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = statement["document"]["members"][0]
    return found


# The file


def test_an_honest_keyset_works_without_a_call(stage: Stage, provider: ObservedProvider) -> None:
    stage.create()
    calls = len(provider.calls)
    ring = stage.ring()
    assert len(provider.calls) == calls
    assert ring.decrypt(ring.encrypt(b"paid", context={}), context={}) == b"paid"


def test_a_member_replaced_by_the_attackers_key(stage: Stage) -> None:
    stage.create()
    theirs = json.loads(stage.make("attacker").info.to_json())
    stage.edit(lambda found: member(found).update(info=theirs))
    stage.refused()


@pytest.mark.parametrize(
    "change",
    [
        {"state": "deactivated"},
        {"protect_until": "2099-01-01T00:00:00Z"},
        {"process_until": None},
        {"activated_at": "2020-01-01T00:00:00Z"},
        {"reason": "all is well"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_edited_state_or_date(stage: Stage, change: dict[str, Any]) -> None:
    stage.create()
    stage.edit(lambda found: member(found).update(change))
    stage.refused()


def test_a_compromised_key_brought_back_by_an_old_file(stage: Stage) -> None:
    keyset = stage.create()
    old = stage.path.read_bytes()
    stage.save(keyset.move(keyset.primary, "compromised", reason="leaked"))
    stage.path.write_bytes(old)
    stage.refused()


def test_an_old_file_is_not_edited_either(stage: Stage) -> None:
    keyset = stage.create()
    old = stage.path.read_bytes()
    stage.save(keyset.add(stage.make("orders-2")))
    stage.path.write_bytes(old)
    with pytest.raises(SealError):
        stage.save(keyset.add(stage.make("orders-3")))
    assert stage.path.read_bytes() == old


def test_a_keyset_in_the_place_of_another(stage: Stage) -> None:
    stage.create()
    stage.refused("payments")


def test_a_keyset_deleted_and_begun_again(stage: Stage) -> None:
    stage.create()
    stage.path.unlink()
    with pytest.raises(ConflictError, match="found 1"):
        stage.save(Keyset.create("orders", stage.make("attacker"), clock=lambda: stage.now[0]))


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_file(stage: Stage, keep: int) -> None:
    stage.create()
    stage.path.write_bytes(stage.path.read_bytes()[:keep])
    stage.refused()


def test_a_pipe_in_the_place_of_the_file(stage: Stage) -> None:
    os.mkfifo(stage.path)
    with pytest.raises(OSError, match="regular file"):
        stage.load()


SIGNED: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown state": lambda found: member(found).update(state="reactivated"),
    "a purpose that is not the members'": lambda found: found["document"].update(purpose="MAC"),
    "a primary that is no member": lambda found: found["document"].update(
        primary="local://aaaaaaaaaaaaaaaaaaaaaaaaaa/other"
    ),
    "a member twice": lambda found: found["document"].update(members=found["document"]["members"] * 2),
    "no members": lambda found: found["document"].update(members=[]),
    "33 members": lambda found: found["document"].update(members=found["document"]["members"] * 33),
    "dates in the wrong order": lambda found: member(found).update(process_until="2026-01-02T00:00:00Z"),
    "another name within": lambda found: found["document"].update(name="payments"),
    "an unknown member of an entry": lambda found: member(found).update(weight=1),
    "a public key of an encryption key": lambda found: member(found).update(public_key="AAAA"),
    "a date of another spelling": lambda found: member(found).update(changed_at="2026-01-01T00:00:00+00:00"),
    "a primary with a version": lambda found: found["document"].update(
        primary=found["document"]["primary"] + "/1"
    ),
}


@pytest.mark.parametrize("change", SIGNED.values(), ids=SIGNED.keys())
def test_a_signed_document_that_is_no_keyset(
    stage: Stage, change: Callable[[dict[str, Any]], object]
) -> None:
    stage.create()
    stage.edit(lambda found: None, signed=True)
    assert stage.load()
    stage.edit(change, signed=True)
    stage.refused()


def test_a_public_key_that_is_not_the_pinned_one(stage: Stage) -> None:
    """The fingerprint in the KeyInfo decides, even over the administrator's signature."""
    stage.create("SIGN_VERIFY", "ES256")
    other = PublicKey(ec.generate_private_key(ec.SECP256R1()).public_key(), "ES256")
    text = base64.b64encode(other.spki).decode()
    stage.edit(lambda found: member(found).update(public_key=text), signed=True)
    stage.refused()


def test_a_public_key_in_another_spelling(stage: Stage) -> None:
    key = stage.create("SIGN_VERIFY", "ES256").members[0].public_key
    assert key is not None
    loaded = load_der_public_key(key.spki)
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    point = loaded.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    header = key.spki[: -len(loaded.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))]
    compressed = bytearray(header + point)
    compressed[1] -= 32
    compressed[len(header) - 2] -= 32
    assert PublicKey.from_spki(compressed, "ES256").fingerprint == key.fingerprint
    text = base64.b64encode(compressed).decode()
    stage.edit(lambda found: member(found).update(public_key=text), signed=True)
    stage.refused()


def test_a_public_key_read_with_another_algorithm(stage: Stage) -> None:
    stage.create("SIGN_VERIFY", "PS256")
    stage.edit(lambda found: member(found)["info"].update(algorithm="RS256"), signed=True)
    keyset = stage.load()
    with pytest.raises(errors.IntegrityError, match=r"algorithm: expected 'RS256', found 'PS256'"):
        keyset.signer([stage.client]).sign(b"x")


# States


@pytest.mark.parametrize("start", MemberState)
@pytest.mark.parametrize("end", MemberState)
def test_only_the_transitions_of_nist(stage: Stage, start: MemberState, end: MemberState) -> None:
    keyset = Keyset.create("orders", stage.make("orders-1"), clock=lambda: stage.now[0])
    begun = replace(keyset, members=(replace(keyset.members[0], state=start),))
    if end in TRANSITIONS[start]:
        assert begun.move(keyset.primary, end).members[0].state is end
    else:
        with pytest.raises(KeyStateError, match=f"is {start}: that leads to "):
            begun.move(keyset.primary, end)


def test_the_table_of_transitions_has_no_way_back() -> None:
    """From nowhere but a suspension does a key come back to active; from destroyed, to nothing."""
    to_active = {start for start, ends in TRANSITIONS.items() if MemberState.ACTIVE in ends}
    assert to_active == {MemberState.PRE_ACTIVATION, MemberState.SUSPENDED}
    assert TRANSITIONS[MemberState.DESTROYED] == frozenset()
    assert TRANSITIONS[MemberState.COMPROMISED] == {MemberState.DESTROYED}


@pytest.mark.parametrize("state", ["suspended", "compromised", "destroyed"])
def test_a_member_that_may_do_nothing(stage: Stage, provider: ObservedProvider, state: str) -> None:
    keyset = stage.create()
    message = stage.ring().encrypt(b"paid", context={})
    keyset = keyset.add(stage.make("orders-2"), activate=True)
    old = keyset.primary
    keyset = keyset.promote(keyset.members[1].uri)
    if state == "destroyed":
        keyset = keyset.move(old, "deactivated")
    stage.save(keyset.move(old, state))
    calls = len(provider.calls)
    with pytest.raises(errors.KeyNotAllowedError):
        stage.ring().decrypt(message, context={})
    assert len(provider.calls) == calls


def test_a_compromised_member_saves_its_data_only_where_the_caller_insists(stage: Stage) -> None:
    keyset = stage.create()
    message = stage.ring().encrypt(b"paid", context={})
    keyset = stage.save(keyset.succeed(stage.make("orders-2")))
    keyset = stage.save(keyset.move(keyset.members[0].uri, "compromised", reason="leaked"))
    with pytest.raises(errors.KeyNotAllowedError):
        keyset.keyring([stage.client]).decrypt(message, context={})
    assert keyset.keyring([stage.client], allow_compromised=True).decrypt(message, context={}) == b"paid"
    with pytest.raises(errors.KeyNotAllowedError):
        stage.ring().decrypt(message, context={})


def test_a_compromised_primary_protects_nothing(stage: Stage, provider: ObservedProvider) -> None:
    keyset = stage.create()
    stage.save(keyset.move(keyset.primary, "compromised"))
    calls = len(provider.calls)
    with pytest.raises(KeyStateError, match="compromised"):
        stage.ring()
    assert len(provider.calls) == calls


def test_signatures_of_a_compromised_member(stage: Stage) -> None:
    keyset = stage.create("SIGN_VERIFY", "ES256")
    signature = keyset.signer([stage.client]).sign(b"v1")
    assert keyset.verifier().verify(b"v1", signature).name == "orders-1"
    keyset = stage.save(keyset.succeed(stage.make("orders-2", "SIGN_VERIFY", "ES256")))
    assert keyset.verifier().verify(b"v1", signature).name == "orders-1"
    keyset = stage.save(keyset.move(keyset.members[0].uri, "compromised"))
    with pytest.raises(errors.InvalidSignatureError):
        stage.load().verifier().verify(b"v1", signature)


def test_a_key_that_waits_signs_nothing_and_its_signatures_do_not_verify(stage: Stage) -> None:
    keyset = stage.create("SIGN_VERIFY", "ES256")
    waiting = stage.make("orders-2", "SIGN_VERIFY", "ES256")
    keyset = stage.save(keyset.add(waiting))
    with pytest.raises(errors.InvalidSignatureError):
        keyset.verifier().verify(b"v1", waiting.sign(b"v1"))
    assert keyset.verifier().verify(b"v1", keyset.signer([stage.client]).sign(b"v1")).name == "orders-1"


def test_a_member_is_not_removed_while_it_may_be_needed(stage: Stage) -> None:
    keyset = stage.create().succeed(stage.make("orders-2"))
    old = keyset.members[0].uri
    for state in (None, "compromised"):
        keyset = keyset if state is None else keyset.move(old, state)
        with pytest.raises(KeyStateError, match="only pre-activation and destroyed"):
            keyset.remove(old)
    assert len(keyset.move(old, "destroyed").remove(old).members) == 1
    with pytest.raises(KeyStateError, match="primary"):
        keyset.remove(keyset.primary)


@pytest.mark.parametrize("reason", ["x" * 1001, "two\nlines", "\x1b[2J", "\u202e"])
def test_a_reason_that_drives_a_terminal(stage: Stage, reason: str) -> None:
    keyset = stage.create()
    with pytest.raises(errors.InvalidArgumentError, match="reason"):
        keyset.move(keyset.primary, "suspended", reason=reason)


@pytest.mark.parametrize("days", [0, -1, 36501])
def test_a_period_that_is_none(stage: Stage, days: int) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="period"):
        Keyset.create("orders", stage.make("orders-1"), protect_for=timedelta(days=days))


# Periods


def test_a_period_that_has_ended_while_the_application_runs(stage: Stage, provider: ObservedProvider) -> None:
    stage.create()
    ring = stage.ring()
    message = ring.encrypt(b"paid", context={})
    stage.now[0] += timedelta(days=710)
    with pytest.warns(CryptoperiodWarning, match="orders-1 .* until 2028-01-01T00:00:00Z"):
        ring.encrypt(b"paid", context={})
    ring.encrypt(b"paid", context={})  # warned once
    stage.now[0] += timedelta(days=20)
    calls = len(provider.calls)
    with pytest.raises(KeyStateError, match="originator-usage period on 2028-01-01"):
        ring.encrypt(b"paid", context={})
    assert len(provider.calls) == calls
    assert ring.decrypt(message, context={}) == b"paid"
    stage.now[0] += timedelta(days=3 * 365)
    with pytest.raises(KeyStateError, match="recipient-usage period"):
        ring.decrypt(message, context={})


def test_a_mac_keyset_stops_at_the_end(stage: Stage) -> None:
    keyset = stage.create("MAC", "HS256")
    macs = keyset.authenticator([stage.client])
    tag = macs.mac(b"x")
    stage.now[0] += timedelta(days=730)
    with pytest.raises(KeyStateError):
        macs.mac(b"x")
    assert macs.verify_mac(b"x", tag).name == "orders-1"
    with pytest.raises(errors.InvalidMacError):
        macs.verify_mac(b"y", tag)
    successor = keyset.succeed(stage.make("orders-2", "MAC", "HS256")).authenticator([stage.client])
    assert successor.verify_mac(b"x", tag).name == "orders-1"
    assert successor.verify_mac(b"x", successor.mac(b"x")).name == "orders-2"


def test_signing_stops_and_verifying_goes_on(stage: Stage) -> None:
    signer = stage.create("SIGN_VERIFY", "ES256").signer([stage.client])
    signature = signer.sign(b"v1")
    stage.now[0] += timedelta(days=730)
    with pytest.raises(KeyStateError, match="originator-usage"):
        signer.sign(b"v1")
    assert stage.load().verifier().verify(b"v1", signature).name == "orders-1"


# Keys changed in a console


def test_the_stricter_wins_when_the_console_disables_a_key(stage: Stage, make: Make) -> None:
    keyset = stage.create()
    ring = stage.ring()
    stage.client.disable_key(keyset.members[0].info)
    with pytest.raises(errors.KeyDisabledError):
        ring.encrypt(b"x", context={})
    (drift,) = keyset.check([stage.client])
    assert (drift.expected, drift.found, drift.stricter) == ("active", "DISABLED", "provider")


def test_the_stricter_wins_when_the_console_enables_a_key(stage: Stage, provider: ObservedProvider) -> None:
    keyset = stage.create()
    ring = stage.ring()
    assert keyset.check([stage.client]) == []
    stopped = keyset.move(keyset.primary, "suspended", reason="audit")
    (drift,) = stopped.check([stage.client])
    assert (drift.expected, drift.found, drift.stricter) == ("suspended", "ENABLED", "keyset")
    with pytest.raises(KeyStateError, match="suspended"):
        stopped.keyring([stage.client])
    assert ring.encrypt(b"x", context={})


def test_a_key_destroyed_in_the_console(stage: Stage) -> None:
    keyset = stage.create()
    stage.client.schedule_destruction(keyset.members[0].info)
    assert [drift.found for drift in keyset.check([stage.client])] == ["PENDING_DESTRUCTION"]
    stage.now[0] += timedelta(days=31)
    assert [drift.found for drift in keyset.check([stage.client])] == ["DESTROYED"]


def test_a_name_led_to_another_key_in_the_console(stage: Stage, provider: ObservedProvider) -> None:
    keyset = stage.create()
    other = stage.make("attacker").info
    pinned = keyset.members[0].info

    def repointed(found: KeyInfo) -> KeyInfo:
        return other if provider.calls[-1].key == pinned.name else found

    provider.answer(Operation.GET_KEY, repointed)
    (drift,) = keyset.check([stage.client])
    assert str(pinned.uri) in drift.found
    assert str(other.uri) in drift.found
    # Uses name the pinned key, so the name is not asked at all.
    ring = stage.ring()
    assert ring.decrypt(ring.encrypt(b"x", context={}), context={}) == b"x"


# Edits


def test_two_administrators_at_once(stage: Stage) -> None:
    keyset = stage.create()
    stage.save(keyset.add(stage.make("orders-2")))
    with pytest.raises(ConflictError, match="expected generation 1, found 2"):
        stage.save(keyset.add(stage.make("orders-3")))


def test_an_edit_that_the_root_does_not_accept_changes_nothing(stage: Stage) -> None:
    keyset = stage.create()
    before = stage.path.read_bytes()
    mallory = stage.make("mallory", "SIGN_VERIFY", "ES256")
    with pytest.raises(SealError):
        keyset.add(stage.make("orders-2")).save(stage.path, stage.root, signers=[mallory])
    assert stage.path.read_bytes() == before
    assert stage.load().generation == 1


def test_a_failed_edit_leaves_no_file_behind(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    keyset = stage.create()
    before = stage.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        stage.save(keyset.add(stage.make("orders-2")))
    assert stage.path.read_bytes() == before
    assert [file.name for file in stage.path.parent.iterdir() if file.name.startswith(".anykms")] == []


def test_an_encryption_key_does_not_join_a_signing_keyset(stage: Stage) -> None:
    keyset = stage.create("SIGN_VERIFY", "ES256")
    with pytest.raises(errors.KeyUsageError):
        keyset.add(stage.make("orders-2"))
    with pytest.raises(errors.InvalidArgumentError, match="twice"):
        keyset.add(stage.client.key("orders-1"))
    for use in (keyset.keyring, keyset.authenticator):
        with pytest.raises(errors.KeyUsageError):
            use([stage.client])
    with pytest.raises(errors.KeyUsageError):
        Keyset.create("boxes", stage.make("box", "ASYMMETRIC_DECRYPT"))


def test_a_member_whose_client_cannot_be_told(stage: Stage) -> None:
    keyset = stage.create()
    for clients in ([], [stage.client, stage.client]):
        with pytest.raises(errors.InvalidArgumentError, match="clients of local"):
            keyset.keyring(clients)
    with pytest.raises(errors.InvalidArgumentError, match="no client"):
        keyset.keyring(lambda info: None)
