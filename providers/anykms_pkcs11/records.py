"""What anykms notes on the token about a key: canonical JSON under a MAC of the token's own key."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, fields
from typing import Final

from anykms.errors import KeystoreError
from anykms.keys import KeyInfo, KeyState, UnverifiedKeyInfo, canonical_json

TAG_SIZE: Final = 32
"""HMAC-SHA-256."""
_LABEL: Final = b"anykms/v1 pkcs11-record"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a key.

    Attributes:
        object_id: CKA_ID of its object on the token, 16 random bytes in hex.
        created_at: seconds since 1970.
        spki: the public key, where there is one.
        reserved: wraps that processes have set aside for themselves so far.
    """

    object_id: str
    created_at: int
    spki: bytes | None
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A key's facts and what changes. Times are in seconds since 1970."""

    info: KeyInfo
    state: KeyState
    versions: tuple[Version, ...]
    destroy_at: int | None = None
    rotation_period: int | None = None
    next_rotation_at: int | None = None

    @property
    def current(self) -> Version:
        return self.versions[-1]

    def to_json(self) -> bytes:
        return canonical_json(
            {
                "facts": json.loads(self.info.to_json()),
                "state": str(self.state),
                "versions": [
                    {
                        "object_id": version.object_id,
                        "created_at": version.created_at,
                        "spki": None if version.spki is None else base64.b64encode(version.spki).decode(),
                        "reserved": version.reserved,
                    }
                    for version in self.versions
                ],
                "destroy_at": self.destroy_at,
                "rotation_period": self.rotation_period,
                "next_rotation_at": self.next_rotation_at,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Record:
        """The record in authentic JSON."""
        raw = json.loads(data)
        facts = UnverifiedKeyInfo.from_json(canonical_json(raw["facts"]))
        return cls(
            info=KeyInfo(**{item.name: getattr(facts, item.name) for item in fields(facts)}),
            state=KeyState(raw["state"]),
            versions=tuple(
                Version(
                    item["object_id"],
                    item["created_at"],
                    None if item["spki"] is None else base64.b64decode(item["spki"]),
                    item["reserved"],
                )
                for item in raw["versions"]
            ),
            destroy_at=raw["destroy_at"],
            rotation_period=raw["rotation_period"],
            next_rotation_at=raw["next_rotation_at"],
        )


def authenticated(label: str, data: bytes) -> bytes:
    """What the MAC of an object covers: its label (length u32be first) and the rest of its value."""
    name = label.encode()
    return _LABEL + len(name).to_bytes(4) + name + data


def edited(what: str) -> KeystoreError:
    """The error of a token whose anykms objects are not as anykms left them."""
    return KeystoreError(f"the token was edited outside of anykms, or is damaged: {what}")


def fingerprint(spki: bytes | None) -> str | None:
    """SHA-256 of an SPKI in hex, as the contract writes it; None of none."""
    return None if spki is None else hashlib.sha256(spki).hexdigest()
