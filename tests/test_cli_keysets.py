"""``anykms trust`` and ``anykms keyset`` as their users see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from anykms import PublicKey
from anykms.cli.application import application
from anykms.cli.failures import ExitCode

SEAL = ("--seal-with", "admin")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(application, arguments)


def done(*arguments: str) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(code: ExitCode, *arguments: str) -> str:
    before = {path: path.read_bytes() for path in Path().glob("*.keyset")}
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert {path: path.read_bytes() for path in Path().glob("*.keyset")} == before
    return result.stderr


def json_of(*arguments: str) -> Any:
    return json.loads(done(*arguments, "--json").stdout)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keystore with the keys admin, orders-1 and releases-1, and a trust root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYKMS_STORE", "local:keys.db")
    monkeypatch.setenv("ANYKMS_ROOT", "root.json")
    done("store", "init")
    for name in ("admin", "releases-1", "bob"):
        done("keys", "generate", name, "--purpose", "SIGN_VERIFY", "--algorithm", "ES256")
    done("keys", "generate", "orders-1", "--purpose", "ENCRYPT_DECRYPT")
    done("trust", "root", "--key", "admin", "-o", "root.json")


def states(keyset: str) -> dict[str, str]:
    found = json_of("keyset", "show", keyset)
    return {member["info"]["name"]: member["state"] for member in found["document"]["members"]}


def test_the_life_of_a_keyset() -> None:
    done("keyset", "create", "orders", "--key", "orders-1", *SEAL)
    done("keys", "generate", "orders-2", "--purpose", "ENCRYPT_DECRYPT")
    done("keyset", "add", "orders", "--key", "orders-2", *SEAL)
    assert states("orders") == {"orders-1": "active", "orders-2": "pre-activation"}
    done("keyset", "promote", "orders", "--key", "orders-2", "--reason", "yearly", *SEAL)
    done("keyset", "suspend", "orders", "--key", "orders-1", *SEAL)
    done("keyset", "promote", "orders", "--key", "orders-1", *SEAL)
    done("keyset", "promote", "orders", "--key", "orders-2", *SEAL)
    done("keyset", "deactivate", "orders", "--key", "orders-1", *SEAL)
    done("keyset", "compromise", "orders", "--key", "orders-1", "--reason", "leaked", *SEAL)
    assert "leaked" in done("keyset", "show", "orders").stdout
    done("keyset", "destroyed", "orders", "--key", "orders-1", *SEAL)
    found = json_of("keyset", "remove", "orders", "--key", "orders-1", *SEAL)
    assert found["generation"] == 10
    assert [member["info"]["name"] for member in found["document"]["members"]] == ["orders-2"]


def test_a_succession_to_another_keystore_is_one_command() -> None:
    done("keyset", "create", "orders", "--key", "orders-1", *SEAL)
    done("store", "init", "--store", "local:elsewhere.db")
    said = done("keyset", "succeed", "orders", "--to", "local:elsewhere.db", *SEAL).stdout
    assert "generation 2, 2 members" in said
    assert states("orders") == {"orders-1": "deactivated", "orders-2": "active"}
    both = ("--store", "local:keys.db", "--store", "local:elsewhere.db")
    assert json_of("keyset", "check", "orders", *both) == {"drift": [], "ending": []}


def test_a_signing_key_keeps_its_algorithm_through_succession() -> None:
    done("keyset", "create", "releases", "--key", "releases-1", "--protect-days", "20", *SEAL)
    warned = done("keyset", "show", "releases")
    assert "releases-1 encrypts, signs and MACs until" in warned.stderr
    done("keyset", "succeed", "releases", "--to", "local:keys.db", "--as", "releases-b", *SEAL)
    keys = json_of("keyset", "jwks", "releases")["keys"]
    assert [key["alg"] for key in keys] == ["ES256", "ES256"]
    assert all(
        key["use"] == "sig" and PublicKey.from_jwk(key, "ES256").jwk()["kid"] == key["kid"] for key in keys
    )


def test_check_finds_what_a_console_changed() -> None:
    done("keyset", "create", "orders", "--key", "orders-1", *SEAL)
    assert "agree" in done("keyset", "check", "orders").stdout
    done("keys", "disable", "orders-1")
    result = run("keyset", "check", "orders", "--json")
    assert result.exit_code == ExitCode.STATE
    (drift,) = json.loads(result.stdout)["drift"]
    assert (drift["expected"], drift["found"], drift["stricter"]) == ("active", "DISABLED", "provider")
    assert "DISABLED" in run("keyset", "check", "orders").stdout


def test_edits_that_are_refused_change_nothing() -> None:
    done("keyset", "create", "orders", "--key", "orders-1", *SEAL)
    assert "leads to" in refused(ExitCode.STATE, "keyset", "destroyed", "orders", "--key", "orders-1", *SEAL)
    assert "SealError" in refused(
        ExitCode.REFUSED, "keyset", "suspend", "orders", "--key", "orders-1", "--seal-with", "bob"
    )
    assert "no member" in refused(ExitCode.NOT_FOUND, "keyset", "suspend", "orders", "--key", "bob", *SEAL)
    assert "removed" in refused(ExitCode.STATE, "keyset", "remove", "orders", "--key", "orders-1", *SEAL)
    assert "changed meanwhile" in refused(
        ExitCode.UNAVAILABLE, "keyset", "create", "orders", "--key", "orders-1", *SEAL
    )
    refused(ExitCode.FILE, "keyset", "show", "payments")
    assert "twice" in refused(
        ExitCode.USAGE, "keyset", "suspend", "orders", "--key", "orders-1", *SEAL, *SEAL
    )
    refused(ExitCode.REFUSED, "keyset", "show", "payments", "--file", "orders.keyset")


def test_a_succession_that_cannot_be_sealed_makes_no_key() -> None:
    done("keyset", "create", "orders", "--key", "orders-1", *SEAL)
    before = json_of("keys", "list")
    for sealer, code in (("bob", ExitCode.REFUSED), ("nobody", ExitCode.NOT_FOUND)):
        refused(code, "keyset", "succeed", "orders", "--to", "local:keys.db", "--seal-with", sealer)
    assert json_of("keys", "list") == before


def test_a_document_with_an_end() -> None:
    done("keyset", "create", "orders", "--key", "orders-1", "--expires", "30", *SEAL)
    claims = json_of("trust", "show", "orders.keyset")["seal"]
    assert claims["expires"] > claims["issued"]
    refused(ExitCode.USAGE, "keyset", "suspend", "orders", "--key", "orders-1", "--expires", "0", *SEAL)


def test_seal_and_open_every_kind() -> None:
    Path("conf.json").write_text('{"name": "orders-2", "purpose": "ENCRYPT_DECRYPT", "destroy_window": 7}')
    Path("policy.json").write_text('{"required_context": ["tenant"], "max_age": 86400}')
    sources = {
        "keyinfo": ("orders-1", "orders-1"),
        "keyconf": ("conf.json", "orders-2"),
        "policy": ("policy.json", "p"),
    }
    for kind, (source, name) in sources.items():
        done(
            "trust",
            "seal",
            source,
            "--kind",
            kind,
            "--name",
            name,
            "--generation",
            "1",
            "--expires",
            "30",
            *SEAL,
            "-o",
            kind,
        )
        found = json_of("trust", "open", kind, "--kind", kind, "--name", name)
        assert (found["verified"], found["generation"], len(found["signed_by"])) == (True, 1, 1)
        assert json_of("trust", "show", kind)["document"] == found["document"]
        assert name in done("trust", "open", kind, "--kind", kind, "--name", name).stdout
        assert "UNVERIFIED" in done("trust", "show", kind).stdout
        refused(ExitCode.REFUSED, "trust", "open", kind, "--kind", kind, "--name", "other")
    refused(ExitCode.REFUSED, "trust", "open", "keyconf", "--kind", "keyinfo", "--name", "orders-2")


@pytest.mark.parametrize(
    "text", ["{}", "[]", "not json", '{"name": "a1", "purpose": "ENCRYPT_DECRYPT", "exportable": true}']
)
def test_a_file_that_is_no_conf_is_not_sealed(text: str) -> None:
    Path("conf.json").write_text(text)
    refused(
        ExitCode.USAGE,
        "trust",
        "seal",
        "conf.json",
        "--kind",
        "keyconf",
        "--generation",
        "1",
        *SEAL,
        "-o",
        "out",
    )
    assert not Path("out").exists()


def test_two_administrators_seal_together() -> None:
    done("trust", "root", "--key", "admin", "--key", "bob", "--threshold", "2", "-o", "two.json")
    opening = ("trust", "open", "one", "--kind", "keyinfo", "--name", "orders-1", "--root", "two.json")
    done("trust", "seal", "orders-1", "--kind", "keyinfo", "--generation", "1", *SEAL, "-o", "one")
    refused(ExitCode.REFUSED, *opening)
    done("trust", "countersign", "one", "--seal-with", "bob", "-o", "one", "--force")
    assert len(json_of(*opening)["signed_by"]) == 2
    refused(ExitCode.USAGE, "trust", "countersign", "one", "--seal-with", "bob", "-o", "one", "--force")


def test_the_ledger_of_the_command_refuses_what_is_old() -> None:
    for number in ("1", "2"):
        done("trust", "seal", "orders-1", "--kind", "keyinfo", "--generation", number, *SEAL, "-o", number)
    opening = ("--kind", "keyinfo", "--name", "orders-1")
    done("trust", "open", "2", *opening)
    refused(ExitCode.REFUSED, "trust", "open", "1", *opening)
    done("trust", "open", "1", *opening, "--ledger", "another")
    assert Path("root.json.ledger").exists()
