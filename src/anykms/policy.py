"""What is allowed, apart from what is possible."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import cast

from anykms.errors import InvalidArgumentError, PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules for messages and wrapped keys; the default is the strict one.

    Args:
        require_sender_authentication: open only what someone with the right to encrypt has made. Whoever
            knows an RSA public key can wrap, so an RSA key without a sender key does not prove that.
        suites: numbers of the message suites that may be read.
        providers: schemes that keys may come from; None allows all.
        max_age: oldest data key that is still opened, by the message's own date; None allows any age.
        clock_skew: how far in the future that date may lie when ``max_age`` is set.
        max_recipients: most recipients that a message may name, 1 to 32.

    >>> Policy().require_sender_authentication
    True
    """

    require_sender_authentication: bool = True
    suites: frozenset[int] = frozenset({1})
    providers: frozenset[str] | None = None
    max_age: timedelta | None = None
    clock_skew: timedelta = timedelta(minutes=5)
    max_recipients: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.max_recipients <= 32:
            raise InvalidArgumentError(f"max_recipients is {self.max_recipients}; use 1 to 32")

    def digest(self) -> bytes:
        """32 bytes that two policies share only if they are of one class and have the same rules."""
        rules = {rule.name: _rule(getattr(self, rule.name)) for rule in fields(self)}
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return hashlib.sha256(repr((kind, sorted(rules.items()))).encode()).digest()

    def check_provider(self, scheme: str) -> None:
        """Raises PolicyError unless keys of this provider are allowed."""
        if self.providers is not None and scheme not in self.providers:
            allowed = ", ".join(sorted(self.providers)) or "none"
            raise PolicyError(f"policy rule providers: {scheme} is not among {allowed}")

    def check_message(self, *, suite: int, created: int, recipients: int, now: float) -> None:
        """Raises PolicyError unless a message with these claims may be opened; times are UTC seconds."""
        if suite not in self.suites:
            raise PolicyError(f"policy rule suites: suite {suite} is not allowed")
        if recipients > self.max_recipients:
            raise PolicyError(
                f"policy rule max_recipients: the message names {recipients}, {self.max_recipients} are allowed"
            )
        if self.max_age is None:
            return
        if created > now + self.clock_skew.total_seconds():
            raise PolicyError("policy rule max_age: the message is dated in the future")
        if now - created > self.max_age.total_seconds():
            raise PolicyError(f"policy rule max_age: the data key is older than {self.max_age}")

    def check_sender(self, authenticated: bool) -> None:
        """Raises PolicyError where the sender must be authenticated and is not."""
        if self.require_sender_authentication and not authenticated:
            raise PolicyError(
                "policy rule require_sender_authentication: whoever knows the RSA public key could have made this; "
                "use a key with a sender key, or a policy that accepts it"
            )


def _rule(value: object) -> str:
    """A rule's value; sets have no order of their own."""
    return (
        repr(sorted(map(repr, cast("frozenset[object]", value))))
        if isinstance(value, frozenset)
        else repr(value)
    )
