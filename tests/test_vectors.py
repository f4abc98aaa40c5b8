"""The vectors against the library, and against a reader that shares nothing with it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from anykms import Keyring, KMSClient, KMSError
from anykms.wrapping import NOT_AUTHENTIC
from anykms_contract.vectors import (
    MessageVector,
    RewrapVector,
    ValueVector,
    VectorProvider,
    messages,
    rewraps,
    values,
)
from anykms_contract.vectors.generate import Recipe

VECTORS = messages()
NO_CALL = {"parse", "policy", "match", "context"}
by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)


def open_with_library(vector: MessageVector) -> tuple[bytes | KMSError, list[str]]:
    provider = VectorProvider()
    client = KMSClient(provider)
    ring = Keyring([client.key(client.get_key(name)) for name in vector.ring])
    provider.calls.clear()
    try:
        return ring.decrypt(vector.message, context=vector.context, aad=vector.aad), provider.calls
    except KMSError as error:
        return error, provider.calls


@by_name
def test_the_library_opens_the_good_and_refuses_the_bad(vector: MessageVector) -> None:
    outcome, calls = open_with_library(vector)
    if vector.error is None:
        assert outcome == vector.plaintext
        return
    assert isinstance(outcome, KMSError)
    assert type(outcome).__name__ == vector.error
    if vector.error == "InvalidCiphertextError":
        assert str(outcome) == NOT_AUTHENTIC
    if vector.fails_at in NO_CALL or vector.error == "PolicyError":
        assert calls == []
    if vector.fails_at == "sender":
        assert "unwrap" not in calls


def test_every_step_has_a_vector() -> None:
    steps = {vector.fails_at for vector in VECTORS}
    assert steps == {
        None,
        "parse",
        "match",
        "context",
        "sender",
        "unwrap",
        "data key length",
        "header tag",
        "commitment",
        "chunks",
    }


# A reader written from the format page: slow, plain, and nothing of anykms in it.


class RefusedError(Exception):
    pass


def expand(key: bytes, label: bytes, info: bytes, size: int = 32) -> bytes:
    return HKDFExpand(SHA512(), size, label + info).derive(key)


def context_bytes(context: Mapping[str, str]) -> bytes:
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    return b"anykms/v1 ctx" + b"".join(
        len(part).to_bytes(4) + part for name, value in pairs for part in (name, value)
    )


def chunked(key: bytes, context: bytes, body: bytes) -> bytes:
    """C2SP chunked-encryption@v1, Cobblestone-256, by hand over AES-GCM."""
    if len(body) < 72:
        raise RefusedError("commitment")
    salt, commitment, chunks = body[:24], body[24:56], body[56:]
    derived = expand(key, b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0", salt + context, 32 + 12 + 32)
    aead, base = AESGCM(derived[:32]), int.from_bytes(derived[32:44])
    if not hmac.compare_digest(derived[44:], commitment):
        raise RefusedError("commitment")
    plain = b""
    count, last = divmod(len(chunks), 16400)
    if last < 16:
        raise RefusedError("chunks")
    for index in range(count + 1):
        nonce = (base ^ index).to_bytes(12)
        try:
            plain += aead.decrypt(nonce, chunks[index * 16400 : (index + 1) * 16400], None)
        except InvalidTag:
            raise RefusedError("chunks") from None
    return plain


def read(vector: MessageVector) -> bytes:
    """Open a well-formed message with its data key, from the header tag on."""
    key, digest, start = proven(vector.message, vector.data_key, vector.context)
    return chunked(key, digest + b"\0" + vector.aad, vector.message[start:])


def read_value(vector: ValueVector) -> bytes:
    """Open a detached value with the data key of its record."""
    key, digest, start = proven(vector.record, vector.data_key, vector.context)
    # The record id stands after: magic 8, length 4, arrays of 3 and 5, suite, bin 8 and its size.
    record_id = vector.record[17:33]
    if len(vector.record) != start or len(vector.value) < 89 or vector.value[:17] != b"\1" + record_id:
        raise RefusedError("value")
    return chunked(key, digest + b"\1" + vector.aad, vector.value[17:])


def proven(message: bytes, data_key: bytes, context: Mapping[str, str]) -> tuple[bytes, bytes, int]:
    """K_body, H and where the body begins, once the header tag is right."""
    end = 12 + int.from_bytes(message[8:12])
    raw = message[12:end]
    if message[:8] != bytes.fromhex("8a414b4d530d0a01"):
        raise RefusedError("parse")
    immutable, _, _ = msgspec.msgpack.decode(raw)
    # The first element's own bytes: one array, re-encoded shortest, as the format demands.
    packed = msgspec.msgpack.encode(immutable)
    if raw[1 : 1 + len(packed)] != packed:
        raise RefusedError("parse")
    digest = hashlib.sha512(
        b"anykms/v1 header" + len(packed).to_bytes(4) + packed + context_bytes(context)
    ).digest()
    key = expand(data_key, b"anykms/v1 header-tag", digest)
    if not hmac.compare_digest(hmac.digest(key, message[:end], "sha256"), message[end : end + 32]):
        raise RefusedError("header tag")
    return expand(data_key, b"anykms/v1 payload", digest), digest, end + 32


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.error is None], ids=lambda vector: vector.name)
def test_an_independent_reader_opens_the_good(vector: MessageVector) -> None:
    assert read(vector) == vector.plaintext


@pytest.mark.parametrize(
    "vector",
    [
        v
        for v in VECTORS
        if v.fails_at in {"header tag", "commitment", "chunks"} and v.name != "two data keys"
    ],
    ids=lambda vector: vector.name,
)
def test_an_independent_reader_refuses_at_the_named_step(vector: MessageVector) -> None:
    with pytest.raises(RefusedError, match=str(vector.fails_at)):
        read(vector)


def unwrapped_by_hand(message: bytes, context: Mapping[str, str]) -> bytes:
    """The data key of a message whose first recipient is alpha, with alpha's published key."""
    immutable, rows, _ = msgspec.msgpack.decode(message[12 : 12 + int.from_bytes(message[8:12])])
    packed = msgspec.msgpack.encode(immutable)
    digest = hashlib.sha512(
        b"anykms/v1 header" + len(packed).to_bytes(4) + packed + context_bytes(context)
    ).digest()
    bind = hashlib.sha256(b"anykms/v1 bind\0" + digest).digest()
    kek = hashlib.sha256(b"anykms vector key alpha").digest()
    return chunked(kek, b"anykms/v1 local-wrap" + bind, rows[0][2])


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 50000])
def test_an_independent_reader_opens_what_the_library_makes(size: int) -> None:
    provider = VectorProvider()
    client = KMSClient(provider)
    ring = Keyring([client.key("alpha")])
    message = ring.encrypt(b"p" * size, context={"tenant": "42"}, aad=b"a")
    data_key = unwrapped_by_hand(message, {"tenant": "42"})
    vector = MessageVector("", None, None, "", message, data_key, {"tenant": "42"}, b"a", b"", ("alpha",))
    assert read(vector) == b"p" * size


