"""A keyset: one logical key that outlives its keys, as a sealed document.

An application names the keyset. Which keys stand behind it, in which cloud, in which state and until when, the
document says; succession, a move to another cloud and the end of a key are edits of the document. States and
periods are those of NIST SP 800-57 part 1 revision 5, sections 5.3 and 7.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import secrets
import stat
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from anykms.algorithms import KeyPurpose
from anykms.audit import AuditDocument, AuditTrail, audited, note_document, note_key, observed
from anykms.client import Guard, Key, KMSClient
from anykms.envelope.cache import DataKeyCache
from anykms.envelope.keyring import Keyring
from anykms.errors import (
    ConflictError,
    IntegrityError,
    InvalidArgumentError,
    InvalidMacError,
    InvalidSignatureError,
    KeyNotFoundError,
    KeyStateError,
    KeyUsageError,
    KMSError,
    UnavailableError,
    UnsupportedOperationError,
)
from anykms.keys import KeyInfo, KeyState, KeyURI, canonical_json, check_name, utc_seconds
from anykms.payload import BytesLike
from anykms.policy import Policy
from anykms.provider import Operation, SignatureEncoding
from anykms.retrying import Deadline
from anykms.signing import PublicKey
from anykms.trust import (
    MAX_SEALED_SIZE,
    PayloadType,
    TrustRoot,
    read_key_info,
    read_struct,
    read_time,
    seal,
    time_text,
    trails_of_keys,
)

MAX_MEMBERS: Final = 32
LONGEST_PERIOD: Final = timedelta(days=100 * 365)
WARN_BEFORE: Final = timedelta(days=30)
"""How long before the end of a member's period its use begins to warn."""

Clients: TypeAlias = Sequence[KMSClient] | Callable[[KeyInfo], KMSClient | None]
"""Who serves the members: one client for each provider, or a function that finds the client of a key."""

_PROTECTING: Final = frozenset({Operation.WRAP, Operation.SIGN, Operation.MAC})
_LOCK_SECONDS: Final = 10.0
_LONGEST_REASON: Final = 1000


class MemberState(StrEnum):
    """States of SP 800-57 part 1, 7: what a key may do for its keyset."""

    PRE_ACTIVATION = "pre-activation"
    """Nothing yet; a signing key is published, so that verifiers know it before its first signature."""
    ACTIVE = "active"
    """Protect (encrypt, sign, MAC) and process (decrypt, verify)."""
    SUSPENDED = "suspended"
    """Nothing, for now."""
    DEACTIVATED = "deactivated"
    """Process only."""
    COMPROMISED = "compromised"
    """Nothing; decryption alone where the caller insists, to save the data."""
    DESTROYED = "destroyed"
    """Nothing; the entry remembers that there was such a key."""


TRANSITIONS: Final[Mapping[MemberState, frozenset[MemberState]]] = {
    MemberState.PRE_ACTIVATION: frozenset(
        {MemberState.ACTIVE, MemberState.COMPROMISED, MemberState.DESTROYED}
    ),
    MemberState.ACTIVE: frozenset({MemberState.SUSPENDED, MemberState.DEACTIVATED, MemberState.COMPROMISED}),
    MemberState.SUSPENDED: frozenset({MemberState.ACTIVE, MemberState.DEACTIVATED, MemberState.COMPROMISED}),
    MemberState.DEACTIVATED: frozenset({MemberState.COMPROMISED, MemberState.DESTROYED}),
    MemberState.COMPROMISED: frozenset({MemberState.DESTROYED}),
    MemberState.DESTROYED: frozenset(),
}
"""Where a member may go. Nothing leads back to active but the end of a suspension."""

_REMOVABLE: Final = (MemberState.PRE_ACTIVATION, MemberState.DESTROYED)

PERIODS: Final[Mapping[KeyPurpose, tuple[timedelta, timedelta | None]]] = {
    KeyPurpose.ENCRYPT_DECRYPT: (timedelta(days=730), timedelta(days=3 * 365)),
    KeyPurpose.MAC: (timedelta(days=730), timedelta(days=3 * 365)),
    KeyPurpose.SIGN_VERIFY: (timedelta(days=730), None),
}
"""For each purpose how long a key protects from its activation, and how long it processes after that (SP 800-57
part 1, table 1: symmetric keys at most 2 years and 3 more, private signature keys 1 to 3 years)."""


