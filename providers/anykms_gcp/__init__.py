"""Google Cloud KMS behind the neutral contract (docs/providers/gcp.md)."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from google.auth.credentials import Credentials

from anykms.algorithms import KeyPurpose
from anykms.errors import (
    DeadlineExceededError,
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
    InvalidMacError,
    KeyDestroyedError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStateError,
    KMSError,
    NameReservedError,
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
)
from anykms.provider import (
    Capability,
    Operation,
    SignatureEncoding,
    WrapContext,
    Wrapped,
    mismatch,
    state_error,
)
from anykms_gcp import facts, specs
from anykms_gcp.connection import DEFAULT_TIMEOUT, Connection, Reply, check_seconds, checked, connect
from anykms_gcp.facts import SCHEME, Versions

__all__ = ["GCPProvider"]

Clock = Callable[[], datetime]

GENERATION_TIMEOUT: Final = 30.0
"""Seconds that a new asymmetric key may take; RSA in an HSM takes some."""
_GENERATION_POLL: Final = 0.2

_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_SWITCHED: Final = (KeyState.ENABLED, KeyState.DISABLED)


class GCPProvider:
    """The keys of one key ring, and others by their resource name. Safe to use from many threads.

    A key made here has its anykms name as CryptoKey id. A KeyInfo pins the CryptoKey of an ENCRYPT_DECRYPT key
    and the one version of any other.
    """

    def __init__(self, gcp: Connection, clock: Clock, generation_timeout: float) -> None:
        self._gcp = gcp
        self._clock = clock
        self._generation_timeout = generation_timeout

    @classmethod
    def connect(
        cls,
        uri: ConnectionURI,
        *,
        client: Any = None,
        allow_insecure_endpoint: bool = False,
        credentials: Credentials | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        generation_timeout: float = GENERATION_TIMEOUT,
        clock: Clock | None = None,
    ) -> Self:
        """Connect; nothing is sent yet, and credentials are looked for at the first call.

        Args:
            uri: ``gcpkms://projects/P/locations/L/keyRings/R``, with the project's id, not its number; the key ring
                must exist. The option ``endpoint=HOST:PORT`` is for an emulator.
            client: a KeyManagementServiceClient over gRPC, used as it is; it stays open.
            allow_insecure_endpoint: accept ``endpoint``, which must be on this machine and is spoken to without TLS.
            credentials: google.auth Credentials, instead of application default credentials.
            timeout: seconds to wait for one answer, more than 0.
            generation_timeout: seconds to wait until a new key is generated, 0 or more.
            clock: the time, from which the first automatic rotation is counted; default: the system's.

        Raises:
            InvalidArgumentError: an unknown option, a bad endpoint, a client over REST, or arguments that exclude
                each other.
        """
        check_seconds(generation_timeout, "generation_timeout")
        gcp = connect(
            uri,
            client=client,
            allow_insecure_endpoint=allow_insecure_endpoint,
            credentials=credentials,
            timeout=timeout,
        )
        return cls(gcp, clock or (lambda: datetime.now(UTC)), generation_timeout)

    def __repr__(self) -> str:
        return f"<GCPProvider {self._gcp.key_ring}>"

    @property
    def scheme(self) -> str:
        """``gcpkms``."""
        return SCHEME

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Everything in the contract but RS384, PS384, ES512 and wrapping under RSA; ES256K at level HSM only."""
        return specs.CAPABILITIES

    @property
    def signature_encoding(self) -> SignatureEncoding:
        """DER (RFC 3279)."""
        return SignatureEncoding.DER

    @property
    def ungated(self) -> frozenset[Operation]:
        """None: Cloud KMS refuses every use of a version that is not enabled."""
        return frozenset()

    @property
    def strongly_consistent(self) -> bool:
        """False: a disabled version, or a new primary one, is seen late (Cloud KMS guide, "Consistency")."""
        return False

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._gcp.close()

    # Keys

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        """Make the key, wait until it is generated, and write down its fingerprint.

        A key that cannot be finished (no permission to read its public key, say) is scheduled for destruction.
        """
        name = f"{self._gcp.key_ring}/cryptoKeys/{template.name}"
        try:
            key = self._gcp.ask(
                "create_crypto_key",
                parent=self._gcp.key_ring,
                crypto_key_id=template.name,
                crypto_key=self._wanted(template),
            )
        except KeyExistsError as error:
            raise self._taken(name) from error.__cause__
        if key.name != name:
            raise mismatch("Cloud KMS made another key than the one asked for", expected=name, found=key.name)
        version_name = f"{name}/cryptoKeyVersions/{facts.ONLY_VERSION}"
        try:
            version = self._generated(version_name)
            if not specs.has_public_key(template.purpose):
                return facts.read(key, version, None)
            spki = facts.read_public_key(self._gcp, version_name, template.algorithm)
            return facts.read(self._pin(key, facts.fingerprint(spki)), version, spki)
        except KMSError as error:
            if not error.retryable:
                self._discard(version_name)
            raise

    def _wanted(self, template: KeyTemplate) -> dict[str, object]:
        spec = specs.spec_of(template.algorithm, template.key_size)
        level = template.protection_level or specs.levels_of(template.algorithm)[0]
        wanted: dict[str, object] = {
            "purpose": spec.crypto_key_purpose,
            "version_template": {"algorithm": spec.algorithm, "protection_level": str(level)},
            "labels": facts.first_labels(template),
            "destroy_scheduled_duration": timedelta(days=template.destroy_window or DEFAULT_DESTROY_WINDOW),
        }
        if template.rotation_period is not None:
            period = timedelta(days=template.rotation_period)
            wanted |= {"rotation_period": period, "next_rotation_time": self._clock() + period}
        return wanted

    def _taken(self, name: str) -> KMSError:
        """Who has the name, as far as it can be read: Cloud KMS never frees one, not even of a deleted key."""
        dead = (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED)
        try:
            rows = self._versions(self._get(name), None).rows
            is_live = not rows or any(facts.state_of(row) not in dead for row in rows)
        except KeyNotFoundError:
            is_live = False
        except KMSError:
            is_live = True
        if is_live:
            return KeyExistsError(f"the name belongs to {name}")
        return NameReservedError(f"the name belongs to {name}, and Cloud KMS never frees one")

    def _generated(self, version_name: str) -> Reply:
        """The version, once it is ENABLED."""
        end = time.monotonic() + self._generation_timeout
        while True:
            version = self._gcp.ask("get_crypto_key_version", name=version_name)
            state = facts.state_of(version)
            if state is KeyState.ENABLED:
                return version
            if state is not KeyState.PENDING_GENERATION:
                raise state_error(state)
            if time.monotonic() >= end:
                raise DeadlineExceededError("Cloud KMS is still generating the key; get it by name later")
            time.sleep(_GENERATION_POLL)

    def _pin(self, key: Reply, fingerprint: str) -> Reply:
        labels = facts.with_fingerprint(key.labels, fingerprint)
        return self._gcp.ask(
            "update_crypto_key",
            crypto_key={"name": key.name, "labels": labels},
            update_mask={"paths": ["labels"]},
        )

    def _discard(self, version_name: str) -> None:
        """Give up a key that nobody has used; the error that led here says more than one of this."""
        with contextlib.suppress(KMSError):
            self._gcp.ask("destroy_crypto_key_version", name=version_name)

    def get_key(self, name: str) -> KeyInfo:
        """The facts of a key by the name it was made under, its resource name (of any project), or key URI.

        The version in the name of an ENCRYPT_DECRYPT key is ignored. Where a key of another purpose has several
        live ones, which anykms does not make, the name must say which.
        """
        if _KEY_ID.fullmatch(name):
            uri = KeyURI(SCHEME, f"{self._gcp.key_ring}/cryptoKeys/{name}")
        elif ":" in name or "/" in name:
            uri = KeyURI.from_spelling(name)
        else:
            raise KeyNotFoundError(f"no key can be called {ascii(name)[:100]}")
        return self._facts(self._get(_own(uri).resource), uri.version)

    def list_keys(self) -> Iterator[KeyInfo]:
        """The keys that anykms made in the key ring; one that is not ready, or has failed, has no facts to list."""
        for key in self._gcp.pages(
            "list_crypto_keys", "crypto_keys", parent=self._gcp.key_ring, page_size=1000
        ):
            if facts.is_ours(key):
                with contextlib.suppress(KeyNotFoundError, KeyStateError):
                    yield self._facts(key, None)

    def _facts(self, key: Reply, number: str | None) -> KeyInfo:
        """The facts of a key that is not destroyed, at version ``number`` if one is given."""
        version: Reply | None
        if facts.has_primary(key):
            enabled = "primary" in key and facts.state_of(key.primary) is KeyState.ENABLED
            version = key.primary if enabled else self._versions(key, None).current
        else:
            version = facts.only_version(key, self._versions(key, number), number)
        if version is None and key.import_only and number is None:
            raise state_error(KeyState.PENDING_IMPORT)
        if version is None or facts.state_of(version) is KeyState.DESTROYED:
            raise KeyNotFoundError(f"the key {key.name} is destroyed, or has no such version")
        return facts.read(key, version, self._spki(key, version))

    def _spki(self, key: Reply, version: Reply) -> bytes | None:
        algorithm, key_size = facts.algorithm_of(key, version)
        purpose = specs.spec_of(algorithm, key_size).purpose
        if not specs.has_public_key(purpose) or facts.state_of(version) is not KeyState.ENABLED:
            return None
        try:
            return facts.read_public_key(self._gcp, version.name, algorithm)
        except KeyStateError:
            return None  # disabled meanwhile

    def _get(self, key_name: str) -> Reply:
        key = self._gcp.ask("get_crypto_key", name=key_name)
        if key.name != key_name:
            raise mismatch(
                "Cloud KMS describes another key than the one asked for", expected=key_name, found=key.name
            )
        return key

    def _versions(self, key: Reply, number: str | None) -> Versions:
        rows = self._gcp.pages(
            "list_crypto_key_versions", "crypto_key_versions", parent=key.name, page_size=1000
        )
        return facts.versions_of(key, rows, number)

    # Lifecycle

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        """The live status; the key's state is that of its primary, or only, version."""
        key, versions = self._look(info)
        if versions.current is not None and versions.state is not KeyState.DESTROYED:
            facts.check_versions(info, versions)
        pending = versions.within(KeyState.PENDING_DESTRUCTION)
        is_pending = versions.state is KeyState.PENDING_DESTRUCTION
        return KeyStatus(
            state=versions.state,
            current_version=None if versions.current is None else facts.version_id(versions.current),
            versions=tuple(
                KeyVersion(
                    id=facts.version_id(row),
                    state=facts.state_of(row),
                    created_at=facts.moment(row.create_time),
                    fingerprint=info.fingerprint if row is versions.current else None,
                )
                for row in versions.rows
            ),
            destroy_at=_last_destruction(pending) if is_pending else None,
            rotation_period=facts.days(key.rotation_period),
            next_rotation_at=None if key.next_rotation_time is None else facts.moment(key.next_rotation_time),
        )

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        """Enable or disable every version, the one in use last; called again it finishes what was interrupted."""
        key, versions = self._look(info)
        if versions.state not in _SWITCHED:
            raise state_error(versions.state)
        if not enabled:
            self._keep_fingerprint(info, key)
        for row in versions.within(KeyState.DISABLED if enabled else KeyState.ENABLED):
            self._change(
                info,
                "update_crypto_key_version",
                crypto_key_version={"name": row.name, "state": "ENABLED" if enabled else "DISABLED"},
                update_mask={"paths": ["state"]},
            )

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        """Make a version and then make it primary; one that an interrupted call has made is used.

        Raises:
            UnsupportedOperationError: not an ENCRYPT_DECRYPT key, or material that Cloud KMS has not generated.
        """
        if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT or info.origin is not KeyOrigin.PROVIDER:
            raise UnsupportedOperationError(
                "only an ENCRYPT_DECRYPT key that Cloud KMS has generated is rotated from here"
            )
        key, versions = self._look(info)
        if versions.state is not KeyState.ENABLED or versions.current is None:
            raise state_error(versions.state)
        row = facts.unused_version(versions)
        if row is None:
            row = self._change(info, "create_crypto_key_version", parent=key.name, crypto_key_version={})
        if facts.state_of(row) is not KeyState.ENABLED:
            row = self._generated(row.name)
        self._change(
            info,
            "update_crypto_key_primary_version",
            name=key.name,
            crypto_key_version_id=facts.version_id(row),
        )
        return self.describe_key(info)

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        """Schedule the destruction of every version, the one in use last, with the window of the key's creation.

        Called again it finishes what was interrupted. Returns when the last of them goes.
        """
        key, versions = self._look(info)
        live = versions.within(*_SWITCHED)
        if not live or versions.state is KeyState.DESTROYED:
            raise state_error(versions.state)
        self._keep_fingerprint(info, key)
        pending = versions.within(KeyState.PENDING_DESTRUCTION)
        pending += [self._change(info, "destroy_crypto_key_version", name=row.name) for row in live]
        return _last_destruction(pending)

    def cancel_destruction(self, info: KeyInfo) -> None:
        """Restore every version, the one in use last; Cloud KMS leaves them disabled."""
        _, versions = self._look(info)
        if versions.state is KeyState.DESTROYED:
            raise state_error(versions.state)
        pending = versions.within(KeyState.PENDING_DESTRUCTION)
        if versions.state is not KeyState.PENDING_DESTRUCTION:
            started = "; of some versions it is: schedule it again, then cancel it" if pending else ""
            raise KeyStateError(f"no destruction of the key is scheduled{started}")
        for row in pending:
            self._change(info, "restore_crypto_key_version", name=row.name)

    def _look(self, info: KeyInfo) -> tuple[Reply, Versions]:
        """The key that ``info`` pins, and its versions; of a foreign key the pinned one alone, where it pins one."""
        uri = _own(info.uri)
        with _by_info():
            key = self._get(uri.resource)
            if info.conf_digest is None and uri.version is not None:
                row = self._gcp.ask("get_crypto_key_version", name=_resource(info))
                return key, facts.versions_of(key, [row], uri.version)
            return key, self._versions(key, uri.version)

    def _keep_fingerprint(self, info: KeyInfo, key: Reply) -> None:
        """Before the public key is withheld, finish what an interrupted ``create_key`` may have left open."""
        if info.fingerprint is None or info.conf_digest is None or facts.pinned_fingerprint(key.labels):
            return
        with contextlib.suppress(KMSError):  # disabling a key matters more
            self._pin(key, info.fingerprint)

    # Cryptography

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        """SPKI DER of the one version."""
        name = _resource(info)
        if version is not None and not name.endswith(f"/{version}"):
            raise KeyNotFoundError(f"the key's one version is another than {ascii(version)[:40]}")
        with self._use(info):
            return facts.read_public_key(self._gcp, name, info.algorithm)

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        """Encrypt under the primary version, with ``context.aad`` as additional authenticated data."""
        sent = {"plaintext": data_key, "additional_authenticated_data": context.aad}
        reply = self._crypto(info, "encrypt", sent)
        ciphertext = checked(reply.ciphertext, reply.ciphertext_crc32c, "the ciphertext")
        return Wrapped(facts.version_id(reply), ciphertext)

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        """Decrypt under exactly this key; Cloud KMS finds the version, so ``version`` serves to explain refusals."""
        sent = {"ciphertext": wrapped, "additional_authenticated_data": context.aad}
        return self._decrypt(info, "decrypt", sent, version)

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        """RSA-OAEP-256 decryption."""
        return self._decrypt(info, "asymmetric_decrypt", {"ciphertext": ciphertext}, None)

    def _decrypt(self, info: KeyInfo, method: str, sent: Mapping[str, bytes], version: str | None) -> bytes:
        try:
            reply = self._crypto(info, method, sent, version=version)
        except InvalidArgumentError as error:
            # The names are well formed and a checksum has another class, so it is the ciphertext.
            raise InvalidCiphertextError(
                "not authentic under this key and context", request_id=error.request_id
            ) from error.__cause__
        return checked(reply.plaintext, reply.plaintext_crc32c, "the plaintext")

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        """Sign a digest, or the message of Ed25519 and ML-DSA. ECDSA signatures are DER."""
        if prehashed:
            digest = {str(info.algorithm.spec.digest): message}
            reply = self._crypto(info, "asymmetric_sign", {"digest": message}, digest=digest)
        else:
            reply = self._crypto(info, "asymmetric_sign", {"data": message})
        return checked(reply.signature, reply.signature_crc32c, "the signature")

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        """HMAC by MacSign."""
        reply = self._crypto(info, "mac_sign", {"data": message})
        return checked(reply.mac, reply.mac_crc32c, "the tag")

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        """MacVerify; Cloud KMS compares."""
        reply = self._crypto(info, "mac_verify", {"data": message, "mac": tag})
        if reply.verified_success_integrity is not reply.success:
            raise IntegrityError("the reply was damaged on its way: it contradicts itself")
        if reply.success is not True:
            raise InvalidMacError("the tag does not belong to this message and key")

    # Calls

    def _crypto(
        self,
        info: KeyInfo,
        method: str,
        sent: Mapping[str, bytes],
        *,
        version: str | None = None,
        **rest: object,
    ) -> Reply:
        with self._use(info, version):
            return self._gcp.protected(method, _resource(info), sent, **rest)

    def _change(self, info: KeyInfo, method: str, **request: object) -> Reply:
        with self._use(info):
            return self._gcp.ask(method, **request)

    @contextlib.contextmanager
    def _use(self, info: KeyInfo, version: str | None = None) -> Generator[None, None, None]:
        """Calls on the key that ``info`` pins; a refusal for its state says which state."""
        try:
            with _by_info():
                yield
        except KeyStateError as error:
            raise self._explained(info, version, error) from error.__cause__

    def _explained(self, info: KeyInfo, number: str | None, refusal: KeyStateError) -> KMSError:
        """FAILED_PRECONDITION does not say in a field what failed, so the state is read."""
        try:
            _, versions = self._look(info)
            row = versions.numbered(number) or versions.current
            state = KeyState.DESTROYED if row is None else facts.state_of(row)
        except KeyDestroyedError as gone:
            return gone
        except KMSError:
            return refusal
        if state is KeyState.ENABLED:
            return refusal  # changed back meanwhile, or a refusal for another reason
        explained = state_error(state)
        explained.request_id = refusal.request_id
        if isinstance(explained, KeyStateError) and row is not versions.current and row is not None:
            explained.version = facts.version_id(row)
        return explained


@contextlib.contextmanager
def _by_info() -> Generator[None, None, None]:
    try:
        yield
    except KeyNotFoundError as error:
        raise KeyDestroyedError("the key is destroyed", request_id=error.request_id) from error.__cause__


def _own(uri: KeyURI) -> KeyURI:
    if uri.scheme != SCHEME:
        raise KeyNotFoundError("the key URI is not one of Google Cloud")
    return uri


def _resource(info: KeyInfo) -> str:
    """The resource name of what ``info`` pins: a key, or a version where Cloud KMS wants one named."""
    uri = _own(info.uri)
    if info.purpose is KeyPurpose.ENCRYPT_DECRYPT:
        return uri.resource
    return f"{uri.resource}/cryptoKeyVersions/{uri.version or facts.ONLY_VERSION}"


def _last_destruction(rows: list[Reply]) -> datetime:
    return max(facts.moment(row.destroy_time) for row in rows)
