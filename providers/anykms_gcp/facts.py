"""A key's facts as Cloud KMS keeps them: a CryptoKey, its versions, and two labels of ours."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PublicKey,
    MLDSA65PublicKey,
    MLDSA87PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import IntegrityError, InvalidArgumentError, KMSError, UnsupportedOperationError
from anykms.keys import KeyInfo, KeyOrigin, KeyState, KeyTemplate, KeyURI, ProtectionLevel, utc_seconds
from anykms.provider import mismatch, state_error
from anykms_gcp import specs
from anykms_gcp.connection import Connection, Reply, checked, is_version_of

SCHEME: Final = "gcpkms"
ONLY_VERSION: Final = "1"
"""The one version that a key of ours has for life, unless it is ENCRYPT_DECRYPT."""

_CONF: Final = "anykms-conf"
_FINGERPRINT: Final = "anykms-fingerprint"
"""SHA-256 of the SPKI in base32: in hex it is one character too long for a label."""
_BASE32: Final = re.compile(r"[a-z2-7]{52}")
# The contract's own tags; other labels (of Terraform, of an accountant) are not the caller's.
_TAG: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}")
_DAY: Final = timedelta(days=1)
_GONE: Final = (KeyState.DESTROYED, KeyState.FAILED)

_ML_DSA: Final[Mapping[Algorithm, type[MLDSA44PublicKey | MLDSA65PublicKey | MLDSA87PublicKey]]] = {
    Algorithm.ML_DSA_44: MLDSA44PublicKey,
    Algorithm.ML_DSA_65: MLDSA65PublicKey,
    Algorithm.ML_DSA_87: MLDSA87PublicKey,
}


def moment(value: datetime) -> datetime:
    """A date of the SDK, which has nanoseconds and a class of its own, as the contract has dates."""
    return utc_seconds(datetime.fromtimestamp(value.timestamp(), UTC))


def days(duration: timedelta | None) -> int | None:
    """Whole days; None for none, which the SDK calls 0, and for a duration that is not made of whole days."""
    return duration // _DAY if duration and not duration % _DAY else None


def state_of(version: Reply) -> KeyState:
    """A version's state; IntegrityError for one that the API did not have."""
    state = specs.STATES.get(_name(version.state))
    if state is None:
        raise IntegrityError(f"Cloud KMS says that a version's state is {_name(version.state)}")
    return state


def version_id(version: Reply) -> str:
    """The number at the end of a version's resource name."""
    number: str = version.name.rpartition("/")[2]
    return number


def is_imported(version: Reply) -> bool:
    """Whether somebody brought the version's material from outside Cloud KMS."""
    return bool(version.import_job)


def has_primary(key: Reply) -> bool:
    """Whether it is a key whose use Cloud KMS directs to a primary version: ENCRYPT_DECRYPT."""
    return _name(key.purpose) == "ENCRYPT_DECRYPT"


def algorithm_of(key: Reply, version: Reply) -> tuple[Algorithm, int | None]:
    """Algorithm and size of a version; UnsupportedOperationError for one that the contract does not have."""
    return specs.algorithm_of(_name(key.purpose), _name(version.algorithm))


def _name(value: object) -> str:
    return str(getattr(value, "name", value))  # a number where the SDK is older than the service


# Labels


def first_labels(template: KeyTemplate) -> dict[str, str]:
    """The labels that a key is created with."""
    return {**template.tags, _CONF: template.conf_digest}


def with_fingerprint(labels: Mapping[str, str], fingerprint: str) -> dict[str, str]:
    """So that the facts of a key can be read while Cloud KMS withholds its public key: in any state but ENABLED."""
    return {**labels, _FINGERPRINT: base64.b32encode(bytes.fromhex(fingerprint)).decode().lower().rstrip("=")}


def pinned_fingerprint(labels: Mapping[str, str]) -> str | None:
    """The fingerprint in the labels, in hex; None if there is none or it is not one."""
    found = labels.get(_FINGERPRINT, "")
    return base64.b32decode(found.upper() + "====").hex() if _BASE32.fullmatch(found) else None


def is_ours(key: Reply) -> bool:
    """Whether anykms made the key, as its labels tell it."""
    return _CONF in key.labels


def _callers_tags(labels: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(labels.items())
        if _TAG.fullmatch(f"{name}={value}") and not name.startswith("anykms")
    }


