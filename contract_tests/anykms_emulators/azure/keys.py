"""Key versions as a vault holds and shows them: JSON web keys (RFC 7517), attributes, key_ops, tags."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeGuard, cast

from anykms_emulators.azure.errors import KeyVaultError, bad_parameter, not_emulated, required, wrong_type
from anykms_emulators.material import AES_BYTES, RSA_BITS, CurveName, EcKey, RsaKey, SecretKey

if TYPE_CHECKING:
    from collections.abc import Mapping

Json: TypeAlias = dict[str, Any]
Sku: TypeAlias = Literal["standard", "premium", "hsm"]
Material: TypeAlias = RsaKey | EcKey | SecretKey

# oldest first; a reply shows only what its api-version knew of
API_VERSIONS: Final = (
    "2016-10-01",
    "7.0",
    "7.1",
    "7.2",
    "7.3",
    "7.4-preview.1",
    "7.4",
    "7.5-preview.1",
    "7.5",
    "7.6-preview.1",
    "7.6-preview.2",
    "7.6",
    "2025-06-01-preview",
    "2025-07-01",
    "2026-01-01-preview",
    "2026-03-01-preview",
    "2026-04-01",
)


def since(version: str) -> int:
    """Where `version` stands in API_VERSIONS."""
    return API_VERSIONS.index(version)


NAME: Final = re.compile(r"[0-9A-Za-z-]{1,127}\Z")
MAX_TAGS: Final = 15
MAX_TAG_CHARACTERS: Final = 256
LATEST_TIME: Final = 253_402_300_799  # the end of the year 9999, the service's own limit
CURVES: Final[Mapping[str, CurveName]] = {
    "P-256": "P-256",
    "P-384": "P-384",
    "P-521": "P-521",
    "P-256K": "secp256k1",
}
_CRV: Final = {curve: name for name, curve in CURVES.items()}
_RSA_OPS: Final = ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey")
_EC_OPS: Final = ("sign", "verify")
_OCT_OPS: Final = ("encrypt", "decrypt", "wrapKey", "unwrapKey")
_BASE64URL: Final = re.compile(r"[0-9A-Za-z_-]+\Z")
_POLICY_TYPE: Final = "application/json; charset=utf-8"
_RSA_FIELDS: Final = ("n", "e", "d", "p", "q", "dp", "dq", "qi")


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of one version; times are whole seconds since 1970."""

    enabled: bool
    nbf: int | None
    exp: int | None
    created: int
    updated: int
    exportable: bool = False


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """A policy for secure key release, kept and shown, never evaluated."""

    content_type: str
    data: str
    immutable: bool


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a key. Replaced as a whole when its attributes, key_ops or tags change."""

    id: str
    kty: str
    material: Material
    key_ops: tuple[str, ...]
    attributes: Attributes
    tags: Mapping[str, str] | None
    release_policy: ReleasePolicy | None

    @property
    def crv(self) -> str | None:
        """The curve as JSON web keys name it; None for another kind of key."""
        return _CRV[self.material.curve] if isinstance(self.material, EcKey) else None

    @property
    def key_size(self) -> int | None:
        """Bits of an RSA modulus or a secret key; None for an elliptic-curve key."""
        if isinstance(self.material, RsaKey):
            return self.material.bits
        return None if isinstance(self.material, EcKey) else 8 * len(self.material)


def new_id() -> str:
    """A version: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(fields: Mapping[str, Any], name: str) -> bytes:
    """The bytes of a required base64url property. Padding, `+`, `/` and white space are refused."""
    value = fields.get(name)
    if value is None or value == "":
        raise required(name)
    if not isinstance(value, str):
        raise wrong_type(name)
    try:
        if not _BASE64URL.match(value):
            raise binascii.Error
        data = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except binascii.Error:
        data = None
    if data is None or encode(data) != value:
        raise bad_parameter(f"Content of '{name}' is not base64url.\r\nProperty '{name}' is required.\r\n")
    return data


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether a JSON value is an array."""
    return isinstance(value, list)


def text(fields: Mapping[str, Any], name: str) -> str | None:
    """An optional string property."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong_type(name)
    return value


