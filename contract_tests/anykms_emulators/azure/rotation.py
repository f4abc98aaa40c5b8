"""Rotation policies: ISO 8601 durations in years, months and days, and what a policy may say.

>>> add_duration(datetime(2026, 1, 31, tzinfo=UTC), Duration.parse("P1M")).date().isoformat()
'2026-02-28'
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self, cast

from anykms_emulators.azure.errors import bad_parameter, required, wrong_type
from anykms_emulators.azure.keys import is_list

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTIFY_DEFAULT: Final = "P30D"
_PATTERN: Final = re.compile(r"P(?=\d)(?:(\d{1,4})Y)?(?:(\d{1,4})M)?(?:(\d{1,5})D)?\Z")
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
_EARLIEST: Final = datetime(1000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time in calendar units. `text` is what the caller wrote and what replies repeat."""

    text: str
    months: int
    days: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `P2Y`, `P18M`, `P90D` or a mixture; ValueError for anything else, weeks and hours included."""
        match = _PATTERN.match(text)
        if match is None:
            raise ValueError("not a duration in years, months and days, such as P90D")
        years, months, days = (int(part or 0) for part in match.groups())
        return cls(text, 12 * years + months, days)

    @property
    def about_days(self) -> int:
        """Its length in days, a month counted as 30 and a year as 365, for comparisons with limits."""
        return 365 * (self.months // 12) + 30 * (self.months % 12) + self.days


def add_duration(at: datetime, duration: Duration, *, sign: int = 1) -> datetime:
    """`at` plus (or, with sign=-1, minus) calendar months, clipped to the month's end, then days."""
    month = at.year * 12 + at.month - 1 + sign * duration.months
    year, month = divmod(month, 12)
    if year > _LATEST.year:
        return _LATEST
    if year < _EARLIEST.year:
        return _EARLIEST
    day = min(at.day, calendar.monthrange(year, month + 1)[1])
    moved = at.replace(year=year, month=month + 1, day=day) + sign * timedelta(days=duration.days)
    return min(moved, _LATEST)


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """A key's policy. Times are whole seconds since 1970."""

    after_create: Duration | None
    before_expiry: Duration | None
    notify: Duration | None
    expiry: Duration | None
    created: int
    updated: int

    def due(self, created: int, expires: int | None) -> datetime | None:
        """When a version made at `created` that expires at `expires` is to be replaced; None for never."""
        if self.after_create is not None:
            return add_duration(_time(created), self.after_create)
        if self.before_expiry is not None and expires is not None:
            return add_duration(_time(expires), self.before_expiry, sign=-1)
        return None

    def expires(self, at: datetime) -> int | None:
        """The exp attribute of a version that this policy makes at `at`."""
        return None if self.expiry is None else int(add_duration(at, self.expiry).timestamp())


def parse_policy(
    body: Mapping[str, Any], *, now: int, previous: RotationPolicy | None, hsm: bool
) -> RotationPolicy:
    """The policy that a request body asks for. Raises KeyVaultError.

    Rotation no sooner than 7 days after creation and no later than 7 days before expiry (28 days in a
    managed HSM), expiry at least 28 days (Microsoft's key rotation guides).
    """
    minimum = 28 if hsm else 7
    attributes = body.get("attributes")
    if attributes is not None and not isinstance(attributes, dict):
        raise wrong_type("attributes")
    expiry = _duration(cast("dict[str, Any]", attributes or {}), "expiryTime")
    if expiry is not None and expiry.about_days < 28:
        raise bad_parameter("Property 'expiryTime' must be at least 28 days.")
    actions = body.get("lifetimeActions")
    if not is_list(actions):
        raise required("lifetimeActions")
    after = before = notify = None
    seen: set[str] = set()
    for action in actions:
        kind, trigger = _action(action)
        if kind in seen:
            raise bad_parameter(f"There can be only one lifetime action of type '{kind}'.")
        seen.add(kind)
        created, left = _duration(trigger, "timeAfterCreate"), _duration(trigger, "timeBeforeExpiry")
        if (created is None) == (left is None):
            raise bad_parameter("A trigger has either 'timeAfterCreate' or 'timeBeforeExpiry'.")
        if left is not None and expiry is None:
            raise bad_parameter("A trigger with 'timeBeforeExpiry' needs an 'expiryTime'.")
        if kind == "notify":
            if left is None:
                raise bad_parameter("The action 'Notify' needs the trigger 'timeBeforeExpiry'.")
            notify = left
            continue
        length = cast("Duration", created or left).about_days
        if length < minimum or (expiry is not None and length > expiry.about_days - minimum):
            raise bad_parameter(
                f"The time to rotate must be at least {minimum} days after creation and "
                f"at least {minimum} days before expiry."
            )
        after, before = created, left
    first = now if previous is None else previous.created
    return RotationPolicy(after, before, notify, expiry, first, now)


def policy_json(policy: RotationPolicy | None, url: str, *, hsm: bool) -> dict[str, Any]:
    """A policy as replies show it. A vault always adds a Notify action; a managed HSM never does."""
    actions: list[dict[str, Any]] = []
    if policy is not None and policy.after_create is not None:
        actions.append(_action_json("timeAfterCreate", policy.after_create.text, "Rotate", hsm))
    if policy is not None and policy.before_expiry is not None:
        actions.append(_action_json("timeBeforeExpiry", policy.before_expiry.text, "Rotate", hsm))
    notify = None if policy is None else policy.notify
    if notify is not None or not hsm:
        text = NOTIFY_DEFAULT if notify is None else notify.text
        actions.append(_action_json("timeBeforeExpiry", text, "Notify", hsm))
    attributes: dict[str, Any] = {}
    if policy is not None:
        if policy.expiry is not None:
            attributes["expiryTime"] = policy.expiry.text
        attributes |= {"created": policy.created, "updated": policy.updated}
    return {"id": url, "lifetimeActions": actions, "attributes": attributes}


def _action_json(trigger: str, text: str, kind: str, hsm: bool) -> dict[str, Any]:
    return {"trigger": {trigger: text}, "action": {"type": kind.lower() if hsm else kind}}


def _action(value: object) -> tuple[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise wrong_type("lifetimeActions")
    fields = cast("dict[str, Any]", value)
    action, trigger = fields.get("action"), fields.get("trigger")
    if not isinstance(action, dict):
        raise required("action")
    if not isinstance(trigger, dict):
        raise required("trigger")
    kind = cast("dict[str, Any]", action).get("type")
    if not isinstance(kind, str) or kind.lower() not in ("rotate", "notify"):
        raise wrong_type("type")
    return kind.lower(), cast("dict[str, Any]", trigger)


def _duration(fields: Mapping[str, Any], name: str) -> Duration | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise wrong_type(name)
    try:
        return Duration.parse(value)
    except ValueError as error:
        raise bad_parameter(f"Property '{name}' is {error}.") from None


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
