"""The command as a process: pipes, signals, full disks, terminals and damaged keystores."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from anykms.cli.application import application
from anykms.cli.failures import ExitCode

CONTEXT = ["--context", "tenant=42"]
PATIENCE = 60
"""Seconds after which a process hangs."""
SECRET = b"4111 1111 1111 1111\n"
MAIN = "from anykms.cli import main; main()"
ON_TERMINAL = "import os; os.login_tty(0); " + MAIN


def interrupted_at_fsync(number: signal.Signals) -> str:
    """The command, but the kernel delivers a signal in the middle of writing the output."""
    return f"import os; os.fsync = lambda fd: os.kill(os.getpid(), {int(number)}); {MAIN}"


def command(*arguments: str, program: str = MAIN) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def run(
    *arguments: str, given: bytes = b"", program: str = MAIN, limit: tuple[int, int] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end; ``limit`` is a resource and its value."""

    def restrict() -> None:
        if limit is not None:
            which, value = limit
            resource.setrlimit(which, (value, value))

    return subprocess.run(  # noqa: S603 # our own program
        command(*arguments, program=program),
        input=given,
        capture_output=True,
        check=False,
        preexec_fn=restrict,
        timeout=PATIENCE,
    )


def prepare(*arguments: str, given: bytes = b"") -> None:
    """Run in this process, which is quicker, what is not itself under test."""
    result = CliRunner().invoke(application, arguments, input=given)
    assert result.exit_code == 0, result.output


