"""Every row of the Cloud KMS table, with the official client over gRPC, against the emulator."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from google.api_core import exceptions

from anykms_emulators.gcp import GCPEmulator

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


truth = _table("gcp")
LOCATION = "projects/p/locations/global"
_rings = itertools.count(1)


@pytest.fixture(scope="module")
def gcp() -> Iterator[GCPEmulator]:
    with GCPEmulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def kms(gcp: GCPEmulator) -> Any:
    return gcp.client()


def _filled(value: Any, saved: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return value.format(**saved)
    if isinstance(value, truth.Of):
        return saved[value.step][value.member]
    if isinstance(value, truth.Make):
        return value.how(saved)
    if isinstance(value, dict):
        return {k: _filled(v, saved) for k, v in cast("dict[str, Any]", value).items()}
    if hasattr(value, "append"):
        return [_filled(item, saved) for item in value]
    return value


def _members(message: Any) -> dict[str, Any]:
    """The members of a reply that are set: enums by name, wrapped numbers bare, times of Python."""
    kind = cast("Any", type(message))
    raw: Any = kind.pb(message) if hasattr(kind, "pb") else message
    return {field.name: _member(field, value) for field, value in raw.ListFields()}


def _member(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if field.message_type is None:
        return value
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_members(each) for each in value]
    name: str = field.message_type.full_name
    if name == "google.protobuf.Int64Value":
        return value.value
    if name == "google.protobuf.Timestamp":
        return value.ToDatetime(UTC)
    return value.ToTimedelta() if name == "google.protobuf.Duration" else _members(value)


def _same(wanted: Any, got: Any, saved: dict[str, Any]) -> bool:
    if isinstance(wanted, type):
        return isinstance(got, wanted)
    if isinstance(wanted, dict) and isinstance(got, dict):
        members, reply = cast("dict[str, Any]", wanted), cast("dict[str, Any]", got)
        return members.keys() == reply.keys() and all(_same(members[k], reply[k], saved) for k in members)
    if isinstance(got, bytes | list) and isinstance(wanted, int):
        return len(cast("bytes", got)) == wanted
    return bool(_filled(wanted, saved) == got)


def _send(gcp: GCPEmulator, kms: Any, operation: str, request: Any, saved: dict[str, Any]) -> Any:
    filled = _filled(dict(request), saved)
    if operation == "advance":
        gcp.clock.advance(filled["by"])
        return {}
    if operation.startswith("list_"):
        pages = getattr(kms, operation)(request=filled, retry=None).pages
        return _members(next(iter(pages)))
    reply = getattr(kms, operation)(request=filled, retry=None)
    if operation.startswith("delete_"):
        reply.result(timeout=10)
        return {}
    return _members(reply)


def test_there_are_enough_rows_and_each_is_whole() -> None:
    names = [(case.name, case.operation, case.source) for case in truth.CASES]
    assert len(names) == len(set(names)) >= 80
    assert all((case.reply is None) != (case.error is None) for case in truth.CASES)
    kinds = {"replay", "fakekms", "api", "guide", "seen", "rfc"}
    assert {case.source.split()[0] for case in truth.CASES} == kinds


@pytest.mark.parametrize("case", truth.CASES, ids=lambda case: case.name)
def test_gcp(case: Any, gcp: GCPEmulator, kms: Any) -> None:
    ring_id = f"r{next(_rings)}"
    ring = kms.create_key_ring(parent=LOCATION, key_ring_id=ring_id, key_ring={}).name
    saved: dict[str, Any] = {
        "location": LOCATION,
        "ring": ring,
        "ring_id": ring_id,
        "now": gcp.clock.now(),
    }
    for name, operation, request in case.given:
        saved[name] = _send(gcp, kms, operation, request, saved)
    if case.error is None:
        reply = saved["reply"] = _send(gcp, kms, case.operation, case.request, saved)
        wanted = case.reply
        if case.within is not None:
            found = reply[case.within]
            chosen = found[-1] if hasattr(found, "append") else found
            reply = {member: chosen[member] for member in wanted}
        assert _same(wanted, reply, saved), reply
        return
    code, message = case.error
    with pytest.raises(exceptions.GoogleAPICallError) as caught:
        _send(gcp, kms, case.operation, case.request, saved)
    error: Any = caught.value
    assert error.grpc_status_code.name == code
    if message is not None:
        assert error.message == _filled(message, saved)
    if case.detail is not None:
        kind, members = case.detail
        found = [_members(detail) for detail in error.details if type(detail).__name__ == kind]
        assert len(found) == 1
        for member, value in members.items():
            assert found[0][member] == _filled(value, saved)
