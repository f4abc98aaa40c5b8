"""What Cloud KMS's own Encrypt made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, Self

from anykms.envelope.stream import Source
from anykms.errors import InvalidArgumentError
from anykms.keys import ConnectionURI, KeyURI
from anykms.retrying import RetryPolicy
from anykms_gcp.connection import DEFAULT_TIMEOUT, checked, connect
from anykms_readers.entries import (
    Options,
    blob,
    chosen,
    one_text,
    plaintext,
    rejected,
)

ENCODINGS: Final = ("binary", "base64")
MAX_BLOB: Final = 64 * 1024 + 1024
"""Bytes: 64 KiB of plaintext (Cloud KMS API, cryptoKeys.encrypt) and room for what is added, about 100."""


class CloudKey:
    """One symmetric CryptoKey, by name, for Decrypt alone: it needs no other permission. Safe to use from many threads.

    Args:
        key: ``projects/P/locations/L/keyRings/R/cryptoKeys/K``, plain or in a key URI of anykms or Tink, without a
            version: Cloud KMS finds it by itself.
        connection: a ``gcpkms`` connection URI, for its options; empty for none.
        retry: when to ask again.
        sdk: further arguments of ``GCPProvider.connect``: client, allow_insecure_endpoint, credentials.

    Raises:
        InvalidArgumentError: not such a key, or a bad connection.
    """

    def __init__(self, key: str, connection: str, retry: RetryPolicy, **sdk: Any) -> None:
        self.uri = KeyURI.from_spelling(key)
        if self.uri.scheme != "gcpkms" or self.uri.version is not None:
            raise InvalidArgumentError(
                "the key is not one of Google Cloud: give projects/.../cryptoKeys/..., without a version"
            )
        ring = self.uri.resource.partition("/cryptoKeys/")[0]
        where = ConnectionURI.parse(connection or f"gcpkms://{ring}")
        if where.scheme != "gcpkms" or where.address != ring:
            raise InvalidArgumentError(f"the connection is gcpkms://{ring}, the key's own key ring")
        known: dict[str, Any] = {
            "client": None,
            "allow_insecure_endpoint": False,
            "credentials": None,
            "timeout": DEFAULT_TIMEOUT,
        }
        self._gcp = connect(where, **{**known, **sdk})
        self._retry = retry

    def decrypt(self, ciphertext: bytes, aad: bytes) -> bytes:
        """Decrypt under exactly this key and associated data, with CRC32C both ways.

        Raises:
            InvalidCiphertextError: not authentic.
            KMSError: the key cannot be used now.
        """
        if not 1 <= len(ciphertext) <= MAX_BLOB:
            raise rejected()
        sent = {"ciphertext": ciphertext, "additional_authenticated_data": aad}

        def ask() -> bytes:
            reply = self._gcp.protected("decrypt", self.uri.resource, sent)
            return checked(reply.plaintext, reply.plaintext_crc32c, "the plaintext")

        try:
            with one_text():
                return self._retry.call(ask)
        except InvalidArgumentError as error:
            # The name is well formed and a checksum has another class, so it is the ciphertext.
            raise rejected(error) from error.__cause__

    def close(self) -> None:
        """Close the connections that were made here."""
        self._gcp.close()


class CloudKMSReader:
    """Ciphertexts of Cloud KMS, each whole in one entry; associated data is the entry's aad.

    Google documents no mark of a ciphertext, so this reader has to be asked for.

    Args:
        key: name of the one CryptoKey to use.
        connection: ``gcpkms://`` and the key ring, with the option endpoint; empty for the key's own.
        encoding: ``binary``, or ``base64`` as the REST API gives ciphertexts.
        retry, sdk: see ``CloudKey``.

    Raises:
        InvalidArgumentError: one of these is bad.
    """

    format: ClassVar[str] = "gcpkms"
    options: ClassVar[tuple[str, ...]] = ("key", "connection", "encoding", "allow-insecure-endpoint")

    def __init__(
        self,
        key: str,
        *,
        connection: str = "",
        encoding: str = "binary",
        retry: RetryPolicy | None = None,
        **sdk: Any,
    ) -> None:
        self._encoding = chosen("encoding", encoding, ENCODINGS)
        self._key = CloudKey(key, connection, retry or RetryPolicy(), **sdk)

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """See ``ForeignReader.from_options``."""
        found = Options(cls.format, options, cls.options)
        return cls(
            found.required("key", "projects/P/locations/L/keyRings/R/cryptoKeys/K"),
            connection=found.get("connection", ""),
            encoding=found.among("encoding", ENCODINGS, "binary"),
            **found.insecure(),
        )

    @property
    def distinctive(self) -> bool:
        """False."""
        return False

    @property
    def sender_authenticated(self) -> bool:
        """True."""
        return True

    def recognises(self, start: bytes) -> bool:
        """Whether there is anything at all."""
        return bool(start)

    def keys(self, start: bytes) -> tuple[str, ...]:
        """None: a ciphertext does not say in public which key it is of."""
        return ()

    def opening(
        self, source: Source, context: Mapping[str, str], aad: bytes = b""
    ) -> AbstractContextManager[Source]:
        """See ``ForeignReader.opening``; up to 64 KiB."""
        return plaintext(self._key.decrypt(blob(source, MAX_BLOB, self._encoding), aad))

    def close(self) -> None:
        """Close the connections."""
        self._key.close()
