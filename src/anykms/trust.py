"""Seals: documents that name, configure and limit keys, protected where they are stored and carried.

A sealed document is a DSSE envelope (https://github.com/secure-systems-lab/dsse, protocol.md): canonical JSON
(RFC 8785) in base64, its payload type, and signatures or MACs over both. What is sealed says for which name and
audience it is, from when to when, and which generation of that name it is, so that it opens nowhere else and an
older one not again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import sqlite3
import stat
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Self, TypeAlias, TypeVar, cast, overload

import msgspec

from anykms.algorithms import KeyPurpose
from anykms.audit import AuditDocument, AuditSink, AuditTrail, audited, note_document, observed, trails_of
from anykms.client import Key
from anykms.errors import (
    InvalidArgumentError,
    InvalidMacError,
    InvalidSignatureError,
    KeystoreError,
    KeyUsageError,
    KMSError,
    SealError,
    UnavailableError,
)
from anykms.keys import KeyConf, KeyInfo, canonical_json, utc_seconds
from anykms.keys import read_key_info as read_facts
from anykms.payload import BytesLike, octets
from anykms.policy import Policy
from anykms.signing import PublicKey

T = TypeVar("T")
_S = TypeVar("_S", bound=msgspec.Struct)

MAX_SEALED_SIZE: Final = 1024 * 1024
"""Bytes of a whole sealed document."""
MAX_SIGNATURES: Final = 16
MAX_GENERATION: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8259, 6)."""
CLOCK_SKEW: Final = timedelta(minutes=5)

_MAX_WHOLE: Final = 4096
"""Bytes that Ed25519, ML-DSA and HMAC keys take at once."""
_DIGEST_TYPE: Final = "application/vnd.anykms.pae-sha512"
_REFUSED: Final = (
    "not a document that this root trusts for this name and audience now: altered, expired, outdated, "
    "meant for another use, or not signed by enough of its keys"
)
_Label: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]
_Seconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=100 * 365 * 86400)]
_Time: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


# Canonical JSON


def read_canonical(data: bytes) -> object:
    """The value of canonical JSON (RFC 8785), of no other bytes. Numbers are integers.

    Raises:
        ValueError: other bytes: spaces, another order, a name twice, a float, bad UTF-8, too deep.
    """
    try:
        value: object = json.loads(data.decode(), parse_float=_no_float, parse_constant=_no_float)
        if canonical_json(value) != data:
            raise ValueError("not canonical")
    except RecursionError:
        raise ValueError("too deep") from None
    return value


def _no_float(text: str) -> float:
    raise ValueError("a float")


