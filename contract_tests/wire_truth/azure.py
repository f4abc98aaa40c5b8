"""What Azure Key Vault and Managed HSM answer: one row per fact, with the public source it was read from.

A row is data: steps that lead up to a request, the request, and the reply or the error that Azure gives.
In any text `{base}` is the vault's URL, `{name[a][b]}` a member of an earlier step's reply.

Sources: `replay` is a file of google/go-cloud's secrets/azurekeyvault/testdata (Apache-2.0), `go` a recording
in Azure/azure-sdk-assets' go/sdk/security/keyvault/azkeys (MIT), `py` one of its
python/sdk/keyvault/azure-keyvault-keys (MIT): all three recorded against Azure. `issue` is a GitHub thread
that quotes the service's reply; `docs` a page of MicrosoftDocs/azure-security-docs; `model` the operation's
description in the official SDK.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, rsa

if TYPE_CHECKING:
    from collections.abc import Callable

Json: TypeAlias = dict[str, Any]
Flavour: TypeAlias = Literal["standard", "premium", "hsm", "protected", "lagging"]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Ask:
    """A request: method, path below the vault, JSON body (None: no body), api-version."""

    method: str
    path: str
    body: Any = None
    api: str = "2025-07-01"


@dataclass(frozen=True)
class Step:
    """A request whose 2xx reply is kept under `name`; `tries` requests at most until there is one."""

    name: str
    ask: Ask
    tries: int = 1


@dataclass(frozen=True)
class Make:
    """A value computed from the earlier replies."""

    how: Callable[[Json], Any]


@dataclass(frozen=True)
class Bytes:
    """A base64url value of so many bytes; of any number when None."""

    count: int | None = None


@dataclass(frozen=True)
class Unordered:
    """A list whose order means nothing."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Begins:
    """A text that varies after its beginning."""

    text: str


@dataclass(frozen=True)
class Error:
    """An error reply.

    message: None when no public source has the words. inner: "" for no inner code, None when none says.
    """

    status: int
    code: str
    message: str | Begins | None = None
    inner: str | None = ""


@dataclass(frozen=True)
class Case:
    """One fact. Exactly one of `reply` and `error`.

    reply: every member of the reply and no other: its value, or its type where it varies; None for 204.
    within: only this member of the reply is compared, a path of names and indexes.
    """

    name: str
    source: str
    ask: Ask
    reply: Any = None
    error: Error | None = None
    flavour: Flavour = "standard"
    given: tuple[Step, ...] = ()
    wait: timedelta = timedelta()
    within: tuple[str | int, ...] = ()


_RSA: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_numbers()
_EC: Final = ec.generate_private_key(ec.SECP256R1()).private_numbers()


