"""PKCS#11's words for the contract's algorithms, and what a token turns out to have of them.

Sources: PKCS #11 v2.40 current mechanisms, v3.0 for EdDSA; RFC 8017 9.2 for DigestInfo.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import MGF, Attribute, KeyType, Mechanism, MechanismFlag, PKCS11Error, Session, Slot, SlotFlag
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

from anykms.algorithms import Algorithm
from anykms.errors import UnsupportedOperationError
from anykms.keys import ProtectionLevel
from anykms.provider import LIFECYCLE, Capability, Operation, capabilities


@dataclass(frozen=True, slots=True)
class Spec:
    """How PKCS#11 spells a key of one algorithm and what is done with it.

    Attributes:
        key_type: CKA_KEY_TYPE.
        usage: the CKA_ attributes that let the object be used; taken away while a key is disabled.
        mechanism: signs, MACs or encrypts.
        parameter: of the mechanism, where it is the same each time.
        prefix: DER that stands before the digest (DigestInfo).
        bits: size of a secret key.
        curve: DER of CKA_EC_PARAMS.
    """

    key_type: KeyType
    usage: tuple[Attribute, ...]
    mechanism: Mechanism
    parameter: Any = None
    prefix: bytes = b""
    bits: int | None = None
    curve: bytes | None = None


_SIGN: Final = (Attribute.SIGN,)
_ED25519: Final = bytes.fromhex("06032b6570")
"""The object identifier 1.3.101.112 (RFC 8410), DER."""


def _rsa(mechanism: Mechanism, parameter: Any = None, prefix: str = "") -> Spec:
    return Spec(KeyType.RSA, _SIGN, mechanism, parameter, bytes.fromhex(prefix))


def _ecdsa(name: str) -> Spec:
    return Spec(KeyType.EC, _SIGN, Mechanism.ECDSA, curve=encode_named_curve_parameters(name))


def _hmac(mechanism: Mechanism, bits: int) -> Spec:
    return Spec(KeyType.GENERIC_SECRET, _SIGN, mechanism, bits=bits)


SPECS: Final[Mapping[Algorithm, Spec]] = {
    Algorithm.A256GCM: Spec(KeyType.AES, (Attribute.ENCRYPT, Attribute.DECRYPT), Mechanism.AES_GCM, bits=256),
    Algorithm.RS256: _rsa(Mechanism.RSA_PKCS, prefix="3031300d060960864801650304020105000420"),
    Algorithm.RS384: _rsa(Mechanism.RSA_PKCS, prefix="3041300d060960864801650304020205000430"),
    Algorithm.RS512: _rsa(Mechanism.RSA_PKCS, prefix="3051300d060960864801650304020305000440"),
    Algorithm.PS256: _rsa(Mechanism.RSA_PKCS_PSS, (Mechanism.SHA256, MGF.SHA256, 32)),
    Algorithm.PS384: _rsa(Mechanism.RSA_PKCS_PSS, (Mechanism.SHA384, MGF.SHA384, 48)),
    Algorithm.PS512: _rsa(Mechanism.RSA_PKCS_PSS, (Mechanism.SHA512, MGF.SHA512, 64)),
    Algorithm.ES256: _ecdsa("secp256r1"),
    Algorithm.ES384: _ecdsa("secp384r1"),
    Algorithm.ES512: _ecdsa("secp521r1"),
    Algorithm.ES256K: _ecdsa("secp256k1"),
    Algorithm.ED25519: Spec(KeyType.EC_EDWARDS, _SIGN, Mechanism.EDDSA, curve=_ED25519),
    Algorithm.HS256: _hmac(Mechanism.SHA256_HMAC, 256),
    Algorithm.HS384: _hmac(Mechanism.SHA384_HMAC, 384),
    Algorithm.HS512: _hmac(Mechanism.SHA512_HMAC, 512),
}
"""RSA-OAEP-256 is not here: no mechanism list tells whether a token's OAEP has SHA-256 (SoftHSM 2.6: SHA-1 only)."""

_GENERATORS: Final = {
    KeyType.AES: Mechanism.AES_KEY_GEN,
    KeyType.GENERIC_SECRET: Mechanism.GENERIC_SECRET_KEY_GEN,
    KeyType.RSA: Mechanism.RSA_PKCS_KEY_PAIR_GEN,
    KeyType.EC: Mechanism.EC_KEY_PAIR_GEN,
    KeyType.EC_EDWARDS: Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
}
# A token that hashes and pads by itself with a digest has that digest for PSS at all.
_PSS_WITH_DIGEST: Final = {
    Algorithm.PS256: Mechanism.SHA256_RSA_PKCS_PSS,
    Algorithm.PS384: Mechanism.SHA384_RSA_PKCS_PSS,
    Algorithm.PS512: Mechanism.SHA512_RSA_PKCS_PSS,
}
_CURVES: Final[Mapping[Algorithm, tuple[ec.EllipticCurve, hashes.HashAlgorithm]]] = {
    Algorithm.ES256: (ec.SECP256R1(), hashes.SHA256()),
    Algorithm.ES384: (ec.SECP384R1(), hashes.SHA384()),
    Algorithm.ES512: (ec.SECP521R1(), hashes.SHA512()),
    Algorithm.ES256K: (ec.SECP256K1(), hashes.SHA256()),
}
_WRAPS: Final = (Operation.GENERATE_KEY, Operation.ROTATE_KEY, Operation.WRAP, Operation.UNWRAP)
_SIGNS: Final = (Operation.GENERATE_KEY, Operation.GET_PUBLIC_KEY, Operation.SIGN)
_MACS: Final = (Operation.GENERATE_KEY, Operation.MAC, Operation.VERIFY_MAC)


