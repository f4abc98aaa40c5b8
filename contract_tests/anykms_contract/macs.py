"""Key.mac and Key.verify_mac."""

from __future__ import annotations

import pytest

from anykms.errors import InvalidArgumentError, InvalidMacError, KeyUsageError
from anykms_contract.clauses import Contract, each, of_kinds, refuses
from anykms_contract.harness import MAC_KINDS, Harness, KeyKind
from anykms_contract.payloads import FORMS, NOT_BYTES, Form, cut, flipped

_MESSAGE = b"orders/17"


class MACContract(Contract):
    """Message authentication codes: HMAC of whole messages."""

    @of_kinds(MAC_KINDS)
    def test_a_tag_verifies(self, harness: Harness, kind: KeyKind) -> None:
        """C6.1: A tag has the digest's size, is the same each time, and verifies on any connection."""
        info = harness.shared(kind)
        if info is None:
            return
        tag = harness.main.key(info).mac(_MESSAGE)
        assert isinstance(tag, bytes)
        assert len(tag) == kind.algorithm.spec.digest_size
        for connection in (harness.main, harness.connect()):
            assert connection.key(info).mac(_MESSAGE) == tag
            connection.key(info).verify_mac(_MESSAGE, tag)

    @of_kinds(MAC_KINDS)
    def test_every_other_tag_is_refused(self, harness: Harness, kind: KeyKind) -> None:
        """C6.2: A tag with any byte changed is InvalidMacError."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        for _, damaged in flipped(key.mac(_MESSAGE)):
            with pytest.raises(InvalidMacError) as caught:
                key.verify_mac(_MESSAGE, damaged)
            assert type(caught.value) is InvalidMacError

    @of_kinds(MAC_KINDS)
    def test_a_tag_of_another_length_is_refused_unsent(self, harness: Harness, kind: KeyKind) -> None:
        """C6.2: Cut, longer and empty tags are InvalidMacError, and nobody is asked."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        tag = key.mac(_MESSAGE)
        with harness.main.quiet():
            for damaged in (*cut(tag), tag + b"\0", tag + tag):
                with pytest.raises(InvalidMacError) as caught:
                    key.verify_mac(_MESSAGE, damaged)
                assert type(caught.value) is InvalidMacError

    @of_kinds(MAC_KINDS)
    def test_another_message_or_key_is_refused(self, harness: Harness, kind: KeyKind) -> None:
        """C6.2: A tag belongs to one message and one key."""
        info, other = harness.shared(kind), harness.shared(kind, "second")
        if info is None or other is None:
            return
        key = harness.main.key(info)
        tag = key.mac(_MESSAGE)
        assert harness.main.key(other).mac(_MESSAGE) != tag
        for message in (_MESSAGE + b"\0", _MESSAGE[:-1], b"\0" + _MESSAGE):
            with pytest.raises(InvalidMacError):
                key.verify_mac(message, tag)
        with pytest.raises(InvalidMacError) as caught:
            harness.main.key(other).verify_mac(_MESSAGE, tag)
        assert type(caught.value) is InvalidMacError

    @of_kinds(MAC_KINDS)
    def test_message_sizes(self, harness: Harness, kind: KeyKind) -> None:
        """C2.7: 1 to 4096 bytes are MACed; none and 4097 are InvalidArgumentError, unsent."""
        info = harness.shared(kind)
        if info is None:
            return
        key = harness.main.key(info)
        tags = {size: key.mac(bytes(size)) for size in (1, 2, 4095, 4096)}
        assert len(set(tags.values())) == 4
        for size, tag in tags.items():
            key.verify_mac(bytes(size), tag)
        with harness.main.quiet():
            for size in (0, 4097, 1 << 20):
                with pytest.raises(InvalidArgumentError) as caught:
                    key.mac(bytes(size))
                assert type(caught.value) is InvalidArgumentError
                with pytest.raises(InvalidArgumentError) as caught:
                    key.verify_mac(bytes(size), tags[1])
                assert type(caught.value) is InvalidArgumentError

    @FORMS
    def test_bytes_like_forms_are_the_same(self, harness: Harness, form: Form) -> None:
        """C2.10: bytes, bytearray and memoryview behave the same."""
        info = harness.shared(MAC_KINDS[0])
        if info is None:
            return
        key = harness.main.key(info)
        tag = key.mac(_MESSAGE)
        assert key.mac(form(_MESSAGE)) == tag
        key.verify_mac(form(_MESSAGE), form(tag))

    @NOT_BYTES
    def test_other_types_are_a_type_error(self, harness: Harness, wrong: bytes) -> None:
        """C2.10: What is not bytes-like is TypeError, unsent."""
        info = harness.shared(MAC_KINDS[0])
        if info is None:
            return
        key = harness.main.key(info)
        tag = key.mac(_MESSAGE)
        with harness.main.quiet():
            refuses(
                TypeError,
                lambda: key.mac(wrong),
                lambda: key.verify_mac(wrong, tag),
                lambda: key.verify_mac(_MESSAGE, wrong),
            )

    @each("purpose", {"wrapping": "wrapping", "signing": "signing"})
    def test_keys_of_another_purpose_make_no_macs(self, harness: Harness, purpose: str) -> None:
        """C1.1: mac and verify_mac under a key of another purpose are KeyUsageError, unsent."""
        info = harness.wrapping_key() if purpose == "wrapping" else harness.signing_key()
        key = harness.main.key(info)
        with harness.main.quiet():
            refuses(KeyUsageError, lambda: key.mac(_MESSAGE), lambda: key.verify_mac(_MESSAGE, bytes(32)))
