"""HTTP as Key Vault speaks it: hosts, paths, api-version, JSON bodies, replies."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from urllib.parse import parse_qsl, unquote_to_bytes

from anykms_emulators.azure.errors import KeyVaultError, bad_parameter
from anykms_emulators.azure.keys import API_VERSIONS, since
from anykms_emulators.azure.tokens import AUTHORITY
from anykms_emulators.loopback import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

VAULT_DOMAIN: Final = "vault.azure.net"
HSM_DOMAIN: Final = "managedhsm.azure.net"
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost")
_HOST: Final = re.compile(r"([a-z][a-z0-9-]{1,22}[a-z0-9])\.(vault|managedhsm)\.azure\.net\Z")
_AUTHORITY: Final = re.compile(r"([A-Za-z0-9.-]{1,253})(?::(\d{1,5}))?\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request line names: decoded path segments, query parameters (the first of equal names wins)."""

    segments: tuple[str, ...]
    query: Mapping[str, str]


def vault_host(name: str, *, managed_hsm: bool) -> str:
    """The host of a vault or managed HSM; ValueError unless `name` could be one."""
    host = f"{name}.{HSM_DOMAIN if managed_hsm else VAULT_DOMAIN}"
    if not _HOST.match(host):
        raise ValueError("a vault's name has 3 to 24 lower-case letters, digits and hyphens, a letter first")
    return host


def read_host(header: str) -> str | None:
    """The host of a Host header in lower case, without port; None for one that no vault has."""
    match = _AUTHORITY.match(header)
    host = "" if match is None else match[1].lower()
    return host if host in LOOPBACK_HOSTS or _HOST.match(host) else None


def read_target(path: str) -> Target:
    """Split a request target. Empty segments count for nothing: the SDK sends `/keys/name/`."""
    before, _, after = path.partition("?")
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in before.split("/") if segment]
        pairs = parse_qsl(after, keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise bad_parameter("The request URI is malformed.") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        query.setdefault(name.lower(), value)
    return Target(tuple(segments), query)


def read_api_version(query: Mapping[str, str], *, managed_hsm: bool) -> int:
    """The index in API_VERSIONS of the version a request asks for; 400 for none or an unknown one."""
    wanted = query.get("api-version", "")
    if not wanted:
        raise bad_parameter("The api-version query parameter must be specified.")
    oldest = since("7.2") if managed_hsm else 0
    if wanted not in API_VERSIONS[oldest:]:
        raise bad_parameter(
            f"The specified version ({wanted[:40]}) is not recognized. Consider using the latest supported "
            f"version ({API_VERSIONS[-1]})."
        )
    return API_VERSIONS.index(wanted)


def read_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request, {} for an empty body."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    if not body:
        return {}
    try:
        document: object = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise bad_parameter("Bad JSON content found in the request.")
    return cast("dict[str, Any]", document)


def challenge(error: KeyVaultError, *, managed_hsm: bool) -> Reply:
    """The 401 that tells a client where to get a token and for what; a managed HSM's has no body."""
    value = f'Bearer authorization="{AUTHORITY}", resource="{resource_of(managed_hsm=managed_hsm)}"'
    body = b"" if managed_hsm else _encode(_error(error, None), managed_hsm=False)
    return _reply(error.status, body, str(uuid.uuid4()), managed_hsm, {"WWW-Authenticate": value})


def resource_of(*, managed_hsm: bool) -> str:
    """The audience of tokens for this kind of host."""
    return f"https://{HSM_DOMAIN if managed_hsm else VAULT_DOMAIN}"


def success(document: Mapping[str, Any] | None, request_id: str, *, managed_hsm: bool) -> Reply:
    """200 with a JSON document, or 204."""
    if document is None:
        return _reply(204, b"", request_id, managed_hsm)
    return _reply(200, _encode(document, managed_hsm=managed_hsm), request_id, managed_hsm)


def failure(
    error: KeyVaultError, request_id: str, *, managed_hsm: bool, extra: Mapping[str, str] | None = None
) -> Reply:
    """An error reply. A managed HSM adds an activity to its messages."""
    body = _error(error, request_id if managed_hsm else None)
    return _reply(error.status, _encode(body, managed_hsm=managed_hsm), request_id, managed_hsm, extra)


def _error(error: KeyVaultError, activity: str | None) -> dict[str, Any]:
    message = error.message if activity is None else f"{error.message} (Activity ID: {activity})"
    content: dict[str, Any] = {"code": error.code, "message": message}
    if error.inner is not None:
        content["innererror"] = {"code": error.inner}
    return {"error": content}


def _encode(document: Mapping[str, Any], *, managed_hsm: bool) -> bytes:
    # a managed HSM writes its fields in alphabetical order
    return json.dumps(document, separators=(",", ":"), sort_keys=managed_hsm).encode()


def _reply(
    status: int,
    body: bytes,
    request_id: str,
    managed_hsm: bool,
    extra: Mapping[str, str] | None = None,
) -> Reply:
    headers = {
        "Cache-Control": "no-cache",
        "Content-Type": "application/json; charset=utf-8",
        "Strict-Transport-Security": "max-age=31536000;includeSubDomains",
        "X-Content-Type-Options": "nosniff",
        "x-ms-request-id": request_id,
    }
    if managed_hsm:
        headers |= {"Content-Security-Policy": "default-src 'self'", "X-Frame-Options": "SAMEORIGIN"}
    else:
        headers |= {"Pragma": "no-cache", "Expires": "-1", "x-ms-keyvault-service-version": "1.9.3070.2"}
    return Reply(status, body, {**headers, "x-ms-keyvault-region": "emulator", **(extra or {})})
