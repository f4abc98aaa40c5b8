"""``anykms contract``: it plans first, changes only what it made, cleans up, and can be resumed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anykms.client import KMSClient
from anykms.errors import InvalidArgumentError
from anykms.keys import KeyConf, KeyState
from anykms.registry import connect
from anykms_contract.journal import Journal
from anykms_contract.results import Outcome, Status, from_json, known_clauses, suite
from anykms_contract.running import measured, prices

ANYKMS = Path(sys.executable).with_name("anykms")
FEW = "test_disable_and_enable or test_a_destroyed_key_is_gone"
BROKEN = """
import sys
from pathlib import Path
from anykms.errors import PermissionDeniedError
from anykms.registry import open_provider
from anykms_contract import ObservedProvider
from anykms_contract.journal import Journal
from anykms_contract.pages import write_report
from anykms_contract.running import run
from anykms_contract.stores import Store

class Broken(ObservedProvider):
    def set_enabled(self, info, enabled):
        pass
    def schedule_destruction(self, info):
        raise PermissionDeniedError("no", request_id="req-0815")

uri = f"local://{Path.cwd()}/broken.db"
store = Store(label="broken", description="", live=False,
              connect=lambda: Broken(open_provider(uri, create=True)))
found = run([store], Journal.new(Path(), {}), only="test_disable_and_enable or test_a_scheduled_destruction",
            deviations={"test_tags_at_the_limits_are_kept": "none"})
