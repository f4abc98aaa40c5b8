"""A strict Azure Key Vault (keys), or managed HSM, over real TLS on a loopback port.

    with AzureEmulator() as az:
        keys = az.key_client("my-vault")
        keys.create_rsa_key("orders", size=3072)

It plays every operation of the keys API, with the bearer challenge in front, Azure's own refusals and real
cryptography. What it refuses, saying so: releases (no attestation authority), attestation, secure wrapping,
wrapped HSM imports, HMAC on oct-HSM keys, RSA exponents other than 65537. What it does otherwise than Azure,
by choice: no access policies (arm a fault with code `Forbidden/ForbiddenByRbac`), no throttling of its own,
RSA1_5 of a damaged ciphertext gives random bytes. Error texts that no public source has are absent from the
wire truth: rely on codes and inner codes.
"""

from __future__ import annotations

import importlib
import threading
import time
import uuid
from collections import defaultdict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, cast

from anykms_emulators.azure import wire
from anykms_emulators.azure.errors import KeyVaultError
from anykms_emulators.azure.machine import Machine
from anykms_emulators.azure.operations import OPERATIONS, Call, route
from anykms_emulators.azure.tls import NAMES, Certificates
from anykms_emulators.azure.tokens import LIFETIME, TokenIssuer
from anykms_emulators.azure.vault import Vault, VaultSettings
from anykms_emulators.emulator import Emulator
from anykms_emulators.loopback import HttpRequest, LoopbackServer, Reply
from anykms_emulators.material import CurveName, SecretKey
from anykms_emulators.nonces import check_nonce
from anykms_emulators.recorder import Recorder, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from azure.keyvault.keys import KeyClient
    from azure.keyvault.keys.aio import KeyClient as AsyncKeyClient

    from anykms_emulators.azure.aio import AsyncEmulatorCredential
    from anykms_emulators.azure.clients import EmulatorCredential
    from anykms_emulators.azure.keys import Sku
    from anykms_emulators.clock import Clock
    from anykms_emulators.faults import Fault

__all__ = ["AzureEmulator", "VaultSettings"]

CALLER: Final = "6d6c4c52-3f0b-4b6e-9c0c-5d1a6d2d7a10"
_CLI_TOKEN_LIFETIME: Final = 7 * 24 * 3600


