"""Where AWS KMS is and as whom: the options of a connection URI, and the boto3 client made from them."""

from __future__ import annotations

import ipaddress
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import urlsplit

import boto3  # pyright: ignore[reportMissingTypeStubs] # the SDK has no types
from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs] # the SDK has no types

from anykms.errors import IntegrityError, InvalidArgumentError
from anykms.keys import ConnectionURI
from anykms.provider import note_request_id
from anykms_aws.errors import SDK_ERRORS, translate


class Reply(dict[str, Any]):
    """A structure in an answer. boto3 has no types of its own; a field that must be there and is not is an error."""

    def __missing__(self, field: str) -> Any:
        raise IntegrityError(f"an answer of AWS KMS lacks the field {field}")


OPTIONS: Final = ("region", "profile", "endpoint_url")
CREDENTIALS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
DEFAULT_TIMEOUT: Final = 15.0
_CONNECT_TIMEOUT: Final = 5.0
_MAX_CONNECTIONS: Final = 64


def client_config(timeout: float = DEFAULT_TIMEOUT) -> Config:
    """The botocore Config that an injected client needs: no retries of its own.

    Args:
        timeout: seconds to wait for an answer; a connection may take at most 5 of them.

    Raises:
        TypeError: not a number.
        InvalidArgumentError: not more than 0 seconds.

    >>> client_config(timeout=2.0).read_timeout
    2.0
    """
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")
    if not math.isfinite(timeout) or timeout <= 0:
        raise InvalidArgumentError("timeout is in seconds, more than 0")
    return Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=min(timeout, _CONNECT_TIMEOUT),
        read_timeout=timeout,
        max_pool_connections=_MAX_CONNECTIONS,
        user_agent_extra=f"anykms/{version('anykms')}",
    )


class Connection:
    """One boto3 KMS client, made at the first call: finding credentials may need the network."""

    def __init__(self, region: str, make: Callable[[], Any], *, owned: bool) -> None:
        self.region = region
        self._make = make
        self._owned = owned
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The client; boto3 clients may be shared by threads.

        Raises:
            KMSError: the SDK's configuration does not make one.
        """
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = self._make()
        return self._client

    def ask(self, method: str, **parameters: object) -> Reply:
        """One call of AWS KMS, by boto3's name for it.

        Raises:
            KMSError: by the table in ``anykms_aws.errors``.
        """
        try:
            reply = Reply(getattr(self.client, method)(**parameters))
        except SDK_ERRORS as error:
            raise translate(error) from error
        request_id = reply.get("ResponseMetadata", {}).get("RequestId")
        if request_id is not None:
            note_request_id(request_id)
        return reply

    def describe(self, identifier: str) -> Reply:
        """KeyMetadata of a key."""
        return Reply(self.ask("describe_key", KeyId=identifier)["KeyMetadata"])

    def pages(self, method: str, field: str, **parameters: object) -> Iterator[Reply]:
        """Every row under ``field`` of a listing, page after page."""
        marker: dict[str, object] = {}
        while True:
            reply = self.ask(method, **parameters, **marker)
            yield from map(Reply, reply.get(field, ()))
            if not reply.get("Truncated"):
                return
            marker = {"Marker": reply["NextMarker"]}

    def close(self) -> None:
        """Close the client's connections, unless the caller brought it."""
        with self._lock:
            if self._client is not None and self._owned:
                self._client.close()


def connect(
    uri: ConnectionURI,
    *,
    client: Any,
    allow_insecure_endpoint: bool,
    credentials: Mapping[str, str] | None,
    timeout: float,
) -> Connection:
    """See ``AWSProvider.connect``."""
    config = client_config(timeout)
    unknown = sorted(set(uri.options) - set(OPTIONS))
    if unknown:
        raise InvalidArgumentError(
            f"unknown option {', '.join(map(ascii, unknown))} of an awskms URI; known: {', '.join(OPTIONS)}"
        )
    if client is not None:
        if uri.options or credentials is not None:
            raise InvalidArgumentError(
                "a client brings its own region, endpoint and credentials; give no others"
            )
        return _injected(client, allow_insecure_endpoint)
    if "endpoint_url" in uri.options:
        _check_endpoint(uri.options["endpoint_url"], allow_insecure_endpoint)
    given = _checked(credentials)
    if given and "profile" in uri.options:
        raise InvalidArgumentError("give either a profile or credentials")
    try:
        session: Any = boto3.Session(
            profile_name=uri.options.get("profile"), region_name=uri.options.get("region"), **given
        )
        region: str | None = session.region_name
    except SDK_ERRORS as error:
        raise translate(error) from error
    if not region:
        raise InvalidArgumentError(
            "no AWS Region; add ?region=..., or set AWS_REGION or the profile's region"
        )

    def make() -> Any:
        try:
            made: Any = session.client("kms", endpoint_url=uri.options.get("endpoint_url"), config=config)
        except SDK_ERRORS as error:
            raise translate(error) from error
        except ValueError as error:  # botocore's word for a malformed endpoint
            raise InvalidArgumentError("the AWS SDK cannot use its endpoint: see the cause") from error
        # The environment and the profile may name an endpoint too.
        _check_endpoint(made.meta.endpoint_url, allow_insecure_endpoint)
        return made

    return Connection(region, make, owned=True)


def _injected(client: Any, allow_insecure_endpoint: bool) -> Connection:
    _check_endpoint(client.meta.endpoint_url, allow_insecure_endpoint)
    retries: Mapping[str, Any] = client.meta.config.retries or {}
    if retries.get("total_max_attempts") != 1:
        raise InvalidArgumentError(
            "the client repeats calls by itself, creations too; "
            'make it with boto3.client("kms", config=anykms_aws.client_config())'
        )
    return Connection(client.meta.region_name, lambda: client, owned=False)


def _checked(credentials: Mapping[str, str] | None) -> dict[str, str]:
    if credentials is None:
        return {}
    unknown = sorted(set(credentials) - set(CREDENTIALS))
    if unknown or not set(CREDENTIALS[:2]) <= set(credentials):
        raise InvalidArgumentError(
            f"credentials are {', '.join(CREDENTIALS)}, the last one only if temporary"
        )
    if not all(isinstance(value, str) and value for value in credentials.values()):
        raise InvalidArgumentError("credentials are strings, not empty")
    return dict(credentials)


def _check_endpoint(url: str, allow_insecure: bool) -> None:
    """Raises InvalidArgumentError unless the endpoint is https, or http on this very machine and allowed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    bare = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
    if not host or port == 0 or not bare:
        raise InvalidArgumentError("endpoint_url is https://HOST[:PORT]")
    if parts.scheme == "https":
        return
    if parts.scheme != "http":
        raise InvalidArgumentError("endpoint_url begins with https://")
    if not allow_insecure:
        raise InvalidArgumentError(
            "an http endpoint needs allow_insecure_endpoint=True; it is for emulators on this machine"
        )
    if not _is_loopback(host):
        raise InvalidArgumentError("an http endpoint must be on this machine: 127.0.0.1, [::1] or localhost")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
