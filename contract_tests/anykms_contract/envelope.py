"""Keyring.encrypt and Keyring.decrypt: the message, whatever keys it is for."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykms.client import Key
from anykms.context import canonical_bytes
from anykms.envelope.keyring import Keyring, inspect
from anykms.errors import (
    ContextMismatchError,
    DeadlineExceededError,
    InvalidArgumentError,
    InvalidCiphertextError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotAllowedError,
    KeyNotFoundError,
    KeyPendingDestructionError,
    KeyUsageError,
    KMSError,
    PermissionDeniedError,
    PolicyError,
    ProviderError,
    QuotaExceededError,
    StaleMessageError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedVersionError,
)
from anykms.keys import KeyInfo, KeyState, KeyURI
from anykms.policy import Policy
from anykms.provider import Operation
from anykms_contract.clauses import Contract, each, of_kinds, refuses
from anykms_contract.harness import ES256, HS256, OAEP, WRAPPING_KINDS, Connection, Harness, KeyKind
from anykms_contract.payloads import FORMS, NOT_BYTES, Form, cut, flipped
from anykms_contract.wraps import BAD_CONTEXTS, NO_CONTEXTS, WRONG_CONTEXTS

_DATA: Final = b"4111 1111 1111 1111"
_CONTEXT: Final = {"tenant": "42", "table": "orders"}
_AAD: Final = b"orders/17"
_MAGIC: Final = b"\x8aAKMS\r\n\x01"
_TAG_SIZE: Final = 32
_BODY_OVERHEAD: Final = 24 + 32 + 16
_LIGHT: Final = Policy(require_sender_authentication=False)
_TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
_CONTEXTS: Final = st.dictionaries(
    _TEXT.filter(lambda name: not name.startswith(("anykms", "aws"))), _TEXT, max_size=8
)
_OPENERS: Final[Mapping[str, type[KMSError]]] = {
    error.__name__: error
    for error in (
        UnavailableError,
        ThrottledError,
        DeadlineExceededError,
        PermissionDeniedError,
        UnauthenticatedError,
        QuotaExceededError,
        KeyDisabledError,
        KeyPendingDestructionError,
        KeyNotFoundError,
        KeyDestroyedError,
    )
}

_BROKEN_HEADERS: Final[Mapping[str, Callable[[list[Any]], object]]] = {
    "suite-0": lambda header: _set(header[0], 0, 0),
    "suite-2": lambda header: _set(header[0], 0, 2),
    "no-recipients": lambda header: _set(header, 1, []),
    "33-recipients": lambda header: _set(header, 1, _many(header[1][0], 33)),
    "65535-recipients": lambda header: _set(header, 1, _many(header[1][0], 65535)),
    "one-recipient-twice": lambda header: header[1].append(header[1][0]),
    "one-key-at-two-versions": lambda header: header[1].append(_other_version(header[1][0])),
    "unknown-algorithm": lambda header: _set(header[1][0], 1, "A128GCM"),
    "empty-wrapped": lambda header: _set(header[1][0], 2, b""),
    "4097-bytes-wrapped": lambda header: _set(header[1][0], 2, bytes(4097)),
    "origin-2": lambda header: _set(header[1][0], 3, 2),
    "49-byte-data-key": lambda header: _set(header[1][0], 4, bytes(49)),
    "65-byte-sender": lambda header: _set(header[1][0], 5, bytes(65)),
    "seven-fields": lambda header: header[1][0].append(b""),
    "five-fields": lambda header: header[1][0].pop(),
    "four-parts": lambda header: header.append(0),
    "generation-33-bits": lambda header: _set(header, 2, 1 << 32),
    "negative-generation": lambda header: _set(header, 2, -1),
    "float-generation": lambda header: _set(header, 2, 0.0),
    "nil-generation": lambda header: _set(header, 2, None),
    "map": lambda header: _set(header, 0, {"suite": 1}),
    "15-byte-record": lambda header: _set(header[0], 1, bytes(15)),
    "text-record": lambda header: _set(header[0], 1, "a" * 16),
    "unsorted-context": lambda header: _set(header[0], 2, [["t", "1"], ["n", "1"]]),
    "context-name-twice": lambda header: _set(header[0], 2, [["n", "1"], ["n", "1"]]),
    "stored-and-required": lambda header: _set(header[0], 3, ["n"]),
    "unsorted-required": lambda header: _set(header[0], 3, ["y", "x"]),
    "required-twice": lambda header: _set(header[0], 3, ["x", "x"]),
    "created-after-2-40": lambda header: _set(header[0], 4, (1 << 40) + 1),
}

_OTHER_KEYS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "zeros": lambda key: bytes(32),
    "random": lambda key: os.urandom(32),
}


class EnvelopeContract(Contract):
    """Messages: authenticated header, wrapped data key, chunked body."""

    # Round trips

    @of_kinds(WRAPPING_KINDS)
    def test_a_message_comes_back(self, harness: Harness, kind: KeyKind) -> None:
        """C9.1: decrypt gives back what encrypt took, on any connection, and says what it knows of the message."""
        info = harness.shared(kind)
        if info is None:
            return
        message = _ring(harness.main, info).encrypt(_DATA, context=_CONTEXT, aad=_AAD)
        assert isinstance(message, bytes)
        assert _DATA not in message
        found = _ring(harness.connect(), info).decrypt_detailed(message, context=_CONTEXT, aad=_AAD)
        assert found.plaintext == _DATA
        assert found.key == info
        assert found.key_uri.without_version() == info.uri
        assert found.generation == 0
        assert found.sender_authenticated
        assert _DATA.decode() not in repr(found)

    @each(
        "size",
        {str(size): size for size in (0, 1, 4096, 4097, 16383, 16384, 16385, 32768, 100_000)},
    )
    def test_messages_of_every_size(self, harness: Harness, size: int) -> None:
        """C9.1: Any size comes back, none included; the body takes 72 bytes, and 16 per full 16 KiB, more."""
        ring, data = _ring(harness.main, harness.wrapping_key()), os.urandom(size)
        message = ring.encrypt(data, context={})
        assert ring.decrypt(message, context={}) == data
        assert inspect(message).body_size == size + _BODY_OVERHEAD + 16 * (size // 16384)

    @each(
        "context",
        {
            "none": {},
            "32-pairs": {f"n{n}": "v" for n in range(32)},
            "unicode": {"Straße": "日本語", "\U0001f511": "\0\n", "e\u0301": "\u00e9"},
            "4096-bytes": {"k": "v" * (4096 - len(canonical_bytes({"k": "v"})) + 1)},
        },
    )
    def test_contexts_within_the_limits(self, harness: Harness, context: dict[str, str]) -> None:
        """C2.5, C9.5: A context up to its limits is stored, shown by inspect, and demanded again."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context=context)
        assert inspect(message).context == context
        assert ring.decrypt(message, context=dict(reversed(context.items()))) == _DATA
        with pytest.raises(ContextMismatchError):
            ring.decrypt(message, context={"n0": "other"})

    @FORMS
    def test_bytes_like_forms_are_the_same(self, harness: Harness, form: Form) -> None:
        """C2.10: bytes, bytearray and memoryview behave the same, for plaintext, message and aad."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(form(_DATA), context={}, aad=form(_AAD))
        assert ring.decrypt(message, context={}, aad=_AAD) == _DATA
        opened = ring.decrypt(form(message), context={}, aad=form(_AAD))
        assert isinstance(opened, bytes)
        assert opened == _DATA

    def test_every_message_is_new(self, harness: Harness) -> None:
        """C9.2: Data key, record id and salt are fresh: no two messages share a wrapped key, a record or a body."""
        ring = _ring(harness.main, harness.wrapping_key())
        messages = [ring.encrypt(_DATA, context={}) for _ in range(8)]
        assert len({inspect(message).record_id for message in messages}) == 8
        assert len({_parts(message)[1][1][0][2] for message in messages}) == 8
        assert len({_parts(message)[2][-_BODY_OVERHEAD:] for message in messages}) == 8

    def test_the_header_tells_nothing_of_the_plaintext(self, harness: Harness) -> None:
        """C9.2: Headers of messages of one size have one size, whatever the plaintext."""
        ring = _ring(harness.main, harness.wrapping_key())
        sizes = {len(ring.encrypt(data, context={})) for data in (bytes(64), b"\xff" * 64, os.urandom(64))}
        assert len(sizes) <= 2  # the date's encoding may grow once

    def test_any_unicode_is_bound(self, harness: Harness) -> None:
        """C2.5, C9.1: Any names and values within the limits come back as they were, and no others open the message."""
        ring = _ring(harness.main, harness.wrapping_key())

        @settings(max_examples=20, deadline=None, database=None)
        @given(_CONTEXTS, st.binary(max_size=64))
        def check(context: dict[str, str], data: bytes) -> None:
            message = ring.encrypt(data, context=context)
            assert inspect(message).context == context
            assert ring.decrypt(message, context=context) == data
            refuses(ContextMismatchError, lambda: ring.decrypt(message, context={**context, "m" * 41: "x"}))

        check()

    # Arguments

    @each("context", BAD_CONTEXTS)
    def test_a_context_outside_the_limits_is_refused_unsent(
        self, harness: Harness, context: dict[str, str]
    ) -> None:
        """C2.5: A context beyond its limits, with an empty part, a surrogate or a reserved name is
        InvalidArgumentError.
        """
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context={})
        with harness.main.quiet():
            refuses(
                InvalidArgumentError,
                lambda: ring.encrypt(_DATA, context=context),
                lambda: ring.decrypt(message, context=context),
            )

    @each("context", NO_CONTEXTS)
    def test_what_is_no_context_is_a_type_error(self, harness: Harness, context: dict[str, str]) -> None:
        """C2.5: A context is a mapping of str to str, and never left out; anything else is TypeError, unsent."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context={})
        with harness.main.quiet():
            refuses(
                TypeError,
                lambda: ring.encrypt(_DATA, context=context),
                lambda: ring.decrypt(message, context=context),
                lambda: ring.encrypt(_DATA),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] # the clause
            )

    @each("size", {"65536": 65536, "65537": 65537})
    def test_aad_has_a_limit(self, harness: Harness, size: int) -> None:
        """C2.8: aad takes 64 KiB; one byte more is InvalidArgumentError, unsent."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context={}, aad=bytes(65536))
        if size == 65536:
            assert ring.decrypt(message, context={}, aad=bytes(size)) == _DATA
            return
        with harness.main.quiet():
            refuses(
                InvalidArgumentError,
                lambda: ring.encrypt(_DATA, context={}, aad=bytes(size)),
                lambda: ring.decrypt(message, context={}, aad=bytes(size)),
            )

    @NOT_BYTES
    def test_other_types_are_a_type_error(self, harness: Harness, wrong: bytes) -> None:
        """C2.10: What is not bytes-like is TypeError, unsent."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context={})
        with harness.main.quiet():
            refuses(
                TypeError,
                lambda: ring.encrypt(wrong, context={}),
                lambda: ring.encrypt(_DATA, context={}, aad=wrong),
                lambda: ring.decrypt(wrong, context={}),
                lambda: ring.decrypt(message, context={}, aad=wrong),
            )

    @each("kind", {str(kind): kind for kind in (ES256, HS256, OAEP)})
    def test_a_keyring_holds_wrapping_keys(self, harness: Harness, kind: KeyKind) -> None:
        """C1.1, C9.3: A key of another purpose is KeyUsageError when the ring is made, unsent."""
        info = harness.shared(kind)
        if info is None:
            return
        with harness.main.quiet(), pytest.raises(KeyUsageError) as caught:
            _ring(harness.main, harness.wrapping_key(), info)
        assert type(caught.value) is KeyUsageError

    def test_a_keyring_holds_each_key_once(self, harness: Harness) -> None:
        """C9.3: A ring is made of Key objects, at least one, and none twice."""
        key = harness.main.key(harness.wrapping_key())
        with harness.main.quiet():
            for keys in ([], [key, key], [key] * 33):
                with pytest.raises(InvalidArgumentError):
                    Keyring(keys)
            with pytest.raises(TypeError):
                Keyring([cast("Key", key.info)])

    # Wrong key, context, aad

    def test_a_message_for_others_reaches_no_provider(self, harness: Harness) -> None:
        """C9.4: A message names its recipients; a ring without them is KeyNotAllowedError and calls nobody."""
        message = _ring(harness.main, harness.wrapping_key()).encrypt(_DATA, context={})
        other = _ring(harness.main, harness.wrapping_key("second"))
        with harness.main.quiet(), pytest.raises(KeyNotAllowedError) as caught:
            other.decrypt(message, context={})
        assert type(caught.value) is KeyNotAllowedError

    @each(
        "uri",
        {
            "aws": "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "gcp": "gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
            "azure": "azurekms://attacker.vault.azure.net/k/0123456789abcdef0123456789abcdef",
            "local": "local://abcdefghijklmnopqrstuvwxyz/k/1",
            "stranger": "attackerkms://attacker.example/k",
        },
    )
    def test_an_address_in_a_message_is_never_called(self, harness: Harness, uri: str) -> None:
        """C9.4: A URI in a message is compared with the ring's keys, and nothing more: no lookup, no connection."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = _edit(ring.encrypt(_DATA, context={}), lambda header: _set(header[1][0], 0, uri))
        with harness.main.quiet(), pytest.raises(KeyNotAllowedError) as caught:
            ring.decrypt(message, context={})
        assert type(caught.value) is KeyNotAllowedError

    def test_a_relabelled_message_does_not_open(self, harness: Harness) -> None:
        """C9.7, C9.11: A message whose label names another key of the ring is InvalidCiphertextError, asked of
        that key once.
        """
        first, second = harness.wrapping_key(), harness.wrapping_key("second")
        connection = harness.connect()

        def relabel(header: list[Any]) -> None:
            version = KeyURI.parse(header[1][0][0]).version
            header[1][0][0] = str(second.uri.with_version(version))

        message = _edit(_ring(connection, first).encrypt(_DATA, context={}), relabel)
        with pytest.raises(InvalidCiphertextError) as caught:
            _ring(connection, first, second).decrypt(message, context={})
        assert type(caught.value) is InvalidCiphertextError
        asked = {call.key for call in connection.seam.calls if call.operation is Operation.UNWRAP}
        assert asked <= {str(second.uri)}

    @each("context", WRONG_CONTEXTS)
    def test_another_context_reaches_no_provider(self, harness: Harness, context: dict[str, str]) -> None:
        """C9.5: Another context than the stored one is ContextMismatchError, and calls nobody."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context=_CONTEXT)
        with harness.main.quiet(), pytest.raises(ContextMismatchError) as caught:
            ring.decrypt(message, context=context)
        assert type(caught.value) is ContextMismatchError
        assert "43" not in str(caught.value)

    @each("aad", {"none": b"", "other": b"orders/18", "longer": b"orders/17\0", "cut": b"orders/1"})
    def test_another_aad_does_not_open(self, harness: Harness, aad: bytes) -> None:
        """C9.6: Another aad is InvalidCiphertextError; it is stored nowhere."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context=_CONTEXT, aad=_AAD)
        assert _AAD not in message
        with pytest.raises(InvalidCiphertextError) as caught:
            ring.decrypt(message, context=_CONTEXT, aad=aad)
        assert type(caught.value) is InvalidCiphertextError

    def test_required_values_are_not_stored(self, harness: Harness) -> None:
        """C9.5: A required name's value stays out of the message; the reader must bring it, and the right one."""
        ring = _ring(harness.main, harness.wrapping_key())
        context = {"tenant": "42", "secretive": "value-0815"}
        message = ring.encrypt(_DATA, context=context, required=["secretive"])
        assert b"value-0815" not in _parts(message)[0]
        assert inspect(message).context == {"tenant": "42"}
        assert inspect(message).required == ("secretive",)
        assert ring.decrypt(message, context=context) == _DATA
        with harness.main.quiet():
            for wrong in ({"tenant": "42"}, {"secretive": "value-0815"}, {**context, "more": "x"}):
                with pytest.raises(ContextMismatchError):
                    ring.decrypt(message, context=wrong)
            with pytest.raises(InvalidArgumentError):
                ring.encrypt(_DATA, context=context, required=["absent"])
            with pytest.raises(TypeError):
                ring.encrypt(_DATA, context=context, required="tenant")
        with pytest.raises(InvalidCiphertextError) as caught:
            ring.decrypt(message, context={**context, "secretive": "value-0816"})
        assert type(caught.value) is InvalidCiphertextError

    # Damage

    @of_kinds(WRAPPING_KINDS)
    def test_every_flipped_byte_is_refused(self, harness: Harness, kind: KeyKind) -> None:
        """C9.7: A message with any byte changed never opens; its class is the changed field's, its text one."""
        info = harness.shared(kind)
        if info is None:
            return
        ring = _ring(harness.main, info)
        message = ring.encrypt(b"data", context={"n": "v"}, aad=_AAD)
        texts: set[str] = set()
        for index, damaged in flipped(message):
            expected = _expected(damaged, (info.uri,), {"n": "v"})
            with pytest.raises(KMSError) as caught:
                ring.decrypt(damaged, context={"n": "v"}, aad=_AAD)
            assert type(caught.value) is expected, index
            if expected is InvalidCiphertextError:
                texts.add(str(caught.value))
        assert len(texts) == 1

    def test_every_flipped_byte_for_two_keys_is_refused(self, harness: Harness) -> None:
        """C9.7: The same where two of the ring's keys are recipients, and with a required name."""
        infos = harness.wrapping_key(), harness.wrapping_key("second")
        ring = _ring(harness.main, *infos)
        context = {"n": "v", "r": "w"}
        message = ring.encrypt(b"data", context=context, required=["r"])
        for index, damaged in flipped(message):
            expected = _expected(damaged, tuple(info.uri for info in infos), context)
            with pytest.raises(KMSError) as caught:
                ring.decrypt(damaged, context=context)
            assert type(caught.value) is expected, index

    def test_random_changes_are_refused(self, harness: Harness) -> None:
        """C9.7: Bytes replaced, removed or put in anywhere get the class that the format gives them."""
        info = harness.wrapping_key()
        ring = _ring(harness.main, info)
        message = ring.encrypt(b"data", context={"n": "v"})

        @settings(max_examples=60, deadline=None, database=None)
        @given(st.integers(0, len(message)), st.integers(0, 40), st.binary(max_size=40))
        def check(start: int, removed: int, added: bytes) -> None:
            damaged = message[:start] + added + message[start + removed :]
            if damaged != message:
                expected = _expected(damaged, (info.uri,), {"n": "v"})
                refuses(expected, lambda: ring.decrypt(damaged, context={"n": "v"}))

        check()

    def test_a_cut_message_is_refused(self, harness: Harness) -> None:
        """C9.7: A message cut anywhere is InvalidCiphertextError."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(b"data", context={})
        for damaged in cut(message):
            with pytest.raises(InvalidCiphertextError):
                ring.decrypt(damaged, context={})

    def test_a_longer_message_is_refused(self, harness: Harness) -> None:
        """C9.7: Bytes behind a message are part of it: InvalidCiphertextError."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(b"data", context={})
        for damaged in (message + b"\0", message + message, b"\0" + message):
            with pytest.raises(InvalidCiphertextError) as caught:
                ring.decrypt(damaged, context={})
            assert type(caught.value) is InvalidCiphertextError

    def test_missing_and_swapped_chunks_are_refused(self, harness: Harness) -> None:
        """C9.7: Chunks cannot be dropped, repeated, swapped, or cut at their border."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(os.urandom(3 * 16384 + 5), context={})
        start = len(message) - inspect(message).body_size + 56
        chunks = [message[at : at + 16400] for at in range(start, len(message), 16400)]
        assert len(chunks) == 4
        for order in ((1, 0, 2, 3), (0, 1, 2), (0, 1, 3), (0, 0, 1, 2, 3), (0, 2, 1, 3), (3,), ()):
            damaged = message[:start] + b"".join(chunks[number] for number in order)
            with pytest.raises(InvalidCiphertextError):
                ring.decrypt(damaged, context={})

    def test_bodies_cannot_be_exchanged(self, harness: Harness) -> None:
        """C9.7: A header does not open another message's body, nor a body with another message's wrapped key."""
        ring = _ring(harness.main, harness.wrapping_key())
        one, two = ring.encrypt(b"data", context={}), ring.encrypt(b"data", context={})
        (_, first, rest), (_, second, other) = _parts(one), _parts(two)
        swapped_recipient = [first[0], second[1], first[2]]
        for damaged in (
            _joined(first, other),
            _joined(second, rest),
            _joined(swapped_recipient, rest),
            _joined(first, rest[:_TAG_SIZE] + other[_TAG_SIZE:]),
        ):
            with pytest.raises(InvalidCiphertextError) as caught:
                ring.decrypt(damaged, context={})
            assert type(caught.value) is InvalidCiphertextError

    def test_recipients_cannot_be_added_dropped_or_reordered(self, harness: Harness) -> None:
        """C9.7: The header's tag covers the recipients: any change to their list is InvalidCiphertextError."""
        infos = harness.wrapping_key(), harness.wrapping_key("second")
        ring = _ring(harness.main, *infos)
        message = ring.encrypt(_DATA, context={})
        third = _ring(harness.main, harness.wrapping_key("third")).encrypt(_DATA, context={})
        added = _parts(third)[1][1][0]

        def reorder(header: list[Any]) -> None:
            header[1].reverse()

        def drop(header: list[Any]) -> None:
            header[1].pop()

        def drop_first(header: list[Any]) -> None:
            header[1].pop(0)

        def add(header: list[Any]) -> None:
            header[1].append(added)

        for change in (reorder, drop, drop_first, add):
            with pytest.raises(InvalidCiphertextError) as caught:
                ring.decrypt(_edit(message, change), context={})
            assert type(caught.value) is InvalidCiphertextError

    @each("change", _BROKEN_HEADERS)
    def test_a_header_that_breaks_the_format_reaches_no_provider(
        self, harness: Harness, change: Callable[[list[Any]], None]
    ) -> None:
        """C9.8: What the format forbids is InvalidCiphertextError before any key is asked, in one text."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = _edit(ring.encrypt(b"data", context={"n": "1"}), change)
        with harness.main.quiet(), pytest.raises(InvalidCiphertextError) as caught:
            ring.decrypt(message, context={"n": "1"})
        assert type(caught.value) is InvalidCiphertextError

    def test_another_encoding_of_the_same_header_reaches_no_provider(self, harness: Harness) -> None:
        """C9.8: MessagePack has one accepted encoding: shortest forms, fixed arrays, nothing behind."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(b"data", context={"n": "1"})
        raw, header, rest = _parts(message)
        assert raw[0] == 0x93
        assert raw[-1] == 0
        longer = (
            b"\xdc\x00\x03" + raw[1:],  # array 16 instead of fixarray
            raw[:-1] + b"\xcc\x00",  # uint 8 instead of fixint
            raw[:-1] + b"\xd0\x00",  # int 8
            raw + b"\x00",
            raw + raw,
            raw[:1] + b"\xdc\x00\x05" + raw[2:],
            msgspec.msgpack.encode([header[0], header[1], False]),
            b"\x81\x00" + raw,
            b"\x93" * 60000,  # nested deeper than any header
            b"",
        )
        with harness.main.quiet():
            for body in longer:
                damaged = message[:8] + len(body).to_bytes(4) + body + rest
                with pytest.raises(InvalidCiphertextError) as caught:
                    ring.decrypt(damaged, context={"n": "1"})
                assert type(caught.value) is InvalidCiphertextError

    @each("length", {"0": 0, "65537": 65537, "2-31": 1 << 31, "2-32-1": (1 << 32) - 1})
    def test_a_header_length_outside_its_limits_reaches_no_provider(
        self, harness: Harness, length: int
    ) -> None:
        """C9.8: A header has 1 to 65536 bytes."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(bytes(70000), context={})
        damaged = message[:8] + length.to_bytes(4) + message[12:]
        with harness.main.quiet(), pytest.raises(InvalidCiphertextError) as caught:
            ring.decrypt(damaged, context={})
        assert type(caught.value) is InvalidCiphertextError

    @each("version", {str(version): version for version in (0, 2, 0x7F, 0xFF)})
    def test_another_format_version_reaches_no_provider(self, harness: Harness, version: int) -> None:
        """C9.9: Another version byte is UnsupportedVersionError."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context={})
        with harness.main.quiet(), pytest.raises(UnsupportedVersionError) as caught:
            ring.decrypt(message[:7] + bytes([version]) + message[8:], context={})
        assert type(caught.value) is UnsupportedVersionError

    def test_what_is_no_message_reaches_no_provider(self, harness: Harness) -> None:
        """C9.8: Foreign bytes are InvalidCiphertextError, never given back as if they were plaintext."""
        ring = _ring(harness.main, harness.wrapping_key())
        with harness.main.quiet():
            for data in (b"", b"\0", b"plain text", _MAGIC, os.urandom(300), b"{}" * 300, bytes(4096)):
                with pytest.raises(InvalidCiphertextError) as caught:
                    ring.decrypt(data, context={})
                assert type(caught.value) is InvalidCiphertextError

    @each("size", {str(size): size for size in (1, 31, 103, 105, 255, 257, 4096)})
    def test_wrapped_keys_of_another_size_are_refused(self, harness: Harness, size: int) -> None:
        """C9.11: A wrapped key of another size is InvalidCiphertextError, in at most one attempt."""
        info, connection = harness.wrapping_key(), harness.connect()
        ring = _ring(connection, info)
        message = _edit(
            ring.encrypt(_DATA, context={}), lambda header: _set(header[1][0], 2, os.urandom(size))
        )
        with pytest.raises(InvalidCiphertextError) as caught:
            ring.decrypt(message, context={})
        assert type(caught.value) is InvalidCiphertextError
        assert connection.seam.count(Operation.UNWRAP) <= 1

    # Several recipients

    def test_every_recipient_opens_the_message(self, harness: Harness) -> None:
        """C9.10: Each key of the ring opens the message alone."""
        infos = [harness.wrapping_key(which) for which in ("first", "second", "third")]
        message = _ring(harness.main, *infos).encrypt(_DATA, context={})
        assert len(inspect(message).recipients) == 3
        for info in infos:
            found = _ring(harness.connect(), info).decrypt_detailed(message, context={})
            assert (found.plaintext, found.key) == (_DATA, info)

    def test_the_ring_decides_the_order_not_the_message(self, harness: Harness) -> None:
        """C9.10: Keys are tried in the ring's order, one after the other, and only as far as needed."""
        first, second = harness.wrapping_key(), harness.wrapping_key("second")
        message = _ring(harness.main, first, second).encrypt(_DATA, context={})
        for order in ((first, second), (second, first)):
            connection = harness.connect()
            assert _ring(connection, *order).decrypt(message, context={}) == _DATA
            asked = [call.key for call in connection.seam.calls if call.operation is Operation.UNWRAP]
            assert asked == [str(order[0].uri)]

    @each("error", _OPENERS)
    def test_a_key_that_cannot_be_used_now_gives_way(self, harness: Harness, error: type[KMSError]) -> None:
        """C9.10: The next recipient is tried when one cannot be used now."""
        first, second, connection = harness.wrapping_key(), harness.wrapping_key("second"), harness.connect()
        ring = _ring(connection, first, second)
        message = ring.encrypt(_DATA, context={})
        connection.seam.fail(Operation.UNWRAP, lambda: error("injected"), times=5 if error.retryable else 1)
        found = ring.decrypt_detailed(message, context={})
        assert (found.plaintext, found.key) == (_DATA, second)

    def test_when_no_key_can_be_used_the_first_error_is_raised(self, harness: Harness) -> None:
        """C9.10: All causes are reported: the first key's error is raised, the others are its notes."""
        first, second, connection = harness.wrapping_key(), harness.wrapping_key("second"), harness.connect()
        ring = _ring(connection, first, second)
        message = ring.encrypt(_DATA, context={})
        connection.seam.fail(Operation.UNWRAP, lambda: PermissionDeniedError("no"))
        connection.seam.fail(Operation.UNWRAP, lambda: KeyDisabledError("off"))
        with pytest.raises(PermissionDeniedError) as caught:
            ring.decrypt(message, context={})
        assert caught.value.key == str(first.uri)
        assert any("KeyDisabledError" in note for note in caught.value.__notes__)

    def test_a_refused_ciphertext_ends_the_operation(self, harness: Harness) -> None:
        """C9.11: InvalidCiphertextError of one recipient ends it: no other is tried."""
        first, second, connection = harness.wrapping_key(), harness.wrapping_key("second"), harness.connect()
        ring = _ring(connection, first, second)

        def damage(header: list[Any]) -> None:
            wrapped = header[1][0][2]
            header[1][0][2] = wrapped[:-1] + bytes([wrapped[-1] ^ 1])

        message = _edit(ring.encrypt(_DATA, context={}), damage)
        with pytest.raises(InvalidCiphertextError) as caught:
            ring.decrypt(message, context={})
        assert type(caught.value) is InvalidCiphertextError
        asked = {call.key for call in connection.seam.calls if call.operation is Operation.UNWRAP}
        assert str(second.uri) not in asked

    def test_encryption_needs_every_key(self, harness: Harness) -> None:
        """C9.3: encrypt fails where one key of the ring cannot wrap: no message for fewer recipients."""
        first, second, connection = harness.wrapping_key(), harness.generate(), harness.connect()
        harness.bring(second, KeyState.DISABLED)
        with pytest.raises(KeyDisabledError):
            _ring(connection, first, second).encrypt(_DATA, context={})

    def test_a_ring_of_nine_decrypts_but_does_not_encrypt(self, harness: Harness) -> None:
        """C9.3: A message has at most 8 recipients; a ring of more is for decrypting, refused unsent."""
        info = harness.wrapping_key()
        message = _ring(harness.main, info).encrypt(_DATA, context={})
        others = [_unmade(info, number) for number in range(8)]
        ring = _ring(harness.main, info, *others)
        assert ring.decrypt(message, context={}) == _DATA
        with harness.main.quiet(), pytest.raises(InvalidArgumentError):
            ring.encrypt(_DATA, context={})

    # Policy

    @each(
        "policy",
        {
            "suites": Policy(suites=frozenset()),
            "max-recipients": Policy(max_recipients=1),
            "max-age": Policy(max_age=timedelta(seconds=1)),
        },
    )
    def test_what_the_policy_forbids_reaches_no_provider(self, harness: Harness, policy: Policy) -> None:
        """C9.12: Suite, number of recipients and age are checked first: PolicyError, and nobody is called."""
        keys = [harness.main.key(harness.wrapping_key(which)) for which in ("first", "second")]
        message = Keyring(keys, clock=lambda: 1_000_000).encrypt(_DATA, context={})
        ring = Keyring(keys, policy=policy, clock=lambda: 1_000_002)
        with harness.main.quiet(), pytest.raises(PolicyError) as caught:
            ring.decrypt(message, context={})
        assert type(caught.value) is PolicyError

    def test_providers_outside_the_policy_are_refused(self, harness: Harness) -> None:
        """C9.12: A policy that lists providers accepts keys of no other."""
        key = harness.main.key(harness.wrapping_key())
        assert Keyring([key], policy=Policy(providers=frozenset({harness.scheme})))
        with pytest.raises(PolicyError):
            Keyring([key], policy=Policy(providers=frozenset({"elsewhere"})))

    def test_a_data_key_from_elsewhere_authenticates_nobody(self, harness: Harness) -> None:
        """C9.13: Origin 1 is never sender-authenticated: refused unsent by default, not authentic under any policy."""
        info = harness.wrapping_key()
        message = _edit(
            _ring(harness.main, info).encrypt(_DATA, context={}), lambda header: _set(header[1][0], 3, 1)
        )
        assert not inspect(message).recipients[0].sender_authenticated
        with harness.main.quiet(), pytest.raises(PolicyError) as caught:
            _ring(harness.main, info).decrypt(message, context={})
        assert type(caught.value) is PolicyError
        with pytest.raises(InvalidCiphertextError):
            Keyring([harness.main.key(info)], policy=_LIGHT).decrypt(message, context={})

    @of_kinds([kind for kind in WRAPPING_KINDS if kind.key_size])
    def test_without_the_senders_signature_nothing_is_unwrapped(
        self, harness: Harness, kind: KeyKind
    ) -> None:
        """C9.13: A forged sender signature is refused before any unwrap; leaving it out is PolicyError, unsent."""
        info = harness.shared(kind)
        if info is None:
            return
        connection = harness.connect()
        ring = _ring(connection, info)
        message = ring.encrypt(_DATA, context={})
        forged = _edit(message, lambda header: _set(header[1][0], 5, bytes(63) + b"\1"))
        with pytest.raises(InvalidCiphertextError) as caught:
            ring.decrypt(forged, context={})
        assert type(caught.value) is InvalidCiphertextError
        assert connection.seam.count(Operation.UNWRAP) == 0

        def unsigned(header: list[Any]) -> None:
            header[1][0][1], header[1][0][5] = "RSA-OAEP-256+A256GCM", b""

        with connection.quiet(), pytest.raises(PolicyError):
            ring.decrypt(_edit(message, unsigned), context={})
        with pytest.raises(InvalidCiphertextError):
            Keyring([connection.key(info)], policy=_LIGHT).decrypt(_edit(message, unsigned), context={})

    def test_an_older_generation_is_stale(self, harness: Harness) -> None:
        """C9.14: A generation under min_generation is StaleMessageError; one out of range is the caller's mistake."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = ring.encrypt(_DATA, context={})
        with harness.main.quiet():
            with pytest.raises(StaleMessageError) as caught:
                ring.decrypt(message, context={}, min_generation=1)
            assert type(caught.value) is StaleMessageError
            for value in (-1, 1 << 32):
                with pytest.raises(InvalidArgumentError):
                    ring.decrypt(message, context={}, min_generation=value)
            for wrong in ("0", 0.0, True):
                with pytest.raises(TypeError):
                    ring.decrypt(message, context={}, min_generation=cast("int", wrong))

    # Order

    def test_the_key_comes_before_the_context(self, harness: Harness) -> None:
        """C9.12: Recipients are matched before the context is compared: a stranger learns nothing of it."""
        message = _ring(harness.main, harness.wrapping_key()).encrypt(_DATA, context=_CONTEXT)
        with harness.main.quiet(), pytest.raises(KeyNotAllowedError):
            _ring(harness.main, harness.wrapping_key("second")).decrypt(message, context={})

    def test_the_policy_comes_before_the_key(self, harness: Harness) -> None:
        """C9.12: The policy is asked before recipients are matched."""
        message = _ring(harness.main, harness.wrapping_key()).encrypt(_DATA, context=_CONTEXT)
        other = [harness.main.key(harness.wrapping_key("second"))]
        with harness.main.quiet(), pytest.raises(PolicyError):
            Keyring(other, policy=Policy(suites=frozenset())).decrypt(message, context={})

    def test_the_context_comes_before_the_sender(self, harness: Harness) -> None:
        """C9.12: The context is compared before the sender's authentication is judged."""
        ring = _ring(harness.main, harness.wrapping_key())
        message = _edit(ring.encrypt(_DATA, context=_CONTEXT), lambda header: _set(header[1][0], 3, 1))
        with harness.main.quiet(), pytest.raises(ContextMismatchError):
            ring.decrypt(message, context={})

    # Faults

    @each(
        "error",
        {error.__name__: error for error in (*_OPENERS.values(), ProviderError, InvalidCiphertextError)},
    )
    def test_no_fault_gives_other_bytes(self, harness: Harness, error: type[KMSError]) -> None:
        """C9.15: Whatever fails, in either direction, the outcome is an error or the right bytes."""
        connection = harness.connect()
        seam, ring = connection.seam, _ring(connection, harness.wrapping_key())
        message = ring.encrypt(_DATA, context={})
        for times in (1, 99):
            survives = times == 1 and error.retryable
            attempts: dict[Operation, Callable[[], bytes]] = {
                Operation.UNWRAP: lambda: ring.decrypt(message, context={}),
                Operation.WRAP: lambda: ring.decrypt(ring.encrypt(_DATA, context={}), context={}),
            }
            for operation, attempt in attempts.items():
                seam.fail(operation, lambda: error("injected"), times=times)
                if survives:
                    assert attempt() == _DATA
                else:
                    with pytest.raises(error) as caught:
                        attempt()
                    assert type(caught.value) is error
                seam.heal()

    @each("change", _OTHER_KEYS)
    def test_another_data_key_does_not_open(self, harness: Harness, change: Callable[[bytes], bytes]) -> None:
        """C9.15: A provider that unwraps to another key opens nothing: the header's tag is checked with it."""
        connection = harness.connect()
        ring = _ring(connection, harness.wrapping_key())
        message = ring.encrypt(_DATA, context={})
        connection.seam.answer(Operation.UNWRAP, change)
        with pytest.raises(InvalidCiphertextError) as caught:
            ring.decrypt(message, context={})
        assert type(caught.value) is InvalidCiphertextError


