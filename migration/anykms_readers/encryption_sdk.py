"""Messages of the AWS Encryption SDK, by its own library."""

from __future__ import annotations

import io
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, NoReturn, Self

import aws_encryption_sdk as untyped_sdk  # pyright: ignore[reportMissingTypeStubs] # the library has no types
from aws_encryption_sdk import exceptions as untyped_exceptions  # pyright: ignore[reportMissingTypeStubs] # as above
from aws_encryption_sdk import identifiers as untyped_identifiers  # pyright: ignore[reportMissingTypeStubs] # as above
from aws_encryption_sdk import structures as untyped_structures  # pyright: ignore[reportMissingTypeStubs] # as above
from aws_encryption_sdk.key_providers import base as untyped_base  # pyright: ignore[reportMissingTypeStubs] # as above
from aws_encryption_sdk.materials_managers import (  # pyright: ignore[reportMissingTypeStubs] # as above
    base as untyped_managers,
)

from anykms.envelope.stream import Source
from anykms.errors import InvalidArgumentError, InvalidCiphertextError, KMSError
from anykms.keys import KeyURI
from anykms.retrying import RetryPolicy
from anykms_readers.awskms import AWSKey
from anykms_readers.entries import MAX_BYTES, Options, chosen, rejected

_sdk: Any = untyped_sdk
_exceptions: Any = untyped_exceptions
_identifiers: Any = untyped_identifiers
_structures: Any = untyped_structures
_base: Any = untyped_base
_managers: Any = untyped_managers

COMMITMENTS: Final = ("required", "optional")
MAX_DATA_KEYS: Final = 10
_AWS: Final = "aws-kms"
_PIECE: Final = 1024 * 1024
_MAX_SHOWN: Final = 200


class _Strict(_base.MasterKeyProvider):  # type: ignore[misc] # the library has no types
    """The named keys and no others, for one message. What the message names is only compared."""

    provider_id = _AWS
    vend_masterkey_on_decrypt = False
    _config_class = _base.MasterKeyProviderConfig

    def allow(self, keys: Mapping[str, AWSKey], context: Mapping[str, str]) -> Self:
        """Take over the reader's keys, and the context that the caller expects."""
        self._keys = keys
        self._context = context
        self.refusal: KMSError | None = None
        return self

    def _new_master_key(self, key_id: bytes) -> NoReturn:
        raise _exceptions.InvalidKeyIdError("keys are named when the reader is made")

    def decrypt_data_key(self, encrypted_data_key: Any, algorithm: Any, encryption_context: Any) -> Any:
        """See ``MasterKeyProvider.decrypt_data_key``; a key that cannot be used now is remembered as ``refusal``."""
        named = encrypted_data_key.key_provider
        key = None
        if named.provider_id == _AWS:
            key = self._keys.get(bytes(named.key_info).decode("ascii", "replace"))
        if key is None:
            raise _exceptions.DecryptKeyError("not one of the reader's keys")
        if any(encryption_context.get(name) != value for name, value in self._context.items()):
            raise _exceptions.DecryptKeyError("another encryption context than the caller expects")
        try:
            opened = key.decrypt(encrypted_data_key.encrypted_data_key, encryption_context)
        except KMSError as error:
            if not isinstance(error, InvalidCiphertextError):
                self.refusal = self.refusal or error
            raise _exceptions.DecryptKeyError("the data key does not open") from error
        if len(opened) != algorithm.kdf_input_len:
            raise _exceptions.DecryptKeyError("the data key has another length")
        self.refusal = None
        return _structures.DataKey(
            key_provider=named,
            data_key=opened,
            encrypted_data_key=encrypted_data_key.encrypted_data_key,
        )


class _HeaderSeen(Exception):  # noqa: N818 # carries what was looked for, and is no failure
    def __init__(self, data_keys: Sequence[Any]) -> None:
        super().__init__()
        self.data_keys = data_keys


class _Looking(_managers.CryptoMaterialsManager):  # type: ignore[misc] # the library has no types
    """Stops the library where it has read a header and asks for the key."""

    def get_encryption_materials(self, request: Any) -> NoReturn:
        """Never asked for."""
        raise _exceptions.NotSupportedError("this only reads")

    def decrypt_materials(self, request: Any) -> NoReturn:
        """Raises what it has seen."""
        raise _HeaderSeen(tuple(request.encrypted_data_keys))


class _Pieces(io.RawIOBase):
    """The entry for the library, which asks for as many bytes as a length in the message says."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        pieces: list[bytes] = []
        left = size
        while left is None or left != 0:
            wanted = _PIECE if left is None or left < 0 else min(left, _PIECE)
            try:
                piece = self._source.read(wanted)
            except Exception as error:
                self.failure = error
                raise
            if piece is None:
                self.failure = BlockingIOError("the source of an entry must be a blocking file")
                raise self.failure
            if not piece:
                break
            pieces.append(piece)
            left = None if left is None or left < 0 else left - len(piece)
        return b"".join(pieces)


class _Plaintext:
    """What the library has decrypted, frame by frame; the end is reached only when all of it was right."""

    def __init__(self, decryptor: Any, source: _Pieces, keys: _Strict) -> None:
        self._decryptor = decryptor
        self._source = source
        self._keys = keys
        self._broken: Exception | None = None

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, all for a negative size.

        Raises:
            InvalidCiphertextError: not authentic, cut off, or something follows the message.
            KMSError: no key can be used now.
        """
        if self._broken is not None:
            raise self._broken
        try:
            pieces: list[bytes] = []
            while size != 0:
                piece: bytes = self._decryptor.read(_PIECE if size < 0 else min(size, _PIECE))
                if piece:
                    pieces.append(piece)
                if size > 0 and piece:
                    break
                if not piece:
                    if self._source.read(1):
                        raise rejected()
                    break
            return b"".join(pieces)
        except MemoryError:
            raise
        except Exception as error:
            # The library has no common class for what it refuses: struct.error and KeyError are among them.
            self._broken = self._explained(error)
            raise self._broken from error

    def _explained(self, error: Exception) -> Exception:
        if self._source.failure is not None:
            return self._source.failure
        return self._keys.refusal or rejected()


