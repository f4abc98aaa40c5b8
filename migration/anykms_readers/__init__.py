"""Readers of ciphertext that anykms did not make: one module for each format (docs/foreign-ciphertext.md).

Each implements ``anykms.migration.readers.ForeignReader`` and reaches its key by way of the connection of a provider,
so that checksums, names in answers, errors and the absence of SDK retries are the providers' own.
"""
