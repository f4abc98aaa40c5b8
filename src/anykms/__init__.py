"""One key API for AWS KMS, Google Cloud KMS, Azure Key Vault and a local keystore.

The names below are loaded when first used, so that ``import anykms`` stays cheap.
"""

from __future__ import annotations

TYPE_CHECKING = False  # checkers read it as True; the module typing is not loaded for it
if TYPE_CHECKING:
    from anykms.algorithms import Algorithm as Algorithm
    from anykms.algorithms import KeyPurpose as KeyPurpose
    from anykms.audit import AuditEvent as AuditEvent
    from anykms.audit import AuditFile as AuditFile
    from anykms.audit import AuditSink as AuditSink
    from anykms.audit import LoggingSink as LoggingSink
    from anykms.audit import OpenTelemetrySink as OpenTelemetrySink
    from anykms.client import Key as Key
    from anykms.client import KMSClient as KMSClient
    from anykms.envelope.cache import CacheCounters as CacheCounters
    from anykms.envelope.cache import DataKeyCache as DataKeyCache
    from anykms.envelope.keyring import Decrypted as Decrypted
    from anykms.envelope.keyring import Keyring as Keyring
    from anykms.envelope.keyring import inspect as inspect
    from anykms.envelope.message import HeaderFacts as HeaderFacts
    from anykms.envelope.message import UnverifiedHeader as UnverifiedHeader
    from anykms.envelope.record import Record as Record
    from anykms.envelope.record import StoredRecords as StoredRecords
    from anykms.envelope.rewrap import Reencrypted as Reencrypted
    from anykms.envelope.rewrap import Rewrapped as Rewrapped
    from anykms.envelope.sqlstore import SQLAlchemyRecordStore as SQLAlchemyRecordStore
    from anykms.envelope.stores import MemoryRecordStore as MemoryRecordStore
    from anykms.envelope.stores import RecordStore as RecordStore
    from anykms.envelope.stores import SQLiteRecordStore as SQLiteRecordStore
    from anykms.errors import KMSError as KMSError
    from anykms.keys import ConnectionURI as ConnectionURI
    from anykms.keys import KeyConf as KeyConf
    from anykms.keys import KeyInfo as KeyInfo
    from anykms.keys import KeyOrigin as KeyOrigin
    from anykms.keys import KeyState as KeyState
    from anykms.keys import KeyStatus as KeyStatus
    from anykms.keys import KeyURI as KeyURI
    from anykms.keys import KeyVersion as KeyVersion
    from anykms.keys import ProtectionLevel as ProtectionLevel
    from anykms.keys import UnverifiedKeyInfo as UnverifiedKeyInfo
    from anykms.keyset import CryptoperiodWarning as CryptoperiodWarning
    from anykms.keyset import Drift as Drift
    from anykms.keyset import Keyset as Keyset
    from anykms.keyset import KeysetAuthenticator as KeysetAuthenticator
    from anykms.keyset import KeysetVerifier as KeysetVerifier
    from anykms.keyset import Member as Member
    from anykms.keyset import MemberState as MemberState
    from anykms.policy import Policy as Policy
    from anykms.provider import SignatureEncoding as SignatureEncoding
    from anykms.registry import connect as connect
    from anykms.retrying import RetryPolicy as RetryPolicy
    from anykms.signing import PublicKey as PublicKey
    from anykms.trust import Ledger as Ledger
    from anykms.trust import TrustRoot as TrustRoot
    from anykms.trust import UnverifiedSeal as UnverifiedSeal
    from anykms.trust import countersign as countersign
    from anykms.trust import seal as seal

_HOMES = {
    "anykms.algorithms": (
        "Algorithm",
        "KeyPurpose",
    ),
    "anykms.audit": (
        "AuditEvent",
        "AuditFile",
        "AuditSink",
        "LoggingSink",
        "OpenTelemetrySink",
    ),
    "anykms.client": (
        "KMSClient",
        "Key",
    ),
    "anykms.envelope.cache": (
        "CacheCounters",
        "DataKeyCache",
    ),
    "anykms.envelope.keyring": (
        "Decrypted",
        "Keyring",
        "inspect",
    ),
    "anykms.envelope.message": (
        "HeaderFacts",
        "UnverifiedHeader",
    ),
    "anykms.envelope.record": (
        "Record",
        "StoredRecords",
    ),
    "anykms.envelope.rewrap": (
        "Reencrypted",
        "Rewrapped",
    ),
    "anykms.envelope.sqlstore": ("SQLAlchemyRecordStore",),
    "anykms.envelope.stores": (
        "MemoryRecordStore",
        "RecordStore",
        "SQLiteRecordStore",
    ),
    "anykms.errors": ("KMSError",),
    "anykms.keys": (
        "ConnectionURI",
        "KeyConf",
        "KeyInfo",
        "KeyOrigin",
        "KeyState",
        "KeyStatus",
        "KeyURI",
        "KeyVersion",
        "ProtectionLevel",
        "UnverifiedKeyInfo",
    ),
    "anykms.keyset": (
        "CryptoperiodWarning",
        "Drift",
        "Keyset",
        "KeysetAuthenticator",
        "KeysetVerifier",
        "Member",
        "MemberState",
    ),
    "anykms.policy": ("Policy",),
    "anykms.provider": ("SignatureEncoding",),
    "anykms.registry": ("connect",),
    "anykms.retrying": ("RetryPolicy",),
    "anykms.signing": ("PublicKey",),
    "anykms.trust": (
        "Ledger",
        "TrustRoot",
        "UnverifiedSeal",
        "countersign",
        "seal",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll] # computed; a test compares


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'anykms' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
