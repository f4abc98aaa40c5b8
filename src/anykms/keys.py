"""What a key is: its configuration, its immutable facts, its status, and the URIs that name it.

Everything here is data; nothing does I/O.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import InvalidArgumentError
from anykms.payload import BytesLike, octets

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DESTROY_WINDOW_DAYS: Final = range(7, 31)
DEFAULT_DESTROY_WINDOW: Final = 30
"""Days, where the provider lets us choose."""
ROTATION_PERIOD_DAYS: Final = range(90, 2561)
MAX_TAGS: Final = 10
MAX_URI_SIZE: Final = 1024

_NAME = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")
_TAG_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TAG_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_SENDER_SUFFIX: Final = "--sender"


class KeyState(StrEnum):
    """Every state a key can be in, on any provider."""

    PENDING_GENERATION = "PENDING_GENERATION"
    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    PENDING_IMPORT = "PENDING_IMPORT"
    PENDING_DESTRUCTION = "PENDING_DESTRUCTION"
    DESTROYED = "DESTROYED"
    FAILED = "FAILED"
    UNAVAILABLE = "UNAVAILABLE"


class ProtectionLevel(StrEnum):
    """Where the key material lives, in rising order of protection.

    >>> ProtectionLevel.HSM.at_least(ProtectionLevel.SOFTWARE)
    True
    """

    SOFTWARE = "SOFTWARE"
    HSM = "HSM"
    EXTERNAL = "EXTERNAL"

    def at_least(self, other: ProtectionLevel) -> bool:
        """Whether this level protects as much as ``other``."""
        order = list(ProtectionLevel)
        return order.index(self) >= order.index(other)


class KeyOrigin(StrEnum):
    """Who made the key material."""

    PROVIDER = "PROVIDER"
    IMPORTED = "IMPORTED"
    EXTERNAL = "EXTERNAL"
    UNKNOWN = "UNKNOWN"


def check_name(name: str) -> str:
    """``name``, once it is one that every provider accepts for a key that we create.

    2 to 63 characters: a lower-case letter, then letters, digits and single hyphens, no hyphen at the end.

    Raises:
        TypeError: not a str.
        InvalidArgumentError: another spelling.
    """
    if not isinstance(name, str):
        raise TypeError(f"a key's name is a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name) or "--" in name:
        raise InvalidArgumentError(
            f"key name {_shown(name)}: 2 to 63 characters of a-z, 0-9 and single hyphens, "
            "beginning with a letter and not ending with a hyphen"
        )
    return name


def _shown(text: str) -> str:
    """An excerpt of foreign text that is safe in a message or a terminal."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


# Canonical JSON


