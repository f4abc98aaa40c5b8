"""Keyring: encrypts for all of its keys, decrypts through any of them and through no other."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeAlias

from anykms.algorithms import KeyPurpose
from anykms.audit import AuditTrail, audited, note_key, observed
from anykms.client import DataKeyWrapper, Key
from anykms.context import canonicalise
from anykms.envelope.cache import MAX_AGE, DataKeyCache
from anykms.envelope.message import (
    MAX_GENERATION,
    MAX_RECIPIENTS_READ,
    MAX_RECIPIENTS_WRITTEN,
    SHORTEST_BODY,
    SMALL,
    Binding,
    BodyKey,
    DataKey,
    HeaderFacts,
    Message,
    UnverifiedHeader,
    body_size,
    checked_aad,
    claimed_head_size,
)
from anykms.envelope.record import KeptBytes, Pin, Record, checked_generation, checked_record_id, parse_record
from anykms.envelope.rewrap import Reencrypted, Rewrapped, replace_file
from anykms.envelope.stream import (
    MessageFile,
    MessageReader,
    MessageWriter,
    Sink,
    Source,
    copy_rest,
    read_head,
    write_all,
)
from anykms.errors import (
    DeadlineExceededError,
    IntegrityError,
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
from anykms.provider import DATA_KEY_SIZE, Operation
from anykms.wrapping import RSA_WITH_SENDER, WrappedKey, unwrap_data_key, wrap_algorithm

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
_Match: TypeAlias = tuple[KeyURI, WrappedKey]


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


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A header whose tag has been checked, and the key of its bodies."""

    slot: bytes
    body_key: BodyKey = field(repr=False)
    facts: HeaderFacts


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A header under a data key made here, and the key of its bodies."""

    slot: bytes
    header: bytes
    body_key: BodyKey = field(repr=False)


class Keyring:
    """The keys an application encrypts for and decrypts with.

    Args:
        keys: 1 to 32 ENCRYPT_DECRYPT keys, of one or several providers; the first is the primary one. All are
            recipients of what ``encrypt`` makes (8 at most then).
        decrypt_only: further keys that messages may have been made for, and that no new one is made for. No key but
            these and ``keys`` is ever used to decrypt.
        policy: what may be opened; the default demands an authenticated sender.
        cache: keeps data keys for ``encrypt``, ``decrypt`` and ``decrypt_detailed``; streams and files always ask
            their keys. None keeps nothing.
        clock: UTC seconds, for the date of a data key and its age.

    Raises:
        TypeError: not keys.
        InvalidArgumentError: none, too many, or one twice.
        KeyUsageError: a key of another purpose.
        PolicyError: a key or a cache that the policy does not allow.

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
        self,
        keys: Sequence[Key],
        *,
        decrypt_only: Sequence[Key] = (),
        policy: Policy | None = None,
        cache: DataKeyCache | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        held = [*keys, *decrypt_only]
        if not 1 <= len(held) <= MAX_RECIPIENTS_READ:
            raise InvalidArgumentError(f"a keyring holds 1 to {MAX_RECIPIENTS_READ} keys, not {len(held)}")
        self._policy = policy or Policy()
        self._clock = clock
        self._wrappers: dict[KeyURI, DataKeyWrapper] = {}
        for key in held:
            if not isinstance(key, Key):
                raise TypeError(
                    f"a keyring takes Key objects from client.key(info), not {type(key).__name__}"
                )
            if key.info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
                raise KeyUsageError(
                    f"key {key.info.name} is for {key.info.purpose}; a keyring needs ENCRYPT_DECRYPT"
                )
            wrapper = DataKeyWrapper.of(key)
            self._check_key(key.info, wrapper.trails)
            self._wrappers[key.info.uri.without_version()] = wrapper
        if len(self._wrappers) != len(held):
            raise InvalidArgumentError("a key is in the keyring twice")
        self._recipients = dict(list(self._wrappers.items())[: len(keys)])
        self._guards = tuple(key.allow for key in held[: len(keys)])
        if cache is not None:
            self._policy.check_cache(seconds=cache.max_age, messages=cache.max_messages)
        trails = (trail for wrapper in self._wrappers.values() for trail in wrapper.trails)
        self._trails: tuple[AuditTrail, ...] = tuple(dict.fromkeys(trails))
        self._cache = cache
        self._state_ttl = min(wrapper.state_ttl for wrapper in self._wrappers.values())
        identity = b"" if cache is None else self._identity()
        self._encrypt_slots = b"anykms encrypt" + identity
        self._decrypt_slots = b"anykms decrypt" + identity
        # What came last, and its slot: messages of one data key come in rows.
        self._last_written: tuple[dict[str, str], bytes] = {}, b""
        self._last_opener = held[0].info, held[0].allow
        self._last_read: tuple[dict[str, str], bytes, bytes] = {}, b"", b""

    def _check_key(self, info: KeyInfo, trails: tuple[AuditTrail, ...]) -> None:
        """Raises PolicyError unless the policy allows the key; its client's audit trail hears of that."""

        def check() -> None:
            note_key(str(info.uri))
            self._policy.check_key(info)

        observed(trails, "Keyring", check, only_refusals=True)

    def _identity(self) -> bytes:
        """What must be equal for two rings to share a data key: policy, connections, key URIs and facts."""
        digest = hashlib.sha256(self._policy.digest() + len(self._recipients).to_bytes(1))
        for wrapper in self._wrappers.values():
            facts = wrapper.info.to_json()
            digest.update(b"".join((wrapper.session_id, len(facts).to_bytes(4), facts)))
        return digest.digest()

    @property
    def keys(self) -> tuple[KeyInfo, ...]:
        """The keys, the primary one first."""
        return tuple(wrapper.info for wrapper in self._wrappers.values())

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
        # What @audited does, for two methods where its half microsecond would show.
        if self._trails:
            return observed(
                self._trails,
                "Keyring.encrypt",
                lambda: self._encrypt(plaintext, context, aad, required),
                context,
            )
        return self._encrypt(plaintext, context, aad, required)

    def _encrypt(
        self,
        plaintext: BytesLike,
        context: Mapping[str, str],
        aad: BytesLike,
        required: Collection[str],
    ) -> bytes:
        data = plaintext if type(plaintext) is bytes else buffer(plaintext, "plaintext")
        bound = checked_aad(aad)
        prepared = self._prepared(context, required, len(data))
        return prepared.body_key.encrypt(data, bound, start=prepared.header)

    @audited
    def encrypt_into(
        self,
        plaintext: BytesLike,
        target: bytearray | memoryview,
        *,
        context: Mapping[str, str],
        aad: BytesLike = b"",
        required: Collection[str] = (),
    ) -> int:
        """``encrypt`` into memory that the caller has: large messages in a row cost no new memory.

        Args:
            plaintext, context, aad, required: see ``encrypt``.
            target: writable, of at least the message's size, and no part of ``plaintext``.

        Returns:
            The message's size; it is at the beginning of ``target``, and the rest is left as it was.

        Raises:
            TypeError, InvalidArgumentError: bad input; a target that is too small, with the size that it needs.
            KMSError: a key of the ring cannot wrap now; the target is left as it was then.

        >>> import anykms, tempfile
        >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
        >>> info = client.generate_key(anykms.KeyConf("orders", anykms.KeyPurpose.ENCRYPT_DECRYPT))
        >>> ring, target = Keyring([client.key(info)]), bytearray(1000)
        >>> size = ring.encrypt_into(b"paid", target, context={})
        >>> ring.decrypt(target[:size], context={})
        b'paid'
        """
        data, room, bound = buffer(plaintext, "plaintext"), _writable(target), checked_aad(aad)
        if len(data) + SHORTEST_BODY > len(room):
            raise InvalidArgumentError(
                f"the target has {len(room)} bytes; the message takes more than {len(data) + SHORTEST_BODY}"
            )
        prepared = self._prepared(context, required, len(data))
        size = len(prepared.header) + body_size(len(data))
        if size > len(room):
            raise InvalidArgumentError(f"the target has {len(room)} bytes; the message takes {size}")
        prepared.body_key.encrypt_into(data, bound, room[:size], start=prepared.header)
        return size

    def _prepared(self, context: Mapping[str, str], required: Collection[str], size: int) -> Prepared:
        """A header and body key to encrypt ``size`` bytes with: new ones, or kept ones that were made here."""
        cache = self._cache
        if cache is None:
            return self.prepare(context, required)
        self.allow_writing()
        if isinstance(required, (str, bytes)):
            raise TypeError("required is a collection of context names, not one str")
        known, slot = self._last_written
        if required or not slot or context.__class__ is not dict or context != known:
            pairs, ctx = canonicalise(context)
            names = repr(sorted(set(required))).encode("utf-8", "surrogatepass") if required else b""
            slot = hashlib.sha256(b"".join((self._encrypt_slots, len(ctx).to_bytes(4), ctx, names))).digest()
            if not required:
                self._last_written = dict(pairs), slot
        found = cache.get(slot, size)
        if found is None:
            oldest = self._policy.max_age
            found = cache.fetch(
                slot,
                size,
                partial(self.prepare, context, required, slot),
                calls=self._wrap_calls(),
                lifetime=MAX_AGE if oldest is None else oldest.total_seconds(),
            )
        if not isinstance(found, Prepared) or found.slot != slot:
            raise _misplaced()
        return found

    def allow_writing(self) -> None:
        """Raises what ``Key.allow`` raises for any key that new messages are made for."""
        for allow in self._guards:
            allow(Operation.WRAP)

    def _wrap_calls(self) -> int:
        algorithms = [wrap_algorithm(wrapper.info) for wrapper in self._recipients.values()]
        return len(algorithms) + algorithms.count(RSA_WITH_SENDER)

    def prepare(
        self,
        context: Mapping[str, str],
        required: Collection[str] = (),
        slot: bytes = b"",
        *,
        origin: int = 0,
    ) -> Prepared:
        """A fresh data key, wrapped under every key of the ring, and the header that says so."""
        if isinstance(required, (str, bytes)):
            raise TypeError("required is a collection of context names, not one str")
        wrappers = self.wrappers()
        binding = Binding.new(context, required, int(self._clock()))
        self._policy.check_context(binding.context)
        data_key = DataKey(binding, os.urandom(DATA_KEY_SIZE))
        header = data_key.wrapped_for(wrappers, origin=origin, generation=0)
        return Prepared(slot, header, data_key.body_key())

    def wrappers(self) -> Collection[DataKeyWrapper]:
        """The keys as recipients of something to write.

        Raises:
            InvalidArgumentError: none, or more than a message may have.
            PolicyError: fewer or more than the policy allows.
        """
        count = len(self._recipients)
        if not 1 <= count <= MAX_RECIPIENTS_WRITTEN:
            raise InvalidArgumentError(
                f"a message has 1 to {MAX_RECIPIENTS_WRITTEN} recipients, the ring has {count} keys to encrypt for"
            )
        self._policy.check_recipients(count)
        return self._recipients.values()

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
        if self._trails:
            return observed(
                self._trails,
                "Keyring.decrypt",
                lambda: self._decrypt(message, context, aad, min_generation)[1],
                context,
            )
        return self._decrypt(message, context, aad, min_generation)[1]

    @audited
    def decrypt_detailed(
        self, message: BytesLike, *, context: Mapping[str, str], aad: BytesLike = b"", min_generation: int = 0
    ) -> Decrypted:
        """``decrypt``, and which key opened the message, its generation and whether its sender is authenticated."""
        opened, plaintext = self._decrypt(message, context, aad, min_generation)
        facts = opened.facts
        return Decrypted(
            plaintext=plaintext,
            key=facts.key,
            key_uri=facts.key_uri,
            generation=facts.generation,
            sender_authenticated=facts.sender_authenticated,
            record_id=facts.record_id,
            created=facts.created,
        )

    def _decrypt(
        self, message: BytesLike, context: Mapping[str, str], aad: BytesLike, min_generation: int
    ) -> tuple[Opened, bytes]:
        data = message if type(message) is bytes else buffer(message, "message")
        bound = checked_aad(aad)
        if min_generation.__class__ is not int or min_generation:
            checked_generation(min_generation)
        if self._cache is None:
            parsed = Message(data)
            opened = self.open_header(parsed, context, min_generation)
            return opened, opened.body_key.decrypt(parsed.body, bound)
        # What is remembered was proven byte for byte, and is judged by the policy again.
        known, known_head, slot = self._last_read
        head: bytes | memoryview = known_head
        pairs: Mapping[str, str] = known
        if (
            not slot
            or context.__class__ is not dict
            or context != known
            or data[: len(known_head)] != known_head
        ):
            pairs, ctx = canonicalise(context)
            head = data[: claimed_head_size(data)]
            slot = hashlib.sha256(b"".join((self._decrypt_slots, len(ctx).to_bytes(4), ctx, head))).digest()
        size = len(data) - len(head)
        found = self._cache.get(slot, size)
        if found is None:
            found = self._opened(self._cache, slot, size, Message(data), context, min_generation)
        if not isinstance(found, Opened) or found.slot != slot:
            raise _misplaced()
        if head is not known_head:
            # A whole head only, now that it is proven: the next message may be longer than this one claimed.
            self._last_read = dict(pairs), bytes(head), slot
        self.check_again(found.facts, min_generation)
        # A copy of a small body costs less than a view of it.
        body = data[len(head) :] if size < SMALL else memoryview(data)[len(head) :]
        return found, found.body_key.decrypt(body, bound)

    def _opened(
        self,
        cache: DataKeyCache,
        slot: bytes,
        size: int,
        message: Message,
        context: Mapping[str, str],
        min_generation: int,
    ) -> Opened:
        """The header, opened once for all threads that wait for the same one; each has been admitted by itself."""
        binding, allowed = self._admit(message, context, min_generation)
        return cache.fetch(
            slot,
            size,
            lambda: self._open(message, binding, allowed, slot),
            calls=1,
            lifetime=self._state_ttl,
        )

    def check_again(self, facts: HeaderFacts, min_generation: int) -> None:
        """Every rule that a header opened before may break by now, or under this policy and these keys' guards.

        Raises:
            PolicyError, StaleMessageError: it does.
        """
        opener, allow = self._last_opener
        if facts.key is not opener:
            allow = self._wrappers[facts.key.uri.without_version()].allow
            self._last_opener = facts.key, allow
        allow(Operation.UNWRAP)
        self._policy.check_message(
            suite=facts.suite, created=facts.created, recipients=facts.recipients, now=self._clock()
        )
        if not facts.sender_authenticated:
            self._policy.check_sender(False)
        if facts.generation < min_generation:
            raise _stale(facts.generation, min_generation)

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
        prepared = self.prepare(context, required)
        return MessageWriter(sink, prepared.header, prepared.body_key, bound)

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
        checked_generation(min_generation)
        opened = self.open_header(read_head(source), context, min_generation)
        return MessageReader(source, opened.body_key, bound, opened.facts)

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
        checked_generation(min_generation)
        source = io.FileIO(file) if isinstance(file, (str, os.PathLike)) else file
        try:
            source.seek(0)
            opened = self.open_header(read_head(source), context, min_generation)
            return MessageFile(source, opened.body_key, bound, source.tell(), opened.facts)
        except BaseException:
            source.close()
            raise

    @property
    def state_ttl(self) -> float:
        """Seconds that an opened data key may be used: the shortest ``state_ttl`` of the keys' clients."""
        return self._state_ttl

    @audited
    def record(self, *, context: Mapping[str, str], required: Collection[str] = ()) -> Record:
        """A new record: one data key for many small values, each 89 bytes over its plaintext.

        Store ``record.to_bytes()``, and keep ``record.record_id`` where the store's owner cannot change it.
        ``StoredRecords`` does so with a ``RecordStore``.

        Args:
            context, required: see ``encrypt``.

        Raises:
            TypeError, InvalidArgumentError: bad input, before any key is used.
            PolicyError: no key of the ring proves a sender, so the record could not be opened again.
            KMSError: a key of the ring cannot wrap now.
        """
        stored, opened = self.new_record(context, required)
        pin = Pin(opened.facts.record_id, by_application=True, made_here=True)
        return Record(self, pin, KeptBytes(stored), context, DataKeyCache()).start(opened)

    def new_record(self, context: Mapping[str, str], required: Collection[str]) -> tuple[bytes, Opened]:
        """A record to store, and the same as ``open_header`` would give it. Raises as ``record``."""
        provable = any(wrapper.info.sender_authenticated for wrapper in self._recipients.values())
        self._policy.check_sender(provable)
        prepared = self.prepare(context, required)
        claims = Message(prepared.header).immutable
        primary = self.keys[0]
        facts = HeaderFacts(
            key=primary,
            key_uri=primary.uri,
            generation=0,
            sender_authenticated=provable,
            record_id=claims.record_id,
            created=claims.created,
            suite=claims.suite,
            recipients=len(self._recipients),
        )
        return prepared.header, Opened(b"", prepared.body_key, facts)

    @audited
    def open_record(
        self,
        record: BytesLike,
        *,
        context: Mapping[str, str],
        record_id: BytesLike | None = None,
        min_generation: int = 0,
    ) -> Record:
        """A record that was stored: for opening, and under these conditions for sealing.

        It seals only where ``record_id`` is given, its data key came through a sender-authenticated recipient, its
        generation is not below ``min_generation``, and its age is within the policy. Otherwise whoever can write the
        store could plant a record whose data key they know.

        Args:
            record: what ``Record.to_bytes`` gave.
            context: the one it was made with, whole.
            record_id: the id that the application knows from elsewhere than the store, 16 bytes.
            min_generation: oldest generation of recipients to accept, from outside the record.

        Raises:
            InvalidCiphertextError: not authentic, or of another id.
            KMSError: as ``decrypt``.
        """
        stored = octets(record, "record")
        found = parse_record(stored).immutable.record_id
        pin = Pin(
            found if record_id is None else checked_record_id(record_id), by_application=record_id is not None
        )
        source = KeptBytes(stored, checked_generation(min_generation))
        return Record(self, pin, source, context, DataKeyCache()).start()

    @audited
    def rewrap(
        self,
        message: BytesLike,
        *,
        to: Keyring | Sequence[Key],
        context: Mapping[str, str] | None = None,
        min_generation: int = 0,
    ) -> Rewrapped:
        """The same message for other recipients: a new header, the same data key and body. Nothing is decrypted.

        Args:
            message: a whole message, or a stored record.
            to: all recipients of the result, 1 to 8.
            context: pairs to add to those stored in the header, so the required ones; None for none.
            min_generation: oldest generation of recipients to accept, from outside the message.

        Raises:
            InvalidArgumentError: the generation is at its end, 2^32 - 1; reencrypt the message.
            ContextMismatchError: required values are missing, or a pair is not the message's.
            KMSError: as ``decrypt`` as far as the header, or a new recipient cannot wrap now.

        >>> import anykms, tempfile
        >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
        >>> old, new = (
        ...     Keyring([client.key(client.generate_key(anykms.KeyConf(name, "ENCRYPT_DECRYPT")))])
        ...     for name in ("old", "new")
        ... )
        >>> result = old.rewrap(old.encrypt(b"paid", context={"tenant": "42"}), to=new)
        >>> result.operation, result.generation
        ('rewrap', 1)
        >>> new.decrypt(result.message, context={"tenant": "42"}, min_generation=1)
        b'paid'
        """
        parsed = Message(buffer(message, "message"))
        return self._rewrapped(
            parsed, to, context, min_generation, lambda head: b"".join((head, parsed.body))
        )

    @audited
    def rewrap_stream(
        self,
        source: Source,
        sink: Sink,
        *,
        to: Keyring | Sequence[Key],
        context: Mapping[str, str] | None = None,
        min_generation: int = 0,
    ) -> Rewrapped:
        """``rewrap`` of a message of any size, from one binary file to another. The body is copied as it is.

        Raises:
            KMSError: as ``rewrap``.
            OSError: from the files.
        """

        def copied(head: bytes) -> bytes:
            write_all(sink, memoryview(head))
            copy_rest(source, sink)
            return b""

        return self._rewrapped(read_head(source), to, context, min_generation, copied)

    @audited
    def rewrap_file(
        self,
        path: str | os.PathLike[str],
        *,
        to: Keyring | Sequence[Key],
        context: Mapping[str, str] | None = None,
        min_generation: int = 0,
    ) -> Rewrapped:
        """``rewrap`` of a file in place: at once or not at all, by way of a new file beside it.

        Raises:
            ConflictError: the file was changed meanwhile.
            KMSError: as ``rewrap``.
            OSError: from the files.
        """
        return replace_file(
            path,
            lambda source, sink: self.rewrap_stream(
                source, sink, to=to, context=context, min_generation=min_generation
            ),
        )

    def _rewrapped(
        self,
        message: Message,
        to: Keyring | Sequence[Key],
        context: Mapping[str, str] | None,
        min_generation: int,
        finish: Callable[[bytes], bytes],
    ) -> Rewrapped:
        checked_generation(min_generation)
        target = self._target(to)
        wrappers = target.wrappers()
        if message.generation == MAX_GENERATION:
            raise InvalidArgumentError(f"the generation is {MAX_GENERATION}, its last: reencrypt the message")
        # No plaintext is released, so the header may be asked what the context was; a lie fails its tag.
        pairs = dict(message.immutable.context)
        if context is not None:
            pairs.update(canonicalise(context)[0])
        binding, allowed = self._admit(message, pairs, min_generation)
        data_key, uri, wrapped = self._prove(message, binding, allowed)
        authenticated = wrapped.sender_authenticated
        generation = message.generation + 1
        head = data_key.wrapped_for(wrappers, origin=0 if authenticated else 1, generation=generation)
        return Rewrapped(
            message=finish(head),
            record_id=message.immutable.record_id,
            generation=generation,
            recipients=tuple(target._recipients),
            removed=tuple([old for old in message.wrapped_keys if old not in target._recipients]),
            opened_by=uri,
            sender_authenticated=authenticated,
        )

    def _target(self, to: Keyring | Sequence[Key]) -> Keyring:
        return to if isinstance(to, Keyring) else Keyring(to, policy=self._policy, clock=self._clock)

    @audited
    def reencrypt(
        self,
        message: BytesLike,
        *,
        to: Keyring | Sequence[Key],
        context: Mapping[str, str],
        aad: BytesLike = b"",
        min_generation: int = 0,
    ) -> Reencrypted:
        """The same plaintext, context and aad in a new message, under a new data key that no cache holds.

        Args:
            message: a whole message.
            to: all recipients of the result, 1 to 8.
            context, aad, min_generation: see ``decrypt``.

        Raises:
            KMSError: as ``decrypt``, or a new recipient cannot wrap now.
        """
        parsed = Message(buffer(message, "message"))
        bound = checked_aad(aad)
        checked_generation(min_generation)
        target = self._target(to)
        opened = self.open_header(parsed, context, min_generation)
        plaintext = opened.body_key.decrypt(parsed.body, bound)
        prepared, found = self._renewed(parsed, opened, target, context)
        return replace(found, message=prepared.body_key.encrypt(plaintext, bound, start=prepared.header))

    @audited
    def reencrypt_stream(
        self,
        source: Source,
        sink: Sink,
        *,
        to: Keyring | Sequence[Key],
        context: Mapping[str, str],
        aad: BytesLike = b"",
        min_generation: int = 0,
    ) -> Reencrypted:
        """``reencrypt`` of a message of any size, from one binary file to another, in constant memory.

        Raises:
            InvalidCiphertextError, TruncatedMessageError: the message is not authentic to its end; what the sink
                holds then is no message.
            KMSError: as ``reencrypt``.
            OSError: from the files.
        """
        bound = checked_aad(aad)
        checked_generation(min_generation)
        target = self._target(to)
        parsed = read_head(source)
        opened = self.open_header(parsed, context, min_generation)
        prepared, found = self._renewed(parsed, opened, target, context)
        with (
            MessageWriter(sink, prepared.header, prepared.body_key, bound) as writer,
            MessageReader(source, opened.body_key, bound, opened.facts) as reader,
        ):
            for piece in reader.pieces():
                writer.write(piece)
        return found

    @audited
    def reencrypt_file(
        self,
        path: str | os.PathLike[str],
        *,
        to: Keyring | Sequence[Key],
        context: Mapping[str, str],
        aad: BytesLike = b"",
        min_generation: int = 0,
    ) -> Reencrypted:
        """``reencrypt`` of a file in place: at once or not at all, by way of a new file beside it.

        Raises:
            ConflictError: the file was changed meanwhile.
            KMSError: as ``reencrypt_stream``.
            OSError: from the files.
        """
        return replace_file(
            path,
            lambda source, sink: self.reencrypt_stream(
                source, sink, to=to, context=context, aad=aad, min_generation=min_generation
            ),
        )

    def _renewed(
        self, message: Message, opened: Opened, target: Keyring, context: Mapping[str, str]
    ) -> tuple[Prepared, Reencrypted]:
        # What an unproven sender made must not become proven by being copied.
        origin = 0 if opened.facts.sender_authenticated else 1
        prepared = target.prepare(context, message.immutable.required, origin=origin)
        return prepared, Reencrypted(
            message=b"",
            record_id=Message(prepared.header).immutable.record_id,
            generation=0,
            recipients=tuple(target._recipients),
            removed=tuple(old for old in message.wrapped_keys if old not in target._recipients),
            opened_by=opened.facts.key.uri.without_version(),
            sender_authenticated=opened.facts.sender_authenticated,
        )

    def open_header(self, message: Message, context: Mapping[str, str], min_generation: int = 0) -> Opened:
        """Everything up to the body: policy, match, context, sender, unwrap, HeaderTag, in this order."""
        return self._open(message, *self._admit(message, context, min_generation))

    def _admit(
        self, message: Message, context: Mapping[str, str], min_generation: int
    ) -> tuple[Binding, list[_Match]]:
        """All that can be refused before a key is used, and the recipients to try."""
        claims = message.immutable
        self._policy.check_message(
            suite=claims.suite,
            created=claims.created,
            recipients=len(message.wrapped_keys),
            now=self._clock(),
        )
        recipients = self._matched(message)
        binding = message.binding(context)
        self._policy.check_context(binding.context)
        allowed = self._authenticated_first(recipients)
        if message.generation < min_generation:
            raise _stale(message.generation, min_generation)
        return binding, allowed

    def _prove(
        self, message: Message, binding: Binding, allowed: list[_Match]
    ) -> tuple[DataKey, KeyURI, WrappedKey]:
        """The data key, once it has proven the header, and the recipient that it came through."""
        uri, wrapped, secret = self._unwrap(allowed, binding)
        data_key = DataKey(binding, secret)
        data_key.check_tag(message.prefix, message.tag)
        return data_key, uri, wrapped

    def _open(self, message: Message, binding: Binding, allowed: list[_Match], slot: bytes = b"") -> Opened:
        data_key, uri, wrapped = self._prove(message, binding, allowed)
        claims = message.immutable
        facts = HeaderFacts(
            key=self._wrappers[uri].info,
            key_uri=wrapped.key_uri(),
            generation=message.generation,
            sender_authenticated=wrapped.sender_authenticated,
            record_id=claims.record_id,
            created=claims.created,
            suite=claims.suite,
            recipients=len(message.wrapped_keys),
        )
        return Opened(slot, data_key.body_key(), facts)

    def _matched(self, message: Message) -> list[_Match]:
        """Recipients that are keys of this ring, in the ring's order."""
        wrapped = message.wrapped_keys
        matched = [(uri, found) for uri in self._wrappers if (found := wrapped.get(uri)) is not None]
        if not matched:
            named = ", ".join(ascii(str(uri)) for uri in wrapped)
            raise KeyNotAllowedError(f"the message is for keys that this keyring does not hold: {named}")
        return matched

    def _authenticated_first(self, recipients: list[_Match]) -> list[_Match]:
        authenticated = [pair for pair in recipients if pair[1].sender_authenticated]
        if not authenticated:
            self._policy.check_sender(False)
        if self._policy.require_sender_authentication or len(authenticated) == len(recipients):
            return authenticated
        return authenticated + [pair for pair in recipients if not pair[1].sender_authenticated]

    def _unwrap(self, recipients: list[_Match], binding: Binding) -> tuple[KeyURI, WrappedKey, bytes]:
        failures: list[KMSError] = []
        # A single call has the deadline that it starts itself; several calls share one.
        several = len(recipients) > 1 or recipients[0][1].sender
        deadline = self._wrappers[recipients[0][0]].start_deadline() if several else None
        for uri, wrapped in recipients:
            wrapper = self._wrappers[uri] if deadline is None else self._wrappers[uri].until(deadline)
            try:
                return uri, wrapped, unwrap_data_key(wrapper, wrapped, bound=binding.bound(wrapped.origin))
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


def _writable(target: bytearray | memoryview) -> memoryview:
    if not isinstance(target, (bytearray, memoryview)):
        raise TypeError(f"target is a bytearray or a memoryview, not {type(target).__name__}")
    view = memoryview(target)
    if view.readonly or not view.c_contiguous or not view.nbytes:
        raise InvalidArgumentError("target is memory that can be written, contiguous and not empty")
    return view.cast("B")


def _stale(found: int, demanded: int) -> StaleMessageError:
    return StaleMessageError(f"generation {found}; at least {demanded} is demanded")


def _misplaced() -> IntegrityError:
    return IntegrityError(
        "the cache gave a data key of another ring, policy, context or header; it was not used"
    )