def _whole(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(name)
    return value


def _flag(fields: Mapping[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong_type(name)
    return value


def section(fields: Mapping[str, Any], name: str) -> Json:
    """An optional object property, {} when absent."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type(name)
    return cast("Json", value)


def new_attributes(body: Mapping[str, Any], now: int) -> Attributes:
    """The attributes of a version to create or import."""
    fields = section(body, "attributes")
    enabled, exportable = _flag(fields, "enabled"), _flag(fields, "exportable")
    return _checked(
        Attributes(
            enabled=True if enabled is None else enabled,
            nbf=_time(fields, "nbf"),
            exp=_time(fields, "exp"),
            created=now,
            updated=now,
            exportable=bool(exportable),
        )
    )


def changed_attributes(old: Attributes, body: Mapping[str, Any], now: int) -> Attributes:
    """`old` with what an update names; what it leaves out stays."""
    fields = section(body, "attributes")
    enabled, exportable = _flag(fields, "enabled"), _flag(fields, "exportable")
    nbf, exp = _time(fields, "nbf"), _time(fields, "exp")
    if exportable is not None and exportable != old.exportable:
        raise bad_parameter("The exportable attribute of a key cannot be changed.")
    return _checked(
        Attributes(
            enabled=old.enabled if enabled is None else enabled,
            nbf=old.nbf if nbf is None else nbf,
            exp=old.exp if exp is None else exp,
            created=old.created,
            updated=now,
            exportable=old.exportable,
        )
    )


def _time(fields: Mapping[str, Any], name: str) -> int | None:
    value = _whole(fields, name)
    if value is not None and not 0 <= value <= LATEST_TIME:
        raise wrong_type(name)
    return value


def _checked(attributes: Attributes) -> Attributes:
    if attributes.nbf is not None and attributes.exp is not None and attributes.exp <= attributes.nbf:
        raise bad_parameter("The expiration date must be after the activation date.\r\n")
    return attributes


def parse_tags(body: Mapping[str, Any]) -> Mapping[str, str] | None:
    """The tags of a request, at most 15 of at most 256 characters; None when it names none."""
    tags = body.get("tags")
    if tags is None:
        return None
    if not isinstance(tags, dict):
        raise wrong_type("tags")
    pairs = cast("Json", tags)
    if len(pairs) > MAX_TAGS:
        raise bad_parameter(f"Too many tags: {len(pairs)}. The limit is {MAX_TAGS}.")
    for name, value in pairs.items():
        if not isinstance(value, str):
            raise wrong_type("tags")
        if len(name) > MAX_TAG_CHARACTERS or len(value) > MAX_TAG_CHARACTERS:
            raise bad_parameter(f"A tag name or value is longer than {MAX_TAG_CHARACTERS} characters.")
    return dict(pairs)


def parse_key_ops(fields: Mapping[str, Any], kty: str, *, managed_hsm: bool) -> tuple[str, ...] | None:
    """The key_ops of a request in its order, each allowed for `kty`; None when it names none."""
    ops = fields.get("key_ops")
    if ops is None:
        return None
    if not is_list(ops):
        raise wrong_type("key_ops")
    allowed = {*default_key_ops(kty, managed_hsm=managed_hsm), "import", "export"}
    if kty.startswith("oct"):
        allowed |= {"sign", "verify"}  # HMAC, which nobody gets without asking
    names: list[str] = []
    for op in ops:
        if not isinstance(op, str) or op not in allowed:
            raise bad_parameter(f"Invalid operation in 'key_ops' for a key of type '{kty}'.\r\n")
        if op not in names:
            names.append(op)
    if "import" in names and (len(names) > 1 or kty != "RSA-HSM"):
        # the key exchange key of bring-your-own-key (Microsoft's BYOK specification)
        raise bad_parameter("The operation 'import' stands alone, on a key of type 'RSA-HSM'.\r\n")
    return tuple(names)


def default_key_ops(kty: str, *, managed_hsm: bool) -> tuple[str, ...]:
    """What a key may do when its creator does not say."""
    if kty.startswith("RSA"):
        return _RSA_OPS
    if kty.startswith("EC"):
        return (*_EC_OPS, "deriveKey") if managed_hsm else _EC_OPS
    return _OCT_OPS


def resolve_kty(fields: Mapping[str, Any], sku: Sku, *, hsm: bool = False) -> str:
    """The kind of key a request gets. A managed HSM turns the software kinds into its own."""
    kty = text(fields, "kty")
    if not kty:
        raise required("kty")
    if sku == "hsm" or hsm:
        kty = {"RSA": "RSA-HSM", "EC": "EC-HSM", "oct": "oct-HSM"}.get(kty, kty)
    offered = {"RSA", "EC"} if sku == "standard" else {"RSA", "EC", "RSA-HSM", "EC-HSM", "oct-HSM"}
    if kty not in offered:
        raise bad_parameter(f"Invalid kty value: {kty}", "KeyTypeNotSupported")
    return kty


def generate(fields: Mapping[str, Any], kty: str) -> Material:
    """New material of the size or curve that a create request asks for."""
    size = _whole(fields, "key_size")
    if kty.startswith("EC"):
        return EcKey.generate(_curve(text(fields, "crv") or "P-256"))
    if kty.startswith("RSA"):
        exponent = _whole(fields, "public_exponent")
        if exponent not in (None, 65537):
            raise not_emulated("RSA public exponents other than 65537")
        if size is not None and size not in RSA_BITS:
            raise _key_size(size, RSA_BITS)
        return RsaKey.generate(size or RSA_BITS[0])
    sizes = tuple(8 * length for length in AES_BYTES)
    if size is not None and size not in sizes:
        raise _key_size(size, sizes)
    return SecretKey.generate((size or sizes[-1]) // 8)


def load(fields: Mapping[str, Any], kty: str) -> Material:
    """The material in the JSON web key of an import request."""
    if fields.get("key_hsm") is not None:
        raise not_emulated("bring-your-own-key imports of wrapped HSM keys; import a JSON web key")
    if kty.startswith("EC"):
        return _load_ec(fields)
    if kty.startswith("RSA"):
        return _load_rsa(fields)
    secret = decode(fields, "k")
    if len(secret) not in AES_BYTES:
        raise _key_size(8 * len(secret), tuple(8 * length for length in AES_BYTES))
    return SecretKey(secret)


def _load_ec(fields: Mapping[str, Any]) -> EcKey:
    crv = text(fields, "crv")
    if not crv:
        raise required("crv")
    curve = _curve(crv)
    numbers = {name: int.from_bytes(decode(fields, name), "big") for name in ("x", "y", "d")}
    try:
        key = EcKey.from_scalar(curve, numbers["d"])
    except ValueError:
        raise bad_parameter("The private value 'd' is outside the curve's range.\r\n") from None
    public = key.public_numbers()
    if (public.x, public.y) != (numbers["x"], numbers["y"]):
        raise bad_parameter("The public point does not belong to the private value.\r\n")
    return key


def _load_rsa(fields: Mapping[str, Any]) -> RsaKey:
    numbers = {name: int.from_bytes(decode(fields, name), "big") for name in _RSA_FIELDS}
    n, e, d, p, q = (numbers[name] for name in ("n", "e", "d", "p", "q"))
    if n.bit_length() not in RSA_BITS:
        raise _key_size(n.bit_length(), RSA_BITS)
    if p < 2 or q < 2 or p * q != n:
        raise bad_parameter("The RSA key's numbers do not belong together.\r\n")
    try:
        key = RsaKey.from_numbers(n, e, d, p, q)
        crt = key.private.private_numbers()
    except (ValueError, ArithmeticError):
        raise bad_parameter("The RSA key's numbers do not belong together.\r\n") from None
    if (crt.dmp1, crt.dmq1, crt.iqmp) != (numbers["dp"], numbers["dq"], numbers["qi"]):
        raise bad_parameter("The RSA key's numbers do not belong together.\r\n")
    return key


def _curve(crv: str) -> CurveName:
    if crv not in CURVES:
        raise bad_parameter(f"Unsupported curve ({crv}). Supported curves are [{', '.join(CURVES)}].")
    return CURVES[crv]


def _key_size(size: int, sizes: tuple[int, ...]) -> KeyVaultError:
    return bad_parameter(
        f"Unsupported key size ({size}). Supported sizes are [{', '.join(map(str, sizes))}]."
    )


def parse_release(
    body: Mapping[str, Any], kty: str, sku: Sku, api: int, *, exportable: bool
) -> ReleasePolicy | None:
    """The release policy of a key to be made, which an exportable key must have and no other may."""
    fields = section(body, "release_policy")
    if exportable and (sku == "standard" or not kty.endswith("-HSM") or api < since("7.3")):
        raise bad_parameter(
            "AKV.SKR.1001: The exportable attribute is only supported with premium vaults and API version "
            ">= '7.3-preview'."
        )
    if not exportable and fields:
        raise bad_parameter("AKV.SKR.1005: Non-exportable keys must not have release policy")
    if exportable and not fields:
        raise bad_parameter("Exportable keys must have release policy")
    if not fields:
        return None
    try:
        policy: object = json.loads(decode(fields, "data"))
    except (ValueError, RecursionError):
        policy = None
    if not isinstance(policy, dict):
        raise bad_parameter("The release policy is not a JSON object.")
    content_type = text(fields, "contentType") or _POLICY_TYPE
    return ReleasePolicy(content_type, cast("str", fields["data"]), bool(_flag(fields, "immutable")))


def public_jwk(version: Version, kid: str) -> Json:
    """The public half of a version: never a private number, and nothing of a secret key."""
    shown: Json = {"kid": kid, "kty": version.kty, "key_ops": list(version.key_ops)}
    if isinstance(version.material, RsaKey):
        rsa = version.material.public_numbers()
        return shown | {"n": _number(rsa.n), "e": _number(rsa.e)}
    if isinstance(version.material, EcKey):
        point, width = version.material.public_numbers(), version.material.field_bytes
        x, y = encode(point.x.to_bytes(width, "big")), encode(point.y.to_bytes(width, "big"))
        return shown | {"crv": version.crv, "x": x, "y": y}
    return shown


def _number(value: int) -> str:
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def attributes_json(version: Version, api: int, *, sku: Sku, level: str, days: int) -> Json:
    """The attributes of a version as `api` shows them."""
    held = version.attributes
    shown: Json = {"enabled": held.enabled}
    if api >= since("2025-06-01-preview") and version.key_size is not None:
        shown["key_size"] = version.key_size
    if held.nbf is not None:
        shown["nbf"] = held.nbf
    if held.exp is not None:
        shown["exp"] = held.exp
    shown |= {"created": held.created, "updated": held.updated, "recoveryLevel": level}
    if api >= since("7.1"):
        shown["recoverableDays"] = days
    if api >= since("7.3"):
        shown["exportable"] = held.exportable
    if api >= since("7.5-preview.1") and sku != "hsm":
        shown["hsmPlatform"] = "2" if version.kty.endswith("-HSM") else "0"
    return shown


def release_json(policy: ReleasePolicy) -> Json:
    """A release policy as replies show it."""
    return {"contentType": policy.content_type, "data": policy.data, "immutable": policy.immutable}