class AzureEmulator(Emulator):
    """Key Vault and Managed HSM for one tenant.

    vault: the name that `uri`, `client()` and loopback addresses mean. sku: `standard`, `premium` or `hsm`;
    with recoverable_days, purge_protection and eventual_reads (see VaultSettings) it holds for every vault
    that is first heard of in a request. `add_vault` makes one with other settings.
    certificate_names: what the server's certificate is for; another list makes clients refuse it.
    """

    def __init__(
        self,
        *,
        vault: str = "my-vault",
        sku: Sku = "standard",
        recoverable_days: int = 90,
        purge_protection: bool = False,
        eventual_reads: int = 0,
        certificate_names: Sequence[str] = NAMES,
        port: int = 0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(port=port, clock=clock, operations={operation.name for operation in OPERATIONS})
        self.settings = VaultSettings(sku, recoverable_days, purge_protection, eventual_reads)
        self.host = wire.vault_host(vault, managed_hsm=self.settings.managed_hsm)
        self.challenges = Recorder()
        self._certificates = Certificates(certificate_names)
        self._issuer = TokenIssuer()
        self._backup_key = SecretKey.generate(32)
        self._lock = threading.Lock()
        self._vaults: dict[str, Vault] = {}
        self._nonces: defaultdict[str, deque[int]] = defaultdict(deque)
        self._sessions: list[Any] = []
        context = self._certificates.context
        self._server = LoopbackServer(self._handle, tls=context)
        self._machine = Machine(self._handle, context, lambda resource: self.token(resource=resource))

    def start(self) -> Self:
        """Listen on 127.0.0.1; returns itself."""
        self._server.start(self._wanted_port)
        self._machine.start()
        return self

    def stop(self) -> None:
        """Close the port and every connection, those of the clients it made too. Keys stay."""
        self._server.stop()
        self._machine.stop()
        while self._sessions:
            self._sessions.pop().close()

    @property
    def port(self) -> int:
        """The port in use."""
        return self._server.port

    @property
    def ca_file(self) -> str:
        """A PEM file with the certificate authority to trust; its private key no longer exists."""
        return self._certificates.ca_file

    @property
    def uri(self) -> str:
        """`azurekms://my-vault.vault.azure.net`, with `?sku=` unless it is a standard vault."""
        sku = "" if self.settings.sku == "standard" else f"?sku={self.settings.sku}"
        return f"azurekms://{self.host}{sku}"

    @property
    def options(self) -> Mapping[str, Any]:
        """A `credential`, and a `transport` that reaches the emulator under the vault's own name."""
        return {"credential": self.credential(), "transport": self.transport()}

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes this machine an Azure one: a proxy to the vaults, a managed identity, whom to trust.

        With these the official SDKs reach `uri` as it is, DefaultAzureCredential included. For other tools there
        are a URL on this machine, which the SDK takes with `verify_challenge_resource=False`, and a bearer token,
        which ends after seven days.
        """
        return {
            **self._machine.environment,
            "AZURE_KEYVAULT_URL": f"https://localhost:{self.port}",
            "AZURE_KEYVAULT_TOKEN": self.token(lifetime=_CLI_TOKEN_LIFETIME),
            "REQUESTS_CA_BUNDLE": self.ca_file,
            "CURL_CA_BUNDLE": self.ca_file,
        }

    def add_vault(self, name: str, settings: VaultSettings) -> str:
        """Make a vault, or a managed HSM, before its first request; returns its URL. ValueError if known."""
        host = wire.vault_host(name, managed_hsm=settings.managed_hsm)
        with self._lock:
            if host in self._vaults:
                raise ValueError(f"{host} already exists")
            self._vaults[host] = Vault(settings, self.clock, self._backup_key)
        return f"https://{host}"

    def url(self, vault: str | None = None) -> str:
        """The URL of a vault by name or by host; of the emulator's own without."""
        if vault is None:
            return f"https://{self.host}"
        if "." in vault:
            return f"https://{vault}"
        return f"https://{wire.vault_host(vault, managed_hsm=self.settings.managed_hsm)}"

    def token(self, *, caller: str = CALLER, lifetime: int = LIFETIME, resource: str | None = None) -> str:
        """A bearer token for the emulator's own kind of host, or for another `resource`."""
        own = wire.resource_of(managed_hsm=self.settings.managed_hsm)
        return self._issuer.issue(resource or own, caller=caller, lifetime=lifetime)

    def credential(self, *, caller: str = CALLER, lifetime: int = LIFETIME) -> EmulatorCredential:
        """A TokenCredential whose tokens name `caller` and last `lifetime` seconds (needs azure-core)."""
        clients = importlib.import_module("anykms_emulators.azure.clients")
        return cast("EmulatorCredential", clients.EmulatorCredential(self._issuer, caller, lifetime))

    def async_credential(self, *, caller: str = CALLER, lifetime: int = LIFETIME) -> AsyncEmulatorCredential:
        """The same for asyncio clients (needs aiohttp too)."""
        aio = importlib.import_module("anykms_emulators.azure.aio")
        return cast("AsyncEmulatorCredential", aio.AsyncEmulatorCredential(self._issuer, caller, lifetime))

    def transport(self) -> Any:
        """An azure-core RequestsTransport for the URLs of all vaults here; `stop` closes its session."""
        clients = importlib.import_module("anykms_emulators.azure.clients")
        session = clients.pinned_session(lambda: self.port, self.ca_file)
        self._sessions.append(session)
        return clients.pinned_transport(session, self.ca_file)

    def key_client(self, vault: str | None = None, **options: Any) -> KeyClient:
        """The official KeyClient for a vault, retries included; `options` are its keyword arguments."""
        clients = importlib.import_module("anykms_emulators.azure.clients")
        made = clients.key_client(self.url(vault), self.credential(), self.transport(), options)
        return cast("KeyClient", made)

    def async_key_client(
        self, vault: str | None = None, **options: Any
    ) -> AbstractAsyncContextManager[AsyncKeyClient]:
        """`async with az.async_key_client() as keys:` opens the official asyncio KeyClient."""
        aio = importlib.import_module("anykms_emulators.azure.aio")
        made = aio.async_key_client(
            self.url(vault), self.async_credential(), lambda: self.port, self.ca_file, options
        )
        return cast("AbstractAsyncContextManager[AsyncKeyClient]", made)

    def client(self) -> KeyClient:
        """The official KeyClient for the emulator's own vault."""
        return self.key_client()

    def give_nonce(self, curve: CurveName, nonce: int) -> None:
        """Sign the next digest on `curve` with this ECDSA nonce, for vectors; ValueError if out of range.

        For tests alone: see anykms_emulators.nonces, which has nonces for short r and s on every curve.
        """
        check_nonce(curve, nonce)
        with self._lock:
            self._nonces[curve].append(nonce)

    def _take_nonce(self, curve: CurveName) -> int | None:
        with self._lock:
            given = self._nonces[curve]
            return given.popleft() if given else None

    def _vault(self, host: str) -> Vault:
        host = self.host if host in wire.LOOPBACK_HOSTS else host
        managed_hsm = host.endswith(wire.HSM_DOMAIN)
        with self._lock:
            if host not in self._vaults:
                settings = self.settings
                if managed_hsm != settings.managed_hsm:
                    settings = replace(settings, sku="hsm" if managed_hsm else "standard")
                self._vaults[host] = Vault(settings, self.clock, self._backup_key)
            return self._vaults[host]

    def _handle(self, request: HttpRequest) -> Reply | None:
        authority = request.headers.get("host", "")
        host = wire.read_host(authority)
        if host is None:
            error = KeyVaultError(404, "VaultNotFound", "No vault has this host name.")
            return wire.failure(error, str(uuid.uuid4()), managed_hsm=False)
        vault = self._vault(host)
        managed_hsm = vault.settings.managed_hsm
        request_id = str(uuid.uuid4())
        try:
            resource = wire.resource_of(managed_hsm=managed_hsm)
            caller = self._issuer.check(request.headers.get("authorization", ""), resource)
        except KeyVaultError as error:
            self.challenges.record(Request(request.method, {}, request.headers, "", request_id))
            return wire.challenge(error, managed_hsm=managed_hsm)
        return self._serve(request, vault, f"https://{authority}", caller, request_id)

    def _serve(
        self, request: HttpRequest, vault: Vault, base: str, caller: str, request_id: str
    ) -> Reply | None:
        managed_hsm = vault.settings.managed_hsm
        fault: Fault | None = None
        try:
            target = wire.read_target(request.path)
            operation, variables = route(request.method, target.segments)
            body, malformed = _try_body(request.body)
            shown = {**body, **target.query, **variables, "vault": base.removeprefix("https://")}
            self.requests.record(Request(operation.name, shown, request.headers, caller, request_id))
            fault = self.faults.take(operation.name)
            if fault is not None:
                if fault.delay:
                    time.sleep(fault.delay)
                if fault.kind == "reset":
                    return None
                if fault.kind in ("error", "throttle"):
                    return _faulty_reply(fault, request_id, managed_hsm=managed_hsm)
            if malformed is not None:
                raise malformed
            api = wire.read_api_version(target.query, managed_hsm=managed_hsm)
            if api < operation.first:
                raise KeyVaultError(404, "NotFound", "This api-version has no such operation.")
            call = Call(
                vault=vault,
                base=base,
                api=api,
                name=variables.get("name", ""),
                version=variables.get("version"),
                query=target.query,
                body=body,
                nonces=self._take_nonce,
            )
            reply = wire.success(operation.run(call), request_id, managed_hsm=managed_hsm)
        except KeyVaultError as error:
            reply = wire.failure(error, request_id, managed_hsm=managed_hsm)
        return None if fault is not None and fault.kind == "lost reply" else reply


def _try_body(body: bytes) -> tuple[dict[str, Any], KeyVaultError | None]:
    # a request is recorded, and hit by a fault, whatever its body
    try:
        return wire.read_body(body), None
    except KeyVaultError as error:
        return {}, error


def _faulty_reply(fault: Fault, request_id: str, *, managed_hsm: bool) -> Reply:
    if fault.kind == "throttle":
        status, code = 429, "Throttled"
        message = (
            "Request was not processed because too many requests were received. Reason: "
            "VaultRequestTypeLimitReached"
        )
    else:
        status, code, message = 500, "InternalServerError", "An internal error happened."
    code, _, inner = (fault.code or code).partition("/")
    error = KeyVaultError(fault.status or status, code, fault.message or message, inner or None)
    extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return wire.failure(error, request_id, managed_hsm=managed_hsm, extra=extra)
