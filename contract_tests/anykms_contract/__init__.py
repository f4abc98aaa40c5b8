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

import importlib
import pkgutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anykms_contract.asymmetric_decryption import (
        AsymmetricDecryptionContract as AsymmetricDecryptionContract,
    )
    from anykms_contract.capabilities import CapabilityContract as CapabilityContract
    from anykms_contract.clauses import Contract as Contract
    from anykms_contract.crossing import CrossProviderContract as CrossProviderContract
    from anykms_contract.envelope import EnvelopeContract as EnvelopeContract
    from anykms_contract.faults import ErrorsContract as ErrorsContract
    from anykms_contract.harness import Connection as Connection
    from anykms_contract.harness import Harness as Harness
    from anykms_contract.harness import KeyKind as KeyKind
    from anykms_contract.keyinfo import KeyInfoContract as KeyInfoContract
    from anykms_contract.lifecycle import LifecycleContract as LifecycleContract
    from anykms_contract.macs import MACContract as MACContract
    from anykms_contract.observed import Call as Call
    from anykms_contract.observed import ObservedProvider as ObservedProvider
    from anykms_contract.signatures import SigningContract as SigningContract
    from anykms_contract.states import StateContract as StateContract
    from anykms_contract.wraps import WrappingContract as WrappingContract

_HOMES = {
    "anykms_contract.asymmetric_decryption": ("AsymmetricDecryptionContract",),
    "anykms_contract.capabilities": ("CapabilityContract",),
    "anykms_contract.clauses": ("Contract",),
    "anykms_contract.crossing": ("CrossProviderContract",),
    "anykms_contract.envelope": ("EnvelopeContract",),
    "anykms_contract.faults": ("ErrorsContract",),
    "anykms_contract.harness": (
        "Connection",
        "Harness",
        "KeyKind",
    ),
    "anykms_contract.keyinfo": ("KeyInfoContract",),
    "anykms_contract.lifecycle": ("LifecycleContract",),
    "anykms_contract.macs": ("MACContract",),
    "anykms_contract.observed": (
        "Call",
        "ObservedProvider",
    ),
    "anykms_contract.signatures": ("SigningContract",),
    "anykms_contract.states": ("StateContract",),
    "anykms_contract.wraps": ("WrappingContract",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsymmetricDecryptionContract",
    "Call",
    "CapabilityContract",
    "Connection",
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


def load_clauses() -> None:
    """Import every module of clauses, with pytest's explanations of failed assertions."""
    import pytest

    modules = pkgutil.iter_modules(__path__)
    pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in modules))
    for name, module in _HOME_OF.items():
        globals()[name] = getattr(importlib.import_module(module), name)


if "pytest" in sys.modules:
    load_clauses()


def __getattr__(name: str) -> object:
    """The clauses need pytest, the vectors do not: without pytest they are loaded when they are asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    load_clauses()
    value: object = globals()[name]
    return value
