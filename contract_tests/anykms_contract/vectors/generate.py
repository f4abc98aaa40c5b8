"""Make the vectors again: ``python -m anykms_contract.vectors.generate FOLDER``.

A second writer of the format, from the format page and pyca alone: it imports nothing of anykms, so that it does
not share its mistakes. Salts are drawn by pyca, so each run gives other bytes of the same meaning.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import cast

import msgspec
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

MAGIC = bytes.fromhex("8a414b4d530d0a01")
STORE = "local://anykmsvectorsanykmsvectors"
CHUNK = 16384 + 16
_pack = msgspec.msgpack.encode


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


KEKS = {
    name: hashlib.sha256(b"anykms vector key " + name.encode()).digest()
    for name in ("alpha", "beta", "gamma")
}
RSA = ("rho", "sigma")
SENDER = ec.derive_private_key(
    int.from_bytes(hashlib.sha256(b"anykms vector sender").digest()), ec.SECP256R1()
)


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """The RSA key that keys.json publishes, or a new one where there is no such file yet."""
    published = Path(__file__).with_name("keys.json")
    if not published.exists():
        return rsa.generate_private_key(65537, 2048)
    pem = json.loads(published.read_text("utf-8"))[name]["rsa"]
    return cast("rsa.RSAPrivateKey", load_pem_private_key(pem.encode(), None))


def published_keys() -> dict[str, dict[str, str]]:
    """keys.json: alpha, beta and gamma are symmetric; rho is RSA with a sender key, sigma RSA alone."""
    found: dict[str, dict[str, str]] = {
        name: {"uri": f"{STORE}/{name}", "kek": kek.hex()} for name, kek in KEKS.items()
    }
    for name in RSA:
        found[name] = {"uri": f"{STORE}/{name}", "rsa": _pem(rsa_key(name))}
    found["rho"]["sender"] = _pem(SENDER)
    return found


def _expand(key: bytes, label: bytes, info: bytes) -> bytes:
    return HKDFExpand(SHA512(), 32, label + info).derive(key)


def _context_bytes(context: Mapping[str, str]) -> bytes:
    out = b"anykms/v1 ctx"
    for name, value in sorted((n.encode(), v.encode()) for n, v in context.items()):
        out += len(name).to_bytes(4) + name + len(value).to_bytes(4) + value
    return out


def _cobblestone(key: bytes, context: bytes, plaintext: bytes) -> bytes:
    encryptor = Cobblestone256Encryptor(key, context)
    return encryptor.update(plaintext) + encryptor.finalize()


@dataclass
class Recipe:
    """Everything that goes into a message; a fault replaces one thing."""

    recipients: Sequence[str] = ("alpha",)
    context: Mapping[str, str] = field(default_factory=lambda: {"tenant": "42"})
    required: Sequence[str] = ()
    aad: bytes = b"orders/17"
    plaintext: bytes = b"4111 1111 1111 1111"
    data_key: bytes = field(default_factory=lambda: os.urandom(32))
    record_id: bytes = field(default_factory=lambda: os.urandom(16))
    suite: object = 1
    created: object = 1_767_225_600
    generation: object = 0
    origin: int = 0
    form: int = 0
    # Faults: each changes one thing on its way into the message.
    immutable: Callable[[list[object]], object] = lambda whole: whole
    entries: Callable[[list[list[object]]], object] = lambda rows: rows
    header: Callable[[list[object]], object] = lambda whole: whole
    encoded: Callable[[bytes], bytes] = lambda raw: raw
    wrapped_key: Callable[[str, bytes], bytes] = lambda _, key: key
    sender_input: Callable[[bytes], bytes] = lambda digest: digest
    tag: Callable[[bytes], bytes] = lambda tag: tag
    body: Callable[[bytes], bytes] = lambda body: body
    message: Callable[[bytes], bytes] = lambda message: message

    def build(self) -> bytes:
        stored = sorted(
            ([n, v] for n, v in self.context.items() if n not in self.required), key=lambda p: p[0].encode()
        )
        immutable = self.immutable([self.suite, self.record_id, stored, sorted(self.required), self.created])
        packed = _pack(immutable)
        digest = hashlib.sha512(
            b"anykms/v1 header" + len(packed).to_bytes(4) + packed + _context_bytes(self.context)
        ).digest()
        rows = self.entries([self.recipient(name, digest) for name in self.recipients])
        raw = self.encoded(_pack(self.header([immutable, rows, self.generation])))
        prefix = MAGIC + len(raw).to_bytes(4) + raw
        tag = hmac.digest(_expand(self.data_key, b"anykms/v1 header-tag", digest), prefix, "sha256")
        body = _cobblestone(
            _expand(self.data_key, b"anykms/v1 payload", digest),
            digest + bytes([self.form]) + self.aad,
            self.plaintext,
        )
        return self.message(prefix + self.tag(tag) + self.body(body))

    def recipient(self, name: str, digest: bytes) -> list[object]:
        bind = hashlib.sha256(b"anykms/v1 bind" + bytes([self.origin]) + digest).digest()
        key = self.wrapped_key(name, self.data_key)
        if name in KEKS:
            wrapped = _cobblestone(KEKS[name], b"anykms/v1 local-wrap" + bind, key)
            return [f"{STORE}/{name}/1", "A256GCM", wrapped, self.origin, b"", b""]
        intermediate = os.urandom(32)
        oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
        wrapped = rsa_key(name).public_key().encrypt(intermediate, oaep)
        sealed = AESGCM(_expand(intermediate, b"anykms/v1 ik", bind)).encrypt(bytes(12), key, bind)
        if name == "sigma":
            return [f"{STORE}/{name}/1", "RSA-OAEP-256+A256GCM", wrapped, self.origin, sealed, b""]
        to_sign = hashlib.sha256(
            b"anykms/v1 sender" + bind + len(wrapped).to_bytes(4) + wrapped + sealed
        ).digest()
        der = SENDER.sign(self.sender_input(to_sign), ec.ECDSA(utils.Prehashed(SHA256())))
        r, s = utils.decode_dss_signature(der)
        signature = r.to_bytes(32) + s.to_bytes(32)
        return [f"{STORE}/{name}/1", "RSA-OAEP-256+A256GCM+ES256", wrapped, self.origin, sealed, signature]


@dataclass
class _Reader:
    ring: Sequence[str] = ("alpha",)
    context: Mapping[str, str] | None = None
    aad: bytes | None = None


def _row(
    name: str,
    recipe: Recipe,
    why: str,
    fails_at: str | None = None,
    error: str | None = None,
    reader: _Reader | None = None,
) -> dict[str, object]:
    reader = reader or _Reader(recipe.recipients)
    return {
        "name": name,
        "fails_at": fails_at,
        "error": error,
        "why": why,
        "message": recipe.build().hex(),
        "data_key": recipe.data_key.hex(),
        "context": dict(recipe.context if reader.context is None else reader.context),
        "aad": (recipe.aad if reader.aad is None else reader.aad).hex(),
        "plaintext": "" if error else recipe.plaintext.hex(),
        "ring": list(reader.ring),
    }


def _flip(position: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        out = bytearray(data)
        out[position] ^= 1
        return bytes(out)

    return change


def _set(index: int, value: object) -> Callable[[list[object]], object]:
    return lambda whole: [*whole[:index], value, *whole[index + 1 :]]


def _in_first(index: int, value: object) -> Callable[[list[list[object]]], object]:
    return lambda rows: [[*rows[0][:index], value, *rows[0][index + 1 :]], *rows[1:]]


def _edit_first(index: int, change: Callable[[bytes], bytes]) -> Callable[[list[list[object]]], object]:
    return lambda rows: _in_first(index, change(cast("bytes", rows[0][index])))(rows)


def good() -> list[dict[str, object]]:
    """Messages that open."""
    pairs = {f"name-{index:02}": f"value {index}" for index in range(32)}
    return [
        _row("one recipient", Recipe(), "the plain case"),
        _row("empty plaintext", Recipe(plaintext=b""), "the body is one empty last chunk"),
        _row("no context, no aad", Recipe(context={}, aad=b""), "the context's bytes are the label alone"),
        _row("one byte short of a chunk", Recipe(plaintext=b"c" * 16383), "one last chunk"),
        _row("exactly one chunk", Recipe(plaintext=b"c" * 16384), "a full chunk and an empty last one"),
        _row("three chunks", Recipe(plaintext=bytes(range(256)) * 160), "two full chunks and a short one"),
        _row(
            "three recipients, read by the last",
            Recipe(("alpha", "beta", "gamma")),
            "any recipient opens it",
            reader=_Reader(("gamma",)),
        ),
        _row(
            "required context",
            Recipe(context={"tenant": "42", "region": "eu"}, required=["region"]),
            "the reader brings region",
        ),
        _row(
            "all context required", Recipe(context={"tenant": "42"}, required=["tenant"]), "nothing is stored"
        ),
        _row("most context", Recipe(context=pairs), "32 pairs"),
        _row(
            "context beyond ASCII",
            Recipe(context={"ключ": "значение", "é": "e\u0301", "😀": "z"}),
            "sorted by UTF-8 bytes, not normalised",
        ),
        _row("high generation", Recipe(generation=2**32 - 1), "the last generation there is"),
        _row("date of 2^40", Recipe(created=2**40), "the last date there is"),
        _row("largest aad", Recipe(aad=b"a" * 65536), "64 KiB of aad"),
        _row("RSA with a sender key", Recipe(("rho",)), "intermediate key and sender signature"),
        _row(
            "RSA beside a symmetric key",
            Recipe(("rho", "beta")),
            "read through the RSA key",
            reader=_Reader(("rho",)),
        ),
        _row(
            "an RSA recipient without a sender, not used",
            Recipe(("sigma", "alpha")),
            "read through the symmetric key",
            reader=_Reader(("sigma", "alpha")),
        ),
    ]


def malformed() -> list[dict[str, object]]:
    """Messages that the parser refuses; the tag of each is right."""

    def row(name: str, recipe: Recipe, why: str, error: str = "InvalidCiphertextError") -> dict[str, object]:
        return _row(name, recipe, why, "parse", error)

    start = len(MAGIC) + 4

    def header_length(value: int) -> Callable[[bytes], bytes]:
        return lambda message: message[: len(MAGIC)] + value.to_bytes(4) + message[start:]

    many = [f"{STORE}/key{index:02}/1" for index in range(33)]
    return [
        row("empty", Recipe(message=lambda _: b""), "no bytes at all"),
        row("first byte", Recipe(message=_flip(0)), "the high bit guard is damaged"),
        row(
            "line ends converted",
            Recipe(message=lambda m: m.replace(b"\r\n", b"\n", 1)),
            "CRLF of the magic became LF",
        ),
        row(
            "version 2",
            Recipe(message=lambda m: m[:7] + b"\x02" + m[8:]),
            "a later format",
            "UnsupportedVersionError",
        ),
        row("header length 0", Recipe(message=header_length(0)), "a header has 1 to 65536 bytes"),
        row("header length 65537", Recipe(message=header_length(65537)), "a header has 1 to 65536 bytes"),
        row("header longer than the message", Recipe(message=header_length(60000)), "the input ends first"),
        row("cut in the header", Recipe(message=lambda m: m[: start + 20]), "the input ends in the header"),
        row(
            "cut in the tag",
            Recipe(message=lambda m: m[: start + int.from_bytes(m[8:12]) + 31], body=lambda _: b""),
            "the input ends in the tag",
        ),
        row("header is a map", Recipe(header=lambda h: dict(zip("IRG", h, strict=True))), "arrays only"),
        row("bytes after the header's array", Recipe(encoded=lambda raw: raw + b"\xc0"), "one value only"),
        row("fourth element", Recipe(header=lambda h: [*h, 0]), "three elements"),
        row("no generation", Recipe(header=lambda h: h[:2]), "three elements"),
        row("suite 2", Recipe(suite=2), "suite 1 is the only one"),
        row("suite true", Recipe(suite=True), "no booleans"),
        row("suite 1.0", Recipe(suite=1.0), "no floats"),
        row("suite nil", Recipe(suite=None), "no nil"),
        row(
            "suite as a long integer",
            Recipe(encoded=lambda raw: raw[:2] + b"\xcc\x01" + raw[3:]),
            "shortest forms only",
        ),
        row("record id of 15 bytes", Recipe(record_id=bytes(15)), "16 bytes"),
        row("record id as text", Recipe(immutable=_set(1, "0123456789abcdef")), "bin, not str"),
        row(
            "context out of order",
            Recipe(context={"a": "1", "b": "2"}, immutable=_set(2, [["b", "2"], ["a", "1"]])),
            "sorted by name",
        ),
        row(
            "context name twice",
            Recipe(immutable=_set(2, [["tenant", "42"], ["tenant", "42"]])),
            "distinct names",
        ),
        row("context value of nil", Recipe(immutable=_set(2, [["tenant", None]])), "text only"),
        row("context name empty", Recipe(context={}, immutable=_set(2, [["", "x"]])), "no empty names"),
        row(
            "33 pairs of context",
            Recipe(immutable=_set(2, [[f"n{i:02}", "v"] for i in range(33)])),
            "at most 32",
        ),
        row(
            "required out of order",
            Recipe(context={"a": "1", "b": "2"}, required=["a", "b"], immutable=_set(3, ["b", "a"])),
            "sorted",
        ),
        row(
            "required name twice",
            Recipe(context={"a": "1"}, required=["a"], immutable=_set(3, ["a", "a"])),
            "distinct",
        ),
        row("required and stored", Recipe(immutable=_set(3, ["tenant"])), "disjoint"),
        row("date beyond 2^40", Recipe(created=2**40 + 1), "0 to 2^40"),
        row("date negative", Recipe(created=-1), "unsigned"),
        row("no recipients", Recipe(entries=lambda _: []), "at least one"),
        row(
            "33 recipients",
            Recipe(entries=lambda rows: [[uri, *rows[0][1:]] for uri in many]),
            "at most 32 are read",
        ),
        row(
            "one key twice",
            Recipe(entries=lambda rows: [rows[0], [f"{STORE}/alpha/2", *rows[0][1:]]]),
            "distinct without the version",
        ),
        row("URI not canonical", Recipe(entries=_in_first(0, f"{STORE}/x/../alpha/1")), "one spelling only"),
        row(
            "URI with userinfo", Recipe(entries=_in_first(0, "local://user@host/alpha")), "one spelling only"
        ),
        row(
            "URI of a connection",
            Recipe(entries=_in_first(0, "awskms:///?endpoint_url=http://attacker")),
            "a key URI only",
        ),
        row("URI of 1025 bytes", Recipe(entries=_in_first(0, "acmekms://eu/" + "x" * 1012)), "at most 1024"),
        row(
            "URI not UTF-8",
            Recipe(encoded=lambda raw: raw.replace(b"/alpha/1", b"/\xff\xfeph/1", 1)),
            "UTF-8 only",
        ),
        row("unknown algorithm", Recipe(entries=_in_first(1, "A128GCM")), "three are known"),
        row(
            "algorithm of another shape",
            Recipe(entries=_in_first(1, "RSA-OAEP-256+A256GCM")),
            "an RSA wrap has 256, 384 or 512 bytes and a data_key",
        ),
        row("wrapped key empty", Recipe(entries=_in_first(2, b"")), "1 to 4096 bytes"),
        row("wrapped key of 4097 bytes", Recipe(entries=_in_first(2, bytes(4097))), "1 to 4096 bytes"),
        row("origin 2", Recipe(entries=_in_first(3, 2)), "0 or 1"),
        row("data_key with A256GCM", Recipe(entries=_in_first(4, bytes(48))), "empty there"),
        row("sender with A256GCM", Recipe(entries=_in_first(5, bytes(64))), "empty there"),
        row("RSA without data_key", Recipe(("rho",), entries=_in_first(4, b"")), "48 bytes there"),
        row(
            "RSA wrap of 255 bytes",
            Recipe(("rho",), entries=_in_first(2, bytes(255))),
            "a modulus of 2048, 3072 or 4096 bits",
        ),
        row("RSA sender of 63 bytes", Recipe(("rho",), entries=_in_first(5, bytes(63))), "64 bytes there"),
        row("recipient of five fields", Recipe(entries=lambda rows: [rows[0][:5]]), "six fields"),
        row("generation 2^32", Recipe(generation=2**32), "0 to 2^32-1"),
        row("extension type", Recipe(generation=msgspec.msgpack.Ext(1, b"x")), "no extensions"),
        row("nested to the limit", Recipe(encoded=lambda _: b"\x91" * 60000), "no recursion"),
    ]


def refused() -> list[dict[str, object]]:
    """Well-formed messages that are refused before any key is used."""

    def row(name: str, recipe: Recipe, why: str, step: str, error: str, reader: _Reader) -> dict[str, object]:
        return _row(name, recipe, why, step, error, reader)

    two = {"tenant": "42", "region": "eu"}
    mismatch = ("context", "ContextMismatchError")
    return [
        row(
            "another key",
            Recipe(("beta",)),
            "the ring does not hold beta",
            "match",
            "KeyNotAllowedError",
            _Reader(("alpha",)),
        ),
        row(
            "a key of the same name elsewhere",
            Recipe(entries=_in_first(0, "local://bbbbbbbbbbbbbbbbbbbbbbbbbb/alpha/1")),
            "another keystore",
            "match",
            "KeyNotAllowedError",
            _Reader(),
        ),
        row("another tenant", Recipe(), "the reader says 43", *mismatch, _Reader(context={"tenant": "43"})),
        row("context left out", Recipe(), "the reader says nothing", *mismatch, _Reader(context={})),
        row("context added", Recipe(), "the reader says more", *mismatch, _Reader(context=two)),
        row(
            "context where there is none",
            Recipe(context={}),
            "the message has none",
            *mismatch,
            _Reader(context={"tenant": "42"}),
        ),
        row(
            "required value not brought",
            Recipe(context=two, required=["region"]),
            "region is missing",
            *mismatch,
            _Reader(context={"tenant": "42"}),
        ),
        row(
            "RSA alone",
            Recipe(("sigma",)),
            "anyone with the public key could have made it",
            "sender",
            "PolicyError",
            _Reader(("sigma",)),
        ),
        row(
            "origin 1",
            Recipe(origin=1),
            "the data key came through an unauthenticated recipient",
            "sender",
            "PolicyError",
            _Reader(),
        ),
        row(
            "origin 1 with a sender key",
            Recipe(("rho",), origin=1),
            "laundering does not help",
            "sender",
            "PolicyError",
            _Reader(("rho",)),
        ),
    ]


def forged() -> list[dict[str, object]]:
    """Messages on which cryptography fails."""

    def row(
        name: str, recipe: Recipe, why: str, step: str, reader: _Reader | None = None
    ) -> dict[str, object]:
        return _row(name, recipe, why, step, "InvalidCiphertextError", reader)

    other = Recipe()
    elsewhere = Recipe(context={"tenant": "43"})

    def transplanted(source: Recipe) -> Callable[[list[list[object]]], object]:
        packed = source.build()
        header = msgspec.msgpack.decode(packed[12 : 12 + int.from_bytes(packed[8:12])])
        return lambda _: header[1]

    long = b"c" * 17000
    longer = b"c" * 33000
    pair = ("alpha", "beta")
    head = 24 + 32
    return [
        row(
            "required value wrong",
            Recipe(context={"tenant": "42", "region": "eu"}, required=["region"]),
            "the reader says us",
            "unwrap",
            _Reader(context={"tenant": "42", "region": "us"}),
        ),
        row(
            "wrapped key damaged",
            Recipe(entries=_edit_first(2, _flip(60))),
            "one bit of the wrap",
            "unwrap",
        ),
        row(
            "wrapped key cut",
            Recipe(entries=_edit_first(2, lambda wrapped: wrapped[:-1])),
            "103 bytes",
            "unwrap",
        ),
        row(
            "version that the key lacks",
            Recipe(entries=lambda r: [[f"{STORE}/alpha/7", *r[0][1:]]]),
            "the fixed keys have version 1 only",
            "unwrap",
        ),
        row(
            "wrap of another message",
            Recipe(data_key=other.data_key, entries=transplanted(other)),
            "the same data key under a new record id",
            "unwrap",
        ),
        row(
            "wrap of another context",
            Recipe(data_key=elsewhere.data_key, entries=transplanted(elsewhere)),
            "the same data key under tenant 42",
            "unwrap",
        ),
        row(
            "origin flipped to 0",
            Recipe(origin=1, entries=lambda r: [[*r[0][:3], 0, *r[0][4:]]]),
            "origin is in the wrap",
            "unwrap",
        ),
        row(
            "sender signature of something else",
            Recipe(("rho",), sender_input=_flip(0)),
            "one bit of what was signed",
            "sender",
        ),
        row(
            "sender signature out of range",
            Recipe(("rho",), entries=_in_first(5, bytes(64))),
            "r and s are 0",
            "sender",
        ),
        row(
            "RSA wrap damaged",
            Recipe(("rho",), entries=_edit_first(2, _flip(0))),
            "the signature covers it",
            "sender",
        ),
        row(
            "RSA data_key damaged",
            Recipe(("rho",), entries=_edit_first(4, _flip(0))),
            "the signature covers it",
            "sender",
        ),
        row(
            "data key of 31 bytes",
            Recipe(wrapped_key=lambda _, key: key[:31]),
            "32 bytes exactly",
            "data key length",
        ),
        row(
            "data key of 33 bytes",
            Recipe(wrapped_key=lambda _, key: key + b"\0"),
            "HMAC pads with zeros, so this one would pass",
            "data key length",
        ),
        row(
            "two data keys",
            Recipe(
                ("alpha", "beta"), wrapped_key=lambda name, key: key if name == "alpha" else _flip(0)(key)
            ),
            "beta would read other plaintext",
            "header tag",
            _Reader(("beta",)),
        ),
        row("tag damaged", Recipe(tag=_flip(31)), "one bit", "header tag"),
        row(
            "recipient dropped",
            Recipe(pair, message=_rewritten(lambda r: r[:1])),
            "the tag covers the list",
            "header tag",
        ),
        row(
            "recipients reordered",
            Recipe(pair, message=_rewritten(lambda r: r[::-1])),
            "the tag covers the list",
            "header tag",
        ),
        row(
            "recipient added",
            Recipe(
                pair,
                message=_rewritten(
                    lambda r: [*r, *cast("list[list[object]]", _in_first(0, f"{STORE}/gamma/1")(r[:1]))]
                ),
            ),
            "the tag covers the list",
            "header tag",
        ),
        row(
            "generation raised",
            Recipe(message=_rewritten(lambda r: r, generation=7)),
            "the tag covers it",
            "header tag",
        ),
        row("salt damaged", Recipe(body=_flip(0)), "the commitment fails", "commitment"),
        row("commitment damaged", Recipe(body=_flip(24)), "one bit", "commitment"),
        row("another aad", Recipe(), "the reader says orders/18", "commitment", _Reader(aad=b"orders/18")),
        row("aad left out", Recipe(), "the reader says nothing", "commitment", _Reader(aad=b"")),
        row("body of a detached value", Recipe(form=1), "form 1", "commitment"),
        row(
            "body of another message",
            Recipe(body=lambda _: Recipe().build()[-(head + 35) :]),
            "another record",
            "commitment",
        ),
        row("no body", Recipe(body=lambda _: b""), "a record, not a message", "commitment"),
        row("body of 71 bytes", Recipe(body=lambda b: b[:71]), "shorter than any body", "commitment"),
        row("first chunk damaged", Recipe(plaintext=long, body=_flip(head)), "one bit", "chunks"),
        row("last chunk damaged", Recipe(plaintext=long, body=_flip(-1)), "one bit", "chunks"),
        row(
            "cut between chunks",
            Recipe(plaintext=long, body=lambda b: b[: head + CHUNK]),
            "the last chunk is missing",
            "chunks",
        ),
        row(
            "cut in a chunk", Recipe(plaintext=long, body=lambda b: b[:-1]), "the last tag is short", "chunks"
        ),
        row(
            "chunks swapped",
            Recipe(
                plaintext=longer,
                body=lambda b: (
                    b[:head]
                    + b[head + CHUNK : head + 2 * CHUNK]
                    + b[head : head + CHUNK]
                    + b[head + 2 * CHUNK :]
                ),
            ),
            "order is in the nonce",
            "chunks",
        ),
        row(
            "chunk repeated",
            Recipe(plaintext=long, body=lambda b: b[: head + CHUNK] + b[head:]),
            "order is in the nonce",
            "chunks",
        ),
        row(
            "a byte after the end", Recipe(body=lambda b: b + b"\0"), "the body ends with the input", "chunks"
        ),
    ]


def _rewritten(
    change: Callable[[list[list[object]]], object], generation: int | None = None
) -> Callable[[bytes], bytes]:
    """Change recipients or generation and leave the tag as it was."""

    def rewrite(message: bytes) -> bytes:
        end = 12 + int.from_bytes(message[8:12])
        immutable, rows, g = msgspec.msgpack.decode(message[12:end])
        raw = _pack([immutable, change(rows), g if generation is None else generation])
        return MAGIC + len(raw).to_bytes(4) + raw + message[end:]

    return rewrite


def values() -> list[dict[str, object]]:
    """Detached values: a record, and one value that is sealed under it or is not."""

    def row(
        name: str,
        recipe: Recipe,
        why: str,
        fails_at: str | None = None,
        *,
        value: Callable[[bytes], bytes] = lambda value: value,
        aad: bytes | None = None,
        form: int = 1,
    ) -> dict[str, object]:
        message = replace(recipe, form=form).build()
        start = len(MAGIC) + 4 + int.from_bytes(message[8:12]) + 32
        sealed = value(b"\x01" + recipe.record_id + message[start:])
        found = _row(
            name, recipe, why, fails_at, "InvalidCiphertextError" if fails_at else None, _Reader(aad=aad)
        )
        found["record"] = message[:start].hex()
        found["value"] = sealed.hex()
        del found["message"]
        return found

    short = Recipe()
    return [
        row("a value", short, "the plain case"),
        row("empty plaintext and aad", Recipe(plaintext=b"", aad=b""), "89 bytes"),
        row("two chunks", Recipe(plaintext=b"c" * 16385), "a value may be of any size"),
        row("required context", Recipe(context={"a": "1", "b": "2"}, required=["b"]), "the reader brings b"),
        row("first byte 0", short, "1 is the only one", "value", value=lambda v: b"\0" + v[1:]),
        row("first byte 2", short, "1 is the only one", "value", value=lambda v: b"\2" + v[1:]),
        row("unknown record id", short, "one bit", "value", value=_flip(1)),
        row("last byte of the record id", short, "one bit", "value", value=_flip(16)),
        row("no body", short, "the id and no more", "value", value=lambda v: v[:17]),
        row("88 bytes", Recipe(plaintext=b""), "shorter than any value", "value", value=lambda v: v[:88]),
        row("another row's aad", short, "the reader says orders/18", "commitment", aad=b"orders/18"),
        row("body of a message", short, "form 0", "commitment", form=0),
        row(
            "body of another record",
            short,
            "under this record's id",
            "commitment",
            value=lambda v: v[:17] + Recipe(form=1).build()[-len(v[17:]) :],
        ),
        row("commitment damaged", short, "one bit", "commitment", value=_flip(17 + 24)),
        row("chunk damaged", short, "one bit", "chunks", value=_flip(17 + 56)),
        row("cut", short, "the last byte is missing", "chunks", value=lambda v: v[:-1]),
    ]


def rewraps() -> list[dict[str, object]]:
    """Messages after a rewrap, beside what they were before: ``body`` is in both, byte for byte."""

    def row(
        name: str,
        before: Recipe,
        after: Recipe,
        why: str,
        fails_at: str | None = None,
        error: str | None = None,
    ) -> dict[str, object]:
        old = before.build()
        start = len(MAGIC) + 4 + int.from_bytes(old[8:12]) + 32

        def same_body(_: bytes) -> bytes:
            return old[start:]

        new = replace(
            after,
            data_key=before.data_key,
            record_id=before.record_id,
            plaintext=before.plaintext,
            body=same_body,
        )
        return {**_row(name, new, why, fails_at, error), "before": old.hex()}

    def reset(rows: list[list[object]]) -> object:
        return [[*rows[0][:3], 0, *rows[0][4:]]]

    return [
        row("another recipient", Recipe(), Recipe(("beta",), generation=1), "the plain case"),
        row("the same key again", Recipe(), Recipe(generation=1), "a later version of it, say"),
        row(
            "more recipients",
            Recipe(generation=7),
            Recipe(("gamma", "rho", "beta"), generation=8),
            "origin 0: alpha proves the sender",
        ),
        row("the last generation", Recipe(generation=2**32 - 2), Recipe(generation=2**32 - 1), "and no more"),
        row("from RSA with a sender key", Recipe(("rho",)), Recipe(generation=1), "origin 0"),
        row(
            "laundered",
            Recipe(("sigma",)),
            Recipe(origin=1, generation=1),
            "sigma proves no sender, so origin is 1",
            "sender",
            "PolicyError",
        ),
        row(
            "laundered, origin set back",
            Recipe(("sigma",)),
            Recipe(origin=1, generation=1, entries=reset),
            "the forger knows the data key, but origin is in the wrap",
            "unwrap",
            "InvalidCiphertextError",
        ),
    ]


def main(folder: Path) -> None:
    """Write keys.json, messages.json, values.json and rewraps.json into ``folder``."""
    tables = {
        "messages.json": [*good(), *malformed(), *refused(), *forged()],
        "values.json": values(),
        "rewraps.json": rewraps(),
    }
    for name, rows in tables.items():
        if len({row["name"] for row in rows}) != len(rows):
            raise ValueError(f"two vectors of {name} have one name")
    for name, data in {"keys.json": published_keys(), **tables}.items():
        folder.joinpath(name).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sys.stdout.write(f"{sum(map(len, tables.values()))} vectors\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
