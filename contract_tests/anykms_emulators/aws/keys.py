"""KMS keys: what each key spec can do, and the life of one key and of its materials."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anykms_emulators.material import (
    CurveName,
    EcKey,
    Ed25519Key,
    HashName,
    KeyMaterial,
    MlDsaKey,
    MlDsaSet,
    MlKemKey,
    MlKemSet,
    RsaKey,
    RsaPadding,
    SecretKey,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Json: TypeAlias = dict[str, Any]

SYMMETRIC: Final = "SYMMETRIC_DEFAULT"
RSA_SIGNING: Final[Mapping[str, tuple[RsaPadding, HashName]]] = {
    "RSASSA_PKCS1_V1_5_SHA_256": ("PKCS1", "SHA-256"),
    "RSASSA_PKCS1_V1_5_SHA_384": ("PKCS1", "SHA-384"),
    "RSASSA_PKCS1_V1_5_SHA_512": ("PKCS1", "SHA-512"),
    "RSASSA_PSS_SHA_256": ("PSS", "SHA-256"),
    "RSASSA_PSS_SHA_384": ("PSS", "SHA-384"),
    "RSASSA_PSS_SHA_512": ("PSS", "SHA-512"),
}
EC_SIGNING: Final[Mapping[str, HashName]] = {
    "ECDSA_SHA_256": "SHA-256",
    "ECDSA_SHA_384": "SHA-384",
    "ECDSA_SHA_512": "SHA-512",
}
OAEP: Final[Mapping[str, HashName]] = {"RSAES_OAEP_SHA_1": "SHA-1", "RSAES_OAEP_SHA_256": "SHA-256"}
MAC: Final[Mapping[str, HashName]] = {
    "HMAC_SHA_224": "SHA-224",
    "HMAC_SHA_256": "SHA-256",
    "HMAC_SHA_384": "SHA-384",
    "HMAC_SHA_512": "SHA-512",
}
ALGORITHM_FIELDS: Final[Mapping[str, str]] = {
    "ENCRYPT_DECRYPT": "EncryptionAlgorithms",
    "SIGN_VERIFY": "SigningAlgorithms",
    "GENERATE_VERIFY_MAC": "MacAlgorithms",
    "KEY_AGREEMENT": "KeyAgreementAlgorithms",
    "ENCAPSULATE_DECAPSULATE": "EncapsulationAlgorithms",
}


@dataclass(frozen=True, slots=True)
class Spec:
    """A key spec: the algorithms of each usage it may be created for, its generator, and its importer.

    `load` reads unwrapped import material and raises ValueError for what does not fit; None: no import.
    """

    usages: Mapping[str, tuple[str, ...]]
    generate: Callable[[], KeyMaterial]
    load: Callable[[bytes], KeyMaterial] | None


def _secret(size: int) -> Callable[[bytes], SecretKey]:
    def load(raw: bytes) -> SecretKey:
        if len(raw) != size:
            raise ValueError(f"the key material must be {size} bytes")
        return SecretKey(raw)

    return load


def _rsa(bits: int) -> Spec:
    def load(der: bytes) -> RsaKey:
        key = RsaKey.from_pkcs8(der)
        if key.bits != bits:
            raise ValueError(f"the key material must be an RSA key of {bits} bits")
        return key

    usages = {"ENCRYPT_DECRYPT": tuple(OAEP), "SIGN_VERIFY": tuple(RSA_SIGNING)}
    return Spec(usages, lambda: RsaKey.generate(bits), load)


def _ec(curve: CurveName, signing: str, *, agreement: bool = True) -> Spec:
    def load(der: bytes) -> EcKey:
        key = EcKey.from_pkcs8(der)
        if key.curve != curve:
            raise ValueError(f"the key material must be a key on {curve}")
        return key

    usages: dict[str, tuple[str, ...]] = {"SIGN_VERIFY": (signing,)}
    if agreement:
        usages["KEY_AGREEMENT"] = ("ECDH",)
    return Spec(usages, lambda: EcKey.generate(curve), load)


def _hmac(bits: int) -> Spec:
    size = bits // 8
    usages = {"GENERATE_VERIFY_MAC": (f"HMAC_SHA_{bits}",)}
    return Spec(usages, lambda: SecretKey.generate(size), _secret(size))


def _mldsa(parameter_set: MlDsaSet) -> Spec:
    usages = {"SIGN_VERIFY": ("ML_DSA_SHAKE_256",)}
    return Spec(usages, lambda: MlDsaKey.generate(parameter_set), None)


def _mlkem(parameter_set: MlKemSet) -> Spec:
    usages = {"ENCAPSULATE_DECAPSULATE": ("ML_KEM",)}
    return Spec(usages, lambda: MlKemKey.generate(parameter_set), None)


SPECS: Final[Mapping[str, Spec]] = {
    SYMMETRIC: Spec({"ENCRYPT_DECRYPT": (SYMMETRIC,)}, lambda: SecretKey.generate(32), _secret(32)),
    "RSA_2048": _rsa(2048),
    "RSA_3072": _rsa(3072),
    "RSA_4096": _rsa(4096),
    "ECC_NIST_P256": _ec("P-256", "ECDSA_SHA_256"),
    "ECC_NIST_P384": _ec("P-384", "ECDSA_SHA_384"),
    "ECC_NIST_P521": _ec("P-521", "ECDSA_SHA_512"),
    "ECC_SECG_P256K1": _ec("secp256k1", "ECDSA_SHA_256", agreement=False),
    "ECC_NIST_EDWARDS25519": Spec(
        {"SIGN_VERIFY": ("ED25519_SHA_512", "ED25519_PH_SHA_512")},
        Ed25519Key.generate,
        Ed25519Key.from_pkcs8,
    ),
    "HMAC_224": _hmac(224),
    "HMAC_256": _hmac(256),
    "HMAC_384": _hmac(384),
    "HMAC_512": _hmac(512),
    "ML_DSA_44": _mldsa("ML-DSA-44"),
    "ML_DSA_65": _mldsa("ML-DSA-65"),
    "ML_DSA_87": _mldsa("ML-DSA-87"),
    "ML_KEM_768": _mlkem("ML-KEM-768"),
    "ML_KEM_1024": _mlkem("ML-KEM-1024"),
}


@dataclass(slots=True)
class Material:
    """One generation of a key's material. `secret` is None once it expired or was deleted."""

    id: str
    secret: KeyMaterial | None = field(repr=False)
    expires: datetime | None = None
    expiration_model: str | None = None
    description: str | None = None
    rotated: datetime | None = None
    rotation_type: str | None = None

    @classmethod
    def generate(cls, spec: Spec) -> Material:
        """Fresh material made by the service."""
        return cls(os.urandom(32).hex(), spec.generate())


