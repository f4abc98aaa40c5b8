"""What an Azure machine finds around it: the way to the vaults, and its managed identity's tokens.

One plain HTTP port on 127.0.0.1 is both. As a proxy it takes CONNECT to the hosts of vaults and plays them over
TLS, so that SDKs in other processes reach the emulator under the vault's own name. As the identity endpoint of an
App Service it hands out tokens (Microsoft, "How to use managed identities for App Service", REST protocol, version
2019-08-01): DefaultAzureCredential finds it by its variables.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from anykms_emulators.azure import wire
from anykms_emulators.azure.tokens import LIFETIME
from anykms_emulators.loopback import HttpRequest, LoopbackServer, Reply, Tunnel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

_VERSION: Final = "2019-08-01"
_PATH: Final = "/msi/token"
_HTTPS: Final = ":443"


class Machine:
    """The proxy and the identity endpoint of one emulator.

    answer: serves a vault's requests. issue: gives a token for a resource.
    """

    def __init__(
        self,
        answer: Callable[[HttpRequest], Reply | None],
        tls: ssl.SSLContext,
        issue: Callable[[str], str],
    ) -> None:
        self._issue = issue
        self._secret = secrets.token_hex(16)
        self._server = LoopbackServer(self._handle, tunnel=Tunnel(_is_vault, answer, tls))

    def start(self) -> None:
        """Listen on a free port."""
        self._server.start()

    def stop(self) -> None:
        """Close the port and every connection; a second call does nothing."""
        self._server.stop()

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of the proxy and of the managed identity."""
        here = f"http://127.0.0.1:{self._server.port}"
        return {
            "HTTPS_PROXY": here,
            "NO_PROXY": "localhost,127.0.0.1",
            "IDENTITY_ENDPOINT": f"{here}{_PATH}",
            "IDENTITY_HEADER": self._secret,
        }

    def _handle(self, request: HttpRequest) -> Reply:
        split = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        if split.path != _PATH or request.method != "GET":
            return _json(404, {"message": "only the identity endpoint is here"})
        if not hmac.compare_digest(request.headers.get("x-identity-header", ""), self._secret):
            return _json(401, {"message": "X-IDENTITY-HEADER is not IDENTITY_HEADER"})
        if query.get("api-version") != _VERSION or not query.get("resource"):
            return _json(400, {"message": f"resource and api-version={_VERSION} are needed"})
        resource = query["resource"]
        expires = int(time.time()) + LIFETIME
        return _json(
            200,
            {
                "access_token": self._issue(resource),
                "expires_on": str(expires),
                "resource": resource,
                "token_type": "Bearer",
            },
        )


def _is_vault(authority: str) -> bool:
    host = authority.removesuffix(_HTTPS)
    return authority.endswith(_HTTPS) and wire.read_host(host) not in (None, *wire.LOOPBACK_HOSTS)


def _json(status: int, document: Mapping[str, str]) -> Reply:
    return Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json"})
