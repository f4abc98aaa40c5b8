"""The wheel holds every source root, and the README's first command works on a clean copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IGNORED = shutil.ignore_patterns(
    "__pycache__", "*.egg-info", ".*_cache", ".venv*", "build", "dist", ".git", ".hypothesis"
)
INSTALLED = ["README.md", "LICENSE", "pyproject.toml", "src", "providers", "migration", "contract_tests"]


def source_roots() -> list[str]:
    roots = ("src/*", "providers/*", "migration/*", "contract_tests/anykms_*")
    candidates = [path for root in roots for path in ROOT.glob(root)]
    return sorted(str(path.relative_to(ROOT)) for path in candidates if (path / "__init__.py").is_file())


def readme_commands() -> list[str]:
    return re.findall(r"^```sh\n(.+)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("copy")
    for name in INSTALLED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=IGNORED)
        else:
            shutil.copy(source, copy / name)
    return copy


def test_every_source_root_is_in_the_wheel_config() -> None:
    assert sorted(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == source_roots()


def test_every_package_is_typed() -> None:
    assert [root for root in source_roots() if not (ROOT / root / "py.typed").is_file()] == []


def test_every_root_package_is_under_the_import_rules() -> None:
    assert sorted(PROJECT["tool"]["importlinter"]["root_packages"]) == sorted(
        Path(r).name for r in source_roots()
    )


def test_ci_runs_the_readme_command_and_names_no_registry() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert readme_commands()[-1] in script.splitlines()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in script
    assert "://" not in script


def test_the_wheel_holds_every_file_of_every_root(clean_copy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(clean_copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # our own tree
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to((clean_copy / root).parent).as_posix()
        for root in source_roots()
        for path in (clean_copy / root).rglob("*")
        if path.is_file()
    }
    assert wanted - held == set()


def test_the_first_command_of_the_readme_works_on_a_bare_machine(clean_copy: Path) -> None:
    command = readme_commands()[0]
    assert command.endswith("&& anykms demo")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "ANYKMS", "VIRTUAL_ENV", "COVERAGE"))
    }
    done = subprocess.run(  # noqa: S603 # our own README
        ["bash", "-euo", "pipefail", "-c", command],  # noqa: S607 # any bash
        cwd=clean_copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every step did what it should." in done.stdout
