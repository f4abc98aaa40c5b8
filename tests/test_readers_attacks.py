"""Every reader of foreign ciphertext under the same attacks: nothing altered opens, and looking at it asks nobody."""

from __future__ import annotations

import base64
import importlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from anykms.envelope.message import HEAD_START
from anykms.errors import InvalidCiphertextError
from anykms.migration.readers import ForeignReader, find_reader
from anykms.retrying import RetryPolicy
from anykms.wrapping import NOT_AUTHENTIC
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator
from anykms_readers.awskms import AWSKMSReader
from anykms_readers.azure import AzureRSAReader, Recipe
from anykms_readers.encryption_sdk import EncryptionSDKReader
from anykms_readers.gcpkms import CloudKMSReader
from anykms_readers.tink import TinkReader

PLAINTEXT = b"The quick brown fox, who must not appear in a log. " * 6
ONCE = RetryPolicy(max_attempts=1)
MOST = 120
"""Positions tried, of an entry that has more."""


class Given(NamedTuple):
    """What the caller says of an entry."""

    context: Mapping[str, str] = {}  # nobody writes to it
    aad: bytes = b""


@dataclass
class Case:
    """One entry, who reads it, and who must not be able to."""

    reader: ForeignReader
    stranger: ForeignReader
    entry: bytes
    context: Given
    others: tuple[Given, ...]
    requests: Callable[[], int] = field(default=lambda: 0)
    skipped: int = 0
    """Bytes at the beginning that say nothing, by the recipe."""


ROW = Given(aad=b"row 17")
OTHER_ROWS = (Given(), Given(aad=b"row 18"), Given({"aad": "row 17"}))
UNUSED = Given({"tenant": "of the new message"}, b"of the new message")


def opened(reader: ForeignReader, entry: bytes, said: Given) -> bytes:
    with reader.opening(io.BytesIO(entry), said.context, said.aad) as source:
        pieces: list[bytes] = []
        while piece := source.read(1000):
            pieces.append(piece)
    return b"".join(pieces)


def fetch(name: str) -> Any:
    """A library without types."""
    return importlib.import_module(name)


def aws_key(aws: AWSEmulator) -> str:
    with closing(aws.client()) as kms:
        return str(kms.create_key()["KeyMetadata"]["Arn"])


def awskms(stack: ExitStack, folder: Path) -> Case:
    aws = stack.enter_context(AWSEmulator())
    arn, other = aws_key(aws), aws_key(aws)
    with closing(aws.client()) as kms:
        entry = kms.encrypt(KeyId=arn, Plaintext=PLAINTEXT, EncryptionContext={"tenant": "42"})
    first, second = (AWSKMSReader(key, connection=aws.uri, retry=ONCE, **aws.options) for key in (arn, other))
    return Case(
        first,
        second,
        entry["CiphertextBlob"],
        Given({"tenant": "42"}),
        (Given(), Given({"tenant": "43"}), Given({"tenant": "42", "more": "x"})),
        lambda: aws.requests.total,
    )


def gcp_keys(gcp: GCPEmulator) -> tuple[str, str]:
    kms = gcp.client()
    first, second = (
        kms.create_crypto_key(
            parent=gcp.key_ring, crypto_key_id=name, crypto_key={"purpose": "ENCRYPT_DECRYPT"}
        ).name
        for name in ("first", "second")
    )
    return first, second


def gcpkms(stack: ExitStack, folder: Path) -> Case:
    gcp = stack.enter_context(GCPEmulator())
    key, other = gcp_keys(gcp)
    reply = gcp.client().encrypt(
        request={"name": key, "plaintext": PLAINTEXT, "additional_authenticated_data": b"row 17"}
    )
    first, second = (
        CloudKMSReader(name, connection=gcp.uri, retry=ONCE, **gcp.options) for name in (key, other)
    )
    return Case(first, second, reply.ciphertext, ROW, OTHER_ROWS, lambda: gcp.requests.total)


