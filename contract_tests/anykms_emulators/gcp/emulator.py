"""The gRPC server: routing, recording, faults, and errors as google.rpc.Status."""

from __future__ import annotations

import logging
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, cast

import grpc
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service import transports
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from anykms_emulators.clock import Clock
from anykms_emulators.emulator import Emulator
from anykms_emulators.gcp import names
from anykms_emulators.gcp.control_plane import ControlPlane
from anykms_emulators.gcp.corruption import Corruptions
from anykms_emulators.gcp.data_plane import DataPlane
from anykms_emulators.gcp.messages import has_field, parse, plain, raw
from anykms_emulators.gcp.methods import NOT_EMULATED, Rpc, emulated
from anykms_emulators.gcp.relay import Relay
from anykms_emulators.gcp.resources import Generation, KeyRing, Store
from anykms_emulators.gcp.status import RefusedError, invalid, retry_info, throttled, unimplemented
from anykms_emulators.recorder import Request

if TYPE_CHECKING:
    from anykms_emulators.faults import Fault

ROUTING_HEADER: Final = "x-goog-request-params"
_WORKERS: Final = 16
_USES: Final = frozenset(
    ("Encrypt", "Decrypt", "RawEncrypt", "RawDecrypt", "AsymmetricSign", "AsymmetricDecrypt", "MacSign", "MacVerify")
)  # fmt: skip
_CHANGES: Final = frozenset(
    ("UpdateCryptoKeyVersion", "UpdateCryptoKeyPrimaryVersion", "DestroyCryptoKeyVersion", "RestoreCryptoKeyVersion",
     "CreateCryptoKeyVersion", "ImportCryptoKeyVersion")
)  # fmt: skip
_Behaviour: TypeAlias = Callable[[bytes, grpc.ServicerContext], bytes]

logger = logging.getLogger(__name__)


