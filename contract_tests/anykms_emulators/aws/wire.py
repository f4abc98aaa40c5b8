"""JSON 1.1 over HTTP: the target, the signature's shape, the body, and replies.

The signature itself is not computed: the emulator has no users. Its presence, its shape, its Region and its
service are checked as AWS checks them, so that a client that signs for the wrong Region fails here too.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from anykms_emulators.aws.errors import KmsError
from anykms_emulators.loopback import Reply

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

TARGET_PREFIX: Final = "TrentService."
CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_PARTS: Final = ("Credential", "SignedHeaders", "Signature")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
_SCHEME: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed, and for which Region."""

    access_key: str
    region: str


def authenticate(headers: Mapping[str, str], regions: Collection[str]) -> Caller:
    """The caller that the Authorization header names; KmsError as AWS words it."""
    authorization = headers.get("authorization", "").strip()
    if not authorization:
        raise KmsError("MissingAuthenticationTokenException", "Missing Authentication Token")
    scheme, _, rest = authorization.partition(" ")
    if scheme != _SCHEME:
        raise KmsError("IncompleteSignatureException", f"Unsupported AWS 'algorithm': '{scheme}'.")
    fields: dict[str, str] = {}
    for part in rest.split(","):
        name, _, value = part.strip().partition("=")
        fields[name] = value
    missing = [
        f"Authorization header requires '{name}' parameter." for name in _PARTS if not fields.get(name)
    ]
    date = headers.get("x-amz-date", "")
    if re.fullmatch(r"\d{8}T\d{6}Z", date) is None:
        missing.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if missing:
        raise KmsError("IncompleteSignatureException", " ".join(missing))
    scope = fields["Credential"].split("/")
    if len(scope) != 5 or not scope[0]:
        raise KmsError(
            "IncompleteSignatureException",
            "Credential must have exactly 5 slash-delimited elements, e.g. "
            f"keyid/date/region/service/term, got '{fields['Credential']}'",
        )
    access_key, day, region, service, term = scope
    faults: list[str] = []
    if region not in regions:
        faults.append("Credential should be scoped to a valid region.")
    if service != "kms":
        faults.append("Credential should be scoped to correct service: 'kms'.")
    if term != "aws4_request":
        faults.append("Credential should be scoped with a valid terminator: 'aws4_request'.")
    if day != date[:8]:
        faults.append(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{day}' != '{date[:8]}', from '{date}'."
        )
    signed = fields["SignedHeaders"].split(";")
    if "host" not in signed or "x-amz-date" not in signed:
        faults.append("'Host' and 'X-Amz-Date' must be signed headers in the Authorization header.")
    if _SIGNATURE.fullmatch(fields["Signature"]) is None:
        faults.append("The request signature we calculated does not match the signature you provided.")
    if faults:
        raise KmsError("InvalidSignatureException", " ".join(faults))
    return Caller(access_key, region)


def parse(body: bytes) -> object:
    """The JSON document of a request; SerializationException for anything else."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise KmsError("SerializationException", "the body is not a JSON document") from None


def success(answer: Mapping[str, Any] | None, request_id: str) -> Reply:
    """A 200 with its JSON document, or with no body for an operation that returns nothing."""
    return _reply(200, b"" if answer is None else _encode(answer), request_id)


def failure(error: KmsError, status: int, request_id: str, extra: Mapping[str, str] | None = None) -> Reply:
    """An error reply; without a message the body is the type alone, as recorded by go-cloud."""
    document = {"__type": error.code}
    if error.message is not None:
        document["message"] = error.message
    return _reply(status, _encode(document), request_id, extra)


def _reply(status: int, body: bytes, request_id: str, extra: Mapping[str, str] | None = None) -> Reply:
    headers = {
        "Content-Type": CONTENT_TYPE,
        "x-amzn-RequestId": request_id,
        "Cache-Control": "no-cache, no-store, must-revalidate, private",
        "Pragma": "no-cache",
        "Expires": "0",
        **(extra or {}),
    }
    return Reply(status, body, headers)


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), default=_value).encode()


def _value(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return round(value.timestamp(), 3)
    raise TypeError(f"cannot put a {type(value).__name__} into a reply")