def failed(result: subprocess.CompletedProcess[bytes], code: int) -> str:
    text = result.stderr.decode()
    assert result.returncode == code, text
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    assert SECRET.strip() not in result.stderr
    return text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore with the keys orders and releases, to copy."""
    folder = tmp_path_factory.mktemp("made")
    uri = f"local://{folder}/keys.db"
    for arguments in (
        ["store", "init"],
        ["keys", "generate", "orders", "--purpose", "ENCRYPT_DECRYPT"],
        ["keys", "generate", "releases", "--purpose", "SIGN_VERIFY", "--algorithm", "ES256"],
    ):
        prepare(*arguments, "--store", uri)
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("keys.db", "keys.db.root"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("ANYKMS_STORE", f"local://{tmp_path}/keys.db?busy-timeout=0.1")
    monkeypatch.chdir(tmp_path)
    Path("plain").write_bytes(SECRET)
    return tmp_path


def names() -> set[str]:
    return {path.name for path in Path().iterdir() if not path.name.endswith(("-wal", "-shm"))}


# Pipes


def test_a_pipeline_of_processes() -> None:
    shell = " ".join(f"'{part}'" for part in command())
    script = (
        f"set -o pipefail; cat plain | {shell} encrypt --key orders --no-context"
        f" | {shell} decrypt --key orders --no-context | cat"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)  # noqa: S603, S607 # our own
    assert done.stdout == SECRET


@pytest.mark.parametrize(
    "arguments", [["keys", "list", "--json"], ["--help"], ["decrypt", "--key", "orders", *CONTEXT, "sealed"]]
)
def test_a_closed_pipe_ends_quietly(arguments: list[str]) -> None:
    Path("plain").write_bytes(bytes(1_000_000))
    prepare("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as closed:
        done = subprocess.run(  # noqa: S603 # our own program
            command(*arguments), stdin=subprocess.DEVNULL, stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == ExitCode.BROKEN_PIPE
    assert done.stderr == b""


@pytest.mark.parametrize(
    "arguments", [["encrypt", "--key", "orders", *CONTEXT], ["sign", "--key", "releases"]]
)
@pytest.mark.parametrize("closed", [0, 1])
def test_a_closed_standard_stream_is_a_file_error(arguments: list[str], closed: int) -> None:
    again = f"os.execv(sys.executable, [sys.executable, '-c', {MAIN!r}, *sys.argv[1:]])"
    program = f"import os, sys; os.close({closed}); {again}"
    assert "closed" in failed(run(*arguments, given=SECRET, program=program), ExitCode.FILE)


# Full disks


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "list"],
        ["keys", "list", "--json"],
        ["--help"],
        ["encrypt", "--key", "orders", *CONTEXT, "plain"],
    ],
)
def test_a_full_standard_output_is_a_file_error(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603 # our own program
            command(*arguments), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert "No space left" in failed(
        subprocess.CompletedProcess([], done.returncode, b"", done.stderr), ExitCode.FILE
    )


def test_a_full_device_as_output_is_a_file_error() -> None:
    result = run("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "/dev/full")
    assert "/dev/full: No space left" in failed(result, ExitCode.FILE)


@pytest.mark.parametrize("name", ["encrypt", "decrypt"])
def test_a_full_disk_keeps_the_old_output_and_leaves_no_other(name: str) -> None:
    Path("plain").write_bytes(bytes(2_000_000))
    prepare("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    Path("out").write_bytes(b"old")
    before = names()
    source = "plain" if name == "encrypt" else "sealed"
    arguments = (name, "--key", "orders", *CONTEXT, source, "-o", "out", "--force")
    message = failed(run(*arguments, limit=(resource.RLIMIT_FSIZE, 1_000_000)), ExitCode.FILE)
    assert "out: File too large" in message
    assert "Next: " in message
    assert Path("out").read_bytes() == b"old"
    assert names() == before


def test_files_longer_than_memory_are_encrypted_and_decrypted() -> None:
    size = 300 * 2**20
    little = (resource.RLIMIT_AS, 2**28)
    with Path("huge").open("wb") as file:
        file.truncate(size)
    arguments = ("--key", "orders", *CONTEXT, "--json")
    told = run("encrypt", *arguments, "huge", "-o", "sealed", limit=little)
    assert told.returncode == 0, told.stderr
    told = run("decrypt", *arguments, "sealed", "-o", "/dev/null", limit=little)
    assert json.loads(told.stdout)["size"] == size, told.stderr


def test_a_long_plaintext_on_standard_output_ends_before_what_is_not_authentic() -> None:
    size = 70 * 2**20 + 5
    with Path("long").open("wb") as file:
        file.truncate(size)
    prepare("encrypt", "--key", "orders", *CONTEXT, "long", "-o", "sealed")
    sealed = Path("sealed").read_bytes()
    for damaged, kind in (
        (sealed[:-1], b"TruncatedMessageError"),
        (sealed[:-20000], b"TruncatedMessageError"),
    ):
        Path("damaged").write_bytes(damaged)
        result = run("decrypt", "--key", "orders", *CONTEXT, "damaged")
        assert result.returncode == ExitCode.REFUSED
        assert kind in result.stderr
        assert len(result.stdout) < size
        assert result.stdout.strip(b"\0") == b""
    Path("damaged").write_bytes(sealed[: 60 * 2**20])
    assert run("decrypt", "--key", "orders", *CONTEXT, "damaged").stdout == b""


def test_an_input_that_cannot_be_read_names_itself() -> None:
    result = run("encrypt", "--key", "orders", *CONTEXT, "/proc/self/mem", "-o", "out")
    assert "/proc/self/mem: Input/output error" in failed(result, ExitCode.FILE)


# Signals


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("name", ["encrypt", "decrypt"])
def test_a_signal_while_writing_keeps_the_old_output_and_leaves_no_other(
    name: str, number: signal.Signals, code: int
) -> None:
    prepare("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    Path("out").write_bytes(b"old")
    before = names()
    source = "plain" if name == "encrypt" else "sealed"
    arguments = (name, "--key", "orders", *CONTEXT, source, "-o", "out", "--force")
    failed(run(*arguments, program=interrupted_at_fsync(number)), code)
    assert Path("out").read_bytes() == b"old"
    assert names() == before


def test_an_interrupt_while_reading_says_so() -> None:
    os.mkfifo("pipe")
    process = subprocess.Popen(  # noqa: S603 # our own program
        command("encrypt", "--key", "orders", *CONTEXT, "pipe", "-o", "out"), stderr=subprocess.PIPE
    )
    with Path("pipe").open("wb"):  # opens once the command reads
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.INTERRUPTED
    assert told == b"anykms: interrupted; no output was changed\n"
    assert "out" not in names()


# Keystores


def test_a_locked_keystore_is_unavailable() -> None:
    other = sqlite3.connect("keys.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        result = run("keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT")
    finally:
        other.close()
    message = failed(result, ExitCode.UNAVAILABLE)
    assert "UnavailableError" in message
    assert "Next: try again" in message
    assert run("keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT").returncode == 0


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "flipped"])
def test_a_damaged_keystore_is_said_and_nothing_is_written(damage: str) -> None:
    prepare("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    path = Path("keys.db")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        # Somewhere in the sealed row of the key, wherever SQLite has put it.
        data[data.index(b"orders/1") + 200] ^= 1
    path.write_bytes(
        {"text": b"no database " * 500, "empty": b"", "cut": bytes(data[:5000]), "flipped": bytes(data)}[
            damage
        ]
    )
    before = names()
    message = failed(run("decrypt", "--key", "orders", *CONTEXT, "sealed", "-o", "out"), ExitCode.DAMAGED)
    assert "KeystoreError" in message
    assert "anykms store check" in message
    assert names() == before
    failed(run("store", "check"), ExitCode.DAMAGED)


def test_a_keystore_that_is_not_there_is_said() -> None:
    Path("keys.db").unlink()
    failed(run("keys", "list"), ExitCode.DAMAGED)
    assert "keys.db" not in names()


# Terminals


@pytest.fixture
def terminal() -> Iterator[Callable[..., tuple[int, str]]]:
    """Run on a terminal: what was typed is not echoed by us, what was printed is returned with the exit code."""
    master, slave = os.openpty()
    threads: list[threading.Thread] = []

    def on_terminal(*arguments: str, answers: dict[str, str] | None = None) -> tuple[int, str]:
        left = dict(answers or {})
        printed = bytearray()

        def watch() -> None:
            while True:
                try:
                    piece = os.read(master, 65536)
                except OSError:  # the last holder of the other end is gone
                    return
                printed.extend(piece)
                for question in [q for q in left if q.encode() in printed]:
                    os.write(master, left.pop(question).encode() + b"\n")

        threads.append(threading.Thread(target=watch))
        threads[0].start()
        process = subprocess.Popen(  # noqa: S603 # our own program
            command(*arguments, program=ON_TERMINAL), stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"it still waits after: {printed.decode()}")
        threads[0].join()
        assert not left, f"was never asked: {list(left)}\n{printed.decode()}"
        return code, printed.decode().replace("\r\n", "\n")

    yield on_terminal
    os.close(master)


Terminal = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    "arguments", [["encrypt", "--key", "orders", *CONTEXT, "plain"], ["sign", "--key", "releases", "plain"]]
)
def test_a_binary_result_is_not_written_to_a_terminal(terminal: Terminal, arguments: list[str]) -> None:
    code, printed = terminal(*arguments)
    assert code == ExitCode.USAGE
    assert "-o FILE" in printed


@pytest.mark.parametrize(("text", "code"), [(SECRET, 0), (b"\x1b[2J", ExitCode.USAGE)])
def test_a_plaintext_is_shown_on_a_terminal_if_it_is_text(terminal: Terminal, text: bytes, code: int) -> None:
    prepare("encrypt", "--key", "orders", *CONTEXT, "-o", "sealed", given=text)
    found, printed = terminal("decrypt", "--key", "orders", *CONTEXT, "sealed")
    assert found == code
    assert (text.decode() == printed) == (code == 0)
    assert "\x1b" not in printed


def test_a_passphrase_is_asked_for_and_not_echoed(terminal: Terminal, here: Path) -> None:
    passphrase = "correct horse battery staple"  # noqa: S105 # a test's own
    uri = f"local://{here}/new.db?root=passphrase"
    answers = {"New passphrase of the keystore: ": passphrase, "The same again: ": passphrase}
    code, printed = terminal("store", "init", "--store", uri, answers=answers)
    assert code == 0, printed
    assert passphrase not in printed
    Path("pass").write_text(passphrase)
    Path("pass").chmod(0o600)
    assert run("keys", "list", "--store", f"{uri}&passphrase-file={here}/pass").returncode == 0


def test_two_different_passphrases_make_no_keystore(terminal: Terminal, here: Path) -> None:
    answers = {"New passphrase of the keystore: ": "correct horse battery", "The same again: ": "staple"}
    code, printed = terminal(
        "store", "init", "--store", f"local://{here}/new.db?root=passphrase", answers=answers
    )
    assert code == ExitCode.USAGE
    assert "differ" in printed
    assert "new.db" not in names()


@pytest.mark.parametrize(
    ("answer", "code"), [("orders", 0), ("order", ExitCode.FAILED), ("\x03", ExitCode.INTERRUPTED)]
)
def test_destroy_asks_on_a_terminal(terminal: Terminal, answer: str, code: int) -> None:
    found, printed = terminal("keys", "destroy", "orders", answers={"to go on": answer})
    assert found == code, printed
    state = run("keys", "describe", "orders", "--json").stdout
    assert (b"PENDING_DESTRUCTION" in state) == (code == 0)


def test_long_work_shows_a_bar_on_a_terminal_only(terminal: Terminal) -> None:
    with Path("long").open("wb") as file:
        file.truncate(40 * 2**20)
    arguments = ("encrypt", "--key", "orders", *CONTEXT, "long", "-o", "sealed", "--force")
    assert run(*arguments).stderr == b""
    code, printed = terminal(*arguments)
    assert code == 0
    assert re.search(r"reading .*MB", printed)


def test_without_click_the_command_says_what_to_install() -> None:
    result = run("demo", program=f"import sys; sys.modules['click'] = None; {MAIN}")
    assert "pip install 'anykms[cli]'" in failed(result, ExitCode.FAILED)