def test_a_second_writer_is_understood() -> None:
    recipe = Recipe(("alpha", "beta"), plaintext=b"fresh")
    vector = MessageVector(
        "", None, None, "", recipe.build(), recipe.data_key, recipe.context, recipe.aad, b"fresh", ("beta",)
    )
    assert open_with_library(vector)[0] == b"fresh"


# Detached values and rewrapped messages

VALUES, REWRAPS = values(), rewraps()


@pytest.mark.parametrize("vector", VALUES, ids=lambda vector: vector.name)
def test_a_value_opens_or_is_refused_by_the_library_and_by_the_independent_reader(
    vector: ValueVector,
) -> None:
    client = KMSClient(VectorProvider())
    ring = Keyring([client.key(name) for name in vector.ring])
    record = ring.open_record(vector.record, context=vector.context)
    if vector.error is None:
        assert record.open(vector.value, aad=vector.aad) == vector.plaintext == read_value(vector)
        return
    with pytest.raises(KMSError) as caught:
        record.open(vector.value, aad=vector.aad)
    assert type(caught.value).__name__ == vector.error
    assert str(caught.value) == NOT_AUTHENTIC
    with pytest.raises(RefusedError, match=str(vector.fails_at)):
        read_value(vector)


@pytest.mark.parametrize("size", [0, 1, 16384, 50000])
def test_an_independent_reader_opens_values_that_the_library_seals(size: int) -> None:
    client = KMSClient(VectorProvider())
    record = Keyring([client.key("alpha")]).record(context={"tenant": "42"})
    sealed = record.seal(b"p" * size, aad=b"a")
    stored = record.to_bytes()
    data_key = unwrapped_by_hand(stored, {"tenant": "42"})
    vector = ValueVector(
        "", None, None, "", stored, sealed, data_key, {"tenant": "42"}, b"a", b"", ("alpha",)
    )
    assert read_value(vector) == b"p" * size


@pytest.mark.parametrize("vector", REWRAPS, ids=lambda vector: vector.after.name)
def test_a_rewrapped_message_opens_or_is_refused_as_any_other(vector: RewrapVector) -> None:
    after = vector.after
    outcome, calls = open_with_library(after)
    if after.error is None:
        assert outcome == after.plaintext == read(after)
    else:
        assert type(outcome).__name__ == after.error
        assert after.error != "PolicyError" or calls == []
    before = vector.before
    start = 12 + int.from_bytes(before[8:12]) + 32
    assert after.message.endswith(before[start:])


def test_an_independent_reader_opens_what_the_library_rewraps() -> None:
    client = KMSClient(VectorProvider())
    source, target = (Keyring([client.key(name)]) for name in ("beta", "alpha"))
    message = target.rewrap(
        source.rewrap(Recipe(("beta",), plaintext=b"fresh").build(), to=target).message, to=target
    ).message
    data_key = unwrapped_by_hand(message, {"tenant": "42"})
    vector = MessageVector(
        "", None, None, "", message, data_key, {"tenant": "42"}, b"orders/17", b"", ("alpha",)
    )
    assert read(vector) == b"fresh"
