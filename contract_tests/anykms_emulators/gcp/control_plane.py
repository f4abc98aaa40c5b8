"""The control plane: key rings, keys, versions, import jobs and retired resources."""

from __future__ import annotations

import re
import unicodedata
import uuid
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from cryptography.hazmat.primitives import serialization
from google.cloud import kms_v1
from google.longrunning import operations_pb2  # pyright: ignore[reportMissingTypeStubs] - it ships none
from google.protobuf import empty_pb2

from anykms_emulators.gcp import names
from anykms_emulators.gcp.algorithms import ALGORITHMS, NOT_EMULATED, PURPOSES, Algorithm, Purpose
from anykms_emulators.gcp.listing import page, select
from anykms_emulators.gcp.messages import enum_name, raw
from anykms_emulators.gcp.resources import LEVELS, ImportJob, Key, KeyRing, Level, RetiredResource, Version
from anykms_emulators.gcp.status import (
    already_exists,
    failed_precondition,
    invalid,
    not_enabled,
    not_found,
    unimplemented,
)
from anykms_emulators.material import DecryptionError, HashName, RsaKey, SecretKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from anykms_emulators.gcp.resources import Store

DEFAULT_DESTROY_AFTER: Final = timedelta(days=30)
SHORTEST_DESTROY_AFTER: Final = timedelta(hours=24)
LONGEST_DESTROY_AFTER: Final = timedelta(days=120)
SHORTEST_ROTATION: Final = timedelta(hours=24)
LONGEST_ROTATION: Final = timedelta(hours=876_000)
MOST_LABELS: Final = 64

# bits of the wrapping key, hash of OAEP, whether an AES key stands between
_IMPORT_METHODS: Final[dict[str, tuple[int, HashName, bool]]] = {
    "RSA_OAEP_3072_SHA1_AES_256": (3072, "SHA-1", True),
    "RSA_OAEP_4096_SHA1_AES_256": (4096, "SHA-1", True),
    "RSA_OAEP_3072_SHA256_AES_256": (3072, "SHA-256", True),
    "RSA_OAEP_4096_SHA256_AES_256": (4096, "SHA-256", True),
    "RSA_OAEP_3072_SHA256": (3072, "SHA-256", False),
    "RSA_OAEP_4096_SHA256": (4096, "SHA-256", False),
}
_UPDATABLE: Final = frozenset(
    {"labels", "rotation_period", "next_rotation_time", "version_template", "version_template.algorithm"}
)
_LABEL_REST: Final = re.compile(r"[\w-]*")


