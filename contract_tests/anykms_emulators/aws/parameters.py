"""What every operation takes, and the two kinds of refusal that come before any look at a key.

The table restates AWS's service model (botocore `kms/2014-11-01/service-2.json`); a test compares the two.
A value of the wrong JSON type is a SerializationException. A value out of its bounds is a
ValidationException in AWS's own words, all of them in one message:
"2 validation errors detected: Value '0' at 'numberOfBytes' failed to satisfy constraint: ...; Value ...".

SM2 (China only), ML_KEM_512 (pyca has none) are not in the value sets, as they are not in the region's.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from anykms_emulators.aws.errors import KmsError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

Parameters: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """A string with bounds on its length, a pattern, or a set of values in AWS's order."""

    least: int | None = None
    most: int | None = None
    pattern: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Blob:
    """Base64 in JSON, bytes for the operation. A sensitive one is never shown in a message."""

    least: int
    most: int
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds since the epoch, with fractions; a UTC datetime for the operation."""


@dataclass(frozen=True, slots=True)
class StringMap:
    """String to string."""


@dataclass(frozen=True, slots=True)
class Many:
    """A list."""

    of: Kind
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A structure."""

    members: Mapping[str, Kind | Need]


@dataclass(frozen=True, slots=True)
class Need:
    """A required member."""

    kind: Kind


Kind: TypeAlias = Text | Blob | Whole | Flag | Moment | StringMap | Many | Group

_RSA: Final = ("RSA_2048", "RSA_3072", "RSA_4096")
_ECC: Final = ("ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1")

FLAG: Final = Flag()
KEY_ID: Final = Text(1, 2048)
REGION: Final = Text(1, 32, r"^([a-z]+-){2,3}\d+$")
ALIAS: Final = Text(1, 256, r"^[a-zA-Z0-9:/_-]+$")
POLICY: Final = Text(1, 131072, r"[\u0009\u000A\u000D\u0020-\u00FF]+")
POLICY_NAME: Final = Text(1, 128, r"[\w]+")
DESCRIPTION: Final = Text(0, 8192)
TAG_KEY: Final = Text(1, 128)
TAGS: Final = Many(Group({"TagKey": Need(TAG_KEY), "TagValue": Need(Text(0, 256))}))
LIMIT: Final = Whole(1, 1000)
MARKER: Final = Text(1, 1024, r"[\u0020-\u00FF]*")
CONTEXT: Final = StringMap()
GRANT_TOKEN: Final = Text(1, 8192)
GRANT_TOKENS: Final = Many(GRANT_TOKEN, 0, 10)
GRANT_ID: Final = Text(1, 128)
GRANT_NAME: Final = Text(1, 256, r"^[a-zA-Z0-9:/_-]+$")
PRINCIPAL: Final = Text(1, 256, r"^[\w+=,.@:/-]+$")
SERVICE_PRINCIPAL: Final = Text(1, 128, r"^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$")
STORE_ID: Final = Text(1, 64)
STORE_NAME: Final = Text(1, 256)
MATERIAL_ID: Final = Text(64, 64, r"^[a-f0-9]+$")
PLAINTEXT: Final = Blob(1, 4096, sensitive=True)
CIPHERTEXT: Final = Blob(1, 6144)

