"""The awaited twins: the same signatures, the same results and errors, many calls at once."""

from __future__ import annotations

import asyncio
import inspect
import io
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

import anykms
from anykms import (
    Key,
    KeyConf,
    Keyring,
    KeyState,
    KMSClient,
    MemoryRecordStore,
    Policy,
    Record,
    StoredRecords,
    aio,
    errors,
)
from anykms.aio import (
    DEFAULT_THREADS,
    AsyncKey,
    AsyncKeyring,
    AsyncKMSClient,
    AsyncRecord,
    AsyncStoredRecords,
)
from anykms.keys import ConnectionURI, KeyInfo
from anykms_local import LocalProvider

T = TypeVar("T")

ORDERS = KeyConf("orders", "ENCRYPT_DECRYPT")
TAGS = KeyConf("tags", "MAC", algorithm="HS256")
RELEASES = KeyConf("releases", "SIGN_VERIFY", algorithm="ES256")
WAIT = 60.0
"""Seconds after which a test that hangs fails."""

TWINS: dict[type, type] = {
    KMSClient: AsyncKMSClient,
    Key: AsyncKey,
    Keyring: AsyncKeyring,
    Record: AsyncRecord,
    StoredRecords: AsyncStoredRecords,
}
# What other modules of the envelope use of a ring or record.
INTERNAL = {"prepare", "wrappers", "check_again", "allow_writing", "state_ttl", "new_record", "open_header"}
ONLY_SYNC: dict[type, set[str]] = {
    # A stream or file belongs to the thread that opened it: AsyncKeyring.run has the whole of it in one.
    Keyring: {"encrypt_stream", "decrypt_stream", "open"} | INTERNAL,
    Record: {"start"},
    # pyca signs synchronously: AsyncKey.run has it sign in a thread. Guards ask nobody.
    Key: {"as_private_key", "guarded", "allow"},
}
ONLY_ASYNC: dict[type, set[str]] = {Keyring: {"run"}, Key: {"run"}}
RENAMED = {sync.__name__: twin.__name__ for sync, twin in TWINS.items()}
PLAIN = {"provider", "capabilities", "info", "keys", "record_id"}
"""Properties, which no twin awaits: they are known without I/O."""


def public(kind: type) -> dict[str, Any]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def shape(function: Callable[..., object], renamed: dict[str, str]) -> inspect.Signature:
    """The signature, annotations as text, with the names of the twins."""

    def rename(annotation: Any) -> Any:
        words = str(annotation).replace("[", " [ ").replace("]", " ] ").split()
        return " ".join(renamed.get(word, word) for word in words)

    found = inspect.signature(function)
    return found.replace(
        parameters=[p.replace(annotation=rename(p.annotation)) for p in found.parameters.values()],
        return_annotation=rename(found.return_annotation),
    )


def differences(sync: type, twin: type) -> list[str]:
    """How ``twin`` is not the awaited form of ``sync``."""
    ours, theirs = public(twin), public(sync)
    found = [f"{name}: no twin" for name in theirs.keys() - ours.keys() - ONLY_SYNC.get(sync, set())]
    found += [
        f"{name}: twin of nothing" for name in ours.keys() - theirs.keys() - ONLY_ASYNC.get(sync, set())
    ]
    for name in ours.keys() & theirs.keys():
        member, other = theirs[name], ours[name]
        if isinstance(member, property) or name in PLAIN:
            if not (isinstance(member, property) and isinstance(other, property) and name in PLAIN):
                found.append(f"{name}: not a property of both")
        elif not inspect.iscoroutinefunction(other):
            found.append(f"{name}: not awaited")
        elif shape(member, RENAMED) != shape(other, {}):
            found.append(f"{name}: {shape(member, RENAMED)} became {shape(other, {})}")
    return found


@pytest.mark.parametrize("sync", TWINS, ids=lambda kind: kind.__name__)
def test_the_twin_has_the_same_methods_and_signatures(sync: type) -> None:
    assert differences(sync, TWINS[sync]) == []


def test_rings_and_stored_records_are_made_from_the_same_arguments() -> None:
    assert shape(Keyring.__init__, RENAMED) == shape(AsyncKeyring.__init__, {})
    assert shape(StoredRecords.__init__, RENAMED) == shape(AsyncStoredRecords.__init__, {})


def test_connect_has_the_arguments_of_connect_and_threads() -> None:
    ours, theirs = shape(aio.connect, {}), shape(anykms.connect, RENAMED)
    extra = ours.parameters["threads"]
    assert extra.default == DEFAULT_THREADS
    left = [p for p in ours.parameters.values() if p is not extra]
    assert ours.replace(parameters=left) == theirs


