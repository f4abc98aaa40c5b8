"""A key's facts as Azure keeps them: key bundles, rows of version listings, and at most five tags of ours."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import IntegrityError, KeyDestroyedError, UnsupportedOperationError
from anykms.keys import KeyInfo, KeyOrigin, KeyState, KeyTemplate, KeyURI, KeyVersion, ProtectionLevel
from anykms.provider import mismatch
from anykms_azure import specs
from anykms_azure.connection import Reply
from anykms_azure.specs import Sku

SCHEME: Final = "azurekms"
SENDER_SUFFIX: Final = "--sender"

_TAG_PREFIX: Final = "anykms"
_ALGORITHM: Final = "anykms-algorithm"
_CONF: Final = "anykms-conf"
_SENDER: Final = "anykms-sender"
_CREATED: Final = "anykms-created"
"""When the first version was made: a deleted key shows its last version only. Set before there is a second."""
_DISCARDED: Final = "anykms-discarded"
"""On a version that lost a race to make the key. Azure cannot delete one version, so it stays, disabled."""

_CONF_DIGEST: Final = re.compile(r"[a-z2-7]{52}")
_VERSION: Final = re.compile(r"[0-9a-f]{32}")
# The contract's own tags; others (of a policy, of an accountant) are not the caller's.
_TAG: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}")
_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "P-256K": ec.SECP256K1(),
}

Tags = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One version as a listing or a bundle shows it."""

    id: str
    created: datetime
    state: KeyState
    enabled: bool
    tags: Tags

    @property
    def discarded(self) -> bool:
        return _DISCARDED in self.tags


def row_of(reply: Reply, now: datetime) -> Row:
    """The version in a bundle, or in a row of a listing of versions."""
    kid = section(reply, "key").get("kid") or reply.get("kid")
    attributes = section(reply, "attributes")
    enabled = attributes.get("enabled") is True
    starts, ends = attributes.get("nbf"), attributes.get("exp")
    valid = (starts is None or moment(starts) <= now) and (ends is None or now < moment(ends))
    return Row(
        version_in(kid),
        moment(attributes.get("created")),
        KeyState.ENABLED if enabled and valid else KeyState.DISABLED,
        enabled,
        tags_of(reply),
    )


def rows_of(replies: Iterable[Reply], now: datetime) -> list[Row]:
    """The versions that count, oldest first."""
    rows = [row for row in (row_of(reply, now) for reply in replies) if not row.discarded]
    if not rows:
        raise IntegrityError("Key Vault lists no version of the key")
    return sorted(rows, key=lambda row: (row.created, row.id))


def section(reply: Reply, name: str) -> Reply:
    """An object inside an answer, {} where there is none."""
    found: object = reply.get(name)
    return cast("Reply", found) if isinstance(found, dict) else {}


def as_version(row: Row, fingerprint: str | None = None) -> KeyVersion:
    """A version as KeyStatus shows it."""
    return KeyVersion(id=row.id, state=row.state, created_at=row.created, fingerprint=fingerprint)


def moment(seconds: object) -> datetime:
    """An IntDate: UTC, whole seconds."""
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise IntegrityError("Key Vault's answer has no date where one must be")
    return datetime.fromtimestamp(seconds, UTC)


def version_in(kid: object) -> str:
    """The version at the end of a key identifier."""
    found = str(kid).rpartition("/")[2].lower()
    if not _VERSION.fullmatch(found):
        raise mismatch(
            "Key Vault's answer names no version of the key", expected="32 hex digits", found=found
        )
    return found


def name_in(kid: object) -> str:
    """The name in a key identifier, as Azure compares names: in lower case."""
    return str(kid).partition("/keys/")[2].partition("/")[0].lower()


def kid_of(host: str, name: str, version: str) -> str:
    """The identifier of a version, as Azure compares them: in lower case."""
    return f"https://{host}/keys/{name}/{version}".lower()


# Base64url, as JSON web keys have it


