"""Key rings, keys, versions and import jobs in memory, with the state changes that time makes.

All access goes through `Store`, under its lock; whatever a getter returns has already lived through the time
that passed (rotations, destructions, expiry).
"""

from __future__ import annotations

import copy
import hashlib
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from google.cloud import kms_v1

from anykms_emulators.gcp import names
from anykms_emulators.gcp.status import failed_precondition, not_enabled, not_found
from anykms_emulators.material import KeyMaterial, RsaKey, SecretKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from anykms_emulators.clock import Clock
    from anykms_emulators.gcp.algorithms import Algorithm, Purpose

Level: TypeAlias = Literal["SOFTWARE", "HSM"]
LEVELS: Final[tuple[Level, ...]] = ("SOFTWARE", "HSM")
State: TypeAlias = Literal[
    "PENDING_GENERATION",
    "ENABLED",
    "DISABLED",
    "DESTROY_SCHEDULED",
    "DESTROYED",
    "PENDING_IMPORT",
    "IMPORT_FAILED",
    "GENERATION_FAILED",
]
IMPORT_JOB_LIFETIME: Final = timedelta(days=3)
CRYPTO_KEY_TYPE: Final = "cloudkms.googleapis.com/CryptoKey"


@dataclass(frozen=True, slots=True)
class Generation:
    """How new asymmetric versions, import jobs and imported versions become ready.

    The reply that creates one always says PENDING_GENERATION (PENDING_IMPORT), as Cloud KMS does.
    reads: how many times Get or List says so afterwards; None for every time, until
    `GCPEmulator.finish_generation`. failure: when not empty, the version then ends as
    GENERATION_FAILED with this reason.
    """

    reads: int | None = 0
    failure: str = ""


@dataclass(slots=True, eq=False)
class Pending:
    """What a version or job turns into once it has been read `reads` times."""

    reads: int | None
    finish: Callable[[], None]

    def __deepcopy__(self, memo: object) -> Pending:
        return Pending(0, lambda: None)  # the original finishes the original


@dataclass(slots=True, eq=False)
class KeyRing:
    name: str
    create_time: datetime

    def proto(self) -> kms_v1.KeyRing:
        return kms_v1.KeyRing(name=self.name, create_time=self.create_time)


@dataclass(slots=True, eq=False)
class Version:
    name: str
    number: int
    algorithm: Algorithm
    level: Level
    state: State
    create_time: datetime
    tag: bytes  # what a ciphertext of this version begins with
    material: KeyMaterial | None = field(default=None, repr=False)
    generate_time: datetime | None = None
    destroy_time: datetime | None = None
    destroy_event_time: datetime | None = None
    import_job: str = ""
    import_time: datetime | None = None
    import_failure: str = ""
    generation_failure: str = ""
    imported_digest: bytes = b""
    pending: Pending | None = None

    @property
    def reimport_eligible(self) -> bool:
        """Whether ImportCryptoKeyVersion may target this version again."""
        return self.import_job != "" and self.state in ("DESTROYED", "IMPORT_FAILED")

    def usable_material(self) -> KeyMaterial:
        """The key material of an ENABLED version; FAILED_PRECONDITION in any other state."""
        if self.state != "ENABLED" or self.material is None:
            raise not_enabled(self.name, self.state)
        return self.material

    def proto(self) -> kms_v1.CryptoKeyVersion:
        return kms_v1.CryptoKeyVersion(
            name=self.name,
            state=self.state,
            protection_level=self.level,
            algorithm=self.algorithm.name,
            create_time=self.create_time,
            generate_time=self.generate_time,
            destroy_time=self.destroy_time if self.state == "DESTROY_SCHEDULED" else None,
            destroy_event_time=self.destroy_event_time if self.state == "DESTROYED" else None,
            import_job=self.import_job,
            import_time=self.import_time,
            import_failure_reason=self.import_failure,
            generation_failure_reason=self.generation_failure,
            reimport_eligible=self.reimport_eligible,
        )


