"""The stores of a run: what is opened, how far it may be changed, and the watch that is kept over it."""

from __future__ import annotations

import importlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import pytest

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.client import KMSClient
from anykms.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    KeyPendingDestructionError,
    KMSError,
    ThrottledError,
)
from anykms.keys import ConnectionURI, KeyInfo, KeyState, KeyTemplate
from anykms.provider import Operation, Provider
from anykms.registry import open_provider
from anykms.retrying import RetryPolicy
from anykms_contract.harness import Harness, KeyKind
from anykms_contract.journal import Journal
from anykms_contract.observed import ObservedProvider

T = TypeVar("T")

CHANGES: Final = frozenset(
    {
        Operation.GENERATE_KEY,
        Operation.SET_ENABLED,
        Operation.ROTATE_KEY,
        Operation.SCHEDULE_DESTRUCTION,
        Operation.CANCEL_DESTRUCTION,
    }
)
_PATIENCE: Final = RetryPolicy(max_attempts=12, deadline=300, base_delay=0.5, max_delay=30)
"""For real throttling: beneath the seam, so that the attempts which clauses count stay the library's own."""
_EMULATORS: Final[Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any], bool, bool]]] = {
    "aws": ("anykms_emulators.aws:AWSEmulator", {}, {}, True, False),
    "gcp": ("anykms_emulators.gcp:GCPEmulator", {}, {"code": "UNAVAILABLE"}, False, True),
    "azure": (
        "anykms_emulators.azure:AzureEmulator",
        {"sku": "standard", "recoverable_days": 30},
        {"code": "ServiceUnavailable", "status": 503},
        True,
        True,
    ),
    "azure-hsm": (
        "anykms_emulators.azure:AzureEmulator",
        {"sku": "hsm", "recoverable_days": 30},
        {"code": "ServiceUnavailable", "status": 503},
        True,
        True,
    ),
}
"""Emulator, its arguments, its fault for UnavailableError, whether names return, whether its provider takes a clock."""
EMULATORS: Final = tuple(_EMULATORS)


class _Emulator(Protocol):
    """What anykms_emulators gives, for all clouds alike."""

    uri: str
    options: Mapping[str, Any]
    clock: Any
    faults: Any
    lag: Any
    requests: Any


@dataclass(kw_only=True)
class Store:
    """One provider to be judged.

    Args:
        label: of its column.
        description: what it is.
        connect: opens it anew.
        live: whether its time is the world's: no clock can be moved, and waiting is real.
        extras: further arguments of its ``Harness``.
    """

    label: str
    description: str
    connect: Callable[[], Provider]
    live: bool
    extras: Mapping[str, Any] = field(default_factory=dict[str, Any])


def is_advanced(algorithm: Algorithm, key_size: int | None) -> bool:
    """Whether price lists put the key in their dearer class: RSA above 2048 bits, elliptic curves, ML-DSA."""
    asymmetric = KeyPurpose.SIGN_VERIFY in algorithm.spec.purposes or key_size is not None
    return asymmetric and key_size != 2048


class Watch:
    """Counts the calls of a run, and ends them at the cap.

    Attributes:
        calls: of the clause that is running, by operation, with a ``+`` where the key is of an expensive kind.
        total: of the whole run.
    """

    def __init__(self, limit: int | None, total: int) -> None:
        self.limit = limit
        self.total = total
        self.calls: Counter[str] = Counter()
        self._advanced: set[str] = set()

    def knows(self, info: KeyInfo) -> None:
        """Remember of what kind a key is."""
        if is_advanced(info.algorithm, info.key_size):
            self._advanced |= {info.name, str(info.uri)}

    def spend(self, operation: Operation, key: str | None) -> None:
        """Count one call. Skips the clause if there are none left."""
        if self.limit is not None and self.total >= self.limit:
            pytest.skip(f"the cap of {self.limit} calls is reached")
        self.total += 1
        self.calls[f"{operation}{'+' if key in self._advanced else ''}"] += 1


class WatchedProvider(ObservedProvider):
    """Between the seam of the clauses and a real account: counts, journals, forbids and is patient."""

    def __init__(
        self, provider: Provider, store: Store, watch: Watch, journal: Journal, *, read_only: bool
    ) -> None:
        super().__init__(provider)
        self._store = store
        self._watch = watch
        self._journal = journal
        self._read_only = read_only

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        if not self._read_only:
            self._journal.ask(self._store.label, template.name)
        info = super().create_key(template)
        self._watch.knows(info)
        return info

    def _do(self, operation: Operation, key: str | None, perform: Callable[[], T]) -> T:
        if self._read_only and operation in CHANGES:
            pytest.skip(f"would change the account ({operation}), and the run is read-only")
        self._watch.spend(operation, key)
        if not self._store.live:
            return perform()
        return _patiently(perform)


def _patiently(perform: Callable[[], T]) -> T:
    """Repeat what was throttled, and nothing else: a throttled request was not done."""

    def attempt() -> T | KMSError:
        try:
            return perform()
        except ThrottledError:
            raise
        except KMSError as error:
            return error

    found = _PATIENCE.call(attempt)
    if isinstance(found, KMSError):
        raise found
    return found


