"""One AWS account: its keys and aliases in every Region, how they are named, found and refused."""

from __future__ import annotations

import base64
import binascii
import bisect
import copy
import json
import re
import threading
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from anykms_emulators.aws.errors import KmsError, invalid
from anykms_emulators.aws.keys import Json, Key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anykms_emulators.aws.parameters import Parameters
    from anykms_emulators.material import RsaKey

_KEY_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
# the aliases of AWS managed keys that a fresh account lists, without target (go-cloud awskms replays)
MANAGED_ALIASES: Final = (
    "alias/aws/dynamodb", "alias/aws/ebs", "alias/aws/elasticfilesystem", "alias/aws/es", "alias/aws/glue",
    "alias/aws/kinesisvideo", "alias/aws/rds", "alias/aws/redshift", "alias/aws/s3",
    "alias/aws/secretsmanager", "alias/aws/ssm", "alias/aws/xray",
)  # fmt: skip


@dataclass(slots=True)
class Alias:
    """A customer's alias."""

    name: str
    key: Key
    created: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class ImportToken:
    """What GetParametersForImport handed out."""

    key: Key
    wrapping: RsaKey
    algorithm: str
    valid_to: datetime


@dataclass(slots=True)
class Region:
    """What lives in one Region."""

    name: str
    keys: dict[str, Key] = field(default_factory=dict[str, Key])
    aliases: dict[str, Alias] = field(default_factory=dict[str, Alias])


class Account:
    """All state of an emulator. `lock` guards it; cryptography runs outside."""

    def __init__(self, number: str, regions: Sequence[str]) -> None:
        self.number = number
        self.regions = {name: Region(name) for name in regions}
        self.import_tokens: dict[bytes, ImportToken] = {}
        self.lock = threading.RLock()

    def copy(self) -> Account:
        """Everything as it is now, for a replica that is behind."""
        made = Account(self.number, ())
        made.regions = copy.deepcopy(self.regions)
        return made

    def catch_up(self, now: datetime) -> None:
        """Let the time up to `now` do its work on every key: rotation, expiry, deletion."""
        for region in self.regions.values():
            for key in tuple(region.keys.values()):
                key.catch_up(now)
        # a primary's own window opens when its last replica is gone, which can be within this very step
        while self._delete_one(now):
            pass

    def _delete_one(self, now: datetime) -> bool:
        for region in self.regions.values():
            for key in region.keys.values():
                if key.deletion_date is None or key.deletion_date > now:
                    continue
                del region.keys[key.id]
                region.aliases = {
                    name: alias for name, alias in region.aliases.items() if alias.key is not key
                }
                if key.family is not None and not key.is_primary:
                    key.family.replicas.remove(region.name)
                    primary = self.regions[key.family.primary].keys[key.id]
                    if primary.window is not None and not key.family.replicas:
                        primary.deletion_date = key.deletion_date + timedelta(days=primary.window)
                return True
        return False

    def arn(self, region: str, resource: str) -> str:
        """The ARN of `key/...` or `alias/...` in `region`."""
        return f"arn:aws:kms:{region}:{self.number}:{resource}"

    def new_id(self, *, multi_region: bool) -> str:
        """A key id: a UUID, or `mrk-` and 32 hex digits."""
        return f"mrk-{uuid.uuid4().hex}" if multi_region else str(uuid.uuid4())

    def find(self, region: str, identifier: str, operation: str, *, alias: bool) -> Key:
        """The key that a request names; NotFoundException in the words of localstack's recordings."""
        resource = identifier
        if identifier.startswith("arn:"):
            parts = identifier.split(":", 5)
            if len(parts) != 6 or parts[1:3] != ["aws", "kms"]:
                raise KmsError("NotFoundException", f"Invalid arn {identifier}")
            if parts[3] != region:
                raise KmsError("NotFoundException", f"Invalid arn {parts[3]}")
            if parts[4] != self.number:
                raise KmsError(
                    "AccessDeniedException",
                    f"User: arn:aws:iam::{self.number}:user/emulator is not authorized to perform: "
                    f"kms:{operation} on resource: {identifier} because no resource-based policy allows "
                    f"the kms:{operation} action",
                )
            resource = parts[5]
            if not resource.startswith(("key/", "alias/")):
                raise KmsError("NotFoundException", f"Invalid arn {identifier}")
        here = self.regions[region]
        if resource.startswith("alias/"):
            if not alias:
                raise KmsError("NotFoundException", f"Invalid keyId '{identifier}'")
            if resource not in here.aliases:
                raise KmsError("NotFoundException", f"Alias {self.arn(region, resource)} is not found.")
            return here.aliases[resource].key
        if identifier.startswith("arn:"):
            resource = resource.removeprefix("key/")
        if _KEY_ID.fullmatch(resource) is None:
            raise KmsError("NotFoundException", f"Invalid keyId '{identifier}'")
        if resource not in here.keys:
            raise KmsError("NotFoundException", f"Key '{self.arn(region, 'key/' + resource)}' does not exist")
        return here.keys[resource]