def read_struct(value: object, kind: type[_S]) -> _S:
    """``value`` as a strict struct. Raises ValueError where a member is missing, unknown or of another type."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def time_text(moment: datetime | None) -> str | None:
    """A date as documents have it: UTC, whole seconds, ``2027-01-31T00:00:00Z``."""
    return None if moment is None else utc_seconds(moment).isoformat().removesuffix("+00:00") + "Z"


def read_time(text: str | None) -> datetime | None:
    """The reverse. Raises ValueError for any other text."""
    found = None if text is None else datetime.fromisoformat(text)
    if time_text(found) != text:
        raise ValueError("another spelling of a date")
    return found


# What can be sealed


@dataclass(frozen=True)
class PayloadType(Generic[T]):
    """A kind of document.

    Attributes:
        media_type: what the signatures cover beside the document, so that no kind passes for another.
        write: canonical JSON of a document.
        read: the document of a decoded JSON value; raises ValueError or KMSError for anything else.
        name: the name that a document gives itself, None for a kind that has none.
        one_name: whether a document is sealed under its own name and no other.
    """

    media_type: str
    write: Callable[[T], bytes]
    read: Callable[[object], T]
    name: Callable[[T], str | None]
    one_name: bool = False


class _ConfDocument(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    purpose: str
    algorithm: str | None
    key_size: int | None
    protection_level: str | None
    tags: dict[str, str]
    destroy_window: int | None
    rotation_period: int | None


class _PolicyDocument(msgspec.Struct, forbid_unknown_fields=True):
    require_sender_authentication: bool
    suites: list[int]
    providers: list[str] | None
    regions: list[str] | None
    algorithms: list[str] | None
    min_key_size: int | None
    min_protection_level: str | None
    forbid_development_keys: bool
    max_key_age: _Seconds | None
    required_context: list[str]
    max_age: _Seconds | None
    clock_skew: _Seconds
    min_recipients: int
    max_recipients: int
    max_cache_age: _Seconds | None
    max_cache_messages: int | None


def read_key_info(value: object) -> KeyInfo:
    """The KeyInfo of a document whose seal has been checked. Raises ValueError or KMSError for anything else."""
    info = read_facts(value)
    if info.uri.scheme != info.provider or info.purpose not in info.algorithm.spec.purposes:
        raise ValueError("the facts of the key do not fit together")
    return info


def _read_conf(value: object) -> KeyConf:
    read = read_struct(value, _ConfDocument)
    found = KeyConf(**msgspec.structs.asdict(read))
    if found.to_json() != canonical_json(value):
        raise ValueError("not as KeyConf writes it")
    return found


def _read_policy(value: object) -> Policy:
    rules: dict[str, Any] = msgspec.structs.asdict(read_struct(value, _PolicyDocument))
    for name, rule in rules.items():
        if isinstance(rule, list):
            rules[name] = frozenset(cast("list[object]", rule))
    for name in ("max_age", "clock_skew", "max_key_age", "max_cache_age"):
        if rules[name] is not None:
            rules[name] = timedelta(seconds=rules[name])
    found = Policy(**rules)
    if found.to_json() != canonical_json(value):
        raise ValueError("not as Policy writes it")
    return found


KEY_INFO: Final = PayloadType[KeyInfo](
    "application/vnd.anykms.keyinfo.v1+json", KeyInfo.to_json, read_key_info, lambda info: info.name
)
KEY_CONF: Final = PayloadType[KeyConf](
    "application/vnd.anykms.keyconf.v1+json", KeyConf.to_json, _read_conf, lambda conf: conf.name
)
POLICY: Final = PayloadType[Policy](
    "application/vnd.anykms.policy.v1+json", Policy.to_json, _read_policy, lambda policy: None
)
_BY_CLASS: Final[dict[type, PayloadType[Any]]] = {KeyInfo: KEY_INFO, KeyConf: KEY_CONF, Policy: POLICY}


class _Statement(msgspec.Struct, forbid_unknown_fields=True):
    """What the payload holds: the document, and what ties it to one use."""

    audience: _Label
    document: dict[str, Any]
    expires: _Time | None
    generation: Annotated[int, msgspec.Meta(ge=1, le=MAX_GENERATION)]
    issued: _Time
    name: _Label


class _Signature(msgspec.Struct, forbid_unknown_fields=True):
    keyid: _Label
    sig: Annotated[str, msgspec.Meta(max_length=16384)]


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    payload: str
    payloadType: _Label  # noqa: N815 # DSSE's own spelling
    signatures: Annotated[list[_Signature], msgspec.Meta(min_length=1, max_length=MAX_SIGNATURES)]


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _signed(payload_type: str, payload: bytes, whole: bool) -> bytes:
    """What one key signs: the PAE, or where the key takes short messages only and it is long, one of its digest."""
    message = pae(payload_type, payload)
    if whole and len(message) > _MAX_WHOLE:
        return pae(_DIGEST_TYPE, hashlib.sha512(message).digest())
    return message


@dataclass(frozen=True, slots=True)
class UnverifiedSeal:
    """What a sealed document claims, before any key was asked. Nothing here is a key, a conf, a policy or a keyset.

    Attributes:
        payload_type: its kind.
        name, audience: what it is for.
        generation: 1 or more.
        issued, expires: UTC; None: it does not expire.
        keyids: what its signatures say of their keys.
        document: plain JSON.
    """

    payload_type: str
    name: str
    audience: str
    generation: int
    issued: datetime
    expires: datetime | None
    keyids: tuple[str, ...]
    document: Mapping[str, object]

    @classmethod
    def read(cls, sealed: BytesLike) -> Self:
        """Read a sealed document without a root, to look at it.

        Raises:
            TypeError: not bytes-like.
            SealError: not a sealed document at all.
        """
        try:
            parsed = _Parsed(octets(sealed, "a sealed document"))
        except _UNREADABLE:
            raise SealError(_REFUSED) from None
        statement = parsed.statement
        return cls(
            payload_type=parsed.payload_type,
            name=statement.name,
            audience=statement.audience,
            generation=statement.generation,
            issued=parsed.issued,
            expires=parsed.expires,
            keyids=tuple(signature.keyid for signature in parsed.envelope.signatures),
            document=statement.document,
        )


_UNREADABLE: Final = (ValueError, KMSError)


class _Parsed:
    """A sealed document, parsed strictly; every byte is the one that ``seal`` would write."""

    def __init__(self, sealed: bytes) -> None:
        if len(sealed) > MAX_SEALED_SIZE:
            raise ValueError("too long")
        self.envelope = read_struct(read_canonical(sealed), _Envelope)
        self.payload_type = self.envelope.payloadType
        self.payload = _from_base64(self.envelope.payload)
        self.signatures = [_from_base64(signature.sig) for signature in self.envelope.signatures]
        self.statement = read_struct(read_canonical(self.payload), _Statement)
        issued = read_time(self.statement.issued)
        self.expires = read_time(self.statement.expires)
        if issued is None or (self.expires is not None and self.expires <= issued):
            raise ValueError("expired when issued")
        self.issued = issued


def _from_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


# Sealing


def key_id(key: PublicKey | Key) -> str:
    """What a seal calls a key: SHA-256 of its SPKI in hex, or for a MAC key, which has none, of its URI."""
    if isinstance(key, PublicKey):
        return key.fingerprint
    if key.info.fingerprint is not None:
        return key.info.fingerprint
    return hashlib.sha256(b"anykms/v1 mac-key " + str(key.info.uri.without_version()).encode()).hexdigest()


def seal(
    document: T,
    *,
    signers: Sequence[Key],
    generation: int,
    name: str | None = None,
    audience: str = "",
    expires: datetime | None = None,
    kind: PayloadType[T] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> bytes:
    """A document under the signatures or MACs of ``signers``.

    Args:
        document: a KeyInfo, KeyConf or Policy.
        signers: SIGN_VERIFY or MAC keys, 1 to 16. Further ones can add their signature later: ``countersign``.
        generation: 1 or more; higher than that of every earlier document of this kind, name and audience.
        name: what the application asks for it by; None takes the document's own. A Policy needs one.
        audience: the one environment that it is for, for example ``"shop/production"``; the root must say the same.
        expires: when it is no longer to be used; None: never.
        kind: of a document declared elsewhere.
        clock: the time of sealing.

    Returns:
        A DSSE envelope in canonical JSON.

    Raises:
        TypeError: not such a document, or not keys.
        InvalidArgumentError: a bad argument.
        KeyUsageError: a key of another purpose.
        KMSError: a key cannot sign now.

    >>> import anykms, tempfile
    >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
    >>> admin = client.key(client.generate_key(KeyConf("admin", "SIGN_VERIFY", algorithm="ES256")))
    >>> sealed = seal(KeyConf("orders", "ENCRYPT_DECRYPT"), signers=[admin], generation=1)
    >>> root = TrustRoot([admin.public_key()])
    >>> client.generate_key(root.open(sealed, KeyConf, name="orders")).name
    'orders'
    """
    payload_type = _BY_CLASS.get(type(document)) if kind is None else kind
    if payload_type is None:
        raise TypeError(f"a KeyInfo, KeyConf or Policy is sealed, not {type(document).__name__}")
    found_name = payload_type.name(document) if name is None else name
    if not found_name:
        raise InvalidArgumentError("name what the document is for: name='...'")
    if not isinstance(generation, int) or isinstance(generation, bool):
        raise TypeError(f"generation is an int, not {type(generation).__name__}")
    if not 1 <= generation <= MAX_GENERATION:
        raise InvalidArgumentError(f"generation is {generation}; use 1 to 2**53 - 1")
    return observed(
        trails_of_keys(signers),
        "seal",
        lambda: _sealed(document, payload_type, found_name, signers, generation, audience, expires, clock),
    )


def _sealed(
    document: T,
    kind: PayloadType[T],
    name: str,
    signers: Sequence[Key],
    generation: int,
    audience: str,
    expires: datetime | None,
    clock: Callable[[], datetime],
) -> bytes:
    note_document(AuditDocument(kind=kind.media_type, name=name, generation=generation, digest=None))
    issued = utc_seconds(clock())
    if expires is not None and utc_seconds(expires) <= issued:
        raise InvalidArgumentError("expires lies in the past")
    for what, text in (("name", name), ("audience", audience)):
        if len(text) > 256 or not text.isprintable():
            raise InvalidArgumentError(f"{what} has at most 256 printable characters")
    payload = canonical_json(
        {
            "audience": audience,
            "document": json.loads(kind.write(document)),
            "expires": time_text(expires),
            "generation": generation,
            "issued": time_text(issued),
            "name": name,
        }
    )
    return _noted(_enveloped(kind.media_type, payload, signers, []), kind.media_type, name, generation)


def _noted(sealed: bytes, kind: str, name: str, generation: int | None) -> bytes:
    """The sealed bytes, told to the audited operation at work."""
    digest = hashlib.sha256(sealed).hexdigest()
    note_document(AuditDocument(kind=kind, name=name, generation=generation, digest=digest))
    return sealed


def trails_of_keys(keys: Sequence[object]) -> tuple[AuditTrail, ...]:
    """The audit trails of the clients of those that are a ``Key``."""
    return tuple(
        dict.fromkeys(
            trail
            for key in keys
            if isinstance(key, Key)
            for trail in key._trails  # pyright: ignore[reportPrivateUsage] # what a key does, its clients are told
        )
    )


def countersign(sealed: BytesLike, signers: Sequence[Key], *, expected: UnverifiedSeal) -> bytes:
    """The same document with further signatures, so that keys in several hands can seal it together.

    Args:
        sealed: what ``seal`` made.
        signers: keys that have not signed it yet.
        expected: what ``UnverifiedSeal.read`` showed and a person has looked at: nothing else is signed.

    Raises:
        SealError: not a sealed document, or not the expected one.
        KMSError: a key cannot sign now.
    """
    data = octets(sealed, "a sealed document")
    return observed(trails_of_keys(signers), "countersign", lambda: _countersigned(data, signers, expected))


def _countersigned(data: bytes, signers: Sequence[Key], expected: UnverifiedSeal) -> bytes:
    use = (expected.payload_type, expected.name, expected.generation)
    _noted(data, *use)
    if UnverifiedSeal.read(data) != expected:
        raise SealError("the document is not the one that was looked at")
    parsed = _Parsed(data)
    return _noted(_enveloped(parsed.payload_type, parsed.payload, signers, parsed.envelope.signatures), *use)


def _enveloped(
    payload_type: str, payload: bytes, signers: Sequence[Key], present: Sequence[_Signature]
) -> bytes:
    if not 1 <= len(signers) <= MAX_SIGNATURES - len(present):
        raise InvalidArgumentError(f"a document has 1 to {MAX_SIGNATURES} signatures")
    for key in signers:
        if not isinstance(key, Key):
            raise TypeError(f"signers are Key objects from client.key(info), not {type(key).__name__}")
        if key.info.purpose not in (KeyPurpose.SIGN_VERIFY, KeyPurpose.MAC):
            raise KeyUsageError(
                f"key {key.info.name} is for {key.info.purpose}; a seal needs SIGN_VERIFY or MAC"
            )
    ids = [signature.keyid for signature in present] + [key_id(key) for key in signers]
    if len(set(ids)) != len(ids):
        raise InvalidArgumentError("a key signs a document once")
    signatures = [{"keyid": s.keyid, "sig": s.sig} for s in present]
    for key, name in zip(signers, ids[len(present) :], strict=True):
        message = _signed(payload_type, payload, _takes_whole(key))
        made = key.mac(message) if key.info.purpose is KeyPurpose.MAC else key.sign(message)
        signatures.append({"keyid": name, "sig": base64.b64encode(made).decode()})
    sealed = canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": signatures,
        }
    )
    if len(sealed) > MAX_SEALED_SIZE:
        raise InvalidArgumentError(
            f"the sealed document takes {len(sealed)} bytes; {MAX_SEALED_SIZE} are allowed"
        )
    return sealed


def _takes_whole(key: PublicKey | Key) -> bool:
    algorithm = key.algorithm if isinstance(key, PublicKey) else key.info.algorithm
    return algorithm.spec.max_message is not None


# Opening


class TrustRoot:
    """Who may seal documents for one audience, and how many of them it takes.

    It comes from the application's code or from a place as well guarded; everything else can then lie anywhere.

    Args:
        keys: 1 to 16 distinct keys: pinned ``PublicKey``s, which need neither network nor key state, or ``Key``s,
            which are asked: a MAC key always, a signing key for its state.
        threshold: how many distinct keys must have signed; a key counts once, however often it signed.
        audience: the environment of the application.
        ledger: keeps the highest generation seen, so that an older document is refused; without one, whoever can
            edit the store can put an old document back.
        clock: the time, with a time zone.
        audit, entity, audit_required: where each opening leaves an event, done or refused, and each use of a keyset
            loaded with it: as for ``KMSClient``. The sinks of the clients of its ``Key``s are told too.

    Raises:
        TypeError: not keys.
        InvalidArgumentError: no keys, one twice, or a threshold that they cannot meet; sinks without an entity.
        KeyUsageError: a key that neither verifies nor MACs.
    """

    def __init__(
        self,
        keys: Sequence[PublicKey | Key],
        *,
        threshold: int = 1,
        audience: str = "",
        ledger: Ledger | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        audit: Sequence[AuditSink] = (),
        entity: str | None = None,
        audit_required: bool = True,
    ) -> None:
        found: dict[str, PublicKey | Key] = {}
        for key in keys:
            if not isinstance(key, (PublicKey, Key)):
                raise TypeError(f"a root holds PublicKey and Key objects, not {type(key).__name__}")
            purposes = key.algorithm.spec.purposes if isinstance(key, PublicKey) else {key.info.purpose}
            if not purposes & {KeyPurpose.SIGN_VERIFY, KeyPurpose.MAC}:
                raise KeyUsageError("a root holds keys that verify signatures or MACs")
            found[key_id(key)] = key
        if len(found) != len(keys) or not 1 <= len(found) <= MAX_SIGNATURES:
            raise InvalidArgumentError(f"a root holds 1 to {MAX_SIGNATURES} distinct keys")
        if not isinstance(threshold, int) or isinstance(threshold, bool):
            raise TypeError(f"threshold is an int, not {type(threshold).__name__}")
        if not 1 <= threshold <= len(found):
            raise InvalidArgumentError(
                f"threshold is {threshold}; {len(found)} keys can meet 1 to {len(found)}"
            )
        self._keys = found
        self._threshold = threshold
        self._audience = audience
        self._ledger = ledger
        self._clock = clock
        own = trails_of(audit, entity, required=audit_required)
        self._trails = own + trails_of_keys(list(found.values()))

    @classmethod
    def from_json(
        cls,
        data: BytesLike,
        *,
        ledger: Ledger | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        audit: Sequence[AuditSink] = (),
        entity: str | None = None,
        audit_required: bool = True,
    ) -> Self:
        """A root of public keys from ``to_json``. The file is the anchor: guard it as you guard code.

        Args:
            data: the file.
            ledger, clock, audit, entity, audit_required: as for the class.

        Raises:
            TypeError: not bytes-like.
            InvalidArgumentError: not such a file.
        """
        problem = InvalidArgumentError(
            "not a trust root: JSON with audience, keys (JWK with alg) and threshold"
        )
        try:
            text = octets(data, "a trust root")
            if len(text) > MAX_SEALED_SIZE:
                raise problem
            read = msgspec.json.decode(text, type=_RootDocument)
            keys = [PublicKey.from_jwk(jwk, str(jwk["alg"])) for jwk in read.keys]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            raise problem from None
        return cls(
            keys,
            threshold=read.threshold,
            audience=read.audience,
            ledger=ledger,
            clock=clock,
            audit=audit,
            entity=entity,
            audit_required=audit_required,
        )

    def to_json(self) -> bytes:
        """Indented JSON of the audience, the public keys as JWK, and the threshold.

        Raises:
            KeyUsageError: a MAC key is among the keys: it has no public part.
        """
        jwks: list[dict[str, str]] = []
        for key in self._keys.values():
            jwks.append((key if isinstance(key, PublicKey) else key.public_key()).jwk())
        document = {"audience": self._audience, "keys": jwks, "threshold": self._threshold}
        return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"

    @property
    def audience(self) -> str:
        """The environment it is for."""
        return self._audience

    @property
    def clock(self) -> Callable[[], datetime]:
        """The time it judges by."""
        return self._clock

    def check_signers(self, signers: Sequence[Key]) -> None:
        """Raises SealError unless a document of these signers could open; asks no key."""
        if len({key_id(key) for key in signers} & self._keys.keys()) < self._threshold:
            raise SealError("the root trusts too few of the keys that are to seal; nothing was sealed")

    def generation_seen(self, kind: PayloadType[T], name: str) -> int:
        """The highest generation of such documents that the ledger has seen; 0 if none, or without a ledger."""
        return 0 if self._ledger is None else self._ledger.generation(kind.media_type, self._audience, name)

    @overload
    def open(self, sealed: BytesLike, kind: type[T], *, name: str) -> T: ...

    @overload
    def open(self, sealed: BytesLike, kind: PayloadType[T], *, name: str) -> T: ...

    def open(self, sealed: BytesLike, kind: type[T] | PayloadType[T], *, name: str) -> T:
        """The document, once everything about its seal has been checked.

        Args:
            sealed: what ``seal`` made, byte for byte.
            kind: KeyInfo, KeyConf or Policy: what the caller needs; the document does not choose.
            name: the name that it must be for.

        Raises:
            TypeError: not bytes-like, or no such kind.
            SealError: altered, not canonical, of another kind, name or audience, expired or dated in the future,
                older than one seen before, or not signed by enough keys: always with the same text.
            KMSError: a key of the root cannot be asked now, and the others are not enough.
        """
        return observed(
            self._trails, "TrustRoot.open", lambda: self.open_sealed(sealed, kind, name=name).document
        )

    @audited
    def open_sealed(
        self, sealed: BytesLike, kind: type[T] | PayloadType[T], *, name: str, remember: bool = True
    ) -> OpenedSeal[T]:
        """``open``, with what the seal says of the document. Raises as ``open``.

        Without ``remember`` the ledger is neither asked nor told: for a document that is not in its place yet.
        """
        payload_type = kind if isinstance(kind, PayloadType) else _BY_CLASS.get(kind)
        if payload_type is None:
            raise TypeError("a KeyInfo, KeyConf or Policy is opened: name one of these classes")
        data = _noted(octets(sealed, "a sealed document"), payload_type.media_type, name, None)
        try:
            parsed = _Parsed(data)
            _noted(data, payload_type.media_type, name, parsed.statement.generation)
            self._check_claims(parsed, payload_type.media_type, name)
        except _UNREADABLE:
            raise SealError(_REFUSED) from None
        signed_by = self._signed_by(parsed)
        try:
            document = payload_type.read(parsed.statement.document)
            if payload_type.one_name and payload_type.name(document) != name:
                raise ValueError("the document has another name")
        except _UNREADABLE:
            raise SealError(_REFUSED) from None
        generation = parsed.statement.generation
        if self._ledger is not None and remember:
            self._ledger.note(
                (payload_type.media_type, self._audience, name),
                generation,
                hashlib.sha256(parsed.payload).digest(),
                self._clock(),
            )
        return OpenedSeal(document, generation, parsed.issued, parsed.expires, signed_by)

    def _check_claims(self, parsed: _Parsed, media_type: str, name: str) -> None:
        now, statement = utc_seconds(self._clock()), parsed.statement
        if (
            parsed.payload_type != media_type
            or statement.name != name
            or statement.audience != self._audience
            or parsed.issued > now + CLOCK_SKEW
            or (parsed.expires is not None and now >= parsed.expires)
        ):
            raise ValueError("for another use")

    def _signed_by(self, parsed: _Parsed) -> tuple[str, ...]:
        """Ids of the root's keys that signed, once they are enough. The document's own key ids decide nothing."""
        signed: list[str] = []
        tags: set[bytes] = set()
        unavailable: list[KMSError] = []
        for name, key in self._keys.items():
            try:
                found = self._signature_of(name, key, parsed)
            except KMSError as error:
                unavailable.append(error)
                continue
            # HMAC is deterministic: one key under two URIs makes one tag, and counts once.
            if found is None or (
                not isinstance(key, PublicKey) and key.info.fingerprint is None and found in tags
            ):
                continue
            tags.add(found)
            signed.append(name)
        if len(signed) >= self._threshold:
            return tuple(signed)
        if len(signed) + len(unavailable) >= self._threshold:
            raise unavailable[0]
        raise SealError(_REFUSED)

    def _signature_of(self, name: str, key: PublicKey | Key, parsed: _Parsed) -> bytes | None:
        """The signature in the document that ``key`` made, or None."""
        message = _signed(parsed.payload_type, parsed.payload, _takes_whole(key))
        tried = parsed.signatures
        if not isinstance(key, PublicKey):
            # A key in a service is asked once, about what claims to be its own, so that junk costs no calls.
            claims = zip(parsed.envelope.signatures, parsed.signatures, strict=True)
            tried = [signature for claim, signature in claims if claim.keyid == name]
            if len(tried) > 1:
                return None
        for signature in tried:
            try:
                if isinstance(key, PublicKey) or key.info.purpose is KeyPurpose.SIGN_VERIFY:
                    key.verify(message, signature)
                else:
                    key.verify_mac(message, signature)
            except (InvalidSignatureError, InvalidMacError):
                continue
            return signature
        return None


class _RootDocument(msgspec.Struct, forbid_unknown_fields=True):
    audience: _Label
    keys: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=MAX_SIGNATURES)]
    threshold: int


@dataclass(frozen=True, slots=True)
class OpenedSeal(Generic[T]):
    """A document whose seal was checked, and what the seal says of it.

    Attributes:
        signed_by: key ids of the root's keys that signed it.
    """

    document: T
    generation: int
    issued: datetime
    expires: datetime | None
    signed_by: tuple[str, ...]


class Ledger:
    """The highest generation seen of every sealed document, in a small local SQLite file.

    It refuses an older document, a second one of the same generation, and a clock that has gone back by more than an
    hour since something was opened. Whoever can delete or edit the file undoes that: keep it where the application
    alone can write, away from the documents. Threads, processes and forked children may share it.

    Args:
        path: made, readable for its owner only, if it does not exist.

    Raises:
        OSError: the file cannot be opened or made.
        KeystoreError: not such a file, or one that other users can write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise KeystoreError("the ledger is not a regular file")
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise KeystoreError("other users can write the ledger; take that right away: chmod go-w")
        finally:
            os.close(descriptor)
        self._connection: sqlite3.Connection | None = None
        _ledgers.add(self)
        with self._connected() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS seen (kind TEXT, audience TEXT, name TEXT, generation INTEGER NOT NULL, "
                "digest BLOB NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (kind, audience, name)) WITHOUT ROWID"
            )

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with _in_sqlite:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generation(self, kind: str, audience: str, name: str) -> int:
        """The highest generation seen, 0 if none was."""
        with self._connected() as connection:
            row = connection.execute(_SEEN, (kind, audience, name)).fetchone()
        return 0 if row is None else int(row[0])

    def note(self, use: tuple[str, str, str], generation: int, digest: bytes, now: datetime) -> None:
        """Remember an authentic document of this kind, audience and name.

        Raises:
            SealError: a newer one, or another one of this generation, was seen before; or the clock has gone back.
            UnavailableError: another process holds the file.
            KeystoreError: the file is damaged.
        """
        at = int(now.timestamp())
        with self._connected() as connection:
            row = connection.execute(_SEEN, use).fetchone()
            if row is not None and self._is_known(row, generation, digest, at):
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                row = connection.execute(_SEEN, use).fetchone()
                if row is None or not self._is_known(row, generation, digest, at):
                    connection.execute(_REMEMBER, (*use, generation, digest, at))
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def _is_known(self, row: tuple[int, bytes, int], generation: int, digest: bytes, at: int) -> bool:
        """Whether nothing is to be written. Raises SealError where the document or the time is not acceptable."""
        seen, known, last = row
        if generation < seen or (generation == seen and digest != known) or at < last - _CLOCK_STEP:
            raise SealError(_REFUSED)
        return generation == seen and at < last + _CLOCK_STEP

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection]:
        with _in_sqlite:
            try:
                if self._connection is None:
                    self._connection = sqlite3.connect(
                        self._path, timeout=5, isolation_level=None, check_same_thread=False
                    )
                yield self._connection
            except sqlite3.OperationalError as error:
                raise UnavailableError("the ledger cannot be read or written now") from error
            except sqlite3.Error as error:
                raise KeystoreError("the ledger is damaged, or another kind of file") from error

    def _forked(self) -> None:
        """In a forked child: SQLite's handles do not survive a fork, and may not even be closed there."""
        if self._connection is not None:
            _inherited.append(self._connection)
        self._connection = None


_in_sqlite: Final = threading.Lock()
"""Held over every use of a ledger's file, and over a fork: no child begins in the middle of a transaction."""
_ledgers: Final[weakref.WeakSet[Ledger]] = weakref.WeakSet()
_inherited: Final[list[sqlite3.Connection]] = []


def _after_fork_in_child() -> None:
    for ledger in _ledgers:
        ledger._forked()  # pyright: ignore[reportPrivateUsage] # one module
    _in_sqlite.release()


os.register_at_fork(
    before=_in_sqlite.acquire, after_in_parent=_in_sqlite.release, after_in_child=_after_fork_in_child
)

_CLOCK_STEP: Final = 3600
"""Seconds between two notes of the time, and by which it may go back."""
_SEEN: Final = "SELECT generation, digest, at FROM seen WHERE kind = ? AND audience = ? AND name = ?"
_REMEMBER: Final = (
    "INSERT OR REPLACE INTO seen (kind, audience, name, generation, digest, at) VALUES (?, ?, ?, ?, ?, ?)"
)
