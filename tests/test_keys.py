"""Key and connection URIs, configurations, and the stored form of what a key is."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import InvalidArgumentError
from anykms.keys import (
    ConnectionURI,
    KeyConf,
    KeyInfo,
    KeyOrigin,
    KeyURI,
    ProtectionLevel,
    UnverifiedKeyInfo,
    canonical_json,
    check_name,
    utc_seconds,
)

AWS = "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
GCP = "gcpkms://projects/p/locations/europe-west3/keyRings/Ring_1/cryptoKeys/orders"
AZURE = "azurekms://v.vault.azure.net/orders"
LOCAL = "local://abcdefghijklmnopqrstuvwx23/orders"
STRANGER = "vendor://kms.example.org/Orders.1"
CANONICAL = [
    AWS,
    AWS.replace("arn:aws:", "arn:aws-us-gov:"),
    AWS[: AWS.rindex("/")] + "/mrk-" + "0a" * 16,
    GCP,
    GCP + "/cryptoKeyVersions/17",
    GCP.replace("projects/p/", "projects/example.com:p-1/"),
    AZURE,
    AZURE + "/" + "0f" * 16,
    LOCAL,
    LOCAL + "/1",
    LOCAL + "--sender",
    STRANGER,
    STRANGER + "/v1",
]
CONNECTIONS = [
    "local:///var/lib/app/keys.db",
    "local:keys.db",
    "local:../keys%20of%20mine.db?create=true",
    "local:///srv/%C3%A9t%C3%A9%3F.db",
    "awskms:///",
    "awskms:///?region=x",
    "awskms:///?region=eu-west-1&endpoint=https://localhost:4566",
    "gcpkms://projects/p/locations/global/keyRings/r",
    "azurekms://v.vault.azure.net",
    "azurekms://v.vault.azure.net?sku=premium",
    "vendor://kms.example.org?a=1&b=%26%3D%23",
]


def alphabet(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True)


LABELS = alphabet(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?").filter(lambda label: not label.startswith("xn--"))
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
SEGMENTS = alphabet(r"[A-Za-z0-9._-]{1,40}").filter(lambda segment: segment not in (".", ".."))
URIS = st.one_of(
    st.builds(
        KeyURI,
        st.just("local"),
        st.builds("{}/{}".format, alphabet(r"[a-z2-7]{26}"), alphabet(r"[a-z][a-z0-9-]{0,60}")),
        st.none() | alphabet(r"[1-9][0-9]{0,8}"),
    ),
    st.builds(
        KeyURI,
        st.just("awskms"),
        st.builds(
            "/arn:{}:kms:{}:{}:key/{}".format,
            st.sampled_from(["aws", "aws-cn", "aws-us-gov"]),
            alphabet(r"[a-z]{2}-[a-z]{4,8}-[0-9]"),
            alphabet(r"[0-9]{12}"),
            st.uuids().map(str) | alphabet(r"mrk-[0-9a-f]{32}"),
        ),
    ),
    st.builds(
        KeyURI,
        st.just("gcpkms"),
        st.builds(
            "projects/{}/locations/{}/keyRings/{}/cryptoKeys/{}".format,
            alphabet(r"([a-z0-9.-]{1,20}:)?[a-z][a-z0-9-]{4,28}"),
            alphabet(r"[a-z0-9-]{1,20}"),
            alphabet(r"[A-Za-z0-9_-]{1,63}"),
            alphabet(r"[A-Za-z0-9_-]{1,63}"),
        ),
        st.none() | alphabet(r"[1-9][0-9]{0,18}"),
    ),
    st.builds(
        KeyURI,
        st.just("azurekms"),
        st.builds("{}/{}".format, HOSTS, alphabet(r"[a-z0-9-]{1,127}")),
        st.none() | alphabet(r"[0-9a-f]{32}"),
    ),
    st.builds(KeyURI, st.just("vendor"), st.builds("{}/{}".format, HOSTS, SEGMENTS), st.none() | SEGMENTS),
)


class TestKeyURI:
    @given(URIS)
    def test_the_text_names_the_same_key(self, uri: KeyURI) -> None:
        assert KeyURI.parse(str(uri)) == uri
        assert KeyURI.from_spelling(str(uri)) == uri
        assert uri.with_version(None) == uri.without_version()
        assert uri.without_version().with_version(uri.version) == uri

    @given(URIS, URIS)
    def test_different_keys_have_different_texts(self, one: KeyURI, other: KeyURI) -> None:
        assert (str(one) == str(other)) is (one == other)

    @given(st.data())
    def test_what_parses_is_spelt_back(self, data: st.DataObject) -> None:
        text = list(data.draw(st.sampled_from(CANONICAL)))
        place = data.draw(st.integers(0, len(text)))
        piece = data.draw(
            st.text(max_size=3) | st.sampled_from(["..", "/", "%2e", "@", ":1", "A", "\n", "//", "?"])
        )
        text[place : place + data.draw(st.integers(0, 2))] = piece
        mutated = "".join(text)
        try:
            uri = KeyURI.parse(mutated)
        except InvalidArgumentError:
            return
        assert str(uri) == mutated

    @given(st.text(max_size=60))
    def test_noise_is_refused_cleanly(self, text: str) -> None:
        for parse in (KeyURI.parse, KeyURI.from_spelling, ConnectionURI.parse):
            try:
                parse(text)
            except InvalidArgumentError as error:
                said = str(error)
            else:
                said = ""
            assert said.isprintable()

    @pytest.mark.parametrize("text", CANONICAL)
    def test_canonical_spellings(self, text: str) -> None:
        assert str(KeyURI.parse(text)) == text
        assert pickle.loads(pickle.dumps(KeyURI.parse(text))) == KeyURI.parse(text)  # noqa: S301 # our own bytes

    @pytest.mark.parametrize("canonical", CANONICAL)
    def test_no_second_spelling(self, canonical: str) -> None:
        scheme, rest = canonical.split("://")
        wrong = [
            scheme.upper() + "://" + rest,
            f"{scheme}:{rest}",
            f"{scheme}:/{rest}",
            f"{scheme}://user@{rest}",
            f"{scheme}://user:secret@{rest}",
            canonical + "/",
            canonical + "?version=1",
            canonical + "#fragment",
            canonical + "\n",
            canonical + "\0",
            "\n" + canonical,
            " " + canonical,
            canonical + " ",
            canonical.replace("e", "%65", 1),
            canonical + "/..",
            canonical + "/../orders",
            canonical + "/./1",
            canonical.replace("/", "\\"),
            canonical.replace("r", "\u0433", 1),
            canonical + "\u200b",
            canonical + "x" * 1025,
        ]
        for text in wrong:
            with pytest.raises(InvalidArgumentError):
                KeyURI.parse(text)

    @pytest.mark.parametrize(
        "text",
        [
            "azurekms://V.vault.azure.net/orders",
            "azurekms://v.vault.azure.net:443/orders",
            "azurekms://v.vault.azure.net/Orders",
            "azurekms://xn--v-fga.vault.azure.net/orders",
            "azurekms://v..azure.net/orders",
            "azurekms://.azure.net/orders",
            "azurekms://v.vault.azure.net./orders",
            "azurekms://-v.vault.azure.net/orders",
            "azurekms://[::1]/orders",
            "azurekms:///orders",
            "azurekms://v.vault.azure.net",
            AZURE + "/" + "0F" * 16,
            AZURE + "/" + "0f" * 15,
            "awskms:///arn:aws:kms:eu-west-1:111122223333:alias/orders",
            AWS.replace("111122223333", "11112222333"),
            AWS.replace("awskms:///", "awskms://localhost/"),
            AWS.upper(),
            AWS + "/1",
            GCP + "/cryptoKeyVersions/0",
            GCP + "/cryptoKeyVersions/01",
            GCP + "/cryptoKeyVersions/latest",
            GCP + "/cryptoKeyVersions/1/cryptoKeyVersions/2",
            GCP + "/versions/1",
            LOCAL + "/0",
            LOCAL + "/01",
            LOCAL + "/1/1",
            LOCAL.upper(),
            "local:///var/lib/app/keys.db",
            "vendor://Kms.example.org/orders",
            "vendor://kms.example.org:1/orders",
            "vendor://kms.example.org/a/..",
            "1vendor://kms.example.org/orders",
            "vendor_x://kms.example.org/orders",
            "://kms.example.org/orders",
            "http://kms.example.org/orders",
            "https://kms.example.org/orders/1",
            "orders",
            "",
        ],
    )
    def test_other_texts(self, text: str) -> None:
        with pytest.raises(InvalidArgumentError, match="not a canonical key URI"):
            KeyURI.parse(text)

    @pytest.mark.parametrize("text", [None, 7, b"local://x", ["x"]])
    def test_other_types(self, text: Any) -> None:
        for parse in (KeyURI.parse, KeyURI.from_spelling, ConnectionURI.parse):
            with pytest.raises(TypeError):
                parse(text)

    def test_it_cannot_be_built_or_changed_past_the_rules(self) -> None:
        with pytest.raises(InvalidArgumentError):
            KeyURI("azurekms", "v.vault.azure.net/../orders")
        with pytest.raises(InvalidArgumentError):
            KeyURI.parse(AWS).with_version("1")
        with pytest.raises(InvalidArgumentError):
            KeyURI.parse(GCP).with_version("1/cryptoKeyVersions/2")
        with pytest.raises(FrozenInstanceError):
            KeyURI.parse(GCP).version = "2"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue] # the mistake under test

    @pytest.mark.parametrize(
        ("spelling", "canonical"),
        [
            (AWS.removeprefix("awskms:///"), AWS),
            ("aws-kms://" + AWS.removeprefix("awskms:///"), AWS),
            (GCP.removeprefix("gcpkms://"), GCP),
            (GCP.replace("gcpkms", "gcp-kms"), GCP),
            (GCP.replace("gcpkms:", "").replace("//", "//cloudkms.googleapis.com/"), GCP),
            (GCP + "/versions/3", GCP + "/cryptoKeyVersions/3"),
            (GCP.removeprefix("gcpkms://") + "/cryptoKeyVersions/3", GCP + "/cryptoKeyVersions/3"),
            ("https://v.vault.azure.net/keys/orders", AZURE),
            ("https://v.vault.azure.net:443/keys/Orders/", AZURE),
            ("https://V.Vault.Azure.net/keys/orders/" + "0F" * 16, AZURE + "/" + "0f" * 16),
            ("azurekms://V.vault.azure.net/ORDERS", AZURE),
        ],
    )
    def test_foreign_spellings(self, spelling: str, canonical: str) -> None:
        assert str(KeyURI.from_spelling(spelling)) == canonical

    @pytest.mark.parametrize(
        "spelling",
        [
            "http://v.vault.azure.net/keys/orders",
            "https://v.vault.azure.net:8443/keys/orders",
            "https://user@v.vault.azure.net/keys/orders",
            "https://v.vault.azure.net/secrets/orders",
            "https://v.vault.azure.net/keys/orders?api-version=7.4",
            "https://v.vault.azure.net/keys/../orders",
            "https://v.vault.azure.net\\@evil.example/keys/orders",
            "https://\u212aey.vault.azure.net/keys/orders",
            "https://v.vault.azure.net/keys/\u212aey",
            "azurekms://\u212aey.vault.azure.net/orders",
            "arn:aws:kms:eu-west-1:111122223333:alias/orders",
            "arn:aws:s3:::orders",
            "alias/orders",
            GCP.removesuffix("/cryptoKeys/orders"),
        ],
    )
    def test_spellings_that_are_no_key(self, spelling: str) -> None:
        with pytest.raises(InvalidArgumentError):
            KeyURI.from_spelling(spelling)


class TestConnectionURI:
    @pytest.mark.parametrize("text", CONNECTIONS)
    def test_the_text_connects_to_the_same_place(self, text: str) -> None:
        uri = ConnectionURI.parse(text)
        assert str(uri) == text
        assert ConnectionURI.parse(str(uri)) == uri
        assert pickle.loads(pickle.dumps(uri)) == uri == copy.deepcopy(uri)  # noqa: S301 # our own bytes
        assert hash(ConnectionURI.parse(text)) == hash(uri)

    @given(
        st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30),
        st.dictionaries(
            alphabet(r"[a-z][a-z0-9_-]{0,20}"),
            st.text(st.characters(exclude_categories=["C", "Z"])),
            max_size=3,
        ),
    )
    def test_round_trip(self, path: str, options: dict[str, str]) -> None:
        assume(not path.startswith("/"))
        for address in (path, "/" + path):
            uri = ConnectionURI("local", address, options)
            assert ConnectionURI.parse(str(uri)) == uri

    def test_parts(self) -> None:
        uri = ConnectionURI.parse("local:../a%20b.db?x=%26&y=")
        assert (uri.scheme, uri.address, dict(uri.options)) == ("local", "../a b.db", {"x": "&", "y": ""})
        assert str(ConnectionURI.parse("awskms://")) == "awskms:///"
        assert str(ConnectionURI.parse("azurekms://v.vault.azure.net/")) == "azurekms://v.vault.azure.net"

    def test_options_cannot_be_changed(self) -> None:
        options = {"region": "x"}
        uri = ConnectionURI("awskms", "", options)
        options["region"] = "y"
        assert uri.options["region"] == "x"
        with pytest.raises(TypeError):
            uri.options["region"] = "y"  # type: ignore[index] # pyright: ignore[reportIndexIssue] # the mistake under test

    @pytest.mark.parametrize("key", CANONICAL)
    def test_each_parser_rejects_the_others(self, key: str) -> None:
        with pytest.raises(InvalidArgumentError):
            ConnectionURI.parse(key)
        for connection in CONNECTIONS:
            with pytest.raises(InvalidArgumentError):
                KeyURI.parse(connection)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "local",
            "local:",
            "local://",
            "local:///",
            "local:/keys.db",
            "local://host/keys.db",
            LOCAL + "?create=true",
            "local:keys.db#x",
            "local:keys.db\n",
            "local:keys\0.db",
            "local:keys%00.db",
            "local:keys%0a.db",
            "local:keys%ff.db",
            "local:keys.db?a=1&a=2",
            "local:keys.db?a",
            "local:keys.db?=1",
            "local:keys.db?A=1",
            "local:keys.db?a%26b=1",
            "local:keys.db?a=%0a",
            "local:keys.db?a=%ff",
            "local:keys.db?" + "&".join(f"a{n}=1" for n in range(40)),
            "LOCAL:keys.db",
            "awskms://eu-west-1",
            "awskms:///eu-west-1",
            "awskms:",
            "azurekms://V.vault.azure.net",
            "azurekms://user@v.vault.azure.net",
            "azurekms://v.vault.azure.net:443",
            "azurekms://xn--v-fga.vault.azure.net",
            "azurekms://v.vault.azure.net/keys",
            "azurekms://",
            "gcpkms://projects/p",
            "gcpkms://projects/p/locations/l/keyRings/..",
            "vendor://",
            "vendor:kms",
            "https://kms.example.org",
        ],
    )
    def test_other_texts(self, text: str) -> None:
        with pytest.raises(InvalidArgumentError):
            ConnectionURI.parse(text)

    def test_option_values_are_not_echoed(self) -> None:
        for text in (
            "vendor://KMS?token=hunter2",
            "Vendor://kms?token=hunter2",
            "vendor://kms?token=hunter2%0a",
        ):
            with pytest.raises(InvalidArgumentError) as caught:
                ConnectionURI.parse(text)
            assert "hunter2" not in str(caught.value)


NAMES = ["ab", "a1", "a" * 63, "a-b-c", "orders"]
NOT_NAMES = [
    "",
    "a",
    "1a",
    "-a",
    "a-",
    "a--b",
    "A1",
    "a_b",
    "a.b",
    "a" * 64,
    "ab\n",
    "\u00e4b",
    "a b",
    "ab\0",
]


class TestKeyConf:
    @pytest.mark.parametrize("name", NAMES)
    def test_names(self, name: str) -> None:
        assert check_name(name) == name
        assert KeyConf(name, "ENCRYPT_DECRYPT").name == name

    @pytest.mark.parametrize("name", NOT_NAMES)
    def test_other_names(self, name: str) -> None:
        with pytest.raises(InvalidArgumentError, match="key name"):
            KeyConf(name, "ENCRYPT_DECRYPT")

    @pytest.mark.parametrize(
        ("field", "good", "bad"),
        [
            ("destroy_window", [None, 7, 30], [-1, 0, 6, 31, 10**20]),
            ("rotation_period", [None, 90, 2560], [-1, 0, 89, 2561]),
            ("protection_level", [None, "SOFTWARE", "HSM", "EXTERNAL"], ["hsm", "", "\ud800"]),
            (
                "tags",
                [
                    None,
                    {},
                    {f"t{n}": "" for n in range(10)},
                    {"a" * 63: "v" * 63},
                    {"a_-9": "0_-z"},
                ],
                [
                    {f"t{n}": "" for n in range(11)},
                    {"a" * 64: ""},
                    {"a": "v" * 64},
                    {"": ""},
                    {"A": ""},
                    {"1": ""},
                    {"-a": ""},
                    {"a": "V"},
                    {"a": " "},
                    {"a\n": ""},
                    {"a": "v\n"},
                    {"a": "\u00e4"},
                    {"anykms": ""},
                    {"anykms-x": ""},
                ],
            ),
        ],
    )
    def test_limits(self, field: str, good: list[Any], bad: list[Any]) -> None:
        for value in good:
            kept = getattr(KeyConf("orders", "ENCRYPT_DECRYPT", **{field: value}), field)
            assert kept == ({} if field == "tags" and value is None else value)
        for value in bad:
            with pytest.raises(InvalidArgumentError):
                KeyConf("orders", "ENCRYPT_DECRYPT", **{field: value})

    @pytest.mark.parametrize(
        "arguments",
        [
            {"name": b"orders"},
            {"name": None},
            {"purpose": None},
            {"purpose": 1},
            {"algorithm": 256},
            {"key_size": "3072"},
            {"key_size": 3072.0},
            {"key_size": True},
            {"protection_level": 1},
            {"destroy_window": 7.0},
            {"destroy_window": "7"},
            {"destroy_window": True},
            {"destroy_window": timedelta(days=7)},
            {"rotation_period": 90.5},
            {"tags": [("a", "b")]},
            {"tags": "a=b"},
            {"tags": {"a": 1}},
            {"tags": {1: "a"}},
            {"tags": {"a": None}},
            {"unknown": 1},
        ],
    )
    def test_other_types(self, arguments: dict[str, Any]) -> None:
        given_: dict[str, Any] = {"name": "orders", "purpose": "ENCRYPT_DECRYPT", "algorithm": "RSA-OAEP-256"}
        with pytest.raises(TypeError):
            KeyConf(**{**given_, **arguments})

    @pytest.mark.parametrize("purpose", KeyPurpose)
    @pytest.mark.parametrize("algorithm", [None, *Algorithm])
    def test_purpose_and_algorithm(self, purpose: KeyPurpose, algorithm: Algorithm | None) -> None:
        named = purpose in (KeyPurpose.SIGN_VERIFY, KeyPurpose.MAC)
        if (algorithm is None and named) or (algorithm and purpose not in algorithm.spec.purposes):
            with pytest.raises(InvalidArgumentError, match=r"names its algorithm|does not serve"):
                KeyConf("orders", purpose, algorithm=algorithm)
            return
        default = Algorithm.RSA_OAEP_256 if purpose is KeyPurpose.ASYMMETRIC_DECRYPT else None
        assert KeyConf("orders", purpose, algorithm=algorithm).algorithm is (algorithm or default)

    @pytest.mark.parametrize(
        ("purpose", "algorithm", "size"),
        [
            ("ENCRYPT_DECRYPT", None, 3072),
            ("ENCRYPT_DECRYPT", "A256GCM", 256),
            ("SIGN_VERIFY", "ES256", 256),
            ("SIGN_VERIFY", "RS256", 1024),
            ("SIGN_VERIFY", "RS512", 3072),
            ("MAC", "HS256", 256),
        ],
    )
    def test_sizes_that_do_not_fit(self, purpose: str, algorithm: str | None, size: int) -> None:
        with pytest.raises(InvalidArgumentError, match="key_size"):
            KeyConf("orders", purpose, algorithm=algorithm, key_size=size)

    def test_only_wrapping_keys_rotate_on_schedule(self) -> None:
        for purpose, algorithm in (("SIGN_VERIFY", "ES256"), ("MAC", "HS256"), ("ASYMMETRIC_DECRYPT", None)):
            with pytest.raises(InvalidArgumentError, match="one version for life"):
                KeyConf("orders", purpose, algorithm=algorithm, rotation_period=90)

    def test_unknown_words(self) -> None:
        unknown: list[dict[str, Any]] = [
            {"purpose": "encrypt"},
            {"purpose": "MAC", "algorithm": "none"},
            {"purpose": "ENCRYPT_DECRYPT", "protection_level": "FIPS"},
        ]
        for arguments in unknown:
            with pytest.raises(InvalidArgumentError, match="use one of"):
                KeyConf("orders", **arguments)

    def test_golden_digest(self) -> None:
        conf = full_conf()
        golden = (
            b'{"algorithm":"RS256","destroy_window":14,"key_size":3072,"name":"releases","protection_level":"HSM",'
            b'"purpose":"SIGN_VERIFY","rotation_period":null,"tags":{"env":"prod","team":"core_1"}}'
        )
        assert conf.to_json() == golden
        assert conf.digest == base64.b32encode(hashlib.sha256(golden).digest()).decode().lower().rstrip("=")
        assert conf.digest == GOLDEN_DIGEST
        assert len(conf.digest) == 52

    def test_every_field_is_in_the_digest(self) -> None:
        changes: list[dict[str, Any]] = [
            {"name": "other"},
            {"algorithm": "PS256"},
            {"key_size": 4096},
            {"key_size": None},
            {"protection_level": "SOFTWARE"},
            {"tags": {"team": "core_1"}},
            {"tags": {"team": "core_1", "env": "test"}},
            {"destroy_window": 15},
            {"destroy_window": None},
        ]
        digests = {KeyConf(**{**FULL, **change}).digest for change in changes}
        assert len(digests - {full_conf().digest}) == len(changes)

    def test_it_is_a_value(self) -> None:
        tags = {"team": "core_1", "env": "prod"}
        arguments: dict[str, Any] = {**FULL, "tags": tags}
        conf = KeyConf(**arguments)
        tags["team"] = "other"
        assert conf == full_conf()
        assert hash(conf) == hash(full_conf())
        assert pickle.loads(pickle.dumps(conf)) == conf == copy.deepcopy(conf)  # noqa: S301 # our own bytes
        with pytest.raises(FrozenInstanceError):
            conf.name = "x"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue] # the mistake under test
        with pytest.raises(TypeError):
            conf.tags["a"] = "b"  # type: ignore[index] # pyright: ignore[reportIndexIssue] # the mistake under test

    def test_template_decides_the_defaults(self) -> None:
        template = KeyConf("orders", "ENCRYPT_DECRYPT").template(Algorithm.RSA_OAEP_256)
        assert (template.algorithm, template.key_size) == (Algorithm.RSA_OAEP_256, 3072)
        template = KeyConf("orders", "SIGN_VERIFY", algorithm="PS512").template(Algorithm.A256GCM)
        assert (template.algorithm, template.key_size) == (Algorithm.PS512, 4096)
        assert template.conf_digest == KeyConf("orders", "SIGN_VERIFY", algorithm="PS512").digest


FULL: dict[str, Any] = {
    "name": "releases",
    "purpose": "SIGN_VERIFY",
    "algorithm": "RS256",
    "key_size": 3072,
    "protection_level": "HSM",
    "tags": {"team": "core_1", "env": "prod"},
    "destroy_window": 14,
}
GOLDEN_DIGEST = "gokexrrhlxartr4gjaphgxmthlh6w3rf5qsp47pftqiuuxi2ywra"


def full_conf() -> KeyConf:
    return KeyConf(**FULL)


def key_info(**changes: Any) -> KeyInfo:
    facts: dict[str, Any] = {
        "name": "releases",
        "uri": KeyURI.parse(AZURE + "/" + "0f" * 16),
        "provider": "azurekms",
        "purpose": KeyPurpose.SIGN_VERIFY,
        "algorithm": Algorithm.RS256,
        "key_size": 3072,
        "protection_level": ProtectionLevel.HSM,
        "origin": KeyOrigin.PROVIDER,
        "created_at": datetime(2026, 3, 1, 12, 30, 59, tzinfo=UTC),
        "fingerprint": "ab" * 32,
        "tags": {"team": "core_1", "env": "prod"},
        "destroy_window": 14,
        "destroy_window_enforced": True,
        "conf_digest": "c" * 52,
    }
    return KeyInfo(**{**facts, **changes})


GOLDEN = (
    b'{"algorithm":"RS256","conf_digest":"cccccccccccccccccccccccccccccccccccccccccccccccccccc",'
    b'"created_at":"2026-03-01T12:30:59Z","destroy_window":14,"destroy_window_enforced":true,'
    b'"fingerprint":"abababababababababababababababababababababababababababababababab","key_size":3072,'
    b'"name":"releases","origin":"PROVIDER","protection_level":"HSM","provider":"azurekms",'
    b'"purpose":"SIGN_VERIFY","sender_authenticated":true,"sender_fingerprint":null,'
    b'"tags":{"env":"prod","team":"core_1"},'
    b'"uri":"azurekms://v.vault.azure.net/orders/0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"}'
)

foreign_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
infos = st.builds(
    key_info,
    name=foreign_text,
    uri=URIS,
    provider=foreign_text,
    purpose=st.sampled_from(KeyPurpose),
    algorithm=st.sampled_from(Algorithm),
    key_size=st.none() | st.integers(0, 1 << 20),
    protection_level=st.sampled_from(ProtectionLevel),
    origin=st.sampled_from(KeyOrigin),
    created_at=st.datetimes(timezones=st.just(UTC)).map(utc_seconds),
    sender_authenticated=st.booleans(),
    fingerprint=st.none() | foreign_text,
    sender_fingerprint=st.none() | foreign_text,
    tags=st.dictionaries(foreign_text, foreign_text, max_size=5),
    destroy_window=st.none() | st.integers(0, 90),
    destroy_window_enforced=st.booleans(),
    conf_digest=st.none() | foreign_text,
)


class TestKeyInfo:
    def test_golden_json(self) -> None:
        assert key_info().to_json() == GOLDEN
        assert set(json.loads(GOLDEN)) == {f.name for f in fields(KeyInfo)}

    @given(infos)
    def test_json_round_trips_byte_for_byte(self, info: KeyInfo) -> None:
        stored = info.to_json()
        read = UnverifiedKeyInfo.from_json(stored)
        assert read.to_json() == stored
        for field in fields(KeyInfo):
            assert getattr(read, field.name) == getattr(info, field.name)
        assert json.loads(stored)["tags"] == dict(info.tags)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_bytes_like_json(self, kind: Any) -> None:
        assert UnverifiedKeyInfo.from_json(kind(GOLDEN)).name == "releases"
        others: list[Any] = [GOLDEN.decode(), None, json.loads(GOLDEN)]
        for other in others:
            with pytest.raises(TypeError):
                UnverifiedKeyInfo.from_json(other)

    def test_what_was_read_is_no_key_info(self) -> None:
        read: object = UnverifiedKeyInfo.from_json(GOLDEN)
        assert not isinstance(read, KeyInfo)
        assert read != key_info()
        assert not hasattr(KeyInfo, "from_json")

    @pytest.mark.parametrize("member", json.loads(GOLDEN))
    def test_every_member_is_needed_and_typed(self, member: str) -> None:
        whole: dict[str, Any] = json.loads(GOLDEN)
        without = {name: value for name, value in whole.items() if name != member}
        wrong: list[Any] = [1.5, [], {"a": 1}, "\ud800", -0.0]
        wrong += [] if isinstance(whole[member], bool) else [True]
        if member not in ("key_size", "destroy_window"):
            wrong.append(7)
        if whole[member] is None or member in ("fingerprint", "conf_digest", "key_size", "destroy_window"):
            wrong.append(False)
        else:
            wrong.append(None)
        if member not in ("name", "provider", "fingerprint", "sender_fingerprint", "conf_digest"):
            wrong.append("unheard of")
        encoded = [json.dumps({**whole, member: v}, separators=(",", ":"), sort_keys=True) for v in wrong]
        encoded.append(json.dumps(without, separators=(",", ":"), sort_keys=True))
        for text in encoded:
            with pytest.raises(InvalidArgumentError, match="not the canonical JSON of a KeyInfo"):
                UnverifiedKeyInfo.from_json(text.encode())

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"null",
            b"[]",
            b"7",
            b"{}",
            b"\xff",
            GOLDEN + b"\n",
            b" " + GOLDEN,
            b"\xef\xbb\xbf" + GOLDEN,
            GOLDEN.decode().encode("utf-16"),
            GOLDEN[:-1],
            GOLDEN.replace(b":", b": ", 1),
            GOLDEN.replace(b"releases", b"\\u0072eleases"),
            GOLDEN.replace(b"12:30:59Z", b"12:30:59+00:00"),
            GOLDEN.replace(b"2026-03-01", b"2026-3-1"),
            GOLDEN.replace(b"12:30:59Z", b"12:30:60Z"),
            GOLDEN.replace(b"{", b'{"alg":"none",', 1),
            GOLDEN.replace(b"{", b'{"zzz":1,', 1),
            GOLDEN.replace(b'"key_size":3072', b'"key_size":3072,"key_size":3072'),
            GOLDEN.replace(b"3072", b"3072.0"),
            GOLDEN.replace(b"3072", b"3.072e3"),
            GOLDEN.replace(b"3072", b"NaN"),
            GOLDEN.replace(b"3072", b"9" * 5000),
            GOLDEN.replace(
                b'"tags":{"env":"prod","team":"core_1"}', b'"tags":{"team":"core_1","env":"prod"}'
            ),
            b"[" * 60_000,
            GOLDEN.replace(b"releases", b"r" * 70_000),
        ],
        ids=range(26),
    )
    def test_other_bytes(self, data: bytes) -> None:
        with pytest.raises(InvalidArgumentError, match="not the canonical JSON of a KeyInfo"):
            UnverifiedKeyInfo.from_json(data)

    @given(st.data())
    def test_altered_json_is_refused_or_means_exactly_itself(self, data: st.DataObject) -> None:
        altered = bytearray(GOLDEN)
        altered[data.draw(st.integers(0, len(altered) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        try:
            read = UnverifiedKeyInfo.from_json(altered)
        except InvalidArgumentError:
            return
        assert read.to_json() == altered

    def test_it_is_a_value(self) -> None:
        tags = {"team": "core_1", "env": "prod"}
        info = key_info(tags=tags)
        tags["team"] = "other"
        assert info == key_info()
        assert hash(info) == hash(key_info())
        assert pickle.loads(pickle.dumps(info)) == info == copy.deepcopy(info)  # noqa: S301 # our own bytes
        with pytest.raises(FrozenInstanceError):
            info.algorithm = Algorithm.HS256  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue] # the mistake under test
        with pytest.raises(TypeError):
            info.tags["a"] = "b"  # type: ignore[index] # pyright: ignore[reportIndexIssue] # the mistake under test
        assert info != key_info(key_size=2048)

    def test_times_are_utc_and_whole_seconds(self) -> None:
        east = datetime(2026, 3, 1, 14, 30, 59, 999_999, tzinfo=timezone(timedelta(hours=2)))
        assert utc_seconds(east) == datetime(2026, 3, 1, 12, 30, 59, tzinfo=UTC)
        assert key_info(created_at=east).to_json() == GOLDEN
        with pytest.raises(InvalidArgumentError, match="time zone"):
            utc_seconds(datetime(2026, 3, 1))

    def test_sender_key(self) -> None:
        wrapping = key_info(
            name="orders",
            uri=KeyURI.parse(AZURE),
            purpose=KeyPurpose.ENCRYPT_DECRYPT,
            algorithm=Algorithm.RSA_OAEP_256,
            fingerprint=None,
            sender_fingerprint="cd" * 32,
        )
        sender = wrapping.sender_key()
        assert sender is not None
        assert (sender.name, str(sender.uri)) == ("orders--sender", AZURE + "--sender")
        assert (sender.purpose, sender.algorithm, sender.key_size) == (
            KeyPurpose.SIGN_VERIFY,
            Algorithm.ES256,
            None,
        )
        assert (sender.fingerprint, sender.sender_fingerprint) == ("cd" * 32, None)
        assert key_info().sender_key() is None
        assert replace(wrapping, sender_fingerprint=None).sender_key() is None

    def test_protection_levels_are_ordered(self) -> None:
        rising = [ProtectionLevel.SOFTWARE, ProtectionLevel.HSM, ProtectionLevel.EXTERNAL]
        for place, level in enumerate(rising):
            assert [level.at_least(other) for other in rising] == [n <= place for n in range(3)]


def test_canonical_json_sorts_by_utf16() -> None:
    """RFC 8785, 3.2.3: U+10000 is a surrogate pair from D800, before U+E000."""
    value: dict[str, object] = {"\ue000": 1, "\U00010000": None, "a": ["\u20ac", True, "x"]}
    assert canonical_json(value) == ('{"a":["\u20ac",true,"x"],"\U00010000":null,"\ue000":1}'.encode())
    assert canonical_json('\x00\x1f"\\/\x7f\u2028') == '"\\u0000\\u001f\\"\\\\/\x7f\u2028"'.encode()
    assert canonical_json("\b\t\n\f\r") == b'"\\b\\t\\n\\f\\r"'
