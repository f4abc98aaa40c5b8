"""What Cloud KMS answers: one row per fact, each with the public source that it was read from.

A row is data: steps that lead up to a request, the request, and the reply or the error that Cloud KMS gives.
In any text `{name[member]}` stands for a member of an earlier step's reply, `Of` for one that is not text;
`{ring}` is a key ring of the row's own, `{location}` its location.

Sources: `replay` is a file of google/go-cloud's secrets/gcpkms/testdata (Apache-2.0), recorded against
Cloud KMS on 2026-03-19; `fakekms` is a test of fakekms/contract in GoogleCloudPlatform/kms-integrations
(Apache-2.0), which Google runs against Cloud KMS itself; `api` is a message, field or RPC whose documentation
in google-cloud-kms 3.18 says so; `guide` is a page of the Cloud KMS documentation; `seen` is a public report
with Cloud KMS' own output; `rfc` is the standard that the documentation names. The sentence about a version
that is not enabled is that of `GCLOUD_OUTPUT`, the sentence about a checksum that of the guide's
"data-integrity-guidelines", whatever the source of the rest of the row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import google_crc32c
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

Saved: TypeAlias = dict[str, Any]
Request: TypeAlias = Mapping[str, Any]
Step: TypeAlias = tuple[str, str, Request]


@dataclass(frozen=True)
class Of:
    """A member of an earlier reply."""

    step: str
    member: str


@dataclass(frozen=True)
class Make:
    """A value computed from the earlier replies: the client's own cryptography."""

    how: Callable[[Saved], Any]


@dataclass(frozen=True)
class Case:
    """One fact. Exactly one of `reply` and `error`.

    reply: every member of the reply that is set and no other: its value, its type where it varies, or the
    number of its bytes. With `within`, only these members of that member. error: the status code and the
    message, None when no public source has the words. detail: the type of a google.rpc detail and members
    of it.
    """

    name: str
    source: str
    operation: str
    request: Request
    given: tuple[Step, ...] = ()
    reply: Mapping[str, Any] | None = None
    error: tuple[str, str | None] | None = None
    detail: tuple[str, Mapping[str, Any]] | None = None
    within: str | None = None


SECRET: Final = b"I'm a secret message!"
KEY: Final = "{ring}/cryptoKeys/key"
VERSION: Final = f"{KEY}/cryptoKeyVersions/1"
OTHER: Final = "{ring}/cryptoKeys/other"
MISSING: Final = "{ring}/cryptoKeys/missing"
INVALID: Final = ("INVALID_ARGUMENT", None)
PRECONDITION: Final = ("FAILED_PRECONDITION", None)
UNIMPLEMENTED: Final = ("UNIMPLEMENTED", None)
MALFORMED: Final = ("INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.")
NOT_DECRYPTED: Final = ("INVALID_ARGUMENT", "Decryption failed.")
WRONG_KEY: Final = (
    "INVALID_ARGUMENT",
    "Decryption failed: verify that 'name' refers to the correct CryptoKey.",
)
THIRTY_DAYS: Final = timedelta(days=30)
NOT_FOUND_LOG: Final = (
    "seen GoogleCloudPlatform/k8s-config-connector pkg/test/resourcefixture/testdata/basic/kms/**/_http.log"
)
GCLOUD_OUTPUT: Final = "seen gcloud kms output of encrypt and decrypt, as runbooks quote it"
FOUR_KIB: Final = b"m" * 4096


def replay(name: str) -> str:
    return f"replay gcpkms-{name}.replay"


def fakekms(test: str) -> str:
    return f"fakekms {test}"


def api(place: str) -> str:
    return f"api {place}"


def guide(page: str) -> str:
    return f"guide https://docs.cloud.google.com/kms/docs/{page}"


def checksum_refused(field: str) -> tuple[str, str]:
    return (
        "INVALID_ARGUMENT",
        f"The checksum in field {field}_crc32c did not match the data in field {field}.",
    )


def not_enabled(state: str, name: str = VERSION) -> tuple[str, str]:
    return "FAILED_PRECONDITION", f"{name} is not enabled, current state is: {state}."


def crc32c(data: bytes) -> int:
    checksum: Any = google_crc32c
    return int(checksum.value(data))


def key(
    purpose: str = "ENCRYPT_DECRYPT",
    algorithm: str | None = None,
    level: str | None = None,
    name: str = "key",
    skip: bool = False,
    **more: Any,
) -> Step:
    template = {"algorithm": algorithm, "protection_level": level}
    wanted = {
        "purpose": purpose,
        "version_template": {member: value for member, value in template.items() if value},
    }
    request: dict[str, Any] = {"parent": "{ring}", "crypto_key_id": name, "crypto_key": wanted | more}
    if skip:
        request["skip_initial_version_creation"] = True
    return name, "create_crypto_key", request


def created(step: Step) -> dict[str, Any]:
    """The operation and the request of a `key` step, for a row about the creation itself."""
    return {"operation": step[1], "request": step[2]}


def state(wanted: str, name: str = VERSION) -> Step:
    return (
        "_",
        "update_crypto_key_version",
        {"crypto_key_version": {"name": name, "state": wanted}, "update_mask": {"paths": ["state"]}},
    )


def destroy(name: str = VERSION) -> Step:
    return "destroyed", "destroy_crypto_key_version", {"name": name}


def later(**by: float) -> Step:
    return "_", "advance", {"by": timedelta(**by)}


def add_version(name: str = "second") -> Step:
    return name, "create_crypto_key_version", {"parent": KEY}


DISABLED: Final = state("DISABLED")
DESTROYED: Final = (destroy(), later(days=30))
SIGNER: Final = key("ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256")
SIGNER_384: Final = key("ASYMMETRIC_SIGN", "EC_SIGN_P384_SHA384")
RAW_RSA: Final = key("ASYMMETRIC_SIGN", "RSA_SIGN_RAW_PKCS1_2048")
ED25519: Final = key("ASYMMETRIC_SIGN", "EC_SIGN_ED25519")
DECRYPTER: Final = key("ASYMMETRIC_DECRYPT", "RSA_DECRYPT_OAEP_2048_SHA256")
MAC: Final = key("MAC", "HMAC_SHA256", "HSM")
SOFTWARE_MAC: Final = key("MAC", "HMAC_SHA256")
GCM: Final = key("RAW_ENCRYPT_DECRYPT", "AES_256_GCM", "HSM")
CBC: Final = key("RAW_ENCRYPT_DECRYPT", "AES_128_CBC")
CTR: Final = key("RAW_ENCRYPT_DECRYPT", "AES_256_CTR")
ML_DSA: Final = key("ASYMMETRIC_SIGN", "PQ_SIGN_ML_DSA_65")
ML_DSA_MU: Final = key("ASYMMETRIC_SIGN", "PQ_SIGN_ML_DSA_65_EXTERNAL_MU")
ML_KEM: Final = key("KEY_ENCAPSULATION", "ML_KEM_768")
SEALED: Final = ("sealed", "encrypt", {"name": KEY, "plaintext": SECRET})
SEALED_AAD: Final = (
    "sealed", "encrypt", {"name": KEY, "plaintext": b"a secret", "additional_authenticated_data": b"sample AAD"},
)  # fmt: skip
RAW_SEALED: Final = (
    "sealed",
    "raw_encrypt",
    {"name": VERSION, "plaintext": b"Here is some data to encrypt", "additional_authenticated_data": b"aad"},
)
TAGGED: Final = ("tagged", "mac_sign", {"name": VERSION, "data": b"Here is some data to authenticate"})
PUBLIC: Final = ("public", "get_public_key", {"name": VERSION})
SHA256_DIGEST: Final = hashlib.sha256(b"here is some data").digest()


def _changed(change: Callable[[bytes], bytes]) -> Make:
    return Make(lambda saved: change(saved["sealed"]["ciphertext"]))


def _oaep(saved: Saved, plaintext: bytes, hash_name: hashes.HashAlgorithm) -> bytes:
    public = serialization.load_pem_public_key(saved["public"]["pem"].encode())
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(plaintext, padding.OAEP(padding.MGF1(hash_name), hash_name, None))


QUICK: Final = b"the quick brown fox jumped over the lazy dog"
QUICK_SEALED: Final = Make(lambda saved: _oaep(saved, QUICK, hashes.SHA256()))


def job(method: str = "RSA_OAEP_3072_SHA256_AES_256", level: str = "SOFTWARE") -> Step:
    wanted = {"import_method": method, "protection_level": level}
    return "job", "create_import_job", {"parent": "{ring}", "import_job_id": "job", "import_job": wanted}