def _number(value: int) -> str:
    # the recorded imports have a leading zero byte where the top bit is set
    return b64(value.to_bytes(value.bit_length() // 8 + 1, "big"))


RSA_JWK: Final = {
    "kty": "RSA",
    "n": b64(_RSA.public_numbers.n.to_bytes(256, "big")),
    "e": "AQAB",
    "d": _number(_RSA.d),
    "p": _number(_RSA.p),
    "q": _number(_RSA.q),
    "dp": _number(_RSA.dmp1),
    "dq": _number(_RSA.dmq1),
    "qi": _number(_RSA.iqmp),
}
EC_JWK: Final = {
    "kty": "EC",
    "crv": "P-256",
    "x": b64(_EC.public_numbers.x.to_bytes(32, "big")),
    "y": b64(_EC.public_numbers.y.to_bytes(32, "big")),
    "d": b64(_EC.private_value.to_bytes(32, "big")),
}
# the key, iv and texts of test_symmetric_encrypt_and_decrypt[2025-07-01_mhsm]
AES_KEY: Final = "4n7QyEUSu9VbavQ00jfBH-ujEYcPgPLC4zZCYPMcgsg"
AES_IV: Final = "ibitv7BzReNZiTKgnFF0QQ"
AES_PLAIN: Final = (
    "NTA2M2U2YWFhODQ1ZjE1MDIwMDU0Nzk0NGZkMTk5Njc5Yzk4ZWQ2Zjk5ZGEwYTBiMmRhZmVhZjFmNDY4NDQ5NmZkNTMyYzFjMjI5OTY4"
    "Y2I5ZGVlNDQ5NTdmY2VmN2NjZWY1OWNlZGEwYjM2MmU1NmJjZDc4ZmQzZmFlZTU3ODFjNjIzYzBiYjIyYjM1YmVhYmRlMDY2NGZkMzBl"
    "MGU4MjRhYmEzZGQxYjBhZmZmYzRhM2Q5NTVlZGUyMGNmNmE4NTRkNTJjZmQ"
)
_AES_BLOCKS: Final = (
    "LMKuK63LOzPyZzk-GMl79Lciw-LNxXt5H9zA7ZTgfpIHvM5_XY9h8q0ils-y85LvB-Bj8jx7KmDAacxkXIXxrdhHz7c5URCoOh0HrwXW"
    "7QqBVnWarK4D04X_2KG2otO0DFTFfuVcs3flnFUF2bAEujPb3SA5FHlBLPhDge4elcbWn3XXtJVOzCian2Z3O04xyI_QAZp8Ds4K4XSH"
    "tU_P238YWRvcNc399qEYptrlWjHNxxFxxAC4Hc44pAGus3cC"
)
AES_CBC: Final = _AES_BLOCKS + "JfUmfl8S8IDlUyQKOpqmtA"
AES_CBCPAD: Final = _AES_BLOCKS + "iqWw_oS3hdD48u_EhIUSvg"
AES_GCM: Final = {
    "alg": "A256GCM",
    "iv": "g7R9Hdi2pUxlAUMX",
    "tag": "gGCZjvAWmsqHBw9M537kAQ",
    "aad": "dGVzdA",
    "value": (
        "Ah24klwuVjMHHg3zN20nJ02Y103zBVk_MfeETBZN2GIQMRbWt_SW4KVxU2n1aolCDjLppqjzsiHjUQCsAota0o_MXB1VdIIYfyhl-U8J"
        "fNVr82UM0vDbI4Lw6Adacku9Cxvar_47ciL0P-h574S7mEOfqPFaGtjPOkq3jnzxKBQ-MV5aJumm6L2ItXeTuRQ_8qw4ECz5t4yKTwPq"
        "Eg_VdKAFt09jiVuRlCNuaWz2R3GJfMHvvsWgPSQ6fzPXbedSNuGRmjHlVRs"
    ),
}
RELEASE_POLICY: Final = b64(b'{"anyOf":[{"authority":"https://a.example","anyOf":[]}],"version":"1.0.0"}')

DIGEST: Final = b64(hashlib.sha256(b"data").digest())
MESSAGE: Final = b64(b"I'm a secret message!")
RSA_OPS: Final = ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"]
HSM_RSA_OPS: Final = Unordered(("wrapKey", "sign", "verify", "encrypt", "decrypt", "unwrapKey"))
HSM_EC_OPS: Final = Unordered(("verify", "deriveKey", "sign"))
PAST, FAR, LATER = 946684800, 32503680000, 32535216000

CRUD_EC: Final = {
    "attributes": {"exp": 2524611661, "nbf": 2208992461},
    "crv": "P-256K",
    "kty": "EC",
    "tags": {"key": "value"},
}


def attributes(*, enabled: bool = True, hsm: bool = False, platform: str = "0", **more: Any) -> Json:
    """The attributes of a key in a vault that keeps deleted keys for 7 days."""
    shown: Json = {
        "enabled": enabled,
        "created": int,
        "updated": int,
        "recoveryLevel": "CustomizedRecoverable+Purgeable",
        "recoverableDays": 7,
        "exportable": False,
        **more,
    }
    return shown if hsm else shown | {"hsmPlatform": platform}


def ec_jwk(kty: str, crv: str, ops: Any, kid: Any = None) -> Json:
    return {
        "kid": kid or Begins("{base}/keys/k/"),
        "kty": kty,
        "key_ops": ops,
        "crv": crv,
        "x": Bytes(),
        "y": Bytes(),
    }


def rsa_jwk(kty: str, ops: Any, n: Any = Bytes(256)) -> Json:
    return {"kid": Begins("{base}/keys/k/"), "kty": kty, "key_ops": ops, "n": n, "e": "AQAB"}


def create(body: Any, api: str = "7.5", name: str = "k") -> Ask:
    return Ask("POST", f"keys/{name}/create", body, api)


def made(body: Any, name: str = "k", save: str = "key", api: str = "7.5") -> Step:
    return Step(save, create(body, api, name))


def post(path: str, body: Any = None, api: str = "7.5") -> Ask:
    return Ask("POST", path, body, api)


def get(path: str, api: str = "7.5") -> Ask:
    return Ask("GET", path, None, api)


def patch(**changes: Any) -> Ask:
    return Ask("PATCH", "keys/k", changes, "7.5")


RSA_KEY: Final = made({"kty": "RSA"})
EC_KEY: Final = made({"kty": "EC"})
DELETE: Final = Ask("DELETE", "keys/k", None, "7.5")
DELETED: Final = Step("deleted", DELETE)
DISABLED: Final = Step("disabled", patch(attributes={"enabled": False}))
EXPIRED: Final = Step("expired", patch(attributes={"exp": PAST}))
FUTURE: Final = Step("future", patch(attributes={"nbf": FAR}))
ENCRYPTED: Final = Step("encrypted", post("keys/k/encrypt", {"alg": "RSA-OAEP-256", "value": MESSAGE}))
WRAPPED: Final = Step("wrapped", post("keys/k/wrapkey", {"alg": "RSA-OAEP", "value": MESSAGE}))
SIGNED: Final = Step("signed", post("keys/k/sign", {"alg": "ES256", "value": DIGEST}))
ENCRYPT: Final = post("keys/k/encrypt", {"alg": "RSA-OAEP-256", "value": MESSAGE})
DECRYPT: Final = post("keys/k/decrypt", {"alg": "RSA-OAEP-256", "value": "{encrypted[value]}"})
SIGN: Final = post("keys/k/sign", {"alg": "ES256", "value": DIGEST})
VERIFY: Final = post("keys/k/verify", {"alg": "ES256", "digest": DIGEST, "value": "{signed[value]}"})
WRAP: Final = post("keys/k/wrapkey", {"alg": "RSA-OAEP", "value": MESSAGE})
UNWRAP: Final = post("keys/k/unwrapkey", {"alg": "RSA-OAEP", "value": "{wrapped[value]}"})
POLICY: Final = {
    "attributes": {"expiryTime": "P90D"},
    "lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": "P30D"}}],
}
SET_POLICY: Final = Ask("PUT", "keys/k/rotationpolicy", POLICY, "7.5")
VAULT_POLICY: Final = {
    "id": "{base}/keys/k/rotationpolicy",
    "lifetimeActions": [
        {"trigger": {"timeAfterCreate": "P30D"}, "action": {"type": "Rotate"}},
        {"trigger": {"timeBeforeExpiry": "P30D"}, "action": {"type": "Notify"}},
    ],
    "attributes": {"expiryTime": "P90D", "created": int, "updated": int},
}
HSM_POLICY: Final = VAULT_POLICY | {
    "lifetimeActions": [{"trigger": {"timeAfterCreate": "P30D"}, "action": {"type": "rotate"}}]
}
KID: Final = "{key[key][kid]}"
RESULT: Final = {"kid": KID, "value": Bytes(256)}
NOT_FOUND: Final = (
    "A key with (name/id) {item} was not found in this key vault. If you recently deleted this key you may "
    "be able to recover it using the correct recovery command. For help resolving this issue, please see "
    "https://go.microsoft.com/fwlink/?linkid=2125182"
)
OCT: Final = {"kty": "oct-HSM", "key_ops": RSA_OPS[:2] + RSA_OPS[4:], "k": AES_KEY}
OCT_KEY: Final = Step("key", Ask("PUT", "keys/k", {"key": OCT}))
BAD_CIPHERTEXT: Final = Error(400, "BadParameter", "The parameter is incorrect.\r\n")
DISABLED_SOURCE: Final = "issue Azure/azure-sdk-for-python#45342"
TIMES: Final = "docs key-vault/includes/key-attributes.md"
AES_RECORDING: Final = "py test_symmetric_encrypt_and_decrypt[2025-07-01_mhsm]"


def item(number: str, version: str = "") -> Json:
    return {"kid": f"{{base}}/keys/k{number}{version}", "attributes": attributes()}


