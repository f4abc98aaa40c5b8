"""Paging, filters and order of the List methods.

The filter language is that of "Sorting and filtering list results" in the Cloud KMS documentation:
restrictions `field=value` with = != < > <= >= and `:` (contains, case-insensitive), AND (or a space), OR,
which binds tighter, NOT or `-`, and parentheses. Anything else is INVALID_ARGUMENT.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from anykms_emulators.gcp.messages import descriptor_of, raw
from anykms_emulators.gcp.status import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor

    from anykms_emulators.gcp.status import RefusedError

DEFAULT_PAGE: Final = 100
LARGEST_PAGE: Final = 1000
_LONGEST_EXPRESSION: Final = 2048
_DEEPEST_EXPRESSION: Final = 16
_TOKEN: Final = re.compile(r'\s*(?:(!=|<=|>=|=>|[=<>:()-])|"((?:[^"\\]|\\.)*)"|([^\s"=<>!:()]+))')
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "=>": operator.ge,
}


class _Test(Protocol):
    def __call__(self, message: Any, /) -> bool: ...


_Word: TypeAlias = tuple[str, str]  # ("mark" | "quoted" | "bare", text)


def page(items: Sequence[Any], *, size: int, token: str, query: tuple[str, ...]) -> tuple[Sequence[Any], str]:
    """One page and the token of the next, "" at the end. A token fits only the query it came from."""
    if size < 0:
        raise invalid("page_size", "page_size must not be negative.")
    stamp = hashlib.sha256(repr(query).encode()).hexdigest()[:16]
    start = _offset(token, stamp) if token else 0
    end = start + min(size or DEFAULT_PAGE, LARGEST_PAGE)
    following = base64.urlsafe_b64encode(f"{end}/{stamp}".encode()).decode() if end < len(items) else ""
    return items[start:end], following


def select(messages: Sequence[Any], kind: Any, *, filter_text: str, order_by: str) -> list[Any]:
    """The messages of type `kind` that match, in the wanted order (the given one by default)."""
    descriptor = descriptor_of(kind)
    chosen = list(messages)
    if filter_text:
        test = _Parser(filter_text, descriptor).parse()
        chosen = [message for message in chosen if test(raw(message))]
    for read, descending in reversed(_order(order_by, descriptor)):
        chosen.sort(key=lambda message: _sortable(read(raw(message))), reverse=descending)
    return chosen


def _offset(token: str, stamp: str) -> int:
    try:
        offset, _, found = base64.b64decode(token.encode(), b"-_", validate=True).decode().partition("/")
        if found == stamp and offset.isascii() and offset.isdigit() and len(offset) < 10:
            return int(offset)
    except (ValueError, binascii.Error):
        pass  # the same refusal as for a token of another list
    raise invalid("page_token", "page_token is not one that this list returned.")


def _order(order_by: str, descriptor: Descriptor) -> list[tuple[Callable[[Any], Any], bool]]:
    result: list[tuple[Callable[[Any], Any], bool]] = []
    if len(order_by) > _LONGEST_EXPRESSION:
        raise invalid("order_by", f"order_by is longer than {_LONGEST_EXPRESSION} characters.")
    for part in order_by.split(",") if order_by else []:
        words = part.split()
        if len(words) not in (1, 2) or (len(words) == 2 and words[1] not in ("asc", "desc")):
            raise invalid("order_by", "order_by must be a list of fields, each with asc or desc at most.")
        result.append((_Field(words[0], descriptor, "order_by").read, words[1:] == ["desc"]))
    return result


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is not None, value)


class _Field:
    """A field of a message by its path: `createTime` or `create_time`, `primary.algorithm`, `labels.team`."""

    def __init__(self, path: str, descriptor: Descriptor, argument: str) -> None:
        self._argument = argument
        self._path = path
        self._steps: list[str] = []
        self._map_key: str | None = None
        holder: Descriptor | None = descriptor
        found: FieldDescriptor | None = None
        parts = path.split(".")
        for index, part in enumerate(parts):
            name = re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), part)
            found = None if holder is None else holder.fields_by_name.get(name)
            if found is None:
                raise self._unknown()
            self._steps.append(name)
            entry = found.message_type
            if entry is not None and entry.GetOptions().map_entry:
                self._map_key = ".".join(parts[index + 1 :])
                found = entry.fields_by_name["value"]
                break
            holder = entry
        if found is None or self._map_key == "":
            raise self._unknown()
        self._type = found
        self._message = None if found.message_type is None else found.message_type.full_name
        readable = (
            self._message in ("google.protobuf.Timestamp", "google.protobuf.Duration")
            if found.message_type is not None
            else found.type != FieldDescriptor.TYPE_BYTES and (self._map_key or not found.is_repeated)
        )
        if not readable:
            raise self._unknown()

    def read(self, message: Any) -> Any:
        """The value: str (enums by name), bool, int, datetime or timedelta; None when it is not set."""
        for step in self._steps[:-1]:
            if not message.HasField(step):
                return None
            message = getattr(message, step)
        last = self._steps[-1]
        if self._map_key is not None:
            return getattr(message, last).get(self._map_key)
        if self._message is not None:
            if not message.HasField(last):
                return None
            value = getattr(message, last)
            if self._message.endswith("Timestamp"):
                return value.ToDatetime(UTC)
            return value.ToTimedelta()
        value = getattr(message, last)
        if self._type.enum_type is not None:
            named = self._type.enum_type.values_by_number.get(value)
            return str(value) if named is None else named.name
        return value

    def literal(self, text: str) -> Any:
        """The text of a filter as a value that `read` could return."""
        try:
            if self._message is None:
                if self._type.type == FieldDescriptor.TYPE_BOOL:
                    return {"true": True, "false": False}[text.lower()]
                if self._type.cpp_type in (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_ENUM):
                    return text
                return int(text)
            if self._message.endswith("Timestamp"):
                moment = datetime.fromisoformat(text)
                return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            if text.endswith("s"):
                return timedelta(seconds=int(text[:-1]))
        except (ValueError, KeyError, OverflowError):
            pass  # one refusal for every kind of bad literal
        raise invalid(self._argument, f"{text} is not a value of the field {self._path}.")

    @property
    def textual(self) -> bool:
        """Whether `:` makes sense."""
        return self._message is None and self._type.cpp_type in (
            FieldDescriptor.CPPTYPE_STRING,
            FieldDescriptor.CPPTYPE_ENUM,
        )

    def _unknown(self) -> RefusedError:
        return invalid(self._argument, f"{self._argument} names a field that cannot be read: {self._path}.")


class _Parser:
    """A recursive descent over the words of one filter."""

    def __init__(self, text: str, descriptor: Descriptor) -> None:
        if len(text) > _LONGEST_EXPRESSION:
            raise invalid("filter", f"filter is longer than {_LONGEST_EXPRESSION} characters.")
        self._descriptor = descriptor
        self._words: list[_Word] = []
        self._next = 0
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._bad()
            position = match.end()
            mark, quoted, bare = match.groups()
            if mark is not None:
                self._words.append(("mark", mark))
            elif quoted is not None:
                self._words.append(("quoted", re.sub(r"\\(.)", r"\1", quoted)))
            else:
                self._words.append(("bare", bare))

    def parse(self) -> _Test:
        test = self._conjunction(0)
        if self._peek() is not None:
            raise self._bad()
        return test

    def _conjunction(self, depth: int) -> _Test:
        if depth > _DEEPEST_EXPRESSION:
            raise self._bad()
        tests = [self._disjunction(depth)]
        while self._peek() not in (None, ("mark", ")")):
            self._accept(("bare", "AND"))
            tests.append(self._disjunction(depth))
        return lambda message: all(test(message) for test in tests)

    def _disjunction(self, depth: int) -> _Test:
        tests = [self._term(depth)]
        while self._accept(("bare", "OR")):
            tests.append(self._term(depth))
        return lambda message: any(test(message) for test in tests)

    def _term(self, depth: int) -> _Test:
        if self._accept(("bare", "NOT")) or self._accept(("mark", "-")):
            negated = self._atom(depth)
            return lambda message: not negated(message)
        return self._atom(depth)

    def _atom(self, depth: int) -> _Test:
        if self._accept(("mark", "(")):
            test = self._conjunction(depth + 1)
            if not self._accept(("mark", ")")):
                raise self._bad()
            return test
        field = _Field(self._word("bare"), self._descriptor, "filter")
        comparison = self._word("mark")
        text = self._word("bare", "quoted")
        if comparison == ":" and field.textual:
            return lambda message: text.lower() in str(field.read(message) or "").lower()
        compare = _COMPARISONS.get(comparison)
        if compare is None:
            raise self._bad()
        wanted = field.literal(text)

        def compared(message: Any, /) -> bool:
            value = field.read(message)
            return comparison == "!=" if value is None else compare(value, wanted)

        return compared

    def _peek(self) -> _Word | None:
        return self._words[self._next] if self._next < len(self._words) else None

    def _accept(self, word: _Word) -> bool:
        if self._peek() == word:
            self._next += 1
            return True
        return False

    def _word(self, *kinds: str) -> str:
        word = self._peek()
        if word is None or word[0] not in kinds:
            raise self._bad()
        self._next += 1
        return word[1]

    def _bad(self) -> RefusedError:
        return invalid("filter", "filter cannot be parsed.")