def encode(data: bytes) -> str:
    """Unpadded base64url (RFC 7515)."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(fields: Mapping[str, Any], name: str) -> bytes:
    """The bytes in a field; IntegrityError where there are none."""
    text = fields.get(name)
    try:
        if isinstance(text, str):
            return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        pass
    raise IntegrityError(f"Key Vault's answer has no usable {name}")


# Tags


def tags_of(reply: Reply) -> dict[str, str]:
    """All tags of a bundle or a row."""
    found = cast("dict[object, object]", reply.get("tags") or {})
    return {str(name): str(value) for name, value in found.items()}


def first_tags(template: KeyTemplate, sender_fingerprint: str | None) -> dict[str, str]:
    """The tags that a key is created with."""
    ours = {_ALGORITHM: str(template.algorithm), _CONF: template.conf_digest}
    return {**template.tags, **ours} | ({_SENDER: sender_fingerprint} if sender_fingerprint else {})


def sender_tags(template: KeyTemplate) -> dict[str, str]:
    """The tags that its sender key is created with."""
    return {_ALGORITHM: str(Algorithm.ES256), _CONF: template.conf_digest}


def lasting_tags(rows: list[Row]) -> dict[str, str] | None:
    """The tags that every version must have before there is another; None for a key that is not ours."""
    ours = _first_of_ours(rows)
    if ours is None:
        return None
    return {**ours.tags, _CREATED: str(int(rows[0].created.timestamp()))}


def discarded_tags() -> dict[str, str]:
    """For a version that lost a race."""
    return {_DISCARDED: "1"}


def _first_of_ours(rows: list[Row]) -> Row | None:
    return next((row for row in rows if is_ours(row.tags)), None)


def is_ours(tags: Tags) -> bool:
    """Whether anykms made the key, as its tags tell it."""
    return _CONF in tags


def has_conf(tags: Tags, digest: str) -> bool:
    """Whether anykms made the key from the conf with that digest, as its tags tell it."""
    return tags.get(_CONF) == digest


def callers_tags(tags: Tags) -> dict[str, str]:
    """The tags that the caller gave."""
    return {
        name: value
        for name, value in sorted(tags.items())
        if _TAG.fullmatch(f"{name}={value}") and not name.startswith(_TAG_PREFIX)
    }


def check_tags(info: KeyInfo, tags: Tags) -> None:
    """Raises IntegrityError where the tags disagree with the caller's KeyInfo, which is the one that is right."""
    if info.conf_digest is None:
        return
    expected = {_ALGORITHM: str(info.algorithm), _CONF: info.conf_digest}
    if info.sender_fingerprint is not None:
        expected[_SENDER] = info.sender_fingerprint
    for name, wanted in expected.items():
        found = tags.get(name, "")
        if found != wanted:
            raise mismatch(
                f"tag {name} of the key is not what its KeyInfo says", expected=wanted, found=found
            )


def check_rows(info: KeyInfo, rows: list[Row]) -> None:
    """Raises unless the versions are those of the very key that ``info`` describes.

    Raises:
        KeyDestroyedError: another key has taken the name since.
        IntegrityError: edited tags, or a version that nobody may have made.
    """
    if info.uri.version is not None and info.uri.version not in {row.id for row in rows}:
        raise _another(f"version {info.uri.version}", ", ".join(row.id for row in rows))
    if info.conf_digest is None:
        return
    if info.uri.version is None:
        check_created(info, rows[0].created)
    if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT and len(rows) > 1:
        raise second_version(info.name, rows, info.uri.version)
    ours = _first_of_ours(rows)
    if not info.name.endswith(SENDER_SUFFIX):
        check_tags(info, {} if ours is None else ours.tags)


def _another(expected: str, found: str) -> KeyDestroyedError:
    return KeyDestroyedError(
        f"the key is destroyed; another has its name now: expected {expected}, found {found[:200]}"
    )


def second_version(name: str, rows: list[Row], only: str | None = None) -> IntegrityError:
    """The error for a key that has one version for life and got another; ``only`` is that one, if it is known."""
    return mismatch(
        f"{name} has {len(rows)} versions, and a key of its kind has one for life: someone else made one",
        expected="one version" if only is None else f"version {only} alone",
        found=", ".join(row.id for row in rows),
    )


def check_created(info: KeyInfo, created: datetime) -> None:
    """Raises KeyDestroyedError where a key of that age cannot be the one that ``info`` describes."""
    if created > info.created_at:
        raise _another(f"one made at {info.created_at}", f"one made at {created}")


