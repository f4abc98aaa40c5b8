"""Every row of the Azure table, with the official KeyClient over TLS, against the emulator."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from azure.core import PipelineClient
from azure.core.pipeline.policies import HeadersPolicy
from azure.core.rest import HttpRequest, HttpResponse

from anykms_emulators import Clock
from anykms_emulators.azure import AzureEmulator, VaultSettings
from anykms_emulators.azure.keys import decode, is_list

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def _table(name: str) -> ModuleType:
    # test files are no packages, so a table next to this file is loaded by its path
    spec = importlib.util.spec_from_file_location(
        f"wire_truth_{name}", Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


truth = _table("azure")
_numbers = itertools.count()
_SETTINGS = {
    "standard": VaultSettings("standard", 7),
    "premium": VaultSettings("premium", 7),
    "hsm": VaultSettings("hsm", 7),
    "protected": VaultSettings("standard", 7, purge_protection=True),
    "lagging": VaultSettings("standard", 7, eventual_reads=1),
}


@pytest.fixture(scope="module")
def az() -> Iterator[AzureEmulator]:
    with AzureEmulator(clock=Clock(datetime(2030, 1, 1, tzinfo=UTC))) as emulator:
        yield emulator


class Vault:
    """A fresh vault, and what its replies have said."""

    def __init__(self, az: AzureEmulator, flavour: str) -> None:
        self.base = az.add_vault(f"vault-{next(_numbers)}", _SETTINGS[flavour])
        self.client = az.key_client(self.base.removeprefix("https://"), retry_total=0)
        self.saved: dict[str, Any] = {"base": self.base}
        self._clock = az.clock

    def send(self, ask: Any) -> tuple[int, Any]:
        self.saved["now"] = int(self._clock.now().timestamp())
        path = cast("str", self.fill(ask.path))
        url = path if path.startswith("https://") else f"{self.base}/{path}"
        url += f"{'&' if '?' in url else '?'}api-version={ask.api}"
        body = None if ask.body is None else self.fill(ask.body)
        response = self.client.send_request(HttpRequest(ask.method, url, json=body))
        text = response.text()
        return response.status_code, response.json() if text else None

    def given(self, steps: Any) -> None:
        for step in steps:
            status, reply = self.send(step.ask)
            for _ in range(step.tries - 1):
                status, reply = self.send(step.ask) if status >= 300 else (status, reply)
            assert status < 300, (step.name, status, reply)
            self.saved[step.name] = reply
        if "key" in self.saved:
            self.saved["version"] = self.saved["key"]["key"]["kid"].removeprefix(f"{self.base}/keys/")

    def fill(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.format(**self.saved)
        if isinstance(value, truth.Make):
            return value.how(self.saved)
        if isinstance(value, dict):
            return {name: self.fill(part) for name, part in cast("dict[str, Any]", value).items()}
        if isinstance(value, tuple) or is_list(value):
            return [self.fill(part) for part in cast("list[Any]", value)]
        return value

    def same(self, wanted: Any, got: Any) -> bool:
        if isinstance(wanted, type):
            return type(got) is wanted
        if isinstance(wanted, truth.Bytes):
            raw = decode({"value": got}, "value")
            return wanted.count is None or len(raw) == wanted.count
        if isinstance(wanted, truth.Begins):
            return isinstance(got, str) and got.startswith(self.fill(wanted.text))
        if isinstance(wanted, truth.Unordered):
            return sorted(self.fill(wanted.items)) == sorted(got)
        if isinstance(wanted, truth.Make):
            return bool(wanted.how(self.saved) == got)
        if isinstance(wanted, dict):
            parts = cast("dict[str, Any]", wanted)
            return parts.keys() == got.keys() and all(self.same(parts[name], got[name]) for name in parts)
        if is_list(wanted):
            return len(wanted) == len(got) and all(map(self.same, wanted, got))
        return bool(self.fill(wanted) == got)


def _within(reply: Any, path: tuple[str | int, ...]) -> Any:
    return reply if not path else _within(_part(reply, path[0]), path[1:])


def _part(reply: Any, part: str | int) -> Any:
    if part == "length":
        return len(reply)
    entries: object = reply
    if is_list(entries) and isinstance(part, str):
        return [entry[part] for entry in entries]
    return reply[part]


def test_there_are_enough_rows_and_each_has_its_own_name_and_source() -> None:
    names = [case.name for case in truth.CASES]
    assert len(names) == len(set(names)) >= 80
    sources = {"replay", "go", "py", "issue", "docs", "model"}
    assert all(case.source.split()[0] in sources for case in truth.CASES)
    assert all(case.reply is None or case.error is None for case in truth.CASES)


@pytest.mark.parametrize("case", truth.CASES, ids=lambda case: case.name)
def test_azure(case: Any, az: AzureEmulator) -> None:
    vault = Vault(az, case.flavour)
    vault.given(case.given)
    az.clock.advance(case.wait)
    status, reply = vault.send(case.ask)
    if case.error is None:
        assert status == (204 if case.reply is None else 200), reply
        assert vault.same(case.reply, None if reply is None else _within(reply, case.within)), reply
        return
    assert status == case.error.status, reply
    error = reply["error"]
    assert error.keys() <= {"code", "message", "innererror"}
    assert error["code"] == case.error.code
    if case.error.message is not None:
        assert vault.same(case.error.message, error["message"]), error
    if case.error.inner is not None:
        assert error.get("innererror", {"code": ""}) == {"code": case.error.inner}


def _raw(az: AzureEmulator, flavour: str, authorization: str | None) -> Any:
    """A request through the official pipeline, but without its authentication."""
    base = az.add_vault(f"vault-{next(_numbers)}", _SETTINGS[flavour])
    headers = {} if authorization is None else {"Authorization": authorization}
    client = PipelineClient[HttpRequest, HttpResponse](
        base, transport=az.transport(), policies=[HeadersPolicy(headers)]
    )
    return client.send_request(HttpRequest("POST", f"{base}/keys/k/create?api-version=2025-07-01"))


@pytest.mark.parametrize(
    ("flavour", "resource", "body"),
    [
        # replay azurekeyvault-TestEncryptDecrypt, py test_ec_key_id[2025-07-01_vault]
        (
            "standard",
            "https://vault.azure.net",
            '{"error":{"code":"Unauthorized","message":"AKV10000: Request is missing a Bearer, PoP, or '
            'MTLS_POP token."}}',
        ),
        # go TestCRUD/EC_MHSM
        ("hsm", "https://managedhsm.azure.net", ""),
    ],
)
def test_a_request_without_a_token_is_challenged(
    az: AzureEmulator, flavour: str, resource: str, body: str
) -> None:
    response = _raw(az, flavour, None)
    assert response.status_code == 401
    challenge = response.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer authorization="https://login.microsoftonline.com/')
    assert challenge.endswith(f', resource="{resource}"')
    assert response.text() == body
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"


def test_a_token_for_another_resource_is_refused(az: AzureEmulator) -> None:
    # quoted by several published walk-throughs of Key Vault access tokens
    response = _raw(az, "standard", f"Bearer {az.token(resource='https://management.azure.com')}")
    assert response.status_code == 401
    assert response.json()["error"] == {
        "code": "Unauthorized",
        "message": "AKV10022: Invalid audience. Expected https://vault.azure.net, found: "
        "https://management.azure.com.",
    }


def test_throttling(az: AzureEmulator) -> None:
    # issue vcsjones/AzureSignTool#219
    vault = Vault(az, "standard")
    az.faults.add("CreateKey", kind="throttle")
    status, reply = vault.send(truth.create({"kty": "EC"}))
    assert status == 429
    assert reply == {
        "error": {
            "code": "Throttled",
            "message": "Request was not processed because too many requests were received. Reason: "
            "VaultRequestTypeLimitReached",
        }
    }
