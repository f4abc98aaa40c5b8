"""The same API awaited: every call runs on a thread pool of its client's own.

The synchronous classes are the only implementation, so that both do the same. Key services answer in
milliseconds, and one of their SDKs is synchronous only; a hop to a thread costs tens of microseconds.

Cancelling an ``await`` does not cancel the remote call. A call that a thread has begun goes on to its end, and a
key may have been made, rotated or destroyed: look at it before trying again. One that still waits for a thread is
not begun any more.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

from anykms import registry
from anykms.audit import AuditSink
from anykms.client import DEFAULT_STATE_TTL, Key, KMSClient
from anykms.envelope.cache import DataKeyCache
from anykms.envelope.keyring import Decrypted, Keyring
from anykms.envelope.record import Record, StoredRecords
from anykms.envelope.rewrap import Reencrypted, Rewrapped
from anykms.envelope.stores import RecordStore
from anykms.envelope.stream import Sink, Source
from anykms.errors import InvalidArgumentError
from anykms.keys import ConnectionURI, KeyConf, KeyInfo, KeyStatus
from anykms.payload import BytesLike
from anykms.policy import Policy
from anykms.provider import Capability, SignatureEncoding
from anykms.retrying import RetryPolicy
from anykms.signing import PublicKey

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_THREADS: Final = 64
"""Calls at work at once; asyncio's own pool has 6 threads on a machine of two cores."""


