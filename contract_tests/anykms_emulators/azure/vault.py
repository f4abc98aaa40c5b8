"""One vault or managed HSM: its keys, their versions, soft delete, rotation, backup."""

from __future__ import annotations

import base64
import copy
import json
import os
import threading
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from anykms_emulators.azure.errors import (
    bad_parameter,
    conflict,
    deleted_not_found,
    forbidden,
    hsm_not_found,
    not_found,
)
from anykms_emulators.azure.keys import (
    NAME,
    Attributes,
    Json,
    Material,
    ReleasePolicy,
    Sku,
    Version,
    new_id,
)
from anykms_emulators.azure.rotation import Duration, RotationPolicy
from anykms_emulators.material import (
    GCM_NONCE_BYTES,
    DecryptionError,
    EcKey,
    RsaKey,
    SecretKey,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from anykms_emulators.clock import Clock

_BACKUP: Final = b"anykms emulator key backup 1"
_CLOSED_OPERATIONS: Final = frozenset({"decrypt", "sign", "unwrapKey", "release"})
_TIMED_OPERATIONS: Final = frozenset({"encrypt", "sign", "wrapKey"})


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """What an Azure administrator chooses for a vault.

    sku: `standard` (software keys), `premium` (HSM-protected keys too) or `hsm` (a managed HSM).
    recoverable_days: how long a deleted key can be recovered, 7 to 90, fixed for the vault.
    purge_protection: deleted keys cannot be purged before that.
    eventual_reads: how many reads after a delete or a recover still answer 404, as a real vault does for
    some seconds. A managed HSM has no such delay in the recordings, and none here.
    """

    sku: Sku = "premium"
    recoverable_days: int = 90
    purge_protection: bool = False
    eventual_reads: int = 0

    def __post_init__(self) -> None:
        if self.sku not in ("standard", "premium", "hsm"):
            raise ValueError("sku must be standard, premium or hsm")
        if not 7 <= self.recoverable_days <= 90:
            raise ValueError("recoverable_days must be 7 to 90")
        if self.eventual_reads < 0:
            raise ValueError("eventual_reads must not be negative")

    @property
    def managed_hsm(self) -> bool:
        """Whether this is a managed HSM and not a vault."""
        return self.sku == "hsm"

    @property
    def lag(self) -> int:
        """Reads that still answer 404 after a delete or a recover."""
        return 0 if self.managed_hsm else self.eventual_reads

    @property
    def recovery_level(self) -> str:
        """The recoveryLevel attribute of every key here."""
        level = "Recoverable" if self.recoverable_days == 90 else "CustomizedRecoverable"
        return level if self.purge_protection else f"{level}+Purgeable"


@dataclass(slots=True)
class Key:
    """A key: its versions, oldest first, and its rotation policy. `hidden_reads` reads still answer 404."""

    name: str
    versions: dict[str, Version] = field(default_factory=dict[str, Version])
    policy: RotationPolicy | None = None
    hidden_reads: int = 0

    @property
    def current(self) -> Version:
        """The newest version."""
        return next(reversed(self.versions.values()))


@dataclass(slots=True)
class DeletedKey:
    """A soft-deleted key. Times are whole seconds since 1970."""

    key: Key
    deleted: int
    purge_at: int
    hidden_reads: int


class Vault:
    """The state of one vault. Every public method takes the lock; none does slow cryptography under it."""

    def __init__(self, settings: VaultSettings, clock: Clock, backup_key: SecretKey) -> None:
        self.settings = settings
        self._clock = clock
        self._backup_key = backup_key
        self._lock = threading.RLock()
        self._keys: dict[str, Key] = {}
        self._deleted: dict[str, DeletedKey] = {}

    def copy(self) -> Vault:
        """Everything as it is now, for a replica that is behind."""
        made = Vault(self.settings, self._clock, self._backup_key)
        with self._lock:
            made._keys, made._deleted = copy.deepcopy((self._keys, self._deleted))
        return made

    def now(self) -> int:
        """The emulator's time in whole seconds since 1970."""
        return int(self._clock.now().timestamp())

    def add_version(self, name: str, make: Callable[[int], Version]) -> tuple[Key, Version]:
        """A new key, or a new version when `name` is in use. `make` gets the time."""
        check_name(name)
        with self._lock:
            self._settle()
            self._check_free(name)
            version = make(self.now())
            key = self._keys.setdefault(name.lower(), Key(name))
            key.versions[version.id] = version
            return key, version

    def find(self, name: str, version: str | None, url: str) -> tuple[Key, Version]:
        """A live key and its version (None: the current one). 404 for an absent or still hidden one."""
        check_name(name)
        with self._lock:
            self._settle()
            return self._find(name, version, url)

    def update(
        self, name: str, version: str | None, url: str, change: Callable[[Version, int], Version]
    ) -> tuple[Key, Version]:
        """Replace a version by what `change` makes of it at a time."""
        check_name(name)
        with self._lock:
            self._settle()
            key, old = self._find(name, version, url)
            new = change(old, self.now())
            key.versions[old.id] = new
            return key, new

    def list_keys(self) -> list[tuple[Key, Version]]:
        """Live keys by name, each with its current version."""
        with self._lock:
            self._settle()
            return [(key, key.current) for _, key in sorted(self._keys.items()) if not key.hidden_reads]

    def list_versions(self, name: str, url: str) -> list[tuple[Key, Version]]:
        """A key's versions by identifier, which says nothing of their age."""
        check_name(name)
        with self._lock:
            self._settle()
            key, _ = self._find(name, None, url)
            return [(key, key.versions[version]) for version in sorted(key.versions)]

    def list_deleted(self) -> list[tuple[DeletedKey, Version]]:
        """Deleted keys by name, each with its current version."""
        with self._lock:
            self._settle()
            gone = [deleted for _, deleted in sorted(self._deleted.items())]
            return [(deleted, deleted.key.current) for deleted in gone if not deleted.hidden_reads]

    def delete(self, name: str, url: str) -> tuple[DeletedKey, Version]:
        """Soft-delete a key with all versions."""
        check_name(name)
        with self._lock:
            self._settle()
            key, version = self._find(name, None, url)
            now = self.now()
            purge_at = now + int(timedelta(days=self.settings.recoverable_days).total_seconds())
            deleted = DeletedKey(key, now, purge_at, self.settings.lag)
            del self._keys[name.lower()]
            self._deleted[name.lower()] = deleted
            return deleted, version

    def find_deleted(self, name: str) -> tuple[DeletedKey, Version]:
        """A deleted key; 404 while its deletion has not finished, each such read counting."""
        check_name(name)
        with self._lock:
            self._settle()
            deleted = self._deleted.get(name.lower())
            if deleted is None:
                raise deleted_not_found(name)
            if deleted.hidden_reads:
                deleted.hidden_reads -= 1
                raise deleted_not_found(name)
            return deleted, deleted.key.current

    def recover(self, name: str) -> tuple[Key, Version]:
        """Bring a deleted key back as it was."""
        with self._lock:
            deleted = self._removable(name)
            key = deleted.key
            key.hidden_reads = self.settings.lag
            del self._deleted[name.lower()]
            self._keys[name.lower()] = key
            return key, key.current

    def purge(self, name: str) -> None:
        """Destroy a deleted key; 403 under purge protection."""
        with self._lock:
            self._removable(name)
            if self.settings.purge_protection:
                raise forbidden(
                    'Operation "purge" is not allowed because purge protection is enabled for this vault. '
                    "Key Vault service will automatically purge it after the retention period has passed",
                    None,
                )
            del self._deleted[name.lower()]

    def rotate(self, name: str, url: str) -> tuple[Key, Version]:
        """A new version like the current one, with new material."""
        check_name(name)
        with self._lock:
            self._settle()
            key, current = self._find(name, None, url)
            if self.settings.managed_hsm and key.policy is None:
                raise bad_parameter("A managed HSM rotates a key only when a rotation policy is set for it.")
            return key, _rotate(key, current, self._clock.now())

    def set_policy(
        self, name: str, url: str, make: Callable[[RotationPolicy | None, int], RotationPolicy]
    ) -> tuple[Key, RotationPolicy]:
        """Replace a key's rotation policy by what `make` makes of the old one at a time."""
        check_name(name)
        with self._lock:
            self._settle()
            key, _ = self._find(name, None, url)
            key.policy = make(key.policy, self.now())
            return key, key.policy

    def usable(self, name: str, version: str | None, url: str, operation: str) -> tuple[Key, Version]:
        """A version for a cryptographic operation, checked for its state and its key_ops.

        A disabled key still encrypts, wraps and verifies; a key outside nbf and exp still decrypts,
        unwraps, verifies and is released (azure-sdk-for-python#45342; Microsoft, "Key attributes").
        """
        key, found = self.find(name, version, url)
        attributes, now = found.attributes, self.now()
        if operation in _CLOSED_OPERATIONS and not attributes.enabled:
            raise forbidden(f"Operation {operation} is not allowed on a disabled key.", "KeyDisabled")
        if operation in _TIMED_OPERATIONS:
            if attributes.nbf is not None and now < attributes.nbf:
                raise forbidden(
                    f"Operation {operation} is not allowed on a key not yet valid.", "KeyNotYetValid"
                )
            if attributes.exp is not None and now >= attributes.exp:
                raise forbidden(f"Operation {operation} is not allowed on an expired key.", "KeyExpired")
        if operation not in found.key_ops and operation != "release":
            raise forbidden(f"Operation {operation} is not permitted on this key.", "KeyOperationForbidden")
        return key, found

    def backup(self, name: str, url: str) -> bytes:
        """A key with all versions, sealed; any vault of the same emulator and kind restores it."""
        key, _ = self.find(name, None, url)
        with self._lock:
            versions, policy = list(key.versions.values()), key.policy
        content = {
            "name": key.name,
            "hsm": self.settings.managed_hsm,
            "versions": [_version_out(version) for version in versions],
            "policy": None if policy is None else asdict(policy),
        }
        nonce = os.urandom(GCM_NONCE_BYTES)
        return nonce + self._backup_key.seal(json.dumps(content).encode(), _BACKUP, nonce)

    def restore(self, blob: bytes, url_of: Callable[[str], str]) -> tuple[Key, Version]:
        """Bring back a backup under its name, which must not be in use; 400 for a damaged one."""
        try:
            plain = self._backup_key.open(blob[GCM_NONCE_BYTES:], _BACKUP, blob[:GCM_NONCE_BYTES])
        except (DecryptionError, ValueError):
            raise bad_parameter("Backup blob is malformed or was made elsewhere.") from None
        content: Json = json.loads(plain)
        if content["hsm"] != self.settings.managed_hsm:
            raise bad_parameter("A backup of a vault cannot be restored to a managed HSM, nor the reverse.")
        key = Key(content["name"])
        for fields in content["versions"]:
            version = _version_in(fields)
            key.versions[version.id] = version
        key.policy = _policy_in(content["policy"])
        with self._lock:
            self._settle()
            self._check_free(key.name)
            if key.name.lower() in self._keys:
                raise conflict(
                    f"There was a conflict restoring the key '{url_of(key.name)}'. This can happen if a key "
                    "of that name exists, or when operations are performed in parallel against the key."
                )
            self._keys[key.name.lower()] = key
            return key, key.current

    def _find(self, name: str, version: str | None, url: str) -> tuple[Key, Version]:
        key = self._keys.get(name.lower())
        found = None
        if key is not None and key.hidden_reads:
            key.hidden_reads -= 1
        elif key is not None:
            found = key.current if version is None else key.versions.get(version.lower())
        if key is None or found is None:
            raise hsm_not_found(url) if self.settings.managed_hsm else not_found(_item(name, version))
        return key, found

    def _removable(self, name: str) -> DeletedKey:
        check_name(name)
        self._settle()
        deleted = self._deleted.get(name.lower())
        if deleted is None:
            raise deleted_not_found(name)
        if deleted.hidden_reads:
            raise conflict(f"Key {name} is currently being deleted.", "ObjectIsBeingDeleted")
        return deleted

    def _check_free(self, name: str) -> None:
        deleted, key = self._deleted.get(name.lower()), self._keys.get(name.lower())
        if key is not None and key.hidden_reads:
            raise conflict(
                f"Key {name} is currently being recovered and cannot be re-created; retry later.",
                "ObjectIsBeingRecovered",
            )
        if deleted is not None and deleted.hidden_reads:
            raise conflict(
                f"Key {name} is currently being deleted and cannot be re-created; retry later.",
                "ObjectIsBeingDeleted",
            )
        if deleted is not None:
            raise conflict(
                f"Key {name} is currently in a deleted but recoverable state, and its name cannot be reused; "
                "in this state, the key can only be recovered or purged.",
                "ObjectIsDeletedButRecoverable",
            )

    def _settle(self) -> None:
        """Do what time has brought: purge what is due, rotate what its policy says."""
        now = self._clock.now()
        for name, deleted in list(self._deleted.items()):
            if deleted.purge_at <= now.timestamp():
                del self._deleted[name]
        for key in self._keys.values():
            while key.policy is not None and key.current.attributes.enabled:
                held = key.current.attributes
                due = key.policy.due(held.created, held.exp)
                if due is None or due > now:
                    break
                _rotate(key, key.current, max(due, datetime.fromtimestamp(held.created, UTC)))


def check_name(name: str) -> None:
    """400 for a name that is not 1 to 127 letters, digits and hyphens."""
    if not NAME.match(name):
        raise bad_parameter(f"The request URI contains an invalid name: {name[:127]}")


def _item(name: str, version: str | None) -> str:
    return name if version is None else f"{name}/{version}"


def _rotate(key: Key, current: Version, at: datetime) -> Version:
    expires = None if key.policy is None else key.policy.expires(at)
    created = int(at.timestamp())
    version = replace(
        current,
        id=new_id(),
        material=_fresh(current.material),
        attributes=Attributes(True, None, expires, created, created, current.attributes.exportable),
    )
    key.versions[version.id] = version
    return version


def _fresh(material: Material) -> Material:
    if isinstance(material, RsaKey):
        return RsaKey.generate(material.bits)
    if isinstance(material, EcKey):
        return EcKey.generate(material.curve)
    return SecretKey.generate(len(material))


def _version_out(version: Version) -> Json:
    material = version.material
    raw = material.raw() if isinstance(material, SecretKey) else material.pkcs8()
    policy = version.release_policy
    return {
        "id": version.id,
        "kty": version.kty,
        "material": base64.b64encode(raw).decode(),
        "key_ops": list(version.key_ops),
        "attributes": asdict(version.attributes),
        "tags": version.tags,
        "release_policy": None if policy is None else asdict(policy),
    }


def _version_in(fields: Json) -> Version:
    raw = base64.b64decode(fields["material"])
    kty: str = fields["kty"]
    material: Material
    if kty.startswith("RSA"):
        material = RsaKey.from_pkcs8(raw)
    else:
        material = EcKey.from_pkcs8(raw) if kty.startswith("EC") else SecretKey(raw)
    policy = fields["release_policy"]
    return Version(
        id=fields["id"],
        kty=kty,
        material=material,
        key_ops=tuple(fields["key_ops"]),
        attributes=Attributes(**fields["attributes"]),
        tags=fields["tags"],
        release_policy=None if policy is None else ReleasePolicy(**policy),
    )


def _policy_in(fields: Any) -> RotationPolicy | None:
    if fields is None:
        return None
    lengths = {
        name: None if fields[name] is None else Duration(**fields[name])
        for name in ("after_create", "before_expiry", "notify", "expiry")
    }
    return RotationPolicy(**lengths, created=fields["created"], updated=fields["updated"])
