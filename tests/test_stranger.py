"""A provider of another house, begun with ``anykms new-provider``, runs the contract and keeps it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from anykms.errors import InvalidArgumentError
from anykms_contract import Contract
from anykms_contract.newcomer import write_provider

_ANYKMS = Path(sys.executable).with_name("anykms")
_BINDING = "test_contract.py"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stranger's project, as the command writes it, installed from its path."""
    copy = tmp_path_factory.mktemp("house") / "stranger"
    command = [str(_ANYKMS), "new-provider", "vaultkms", "--into", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 # our own command
    assert "pyproject.toml" in done.stdout
    _run(
        "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(copy / "site"), str(copy)
    )
    shutil.rmtree(copy / "vaultkms")  # only what was installed is left to import
    return copy


def test_a_strangers_provider_keeps_the_contract(house: Path) -> None:
    report = house / "report.xml"
    _run("pytest", _BINDING, "-q", f"--junitxml={report}", at=house)
    suite = ElementTree.parse(report).getroot()[0]  # noqa: S314 # our own report
    assert {name: suite.get(name) for name in ("failures", "errors", "skipped")} == {
        "failures": "0",
        "errors": "0",
        "skipped": "0",
    }
    ran = {str(case.get("name")).partition("[")[0] for case in suite.iter("testcase")}
    clauses = {
        name
        for contract in Contract.__subclasses__()
        if _is_the_suites(contract)
        for name in contract.clauses()
    }
    assert ran == clauses
    assert int(suite.get("tests", "0")) > len(clauses)


def test_a_strangers_provider_is_connected_by_uri(house: Path) -> None:
    script = (
        "import anykms\n"
        "with anykms.connect('vaultkms://one.vault.example') as client:\n"
        "    ring = anykms.Keyring([client.key(client.generate_key("
        "anykms.KeyConf('orders', 'ENCRYPT_DECRYPT')))])\n"
        "    print(ring.decrypt(ring.encrypt(b'data', context={}), context={}).decode())\n"
    )
    done = subprocess.run(  # noqa: S603 # our own interpreter and script
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=_environment(house)
    )
    assert done.stdout == "data\n"


@pytest.mark.parametrize(
    "name", ["local", "Vault", "1vault", "vault-kms", "v", "http", "", "../vault", "v" * 32]
)
def test_a_name_that_cannot_be_a_scheme_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        write_provider(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("mine")
    with pytest.raises(FileExistsError):
        write_provider("vaultkms", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]


def test_the_template_leaves_no_name_of_its_own(tmp_path: Path) -> None:
    for path in write_provider("vaultkms", tmp_path):
        assert "acme" not in path.read_text().lower()


def _is_the_suites(contract: type[Contract]) -> bool:
    return contract.__module__.startswith("anykms_contract.")


def _environment(house: Path | None) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return mine if house is None else mine | {"PYTHONPATH": str(house / "site")}


def _run(module: str, *arguments: str, at: Path | None = None) -> None:
    done = subprocess.run(  # noqa: S603 # our own interpreter
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=at,
        env=_environment(at),
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
