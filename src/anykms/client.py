"""KMSClient, the administrator's plane, and Key, the application's.

Everything the contract says once lives here once: limits, capabilities, the state gate, retries, lost replies,
pinned public keys, and the shape of errors. A provider adds only its own calls.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar

import msgspec

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.audit import AuditSink, AuditTrail, attempted, audited, note_key, observed, trails_of
from anykms.context import canonicalise
from anykms.errors import (
    DeadlineExceededError,
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
    InvalidMacError,
    KeyConfMismatchError,
    KeyDestroyedError,
    KeyNotAllowedError,
    KeyNotFoundError,
    KeyNotReadyError,
    KeyUsageError,
    KMSError,
    PolicyError,
    ProviderError,
    UnsupportedOperationError,
)
from anykms.keys import (
    KeyConf,
    KeyInfo,
    KeyState,
    KeyStatus,
    KeyTemplate,
    UnverifiedKeyInfo,
    fact_differences,
)
from anykms.payload import BytesLike, octets
from anykms.policy import Policy
from anykms.private_keys import SigningPrivateKey, private_key
from anykms.provider import (
    DATA_KEY_SIZE,
    Capability,
    Operation,
    Provider,
    SignatureEncoding,
    WrapContext,
    Wrapped,
    state_error,
)
from anykms.retrying import Deadline, RetryPolicy
from anykms.signing import PublicKey, der_to_p1363, p1363_to_der, prepare_message, signature_encoding
from anykms.wrapping import NOT_AUTHENTIC, WrappedKey, unwrap_data_key, wrap_context, wrap_data_key

T = TypeVar("T")
Guard: TypeAlias = Callable[[Operation], None]
"""Called before every use of a key; raises a ``KMSError`` to refuse it."""

DEFAULT_STATE_TTL: Final = 60.0
"""Seconds that a key's state is believed once read."""
READ_BACK_SECONDS: Final = 10.0
_READ_INTERVAL: Final = 0.25
"""Seconds between reads that must agree, where the provider's reads may lag."""
_AGREEING_READS: Final = 2
_DIFFERING_READS: Final = 3
_MAX_IDENTIFIER: Final = 2048
_KEY_MAGIC: Final = b"\x8aAKMK\r\n\x01"

_PURPOSE_OPERATION: Final = {
    KeyPurpose.ENCRYPT_DECRYPT: Operation.WRAP,
    KeyPurpose.SIGN_VERIFY: Operation.SIGN,
    KeyPurpose.MAC: Operation.MAC,
    KeyPurpose.ASYMMETRIC_DECRYPT: Operation.DECRYPT,
}