def flipped(index: int) -> Make:
    def how(saved: Json) -> str:
        text: str = saved["encrypted"]["value"]
        raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        raw[index] ^= 0x0F
        return b64(bytes(raw))

    return Make(how)


def sign_length(alg: str, given: int, wanted: int, kty: str, source: str) -> Case:
    words = (
        f"Invalid length of 'value': {given} bytes. {alg} requires {wanted} bytes, encoded with base64url."
    )
    return Case(
        f"a digest of {given} bytes is refused for {alg}",
        source,
        post("keys/k/sign", {"alg": alg, "value": b64(bytes(given))}),
        error=Error(400, "BadParameter", words),
        given=(made({"kty": kty}),),
    )


def limit(alg: str, longest: int) -> tuple[Case, Case]:
    source = "issue Azure/azure-sdk-for-python#34094"
    return (
        Case(
            f"{alg} takes {longest} bytes with a key of 2048 bits",
            source,
            post("keys/k/encrypt", {"alg": alg, "value": b64(bytes(longest))}),
            RESULT,
            given=(RSA_KEY,),
        ),
        Case(
            f"{alg} takes no {longest + 1} bytes with a key of 2048 bits",
            source,
            post("keys/k/encrypt", {"alg": alg, "value": b64(bytes(longest + 1))}),
            error=Error(400, "BadParameter"),
            given=(RSA_KEY,),
        ),
    )


def blocked(operation: str, ask: Ask, *given: Step) -> Case:
    words = f"Operation {operation} is not allowed on a disabled key."
    return Case(
        f"a disabled key does not {operation}",
        DISABLED_SOURCE,
        ask,
        error=Error(403, "Forbidden", words, "KeyDisabled"),
        given=(*given, DISABLED),
    )


def untimely(when: str, operation: str, ask: Ask, *given: Step) -> Case:
    return Case(
        f"a key {when} does not {operation}",
        TIMES,
        ask,
        error=Error(403, "Forbidden", inner=None),
        given=given,
    )


CREATE: Final = (
    Case(
        "create an elliptic-curve key",
        "go TestCRUD/EC",
        create(CRUD_EC),
        {
            "key": ec_jwk("EC", "P-256K", ["sign", "verify"]),
            "attributes": attributes(nbf=2208992461, exp=2524611661),
            "tags": {"key": "value"},
        },
    ),
    Case(
        "get the latest version, the URL ending in a slash",
        "go TestCRUD/EC",
        get("keys/k/"),
        Make(lambda saved: saved["key"]),
        given=(made(CRUD_EC),),
    ),
    Case(
        "get a version",
        "go TestRecoverDeletedKey/KV",
        Ask("GET", KID, None, "7.5"),
        Make(lambda saved: saved["key"]),
        given=(EC_KEY,),
    ),
    Case(
        "disable a version: nothing else changes",
        "go TestCRUD/EC",
        Ask("PATCH", KID, {"attributes": {"enabled": False}}, "7.5"),
        {
            "key": Make(lambda saved: saved["key"]["key"]),
            "attributes": attributes(enabled=False, nbf=2208992461, exp=2524611661),
            "tags": {"key": "value"},
        },
        given=(made(CRUD_EC),),
    ),
    Case(
        "an RSA key has 2048 bits and six operations by default",
        "go TestBackupRestore/KV",
        create({"kty": "RSA"}),
        {"key": rsa_jwk("RSA", RSA_OPS), "attributes": attributes()},
    ),
    Case(
        "the api-version 2025-07-01 shows the size of an RSA key",
        "py test_local_validity_period_enforcement[2025-07-01_vault]",
        create({"kty": "RSA"}, "2025-07-01"),
        attributes(key_size=2048),
        within=("attributes",),
    ),
    Case(
        "a key may start in the future",
        "py test_local_validity_period_enforcement[2025-07-01_vault]",
        create({"kty": "RSA", "attributes": {"nbf": FAR}}, "2025-07-01"),
        attributes(key_size=2048, nbf=FAR),
        within=("attributes",),
    ),
    Case(
        "a key may be created expired",
        "py test_local_validity_period_enforcement[2025-07-01_vault]",
        create({"kty": "RSA", "attributes": {"exp": PAST}}, "2025-07-01"),
        attributes(key_size=2048, exp=PAST),
        within=("attributes",),
    ),
    Case(
        "a key may have its whole life in the future",
        "py test_local_validity_period_enforcement[2025-07-01_vault]",
        create({"kty": "RSA", "attributes": {"nbf": FAR, "exp": LATER}}, "2025-07-01"),
        attributes(key_size=2048, nbf=FAR, exp=LATER),
        within=("attributes",),
    ),
    Case(
        "the default curve is P-256",
        "go TestRecoverDeletedKey/KV",
        create({"kty": "EC"}),
        {"key": ec_jwk("EC", "P-256", ["sign", "verify"]), "attributes": attributes()},
    ),
    Case(
        "an HSM key of a premium vault is on platform 2",
        "go TestRotateKey/KV",
        create({"kty": "EC-HSM"}),
        {"key": ec_jwk("EC-HSM", "P-256", ["sign", "verify"]), "attributes": attributes(platform="2")},
        flavour="premium",
    ),
    Case(
        "key_ops are kept in the order given",
        "go TestWrapUnwrap/KV",
        create({"kty": "RSA", "key_ops": ["wrapKey", "unwrapKey"]}),
        rsa_jwk("RSA", ["wrapKey", "unwrapKey"]),
        within=("key",),
    ),
    Case(
        "a managed HSM makes an EC-HSM key of EC, which may derive too",
        "go TestCRUD/EC_MHSM",
        create(CRUD_EC),
        {
            "key": ec_jwk("EC-HSM", "P-256K", HSM_EC_OPS),
            "attributes": attributes(hsm=True, nbf=2208992461, exp=2524611661),
            "tags": {"key": "value"},
        },
        flavour="hsm",
    ),
    Case(
        "a managed HSM's default curve is P-256",
        "go TestRotateKey/MHSM",
        create({"kty": "EC-HSM"}),
        {"key": ec_jwk("EC-HSM", "P-256", HSM_EC_OPS), "attributes": attributes(hsm=True)},
        flavour="hsm",
    ),
    Case(
        "a managed HSM makes an RSA-HSM key of RSA",
        "go TestListKeyVersions/MHSM",
        create({"kty": "RSA"}),
        {"key": rsa_jwk("RSA-HSM", HSM_RSA_OPS), "attributes": attributes(hsm=True)},
        flavour="hsm",
    ),
    Case(
        "a managed HSM makes an oct-HSM key of oct, and shows nothing of it",
        "go TestEncryptDecryptSymmetric",
        create({"kty": "oct", "key_size": 256, "key_ops": ["encrypt", "decrypt"]}),
        {
            "key": {"kid": Begins("{base}/keys/k/"), "kty": "oct-HSM", "key_ops": ["encrypt", "decrypt"]},
            "attributes": attributes(hsm=True),
        },
        flavour="hsm",
    ),
    Case(
        "a second create makes a second version",
        "model create_key: if the named key already exists, a new version is created",
        get("keys/k/versions"),
        Unordered(("{key[key][kid]}", "{again[key][kid]}")),
        given=(EC_KEY, made({"kty": "EC"}, save="again")),
        within=("value", "kid"),
    ),
    Case(
        "the newest version is the current one",
        "model create_key: if the named key already exists, a new version is created",
        get("keys/k"),
        "{again[key][kid]}",
        given=(EC_KEY, made({"kty": "EC"}, save="again")),
        within=("key", "kid"),
    ),
    Case(
        "names do not depend on case",
        "docs key-vault/general/about-keys-secrets-certificates.md",
        get("keys/K"),
        KID,
        given=(EC_KEY,),
        within=("key", "kid"),
    ),
    Case(
        "an exportable key shows its release policy and a content type",
        "go TestReleaseKey/KV",
        create(
            {
                "attributes": {"exportable": True},
                "crv": "P-256K",
                "kty": "EC-HSM",
                "release_policy": {"data": RELEASE_POLICY, "immutable": True},
            }
        ),
        {
            "key": ec_jwk("EC-HSM", "P-256K", ["sign", "verify"]),
            "attributes": attributes(platform="2", exportable=True),
            "release_policy": {
                "contentType": "application/json; charset=utf-8",
                "data": RELEASE_POLICY,
                "immutable": True,
            },
        },
        flavour="premium",
    ),
    Case(
        "a deleted exportable key does not show its release policy",
        "go TestReleaseKey/MHSM",
        DELETE,
        {
            "recoveryId": "{base}/deletedkeys/k",
            "deletedDate": int,
            "scheduledPurgeDate": int,
            "key": Make(lambda saved: saved["key"]["key"]),
            "attributes": attributes(platform="2", exportable=True),
        },
        flavour="premium",
        given=(
            made(
                {
                    "attributes": {"exportable": True},
                    "kty": "EC-HSM",
                    "release_policy": {"data": RELEASE_POLICY, "immutable": True},
                }
            ),
        ),
    ),
    Case(
        "a key is not released to whom no authority vouches for",
        "go TestReleaseKey/MHSM",
        post("keys/k/release", {"target": "a.b.c"}),
        error=Error(
            403,
            "Forbidden",
            "Target environment attestation statement cannot be verified.",
            "AccessDenied",
        ),
        flavour="premium",
        given=(
            made(
                {
                    "attributes": {"exportable": True},
                    "kty": "EC-HSM",
                    "release_policy": {"data": RELEASE_POLICY},
                }
            ),
        ),
    ),
)

