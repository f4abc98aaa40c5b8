"""A key's facts as AWS keeps them: KeyMetadata, and at most five tags of ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from anykms.algorithms import Algorithm
from anykms.errors import IntegrityError, InvalidArgumentError, KMSError, UnsupportedOperationError
from anykms.keys import (
    DEFAULT_DESTROY_WINDOW,
    DESTROY_WINDOW_DAYS,
    KeyInfo,
    KeyOrigin,
    KeyState,
    KeyTemplate,
    KeyURI,
    ProtectionLevel,
    check_name,
    utc_seconds,
)
from anykms.provider import mismatch, state_error
from anykms_aws import specs
from anykms_aws.connection import Reply

SCHEME: Final = "awskms"
ALIAS_PREFIX: Final = "alias/anykms/"

_TAG_PREFIX: Final = "anykms"
_NAME: Final = "anykms:name"
_ALGORITHM: Final = "anykms:algorithm"
_WINDOW: Final = "anykms:destroy-window"
_CONF: Final = "anykms:conf"
_FINGERPRINT: Final = "anykms:fingerprint"
_UNFINISHED: Final = "unfinished:"
"""Before the digest in ``anykms:conf`` until the key has its alias: such a key was never handed out."""

_CONF_DIGEST: Final = re.compile(r"[a-z2-7]{52}")
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
# The contract's own tags; others (of CloudFormation, of an accountant) are not the caller's.
_TAG: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}")

Tags = Mapping[str, str]


def fingerprint(spki: bytes) -> str:
    """SHA-256 of an SPKI, lower-case hex."""
    return hashlib.sha256(spki).hexdigest()


def arn_of(info: KeyInfo) -> str:
    """The ARN that a KeyInfo pins."""
    return info.uri.resource[1:]


def state_of(metadata: Reply) -> KeyState:
    """The key's state; IntegrityError for one that AWS's documentation did not have."""
    state = specs.STATES.get(metadata["KeyState"])
    if state is None:
        raise IntegrityError(f"AWS says that the key's state is {ascii(metadata['KeyState'])[:80]}")
    return state


def as_aws_tags(tags: Tags) -> list[dict[str, str]]:
    """Tags as a request has them."""
    return [{"TagKey": name, "TagValue": value} for name, value in tags.items()]


def first_tags(template: KeyTemplate) -> dict[str, str]:
    """The tags that a key is created with."""
    return {
        **template.tags,
        _NAME: template.name,
        _ALGORITHM: template.algorithm,
        _WINDOW: str(template.destroy_window or DEFAULT_DESTROY_WINDOW),
        _CONF: _UNFINISHED + template.conf_digest,
    }


def fingerprint_tag(spki: bytes) -> dict[str, str]:
    """So that the facts of a key can be read while AWS withholds its public key: disabled, or pending destruction."""
    return {_FINGERPRINT: fingerprint(spki)}


def finished_tag(template: KeyTemplate) -> dict[str, str]:
    """Set once the key has its alias."""
    return {_CONF: template.conf_digest}


def is_unfinished(tags: Tags, name: str) -> bool:
    """Whether these are the tags of a key that was to be called ``name`` and got no alias yet."""
    return tags.get(_NAME) == name and tags.get(_CONF, "").startswith(_UNFINISHED)


def is_ours(tags: Tags) -> bool:
    """Whether anykms made the key, as its tags tell it; one of them is enough, for the others may have been removed."""
    return any(name.startswith(_TAG_PREFIX) for name in tags)


def name_in(tags: Tags) -> str | None:
    """The name that the key was made under, as its tags tell it."""
    return tags.get(_NAME)


def has_name(tags: Tags, name: str) -> bool:
    """Whether anykms made the key under ``name``, as its tags tell it."""
    return name_in(tags) == name


def are_first_tags(tags: Tags, template: KeyTemplate) -> bool:
    """Whether these are ``first_tags`` of the template, but for a fingerprint and tags that are not the caller's."""
    found = {k: v for k, v in tags.items() if k.startswith(_TAG_PREFIX) and k != _FINGERPRINT}
    return found | callers_tags(tags) == first_tags(template)


def callers_tags(tags: Tags) -> dict[str, str]:
    """The tags that the caller gave."""
    return {
        name: value
        for name, value in sorted(tags.items())
        if _TAG.fullmatch(f"{name}={value}") and not name.startswith(_TAG_PREFIX)
    }


def pinned_fingerprint(tags: Tags) -> str | None:
    """The fingerprint in the tags, None if there is none or it is not one."""
    found = tags.get(_FINGERPRINT, "")
    return found if _SHA256_HEX.fullmatch(found) else None


