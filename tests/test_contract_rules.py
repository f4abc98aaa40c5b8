"""The contract suite's own rules, and proof that its clauses catch broken providers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import utils

from anykms.errors import (
    InvalidCiphertextError,
    KeyDisabledError,
    KMSError,
    ThrottledError,
    UnavailableError,
)
from anykms.keys import ConnectionURI, KeyInfo, KeyStatus, KeyTemplate
from anykms.provider import Operation, Provider, WrapContext, Wrapped
from anykms_contract import (
    Contract,
    ErrorsContract,
    Harness,
    LifecycleContract,
    ObservedProvider,
    SigningContract,
    StateContract,
    WrappingContract,
)
from anykms_local import LocalProvider

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


# Mutants


class _DropsContext(ObservedProvider):
    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        return super().wrap(info, data_key, WrapContext({}, b""))

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, version, WrapContext({}, b""))


class _ForgetsVersions(ObservedProvider):
    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, self.describe_key(info).current_version, context)


class _ReturnsOtherKeys(ObservedProvider):
    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, version, context) + b"\0"


class _SignsRaw(ObservedProvider):
    """r and s without their leading zeros, as one cloud's client once gave them."""

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        r, s = utils.decode_dss_signature(super().sign(info, message, prehashed))
        return r.to_bytes(32) + s.to_bytes(32)


class _HashesTwice(ObservedProvider):
    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        return super().sign(info, message[::-1], prehashed)


class _RepeatsCreate(ObservedProvider):
    def create_key(self, template: KeyTemplate) -> KeyInfo:
        try:
            return super().create_key(template)
        except UnavailableError:
            return super().create_key(template)


class _RepeatsRotate(ObservedProvider):
    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        try:
            return super().rotate_key(info)
        except UnavailableError:
            return super().rotate_key(info)


class _IgnoresDisabled(ObservedProvider):
    """Uses a disabled key, as a service does that checks the state elsewhere."""

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        try:
            return super().wrap(info, data_key, context)
        except KeyDisabledError:
            return Wrapped("1", bytes(104))


class _EnablesOnCancel(ObservedProvider):
    def cancel_destruction(self, info: KeyInfo) -> None:
        super().cancel_destruction(info)
        self.set_enabled(info, True)


class _LeaksForeignErrors(ObservedProvider):
    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        try:
            return super().unwrap(info, wrapped, version, context)
        except InvalidCiphertextError as error:
            raise ValueError("botched") from error


class _RetriesItself(ObservedProvider):
    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        for _ in range(2):
            try:
                return super().wrap(info, data_key, context)
            except UnavailableError:
                continue
        return super().wrap(info, data_key, context)


class _RoundsTags(ObservedProvider):
    def create_key(self, template: KeyTemplate) -> KeyInfo:
        self.misread(lambda asked: _without_tags(asked))
        return super().create_key(template)


