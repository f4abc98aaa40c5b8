"""What AWS and the network answer, as the contract's errors: one table, nothing unmapped, nothing leaked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from botocore import exceptions as sdk  # pyright: ignore[reportMissingTypeStubs] # the SDK has no types
from botocore.parsers import ResponseParserError  # pyright: ignore[reportMissingTypeStubs] # likewise

from anykms import errors
from anykms.client import Key, KMSClient
from anykms.envelope.keyring import Keyring
from anykms.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidCiphertextError,
    InvalidMacError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotAllowedError,
    KeyNotReadyError,
    KeyPendingDestructionError,
    KeyPendingImportError,
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
from anykms.keys import KeyConf, KeyInfo
from anykms.provider import WrapContext
from anykms_aws.errors import CODES, translate
from anykms_emulators.aws import AWSEmulator

Connect = Callable[[], KMSClient]

ORDERS = KeyConf("orders", "ENCRYPT_DECRYPT")
TOKEN = "FwoGZXIvYXdzEXAMPLETOKEN"  # noqa: S105 - what must not be repeated


def refusal(
    code: str, status: int = 400, message: str = "", headers: dict[str, str] | None = None
) -> KMSError:
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "id-1", "HTTPHeaders": headers or {}},
    }
    return translate(sdk.ClientError(answer, "Encrypt"))


class TestTable:
    def test_every_error_of_the_service_model_has_a_row(self, kms: Any) -> None:
        model = kms.meta.service_model
        modelled = {
            shape.name for name in model.operation_names for shape in model.operation_model(name).error_shapes
        }
        assert len(modelled) > 40
        assert modelled <= set(CODES)

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("ThrottlingException", ThrottledError),
            ("LimitExceededException", QuotaExceededError),
            ("AccessDeniedException", PermissionDeniedError),
            ("UnrecognizedClientException", UnauthenticatedError),
            ("ExpiredTokenException", UnauthenticatedError),
            ("IncorrectKeyException", InvalidCiphertextError),
            ("InvalidCiphertextException", InvalidCiphertextError),
            ("KMSInvalidMacException", InvalidMacError),
            ("DependencyTimeoutException", UnavailableError),
            ("KeyUnavailableException", UnavailableError),
            ("ConflictException", ConflictError),
            ("UnsupportedOperationException", UnsupportedOperationError),
        ],
    )
    def test_codes_that_nobody_may_move(self, code: str, kind: type[KMSError]) -> None:
        error = refusal(code)
        assert type(error) is kind
        assert error.request_id == "id-1"

    def test_wrong_key_and_altered_ciphertext_read_alike(self) -> None:
        texts = {
            str(refusal(code)).partition(" (")[0]
            for code in ("IncorrectKeyException", "InvalidCiphertextException")
        }
        assert len(texts) == 1

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (401, UnauthenticatedError),
            (403, PermissionDeniedError),
            (429, ThrottledError),
            (500, UnavailableError),
            (502, UnavailableError),
            (503, UnavailableError),
            (400, ProviderError),
        ],
    )
    def test_a_code_that_nobody_knows(self, status: int, kind: type[KMSError]) -> None:
        assert type(refusal("BrandNewException", status)) is kind

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [("3", 3.0), ("0", 0.0), ("-1", None), ("nan", None), ("1e9", None), ("9" * 30, None), ("", None)],
    )
    def test_retry_after(self, header: str, seconds: float | None) -> None:
        assert refusal("ThrottlingException", 400, headers={"retry-after": header}).retry_after == seconds

    @pytest.mark.parametrize("code", CODES)
    def test_no_message_repeats_the_request(self, code: str) -> None:
        """AWS's text of a signature error holds the signed headers, the session token among them."""
        if code in ("AccessDeniedException", "LimitExceededException", "UnsupportedOperationException"):
            return
        assert TOKEN not in str(refusal(code, message=f"x-amz-security-token:{TOKEN}"))

    def test_a_quoted_message_is_printable_and_short(self) -> None:
        text = str(refusal("AccessDeniedException", message="no\x1b[31m\n" + "x" * 5000))
        assert text.isprintable()
        assert len(text) < 600

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (sdk.ConnectTimeoutError(endpoint_url="x"), DeadlineExceededError),
            (sdk.ReadTimeoutError(endpoint_url="x"), DeadlineExceededError),
            (sdk.EndpointConnectionError(endpoint_url="x"), UnavailableError),
            (sdk.ConnectionClosedError(endpoint_url="x"), UnavailableError),
            (sdk.ProxyConnectionError(proxy_url="x", error="y"), UnavailableError),
            (sdk.SSLError(endpoint_url="x", error="y"), UnavailableError),
            (sdk.IncompleteReadError(actual_bytes=1, expected_bytes=2), UnavailableError),
            (ResponseParserError("x"), UnavailableError),
            (sdk.NoCredentialsError(), UnauthenticatedError),
            (sdk.CredentialRetrievalError(provider="x", error_msg="y"), UnauthenticatedError),
            (sdk.UnauthorizedSSOTokenError(), UnauthenticatedError),
            (sdk.PartialCredentialsError(provider="x", cred_var="y"), UnauthenticatedError),
            (sdk.NoRegionError(), errors.InvalidArgumentError),
            (sdk.ParamValidationError(report=TOKEN), errors.InvalidArgumentError),
            (sdk.UnknownServiceError(service_name="x", known_service_names="y"), ProviderError),
        ],
    )
    def test_no_answer(self, error: Exception, kind: type[KMSError]) -> None:
        translated = translate(error)
        assert type(translated) is kind
        assert TOKEN not in str(translated)