class _Threads:
    """A thread pool as coroutines use it."""

    def __init__(self, threads: int) -> None:
        _check_threads(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="anykms")
        self._closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(*args, **kwargs)`` in a thread, under the caller's context variables."""
        if self._closed:
            raise InvalidArgumentError("the client is closed; connect again")
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def close(self, then: Callable[[], None]) -> None:
        """Wait until every call has ended, then call ``then``; not in the event loop's thread."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._join, then)

    def _join(self, then: Callable[[], None]) -> None:
        self._pool.shutdown(wait=True)
        then()


async def connect(
    uri: str | ConnectionURI,
    *,
    policy: Policy | None = None,
    retry: RetryPolicy | None = None,
    state_ttl: float = DEFAULT_STATE_TTL,
    clock: Callable[[], float] = time.time,
    audit: Sequence[AuditSink] = (),
    entity: str | None = None,
    audit_required: bool = True,
    threads: int = DEFAULT_THREADS,
    **options: object,
) -> AsyncKMSClient:
    """``anykms.connect``, awaited.

    Args:
        threads: calls at work at once, 1 or more. A call beyond them waits, and its deadline starts with it.
        uri, policy, retry, state_ttl, clock, audit, entity, audit_required, options: see ``anykms.connect``.

    >>> import asyncio, tempfile
    >>> import anykms.aio
    >>> async def main() -> bytes:
    ...     async with await anykms.aio.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True) as client:
    ...         info = await client.generate_key(anykms.KeyConf("orders", anykms.KeyPurpose.ENCRYPT_DECRYPT))
    ...         ring = anykms.aio.AsyncKeyring([await client.key(info)])
    ...         message = await ring.encrypt(b"4111 1111 1111 1111", context={"tenant": "42"})
    ...         return await ring.decrypt(message, context={"tenant": "42"})
    >>> asyncio.run(main())
    b'4111 1111 1111 1111'
    """
    _check_threads(threads)
    opened = ExitStack()
    opener = _Threads(1)

    def open_client() -> KMSClient:
        return opened.enter_context(
            registry.connect(
                uri,
                policy=policy,
                retry=retry,
                state_ttl=state_ttl,
                clock=clock,
                audit=audit,
                entity=entity,
                audit_required=audit_required,
                **options,
            )
        )

    try:
        client = await opener.run(open_client)
    except BaseException:
        # A cancelled await leaves its thread at work, and a client that nobody would close.
        await opener.close(opened.close)
        raise
    await opener.close(_nothing)
    return AsyncKMSClient(client, threads=threads)


def _nothing() -> None:
    return None


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise InvalidArgumentError("threads is the number of calls at work at once, 1 or more")


class AsyncKMSClient:
    """``KMSClient``, awaited. ``anykms.aio.connect`` makes one.

    It may be used from any event loop, and from several.

    Args:
        client: what does the work; it is closed with this one.
        threads: calls at work at once, 1 or more.
    """

    def __init__(self, client: KMSClient, *, threads: int = DEFAULT_THREADS) -> None:
        self._client = client
        self._threads = _Threads(threads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncKMSClient {self.provider}>"

    async def close(self) -> None:
        """Wait for the calls given to it, end its threads, and release the provider's connections."""
        await self._threads.close(self._client.close)

    @property
    def provider(self) -> str:
        """See ``KMSClient.provider``."""
        return self._client.provider

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See ``KMSClient.capabilities``."""
        return self._client.capabilities

    async def generate_key(self, conf: KeyConf) -> KeyInfo:
        """See ``KMSClient.generate_key``."""
        return await self._threads.run(self._client.generate_key, conf)

    async def get_key(self, name: str) -> KeyInfo:
        """See ``KMSClient.get_key``."""
        return await self._threads.run(self._client.get_key, name)

    async def list_keys(self) -> Iterator[KeyInfo]:
        """See ``KMSClient.list_keys``. All of them have been read when this returns."""
        return await self._threads.run(self._client.list_keys)

    async def key(self, key: KeyInfo | str) -> AsyncKey:
        """See ``KMSClient.key``."""
        return AsyncKey(await self._threads.run(self._client.key, key), self._threads)

    async def describe_key(self, info: KeyInfo) -> KeyStatus:
        """See ``KMSClient.describe_key``."""
        return await self._threads.run(self._client.describe_key, info)

    async def confirm_key(self, info: KeyInfo) -> KeyStatus:
        """See ``KMSClient.confirm_key``."""
        return await self._threads.run(self._client.confirm_key, info)

    async def enable_key(self, info: KeyInfo) -> None:
        """See ``KMSClient.enable_key``."""
        await self._threads.run(self._client.enable_key, info)

    async def disable_key(self, info: KeyInfo) -> None:
        """See ``KMSClient.disable_key``."""
        await self._threads.run(self._client.disable_key, info)

    async def rotate_key(self, info: KeyInfo) -> KeyStatus:
        """See ``KMSClient.rotate_key``."""
        return await self._threads.run(self._client.rotate_key, info)

    async def schedule_destruction(self, info: KeyInfo) -> datetime:
        """See ``KMSClient.schedule_destruction``."""
        return await self._threads.run(self._client.schedule_destruction, info)

    async def cancel_destruction(self, info: KeyInfo) -> None:
        """See ``KMSClient.cancel_destruction``."""
        await self._threads.run(self._client.cancel_destruction, info)


class AsyncKey:
    """``Key``, awaited. ``AsyncKMSClient.key`` makes one; it runs on that client's threads."""

    def __init__(self, key: Key, threads: _Threads) -> None:
        self._key = key
        self._threads = threads

    def __repr__(self) -> str:
        return f"<AsyncKey {self._key.info.uri}>"

    @property
    def info(self) -> KeyInfo:
        """See ``Key.info``."""
        return self._key.info

    async def sign(
        self,
        message: BytesLike,
        *,
        encoding: SignatureEncoding | str = SignatureEncoding.DER,
        prehashed: bool = False,
    ) -> bytes:
        """See ``Key.sign``."""
        return await self._threads.run(self._key.sign, message, encoding=encoding, prehashed=prehashed)

    async def verify(
        self,
        message: BytesLike,
        signature: BytesLike,
        *,
        encoding: SignatureEncoding | str = SignatureEncoding.DER,
        prehashed: bool = False,
    ) -> None:
        """See ``Key.verify``."""
        await self._threads.run(self._key.verify, message, signature, encoding=encoding, prehashed=prehashed)

    async def public_key(self) -> PublicKey:
        """See ``Key.public_key``. What it gives needs no network, so it has no awaited twin."""
        return await self._threads.run(self._key.public_key)

    async def mac(self, message: BytesLike) -> bytes:
        """See ``Key.mac``."""
        return await self._threads.run(self._key.mac, message)

    async def verify_mac(self, message: BytesLike, tag: BytesLike) -> None:
        """See ``Key.verify_mac``."""
        await self._threads.run(self._key.verify_mac, message, tag)

    async def decrypt(self, ciphertext: BytesLike) -> bytes:
        """See ``Key.decrypt``."""
        return await self._threads.run(self._key.decrypt, ciphertext)

    async def wrap(self, data_key: BytesLike, *, context: Mapping[str, str]) -> bytes:
        """See ``Key.wrap``."""
        return await self._threads.run(self._key.wrap, data_key, context=context)

    async def unwrap(self, wrapped: BytesLike, *, context: Mapping[str, str]) -> bytes:
        """See ``Key.unwrap``."""
        return await self._threads.run(self._key.unwrap, wrapped, context=context)

    async def run(self, function: Callable[[Key], T]) -> T:
        """``function(key)`` in one thread: for libraries that sign by themselves, synchronously.

        Args:
            function: synchronous; it gets the ``Key`` behind this one.
        """
        return await self._threads.run(function, self._key)


