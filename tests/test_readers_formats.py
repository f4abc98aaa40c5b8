"""What is particular to each foreign format: algorithms, keys that cannot be used, recipes, keysets, options."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from anykms.envelope.stream import Source
from anykms.errors import (
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
    KeyDisabledError,
    KeyNotFoundError,
    KMSError,
    ThrottledError,
    UnavailableError,
    UnsupportedOperationError,
)
from anykms.migration import readers as seam
from anykms.migration.readers import ForeignReader, find_reader, known_readers, reader_of
from anykms.retrying import RetryPolicy
from anykms_aws import client_config
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator
from anykms_readers.awskms import AWSKMSReader
from anykms_readers.azure import AzureRSAReader, Recipe, read_recipe
from anykms_readers.encryption_sdk import EncryptionSDKReader
from anykms_readers.entries import decoded
from anykms_readers.fernet import FernetReader
from anykms_readers.gcpkms import CloudKMSReader
from anykms_readers.tink import DEKS, TinkReader

ONCE = RetryPolicy(max_attempts=1)
HASTY = RetryPolicy(max_attempts=3, base_delay=0)


def fetch(name: str) -> Any:
    """A library without types."""
    return importlib.import_module(name)


def opened(reader: ForeignReader, entry: bytes, aad: bytes = b"") -> bytes:
    return drained(reader, io.BytesIO(entry), aad)


def drained(reader: ForeignReader, entry: Source, aad: bytes = b"") -> bytes:
    with reader.opening(entry, {}, aad) as source:
        pieces: list[bytes] = []
        while piece := source.read(70_000):
            pieces.append(piece)
    return b"".join(pieces)


def secret_file(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def aws() -> Iterator[AWSEmulator]:
    with AWSEmulator(replica_regions=("us-east-1",)) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def kms(aws: AWSEmulator) -> Iterator[Any]:
    with closing(aws.client()) as client:
        yield client


@pytest.fixture(scope="module")
def gcp() -> Iterator[GCPEmulator]:
    with GCPEmulator() as emulator:
        yield emulator


@pytest.fixture
def arn(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["Arn"])


@pytest.fixture
def crypto_key(gcp: GCPEmulator) -> str:
    name = f"k{os.urandom(4).hex()}"
    made = gcp.client().create_crypto_key(
        parent=gcp.key_ring, crypto_key_id=name, crypto_key={"purpose": "ENCRYPT_DECRYPT"}
    )
    return str(made.name)


# Raw blobs


def test_a_blob_of_aws_may_be_base64_and_rotated(aws: AWSEmulator, kms: Any, arn: str) -> None:
    blob: bytes = kms.encrypt(KeyId=arn, Plaintext=b"x" * 4096)["CiphertextBlob"]
    kms.rotate_key_on_demand(KeyId=arn)
    text = base64.b64encode(blob)
    reader = AWSKMSReader(f"awskms:///{arn}", connection=aws.uri, encoding="base64", **aws.options)
    with closing(reader):
        assert opened(reader, text) == opened(reader, text + b"\n") == b"x" * 4096
        for bad in (text + b"\n\n", b" " + text, text[:-1], text.replace(b"A", b"-", 1), blob):
            with pytest.raises(InvalidCiphertextError):
                opened(reader, bad)


@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1"])
def test_a_blob_of_an_rsa_key_of_aws_is_of_the_algorithm_that_was_said(
    aws: AWSEmulator, kms: Any, algorithm: str
) -> None:
    made = kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"]
    blob = kms.encrypt(KeyId=made, Plaintext=b"x", EncryptionAlgorithm=algorithm)["CiphertextBlob"]
    for said in ("RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1"):
        with closing(AWSKMSReader(made, connection=aws.uri, algorithm=said, **aws.options)) as reader:
            assert not reader.sender_authenticated
            if said == algorithm:
                assert opened(reader, blob) == b"x"
            else:
                with pytest.raises(InvalidCiphertextError):
                    opened(reader, blob)


def test_only_decrypt_is_asked_of_aws(aws: AWSEmulator, kms: Any, arn: str) -> None:
    blob: bytes = kms.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    with closing(AWSKMSReader(arn, connection=aws.uri, **aws.options)) as reader:
        before = aws.requests.total
        assert opened(reader, blob) == b"x"
        assert aws.requests.total - before == 1


def test_a_key_of_aws_that_cannot_be_used_is_no_bad_ciphertext(aws: AWSEmulator, kms: Any, arn: str) -> None:
    blob: bytes = kms.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    kms.disable_key(KeyId=arn)
    with closing(AWSKMSReader(arn, connection=aws.uri, **aws.options)) as reader:
        with pytest.raises(KeyDisabledError):
            opened(reader, blob)
        kms.enable_key(KeyId=arn)
        assert opened(reader, blob) == b"x"


def test_a_busy_aws_is_asked_again(aws: AWSEmulator, kms: Any, arn: str) -> None:
    blob: bytes = kms.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    with closing(AWSKMSReader(arn, connection=aws.uri, retry=HASTY, **aws.options)) as reader:
        aws.faults.add("Decrypt", kind="throttle", times=2)
        assert opened(reader, blob) == b"x"
        aws.faults.add("Decrypt", kind="throttle", times=3)
        with pytest.raises(ThrottledError):
            opened(reader, blob)


def test_an_answer_by_another_key_is_refused(aws: AWSEmulator, kms: Any, arn: str) -> None:
    blob: bytes = kms.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    client = fetch("boto3").client("kms", config=client_config(), **aws.client_kwargs())

    def confuse(parsed: dict[str, str], **_: object) -> None:
        parsed["KeyId"] = arn.replace("111122223333", "444455556666")

    client.meta.events.register("after-call.kms.Decrypt", confuse)
    reader = AWSKMSReader(arn, client=client, retry=ONCE, allow_insecure_endpoint=True)
    with closing(client), pytest.raises(IntegrityError):
        opened(reader, blob)


def test_a_damaged_answer_of_google_is_refused(gcp: GCPEmulator, crypto_key: str) -> None:
    sealed = gcp.client().encrypt(name=crypto_key, plaintext=b"x").ciphertext
    with closing(CloudKMSReader(crypto_key, connection=gcp.uri, retry=ONCE, **gcp.options)) as reader:
        assert opened(reader, sealed) == b"x"
        gcp.corrupt("Decrypt", "response.plaintext")
        with pytest.raises(IntegrityError):
            opened(reader, sealed)
        gcp.faults.add("Decrypt", "UNAVAILABLE")
        with pytest.raises(UnavailableError):
            opened(reader, sealed)


def test_associated_data_of_google_is_bytes(gcp: GCPEmulator, crypto_key: str) -> None:
    request = {"name": crypto_key, "plaintext": b"x", "additional_authenticated_data": b"\xff\x00"}
    sealed = gcp.client().encrypt(request=request).ciphertext
    reader = CloudKMSReader(f"gcp-kms://{crypto_key}", connection=gcp.uri, encoding="base64", **gcp.options)
    with closing(reader):
        assert opened(reader, base64.b64encode(sealed), b"\xff\x00") == b"x"


@given(st.binary(max_size=60), st.sampled_from(["base64", "base64url", "hex"]))
def test_every_encoding_has_one_spelling(data: bytes, encoding: str) -> None:
    text = {
        "base64": base64.b64encode(data),
        "base64url": base64.urlsafe_b64encode(data),
        "hex": data.hex().encode(),
    }[encoding]
    assert decoded(text, encoding) == data
    if encoding == "base64url":
        assert decoded(text.rstrip(b"="), encoding) == data


@given(st.text("AQgw-_+/=\n 0f", max_size=12), st.sampled_from(["base64", "base64url", "hex"]))
def test_what_is_not_that_spelling_is_refused(text: str, encoding: str) -> None:
    try:
        data = decoded(text.encode(), encoding)
    except InvalidCiphertextError:
        return
    again = {
        "base64": base64.b64encode(data),
        "base64url": base64.urlsafe_b64encode(data),
        "hex": data.hex().encode(),
    }[encoding]
    assert text.encode() in (again, again.rstrip(b"=") if encoding == "base64url" else again)


# The AWS Encryption SDK


@pytest.fixture
def session(aws: AWSEmulator) -> Any:
    found = fetch("botocore.session").Session()
    make = found.create_client

    def create_client(*names: object, **more: object) -> Any:
        return make(*names, **{**more, **aws.client_kwargs()})

    found.create_client = create_client
    return found


@pytest.fixture
def seal(session: Any) -> Callable[..., bytes]:
    """Encrypts as an application of the AWS Encryption SDK does."""
    library = fetch("aws_encryption_sdk")

    def encrypt(data: bytes, *arns: str, suite: str = "", provider: Any = None, **more: Any) -> bytes:
        legacy = bool(suite) and "COMMIT" not in suite
        policies = library.CommitmentPolicy
        sdk = library.EncryptionSDKClient(
            commitment_policy=policies.FORBID_ENCRYPT_ALLOW_DECRYPT
            if legacy
            else policies.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        )
        keys = library.StrictAwsKmsMasterKeyProvider(key_ids=list(arns), botocore_session=session)
        if provider is not None:
            keys.add_master_key_provider(provider)
        algorithm = {"algorithm": getattr(library.Algorithm, suite)} if suite else {}
        return bytes(sdk.encrypt(source=data, key_provider=keys, **algorithm, **more)[0])

    return encrypt


LEGACY = (
    "AES_128_GCM_IV12_TAG16",
    "AES_256_GCM_IV12_TAG16_HKDF_SHA256",
    "AES_256_GCM_IV12_TAG16_HKDF_SHA384_ECDSA_P384",
)


@pytest.mark.parametrize("suite", LEGACY)
def test_a_message_without_commitment_is_read_only_where_that_was_said(
    aws: AWSEmulator, arn: str, seal: Callable[..., bytes], suite: str
) -> None:
    entry = seal(b"x" * 10_000, arn, suite=suite)
    strict = EncryptionSDKReader([arn], connection=aws.uri, **aws.options)
    lax = EncryptionSDKReader([arn], connection=aws.uri, commitment="optional", **aws.options)
    with closing(strict), closing(lax):
        assert strict.recognises(entry[:4096])
        assert strict.keys(entry[:4096]) == (f"awskms:///{arn}",)
        before = aws.requests.total
        with pytest.raises(InvalidCiphertextError):
            opened(strict, entry)
        assert aws.requests.total == before
        assert opened(lax, entry) == b"x" * 10_000
        assert opened(lax, seal(b"y", arn)) == b"y"


def test_only_the_named_keys_are_asked_for(
    aws: AWSEmulator, kms: Any, arn: str, seal: Callable[..., bytes]
) -> None:
    other = str(kms.create_key()["KeyMetadata"]["Arn"])
    for entry in (seal(b"x", arn, other), seal(b"x", other, arn)):
        with closing(EncryptionSDKReader([arn], connection=aws.uri, **aws.options)) as reader:
            assert set(reader.keys(entry[:4096])) == {f"awskms:///{arn}", f"awskms:///{other}"}
            before = aws.requests.total
            assert opened(reader, entry) == b"x"
            assert aws.requests.total == before + 1
    with closing(EncryptionSDKReader([arn], connection=aws.uri, **aws.options)) as reader:
        before = aws.requests.total
        with pytest.raises(InvalidCiphertextError):
            opened(reader, seal(b"x", other).replace(arn.encode(), other.encode()))
        assert aws.requests.total <= before + 1  # the sealing itself


def test_a_message_that_names_an_endpoint_or_alias_leads_nowhere(
    aws: AWSEmulator, arn: str, seal: Callable[..., bytes]
) -> None:
    entry = seal(b"x", arn)
    with closing(EncryptionSDKReader([arn], connection=aws.uri, **aws.options)) as reader:
        for region in (b"us-west-1", b"xx-evil-1"):
            before = aws.requests.total
            altered = entry.replace(b"eu-west-1", region)
            assert altered != entry
            with pytest.raises(InvalidCiphertextError):
                opened(reader, altered)
            assert aws.requests.total == before


def test_the_number_of_data_keys_is_bounded(
    aws: AWSEmulator, kms: Any, arn: str, seal: Callable[..., bytes]
) -> None:
    arns = [arn, *(str(kms.create_key()["KeyMetadata"]["Arn"]) for _ in range(2))]
    entry = seal(b"x", *arns)
    few = EncryptionSDKReader([arn], connection=aws.uri, max_data_keys=2, **aws.options)
    enough = EncryptionSDKReader([arn], connection=aws.uri, max_data_keys=3, **aws.options)
    with closing(few), closing(enough):
        before = aws.requests.total
        with pytest.raises(InvalidCiphertextError):
            opened(few, entry)
        assert few.keys(entry) == ()
        assert aws.requests.total == before
        assert opened(enough, entry) == b"x"


def test_a_key_that_cannot_be_used_now_is_said_unless_another_opens(
    aws: AWSEmulator, kms: Any, arn: str, seal: Callable[..., bytes]
) -> None:
    other = str(kms.create_key()["KeyMetadata"]["Arn"])
    entry = seal(b"x", arn, other)
    both = EncryptionSDKReader([arn, other], connection=aws.uri, retry=ONCE, **aws.options)
    one = EncryptionSDKReader([arn], connection=aws.uri, retry=ONCE, **aws.options)
    with closing(both), closing(one):
        kms.disable_key(KeyId=arn)
        assert opened(both, entry) == b"x"
        with pytest.raises(InvalidCiphertextError):
            opened(both, entry[:-1])
        with pytest.raises(KeyDisabledError):
            opened(one, entry)
        kms.enable_key(KeyId=arn)
        aws.faults.add("Decrypt", kind="throttle", times=1)
        with pytest.raises(ThrottledError):
            opened(one, entry)


def test_another_providers_data_key_is_shown_and_not_used(
    aws: AWSEmulator, arn: str, seal: Callable[..., bytes]
) -> None:
    raw = fetch("aws_encryption_sdk.key_providers.raw")
    wrapping = fetch("aws_encryption_sdk.internal.crypto.wrapping_keys")
    names = fetch("aws_encryption_sdk.identifiers")

    class Own(raw.RawMasterKeyProvider):  # type: ignore[misc, name-defined] # the library has no types
        provider_id = "my\x1b[31m-keys"

        def _get_raw_key(self, key_id: bytes) -> Any:
            return wrapping.WrappingKey(
                wrapping_algorithm=names.WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
                wrapping_key=bytes(32),
                wrapping_key_type=names.EncryptionKeyType.SYMMETRIC,
            )

    provider = Own()
    provider.add_master_key("the \N{SNOWMAN} key")
    entry = seal(b"x", arn, provider=provider)
    with closing(EncryptionSDKReader([arn], connection=aws.uri, **aws.options)) as reader:
        assert opened(reader, entry) == b"x"
        shown = reader.keys(entry[:4096])
        assert shown[0] == f"awskms:///{arn}"
        assert shown[1].startswith("my\\x1b[31m-keys: the \\u2603 key")


def test_a_frame_longer_than_allowed_is_refused(
    aws: AWSEmulator, arn: str, seal: Callable[..., bytes]
) -> None:
    framed, unframed = seal(bytes(5000), arn, frame_length=8192), seal(bytes(5000), arn, frame_length=0)
    small = EncryptionSDKReader([arn], connection=aws.uri, max_frame=4096, **aws.options)
    large = EncryptionSDKReader([arn], connection=aws.uri, max_frame=8192, **aws.options)
    with closing(small), closing(large):
        for entry in (framed, unframed):
            assert opened(large, entry) == bytes(5000)
            with pytest.raises(InvalidCiphertextError):
                opened(small, entry)


def test_a_large_message_is_read_as_it_comes(aws: AWSEmulator, arn: str, seal: Callable[..., bytes]) -> None:
    data = os.urandom(1024) * 2048
    entry = seal(data, arn, frame_length=4096)
    source = io.BytesIO(entry)
    with closing(EncryptionSDKReader([arn], connection=aws.uri, **aws.options)) as reader:
        with reader.opening(source, {}) as plain:
            first = plain.read(10)
            assert source.tell() < 200_000
            pieces = [first or b""]
            while piece := plain.read(50_000):
                pieces.append(piece)
            assert plain.read(1) == b""
        assert b"".join(pieces) == data
        # What is cut off is found out at the end, when much has been given.
        with pytest.raises(InvalidCiphertextError):
            opened(reader, entry[:-20])
        with reader.opening(io.BytesIO(entry), {}) as plain:
            assert plain.read(-1) == data


class Failing:
    """A source that breaks after some bytes."""

    def __init__(self, data: bytes, after: int) -> None:
        self._source = io.BytesIO(data[:after])

    def read(self, size: int, /) -> bytes:
        if piece := self._source.read(size):
            return piece
        raise UnavailableError("the store is gone")


@pytest.mark.parametrize("after", [0, 100, 3000])
def test_a_source_that_breaks_is_no_bad_ciphertext(
    aws: AWSEmulator, arn: str, seal: Callable[..., bytes], after: int
) -> None:
    source: Source = Failing(seal(bytes(10_000), arn), after)
    with (
        closing(EncryptionSDKReader([arn], connection=aws.uri, **aws.options)) as reader,
        pytest.raises(UnavailableError, match="the store is gone"),
    ):
        drained(reader, source)


# Azure


def azure_recipe(**more: Any) -> Recipe:
    made: dict[str, Any] = {
        "layout": "json",
        "key_encryption": "RSA-OAEP-256",
        "content_encryption": "A256GCM",
        "fields": {"wrapped": "k", "iv": "i", "ciphertext": "c"},
    }
    return Recipe(**{**made, **more})


def test_azure_wraps_by_sha_1_are_read_only_where_that_was_said() -> None:
    library = fetch("azure.keyvault.keys.crypto")
    with AzureEmulator() as az, closing(az.key_client()) as client:
        keys: Any = client
        made = keys.create_rsa_key("orders", size=2048)
        content_key, iv = os.urandom(16), os.urandom(12)
        with keys.get_cryptography_client("orders") as crypto:
            wrapped = crypto.wrap_key(library.KeyWrapAlgorithm.rsa_oaep, content_key).encrypted_key
        sealed = AESGCM(content_key).encrypt(iv, b"x", b"")
        entry = json.dumps({"k": wrapped.hex(), "i": iv.hex(), "c": sealed.hex()}).encode()
        same = {"encoding": "hex", "content_encryption": "A128GCM"}
        for recipe, opens in (
            (azure_recipe(key_encryption="RSA-OAEP", **same), True),
            (azure_recipe(**same), False),
            (azure_recipe(key_encryption="RSA-OAEP", encoding="hex"), False),
        ):
            with closing(AzureRSAReader([made.id], recipe, **az.options)) as reader:
                if opens:
                    assert opened(reader, entry) == b"x"
                else:
                    with pytest.raises(InvalidCiphertextError):
                        opened(reader, entry)


def test_a_version_of_azure_is_chosen_among_the_callers() -> None:
    library = fetch("azure.keyvault.keys.crypto")
    fields = {"wrapped": "k", "iv": "i", "ciphertext": "c", "kid": "kid"}
    with AzureEmulator() as az, closing(az.key_client()) as client:
        keys: Any = client
        ids = [str(keys.create_rsa_key("orders", size=2048).id) for _ in range(3)]
        entries: list[bytes] = []
        for kid in ids:
            content_key, iv = os.urandom(32), os.urandom(12)
            with keys.get_cryptography_client("orders", key_version=kid.rpartition("/")[2]) as crypto:
                wrapped = crypto.wrap_key(library.KeyWrapAlgorithm.rsa_oaep_256, content_key).encrypted_key
            parts = {"k": wrapped, "i": iv, "c": AESGCM(content_key).encrypt(iv, b"x", b"")}
            spelt = {name: base64.b64encode(part).decode() for name, part in parts.items()}
            entries.append(json.dumps({**spelt, "kid": kid}).encode())
        with closing(AzureRSAReader(ids[:2], azure_recipe(fields=fields), **az.options)) as reader:
            assert [opened(reader, entry) for entry in entries[:2]] == [b"x", b"x"]
            assert [reader.keys(entry) for entry in entries] == [
                (f"azurekms://{ids[0].removeprefix('https://').replace('/keys/', '/')}",),
                (f"azurekms://{ids[1].removeprefix('https://').replace('/keys/', '/')}",),
                (),
            ]
            before = len(az.requests)
            for bad in (
                entries[2],
                entries[0].replace(b'"https://', b'"https://evil.example/'),
                b"[]",
                b"{}",
            ):
                with pytest.raises(InvalidCiphertextError):
                    opened(reader, bad)
            assert len(az.requests) == before
            version = ids[0].rpartition("/")[2]
            keys.update_key_properties("orders", version, enabled=False)
            with pytest.raises(KeyDisabledError):
                opened(reader, entries[0])
            keys.begin_delete_key("orders").wait()
            with pytest.raises(KeyNotFoundError):
                opened(reader, entries[1])


def test_a_jwe_is_of_the_recipes_algorithms_and_has_no_other_context() -> None:
    recipe = Recipe(layout="jwe", key_encryption="RSA-OAEP-256", content_encryption="A256GCM")
    key = "https://my-vault.vault.azure.net/keys/orders/0123456789abcdef0123456789abcdef"

    def jwe(header: object) -> bytes:
        text = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=")
        return b".".join((text, b"A" * 342, b"A" * 16, b"AAAA", b"A" * 22))

    good = {"alg": "RSA-OAEP-256", "enc": "A256GCM"}
    with AzureEmulator() as az, closing(AzureRSAReader([key], recipe, **az.options)) as reader:
        assert reader.distinctive
        assert reader.recognises(jwe(good))
        assert reader.recognises(jwe(good)[:100])
        others: list[Any] = [{**good, "alg": "RSA1_5"}, {**good, "enc": "A128GCM"}, [], {"alg": "dir"}]
        for header in others:
            assert not reader.recognises(jwe(header))
        refused: list[Any] = [
            {**good, "zip": "DEF"},
            {**good, "crit": ["exp"]},
            {**good, "alg": "RSA-OAEP"},
            {**good, "jwk": {}},
            {**good, "kid": 7},
            {**good, "kid": "https://my-vault.vault.azure.net/keys/orders/ffffffffffffffffffffffffffffffff"},
        ]
        for header in refused:
            with pytest.raises(InvalidCiphertextError):
                opened(reader, jwe(header))
        assert len(az.requests) == 0


BAD_RECIPES: list[dict[str, Any]] = [
    {},
    {"layout": "xml"},
    {"key_encryption": "RSA1_5"},
    {"content_encryption": "A256CBC"},
    {"colour": "red"},
    {"fields": {"wrapped": "k"}},
    {"fields": {"wrapped": "k", "iv": "i", "ciphertext": "c", "magic": "m"}},
    {"fields": {"wrapped": "", "iv": "i", "ciphertext": "c"}},
    {"parts": ["wrapped:256"]},
    {"layout": "jwe"},
    {"layout": "binary", "fields": {}, "parts": []},
    {"layout": "binary", "fields": {}, "parts": ["wrapped:256", "iv:12"]},
    {"layout": "binary", "fields": {}, "parts": ["wrapped:256", "iv:12", "ciphertext:*", "iv:12"]},
    {"layout": "binary", "fields": {}, "parts": ["wrapped:*", "iv:12", "ciphertext:*"]},
    {"layout": "binary", "fields": {}, "parts": ["wrapped:256", "iv:0", "ciphertext:*"]},
    {"layout": "binary", "fields": {}, "parts": ["wrapped:256", "iv:12", "ciphertext:*", "skip:*"]},
    {"layout": "binary", "fields": {}, "parts": ["wrapped:256", "iv:12", "ciphertext:*", "kid:u16"]},
]


@pytest.mark.parametrize("change", BAD_RECIPES, ids=str)
def test_a_bad_recipe_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = {
        "layout": "json",
        "key_encryption": "RSA-OAEP-256",
        "content_encryption": "A256GCM",
        "fields": {"wrapped": "k", "iv": "i", "ciphertext": "c"},
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**whole, **change} if change else {}))
    with pytest.raises(InvalidArgumentError, match=r"recipe\.json"):
        read_recipe(str(path))


@given(st.binary(max_size=80), st.sampled_from(["u16", "u32"]))
def test_any_bytes_can_be_taken_apart_or_refused(data: bytes, length: str) -> None:
    for parts in (
        ("wrapped:256", "iv:12", "ciphertext:*"),
        (f"kid:{length}", f"wrapped:{length}", "iv:12", f"ciphertext:{length}", "tag:16"),
    ):
        recipe = azure_recipe(layout="binary", fields={}, parts=parts)
        with pytest.raises(InvalidCiphertextError):
            recipe.take(data)


# Tink


class Remote:
    """A key of AWS as Tink's own client has it."""

    def __init__(self, kms: Any, arn: str) -> None:
        self._kms = kms
        self._arn = arn

    def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
        return bytes(self._kms.encrypt(KeyId=self._arn, Plaintext=plaintext)["CiphertextBlob"])

    def decrypt(self, ciphertext: bytes, aad: bytes) -> bytes:
        return bytes(self._kms.decrypt(KeyId=self._arn, CiphertextBlob=ciphertext)["Plaintext"])


