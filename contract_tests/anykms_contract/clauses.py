"""What makes a clause binding: no overriding, deviations with reasons, no clause left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, cast

import pytest

_SUITE = __name__.rpartition(".")[0] + "."
_BINDINGS_OWN = frozenset({"deviations", "harness", "harnesses"})


def each(names: str, cases: Mapping[str, object]) -> pytest.MarkDecorator:
    """Run a clause once per case. The keys are the ids, stable because reports and deviations name them."""
    return pytest.mark.parametrize(names, list(cases.values()), ids=list(cases))


def of_kinds(*kinds: Iterable[object]) -> pytest.MarkDecorator:
    """Run a clause once per kind of key."""
    return each("kind", {str(kind): kind for group in kinds for kind in group})


def refuses(error: type[Exception], *attempts: Callable[[], object]) -> list[str]:
    """Each attempt raises ``error`` itself, not a subclass. Returns the texts."""
    texts: list[str] = []
    for attempt in attempts:
        with pytest.raises(error) as caught:
            attempt()
        assert type(caught.value) is error
        texts.append(str(caught.value))
    return texts


class Contract:
    """The rules of every contract class. A binding subclasses the ones below it, not this one.

    Attributes:
        deviations: clause, or ``clause[case]``, to the reason why this provider does not keep it.
    """

    deviations: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith(_SUITE):
            return
        owners = _owners(cls)
        for name, owner in owners.items():
            if inspect.getattr_static(cls, name) is not owner.__dict__[name]:
                raise TypeError(f"{cls.__qualname__} overrides {owner.__name__}.{name}; a clause is fixed")
        known = frozenset(_case_names(owners))
        for deviation, reason in cls.deviations.items():
            if deviation not in known:
                raise TypeError(f"{cls.__qualname__} deviates from {deviation!r}, which is no clause of it")
            if not isinstance(reason, str) or not reason.strip():
                raise TypeError(f"{cls.__qualname__} gives no reason for its deviation from {deviation}")

    @pytest.fixture(autouse=True)
    def _expect_deviation(self, request: pytest.FixtureRequest) -> None:
        item = cast("pytest.Function", request.node)
        reason = self.deviations.get(item.name) or self.deviations.get(item.originalname)
        if reason:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @classmethod
    def clauses(cls) -> Mapping[str, str]:
        """The clauses of this contract: name, and the sentence that it proves."""
        return {
            name: inspect.getdoc(owner.__dict__[name]) or ""
            for name, owner in _owners(cls).items()
            if name.startswith("test_")
        }

    @classmethod
    def cases(cls) -> tuple[str, ...]:
        """Clauses and their cases: ``clause``, and ``clause[case]`` where there are several."""
        return tuple(_case_names(_owners(cls)))


def _owners(cls: type) -> dict[str, type]:
    """Everything that the suite's classes define and a binding must leave alone."""
    return {
        name: base
        for base in reversed(cls.__mro__)
        if base.__module__.startswith(_SUITE)
        for name in vars(base)
        if name not in _BINDINGS_OWN and not name.startswith("__")
    }


def _case_names(owners: Mapping[str, type]) -> Iterator[str]:
    for name, owner in owners.items():
        if not name.startswith("test_"):
            continue
        yield name
        marks = cast("list[pytest.Mark]", getattr(owner.__dict__[name], "pytestmark", []))
        for mark in marks:
            for case in mark.kwargs.get("ids", ()):
                yield f"{name}[{case}]"
