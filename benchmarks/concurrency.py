"""Many calls of a slow key service at once: ``anykms.aio`` against one call after the other and asyncio's own pool."""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine

from anykms import Key, KeyConf, KeyInfo, KMSClient
from anykms.aio import DEFAULT_THREADS, AsyncKey, AsyncKMSClient
from anykms.keys import ConnectionURI
from anykms_local import LocalProvider


class Slow(LocalProvider):
    """A keystore that answers a MAC after ``delay`` seconds, and makes none."""

    delay = 0.02

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        time.sleep(self.delay)
        return bytes(32)


async def awaited(key: AsyncKey, calls: int) -> None:
    await asyncio.gather(*(key.mac(b"m") for _ in range(calls)))


async def to_thread(key: Key, calls: int) -> None:
    await asyncio.gather(*(asyncio.to_thread(key.mac, b"m") for _ in range(calls)))


async def one_by_one(key: AsyncKey, calls: int) -> None:
    for _ in range(calls):
        await key.mac(b"m")


async def timed(work: Callable[[], Coroutine[None, None, None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def measure(client: KMSClient, calls: int, rounds: int) -> dict[str, float]:
    key = client.key(client.generate_key(KeyConf("tags", "MAC", algorithm="HS256")))
    async with AsyncKMSClient(client) as twin:
        awaitable = await twin.key(key.info)
        subjects = {
            f"anykms.aio, {DEFAULT_THREADS} threads": lambda: awaited(awaitable, calls),
            "asyncio.to_thread": lambda: to_thread(key, calls),
        }
        samples: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(rounds + 1):
            for name, subject in subjects.items():
                samples[name].append(await timed(subject))
        Slow.delay = 0.0
        hops = [await timed(lambda: one_by_one(awaitable, calls)) / calls for _ in range(rounds)]
        direct: list[float] = []
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(calls):
                key.mac(b"m")
            direct.append((time.perf_counter() - began) / calls)
    # The first round starts the threads.
    found = {name: statistics.median(times[1:]) for name, times in samples.items()}
    found["one awaited call over a direct one"] = statistics.median(hops) - statistics.median(direct)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        where = ConnectionURI.parse(f"local://{folder}/keys.db")
        client = KMSClient(Slow.connect(where, create=True))
        found = asyncio.run(measure(client, arguments.calls, arguments.rounds))
    print(f"{arguments.calls} calls of {0.02 * 1000:.0f} ms at once, {os.cpu_count()} processors, medians:")
    for name, seconds in found.items():
        print(f"  {name}: {seconds * 1000:.3f} ms")


if __name__ == "__main__":
    main()
