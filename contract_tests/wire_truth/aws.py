"""What AWS KMS answers: one row per fact, each with the public source that it was read from.

A row is data: steps that lead up to a request, the request, and the reply or the error that AWS gives.
In any text `{name[Member]}` stands for a member of an earlier step's reply, `Of` for one that is not text.

Sources: `snapshot` is a test in localstack's tests/aws/services/kms/test_kms.snapshot.json (Apache-2.0),
recorded against AWS; `replay` is a file of google/go-cloud's secrets/awskms/testdata (Apache-2.0), recorded
against AWS; `model` is an operation, member or shape of botocore's kms/2014-11-01/service-2.json; `guide` is
a page of the AWS KMS Developer Guide; `report` is a public thread that quotes AWS's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

Saved: TypeAlias = dict[str, Any]
Parameters: TypeAlias = Mapping[str, Any]
Step: TypeAlias = tuple[str, str, Parameters]


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
class Begins:
    """A message that begins and ends so, with something between that varies.

    Of a value set, AWS has added members at the end since the recording.
    """

    text: str
    end: str = ""


@dataclass(frozen=True)
class Case:
    """One fact. Exactly one of `reply` and `error`.

    reply: every member of the reply and no other: its value, or its type where it varies.
    error: the code and the message; "" when AWS sends none; None when no public source has the words.
    """

    name: str
    source: str
    operation: str
    parameters: Parameters
    given: tuple[Step, ...] = ()
    reply: Mapping[str, Any] | None = None
    error: tuple[str, str | Begins | None] | None = None
    within: str | None = field(default=None)


ID: Final = "{key[KeyMetadata][KeyId]}"
ARN: Final = "{key[KeyMetadata][Arn]}"
OTHER_ID: Final = "{other[KeyMetadata][KeyId]}"
OTHER_ARN: Final = "{other[KeyMetadata][Arn]}"
MISSING_ID: Final = "12345678-1234-1234-1234-123456789012"
SM2: Final = "SM2"
DRY_RUN: Final = (
    "DryRunOperationException",
    "The request would have succeeded, but the DryRun option is set.",
)
INVALID_CIPHERTEXT: Final = ("InvalidCiphertextException", "")
INCORRECT_KEY: Final = (
    "IncorrectKeyException",
    "The key ID in the request does not identify a CMK that can perform this operation.",
)


def snapshot(test: str) -> str:
    return f"snapshot {test}"


def model(place: str) -> str:
    return f"model {place}"


def replay(name: str) -> str:
    return f"replay awskms-{name}.replay"


def guide(page: str) -> str:
    return f"guide https://docs.aws.amazon.com/kms/latest/developerguide/{page}.html"


def report(thread: str) -> str:
    return f"report https://github.com/{thread}"


def key(spec: str | None = None, usage: str | None = None, name: str = "key", **more: Any) -> Step:
    named = {"KeySpec": spec, "KeyUsage": usage}
    return name, "CreateKey", {k: v for k, v in named.items() if v} | more


def on_key(operation: str, name: str = "_", **more: Any) -> Step:
    return name, operation, {"KeyId": ID, **more}


SIGNER: Final = key("ECC_NIST_P256", "SIGN_VERIFY")
MAC_KEY: Final = key("HMAC_256", "GENERATE_VERIFY_MAC")
AGREEMENT: Final = key("ECC_NIST_P256", "KEY_AGREEMENT")
DISABLED: Final = (key(), on_key("DisableKey"))
DELETING: Final = (key(), on_key("ScheduleKeyDeletion", PendingWindowInDays=7))
EXTERNAL: Final = key(Origin="EXTERNAL")
ENCRYPTED: Final = ("blob", "Encrypt", {"KeyId": ID, "Plaintext": b"I'm a secret message!"})
WITH_CONTEXT: Final = (
    "blob", "Encrypt", {"KeyId": ID, "Plaintext": b"p", "EncryptionContext": {"a": "bc", "d": "e"}},
)  # fmt: skip
BLOB: Final = Of("blob", "CiphertextBlob")


def _wrap(material: bytes) -> Make:
    def how(saved: Saved) -> bytes:
        public = serialization.load_der_public_key(saved["import"]["PublicKey"])
        assert isinstance(public, rsa.RSAPublicKey)
        return public.encrypt(material, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))

    return Make(how)


def parameters_for_import(key_id: str = ID) -> Step:
    wrapping = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    return "import", "GetParametersForImport", {"KeyId": key_id, **wrapping}


def import_of(material: bytes, **more: Any) -> Parameters:
    return {
        "KeyId": ID,
        "ImportToken": Of("import", "ImportToken"),
        "EncryptedKeyMaterial": _wrap(material),
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        **more,
    }


def import_step(material: bytes, name: str = "_", **more: Any) -> Step:
    return name, "ImportKeyMaterial", import_of(material, **more)


def _peer(curve: ec.EllipticCurve) -> bytes:
    return ec.generate_private_key(curve).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip


def _flipped(position: int) -> Make:
    def how(saved: Saved) -> bytes:
        blob = bytearray(saved["blob"]["CiphertextBlob"])
        blob[position] ^= 1
        return bytes(blob)

    return Make(how)


def _cut(start: int, stop: int) -> Make:
    def how(saved: Saved) -> bytes:
        blob: bytes = saved["blob"]["CiphertextBlob"]
        return blob[:start] + blob[stop:]

    return Make(how)


def metadata(**more: Any) -> dict[str, Any]:
    """KeyMetadata of a symmetric key of AWS's own making, changed by `more`; None takes a member out."""
    facts: dict[str, Any] = {
        "AWSAccountId": str,
        "Arn": ARN,
        "CreationDate": datetime,
        "CurrentKeyMaterialId": str,
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "Description": "",
        "Enabled": True,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "KeyId": ID,
        "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "KeyState": "Enabled",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "MultiRegion": False,
        "Origin": "AWS_KMS",
    }
    return {name: value for name, value in (facts | more).items() if value is not None}


def _hmac_metadata(bits: int, **more: Any) -> dict[str, Any]:
    return metadata(
        CurrentKeyMaterialId=None,
        EncryptionAlgorithms=None,
        CustomerMasterKeySpec=f"HMAC_{bits}",
        KeySpec=f"HMAC_{bits}",
        KeyUsage="GENERATE_VERIFY_MAC",
        MacAlgorithms=[f"HMAC_SHA_{bits}"],
        **more,
    )


_PENDING_IMPORT: Final = {"Enabled": False, "KeyState": "PendingImport", "Origin": "EXTERNAL"}
_IMPORTED: Final = {"Origin": "EXTERNAL", "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
_P256_METADATA: Final = {
    "CurrentKeyMaterialId": None, "EncryptionAlgorithms": None, "CustomerMasterKeySpec": "ECC_NIST_P256",
    "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "SigningAlgorithms": ["ECDSA_SHA_256"],
}  # fmt: skip
_P256_MATERIAL: Final = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)

_IDENTITY: Final = [
    Case(
        "describe a key by its alias ARN",
        snapshot("TestKMS::test_describe_with_alias_arn"),
        "DescribeKey",
        {"KeyId": "{alias_arn}"},
        (
            key(Description="test - description"),
            ("_", "CreateAlias", {"AliasName": "alias/here", "TargetKeyId": ID}),
        ),
        reply={"KeyMetadata": metadata(Description="test - description")},
    ),
    *(
        Case(
            f"a key id that is none: {text}",
            snapshot("TestKMS::test_get_key_invalid_uuid"),
            "DescribeKey",
            {"KeyId": text},
            error=("NotFoundException", f"Invalid keyId '{text}'"),
        )
        for text in ("fake-key-id", "134f2428cec14b25a1ae9048164dba47", "mrk-fake-key-id")
    ),
    Case(
        "a key id of another region",
        snapshot("TestKMS::test_get_key_in_different_region"),
        "DescribeKey",
        {"KeyId": MISSING_ID},
        error=(
            "NotFoundException",
            f"Key 'arn:aws:kms:{{region}}:{{account}}:key/{MISSING_ID}' does not exist",
        ),
    ),
    Case(
        "an ARN of another region",
        snapshot("TestKMS::test_get_key_in_different_region"),
        "DescribeKey",
        {"KeyId": f"arn:aws:kms:ap-southeast-1:{{account}}:key/{MISSING_ID}"},
        error=("NotFoundException", "Invalid arn ap-southeast-1"),
    ),
    Case(
        "an alias that does not exist",
        report("cloudposse/docs/issues/152"),
        "Encrypt",
        {"KeyId": "alias/none", "Plaintext": b"x"},
        error=("NotFoundException", "Alias arn:aws:kms:{region}:{account}:alias/none is not found."),
    ),
    *(
        Case(
            f"{operation} takes no alias",
            model(f"{operation}.KeyId"),
            operation,
            {"KeyId": "alias/here", **more},
            (key(), ("_", "CreateAlias", {"AliasName": "alias/here", "TargetKeyId": ID})),
            error=("NotFoundException", None),
        )
        for operation, more in (
            ("EnableKey", {}),
            ("ScheduleKeyDeletion", {}),
            ("RotateKeyOnDemand", {}),
            ("TagResource", {"Tags": [{"TagKey": "a", "TagValue": "b"}]}),
        )
    ),
]