class _Session:
    """One connected provider, with the policies and the little that may be remembered of its keys."""

    def __init__(
        self,
        provider: Provider,
        policy: Policy,
        retry: RetryPolicy,
        state_ttl: float,
        clock: Callable[[], float],
        trails: tuple[AuditTrail, ...],
    ) -> None:
        self.provider = provider
        self.trails = trails
        self.policy = policy
        self.retry = retry
        self.state_ttl = state_ttl
        self.clock = clock
        self.id = os.urandom(16)
        self._statuses: dict[str, tuple[KeyStatus, float]] = {}
        self._public_keys: dict[KeyInfo, PublicKey] = {}

    # Calls

    def call(
        self,
        operation: Operation,
        key: str | None,
        function: Callable[[], T],
        *,
        deadline: Deadline | None = None,
        repeat: bool = True,
        version: str | None = None,
    ) -> T:
        """``function()`` under the retry policy; every error says where it happened, the audit trail each attempt."""
        if not self.trails:
            return self._call(operation, key, function, deadline, repeat)
        attempt = attempted(self.provider.scheme, key, version, function)
        return observed(self.trails, operation, lambda: self._call(operation, key, attempt, deadline, repeat))

    def _call(
        self,
        operation: Operation,
        key: str | None,
        function: Callable[[], T],
        deadline: Deadline | None,
        repeat: bool,
    ) -> T:
        try:
            return self.retry.call(function, deadline) if repeat else function()
        except KMSError as error:
            error.locate(provider=self.provider.scheme, operation=operation, key=key)
            raise
        except MemoryError:
            raise
        except Exception as error:
            raise ProviderError(
                f"an unmapped {type(error).__name__} of the provider",
                provider=self.provider.scheme,
                operation=operation,
                key=key,
            ) from error

    def require(
        self, operation: Operation, algorithm: Algorithm | None = None, key_size: int | None = None
    ) -> None:
        """Raises UnsupportedOperationError unless the provider has the capability."""
        if Capability(operation, algorithm, key_size) not in self.provider.capabilities:
            what = " ".join(str(part) for part in (operation, algorithm, key_size) if part is not None)
            raise UnsupportedOperationError(
                f"{self.provider.scheme} does not support {what} on this connection",
                provider=self.provider.scheme,
                operation=operation,
            )

    # State

    def describe(self, info: KeyInfo, deadline: Deadline | None = None) -> KeyStatus:
        """The live status, remembered for ``state_ttl`` seconds."""
        uri = str(info.uri)
        try:
            status = self.call(
                Operation.DESCRIBE_KEY, uri, lambda: self.provider.describe_key(info), deadline=deadline
            )
        except KeyDestroyedError:
            self.forget(info)
            raise
        self._statuses[uri] = (status, self.retry.clock() + self.state_ttl)
        if status.state is KeyState.DESTROYED:
            raise _state_error(status, self.provider.scheme, Operation.DESCRIBE_KEY, uri)
        return status

    def note(self, key: str) -> None:
        """The operation concerns this key, whether or not the provider will be asked."""
        if self.trails:
            note_key(key)

    def forget(self, info: KeyInfo) -> None:
        """Drop what is remembered of the key's state."""
        self._statuses.pop(str(info.uri), None)

    def gate(self, operation: Operation, info: KeyInfo, *, fresh: bool = False) -> None:
        """Raises the state's own error where the key is known not to be ENABLED.

        With ``fresh``, or where the service does not look at the state itself, a status no older than
        ``state_ttl`` is read first.
        """
        uri = str(info.uri)
        known = self._statuses.get(uri)
        if known is not None and known[1] <= self.retry.clock():
            known = None
        if known is None:
            if not fresh and operation not in self.provider.ungated:
                return
            status = self.describe(info)
        else:
            status = known[0]
        if status.state is not KeyState.ENABLED:
            raise _state_error(status, self.provider.scheme, operation, uri)

    # Public keys

    def public_key(self, info: KeyInfo) -> PublicKey:
        """The key's public part, the one with the pinned fingerprint or none."""
        known = self._public_keys.get(info)
        if known is None:
            if info.fingerprint is None:
                raise KeyUsageError(f"key {info.name} ({info.algorithm}) has no public key")
            spki = self.call(
                Operation.GET_PUBLIC_KEY, str(info.uri), lambda: self.provider.get_public_key(info, None)
            )
            try:
                known = PublicKey.from_spki(spki, info.algorithm)
            except InvalidArgumentError as error:
                raise IntegrityError(
                    f"the public key of {info.name} does not fit {info.algorithm}",
                    provider=info.provider,
                    operation=Operation.GET_PUBLIC_KEY,
                    key=str(info.uri),
                ) from error
            if not hmac.compare_digest(known.fingerprint, info.fingerprint):
                raise IntegrityError(
                    f"the public key of {info.name} is not the one that its KeyInfo pins: "
                    f"expected fingerprint {info.fingerprint}, found {known.fingerprint}",
                    provider=info.provider,
                    operation=Operation.GET_PUBLIC_KEY,
                    key=str(info.uri),
                )
            self._public_keys[info] = known
        return known

    def sign(self, info: KeyInfo, prepared: bytes, prehashed: bool) -> tuple[bytes, PublicKey]:
        """A DER signature by the provider that the pinned public key has verified."""
        public_key = self.public_key(info)
        signature = self.call(
            Operation.SIGN, str(info.uri), lambda: self._sign_once(info, prepared, prehashed, public_key)
        )
        return signature, public_key

    def _sign_once(self, info: KeyInfo, prepared: bytes, prehashed: bool, public_key: PublicKey) -> bytes:
        signature = self.provider.sign(info, prepared, prehashed)
        ecdsa = info.algorithm.spec.coordinate_size is not None
        try:
            if ecdsa and self.provider.signature_encoding is SignatureEncoding.P1363:
                signature = p1363_to_der(signature, info.algorithm)
            public_key.verify(prepared, signature, prehashed=prehashed)
        except KMSError as error:
            # A faulty signature can betray the private key, so it is never handed out.
            raise IntegrityError(
                "the provider's signature does not verify with the pinned public key"
            ) from error
        return signature


