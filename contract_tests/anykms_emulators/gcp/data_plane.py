"""The cryptographic RPCs. Order of the checks: name, existence, purpose, state, then the arguments.

That order is the one of Google's own conformance tests (fakekms/contract in GoogleCloudPlatform/
kms-integrations): an empty request for a disabled version is FAILED_PRECONDITION, not INVALID_ARGUMENT.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, cast

import google_crc32c
from google.cloud import kms_v1

from anykms_emulators.gcp import names
from anykms_emulators.gcp.algorithms import POST_QUANTUM
from anykms_emulators.gcp.control_plane import pem_of
from anykms_emulators.gcp.messages import enum_name
from anykms_emulators.gcp.status import (
    checksum_mismatch,
    decryption_failed,
    failed_precondition,
    invalid,
    unimplemented,
)
from anykms_emulators.material import (
    GCM_NONCE_BYTES,
    GCM_TAG_BYTES,
    DecryptionError,
    EcKey,
    Ed25519Key,
    HashName,
    MlDsaKey,
    MlKemKey,
    RsaKey,
    RsaPadding,
    SecretKey,
    digest,
    digest_size,
)

if TYPE_CHECKING:
    from anykms_emulators.gcp.algorithms import Purpose
    from anykms_emulators.gcp.resources import Key, Store, Version

MOST_BYTES: Final = 64 * 1024
MOST_HSM_BYTES: Final = 8 * 1024
MOST_HSM_MAC_BYTES: Final = 16 * 1024
MU_BYTES: Final = 64
_IV_BYTES: Final = 16
_SALT_BYTES: Final = 32
_TAG_BYTES: Final = 5  # 0x00 and four bytes that name the version
_MALFORMED: Final = ("Decryption failed: the ciphertext is invalid.", "client_ciphertext.ParseFromString()")
_DIGEST_FIELDS: Final[dict[HashName, str]] = {
    "SHA-256": "sha256",
    "SHA-384": "sha384",
    "SHA-512": "sha512",
}


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720) of the data as the API carries it: 0 to 2^32 - 1."""
    checksum: Any = google_crc32c
    return int(checksum.value(data))