_CREATION: Final = [
    Case(
        "a usage that is none",
        snapshot("TestKMS::test_hmac_create_key_invalid_operations"),
        "CreateKey",
        {"KeySpec": "HMAC_256", "KeyUsage": "RANDOM"},
        error=(
            "ValidationException",
            Begins(
                "1 validation error detected: Value 'RANDOM' at 'keyUsage' failed to satisfy constraint: "
                "Member must satisfy enum value set: [ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC"
            ),
        ),
    ),
    Case(
        "a spec that is none",
        snapshot("TestKMS::test_hmac_create_key_invalid_operations"),
        "CreateKey",
        {"KeySpec": "HMAC_random", "KeyUsage": "GENERATE_VERIFY_MAC"},
        error=(
            "ValidationException",
            Begins(
                "1 validation error detected: Value 'HMAC_random' at 'keySpec' failed to satisfy "
                "constraint: Member must satisfy enum value set: [RSA_2048, ECC_NIST_P384, ECC_NIST_P256, "
                "ECC_NIST_P521, HMAC_384, RSA_3072, ECC_SECG_P256K1, RSA_4096, SYMMETRIC_DEFAULT, "
                "HMAC_256, HMAC_224, HMAC_512"
            ),
        ),
    ),
    Case(
        "SM2 is for the China Regions",
        model("KeySpec (SM2: China Regions only)"),
        "CreateKey",
        {"KeySpec": SM2, "KeyUsage": "SIGN_VERIFY"},
        error=(
            "ValidationException",
            Begins("1 validation error detected: Value 'SM2' at 'keySpec' failed to satisfy constraint: "),
        ),
    ),
    Case(
        "an HMAC key without usage",
        snapshot("TestKMS::test_hmac_create_key_invalid_operations"),
        "CreateKey",
        {"KeySpec": "HMAC_256"},
        error=(
            "ValidationException",
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.",
        ),
    ),
    Case(
        "key agreement with RSA",
        snapshot("TestKMS::test_derive_shared_secret"),
        "CreateKey",
        {"KeySpec": "RSA_2048", "KeyUsage": "KEY_AGREEMENT"},
        error=("ValidationException", "KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048"),
    ),
    *(
        Case(
            f"{usage} with {spec}",
            model("CreateKey.KeyUsage"),
            "CreateKey",
            {"KeySpec": spec, "KeyUsage": usage},
            error=("ValidationException", f"KeyUsage {usage} is not compatible with KeySpec {spec}"),
        )
        for spec, usage in (
            ("SYMMETRIC_DEFAULT", "SIGN_VERIFY"),
            ("HMAC_256", "ENCRYPT_DECRYPT"),
            ("ECC_NIST_P256", "ENCRYPT_DECRYPT"),
            ("ECC_SECG_P256K1", "KEY_AGREEMENT"),
            ("ECC_NIST_EDWARDS25519", "KEY_AGREEMENT"),
            ("ML_DSA_65", "ENCAPSULATE_DECAPSULATE"),
            ("ML_KEM_768", "SIGN_VERIFY"),
        )
    ),
    Case(
        "an HMAC key",
        snapshot("TestKMS::test_hmac_create_key"),
        "DescribeKey",
        {"KeyId": ID},
        (key("HMAC_256", "GENERATE_VERIFY_MAC", Description="test key"),),
        reply={"KeyMetadata": _hmac_metadata(256, Description="test key")},
    ),
    *(
        Case(
            f"the algorithms of {spec} for {usage}",
            guide("symm-asymm-choose-key-spec"),
            "DescribeKey",
            {"KeyId": ID},
            (key(spec, usage),),
            reply={member: algorithms},
            within="KeyMetadata",
        )
        for spec, usage, member, algorithms in (
            (
                "RSA_2048",
                "ENCRYPT_DECRYPT",
                "EncryptionAlgorithms",
                ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"],
            ),
            (
                "RSA_3072",
                "SIGN_VERIFY",
                "SigningAlgorithms",
                [
                    "RSASSA_PKCS1_V1_5_SHA_256",
                    "RSASSA_PKCS1_V1_5_SHA_384",
                    "RSASSA_PKCS1_V1_5_SHA_512",
                    "RSASSA_PSS_SHA_256",
                    "RSASSA_PSS_SHA_384",
                    "RSASSA_PSS_SHA_512",
                ],
            ),
            ("ECC_NIST_P384", "SIGN_VERIFY", "SigningAlgorithms", ["ECDSA_SHA_384"]),
            ("ECC_NIST_P521", "SIGN_VERIFY", "SigningAlgorithms", ["ECDSA_SHA_512"]),
            ("ECC_SECG_P256K1", "SIGN_VERIFY", "SigningAlgorithms", ["ECDSA_SHA_256"]),
            ("ECC_NIST_P256", "KEY_AGREEMENT", "KeyAgreementAlgorithms", ["ECDH"]),
            ("ML_DSA_44", "SIGN_VERIFY", "SigningAlgorithms", ["ML_DSA_SHAKE_256"]),
            ("ML_KEM_768", "ENCAPSULATE_DECAPSULATE", "EncapsulationAlgorithms", ["ML_KEM"]),
            ("HMAC_224", "GENERATE_VERIFY_MAC", "MacAlgorithms", ["HMAC_SHA_224"]),
        )
    ),
]

_TAGS: Final = [
    *(
        Case(
            f"a tag that begins with {prefix}",
            snapshot(f"TestKMS::test_create_key_with_invalid_tag_key[{case}_prefix]"),
            "CreateKey",
            {"Tags": [{"TagKey": f"{prefix}key1", "TagValue": "value"}]},
            error=("TagException", "Tags beginning with aws: are reserved"),
        )
        for prefix, case in (("aws:", "lowercase"), ("AWS:", "uppercase"))
    ),
    Case(
        "a tag key of 129 letters",
        snapshot("TestKMS::test_create_key_with_invalid_tag_key[too_long_key]"),
        "CreateKey",
        {"Tags": [{"TagKey": "a" * 129, "TagValue": "value"}]},
        error=(
            "ValidationException",
            f"1 validation error detected: Value '{'a' * 129}' at 'tags.1.member.tagKey' failed to satisfy "
            "constraint: Member must have length less than or equal to 128",
        ),
    ),
    Case(
        "a tag value of 257 letters",
        snapshot("TestKMS::test_key_with_long_tag_value_raises_error"),
        "CreateKey",
        {"Tags": [{"TagKey": "a", "TagValue": "v" * 257}]},
        error=(
            "ValidationException",
            f"1 validation error detected: Value '{'v' * 257}' at 'tags.1.member.tagValue' failed to satisfy "
            "constraint: Member must have length less than or equal to 256",
        ),
    ),
    Case(
        "tags of a key",
        snapshot("TestKMS::test_tag_existing_key_and_untag"),
        "ListResourceTags",
        {"KeyId": ID},
        (
            key(),
            on_key(
                "TagResource",
                Tags=[{"TagKey": "tag1", "TagValue": "value1"}, {"TagKey": "tag2", "TagValue": "value2"}],
            ),
        ),
        reply={
            "Tags": [
                {"TagKey": "tag1", "TagValue": "value1"},
                {"TagKey": "tag2", "TagValue": "value2"},
            ],
            "Truncated": False,
        },
    ),
    Case(
        "no tags after all are taken off",
        snapshot("TestKMS::test_tag_existing_key_and_untag"),
        "ListResourceTags",
        {"KeyId": ID},
        (
            key(Tags=[{"TagKey": "tag1", "TagValue": "value1"}]),
            on_key("UntagResource", TagKeys=["tag1", "never there"]),
        ),
        reply={"Tags": [], "Truncated": False},
    ),
    Case(
        "51 tags",
        guide("resource-limits"),
        "TagResource",
        {"KeyId": ID, "Tags": [{"TagKey": f"t{n}", "TagValue": ""} for n in range(51)]},
        (key(),),
        error=("LimitExceededException", None),
    ),
]