# recorded orders: localstack snapshots test_hmac_create_key_invalid_operations, test_invalid_generate_mac
KEY_SPEC: Final = Text(
    values=(
        "RSA_2048", "ECC_NIST_P384", "ECC_NIST_P256", "ECC_NIST_P521", "HMAC_384", "RSA_3072",
        "ECC_SECG_P256K1", "RSA_4096", "SYMMETRIC_DEFAULT", "HMAC_256", "HMAC_224", "HMAC_512",
        "ML_DSA_44", "ML_DSA_65", "ML_DSA_87", "ECC_NIST_EDWARDS25519", "ML_KEM_768", "ML_KEM_1024",
    )
)  # fmt: skip
MASTER_KEY_SPEC: Final = Text(values=KEY_SPEC.values[:12])
KEY_USAGE: Final = Text(
    values=("ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT",
            "ENCAPSULATE_DECAPSULATE")
)  # fmt: skip
MAC_ALGORITHM: Final = Text(values=("HMAC_SHA_384", "HMAC_SHA_256", "HMAC_SHA_224", "HMAC_SHA_512"))
ORIGIN: Final = Text(values=("AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"))
DATA_KEY_SPEC: Final = Text(values=("AES_256", "AES_128"))
PAIR_SPEC: Final = Text(values=(*_RSA, *_ECC, "ECC_NIST_EDWARDS25519", "ML_KEM_768", "ML_KEM_1024"))
ENCRYPTION_ALGORITHM: Final = Text(values=("SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"))
SIGNING_ALGORITHM: Final = Text(
    values=(
        "RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
        "RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
        "ECDSA_SHA_256", "ECDSA_SHA_384", "ECDSA_SHA_512",
        "ML_DSA_SHAKE_256", "ED25519_SHA_512", "ED25519_PH_SHA_512",
    )
)  # fmt: skip
MESSAGE_TYPE: Final = Text(values=("RAW", "DIGEST", "EXTERNAL_MU"))
AGREEMENT_ALGORITHM: Final = Text(values=("ECDH",))
ENCAPSULATION_ALGORITHM: Final = Text(values=("ML_KEM",))
WRAPPING_ALGORITHM: Final = Text(
    values=("RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1",
            "RSA_AES_KEY_WRAP_SHA_256")
)  # fmt: skip
WRAPPING_KEY_SPEC: Final = Text(values=_RSA)
GRANT_OPERATION: Final = Text(
    values=(
        "Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom",
        "ReEncryptTo", "Sign", "Verify", "GetPublicKey", "CreateGrant", "RetireGrant", "DescribeKey",
        "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "GenerateMac", "VerifyMac",
        "DeriveSharedSecret", "Encapsulate", "Decapsulate",
    )
)  # fmt: skip
RECIPIENT: Final = Group(
    {
        "KeyEncryptionAlgorithm": Text(values=("RSAES_OAEP_SHA_256",)),
        "AttestationDocument": Blob(1, 262144),
    }
)
DRY_RUN_MODIFIERS: Final = Many(Text(values=("IGNORE_CIPHERTEXT",)))
_PROXY: Final[Mapping[str, Kind | Need]] = {
    "XksProxyUriEndpoint": Text(10, 128, r"^https://[a-zA-Z0-9.-]+$"),
    "XksProxyUriPath": Text(10, 128, r"^(/[a-zA-Z0-9\/_-]+/kms/xks/v\d{1,2})$|^(/kms/xks/v\d{1,2})$"),
    "XksProxyVpcEndpointServiceName": Text(
        20, 64, r"^(com|eu)\.amazonaws\.vpce\.([a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+$"
    ),
    "XksProxyVpcEndpointServiceOwner": Text(12, 12, r"[0-9]{12}"),
    "XksProxyAuthenticationCredential": Group(
        {
            "AccessKeyId": Need(Text(20, 30, r"^[A-Z2-7]+$")),
            "RawSecretAccessKey": Need(Text(43, 64, r"^[a-zA-Z0-9\/+=]+$")),
        }
    ),
    "XksProxyConnectivity": Text(values=("PUBLIC_ENDPOINT", "VPC_ENDPOINT_SERVICE")),
    "KeyStorePassword": Text(7, 32),
    "CloudHsmClusterId": Text(19, 24, r"cluster-[2-7a-zA-Z]{11,16}"),
}
_KEY: Final[Mapping[str, Kind | Need]] = {"KeyId": Need(KEY_ID)}
_CRYPTO: Final[Mapping[str, Kind | Need]] = {"GrantTokens": GRANT_TOKENS, "DryRun": FLAG}
_PAGE: Final[Mapping[str, Kind | Need]] = {"Limit": LIMIT, "Marker": MARKER}
_STORE: Final[Mapping[str, Kind | Need]] = {"CustomKeyStoreId": Need(STORE_ID)}
_DATA_KEY: Final[Mapping[str, Kind | Need]] = {
    **_KEY, **_CRYPTO, "EncryptionContext": CONTEXT,
    "NumberOfBytes": Whole(1, 1024), "KeySpec": DATA_KEY_SPEC,
}  # fmt: skip
_DATA_KEY_PAIR: Final[Mapping[str, Kind | Need]] = {
    **_KEY, **_CRYPTO, "EncryptionContext": CONTEXT, "KeyPairSpec": Need(PAIR_SPEC),
}  # fmt: skip
_NEW_KEY: Final[Mapping[str, Kind | Need]] = {
    "Policy": POLICY, "Description": DESCRIPTION, "BypassPolicyLockoutSafetyCheck": FLAG, "Tags": TAGS,
}  # fmt: skip

