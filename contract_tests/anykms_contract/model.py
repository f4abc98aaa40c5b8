"""A stateful property test: whatever is done to keys, in whatever order, comes to the same on two stores.

One store is the model, usually the local keystore; the other is judged. Every step goes through the public API on
both, and the outcomes are compared: the result, or the error's class and whether it is retryable.

    explore(model, subject)  # two harnesses; raises AssertionError with the history
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.client import Key
from anykms.envelope.keyring import Keyring
from anykms.errors import KMSError
from anykms.keys import KeyInfo, KeyState
from anykms_contract.harness import ES256, HS256, OAEP, Connection, Harness, KeyKind

MADE: Final = "made"
ALLOWED: Final[Mapping[tuple[str, str, str], str]] = {
    ("generate", "NameReservedError", MADE): "C3.4: a destroyed key's name is reserved, or names another key",
    ("generate", MADE, "NameReservedError"): "C3.4: a destroyed key's name is reserved, or names another key",
    **{
        ("generate", *pair): "C13.1: what is absent is UnsupportedOperationError, unsent"
        for other in (MADE, "KeyExistsError", "NameReservedError")
        for pair in ((other, "UnsupportedOperationError"), ("UnsupportedOperationError", other))
    },
}
"""Operation, the model's outcome and the subject's, where they may differ, and the sentence that lets them.