@pytest.mark.parametrize("dek", DEKS)
def test_every_kind_of_data_key_of_tink_opens(aws: AWSEmulator, kms: Any, arn: str, dek: str) -> None:
    aead = fetch("tink.aead")

    entry = aead.KmsEnvelopeAead(getattr(aead.aead_key_templates, dek), Remote(kms, arn)).encrypt(b"x", b"")
    kinds = [dek, "AES256_GCM" if "GCM" not in dek else "XCHACHA20_POLY1305"]
    right, wrong = (
        TinkReader(f"aws-kms://{arn}", dek=kind, connection=aws.uri, **aws.options) for kind in kinds
    )
    with closing(right), closing(wrong):
        assert not right.distinctive
        assert right.keys(entry) == (f"awskms:///{arn}",)
        assert opened(right, entry) == b"x"
        with pytest.raises(InvalidCiphertextError):
            opened(wrong, entry)


def test_an_encrypted_keyset_is_opened_by_its_key(
    aws: AWSEmulator, kms: Any, arn: str, tmp_path: Path
) -> None:
    tink, aead = fetch("tink"), fetch("tink.aead")
    templates = aead.aead_key_templates
    handle = tink.new_keyset_handle(templates.AES256_GCM)

    path = tmp_path / "keyset.json"
    path.write_text(tink.json_proto_keyset_format.serialize_encrypted(handle, Remote(kms, arn), b""))
    entry = handle.primitive(aead.Aead).encrypt(b"x", b"row 17")
    other = str(kms.create_key()["KeyMetadata"]["Arn"])
    with closing(TinkReader(arn, keyset=str(path), connection=aws.uri, **aws.options)) as reader:
        assert reader.distinctive
        assert reader.recognises(entry)
        assert not reader.recognises(b"\x01\x00\x00\x00\x00" + entry[5:])
        assert opened(reader, entry, b"row 17") == b"x"
    with pytest.raises(InvalidCiphertextError):
        TinkReader(other, keyset=str(path), connection=aws.uri, **aws.options)
    with pytest.raises(InvalidArgumentError, match="keyset"):
        TinkReader(keyset=secret_file(tmp_path / "clear.json", path.read_text()))


