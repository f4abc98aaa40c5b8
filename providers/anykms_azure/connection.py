"""Where the vault is and as whom: the options of a connection URI, and REST through the official KeyClient."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final, cast
from urllib.parse import urlsplit

from azure.core.rest import HttpRequest
from azure.keyvault.keys import KeyClient

from anykms.errors import InvalidArgumentError
from anykms.keys import ConnectionURI
from anykms.provider import note_request_id
from anykms_azure.errors import SDK_ERRORS, malformed, refusal, request_id, translate
from anykms_azure.specs import Sku

Reply = dict[str, Any]
"""A decoded answer; what is read from one is checked where it is used."""

API_VERSION: Final = "2025-07-01"
OPTIONS: Final = ("sku",)
DEFAULT_TIMEOUT: Final = 15.0
_CONNECT_TIMEOUT: Final = 5.0


class Connection:
    """One KeyClient, made at the first call: looking for credentials takes time."""

    def __init__(
        self, host: str, sku: Sku, make: Callable[[], tuple[KeyClient, list[Any]]], timeout: float
    ) -> None:
        self.host = host
        self.sku = sku
        self._make = make
        self._lock = threading.Lock()
        self._client: KeyClient | None = None
        self._owned: list[Any] = []
        # Said with every request, so that they hold for an injected client too: nothing below the seam repeats a
        # call, follows a redirect with a token in hand, or logs a body.
        self._options: Mapping[str, Any] = {
            "retry_total": 0,
            "permit_redirects": False,
            "logging_enable": False,
            "connection_timeout": min(timeout, _CONNECT_TIMEOUT),
            "read_timeout": timeout,
        }

    @property
    def client(self) -> KeyClient:
        """The client, which threads may share.

        Raises:
            KMSError: the SDK's configuration does not make one.
        """
        with self._lock:
            if self._client is None:
                self._client, self._owned = self._make()
            return self._client

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Reply:
        """One request; ``path`` begins with /keys or /deletedkeys and may have a query.

        Raises:
            KMSError: by the table in ``anykms_azure.errors``.
        """
        joint = "&" if "?" in path else "?"
        request = HttpRequest(method, f"{path}{joint}api-version={API_VERSION}", json=body)
        try:
            response = self.client.send_request(request, **self._options)
            content = response.content
        except SDK_ERRORS as error:
            raise translate(error) from error
        document: object = None
        try:
            document = response.json() if content else None
        except SDK_ERRORS:
            document = None
        headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
        if not 200 <= response.status_code < 300:
            raise refusal(response.status_code, headers, document)
        if (answered := request_id(headers)) is not None:
            note_request_id(answered)
        if response.status_code == 204:
            return {}
        if not isinstance(document, dict):
            raise malformed(headers, "no JSON object")
        return cast("Reply", document)

    def pages(self, path: str) -> Iterator[Reply]:
        """Every row of a listing, page after page."""
        while True:
            reply = self.ask("GET", path)
            yield from cast("list[Reply]", reply.get("value") or [])
            link = reply.get("nextLink")
            if not link:
                return
            path = self._local(str(link))

    def _local(self, link: str) -> str:
        """The path and query of a next page, on the very host that was asked."""
        parts = urlsplit(link)
        if parts.scheme != "https" or (parts.hostname or "").lower() != self.host:
            raise malformed({}, "the next page of a listing is on another host")
        kept = "&".join(
            field for field in parts.query.split("&") if not field.lower().startswith("api-version=")
        )
        return f"{parts.path}?{kept}"

    def close(self) -> None:
        """Close what was made here; what the caller brought stays open."""
        with self._lock:
            while self._owned:
                self._owned.pop().close()


def connect(
    uri: ConnectionURI, *, credential: Any, key_client: KeyClient | None, transport: Any, timeout: float
) -> Connection:
    """See ``AzureProvider.connect``."""
    unknown = sorted(set(uri.options) - set(OPTIONS))
    if unknown:
        raise InvalidArgumentError(
            f"unknown option {', '.join(map(ascii, unknown))} of an azurekms URI; known: {', '.join(OPTIONS)}"
        )
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")
    if not math.isfinite(timeout) or timeout <= 0:
        raise InvalidArgumentError("timeout is in seconds, more than 0")
    host, sku = uri.address, _sku(uri)
    if key_client is not None:
        if credential is not None or transport is not None:
            raise InvalidArgumentError("a key_client brings its own credential and transport; give no others")
        if urlsplit(key_client.vault_url).netloc.lower() != host:
            raise InvalidArgumentError(f"the key_client is for {key_client.vault_url}, the URI for {host}")
        injected = key_client
        return Connection(host, sku, lambda: (injected, []), timeout)

    def make() -> tuple[KeyClient, list[Any]]:
        owned: list[Any] = []
        used = credential
        if used is None:
            # Imported here: it takes a second, and an injected credential needs none of it.
            from azure.identity import DefaultAzureCredential

            used = DefaultAzureCredential()
            owned.append(used)
        given = {} if transport is None else {"transport": transport}
        client = KeyClient(
            f"https://{host}", used, retry_total=0, user_agent=f"anykms/{version('anykms')}", **given
        )
        if transport is None:
            owned.append(client)
        return client, owned

    return Connection(host, sku, make, timeout)


def _sku(uri: ConnectionURI) -> Sku:
    managed = ".managedhsm." in uri.address
    chosen = uri.options.get("sku")
    if chosen is None:
        return Sku.HSM if managed else Sku.STANDARD
    try:
        sku = Sku(chosen)
    except ValueError:
        raise InvalidArgumentError(
            f"unknown sku {ascii(chosen)[:80]} of an azurekms URI; use one of {', '.join(Sku)}"
        ) from None
    if managed is not (sku is Sku.HSM):
        raise InvalidArgumentError(f"{uri.address} is {'' if managed else 'not '}a managed HSM; sku is {sku}")
    return sku
