"""The operations that make, describe, change and destroy keys, aliases, tags, policies and grants."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from anykms_emulators.aws.account import (
    DELETING,
    MANAGED_ALIASES,
    UNUSABLE,
    Alias,
    Call,
    ImportToken,
    require_state,
)
from anykms_emulators.aws.errors import KmsError, invalid
from anykms_emulators.aws.keys import (
    OAEP,
    SPECS,
    SYMMETRIC,
    Family,
    Grant,
    Json,
    Key,
    Line,
    Material,
    imported_id,
)
from anykms_emulators.material import AES_BYTES, DecryptionError, KeyMaterial, RsaKey, SecretKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_TAGS: Final = 50
MAX_ALIASES: Final = 50
MAX_POLICY_BYTES: Final = 32768
MAX_ON_DEMAND_ROTATIONS: Final = 25
_DEFAULT_PERIOD_DAYS: Final = 365
_DEFAULT_WINDOW_DAYS: Final = 30
_IMPORT_VALIDITY: Final = timedelta(hours=24)
_LONGEST_EXPIRY: Final = timedelta(days=365)
_ROTATION_GUARD: Final = timedelta(minutes=20)


def create_key(call: Call) -> Json:
    spec_name, usage = _spec_and_usage(call)
    origin: str = call.get("Origin", "AWS_KMS")
    if origin in ("AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"):
        if "CustomKeyStoreId" not in call.parameters:
            raise invalid(f"CustomKeyStoreId is required when Origin is {origin}.")
        raise KmsError("CustomKeyStoreNotFoundException")
    if "CustomKeyStoreId" in call.parameters or "XksKeyId" in call.parameters:
        raise invalid("CustomKeyStoreId and XksKeyId are valid only with the Origin of a custom key store.")
    if origin == "EXTERNAL" and SPECS[spec_name].load is None:
        raise KmsError(
            "UnsupportedOperationException", f"Origin EXTERNAL is not valid for KeySpec {spec_name}."
        )
    multi_region = bool(call.get("MultiRegion"))
    key_id = call.account.new_id(multi_region=multi_region)
    line = Line() if origin == "EXTERNAL" else Line([Material.generate(SPECS[spec_name])])
    key = _new_key(call, call.region, key_id, spec_name, usage, origin, line)
    key.family = Family(call.region) if multi_region else None
    call.here.keys[key_id] = key
    return {"KeyMetadata": key.metadata()}


def _spec_and_usage(call: Call) -> tuple[str, str]:
    if "KeySpec" in call.parameters and "CustomerMasterKeySpec" in call.parameters:
        raise invalid(
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
            "CustomerMasterKeySpec is deprecated."
        )
    spec_name: str = call.get("KeySpec") or call.get("CustomerMasterKeySpec") or SYMMETRIC
    usage: str | None = call.get("KeyUsage")
    if usage is None:
        if spec_name != SYMMETRIC:
            raise invalid(
                "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
            )
        usage = "ENCRYPT_DECRYPT"
    if usage not in SPECS[spec_name].usages:
        raise invalid(f"KeyUsage {usage} is not compatible with KeySpec {spec_name}")
    return spec_name, usage


def _new_key(
    call: Call, region: str, key_id: str, spec_name: str, usage: str, origin: str, line: Line
) -> Key:
    tags: dict[str, str] = {}
    _add_tags(tags, call.get("Tags", []))
    return Key(
        id=key_id,
        arn=call.account.arn(region, f"key/{key_id}"),
        account=call.account.number,
        region=region,
        spec_name=spec_name,
        usage=usage,
        origin=origin,
        description=call.get("Description", ""),
        policy=_policy(call),
        created=call.now,
        line=line,
        tags=tags,
    )


def describe_key(call: Call) -> Json:
    return {"KeyMetadata": call.key(alias=True).metadata()}


def list_keys(call: Call) -> Json:
    mine = "SELF" in call.get("ResourceOwners", ["SELF"])
    rows = [(key.id, {"KeyId": key.id, "KeyArn": key.arn}) for key in call.here.keys.values() if mine]
    return call.page("Keys", sorted(rows, key=_first), 100, 1000)


def _first(row: tuple[str, object]) -> str:
    return row[0]


def enable_key(call: Call) -> None:
    key = call.key()
    require_state(key, "PendingImport", *DELETING)
    key.enabled = True


def disable_key(call: Call) -> None:
    key = call.key()
    require_state(key, "PendingImport", *DELETING)
    key.enabled = False


def update_key_description(call: Call) -> None:
    key = call.key()
    require_state(key, *DELETING)
    key.description = call["Description"]


def schedule_key_deletion(call: Call) -> Json:
    key = call.key()
    require_state(key, *DELETING)
    window: int = call.get("PendingWindowInDays", _DEFAULT_WINDOW_DAYS)
    if not 7 <= window <= 30:
        raise invalid("PendingWindowInDays must be between 7 and 30, inclusive.")
    key.window = window
    answer: Json = {"KeyId": key.arn, "PendingWindowInDays": window}
    if not (key.is_primary and key.family is not None and key.family.replicas):
        key.deletion_date = call.now + timedelta(days=window)
        answer["DeletionDate"] = key.deletion_date
    return {**answer, "KeyState": key.state}


def cancel_key_deletion(call: Call) -> Json:
    key = call.key()
    if key.state not in DELETING:
        raise KmsError("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
    key.window = key.deletion_date = None
    key.enabled = False
    return {"KeyId": key.arn}


def _alias_name(call: Call) -> str:
    name: str = call["AliasName"]
    if not name.startswith("alias/"):
        raise invalid(
            'Alias must start with the prefix "alias/". Please see '
            "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
        )
    if name.startswith("alias/aws/"):
        raise KmsError("NotAuthorizedException")
    if name == "alias/":
        raise invalid("An alias must have a name after the prefix.")
    return name


def _alias_target(call: Call) -> Key:
    target: str = call["TargetKeyId"]
    if target.startswith("alias/") or ":alias/" in target:
        raise invalid("Aliases must refer to keys. Not aliases")
    key = call.key("TargetKeyId")
    require_state(key, *DELETING)
    return key


def create_alias(call: Call) -> None:
    name = _alias_name(call)
    key = _alias_target(call)
    if name in call.here.aliases:
        raise KmsError(
            "AlreadyExistsException",
            f"An alias with the name {call.account.arn(call.region, name)} already exists",
        )
    if sum(alias.key is key for alias in call.here.aliases.values()) >= MAX_ALIASES:
        raise KmsError(
            "LimitExceededException", f"A KMS key can have at most {MAX_ALIASES} aliases: {key.arn}"
        )
    call.here.aliases[name] = Alias(name, key, call.now, call.now)


def _existing_alias(call: Call) -> Alias:
    name = _alias_name(call)
    if name not in call.here.aliases:
        raise KmsError("NotFoundException", f"Alias {call.account.arn(call.region, name)} is not found.")
    return call.here.aliases[name]


def update_alias(call: Call) -> None:
    alias = _existing_alias(call)
    key = _alias_target(call)
    if (_type(key), key.usage) != (_type(alias.key), alias.key.usage):
        raise invalid(
            "The current and new KMS key must be the same type (both symmetric or both asymmetric or both "
            "HMAC), and they must have the same key usage."
        )
    alias.key, alias.updated = key, call.now


def _type(key: Key) -> str:
    if key.spec_name == SYMMETRIC:
        return "symmetric"
    return "HMAC" if key.usage == "GENERATE_VERIFY_MAC" else "asymmetric"


def delete_alias(call: Call) -> None:
    alias = _existing_alias(call)
    del call.here.aliases[alias.name]


def list_aliases(call: Call) -> Json:
    wanted = call.key() if "KeyId" in call.parameters else None
    rows: list[tuple[str, Json]] = []
    if wanted is None:
        rows += [(name, _alias_row(call, name)) for name in MANAGED_ALIASES]
    rows += [
        (
            alias.name,
            {
                **_alias_row(call, alias.name),
                "TargetKeyId": alias.key.id,
                "CreationDate": alias.created,
                "LastUpdatedDate": alias.updated,
            },
        )
        for alias in call.here.aliases.values()
        if wanted is None or alias.key is wanted
    ]
    answer = call.page("Aliases", sorted(rows, key=_first), 50, 100)
    return {**answer, "AliasCount": len(answer["Aliases"])}


def _alias_row(call: Call, name: str) -> Json:
    return {"AliasName": name, "AliasArn": call.account.arn(call.region, name)}


def _add_tags(tags: dict[str, str], additions: list[dict[str, str]]) -> None:
    names = [tag["TagKey"] for tag in additions]
    if any(name.lower().startswith("aws:") for name in names):
        raise KmsError("TagException", "Tags beginning with aws: are reserved")
    if len(set(names)) != len(names):
        raise KmsError("TagException", "Duplicate tag keys")
    merged = tags | {tag["TagKey"]: tag["TagValue"] for tag in additions}
    if len(merged) > MAX_TAGS:
        raise KmsError("LimitExceededException", f"A KMS key can have at most {MAX_TAGS} tags")
    tags.update(merged)


def tag_resource(call: Call) -> None:
    key = call.key()
    require_state(key, *DELETING)
    _add_tags(key.tags, call["Tags"])


def untag_resource(call: Call) -> None:
    key = call.key()
    require_state(key, *DELETING)
    for name in call["TagKeys"]:
        key.tags.pop(name, None)


def list_resource_tags(call: Call) -> Json:
    rows = [(name, {"TagKey": name, "TagValue": value}) for name, value in sorted(call.key().tags.items())]
    return call.page("Tags", rows, 50, 50)


def _policy(call: Call) -> str:
    if "Policy" not in call.parameters:
        statement = {
            "Sid": "Enable IAM User Permissions",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{call.account.number}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
        return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]})
    text: str = call["Policy"]
    if len(text.encode()) > MAX_POLICY_BYTES:
        raise KmsError("LimitExceededException", f"A key policy can have at most {MAX_POLICY_BYTES} bytes")
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or "Statement" not in document:
        raise KmsError("MalformedPolicyDocumentException", "The new key policy is not a policy document.")
    return text


def _policy_name(call: Call) -> None:
    if call.get("PolicyName", "default") != "default":
        raise KmsError("NotFoundException", "No such policy exists")


def put_key_policy(call: Call) -> None:
    key = call.key()
    _policy_name(call)
    key.policy = _policy(call)


def get_key_policy(call: Call) -> Json:
    key = call.key()
    _policy_name(call)
    return {"Policy": key.policy, "PolicyName": "default"}


def list_key_policies(call: Call) -> Json:
    call.key()
    return call.page("PolicyNames", [("default", "default")], 100, 1000)


def _rotatable(call: Call, *states: str) -> Key:
    key = call.key()
    if key.spec_name != SYMMETRIC:
        raise KmsError("UnsupportedOperationException")
    require_state(key, *states)
    return key


def _automatic(call: Call) -> Key:
    key = _rotatable(call)
    if key.origin != "AWS_KMS":
        raise KmsError(
            "UnsupportedOperationException",
            f"{key.arn} origin is {key.origin} which is not valid for this operation.",
        )
    require_state(key, *UNUSABLE)
    if key.family is not None and not key.is_primary:
        raise KmsError("UnsupportedOperationException", f"{key.arn} is not a multi-Region primary key.")
    return key


def enable_key_rotation(call: Call) -> None:
    line = _automatic(call).line
    days: int = call.get("RotationPeriodInDays", _DEFAULT_PERIOD_DAYS)
    line.period, line.next_rotation = days, call.now + timedelta(days=days)


def disable_key_rotation(call: Call) -> None:
    line = _automatic(call).line
    line.period = line.next_rotation = None


def get_key_rotation_status(call: Call) -> Json:
    key = call.key()
    line = key.line
    if line.period is None or key.state in DELETING:
        return {"KeyId": key.id, "KeyRotationEnabled": False}
    return {
        "KeyId": key.id,
        "KeyRotationEnabled": True,
        "RotationPeriodInDays": line.period,
        "NextRotationDate": line.next_rotation,
    }


def rotate_key_on_demand(call: Call) -> Json:
    key = _rotatable(call, *UNUSABLE)
    line = key.line
    if key.family is not None and not key.is_primary:
        raise KmsError("UnsupportedOperationException", f"{key.arn} is not a multi-Region primary key.")
    if line.on_demand >= MAX_ON_DEMAND_ROTATIONS:
        raise KmsError(
            "LimitExceededException",
            f"The on-demand rotations of {key.arn} are used up: {MAX_ON_DEMAND_ROTATIONS}.",
        )
    if line.next_rotation is not None and line.next_rotation - call.now <= _ROTATION_GUARD:
        raise KmsError(
            "ConflictException",
            "An automatic rotation of this key is currently in progress or scheduled to begin within the "
            "next 20 minutes.",
        )
    fresh = Material.generate(key.spec) if key.origin == "AWS_KMS" else None
    if fresh is None and line.pending is None:
        raise KmsError(
            "KMSInvalidStateException",
            f"No available key material pending rotation for the key: {key.arn}.",
        )
    line.rotate(fresh, call.now, "ON_DEMAND")
    line.on_demand += 1
    return {"KeyId": key.arn}


def list_key_rotations(call: Call) -> Json:
    key = _rotatable(call)
    every = call.get("IncludeKeyMaterial") == "ALL_KEY_MATERIAL"
    rows: list[tuple[str, Json]] = []
    for number, material in enumerate(key.line.materials):
        if material.rotated is None and not every:
            continue
        row: Json = {"KeyId": key.id, "KeyMaterialId": material.id}
        if number == key.line.current:
            row["KeyMaterialState"] = "CURRENT"
        else:
            row["KeyMaterialState"] = "NON_CURRENT" if number < key.line.current else "PENDING_ROTATION"
        if key.origin == "EXTERNAL":
            row["ImportState"] = "PENDING_IMPORT" if material.secret is None else "IMPORTED"
        row |= {
            name: value
            for name, value in (
                ("KeyMaterialDescription", material.description),
                ("ExpirationModel", material.expiration_model),
                ("ValidTo", material.expires),
                ("RotationDate", material.rotated),
                ("RotationType", material.rotation_type),
            )
            if value is not None
        }
        rows.append((f"{number:08}", row))
    return call.page("Rotations", rows, 100, 1000)


def _importable(call: Call) -> Key:
    key = call.key()
    if key.origin != "EXTERNAL":
        raise KmsError(
            "UnsupportedOperationException",
            f"{key.arn} origin is {key.origin} which is not valid for this operation.",
        )
    return key


def get_parameters_for_import(call: Call) -> Json:
    key = _importable(call)
    require_state(key, *DELETING)
    algorithm: str = call["WrappingAlgorithm"]
    if algorithm == "RSAES_PKCS1_V1_5":
        raise KmsError("UnsupportedOperationException", "RSAES_PKCS1_V1_5 is no longer supported.")
    if key.spec_name.startswith("RSA_") and not algorithm.startswith("RSA_AES_"):
        raise invalid(f"WrappingAlgorithm {algorithm} is not valid for KeySpec {key.spec_name}.")
    bits = int(call["WrappingKeySpec"].removeprefix("RSA_"))
    if key.spec_name == "ECC_NIST_P521" and algorithm in OAEP and bits == 2048:
        raise invalid("An RSA_2048 wrapping key cannot directly wrap an ECC_NIST_P521 private key.")
    token = os.urandom(64)
    wrapping = RsaKey.generate(bits)
    valid_to = call.now + _IMPORT_VALIDITY
    call.account.import_tokens[token] = ImportToken(key, wrapping, algorithm, valid_to)
    return {
        "KeyId": key.arn,
        "ImportToken": token,
        "PublicKey": wrapping.public_der(),
        "ParametersValidTo": valid_to,
    }


def import_key_material(call: Call) -> Json:
    key = _importable(call)
    require_state(key, *DELETING)
    token = call.account.import_tokens.get(call["ImportToken"])
    if token is None or token.key is not key:
        raise KmsError("InvalidImportTokenException")
    if token.valid_to <= call.now:
        raise KmsError("ExpiredImportTokenException")
    model, expires = _expiry(call)
    symmetric = key.spec_name == SYMMETRIC
    how: str | None = call.get("ImportType")
    if not symmetric:
        for name in ("ImportType", "KeyMaterialId", "KeyMaterialDescription"):
            if name in call.parameters:
                raise invalid(f"{name} is valid only for symmetric encryption keys.")
    if how == "NEW_KEY_MATERIAL" and "KeyMaterialId" in call.parameters:
        raise invalid("KeyMaterialId is not valid when ImportType is NEW_KEY_MATERIAL.")
    raw, secret = _unwrap(call, key, token)
    material_id = imported_id(key.id, raw)
    if call.get("KeyMaterialId", material_id) != material_id:
        raise KmsError("IncorrectKeyMaterialException")
    material = _place(key, material_id, secret, how)
    material.secret, material.expiration_model, material.expires = secret, model, expires
    material.description = call.get("KeyMaterialDescription", material.description)
    return {"KeyId": key.arn} | ({"KeyMaterialId": material_id} if symmetric else {})


def _expiry(call: Call) -> tuple[str, Any]:
    model: str = call.get("ExpirationModel", "KEY_MATERIAL_EXPIRES")
    expires = call.get("ValidTo")
    if model == "KEY_MATERIAL_EXPIRES":
        if expires is None:
            raise invalid("ValidTo is required when ExpirationModel is KEY_MATERIAL_EXPIRES.")
        if not call.now < expires <= call.now + _LONGEST_EXPIRY:
            raise invalid("ValidTo must be in the future and at most 365 days away.")
    elif expires is not None:
        raise invalid("ValidTo is not valid when ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE.")
    return model, expires


def _unwrap(call: Call, key: Key, token: ImportToken) -> tuple[bytes, KeyMaterial]:
    """The identity bytes and the material of an import; asymmetric keys are known by their public key."""
    load = key.spec.load
    if load is None:
        raise TypeError("a key spec that cannot be imported has an import token")
    wrapped: bytes = call["EncryptedKeyMaterial"]
    try:
        if token.algorithm in OAEP:
            plain = token.wrapping.oaep_decrypt(wrapped, OAEP[token.algorithm])
        else:
            # PKCS #11 CKM_RSA_AES_KEY_WRAP: the AES key under OAEP, then the material under AES-KWP
            hash_name = OAEP[token.algorithm.replace("RSA_AES_KEY_WRAP", "RSAES_OAEP")]
            size = token.wrapping.bits // 8
            aes = token.wrapping.oaep_decrypt(wrapped[:size], hash_name)
            if len(aes) not in AES_BYTES:
                raise KmsError("InvalidCiphertextException")
            plain = SecretKey(aes).unwrap(wrapped[size:], padded=True)
    except DecryptionError:
        raise KmsError("InvalidCiphertextException") from None
    try:
        secret = load(plain)
    except ValueError:
        raise KmsError("IncorrectKeyMaterialException") from None
    return plain if isinstance(secret, SecretKey) else secret.public_der(), secret


def _place(key: Key, material_id: str, secret: KeyMaterial, how: str | None) -> Material:
    line = key.line
    known = next((material for material in line.materials if material.id == material_id), None)
    if how is None:
        how = "EXISTING_KEY_MATERIAL" if line.materials else "NEW_KEY_MATERIAL"
    if how == "EXISTING_KEY_MATERIAL":
        if known is None:
            raise KmsError("IncorrectKeyMaterialException")
        return known
    if known is not None:
        raise KmsError("IncorrectKeyMaterialException")
    if line.pending is not None:
        raise KmsError(
            "KMSInvalidStateException",
            f"New key material (id: {material_id}) cannot be imported into KMS key {key.arn}, because "
            f"another key material (id: {line.pending.id}) is pending rotation.",
        )
    material = Material(material_id, secret)
    line.materials.append(material)
    return material


def delete_imported_key_material(call: Call) -> Json:
    key = _importable(call)
    line = key.line
    wanted: str | None = call.get("KeyMaterialId")
    material = next((one for one in line.materials if one.id == wanted), None)
    if wanted is not None and material is None:
        raise invalid(f"KeyMaterialId {wanted} is not associated with {key.arn}.")
    if material is None and line.materials:
        material = key.current
    answer: Json = {"KeyId": key.arn}
    if material is None:
        return answer
    material.secret, material.expires, material.expiration_model = None, None, None
    if material is line.pending:
        line.materials.remove(material)
    return answer | ({"KeyMaterialId": material.id} if key.spec_name == SYMMETRIC else {})


def get_key_last_usage(call: Call) -> Json:
    key = call.key()
    return {
        "KeyId": key.id,
        "KeyLastUsage": key.last_usage,
        "TrackingStartDate": key.created,
        "KeyCreationDate": key.created,
    }


def _primary(call: Call) -> tuple[Key, Family]:
    key = call.key()
    if key.family is None or not key.is_primary:
        raise KmsError("UnsupportedOperationException", f"{key.arn} is not a multi-Region primary key.")
    require_state(key, *UNUSABLE)
    return key, key.family


def replicate_key(call: Call) -> Json:
    primary, family = _primary(call)
    region: str = call["ReplicaRegion"]
    if region not in call.account.regions:
        raise invalid(f"ReplicaRegion {region} is not enabled in this account.")
    if region == family.primary or region in family.replicas:
        raise KmsError(
            "AlreadyExistsException",
            f"A key with the key id {primary.id} already exists in {region}",
        )
    # imported material is not replicated: each Region imports it for itself
    line = primary.line if primary.origin == "AWS_KMS" else Line()
    replica = _new_key(call, region, primary.id, primary.spec_name, primary.usage, primary.origin, line)
    replica.family = family
    call.account.regions[region].keys[replica.id] = replica
    family.replicas.append(region)
    metadata = replica.metadata() | {"KeyState": "Creating", "Enabled": False}
    metadata.pop("CurrentKeyMaterialId", None)
    return {
        "ReplicaKeyMetadata": metadata,
        "ReplicaPolicy": replica.policy,
        "ReplicaTags": [{"TagKey": name, "TagValue": value} for name, value in replica.tags.items()],
    }


def update_primary_region(call: Call) -> None:
    _, family = _primary(call)
    region: str = call["PrimaryRegion"]
    if region not in family.replicas:
        raise KmsError("NotFoundException", f"There is no replica of {call['KeyId']} in {region}")
    family.replicas[family.replicas.index(region)] = family.primary
    family.primary = region


def create_grant(call: Call) -> Json:
    key = call.key()
    require_state(key, *UNUSABLE)
    if ("GranteePrincipal" in call.parameters) == ("GranteeServicePrincipal" in call.parameters):
        raise invalid("You must specify either GranteePrincipal or GranteeServicePrincipal, but not both.")
    if not call["Operations"]:
        raise invalid("A grant must allow at least one operation.")
    call.done()
    names = (
        "Name", "GranteePrincipal", "RetiringPrincipal", "GranteeServicePrincipal",
        "RetiringServicePrincipal", "Operations", "Constraints",
    )  # fmt: skip
    fields = {name: call[name] for name in names if name in call.parameters}
    grant = Grant(os.urandom(32).hex(), os.urandom(96).hex(), call.now, fields)
    key.grants[grant.id] = grant
    return {"GrantId": grant.id, "GrantToken": grant.token}


def _grant_row(key: Key, grant: Grant) -> tuple[str, Json]:
    facts = {
        "KeyId": key.arn,
        "GrantId": grant.id,
        "CreationDate": grant.created,
        "IssuingAccount": f"arn:aws:iam::{key.account}:root",
    }
    return grant.id, {**grant.fields, **facts}


def list_grants(call: Call) -> Json:
    key = call.key()
    rows = [
        _grant_row(key, grant)
        for grant in key.grants.values()
        if call.get("GrantId", grant.id) == grant.id
        and all(
            grant.fields.get(name) == call[name]
            for name in ("GranteePrincipal", "GranteeServicePrincipal")
            if name in call.parameters
        )
    ]
    return call.page("Grants", sorted(rows, key=_first), 50, 100)


def list_retirable_grants(call: Call) -> Json:
    names = [name for name in ("RetiringPrincipal", "RetiringServicePrincipal") if name in call.parameters]
    if len(names) != 1:
        raise invalid("You must specify either RetiringPrincipal or RetiringServicePrincipal, but not both.")
    rows = [
        _grant_row(key, grant)
        for key in call.here.keys.values()
        for grant in key.grants.values()
        if grant.fields.get(names[0]) == call[names[0]]
    ]
    return call.page("Grants", sorted(rows, key=_first), 50, 100)


def _end_grant(call: Call, key: Key) -> None:
    if call["GrantId"] not in key.grants:
        raise KmsError("NotFoundException", f"Grant ID {call['GrantId']} not found")
    call.done()
    del key.grants[call["GrantId"]]


def revoke_grant(call: Call) -> None:
    _end_grant(call, call.key())


def retire_grant(call: Call) -> None:
    if "GrantToken" not in call.parameters:
        if "KeyId" not in call.parameters or "GrantId" not in call.parameters:
            raise invalid("You must specify either a grant token, or a key ARN and a grant ID.")
        return _end_grant(call, call.key())
    for key in call.here.keys.values():
        for grant in tuple(key.grants.values()):
            if grant.token == call["GrantToken"]:
                call.done()
                del key.grants[grant.id]
                return None
    raise KmsError("InvalidGrantTokenException")


def describe_custom_key_stores(call: Call) -> Json:
    if "CustomKeyStoreId" in call.parameters or "CustomKeyStoreName" in call.parameters:
        raise KmsError("CustomKeyStoreNotFoundException")
    return call.page("CustomKeyStores", [], 100, 1000)


def create_custom_key_store(call: Call) -> Json:
    if call.get("CustomKeyStoreType", "AWS_CLOUDHSM") == "AWS_CLOUDHSM":
        raise KmsError("CloudHsmClusterNotFoundException")
    raise KmsError("XksProxyUriUnreachableException")


def no_custom_key_store(call: Call) -> None:
    raise KmsError("CustomKeyStoreNotFoundException")


HANDLERS: Final[Mapping[str, Callable[[Call], Json | None]]] = {
    "CancelKeyDeletion": cancel_key_deletion,
    "CreateAlias": create_alias,
    "CreateGrant": create_grant,
    "CreateKey": create_key,
    "DeleteAlias": delete_alias,
    "DeleteImportedKeyMaterial": delete_imported_key_material,
    "DescribeCustomKeyStores": describe_custom_key_stores,
    "DescribeKey": describe_key,
    "DisableKey": disable_key,
    "DisableKeyRotation": disable_key_rotation,
    "EnableKey": enable_key,
    "EnableKeyRotation": enable_key_rotation,
    "GetKeyLastUsage": get_key_last_usage,
    "GetKeyPolicy": get_key_policy,
    "GetKeyRotationStatus": get_key_rotation_status,
    "GetParametersForImport": get_parameters_for_import,
    "ImportKeyMaterial": import_key_material,
    "ListAliases": list_aliases,
    "ListGrants": list_grants,
    "ListKeyPolicies": list_key_policies,
    "ListKeyRotations": list_key_rotations,
    "ListKeys": list_keys,
    "ListResourceTags": list_resource_tags,
    "ListRetirableGrants": list_retirable_grants,
    "PutKeyPolicy": put_key_policy,
    "ReplicateKey": replicate_key,
    "RetireGrant": retire_grant,
    "RevokeGrant": revoke_grant,
    "RotateKeyOnDemand": rotate_key_on_demand,
    "ScheduleKeyDeletion": schedule_key_deletion,
    "TagResource": tag_resource,
    "UntagResource": untag_resource,
    "UpdateAlias": update_alias,
    "UpdateKeyDescription": update_key_description,
    "UpdatePrimaryRegion": update_primary_region,
}
# custom key stores need hardware or a proxy outside of KMS, which an emulated account does not have
REFUSED: Final[Mapping[str, Callable[[Call], Json | None]]] = {
    "ConnectCustomKeyStore": no_custom_key_store,
    "CreateCustomKeyStore": create_custom_key_store,
    "DeleteCustomKeyStore": no_custom_key_store,
    "DisconnectCustomKeyStore": no_custom_key_store,
    "UpdateCustomKeyStore": no_custom_key_store,
}