CREATE_ERRORS: Final = (
    Case(
        "a vault makes no symmetric key",
        "issue Azure/azure-sdk-for-net#13437",
        create({"kty": "oct"}),
        error=Error(400, "BadParameter", "Invalid kty value: oct", "KeyTypeNotSupported"),
    ),
    Case(
        "a vault imports no symmetric key",
        "issue Azure/azure-sdk-for-java#12898",
        Ask("PUT", "keys/k", {"key": {"kty": "oct", "k": AES_KEY}}),
        error=Error(400, "BadParameter", "Invalid kty value: oct", "KeyTypeNotSupported"),
    ),
    Case(
        "RSA keys of 1024 bits are refused",
        "issue Azure/azure-cli#2613",
        create({"kty": "RSA", "key_size": 1024}),
        error=Error(400, "BadParameter", Begins("Unsupported key size"), None),
    ),
    Case(
        "Edwards curves are refused",
        "issue Azure/azure-cli#26898",
        create({"kty": "EC", "crv": "Ed25519"}),
        error=Error(400, "BadParameter", Begins("Unsupported curve"), None),
    ),
    Case(
        "a body that is no JSON is refused",
        "issue Azure/azure-cli#8840",
        create("not an object"),
        error=Error(400, "BadParameter", "Bad JSON content found in the request.", None),
    ),
    Case(
        "sixteen tags are refused",
        "docs key-vault/keys/about-keys-details.md",
        create({"kty": "EC", "tags": {f"t{n}": "" for n in range(16)}}),
        error=Error(400, "BadParameter", None, None),
    ),
    Case(
        "a tag name of 257 characters is refused",
        "docs key-vault/keys/about-keys-details.md",
        create({"kty": "EC", "tags": {"t" * 257: ""}}),
        error=Error(400, "BadParameter", None, None),
    ),
    Case(
        "only a premium vault makes exportable keys",
        "issue Azure/azure-sdk-for-java#23276",
        create({"kty": "RSA", "attributes": {"exportable": True}}),
        error=Error(
            400,
            "BadParameter",
            "AKV.SKR.1001: The exportable attribute is only supported with premium vaults and API version >= "
            "'7.3-preview'.",
        ),
    ),
    Case(
        "a release policy needs an exportable key",
        "issue Azure/azure-cli#28288",
        create({"kty": "RSA", "release_policy": {"data": RELEASE_POLICY}}),
        error=Error(400, "BadParameter", "AKV.SKR.1005: Non-exportable keys must not have release policy"),
    ),
    Case(
        "an exportable key needs a release policy",
        "issue Azure/azure-sdk-for-python#29945",
        create({"kty": "RSA-HSM", "attributes": {"exportable": True}}),
        error=Error(400, "BadParameter", Begins("Exportable keys must have release policy (Activity ID: ")),
        flavour="hsm",
    ),
    Case(
        "an unknown api-version is refused",
        "issue Azure/azure-sdk-for-python#28595",
        get("keys/k", "7.9"),
        error=Error(
            400,
            "BadParameter",
            Begins(
                "The specified version (7.9) is not recognized. Consider using the latest supported version ("
            ),
        ),
    ),
    Case(
        "a key that is not there",
        "go TestRotateKey/KV",
        post("keys/keynonexistent/rotate"),
        error=Error(404, "KeyNotFound", NOT_FOUND.format(item="keynonexistent")),
    ),
    Case(
        "a key that is not in a managed HSM",
        "go TestRotateKey/MHSM",
        post("keys/keynonexistent/rotate"),
        error=Error(
            404,
            "KeyNotFound",
            Begins("Key not found: Key not found: {base}/keys/keynonexistent (Activity ID: "),
        ),
        flavour="hsm",
    ),
)

