"""Rewrap and reencrypt: what changes, what does not, and that neither makes a forgery look honest."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykms import KeyInfo, Keyring, KMSClient, Policy, Reencrypted, RetryPolicy, Rewrapped, errors, inspect
from anykms.envelope.message import CHUNK, Message
from anykms.provider import WrapContext, Wrapped
from anykms_contract.vectors import VectorProvider
from anykms_contract.vectors.generate import Recipe

CONTEXT = {"tenant": "42"}
LENIENT = Policy(require_sender_authentication=False)
AAD = b"orders/17"


def ring_of(*names: str, provider: VectorProvider | None = None, policy: Policy | None = None) -> Keyring:
    client = KMSClient(provider or VectorProvider(), retry=RetryPolicy(max_attempts=1))
    return Keyring([client.key(name) for name in names], policy=policy)


def body_of(message: bytes) -> bytes:
    return bytes(Message(message).body)


def names(uris: Sequence[object]) -> list[str]:
    return [str(uri).rsplit("/", 1)[1] for uri in uris]


def rows_of(message: bytes) -> list[list[object]]:
    header = message[12 : 12 + int.from_bytes(message[8:12])]
    rows: list[list[object]] = msgspec.msgpack.decode(header)[1]
    return rows


# Rewrap


@settings(max_examples=40)
@given(
    st.sampled_from([0, 1, CHUNK, 40000]),
    st.sampled_from([("alpha",), ("rho",), ("alpha", "beta")]),
    st.sampled_from([("beta",), ("gamma", "rho"), ("alpha",), ("sigma", "beta")]),
    st.integers(0, 2**32 - 2),
)
def test_other_recipients_open_the_same_body(
    size: int, before: tuple[str, ...], after: tuple[str, ...], generation: int
) -> None:
    message = Recipe(before, plaintext=b"p" * size, generation=generation).build()
    result = ring_of(*before).rewrap(message, to=ring_of(*after))
    assert body_of(result.message) == body_of(message)
    assert result.operation == "rewrap"
    assert result.generation == inspect(result.message).generation == generation + 1
    assert result.record_id == inspect(message).record_id
    assert names(result.recipients) == list(after)
    assert names(result.removed) == [name for name in before if name not in after]
    assert result.sender_authenticated
    reader = ring_of(*[name for name in after if name != "sigma"])
    found = reader.decrypt_detailed(result.message, context=CONTEXT, aad=AAD, min_generation=generation + 1)
    assert found.plaintext == b"p" * size
    assert found.sender_authenticated
    for name in set(before) - set(after):
        with pytest.raises(errors.KeyNotAllowedError):
            ring_of(name).decrypt(result.message, context=CONTEXT, aad=AAD)


def test_the_body_is_neither_decrypted_nor_checked() -> None:
    message = bytearray(Recipe().build())
    message[-1] ^= 1
    result = ring_of("alpha").rewrap(message, to=ring_of("beta"))
    assert body_of(result.message) == body_of(bytes(message))
    with pytest.raises(errors.InvalidCiphertextError):
        ring_of("beta").decrypt(result.message, context=CONTEXT, aad=AAD)


def test_keys_can_be_named_without_a_ring_and_not_none_or_too_many() -> None:
    client = KMSClient(VectorProvider())
    message = Recipe().build()
    result = ring_of("alpha").rewrap(message, to=[client.key("beta")])
    assert ring_of("beta").decrypt(result.message, context=CONTEXT, aad=AAD)
    with pytest.raises(errors.InvalidArgumentError):
        ring_of("alpha").rewrap(message, to=[])
    with pytest.raises(TypeError):
        ring_of("alpha").rewrap("text", to=ring_of("beta"))  # type: ignore[arg-type]  # pyright: ignore


def test_required_values_come_from_the_caller_and_stored_ones_from_the_header() -> None:
    context = {"tenant": "42", "region": "eu"}
    ring, target, provider = ring_of("alpha"), ring_of("beta"), VectorProvider()
    message = ring.encrypt(b"x", context=context, required=["region"])
    counting = ring_of("alpha", provider=provider)
    provider.calls.clear()
    for given_context in (
        None,
        {},
        {"tenant": "42"},
        {"region": "us", "tenant": "43"},
        {**context, "x": "y"},
    ):
        with pytest.raises(errors.ContextMismatchError):
            counting.rewrap(message, to=target, context=given_context)
    assert provider.calls == []
    for given_context in ({"region": "eu"}, context):
        result = ring.rewrap(message, to=target, context=given_context)
        assert target.decrypt(result.message, context=context) == b"x"
    with pytest.raises(errors.InvalidCiphertextError):
        ring.rewrap(message, to=target, context={"region": "us"})


def test_the_header_is_proven_before_anything_is_wrapped() -> None:
    provider = VectorProvider()
    target = ring_of("beta", provider=provider)
    message = Recipe().build()
    end = 12 + int.from_bytes(message[8:12]) + 32
    provider.calls.clear()
    for position in range(end):
        damaged = bytearray(message)
        damaged[position] ^= 1
        with pytest.raises(errors.KMSError):
            ring_of("alpha").rewrap(damaged, to=target)
    for length in range(end):
        with pytest.raises(errors.InvalidCiphertextError):
            ring_of("alpha").rewrap(message[:length], to=target)
    assert provider.calls == []


def test_the_last_generation_can_only_be_reencrypted() -> None:
    provider = VectorProvider()
    ring = ring_of("alpha", provider=provider)
    message = Recipe(generation=2**32 - 1).build()
    provider.calls.clear()
    with pytest.raises(errors.InvalidArgumentError, match="reencrypt"):
        ring.rewrap(message, to=ring_of("beta"))
    assert provider.calls == []
    result = ring.reencrypt(message, to=ring_of("beta"), context=CONTEXT, aad=AAD)
    assert (result.generation, inspect(result.message).generation) == (0, 0)


def test_an_old_header_over_the_same_body_is_stale() -> None:
    ring = ring_of("alpha")
    message = Recipe().build()
    result = ring.rewrap(message, to=ring)
    rolled_back = message
    assert ring.decrypt(rolled_back, context=CONTEXT, aad=AAD)
    for call in (
        lambda: ring.decrypt(rolled_back, context=CONTEXT, aad=AAD, min_generation=result.generation),
        lambda: ring.rewrap(rolled_back, to=ring, min_generation=result.generation),
        lambda: ring.reencrypt(
            rolled_back, to=ring, context=CONTEXT, aad=AAD, min_generation=result.generation
        ),
    ):
        with pytest.raises(errors.StaleMessageError):
            call()


def test_if_a_new_recipient_cannot_wrap_nothing_is_returned() -> None:
    class Off(VectorProvider):
        def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
            raise errors.KeyDisabledError("off")

    with pytest.raises(errors.KeyDisabledError):
        ring_of("alpha").rewrap(Recipe().build(), to=ring_of("beta", provider=Off()))


def test_the_result_says_what_a_rewrap_does_not_do() -> None:
    result = ring_of("alpha", "beta").rewrap(Recipe(("alpha", "beta")).build(), to=ring_of("beta"))
    said = result.not_achieved
    assert "alpha" in said
    assert "reencrypt" in said
    assert "read" in said
    assert "replace" in said
    assert result.message.hex() not in repr(result)


def test_what_the_result_says_is_true_a_removed_recipient_still_replaces_the_body() -> None:
    """Not a defence: the documented limit of rewrap, and why reencrypt is there."""
    kept = Recipe(("alpha",), plaintext=b"honest")
    result = ring_of("alpha").rewrap(kept.build(), to=ring_of("beta"))
    forged_body = Recipe(
        data_key=kept.data_key, record_id=kept.record_id, plaintext=b"forged by the removed one"
    ).build()
    head = result.message[: len(result.message) - len(body_of(result.message))]
    swapped = head + body_of(forged_body)
    assert ring_of("beta").decrypt(swapped, context=CONTEXT, aad=AAD).startswith(b"forged")
    renewed = ring_of("alpha").reencrypt(kept.build(), to=ring_of("beta"), context=CONTEXT, aad=AAD)
    head = renewed.message[: len(renewed.message) - len(body_of(renewed.message))]
    with pytest.raises(errors.InvalidCiphertextError):
        ring_of("beta").decrypt(head + body_of(forged_body), context=CONTEXT, aad=AAD)


# Laundering


def forged() -> bytes:
    """By an outsider who knows sigma's RSA public key."""
    return Recipe(("sigma",), plaintext=b"pay the attacker").build()


