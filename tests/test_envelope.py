"""The envelope under attack: what a keyring opens, what it refuses, and what it asks a provider for."""

from __future__ import annotations

import contextlib
import inspect as introspection
import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from types import ModuleType
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anykms
from anykms import Key, KeyInfo, Keyring, KeyURI, KMSClient, KMSError, Policy, RetryPolicy, errors, inspect
from anykms.envelope.message import MAGIC
from anykms.keys import KeyStatus
from anykms.provider import WrapContext, Wrapped
from anykms.wrapping import NOT_AUTHENTIC
from anykms_contract.vectors import VectorProvider
from anykms_contract.vectors.generate import Recipe

CONTEXT = {"tenant": "42"}
ONCE = RetryPolicy(max_attempts=1)


class Scripted(VectorProvider):
    """The fixed keys, each failing as told: by key name, the error that unwrap (or wrap) raises."""

    def __init__(self, failing: dict[str, KMSError] | None = None) -> None:
        super().__init__()
        self.failing = failing or {}
        self.asked: list[str] = []

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        self.asked.append(info.name)
        if info.name in self.failing:
            raise self.failing[info.name]
        return super().unwrap(info, wrapped, version, context)

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        if info.name in self.failing:
            raise self.failing[info.name]
        return super().wrap(info, data_key, context)


def ring_of(*names: str, provider: VectorProvider | None = None, policy: Policy | None = None) -> Keyring:
    client = KMSClient(provider or VectorProvider(), retry=ONCE)
    return Keyring([client.key(name) for name in names], policy=policy)


def header_of(message: bytes) -> tuple[list[object], list[list[object]], int]:
    found = msgspec.msgpack.decode(message[12 : 12 + int.from_bytes(message[8:12])])
    return found[0], found[1], found[2]


# Round trips


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda name: not name.startswith(("anykms", "aws"))
)
contexts = st.dictionaries(names, st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), max_size=6)


@settings(max_examples=60)
@given(st.binary(max_size=40000), contexts, st.binary(max_size=200), st.data())
def test_what_one_key_of_the_ring_encrypts_any_other_opens(
    plaintext: bytes, context: dict[str, str], aad: bytes, data: st.DataObject
) -> None:
    required = data.draw(st.sets(st.sampled_from(sorted(context)))) if context else set[str]()
    message = ring_of("alpha", "beta", "rho").encrypt(plaintext, context=context, aad=aad, required=required)
    reader = data.draw(st.sampled_from(["alpha", "beta", "rho"]))
    found = ring_of(reader).decrypt_detailed(message, context=context, aad=aad)
    assert found.plaintext == plaintext
    assert (found.key.name, found.generation, found.sender_authenticated) == (reader, 0, True)
    header = inspect(message)
    assert dict(header.context) == {name: v for name, v in context.items() if name not in required}
    assert set(header.required) == required


def strided(data: bytes) -> memoryview:
    """Every second byte of a buffer twice as long."""
    return memoryview(bytes(byte for pair in zip(data, data, strict=True) for byte in pair))[::2]


def test_bytes_bytearray_and_memoryview_behave_the_same() -> None:
    ring = ring_of("alpha")
    kinds: list[Callable[[bytes], bytes | bytearray | memoryview]] = [bytes, bytearray, memoryview, strided]
    for kind in kinds:
        message = ring.encrypt(kind(b"payload"), context=CONTEXT, aad=kind(b"aad"))
        assert ring.decrypt(kind(message), context=CONTEXT, aad=kind(b"aad")) == b"payload"


@pytest.mark.parametrize("call", ["plaintext", "aad", "message", "context", "required"])
def test_text_is_never_taken_for_bytes(call: str) -> None:
    ring = ring_of("alpha")
    attempts: dict[str, Callable[[], object]] = {
        "plaintext": lambda: ring.encrypt("text", context={}),  # type: ignore[arg-type]  # pyright: ignore
        "aad": lambda: ring.encrypt(b"", context={}, aad="text"),  # type: ignore[arg-type]  # pyright: ignore
        "message": lambda: ring.decrypt("text", context={}),  # type: ignore[arg-type]  # pyright: ignore
        "context": lambda: ring.encrypt(b"", context=None),  # type: ignore[arg-type]  # pyright: ignore
        "required": lambda: ring.encrypt(b"", context=CONTEXT, required="tenant"),
    }
    with pytest.raises(TypeError):
        attempts[call]()