class TestStates:
    """DisabledException and KMSInvalidStateException say the same, so the state is read again."""

    @pytest.mark.parametrize("code", ["DisabledException", "KMSInvalidStateException"])
    @pytest.mark.parametrize(
        ("state", "kind"),
        [
            ("Disabled", KeyDisabledError),
            ("PendingDeletion", KeyPendingDestructionError),
            ("PendingReplicaDeletion", KeyPendingDestructionError),
            ("PendingImport", KeyPendingImportError),
            ("Creating", KeyNotReadyError),
            ("Unavailable", UnavailableError),
        ],
    )
    def test_either_code_in_each_state(
        self, client: KMSClient, monkeypatch: pytest.MonkeyPatch, code: str, state: str, kind: type[KMSError]
    ) -> None:
        key = client.key(client.generate_key(ORDERS))
        seen = _answers(key, monkeypatch, code, lambda metadata: {**metadata, "KeyState": state})
        with pytest.raises(KMSError) as refused:
            key.wrap(bytes(32), context={})
        assert type(refused.value) is kind
        assert isinstance(refused.value.__cause__, sdk.ClientError)
        assert "describe_key" in seen

    def test_enabled_again_meanwhile(self, aws: AWSEmulator, client: KMSClient) -> None:
        key = client.key(client.generate_key(ORDERS))
        aws.faults.add("Encrypt", "DisabledException")
        with pytest.raises(KeyDisabledError):
            key.wrap(bytes(32), context={})
        aws.faults.add("Encrypt", "KMSInvalidStateException")
        with pytest.raises(KeyStateError):
            key.wrap(bytes(32), context={})

    def test_the_state_cannot_be_read(self, aws: AWSEmulator, client: KMSClient) -> None:
        """An application without kms:DescribeKey still gets what AWS said."""
        key = client.key(client.generate_key(ORDERS))
        aws.faults.add("Encrypt", "DisabledException")
        aws.faults.add("DescribeKey", "AccessDeniedException")
        with pytest.raises(KeyDisabledError):
            key.wrap(bytes(32), context={})

    def test_gone_meanwhile(self, aws: AWSEmulator, client: KMSClient) -> None:
        key = client.key(client.generate_key(ORDERS))
        aws.faults.add("Encrypt", "KMSInvalidStateException")
        aws.faults.add("DescribeKey", "NotFoundException")
        with pytest.raises(KeyDestroyedError):
            key.wrap(bytes(32), context={})

    def test_a_state_that_nobody_knows(self, client: KMSClient, monkeypatch: pytest.MonkeyPatch) -> None:
        info = client.generate_key(ORDERS)
        _answers(client.key(info), monkeypatch, None, lambda metadata: {**metadata, "KeyState": "Melting"})
        with pytest.raises(errors.IntegrityError, match="Melting"):
            client.describe_key(info)


