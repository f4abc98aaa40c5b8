"""Tink AEAD ciphertexts, by its own library: under a KMS envelope, or under a keyset."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, Protocol, Self

import tink as untyped_tink  # pyright: ignore[reportMissingTypeStubs] # the library has no types
from tink import aead as untyped_aead  # pyright: ignore[reportMissingTypeStubs] # as above
from tink import secret_key_access as untyped_access  # pyright: ignore[reportMissingTypeStubs] # as above

from anykms.envelope.stream import Source
from anykms.errors import InvalidArgumentError
from anykms.keys import KeyURI
from anykms.retrying import RetryPolicy
from anykms_readers.entries import (
    MAX_BYTES,
    Options,
    chosen,
    plaintext,
    read_secret_file,
    rejected,
    whole,
)

_tink: Any = untyped_tink
_aead: Any = untyped_aead
_access: Any = untyped_access
_aead.register()

DEKS: Final = (
    "AES128_GCM",
    "AES256_GCM",
    "AES128_EAX",
    "AES256_EAX",
    "AES128_GCM_SIV",
    "AES256_GCM_SIV",
    "AES128_CTR_HMAC_SHA256",
    "AES256_CTR_HMAC_SHA256",
    "XCHACHA20_POLY1305",
)
PREFIXES: Final = ("raw", "tink", "crunchy")
_PREFIX_SIZE: Final = 5
_STARTS: Final = {"tink": b"\x01", "crunchy": b"\x00"}
_RAW_PREFIX: Final = 3  # OutputPrefixType (tink.proto): TINK 1, LEGACY 2, RAW 3, CRUNCHY 4
_TINK_PREFIX: Final = 1
_MAX_DEK: Final = 4096
"""Bytes of an encrypted DEK (Tink, KmsEnvelopeAead)."""


class RemoteKey(Protocol):
    """A key in a key service, as Tink's KMS clients use one."""

    @property
    def uri(self) -> KeyURI: ...
    def decrypt(self, ciphertext: bytes, aad: bytes, /) -> bytes: ...
    def close(self) -> None: ...


class _OnAWS:
    """As Tink's AWS client: associated data is the pair ``associatedData`` in hex, and nothing where it is empty."""

    def __init__(self, key: str, connection: str, retry: RetryPolicy, **sdk: Any) -> None:
        from anykms_readers.awskms import AWSKey

        self._key = AWSKey(key, connection or "awskms:///", retry, **sdk)
        self.uri = self._key.uri

    def decrypt(self, ciphertext: bytes, aad: bytes, /) -> bytes:
        return self._key.decrypt(ciphertext, {"associatedData": aad.hex()} if aad else {})

    def close(self) -> None:
        self._key.close()


