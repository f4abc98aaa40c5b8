"""A small HTTP/1.1 server on 127.0.0.1 for the emulators whose cloud speaks HTTP.

Keep-alive, Nagle's algorithm off, bodies bounded, TLS when a context is given, CONNECT where a `Tunnel` says so.
A handler gets a whole request and returns a `Reply`, or None to cut the connection without one (a TCP reset).
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

MAX_BODY_BYTES: Final = 1 << 20
_IDLE_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request: `path` with its query, header names in lower case (the last of equal names wins)."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply; Content-Length is added."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Handler(Protocol):
    """Answers one request; runs on a thread of that connection, several at a time."""

    def __call__(self, request: HttpRequest, /) -> Reply | None: ...


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What a forward proxy does with CONNECT (RFC 9110 section 9.3.6): play the host itself, over TLS.

    accepts: whether the emulator plays the host `name:port`; any other is refused with 403.
    handler: answers what comes through the tunnel.
    """

    accepts: Callable[[str], bool]
    handler: Handler
    tls: ssl.SSLContext


class LoopbackServer:
    """A server for one handler. `start`, then `port`, then `stop`."""

    def __init__(
        self, handler: Handler, *, tls: ssl.SSLContext | None = None, tunnel: Tunnel | None = None
    ) -> None:
        self._handler = handler
        self._tls = tls
        self._tunnel = tunnel
        self._server: _Server | None = None

    def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1. OSError when the port is taken, RuntimeError when already started."""
        if self._server is not None:
            raise RuntimeError("the server is already started")
        self._server = _Server(self._handler, self._tls, self._tunnel, port)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    @property
    def port(self) -> int:
        """The port in use; RuntimeError when not started."""
        if self._server is None:
            raise RuntimeError("the emulator is not started: use it in a with statement, or call start()")
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Close the port and every open connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.close_connections()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, handler: Handler, tls: ssl.SSLContext | None, tunnel: Tunnel | None, port: int
    ) -> None:
        self.handler = handler
        self.tls = tls
        self.tunnel = tunnel
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Connection)

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host name, which can take seconds without a network
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        raw: socket.socket = request
        raw.settimeout(_IDLE_SECONDS)
        with self._lock:
            self._open.add(raw)
        try:
            if self.tls is not None:
                request = self.secure(raw, self.tls)
            self.finish_request(request, client_address)
        except OSError:
            pass  # the peer went away, or we cut the connection
        finally:
            with self._lock:
                self._open.discard(raw)
                self._open.discard(request)
            self.shutdown_request(request)

    def secure(self, raw: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """TLS over a connection, as its server."""
        secured = tls.wrap_socket(raw, server_side=True)
        with self._lock:
            self._open.add(secured)
        return secured

    def forget(self, connection: socket.socket) -> None:
        """It is closed, or about to be."""
        with self._lock:
            self._open.discard(connection)

    def close_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet per reply
    _tunnelled: ssl.SSLSocket | None = None

    def handle_one_request(self) -> None:
        if self._tunnelled is not None and hasattr(socket, "TCP_QUICKACK"):
            # urllib3 leaves Nagle's algorithm on behind a proxy: an unacknowledged header holds the body up
            self._tunnelled.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_POST(self) -> None:
        self._answer()

    do_GET = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_POST  # noqa: N815

    def do_CONNECT(self) -> None:
        server = cast("_Server", self.server)
        if server.tunnel is None or not server.tunnel.accepts(self.path):
            self._refuse(403, "no tunnel to this host here")
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        self.wfile.flush()
        self._tunnelled = self.request = server.secure(self.connection, server.tunnel.tls)
        self.setup()
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        if self._tunnelled is not None:
            cast("_Server", self.server).forget(self._tunnelled)
            self._tunnelled.close()

    def _answer(self) -> None:
        body = self._body()
        if body is None:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        server = cast("_Server", self.server)
        tunnelled = server.tunnel if self._tunnelled is not None else None
        handler = server.handler if tunnelled is None else tunnelled.handler
        reply = handler(HttpRequest(self.command, self.path, headers, body))
        if reply is None:
            self.close_connection = True
            # a zero linger makes close() send a reset instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        self._send(reply)

    def _body(self) -> bytes | None:
        declared = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self._refuse(501, "Transfer-Encoding is not supported; send Content-Length")
            return None
        if not declared.isascii() or not declared.isdigit():
            self._refuse(400, "Content-Length is not a number")
            return None
        if len(declared) > 12 or int(declared) > MAX_BODY_BYTES:
            self._refuse(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
            return None
        body = self.rfile.read(int(declared))
        if len(body) != int(declared):
            self.close_connection = True
            return None
        return body

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._send(Reply(status, json.dumps({"message": message}).encode(), {"Connection": "close"}))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def version_string(self) -> str:
        return "Server"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Keep quiet: request lines are not for a test's output."""