def canonical_json(value: object) -> bytes:
    """RFC 8785 (JCS) bytes of str, int, bool, None, mappings and sequences of them; no float occurs here."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, default=_as_dict)
    if not text.isascii():
        text = json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def _as_dict(value: object) -> dict[str, object]:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def _ordered(value: object) -> object:
    """With the names of every object in RFC 8785's order; for ASCII names it is Python's own."""
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value)
        # RFC 8785 3.2.3 sorts by UTF-16 code units.
        return {name: _ordered(pairs[name]) for name in sorted(pairs, key=lambda n: n.encode("utf-16-be"))}
    if isinstance(value, (list, tuple)):
        return [_ordered(item) for item in cast("list[object]", value)]
    return value


def _thawed(value: DataclassInstance) -> dict[str, object]:
    """The fields of a frozen value with read-only mappings as dicts, which pickle and copy can take."""
    found = {f.name: cast("object", getattr(value, f.name)) for f in fields(value)}
    return {
        name: dict(cast("Mapping[str, str]", kept)) if isinstance(kept, Mapping) else kept
        for name, kept in found.items()
    }


_T = TypeVar("_T")


def _rebuild(kind: Callable[..., _T], values: dict[str, object]) -> _T:
    return kind(**values)


def utc_seconds(moment: datetime) -> datetime:
    """``moment`` in UTC, whole seconds, as every date of the contract is.

    Raises:
        InvalidArgumentError: the datetime has no time zone.
    """
    if moment.tzinfo is None:
        raise InvalidArgumentError("a datetime without a time zone; give one in UTC")
    return moment.astimezone(UTC).replace(microsecond=0)


# Key configuration


@dataclass(frozen=True, init=False)
class KeyConf:
    """What to generate: the keyConf of the pattern.

    Args:
        name: see ``check_name``; used once, never again.
        purpose: what the key is for.
        algorithm: one algorithm; None takes the provider's default for ENCRYPT_DECRYPT, and RSA-OAEP-256 for
            ASYMMETRIC_DECRYPT. The other purposes name one.
        key_size: RSA modulus in bits; None takes 3072 (4096 for RS512 and PS512).
        protection_level: exactly this level, or None for the provider's default.
        tags: at most 10; names ``[a-z][a-z0-9_-]{0,62}`` but not ``anykms...``, values ``[a-z0-9_-]{0,63}``.
        destroy_window: whole days, 7 to 30, between scheduling a destruction and the destruction;
            None takes 30, and the vault's own on Azure.
        rotation_period: whole days, 90 to 2560, for ENCRYPT_DECRYPT; None rotates on demand only.

    Raises:
        TypeError: an argument of the wrong type.
        InvalidArgumentError: an argument outside its limits.

    >>> KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT).digest[:8]
    'dmgy5r7w'
    """

    name: str
    purpose: KeyPurpose
    algorithm: Algorithm | None
    key_size: int | None
    protection_level: ProtectionLevel | None
    tags: Mapping[str, str]
    destroy_window: int | None
    rotation_period: int | None

    def __init__(
        self,
        name: str,
        purpose: KeyPurpose | str,
        *,
        algorithm: Algorithm | str | None = None,
        key_size: int | None = None,
        protection_level: ProtectionLevel | str | None = None,
        tags: Mapping[str, str] | None = None,
        destroy_window: int | None = None,
        rotation_period: int | None = None,
    ) -> None:
        purpose = _member(KeyPurpose, purpose, "purpose")
        chosen = None if algorithm is None else Algorithm.named(_text(algorithm, "algorithm"))
        if chosen is None and purpose in (KeyPurpose.SIGN_VERIFY, KeyPurpose.MAC):
            raise InvalidArgumentError(
                f"a {purpose} key names its algorithm, for example algorithm={_EXAMPLE[purpose]!r}"
            )
        if chosen is None and purpose is KeyPurpose.ASYMMETRIC_DECRYPT:
            chosen = Algorithm.RSA_OAEP_256
        if chosen is not None and purpose not in chosen.spec.purposes:
            raise InvalidArgumentError(f"algorithm {chosen} does not serve {purpose}")
        _whole(key_size, "key_size", None)
        if key_size is not None:
            if chosen is None:
                raise InvalidArgumentError("key_size needs an algorithm beside it")
            chosen.spec.size_or_default(key_size)
        _whole(destroy_window, "destroy_window", DESTROY_WINDOW_DAYS)
        _whole(rotation_period, "rotation_period", ROTATION_PERIOD_DAYS)
        if rotation_period is not None and purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            raise InvalidArgumentError(f"a {purpose} key has one version for life; leave rotation_period out")
        level = (
            None
            if protection_level is None
            else _member(ProtectionLevel, protection_level, "protection_level")
        )
        self._set("name", check_name(name))
        self._set("purpose", purpose)
        self._set("algorithm", chosen)
        self._set("key_size", key_size)
        self._set("protection_level", level)
        self._set("tags", _frozen_tags(tags))
        self._set("destroy_window", destroy_window)
        self._set("rotation_period", rotation_period)

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), _thawed(self))

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785) of every field."""
        return canonical_json({f.name: _plain(getattr(self, f.name)) for f in fields(self)})

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: base32, lower case, unpadded, 52 characters."""
        raw = hashlib.sha256(self.to_json()).digest()
        return base64.b32encode(raw).decode().lower().rstrip("=")

    def template(self, default_algorithm: Algorithm) -> KeyTemplate:
        """This conf with every default decided that a provider needs decided.

        Raises:
            InvalidArgumentError: the algorithm has no such key size.
        """
        algorithm = self.algorithm or default_algorithm
        return KeyTemplate(
            name=self.name,
            purpose=self.purpose,
            algorithm=algorithm,
            key_size=algorithm.spec.size_or_default(self.key_size),
            protection_level=self.protection_level,
            tags=self.tags,
            destroy_window=self.destroy_window,
            rotation_period=self.rotation_period,
            conf_digest=self.digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTemplate:
    """A KeyConf as a provider gets it: algorithm and size decided, and the digest of the conf as written."""

    name: str
    purpose: KeyPurpose
    algorithm: Algorithm
    key_size: int | None
    protection_level: ProtectionLevel | None
    tags: Mapping[str, str]
    destroy_window: int | None
    rotation_period: int | None
    conf_digest: str


_EXAMPLE: Final = {KeyPurpose.SIGN_VERIFY: "ES256", KeyPurpose.MAC: "HS256"}


_E = TypeVar("_E", bound=StrEnum)


def _member(kind: type[_E], value: str, what: str) -> _E:
    try:
        return kind(_text(value, what))
    except ValueError:
        raise InvalidArgumentError(f"unknown {what} {_shown(value)}; use one of {', '.join(kind)}") from None


def _text(value: str, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is a str, not {type(value).__name__}")
    return value


def _whole(value: int | None, what: str, allowed: range | None) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} is an int, not {type(value).__name__}")
    if allowed is not None and value not in allowed:
        raise InvalidArgumentError(
            f"{what} is {value}; use whole days from {allowed[0]} to {allowed[-1]}, or None"
        )


def _frozen_tags(tags: Mapping[str, str] | None) -> Mapping[str, str]:
    if tags is None:
        return MappingProxyType({})
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags are a mapping of str to str, not {type(tags).__name__}")
    if len(tags) > MAX_TAGS:
        raise InvalidArgumentError(f"{len(tags)} tags; at most {MAX_TAGS} are allowed")
    for name, value in tags.items():
        if not _TAG_NAME.fullmatch(_text(name, "a tag's name")) or name.startswith("anykms"):
            raise InvalidArgumentError(
                f"tag name {_shown(name)}: a-z, then up to 62 of a-z, 0-9, _ and -, not beginning with anykms"
            )
        if not _TAG_VALUE.fullmatch(_text(value, "a tag's value")):
            raise InvalidArgumentError(f"value of tag {name!r}: at most 63 of a-z, 0-9, _ and -")
    return MappingProxyType(dict(sorted(tags.items())))


# Key URIs


@dataclass(frozen=True, slots=True)
class _Grammar:
    """How one scheme spells a key: the resource, then perhaps a separator and a version."""

    resource: re.Pattern[str]
    separator: str | None
    version: re.Pattern[str] | None


_LABEL: Final = r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = rf"(?:{_LABEL}\.){{0,31}}{_LABEL}"
_SCHEME: Final = re.compile(r"(?!https?$)[a-z][a-z0-9-]{0,31}")
_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]{1,127}"
_GRAMMARS: Final = {
    "local": _Grammar(re.compile(r"[a-z2-7]{26}/[a-z][a-z0-9-]{0,70}"), "/", re.compile(r"[1-9][0-9]{0,8}")),
    "awskms": _Grammar(
        re.compile(
            r"/arn:aws[a-z-]{0,16}:kms:[a-z0-9-]{1,32}:[0-9]{12}:key/"
            r"(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
        ),
        None,
        None,
    ),
    "gcpkms": _Grammar(
        re.compile(
            r"projects/(?:[a-z0-9.-]{1,63}:)?[a-z0-9-]{1,63}/locations/[a-z0-9-]{1,63}"
            r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}"
        ),
        "/cryptoKeyVersions/",
        re.compile(r"[1-9][0-9]{0,18}"),
    ),
    "azurekms": _Grammar(re.compile(_HOST + r"/[a-z0-9-]{1,127}"), "/", re.compile(r"[0-9a-f]{32}")),
}
_STRANGER: Final = _Grammar(re.compile(_HOST + "/" + _SEGMENT), "/", re.compile(_SEGMENT))


@dataclass(frozen=True, slots=True)
class KeyURI:
    """Which key: a name to compare, never an address to connect to.

    There is one spelling for each key, so ``KeyURI.parse(str(uri)) == uri``. A scheme of another
    provider is spelt ``scheme://authority/NAME[/VERSION]``.

    >>> uri = KeyURI.parse("azurekms://v.vault.azure.net/orders/0123456789abcdef0123456789abcdef")
    >>> uri.version
    '0123456789abcdef0123456789abcdef'
    >>> str(uri.without_version())
    'azurekms://v.vault.azure.net/orders'
    """

    scheme: str
    resource: str
    version: str | None = None
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", self._spell())
        grammar = _GRAMMARS.get(self.scheme, _STRANGER)
        fits = (
            _SCHEME.fullmatch(self.scheme)
            and grammar.resource.fullmatch(self.resource)
            and (self.version is None or (grammar.version and grammar.version.fullmatch(self.version)))
        )
        if not fits or len(self._text) > MAX_URI_SIZE:
            raise InvalidArgumentError(f"not a canonical key URI: {_shown(self._text)}")

    def __str__(self) -> str:
        return self._text

    # There is one spelling for each key, and a str remembers its hash.
    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, KeyURI) else NotImplemented

    def _spell(self) -> str:
        if self.version is None:
            return f"{self.scheme}://{self.resource}"
        separator = _GRAMMARS.get(self.scheme, _STRANGER).separator or "/"
        return f"{self.scheme}://{self.resource}{separator}{self.version}"

    def without_version(self) -> KeyURI:
        """The key itself, whatever version was named."""
        return self if self.version is None else _versionless(self)

    def with_version(self, version: str | None) -> KeyURI:
        """The same key at ``version``."""
        return replace(self, version=version)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that ``text`` names in its one canonical spelling.

        Raises:
            TypeError: not a str.
            InvalidArgumentError: any other spelling: userinfo, port, ``..``, percent escapes, an IDN or
                upper-case host, a connection URI.
        """
        _text(text, "a key URI")
        scheme, found, rest = text.partition("://")
        if not found or len(text) > MAX_URI_SIZE or not text.isascii():
            raise InvalidArgumentError(f"not a canonical key URI: {_shown(text)}")
        grammar = _GRAMMARS.get(scheme, _STRANGER)
        if grammar.separator and not grammar.resource.fullmatch(rest):
            resource, cut, version = rest.rpartition(grammar.separator)
            if cut:
                return cls(scheme, resource, version)
        return cls(scheme, rest)

    @classmethod
    def from_spelling(cls, text: str) -> Self:
        """The key that ``text`` names, in our spelling, Tink's, sigstore's or the cloud's own.

        >>> str(KeyURI.from_spelling("gcp-kms://projects/p/locations/eu/keyRings/r/cryptoKeys/k"))
        'gcpkms://projects/p/locations/eu/keyRings/r/cryptoKeys/k'
        >>> str(KeyURI.from_spelling("https://V.vault.azure.net/keys/Orders"))
        'azurekms://v.vault.azure.net/orders'

        Raises:
            TypeError: not a str.
            InvalidArgumentError: none of these spellings.
        """
        _text(text, "a key URI")
        if not text.isascii():  # lower() below would make ASCII of the Kelvin sign
            raise InvalidArgumentError(f"not a key URI: {_shown(text)}")
        for pattern, template in _SPELLINGS:
            if match := pattern.fullmatch(text):
                text = template.format(*match.groups(default=""))
                if text.startswith("azurekms://"):
                    text = text.lower()  # Azure compares names and hosts without case
                break
        return cls.parse(text)


