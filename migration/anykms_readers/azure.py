"""What applications make with an RSA key of Azure: a content key wrapped by RSA-OAEP, and a payload under AES-GCM.

Azure prescribes no layout, so the caller says in a recipe where the parts lie and which algorithms were used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anykms.envelope.stream import Source
from anykms.errors import IntegrityError, InvalidArgumentError, KMSError
from anykms.keys import ConnectionURI, KeyURI
from anykms.retrying import RetryPolicy
from anykms_azure import facts
from anykms_azure.connection import DEFAULT_TIMEOUT, Connection, connect
from anykms_readers.entries import (
    MAX_BYTES,
    Options,
    decoded,
    one_line,
    one_text,
    plaintext,
    rejected,
    whole,
)

_CONTENT_KEY: Final = {"A128GCM": 16, "A192GCM": 24, "A256GCM": 32}
_WRAPPED_SIZES: Final = (256, 384, 512)
_TAG_SIZE: Final = 16
_IV_SIZES: Final = range(12, 17)
_MAX_RECIPE: Final = 64 * 1024
_PARTS: Final = ("wrapped", "iv", "ciphertext", "tag")
_PART: Final = re.compile(r"(skip|wrapped|iv|ciphertext|tag|kid):(\*|u16|u32|[1-9][0-9]{0,5})")
_KID: Final = "kid"
_MAX_KID: Final = 1024
_JWE: Final = re.compile(rb"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){0,4}")


class Parts(NamedTuple):
    """An entry taken apart. ``tag`` is empty where the ciphertext ends with it; ``kid`` is what the entry claims."""

    wrapped: bytes
    iv: bytes
    ciphertext: bytes
    tag: bytes = b""
    kid: str = ""
    aad: bytes | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an application laid out what it encrypted. The caller's word, never the entry's.

    Attributes:
        layout: ``json``, ``binary`` or ``jwe`` (compact serialisation, RFC 7516 section 7.1).
        key_encryption: how Azure wrapped the content key: ``RSA-OAEP`` (SHA-1) or ``RSA-OAEP-256``.
        content_encryption: AES-GCM and the size of its key. CBC has no authentication, and is not read.
        encoding: of the values of ``json``: ``base64``, ``base64url`` or ``hex``.
        fields: of ``json``: for wrapped, iv, ciphertext and, unless the ciphertext ends with it, tag, the name of
            the member that holds it, with dots for members of members; kid too, where there is one.
        parts: of ``binary``: in order, ``wrapped:256``, ``iv:12``, ``ciphertext:*`` (the rest, once), ``tag:16``,
            ``skip:4``; instead of a number of bytes, ``u16`` or ``u32``: that many bits of big-endian length lie
            before the part.

    Raises:
        ValueError: parts or fields that are missing, unknown or given twice.
    """

    layout: Literal["json", "binary", "jwe"]
    key_encryption: Literal["RSA-OAEP", "RSA-OAEP-256"]
    content_encryption: Literal["A128GCM", "A192GCM", "A256GCM"]
    encoding: Literal["base64", "base64url", "hex"] = "base64"
    fields: dict[str, str] = {}  # msgspec copies it for each
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        matched = [_PART.fullmatch(part) for part in self.parts]
        named = [found[1] for found in matched if found and found[1] != "skip"]
        if None in matched or len(set(named)) != len(named):
            raise ValueError("parts are NAME:SIZE, each name once")
        if sum(part.endswith(":*") for part in self.parts) > 1 or "skip:*" in self.parts:
            raise ValueError("one part may be the rest, and not one to skip")
        behind = "".join(self.parts).partition(":*")[2]
        if ":u" in behind:
            raise ValueError("what lies behind the rest has a fixed size")
        given = set(named if self.layout == "binary" else self.fields)
        if self.layout != "jwe" and (
            not set(_PARTS[:3]) <= given or not given <= {*_PARTS, _KID} or not all(self.fields.values())
        ):
            raise ValueError("wrapped, iv and ciphertext must be said, tag and kid may be")
        if (self.layout != "binary" and self.parts) or (self.layout != "json" and self.fields):
            raise ValueError("fields belong to json, and parts to binary")

    @property
    def names_a_key(self) -> bool:
        """Whether entries may say which key they are of."""
        return (
            self.layout == "jwe" or _KID in self.fields or any(part.startswith("kid:") for part in self.parts)
        )

    def take(self, data: bytes) -> Parts:
        """Take an entry apart.

        Raises:
            InvalidCiphertextError: it is not laid out so.
        """
        take = {"json": self._json, "binary": self._binary, "jwe": self._jwe}[self.layout]
        parts = take(data)
        if len(parts.wrapped) not in _WRAPPED_SIZES or len(parts.iv) not in _IV_SIZES:
            raise rejected()
        if parts.tag and len(parts.tag) != _TAG_SIZE:
            raise rejected()
        return parts

    def _json(self, data: bytes) -> Parts:
        document = _object(data)
        found = {name: _member(document, path) for name, path in self.fields.items()}
        kid = found.pop(_KID, "")
        sealed = {name: decoded(value.encode(), self.encoding) for name, value in found.items()}
        return Parts(**sealed, kid=kid)

    def _binary(self, data: bytes) -> Parts:
        found: dict[str, bytes] = {}
        at, sizes = 0, [part.partition(":")[::2] for part in self.parts]
        rest = next((number for number, (_, size) in enumerate(sizes) if size == "*"), len(sizes))
        end = len(data) - sum(int(size) for _, size in sizes[rest + 1 :])
        for name, size in sizes:
            if size == "*":
                length = end - at
            elif size in ("u16", "u32"):
                width = int(size[1:]) // 8
                length = int.from_bytes(data[at : at + width], "big")
                at += width
            else:
                length = int(size)
            if length < 0 or at + length > len(data):
                raise rejected()
            found[name] = data[at : at + length]
            at += length
        if at != len(data):
            raise rejected()
        found.pop("skip", None)
        try:
            kid = found.pop(_KID, b"").decode()
        except UnicodeDecodeError:
            raise rejected() from None
        return Parts(**found, kid=kid)

    def _jwe(self, data: bytes) -> Parts:
        pieces = one_line(data).split(b".")
        if len(pieces) != 5:
            raise rejected()
        header = _object(decoded(pieces[0], "base64url"))
        # Compared, not followed; what would change the meaning (zip, crit) is refused with all that is unknown.
        if not set(header) <= {"alg", "enc", "kid", "typ", "cty"}:
            raise rejected()
        if (header.get("alg"), header.get("enc")) != (self.key_encryption, self.content_encryption):
            raise rejected()
        kid = header.get(_KID, "")
        if not isinstance(kid, str):
            raise rejected()
        wrapped, iv, ciphertext, tag = (decoded(piece, "base64url") for piece in pieces[1:])
        if len(tag) != _TAG_SIZE:
            raise rejected()
        return Parts(wrapped, iv, ciphertext, tag, kid, aad=pieces[0])


