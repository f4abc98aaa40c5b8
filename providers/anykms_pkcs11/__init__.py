"""Keys on a PKCS#11 token: an HSM, a smart card, or SoftHSM."""

from __future__ import annotations

import contextlib
import functools
import hmac
import os
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from pkcs11 import ObjectClass, PKCS11Error
from pkcs11 import exceptions as sdk
from pkcs11.mechanisms import GCMParams

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    ConflictError,
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
    InvalidMacError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyStateError,
    KeystoreError,
    KeyUsageError,
    QuotaExceededError,
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
    check_name,
    fact_differences,
    utc_seconds,
)
from anykms.provider import (
    DATA_KEY_SIZE,
    Capability,
    Operation,
    SignatureEncoding,
    WrapContext,
    Wrapped,
    forbid_state,
    is_name,
    mismatch,
    name_taken,
    require_purpose,
)
from anykms_pkcs11.errors import is_state
from anykms_pkcs11.records import Record, Version, edited, fingerprint
from anykms_pkcs11.specs import generate, spec_of
from anykms_pkcs11.token import Pin, Token, open_token

__all__ = ["PKCS11Provider"]

SCHEME: Final = "pkcs11"
MAX_WRAPS: Final = 2**32
"""Wraps under one key version: the limit for random 96-bit IVs (NIST SP 800-38D, 8.3)."""
_FIRST_BLOCK: Final = 2**8
_LARGEST_BLOCK: Final = 2**20
_DAY: Final = 86400
_IV_SIZE: Final = 12
_TAG_SIZE: Final = 16
_WRAPPED_SIZE: Final = _IV_SIZE + DATA_KEY_SIZE + _TAG_SIZE
_OPTIONS: Final = frozenset({"module", "pin-file", "serial"})
_MAX_PIN: Final = 255
_KEYS: Final = "anykms/key/"

Clock = Callable[[], datetime]
"""The time now, with a time zone."""