LIFE: Final = (
    Case(
        "delete: the purge is as many days later as the vault keeps keys",
        "go TestCRUD/EC",
        DELETE,
        {
            "recoveryId": "{base}/deletedkeys/k",
            "deletedDate": Make(lambda saved: saved["now"]),
            "scheduledPurgeDate": Make(lambda saved: saved["now"] + 7 * 86400),
            "key": Make(lambda saved: saved["key"]["key"]),
            "attributes": Make(lambda saved: saved["key"]["attributes"]),
        },
        given=(EC_KEY,),
    ),
    Case(
        "a deleted key keeps its enabled flag",
        "go TestCRUD/EC",
        get("deletedkeys/k"),
        False,
        given=(EC_KEY, DISABLED, DELETED),
        within=("attributes", "enabled"),
    ),
    Case(
        "a deleted key is not to be seen at once",
        "go TestCRUD/EC",
        get("deletedkeys/k"),
        error=Error(404, "KeyNotFound", "Deleted Key not found: k"),
        flavour="lagging",
        given=(EC_KEY, DELETED),
    ),
    Case(
        "a deleted key is to be seen later",
        "go TestCRUD/EC",
        get("deletedkeys/k"),
        Make(lambda saved: saved["deleted"]),
        given=(EC_KEY, DELETED),
    ),
    Case(
        "a managed HSM shows a deleted key at once",
        "go TestCRUD/EC_MHSM",
        get("deletedkeys/k"),
        {
            "recoveryId": "{base}/deletedkeys/k",
            "deletedDate": int,
            "scheduledPurgeDate": int,
            "key": ec_jwk("EC-HSM", "P-256", HSM_EC_OPS, KID),
            "attributes": attributes(hsm=True),
        },
        flavour="hsm",
        given=(EC_KEY, DELETED),
    ),
    Case(
        "a deleted key is not found among the live ones",
        "go TestRecoverDeletedKey/KV",
        get("keys/k"),
        error=Error(404, "KeyNotFound", NOT_FOUND.format(item="k")),
        given=(EC_KEY, DELETED),
    ),
    Case("purge", "go TestCRUD/EC", Ask("DELETE", "deletedkeys/k", None, "7.5"), given=(EC_KEY, DELETED)),
    Case(
        "purge in a managed HSM",
        "go TestCRUD/EC_MHSM",
        Ask("DELETE", "deletedkeys/k", None, "7.5"),
        flavour="hsm",
        given=(EC_KEY, DELETED),
    ),
    Case(
        "recover answers with the key as it was",
        "go TestRecoverDeletedKey/KV",
        post("deletedkeys/k/recover"),
        Make(lambda saved: saved["key"]),
        given=(EC_KEY, DELETED),
    ),
    Case(
        "a recovered key is not to be seen at once",
        "go TestRecoverDeletedKey/KV",
        Ask("GET", KID, None, "7.5"),
        error=Error(
            404,
            "KeyNotFound",
            NOT_FOUND.format(item="{version}"),
        ),
        flavour="lagging",
        given=(
            EC_KEY,
            DELETED,
            Step("seen", get("deletedkeys/k"), tries=2),
            Step("recovered", post("deletedkeys/k/recover")),
        ),
    ),
    Case(
        "a recovered key is to be seen later",
        "go TestRecoverDeletedKey/KV",
        Ask("GET", KID, None, "7.5"),
        Make(lambda saved: saved["key"]),
        given=(EC_KEY, DELETED, Step("recovered", post("deletedkeys/k/recover"))),
    ),
    Case(
        "a managed HSM shows a recovered key at once",
        "go TestRecoverDeletedKey/MHSM",
        Ask("GET", KID, None, "7.5"),
        KID,
        flavour="hsm",
        given=(EC_KEY, DELETED, Step("recovered", post("deletedkeys/k/recover"))),
        within=("key", "kid"),
    ),
    Case(
        "the name of a deleted key is taken",
        "issue external-secrets/external-secrets#3519",
        create({"kty": "EC"}),
        error=Error(409, "Conflict", None, "ObjectIsDeletedButRecoverable"),
        given=(EC_KEY, DELETED),
    ),
    Case(
        "the name of a key being recovered is taken",
        "issue hashicorp/terraform-provider-azurerm#12285",
        create({"kty": "EC"}),
        error=Error(
            409,
            "Conflict",
            "Key k is currently being recovered and cannot be re-created; retry later.",
            "ObjectIsBeingRecovered",
        ),
        flavour="lagging",
        given=(
            EC_KEY,
            DELETED,
            Step("seen", get("deletedkeys/k"), tries=2),
            Step("recovered", post("deletedkeys/k/recover")),
        ),
    ),
    Case(
        "purge protection forbids a purge",
        "issue microsoft/AzureTRE#1760",
        Ask("DELETE", "deletedkeys/k", None, "7.5"),
        error=Error(
            403,
            "Forbidden",
            'Operation "purge" is not allowed because purge protection is enabled for this vault. Key Vault '
            "service will automatically purge it after the retention period has passed",
            None,
        ),
        flavour="protected",
        given=(EC_KEY, DELETED),
    ),
    Case(
        "a deleted key is gone when its days are over",
        "docs key-vault/general/soft-delete-overview.md",
        get("deletedkeys/k"),
        error=Error(404, "KeyNotFound", "Deleted Key not found: k"),
        given=(EC_KEY, DELETED),
        wait=timedelta(days=7),
    ),
    Case(
        "a deleted key is there until then",
        "docs key-vault/general/soft-delete-overview.md",
        get("deletedkeys/k"),
        KID,
        given=(EC_KEY, DELETED),
        wait=timedelta(days=6, hours=23),
        within=("key", "kid"),
    ),
    Case(
        "backup",
        "go TestBackupRestore/KV",
        post("keys/k/backup"),
        {"value": Bytes()},
        given=(EC_KEY,),
    ),
    Case(
        "restore brings back the version, its identifier and its times",
        "go TestBackupRestore/KV",
        post("keys/restore", {"value": "{backup[value]}"}),
        Make(lambda saved: saved["key"]),
        given=(
            RSA_KEY,
            Step("backup", post("keys/k/backup")),
            DELETED,
            Step("purged", Ask("DELETE", "deletedkeys/k", None, "7.5")),
        ),
    ),
    Case(
        "a restore over a live key is refused",
        "issue Azure/azure-sdk-for-python#17630",
        post("keys/restore", {"value": "{backup[value]}"}),
        error=Error(409, "Conflict", Begins("There was a conflict restoring the key"), None),
        given=(EC_KEY, Step("backup", post("keys/k/backup"))),
    ),
)