def _ring(connection: Connection, *infos: KeyInfo) -> Keyring:
    return Keyring([connection.key(info) for info in infos])


def _parts(message: bytes) -> tuple[bytes, list[Any], bytes]:
    """Header bytes, header decoded, and what follows it."""
    (length,) = struct.unpack(">I", message[8:12])
    raw = message[12 : 12 + length]
    return raw, msgspec.msgpack.decode(raw), message[12 + length :]


def _joined(header: list[Any], rest: bytes) -> bytes:
    raw = msgspec.msgpack.encode(header)
    return _MAGIC + struct.pack(">I", len(raw)) + raw + rest


def _edit(message: bytes, change: Callable[[list[Any]], object]) -> bytes:
    """The message with its header changed, as an attacker without the data key can."""
    _, header, rest = _parts(message)
    change(header)
    return _joined(header, rest)


def _set(array: list[Any], index: int, value: object) -> None:
    array[index] = value


def _many(recipient: list[Any], count: int) -> list[list[Any]]:
    return [[f"otherkms://host/k{n}", "A256GCM", b"w", 0, b"", b""] for n in range(count - 1)] + [recipient]


def _other_version(recipient: list[Any]) -> list[Any]:
    return [str(KeyURI.parse(recipient[0]).without_version()), *recipient[1:]]


