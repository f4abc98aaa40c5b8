"""What a binding gives to the clauses: providers to open, and what the store can do beyond the contract."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from time import time as system_time
from types import TracebackType
from typing import Final, Self

import pytest

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.client import DEFAULT_STATE_TTL, Key, KMSClient
from anykms.errors import UnsupportedOperationError
from anykms.keys import KeyConf, KeyInfo, KeyState, KeyStatus
from anykms.policy import Policy
from anykms.provider import Capability, Operation, Provider
from anykms.retrying import RetryPolicy
from anykms_contract.observed import ObservedProvider

_MADE_FOR: Final = {
    KeyPurpose.ENCRYPT_DECRYPT: (Operation.WRAP, Operation.UNWRAP),
    KeyPurpose.SIGN_VERIFY: (Operation.SIGN, Operation.GET_PUBLIC_KEY),
    KeyPurpose.MAC: (Operation.MAC, Operation.VERIFY_MAC),
    KeyPurpose.ASYMMETRIC_DECRYPT: (Operation.DECRYPT, Operation.GET_PUBLIC_KEY),
}


@dataclass(frozen=True, slots=True)
class KeyKind:
    """A purpose, an algorithm and, for RSA, a size in bits."""

    purpose: KeyPurpose
    algorithm: Algorithm
    key_size: int | None = None

    def __str__(self) -> str:
        size = f"-{self.key_size}" if self.key_size else ""
        short = "wrap-" if self.purpose is KeyPurpose.ENCRYPT_DECRYPT else ""
        return f"{short}{self.algorithm}{size}"

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What a key of this kind is used for."""
        return _MADE_FOR[self.purpose]


def _kinds(purpose: KeyPurpose) -> tuple[KeyKind, ...]:
    return tuple(
        KeyKind(purpose, algorithm, size)
        for algorithm in Algorithm
        if purpose in algorithm.spec.purposes
        for size in algorithm.spec.key_sizes or (None,)
    )


WRAPPING_KINDS: Final = _kinds(KeyPurpose.ENCRYPT_DECRYPT)
SIGNING_KINDS: Final = _kinds(KeyPurpose.SIGN_VERIFY)
MAC_KINDS: Final = _kinds(KeyPurpose.MAC)
DECRYPTION_KINDS: Final = _kinds(KeyPurpose.ASYMMETRIC_DECRYPT)
ES256: Final = KeyKind(KeyPurpose.SIGN_VERIFY, Algorithm.ES256)
HS256: Final = KeyKind(KeyPurpose.MAC, Algorithm.HS256)
OAEP: Final = KeyKind(KeyPurpose.ASYMMETRIC_DECRYPT, Algorithm.RSA_OAEP_256, 2048)

Change = Callable[[KeyInfo], None]


