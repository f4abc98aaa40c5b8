"""The reference provider: keys in an encrypted SQLite file, every operation and algorithm of the contract."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Self

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyStateError,
    KeyUsageError,
    UnavailableError,
    UnsupportedOperationError,
)
from anykms.keys import (
    DEFAULT_DESTROY_WINDOW,
    ConnectionURI,
    KeyInfo,
    KeyOrigin,
    KeyState,
    KeyStatus,
    KeyTemplate,
    KeyURI,
    KeyVersion,
    ProtectionLevel,
    check_name,
    fact_differences,
    utc_seconds,
)
from anykms.provider import (
    DATA_KEY_SIZE,
    LIFECYCLE,
    Capability,
    Operation,
    RootSecret,
    SignatureEncoding,
    WrapContext,
    Wrapped,
    capabilities,
    forbid_state,
    is_name,
    mismatch,
    name_taken,
    require_purpose,
)
from anykms_local import material
from anykms_local.keystore import SENDER_SUFFIX, Entry, Store, Transaction, edited
from anykms_local.maintenance import (
    RestoreReport,
    StoreReport,
    backup_store,
    check_store,
    init_store,
    make_missing,
    rekey_store,
    restore_store,
    settings_of,
)
from anykms_local.records import Record, Version
from anykms_local.root import FileRoot, Passphrase, PassphraseRoot

__all__ = [
    "FileRoot",
    "LocalProvider",
    "Passphrase",
    "PassphraseRoot",
    "RestoreReport",
    "StoreReport",
    "backup_store",
    "check_store",
    "init_store",
    "rekey_store",
    "restore_store",
]

SCHEME: Final = "local"
_DAY: Final = 86400

Clock = Callable[[], datetime]
"""The time now, with a time zone."""


def _served(algorithm: Algorithm) -> tuple[Operation, ...]:
    served: tuple[Operation, ...] = (Operation.GENERATE_KEY,)
    purposes = algorithm.spec.purposes
    if KeyPurpose.ENCRYPT_DECRYPT in purposes:
        served += (Operation.ROTATE_KEY, Operation.WRAP, Operation.UNWRAP)
    if KeyPurpose.ASYMMETRIC_DECRYPT in purposes:
        served += (Operation.GET_PUBLIC_KEY, Operation.DECRYPT)
    if KeyPurpose.SIGN_VERIFY in purposes:
        served += (Operation.GET_PUBLIC_KEY, Operation.SIGN)
    if KeyPurpose.MAC in purposes:
        served += (Operation.MAC, Operation.VERIFY_MAC)
    return served


_CAPABILITIES: Final = capabilities(
    LIFECYCLE, {algorithm: _served(algorithm) for algorithm in Algorithm}, (ProtectionLevel.SOFTWARE,)
)


class LocalProvider:
    """Keys in a local file, behind the neutral contract. Safe to use from many threads and processes.

    Made by ``connect``. Material is unsealed for one operation and not kept: a key that another process
    disables is disabled here at once.

    >>> import os, tempfile
    >>> from anykms.keys import KeyConf
    >>> uri = ConnectionURI.parse(f"local://{tempfile.mkdtemp()}/keys.db")
    >>> provider = LocalProvider.connect(uri, create=True)
    >>> conf = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT)
    >>> info = provider.create_key(conf.template(Algorithm.A256GCM))
    >>> context = WrapContext({}, bytes(32))
    >>> data_key = os.urandom(32)
    >>> wrapped = provider.wrap(info, data_key, context)
    >>> len(wrapped.ciphertext), wrapped.version
    (104, '1')
    >>> provider.unwrap(info, wrapped.ciphertext, wrapped.version, context) == data_key
    True
    >>> provider.close()
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._resource = store.keystore_id + "/"

    @classmethod
    def connect(
        cls,
        uri: ConnectionURI,
        *,
        create: bool = False,
        root: RootSecret | None = None,
        passphrase: Passphrase | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Open the keystore file that ``uri`` names.

        Args:
            uri: ``local:///PATH`` or ``local:PATH`` with the options ``root=file:PATH`` (default: the
                keystore's path with ``.root`` behind), ``root=passphrase``, ``passphrase-file=PATH`` and
                ``busy-timeout=SECONDS`` (default 5).
            create: make the keystore, and its root file, if the keystore does not exist.
            root: the root secret as an object, instead of the options.
            passphrase: gives the passphrase, instead of a file or the terminal.
            clock: the time, for destruction windows and rotation; default: the system's.

        Raises:
            InvalidArgumentError: an unknown option, or options that exclude each other.
            KeystoreError: missing, damaged, edited, or another root secret.
            UnavailableError: locked by another process.
            OSError: the file of the keystore or of its root secret cannot be read or made.
        """
        settings = settings_of(uri, root=root, passphrase=passphrase)
        if create:
            make_missing(settings)
        store = Store(settings.path, settings.root, settings.busy_timeout)
        provider = cls(store, clock or (lambda: datetime.now(UTC)))
        try:
            provider._destroy_overdue()
        except BaseException:
            provider.close()
            raise
        return provider

    @property
    def scheme(self) -> str:
        """``local``."""
        return SCHEME

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Everything in the contract, at protection level SOFTWARE."""
        return _CAPABILITIES

    @property
    def signature_encoding(self) -> SignatureEncoding:
        """DER."""
        return SignatureEncoding.DER

    @property
    def ungated(self) -> frozenset[Operation]:
        """None: the state is read with the key, in every operation."""
        return frozenset()

    @property
    def strongly_consistent(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._store.close()

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        """Make the key, ENABLED, and its sender key where there is one; see ``Provider.create_key``."""
        name = check_name(template.name)
        if template.protection_level not in (None, ProtectionLevel.SOFTWARE):
            raise UnsupportedOperationError("a local keystore has protection level SOFTWARE only")
        if template.purpose not in template.algorithm.spec.purposes:
            raise InvalidArgumentError(f"algorithm {template.algorithm} does not serve {template.purpose}")
        if (holder := self._settled(name)) is not None:
            raise name_taken(name, holder.state)
        # Generated before the write begins: RSA takes seconds, and a writer keeps all others out.
        versions = [(f"{name}/1", material.generate(template.algorithm, template.key_size))]
        if template.purpose is KeyPurpose.ENCRYPT_DECRYPT and template.algorithm is Algorithm.RSA_OAEP_256:
            versions.append((f"{name}{SENDER_SUFFIX}/1", material.generate(Algorithm.ES256, None)))
        now = self._now()
        record = Record(
            self._facts(template, now, [spki for _, (_, spki) in versions]),
            KeyState.ENABLED,
            rotation_period=template.rotation_period,
            next_rotation_at=(
                None if template.rotation_period is None else now + template.rotation_period * _DAY
            ),
        )
        with self._store.transaction() as change:
            taken = change.get(name)
            if taken is not None:
                raise name_taken(name, Record.parse(taken.meta).state)
            change.put(Entry(name, 1, record.to_json(), b""))
            for version, (secret, spki) in versions:
                change.put(Entry(version, None, Version(now, spki).to_json(), secret))
        return record.info

    def _facts(self, template: KeyTemplate, now: int, spkis: list[bytes | None]) -> KeyInfo:
        uri = KeyURI(SCHEME, self._resource + template.name)
        wraps = template.purpose is KeyPurpose.ENCRYPT_DECRYPT
        prints = [None if spki is None else material.fingerprint(spki) for spki in spkis]
        return KeyInfo(
            name=template.name,
            uri=uri if wraps else uri.with_version("1"),
            provider=SCHEME,
            purpose=template.purpose,
            algorithm=template.algorithm,
            key_size=template.key_size,
            protection_level=ProtectionLevel.SOFTWARE,
            origin=KeyOrigin.PROVIDER,
            created_at=datetime.fromtimestamp(now, UTC),
            sender_authenticated=True,
            fingerprint=None if wraps else prints[0],
            sender_fingerprint=prints[1] if len(prints) > 1 else None,
            tags=template.tags,
            destroy_window=template.destroy_window or DEFAULT_DESTROY_WINDOW,
            destroy_window_enforced=True,
            conf_digest=template.conf_digest,
        )

    def get_key(self, name: str) -> KeyInfo:
        """The facts of a key by name or ``local://`` key URI (its version is ignored)."""
        if "://" in name:
            uri = KeyURI.parse(name)
            if uri.scheme != SCHEME or not uri.resource.startswith(self._resource):
                raise KeyNotFoundError("the key URI belongs to another keystore")
            name = uri.resource.removeprefix(self._resource)

        record = self._settled(name) if is_name(name) else None
        if record is None or record.state is KeyState.DESTROYED:
            raise KeyNotFoundError(f"no key {ascii(name)[:100]} in this keystore")
        return record.info

    def list_keys(self) -> Iterator[KeyInfo]:
        """The keys in every state but DESTROYED, ordered by name; sender keys go with theirs."""
        for entry in self._store.scan():
            if entry.current is None:
                continue
            record = Record.parse(entry.meta)
            if self._is_overdue(record):
                self._destroy(entry.id)
            elif record.state is not KeyState.DESTROYED:
                yield record.info

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        """The live status, DESTROYED included; a sender key's is its key's, with its own one version."""
        owner = self._owner(info)
        record = self._known(info, self._settled(owner))
        if self._is_rotation_due(record):
            self._rotate(owner, record, due_only=True)
        entries = {entry.id: entry for entry in self._store.scan(owner)}
        record = self._known(info, Record.parse(entries[owner].meta))
        is_sender = info.name != owner
        current = 1 if is_sender else entries[owner].current or 1
        versions = [Version.parse(entries[f"{info.name}/{n}"].meta) for n in range(1, current + 1)]
        return KeyStatus(
            state=record.state,
            current_version=None if record.state is KeyState.DESTROYED else str(current),
            versions=tuple(
                KeyVersion(
                    id=str(number),
                    state=record.state,
                    created_at=datetime.fromtimestamp(version.created_at, UTC),
                    fingerprint=None if version.spki is None else material.fingerprint(version.spki),
                )
                for number, version in enumerate(versions, 1)
            ),
            destroy_at=None if record.destroy_at is None else datetime.fromtimestamp(record.destroy_at, UTC),
            rotation_period=None if is_sender else record.rotation_period,
            next_rotation_at=(
                None
                if is_sender or record.next_rotation_at is None
                else datetime.fromtimestamp(record.next_rotation_at, UTC)
            ),
        )

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        """Enable or disable the key, its versions and its sender key at once."""
        with self._changing(info) as (change, entry, record):
            forbid_state(record.state, pending=True)
            state = KeyState.ENABLED if enabled else KeyState.DISABLED
            if state is not record.state:
                _put(change, entry, replace(record, state=state))

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        """Make a new version, for ENCRYPT_DECRYPT keys that are ENABLED; see ``Provider.rotate_key``."""
        if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            raise UnsupportedOperationError(f"a {info.purpose} key has one version for life; make a new key")
        owner = self._owner(info)
        self._rotate(owner, self._known(info, self._settled(owner)), due_only=False)
        return self.describe_key(info)

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        """Destroy the key, and its sender key, when its window has passed; returns when."""
        now = self._now()
        with self._changing(info) as (change, entry, record):
            forbid_state(record.state, pending=True)
            at = now + (record.info.destroy_window or DEFAULT_DESTROY_WINDOW) * _DAY
            _put(change, entry, replace(record, state=KeyState.PENDING_DESTRUCTION, destroy_at=at))
        return datetime.fromtimestamp(at, UTC)

    def cancel_destruction(self, info: KeyInfo) -> None:
        """Take the key back, DISABLED."""
        with self._changing(info) as (change, entry, record):
            forbid_state(record.state)
            if record.state is not KeyState.PENDING_DESTRUCTION:
                raise KeyStateError(f"the destruction of {info.name} is not scheduled; nothing to cancel")
            _put(change, entry, replace(record, state=KeyState.DISABLED, destroy_at=None))

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        """SPKI DER of the version, None meaning the current one."""
        _, entry = self._enabled(info, version)
        if entry is None:
            raise KeyNotFoundError(f"the key {info.name} has no version {ascii(version)[:40]}")
        spki = Version.parse(entry.meta).spki
        if spki is None:
            raise KeyUsageError(f"{info.algorithm} is symmetric: there is no public key")
        return spki

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        """Encrypt 32 bytes: 104 bytes by Cobblestone-256 bound to ``context.aad``, or RSA-OAEP-256."""
        require_purpose(info, KeyPurpose.ENCRYPT_DECRYPT)
        if len(data_key) != DATA_KEY_SIZE:
            raise InvalidArgumentError(f"a data key has {DATA_KEY_SIZE} bytes, not {len(data_key)}")
        record, entry = self._enabled(info, None)
        if self._is_rotation_due(record):
            self._rotate(info.name, record, due_only=True)
            record, entry = self._enabled(info, None)
        if entry is None:
            raise edited(f"the current version of {info.name} is missing")
        version = entry.id.rpartition("/")[2]
        if record.info.algorithm is Algorithm.A256GCM:
            return Wrapped(version, material.wrap(entry.secret, data_key, context.aad))
        return Wrapped(version, material.rsa_encrypt(Version.parse(entry.meta).spki or b"", data_key))

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        """Decrypt what ``wrap`` made with that version; None means the current one."""
        require_purpose(info, KeyPurpose.ENCRYPT_DECRYPT)
        record, entry = self._enabled(info, version)
        if entry is None:
            raise material.invalid_ciphertext()
        if record.info.algorithm is Algorithm.A256GCM:
            return material.unwrap(entry.secret, wrapped, context.aad)
        data_key = material.rsa_decrypt(entry.secret, wrapped)
        if len(data_key) != DATA_KEY_SIZE:
            raise material.invalid_ciphertext()
        return data_key

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        """Sign; a sender key signs too (``KeyInfo.sender_key``). ECDSA signatures are DER."""
        secret = self._secret(info, KeyPurpose.SIGN_VERIFY)
        return material.sign(info.algorithm, secret, message, prehashed)

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        """RSA-OAEP-256 decryption."""
        return material.rsa_decrypt(self._secret(info, KeyPurpose.ASYMMETRIC_DECRYPT), ciphertext)

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        """HMAC of 1 to 4096 bytes."""
        return material.mac(info.algorithm, self._secret(info, KeyPurpose.MAC), message)

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        """Raises InvalidMacError unless the tag is right."""
        material.verify_mac(info.algorithm, self._secret(info, KeyPurpose.MAC), message, tag)

    # Reading rows

    def _owner(self, info: KeyInfo) -> str:
        """The key whose row decides about ``info``: a sender key belongs to its key."""
        if not isinstance(info, KeyInfo):
            raise TypeError(f"info is a KeyInfo, not {type(info).__name__}")
        if info.uri.scheme != SCHEME or not info.uri.resource.startswith(self._resource):
            raise KeyNotFoundError(f"the key {info.uri} belongs to another keystore")
        if info.uri.resource != self._resource + info.name:
            raise mismatch(
                "the name and the uri of the KeyInfo differ",
                expected=self._resource + info.name,
                found=info.uri.resource,
            )
        return info.name.removesuffix(SENDER_SUFFIX)

    def _known(self, info: KeyInfo, record: Record | None) -> Record:
        """The record, if ``info`` states the same facts.

        Raises:
            KeyDestroyedError: there is no such key (any more).
            IntegrityError: a fact differs.
        """
        if record is None:
            raise KeyDestroyedError(
                f"the keystore does not know {info.uri}; perhaps an older backup was restored"
            )
        facts = record.info if info.name == record.info.name else record.info.sender_key()
        if facts is None:
            raise KeyNotFoundError(f"the key {record.info.name} has no sender key")
        if info is not facts and info != facts:
            raise IntegrityError(
                f"the KeyInfo of {info.name} is not what the keystore holds: {'; '.join(fact_differences(info, facts))}"
            )
        return record

    def _enabled(self, info: KeyInfo, version: str | None) -> tuple[Record, Entry | None]:
        """The record of an ENABLED key, and the row of a version (None: the current one) if there is one."""
        owner = self._owner(info)
        if version is None and info.name != owner:
            version = "1"
        row_id = None
        if version is not None:
            row_id = f"{info.name}/{version if version.isascii() and version.isdigit() else 0}"
        key, found = self._store.fetch(owner, row_id)
        record = self._known(info, None if key is None else Record.parse(key.meta))
        if record.state is not KeyState.ENABLED:
            if self._is_overdue(record):
                record = self._destroy(owner)
            forbid_state(record.state, pending=True, disabled=True)
        return record, found

    def _secret(self, info: KeyInfo, purpose: KeyPurpose) -> bytes:
        require_purpose(info, purpose)
        _, entry = self._enabled(info, "1")
        if entry is None:
            raise edited(f"the material of {info.name} is missing")
        return entry.secret

    def _settled(self, name: str) -> Record | None:
        """The record of a key, once it is destroyed if its time has come."""
        entry, _ = self._store.fetch(name)
        record = None if entry is None else Record.parse(entry.meta)
        if record is not None and self._is_overdue(record):
            return self._destroy(name)
        return record

    def _now(self) -> int:
        return int(utc_seconds(self._clock()).timestamp())

    def _is_overdue(self, record: Record) -> bool:
        return (
            record.state is KeyState.PENDING_DESTRUCTION
            and record.destroy_at is not None
            and self._now() >= record.destroy_at
        )

    def _is_rotation_due(self, record: Record) -> bool:
        return (
            record.next_rotation_at is not None
            and record.state is KeyState.ENABLED
            and self._now() >= record.next_rotation_at
        )

    # Changing rows

    @contextlib.contextmanager
    def _changing(self, info: KeyInfo) -> Generator[tuple[Transaction, Entry, Record], None, None]:
        owner = self._owner(info)
        if info.name != owner:
            raise KeyUsageError(f"{info.name} lives and dies with {owner}; change that key")
        self._settled(owner)
        with self._store.transaction() as change:
            entry = change.get(owner)
            record = self._known(info, None if entry is None else Record.parse(entry.meta))
            if entry is not None:
                yield change, entry, record

    def _rotate(self, name: str, record: Record, *, due_only: bool) -> None:
        forbid_state(record.state, pending=True, disabled=True)
        secret, spki = material.generate(record.info.algorithm, record.info.key_size)
        now = self._now()
        with self._store.transaction() as change:
            entry = change.get(name)
            if entry is None or entry.current is None:
                raise edited(f"the row of {name} is missing")
            record = Record.parse(entry.meta)
            if due_only and not self._is_rotation_due(record):
                return  # another thread or process was first
            forbid_state(record.state, pending=True, disabled=True)
            number = entry.current + 1
            change.put(Entry(f"{name}/{number}", None, Version(now, spki).to_json(), secret))
            period = record.rotation_period
            record = replace(record, next_rotation_at=None if period is None else now + period * _DAY)
            change.put(Entry(name, number, record.to_json(), b""))

    def _destroy_overdue(self) -> None:
        """A key that nobody asks for again goes when the store is next opened."""
        with contextlib.suppress(UnavailableError):  # another writer is at work; a later access does it
            for name in self._store.keys_in_state(KeyState.PENDING_DESTRUCTION):
                self._settled(name)

    def _destroy(self, name: str) -> Record:
        """Overwrite the material of a key whose time has come; the facts stay, so the name stays taken."""
        with self._store.transaction() as change:
            entry = change.get(name)
            if entry is None:
                raise edited(f"the row of {name} is missing")
            record = Record.parse(entry.meta)
            if self._is_overdue(record):
                for version in change.versions(name):
                    change.put(replace(version, secret=b""))
                record = replace(record, state=KeyState.DESTROYED, destroy_at=None)
                _put(change, entry, record)
        self._store.truncate_log()
        return record


def _put(change: Transaction, entry: Entry, record: Record) -> None:
    change.put(Entry(entry.id, entry.current, record.to_json(), b""))
