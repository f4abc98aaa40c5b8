"""connect(): from a connection URI to a client, through the provider that its scheme names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from anykms.audit import AuditSink
from anykms.client import DEFAULT_STATE_TTL, KMSClient
from anykms.errors import InvalidArgumentError, UnsupportedOperationError
from anykms.keys import ConnectionURI
from anykms.policy import Policy
from anykms.provider import Provider
from anykms.retrying import RetryPolicy

GROUP = "anykms.providers"
_EXTRAS = {"awskms": "aws", "gcpkms": "gcp", "azurekms": "azure", "pkcs11": "pkcs11"}


class ProviderClass(Protocol):
    """What an entry point of group ``anykms.providers`` names; its name is the URI scheme."""

    def connect(self, uri: ConnectionURI, **options: object) -> Provider:
        """Connect, and check every option; the first network call may come later.

        Raises:
            InvalidArgumentError: an option of the URI that the provider does not have.
        """
        ...


def connect(
    uri: str | ConnectionURI,
    *,
    policy: Policy | None = None,
    retry: RetryPolicy | None = None,
    state_ttl: float = DEFAULT_STATE_TTL,
    clock: Callable[[], float] = time.time,
    audit: Sequence[AuditSink] = (),
    entity: str | None = None,
    audit_required: bool = True,
    **options: object,
) -> KMSClient:
    """A client for the key service that ``uri`` names.

    Args:
        uri: ``local:///path/keys.db``, ``awskms:///?region=...``, ``gcpkms://projects/P/locations/L/keyRings/R``,
            ``azurekms://VAULT.vault.azure.net``, or a scheme of an installed provider. Only from the caller or
            the configuration, never from data.
        policy, retry, state_ttl, clock, audit, entity, audit_required: see ``KMSClient``.
        options: the provider's own, for example ``create=True`` (local) or ``credential=`` (Azure). A provider whose
            own clock is to be set, in tests, comes from ``open_provider``.

    Raises:
        InvalidArgumentError: not a connection URI, a scheme that no installed provider has, or a bad option.
        UnsupportedOperationError: the provider's SDK is not installed; the message says which extra to install.
        TypeError: an option that the provider does not know.

    >>> import tempfile
    >>> with connect(f"local://{tempfile.mkdtemp()}/keys.db", create=True) as client:
    ...     client.provider
    'local'
    """
    return KMSClient(
        open_provider(uri, **options),
        policy=policy,
        retry=retry,
        state_ttl=state_ttl,
        clock=clock,
        audit=audit,
        entity=entity,
        audit_required=audit_required,
    )


def open_provider(uri: str | ConnectionURI, **options: object) -> Provider:
    """The provider under the client that ``connect`` gives, bare: for tests of providers.

    Raises:
        InvalidArgumentError, UnsupportedOperationError, TypeError: as ``connect``.
    """
    where = uri if isinstance(uri, ConnectionURI) else ConnectionURI.parse(uri)
    found = cast("ProviderClass", load(GROUP, where.scheme, "provider", _EXTRAS))
    return found.connect(where, **options)


def schemes() -> dict[str, str]:
    """Installed providers: scheme, and the distribution it comes from."""
    return {point.name: point.dist.name if point.dist else "" for point in entry_points(group=GROUP)}


def load(group: str, name: str, noun: str, extras: Mapping[str, str]) -> object:
    """What an entry point names.

    Args:
        group: of the entry points.
        name: of one of them.
        noun: what has such a name, for errors: ``reader``.
        extras: the extra of anykms that installs what an entry point of ours needs, by name.

    Raises:
        InvalidArgumentError: no distribution has one of that name, or several have.
        UnsupportedOperationError: what it needs is not installed; the message says which extra to install.
    """
    points = list(entry_points(group=group, name=name))
    if not points:
        known = ", ".join(sorted({point.name for point in entry_points(group=group)})) or "none"
        raise InvalidArgumentError(f"no installed {noun} has the name {name!r}; installed: {known}")
    if len({point.value for point in points}) > 1:
        rivals = ", ".join(sorted(point.dist.name if point.dist else point.value for point in points))
        raise InvalidArgumentError(
            f"several distributions claim the {noun} {name!r}: {rivals}; uninstall one"
        )
    try:
        return points[0].load()
    except ModuleNotFoundError as error:
        hint = _install_hint(points[0], extras)
        raise UnsupportedOperationError(
            f"{name} needs the module {error.name!r}; run: pip install {hint}"
        ) from error


def _install_hint(point: EntryPoint, extras: Mapping[str, str]) -> str:
    distribution = point.dist.name if point.dist else point.value
    extra = extras.get(point.name)
    return f"'{distribution}[{extra}]'" if distribution == "anykms" and extra else f"'{distribution}'"
