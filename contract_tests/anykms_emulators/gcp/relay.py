"""A TCP relay on 127.0.0.1 in front of the gRPC server, so that a test can do what a network does.

grpc's own server can neither reset a connection nor send GOAWAY on demand. The relay copies bytes both ways
on one event loop in one thread; from the server it forwards whole HTTP/2 frames (RFC 9113 section 4.1), so
that a frame of its own can go between two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_FRAME_HEADER: Final = 9
_LARGEST_STREAM: Final = 0x7FFFFFFF
# length 8, type GOAWAY (7), no flags, stream 0; last stream: all, error NO_ERROR (RFC 9113 section 6.8)
_GOAWAY: Final = struct.pack(">I", 8)[1:] + b"\x07\x00" + struct.pack(">III", 0, _LARGEST_STREAM, 0)
_PING: Final = b"\x00\x00\x08\x06\x00" + bytes(4)  # section 6.7, before eight bytes of the sender's choice
_PING_ACK: Final = b"\x00\x00\x08\x06\x01" + bytes(4)
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_PATIENCE_SECONDS: Final = 2.0


class Relay:
    """Listens on `port` and relays to `target`, both on 127.0.0.1."""

    def __init__(self, port: int, target: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._open: dict[int, _Downstream] = {}  # by the port that the gRPC server sees
        self._thread = threading.Thread(target=self._run, name="anykms-gcp-relay", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._listener.getsockname()[1])

    def reset(self, peer_port: int) -> None:
        """Cut the connection that the server knows as coming from `peer_port`, with a TCP reset.

        A GOAWAY goes first and the reset waits until the client has read it. Otherwise the client may put its
        next call on the dead connection, and a test could not say how many calls one reset costs.
        """
        self._ask(lambda done: self._reset(peer_port, done))

    def goaway(self) -> None:
        """Ask every client, politely, to use another connection for its next call; return when all have read it."""
        self._ask(self._goaway)

    def stop(self) -> None:
        """Cut all connections and close the port."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Downstream(self._target, self._open), sock=self._listener)
        )
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for connection in list(self._open.values()):
                connection.abort()
            self._loop.run_until_complete(server.wait_closed())
            # one more turn lets the aborted transports close their sockets
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _ask(self, action: Callable[[threading.Event], None]) -> None:
        done = threading.Event()
        with contextlib.suppress(RuntimeError):  # a stopped relay has no connections left
            self._loop.call_soon_threadsafe(action, done)
            done.wait(2 * _PATIENCE_SECONDS)

    def _reset(self, peer_port: int, done: threading.Event) -> None:
        connection = self._open.get(peer_port)
        if connection is None:
            done.set()
            return

        def cut() -> None:
            connection.abort()
            done.set()

        connection.goaway(cut)

    def _goaway(self, done: threading.Event) -> None:
        waiting = set(self._open.values())
        if not waiting:
            done.set()
        for connection in list(waiting):

            def read(connection: _Downstream = connection) -> None:
                waiting.discard(connection)
                if not waiting:
                    done.set()

            connection.goaway(read)


class _Downstream(asyncio.Protocol):
    """The client's side of a connection."""

    def __init__(self, target: int, registry: dict[int, _Downstream]) -> None:
        self._target = target
        self._registry = registry
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._early = bytearray()
        self._frames = bytearray()
        self._peer_port = 0
        self._connecting: asyncio.Task[None] | None = None
        self._awaited: dict[bytes, Callable[[], None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # create_server makes no other
        self._client = transport
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def data_received(self, data: bytes) -> None:
        for ack in list(self._awaited):
            if ack in data:
                data = data.replace(ack, b"")
                self._read(ack)
        if self._server is None:
            self._early += data
        else:
            self._server.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._client = None
        self._registry.pop(self._peer_port, None)
        for ack in list(self._awaited):
            self._read(ack)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._server is not None:
            self._server.abort()

    def from_server(self, data: bytes) -> None:
        """Forward the frames that are whole."""
        self._frames += data
        whole = 0
        while len(self._frames) - whole >= _FRAME_HEADER:
            size = _FRAME_HEADER + int.from_bytes(self._frames[whole : whole + 3], "big")
            if len(self._frames) - whole < size:
                break
            whole += size
        if whole and self._client is not None:
            self._client.write(bytes(self._frames[:whole]))
        del self._frames[:whole]

    def goaway(self, read: Callable[[], None]) -> None:
        """Send GOAWAY, and call `read` once the client has read it, is gone, or does not answer."""
        if self._client is None:
            read()
            return
        choice = os.urandom(8)
        self._awaited[_PING_ACK + choice] = read
        self._client.write(_GOAWAY + _PING + choice)
        asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._read, _PING_ACK + choice)

    def _read(self, ack: bytes) -> None:
        read = self._awaited.pop(ack, None)
        if read is not None:
            read()

    def server_lost(self) -> None:
        """The server ended the connection: end the client's in order."""
        if self._client is not None:
            self._client.close()

    def abort(self) -> None:
        """Reset the client's connection."""
        if self._client is not None:
            raw: socket.socket = self._client.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._client.abort()

    async def _connect(self) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: _Upstream(self), "127.0.0.1", self._target
            )
        except OSError:
            self.abort()
            return
        self._server = transport
        self._peer_port = int(transport.get_extra_info("sockname")[1])
        self._registry[self._peer_port] = self
        transport.write(bytes(self._early))
        self._early.clear()


class _Upstream(asyncio.Protocol):
    """The server's side of a connection."""

    def __init__(self, downstream: _Downstream) -> None:
        self._downstream = downstream

    def data_received(self, data: bytes) -> None:
        self._downstream.from_server(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._downstream.server_lost()