def test_limits_are_checked_before_any_key_is_used() -> None:
    provider = VectorProvider()
    ring = ring_of("alpha", provider=provider)
    provider.calls.clear()
    wrong: list[Callable[[], object]] = [
        lambda: ring.encrypt(b"", context={}, aad=b"a" * 65537),
        lambda: ring.decrypt(b"", context={}, aad=b"a" * 65537),
        lambda: ring.encrypt(b"", context={f"n{i}": "v" for i in range(33)}),
        lambda: ring.encrypt(b"", context={"awsome": "v"}),
        lambda: ring.encrypt(b"", context={"n": "\ud800"}),
        lambda: ring.encrypt(b"", context={"n": "v"}, required=["m"]),
        lambda: ring.decrypt(b"", context={}, min_generation=2**32),
        lambda: Keyring([]),
    ]
    for call in wrong:
        with pytest.raises(errors.InvalidArgumentError):
            call()
    assert provider.calls == []


def test_a_key_stands_in_a_ring_once_and_for_its_purpose() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="twice"):
        ring_of("alpha", "alpha")
    with pytest.raises(TypeError):
        Keyring([VectorProvider().get_key("alpha")])  # type: ignore[list-item]  # pyright: ignore


def test_no_two_messages_share_anything_secret_or_random() -> None:
    ring = ring_of("alpha", "rho")
    messages = [ring.encrypt(b"same", context=CONTEXT, aad=b"same") for _ in range(300)]
    parts: list[list[object]] = [[], [], [], []]
    for message in messages:
        immutable, rows, _ = header_of(message)
        body = message[12 + int.from_bytes(message[8:12]) + 32 :]
        for found, part in zip(parts, (immutable[1], rows[0][2], rows[1][2], body[:24]), strict=True):
            found.append(part)
    for found in parts:
        assert len(set(found)) == len(messages)


def test_the_header_says_nothing_of_the_plaintext() -> None:
    ring = ring_of("alpha")
    headers = [inspect(ring.encrypt(bytes([n]) * 100, context=CONTEXT)) for n in range(20)]
    assert len({(h.context["tenant"], h.required, h.recipients, h.body_size) for h in headers}) == 1


def test_no_public_callable_takes_a_nonce() -> None:
    forbidden = {"nonce", "iv", "salt", "initialization_vector"}
    modules: list[ModuleType] = [anykms]
    seen = 0
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            members = [thing, *(m for n, m in introspection.getmembers(thing) if not n.startswith("_"))]
            for member in members:
                try:
                    parameters = introspection.signature(member).parameters
                except (TypeError, ValueError):
                    continue
                seen += 1
                assert not forbidden & set(parameters), (name, member)
    assert seen > 60


# Every byte


def regions(message: bytes) -> Iterator[tuple[str, range]]:
    """Which bytes of a message are what, found by re-encoding its parts."""
    pack = msgspec.msgpack.encode
    start, end = 12, 12 + int.from_bytes(message[8:12])
    immutable, rows, _ = header_of(message)
    yield "magic", range(0, 7)
    yield "version", range(7, 8)
    yield "length", range(8, 12)
    for what, value in (("stored", immutable[2]), ("required", immutable[3])):
        at = message.index(pack(value), start, end)
        yield what, range(at, at + len(pack(value)))
    for row in rows:
        at = message.index(pack(row[0]), start, end)
        yield "uri", range(at, at + len(pack(row[0])))
        at = message.index(pack(row[2]), at, end) + len(pack(row[2]))
        yield "origin", range(at, at + 1)
    yield "rest", range(0, len(message))


def expected_errors(damaged: bytes, region: str) -> tuple[type[KMSError], ...]:
    if region == "version":
        return (errors.UnsupportedVersionError,)
    if region in ("stored", "required") and well_formed(damaged):
        return (errors.ContextMismatchError,)
    if region == "origin" and well_formed(damaged):
        # Origin 1 is a claim that the policy refuses before anything is unwrapped; another key may still open.
        return (errors.PolicyError, errors.InvalidCiphertextError)
    if region == "uri" and well_formed(damaged):
        return (errors.KeyNotAllowedError, errors.InvalidCiphertextError)
    return (errors.InvalidCiphertextError,)


