"""A vault's keys as REST has them: read, change once, and wait until a deletion or recovery is seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, TypeVar

from anykms.errors import DeadlineExceededError, KeyNotFoundError, KMSError
from anykms.provider import mismatch
from anykms_azure import facts
from anykms_azure.connection import Connection, Reply
from anykms_azure.facts import Row

T = TypeVar("T")
Clock = Callable[[], datetime]

_POLL: Final = 0.5
"""Seconds between reads until a key is seen deleted, or recovered."""


class Vault:
    """The keys of one vault or managed HSM. Names are lower case, as in key URIs."""

    def __init__(self, azure: Connection, clock: Clock, transition_timeout: float) -> None:
        self.azure = azure
        self.now = clock
        self._transition_timeout = transition_timeout

    def bundle(self, name: str, version: str | None = None) -> Reply:
        """A live key's version, None meaning the one that Azure calls current."""
        return self._checked(self.azure.ask("GET", f"/keys/{name}/{version or ''}"), name, version)

    def deleted(self, name: str) -> Reply:
        """A deleted key, with its current version."""
        return self._checked(self.azure.ask("GET", f"/deletedkeys/{name}"), name, None)

    def rows(self, name: str) -> list[Row]:
        """A live key's versions, oldest first."""
        return facts.rows_of(self.azure.pages(f"/keys/{name}/versions"), self.now())

    def current(self, name: str) -> tuple[Reply, Row]:
        """The version in use: Azure's current one, unless that one lost a race to make the key."""
        bundle = self.bundle(name)
        row = facts.row_of(bundle, self.now())
        if row.discarded:
            row = self.rows(name)[-1]
            bundle = self.bundle(name, row.id)
        return bundle, row

    def exists(self, name: str) -> bool:
        """Whether there is a live key of that name."""
        return _found(lambda: self.bundle(name))

    def is_deleted(self, name: str) -> bool:
        """Whether there is a deleted key of that name."""
        return _found(lambda: self.deleted(name))

    def create(self, name: str, body: Mapping[str, object]) -> Reply:
        """A new key, or a new version where there is one already."""
        return self._checked(self.azure.ask("POST", f"/keys/{name}/create", body), name, None)

    def rotate(self, name: str) -> Reply:
        """A new version like the current one."""
        return self._checked(self.azure.ask("POST", f"/keys/{name}/rotate", {}), name, None)

    def update(
        self, name: str, version: str, *, enabled: bool | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        """Change one version; what is None stays."""
        body: dict[str, object] = {} if enabled is None else {"attributes": {"enabled": enabled}}
        if tags is not None:
            body["tags"] = dict(tags)

        def done() -> bool:
            row = facts.row_of(self.bundle(name, version), self.now())
            return enabled in (None, row.enabled) and (tags is None or row.tags == tags)

        self.once(lambda: self.azure.ask("PATCH", f"/keys/{name}/{version}", body), done)

    def delete(self, name: str) -> None:
        """Begin the deletion of a key with all its versions."""
        self.once(lambda: self.azure.ask("DELETE", f"/keys/{name}"), lambda: not self.exists(name))

    def await_deleted(self, name: str) -> Reply:
        """The deleted key, once it is seen: that takes a vault some seconds."""
        return self._await(lambda: self.deleted(name), "deleted")

    def recover(self, name: str) -> None:
        """Bring a deleted key back as it was, and wait until it is seen."""
        self.once(
            lambda: self.azure.ask("POST", f"/deletedkeys/{name}/recover", {}),
            lambda: self.exists(name) or not self.is_deleted(name),
        )
        self._await(lambda: self.bundle(name), "recovered")

    def purge(self, name: str) -> None:
        """Destroy a deleted key, where the vault and the caller's role allow it."""
        self.azure.ask("DELETE", f"/deletedkeys/{name}")

    def once(self, change: Callable[[], object], done: Callable[[], bool]) -> None:
        """Make a change, never twice; after a lost reply ``done`` reads whether it was made."""
        try:
            change()
        except KMSError as error:
            if not error.retryable or not self._is_done(done):
                raise

    def _is_done(self, done: Callable[[], bool]) -> bool:
        try:
            return done()
        except KMSError:
            return False

    def _await(self, read: Callable[[], T], what: str) -> T:
        end = time.monotonic() + self._transition_timeout
        while True:
            try:
                return read()
            except KeyNotFoundError as error:
                if time.monotonic() >= end:
                    raise DeadlineExceededError(f"the key is not seen {what} yet; ask again later") from error
            time.sleep(_POLL)

    def _checked(self, bundle: Reply, name: str, version: str | None) -> Reply:
        """``bundle``, if it is of the key (and version) that was asked for."""
        kid = str(facts.section(bundle, "key").get("kid")).lower()
        wanted = facts.kid_of(self.azure.host, name, version or facts.version_in(kid))
        if kid != wanted:
            raise mismatch(
                "Key Vault answers with another key than the one asked for", expected=wanted, found=kid
            )
        return bundle


def _found(read: Callable[[], object]) -> bool:
    try:
        read()
    except KeyNotFoundError:
        return False
    return True
