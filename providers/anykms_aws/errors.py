"""The one table from AWS's error codes to the contract's errors.

Codes decide, not exception classes: half of what AWS KMS answers (AccessDeniedException,
ThrottlingException, ValidationException, ...) has no class in the SDK's model. AWS's own text goes into a
message only where it cannot hold a part of the request; the SDK's error is the ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botocore import exceptions as sdk  # pyright: ignore[reportMissingTypeStubs] # the SDK has no types
from botocore.parsers import ResponseParserError  # pyright: ignore[reportMissingTypeStubs] # the SDK has no types

from anykms.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidArgumentError,
    InvalidCiphertextError,
    InvalidMacError,
    InvalidSignatureError,
    KeyDisabledError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStateError,
    KeyUsageError,
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
_MAX_RETRY_AFTER_DIGITS: Final = 6

_CREDENTIALS: Final = (UnauthenticatedError, "AWS does not accept the credentials")
_SIGNATURE: Final = (
    UnauthenticatedError,
    "AWS does not accept the request's signature: check the secret key, and this machine's clock, which may be "
    "five minutes off",
)
_THROTTLED: Final = (ThrottledError, "AWS KMS is throttling requests")
_INTERNAL: Final = (UnavailableError, "AWS KMS failed for a reason of its own")
_STORE: Final = (UnavailableError, "the key's custom key store cannot be used now")
_ARGUMENT: Final = (InvalidArgumentError, "AWS KMS refuses an argument")
_DENIED: Final = (PermissionDeniedError, "AWS does not allow it")

CODES: Final[Mapping[str, tuple[type[KMSError], str]]] = {
    # keys and their state
    "NotFoundException": (KeyNotFoundError, "AWS KMS has no such key"),
    "AlreadyExistsException": (KeyExistsError, "the alias is taken"),
    "DisabledException": (KeyDisabledError, "the key is disabled; enable it first"),
    "KMSInvalidStateException": (KeyStateError, "the key's state forbids it"),
    "KeyUnavailableException": (UnavailableError, "AWS KMS cannot reach the key now"),
    "InvalidKeyUsageException": (KeyUsageError, "the key's usage or spec does not allow it"),
    "UnsupportedOperationException": (UnsupportedOperationError, "AWS KMS does not do this with such a key"),
    "UnknownOperationException": (UnsupportedOperationError, "the endpoint does not know this operation"),
    "ConflictException": (ConflictError, "AWS KMS is rotating the key, or about to"),
    # cryptography
    "InvalidCiphertextException": (InvalidCiphertextError, "not authentic under this key and context"),
    "IncorrectKeyException": (InvalidCiphertextError, "not authentic under this key and context"),
    "KMSInvalidSignatureException": (InvalidSignatureError, "the signature is not this key's"),
    "KMSInvalidMacException": (InvalidMacError, "the tag does not belong to this message and key"),
    # permission and identity
    "AccessDeniedException": _DENIED,
    "AccessDenied": _DENIED,
    "NotAuthorizedException": _DENIED,
    "NotAuthorized": _DENIED,
    "UnauthorizedOperation": _DENIED,
    "OptInRequired": _DENIED,
    "InvalidGrantTokenException": _DENIED,
    "InvalidGrantIdException": _DENIED,
    "UnrecognizedClientException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidSignatureException": _SIGNATURE,
    "SignatureDoesNotMatch": _SIGNATURE,
    "IncompleteSignatureException": _CREDENTIALS,
    "IncompleteSignature": _CREDENTIALS,
    "MissingAuthenticationTokenException": _CREDENTIALS,
    "MissingAuthenticationToken": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "RequestExpired": _CREDENTIALS,
    "RequestTimeTooSkewed": _CREDENTIALS,
    "AuthFailure": _CREDENTIALS,
    # limits
    "LimitExceededException": (QuotaExceededError, "a quota of AWS KMS is used up"),
    "ThrottlingException": _THROTTLED,
    "Throttling": _THROTTLED,
    "ThrottledException": _THROTTLED,
    "RequestThrottled": _THROTTLED,
    "RequestThrottledException": _THROTTLED,
    "RequestLimitExceeded": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
    "SlowDown": _THROTTLED,
    # AWS's own trouble
    "KMSInternalException": _INTERNAL,
    "DependencyTimeoutException": _INTERNAL,
    "InternalFailure": _INTERNAL,
    "InternalServerError": _INTERNAL,
    "ServiceUnavailable": _INTERNAL,
    "ServiceUnavailableException": _INTERNAL,
    "RequestTimeout": _INTERNAL,
    "RequestTimeoutException": _INTERNAL,
    # arguments
    "ValidationException": _ARGUMENT,
    "ValidationError": _ARGUMENT,
    "SerializationException": _ARGUMENT,
    "InvalidArnException": _ARGUMENT,
    "InvalidAliasNameException": _ARGUMENT,
    "InvalidMarkerException": (ConflictError, "a listing went stale while it was read; list again"),
    "MalformedPolicyDocumentException": _ARGUMENT,
    "TagException": _ARGUMENT,
    "DryRunOperationException": (InvalidArgumentError, "the client asks AWS KMS for dry runs only"),
    # import of material and custom key stores: an injected client's hooks could cause them, anykms does not
    "ExpiredImportTokenException": _ARGUMENT,
    "InvalidImportTokenException": _ARGUMENT,
    "IncorrectKeyMaterialException": _ARGUMENT,
    "IncorrectTrustAnchorException": _ARGUMENT,
    "CustomKeyStoreNotFoundException": _ARGUMENT,
    "CustomKeyStoreNameInUseException": _ARGUMENT,
    "CustomKeyStoreHasCMKsException": _ARGUMENT,
    "CustomKeyStoreInvalidStateException": _STORE,
    "CloudHsmClusterInUseException": _ARGUMENT,
    "CloudHsmClusterInvalidConfigurationException": _STORE,
    "CloudHsmClusterNotActiveException": _STORE,
    "CloudHsmClusterNotFoundException": _ARGUMENT,
    "CloudHsmClusterNotRelatedException": _ARGUMENT,
    "XksKeyAlreadyInUseException": _ARGUMENT,
    "XksKeyInvalidConfigurationException": _ARGUMENT,
    "XksKeyNotFoundException": _ARGUMENT,
    "XksProxyIncorrectAuthenticationCredentialException": _STORE,
    "XksProxyInvalidConfigurationException": _STORE,
    "XksProxyInvalidResponseException": _STORE,
    "XksProxyUriEndpointInUseException": _ARGUMENT,
    "XksProxyUriInUseException": _ARGUMENT,
    "XksProxyUriUnreachableException": _STORE,
    "XksProxyVpcEndpointServiceInUseException": _ARGUMENT,
    "XksProxyVpcEndpointServiceInvalidConfigurationException": _STORE,
    "XksProxyVpcEndpointServiceNotFoundException": _ARGUMENT,
}

# Of these AWS's text is quoted: it names principals, actions and quotas. A signature error's text is not: it
# repeats the headers of the request, the session token among them.
_QUOTED: Final = frozenset(
    {"AccessDeniedException", "LimitExceededException", "UnsupportedOperationException"}
)

_STATUSES: Final[Mapping[int, tuple[type[KMSError], str]]] = {
    401: _CREDENTIALS,
    403: _DENIED,
    408: _INTERNAL,
    429: _THROTTLED,
}
"""For an answer without a known code: a proxy's, or a code newer than this table."""

