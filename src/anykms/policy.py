"""What is allowed, apart from what is possible."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Final, cast

from anykms.algorithms import Algorithm
from anykms.errors import InvalidArgumentError, PolicyError
from anykms.keys import KeyInfo, KeyTemplate, KeyURI, ProtectionLevel, canonical_json
from anykms.provider import Operation

DEVELOPMENT_TAG: Final = ("environment", "development")
"""The tag that marks a key as one for development. Tags are facts of a key: fixed when it is made, and sealed."""

_PROTECTING: Final = frozenset({Operation.WRAP, Operation.SIGN, Operation.MAC})
"""Operations that give a key new data to protect, as against processing what it protects already."""
_MAX_RECIPIENTS: Final = 32
_LONGEST: Final = timedelta(days=100 * 365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules for keys, messages and wrapped keys; the default demands an authenticated sender and nothing else.

    A client's policy judges each key before it is made and each use of it; a keyring's judges each key it is given
    and each message. A refusal is a ``PolicyError`` that names the rule, before anything is sent.

    Args:
        require_sender_authentication: open only what someone with the right to encrypt has made. Whoever
            knows an RSA public key can wrap, so an RSA key without a sender key does not prove that.
        suites: numbers of the message suites that may be read.
        providers: schemes that keys may come from; None allows all.
        regions: where keys may live, as ``region_of`` tells; None allows everywhere.
        algorithms: those that keys may have; None allows all of the contract.
        min_key_size: fewest bits of an RSA key; None allows all of the contract.
        min_protection_level: least level that a key may have; None allows all.
        forbid_development_keys: refuse keys whose tags say ``environment=development``.
        max_key_age: oldest key that may still encrypt, sign or MAC, from the date it was made; None for any. Rotation
            does not make a key younger. Old data can still be opened and verified.
        required_context: names that every context must have.
        max_age: oldest data key that is still opened, by the message's own date; None allows any age.
        clock_skew: how far in the future that date may lie when ``max_age`` is set.
        min_recipients, max_recipients: how many recipients a message has, from 1 to 32, when made and when opened.
        max_cache_age: longest that a data key may be kept; zero forbids keeping any, None leaves it to the cache.
        max_cache_messages: most messages under one kept data key; None leaves it to the cache.

    Raises:
        InvalidArgumentError: a rule that nothing can satisfy, or that is not a rule.

    >>> policy = Policy(algorithms=frozenset({Algorithm.A256GCM}), min_protection_level=ProtectionLevel.HSM)
    >>> policy.require_sender_authentication
    True
    """

    require_sender_authentication: bool = True
    suites: frozenset[int] = frozenset({1})
    providers: frozenset[str] | None = None
    regions: frozenset[str] | None = None
    algorithms: frozenset[Algorithm] | None = None
    min_key_size: int | None = None
    min_protection_level: ProtectionLevel | None = None
    forbid_development_keys: bool = False
    max_key_age: timedelta | None = None
    required_context: frozenset[str] = frozenset()
    max_age: timedelta | None = None
    clock_skew: timedelta = timedelta(minutes=5)
    min_recipients: int = 1
    max_recipients: int = _MAX_RECIPIENTS
    max_cache_age: timedelta | None = None
    max_cache_messages: int | None = None

    def __post_init__(self) -> None:
        for name in ("suites", "providers", "regions", "algorithms", "required_context"):
            self._check_set(name)
        for name in ("require_sender_authentication", "forbid_development_keys"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgumentError(f"{name} is True or False")
        if not 1 <= self.max_recipients <= _MAX_RECIPIENTS:
            raise InvalidArgumentError(f"max_recipients is {self.max_recipients}; use 1 to {_MAX_RECIPIENTS}")
        if not 1 <= self.min_recipients <= self.max_recipients:
            raise InvalidArgumentError(f"min_recipients is {self.min_recipients}; use 1 to max_recipients")
        for name in ("max_age", "max_key_age", "max_cache_age", "clock_skew"):
            span = cast("timedelta | None", getattr(self, name))
            if span is not None and (not timedelta(0) <= span <= _LONGEST or span.microseconds):
                raise InvalidArgumentError(f"{name} is {span}; use whole seconds, up to 100 years")
        for name in ("min_key_size", "max_cache_messages"):
            number = cast("int | None", getattr(self, name))
            if number is not None and (type(number) is not int or number < 1):
                raise InvalidArgumentError(f"{name} is {number}; use 1 or more")
        level = self.min_protection_level
        if level is not None and level not in list(ProtectionLevel):
            raise InvalidArgumentError(f"min_protection_level is one of {_listed(ProtectionLevel)}, or None")
        object.__setattr__(self, "min_protection_level", None if level is None else ProtectionLevel(level))

    def _check_set(self, name: str) -> None:
        """One word is a set of its letters to Python, and would allow nothing that was meant."""
        given = getattr(self, name)
        if given is None and name not in ("suites", "required_context"):
            return
        if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
            raise InvalidArgumentError(f"{name} is a set; write frozenset({{...}})")
        kept = frozenset(cast("Collection[object]", given))
        if name == "algorithms":
            kept = frozenset(Algorithm.named(cast("str", one)) for one in kept)
        elif not all(type(one) is (int if name == "suites" else str) for one in kept):
            raise InvalidArgumentError(f"{name} holds something that it cannot hold")
        object.__setattr__(self, name, kept)

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785) of every rule: spans in whole seconds, sets in order."""
        return canonical_json({rule.name: _plain(getattr(self, rule.name)) for rule in fields(self)})

    def digest(self) -> bytes:
        """32 bytes that two policies share only if they are of one class and have the same rules."""
        rules = {rule.name: repr(_plain(getattr(self, rule.name))) for rule in fields(self)}
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return hashlib.sha256(repr((kind, sorted(rules.items()))).encode()).digest()

    # Keys

    def check_provider(self, scheme: str) -> None:
        """Raises PolicyError unless keys of this provider are allowed."""
        if self.providers is not None and scheme not in self.providers:
            raise _refused(
                "providers", f"{scheme} is not among {_listed(self.providers)}; use a key of one of them"
            )

    def check_key(self, info: KeyInfo) -> None:
        """Raises PolicyError unless a key with these facts may be used at all."""
        self.check_provider(info.provider)
        if self.regions is not None and (where := region_of(info.uri)) not in self.regions:
            raise _refused(
                "regions", f"key {info.name} lives in {where}; make one in {_listed(self.regions)}"
            )
        self._check_algorithm(info.algorithm, info.key_size, f"key {info.name}")
        level = self.min_protection_level
        if level is not None and not info.protection_level.at_least(level):
            raise _refused(
                "min_protection_level", f"key {info.name} has {info.protection_level}; make one with {level}"
            )
        self._check_tags(info.name, info.tags.items())

    def check_use(self, info: KeyInfo, operation: Operation, now: float) -> None:
        """Raises PolicyError where the key is too old for this operation; ``now`` is UTC seconds."""
        if self.max_key_age is None or operation not in _PROTECTING:
            return
        age = now - info.created_at.timestamp()
        if age > self.max_key_age.total_seconds():
            raise _refused(
                "max_key_age",
                f"key {info.name} is older than {self.max_key_age}: make its successor; it still opens and verifies",
            )

    def check_generation(self, template: KeyTemplate, offered: Iterable[ProtectionLevel]) -> None:
        """Raises PolicyError unless this key may be made; ``offered`` are the levels that its provider makes."""
        self._check_algorithm(template.algorithm, template.key_size, f"key {template.name}")
        level = self.min_protection_level
        if level is not None:
            possible = [template.protection_level] if template.protection_level else list(offered)
            if not all(one.at_least(level) for one in possible):
                raise _refused(
                    "min_protection_level",
                    f"key {template.name} could have {_listed(possible)}; ask for protection_level={level.value!r}",
                )
        self._check_tags(template.name, template.tags.items())

    def _check_algorithm(self, algorithm: Algorithm, key_size: int | None, what: str) -> None:
        if self.algorithms is not None and algorithm not in self.algorithms:
            raise _refused("algorithms", f"{what} has {algorithm}; use one of {_listed(self.algorithms)}")
        if self.min_key_size is not None and key_size is not None and key_size < self.min_key_size:
            raise _refused(
                "min_key_size", f"{what} has {key_size} bits; use {self.min_key_size} bits or more"
            )

    def _check_tags(self, name: str, tags: Iterable[tuple[str, str]]) -> None:
        if self.forbid_development_keys and DEVELOPMENT_TAG in tags:
            raise _refused(
                "forbid_development_keys",
                f"key {name} is tagged {'='.join(DEVELOPMENT_TAG)}; use a key made for production",
            )

    # Messages

    def check_context(self, names: Iterable[str]) -> None:
        """Raises PolicyError unless a context with these names has all that it must have."""
        if self.required_context and (missing := self.required_context.difference(names)):
            raise _refused("required_context", f"the context lacks {_listed(missing)}; give them")

    def check_recipients(self, recipients: int) -> None:
        """Raises PolicyError unless a message may have this many recipients."""
        if recipients > self.max_recipients:
            raise _refused(
                "max_recipients",
                f"the message has {recipients} recipients; make or rewrap it for {self.max_recipients} or fewer",
            )
        if recipients < self.min_recipients:
            raise _refused(
                "min_recipients",
                f"the message has {recipients} recipients; make or rewrap it for {self.min_recipients} or more",
            )

    def check_message(self, *, suite: int, created: int, recipients: int, now: float) -> None:
        """Raises PolicyError unless a message with these claims may be opened; times are UTC seconds."""
        if suite not in self.suites:
            raise _refused("suites", f"the message has suite {suite}; use one of {_listed(self.suites)}")
        self.check_recipients(recipients)
        if self.max_age is None:
            return
        if created > now + self.clock_skew.total_seconds():
            raise _refused("max_age", "the message is dated in the future; check the clocks")
        if now - created > self.max_age.total_seconds():
            raise _refused("max_age", f"the data key is older than {self.max_age}; re-encrypt the message")

    def check_sender(self, authenticated: bool) -> None:
        """Raises PolicyError where the sender must be authenticated and is not."""
        if self.require_sender_authentication and not authenticated:
            raise _refused(
                "require_sender_authentication",
                "whoever knows the RSA public key could have made this; "
                "use a key with a sender key, or a policy that accepts it",
            )

    def check_cache(self, *, seconds: float, messages: int) -> None:
        """Raises PolicyError unless data keys may be kept that long, for that many messages each."""
        if self.max_cache_age is not None and seconds > self.max_cache_age.total_seconds():
            raise _refused("max_cache_age", f"the cache keeps data keys for {seconds:g} s; give it less")
        if self.max_cache_messages is not None and messages > self.max_cache_messages:
            raise _refused(
                "max_cache_messages",
                f"the cache uses a data key for {messages} messages; give it {self.max_cache_messages} or fewer",
            )


def region_of(uri: KeyURI) -> str:
    """Where a key lives, as far as its URI tells.

    An AWS region, a GCP location, ``local``; for Azure and other providers the host, whose name hides the region.

    >>> region_of(KeyURI.parse("gcpkms://projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"))
    'europe-west1'
    >>> region_of(KeyURI.parse("azurekms://v.vault.azure.net/orders"))
    'v.vault.azure.net'
    """
    match uri.scheme:
        case "awskms":
            return uri.resource.split(":")[3]
        case "gcpkms":
            return uri.resource.split("/")[3]
        case "local":
            return "local"
        case _:
            return uri.resource.partition("/")[0]


def _refused(rule: str, text: str) -> PolicyError:
    return PolicyError(f"policy rule {rule}: {text}")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def _plain(value: object) -> object:
    """A rule as JSON has it."""
    if isinstance(value, timedelta):
        return int(value.total_seconds())
    if isinstance(value, frozenset):
        found = cast("frozenset[int | str]", value)
        return sorted(
            (one if type(one) is int else str(one) for one in found), key=lambda o: (str(type(o)), o)
        )
    if isinstance(value, ProtectionLevel):
        return value.value
    return value