def imported_id(key_id: str, raw: bytes) -> str:
    """The id of imported material: of the key id and the material, as the service model says, and no more."""
    return hashlib.sha256(b"anykms emulator material\0" + key_id.encode() + b"\0" + raw).hexdigest()


@dataclass(slots=True)
class Line:
    """The materials of a key, oldest first; a multi-Region primary shares it with its replicas.

    `current` indexes the material that encrypts; one after it is pending rotation.
    """

    materials: list[Material] = field(default_factory=list[Material])
    current: int = 0
    on_demand: int = 0
    period: int | None = None
    next_rotation: datetime | None = None

    def rotate(self, fresh: Material | None, at: datetime, how: str) -> None:
        """Make `fresh`, or the material that is pending, the current one."""
        if fresh is not None:
            self.materials.append(fresh)
        self.current += 1
        self.materials[self.current].rotated = at
        self.materials[self.current].rotation_type = how

    @property
    def pending(self) -> Material | None:
        """The imported material that waits for a rotation."""
        return self.materials[self.current + 1] if len(self.materials) > self.current + 1 else None

    @property
    def in_service(self) -> list[Material]:
        """All but a pending one."""
        return self.materials[: self.current + 1]


@dataclass(slots=True)
class Grant:
    """A grant; recorded and listed, not enforced (the emulator has one principal)."""

    id: str
    token: str
    created: datetime
    fields: Json


