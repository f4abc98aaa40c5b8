"""What every emulator offers, whichever cloud it plays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from anykms_emulators.clock import Clock
from anykms_emulators.faults import Faults
from anykms_emulators.lag import Lag
from anykms_emulators.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import TracebackType


class Emulator(ABC):
    """A cloud's key service on a loopback port, with real cryptography and no account.

    Use it as a context manager, or call `start` and `stop`. `port=0` takes a free port.
    State lives in memory and outlasts `stop`; a stopped emulator can be started again on another port.
    operations: the names that its faults take; empty for any.
    """

    def __init__(
        self, *, port: int = 0, clock: Clock | None = None, operations: Collection[str] = ()
    ) -> None:
        self._wanted_port = port
        self.clock = clock or Clock()
        self.faults = Faults(operations)
        self.lag = Lag(self.clock)
        self.requests = Recorder()

    @abstractmethod
    def start(self) -> Self:
        """Listen on 127.0.0.1; returns itself."""

    @abstractmethod
    def stop(self) -> None:
        """Close the port and every connection. A second call does nothing."""

    @property
    @abstractmethod
    def uri(self) -> str:
        """The connection string for `anykms.connect`."""

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """Further keyword arguments for `anykms.connect`: what a URI must not hold or cannot say."""

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """Environment variables that point the cloud's own tools here, as far as it has any."""

    @abstractmethod
    def client(self) -> Any:
        """The cloud's official client, unmodified, connected here (needs that SDK installed)."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
