"""The one table from gRPC's status codes to the contract's errors.

Google's own text goes into a message only where it cannot hold a part of the request's payload; the SDK's error
is the ``__cause__``. Details are those of google.rpc (error_details.proto; AIP-193).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.api_core import exceptions as sdk
from google.auth import exceptions as auth
from google.protobuf.message import Message

from anykms.errors import (
    ConflictError,
    DeadlineExceededError,
    IntegrityError,
    InvalidArgumentError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStateError,
    KMSError,
    PermissionDeniedError,
    ProviderError,
    QuotaExceededError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)

_MAX_QUOTED: Final = 400
_MAX_RETRY_AFTER: Final = 1_000_000

_INTERNAL: Final = (UnavailableError, "Cloud KMS failed for a reason of its own")
_ARGUMENT: Final = (InvalidArgumentError, "Cloud KMS refuses an argument")
_NO_CREDENTIALS: Final[tuple[type[KMSError], str]] = (
    UnauthenticatedError,
    "no usable Google credentials; give them, or configure application default credentials",
)

CODES: Final[Mapping[str, tuple[type[KMSError], str]]] = {
    "CANCELLED": (UnavailableError, "the call was cancelled on its way"),
    "UNKNOWN": _INTERNAL,
    "INVALID_ARGUMENT": _ARGUMENT,
    "DEADLINE_EXCEEDED": (DeadlineExceededError, "Cloud KMS did not answer in time"),
    "NOT_FOUND": (KeyNotFoundError, "Cloud KMS has no such key, version or key ring"),
    "ALREADY_EXISTS": (KeyExistsError, "the name is taken"),
    "PERMISSION_DENIED": (PermissionDeniedError, "Google does not allow it, or there is no such key"),
    "RESOURCE_EXHAUSTED": (ThrottledError, "Cloud KMS is throttling requests"),
    "FAILED_PRECONDITION": (KeyStateError, "the key's state or purpose forbids it"),
    "ABORTED": (ConflictError, "another call changed the key at the same time"),
    "OUT_OF_RANGE": _ARGUMENT,
    "UNIMPLEMENTED": (UnsupportedOperationError, "the endpoint does not do this"),
    "INTERNAL": _INTERNAL,
    "UNAVAILABLE": (UnavailableError, "Cloud KMS cannot be reached, or does not answer now"),
    "DATA_LOSS": _INTERNAL,
    "UNAUTHENTICATED": (UnauthenticatedError, "Google does not accept the credentials"),
}

# Of these Google's text is quoted: it names principals, permissions, quotas and what is not offered.
_QUOTED: Final = frozenset(
    {"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "UNIMPLEMENTED"}
)

# google.api.ErrorReason: a quota that waiting does not lift. All of Cloud KMS's documented quotas are rates.
_LASTING_QUOTA: Final = frozenset({"RESOURCE_QUOTA_EXCEEDED"})

# gRPC's word for credentials that could not be fetched or refreshed; the code is UNAVAILABLE then.
_CREDENTIALS_PLUGIN: Final = "Getting metadata from plugin failed"

SDK_ERRORS: Final = (sdk.GoogleAPIError, auth.GoogleAuthError)
"""All that a client of the SDK raises by itself."""


def translate(error: Exception) -> KMSError:
    """The contract's error for one of the SDK's; the caller raises it ``from`` that one."""
    if isinstance(error, auth.GoogleAuthError):
        kind, text = _NO_CREDENTIALS
        return kind(f"{text} ({type(error).__name__})")
    if isinstance(error, sdk.GoogleAPICallError):
        return _refusal(error)
    return ProviderError(f"an unmapped {type(error).__name__} of the Google SDK")


def _refusal(error: Any) -> KMSError:
    """A call failed with a status: Google's, or gRPC's own where there was no answer."""
    code = str(getattr(error.grpc_status_code, "name", error.grpc_status_code))
    message = str(error.message)
    details = [detail for detail in error.details if isinstance(detail, Message)]
    kind, text = _kind(code, message, details)
    text = f"{text} ({code})"
    if code in _QUOTED:
        text = f"{text}: {ascii(message)[1:-1][:_MAX_QUOTED]}"
    elif code == "INVALID_ARGUMENT" and (fields := _fields(details)):
        text = f"{text}: {', '.join(fields)}"
    return kind(text, retry_after=_retry_after(details), request_id=_request_id(details))


def _kind(code: str, message: str, details: list[Message]) -> tuple[type[KMSError], str]:
    if code == "UNAVAILABLE" and message.startswith(_CREDENTIALS_PLUGIN):
        return _NO_CREDENTIALS
    if code == "INVALID_ARGUMENT" and _is_checksum(message, details):
        return IntegrityError, "the request was damaged on its way: a checksum does not match"
    if code == "RESOURCE_EXHAUSTED" and _reasons(details) & _LASTING_QUOTA:
        return QuotaExceededError, "a quota of Cloud KMS is used up"
    return CODES.get(code, (ProviderError, "Cloud KMS answered with an unknown code"))


def _of(details: list[Message], name: str) -> Iterator[Any]:
    # By name: google.rpc's generated classes are not typed.
    return (detail for detail in details if detail.DESCRIPTOR.full_name == f"google.rpc.{name}")


def _is_checksum(message: str, details: list[Message]) -> bool:
    """Whether a checksum that we sent did not match (Cloud KMS guide, "Verify end-to-end data integrity")."""
    return "checksum in field" in message or any(field.endswith("_crc32c") for field in _fields(details))


def _fields(details: list[Message]) -> list[str]:
    return [
        ascii(violation.field)[1:-1][:80]
        for detail in _of(details, "BadRequest")
        for violation in detail.field_violations
    ]


def _reasons(details: list[Message]) -> set[str]:
    return {detail.reason for detail in _of(details, "ErrorInfo")}


def _retry_after(details: list[Message]) -> float | None:
    for detail in _of(details, "RetryInfo"):
        seconds: float = detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9
        if 0 <= seconds < _MAX_RETRY_AFTER:
            return seconds
    return None


def _request_id(details: list[Message]) -> str | None:
    for detail in _of(details, "RequestInfo"):
        return ascii(detail.request_id)[1:-1][:200] or None
    return None