@pytest.mark.parametrize("way", ["rewrap", "reencrypt"])
def test_a_strict_ring_does_not_touch_what_proves_no_sender(way: str) -> None:
    provider = VectorProvider()
    ring = ring_of("alpha", "sigma", provider=provider)
    provider.calls.clear()
    calls: dict[str, Callable[[], object]] = {
        "rewrap": lambda: ring.rewrap(forged(), to=ring_of("alpha")),
        "reencrypt": lambda: ring.reencrypt(forged(), to=ring_of("alpha"), context=CONTEXT, aad=AAD),
    }
    with pytest.raises(errors.PolicyError):
        calls[way]()
    assert provider.calls == []


@pytest.mark.parametrize("way", ["rewrap", "reencrypt", "rewrap twice"])
def test_a_forgery_stays_a_forgery_under_an_authenticated_key(way: str) -> None:
    lenient = ring_of("sigma", policy=LENIENT)
    laundered: Rewrapped | Reencrypted
    if way == "reencrypt":
        laundered = lenient.reencrypt(forged(), to=ring_of("alpha"), context=CONTEXT, aad=AAD)
    else:
        laundered = lenient.rewrap(forged(), to=ring_of("alpha"))
    message = laundered.message
    assert not laundered.sender_authenticated
    if way == "rewrap twice":
        message = ring_of("alpha", policy=LENIENT).rewrap(message, to=ring_of("alpha", "rho")).message
    with pytest.raises(errors.PolicyError):
        ring_of("alpha", "rho").decrypt(message, context=CONTEXT, aad=AAD)
    found = ring_of("alpha", policy=LENIENT).decrypt_detailed(message, context=CONTEXT, aad=AAD)
    assert found.plaintext == b"pay the attacker"
    assert not found.sender_authenticated