def test_a_keyset_without_prefixes_has_to_be_asked_for(tmp_path: Path) -> None:
    tink, aead = fetch("tink"), fetch("tink.aead")
    handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM_RAW)
    text = tink.json_proto_keyset_format.serialize(handle, fetch("tink.secret_key_access").TOKEN)
    with closing(TinkReader(keyset=secret_file(tmp_path / "keyset.json", text))) as reader:
        assert not reader.distinctive
        assert opened(reader, handle.primitive(aead.Aead).encrypt(b"x", b"")) == b"x"


def test_a_keyset_cannot_lead_to_a_key_service(tmp_path: Path) -> None:
    aead = fetch("tink.aead")
    template = aead.aead_key_templates.create_kms_aead_key_template("aws-kms://arn:aws:kms:eu-west-1:1:key/x")
    keyset = fetch("tink.proto.tink_pb2").Keyset(primary_key_id=1)
    key = keyset.key.add(key_id=1, status=1, output_prefix_type=3)
    key.key_data.type_url = template.type_url
    key.key_data.value = b"\x0a" + bytes([len(template.value)]) + template.value
    key.key_data.key_material_type = 4
    text = fetch("google.protobuf.json_format").MessageToJson(keyset)
    with pytest.raises(InvalidArgumentError, match="keyset"):
        TinkReader(keyset=secret_file(tmp_path / "keyset.json", text))


