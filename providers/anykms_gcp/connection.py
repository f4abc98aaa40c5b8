"""Where Cloud KMS is and as whom: the connection URI, the client made from it, and checksums on every call.

The SDK's types are partial and its message fields are not what their annotations say (a checksum is an int or
None, a date a datetime), so replies are Any here, and typed where they are read.
"""

from __future__ import annotations

import ipaddress
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

import google_crc32c
import grpc
from google.api_core.gapic_v1.client_info import ClientInfo
from google.auth.credentials import Credentials
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport

from anykms.errors import IntegrityError, InvalidArgumentError, UnavailableError
from anykms.keys import ConnectionURI
from anykms.provider import mismatch
from anykms_gcp.errors import SDK_ERRORS, translate

Reply = Any
"""A message of google.cloud.kms_v1.types, or of its fields."""

OPTIONS: Final = ("endpoint",)
DEFAULT_TIMEOUT: Final = 15.0
# gRPC's own pause after a lost connection grows to minutes; the retry policy is the only one that waits.
_CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
# What the replies of the API do not say, though Cloud KMS checks it: that our checksums fitted, and which key it was.
_UNCONFIRMED: Final = frozenset({"decrypt"})
_UNNAMED: Final = frozenset({"decrypt", "asymmetric_decrypt"})


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4) as the API carries it; 0 is a value like any other."""
    untyped: Any = google_crc32c
    return int(untyped.value(data))


def checked(data: bytes, checksum: int | None, what: str) -> bytes:
    """``data`` of a reply, once it fits its checksum.

    Raises:
        IntegrityError: it does not, or there is no checksum.
    """
    if checksum is None or checksum != crc32c(data):
        raise IntegrityError(f"the reply was damaged on its way: {what} does not fit its checksum")
    return bytes(data)


class Connection:
    """One client, made at the first call: finding credentials may need the network.

    Args:
        key_ring: ``projects/P/locations/L/keyRings/R``, where keys are made, listed and found by name.
        make: makes the client.
        timeout: seconds to wait for one answer.
        owned: whether ``close`` closes the client.
    """

    def __init__(self, key_ring: str, make: Callable[[], Any], timeout: float, *, owned: bool) -> None:
        self.key_ring = key_ring
        self._make = make
        self._timeout = timeout
        self._owned = owned
        self._lock = threading.Lock()
        self._client: Any = None
        self._closed = False

    def _connected(self) -> Any:
        with self._lock:
            if self._closed:
                raise UnavailableError("the connection is closed; connect again")
            if self._client is None:
                self._client = self._make()
            return self._client

    def ask(self, method: str, **request: object) -> Reply:
        """One call of Cloud KMS, by the SDK's name for it, without the SDK's retries.

        Raises:
            KMSError: by the table in ``anykms_gcp.errors``.
        """
        try:
            return getattr(self._connected(), method)(request=request, retry=None, timeout=self._timeout)
        except SDK_ERRORS as error:
            raise translate(error) from error
        except (
            ValueError
        ) as error:  # gRPC's word for a closed channel, and for a status that contradicts itself
            raise UnavailableError("the client is closed, or the answer is not one of Cloud KMS") from error

    def pages(self, method: str, field: str, **request: object) -> Iterator[Reply]:
        """Every item under ``field`` of a listing, page after page."""
        token = ""
        while True:
            page = self.ask(method, **request, page_token=token)
            yield from getattr(page, field)
            token = page.next_page_token
            if not token:
                return

    def protected(self, method: str, name: str, sent: Mapping[str, bytes], **rest: object) -> Reply:
        """A cryptographic call, checked as far as the API allows.

        Args:
            name: of the key or version to use.
            sent: bytes of the request by field; each goes with its CRC32C, and the reply must confirm it.
            rest: other fields; one of the same name replaces that of ``sent``, whose checksum stays.

        Raises:
            IntegrityError: damaged on its way, or another key has answered.
            KMSError: as ``ask``.
        """
        sums = {f"{field}_crc32c": crc32c(data) for field, data in sent.items()}
        reply = self.ask(method, **{**sent, **sums, **rest, "name": name})
        if method not in _UNCONFIRMED:
            for field in sums:
                if getattr(reply, f"verified_{field}") is not True:
                    raise IntegrityError(f"Cloud KMS did not receive {field}, or it did not match")
        if method not in _UNNAMED and reply.name != name and not is_version_of(reply.name, name):
            raise mismatch(
                "Cloud KMS used another key than the one it was told to", expected=name, found=reply.name
            )
        return reply

    def close(self) -> None:
        """Close the client's connections, unless the caller brought it."""
        with self._lock:
            self._closed = True
            if self._client is not None and self._owned:
                self._client.transport.close()