def _unmade(info: KeyInfo, number: int) -> KeyInfo:
    """Facts like those of ``info`` of a key that no store has."""
    text = str(info.uri)
    end = format(number, "x")
    fields = {field: getattr(info, field) for field in info.__dataclass_fields__}
    fields["uri"] = KeyURI.parse(text[:-1] + (end if text[-1] != end else "9"))
    return KeyInfo(**fields)


def _expected(damaged: bytes, ring: Iterable[KeyURI], context: Mapping[str, str]) -> type[KMSError]:
    """The class that a damaged message must get, by a reading of its own of docs/message-format.md."""
    if damaged[:7] != _MAGIC[:7]:
        return InvalidCiphertextError
    if damaged[7] != 1:
        return UnsupportedVersionError
    try:
        raw, header, rest = _parts(damaged)
        well_formed = msgspec.msgpack.encode(header) == raw and len(rest) >= _TAG_SIZE and _is_header(header)
        uris = [KeyURI.parse(recipient[0]).without_version() for recipient in header[1]]
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidArgumentError, TypeError, ValueError, IndexError):
        return InvalidCiphertextError
    if not well_formed or len(set(uris)) != len(uris):
        return InvalidCiphertextError
    matched = [recipient for uri, recipient in zip(uris, header[1], strict=True) if uri in set(ring)]
    if not matched:
        return KeyNotAllowedError
    stored = dict(header[0][2])
    if {**stored, **{name: context.get(name) for name in header[0][3]}} != context:
        return ContextMismatchError
    if all(recipient[3] == 1 or recipient[1] == "RSA-OAEP-256+A256GCM" for recipient in matched):
        return PolicyError
    return InvalidCiphertextError


