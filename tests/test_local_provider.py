"""The local provider through the Provider protocol: operations, algorithms, states, dates."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
    InvalidMacError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyExistsError,
    KeyNotFoundError,
    KeyPendingDestructionError,
    KeyStateError,
    KeyUsageError,
    KMSError,
    NameReservedError,
    UnsupportedOperationError,
)
from anykms.keys import (
    ConnectionURI,
    KeyConf,
    KeyInfo,
    KeyOrigin,
    KeyState,
    KeyURI,
    ProtectionLevel,
    UnverifiedKeyInfo,
)
from anykms.provider import Capability, Operation, Provider, SignatureEncoding, WrapContext
from anykms_local import LocalProvider

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DATA_KEY = bytes(range(32))
CONTEXT = WrapContext({}, b"b" * 32)


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def provider(path: Path, clock: Clock) -> Iterator[LocalProvider]:
    made = LocalProvider.connect(ConnectionURI.parse(f"local://{path}"), create=True, clock=clock)
    yield made
    made.close()


def make(provider: LocalProvider, name: str, purpose: KeyPurpose, **conf: Any) -> KeyInfo:
    return provider.create_key(KeyConf(name, purpose, **conf).template(Algorithm.A256GCM))


def wrapping(provider: LocalProvider, name: str = "orders", **conf: Any) -> KeyInfo:
    return make(provider, name, KeyPurpose.ENCRYPT_DECRYPT, **conf)


def rsa_wrapping(provider: LocalProvider, name: str = "vault", **conf: Any) -> KeyInfo:
    return wrapping(provider, name, algorithm="RSA-OAEP-256", key_size=2048, **conf)


def sender_of(info: KeyInfo) -> KeyInfo:
    sender = info.sender_key()
    assert sender is not None
    return sender


def test_it_is_a_provider(provider: LocalProvider) -> None:
    assert isinstance(provider, Provider)
    assert provider.scheme == "local"
    assert provider.signature_encoding is SignatureEncoding.DER
    assert provider.strongly_consistent
    assert provider.ungated == frozenset()


def test_capabilities_cover_every_algorithm_and_size_in_software(provider: LocalProvider) -> None:
    generated = {c for c in provider.capabilities if c.operation is Operation.GENERATE_KEY}
    assert {(c.algorithm, c.key_size) for c in generated} == {
        (algorithm, size) for algorithm in Algorithm for size in algorithm.spec.key_sizes or (None,)
    }
    assert {c.protection_level for c in generated} == {ProtectionLevel.SOFTWARE}
    assert {c.operation for c in provider.capabilities} == set(Operation)
    assert Capability(Operation.DECRYPT, Algorithm.RSA_OAEP_256, 4096) in provider.capabilities
    assert Capability(Operation.SIGN, Algorithm.HS256) not in provider.capabilities


def test_facts_of_a_new_key(provider: LocalProvider) -> None:
    conf = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT, tags={"team": "pay"}, destroy_window=9)
    info = provider.create_key(conf.template(Algorithm.A256GCM))
    keystore_id = info.uri.resource.partition("/")[0]
    assert info == KeyInfo(
        name="orders",
        uri=KeyURI("local", f"{keystore_id}/orders"),
        provider="local",
        purpose=KeyPurpose.ENCRYPT_DECRYPT,
        algorithm=Algorithm.A256GCM,
        key_size=None,
        protection_level=ProtectionLevel.SOFTWARE,
        origin=KeyOrigin.PROVIDER,
        created_at=START,
        tags={"team": "pay"},
        destroy_window=9,
        destroy_window_enforced=True,
        conf_digest=conf.digest,
    )
    assert provider.get_key("orders") == info
    assert UnverifiedKeyInfo.from_json(info.to_json()).to_json() == info.to_json()


def test_facts_come_back_in_another_connection(provider: LocalProvider, path: Path) -> None:
    made = [
        wrapping(provider),
        rsa_wrapping(provider),
        make(provider, "sig", KeyPurpose.SIGN_VERIFY, algorithm="ES256"),
    ]
    other = LocalProvider.connect(ConnectionURI.parse(f"local://{path}"))
    assert [other.get_key(info.name) for info in made] == made
    assert list(other.list_keys()) == sorted(made, key=lambda info: info.name)
    other.close()


def test_only_keys_with_one_version_for_life_have_it_in_their_uri(provider: LocalProvider) -> None:
    assert wrapping(provider).uri.version is None
    assert make(provider, "macs", KeyPurpose.MAC, algorithm="HS256").uri.version == "1"
    assert make(provider, "sig", KeyPurpose.SIGN_VERIFY, algorithm="Ed25519").uri.version == "1"


# Wrapping


def test_wrap_makes_104_bytes_that_unwrap(provider: LocalProvider) -> None:
    info = wrapping(provider)
    wrapped = provider.wrap(info, DATA_KEY, CONTEXT)
    assert wrapped.version == "1"
    assert len(wrapped.ciphertext) == 104
    assert provider.unwrap(info, wrapped.ciphertext, "1", CONTEXT) == DATA_KEY
    assert provider.unwrap(info, wrapped.ciphertext, None, CONTEXT) == DATA_KEY
    assert provider.wrap(info, DATA_KEY, CONTEXT) != wrapped


def test_a_wrapped_key_opens_in_no_other_way(provider: LocalProvider) -> None:
    info, other = wrapping(provider), wrapping(provider, "others")
    wrapped = provider.wrap(info, DATA_KEY, CONTEXT).ciphertext
    provider.rotate_key(info)
    attempts: list[tuple[KeyInfo, bytes, str | None, bytes]] = [
        (other, wrapped, "1", CONTEXT.aad),
        (info, wrapped, "1", b"c" * 32),
        (info, wrapped, "1", b""),
        (info, wrapped, "2", CONTEXT.aad),
        (info, wrapped, None, CONTEXT.aad),
        *(
            (info, wrapped, version, CONTEXT.aad)
            for version in ("3", "0", "01", "-1", "x", "", "\ud800", "\u0663", "1/1", "1\0", "*")
        ),
        *((info, wrapped[:size], "1", CONTEXT.aad) for size in (0, 1, 24, 56, 72, 88, 103)),
        (info, wrapped + b"\0", "1", CONTEXT.aad),
        (info, wrapped * 2, "1", CONTEXT.aad),
    ]
    for position in range(104):
        flipped = bytearray(wrapped)
        flipped[position] ^= 1
        attempts.append((info, bytes(flipped), "1", CONTEXT.aad))
    texts: set[str] = set()
    for key, ciphertext, version, aad in attempts:
        with pytest.raises(InvalidCiphertextError) as caught:
            provider.unwrap(key, ciphertext, version, WrapContext({}, aad))
        texts.add(str(caught.value))
    assert len(texts) == 1
    assert provider.unwrap(info, wrapped, "1", CONTEXT) == DATA_KEY


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_only_32_bytes_are_wrapped(provider: LocalProvider, size: int) -> None:
    with pytest.raises(InvalidArgumentError):
        provider.wrap(wrapping(provider), bytes(size), CONTEXT)


def test_rotation_makes_a_version_and_keeps_the_old(provider: LocalProvider, clock: Clock) -> None:
    info = wrapping(provider)
    old = provider.wrap(info, DATA_KEY, CONTEXT)
    clock.advance(days=1)
    status = provider.rotate_key(info)
    new = provider.wrap(info, DATA_KEY, CONTEXT)
    assert (old.version, new.version, status.current_version) == ("1", "2", "2")
    assert [v.id for v in status.versions] == ["1", "2"]
    assert [v.created_at for v in status.versions] == [START, START + timedelta(days=1)]
    assert provider.unwrap(info, old.ciphertext, "1", CONTEXT) == DATA_KEY
    assert provider.unwrap(info, new.ciphertext, "2", CONTEXT) == DATA_KEY
    assert provider.get_key("orders") == info


def test_many_versions_stay_in_order(provider: LocalProvider) -> None:
    info = wrapping(provider)
    wrapped = [provider.wrap(info, DATA_KEY, CONTEXT)]
    for _ in range(11):
        provider.rotate_key(info)
        wrapped.append(provider.wrap(info, DATA_KEY, CONTEXT))
    assert [v.id for v in provider.describe_key(info).versions] == [str(n) for n in range(1, 13)]
    for made in wrapped:
        assert provider.unwrap(info, made.ciphertext, made.version, CONTEXT) == DATA_KEY


def test_rsa_wrapping_has_a_sender_key_that_lives_and_dies_with_it(
    provider: LocalProvider, clock: Clock
) -> None:
    info = rsa_wrapping(provider)
    sender = sender_of(info)
    wrapped = provider.wrap(info, DATA_KEY, CONTEXT)
    assert provider.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY
    digest = hashes.Hash(hashes.SHA256()).finalize()
    check_signature(
        Algorithm.ES256, provider.get_public_key(sender, None), digest, provider.sign(sender, digest, True)
    )
    assert [key.name for key in provider.list_keys()] == ["vault"]
    with pytest.raises(KeyNotFoundError):
        provider.get_key("vault--sender")
    provider.rotate_key(info)
    assert provider.get_public_key(info, "1") != provider.get_public_key(info, None)
    assert provider.unwrap(info, wrapped.ciphertext, "1", CONTEXT) == DATA_KEY
    assert provider.describe_key(sender).current_version == "1"
    assert provider.describe_key(sender).versions[0].fingerprint == info.sender_fingerprint
    for change in (
        lambda: provider.set_enabled(sender, False),
        lambda: provider.schedule_destruction(sender),
        lambda: provider.cancel_destruction(sender),
    ):
        with pytest.raises(KeyUsageError):
            change()
    provider.set_enabled(info, False)
    with pytest.raises(KeyDisabledError):
        provider.sign(sender, digest, True)
    assert provider.describe_key(sender).state is KeyState.DISABLED
    provider.schedule_destruction(info)
    with pytest.raises(KeyPendingDestructionError):
        provider.sign(sender, digest, True)
    clock.advance(days=30)
    with pytest.raises(KeyDestroyedError):
        provider.sign(sender, digest, True)
    assert provider.describe_key(sender).state is KeyState.DESTROYED


@pytest.mark.parametrize("size", [0, 1, 104, 255, 257, 512])
def test_rsa_unwrap_refuses_other_lengths_and_contents_alike(provider: LocalProvider, size: int) -> None:
    info = rsa_wrapping(provider)
    with pytest.raises(InvalidCiphertextError) as other_length:
        provider.unwrap(info, bytes(size), "1", CONTEXT)
    with pytest.raises(InvalidCiphertextError) as other_content:
        provider.unwrap(info, b"\1" * 256, "1", CONTEXT)
    public = cast(rsa.RSAPublicKey, serialization.load_der_public_key(provider.get_public_key(info, None)))
    short = public.encrypt(
        b"not 32 bytes", padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    )
    with pytest.raises(InvalidCiphertextError) as other_plaintext:
        provider.unwrap(info, short, "1", CONTEXT)
    assert str(other_length.value) == str(other_content.value) == str(other_plaintext.value)


# Signing, MAC, decryption


def check_signature(algorithm: Algorithm, spki: bytes, message: bytes, signature: bytes) -> None:
    """Verify under pyca alone; ``message`` is the digest where the algorithm has one."""
    public: Any = serialization.load_der_public_key(spki)
    assert (
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        == spki
    )
    spec = algorithm.spec
    if spec.digest is None:
        public.verify(signature, message)
        return
    digest = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[spec.digest]
    prehashed = utils.Prehashed(digest)
    if algorithm.startswith("ES"):
        public.verify(signature, message, ec.ECDSA(prehashed))
    elif algorithm.startswith("PS"):
        public.verify(signature, message, padding.PSS(padding.MGF1(digest), digest.digest_size), prehashed)
    else:
        public.verify(signature, message, padding.PKCS1v15(), prehashed)


SIGNING = [
    (algorithm, min(algorithm.spec.key_sizes, default=None))
    for algorithm in Algorithm
    if KeyPurpose.SIGN_VERIFY in algorithm.spec.purposes
]


@pytest.mark.parametrize(("algorithm", "size"), SIGNING)
def test_signatures_verify_with_the_public_key(
    provider: LocalProvider, algorithm: Algorithm, size: int | None
) -> None:
    info = make(provider, "releases", KeyPurpose.SIGN_VERIFY, algorithm=algorithm, key_size=size)
    hashed = algorithm.spec.digest is not None
    message = b"d" * (algorithm.spec.digest_size or 4096)
    signature = provider.sign(info, message, hashed)
    spki = provider.get_public_key(info, None)
    check_signature(algorithm, spki, message, signature)
    with pytest.raises(InvalidSignature):
        check_signature(algorithm, spki, b"e" + message[1:], signature)
    assert provider.get_public_key(info, "1") == spki
    assert hashes_to(spki) == info.fingerprint == provider.describe_key(info).versions[0].fingerprint
    if hashed:
        for wrong in (message[:-1], message + b"d", b""):
            with pytest.raises(InvalidArgumentError):
                provider.sign(info, wrong, True)
        with pytest.raises(InvalidArgumentError):
            provider.sign(info, message, False)
    else:
        with pytest.raises(UnsupportedOperationError):
            provider.sign(info, message, True)
        for wrong in (b"", message + b"d"):
            with pytest.raises(InvalidArgumentError):
                provider.sign(info, wrong, False)


def hashes_to(data: bytes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize().hex()


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_macs(provider: LocalProvider, algorithm: str, size: int) -> None:
    info = make(provider, "macs", KeyPurpose.MAC, algorithm=algorithm)
    tag = provider.mac(info, b"message")
    assert len(tag) == size
    provider.verify_mac(info, b"message", tag)
    for message, wrong in (
        (b"massage", tag),
        (b"message", tag[:-1]),
        (b"message", tag + b"\0"),
        (b"message", b""),
        (b"message", bytes(size)),
    ):
        with pytest.raises(InvalidMacError):
            provider.verify_mac(info, message, wrong)
    for bad in (b"", bytes(4097)):
        with pytest.raises(InvalidArgumentError):
            provider.mac(info, bad)


def test_rsa_decryption(provider: LocalProvider) -> None:
    info = make(provider, "inbox", KeyPurpose.ASYMMETRIC_DECRYPT, key_size=2048)
    assert info.sender_key() is None
    public = cast(rsa.RSAPublicKey, serialization.load_der_public_key(provider.get_public_key(info, None)))
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    for plaintext in (b"", b"hello", bytes(190)):
        assert provider.decrypt(info, public.encrypt(plaintext, oaep)) == plaintext
    old = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 (it must be refused)
    for wrong in (public.encrypt(b"hello", old), bytes(256), b"\xff" * 256, b"", bytes(255), bytes(257)):
        with pytest.raises(InvalidCiphertextError):
            provider.decrypt(info, wrong)


# Names


def test_a_name_is_used_once(provider: LocalProvider, clock: Clock) -> None:
    info = wrapping(provider)
    for taken in (KeyState.ENABLED, KeyState.DISABLED):
        provider.set_enabled(info, taken is KeyState.ENABLED)
        with pytest.raises(KeyExistsError):
            wrapping(provider)
    provider.schedule_destruction(info)
    with pytest.raises(NameReservedError):
        wrapping(provider)
    clock.advance(days=30)
    with pytest.raises(NameReservedError):
        wrapping(provider)
    assert list(provider.list_keys()) == []


def test_get_key_by_name_and_by_uri(provider: LocalProvider, tmp_path: Path) -> None:
    info = wrapping(provider)
    assert provider.get_key(str(info.uri)) == info
    assert provider.get_key(str(info.uri.with_version("7"))) == info
    other = LocalProvider.connect(ConnectionURI.parse(f"local://{tmp_path}/other.db"), create=True)
    foreign = wrapping(other)
    for name in (
        "nobody",
        "",
        "orders/1",
        "orders--sender",
        "\ud800",
        "Orders",
        str(foreign.uri),
        "azurekms://v.vault.azure.net/orders",
    ):
        with pytest.raises(KeyNotFoundError) as caught:
            provider.get_key(name)
        assert type(caught.value) is KeyNotFoundError
    with pytest.raises(KeyNotFoundError):
        provider.wrap(foreign, DATA_KEY, CONTEXT)
    with pytest.raises(KeyNotFoundError):
        provider.describe_key(foreign)
    other.close()


def test_what_a_local_key_cannot_be(provider: LocalProvider) -> None:
    for level in (ProtectionLevel.HSM, ProtectionLevel.EXTERNAL):
        with pytest.raises(UnsupportedOperationError):
            wrapping(provider, protection_level=level)
    template = KeyConf("orders", KeyPurpose.ENCRYPT_DECRYPT).template(Algorithm.A256GCM)
    with pytest.raises(InvalidArgumentError):
        provider.create_key(replace(template, purpose=KeyPurpose.MAC))
    for name in ("o", "a--b", "A", "a/b", "a" * 64):
        with pytest.raises(InvalidArgumentError):
            provider.create_key(replace(template, name=name))
    assert list(provider.list_keys()) == []


# KeyInfo against the store


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("algorithm", Algorithm.ES256K),
        ("fingerprint", "0" * 64),
        ("created_at", START - timedelta(seconds=1)),
        ("conf_digest", None),
        ("tags", {"a": "b"}),
        ("destroy_window", 7),
        ("key_size", 2048),
        ("sender_authenticated", False),
        ("protection_level", ProtectionLevel.HSM),
        ("origin", KeyOrigin.IMPORTED),
    ],
)
def test_a_key_info_that_disagrees_with_the_store_is_refused(
    provider: LocalProvider, field: str, value: object
) -> None:
    info = make(provider, "sig", KeyPurpose.SIGN_VERIFY, algorithm="ES256")
    forged = replace(info, **cast("dict[str, Any]", {field: value}))
    operations: list[Callable[[], object]] = [
        lambda: provider.sign(forged, bytes(32), True),
        lambda: provider.get_public_key(forged, None),
        lambda: provider.describe_key(forged),
        lambda: provider.set_enabled(forged, False),
        lambda: provider.schedule_destruction(forged),
    ]
    for operation in operations:
        with pytest.raises(IntegrityError, match=field):
            operation()
    assert provider.describe_key(info).state is KeyState.ENABLED


def test_a_forged_purpose_or_sender_is_refused(provider: LocalProvider) -> None:
    signer = make(provider, "sig", KeyPurpose.SIGN_VERIFY, algorithm="ES256")
    forged = replace(signer, purpose=KeyPurpose.ENCRYPT_DECRYPT)
    with pytest.raises(IntegrityError, match="purpose"):
        provider.wrap(forged, DATA_KEY, CONTEXT)
    vault = rsa_wrapping(provider)
    with pytest.raises(IntegrityError, match="fingerprint"):
        provider.sign(replace(sender_of(vault), fingerprint="1" * 64), bytes(32), True)
    ghost = replace(signer, name="sig--sender", uri=KeyURI("local", signer.uri.resource + "--sender"))
    with pytest.raises(KeyNotFoundError):
        provider.sign(ghost, bytes(32), True)
    for name in ("sig/1", "other", "sig--sender", ""):
        with pytest.raises(IntegrityError, match="name"):
            provider.sign(replace(signer, name=name), bytes(32), True)
    with pytest.raises(TypeError):
        provider.sign(cast(KeyInfo, UnverifiedKeyInfo.from_json(signer.to_json())), bytes(32), True)


def test_a_key_the_store_never_had_is_destroyed_to_a_key_info(provider: LocalProvider) -> None:
    info = wrapping(provider)
    gone = replace(info, name="gone", uri=KeyURI("local", info.uri.resource.replace("orders", "gone")))
    with pytest.raises(KeyDestroyedError):
        provider.wrap(gone, DATA_KEY, CONTEXT)
    with pytest.raises(KeyDestroyedError):
        provider.describe_key(gone)


def test_every_operation_asks_for_its_purpose(provider: LocalProvider) -> None:
    keys = {
        KeyPurpose.ENCRYPT_DECRYPT: wrapping(provider),
        KeyPurpose.SIGN_VERIFY: make(provider, "sig", KeyPurpose.SIGN_VERIFY, algorithm="ES256"),
        KeyPurpose.MAC: make(provider, "macs", KeyPurpose.MAC, algorithm="HS256"),
        KeyPurpose.ASYMMETRIC_DECRYPT: make(provider, "inbox", KeyPurpose.ASYMMETRIC_DECRYPT, key_size=2048),
    }
    operations: list[tuple[KeyPurpose, Callable[[KeyInfo], object]]] = [
        (KeyPurpose.ENCRYPT_DECRYPT, lambda key: provider.wrap(key, DATA_KEY, CONTEXT)),
        (KeyPurpose.ENCRYPT_DECRYPT, lambda key: provider.unwrap(key, bytes(104), "1", CONTEXT)),
        (KeyPurpose.SIGN_VERIFY, lambda key: provider.sign(key, bytes(32), True)),
        (KeyPurpose.MAC, lambda key: provider.mac(key, b"m")),
        (KeyPurpose.MAC, lambda key: provider.verify_mac(key, b"m", bytes(32))),
        (KeyPurpose.ASYMMETRIC_DECRYPT, lambda key: provider.decrypt(key, bytes(256))),
    ]
    for (purpose, operation), other in itertools.product(operations, keys):
        if other is not purpose:
            with pytest.raises(KeyUsageError):
                operation(keys[other])
    for symmetric in (KeyPurpose.ENCRYPT_DECRYPT, KeyPurpose.MAC):
        with pytest.raises(KeyUsageError):
            provider.get_public_key(keys[symmetric], None)
    for purpose, key in keys.items():
        if purpose is not KeyPurpose.ENCRYPT_DECRYPT:
            with pytest.raises(UnsupportedOperationError):
                provider.rotate_key(key)


# States


def reach(provider: LocalProvider, clock: Clock, info: KeyInfo, state: KeyState) -> None:
    if state is KeyState.DISABLED:
        provider.set_enabled(info, False)
    if state in (KeyState.PENDING_DESTRUCTION, KeyState.DESTROYED):
        provider.schedule_destruction(info)
    if state is KeyState.DESTROYED:
        clock.advance(days=30)


REFUSALS: dict[KeyState, type[KMSError]] = {
    KeyState.DISABLED: KeyDisabledError,
    KeyState.PENDING_DESTRUCTION: KeyPendingDestructionError,
    KeyState.DESTROYED: KeyDestroyedError,
}


@pytest.mark.parametrize("state", REFUSALS)
def test_no_key_works_unless_enabled(provider: LocalProvider, clock: Clock, state: KeyState) -> None:
    orders, vault = wrapping(provider), rsa_wrapping(provider)
    signer = make(provider, "sig", KeyPurpose.SIGN_VERIFY, algorithm="ES256")
    macs = make(provider, "macs", KeyPurpose.MAC, algorithm="HS256")
    inbox = make(provider, "inbox", KeyPurpose.ASYMMETRIC_DECRYPT, key_size=2048)
    wrapped = provider.wrap(orders, DATA_KEY, CONTEXT)
    tag = provider.mac(macs, b"m")
    for info in (orders, vault, signer, macs, inbox):
        reach(
            provider, clock, info, state
        ) if state is not KeyState.DESTROYED else provider.schedule_destruction(info)
    if state is KeyState.DESTROYED:
        clock.advance(days=30)
    operations: list[Callable[[], object]] = [
        lambda: provider.wrap(orders, DATA_KEY, CONTEXT),
        lambda: provider.unwrap(orders, wrapped.ciphertext, wrapped.version, CONTEXT),
        lambda: provider.unwrap(orders, b"", "9", CONTEXT),
        lambda: provider.rotate_key(orders),
        lambda: provider.wrap(vault, DATA_KEY, CONTEXT),
        lambda: provider.unwrap(vault, bytes(256), "1", CONTEXT),
        lambda: provider.get_public_key(vault, None),
        lambda: provider.sign(sender_of(vault), bytes(32), True),
        lambda: provider.get_public_key(sender_of(vault), None),
        lambda: provider.sign(signer, bytes(32), True),
        lambda: provider.get_public_key(signer, None),
        lambda: provider.mac(macs, b"m"),
        lambda: provider.verify_mac(macs, b"m", tag),
        lambda: provider.decrypt(inbox, bytes(256)),
        lambda: provider.get_public_key(inbox, None),
    ]
    for operation in operations:
        with pytest.raises(REFUSALS[state]):
            operation()


@pytest.mark.parametrize(
    ("state", "enable", "disable", "schedule", "cancel"),
    [
        (KeyState.ENABLED, KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DESTRUCTION, KeyStateError),
        (KeyState.DISABLED, KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DESTRUCTION, KeyStateError),
        (
            KeyState.PENDING_DESTRUCTION,
            KeyPendingDestructionError,
            KeyPendingDestructionError,
            KeyPendingDestructionError,
            KeyState.DISABLED,
        ),
        (KeyState.DESTROYED, *(KeyDestroyedError,) * 4),
    ],
)
def test_every_state_and_lifecycle_operation(
    provider: LocalProvider,
    clock: Clock,
    state: KeyState,
    enable: KeyState | type[KMSError],
    disable: KeyState | type[KMSError],
    schedule: KeyState | type[KMSError],
    cancel: KeyState | type[KMSError],
) -> None:
    changes: list[tuple[Callable[[KeyInfo], object], KeyState | type[KMSError]]] = [
        (lambda info: provider.set_enabled(info, True), enable),
        (lambda info: provider.set_enabled(info, False), disable),
        (provider.schedule_destruction, schedule),
        (provider.cancel_destruction, cancel),
    ]
    for number, (change, outcome) in enumerate(changes):
        info = wrapping(provider, f"key-{number}")
        reach(provider, clock, info, state)
        assert provider.describe_key(info).state is state
        if isinstance(outcome, KeyState):
            change(info)
            assert provider.describe_key(info).state is outcome
        else:
            with pytest.raises(outcome) as caught:
                change(info)
            assert type(caught.value) is outcome
            assert provider.describe_key(info).state is state


def test_listing_has_every_state_but_destroyed(provider: LocalProvider, clock: Clock) -> None:
    for state in (KeyState.DESTROYED, KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_DESTRUCTION):
        info = wrapping(provider, state.lower().replace("_", "-"))
        reach(provider, clock, info, state)
    assert [key.name for key in provider.list_keys()] == ["disabled", "enabled", "pending-destruction"]
    assert provider.get_key("pending-destruction").name == "pending-destruction"
    with pytest.raises(KeyNotFoundError) as caught:
        provider.get_key("destroyed")
    assert type(caught.value) is KeyNotFoundError


# Dates


@pytest.mark.parametrize(("window", "days"), [(None, 30), (7, 7), (30, 30)])
def test_a_destruction_happens_when_its_window_has_passed(
    provider: LocalProvider, clock: Clock, window: int | None, days: int
) -> None:
    info = wrapping(provider, destroy_window=window)
    assert info.destroy_window == days
    at = provider.schedule_destruction(info)
    assert at == START + timedelta(days=days)
    assert provider.describe_key(info).destroy_at == at
    clock.now = at - timedelta(seconds=1)
    assert provider.describe_key(info).state is KeyState.PENDING_DESTRUCTION
    clock.now = at
    status = provider.describe_key(info)
    assert (status.state, status.destroy_at, status.current_version) == (KeyState.DESTROYED, None, None)


def test_cancelling_leaves_no_date_behind(provider: LocalProvider, clock: Clock) -> None:
    info = wrapping(provider)
    provider.schedule_destruction(info)
    provider.cancel_destruction(info)
    clock.advance(days=31)
    assert provider.describe_key(info).destroy_at is None
    provider.set_enabled(info, True)
    assert len(provider.wrap(info, DATA_KEY, CONTEXT).ciphertext) == 104


@pytest.mark.parametrize(
    "access", ["get_key", "list_keys", "describe_key", "wrap", "set_enabled", "create_key", "connect"]
)
def test_destruction_overwrites_the_material_on_the_next_access(
    provider: LocalProvider, clock: Clock, path: Path, access: str
) -> None:
    info = rsa_wrapping(provider)
    provider.rotate_key(info)
    with sqlite3.connect(path) as reader:
        sealed = [row[0] for row in reader.execute("SELECT sealed FROM entries WHERE id GLOB '*/*'")]
    reader.close()
    assert len(sealed) == 3
    provider.schedule_destruction(info)
    assert all(left_of(part, path) for part in sealed)
    clock.advance(days=30)
    attempts: dict[str, Callable[[], object]] = {
        "get_key": lambda: provider.get_key("vault"),
        "list_keys": lambda: list(provider.list_keys()),
        "describe_key": lambda: provider.describe_key(info),
        "wrap": lambda: provider.wrap(info, DATA_KEY, CONTEXT),
        "set_enabled": lambda: provider.set_enabled(info, True),
        "create_key": lambda: rsa_wrapping(provider),
        "connect": lambda: LocalProvider.connect(ConnectionURI.parse(f"local://{path}"), clock=clock).close(),
    }
    with contextlib.suppress(KeyNotFoundError, NameReservedError):
        attempts[access]()
    assert not any(left_of(part, path) for part in sealed)


def left_of(sealed: bytes, path: Path) -> list[int]:
    """Where a 16-byte piece of ``sealed`` is still in the database or its log."""
    files = [file.read_bytes() for file in path.parent.iterdir() if file.suffix != ".root"]
    return [
        at for at in range(0, len(sealed) - 16, 16) if any(sealed[at : at + 16] in data for data in files)
    ]


def test_a_clock_that_goes_back_does_not_raise_the_dead(provider: LocalProvider, clock: Clock) -> None:
    info = wrapping(provider)
    provider.schedule_destruction(info)
    clock.advance(days=31)
    assert provider.describe_key(info).state is KeyState.DESTROYED
    clock.now = START - timedelta(days=365)
    assert provider.describe_key(info).state is KeyState.DESTROYED
    for attempt in (
        lambda: provider.cancel_destruction(info),
        lambda: provider.set_enabled(info, True),
        lambda: provider.wrap(info, DATA_KEY, CONTEXT),
    ):
        with pytest.raises(KeyDestroyedError):
            attempt()


def test_keys_rotate_by_themselves_when_their_period_has_passed(
    provider: LocalProvider, clock: Clock
) -> None:
    info = wrapping(provider, rotation_period=90)
    status = provider.describe_key(info)
    assert (status.rotation_period, status.next_rotation_at) == (90, START + timedelta(days=90))
    old = provider.wrap(info, DATA_KEY, CONTEXT)
    clock.advance(days=90, seconds=-1)
    assert provider.wrap(info, DATA_KEY, CONTEXT).version == "1"
    clock.advance(seconds=1)
    assert provider.unwrap(info, old.ciphertext, old.version, CONTEXT) == DATA_KEY
    assert provider.wrap(info, DATA_KEY, CONTEXT).version == "2"
    assert provider.wrap(info, DATA_KEY, CONTEXT).version == "2"
    status = provider.describe_key(info)
    assert status.next_rotation_at == START + timedelta(days=180)
    clock.advance(days=400)
    assert provider.describe_key(info).current_version == "3"
    assert provider.unwrap(info, old.ciphertext, old.version, CONTEXT) == DATA_KEY


def test_a_disabled_key_does_not_rotate(provider: LocalProvider, clock: Clock) -> None:
    info = wrapping(provider, rotation_period=90)
    provider.set_enabled(info, False)
    clock.advance(days=100)
    assert provider.describe_key(info).current_version == "1"
    provider.set_enabled(info, True)
    assert provider.wrap(info, DATA_KEY, CONTEXT).version == "2"


def test_a_clock_without_time_zone_is_refused(path: Path) -> None:
    naive = LocalProvider.connect(
        ConnectionURI.parse(f"local://{path}"), create=True, clock=lambda: START.replace(tzinfo=None)
    )
    with pytest.raises(InvalidArgumentError):
        wrapping(naive)
    naive.close()


# What must not show


def test_no_material_in_any_repr(provider: LocalProvider, path: Path) -> None:
    info = make(provider, "macs", KeyPurpose.MAC, algorithm="HS256")
    entry = provider._store.fetch("macs", "macs/1")[1]  # pyright: ignore[reportPrivateUsage] (looks for leaks)
    assert entry is not None
    assert len(entry.secret) == 32
    root = path.with_name("keys.db.root").read_bytes()
    shown = "".join(map(repr, (provider, entry, vars(provider), vars(provider._store), info)))  # pyright: ignore[reportPrivateUsage] (looks for leaks)
    for secret in (entry.secret, root):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


def test_a_provider_cannot_be_pickled(provider: LocalProvider) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(provider)


def test_a_closed_provider_says_so(provider: LocalProvider) -> None:
    info = wrapping(provider)
    provider.close()
    provider.close()
    with pytest.raises(InvalidArgumentError, match="closed"):
        provider.wrap(info, DATA_KEY, CONTEXT)
