"""The operations that use a key: encrypt, sign, authenticate, agree, and data keys."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from anykms_emulators.aws.account import UNUSABLE, Account, Call, require_state
from anykms_emulators.aws.errors import KmsError, invalid
from anykms_emulators.aws.keys import (
    EC_SIGNING,
    MAC,
    OAEP,
    RSA_SIGNING,
    SPECS,
    SYMMETRIC,
    Json,
    Key,
    Material,
)
from anykms_emulators.material import (
    GCM_NONCE_BYTES,
    GCM_TAG_BYTES,
    DecryptionError,
    EcKey,
    Ed25519Key,
    HashName,
    KeyMaterial,
    MlDsaKey,
    MlKemKey,
    RsaKey,
    SecretKey,
    digest_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# as in recorded blobs: a fixed start, then the 32 bytes of the key material id
_BLOB_START: Final = bytes.fromhex("0102020078")
_MATERIAL_ID_BYTES: Final = 32
_MU_BYTES: Final = 64


def _compatible(key: Key, algorithm: str) -> str:
    if algorithm not in key.algorithms:
        raise KmsError(
            "InvalidKeyUsageException",
            f"Algorithm {algorithm} is incompatible with key spec {key.spec_name}.",
        )
    return algorithm


def _secret(material: Material) -> KeyMaterial:
    if material.secret is None:  # deleted or expired between the state check and here
        raise KmsError("KMSInvalidStateException")
    return material.secret


def _canonical(context: Mapping[str, str]) -> bytes:
    # length-prefixed, so that no two different maps give the same bytes
    pairs = sorted((key.encode(), value.encode()) for key, value in context.items())
    return b"".join(len(part).to_bytes(4, "big") + part for pair in pairs for part in pair)


def _seal(material: Material, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    secret = _secret(material)
    if not isinstance(secret, SecretKey):
        raise TypeError("a symmetric key holds another kind of material")
    header = _BLOB_START + bytes.fromhex(material.id)
    nonce = os.urandom(GCM_NONCE_BYTES)
    return header + nonce + secret.seal(plaintext, header + _canonical(context), nonce)


def _owner(account: Account, region: str, material_id: str) -> tuple[Key, Material] | None:
    with account.lock:
        for key in account.regions[region].keys.values():
            for material in key.line.in_service:
                if material.id == material_id:
                    return key, material
    return None


def _open(call: Call, blob: bytes, context: Mapping[str, str], key_name: str) -> tuple[Key, Material, bytes]:
    """Decrypt a symmetric blob under its own key, and only under the one that `key_name` names if given."""
    named = call.usable("ENCRYPT_DECRYPT", key_name) if key_name in call.parameters else None
    header_size = len(_BLOB_START) + _MATERIAL_ID_BYTES
    header, rest = blob[:header_size], blob[header_size:]
    if not header.startswith(_BLOB_START) or len(rest) < GCM_NONCE_BYTES + GCM_TAG_BYTES:
        raise KmsError("InvalidCiphertextException")
    material_id = header[len(_BLOB_START) :].hex()
    found = _owner(call.account, call.region, material_id)
    if found is None:
        if any(_owner(call.account, region, material_id) for region in call.account.regions):
            raise KmsError(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not exist in "
                "this region, or you are not allowed to access.",
            )
        raise KmsError("InvalidCiphertextException")
    key, material = found
    if named is not None and named is not key:
        raise KmsError(
            "IncorrectKeyException",
            "The key ID in the request does not identify a CMK that can perform this operation.",
        )
    require_state(key, *UNUSABLE)
    secret = _secret(material)
    if not isinstance(secret, SecretKey):
        raise KmsError("InvalidCiphertextException")
    nonce, sealed = rest[:GCM_NONCE_BYTES], rest[GCM_NONCE_BYTES:]
    try:
        return key, material, secret.open(sealed, header + _canonical(context), nonce)
    except DecryptionError:
        raise KmsError("InvalidCiphertextException") from None


def _rsa(material: Material) -> RsaKey:
    secret = _secret(material)
    if not isinstance(secret, RsaKey):
        raise TypeError("an RSA key holds another kind of material")
    return secret


def _encrypt(
    call: Call, key_name: str, algorithm_name: str, context_name: str, plaintext: bytes
) -> tuple[Key, str, Material, Callable[[], bytes]]:
    """The key, algorithm, material and act of an encryption, whose every condition is checked here."""
    key = call.usable("ENCRYPT_DECRYPT", key_name)
    algorithm = _compatible(key, call.get(algorithm_name, SYMMETRIC))
    context: Mapping[str, str] = call.get(context_name, {})
    material = key.current
    if algorithm == SYMMETRIC:
        return key, algorithm, material, lambda: _seal(material, plaintext, context)
    _refuse_context(context_name, context)
    rsa, hash_name = _rsa(material), OAEP[algorithm]
    if len(plaintext) > rsa.oaep_limit(hash_name):
        raise invalid(
            f"Algorithm {algorithm} and key spec {key.spec_name} cannot encrypt data larger than "
            f"{rsa.oaep_limit(hash_name)} bytes."
        )
    return key, algorithm, material, lambda: rsa.oaep_encrypt(plaintext, hash_name)


def _refuse_context(name: str, context: Mapping[str, str]) -> None:
    if context:
        raise invalid(f"{name} is not valid for asymmetric KMS keys.")


def _decrypt(
    call: Call, key_name: str, algorithm_name: str, context_name: str
) -> tuple[Key, str, bytes, str | None]:
    """The key, the algorithm, the plaintext and, of a symmetric key, the material id of a decryption."""
    algorithm: str = call.get(algorithm_name, SYMMETRIC)
    context: Mapping[str, str] = call.get(context_name, {})
    if call.get("DryRunModifiers") and not call.get("DryRun"):
        raise invalid("DryRunModifiers is valid only when DryRun is true.")
    if call.get("DryRunModifiers"):
        if key_name not in call.parameters:
            raise invalid(f"{key_name} is required when DryRunModifiers is IGNORE_CIPHERTEXT.")
        return _for_decryption(call, key_name, algorithm), algorithm, b"", None
    if "CiphertextBlob" not in call.parameters:
        raise invalid(
            "1 validation error detected: Value null at 'ciphertextBlob' failed to satisfy constraint: "
            "Member must not be null"
        )
    if algorithm == SYMMETRIC:
        if key_name in call.parameters:
            _for_decryption(call, key_name, algorithm)
        key, material, plaintext = _open(call, call["CiphertextBlob"], context, key_name)
        return key, algorithm, plaintext, material.id
    if key_name not in call.parameters:
        raise invalid(f"{key_name} is required to decrypt with {algorithm}.")
    key = _for_decryption(call, key_name, algorithm)
    _refuse_context(context_name, context)
    try:
        return key, algorithm, _rsa(key.current).oaep_decrypt(call["CiphertextBlob"], OAEP[algorithm]), None
    except DecryptionError:
        raise KmsError("InvalidCiphertextException") from None


def _for_decryption(call: Call, key_name: str, algorithm: str) -> Key:
    key = call.usable("ENCRYPT_DECRYPT", key_name)
    _compatible(key, algorithm)
    return key


def _no_recipient(call: Call) -> None:
    if call.get("Recipient"):
        raise invalid("The attestation document is not from a Nitro enclave.")


def encrypt(call: Call) -> Json:
    key, algorithm, _, act = _encrypt(
        call, "KeyId", "EncryptionAlgorithm", "EncryptionContext", call["Plaintext"]
    )
    call.done(key)
    return {"CiphertextBlob": act(), "EncryptionAlgorithm": algorithm, "KeyId": key.arn}


def decrypt(call: Call) -> Json:
    _no_recipient(call)
    key, algorithm, plaintext, material_id = _decrypt(
        call, "KeyId", "EncryptionAlgorithm", "EncryptionContext"
    )
    call.done(key)
    answer: Json = {
        "EncryptionAlgorithm": algorithm,
        "KeyId": key.arn,
        "KeyOrigin": key.origin,
        "Plaintext": plaintext,
    }
    return answer | ({} if material_id is None else {"KeyMaterialId": material_id})


def re_encrypt(call: Call) -> Json:
    source, source_algorithm, plaintext, material_id = _decrypt(
        call, "SourceKeyId", "SourceEncryptionAlgorithm", "SourceEncryptionContext"
    )
    key, algorithm, material, act = _encrypt(
        call,
        "DestinationKeyId",
        "DestinationEncryptionAlgorithm",
        "DestinationEncryptionContext",
        plaintext,
    )
    call.done(source, key)
    answer: Json = {
        "CiphertextBlob": act(),
        "SourceKeyId": source.arn,
        "KeyId": key.arn,
        "SourceEncryptionAlgorithm": source_algorithm,
        "DestinationEncryptionAlgorithm": algorithm,
    }
    if material_id is not None:
        answer["SourceKeyMaterialId"] = material_id
    if algorithm == SYMMETRIC:
        answer["DestinationKeyMaterialId"] = material.id
    return answer


def _for_data_keys(call: Call) -> Key:
    key = call.usable("ENCRYPT_DECRYPT")
    if key.spec_name != SYMMETRIC:
        raise KmsError(
            "InvalidKeyUsageException",
            f"{key.arn} key spec is {key.spec_name} which is not valid for {call.operation}.",
        )
    return key


def _data_key(call: Call) -> tuple[Json, bytes]:
    if ("KeySpec" in call.parameters) == ("NumberOfBytes" in call.parameters):
        raise invalid("Please specify either number of bytes or key spec.")
    key = _for_data_keys(call)
    call.done(key)
    size = call.get("NumberOfBytes") or {"AES_128": 16, "AES_256": 32}[call["KeySpec"]]
    plaintext = os.urandom(size)
    material = key.current
    blob = _seal(material, plaintext, call.get("EncryptionContext", {}))
    return {"CiphertextBlob": blob, "KeyId": key.arn, "KeyMaterialId": material.id}, plaintext


def generate_data_key(call: Call) -> Json:
    _no_recipient(call)
    answer, plaintext = _data_key(call)
    return {**answer, "Plaintext": plaintext}


def generate_data_key_without_plaintext(call: Call) -> Json:
    return _data_key(call)[0]


def _data_key_pair(call: Call) -> tuple[Json, bytes]:
    key = _for_data_keys(call)
    call.done(key)
    pair = SPECS[call["KeyPairSpec"]].generate()
    if isinstance(pair, SecretKey | MlDsaKey):
        raise TypeError("a data key pair spec is asymmetric")
    private = pair.pkcs8()
    material = key.current
    blob = _seal(material, private, call.get("EncryptionContext", {}))
    answer = {
        "PrivateKeyCiphertextBlob": blob,
        "PublicKey": pair.public_der(),
        "KeyId": key.arn,
        "KeyPairSpec": call["KeyPairSpec"],
        "KeyMaterialId": material.id,
    }
    return answer, private


def generate_data_key_pair(call: Call) -> Json:
    _no_recipient(call)
    answer, private = _data_key_pair(call)
    return {**answer, "PrivateKeyPlaintext": private}


def generate_data_key_pair_without_plaintext(call: Call) -> Json:
    return _data_key_pair(call)[0]


def generate_random(call: Call) -> Json:
    _no_recipient(call)
    if "CustomKeyStoreId" in call.parameters:
        raise KmsError("CustomKeyStoreNotFoundException")
    if "NumberOfBytes" not in call.parameters:
        raise invalid("NumberOfBytes is required.")
    return {"Plaintext": os.urandom(call["NumberOfBytes"])}


def _check_digest(call: Call, algorithm: str, size: int) -> None:
    if len(call["Message"]) != size:
        raise invalid(f"Digest is invalid length for algorithm {algorithm}.")


def _signing_hash(call: Call, algorithm: str, hash_name: HashName) -> bool:
    """Whether the message is already a digest, whose length is then checked."""
    kind = _message_type(call, algorithm, "RAW", "DIGEST")
    if kind == "DIGEST":
        _check_digest(call, algorithm, digest_size(hash_name))
    return kind == "DIGEST"


def _message_type(call: Call, algorithm: str, *allowed: str) -> str:
    kind: str = call.get("MessageType", "RAW")
    if kind not in allowed:
        raise invalid(f"MessageType {kind} is not valid for algorithm {algorithm}.")
    return kind


class _Scheme(NamedTuple):
    sign: Callable[[bytes], bytes]
    verify: Callable[[bytes, bytes], bool]


def _scheme(call: Call, secret: KeyMaterial, algorithm: str) -> _Scheme:
    """How this key signs and verifies the message, whose type and length are checked here."""
    match secret:
        case RsaKey():
            padding, hash_name = RSA_SIGNING[algorithm]
            prehashed = _signing_hash(call, algorithm, hash_name)
            return _Scheme(
                partial(secret.sign, hash_name=hash_name, scheme=padding, prehashed=prehashed),
                partial(secret.verify, hash_name=hash_name, scheme=padding, prehashed=prehashed),
            )
        case EcKey():
            hash_name = EC_SIGNING[algorithm]
            prehashed = _signing_hash(call, algorithm, hash_name)
            return _Scheme(
                partial(secret.sign, hash_name=hash_name, prehashed=prehashed),
                partial(secret.verify, hash_name=hash_name, prehashed=prehashed),
            )
        case Ed25519Key() if algorithm == "ED25519_PH_SHA_512":
            # the digest is hashed once more: the service model says so of MessageType
            _message_type(call, algorithm, "DIGEST")
            _check_digest(call, algorithm, digest_size("SHA-512"))
            return _Scheme(secret.sign_ph, secret.verify_ph)
        case Ed25519Key():
            _message_type(call, algorithm, "RAW")
            return _Scheme(secret.sign, secret.verify)
        case MlDsaKey():
            if _message_type(call, algorithm, "RAW", "EXTERNAL_MU") == "RAW":
                return _Scheme(secret.sign, secret.verify)
            _check_digest(call, algorithm, _MU_BYTES)
            return _Scheme(secret.sign_mu, secret.verify_mu)
        case _:
            raise TypeError("a signing key holds another kind of material")


def sign(call: Call) -> Json:
    key = call.usable("SIGN_VERIFY")
    algorithm = _compatible(key, call["SigningAlgorithm"])
    scheme = _scheme(call, _secret(key.current), algorithm)
    call.done(key)
    return {
        "KeyId": key.arn,
        "Signature": scheme.sign(call["Message"]),
        "SigningAlgorithm": algorithm,
    }


def verify(call: Call) -> Json:
    key = call.usable("SIGN_VERIFY")
    algorithm = _compatible(key, call["SigningAlgorithm"])
    if not _scheme(call, _secret(key.current), algorithm).verify(call["Signature"], call["Message"]):
        raise KmsError("KMSInvalidSignatureException")
    call.done(key)
    return {"KeyId": key.arn, "SignatureValid": True, "SigningAlgorithm": algorithm}


def get_public_key(call: Call) -> Json:
    with call.account.lock:
        key = call.key(alias=True)
        if key.spec_name == SYMMETRIC or key.usage == "GENERATE_VERIFY_MAC":
            raise KmsError(
                "UnsupportedOperationException",
                f"{key.arn} key spec is {key.spec_name} which is not valid for GetPublicKey.",
            )
        require_state(key, *UNUSABLE)
        secret = _secret(key.current)
    if isinstance(secret, SecretKey):
        raise TypeError("an asymmetric key holds another kind of material")
    return {
        "KeyId": key.arn,
        "PublicKey": secret.public_der(),
        "CustomerMasterKeySpec": key.spec_name,
        "KeySpec": key.spec_name,
        "KeyUsage": key.usage,
        **key.algorithm_fields(),
    }


def _mac_key(call: Call) -> tuple[Key, str, SecretKey]:
    key = call.usable("GENERATE_VERIFY_MAC")
    algorithm = _compatible(key, call["MacAlgorithm"])
    secret = _secret(key.current)
    if not isinstance(secret, SecretKey):
        raise TypeError("a MAC key holds another kind of material")
    return key, algorithm, secret


def generate_mac(call: Call) -> Json:
    key, algorithm, secret = _mac_key(call)
    call.done(key)
    return {
        "KeyId": key.arn,
        "Mac": secret.mac(call["Message"], MAC[algorithm]),
        "MacAlgorithm": algorithm,
    }


def verify_mac(call: Call) -> Json:
    key, algorithm, secret = _mac_key(call)
    if not secret.verify_mac(call["Mac"], call["Message"], MAC[algorithm]):
        raise KmsError("KMSInvalidMacException")
    call.done(key)
    return {"KeyId": key.arn, "MacAlgorithm": algorithm, "MacValid": True}


def derive_shared_secret(call: Call) -> Json:
    _no_recipient(call)
    key = call.usable("KEY_AGREEMENT")
    algorithm = _compatible(key, call["KeyAgreementAlgorithm"])
    secret = _secret(key.current)
    if not isinstance(secret, EcKey):
        raise TypeError("a key agreement key holds another kind of material")
    try:
        shared = secret.agree(call["PublicKey"])
    except ValueError:
        raise KmsError("ValidationException") from None
    call.done(key)
    return {
        "KeyAgreementAlgorithm": algorithm,
        "KeyId": key.arn,
        "KeyOrigin": key.origin,
        "SharedSecret": shared,
    }


def _kem_key(call: Call) -> tuple[Key, str, MlKemKey]:
    key = call.usable("ENCAPSULATE_DECAPSULATE")
    algorithm = _compatible(key, call["EncapsulationAlgorithm"])
    secret = _secret(key.current)
    if not isinstance(secret, MlKemKey):
        raise TypeError("an encapsulation key holds another kind of material")
    return key, algorithm, secret


def encapsulate(call: Call) -> Json:
    key, algorithm, secret = _kem_key(call)
    call.done(key)
    shared, ciphertext = secret.encapsulate()
    return {
        "KeyId": key.arn,
        "SharedSecret": shared,
        "SharedSecretCiphertextBlob": ciphertext,
        "EncapsulationAlgorithm": algorithm,
    }


def decapsulate(call: Call) -> Json:
    key, algorithm, secret = _kem_key(call)
    try:
        shared = secret.decapsulate(call["SharedSecretCiphertextBlob"])
    except ValueError:
        raise KmsError("InvalidCiphertextException") from None
    call.done(key)
    return {"KeyId": key.arn, "SharedSecret": shared, "EncapsulationAlgorithm": algorithm}


HANDLERS: Final[Mapping[str, Callable[[Call], Json]]] = {
    "Decapsulate": decapsulate,
    "Decrypt": decrypt,
    "DeriveSharedSecret": derive_shared_secret,
    "Encapsulate": encapsulate,
    "Encrypt": encrypt,
    "GenerateDataKey": generate_data_key,
    "GenerateDataKeyPair": generate_data_key_pair,
    "GenerateDataKeyPairWithoutPlaintext": generate_data_key_pair_without_plaintext,
    "GenerateDataKeyWithoutPlaintext": generate_data_key_without_plaintext,
    "GenerateMac": generate_mac,
    "GenerateRandom": generate_random,
    "GetPublicKey": get_public_key,
    "ReEncrypt": re_encrypt,
    "Sign": sign,
    "Verify": verify,
    "VerifyMac": verify_mac,
}
