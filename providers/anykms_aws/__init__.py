"""AWS KMS behind the neutral contract (docs/providers/aws.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Self

from anykms.algorithms import KeyPurpose
from anykms.errors import (
    InvalidCiphertextError,
    InvalidMacError,
    KeyDestroyedError,
    KeyNotFoundError,
    KeyPendingDestructionError,
    KeyStateError,
    KMSError,
    PermissionDeniedError,
    UnsupportedOperationError,
)
from anykms.keys import (
    DEFAULT_DESTROY_WINDOW,
    ConnectionURI,
    KeyInfo,
    KeyState,
    KeyStatus,
    KeyTemplate,
    KeyURI,
    KeyVersion,
    utc_seconds,
)
from anykms.provider import (
    Capability,
    Operation,
    SignatureEncoding,
    WrapContext,
    Wrapped,
    is_name,
    mismatch,
    state_error,
)
from anykms_aws import creation, facts, specs
from anykms_aws.connection import DEFAULT_TIMEOUT, Connection, Reply, client_config, connect
from anykms_aws.facts import ALIAS_PREFIX, SCHEME, arn_of

__all__ = ["AWSProvider", "client_config"]

ROTATIONS_FOR_LIFE: Final = 25
"""On-demand rotations of one key (AWS KMS developer guide, "Resource quotas")."""

_KEY_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
_ALIAS: Final = re.compile(r"alias/[A-Za-z0-9:/_-]{1,250}")
_ALIAS_ARN: Final = re.compile(rf"arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{{12}}:({_ALIAS.pattern})")


class AWSProvider:
    """The keys of one AWS account and Region. Safe to use from many threads.

    A key made here is called ``alias/anykms/NAME`` in AWS; its ARN is what a KeyInfo pins and every call names.

    >>> import anykms
    >>> from anykms_emulators.aws import AWSEmulator
    >>> with AWSEmulator() as aws, anykms.connect(aws.uri, **aws.options) as client:
    ...     info = client.generate_key(anykms.KeyConf("releases", "SIGN_VERIFY", algorithm="ES256"))
    ...     client.key(info).verify(b"v1.2.0", client.key(info).sign(b"v1.2.0"))
    >>> info.protection_level
    <ProtectionLevel.HSM: 'HSM'>
    """

    def __init__(self, aws: Connection) -> None:
        self._aws = aws
        self._capabilities = specs.capabilities_in(aws.region)

    @classmethod
    def connect(
        cls,
        uri: ConnectionURI,
        *,
        client: Any = None,
        allow_insecure_endpoint: bool = False,
        credentials: Mapping[str, str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Self:
        """Connect; nothing is sent yet, and credentials are looked for at the first call.

        Args:
            uri: ``awskms:///`` with the options ``region``, ``profile`` and ``endpoint_url``; what is left out
                comes from the SDK's own configuration (environment, ~/.aws/config).
            client: a boto3 KMS client, instead of the options; made with ``client_config()``. It stays open.
            allow_insecure_endpoint: accept an http endpoint on this machine: an emulator's. Any other endpoint is
                https, with its certificate checked.
            credentials: ``aws_access_key_id``, ``aws_secret_access_key`` and perhaps ``aws_session_token``,
                instead of the SDK's credential chain.
            timeout: seconds to wait for one answer.

        Raises:
            InvalidArgumentError: an unknown option, no Region, a bad endpoint, or arguments that exclude each
                other.
        """
        return cls(
            connect(
                uri,
                client=client,
                allow_insecure_endpoint=allow_insecure_endpoint,
                credentials=credentials,
                timeout=timeout,
            )
        )

    def __repr__(self) -> str:
        return f"<AWSProvider {self._aws.region}>"

    @property
    def scheme(self) -> str:
        """``awskms``."""
        return SCHEME

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Everything in the contract but wrapping under RSA, at protection level HSM."""
        return self._capabilities

    @property
    def signature_encoding(self) -> SignatureEncoding:
        """DER (ANS X9.62, RFC 3279)."""
        return SignatureEncoding.DER

    @property
    def ungated(self) -> frozenset[Operation]:
        """None: AWS KMS refuses every use of a key that is not enabled."""
        return frozenset()

    @property
    def strongly_consistent(self) -> bool:
        """False: AWS KMS is eventually consistent, usually within seconds."""
        return False

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._aws.close()

    # Keys

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        """Make the key and its alias, or finish what an earlier call began; see ``anykms_aws.creation``."""
        return creation.create(self._aws, template)

    def get_key(self, name: str) -> KeyInfo:
        """The facts of a key by the name it was made under, ``alias/...``, key id, ARN or key URI.

        A key that anykms did not make is called by its key id. An RSA signing key without tags of ours is taken
        for PS256, an RSA encryption key for ASYMMETRIC_DECRYPT.
        """
        if _ALIAS.fullmatch(name):
            return self._facts(name, None)
        if alias := _ALIAS_ARN.fullmatch(name):
            self._require_region(alias[1])
            return self._facts(name, None)
        if _KEY_ID.fullmatch(name):
            try:
                return self._facts(name, None)
            except KeyNotFoundError:
                pass  # a name of our own may look like a key id
        elif ":" in name or "/" in name:
            return self._facts(self._arn(KeyURI.from_spelling(name)), None)
        if not is_name(name):
            raise KeyNotFoundError(f"no key can be called {ascii(name)[:100]}")
        return self._facts(ALIAS_PREFIX + name, name)

    def list_keys(self) -> Iterator[KeyInfo]:
        """The keys that anykms made, by their aliases; reads two or three times for each."""
        for row in self._aws.pages("list_aliases", "Aliases", Limit=100):
            alias: str = row["AliasName"]
            if not alias.startswith(ALIAS_PREFIX) or "TargetKeyId" not in row:
                continue
            try:
                metadata = self._aws.describe(row["TargetKeyId"])
                tags = creation.read_tags(self._aws, metadata["Arn"])
            except KeyNotFoundError:
                continue  # destroyed since the listing
            if facts.has_name(tags, alias.removeprefix(ALIAS_PREFIX)):
                yield self._read(metadata, tags)

    def _facts(self, identifier: str, name: str | None) -> KeyInfo:
        """The facts of a key; with ``name``, of one that was made under it."""
        metadata = self._aws.describe(identifier)
        arn: str = metadata["Arn"]
        if identifier.startswith("arn:") and ":key/" in identifier and arn != identifier:
            raise mismatch(
                "AWS KMS describes another key than the one asked for", expected=identifier, found=arn
            )
        tags: Mapping[str, str] = {}
        try:
            tags = creation.read_tags(self._aws, arn)
        except PermissionDeniedError:
            # The tags of another account's key cannot be read, by anyone of this one.
            if name is not None:
                raise
        if name is not None and not facts.is_ours(tags):
            raise KeyNotFoundError(f"{identifier} leads to a key that anykms did not make: {arn}")
        if name is not None and not facts.has_name(tags, name):
            raise mismatch(
                f"{identifier} leads to {arn}, a key that was not made under this name",
                expected=name,
                found=facts.name_in(tags),
            )
        return self._read(metadata, tags)

    def _read(self, metadata: Reply, tags: Mapping[str, str]) -> KeyInfo:
        return facts.read(metadata, tags, lambda: self._spki_if_enabled(metadata))

    def _spki_if_enabled(self, metadata: Reply) -> bytes | None:
        if facts.state_of(metadata) is not KeyState.ENABLED:
            return None
        try:
            spki: bytes = self._aws.ask("get_public_key", KeyId=metadata["Arn"])["PublicKey"]
        except KeyStateError:
            return None  # disabled meanwhile
        return spki

    # Lifecycle

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        """The live status, with a version for each key material of a symmetric key."""
        try:
            metadata = self._describe(info)
        except KeyDestroyedError:
            return KeyStatus(state=KeyState.DESTROYED)
        specs.check_same_kind(info, metadata["KeySpec"], metadata["KeyUsage"])
        state = facts.state_of(metadata)
        deletion: datetime | None = metadata.get("DeletionDate")
        status = KeyStatus(state=state, destroy_at=None if deletion is None else utc_seconds(deletion))
        created = utc_seconds(metadata["CreationDate"])
        if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT or metadata["Origin"] not in specs.ROTATED_ORIGINS:
            # AWS names no version of a key that never has another, so the key's own id stands for it.
            only = KeyVersion(
                id=metadata["KeyId"], state=state, created_at=created, fingerprint=info.fingerprint
            )
            return replace(status, current_version=only.id, versions=(only,))
        if state in (KeyState.PENDING_IMPORT, KeyState.PENDING_GENERATION):
            return status
        rotation = self._use(info, "get_key_rotation_status")
        materials = list(
            self._aws.pages(
                "list_key_rotations", "Rotations", KeyId=arn_of(info), IncludeKeyMaterial="ALL_KEY_MATERIAL"
            )
        )
        on_demand = sum(row.get("RotationType") == "ON_DEMAND" for row in materials)
        due: datetime | None = rotation.get("NextRotationDate")
        return replace(
            status,
            current_version=metadata.get("CurrentKeyMaterialId"),
            versions=tuple(
                KeyVersion(
                    id=row["KeyMaterialId"],
                    state=state,
                    created_at=utc_seconds(row["RotationDate"]) if "RotationDate" in row else created,
                )
                for row in materials
                if row.get("KeyMaterialState") != "PENDING_ROTATION"
            ),
            rotation_period=rotation.get("RotationPeriodInDays") if rotation["KeyRotationEnabled"] else None,
            next_rotation_at=None if due is None else utc_seconds(due),
            rotations_left=ROTATIONS_FOR_LIFE - on_demand,
        )

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        """Enable or disable the key, for every principal."""
        self._use(info, "enable_key" if enabled else "disable_key")

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        """Rotate on demand, for ENCRYPT_DECRYPT keys; 25 times in a key's life.

        Raises:
            QuotaExceededError: the 25 are used up.
            ConflictError: AWS is about to rotate the key by itself.
        """
        if info.purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            raise UnsupportedOperationError(f"AWS KMS does not rotate {info.algorithm} keys")
        self._use(info, "rotate_key_on_demand")
        return self.describe_key(info)

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        """Schedule the deletion with the key's own window, which AWS keeps per call; 30 days for foreign keys."""
        arn = self._arn(info.uri)
        try:
            facts.check_tags(info, creation.read_tags(self._aws, arn))
        except KeyNotFoundError as error:
            raise KeyDestroyedError("the key is destroyed") from error.__cause__
        if ":key/mrk-" in arn:
            self._require_no_replicas(info)
        window = info.destroy_window or DEFAULT_DESTROY_WINDOW
        reply = self._use(info, "schedule_key_deletion", PendingWindowInDays=window)
        return utc_seconds(reply["DeletionDate"])

    def cancel_destruction(self, info: KeyInfo) -> None:
        """Cancel the deletion; AWS leaves the key disabled."""
        try:
            self._use(info, "cancel_key_deletion")
        except KeyPendingDestructionError:
            raise
        except KeyStateError as error:
            raise KeyStateError("no destruction of the key is scheduled", request_id=error.request_id) from (
                error.__cause__
            )

    def _require_no_replicas(self, info: KeyInfo) -> None:
        metadata = self._describe(info)
        if metadata.get("MultiRegionConfiguration", {}).get("ReplicaKeys"):
            raise UnsupportedOperationError(
                "AWS starts the window of a multi-Region primary key only when its last replica is deleted: "
                "delete the replicas first"
            )

    # Cryptography

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        """SPKI DER. A key has one version for life, so ``version`` says nothing."""
        spki: bytes = self._crypto(info, "get_public_key")["PublicKey"]
        return spki

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        """Encrypt, with ``context.pairs`` as the encryption context. AWS does not name versions."""
        reply = self._crypto(
            info, "encrypt", Plaintext=data_key, EncryptionContext=dict(context.pairs), **_under(info)
        )
        return Wrapped(None, reply["CiphertextBlob"])

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        """Decrypt, under exactly this key and encryption context; AWS finds the material by itself."""
        return self._decrypt(info, wrapped, EncryptionContext=dict(context.pairs))

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        """RSA-OAEP-256 decryption."""
        return self._decrypt(info, ciphertext)

    def _decrypt(self, info: KeyInfo, ciphertext: bytes, **parameters: object) -> bytes:
        if not ciphertext:
            raise InvalidCiphertextError("an empty ciphertext")
        plaintext: bytes = self._crypto(
            info, "decrypt", CiphertextBlob=ciphertext, **parameters, **_under(info)
        )["Plaintext"]
        return plaintext

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        """Sign a digest as DIGEST, or the message of Ed25519 and ML-DSA as RAW. ECDSA signatures are DER."""
        signature: bytes = self._crypto(
            info,
            "sign",
            Message=message,
            MessageType="DIGEST" if prehashed else "RAW",
            SigningAlgorithm=specs.spec_of(info.algorithm, info.key_size).algorithm,
        )["Signature"]
        return signature

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        """HMAC by GenerateMac."""
        algorithm = specs.spec_of(info.algorithm, info.key_size).algorithm
        tag: bytes = self._crypto(info, "generate_mac", Message=message, MacAlgorithm=algorithm)["Mac"]
        return tag

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        """VerifyMac; AWS compares."""
        algorithm = specs.spec_of(info.algorithm, info.key_size).algorithm
        reply = self._crypto(info, "verify_mac", Message=message, Mac=tag, MacAlgorithm=algorithm)
        if reply.get("MacValid") is not True:
            raise InvalidMacError("the tag does not belong to this message and key")

    # Calls

    def _crypto(self, info: KeyInfo, method: str, **parameters: object) -> Reply:
        """A call whose reply says which key served it."""
        reply = self._use(info, method, **parameters)
        if (used := reply.get("KeyId")) != arn_of(info):
            raise mismatch(
                "AWS KMS used another key than the one it was told to", expected=arn_of(info), found=used
            )
        return reply

    def _describe(self, info: KeyInfo) -> Reply:
        return Reply(self._use(info, "describe_key")["KeyMetadata"])

    def _use(self, info: KeyInfo, method: str, **parameters: object) -> Reply:
        """A call on the key that ``info`` pins; a refusal for its state says which state."""
        arn = self._arn(info.uri)
        try:
            return self._aws.ask(method, KeyId=arn, **parameters)
        except KeyNotFoundError as error:
            raise KeyDestroyedError("the key is destroyed", request_id=error.request_id) from error.__cause__
        except KeyStateError as error:
            raise self._state_error(arn, error) from error.__cause__

    def _state_error(self, arn: str, refusal: KeyStateError) -> KMSError:
        """AWS gives DisabledException or KMSInvalidStateException for the same states, so the state is read."""
        try:
            state = facts.state_of(self._aws.describe(arn))
        except KeyNotFoundError:
            state = KeyState.DESTROYED
        except KMSError:
            return refusal
        if state is KeyState.ENABLED:
            return refusal  # changed back meanwhile, or a refusal for another reason
        explained = state_error(state)
        explained.request_id = refusal.request_id
        return explained

    def _arn(self, uri: KeyURI) -> str:
        if uri.scheme != SCHEME:
            raise KeyNotFoundError("the key URI is not one of AWS")
        arn = uri.resource[1:]
        self._require_region(arn.split(":", 4)[3])
        return arn

    def _require_region(self, region: str) -> None:
        if region != self._aws.region:
            raise KeyNotFoundError(f"the key lives in {region}, this connection is for {self._aws.region}")


def _under(info: KeyInfo) -> dict[str, str]:
    return {"EncryptionAlgorithm": specs.spec_of(info.algorithm, info.key_size).algorithm}