GET_JOB: Final = ("ready", "get_import_job", {"name": "{ring}/importJobs/job"})
MATERIAL: Final = bytes(range(32))
IMPORTED_EC: Final = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


def _wrapped(material: bytes, hash_name: hashes.HashAlgorithm, *, through_aes: bool) -> Make:
    """PKCS #11's CKM_RSA_AES_KEY_WRAP, or RSAES-OAEP alone."""

    def how(saved: Saved) -> bytes:
        public = serialization.load_pem_public_key(saved["ready"]["public_key"]["pem"].encode())
        assert isinstance(public, rsa.RSAPublicKey)
        scheme = padding.OAEP(padding.MGF1(hash_name), hash_name, None)
        if not through_aes:
            return public.encrypt(material, scheme)
        ephemeral = b"e" * 32
        return public.encrypt(ephemeral, scheme) + keywrap.aes_key_wrap_with_padding(ephemeral, material)

    return Make(how)


WRAPPED: Final = _wrapped(MATERIAL, hashes.SHA256(), through_aes=True)


def importing(
    wrapped: Any = WRAPPED,
    algorithm: str = "GOOGLE_SYMMETRIC_ENCRYPTION",
    name: str = "imported",
    **more: Any,
) -> Step:
    request = {"parent": KEY, "algorithm": algorithm, "import_job": "{ring}/importJobs/job"}
    return name, "import_crypto_key_version", request | {"wrapped_key": wrapped} | more