class EncryptionSDKReader:
    """Messages of the AWS Encryption SDK under KMS keys, in constant memory.

    The entry's context must be among the message's own encryption context, where it is given.

    Args:
        keys: ARNs of the keys to use; what the message names is compared with these. Exactly: a multi-Region key is
            one key in each Region.
        connection: ``awskms:///``, with the options profile and endpoint_url.
        commitment: ``required``, or ``optional`` to read messages without key commitment, of SDKs before 2.0, too:
            their makers could give one message several meanings.
        max_data_keys: encrypted data keys of one message.
        max_frame: bytes of a frame, or of the body of a message without frames.
        retry, sdk: see ``AWSKey``.

    Raises:
        InvalidArgumentError: one of these is bad.
    """

    format: ClassVar[str] = "aws-encryption-sdk"
    options: ClassVar[tuple[str, ...]] = (
        "keys",
        "connection",
        "commitment",
        "max-data-keys",
        "max-frame",
        "allow-insecure-endpoint",
    )

    def __init__(
        self,
        keys: Sequence[str],
        *,
        connection: str = "awskms:///",
        commitment: str = "required",
        max_data_keys: int = MAX_DATA_KEYS,
        max_frame: int = MAX_BYTES,
        retry: RetryPolicy | None = None,
        **sdk: Any,
    ) -> None:
        policies = _identifiers.CommitmentPolicy
        chosen("commitment", commitment, COMMITMENTS)
        if not keys:
            raise InvalidArgumentError("give the ARN of one key at least")
        found = [AWSKey(key, connection, retry or RetryPolicy(), **sdk) for key in keys]
        self._keys = {key.arn: key for key in found}
        self._max_frame = max_frame
        self._client = _sdk.EncryptionSDKClient(
            commitment_policy=policies.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
            if commitment == "required"
            else policies.REQUIRE_ENCRYPT_ALLOW_DECRYPT,
            max_encrypted_data_keys=max_data_keys,
        )
        self._looker = _sdk.EncryptionSDKClient(
            commitment_policy=policies.REQUIRE_ENCRYPT_ALLOW_DECRYPT, max_encrypted_data_keys=max_data_keys
        )

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """See ``ForeignReader.from_options``."""
        found = Options(cls.format, options, cls.options)
        return cls(
            found.required("keys", "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-...").split(","),
            connection=found.get("connection", "awskms:///"),
            commitment=found.among("commitment", COMMITMENTS, "required"),
            max_data_keys=found.number("max-data-keys", MAX_DATA_KEYS),
            max_frame=found.number("max-frame", MAX_BYTES),
            **found.insecure(),
        )

    @property
    def distinctive(self) -> bool:
        """True."""
        return True

    @property
    def sender_authenticated(self) -> bool:
        """True."""
        return True

    def recognises(self, start: bytes) -> bool:
        """Whether it begins with a version of the format and an algorithm suite of that version.

        One without commitment is recognised too, so that it is reported as what it is when it is refused.
        """
        if start[:2] == b"\x01\x80":
            version, suite = 1, start[2:4]
        elif start[:1] == b"\x02":
            version, suite = 2, start[1:3]
        else:
            return False
        try:
            found = _identifiers.AlgorithmSuite.get_by_id(int.from_bytes(suite, "big"))
        except KeyError:
            return False
        return len(suite) == 2 and bool(found.message_format_version == version)

    def keys(self, start: bytes) -> tuple[str, ...]:
        """The keys that the header claims, as key URIs; those of others than AWS KMS are shown as they are named."""
        if not self.recognises(start):
            return ()
        try:
            with self._looker.stream(mode="d", source=start, materials_manager=_Looking()) as looked:
                looked.header  # noqa: B018 # reads it
        except _HeaderSeen as seen:
            return tuple(sorted({_shown(each.key_provider) for each in seen.data_keys}))
        except Exception:  # the library has no common class for what it refuses
            return ()
        return ()

    @contextmanager
    def opening(self, source: Source, context: Mapping[str, str], aad: bytes = b"") -> Generator[Source]:
        """See ``ForeignReader.opening``."""
        pieces = _Pieces(source)
        keys = _Strict().allow(self._keys, context)
        decryptor = self._client.stream(
            mode="d", source=pieces, key_provider=keys, max_body_length=self._max_frame
        )
        yield _Plaintext(decryptor, pieces, keys)

    def close(self) -> None:
        """Close the connections."""
        for key in self._keys.values():
            key.close()


def _shown(named: Any) -> str:
    text = bytes(named.key_info).decode("utf-8", "replace")
    if named.provider_id == _AWS:
        try:
            return str(KeyURI.from_spelling(text))
        except InvalidArgumentError:
            pass
    return ascii(f"{named.provider_id}: {text}")[1:-1][:_MAX_SHOWN]
