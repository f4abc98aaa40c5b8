"""The one table from PKCS#11's return values to the contract's errors.

python-pkcs11 has one class for each return value (PKCS #11 v2.40 base specification, 5.1), or gives its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pkcs11 import exceptions as sdk

from anykms.errors import (
    InvalidArgumentError,
    KeyStateError,
    KeystoreError,
    KeyUsageError,
    KMSError,
    PermissionDeniedError,
    ProviderError,
    QuotaExceededError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)

USAGE_GONE: Final = (
    "the token's object may not be used for this: its usage was taken away outside of anykms, or by a change that "
    "did not finish; enable the key again"
)
_PIN: Final = (UnauthenticatedError, "the token refuses the PIN")
_LOCKED: Final = (
    UnauthenticatedError,
    "the token's PIN is locked, expired or not set; its officer resets it",
)
_GONE: Final = (UnavailableError, "the token was removed, or the session with it has ended; connect again")
_FAILED: Final = (UnavailableError, "the token, or its library, failed for a reason of its own")
_FULL: Final = (QuotaExceededError, "the token has no room for more objects or sessions")
_READ_ONLY: Final = (PermissionDeniedError, "the token does not allow the change")
_MECHANISM: Final = (UnsupportedOperationError, "the token does not have this mechanism, size or curve")
_MISSING: Final = (KeystoreError, "an object of the key is not on the token any more")
_UNFIT: Final = (KeyUsageError, "the token's object does not fit the operation")

_TABLE: Final[Mapping[type[sdk.PKCS11Error], tuple[type[KMSError], str]]] = {
    sdk.PinIncorrect: _PIN,
    sdk.PinInvalid: _PIN,
    sdk.PinLenRange: _PIN,
    sdk.PinExpired: _LOCKED,
    sdk.PinLocked: _LOCKED,
    sdk.UserPinNotInitialized: _LOCKED,
    sdk.UserNotLoggedIn: (UnauthenticatedError, "the login to the token has ended; connect again"),
    sdk.UserAlreadyLoggedIn: (
        UnauthenticatedError,
        "this process has logged in to the token outside of anykms, so the PIN cannot be checked",
    ),
    sdk.AnotherUserAlreadyLoggedIn: (
        UnauthenticatedError,
        "another user of this process, perhaps the security officer, is logged in to the token",
    ),
    sdk.UserTooManyTypes: (UnauthenticatedError, "other users are logged in to the token"),
    sdk.DeviceRemoved: _GONE,
    sdk.TokenNotPresent: _GONE,
    sdk.TokenNotRecognised: _GONE,
    sdk.SlotIDInvalid: _GONE,
    sdk.SessionClosed: _GONE,
    sdk.SessionHandleInvalid: _GONE,
    sdk.DeviceError: _FAILED,
    sdk.GeneralError: _FAILED,
    sdk.FunctionFailed: _FAILED,
    sdk.FunctionCancelled: _FAILED,
    sdk.FunctionRejected: _FAILED,
    sdk.HostMemory: _FAILED,
    sdk.OperationActive: _FAILED,
    sdk.OperationNotInitialized: _FAILED,
    sdk.RandomNoRNG: _FAILED,
    sdk.DeviceMemory: _FULL,
    sdk.SessionCount: _FULL,
    sdk.TokenWriteProtected: _READ_ONLY,
    sdk.SessionReadOnly: _READ_ONLY,
    sdk.AttributeReadOnly: _READ_ONLY,
    sdk.MechanismInvalid: _MECHANISM,
    sdk.MechanismParamInvalid: _MECHANISM,
    sdk.DomainParamsInvalid: _MECHANISM,
    sdk.KeySizeRange: _MECHANISM,
    sdk.FunctionNotSupported: _MECHANISM,
    sdk.KeyHandleInvalid: _MISSING,
    sdk.ObjectHandleInvalid: _MISSING,
    sdk.KeyTypeInconsistent: _UNFIT,
    sdk.DataInvalid: (InvalidArgumentError, "the token does not take this message"),
    sdk.DataLenRange: (InvalidArgumentError, "the token does not take a message of this length"),
}

_BY_NUMBER: Final[Mapping[str, tuple[type[KMSError], str]]] = {
    # CKR_KEY_FUNCTION_NOT_PERMITTED: the object's usage was taken away, as for a disabled key.
    "Unmapped error code 0x68": (KeyStateError, USAGE_GONE),
    "Unmapped error code 0x140": _MECHANISM,  # CKR_CURVE_NOT_SUPPORTED
}


def translate(error: sdk.PKCS11Error) -> KMSError:
    """The contract's error for one of PKCS#11's; the caller raises it ``from`` that one."""
    row = _TABLE.get(type(error)) or _BY_NUMBER.get(str(error))
    if row is None:
        return ProviderError(f"an unmapped {type(error).__name__} of the token: {ascii(str(error))[:80]}")
    kind, text = row
    return kind(f"{text} ({type(error).__name__})")


def is_state(error: sdk.PKCS11Error | KMSError) -> bool:
    """Whether the token, or we, refused an object because its usage is not there: the key's state tells why."""
    return type(translate(error) if isinstance(error, sdk.PKCS11Error) else error) is KeyStateError
