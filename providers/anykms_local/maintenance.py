"""What an administrator does with a keystore file: init, check, backup, restore, rekey."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anykms.errors import InvalidArgumentError
from anykms.keys import ConnectionURI
from anykms.provider import RootSecret
from anykms_local import keystore
from anykms_local.root import FileRoot, Passphrase, root_from_options

_OPTIONS: Final = ("root", "passphrase-file", "busy-timeout")
_BUSY_TIMEOUT: Final = 5.0
_MAX_BUSY_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """A connection URI, read. ``busy_timeout`` is in seconds."""

    path: Path
    root: RootSecret
    busy_timeout: float


def settings_of(
    uri: ConnectionURI, *, root: RootSecret | None = None, passphrase: Passphrase | None = None
) -> Settings:
    """Check every option of a ``local:`` URI, before any I/O."""
    if uri.scheme != "local":
        raise InvalidArgumentError(f"a local keystore has a local: URI, not {uri.scheme}:")
    for name in uri.options:
        if name not in _OPTIONS:
            raise InvalidArgumentError(
                f"unknown option {ascii(name)[:60]} of a local keystore; known are {', '.join(_OPTIONS)}"
            )
    path = Path(uri.address)
    if not path.name or "\0" in uri.address:
        raise InvalidArgumentError("the URI names no file; for example local:///var/lib/app/keys.db")
    given = uri.options.get("busy-timeout", str(_BUSY_TIMEOUT))
    try:
        busy_timeout = float(given)
    except ValueError:
        busy_timeout = -1.0
    if not 0 <= busy_timeout <= _MAX_BUSY_TIMEOUT:
        raise InvalidArgumentError(f"busy-timeout is seconds from 0 to {_MAX_BUSY_TIMEOUT:g}")
    return Settings(
        path, root_from_options(uri.options, path, root=root, passphrase=passphrase), busy_timeout
    )


def make_missing(settings: Settings) -> bool:
    """Make the store, and its root file, if there is no store; returns whether it was made."""
    if settings.path.exists():
        return False
    with keystore.creation_lock(settings.path):
        if settings.path.exists():
            return False
        root = settings.root
        made_root = isinstance(root, FileRoot) and root.create()
        try:
            keystore.create(settings.path, root)
        except BaseException:
            if made_root and isinstance(root, FileRoot):
                root.path.unlink(missing_ok=True)
            raise
    return True
