"""Keyring: encrypts for all of its keys, decrypts through any of them and through no other."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from anykms.algorithms import KeyPurpose
from anykms.audit import AuditTrail, audited
from anykms.client import DataKeyWrapper, Key
from anykms.envelope.message import (
    MAX_AAD,
    MAX_GENERATION,
    MAX_RECIPIENTS_READ,
    MAX_RECIPIENTS_WRITTEN,
    DataKey,
    Message,
    Record,
    UnverifiedHeader,
)
from anykms.envelope.stream import MessageFile, MessageReader, MessageWriter, Sink, Source, read_head
from anykms.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    KeyNotAllowedError,
    KeyNotFoundError,
    KeyStateError,
    KeyUsageError,
    KMSError,
    PermissionDeniedError,
    QuotaExceededError,
    StaleMessageError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
)
from anykms.keys import KeyInfo, KeyURI
from anykms.payload import BytesLike, buffer, octets
from anykms.policy import Policy
from anykms.provider import DATA_KEY_SIZE
from anykms.wrapping import WrappedKey, unwrap_data_key, wrap_data_key

_TRY_NEXT: Final = (
    UnavailableError,
    ThrottledError,
    DeadlineExceededError,
    PermissionDeniedError,
    UnauthenticatedError,
    QuotaExceededError,
    KeyStateError,
    KeyNotFoundError,
)
"""This recipient cannot be used now; another one may. Anything else ends the operation."""


@dataclass(frozen=True, slots=True)
class Decrypted:
    """A plaintext and what is known of its message, all of it authenticated.

    Attributes:
        plaintext: not shown in the repr.
        key: the key that opened it.
        key_uri: the same with the version used, where the provider tells.
        generation: how often the recipients were replaced.
        sender_authenticated: whether someone with the right to encrypt under ``key`` made it.
        record_id: 16 bytes, the same for all messages of one data key.
        created: when the data key was made, UTC seconds.
    """

    plaintext: bytes = field(repr=False)
    key: KeyInfo
    key_uri: KeyURI
    generation: int
    sender_authenticated: bool
    record_id: bytes
    created: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A header whose tag has been checked: the data key, and the key that it came through."""

    data_key: DataKey = field(repr=False)
    key: KeyInfo
    key_uri: KeyURI
    sender_authenticated: bool


