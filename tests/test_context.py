"""The encryption context's one canonical form."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anykms.context import canonical_bytes, validate
from anykms.errors import InvalidArgumentError

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
contexts = st.dictionaries(text.filter(lambda n: not n.startswith(("anykms", "aws"))), text, max_size=8)


def read(canonical: bytes) -> dict[str, str]:
    """The inverse that the format promises."""
    label = b"anykms/v1 ctx"
    assert canonical.startswith(label)
    rest, fields = canonical[len(label) :], list[str]()
    while rest:
        size = int.from_bytes(rest[:4])
        field, rest = rest[4 : 4 + size], rest[4 + size :]
        assert len(field) == size
        fields.append(field.decode())
    return dict(zip(fields[::2], fields[1::2], strict=True))


@given(contexts)
def test_the_bytes_can_be_read_back(context: dict[str, str]) -> None:
    assert read(canonical_bytes(context)) == context == validate(context)


@given(contexts, contexts)
def test_different_contexts_have_different_bytes(one: dict[str, str], other: dict[str, str]) -> None:
    assert (canonical_bytes(one) == canonical_bytes(other)) is (one == other)


@given(contexts)
def test_order_of_the_caller_does_not_matter(context: dict[str, str]) -> None:
    shuffled = dict(reversed(context.items()))
    assert canonical_bytes(shuffled) == canonical_bytes(context)
    assert list(validate(shuffled)) == sorted(context, key=str.encode)


def test_golden_bytes() -> None:
    assert canonical_bytes({"b": "2", "a": "\u00e9"}) == (
        b"anykms/v1 ctx\0\0\0\1a\0\0\0\2\xc3\xa9\0\0\0\1b\0\0\0\x012"
    )
    assert canonical_bytes(MappingProxyType({})) == b"anykms/v1 ctx"


def test_names_sort_by_utf8_and_not_by_utf16() -> None:
    assert list(validate({"\U00010000": "x", "\uffff": "x"})) == ["\uffff", "\U00010000"]


def test_nothing_is_normalised() -> None:
    composed, decomposed = {"caf\u00e9": "x"}, {"cafe\u0301": "x"}
    assert canonical_bytes(composed) != canonical_bytes(decomposed)
    assert len(validate(composed | decomposed)) == 2
    assert canonical_bytes({"A": "x"}) != canonical_bytes({"a": "x"})
    assert canonical_bytes({"a": "x "}) != canonical_bytes({"a": "x"})


def test_fields_cannot_run_into_each_other() -> None:
    assert canonical_bytes({"ab": "c"}) != canonical_bytes({"a": "bc"})
    assert canonical_bytes({"a": "b", "c": "d"}) != canonical_bytes({"a": "b\0\0\0\1c\0\0\0\1d"})


def test_number_of_pairs() -> None:
    pairs = {f"n{number}": "v" for number in range(32)}
    assert len(validate(pairs)) == 32
    with pytest.raises(InvalidArgumentError, match="at most 32"):
        validate({**pairs, "more": "v"})


@pytest.mark.parametrize("character", ["v", "\u00e9", "\U0001f511"])
def test_canonical_size_is_counted_in_bytes(character: str) -> None:
    room = 4096 - len(canonical_bytes({"n": "v"})) + 1
    value = character * (room // len(character.encode()))
    value += "v" * (room - len(value.encode()))
    assert len(canonical_bytes({"n": value})) == 4096
    with pytest.raises(InvalidArgumentError, match="at most 4096"):
        validate({"n": value + "v"})


@pytest.mark.parametrize(
    "name", ["anykms", "anykms:bind", "anykmsx", "aws", "aws-crypto-public-key", "awsome"]
)
def test_reserved_names(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="reserved"):
        validate({name: "v"})


@pytest.mark.parametrize("name", ["Anykms", "AWS", "xaws", " aws", "an", "aw", "\u0430ws"])
def test_names_that_only_look_reserved(name: str) -> None:
    assert validate({name: "aws"}) == {name: "aws"}


@pytest.mark.parametrize("context", [{"": "v"}, {"n": ""}, {"": ""}])
def test_empty_fields(context: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError, match="not be empty"):
        validate(context)


@pytest.mark.parametrize(
    "context", [{"\ud800": "v"}, {"n": "\udfff"}, {"n": "a\ud83d"}, {"n": "\udd11\ud83d"}]
)
def test_lone_surrogates(context: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError, match="surrogates"):
        canonical_bytes(context)


@pytest.mark.parametrize(
    "context", [None, "a=b", b"", [("n", "v")], {"n": 1}, {1: "v"}, {"n": None}, {b"n": "v"}]
)
def test_other_types(context: object) -> None:
    for call in (validate, canonical_bytes):
        with pytest.raises(TypeError):
            call(context)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the mistake under test


def test_the_copy_is_the_callers_own() -> None:
    context = {"n": "v"}
    validate(context)["n"] = "w"
    assert context == {"n": "v"}
