"""Rewraps per second with local keys, detached values, and what a cache saves over a million messages."""

from __future__ import annotations

import os
from functools import partial

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anykms import DataKeyCache, Keyring, KMSClient
from anykms_contract.vectors import VectorProvider
from rounds import medians

CONTEXT = {"tenant": "42"}
MESSAGES = 1_000_000


def main() -> None:
    data = os.urandom(1024)
    provider = VectorProvider()
    client = KMSClient(provider)
    ring, target = (Keyring([client.key(name)]) for name in ("alpha", "beta"))
    record = ring.record(context=CONTEXT)
    stored, value = record.to_bytes(), record.seal(data, aad=b"cards/17")
    message = ring.encrypt(data, context=CONTEXT)
    times = medians(
        {
            "raw AESGCM of 1 KiB": partial(AESGCM(bytes(32)).encrypt, bytes(12), data, None),
            "rewrap a record": partial(ring.rewrap, stored, to=target),
            "rewrap a message of 1 KiB": partial(ring.rewrap, message, to=target),
            "seal a value of 1 KiB": partial(record.seal, data, aad=b"cards/17"),
            "open a value of 1 KiB": partial(record.open, value, aad=b"cards/17"),
        }
    )
    print("| what | us | per second | x raw |")
    print("|---|---:|---:|---:|")
    for name, seconds in times.items():
        print(
            f"| {name} | {seconds * 1e6:.1f} | {1 / seconds:,.0f} | {seconds / times['raw AESGCM of 1 KiB']:.1f} |"
        )
    provider.calls.clear()
    with DataKeyCache() as cache:
        kept = Keyring([client.key("alpha")], cache=cache)
        for number in range(MESSAGES):
            kept.encrypt(data, context=CONTEXT, aad=number.to_bytes(4))
        print(f"\n{MESSAGES:,} messages of one context: {len(provider.calls)} call(s), {cache.counters}")


if __name__ == "__main__":
    main()
