"""The table of errors, through the emulator's faults."""

from __future__ import annotations

from typing import Any

import pytest
from azure.core import exceptions as sdk

from anykms import KeyConf, KeyInfo, KeyPurpose, KMSClient, errors
from anykms_azure.errors import CODES, refusal, translate
from anykms_emulators.azure import AzureEmulator

SIGNING = KeyConf("releases", KeyPurpose.SIGN_VERIFY, algorithm="ES256")


@pytest.fixture
def info(client: KMSClient) -> KeyInfo:
    return client.generate_key(SIGNING)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("Forbidden/ForbiddenByRbac", 403, errors.PermissionDeniedError),
        ("Forbidden/ForbiddenByPolicy", 403, errors.PermissionDeniedError),
        ("Forbidden/ForbiddenByFirewall", 403, errors.PermissionDeniedError),
        ("Forbidden/AccessDenied", 403, errors.PermissionDeniedError),
        ("Forbidden", 403, errors.PermissionDeniedError),
        ("Forbidden/KeyOperationForbidden", 403, errors.KeyUsageError),
        ("Unauthorized", 401, errors.UnauthenticatedError),
        ("BadParameter", 400, errors.InvalidArgumentError),
        ("Conflict", 409, errors.ConflictError),
        ("Throttled", 429, errors.ThrottledError),
        ("InternalServerError", 500, errors.UnavailableError),
        ("BadGateway", 502, errors.UnavailableError),
        ("ServiceUnavailable", 503, errors.UnavailableError),
        ("GatewayTimeout", 504, errors.UnavailableError),
        ("RequestTimeout", 408, errors.DeadlineExceededError),
        ("Teapot", 418, errors.ProviderError),
        ("Moved", 307, errors.UnavailableError),
        ("SomeProxy", 404, errors.UnsupportedOperationError),
    ],
)
def test_each_answer_has_its_class(
    az: AzureEmulator, client: KMSClient, info: KeyInfo, code: str, status: int, kind: type[errors.KMSError]
) -> None:
    key = client.key(info)
    key.public_key()
    az.faults.add("sign", code, status=status, times=None)
    with pytest.raises(errors.KMSError) as caught:
        key.sign(b"message")
    assert type(caught.value) is kind
    assert caught.value.request_id
    assert str(caught.value).isprintable()
    assert str(status) in str(caught.value)


def test_403_without_a_reason_is_what_the_state_says(
    az: AzureEmulator, client: KMSClient, info: KeyInfo
) -> None:
    key = client.key(info)
    key.sign(b"message")
    az.key_client().update_key_properties("releases", enabled=False)
    az.faults.add("sign", "Forbidden", status=403)
    with pytest.raises(errors.KeyDisabledError):
        key.sign(b"message")


def test_retry_after_is_kept_to(az: AzureEmulator, client: KMSClient, info: KeyInfo) -> None:
    az.faults.add("GetKeyVersions", kind="throttle", retry_after=31)
    with pytest.raises(errors.ThrottledError) as caught:
        client.describe_key(info)
    assert caught.value.retry_after == 31.0


@pytest.mark.parametrize(
    "document", [None, [], "text", {"error": None}, {"error": {"code": 7, "innererror": []}}, {"error": "x"}]
)
def test_an_answer_of_a_proxy_is_judged_by_its_status(document: object) -> None:
    assert type(refusal(403, {}, document)) is errors.PermissionDeniedError
    assert (
        type(refusal(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, document))
        is errors.UnavailableError
    )
    assert type(refusal(404, {}, document)) is errors.UnsupportedOperationError


def test_azures_text_is_escaped_and_cut() -> None:
    message = "denied \x1b[31m" + "x" * 5000
    text = str(refusal(403, {}, {"error": {"code": "Forbidden", "message": message}}))
    assert text.isprintable()
    assert len(text) < 600


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sdk.ClientAuthenticationError("x"), errors.UnauthenticatedError),
        (sdk.ServiceRequestTimeoutError("x"), errors.DeadlineExceededError),
        (sdk.ServiceResponseTimeoutError("x"), errors.DeadlineExceededError),
        (sdk.ServiceRequestError("x"), errors.UnavailableError),
        (sdk.ServiceResponseError("x"), errors.UnavailableError),
        (sdk.IncompleteReadError("x"), errors.UnavailableError),
        (ValueError("x"), errors.UnauthenticatedError),
        (sdk.AzureError("x"), errors.ProviderError),
    ],
)
def test_each_failure_of_the_sdk_has_its_class(error: Exception, kind: type[errors.KMSError]) -> None:
    assert type(translate(error)) is kind


def test_success_that_is_no_json_is_an_integrity_error(between: Any, answer: Any, connect: Any) -> None:

    def garble(_: Any, response: Any) -> Any:
        return answer(response, [])

    between.after = garble
    with pytest.raises(errors.KMSError):
        connect(key_client=between).get_key("orders")
    assert errors.ProviderError not in {kind for kind, _ in CODES.values()}