def azure(stack: ExitStack, layout: str) -> tuple[AzureEmulator, AzureRSAReader, AzureRSAReader, bytes]:
    """A payload under A256GCM with the aad ``row 17``, whose key RSA-OAEP-256 has wrapped."""
    az = stack.enter_context(AzureEmulator())
    recipes: dict[str, dict[str, Any]] = {
        "json": {"fields": {"wrapped": "key", "iv": "data.iv", "ciphertext": "data.text", "tag": "data.tag"}},
        "binary": {"parts": ("skip:4", "wrapped:u16", "iv:12", "ciphertext:*", "tag:16")},
        "jwe": {},
    }
    recipe = Recipe(
        layout=layout,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # one of the three
        key_encryption="RSA-OAEP-256",
        content_encryption="A256GCM",
        **recipes[layout],
    )
    keys: Any = az.key_client()
    names = [str(keys.create_rsa_key(name, size=2048).id) for name in ("first", "second")]
    first, second = (AzureRSAReader([name], recipe, retry=ONCE, **az.options) for name in names)
    content_key, iv = os.urandom(32), os.urandom(12)
    crypto = keys.get_cryptography_client("first")
    wrapped = crypto.wrap_key(fetch("azure.keyvault.keys.crypto").KeyWrapAlgorithm.rsa_oaep_256, content_key)
    crypto.close()
    keys.close()
    head = b"." if layout != "jwe" else url64(b'{"alg":"RSA-OAEP-256","enc":"A256GCM"}')
    aad = head if layout == "jwe" else b"row 17"
    sealed = AESGCM(content_key).encrypt(iv, PLAINTEXT, aad)
    text, tag = sealed[:-16], sealed[-16:]
    if layout == "json":
        data = {"iv": b64(iv), "text": b64(text), "tag": b64(tag)}
        entry = json.dumps({"key": b64(wrapped.encrypted_key), "data": data}, separators=(",", ":")).encode()
    elif layout == "binary":
        entry = b"V1..\x01\x00" + wrapped.encrypted_key + iv + sealed
    else:
        entry = b".".join((head, *map(url64, (wrapped.encrypted_key, iv, text, tag))))
    return az, first, second, entry


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def azure_json(stack: ExitStack, folder: Path) -> Case:
    az, first, second, entry = azure(stack, "json")
    return Case(first, second, entry, ROW, OTHER_ROWS, lambda: len(az.requests))


def azure_binary(stack: ExitStack, folder: Path) -> Case:
    az, first, second, entry = azure(stack, "binary")
    return Case(first, second, entry, ROW, OTHER_ROWS, lambda: len(az.requests), skipped=4)


def azure_jwe(stack: ExitStack, folder: Path) -> Case:
    az, first, second, entry = azure(stack, "jwe")
    return Case(first, second, entry, UNUSED, (), lambda: len(az.requests))


def sdk_message(
    aws: AWSEmulator, arn: str, suite: str, commit: str = "REQUIRE_ENCRYPT_REQUIRE_DECRYPT"
) -> bytes:
    """A message of the AWS Encryption SDK with small frames, by its own strict provider."""
    library, session = fetch("aws_encryption_sdk"), fetch("botocore.session").Session()
    make = session.create_client

    def create_client(*names: object, **more: object) -> Any:
        return make(*names, **{**more, **aws.client_kwargs()})

    session.create_client = create_client
    sdk = library.EncryptionSDKClient(commitment_policy=getattr(library.CommitmentPolicy, commit))
    sealed, _ = sdk.encrypt(
        source=PLAINTEXT,
        key_provider=library.StrictAwsKmsMasterKeyProvider(key_ids=[arn], botocore_session=session),
        algorithm=getattr(library.Algorithm, suite),
        encryption_context={"tenant": "42", "purpose": "test"},
        frame_length=128,
    )
    return bytes(sealed)


def encryption_sdk(suite: str) -> Callable[[ExitStack, Path], Case]:
    def build(stack: ExitStack, folder: Path) -> Case:
        aws = stack.enter_context(AWSEmulator())
        arn, other = aws_key(aws), aws_key(aws)
        first, second = (
            EncryptionSDKReader([key], connection=aws.uri, retry=ONCE, **aws.options) for key in (arn, other)
        )
        others = (Given({"tenant": "43"}), Given({"tenant": "42", "more": "x"}))
        entry = sdk_message(aws, arn, suite)
        return Case(first, second, entry, Given({"tenant": "42"}), others, lambda: aws.requests.total)

    return build