def test_connect_has_the_arguments_of_a_client() -> None:
    ours, theirs = (inspect.signature(function).parameters for function in (anykms.connect, KMSClient))
    own = {"uri", "options"}
    assert {name: p for name, p in ours.items() if name not in own} == {
        name: p for name, p in theirs.items() if name != "provider"
    }


def test_connect_gives_them_to_its_client(tmp_path: Path) -> None:
    later = time.time() + 10 * 86400
    policy = Policy(max_key_age=timedelta(days=9))
    with anykms.connect(uri(tmp_path), create=True, policy=policy, clock=lambda: later) as client:
        key = client.key(client.generate_key(TAGS))
        with pytest.raises(errors.PolicyError, match="max_key_age"):
            key.mac(b"m")

    async def main() -> None:
        async with await aio.connect(uri(tmp_path), policy=policy, clock=lambda: later) as client:
            key = await client.key("tags")
            with pytest.raises(errors.PolicyError, match="max_key_age"):
                await key.mac(b"m")

    run(main)


def test_a_changed_signature_is_noticed() -> None:
    class Sync(Protocol):
        def same(self, name: str) -> Key: ...
        def default(self, name: str = "a") -> None: ...
        def named(self, *, context: str) -> None: ...
        def result(self) -> bytes: ...
        def late(self) -> None: ...
        def new(self) -> None: ...

    class Twin(Protocol):
        async def same(self, name: str) -> AsyncKey: ...
        async def default(self, name: str = "b") -> None: ...
        async def named(self, context: str) -> None: ...
        async def result(self) -> str: ...
        def late(self) -> None: ...

    found = {difference.split(":")[0] for difference in differences(Sync, Twin)}
    assert found == {"default", "named", "result", "late", "new"}


def run(main: Callable[[], Awaitable[T]]) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(main(), WAIT)

    return asyncio.run(limited())


def uri(folder: Path) -> str:
    return f"local://{folder}/keys.db"


class Meeting(LocalProvider):
    """A keystore whose MACs are made once ``meet`` has returned."""

    meet: Callable[[], object] = staticmethod(lambda: None)

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        self.meet()
        return super().mac(info, message)


def meeting(folder: Path, meet: Callable[[], object]) -> KMSClient:
    provider = Meeting.connect(ConnectionURI.parse(uri(folder)), create=True)
    provider.meet = meet
    return KMSClient(provider)


def test_every_method_does_what_its_twin_does(tmp_path: Path) -> None:
    async def main() -> None:
        async with await aio.connect(uri(tmp_path), create=True, state_ttl=0.0) as client:
            assert client.provider == "local"
            assert client.capabilities
            assert repr(client) == "<AsyncKMSClient local>"
            orders, tags, releases = [await client.generate_key(conf) for conf in (ORDERS, TAGS, RELEASES)]
            assert await client.get_key("orders") == orders
            assert {info.name for info in await client.list_keys()} == {"orders", "tags", "releases"}

            ring = AsyncKeyring([await client.key(orders)])
            assert ring.keys == (orders,)
            message = await ring.encrypt(b"card", context={"tenant": "42"}, aad=b"1")
            assert await ring.decrypt(message, context={"tenant": "42"}, aad=b"1") == b"card"
            assert (await ring.decrypt_detailed(message, context={"tenant": "42"}, aad=b"1")).key == orders
            key = await client.key("orders")
            assert key.info == orders
            assert repr(key) == f"<AsyncKey {orders.uri}>"
            wrapped = await key.wrap(bytes(32), context={})
            assert await key.unwrap(wrapped, context={}) == bytes(32)

            signer = await client.key(releases)
            signature = await signer.sign(b"v1", encoding="P1363")
            await signer.verify(b"v1", signature, encoding="P1363")
            (await signer.public_key()).verify(b"v1", signature, encoding="P1363")
            assert await signer.run(lambda key: key.info) == releases
            mac = await client.key(tags)
            await mac.verify_mac(b"m", await mac.mac(b"m"))

            conf = KeyConf("inbox", "ASYMMETRIC_DECRYPT", algorithm="RSA-OAEP-256", key_size=2048)
            inbox = await client.key(await client.generate_key(conf))
            assert await inbox.decrypt((await inbox.public_key()).encrypt(b"note")) == b"note"

            await client.disable_key(orders)
            assert (await client.describe_key(orders)).state is KeyState.DISABLED
            await client.enable_key(orders)
            assert (await client.rotate_key(orders)).current_version == "2"
            assert await client.schedule_destruction(orders)
            await client.cancel_destruction(orders)

    run(main)