@lru_cache(maxsize=4096)
def _versionless(uri: KeyURI) -> KeyURI:
    return KeyURI(uri.scheme, uri.resource)


_SPELLINGS: Final = (
    (re.compile(r"(?:aws-kms://|awskms:///)?(arn:.+)"), "awskms:///{0}"),
    (
        re.compile(r"(?:(?:gcp-kms|gcpkms)://|//cloudkms\.googleapis\.com/)?(projects/.+/cryptoKeys/[^/]+)"),
        "gcpkms://{0}",
    ),
    (
        re.compile(
            r"(?:(?:gcp-kms|gcpkms)://|//cloudkms\.googleapis\.com/)?(projects/.+/cryptoKeys/[^/]+)"
            r"/(?:versions|cryptoKeyVersions)/([^/]+)"
        ),
        "gcpkms://{0}/cryptoKeyVersions/{1}",
    ),
    (re.compile(r"https://([^/:@?#]+)(?::443)?/keys/([^/?#]+)/?"), "azurekms://{0}/{1}"),
    (re.compile(r"https://([^/:@?#]+)(?::443)?/keys/([^/?#]+)/([^/?#]+)"), "azurekms://{0}/{1}/{2}"),
    (re.compile(r"azurekms://([^/:@?#]+)/([^/?#]+)"), "azurekms://{0}/{1}"),
    (re.compile(r"azurekms://([^/:@?#]+)/([^/?#]+)/([^/?#]+)"), "azurekms://{0}/{1}/{2}"),
)


