"""Strict, wire-level emulators of cloud key services, for tests of any program that uses one.

Each speaks its cloud's own protocol on a loopback port, so that the official SDK runs unmodified; does real
cryptography; and answers with the real error codes and messages. No account, no container, no network.

    with AWSEmulator() as aws:
        kms = boto3.client("kms", **aws.client_kwargs())

Every emulator has `uri`, `options`, `client()`, `clock`, `faults`, `lag` and `requests`. The package imports nothing
of `anykms`, so that it cannot share the mistakes of the code that it tests.
"""

from anykms_emulators.clock import Clock
from anykms_emulators.emulator import Emulator
from anykms_emulators.faults import Fault, FaultKind, Faults
from anykms_emulators.lag import Lag
from anykms_emulators.recorder import Recorder, Request

__all__ = ["Clock", "Emulator", "Fault", "FaultKind", "Faults", "Lag", "Recorder", "Request"]
