"""Everything measured that docs/performance.md says, in one run: ``python benchmarks/performance.py``.

The result goes to docs/performance.json, and the page and the plot are made from it. With ``--out`` it goes elsewhere.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import peers
import report
import tampering
from anykms import DataKeyCache, KeyConf, Keyring, KMSClient, connect
from imports import over_bare_python
from rounds import Subject, ratio, samples

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
SIZES: Final = (64, KIB, 16 * KIB, 64 * KIB, MIB, 16 * MIB, 256 * MIB)
PACKAGES: Final = ("cryptography", "msgspec", "aws-encryption-sdk", "tink")
IMPORTS: Final = (
    "import anykms",
    "import anykms; anykms.Keyring",
    "from cryptography.hazmat.primitives.ciphers.aead import AESGCM",
    "import tink; from tink import aead",
    "import aws_encryption_sdk",
)


def machine() -> dict[str, object]:
    """Where and with what it was measured."""
    cpu = platform.processor()
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu,
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("anykms", *PACKAGES)},
        "openssl": backend.openssl_version_text(),
    }


def message_times(keystore: Keyring, quick: bool) -> list[dict[str, object]]:
    """Microseconds of processor time per message, and multiples of raw AESGCM and bare Cobblestone, for each size."""
    rows: list[dict[str, object]] = []
    for size in SIZES:
        data = os.urandom(size)
        rounds, seconds = (31, 0.008) if size <= 64 * KIB else (9, 0.01) if size < 256 * MIB else (3, 0.0)
        subjects = peers.messages(keystore)
        sealed = {name: peer.encrypt(data) for name, peer in subjects.items()}
        ways: dict[str, dict[str, Subject]] = {
            "encrypt": {name: partial(peer.encrypt, data) for name, peer in subjects.items()},
            "decrypt": {name: partial(peer.decrypt, sealed[name]) for name, peer in subjects.items()},
        }
        for way, turns in ways.items():
            found = samples(turns, rounds=3 if quick else rounds, seconds=seconds, clock=time.process_time)
            for name, times in found.items():
                rows.append(
                    {
                        "size": size,
                        "way": way,
                        "subject": name,
                        "us": statistics.median(times) * 1e6,
                        "x_raw": ratio(found, name, "raw AESGCM"),
                        "x_bare": ratio(found, name, "bare Cobblestone"),
                        "x_cached": ratio(found, name, "anykms, cached data key"),
                        "bytes_more": len(sealed[name]) - size,
                    }
                )
        print(f"messages of {size} bytes: measured", file=sys.stderr)
    return rows


def into_buffer(quick: bool) -> list[dict[str, object]]:
    """1 MiB encrypted into one buffer, again and again."""
    data, target = os.urandom(MIB), bytearray(2 * MIB)
    exact = memoryview(target)[: MIB + 16]
    key, nonce, raw = os.urandom(32), os.urandom(12), AESGCM(os.urandom(32))
    keyring = peers.ring(cache=DataKeyCache())

    def bare() -> None:
        encryptor = Cobblestone256Encryptor(key, peers.AAD)
        encryptor.update_into(data, target)
        encryptor.finalize()

    found = samples(
        {
            "raw AESGCM": lambda: raw.encrypt_into(nonce, data, None, exact),
            "bare Cobblestone": bare,
            "anykms, cached data key": lambda: keyring.encrypt_into(data, target, context=peers.CONTEXT),
        },
        rounds=5 if quick else 61,
        seconds=0.01,
        clock=time.process_time,
    )
    return [
        {
            "subject": name,
            "us": statistics.median(times) * 1e6,
            "x_raw": ratio(found, name, "raw AESGCM"),
            "x_bare": ratio(found, name, "bare Cobblestone"),
        }
        for name, times in found.items()
    ]


def stream_times(size: int, quick: bool) -> list[dict[str, object]]:
    """MB/s of processor time from memory to a sink that keeps nothing."""
    subjects = peers.streams()
    sealed: dict[str, bytes] = {}
    for name, stream in subjects.items():
        whole = io.BytesIO()
        stream.encrypt(cast("Any", peers.Repeated(size)), whole)
        # A fresh copy, so that each lies in memory of the same kind.
        sealed[name] = bytes(whole.getbuffer())

    def encrypted(stream: peers.Stream) -> None:
        stream.encrypt(cast("Any", peers.Repeated(size)), peers.Nowhere())

    def decrypted(stream: peers.Stream, message: bytes) -> None:
        stream.decrypt(io.BytesIO(message), peers.Nowhere())

    ways: dict[str, dict[str, Subject]] = {
        "encrypt": {name: partial(encrypted, stream) for name, stream in subjects.items()},
        "decrypt": {name: partial(decrypted, stream, sealed[name]) for name, stream in subjects.items()},
    }
    rows: list[dict[str, object]] = []
    for way, turns in ways.items():
        found = samples(turns, rounds=2 if quick else 5, seconds=0.0, clock=time.process_time)
        for name, times in found.items():
            rows.append(
                {
                    "way": way,
                    "subject": name,
                    "mb_per_second": size / statistics.median(times) / 1e6,
                    "of_bare": 1 / ratio(found, name, "bare Cobblestone"),
                    "of_tink": 1 / ratio(found, name, "Tink streaming"),
                }
            )
    print("streams: measured", file=sys.stderr)
    return rows


def _resident(name: str) -> int:
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * KIB for line in lines if line.startswith(name))


def _peak_of(work: Callable[[], None]) -> int:
    """Bytes of memory that ``work`` needs at its peak, beyond what the process had before."""
    gc.collect()
    # What the C library keeps of memory that was freed would hide what is needed again.
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as marks:
        marks.write("5")
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def peak(subject: str, way: str, size: int) -> int:
    """In a process of its own: peak memory of one stream, once a short one has loaded all code."""
    stream = peers.streams()[subject]
    with tempfile.TemporaryFile() as short:
        stream.encrypt(cast("Any", peers.Repeated(KIB)), short)
        short.seek(0)
        stream.decrypt(short, peers.Nowhere())
    if way == "encrypt":
        return _peak_of(lambda: stream.encrypt(cast("Any", peers.Repeated(size)), peers.Nowhere()))
    with tempfile.TemporaryFile(buffering=0) as sealed:
        stream.encrypt(cast("Any", peers.Repeated(size)), sealed)
        sealed.seek(0)
        return _peak_of(lambda: stream.decrypt(sealed, peers.Nowhere()))


def peaks(quick: bool) -> list[dict[str, object]]:
    """Peak memory over idle, each in its own process."""
    plan = [(name, 256 * MIB) for name in peers.streams()]
    plan.append(("anykms", 4 * GIB))
    rows: list[dict[str, object]] = []
    for name, size in plan:
        for way in ("encrypt", "decrypt"):
            short = min(size, 32 * MIB) if quick else size
            command = [sys.executable, __file__, "--peak", name, way, str(short)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"subject": name, "way": way, "size": size, "bytes": int(done.stdout)})
    print("memory: measured", file=sys.stderr)
    return rows


def rewrap_rates(keystore: Keyring, quick: bool) -> list[dict[str, object]]:
    """Rewraps per second of processor time."""
    plan = peers.rewraps()
    record = keystore.record(context=peers.CONTEXT).to_bytes()
    plan["anykms, a header, key in a keystore"] = (
        lambda: keystore.rewrap(record, to=keystore),
        "the first, with both wrapping keys in an SQLite keystore",
    )
    turns = {name: subject for name, (subject, _) in plan.items()}
    found = samples(turns, rounds=5 if quick else 61, seconds=0.01, clock=time.process_time)
    return [
        {"subject": name, "per_second": 1 / statistics.median(times), "what": plan[name][1]}
        for name, times in found.items()
    ]


def calls(count: int) -> list[dict[str, object]]:
    """Calls at the provider's seam for ``count`` messages of 1 KiB under one context, by policy of the cache."""
    data, message = bytes(KIB), b""
    rows: list[dict[str, object]] = []
    for per_key in (2**20, 10_000):
        provider = peers.MemoryKeys()
        with DataKeyCache(max_messages=per_key) as cache:
            keyring = Keyring([KMSClient(provider).key("alpha")], cache=cache)
            began = time.monotonic()
            for number in range(count):
                message = keyring.encrypt(data, context=peers.CONTEXT, aad=number.to_bytes(4))
            wrapped, seconds = provider.asked, time.monotonic() - began
            # More than the messages need only where the keys grow too old meanwhile.
            allowed = -(-count // per_key) + int(seconds // cache.max_age)
            rows.append(
                {
                    "way": "encrypt",
                    "per_key": per_key,
                    "messages": count,
                    "calls": wrapped,
                    "allowed": allowed,
                }
            )
            if per_key > count:
                continue
            began = time.monotonic()
            for _ in range(count):
                keyring.decrypt(message, context=peers.CONTEXT, aad=(count - 1).to_bytes(4))
            seconds = time.monotonic() - began
            allowed = -(-count // per_key) + int(seconds // keyring.state_ttl)
            rows.append(
                {
                    "way": "decrypt",
                    "per_key": per_key,
                    "messages": count,
                    "calls": provider.asked - wrapped,
                    "allowed": allowed,
                }
            )
    provider = peers.MemoryKeys()
    keyring = Keyring([KMSClient(provider).key("alpha")])
    for _ in range(1000):
        keyring.encrypt(data, context=peers.CONTEXT)
    rows.append({"way": "encrypt", "per_key": 1, "messages": 1000, "calls": provider.asked, "allowed": 1000})
    print("calls: counted", file=sys.stderr)
    return rows


def measure(quick: bool) -> dict[str, object]:
    """All of it."""
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, connect(f"local://{folder}/keys.db", create=True) as store:
        keystore = Keyring([store.key(store.generate_key(KeyConf("orders", "ENCRYPT_DECRYPT")))])
        found: dict[str, object] = {
            "machine": machine(),
            "buffer": into_buffer(quick),
            "rewraps": rewrap_rates(keystore, quick),
            "messages": message_times(keystore, quick),
            "unlike": {name: peer.unlike for name, peer in peers.messages(keystore).items()},
        }
    found["streams"] = stream_times(256 * MIB, quick)
    found["streams_unlike"] = {name: stream.unlike for name, stream in peers.streams().items()}
    found["memory"] = peaks(quick)
    found["imports"] = {
        statement: over_bare_python(statement, rounds=3 if quick else 11) for statement in IMPORTS
    }
    found["calls"] = calls(10_000 if quick else 1_000_000)
    found["tampering"] = tampering.attack(MIB if quick else 100 * MIB)
    found["load"] = {"before": before, "after": os.getloadavg()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--out", type=Path, default=report.DOCS, help="folder for performance.{json,md,svg}")
    parser.add_argument("--peak", nargs=3, metavar=("SUBJECT", "WAY", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        subject, way, size = arguments.peak
        print(peak(subject, way, int(size)))
        return
    found = measure(arguments.quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "performance.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    report.write(arguments.out)
    print((arguments.out / "performance.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