def test_the_forger_cannot_reset_the_flag_although_he_knows_the_data_key() -> None:
    recipe = Recipe(("sigma",), plaintext=b"pay the attacker")
    message = ring_of("sigma", policy=LENIENT).rewrap(recipe.build(), to=ring_of("alpha")).message
    row = rows_of(message)[0]
    assert row[3] == 1
    reset = Recipe(
        plaintext=b"pay the attacker",
        data_key=recipe.data_key,
        record_id=recipe.record_id,
        generation=1,
        entries=lambda _: [[*row[:3], 0, *row[4:]]],
    ).build()
    for policy in (Policy(), LENIENT):
        with pytest.raises(errors.InvalidCiphertextError):
            ring_of("alpha", policy=policy).decrypt(reset, context=CONTEXT, aad=AAD)


def test_an_honest_message_is_accepted_after_a_rewrap_by_a_lenient_ring() -> None:
    honest = Recipe(("sigma", "beta")).build()
    message = ring_of("sigma", "beta", policy=LENIENT).rewrap(honest, to=ring_of("alpha")).message
    assert ring_of("alpha").decrypt_detailed(message, context=CONTEXT, aad=AAD).sender_authenticated


# Records


def test_a_record_is_rewrapped_and_its_values_stay() -> None:
    ring = ring_of("alpha")
    record = ring.record(context=CONTEXT)
    value = record.seal(b"x", aad=b"17")
    result = ring.rewrap(record.to_bytes(), to=ring_of("rho"))
    assert body_of(result.message) == b""
    opened = ring_of("rho").open_record(result.message, context=CONTEXT, record_id=record.record_id)
    assert opened.open(value, aad=b"17") == b"x"
    assert record.open(opened.seal(b"y", aad=b"18"), aad=b"18") == b"y"