IMPORT_ONLY: Final = key(skip=True, import_only=True)
TO_IMPORT: Final = (IMPORT_ONLY, job(), GET_JOB)
VERSION_REPLY: Final[Mapping[str, Any]] = {
    "name": VERSION,
    "state": "ENABLED",
    "protection_level": "SOFTWARE",
    "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
    "create_time": datetime,
    "generate_time": datetime,
}
KEY_REPLY: Final[Mapping[str, Any]] = {
    "name": KEY,
    "purpose": "ENCRYPT_DECRYPT",
    "create_time": datetime,
    "version_template": {"protection_level": "SOFTWARE", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"},
    "destroy_scheduled_duration": THIRTY_DAYS,
}


def listed(**more: Any) -> dict[str, Any]:
    return {"operation": "list_crypto_keys", "request": {"parent": "{ring}", **more}}


THREE_KEYS: Final = (
    key(labels={"team": "alpha"}),
    key(name="other", labels={"team": "beta"}),
    key("MAC", "HMAC_SHA256", "HSM", name="third"),
)


def updated(paths: list[str], **members: Any) -> dict[str, Any]:
    return {
        "operation": "update_crypto_key",
        "request": {"crypto_key": {"name": KEY, **members}, "update_mask": {"paths": paths}},
    }


def signed(**more: Any) -> dict[str, Any]:
    return {"operation": "asymmetric_sign", "request": {"name": VERSION, **more}}


FAR: Final = datetime(2090, 1, 1, tzinfo=UTC)
DIGEST_ONLY: Final = {"digest": {"sha256": SHA256_DIGEST}}

CASES: Final[tuple[Case, ...]] = (
    Case(
        "encrypt names the version and gives the checksum",
        replay("TestEncryptDecrypt"),
        "encrypt",
        {"name": KEY, "plaintext": SECRET},
        given=(key(),),
        reply={
            "name": VERSION,
            "ciphertext": bytes,
            "ciphertext_crc32c": Make(lambda saved: crc32c(saved["reply"]["ciphertext"])),
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "decrypt gives the checksum that was recorded",
        replay("TestEncryptDecrypt"),
        "decrypt",
        {"name": KEY, "ciphertext": Of("sealed", "ciphertext")},
        given=(key(), SEALED),
        reply={
            "plaintext": SECRET,
            "plaintext_crc32c": 4279218760,
            "used_primary": True,
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "decrypt with the same additional data",
        replay("TestAdditionalAuthenticatedData"),
        "decrypt",
        {
            "name": KEY,
            "ciphertext": Of("sealed", "ciphertext"),
            "additional_authenticated_data": b"sample AAD",
        },
        given=(key(), SEALED_AAD),
        reply={
            "plaintext": b"a secret",
            "plaintext_crc32c": 140104572,
            "used_primary": True,
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "decrypt with other additional data",
        replay("TestAdditionalAuthenticatedData"),
        "decrypt",
        {
            "name": KEY,
            "ciphertext": Of("sealed", "ciphertext"),
            "additional_authenticated_data": b"different AAD",
        },
        given=(key(), SEALED_AAD),
        error=NOT_DECRYPTED,
        detail=("DebugInfo", {}),
    ),
    Case(
        "decrypt with the first byte changed",
        replay("TestDecryptMalformedError"),
        "decrypt",
        {"name": KEY, "ciphertext": _changed(lambda c: bytes([c[0] ^ 1]) + c[1:])},
        given=(key(), SEALED),
        error=MALFORMED,
        detail=("DebugInfo", {"detail": "client_ciphertext.ParseFromString()"}),
    ),
    Case(
        "decrypt with the second byte left out",
        replay("TestDecryptMalformedError"),
        "decrypt",
        {"name": KEY, "ciphertext": _changed(lambda c: c[:1] + c[2:])},
        given=(key(), SEALED),
        error=MALFORMED,
    ),
    Case(
        "decrypt with the last two bytes replaced by one",
        replay("TestDecryptMalformedError"),
        "decrypt",
        {"name": KEY, "ciphertext": _changed(lambda c: c[:-2] + b"\x05")},
        given=(key(), SEALED),
        error=MALFORMED,
    ),
    Case(
        "a second key makes its own ciphertexts",
        replay("TestMultipleKeys"),
        "decrypt",
        {"name": OTHER, "ciphertext": Of("elsewhere", "ciphertext")},
        given=(
            key(),
            key(name="other"),
            SEALED,
            ("elsewhere", "encrypt", {"name": OTHER, "plaintext": SECRET}),
        ),
        reply={
            "plaintext": SECRET,
            "plaintext_crc32c": 4279218760,
            "used_primary": True,
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "decrypt with another key",
        "seen https://github.com/googleapis/nodejs-kms/issues/145",
        "decrypt",
        {"name": OTHER, "ciphertext": Of("sealed", "ciphertext")},
        given=(key(), key(name="other"), SEALED),
        error=WRONG_KEY,
    ),
    Case(
        "asymmetric decrypt of something else",
        "seen https://github.com/googleapis/nodejs-kms/issues/421",
        "asymmetric_decrypt",
        {"name": VERSION, "ciphertext": b"someciphertext"},
        given=(DECRYPTER,),
        error=NOT_DECRYPTED,
    ),
    Case(
        "encrypt with a disabled primary",
        GCLOUD_OUTPUT,
        "encrypt",
        {"name": KEY, "plaintext": SECRET},
        given=(key(), DISABLED),
        error=not_enabled("DISABLED"),
        detail=("PreconditionFailure", {"violations": [{"type": "KEY_DISABLED", "subject": VERSION}]}),
    ),
    Case(
        "decrypt with a version that is scheduled for destruction",
        GCLOUD_OUTPUT,
        "decrypt",
        {"name": KEY, "ciphertext": Of("sealed", "ciphertext")},
        given=(key(), SEALED, destroy()),
        error=not_enabled("DESTROY_SCHEDULED"),
        detail=(
            "PreconditionFailure",
            {"violations": [{"type": "KEY_DESTROY_SCHEDULED", "subject": VERSION}]},
        ),
    ),
    Case(
        "decrypt with a destroyed version",
        guide("key-states") + " and seen https://github.com/sethvargo/vault-on-gke/issues/56",
        "decrypt",
        {"name": KEY, "ciphertext": Of("sealed", "ciphertext")},
        given=(key(), SEALED, *DESTROYED),
        error=not_enabled("DESTROYED"),
    ),
    Case(
        "get a missing key",
        NOT_FOUND_LOG,
        "get_crypto_key",
        {"name": MISSING},
        error=("NOT_FOUND", f"CryptoKey {MISSING} not found."),
    ),
    Case(
        "get a missing key ring",
        NOT_FOUND_LOG,
        "get_key_ring",
        {"name": "{location}/keyRings/missing"},
        error=("NOT_FOUND", "KeyRing {location}/keyRings/missing not found."),
    ),
    Case(
        "encrypt refuses a wrong plaintext checksum",
        guide("data-integrity-guidelines"),
        "encrypt",
        {"name": KEY, "plaintext": SECRET, "plaintext_crc32c": 1},
        given=(key(),),
        error=checksum_refused("plaintext"),
    ),
    Case(
        "encrypt refuses a wrong checksum of the additional data",
        guide("data-integrity-guidelines"),
        "encrypt",
        {
            "name": KEY,
            "plaintext": SECRET,
            "additional_authenticated_data": b"a",
            "additional_authenticated_data_crc32c": 0,
        },
        given=(key(),),
        error=checksum_refused("additional_authenticated_data"),
    ),
    Case(
        "decrypt refuses a wrong ciphertext checksum",
        guide("data-integrity-guidelines"),
        "decrypt",
        {"name": KEY, "ciphertext": Of("sealed", "ciphertext"), "ciphertext_crc32c": 0},
        given=(key(), SEALED),
        error=checksum_refused("ciphertext"),
    ),
    Case(
        "encrypt says which checksums it has verified",
        api("EncryptResponse.verified_plaintext_crc32c"),
        "encrypt",
        {
            "name": KEY,
            "plaintext": SECRET,
            "plaintext_crc32c": 4279218760,
            "additional_authenticated_data_crc32c": 0,
        },
        given=(key(),),
        reply={
            "name": VERSION,
            "ciphertext": bytes,
            "ciphertext_crc32c": int,
            "verified_plaintext_crc32c": True,
            "verified_additional_authenticated_data_crc32c": True,
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "asymmetric sign refuses a wrong digest checksum",
        api("AsymmetricSignRequest.digest_crc32c"),
        **signed(**DIGEST_ONLY, digest_crc32c=0),
        given=(SIGNER,),
        error=checksum_refused("digest"),
    ),
    Case(
        "asymmetric sign refuses a wrong data checksum",
        api("AsymmetricSignRequest.data_crc32c"),
        **signed(data=b"message", data_crc32c=0),
        given=(SIGNER,),
        error=checksum_refused("data"),
    ),
    Case(
        "mac sign refuses a wrong data checksum",
        api("MacSignRequest.data_crc32c"),
        "mac_sign",
        {"name": VERSION, "data": b"message", "data_crc32c": 0},
        given=(MAC,),
        error=checksum_refused("data"),
    ),
    Case(
        "mac verify refuses a wrong checksum of the tag",
        api("MacVerifyRequest.mac_crc32c"),
        "mac_verify",
        {"name": VERSION, "data": b"message", "mac": b"t" * 32, "mac_crc32c": 0},
        given=(MAC,),
        error=checksum_refused("mac"),
    ),
    Case(
        "decapsulate refuses a wrong ciphertext checksum",
        api("DecapsulateRequest.ciphertext_crc32c"),
        "decapsulate",
        {"name": VERSION, "ciphertext": b"c" * 1088, "ciphertext_crc32c": 0},
        given=(ML_KEM,),
        error=checksum_refused("ciphertext"),
    ),
    Case(
        "asymmetric decrypt refuses a wrong ciphertext checksum",
        fakekms("TestAsymmetricDecryptInvalidCiphertextChecksum"),
        "asymmetric_decrypt",
        {"name": VERSION, "ciphertext": b"ciphertext", "ciphertext_crc32c": crc32c(b"cosmicray")},
        given=(DECRYPTER,),
        error=checksum_refused("ciphertext"),
    ),
    Case(
        "software keys encrypt 64 KiB with 64 KiB of additional data",
        api("EncryptRequest.plaintext"),
        "encrypt",
        {"name": KEY, "plaintext": b"p" * 65536, "additional_authenticated_data": b"a" * 65536},
        given=(key(),),
        reply={
            "name": VERSION,
            "ciphertext": bytes,
            "ciphertext_crc32c": int,
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "software keys do not encrypt more",
        api("EncryptRequest.plaintext"),
        "encrypt",
        {"name": KEY, "plaintext": b"p" * 65537},
        given=(key(),),
        error=INVALID,
    ),
    Case(
        "additional data is not longer than 64 KiB",
        api("EncryptRequest.additional_authenticated_data"),
        "encrypt",
        {"name": KEY, "plaintext": b"p", "additional_authenticated_data": b"a" * 65537},
        given=(key(),),
        error=INVALID,
    ),
    Case(
        "HSM keys encrypt 8 KiB together with the additional data",
        api("EncryptRequest.additional_authenticated_data"),
        "encrypt",
        {"name": KEY, "plaintext": FOUR_KIB, "additional_authenticated_data": FOUR_KIB},
        given=(key(level="HSM"),),
        reply={"name": VERSION, "ciphertext": bytes, "ciphertext_crc32c": int, "protection_level": "HSM"},
    ),
    Case(
        "HSM keys do not encrypt more",
        api("EncryptRequest.additional_authenticated_data"),
        "encrypt",
        {"name": KEY, "plaintext": FOUR_KIB, "additional_authenticated_data": FOUR_KIB + b"a"},
        given=(key(level="HSM"),),
        error=INVALID,
    ),
    Case(
        "HSM keys make tags of 16 KiB at most",
        guide("create-validate-mac"),
        "mac_sign",
        {"name": VERSION, "data": b"m" * 16385},
        given=(MAC,),
        error=INVALID,
    ),
    Case(
        "software keys make tags of 64 KiB at most",
        guide("create-validate-mac"),
        "mac_sign",
        {"name": VERSION, "data": b"m" * 65537},
        given=(SOFTWARE_MAC,),
        error=INVALID,
    ),
    Case(
        "encrypt with a named version",
        api("EncryptRequest.name"),
        "encrypt",
        {"name": f"{KEY}/cryptoKeyVersions/2", "plaintext": SECRET},
        given=(key(), add_version()),
        reply={
            "name": f"{KEY}/cryptoKeyVersions/2",
            "ciphertext": bytes,
            "ciphertext_crc32c": int,
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "decrypt takes no version name",
        api("DecryptRequest.name"),
        "decrypt",
        {"name": VERSION, "ciphertext": Of("sealed", "ciphertext")},
        given=(key(), SEALED),
        error=INVALID,
    ),
    Case(
        "decrypt finds the old version after a new primary",
        api("DecryptResponse.used_primary"),
        "decrypt",
        {"name": KEY, "ciphertext": Of("sealed", "ciphertext")},
        given=(
            key(),
            SEALED,
            add_version(),
            ("_", "update_crypto_key_primary_version", {"name": KEY, "crypto_key_version_id": "2"}),
        ),
        reply={"plaintext": SECRET, "plaintext_crc32c": 4279218760, "protection_level": "SOFTWARE"},
    ),
    Case(
        "encrypt with a key of another purpose",
        api("KeyManagementService.Encrypt"),
        "encrypt",
        {"name": KEY, "plaintext": SECRET},
        given=(SIGNER,),
        error=PRECONDITION,
    ),
    Case(
        "encrypt with a missing key",
        NOT_FOUND_LOG,
        "encrypt",
        {"name": MISSING, "plaintext": SECRET},
        error=("NOT_FOUND", f"CryptoKey {MISSING} not found."),
    ),
    Case(
        "raw encrypt makes its own iv and a tag of 16 bytes",
        fakekms("TestRawEncryptDecrypt"),
        "raw_encrypt",
        {"name": VERSION, "plaintext": b"p" * 48, "plaintext_crc32c": crc32c(b"p" * 48)},
        given=(GCM,),
        reply={
            "name": VERSION,
            "ciphertext": 64,
            "initialization_vector": 12,
            "tag_length": 16,
            "ciphertext_crc32c": int,
            "initialization_vector_crc32c": int,
            "verified_plaintext_crc32c": True,
            "protection_level": "HSM",
        },
    ),
    Case(
        "raw decrypt without checksums",
        fakekms("TestRawEncryptDecryptWithoutChecksums"),
        "raw_decrypt",
        {
            "name": VERSION,
            "ciphertext": Of("sealed", "ciphertext"),
            "initialization_vector": Of("sealed", "initialization_vector"),
            "additional_authenticated_data": b"aad",
        },
        given=(GCM, RAW_SEALED),
        reply={
            "plaintext": b"Here is some data to encrypt",
            "plaintext_crc32c": crc32c(b"Here is some data to encrypt"),
            "protection_level": "HSM",
        },
    ),
    Case(
        "raw decrypt says which checksums it has verified",
        fakekms("TestRawEncryptDecrypt"),
        "raw_decrypt",
        {
            "name": VERSION,
            "ciphertext": Of("sealed", "ciphertext"),
            "ciphertext_crc32c": Of("sealed", "ciphertext_crc32c"),
            "initialization_vector": Of("sealed", "initialization_vector"),
            "initialization_vector_crc32c": Of("sealed", "initialization_vector_crc32c"),
            "additional_authenticated_data": b"aad",
        },
        given=(GCM, RAW_SEALED),
        reply={
            "plaintext": b"Here is some data to encrypt",
            "plaintext_crc32c": int,
            "verified_ciphertext_crc32c": True,
            "verified_initialization_vector_crc32c": True,
            "protection_level": "HSM",
        },
    ),
    Case(
        "raw decrypt with other additional data",
        api("RawDecryptRequest.additional_authenticated_data"),
        "raw_decrypt",
        {
            "name": VERSION,
            "ciphertext": Of("sealed", "ciphertext"),
            "initialization_vector": Of("sealed", "initialization_vector"),
        },
        given=(GCM, RAW_SEALED),
        error=INVALID,
    ),
    Case(
        "raw encrypt of a missing version",
        fakekms("TestRawEncryptNotFound"),
        "raw_encrypt",
        {"name": f"{MISSING}/cryptoKeyVersions/1"},
        error=("NOT_FOUND", None),
    ),
    Case(
        "raw decrypt of a missing version",
        fakekms("TestRawDecryptNotFound"),
        "raw_decrypt",
        {"name": f"{MISSING}/cryptoKeyVersions/1", "ciphertext": b"testdata", "initialization_vector": b"iv"},
        error=("NOT_FOUND", None),
    ),
    Case(
        "raw encrypt with a key of another purpose",
        fakekms("TestRawEncryptWrongPurpose"),
        "raw_encrypt",
        {"name": VERSION, "plaintext": b"testdata"},
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "raw decrypt with a key of another purpose",
        fakekms("TestRawDecryptWrongPurpose"),
        "raw_decrypt",
        {"name": VERSION, "ciphertext": b"testdata", "initialization_vector": b"iv"},
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "raw encrypt looks at the state before the arguments",
        fakekms("TestRawEncryptKeyDisabled"),
        "raw_encrypt",
        {"name": VERSION},
        given=(GCM, DISABLED),
        error=not_enabled("DISABLED"),
    ),
    Case(
        "raw decrypt with a disabled version",
        fakekms("TestRawDecryptKeyDisabled"),
        "raw_decrypt",
        {"name": VERSION, "ciphertext": b"testdata", "initialization_vector": b"iv"},
        given=(GCM, DISABLED),
        error=not_enabled("DISABLED"),
    ),
    Case(
        "raw encrypt refuses a wrong plaintext checksum",
        fakekms("TestRawEncryptInvalidPlaintextChecksum"),
        "raw_encrypt",
        {"name": VERSION, "plaintext": b"testdata", "plaintext_crc32c": crc32c(b"cosmicray")},
        given=(GCM,),
        error=checksum_refused("plaintext"),
    ),
    Case(
        "raw encrypt refuses a wrong checksum of the additional data",
        fakekms("TestRawEncryptInvalidAadChecksum"),
        "raw_encrypt",
        {
            "name": VERSION,
            "plaintext": b"testdata",
            "additional_authenticated_data": b"aad",
            "additional_authenticated_data_crc32c": crc32c(b"cosmicray"),
        },
        given=(GCM,),
        error=checksum_refused("additional_authenticated_data"),
    ),
    Case(
        "raw decrypt refuses a wrong ciphertext checksum",
        fakekms("TestRawDecryptInvalidCiphertextChecksum"),
        "raw_decrypt",
        {
            "name": VERSION,
            "ciphertext": b"testdata",
            "ciphertext_crc32c": crc32c(b"cosmicray"),
            "initialization_vector": b"iv",
        },
        given=(GCM,),
        error=checksum_refused("ciphertext"),
    ),
    Case(
        "raw decrypt refuses a wrong checksum of the iv",
        fakekms("TestRawDecryptInvalidIvChecksum"),
        "raw_decrypt",
        {
            "name": VERSION,
            "ciphertext": b"testdata",
            "initialization_vector": b"iv",
            "initialization_vector_crc32c": crc32c(b"cosmicray"),
        },
        given=(GCM,),
        error=checksum_refused("initialization_vector"),
    ),
    Case(
        "AES-GCM takes no iv from the caller",
        fakekms("TestRawEncryptAesGcmCustomIvFails"),
        "raw_encrypt",
        {"name": VERSION, "plaintext": b"testdata", "initialization_vector": b"my_custom_iv_123"},
        given=(GCM,),
        error=INVALID,
    ),
    Case(
        "AES-CBC takes an iv of 16 bytes only",
        fakekms("TestRawEncryptAesCbcCtrInvalidIvLength (commented out there)"),
        "raw_encrypt",
        {"name": VERSION, "plaintext": b"p" * 16, "initialization_vector": b"this_is_not_16_bytes"},
        given=(CBC,),
        error=INVALID,
    ),
    Case(
        "AES-CBC takes no additional data",
        fakekms("TestRawEncryptAesCbcCtrAadSpecifiedFails (commented out there)"),
        "raw_encrypt",
        {
            "name": VERSION,
            "plaintext": b"p" * 16,
            "initialization_vector": b"my_custom_iv_123",
            "additional_authenticated_data": b"aad",
        },
        given=(CBC,),
        error=INVALID,
    ),
    Case(
        "AES-CTR takes no additional data",
        fakekms("TestRawDecryptAesCbcCtrAadSpecifiedFails (commented out there)"),
        "raw_decrypt",
        {
            "name": VERSION,
            "ciphertext": b"testdata",
            "initialization_vector": b"my_custom_iv_123",
            "additional_authenticated_data": b"aad",
        },
        given=(CTR,),
        error=INVALID,
    ),
    Case(
        "AES-CBC encrypts whole blocks only",
        guide("raw-encryption"),
        "raw_encrypt",
        {"name": VERSION, "plaintext": b"p" * 28},
        given=(CBC,),
        error=INVALID,
    ),
    Case(
        "AES-CTR takes the caller's iv",
        api("RawEncryptRequest.initialization_vector"),
        "raw_encrypt",
        {"name": VERSION, "plaintext": b"p" * 28, "initialization_vector": b"my_custom_iv_123"},
        given=(CTR,),
        reply={
            "name": VERSION,
            "ciphertext": 28,
            "initialization_vector": b"my_custom_iv_123",
            "ciphertext_crc32c": int,
            "initialization_vector_crc32c": crc32c(b"my_custom_iv_123"),
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "asymmetric sign of a digest",
        fakekms("TestECSign"),
        **signed(digest={"sha384": hashlib.sha384(b"data").digest()}),
        given=(key("ASYMMETRIC_SIGN", "EC_SIGN_P384_SHA384", "HSM"),),
        reply={"name": VERSION, "signature": bytes, "signature_crc32c": int, "protection_level": "HSM"},
    ),
    Case(
        "asymmetric sign of data",
        fakekms("TestECSignData"),
        **signed(data=b"data", data_crc32c=crc32c(b"data")),
        given=(SIGNER_384,),
        reply={
            "name": VERSION,
            "signature": bytes,
            "signature_crc32c": int,
            "verified_data_crc32c": True,
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "raw PKCS #1 signs data",
        fakekms("TestRSASignRawPKCS1"),
        **signed(data=b"Here is some data to authenticate"),
        given=(RAW_RSA,),
        reply={"name": VERSION, "signature": 256, "signature_crc32c": int, "protection_level": "SOFTWARE"},
    ),
    Case(
        "raw PKCS #1 takes no digest",
        fakekms("TestRawAsymmetricSignDigestInvalid"),
        **signed(**DIGEST_ONLY),
        given=(RAW_RSA,),
        error=INVALID,
    ),
    Case(
        "raw PKCS #1 data leaves room for the padding",
        "rfc RFC 8017 section 9.2",
        **signed(data=b"d" * 246),
        given=(RAW_RSA,),
        error=INVALID,
    ),
    Case(
        "asymmetric sign with a malformed name",
        fakekms("TestAsymmetricSignMalformedName"),
        "asymmetric_sign",
        {"name": "malformed name"},
        error=INVALID,
    ),
    Case(
        "asymmetric sign with a key name, which is no version name",
        api("AsymmetricSignRequest.name"),
        "asymmetric_sign",
        {"name": KEY, **DIGEST_ONLY},
        given=(SIGNER,),
        error=INVALID,
    ),
    Case(
        "asymmetric sign with the digest of another hash",
        fakekms("TestAsymmetricSignWrongDigest"),
        **signed(**DIGEST_ONLY),
        given=(SIGNER_384,),
        error=INVALID,
    ),
    Case(
        "asymmetric sign with a digest of another length",
        fakekms("TestAsymmetricSignIncorrectDigestLength"),
        **signed(digest={"sha384": SHA256_DIGEST}),
        given=(SIGNER_384,),
        error=INVALID,
    ),
    Case(
        "asymmetric sign with both digest and data",
        fakekms("TestAsymmetricSignBothDigestAndData"),
        **signed(**DIGEST_ONLY, data=b"here is some data"),
        given=(SIGNER,),
        error=INVALID,
    ),
    Case(
        "asymmetric sign with a missing version",
        fakekms("TestAsymmetricSignNotFound"),
        "asymmetric_sign",
        {"name": f"{MISSING}/cryptoKeyVersions/1"},
        error=("NOT_FOUND", None),
    ),
    Case(
        "asymmetric sign with a key of another purpose",
        fakekms("TestAsymmetricSignWrongPurpose"),
        **signed(**DIGEST_ONLY),
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "asymmetric sign with a disabled version",
        fakekms("TestAsymmetricSignDisabled"),
        **signed(),
        given=(SIGNER, DISABLED),
        error=not_enabled("DISABLED"),
    ),
    Case(
        "Ed25519 takes data only",
        api("CryptoKeyVersionAlgorithm.EC_SIGN_ED25519"),
        **signed(digest={"sha512": b"d" * 64}),
        given=(ED25519,),
        error=INVALID,
    ),
    Case(
        "Ed25519 signatures have 64 bytes",
        "rfc RFC 8032 section 5.1.6",
        **signed(data=b"message"),
        given=(ED25519,),
        reply={"name": VERSION, "signature": 64, "signature_crc32c": int, "protection_level": "SOFTWARE"},
    ),
    Case(
        "ML-DSA-65 signatures have 3309 bytes",
        "rfc FIPS 204 table 2",
        **signed(data=b"message"),
        given=(ML_DSA,),
        reply={"name": VERSION, "signature": 3309, "signature_crc32c": int, "protection_level": "SOFTWARE"},
    ),
    Case(
        "ML-DSA takes no external mu",
        api("Digest.external_mu"),
        **signed(digest={"external_mu": b"m" * 64}),
        given=(ML_DSA,),
        error=INVALID,
    ),
    Case(
        "external-mu ML-DSA signs a mu",
        api("Digest.external_mu"),
        **signed(digest={"external_mu": b"m" * 64}),
        given=(ML_DSA_MU,),
        reply={"name": VERSION, "signature": 3309, "signature_crc32c": int, "protection_level": "SOFTWARE"},
    ),
    Case(
        "external-mu ML-DSA takes no data",
        api("CryptoKeyVersionAlgorithm.PQ_SIGN_ML_DSA_65_EXTERNAL_MU"),
        **signed(data=b"message"),
        given=(ML_DSA_MU,),
        error=INVALID,
    ),
    Case(
        "asymmetric decrypt of what the public key encrypted",
        fakekms("TestAsymmetricDecryptWihtoutChecksums"),
        "asymmetric_decrypt",
        {"name": VERSION, "ciphertext": QUICK_SEALED},
        given=(DECRYPTER, PUBLIC),
        reply={"plaintext": QUICK, "plaintext_crc32c": crc32c(QUICK), "protection_level": "SOFTWARE"},
    ),
    Case(
        "asymmetric decrypt with the wrong hash in OAEP",
        fakekms("TestAsymmetricDecryptMalformedCiphertext"),
        "asymmetric_decrypt",
        {"name": VERSION, "ciphertext": Make(lambda saved: _oaep(saved, QUICK, hashes.SHA512()))},
        given=(DECRYPTER, PUBLIC),
        error=NOT_DECRYPTED,
    ),
    Case(
        "asymmetric decrypt with a malformed name",
        fakekms("TestAsymmetricDecryptMalformedName"),
        "asymmetric_decrypt",
        {"name": "malformed name"},
        error=INVALID,
    ),
    Case(
        "asymmetric decrypt with a missing version",
        fakekms("TestAsymmetricDecryptNotFound"),
        "asymmetric_decrypt",
        {"name": f"{MISSING}/cryptoKeyVersions/1", "ciphertext": b"foo"},
        error=("NOT_FOUND", None),
    ),
    Case(
        "asymmetric decrypt with a key of another purpose",
        fakekms("TestAsymmetricDecryptWrongPurpose"),
        "asymmetric_decrypt",
        {"name": VERSION, "ciphertext": b"foo"},
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "asymmetric decrypt with a disabled version",
        fakekms("TestAsymmetricDecryptDisabled"),
        "asymmetric_decrypt",
        {"name": VERSION, "ciphertext": b"foo"},
        given=(DECRYPTER, DISABLED),
        error=not_enabled("DISABLED"),
    ),
    Case(
        "mac sign",
        fakekms("TestMacSignVerify"),
        "mac_sign",
        {"name": VERSION, "data": b"Here is some data to authenticate"},
        given=(MAC,),
        reply={"name": VERSION, "mac": 32, "mac_crc32c": int, "protection_level": "HSM"},
    ),
    Case(
        "mac verify of a good tag",
        fakekms("TestMacSignVerify"),
        "mac_verify",
        {"name": VERSION, "data": b"Here is some data to authenticate", "mac": Of("tagged", "mac")},
        given=(MAC, TAGGED),
        reply={
            "name": VERSION,
            "success": True,
            "verified_success_integrity": True,
            "protection_level": "HSM",
        },
    ),
    Case(
        "mac verify of a wrong tag is a reply, not an error",
        api("MacVerifyResponse.success"),
        "mac_verify",
        {"name": VERSION, "data": b"Here is other data", "mac": Of("tagged", "mac")},
        given=(MAC, TAGGED),
        reply={"name": VERSION, "protection_level": "HSM"},
    ),
    Case(
        "mac verify says which checksums it has verified",
        api("MacVerifyResponse.verified_mac_crc32c"),
        "mac_verify",
        {
            "name": VERSION,
            "data": b"Here is some data to authenticate",
            "data_crc32c": crc32c(b"Here is some data to authenticate"),
            "mac": Of("tagged", "mac"),
            "mac_crc32c": Of("tagged", "mac_crc32c"),
        },
        given=(MAC, TAGGED),
        reply={
            "name": VERSION,
            "success": True,
            "verified_data_crc32c": True,
            "verified_mac_crc32c": True,
            "verified_success_integrity": True,
            "protection_level": "HSM",
        },
    ),
    Case(
        "mac sign with a missing version",
        fakekms("TestMacSignNotFound"),
        "mac_sign",
        {"name": f"{MISSING}/cryptoKeyVersions/1"},
        error=("NOT_FOUND", None),
    ),
    Case(
        "mac verify with a missing version",
        fakekms("TestMacVerifyNotFound"),
        "mac_verify",
        {"name": f"{MISSING}/cryptoKeyVersions/1", "data": b"testdata", "mac": b"mac"},
        error=("NOT_FOUND", None),
    ),
    Case(
        "mac sign with a key of another purpose",
        fakekms("TestMacSignWrongPurpose"),
        "mac_sign",
        {"name": VERSION, "data": b"here is some data"},
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "mac verify with a key of another purpose",
        fakekms("TestMacVerifyWrongPurpose"),
        "mac_verify",
        {"name": VERSION, "data": b"here is some data", "mac": b"here is a mac tag"},
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "mac sign with a disabled version",
        fakekms("TestMacSignKeyDisabled"),
        "mac_sign",
        {"name": VERSION},
        given=(MAC, DISABLED),
        error=not_enabled("DISABLED"),
    ),
    Case(
        "mac verify with a disabled version",
        fakekms("TestMacVerifyKeyDisabled"),
        "mac_verify",
        {"name": VERSION, "data": b"testdata", "mac": b"mac"},
        given=(MAC, DISABLED),
        error=not_enabled("DISABLED"),
    ),
    Case(
        "get an EC public key as PEM",
        fakekms("TestGetPublicKeyEC"),
        "get_public_key",
        {"name": VERSION},
        given=(SIGNER,),
        reply={
            "name": VERSION,
            "pem": str,
            "pem_crc32c": Make(lambda saved: crc32c(saved["reply"]["pem"].encode())),
            "algorithm": "EC_SIGN_P256_SHA256",
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "get a public key in a chosen format, with its checksum",
        api("GetPublicKeyRequest.public_key_format"),
        "get_public_key",
        {"name": VERSION, "public_key_format": "DER"},
        given=(SIGNER,),
        reply={
            "name": VERSION,
            "algorithm": "EC_SIGN_P256_SHA256",
            "protection_level": "SOFTWARE",
            "public_key_format": "DER",
            "public_key": {"data": 91, "crc32c_checksum": int},
        },
    ),
    Case(
        "a post-quantum public key needs a format",
        api("PublicKeyFormat.PUBLIC_KEY_FORMAT_UNSPECIFIED"),
        "get_public_key",
        {"name": VERSION},
        given=(ML_DSA,),
        error=INVALID,
    ),
    Case(
        "an ML-DSA-65 public key in NIST's format has 1952 bytes",
        api("PublicKeyFormat.NIST_PQC"),
        "get_public_key",
        {"name": VERSION, "public_key_format": "NIST_PQC"},
        given=(ML_DSA,),
        reply={
            "name": VERSION,
            "algorithm": "PQ_SIGN_ML_DSA_65",
            "protection_level": "SOFTWARE",
            "public_key_format": "NIST_PQC",
            "public_key": {"data": 1952, "crc32c_checksum": int},
        },
    ),
    Case(
        "NIST's format is for post-quantum keys only",
        api("PublicKeyFormat.NIST_PQC"),
        "get_public_key",
        {"name": VERSION, "public_key_format": "NIST_PQC"},
        given=(SIGNER,),
        error=INVALID,
    ),
    Case(
        "get a public key with a malformed name",
        fakekms("TestGetPublicKeyMalformedName"),
        "get_public_key",
        {"name": "malformed name"},
        error=INVALID,
    ),
    Case(
        "get the public key of a symmetric key",
        fakekms("TestGetPublicKeySymmetric"),
        "get_public_key",
        {"name": VERSION},
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "get the public key of a disabled version",
        fakekms("TestGetPublicKeyDisabled"),
        "get_public_key",
        {"name": VERSION},
        given=(SIGNER, DISABLED),
        error=not_enabled("DISABLED"),
    ),
    Case(
        "decapsulate never fails for a wrong ciphertext of the right length",
        "rfc FIPS 203 section 6.3",
        "decapsulate",
        {"name": VERSION, "ciphertext": b"c" * 1088, "ciphertext_crc32c": crc32c(b"c" * 1088)},
        given=(ML_KEM,),
        reply={
            "name": VERSION,
            "shared_secret": 32,
            "shared_secret_crc32c": int,
            "verified_ciphertext_crc32c": True,
            "protection_level": "SOFTWARE",
        },
    ),
    Case(
        "decapsulate refuses another length",
        "rfc FIPS 203 section 7.3",
        "decapsulate",
        {"name": VERSION, "ciphertext": b"c" * 1087},
        given=(ML_KEM,),
        error=INVALID,
    ),
    Case(
        "random bytes",
        fakekms("TestGenerateRandomBytes"),
        "generate_random_bytes",
        {"location": "{location}", "length_bytes": 32, "protection_level": "HSM"},
        reply={"data": 32, "data_crc32c": Make(lambda saved: crc32c(saved["reply"]["data"]))},
    ),
    Case(
        "random bytes of a malformed location",
        fakekms("TestGenerateRandomBytesMalformedLocation"),
        "generate_random_bytes",
        {"location": "malformed location", "length_bytes": 32, "protection_level": "HSM"},
        error=INVALID,
    ),
    Case(
        "random bytes of software",
        fakekms("TestGenerateRandomBytesUnsupportedProtectionLevel"),
        "generate_random_bytes",
        {"location": "{location}", "length_bytes": 32, "protection_level": "SOFTWARE"},
        error=UNIMPLEMENTED,
    ),
    Case(
        "fewer than 8 random bytes",
        fakekms("TestGenerateRandomBytesLengthTooShort"),
        "generate_random_bytes",
        {"location": "{location}", "length_bytes": 7, "protection_level": "HSM"},
        error=INVALID,
    ),
    Case(
        "more than 1024 random bytes",
        fakekms("TestGenerateRandomBytesLengthTooLong"),
        "generate_random_bytes",
        {"location": "{location}", "length_bytes": 1025, "protection_level": "HSM"},
        error=INVALID,
    ),
    Case(
        "create a key ring twice",
        "seen https://github.com/hashicorp/terraform-provider-google/issues/1214",
        "create_key_ring",
        {"parent": "{location}", "key_ring_id": "{ring_id}"},
        error=("ALREADY_EXISTS", "KeyRing {ring} already exists."),
    ),
    Case(
        "create a key ring with a malformed id",
        api("CreateKeyRingRequest.key_ring_id"),
        "create_key_ring",
        {"parent": "{location}", "key_ring_id": "&bar"},
        error=INVALID,
    ),
    Case(
        "the defaults of a new key",
        fakekms("TestCreateCryptoKeyDefaults"),
        **created(key()),
        reply={**KEY_REPLY, "primary": VERSION_REPLY},
    ),
    Case(
        "a new key without initial version",
        api("CreateCryptoKeyRequest.skip_initial_version_creation"),
        **created(key(skip=True)),
        reply=KEY_REPLY,
    ),
    Case(
        "a signing key has no primary",
        api("CryptoKey.primary"),
        **created(SIGNER),
        reply={
            "name": KEY,
            "purpose": "ASYMMETRIC_SIGN",
            "create_time": datetime,
            "version_template": {"protection_level": "SOFTWARE", "algorithm": "EC_SIGN_P256_SHA256"},
            "destroy_scheduled_duration": THIRTY_DAYS,
        },
    ),
    Case(
        "create a key in something that is no key ring",
        fakekms("TestCreateCryptoKeyMalformedParent"),
        "create_crypto_key",
        {"parent": "locations/foo", "crypto_key_id": "bar", "crypto_key": {"purpose": "ENCRYPT_DECRYPT"}},
        error=INVALID,
    ),
    Case(
        "create a key in a missing key ring",
        NOT_FOUND_LOG,
        "create_crypto_key",
        {
            "parent": "{location}/keyRings/missing",
            "crypto_key_id": "key",
            "crypto_key": {"purpose": "ENCRYPT_DECRYPT"},
        },
        error=("NOT_FOUND", "KeyRing {location}/keyRings/missing not found."),
    ),
    Case(
        "create a key with a malformed id",
        fakekms("TestCreateCryptoKeyMalformedID"),
        **created(key(name="&bar")),
        error=INVALID,
    ),
    Case(
        "create a key twice",
        fakekms("TestCreateCryptoKeyDuplicateName"),
        **created(key(skip=True)),
        given=(key(skip=True),),
        error=("ALREADY_EXISTS", None),
    ),
    Case(
        "create a signing key without algorithm",
        fakekms("TestCreateCryptoKeyMissingAlgorithm"),
        **created(key("ASYMMETRIC_SIGN", skip=True)),
        error=INVALID,
    ),
    Case(
        "create a decryption key without algorithm",
        fakekms("TestCreateCryptoKeyMissingAlgorithm"),
        **created(key("ASYMMETRIC_DECRYPT", skip=True)),
        error=INVALID,
    ),
    Case(
        "create a key without purpose",
        api("KeyManagementService.CreateCryptoKey"),
        **created(key("CRYPTO_KEY_PURPOSE_UNSPECIFIED")),
        error=INVALID,
    ),
    Case(
        "an algorithm must fit the purpose",
        api("CryptoKeyVersion.CryptoKeyVersionAlgorithm"),
        **created(key("MAC", "EC_SIGN_P256_SHA256")),
        error=INVALID,
    ),
    Case(
        "secp256k1 is for HSM keys only",
        api("CryptoKeyVersionAlgorithm.EC_SIGN_SECP256K1_SHA256"),
        **created(key("ASYMMETRIC_SIGN", "EC_SIGN_SECP256K1_SHA256", "SOFTWARE")),
        error=INVALID,
    ),
    Case(
        "a label key starts with a small letter",
        guide("labeling-keys"),
        **created(key(labels={"Team": "alpha"})),
        error=INVALID,
    ),
    Case(
        "a label value has no capital letters",
        guide("labeling-keys"),
        **created(key(labels={"team": "Alpha"})),
        error=INVALID,
    ),
    Case(
        "a label value has 63 characters at most",
        guide("labeling-keys"),
        **created(key(labels={"team": "a" * 64})),
        error=INVALID,
    ),
    Case(
        "a key has 64 labels at most",
        guide("labeling-keys"),
        **created(key(labels={f"label{number}": "" for number in range(65)})),
        error=INVALID,
    ),
    Case(
        "a rotation period has 24 hours at least",
        api("CryptoKey.rotation_period"),
        **created(key(rotation_period=timedelta(hours=23), next_rotation_time=FAR)),
        error=INVALID,
    ),
    Case(
        "a rotation period has 876,000 hours at most",
        api("CryptoKey.rotation_period"),
        **created(key(rotation_period=timedelta(hours=876_001), next_rotation_time=FAR)),
        error=INVALID,
    ),
    Case(
        "a rotation period needs a next rotation",
        api("CryptoKey.rotation_period"),
        **created(key(rotation_period=timedelta(days=90))),
        error=INVALID,
    ),
    Case(
        "signing keys do not rotate by themselves",
        api("CryptoKey.next_rotation_time"),
        **created(
            key(
                "ASYMMETRIC_SIGN",
                "EC_SIGN_P256_SHA256",
                rotation_period=timedelta(days=90),
                next_rotation_time=FAR,
            )
        ),
        error=INVALID,
    ),
    Case(
        "the destroy window of a key is kept as given",
        api("CryptoKey.destroy_scheduled_duration"),
        **created(key(skip=True, destroy_scheduled_duration=timedelta(days=7))),
        reply={**KEY_REPLY, "destroy_scheduled_duration": timedelta(days=7)},
    ),
    Case(
        "the destroy window has 24 hours at least",
        guide("destroy-restore"),
        **created(key(destroy_scheduled_duration=timedelta(hours=23))),
        error=INVALID,
    ),
    Case(
        "the first version",
        fakekms("TestCreateCryptoKeyVersionSequential"),
        "create_crypto_key_version",
        {"parent": KEY},
        given=(key(skip=True),),
        reply=VERSION_REPLY,
    ),
    Case(
        "the second version has the next number",
        fakekms("TestCreateCryptoKeyVersionSequential"),
        "create_crypto_key_version",
        {"parent": KEY},
        given=(key(skip=True), add_version()),
        reply={**VERSION_REPLY, "name": f"{KEY}/cryptoKeyVersions/2"},
    ),
    Case(
        "a new asymmetric version is pending first",
        fakekms("TestCreateCryptoKeyVersionAsync"),
        "create_crypto_key_version",
        {"parent": KEY},
        given=(key("ASYMMETRIC_SIGN", "EC_SIGN_P384_SHA384", skip=True),),
        reply={
            "name": VERSION,
            "state": "PENDING_GENERATION",
            "protection_level": "SOFTWARE",
            "algorithm": "EC_SIGN_P384_SHA384",
            "create_time": datetime,
        },
    ),
    Case(
        "and enabled in the end",
        fakekms("TestCreateCryptoKeyVersionAsync"),
        "get_crypto_key_version",
        {"name": VERSION},
        given=(key("ASYMMETRIC_SIGN", "EC_SIGN_P384_SHA384", skip=True), add_version()),
        reply={
            "name": VERSION,
            "state": "ENABLED",
            "protection_level": "SOFTWARE",
            "algorithm": "EC_SIGN_P384_SHA384",
            "create_time": datetime,
            "generate_time": datetime,
        },
    ),
    Case(
        "create a version of something that is no key",
        fakekms("TestCreateCryptoKeyVersionMalformedParent"),
        "create_crypto_key_version",
        {"parent": "locations/foo"},
        error=INVALID,
    ),
    Case(
        "an import-only key makes no versions",
        api("CryptoKey.import_only"),
        "create_crypto_key_version",
        {"parent": KEY},
        given=(IMPORT_ONLY,),
        error=PRECONDITION,
    ),
    Case(
        "disable a version",
        fakekms("TestUpdateCryptoKeyVersionDisableEnable"),
        *DISABLED[1:],
        given=(key(),),
        reply={**VERSION_REPLY, "state": "DISABLED"},
    ),
    Case(
        "the primary of the key shows the state",
        fakekms("TestUpdateCryptoKeyVersionDisableEnable"),
        "get_crypto_key",
        {"name": KEY},
        given=(key(), DISABLED),
        reply={**KEY_REPLY, "primary": {**VERSION_REPLY, "state": "DISABLED"}},
    ),
    Case(
        "enable it again",
        fakekms("TestUpdateCryptoKeyVersionDisableEnable"),
        *state("ENABLED")[1:],
        given=(key(), DISABLED),
        reply=VERSION_REPLY,
    ),
    Case(
        "update a version without a mask",
        fakekms("TestUpdateCryptoKeyVersionNoFields"),
        "update_crypto_key_version",
        {"crypto_key_version": {"name": VERSION, "state": "DISABLED"}},
        given=(key(),),
        error=INVALID,
    ),
    Case(
        "update a version to a state that is not for updates",
        fakekms("TestUpdateCryptoKeyVersionUnsupportedState"),
        *state("PENDING_IMPORT")[1:],
        given=(key(),),
        error=INVALID,
    ),
    Case(
        "update another field of a version",
        fakekms("TestUpdateCryptoKeyVersionUnsupportedField"),
        "update_crypto_key_version",
        {"crypto_key_version": {"name": "updated"}, "update_mask": {"paths": ["name"]}},
        error=INVALID,
    ),
    Case(
        "destroy an enabled version",
        fakekms("TestDestroyEnabledCryptoKeyVersion"),
        *destroy()[1:],
        given=(key(),),
        reply={**VERSION_REPLY, "state": "DESTROY_SCHEDULED", "destroy_time": datetime},
    ),
    Case(
        "destroy a disabled version",
        fakekms("TestDestroyDisabledCryptoKeyVersion"),
        *destroy()[1:],
        given=(key(), DISABLED),
        reply={**VERSION_REPLY, "state": "DESTROY_SCHEDULED", "destroy_time": datetime},
    ),
    Case(
        "destroy a version twice",
        fakekms("TestDestroyCryptoKeyVersionUnsupportedState"),
        *destroy()[1:],
        given=(key(), destroy()),
        error=PRECONDITION,
    ),
    Case(
        "destroy a missing version",
        fakekms("TestDestroyCryptoKeyVersionNotFound"),
        *destroy()[1:],
        given=(key(skip=True),),
        error=("NOT_FOUND", None),
    ),
    Case(
        "a version is destroyed when its time has come",
        api("CryptoKeyVersion.destroy_event_time"),
        "get_crypto_key_version",
        {"name": VERSION},
        given=(key(destroy_scheduled_duration=timedelta(days=7)), destroy(), later(days=7)),
        reply={
            **VERSION_REPLY,
            "state": "DESTROYED",
            "destroy_event_time": Of("destroyed", "destroy_time"),
        },
    ),
    Case(
        "a restored version is disabled",
        api("KeyManagementService.RestoreCryptoKeyVersion"),
        "restore_crypto_key_version",
        {"name": VERSION},
        given=(key(), destroy()),
        reply={**VERSION_REPLY, "state": "DISABLED"},
    ),
    Case(
        "a destroyed version is not restored",
        api("KeyManagementService.RestoreCryptoKeyVersion"),
        "restore_crypto_key_version",
        {"name": VERSION},
        given=(key(), *DESTROYED),
        error=PRECONDITION,
    ),
    Case(
        "a version scheduled for destruction is not enabled",
        api("KeyManagementService.UpdateCryptoKeyVersion"),
        *state("ENABLED")[1:],
        given=(key(), destroy()),
        error=PRECONDITION,
    ),
    Case(
        "only encryption keys have a primary to change",
        api("KeyManagementService.UpdateCryptoKeyPrimaryVersion"),
        "update_crypto_key_primary_version",
        {"name": KEY, "crypto_key_version_id": "1"},
        given=(SIGNER,),
        error=PRECONDITION,
    ),
    Case(
        "a key rotates by itself",
        api("CryptoKey.next_rotation_time"),
        "get_crypto_key",
        {"name": KEY},
        given=(
            key(
                rotation_period=timedelta(days=90),
                next_rotation_time=Make(lambda saved: saved["now"] + timedelta(days=1)),
            ),
            later(days=1),
        ),
        reply={"name": f"{KEY}/cryptoKeyVersions/2", "state": "ENABLED"},
        within="primary",
    ),
    Case(
        "update the algorithm of a key",
        fakekms("TestUpdateCryptoKeyAlgorithm"),
        **updated(["version_template.algorithm"], version_template={"algorithm": "EC_SIGN_P256_SHA256"}),
        given=(key("ASYMMETRIC_SIGN", "RSA_SIGN_PSS_2048_SHA256"),),
        reply={"algorithm": "EC_SIGN_P256_SHA256", "protection_level": "SOFTWARE"},
        within="version_template",
    ),
    Case(
        "update a key without a mask",
        fakekms("TestUpdateCryptoKeyNoFields"),
        **updated([]),
        given=(key(),),
        error=INVALID,
    ),
    Case(
        "update the algorithm to one of another purpose",
        fakekms("TestUpdateCryptoKeyIncompatibleAlgorithm"),
        **updated(["version_template.algorithm"], version_template={"algorithm": "EC_SIGN_P256_SHA256"}),
        given=(key(),),
        error=INVALID,
    ),
    Case(
        "update the name of a key",
        fakekms("TestUpdateCryptoKeyUnsupportedField"),
        **updated(["name"]),
        given=(key(),),
        error=INVALID,
    ),
    Case(
        "the destroy window is immutable",
        api("CryptoKey.destroy_scheduled_duration"),
        **updated(["destroy_scheduled_duration"], destroy_scheduled_duration=timedelta(days=9)),
        given=(key(),),
        error=INVALID,
    ),
    Case(
        "update the labels of a key",
        api("KeyManagementService.UpdateCryptoKey"),
        **updated(["labels"], labels={"team": "beta"}),
        given=(key(skip=True, labels={"team": "alpha", "more": ""}),),
        reply={**KEY_REPLY, "labels": {"team": "beta"}},
    ),
    Case(
        "a page and its token",
        api("ListCryptoKeysRequest.page_size"),
        **listed(page_size=2),
        given=THREE_KEYS,
        reply={"crypto_keys": 2, "next_page_token": str, "total_size": 3},
    ),
    Case(
        "the last page",
        api("ListCryptoKeysResponse.next_page_token"),
        **listed(page_size=2, page_token=Of("first", "next_page_token")),
        given=(*THREE_KEYS, ("first", "list_crypto_keys", {"parent": "{ring}", "page_size": 2})),
        reply={"crypto_keys": 1, "total_size": 3},
    ),
    Case(
        "a filter leaves out the total",
        api("ListCryptoKeysResponse.total_size"),
        **listed(filter="labels.team=alpha"),
        given=THREE_KEYS,
        reply={"crypto_keys": 1},
    ),
    Case(
        "a filter on a subfield",
        guide("sorting-and-filtering"),
        **listed(filter="versionTemplate.algorithm=HMAC_SHA256"),
        given=THREE_KEYS,
        reply={"crypto_keys": 1},
    ),
    Case(
        "OR binds tighter than AND",
        guide("sorting-and-filtering"),
        **listed(filter='name:"/KEY" OR name:"/other" AND labels.team=beta'),
        given=THREE_KEYS,
        reply={"crypto_keys": 1},
    ),
    Case(
        "NOT and a space for AND",
        guide("sorting-and-filtering"),
        **listed(filter='NOT labels.team=beta -purpose=MAC create_time > "2000-01-01T00:00:00Z"'),
        given=THREE_KEYS,
        reply={"crypto_keys": 1},
    ),
    Case(
        "a new import job is pending",
        api("ImportJob.ImportJobState"),
        *job()[1:],
        reply={
            "name": "{ring}/importJobs/job",
            "import_method": "RSA_OAEP_3072_SHA256_AES_256",
            "protection_level": "SOFTWARE",
            "create_time": datetime,
            "expire_time": datetime,
            "state": "PENDING_GENERATION",
        },
    ),
    Case(
        "an import job expires after three days",
        api("ImportJob"),
        *GET_JOB[1:],
        given=(job(), later(days=3)),
        reply={
            "name": "{ring}/importJobs/job",
            "import_method": "RSA_OAEP_3072_SHA256_AES_256",
            "protection_level": "SOFTWARE",
            "create_time": datetime,
            "generate_time": datetime,
            "expire_time": datetime,
            "expire_event_time": Of("job", "expire_time"),
            "state": "EXPIRED",
        },
    ),
    Case(
        "an import is pending first",
        api("KeyManagementService.ImportCryptoKeyVersion"),
        *importing()[1:],
        given=TO_IMPORT,
        reply={
            "name": VERSION,
            "state": "PENDING_IMPORT",
            "protection_level": "SOFTWARE",
            "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            "create_time": datetime,
            "import_job": "{ring}/importJobs/job",
        },
    ),
    Case(
        "and enabled in the end",
        api("CryptoKeyVersionState.PENDING_IMPORT"),
        "get_crypto_key_version",
        {"name": VERSION},
        given=(*TO_IMPORT, importing()),
        reply={
            "name": VERSION,
            "state": "ENABLED",
            "protection_level": "SOFTWARE",
            "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            "create_time": datetime,
            "import_job": "{ring}/importJobs/job",
            "import_time": datetime,
        },
    ),
    Case(
        "import through RSAES-OAEP alone",
        api("ImportMethod.RSA_OAEP_3072_SHA256"),
        "get_crypto_key_version",
        {"name": VERSION},
        given=(
            key("ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256", skip=True),
            job("RSA_OAEP_3072_SHA256"),
            GET_JOB,
            importing(
                _wrapped(IMPORTED_EC, hashes.SHA256(), through_aes=False), algorithm="EC_SIGN_P256_SHA256"
            ),
        ),
        reply={
            "name": VERSION,
            "state": "ENABLED",
            "protection_level": "SOFTWARE",
            "algorithm": "EC_SIGN_P256_SHA256",
            "create_time": datetime,
            "import_job": "{ring}/importJobs/job",
            "import_time": datetime,
        },
    ),
    Case(
        "an import with the wrong hash fails",
        api("CryptoKeyVersionState.IMPORT_FAILED"),
        "get_crypto_key_version",
        {"name": VERSION},
        given=(*TO_IMPORT, importing(_wrapped(MATERIAL, hashes.SHA512(), through_aes=True))),
        reply={
            "name": VERSION,
            "state": "IMPORT_FAILED",
            "protection_level": "SOFTWARE",
            "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            "create_time": datetime,
            "import_job": "{ring}/importJobs/job",
            "import_failure_reason": str,
            "reimport_eligible": True,
        },
    ),
    Case(
        "an import needs one wrapped key, not two",
        api("ImportCryptoKeyVersionRequest.rsa_aes_wrapped_key"),
        *importing(rsa_aes_wrapped_key=b"more")[1:],
        given=TO_IMPORT,
        error=INVALID,
    ),
    Case(
        "the import job must have the key's protection level",
        api("ImportJob.protection_level"),
        *importing()[1:],
        given=(IMPORT_ONLY, job(level="HSM"), GET_JOB),
        error=PRECONDITION,
    ),
    Case(
        "an expired import job imports nothing",
        api("ImportJob"),
        *importing()[1:],
        given=(*TO_IMPORT, later(days=3)),
        error=PRECONDITION,
    ),
    Case(
        "only versions that were imported take a reimport",
        api("ImportCryptoKeyVersionRequest.crypto_key_version"),
        *importing(crypto_key_version=VERSION)[1:],
        given=(key(), job(), GET_JOB, *DESTROYED, ("_", "advance", {"by": timedelta()})),
        error=PRECONDITION,
    ),
    Case(
        "delete a key that has versions",
        api("KeyManagementService.DeleteCryptoKey"),
        "delete_crypto_key",
        {"name": KEY},
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "delete a version that is not destroyed",
        api("KeyManagementService.DeleteCryptoKeyVersion"),
        "delete_crypto_key_version",
        {"name": VERSION},
        given=(key(),),
        error=PRECONDITION,
    ),
    Case(
        "delete a version that was imported",
        api("KeyManagementService.DeleteCryptoKeyVersion"),
        "delete_crypto_key_version",
        {"name": VERSION},
        given=(*TO_IMPORT, importing(), *DESTROYED),
        error=PRECONDITION,
    ),
    Case(
        "a deleted version is gone",
        api("KeyManagementService.DeleteCryptoKeyVersion"),
        "get_crypto_key_version",
        {"name": VERSION},
        given=(key(), *DESTROYED, ("_", "delete_crypto_key_version", {"name": VERSION})),
        error=("NOT_FOUND", None),
    ),
    Case(
        "the name of a deleted key is never free again",
        guide("delete-kms-resources"),
        **created(key(skip=True)),
        given=(key(skip=True), ("_", "delete_crypto_key", {"name": KEY})),
        error=("ALREADY_EXISTS", None),
    ),
    Case(
        "a deleted key leaves a retired resource",
        api("RetiredResource"),
        "list_retired_resources",
        {"parent": "{location}", "page_size": 1000},
        given=(key(skip=True), ("_", "delete_crypto_key", {"name": KEY})),
        reply={
            "name": str,
            "original_resource": KEY,
            "resource_type": "cloudkms.googleapis.com/CryptoKey",
            "delete_time": datetime,
        },
        within="retired_resources",
    ),
)