def require_state(key: Key, *refused: str) -> None:
    """Refuse a key in one of these states, in AWS's words."""
    state = key.state
    if state not in refused:
        return
    if state == "Disabled":
        raise KmsError("DisabledException", f"{key.arn} is disabled.")
    words = {
        "PendingDeletion": "pending deletion",
        "PendingReplicaDeletion": "pending replica deletion",
        "PendingImport": "pending import",
    }
    raise KmsError("KMSInvalidStateException", f"{key.arn} is {words[state]}.")


DELETING: Final = ("PendingDeletion", "PendingReplicaDeletion")
UNUSABLE: Final = ("Disabled", "PendingImport", *DELETING)


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated, validated request."""

    account: Account
    operation: str
    region: str
    parameters: Parameters
    now: datetime
    request_id: str

    def __getitem__(self, name: str) -> Any:
        return self.parameters[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An optional parameter."""
        return self.parameters.get(name, default)

    @property
    def here(self) -> Region:
        """The Region of the request."""
        return self.account.regions[self.region]

    def key(self, name: str = "KeyId", *, alias: bool = False) -> Key:
        """The key that parameter `name` identifies; by alias only where AWS allows one."""
        return self.account.find(self.region, self[name], self.operation, alias=alias)

    def usable(self, usage: str, name: str = "KeyId") -> Key:
        """The key for a cryptographic operation: found, enabled and of that usage."""
        with self.account.lock:
            key = self.key(name, alias=True)
            require_state(key, *UNUSABLE)
            if key.usage != usage:
                raise KmsError(
                    "InvalidKeyUsageException",
                    f"{key.arn} key usage is {key.usage} which is not valid for {self.operation}.",
                )
            return key

    def done(self, *keys: Key) -> None:
        """End of a cryptographic operation: raise what DryRun gives, or note the use of the keys."""
        if self.get("DryRun"):
            raise KmsError(
                "DryRunOperationException",
                "The request would have succeeded, but the DryRun option is set.",
            )
        for key in keys:
            key.last_usage = {
                "Operation": self.operation,
                "Timestamp": self.now,
                "KmsRequestId": self.request_id,
            }

    def page(self, name: str, rows: Sequence[tuple[str, Json | str]], default: int, most: int) -> Json:
        """One page of `rows`, which are in the order of their distinct first elements."""
        limit: int = self.get("Limit", default)
        if limit > most:
            raise invalid(f"Limit must be between 1 and {most}, inclusive.")
        start = 0
        if "Marker" in self.parameters:
            start = bisect.bisect_right([key for key, _ in rows], self._read_marker(self["Marker"]))
        shown = rows[start : start + limit]
        answer: Json = {name: [row for _, row in shown], "Truncated": start + limit < len(rows)}
        if answer["Truncated"]:
            marker = json.dumps([self.operation, shown[-1][0]]).encode()
            answer["NextMarker"] = base64.urlsafe_b64encode(marker).decode()
        return answer

    def _read_marker(self, marker: str) -> str:
        try:
            match json.loads(base64.b64decode(marker, altchars=b"-_", validate=True)):
                case [self.operation, str(last)]:
                    return last
                case _:
                    pass
        except (binascii.Error, ValueError, RecursionError):
            pass
        raise KmsError("InvalidMarkerException", "Could not deserialize marker.")
