"""What it costs to load a sealed keyset and get something to use from it, without network.

Milliseconds, medians; every time the file is read, the seal verified and the ledger asked.
"""

from __future__ import annotations

import os
import tempfile

import rounds
from anykms import Key, KeyConf, Keyset, Ledger, TrustRoot, connect


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, connect(f"local://{folder}/keys.db", create=True) as client:

        def key(name: str, purpose: str, algorithm: str | None = None) -> Key:
            return client.key(client.generate_key(KeyConf(name, purpose, algorithm=algorithm)))

        admin = key("admin", "SIGN_VERIFY", "ES256")
        root = TrustRoot([admin.public_key()], ledger=Ledger(f"{folder}/ledger.db"))
        subjects: dict[str, rounds.Subject] = {}
        for purpose, algorithm in (("ENCRYPT_DECRYPT", None), ("SIGN_VERIFY", "ES256")):
            for members in (1, 2, 4, 8):
                kind = "keyring" if algorithm is None else "signer"
                name = f"{kind}-{members}"
                keyset = Keyset.create(name, key(f"{name}-k1", purpose, algorithm))
                for number in range(2, members + 1):
                    keyset = keyset.succeed(key(f"{name}-k{number}", purpose, algorithm))
                path = os.path.join(folder, name)
                keyset.save(path, root, signers=[admin])

                def load(path: str = path, name: str = name, encrypts: bool = algorithm is None) -> object:
                    found = Keyset.load(path, root, name=name)
                    return found.keyring([client]) if encrypts else found.signer([client])

                subjects[f"load, {kind}, {members} members"] = load
        print("| subject | ms |")
        print("|---|---:|")
        for subject, seconds in rounds.medians(subjects).items():
            print(f"| {subject} | {seconds * 1e3:.2f} |")


if __name__ == "__main__":
    main()