class KMSClient:
    """One key service: the administrator's plane. ``anykms.connect`` makes one.

    Thread-safe as far as its provider is; all first-party ones are.

    Args:
        provider: the connected provider; the client closes it.
        policy: rules for the keys it makes and for every use of a key.
        retry: the retry and deadline policy of every call.
        state_ttl: seconds that a key's state is believed once read, 0 or more.
        clock: UTC seconds, for the age of a key.
        audit: where each operation leaves an event, done or refused; see docs/audit.md.
        entity: who the application is, in those events; needed with ``audit``.
        audit_required: a sink that fails makes an operation an AuditError and withholds its result. False logs it.

    >>> import anykms, tempfile
    >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
    >>> info = client.generate_key(anykms.KeyConf("releases", "SIGN_VERIFY", algorithm="ES256"))
    >>> client.disable_key(info)
    >>> client.describe_key(info).state
    <KeyState.DISABLED: 'DISABLED'>
    """

    def __init__(
        self,
        provider: Provider,
        *,
        policy: Policy | None = None,
        retry: RetryPolicy | None = None,
        state_ttl: float = DEFAULT_STATE_TTL,
        clock: Callable[[], float] = time.time,
        audit: Sequence[AuditSink] = (),
        entity: str | None = None,
        audit_required: bool = True,
    ) -> None:
        if state_ttl < 0:
            raise InvalidArgumentError("state_ttl is in seconds, 0 or more")
        policy = policy or Policy()
        policy.check_provider(provider.scheme)
        self._trails = trails_of(audit, entity, required=audit_required)
        self._session = _Session(provider, policy, retry or RetryPolicy(), state_ttl, clock, self._trails)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<KMSClient {self._session.provider.scheme}>"

    def close(self) -> None:
        """Release the provider's connections."""
        self._session.provider.close()

    @property
    def provider(self) -> str:
        """Scheme of the provider."""
        return self._session.provider.scheme

    @property
    def capabilities(self) -> frozenset[Capability]:
        """All that this connection can do."""
        return self._session.provider.capabilities

    # Keys

    @audited
    def generate_key(self, conf: KeyConf) -> KeyInfo:
        """Make a key, and prove that it is the one asked for: it is read back and compared field by field.

        Args:
            conf: what to make.

        Returns:
            The key's immutable facts. Store them under a seal, or ask for the key by name again.

        Raises:
            UnsupportedOperationError: the provider has no such algorithm, size or protection level.
            KeyExistsError: a live key has the name.
            NameReservedError: a key pending destruction, or destroyed, has it.
            KeyConfMismatchError: three reads agree that the key differs from the conf; it is disabled.
            PolicyError: the client's policy forbids such a key; where that shows only once it is made (its region),
                it is disabled.
        """
        if not isinstance(conf, KeyConf):
            raise TypeError(f"generate_key takes a KeyConf, not {type(conf).__name__}")
        self._session.note(conf.name)
        template = self._template(conf)
        session = self._session
        before = self._found(conf.name)
        try:
            session.call(
                Operation.GENERATE_KEY, conf.name, lambda: session.provider.create_key(template), repeat=False
            )
        except KMSError as error:
            if not error.retryable:
                raise
            made = self._found(conf.name, default=error)
            if made is None or made == before or made.conf_digest != template.conf_digest:
                raise
        info = self._read_back(template)
        try:
            session.policy.check_key(info)
        except PolicyError as error:
            raise PolicyError(f"{error}; {self._disabled(info)}", key=str(info.uri)) from None
        return info

    def _template(self, conf: KeyConf) -> KeyTemplate:
        capabilities = self._session.provider.capabilities
        wraps = Capability(Operation.WRAP, Algorithm.A256GCM) in capabilities
        template = conf.template(Algorithm.A256GCM if wraps else Algorithm.RSA_OAEP_256)
        algorithm, size = template.algorithm, template.key_size
        self._session.require(_PURPOSE_OPERATION[conf.purpose], algorithm, size)
        levels = {
            c.protection_level
            for c in capabilities
            if (c.operation, c.algorithm, c.key_size) == (Operation.GENERATE_KEY, algorithm, size)
        }
        if not levels or (conf.protection_level is not None and conf.protection_level not in levels):
            offered = ", ".join(sorted(str(level) for level in levels)) or "no protection level"
            raise UnsupportedOperationError(
                f"{self.provider} generates {algorithm} keys at {offered}, not at {conf.protection_level}",
                provider=self.provider,
                operation=Operation.GENERATE_KEY,
                key=conf.name,
            )
        self._session.policy.check_generation(template, [level for level in levels if level is not None])
        return template

    def _found(self, name: str, default: KMSError | None = None) -> KeyInfo | None:
        """The key of that name, None where there is none. ``default`` is raised where it cannot be told.

        Without a default, before a key is made, one whose facts cannot be told counts as none: ``create_key``
        says that the name is taken.
        """
        try:
            return self._get(name)
        except KeyNotFoundError:
            return None
        except KMSError as error:
            if default is None and not error.retryable:
                return None
            raise default or error from None

    def _read_back(self, template: KeyTemplate) -> KeyInfo:
        deadline = Deadline(READ_BACK_SECONDS, self._session.retry.clock)
        needed = 1 if self._session.provider.strongly_consistent else _AGREEING_READS
        agreeing = differing = 0
        while True:
            try:
                info = self._get(template.name)
                differences = _differences(template, info, self._session.describe(info))
            except (KeyNotFoundError, KeyNotReadyError):
                info, differences = None, []
            agreeing = agreeing + 1 if info is not None and not differences else 0
            if info is not None and agreeing >= needed:
                return info
            differing = differing + 1 if differences else 0
            if info is not None and differing >= _DIFFERING_READS:
                self._disown(info, differences)
            if deadline.remaining() <= 0:
                raise DeadlineExceededError(
                    f"the key {template.name} was made but cannot be read back yet; get it by name later",
                    provider=self.provider,
                    operation=Operation.GENERATE_KEY,
                    key=template.name,
                )
            self._session.retry.sleep(_READ_INTERVAL)

    def _disabled(self, info: KeyInfo) -> str:
        """Disables a key that must not be used, and says how that went."""
        try:
            self.disable_key(info)
        except KMSError as error:
            return f"disabling it failed ({type(error).__name__}): disable it by hand"
        return "it is disabled"

    def _disown(self, info: KeyInfo, differences: list[str]) -> None:
        raise KeyConfMismatchError(
            f"the provider made a key that differs from the conf; {self._disabled(info)}: {'; '.join(differences)}",
            provider=self.provider,
            operation=Operation.GENERATE_KEY,
            key=str(info.uri),
        )

    @audited
    def get_key(self, name: str) -> KeyInfo:
        """The facts of a key, as its provider tells them now.

        Args:
            name: the name it was generated under, a key URI in any common spelling, or the provider's own
                identifier (an AWS alias or ARN, a GCP resource name, an Azure key identifier).

        Raises:
            KeyNotFoundError: there is none, or it is destroyed.
        """
        if not isinstance(name, str):
            raise TypeError(f"a key's name is a str, not {type(name).__name__}")
        if not 1 <= len(name) <= _MAX_IDENTIFIER or not name.isprintable():
            raise InvalidArgumentError(f"a key's name has 1 to {_MAX_IDENTIFIER} printable characters")
        return self._get(name)

    def _get(self, name: str) -> KeyInfo:
        session = self._session
        return session.call(Operation.GET_KEY, name, lambda: session.provider.get_key(name))

    @audited
    def list_keys(self) -> Iterator[KeyInfo]:
        """The keys that anykms made, in every state but DESTROYED."""
        session = self._session
        return iter(session.call(Operation.LIST_KEYS, None, lambda: list(session.provider.list_keys())))

    def key(self, key: KeyInfo | str) -> Key:
        """The application's handle on a key.

        Args:
            key: its KeyInfo (then nothing is called), or what ``get_key`` takes.

        Raises:
            TypeError: an UnverifiedKeyInfo: get the key by name, or open its seal.
            InvalidArgumentError: a KeyInfo of another provider.
            PolicyError: the client's policy forbids the key.
        """
        wanted = self.get_key(key) if isinstance(key, str) else key
        return observed(
            self._trails,
            "KMSClient.key",
            lambda: Key(self._session, self._own(wanted)),
            only_refusals=True,
        )

    def _own(self, info: KeyInfo) -> KeyInfo:
        if not isinstance(info, KeyInfo):
            hint = "; get the key by name, or open its seal" if isinstance(info, UnverifiedKeyInfo) else ""
            raise TypeError(f"a KeyInfo is needed, not {type(info).__name__}{hint}")
        if info.provider != self.provider:
            raise InvalidArgumentError(
                f"the key is one of {info.provider}, this client is for {self.provider}"
            )
        self._session.note(str(info.uri))
        return info

    # Lifecycle

    @audited
    def describe_key(self, info: KeyInfo) -> KeyStatus:
        """The key's state, versions and dates, read now.

        Raises:
            KeyDestroyedError: its material is gone.
        """
        return self._session.describe(self._own(info))

    @audited
    def confirm_key(self, info: KeyInfo) -> KeyStatus:
        """Compare every fact of a stored KeyInfo with what the provider says of that key, and of its name, now.

        A use of a key names the key that its KeyInfo pins, so a name that was moved to another key changes nothing
        by itself; this call finds it.

        Returns:
            The key's status.

        Raises:
            IntegrityError: a fact differs, or the name leads to another key; it says what was expected and found.
            KeyDestroyedError: the key is gone.
        """
        uri = str(self._own(info).uri)
        status = self._session.describe(info)
        expected = info.uri.without_version()
        # A foreign key has no name of ours that could have been moved.
        for asked in [uri, info.name] if info.conf_digest is not None else [uri]:
            found = self._found(asked)
            if found is None:
                differences = [f"{asked!a}: expected {expected}, found no key"]
            elif found.uri.without_version() != expected:
                differences = [f"{asked!a}: expected {expected}, found {found.uri}"]
            else:
                differences = fact_differences(info, found)
            if differences:
                raise IntegrityError(
                    f"key {info.name} is not what its KeyInfo says: {'; '.join(differences)}",
                    provider=self.provider,
                    operation=Operation.GET_KEY,
                    key=uri,
                )
        return status

    @audited
    def enable_key(self, info: KeyInfo) -> None:
        """Let the key be used again; returns once reads agree that it is ENABLED."""
        self._set_enabled(info, True)

    @audited
    def disable_key(self, info: KeyInfo) -> None:
        """Stop every use of the key, verification included; returns once reads agree that it is DISABLED."""
        self._set_enabled(info, False)

    def _set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        wanted = KeyState.ENABLED if enabled else KeyState.DISABLED
        provider = self._session.provider
        self._change(
            Operation.SET_ENABLED,
            info,
            lambda: provider.set_enabled(info, enabled),
            lambda status: status.state is wanted,
        )

    @audited
    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        """Make a new version of an ENCRYPT_DECRYPT key; what old versions wrapped still opens.

        Raises:
            UnsupportedOperationError: another purpose: such a key has one version for life.
            KeyStateError, KeyDestroyedError: the key is not ENABLED.
            QuotaExceededError: the provider allows no more rotations of this key.
        """
        if self._own(info).purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            raise UnsupportedOperationError(
                f"a {info.purpose} key has one version for life; generate its successor under a new name",
                provider=self.provider,
                operation=Operation.ROTATE_KEY,
                key=str(info.uri),
            )
        self._session.require(Operation.ROTATE_KEY, info.algorithm, info.key_size)
        status = self._session.describe(info)
        if status.state is not KeyState.ENABLED:
            # Some services would make the new version, and with it the key, usable again.
            raise _state_error(status, self.provider, Operation.ROTATE_KEY, str(info.uri))
        before = _rotation(status)
        provider = self._session.provider
        return self._change(
            Operation.ROTATE_KEY,
            info,
            lambda: provider.rotate_key(info),
            lambda status: _rotation(status) != before,
        )

    @audited
    def schedule_destruction(self, info: KeyInfo) -> datetime:
        """Destroy the key once its window has passed; until then nothing can use it.

        Returns:
            When the material goes, UTC.

        Raises:
            KeyPendingDestructionError: it is scheduled already.
        """
        provider = self._session.provider
        status = self._change(
            Operation.SCHEDULE_DESTRUCTION,
            info,
            lambda: provider.schedule_destruction(info),
            lambda status: status.state is KeyState.PENDING_DESTRUCTION and status.destroy_at is not None,
        )
        if status.destroy_at is None:
            raise ProviderError("the provider does not say when the key is destroyed", provider=self.provider)
        return status.destroy_at

    @audited
    def cancel_destruction(self, info: KeyInfo) -> None:
        """Take the key back from its destruction. It is DISABLED afterwards, on every provider.

        Raises:
            KeyStateError: no destruction is scheduled.
            KeyDestroyedError: it is too late.
        """
        provider = self._session.provider
        self._change(
            Operation.CANCEL_DESTRUCTION,
            info,
            lambda: provider.cancel_destruction(info),
            lambda status: status.state is KeyState.DISABLED,
        )

    def _change(
        self,
        operation: Operation,
        info: KeyInfo,
        function: Callable[[], object],
        done: Callable[[KeyStatus], bool],
    ) -> KeyStatus:
        """Call once, never twice; after a lost reply the state tells. Returns when consecutive reads agree."""
        session = self._session
        uri = str(self._own(info).uri)
        if operation is not Operation.ROTATE_KEY:
            session.require(operation)
        session.forget(info)
        try:
            session.call(operation, uri, function, repeat=False)
        except KMSError as error:
            if not error.retryable or not self._happened(info, done):
                raise
        finally:
            session.forget(info)
        return self._settle(operation, info, done)

    def _happened(self, info: KeyInfo, done: Callable[[KeyStatus], bool]) -> bool:
        try:
            return done(self._session.describe(info))
        except KMSError:
            return False

    def _settle(self, operation: Operation, info: KeyInfo, done: Callable[[KeyStatus], bool]) -> KeyStatus:
        session = self._session
        deadline = session.retry.start()
        agreeing = gone = pending = 0
        while True:
            try:
                status = session.describe(info, deadline)
                agreeing, gone = (agreeing + 1 if done(status) else 0), 0
                if agreeing >= _AGREEING_READS:
                    return status
                pending = pending + 1 if status.state is KeyState.PENDING_DESTRUCTION else 0
                if operation is Operation.SET_ENABLED and pending >= _DIFFERING_READS:
                    # Somebody else scheduled the destruction meanwhile: what was asked for will never be seen.
                    raise _state_error(status, self.provider, operation, str(info.uri))
            except KeyDestroyedError:
                # What was just changed is hardly gone: where reads may lag, one of them does not say so.
                agreeing, gone = 0, gone + 1
                if session.provider.strongly_consistent or gone >= _DIFFERING_READS:
                    raise
            if deadline.remaining() <= 0:
                session.forget(info)
                raise DeadlineExceededError(
                    f"{operation} was accepted, but reads do not agree on it yet",
                    provider=self.provider,
                    operation=operation,
                    key=str(info.uri),
                )
            if not session.provider.strongly_consistent or not agreeing:
                session.retry.sleep(_READ_INTERVAL)