def _answers(
    key: Key, patch: pytest.MonkeyPatch, code: str | None, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> list[str]:
    """Refuse Encrypt with ``code`` and describe the key otherwise; returns the calls as they come."""
    session: Any = key._session  # pyright: ignore[reportPrivateUsage] # the seam under the key
    aws = session.provider._aws
    real, seen = aws.ask, list[str]()

    def ask(method: str, **parameters: Any) -> Any:
        seen.append(method)
        if method == "encrypt" and code is not None:
            cause = sdk.ClientError({"Error": {"Code": code}, "ResponseMetadata": {}}, "Encrypt")
            raise translate(cause) from cause
        reply = real(method, **parameters)
        return {"KeyMetadata": change(reply["KeyMetadata"])} if method == "describe_key" else reply

    patch.setattr(aws, "ask", ask)
    return seen


class TestRetries:
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [("error", UnavailableError), ("throttle", ThrottledError), ("reset", UnavailableError)],
    )
    def test_one_policy_counts_the_attempts(
        self, aws: AWSEmulator, client: KMSClient, kind: Any, expected: type[KMSError]
    ) -> None:
        key = client.key(client.generate_key(ORDERS))
        aws.requests.clear()
        aws.faults.add("Encrypt", kind=kind, times=None)
        with pytest.raises(expected):
            key.wrap(bytes(32), context={})
        assert aws.requests.operations == ["Encrypt"] * 5
        aws.faults.clear()
        aws.faults.add("Encrypt", kind=kind, times=4)
        key.wrap(bytes(32), context={})

    def test_retry_after_is_kept_to(self, aws: AWSEmulator, client: KMSClient, waits: Any) -> None:
        key = client.key(client.generate_key(ORDERS))
        waits.seconds.clear()
        aws.faults.add("Encrypt", kind="throttle", retry_after=7)
        key.wrap(bytes(32), context={})
        assert waits.seconds == [7.0]

    def test_a_quota_is_not_retried(self, aws: AWSEmulator, client: KMSClient) -> None:
        """botocore's standard mode would repeat LimitExceededException, which is permanent on KMS."""
        key = client.key(client.generate_key(ORDERS))
        aws.requests.clear()
        aws.faults.add("Encrypt", "LimitExceededException", times=None)
        with pytest.raises(QuotaExceededError):
            key.wrap(bytes(32), context={})
        assert aws.requests.operations == ["Encrypt"]

    def test_the_request_id_is_the_failed_requests(self, aws: AWSEmulator, client: KMSClient) -> None:
        key = client.key(client.generate_key(ORDERS))
        aws.faults.add("Encrypt", "AccessDeniedException")
        with pytest.raises(PermissionDeniedError) as refused:
            key.wrap(bytes(32), context={})
        assert refused.value.request_id == aws.requests[-1].request_id
        assert (refused.value.provider, refused.value.operation) == ("awskms", "wrap")
        assert refused.value.key == str(key.info.uri)


class TestFailClosed:
    """ankane/active_kms#4: an error of the KMS became the ciphertext as plaintext."""

    @pytest.mark.parametrize("name", ["wrap", "unwrap", "decrypt", "sign", "mac", "verify_mac"])
    def test_every_code_in_every_use(self, aws: AWSEmulator, client: KMSClient, name: str) -> None:
        operation, use, right = _uses(client)[name]
        for code in CODES:
            aws.faults.add(operation, code, times=None)
            with pytest.raises(KMSError) as refused:
                use()
            assert type(refused.value) is not ProviderError, code
            aws.faults.clear()
            assert right(use()), code


