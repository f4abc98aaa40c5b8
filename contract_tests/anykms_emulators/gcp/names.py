"""Resource names of Cloud KMS, checked before anything is looked up."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

from anykms_emulators.gcp.status import invalid

Kind: TypeAlias = Literal[
    "location", "KeyRing", "CryptoKey", "CryptoKeyVersion", "ImportJob", "RetiredResource", "Operation"
]

_ID: Final = "[a-zA-Z0-9_-]{1,63}"
_LOCATION: Final = "projects/(?:[a-z0-9.-]{1,63}:)?[a-z0-9-]{1,63}/locations/[a-z0-9-]{1,63}"
_RING: Final = f"{_LOCATION}/keyRings/{_ID}"
_KEY: Final = f"{_RING}/cryptoKeys/{_ID}"
_PATTERNS: Final[dict[Kind, re.Pattern[str]]] = {
    "location": re.compile(_LOCATION),
    "KeyRing": re.compile(_RING),
    "CryptoKey": re.compile(_KEY),
    "CryptoKeyVersion": re.compile(f"{_KEY}/cryptoKeyVersions/[1-9][0-9]{{0,17}}"),
    "ImportJob": re.compile(f"{_RING}/importJobs/{_ID}"),
    "RetiredResource": re.compile(f"{_LOCATION}/retiredResources/{_ID}"),
    "Operation": re.compile(f"{_LOCATION}/operations/{_ID}"),
}
_FORMS: Final[dict[Kind, str]] = {
    "location": "projects/*/locations/*",
    "KeyRing": "projects/*/locations/*/keyRings/*",
    "CryptoKey": "projects/*/locations/*/keyRings/*/cryptoKeys/*",
    "CryptoKeyVersion": "projects/*/locations/*/keyRings/*/cryptoKeys/*/cryptoKeyVersions/*",
    "ImportJob": "projects/*/locations/*/keyRings/*/importJobs/*",
    "RetiredResource": "projects/*/locations/*/retiredResources/*",
    "Operation": "projects/*/locations/*/operations/*",
}
_WHOLE_ID: Final = re.compile(_ID)


def check(kind: Kind, name: str, field: str = "name") -> str:
    """The name itself when it has the form of `kind`; otherwise INVALID_ARGUMENT."""
    if not is_a(kind, name):
        raise invalid(field, f"{field} must have the form {_FORMS[kind]}.")
    return name


def is_a(kind: Kind, name: str) -> bool:
    """Whether the name has the form of `kind`."""
    return _PATTERNS[kind].fullmatch(name) is not None


def check_id(value: str, field: str) -> str:
    """An id chosen by the caller: 1 to 63 letters, digits, `_` or `-`."""
    if _WHOLE_ID.fullmatch(value) is None:
        raise invalid(field, f"{field} must match the regular expression {_ID}.")
    return value


def key_of(version_name: str) -> str:
    """The CryptoKey of a CryptoKeyVersion."""
    return version_name.partition("/cryptoKeyVersions/")[0]


def ring_of(name: str) -> str:
    """The KeyRing of anything in it."""
    return "/".join(name.split("/")[:6])


def location_of(name: str) -> str:
    """The location of anything in it."""
    return "/".join(name.split("/")[:4])
