"""Messages with fresh and with kept data keys, against raw AES-GCM and bare Cobblestone of the same bytes."""

from __future__ import annotations

import os
import tempfile
from functools import partial

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anykms import DataKeyCache, KeyConf, Keyring, KMSClient, connect
from anykms_contract.vectors import VectorProvider
from rounds import Subject, medians

CONTEXT = {"tenant": "42"}
SIZES = (64, 1024, 16 * 1024, 1024 * 1024)


def cobblestone_encrypt(key: bytes, data: bytes) -> bytes:
    encryptor = Cobblestone256Encryptor(key, CONTEXT["tenant"].encode())
    return encryptor.update(data) + encryptor.finalize()


def cobblestone_decrypt(key: bytes, data: bytes) -> bytes:
    decryptor = Cobblestone256Decryptor(key, CONTEXT["tenant"].encode())
    return decryptor.update(data) + decryptor.finalize()


def main() -> None:
    key, nonce = os.urandom(32), os.urandom(12)
    raw = AESGCM(key)
    memory = KMSClient(VectorProvider())
    with tempfile.TemporaryDirectory() as folder, connect(f"local://{folder}/keys.db", create=True) as store:
        rings = {
            "data key kept": Keyring([memory.key("alpha")], cache=DataKeyCache()),
            "key in memory": Keyring([memory.key("alpha")]),
            "key in a keystore": Keyring(
                [store.key(store.generate_key(KeyConf("orders", "ENCRYPT_DECRYPT")))]
            ),
        }
        print("| bytes | subject | encrypt us | x raw | decrypt us | x raw |")
        print("|---:|---|---:|---:|---:|---:|")
        for size in SIZES:
            data = os.urandom(size)
            sealed = {
                "raw AESGCM": raw.encrypt(nonce, data, None),
                "bare Cobblestone": cobblestone_encrypt(key, data),
                **{name: ring.encrypt(data, context=CONTEXT) for name, ring in rings.items()},
            }
            encrypt: dict[str, Subject] = {
                "raw AESGCM": partial(raw.encrypt, nonce, data, None),
                "bare Cobblestone": partial(cobblestone_encrypt, key, data),
                **{name: partial(ring.encrypt, data, context=CONTEXT) for name, ring in rings.items()},
            }
            decrypt: dict[str, Subject] = {
                "raw AESGCM": partial(raw.decrypt, nonce, sealed["raw AESGCM"], None),
                "bare Cobblestone": partial(cobblestone_decrypt, key, sealed["bare Cobblestone"]),
                **{
                    name: partial(ring.decrypt, sealed[name], context=CONTEXT) for name, ring in rings.items()
                },
            }
            there, back = medians(encrypt), medians(decrypt)
            for name in sealed:
                print(
                    f"| {size} | {name} | {there[name] * 1e6:.1f} | {there[name] / there['raw AESGCM']:.1f} "
                    f"| {back[name] * 1e6:.1f} | {back[name] / back['raw AESGCM']:.1f} |"
                )


if __name__ == "__main__":
    main()
