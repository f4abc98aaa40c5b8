"""What ``import anykms`` loads, and that its public names are as declared."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import anykms
import anykms_contract

FORBIDDEN = (
    "asyncio",
    "cryptography",
    "boto3",
    "botocore",
    "google",
    "grpc",
    "azure",
    "click",
    "rich",
    "pytest",
)


def modules_after(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run(  # noqa: S603 # our own program
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    # -c itself loads site's modules; only what the import adds counts.
    added = modules_after("import anykms") - modules_after("pass")
    assert "anykms" in added
    assert not [name for name in added if name.split(".")[0] in FORBIDDEN]


def test_the_vectors_need_no_pytest() -> None:
    added = modules_after("import anykms_contract.vectors; anykms_contract.vectors.messages()")
    assert "anykms_contract.vectors" in added
    assert not {"pytest", "_pytest", "hypothesis"} & {name.split(".")[0] for name in added}


def test_every_name_of_the_contract_is_where_it_is_said_to_be() -> None:
    names = {name: getattr(anykms_contract, name) for name in anykms_contract.__all__}
    assert all(value.__module__.startswith("anykms_contract.") for value in names.values())
    with pytest.raises(AttributeError):
        _ = anykms_contract.nothing


def test_a_name_is_loaded_when_used() -> None:
    assert "anykms.client" not in modules_after("import anykms")
    assert "anykms.client" in modules_after("from anykms import KMSClient")


def test_help_loads_nothing_heavy() -> None:
    run = "from anykms.cli import main\ntry:\n main()\nexcept SystemExit:\n pass"
    statement = f"import sys\nsys.argv = ['anykms', '--help']\n{run}"
    assert not {"cryptography", "asyncio", "rich", "anykms.client", "anykms_local"} & modules_after(statement)


@pytest.mark.parametrize("name", anykms.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(anykms, name)
    assert value.__module__.startswith("anykms.")


def test_all_is_what_type_checkers_see() -> None:
    source = Path(str(anykms.__file__)).read_text()
    (block,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    seen = {
        (statement.module, alias.name, alias.asname)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    homes = {name: module for module, names in vars(anykms)["_HOMES"].items() for name in names}
    assert seen == {(module, name, name) for name, module in homes.items()}
    assert anykms.__all__ == sorted(homes)
    assert all(
        getattr(importlib.import_module(module), name) is getattr(anykms, name)
        for name, module in homes.items()
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vars(anykms)["__getattr__"]("nothing")


def test_dir_lists_every_public_name() -> None:
    assert set(anykms.__all__) <= set(dir(anykms))