def well_formed(message: bytes) -> bool:
    try:
        inspect(message)
    except KMSError:
        return False
    return True


@pytest.mark.parametrize("recipients", [("alpha",), ("rho",), ("alpha", "beta")])
def test_every_changed_byte_is_refused_as_its_field_demands(recipients: tuple[str, ...]) -> None:
    context = {"tenant": "42", "region": "eu"}
    ring = ring_of(*recipients)
    message = ring.encrypt(b"4111", context=context, aad=b"orders/17", required=["region"])
    seen: dict[str, set[type[KMSError]]] = {}
    taken: set[int] = set()
    for region, positions in regions(message):
        for position in positions:
            if position in taken:
                continue
            taken.add(position)
            for mask in (0x01, 0x80, 0xFF):
                damaged = bytearray(message)
                damaged[position] ^= mask
                with pytest.raises(KMSError) as caught:
                    ring.decrypt(damaged, context=context, aad=b"orders/17")
                assert type(caught.value) in expected_errors(bytes(damaged), region), (region, position, mask)
                if type(caught.value) is errors.InvalidCiphertextError:
                    assert str(caught.value) == NOT_AUTHENTIC
                seen.setdefault(region, set()).add(type(caught.value))
    assert taken == set(range(len(message)))
    assert errors.ContextMismatchError in seen["stored"] & seen["required"]
    assert (errors.KeyNotAllowedError in seen["uri"]) == (len(recipients) == 1)


def test_every_prefix_and_every_short_mutation_of_the_start_is_refused() -> None:
    ring = ring_of("alpha")
    message = ring.encrypt(b"4111", context=CONTEXT)
    for length in range(len(message)):
        with pytest.raises(errors.InvalidCiphertextError):
            ring.decrypt(message[:length], context=CONTEXT)
    for byte, position in itertools.product(range(256), range(8)):
        damaged = message[:position] + bytes([byte]) + message[position + 1 :]
        if damaged != message:
            with pytest.raises(errors.InvalidCiphertextError):
                ring.decrypt(damaged, context=CONTEXT)


@settings(max_examples=400)
@given(st.binary(max_size=600), st.booleans())
def test_the_parser_takes_any_bytes_without_another_error(data: bytes, with_magic: bool) -> None:
    candidate = MAGIC + len(data).to_bytes(4) + data + bytes(32) if with_magic else data
    with contextlib.suppress(errors.InvalidCiphertextError):
        assert inspect(candidate).suite == 1


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=6), max_leaves=20)


@settings(max_examples=300)
@given(trees, st.integers(0, 2), st.data())
def test_a_header_with_any_value_anywhere_is_refused_or_reads_back_the_same(
    value: object, part: int, data: st.DataObject
) -> None:
    message = MESSAGE
    parts: list[Any] = list(header_of(message))
    inner: Any = parts[part]
    if isinstance(inner, list) and inner and data.draw(st.booleans()):
        places = cast("list[object]", inner)
        places[data.draw(st.integers(0, len(places) - 1))] = value
    else:
        parts[part] = value
    raw = msgspec.msgpack.encode(parts)
    candidate = message[:8] + len(raw).to_bytes(4) + raw + message[12 + int.from_bytes(message[8:12]) :]
    with pytest.raises(KMSError):
        ring_of("alpha").decrypt(candidate, context=CONTEXT, aad=b"x")


MESSAGE = ring_of("alpha").encrypt(b"4111", context=CONTEXT, aad=b"orders/17")


def test_a_huge_or_deep_header_is_refused_quickly_and_without_a_call() -> None:
    provider = VectorProvider()
    ring = ring_of("alpha", provider=provider)
    row = header_of(MESSAGE)[1][0]
    bombs = [
        msgspec.msgpack.encode([header_of(MESSAGE)[0], [row] * 500, 0]),
        b"\x93" + b"\xdd\xff\xff\xff\xff" * 3,
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 65536,
        b"\xc6\xff\xff\xff\xff" + bytes(100),
    ]
    provider.calls.clear()
    for raw in bombs:
        with pytest.raises(errors.InvalidCiphertextError):
            ring.decrypt(MAGIC + len(raw).to_bytes(4) + raw + bytes(200), context=CONTEXT)
    assert provider.calls == []


