"""Many small values under one data key: the record is stored once, each value names it (docs/message-format.md).

Value = 01 || record id 16 || Body of form 1
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from anykms.audit import audited
from anykms.envelope.cache import DataKeyCache
from anykms.envelope.message import DETACHED, MAX_GENERATION, SHORTEST_BODY, Message, checked_aad
from anykms.errors import InvalidArgumentError, InvalidCiphertextError, KeyNotFoundError, PolicyError
from anykms.payload import BytesLike, buffer, octets
from anykms.wrapping import NOT_AUTHENTIC

if TYPE_CHECKING:
    from anykms.client import Key
    from anykms.envelope.keyring import Keyring, Opened
    from anykms.envelope.rewrap import Rewrapped
    from anykms.envelope.stores import RecordStore

RECORD_ID_SIZE: Final = 16
VALUE_START: Final = len(DETACHED) + RECORD_ID_SIZE
"""Bytes of a value before its Body."""
_MAX_KNOWN: Final = 1000


@dataclass(frozen=True, slots=True)
class Pin:
    """Where a record may come from, and so whether it may encrypt.

    Attributes:
        record_id: the id that it must have.
        by_application: the application named the id, not a store.
        made_here: its data key was made by this object, and the bytes that wrap it were never out of its hands.
    """

    record_id: bytes
    by_application: bool
    made_here: bool = False


class RecordSource(Protocol):
    """Where the bytes of one record come from, each time that its key is asked again."""

    def load(self) -> bytes:
        """The record as it is now."""
        ...

    def generation(self) -> int:
        """The oldest generation to accept."""
        ...

    def proven(self, generation: int) -> None:
        """An authentic record of this generation was seen."""
        ...


class KeptBytes:
    """A record that the application keeps itself."""

    def __init__(self, record: bytes, min_generation: int = 0) -> None:
        self._record = record
        self._min_generation = min_generation

    def load(self) -> bytes:
        """See ``RecordSource``."""
        return self._record

    def generation(self) -> int:
        """See ``RecordSource``."""
        return self._min_generation

    def proven(self, generation: int) -> None:
        """The bytes never change, so nothing is to be remembered."""


class _InStore:
    """A record in a store."""

    def __init__(self, store: RecordStore, record_id: bytes, min_generation: int) -> None:
        self._store = store
        self._record_id = record_id
        self._min_generation = min_generation

    def load(self) -> bytes:
        found = self._store.get(self._record_id)
        if found is None:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        return found

    def generation(self) -> int:
        return max(self._min_generation, self._store.generation(self._record_id))

    def proven(self, generation: int) -> None:
        # This process remembers too, should the store's number be set back.
        self._min_generation = max(self._min_generation, generation)
        self._store.saw_generation(self._record_id, generation)


class Record:
    """One data key for many small values. ``Keyring.record`` makes one, ``Keyring.open_record`` opens one.

    It asks its key again after 300 s, or after the clients' ``state_ttl`` if that is shorter, and after 2^20 values
    or 64 GiB. Threads may share it. In a forked child it asks its key again before anything else.

    >>> import anykms, tempfile
    >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
    >>> info = client.generate_key(anykms.KeyConf("cards", anykms.KeyPurpose.ENCRYPT_DECRYPT))
    >>> ring = anykms.Keyring([client.key(info)])
    >>> record = ring.record(context={"table": "cards"})
    >>> value = record.seal(b"4111 1111 1111 1111", aad=b"cards/number/17")
    >>> stored = record.to_bytes()
    >>> again = ring.open_record(stored, context={"table": "cards"})
    >>> again.open(value, aad=b"cards/number/17")
    b'4111 1111 1111 1111'
    >>> again.seal(b"new", aad=b"cards/number/18")
    Traceback (most recent call last):
    anykms.errors.PolicyError: a record whose id the application did not name may only be read: pass record_id
    """

    def __init__(
        self,
        ring: Keyring,
        pin: Pin,
        source: RecordSource,
        context: Mapping[str, str],
        keys: DataKeyCache,
    ) -> None:
        self._ring = ring
        self._trails = ring._trails  # pyright: ignore[reportPrivateUsage] # a record is a part of its ring
        self._pin = pin
        self._source = source
        self._context = dict(context)
        self._keys = keys
        self._slot = b"record" + pin.record_id
        self._start = DETACHED + pin.record_id

    def __repr__(self) -> str:
        return f"<Record {self.record_id.hex()}>"

    @property
    def record_id(self) -> bytes:
        """16 bytes. Keep it where the store's owner cannot change it, to encrypt under the record again."""
        return self._pin.record_id

    def to_bytes(self) -> bytes:
        """The record to store, as it is now: a header without a body, about 220 bytes for one local key."""
        return self._source.load()

    @audited
    def seal(self, plaintext: BytesLike, *, aad: BytesLike) -> bytes:
        """A value: 89 bytes more than ``plaintext``, and 16 for each full 16 KiB.

        Args:
            aad: at most 64 KiB; name the place (table, column, row) or write out ``b""``. Nothing else tells the
                values of a record apart.

        Raises:
            TypeError, InvalidArgumentError: bad input.
            PolicyError: this record may only be read, or is too old.
            StaleMessageError: its recipients are of an older generation than demanded.
            KMSError: no key of the ring can be used now.
        """
        data, bound = buffer(plaintext, "plaintext"), checked_aad(aad)
        if not self._pin.made_here and not self._pin.by_application:
            raise PolicyError(
                "a record whose id the application did not name may only be read: pass record_id"
            )
        self._ring.allow_writing()
        opened = self._opened(len(data))
        if not self._pin.made_here and not opened.facts.sender_authenticated:
            raise PolicyError(
                "this record may only be read: its data key came through a recipient that proves no sender"
            )
        return opened.body_key.encrypt(data, bound, DETACHED, self._start)

    @audited
    def open(self, value: BytesLike, *, aad: BytesLike) -> bytes:
        """The plaintext of a value of this record.

        Raises:
            TypeError, InvalidArgumentError: bad input.
            InvalidCiphertextError: altered, of another record, or made with another aad, in one text.
            PolicyError, StaleMessageError: the record may not be read any more.
            KMSError: no key of the ring can be used now.
        """
        data, bound = buffer(value, "value"), checked_aad(aad)
        if data[:VALUE_START] != self._start or len(data) < VALUE_START + SHORTEST_BODY:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        opened = self._opened(len(data) - VALUE_START)
        return opened.body_key.decrypt(memoryview(data)[VALUE_START:], bound, DETACHED)

    def _opened(self, size: int) -> Opened:
        opened = self._fetch(size, self._reopen)
        self._ring.check_again(opened.facts, 0)
        return opened

    def _fetch(self, size: int, make: Callable[[], Opened]) -> Opened:
        return self._keys.fetch(self._slot, size, make, calls=1, lifetime=self._ring.state_ttl)

    def _reopen(self) -> Opened:
        message = parse_record(self._source.load())
        if message.immutable.record_id != self._pin.record_id:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        opened = self._ring.open_header(message, self._context, self._source.generation())
        self._source.proven(opened.facts.generation)
        return opened

    def start(self, opened: Opened | None = None) -> Record:
        """Open it now rather than at the first value, or begin with what was just made. Raises as ``open``."""
        if opened is None:
            self._opened(0)
        else:
            self._fetch(0, lambda: opened)
        return self


