"""Two providers: what one makes, the other takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import TypeAlias

import pytest

from anykms.envelope.keyring import Keyring, inspect
from anykms.errors import InvalidSignatureError, KeyNotAllowedError, KMSError
from anykms.keys import KeyInfo, KeyState, UnverifiedKeyInfo
from anykms.signing import PublicKey
from anykms_contract import golden
from anykms_contract.clauses import Contract, each, of_kinds
from anykms_contract.harness import SIGNING_KINDS, Harness, KeyKind
from anykms_contract.signatures import verify_with_pyca

Pair: TypeAlias = tuple[Harness, Harness]

_KINDS = [kind for kind in SIGNING_KINDS if kind.key_size in (kind.algorithm.spec.key_sizes or (None,))[:1]]
"""RSA at its smallest size only: each takes a second to make."""
_DATA = b"4111 1111 1111 1111"
_CONTEXT = {"tenant": "42"}
_BROUGHT = {"disabled": KeyState.DISABLED, "pending": KeyState.PENDING_DESTRUCTION}
_FAULTS = (
    "disabled",
    "pending",
    "unknown-name",
    "created-twice",
    "wrong-context",
    "foreign-message",
    "cancel",
)


class CrossProviderContract(Contract):
    """The same between providers. The fixture ``harnesses`` gives two of them."""

    def test_one_message_for_both_opens_through_either(self, harnesses: Pair) -> None:
        """C12.1: A message for keys of two providers opens through each alone."""
        keys = [harness.main.key(harness.wrapping_key()) for harness in harnesses]
        message = Keyring(keys).encrypt(_DATA, context=_CONTEXT, aad=b"a")
        for harness in harnesses:
            alone = Keyring([harness.connect().key(harness.wrapping_key())])
            found = alone.decrypt_detailed(message, context=_CONTEXT, aad=b"a")
            assert found.plaintext == _DATA
            assert found.key == harness.wrapping_key()
            assert found.sender_authenticated

    def test_a_disabled_key_gives_way_to_the_other_provider(self, harnesses: Pair) -> None:
        """C9.10, C12.1: Where one provider's key is disabled the other's opens the message."""
        first, second = harnesses
        info = first.generate()
        keys = [first.main.key(info), second.main.key(second.wrapping_key())]
        message = Keyring(keys).encrypt(_DATA, context=_CONTEXT)
        first.bring(info, KeyState.DISABLED)
        fresh = [first.connect().key(info), second.connect().key(second.wrapping_key())]
        found = Keyring(fresh).decrypt_detailed(message, context=_CONTEXT)
        assert (found.plaintext, found.key) == (_DATA, second.wrapping_key())

    def test_a_message_of_one_is_not_the_others(self, harnesses: Pair) -> None:
        """C9.4: A ring of one provider's keys does not open the other's message, and calls nobody."""
        first, second = harnesses
        message = Keyring([first.main.key(first.wrapping_key())]).encrypt(_DATA, context=_CONTEXT)
        ring = Keyring([second.main.key(second.wrapping_key())])
        with second.main.quiet(), pytest.raises(KeyNotAllowedError):
            ring.decrypt(message, context=_CONTEXT)

    @of_kinds(_KINDS)
    def test_signatures_verify_under_the_exported_key(self, harnesses: Pair, kind: KeyKind) -> None:
        """C12.2: Each provider's signature verifies with its exported key, in pyca and in PublicKey, and no other."""
        made = [(harness, harness.shared(kind)) for harness in harnesses]
        exported: list[PublicKey] = []
        signatures: list[bytes] = []
        for harness, info in made:
            if info is None:
                continue
            key = harness.main.key(info)
            exported.append(PublicKey.from_pem(key.public_key().pem(), kind.algorithm))
            signatures.append(key.sign(_DATA))
        for number, public_key in enumerate(exported):
            for other, signature in enumerate(signatures):
                if number == other:
                    public_key.verify(_DATA, signature)
                    verify_with_pyca(public_key.spki, kind.algorithm, _DATA, signature)
                else:
                    with pytest.raises(InvalidSignatureError):
                        public_key.verify(_DATA, signature)

    @of_kinds(_KINDS)
    def test_public_keys_look_alike(self, harnesses: Pair, kind: KeyKind) -> None:
        """C12.2: SPKIs of one kind have the same form: they differ in the key alone."""
        spkis = [
            harness.main.key(info).public_key().spki
            for harness in harnesses
            if (info := harness.shared(kind)) is not None
        ]
        if len(spkis) == 2:
            first, second = spkis
            assert len(first) == len(second)
            assert first[:12] == second[:12]

    def test_facts_look_alike(self, harnesses: Pair) -> None:
        """C12.3: KeyInfo of the same conf has the same fields and types, and equal values but for the
        provider's own.
        """
        name = f"{harnesses[0].prefix}-{harnesses[1].prefix}"
        infos = [
            harness.main.client.generate_key(
                harness.conf(harness.signing, name=name, tags={"team": "blue", "cost-center": "7"})
            )
            for harness in harnesses
        ]
        first, second = infos
        for field in fields(KeyInfo):
            assert type(getattr(first, field.name)) is type(getattr(second, field.name)), field.name
        for same in ("name", "purpose", "origin", "sender_authenticated", "tags"):
            assert getattr(first, same) == getattr(second, same)
        if harnesses[0].signing == harnesses[1].signing:
            assert first.conf_digest == second.conf_digest
        for info in infos:
            assert UnverifiedKeyInfo.from_json(info.to_json()).to_json() == info.to_json()

    @each("artefact", {artefact: artefact for artefact in golden.ARTEFACTS})
    def test_artefacts_are_the_golden_ones(self, harnesses: Pair, artefact: str) -> None:
        """C12.3: Messages, wrapped keys, signatures, public keys, facts and errors are those of the golden files,
        but for the provider's own names.
        """
        for harness in harnesses:
            found = golden.observed(artefact, harness)
            assert found is None or found == golden.recorded(artefact)

    @each("fault", {fault: fault for fault in _FAULTS})
    def test_errors_look_alike(self, harnesses: Pair, fault: str) -> None:
        """C12.3: The same mistake is the same class with the same shape: text, retryable, provider, operation, key."""
        errors = [_provoke(harness, fault) for harness in harnesses]
        first, second = errors
        assert type(first) is type(second)
        assert first.retryable is second.retryable
        assert first.operation == second.operation
        for error, harness in zip(errors, harnesses, strict=True):
            assert error.provider in (harness.scheme, None)
            assert str(error)
            assert re.fullmatch(r"[ -~]+", str(error)), "one line of printable ASCII"
        assert (first.key is None) is (second.key is None)

    def test_headers_name_each_key_in_its_own_way_only(self, harnesses: Pair) -> None:
        """C12.3: A message's header is the same but for URIs, algorithms and wrapped keys."""
        keys = [harness.main.key(harness.wrapping_key()) for harness in harnesses]
        headers = [inspect(Keyring([key]).encrypt(_DATA, context=_CONTEXT)) for key in keys]
        first, second = headers
        assert (first.suite, first.context, first.required, first.generation, first.body_size) == (
            second.suite,
            second.context,
            second.required,
            second.generation,
            second.body_size,
        )


def _provoke(harness: Harness, fault: str) -> KMSError:
    info, connection = harness.generate(), harness.connect()
    key, client = connection.key(info), connection.client
    message = Keyring([key]).encrypt(_DATA, context=_CONTEXT)
    wrapped = key.wrap(bytes(32), context=_CONTEXT)
    other = Keyring([connection.key(harness.wrapping_key())])
    if fault in _BROUGHT:
        harness.bring(info, _BROUGHT[fault])
    mistakes: dict[str, Callable[[], object]] = {
        "disabled": lambda: key.wrap(bytes(32), context={}),
        "pending": lambda: key.wrap(bytes(32), context={}),
        "unknown-name": lambda: client.get_key(harness.name()),
        "created-twice": lambda: client.generate_key(harness.conf(harness.wrapping, name=info.name)),
        "wrong-context": lambda: key.unwrap(wrapped, context={"tenant": "43"}),
        "foreign-message": lambda: other.decrypt(message, context=_CONTEXT),
        "cancel": lambda: client.cancel_destruction(info),
    }
    with pytest.raises(KMSError) as caught:
        mistakes[fault]()
    return caught.value
