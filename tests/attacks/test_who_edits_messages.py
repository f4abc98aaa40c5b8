"""Whoever can edit, move, plant or roll back messages and records where they are stored."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from anykms import Keyring, KMSClient, KMSError, Policy, RetryPolicy, errors
from anykms_contract.vectors import VectorProvider
from anykms_contract.vectors.generate import Recipe

CONTEXT = {"tenant": "42"}
AAD = b"orders/17"
LENIENT = Policy(require_sender_authentication=False)


class Bench:
    """The fixed keys of the vectors: alpha and beta symmetric, rho RSA with a sender key, sigma RSA alone."""

    def __init__(self) -> None:
        self.provider = VectorProvider()
        self.client = KMSClient(self.provider, retry=RetryPolicy(max_attempts=1))

    def ring(self, *names: str, policy: Policy | None = None) -> Keyring:
        return Keyring([self.client.key(name) for name in names], policy=policy)

    def refused(
        self, kind: type[KMSError], message: bytes, *names: str, calls: int | None = None, **options: Any
    ) -> None:
        ring = self.ring(*names)
        before = len(self.provider.calls)
        with pytest.raises(kind) as caught:
            ring.decrypt(
                message, context=options.pop("context", CONTEXT), aad=options.pop("aad", AAD), **options
            )
        assert type(caught.value) is kind
        if calls is not None:
            assert len(self.provider.calls) - before == calls


@pytest.fixture
def bench() -> Bench:
    return Bench()


def header_end(message: bytes) -> int:
    return 12 + int.from_bytes(message[8:12])


def test_the_bench_opens_what_is_honest(bench: Bench) -> None:
    message = bench.ring("alpha").encrypt(b"paid", context=CONTEXT, aad=AAD)
    assert bench.ring("alpha").decrypt(message, context=CONTEXT, aad=AAD) == b"paid"
    assert bench.ring("alpha").decrypt(Recipe().build(), context=CONTEXT, aad=AAD)


@pytest.mark.parametrize("cut", [0, 7, 11, 12, 60, -57, -17, -1])
def test_truncation(bench: Bench, cut: int) -> None:
    bench.refused(errors.InvalidCiphertextError, Recipe().build()[:cut], "alpha")


def test_extension(bench: Bench) -> None:
    bench.refused(errors.InvalidCiphertextError, Recipe().build() + b"\0", "alpha")


def test_two_messages_in_a_row(bench: Bench) -> None:
    bench.refused(errors.InvalidCiphertextError, Recipe().build() * 2, "alpha")


def test_the_body_of_another_message(bench: Bench) -> None:
    one, other = Recipe().build(), Recipe(plaintext=b"4222 2222 2222 2222").build()
    bench.refused(
        errors.InvalidCiphertextError, one[: header_end(one) + 32] + other[header_end(other) + 32 :], "alpha"
    )


def test_the_header_of_another_message_for_the_same_keys(bench: Bench) -> None:
    one, other = Recipe().build(), Recipe().build()
    bench.refused(
        errors.InvalidCiphertextError, other[: header_end(other) + 32] + one[header_end(one) + 32 :], "alpha"
    )


def test_a_row_moved_to_another_place(bench: Bench) -> None:
    bench.refused(errors.InvalidCiphertextError, Recipe().build(), "alpha", aad=b"orders/18")


def test_a_row_moved_to_another_tenant(bench: Bench) -> None:
    bench.refused(errors.ContextMismatchError, Recipe().build(), "alpha", context={"tenant": "43"}, calls=0)


def test_a_context_rewritten_in_the_message(bench: Bench) -> None:
    def other_tenant(whole: list[Any]) -> object:
        return [[*whole[0][:2], [["tenant", "43"]], *whole[0][3:]], *whole[1:]]

    bench.refused(
        errors.InvalidCiphertextError, Recipe(header=other_tenant).build(), "alpha", context={"tenant": "43"}
    )


def test_a_context_left_out_by_the_reader(bench: Bench) -> None:
    bench.refused(errors.ContextMismatchError, Recipe().build(), "alpha", context={}, calls=0)


def test_another_suite(bench: Bench) -> None:
    for suite in (0, 2, 3, 255):
        bench.refused(errors.InvalidCiphertextError, Recipe(suite=suite).build(), "alpha", calls=0)


def test_an_older_format_version(bench: Bench) -> None:
    good = Recipe().build()
    for version in (0, 2, 255):
        bench.refused(
            errors.UnsupportedVersionError, good[:7] + bytes([version]) + good[8:], "alpha", calls=0
        )


def test_a_recipient_that_the_reader_does_not_hold(bench: Bench) -> None:
    bench.refused(errors.KeyNotAllowedError, Recipe(("beta",)).build(), "alpha", calls=0)


@pytest.mark.parametrize(
    "uri",
    [
        "awskms:///arn:aws:kms:eu-west-1:999999999999:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "azurekms://attacker.example/orders",
        "gcpkms://projects/attacker/locations/eu/keyRings/r/cryptoKeys/k",
        "acmekms://169.254.169.254/latest",
        "local://aaaaaaaaaaaaaaaaaaaaaaaaaa/alpha",
    ],
)
def test_an_endpoint_or_key_injected_by_the_message(bench: Bench, uri: str) -> None:
    """A name in a message is compared, never connected to (GHSA-jgf3-f6rg-8x3h)."""
    hostile = Recipe(entries=lambda rows: [[uri, *rows[0][1:]]]).build()
    bench.refused(errors.KeyNotAllowedError, hostile, "alpha", calls=0)


@pytest.mark.parametrize(
    "uri",
    [
        "https://attacker.example/keys/k",
        "local:///etc/passwd",
        "awskms://user@attacker.example/x",
        "azurekms://v.vault.azure.net:444/orders",
        "local://../alpha",
        "",
    ],
)
def test_a_recipient_that_is_no_canonical_uri(bench: Bench, uri: str) -> None:
    hostile = Recipe(entries=lambda rows: [[uri, *rows[0][1:]]]).build()
    bench.refused(errors.InvalidCiphertextError, hostile, "alpha", calls=0)


def test_one_key_named_as_many_recipients(bench: Bench) -> None:
    doubled = Recipe(entries=lambda rows: rows * 32).build()
    bench.refused(errors.InvalidCiphertextError, doubled, "alpha", calls=0)


def test_a_second_recipient_with_another_data_key(bench: Bench) -> None:
    """CVE-2020-8897: two readers must never see two plaintexts of one message."""
    salamander = Recipe(
        ("alpha", "beta"), wrapped_key=lambda name, key: key if name == "alpha" else bytes(32)
    ).build()
    assert bench.ring("alpha").decrypt(salamander, context=CONTEXT, aad=AAD)
    bench.refused(errors.InvalidCiphertextError, salamander, "beta")


def test_a_recipient_removed_added_or_moved(bench: Bench) -> None:
    def header(change: Callable[[list[Any]], list[Any]]) -> bytes:
        message = Recipe(("alpha", "beta")).build()
        end = header_end(message)
        whole = msgspec.msgpack.decode(message[12:end])
        raw = msgspec.msgpack.encode([whole[0], change(whole[1]), whole[2]])
        return message[:8] + len(raw).to_bytes(4) + raw + message[end:]

    changes: list[Callable[[list[Any]], list[Any]]] = [
        lambda rows: rows[:1],
        lambda rows: rows[::-1],
        lambda rows: [*rows, ["local://anykmsvectorsanykmsvectors/gamma/1", *rows[0][1:]]],
    ]
    for change in changes:
        bench.refused(errors.InvalidCiphertextError, header(change), "alpha")


def test_an_old_generation_put_back(bench: Bench) -> None:
    bench.refused(errors.StaleMessageError, Recipe(generation=3).build(), "alpha", calls=0, min_generation=4)


def test_a_generation_edited(bench: Bench) -> None:
    message = Recipe(generation=5).build()
    position = header_end(message) - 1
    assert message[position] == 5
    bench.refused(
        errors.InvalidCiphertextError, message[:position] + b"\x09" + message[position + 1 :], "alpha"
    )


# Forgery with a public key


def test_a_whole_message_made_with_an_rsa_public_key(bench: Bench) -> None:
    forged = Recipe(("sigma",), plaintext=b"pay the attacker").build()
    bench.refused(errors.PolicyError, forged, "sigma", calls=0)
    bench.refused(errors.PolicyError, forged, "alpha", "sigma", calls=0)


def test_a_forgery_without_the_sender_signature(bench: Bench) -> None:
    stripped = Recipe(
        ("rho",), entries=lambda rows: [[rows[0][0], "RSA-OAEP-256+A256GCM", *rows[0][2:5], b""]]
    ).build()
    bench.refused(errors.PolicyError, stripped, "rho", calls=0)


def test_a_forgery_with_another_senders_signature(bench: Bench) -> None:
    other = Recipe(("rho",), sender_input=lambda digest: bytes(32)).build()
    bench.refused(errors.InvalidCiphertextError, other, "rho")
    assert "unwrap" not in bench.provider.calls


def test_a_sender_signature_taken_from_an_honest_message(bench: Bench) -> None:
    good = Recipe(("rho",)).build()
    row = msgspec.msgpack.decode(good[12 : header_end(good)])[1][0]
    planted = Recipe(("rho",), entries=lambda rows: [[*rows[0][:5], row[5]]]).build()
    bench.refused(errors.InvalidCiphertextError, planted, "rho")


def test_a_wrapped_key_moved_into_a_message_of_ones_own(bench: Bench) -> None:
    """Whoever once saw a data key has its wrap for ever; it must not open another header."""
    key = bytes(range(32))
    old = Recipe(data_key=key).build()
    row = msgspec.msgpack.decode(old[12 : header_end(old)])[1][0]
    forged = Recipe(data_key=key, plaintext=b"pay the attacker", entries=lambda rows: [row]).build()
    bench.refused(errors.InvalidCiphertextError, forged, "alpha")


def test_laundering_a_forgery_by_rewrap(bench: Bench) -> None:
    forged = Recipe(("sigma",), plaintext=b"pay the attacker").build()
    with pytest.raises(errors.PolicyError, match="require_sender_authentication"):
        bench.ring("sigma").rewrap(forged, to=bench.ring("alpha"), context=CONTEXT)
    laundered = bench.ring("sigma", policy=LENIENT).rewrap(forged, to=bench.ring("alpha"), context=CONTEXT)
    assert laundered.sender_authenticated is False
    bench.refused(errors.PolicyError, laundered.message, "alpha", calls=0)


def test_laundering_a_forgery_by_reencrypt(bench: Bench) -> None:
    forged = Recipe(("sigma",), plaintext=b"pay the attacker").build()
    with pytest.raises(errors.PolicyError):
        bench.ring("sigma").reencrypt(forged, to=bench.ring("alpha"), context=CONTEXT, aad=AAD)
    copied = bench.ring("sigma", policy=LENIENT).reencrypt(
        forged, to=bench.ring("alpha"), context=CONTEXT, aad=AAD
    )
    bench.refused(errors.PolicyError, copied.message, "alpha", calls=0)


def test_the_mark_of_laundering_taken_off(bench: Bench) -> None:
    forged = Recipe(("sigma",)).build()
    message = (
        bench.ring("sigma", policy=LENIENT).rewrap(forged, to=bench.ring("alpha"), context=CONTEXT).message
    )
    end = header_end(message)
    whole = msgspec.msgpack.decode(message[12:end])
    whole[1][0][3] = 0
    raw = msgspec.msgpack.encode(whole)
    bench.refused(
        errors.InvalidCiphertextError, message[:8] + len(raw).to_bytes(4) + raw + message[end:], "alpha"
    )


# Planted records


def test_a_planted_record_is_not_sealed_into(bench: Bench) -> None:
    """Made with a public key by an outsider, it would give him every value that the application adds."""
    planted = Recipe(("sigma",)).build()
    stored = planted[: header_end(planted) + 32]
    with pytest.raises(errors.PolicyError):
        bench.ring("sigma").open_record(stored, context=CONTEXT)
    record = bench.ring("sigma", policy=LENIENT).open_record(stored, context=CONTEXT)
    with pytest.raises(errors.PolicyError, match="only be read"):
        record.seal(b"4111", aad=b"")


def test_an_old_record_put_back_is_not_sealed_into(bench: Bench) -> None:
    ring = bench.ring("alpha")
    old = ring.record(context=CONTEXT)
    reread = ring.open_record(old.to_bytes(), context=CONTEXT)
    with pytest.raises(errors.PolicyError, match="record_id"):
        reread.seal(b"4111", aad=b"")


def test_a_record_of_another_id_than_the_pinned_one(bench: Bench) -> None:
    ring = bench.ring("alpha")
    mine, theirs = ring.record(context=CONTEXT), ring.record(context=CONTEXT)
    with pytest.raises(KMSError):
        ring.open_record(theirs.to_bytes(), context=CONTEXT, record_id=mine.record_id)


def test_values_of_two_records_exchanged(bench: Bench) -> None:
    ring = bench.ring("alpha")
    one, other = ring.record(context=CONTEXT), ring.record(context=CONTEXT)
    with pytest.raises(errors.InvalidCiphertextError):
        one.open(other.seal(b"4111", aad=b""), aad=b"")


def test_values_of_two_rows_exchanged(bench: Bench) -> None:
    record = bench.ring("alpha").record(context=CONTEXT)
    with pytest.raises(errors.InvalidCiphertextError):
        record.open(record.seal(b"4111", aad=b"row/1"), aad=b"row/2")


# Wraps


def test_a_wrap_is_no_message_and_a_message_no_wrap(bench: Bench) -> None:
    key = bench.client.key("alpha")
    wrapped = key.wrap(bytes(32), context=CONTEXT)
    bench.refused(errors.InvalidCiphertextError, wrapped, "alpha", calls=0)
    with pytest.raises(errors.InvalidCiphertextError):
        key.unwrap(Recipe().build(), context=CONTEXT)


def test_a_wrap_moved_to_another_context(bench: Bench) -> None:
    key = bench.client.key("alpha")
    with pytest.raises(errors.InvalidCiphertextError):
        key.unwrap(key.wrap(bytes(32), context=CONTEXT), context={"tenant": "43"})


def test_a_base64_copy_is_not_decoded_silently(bench: Bench) -> None:
    bench.refused(errors.InvalidCiphertextError, base64.b64encode(Recipe().build()), "alpha", calls=0)