def _conf_digest(labels: Mapping[str, str]) -> str:
    digest = labels[_CONF]
    if not _BASE32.fullmatch(digest):
        raise mismatch(
            f"label {_CONF} of the key was edited", expected="a digest of 52 characters", found=digest
        )
    return digest


# Public keys


def read_public_key(gcp: Connection, name: str, algorithm: Algorithm) -> bytes:
    """SPKI DER of the version called ``name``.

    Raises:
        IntegrityError: damaged, of another version, or not a public key.
        KMSError: Cloud KMS gives the public key of an ENABLED version only.
    """
    wanted = "NIST_PQC" if algorithm in specs.ML_DSA else "PEM"
    reply = gcp.ask("get_public_key", name=name, public_key_format=wanted)
    if reply.name != name:
        raise mismatch("Cloud KMS gave the public key of another version", expected=name, found=reply.name)
    data = checked(reply.public_key.data, reply.public_key.crc32c_checksum, "the public key")
    raw = _ML_DSA.get(algorithm)
    try:
        key = load_pem_public_key(data) if raw is None else raw.from_public_bytes(data)
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as error:
        raise IntegrityError("Cloud KMS gave a public key that cannot be read") from error


def fingerprint(spki: bytes) -> str:
    """SHA-256 of an SPKI, lower-case hex."""
    return hashlib.sha256(spki).hexdigest()


# Key information


def read(key: Reply, version: Reply, spki: bytes | None) -> KeyInfo:
    """The KeyInfo of a key.

    Args:
        key: the CryptoKey.
        version: the one in use: the primary one of an ENCRYPT_DECRYPT key, or the only one.
        spki: of an asymmetric key; None while Cloud KMS withholds it.

    Raises:
        IntegrityError: what Cloud KMS answers does not fit together.
        UnsupportedOperationError: a key that anykms does not use.
        KMSError: the state's own error, where only the public key would tell what the labels do not.
    """
    algorithm, key_size = algorithm_of(key, version)
    purpose = specs.spec_of(algorithm, key_size).purpose
    level = specs.LEVELS.get(_name(version.protection_level))
    if level is None:
        raise UnsupportedOperationError(
            f"anykms does not use keys of protection level {_name(version.protection_level)}"
        )
    ours = is_ours(key)
    origin = _origin(key, version, level)
    if ours and origin is not KeyOrigin.PROVIDER:
        raise mismatch(
            "the material of a key that anykms made was brought in by someone else",
            expected=KeyOrigin.PROVIDER,
            found=origin,
        )
    labels: Mapping[str, str] = key.labels
    public = specs.has_public_key(purpose)
    return KeyInfo(
        name=key.name.rpartition("/")[2],
        uri=_uri(key.name if purpose is KeyPurpose.ENCRYPT_DECRYPT else version.name),
        provider=SCHEME,
        purpose=purpose,
        algorithm=algorithm,
        key_size=key_size,
        protection_level=level,
        origin=origin,
        created_at=moment(key.create_time),
        fingerprint=_fingerprint(labels if ours else {}, version, spki) if public else None,
        tags=_callers_tags(labels),
        destroy_window=days(key.destroy_scheduled_duration),
        destroy_window_enforced=True,
        conf_digest=_conf_digest(labels) if ours else None,
    )


def _uri(name: str) -> KeyURI:
    """The URI of a resource name; IntegrityError if it is not that of a key or version."""
    try:
        return KeyURI.from_spelling(name)
    except InvalidArgumentError as error:
        raise mismatch(
            "Cloud KMS names a key by something else", expected="the name of a key or version", found=name
        ) from error


def _origin(key: Reply, version: Reply, level: ProtectionLevel) -> KeyOrigin:
    if level is ProtectionLevel.EXTERNAL:
        return KeyOrigin.EXTERNAL
    return KeyOrigin.IMPORTED if key.import_only or is_imported(version) else KeyOrigin.PROVIDER


def _fingerprint(labels: Mapping[str, str], version: Reply, spki: bytes | None) -> str:
    pinned = pinned_fingerprint(labels)
    if spki is None:
        if pinned is None:
            raise _withheld(state_of(version))
        return pinned
    found = fingerprint(spki)
    if pinned is not None and pinned != found:
        raise mismatch(
            f"the fingerprint of the key's public key is not that of label {_FINGERPRINT}",
            expected=pinned,
            found=found,
        )
    return found