class Time:
    """The clock of the retry policy: waiting moves it and takes no time."""

    def __init__(self, sleep: Callable[[float], None] | None) -> None:
        self._sleep = sleep
        self.now = 0.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)
        if self._sleep is not None:
            self._sleep(seconds)

    def read(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Connection:
    """A client, the seam under it, and its clock. A new one knows nothing of what others have seen."""

    client: KMSClient
    seam: ObservedProvider
    time: Time
    requests: Callable[[], int]

    @contextmanager
    def quiet(self) -> Generator[None]:
        """Nothing inside reaches the provider: no call at the seam, no request on the wire."""
        calls, requests = len(self.seam.calls), self.requests()
        yield
        assert self.seam.calls[calls:] == []
        assert self.requests() == requests

    def key(self, info: KeyInfo) -> Key:
        return self.client.key(info)


@dataclass(kw_only=True)
class Harness:
    """One store as the clauses see it. Use it as a context manager: it closes what it opened.

    Args:
        open_provider: connects to the store anew, each time as a new process would.
        advance: moves the store's clock; None for a live store, whose time cannot be moved.
        reach: how to bring an ENABLED key into a state outside the lifecycle (FAILED, UNAVAILABLE, ...).
            For states that are not there the seam reports them instead.
        requests: number of requests on the wire so far, all of them, where an emulator counts them.
        wire_faults: by the name of the error's class, what makes the next n requests fail undone: for example
            503 answers under ``UnavailableError``, throttling under ``ThrottledError``.
        lose_wire_reply: lets n requests pass, does the next one and cuts the connection before its reply.
        heal_wire: disarms all of these.
        meanwhile: lets n requests pass, and does something before the next one is served.
        lag: makes the store lag: each change made from then on is hidden from every second read and use of a key,
            until n of them were answered; 0 ends that. A live store lags as it likes.
        process_uri: connection URI by which another process can open the store with ``anykms.connect``.
        names_return: whether a destroyed key's name can be used again.
        sleep: called with the seconds that the library waits for; ``time.sleep`` for a live store.
        signatures: how many signatures to make where chance decides what a clause sees.
        interleavings: at how many points of a call, at most, clauses let something else happen.
        prefix: begins the name of every key made, a-z first; names are used once, so it is new in each run.

    Attributes:
        refusals: how often a clause found that the provider lacks a kind of key.
        missed_clock: how often a clause wanted to move a clock that cannot be moved.
    """

    open_provider: Callable[[], Provider]
    advance: Callable[[timedelta], None] | None = None
    reach: Mapping[KeyState, Change] = field(default_factory=dict[KeyState, Change])
    requests: Callable[[], int] | None = None
    wire_faults: Mapping[str, Callable[[int], object]] = field(
        default_factory=dict[str, Callable[[int], object]]
    )
    lose_wire_reply: Callable[[int], object] | None = None
    heal_wire: Callable[[], object] = lambda: None
    meanwhile: Callable[[int, Callable[[], object]], object] | None = None
    lag: Callable[[int], object] | None = None
    process_uri: str | None = None
    names_return: bool = False
    sleep: Callable[[float], None] | None = None
    signatures: int = 8
    interleavings: int = 8
    prefix: str = field(default_factory=lambda: "c" + secrets.token_hex(4))
    prepared: dict[tuple[object, ...], tuple[KeyInfo, Mapping[str, bytes]]] = field(
        default_factory=dict[tuple[object, ...], tuple[KeyInfo, Mapping[str, bytes]]], init=False
    )
    moves: int = field(default=0, init=False)
    refusals: int = field(default=0, init=False)
    missed_clock: int = field(default=0, init=False)
    _opened: list[Connection] = field(default_factory=list[Connection], init=False)
    _named: int = field(default=0, init=False)
    _shared: dict[tuple[KeyKind, str], KeyInfo] = field(
        default_factory=dict[tuple[KeyKind, str], KeyInfo], init=False
    )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. A count of requests that stands still would prove nothing, so it is tried."""
        if self.requests is not None and self._opened:
            before = self.requests()
            list(self.main.client.list_keys())
            assert self.requests() > before, "the harness's requests are not counted any more"
        while self._opened:
            self._opened.pop().client.close()

    def release(self) -> None:
        """Close every connection but ``main``, between clauses: a cloud's client can take megabytes."""
        kept = [connection for connection in self._opened if connection is self.__dict__.get("main")]
        for connection in self._opened:
            if connection not in kept:
                connection.client.close()
        self._opened[:] = kept

    def connect(
        self,
        *,
        policy: Policy | None = None,
        state_ttl: float = DEFAULT_STATE_TTL,
        clock: Callable[[], float] = system_time,
    ) -> Connection:
        """A new connection, as a new process would make it; ``clock`` is the caller's, in UTC seconds."""
        seam = ObservedProvider(self.open_provider())
        time = Time(None if self.sleep is None else lambda s: self._wait(seam, s))
        retry = RetryPolicy(sleep=time.wait, clock=time.read, jitter=lambda: 0.5)
        client = KMSClient(seam, policy=policy, retry=retry, state_ttl=state_ttl, clock=clock)
        connection = Connection(client, seam, time, self.requests or (lambda: 0))
        self._opened.append(connection)
        return connection

    @contextmanager
    def lagging(self, connection: Connection, reads: int) -> Generator[None]:
        """Reads flip-flop after each change inside, ``reads`` times: the store's own where it can, else at the seam."""
        lag = self.lag or connection.seam.lag
        lag(reads)
        try:
            yield
        finally:
            lag(0)

    def interrupt(self, connection: Connection, passing: int, action: Callable[[], object]) -> None:
        """Let ``passing`` requests (or calls at the seam) pass, and do ``action`` before the next one."""
        (self.meanwhile or connection.seam.meanwhile)(passing, action)

    def uninterrupted(self, connection: Connection) -> None:
        """Drop an ``interrupt`` that has not come to pass."""
        connection.seam.heal()
        self.heal_wire()

    def _wait(self, seam: ObservedProvider, seconds: float) -> None:
        """What the seam simulates is not waited for: it passes by no clock."""
        if self.sleep is not None and not seam.planned:
            self.sleep(seconds)

    @property
    def calls(self) -> int:
        """Calls at the seams of all connections so far."""
        return sum(len(connection.seam.calls) for connection in self._opened)

    def has_clock(self) -> bool:
        """Whether time can be moved. Asking counts: a clause that must do without proves less."""
        self.missed_clock += self.advance is None
        return self.advance is not None

    @cached_property
    def main(self) -> Connection:
        """A connection for making and looking at keys. Clauses that inject faults connect anew."""
        return self.connect()

    @property
    def scheme(self) -> str:
        return self.main.seam.scheme

    def name(self) -> str:
        """A name that no key has had."""
        self._named += 1
        return f"{self.prefix}-{self._named}"

    @property
    def wrapping(self) -> KeyKind:
        """The kind that ENCRYPT_DECRYPT keys have here unless another is asked for."""
        symmetric = KeyKind(KeyPurpose.ENCRYPT_DECRYPT, Algorithm.A256GCM)
        if self.supports(symmetric):
            return symmetric
        return KeyKind(KeyPurpose.ENCRYPT_DECRYPT, Algorithm.RSA_OAEP_256, 3072)

    @property
    def signing(self) -> KeyKind:
        """A kind of signing key that this provider has, ES256 before all others."""
        return next(kind for kind in (ES256, *SIGNING_KINDS) if self.supports(kind))

    def can(self, operation: Operation, kind: KeyKind) -> bool:
        """Whether the provider claims the operation for keys of the kind."""
        capabilities = self.main.client.capabilities
        if operation is Operation.GENERATE_KEY:
            return any(
                (c.operation, c.algorithm, c.key_size) == (operation, kind.algorithm, kind.key_size)
                for c in capabilities
            )
        return Capability(operation, kind.algorithm, kind.key_size) in capabilities

    def supports(self, kind: KeyKind) -> bool:
        """Whether keys of this kind can be made and used."""
        return self.can(Operation.GENERATE_KEY, kind) and self.can(kind.operations[0], kind)

    def conf(
        self,
        kind: KeyKind,
        *,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        destroy_window: int | None = None,
        rotation_period: int | None = None,
    ) -> KeyConf:
        return KeyConf(
            self.name() if name is None else name,
            kind.purpose,
            algorithm=kind.algorithm,
            key_size=kind.key_size,
            tags=tags,
            destroy_window=destroy_window,
            rotation_period=rotation_period,
        )

    def generate(self, kind: KeyKind | None = None) -> KeyInfo:
        """A key for one clause alone, which may change its state."""
        return self.main.client.generate_key(self.conf(kind or self.wrapping))

    def refuses(self, kind: KeyKind) -> None:
        """The clause of a kind that the provider lacks: it says so, and asks nobody."""
        self.refusals += 1
        with self.main.quiet(), pytest.raises(UnsupportedOperationError) as refused:
            self.main.client.generate_key(self.conf(kind))
        assert type(refused.value) is UnsupportedOperationError

    def shared(self, kind: KeyKind, which: str = "first") -> KeyInfo | None:
        """A key that clauses share and leave ENABLED; None once the provider has refused the kind."""
        if not self.supports(kind):
            self.refuses(kind)
            return None
        if (kind, which) not in self._shared:
            self._shared[kind, which] = self.generate(kind)
        return self._shared[kind, which]

    def wrapping_key(self, which: str = "first") -> KeyInfo:
        """A shared ENCRYPT_DECRYPT key of the provider's default kind."""
        info = self.shared(self.wrapping, which)
        assert info is not None
        return info

    def signing_key(self, which: str = "first") -> KeyInfo:
        """A shared SIGN_VERIFY key of a kind that the provider has."""
        info = self.shared(self.signing, which)
        assert info is not None
        return info

    def really_reaches(self, state: KeyState) -> bool:
        """Whether a key can be brought into the state, or only reported to be in it."""
        if state is KeyState.DESTROYED:
            return self.has_clock()
        ordinary = (KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DESTRUCTION)
        return state in ordinary or state in self.reach

    def bring(self, info: KeyInfo, state: KeyState) -> None:
        """Bring an ENABLED key into a state that it can really reach, seen by no other connection."""
        with self.connect().client as client:
            if state is KeyState.DISABLED:
                client.disable_key(info)
            elif state is KeyState.PENDING_DESTRUCTION:
                client.schedule_destruction(info)
            elif state is KeyState.DESTROYED:
                self.destroy(client, info)
            elif state is not KeyState.ENABLED:
                self.reach[state](info)

    def destroy(self, client: KMSClient, info: KeyInfo) -> None:
        """Schedule, and let the window pass."""
        client.schedule_destruction(info)
        self.let_pass(timedelta(days=info.destroy_window or 90, hours=1))

    def let_pass(self, step: timedelta) -> None:
        """Move the store's clock, where it can be moved. Whatever else is pending destruction goes too."""
        if self.has_clock() and self.advance is not None:
            self.moves += 1
            self.advance(step)

    def seeing(self, info: KeyInfo, state: KeyState) -> Connection:
        """A connection for which the key is in the state: by the store where it can be, else by the seam."""
        connection = self.connect()
        if not self.really_reaches(state):
            connection.seam.answer(Operation.DESCRIBE_KEY, lambda status: _in_state(status, state))
        return connection


def _in_state(status: KeyStatus, state: KeyState) -> KeyStatus:
    return replace(status, state=state)
