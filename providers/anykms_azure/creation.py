"""Making a key: Azure takes a second create for a rotation, and one wrapping key is two keys.

The key itself is made last: until then its sender key is one that nobody uses, which the next ``create_key`` of
the same conf finds, and finishes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    ConflictError,
    IntegrityError,
    InvalidArgumentError,
    KeyExistsError,
    KeyNotFoundError,
    KMSError,
    NameReservedError,
)
from anykms.keys import KeyInfo, KeyTemplate, ProtectionLevel
from anykms_azure import facts, specs
from anykms_azure.connection import Reply
from anykms_azure.facts import Row
from anykms_azure.vault import Vault


def create(vault: Vault, template: KeyTemplate) -> KeyInfo:
    """Make the key of ``template``, its sender key first where it needs one.

    Raises:
        KeyExistsError: a live key has the name, or took it at the same moment.
        NameReservedError: a deleted key has it.
        InvalidArgumentError: the vault keeps deleted keys for another number of days than asked for.
    """
    name, sender = template.name, template.name + facts.SENDER_SUFFIX
    paired = template.purpose is KeyPurpose.ENCRYPT_DECRYPT and template.algorithm is Algorithm.RSA_OAEP_256
    if vault.exists(name):
        raise KeyExistsError(f"the name belongs to the key {name} of the vault")
    _require_not_deleted(vault, name)
    begun = paired and vault.exists(sender)
    if paired and not begun:
        _require_not_deleted(vault, sender)
    # Where nothing in the vault tells its days, no key is usable before they are known.
    enabled = template.destroy_window is None or _check_vault(vault, template.destroy_window)
    sender_bundle = None
    if paired:
        tags = facts.sender_tags(template)
        body = _body(template, KeyPurpose.SIGN_VERIFY, Algorithm.ES256, None, tags, enabled, vault)
        sender_bundle = (
            _begun(vault, sender, tags) if begun else _make(vault, sender, template, body, enabled)
        )
    tags = facts.first_tags(template, None if sender_bundle is None else facts.fingerprint(sender_bundle))
    body = _body(template, template.purpose, template.algorithm, template.key_size, tags, enabled, vault)
    bundle = _make(vault, name, template, body, enabled)
    if template.rotation_period is not None:
        try:
            set_rotation_period(vault, name, template.rotation_period)
        except KMSError as error:
            if not error.retryable:
                for made in [bundle] if sender_bundle is None else [bundle, sender_bundle]:
                    _discard(vault, facts.name_in(made["key"]["kid"]), facts.version_in(made["key"]["kid"]))
            raise
    rows = facts.rows_of([bundle], vault.now())
    return facts.read(bundle, rows, sender_bundle, vault.azure.host, vault.azure.sku)


def set_rotation_period(vault: Vault, name: str, days: int | None) -> None:
    """Replace the key's rotation policy, without expiry; None: rotation on demand only."""
    actions = [{"trigger": {"timeAfterCreate": f"P{days}D"}, "action": {"type": "Rotate"}}] if days else []
    policy: dict[str, object] = {"lifetimeActions": actions, "attributes": {}}
    path = f"/keys/{name}/rotationpolicy"
    vault.once(
        lambda: vault.azure.ask("PUT", path, policy),
        lambda: facts.rotation_days(vault.azure.ask("GET", path)) == days,
    )


def _require_not_deleted(vault: Vault, name: str) -> None:
    if vault.is_deleted(name):
        raise _reserved(name)


def _reserved(name: str) -> NameReservedError:
    return NameReservedError(
        f"the name belongs to the deleted key {name}: recover it (cancel_destruction), or wait until it is purged, "
        "or purge it where the vault allows that"
    )


def _check_vault(vault: Vault, days: int) -> bool:
    """Whether some key of the vault tells its days; raises InvalidArgumentError where they are others."""
    for path in ("/keys?maxresults=1", "/deletedkeys?maxresults=1"):
        for row in vault.azure.pages(path):
            if _recoverable_days(row) is not None:
                _check_days(row, days)
                return True
            break
    return False


def _recoverable_days(reply: Reply) -> object:
    return facts.section(reply, "attributes").get("recoverableDays")