def test_records_and_changes_of_recipients_are_awaited(tmp_path: Path) -> None:
    async def main() -> None:
        async with await aio.connect(uri(tmp_path), create=True) as client:
            infos = [await client.generate_key(KeyConf(name, "ENCRYPT_DECRYPT")) for name in ("old", "new")]
            keys = [await client.key(info) for info in infos]
            old, new = AsyncKeyring(keys[:1], cache=anykms.DataKeyCache()), AsyncKeyring(keys[1:])
            message = await old.encrypt(b"card", context={"tenant": "42"}, aad=b"1")
            for to in (new, keys[1:]):
                rewrapped = await old.rewrap(message, to=to)
                renewed = await old.reencrypt(message, to=to, context={"tenant": "42"}, aad=b"1")
                for result in (rewrapped.message, renewed.message):
                    assert await new.decrypt(result, context={"tenant": "42"}, aad=b"1") == b"card"
            path = tmp_path / "message"
            path.write_bytes(message)
            await old.rewrap_file(path, to=keys)
            await new.reencrypt_file(path, to=old, context={"tenant": "42"}, aad=b"1")
            moved, renewed_sink = io.BytesIO(), io.BytesIO()
            await old.rewrap_stream(io.BytesIO(path.read_bytes()), moved, to=new)
            source = io.BytesIO(moved.getvalue())
            await new.reencrypt_stream(source, renewed_sink, to=old, context={"tenant": "42"}, aad=b"1")
            assert await old.decrypt(renewed_sink.getvalue(), context={"tenant": "42"}, aad=b"1") == b"card"

            record = await old.record(context={})
            value = await record.seal(b"card", aad=b"1")
            stored = await record.to_bytes()
            again = await old.open_record(stored, context={}, record_id=record.record_id)
            assert repr(again) == f"<AsyncRecord {record.record_id.hex()}>"
            assert await again.open(value, aad=b"1") == b"card"

            records = AsyncStoredRecords(old, MemoryRecordStore(), context={"table": "cards"})
            pinned = (await records.create()).record_id
            value = await (await records.record(pinned)).seal(b"card", aad=b"1")
            assert (await records.rewrap(pinned, to=keys)).generation == 1
            assert await records.open(value, aad=b"1") == b"card"

    run(main)


def test_a_stream_is_worked_in_one_thread(tmp_path: Path) -> None:
    sink = io.BytesIO()

    def seal(ring: Keyring) -> None:
        with ring.encrypt_stream(sink, context={}) as writer:
            writer.write(b"one")

    async def main() -> bytes:
        async with await aio.connect(uri(tmp_path), create=True) as client:
            ring = AsyncKeyring([await client.key(await client.generate_key(ORDERS))])
            await ring.run(seal)
            return await ring.decrypt(sink.getvalue(), context={})

    assert run(main) == b"one"


@pytest.mark.parametrize("threads", [DEFAULT_THREADS, 3])
def test_as_many_calls_as_threads_are_at_work_at_once(tmp_path: Path, threads: int) -> None:
    # The barrier opens only once all of them are inside; fewer threads would leave it broken.
    barrier = threading.Barrier(threads, timeout=WAIT)

    async def main() -> None:
        arguments = {} if threads == DEFAULT_THREADS else {"threads": threads}
        async with AsyncKMSClient(meeting(tmp_path, barrier.wait), **arguments) as client:
            key = await client.key(await client.generate_key(TAGS))
            await asyncio.gather(*(key.mac(b"m") for _ in range(threads)))

    run(main)
    assert not barrier.broken


def test_no_more_calls_than_threads_are_at_work_at_once(tmp_path: Path) -> None:
    # Calls leave in pairs, so that two are inside at once; a third would be counted.
    pair, lock, inside, most = threading.Barrier(2, timeout=WAIT), threading.Lock(), 0, 0

    def count() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        pair.wait()
        with lock:
            inside -= 1

    async def main() -> None:
        async with AsyncKMSClient(meeting(tmp_path, count), threads=2) as client:
            key = await client.key(await client.generate_key(TAGS))
            await asyncio.gather(*(key.mac(b"m") for _ in range(20)))

    run(main)
    assert most == 2


def test_the_loop_goes_on_while_a_call_blocks(tmp_path: Path) -> None:
    released = threading.Event()

    async def main() -> None:
        async with AsyncKMSClient(meeting(tmp_path, lambda: released.wait(WAIT))) as client:
            key = await client.key(await client.generate_key(TAGS))
            blocked = asyncio.create_task(key.mac(b"m"))
            await asyncio.sleep(0)
            assert (await client.get_key("tags")).name == "tags"
            assert not blocked.done()
            released.set()
            await blocked

    run(main)