OPERATIONS: Final[Mapping[str, Mapping[str, Kind | Need]]] = {
    "CancelKeyDeletion": _KEY,
    "ConnectCustomKeyStore": _STORE,
    "CreateAlias": {"AliasName": Need(ALIAS), "TargetKeyId": Need(KEY_ID)},
    "CreateCustomKeyStore": {
        "CustomKeyStoreName": Need(STORE_NAME),
        "TrustAnchorCertificate": Text(1, 5000),
        "CustomKeyStoreType": Text(values=("AWS_CLOUDHSM", "EXTERNAL_KEY_STORE")),
        **_PROXY,
    },
    "CreateGrant": {
        **_KEY,
        **_CRYPTO,
        "GranteePrincipal": PRINCIPAL,
        "RetiringPrincipal": PRINCIPAL,
        "GranteeServicePrincipal": SERVICE_PRINCIPAL,
        "RetiringServicePrincipal": SERVICE_PRINCIPAL,
        "Operations": Need(Many(GRANT_OPERATION)),
        "Constraints": Group(
            {
                "EncryptionContextSubset": CONTEXT,
                "EncryptionContextEquals": CONTEXT,
                "SourceArn": Text(20, 512, r"^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$"),
            }
        ),
        "Name": GRANT_NAME,
    },
    "CreateKey": {
        **_NEW_KEY,
        "KeyUsage": KEY_USAGE,
        "CustomerMasterKeySpec": MASTER_KEY_SPEC,
        "KeySpec": KEY_SPEC,
        "Origin": ORIGIN,
        "CustomKeyStoreId": STORE_ID,
        "MultiRegion": FLAG,
        "XksKeyId": Text(1, 128, r"^[a-zA-Z0-9-_.]+$"),
    },
    "Decapsulate": {
        **_KEY,
        **_CRYPTO,
        "SharedSecretCiphertextBlob": Need(CIPHERTEXT),
        "EncapsulationAlgorithm": Need(ENCAPSULATION_ALGORITHM),
    },
    "Decrypt": {
        **_CRYPTO,
        "KeyId": KEY_ID,
        "CiphertextBlob": CIPHERTEXT,
        "EncryptionContext": CONTEXT,
        "EncryptionAlgorithm": ENCRYPTION_ALGORITHM,
        "Recipient": RECIPIENT,
        "DryRunModifiers": DRY_RUN_MODIFIERS,
    },
    "DeleteAlias": {"AliasName": Need(ALIAS)},
    "DeleteCustomKeyStore": _STORE,
    "DeleteImportedKeyMaterial": {**_KEY, "KeyMaterialId": MATERIAL_ID},
    "DeriveSharedSecret": {
        **_KEY,
        **_CRYPTO,
        "KeyAgreementAlgorithm": Need(AGREEMENT_ALGORITHM),
        "PublicKey": Need(Blob(1, 8192)),
        "Recipient": RECIPIENT,
    },
    "DescribeCustomKeyStores": {**_PAGE, "CustomKeyStoreId": STORE_ID, "CustomKeyStoreName": STORE_NAME},
    "DescribeKey": {**_KEY, "GrantTokens": GRANT_TOKENS},
    "DisableKey": _KEY,
    "DisableKeyRotation": _KEY,
    "DisconnectCustomKeyStore": _STORE,
    "EnableKey": _KEY,
    "EnableKeyRotation": {**_KEY, "RotationPeriodInDays": Whole(90, 2560)},
    "Encapsulate": {**_KEY, **_CRYPTO, "EncapsulationAlgorithm": Need(ENCAPSULATION_ALGORITHM)},
    "Encrypt": {
        **_KEY,
        **_CRYPTO,
        "Plaintext": Need(PLAINTEXT),
        "EncryptionContext": CONTEXT,
        "EncryptionAlgorithm": ENCRYPTION_ALGORITHM,
    },
    "GenerateDataKey": {**_DATA_KEY, "Recipient": RECIPIENT},
    "GenerateDataKeyPair": {**_DATA_KEY_PAIR, "Recipient": RECIPIENT},
    "GenerateDataKeyPairWithoutPlaintext": _DATA_KEY_PAIR,
    "GenerateDataKeyWithoutPlaintext": _DATA_KEY,
    "GenerateMac": {**_KEY, **_CRYPTO, "Message": Need(PLAINTEXT), "MacAlgorithm": Need(MAC_ALGORITHM)},
    "GenerateRandom": {
        "NumberOfBytes": Whole(1, 1024),
        "CustomKeyStoreId": STORE_ID,
        "Recipient": RECIPIENT,
    },
    "GetKeyLastUsage": _KEY,
    "GetKeyPolicy": {**_KEY, "PolicyName": POLICY_NAME},
    "GetKeyRotationStatus": _KEY,
    "GetParametersForImport": {
        **_KEY,
        "WrappingAlgorithm": Need(WRAPPING_ALGORITHM),
        "WrappingKeySpec": Need(WRAPPING_KEY_SPEC),
    },
    "GetPublicKey": {**_KEY, "GrantTokens": GRANT_TOKENS},
    "ImportKeyMaterial": {
        **_KEY,
        "ImportToken": Need(CIPHERTEXT),
        "EncryptedKeyMaterial": Need(CIPHERTEXT),
        "ValidTo": Moment(),
        "ExpirationModel": Text(values=("KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE")),
        "ImportType": Text(values=("NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL")),
        "KeyMaterialDescription": Text(0, 256, r"^[a-zA-Z0-9:/_\s.-]+$"),
        "KeyMaterialId": MATERIAL_ID,
    },
    "ListAliases": {**_PAGE, "KeyId": KEY_ID},
    "ListGrants": {
        **_KEY,
        **_PAGE,
        "GrantId": GRANT_ID,
        "GranteePrincipal": PRINCIPAL,
        "GranteeServicePrincipal": SERVICE_PRINCIPAL,
    },
    "ListKeyPolicies": {**_KEY, **_PAGE},
    "ListKeyRotations": {
        **_KEY,
        **_PAGE,
        "IncludeKeyMaterial": Text(values=("ALL_KEY_MATERIAL", "ROTATIONS_ONLY")),
    },
    "ListKeys": {
        **_PAGE,
        "ResourceOwners": Many(Text(values=("SELF", "OTHER_ACCOUNTS_VIA_RAM")), 1, 2),
    },
    "ListResourceTags": {**_KEY, **_PAGE},
    "ListRetirableGrants": {
        **_PAGE,
        "RetiringPrincipal": PRINCIPAL,
        "RetiringServicePrincipal": SERVICE_PRINCIPAL,
    },
    "PutKeyPolicy": {
        **_KEY,
        "PolicyName": POLICY_NAME,
        "Policy": Need(POLICY),
        "BypassPolicyLockoutSafetyCheck": FLAG,
    },
    "ReEncrypt": {
        **_CRYPTO,
        "CiphertextBlob": CIPHERTEXT,
        "SourceEncryptionContext": CONTEXT,
        "SourceKeyId": KEY_ID,
        "DestinationKeyId": Need(KEY_ID),
        "DestinationEncryptionContext": CONTEXT,
        "SourceEncryptionAlgorithm": ENCRYPTION_ALGORITHM,
        "DestinationEncryptionAlgorithm": ENCRYPTION_ALGORITHM,
        "DryRunModifiers": DRY_RUN_MODIFIERS,
    },
    "ReplicateKey": {**_KEY, **_NEW_KEY, "ReplicaRegion": Need(REGION)},
    "RetireGrant": {"GrantToken": GRANT_TOKEN, "KeyId": KEY_ID, "GrantId": GRANT_ID, "DryRun": FLAG},
    "RevokeGrant": {**_KEY, "GrantId": Need(GRANT_ID), "DryRun": FLAG},
    "RotateKeyOnDemand": _KEY,
    "ScheduleKeyDeletion": {**_KEY, "PendingWindowInDays": Whole(1, 365)},
    "Sign": {
        **_KEY,
        **_CRYPTO,
        "Message": Need(PLAINTEXT),
        "MessageType": MESSAGE_TYPE,
        "SigningAlgorithm": Need(SIGNING_ALGORITHM),
    },
    "TagResource": {**_KEY, "Tags": Need(TAGS)},
    "UntagResource": {**_KEY, "TagKeys": Need(Many(TAG_KEY))},
    "UpdateAlias": {"AliasName": Need(ALIAS), "TargetKeyId": Need(KEY_ID)},
    "UpdateCustomKeyStore": {**_STORE, **_PROXY, "NewCustomKeyStoreName": STORE_NAME},
    "UpdateKeyDescription": {**_KEY, "Description": Need(DESCRIPTION)},
    "UpdatePrimaryRegion": {**_KEY, "PrimaryRegion": Need(REGION)},
    "Verify": {
        **_KEY,
        **_CRYPTO,
        "Message": Need(PLAINTEXT),
        "MessageType": MESSAGE_TYPE,
        "Signature": Need(CIPHERTEXT),
        "SigningAlgorithm": Need(SIGNING_ALGORITHM),
    },
    "VerifyMac": {
        **_KEY,
        **_CRYPTO,
        "Message": Need(PLAINTEXT),
        "MacAlgorithm": Need(MAC_ALGORITHM),
        "Mac": Need(CIPHERTEXT),
    },
}