# Fernet


def test_a_token_is_text_of_one_spelling(tmp_path: Path) -> None:
    key = Fernet.generate_key()
    reader = FernetReader(secret_file(tmp_path / "keys", key.decode()))
    token = Fernet(key).encrypt(b"12345")
    assert (
        opened(reader, token) == opened(reader, token + b"\n") == opened(reader, token + b"\r\n") == b"12345"
    )
    for bad in (
        token + b"\n\n",
        b" " + token,
        token[:20] + b"\n" + token[20:],
        token[:20] + b"!" + token[20:],
    ):
        with pytest.raises(InvalidCiphertextError):
            opened(reader, bad)
    assert reader.recognises(token + b"\n")
    assert not reader.recognises(b"gBAAAA" + token[6:])
    assert not reader.recognises(b"{" + token)


def test_the_token_of_the_specification_opens(tmp_path: Path) -> None:
    # github.com/fernet/spec, generate.json
    key = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
    token = b"gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA=="
    reader = FernetReader(secret_file(tmp_path / "keys", key))
    assert reader.recognises(token)
    assert opened(reader, token) == b"hello"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    path.write_bytes(Fernet.generate_key())
    path.chmod(mode)
    for make in (lambda: FernetReader(str(path)), lambda: TinkReader(keyset=str(path))):
        with pytest.raises(InvalidArgumentError, match="chmod 600"):
            make()