@dataclass(slots=True, eq=False)
class Key:
    name: str
    purpose: Purpose
    create_time: datetime
    algorithm: Algorithm
    level: Level
    labels: dict[str, str]
    import_only: bool
    destroy_after: timedelta
    rotation_period: timedelta | None
    next_rotation_time: datetime | None
    versions: dict[int, Version] = field(default_factory=dict[int, Version])
    last_number: int = 0
    primary: int | None = None

    def primary_version(self) -> Version:
        """The version that Encrypt uses; FAILED_PRECONDITION when there is none."""
        if self.primary is None:
            raise failed_precondition(
                f"CryptoKey {self.name} has no primary version.", self.name, "NO_PRIMARY_VERSION"
            )
        return self.versions[self.primary]

    def proto(self) -> kms_v1.CryptoKey:
        return kms_v1.CryptoKey(
            name=self.name,
            primary=None if self.primary is None else self.versions[self.primary].proto(),
            purpose=self.purpose,
            create_time=self.create_time,
            next_rotation_time=self.next_rotation_time,
            rotation_period=self.rotation_period,
            version_template={"protection_level": self.level, "algorithm": self.algorithm.name},
            labels=self.labels,
            import_only=self.import_only,
            destroy_scheduled_duration=self.destroy_after,
        )


@dataclass(slots=True, eq=False)
class ImportJob:
    name: str
    method: str
    level: Level
    create_time: datetime
    wrapping_key: RsaKey = field(repr=False)
    state: Literal["PENDING_GENERATION", "ACTIVE", "EXPIRED"] = "PENDING_GENERATION"
    generate_time: datetime | None = None
    pending: Pending | None = None

    @property
    def expire_time(self) -> datetime:
        """Three days after creation."""
        return self.create_time + IMPORT_JOB_LIFETIME

    def proto(self) -> kms_v1.ImportJob:
        return kms_v1.ImportJob(
            name=self.name,
            import_method=self.method,
            protection_level=self.level,
            create_time=self.create_time,
            generate_time=self.generate_time,
            expire_time=self.expire_time,
            expire_event_time=self.expire_time if self.state == "EXPIRED" else None,
            state=self.state,
        )


@dataclass(slots=True, eq=False)
class RetiredResource:
    name: str
    original: str
    delete_time: datetime

    def proto(self) -> kms_v1.RetiredResource:
        return kms_v1.RetiredResource(
            name=self.name,
            original_resource=self.original,
            resource_type=CRYPTO_KEY_TYPE,
            delete_time=self.delete_time,
        )