class TinkReader:
    """Tink AEAD ciphertexts, each whole in one entry; associated data is the entry's aad.

    With ``key`` alone: KmsEnvelopeAead. With ``keyset``: its AEAD keys, the keyset being encrypted by ``key`` where
    that is given too.

    Args:
        key: ``aws-kms://arn:...`` or ``gcp-kms://projects/...``: the key that wraps.
        keyset: a JSON keyset file; in the clear, only its owner can read it.
        dek: Tink's name of the template of data keys; with ``key`` alone.
        prefix: the output prefix of the key that made a KMS envelope: ``raw`` where the application used
            KmsEnvelopeAead itself, or that of its keyset; then ``key_id`` is the id there.
        connection: a connection URI of the key's provider, for its options.
        max_bytes: greatest size of an entry, which is held in memory.
        retry: when to ask again.
        sdk: further arguments of the provider's ``connect``.

    Raises:
        InvalidArgumentError: one of these is bad.
        UnsupportedOperationError: the SDK of the key's provider is not installed.
        OSError: the keyset cannot be read.
    """

    format: ClassVar[str] = "tink"
    options: ClassVar[tuple[str, ...]] = (
        "key",
        "keyset",
        "dek",
        "prefix",
        "key-id",
        "connection",
        "max-bytes",
        "allow-insecure-endpoint",
    )

    def __init__(
        self,
        key: str = "",
        *,
        keyset: str = "",
        dek: str = "AES256_GCM",
        prefix: str = "raw",
        key_id: int | None = None,
        connection: str = "",
        max_bytes: int = MAX_BYTES,
        retry: RetryPolicy | None = None,
        **sdk: Any,
    ) -> None:
        if not key and not keyset:
            raise InvalidArgumentError("give key, keyset or both")
        chosen("dek", dek, DEKS)
        chosen("prefix", prefix, PREFIXES)
        if (prefix == "raw") != (key_id is None) or (keyset and prefix != "raw"):
            raise InvalidArgumentError(
                "key-id goes with the prefix tink or crunchy, and both with a KMS envelope: a keyset has its own"
            )
        if key_id is not None and not 0 < key_id < 2**32:
            raise InvalidArgumentError("key-id is a number of 32 bits")
        self._max_bytes = max_bytes
        self._envelope = not keyset
        self._remote = _remote(key, connection, retry or RetryPolicy(), **sdk) if key else None
        self._prefix = b"" if key_id is None else _STARTS[prefix] + key_id.to_bytes(4, "big")
        try:
            if keyset:
                handle = _handle(keyset, self._remote)
                self._aead = handle.primitive(_aead.Aead)
                self._starts = _starts(handle)
            else:
                template = getattr(_aead.aead_key_templates, dek)
                self._aead = _aead.KmsEnvelopeAead(template, self._remote)
                self._starts = (self._prefix,)
        except _tink.TinkError as error:
            raise InvalidArgumentError(
                f"the keyset {keyset!r} does not open, or holds other keys than Tink's own AEAD keys"
            ) from error

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """See ``ForeignReader.from_options``."""
        found = Options(cls.format, options, cls.options)
        return cls(
            found.get("key", ""),
            keyset=found.get("keyset", ""),
            dek=found.among("dek", DEKS, "AES256_GCM"),
            prefix=found.among("prefix", PREFIXES, "raw"),
            key_id=found.number("key-id", 0) if "key-id" in options else None,
            connection=found.get("connection", ""),
            max_bytes=found.number("max-bytes", MAX_BYTES),
            **found.insecure(),
        )

    @property
    def distinctive(self) -> bool:
        """Whether every key has an output prefix: five bytes with its id."""
        return all(self._starts)

    @property
    def sender_authenticated(self) -> bool:
        """True."""
        return True

    def recognises(self, start: bytes) -> bool:
        """Whether it begins with the prefix of one of the keys and, in an envelope, with a length that can be."""
        if not self._envelope:
            return bool(start) and start.startswith(self._starts)
        size = start[len(self._prefix) :][:4]
        return (
            start.startswith(self._prefix)
            and len(size) == 4
            and 1 <= int.from_bytes(size, "big") <= _MAX_DEK
            and len(start) > len(self._prefix) + 4
        )

    def keys(self, start: bytes) -> tuple[str, ...]:
        """The key that wraps; an entry does not say which one that is."""
        return () if self._remote is None or not self.recognises(start) else (str(self._remote.uri),)

    def opening(
        self, source: Source, context: Mapping[str, str], aad: bytes = b""
    ) -> AbstractContextManager[Source]:
        """See ``ForeignReader.opening``."""
        sealed = whole(source, self._max_bytes)
        if not self.recognises(sealed):
            raise rejected()
        try:
            return plaintext(self._aead.decrypt(sealed[len(self._prefix) :], aad))
        except _tink.TinkError as error:
            raise rejected() from error

    def close(self) -> None:
        """Close the connections."""
        if self._remote is not None:
            self._remote.close()


def _remote(key: str, connection: str, retry: RetryPolicy, **sdk: Any) -> RemoteKey:
    scheme = KeyURI.from_spelling(key).scheme
    if scheme == "awskms":
        return _OnAWS(key, connection, retry, **sdk)
    if scheme == "gcpkms":
        from anykms_readers.gcpkms import CloudKey

        return CloudKey(key, connection, retry, **sdk)
    raise InvalidArgumentError("the key is aws-kms://arn:aws:kms:... or gcp-kms://projects/...")


def _handle(path: str, remote: RemoteKey | None) -> Any:
    if remote is None:
        text = read_secret_file(path)
    else:
        with open(path, "rb") as file:
            text = file.read()
    try:
        if remote is None:
            return _tink.json_proto_keyset_format.parse(text.decode(), _access.TOKEN)
        return _tink.json_proto_keyset_format.parse_encrypted(text.decode(), remote, b"")
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"the keyset {path!r} is not JSON") from None


def _starts(handle: Any) -> tuple[bytes, ...]:
    """How a ciphertext of each key begins; RAW keys have no prefix."""
    starts: list[bytes] = []
    for info in handle.keyset_info().key_info:
        kind = info.output_prefix_type
        mark = b"" if kind == _RAW_PREFIX else b"\x01" if kind == _TINK_PREFIX else b"\x00"
        starts.append(mark and mark + int(info.key_id).to_bytes(4, "big"))
    return tuple(starts)
