"""The one table from Key Vault's answers to the contract's errors.

The inner code decides where there is one: a disabled key, a forbidden operation, a missing role and a firewall are
all 403 Forbidden. Azure's own text goes into a message only where it cannot hold a part of the request; the SDK's
error, where there is one, is the ``__cause__``. Codes: Azure Key Vault, "Common error codes" and "REST API error
codes".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from azure.core import exceptions as sdk

from anykms.errors import (
    ConflictError,
    DeadlineExceededError,
    IntegrityError,
    InvalidArgumentError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyStateError,
    KeyUsageError,
    KMSError,
    NameReservedError,
    PermissionDeniedError,
    ProviderError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)

_MAX_QUOTED: Final = 400
_MAX_RETRY_AFTER_DIGITS: Final = 6

_ARGUMENT: Final = (InvalidArgumentError, "Key Vault refuses an argument")
_DENIED: Final = (PermissionDeniedError, "Azure does not allow it")
_CREDENTIALS: Final = (UnauthenticatedError, "Azure does not accept the credentials")
_THROTTLED: Final = (ThrottledError, "Key Vault is throttling requests")
_INTERNAL: Final = (UnavailableError, "Key Vault failed for a reason of its own, or does not answer now")
_CONFLICT: Final = (ConflictError, "another call changed the key at the same time")
_WINDOW: Final = (KeyStateError, "the key is not valid yet, or no longer (its nbf and exp)")

CODES: Final[Mapping[str, tuple[type[KMSError], str]]] = {
    # inner codes of 403
    "KeyDisabled": (KeyDisabledError, "the key is disabled; enable it first"),
    "KeyExpired": _WINDOW,
    "KeyNotYetValid": _WINDOW,
    "KeyOperationForbidden": (KeyUsageError, "the key's key_ops do not allow the operation"),
    "AccessDenied": _DENIED,
    "ForbiddenByConnection": _DENIED,
    "ForbiddenByFirewall": _DENIED,
    "ForbiddenByPolicy": _DENIED,
    "ForbiddenByRbac": _DENIED,
    # inner codes of 409
    "ObjectIsBeingDeleted": (ConflictError, "a key of this name is being deleted; try again in some seconds"),
    "ObjectIsBeingRecovered": (ConflictError, "the key is being recovered; try again in some seconds"),
    "ObjectIsDeletedButRecoverable": (NameReservedError, "the name belongs to a deleted key"),
    # inner codes of 400
    "KeyTypeNotSupported": (UnsupportedOperationError, "the vault's SKU does not have keys of this kind"),
    # codes
    "KeyNotFound": (KeyNotFoundError, "there is no such key or version"),
    "BadParameter": _ARGUMENT,
    "BadArgument": _ARGUMENT,
    "Unauthorized": _CREDENTIALS,
    "Throttled": _THROTTLED,
    "Conflict": _CONFLICT,
    "InternalServerError": _INTERNAL,
    "ServiceUnavailable": _INTERNAL,
}

_STATUSES: Final[Mapping[int, tuple[type[KMSError], str]]] = {
    400: _ARGUMENT,
    401: _CREDENTIALS,
    403: _DENIED,
    # Only "KeyNotFound" says that there is no key: any other 404 may be a proxy's.
    404: (UnsupportedOperationError, "the endpoint does not know this operation"),
    405: (UnsupportedOperationError, "the endpoint does not know this operation"),
    408: (DeadlineExceededError, "Key Vault did not answer in time"),
    409: _CONFLICT,
    412: _CONFLICT,
    429: _THROTTLED,
}

SDK_ERRORS: Final = (sdk.AzureError, ValueError)
"""All that a client of the SDK raises by itself; ValueError is its word for a challenge it does not trust."""


def translate(error: Exception) -> KMSError:
    """The contract's error for one of the SDK's; the caller raises it ``from`` that one."""
    name = type(error).__name__
    if isinstance(error, sdk.ClientAuthenticationError):
        return UnauthenticatedError(
            f"no usable Azure credentials ({name}); give them, or configure DefaultAzureCredential"
        )
    if isinstance(error, (sdk.ServiceRequestTimeoutError, sdk.ServiceResponseTimeoutError)):
        return DeadlineExceededError(f"Key Vault did not answer in time ({name})")
    if isinstance(error, (sdk.ServiceRequestError, sdk.ServiceResponseError, sdk.HttpResponseError)):
        return UnavailableError(f"Key Vault cannot be reached, or its answer was cut off ({name})")
    if isinstance(error, ValueError):
        return UnauthenticatedError(
            "the server asks for a token of another service than its own: it is not the vault it should be"
        )
    return ProviderError(f"an unmapped {name} of the Azure SDK")


def refusal(status: int, headers: Mapping[str, str], document: object) -> KMSError:
    """The contract's error for an answer other than success.

    Args:
        document: the decoded body, None where it is not JSON.
    """
    code, inner, message = _read(document)
    found = CODES.get(inner) or CODES.get(code) or _STATUSES.get(status)
    if code == "KeyNotFound" and status != 404:
        found = _STATUSES.get(status)
    if found is None:
        found = _INTERNAL if status >= 500 else (ProviderError, "Key Vault answered with an unknown status")
    if 300 <= status < 400:
        found = (UnavailableError, "Key Vault redirects the request, which is not followed")
    kind, text = found
    text = f"{text} ({status}{''.join(' ' + ascii(part)[1:-1][:80] for part in (code, inner) if part)})"
    if kind is PermissionDeniedError and message:
        text = f"{text}: {ascii(message)[1:-1][:_MAX_QUOTED]}"
    return kind(text, retry_after=_retry_after(headers), request_id=request_id(headers))


def malformed(headers: Mapping[str, str], what: str) -> KMSError:
    """An answer of success that is not what Key Vault answers."""
    return IntegrityError(f"Key Vault's answer is not one: {what}", request_id=request_id(headers))


def request_id(headers: Mapping[str, str]) -> str | None:
    """Azure's id of the request."""
    return ascii(headers.get("x-ms-request-id", ""))[1:-1][:200] or None


def _read(document: object) -> tuple[str, str, str]:
    error = _section(document, "error")
    inner = _section(error, "innererror")
    return _text(error, "code"), _text(inner, "code"), _text(error, "message")


def _section(document: object, name: str) -> dict[str, Any]:
    found = cast("dict[str, Any]", document).get(name) if isinstance(document, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _text(fields: Mapping[str, Any], name: str) -> str:
    found = fields.get(name)
    return found if isinstance(found, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    seconds = headers.get("retry-after", "")
    usable = seconds.isascii() and seconds.isdigit() and len(seconds) <= _MAX_RETRY_AFTER_DIGITS
    return float(seconds) if usable else None