Besides, C1.11 lets a provider show no versions, so their number is compared only where both show some, and
C3.1 lets a wrapping key have each provider's own algorithm.
"""

_SMALL: Final = KeyKind(KeyPurpose.ENCRYPT_DECRYPT, Algorithm.RSA_OAEP_256, 2048)
_KINDS: Final[Mapping[str, KeyKind | None]] = {"wrap": None, "sign": ES256, "mac": HS256, "decrypt": OAEP}
USES: Final = tuple(_KINDS)
_MESSAGE: Final = b"message"
_SECRET: Final = bytes(range(32))
_CONTEXTS: Final[Sequence[dict[str, str]]] = ({}, {"tenant": "1"}, {"tenant": "2"})
_WINDOW: Final = 30


@dataclass(eq=False)
class _Pair:
    """A key on both stores, with what it made there while it worked."""

    name: str
    use: str
    infos: tuple[KeyInfo, KeyInfo] = field(repr=False)
    made: dict[str, list[tuple[Any, Any]]] = field(
        default_factory=dict[str, list[tuple[Any, Any]]], repr=False
    )


def _outcome(call: Callable[[], object]) -> tuple[str, object, object]:
    """What a call came to, so that it can be compared, and what it gave."""
    try:
        result = call()
    except KMSError as error:
        return type(error).__name__, error.retryable, None
    return MADE, None, result


class _Histories(RuleBasedStateMachine):
    """Both stores under the same hands. ``explore`` binds the stores in a subclass."""

    model: Harness
    subject: Harness
    uses: Sequence[str]

    def __init__(self) -> None:
        super().__init__()
        self.sides: tuple[Connection, Connection] = (self.model.connect(), self.subject.connect())
        self.pairs: list[_Pair] = []
        self.names = [f"{self.subject.name()}-{n}" for n in range(4)]
        self.burnt: set[str] = set()

    def teardown(self) -> None:
        for harness in (self.model, self.subject):
            harness.release()

    def both(
        self, operation: str, call: Callable[[int], object], shown: Callable[[Any], object] = lambda _: None
    ) -> tuple[Any, Any] | None:
        """The call on both sides. Returns what both gave; None after an error, or where they may differ."""
        (mine, my_retry, mine_given), (theirs, their_retry, theirs_given) = (
            _outcome(lambda: call(0)),
            _outcome(lambda: call(1)),
        )
        if (operation, mine, theirs) in ALLOWED:
            return None
        assert (theirs, their_retry) == (mine, my_retry), f"{operation}: {theirs}, and on the model {mine}"
        if mine != MADE:
            return None
        assert shown(theirs_given) == shown(mine_given), operation
        return mine_given, theirs_given

    def key(self, pair: _Pair, side: int) -> Key:
        return self.sides[side].client.key(pair.infos[side])

    def pick(self, data: st.DataObject, *uses: str) -> _Pair:
        return data.draw(st.sampled_from([pair for pair in self.pairs if pair.use in uses or not uses]))

    def has(self, *uses: str) -> bool:
        return any(pair.use in uses for pair in self.pairs)

    # The administrator

    @rule(data=st.data(), number=st.integers(0, 3))
    def generate(self, data: st.DataObject, number: int) -> None:
        name, use = self.names[number], data.draw(st.sampled_from(self.uses))
        if name in self.burnt:
            return
        given = self.both(
            "generate",
            lambda side: self.sides[side].client.generate_key(
                (self.model, self.subject)[side].conf(
                    self._kind(use, side), name=name, destroy_window=_WINDOW
                )
            ),
            lambda info: (info.name, info.purpose, dict(info.tags), info.destroy_window),
        )
        if given is not None:
            self.pairs.append(_Pair(name, use, given))
        elif self._exists(name, 0) is not self._exists(name, 1):
            self.burnt.add(name)  # made on one side alone

    def _kind(self, use: str, side: int) -> KeyKind:
        harness = (self.model, self.subject)[side]
        if use != "wrap":
            return _KINDS[use] or harness.wrapping
        return harness.wrapping if harness.wrapping.key_size is None else _SMALL

    def _exists(self, name: str, side: int) -> bool:
        return _outcome(lambda: self.sides[side].client.get_key(name))[0] == MADE

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def describe(self, data: st.DataObject) -> None:
        pair = self.pick(data)
        self.both(
            "describe",
            lambda side: self.sides[side].client.describe_key(pair.infos[side]),
            lambda status: (status.state, status.destroy_at is None),
        )
        given = self.both("describe", lambda side: self.sides[side].client.describe_key(pair.infos[side]))
        # a key pending destruction may show its last version alone
        if given is not None and given[0].state in (KeyState.ENABLED, KeyState.DISABLED):
            counts = {len(status.versions) for status in given if status.versions}
            assert len(counts) <= 1, f"describe: {counts} versions"

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        pair = self.pick(data)
        if pair.name in self.burnt:
            return
        given = self.both("get", lambda side: self.sides[side].client.get_key(pair.name))
        latest = [other for other in self.pairs if other.name == pair.name][-1]
        assert given is None or given == latest.infos

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), change=st.sampled_from(["enable", "disable", "schedule", "cancel", "rotate"]))
    def change(self, data: st.DataObject, change: str) -> None:
        pair = self.pick(data)

        def call(side: int) -> object:
            client, info = self.sides[side].client, pair.infos[side]
            match change:
                case "enable":
                    client.enable_key(info)
                case "disable":
                    client.disable_key(info)
                case "schedule":
                    client.schedule_destruction(info)
                case "cancel":
                    client.cancel_destruction(info)
                case _:
                    return client.rotate_key(info).state
            return None

        self.both(change, call, lambda state: state)

    @precondition(lambda self: self.pairs)
    @rule(days=st.sampled_from([1, 31]))
    def time_passes(self, days: int) -> None:
        for side, harness in enumerate((self.model, self.subject)):
            assert harness.advance is not None
            harness.advance(timedelta(days=days, hours=1))
            self.sides[side].time.now += 61

    @precondition(lambda self: len(self.pairs) > 1)
    @rule()
    def a_new_process(self) -> None:
        self.sides = (self.model.connect(), self.subject.connect())

    # The application

    def makes(self, pair: _Pair, what: str, call: Callable[[int], object]) -> None:
        given = self.both(what, call)
        if given is not None:
            pair.made.setdefault(what, []).append(given)

    def takes(self, data: st.DataObject, pair: _Pair, what: str) -> tuple[Any, Any] | None:
        return data.draw(st.sampled_from(pair.made[what])) if pair.made.get(what) else None

    @precondition(lambda self: self.has("wrap"))
    @rule(data=st.data(), context=st.sampled_from(_CONTEXTS))
    def wrap(self, data: st.DataObject, context: dict[str, str]) -> None:
        pair = self.pick(data, "wrap")
        self.makes(pair, "wrap", lambda side: self.key(pair, side).wrap(_SECRET, context=context))

    @precondition(lambda self: self.has("wrap"))
    @rule(data=st.data(), context=st.sampled_from(_CONTEXTS))
    def unwrap(self, data: st.DataObject, context: dict[str, str]) -> None:
        pair = self.pick(data, "wrap")
        other = self.pick(data, "wrap")
        wrapped = self.takes(data, other, "wrap")
        if wrapped is not None:
            self.both(
                "unwrap",
                lambda side: self.key(pair, side).unwrap(wrapped[side], context=context),
                lambda s: s,
            )

    @precondition(lambda self: self.has("wrap"))
    @rule(data=st.data(), context=st.sampled_from(_CONTEXTS))
    def encrypt(self, data: st.DataObject, context: dict[str, str]) -> None:
        pair = self.pick(data, "wrap")
        self.makes(
            pair, "encrypt", lambda side: Keyring([self.key(pair, side)]).encrypt(_MESSAGE, context=context)
        )

    @precondition(lambda self: self.has("wrap"))
    @rule(data=st.data(), context=st.sampled_from(_CONTEXTS))
    def decrypt(self, data: st.DataObject, context: dict[str, str]) -> None:
        pair = self.pick(data, "wrap")
        message = self.takes(data, pair, "encrypt")
        if message is not None:
            self.both(
                "decrypt",
                lambda side: Keyring([self.key(pair, side)]).decrypt(message[side], context=context),
                lambda plaintext: plaintext,
            )

    @precondition(lambda self: self.has("wrap"))
    @rule(data=st.data())
    def rewrap(self, data: st.DataObject) -> None:
        pair, other = self.pick(data, "wrap"), self.pick(data, "wrap")
        message = self.takes(data, pair, "encrypt")
        if message is None:
            return
        given = self.both(
            "rewrap",
            lambda side: (
                Keyring([self.key(pair, side)])
                .rewrap(message[side], to=Keyring([self.key(other, side)]))
                .message
            ),
        )
        if given is not None:
            other.made.setdefault("encrypt", []).append(given)

    @precondition(lambda self: self.has("sign"))
    @rule(data=st.data())
    def sign(self, data: st.DataObject) -> None:
        pair = self.pick(data, "sign")
        self.makes(pair, "sign", lambda side: self.key(pair, side).sign(_MESSAGE))

    @precondition(lambda self: self.has("sign"))
    @rule(data=st.data(), message=st.sampled_from([_MESSAGE, b"another"]))
    def verify(self, data: st.DataObject, message: bytes) -> None:
        pair, other = self.pick(data, "sign"), self.pick(data, "sign")
        signature = self.takes(data, other, "sign")
        if signature is not None:
            self.both("verify", lambda side: self.key(pair, side).verify(message, signature[side]))

    @precondition(lambda self: self.has("sign", "decrypt"))
    @rule(data=st.data())
    def public_key(self, data: st.DataObject) -> None:
        pair = self.pick(data, "sign", "decrypt")
        given = self.both("public-key", lambda side: self.key(pair, side).public_key().fingerprint)
        assert given is None or given == tuple(info.fingerprint for info in pair.infos)

    @precondition(lambda self: self.has("mac"))
    @rule(data=st.data())
    def mac(self, data: st.DataObject) -> None:
        pair = self.pick(data, "mac")
        self.makes(pair, "mac", lambda side: self.key(pair, side).mac(_MESSAGE))

    @precondition(lambda self: self.has("mac"))
    @rule(data=st.data(), message=st.sampled_from([_MESSAGE, b"another"]))
    def verify_mac(self, data: st.DataObject, message: bytes) -> None:
        pair, other = self.pick(data, "mac"), self.pick(data, "mac")
        tag = self.takes(data, other, "mac")
        if tag is not None:
            self.both("verify-mac", lambda side: self.key(pair, side).verify_mac(message, tag[side]))

    @precondition(lambda self: self.has("decrypt"))
    @rule(data=st.data(), damaged=st.booleans())
    def decrypt_for(self, data: st.DataObject, damaged: bool) -> None:
        pair = self.pick(data, "decrypt")
        if "public" not in pair.made:
            self.makes(pair, "public", lambda side: self.key(pair, side).public_key())
        public = self.takes(data, pair, "public")
        if public is None:
            return

        def call(side: int) -> bytes:
            ciphertext: bytes = public[side].encrypt(_MESSAGE)
            return self.key(pair, side).decrypt(ciphertext[:-1] + bytes([ciphertext[-1] ^ damaged]))

        self.both("asymmetric-decrypt", call, lambda plaintext: plaintext)


def explore(
    model: Harness,
    subject: Harness,
    *,
    examples: int = 6,
    steps: int = 40,
    uses: Sequence[str] = USES,
    shrink: bool = False,
    repeatable: bool = False,
) -> None:
    """Compare ``examples`` histories of at most ``steps`` steps each.

    Args:
        uses: what keys are for, some of ``USES``.
        shrink: look for a shorter history once one differs; that can take many times as long.
        repeatable: the same histories each time.

    Raises:
        AssertionError: an outcome on the subject is another than on the model, and no row of ``ALLOWED`` lets it be.
    """
    machine = type("Histories", (_Histories,), {"model": model, "subject": subject, "uses": uses})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            derandomize=repeatable,
            suppress_health_check=(
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
            ),
        ),
    )
