"""What a provider claims it does, and what it does not claim it refuses."""

from __future__ import annotations

import pytest

from anykms.algorithms import KeyPurpose
from anykms.errors import UnsupportedOperationError
from anykms.keys import KeyConf, ProtectionLevel
from anykms.provider import LIFECYCLE, Capability, Operation
from anykms_contract.clauses import Contract, each, of_kinds
from anykms_contract.harness import (
    DECRYPTION_KINDS,
    MAC_KINDS,
    SIGNING_KINDS,
    WRAPPING_KINDS,
    Harness,
    KeyKind,
)

_KINDS = (*WRAPPING_KINDS, *SIGNING_KINDS, *MAC_KINDS, *DECRYPTION_KINDS)


class CapabilityContract(Contract):
    """The capability set is the truth."""

    @of_kinds(_KINDS)
    def test_a_kind_is_made_or_refused_unsent(self, harness: Harness, kind: KeyKind) -> None:
        """C13.1: A kind in the set can be made; one outside it is UnsupportedOperationError, and nobody is asked."""
        info = harness.shared(kind)
        if info is None:
            return
        assert (info.purpose, info.algorithm, info.key_size) == (kind.purpose, kind.algorithm, kind.key_size)

    @of_kinds(_KINDS)
    def test_a_kind_is_claimed_whole_or_not_at_all(self, harness: Harness, kind: KeyKind) -> None:
        """C13.2: Who makes a kind of key does everything with it: wrap and unwrap, MAC and verify, sign and export."""
        claims = {harness.can(operation, kind) for operation in kind.operations}
        assert len(claims) == 1
        if harness.supports(kind):
            assert claims == {True}

    @of_kinds(_KINDS)
    def test_absent_protection_levels_are_refused_unsent(self, harness: Harness, kind: KeyKind) -> None:
        """C13.1: A protection level outside the set is UnsupportedOperationError; a key has exactly the one
        asked for.
        """
        if not harness.supports(kind):
            harness.refuses(kind)
            return
        client = harness.main.client
        for level in ProtectionLevel:
            capability = Capability(Operation.GENERATE_KEY, kind.algorithm, kind.key_size, level)
            if capability in client.capabilities:
                continue
            conf = KeyConf(
                harness.name(),
                kind.purpose,
                algorithm=kind.algorithm,
                key_size=kind.key_size,
                protection_level=level,
            )
            with harness.main.quiet(), pytest.raises(UnsupportedOperationError) as caught:
                client.generate_key(conf)
            assert type(caught.value) is UnsupportedOperationError

    @each("level", {str(level): level for level in ProtectionLevel})
    def test_a_level_asked_for_is_the_level_given(self, harness: Harness, level: ProtectionLevel) -> None:
        """C13.3: A protection level in the set is the new key's level."""
        kind, client = harness.wrapping, harness.main.client
        conf = KeyConf(
            harness.name(),
            kind.purpose,
            algorithm=kind.algorithm,
            key_size=kind.key_size,
            protection_level=level,
        )
        if Capability(Operation.GENERATE_KEY, kind.algorithm, kind.key_size, level) in client.capabilities:
            assert client.generate_key(conf).protection_level is level
            return
        with harness.main.quiet(), pytest.raises(UnsupportedOperationError):
            client.generate_key(conf)

    def test_the_whole_lifecycle_is_claimed(self, harness: Harness) -> None:
        """C13.2: Every provider finds, lists, describes, disables and destroys keys."""
        assert {Capability(operation) for operation in LIFECYCLE} <= harness.main.client.capabilities

    def test_capabilities_are_known_without_io(self, harness: Harness) -> None:
        """C13.1: The set is known once connected: reading it asks nobody."""
        connection = harness.connect()
        with connection.quiet():
            assert connection.client.capabilities == harness.main.client.capabilities

    def test_every_capability_has_the_contracts_shape(self, harness: Harness) -> None:
        """C13.2: Lifecycle operations have neither algorithm nor size; the others one that the contract knows."""
        for capability in harness.main.client.capabilities:
            operation, algorithm = capability.operation, capability.algorithm
            if operation in LIFECYCLE:
                assert capability == Capability(operation)
                continue
            assert algorithm is not None
            assert capability.key_size in (algorithm.spec.key_sizes or (None,))
            assert (capability.protection_level is not None) is (operation is Operation.GENERATE_KEY)

    def test_something_wraps_and_something_signs(self, harness: Harness) -> None:
        """C13.2: Every provider has at least one ENCRYPT_DECRYPT and one SIGN_VERIFY kind, and rotates the first."""
        assert harness.supports(harness.wrapping)
        assert harness.supports(harness.signing)
        assert harness.can(Operation.ROTATE_KEY, harness.wrapping)
        assert harness.wrapping.purpose is KeyPurpose.ENCRYPT_DECRYPT
