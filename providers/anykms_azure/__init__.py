"""Azure Key Vault and Managed HSM behind the neutral contract (docs/providers/azure.md)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator, Mapping, Set
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from azure.keyvault.keys import KeyClient

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyPendingDestructionError,
    KeyStateError,
    KeyUsageError,
    KMSError,
    PermissionDeniedError,
    UnsupportedOperationError,
)
from anykms.keys import ConnectionURI, KeyInfo, KeyState, KeyStatus, KeyTemplate, KeyURI
from anykms.provider import (
    DATA_KEY_SIZE,
    Capability,
    Operation,
    SignatureEncoding,
    WrapContext,
    Wrapped,
    mismatch,
    state_error,
)
from anykms_azure import creation, facts, specs
from anykms_azure.connection import DEFAULT_TIMEOUT, Connection, Reply, connect
from anykms_azure.facts import SCHEME, SENDER_SUFFIX, Row
from anykms_azure.specs import Sku
from anykms_azure.vault import Clock, Vault

__all__ = ["AzureProvider"]

TRANSITION_TIMEOUT: Final = 30.0
"""Seconds that a deletion or a recovery may take until it is seen."""

_NAME: Final = re.compile(r"[0-9A-Za-z-]{1,127}")
_IV_SIZE: Final = 12
_TAG_SIZE: Final = 16


class AzureProvider:
    """The keys of one vault or managed HSM. Safe to use from many threads.

    A key made here has its anykms name in Azure. An RSA key that wraps has a sender key beside it, NAME--sender, and
    shares every step of its life with it. A KeyInfo pins the name of an ENCRYPT_DECRYPT key and the one version of
    any other.
    """

    def __init__(self, azure: Connection, clock: Clock, transition_timeout: float) -> None:
        self._azure = azure
        self._vault = Vault(azure, clock, transition_timeout)
        # A version has one key pair for ever, so the pinned fingerprint need be compared with it only once.
        self._sender_versions: dict[KeyInfo, str] = {}

    @classmethod
    def connect(
        cls,
        uri: ConnectionURI,
        *,
        credential: Any = None,
        key_client: KeyClient | None = None,
        transport: Any = None,
        timeout: float = DEFAULT_TIMEOUT,
        transition_timeout: float = TRANSITION_TIMEOUT,
        clock: Clock | None = None,
    ) -> Self:
        """Connect; nothing is sent yet, and credentials are looked for at the first call.

        Args:
            uri: ``azurekms://HOST``, with the option ``sku``: ``standard`` (the default for a vault), ``premium``, or
                ``hsm`` (the default, and the only one, for a managed HSM).
            credential: an azure-core TokenCredential, instead of DefaultAzureCredential; it stays open.
            key_client: a KeyClient for the same host, instead of ``credential`` and ``transport``; it stays open.
                Its retries, redirects and body logging are switched off in every call.
            transport: an azure-core HttpTransport; it stays open.
            timeout: seconds to wait for one answer; a connection may take at most 5 of them.
            transition_timeout: seconds to wait until a deletion or a recovery is seen.
            clock: the time, by which ``nbf`` and ``exp`` of other people's keys are judged; default: the system's.

        Raises:
            InvalidArgumentError: an unknown option or sku, or arguments that exclude each other.
        """
        azure = connect(
            uri, credential=credential, key_client=key_client, transport=transport, timeout=timeout
        )
        return cls(azure, clock or (lambda: datetime.now(UTC)), transition_timeout)

    def __repr__(self) -> str:
        return f"<AzureProvider {self._azure.host}>"

    @property
    def scheme(self) -> str:
        """``azurekms``."""
        return SCHEME

    @property
    def capabilities(self) -> frozenset[Capability]:
        """RSA and EC keys but Ed25519, ML-DSA and MACs; A256GCM with the SKUs premium and hsm."""
        return specs.CAPABILITIES[self._azure.sku]

    @property
    def signature_encoding(self) -> SignatureEncoding:
        """P1363: r || s (RFC 7518 section 3.4)."""
        return SignatureEncoding.P1363

    @property
    def ungated(self) -> frozenset[Operation]:
        """Key Vault wraps with a disabled key, and gives its public part."""
        return frozenset({Operation.WRAP, Operation.GET_PUBLIC_KEY})

    @property
    def strongly_consistent(self) -> bool:
        """False: deletions and recoveries are seen late, and a managed HSM's regions lag."""
        return False

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._azure.close()

    # Keys

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        """Make the key, or finish one that an earlier call began; see ``anykms_azure.creation``."""
        return creation.create(self._vault, template)

    def get_key(self, name: str) -> KeyInfo:
        """The facts of a key by name, key identifier (``https://HOST/keys/NAME[/VERSION]``) or key URI.

        The version of an ENCRYPT_DECRYPT key is ignored. Without a version another key that anykms did not make is
        taken at its current one.
        """
        version = None
        if ":" in name or "/" in name:
            uri = KeyURI.from_spelling(name)
            name, version = self._name(uri), uri.version
        elif not _NAME.fullmatch(name):
            raise KeyNotFoundError(f"no key can be called {ascii(name)[:100]}")
        name = name.lower()
        try:
            return self._facts(name, version)
        except KeyNotFoundError:
            bundle = self._vault.deleted(name)
        if version is not None and facts.row_of(bundle, self._vault.now()).id != version:
            raise KeyNotFoundError("the key has no such version")
        return self._deleted_facts(bundle)

    def list_keys(self) -> Iterator[KeyInfo]:
        """The keys that anykms made; reads two to four times for each, and counts a key and its sender key once."""
        for path in ("/keys", "/deletedkeys"):
            for row in self._azure.pages(path):
                name, tags = facts.name_in(row.get("kid")), facts.tags_of(row)
                if name.endswith(SENDER_SUFFIX) or not (facts.is_ours(tags) or self._lost_a_race(name, tags)):
                    continue
                with contextlib.suppress(KeyNotFoundError):  # deleted, recovered or purged since the listing
                    yield (
                        self._facts(name, None)
                        if path == "/keys"
                        else self._deleted_facts(self._vault.deleted(name))
                    )

    def _lost_a_race(self, name: str, tags: facts.Tags) -> bool:
        """Whether Azure lists a key of ours by a version that lost the race to make it."""
        if not facts.is_discarded(tags):
            return False
        with contextlib.suppress(KeyNotFoundError):
            return facts.is_ours(self._vault.current(name)[1].tags)
        return False

    def _facts(self, name: str, version: str | None) -> KeyInfo:
        bundle = self._vault.bundle(name, version) if version else self._vault.current(name)[0]
        rows = self._vault.rows(name)
        if name.endswith(SENDER_SUFFIX) and facts.is_ours(rows[0].tags):
            raise KeyNotFoundError(
                f"{name} is the sender key of {name.removesuffix(SENDER_SUFFIX)}; use that"
            )
        return self._read(bundle, rows)

    def _deleted_facts(self, bundle: Reply) -> KeyInfo:
        return self._read(bundle, facts.rows_of([bundle], self._vault.now()))

    def _read(self, bundle: Reply, rows: list[Row]) -> KeyInfo:
        sender = None
        if facts.needs_sender(rows, bundle):
            name = facts.name_in(bundle["key"]["kid"]) + SENDER_SUFFIX
            try:
                sender = self._vault.current(name)[0]
            except KeyNotFoundError:
                sender = self._vault.deleted(name)
        return facts.read(bundle, rows, sender, self._azure.host, self._azure.sku)

    # Lifecycle

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        """The live status. The state is that of the version in use: its sender key always changes before it.

        ``rotation_period`` is None where the caller may not read rotation policies.
        """
        name = self._name(info.uri)
        try:
            current, rows = self._look(info)
        except KeyDestroyedError:
            raise
        except KeyNotFoundError:
            # A read may be old. Two replicas that answer in turn must each be asked for both kinds of key.
            for _ in range(2):
                status = self._deleted_status(info)
                if status.state is not KeyState.DESTROYED:
                    return status
            try:
                current, rows = self._look(info)
            except KeyDestroyedError:
                raise
            except KeyNotFoundError:
                return KeyStatus(state=KeyState.DESTROYED)
        if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            only = facts.as_version(current, info.fingerprint)
            return KeyStatus(state=current.state, current_version=current.id, versions=(only,))
        try:
            period = self._rotation_period(name)
        except KeyNotFoundError:
            return self._deleted_status(info)  # deleted meanwhile
        return KeyStatus(
            state=current.state,
            current_version=current.id,
            versions=tuple(facts.as_version(row) for row in rows),
            rotation_period=period,
            next_rotation_at=None if period is None else current.created + timedelta(days=period),
        )

    def _look(self, info: KeyInfo) -> tuple[Row, list[Row]]:
        """The version in use, and all of the key that ``info`` pins.

        Raises:
            KeyNotFoundError: it is not live.
            KeyDestroyedError: another key has its name.
        """
        name = self._name(info.uri)
        current = self._vault.current(name)[1] if info.purpose is KeyPurpose.ENCRYPT_DECRYPT else None
        rows = self._vault.rows(name)
        facts.check_rows(info, rows)
        if current is None:
            pinned = info.uri.version or rows[0].id
            current = next(row for row in rows if row.id == pinned)
        return current, rows

    def _deleted_status(self, info: KeyInfo) -> KeyStatus:
        try:
            bundle = self._vault.deleted(self._name(info.uri))
        except KeyNotFoundError:
            return KeyStatus(state=KeyState.DESTROYED)
        row = facts.row_of(bundle, self._vault.now())
        if not row.discarded:
            facts.check_deleted(info, row)
        last = replace(facts.as_version(row, info.fingerprint), state=KeyState.PENDING_DESTRUCTION)
        return KeyStatus(
            state=last.state,
            current_version=last.id,
            versions=(last,),
            destroy_at=facts.moment(bundle.get("scheduledPurgeDate")),
        )

    def _sender_row(self, name: str) -> Row | None:
        """The one version of the key's sender key; None if it is not live."""
        try:
            rows = self._vault.rows(name + SENDER_SUFFIX)
        except KeyNotFoundError:
            return None
        if len(rows) > 1:
            raise facts.second_version(name + SENDER_SUFFIX, rows)
        return rows[0]

    def _rotation_period(self, name: str) -> int | None:
        try:
            return facts.rotation_days(self._azure.ask("GET", f"/keys/{name}/rotationpolicy"))
        except PermissionDeniedError:
            return None  # an application that wraps needs no right to read policies

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        """Enable or disable every version and the sender key, the version in use last: it is the key's state.

        Called again it finishes what was interrupted. Each is written, whatever was read of it: a read may be old.
        """
        with self._changing(info):
            current, rows = self._look(info)
            sender = None if info.sender_fingerprint is None else self._sender_row(self._name(info.uri))
            self._write_enabled(info, enabled, current, rows, sender)

    def _write_enabled(
        self, info: KeyInfo, enabled: bool, current: Row, rows: list[Row], sender: Row | None
    ) -> None:
        name = self._name(info.uri)
        if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            rows = [current]
        changes = [(name, row) for row in rows if row.id != current.id]
        if sender is not None:
            changes.append((name + SENDER_SUFFIX, sender))
        elif info.sender_fingerprint is not None and enabled:
            raise KeyPendingDestructionError(
                "the sender key is deleted: schedule the destruction again, then cancel it"
            )
        for key, row in [*changes, (name, current)]:
            self._vault.update(key, row.id, enabled=enabled)

    @contextlib.contextmanager
    def _changing(self, info: KeyInfo) -> Generator[None, None, None]:
        """A change of a live key: one that is deleted, or is deleted meanwhile, raises its state's own error."""
        try:
            yield
        except KeyDestroyedError:
            raise
        except KeyNotFoundError as error:
            raise state_error(self._deleted_status(info).state) from error.__cause__

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        """Make a new version of the key; the sender key stays. Tags are written to the new version where Azure has not.

        Raises:
            UnsupportedOperationError: not an ENCRYPT_DECRYPT key.
        """
        if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            raise UnsupportedOperationError(f"anykms does not rotate {info.purpose} keys")
        name = self._name(info.uri)
        with self._changing(info):
            current, rows = self._look(info)
            if current.state is not KeyState.ENABLED:
                raise state_error(current.state)
            tags = facts.lasting_tags(rows)
            if tags is not None and current.tags != tags:
                self._vault.update(name, current.id, tags=tags)
            if self._azure.sku is Sku.HSM and not self._has_policy(name):
                # A managed HSM rotates only what has a policy; this one rotates nothing by itself.
                creation.set_rotation_period(self._vault, name, None)
            known = {row.id for row in rows}
            self._vault.once(
                lambda: self._vault.rotate(name),
                lambda: any(row.id not in known for row in self._vault.rows(name)),
            )
            made = self._vault.seen(lambda: self._newer(name, known), "rotated")
            if tags is not None and made.tags != tags:
                self._vault.update(name, made.id, tags=tags)
            return self.describe_key(info)

    def _newer(self, name: str, known: Set[str]) -> Row:
        row = self._vault.current(name)[1]
        if row.id in known:
            raise KeyNotFoundError(f"{name} has no new version yet")
        return row

    def _has_policy(self, name: str) -> bool:
        policy = self._azure.ask("GET", f"/keys/{name}/rotationpolicy")
        return "created" in facts.section(policy, "attributes")

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        """Disable every version, then delete the sender key and the key, which the vault keeps for its own days.

        Called again it finishes what was interrupted.
        """
        name, sender = self._name(info.uri), None
        with self._changing(info):
            current, rows = self._look(info)
            if info.conf_digest is None and info.purpose is not KeyPurpose.ENCRYPT_DECRYPT and len(rows) > 1:
                raise UnsupportedOperationError(
                    f"Azure deletes all {len(rows)} versions of {name} at once, and the KeyInfo is of one of them"
                )
            if info.sender_fingerprint is not None:
                sender = self._sender_row(name)
            # A deleted key shows its last version only, and recovering brings keys back as they were.
            lasting = facts.lasting_tags(rows) if len(rows) > 1 else None
            tags = None if lasting == current.tags else lasting
            if sender is not None:
                self._vault.update(name + SENDER_SUFFIX, sender.id, enabled=False)
            for row in rows:
                self._vault.update(name, row.id, enabled=False, tags=tags if row.id == current.id else None)
            if sender is not None:
                self._vault.delete(name + SENDER_SUFFIX)
            self._vault.delete(name)
            if sender is not None:
                self._vault.await_deleted(name + SENDER_SUFFIX)
            return facts.moment(self._vault.await_deleted(name).get("scheduledPurgeDate"))

    def cancel_destruction(self, info: KeyInfo) -> None:
        """Recover the sender key and the key, then disable what was deleted while it was enabled.

        Called again it finishes what was interrupted.
        """
        name = self._name(info.uri)
        if self._vault.exists(name):
            self._look(info)
            started = info.sender_fingerprint is not None and self._sender_row(name) is None
            hint = "; of its sender key it is: schedule it again, then cancel it" if started else ""
            raise KeyStateError(f"no destruction of the key is scheduled{hint}")
        if self._deleted_status(info).state is KeyState.DESTROYED:
            raise KeyDestroyedError("the key is destroyed")
        if info.sender_fingerprint is not None and not self._vault.exists(name + SENDER_SUFFIX):
            self._vault.recover(name + SENDER_SUFFIX)
        try:
            self._vault.recover(name)
        except KeyNotFoundError as error:
            raise KeyStateError("no destruction of the key is scheduled") from error.__cause__
        current, rows = self._vault.seen(lambda: self._look(info), "recovered")
        sender = None
        if info.sender_fingerprint is not None:
            sender = self._vault.seen(lambda: self._vault.rows(name + SENDER_SUFFIX)[0], "recovered")
        self._write_enabled(info, False, current, rows, sender)

    # Cryptography

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        """SPKI DER of the one version, whatever the key's state."""
        pinned = info.uri.version
        if version is not None and pinned is not None and version != pinned:
            raise KeyNotFoundError(f"the key's one version is another than {ascii(version)[:40]}")
        if pinned is None:
            return facts.spki(self._sender(info)[0])
        with self._use(info):
            return facts.spki(self._vault.bundle(self._name(info.uri), pinned))

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        """Wrap under the current version: RSA-OAEP-256 without context, A256GCM with ``context.aad``.

        A256GCM gives the service's iv (12 bytes), its tag (16) and the ciphertext (32), in this order.
        """
        version = self._usable(info, None)
        sent = {"value": facts.encode(data_key)}
        if info.algorithm is Algorithm.A256GCM:
            sent["aad"] = facts.encode(context.aad)
            reply = self._crypto(info, version, "encrypt", sent)
            parts = [facts.decode(reply, field) for field in ("iv", "tag", "value")]
            if [len(part) for part in parts] != [_IV_SIZE, _TAG_SIZE, len(data_key)]:
                raise IntegrityError("Key Vault's answer has an iv, tag or ciphertext of another length")
            return Wrapped(version, b"".join(parts))
        ciphertext = facts.decode(self._crypto(info, version, "wrapkey", sent), "value")
        if len(ciphertext) != (info.key_size or 0) // 8:
            raise IntegrityError("Key Vault's answer has a ciphertext of another length")
        return Wrapped(version, ciphertext)

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        """Unwrap under exactly the version that wrapped, which the message's label tells."""
        aes = info.algorithm is Algorithm.A256GCM
        expected = _IV_SIZE + _TAG_SIZE + DATA_KEY_SIZE if aes else (info.key_size or 0) // 8
        if version is None or len(wrapped) != expected:
            raise InvalidCiphertextError("no version in its label, or another length than Key Vault's")
        if not aes:
            return self._decrypt(info, version, "unwrapkey", {"value": wrapped})
        iv, tag, value = wrapped[:_IV_SIZE], wrapped[_IV_SIZE:-DATA_KEY_SIZE], wrapped[-DATA_KEY_SIZE:]
        sent = {"value": value, "iv": iv, "tag": tag, "aad": context.aad}
        return self._decrypt(info, version, "decrypt", sent)

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        """RSA-OAEP-256 decryption."""
        return self._decrypt(info, self._pinned(info), "decrypt", {"value": ciphertext})

    def _decrypt(self, info: KeyInfo, version: str, verb: str, sent: Mapping[str, bytes]) -> bytes:
        if info.conf_digest is None:
            self._usable(info, version, {"unwrapkey": "unwrapKey"}.get(verb, verb))
        try:
            reply = self._crypto(
                info, version, verb, {name: facts.encode(part) for name, part in sent.items()}
            )
        except KeyDestroyedError:
            raise
        except (InvalidArgumentError, KeyNotFoundError) as error:
            # The request is well formed, so it is the ciphertext, or a version that never was.
            raise InvalidCiphertextError("not authentic under this key", request_id=error.request_id) from (
                error.__cause__
            )
        return facts.decode(reply, "value")

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        """Sign a digest; a sender key signs too (``KeyInfo.sender_key``). ECDSA signatures are r || s."""
        version = self._pinned(info)
        if info.conf_digest is None:
            self._usable(info, version, "sign")
        try:
            reply = self._crypto(info, version, "sign", {"value": facts.encode(message)})
        except KMSError:
            self._sender_versions.pop(info, None)  # look again next time
            raise
        signature = facts.decode(reply, "value")
        width = info.algorithm.spec.coordinate_size
        expected = (info.key_size or 0) // 8 if width is None else 2 * width
        if len(signature) != expected:
            raise IntegrityError(
                f"Key Vault's answer has a signature of {len(signature)} bytes, not {expected}"
            )
        return signature

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        """Unsupported: no API version documents HMAC for keys of a vault."""
        raise UnsupportedOperationError("Azure has no MAC keys")

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        """Unsupported, as ``mac``."""
        raise UnsupportedOperationError("Azure has no MAC keys")

    # Calls

    def _pinned(self, info: KeyInfo) -> str:
        """The one version of a key that does not rotate."""
        if info.uri.version is not None:
            return info.uri.version
        version = self._sender_versions.get(info)
        if version is None:
            version = self._sender_versions[info] = self._sender(info)[1].id
        return version

    def _sender(self, info: KeyInfo) -> tuple[Reply, Row]:
        """A sender key, which ``info`` pins by its public key and not by its version."""
        with self._use(info):
            bundle, row = self._vault.current(self._name(info.uri))
        if (found := facts.fingerprint(bundle)) != info.fingerprint:
            with self._use(info):
                facts.check_created(info, self._vault.rows(self._name(info.uri))[0].created)
            raise mismatch(
                f"{info.name} has a public key of another fingerprint than the pinned one",
                expected=info.fingerprint,
                found=found,
            )
        return bundle, row

    def _usable(self, info: KeyInfo, version: str | None, operation: str | None = None) -> str:
        """The version, None meaning the current one, once it is seen to be usable: Azure does not look at all of it."""
        name = self._name(info.uri)
        with self._use(info, version):
            if version is None:
                bundle, row = self._vault.current(name)
            else:
                bundle = self._vault.bundle(name, version)
                row = facts.row_of(bundle, self._vault.now())
        if info.conf_digest is not None:
            if not facts.is_ours(row.tags) or facts.first_created(row) != info.created_at:
                with self._use(info, version):
                    self._look(info)  # a version that Azure made by itself, or another key of the same name
            else:
                facts.check_tags(info, row.tags)
        elif (
            operation or ("encrypt" if info.algorithm is Algorithm.A256GCM else "wrapKey")
        ) not in facts.key_ops(bundle):
            raise KeyUsageError(f"the key's key_ops are {', '.join(sorted(facts.key_ops(bundle)))}")
        if row.state is not KeyState.ENABLED:
            error = state_error(row.state)
            if isinstance(error, KeyStateError):
                error.version = row.id
            raise error
        return row.id

    def _crypto(self, info: KeyInfo, version: str, verb: str, sent: Mapping[str, str]) -> Reply:
        """An operation on a version, whose reply says which key served it."""
        name = self._name(info.uri)
        with self._use(info, version):
            reply = self._azure.ask(
                "POST", f"/keys/{name}/{version}/{verb}", {"alg": str(info.algorithm), **sent}
            )
        wanted, used = facts.kid_of(self._azure.host, name, version), str(reply.get("kid")).lower()
        if used != wanted:
            raise mismatch(
                "Key Vault used another key than the one it was told to", expected=wanted, found=used
            )
        return reply

    @contextlib.contextmanager
    def _use(self, info: KeyInfo, version: str | None = None) -> Generator[None, None, None]:
        """Calls on the key that ``info`` pins; a refusal for its state says which state."""
        try:
            yield
        except (KeyNotFoundError, KeyStateError, PermissionDeniedError) as error:
            raise self._explained(info, version, error) from error.__cause__

    def _explained(self, info: KeyInfo, version: str | None, refusal: KMSError) -> KMSError:
        """403 and 404 have many reasons, so the state is read."""
        try:
            status = self.describe_key(info)
        except KeyDestroyedError as gone:
            return gone
        except KMSError:
            return refusal
        used = next((row for row in status.versions if row.id == version), None)
        state = status.state if status.state is not KeyState.ENABLED or used is None else used.state
        if state is KeyState.ENABLED:
            return refusal  # changed back meanwhile, or a refusal for another reason
        explained = state_error(state)
        explained.request_id = refusal.request_id
        if isinstance(explained, KeyStateError) and status.state is KeyState.ENABLED:
            explained.version = version
        return explained

    def _name(self, uri: KeyURI) -> str:
        """The name in a key URI of this vault."""
        host, _, name = uri.resource.partition("/")
        if uri.scheme != SCHEME or host != self._azure.host:
            raise KeyNotFoundError(f"the key is not one of {self._azure.host}, which this connection is for")
        return name
