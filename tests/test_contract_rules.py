"""The contract suite's own rules, and proof that its clauses catch broken providers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from anykms_contract import (
    Contract,
    SigningContract,
)

pytest_plugins = ["pytester"]

_CONTRACTS: Final = [c for c in Contract.__subclasses__() if c.__module__.startswith("anykms_contract.")]


# Rules


def test_a_clause_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match=r"overrides SigningContract\.test_a_signature_verifies_everywhere"):

        class Lenient(SigningContract):  # pyright: ignore[reportUnusedClass] # never made
            def test_a_signature_verifies_everywhere(self) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
                pass


def test_a_clause_cannot_be_switched_off() -> None:
    with pytest.raises(TypeError, match="overrides"):
        type("Lenient", (SigningContract,), {"test_a_signature_verifies_everywhere": None})


def test_a_clause_cannot_be_overridden_by_a_mixin() -> None:
    class Mixin:
        test_a_signature_verifies_everywhere = None

    with pytest.raises(TypeError, match="overrides"):
        type("Lenient", (Mixin, SigningContract), {})


def test_the_rules_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="overrides Contract"):
        type("Lenient", (SigningContract,), {"_expect_deviation": None})


@pytest.mark.parametrize(
    "name", ["test_a_signature_verifies", "test_a_signature_verifies_everywhere[ES257]", ""]
)
def test_a_misspelt_deviation_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="is no clause of it"):
        type("Lenient", (SigningContract,), {"deviations": {name: "reason"}})


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_a_deviation_needs_a_reason(reason: str | None) -> None:
    deviations = {"test_a_signature_verifies_everywhere": reason}
    with pytest.raises(TypeError, match="gives no reason"):
        type("Lenient", (SigningContract,), {"deviations": deviations})


_BINDING: Final = """
import pytest
from anykms.keys import ConnectionURI
from anykms_contract import Harness, ObservedProvider, WrappingContract
from anykms_local import LocalProvider


class Broken(ObservedProvider):
    def wrap(self, info, data_key, context):
        raise ValueError("broken")


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    uri = ConnectionURI.parse(f"local://{{tmp_path_factory.mktemp('store')}}/keys.db")
    with Harness(open_provider=lambda: {kind}(LocalProvider.connect(uri, create=True))) as opened:
        yield opened


class TestIt(WrappingContract):
    deviations = {deviations!r}
"""


def _bound(
    pytester: pytest.Pytester, deviations: dict[str, str], clause: str, kind: str = "ObservedProvider"
) -> dict[str, int]:
    pytester.makepyfile(_BINDING.format(deviations=deviations, kind=kind))
    outcomes = pytester.runpytest_inprocess("-q", "-k", clause).parseoutcomes()
    return {outcome: count for outcome, count in outcomes.items() if outcome != "deselected"}


def test_a_stale_deviation_fails(pytester: pytest.Pytester) -> None:
    clause = "test_a_data_key_has_32_bytes"
    assert _bound(pytester, {clause: "mended long ago"}, clause) == {"failed": 8}


def test_a_stale_deviation_of_one_case_fails_alone(pytester: pytest.Pytester) -> None:
    clause = "test_a_data_key_has_32_bytes"
    assert _bound(pytester, {f"{clause}[31]": "mended long ago"}, clause) == {"failed": 1, "passed": 7}


def test_a_deviation_is_an_expected_failure(pytester: pytest.Pytester) -> None:
    clause = "test_random_bytes_are_refused_unsent"
    assert _bound(pytester, {}, clause, "Broken") == {"passed": 1}
    clause = "test_another_context_does_not_open"
    assert _bound(pytester, {f"{clause}[missing]": "cannot wrap"}, clause, "Broken") == {
        "xfailed": 1,
        "failed": 6,
    }


# Ids


def test_clauses_are_named_once() -> None:
    named = [f"{contract.__name__}.{name}" for contract in _CONTRACTS for name in contract.clauses()]
    assert len(named) == len(set(named))
    assert len(named) > 150


def test_every_sentence_has_a_clause_and_every_clause_a_sentence() -> None:
    page = (Path(__file__).parents[1] / "docs" / "contract.md").read_text(encoding="utf-8")
    stated = re.findall(r"^- \*\*(C\d+\.\d+)\*\* \S", page, re.MULTILINE)
    assert len(stated) == len(set(stated))
    cited: set[str] = set()
    for contract in _CONTRACTS:
        for name, text in contract.clauses().items():
            numbers, _, sentence = text.partition(": ")
            assert re.fullmatch(r"C\d+\.\d+(, C\d+\.\d+)*", numbers), f"{contract.__name__}.{name}"
            assert sentence.endswith("."), f"{contract.__name__}.{name}"
            cited.update(numbers.split(", "))
    assert cited == set(stated)