class Store:
    """Every resource of the emulator. Hold `lock` around anything that reads and then writes."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.generation = Generation()
        self.rings: dict[str, KeyRing] = {}
        self.keys: dict[str, Key] = {}
        self.jobs: dict[str, ImportJob] = {}
        self.retired: dict[str, RetiredResource] = {}
        self.operations: dict[str, bytes] = {}

    def copy(self, key: str) -> Store:
        """One key as it is now, for a replica that is behind; an empty store if there is none of that name."""
        made = Store(self.clock)
        made.keys = copy.deepcopy({name: held for name, held in self.keys.items() if name == key})
        return made

    def ring(self, name: str, field_name: str = "name") -> KeyRing:
        """The key ring; INVALID_ARGUMENT for a malformed name, NOT_FOUND for an unknown one."""
        ring = self.rings.get(names.check("KeyRing", name, field_name))
        if ring is None:
            raise not_found("KeyRing", name)
        return ring

    def key(self, name: str, field_name: str = "name") -> Key:
        """The key, after the rotations and destructions that are due."""
        key = self.keys.get(names.check("CryptoKey", name, field_name))
        if key is None:
            raise not_found("CryptoKey", name)
        self._settle(key)
        return key

    def version(self, name: str, field_name: str = "name") -> tuple[Key, Version]:
        """A version and its key."""
        names.check("CryptoKeyVersion", name, field_name)
        key = self.keys.get(names.key_of(name))
        if key is not None:
            self._settle(key)
            version = key.versions.get(int(name.rpartition("/")[2]))
            if version is not None:
                return key, version
        raise not_found("CryptoKeyVersion", name)

    def job(self, name: str, field_name: str = "name") -> ImportJob:
        """The import job, expired if its time is over."""
        job = self.jobs.get(names.check("ImportJob", name, field_name))
        if job is None:
            raise not_found("ImportJob", name)
        if job.expire_time <= self.clock.now():
            job.state, job.pending = "EXPIRED", None
        return job

    def add_version(self, key: Key, at: datetime) -> Version:
        """A new version of the key's template; an asymmetric one is pending until `launch`."""
        version = self._numbered(key, key.algorithm, "PENDING_GENERATION", at)

        def finish() -> None:
            version.pending = None
            if version.algorithm.asymmetric and self.generation.failure:
                version.state, version.generation_failure = "GENERATION_FAILED", self.generation.failure
            else:
                version.material = version.algorithm.generate()
                version.state, version.generate_time = "ENABLED", max(at, version.create_time)

        if version.algorithm.asymmetric:
            version.pending = Pending(self.generation.reads, finish)
        else:
            finish()
        return version

    def import_version(
        self, key: Key, target: Version | None, algorithm: Algorithm, job: ImportJob, outcome: bytes | str
    ) -> Version:
        """A version with imported material, or with the reason (a str) why that fails; pending until `launch`."""
        now = self.clock.now()
        version = target or self._numbered(key, algorithm, "PENDING_IMPORT", now)
        version.state, version.import_job = "PENDING_IMPORT", job.name
        version.import_failure, version.destroy_time, version.destroy_event_time = "", None, None
        failure, material, fingerprint = "", None, b""
        if isinstance(outcome, str):
            failure = outcome
        else:
            fingerprint = hashlib.sha256(outcome).digest()
            try:
                material = algorithm.load(outcome)
            except ValueError as error:
                failure = f"The imported key material is not valid: {error}."
            if version.imported_digest not in (b"", fingerprint):
                failure = "The imported key material is not the material that this version had."

        def finish() -> None:
            version.pending = None
            if failure:
                version.state, version.import_failure = "IMPORT_FAILED", failure
            else:
                version.material, version.imported_digest = material, fingerprint
                version.state, version.import_time = "ENABLED", now

        version.pending = Pending(self.generation.reads, finish)
        return version

    def add_job(self, job: ImportJob) -> None:
        """A new import job, pending until `launch`."""

        def finish() -> None:
            job.pending, job.state, job.generate_time = None, "ACTIVE", job.create_time

        self.jobs[job.name] = job
        job.pending = Pending(self.generation.reads, finish)

    def launch(self, resource: Version | ImportJob) -> None:
        """Called once the creating reply is made: what need not wait for reads becomes ready."""
        if resource.pending is not None and resource.pending.reads == 0:
            resource.pending.finish()

    def observe(self, resource: Version | ImportJob) -> None:
        """Count one read of something pending."""
        pending = resource.pending
        if pending is not None and pending.reads is not None:
            pending.reads -= 1
            if pending.reads < 0:
                pending.finish()

    def finish_generation(self) -> None:
        """Make everything pending ready now."""
        with self.lock:
            waiting: list[Version | ImportJob] = [*self.jobs.values()]
            for key in self.keys.values():
                waiting.extend(key.versions.values())
            for resource in waiting:
                if resource.pending is not None:
                    resource.pending.finish()

    def version_with_tag(self, key: Key, tag: bytes) -> Version | None:
        """The version whose ciphertexts begin with `tag`."""
        return next((version for version in key.versions.values() if version.tag == tag), None)

    def _numbered(self, key: Key, algorithm: Algorithm, state: State, at: datetime) -> Version:
        key.last_number += 1
        number = key.last_number
        tag = b"\x00" + SecretKey.generate(4).raw()
        while self.version_with_tag(key, tag) is not None:
            tag = b"\x00" + SecretKey.generate(4).raw()
        version = Version(
            f"{key.name}/cryptoKeyVersions/{number}", number, algorithm, key.level, state, at, tag
        )
        key.versions[number] = version
        return version

    def _settle(self, key: Key) -> None:
        now = self.clock.now()
        while key.next_rotation_time is not None and key.next_rotation_time <= now:
            key.primary = self.add_version(key, key.next_rotation_time).number
            if key.rotation_period is None:
                key.next_rotation_time = None
            else:
                try:
                    key.next_rotation_time += key.rotation_period
                except OverflowError:  # after the year 9999
                    key.next_rotation_time = None
        for version in key.versions.values():
            due = version.destroy_time
            if version.state == "DESTROY_SCHEDULED" and due is not None and due <= now:
                version.state, version.material, version.destroy_event_time = "DESTROYED", None, due