class PKCS11Provider:
    """Keys on one token, behind the neutral contract. Safe to use from many threads and processes.

    Made by ``connect``. The token does the cryptography and keeps the keys, which never leave it; states, dates
    and names are anykms's own, in a record beside each key (docs/providers/pkcs11.md says what they are worth).
    """

    def __init__(self, token: Token, clock: Clock) -> None:
        self._token = token
        self._clock = clock
        self._resource = token.store_id + "/"
        self._closed = False

    @classmethod
    def connect(
        cls,
        uri: ConnectionURI,
        *,
        create: bool = False,
        pin: Pin | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Log in to the token that ``uri`` names, and ask what it can do.

        Args:
            uri: ``pkcs11://LABEL`` with the options ``module=/PATH`` (the vendor's library), ``pin-file=/PATH``
                (mode 0600; one line end is taken off) and ``serial=``, where several tokens have the label.
                LABEL is the token's label in lower case, with - for whatever is not a letter, digit or dot.
            create: make anykms's own objects on a token that has none: a MAC key and the store's identity.
            pin: gives the user's PIN when asked, instead of a file. A PIN is never part of the URI.
            clock: the time, for destruction windows and rotation; default: the system's.

        Raises:
            InvalidArgumentError: an unknown or missing option.
            UnauthenticatedError: the token refuses the PIN.
            UnavailableError: there is no such token now.
            KeystoreError: the module cannot be loaded, the PIN file is open to others, the token holds no
                anykms keys and ``create`` is False, or they were edited.
            UnsupportedOperationError: the token has no HMAC-SHA-256.
            OSError: the PIN file cannot be read.
        """
        unknown = sorted(set(uri.options) - _OPTIONS)
        if unknown:
            hint = "; a PIN goes into a file or a callable" if any("pin" in name for name in unknown) else ""
            raise InvalidArgumentError(f"pkcs11 has no option {', '.join(unknown)}{hint}")
        module = uri.options.get("module", "")
        if not Path(module).is_absolute():
            raise InvalidArgumentError("pkcs11 needs ?module=/PATH of the token's PKCS#11 library")
        if (pin is None) is ("pin-file" not in uri.options):
            raise InvalidArgumentError("pkcs11 needs either ?pin-file=/PATH or pin=, a callable")
        secret = _read_pin(Path(uri.options["pin-file"])) if pin is None else pin()
        if not isinstance(secret, str):
            raise TypeError(f"pin gives a str, not {type(secret).__name__}")
        serial = uri.options.get("serial")
        token = open_token(
            module, uri.address, None if serial is None else serial.lower(), secret, create=create
        )
        provider = cls(token, clock or (lambda: datetime.now(UTC)))
        try:
            provider._destroy_overdue()
        except BaseException:
            provider.close()
            raise
        return provider

    @property
    def scheme(self) -> str:
        """``pkcs11``."""
        return SCHEME

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the token was found to have when the connection was made."""
        return self._token.capabilities

    @property
    def signature_encoding(self) -> SignatureEncoding:
        """P1363, as CKM_ECDSA gives it."""
        return SignatureEncoding.P1363

    @property
    def ungated(self) -> frozenset[Operation]:
        """None: the state is read with the key, in every operation."""
        return frozenset()

    @property
    def strongly_consistent(self) -> bool:
        """True: a token has one copy of each object."""
        return True

    def close(self) -> None:
        """Leave the token; the last connection of a process logs out. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._token.release()

    # Lifecycle

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        """Make the key on the token, ENABLED; see ``Provider.create_key``."""
        name, algorithm = check_name(template.name), template.algorithm
        wanted = Capability(Operation.GENERATE_KEY, algorithm, template.key_size, self._token.level)
        if wanted not in self.capabilities or template.protection_level not in (None, self._token.level):
            raise UnsupportedOperationError(
                f"the token makes no such {algorithm} key at {template.protection_level}"
            )
        if template.purpose not in algorithm.spec.purposes:
            raise InvalidArgumentError(f"algorithm {algorithm} does not serve {template.purpose}")
        with self._calls(), self._token.writing():
            if (holder := self._settled(name)) is not None:
                raise name_taken(name, holder.state)
            # Made before the lock with its lease is taken: RSA takes seconds.
            version, item = self._generate(algorithm, template.key_size, name, 1)
            try:
                with self._locked(name):
                    if (holder := self._record(name)) is not None:
                        raise name_taken(name, holder.state)
                    period = template.rotation_period
                    record = Record(
                        self._facts(template, version),
                        KeyState.ENABLED,
                        (version,),
                        rotation_period=period,
                        next_rotation_at=None if period is None else version.created_at + period * _DAY,
                    )
                    self._put(record)
            except BaseException:
                with contextlib.suppress(PKCS11Error):
                    item.destroy()
                raise
            self._token.adopt(version.object_id, item)
        return record.info

    def _facts(self, template: KeyTemplate, version: Version) -> KeyInfo:
        uri = KeyURI(SCHEME, self._resource + template.name)
        return KeyInfo(
            name=template.name,
            uri=uri if template.purpose is KeyPurpose.ENCRYPT_DECRYPT else uri.with_version("1"),
            provider=SCHEME,
            purpose=template.purpose,
            algorithm=template.algorithm,
            key_size=template.key_size,
            protection_level=self._token.level,
            origin=KeyOrigin.PROVIDER,
            created_at=datetime.fromtimestamp(version.created_at, UTC),
            fingerprint=fingerprint(version.spki),
            tags=template.tags,
            destroy_window=template.destroy_window or DEFAULT_DESTROY_WINDOW,
            destroy_window_enforced=False,
            conf_digest=template.conf_digest,
        )

    def get_key(self, name: str) -> KeyInfo:
        """The facts of a key by name or ``pkcs11://`` key URI (its version is ignored)."""
        if "://" in name:
            uri = KeyURI.parse(name)
            if uri.scheme != SCHEME or not uri.resource.startswith(self._resource):
                raise KeyNotFoundError("the key URI belongs to another token")
            name = uri.resource.removeprefix(self._resource)
        record = None
        if is_name(name):
            with self._calls():
                record = self._settled(name)
        if record is None or record.state is KeyState.DESTROYED:
            raise KeyNotFoundError(f"no key {ascii(name)[:100]} on this token")
        return record.info

    def list_keys(self) -> Iterator[KeyInfo]:
        """The keys that anykms made, in every state but DESTROYED, ordered by name."""
        with self._calls():
            names = [label.removeprefix(_KEYS) for label in self._token.labels(_KEYS)]
            records = [self._settled(name) for name in names]
        return iter(
            [
                record.info
                for record in records
                if record is not None and record.state is not KeyState.DESTROYED
            ]
        )

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        """The live status, DESTROYED included."""
        with self._calls():
            record = self._known(info, self._settled(info.name))
            if self._is_rotation_due(record):
                record = self._rotate(info, due_only=True)
        destroyed = record.state is KeyState.DESTROYED
        return KeyStatus(
            state=record.state,
            current_version=None if destroyed else str(len(record.versions)),
            versions=tuple(
                KeyVersion(
                    id=str(number),
                    state=record.state,
                    created_at=datetime.fromtimestamp(version.created_at, UTC),
                    fingerprint=fingerprint(version.spki),
                )
                for number, version in enumerate(record.versions, 1)
            ),
            destroy_at=_moment(record.destroy_at),
            rotation_period=record.rotation_period,
            next_rotation_at=_moment(record.next_rotation_at),
        )

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        """Enable or disable the key, and give or take away the usage attributes of its objects."""
        with self._changing(info) as record:
            forbid_state(record.state, pending=True)
            state = KeyState.ENABLED if enabled else KeyState.DISABLED
            if enabled:  # first, so that no enabled key is without its usage
                self._allow(record, True)
            if state is not record.state:
                self._put(replace(record, state=state))
            if not enabled:
                self._allow(record, False)

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        """Make a new version, for ENCRYPT_DECRYPT keys that are ENABLED; see ``Provider.rotate_key``."""
        if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            raise UnsupportedOperationError(f"a {info.purpose} key has one version for life; make a new key")
        with self._calls():
            self._known(info, self._settled(info.name))
            self._rotate(info, due_only=False)
        return self.describe_key(info)

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        """Destroy the objects once the window has passed and anykms next comes by; returns when."""
        with self._changing(info) as record:
            forbid_state(record.state, pending=True)
            at = self._now() + (record.info.destroy_window or DEFAULT_DESTROY_WINDOW) * _DAY
            self._put(replace(record, state=KeyState.PENDING_DESTRUCTION, destroy_at=at))
            self._allow(record, False)
        return datetime.fromtimestamp(at, UTC)

    def cancel_destruction(self, info: KeyInfo) -> None:
        """Take the key back, DISABLED."""
        with self._changing(info) as record:
            forbid_state(record.state)
            if record.state is not KeyState.PENDING_DESTRUCTION:
                raise KeyStateError(f"the destruction of {info.name} is not scheduled; nothing to cancel")
            self._put(replace(record, state=KeyState.DISABLED, destroy_at=None))

    # Cryptography

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        """SPKI DER of the version, None meaning the current one, as noted when the token made the pair."""
        with self._calls():
            found = _version(self._enabled(info), version)
        if found is None:
            raise KeyNotFoundError(f"the key {info.name} has no version {ascii(version)[:40]}")
        if found.spki is None:
            raise KeyUsageError(f"{info.algorithm} is symmetric: there is no public key")
        return found.spki

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        """Encrypt 32 bytes by CKM_AES_GCM with ``context.aad``: IV (12) || ciphertext (32) || tag (16).

        Raises:
            QuotaExceededError: the version has made, or set aside, 2^32 wraps; rotate the key.
        """
        require_purpose(info, KeyPurpose.ENCRYPT_DECRYPT)
        if len(data_key) != DATA_KEY_SIZE:
            raise InvalidArgumentError(f"a data key has {DATA_KEY_SIZE} bytes, not {len(data_key)}")
        with self._calls():
            record = self._enabled(info)
            if self._is_rotation_due(record):
                record = self._rotate(info, due_only=True)
            version = record.current
            self._count_wrap(info, version.object_id)
            iv = os.urandom(_IV_SIZE)
            sealed = self._use(
                info, version, lambda item: item.encrypt(data_key, **_gcm(info, iv, context.aad))
            )
        if len(sealed) != DATA_KEY_SIZE + _TAG_SIZE:
            raise IntegrityError(f"the token made a ciphertext of {len(sealed)} bytes")
        return Wrapped(str(len(record.versions)), iv + sealed)

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        """Decrypt what ``wrap`` made with that version; None means the current one."""
        require_purpose(info, KeyPurpose.ENCRYPT_DECRYPT)
        with self._calls():
            found = _version(self._enabled(info), version)
            if found is None or len(wrapped) != _WRAPPED_SIZE:
                raise _not_authentic()
            iv, sealed = wrapped[:_IV_SIZE], wrapped[_IV_SIZE:]
            try:
                data_key = self._use(
                    info, found, lambda item: item.decrypt(sealed, **_gcm(info, iv, context.aad))
                )
            except (sdk.EncryptedDataInvalid, sdk.EncryptedDataLenRange) as error:
                raise _not_authentic() from error
            except (sdk.GeneralError, sdk.FunctionFailed) as error:
                # What SoftHSM says of a wrong tag; a token that is out of order says it of everything.
                if self._token.works():
                    raise _not_authentic() from error
                raise
        if len(data_key) != DATA_KEY_SIZE:
            raise _not_authentic()
        return data_key

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        """Sign a digest, or a message with Ed25519. ECDSA signatures are r || s."""
        require_purpose(info, KeyPurpose.SIGN_VERIFY)
        if prehashed is not info.algorithm.spec.prehashable:
            raise UnsupportedOperationError(f"{info.algorithm} does not sign this form of the message")
        return self._apply(info, spec_of(info.algorithm).prefix + message)

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        """Not offered: no mechanism list tells whether a token's OAEP has SHA-256."""
        raise UnsupportedOperationError("anykms has no RSA-OAEP-256 keys on PKCS#11 tokens")

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        """HMAC of 1 to 4096 bytes."""
        require_purpose(info, KeyPurpose.MAC)
        return self._apply(info, message)

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        """Raises InvalidMacError unless the tag is right."""
        if not hmac.compare_digest(self.mac(info, message), tag):
            raise InvalidMacError("the tag does not belong to this message and key")

    def _apply(self, info: KeyInfo, message: bytes) -> bytes:
        spec = spec_of(info.algorithm)
        with self._calls():
            version = self._enabled(info).current
            return self._use(
                info,
                version,
                lambda item: item.sign(message, mechanism=spec.mechanism, mechanism_param=spec.parameter),
            )

    def _count_wrap(self, info: KeyInfo, object_id: str) -> None:
        """Take one wrap of those that this process has set aside; sets aside more, in growing blocks."""
        left, block = self._token.allowances.get(object_id, (0, _FIRST_BLOCK // 2))
        if not left:
            block = min(block * 2, _LARGEST_BLOCK)
            with self._locked(info.name):
                record = self._known(info, self._record(info.name))
                forbid_state(record.state, pending=True, disabled=True)
                versions = list(record.versions)
                for number, version in enumerate(versions):
                    if version.object_id == object_id:
                        if version.reserved + block > MAX_WRAPS:
                            raise QuotaExceededError(
                                f"version {number + 1} of {info.name} has made all its wraps; rotate the key"
                            )
                        versions[number] = replace(version, reserved=version.reserved + block)
                self._put(replace(record, versions=tuple(versions)))
            left = block
        self._token.allowances[object_id] = left - 1, block

    # Objects

    @contextlib.contextmanager
    def _calls(self) -> Generator[None]:
        if self._closed:
            raise InvalidArgumentError("the connection to the token is closed")
        with self._token.calls():
            yield

    def _generate(
        self, algorithm: Algorithm, key_size: int | None, name: str, number: int
    ) -> tuple[Version, Any]:
        object_id = os.urandom(16)
        with self._token.calls() as session:
            item, spki = generate(
                session,
                algorithm,
                key_size,
                object_id=object_id,
                label=f"anykms/{name}/{number}",
                stored=True,
            )
        return Version(object_id.hex(), self._now(), spki), item

    def _object(self, info: KeyInfo, version: Version) -> Any:
        spec = spec_of(info.algorithm)
        return self._token.usable_key(_class(version), spec.key_type, version.object_id, spec.usage)

    def _use(self, info: KeyInfo, version: Version, function: Callable[[Any], bytes]) -> bytes:
        """``function`` of the version's object; once more if its handle is stale or its usage was just given back."""
        try:
            return function(self._object(info, version))
        except (PKCS11Error, KeyStateError) as error:
            if not isinstance(error, (sdk.ObjectHandleInvalid, sdk.KeyHandleInvalid)) and not is_state(error):
                raise
        self._enabled(info)  # another process may have disabled or destroyed the key since we looked
        self._token.forget(version.object_id)
        return function(self._object(info, version))

    def _allow(self, record: Record, usable: bool) -> None:
        """Give every version's object its usage, or take it away."""
        spec = spec_of(record.info.algorithm)
        for version in record.versions:
            item = self._token.find_key(_class(version), spec.key_type, version.object_id)
            for attribute in spec.usage:
                if item[attribute] is not usable:
                    item[attribute] = usable

    # Records

    def _record(self, name: str) -> Record | None:
        data = self._token.read(_KEYS + name)
        if data is None:
            return None
        record = _parse(data)
        if record.info.uri.without_version() != KeyURI(SCHEME, self._resource + name):
            raise edited(f"the record of {name} is another key's")
        return record

    def _put(self, record: Record) -> None:
        """Write the record; the caller holds its lock."""
        self._token.write(_KEYS + record.info.name, record.to_json())

    def _locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self._token.locked(_KEYS + name)

    def _known(self, info: KeyInfo, record: Record | None) -> Record:
        """The record, if ``info`` states the same facts.

        Raises:
            KeyDestroyedError: there is no such key (any more).
            IntegrityError: a fact differs.
        """
        if info.uri.scheme != SCHEME or not info.uri.resource.startswith(self._resource):
            raise KeyNotFoundError(f"the key {info.uri} belongs to another token")
        if info.uri.resource != self._resource + info.name:
            raise mismatch(
                "the name and the uri of the KeyInfo differ",
                expected=self._resource + info.name,
                found=info.uri.resource,
            )
        if record is None:
            raise KeyDestroyedError(f"the token does not know {info.uri} any more")
        if info is not record.info and info != record.info:
            raise IntegrityError(
                f"the KeyInfo of {info.name} is not what the token holds: "
                f"{'; '.join(fact_differences(info, record.info))}"
            )
        return record

    def _enabled(self, info: KeyInfo) -> Record:
        """The record of an ENABLED key."""
        record = self._known(info, self._settled(info.name))
        forbid_state(record.state, pending=True, disabled=True)
        return record

    def _settled(self, name: str) -> Record | None:
        """The record of a key, once it is destroyed if its time has come."""
        record = self._record(name) if is_name(name) else None
        if record is not None and self._is_overdue(record):
            return self._destroy(name)
        return record

    @contextlib.contextmanager
    def _changing(self, info: KeyInfo) -> Generator[Record]:
        with self._calls():
            self._known(info, self._settled(info.name))
            with self._locked(info.name):
                yield self._known(info, self._record(info.name))

    def _rotate(self, info: KeyInfo, *, due_only: bool) -> Record:
        with self._token.writing():
            record = self._known(info, self._record(info.name))
            forbid_state(record.state, pending=True, disabled=True)
            version, item = self._generate(info.algorithm, info.key_size, info.name, len(record.versions) + 1)
            try:
                with self._locked(info.name):
                    record = self._known(info, self._record(info.name))
                    forbid_state(record.state, pending=True, disabled=True)
                    if due_only and not self._is_rotation_due(record):
                        item.destroy()  # another process was first
                        return record
                    period = record.rotation_period
                    record = replace(
                        record,
                        versions=(*record.versions, version),
                        next_rotation_at=None if period is None else version.created_at + period * _DAY,
                    )
                    self._put(record)
            except BaseException:
                with contextlib.suppress(PKCS11Error):
                    item.destroy()
                raise
            self._token.adopt(version.object_id, item)
        return record

    def _destroy_overdue(self) -> None:
        """A key that nobody asks for again goes when the token is next connected to."""
        with contextlib.suppress(ConflictError, UnavailableError):  # a later access does it
            list(self.list_keys())

    def _destroy(self, name: str) -> Record:
        """Destroy the objects of a key whose time has come; the record stays, so the name stays taken."""
        with self._locked(name):
            record = self._record(name)
            if record is None:
                raise edited(f"the record of {name} is gone")
            if self._is_overdue(record):
                for version in record.versions:
                    self._token.destroy_key(version.object_id)
                record = replace(record, state=KeyState.DESTROYED, destroy_at=None)
                self._put(record)
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


_parse = functools.lru_cache(maxsize=1024)(Record.parse)


def _gcm(info: KeyInfo, iv: bytes, aad: bytes) -> dict[str, Any]:
    return {
        "mechanism": spec_of(info.algorithm).mechanism,
        "mechanism_param": GCMParams(iv, aad, _TAG_SIZE * 8),
    }


def _class(version: Version) -> ObjectClass:
    return ObjectClass.SECRET_KEY if version.spki is None else ObjectClass.PRIVATE_KEY


def _version(record: Record, version: str | None) -> Version | None:
    """The version of that number, None meaning the current one; None if there is no such version."""
    if version is None:
        return record.current
    numbered = {str(number): found for number, found in enumerate(record.versions, 1)}
    return numbered.get(version)


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _not_authentic() -> InvalidCiphertextError:
    return InvalidCiphertextError("the wrapped key is not authentic under this key and context")


def _read_pin(path: Path) -> str:
    """The PIN in a file that nobody else can read."""
    # O_NONBLOCK: opening a FIFO must not hang.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077:
            raise KeystoreError(f"the PIN file {str(path)!a} must be a file with mode 0600; run: chmod 600")
        if facts.st_uid not in (0, os.geteuid()):
            raise KeystoreError(f"the PIN file {str(path)!a} belongs to another user")
        data = file.read(_MAX_PIN + 3)
    try:
        pin = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        pin = ""
    if not 1 <= len(pin.encode()) <= _MAX_PIN:
        raise KeystoreError(f"the PIN file {str(path)!a} holds no PIN of 1 to {_MAX_PIN} bytes in UTF-8")
    return pin