def test_a_key_file_is_checked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    secret_file(tmp_path / "empty", "")
    secret_file(tmp_path / "bad", f"{Fernet.generate_key().decode()}\nnot a key")
    secret_file(tmp_path / "long", "A" * (1024 * 1024 + 1))
    for name in ("fifo", "empty", "bad", "long"):
        with pytest.raises(InvalidArgumentError, match=name) as caught:
            FernetReader(str(tmp_path / name))
        assert "not a key" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        FernetReader(str(tmp_path / "gone"))


def test_an_entry_too_long_for_memory_is_said(tmp_path: Path) -> None:
    key = Fernet.generate_key()
    reader = FernetReader(secret_file(tmp_path / "keys", key.decode()), max_bytes=200)
    assert opened(reader, Fernet(key).encrypt(b"x")) == b"x"
    with pytest.raises(InvalidArgumentError, match="max-bytes"):
        opened(reader, Fernet(key).encrypt(bytes(200)))


# Options, and how readers are found


ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CRYPTO_KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
VERSION = "https://my-vault.vault.azure.net/keys/orders/0123456789abcdef0123456789abcdef"


def test_every_reader_is_found_by_its_name(tmp_path: Path) -> None:
    recipe = {"layout": "jwe", "key_encryption": "RSA-OAEP-256", "content_encryption": "A256GCM"}
    (tmp_path / "recipe").write_text(json.dumps(recipe))
    options = {
        "awskms": {"key": ARN, "encoding": "base64"},
        "aws-encryption-sdk": {
            "keys": f"{ARN},{ARN.replace('eu-west', 'us-east')}",
            "commitment": "optional",
            "max-data-keys": "3",
        },
        "azure-rsa-oaep": {"keys": VERSION, "recipe": str(tmp_path / "recipe")},
        "fernet": {"key-file": secret_file(tmp_path / "keys", Fernet.generate_key().decode())},
        "gcpkms": {"key": CRYPTO_KEY},
        "tink": {"key": f"gcp-kms://{CRYPTO_KEY}", "prefix": "tink", "key-id": "7"},
    }
    assert set(known_readers()) == set(options)
    assert set(known_readers().values()) == {"anykms"}
    for name, given_options in options.items():
        with closing(find_reader(name, given_options)) as reader:
            assert reader.format == name
            assert reader.sender_authenticated is (name != "azure-rsa-oaep")
        with pytest.raises(InvalidArgumentError, match="'colour'"):
            find_reader(name, {**given_options, "colour": "red"})