LISTS: Final = (
    Case(
        "list keys: without version, by name, with no more to come",
        "go TestListKeys/KV",
        get("keys"),
        {"value": [item("0"), item("1")], "nextLink": None},
        given=(made({"kty": "EC"}, "k1"), made({"kty": "EC"}, "k0")),
    ),
    Case(
        "list versions in a managed HSM: with version, and no link",
        "go TestListKeyVersions/MHSM",
        get("keys/k/versions"),
        {"value": [{"kid": KID, "attributes": attributes(hsm=True)}]},
        flavour="hsm",
        given=(EC_KEY,),
    ),
    Case(
        "list deleted keys",
        "go TestListDeletedKeys/KV",
        get("deletedkeys"),
        {
            "value": [
                {
                    "recoveryId": "{base}/deletedkeys/k",
                    "deletedDate": int,
                    "scheduledPurgeDate": int,
                    "kid": "{base}/keys/k",
                    "attributes": attributes(),
                    "tags": {"count-this-key": "yes"},
                }
            ],
            "nextLink": None,
        },
        given=(made({"kty": "EC", "tags": {"count-this-key": "yes"}}), DELETED),
    ),
    Case(
        "a page has at most 25 keys",
        "issue Azure/azure-sdk-for-net#19802",
        get("keys?maxresults=26"),
        error=Error(400, "BadParameter", None, None),
    ),
    Case(
        "a page of one key links to the next on the caller's host",
        "go TestListKeys/KV",
        get("keys?maxresults=1"),
        Begins("{base}/keys?api-version=7.5&$skiptoken="),
        given=(made({"kty": "EC"}, "k0"), made({"kty": "EC"}, "k1")),
        within=("nextLink",),
    ),
)

ROTATION: Final = (
    Case(
        "a vault adds a notification to a rotation policy",
        "go TestRotateKey/KV",
        SET_POLICY,
        VAULT_POLICY,
        given=(EC_KEY,),
    ),
    Case(
        "get a rotation policy",
        "go TestRotateKey/KV",
        get("keys/k/rotationpolicy"),
        VAULT_POLICY,
        given=(EC_KEY, Step("policy", SET_POLICY)),
    ),
    Case(
        "rotate: the policy sets the expiry of the new version",
        "go TestRotateKey/KV",
        post("keys/k/rotate"),
        {
            "key": ec_jwk("EC-HSM", "P-256", ["sign", "verify"]),
            "attributes": attributes(platform="2", exp=Make(lambda saved: saved["now"] + 90 * 86400)),
        },
        flavour="premium",
        given=(made({"kty": "EC-HSM"}), Step("policy", SET_POLICY)),
    ),
    Case(
        "a policy does not touch the version that is there",
        "docs key-vault/keys/how-to-configure-key-rotation.md",
        get("keys/k"),
        Make(lambda saved: saved["key"]),
        given=(EC_KEY, Step("policy", SET_POLICY)),
    ),
    Case(
        "a managed HSM writes the action in lower case and adds none",
        "go TestRotateKey/MHSM",
        SET_POLICY,
        HSM_POLICY,
        flavour="hsm",
        given=(EC_KEY,),
    ),
    Case(
        "get a rotation policy of a managed HSM",
        "go TestRotateKey/MHSM",
        get("keys/k/rotationpolicy"),
        HSM_POLICY,
        flavour="hsm",
        given=(EC_KEY, Step("policy", SET_POLICY)),
    ),
    Case(
        "rotate in a managed HSM",
        "go TestRotateKey/MHSM",
        post("keys/k/rotate"),
        {
            "key": ec_jwk("EC-HSM", "P-256", HSM_EC_OPS),
            "attributes": attributes(hsm=True, exp=Make(lambda saved: saved["now"] + 90 * 86400)),
        },
        flavour="hsm",
        given=(EC_KEY, Step("policy", SET_POLICY)),
    ),
    Case(
        "after a rotation the deleted key shows the new version",
        "go TestRotateKey/KV",
        DELETE,
        "{rotated[key][kid]}",
        given=(EC_KEY, Step("rotated", post("keys/k/rotate"))),
        within=("key", "kid"),
    ),
    Case(
        "a policy rotates when its time has come",
        "docs key-vault/keys/how-to-configure-key-rotation.md",
        get("keys/k/versions"),
        2,
        given=(EC_KEY, Step("policy", SET_POLICY)),
        wait=timedelta(days=30),
        within=("value", "length"),
    ),
    Case(
        "a policy does not rotate before",
        "docs key-vault/keys/how-to-configure-key-rotation.md",
        get("keys/k/versions"),
        1,
        given=(EC_KEY, Step("policy", SET_POLICY)),
        wait=timedelta(days=29, hours=23),
        within=("value", "length"),
    ),
    Case(
        "rotation six days after creation is refused",
        "docs key-vault/keys/how-to-configure-key-rotation.md",
        Ask(
            "PUT",
            "keys/k/rotationpolicy",
            {"lifetimeActions": [{"action": {"type": "Rotate"}, "trigger": {"timeAfterCreate": "P6D"}}]},
        ),
        error=Error(400, "BadParameter", None, None),
        given=(EC_KEY,),
    ),
)

