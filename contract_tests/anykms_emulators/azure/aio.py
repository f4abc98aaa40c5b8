"""The official asyncio client, pinned as `clients` pins the synchronous one (needs aiohttp)."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from azure.core.pipeline.transport import AioHttpTransport
from azure.keyvault.keys.aio import KeyClient

from anykms_emulators.azure.clients import LOOPBACK, EmulatorCredential

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from types import TracebackType

    from azure.core.credentials import AccessToken

    from anykms_emulators.azure.tokens import TokenIssuer


class AsyncEmulatorCredential:
    """An AsyncTokenCredential whose tokens the emulator accepts."""

    def __init__(self, issuer: TokenIssuer, caller: str, lifetime: int) -> None:
        self._sync = EmulatorCredential(issuer, caller, lifetime)

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **_: Any,
    ) -> AccessToken:
        """A token, as `EmulatorCredential.get_token`."""
        return self._sync.get_token(*scopes)

    async def close(self) -> None:
        """Nothing to close."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        pass


class _PinnedResolver(AbstractResolver):
    """Resolves every name to the emulator."""

    def __init__(self, emulator_port: Callable[[], int]) -> None:
        self._port = emulator_port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=LOOPBACK,
                port=self._port(),
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Nothing to close."""


@asynccontextmanager
async def async_key_client(
    url: str,
    credential: AsyncEmulatorCredential,
    port: Callable[[], int],
    ca_file: str,
    options: Mapping[str, Any],
) -> AsyncGenerator[KeyClient]:
    """An asyncio KeyClient for a vault's URL, closed with its session at the end."""
    connector = aiohttp.TCPConnector(
        resolver=_PinnedResolver(port), ssl=ssl.create_default_context(cafile=ca_file), use_dns_cache=False
    )
    async with aiohttp.ClientSession(
        connector=connector, trust_env=False, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        transport = AioHttpTransport(session=session, session_owner=False, use_env_settings=False)
        async with KeyClient(url, credential, transport=transport, **options) as client:
            yield client
