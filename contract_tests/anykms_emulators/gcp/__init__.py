"""A strict Google Cloud KMS: real gRPC, real cryptography, Google's codes and words.

    with GCPEmulator() as gcp:
        kms = gcp.client()

Needs google-cloud-kms; `anykms_emulators` alone does not import it.
"""

from anykms_emulators.gcp.emulator import GCPEmulator
from anykms_emulators.gcp.resources import Generation

__all__ = ["GCPEmulator", "Generation"]