class ReadOnlyHarness(Harness):
    """A harness whose keys exist already. Clauses that need another one are skipped, by name and with the reason."""

    def __init__(self, keys: list[KeyInfo], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._keys = keys

    def generate(self, kind: KeyKind | None = None) -> KeyInfo:
        pytest.skip("makes a key, and the run is read-only")

    def shared(self, kind: KeyKind, which: str = "first") -> KeyInfo | None:
        if not self.supports(kind):
            self.refuses(kind)
            return None
        fitting = [
            k
            for k in self._keys
            if (k.purpose, k.algorithm, k.key_size) == (kind.purpose, kind.algorithm, kind.key_size)
        ]
        wanted = 0 if which == "first" else 1
        if len(fitting) <= wanted:
            pytest.skip(f"needs {'a' if wanted == 0 else 'a second'} key of kind {kind}, and none was given")
        return fitting[wanted]

    @property
    def wrapping(self) -> KeyKind:
        return self._given(super().wrapping)

    @property
    def signing(self) -> KeyKind:
        return self._given(super().signing)

    def _given(self, usual: KeyKind) -> KeyKind:
        """The usual kind, or that of a key which was given for the purpose."""
        kinds = [KeyKind(key.purpose, key.algorithm, key.key_size) for key in self._keys]
        fitting = [kind for kind in kinds if kind.purpose is usual.purpose]
        return usual if usual in fitting or not fitting else fitting[0]


def harness(
    store: Store, number: int, watch: Watch, journal: Journal, read_only: list[str] | None
) -> Harness:
    """The harness of a store in a run."""

    def connect() -> Provider:
        return WatchedProvider(store.connect(), store, watch, journal, read_only=read_only is not None)

    arguments: dict[str, Any] = {
        "open_provider": connect,
        "prefix": journal.prefix(number),
        "sleep": time.sleep if store.live else None,
        **store.extras,
    }
    if read_only is None:
        return Harness(**arguments)
    with KMSClient(store.connect()) as client:
        keys: list[KeyInfo] = []
        for name in read_only:
            try:
                info = client.get_key(name)
            except KeyNotFoundError:
                continue
            if client.describe_key(info).state is not KeyState.ENABLED:
                raise InvalidArgumentError(f"the key {name} is not ENABLED; --read-only needs keys that work")
            keys.append(info)
    return ReadOnlyHarness(keys, **arguments)


@contextmanager
def opened(uris: list[str], emulators: list[str], folder: Path) -> Generator[list[Store]]:
    """The stores of a run.

    Args:
        uris: connection URIs; a ``local:`` keystore that is not there is made.
        emulators: names from ``EMULATORS``; ``local`` for a new local keystore with a clock.
        folder: for a new local keystore.
    """
    with ExitStack() as stack:
        stores = [_by_uri(uri) for uri in uris]
        for name in emulators:
            stores.append(_local(folder) if name == "local" else stack.enter_context(_emulated(name)))
        labels: Counter[str] = Counter()
        for store in stores:
            labels[store.label] += 1
            if labels[store.label] > 1:
                store.label += f" {labels[store.label]}"
        yield stores


def _by_uri(text: str) -> Store:
    where = ConnectionURI.parse(text)
    local = where.scheme == "local"

    def connect() -> Provider:
        return open_provider(where, create=True) if local else open_provider(where)

    connect().close()  # a wrong option or address is found before anything is planned
    return Store(label=where.scheme, description=text.partition("?")[0], connect=connect, live=not local)


def _local(folder: Path) -> Store:
    ahead = [timedelta(0)]
    uri = f"local://{folder}/contract-keys.db"

    def advance(step: timedelta) -> None:
        ahead[0] += step

    def connect() -> Provider:
        return open_provider(uri, create=True, clock=lambda: datetime.now(UTC) + ahead[0])

    extras = {"advance": advance, "process_uri": uri}
    return Store(
        label="local", description="a new local keystore", connect=connect, live=False, extras=extras
    )


@contextmanager
def _emulated(name: str) -> Generator[Store]:
    target, arguments, fault, names_return, takes_clock = _EMULATORS[name]
    module, _, attribute = target.partition(":")
    try:
        emulator: Any = getattr(importlib.import_module(module), attribute)(**arguments)
    except ModuleNotFoundError as error:
        raise InvalidArgumentError(
            f"the emulator {name} needs the module {error.name!r}; run: pip install 'anykms[emulators]'"
        ) from error
    with emulator as running:
        cloud = cast("_Emulator", running)
        clock = {"clock": cloud.clock.now} if takes_clock else {}

        def fail(times: int) -> object:
            return cloud.faults.add(times=times, **fault)

        def throttle(times: int) -> object:
            return cloud.faults.add(kind="throttle", times=times)

        def lose(after: int) -> object:
            return cloud.faults.add(kind="lost reply", after=after)

        def meanwhile(after: int, action: Callable[[], object]) -> object:
            return cloud.faults.add(kind="meanwhile", after=after, action=action)

        def lag(reads: int) -> object:
            return cloud.lag.behind(reads=reads)

        yield Store(
            label=name,
            description=f"anykms_emulators.{attribute}",
            connect=lambda: open_provider(cloud.uri, **cloud.options, **clock),
            live=False,
            extras={
                "advance": cloud.clock.advance,
                "requests": lambda: cloud.requests.total,
                "wire_faults": {"UnavailableError": fail, "ThrottledError": throttle},
                "lose_wire_reply": lose,
                "heal_wire": cloud.faults.clear,
                "meanwhile": meanwhile,
                "lag": lag,
                "names_return": names_return,
            },
        )


def destroy_all(store: Store, journal: Journal) -> dict[str, str]:
    """Schedule the destruction of every key that the run made. Returns what could not be, with the reason."""
    failed: dict[str, str] = {}
    names = [name for name in journal.left(store.label) if journal.owns(name)]
    if not names:
        return failed
    with KMSClient(store.connect(), retry=_PATIENCE if store.live else None) as client:
        for name in names:
            try:
                client.schedule_destruction(client.get_key(name))
            except (KeyNotFoundError, KeyPendingDestructionError):
                pass
            except Exception as error:  # whatever it is, the other keys must be tried and this one be named
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            journal.settle(store.label, name)
    return failed