CRYPTOGRAPHY: Final = (
    Case(
        "encrypt without a version: the reply names the version",
        "replay azurekeyvault-TestEncryptDecrypt",
        ENCRYPT,
        RESULT,
        given=(RSA_KEY,),
    ),
    Case(
        "decrypt",
        "replay azurekeyvault-TestEncryptDecrypt",
        DECRYPT,
        {"kid": KID, "value": MESSAGE},
        given=(RSA_KEY, ENCRYPTED),
    ),
    Case(
        "two encryptions of one text decrypt alike",
        "replay azurekeyvault-TestMultipleEncryptionsNotEqual",
        post("keys/k/decrypt", {"alg": "RSA-OAEP-256", "value": "{second[value]}"}),
        {"kid": KID, "value": MESSAGE},
        given=(RSA_KEY, ENCRYPTED, Step("second", ENCRYPT)),
    ),
    Case(
        "two keys have each their own ciphertexts",
        "replay azurekeyvault-TestMultipleKeys",
        post("keys/other/decrypt", {"alg": "RSA-OAEP-256", "value": "{theirs[value]}"}),
        {"kid": "{other[key][kid]}", "value": MESSAGE},
        given=(
            RSA_KEY,
            made({"kty": "RSA"}, "other", "other"),
            ENCRYPTED,
            Step("theirs", post("keys/other/encrypt", {"alg": "RSA-OAEP-256", "value": MESSAGE})),
        ),
    ),
    *(
        Case(
            f"a ciphertext changed in byte {index}",
            "replay azurekeyvault-TestDecryptMalformedError",
            post("keys/k/decrypt", {"alg": "RSA-OAEP-256", "value": flipped(index)}),
            error=BAD_CIPHERTEXT,
            given=(RSA_KEY, ENCRYPTED),
        )
        for index in (0, 128, 255)
    ),
    Case("wrap", "go TestWrapUnwrap/KV", WRAP, RESULT, given=(RSA_KEY,)),
    Case(
        "unwrap",
        "go TestWrapUnwrap/KV",
        UNWRAP,
        {"kid": KID, "value": MESSAGE},
        given=(RSA_KEY, WRAPPED),
    ),
    Case(
        "sign: r and s of fixed width, one after the other",
        "go TestSignVerify/KV",
        post("keys/k/sign", {"alg": "ES256K", "value": DIGEST}),
        {"kid": KID, "value": Bytes(64)},
        given=(made({"kty": "EC", "crv": "P-256K"}),),
    ),
    Case(
        "a vault verifies with a value alone",
        "go TestSignVerify/KV",
        VERIFY,
        {"value": True},
        given=(EC_KEY, SIGNED),
    ),
    Case(
        "a managed HSM signs and repeats the algorithm",
        "go TestSignVerify/MHSM",
        SIGN,
        {"alg": "ES256", "kid": KID, "value": Bytes(64)},
        flavour="hsm",
        given=(EC_KEY,),
    ),
    Case(
        "a managed HSM verifies with key and algorithm",
        "go TestSignVerify/MHSM",
        VERIFY,
        {"alg": "ES256", "kid": KID, "value": True},
        flavour="hsm",
        given=(EC_KEY, SIGNED),
    ),
    Case(
        "a managed HSM encrypts with RSA and repeats the algorithm",
        "go TestEncryptDecrypt/MHSM",
        ENCRYPT,
        {"alg": "RSA-OAEP-256", **RESULT},
        flavour="hsm",
        given=(RSA_KEY,),
    ),
    Case(
        "a managed HSM decrypts with RSA and repeats the algorithm",
        "go TestEncryptDecrypt/MHSM",
        DECRYPT,
        {"alg": "RSA-OAEP-256", "kid": KID, "value": MESSAGE},
        flavour="hsm",
        given=(RSA_KEY, ENCRYPTED),
    ),
    Case(
        "import a symmetric key into a managed HSM",
        AES_RECORDING,
        Ask("PUT", "keys/k", {"key": OCT}),
        {
            "key": {
                "kid": Begins("{base}/keys/k/"),
                "kty": "oct-HSM",
                "key_ops": Unordered(("encrypt", "decrypt", "unwrapKey", "wrapKey")),
            },
            "attributes": attributes(hsm=True, key_size=256),
        },
        flavour="hsm",
    ),
    Case(
        "import an RSA key into a managed HSM",
        "go TestImportKey/MHSM",
        Ask("PUT", "keys/k", {"Hsm": True, "key": {**RSA_JWK, "key_ops": ["encrypt"]}}, "7.5"),
        {"key": rsa_jwk("RSA-HSM", ["encrypt"], RSA_JWK["n"]), "attributes": attributes(hsm=True)},
        flavour="hsm",
    ),
    Case(
        "import an RSA key into a vault",
        "go TestImportKey/KV",
        Ask("PUT", "keys/k", {"key": {**RSA_JWK, "key_ops": ["encrypt"]}}, "7.5"),
        {"key": rsa_jwk("RSA", ["encrypt"], RSA_JWK["n"]), "attributes": attributes()},
    ),
    Case(
        "import an elliptic-curve key",
        "model import_key: may be used to import any key type",
        Ask("PUT", "keys/k", {"key": EC_JWK}, "7.5"),
        {
            **ec_jwk("EC", "P-256", ["sign", "verify"]),
            "x": EC_JWK["x"],
            "y": EC_JWK["y"],
        },
        within=("key",),
    ),
    Case(
        "A256CBC pads with zeros: the recorded ciphertext, its aad ignored",
        AES_RECORDING,
        post("keys/k/encrypt", {"alg": "A256CBC", "value": AES_PLAIN, "iv": AES_IV, "aad": "dGVzdA"}),
        {"alg": "A256CBC", "kid": KID, "iv": AES_IV, "value": AES_CBC},
        flavour="hsm",
        given=(OCT_KEY,),
    ),
    Case(
        "A256CBC leaves the zeros in the plaintext",
        AES_RECORDING,
        post("keys/k/decrypt", {"alg": "A256CBC", "value": AES_CBC, "iv": AES_IV}),
        {"alg": "A256CBC", "kid": KID, "value": AES_PLAIN + 11 * "A"},
        flavour="hsm",
        given=(OCT_KEY,),
    ),
    Case(
        "A256CBCPAD: the recorded ciphertext",
        AES_RECORDING,
        post("keys/k/encrypt", {"alg": "A256CBCPAD", "value": AES_PLAIN, "iv": AES_IV, "aad": "dGVzdA"}),
        {"alg": "A256CBCPAD", "kid": KID, "iv": AES_IV, "value": AES_CBCPAD},
        flavour="hsm",
        given=(OCT_KEY,),
    ),
    Case(
        "A256CBCPAD takes its padding off",
        AES_RECORDING,
        post("keys/k/decrypt", {"alg": "A256CBCPAD", "value": AES_CBCPAD, "iv": AES_IV}),
        {"alg": "A256CBCPAD", "kid": KID, "value": AES_PLAIN},
        flavour="hsm",
        given=(OCT_KEY,),
    ),
    Case(
        "A256GCM: the service chooses an iv of 12 bytes and repeats the aad",
        AES_RECORDING,
        post("keys/k/encrypt", {"alg": "A256GCM", "value": AES_PLAIN, "aad": "dGVzdA"}),
        {
            "aad": "dGVzdA",
            "alg": "A256GCM",
            "iv": Bytes(12),
            "kid": KID,
            "tag": Bytes(16),
            "value": Bytes(200),
        },
        flavour="hsm",
        given=(OCT_KEY,),
    ),
    Case(
        "A256GCM decrypts what Azure encrypted",
        AES_RECORDING,
        post("keys/k/decrypt", AES_GCM),
        {"alg": "A256GCM", "kid": KID, "value": AES_PLAIN},
        flavour="hsm",
        given=(OCT_KEY,),
    ),
    Case(
        "A256CBCPAD without a version in the URL",
        "go TestEncryptDecryptSymmetric",
        post("keys/k/decrypt", {"alg": "A256CBCPAD", "value": "{sealed[value]}", "iv": AES_IV}),
        {"alg": "A256CBCPAD", "kid": KID, "value": "cGxhaW50ZXh0"},
        flavour="hsm",
        given=(
            OCT_KEY,
            Step(
                "sealed", post("keys/k/encrypt", {"alg": "A256CBCPAD", "value": "cGxhaW50ZXh0", "iv": AES_IV})
            ),
        ),
    ),
    Case(
        "random bytes",
        "go TestGetRandomBytes",
        post("rng", {"count": 100}),
        {"value": Bytes(100)},
        flavour="hsm",
    ),
    *limit("RSA-OAEP-256", 190),
    *limit("RSA-OAEP", 214),
    *limit("RSA1_5", 245),
)

