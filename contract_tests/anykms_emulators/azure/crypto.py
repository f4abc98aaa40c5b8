"""The cryptographic operations on one key version, by the algorithm names of RFC 7518."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from anykms_emulators.azure.errors import BAD_CIPHERTEXT, KeyVaultError, bad_parameter, not_emulated, required
from anykms_emulators.azure.keys import Json, Version, decode, encode, text
from anykms_emulators.material import (
    GCM_NONCE_BYTES,
    GCM_TAG_BYTES,
    CurveName,
    DecryptionError,
    EcKey,
    HashName,
    RsaKey,
    RsaPadding,
    SecretKey,
    digest_size,
)
from anykms_emulators.nonces import sign_with_nonce

if TYPE_CHECKING:
    from collections.abc import Mapping


class Nonces(Protocol):
    """Where a signature finds the nonce that a test gave for its curve; None for a fresh one."""

    def __call__(self, curve: CurveName, /) -> int | None: ...


# RSA1_5 has no hash
RSA_ENCRYPTION: Final[Mapping[str, HashName | None]] = {
    "RSA-OAEP-256": "SHA-256",
    "RSA-OAEP": "SHA-1",
    "RSA1_5": None,
}
RSA_SIGNING: Final[Mapping[str, tuple[RsaPadding, HashName]]] = {
    "RS256": ("PKCS1", "SHA-256"),
    "RS384": ("PKCS1", "SHA-384"),
    "RS512": ("PKCS1", "SHA-512"),
    "PS256": ("PSS", "SHA-256"),
    "PS384": ("PSS", "SHA-384"),
    "PS512": ("PSS", "SHA-512"),
}
EC_SIGNING: Final[Mapping[str, tuple[str, HashName]]] = {
    "ES256": ("P-256", "SHA-256"),
    "ES384": ("P-384", "SHA-384"),
    "ES512": ("P-521", "SHA-512"),
    "ES256K": ("P-256K", "SHA-256"),
}
RSA_RAW_SIGNING: Final = "RSNULL"
MAC: Final = ("HS256", "HS384", "HS512")
_CBC_IV_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class _Aes:
    """An algorithm of secret keys: `bits` of the key it needs (None: any), and its mode."""

    bits: int | None
    mode: str


AES_ENCRYPTION: Final = {
    f"A{bits}{mode}": _Aes(bits, mode) for bits in (128, 192, 256) for mode in ("GCM", "CBC", "CBCPAD")
}
AES_WRAPPING: Final = {f"A{bits}KW": _Aes(bits, "KW") for bits in (128, 192, 256)} | {
    "CKM_AES_KEY_WRAP": _Aes(None, "KW"),
    "CKM_AES_KEY_WRAP_PAD": _Aes(None, "KWP"),
}


def encrypt(version: Version, kid: str, body: Mapping[str, Any], *, wrap: bool) -> Json:
    """encrypt or wrapKey: the fields of the reply other than `kid`."""
    alg = _algorithm(body)
    plaintext = decode(body, "value")
    if isinstance(version.material, RsaKey):
        return {"value": encode(_rsa_encrypt(version.material, _rsa_hash(alg, version, kid), plaintext))}
    aes, key = _aes(alg, version, kid, wrap=wrap)
    if aes.mode == "GCM":
        if body.get("iv") is not None:
            raise bad_parameter("The service chooses the 'iv' of an AES-GCM encryption; send none.\r\n")
        aad, iv = _optional(body, "aad"), os.urandom(GCM_NONCE_BYTES)
        sealed = key.seal(plaintext, aad or b"", iv)
        shown = {"value": encode(sealed[:-GCM_TAG_BYTES]), "iv": encode(iv)}
        shown["tag"] = encode(sealed[-GCM_TAG_BYTES:])
        return shown | ({} if aad is None else {"aad": encode(aad)})
    if aes.mode in ("KW", "KWP"):
        return {"value": encode(_wrap(key, plaintext, padded=aes.mode == "KWP"))}
    iv = _iv(body)
    pkcs7 = aes.mode == "CBCPAD"
    if not pkcs7:
        plaintext += bytes(-len(plaintext) % 16)
    return {"value": encode(key.cbc_encrypt(plaintext, iv, pkcs7=pkcs7)), "iv": encode(iv)}


def decrypt(version: Version, kid: str, body: Mapping[str, Any], *, wrap: bool) -> Json:
    """decrypt or unwrapKey. Whatever is wrong with a ciphertext, the error is the same."""
    alg = _algorithm(body)
    ciphertext = decode(body, "value")
    try:
        if isinstance(version.material, RsaKey):
            hash_name = _rsa_hash(alg, version, kid)
            if hash_name is None:
                return {"value": encode(version.material.pkcs1_decrypt(ciphertext))}
            return {"value": encode(version.material.oaep_decrypt(ciphertext, hash_name))}
        return {"value": encode(_aes_decrypt(version, kid, alg, ciphertext, body, wrap=wrap))}
    except DecryptionError:
        raise bad_parameter(BAD_CIPHERTEXT) from None


def _aes_decrypt(
    version: Version, kid: str, alg: str, ciphertext: bytes, body: Mapping[str, Any], *, wrap: bool
) -> bytes:
    aes, key = _aes(alg, version, kid, wrap=wrap)
    if aes.mode == "GCM":
        iv, tag = decode(body, "iv"), decode(body, "tag")
        if len(iv) != GCM_NONCE_BYTES or len(tag) != GCM_TAG_BYTES:
            raise DecryptionError
        return key.open(ciphertext + tag, _optional(body, "aad") or b"", iv)
    if aes.mode in ("KW", "KWP"):
        return key.unwrap(ciphertext, padded=aes.mode == "KWP")
    return key.cbc_decrypt(ciphertext, _iv(body), pkcs7=aes.mode == "CBCPAD")


def sign(version: Version, kid: str, body: Mapping[str, Any], nonces: Nonces) -> Json:
    """sign: `value` is a digest, whose length must be the algorithm's. ECDSA answers r || s."""
    alg = _algorithm(body)
    digest = decode(body, "value")
    material = version.material
    if isinstance(material, EcKey):
        hash_name = _ec_hash(alg, version, kid)
        _digest_length(digest, "value", alg, hash_name)
        nonce = nonces(material.curve)
        if nonce is None:
            signature = material.sign(digest, hash_name, prehashed=True)
        else:
            signature = _with_nonce(material, digest, nonce)
        return {"value": encode(material.to_raw(signature))}
    return {"value": encode(_rsa_sign(version, kid, alg, digest, "value"))}