def check(operation: str, document: object) -> Parameters:
    """The parameters of a request, decoded: blobs to bytes, moments to datetimes, absent ones left out.

    Raises KmsError: SerializationException for a wrong JSON type, ValidationException for a wrong value.
    Members that AWS does not know are ignored, as AWS ignores them.
    """
    complaints: list[str] = []
    parameters = _group(document, OPERATIONS[operation], "", complaints)
    if complaints:
        plural = "s" if len(complaints) > 1 else ""
        raise invalid(f"{len(complaints)} validation error{plural} detected: {'; '.join(complaints)}")
    return parameters


def _group(value: object, members: Mapping[str, Kind | Need], at: str, complaints: list[str]) -> Parameters:
    if not isinstance(value, dict):
        raise _mistyped(value, "a structure")
    document = cast("dict[str, object]", value)
    decoded: Parameters = {}
    for name, member in members.items():
        path = _join(at, name[0].lower() + name[1:])
        given = document.get(name)
        if given is not None:
            decoded[name] = _decode(
                given, member.kind if isinstance(member, Need) else member, path, complaints
            )
        elif isinstance(member, Need):
            complaints.append(f"Value null at '{path}' failed to satisfy constraint: Member must not be null")
    return decoded


def _decode(value: object, kind: Kind, at: str, complaints: list[str]) -> object:
    match kind:
        case Text():
            return _text(value, kind, at, complaints)
        case Blob():
            return _blob(value, kind, at, complaints)
        case Whole():
            if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 31:
                raise _mistyped(value, "an Integer")
            for fits, bound in (
                (value >= kind.least, f"value greater than or equal to {kind.least}"),
                (value <= kind.most, f"value less than or equal to {kind.most}"),
            ):
                if not fits:
                    complaints.append(_complaint(f"'{value}' ", at, f"Member must have {bound}"))
            return value
        case Flag():
            if not isinstance(value, bool):
                raise _mistyped(value, "a Boolean")
            return value
        case Moment():
            return _moment(value)
        case StringMap():
            if not isinstance(value, dict):
                raise _mistyped(value, "a map")
            return {_string(key): _string(item) for key, item in cast("dict[object, object]", value).items()}
        case Many():
            if not isinstance(value, list):
                raise _mistyped(value, "a list")
            items = cast("list[object]", value)
            _bounds("", len(items), kind.least, kind.most, at, complaints)
            return [
                _decode(item, kind.of, f"{at}.{number}.member", complaints)
                for number, item in enumerate(items, 1)
            ]
        case Group():
            return _group(value, kind.members, at, complaints)