class DataPlane:
    """One method for each RPC; each takes the request and returns the reply, or raises `RefusedError`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def encrypt(self, request: kms_v1.EncryptRequest) -> kms_v1.EncryptResponse:
        with self._store.lock:
            if names.is_a("CryptoKeyVersion", request.name):
                key, version = self._store.version(request.name)
                _require_purpose(key, "ENCRYPT_DECRYPT")
            else:
                key = self._store.key(request.name)
                _require_purpose(key, "ENCRYPT_DECRYPT")
                version = key.primary_version()
            material = _secret(version)
        _check_size(version, request.plaintext, request.additional_authenticated_data)
        verified = _verified(request, "plaintext")
        verified_aad = _verified(request, "additional_authenticated_data")
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(GCM_NONCE_BYTES)
        sealed = material.seal(
            request.plaintext, _bind(version, salt, request.additional_authenticated_data), nonce
        )
        ciphertext = _envelope(version.tag + salt, version.tag + nonce + sealed)
        return kms_v1.EncryptResponse(
            name=version.name,
            ciphertext=ciphertext,
            ciphertext_crc32c=crc32c(ciphertext),
            verified_plaintext_crc32c=verified,
            verified_additional_authenticated_data_crc32c=verified_aad,
            protection_level=version.level,
        )

    def decrypt(self, request: kms_v1.DecryptRequest) -> kms_v1.DecryptResponse:
        with self._store.lock:
            key = self._store.key(request.name)
            _require_purpose(key, "ENCRYPT_DECRYPT")
            _verified(request, "ciphertext")
            _verified(request, "additional_authenticated_data")
            tag, salt, nonce, sealed = _opened_envelope(request.ciphertext)
            version = self._store.version_with_tag(key, tag)
            if version is None:
                raise decryption_failed(
                    "Decryption failed: verify that 'name' refers to the correct CryptoKey.",
                    "no version of this key has made the ciphertext",
                )
            material = _secret(version)
            primary = key.primary == version.number
        _check_size(version, b"", request.additional_authenticated_data)
        try:
            plaintext = material.open(
                sealed, _bind(version, salt, request.additional_authenticated_data), nonce
            )
        except DecryptionError:
            raise decryption_failed("Decryption failed.", "AEAD open failed") from None
        return kms_v1.DecryptResponse(
            plaintext=plaintext,
            plaintext_crc32c=crc32c(plaintext),
            used_primary=primary,
            protection_level=version.level,
        )

    def raw_encrypt(self, request: kms_v1.RawEncryptRequest) -> kms_v1.RawEncryptResponse:
        version = self._usable(request.name, "RAW_ENCRYPT_DECRYPT")
        material = _secret(version)
        aad, iv = request.additional_authenticated_data, request.initialization_vector
        _check_size(version, request.plaintext, aad)
        verified = _verified(request, "plaintext")
        verified_aad = _verified(request, "additional_authenticated_data")
        verified_iv = _verified(request, "initialization_vector")
        scheme = version.algorithm.scheme
        _check_raw_arguments(scheme, aad, iv, encrypting=True)
        if scheme == "AES-GCM":
            iv = os.urandom(GCM_NONCE_BYTES)
            ciphertext = material.seal(request.plaintext, aad, iv)
        else:
            iv = iv or os.urandom(_IV_BYTES)
            if scheme == "AES-CTR":
                ciphertext = material.ctr(request.plaintext, iv)
            else:
                if len(request.plaintext) % 16:
                    raise invalid("plaintext", "AES-CBC needs a plaintext of whole 16-byte blocks.")
                ciphertext = material.cbc_encrypt(request.plaintext, iv, pkcs7=False)
        return kms_v1.RawEncryptResponse(
            ciphertext=ciphertext,
            initialization_vector=iv,
            tag_length=GCM_TAG_BYTES if scheme == "AES-GCM" else 0,
            ciphertext_crc32c=crc32c(ciphertext),
            initialization_vector_crc32c=crc32c(iv),
            verified_plaintext_crc32c=verified,
            verified_additional_authenticated_data_crc32c=verified_aad,
            verified_initialization_vector_crc32c=verified_iv,
            name=version.name,
            protection_level=version.level,
        )

    def raw_decrypt(self, request: kms_v1.RawDecryptRequest) -> kms_v1.RawDecryptResponse:
        version = self._usable(request.name, "RAW_ENCRYPT_DECRYPT")
        material = _secret(version)
        ciphertext, aad = request.ciphertext, request.additional_authenticated_data
        verified = _verified(request, "ciphertext")
        verified_aad = _verified(request, "additional_authenticated_data")
        verified_iv = _verified(request, "initialization_vector")
        scheme = version.algorithm.scheme
        iv = request.initialization_vector
        _check_raw_arguments(scheme, aad, iv, encrypting=False)
        _check_size(version, ciphertext[: -GCM_TAG_BYTES if scheme == "AES-GCM" else None], aad)
        if request.tag_length not in (0, GCM_TAG_BYTES if scheme == "AES-GCM" else 0):
            raise invalid("tag_length", "tag_length must be 0, or 16 for AES-GCM.")
        try:
            if scheme == "AES-GCM":
                plaintext = material.open(ciphertext, aad, iv)
            elif scheme == "AES-CTR":
                plaintext = material.ctr(ciphertext, iv)
            else:
                plaintext = material.cbc_decrypt(ciphertext, iv, pkcs7=False)
        except DecryptionError:
            raise decryption_failed("Decryption failed.", "raw decryption failed") from None
        return kms_v1.RawDecryptResponse(
            plaintext=plaintext,
            plaintext_crc32c=crc32c(plaintext),
            protection_level=version.level,
            verified_ciphertext_crc32c=verified,
            verified_additional_authenticated_data_crc32c=verified_aad,
            verified_initialization_vector_crc32c=verified_iv,
        )

    def asymmetric_sign(self, request: kms_v1.AsymmetricSignRequest) -> kms_v1.AsymmetricSignResponse:
        version = self._usable(request.name, "ASYMMETRIC_SIGN")
        kind, given = _given_digest(request)
        if kind and request.data:
            raise invalid("digest", "Only one of digest and data may be supplied.")
        if not kind and not request.data:
            raise invalid("digest", "One of digest and data must be supplied.")
        if len(request.data) > MOST_BYTES:
            raise invalid("data", f"data must be no larger than {MOST_BYTES} bytes.")
        verified_digest = _crc_agrees(request, "digest_crc32c", "digest", given)
        verified_data = _verified(request, "data")
        signature = _sign(version, kind, given, request.data)
        return kms_v1.AsymmetricSignResponse(
            signature=signature,
            signature_crc32c=crc32c(signature),
            verified_digest_crc32c=verified_digest,
            verified_data_crc32c=verified_data,
            name=version.name,
            protection_level=version.level,
        )

    def asymmetric_decrypt(
        self, request: kms_v1.AsymmetricDecryptRequest
    ) -> kms_v1.AsymmetricDecryptResponse:
        version = self._usable(request.name, "ASYMMETRIC_DECRYPT")
        material = version.usable_material()
        verified = _verified(request, "ciphertext")
        if not isinstance(material, RsaKey) or len(request.ciphertext) != material.bits // 8:
            raise decryption_failed("Decryption failed.", "the ciphertext has not the length of the modulus")
        try:
            plaintext = material.oaep_decrypt(request.ciphertext, version.algorithm.hash_name)
        except DecryptionError:
            raise decryption_failed("Decryption failed.", "RSAES-OAEP failed") from None
        return kms_v1.AsymmetricDecryptResponse(
            plaintext=plaintext,
            plaintext_crc32c=crc32c(plaintext),
            verified_ciphertext_crc32c=verified,
            protection_level=version.level,
        )

    def mac_sign(self, request: kms_v1.MacSignRequest) -> kms_v1.MacSignResponse:
        version = self._usable(request.name, "MAC")
        material = _secret(version)
        _check_mac_data(version, request.data)
        verified = _verified(request, "data")
        mac = material.mac(request.data, version.algorithm.hash_name)
        return kms_v1.MacSignResponse(
            name=version.name,
            mac=mac,
            mac_crc32c=crc32c(mac),
            verified_data_crc32c=verified,
            protection_level=version.level,
        )

    def mac_verify(self, request: kms_v1.MacVerifyRequest) -> kms_v1.MacVerifyResponse:
        version = self._usable(request.name, "MAC")
        material = _secret(version)
        _check_mac_data(version, request.data)
        size = digest_size(version.algorithm.hash_name)
        if len(request.mac) != size:
            raise invalid("mac", f"mac must have {size} bytes for {version.algorithm.name}.")
        verified = _verified(request, "data")
        verified_mac = _verified(request, "mac")
        success = material.verify_mac(request.mac, request.data, version.algorithm.hash_name)
        return kms_v1.MacVerifyResponse(
            name=version.name,
            success=success,
            verified_data_crc32c=verified,
            verified_mac_crc32c=verified_mac,
            verified_success_integrity=success,
            protection_level=version.level,
        )

    def decapsulate(self, request: kms_v1.DecapsulateRequest) -> kms_v1.DecapsulateResponse:
        version = self._usable(request.name, "KEY_ENCAPSULATION")
        material = version.usable_material()
        verified = _verified(request, "ciphertext")
        if not isinstance(material, MlKemKey):
            raise unimplemented(f"Decapsulate with {version.algorithm.name} is not emulated.")
        try:
            secret = material.decapsulate(request.ciphertext)
        except ValueError:
            raise invalid(
                "ciphertext", f"ciphertext has not the length of a {version.algorithm.name} ciphertext."
            ) from None
        return kms_v1.DecapsulateResponse(
            name=version.name,
            shared_secret=secret,
            shared_secret_crc32c=crc32c(secret),
            verified_ciphertext_crc32c=verified,
            protection_level=version.level,
        )

    def get_public_key(self, request: kms_v1.GetPublicKeyRequest) -> kms_v1.PublicKey:
        version = self._usable(request.name, "ASYMMETRIC_SIGN", "ASYMMETRIC_DECRYPT", "KEY_ENCAPSULATION")
        material = version.usable_material()
        wanted = enum_name(request, "public_key_format")
        post_quantum = version.algorithm.scheme in POST_QUANTUM
        reply = kms_v1.PublicKey(
            algorithm=version.algorithm.name, name=version.name, protection_level=version.level
        )
        if isinstance(material, SecretKey):
            raise failed_precondition(f"{version.name} has no public key.", version.name, "KEY_PURPOSE")
        if wanted == "PUBLIC_KEY_FORMAT_UNSPECIFIED" and post_quantum:
            raise invalid("public_key_format", "public_key_format is required for post-quantum algorithms.")
        if wanted == "NIST_PQC" and isinstance(material, MlDsaKey | MlKemKey):
            data = material.public_raw()
        elif wanted == "DER":
            data = material.public_der()
        elif wanted in ("PEM", "PUBLIC_KEY_FORMAT_UNSPECIFIED"):
            pem = pem_of(material.public_der())
            data = pem.encode()
            if not post_quantum:
                reply.pem = pem
                reply.pem_crc32c = cast("Any", crc32c(data))
        else:
            raise invalid("public_key_format", f"{wanted} is not a format of {version.algorithm.name} keys.")
        if wanted != "PUBLIC_KEY_FORMAT_UNSPECIFIED":
            reply.public_key_format = cast("Any", wanted)  # proto-plus takes the name of an enum value
            reply.public_key = kms_v1.ChecksummedData(data=data, crc32c_checksum=crc32c(data))
        return reply

    def generate_random_bytes(
        self, request: kms_v1.GenerateRandomBytesRequest
    ) -> kms_v1.GenerateRandomBytesResponse:
        names.check("location", request.location, "location")
        level = enum_name(request, "protection_level")
        if level != "HSM":
            raise unimplemented(f"GenerateRandomBytes supports the protection level HSM only, not {level}.")
        if not 8 <= request.length_bytes <= 1024:
            raise invalid("length_bytes", "length_bytes must be 8 at least and 1024 at most.")
        data = os.urandom(request.length_bytes)
        return kms_v1.GenerateRandomBytesResponse(data=data, data_crc32c=crc32c(data))

    def _usable(self, name: str, *purposes: Purpose) -> Version:
        with self._store.lock:
            key, version = self._store.version(name)
            _require_purpose(key, *purposes)
            version.usable_material()
            return version


def _require_purpose(key: Key, *purposes: Purpose) -> None:
    if key.purpose not in purposes:
        raise failed_precondition(
            f"CryptoKey {key.name} has purpose {key.purpose}, the request needs {' or '.join(purposes)}.",
            key.name,
            "KEY_PURPOSE",
        )


def _secret(version: Version) -> SecretKey:
    material = version.usable_material()
    if not isinstance(material, SecretKey):
        raise failed_precondition(f"{version.name} is not a symmetric key.", version.name, "KEY_PURPOSE")
    return material


def _crc_agrees(request: Any, checksum_field: str, data_field: str, data: bytes) -> bool:
    expected = cast("int | None", getattr(request, checksum_field))  # 0 is a checksum, None is none
    if expected is None:
        return False
    if expected != crc32c(data):
        raise checksum_mismatch(checksum_field, data_field)
    return True


def _verified(request: Any, field: str) -> bool:
    return _crc_agrees(request, f"{field}_crc32c", field, getattr(request, field))


def _check_size(version: Version, text: bytes, aad: bytes) -> None:
    if version.level == "HSM" and len(text) + len(aad) > MOST_HSM_BYTES:
        raise invalid(
            "plaintext",
            "The plaintext and additional_authenticated_data of an HSM key must together be no larger than "
            f"{MOST_HSM_BYTES} bytes.",
        )
    if len(text) > MOST_BYTES:
        raise invalid("plaintext", f"plaintext must be no larger than {MOST_BYTES} bytes.")
    if len(aad) > MOST_BYTES:
        raise invalid(
            "additional_authenticated_data",
            f"additional_authenticated_data must be no larger than {MOST_BYTES} bytes.",
        )


def _check_mac_data(version: Version, data: bytes) -> None:
    most = MOST_HSM_MAC_BYTES if version.level == "HSM" else MOST_BYTES
    if not 1 <= len(data) <= most:
        raise invalid("data", f"data must have 1 to {most} bytes.")


def _check_raw_arguments(scheme: str, aad: bytes, iv: bytes, *, encrypting: bool) -> None:
    if scheme == "AES-GCM":
        if encrypting and iv:
            raise invalid("initialization_vector", "AES-GCM keys make the initialization vector themselves.")
        if not encrypting and len(iv) != GCM_NONCE_BYTES:
            raise invalid("initialization_vector", f"AES-GCM needs {GCM_NONCE_BYTES} bytes.")
        return
    if aad:
        raise invalid("additional_authenticated_data", f"{scheme} does not take additional data.")
    if len(iv) != _IV_BYTES and (iv or not encrypting):
        raise invalid("initialization_vector", f"{scheme} needs {_IV_BYTES} bytes.")


def _given_digest(request: kms_v1.AsymmetricSignRequest) -> tuple[str, bytes]:
    for field in (*_DIGEST_FIELDS.values(), "external_mu"):
        if field in request.digest:
            return field, cast("bytes", getattr(request.digest, field))
    return "", b""


def _sign(version: Version, kind: str, given: bytes, data: bytes) -> bytes:
    algorithm, material = version.algorithm, version.usable_material()
    if algorithm.scheme in ("PSS", "PKCS1", "ECDSA"):
        wanted = _DIGEST_FIELDS[algorithm.hash_name]
        hashed = given if kind else digest(algorithm.hash_name, data)
        if kind not in ("", wanted):
            raise invalid("digest", f"{algorithm.name} needs digest.{wanted}, not digest.{kind}.")
        if len(hashed) != digest_size(algorithm.hash_name):
            raise invalid("digest", f"digest.{wanted} must have {digest_size(algorithm.hash_name)} bytes.")
        if isinstance(material, RsaKey):
            scheme: RsaPadding = "PSS" if algorithm.scheme == "PSS" else "PKCS1"
            return material.sign(hashed, algorithm.hash_name, scheme, prehashed=True)
        if isinstance(material, EcKey):
            return material.sign(hashed, algorithm.hash_name, prehashed=True)
    if algorithm.scheme == "ML-DSA external mu" and isinstance(material, MlDsaKey):
        if kind != "external_mu":
            raise invalid("digest", f"{algorithm.name} needs digest.external_mu.")
        if len(given) != MU_BYTES:
            raise invalid("digest", f"digest.external_mu must have {MU_BYTES} bytes.")
        return material.sign_mu(given)
    if kind:
        raise invalid("digest", f"{algorithm.name} signs data, not a digest.")
    if isinstance(material, Ed25519Key | MlDsaKey):
        return material.sign(data)
    if isinstance(material, RsaKey):
        most = material.bits // 8 - 11
        if len(data) > most:
            raise invalid("data", f"data must be no larger than {most} bytes for {algorithm.name}.")
        return material.sign_raw_pkcs1(data)
    raise unimplemented(f"AsymmetricSign with {algorithm.name} is not emulated.")


def _bind(version: Version, salt: bytes, aad: bytes) -> bytes:
    return version.tag + salt + aad


def _envelope(header: bytes, body: bytes) -> bytes:
    """Two length-delimited protobuf fields, as in the recorded ciphertexts."""
    return b"\x0a" + _varint(len(header)) + header + b"\x12" + _varint(len(body)) + body


def _opened_envelope(ciphertext: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    header, rest = _field(ciphertext, 0x0A)
    body, rest = _field(rest, 0x12)
    tag, salt = header[:_TAG_BYTES], header[_TAG_BYTES:]
    sealed = body[_TAG_BYTES + GCM_NONCE_BYTES :]
    if rest or len(salt) != _SALT_BYTES or len(sealed) < GCM_TAG_BYTES or body[:_TAG_BYTES] != tag:
        raise decryption_failed(*_MALFORMED)
    return tag, salt, body[_TAG_BYTES : _TAG_BYTES + GCM_NONCE_BYTES], sealed


def _field(data: bytes, key: int) -> tuple[bytes, bytes]:
    if not data or data[0] != key:
        raise decryption_failed(*_MALFORMED)
    size, shift, position = 0, 0, 1
    while True:
        if position >= len(data) or shift > 21:
            raise decryption_failed(*_MALFORMED)
        byte = data[position]
        size |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            break
    if len(data) < position + size:
        raise decryption_failed(*_MALFORMED)
    return data[position : position + size], data[position + size :]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