# Reencrypt


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3_000_000])
def test_reencrypt_keeps_plaintext_context_and_aad_under_a_new_data_key(size: int) -> None:
    context = {"tenant": "42", "region": "eu"}
    plain = os.urandom(size)
    message = ring_of("alpha").encrypt(plain, context=context, aad=AAD, required=["region"])
    whole = ring_of("alpha").reencrypt(message, to=ring_of("beta"), context=context, aad=AAD)
    sink = io.BytesIO()
    streamed = ring_of("alpha").reencrypt_stream(
        io.BytesIO(message), sink, to=ring_of("beta"), context=context, aad=AAD
    )
    for result, made in ((whole, whole.message), (streamed, sink.getvalue())):
        assert result.operation == "reencrypt"
        assert result.record_id == inspect(made).record_id != inspect(message).record_id
        assert inspect(made).required == ("region",)
        assert names(result.recipients) == ["beta"]
        assert names(result.removed) == ["alpha"]
        assert "backups" in result.not_achieved
        assert ring_of("beta").decrypt(made, context=context, aad=AAD) == plain
    assert streamed.message == b""


def test_reencrypt_makes_no_message_of_one_that_is_damaged_or_cut() -> None:
    message = Recipe(plaintext=bytes(3_000_000)).build()
    for damaged in (message[:-1], message[:-100], message[:200_000], message[:-1] + b"\0"):
        with pytest.raises(errors.InvalidCiphertextError):
            ring_of("alpha").reencrypt(damaged, to=ring_of("beta"), context=CONTEXT, aad=AAD)
        sink = io.BytesIO()
        with pytest.raises(errors.InvalidCiphertextError):
            ring_of("alpha").reencrypt_stream(
                io.BytesIO(damaged), sink, to=ring_of("beta"), context=CONTEXT, aad=AAD
            )
        with pytest.raises(errors.InvalidCiphertextError):
            ring_of("beta").decrypt(sink.getvalue(), context=CONTEXT, aad=AAD)


# Files


def test_a_stream_is_rewrapped_with_its_body_copied() -> None:
    message = Recipe(plaintext=bytes(3_000_000)).build()
    sink = io.BytesIO()
    result = ring_of("alpha").rewrap_stream(io.BytesIO(message), sink, to=ring_of("beta"))
    assert result.generation == 1
    assert result.message == b""
    assert body_of(sink.getvalue()) == body_of(message)
    assert ring_of("beta").decrypt(sink.getvalue(), context=CONTEXT, aad=AAD) == bytes(3_000_000)


@pytest.mark.parametrize("way", ["rewrap", "reencrypt"])
def test_a_file_is_replaced_in_place_with_its_mode(tmp_path: Path, way: str) -> None:
    path, link = tmp_path / "secret", tmp_path / "link"
    path.write_bytes(Recipe(plaintext=bytes(100_000)).build())
    path.chmod(0o640)
    link.symlink_to(path)
    ring, target = ring_of("alpha"), ring_of("beta")
    if way == "rewrap":
        assert ring.rewrap_file(link, to=target).generation == 1
    else:
        assert ring.reencrypt_file(link, to=target, context=CONTEXT, aad=AAD).generation == 0
    assert target.decrypt(path.read_bytes(), context=CONTEXT, aad=AAD) == bytes(100_000)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link", "secret"]


def test_a_file_that_cannot_be_replaced_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    message = Recipe(plaintext=bytes(3_000_000)).build()
    path.write_bytes(message)
    with pytest.raises(errors.KeyNotAllowedError):
        ring_of("beta").rewrap_file(path, to=ring_of("alpha"))
    path.write_bytes(message[:-1])
    with pytest.raises(errors.TruncatedMessageError):
        ring_of("alpha").reencrypt_file(path, to=ring_of("beta"), context=CONTEXT, aad=AAD)
    assert path.read_bytes() == message[:-1]
    assert os.listdir(tmp_path) == ["secret"]
    with pytest.raises(FileNotFoundError):
        ring_of("alpha").rewrap_file(tmp_path / "none", to=ring_of("beta"))


def test_a_file_that_changes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(Recipe().build())

    class Meddling(VectorProvider):
        def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
            path.write_bytes(b"written by another")
            return super().wrap(info, data_key, context)

    with pytest.raises(errors.ConflictError):
        ring_of("alpha").rewrap_file(path, to=ring_of("beta", provider=Meddling()))
    assert path.read_bytes() == b"written by another"
    assert os.listdir(tmp_path) == ["secret"]
