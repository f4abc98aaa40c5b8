"""Migrations beyond one process: workers of a Dask cluster, and shards; each of them killed half-way."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dask import config

import anykms
from anykms import Key, KeyConf, Keyring
from anykms.cli.failures import ExitCode
from anykms.errors import InvalidArgumentError, UnavailableError
from anykms.migration.checkpoint import Shard
from anykms.migration.cluster import DaskExecutor
from anykms.migration.engine import Migration
from anykms.migration.files import FileTarget
from anykms.migration.progress import Progress
from anykms.migration.readers import find_reader
from anykms.migration.reports import Report
from anykms.migration.steps import Bindings, HeldKeys, NamedKeys
from anykms.migration.tables import TableTarget
from anykms.migration.targets import Target
from anykms_emulators.aws import AWSEmulator

PATIENCE = 60
MAIN = "from anykms.cli import main; main()"
SECRET = "order-of-customer-4711"  # noqa: S105 # what a worker's hook knows, and nobody else may

PLACES = f'''
"""What each machine has of its own: where a directory is mounted, and a hook."""
import os, signal
from anykms.migration.files import FileTarget

class Mounted(FileTarget):
    """A directory that is mounted elsewhere on some machines."""
    def __reduce__(self):
        return mounted, (self._path,)

def mounted(path):
    target = Mounted(path)
    if "SHOP_MOUNT" in os.environ:
        target._root = os.environ["SHOP_MOUNT"] + "/."
    return target

asked = 0

def context_of(target, entry_id):
    """Required context; the process dies over the fortieth entry, if it is to."""
    global asked
    asked += 1
    if asked == 40 and "SHOP_DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"order": "{SECRET}"}}
'''


# A cluster


class Cluster:
    """A Dask scheduler and its workers, each a process of its own."""

    def __init__(self, base: Path, scheme: str = "tcp", **environment: str) -> None:
        self.base = base
        self.environment = {
            **os.environ,
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": str(base),
            **environment,
        }
        self._file = base / "scheduler.json"
        self._scheme = scheme
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start("scheduler", "--port", "0", "--protocol", scheme, "--no-dashboard")

    def _start(self, name: str, *arguments: str, **environment: str) -> None:
        command = "scheduler" if name == "scheduler" else "worker"
        with (self.base / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603 # Dask's own command
                [
                    *(sys.executable, "-m", "dask", command, "--host", f"{self._scheme}://127.0.0.1"),
                    *("--scheduler-file", str(self._file), *arguments),
                ],
                cwd=self.base,
                env={**self.environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def add(self, name: str, **environment: str) -> None:
        """One more worker, of one thread."""
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name)
        self._start(name, *options, "--local-directory", str(self.base / "dask"), **environment)

    @property
    def address(self) -> str:
        wait_for(self._file.exists)
        return str(json.loads(self._file.read_bytes())["address"])

    def wait_for(self, *names: str) -> None:
        """Until the scheduler has these workers."""
        log = self.base / "scheduler.log"
        wait_for(lambda: all(f"name: {name}" in log.read_text() for name in names))

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(PATIENCE)

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.base.glob("*.log"))


@pytest.fixture(scope="module")
def aws() -> Iterator[AWSEmulator]:
    with AWSEmulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "shop_places.py").write_text(PLACES)
    return folder


@pytest.fixture(scope="module")
def lasting(aws: AWSEmulator, places: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and the worker ``one``, which can do everything."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), PYTHONPATH=str(places))
    made.add("one", **credentials(aws))
    yield made
    made.stop()


@pytest.fixture
def cluster(lasting: Cluster) -> Iterator[Cluster]:
    """That cluster; further workers end with the test."""
    yield lasting
    for name in lasting.processes.keys() - {"scheduler", "one"}:
        lasting.kill(name)


def credentials(aws: AWSEmulator) -> dict[str, str]:
    given = aws.options["credentials"]
    return {name.upper(): value for name, value in given.items()}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def importable(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(places), *sys.path])


# A place full of messages


@dataclass
class Shop:
    """A directory of messages under the key old, to go to the key new."""

    base: Path
    uri: str
    old: Key
    new: Key
    number: int = 0
    context: dict[str, str] | None = None

    @property
    def folder(self) -> Path:
        return self.base / "messages"

    @property
    def named(self) -> NamedKeys:
        old, new = ((self.uri, str(key.info.uri)) for key in (self.old, self.new))
        return NamedKeys((old,), (new,), insecure=True)

    def fill(self, number: int, **context: str) -> None:
        ring = Keyring([self.old])
        self.folder.mkdir(exist_ok=True)
        self.number, self.context = number, context
        for index in range(number):
            data = ring.encrypt(b"plain %d" % index, context=context, required=list(context))
            (self.folder / f"{index:05}").write_bytes(data)

    def check(self) -> None:
        """By nobody's word but the files': all there, all opened by the new key alone, none naming the old one."""
        ring = Keyring([self.new])
        for index in range(self.number):
            data = (self.folder / f"{index:05}").read_bytes()
            assert ring.decrypt(data, context=self.context or {}) == b"plain %d" % index
            assert str(self.old.info.uri).encode() not in data
        assert len(os.listdir(self.folder)) == self.number

    def moved(self) -> int:
        uri = str(self.new.info.uri).encode()
        return sum(uri in (self.folder / f"{index:05}").read_bytes()[:500] for index in range(self.number))

    def migration(self, executor: DaskExecutor | None, **options: Any) -> Migration:
        from shop_places import Mounted  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports,reportUnknownVariableType] # of PLACES

        given: dict[str, Any] = {"checkpoint": self.base / "migration.db", "executor": executor, **options}
        target = cast("Target", Mounted(self.folder))
        return Migration([target], self.named, **given)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 # our own program
            [sys.executable, "-c", MAIN, "migrate", *arguments, "--checkpoint", "migration.db"],
            cwd=self.base,
            env={**os.environ, "ANYKMS_STORE": self.uri, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, bytes, bytes]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        assert b"Traceback" not in err, err.decode()
        return process.returncode, out, err


@contextmanager
def open_shop(base: Path, uri: str, **options: Any) -> Generator[Shop]:
    name = f"k{os.urandom(6).hex()}"
    with anykms.connect(uri, **options) as client:
        old, new = (
            client.key(client.generate_key(KeyConf(name + end, "ENCRYPT_DECRYPT")))
            for end in ("-old", "-new")
        )
        yield Shop(base, uri, old, new)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, f"local://{tmp_path}/keys.db", create=True) as made:
        yield made


@pytest.fixture
def cloud_shop(tmp_path: Path, aws: AWSEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for name, value in credentials(aws).items():
        monkeypatch.setenv(name, value)
    with open_shop(tmp_path, aws.uri, **aws.options) as made:
        yield made


@contextmanager
def executor_of(cluster: Cluster, **options: Any) -> Generator[DaskExecutor]:
    executor = DaskExecutor(cluster.address, threads=2, **options)
    try:
        yield executor
    finally:
        executor.close()


# Workers


def test_a_worker_is_killed_over_a_batch_and_nothing_is_lost(cluster: Cluster, shop: Shop) -> None:
    shop.fill(400, order=SECRET)
    cluster.add("mortal", SHOP_DIES="yes")
    cluster.wait_for("one", "mortal")
    bindings = Bindings(context_from="shop_places:context_of")
    with executor_of(cluster) as executor:
        report = shop.migration(executor, bindings=bindings).run()
        assert (report.ending, report.counts.done, report.complete) == ("done", 400, True)
        assert cluster.processes.pop("mortal").wait(PATIENCE) == -signal.SIGKILL
        shop.check()
        proof = shop.migration(executor, bindings=bindings).verify()
        assert (proof.ending, proof.counts.already, proof.counts.with_old_key) == ("done", 400, 0)
        # The way back needs no worker.
        assert shop.migration(executor).rollback().counts.back == 400
    logs = cluster.logs()
    for name in (SECRET, "4711", str(shop.folder), shop.old.info.name):
        assert name not in logs


def test_workers_that_are_not_fit_are_left_out(
    cluster: Cluster, cloud_shop: Shop, aws: AWSEmulator, tmp_path: Path
) -> None:
    """One without credentials, one that sees a copy of the place, one that loses sight of the place half-way."""
    shop = cloud_shop
    shop.fill(150)
    shutil.copytree(shop.folder, tmp_path / "copy")
    ring = Keyring([shop.old])
    for path in (tmp_path / "copy").iterdir():
        path.write_bytes(ring.encrypt(b"another", context={}))
    before = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    (tmp_path / "nothing").mkdir()
    (tmp_path / "mount").symlink_to(shop.folder)
    cluster.add("poor")
    cluster.add("elsewhere", SHOP_MOUNT=str(tmp_path / "copy"), **credentials(aws))
    cluster.add("blind", SHOP_MOUNT=str(tmp_path / "mount"), **credentials(aws))
    cluster.wait_for("one", "poor", "elsewhere", "blind")
    told: list[str] = []

    def look(progress: Progress) -> None:
        if progress.phase == "migrating" and not (tmp_path / "other").exists():
            (tmp_path / "other").symlink_to(tmp_path / "nothing")
            os.replace(tmp_path / "other", tmp_path / "mount")
            (tmp_path / "other").touch()

    with executor_of(cluster, on_notice=told.append) as executor:
        report = shop.migration(executor, rates={"awskms": 120}, on_progress=look).run()
        assert (report.ending, report.counts.done, report.counts.gone) == ("done", 150, 0)
        shop.check()
        reasons = Counter(
            next(
                word
                for word in ("UnauthenticatedError", "as this machine does", "that are there")
                if word in why
            )
            for why in executor.left_out.values()
        )
    assert reasons == {"UnauthenticatedError": 1, "as this machine does": 1, "that are there": 1}
    assert len(told) == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == before


def test_rates_are_those_of_the_run_and_not_of_a_worker(
    cluster: Cluster, cloud_shop: Shop, aws: AWSEmulator
) -> None:
    shop = cloud_shop
    shop.fill(100)
    cluster.add("two", **credentials(aws))
    cluster.wait_for("one", "two")
    with executor_of(cluster) as executor:
        before = Counter(aws.requests.operations)
        began = time.monotonic()
        report = shop.migration(executor, rates={"awskms": 50}).run()
        passed = time.monotonic() - began
        asked = Counter(aws.requests.operations) - before
    assert report.counts.done == 100
    shop.check()
    # 200 calls at 50 a second, of which a second's worth may come at once, and half a second's worth too early.
    assert passed > (200 - 50 - 25) / 50
    # Nobody called but for a batch that was handed out, or to show that it can: 3 entries, and once the new key.
    assert asked["Decrypt"] == 100 + 2 * (3 + 1) + 1
    assert asked["Encrypt"] == 100 + 2 + 1


def test_another_release_is_refused(cluster: Cluster, places: Path, shop: Shop, tmp_path: Path) -> None:
    shop.fill(5)
    facts = tmp_path / "older" / "anykms-0.0.7.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: anykms\nVersion: 0.0.7\n")
    cluster.add("older", PYTHONPATH=f"{facts.parent}{os.pathsep}{places}")
    cluster.wait_for("one", "older")
    with executor_of(cluster) as executor, pytest.raises(InvalidArgumentError, match=r"0\.0\.7 at tcp://"):
        shop.migration(executor).run()
    assert shop.moved() == 0


# The driver and the scheduler


def test_driver_and_scheduler_are_killed_and_the_next_run_goes_on(
    places: Path, shop: Shop, tmp_path: Path
) -> None:
    shop.fill(400)
    mine = Cluster(tmp_path, PYTHONPATH=str(places))
    try:
        mine.add("only")
        keys = ("--from", shop.old.info.name, "--to", shop.new.info.name, "messages", "--json")
        slow = ("run", *keys, "--rate", "local=300", "--scheduler", mine.address)
        driver = shop.start(*slow)
        wait_for(shop.moved)
        driver.kill()
        driver.communicate()
        assert shop.moved() < 400
        driver = shop.start(*slow)
        already = shop.moved()
        wait_for(lambda: shop.moved() > already + 20)
        mine.kill("scheduler")
        out, err = driver.communicate(timeout=PATIENCE)
        assert driver.returncode == ExitCode.STOPPED, err.decode()
        report = Report.from_json(out)
        assert "went away" in str(report.stopped_by)
        assert (report.complete, 0 < report.counts.done < 400) == (False, True)
    finally:
        mine.stop()
    # Whoever goes on needs the checkpoint only.
    code, out, err = shop.run("run", *keys)
    assert code == 0, err.decode()
    assert Report.from_json(out).counts.done == 400
    shop.check()
    code, _, err = shop.run("run", *keys, "--scheduler", "tcp://127.0.0.1:1", "--patience", "1")
    assert (code, b"no scheduler answers" in err) == (ExitCode.UNAVAILABLE, True)


def test_without_any_worker_a_run_does_not_begin(places: Path, cloud_shop: Shop, tmp_path: Path) -> None:
    cloud_shop.fill(3)
    mine = Cluster(tmp_path, PYTHONPATH=str(places))
    try:
        with executor_of(mine, patience=0.5) as executor, pytest.raises(UnavailableError, match="no worker"):
            cloud_shop.migration(executor).run()
    finally:
        mine.stop()
    assert cloud_shop.moved() == 0


# The wire


def certificates(base: Path) -> dict[str, str]:
    """An authority of the cluster's own and one certificate by it, as Dask's configuration names them."""
    now = datetime.now(UTC)

    def made(
        name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, by: Any
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
            )
            .sign(by, hashes.SHA256())
        )

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = made("cluster", None, ca_key, ca_key)
    pem = serialization.Encoding.PEM
    (base / "ca.pem").write_bytes(authority.public_bytes(pem))
    (base / "cert.pem").write_bytes(made("node", authority.subject, key, ca_key).public_bytes(pem))
    (base / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    names = {"ca-file": "ca"} | {
        f"{role}.{part}": part for role in ("scheduler", "worker", "client") for part in ("cert", "key")
    }
    return {f"distributed.comm.tls.{name}": str(base / f"{file}.pem") for name, file in names.items()}


def test_a_cluster_with_tls_takes_those_it_knows(places: Path, shop: Shop, tmp_path: Path) -> None:
    shop.fill(20)
    given = certificates(tmp_path)
    # Dask's way to say it by the environment
    variables = {f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": v for name, v in given.items()}
    mine = Cluster(tmp_path, "tls", PYTHONPATH=str(places), **variables)
    try:
        mine.add("only")
        with executor_of(mine, patience=3) as executor:
            assert executor.address.startswith("tls://")
            with pytest.raises(InvalidArgumentError, match="ca-file"):
                shop.migration(executor).run()
        (tmp_path / "strangers").mkdir()
        with (
            config.set(certificates(tmp_path / "strangers")),
            executor_of(mine, patience=3) as executor,
            pytest.raises(UnavailableError, match="no scheduler answers"),
        ):
            shop.migration(executor).run()
        assert shop.moved() == 0
        with config.set(given), executor_of(mine) as executor:
            assert shop.migration(executor).run().counts.done == 20
    finally:
        mine.stop()
    shop.check()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("tcp://10.0.0.5:8786", "use tls://"),
        ("tcp://scheduler.example:8786", "use tls://"),
        ("tcp://localhost.example:8786", "use tls://"),
        ("127.0.0.1:8786", "tls://HOST:PORT"),
        ("tls://scheduler.example", "tls://HOST:PORT"),
        ("tls://user@scheduler.example:8786", "tls://HOST:PORT"),
        ("tls://scheduler.example:8786/x", "tls://HOST:PORT"),
        ("tls://scheduler.example:99999", "tls://HOST:PORT"),
        ("inproc://1.2.3.4/5/6", "tls://HOST:PORT"),
        ("ws://127.0.0.1:8786", "tls://HOST:PORT"),
        ("", "tls://HOST:PORT"),
    ],
)
def test_addresses_that_are_no_good_idea_are_refused(address: str, told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        DaskExecutor(address)


def test_loopback_and_what_the_caller_allows_is_taken() -> None:
    for address in (
        "tcp://127.0.0.1:8786",
        "tcp://[::1]:8786",
        "tcp://localhost:8786",
        "tls://a.example:8786",
    ):
        DaskExecutor(address).close()
    DaskExecutor("tcp://10.0.0.5:8786", allow_insecure_endpoint=True).close()


def table(url: str) -> Target:
    return TableTarget(url, table="cards", id_column="id", column="number")


def test_what_must_not_cross_is_refused_before_anything_is_sent(shop: Shop, tmp_path: Path) -> None:
    shop.fill(1)
    (tmp_path / "fernet.keys").touch(0o600)
    (tmp_path / "fernet.keys").write_bytes(b"A" * 43 + b"=")
    reader = find_reader("fernet", {"key-file": str(tmp_path / "fernet.keys")})
    target = FileTarget(shop.folder)
    urls = ["postgresql://app:hunter2@db.example/shop", "postgresql://db.example/shop?password=hunter2"]
    cases: list[tuple[Target, Any, Any, str]] = [
        (target, HeldKeys([shop.old], [shop.new]), (), "NamedKeys"),
        (target, shop.named, (reader,), "foreign"),
        *((table(url), shop.named, (), "password") for url in urls),
    ]
    executor = DaskExecutor("tcp://127.0.0.1:1", patience=0.1)
    for place, keys, readers, told in cases:
        with pytest.raises(InvalidArgumentError, match=told) as caught:
            Migration([place], keys, readers=readers, checkpoint=tmp_path / "m.db", executor=executor).run()
        assert "hunter2" not in str(caught.value)
    pickle.dumps(table(urls[0]))  # it could be sent: it was refused for what it holds
    allowed = table("postgresql://app@db.example/shop")
    with pytest.raises(UnavailableError):
        Migration([allowed], shop.named, checkpoint=tmp_path / "m.db", executor=executor).run()
    executor.close()


# Shards


def shards(shop: Shop, count: int, *options: str) -> list[subprocess.Popen[bytes]]:
    keys = ("--from", shop.old.info.name, "--to", shop.new.info.name, "messages", "--json")
    return [
        shop.start("run", *keys, "--shard", f"{number}/{count}", *options) for number in range(1, count + 1)
    ]


def finished(processes: Sequence[subprocess.Popen[bytes]]) -> list[Report]:
    reports: list[Report] = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err.decode()
        reports.append(Report.from_json(out))
    return reports


def test_shards_at_once_share_a_checkpoint_and_one_is_killed(shop: Shop) -> None:
    shop.fill(600)
    first, second = shards(shop, 2, "--rate", "local=600")
    with ExitStack() as stack:
        for process in (first, second):
            stack.callback(process.kill)
        wait_for(lambda: shop.moved() > 100)
        second.kill()
        second.communicate()
        (done,) = finished([first])
    assert done.counts.walked == done.counts.done
    assert (done.shard, done.complete) == ("1/2", False)
    assert shop.moved() < 600
    # What the other shard has left is seen by whoever looks at the whole; what it was in the middle of counts, too.
    planned = shop.migration(None).plan()
    assert planned.counts.todo + planned.counts.done == 600
    assert planned.counts.todo >= 600 - shop.moved() > 0
    proof = shop.migration(None).verify()
    assert (proof.ending, proof.counts.reported) == ("left", {"old_key_named": 600 - shop.moved()})
    whole = shop.migration(None).run()
    assert (whole.counts.done, whole.complete) == (600, True)
    shop.check()
    assert shop.migration(None, shard=Shard(2, 2)).rollback().counts.back == 600 - done.counts.done
    assert shop.moved() == done.counts.done


def test_shards_that_overlap_do_not_run_at_once(shop: Shop) -> None:
    shop.fill(300)
    keys = ("--from", shop.old.info.name, "--to", shop.new.info.name, "messages", "--json")
    first = shop.start("run", *keys, "--shard", "1/2", "--rate", "local=20")
    with ExitStack() as stack:
        stack.callback(first.kill)
        wait_for(shop.moved)
        for shard in ("1/2", "2/3", "1/1"):
            code, _, err = shop.run("run", *keys, "--shard", shard)
            assert (code, b"another process" in err) == (ExitCode.UNAVAILABLE, True), err.decode()
        assert shop.run("run", *keys, "--shard", "2/2")[0] == 0
        assert first.poll() is None
        first.terminate()
        first.communicate(timeout=PATIENCE)
    assert shop.run("run", *keys)[0] == 0
    shop.check()


def test_two_shards_of_one_process_keep_each_their_range(shop: Shop) -> None:
    """The end of one must not open the other's range to a third."""
    shop.fill(60)
    held: list[object] = []

    def look(progress: Progress) -> None:
        if progress.phase == "migrating" and not held:
            held.append(shop.migration(None, shard=Shard(2, 2)).plan())
            with pytest.raises(UnavailableError, match="another process"):
                shop.migration(None, shard=Shard(1, 2)).plan()
            keys = ("--from", shop.old.info.name, "--to", shop.new.info.name, "messages")
            held.append(shop.run("plan", *keys, "--shard", "1/2")[0])

    shop.migration(None, shard=Shard(1, 2), rates={"local": 40}, on_progress=look).run()
    assert held[1:] == [ExitCode.UNAVAILABLE]