class AzureRSAReader:
    """Payloads whose content key an RSA key of a vault or managed HSM has wrapped, each whole in one entry.

    Associated data is the entry's aad; a JWE has its own header instead.

    Args:
        keys: key identifiers with their versions, ``https://VAULT/keys/NAME/VERSION``, all of one vault. An entry
            that names its key must name one of these; where the recipe has no kid there is one key.
        recipe: how entries are laid out.
        max_bytes: greatest size of an entry, which is held in memory.
        retry: when to ask again; a wrap that does not open is never asked for twice.
        sdk: further arguments of ``AzureProvider.connect``: credential, key_client, transport.

    Raises:
        InvalidArgumentError: one of these is bad.
    """

    format: ClassVar[str] = "azure-rsa-oaep"
    options: ClassVar[tuple[str, ...]] = ("keys", "recipe", "max-bytes")

    def __init__(
        self,
        keys: Sequence[str],
        recipe: Recipe,
        *,
        max_bytes: int = MAX_BYTES,
        retry: RetryPolicy | None = None,
        **sdk: Any,
    ) -> None:
        uris = [KeyURI.from_spelling(key) for key in keys]
        if not uris or any(uri.scheme != "azurekms" or uri.version is None for uri in uris):
            raise InvalidArgumentError(
                "the keys are identifiers of Azure with versions: https://VAULT/keys/NAME/VERSION"
            )
        host = uris[0].resource.partition("/")[0]
        if any(uri.resource.partition("/")[0] != host for uri in uris):
            raise InvalidArgumentError("the keys are of several vaults: give each its own reader")
        if len(uris) > 1 and not recipe.names_a_key:
            raise InvalidArgumentError("the recipe has no kid, so that there is one key only")
        self._keys = {_identifier(uri): uri for uri in uris}
        self._recipe = recipe
        self._max_bytes = max_bytes
        self._retry = retry or RetryPolicy()
        known: dict[str, Any] = {
            "credential": None,
            "key_client": None,
            "transport": None,
            "timeout": DEFAULT_TIMEOUT,
        }
        self._azure: Connection = connect(ConnectionURI.parse(f"azurekms://{host}"), **{**known, **sdk})

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """See ``ForeignReader.from_options``; ``recipe`` is a JSON file."""
        found = Options(cls.format, options, cls.options)
        keys = found.required("keys", "https://my-vault.vault.azure.net/keys/orders/0123...").split(",")
        return cls(
            keys,
            read_recipe(found.required("recipe", "recipe.json")),
            max_bytes=found.number("max-bytes", MAX_BYTES),
        )

    @property
    def distinctive(self) -> bool:
        """Whether it reads JWEs, which say their algorithms."""
        return self._recipe.layout == "jwe"

    @property
    def sender_authenticated(self) -> bool:
        """False: the public key is enough to wrap."""
        return False

    def recognises(self, start: bytes) -> bool:
        """Whether it begins like the layout: an object of JSON, a JWE of the recipe's algorithms, or anything."""
        if self._recipe.layout == "json":
            return start.lstrip(b" \t\r\n").startswith(b"{")
        if self._recipe.layout == "binary":
            return bool(start)
        return _JWE.fullmatch(one_line(start)) is not None and self._is_header(start.partition(b".")[0])

    def _is_header(self, text: bytes) -> bool:
        try:
            header = _object(decoded(text, "base64url"))
        except KMSError:
            return False
        wanted = (self._recipe.key_encryption, self._recipe.content_encryption)
        return (header.get("alg"), header.get("enc")) == wanted

    def keys(self, start: bytes) -> tuple[str, ...]:
        """The one key where there is one; else the allowed key that the entry names, if its beginning shows it."""
        if len(self._keys) == 1:
            return tuple(str(uri) for uri in self._keys.values())
        try:
            if self._recipe.layout == "jwe":
                kid = _object(decoded(start.partition(b".")[0], "base64url")).get(_KID)
            else:
                kid = self._recipe.take(start).kid
        except KMSError:
            return ()
        uri = self._keys.get(kid.lower()) if isinstance(kid, str) else None
        return () if uri is None else (str(uri),)

    def opening(
        self, source: Source, context: Mapping[str, str], aad: bytes = b""
    ) -> AbstractContextManager[Source]:
        """See ``ForeignReader.opening``."""
        parts = self._recipe.take(whole(source, self._max_bytes))
        bound = aad if parts.aad is None else parts.aad
        key = self._unwrap(self._chosen(parts.kid), parts.wrapped)
        try:
            return plaintext(AESGCM(key).decrypt(parts.iv, parts.ciphertext + parts.tag, bound))
        except (InvalidTag, ValueError) as error:
            raise rejected() from error

    def _chosen(self, kid: str) -> KeyURI:
        if not kid and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if len(kid) > _MAX_KID or (found := self._keys.get(kid.lower())) is None:
            raise rejected()
        return found

    def _unwrap(self, uri: KeyURI, wrapped: bytes) -> bytes:
        host, name, version = (*uri.without_version().resource.split("/"), uri.version or "")
        path = f"/keys/{name}/{version}/unwrapkey"
        sent = {"alg": self._recipe.key_encryption, "value": facts.encode(wrapped)}
        try:
            with one_text():
                reply = self._retry.call(lambda: self._azure.ask("POST", path, sent))
        except InvalidArgumentError as error:
            # The request is well formed, so it is the ciphertext.
            raise rejected(error) from error.__cause__
        if str(reply.get("kid")).lower() != facts.kid_of(host, name, version):
            raise IntegrityError("Key Vault used another key than the one it was told to")
        key = facts.decode(reply, "value")
        if len(key) != _CONTENT_KEY[self._recipe.content_encryption]:
            raise rejected()
        return key

    def close(self) -> None:
        """Close the connections."""
        self._azure.close()


def read_recipe(path: str) -> Recipe:
    """A recipe from its JSON file.

    Raises:
        InvalidArgumentError: it is not one; says what is wrong.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        data = file.read(_MAX_RECIPE + 1)
    try:
        return msgspec.json.decode(data, type=Recipe)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"the recipe {path!r} is not one: {str(error)[:200]}") from error


def _identifier(uri: KeyURI) -> str:
    host, name = uri.without_version().resource.split("/")
    return facts.kid_of(host, name, uri.version or "")


def _object(data: bytes) -> dict[str, object]:
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise rejected() from None
    if not isinstance(document, dict):
        raise rejected()
    return cast("dict[str, object]", document)


def _member(found: object, path: str) -> str:
    for name in path.split("."):
        found = cast("dict[str, object]", found).get(name) if isinstance(found, dict) else None
    if not isinstance(found, str):
        raise rejected()
    return found
