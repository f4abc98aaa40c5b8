"""Key Vault errors as they go over the wire: a code, a message, and sometimes an inner code.

The inner code is often all that tells two errors apart: a disabled key, a forbidden operation, a missing role
and a firewall are all 403 Forbidden.
"""

from __future__ import annotations

from typing import Final

BAD_CIPHERTEXT: Final = "The parameter is incorrect.\r\n"
_HELP: Final = "For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182"


class KeyVaultError(Exception):
    """An error reply: HTTP status, `error.code`, `error.message`, `error.innererror.code`."""

    def __init__(self, status: int, code: str, message: str, inner: str | None = None) -> None:
        super().__init__(status, code, message, inner)
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner


def bad_parameter(message: str, inner: str | None = None) -> KeyVaultError:
    """400 BadParameter, which covers every malformed request and every failed decryption."""
    return KeyVaultError(400, "BadParameter", message, inner)


def required(name: str) -> KeyVaultError:
    """A property is absent, null or empty."""
    return bad_parameter(f"Property '{name}' is required.\r\n")


def wrong_type(name: str) -> KeyVaultError:
    """A property has another JSON type or a value outside its range."""
    return bad_parameter(f"Property '{name}' has invalid value\r\n")


def forbidden(message: str, inner: str | None) -> KeyVaultError:
    """403 Forbidden."""
    return KeyVaultError(403, "Forbidden", message, inner)


def conflict(message: str, inner: str | None = None) -> KeyVaultError:
    """409 Conflict."""
    return KeyVaultError(409, "Conflict", message, inner)


def not_found(item: str) -> KeyVaultError:
    """404 for a live key, `item` being its name or name/version."""
    return KeyVaultError(
        404,
        "KeyNotFound",
        f"A key with (name/id) {item} was not found in this key vault. If you recently deleted this key you "
        f"may be able to recover it using the correct recovery command. {_HELP}",
    )


def hsm_not_found(url: str) -> KeyVaultError:
    """404 for a live key in a managed HSM, which words it another way."""
    return KeyVaultError(404, "KeyNotFound", f"Key not found: Key not found: {url}")


def deleted_not_found(name: str) -> KeyVaultError:
    """404 for a deleted key, and for one whose deletion has not finished."""
    return KeyVaultError(404, "KeyNotFound", f"Deleted Key not found: {name}")


def not_emulated(what: str) -> KeyVaultError:
    """400 for what this emulator knows of and does not play; the message says so."""
    return KeyVaultError(400, "NotSupported", f"The emulator does not play {what}.")