class ControlPlane:
    """One method for each RPC; each takes the request and returns the reply, or raises `RefusedError`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list_key_rings(self, request: kms_v1.ListKeyRingsRequest) -> kms_v1.ListKeyRingsResponse:
        prefix = names.check("location", request.parent, "parent") + "/keyRings/"
        with self._store.lock:
            found = [ring.proto() for name, ring in self._store.rings.items() if name.startswith(prefix)]
        chosen, token, total = _listed(request, found, kms_v1.KeyRing)
        return kms_v1.ListKeyRingsResponse(key_rings=chosen, next_page_token=token, total_size=total)

    def list_crypto_keys(self, request: kms_v1.ListCryptoKeysRequest) -> kms_v1.ListCryptoKeysResponse:
        with self._store.lock:
            prefix = self._store.ring(request.parent, "parent").name + "/cryptoKeys/"
            found = [self._store.key(name).proto() for name in self._store.keys if name.startswith(prefix)]
        chosen, token, total = _listed(request, found, kms_v1.CryptoKey)
        return kms_v1.ListCryptoKeysResponse(crypto_keys=chosen, next_page_token=token, total_size=total)

    def list_crypto_key_versions(
        self, request: kms_v1.ListCryptoKeyVersionsRequest
    ) -> kms_v1.ListCryptoKeyVersionsResponse:
        with self._store.lock:
            key = self._store.key(request.parent, "parent")
            for version in key.versions.values():
                self._store.observe(version)
            found = [version.proto() for version in key.versions.values()]
        chosen, token, total = _listed(request, found, kms_v1.CryptoKeyVersion)
        return kms_v1.ListCryptoKeyVersionsResponse(
            crypto_key_versions=chosen, next_page_token=token, total_size=total
        )

    def list_import_jobs(self, request: kms_v1.ListImportJobsRequest) -> kms_v1.ListImportJobsResponse:
        with self._store.lock:
            prefix = self._store.ring(request.parent, "parent").name + "/importJobs/"
            jobs = [self._store.job(name) for name in self._store.jobs if name.startswith(prefix)]
            for job in jobs:
                self._store.observe(job)
            found = [_job_proto(job, "PUBLIC_KEY_FORMAT_UNSPECIFIED") for job in jobs]
        chosen, token, total = _listed(request, found, kms_v1.ImportJob)
        return kms_v1.ListImportJobsResponse(import_jobs=chosen, next_page_token=token, total_size=total)

    def list_retired_resources(
        self, request: kms_v1.ListRetiredResourcesRequest
    ) -> kms_v1.ListRetiredResourcesResponse:
        prefix = names.check("location", request.parent, "parent") + "/retiredResources/"
        with self._store.lock:
            found = [gone.proto() for name, gone in self._store.retired.items() if name.startswith(prefix)]
        chosen, token = page(
            found, size=request.page_size, token=request.page_token, query=("retired", request.parent)
        )
        return kms_v1.ListRetiredResourcesResponse(
            retired_resources=chosen, next_page_token=token, total_size=len(found)
        )

    def get_key_ring(self, request: kms_v1.GetKeyRingRequest) -> kms_v1.KeyRing:
        with self._store.lock:
            return self._store.ring(request.name).proto()

    def get_crypto_key(self, request: kms_v1.GetCryptoKeyRequest) -> kms_v1.CryptoKey:
        with self._store.lock:
            return self._store.key(request.name).proto()

    def get_crypto_key_version(self, request: kms_v1.GetCryptoKeyVersionRequest) -> kms_v1.CryptoKeyVersion:
        with self._store.lock:
            _, version = self._store.version(request.name)
            self._store.observe(version)
            return version.proto()

    def get_import_job(self, request: kms_v1.GetImportJobRequest) -> kms_v1.ImportJob:
        with self._store.lock:
            job = self._store.job(request.name)
            self._store.observe(job)
            return _job_proto(job, enum_name(request, "public_key_format"))

    def get_retired_resource(self, request: kms_v1.GetRetiredResourceRequest) -> kms_v1.RetiredResource:
        with self._store.lock:
            gone = self._store.retired.get(names.check("RetiredResource", request.name))
            if gone is None:
                raise not_found("RetiredResource", request.name)
            return gone.proto()

    def get_operation(self, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        with self._store.lock:
            operation = self._store.operations.get(names.check("Operation", request.name))
        if operation is None:
            raise not_found("Operation", request.name)
        return operations_pb2.Operation.FromString(operation)

    def create_key_ring(self, request: kms_v1.CreateKeyRingRequest) -> kms_v1.KeyRing:
        location = names.check("location", request.parent, "parent")
        name = f"{location}/keyRings/{names.check_id(request.key_ring_id, 'key_ring_id')}"
        with self._store.lock:
            if name in self._store.rings:
                raise already_exists("KeyRing", name)
            ring = self._store.rings[name] = KeyRing(name, self._store.clock.now())
            return ring.proto()

    def create_crypto_key(self, request: kms_v1.CreateCryptoKeyRequest) -> kms_v1.CryptoKey:
        wanted = request.crypto_key
        names.check("KeyRing", request.parent, "parent")
        key_id = names.check_id(request.crypto_key_id, "crypto_key_id")
        _not_trusted_wrapping(request.trusted_wrapping_enabled)
        _refuse_backends(wanted)
        purpose = _purpose(wanted)
        algorithm = _algorithm(
            enum_name(wanted.version_template, "algorithm"), purpose, "crypto_key.version_template.algorithm"
        )
        level = _level(enum_name(wanted.version_template, "protection_level"), algorithm)
        labels = _labels(dict(wanted.labels))
        destroy_after = _destroy_after(wanted)
        if wanted.import_only and not request.skip_initial_version_creation:
            raise invalid(
                "skip_initial_version_creation", "An import_only key must be created without initial version."
            )
        period, next_time = _rotation(wanted)
        with self._store.lock:
            now = self._store.clock.now()
            _check_rotation(purpose, period, next_time, wanted.import_only, now)
            ring = self._store.ring(request.parent, "parent")
            name = f"{ring.name}/cryptoKeys/{key_id}"
            taken = any(gone.original == name for gone in self._store.retired.values())
            if taken or name in self._store.keys:
                raise already_exists("CryptoKey", name)
            key = Key(
                name,
                purpose,
                now,
                algorithm,
                level,
                labels,
                wanted.import_only,
                destroy_after,
                period,
                next_time,
            )
            self._store.keys[name] = key
            if not request.skip_initial_version_creation:
                version = self._store.add_version(key, now)
                self._store.launch(version)
                if purpose == "ENCRYPT_DECRYPT":
                    key.primary = version.number
            return key.proto()

    def create_crypto_key_version(
        self, request: kms_v1.CreateCryptoKeyVersionRequest
    ) -> kms_v1.CryptoKeyVersion:
        wanted = request.crypto_key_version
        names.check("CryptoKey", request.parent, "parent")
        _not_trusted_wrapping(wanted.trusted_wrapping_enabled)
        if "external_protection_level_options" in wanted:
            raise invalid(
                "crypto_key_version.external_protection_level_options",
                "external_protection_level_options are for EXTERNAL keys only.",
            )
        if enum_name(wanted, "state") not in ("CRYPTO_KEY_VERSION_STATE_UNSPECIFIED", "ENABLED"):
            raise invalid("crypto_key_version.state", "A new CryptoKeyVersion can only be ENABLED.")
        with self._store.lock:
            key = self._store.key(request.parent, "parent")
            if key.import_only:
                raise failed_precondition(
                    f"CryptoKey {key.name} accepts imported versions only.", key.name, "IMPORT_ONLY"
                )
            return self._launched(self._store.add_version(key, self._store.clock.now()))

    def create_import_job(self, request: kms_v1.CreateImportJobRequest) -> kms_v1.ImportJob:
        names.check("KeyRing", request.parent, "parent")
        job_id = names.check_id(request.import_job_id, "import_job_id")
        method = enum_name(request.import_job, "import_method")
        if method == "IMPORT_METHOD_UNSPECIFIED":
            raise invalid("import_job.import_method", "import_method is required.")
        if method not in _IMPORT_METHODS:
            raise unimplemented(f"ImportMethod {method} is not emulated.", import_method=method)
        level_name = enum_name(request.import_job, "protection_level")
        if level_name == "PROTECTION_LEVEL_UNSPECIFIED":
            raise invalid("import_job.protection_level", "protection_level is required.")
        level = _emulated_level(level_name)
        with self._store.lock:
            ring = self._store.ring(request.parent, "parent")
            name = f"{ring.name}/importJobs/{job_id}"
            if name in self._store.jobs:
                raise already_exists("ImportJob", name)
            job = ImportJob(
                name,
                method,
                level,
                self._store.clock.now(),
                RsaKey.generate(_IMPORT_METHODS[method][0]),
            )
            self._store.add_job(job)
            reply = _job_proto(job, "PUBLIC_KEY_FORMAT_UNSPECIFIED")
            self._store.launch(job)
            return reply

    def import_crypto_key_version(
        self, request: kms_v1.ImportCryptoKeyVersionRequest
    ) -> kms_v1.CryptoKeyVersion:
        names.check("CryptoKey", request.parent, "parent")
        names.check("ImportJob", request.import_job, "import_job")
        _not_trusted_wrapping(request.trusted_wrapping_enabled)
        if bool(request.wrapped_key) == bool(request.rsa_aes_wrapped_key):
            raise invalid(
                "wrapped_key", "Exactly one of wrapped_key and rsa_aes_wrapped_key must be specified."
            )
        if request.crypto_key_version:
            names.check("CryptoKeyVersion", request.crypto_key_version, "crypto_key_version")
            if names.key_of(request.crypto_key_version) != request.parent:
                raise invalid("crypto_key_version", "crypto_key_version must be a child of parent.")
        if names.ring_of(request.import_job) != names.ring_of(request.parent):
            raise invalid("import_job", "import_job must be in the KeyRing of the CryptoKey.")
        with self._store.lock:
            key = self._store.key(request.parent, "parent")
            if enum_name(request, "algorithm") == "CRYPTO_KEY_VERSION_ALGORITHM_UNSPECIFIED":
                raise invalid("algorithm", "algorithm is required.")
            algorithm = _algorithm(enum_name(request, "algorithm"), key.purpose, "algorithm")
            _level(key.level, algorithm)
            job = self._store.job(request.import_job, "import_job")
            if job.state != "ACTIVE":
                raise failed_precondition(
                    f"ImportJob {job.name} is not active, current state is: {job.state}.",
                    job.name,
                    f"IMPORT_JOB_{job.state}",
                )
            if job.level != key.level:
                raise failed_precondition(
                    f"ImportJob {job.name} has protection level {job.level}, the CryptoKey has {key.level}.",
                    job.name,
                    "PROTECTION_LEVEL_MISMATCH",
                )
            target = self._reimport_target(request.crypto_key_version, algorithm)
        # the search for the primes of the wrapping key may be long: outside the lock
        outcome = _unwrap(job, request.wrapped_key or request.rsa_aes_wrapped_key)
        with self._store.lock:
            return self._launched(self._store.import_version(key, target, algorithm, job, outcome))

    def update_crypto_key(self, request: kms_v1.UpdateCryptoKeyRequest) -> kms_v1.CryptoKey:
        wanted = request.crypto_key
        names.check("CryptoKey", wanted.name, "crypto_key.name")
        paths = _mask(request.update_mask)
        for path in paths:
            if path == "key_access_justifications_policy":
                raise unimplemented("Key Access Justifications are not emulated.", field=path)
            if path not in _UPDATABLE:
                raise invalid("update_mask", f"The field {path} of a CryptoKey cannot be updated.")
        labels = _labels(dict(wanted.labels)) if "labels" in paths else None
        with self._store.lock:
            key = self._store.key(wanted.name, "crypto_key.name")
            algorithm = key.algorithm
            if not paths.isdisjoint({"version_template", "version_template.algorithm"}):
                algorithm = _algorithm(
                    enum_name(wanted.version_template, "algorithm"),
                    key.purpose,
                    "crypto_key.version_template.algorithm",
                )
                level = (
                    enum_name(wanted.version_template, "protection_level")
                    if "version_template" in paths
                    else ""
                )
                if level not in ("", "PROTECTION_LEVEL_UNSPECIFIED", key.level):
                    raise invalid(
                        "crypto_key.version_template.protection_level",
                        "The protection level of a CryptoKey cannot be changed.",
                    )
                _level(key.level, algorithm)
            new_period, new_time = _rotation(wanted)
            period = new_period if "rotation_period" in paths else key.rotation_period
            next_time = new_time if "next_rotation_time" in paths else key.next_rotation_time
            _check_rotation(key.purpose, period, next_time, key.import_only, self._store.clock.now())
            key.algorithm, key.rotation_period, key.next_rotation_time = algorithm, period, next_time
            if labels is not None:
                key.labels = labels
            return key.proto()

    def update_crypto_key_version(
        self, request: kms_v1.UpdateCryptoKeyVersionRequest
    ) -> kms_v1.CryptoKeyVersion:
        wanted = request.crypto_key_version
        names.check("CryptoKeyVersion", wanted.name, "crypto_key_version.name")
        for path in _mask(request.update_mask):
            if path.startswith("external_protection_level_options"):
                raise unimplemented("Keys in an external key manager are not emulated.", field=path)
            if path != "state":
                raise invalid("update_mask", f"The field {path} of a CryptoKeyVersion cannot be updated.")
        state = enum_name(wanted, "state")
        if state not in ("ENABLED", "DISABLED"):
            raise invalid(
                "crypto_key_version.state", "state can only be changed to ENABLED or DISABLED by an update."
            )
        with self._store.lock:
            _, version = self._store.version(wanted.name, "crypto_key_version.name")
            self._require_state(version, "updated", "ENABLED", "DISABLED")
            version.state = "ENABLED" if state == "ENABLED" else "DISABLED"
            return version.proto()

    def update_crypto_key_primary_version(
        self, request: kms_v1.UpdateCryptoKeyPrimaryVersionRequest
    ) -> kms_v1.CryptoKey:
        names.check("CryptoKey", request.name)
        version_name = f"{request.name}/cryptoKeyVersions/{request.crypto_key_version_id}"
        names.check("CryptoKeyVersion", version_name, "crypto_key_version_id")
        with self._store.lock:
            key = self._store.key(request.name)
            if key.purpose != "ENCRYPT_DECRYPT":
                raise failed_precondition(
                    f"CryptoKey {key.name} has purpose {key.purpose}; only ENCRYPT_DECRYPT keys have a "
                    "primary version.",
                    key.name,
                    "KEY_PURPOSE",
                )
            _, version = self._store.version(version_name, "crypto_key_version_id")
            if version.state != "ENABLED":
                raise not_enabled(version.name, version.state)
            key.primary = version.number
            return key.proto()

    def destroy_crypto_key_version(
        self, request: kms_v1.DestroyCryptoKeyVersionRequest
    ) -> kms_v1.CryptoKeyVersion:
        with self._store.lock:
            key, version = self._store.version(request.name)
            self._require_state(version, "destroyed", "ENABLED", "DISABLED")
            version.state = "DESTROY_SCHEDULED"
            version.destroy_time = self._store.clock.now() + key.destroy_after
            _, version = self._store.version(request.name)
            return version.proto()

    def restore_crypto_key_version(
        self, request: kms_v1.RestoreCryptoKeyVersionRequest
    ) -> kms_v1.CryptoKeyVersion:
        with self._store.lock:
            _, version = self._store.version(request.name)
            self._require_state(version, "restored", "DESTROY_SCHEDULED")
            version.state, version.destroy_time = "DISABLED", None
            return version.proto()

    def delete_crypto_key_version(
        self, request: kms_v1.DeleteCryptoKeyVersionRequest
    ) -> operations_pb2.Operation:
        with self._store.lock:
            key, version = self._store.version(request.name)
            self._require_state(version, "deleted", "DESTROYED", "IMPORT_FAILED", "GENERATION_FAILED")
            if version.import_time is not None:
                raise failed_precondition(
                    f"{version.name} was imported and cannot be deleted.", version.name, "KEY_IMPORTED"
                )
            del key.versions[version.number]
            if key.primary == version.number:
                key.primary = None
            return self._done(version.name, kms_v1.DeleteCryptoKeyVersionMetadata())

    def delete_crypto_key(self, request: kms_v1.DeleteCryptoKeyRequest) -> operations_pb2.Operation:
        with self._store.lock:
            key = self._store.key(request.name)
            if key.versions:
                raise failed_precondition(
                    f"CryptoKey {key.name} still has {len(key.versions)} CryptoKeyVersions.",
                    key.name,
                    "KEY_HAS_VERSIONS",
                )
            del self._store.keys[key.name]
            retired_name = f"{names.location_of(key.name)}/retiredResources/{uuid.uuid4()}"
            self._store.retired[retired_name] = RetiredResource(
                retired_name, key.name, self._store.clock.now()
            )
            return self._done(key.name, kms_v1.DeleteCryptoKeyMetadata(retired_resource=retired_name))

    def _launched(self, version: Version) -> kms_v1.CryptoKeyVersion:
        reply = version.proto()
        self._store.launch(version)
        return reply

    def _done(self, name: str, metadata: Any) -> operations_pb2.Operation:
        operation = operations_pb2.Operation(
            name=f"{names.location_of(name)}/operations/{uuid.uuid4()}", done=True
        )
        operation.metadata.Pack(raw(metadata))
        operation.response.Pack(empty_pb2.Empty())
        self._store.operations[operation.name] = operation.SerializeToString()
        return operation

    def _reimport_target(self, name: str, algorithm: Algorithm) -> Version | None:
        if not name:
            return None
        _, version = self._store.version(name, "crypto_key_version")
        if not version.reimport_eligible:
            raise failed_precondition(
                f"{version.name} is not eligible for reimport, current state is: {version.state}.",
                version.name,
                "NOT_REIMPORT_ELIGIBLE",
            )
        if version.algorithm != algorithm:
            raise invalid("algorithm", f"{version.name} has the algorithm {version.algorithm.name}.")
        return version

    @staticmethod
    def _require_state(version: Version, done: str, *states: str) -> None:
        if version.state not in states:
            raise failed_precondition(
                f"{version.name} cannot be {done}, current state is: {version.state}.",
                version.name,
                f"KEY_{version.state}",
            )


def _listed(request: Any, found: Sequence[Any], kind: Any) -> tuple[Sequence[Any], str, int]:
    chosen = select(found, kind, filter_text=request.filter, order_by=request.order_by)
    query = (kind.__name__, request.parent, request.filter, request.order_by)
    part, token = page(chosen, size=request.page_size, token=request.page_token, query=query)
    return part, token, 0 if request.filter else len(found)


def _job_proto(job: ImportJob, wanted_format: str) -> kms_v1.ImportJob:
    if wanted_format not in ("PUBLIC_KEY_FORMAT_UNSPECIFIED", "PEM", "DER"):
        raise invalid("public_key_format", f"{wanted_format} is not a format of an RSA wrapping key.")
    message = job.proto()
    if job.state == "ACTIVE":
        der = job.wrapping_key.public_der()
        message.public_key = (
            kms_v1.ImportJob.WrappingPublicKey(data=der)
            if wanted_format == "DER"
            else kms_v1.ImportJob.WrappingPublicKey(pem=pem_of(der))
        )
    message.public_key_format = cast("Any", wanted_format)  # proto-plus takes the name of an enum value
    return message


def pem_of(der: bytes) -> str:
    """A SubjectPublicKeyInfo as PEM."""
    key = serialization.load_der_public_key(der)
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def _unwrap(job: ImportJob, wrapped: bytes) -> bytes | str:
    bits, hash_name, through_aes = _IMPORT_METHODS[job.method]
    try:
        if not through_aes:
            return job.wrapping_key.oaep_decrypt(wrapped, hash_name)
        size = bits // 8
        ephemeral = job.wrapping_key.oaep_decrypt(wrapped[:size], hash_name)
        if len(ephemeral) != 32:
            return "The ephemeral AES key does not have 32 bytes."
        return SecretKey(ephemeral).unwrap(wrapped[size:], padded=True)
    except DecryptionError:
        return "The wrapped key material could not be unwrapped with the import job's key."


def _mask(mask: Any) -> frozenset[str]:
    paths = frozenset(str(path) for path in mask.paths) if mask is not None else frozenset[str]()
    if not paths:
        raise invalid("update_mask", "update_mask must name at least one field.")
    return paths


def _purpose(wanted: kms_v1.CryptoKey) -> Purpose:
    name = enum_name(wanted, "purpose")
    if name == "CRYPTO_KEY_PURPOSE_UNSPECIFIED":
        raise invalid("crypto_key.purpose", "purpose is required.")
    for purpose in PURPOSES:
        if purpose == name:
            return purpose
    raise unimplemented(f"CryptoKeyPurpose {name} is not emulated.", purpose=name)


def _algorithm(name: str, purpose: Purpose, field: str) -> Algorithm:
    if name == "CRYPTO_KEY_VERSION_ALGORITHM_UNSPECIFIED":
        if purpose != "ENCRYPT_DECRYPT":
            raise invalid(field, f"algorithm is required for keys with purpose {purpose}.")
        name = "GOOGLE_SYMMETRIC_ENCRYPTION"
    algorithm = ALGORITHMS.get(name)
    if algorithm is None:
        why = NOT_EMULATED.get(name, "not in this version of google-cloud-kms")
        raise unimplemented(f"CryptoKeyVersionAlgorithm {name} is not emulated: {why}.", algorithm=name)
    if algorithm.purpose != purpose:
        raise invalid(field, f"The algorithm {name} cannot be used by keys with purpose {purpose}.")
    return algorithm


def _level(name: str, algorithm: Algorithm) -> Level:
    level = _emulated_level("SOFTWARE" if name == "PROTECTION_LEVEL_UNSPECIFIED" else name)
    if algorithm.hsm_only and level != "HSM":
        raise invalid(
            "crypto_key.version_template.protection_level",
            f"The algorithm {algorithm.name} is only supported by the protection level HSM.",
        )
    return level


def _emulated_level(name: str) -> Level:
    for level in LEVELS:
        if level == name:
            return level
    raise unimplemented(f"ProtectionLevel {name} is not emulated.", protection_level=name)


def _labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > MOST_LABELS:
        raise invalid("crypto_key.labels", f"A CryptoKey has at most {MOST_LABELS} labels.")
    for key, value in labels.items():
        good_key = 1 <= len(key) <= 63 and _small_letter(key[0]) and _label_text(key)
        if not good_key or len(value) > 63 or not _label_text(value):
            raise invalid(
                "crypto_key.labels",
                "Label keys have 1 to 63 and values 0 to 63 lower-case letters, digits, _ and -; "
                "a key starts with a letter.",
            )
    return labels


def _label_text(text: str) -> bool:
    return _LABEL_REST.fullmatch(text) is not None and text == text.lower()


def _small_letter(character: str) -> bool:
    return unicodedata.category(character) in ("Ll", "Lo")


def _rotation(wanted: kms_v1.CryptoKey) -> tuple[timedelta | None, datetime | None]:
    message: Any = raw(wanted)
    period, moment = None, None
    try:
        if message.HasField("rotation_period"):
            period = message.rotation_period.ToTimedelta()
        if message.HasField("next_rotation_time"):
            moment = message.next_rotation_time.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise invalid("crypto_key.rotation_period", "The rotation is not a time and a duration.") from None
    return period, moment


def _check_rotation(
    purpose: Purpose,
    period: timedelta | None,
    next_time: datetime | None,
    import_only: bool,
    now: datetime,
) -> None:
    if period is None and next_time is None:
        return
    if purpose != "ENCRYPT_DECRYPT" or import_only:
        raise invalid(
            "crypto_key.rotation_period",
            "Only ENCRYPT_DECRYPT keys that are not import_only rotate automatically.",
        )
    if period is not None and not SHORTEST_ROTATION <= period <= LONGEST_ROTATION:
        raise invalid(
            "crypto_key.rotation_period", "rotation_period must be 24 hours at least and 876,000 at most."
        )
    if next_time is None:
        raise invalid(
            "crypto_key.next_rotation_time", "next_rotation_time must be set when rotation_period is set."
        )
    if next_time <= now:
        raise invalid("crypto_key.next_rotation_time", "next_rotation_time must be in the future.")


def _destroy_after(wanted: kms_v1.CryptoKey) -> timedelta:
    message: Any = raw(wanted)
    if not message.HasField("destroy_scheduled_duration"):
        return DEFAULT_DESTROY_AFTER
    try:
        duration: timedelta = message.destroy_scheduled_duration.ToTimedelta()
    except (ValueError, OverflowError):
        raise invalid(
            "crypto_key.destroy_scheduled_duration", "destroy_scheduled_duration is not a duration."
        ) from None
    shortest = timedelta() if wanted.import_only else SHORTEST_DESTROY_AFTER
    if not shortest <= duration <= LONGEST_DESTROY_AFTER:
        raise invalid(
            "crypto_key.destroy_scheduled_duration",
            "destroy_scheduled_duration must be 24 hours (0 for import_only keys) to 120 days.",
        )
    return duration


def _refuse_backends(wanted: kms_v1.CryptoKey) -> None:
    if "key_access_justifications_policy" in wanted:
        raise unimplemented(
            "Key Access Justifications are not emulated.", field="key_access_justifications_policy"
        )
    level = enum_name(wanted.version_template, "protection_level")
    if wanted.crypto_key_backend and level in ("PROTECTION_LEVEL_UNSPECIFIED", "SOFTWARE", "HSM"):
        raise invalid(
            "crypto_key.crypto_key_backend",
            "crypto_key_backend is for EXTERNAL_VPC and HSM_SINGLE_TENANT keys only.",
        )


def _not_trusted_wrapping(enabled: bool) -> None:
    if enabled:
        raise invalid(
            "trusted_wrapping_enabled", "trusted_wrapping_enabled is for HSM_SINGLE_TENANT keys only."
        )