def _uses(client: KMSClient) -> dict[str, tuple[str, Callable[[], Any], Callable[[Any], bool]]]:
    wrapping = client.key(client.generate_key(ORDERS))
    signing = client.key(client.generate_key(KeyConf("signing", "SIGN_VERIFY", algorithm="ES256")))
    macs = client.key(client.generate_key(KeyConf("macs", "MAC", algorithm="HS256")))
    secret = bytes(range(32))
    ring = Keyring([wrapping])
    wrapped, message = wrapping.wrap(secret, context={}), ring.encrypt(b"data", context={})
    tag, public_key = macs.mac(b"m"), signing.public_key()

    def verifies(signature: bytes) -> bool:
        public_key.verify(b"m", signature)
        return True

    return {
        "wrap": (
            "Encrypt",
            lambda: wrapping.wrap(secret, context={}),
            lambda w: bool(wrapping.unwrap(w, context={}) == secret),
        ),
        "unwrap": ("Decrypt", lambda: wrapping.unwrap(wrapped, context={}), lambda s: bool(s == secret)),
        "decrypt": ("Decrypt", lambda: ring.decrypt(message, context={}), lambda s: bool(s == b"data")),
        "sign": ("Sign", lambda: signing.sign(b"m"), verifies),
        "mac": ("GenerateMac", lambda: macs.mac(b"m"), lambda t: bool(t == tag)),
        "verify_mac": ("VerifyMac", lambda: macs.verify_mac(b"m", tag), lambda none: none is None),
    }