# Who is asked, and in which order


TRY_NEXT: list[KMSError] = [
    errors.UnavailableError("x"),
    errors.ThrottledError("x"),
    errors.DeadlineExceededError("x"),
    errors.PermissionDeniedError("x"),
    errors.UnauthenticatedError("x"),
    errors.QuotaExceededError("x"),
    errors.KeyDisabledError("x"),
    errors.KeyPendingDestructionError("x"),
    errors.KeyDestroyedError("x"),
    errors.KeyNotFoundError("x"),
]
ENDS: list[KMSError] = [
    errors.InvalidCiphertextError("x"),
    errors.IntegrityError("x"),
    errors.KeyUsageError("x"),
    errors.ProviderError("x"),
    errors.KeystoreError("x"),
]


@pytest.mark.parametrize("error", TRY_NEXT, ids=lambda error: type(error).__name__)
def test_the_next_key_is_tried_when_this_one_cannot_be_used_now(error: KMSError) -> None:
    provider = Scripted({"beta": error})
    ring = ring_of("beta", "alpha", provider=provider)
    message = ring_of("alpha", "beta").encrypt(b"x", context=CONTEXT)
    assert ring.decrypt_detailed(message, context=CONTEXT).key.name == "alpha"
    assert provider.asked == ["beta", "alpha"]


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
def test_any_other_failure_ends_the_operation(error: KMSError) -> None:
    provider = Scripted({"beta": error})
    message = ring_of("alpha", "beta").encrypt(b"x", context=CONTEXT)
    with pytest.raises(type(error)):
        ring_of("beta", "alpha", provider=provider).decrypt(message, context=CONTEXT)
    assert provider.asked == ["beta"]


def test_when_no_key_can_be_used_all_causes_are_told_and_each_key_was_asked_once() -> None:
    provider = Scripted({"alpha": errors.KeyDisabledError("off"), "beta": errors.UnavailableError("down")})
    ring = ring_of("beta", "alpha", provider=provider)
    message = ring_of("alpha", "beta", "gamma").encrypt(b"x", context=CONTEXT)
    with pytest.raises(errors.UnavailableError) as caught:
        ring.decrypt(message, context=CONTEXT)
    assert provider.asked == ["beta", "alpha"]
    assert "KeyDisabledError: off" in "".join(caught.value.__notes__)


def test_the_order_of_the_ring_decides_never_that_of_the_message() -> None:
    for order in itertools.permutations(("alpha", "beta", "gamma")):
        message = Recipe(order, data_key=b"d" * 32).build()
        provider = Scripted()
        found = ring_of("beta", "gamma", "alpha", provider=provider).decrypt_detailed(
            message, context=CONTEXT, aad=b"orders/17"
        )
        assert (found.key.name, provider.asked) == ("beta", ["beta"])


def test_authenticated_keys_go_first_when_the_policy_lets_the_others_in() -> None:
    provider = Scripted()
    lenient = Policy(require_sender_authentication=False)
    message = ring_of("sigma", "alpha").encrypt(b"x", context=CONTEXT)
    ring = ring_of("sigma", "alpha", provider=provider, policy=lenient)
    assert ring.decrypt_detailed(message, context=CONTEXT).key.name == "alpha"
    assert provider.asked == ["alpha"]


def test_one_deadline_covers_all_attempts() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    class Slow(Scripted):
        def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
            now[0] += 20
            return super().unwrap(info, wrapped, version, context)

    names = ("alpha", "beta", "gamma")
    provider = Slow({name: errors.UnavailableError("down") for name in names})
    retry = RetryPolicy(max_attempts=1, deadline=30, sleep=sleep, clock=lambda: now[0])
    client = KMSClient(provider, retry=retry)
    ring = Keyring([client.key(name) for name in names])
    message = ring_of(*names).encrypt(b"x", context=CONTEXT)
    with pytest.raises(errors.UnavailableError):
        ring.decrypt(message, context=CONTEXT)
    assert provider.asked == ["alpha", "beta"]


