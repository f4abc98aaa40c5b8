"""What an emulator was asked, in the order of arrival."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Request:
    """One request that named an operation, recorded before faults and checks.

    operation: the cloud's own name of the call. parameters: the decoded request, as it came.
    headers: lower-case names. caller: the principal that the credentials name, "" when there is none.
    request_id: the id in the reply. Parameters and headers hold secrets and stay out of the repr.
    """

    operation: str
    parameters: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    caller: str
    request_id: str


class Recorder:
    """The requests of one emulator: iterate, index, `len`, `clear`. Keeps the last `limit`.

    total: how many there have been, forgotten ones too; it only grows.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._lock = threading.Lock()
        self._requests: deque[Request] = deque(maxlen=limit)
        self.total = 0

    def record(self, request: Request) -> None:
        """Add one; called by the emulator."""
        with self._lock:
            self._requests.append(request)
            self.total += 1

    def __iter__(self) -> Iterator[Request]:
        return iter(self._snapshot())

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: int) -> Request:
        return self._snapshot()[index]

    @property
    def operations(self) -> list[str]:
        """The names alone, which is what most tests compare."""
        return [request.operation for request in self._snapshot()]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._requests.clear()

    def _snapshot(self) -> list[Request]:
        with self._lock:
            return list(self._requests)