def check_deleted(info: KeyInfo, row: Row) -> None:
    """The same of a deleted key, of which Azure shows the last version only."""
    if info.uri.version is not None and info.uri.version != row.id:
        raise _another(f"version {info.uri.version}", row.id)
    if info.conf_digest is None or info.name.endswith(SENDER_SUFFIX):
        return
    check_created(info, first_created(row))
    check_tags(info, row.tags)


def first_created(row: Row) -> datetime:
    """When the key of a deleted version was made."""
    stamped = row.tags.get(_CREATED, "")
    return (
        moment(int(stamped)) if stamped.isascii() and stamped.isdigit() and len(stamped) < 12 else row.created
    )


# Keys


def spki(bundle: Reply) -> bytes:
    """SPKI DER of the public part of a bundle (RFC 7517 and 7518 to RFC 5480 and 8017).

    Raises:
        IntegrityError: it is not a public key.
    """
    jwk: Mapping[str, Any] = bundle["key"]
    try:
        if str(jwk.get("kty")).startswith("EC"):
            curve = _CURVES[str(jwk.get("crv"))]
            x, y = (int.from_bytes(decode(jwk, part)) for part in ("x", "y"))
            public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = ec.EllipticCurvePublicNumbers(
                x, y, curve
            ).public_key()
        else:
            e, n = (int.from_bytes(decode(jwk, part)) for part in ("e", "n"))
            public = rsa.RSAPublicNumbers(e, n).public_key()
    except (ValueError, KeyError) as error:
        raise IntegrityError("Key Vault's answer holds no usable public key") from error
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(bundle: Reply) -> str:
    """SHA-256 of the SPKI, lower-case hex."""
    return hashlib.sha256(spki(bundle)).hexdigest()


def key_ops(bundle: Reply) -> frozenset[str]:
    """What the key may do."""
    return frozenset(str(op) for op in bundle["key"].get("key_ops") or ())


def check_as_made(purpose: KeyPurpose, algorithm: Algorithm, bundle: Reply) -> None:
    """Raises IntegrityError unless the key is of the kind that anykms makes, with exactly those key_ops."""
    kind, jwk = specs.kind_of(purpose, algorithm), bundle["key"]
    found = (str(jwk.get("kty")).removesuffix("-HSM"), jwk.get("crv"), key_ops(bundle))
    made = (kind.kty, kind.crv, kind.key_ops)
    if found != made:
        raise mismatch(
            f"no {algorithm} key of anykms is such a key: someone edited it",
            expected=_kind_text(*made),
            found=_kind_text(*found),
        )


def _kind_text(kty: str, crv: object, ops: frozenset[str]) -> str:
    return f"{kty}{f' {crv}' if crv else ''} with key_ops {', '.join(sorted(ops))}"


def read(bundle: Reply, rows: list[Row], sender: Reply | None, host: str, sku: Sku) -> KeyInfo:
    """The KeyInfo of a key.

    Args:
        bundle: of its current, or only, version.
        rows: its versions, or the last one of a deleted key.
        sender: the bundle of its sender key, where it has one.

    Raises:
        IntegrityError: what Azure answers does not fit together.
        UnsupportedOperationError: a key that anykms does not use.
    """
    jwk: Mapping[str, Any] = bundle["key"]
    attributes = section(bundle, "attributes")
    kty, name = str(jwk.get("kty")), name_in(jwk.get("kid"))
    ours = _first_of_ours(rows)
    tags = ours.tags if ours is not None else tags_of(bundle)
    if ours is None:
        purpose, algorithm = specs.assumed(kty, jwk.get("crv"), key_ops(bundle), sku)
    else:
        purpose, algorithm = _tagged(tags, key_ops(bundle))
        check_as_made(purpose, algorithm, bundle)
    wraps, public = purpose is KeyPurpose.ENCRYPT_DECRYPT, specs.has_public_key(algorithm)
    sender_fingerprint = None
    if ours is not None and wraps and public:
        found = None if sender is None else fingerprint(sender)
        if found is None or found != tags.get(_SENDER):
            raise mismatch(
                f"the key {name}{SENDER_SUFFIX} is not the sender key that {name} was made with: its fingerprint",
                expected=tags.get(_SENDER),
                found=found,
            )
        sender_fingerprint = tags[_SENDER]
    if ours is not None and not wraps and len(rows) > 1:
        raise second_version(name, rows)
    version = version_in(jwk.get("kid"))
    first = rows[0] if ours is not None or wraps else next(row for row in rows if row.id == version)
    days, level = attributes.get("recoverableDays"), str(attributes.get("recoveryLevel"))
    return KeyInfo(
        name=name,
        uri=KeyURI(SCHEME, f"{host}/{name}", None if wraps else version),
        provider=SCHEME,
        purpose=purpose,
        algorithm=algorithm,
        key_size=_key_size(bundle, algorithm),
        protection_level=ProtectionLevel.HSM if kty.endswith("-HSM") else ProtectionLevel.SOFTWARE,
        origin=KeyOrigin.UNKNOWN if ours is None else KeyOrigin.PROVIDER,
        created_at=first_created(first) if "scheduledPurgeDate" in bundle else first.created,
        sender_authenticated=sender_fingerprint is not None or not (wraps and public),
        fingerprint=None if wraps else fingerprint(bundle),
        sender_fingerprint=sender_fingerprint,
        tags=MappingProxyType(callers_tags(tags)),
        destroy_window=days if isinstance(days, int) else None,
        destroy_window_enforced="Purgeable" not in level and "Recoverable" in level,
        conf_digest=_tagged_digest(tags) if ours is not None else None,
    )


