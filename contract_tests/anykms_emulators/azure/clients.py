"""The official client, unmodified, with its connections pinned to the emulator's port.

A client keeps its vault's own URL: the host name is in the Host header, in the TLS handshake and in the check
of the certificate, and the SDK's check of the challenge's resource stays on. Only the address is replaced.
This module needs azure-keyvault-keys, `aio` needs aiohttp too; nothing else in the package does.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport
from azure.keyvault.keys import KeyClient
from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anykms_emulators.azure.tokens import TokenIssuer

LOOPBACK = "127.0.0.1"


class EmulatorCredential:
    """A TokenCredential whose tokens the emulator accepts."""

    def __init__(self, issuer: TokenIssuer, caller: str, lifetime: int) -> None:
        self._issuer = issuer
        self._caller = caller
        self._lifetime = lifetime

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **_: Any,
    ) -> AccessToken:
        """A token for the resource of the one scope asked for (`https://vault.azure.net/.default`)."""
        if len(scopes) != 1:
            raise ValueError("ask for one scope")
        resource = scopes[0].removesuffix("/.default")
        token = self._issuer.issue(resource, caller=self._caller, lifetime=self._lifetime)
        return AccessToken(token, int(time.time()) + self._lifetime)

    def close(self) -> None:
        """Nothing to close."""


class _PinnedAdapter(HTTPAdapter):
    """Connects to the emulator whatever the URL's host, whose certificate it checks all the same."""

    def __init__(self, port: Callable[[], int]) -> None:
        self._port = port
        super().__init__()

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        name = host["host"]
        host.update(host=LOOPBACK, port=self._port())
        pool.update(server_hostname=name, assert_hostname=name)
        return host, pool

    def add_headers(self, request: Any, **_: Any) -> None:
        url: str = request.url
        request.headers["Host"] = urlsplit(url).netloc


def pinned_session(port: Callable[[], int], ca_file: str) -> requests.Session:
    """A requests session for `https://` URLs of any vault, trusting `ca_file` and no environment variable."""
    session = requests.Session()
    session.trust_env = False
    session.verify = ca_file
    session.adapters.clear()  # nothing but the emulator can be reached
    session.mount("https://", _PinnedAdapter(port))
    return session


def pinned_transport(session: requests.Session, ca_file: str) -> Any:
    """An azure-core RequestsTransport over `session`, which outlives it."""
    return RequestsTransport(
        session=session, session_owner=False, connection_verify=ca_file, use_env_settings=False
    )


def key_client(
    url: str, credential: EmulatorCredential, transport: Any, options: Mapping[str, Any]
) -> KeyClient:
    """A synchronous KeyClient for a vault's URL."""
    return KeyClient(url, credential, transport=transport, **options)
