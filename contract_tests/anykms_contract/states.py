"""Every state and every operation, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import pytest

from anykms.client import KMSClient
from anykms.envelope.keyring import Keyring
from anykms.errors import (
    KeyDestroyedError,
    KeyDisabledError,
    KeyExistsError,
    KeyNotFoundError,
    KeyNotReadyError,
    KeyPendingDestructionError,
    KeyPendingImportError,
    KeyStateError,
    KMSError,
    NameReservedError,
    UnavailableError,
)
from anykms.keys import KeyInfo, KeyState
from anykms.provider import Operation
from anykms_contract.clauses import Contract, each
from anykms_contract.harness import HS256, OAEP, Connection, Harness, KeyKind

_SECRET: Final = bytes(range(32))
_MESSAGE: Final = b"message"

STATE_ERRORS: Final[Mapping[KeyState, type[KMSError] | None]] = {
    KeyState.PENDING_GENERATION: KeyNotReadyError,
    KeyState.ENABLED: None,
    KeyState.DISABLED: KeyDisabledError,
    KeyState.PENDING_IMPORT: KeyPendingImportError,
    KeyState.PENDING_DESTRUCTION: KeyPendingDestructionError,
    KeyState.DESTROYED: KeyDestroyedError,
    KeyState.FAILED: KeyStateError,
    KeyState.UNAVAILABLE: UnavailableError,
}
"""What every cryptographic operation raises in each state; None where it works."""

_E = KeyState.ENABLED
_D = KeyState.DISABLED
_P = KeyState.PENDING_DESTRUCTION
_X = KeyState.DESTROYED

Outcome = KeyState | type[KMSError]
"""The state that the key is in afterwards, or the error, after which it is in the state that it was in."""

LIFECYCLE_TABLE: Final[Mapping[str, Mapping[KeyState, Outcome]]] = {
    "describe": {_E: _E, _D: _D, _P: _P, _X: KeyDestroyedError},
    "get": {_E: _E, _D: _D, _P: _P, _X: KeyNotFoundError},
    "generate": {_E: KeyExistsError, _D: KeyExistsError, _P: NameReservedError, _X: NameReservedError},
    "enable": {_E: _E, _D: _E, _P: KeyPendingDestructionError, _X: KeyDestroyedError},
    "disable": {_E: _D, _D: _D, _P: KeyPendingDestructionError, _X: KeyDestroyedError},
    "rotate": {_E: _E, _D: KeyDisabledError, _P: KeyPendingDestructionError, _X: KeyDestroyedError},
    "schedule": {_E: _P, _D: _P, _P: KeyPendingDestructionError, _X: KeyDestroyedError},
    "cancel": {_E: KeyStateError, _D: KeyStateError, _P: _D, _X: KeyDestroyedError},
}


@dataclass(frozen=True)
class _Use:
    """A cryptographic operation: on which kind of key, with what prepared while it was ENABLED."""

    kind: Callable[[Harness], KeyKind]
    prepare: Callable[[Connection, KeyInfo], bytes]
    perform: Callable[[Connection, KeyInfo, bytes], object]


def _nothing(connection: Connection, info: KeyInfo) -> bytes:
    return b""


def _ring(connection: Connection, info: KeyInfo) -> Keyring:
    return Keyring([connection.key(info)])


_USES: Final[Mapping[str, _Use]] = {
    "wrap": _Use(lambda h: h.wrapping, _nothing, lambda c, info, _: c.key(info).wrap(_SECRET, context={})),
    "unwrap": _Use(
        lambda h: h.wrapping,
        lambda c, info: c.key(info).wrap(_SECRET, context={}),
        lambda c, info, wrapped: c.key(info).unwrap(wrapped, context={}),
    ),
    "encrypt": _Use(
        lambda h: h.wrapping, _nothing, lambda c, info, _: _ring(c, info).encrypt(_MESSAGE, context={})
    ),
    "keyring-decrypt": _Use(
        lambda h: h.wrapping,
        lambda c, info: _ring(c, info).encrypt(_MESSAGE, context={}),
        lambda c, info, message: _ring(c, info).decrypt(message, context={}),
    ),
    "sign": _Use(lambda h: h.signing, _nothing, lambda c, info, _: c.key(info).sign(_MESSAGE)),
    "verify": _Use(
        lambda h: h.signing,
        lambda c, info: c.key(info).sign(_MESSAGE),
        lambda c, info, signature: c.key(info).verify(_MESSAGE, signature),
    ),
    "public-key": _Use(lambda h: h.signing, _nothing, lambda c, info, _: c.key(info).public_key()),
    "mac": _Use(lambda h: HS256, _nothing, lambda c, info, _: c.key(info).mac(_MESSAGE)),
    "verify-mac": _Use(
        lambda h: HS256,
        lambda c, info: c.key(info).mac(_MESSAGE),
        lambda c, info, tag: c.key(info).verify_mac(_MESSAGE, tag),
    ),
    "decrypt": _Use(
        lambda h: OAEP,
        lambda c, info: c.key(info).public_key().encrypt(_MESSAGE),
        lambda c, info, ciphertext: c.key(info).decrypt(ciphertext),
    ),
    "decryption-public-key": _Use(lambda h: OAEP, _nothing, lambda c, info, _: c.key(info).public_key()),
}
_CRYPTO = each("use,state", {f"{use}-{state}": (use, state) for use in _USES for state in STATE_ERRORS})
_LIFECYCLE = each(
    "operation,state",
    {
        f"{operation}-{state}": (operation, state)
        for operation in LIFECYCLE_TABLE
        for state in (_E, _D, _P, _X)
    },
)


class StateContract(Contract):
    """What each operation does in each state. A state that a store cannot reach is reported by the seam."""

    @_CRYPTO
    def test_cryptography_in_every_state(self, harness: Harness, use: str, state: KeyState) -> None:
        """C4.1: In any state but ENABLED every cryptographic operation raises the state's own error once it is seen."""
        chosen = _USES[use]
        found = _key_in(harness, chosen.kind(harness), state)
        if found is None:
            return
        info, prepared = found
        connection = harness.seeing(info, state)
        expected = STATE_ERRORS[state]
        if expected is None:
            connection.client.describe_key(info)
            chosen.perform(connection, info, prepared[use])
            return
        _read_state(connection, info)
        before = connection.seam.calls.copy()
        with pytest.raises(KMSError) as caught:
            chosen.perform(connection, info, prepared[use])
        assert type(caught.value) is expected
        assert caught.value.key in (str(info.uri), info.name)
        assert caught.value.provider == harness.scheme
        if harness.really_reaches(state) and state is not KeyState.DESTROYED:
            assert connection.seam.calls == before, "the state was known and the provider asked all the same"

    @_CRYPTO
    def test_cryptography_in_every_state_unseen(self, harness: Harness, use: str, state: KeyState) -> None:
        """C4.1: A process that has seen nothing of the key gets the same from the provider, or reads the state
        first.
        """
        chosen = _USES[use]
        found = _key_in(harness, chosen.kind(harness), state)
        if found is None:
            return
        info, prepared = found
        expected = STATE_ERRORS[state]
        connection = harness.seeing(info, state)
        if not harness.really_reaches(state):
            # Nothing is really wrong with the key, so only the reading of its state can show it.
            _read_state(connection, info)
            with pytest.raises(KMSError) as caught:
                chosen.perform(connection, info, prepared[use])
            assert type(caught.value) is expected
            return
        if expected is None:
            chosen.perform(connection, info, prepared[use])
            return
        with pytest.raises(KMSError) as caught:
            chosen.perform(connection, info, prepared[use])
        assert type(caught.value) is expected
        assert caught.value.provider == harness.scheme

    @_LIFECYCLE
    def test_the_lifecycle_in_every_state(self, harness: Harness, operation: str, state: KeyState) -> None:
        """C4.2: Each lifecycle operation leads to one state or to one error, and an error changes nothing."""
        outcome = LIFECYCLE_TABLE[operation][state]
        info = harness.generate()
        if not harness.really_reaches(state):
            connection = harness.seeing(info, state)
            with pytest.raises(KeyDestroyedError):
                connection.client.describe_key(info)
            return
        harness.bring(info, state)
        client = harness.connect().client
        if operation == "generate" and state is KeyState.DESTROYED and harness.names_return:
            successor = client.generate_key(harness.conf(harness.wrapping, name=info.name))
            assert successor != info
            return
        if isinstance(outcome, KeyState):
            _lifecycle(harness, client, info, operation)
            assert harness.connect().client.describe_key(info).state is outcome
            return
        with pytest.raises(KMSError) as caught:
            _lifecycle(harness, client, info, operation)
        assert type(caught.value) is outcome
        if state is KeyState.DESTROYED:
            with pytest.raises(KeyDestroyedError):
                harness.connect().client.describe_key(info)
        else:
            assert harness.connect().client.describe_key(info).state is state

    def test_our_own_changes_are_seen_at_once(self, harness: Harness) -> None:
        """C4.3: A client's own lifecycle calls drop what it remembers of the state."""
        info, connection = harness.generate(harness.signing), harness.connect()
        key, client = connection.key(info), connection.client
        signature = key.sign(_MESSAGE)
        key.verify(_MESSAGE, signature)
        client.disable_key(info)
        with pytest.raises(KeyDisabledError):
            key.verify(_MESSAGE, signature)
        client.enable_key(info)
        key.verify(_MESSAGE, signature)
        client.schedule_destruction(info)
        with pytest.raises(KeyPendingDestructionError):
            key.verify(_MESSAGE, signature)
        client.cancel_destruction(info)
        with pytest.raises(KeyDisabledError):
            key.verify(_MESSAGE, signature)
        client.enable_key(info)
        key.verify(_MESSAGE, signature)

    def test_a_remembered_state_lasts_no_longer_than_its_ttl(self, harness: Harness) -> None:
        """C4.3: A key enabled elsewhere works here once the remembered state is state_ttl old."""
        info, connection = harness.generate(), harness.connect()
        harness.bring(info, KeyState.DISABLED)
        connection.client.describe_key(info)
        with pytest.raises(KeyDisabledError):
            connection.key(info).wrap(_SECRET, context={})
        harness.main.client.enable_key(info)
        with pytest.raises(KeyDisabledError):
            connection.key(info).wrap(_SECRET, context={})
        connection.time.now += 61
        connection.key(info).wrap(_SECRET, context={})

    def test_reads_must_agree_before_a_change_returns(self, harness: Harness) -> None:
        """C4.5: A lifecycle call returns when consecutive reads agree, not when the first does."""
        info, connection = harness.generate(), harness.connect()
        connection.client.disable_key(info)
        assert connection.seam.count(Operation.DESCRIBE_KEY) == 2
        assert connection.client.describe_key(info).state is KeyState.DISABLED