class StoredRecords:
    """The records of one store under one context.

    Args:
        ring: makes and opens them.
        store: keeps them, and beside them the highest generation that was seen of each.
        context: visible pairs of every record, see ``Keyring.encrypt``.
        required: names in ``context`` whose values are not stored in the record.

    >>> import anykms, tempfile
    >>> from anykms.envelope.stores import MemoryRecordStore
    >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
    >>> info = client.generate_key(anykms.KeyConf("cards", anykms.KeyPurpose.ENCRYPT_DECRYPT))
    >>> ring = anykms.Keyring([client.key(info)])
    >>> records = StoredRecords(ring, MemoryRecordStore(), context={"table": "cards"})
    >>> pinned = records.create().record_id
    >>> value = records.record(pinned).seal(b"4111 1111 1111 1111", aad=b"cards/number/17")
    >>> records.open(value, aad=b"cards/number/17")
    b'4111 1111 1111 1111'
    """

    def __init__(
        self,
        ring: Keyring,
        store: RecordStore,
        *,
        context: Mapping[str, str],
        required: Collection[str] = (),
    ) -> None:
        self._ring = ring
        self._trails = ring._trails  # pyright: ignore[reportPrivateUsage] # a record is a part of its ring
        self._store = store
        self._context = dict(context)
        self._required = required
        self._keys = DataKeyCache()
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Record] = OrderedDict()

    @audited
    def create(self) -> Record:
        """A new record, stored. Keep its ``record_id`` with the application's own configuration.

        Raises:
            KMSError: a key of the ring cannot wrap now, or the store fails; nothing is kept then.
        """
        stored, opened = self._ring.new_record(self._context, self._required)
        self._store.add(opened.facts.record_id, stored)
        return self._record(opened.facts.record_id, 0).start(opened)

    @audited
    def record(self, record_id: BytesLike, *, min_generation: int = 0) -> Record:
        """The record that the application names: to encrypt and to decrypt.

        Args:
            record_id: from the application's configuration, never from the store.
            min_generation: oldest generation to accept beside the highest that the store has seen.

        Raises:
            KeyNotFoundError: the store has no such record.
            InvalidCiphertextError: it is not authentic.
            PolicyError, StaleMessageError, KMSError: it cannot be opened, as ``Keyring.decrypt``.
        """
        pinned = checked_record_id(record_id)
        if self._store.get(pinned) is None:
            raise KeyNotFoundError(f"the store has no record {pinned.hex()}")
        return self._record(pinned, checked_generation(min_generation)).start()

    @audited
    def open(self, value: BytesLike, *, aad: BytesLike) -> bytes:
        """The plaintext of a value of any record in the store.

        Raises:
            InvalidCiphertextError: altered, of a record that the store lacks, or made with another aad.
            PolicyError, StaleMessageError, KMSError: its record cannot be opened.
        """
        data = buffer(value, "value")
        record_id = bytes(data[len(DETACHED) : VALUE_START])
        with self._lock:
            record = self._known.get(record_id)
            if record is None:
                record = self._known[record_id] = self._record(record_id, 0, by_application=False)
                if len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(record_id)
        return record.open(data, aad=aad)

    @audited
    def rewrap(
        self, record_id: BytesLike, *, to: Keyring | Sequence[Key], min_generation: int = 0
    ) -> Rewrapped:
        """Other recipients for a record; every value stays as it is.

        Raises:
            KeyNotFoundError: the store has no such record.
            ConflictError: another caller replaced it at the same time; try again.
            KMSError: as ``Keyring.rewrap``.
        """
        pinned = checked_record_id(record_id)
        old = self._store.get(pinned)
        if old is None:
            raise KeyNotFoundError(f"the store has no record {pinned.hex()}")
        if parse_record(old).immutable.record_id != pinned:
            raise InvalidCiphertextError(NOT_AUTHENTIC)
        oldest = max(checked_generation(min_generation), self._store.generation(pinned))
        result = self._ring.rewrap(old, to=to, context=self._context, min_generation=oldest)
        self._store.replace(pinned, result.message, expected=old)
        self._store.saw_generation(pinned, result.generation)
        self._keys.clear()
        return result

    def _record(self, record_id: bytes, min_generation: int, *, by_application: bool = True) -> Record:
        source = _InStore(self._store, record_id, min_generation)
        pin = Pin(record_id, by_application)
        return Record(self._ring, pin, source, self._context, self._keys)


def parse_record(data: bytes | memoryview) -> Message:
    """A record: a header without a body.

    Raises:
        InvalidCiphertextError: anything else.
    """
    message = Message(data)
    if message.body:
        raise InvalidCiphertextError(NOT_AUTHENTIC)
    return message


def checked_record_id(record_id: BytesLike) -> bytes:
    """``record_id``, of exactly 16 bytes."""
    found = octets(record_id, "record_id")
    if len(found) != RECORD_ID_SIZE:
        raise InvalidArgumentError(f"a record id has {RECORD_ID_SIZE} bytes, not {len(found)}")
    return found


def checked_generation(value: int) -> int:
    """A ``min_generation`` of 0 to 2^32 - 1."""
    if type(value) is not int:
        raise TypeError(f"min_generation is an int, not {type(value).__name__}")
    if not 0 <= value <= MAX_GENERATION:
        raise InvalidArgumentError(f"min_generation is {value}; use 0 to {MAX_GENERATION}")
    return value
