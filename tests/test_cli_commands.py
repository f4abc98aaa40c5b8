"""The command as its users see it: results, refusals, exit codes, what is printed and what is not."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from anykms import KeyInfo, KMSClient, PublicKey, connect, errors, inspect
from anykms.cli.application import application
from anykms.cli.failures import ExitCode, explain

SECRET = b"4111 1111 1111 1111\n"
CONTEXT = ["--context", "tenant=42"]

Run = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A keystore with the keys orders, backup and releases, as ANYKMS_STORE; the working directory beside it."""
    uri = f"local://{tmp_path}/keys.db"
    monkeypatch.setenv("ANYKMS_STORE", uri)
    monkeypatch.chdir(tmp_path)
    assert run("store", "init").exit_code == 0
    for name in ("orders", "backup"):
        assert run("keys", "generate", name, "--purpose", "ENCRYPT_DECRYPT").exit_code == 0
    assert (
        run("keys", "generate", "releases", "--purpose", "sign_verify", "--algorithm", "ES256").exit_code == 0
    )
    Path("plain").write_bytes(SECRET)
    return uri


def run(*arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(application, arguments, input=given)


def done(*arguments: str, given: bytes = b"") -> Result:
    result = run(*arguments, given=given)
    assert result.exit_code == 0, result.output
    return result


def refused(code: ExitCode, *arguments: str, given: bytes = b"", leaves: bool = True) -> str:
    """stderr of a command that must fail with ``code``, say what to do next, and change no file."""
    before = files()
    result = run(*arguments, given=given)
    assert result.exit_code == code, result.output
    assert result.stdout_bytes == b""
    assert "Traceback" not in result.stderr
    assert SECRET.strip().decode() not in result.stderr
    assert not leaves or files() == before
    return result.stderr


def files() -> dict[str, bytes]:
    return {
        str(p): p.read_bytes()
        for p in Path().rglob("*")
        if p.is_file() and not p.name.endswith(("-wal", "-shm"))
    }


def json_of(*arguments: str, given: bytes = b"") -> Any:
    return json.loads(done(*arguments, "--json", given=given).stdout)


# The demo


def test_demo_shows_every_refusal() -> None:
    report = json_of("demo")
    assert report["ok"]
    got = {step["step"]: step["got"] for step in report["steps"]}
    assert got["decrypt it with one bit flipped"] == "InvalidCiphertextError"
    assert got["decrypt it as another tenant"] == "ContextMismatchError"
    assert got["decrypt it with a foreign key"] == "KeyNotAllowedError"
    assert got["disable orders, and use it"] == "KeyDisabledError"
    assert got["rotate orders"] == "version 2"
    assert got["set the clock 8 days on: orders is destroyed"] == "KeyDestroyedError"
    assert got["decrypt it with orders-backup, as the ring holds both"] == "same bytes"
    assert got["verify another file"] == "InvalidSignatureError"
    assert all(step["ok"] and step["expected"] == step["got"] for step in report["steps"])


def test_demo_prints_a_table_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    output = done("demo").output
    assert "InvalidCiphertextError" in output
    assert "Every step did what it should." in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("as_json", [True, False])
def test_demo_fails_if_a_flipped_bit_is_accepted(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    def accept(*_: object, **__: object) -> bytes:
        return b"name,card\nAda,4111 1111 1111 1111\nGrace,5500 0000 0000 0004\n"

    monkeypatch.setattr("anykms.Keyring.decrypt", accept)
    result = run("demo", *(["--json"] if as_json else []))
    assert result.exit_code == ExitCode.FAILED
    if as_json:
        report = json.loads(result.stdout)
        assert not report["ok"]
        assert report["steps"][-1]["got"] == "not refused"
    else:
        assert "not refused, not InvalidCiphertextError" in result.output
        assert "FAILED" in result.output


def test_demo_fails_if_a_step_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise errors.UnavailableError("not now")

    monkeypatch.setattr("anykms.KMSClient.rotate_key", fail)
    result = run("demo", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert json.loads(result.stdout)["steps"][-1]["got"] == "UnavailableError: not now"


# Encrypt and decrypt


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("size", [0, 1, 16384, 3_000_000])
def test_a_file_of_any_size_comes_back(size: int) -> None:
    data = os.urandom(size)
    Path("data").write_bytes(data)
    done("encrypt", "--key", "orders", *CONTEXT, "data", "-o", "sealed")
    done("decrypt", "--key", "orders", *CONTEXT, "sealed", "-o", "opened")
    assert Path("opened").read_bytes() == data
    assert data == b"" or size < 32 or data not in Path("sealed").read_bytes()


@pytest.mark.usefixtures("store")
def test_standard_input_and_output() -> None:
    sealed = done("encrypt", "--key", "orders", "--no-context", given=SECRET).stdout_bytes
    assert (
        done("decrypt", "--key", "orders", "--no-context", "-", "-o", "-", given=sealed).stdout_bytes
        == SECRET
    )


@pytest.mark.usefixtures("store")
def test_any_recipient_opens_and_json_names_it() -> None:
    report = json_of("encrypt", "--key", "orders", "--key", "backup", *CONTEXT, "plain", "-o", "sealed")
    assert report["plaintext_size"] == len(SECRET)
    assert report["size"] == Path("sealed").stat().st_size
    assert [uri.rpartition("/")[2] for uri in report["keys"]] == ["orders", "backup"]
    opened = json_of("decrypt", "--key", "backup", *CONTEXT, "sealed", "-o", "opened")
    assert opened["key"].endswith("/backup/1")
    assert opened["sender_authenticated"] is True
    assert Path("opened").read_bytes() == SECRET


@pytest.mark.usefixtures("store")
def test_refusals_of_decrypt_say_what_and_next() -> None:
    done(
        "encrypt", "--key", "orders", *CONTEXT, "--aad", "a", "--required", "tenant", "plain", "-o", "sealed"
    )
    altered = bytearray(Path("sealed").read_bytes())
    altered[-1] ^= 1
    Path("altered").write_bytes(altered)
    end = ("--aad", "a", "-o", "opened")
    assert "TruncatedMessageError" in refused(
        ExitCode.REFUSED, "decrypt", "--key", "orders", *CONTEXT, "altered", *end
    )
    message = refused(ExitCode.REFUSED, "decrypt", "--key", "orders", "--no-context", "sealed", *end)
    assert "ContextMismatchError" in message
    assert "Next: " in message
    assert "KeyNotAllowedError" in refused(
        ExitCode.REFUSED, "decrypt", "--key", "backup", *CONTEXT, "sealed", *end
    )
    assert "InvalidCiphertextError" in refused(
        ExitCode.REFUSED, "decrypt", "--key", "orders", *CONTEXT, "--aad", "b", "sealed", "-o", "opened"
    )
    assert "InvalidCiphertextError" in refused(
        ExitCode.REFUSED, "decrypt", "--key", "orders", "--context", "tenant=43", "sealed", *end
    )
    assert "StaleMessageError" in refused(
        ExitCode.REFUSED, "decrypt", "--key", "orders", *CONTEXT, "--min-generation", "1", "sealed", *end
    )
    assert "InvalidCiphertextError" in refused(
        ExitCode.REFUSED, "decrypt", "--key", "orders", *CONTEXT, "plain", *end
    )


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("position", [20, 300, 100_000, 1_500_000, -1])
def test_nothing_of_an_altered_message_reaches_a_file_or_standard_output(position: int) -> None:
    Path("data").write_bytes(os.urandom(2_000_000))
    done("encrypt", "--key", "orders", *CONTEXT, "data", "-o", "sealed")
    altered = bytearray(Path("sealed").read_bytes())
    altered[position] ^= 1
    Path("sealed").write_bytes(altered)
    for end in ([], ["-o", "opened"]):
        refused(ExitCode.REFUSED, "decrypt", "--key", "orders", *CONTEXT, "sealed", *end)
    refused(ExitCode.REFUSED, "decrypt", "--key", "orders", *CONTEXT, given=bytes(altered))


@pytest.mark.usefixtures("store")
def test_rewrap_replaces_the_recipients_and_keeps_the_body() -> None:
    done("encrypt", "--key", "orders", *CONTEXT, "--required", "tenant", "plain", "-o", "sealed")
    before = Path("sealed").read_bytes()
    arguments = ("rewrap", "--key", "orders", "--to", "backup")
    assert "ContextMismatchError" in refused(ExitCode.REFUSED, *arguments, "sealed")
    told = json_of(*arguments, *CONTEXT, "sealed")
    assert (told["operation"], told["generation"]) == ("rewrap", 1)
    assert [uri.rpartition("/")[2] for uri in told["recipients"]] == ["backup"]
    assert [uri.rpartition("/")[2] for uri in told["removed"]] == ["orders"]
    assert "reencrypt" in told["not_achieved"]
    after = Path("sealed").read_bytes()
    assert after != before
    assert after[-len(SECRET) - 72 :] == before[-len(SECRET) - 72 :]
    assert done("decrypt", "--key", "backup", *CONTEXT, "sealed").stdout_bytes == SECRET
    refused(ExitCode.REFUSED, "decrypt", "--key", "orders", *CONTEXT, "sealed")
    back = ("rewrap", "--key", "backup", "--to", "orders", "--to", "backup", *CONTEXT)
    shown = done(*back, "--min-generation", "1", "sealed").stdout
    assert "rewrap: done" in shown
    assert "can still read" in " ".join(shown.split())
    refused(ExitCode.REFUSED, *back, "--min-generation", "3", "sealed")


@pytest.mark.usefixtures("store")
def test_reencrypt_makes_a_new_message_in_place() -> None:
    done("encrypt", "--key", "orders", *CONTEXT, "--aad", "a", "plain", "-o", "sealed")
    before = json_of("inspect", "sealed")["header"]
    arguments = ("reencrypt", "--key", "orders", "--to", "backup", *CONTEXT)
    refused(ExitCode.REFUSED, *arguments, "--aad", "b", "sealed")
    told = json_of(*arguments, "--aad", "a", "sealed")
    assert (told["operation"], told["generation"]) == ("reencrypt", 0)
    assert told["record_id"] != before["record_id"]
    assert done("decrypt", "--key", "backup", *CONTEXT, "--aad", "a", "sealed").stdout_bytes == SECRET


@pytest.mark.usefixtures("store")
def test_a_file_that_cannot_be_rewrapped_stays() -> None:
    done("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    for command in (["rewrap"], ["reencrypt", *CONTEXT]):
        arguments = (*command, "--key", "orders", "--to", "backup")
        refused(ExitCode.REFUSED, *arguments, "plain")
        refused(ExitCode.FILE, *arguments, "missing")
        refused(ExitCode.FILE, *arguments, ".")
        refused(ExitCode.NOT_FOUND, *arguments, "--to", "nobody", "sealed")
        refused(ExitCode.USAGE, *command, "--key", "orders", "sealed")
        done("keys", "disable", "backup")
        refused(ExitCode.STATE, *arguments, "sealed")
        done("keys", "enable", "backup")


@pytest.mark.usefixtures("store")
def test_aad_from_a_file_equals_aad_from_the_line() -> None:
    Path("aad").write_bytes(b"orders/17")
    done("encrypt", "--key", "orders", *CONTEXT, "--aad-file", "aad", "plain", "-o", "sealed")
    assert done("decrypt", "--key", "orders", *CONTEXT, "--aad", "orders/17", "sealed").stdout_bytes == SECRET


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "arguments",
    [
        ["encrypt", "--key", "orders", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", "--no-context", *CONTEXT, "plain", "-o", "out"],
        ["encrypt", "--key", "orders", "--context", "tenant", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", "--context", "tenant=", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", "--context", "=42", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", *CONTEXT, *CONTEXT, "plain", "-o", "out"],
        ["encrypt", "--key", "orders", "--context", "anykms-x=1", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", "--context", f"n={'v' * 5000}", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", "--context", "n=\udcff", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", *CONTEXT, "--aad", "\udcff", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", *CONTEXT, "--aad", "a", "--aad-file", "plain", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", *CONTEXT, "--aad", "a" * 65537, "plain", "-o", "out"],
        ["encrypt", "--key", "orders", *CONTEXT, "--required", "user", "plain", "-o", "out"],
        ["encrypt", "--key", "orders", "--key", "orders", *CONTEXT, "plain", "-o", "out"],
        ["encrypt", "--key", "", *CONTEXT, "plain", "-o", "out"],
        ["encrypt", "--key", "k" * 3000, *CONTEXT, "plain", "-o", "out"],
        ["encrypt", *CONTEXT, "plain", "-o", "out"],
        ["encrypt", "--key", "orders", *CONTEXT, "--json", "plain"],
        ["decrypt", "--key", "orders", *CONTEXT, "--min-generation", "x", "plain", "-o", "out"],
        ["decrypt", "--key", "orders", *CONTEXT, "--min-generation", "-1", "plain", "-o", "out"],
        ["keys", "generate", "", "--purpose", "MAC", "--algorithm", "HS256"],
        ["keys", "generate", "Orders", "--purpose", "ENCRYPT_DECRYPT"],
        ["keys", "generate", "n" * 64, "--purpose", "ENCRYPT_DECRYPT"],
        ["keys", "generate", "new"],
        ["keys", "generate", "new", "--purpose", "SIGN_VERIFY"],
        ["keys", "generate", "new", "--purpose", "SIGN_VERIFY", "--algorithm", "RSA1_5"],
        ["keys", "generate", "new", "--purpose", "SIGN_VERIFY", "--algorithm", "PS256", "--key-size", "1024"],
        ["keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT", "--destroy-window", "1"],
        ["keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT", "--rotation-period", "1"],
        ["keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT", "--tag", "Team=build"],
        ["keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT", "--store", "nowhere"],
        ["keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT", "--store", "nobodyskms://x"],
        ["keys", "list", "--store", "local:///x.db?unknown=1"],
        ["keys", "destroy", "orders"],
        ["verify", "--signature", "plain", "plain"],
        [
            "verify",
            "--signature",
            "plain",
            "--key",
            "releases",
            "--public-key",
            "plain",
            "--algorithm",
            "ES256",
            "plain",
        ],
        ["verify", "--signature", "plain", "--public-key", "plain", "plain"],
        ["verify", "--signature", "plain", "--public-key", "plain", "--algorithm", "ES256", "plain"],
        ["nothing"],
        ["keys", "nothing"],
        ["store", "rekey"],
    ],
    ids=lambda a: " ".join(a)[:70].encode("ascii", "replace").decode(),
)
def test_bad_arguments_are_usage_errors_that_change_nothing(arguments: list[str]) -> None:
    refused(ExitCode.USAGE, *arguments)


def test_without_a_keystore_the_error_says_how_to_name_or_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYKMS_STORE", raising=False)
    result = run("keys", "list")
    assert result.exit_code == ExitCode.USAGE
    assert "--store" in result.stderr
    assert "ANYKMS_STORE" in result.stderr
    assert "anykms store init" in result.stderr


# Several keystores


@pytest.fixture
def other(store: str, tmp_path: Path) -> str:
    uri = f"local://{tmp_path}/other.db"
    done("store", "init", "--store", uri)
    for name in ("orders", "mirror"):
        done("keys", "generate", name, "--purpose", "ENCRYPT_DECRYPT", "--store", uri)
    return uri


def test_recipients_of_two_keystores(store: str, other: str) -> None:
    both = ("--store", store, "--store", other)
    done("encrypt", *both, "--key", "backup", "--key", "mirror", *CONTEXT, "plain", "-o", "sealed")
    for uri, name in ((store, "backup"), (other, "mirror")):
        assert done("decrypt", "--store", uri, "--key", name, *CONTEXT, "sealed").stdout_bytes == SECRET


def test_a_name_in_two_keystores_is_refused_and_its_uri_is_not(store: str, other: str) -> None:
    both = ("--store", store, "--store", other)
    message = refused(ExitCode.USAGE, "encrypt", *both, "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    assert "by its URI" in message
    uri = json_of("keys", "describe", "orders", "--store", other)["info"]["uri"]
    done("encrypt", *both, "--key", uri, *CONTEXT, "plain", "-o", "sealed")
    assert [str(r.uri.without_version()) for r in inspect(Path("sealed").read_bytes()).recipients] == [uri]


def test_several_keystores_in_the_variable(store: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYKMS_STORE", f"{store} {other}")
    assert [key["name"] for key in json_of("keys", "list")] == [
        "backup",
        "orders",
        "releases",
        "mirror",
        "orders",
    ]
    refused(ExitCode.USAGE, "keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT")


def test_decrypt_passes_over_a_lost_keystore_and_encrypt_does_not(
    store: str, other: str, tmp_path: Path
) -> None:
    both = ("--store", store, "--store", other)
    done("encrypt", *both, "--key", "backup", "--key", "mirror", *CONTEXT, "plain", "-o", "sealed")
    (tmp_path / "keys.db").write_bytes(b"not a database, and longer than a header of one" * 100)
    arguments = (*both, "--key", "backup", "--key", "mirror", *CONTEXT)
    result = done("decrypt", *arguments, "sealed")
    assert result.stdout_bytes == SECRET
    assert "warning: KeystoreError" in result.stderr
    refused(ExitCode.DAMAGED, "encrypt", *arguments, "plain", "-o", "again")
    refused(
        ExitCode.DAMAGED, "decrypt", "--store", store, "--key", "backup", *CONTEXT, "sealed", "-o", "again"
    )


@pytest.mark.parametrize("lost", [errors.UnavailableError, errors.UnauthenticatedError])
def test_decrypt_passes_over_a_keystore_that_does_not_answer(
    store: str, other: str, lost: type[errors.KMSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ("--store", store, "--store", other)
    done("encrypt", *both, "--key", "backup", "--key", "mirror", *CONTEXT, "plain", "-o", "sealed")
    uri = json_of("keys", "describe", "backup", "--store", store)["info"]["uri"]
    answer = KMSClient.get_key

    def get_key(client: KMSClient, name: str) -> KeyInfo:
        if not any(info.name == "mirror" for info in client.list_keys()):
            raise lost("not now")
        return answer(client, name)

    monkeypatch.setattr("anykms.KMSClient.get_key", get_key)
    arguments = (*both, "--key", uri, "--key", "mirror", *CONTEXT, "sealed")
    result = done("decrypt", *arguments)
    assert result.stdout_bytes == SECRET
    assert "going on without it" in result.stderr
    code = explain(lost("not now")).code
    refused(code, "decrypt", "--store", store, "--key", "backup", *CONTEXT, "sealed", "-o", "out")
    refused(code, "encrypt", *both, "--key", "mirror", *CONTEXT, "plain", "-o", "out")


# Files


@pytest.mark.usefixtures("store")
def test_an_existing_output_is_kept_without_force() -> None:
    Path("sealed").write_bytes(b"old")
    arguments = ("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    assert "--force" in refused(ExitCode.FILE, *arguments)
    done(*arguments, "--force")
    assert done("decrypt", "--key", "orders", *CONTEXT, "sealed").stdout_bytes == SECRET


@pytest.mark.usefixtures("store")
def test_a_symbolic_link_is_replaced_not_followed() -> None:
    Path("precious").write_bytes(b"precious")
    Path("link").symlink_to("precious")
    done("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "link", "--force")
    assert Path("precious").read_bytes() == b"precious"
    assert not Path("link").is_symlink()


@pytest.mark.usefixtures("store")
def test_a_plaintext_is_for_its_owner_only_and_a_ciphertext_follows_the_umask() -> None:
    before = os.umask(0o022)
    try:
        done("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
        Path("opened").write_bytes(b"")
        done("decrypt", "--key", "orders", *CONTEXT, "sealed", "-o", "opened", "--force")
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("sealed").stat().st_mode) == 0o644
    assert stat.S_IMODE(Path("opened").stat().st_mode) == 0o600


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("missing", "out"),
        (".", "out"),
        ("plain", "."),
        ("plain", "missing/out"),
        ("plain", "plain/out"),
        ("plain", "plain"),
    ],
)
def test_unfit_files_are_file_errors(source: str, target: str) -> None:
    for command in ("encrypt", "decrypt"):
        message = refused(ExitCode.FILE, command, "--key", "orders", *CONTEXT, source, "-o", target)
        assert "Next: " in message


@pytest.mark.usefixtures("store")
def test_a_file_that_vanishes_while_read_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("anykms.cli.messages.files.Input.read", fail)
    assert "Input/output error" in refused(
        ExitCode.FILE, "encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "out"
    )


# Keys


@pytest.mark.usefixtures("store")
def test_the_life_of_a_key() -> None:
    done("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    decrypt = ("decrypt", "--key", "orders", *CONTEXT, "sealed")
    assert json_of("keys", "rotate", "orders")["status"]["current_version"] == "2"
    assert done(*decrypt).stdout_bytes == SECRET
    assert json_of("keys", "disable", "orders")["status"]["state"] == "DISABLED"
    assert "keys enable" in refused(ExitCode.STATE, *decrypt)
    assert json_of("keys", "enable", "orders")["status"]["state"] == "ENABLED"
    status = json_of("keys", "destroy", "orders", "--yes")["status"]
    assert status["state"] == "PENDING_DESTRUCTION"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", status["destroy_at"])
    assert "cancel-destroy" in refused(ExitCode.STATE, *decrypt)
    assert json_of("keys", "cancel-destroy", "orders")["status"]["state"] == "DISABLED"
    assert "Enabled local://" in done("keys", "enable", "orders").stdout
    assert done(*decrypt).stdout_bytes == SECRET


@pytest.mark.usefixtures("store")
def test_destroy_asks_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anykms.cli.keys.on_terminal", lambda: True)
    wrong = run("keys", "destroy", "orders", given=b"order\n")
    assert wrong.exit_code == ExitCode.FAILED
    assert "nothing was changed" in wrong.stderr
    assert json_of("keys", "describe", "orders")["status"]["state"] == "ENABLED"
    assert "Will be destroyed at" in done("keys", "destroy", "orders", given=b"orders\n").stdout
    assert json_of("keys", "describe", "orders")["status"]["state"] == "PENDING_DESTRUCTION"


@pytest.mark.usefixtures("store")
def test_list_and_describe() -> None:
    listed = json_of("keys", "list", "--states")
    assert {key["name"]: (key["purpose"], key["state"]) for key in listed} == {
        "backup": ("ENCRYPT_DECRYPT", "ENABLED"),
        "orders": ("ENCRYPT_DECRYPT", "ENABLED"),
        "releases": ("SIGN_VERIFY", "ENABLED"),
    }
    assert "state" not in json_of("keys", "list")[0]
    table = done("keys", "list", "--states").stdout
    assert all(key["uri"] in table for key in listed)
    described = json_of("keys", "describe", "releases")
    assert described["info"]["algorithm"] == "ES256"
    assert [version["id"] for version in described["status"]["versions"]] == ["1"]
    assert described["info"]["fingerprint"] in done("keys", "describe", "releases").stdout
    assert json_of("keys", "describe", described["info"]["uri"]) == described


@pytest.mark.usefixtures("store")
def test_generate_takes_every_field() -> None:
    facts = json_of(
        *("keys", "generate", "codes", "--purpose", "ASYMMETRIC_DECRYPT", "--key-size", "2048"),
        *(
            "--algorithm",
            "RSA-OAEP-256",
            "--protection-level",
            "software",
            "--tag",
            "team=build",
            "--destroy-window",
            "7",
        ),
    )
    assert facts["key_size"] == 2048
    assert facts["tags"] == {"team": "build"}
    assert facts["destroy_window"] == 7


@pytest.mark.usefixtures("store")
def test_errors_of_keys_have_their_codes() -> None:
    generate = ("keys", "generate", "orders", "--purpose", "ENCRYPT_DECRYPT")
    assert "KeyExistsError" in refused(ExitCode.STATE, *generate)
    done("keys", "destroy", "orders", "--yes")
    assert "NameReservedError" in refused(ExitCode.STATE, *generate)
    assert "keys list" in refused(ExitCode.NOT_FOUND, "keys", "describe", "nobody")
    refused(ExitCode.UNSUPPORTED, "keys", "rotate", "releases")
    refused(ExitCode.UNSUPPORTED, "keys", "public-key", "backup")
    refused(ExitCode.UNSUPPORTED, "sign", "--key", "backup", "plain")
    refused(ExitCode.UNSUPPORTED, "encrypt", "--key", "releases", "--no-context", "plain", "-o", "out")


# Signatures


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("encoding", ["DER", "P1363"])
def test_sign_and_verify(encoding: str, store: str) -> None:
    done("sign", "--key", "releases", "plain", "-o", "sig", "--encoding", encoding)
    verify = ("verify", "--key", "releases", "--signature", "sig", "--encoding", encoding)
    assert "Good ES256 signature by local://" in done(*verify, "plain").stdout
    assert "InvalidSignatureError" in refused(ExitCode.REFUSED, *verify, "keys.db")
    with connect(store) as client:
        client.key("releases").verify(SECRET, Path("sig").read_bytes(), encoding=encoding)
    for form in ("pem", "jwk"):
        done("keys", "public-key", "releases", "--format", form, "-o", form)
        offline = ("verify", "--store", "local:/nowhere", "--public-key", form, "--algorithm", "ES256")
        report = json_of(*offline, "--signature", "sig", "--encoding", encoding, "plain")
        assert report["authentic"] is True
    refused(ExitCode.USAGE, *offline[:-1], "ES384", "--signature", "sig", "plain")


@pytest.mark.usefixtures("store")
def test_sign_to_json_and_to_standard_output() -> None:
    report = json_of("sign", "--key", "releases", "plain")
    Path("sig").write_bytes(base64.b64decode(report["signature"]))
    done("verify", "--key", "releases", "--signature", "sig", given=SECRET)
    Path("sig").write_bytes(done("sign", "--key", "releases", given=SECRET).stdout_bytes)
    done("verify", "--key", "releases", "--signature", "sig", "plain")


@pytest.mark.usefixtures("store")
def test_a_whole_message_algorithm_signs_at_most_4096_bytes() -> None:
    done("keys", "generate", "edwards", "--purpose", "SIGN_VERIFY", "--algorithm", "Ed25519")
    Path("long").write_bytes(bytes(4096))
    done("sign", "--key", "edwards", "long", "-o", "sig")
    done("verify", "--key", "edwards", "--signature", "sig", "long")
    Path("long").write_bytes(bytes(4097))
    refused(ExitCode.USAGE, "sign", "--key", "edwards", "long", "-o", "sig2")
    refused(ExitCode.USAGE, "verify", "--key", "edwards", "--signature", "sig", "long")


@pytest.mark.usefixtures("store")
def test_an_endless_signature_file_is_refused() -> None:
    refused(ExitCode.USAGE, "verify", "--key", "releases", "--signature", "/dev/zero", "plain")


@pytest.mark.usefixtures("store")
def test_public_key_forms_are_one_key() -> None:
    report = json_of("keys", "public-key", "releases")
    der = done("keys", "public-key", "releases", "--format", "der").stdout_bytes
    keys = {
        PublicKey.from_spki(der, "ES256"),
        PublicKey.from_pem(report["pem"], "ES256"),
        PublicKey.from_jwk(report["jwk"], "ES256"),
        PublicKey.from_pem(done("keys", "public-key", "releases").stdout, "ES256"),
    }
    assert {key.fingerprint for key in keys} == {report["fingerprint"]}
    assert "PRIVATE" not in json.dumps(report)


# Inspect, and what is printed of data


@pytest.mark.usefixtures("store")
def test_inspect_says_that_nothing_is_verified() -> None:
    done("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    output = done("inspect", "sealed").stdout
    assert "UNVERIFIED" in output
    assert "tenant = 42" in output
    report = json_of("inspect", "sealed")
    assert report["verified"] is False
    assert report["header"]["context"] == {"tenant": "42"}
    assert report == json_of("inspect", given=Path("sealed").read_bytes())
    assert "InvalidCiphertextError" in refused(ExitCode.REFUSED, "inspect", "plain")


@pytest.mark.usefixtures("store")
def test_inspect_reads_only_the_header_of_a_long_message() -> None:
    Path("data").write_bytes(bytes(1_000_000))
    done("encrypt", "--key", "orders", *CONTEXT, "data", "-o", "sealed")
    body = inspect(Path("sealed").read_bytes()).body_size
    assert json_of("inspect", "sealed")["header"]["body_size"] == body
    assert json_of("inspect", given=Path("sealed").read_bytes())["header"]["body_size"] == body


@pytest.mark.usefixtures("store")
def test_text_from_data_cannot_drive_the_terminal() -> None:
    hostile = "\x1b[2J\x07\u202egood\r[bold red]x[/]\\"
    done("encrypt", "--key", "orders", "--context", f"a={hostile}", "plain", "-o", "sealed")
    for result in (
        done("inspect", "sealed"),
        done("inspect", "sealed", "--json"),
        run("decrypt", "--key", "orders", "--context", f"{hostile}=1", "sealed"),
        run("keys", "describe", hostile.replace("\x1b", "").replace("\x07", "")),
        run("encrypt", "--key", "orders", *CONTEXT, f"missing{hostile}"),
        run("encrypt", "--key", "orders", f"--context={hostile}", "plain"),
    ):
        printed = result.stdout + result.stderr
        assert not set("\x1b\x07\u202e\r") & set(printed)
    assert "[bold red]x[/]\\\\" in done("inspect", "sealed").stdout


@pytest.mark.usefixtures("store")
def test_errors_are_json_where_json_is_asked_for() -> None:
    for arguments, kind, code in (
        (("keys", "describe", "nobody", "--json"), "KeyNotFoundError", ExitCode.NOT_FOUND),
        (("sign", "--json", "--key", "releases", "missing"), "FileNotFoundError", ExitCode.FILE),
        (("encrypt", "--json", "--key", "orders", "plain", "-o", "out"), "UsageError", ExitCode.USAGE),
        (("store", "rekey", "--json"), "InvalidArgumentError", ExitCode.USAGE),
    ):
        problem = json.loads(refused(code, *arguments))
        assert problem["error"]["class"] == kind
        assert problem["error"]["next"]
        assert problem["exit_code"] == code


def test_an_unforeseen_error_shows_its_class_and_not_its_text(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET.decode())

    monkeypatch.setattr("anykms.Keyring.encrypt_stream", fail)
    assert store
    arguments = ("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "out")
    assert "RuntimeError" in refused(ExitCode.FAILED, *arguments)
    monkeypatch.setenv("ANYKMS_TRACEBACK", "1")
    assert isinstance(run(*arguments).exception, RuntimeError)


def test_too_little_memory_is_said(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("anykms.Keyring.encrypt_stream", fail)
    assert store
    message = refused(ExitCode.FAILED, "encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "out")
    assert "does not fit in memory" in message


# Exit codes and help


def every_error(kind: type[errors.KMSError] = errors.KMSError) -> list[type[errors.KMSError]]:
    return [
        kind,
        *(
            found
            for child in kind.__subclasses__()
            if child.__module__ == "anykms.errors"
            for found in every_error(child)
        ),
    ]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_and_a_next_step(kind: type[errors.KMSError]) -> None:
    failure = explain(kind("what", key="local://\x1b"))
    assert failure.kind == kind.__name__
    assert failure.code not in (ExitCode.OK, ExitCode.INTERRUPTED, ExitCode.BROKEN_PIPE)
    assert failure.hint
    assert failure.key == "local://\\x1b"
    assert (failure.code is ExitCode.FAILED) == (kind in (errors.KMSError, errors.ProviderError))


def test_the_notes_of_an_error_are_shown(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        error = errors.UnavailableError("not now")
        error.add_note("then another key")
        raise error

    monkeypatch.setattr("anykms.Keyring.encrypt_stream", fail)
    assert store
    message = refused(ExitCode.UNAVAILABLE, "encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "out")
    assert "then another key" in message


def test_exit_codes_are_documented_in_help_and_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()
    told = {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)}
    assert set(told) == {int(code) for code in ExitCode}
    shown = " ".join(done("--help").stdout.split())
    assert all(f"{code} {text}" in shown for code, text in told.items())


TAUGHT = (
    "demo",
    "keys",
    "encrypt",
    "decrypt",
    "inspect",
    "rewrap",
    "reencrypt",
    "sign",
    "verify",
    "trust",
    "keyset",
    "audit",
    "store",
    "emulator",
)
"""The commands of anykms.cli, anykms_local and anykms_emulators."""


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(context) if path else TAUGHT:
        command = group.get_command(context, name)
        found += (
            every_command(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
        )
    return found


@pytest.mark.parametrize("path", every_command(application), ids=" ".join)
def test_every_help_teaches_by_example(path: tuple[str, ...]) -> None:
    text = done(*path, "--help").stdout
    assert re.search(rf"Examples?:\n +.*anykms {' '.join(path)}", text)


def test_version() -> None:
    assert re.fullmatch(r"anykms, version \d+\.\d+\.\d+\n", done("--version").stdout)


# Commands of other packages


def install(monkeypatch: pytest.MonkeyPatch, point: EntryPoint) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        return [point] if group == "anykms.commands" else []

    monkeypatch.setattr("anykms.cli.application.entry_points", entry_points)


def test_a_command_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("odd", "os:sep", "anykms.commands")
    install(monkeypatch, point)
    assert run("odd").exit_code == ExitCode.FAILED


def test_a_missing_library_of_a_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("odd", "a_module_that_is_not_there:command", "anykms.commands")
    install(monkeypatch, point)
    result = run("odd")
    assert result.exit_code == ExitCode.FAILED
    assert "a_module_that_is_not_there" in result.stderr
    assert "pip install" in result.stderr


# The store


@pytest.mark.usefixtures("store")
def test_store_check_backup_restore_rekey() -> None:
    assert json_of("store", "check")["keys"] == 3
    done("store", "backup", "copy.db")
    done("encrypt", "--key", "orders", *CONTEXT, "plain", "-o", "sealed")
    done("keys", "destroy", "orders", "--yes")
    refused(ExitCode.FILE, "store", "restore", "copy.db")
    result = done("store", "restore", "copy.db", "--force")
    assert "rolled back" in result.stderr
    assert done("decrypt", "--key", "orders", *CONTEXT, "sealed").stdout_bytes == SECRET
    root = Path("keys.db.root").read_bytes()
    done("store", "rekey", "--new-root", "file", "--rotate-data-secret")
    assert Path("keys.db.root").read_bytes() != root
    assert done("decrypt", "--key", "orders", *CONTEXT, "sealed").stdout_bytes == SECRET


@pytest.mark.usefixtures("store")
def test_store_rekey_to_a_passphrase_in_a_file(tmp_path: Path) -> None:
    Path("pass").write_text("correct horse battery staple\n")
    Path("pass").chmod(0o600)
    done("store", "rekey", "--new-root", "passphrase", "--new-passphrase-file", "pass")
    uri = f"local://{tmp_path}/keys.db?root=passphrase&passphrase-file={tmp_path}/pass"
    assert len(json_of("keys", "list", "--store", uri)) == 3
    Path("pass").write_text("another passphrase altogether\n")
    message = refused(ExitCode.DAMAGED, "keys", "list", "--store", uri, leaves=False)
    assert "another passphrase" not in message


@pytest.mark.usefixtures("store")
def test_store_problems_have_their_codes(tmp_path: Path) -> None:
    refused(ExitCode.FILE, "store", "init")
    refused(ExitCode.USAGE, "store", "check", "--store", "local:a", "--store", "local:b")
    refused(ExitCode.USAGE, "store", "init", "--store", f"local://{tmp_path}/new.db?root=passphrase")
    (tmp_path / "keys.db.root").chmod(0o644)
    assert "chmod 600" in refused(ExitCode.DAMAGED, "keys", "list")
    (tmp_path / "keys.db.root").unlink()
    refused(ExitCode.DAMAGED, "keys", "list")
