"""Making a key: AWS creates a key and names it in two steps, and either can fail.

The alias is the commit point: everything else about the key is in place before it. Until then the key's tags say
that it is unfinished, so that the next ``create_key`` of that name finds it, and finishes it if it is the very
key that would be made now.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Final

from anykms.errors import (
    KeyExistsError,
    KeyNotFoundError,
    KMSError,
    NameReservedError,
    PermissionDeniedError,
    UnavailableError,
)
from anykms.keys import DESTROY_WINDOW_DAYS, KeyInfo, KeyState, KeyTemplate
from anykms_aws import facts, specs
from anykms_aws.connection import Connection, Reply

MAX_KEYS: Final = 10_000
MAX_WITHOUT_ALIAS: Final = 200
"""How far the search for an unfinished key goes: keys listed, and keys without alias whose tags are read."""

_PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between asking again for what was just made and is not seen yet."""


def create(aws: Connection, template: KeyTemplate) -> KeyInfo:
    """Make the key of ``template``, or finish one that an earlier call began.

    Raises:
        KeyExistsError: a live key has the name.
        NameReservedError: a key pending destruction has it, or an unfinished one that cannot be finished.
    """
    alias = facts.ALIAS_PREFIX + template.name
    holder = _holder(aws, alias)
    if holder is not None:
        raise _taken(holder)
    metadata = _unfinished(aws, template) or _begin(aws, template)
    arn: str = metadata["Arn"]
    try:
        spki = _finish(aws, arn, alias, template)
    except KeyNotFoundError as error:
        raise UnavailableError(
            f"AWS KMS does not show the new key {arn} everywhere yet; generate it again to finish it"
        ) from error
    except KeyExistsError as error:
        try:
            holder = _seen(lambda: aws.describe(alias))
        except KeyNotFoundError:
            raise error from None
        if holder["Arn"] != arn:  # else another process found our key unfinished, and was quicker
            _discard(aws, arn)
        raise _taken(holder) from error.__cause__
    except KMSError as error:
        if not error.retryable:
            _discard(aws, arn)
        raise
    # The key is complete. Should this fail, the mark tells nothing new: a key with alias is not unfinished.
    with contextlib.suppress(KMSError):
        aws.ask("tag_resource", KeyId=arn, Tags=facts.as_aws_tags(facts.finished_tag(template)))
    return facts.read(metadata, facts.first_tags(template), lambda: spki)


def _holder(aws: Connection, alias: str) -> Reply | None:
    try:
        return aws.describe(alias)
    except KeyNotFoundError:
        return None


def _taken(holder: Reply) -> KMSError:
    if facts.state_of(holder) is KeyState.PENDING_DESTRUCTION:
        return NameReservedError(f"the name belongs to {holder['Arn']}, which is pending destruction")
    return KeyExistsError(f"the name belongs to {holder['Arn']}")


def _begin(aws: Connection, template: KeyTemplate) -> Reply:
    spec = specs.spec_of(template.algorithm, template.key_size)
    try:
        made = aws.ask(
            "create_key",
            KeySpec=spec.key_spec,
            KeyUsage=spec.key_usage,
            Tags=facts.as_aws_tags(facts.first_tags(template)),
        )
    except KMSError as error:
        if not error.retryable:
            raise
        # The key may have been made although its reply was lost.
        with contextlib.suppress(KMSError):
            found = _unfinished(aws, template)
            if found is not None:
                return found
        raise
    return Reply(made["KeyMetadata"])


def _finish(aws: Connection, arn: str, alias: str, template: KeyTemplate) -> bytes | None:
    """All that follows CreateKey; each step may be done again. Returns the SPKI of an asymmetric key."""
    spki: bytes | None = None
    if template.rotation_period is not None:
        days = template.rotation_period
        _seen(lambda: aws.ask("enable_key_rotation", KeyId=arn, RotationPeriodInDays=days))
    if specs.has_public_key(template.purpose):
        public: bytes = _seen(lambda: aws.ask("get_public_key", KeyId=arn))["PublicKey"]
        tags = facts.as_aws_tags(facts.fingerprint_tag(public))
        _seen(lambda: aws.ask("tag_resource", KeyId=arn, Tags=tags))
        spki = public
    _seen(lambda: aws.ask("create_alias", AliasName=alias, TargetKeyId=arn))
    return spki


