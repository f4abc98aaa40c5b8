"""The error tree as the contract lists it: classes, flags, pickling."""

from __future__ import annotations

import copy
import pickle

import pytest

from anykms import errors
from anykms.errors import KMSError, ThrottledError

TREE = {
    "KMSError": "Exception",
    "InvalidArgumentError": "KMSError",
    "UnsupportedOperationError": "KMSError",
    "KeyNotFoundError": "KMSError",
    "KeyDestroyedError": "KeyNotFoundError",
    "KeyExistsError": "KMSError",
    "NameReservedError": "KMSError",
    "PermissionDeniedError": "KMSError",
    "UnauthenticatedError": "KMSError",
    "KeyStateError": "KMSError",
    "KeyDisabledError": "KeyStateError",
    "KeyPendingDestructionError": "KeyStateError",
    "KeyPendingImportError": "KeyStateError",
    "KeyNotReadyError": "KeyStateError",
    "KeyUsageError": "KMSError",
    "InvalidCiphertextError": "KMSError",
    "TruncatedMessageError": "InvalidCiphertextError",
    "UnsupportedVersionError": "InvalidCiphertextError",
    "ContextMismatchError": "KMSError",
    "InvalidSignatureError": "KMSError",
    "InvalidMacError": "KMSError",
    "KeyNotAllowedError": "KMSError",
    "PolicyError": "KMSError",
    "StaleMessageError": "KMSError",
    "SealError": "KMSError",
    "KeyConfMismatchError": "KMSError",
    "KeystoreError": "KMSError",
    "AuditError": "KMSError",
    "QuotaExceededError": "KMSError",
    "ThrottledError": "KMSError",
    "UnavailableError": "KMSError",
    "DeadlineExceededError": "KMSError",
    "IntegrityError": "KMSError",
    "ConflictError": "KMSError",
    "ProviderError": "KMSError",
}
RETRYABLE = {"ThrottledError", "UnavailableError", "DeadlineExceededError", "IntegrityError", "ConflictError"}
CLASSES: dict[str, type[KMSError]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, KMSError)
}


def test_the_tree_is_the_documented_one() -> None:
    assert {name: kind.__bases__[0].__name__ for name, kind in CLASSES.items()} == TREE
    assert all(len(kind.__bases__) == 1 for kind in CLASSES.values())


def test_what_may_be_retried() -> None:
    assert {name for name, kind in CLASSES.items() if kind("x").retryable} == RETRYABLE


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_errors_cross_process_boundaries(kind: type[KMSError]) -> None:
    error = kind(
        "what happened", provider="awskms", operation="sign", key="orders", retry_after=1.5, request_id="r-1"
    )
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 # our own bytes
        assert type(other) is kind
        assert str(other) == "what happened"
        assert vars(other) == vars(error)


def test_bare_errors_say_nothing_of_a_place() -> None:
    error = KMSError("x")
    assert vars(error) == dict.fromkeys(["provider", "operation", "key", "retry_after", "request_id"])


def test_locate_fills_only_what_is_open() -> None:
    error = ThrottledError("x", operation="wrap")
    error.locate(provider="gcpkms", operation="encrypt", key=None)
    error.locate(provider="local", operation="encrypt", key="orders")
    assert (error.provider, error.operation, error.key) == ("gcpkms", "wrap", "orders")


def test_the_place_is_named_not_positional() -> None:
    with pytest.raises(TypeError):
        KMSError("x", "awskms")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] # the mistake under test
