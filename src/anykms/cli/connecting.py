"""From --store and --key to clients and keys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from anykms.cli.failures import usage
from anykms.cli.terminal import warn
from anykms.errors import InvalidArgumentError, KeyNotFoundError, KMSError

if TYPE_CHECKING:
    from anykms.client import Key, KMSClient
    from anykms.keys import KeyInfo


class Stores:
    """The keystores that the caller named, opened; a context manager.

    Args:
        uris: connection URIs, from the command line or the environment only.
        tolerant: leave out, with a warning, a keystore that cannot be opened while another one can. For
            decryption: one lost keystore must not lose what another one opens.
    """

    def __init__(self, uris: Iterable[str], *, tolerant: bool = False) -> None:
        self._uris = tuple(uris)
        self._tolerant = tolerant
        self._stack = ExitStack()
        self._clients: list[KMSClient] = []
        self._names: dict[KMSClient, str] = {}
        self._failures: list[Exception] = []

    def __enter__(self) -> Self:
        if not self._uris:
            raise usage(
                "no keystore is named",
                "give --store URI or set ANYKMS_STORE; 'anykms store init --store local:///PATH' makes one",
            )
        with ExitStack() as stack:
            for uri in self._uris:
                try:
                    self._clients.append(stack.enter_context(_open(uri)))
                    self._names[self._clients[-1]] = uri
                except InvalidArgumentError:
                    raise
                except (KMSError, OSError) as error:
                    self._pass_over(error)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def clients(self) -> Sequence[KMSClient]:
        """Those that are open."""
        return self._clients

    def only(self) -> KMSClient:
        """The one keystore, where a command needs exactly one."""
        if len(self._uris) != 1:
            raise usage(
                f"this command works on one keystore; {len(self._uris)} are named", "name one with --store"
            )
        return self._clients[0]

    def find(self, name: str) -> tuple[KMSClient, KeyInfo]:
        """The key of that name or URI, and its keystore.

        Raises:
            KeyNotFoundError: no keystore has it.
            KMSError: a keystore could not be asked.
        """
        found: list[tuple[KMSClient, KeyInfo]] = []
        missing: KMSError | None = None
        for client in self._fitting(name):
            try:
                found.append((client, client.get_key(name)))
            except KeyNotFoundError as error:
                missing = missing or error
            except KMSError as error:
                if not self._tolerant:
                    raise
                missing = error
        if len(found) > 1:
            raise usage(
                f"{len(found)} keystores have a key of that name",
                "name it by its URI: see 'anykms keys list'",
            )
        if not found:
            raise missing or self._failures[0]
        return found[0]

    def _fitting(self, name: str) -> Sequence[KMSClient]:
        """A key URI concerns the keystores of its scheme only."""
        scheme, is_uri, _ = name.partition("://")
        return [client for client in self._clients if is_uri and client.provider == scheme] or self._clients

    def named(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Keystore URI and key URI of each, with which another process finds the same key."""
        from anykms.keys import ConnectionURI

        pairs: list[tuple[str, str]] = []
        for name in names:
            client, info = self.find(name)
            where = ConnectionURI.parse(self._names[client])
            if where.scheme == "local":
                where = replace(where, address=os.path.abspath(where.address))
            pairs.append((str(where), str(info.uri.without_version())))
        return pairs

    def keys(self, names: Iterable[str]) -> list[Key]:
        """Handles on the keys of those names."""
        keys: list[Key] = []
        for name in names:
            try:
                client, info = self.find(name)
                keys.append(client.key(info))
            except InvalidArgumentError:
                raise
            except KMSError as error:
                self._pass_over(error)
        if not keys:
            raise self._failures[0]
        return keys

    def _pass_over(self, error: Exception) -> None:
        self._failures.append(error)
        if not self._tolerant:
            raise error
        warn(f"{type(error).__name__}: {error}; going on without it")


def _open(uri: str) -> KMSClient:
    """Connect, with what the flags of ``anykms`` itself add where the URI names an endpoint."""
    from anykms.keys import ConnectionURI
    from anykms.registry import connect

    where = ConnectionURI.parse(uri)
    allowed = click.get_current_context().find_root().params.get("allow_insecure_endpoint", False)
    if allowed and {"endpoint", "endpoint_url"} & where.options.keys():
        return connect(where, allow_insecure_endpoint=True)
    return connect(where)