def _text(value: object, kind: Text, at: str, complaints: list[str]) -> str:
    text = _string(value)
    shown = f"'{text}' "
    if kind.values and text not in kind.values:
        values = ", ".join(kind.values)
        complaints.append(_complaint(shown, at, f"Member must satisfy enum value set: [{values}]"))
    _bounds(shown, len(text), kind.least or 0, kind.most, at, complaints)
    if kind.pattern and text and re.fullmatch(kind.pattern, text) is None:
        complaints.append(
            _complaint(shown, at, f"Member must satisfy regular expression pattern: {kind.pattern}")
        )
    return text


def _blob(value: object, kind: Blob, at: str, complaints: list[str]) -> bytes:
    try:
        data = base64.b64decode(_string(value), validate=True)
    except (binascii.Error, ValueError):
        raise KmsError("SerializationException", "a blob must be Base64") from None
    # AWS shows the Java buffer that holds the blob, never its bytes
    shown = "" if kind.sensitive else f"'java.nio.HeapByteBuffer[pos=0 lim={len(data)} cap={len(data)}]' "
    _bounds(shown, len(data), kind.least, kind.most, at, complaints)
    return data


def _moment(value: object) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _mistyped(value, "a Timestamp")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise KmsError("SerializationException", "the timestamp is out of range") from None


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise _mistyped(value, "a String")
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
        raise KmsError("SerializationException", "a String must be Unicode text") from None
    return value


def _bounds(shown: str, size: int, least: int, most: int | None, at: str, complaints: list[str]) -> None:
    if size < least:
        complaints.append(_complaint(shown, at, f"Member must have length greater than or equal to {least}"))
    if most is not None and size > most:
        complaints.append(_complaint(shown, at, f"Member must have length less than or equal to {most}"))


def _complaint(shown: str, at: str, constraint: str) -> str:
    return f"Value {shown}at '{at}' failed to satisfy constraint: {constraint}"


def _mistyped(value: object, wanted: str) -> KmsError:
    names: Mapping[type, str] = {
        bool: "TRUE_VALUE/FALSE_VALUE", int: "NUMBER_VALUE", float: "DECIMAL_VALUE", str: "STRING_VALUE",
        list: "START_ARRAY", dict: "START_OBJECT",
    }  # fmt: skip
    return KmsError(
        "SerializationException", f"{names.get(type(value), 'VALUE_NULL')} can not be converted to {wanted}"
    )


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
