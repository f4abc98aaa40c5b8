"""Every rule of a policy refuses by its name, and says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anykms import Algorithm, KeyConf, KeyInfo, Policy, ProtectionLevel, connect
from anykms.errors import PolicyError
from anykms.keys import KeyTemplate
from anykms.provider import Operation

NOW = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
ADVICE = re.compile(r"\b(use|make|give|give them|ask|check|re-encrypt|rewrap)\b")

Refusal = Callable[[Policy, KeyInfo], None]


def message(suite: int = 1, created: float = NOW, recipients: int = 1) -> Refusal:
    def judge(policy: Policy, info: KeyInfo) -> None:
        policy.check_message(suite=suite, created=int(created), recipients=recipients, now=NOW)

    return judge


def key(policy: Policy, info: KeyInfo) -> None:
    policy.check_key(info)


def use(operation: Operation) -> Refusal:
    def judge(policy: Policy, info: KeyInfo) -> None:
        policy.check_use(info, operation, info.created_at.timestamp() + 86_401)

    return judge


REFUSALS: dict[str, tuple[Policy, list[Refusal]]] = {
    "require_sender_authentication": (Policy(), [lambda policy, info: policy.check_sender(False)]),
    "suites": (Policy(suites=frozenset({2})), [message()]),
    "providers": (
        Policy(providers=frozenset({"awskms"})),
        [key, lambda policy, info: policy.check_provider("local")],
    ),
    "regions": (Policy(regions=frozenset({"eu-west-1"})), [key]),
    "algorithms": (
        Policy(algorithms=frozenset({Algorithm.ES384})),
        [key, lambda policy, info: policy.check_generation(template(), [])],
    ),
    "min_key_size": (
        Policy(min_key_size=3072),
        [key, lambda policy, info: policy.check_generation(template(), [])],
    ),
    "min_protection_level": (
        Policy(min_protection_level=ProtectionLevel.HSM),
        [key, lambda policy, info: policy.check_generation(template(), [ProtectionLevel.SOFTWARE])],
    ),
    "forbid_development_keys": (
        Policy(forbid_development_keys=True),
        [key, lambda policy, info: policy.check_generation(template(), [])],
    ),
    "max_key_age": (
        Policy(max_key_age=timedelta(days=1)),
        [use(operation) for operation in (Operation.WRAP, Operation.SIGN, Operation.MAC)],
    ),
    "required_context": (
        Policy(required_context=frozenset({"tenant"})),
        [lambda policy, info: policy.check_context(["user"])],
    ),
    "max_age": (
        Policy(max_age=timedelta(days=1)),
        [message(created=NOW - 86_401), message(created=NOW + 301)],
    ),
    "min_recipients": (Policy(min_recipients=2), [message(recipients=1)]),
    "max_recipients": (Policy(max_recipients=1), [message(recipients=2)]),
    "max_cache_age": (
        Policy(max_cache_age=timedelta(seconds=10)),
        [lambda policy, info: policy.check_cache(seconds=11, messages=1)],
    ),
    "max_cache_messages": (
        Policy(max_cache_messages=5),
        [lambda policy, info: policy.check_cache(seconds=1, messages=6)],
    ),
}


def conf() -> KeyConf:
    return KeyConf(
        "orders", "SIGN_VERIFY", algorithm="PS256", key_size=2048, tags={"environment": "development"}
    )


def template() -> KeyTemplate:
    return conf().template(Algorithm.A256GCM)


@pytest.fixture
def info(tmp_path: Path) -> KeyInfo:
    with connect(f"local://{tmp_path}/keys.db", create=True) as client:
        return client.generate_key(conf())


def test_every_rule_is_here() -> None:
    # How far a date may lie ahead belongs to max_age.
    assert REFUSALS.keys() == {rule.name for rule in fields(Policy)} - {"clock_skew"}


@pytest.mark.parametrize("rule", REFUSALS)
def test_a_refusal_names_its_rule_and_what_to_do(rule: str, info: KeyInfo) -> None:
    policy, refusals = REFUSALS[rule]
    for refuse in refusals:
        with pytest.raises(PolicyError) as caught:
            refuse(policy, info)
        name, _, text = str(caught.value).partition(": ")
        assert name == f"policy rule {rule}"
        assert ADVICE.search(text), text


@pytest.mark.parametrize("rule", REFUSALS)
def test_what_the_default_policy_refuses_is_an_unproven_sender_alone(rule: str, info: KeyInfo) -> None:
    for judge in REFUSALS[rule][1]:
        if rule == "require_sender_authentication":
            Policy(require_sender_authentication=False).check_sender(False)
        else:
            judge(Policy(), info)
