"""Access tokens: JSON web tokens that this emulator signs for its callers and checks on every request.

They stand for what Microsoft Entra would issue. Their shape, signature, audience and lifetime are checked;
they carry no permission, for the emulator has no access policies.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
import uuid
from typing import Any, Final, cast

from anykms_emulators.azure.errors import KeyVaultError
from anykms_emulators.azure.keys import decode, encode

TENANT: Final = "0f6fbd3c-2a46-4d0c-8a3b-6a3f0d7a1e55"
AUTHORITY: Final = f"https://login.microsoftonline.com/{TENANT}"
LIFETIME: Final = 3600
_MAX_TOKEN: Final = 8192
_MISSING: Final = "AKV10000: Request is missing a Bearer, PoP, or MTLS_POP token."


class TokenIssuer:
    """Signs and checks the tokens of one emulator."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def issue(self, resource: str, *, caller: str, lifetime: int = LIFETIME) -> str:
        """A token for `resource` (its aud), in the name of `caller` (its oid), `lifetime` seconds long."""
        now = int(time.time())
        claims = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": now,
            "nbf": now - 1,
            "exp": now + lifetime,
            "oid": caller,
            "tid": TENANT,
            "jti": str(uuid.uuid4()),
        }
        header = encode(json.dumps({"typ": "JWT", "alg": "HS256"}).encode())
        signed = f"{header}.{encode(json.dumps(claims).encode())}"
        return f"{signed}.{encode(self._mac(signed))}"

    def check(self, authorization: str, resource: str) -> str:
        """The caller that an Authorization header names; KeyVaultError 401 for anything amiss."""
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _refused(_MISSING)
        claims = self._claims(token.strip())
        now = time.time()
        audience, caller = claims.get("aud"), claims.get("oid")
        if audience != resource:
            shown = audience if isinstance(audience, str) else ""
            raise _refused(f"AKV10022: Invalid audience. Expected {resource}, found: {shown}.")
        if not _before(claims.get("nbf"), now) or _before(claims.get("exp"), now):
            raise _refused("Error validating token: the token is expired or not yet valid.")
        if not isinstance(caller, str):
            raise _refused("Error validating token: it names nobody.")
        return caller

    def _claims(self, token: str) -> dict[str, Any]:
        parts = token.split(".")
        if len(token) > _MAX_TOKEN or len(parts) != 3:
            raise _refused("Error validating token: it is not a JSON web token.")
        try:
            signature = decode({"signature": parts[2]}, "signature")
            claims: object = json.loads(decode({"claims": parts[1]}, "claims"))
        except (KeyVaultError, ValueError, RecursionError):
            raise _refused("Error validating token: it is not a JSON web token.") from None
        if not isinstance(claims, dict) or not hmac.compare_digest(
            signature, self._mac(f"{parts[0]}.{parts[1]}")
        ):
            raise _refused("Error validating token: its signature is not that of this emulator.")
        return cast("dict[str, Any]", claims)

    def _mac(self, signed: str) -> bytes:
        return hmac.digest(self._key, signed.encode(), hashlib.sha256)


def _before(value: object, now: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value <= now


def _refused(message: str) -> KeyVaultError:
    return KeyVaultError(401, "Unauthorized", message)