write_report(found.report, Path("conformance"))
print(len(found.left_over["broken"]), set(found.left_over["broken"].values()))
"""


def anykms(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("ANYKMS", "PYTEST"))}
    command = [str(ANYKMS), "contract", *arguments]
    done = subprocess.run(  # noqa: S603 # our own command
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def store(folder: Path) -> str:
    return f"local://{folder}/keys.db"


def opened(folder: Path) -> KMSClient:
    return connect(store(folder), create=True)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_without_yes_it_plans_and_does_nothing(tmp_path: Path) -> None:
    said = anykms(tmp_path, "--store", store(tmp_path))
    assert "Nothing was done" in said
    assert f"{len(known_clauses())} clauses" in said
    assert not list(tmp_path.glob("*.jsonl"))
    with opened(tmp_path) as client:
        assert list(client.list_keys()) == []


def test_a_run_names_what_it_could_not_judge_and_leaves_no_key(tmp_path: Path) -> None:
    with opened(tmp_path) as client:
        mine = client.generate_key(KeyConf("mine", "ENCRYPT_DECRYPT"))
    said = anykms(tmp_path, "--store", store(tmp_path), "--only", FEW, "--yes", "--report", "out")
    report = from_json((tmp_path / "out" / "conformance.json").read_bytes())
    assert report.counts["local"] == {
        "passed": 1,
        "unsupported": 0,
        "not_run": 1,
        "deviation": 0,
        "failed": 0,
    }
    (cell,) = [cell for cell in report.cells if cell.status is Status.NOT_RUN]
    assert cell.clause == "LifecycleContract.test_a_destroyed_key_is_gone"
    assert "needs a clock" in cell.others[0].reason
    (journal,) = tmp_path.glob("anykms-contract-r*.jsonl")
    run = journal.stem.removeprefix("anykms-contract-")
    assert f"--resume {run}" in said
    with opened(tmp_path) as client:
        states = {info.name: client.describe_key(info).state for info in client.list_keys()}
    assert states.pop(mine.name) is KeyState.ENABLED
    assert states
    assert set(states.values()) == {KeyState.PENDING_DESTRUCTION}
    assert all(name.startswith(f"{run}-") for name in states)
    again = json.loads(anykms(tmp_path, "--resume", run, "--yes", "--json"))
    assert again["counts"]["local"]["passed"] == 1
    outcomes = [line for line in journal.read_text().splitlines() if '"outcome"' in line]
    assert len(outcomes) == 3  # what passed was not run again


def test_the_cap_ends_the_calls_and_says_so(tmp_path: Path) -> None:
    anykms(
        tmp_path, "--store", store(tmp_path), "--only", FEW, "--yes", "--max-calls", "5", "--report", "out"
    )
    cells = read(tmp_path / "out" / "conformance.json")["cells"]
    assert {other["reason"] for cell in cells for other in cell["others"]} == {
        "the cap of 5 calls is reached"
    }
    (journal,) = tmp_path.glob("*.jsonl")
    assert Journal.read(tmp_path, journal.stem.removeprefix("anykms-contract-")).calls.total() == 5


def test_read_only_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as client:
        for name, purpose in (("orders", "ENCRYPT_DECRYPT"), ("releases", "SIGN_VERIFY")):
            algorithm = "ES256" if purpose == "SIGN_VERIFY" else None
            client.generate_key(KeyConf(name, purpose, algorithm=algorithm))
        before = {info: client.describe_key(info) for info in client.list_keys()}
    anykms(
        tmp_path,
        *("--store", store(tmp_path), "--read-only", "orders", "--read-only", "releases"),
        *("--only", "Lifecycle or Wrapping or Signing", "--yes", "--report", "out"),
    )
    with opened(tmp_path) as client:
        assert {info: client.describe_key(info) for info in client.list_keys()} == before
    report = from_json((tmp_path / "out" / "conformance.json").read_bytes())
    assert report.total(Status.FAILED) == 0
    assert report.total(Status.PASSED) > 60
    assert report.unexplained == 0
    cell = report.cell("SigningContract.test_a_signature_verifies_everywhere", "local")
    assert cell is not None
    assert cell.passed == ("ES256",)
    reasons = {other.reason for cell in report.cells for other in cell.others}
    assert all("read-only" in r or "none was given" in r or "needs a clock" in r for r in reasons), reasons


def test_a_broken_provider_is_told_with_its_evidence(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 # our own script
        [sys.executable, "-c", BROKEN], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 {'PermissionDeniedError: no'}\n"
    report = from_json((tmp_path / "conformance.json").read_bytes())
    failures = {cell.clause.partition(".")[2]: cell.others[0].failure for cell in report.cells}
    scheduled = failures["test_a_scheduled_destruction_says_when"]
    assert scheduled is not None
    assert (scheduled.error, scheduled.request_ids) == ("PermissionDeniedError", ("req-0815",))
    disabled = failures["test_disable_and_enable"]
    assert disabled is not None
    assert disabled.error == "DeadlineExceededError"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a provider"),
        (["--resume", "r00000000"], "no run r00000000"),
        (["--resume", "../x"], "is no run"),
        (["--resume", "r00000000", "--only", "x"], "leave them out"),
        (["--store", "nothing://x"], "no installed provider"),
        (["--emulator", "local", "--deviations", "deviations.json", "--yes"], "is no clause"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "deviations.json").write_text('{"test_nothing": "reason"}')
    assert said in anykms(tmp_path, *arguments, code=2)
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_journal_survives_an_interrupt(tmp_path: Path) -> None:
    journal = Journal.new(tmp_path, {"stores": []})
    journal.begin()
    journal.ask("local", f"{journal.run}-1-1-1")
    journal.record(Outcome("local", "A.test_a", Status.PASSED))
    with journal.path.open("a") as file:
        file.write('{"outcome": {"prov')
    again = Journal.read(tmp_path, journal.run)
    assert again.left("local") == [f"{journal.run}-1-1-1"]
    assert again.finished("local") == {("A.test_a", "")}
    again.begin()
    assert again.prefix(1) != journal.prefix(1)
    assert Journal.read(tmp_path, journal.run).begun == 2
    journal.path.write_text('{"format": "other"}\n{}\n')
    with pytest.raises(InvalidArgumentError):
        Journal.read(tmp_path, journal.run)


def test_clauses_are_measured_and_every_cloud_is_priced() -> None:
    cases = {case.partition("[")[0] for case in measured()}
    known = {clause.id for clause in known_clauses()}
    assert cases <= known, "calls.json names clauses that are gone; make it anew"
    assert len(known - cases) <= 10, "too many clauses are not in calls.json; make it anew"
    assert sum(len(contract.clauses()) for contract in suite()) == len(known_clauses())
    for price in prices().providers.values():
        if price.source == "not verified":
            assert price.seen == ""
        else:
            assert price.source.startswith("https://")
            assert len(price.seen) == len("2026-11-24")
        assert price.requests_per_call >= 1
    assert {"awskms", "gcpkms", "azurekms"} == set(prices().providers)


def test_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    master, slave = os.openpty()
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("ANYKMS", "PYTEST"))}
    command = [str(ANYKMS), "contract", "--emulator", "local", "--yes", "--only", FEW]
    process = subprocess.Popen(  # noqa: S603 # our own command
        command,
        cwd=tmp_path,
        env=environment | {"TERM": "xterm", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    drawn = bytearray()
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(master, 65536):
            drawn += piece
    os.close(master)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    counts = re.findall(rb"(\d+)/(\d+)", bytes(drawn))
    total = max(int(whole) for _, whole in counts)
    assert total > 1
    assert {int(whole) for _, whole in counts} == {total}
    assert [int(done) for done, _ in counts][-1] == total
    assert b"0 failed" in drawn