class _PassesThrough(ObservedProvider):
    """A failure turned into a key of zeros."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        try:
            return super().unwrap(info, wrapped, version, context)
        except KMSError:
            return bytes(32)


class _ListsNothing(ObservedProvider):
    def list_keys(self) -> Iterator[KeyInfo]:
        return itertools.islice(super().list_keys(), 0)


def _without_tags(template: KeyTemplate) -> KeyTemplate:

    return replace(template, tags={})


_GCM: Final = "wrap-A256GCM"
_MUTANTS: Final[dict[str, tuple[type[ObservedProvider], type[Contract], str]]] = {
    "drops-context": (_DropsContext, WrappingContract, "test_another_context_does_not_open[other-value]"),
    "forgets-versions": (
        _ForgetsVersions,
        LifecycleContract,
        "test_old_messages_open_after_rotation_in_a_new_process",
    ),
    "returns-other-keys": (
        _ReturnsOtherKeys,
        WrappingContract,
        f"test_unwrap_gives_back_what_was_wrapped[{_GCM}]",
    ),
    "signs-raw": (_SignsRaw, SigningContract, "test_a_signature_verifies_everywhere[ES256]"),
    "hashes-twice": (_HashesTwice, SigningContract, "test_a_signature_verifies_everywhere[ES256]"),
    "repeats-create": (
        _RepeatsCreate,
        ErrorsContract,
        "test_a_reply_lost_anywhere_repeats_nothing[generate]",
    ),
    "repeats-rotate": (
        _RepeatsRotate,
        ErrorsContract,
        "test_a_reply_lost_anywhere_repeats_nothing[rotate]",
    ),
    "ignores-disabled": (
        _IgnoresDisabled,
        StateContract,
        "test_cryptography_in_every_state_unseen[wrap-DISABLED]",
    ),
    "enables-on-cancel": (
        _EnablesOnCancel,
        LifecycleContract,
        "test_a_cancelled_destruction_gives_a_disabled_key",
    ),
    "leaks-foreign-errors": (
        _LeaksForeignErrors,
        WrappingContract,
        f"test_every_flipped_byte_is_refused[{_GCM}]",
    ),
    "retries-itself": (
        _RetriesItself,
        ErrorsContract,
        "test_faults_on_the_wire_cost_the_same_attempts[wrap-UnavailableError]",
    ),
    "rounds-tags": (_RoundsTags, LifecycleContract, "test_tags_at_the_limits_are_kept"),
    "passes-through": (
        _PassesThrough,
        WrappingContract,
        "test_another_context_does_not_open[other-value]",
    ),
    "lists-nothing": (
        _ListsNothing,
        LifecycleContract,
        "test_the_list_holds_every_key_but_destroyed_ones",
    ),
}


@pytest.mark.parametrize(("mutant", "contract", "clause"), _MUTANTS.values(), ids=_MUTANTS)
def test_a_broken_provider_is_caught(
    tmp_path: Path, mutant: type[ObservedProvider], contract: type[Contract], clause: str
) -> None:
    uri = ConnectionURI.parse(f"local://{tmp_path}/keys.db")

    def sound() -> Provider:
        return LocalProvider.connect(uri, create=True)

    with _wired(sound, ObservedProvider) as harness:
        _run(contract, clause, harness)
    with (
        _wired(sound, mutant) as harness,
        pytest.raises((AssertionError, pytest.fail.Exception, KMSError)),
    ):
        _run(contract, clause, harness)


def _wired(sound: Callable[[], Provider], kind: type[ObservedProvider]) -> Harness:
    """A harness whose wire is the seam below the provider under test."""
    services: list[ObservedProvider] = []

    def open_provider() -> Provider:
        services.append(ObservedProvider(sound()))
        return kind(services[-1])

    def fail(error: type[KMSError]) -> Callable[[int], None]:
        def arm(times: int) -> None:
            for operation in Operation:
                services[-1].fail(operation, lambda: error("on the wire"), times=times)

        return arm

    def lose(after: int) -> None:
        services[-1].lose_reply_after(after, lambda: UnavailableError("lost on the wire"))

    def heal() -> None:
        services[-1].heal()

    return Harness(
        open_provider=open_provider,
        requests=lambda: sum(len(service.calls) for service in services),
        wire_faults={error.__name__: fail(error) for error in (UnavailableError, ThrottledError)},
        lose_wire_reply=lose,
        heal_wire=heal,
    )


def _run(contract: type[Contract], clause: str, harness: Harness) -> None:
    name, _, case = clause.rstrip("]").partition("[")
    function: Callable[..., None] = getattr(contract(), name)
    arguments: dict[str, Any] = {}
    if case:
        (mark,) = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
        names, values = mark.args[0].split(","), mark.args[1][mark.kwargs["ids"].index(case)]
        arguments = dict(zip(names, values if len(names) > 1 else [values], strict=True))
    function(harness=harness, **arguments)
