"""How a migration grows with shards and with workers of a Dask cluster, and where it ends: at the provider's limit.

Keys are local, where processors are the limit, and those of an AWS emulator that takes a quarter of a second for
each call, where waiting is. Each shard and each worker has 4 threads.

Run: python benchmarks/cluster.py [LOCAL ENTRIES [CLOUD ENTRIES]]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anykms
from anykms import Key, KeyConf, Keyring
from anykms.migration.cluster import DaskExecutor
from anykms.migration.engine import Migration
from anykms.migration.files import FileTarget
from anykms.migration.steps import NamedKeys
from anykms_emulators.aws import AWSEmulator

PROGRAM = "from anykms.cli import main; main()"
SIZES = (1, 2, 4)
THREADS = 4
DELAY = 0.25


@dataclass
class Place:
    """Keys, and a directory to fill anew for every figure."""

    base: Path
    uri: str
    old: Key
    new: Key
    number: int
    environment: Mapping[str, str]
    rate: float | None = None

    def fill(self, name: str) -> Path:
        folder = self.base / name
        ring = Keyring([self.old])
        for index in range(self.number):
            path = folder / f"{index % 50:02}" / f"{index:06}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(ring.encrypt(bytes(1000), context={}))
        return folder

    def shards(self, count: int) -> float:
        """Entries a second, with the start of each shard's process and its walks."""
        folder = self.fill(f"shards-{count}-{self.rate}")
        command = [sys.executable, "-c", PROGRAM, "--allow-insecure-endpoint", "migrate", "run", "--json"]
        command += ["--from", self.old.info.name, "--to", self.new.info.name, "--concurrency", str(THREADS)]
        command += ["--checkpoint", f"{folder}.db", str(folder)]
        command += [] if self.rate is None else ["--rate", f"{self.old.info.provider}={self.rate:g}"]
        processes = [
            subprocess.Popen(
                [*command, "--shard", f"{number}/{count}"],
                env={**os.environ, **self.environment, "ANYKMS_STORE": self.uri},
                stdout=subprocess.PIPE,
            )
            for number in range(1, count + 1)
        ]
        began = time.time()
        reports = [json.loads(process.communicate()[0]) for process in processes]
        if sum(report["counts"]["done"] for report in reports) != self.number:
            raise SystemExit("a shard left something out")
        return self.number / (time.time() - began)

    def workers(self, count: int) -> float:
        """Entries a second of a run; the cluster has started, and the plan is made."""
        folder = self.fill(f"workers-{count}-{self.rate}")
        keys = [((self.uri, str(key.info.uri)),) for key in (self.old, self.new)]
        with cluster(folder.with_suffix(".dask"), count, self.environment) as address:
            executor = DaskExecutor(address)
            move = Migration(
                [FileTarget(folder)],
                NamedKeys(keys[0], keys[1], insecure=True),
                checkpoint=f"{folder}.db",
                executor=executor,
                rates={} if self.rate is None else {self.old.info.provider: self.rate},
            )
            while executor.capacity < count * THREADS:
                move.plan()
            began = time.perf_counter()
            done = move.run().counts.done
            passed = time.perf_counter() - began
            executor.close()
        if done != self.number:
            raise SystemExit("the cluster left something out")
        return self.number / passed


@contextmanager
def cluster(base: Path, workers: int, environment: Mapping[str, str]) -> Generator[str]:
    base.mkdir()
    file = base / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    shared = ["--host", "127.0.0.1", "--scheduler-file", str(file), "--no-dashboard"]
    own = ["--no-nanny", "--nthreads", str(THREADS), "--local-directory", str(base)]
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in [
            [*dask, "scheduler", *shared, "--port", "0"],
            *[[*dask, "worker", *shared, *own]] * workers,
        ]
    ]
    try:
        while not file.exists():
            time.sleep(0.05)
        yield json.loads(file.read_bytes())["address"]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def show(what: str, place: Place) -> None:
    for kind in ("shards", "workers"):
        rates = [getattr(place, kind)(count) for count in SIZES]
        told = "".join(f"{rate:10,.0f} /s {rate / rates[0]:5.2f}x" for rate in rates)
        print(f"{what + ', ' + kind:52}{told}", flush=True)


def main(local: int, cloud: int) -> None:
    print(f"{'':52}" + "".join(f"{count:>12}      " for count in SIZES))
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        with anykms.connect(f"local://{base}/keys.db", create=True) as client:
            old, new = (
                client.key(client.generate_key(KeyConf(key, "ENCRYPT_DECRYPT"))) for key in ("old", "new")
            )
            show("local keys", Place(base, f"local://{base}/keys.db", old, new, local, {}))
    with AWSEmulator() as aws, anykms.connect(aws.uri, **aws.options) as client:
        old, new = (
            client.key(client.generate_key(KeyConf(key, "ENCRYPT_DECRYPT"))) for key in ("old", "new")
        )
        os.environ.update(aws.environment)
        for rate, what in (
            (None, f"calls of {DELAY * 1000:.0f} ms"),
            (40.0, "the same, limit 40 calls a second"),
        ):
            with tempfile.TemporaryDirectory() as name:
                place = Place(Path(name), aws.uri, old, new, cloud, aws.environment, rate)
                aws.faults.clear()
                for operation in ("Decrypt", "Encrypt"):
                    aws.faults.add(operation, kind="delay", delay=DELAY, times=None)
                show(what, place)


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [4_000, 240][len(given) :]))