_NO_CREDENTIALS: Final = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.LoginError,
    sdk.NoAuthTokenError,
    sdk.MetadataRetrievalError,
    sdk.RefreshWithMFAUnsupportedError,
    sdk.InfiniteLoopConfigError,
    sdk.UnknownCredentialError,
)
_BAD_CONFIGURATION: Final = (
    sdk.NoRegionError,
    sdk.InvalidRegionError,
    sdk.ProfileNotFound,
    sdk.ConfigParseError,
    sdk.ConfigNotFound,
    sdk.InvalidConfigError,
    sdk.InvalidDefaultsMode,
    sdk.InvalidProxiesConfigError,
    sdk.InvalidRetryConfigurationError,
    sdk.InvalidRetryModeError,
    sdk.InvalidMaxRetryAttemptsError,
    sdk.InvalidIMDSEndpointError,
    sdk.InvalidIMDSEndpointModeError,
    sdk.EndpointProviderError,
    sdk.EndpointVariantError,
    sdk.UnknownEndpointError,
    sdk.UnknownFIPSEndpointError,
    sdk.UnknownRegionError,
    sdk.MissingDependencyException,
)


SDK_ERRORS: Final = (sdk.ClientError, sdk.BotoCoreError, ResponseParserError)
"""All that a client of the SDK raises by itself."""


def translate(error: Exception) -> KMSError:
    """The contract's error for one of the SDK's; the caller raises it ``from`` that one."""
    if isinstance(error, sdk.ClientError):
        return _refusal(error)
    return _failure(error)


def _refusal(error: sdk.ClientError) -> KMSError:
    """AWS answered, with an error."""
    answer: Mapping[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    metadata: Mapping[str, Any] = answer.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    found = CODES.get(code) or _STATUSES.get(status)
    if found is None:
        found = _INTERNAL if status >= 500 else (ProviderError, "AWS KMS answered with an unknown code")
    kind, text = found
    text = f"{text} ({ascii(code)[1:-1][:80]})"
    if code in _QUOTED:
        text = f"{text}: {ascii(str(answer['Error'].get('Message', '')))[1:-1][:_MAX_QUOTED]}"
    return kind(
        text,
        retry_after=_retry_after(metadata.get("HTTPHeaders", {})),
        request_id=metadata.get("RequestId"),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    seconds = headers.get("retry-after", "")
    usable = seconds.isascii() and seconds.isdigit() and len(seconds) <= _MAX_RETRY_AFTER_DIGITS
    return float(seconds) if usable else None


def _failure(error: Exception) -> KMSError:
    """No answer of AWS's was understood."""
    name = type(error).__name__
    if isinstance(error, (sdk.ConnectTimeoutError, sdk.ReadTimeoutError)):
        return DeadlineExceededError(f"AWS KMS did not answer in time ({name})")
    if isinstance(error, _NO_CREDENTIALS):
        return UnauthenticatedError(
            f"no usable AWS credentials ({name}); give them, or configure the SDK's credential chain"
        )
    if isinstance(error, _BAD_CONFIGURATION):
        return InvalidArgumentError(f"the AWS SDK cannot use its configuration ({name}): see the cause")
    if isinstance(error, sdk.SSLError):
        return UnavailableError("the endpoint's certificate is not trusted or has another name (SSLError)")
    if isinstance(error, (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError)):
        return UnavailableError(f"AWS KMS cannot be reached ({name})")
    if isinstance(error, ResponseParserError):
        return UnavailableError("the endpoint's answer is not one of AWS KMS (ResponseParserError)")
    if isinstance(error, sdk.ParamValidationError):
        return InvalidArgumentError(f"the AWS SDK refuses an argument ({name})")
    return ProviderError(f"an unmapped {name} of the AWS SDK")