def _check_days(reply: Reply, days: int) -> None:
    found = _recoverable_days(reply)
    if found != days:
        raise InvalidArgumentError(
            f"the vault keeps deleted keys for {found} days, not for {days}; give that, or leave destroy_window out"
        )


def _body(
    template: KeyTemplate,
    purpose: KeyPurpose,
    algorithm: Algorithm,
    key_size: int | None,
    tags: Mapping[str, str],
    enabled: bool,
    vault: Vault,
) -> dict[str, Any]:
    """The request that makes a key: exclusive key_ops, and never nbf or exp."""
    kind = specs.kind_of(purpose, algorithm)
    level = template.protection_level or vault.azure.sku.levels[0]
    in_hsm = level is ProtectionLevel.HSM or kind.kty == "oct"
    body: dict[str, Any] = {
        "kty": f"{kind.kty}-HSM" if in_hsm else kind.kty,
        "key_ops": sorted(kind.key_ops),
        "attributes": {"enabled": enabled},
        "tags": dict(tags),
    }
    if kind.crv is not None:
        body["crv"] = kind.crv
    else:
        body["key_size"] = key_size or specs.A256GCM_BITS
    return body


def _begun(vault: Vault, sender: str, tags: Mapping[str, str]) -> Reply:
    """The sender key of an interrupted call, if it is the very one that would be made now."""
    bundle, row = vault.current(sender)
    try:
        facts.check_as_made(KeyPurpose.SIGN_VERIFY, Algorithm.ES256, bundle)
        as_begun = row.tags == tags and len(vault.rows(sender)) == 1
    except IntegrityError:
        as_begun = False
    if not as_begun:
        raise KeyExistsError(
            f"the name belongs to {sender}, which is not what this conf makes: look at it, then delete and purge it"
        )
    if not row.enabled:
        vault.update(sender, row.id, enabled=True)
    return bundle


def _make(vault: Vault, name: str, template: KeyTemplate, body: Mapping[str, Any], enabled: bool) -> Reply:
    """Create once, and see that no second version came of it."""
    made: Reply | None = None
    try:
        made = vault.create(name, body)
    except NameReservedError as error:
        raise _reserved(name) from error.__cause__
    except ConflictError as error:
        raise NameReservedError(f"{name} is being deleted, or recovered") from error.__cause__
    except KMSError as error:
        if not error.retryable:
            raise
        # The key may have been made although its reply was lost.
        with contextlib.suppress(KMSError):
            found, row = vault.current(name)
            if row.tags == body["tags"]:
                made = found
        if made is None:
            raise
    version = facts.version_in(made["key"]["kid"])
    if not _is_first(vault, name, version):
        vault.update(name, version, enabled=False, tags=facts.discarded_tags())
        raise KeyExistsError(f"another caller made {name} at the same moment; our version of it is disabled")
    if template.destroy_window is not None:
        try:
            _check_days(made, template.destroy_window)
        except InvalidArgumentError:
            _discard(vault, name, version)
            raise
        if not enabled:
            vault.update(name, version, enabled=True)
            made = {**made, "attributes": {**made["attributes"], "enabled": True}}
    return made


def _is_first(vault: Vault, name: str, version: str) -> bool:
    """Whether our version came first. Azure's dates are whole seconds; its current version is the last one made."""

    def with_ours() -> tuple[Row, list[Row]]:
        rows = vault.rows(name)
        ours = next((row for row in rows if row.id == version), None)
        if ours is None:
            raise KeyNotFoundError(f"{name} has no version {version} yet")
        return ours, rows

    ours, rows = vault.seen(with_ours, "made")
    if rows == [ours]:
        return True
    if any(row.created < ours.created for row in rows):
        return False
    tied = [row for row in rows if row.created == ours.created]
    return len(tied) == 1 or (len(tied) == 2 and vault.current(name)[1].id != version)


def _discard(vault: Vault, name: str, version: str) -> None:
    """Give up a key that nobody has used; where it cannot be purged its name stays reserved for the vault's days."""
    with contextlib.suppress(KMSError, KeyNotFoundError):
        vault.update(name, version, enabled=False)
        vault.delete(name)
        vault.await_deleted(name)
        vault.purge(name)