class CryptoperiodWarning(UserWarning):
    """A member's period ends soon: put its successor into the keyset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One key of a keyset.

    Attributes:
        info: its facts, pinned.
        state: what it may do.
        public_key: of a signing key: what verifies offline.
        activated_at: when its state became active, or will.
        protect_until: end of the originator-usage period: it encrypts, signs and MACs before this; None: no end.
        process_until: end of the recipient-usage period: it decrypts and verifies before this; None: no end.
        changed_at: when its state was last changed.
        reason: why, in the words of whoever changed it.
    """

    info: KeyInfo
    state: MemberState
    public_key: PublicKey | None = None
    activated_at: datetime | None = None
    protect_until: datetime | None = None
    process_until: datetime | None = None
    changed_at: datetime
    reason: str | None = None

    def check_protect(self, now: datetime) -> None:
        """Raises KeyStateError unless the key may encrypt, sign or MAC now."""
        if self.state is not MemberState.ACTIVE:
            raise self._refusal(f"is {self.state} in its keyset and protects nothing new; promote another")
        self._check_started(now)
        if self.protect_until is not None and now >= self.protect_until:
            raise self._refusal(
                f"came to the end of its originator-usage period on {time_text(self.protect_until)}; "
                "put its successor into the keyset"
            )

    def check_process(self, now: datetime, *, allow_compromised: bool = False) -> None:
        """Raises KeyStateError unless the key may decrypt or verify now."""
        allowed = {MemberState.ACTIVE, MemberState.DEACTIVATED}
        if allow_compromised:
            allowed.add(MemberState.COMPROMISED)
        if self.state not in allowed:
            raise self._refusal(f"is {self.state} in its keyset and may not be used")
        self._check_started(now)
        if self.process_until is not None and now >= self.process_until:
            raise self._refusal(
                f"came to the end of its recipient-usage period on {time_text(self.process_until)}"
            )

    def may_protect(self, now: datetime) -> bool:
        """Whether the key may encrypt, sign or MAC now."""
        try:
            self.check_protect(now)
        except KeyStateError:
            return False
        return True

    def may_process(self, now: datetime, *, allow_compromised: bool = False) -> bool:
        """Whether the key may decrypt or verify now."""
        try:
            self.check_process(now, allow_compromised=allow_compromised)
        except KeyStateError:
            return False
        return True

    def _check_started(self, now: datetime) -> None:
        if self.activated_at is None or now < self.activated_at:
            raise self._refusal(f"becomes active on {time_text(self.activated_at) or 'no date yet'}")

    def _refusal(self, text: str) -> KeyStateError:
        return KeyStateError(
            f"key {self.info.name} {text}", provider=self.info.provider, key=str(self.info.uri)
        )

    @property
    def uri(self) -> KeyURI:
        """The key, whatever its version."""
        return self.info.uri.without_version()


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between a keyset and what a provider says.

    Attributes:
        key: the member.
        expected: what the keyset says.
        found: what the provider says.
        stricter: ``"keyset"`` or ``"provider"``: which of them forbids more, and wins at use.
    """

    key: KeyURI
    expected: str
    found: str
    stricter: str


@dataclass(frozen=True, kw_only=True)
class Keyset:
    """A logical key: its members, and which of them is the primary one. A value: each edit gives a new one.

    ``create`` makes the first, ``save`` seals and writes it, ``load`` reads it.

    >>> import anykms, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> client = anykms.connect(f"local://{folder}/keys.db", create=True)
    >>> def key(name, purpose, algorithm=None):
    ...     return client.key(client.generate_key(anykms.KeyConf(name, purpose, algorithm=algorithm)))
    >>> admin = key("admin", "SIGN_VERIFY", "ES256")
    >>> root = TrustRoot([admin.public_key()])
    >>> path = f"{folder}/orders.keyset"
    >>> keyset = Keyset.create("orders", key("orders-1", "ENCRYPT_DECRYPT")).save(path, root, signers=[admin])
    >>> message = Keyset.load(path, root, name="orders").keyring([client]).encrypt(b"paid", context={})
    >>> keyset = keyset.succeed(key("orders-2", "ENCRYPT_DECRYPT")).save(path, root, signers=[admin])
    >>> Keyset.load(path, root, name="orders").keyring([client]).decrypt(message, context={})
    b'paid'

    Attributes:
        name: what the application asks for.
        purpose: of every member.
        members: 1 to 32, in the order in which they joined.
        primary: the member that signs or MACs, and the first that messages are encrypted for.
        generation: of the document it was read from; 0 before it is first saved.
        clock: the time that states and periods are judged by.
    """

    name: str
    purpose: KeyPurpose
    members: tuple[Member, ...]
    primary: KeyURI
    generation: int = 0
    clock: Callable[[], datetime] = field(
        default=lambda: datetime.now(UTC), repr=False, compare=False, hash=False
    )
    _trails: tuple[AuditTrail, ...] = field(default=(), init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.purpose not in PERIODS:
            raise KeyUsageError(f"a keyset holds keys for {', '.join(PERIODS)}, not for {self.purpose}")
        if not 1 <= len(self.members) <= MAX_MEMBERS:
            raise InvalidArgumentError(f"a keyset has 1 to {MAX_MEMBERS} members, not {len(self.members)}")
        uris = [member.uri for member in self.members]
        if len(set(uris)) != len(uris):
            raise InvalidArgumentError("a key is in the keyset twice")
        if self.primary not in uris:
            raise InvalidArgumentError("the primary key is not a member of the keyset")
        for member in self.members:
            self._check_member(member)

    def _check_member(self, member: Member) -> None:
        info, public_key = member.info, member.public_key
        if info.purpose is not self.purpose:
            raise KeyUsageError(f"key {info.name} is for {info.purpose}, the keyset for {self.purpose}")
        if (self.purpose is KeyPurpose.SIGN_VERIFY) != (public_key is not None):
            raise InvalidArgumentError(
                f"key {info.name}: a signing key, and no other, has its public key here"
            )
        if public_key is not None and (
            public_key.fingerprint != info.fingerprint or public_key.algorithm is not info.algorithm
        ):
            raise IntegrityError(
                f"key {info.name}: expected a public key for {info.algorithm} with fingerprint {info.fingerprint}, "
                f"found one for {public_key.algorithm} with {public_key.fingerprint}"
            )
        if member.reason is not None and not (
            len(member.reason) <= _LONGEST_REASON and member.reason.isprintable()
        ):
            raise InvalidArgumentError(f"a reason has at most {_LONGEST_REASON} printable characters")
        dates = [member.activated_at, member.protect_until, member.process_until]
        known = [moment for moment in dates if moment is not None]
        if known != sorted(known):
            raise InvalidArgumentError(
                f"key {info.name}: its activation, the end of its originator-usage period and the end of its "
                "recipient-usage period follow in this order"
            )

    # Documents

    @classmethod
    def load(cls, path: str | os.PathLike[str], root: TrustRoot, *, name: str) -> Keyset:
        """Read a sealed keyset; nothing is asked of a provider.

        Args:
            path: the file.
            root: who may seal it; its ledger refuses an older document, its clock is the keyset's.
            name: the keyset that the application means; another one in its place is refused.

        Raises:
            SealError: see ``TrustRoot.open``.
            OSError: the file cannot be read.
        """
        trails = root._trails  # pyright: ignore[reportPrivateUsage] # who hears of the root hears of its keysets

        def load() -> Keyset:
            note_document(_named(name))
            opened = root.open_sealed(_read(Path(path)), KEYSET, name=name)
            read = replace(opened.document, generation=opened.generation, clock=root.clock)
            return read._told_to(trails)

        return observed(trails, "Keyset.load", load)

    def save(
        self,
        path: str | os.PathLike[str],
        root: TrustRoot,
        *,
        signers: Sequence[Key],
        expires: datetime | None = None,
    ) -> Keyset:
        """Seal the keyset as its next generation and put it in place, at once or not at all.

        Args:
            path: the file it was loaded from, or a new one.
            root: must accept the result, so that nothing is put in place that nobody could load.
            signers: keys of the root, as many as its threshold.
            expires: when the document is no longer to be used.

        Returns:
            The keyset with its new generation.

        Raises:
            ConflictError: the file is of another generation than this keyset: someone else has changed it.
            SealError: the root does not accept what is there, or what was made; the file is as it was.
            KMSError: a key cannot sign now.
            OSError: the file cannot be written; it is as it was.
        """
        trails = tuple(
            dict.fromkeys((*self._trails, *root._trails, *trails_of_keys(signers)))  # pyright: ignore[reportPrivateUsage] # as in load
        )
        return observed(
            trails, "Keyset.save", lambda: self._saved(Path(path), root, signers, expires, trails)
        )

    def _saved(
        self,
        target: Path,
        root: TrustRoot,
        signers: Sequence[Key],
        expires: datetime | None,
        trails: tuple[AuditTrail, ...],
    ) -> Keyset:
        self._note(None)
        root.check_signers(signers)
        with _locked(target.parent):
            present, seen = 0, root.generation_seen(KEYSET, self.name)
            if os.path.lexists(target):
                present = root.open_sealed(_read(target), KEYSET, name=self.name).generation
            if present != self.generation or (present == 0 and seen):
                raise ConflictError(
                    f"the keyset {self.name} was changed meanwhile: expected generation {self.generation}, "
                    f"found {max(present, seen)}; load it and edit it again"
                )
            sealed = seal(
                self,
                kind=KEYSET,
                signers=signers,
                generation=present + 1,
                audience=root.audience,
                expires=expires,
                clock=self.clock,
            )
            root.open_sealed(sealed, KEYSET, name=self.name, remember=False)
            _replace(target, sealed)
            root.open_sealed(sealed, KEYSET, name=self.name)
        return replace(self, generation=present + 1)._told_to(trails)

    def _but(self, **changes: Any) -> Keyset:
        """The same with these changes, and told to the same audit trails."""
        return replace(self, **changes)._told_to(self._trails)

    def _told_to(self, trails: tuple[AuditTrail, ...]) -> Keyset:
        object.__setattr__(self, "_trails", trails)
        return self

    def _note(self, detail: str | None, *keys: KeyURI) -> None:
        """The audited operation at work is about this keyset, not saved yet, and these members."""
        for key in keys:
            note_key(str(key))
        note_document(_named(self.name, self.generation, detail))

    # Use

    @audited
    def keyring(
        self,
        clients: Clients,
        *,
        policy: Policy | None = None,
        cache: DataKeyCache | None = None,
        allow_compromised: bool = False,
    ) -> Keyring:
        """Encrypts for the active members, the primary first, and decrypts with them and the deactivated ones.

        Each use asks the member's state and dates again. Nothing is asked of a provider here.

        Args:
            clients: who serves the members. A function may return None for a key that only decrypts, to leave it out.
            policy, cache: see ``Keyring``.
            allow_compromised: also decrypt with compromised members, to save what only they can open. What they
                open may have been made by whoever has the key.

        Raises:
            KeyUsageError: a keyset for another purpose.
            KeyStateError: the primary may not encrypt now.
            InvalidArgumentError: a member without a client.
        """
        self._note(None)
        self._require(KeyPurpose.ENCRYPT_DECRYPT)
        now = self._now()
        primary = self._primary()
        primary.check_protect(now)
        protecting: list[Key] = []
        processing: list[Key] = []
        for member in (primary, *(m for m in self.members if m is not primary)):
            protects = member.may_protect(now)
            if not protects and not member.may_process(now, allow_compromised=allow_compromised):
                continue
            key = self._key(member, clients, allow_compromised=allow_compromised, optional=not protects)
            if key is not None:
                (protecting if protects else processing).append(key)
        return Keyring(
            protecting,
            decrypt_only=processing,
            policy=policy,
            cache=cache,
            clock=lambda: self.clock().timestamp(),
        )

    @audited
    def signer(self, clients: Clients) -> Key:
        """The primary key, to sign with; each signature asks its state and dates again.

        Raises:
            KeyUsageError: a keyset for another purpose.
            KeyStateError: the primary may not sign now.
            InvalidArgumentError: the primary has no client.
        """
        self._note(None, self.primary)
        self._require(KeyPurpose.SIGN_VERIFY)
        return self._protecting(clients)

    @audited
    def verifier(self) -> KeysetVerifier:
        """Verifies what any active or deactivated member has signed, without network.

        Raises:
            KeyUsageError: a keyset for another purpose.
        """
        self._note(None)
        self._require(KeyPurpose.SIGN_VERIFY)
        return KeysetVerifier(self)

    @audited
    def authenticator(self, clients: Clients) -> KeysetAuthenticator:
        """MACs with the primary, and verifies tags of any active or deactivated member.

        Raises:
            KeyUsageError: a keyset for another purpose.
            KeyStateError: the primary may not MAC now.
            InvalidArgumentError: a member without a client.
        """
        self._note(None)
        self._require(KeyPurpose.MAC)
        primary = self._protecting(clients)
        now = self._now()
        others = [
            self._key(member, clients, optional=True)
            for member in self.members
            if member.uri != self.primary and member.may_process(now)
        ]
        return KeysetAuthenticator(self, primary, [key for key in others if key is not None])

    @audited
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The signing keys as a JWK Set (RFC 7517), each with its RFC 7638 thumbprint as ``kid``.

        A key is published from the day it joins, before its first signature, and until its last signature need no
        longer verify: readers that cache the set miss none. Suspended, compromised and destroyed keys are left out.

        Raises:
            KeyUsageError: a keyset for another purpose.
        """
        self._note(None)
        self._require(KeyPurpose.SIGN_VERIFY)
        now = self._now()
        published = (MemberState.PRE_ACTIVATION, MemberState.ACTIVE, MemberState.DEACTIVATED)
        return {
            "keys": [
                {**member.public_key.jwk(), "use": "sig"}
                for member in self.members
                if member.public_key is not None
                and member.state in published
                and (member.process_until is None or now < member.process_until)
            ]
        }

    @audited
    def check(self, clients: Clients) -> list[Drift]:
        """Ask the provider of every member that is not destroyed, and report every difference.

        Raises:
            InvalidArgumentError: a member without a client.
            KMSError: a provider cannot be asked.
        """
        self._note(None)
        found = [
            drift
            for member in self.members
            if member.state is not MemberState.DESTROYED
            for drift in _drifts(member, self._client(member, clients))
        ]
        self._note(f"{len(found)} differences")
        return found

    def ending(self, within: timedelta = WARN_BEFORE) -> list[str]:
        """A sentence for each active member whose time to protect ends within that span, or is over."""
        limit = self._now() + within
        return [
            _ending(member)
            for member in self.members
            if member.state is MemberState.ACTIVE
            and member.protect_until is not None
            and member.protect_until <= limit
        ]

    # Edits

    @classmethod
    def create(
        cls,
        name: str,
        key: Key,
        *,
        protect_for: timedelta | None = None,
        process_for: timedelta | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Keyset:
        """A keyset of one active key, its primary.

        Args:
            name: as ``check_name`` allows.
            key: its first member; a signing key's public key is fetched.
            protect_for, process_for: its periods; None takes ``PERIODS``.
            clock: the time.

        Raises:
            KeyUsageError: an ASYMMETRIC_DECRYPT key.
            InvalidArgumentError: a bad name or period.
        """
        trails = trails_of_keys([key])

        def create() -> Keyset:
            note_document(_named(name, 0, MemberState.ACTIVE))
            first = _member(key, MemberState.ACTIVE, utc_seconds(clock()), protect_for, process_for)
            note_key(str(first.uri))
            return cls(
                name=name,
                purpose=key.info.purpose,
                members=(first,),
                primary=first.uri,
                clock=clock,
            )._told_to(trails)

        return observed(trails, "Keyset.create", create)

    @audited
    def add(
        self,
        key: Key,
        *,
        activate: bool = False,
        protect_for: timedelta | None = None,
        process_for: timedelta | None = None,
    ) -> Keyset:
        """With another key: waiting in pre-activation, or active at once.

        Raises:
            InvalidArgumentError: it is a member already, or there are 32.
            KeyUsageError: a key of another purpose.
        """
        state = MemberState.ACTIVE if activate else MemberState.PRE_ACTIVATION
        self._note(state)
        joined = _member(key, state, self._now(), protect_for, process_for)
        self._note(state, joined.uri)
        return self._but(members=(*self.members, joined))

    @audited
    def promote(self, key: KeyURI, *, reason: str | None = None) -> Keyset:
        """With that member as the primary, and active.

        Raises:
            KeyNotFoundError: not a member.
            KeyStateError: its state does not lead to active.
        """
        self._note("primary", key)
        member = self.member(key)
        active = (
            self if member.state is MemberState.ACTIVE else self.move(key, MemberState.ACTIVE, reason=reason)
        )
        self._note("primary", key)
        return active._but(primary=member.uri)

    @audited
    def succeed(self, key: Key, *, reason: str | None = None) -> Keyset:
        """With a new key as active primary, and the old primary deactivated: it still opens and verifies.

        The new key may live anywhere: this is how a keyset moves to another cloud.

        Raises:
            KeyStateError: the old primary is in a state that does not lead to deactivated.
        """
        self._note("succeeded", self.primary)
        edited = self.add(key, activate=True).promote(key.info.uri)
        if self._primary().state is MemberState.ACTIVE:
            reason = reason or f"succeeded by {key.info.name}"
            edited = edited.move(self.primary, MemberState.DEACTIVATED, reason=reason)
        self._note("succeeded")
        return edited

    @audited
    def move(self, key: KeyURI, state: MemberState | str, *, reason: str | None = None) -> Keyset:
        """With that member in another state.

        Raises:
            KeyNotFoundError: not a member.
            KeyStateError: ``TRANSITIONS`` does not lead there.
        """
        self._note(str(state), key)
        member, wanted = self.member(key), MemberState(state)
        if wanted not in TRANSITIONS[member.state]:
            allowed = ", ".join(sorted(TRANSITIONS[member.state])) or "nothing"
            raise KeyStateError(
                f"key {member.info.name} is {member.state}: that leads to {allowed}, not to {wanted}",
                key=str(member.uri),
            )
        now = self._now()
        changed = replace(member, state=wanted, changed_at=now, reason=reason)
        if wanted is MemberState.ACTIVE and member.activated_at is None:
            changed = _activated(changed, now, None, None)
        return self._with(changed)

    @audited
    def remove(self, key: KeyURI) -> Keyset:
        """Without that member: one that was never active, or whose key is destroyed.

        Raises:
            KeyNotFoundError: not a member.
            KeyStateError: it may still be needed, or is the primary.
        """
        self._note("removed", key)
        member = self.member(key)
        if member.state not in _REMOVABLE or member.uri == self.primary:
            raise KeyStateError(
                f"key {member.info.name} is {member.state}"
                f"{' and the primary' if member.uri == self.primary else ''}; "
                f"only {' and '.join(_REMOVABLE)} members are removed, and no primary",
                key=str(member.uri),
            )
        return self._but(members=tuple(m for m in self.members if m is not member))

    def member(self, key: KeyURI) -> Member:
        """The member with that key.

        Raises:
            KeyNotFoundError: there is none.
        """
        wanted = key.without_version()
        for member in self.members:
            if member.uri == wanted:
                return member
        raise KeyNotFoundError(f"the keyset {self.name} has no member {wanted}", key=str(wanted))

    def _with(self, changed: Member) -> Keyset:
        return self._but(members=tuple(changed if m.uri == changed.uri else m for m in self.members))

    # Keys

    def _now(self) -> datetime:
        return utc_seconds(self.clock())

    def _primary(self) -> Member:
        return self.member(self.primary)

    def _require(self, purpose: KeyPurpose) -> None:
        if self.purpose is not purpose:
            raise KeyUsageError(f"the keyset {self.name} is for {self.purpose}, not for {purpose}")

    def _protecting(self, clients: Clients) -> Key:
        primary = self._primary()
        primary.check_protect(self._now())
        return self._client(primary, clients).key(primary.info).guarded(self._guard(primary, False))

    def _key(
        self, member: Member, clients: Clients, *, allow_compromised: bool = False, optional: bool
    ) -> Key | None:
        if optional and callable(clients):
            client = clients(member.info)
            if client is None:
                return None
        else:
            client = self._client(member, clients)
        return client.key(member.info).guarded(self._guard(member, allow_compromised))

    def _client(self, member: Member, clients: Clients) -> KMSClient:
        info = member.info
        if callable(clients):
            found = clients(info)
            if found is None:
                raise InvalidArgumentError(f"no client is given for {info.uri}")
            return found
        fitting = [client for client in clients if client.provider == info.provider]
        if len(fitting) != 1:
            raise InvalidArgumentError(
                f"{len(fitting)} clients of {info.provider} are given for {info.uri}; give one, "
                "or a function that finds the client of a key"
            )
        return fitting[0]

    def _guard(self, member: Member, allow_compromised: bool) -> Guard:
        warned = False

        def ask(operation: Operation) -> None:
            nonlocal warned
            now = self._now()
            if operation not in _PROTECTING:
                member.check_process(now, allow_compromised=allow_compromised)
                return
            member.check_protect(now)
            if not warned and member.protect_until is not None and now >= member.protect_until - WARN_BEFORE:
                warned = True
                warnings.warn(_ending(member), CryptoperiodWarning, stacklevel=2)

        return ask


class KeysetVerifier:
    """Verifies signatures of a signing keyset, offline; ``Keyset.verifier`` makes one."""

    def __init__(self, keyset: Keyset) -> None:
        self._keyset = keyset
        self._trails = keyset._trails  # pyright: ignore[reportPrivateUsage] # a part of its keyset

    @audited
    def verify(
        self,
        message: BytesLike,
        signature: BytesLike,
        *,
        encoding: SignatureEncoding | str = SignatureEncoding.DER,
        prehashed: bool = False,
    ) -> KeyInfo:
        """Return the key whose signature it is, only if it is an active or deactivated member within its dates.

        Args:
            message, signature, encoding, prehashed: see ``PublicKey.verify``.

        Raises:
            InvalidSignatureError: it is none's.
            InvalidArgumentError: a message or digest that fits no member.
            KeyStateError: no member may verify now.
        """
        self._keyset._note(None)  # pyright: ignore[reportPrivateUsage] # a part of its keyset
        now = utc_seconds(self._keyset.clock())
        misfit: KMSError | None = None
        refused: KMSError | None = None
        fitting = 0
        for member in self._keyset.members:
            if member.public_key is None:
                continue
            try:
                member.check_process(now)
            except KeyStateError as error:
                refused = error
                continue
            try:
                member.public_key.verify(message, signature, encoding=encoding, prehashed=prehashed)
            except (InvalidArgumentError, UnsupportedOperationError) as error:
                misfit = error  # a digest of another size, or too long for this member's algorithm
            except InvalidSignatureError:
                fitting += 1
            else:
                note_key(str(member.info.uri))
                return member.info
        if not fitting and (problem := misfit or refused) is not None:
            raise problem
        raise InvalidSignatureError("the signature does not belong to this message and keyset")


class KeysetAuthenticator:
    """MACs of a MAC keyset; ``Keyset.authenticator`` makes one."""

    def __init__(self, keyset: Keyset, primary: Key, others: Iterable[Key]) -> None:
        self._keyset = keyset
        self._primary = primary
        self._others = tuple(others)
        own = keyset._trails  # pyright: ignore[reportPrivateUsage] # a part of its keyset
        self._trails = tuple(dict.fromkeys((*own, *trails_of_keys([primary, *self._others]))))

    @audited
    def mac(self, message: BytesLike) -> bytes:
        """HMAC by the primary; see ``Key.mac``."""
        self._keyset._note(None)  # pyright: ignore[reportPrivateUsage] # a part of its keyset
        return self._primary.mac(message)

    @audited
    def verify_mac(self, message: BytesLike, tag: BytesLike) -> KeyInfo:
        """Return the key whose tag it is: the primary is asked first, then the others.

        Raises:
            InvalidMacError: it is none's.
            KMSError: a key could not be asked, and no other one made the tag.
        """
        self._keyset._note(None)  # pyright: ignore[reportPrivateUsage] # a part of its keyset
        failure: KMSError | None = None
        for key in (self._primary, *self._others):
            try:
                key.verify_mac(message, tag)
            except InvalidMacError:
                continue
            except InvalidArgumentError:
                raise
            except KMSError as error:
                failure = failure or error
            else:
                return key.info
        raise failure or InvalidMacError("the tag does not belong to this message and keyset")


# Members


def _member(
    key: Key, state: MemberState, now: datetime, protect_for: timedelta | None, process_for: timedelta | None
) -> Member:
    if not isinstance(key, Key):
        raise TypeError(f"a member is a Key from client.key(info), not {type(key).__name__}")
    signs = key.info.purpose is KeyPurpose.SIGN_VERIFY
    made = Member(info=key.info, state=state, public_key=key.public_key() if signs else None, changed_at=now)
    if state is MemberState.PRE_ACTIVATION:
        if protect_for is not None or process_for is not None:
            raise InvalidArgumentError("periods begin with the activation; give them then")
        return made
    return _activated(made, now, protect_for, process_for)


def _activated(
    member: Member, now: datetime, protect_for: timedelta | None, process_for: timedelta | None
) -> Member:
    """The member, active from now, with the periods of its purpose where no others are given."""
    if member.info.purpose not in PERIODS:
        raise KeyUsageError(f"a keyset holds keys for {', '.join(PERIODS)}, not for {member.info.purpose}")
    protect, process = PERIODS[member.info.purpose]
    protect = protect if protect_for is None else protect_for
    process = process if process_for is None else process_for
    if (
        not timedelta(0) < protect <= LONGEST_PERIOD
        or not timedelta(0) <= (process or protect) <= LONGEST_PERIOD
    ):
        raise InvalidArgumentError("a period is longer than zero, and 100 years at most")
    ends = now + protect
    return replace(
        member,
        activated_at=now,
        protect_until=utc_seconds(ends),
        process_until=None if process is None else utc_seconds(ends + process),
    )


def _ending(member: Member) -> str:
    return (
        f"key {member.info.name} encrypts, signs and MACs until {time_text(member.protect_until)}: "
        "put its successor into the keyset"
    )


def _drifts(member: Member, client: KMSClient) -> list[Drift]:
    try:
        found = client.confirm_key(member.info)
    except KeyNotFoundError:
        return [Drift(member.uri, str(member.state), str(KeyState.DESTROYED), "provider")]
    except IntegrityError as error:
        return [Drift(member.uri, "the facts in the keyset", str(error), "keyset")]
    used = member.state in (MemberState.PRE_ACTIVATION, MemberState.ACTIVE, MemberState.DEACTIVATED)
    enabled = found.state is KeyState.ENABLED
    if used == enabled:
        return []
    return [Drift(member.uri, str(member.state), str(found.state), "provider" if used else "keyset")]


# Documents


class _MemberDocument(msgspec.Struct, forbid_unknown_fields=True):
    activated_at: str | None
    changed_at: str
    info: dict[str, Any]
    process_until: str | None
    protect_until: str | None
    public_key: str | None
    reason: str | None
    state: str


class _KeysetDocument(msgspec.Struct, forbid_unknown_fields=True):
    members: Annotated[list[_MemberDocument], msgspec.Meta(min_length=1, max_length=MAX_MEMBERS)]
    name: str
    primary: str
    purpose: str


def _write_keyset(keyset: Keyset) -> bytes:
    return canonical_json(
        {
            "members": [_plain(member) for member in keyset.members],
            "name": keyset.name,
            "primary": str(keyset.primary),
            "purpose": str(keyset.purpose),
        }
    )


def _plain(member: Member) -> dict[str, object]:
    public_key = member.public_key
    return {
        "activated_at": time_text(member.activated_at),
        "changed_at": time_text(member.changed_at),
        "info": msgspec.json.decode(member.info.to_json()),
        "process_until": time_text(member.process_until),
        "protect_until": time_text(member.protect_until),
        "public_key": None if public_key is None else _spki_text(public_key),
        "reason": member.reason,
        "state": str(member.state),
    }


def _spki_text(public_key: PublicKey) -> str:
    return base64.b64encode(public_key.spki).decode()


def _read_keyset(value: object) -> Keyset:
    read = read_struct(value, _KeysetDocument)
    return Keyset(
        name=read.name,
        purpose=KeyPurpose(read.purpose),
        members=tuple(_read_member(member) for member in read.members),
        primary=KeyURI.parse(read.primary),
    )


def _read_member(read: _MemberDocument) -> Member:
    info = read_key_info(read.info)
    changed_at, public_key = read_time(read.changed_at), None
    if changed_at is None:
        raise ValueError("no date")
    if read.public_key is not None:
        public_key = PublicKey.from_spki(base64.b64decode(read.public_key, validate=True), info.algorithm)
        if _spki_text(public_key) != read.public_key:
            raise ValueError("another spelling of a public key")
    return Member(
        info=info,
        state=MemberState(read.state),
        public_key=public_key,
        activated_at=read_time(read.activated_at),
        protect_until=read_time(read.protect_until),
        process_until=read_time(read.process_until),
        changed_at=changed_at,
        reason=read.reason,
    )


KEYSET: Final = PayloadType[Keyset](
    "application/vnd.anykms.keyset.v1+json",
    _write_keyset,
    _read_keyset,
    lambda keyset: keyset.name,
    one_name=True,
)
"""The kind of document that ``anykms.trust`` seals for this module."""


def _named(name: str, generation: int | None = None, detail: str | None = None) -> AuditDocument:
    """A keyset in an audit event, before or without its sealed bytes."""
    return AuditDocument(kind=KEYSET.media_type, name=name, generation=generation, digest=None, detail=detail)


# Files


def _read(path: Path) -> bytes:
    # A pipe put in the file's place must not make the application wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(MAX_SEALED_SIZE + 1)


@contextmanager
def _locked(directory: Path) -> Generator[None]:
    """No other process of this machine saves a keyset in the directory meanwhile."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = Deadline(_LOCK_SECONDS, time.monotonic)
    try:
        while not _try_lock(descriptor):
            if deadline.remaining() <= 0:
                raise UnavailableError(f"another process is saving a keyset in {directory}; try again")
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".anykms-{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
