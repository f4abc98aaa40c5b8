"""KMS errors as they go over the wire: a code in `__type`, and a message that is often absent."""

from __future__ import annotations

from typing import Final

_SERVER_SIDE: Final = {
    "KMSInternalException": 500,
    "KeyUnavailableException": 500,
    "InternalFailure": 500,
    "DependencyTimeoutException": 503,
    "ServiceUnavailable": 503,
    "ServiceUnavailableException": 503,
}


class KmsError(Exception):
    """An error reply. AWS KMS answers every client error, throttling too, with HTTP 400."""

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def status_of(code: str) -> int:
    """The HTTP status that AWS KMS sends with `code` (botocore's model, `httpStatusCode`)."""
    return _SERVER_SIDE.get(code, 400)


def invalid(message: str) -> KmsError:
    """A ValidationException."""
    return KmsError("ValidationException", message)