def verify(version: Version, kid: str, body: Mapping[str, Any]) -> Json:
    """verify: `digest` and the signature in `value`. A signature that does not fit is false, no error."""
    alg = _algorithm(body)
    digest, signature = decode(body, "digest"), decode(body, "value")
    material = version.material
    if isinstance(material, EcKey):
        hash_name = _ec_hash(alg, version, kid)
        _digest_length(digest, "digest", alg, hash_name)
        try:
            der = material.from_raw(signature)
        except ValueError:
            return {"value": False}
        return {"value": material.verify(der, digest, hash_name, prehashed=True)}
    rsa, padding = _rsa_signing(version, kid, alg)
    if padding is None:
        again = _rsa_sign(version, kid, alg, digest, "digest")
        return {"value": hmac.compare_digest(again, signature)}
    scheme, hash_name = padding
    _digest_length(digest, "digest", alg, hash_name)
    return {"value": rsa.verify(signature, digest, hash_name, scheme, prehashed=True)}


def _rsa_encrypt(key: RsaKey, hash_name: HashName | None, plaintext: bytes) -> bytes:
    limit = key.bits // 8 - 11 if hash_name is None else key.oaep_limit(hash_name)
    if len(plaintext) > limit:
        raise bad_parameter(
            f"Invalid length of 'value': {len(plaintext)} bytes. A key of {key.bits} bits takes at most "
            f"{limit} bytes, encoded with base64url."
        )
    return key.pkcs1_encrypt(plaintext) if hash_name is None else key.oaep_encrypt(plaintext, hash_name)


def _rsa_hash(alg: str, version: Version, kid: str) -> HashName | None:
    if alg not in RSA_ENCRYPTION:
        raise _incompatible("encryption", version, kid, alg)
    return RSA_ENCRYPTION[alg]


