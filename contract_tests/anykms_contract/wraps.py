"""Key.wrap and Key.unwrap: a 32-byte key under an ENCRYPT_DECRYPT key."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import pytest

from anykms.context import canonical_bytes
from anykms.envelope.keyring import Keyring
from anykms.errors import (
    InvalidArgumentError,
    InvalidCiphertextError,
    KeyNotAllowedError,
    KeyUsageError,
    KMSError,
    PolicyError,
)
from anykms.keys import KeyURI
from anykms.provider import Operation
from anykms_contract.clauses import Contract, each, of_kinds, refuses
from anykms_contract.harness import ES256, HS256, OAEP, WRAPPING_KINDS, Harness, KeyKind
from anykms_contract.payloads import FORMS, NOT_BYTES, Form, cut, flipped

_SECRET = bytes(range(32))
_CONTEXT = {"tenant": "42", "table": "orders"}
_MAGIC_SIZE = 8


def _long_context(size: int) -> dict[str, str]:
    """A context of exactly ``size`` canonical bytes."""
    empty = len(canonical_bytes({"k": "v"})) - 1
    return {"k": "v" * (size - empty)}


_GOOD_CONTEXTS = {
    "none": {},
    "one": {"a": "b"},
    "32-pairs": {f"n{n}": "v" for n in range(32)},
    "4096-bytes": _long_context(4096),
    "unicode": {"Straße": "日本語", "e\u0301": "é", "\U0001f511": "\0\n"},
    "composed-and-not": {"\u00e9": "1", "e\u0301": "2"},
}
BAD_CONTEXTS = {
    "33-pairs": {f"n{n}": "v" for n in range(33)},
    "4097-bytes": _long_context(4097),
    "empty-name": {"": "v"},
    "empty-value": {"n": ""},
    "surrogate-in-a-name": {"n\ud800": "v"},
    "surrogate-in-a-value": {"n": "v\udfff"},
    "reserved-anykms": {"anykms:bind": "v"},
    "reserved-aws": {"aws:x": "v"},
}
NO_CONTEXTS = {
    "none": None,
    "list": [("a", "b")],
    "bytes-value": {"a": b"b"},
    "int-value": {"a": 1},
    "bytes-name": {b"a": "b"},
}
WRONG_CONTEXTS = {
    "missing": {"tenant": "42"},
    "none": {},
    "other-value": {"tenant": "43", "table": "orders"},
    "other-case": {"Tenant": "42", "table": "orders"},
    "more": {"tenant": "42", "table": "orders", "x": "y"},
    "swapped": {"tenant": "orders", "table": "42"},
    "trailing-space": {"tenant": "42 ", "table": "orders"},
}

_WRONG_SIZES: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "31-bytes": lambda secret: secret[:-1],
    "33-bytes": lambda secret: secret + b"\0",
    "empty": lambda secret: b"",
}


class WrappingContract(Contract):
    """The generic wrap of one key under another."""

    @of_kinds(WRAPPING_KINDS)
    def test_unwrap_gives_back_what_was_wrapped(self, harness: Harness, kind: KeyKind) -> None:
        """C8.1: unwrap gives the 32 bytes back, on any connection, under the same context in any order."""
        info = harness.shared(kind)
        if info is None:
            return
        wrapped = harness.main.key(info).wrap(_SECRET, context=_CONTEXT)
        assert _SECRET not in wrapped
        backwards = dict(reversed(_CONTEXT.items()))
        for connection in (harness.main, harness.connect()):
            assert connection.key(info).unwrap(wrapped, context=backwards) == _SECRET

    @of_kinds(WRAPPING_KINDS)
    def test_wrapping_twice_gives_different_bytes(self, harness: Harness, kind: KeyKind) -> None:
        """C8.1: Nothing shows that two wrapped keys are equal."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        assert key.wrap(_SECRET, context={}) != key.wrap(_SECRET, context={})

    @each("context", _GOOD_CONTEXTS)
    def test_a_context_within_the_limits_is_bound(self, harness: Harness, context: dict[str, str]) -> None:
        """C2.5: Up to 32 pairs and 4096 canonical bytes of any Unicode, compared code point by code point."""
        key = harness.main.key(harness.wrapping_key())
        wrapped = key.wrap(_SECRET, context=context)
        assert key.unwrap(wrapped, context=context) == _SECRET
        with pytest.raises(InvalidCiphertextError) as caught:
            key.unwrap(wrapped, context={"other": "context"})
        assert type(caught.value) is InvalidCiphertextError

    @each("context", BAD_CONTEXTS)
    def test_a_context_outside_the_limits_is_refused_unsent(
        self, harness: Harness, context: dict[str, str]
    ) -> None:
        """C2.5: A context beyond its limits, with an empty part, a surrogate or a reserved name is
        InvalidArgumentError.
        """
        key = harness.main.key(harness.wrapping_key())
        wrapped = key.wrap(_SECRET, context={})
        with harness.main.quiet():
            refuses(
                InvalidArgumentError,
                lambda: key.wrap(_SECRET, context=context),
                lambda: key.unwrap(wrapped, context=context),
            )

    @each("context", NO_CONTEXTS)
    def test_what_is_no_context_is_a_type_error(self, harness: Harness, context: dict[str, str]) -> None:
        """C2.5: A context is a mapping of str to str, and never left out; anything else is TypeError, unsent."""
        key = harness.main.key(harness.wrapping_key())
        with harness.main.quiet():
            with pytest.raises(TypeError):
                key.wrap(_SECRET, context=context)
            with pytest.raises(TypeError):
                key.wrap(_SECRET)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] # the clause

    @each("context", WRONG_CONTEXTS)
    def test_another_context_does_not_open(self, harness: Harness, context: dict[str, str]) -> None:
        """C8.2: Under any other context a wrapped key is InvalidCiphertextError, on every provider."""
        key = harness.main.key(harness.wrapping_key())
        wrapped = key.wrap(_SECRET, context=_CONTEXT)
        with pytest.raises(InvalidCiphertextError) as caught:
            key.unwrap(wrapped, context=context)
        assert type(caught.value) is InvalidCiphertextError

    @of_kinds(WRAPPING_KINDS)
    def test_another_key_is_not_asked(self, harness: Harness, kind: KeyKind) -> None:
        """C8.3: What was wrapped under another key is KeyNotAllowedError, and no provider is called."""
        info, other = harness.shared(kind), harness.shared(kind, "second")
        if info is None or other is None:
            return
        wrapped = harness.main.key(info).wrap(_SECRET, context={})
        with harness.main.quiet(), pytest.raises(KeyNotAllowedError) as caught:
            harness.main.key(other).unwrap(wrapped, context={})
        assert type(caught.value) is KeyNotAllowedError

    @of_kinds(WRAPPING_KINDS)
    def test_a_relabelled_wrap_does_not_open(self, harness: Harness, kind: KeyKind) -> None:
        """C8.3: A wrapped key whose label names another key of the caller's is InvalidCiphertextError."""
        info, other = harness.shared(kind), harness.shared(kind, "second")
        if info is None or other is None:
            return
        wrapped = harness.main.key(info).wrap(_SECRET, context={})
        fields = msgspec.msgpack.decode(wrapped[_MAGIC_SIZE:])
        version = KeyURI.parse(fields[0]).version
        fields[0] = str(other.uri.with_version(version))
        relabelled = wrapped[:_MAGIC_SIZE] + msgspec.msgpack.encode(fields)
        with pytest.raises(InvalidCiphertextError) as caught:
            harness.main.key(other).unwrap(relabelled, context={})
        assert type(caught.value) is InvalidCiphertextError

    @of_kinds(WRAPPING_KINDS)
    def test_every_flipped_byte_is_refused(self, harness: Harness, kind: KeyKind) -> None:
        """C8.4: A wrapped key with any byte changed never opens: one class and one text, but for another key's URI."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        wrapped = key.wrap(_SECRET, context=_CONTEXT)
        texts: set[str] = set()
        for index, damaged in flipped(wrapped):
            expected = _expected(damaged, info.uri)
            with pytest.raises(KMSError) as caught:
                key.unwrap(damaged, context=_CONTEXT)
            assert type(caught.value) is expected, index
            if expected is InvalidCiphertextError:
                texts.add(str(caught.value))
        assert len(texts) == 1

    def test_a_cut_or_longer_wrap_is_refused(self, harness: Harness) -> None:
        """C8.4: A wrapped key without its end, or with more behind it, is InvalidCiphertextError."""
        key = harness.main.key(harness.wrapping_key())
        wrapped = key.wrap(_SECRET, context={})
        with harness.main.quiet():
            for damaged in (*cut(wrapped), wrapped + b"\0", wrapped + wrapped):
                with pytest.raises(InvalidCiphertextError) as caught:
                    key.unwrap(damaged, context={})
                assert type(caught.value) is InvalidCiphertextError

    @each("size", {str(size): size for size in (0, 1, 16, 31, 33, 64, 4096, 4097)})
    def test_a_data_key_has_32_bytes(self, harness: Harness, size: int) -> None:
        """C2.6: Anything but 32 bytes is InvalidArgumentError, unsent."""
        key = harness.main.key(harness.wrapping_key())
        with harness.main.quiet(), pytest.raises(InvalidArgumentError) as caught:
            key.wrap(bytes(size), context={})
        assert type(caught.value) is InvalidArgumentError

    @FORMS
    def test_bytes_like_forms_are_the_same(self, harness: Harness, form: Form) -> None:
        """C2.10: bytes, bytearray and memoryview behave the same."""
        key = harness.main.key(harness.wrapping_key())
        wrapped = key.wrap(form(_SECRET), context={})
        assert isinstance(wrapped, bytes)
        opened = key.unwrap(form(wrapped), context={})
        assert isinstance(opened, bytes)
        assert opened == _SECRET

    @NOT_BYTES
    def test_other_types_are_a_type_error(self, harness: Harness, wrong: bytes) -> None:
        """C2.10: What is not bytes-like is TypeError, unsent; a str is never encoded."""
        key = harness.main.key(harness.wrapping_key())
        with harness.main.quiet():
            with pytest.raises(TypeError):
                key.wrap(wrong, context={})
            with pytest.raises(TypeError):
                key.unwrap(wrong, context={})

    @each("kind", {str(kind): kind for kind in (ES256, HS256, OAEP)})
    def test_keys_of_another_purpose_do_not_wrap(self, harness: Harness, kind: KeyKind) -> None:
        """C1.1: wrap and unwrap under a key of another purpose are KeyUsageError, unsent."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        with harness.main.quiet():
            refuses(
                KeyUsageError,
                lambda: key.wrap(_SECRET, context={}),
                lambda: key.unwrap(b"\0", context={}),
            )

    @of_kinds(WRAPPING_KINDS)
    def test_wraps_and_messages_do_not_open_each_other(self, harness: Harness, kind: KeyKind) -> None:
        """C8.5: A Keyring does not open a generic wrap, nor unwrap a message's recipient, whoever repacks them."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        ring = Keyring([key])
        wrapped, message = key.wrap(_SECRET, context={}), ring.encrypt(b"data", context={})
        refuses(
            InvalidCiphertextError,
            lambda: ring.decrypt(wrapped, context={}),
            lambda: key.unwrap(message, context={}),
            lambda: key.unwrap(_recipient_as_wrap(wrapped, message), context={}),
            lambda: ring.decrypt(_wrap_as_recipient(wrapped, message), context={}),
        )

    @of_kinds(WRAPPING_KINDS)
    def test_a_recipient_of_another_origin_is_no_wrap(self, harness: Harness, kind: KeyKind) -> None:
        """C8.4: A wrapped key that claims a data key from elsewhere is InvalidCiphertextError, unsent."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        wrapped = key.wrap(_SECRET, context={})
        fields = msgspec.msgpack.decode(wrapped[_MAGIC_SIZE:])
        fields[3] = 1
        with harness.main.quiet(), pytest.raises(InvalidCiphertextError) as caught:
            key.unwrap(wrapped[:_MAGIC_SIZE] + msgspec.msgpack.encode(fields), context={})
        assert type(caught.value) is InvalidCiphertextError

    @each("answer", _WRONG_SIZES)
    def test_an_unwrapped_key_of_another_size_is_refused(
        self, harness: Harness, answer: Callable[[bytes], bytes]
    ) -> None:
        """C8.6: What a provider unwraps has 32 bytes, or it is InvalidCiphertextError."""
        info, connection = harness.wrapping_key(), harness.connect()
        wrapped = connection.key(info).wrap(_SECRET, context={})
        connection.seam.answer(Operation.UNWRAP, answer)
        with pytest.raises(InvalidCiphertextError) as caught:
            connection.key(info).unwrap(wrapped, context={})
        assert type(caught.value) is InvalidCiphertextError

    @of_kinds(WRAPPING_KINDS)
    def test_a_wrap_of_another_algorithm_is_refused_unsent(self, harness: Harness, kind: KeyKind) -> None:
        """C8.4: An algorithm that is not the key's own is refused before any call."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        wrapped = key.wrap(_SECRET, context={})
        fields = msgspec.msgpack.decode(wrapped[_MAGIC_SIZE:])
        for algorithm in ("A256GCM", "RSA-OAEP-256+A256GCM", "RSA-OAEP-256+A256GCM+ES256", "none", ""):
            if algorithm == fields[1]:
                continue
            changed = [fields[0], algorithm, *fields[2:]]
            if algorithm == "RSA-OAEP-256+A256GCM" and kind.key_size:
                changed[5] = b""
            with harness.main.quiet(), pytest.raises((InvalidCiphertextError, PolicyError)) as caught:
                key.unwrap(wrapped[:_MAGIC_SIZE] + msgspec.msgpack.encode(changed), context={})
            unsigned = algorithm == "RSA-OAEP-256+A256GCM" and kind.key_size is not None
            assert type(caught.value) is (PolicyError if unsigned else InvalidCiphertextError)

    def test_random_bytes_are_refused_unsent(self, harness: Harness) -> None:
        """C8.4: Bytes that are no wrapped key are InvalidCiphertextError and reach no provider."""
        key = harness.main.key(harness.wrapping_key())
        with harness.main.quiet():
            for size in (0, 1, 8, 32, 104, 4096):
                with pytest.raises(InvalidCiphertextError) as caught:
                    key.unwrap(os.urandom(size), context={})
                assert type(caught.value) is InvalidCiphertextError


def _expected(damaged: bytes, uri: KeyURI) -> type[KMSError]:
    """The class that a damaged wrap must get: KeyNotAllowed only while it is still a wrap, for another key."""
    try:
        fields = msgspec.msgpack.decode(damaged[_MAGIC_SIZE:])
        named = KeyURI.parse(fields[0]).without_version()
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidArgumentError, TypeError, IndexError):
        return InvalidCiphertextError
    canonical = damaged[:_MAGIC_SIZE] == b"\x8aAKMK\r\n\x01" and (
        msgspec.msgpack.encode(fields) == damaged[_MAGIC_SIZE:]
    )
    return KeyNotAllowedError if canonical and named != uri.without_version() else InvalidCiphertextError


def _first_recipient(message: bytes) -> list[object]:
    length = int.from_bytes(message[8:12])
    recipient: list[object] = msgspec.msgpack.decode(message[12 : 12 + length])[1][0]
    return recipient


def _recipient_as_wrap(wrapped: bytes, message: bytes) -> bytes:
    return wrapped[:_MAGIC_SIZE] + msgspec.msgpack.encode(_first_recipient(message))


def _wrap_as_recipient(wrapped: bytes, message: bytes) -> bytes:
    length = int.from_bytes(message[8:12])
    header = msgspec.msgpack.decode(message[12 : 12 + length])
    header[1] = [msgspec.msgpack.decode(wrapped[_MAGIC_SIZE:])]
    body = msgspec.msgpack.encode(header)
    return message[:8] + len(body).to_bytes(4) + body + message[12 + length :]