class Key:
    """One key as an application uses it. It has no lifecycle methods: code that only encrypts cannot delete.

    ``KMSClient.key`` makes one.

    >>> import anykms, tempfile
    >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
    >>> key = client.key(client.generate_key(anykms.KeyConf("releases", "SIGN_VERIFY", algorithm="ES256")))
    >>> signature = key.sign(b"v1.2.0")
    >>> key.verify(b"v1.2.0", signature)
    """

    def __init__(self, session: _Session, info: KeyInfo, guard: Guard | None = None) -> None:
        session.policy.check_key(info)
        self._session = session
        self._trails = session.trails
        self._info = info
        self._guard = guard

    def guarded(self, guard: Guard) -> Key:
        """The same key, with ``guard`` asked before every use of it, beside any guard that it has already."""
        return Key(self._session, self._info, _both(self._guard, guard))

    def allow(self, operation: Operation) -> None:
        """Raises PolicyError, or what a guard raises, where the key may not be used so now."""
        self._session.policy.check_use(self._info, operation, self._session.clock())
        if self._guard is not None:
            self._guard(operation)

    @property
    def info(self) -> KeyInfo:
        """The key's immutable facts."""
        return self._info

    def __repr__(self) -> str:
        return f"<Key {self._info.uri}>"

    # Signatures

    @audited
    def sign(
        self,
        message: BytesLike,
        *,
        encoding: SignatureEncoding | str = SignatureEncoding.DER,
        prehashed: bool = False,
    ) -> bytes:
        """Sign; the signature is verified with the pinned public key before it is returned.

        Args:
            message: of any size where a digest is signed (it is made here), 1 to 4096 bytes for Ed25519 and ML-DSA.
            encoding: of an ECDSA signature: DER, or P1363 (r || s, as JOSE and COSE want it).
            prehashed: ``message`` is the digest itself, of exactly its size.

        Raises:
            KeyUsageError: not a SIGN_VERIFY key.
            InvalidArgumentError: a message or digest of the wrong size, an unknown encoding.
            UnsupportedOperationError: ``prehashed`` with Ed25519 or ML-DSA.
        """
        info = self._for(KeyPurpose.SIGN_VERIFY, Operation.SIGN)
        form = signature_encoding(encoding)
        prepared = prepare_message(info.algorithm, message, prehashed=prehashed)
        self._session.gate(Operation.SIGN, info)
        signature, _ = self._session.sign(info, prepared, info.algorithm.spec.prehashable)
        if form is SignatureEncoding.P1363 and info.algorithm.spec.coordinate_size is not None:
            return der_to_p1363(signature, info.algorithm)
        return signature

    @audited
    def verify(
        self,
        message: BytesLike,
        signature: BytesLike,
        *,
        encoding: SignatureEncoding | str = SignatureEncoding.DER,
        prehashed: bool = False,
    ) -> None:
        """Return only if the signature is this key's for this message. Local, strict, while the key is ENABLED.

        ``public_key().verify`` does the same without network and state, for old signatures.

        Raises:
            InvalidSignatureError: it is not.
            KMSError: the key's state cannot be read, or forbids it.
        """
        info = self._for(KeyPurpose.SIGN_VERIFY, None)
        form = signature_encoding(encoding)
        prepared = prepare_message(info.algorithm, message, prehashed=prehashed)
        octets(signature, "signature")
        self.allow(Operation.GET_PUBLIC_KEY)
        self._session.gate(Operation.GET_PUBLIC_KEY, info, fresh=True)
        self._session.public_key(info).verify(
            prepared, signature, encoding=form, prehashed=info.algorithm.spec.prehashable
        )

    @audited
    def public_key(self) -> PublicKey:
        """The public part, checked against the pinned fingerprint, while the key is ENABLED.

        Raises:
            KeyUsageError: a symmetric key, or a wrapping key, whose public part is the library's business.
            IntegrityError: the provider gives another public key than the pinned one.
        """
        info = self._info
        self._session.note(str(info.uri))
        if info.purpose not in (KeyPurpose.SIGN_VERIFY, KeyPurpose.ASYMMETRIC_DECRYPT):
            raise self._misuse(f"a {info.purpose} key has no public key to give")
        self._session.require(Operation.GET_PUBLIC_KEY, info.algorithm, info.key_size)
        self.allow(Operation.GET_PUBLIC_KEY)
        self._session.gate(Operation.GET_PUBLIC_KEY, info, fresh=True)
        return self._session.public_key(info)

    @audited
    def as_private_key(self) -> SigningPrivateKey:
        """A private key of pyca ``cryptography`` that signs with this one, in its key service.

        ``x509`` builders, PyJWT, joserfc and whatever else takes pyca's keys and signs with them work unchanged. The
        algorithm is the key's own; another hash or padding is refused, and so is all that needs the private part.
        Ed25519 and ML-DSA sign at most 4096 bytes, a certificate's too.

        Returns:
            An RSAPrivateKey, EllipticCurvePrivateKey, Ed25519PrivateKey or MLDSA44/65/87PrivateKey.

        Raises:
            KeyUsageError: not a SIGN_VERIFY key.
            KMSError: the public key cannot be read, or is not the pinned one.

        >>> import anykms, jwt, tempfile
        >>> client = anykms.connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True)
        >>> key = client.key(client.generate_key(anykms.KeyConf("tokens", "SIGN_VERIFY", algorithm="ES256")))
        >>> signer = key.as_private_key()
        >>> token = jwt.encode({"sub": "ada"}, signer, algorithm="ES256")
        >>> jwt.decode(token, signer.public_key(), algorithms=["ES256"])
        {'sub': 'ada'}
        """
        self._for(KeyPurpose.SIGN_VERIFY, Operation.SIGN)
        return private_key(
            self.public_key(), lambda message, prehashed: self.sign(message, prehashed=prehashed)
        )

    # MACs

    @audited
    def mac(self, message: BytesLike) -> bytes:
        """HMAC (RFC 2104) of 1 to 4096 bytes: 32, 48 or 64 bytes.

        Raises:
            KeyUsageError: not a MAC key.
            InvalidArgumentError: an empty or longer message.
        """
        info = self._for(KeyPurpose.MAC, Operation.MAC)
        data = _mac_message(info, message)
        self._session.gate(Operation.MAC, info)
        return self._call(Operation.MAC, lambda: self._session.provider.mac(info, data))

    @audited
    def verify_mac(self, message: BytesLike, tag: BytesLike) -> None:
        """Return only if ``tag`` is this key's for this message.

        Raises:
            InvalidMacError: it is not; a tag of another length, too.
        """
        info = self._for(KeyPurpose.MAC, Operation.VERIFY_MAC)
        data = _mac_message(info, message)
        given = octets(tag, "tag")
        if len(given) != info.algorithm.spec.digest_size:
            raise self._located(
                InvalidMacError("the tag does not belong to this message and key"), "verify_mac"
            )
        self._session.gate(Operation.VERIFY_MAC, info)
        self._call(Operation.VERIFY_MAC, lambda: self._session.provider.verify_mac(info, data, given))

    # Encryption

    @audited
    def decrypt(self, ciphertext: BytesLike) -> bytes:
        """RSA-OAEP-256 decryption of what ``public_key().encrypt`` made.

        Raises:
            KeyUsageError: not an ASYMMETRIC_DECRYPT key.
            InvalidCiphertextError: not made under this key; a ciphertext of another length, too.
        """
        info = self._for(KeyPurpose.ASYMMETRIC_DECRYPT, Operation.DECRYPT)
        data = octets(ciphertext, "ciphertext")
        if len(data) != (info.key_size or 0) // 8:
            raise self._located(InvalidCiphertextError(NOT_AUTHENTIC), Operation.DECRYPT)
        self._session.gate(Operation.DECRYPT, info)
        try:
            return self._call(Operation.DECRYPT, lambda: self._session.provider.decrypt(info, data))
        except InvalidCiphertextError as error:
            told = InvalidCiphertextError(NOT_AUTHENTIC, request_id=error.request_id)
            raise self._located(told, Operation.DECRYPT) from error

    @audited
    def wrap(self, data_key: BytesLike, *, context: Mapping[str, str]) -> bytes:
        """Wrap a 32-byte key, bound to ``context``. Only ``unwrap`` opens it; a Keyring does not.

        Raises:
            KeyUsageError: not an ENCRYPT_DECRYPT key.
            InvalidArgumentError: not 32 bytes, or a broken rule of the context.
        """
        self._for(KeyPurpose.ENCRYPT_DECRYPT, None)
        wrapper = DataKeyWrapper.of(self)
        data = octets(data_key, "data_key")
        if len(data) != DATA_KEY_SIZE:
            raise InvalidArgumentError(f"a data key has {DATA_KEY_SIZE} bytes, not {len(data)}")
        pairs, ctx = canonicalise(context)
        self._session.policy.check_context(pairs)
        wrapped = wrap_data_key(wrapper, data, bound=wrap_context(_generic_bind(ctx), pairs), origin=0)
        return _KEY_MAGIC + msgspec.msgpack.encode(wrapped)

    @audited
    def unwrap(self, wrapped: BytesLike, *, context: Mapping[str, str]) -> bytes:
        """The 32 bytes that ``wrap`` was given, under the same context.

        Raises:
            KeyUsageError: not an ENCRYPT_DECRYPT key.
            InvalidCiphertextError: altered, or another context.
            KeyNotAllowedError: wrapped under another key; no provider was called.
            PolicyError: the sender is not authenticated and the client's policy demands it.
        """
        self._for(KeyPurpose.ENCRYPT_DECRYPT, None)
        wrapper = DataKeyWrapper.of(self)
        data = octets(wrapped, "wrapped")
        pairs, ctx = canonicalise(context)
        self._session.policy.check_context(pairs)
        found = _read_wrapped(data)
        uri = found.key_uri().without_version()
        if uri != self._info.uri.without_version():
            raise self._located(
                KeyNotAllowedError(f"wrapped under another key: {str(uri)!a}"), Operation.UNWRAP
            )
        self._session.policy.check_sender(found.sender_authenticated)
        return unwrap_data_key(wrapper, found, bound=wrap_context(_generic_bind(ctx), pairs))

    # Checks

    def _for(self, purpose: KeyPurpose, operation: Operation | None) -> KeyInfo:
        """The key's facts, once it has the purpose and the provider the capability."""
        info = self._info
        self._session.note(str(info.uri))
        if info.purpose is not purpose:
            raise self._misuse(f"key {info.name} is for {info.purpose}, not for {purpose}")
        if operation is not None:
            self._session.require(operation, info.algorithm, info.key_size)
            self.allow(operation)
        return info

    def _misuse(self, message: str) -> KeyUsageError:
        return KeyUsageError(message, provider=self._info.provider, key=str(self._info.uri))

    def _located(self, error: KMSError, operation: str) -> KMSError:
        error.locate(provider=self._info.provider, operation=operation, key=str(self._info.uri))
        return error

    def _call(self, operation: Operation, function: Callable[[], T]) -> T:
        return self._session.call(operation, str(self._info.uri), function)