class GCPEmulator(Emulator):
    """Google Cloud KMS over gRPC on a loopback port, for google-cloud-kms as it is.

    >>> with GCPEmulator() as gcp:
    ...     kms = gcp.client()
    ...     key = kms.create_crypto_key(
    ...         parent=gcp.key_ring, crypto_key_id="k", crypto_key={"purpose": "ENCRYPT_DECRYPT"}
    ...     )
    ...     sealed = kms.encrypt(name=key.name, plaintext=b"secret").ciphertext
    ...     kms.decrypt(name=key.name, ciphertext=sealed).plaintext
    b'secret'

    The key ring `key_ring` exists from the start, because a connection string names one.
    `generation` makes new asymmetric versions and import jobs stay in PENDING_GENERATION for longer.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        clock: Clock | None = None,
        key_ring: str = "projects/p/locations/global/keyRings/r",
    ) -> None:
        clock = clock or Clock()
        self._store = Store(clock)
        self._methods = emulated(ControlPlane(self._store), DataPlane(self._store))
        operations = {method.rpartition("/")[2] for method in self._methods}
        super().__init__(port=port, clock=clock, operations=operations)
        self.key_ring = names.check("KeyRing", key_ring, "key_ring")
        self._store.rings[key_ring] = KeyRing(key_ring, self.clock.now())
        self._corruptions = Corruptions()
        self._stopping = threading.Event()
        self._server: grpc.Server | None = None
        self._relay: Relay | None = None
        self._channels: list[grpc.Channel] = []

    def start(self) -> Self:
        """Listen on 127.0.0.1; returns itself. OSError when the port is taken."""
        if self._relay is not None:
            raise RuntimeError("the emulator is already started")
        server = grpc.server(
            futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="anykms-gcp"),
            options=[("grpc.so_reuseport", 0)],
        )
        server.add_generic_rpc_handlers((_Handlers(self._behaviour),))
        inner_port = server.add_insecure_port("127.0.0.1:0")
        self._relay = Relay(self._wanted_port, inner_port)
        self._stopping.clear()
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """Close the port, every connection, and the channels that `client` opened."""
        self._stopping.set()
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        if self._relay is not None:
            self._relay.stop()
            self._relay = None
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    @property
    def address(self) -> str:
        """127.0.0.1 and the port."""
        return f"127.0.0.1:{self._running().port}"

    @property
    def uri(self) -> str:
        """The connection string for `anykms.connect`."""
        return f"gcpkms://{self.key_ring}?endpoint={self.address}"

    @property
    def options(self) -> Mapping[str, Any]:
        """`allow_insecure_endpoint`: the server speaks no TLS."""
        return {"allow_insecure_endpoint": True}

    @property
    def environment(self) -> Mapping[str, str]:
        """Nothing: the official client has no variable for an endpoint."""
        return {}

    def client(self) -> Any:
        """A new google.cloud.kms_v1.KeyManagementServiceClient, closed by `stop`."""
        channel = grpc.insecure_channel(self.address)
        self._channels.append(channel)
        return kms_v1.KeyManagementServiceClient(
            transport=transports.KeyManagementServiceGrpcTransport(channel=channel)
        )

    def async_client(self) -> Any:
        """A new KeyManagementServiceAsyncClient; call it in a running event loop, and close its transport."""
        channel = grpc.aio.insecure_channel(self.address)
        return kms_v1.KeyManagementServiceAsyncClient(
            transport=transports.KeyManagementServiceGrpcAsyncIOTransport(channel=channel)
        )

    @property
    def generation(self) -> Generation:
        """How new asymmetric versions, imported versions and import jobs become ready; at once by default."""
        return self._store.generation

    @generation.setter
    def generation(self, generation: Generation) -> None:
        self._store.generation = generation

    def finish_generation(self) -> None:
        """Make everything that is pending ready now."""
        self._store.finish_generation()

    def goaway(self) -> None:
        """Send GOAWAY (RFC 9113) on every connection: clients must use another one for their next call."""
        self._running().goaway()

    def corrupt(self, operation: str, field: str, *, times: int = 1) -> None:
        """Flip one bit of a field on the wire in the next `times` calls of `operation`.

        field: `request.plaintext`, `response.ciphertext`, `request.digest.sha256` and so on. A request is
        damaged before the emulator reads it, a response after its checksums were made. ValueError for an
        operation or a field that does not exist.
        """
        direction, *path = field.split(".")
        rpc = next((rpc for name, rpc in self._methods.items() if name.endswith(f"/{operation}")), None)
        if rpc is None or direction not in ("request", "response") or times < 1:
            raise ValueError("corrupt takes an emulated operation and a field of its request or response")
        kind = rpc.request if direction == "request" else rpc.reply
        if not has_field(kind, path):
            raise ValueError(f"{kind.__name__} has no single-valued field {'.'.join(path)}")
        self._corruptions.add(operation, direction, path, times)

    @property
    def pending_corruptions(self) -> int:
        """How many flips `corrupt` has still to make, for a test that must know that each one was made."""
        return self._corruptions.pending()

    def _running(self) -> Relay:
        if self._relay is None:
            raise RuntimeError("the emulator is not started: use it in a with statement, or call start()")
        return self._relay

    def _behaviour(self, method: str) -> _Behaviour | None:
        rpc = self._methods.get(method)
        operation = method.rpartition("/")[2]
        if rpc is not None:
            return lambda data, context: self._serve(operation, rpc, data, context)
        if method in NOT_EMULATED:
            refusal = unimplemented(f"{method} is not emulated: {NOT_EMULATED[method]}.", method=method)
            return lambda data, context: _abort(context, refusal)
        return None

    def _serve(self, operation: str, rpc: Rpc[Any, Any], data: bytes, context: grpc.ServicerContext) -> bytes:
        fault = self.faults.take(operation)
        try:
            try:
                request = parse(rpc.request, data)
            except DecodeError:
                raise invalid("", "The request is not a message of this method.") from None
            headers = _headers(context)
            self._record(operation, request, headers)
            if fault is not None:
                self._before(fault, context)
            _check_routing(headers, rpc.routing, request)
            reply = self._answer(operation, rpc, request)
        except RefusedError as refusal:
            return _abort(context, refusal)
        except Exception:
            logger.exception("the emulator failed to answer %s", operation)
            return _abort(context, RefusedError(grpc.StatusCode.INTERNAL, "Internal error encountered."))
        if fault is not None and fault.kind == "lost reply":
            self._cut(context)
        return raw(reply).SerializeToString()

    def _answer(self, operation: str, rpc: Rpc[Any, Any], request: Any) -> Any:
        self._corruptions.apply(operation, "request", request)
        reply = self._replica(operation, rpc, request).answer(request)
        self._corruptions.apply(operation, "response", reply)
        return reply

    def _replica(self, operation: str, rpc: Rpc[Any, Any], request: Any) -> Rpc[Any, Any]:
        """The method on the replica that answers; `lag` decides which for a use of a key."""
        if operation in _CHANGES:
            key = names.key_of(_routed(rpc.routing, request))
            if _is_eventual(operation, request):
                with self._store.lock:
                    self.lag.change(key, lambda: self._store.copy(key))
            else:
                self.lag.strong(key)
        if operation not in _USES:
            return rpc
        behind = cast("Store | None", self.lag.view(names.key_of(request.name)))
        return rpc if behind is None else replace(rpc, answer=getattr(DataPlane(behind), rpc.answer.__name__))

    def _record(self, operation: str, request: Any, headers: Mapping[str, str]) -> None:
        self.requests.record(Request(operation, plain(raw(request)), headers, "", ""))

    def _before(self, fault: Fault, context: grpc.ServicerContext) -> None:
        if fault.delay:
            self._stopping.wait(fault.delay)
        if fault.action is not None:
            fault.action()
        if fault.kind == "throttle":
            raise throttled(fault.retry_after)
        if fault.kind == "error":
            code = grpc.StatusCode.__members__.get(fault.code or "INTERNAL")
            if code is None:
                raise RefusedError(grpc.StatusCode.INTERNAL, f"{fault.code} is not a gRPC status code.")
            raise RefusedError(
                code, fault.message or "Injected by the emulator.", *retry_info(fault.retry_after)
            )
        if fault.kind == "reset":
            self._cut(context)
            raise RefusedError(grpc.StatusCode.UNAVAILABLE, "The connection was reset.")

    def _cut(self, context: grpc.ServicerContext) -> None:
        if self._relay is not None:
            self._relay.reset(int(context.peer().rpartition(":")[2]))


def _is_eventual(operation: str, request: Any) -> bool:
    """Whether uses of the key may not feel the change at once.

    Google names two such changes: disabling a version, and another primary version ("Cloud KMS resource
    consistency"). It says nothing of destruction, which is taken for one too. Creating and enabling are strongly
    consistent, and so is all that reads.
    """
    if operation == "UpdateCryptoKeyVersion":
        return "state" in request.update_mask.paths and request.crypto_key_version.state.name == "DISABLED"
    return operation in ("UpdateCryptoKeyPrimaryVersion", "DestroyCryptoKeyVersion")


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, behaviour: Callable[[str], _Behaviour | None]) -> None:
        self._behaviour = behaviour

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        behaviour = self._behaviour(handler_call_details.method)
        # without serializers the behaviour gets and gives bytes: bad ones are its own to refuse
        if behaviour is None:
            return None
        return cast("Any", grpc.unary_unary_rpc_method_handler(behaviour))


def _abort(context: grpc.ServicerContext, refusal: RefusedError) -> bytes:
    converter: Any = rpc_status  # its stub leaves the argument untyped
    context.abort_with_status(converter.to_status(refusal.status()))
    raise AssertionError("abort_with_status raises")


def _headers(context: grpc.ServicerContext) -> dict[str, str]:
    pairs: Iterable[tuple[str, str | bytes]] = context.invocation_metadata()
    return {key: value if isinstance(value, str) else value.hex() for key, value in pairs}


def _routed(field: str, request: Any) -> str:
    value = request
    for part in field.split("."):
        value = getattr(value, part)
    return cast("str", value)


def _check_routing(headers: Mapping[str, str], field: str, request: Any) -> None:
    """The official clients name the resource in a header too; a front end routes by it alone."""
    value = _routed(field, request)
    given = urllib.parse.parse_qs(
        headers.get(ROUTING_HEADER, ""), keep_blank_values=True, errors="replace"
    ).get(field)
    if given != [value]:
        raise invalid(field, f"The header {ROUTING_HEADER} must name the {field} of the request.")
