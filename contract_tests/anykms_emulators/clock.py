"""The time that an emulator lives in: real by default, moved or stopped by a test.

>>> clock = Clock(datetime(2030, 1, 1, tzinfo=UTC))
>>> clock.advance(timedelta(days=7))
>>> clock.now().isoformat()
'2030-01-08T00:00:00+00:00'
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class Clock:
    """A clock. Without `at` it follows the machine's; with `at`, or after `set`, it stands still there."""

    def __init__(self, at: datetime | None = None) -> None:
        self._lock = threading.Lock()
        self._offset = timedelta()
        self._stopped = None if at is None else _utc(at)

    def now(self) -> datetime:
        """The time, in UTC."""
        with self._lock:
            return (self._stopped or datetime.now(UTC)) + self._offset

    def advance(self, by: timedelta) -> None:
        """Move forward; a running clock keeps running from there. ValueError for a negative step."""
        if by < timedelta():
            raise ValueError("a clock goes forward; use set() to go back")
        with self._lock:
            self._offset += by

    def set(self, at: datetime) -> None:
        """Stop at `at`, a time with its zone."""
        with self._lock:
            self._stopped, self._offset = _utc(at), timedelta()


def _utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("a clock needs a time with its zone, such as datetime(2030, 1, 1, tzinfo=UTC)")
    return at.astimezone(UTC)