def tink_on_aws(stack: ExitStack, folder: Path) -> Case:
    aws = stack.enter_context(AWSEmulator())
    arn, other = aws_key(aws), aws_key(aws)
    aead = fetch("tink.aead")
    aead.register()
    with closing(aws.client()) as kms:

        class Remote:
            def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
                return bytes(kms.encrypt(KeyId=arn, Plaintext=plaintext)["CiphertextBlob"])

        made = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, Remote()).encrypt(
            PLAINTEXT, b"row 17"
        )
    entry = b"\x01\x00\x00\x04\xd2" + made
    first, second = (
        TinkReader(
            f"aws-kms://{key}", prefix="tink", key_id=1234, connection=aws.uri, retry=ONCE, **aws.options
        )
        for key in (arn, other)
    )
    return Case(first, second, entry, ROW, OTHER_ROWS, lambda: aws.requests.total)


def tink_on_gcp(stack: ExitStack, folder: Path) -> Case:
    gcp = stack.enter_context(GCPEmulator())
    key, other = gcp_keys(gcp)
    aead = fetch("tink.aead")
    aead.register()

    class Remote:
        def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
            return bytes(gcp.client().encrypt(name=key, plaintext=plaintext).ciphertext)

    template = aead.aead_key_templates.XCHACHA20_POLY1305
    entry = aead.KmsEnvelopeAead(template, Remote()).encrypt(PLAINTEXT, b"row 17")
    first, second = (
        TinkReader(
            f"gcp-kms://{name}", dek="XCHACHA20_POLY1305", connection=gcp.uri, retry=ONCE, **gcp.options
        )
        for name in (key, other)
    )
    return Case(first, second, entry, ROW, OTHER_ROWS, lambda: gcp.requests.total)


