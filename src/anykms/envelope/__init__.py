"""One ciphertext for every provider: the message format, and the Keyring that makes and opens it."""