class AsyncKeyring:
    """``Keyring``, awaited, on the threads of its first key's client.

    Streams and files belong to the thread that opened them, so they have no awaited twin: give ``run`` the work of
    a whole stream.

    Args:
        keys, decrypt_only, policy, cache, clock: see ``Keyring``.

    Raises:
        TypeError, InvalidArgumentError, KeyUsageError, PolicyError: as ``Keyring``.
    """

    def __init__(
        self,
        keys: Sequence[AsyncKey],
        *,
        decrypt_only: Sequence[AsyncKey] = (),
        policy: Policy | None = None,
        cache: DataKeyCache | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        held = [*keys, *decrypt_only]
        for key in held:
            if not isinstance(key, AsyncKey):
                raise TypeError(
                    f"an async keyring takes AsyncKey objects from client.key(info), not {type(key).__name__}"
                )
        recipients, readers = ([key._key for key in group] for group in (keys, decrypt_only))  # pyright: ignore[reportPrivateUsage] # one module
        self._ring = Keyring(recipients, decrypt_only=readers, policy=policy, cache=cache, clock=clock)
        self._threads = held[0]._threads  # pyright: ignore[reportPrivateUsage] # one module

    @property
    def keys(self) -> tuple[KeyInfo, ...]:
        """See ``Keyring.keys``."""
        return self._ring.keys

    async def encrypt(
        self,
        plaintext: BytesLike,
        *,
        context: Mapping[str, str],
        aad: BytesLike = b"",
        required: Collection[str] = (),
    ) -> bytes:
        """See ``Keyring.encrypt``."""
        return await self._threads.run(
            self._ring.encrypt, plaintext, context=context, aad=aad, required=required
        )

    async def encrypt_into(
        self,
        plaintext: BytesLike,
        target: bytearray | memoryview,
        *,
        context: Mapping[str, str],
        aad: BytesLike = b"",
        required: Collection[str] = (),
    ) -> int:
        """See ``Keyring.encrypt_into``."""
        return await self._threads.run(
            self._ring.encrypt_into, plaintext, target, context=context, aad=aad, required=required
        )

    async def decrypt(
        self, message: BytesLike, *, context: Mapping[str, str], aad: BytesLike = b"", min_generation: int = 0
    ) -> bytes:
        """See ``Keyring.decrypt``."""
        return await self._threads.run(
            self._ring.decrypt, message, context=context, aad=aad, min_generation=min_generation
        )

    async def decrypt_detailed(
        self, message: BytesLike, *, context: Mapping[str, str], aad: BytesLike = b"", min_generation: int = 0
    ) -> Decrypted:
        """See ``Keyring.decrypt_detailed``."""
        return await self._threads.run(
            self._ring.decrypt_detailed, message, context=context, aad=aad, min_generation=min_generation
        )

    async def record(self, *, context: Mapping[str, str], required: Collection[str] = ()) -> AsyncRecord:
        """See ``Keyring.record``."""
        made = await self._threads.run(self._ring.record, context=context, required=required)
        return AsyncRecord(made, self._threads)

    async def open_record(
        self,
        record: BytesLike,
        *,
        context: Mapping[str, str],
        record_id: BytesLike | None = None,
        min_generation: int = 0,
    ) -> AsyncRecord:
        """See ``Keyring.open_record``."""
        opened = await self._threads.run(
            self._ring.open_record,
            record,
            context=context,
            record_id=record_id,
            min_generation=min_generation,
        )
        return AsyncRecord(opened, self._threads)

    async def rewrap(
        self,
        message: BytesLike,
        *,
        to: AsyncKeyring | Sequence[AsyncKey],
        context: Mapping[str, str] | None = None,
        min_generation: int = 0,
    ) -> Rewrapped:
        """See ``Keyring.rewrap``."""
        return await self._threads.run(
            self._ring.rewrap,
            message,
            to=_sync(to),
            context=context,
            min_generation=min_generation,
        )

    async def rewrap_stream(
        self,
        source: Source,
        sink: Sink,
        *,
        to: AsyncKeyring | Sequence[AsyncKey],
        context: Mapping[str, str] | None = None,
        min_generation: int = 0,
    ) -> Rewrapped:
        """See ``Keyring.rewrap_stream``. Both files are used in one thread."""
        return await self._threads.run(
            self._ring.rewrap_stream,
            source,
            sink,
            to=_sync(to),
            context=context,
            min_generation=min_generation,
        )

    async def rewrap_file(
        self,
        path: str | os.PathLike[str],
        *,
        to: AsyncKeyring | Sequence[AsyncKey],
        context: Mapping[str, str] | None = None,
        min_generation: int = 0,
    ) -> Rewrapped:
        """See ``Keyring.rewrap_file``."""
        return await self._threads.run(
            self._ring.rewrap_file,
            path,
            to=_sync(to),
            context=context,
            min_generation=min_generation,
        )

    async def reencrypt(
        self,
        message: BytesLike,
        *,
        to: AsyncKeyring | Sequence[AsyncKey],
        context: Mapping[str, str],
        aad: BytesLike = b"",
        min_generation: int = 0,
    ) -> Reencrypted:
        """See ``Keyring.reencrypt``."""
        return await self._threads.run(
            self._ring.reencrypt,
            message,
            to=_sync(to),
            context=context,
            aad=aad,
            min_generation=min_generation,
        )

    async def reencrypt_stream(
        self,
        source: Source,
        sink: Sink,
        *,
        to: AsyncKeyring | Sequence[AsyncKey],
        context: Mapping[str, str],
        aad: BytesLike = b"",
        min_generation: int = 0,
    ) -> Reencrypted:
        """See ``Keyring.reencrypt_stream``. Both files are used in one thread."""
        return await self._threads.run(
            self._ring.reencrypt_stream,
            source,
            sink,
            to=_sync(to),
            context=context,
            aad=aad,
            min_generation=min_generation,
        )

    async def reencrypt_file(
        self,
        path: str | os.PathLike[str],
        *,
        to: AsyncKeyring | Sequence[AsyncKey],
        context: Mapping[str, str],
        aad: BytesLike = b"",
        min_generation: int = 0,
    ) -> Reencrypted:
        """See ``Keyring.reencrypt_file``."""
        return await self._threads.run(
            self._ring.reencrypt_file,
            path,
            to=_sync(to),
            context=context,
            aad=aad,
            min_generation=min_generation,
        )

    async def run(self, function: Callable[[Keyring], T]) -> T:
        """``function(keyring)`` in one thread: the work of a whole stream or file.

        Args:
            function: synchronous; it gets the ``Keyring`` behind this one.

        >>> import asyncio, io, tempfile
        >>> import anykms.aio
        >>> def seal(ring: anykms.Keyring) -> int:
        ...     with ring.encrypt_stream(io.BytesIO(), context={}) as writer:
        ...         return writer.write(b"line\\n")
        >>> async def main() -> int:
        ...     async with await anykms.aio.connect(f"local://{tempfile.mkdtemp()}/k.db", create=True) as client:
        ...         info = await client.generate_key(anykms.KeyConf("orders", "ENCRYPT_DECRYPT"))
        ...         return await anykms.aio.AsyncKeyring([await client.key(info)]).run(seal)
        >>> asyncio.run(main())
        5
        """
        return await self._threads.run(function, self._ring)


def _sync(to: AsyncKeyring | Sequence[AsyncKey]) -> Keyring | list[Key]:
    """Recipients, as the synchronous classes take them."""
    if isinstance(to, AsyncKeyring):
        return to._ring  # pyright: ignore[reportPrivateUsage] # one module
    return [key._key for key in to]  # pyright: ignore[reportPrivateUsage] # one module


class AsyncRecord:
    """``Record``, awaited, on the threads of its keyring. ``AsyncKeyring.record`` and ``open_record`` make one."""

    def __init__(self, record: Record, threads: _Threads) -> None:
        self._record = record
        self._threads = threads

    def __repr__(self) -> str:
        return f"<AsyncRecord {self.record_id.hex()}>"

    @property
    def record_id(self) -> bytes:
        """See ``Record.record_id``."""
        return self._record.record_id

    async def to_bytes(self) -> bytes:
        """See ``Record.to_bytes``."""
        return await self._threads.run(self._record.to_bytes)

    async def seal(self, plaintext: BytesLike, *, aad: BytesLike) -> bytes:
        """See ``Record.seal``."""
        return await self._threads.run(self._record.seal, plaintext, aad=aad)

    async def open(self, value: BytesLike, *, aad: BytesLike) -> bytes:
        """See ``Record.open``."""
        return await self._threads.run(self._record.open, value, aad=aad)


class AsyncStoredRecords:
    """``StoredRecords``, awaited, on the threads of its keyring; the store is used in them too.

    Args:
        ring, store, context, required: see ``StoredRecords``.
    """

    def __init__(
        self,
        ring: AsyncKeyring,
        store: RecordStore,
        *,
        context: Mapping[str, str],
        required: Collection[str] = (),
    ) -> None:
        self._records = StoredRecords(ring._ring, store, context=context, required=required)  # pyright: ignore[reportPrivateUsage] # one module
        self._threads = ring._threads  # pyright: ignore[reportPrivateUsage] # one module

    async def create(self) -> AsyncRecord:
        """See ``StoredRecords.create``."""
        return AsyncRecord(await self._threads.run(self._records.create), self._threads)

    async def record(self, record_id: BytesLike, *, min_generation: int = 0) -> AsyncRecord:
        """See ``StoredRecords.record``."""
        found = await self._threads.run(self._records.record, record_id, min_generation=min_generation)
        return AsyncRecord(found, self._threads)

    async def open(self, value: BytesLike, *, aad: BytesLike) -> bytes:
        """See ``StoredRecords.open``."""
        return await self._threads.run(self._records.open, value, aad=aad)

    async def rewrap(
        self, record_id: BytesLike, *, to: AsyncKeyring | Sequence[AsyncKey], min_generation: int = 0
    ) -> Rewrapped:
        """See ``StoredRecords.rewrap``."""
        return await self._threads.run(
            self._records.rewrap, record_id, to=_sync(to), min_generation=min_generation
        )
