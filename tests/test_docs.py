"""The code blocks of README.md and docs/ do what they show."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "anykms-docs-end-of-command"


@dataclass(frozen=True)
class Block:
    language: str
    line: int
    text: str


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[1], text[: found.start(2)].count("\n"), found[2])
        for found in FENCE.finditer(text)
        if found[1] == language
    ]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_fence_has_a_language_that_is_run_or_is_no_code(page: Path) -> None:
    text = page.read_text()
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(FENCE.findall(text))
    assert {language for language, _ in FENCE.findall(text)} <= {
        "python",
        "console",
        "sh",
        "text",
        "json",
        "toml",
    }


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / n for n in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!\w+:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    # Each block keeps its line numbers, so that a failure points into the page.
    sources = [("\n" * block.line + block.text, str(page)) for block in blocks(page, "python")]
    program = "shared = {'__name__': 'page'}\n" + "".join(
        f"exec(compile({source!r}, {name!r}, 'exec'), shared)\n" for source, name in sources
    )
    done = subprocess.run(  # noqa: S603 # our own documents
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Command:
    line: int
    text: str
    output: str


def commands(block: Block) -> list[Command]:
    """``$ `` begins a command, ``> `` continues it; what follows is its output."""
    found: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if line.startswith("$ "):
            found.append(Command(number, line[2:], ""))
        elif line.startswith("> ") and found and not found[-1].output:
            found[-1] = Command(found[-1].line, f"{found[-1].text}\n{line[2:]}", "")
        else:
            assert found, f"line {number}: output before any command"
            found[-1] = Command(found[-1].line, found[-1].text, f"{found[-1].output}{line}\n")
    return found


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "console")], ids=lambda p: p.name)
def test_console_blocks_print_what_they_show(page: Path, tmp_path: Path) -> None:
    shown = [command for block in blocks(page, "console") for command in commands(block)]
    script = "exec 2>&1\n" + "".join(
        f"{command.text}\n{{ code=$?; echo; echo {END} $code; (exit $code); }}\n" for command in shown
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYKMS_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.Popen(  # noqa: S603 # our own documents
        ["bash", "-c", script],  # noqa: S607 # any bash
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    said, _ = process.communicate()
    # A page that went wrong has left its servers running.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    results = re.findall(rf"(.*?)\n?^{END} (\d+)\n", said, re.MULTILINE | re.DOTALL)
    assert len(results) == len(shown), said
    following = [*(command.text for command in shown[1:]), ""]
    check = doctest.OutputChecker().check_output
    for command, (output, code), next_text in zip(shown, results, following, strict=True):
        where = f"{page.name}:{command.line}: {command.text}\n{output}"
        # A command that is meant to fail is followed by a look at its exit code.
        assert code == "0" or next_text == "echo $?", where
        wanted = command.output.rstrip("\n") + "\n"
        assert check(wanted, output.rstrip("\n") + "\n", doctest.ELLIPSIS), (
            f"{where}\nshown:\n{command.output}"
        )
