"""Data keys kept for a while in memory, so that not every message costs calls of a key service.

Which message may use which key is decided by whoever asks: every fact that matters is in the slot's digest.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Generic, Self, TypeVar, cast

from anykms.errors import InvalidArgumentError

T = TypeVar("T")

MAX_AGE: Final = 300.0
"""Seconds that one data key is kept at most."""
MAX_MESSAGES: Final = 2**20
MAX_BYTES: Final = 64 * 2**30
_SWEEP_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class CacheCounters:
    """What a cache has done since it was made.

    Attributes:
        hits: messages served by a kept data key.
        misses: messages that a data key was made or unwrapped for.
        calls_saved: calls of key services that the hits did without.
        entries: data keys kept now.
    """

    hits: int
    misses: int
    calls_saved: int
    entries: int


class _Entry(Generic[T]):
    __slots__ = ("bytes_left", "calls", "expires", "messages_left", "value")

    def __init__(self, value: T, calls: int, expires: float, messages_left: int, bytes_left: int) -> None:
        self.value = value
        self.calls = calls
        self.expires = expires
        self.messages_left = messages_left
        self.bytes_left = bytes_left


class _Flight:
    """One data key on its way, and the threads that wait for it."""

    __slots__ = ("error", "landed")

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.error: Exception | None = None


class DataKeyCache:
    """Data keys that a ``Keyring`` may use again: ``Keyring(keys, cache=DataKeyCache())``.

    Messages made under one kept data key share its header, so they can be linked, and only ``aad`` tells them apart:
    name the object in it. One cache may serve several keyrings: nothing passes between rings of other keys, policy
    or connection, nor between contexts. A data key that was unwrapped never encrypts a message.

    A kept key is forgotten after ``max_age``, when it has served its messages or bytes, when it is pushed out, and by
    ``clear``; then, once no thread uses it, its buffer is zeroed. Copies inside OpenSSL and the ``bytes`` in which a
    provider returned the data key are freed, not zeroed: Python cannot. A process that does nothing keeps what it has
    until the next miss or ``clear``. A forked child starts empty.

    Args:
        max_age: seconds, over 0 and at most 300. To decrypt, never longer than the clients' ``state_ttl``, so that
            disabling a key ends reading.
        max_messages: for each data key, 1 to 2^20.
        max_bytes: of plaintext for each data key, 1 to 64 GiB.
        max_entries: data keys kept, 1 or more; the one longest unused goes first.
        clock: seconds that never run backwards, for tests.

    Raises:
        InvalidArgumentError: a limit out of its range.

    >>> import anykms, tempfile
    >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
    >>> info = client.generate_key(anykms.KeyConf("orders", anykms.KeyPurpose.ENCRYPT_DECRYPT))
    >>> cache = DataKeyCache()
    >>> ring = anykms.Keyring([client.key(info)], cache=cache)
    >>> messages = [ring.encrypt(b"paid", context={}, aad=b"orders/%d" % n) for n in range(1000)]
    >>> cache.counters
    CacheCounters(hits=999, misses=1, calls_saved=999, entries=1)
    """

    def __init__(
        self,
        *,
        max_age: float = MAX_AGE,
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
        max_entries: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < max_age <= MAX_AGE:
            raise InvalidArgumentError(f"max_age is {max_age}; use over 0 to {MAX_AGE:.0f} seconds")
        if not 1 <= max_messages <= MAX_MESSAGES:
            raise InvalidArgumentError(f"max_messages is {max_messages}; use 1 to {MAX_MESSAGES}")
        if not 1 <= max_bytes <= MAX_BYTES:
            raise InvalidArgumentError(f"max_bytes is {max_bytes}; use 1 to {MAX_BYTES}")
        if max_entries < 1:
            raise InvalidArgumentError(f"max_entries is {max_entries}; use 1 or more")
        self.max_age: Final = max_age
        self.max_messages: Final = max_messages
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._clock = clock
        self._closed = False
        self._hits = self._misses = self._saved = 0
        self._start()
        _caches.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry[object]] = OrderedDict()
        self._flights: dict[bytes, _Flight] = {}
        self._next_sweep = self._clock() + _SWEEP_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DataKeyCache {self.counters}>"

    @property
    def counters(self) -> CacheCounters:
        """Hits, misses, calls saved and entries, of one moment."""
        with self._lock:
            return CacheCounters(self._hits, self._misses, self._saved, len(self._entries))

    def clear(self) -> None:
        """Forget every data key; one on its way to a waiting thread is used once and not kept."""
        with self._lock:
            self._entries.clear()
            self._flights = {}

    def close(self) -> None:
        """Forget every data key and keep none any more; a keyring that is still used raises then."""
        self._closed = True
        self.clear()

    def get(self, slot: bytes, size: int) -> object | None:
        """What is kept in ``slot``, charged with one message of ``size`` bytes; None where nothing may be used.

        For ``Keyring`` and ``Record``, as is ``fetch``.
        """
        with self._lock:
            return self._charge(slot, size)

    def fetch(self, slot: bytes, size: int, make: Callable[[], T], *, calls: int, lifetime: float) -> T:
        """What is kept in ``slot``, or what ``make`` returns, called once for all threads that wait for it.

        Args:
            slot: digest of all that the value depends on; it also decides the value's type.
            size: bytes to charge.
            make: makes the value, with ``calls`` calls of key services. Its error is the error of all that wait.
            lifetime: seconds that the value may be kept; ``max_age`` binds too.

        Raises:
            InvalidArgumentError: the cache is closed.
        """
        lifetime = min(lifetime, self.max_age)
        if lifetime <= 0 or size > self._max_bytes:
            return make()
        while True:
            with self._lock:
                if self._closed:
                    raise InvalidArgumentError("the data key cache is closed; give the keyring another")
                found = self._charge(slot, size)
                if found is not None:
                    return cast("T", found)
                flight = self._flights.get(slot)
                mine = flight is None
                if flight is None:
                    flight = self._flights[slot] = _Flight()
            try:
                if mine:
                    return self._lead(flight, slot, size, make, calls, lifetime)
                flight.landed.wait()
                if flight.error is not None:
                    raise flight.error
            finally:
                del flight  # an error's frames must not keep it, and the secrets in them, alive

    def _charge(self, slot: bytes, size: int) -> object | None:
        entries = self._entries
        entry = entries.get(slot)
        if entry is None:
            return None
        if not (entry.messages_left > 0 and entry.bytes_left >= size and entry.expires > self._clock()):
            del entries[slot]
            return None
        entry.messages_left -= 1
        entry.bytes_left -= size
        self._hits += 1
        self._saved += entry.calls
        entries.move_to_end(slot)
        return entry.value

    def _lead(
        self, flight: _Flight, slot: bytes, size: int, make: Callable[[], T], calls: int, lifetime: float
    ) -> T:
        # The age counts from before the call: what the provider said then may be outdated when it answers.
        expires = self._clock() + lifetime
        value: T | None = None
        try:
            value = make()
            return value
        except Exception as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                self._misses += 1
                if self._flights.get(slot) is flight:
                    del self._flights[slot]
                    if value is not None:
                        messages, left = self.max_messages - 1, self._max_bytes - size
                        self._keep(slot, _Entry[object](value, calls, expires, messages, left))
            flight.landed.set()
            del flight

    def _keep(self, slot: bytes, entry: _Entry[object]) -> None:
        now = self._clock()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_SECONDS
            for old in [slot for slot, known in self._entries.items() if known.expires <= now]:
                del self._entries[old]
        self._entries[slot] = entry
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def _forked(self) -> None:
        # Only the forking thread lives on; another may have held the lock, or been fetching.
        self._start()


_caches: weakref.WeakSet[DataKeyCache] = weakref.WeakSet()


def _forked() -> None:
    for cache in list(_caches):
        cache._forked()  # pyright: ignore[reportPrivateUsage] # the same module


os.register_at_fork(after_in_child=_forked)