class DataKeyWrapper:
    """A key as ``wrapping`` and the Keyring use it, under a binding of their own choice.

    For applications there is ``Key.wrap``.
    """

    def __init__(self, key: Key, deadline: Deadline | None = None) -> None:
        self._key = key
        self.info = key.info
        self._session = key._session  # pyright: ignore[reportPrivateUsage] # one module, two views of a key
        self._uri = str(key.info.uri)
        self._deadline = deadline

    @classmethod
    def of(cls, key: Key) -> Self:
        """The key, once its provider is known to wrap with such keys.

        Raises:
            UnsupportedOperationError: it does not.
        """
        wrapper = cls(key)
        for operation in (Operation.WRAP, Operation.UNWRAP):
            wrapper._session.require(operation, key.info.algorithm, key.info.key_size)
        return wrapper

    @property
    def trails(self) -> tuple[AuditTrail, ...]:
        """Where the key's client tells what is done with it."""
        return self._session.trails

    @property
    def session_id(self) -> bytes:
        """16 bytes that tell this connection, its credentials and its policy from every other of the process."""
        return self._session.id

    @property
    def state_ttl(self) -> float:
        """Seconds that the client believes a key's state."""
        return self._session.state_ttl

    def start_deadline(self) -> Deadline:
        """A deadline of the key's own retry policy."""
        return self._session.retry.start()

    def allow(self, operation: Operation) -> None:
        """Raises what ``Key.allow`` raises; for uses that a kept data key spares the provider."""
        self._key.allow(operation)

    def until(self, deadline: Deadline) -> DataKeyWrapper:
        """The same key, every call of it within ``deadline``."""
        return DataKeyWrapper(self._key, deadline)

    def wrap(self, secret: bytes, context: WrapContext) -> Wrapped:
        info, provider = self.info, self._session.provider
        self._key.allow(Operation.WRAP)
        self._session.gate(Operation.WRAP, info)
        return self._session.call(
            Operation.WRAP,
            self._uri,
            lambda: provider.wrap(info, secret, context),
            deadline=self._deadline,
        )

    def unwrap(self, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        info, provider = self.info, self._session.provider
        self._key.allow(Operation.UNWRAP)
        self._session.gate(Operation.UNWRAP, info)
        return self._session.call(
            Operation.UNWRAP,
            self._uri,
            lambda: provider.unwrap(info, wrapped, version, context),
            deadline=self._deadline,
            version=version,
        )

    def sign_as_sender(self, digest: bytes) -> bytes:
        sender = self._sender()
        signature, _ = self._session.sign(sender, digest, True)
        return der_to_p1363(signature, sender.algorithm)

    def verify_sender(self, digest: bytes, signature: bytes) -> None:
        self._session.gate(Operation.UNWRAP, self.info)
        self._key.allow(Operation.UNWRAP)
        public_key = self._session.public_key(self._sender())
        public_key.verify(digest, signature, encoding=SignatureEncoding.P1363, prehashed=True)

    def _sender(self) -> KeyInfo:
        sender = self.info.sender_key()
        if sender is None:
            raise KeyUsageError(f"key {self.info.name} has no sender key")
        return sender


def _both(one: Guard | None, other: Guard) -> Guard:
    if one is None:
        return other

    def ask(operation: Operation) -> None:
        one(operation)
        other(operation)

    return ask


def _state_error(status: KeyStatus, provider: str, operation: str, key: str) -> KMSError:
    error = state_error(status.state)
    error.locate(provider=provider, operation=operation, key=key)
    return error


def _rotation(status: KeyStatus) -> tuple[object, ...]:
    """What changes when a key is rotated: the version in use, or where versions have no names what counts them."""
    if status.current_version is not None:
        return (status.current_version,)
    return len(status.versions), status.rotations_left


def _differences(template: KeyTemplate, info: KeyInfo, status: KeyStatus) -> list[str]:
    """Every field in which the key is not what the conf asked for."""
    expected: dict[str, tuple[object, object]] = {
        "name": (template.name, info.name),
        "purpose": (template.purpose, info.purpose),
        "algorithm": (template.algorithm, info.algorithm),
        "key_size": (template.key_size, info.key_size),
        "tags": (dict(template.tags), dict(info.tags)),
        "conf_digest": (template.conf_digest, info.conf_digest),
        "rotation_period": (template.rotation_period, status.rotation_period),
        "state": (KeyState.ENABLED, status.state),
    }
    if template.protection_level is not None:
        expected["protection_level"] = (template.protection_level, info.protection_level)
    if template.destroy_window is not None:
        expected["destroy_window"] = (template.destroy_window, info.destroy_window)
    if template.purpose is KeyPurpose.ENCRYPT_DECRYPT:
        expected["sender_authenticated"] = (True, info.sender_authenticated)
    return [
        f"{field} is {found}, not {wanted}" for field, (wanted, found) in expected.items() if wanted != found
    ]


def _mac_message(info: KeyInfo, message: BytesLike) -> bytes:
    data = octets(message, "message")
    longest = info.algorithm.spec.max_message or 0
    if not 1 <= len(data) <= longest:
        raise InvalidArgumentError(
            f"a message for {info.algorithm} has 1 to {longest} bytes, not {len(data)}"
        )
    return data


def _generic_bind(ctx: bytes) -> bytes:
    return hashlib.sha256(b"anykms/v1 key-wrap" + ctx).digest()


def _read_wrapped(data: bytes) -> WrappedKey:
    try:
        found = msgspec.msgpack.decode(data.removeprefix(_KEY_MAGIC), type=WrappedKey)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidCiphertextError(NOT_AUTHENTIC) from error
    if _KEY_MAGIC + msgspec.msgpack.encode(found) != data or found.origin != 0:
        raise InvalidCiphertextError(NOT_AUTHENTIC)
    return found
