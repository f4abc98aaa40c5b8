"""The one tree of errors that leaves the library.

Besides these only ``TypeError`` (an argument of the wrong type) and the ``OSError`` of a file that the
caller named are raised. An SDK's own error is kept as ``__cause__``. No message holds plaintext, key or
token bytes.
"""

from __future__ import annotations

from typing import ClassVar


class KMSError(Exception):
    """An operation on a key failed.

    Attributes:
        provider: scheme of the provider ("local", "awskms", ...), None where none was involved.
        operation: the operation that failed, as in ``anykms.provider.Operation``.
        key: the key's canonical URI or name, as the caller gave it.
        retryable: whether the same call may succeed later, unchanged.
        retry_after: seconds the provider asked to wait, where it did.
        request_id: the provider's id of the failed request, where it gave one.

    >>> raise ThrottledError("too many requests", provider="awskms", operation="sign", retry_after=2.0)
    Traceback (most recent call last):
    anykms.errors.ThrottledError: too many requests
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        operation: str | None = None,
        key: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.operation = operation
        self.key = key
        self.retry_after = retry_after
        self.request_id = request_id

    def locate(self, *, provider: str, operation: str, key: str | None) -> None:
        """Fill in where the error happened, as far as the raiser left it open."""
        self.provider = self.provider or provider
        self.operation = self.operation or operation
        self.key = self.key or key


class InvalidArgumentError(KMSError):
    """The input breaks a limit of the contract; nothing was sent."""


class UnsupportedOperationError(KMSError):
    """The provider lacks the capability; nothing was sent."""


class KeyNotFoundError(KMSError):
    """No key of that name or URI."""


class KeyDestroyedError(KeyNotFoundError):
    """The key existed and its material is gone for good."""


class KeyExistsError(KMSError):
    """A live key has that name already."""


class NameReservedError(KMSError):
    """The name belongs to a key pending destruction, or destroyed, and cannot be used again."""


class PermissionDeniedError(KMSError):
    """The caller is known but may not do this."""


class UnauthenticatedError(KMSError):
    """Credentials are missing, expired or wrong."""


class KeyStateError(KMSError):
    """The key (or the version used, then named in ``version``) is in a state that forbids the operation."""

    version: str | None = None


class KeyDisabledError(KeyStateError):
    """The key is disabled; enable it first."""


class KeyPendingDestructionError(KeyStateError):
    """The key waits for its destruction; cancel that, then enable it."""


class KeyPendingImportError(KeyStateError):
    """The key waits for its material to be imported."""


class KeyNotReadyError(KeyStateError):
    """The provider is still generating the key."""


class KeyUsageError(KMSError):
    """The key's purpose or algorithm does not allow the operation."""


class InvalidCiphertextError(KMSError):
    """The ciphertext is not authentic under this key, context and aad. It never says why."""


class TruncatedMessageError(InvalidCiphertextError):
    """The end of the message is missing or altered."""


class UnsupportedVersionError(InvalidCiphertextError):
    """The message names a format version that this release does not read."""


class ContextMismatchError(KMSError):
    """The caller's context is not the one the message was made under."""


class InvalidSignatureError(KMSError):
    """The signature does not belong to this message and key."""


class InvalidMacError(KMSError):
    """The tag does not belong to this message and key."""


class KeyNotAllowedError(KMSError):
    """The message is for keys that the keyring does not hold; no provider was called."""


class PolicyError(KMSError):
    """The policy forbids it; the message names the rule."""


class StaleMessageError(KMSError):
    """The generation is older than the caller demands."""


class SealError(KMSError):
    """A sealed document is not authentic, not current or not signed by enough keys."""


class KeyConfMismatchError(KMSError):
    """The provider made a key that differs from the conf; the key was disabled."""


class KeystoreError(KMSError):
    """The local keystore is damaged, edited, rolled back, or opened with the wrong root secret."""


class AuditError(KMSError):
    """An audit sink failed, so that the result is withheld; or an audit file is not whole."""


class QuotaExceededError(KMSError):
    """A quota that waiting does not lift."""


class ThrottledError(KMSError):
    """Too many requests now."""

    retryable = True


class UnavailableError(KMSError):
    """The provider cannot be reached or does not answer now; a locked keystore too."""

    retryable = True


class DeadlineExceededError(KMSError):
    """The deadline passed before the outcome was known."""

    retryable = True


class IntegrityError(KMSError):
    """A checksum on the wire, or a fact about the key, is not what it must be."""

    retryable = True


class ConflictError(KMSError):
    """Another caller changed the same thing at the same time."""

    retryable = True


class ProviderError(KMSError):
    """An answer of the provider that no rule maps. Every occurrence is a defect of the adapter."""