def _withheld(state: KeyState) -> KMSError:
    if state is KeyState.ENABLED:
        return IntegrityError("Cloud KMS withholds the public key")
    refusal = state_error(state)
    refusal.add_note("Cloud KMS gives the public key of a version only while it is enabled")
    return refusal


# Versions


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of a key, oldest first, and the one in use, whose state is the key's."""

    rows: tuple[Reply, ...]
    current: Reply | None

    @property
    def state(self) -> KeyState:
        """The key's state."""
        return KeyState.DESTROYED if self.current is None else state_of(self.current)

    def within(self, *states: KeyState) -> list[Reply]:
        """Those in one of the states, the one in use last.

        A change goes through them in this order, so that an interrupted one has not changed the key's state.
        """
        found = [row for row in self.rows if state_of(row) in states]
        return sorted(found, key=lambda row: row is self.current)

    def numbered(self, number: str | None) -> Reply | None:
        """The version of that number, if there is one."""
        return next((row for row in self.rows if version_id(row) == number), None)


def versions_of(key: Reply, rows: Iterable[Reply], number: str | None) -> Versions:
    """All versions of a key; ``number`` is the one that was asked for, or that a KeyInfo pins.

    Raises:
        IntegrityError: a version of another key.
    """
    found = list(rows)
    for row in found:
        if not is_version_of(row.name, key.name):
            raise mismatch("Cloud KMS listed versions of another key", expected=key.name, found=row.name)
    found.sort(key=lambda row: int(version_id(row)))
    versions = Versions(tuple(found), None)
    if has_primary(key):
        number = version_id(key.primary) if "primary" in key else None
    elif number is None and is_ours(key):
        number = ONLY_VERSION
    current = versions.numbered(number)
    if has_primary(key) and (current is None or state_of(current) in _GONE):
        # Older versions still open what they have sealed: the key is not gone before the last of them.
        current = next((row for row in reversed(found) if state_of(row) not in _GONE), current)
    return Versions(versions.rows, current)


def only_version(key: Reply, versions: Versions, number: str | None) -> Reply | None:
    """The version that the KeyInfo of a key without primary version pins; None if it is not there.

    Raises:
        IntegrityError: a key that anykms made has a second version.
        InvalidArgumentError: a foreign key has several live versions, and no number was given.
    """
    if is_ours(key):
        if len(versions.rows) > 1 and versions.state is not KeyState.DESTROYED:
            raise second_version(key.name, versions.rows)
        return versions.current if number in (None, ONLY_VERSION) else None
    if number is not None:
        return versions.current
    live = [row for row in versions.rows if state_of(row) not in _GONE]
    if len(live) > 1:
        raise InvalidArgumentError(
            f"{key.name} has several versions; name one: {', '.join(version_id(row) for row in live)}"
        )
    return live[0] if live else None


def second_version(key_name: str, rows: Iterable[Reply]) -> IntegrityError:
    """The error for a key that has one version for life and got another."""
    return mismatch(
        f"someone made a second version of {key_name}, which has one for life",
        expected=f"version {ONLY_VERSION} alone",
        found=", ".join(version_id(row) for row in rows),
    )


def check_versions(info: KeyInfo, versions: Versions) -> None:
    """Raises IntegrityError where the versions cannot be those of the key that ``info`` describes."""
    if versions.current is not None:
        specs.check_same_kind(info, _name(versions.current.algorithm))
    if info.conf_digest is None:
        return
    if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT and len(versions.rows) > 1:
        raise second_version(info.uri.resource, versions.rows)
    for row in versions.rows:
        if is_imported(row):
            raise mismatch(
                f"someone brought in the material of version {version_id(row)}",
                expected=KeyOrigin.PROVIDER,
                found=KeyOrigin.IMPORTED,
            )


def unused_version(versions: Versions) -> Reply | None:
    """A version newer than the one in use, which an interrupted rotation has made, if there is one.

    One with imported material, or of another kind, is not taken: whoever brought it may know it.
    """
    newest = versions.rows[-1]
    if newest is versions.current or is_imported(newest):
        return None
    usable = state_of(newest) in (KeyState.ENABLED, KeyState.PENDING_GENERATION)
    same = _name(newest.protection_level) == _name(getattr(versions.current, "protection_level", None))
    return newest if usable and same else None
