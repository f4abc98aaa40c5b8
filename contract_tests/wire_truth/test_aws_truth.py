"""Every row of the AWS table, with plain boto3 over HTTP, against the emulator."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from anykms_emulators.aws import AWSEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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


truth = _table("aws")


@pytest.fixture(scope="module")
def aws() -> Iterator[AWSEmulator]:
    with AWSEmulator(replica_regions=("ap-southeast-1",)) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def module_client(aws: AWSEmulator) -> Any:
    config = importlib.import_module("botocore.config").Config(
        parameter_validation=False, retries={"total_max_attempts": 1}
    )
    return importlib.import_module("boto3").client("kms", config=config, **aws.client_kwargs())


@pytest.fixture
def kms(module_client: Any) -> Iterator[Any]:
    yield module_client
    for alias in module_client.list_aliases(Limit=100)["Aliases"]:
        if "TargetKeyId" in alias:
            module_client.delete_alias(AliasName=alias["AliasName"])


def _filled(value: Any, saved: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return value.format(**saved)
    if isinstance(value, truth.Of):
        return saved[value.step][value.member]
    if isinstance(value, truth.Make):
        return value.how(saved)
    if isinstance(value, dict):
        return {k: _filled(v, saved) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_filled(item, saved) for item in cast("Sequence[Any]", value)]
    return value


def _same(wanted: Any, got: Any, saved: dict[str, Any]) -> bool:
    if isinstance(wanted, type):
        return isinstance(got, wanted)
    if isinstance(wanted, dict) and isinstance(got, dict):
        members, reply = cast("dict[str, Any]", wanted), cast("dict[str, Any]", got)
        return members.keys() == reply.keys() and all(_same(members[k], reply[k], saved) for k in members)
    if isinstance(got, bytes) and isinstance(wanted, int):
        return len(got) == wanted
    return bool(_filled(wanted, saved) == got)


def _send(kms: Any, operation: str, parameters: Any, saved: dict[str, Any]) -> dict[str, Any]:
    method = importlib.import_module("botocore").xform_name(operation)
    reply = getattr(kms, method)(**_filled(dict(parameters), saved))
    assert reply.pop("ResponseMetadata")["HTTPStatusCode"] == 200
    return cast("dict[str, Any]", reply)


def test_there_are_enough_rows_and_each_has_its_own_name() -> None:
    names = [case.name for case in truth.CASES]
    assert len(names) == len(set(names)) >= 80
    assert all((case.reply is None) != (case.error is None) for case in truth.CASES)
    assert all(
        case.source.split()[0] in {"snapshot", "replay", "model", "guide", "report"} for case in truth.CASES
    )


@pytest.mark.parametrize("case", truth.CASES, ids=lambda case: case.name)
def test_aws(case: Any, aws: AWSEmulator, kms: Any) -> None:
    region, account = aws.region, "111122223333"
    saved: dict[str, Any] = {
        "region": region,
        "account": account,
        "alias_arn": f"arn:aws:kms:{region}:{account}:alias/here",
    }
    for name, operation, parameters in case.given:
        saved[name] = _send(kms, operation, parameters, saved)
    if case.error is None:
        reply = _send(kms, case.operation, case.parameters, saved)
        wanted = case.reply
        if case.within is not None:
            reply = {member: reply[case.within][member] for member in wanted}
        assert _same(wanted, reply, saved), reply
        return
    code, message = case.error
    with pytest.raises(kms.exceptions.ClientError) as caught:
        _send(kms, case.operation, case.parameters, saved)
    reply = caught.value.response
    assert reply["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert reply["Error"]["Code"] == code
    if isinstance(message, truth.Begins):
        assert reply["Error"]["Message"].startswith(message.text)
        assert reply["Error"]["Message"].endswith(_filled(message.end, saved))
    elif message is not None:
        assert reply["Error"]["Message"] == _filled(message, saved)
