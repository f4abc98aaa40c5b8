"""Refusals with Cloud KMS' codes, its recorded words where there are any, and google.rpc details.

Recorded: the PreconditionFailure of a version that is not enabled, the DebugInfo of a failed decryption, the
checksum sentence (Cloud KMS documentation, "Data integrity guidelines"). The other words are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs] - it ships none

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN: Final = "cloudkms.googleapis.com"
_LONGEST_MESSAGE: Final = 1024  # a client refuses trailing metadata of more than some KiB


class RefusedError(Exception):
    """A request that Cloud KMS answers with an error status."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def status(self) -> status_pb2.Status:
        """The google.rpc.Status that travels in the trailing metadata."""
        packed: list[any_pb2.Any] = []
        for detail in self.details:
            holder = any_pb2.Any()
            holder.Pack(detail)
            packed.append(holder)
        number, _ = self.code.value
        return status_pb2.Status(code=number, message=self.message, details=packed)


def reason(name: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of this service."""
    return error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN, metadata=metadata)


def invalid(field: str, message: str) -> RefusedError:
    """INVALID_ARGUMENT about one field of the request."""
    message = message[:_LONGEST_MESSAGE]
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
    return RefusedError(
        grpc.StatusCode.INVALID_ARGUMENT,
        message,
        reason("INVALID_FIELD", field=field),
        error_details_pb2.BadRequest(field_violations=[violation]),
    )


def checksum_mismatch(checksum_field: str, data_field: str) -> RefusedError:
    """INVALID_ARGUMENT: the data did not arrive as it was sent."""
    message = f"The checksum in field {checksum_field} did not match the data in field {data_field}."
    return invalid(checksum_field, message)


def decryption_failed(message: str, detail: str) -> RefusedError:
    """INVALID_ARGUMENT of Decrypt and its kin."""
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, message, error_details_pb2.DebugInfo(detail=detail))


def not_found(kind: str, name: str) -> RefusedError:
    """NOT_FOUND of a resource."""
    info = error_details_pb2.ResourceInfo(resource_type=f"{DOMAIN}/{kind}", resource_name=name)
    return RefusedError(
        grpc.StatusCode.NOT_FOUND, f"{kind} {name} not found.", reason("RESOURCE_NOT_FOUND"), info
    )


def already_exists(kind: str, name: str) -> RefusedError:
    """ALREADY_EXISTS of a resource, or of a name that one had."""
    info = error_details_pb2.ResourceInfo(resource_type=f"{DOMAIN}/{kind}", resource_name=name)
    return RefusedError(
        grpc.StatusCode.ALREADY_EXISTS, f"{kind} {name} already exists.", reason("ALREADY_EXISTS"), info
    )


def failed_precondition(message: str, subject: str, kind: str) -> RefusedError:
    """FAILED_PRECONDITION: the request is well formed and the resource does not allow it."""
    violation = error_details_pb2.PreconditionFailure.Violation(type=kind, subject=subject)
    return RefusedError(
        grpc.StatusCode.FAILED_PRECONDITION,
        message,
        error_details_pb2.PreconditionFailure(violations=[violation]),
    )


def not_enabled(name: str, state: str) -> RefusedError:
    """FAILED_PRECONDITION of a version in another state than ENABLED."""
    return failed_precondition(f"{name} is not enabled, current state is: {state}.", name, f"KEY_{state}")


def unimplemented(message: str, **metadata: str) -> RefusedError:
    """UNIMPLEMENTED: real Cloud KMS may do this, the emulator does not."""
    return RefusedError(grpc.StatusCode.UNIMPLEMENTED, message, reason("NOT_EMULATED", **metadata))


def retry_info(retry_after: int | None) -> tuple[Message, ...]:
    """The RetryInfo that tells a client to wait `retry_after` seconds; nothing for None."""
    if retry_after is None:
        return ()
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromSeconds(retry_after)
    return (info,)


def throttled(retry_after: int | None) -> RefusedError:
    """RESOURCE_EXHAUSTED as Google's quota service says it."""
    exceeded = error_details_pb2.ErrorInfo(
        reason="RATE_LIMIT_EXCEEDED",
        domain="googleapis.com",
        metadata={"service": DOMAIN, "quota_metric": f"{DOMAIN}/crypto_requests"},
    )
    message = f"Quota exceeded for quota metric 'Cryptographic requests' of service '{DOMAIN}'."
    return RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, exceeded, *retry_info(retry_after))