def test_errors_are_those_of_the_twin(tmp_path: Path) -> None:
    async def main() -> None:
        async with await aio.connect(uri(tmp_path), create=True) as client:
            info = await client.generate_key(ORDERS)
            key = await client.key(info)
            with pytest.raises(errors.KeyNotFoundError) as missing:
                await client.get_key("nobody")
            assert missing.value.operation == "get_key"
            with pytest.raises(errors.KeyUsageError):
                await key.sign(b"m")
            with pytest.raises(TypeError, match="plaintext is bytes"):
                await AsyncKeyring([key]).encrypt("text", context={})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # refused
            with pytest.raises(TypeError, match="AsyncKey"):
                AsyncKeyring(["orders"])  # type: ignore[list-item] # pyright: ignore[reportArgumentType] # refused
            with pytest.raises(errors.InvalidArgumentError, match="1 to 32 keys"):
                AsyncKeyring([])
            with pytest.raises(errors.PolicyError):
                AsyncKeyring([key], policy=Policy(providers=frozenset({"awskms"})))

    run(main)


def test_connecting_fails_as_its_twin_does(tmp_path: Path) -> None:
    before = threading.active_count()

    async def main() -> None:
        with pytest.raises(errors.InvalidArgumentError, match="no installed provider"):
            await aio.connect("nobodykms://somewhere")
        with pytest.raises(errors.InvalidArgumentError, match="1 or more"):
            await aio.connect(uri(tmp_path), create=True, threads=0)
        with pytest.raises(errors.InvalidArgumentError, match="1 or more"):
            AsyncKMSClient(anykms.connect(uri(tmp_path), create=True), threads=0)

    run(main)
    assert threading.active_count() == before


def test_context_variables_reach_the_call_and_stay_the_callers(tmp_path: Path) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    seen: list[str] = []

    def look() -> None:
        seen.append(tenant.get())
        tenant.set("changed in the thread")

    async def of(key: AsyncKey, name: str) -> str:
        tenant.set(name)
        await key.mac(b"m")
        return tenant.get()

    async def main() -> list[str]:
        async with AsyncKMSClient(meeting(tmp_path, look)) as client:
            key = await client.key(await client.generate_key(TAGS))
            return await asyncio.gather(*(of(key, str(n)) for n in range(10)))

    assert run(main) == [str(n) for n in range(10)]
    assert sorted(seen) == [str(n) for n in range(10)]


def test_cancelling_the_await_does_not_cancel_a_begun_call(tmp_path: Path) -> None:
    begun, released, ended = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        released.wait(WAIT)
        ended.set()

    async def main() -> None:
        async with AsyncKMSClient(meeting(tmp_path, block), threads=1) as client:
            key = await client.key(await client.generate_key(TAGS))
            first = asyncio.create_task(key.mac(b"m"))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            waiting = asyncio.create_task(key.mac(b"m"))
            await asyncio.sleep(0)
            for task in (first, waiting):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            begun.clear()
            assert not ended.is_set()
            released.set()
        # Closing has joined the pool: the first call ended, the second was never begun.
        assert ended.is_set()
        assert not begun.is_set()

    run(main)


def test_closing_joins_the_pool_and_closes_the_client(tmp_path: Path) -> None:
    before = threading.active_count()
    closed: list[int] = []

    class Watched(Meeting):
        def close(self) -> None:
            closed.append(sum(thread.name.startswith("anykms") for thread in threading.enumerate()))
            super().close()

    async def main() -> None:
        provider = Watched.connect(ConnectionURI.parse(uri(tmp_path)), create=True)
        client = AsyncKMSClient(KMSClient(provider))
        key = await client.key(await client.generate_key(TAGS))
        barrier = threading.Barrier(8, timeout=WAIT)
        provider.meet = barrier.wait
        calls = asyncio.gather(*(key.mac(b"m") for _ in range(8)))
        await asyncio.sleep(0)
        await client.close()
        assert len(await calls) == 8
        await client.close()
        with pytest.raises(errors.InvalidArgumentError, match="closed"):
            await key.mac(b"m")

    run(main)
    assert closed == [0, 0]
    assert threading.active_count() == before


def test_a_cancelled_connect_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, released, closed = threading.Event(), threading.Event(), threading.Event()
    real = KMSClient.close

    def slow(*arguments: object, **options: object) -> KMSClient:
        begun.set()
        released.wait(WAIT)
        return KMSClient(LocalProvider.connect(ConnectionURI.parse(uri(tmp_path)), create=True))

    def close(self: KMSClient) -> None:
        real(self)
        closed.set()

    monkeypatch.setattr("anykms.registry.connect", slow)
    monkeypatch.setattr(KMSClient, "close", close)

    async def main() -> None:
        task = asyncio.create_task(aio.connect(uri(tmp_path)))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert closed.is_set()


def test_one_client_serves_several_loops(tmp_path: Path) -> None:
    client = AsyncKMSClient(meeting(tmp_path, lambda: None))

    async def make() -> AsyncKey:
        return await client.key(await client.generate_key(TAGS))

    key = run(make)
    assert run(lambda: key.mac(b"m")) == run(lambda: key.mac(b"m"))
    run(client.close)
