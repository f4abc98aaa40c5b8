"""Names of objects as ids of entries: printable, and at most 1,024 characters."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from anykms.errors import InvalidArgumentError

_MAX_ID: Final = 1024


def id_of(name: str) -> str:
    """The id of an object: its name, where ``%`` and what is not printable are percent-encoded.

    Raises:
        OSError: it is longer than an id may be; nothing may be left out of a walk in silence.

    >>> id_of("reports/100%\\n.bin")
    'reports/100%25%0A.bin'
    """
    if "%" not in name and name.isprintable() and len(name) <= _MAX_ID:
        return name
    spelt = "".join(c if c.isprintable() and c != "%" else quote(c, safe="") for c in name)
    if len(spelt) > _MAX_ID:
        raise OSError(f"an object's name is too long to be listed: {spelt[:100]}...")
    return spelt


def name_of(entry_id: str, prefix: str) -> str:
    """The name of the object that has an id.

    Raises:
        InvalidArgumentError: it is not UTF-8, or not under ``prefix``.
    """
    try:
        name = unquote(entry_id, errors="strict")
    except UnicodeDecodeError:
        name = None
    if name is None or not name.startswith(prefix):
        raise InvalidArgumentError("the entry is not one of this target")
    return name
