"""What AWS KMS's own Encrypt made: CiphertextBlob."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, Self

from anykms.envelope.stream import Source
from anykms.errors import IntegrityError, InvalidArgumentError
from anykms.keys import ConnectionURI, KeyURI
from anykms.retrying import RetryPolicy
from anykms_aws.connection import DEFAULT_TIMEOUT, connect
from anykms_readers.entries import Options, blob, chosen, one_text, plaintext, rejected

ENCODINGS: Final = ("binary", "base64")
MAX_BLOB: Final = 6144
"""Bytes of CiphertextBlob (AWS KMS API Reference, Decrypt)."""
SYMMETRIC: Final = "SYMMETRIC_DEFAULT"
ALGORITHMS: Final = (SYMMETRIC, "RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1")
"""EncryptionAlgorithm (AWS KMS API Reference, Encrypt)."""


class AWSKey:
    """One KMS key, by ARN, for Decrypt alone: it needs no other permission. Safe to use from many threads.

    Args:
        key: the key's ARN, plain or in a key URI of anykms or Tink; no alias, which could lead elsewhere tomorrow.
        connection: ``awskms:///`` with the options of a connection URI; the Region is the key's.
        retry: when to ask again.
        sdk: further arguments of ``AWSProvider.connect``: client, allow_insecure_endpoint, credentials.

    Raises:
        InvalidArgumentError: not such a key, or a bad connection.
    """

    def __init__(self, key: str, connection: str, retry: RetryPolicy, **sdk: Any) -> None:
        self.uri = KeyURI.from_spelling(key)
        if self.uri.scheme != "awskms":
            raise InvalidArgumentError("the key is not one of AWS: give its ARN, arn:aws:kms:...:key/...")
        self.arn = self.uri.resource[1:]
        region = self.arn.split(":", 4)[3]
        where = ConnectionURI.parse(connection)
        if where.scheme != "awskms" or where.options.get("region", region) != region:
            raise InvalidArgumentError("the connection is awskms:///, and its Region the key's")
        if "client" not in sdk:
            where = ConnectionURI(where.scheme, where.address, {**where.options, "region": region})
        known: dict[str, Any] = {
            "client": None,
            "allow_insecure_endpoint": False,
            "credentials": None,
            "timeout": DEFAULT_TIMEOUT,
        }
        self._aws = connect(where, **{**known, **sdk})
        self._retry = retry

    def decrypt(self, ciphertext: bytes, context: Mapping[str, str], algorithm: str = SYMMETRIC) -> bytes:
        """Decrypt under exactly this key, algorithm and encryption context, which RSA does not have.

        Raises:
            InvalidCiphertextError: not authentic.
            KMSError: the key cannot be used now.
        """
        if not 1 <= len(ciphertext) <= MAX_BLOB:
            raise rejected()
        bound = {"EncryptionContext": dict(context)} if algorithm == SYMMETRIC else {}
        with one_text():
            reply = self._retry.call(
                lambda: self._aws.ask(
                    "decrypt",
                    KeyId=self.arn,
                    CiphertextBlob=ciphertext,
                    EncryptionAlgorithm=algorithm,
                    **bound,
                )
            )
        if reply["KeyId"] != self.arn or reply["EncryptionAlgorithm"] != algorithm:
            raise IntegrityError("AWS KMS used another key or algorithm than it was told to")
        opened: bytes = reply["Plaintext"]
        return opened

    def close(self) -> None:
        """Close the connections that were made here."""
        self._aws.close()


class AWSKMSReader:
    """Blobs of AWS KMS, each whole in one entry; the entry's context is the encryption context of a symmetric key.

    AWS documents no mark of a blob, so this reader has to be asked for.

    Args:
        key: ARN of the one key to use.
        connection: ``awskms:///``, with the options profile and endpoint_url.
        encoding: ``binary``, or ``base64`` as the AWS CLI prints blobs.
        algorithm: AWS's name of the one that was used; an RSA key proves nothing about who encrypted.
        retry, sdk: see ``AWSKey``.

    Raises:
        InvalidArgumentError: one of these is bad.
    """

    format: ClassVar[str] = "awskms"
    options: ClassVar[tuple[str, ...]] = (
        "key",
        "connection",
        "encoding",
        "algorithm",
        "allow-insecure-endpoint",
    )

    def __init__(
        self,
        key: str,
        *,
        connection: str = "awskms:///",
        encoding: str = "binary",
        algorithm: str = SYMMETRIC,
        retry: RetryPolicy | None = None,
        **sdk: Any,
    ) -> None:
        self._encoding = chosen("encoding", encoding, ENCODINGS)
        self._algorithm = chosen("algorithm", algorithm, ALGORITHMS)
        self._key = AWSKey(key, connection, retry or RetryPolicy(), **sdk)

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """See ``ForeignReader.from_options``."""
        found = Options(cls.format, options, cls.options)
        return cls(
            found.required("key", "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-..."),
            connection=found.get("connection", "awskms:///"),
            encoding=found.among("encoding", ENCODINGS, "binary"),
            algorithm=found.among("algorithm", ALGORITHMS, SYMMETRIC),
            **found.insecure(),
        )

    @property
    def distinctive(self) -> bool:
        """False."""
        return False

    @property
    def sender_authenticated(self) -> bool:
        """Whether the key is symmetric."""
        return self._algorithm == SYMMETRIC

    def recognises(self, start: bytes) -> bool:
        """Whether there is anything at all."""
        return bool(start)

    def keys(self, start: bytes) -> tuple[str, ...]:
        """None: a blob does not say in public which key it is of."""
        return ()

    def opening(
        self, source: Source, context: Mapping[str, str], aad: bytes = b""
    ) -> AbstractContextManager[Source]:
        """See ``ForeignReader.opening``; up to 4,096 bytes."""
        sealed = blob(source, MAX_BLOB, self._encoding)
        return plaintext(self._key.decrypt(sealed, context, self._algorithm))

    def close(self) -> None:
        """Close the connections."""
        self._key.close()