def _rsa_signing(version: Version, kid: str, alg: str) -> tuple[RsaKey, tuple[RsaPadding, HashName] | None]:
    if alg in MAC and isinstance(version.material, SecretKey):
        raise not_emulated("HMAC: whether it takes a digest or a message is not documented")
    if not isinstance(version.material, RsaKey) or alg not in {*RSA_SIGNING, RSA_RAW_SIGNING}:
        raise _incompatible("signing", version, kid, alg)
    return version.material, RSA_SIGNING.get(alg)


def _rsa_sign(version: Version, kid: str, alg: str, digest: bytes, name: str) -> bytes:
    rsa, padding = _rsa_signing(version, kid, alg)
    if padding is None:
        if len(digest) > rsa.bits // 8 - 11:
            raise bad_parameter(f"Invalid length of '{name}': {len(digest)} bytes.")
        return rsa.sign_raw_pkcs1(digest)
    scheme, hash_name = padding
    _digest_length(digest, name, alg, hash_name)
    return rsa.sign(digest, hash_name, scheme, prehashed=True)


def _ec_hash(alg: str, version: Version, kid: str) -> HashName:
    if alg not in EC_SIGNING:
        raise _incompatible("signing", version, kid, alg)
    curve, hash_name = EC_SIGNING[alg]
    if curve != version.crv:
        raise bad_parameter(
            f"Key and signing algorithm are incompatible. Key {kid} uses curve '{version.crv}', and "
            f"algorithm '{alg}' can only be used with curve '{curve}'."
        )
    return hash_name


def _with_nonce(key: EcKey, digest: bytes, nonce: int) -> bytes:
    try:
        return sign_with_nonce(key, digest, nonce)
    except ValueError as error:
        raise bad_parameter(f"The nonce that the test gave does not do: {error}.") from None


def _digest_length(digest: bytes, name: str, alg: str, hash_name: HashName) -> None:
    size = digest_size(hash_name)
    if len(digest) != size:
        raise bad_parameter(
            f"Invalid length of '{name}': {len(digest)} bytes. {alg} requires {size} bytes, encoded with "
            "base64url."
        )


def _algorithm(body: Mapping[str, Any]) -> str:
    alg = text(body, "alg")
    if not alg:
        raise required("alg")
    known = {*RSA_ENCRYPTION, *RSA_SIGNING, *EC_SIGNING, *AES_ENCRYPTION, *AES_WRAPPING, *MAC}
    if alg not in known and alg != RSA_RAW_SIGNING:
        raise bad_parameter("Unsupported algorithm.\r\n")
    return alg


def _aes(alg: str, version: Version, kid: str, *, wrap: bool) -> tuple[_Aes, SecretKey]:
    aes = (AES_WRAPPING if wrap else AES_ENCRYPTION).get(alg)
    if aes is None or not isinstance(version.material, SecretKey):
        raise _incompatible("encryption", version, kid, alg)
    if aes.bits is not None and aes.bits != version.key_size:
        raise bad_parameter(f"Algorithm '{alg}' needs a key of {aes.bits} bits, not {version.key_size}.")
    return aes, version.material


def _incompatible(kind: str, version: Version, kid: str, alg: str) -> KeyVaultError:
    return bad_parameter(
        f"Key and {kind} algorithm are incompatible. Key {kid} is of type '{version.kty}', and algorithm "
        f"'{alg}' cannot be used with it."
    )


def _wrap(key: SecretKey, secret: bytes, *, padded: bool) -> bytes:
    try:
        return key.wrap(secret, padded=padded)
    except ValueError:
        raise bad_parameter(
            "AES key wrap takes at least 16 bytes, in whole blocks of 8 (RFC 3394).\r\n"
        ) from None


def _iv(body: Mapping[str, Any]) -> bytes:
    iv = decode(body, "iv")
    if len(iv) != _CBC_IV_BYTES:
        raise bad_parameter(f"Invalid length of 'iv': {len(iv)} bytes. AES-CBC requires {_CBC_IV_BYTES}.")
    return iv


def _optional(body: Mapping[str, Any], name: str) -> bytes | None:
    return None if body.get(name) in (None, "") else decode(body, name)