# Connection URIs

_CONNECTIONS: Final = {
    "local": re.compile(r"///[^?#]+|[^/?#][^?#]*"),
    "awskms": re.compile(r"///?"),
    "gcpkms": re.compile(r"//projects/[a-z0-9.:-]+/locations/[a-z0-9-]+/keyRings/[A-Za-z0-9_-]{1,63}"),
    "azurekms": re.compile(f"//{_HOST}/?"),
}


_STRANGERS_ADDRESS: Final = re.compile(f"//{_HOST}")
_OPTION: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class ConnectionURI:
    """Where and how to connect: from the caller or the configuration, never from data.

    ``local:///absolute/path``, ``local:relative/path``, ``awskms:///``, ``gcpkms://projects/P/locations/L/keyRings/R``,
    ``azurekms://HOST`` and, for another provider, ``scheme://authority``; each with ``?name=value`` options.

    >>> ConnectionURI.parse("awskms:///?region=eu-west-1").options["region"]
    'eu-west-1'

    Attributes:
        scheme: chooses the provider.
        address: what follows the scheme: a file path (percent escapes resolved) or a resource.
        options: each name, ``[a-z][a-z0-9_-]{0,31}``, at most once.
    """

    scheme: str
    address: str
    options: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), _thawed(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a connection URI.

        Raises:
            TypeError: not a str.
            InvalidArgumentError: not a connection URI; a key URI, too, is refused here.
        """
        _text(text, "a connection URI")
        scheme, colon, rest = text.partition(":")
        address, mark, query = rest.partition("?")
        if not colon or not _SCHEME.fullmatch(scheme) or "#" in text or not text.isprintable():
            raise InvalidArgumentError(
                f"not a connection URI: {_shown(scheme + colon + address)}; for example local:///var/lib/app/keys.db"
            )
        pattern = _CONNECTIONS.get(scheme, _STRANGERS_ADDRESS)
        if not pattern.fullmatch(address) or (scheme == "local" and _is_key(text)):
            raise InvalidArgumentError(f"not a connection URI of scheme {scheme}: {_shown(address)}")
        options = _options(query) if mark else {}
        return cls(scheme, _address(scheme, address), options)

    def __str__(self) -> str:
        query = "&".join(f"{name}={quote(value, safe='/:')}" for name, value in self.options.items())
        address = quote(self.address, safe="/:") if self.scheme == "local" else self.address
        prefix = (
            f"{self.scheme}:"
            if self.scheme == "local" and not address.startswith("/")
            else f"{self.scheme}://"
        )
        return prefix + (address or "/") + (f"?{query}" if query else "")


def _is_key(text: str) -> bool:
    try:
        KeyURI.parse(text)
    except InvalidArgumentError:
        return False
    return True


def _address(scheme: str, address: str) -> str:
    bare = address.removeprefix("//")
    if scheme != "local":
        return bare.rstrip("/")
    try:
        path = unquote(bare, errors="strict")
    except UnicodeDecodeError:
        raise InvalidArgumentError("the path of a connection URI is percent-encoded UTF-8") from None
    if not path.isprintable():
        raise InvalidArgumentError(f"the path of a connection URI holds a control character: {_shown(path)}")
    return path


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=32
        )
    except ValueError:
        raise InvalidArgumentError("the options of a connection URI are ?name=value&name=value") from None
    options = dict(pairs)
    if len(options) != len(pairs):
        raise InvalidArgumentError("an option of a connection URI is given twice")
    for name, value in pairs:
        if not _OPTION.fullmatch(name) or not value.isprintable():
            raise InvalidArgumentError(f"not an option of a connection URI: {_shown(name)}")
    return options


# Key information


@dataclass(frozen=True, kw_only=True)
class _KeyFacts:
    name: str
    uri: KeyURI
    provider: str
    purpose: KeyPurpose
    algorithm: Algorithm
    key_size: int | None
    protection_level: ProtectionLevel
    origin: KeyOrigin
    created_at: datetime
    sender_authenticated: bool = True
    fingerprint: str | None = None
    sender_fingerprint: str | None = None
    tags: Mapping[str, str]
    destroy_window: int | None
    destroy_window_enforced: bool
    conf_digest: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), _thawed(self))

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785): what an application stores, under a seal."""
        return canonical_json(self._plain())

    def _plain(self) -> dict[str, object]:
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def _read(cls, value: Any) -> Self:
        """The facts of a decoded JSON value that is as ``_plain`` gives it, to the type; InvalidArgumentError else."""
        try:
            found = cls(
                name=_text(value["name"], "name"),
                uri=KeyURI.parse(value["uri"]),
                provider=_text(value["provider"], "provider"),
                purpose=KeyPurpose(value["purpose"]),
                algorithm=Algorithm(value["algorithm"]),
                key_size=value["key_size"],
                protection_level=ProtectionLevel(value["protection_level"]),
                origin=KeyOrigin(value["origin"]),
                created_at=datetime.fromisoformat(value["created_at"]),
                sender_authenticated=value["sender_authenticated"],
                fingerprint=value["fingerprint"],
                sender_fingerprint=value["sender_fingerprint"],
                tags={str(k): _text(v, "tag") for k, v in value["tags"].items()},
                destroy_window=value["destroy_window"],
                destroy_window_enforced=value["destroy_window_enforced"],
                conf_digest=value["conf_digest"],
            )
            well_typed = (
                _is_optional(int, found.key_size, found.destroy_window)
                and _is_optional(str, found.fingerprint, found.sender_fingerprint, found.conf_digest)
                and isinstance(found.sender_authenticated, bool)
                and isinstance(found.destroy_window_enforced, bool)
                and found._plain() == value
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidArgumentError):
            raise InvalidArgumentError(_NOT_KEY_INFO) from None
        if not well_typed:
            raise InvalidArgumentError(_NOT_KEY_INFO)
        return found

    def __hash__(self) -> int:
        return hash(self.uri)


@dataclass(frozen=True, kw_only=True)
class KeyInfo(_KeyFacts):
    """The immutable facts of a key: the keyInfo of the pattern. Made by a provider, or opened from a seal.

    Attributes:
        name: the name it was made under, or the provider's own for a foreign key.
        uri: canonical; without a version for ENCRYPT_DECRYPT, so that it survives rotation.
        provider: scheme of the provider.
        key_size: RSA modulus in bits, None for all others.
        created_at: UTC, whole seconds.
        sender_authenticated: False only for a foreign RSA ENCRYPT_DECRYPT key without a sender key: whoever
            has its public key could forge messages.
        fingerprint: SHA-256 of the SPKI, lower-case hex, for SIGN_VERIFY and ASYMMETRIC_DECRYPT; else None.
        sender_fingerprint: the same of the sender key, where there is one.
        tags: the caller's, as created.
        destroy_window: days; None where the provider does not tell.
        destroy_window_enforced: whether the provider itself keeps to it.
        conf_digest: ``KeyConf.digest`` of the conf it was made from; None for foreign keys.
    """

    __hash__ = _KeyFacts.__hash__

    def sender_key(self) -> KeyInfo | None:
        """The companion signing key of an RSA ENCRYPT_DECRYPT key (message-format: sender), or None."""
        if self.sender_fingerprint is None:
            return None
        return replace(
            self,
            name=self.name + _SENDER_SUFFIX,
            uri=KeyURI(self.uri.scheme, self.uri.resource + _SENDER_SUFFIX),
            purpose=KeyPurpose.SIGN_VERIFY,
            algorithm=Algorithm.ES256,
            key_size=None,
            fingerprint=self.sender_fingerprint,
            sender_fingerprint=None,
        )


def fact_differences(expected: KeyInfo, found: KeyInfo) -> list[str]:
    """Every fact in which two KeyInfo differ: its name, what was expected and what was found."""
    pairs = ((f.name, getattr(expected, f.name), getattr(found, f.name)) for f in fields(KeyInfo))
    return [
        f"{name}: expected {_said(one)}, found {_said(other)}" for name, one, other in pairs if one != other
    ]


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ascii(dict(cast("Mapping[str, str]", value)))[:200]
    return ascii(str(value))[:200]


@dataclass(frozen=True, kw_only=True)
class UnverifiedKeyInfo(_KeyFacts):
    """Facts read from bytes whose seal nobody checked. No cryptographic method accepts it.

    To use the key, ask the provider for it by name, or open its seal.
    """

    __hash__ = _KeyFacts.__hash__

    @classmethod
    def from_json(cls, data: BytesLike) -> Self:
        """Read ``KeyInfo.to_json``; only those very bytes are accepted.

        Raises:
            TypeError: not bytes-like.
            InvalidArgumentError: not the canonical JSON of a KeyInfo.
        """
        data = octets(data, "the JSON of a KeyInfo")
        if len(data) > 65536:
            raise InvalidArgumentError(_NOT_KEY_INFO)
        try:
            found = cls._read(json.loads(data))
            # Of names that are given twice the last one counts, and spaces count for nothing: not here.
            if found.to_json() == data:
                return found
        except (ValueError, RecursionError):
            pass
        raise InvalidArgumentError(_NOT_KEY_INFO)


def read_key_info(value: object) -> KeyInfo:
    """The KeyInfo of a decoded JSON value whose seal has been checked, and for no other value.

    Raises:
        InvalidArgumentError: not such a value.
    """
    return KeyInfo._read(value)  # pyright: ignore[reportPrivateUsage] # the one door from data to a KeyInfo


_NOT_KEY_INFO: Final = "not the canonical JSON of a KeyInfo"


def _is_optional(kind: type, *values: object) -> bool:
    return all(value is None or type(value) is kind for value in values)


def _plain(value: object) -> object:
    """A field as JSON has it."""
    if isinstance(value, datetime):
        return utc_seconds(value).isoformat().replace("+00:00", "Z")
    if isinstance(value, (KeyURI, StrEnum)):
        return str(value)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of a key.

    Attributes:
        id: the provider's own name of the version.
        fingerprint: SHA-256 of this version's SPKI, lower-case hex; None for symmetric keys.
    """

    id: str
    state: KeyState
    created_at: datetime
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """The mutable facts of a key, read live.

    Attributes:
        current_version: the version that new wraps use; None where versions have no names (AWS).
        versions: every version that the provider still lists, oldest first.
        destroy_at: when the material goes, while pending destruction.
        rotation_period: days, or None.
        rotations_left: on-demand rotations left for life (25 on AWS); None where there is no limit.
    """

    state: KeyState
    current_version: str | None = None
    versions: tuple[KeyVersion, ...] = ()
    destroy_at: datetime | None = None
    rotation_period: int | None = None
    next_rotation_at: datetime | None = None
    rotations_left: int | None = None