@dataclass(slots=True)
class Family:
    """A multi-Region key: its primary Region and the Regions of its replicas."""

    primary: str
    replicas: list[str] = field(default_factory=list[str])


@dataclass(slots=True, eq=False)
class Key:
    """A KMS key in one Region."""

    id: str
    arn: str
    account: str
    region: str
    spec_name: str
    usage: str
    origin: str
    description: str
    policy: str
    created: datetime
    line: Line = field(repr=False)
    tags: dict[str, str] = field(default_factory=dict[str, str])
    family: Family | None = None
    enabled: bool = True
    window: int | None = None
    deletion_date: datetime | None = None
    grants: dict[str, Grant] = field(default_factory=dict[str, Grant])
    last_usage: Json = field(default_factory=Json)

    @property
    def spec(self) -> Spec:
        """What its key spec can do."""
        return SPECS[self.spec_name]

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms of its spec and usage."""
        return self.spec.usages[self.usage]

    @property
    def is_primary(self) -> bool:
        """Whether it is a multi-Region primary key."""
        return self.family is not None and self.family.primary == self.region

    @property
    def state(self) -> str:
        """AWS's KeyState."""
        if self.deletion_date is not None:
            return "PendingDeletion"
        if self.window is not None:
            return "PendingReplicaDeletion"
        in_service = self.line.in_service
        if not in_service or any(material.secret is None for material in in_service):
            return "PendingImport"
        return "Enabled" if self.enabled else "Disabled"

    @property
    def current(self) -> Material:
        """The material that encrypts and signs; only for a key that has one."""
        return self.line.materials[self.line.current]

    def algorithm_fields(self) -> Json:
        """The list of algorithms under the name that its usage has in a reply."""
        return {ALGORITHM_FIELDS[self.usage]: list(self.algorithms)}

    def metadata(self) -> Json:
        """KeyMetadata as DescribeKey gives it."""
        state = self.state
        facts: Json = {
            "AWSAccountId": self.account,
            "Arn": self.arn,
            "CreationDate": self.created,
            "CustomerMasterKeySpec": self.spec_name,
            "Description": self.description,
            "Enabled": state == "Enabled",
            "KeyId": self.id,
            "KeyManager": "CUSTOMER",
            "KeySpec": self.spec_name,
            "KeyState": state,
            "KeyUsage": self.usage,
            "MultiRegion": self.family is not None,
            "Origin": self.origin,
            **self.algorithm_fields(),
        }
        if self.line.materials and self.spec_name == SYMMETRIC:
            facts["CurrentKeyMaterialId"] = self.current.id
        if self.line.materials and self.current.secret is not None and self.current.expiration_model:
            facts["ExpirationModel"] = self.current.expiration_model
            if self.current.expires is not None:
                facts["ValidTo"] = self.current.expires
        if self.deletion_date is not None:
            facts["DeletionDate"] = self.deletion_date
        elif self.window is not None:
            facts["PendingDeletionWindowInDays"] = self.window
        if self.family is not None:
            facts["MultiRegionConfiguration"] = {
                "MultiRegionKeyType": "PRIMARY" if self.is_primary else "REPLICA",
                "PrimaryKey": self._sibling(self.family.primary),
                "ReplicaKeys": [self._sibling(region) for region in self.family.replicas],
            }
        return facts

    def _sibling(self, region: str) -> Json:
        return {"Arn": self.arn.replace(f":{self.region}:", f":{region}:", 1), "Region": region}

    def catch_up(self, now: datetime) -> None:
        """Let the time up to `now` do its work: expiry of imported material, scheduled rotation."""
        for material in self.line.materials:
            if material.expires is not None and material.expires <= now:
                material.secret = None
        line = self.line
        while (
            line.period is not None
            and line.next_rotation is not None
            and line.next_rotation <= now
            and self.state == "Enabled"
            and (self.family is None or self.is_primary)
        ):
            line.rotate(Material.generate(self.spec), line.next_rotation, "AUTOMATIC")
            line.next_rotation += timedelta(days=line.period)