def spec_of(algorithm: Algorithm) -> Spec:
    """The row of an algorithm.

    Raises:
        UnsupportedOperationError: this adapter has none.
    """
    spec = SPECS.get(algorithm)
    if spec is None:
        raise UnsupportedOperationError(f"anykms has no {algorithm} keys on PKCS#11 tokens")
    return spec


def generate(
    session: Session,
    algorithm: Algorithm,
    key_size: int | None,
    *,
    object_id: bytes,
    label: str,
    stored: bool,
) -> tuple[Any, bytes | None]:
    """A new object of that algorithm, usable and never extractable, and its SPKI DER if it is a key pair.

    The public half is a session object that goes at once: anykms keeps the SPKI instead.
    """
    spec = spec_of(algorithm)
    guarded = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
    capability = MechanismFlag.SIGN
    if algorithm is Algorithm.A256GCM:
        capability = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
    if spec.bits is not None:
        secret = session.generate_key(
            spec.key_type,
            spec.bits,
            id=object_id,
            label=label,
            store=stored,
            capabilities=capability,
            template=guarded,
        )
        return secret, None
    named: dict[str, Any] = {
        "id": object_id,
        "label": label,
        "store": stored,
        "capabilities": capability,
        "public_template": {Attribute.TOKEN: False},
        "private_template": guarded,
    }
    if spec.curve is None:
        public, private = session.generate_keypair(spec.key_type, key_size, **named)
    else:
        parameters = session.create_domain_parameters(
            spec.key_type, {Attribute.EC_PARAMS: spec.curve}, local=True
        )
        mechanism = _GENERATORS[spec.key_type]
        public, private = parameters.generate_keypair(mechanism=mechanism, **named)
    try:
        spki = _spki(spec.key_type, public)
    except BaseException:
        cast("Any", private).destroy()
        raise
    finally:
        cast("Any", public).destroy()
    return private, spki


def _spki(key_type: KeyType, public: Any) -> bytes:
    """SubjectPublicKeyInfo of a public object, as pyca writes it."""
    found: rsa.RSAPublicKey | ed25519.Ed25519PublicKey | Any
    if key_type is KeyType.RSA:
        exponent = int.from_bytes(public[Attribute.PUBLIC_EXPONENT])
        found = rsa.RSAPublicNumbers(exponent, int.from_bytes(public[Attribute.MODULUS])).public_key()
    elif key_type is KeyType.EC:
        found = load_der_public_key(encode_ec_public_key(public))
    else:
        # Tokens give the 32 bytes bare (PKCS #11 v3.0) or as a DER octet string.
        found = ed25519.Ed25519PublicKey.from_public_bytes(public[Attribute.EC_POINT][-32:])
    return found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def level_of(slot: Slot) -> ProtectionLevel:
    """HSM where the slot says that it is a hardware slot (CKF_HW_SLOT), else SOFTWARE."""
    return ProtectionLevel.HSM if SlotFlag.HW_SLOT in slot.flags else ProtectionLevel.SOFTWARE


def capabilities_of(session: Session, slot: Slot) -> frozenset[Capability]:
    """What the token can do: by its list of mechanisms and, for curves, which no list names, by trying."""
    mechanisms = slot.get_mechanisms()
    found = set(capabilities(LIFECYCLE, {}, ()))
    level = (level_of(slot),)
    for algorithm, spec in SPECS.items():
        needed = {spec.mechanism, _GENERATORS[spec.key_type], _PSS_WITH_DIGEST.get(algorithm, spec.mechanism)}
        if not needed <= mechanisms or (spec.curve is not None and not _signs(session, algorithm)):
            continue
        served = {KeyType.AES: _WRAPS, KeyType.GENERIC_SECRET: _MACS}.get(spec.key_type, _SIGNS)
        sizes: tuple[int, ...] = ()
        if spec.key_type is KeyType.RSA:
            limits = slot.get_mechanism_info(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
            lowest, highest = limits.min_key_length or 0, limits.max_key_length or 0
            sizes = tuple(size for size in algorithm.spec.key_sizes if lowest <= size <= highest)
            if not sizes:
                continue
        found |= capabilities((), {algorithm: served}, level, key_sizes={algorithm: sizes})
    return frozenset(found)


def _signs(session: Session, algorithm: Algorithm) -> bool:
    """Whether the token makes a key pair on the curve, for this session only, whose signature verifies."""
    message = os.urandom(algorithm.spec.digest_size or 32)
    try:
        private, spki = generate(
            session, algorithm, None, object_id=os.urandom(16), label="anykms/probe", stored=False
        )
        signature = private.sign(message, mechanism=SPECS[algorithm].mechanism)
        private.destroy()
    except PKCS11Error:
        return False
    public = load_der_public_key(spki or b"")
    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, message)
            return True
        _, digest = _CURVES[algorithm]
        half = len(signature) // 2
        der = utils.encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
        cast("ec.EllipticCurvePublicKey", public).verify(der, message, ec.ECDSA(utils.Prehashed(digest)))
    except InvalidSignature:
        return False
    return True