def _seen(ask: Callable[[], Reply]) -> Reply:
    """An answer about what was just made: NotFoundException says that nothing was done, and may be wrong for a while.

    "It typically takes less than a few seconds for the change to propagate" (AWS KMS developer guide, "Eventual
    consistency").
    """
    for pause in _PAUSES:
        try:
            return ask()
        except KeyNotFoundError:
            time.sleep(pause)
    return ask()


def _discard(aws: Connection, arn: str) -> None:
    """Give up a key that nobody has used; if that fails too, its tags still say that it is unfinished."""
    with contextlib.suppress(KMSError):
        aws.ask("schedule_key_deletion", KeyId=arn, PendingWindowInDays=DESTROY_WINDOW_DAYS[0])


def _unfinished(aws: Connection, template: KeyTemplate) -> Reply | None:
    """The KeyMetadata of an unfinished key of this template, if there is one.

    Raises:
        NameReservedError: there is one of this name that must not be used.
    """
    for key_id in itertools.islice(_without_alias(aws), MAX_WITHOUT_ALIAS):
        try:
            tags = read_tags(aws, key_id)
            if not facts.is_unfinished(tags, template.name):
                continue
            metadata = aws.describe(key_id)
        except (KeyNotFoundError, PermissionDeniedError):
            continue  # gone meanwhile, or a key whose owner does not let us look: not ours
        if facts.state_of(metadata) is KeyState.PENDING_DESTRUCTION:
            continue
        if not _is_as_made(aws, template, metadata, tags):
            raise NameReservedError(
                f"{metadata['Arn']} was begun under this name and never finished, and it is not what this "
                "conf makes: look at it, then schedule its deletion"
            )
        return metadata
    return None


def _without_alias(aws: Connection) -> list[str]:
    # Keys first: an alias made between the two listings is then seen.
    keys = [row["KeyId"] for row in itertools.islice(aws.pages("list_keys", "Keys", Limit=1000), MAX_KEYS)]
    named = {row.get("TargetKeyId") for row in aws.pages("list_aliases", "Aliases", Limit=100)}
    return [key for key in keys if key not in named]


def read_tags(aws: Connection, key_id: str) -> dict[str, str]:
    """All tags of a key, by its id or ARN."""
    rows = aws.pages("list_resource_tags", "Tags", KeyId=key_id)
    return {row["TagKey"]: row["TagValue"] for row in rows}


def _is_as_made(aws: Connection, template: KeyTemplate, metadata: Reply, tags: facts.Tags) -> bool:
    """Whether the key is just what ``create_key`` makes, so that nobody else holds its material or rights to it.

    Tags alone prove nothing: another principal of the account could plant a key with material of its own, or
    with a policy or grants that let it in.
    """
    spec = specs.spec_of(template.algorithm, template.key_size)
    found = (
        metadata["KeySpec"],
        metadata["KeyUsage"],
        metadata["Origin"],
        metadata["MultiRegion"],
        metadata["KeyState"],
    )
    if found != (spec.key_spec, spec.key_usage, "AWS_KMS", False, "Enabled"):
        return False
    if not facts.are_first_tags(tags, template):
        return False
    arn: str = metadata["Arn"]
    policy = aws.ask("get_key_policy", KeyId=arn, PolicyName="default")["Policy"]
    return _is_default_policy(policy, arn) and not any(aws.pages("list_grants", "Grants", KeyId=arn))


def _is_default_policy(policy: str, arn: str) -> bool:
    """Whether it is the policy that AWS gives a key made by API without one (AWS KMS guide, "Default key policy")."""
    _, partition, _, _, account, _ = arn.split(":", 5)
    try:
        document: object = json.loads(policy)
    except ValueError:
        return False
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{partition}:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return document == {"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}