class Keyring:
    """The keys an application encrypts for and decrypts with.

    Args:
        keys: 1 to 32 ENCRYPT_DECRYPT keys, of one or several providers; the first is the primary one. All are
            recipients of what ``encrypt`` makes (8 at most then), and no other key is ever used to decrypt.
        policy: what may be opened; the default demands an authenticated sender.
        clock: UTC seconds, for the date of a data key and its age.

    Raises:
        TypeError: not keys.
        InvalidArgumentError: none, too many, or one twice.
        KeyUsageError: a key of another purpose.
        PolicyError: a key of a provider that the policy does not allow.

    >>> import anykms, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> client = anykms.connect(f"local://{folder}/keys.db", create=True)
    >>> info = client.generate_key(anykms.KeyConf("orders", anykms.KeyPurpose.ENCRYPT_DECRYPT))
    >>> ring = Keyring([client.key(info)])
    >>> message = ring.encrypt(b"4111 1111 1111 1111", context={"tenant": "42"}, aad=b"orders/17")
    >>> ring.decrypt(message, context={"tenant": "42"}, aad=b"orders/17")
    b'4111 1111 1111 1111'
    """

    def __init__(
        self, keys: Sequence[Key], *, policy: Policy | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        if not 1 <= len(keys) <= MAX_RECIPIENTS_READ:
            raise InvalidArgumentError(f"a keyring holds 1 to {MAX_RECIPIENTS_READ} keys, not {len(keys)}")
        self._policy = policy or Policy()
        self._clock = clock
        self._wrappers: dict[KeyURI, DataKeyWrapper] = {}
        for key in keys:
            if not isinstance(key, Key):
                raise TypeError(
                    f"a keyring takes Key objects from client.key(info), not {type(key).__name__}"
                )
            if key.info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
                raise KeyUsageError(
                    f"key {key.info.name} is for {key.info.purpose}; a keyring needs ENCRYPT_DECRYPT"
                )
            self._policy.check_provider(key.info.provider)
            self._wrappers[key.info.uri.without_version()] = DataKeyWrapper.of(key)
        if len(self._wrappers) != len(keys):
            raise InvalidArgumentError("a key is in the keyring twice")
        trails = (trail for wrapper in self._wrappers.values() for trail in wrapper.trails)
        self._trails: tuple[AuditTrail, ...] = tuple(dict.fromkeys(trails))

    @property
    def keys(self) -> tuple[KeyInfo, ...]:
        """The keys, the primary one first."""
        return tuple(wrapper.info for wrapper in self._wrappers.values())

    @audited
    def encrypt(
        self,
        plaintext: BytesLike,
        *,
        context: Mapping[str, str],
        aad: BytesLike = b"",
        required: Collection[str] = (),
    ) -> bytes:
        """One message for every key of the ring, under a fresh data key.

        Args:
            plaintext: any size that fits in memory, empty too.
            context: visible pairs that the reader must present again; ``{}`` for none. They are stored in the
                message and appear in the KMS's audit log.
            aad: at most 64 KiB, bound to the body, never stored; name the object here.
            required: names in ``context`` whose values are not stored, so that the reader must know them.

        Returns:
            The plaintext's size plus about 250 bytes for one local key and 16 per full 16 KiB.

        Raises:
            TypeError, InvalidArgumentError: bad input, before any key is used.
            KMSError: a key of the ring cannot wrap now; nothing is returned then.
        """
        data, bound = buffer(plaintext, "plaintext"), checked_aad(aad)
        header, data_key = self.new_data_key(context, required)
        return b"".join((header, *data_key.encrypt(data, bound)))

    def new_data_key(
        self, context: Mapping[str, str], required: Collection[str] = ()
    ) -> tuple[bytes, DataKey]:
        """A fresh data key, wrapped under every key of the ring, and the header that says so."""
        if isinstance(required, (str, bytes)):
            raise TypeError("required is a collection of context names, not one str")
        if len(self._wrappers) > MAX_RECIPIENTS_WRITTEN:
            raise InvalidArgumentError(
                f"a message has at most {MAX_RECIPIENTS_WRITTEN} recipients, the ring has {len(self._wrappers)} keys"
            )
        record = Record.new(context, required, int(self._clock()))
        secret = os.urandom(DATA_KEY_SIZE)
        bind = record.bind(0)
        recipients = [
            wrap_data_key(wrapper, secret, bind=bind, pairs=record.context, origin=0)
            for wrapper in self._wrappers.values()
        ]
        data_key = DataKey(record, secret)
        return data_key.header(recipients, generation=0), data_key

    @audited
    def decrypt(
        self, message: BytesLike, *, context: Mapping[str, str], aad: BytesLike = b"", min_generation: int = 0
    ) -> bytes:
        """The plaintext of a message made for a key of this ring.

        Args:
            message: what ``encrypt`` made, whole.
            context, aad: those it was made with.
            min_generation: oldest generation of recipients to accept, from outside the message.

        Raises:
            InvalidCiphertextError: altered, truncated, or made under another key or aad, in one text.
            UnsupportedVersionError: a later format.
            KeyNotAllowedError: for other keys; no provider was called.
            ContextMismatchError: made under another context; no provider was called.
            PolicyError: forbidden by the policy; no provider was called.
            StaleMessageError: an older generation than demanded.
            KMSError: no key of the ring can be used now.
        """
        return self.decrypt_detailed(
            message, context=context, aad=aad, min_generation=min_generation
        ).plaintext

    @audited
    def decrypt_detailed(
        self, message: BytesLike, *, context: Mapping[str, str], aad: BytesLike = b"", min_generation: int = 0
    ) -> Decrypted:
        """``decrypt``, and which key opened the message, its generation and whether its sender is authenticated."""
        data, bound = buffer(message, "message"), checked_aad(aad)
        _check_generation(min_generation)
        parsed = Message(data)
        opened = self.open_header(parsed, context, min_generation)
        return Decrypted(
            plaintext=opened.data_key.decrypt(parsed.body, bound),
            key=opened.key,
            key_uri=opened.key_uri,
            generation=parsed.generation,
            sender_authenticated=opened.sender_authenticated,
            record_id=parsed.immutable.record_id,
            created=parsed.immutable.created,
        )

    @audited
    def encrypt_stream(
        self,
        sink: Sink,
        *,
        context: Mapping[str, str],
        aad: BytesLike = b"",
        required: Collection[str] = (),
    ) -> MessageWriter:
        """A binary file: what is written to it goes to ``sink`` as one message, in constant memory.

        Args:
            sink: a binary file opened for writing; it stays open.
            context, aad, required: see ``encrypt``.

        >>> import anykms, io, tempfile
        >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
        >>> info = client.generate_key(anykms.KeyConf("orders", anykms.KeyPurpose.ENCRYPT_DECRYPT))
        >>> ring, sink = Keyring([client.key(info)]), io.BytesIO()
        >>> with ring.encrypt_stream(sink, context={}) as writer:
        ...     size = writer.write(b"one"), writer.write(b"two")
        >>> with ring.decrypt_stream(io.BytesIO(sink.getvalue()), context={}) as reader:
        ...     reader.read()
        b'onetwo'

        Raises:
            TypeError, InvalidArgumentError: bad input, before any key is used.
            KMSError: a key of the ring cannot wrap now.
            OSError: from the sink, later.
        """
        bound = checked_aad(aad)
        header, data_key = self.new_data_key(context, required)
        return MessageWriter(sink, header, data_key, bound)

    @audited
    def decrypt_stream(
        self, source: Source, *, context: Mapping[str, str], aad: BytesLike = b"", min_generation: int = 0
    ) -> MessageReader:
        """A binary file that gives the plaintext of the message in ``source``, authenticated chunk by chunk.

        Args:
            source: a binary file opened for reading that stands at the message's first byte; it stays open.
            context, aad, min_generation: see ``decrypt``.

        Raises:
            KMSError: as ``decrypt``, as far as the header tells; the rest comes from reading.
            OSError: from the source.
        """
        bound = checked_aad(aad)
        _check_generation(min_generation)
        opened = self.open_header(read_head(source), context, min_generation)
        return MessageReader(source, opened.data_key, bound)

    @audited
    def open(
        self,
        file: str | os.PathLike[str] | io.BufferedIOBase | io.RawIOBase,
        *,
        context: Mapping[str, str],
        aad: BytesLike = b"",
        min_generation: int = 0,
    ) -> MessageFile:
        """A seekable file inside an encrypted one: zipfile, pandas or pyarrow can read in it.

        Args:
            file: a path, or a seekable binary file whose first byte is the message's; it is closed with the result.
            context, aad, min_generation: see ``decrypt``.

        Raises:
            TruncatedMessageError: the end of the message is missing or altered.
            KMSError: as ``decrypt``.
            OSError: the file cannot be read.
        """
        bound = checked_aad(aad)
        _check_generation(min_generation)
        source = io.FileIO(file) if isinstance(file, (str, os.PathLike)) else file
        try:
            source.seek(0)
            opened = self.open_header(read_head(source), context, min_generation)
            return MessageFile(source, opened.data_key, bound, source.tell())
        except BaseException:
            source.close()
            raise

    def open_header(self, message: Message, context: Mapping[str, str], min_generation: int = 0) -> Opened:
        """Everything up to the body: policy, match, context, sender, unwrap, HeaderTag, in this order."""
        claims = message.immutable
        self._policy.check_message(
            suite=claims.suite,
            created=claims.created,
            recipients=len(message.wrapped_keys),
            now=self._clock(),
        )
        recipients = self._matched(message)
        record = message.record(context)
        allowed = self._authenticated_first(recipients)
        if message.generation < min_generation:
            raise StaleMessageError(f"generation {message.generation}; at least {min_generation} is demanded")
        uri, wrapped, secret = self._unwrap(allowed, record)
        data_key = DataKey(record, secret)
        data_key.check_tag(message.prefix, message.tag)
        return Opened(data_key, self._wrappers[uri].info, wrapped.key_uri(), wrapped.sender_authenticated)

    def _matched(self, message: Message) -> list[tuple[KeyURI, WrappedKey]]:
        """Recipients that are keys of this ring, in the ring's order."""
        wrapped = message.wrapped_keys
        matched = [(uri, wrapped[uri]) for uri in self._wrappers if uri in wrapped]
        if not matched:
            named = ", ".join(ascii(str(uri)) for uri in wrapped)
            raise KeyNotAllowedError(f"the message is for keys that this keyring does not hold: {named}")
        return matched

    def _authenticated_first(
        self, recipients: list[tuple[KeyURI, WrappedKey]]
    ) -> list[tuple[KeyURI, WrappedKey]]:
        authenticated = [pair for pair in recipients if pair[1].sender_authenticated]
        if not authenticated:
            self._policy.check_sender(False)
        if self._policy.require_sender_authentication:
            return authenticated
        return authenticated + [pair for pair in recipients if not pair[1].sender_authenticated]

    def _unwrap(
        self, recipients: list[tuple[KeyURI, WrappedKey]], record: Record
    ) -> tuple[KeyURI, WrappedKey, bytes]:
        failures: list[KMSError] = []
        deadline = self._wrappers[recipients[0][0]].start_deadline()
        for uri, wrapped in recipients:
            wrapper = self._wrappers[uri].until(deadline)
            bind = record.bind(wrapped.origin)
            try:
                return uri, wrapped, unwrap_data_key(wrapper, wrapped, bind=bind, pairs=record.context)
            except _TRY_NEXT as error:
                failures.append(error)
        first, *others = failures
        for other in others:
            first.add_note(f"then {other.key}: {type(other).__name__}: {other}")
        if others:
            raise first from ExceptionGroup("no recipient could be used", others)
        raise first


def inspect(message: BytesLike) -> UnverifiedHeader:
    """What a message claims of itself, without a key. Nothing of it is verified.

    Raises:
        TypeError: not bytes-like.
        InvalidCiphertextError, UnsupportedVersionError: not a message that this release reads.
    """
    return Message(buffer(message, "message")).header


def checked_aad(aad: BytesLike) -> bytes:
    """``aad`` as bytes, of at most 64 KiB."""
    bound = octets(aad, "aad")
    if len(bound) > MAX_AAD:
        raise InvalidArgumentError(f"aad takes {len(bound)} bytes; at most {MAX_AAD} are allowed")
    return bound


def _check_generation(value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"min_generation is an int, not {type(value).__name__}")
    if not 0 <= value <= MAX_GENERATION:
        raise InvalidArgumentError(f"min_generation is {value}; use 0 to {MAX_GENERATION}")