BAD_OPTIONS: list[tuple[str, dict[str, str]]] = [
    ("nothing", {}),
    ("awskms", {}),
    ("awskms", {"key": "alias/orders"}),
    ("awskms", {"key": "arn:aws:kms:eu-west-1:111122223333:alias/orders"}),
    ("awskms", {"key": CRYPTO_KEY}),
    ("awskms", {"key": ARN, "encoding": "hex"}),
    ("awskms", {"key": ARN, "algorithm": "SM2PKE"}),
    ("awskms", {"key": ARN, "connection": "awskms:///?region=us-east-1"}),
    ("awskms", {"key": ARN, "connection": "gcpkms://projects/p/locations/l/keyRings/r"}),
    ("awskms", {"key": ARN, "connection": "awskms:///?endpoint_url=http://127.0.0.1:1"}),
    ("awskms", {"key": ARN, "allow-insecure-endpoint": "maybe"}),
    ("gcpkms", {}),
    ("gcpkms", {"key": ARN}),
    ("gcpkms", {"key": f"{CRYPTO_KEY}/cryptoKeyVersions/1"}),
    ("gcpkms", {"key": CRYPTO_KEY, "connection": "gcpkms://projects/p/locations/l/keyRings/other"}),
    ("azure-rsa-oaep", {"keys": VERSION}),
    ("azure-rsa-oaep", {"recipe": "RECIPE"}),
    ("azure-rsa-oaep", {"keys": VERSION.rpartition("/")[0], "recipe": "RECIPE"}),
    ("azure-rsa-oaep", {"keys": f"{VERSION},{VERSION[:-1]}e", "recipe": "RECIPE"}),
    ("azure-rsa-oaep", {"keys": f"{VERSION},{VERSION.replace('my-', 'your-')}", "recipe": "RECIPE"}),
    ("aws-encryption-sdk", {}),
    ("aws-encryption-sdk", {"keys": f"{ARN},alias/orders"}),
    ("aws-encryption-sdk", {"keys": ARN, "commitment": "forbidden"}),
    ("aws-encryption-sdk", {"keys": ARN, "max-data-keys": "0"}),
    ("aws-encryption-sdk", {"keys": ARN, "max-frame": "-1"}),
    ("tink", {}),
    ("tink", {"key": VERSION}),
    ("tink", {"key": ARN, "dek": "AES256_CTR"}),
    ("tink", {"key": ARN, "prefix": "tink"}),
    ("tink", {"key": ARN, "key-id": "7"}),
    ("tink", {"key": ARN, "prefix": "tink", "key-id": "4294967296"}),
    ("tink", {"key": ARN, "prefix": "legacy", "key-id": "7"}),
    ("fernet", {}),
]