_ALIASES: Final = [
    Case(
        "an alias without its prefix",
        snapshot("TestKMS::test_create_alias"),
        "CreateAlias",
        {"AliasName": "here", "TargetKeyId": ID},
        (key(),),
        error=(
            "ValidationException",
            'Alias must start with the prefix "alias/". Please see '
            "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
        ),
    ),
    Case(
        "an alias that is taken",
        report("hashicorp/terraform-provider-aws/issues/35161"),
        "CreateAlias",
        {"AliasName": "alias/here", "TargetKeyId": ID},
        (key(), ("_", "CreateAlias", {"AliasName": "alias/here", "TargetKeyId": ID})),
        error=(
            "AlreadyExistsException",
            "An alias with the name arn:aws:kms:{region}:{account}:alias/here already exists",
        ),
    ),
    Case(
        "an alias stays while its key is pending deletion",
        report("hashicorp/terraform-provider-aws/issues/35161"),
        "CreateAlias",
        {"AliasName": "alias/here", "TargetKeyId": OTHER_ID},
        (
            key(),
            key(name="other"),
            ("_", "CreateAlias", {"AliasName": "alias/here", "TargetKeyId": ID}),
            on_key("ScheduleKeyDeletion"),
        ),
        error=("AlreadyExistsException", None),
    ),
    Case(
        "an alias for a key that is pending deletion",
        guide("key-state"),
        "CreateAlias",
        {"AliasName": "alias/here", "TargetKeyId": ID},
        DELETING,
        error=("KMSInvalidStateException", f"{ARN} is pending deletion."),
    ),
    Case(
        "a character that no alias has",
        model("AliasNameType"),
        "CreateAlias",
        {"AliasName": "alias/with space", "TargetKeyId": ID},
        (key(),),
        error=(
            "ValidationException",
            "1 validation error detected: Value 'alias/with space' at 'aliasName' failed to satisfy "
            "constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$",
        ),
    ),
    Case(
        "an alias moves only between keys of one type and usage",
        model("UpdateAlias"),
        "UpdateAlias",
        {"AliasName": "alias/here", "TargetKeyId": OTHER_ID},
        (
            key(),
            key("HMAC_256", "GENERATE_VERIFY_MAC", name="other"),
            ("_", "CreateAlias", {"AliasName": "alias/here", "TargetKeyId": ID}),
        ),
        error=("ValidationException", None),
    ),
    Case(
        "aliases of AWS managed keys have no target before their first use",
        replay("TestEncryptDecrypt"),
        "ListAliases",
        {"Limit": 1},
        reply={
            "Aliases": [
                {
                    "AliasArn": "arn:aws:kms:{region}:{account}:alias/aws/dynamodb",
                    "AliasName": "alias/aws/dynamodb",
                }
            ],
            "NextMarker": str,
            "Truncated": True,
        },
    ),
]

