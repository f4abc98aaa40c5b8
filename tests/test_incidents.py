"""docs/incidents.md and docs/threat-model.md name tests; every one of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "incidents.md").read_text("utf-8")
MODEL = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`((?:tests|contract_tests)/[^`]+)`", PAGE + MODEL)) - {"tests/attacks"})


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name: str) -> None:
    path, *parts = name.split("::")
    tree: ast.AST = ast.parse((ROOT / path).read_text("utf-8"))
    for part in parts:
        inside = [node for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
        found = [node for node in inside if node.name == part]
        assert found, f"{path} has no {part}"
        tree = found[0]


def test_every_line_names_one() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) > 20
    assert all("`" in row.rsplit("|", 2)[1] for row in rows)


def test_every_attack_of_the_model_names_one() -> None:
    attacks = MODEL.split("## Attackers")[1].split("## What is not")[0].splitlines()
    checklist = MODEL.split("## The pattern's checklist")[1].split("## NIST")[0].splitlines()
    rows = [
        line
        for line in attacks + checklist
        if line.startswith("| ") and not line.startswith(("| attack |", "| the pattern asks |"))
    ]
    assert len(rows) > 50
    assert all("_tests/" in row or "`tests/" in row for row in rows)


def test_every_attacker_of_the_suite_is_in_the_model() -> None:
    files = {path.name for path in (ROOT / "tests" / "attacks").glob("test_*.py")}
    assert files == set(re.findall(r"tests/attacks/(test_\w+\.py)", MODEL))
