"""One bit flipped in a message after its checksums were made, as a faulty network card would."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anykms_emulators.gcp.messages import raw

if TYPE_CHECKING:
    from collections.abc import Sequence


class Corruptions:
    """The flips still to be made, safe to arm while the emulator serves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []

    def add(self, operation: str, direction: str, path: Sequence[str], times: int) -> None:
        """Flip a bit of the field at `path` in the next `times` messages."""
        with self._lock:
            self._armed.append(_Armed(operation, direction, tuple(path), times))

    def apply(self, operation: str, direction: str, message: Any) -> None:
        """Make the flips that are due in this message."""
        with self._lock:
            for armed in [*self._armed]:
                if (armed.operation, armed.direction) == (operation, direction):
                    _flip(raw(message), armed.path)
                    armed.times -= 1
                    if armed.times == 0:
                        self._armed.remove(armed)

    def pending(self) -> int:
        """How many flips are still to be made."""
        with self._lock:
            return sum(armed.times for armed in self._armed)

    def clear(self) -> None:
        """Disarm all."""
        with self._lock:
            self._armed.clear()


@dataclass(slots=True, eq=False)
class _Armed:
    operation: str
    direction: str
    path: tuple[str, ...]
    times: int


def _flip(message: Any, path: Sequence[str]) -> None:
    for name in path[:-1]:
        message = getattr(message, name)
    name = path[-1]
    value = getattr(message, name)
    if isinstance(value, bool):
        setattr(message, name, not value)
    elif isinstance(value, int):
        setattr(message, name, value ^ 1)
    elif isinstance(value, bytes):
        middle = len(value) // 2
        flipped = bytes([value[middle] ^ 1]) if value else b"\x01"
        setattr(message, name, value[:middle] + flipped + value[middle + 1 :])
    elif isinstance(value, str):
        middle = len(value) // 2
        flipped_char = chr(ord(value[middle]) ^ 1) if value else "\x01"
        setattr(message, name, value[:middle] + flipped_char + value[middle + 1 :])
    else:
        value.value ^= 1
