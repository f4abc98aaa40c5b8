"""ECDSA with a given nonce, so that a test can ask for a signature whose r or s is short.

NOT for anything but tests: a nonce that is known or used twice gives the private key away, and the integer
arithmetic here takes a time that depends on its operands.

    >>> vector = next(v for v in SHORT_SIGNATURES if (v.curve, v.part, v.zeros) == ("P-256", "s", 3))
    >>> key = EcKey.from_scalar(vector.curve, vector.scalar)
    >>> r, s = utils.decode_dss_signature(sign_with_nonce(key, vector.digest(), vector.nonce))
    >>> s.to_bytes(32, "big")[:3]
    b'\\x00\\x00\\x00'
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal, cast

from cryptography.hazmat.primitives.asymmetric import ec, utils

from anykms_emulators.material import CurveName, EcKey, HashName, digest

_HASHES: Final[dict[CurveName, HashName]] = {
    "P-256": "SHA-256",
    "P-384": "SHA-384",
    "P-521": "SHA-512",
    "secp256k1": "SHA-256",
}
_CURVES: Final[dict[CurveName, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}


@dataclass(frozen=True, slots=True)
class ShortSignature:
    """A key, a nonce and a message whose signature has exactly `zeros` leading zero bytes in r or in s.

    Widths are those of RFC 7518 section 3.4: 32, 48 or 66 bytes for r and for s.
    """

    curve: CurveName
    part: Literal["r", "s"]
    zeros: int
    scalar: int
    nonce: int
    message: bytes

    @property
    def hash_name(self) -> HashName:
        """The hash of the curve's usual algorithm (ES256, ES384, ES512, ES256K)."""
        return _HASHES[self.curve]

    def digest(self) -> bytes:
        """The digest to be signed."""
        return digest(self.hash_name, self.message)


def check_nonce(curve: CurveName, nonce: int) -> int:
    """`nonce` itself; ValueError unless it is between 1 and the curve's order - 1."""
    if not 1 <= nonce < _CURVES[curve].group_order:
        raise ValueError(f"a nonce for {curve} is between 1 and the order of the curve - 1")
    return nonce


def sign_with_nonce(key: EcKey, prehashed: bytes, nonce: int) -> bytes:
    """ECDSA over a digest (FIPS 186-5 section 6.4.1), DER. Not constant time; see the module.

    Raises ValueError for a nonce out of range and for the rare one that gives r or s = 0.
    """
    check_nonce(key.curve, nonce)
    curve = _CURVES[key.curve]
    order = curve.group_order
    surplus = max(0, 8 * len(prehashed) - order.bit_length())
    hashed = int.from_bytes(prehashed, "big") >> surplus
    r = ec.derive_private_key(nonce, curve).public_key().public_numbers().x % order
    scalar = key.private.private_numbers().private_value
    s = pow(nonce, -1, order) * (hashed + r * scalar) % order
    if r == 0 or s == 0:
        raise ValueError("this nonce gives no signature")
    return utils.encode_dss_signature(r, s)


def _load() -> tuple[ShortSignature, ...]:
    table = resources.files("anykms_emulators").joinpath("short_signatures.json").read_text(encoding="ascii")
    rows = cast("list[dict[str, str]]", json.loads(table))
    return tuple(
        ShortSignature(
            cast("CurveName", row["curve"]),
            cast('Literal["r", "s"]', row["part"]),
            int(row["zeros"]),
            int(row["scalar"], 16),
            int(row["nonce"], 16),
            row["message"].encode("ascii"),
        )
        for row in rows
    )


SHORT_SIGNATURES: Final = _load()
