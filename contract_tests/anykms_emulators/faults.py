"""Fault switches: make the next call of an operation fail the way a network or a cloud fails.

>>> faults = Faults()
>>> fault = faults.add("Encrypt", kind="throttle", times=2, retry_after=1)
>>> faults.take("Decrypt") is None
True
>>> faults.take("Encrypt") is fault
True
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

FaultKind: TypeAlias = Literal["error", "throttle", "reset", "lost reply", "delay", "meanwhile"]
EVERY_OPERATION: Final = "*"


@dataclass(frozen=True, slots=True)
class Fault:
    """One switch. An emulator fills what is left None with its cloud's own words.

    kind: `error` answers `status` / `code` / `message` and does nothing; `throttle` is the cloud's
    throttling error; `reset` cuts the connection and does nothing; `lost reply` does the operation and
    cuts the connection before the reply; `delay` does the operation, only late; `meanwhile` does `action`
    first, which may call the emulator: something that happens just before this call is served.
    """

    operation: str
    kind: FaultKind
    code: str | None
    status: int | None
    message: str | None
    delay: float
    retry_after: int | None
    action: Callable[[], object] | None = None


class Faults:
    """The switches of one emulator, safe to set while it serves.

    operations: the names that `add` takes; empty for any.
    """

    def __init__(self, operations: Collection[str] = ()) -> None:
        self._operations = operations
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []

    def add(
        self,
        operation: str = EVERY_OPERATION,
        code: str | None = None,
        *,
        kind: FaultKind = "error",
        status: int | None = None,
        message: str | None = None,
        times: int | None = 1,
        after: int = 0,
        delay: float = 0.0,
        retry_after: int | None = None,
        action: Callable[[], object] | None = None,
    ) -> Fault:
        """Arm a fault and return it.

        operation: the cloud's own name of the call (`Encrypt`, `AsymmetricSign`, `unwrapKey`), or `*`.
        code, status, message: of an `error`; the emulator's default is its cloud's internal error.
        times: how many calls it hits; None for all until `clear`. after: how many calls pass first.
        delay: seconds to wait before anything else. retry_after: seconds in a Retry-After header.
        action: of `meanwhile`; it runs on the emulator's thread.
        """
        if kind not in get_args(FaultKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(FaultKind))}")
        if (times is not None and times < 1) or after < 0 or delay < 0:
            raise ValueError("times is at least 1, after and delay are not negative")
        if (kind == "meanwhile") is not (action is not None):
            raise ValueError("an action belongs to the kind meanwhile, and that needs one")
        if self._operations and operation != EVERY_OPERATION and operation not in self._operations:
            raise ValueError(f"no operation {operation!r} here: {', '.join(sorted(self._operations))}")
        fault = Fault(operation, kind, code, status, message, delay, retry_after, action)
        with self._lock:
            self._armed.append(_Armed(fault, times, after))
        return fault

    def take(self, operation: str) -> Fault | None:
        """The fault that hits this call, counted; called by the emulator once per request."""
        with self._lock:
            for armed in self._armed:
                if armed.fault.operation not in (operation, EVERY_OPERATION):
                    continue
                if armed.after:
                    armed.after -= 1
                    continue
                if armed.times is not None:
                    armed.times -= 1
                    if armed.times == 0:
                        self._armed.remove(armed)
                return armed.fault
        return None

    @property
    def pending(self) -> tuple[Fault, ...]:
        """The faults still armed, for a test that must know that each one was hit."""
        with self._lock:
            return tuple(armed.fault for armed in self._armed)

    def clear(self) -> None:
        """Disarm all."""
        with self._lock:
            self._armed.clear()


@dataclass(slots=True, eq=False)
class _Armed:
    fault: Fault
    times: int | None
    after: int