def _is_header(header: Any) -> bool:
    immutable, recipients, generation = header
    suite, record_id, stored, required, created = immutable
    names = [name for name, _ in stored]
    return (
        type(suite) is int
        and suite == 1
        and type(record_id) is bytes
        and len(record_id) == 16
        and all(type(text) is str and text for pair in stored for text in pair)
        and all(type(name) is str and name for name in required)
        and names == sorted(set(names))
        and required == sorted(set(required))
        and not set(names) & set(required)
        and type(created) is int
        and 0 <= created <= 1 << 40
        and type(generation) is int
        and 0 <= generation < 1 << 32
        and 1 <= len(recipients) <= 32
        and all(_is_recipient(*recipient) for recipient in recipients)
    )


def _is_recipient(
    uri: object, algorithm: object, wrapped: object, origin: object, data_key: object, sender: object
) -> bool:
    sizes = {
        "A256GCM": (range(1, 4097), 0, 0),
        "RSA-OAEP-256+A256GCM": ((256, 384, 512), 48, 0),
        "RSA-OAEP-256+A256GCM+ES256": ((256, 384, 512), 48, 64),
    }
    if not (isinstance(wrapped, bytes) and isinstance(data_key, bytes) and isinstance(sender, bytes)):
        return False
    if not (isinstance(uri, str) and isinstance(algorithm, str) and algorithm in sizes):
        return False
    allowed, sealed, signed = sizes[algorithm]
    fits = len(wrapped) in allowed and len(data_key) == sealed and len(sender) == signed
    return fits and type(origin) is int and origin in (0, 1)
