"""KeyInfo and KeyStatus: the same fields, types and formats on every provider."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime
from typing import Final

import pytest

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import InvalidArgumentError
from anykms.keys import (
    KeyConf,
    KeyInfo,
    KeyOrigin,
    KeyState,
    KeyStatus,
    KeyURI,
    ProtectionLevel,
    UnverifiedKeyInfo,
)
from anykms_contract.clauses import Contract, each, of_kinds
from anykms_contract.harness import (
    DECRYPTION_KINDS,
    MAC_KINDS,
    SIGNING_KINDS,
    WRAPPING_KINDS,
    Harness,
    KeyKind,
)
from anykms_contract.payloads import FORMS, Form, cut, flipped

_KINDS = (*WRAPPING_KINDS, *SIGNING_KINDS, *MAC_KINDS, *DECRYPTION_KINDS)
_FIELDS = [
    "name",
    "uri",
    "provider",
    "purpose",
    "algorithm",
    "key_size",
    "protection_level",
    "origin",
    "created_at",
    "sender_authenticated",
    "fingerprint",
    "sender_fingerprint",
    "tags",
    "destroy_window",
    "destroy_window_enforced",
    "conf_digest",
]
_HEX = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[a-z2-7]{52}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_SPELLINGS: Final[Mapping[str, Callable[[str], str]]] = {
    "upper": str.upper,
    "space": lambda text: text + " ",
    "slash": lambda text: text + "/",
}


class KeyInfoContract(Contract):
    """The facts of a key, as data."""

    @of_kinds(_KINDS)
    def test_the_facts_have_one_shape(self, harness: Harness, kind: KeyKind) -> None:
        """C1.2: Every key has the same fields with the same types, whatever made it."""
        info = harness.shared(kind)
        if info is None:
            return
        assert [field.name for field in fields(info)] == _FIELDS
        assert type(info) is KeyInfo
        assert type(info.name) is str
        assert type(info.uri) is KeyURI
        assert info.provider == harness.scheme == info.uri.scheme
        assert type(info.purpose) is KeyPurpose
        assert type(info.algorithm) is Algorithm
        assert info.key_size is None or type(info.key_size) is int
        assert (info.key_size is None) is (kind.key_size is None)
        assert type(info.protection_level) is ProtectionLevel
        assert info.origin is KeyOrigin.PROVIDER
        assert type(info.sender_authenticated) is bool
        assert type(info.destroy_window_enforced) is bool
        assert info.destroy_window is None or 7 <= info.destroy_window <= 90
        assert isinstance(info.tags, Mapping)
        assert hash(info) == hash(harness.main.client.get_key(info.name))
        with pytest.raises(FrozenInstanceError):
            info.name = "other"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue] # the clause

    @of_kinds(_KINDS)
    def test_fingerprints(self, harness: Harness, kind: KeyKind) -> None:
        """C1.5: The fingerprint is SHA-256 of the SPKI in hex where the public key is the caller's, else None."""
        info = harness.shared(kind)
        if info is None:
            return
        public = kind.purpose in (KeyPurpose.SIGN_VERIFY, KeyPurpose.ASYMMETRIC_DECRYPT)
        assert (info.fingerprint is not None) is public
        assert info.fingerprint is None or _HEX.fullmatch(info.fingerprint)
        wraps_with_rsa = kind.purpose is KeyPurpose.ENCRYPT_DECRYPT and kind.key_size is not None
        assert (info.sender_fingerprint is not None) is wraps_with_rsa
        assert info.sender_fingerprint is None or _HEX.fullmatch(info.sender_fingerprint)
        assert info.sender_authenticated

    @of_kinds(_KINDS)
    def test_the_uri_is_canonical(self, harness: Harness, kind: KeyKind) -> None:
        """C1.9: A key's URI parses to itself; a wrapping key's has no version, so that it survives rotation."""
        info = harness.shared(kind)
        if info is None:
            return
        assert KeyURI.parse(str(info.uri)) == info.uri
        assert KeyURI.from_spelling(str(info.uri)) == info.uri
        if kind.purpose is KeyPurpose.ENCRYPT_DECRYPT:
            assert info.uri.version is None

    @of_kinds(_KINDS)
    def test_times_are_utc_and_whole_seconds(self, harness: Harness, kind: KeyKind) -> None:
        """C1.4: Every time is UTC and has whole seconds."""
        info = harness.shared(kind)
        if info is None:
            return
        status = harness.main.client.describe_key(info)
        moments = [info.created_at, status.destroy_at, status.next_rotation_at]
        moments += [version.created_at for version in status.versions]
        for moment in moments:
            assert moment is None or (type(moment) is datetime and moment.tzinfo is UTC)
            assert moment is None or moment.microsecond == 0

    @of_kinds(_KINDS)
    def test_the_json_comes_back(self, harness: Harness, kind: KeyKind) -> None:
        """C1.7: Canonical JSON (RFC 8785) gives the same facts back, byte for byte, as unverified facts."""
        info = harness.shared(kind)
        if info is None:
            return
        data = info.to_json()
        raw = json.loads(data)
        assert list(raw) == sorted(_FIELDS)
        assert json.dumps(raw, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode() == data
        assert _TIME.fullmatch(raw["created_at"])
        found = UnverifiedKeyInfo.from_json(data)
        assert not isinstance(found, KeyInfo)
        assert found.to_json() == data
        assert {field: getattr(found, field) for field in _FIELDS} == {
            field: getattr(info, field) for field in _FIELDS
        }

    def test_the_conf_digest_is_the_confs(self, harness: Harness) -> None:
        """C1.6: conf_digest is the digest of the conf as written, in 52 characters of base32."""
        conf = harness.conf(harness.wrapping, tags={"team": "blue"}, rotation_period=180)
        made = harness.main.client.generate_key(conf)
        assert made.conf_digest == conf.digest
        assert _DIGEST.fullmatch(conf.digest)
        assert harness.main.client.get_key(made.name).conf_digest == conf.digest
        bare = KeyConf(conf.name, conf.purpose)
        assert bare.digest != conf.digest

    def test_facts_never_change(self, harness: Harness) -> None:
        """C1.3: Whatever happens to a key, its facts stay the same."""
        client, info = harness.main.client, harness.generate()
        client.rotate_key(info)
        assert client.get_key(info.name) == info
        client.disable_key(info)
        assert client.get_key(info.name) == info
        client.schedule_destruction(info)
        assert client.get_key(info.name) == info
        client.cancel_destruction(info)
        client.enable_key(info)
        assert harness.connect().client.get_key(info.name).to_json() == info.to_json()

    def test_a_fresh_keys_status(self, harness: Harness) -> None:
        """C1.11: A new key is ENABLED, has one version at most to show, and no destruction before it."""
        for kind in (harness.wrapping, harness.signing):
            info = harness.generate(kind)
            status = harness.main.client.describe_key(info)
            assert type(status) is KeyStatus
            assert status.state is KeyState.ENABLED
            assert status.destroy_at is None
            assert status.rotation_period is None
            assert status.next_rotation_at is None
            assert status.rotations_left is None or status.rotations_left > 0
            assert len(status.versions) <= 1
            for version in status.versions:
                assert version.state is KeyState.ENABLED
                assert type(version.id) is str
                assert version.fingerprint is None or _HEX.fullmatch(version.fingerprint)
            if status.versions:
                assert status.current_version == status.versions[0].id

    @FORMS
    def test_the_json_is_read_from_every_form(self, harness: Harness, form: Form) -> None:
        """C2.10: bytes, bytearray and memoryview behave the same."""
        data = harness.wrapping_key().to_json()
        assert UnverifiedKeyInfo.from_json(form(data)).to_json() == data

    def test_damaged_json_is_refused_or_means_what_it_says(self, harness: Harness) -> None:
        """C1.7: Any other bytes are refused, or are the canonical JSON of other facts: never read loosely."""
        data = harness.wrapping_key().to_json()
        for damaged in (*cut(data), data + b"\n", b" " + data, data.replace(b",", b", ")):
            with pytest.raises(InvalidArgumentError):
                UnverifiedKeyInfo.from_json(damaged)
        for _, damaged in flipped(data):
            try:
                found = UnverifiedKeyInfo.from_json(damaged)
            except InvalidArgumentError:
                continue
            assert found.to_json() == damaged

    @each("spelling", _SPELLINGS)
    def test_other_spellings_of_a_uri_are_refused(
        self, harness: Harness, spelling: Callable[[str], str]
    ) -> None:
        """C1.9: A key URI has one spelling."""
        with pytest.raises(InvalidArgumentError):
            KeyURI.parse(spelling(str(harness.wrapping_key().uri)))