@pytest.mark.parametrize(("name", "options"), BAD_OPTIONS, ids=str)
def test_bad_options_are_refused_before_anything_is_sent(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    fields = {"wrapped": "k", "iv": "i", "ciphertext": "c"}
    recipe = {
        "key_encryption": "RSA-OAEP",
        "content_encryption": "A128GCM",
        "fields": fields,
        "layout": "json",
    }
    (tmp_path / "recipe").write_text(json.dumps(recipe))
    given_options = {key: value.replace("RECIPE", str(tmp_path / "recipe")) for key, value in options.items()}
    with pytest.raises(InvalidArgumentError):
        find_reader(name, given_options)


def test_a_format_is_chosen_among_the_configured_readers(tmp_path: Path) -> None:
    key = Fernet.generate_key()
    fernet = FernetReader(secret_file(tmp_path / "keys", key.decode()))
    again = FernetReader(str(tmp_path / "keys"))
    message = EncryptionSDKReader([ARN])
    blob = AWSKMSReader(ARN)
    token = Fernet(key).encrypt(b"x")
    with closing(message), closing(blob):
        assert reader_of(token, [fernet, message, blob]) is fernet
        assert reader_of(b"\x02\x05\x78" + bytes(100), [fernet, message, blob]) is message
        assert reader_of(b"anything else", [fernet, message, blob]) is None
        assert reader_of(b"anything else", [blob]) is blob
        assert reader_of(b"anything else", [fernet]) is None
        assert reader_of(token, []) is None
        with pytest.raises(InvalidArgumentError, match="fernet, fernet"):
            reader_of(token, [fernet, again])


def test_a_reader_whose_library_is_missing_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "anykms_readers.tink", None)
    with pytest.raises(UnsupportedOperationError, match=r"anykms\[readers\]"):
        find_reader("tink", {})
    assert seam.GROUP == "anykms.readers"


def test_no_reader_shows_its_keys(tmp_path: Path) -> None:
    key = Fernet.generate_key().decode()
    reader = FernetReader(secret_file(tmp_path / "keys", key))
    assert key not in repr(reader)
    with pytest.raises(KMSError) as caught:
        opened(reader, b"gAAAAA" + b"A" * 94)
    assert key not in str(caught.value)
