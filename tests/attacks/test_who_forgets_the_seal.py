"""The programmer in a hurry: what was read without a root is refused by the type checkers, and at run time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
from anykms import KeyConf, KeyInfo, Keyring, Keyset, KMSClient, Policy, TrustRoot, UnverifiedKeyInfo, UnverifiedSeal

def use(client: KMSClient, root: TrustRoot, seal: UnverifiedSeal, facts: UnverifiedKeyInfo, data: bytes) -> None:
"""

MISTAKES = {
    "a key of facts without a seal": "client.key(facts)",
    "a key of an unopened seal": "client.key(seal)",
    "a key of its document": "client.key(seal.document)",
    "describing facts without a seal": "client.describe_key(facts)",
    "destroying by facts without a seal": "client.schedule_destruction(facts)",
    "confirming facts without a seal": "client.confirm_key(facts)",
    "generating from an unopened seal": "client.generate_key(seal)",
    "generating from its document": "client.generate_key(seal.document)",
    "a policy that is a seal": "Keyring([], policy=seal)",
    "a policy that is a document": "Keyring([], policy=seal.document)",
    "a keyring of facts": "Keyring([facts])",
    "a root of text": "TrustRoot([data])",
    "generating from a sealed KeyInfo": "client.generate_key(root.open(data, KeyInfo, name='orders'))",
    "a key of a sealed KeyConf": "client.key(root.open(data, KeyConf, name='orders'))",
    "opening without a name": "root.open(data, KeyInfo)",
    "opening without a kind": "root.open(data, name='orders')",
    "a keyset without a root": "Keyset.load('orders.keyset', name='orders')",
    "a keyset without a name": "Keyset.load('orders.keyset', root)",
}
RIGHT = (
    "client.key(root.open(data, KeyInfo, name='orders'))",
    "client.generate_key(root.open(data, KeyConf, name='orders'))",
    "Keyring([], policy=root.open(data, Policy, name='orders'))",
    "Keyset.load('orders.keyset', root, name='orders').keyring([client])",
)


def program(lines: list[str]) -> str:
    return PRELUDE + "".join(f"    {line}\n" for line in lines)


def lines_with_errors(command: list[str], file: Path) -> set[int]:
    done = subprocess.run(  # noqa: S603 # the checkers of this environment
        [str(BIN / command[0]), *command[1:], str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found: set[int] = set()
    for line in done.stdout.splitlines():
        if file.name in line and "error" in line:
            found.add(int(line.split(file.name, 1)[1].split(":")[1]))
    return found


@pytest.mark.parametrize(
    "command",
    [["mypy", "--no-incremental"], ["pyright", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_the_checkers_refuse_every_mistake_and_nothing_else(command: list[str], tmp_path: Path) -> None:
    first = PRELUDE.count("\n") + 1
    file = tmp_path / "mistakes.py"
    file.write_text(program([*MISTAKES.values(), *RIGHT]))
    found = lines_with_errors(command, file)
    missed = [name for number, name in enumerate(MISTAKES, first) if number not in found]
    assert missed == []
    assert found == set(range(first, first + len(MISTAKES)))
