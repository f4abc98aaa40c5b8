"""Thousands of signatures on every curve over the Azure emulator: each verifies under pyca and under anykms.

python benchmarks/azure_signatures.py [COUNT]
"""

from __future__ import annotations

import sys
import time
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from anykms import Key, KeyConf, KeyPurpose, connect
from anykms_emulators.azure import AzureEmulator

DIGESTS: Final = {
    "ES256": hashes.SHA256(),
    "ES384": hashes.SHA384(),
    "ES512": hashes.SHA512(),
    "ES256K": hashes.SHA256(),
}
COUNT: Final = 2000


def sign_and_verify(key: Key, count: int, digest: hashes.HashAlgorithm) -> int:
    """Make ``count`` signatures; returns how many had an r or s that begins with a zero byte."""
    exported = key.public_key()
    pyca = load_der_public_key(exported.spki)
    if not isinstance(pyca, ec.EllipticCurvePublicKey):
        raise TypeError("not an EC key")
    found = 0
    for number in range(count):
        message = number.to_bytes(4)
        raw = key.sign(message, encoding="P1363")
        exported.verify(message, raw, encoding="P1363")
        half = len(raw) // 2
        der = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
        pyca.verify(der, message, ec.ECDSA(digest))
        exported.verify(message, der)
        found += raw[0] == 0 or raw[half] == 0
    return found


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with AzureEmulator() as az, connect(az.uri, **az.options) as client:
        for algorithm, digest in DIGESTS.items():
            conf = KeyConf(algorithm.lower(), KeyPurpose.SIGN_VERIFY, algorithm=algorithm)
            key = client.key(client.generate_key(conf))
            began = time.perf_counter()
            found = sign_and_verify(key, count, digest)
            seconds = (time.perf_counter() - began) / count
            print(f"{algorithm:7} {count} signatures, {found} of them short, {seconds * 1000:.1f} ms each")


if __name__ == "__main__":
    main()