def check_tags(info: KeyInfo, tags: Tags) -> None:
    """Raises IntegrityError where the tags disagree with the caller's KeyInfo, which is the one that is right."""
    if info.conf_digest is None:
        return
    expected = {
        _NAME: info.name,
        _ALGORITHM: str(info.algorithm),
        _WINDOW: str(info.destroy_window),
        _CONF: info.conf_digest,
    }
    for name, wanted in expected.items():
        found = tags.get(name, "").removeprefix(_UNFINISHED)
        if found != wanted:
            raise mismatch(
                f"tag {name} of the key is not what its KeyInfo says", expected=wanted, found=found
            )


def read(metadata: Reply, tags: Tags, get_spki: Callable[[], bytes | None]) -> KeyInfo:
    """The KeyInfo of a key.

    Args:
        metadata: KeyMetadata of DescribeKey.
        tags: all of the key's.
        get_spki: called for an asymmetric key only; gives None while AWS withholds it.

    Raises:
        IntegrityError: what AWS answers does not fit together.
        UnsupportedOperationError: a key that anykms does not use.
        KMSError: the state's own error, where only the public key would tell what the tags do not.
    """
    if metadata.get("KeyManager") != "CUSTOMER":
        raise UnsupportedOperationError("AWS manages this key itself; use one of your own")
    ours = is_ours(tags)
    algorithm, key_size = specs.algorithm_of(
        metadata["KeySpec"], metadata["KeyUsage"], _tagged_algorithm(tags) if ours else None
    )
    purpose = specs.spec_of(algorithm, key_size).purpose
    origin, level = specs.ORIGINS.get(metadata["Origin"], (KeyOrigin.UNKNOWN, ProtectionLevel.HSM))
    return KeyInfo(
        name=_tagged_name(tags) if ours else metadata["KeyId"],
        uri=_uri(metadata["Arn"]),
        provider=SCHEME,
        purpose=purpose,
        algorithm=algorithm,
        key_size=key_size,
        protection_level=level,
        origin=origin,
        created_at=utc_seconds(metadata["CreationDate"]),
        fingerprint=_fingerprint(metadata, tags, get_spki()) if specs.has_public_key(purpose) else None,
        tags=MappingProxyType(callers_tags(tags)),
        destroy_window=_tagged_window(tags) if ours else None,
        destroy_window_enforced=False,
        conf_digest=_tagged_digest(tags) if ours else None,
    )


def _uri(arn: str) -> KeyURI:
    try:
        return KeyURI(SCHEME, "/" + arn)
    except InvalidArgumentError as error:
        raise mismatch(
            "AWS names the key by something else", expected="the ARN of a key", found=arn
        ) from error


def _fingerprint(metadata: Reply, tags: Tags, spki: bytes | None) -> str:
    pinned = pinned_fingerprint(tags)
    if spki is None:
        if pinned is None:
            raise _withheld(state_of(metadata))
        return pinned
    found = fingerprint(spki)
    if pinned is not None and pinned != found:
        raise mismatch(
            f"the fingerprint of the key's public key is not that of tag {_FINGERPRINT}",
            expected=pinned,
            found=found,
        )
    return found


def _withheld(state: KeyState) -> KMSError:
    if state is KeyState.ENABLED:
        return IntegrityError("AWS withholds the public key")
    refusal = state_error(state)
    refusal.add_note("AWS gives the public key of a key only while it is enabled")
    return refusal


def _tagged_name(tags: Tags) -> str:
    try:
        return check_name(tags.get(_NAME, ""))
    except InvalidArgumentError as error:
        raise _edited(_NAME, "the name of a key", tags) from error


def _tagged_algorithm(tags: Tags) -> Algorithm:
    try:
        return Algorithm(tags.get(_ALGORITHM, ""))
    except ValueError as error:
        raise _edited(_ALGORITHM, "an algorithm", tags) from error


def _tagged_window(tags: Tags) -> int:
    text = tags.get(_WINDOW, "")
    if text not in map(str, DESTROY_WINDOW_DAYS):
        raise _edited(_WINDOW, "a number of days", tags)
    return int(text)


def _tagged_digest(tags: Tags) -> str:
    digest = tags.get(_CONF, "").removeprefix(_UNFINISHED)
    if not _CONF_DIGEST.fullmatch(digest):
        raise _edited(_CONF, "a digest of 52 characters", tags)
    return digest


def _edited(tag: str, expected: str, tags: Tags) -> IntegrityError:
    return mismatch(f"tag {tag} of the key is missing or edited", expected=expected, found=tags.get(tag))