CRYPTOGRAPHY_ERRORS: Final = (
    sign_length("ES256", 44, 32, "EC", "issue Azure/azure-sdk-for-python#4399"),
    sign_length("ES256", 43, 32, "EC", "issue Azure/azure-cli#28027"),
    sign_length("RS256", 10, 32, "RSA", "issue Azure/azure-sdk-for-js#12654"),
    Case(
        "an algorithm of another curve",
        "issue Azure/azure-sdk-for-java#6262",
        post("keys/k/sign", {"alg": "ES256K", "value": DIGEST}),
        error=Error(
            400,
            "BadParameter",
            f"Key and signing algorithm are incompatible. Key {KID} uses curve 'P-256', and algorithm "
            "'ES256K' can only be used with curve 'P-256K'.",
        ),
        given=(EC_KEY,),
    ),
    Case(
        "a value that is not base64url",
        "issue bruj0/vault-recovery-key#20",
        post("keys/k/unwrapkey", {"alg": "RSA-OAEP", "value": "a+b/"}),
        error=Error(
            400, "BadParameter", "Content of 'value' is not base64url.\r\nProperty 'value' is required.\r\n"
        ),
        given=(RSA_KEY,),
    ),
    Case(
        "an operation that key_ops do not name",
        "issue Azure/azure-sdk-for-net#11518",
        DECRYPT,
        error=Error(
            403, "Forbidden", "Operation decrypt is not permitted on this key.", "KeyOperationForbidden"
        ),
        given=(RSA_KEY, ENCRYPTED, Step("closed", patch(key_ops=["encrypt"]))),
    ),
    blocked("decrypt", DECRYPT, RSA_KEY, ENCRYPTED),
    blocked("unwrapKey", UNWRAP, RSA_KEY, WRAPPED),
    blocked("sign", SIGN, EC_KEY),
    Case("a disabled key encrypts", DISABLED_SOURCE, ENCRYPT, RESULT, given=(RSA_KEY, DISABLED)),
    Case("a disabled key wraps", DISABLED_SOURCE, WRAP, RESULT, given=(RSA_KEY, DISABLED)),
    Case(
        "a disabled key verifies",
        DISABLED_SOURCE,
        VERIFY,
        {"value": True},
        given=(EC_KEY, SIGNED, DISABLED),
    ),
    untimely("that has expired", "encrypt", ENCRYPT, RSA_KEY, EXPIRED),
    untimely("that has expired", "wrapKey", WRAP, RSA_KEY, EXPIRED),
    untimely("that has expired", "sign", SIGN, EC_KEY, EXPIRED),
    untimely("not yet valid", "encrypt", ENCRYPT, RSA_KEY, FUTURE),
    untimely("not yet valid", "wrapKey", WRAP, RSA_KEY, FUTURE),
    untimely("not yet valid", "sign", SIGN, EC_KEY, FUTURE),
    Case(
        "a key that has expired decrypts",
        TIMES,
        DECRYPT,
        {"kid": KID, "value": MESSAGE},
        given=(RSA_KEY, ENCRYPTED, EXPIRED),
    ),
    Case(
        "a key that has expired unwraps",
        TIMES,
        UNWRAP,
        {"kid": KID, "value": MESSAGE},
        given=(RSA_KEY, WRAPPED, EXPIRED),
    ),
    Case("a key that has expired verifies", TIMES, VERIFY, {"value": True}, given=(EC_KEY, SIGNED, EXPIRED)),
    Case(
        "a key not yet valid decrypts",
        TIMES,
        DECRYPT,
        {"kid": KID, "value": MESSAGE},
        given=(RSA_KEY, ENCRYPTED, FUTURE),
    ),
    Case("a key not yet valid verifies", TIMES, VERIFY, {"value": True}, given=(EC_KEY, SIGNED, FUTURE)),
)

CASES: Final = (*CREATE, *CREATE_ERRORS, *LIFE, *LISTS, *ROTATION, *CRYPTOGRAPHY, *CRYPTOGRAPHY_ERRORS)