_ENCRYPTION: Final = [
    Case(
        "encrypt",
        replay("TestEncryptDecrypt"),
        "Encrypt",
        {"KeyId": "alias/here", "Plaintext": b"I'm a secret message!"},
        (key(), ("_", "CreateAlias", {"AliasName": "alias/here", "TargetKeyId": ID})),
        reply={"CiphertextBlob": bytes, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyId": ARN},
    ),
    Case(
        # the recorded body holds KeyOrigin too, which botocore's model does not have and boto3 drops
        "decrypt through an alias names the key",
        replay("TestEncryptDecrypt"),
        "Decrypt",
        {"KeyId": "alias/here", "CiphertextBlob": BLOB},
        (key(), ("_", "CreateAlias", {"AliasName": "alias/here", "TargetKeyId": ID}), ENCRYPTED),
        reply={
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyId": ARN,
            "KeyMaterialId": "{key[KeyMetadata][CurrentKeyMaterialId]}",
            "Plaintext": b"I'm a secret message!",
        },
    ),
    Case(
        "decrypt with the first byte changed",
        replay("TestDecryptMalformedError"),
        "Decrypt",
        {"KeyId": ID, "CiphertextBlob": _flipped(0)},
        (key(), ENCRYPTED),
        error=INVALID_CIPHERTEXT,
    ),
    Case(
        "decrypt with a byte missing from the start",
        replay("TestDecryptMalformedError"),
        "Decrypt",
        {"KeyId": ID, "CiphertextBlob": _cut(2, 3)},
        (key(), ENCRYPTED),
        error=INVALID_CIPHERTEXT,
    ),
    Case(
        "decrypt with a byte missing from the end",
        replay("TestDecryptMalformedError"),
        "Decrypt",
        {"CiphertextBlob": _cut(-1, 10_000)},
        (key(), ENCRYPTED),
        error=INVALID_CIPHERTEXT,
    ),
    Case(
        "decrypt with the last byte changed, after a rotation",
        snapshot("TestKMS::test_key_rotations_encryption_decryption"),
        "Decrypt",
        {"CiphertextBlob": _flipped(-1)},
        (key(), ENCRYPTED, on_key("RotateKeyOnDemand")),
        error=INVALID_CIPHERTEXT,
    ),
    Case(
        "decrypt after a rotation",
        snapshot("TestKMS::test_key_rotations_encryption_decryption"),
        "Decrypt",
        {"CiphertextBlob": BLOB},
        (key(), ENCRYPTED, on_key("RotateKeyOnDemand")),
        reply={
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyId": ARN,
            "KeyMaterialId": "{key[KeyMetadata][CurrentKeyMaterialId]}",
            "Plaintext": b"I'm a secret message!",
        },
    ),
    Case(
        "decrypt with the context",
        snapshot("TestKMS::test_encrypt_decrypt_encryption_context"),
        "Decrypt",
        {"CiphertextBlob": BLOB, "EncryptionContext": {"d": "e", "a": "bc"}},
        (key(), WITH_CONTEXT),
        reply={
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyId": ARN,
            "KeyMaterialId": str,
            "Plaintext": b"p",
        },
    ),
    Case(
        "decrypt without the context",
        snapshot("TestKMS::test_encrypt_decrypt_encryption_context"),
        "Decrypt",
        {"CiphertextBlob": BLOB},
        (key(), WITH_CONTEXT),
        error=INVALID_CIPHERTEXT,
    ),
    *(
        Case(
            f"decrypt with another context: {what}",
            guide("encrypt_context"),
            "Decrypt",
            {"CiphertextBlob": BLOB, "EncryptionContext": context},
            (key(), WITH_CONTEXT),
            error=INVALID_CIPHERTEXT,
        )
        for what, context in (
            ("letters moved from value to key", {"ab": "c", "d": "e"}),
            ("pairs run together", {"a": "bcde"}),
            ("a pair less", {"a": "bc"}),
            ("a pair more", {"a": "bc", "d": "e", "f": ""}),
            ("another case", {"A": "bc", "d": "e"}),
        )
    ),
    Case(
        "decrypt with garbage",
        snapshot("TestKMS::test_encrypt_decrypt_encryption_context"),
        "Decrypt",
        {"CiphertextBlob": b"garbage" * 20},
        (key(),),
        error=INVALID_CIPHERTEXT,
    ),
    Case(
        "decrypt with another key's id",
        model("Decrypt.KeyId IncorrectKeyException"),
        "Decrypt",
        {"KeyId": OTHER_ID, "CiphertextBlob": BLOB},
        (key(), key(name="other"), ENCRYPTED),
        error=INCORRECT_KEY,
    ),
    Case(
        "re-encrypt from another key",
        snapshot("TestKMS::test_re_encrypt_incorrect_source_key"),
        "ReEncrypt",
        {"SourceKeyId": OTHER_ID, "DestinationKeyId": OTHER_ID, "CiphertextBlob": BLOB},
        (key(), key(name="other"), ENCRYPTED),
        error=INCORRECT_KEY,
    ),
    Case(
        "re-encrypt",
        model("ReEncryptResponse"),
        "ReEncrypt",
        {"DestinationKeyId": OTHER_ID, "CiphertextBlob": BLOB},
        (key(), key(name="other"), ENCRYPTED),
        reply={
            "CiphertextBlob": bytes,
            "SourceKeyId": ARN,
            "KeyId": OTHER_ARN,
            "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "SourceKeyMaterialId": "{key[KeyMetadata][CurrentKeyMaterialId]}",
            "DestinationKeyMaterialId": "{other[KeyMetadata][CurrentKeyMaterialId]}",
        },
    ),
    Case(
        "a plaintext of 4097 bytes",
        snapshot("TestKMS::test_plaintext_size_for_encrypt"),
        "Encrypt",
        {"KeyId": ID, "Plaintext": b"a" * 4097},
        (key(),),
        error=(
            "ValidationException",
            "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must "
            "have length less than or equal to 4096",
        ),
    ),
    Case(
        "a plaintext of 0 bytes",
        model("PlaintextType min 1"),
        "Encrypt",
        {"KeyId": ID, "Plaintext": b""},
        (key(),),
        error=(
            "ValidationException",
            "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must "
            "have length greater than or equal to 1",
        ),
    ),
    *(
        Case(
            f"{algorithm} with {spec}, one byte too many",
            snapshot(f"TestKMS::test_encrypt_validate_plaintext_size_per_key_type[{spec}-{algorithm}]"),
            "Encrypt",
            {"KeyId": ID, "Plaintext": b"a" * (limit + 1), "EncryptionAlgorithm": algorithm},
            (key(spec, "ENCRYPT_DECRYPT"),),
            error=(
                "ValidationException",
                f"Algorithm {algorithm} and key spec {spec} cannot encrypt data larger than {limit} bytes.",
            ),
        )
        for spec, algorithm, limit in (
            ("RSA_2048", "RSAES_OAEP_SHA_1", 214),
            ("RSA_2048", "RSAES_OAEP_SHA_256", 190),
            ("RSA_3072", "RSAES_OAEP_SHA_1", 342),
            ("RSA_4096", "RSAES_OAEP_SHA_1", 470),
        )
    ),
    Case(
        "RSA encryption",
        model("EncryptResponse"),
        "Encrypt",
        {"KeyId": ID, "Plaintext": b"a" * 190, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"},
        (key("RSA_2048", "ENCRYPT_DECRYPT"),),
        reply={"CiphertextBlob": bytes, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256", "KeyId": ARN},
    ),
    Case(
        "an RSA key without algorithm means SYMMETRIC_DEFAULT",
        report("zalando/spring-cloud-config-aws-kms/issues/82"),
        "Encrypt",
        {"KeyId": ID, "Plaintext": b"a"},
        (key("RSA_4096", "ENCRYPT_DECRYPT"),),
        error=(
            "InvalidKeyUsageException",
            "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_4096.",
        ),
    ),
    Case(
        "a data key",
        snapshot("TestKMSGenerateKeys::test_generate_data_key"),
        "GenerateDataKey",
        {"KeyId": ID, "KeySpec": "AES_256"},
        (key(),),
        # the recording of 2023 has no KeyMaterialId; the service model has had one since 2025
        reply={"CiphertextBlob": bytes, "KeyId": ARN, "Plaintext": bytes, "KeyMaterialId": str},
    ),
    *(
        Case(
            f"a data key with {what}",
            model("GenerateDataKey: KeySpec or NumberOfBytes, not both"),
            "GenerateDataKey",
            {"KeyId": ID, **sizes},
            (key(),),
            error=("ValidationException", None),
        )
        for what, sizes in (
            ("two sizes", {"KeySpec": "AES_256", "NumberOfBytes": 32}),
            ("no size", {}),
        )
    ),
    *(
        Case(
            f"the private key of {operation} is bound to the context",
            snapshot(f"TestKMSGenerateKeys::test_encryption_context_{test}"),
            "Decrypt",
            {"KeyId": ID, "CiphertextBlob": Of("pair", "PrivateKeyCiphertextBlob")},
            (
                key(),
                on_key(operation, "pair", KeyPairSpec="ECC_NIST_P256", EncryptionContext={"a": "b"}),
            ),
            error=INVALID_CIPHERTEXT,
        )
        for operation, test in (
            ("GenerateDataKeyPair", "generate_data_key_pair"),
            ("GenerateDataKeyPairWithoutPlaintext", "generate_data_key_pair_without_plaintext"),
        )
    ),
    Case(
        "a data key pair as a dry run",
        snapshot("TestKMSGenerateKeys::test_generate_data_key_pair_dry_run"),
        "GenerateDataKeyPair",
        {"KeyId": ID, "KeyPairSpec": "RSA_2048", "DryRun": True},
        (key(),),
        error=DRY_RUN,
    ),
    *(
        Case(
            f"{operation} as a dry run",
            model(f"{operation}.DryRun"),
            operation,
            {"KeyId": ID, **more, "DryRun": True},
            given,
            error=DRY_RUN,
        )
        for operation, given, more in (
            ("Encrypt", (key(),), {"Plaintext": b"x"}),
            ("Decrypt", (key(), ENCRYPTED), {"CiphertextBlob": BLOB}),
            ("GenerateDataKey", (key(),), {"KeySpec": "AES_256"}),
            ("Sign", (SIGNER,), {"Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"}),
            ("GenerateMac", (MAC_KEY,), {"Message": b"x", "MacAlgorithm": "HMAC_SHA_256"}),
            (
                "CreateGrant",
                (key(),),
                {"GranteePrincipal": "arn:aws:iam::111122223333:role/r", "Operations": ["Decrypt"]},
            ),
        )
    ),
]

_STATES: Final = [
    *(
        Case(
            f"{operation} with a disabled key",
            guide("key-state"),
            operation,
            {"KeyId": ID, **more},
            DISABLED,
            error=("DisabledException", f"{ARN} is disabled."),
        )
        for operation, more in (
            ("Encrypt", {"Plaintext": b"x"}),
            ("GenerateDataKey", {"KeySpec": "AES_256"}),
            ("GenerateDataKeyWithoutPlaintext", {"KeySpec": "AES_256"}),
            ("GenerateDataKeyPair", {"KeyPairSpec": "ECC_NIST_P256"}),
        )
    ),
    *(
        Case(
            f"{operation} with a disabled asymmetric or HMAC key",
            guide("key-state"),
            operation,
            {"KeyId": ID, **more},
            (made, on_key("DisableKey")),
            error=("DisabledException", f"{ARN} is disabled."),
        )
        for operation, made, more in (
            ("Sign", SIGNER, {"Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"}),
            ("Verify", SIGNER, {"Message": b"x", "Signature": b"s", "SigningAlgorithm": "ECDSA_SHA_256"}),
            ("GetPublicKey", SIGNER, {}),
            ("GenerateMac", MAC_KEY, {"Message": b"x", "MacAlgorithm": "HMAC_SHA_256"}),
            ("VerifyMac", MAC_KEY, {"Message": b"x", "Mac": b"m", "MacAlgorithm": "HMAC_SHA_256"}),
        )
    ),
    Case(
        "decrypt with a disabled key",
        guide("key-state"),
        "Decrypt",
        {"CiphertextBlob": BLOB},
        (key(), ENCRYPTED, on_key("DisableKey")),
        error=("DisabledException", f"{ARN} is disabled."),
    ),
    Case(
        "rotate a disabled key",
        snapshot("TestKMS::test_rotate_key_on_demand_raises_error_given_key_is_disabled"),
        "RotateKeyOnDemand",
        {"KeyId": ID},
        DISABLED,
        error=("DisabledException", f"{ARN} is disabled."),
    ),
    *(
        Case(
            f"{operation} while deletion is pending",
            guide("key-state"),
            operation,
            {"KeyId": ID, **more},
            DELETING,
            error=("KMSInvalidStateException", f"{ARN} is pending deletion."),
        )
        for operation, more in (
            ("Encrypt", {"Plaintext": b"x"}),
            ("GenerateDataKey", {"KeySpec": "AES_256"}),
            ("EnableKey", {}),
            ("DisableKey", {}),
            ("ScheduleKeyDeletion", {}),
            ("RotateKeyOnDemand", {}),
            ("EnableKeyRotation", {}),
            ("TagResource", {"Tags": [{"TagKey": "a", "TagValue": "b"}]}),
            ("UpdateKeyDescription", {"Description": "x"}),
        )
    ),
    Case(
        "describe while deletion is pending",
        guide("key-state"),
        "DescribeKey",
        {"KeyId": ID},
        DELETING,
        reply={"KeyState": "PendingDeletion", "Enabled": False, "DeletionDate": datetime},
        within="KeyMetadata",
    ),
    *(
        Case(
            f"a window of {days} days",
            model("ScheduleKeyDeletion.PendingWindowInDays: between 7 and 30"),
            "ScheduleKeyDeletion",
            {"KeyId": ID, "PendingWindowInDays": days},
            (key(),),
            error=("ValidationException", None),
        )
        for days in (6, 31)
    ),
    Case(
        "schedule deletion",
        model("ScheduleKeyDeletionResponse"),
        "ScheduleKeyDeletion",
        {"KeyId": ID},
        (key(),),
        reply={
            "KeyId": ARN,
            "DeletionDate": datetime,
            "KeyState": "PendingDeletion",
            "PendingWindowInDays": 30,
        },
    ),
    Case(
        "a key whose deletion is cancelled is disabled",
        model("CancelKeyDeletion"),
        "DescribeKey",
        {"KeyId": ID},
        (*DELETING, on_key("CancelKeyDeletion")),
        reply={"KeyState": "Disabled", "Enabled": False},
        within="KeyMetadata",
    ),
    Case(
        "cancel what is not scheduled",
        guide("key-state"),
        "CancelKeyDeletion",
        {"KeyId": ID},
        (key(),),
        error=("KMSInvalidStateException", f"{ARN} is not pending deletion."),
    ),
    *(
        Case(
            f"{operation} before material is imported",
            guide("key-state"),
            operation,
            {"KeyId": ID, **more},
            (EXTERNAL,),
            error=("KMSInvalidStateException", f"{ARN} is pending import."),
        )
        for operation, more in (
            ("Encrypt", {"Plaintext": b"x"}),
            ("EnableKey", {}),
            ("DisableKey", {}),
        )
    ),
]

_USAGES: Final = [
    *(
        Case(
            f"{operation} with a key for {usage}",
            snapshot("TestKMS::test_derive_shared_secret (the words)"),
            operation,
            {"KeyId": ID, **more},
            (key(spec, usage),),
            error=(
                "InvalidKeyUsageException",
                f"{ARN} key usage is {usage} which is not valid for {operation}.",
            ),
        )
        for operation, spec, usage, more in (
            ("Encrypt", "RSA_2048", "SIGN_VERIFY", {"Plaintext": b"x"}),
            ("GenerateDataKey", "ECC_NIST_P256", "SIGN_VERIFY", {"KeySpec": "AES_256"}),
            (
                "Sign",
                "SYMMETRIC_DEFAULT",
                "ENCRYPT_DECRYPT",
                {"Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"},
            ),
            (
                "GenerateMac",
                "SYMMETRIC_DEFAULT",
                "ENCRYPT_DECRYPT",
                {"Message": b"x", "MacAlgorithm": "HMAC_SHA_256"},
            ),
            (
                "Sign",
                "ECC_NIST_P256",
                "KEY_AGREEMENT",
                {"Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"},
            ),
        )
    ),
    Case(
        "derive with an encryption key",
        snapshot("TestKMS::test_derive_shared_secret"),
        "DeriveSharedSecret",
        {"KeyId": ID, "KeyAgreementAlgorithm": "ECDH", "PublicKey": _peer(ec.SECP256R1())},
        (key("RSA_2048", "ENCRYPT_DECRYPT"),),
        error=(
            "InvalidKeyUsageException",
            f"{ARN} key usage is ENCRYPT_DECRYPT which is not valid for DeriveSharedSecret.",
        ),
    ),
    Case(
        "derive with a signing key",
        snapshot("TestKMS::test_derive_shared_secret"),
        "DeriveSharedSecret",
        {"KeyId": ID, "KeyAgreementAlgorithm": "ECDH", "PublicKey": _peer(ec.SECP256R1())},
        (SIGNER,),
        error=(
            "InvalidKeyUsageException",
            f"{ARN} key usage is SIGN_VERIFY which is not valid for DeriveSharedSecret.",
        ),
    ),
    Case(
        "derive with an algorithm that is none",
        snapshot("TestKMS::test_derive_shared_secret"),
        "DeriveSharedSecret",
        {"KeyId": ID, "KeyAgreementAlgorithm": "INVALID", "PublicKey": _peer(ec.SECP256R1())},
        (AGREEMENT,),
        error=(
            "ValidationException",
            "1 validation error detected: Value 'INVALID' at 'keyAgreementAlgorithm' failed to satisfy "
            "constraint: Member must satisfy enum value set: [ECDH]",
        ),
    ),
    *(
        Case(
            f"derive with {what}",
            snapshot("TestKMS::test_derive_shared_secret"),
            "DeriveSharedSecret",
            {"KeyId": ID, "KeyAgreementAlgorithm": "ECDH", "PublicKey": public},
            (AGREEMENT,),
            error=("ValidationException", ""),
        )
        for what, public in (("no public key", b"InvalidPublicKey"), ("another curve", _peer(ec.SECP384R1())))
    ),
    Case(
        "derive",
        snapshot("TestKMS::test_derive_shared_secret"),
        "DeriveSharedSecret",
        {"KeyId": ID, "KeyAgreementAlgorithm": "ECDH", "PublicKey": _peer(ec.SECP256R1())},
        (AGREEMENT,),
        reply={
            "KeyAgreementAlgorithm": "ECDH",
            "KeyId": ARN,
            "KeyOrigin": "AWS_KMS",
            "SharedSecret": bytes,
        },
    ),
    Case(
        "the public key of a symmetric key",
        model("GetPublicKey UnsupportedOperationException"),
        "GetPublicKey",
        {"KeyId": ID},
        (key(),),
        error=("UnsupportedOperationException", None),
    ),
    Case(
        "the public key of a signing key",
        model("GetPublicKeyResponse"),
        "GetPublicKey",
        {"KeyId": ID},
        (SIGNER,),
        reply={
            "KeyId": ARN,
            "PublicKey": bytes,
            "CustomerMasterKeySpec": "ECC_NIST_P256",
            "KeySpec": "ECC_NIST_P256",
            "KeyUsage": "SIGN_VERIFY",
            "SigningAlgorithms": ["ECDSA_SHA_256"],
        },
    ),
]


def _signed(spec: str, algorithm: str, digest: int) -> list[Case]:
    signer = key(spec, "SIGN_VERIFY")
    source = snapshot(f"TestKMS::test_sign_verify[{spec}-{algorithm}]")
    how = {"SigningAlgorithm": algorithm, "MessageType": "DIGEST", "Message": b"d" * digest}
    signature = on_key("Sign", "signed", **how)
    good = Of("signed", "Signature")
    return [
        Case(
            f"{algorithm} with {spec}: sign",
            source,
            "Sign",
            {"KeyId": ID, **how},
            (signer,),
            reply={"KeyId": ARN, "Signature": bytes, "SigningAlgorithm": algorithm},
        ),
        Case(
            f"{algorithm} with {spec}: verify",
            source,
            "Verify",
            {"KeyId": ID, "Signature": good, **how},
            (signer, signature),
            reply={"KeyId": ARN, "SignatureValid": True, "SigningAlgorithm": algorithm},
        ),
        Case(
            f"{algorithm} with {spec}: a digest of another length",
            source,
            "Sign",
            {"KeyId": ID, **how, "Message": b"not the length of any digest"},
            (signer,),
            error=("ValidationException", f"Digest is invalid length for algorithm {algorithm}."),
        ),
        Case(
            f"{algorithm} with {spec}: a signature over something else",
            source,
            "Verify",
            {"KeyId": ID, "Signature": good, **how, "Message": b"e" * digest},
            (signer, signature),
            error=("KMSInvalidSignatureException", ""),
        ),
        Case(
            f"{algorithm} with {spec}: a signature that is none",
            source,
            "Verify",
            {"KeyId": ID, "Signature": b"bad signature", **how},
            (signer,),
            error=("KMSInvalidSignatureException", ""),
        ),
    ]


_SIGNING: Final = [
    *_signed("ECC_NIST_P384", "ECDSA_SHA_384", 48),
    *_signed("RSA_2048", "RSASSA_PSS_SHA_256", 32),
    *_signed("RSA_2048", "RSASSA_PSS_SHA_384", 48),
    *_signed("RSA_4096", "RSASSA_PKCS1_V1_5_SHA_512", 64),
    *(
        Case(
            f"{algorithm} is not for {spec}",
            snapshot(f"TestKMS::test_sign_verify[{spec}-{algorithm}] (nothing recorded: it fails)"),
            "Sign",
            {"KeyId": ID, "SigningAlgorithm": algorithm, "Message": b"m"},
            (key(spec, "SIGN_VERIFY"),),
            error=("InvalidKeyUsageException", None),
        )
        for spec, algorithm in (
            ("ECC_NIST_P256", "ECDSA_SHA_384"),
            ("ECC_SECG_P256K1", "ECDSA_SHA_512"),
        )
    ),
    *(
        Case(
            f"{algorithm} with MessageType {kind}",
            model("Sign.MessageType"),
            "Sign",
            {"KeyId": ID, "SigningAlgorithm": algorithm, "Message": b"d" * 64, "MessageType": kind},
            (key(spec, "SIGN_VERIFY"),),
            error=("ValidationException", None),
        )
        for spec, algorithm, kind in (
            ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512", "DIGEST"),
            ("ECC_NIST_EDWARDS25519", "ED25519_PH_SHA_512", "RAW"),
            ("ECC_NIST_P521", "ECDSA_SHA_512", "EXTERNAL_MU"),
            ("ML_DSA_44", "ML_DSA_SHAKE_256", "DIGEST"),
        )
    ),
    *(
        Case(
            f"{algorithm} with MessageType {kind} signs",
            model("Sign.MessageType"),
            "Sign",
            {"KeyId": ID, "SigningAlgorithm": algorithm, "Message": b"d" * 64, "MessageType": kind},
            (key(spec, "SIGN_VERIFY"),),
            reply={"KeyId": ARN, "Signature": bytes, "SigningAlgorithm": algorithm},
        )
        for spec, algorithm, kind in (
            ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512", "RAW"),
            ("ECC_NIST_EDWARDS25519", "ED25519_PH_SHA_512", "DIGEST"),
            ("ML_DSA_65", "ML_DSA_SHAKE_256", "RAW"),
            ("ML_DSA_87", "ML_DSA_SHAKE_256", "EXTERNAL_MU"),
        )
    ),
    Case(
        "a message of 4097 bytes",
        model("Sign.Message"),
        "Sign",
        {"KeyId": ID, "SigningAlgorithm": "ECDSA_SHA_256", "Message": b"m" * 4097},
        (SIGNER,),
        error=(
            "ValidationException",
            "1 validation error detected: Value at 'message' failed to satisfy constraint: Member must have "
            "length less than or equal to 4096",
        ),
    ),
]


def _macs(bits: int) -> list[Case]:
    made = key(f"HMAC_{bits}", "GENERATE_VERIFY_MAC")
    how = {"Message": b"some important message", "MacAlgorithm": f"HMAC_SHA_{bits}"}
    source = snapshot(f"TestKMS::test_generate_and_verify_mac[HMAC_{bits}-HMAC_SHA_{bits}]")
    return [
        Case(
            f"HMAC_{bits}: generate",
            source,
            "GenerateMac",
            {"KeyId": ID, **how},
            (made,),
            reply={"KeyId": ARN, "Mac": bytes, "MacAlgorithm": f"HMAC_SHA_{bits}"},
        ),
        Case(
            f"HMAC_{bits}: verify",
            source,
            "VerifyMac",
            {"KeyId": ID, "Mac": Of("tagged", "Mac"), **how},
            (made, on_key("GenerateMac", "tagged", **how)),
            reply={"KeyId": ARN, "MacAlgorithm": f"HMAC_SHA_{bits}", "MacValid": True},
        ),
        Case(
            f"HMAC_{bits}: generate with a key id that is none",
            source,
            "GenerateMac",
            {"KeyId": "key_id", **how},
            error=("NotFoundException", "Invalid keyId 'key_id'"),
        ),
        Case(
            f"HMAC_{bits}: verify with a key id that is none",
            source,
            "VerifyMac",
            {"KeyId": "key_id", "Mac": b"m", **how},
            error=("NotFoundException", "Invalid keyId 'key_id'"),
        ),
    ]


_NO_SUCH_MAC: Final = (
    "ValidationException",
    "1 validation error detected: Value 'INVALID' at 'macAlgorithm' failed to satisfy constraint: Member must "
    "satisfy enum value set: [HMAC_SHA_384, HMAC_SHA_256, HMAC_SHA_224, HMAC_SHA_512]",
)
_MACS: Final = [
    *_macs(256),
    *_macs(384),
    Case(
        "generate with an algorithm that is none",
        snapshot("TestKMS::test_invalid_generate_mac[HMAC_256-INVALID]"),
        "GenerateMac",
        {"KeyId": ID, "Message": b"m", "MacAlgorithm": "INVALID"},
        (MAC_KEY,),
        error=_NO_SUCH_MAC,
    ),
    Case(
        "verify with an algorithm that is none",
        snapshot("TestKMS::test_invalid_verify_mac[HMAC_256-INVALID-some important message]"),
        "VerifyMac",
        {"KeyId": ID, "Message": b"m", "Mac": b"m", "MacAlgorithm": "INVALID"},
        (MAC_KEY,),
        error=_NO_SUCH_MAC,
    ),
    Case(
        "verify with another key's algorithm",
        snapshot("TestKMS::test_invalid_verify_mac[HMAC_256-HMAC_SHA_512-some important message]"),
        "VerifyMac",
        {"KeyId": ID, "Message": b"m", "Mac": b"m", "MacAlgorithm": "HMAC_SHA_512"},
        (MAC_KEY,),
        error=(
            "InvalidKeyUsageException",
            "Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256.",
        ),
    ),
    Case(
        "verify a wrong mac",
        model("VerifyMac KMSInvalidMacException"),
        "VerifyMac",
        {"KeyId": ID, "Message": b"m", "Mac": b"m" * 32, "MacAlgorithm": "HMAC_SHA_256"},
        (MAC_KEY,),
        error=("KMSInvalidMacException", ""),
    ),
]

_RANDOM: Final = [
    *(
        Case(
            f"{size} random bytes",
            snapshot(f"TestKMS::test_generate_random[{size}]"),
            "GenerateRandom",
            {"NumberOfBytes": size},
            reply={"Plaintext": size},
        )
        for size in (1, 12)
    ),
    *(
        Case(
            f"{size} random bytes are refused",
            snapshot(f"TestKMS::test_generate_random_invalid_number_of_bytes[{size}]"),
            "GenerateRandom",
            {"NumberOfBytes": size},
            error=(
                "ValidationException",
                f"1 validation error detected: Value '{size}' at 'numberOfBytes' failed to satisfy "
                f"constraint: Member must have value {bound}",
            ),
        )
        for size, bound in (
            (0, "greater than or equal to 1"),
            (1025, "less than or equal to 1024"),
        )
    ),
    Case(
        "random bytes without a size",
        snapshot("TestKMS::test_generate_random_invalid_number_of_bytes[None]"),
        "GenerateRandom",
        {},
        error=("ValidationException", "NumberOfBytes is required."),
    ),
]

_ROTATION: Final = [
    *(
        Case(
            f"the status of a rotation every {days} days",
            snapshot(f"TestKMS::test_key_enable_rotation_status[{days}]"),
            "GetKeyRotationStatus",
            {"KeyId": ID},
            (key(), on_key("EnableKeyRotation", RotationPeriodInDays=days)),
            reply={
                "KeyId": ID,
                "KeyRotationEnabled": True,
                "NextRotationDate": datetime,
                "RotationPeriodInDays": days,
            },
        )
        for days in (90, 180)
    ),
    Case(
        "rotate on demand",
        snapshot("TestKMS::test_rotate_on_demand_returns_arn_for_key_id"),
        "RotateKeyOnDemand",
        {"KeyId": ID},
        (key(),),
        reply={"KeyId": ARN},
    ),
    Case(
        "the status after a rotation on demand",
        snapshot("TestKMS::test_rotate_key_on_demand_with_symmetric_key_and_automatic_rotation_disabled"),
        "GetKeyRotationStatus",
        {"KeyId": ID},
        (key(), on_key("RotateKeyOnDemand")),
        reply={"KeyId": ID, "KeyRotationEnabled": False},
    ),
    Case(
        "rotation changes the material id and nothing else",
        snapshot("TestKMS::test_key_rotation_updates_current_key_material_id_for_aws_symmetric_keys"),
        "DescribeKey",
        {"KeyId": ID},
        (key(Description="test-key"), on_key("RotateKeyOnDemand")),
        reply={"KeyMetadata": metadata(Description="test-key")},
    ),
    Case(
        "rotate a key that is not symmetric",
        snapshot("TestKMS::test_rotate_key_on_demand_raises_error_given_non_symmetric_key"),
        "RotateKeyOnDemand",
        {"KeyId": ID},
        (key("RSA_2048", "SIGN_VERIFY"),),
        error=("UnsupportedOperationException", ""),
    ),
    Case(
        "rotate a key without material",
        snapshot("TestKMS::test_rotate_key_on_demand_on_external_key_with_no_key_material[RSA_4096]"),
        "RotateKeyOnDemand",
        {"KeyId": ID},
        (EXTERNAL,),
        error=("KMSInvalidStateException", f"{ARN} is pending import."),
    ),
    Case(
        "rotate without pending material",
        snapshot("TestKMS::test_rotate_key_on_demand_raises_for_no_pending_key_material"),
        "RotateKeyOnDemand",
        {"KeyId": ID},
        (EXTERNAL, parameters_for_import(), import_step(b"m" * 32)),
        error=(
            "KMSInvalidStateException",
            f"No available key material pending rotation for the key: {ARN}.",
        ),
    ),
    Case(
        "the 26th rotation on demand",
        model("RotateKeyOnDemand: a maximum of 25 times per KMS key"),
        "RotateKeyOnDemand",
        {"KeyId": ID},
        (key(), *[on_key("RotateKeyOnDemand")] * 25),
        error=("LimitExceededException", None),
    ),
    Case(
        "automatic rotation of an HMAC key",
        model("EnableKeyRotation"),
        "EnableKeyRotation",
        {"KeyId": ID},
        (MAC_KEY,),
        error=("UnsupportedOperationException", None),
    ),
    Case(
        "automatic rotation of imported material",
        model("EnableKeyRotation"),
        "EnableKeyRotation",
        {"KeyId": ID},
        (EXTERNAL, parameters_for_import(), import_step(b"m" * 32)),
        error=("UnsupportedOperationException", None),
    ),
    Case(
        "automatic rotation before material is imported",
        guide("key-state"),
        "EnableKeyRotation",
        {"KeyId": ID},
        (EXTERNAL,),
        error=(
            "UnsupportedOperationException",
            f"{ARN} origin is EXTERNAL which is not valid for this operation.",
        ),
    ),
    Case(
        "the rotation status of a key that cannot rotate",
        report("floci-io/floci/pull/618"),
        "GetKeyRotationStatus",
        {"KeyId": ID},
        (SIGNER,),
        reply={"KeyId": ID, "KeyRotationEnabled": False},
    ),
    Case(
        "the rotation status while deletion is pending",
        model("GetKeyRotationStatus: Pending deletion"),
        "GetKeyRotationStatus",
        {"KeyId": ID},
        (
            key(),
            on_key("EnableKeyRotation", RotationPeriodInDays=90),
            on_key("ScheduleKeyDeletion"),
        ),
        reply={"KeyId": ID, "KeyRotationEnabled": False},
    ),
    Case(
        "the rotation status after a cancelled deletion",
        model("GetKeyRotationStatus: Pending deletion"),
        "GetKeyRotationStatus",
        {"KeyId": ID},
        (
            key(),
            on_key("EnableKeyRotation", RotationPeriodInDays=90),
            on_key("ScheduleKeyDeletion"),
            on_key("CancelKeyDeletion"),
        ),
        reply={
            "KeyId": ID,
            "KeyRotationEnabled": True,
            "NextRotationDate": datetime,
            "RotationPeriodInDays": 90,
        },
    ),
    Case(
        "encrypt with a key that is pending deletion, by its ARN",
        report("segmentio/chamber/issues/355"),
        "Encrypt",
        {"KeyId": ARN, "Plaintext": b"x"},
        DELETING,
        error=("KMSInvalidStateException", f"{ARN} is pending deletion."),
    ),
    Case(
        "a rotation every 89 days",
        model("RotationPeriodInDaysType"),
        "EnableKeyRotation",
        {"KeyId": ID, "RotationPeriodInDays": 89},
        (key(),),
        error=(
            "ValidationException",
            "1 validation error detected: Value '89' at 'rotationPeriodInDays' failed to satisfy constraint: "
            "Member must have value greater than or equal to 90",
        ),
    ),
]


def _imports(source: str, spec: str, usage: str, material: bytes, described: dict[str, Any]) -> list[Case]:
    made = key(spec, usage, Origin="EXTERNAL")
    imported = (made, parameters_for_import(), import_step(material))
    states: tuple[tuple[str, tuple[Step, ...], dict[str, Any]], ...] = (
        ("before", (made,), _PENDING_IMPORT),
        ("after", imported, _IMPORTED),
        ("after deletion of", (*imported, on_key("DeleteImportedKeyMaterial")), _PENDING_IMPORT),
    )
    return [
        Case(
            f"{spec} {when} import",
            snapshot(source),
            "DescribeKey",
            {"KeyId": ID},
            given,
            reply={"KeyMetadata": metadata(**(described | state))},
        )
        for when, given, state in states
    ]


_IMPORTS: Final = [
    *_imports(
        "TestKMS::test_import_key_ecc_keys[ECC_NIST_P256]",
        "ECC_NIST_P256",
        "SIGN_VERIFY",
        _P256_MATERIAL,
        _P256_METADATA,
    ),
    *(
        case
        for bits in (256, 384)
        for case in _imports(
            f"TestKMS::test_import_key_hmac_keys[HMAC_{bits}]",
            f"HMAC_{bits}",
            "GENERATE_VERIFY_MAC",
            b"h" * (bits // 8),
            {
                "CurrentKeyMaterialId": None,
                "EncryptionAlgorithms": None,
                "CustomerMasterKeySpec": f"HMAC_{bits}",
                "KeySpec": f"HMAC_{bits}",
                "KeyUsage": "GENERATE_VERIFY_MAC",
                "MacAlgorithms": [f"HMAC_SHA_{bits}"],
            },
        )
    ),
    Case(
        "an external key",
        snapshot("TestKMS::test_rotate_key_on_demand_on_external_key_with_no_key_material[RSA_4096]"),
        "DescribeKey",
        {"KeyId": ID},
        (key(Origin="EXTERNAL", Description="test-key"),),
        reply={"KeyMetadata": metadata(Description="test-key", CurrentKeyMaterialId=None, **_PENDING_IMPORT)},
    ),
    Case(
        "the first import",
        snapshot("TestKMS::test_import_key_material_raises_if_there_is_already_key_material_pending"),
        "ImportKeyMaterial",
        import_of(b"m" * 32),
        (EXTERNAL, parameters_for_import()),
        reply={"KeyId": ARN, "KeyMaterialId": str},
    ),
    Case(
        "a second material while one is pending",
        snapshot("TestKMS::test_import_key_material_raises_if_there_is_already_key_material_pending"),
        "ImportKeyMaterial",
        import_of(b"o" * 32, ImportType="NEW_KEY_MATERIAL"),
        (
            EXTERNAL,
            parameters_for_import(),
            import_step(b"m" * 32),
            import_step(b"n" * 32, "pending", ImportType="NEW_KEY_MATERIAL"),
        ),
        error=(
            "KMSInvalidStateException",
            Begins(
                "New key material (id: ",
                f") cannot be imported into KMS key {ARN}, because another key material (id: "
                "{pending[KeyMaterialId]}) is pending rotation.",
            ),
        ),
    ),
    Case(
        "import parameters of a key of AWS's own making",
        guide("importing-keys-get-public-key-and-token"),
        "GetParametersForImport",
        parameters_for_import()[2],
        (key(),),
        error=("UnsupportedOperationException", None),
    ),
    Case(
        "other material than before",
        model("IncorrectKeyMaterialException"),
        "ImportKeyMaterial",
        import_of(b"n" * 32),
        (EXTERNAL, parameters_for_import(), import_step(b"m" * 32)),
        error=("IncorrectKeyMaterialException", None),
    ),
    Case(
        "material of 16 bytes",
        model("IncorrectKeyMaterialException"),
        "ImportKeyMaterial",
        import_of(b"m" * 16),
        (EXTERNAL, parameters_for_import()),
        error=("IncorrectKeyMaterialException", None),
    ),
    Case(
        "material that is not wrapped",
        model("ImportKeyMaterial InvalidCiphertextException"),
        "ImportKeyMaterial",
        import_of(b"", EncryptedKeyMaterial=b"m" * 256),
        (EXTERNAL, parameters_for_import()),
        error=("InvalidCiphertextException", None),
    ),
    Case(
        "the token of another key",
        model("InvalidImportTokenException"),
        "ImportKeyMaterial",
        import_of(b"m" * 32),
        (
            EXTERNAL,
            key(name="other", Origin="EXTERNAL"),
            parameters_for_import(OTHER_ID),
        ),
        error=("InvalidImportTokenException", None),
    ),
    Case(
        "material that expires, without a date",
        model("ImportKeyMaterial.ValidTo"),
        "ImportKeyMaterial",
        import_of(b"m" * 32, ExpirationModel="KEY_MATERIAL_EXPIRES"),
        (EXTERNAL, parameters_for_import()),
        error=("ValidationException", None),
    ),
    Case(
        "material that expires in two years",
        model("ImportKeyMaterial.ValidTo: the maximum value is 365 days"),
        "ImportKeyMaterial",
        import_of(
            b"m" * 32,
            ExpirationModel="KEY_MATERIAL_EXPIRES",
            ValidTo=datetime.now(UTC) + timedelta(days=730),
        ),
        (EXTERNAL, parameters_for_import()),
        error=("ValidationException", None),
    ),
]

_MULTI_REGION: Final = [
    Case(
        "replicate",
        snapshot("TestKMS::test_replicate_key"),
        "ReplicateKey",
        {"KeyId": ID, "ReplicaRegion": "ap-southeast-1"},
        (key(MultiRegion=True, Description="test replicated key"),),
        reply={
            "ReplicaKeyMetadata": metadata(
                Arn="arn:aws:kms:ap-southeast-1:{account}:key/" + ID,
                CurrentKeyMaterialId=None,
                Enabled=False,
                KeyState="Creating",
                MultiRegion=True,
                MultiRegionConfiguration=dict,
            ),
            "ReplicaPolicy": str,
            "ReplicaTags": [],
        },
    ),
    Case(
        "a primary with a replica",
        snapshot("TestKMS::test_replicate_key"),
        "DescribeKey",
        {"KeyId": ID},
        (key(MultiRegion=True), on_key("ReplicateKey", ReplicaRegion="ap-southeast-1")),
        reply={
            "KeyMetadata": metadata(
                MultiRegion=True,
                MultiRegionConfiguration={
                    "MultiRegionKeyType": "PRIMARY",
                    "PrimaryKey": {"Arn": ARN, "Region": "{region}"},
                    "ReplicaKeys": [
                        {
                            "Arn": "arn:aws:kms:ap-southeast-1:{account}:key/" + ID,
                            "Region": "ap-southeast-1",
                        }
                    ],
                },
            )
        },
    ),
    Case(
        "replicate a key of one Region",
        model("ReplicateKey UnsupportedOperationException"),
        "ReplicateKey",
        {"KeyId": ID, "ReplicaRegion": "ap-southeast-1"},
        (key(),),
        error=("UnsupportedOperationException", None),
    ),
    Case(
        "replicate twice",
        model("ReplicateKey AlreadyExistsException"),
        "ReplicateKey",
        {"KeyId": ID, "ReplicaRegion": "ap-southeast-1"},
        (key(MultiRegion=True), on_key("ReplicateKey", ReplicaRegion="ap-southeast-1")),
        error=("AlreadyExistsException", None),
    ),
    Case(
        "schedule deletion of a primary with replicas",
        guide("multi-region-keys-delete"),
        "ScheduleKeyDeletion",
        {"KeyId": ID},
        (key(MultiRegion=True), on_key("ReplicateKey", ReplicaRegion="ap-southeast-1")),
        reply={"KeyId": ARN, "KeyState": "PendingReplicaDeletion", "PendingWindowInDays": 30},
    ),
]

_REQUESTS: Final = [
    Case(
        "a member that is missing",
        model("Encrypt: required KeyId, Plaintext"),
        "Encrypt",
        {"Plaintext": b"x"},
        error=(
            "ValidationException",
            "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must "
            "not be null",
        ),
    ),
    Case(
        "two members that are missing",
        model("Encrypt: required KeyId, Plaintext"),
        "Encrypt",
        {},
        error=("ValidationException", Begins("2 validation errors detected: Value null at 'keyId' failed ")),
    ),
    Case(
        "a marker that is none",
        model("ListKeys InvalidMarkerException"),
        "ListKeys",
        {"Marker": "none"},
        error=("InvalidMarkerException", None),
    ),
    Case(
        "a policy that is no document",
        model("MalformedPolicyDocumentException"),
        "PutKeyPolicy",
        {"KeyId": ID, "PolicyName": "default", "Policy": "{{not json"},
        (key(),),
        error=("MalformedPolicyDocumentException", None),
    ),
    Case(
        "the policies of a key",
        model("ListKeyPolicies: only default"),
        "ListKeyPolicies",
        {"KeyId": ID},
        (key(),),
        reply={"PolicyNames": ["default"], "Truncated": False},
    ),
    Case(
        "a grant for nobody",
        model("CreateGrant.GranteePrincipal"),
        "CreateGrant",
        {"KeyId": ID, "Operations": ["Decrypt"]},
        (key(),),
        error=("ValidationException", None),
    ),
    Case(
        "a custom key store that is none",
        model("CustomKeyStoreNotFoundException"),
        "ConnectCustomKeyStore",
        {"CustomKeyStoreId": "cks-1234567890abcdef0"},
        error=("CustomKeyStoreNotFoundException", None),
    ),
]

_REFUSALS: Final = [
    *(
        Case(
            f"create a key with {what}",
            model(f"CreateKey.{member}"),
            "CreateKey",
            parameters,
            error=(code, None),
        )
        for what, member, parameters, code in (
            (
                "two specs",
                "CustomerMasterKeySpec",
                {"KeySpec": "HMAC_256", "CustomerMasterKeySpec": "HMAC_256"},
                "ValidationException",
            ),
            ("an origin that needs a store", "Origin", {"Origin": "AWS_CLOUDHSM"}, "ValidationException"),
            (
                "a store that is none",
                "CustomKeyStoreId",
                {"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": "cks-1234567890abcdef0"},
                "CustomKeyStoreNotFoundException",
            ),
            (
                "a store and no origin",
                "CustomKeyStoreId",
                {"CustomKeyStoreId": "cks-1234567890abcdef0"},
                "ValidationException",
            ),
            ("a policy that is none", "Policy", {"Policy": "[]"}, "MalformedPolicyDocumentException"),
        )
    ),
    Case(
        "the old name of the key spec",
        model("CreateKey.CustomerMasterKeySpec: the same as KeySpec"),
        "DescribeKey",
        {"KeyId": ID},
        (key(usage="SIGN_VERIFY", CustomerMasterKeySpec="ECC_NIST_P256"),),
        reply={"KeySpec": "ECC_NIST_P256", "CustomerMasterKeySpec": "ECC_NIST_P256"},
        within="KeyMetadata",
    ),
    Case(
        "an alias of an alias",
        model("CreateAlias.TargetKeyId: key id or ARN"),
        "CreateAlias",
        {"AliasName": "alias/there", "TargetKeyId": "alias/here"},
        (key(), ("_", "CreateAlias", {"AliasName": "alias/here", "TargetKeyId": ID})),
        error=("ValidationException", None),
    ),
    Case(
        "an alias of 257 characters",
        model("AliasNameType max 256"),
        "CreateAlias",
        {"AliasName": "alias/" + "a" * 251, "TargetKeyId": ID},
        (key(),),
        error=("ValidationException", Begins("1 validation error detected: Value 'alias/aaa")),
    ),
    Case(
        "the 51st alias of a key",
        guide("resource-limits"),
        "CreateAlias",
        {"AliasName": "alias/here", "TargetKeyId": ID},
        (key(), *(("_", "CreateAlias", {"AliasName": f"alias/a{n}", "TargetKeyId": ID}) for n in range(50))),
        error=("LimitExceededException", None),
    ),
    Case(
        "a policy of more than 32 KB",
        guide("resource-limits"),
        "PutKeyPolicy",
        {"KeyId": ID, "Policy": " " * 32769},
        (key(),),
        error=("LimitExceededException", None),
    ),
    *(
        Case(
            f"{operation} of a replica",
            model(f"{operation}: on the primary key"),
            operation,
            {"KeyId": ID},
            (
                key(MultiRegion=True),
                on_key("ReplicateKey", ReplicaRegion="ap-southeast-1"),
                on_key("UpdatePrimaryRegion", PrimaryRegion="ap-southeast-1"),
            ),
            error=("UnsupportedOperationException", None),
        )
        for operation in ("EnableKeyRotation", "RotateKeyOnDemand")
    ),
    *(
        Case(
            f"a context for {operation} with an RSA key",
            model(f"{operation}.EncryptionContext: symmetric encryption keys only"),
            operation,
            {
                "KeyId": ID,
                "EncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                "EncryptionContext": {"a": "b"},
                **more,
            },
            (key("RSA_2048", "ENCRYPT_DECRYPT"),),
            error=("ValidationException", None),
        )
        for operation, more in (
            ("Encrypt", {"Plaintext": b"x"}),
            ("Decrypt", {"CiphertextBlob": b"x" * 256}),
        )
    ),
    Case(
        "a data key from an RSA key",
        model("GenerateDataKey: a symmetric encryption KMS key"),
        "GenerateDataKey",
        {"KeyId": ID, "KeySpec": "AES_256"},
        (key("RSA_2048", "ENCRYPT_DECRYPT"),),
        error=("InvalidKeyUsageException", None),
    ),
    Case(
        "the public key of an HMAC key",
        model("GetPublicKey UnsupportedOperationException"),
        "GetPublicKey",
        {"KeyId": ID},
        (MAC_KEY,),
        error=("UnsupportedOperationException", None),
    ),
    Case(
        "a data key for an enclave without proof",
        model("GenerateDataKey.Recipient"),
        "GenerateDataKey",
        {
            "KeyId": ID,
            "KeySpec": "AES_256",
            "Recipient": {
                "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                "AttestationDocument": b"none",
            },
        },
        (key(),),
        error=("ValidationException", None),
    ),
    Case(
        "random bytes of a store that is none",
        model("GenerateRandom.CustomKeyStoreId"),
        "GenerateRandom",
        {"NumberOfBytes": 1, "CustomKeyStoreId": "cks-1234567890abcdef0"},
        error=("CustomKeyStoreNotFoundException", None),
    ),
    *(
        Case(
            f"wrap {spec} with {algorithm}",
            model("GetParametersForImport.WrappingAlgorithm"),
            "GetParametersForImport",
            {"KeyId": ID, "WrappingAlgorithm": algorithm, "WrappingKeySpec": "RSA_2048"},
            (key(spec, usage, Origin="EXTERNAL"),),
            error=(code, None),
        )
        for spec, usage, algorithm, code in (
            ("SYMMETRIC_DEFAULT", None, "RSAES_PKCS1_V1_5", "UnsupportedOperationException"),
            ("RSA_2048", "SIGN_VERIFY", "RSAES_OAEP_SHA_256", "ValidationException"),
            ("ECC_NIST_P521", "SIGN_VERIFY", "RSAES_OAEP_SHA_256", "ValidationException"),
        )
    ),
    *(
        Case(
            f"import with {what}",
            model(f"ImportKeyMaterial.{member}"),
            "ImportKeyMaterial",
            import_of(b"m" * 32, **more),
            (made, parameters_for_import()),
            error=(code, None),
        )
        for what, member, made, more, code in (
            (
                "a type, though it is not symmetric",
                "ImportType",
                key("HMAC_256", "GENERATE_VERIFY_MAC", Origin="EXTERNAL"),
                {"ImportType": "NEW_KEY_MATERIAL"},
                "ValidationException",
            ),
            (
                "an id of new material",
                "KeyMaterialId",
                EXTERNAL,
                {"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialId": "a" * 64},
                "ValidationException",
            ),
            (
                "the id of other material",
                "KeyMaterialId",
                EXTERNAL,
                {"KeyMaterialId": "a" * 64},
                "IncorrectKeyMaterialException",
            ),
            (
                "a date, though it does not expire",
                "ValidTo",
                EXTERNAL,
                {"ValidTo": datetime.now(UTC) + timedelta(days=1)},
                "ValidationException",
            ),
            (
                "material it should know already",
                "ImportType",
                EXTERNAL,
                {"ImportType": "EXISTING_KEY_MATERIAL"},
                "IncorrectKeyMaterialException",
            ),
        )
    ),
    Case(
        "a dry run that ignores a ciphertext, but is none",
        model("Decrypt.DryRunModifiers: only when DryRun is true"),
        "Decrypt",
        {"KeyId": ID, "CiphertextBlob": BLOB, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]},
        (key(), ENCRYPTED),
        error=("ValidationException", None),
    ),
    Case(
        "decrypt nothing",
        model("Decrypt.CiphertextBlob: required in all other cases"),
        "Decrypt",
        {"KeyId": ID},
        (key(),),
        error=("ValidationException", None),
    ),
    Case(
        "retire a grant without naming it",
        model("RetireGrant: a grant token, or both the grant ID and a key identifier"),
        "RetireGrant",
        {"KeyId": ID},
        (key(),),
        error=("ValidationException", None),
    ),
    Case(
        "a primary Region without a replica",
        model("UpdatePrimaryRegion NotFoundException"),
        "UpdatePrimaryRegion",
        {"KeyId": ID, "PrimaryRegion": "ap-southeast-1"},
        (key(MultiRegion=True),),
        error=("NotFoundException", None),
    ),
    Case(
        "custom key stores of an account without one",
        model("DescribeCustomKeyStores"),
        "DescribeCustomKeyStores",
        {},
        reply={"CustomKeyStores": [], "Truncated": False},
    ),
]

CASES: Final = (
    *_IDENTITY,
    *_CREATION,
    *_TAGS,
    *_ALIASES,
    *_ENCRYPTION,
    *_STATES,
    *_USAGES,
    *_SIGNING,
    *_MACS,
    *_RANDOM,
    *_ROTATION,
    *_IMPORTS,
    *_MULTI_REGION,
    *_REQUESTS,
    *_REFUSALS,
)