def check_seconds(value: float, what: str) -> None:
    """Raises TypeError or InvalidArgumentError unless ``value`` is a number of seconds, 0 or more."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{what} is a number of seconds, not {type(value).__name__}")
    if not math.isfinite(value) or value < 0:
        raise InvalidArgumentError(f"{what} is in seconds, 0 or more")


def is_version_of(version_name: str, key_name: str) -> bool:
    """Whether the first is the resource name of a version of the second."""
    number = version_name.removeprefix(f"{key_name}/cryptoKeyVersions/")
    return number != version_name and number.isascii() and number.isdigit()


def connect(
    uri: ConnectionURI,
    *,
    client: Any,
    allow_insecure_endpoint: bool,
    credentials: Credentials | None,
    timeout: float,
) -> Connection:
    """See ``GCPProvider.connect``."""
    check_seconds(timeout, "timeout")
    if timeout == 0:
        raise InvalidArgumentError("timeout is more than 0 seconds")
    unknown = sorted(set(uri.options) - set(OPTIONS))
    if unknown:
        raise InvalidArgumentError(
            f"unknown option {', '.join(map(ascii, unknown))} of a gcpkms URI; known: {', '.join(OPTIONS)}"
        )
    if credentials is not None and not isinstance(credentials, Credentials):
        raise TypeError(f"credentials are google.auth Credentials, not {type(credentials).__name__}")
    endpoint = uri.options.get("endpoint")
    if client is not None:
        if uri.options or credentials is not None:
            raise InvalidArgumentError("a client brings its own endpoint and credentials; give no others")
        if not isinstance(getattr(client, "transport", None), KeyManagementServiceGrpcTransport):
            raise InvalidArgumentError(
                "the client is not a KeyManagementServiceClient over gRPC: over REST, errors of different kinds "
                'look the same; make it with transport="grpc"'
            )
        return Connection(uri.address, lambda: client, timeout, owned=False)
    if endpoint is None:
        return Connection(uri.address, partial(_over_tls, credentials), timeout, owned=True)
    if credentials is not None:
        raise InvalidArgumentError("an emulator's endpoint is insecure: give it no credentials")
    _check_endpoint(endpoint, allow_insecure_endpoint)
    return Connection(uri.address, partial(_insecure, endpoint), timeout, owned=True)


def _over_tls(credentials: Credentials | None) -> Any:
    sdk: Any = KeyManagementServiceClient
    transport: Any = KeyManagementServiceGrpcTransport

    def channel(host: str, *, options: list[tuple[str, int]], **rest: object) -> Any:
        return transport.create_channel(host, options=[*options, *_CHANNEL_OPTIONS], **rest)

    try:
        return sdk(
            credentials=credentials,
            transport=partial(transport, channel=channel),
            client_info=ClientInfo(user_agent=f"anykms/{version('anykms')}"),
        )
    except SDK_ERRORS as error:
        raise translate(error) from error


def _insecure(endpoint: str) -> Any:
    # A proxy is for the way out, not for this machine.
    options = [*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)]
    sdk: Any = KeyManagementServiceClient
    channel = grpc.insecure_channel(endpoint, options=options)
    return sdk(transport=KeyManagementServiceGrpcTransport(channel=channel))


def _check_endpoint(endpoint: str, allow_insecure: bool) -> None:
    """Raises InvalidArgumentError unless it is HOST:PORT on this very machine, and allowed."""
    try:
        parts = urlsplit(f"//{endpoint}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or not port or endpoint not in (f"{host}:{port}", f"[{host}]:{port}"):
        raise InvalidArgumentError("endpoint is HOST:PORT, for an emulator on this machine")
    if not allow_insecure:
        raise InvalidArgumentError(
            "an endpoint is spoken to without TLS and needs allow_insecure_endpoint=True; it is for emulators on "
            "this machine"
        )
    if not _is_loopback(host):
        raise InvalidArgumentError("an endpoint must be on this machine: 127.0.0.1, [::1] or localhost")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
