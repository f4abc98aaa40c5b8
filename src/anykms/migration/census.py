"""What entries claim to be, before any key is used: messages, foreign ciphertext, neither; and what to do with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from anykms.envelope.message import HEAD_START, MAX_RECIPIENTS_WRITTEN, Message, head_size
from anykms.errors import InvalidCiphertextError, UnsupportedVersionError
from anykms.keys import KeyURI
from anykms.migration.readers import ForeignReader, reader_of
from anykms.migration.targets import HEAD, Target

_MESSAGE_START: Final = b"\x8aAKMS\r\n"
MESSAGES: Final = "anykms"
"""The format of our own messages, in a census."""


class Mode(StrEnum):
    """What a run does to the recipients of each message."""

    REPLACE = "replace"
    """They become the new keys."""
    ADD = "add"
    """The new keys join them."""
    REMOVE = "remove"
    """The old keys leave them."""


class Kind(StrEnum):
    """What an entry claims to be."""

    MESSAGE = "message"
    FOREIGN = "foreign"
    OTHER = "other"
    """Nothing that this program knows: no message, and of no foreign format that was asked for."""
    DAMAGED = "damaged"
    """It begins like a message and is none."""
    UNSUPPORTED = "unsupported"
    """A message of a later format version."""
    UNREADABLE = "unreadable"
    """The entry cannot be read."""


class Reason(StrEnum):
    """Why an entry was not touched and waits for a person."""

    CONTEXT_MISSING = "context_missing"
    OTHER_KEYS = "other_keys"
    KEYS_MISSING = "keys_missing"
    LAST_RECIPIENT = "last_recipient"
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    GENERATION_END = "generation_end"
    NOT_AUTHENTIC = "not_authentic"
    POLICY = "policy"
    DAMAGED = "damaged"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"
    HOOK_FAILED = "hook_failed"
    READER_REFUSED = "reader_refused"
    SENDER_UNPROVEN = "sender_unproven"
    OLD_KEY_NAMED = "old_key_named"
    NEW_KEY_MISSING = "new_key_missing"
    STILL_FOREIGN = "still_foreign"
    CHANGED_SINCE = "changed_since"
    GENERATION_DEMANDED = "generation_demanded"


ADVICE: Final[dict[Reason, str]] = {
    Reason.CONTEXT_MISSING: "it was made with required context: give the values with --context or --context-from",
    Reason.OTHER_KEYS: "it is for none of the keys given: name its key with --from, or leave it out of the targets",
    Reason.KEYS_MISSING: "it is for further keys: name each with --to to keep it, or with --from to drop it",
    Reason.LAST_RECIPIENT: "no recipient would be left: add a new key first (--mode add), or destroy the data",
    Reason.TOO_MANY_RECIPIENTS: "it would have more than 8 recipients: remove some first (--mode remove)",
    Reason.GENERATION_END: "its recipients were replaced 2^32 - 1 times: use reencrypt",
    Reason.NOT_AUTHENTIC: "it was altered, or its context is another: restore it from a backup",
    Reason.POLICY: "the keys' policy forbids to open it, its sender is not authenticated for example",
    Reason.DAMAGED: "it begins like a message and is none: restore it from a backup, or remove it",
    Reason.UNSUPPORTED: "a later release of anykms wrote it: use that one",
    Reason.UNREADABLE: "it cannot be read: see to its permissions, then run again",
    Reason.HOOK_FAILED: "the hook of --context-from or --aad-from raised an error for it",
    Reason.READER_REFUSED: "the reader of its foreign format does not open it: look at its keys and options",
    Reason.SENDER_UNPROVEN: "whoever has the public key could have made it, and the new message would pass for "
    "yours: use --vouch if nobody but you could write where it lies",
    Reason.OLD_KEY_NAMED: "it still names an old key: run the migration again",
    Reason.NEW_KEY_MISSING: "it lacks a new key: run the migration again",
    Reason.STILL_FOREIGN: "it is still of a foreign format: run the migration again with --format",
    Reason.CHANGED_SINCE: "it was written since the migration: it is as its last writer left it",
    Reason.GENERATION_DEMANDED: "its store takes no older generation: migrate back, with --from and --to exchanged",
}
"""What to do, in words for a person."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What an entry claims of itself; anyone could have written it.

    Attributes:
        keys: key URIs, with versions where the message has them; of a foreign entry, its reader's words.
        required: names of context values that the message does not hold.
    """

    kind: Kind
    format: str = ""
    keys: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def recipients(self) -> frozenset[KeyURI]:
        """The keys of a message, without versions."""
        return _bare(self.keys)

    def to_json(self) -> str:
        """One text for equal claims."""
        return json.dumps([self.kind, self.format, self.keys, self.required], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Claim:
        """What ``to_json`` gave."""
        kind, name, keys, required = json.loads(text)
        return cls(Kind(kind), name, tuple(keys), tuple(required))


# A migration meets the same few recipients over and over; the caches hold names only.
@lru_cache(maxsize=1024)
def _bare(keys: tuple[str, ...]) -> frozenset[KeyURI]:
    return frozenset(KeyURI.parse(key).without_version() for key in keys)


@lru_cache(maxsize=1024)
def _spelt(uris: tuple[KeyURI, ...]) -> tuple[str, ...]:
    return tuple(sorted(map(str, uris)))


def read_heads(target: Target, ids: Sequence[str]) -> list[bytes | None]:
    """Of a message its header (Magic through HeaderTag), of anything else its first bytes; None where it is gone."""
    found = list(target.starts(ids))
    short: list[int] = []
    for number, start in enumerate(found):
        if start is None or not start.startswith(_MESSAGE_START):
            continue
        try:
            size = head_size(start)
        except InvalidCiphertextError:
            continue
        if size > len(start) >= HEAD:
            short.append(number)
        else:
            found[number] = start[:size]
    for number in short:
        start = found[number]
        if start is not None:
            size = head_size(start)
            again = target.starts([ids[number]], size)[0]
            found[number] = None if again is None else again[:size]
    return found


def classify(head: bytes, readers: Sequence[ForeignReader] = ()) -> tuple[Claim, Message | None]:
    """What the entry that begins so claims to be."""
    if head.startswith(_MESSAGE_START) and len(head) >= HEAD_START:
        try:
            message = Message(head)
        except UnsupportedVersionError:
            return Claim(Kind.UNSUPPORTED, MESSAGES), None
        except InvalidCiphertextError:
            return Claim(Kind.DAMAGED, MESSAGES), None
        keys = _spelt(tuple(wrapped.key_uri() for wrapped in message.wrapped_keys.values()))
        return Claim(Kind.MESSAGE, MESSAGES, keys, message.immutable.required), message
    reader = reader_of(head, readers) if readers else None
    if reader is None:
        return Claim(Kind.OTHER), None
    return Claim(Kind.FOREIGN, reader.format, tuple(reader.keys(head))), None


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is to be done to a message.

    Attributes:
        recipients: those it is to have, and none where nothing is to be done.
        reason: why nothing can be done.
    """

    recipients: frozenset[KeyURI] = frozenset()
    reason: Reason | None = None