def _read_state(connection: Connection, info: KeyInfo) -> None:
    with suppress(KeyDestroyedError):
        connection.client.describe_key(info)


def _lifecycle(harness: Harness, client: KMSClient, info: KeyInfo, operation: str) -> None:
    match operation:
        case "describe":
            client.describe_key(info)
        case "get":
            assert client.get_key(info.name) == info
        case "generate":
            client.generate_key(harness.conf(harness.wrapping, name=info.name))
        case "enable":
            client.enable_key(info)
        case "disable":
            client.disable_key(info)
        case "rotate":
            client.rotate_key(info)
        case "schedule":
            client.schedule_destruction(info)
        case _:
            client.cancel_destruction(info)


def _key_in(harness: Harness, kind: KeyKind, state: KeyState) -> tuple[KeyInfo, Mapping[str, bytes]] | None:
    """A key in the state, with what its uses need; one for all clauses of the harness."""
    if not harness.supports(kind):
        harness.refuses(kind)
        return None
    real = state if harness.really_reaches(state) else KeyState.ENABLED
    slot = (kind, real, harness.moves if real is KeyState.PENDING_DESTRUCTION else None)
    if slot not in harness.prepared:
        info = harness.generate(kind)
        inputs = {
            name: use.prepare(harness.main, info) for name, use in _USES.items() if use.kind(harness) == kind
        }
        harness.bring(info, real)
        harness.prepared[slot] = (info, inputs)
    return harness.prepared[slot]