def secret_file(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def tink_keyset(stack: ExitStack, folder: Path) -> Case:
    tink, aead = fetch("tink"), fetch("tink.aead")
    aead.register()
    readers: list[ForeignReader] = []
    sealed: list[bytes] = []
    for name in ("first", "second"):
        handle = tink.new_keyset_handle(aead.aead_key_templates.AES128_GCM)
        text = tink.json_proto_keyset_format.serialize(handle, fetch("tink.secret_key_access").TOKEN)
        readers.append(find_reader("tink", {"keyset": secret_file(folder / name, text)}))
        sealed.append(handle.primitive(aead.Aead).encrypt(PLAINTEXT, b"row 17"))
    return Case(readers[0], readers[1], sealed[0], ROW, OTHER_ROWS)


def fernet(stack: ExitStack, folder: Path) -> Case:
    old, new, strange = (Fernet.generate_key() for _ in range(3))
    both = secret_file(folder / "both", f"{new.decode()}\n{old.decode()}\n")
    one = secret_file(folder / "one", strange.decode())
    reader, stranger = find_reader("fernet", {"key-file": both}), find_reader("fernet", {"key-file": one})
    return Case(reader, stranger, Fernet(old).encrypt(PLAINTEXT), UNUSED, ())


BUILDERS: dict[str, Callable[[ExitStack, Path], Case]] = {
    "awskms": awskms,
    "gcpkms": gcpkms,
    "azure json": azure_json,
    "azure binary": azure_binary,
    "azure jwe": azure_jwe,
    "sdk unsigned": encryption_sdk("AES_256_GCM_HKDF_SHA512_COMMIT_KEY"),
    "sdk signed": encryption_sdk("AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384"),
    "tink on aws": tink_on_aws,
    "tink on gcp": tink_on_gcp,
    "tink keyset": tink_keyset,
    "fernet": fernet,
}


@pytest.fixture(scope="module", params=BUILDERS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with ExitStack() as stack:
        made = BUILDERS[request.param](stack, tmp_path_factory.mktemp("keys"))
        with closing(made.reader), closing(made.stranger):
            yield made


def refused(reader: ForeignReader, entry: bytes, said: Given) -> None:
    with pytest.raises(InvalidCiphertextError) as caught:
        opened(reader, entry, said)
    assert type(caught.value) is InvalidCiphertextError
    assert str(caught.value) == NOT_AUTHENTIC


def positions(size: int) -> list[int]:
    if size <= MOST:
        return list(range(size))
    return sorted({number * (size - 1) // (MOST - 1) for number in range(MOST)})


def test_an_entry_opens_as_often_as_it_is_asked(case: Case) -> None:
    assert opened(case.reader, case.entry, case.context) == PLAINTEXT
    assert opened(case.reader, case.entry, case.context) == PLAINTEXT


def test_several_threads_may_read(case: Case) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(partial(opened, case.reader, case.entry), [case.context] * 12))
    assert found == [PLAINTEXT] * 12


def test_an_entry_is_recognised_by_its_beginning(case: Case) -> None:
    assert case.reader.recognises(case.entry[:4096])


def test_another_key_opens_nothing(case: Case) -> None:
    refused(case.stranger, case.entry, case.context)


def test_another_context_opens_nothing(case: Case) -> None:
    for other in case.others:
        refused(case.reader, case.entry, other)


def test_no_altered_byte_is_accepted(case: Case) -> None:
    for at in positions(len(case.entry)):
        for mask in (0x01, 0x80):
            altered = bytearray(case.entry)
            altered[at] ^= mask
            if at >= case.skipped:
                refused(case.reader, bytes(altered), case.context)


def test_no_beginning_of_an_entry_is_accepted(case: Case) -> None:
    for size in positions(len(case.entry)):
        refused(case.reader, case.entry[:size], case.context)


def test_nothing_may_follow_an_entry(case: Case) -> None:
    refused(case.reader, case.entry + b"\x00", case.context)
    refused(case.reader, case.entry + case.entry, case.context)


def test_lengths_that_lie_are_refused(case: Case) -> None:
    for at in range(0, min(len(case.entry), 80), 2):
        for lie in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"):
            altered = case.entry[:at] + lie + case.entry[at + 4 :]
            if altered != case.entry and at + 4 > case.skipped:
                refused(case.reader, altered, case.context)


def test_to_look_at_an_entry_asks_nobody(case: Case) -> None:
    before = case.requests()
    case.reader.recognises(case.entry[:4096])
    case.reader.keys(case.entry[:4096])
    assert case.requests() == before


def test_an_entry_that_cannot_be_of_the_format_asks_nobody(case: Case) -> None:
    before = case.requests()
    refused(case.reader, b"", case.context)
    assert case.requests() == before


def test_no_log_holds_the_plaintext(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    # botocore's own debug log holds whole answers, as everywhere that it is used; it has a switch of its own.
    with caplog.at_level(logging.DEBUG):
        opened(case.reader, case.entry, case.context)
        refused(case.reader, case.entry[:-1], case.context)
    ours = [record for record in caplog.records if not record.name.startswith(("botocore", "urllib3"))]
    assert not [record for record in ours if "quick brown" in record.getMessage()]


def test_a_message_of_anykms_is_no_token_or_message_of_others(case: Case) -> None:
    assert not (case.reader.distinctive and case.reader.recognises(b"\x8aAKMS\r\n\x01" + bytes(HEAD_START)))


@pytest.mark.parametrize("name", BUILDERS)
def test_anything_can_be_looked_at(name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        case = BUILDERS[name](stack, tmp_path)
        stack.enter_context(closing(case.reader))
        stack.enter_context(closing(case.stranger))

        def look(start: bytes) -> None:
            assert case.reader.recognises(start) in (True, False)
            assert all(key.isprintable() and len(key) <= 1024 for key in case.reader.keys(start))

        def look_altered(at: int, noise: bytes) -> None:
            look((case.entry[:at] + noise + case.entry[at + len(noise) :])[:4096])

        given(st.binary(max_size=200))(look)()
        given(st.integers(0, 300), st.binary(max_size=40))(look_altered)()