def test_encrypting_fails_if_any_key_cannot_wrap() -> None:
    provider = Scripted({"beta": errors.KeyDisabledError("off")})
    with pytest.raises(errors.KeyDisabledError):
        ring_of("alpha", "beta", provider=provider).encrypt(b"x", context=CONTEXT)


def test_a_failing_call_never_yields_anything_but_an_error() -> None:
    message = ring_of("alpha").encrypt(b"plain", context=CONTEXT)
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KMSError)]
    assert len(tree) > 30
    for kind in tree:
        provider = Scripted({"alpha": kind("x")})
        ring = ring_of("alpha", provider=provider)
        with pytest.raises(KMSError):
            ring.decrypt(message, context=CONTEXT)
        with pytest.raises(KMSError):
            ring.encrypt(b"plain", context=CONTEXT)


@pytest.mark.parametrize("stray", [RuntimeError("boom"), ValueError("v"), TypeError("t"), OSError("o")])
def test_no_foreign_exception_leaves(stray: Exception) -> None:
    class Broken(VectorProvider):
        def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
            raise stray

        def describe_key(self, info: KeyInfo) -> KeyStatus:
            raise stray

    client = KMSClient(Broken(), retry=ONCE)
    message = ring_of("alpha").encrypt(b"x", context=CONTEXT)
    with pytest.raises(errors.ProviderError) as caught:
        Keyring([client.key("alpha")]).decrypt(message, context=CONTEXT)
    assert caught.value.__cause__ is stray
    assert "boom" not in str(caught.value)
    with pytest.raises(errors.ProviderError):
        client.describe_key(client.get_key("alpha"))


def test_an_unknown_recipient_costs_no_call_and_its_name_is_escaped() -> None:
    provider = VectorProvider()
    ring = ring_of("alpha", provider=provider)
    provider.calls.clear()
    hostile = "acmekms://attacker.example/key"
    message = Recipe(entries=lambda rows: [[hostile, *rows[0][1:]]]).build()
    with pytest.raises(errors.KeyNotAllowedError) as caught:
        ring.decrypt(message, context=CONTEXT, aad=b"orders/17")
    assert provider.calls == []
    assert repr(hostile) in str(caught.value)


# Forgery with a public key


def forged(**changes: object) -> bytes:
    """A whole message by an outsider who knows sigma's RSA public key, and no secret."""
    return Recipe(("sigma",), plaintext=b"pay the attacker", **changes).build()  # type: ignore[arg-type]


def test_an_outsider_with_an_rsa_public_key_makes_nothing_a_ring_accepts() -> None:
    for ring in (ring_of("sigma"), ring_of("alpha", "sigma"), ring_of("sigma", "rho")):
        with pytest.raises(errors.PolicyError, match="require_sender_authentication"):
            ring.decrypt(forged(), context=CONTEXT, aad=b"orders/17")


def test_without_that_rule_the_forgery_opens_and_is_called_unauthenticated() -> None:
    lenient = Policy(require_sender_authentication=False)
    found = ring_of("sigma", policy=lenient).decrypt_detailed(forged(), context=CONTEXT, aad=b"orders/17")
    assert found.plaintext == b"pay the attacker"
    assert found.sender_authenticated is False


def test_a_forgery_for_a_key_with_a_sender_key_needs_that_key() -> None:
    def without_sender(rows: list[list[object]]) -> object:
        return [[rows[0][0], "RSA-OAEP-256+A256GCM", *rows[0][2:5], b""]]

    stripped = Recipe(("rho",), entries=without_sender).build()
    with pytest.raises(errors.PolicyError):
        ring_of("rho").decrypt(stripped, context=CONTEXT, aad=b"orders/17")
    lenient = Policy(require_sender_authentication=False)
    found = ring_of("rho", policy=lenient).decrypt_detailed(stripped, context=CONTEXT, aad=b"orders/17")
    assert found.sender_authenticated is False


def test_the_algorithm_of_a_recipient_cannot_be_chosen_by_the_message() -> None:
    provider = VectorProvider()
    lenient = Policy(require_sender_authentication=False)
    ring = ring_of("alpha", provider=provider, policy=lenient)
    rsa_row = header_of(forged())[1][0]
    provider.calls.clear()
    claimed = Recipe(entries=lambda rows: [[rows[0][0], *rsa_row[1:]]]).build()
    with pytest.raises(errors.InvalidCiphertextError):
        ring.decrypt(claimed, context=CONTEXT, aad=b"orders/17")
    assert provider.calls == []


