"""What a migration asks of each provider: calls, how fast they may come, how long that takes and what it costs.

A provider's quota is one bucket that all kinds of calls draw from, each by its weight, as Azure Key Vault defines its
own: a call of a kind that is allowed 100 times a second takes a hundredth of a second's worth.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

from anykms.algorithms import Algorithm
from anykms.errors import InvalidArgumentError
from anykms.keys import KeyInfo, ProtectionLevel
from anykms.wrapping import RSA_WITH_SENDER, wrap_algorithm

_SLOWEST: Final = 1 / 256
_BURST: Final = 1.0
"""Seconds' worth of calls that may come at once."""
_INSTANT: Final = 1e-6
"""Seconds that are not worth waiting for."""
_RECOVERY: Final = 1.05
"""How much faster a throttled provider is asked again, each second."""


class Figures(msgspec.Struct, frozen=True):
    """The public figures of one provider."""

    quota_source: str
    quota_seen: str | None
    quota_note: str
    per_second: dict[str, float]
    price_source: str
    price_seen: str | None
    price_per_10000: dict[str, float]


class _Table(msgspec.Struct, frozen=True):
    currency: str
    note: str
    providers: dict[str, Figures]


@cache
def figures() -> Mapping[str, Figures]:
    """Quotas and prices by provider, each with its source and the day it was read there."""
    data = files("anykms.migration").joinpath("quotas.json").read_bytes()
    return msgspec.json.decode(data, type=_Table).providers


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of call.

    Attributes:
        provider: scheme.
        kind: ``unwrap``, ``wrap`` or ``sign``.
        key: what quotas and prices depend on: ``A256GCM``, ``RSA-3072``, ``EC HSM``.
    """

    provider: str
    kind: str
    key: str


def unwrap_calls(info: KeyInfo) -> tuple[Call, ...]:
    """The calls that opening one message through a key takes."""
    return (Call(info.provider, "unwrap", _class_of(info)),)


def wrap_calls(info: KeyInfo) -> tuple[Call, ...]:
    """The calls that one more recipient takes."""
    wrap = Call(info.provider, "wrap", _class_of(info))
    if wrap_algorithm(info) != RSA_WITH_SENDER:
        return (wrap,)
    return (wrap, Call(info.provider, "sign", "EC" + _hardware(info)))


def _class_of(info: KeyInfo) -> str:
    kind = "A256GCM" if info.algorithm is Algorithm.A256GCM else f"RSA-{info.key_size}"
    return kind + _hardware(info)


def _hardware(info: KeyInfo) -> str:
    # AWS KMS keys are all in HSMs, at one price and quota.
    hardware = info.protection_level is ProtectionLevel.HSM and info.provider != "awskms"
    return " HSM" if hardware else ""


def limit_of(call: Call, rates: Mapping[str, float]) -> float | None:
    """Calls of that kind a second: the caller's, else the provider's published quota; None where there is none."""
    own = rates.get(call.provider)
    if own is not None:
        return own
    known = figures().get(call.provider)
    return None if known is None else known.per_second.get(call.key)


def weights(calls: Mapping[Call, int], rates: Mapping[str, float]) -> dict[str, float]:
    """Seconds' worth of each provider's quota that the calls take."""
    taken: dict[str, float] = {call.provider: 0.0 for call in calls}
    for call, count in calls.items():
        limit = limit_of(call, rates)
        if limit is not None:
            taken[call.provider] += count / limit
    return taken


def price_of(calls: Mapping[Call, int]) -> float | None:
    """US dollars; None where no price is known for some of the calls of a cloud."""
    total = 0.0
    for call, count in calls.items():
        known = figures().get(call.provider)
        if known is None:
            continue
        price = known.price_per_10000.get(call.key)
        if price is None:
            return None
        total += count * price / 10000
    return total


def checked_rates(rates: Mapping[str, float]) -> dict[str, float]:
    """Raises InvalidArgumentError unless every rate is positive."""
    for provider, rate in rates.items():
        if not 0 < rate < 1e9:
            raise InvalidArgumentError(f"the rate of {provider} must be calls per second, above 0")
    return dict(rates)


class Pace:
    """How fast each provider is asked, over the whole run.

    Args:
        rates: calls per second by provider, instead of its published quota.
        share: the part of all of them that this process may take, above 0 and at most 1.
        clock: seconds, monotonic.

    >>> now = 0.0
    >>> pace = Pace({"awskms": 10}, clock=lambda: now)
    >>> call = Call("awskms", "unwrap", "A256GCM")
    >>> pace.take({call: 10}), pace.take({call: 5})
    (0.0, 0.0)
    >>> round(pace.take({call: 1}), 3)
    0.5
    """

    def __init__(
        self,
        rates: Mapping[str, float] | None = None,
        share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rates = checked_rates(rates or {})
        self._share = share
        self._clock = clock
        self._providers: dict[str, _Provider] = {}
        self.calls: Counter[Call] = Counter()
        """What was asked for in all, by the plan's own arithmetic."""

    def take(self, calls: Mapping[Call, int]) -> float:
        """0.0 where the calls may be made now, and then they are counted; else seconds to wait before asking again."""
        now = self._clock()
        wanted = weights(calls, self._rates)
        for name in wanted:
            self._provider(name).refill(now)
        wait = max((self._providers[name].wait() for name in wanted), default=0.0)
        if wait > 0:
            return wait
        for name, weight in wanted.items():
            self._providers[name].spend(weight / self._share, _sum(calls, name), now)
        self.calls.update(calls)
        return 0.0

    def throttled(self, provider: str, wait: float = 0.0) -> None:
        """The provider said that it is too much: half as fast from now on, and not before ``wait`` seconds."""
        self._provider(provider).slow_down(self._clock(), wait)

    def slowed(self) -> dict[str, float]:
        """Providers that are asked more slowly than they might be, and by which factor."""
        return {name: found.factor for name, found in self._providers.items() if found.factor < 1}

    def _provider(self, name: str) -> _Provider:
        return self._providers.setdefault(name, _Provider(self._clock()))


def _sum(calls: Mapping[Call, int], provider: str) -> int:
    return sum(count for call, count in calls.items() if call.provider == provider)


class _Provider:
    """A bucket of seconds' worth of calls; it may go into debt by one batch, which the next one waits for."""

    def __init__(self, now: float) -> None:
        self.factor = 1.0
        self._level = _BURST
        self._then = now
        self._closed_until = now
        self._slowed = now - 10
        self._asked = 0
        self._since = now
        self._own: float | None = None

    def refill(self, now: float) -> None:
        passed = max(0.0, now - self._then)
        self._then = now
        self.factor = min(1.0, self.factor * _RECOVERY**passed)
        self._level = min(_BURST, self._level + passed * self.factor)
        if self._own is not None and self.factor == 1.0:
            self._own *= _RECOVERY**passed

    def wait(self) -> float:
        closed = self._closed_until - self._then
        owed = -self._level / self.factor
        wait = max(closed, owed)
        return wait if wait > _INSTANT else 0.0

    def spend(self, weight: float, calls: int, now: float) -> None:
        self._asked += calls
        if weight == 0 and self._own is not None:
            # No quota is known, but it throttled: what it took before that is taken for one.
            weight = calls / self._own
        self._level -= weight

    def slow_down(self, now: float, wait: float) -> None:
        self._closed_until = max(self._closed_until, now + wait)
        if now - self._slowed < 1:
            return
        self._slowed = now
        if self._own is None:
            self._own = max(1.0, self._asked / max(1.0, now - self._since))
        self.factor = max(_SLOWEST, self.factor / 2)