class TestPinnedKeys:
    """go-kms-wrapping, the AWS Encryption SDK before 2.0, sops: who chooses the key that decrypts."""

    def test_an_alias_moved_after_wrapping(self, client: KMSClient, kms: Any) -> None:
        """Wrap by alias, point the alias elsewhere: unwrapping still uses the key that wrapped."""
        first, second = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        kms.create_alias(AliasName="alias/existing", TargetKeyId=first)
        key = client.key("alias/existing")
        wrapped, message = key.wrap(bytes(32), context={}), Keyring([key]).encrypt(b"data", context={})
        kms.update_alias(AliasName="alias/existing", TargetKeyId=second)
        assert key.unwrap(wrapped, context={}) == bytes(32)
        assert Keyring([key]).decrypt(message, context={}) == b"data"
        moved = client.key("alias/existing")
        assert moved.info.uri != key.info.uri
        with pytest.raises(KeyNotAllowedError):
            moved.unwrap(wrapped, context={})

    def test_every_call_names_the_key(self, aws: AWSEmulator, client: KMSClient) -> None:
        key = client.key(client.generate_key(ORDERS))
        aws.requests.clear()
        message = Keyring([key]).encrypt(b"data", context={"tenant": "42"})
        Keyring([key]).decrypt(message, context={"tenant": "42"})
        assert aws.requests.operations == ["Encrypt", "Decrypt"]
        arn = str(key.info.uri).removeprefix("awskms:///")
        for request in aws.requests:
            assert request.parameters["KeyId"] == arn
            assert request.parameters["EncryptionContext"]["tenant"] == "42"
            assert set(request.parameters["EncryptionContext"]) == {"tenant", "anykms:bind"}
            assert request.parameters["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"

    def test_a_message_under_a_key_that_the_ring_lacks(self, aws: AWSEmulator, client: KMSClient) -> None:
        """Both keys are the caller's to use; the ring holds one. No call is made for the other."""
        ours, theirs = (
            client.key(client.generate_key(KeyConf(n, "ENCRYPT_DECRYPT"))) for n in ("ours", "theirs")
        )
        message = Keyring([theirs]).encrypt(b"data", context={})
        aws.requests.clear()
        with pytest.raises(KeyNotAllowedError):
            Keyring([ours]).decrypt(message, context={})
        assert len(aws.requests) == 0

    def test_a_message_that_names_another_region_or_account(
        self, aws: AWSEmulator, client: KMSClient
    ) -> None:
        """An endpoint comes from the caller alone: the header's is compared, and nobody is called."""
        key = client.key(client.generate_key(ORDERS))
        message = Keyring([key]).encrypt(b"data", context={})
        aws.requests.clear()
        for ours, theirs in ((b"eu-west-1", b"us-evil-1"), (b"111122223333", b"999999999999")):
            assert ours in message
            with pytest.raises(KeyNotAllowedError):
                Keyring([key]).decrypt(message.replace(ours, theirs, 1), context={})
        assert len(aws.requests) == 0

    def test_every_byte_of_a_wrapped_key(self, aws: AWSEmulator, client: KMSClient) -> None:
        """Tink's envelope: unauthenticated provider metadata in the wrapped key."""
        info = client.generate_key(ORDERS)
        provider = client._session.provider  # pyright: ignore[reportPrivateUsage] # the seam under the client
        context = WrapContext({"a": "b"}, bytes(32))
        wrapped = provider.wrap(info, bytes(32), context)
        for index in range(len(wrapped.ciphertext)):
            altered = bytearray(wrapped.ciphertext)
            altered[index] ^= 1
            with pytest.raises(InvalidCiphertextError):
                provider.unwrap(info, bytes(altered), None, context)
        assert provider.unwrap(info, wrapped.ciphertext, None, context) == bytes(32)
        with pytest.raises(InvalidCiphertextError):
            provider.unwrap(info, b"", None, context)

    def test_another_key_answers(self, client: KMSClient) -> None:
        """The reply's KeyId is compared, whatever the service did."""
        info = client.generate_key(ORDERS)
        provider: Any = client._session.provider  # pyright: ignore[reportPrivateUsage] # the seam under the client
        real = provider._aws.ask

        def lie(method: str, **parameters: Any) -> Any:
            return {**real(method, **parameters), "KeyId": "arn:aws:kms:eu-west-1:111122223333:key/other"}

        provider._aws.ask = lie
        with pytest.raises(errors.IntegrityError, match="another key"):
            client.key(info).wrap(bytes(32), context={})


class TestRefusedUnsent:
    """No call for invalid input or an unsupported operation."""

    def test_on_a_wrapping_key(self, aws: AWSEmulator, client: KMSClient) -> None:
        key = client.key(client.generate_key(ORDERS))
        aws.requests.clear()
        text: Any = "x" * 32
        acts: tuple[tuple[Callable[[], object], type[Exception]], ...] = (
            (lambda: key.wrap(b"short", context={}), errors.InvalidArgumentError),
            (lambda: key.wrap(bytes(32), context={"aws:x": "1"}), errors.InvalidArgumentError),
            (lambda: key.wrap(text, context={}), TypeError),
            (lambda: key.sign(b"m"), errors.KeyUsageError),
            (lambda: key.mac(b"m"), errors.KeyUsageError),
            (lambda: key.public_key(), errors.KeyUsageError),
        )
        for act, expected in acts:
            with pytest.raises(expected):
                act()
        assert len(aws.requests) == 0

    def test_wrapping_under_rsa(self, aws: AWSEmulator, client: KMSClient) -> None:
        info: KeyInfo = client.generate_key(KeyConf("rsa", "ASYMMETRIC_DECRYPT", key_size=2048))
        forged = dataclasses.replace(info, purpose=ORDERS.purpose)
        aws.requests.clear()
        with pytest.raises(UnsupportedOperationError):
            client.key(forged).wrap(bytes(32), context={})
        with pytest.raises(UnsupportedOperationError):
            client.rotate_key(info)
        assert len(aws.requests) == 0


def test_a_skewed_clock_is_a_clear_refusal(aws: AWSEmulator, client: KMSClient) -> None:
    """AWS refuses a SigV4 signature more than five minutes off (AWS IAM guide, "Troubleshoot SigV4")."""
    info = client.generate_key(KeyConf("skewed", "ENCRYPT_DECRYPT"))
    aws.faults.add(
        "Encrypt",
        "InvalidSignatureException",
        status=400,
        message="Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z",
    )
    before = aws.requests.total
    with pytest.raises(UnauthenticatedError, match="this machine's clock") as caught:
        client.key(info).wrap(bytes(32), context={})
    assert not caught.value.retryable
    assert aws.requests.total == before + 1