def test_a_sender_key_that_is_not_the_pinned_one_is_an_integrity_error() -> None:
    class Swapped(VectorProvider):
        def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
            from cryptography.hazmat.primitives.asymmetric import ec
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

            other = ec.generate_private_key(ec.SECP256R1()).public_key()
            return other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    message = ring_of("rho").encrypt(b"x", context=CONTEXT)
    with pytest.raises(errors.IntegrityError, match="pins"):
        ring_of("rho", provider=Swapped()).decrypt(message, context=CONTEXT)


# Policy and generation


def test_policy_rules_are_told_apart_and_cost_no_call() -> None:
    provider = VectorProvider()
    client = KMSClient(provider, retry=ONCE)
    key = client.key("alpha")
    message = Recipe(created=1_000_000).build()
    rules = [
        (Policy(max_age=timedelta(days=1)), 1_000_000 + 86_401.0, "max_age"),
        (Policy(max_age=timedelta(days=1)), 1_000_000 - 301.0, "future"),
        (Policy(suites=frozenset()), 1_000_000.0, "suites"),
    ]
    provider.calls.clear()
    for policy, now, text in rules:
        with pytest.raises(errors.PolicyError, match=text):
            Keyring([key], policy=policy, clock=partial(float, now)).decrypt(
                message, context=CONTEXT, aad=b"orders/17"
            )
    assert provider.calls == []
    young = Keyring([key], policy=Policy(max_age=timedelta(days=1)), clock=lambda: 1_000_000 + 86_399.0)
    assert young.decrypt(message, context=CONTEXT, aad=b"orders/17")


def test_providers_and_recipients_are_limited_by_policy() -> None:
    with pytest.raises(errors.PolicyError, match="providers"):
        ring_of("alpha", policy=Policy(providers=frozenset({"awskms"})))
    message = ring_of("alpha", "beta").encrypt(b"x", context=CONTEXT)
    with pytest.raises(errors.PolicyError, match="max_recipients"):
        ring_of("alpha", policy=Policy(max_recipients=1)).decrypt(message, context=CONTEXT)


def test_an_older_generation_than_demanded_is_stale() -> None:
    message = Recipe(generation=3).build()
    ring = ring_of("alpha")
    assert ring.decrypt(message, context=CONTEXT, aad=b"orders/17", min_generation=3)
    with pytest.raises(errors.StaleMessageError):
        ring.decrypt(message, context=CONTEXT, aad=b"orders/17", min_generation=4)


# What may be shown


def test_no_plaintext_in_a_repr_and_no_value_in_a_context_error() -> None:
    ring = ring_of("alpha")
    message = ring.encrypt(b"4111 1111", context={"tenant": "secret-tenant"})
    assert "4111" not in repr(ring.decrypt_detailed(message, context={"tenant": "secret-tenant"}))
    with pytest.raises(errors.ContextMismatchError) as caught:
        ring.decrypt(message, context={"tenant": "other-tenant", "\x1b[31m": "x"})
    assert "secret-tenant" not in str(caught.value)
    assert "other-tenant" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_the_generic_wrap_and_the_keyring_do_not_open_each_others() -> None:
    client = KMSClient(VectorProvider(), retry=ONCE)
    key: Key = client.key("alpha")
    wrapped = key.wrap(b"k" * 32, context=CONTEXT)
    assert key.unwrap(wrapped, context=CONTEXT) == b"k" * 32
    row = msgspec.msgpack.decode(wrapped[8:])
    planted = Recipe(entries=lambda _: [row], data_key=b"k" * 32).build()
    with pytest.raises(errors.InvalidCiphertextError):
        ring_of("alpha").decrypt(planted, context=CONTEXT, aad=b"orders/17")
    taken = wrapped[:8] + msgspec.msgpack.encode(header_of(MESSAGE)[1][0])
    with pytest.raises(errors.InvalidCiphertextError):
        key.unwrap(taken, context=CONTEXT)
    assert KeyURI.parse(str(row[0])).version == "1"