_UNTOUCHABLE: Final = {
    Kind.DAMAGED: Reason.DAMAGED,
    Kind.UNSUPPORTED: Reason.UNSUPPORTED,
    Kind.UNREADABLE: Reason.UNREADABLE,
}


def decide(
    claim: Claim, mode: Mode, old: Collection[KeyURI], new: Collection[KeyURI], given: Collection[str] | None
) -> Ahead:
    """What is to be done to an entry.

    Args:
        old, new: the keys to leave and those to go to, without versions.
        given: names of context values that are known; None where a hook will be asked.
    """
    if claim.kind in _UNTOUCHABLE:
        return Ahead(reason=_UNTOUCHABLE[claim.kind])
    if claim.kind is Kind.FOREIGN:
        return Ahead(frozenset(new))
    if claim.kind is Kind.OTHER:
        return Ahead()
    leaving, joining, present = frozenset(old), frozenset(new), claim.recipients
    wanted = {
        Mode.REPLACE: joining,
        Mode.ADD: present | joining,
        Mode.REMOVE: present - leaving,
    }[mode]
    if wanted == present and (mode is not Mode.REMOVE or wanted & (leaving | joining)):
        return Ahead()
    reason = None
    if not present & (leaving | joining):
        reason = Reason.OTHER_KEYS
    elif not wanted:
        reason = Reason.LAST_RECIPIENT
    elif present - leaving - joining:
        reason = Reason.KEYS_MISSING
    elif len(wanted) > MAX_RECIPIENTS_WRITTEN:
        reason = Reason.TOO_MANY_RECIPIENTS
    elif given is not None and not set(claim.required) <= set(given):
        reason = Reason.CONTEXT_MISSING
    return Ahead(reason=reason) if reason else Ahead(wanted)
