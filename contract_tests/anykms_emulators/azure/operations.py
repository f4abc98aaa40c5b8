"""Every operation of the keys API: its name in Microsoft's specification, its route and what it does."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import quote

from anykms_emulators.azure import crypto
from anykms_emulators.azure.errors import KeyVaultError, bad_parameter, forbidden, not_emulated, required
from anykms_emulators.azure.keys import (
    API_VERSIONS,
    Json,
    Version,
    attributes_json,
    changed_attributes,
    decode,
    default_key_ops,
    encode,
    generate,
    load,
    new_attributes,
    new_id,
    parse_key_ops,
    parse_release,
    parse_tags,
    public_jwk,
    release_json,
    resolve_kty,
    section,
    since,
    text,
)
from anykms_emulators.azure.rotation import parse_policy, policy_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anykms_emulators.azure.vault import DeletedKey, Key, Vault

MAX_PAGE: Final = 25
MAX_RANDOM_BYTES: Final = 128
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `base` is `https://` and the Host that the caller used, `api` an index of API_VERSIONS."""

    vault: Vault
    base: str
    api: int
    name: str
    version: str | None
    query: Mapping[str, str]
    body: Mapping[str, Any] = field(repr=False)
    nonces: crypto.Nonces = field(repr=False)

    @property
    def url(self) -> str:
        """What the request names, for an error."""
        return (
            self.key_url(self.name) if self.version is None else f"{self.key_url(self.name)}/{self.version}"
        )

    def key_url(self, name: str) -> str:
        """A key's identifier without version."""
        return f"{self.base}/keys/{name}"

    def kid(self, key: Key, version: Version) -> str:
        """A version's identifier."""
        return f"{self.key_url(key.name)}/{version.id}"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation: `path` has `{name}` and `{version}` for what varies; `first`: since which api-version."""

    name: str
    method: str
    path: tuple[str, ...]
    run: Callable[[Call], Json | None]
    first: int = 0


def _create(call: Call) -> Json:
    settings = call.vault.settings
    kty = resolve_kty(call.body, settings.sku)
    make = _maker(call, call.body, kty)
    material = generate(call.body, kty)
    return _bundle(call, *call.vault.add_version(call.name, lambda now: make(material, now)))


def _import(call: Call) -> Json:
    jwk = section(call.body, "key")
    if not jwk:
        raise required("key")
    hsm = next((value for name, value in call.body.items() if name.lower() == "hsm"), None)
    kty = resolve_kty(jwk, call.vault.settings.sku, hsm=hsm is True)
    make = _maker(call, jwk, kty)
    material = load(jwk, kty)
    return _bundle(call, *call.vault.add_version(call.name, lambda now: make(material, now)))


def _maker(call: Call, jwk: Mapping[str, Any], kty: str) -> Callable[[Any, int], Version]:
    settings = call.vault.settings
    ops = parse_key_ops(jwk, kty, managed_hsm=settings.managed_hsm)
    tags = parse_tags(call.body)
    attributes = new_attributes(call.body, 0)
    policy = parse_release(call.body, kty, settings.sku, call.api, exportable=attributes.exportable)

    def make(material: Any, now: int) -> Version:
        return Version(
            id=new_id(),
            kty=kty,
            material=material,
            key_ops=default_key_ops(kty, managed_hsm=settings.managed_hsm) if ops is None else ops,
            attributes=replace(attributes, created=now, updated=now),
            tags=tags,
            release_policy=policy,
        )

    return make


def _rotate(call: Call) -> Json:
    return _bundle(call, *call.vault.rotate(call.name, call.url))


def _update(call: Call) -> Json:
    tags = parse_tags(call.body)
    if section(call.body, "release_policy"):
        raise not_emulated("changes of a release policy")

    def change(old: Version, now: int) -> Version:
        ops = parse_key_ops(call.body, old.kty, managed_hsm=call.vault.settings.managed_hsm)
        return replace(
            old,
            attributes=changed_attributes(old.attributes, call.body, now),
            key_ops=old.key_ops if ops is None else ops,
            tags=old.tags if tags is None else tags,
        )

    return _bundle(call, *call.vault.update(call.name, call.version, call.url, change))


def _get(call: Call) -> Json:
    return _bundle(call, *call.vault.find(call.name, call.version, call.url))


def _list_keys(call: Call) -> Json:
    found = call.vault.list_keys()
    page, rest = _page(call, found, lambda item: item[0].name.lower())
    return _list(call, "/keys", [_item(call, version, call.key_url(key.name)) for key, version in page], rest)


def _list_versions(call: Call) -> Json:
    found = call.vault.list_versions(call.name, call.url)
    page, rest = _page(call, found, lambda item: item[1].id)
    items = [_item(call, version, call.kid(key, version)) for key, version in page]
    return _list(call, f"/keys/{call.name}/versions", items, rest)


def _list_deleted(call: Call) -> Json:
    found = call.vault.list_deleted()
    page, rest = _page(call, found, lambda item: item[0].key.name.lower())
    items = [
        _deletion(call, deleted) | _item(call, version, call.key_url(deleted.key.name))
        for deleted, version in page
    ]
    return _list(call, "/deletedkeys", items, rest)


def _delete(call: Call) -> Json:
    deleted, version = call.vault.delete(call.name, call.url)
    return _deleted_bundle(call, deleted, version)


def _get_deleted(call: Call) -> Json:
    deleted, version = call.vault.find_deleted(call.name)
    return _deleted_bundle(call, deleted, version)


def _recover(call: Call) -> Json:
    return _bundle(call, *call.vault.recover(call.name))


def _purge(call: Call) -> None:
    call.vault.purge(call.name)


def _backup(call: Call) -> Json:
    return {"value": encode(call.vault.backup(call.name, call.url))}


def _restore(call: Call) -> Json:
    return _bundle(call, *call.vault.restore(decode(call.body, "value"), call.key_url))


def _encryption(name: str) -> Callable[[Call], Json]:
    step = crypto.encrypt if name in ("encrypt", "wrapKey") else crypto.decrypt

    def run(call: Call) -> Json:
        key, version = call.vault.usable(call.name, call.version, call.url, name)
        kid = call.kid(key, version)
        return _result(call, kid, step(version, kid, call.body, wrap=name.lower().endswith("wrapkey")))

    return run


def _sign(call: Call) -> Json:
    key, version = call.vault.usable(call.name, call.version, call.url, "sign")
    kid = call.kid(key, version)
    return _result(call, kid, crypto.sign(version, kid, call.body, call.nonces))


def _verify(call: Call) -> Json:
    key, version = call.vault.usable(call.name, call.version, call.url, "verify")
    kid = call.kid(key, version)
    answer = crypto.verify(version, kid, call.body)
    # a vault answers with the value alone (azure-sdk-assets, TestSignVerify)
    return _result(call, kid, answer) if _hsm(call) else answer


def _release(call: Call) -> Json:
    _, version = call.vault.usable(call.name, call.version, call.url, "release")
    if not text(call.body, "target"):
        raise required("target")
    if not version.attributes.exportable:
        raise bad_parameter("The key is not exportable, and cannot be released.")
    # true of any statement here: the emulator trusts no attestation authority
    raise forbidden("Target environment attestation statement cannot be verified.", "AccessDenied")


def _get_policy(call: Call) -> Json:
    key, _ = call.vault.find(call.name, None, call.url)
    return policy_json(key.policy, f"{call.key_url(key.name)}/rotationpolicy", hsm=_hsm(call))


def _set_policy(call: Call) -> Json:
    key, policy = call.vault.set_policy(
        call.name,
        call.url,
        lambda previous, now: parse_policy(call.body, now=now, previous=previous, hsm=_hsm(call)),
    )
    return policy_json(policy, f"{call.key_url(key.name)}/rotationpolicy", hsm=_hsm(call))


def _random(call: Call) -> Json:
    if not _hsm(call):
        raise KeyVaultError(404, "NotFound", "Random bytes come from a managed HSM only.")
    count = call.body.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_RANDOM_BYTES:
        raise bad_parameter(f"Property 'count' must be 1 to {MAX_RANDOM_BYTES}.\r\n")
    return {"value": encode(os.urandom(count))}


def _attestation(call: Call) -> Json:
    call.vault.find(call.name, call.version, call.url)
    raise not_emulated("key attestation, which only a hardware module can make")


def _secure_wrap(call: Call) -> Json:
    call.vault.find(call.name, call.version, call.url)
    raise not_emulated("secure wrapping for trusted execution environments")


def _hsm(call: Call) -> bool:
    return call.vault.settings.managed_hsm


def _result(call: Call, kid: str, fields: Json) -> Json:
    # a managed HSM repeats the algorithm (azure-sdk-assets, TestEncryptDecryptSymmetric)
    alg = {"alg": call.body["alg"]} if _hsm(call) else {}
    return {"kid": kid, **alg, **fields}


def _attributes(call: Call, version: Version) -> Json:
    settings = call.vault.settings
    return attributes_json(
        version,
        call.api,
        sku=settings.sku,
        level=settings.recovery_level,
        days=settings.recoverable_days,
    )


def _bundle(call: Call, key: Key, version: Version) -> Json:
    shown: Json = {
        "key": public_jwk(version, call.kid(key, version)),
        "attributes": _attributes(call, version),
    }
    if version.tags:
        shown["tags"] = dict(version.tags)
    if version.release_policy is not None:
        shown["release_policy"] = release_json(version.release_policy)
    return shown


def _deleted_bundle(call: Call, deleted: DeletedKey, version: Version) -> Json:
    # without the release policy (azure-sdk-assets, TestReleaseKey)
    return _deletion(call, deleted) | _bundle(call, deleted.key, replace(version, release_policy=None))


def _item(call: Call, version: Version, kid: str) -> Json:
    tags = {"tags": dict(version.tags)} if version.tags else {}
    return {"kid": kid, "attributes": _attributes(call, version), **tags}


def _deletion(call: Call, deleted: DeletedKey) -> Json:
    return {
        "recoveryId": f"{call.base}/deletedkeys/{deleted.key.name}",
        "deletedDate": deleted.deleted,
        "scheduledPurgeDate": deleted.purge_at,
    }


def _page(
    call: Call, found: Sequence[_Item], position: Callable[[_Item], str]
) -> tuple[Sequence[_Item], str | None]:
    wanted = call.query.get("maxresults", str(MAX_PAGE))
    if not (wanted.isascii() and wanted.isdigit()) or len(wanted) > 9 or not 1 <= int(wanted) <= MAX_PAGE:
        raise bad_parameter(f"Invalid value for 'maxresults'. It must be between 1 and {MAX_PAGE}.")
    after = _read_token(call.query.get("$skiptoken"))
    left = [item for item in found if after is None or position(item) > after]
    page = left[: int(wanted)]
    if len(left) <= len(page):
        return page, None
    token = base64.urlsafe_b64encode(json.dumps({"after": position(page[-1])}).encode()).decode()
    return page, f"$skiptoken={quote(token)}&maxresults={wanted}"


def _read_token(token: str | None) -> str | None:
    if token is None:
        return None
    try:
        content: object = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        content = None
    after = cast("Json", content).get("after") if isinstance(content, dict) else None
    if not isinstance(after, str):
        raise bad_parameter("Invalid value for '$skiptoken'.")
    return after


def _list(call: Call, path: str, items: list[Json], rest: str | None) -> Json:
    if rest is None:
        # a vault says so; a managed HSM leaves the field out (azure-sdk-assets, TestListKeyVersions)
        return {"value": items} if _hsm(call) else {"value": items, "nextLink": None}
    return {"value": items, "nextLink": f"{call.base}{path}?api-version={API_VERSIONS[call.api]}&{rest}"}


def _both(
    name: str, segment: str, run: Callable[[Call], Json], first: int = 0
) -> tuple[Operation, Operation]:
    """A cryptographic operation, with a version in its URL and without."""
    return (
        Operation(name, "POST", ("keys", "{name}", "{version}", segment), run, first),
        Operation(name, "POST", ("keys", "{name}", segment), run, first),
    )


OPERATIONS: Final = (
    Operation("CreateKey", "POST", ("keys", "{name}", "create"), _create),
    Operation("RotateKey", "POST", ("keys", "{name}", "rotate"), _rotate, since("7.3")),
    Operation("ImportKey", "PUT", ("keys", "{name}"), _import),
    Operation("DeleteKey", "DELETE", ("keys", "{name}"), _delete),
    Operation("UpdateKey", "PATCH", ("keys", "{name}", "{version}"), _update),
    Operation("UpdateKey", "PATCH", ("keys", "{name}"), _update),
    Operation("GetKeyVersions", "GET", ("keys", "{name}", "versions"), _list_versions),
    Operation("GetKeyRotationPolicy", "GET", ("keys", "{name}", "rotationpolicy"), _get_policy, since("7.3")),
    Operation(
        "UpdateKeyRotationPolicy", "PUT", ("keys", "{name}", "rotationpolicy"), _set_policy, since("7.3")
    ),
    Operation("GetKey", "GET", ("keys", "{name}", "{version}"), _get),
    Operation("GetKey", "GET", ("keys", "{name}"), _get),
    Operation(
        "GetKeyAttestation",
        "GET",
        ("keys", "{name}", "{version}", "attestation"),
        _attestation,
        since("7.6-preview.2"),
    ),
    Operation("GetKeys", "GET", ("keys",), _list_keys),
    Operation("RestoreKey", "POST", ("keys", "restore"), _restore),
    Operation("BackupKey", "POST", ("keys", "{name}", "backup"), _backup),
    *_both("encrypt", "encrypt", _encryption("encrypt")),
    *_both("decrypt", "decrypt", _encryption("decrypt")),
    *_both("wrapKey", "wrapkey", _encryption("wrapKey")),
    *_both("unwrapKey", "unwrapkey", _encryption("unwrapKey")),
    *_both("sign", "sign", _sign),
    *_both("verify", "verify", _verify),
    *_both("release", "release", _release, since("7.3")),
    *_both("secureWrapKey", "securewrapkey", _secure_wrap, since("2026-01-01-preview")),
    *_both("secureUnwrapKey", "secureunwrapkey", _secure_wrap, since("2026-01-01-preview")),
    Operation("GetDeletedKeys", "GET", ("deletedkeys",), _list_deleted),
    Operation("GetDeletedKey", "GET", ("deletedkeys", "{name}"), _get_deleted),
    Operation("PurgeDeletedKey", "DELETE", ("deletedkeys", "{name}"), _purge),
    Operation("RecoverDeletedKey", "POST", ("deletedkeys", "{name}", "recover"), _recover),
    Operation("GetRandomBytes", "POST", ("rng",), _random, since("7.2")),
)


def route(method: str, segments: Sequence[str]) -> tuple[Operation, dict[str, str]]:
    """The operation for a method and path, with what its path variables hold. KeyVaultError 404 or 405."""
    allowed: list[str] = []
    for operation in OPERATIONS:
        variables = _match(operation.path, segments)
        if variables is not None and operation.method == method:
            return operation, variables
        if variables is not None:
            allowed.append(operation.method)
    if allowed:
        raise KeyVaultError(
            405, "MethodNotAllowed", f"Use {' or '.join(sorted(set(allowed)))} for this path."
        )
    raise KeyVaultError(
        404,
        "NotFound",
        "No such resource. The emulator plays keys, not secrets, certificates or administration.",
    )


def _match(path: tuple[str, ...], segments: Sequence[str]) -> dict[str, str] | None:
    if len(path) != len(segments):
        return None
    variables: dict[str, str] = {}
    for wanted, given in zip(path, segments, strict=True):
        if wanted.startswith("{"):
            variables[wanted[1:-1]] = given
        elif wanted != given.lower():
            return None
    return variables