def needs_sender(rows: list[Row], bundle: Reply) -> bool:
    """Whether the key is one of ours with a sender key."""
    ours = _first_of_ours(rows)
    return ours is not None and _SENDER in ours.tags and str(bundle["key"].get("kty")).startswith("RSA")


def _key_size(bundle: Reply, algorithm: Algorithm) -> int | None:
    """Modulus size in bits; IntegrityError or UnsupportedOperationError for one that the contract does not have."""
    if str(bundle["key"].get("kty")).startswith("oct"):
        bits = section(bundle, "attributes").get("key_size")  # not every API version tells
        if bits not in (None, specs.A256GCM_BITS):
            raise UnsupportedOperationError("anykms uses AES keys of 256 bits")
        return None
    if not algorithm.spec.key_sizes:
        return None
    size = int.from_bytes(decode(bundle["key"], "n")).bit_length()
    if size not in algorithm.spec.key_sizes:
        raise UnsupportedOperationError(f"anykms does not use {algorithm} keys of {size} bits")
    return size


def _tagged(tags: Tags, ops: frozenset[str]) -> tuple[KeyPurpose, Algorithm]:
    try:
        algorithm = Algorithm(tags.get(_ALGORITHM, ""))
    except ValueError as error:
        raise _edited(_ALGORITHM, "an algorithm", tags) from error
    if algorithm not in specs.ALGORITHMS:
        raise _edited(_ALGORITHM, "an algorithm of Azure", tags)
    if algorithm is Algorithm.RSA_OAEP_256 and "wrapKey" not in ops:
        return KeyPurpose.ASYMMETRIC_DECRYPT, algorithm
    wraps = KeyPurpose.ENCRYPT_DECRYPT in algorithm.spec.purposes
    return KeyPurpose.ENCRYPT_DECRYPT if wraps else KeyPurpose.SIGN_VERIFY, algorithm


def _tagged_digest(tags: Tags) -> str:
    digest = tags.get(_CONF, "")
    if not _CONF_DIGEST.fullmatch(digest):
        raise _edited(_CONF, "a digest of 52 characters", tags)
    return digest


def _edited(tag: str, expected: str, tags: Tags) -> IntegrityError:
    return mismatch(f"tag {tag} of the key is missing or edited", expected=expected, found=tags.get(tag))


# Rotation policies

_DURATION: Final = re.compile(r"P(?:(\d{1,4})Y)?(?:(\d{1,4})M)?(?:(\d{1,5})D)?")


def rotation_days(policy: Reply) -> int | None:
    """Days after which Azure makes a new version by itself; None for never. A month counts 30, a year 365."""
    for action in cast("list[Reply]", policy.get("lifetimeActions") or []):
        kind, trigger = section(action, "action"), section(action, "trigger")
        found = _DURATION.fullmatch(str(trigger.get("timeAfterCreate")))
        if str(kind.get("type")).lower() == "rotate" and found:
            years, months, days = (int(part or 0) for part in found.groups())
            return 365 * years + 30 * months + days
    return None
