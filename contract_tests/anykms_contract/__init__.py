"""The contract as clauses: what every provider of anykms does, identically.

A binding gives a ``Harness`` as the fixture ``harness`` and names the contracts::

    @pytest.fixture(scope="module")
    def harness() -> Iterator[Harness]:
        with Harness(open_provider=lambda: MyProvider(...)) as harness:
            yield harness

    class TestSigning(SigningContract): ...

No clause can be overridden. What a provider cannot keep is listed with its reason in the class attribute
``deviations``; each entry becomes a strict expected failure, so that it goes when the provider is mended.
"""

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from anykms_contract.asymmetric_decryption import AsymmetricDecryptionContract  # noqa: E402 # after the hook above
from anykms_contract.capabilities import CapabilityContract  # noqa: E402
from anykms_contract.clauses import Contract  # noqa: E402
from anykms_contract.consistency import ConsistencyContract  # noqa: E402
from anykms_contract.crossing import CrossProviderContract  # noqa: E402
from anykms_contract.envelope import EnvelopeContract  # noqa: E402
from anykms_contract.faults import ErrorsContract  # noqa: E402
from anykms_contract.harness import Connection, Harness, KeyKind  # noqa: E402
from anykms_contract.keyinfo import KeyInfoContract  # noqa: E402
from anykms_contract.lifecycle import LifecycleContract  # noqa: E402
from anykms_contract.macs import MACContract  # noqa: E402
from anykms_contract.observed import Call, ObservedProvider  # noqa: E402
from anykms_contract.signatures import SigningContract  # noqa: E402
from anykms_contract.states import StateContract  # noqa: E402
from anykms_contract.wraps import WrappingContract  # noqa: E402

__all__ = [
    "AsymmetricDecryptionContract",
    "Call",
    "CapabilityContract",
    "Connection",
    "ConsistencyContract",
    "Contract",
    "CrossProviderContract",
    "EnvelopeContract",
    "ErrorsContract",
    "Harness",
    "KeyInfoContract",
    "KeyKind",
    "LifecycleContract",
    "MACContract",
    "ObservedProvider",
    "SigningContract",
    "StateContract",
    "WrappingContract",
]
