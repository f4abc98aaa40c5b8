"""What the metadata of a row says, as canonical JSON. Only authentic rows are parsed."""

from __future__ import annotations

import base64
import functools
import json
from dataclasses import dataclass, fields

from anykms.keys import KeyInfo, KeyState, UnverifiedKeyInfo, canonical_json


@dataclass(frozen=True, slots=True)
class Record:
    """The metadata of a key's row: its facts, and what changes. Times are in seconds since 1970."""

    info: KeyInfo
    state: KeyState
    destroy_at: int | None = None
    rotation_period: int | None = None
    next_rotation_at: int | None = None

    def to_json(self) -> str:
        return canonical_json(
            {
                "facts": json.loads(self.info.to_json()),
                "state": str(self.state),
                "destroy_at": self.destroy_at,
                "rotation_period": self.rotation_period,
                "next_rotation_at": self.next_rotation_at,
            }
        ).decode()

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def parse(cls, meta: str) -> Record:
        """The record of an authentic row."""
        raw = json.loads(meta)
        facts = UnverifiedKeyInfo.from_json(canonical_json(raw["facts"]))
        return cls(
            info=KeyInfo(**{item.name: getattr(facts, item.name) for item in fields(facts)}),
            state=KeyState(raw["state"]),
            destroy_at=raw["destroy_at"],
            rotation_period=raw["rotation_period"],
            next_rotation_at=raw["next_rotation_at"],
        )


@dataclass(frozen=True, slots=True)
class Version:
    """The metadata of a version's row."""

    created_at: int
    spki: bytes | None

    def to_json(self) -> str:
        spki = None if self.spki is None else base64.b64encode(self.spki).decode()
        return canonical_json({"created_at": self.created_at, "spki": spki}).decode()

    @classmethod
    def parse(cls, meta: str) -> Version:
        """The record of an authentic row."""
        raw = json.loads(meta)
        spki = raw["spki"]
        return cls(raw["created_at"], None if spki is None else base64.b64decode(spki))
