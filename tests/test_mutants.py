"""The suite proves itself: providers that are broken on purpose, each caught by a named clause on its first run.

``python tests/test_mutants.py`` writes docs/mutants.md.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import (
    InvalidCiphertextError,
    InvalidMacError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyExistsError,
    KeyNotFoundError,
    KeyPendingDestructionError,
    KeyStateError,
    KMSError,
    NameReservedError,
    PermissionDeniedError,
    ThrottledError,
    UnavailableError,
)
from anykms.keys import ConnectionURI, KeyInfo, KeyState, KeyStatus, KeyTemplate, ProtectionLevel
from anykms.provider import Capability, Operation, Provider, WrapContext, Wrapped
from anykms_contract import (
    AsymmetricDecryptionContract,
    CapabilityContract,
    ConsistencyContract,
    Contract,
    ErrorsContract,
    Harness,
    KeyInfoContract,
    LifecycleContract,
    MACContract,
    ObservedProvider,
    SigningContract,
    StateContract,
    WrappingContract,
)
from anykms_local import LocalProvider

PAGE: Final = Path(__file__).parents[1] / "docs" / "mutants.md"
_GCM: Final = "wrap-A256GCM"


@dataclass(frozen=True)
class Mutant:
    """A broken provider, and the clause that catches it."""

    kind: type[ObservedProvider]
    contract: type[Contract]
    clause: str

    @property
    def name(self) -> str:
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in self.kind.__name__).strip("-_")


MUTANTS: Final[list[Mutant]] = []


def caught_by(
    contract: type[Contract], clause: str
) -> Callable[[type[ObservedProvider]], type[ObservedProvider]]:
    """Enter the class in the list, with the clause that catches it."""

    def enter(kind: type[ObservedProvider]) -> type[ObservedProvider]:
        MUTANTS.append(Mutant(kind, contract, clause))
        return kind

    return enter


# Wrapped keys


@caught_by(WrappingContract, "test_another_context_does_not_open[other-value]")
class DropsTheContext(ObservedProvider):
    """Wraps and unwraps without the context."""

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        return super().wrap(info, data_key, WrapContext({}, b""))

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, version, WrapContext({}, b""))


class _Rebinds(ObservedProvider):
    """Binds something else than the context."""

    bind: ClassVar[Callable[[dict[str, str]], object]]

    def _bound(self, context: WrapContext) -> WrapContext:
        pairs = {name: value for name, value in context.pairs.items() if not name.startswith("anykms:")}
        said = repr(type(self).bind(pairs))
        return WrapContext({}, hashlib.sha256(said.encode()).digest())

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        return super().wrap(info, data_key, self._bound(context))

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, version, self._bound(context))


@caught_by(WrappingContract, "test_another_context_does_not_open[other-value]")
class BindsNamesOnly(_Rebinds):
    """Binds the names of the context, not the values."""

    bind = sorted


@caught_by(WrappingContract, "test_another_context_does_not_open[swapped]")
class BindsTheValuesAsASet(_Rebinds):
    """Binds names and values, but not which belongs to which."""

    bind = lambda pairs: (sorted(pairs), sorted(pairs.values()))  # noqa: E731 # one line of its own each


@caught_by(WrappingContract, "test_another_context_does_not_open[other-case]")
class IgnoresCase(_Rebinds):
    """Compares contexts without regard to case."""

    bind = lambda pairs: sorted((n.lower(), v.lower()) for n, v in pairs.items())  # noqa: E731


@caught_by(WrappingContract, "test_another_context_does_not_open[trailing-space]")
class TrimsSpaces(_Rebinds):
    """Compares contexts without the spaces around a value."""

    bind = lambda pairs: sorted((n.strip(), v.strip()) for n, v in pairs.items())  # noqa: E731


@caught_by(WrappingContract, "test_another_context_does_not_open[more]")
class BindsTheFirstPairs(_Rebinds):
    """Binds the first two pairs of the context."""

    bind = lambda pairs: sorted(pairs.items())[:2]  # noqa: E731


@caught_by(LifecycleContract, "test_old_messages_open_after_rotation_in_a_new_process")
class VerifiesWithTheLatestVersion(ObservedProvider):
    """Unwraps with the current version, whichever wrapped."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, self.describe_key(info).current_version, context)


@caught_by(WrappingContract, f"test_unwrap_gives_back_what_was_wrapped[{_GCM}]")
class ReturnsAByteMore(ObservedProvider):
    """Unwraps 33 bytes."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, version, context) + b"\0"


@caught_by(WrappingContract, "test_another_context_does_not_open[other-value]")
class SwallowsErrors(ObservedProvider):
    """Turns a failure into a key of zeros."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        try:
            return super().unwrap(info, wrapped, version, context)
        except KMSError:
            return bytes(32)


@caught_by(WrappingContract, f"test_wrapping_twice_gives_different_bytes[{_GCM}]")
class WrapsDeterministically(ObservedProvider):
    """Gives the same bytes for the same key."""

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        known: dict[bytes, Wrapped] = self.__dict__.setdefault("known", {})
        return known.setdefault(data_key, super().wrap(info, data_key, context))


@caught_by(WrappingContract, f"test_a_relabelled_wrap_does_not_open[{_GCM}]")
class ForgetsTheKeyId(ObservedProvider):
    """Unwraps with whichever key fits."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        for other in self.list_keys():
            if other.purpose is KeyPurpose.ENCRYPT_DECRYPT:
                try:
                    return super().unwrap(other, wrapped, version, context)
                except InvalidCiphertextError:
                    continue
        raise InvalidCiphertextError("not authentic")


@caught_by(WrappingContract, f"test_every_flipped_byte_is_refused[{_GCM}]")
class LeaksForeignErrors(ObservedProvider):
    """Lets an exception of its SDK out."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        try:
            return super().unwrap(info, wrapped, version, context)
        except InvalidCiphertextError as error:
            raise ValueError("botched") from error


@caught_by(WrappingContract, "test_another_context_does_not_open[missing]")
class CallsAForgeryADenial(ObservedProvider):
    """Reports a ciphertext that is not authentic as a missing permission."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        try:
            return super().unwrap(info, wrapped, version, context)
        except InvalidCiphertextError as error:
            raise PermissionDeniedError("not allowed") from error


# Signatures


@caught_by(SigningContract, "test_a_signature_verifies_everywhere[ES256]")
class SignsRaw(ObservedProvider):
    """Returns r || s where it declares DER."""

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        r, s = utils.decode_dss_signature(super().sign(info, message, prehashed))
        return r.to_bytes(32) + s.to_bytes(32)


@caught_by(SigningContract, "test_ecdsa_signatures_have_two_encodings[ES256]")
class SignsInBer(ObservedProvider):
    """Writes DER with a length longer than need be."""

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        signature = super().sign(info, message, prehashed)
        return b"\x30\x81" + signature[1:] if signature[0] == 0x30 else signature


@caught_by(SigningContract, "test_a_signature_verifies_everywhere[ES384]")
class SignsAnotherMessage(ObservedProvider):
    """Signs the digest backwards."""

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        return super().sign(info, message[::-1], prehashed)


@caught_by(SigningContract, "test_a_digest_can_be_brought[ES256]")
class HashesTwice(ObservedProvider):
    """Takes a digest for a message."""

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        again = hashlib.sha256(message).digest() if prehashed else message
        return super().sign(info, again, prehashed)


@caught_by(SigningContract, "test_whole_messages_have_limits[Ed25519]")
class SignsTheBeginning(ObservedProvider):
    """Signs the first 1024 bytes of a message."""

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        return super().sign(info, message[:1024], prehashed)


@caught_by(SigningContract, "test_the_public_key_is_the_pinned_one[ES256]")
class ExportsPem(ObservedProvider):
    """Gives the public key as PEM."""

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        loaded = load_der_public_key(super().get_public_key(info, version))
        return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@caught_by(SigningContract, "test_the_public_key_is_the_pinned_one[ES384]")
class ExportsAnotherKey(ObservedProvider):
    """Gives a public key that is not the key's."""

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        return _spki(ec.generate_private_key(ec.SECP384R1()))


class _OwnsRsa(ObservedProvider):
    """Signs PS256 itself, under a key of its own that it reports as the key's."""

    keys: ClassVar[dict[str, rsa.RSAPrivateKey]] = {}

    def _own(self, info: KeyInfo) -> KeyInfo:
        if info.algorithm is not Algorithm.PS256:
            return info
        if info.name not in self.keys:
            self.keys[info.name] = rsa.generate_private_key(65537, info.key_size or 2048)
        return replace(info, fingerprint=hashlib.sha256(_spki(self.keys[info.name])).hexdigest())

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return self._own(super().create_key(template))

    def get_key(self, name: str) -> KeyInfo:
        return self._own(super().get_key(name))

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        return _spki(self.keys[info.name])

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        return self.keys[info.name].sign(message, self.scheme_of(), utils.Prehashed(hashes.SHA256()))

    def scheme_of(self) -> padding.AsymmetricPadding:
        return padding.PSS(padding.MGF1(hashes.SHA256()), 32)


@caught_by(SigningContract, "test_a_signature_verifies_everywhere[PS256-2048]")
class SaltsWithTwentyBytes(_OwnsRsa):
    """Uses a PSS salt of 20 bytes."""

    def scheme_of(self) -> padding.AsymmetricPadding:
        return padding.PSS(padding.MGF1(hashes.SHA256()), 20)


@caught_by(SigningContract, "test_a_signature_verifies_everywhere[PS256-2048]")
class SaltsAtFullLength(_OwnsRsa):
    """Uses the longest PSS salt that fits, OpenSSL's default."""

    def scheme_of(self) -> padding.AsymmetricPadding:
        return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)


@caught_by(SigningContract, "test_rsa_paddings_are_not_confused[PS256-2048]")
class PadsTheOldWay(_OwnsRsa):
    """Signs PS256 with PKCS #1 v1.5 padding."""

    def scheme_of(self) -> padding.AsymmetricPadding:
        return padding.PKCS1v15()


# MACs


@caught_by(MACContract, "test_a_tag_verifies[HS256]")
class TruncatesTags(ObservedProvider):
    """Gives half a tag."""

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        return super().mac(info, message)[:16]


@caught_by(MACContract, "test_every_other_tag_is_refused[HS256]")
class AcceptsEveryTag(ObservedProvider):
    """Verifies nothing."""

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        super().mac(info, message)


@caught_by(MACContract, "test_every_other_tag_is_refused[HS384]")
class ComparesHalfTheTag(ObservedProvider):
    """Compares the first 16 bytes of the tag."""

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        if super().mac(info, message)[:16] != tag[:16]:
            raise InvalidMacError("the tag does not belong to this message and key")


@caught_by(MACContract, "test_another_message_or_key_is_refused[HS256]")
class UsesOneKeyForAll(ObservedProvider):
    """Takes the first MAC key, whichever is asked for."""

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        return super().mac(next(k for k in self.list_keys() if k.algorithm is info.algorithm), message)

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        if self.mac(info, message) != tag:
            raise InvalidMacError("the tag does not belong to this message and key")


@caught_by(MACContract, "test_message_sizes[HS256]")
class MacsTheBeginning(ObservedProvider):
    """Takes the first 2048 bytes of a message."""

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        return super().mac(info, message[:2048])

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        super().verify_mac(info, message[:2048], tag)


# RSA decryption


@caught_by(AsymmetricDecryptionContract, "test_plaintexts_of_every_size_come_back[RSA-OAEP-256-2048]")
class PadsPlaintexts(ObservedProvider):
    """Fills a decrypted plaintext to 32 bytes."""

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        return super().decrypt(info, ciphertext).rjust(32, b"\0")


_ONE_TEXT: Final = "test_every_failure_is_one_class_and_text_and_is_not_retried[RSA-OAEP-256-2048]"


@caught_by(AsymmetricDecryptionContract, _ONE_TEXT)
class DecryptsGarbageToGarbage(ObservedProvider):
    """Rejects a ciphertext implicitly, with random bytes."""

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        try:
            return super().decrypt(info, ciphertext)
        except InvalidCiphertextError:
            return hashlib.sha256(ciphertext).digest()


# States


@caught_by(StateContract, "test_cryptography_in_every_state_unseen[wrap-DISABLED]")
class IgnoresADisabledState(ObservedProvider):
    """Wraps under a disabled key, as a service does that checks the state elsewhere."""

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        try:
            return super().wrap(info, data_key, context)
        except KeyDisabledError:
            return Wrapped("1", bytes(104))


@caught_by(StateContract, "test_cryptography_in_every_state_unseen[mac-DISABLED]")
class MacsWithADisabledKey(ObservedProvider):
    """Makes MACs with a disabled key."""

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        try:
            return super().mac(info, message)
        except KeyDisabledError:
            return bytes(32)


@caught_by(StateContract, "test_cryptography_in_every_state_unseen[unwrap-PENDING_DESTRUCTION]")
class UnwrapsWhilePending(ObservedProvider):
    """Unwraps with a key that is pending destruction."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        try:
            return super().unwrap(info, wrapped, version, context)
        except KeyPendingDestructionError:
            return bytes(32)


@caught_by(StateContract, "test_cryptography_in_every_state_unseen[decrypt-PENDING_DESTRUCTION]")
class CallsPendingDisabled(ObservedProvider):
    """Reports a key pending destruction as disabled when it decrypts."""

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        try:
            return super().decrypt(info, ciphertext)
        except KeyPendingDestructionError as error:
            raise KeyDisabledError("disabled") from error


@caught_by(StateContract, "test_the_lifecycle_in_every_state[enable-PENDING_DESTRUCTION]")
class RevivesOnEnable(ObservedProvider):
    """Takes a key back from its destruction when it is enabled."""

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        try:
            super().set_enabled(info, enabled)
        except KeyPendingDestructionError:
            super().cancel_destruction(info)
            super().set_enabled(info, enabled)


@caught_by(StateContract, "test_the_lifecycle_in_every_state[cancel-DISABLED]")
class CancelsNothing(ObservedProvider):
    """Cancels a destruction that nobody scheduled, without a word."""

    def cancel_destruction(self, info: KeyInfo) -> None:
        try:
            super().cancel_destruction(info)
        except KeyStateError:
            return


@caught_by(StateContract, "test_our_own_changes_are_seen_at_once")
class RemembersTheState(ObservedProvider):
    """Answers with the first status that it has seen."""

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        known: dict[str, KeyStatus] = self.__dict__.setdefault("known", {})
        return known.setdefault(info.name, super().describe_key(info))


# At once, and late


@caught_by(ConsistencyContract, "test_a_name_is_given_once_to_two_at_once[wrapping]")
class ReplacesAKeyOfTheName(ObservedProvider):
    """Takes the name from whoever has it."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        try:
            return super().create_key(template)
        except KeyExistsError:
            return super().get_key(template.name)


@caught_by(ConsistencyContract, "test_what_a_lifecycle_call_has_said_stays[1]")
class RotatesOnEveryRead(ObservedProvider):
    """Rotates once more where a read does not show the rotation."""

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        super().rotate_key(info)
        return super().rotate_key(info)


@caught_by(ConsistencyContract, "test_dates_are_the_providers[ten-years-ahead]")
class CountsTheWindowItself(ObservedProvider):
    """Says a day of destruction of its own."""

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        status = super().describe_key(info)
        return status if status.destroy_at is None else replace(status, destroy_at=_NEXT_YEAR)


_NEXT_YEAR: Final = datetime(2050, 1, 1, tzinfo=UTC)


@caught_by(ConsistencyContract, "test_a_rotation_disturbs_no_decryption")
class OpensWithTheNewestVersion(ObservedProvider):
    """Unwraps with the version of the last rotation."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return super().unwrap(info, wrapped, self.describe_key(info).current_version, context)


# Lifecycle


@caught_by(LifecycleContract, "test_a_cancelled_destruction_gives_a_disabled_key")
class EnablesOnCancel(ObservedProvider):
    """Gives ENABLED when a destruction is cancelled."""

    def cancel_destruction(self, info: KeyInfo) -> None:
        super().cancel_destruction(info)
        self.set_enabled(info, True)


@caught_by(LifecycleContract, "test_a_scheduled_destruction_says_when")
class DestroysAtOnce(ObservedProvider):
    """Destroys without a window."""

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        self.__dict__.setdefault("gone", set()).add(info.name)
        return super().schedule_destruction(info)

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        if info.name in self.__dict__.get("gone", ()):
            raise KeyDestroyedError("the key is destroyed")
        return super().describe_key(info)


@caught_by(LifecycleContract, "test_destruction_waits_for_its_window")
class KeepsNoDueDate(ObservedProvider):
    """Does not say when a key is destroyed."""

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        return replace(super().describe_key(info), destroy_at=None)


@caught_by(LifecycleContract, "test_the_destroy_window_is_kept_exactly[7]")
class IgnoresTheDestroyWindow(ObservedProvider):
    """Gives every key the default destroy window."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return super().create_key(replace(template, destroy_window=None))


@caught_by(LifecycleContract, "test_a_rotation_period_at_the_limits_is_kept[90]")
class DropsTheRotationPeriod(ObservedProvider):
    """Makes keys that never rotate by themselves."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return super().create_key(replace(template, rotation_period=None))


@caught_by(LifecycleContract, "test_tags_at_the_limits_are_kept")
class LosesTags(ObservedProvider):
    """Keeps no tags."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return super().create_key(replace(template, tags={}))


@caught_by(LifecycleContract, "test_tags_at_the_limits_are_kept")
class DropsEmptyTags(ObservedProvider):
    """Keeps no tag whose value is empty."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return super().create_key(replace(template, tags={n: v for n, v in template.tags.items() if v}))


@caught_by(LifecycleContract, "test_the_longest_name_is_kept")
class CutsNames(ObservedProvider):
    """Cuts a name after 48 characters."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return super().create_key(replace(template, name=template.name[:48]))


@caught_by(LifecycleContract, "test_create_twice_is_refused_and_leaves_nothing[wrapping]")
class CreatesIdempotently(ObservedProvider):
    """Gives the key that has the name, whatever was asked for."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        try:
            return super().create_key(template)
        except KeyExistsError:
            return super().get_key(template.name)


@caught_by(LifecycleContract, "test_the_name_of_a_key_pending_destruction_is_reserved")
class CallsAReservedNameTaken(ObservedProvider):
    """Does not tell a reserved name from one that is taken."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        try:
            return super().create_key(template)
        except NameReservedError as error:
            raise KeyExistsError("taken") from error


@caught_by(LifecycleContract, "test_an_unknown_name_is_not_found")
class CallsTheUnknownDestroyed(ObservedProvider):
    """Reports a name that it never had as a destroyed key."""

    def get_key(self, name: str) -> KeyInfo:
        try:
            return super().get_key(name)
        except KeyNotFoundError as error:
            raise KeyDestroyedError("gone") from error


@caught_by(LifecycleContract, "test_a_destroyed_key_is_gone")
class FindsTheDestroyed(ObservedProvider):
    """Finds a destroyed key by its name."""

    known: ClassVar[dict[str, KeyInfo]] = {}

    def get_key(self, name: str) -> KeyInfo:
        try:
            return self.known.setdefault(name, super().get_key(name))
        except KeyNotFoundError:
            if name in self.known:
                return self.known[name]
            raise


@caught_by(LifecycleContract, "test_the_list_holds_every_key_but_destroyed_ones")
class ListsNothing(ObservedProvider):
    """Lists no key."""

    def list_keys(self) -> Iterator[KeyInfo]:
        return itertools.islice(super().list_keys(), 0)


@caught_by(LifecycleContract, "test_the_list_holds_every_key_but_destroyed_ones")
class HidesDisabledKeys(ObservedProvider):
    """Lists enabled keys only."""

    def list_keys(self) -> Iterator[KeyInfo]:
        return (k for k in super().list_keys() if self.describe_key(k).state is not KeyState.DISABLED)


@caught_by(LifecycleContract, "test_the_list_holds_every_key_but_destroyed_ones")
class StopsAfterAPage(ObservedProvider):
    """Lists the first page, of two keys."""

    def list_keys(self) -> Iterator[KeyInfo]:
        return itertools.islice(super().list_keys(), 2)


@caught_by(LifecycleContract, "test_disable_and_enable")
class TogglesInstead(ObservedProvider):
    """Enables a key that is disabled twice."""

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        state = self.describe_key(info).state
        super().set_enabled(info, state is KeyState.DISABLED)


@caught_by(LifecycleContract, "test_old_messages_open_after_rotation_in_a_new_process")
class RotatesInPlace(ObservedProvider):
    """Loses the old version when a key is rotated."""

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        if version != self.describe_key(info).current_version:
            raise InvalidCiphertextError("no such version")
        return super().unwrap(info, wrapped, version, context)


@caught_by(LifecycleContract, "test_rotation_makes_a_new_version_of_the_same_key")
class RotatesNothing(ObservedProvider):
    """Says that it rotated, and did not."""

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        return super().describe_key(info)


@caught_by(LifecycleContract, "test_rotation_makes_a_new_version_of_the_same_key")
class CallsTheOldestCurrent(ObservedProvider):
    """Names the oldest version as the current one."""

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        status = super().describe_key(info)
        oldest = min(status.versions, key=lambda version: (version.created_at, int(version.id)))
        return replace(status, current_version=oldest.id)


# Facts


class _Misreports(ObservedProvider):
    """Makes sound keys and misreports their facts."""

    def told(self, info: KeyInfo) -> KeyInfo:
        return info

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return self.told(super().create_key(template))

    def get_key(self, name: str) -> KeyInfo:
        return self.told(super().get_key(name))


@caught_by(KeyInfoContract, f"test_times_are_utc_and_whole_seconds[{_GCM}]")
class LeavesTheZoneOut(_Misreports):
    """Gives times without a zone."""

    def told(self, info: KeyInfo) -> KeyInfo:
        return replace(info, created_at=info.created_at.replace(tzinfo=None))


@caught_by(KeyInfoContract, f"test_times_are_utc_and_whole_seconds[{_GCM}]")
class KeepsLocalTime(_Misreports):
    """Gives times in a zone of its own."""

    def told(self, info: KeyInfo) -> KeyInfo:
        return replace(info, created_at=info.created_at.astimezone(timezone(timedelta(hours=2))))


@caught_by(KeyInfoContract, f"test_times_are_utc_and_whole_seconds[{_GCM}]")
class CountsMicroseconds(_Misreports):
    """Gives times finer than seconds."""

    def told(self, info: KeyInfo) -> KeyInfo:
        return replace(info, created_at=info.created_at.replace(microsecond=1))


@caught_by(KeyInfoContract, f"test_the_uri_is_canonical[{_GCM}]")
class PutsAVersionIntoTheUri(_Misreports):
    """Names a version in the URI of a key that rotates."""

    def told(self, info: KeyInfo) -> KeyInfo:
        wraps = info.purpose is KeyPurpose.ENCRYPT_DECRYPT
        return replace(info, uri=info.uri.with_version("1")) if wraps else info


@caught_by(KeyInfoContract, "test_fingerprints[ES256]")
class WritesHexInCapitals(_Misreports):
    """Writes fingerprints in upper case."""

    def told(self, info: KeyInfo) -> KeyInfo:
        return replace(info, fingerprint=info.fingerprint and info.fingerprint.upper())


@caught_by(KeyInfoContract, f"test_the_facts_have_one_shape[{_GCM}]")
class NamesItselfOtherwise(_Misreports):
    """Gives a provider in its facts that is not its scheme."""

    def told(self, info: KeyInfo) -> KeyInfo:
        return replace(info, provider="elsewhere")


@caught_by(KeyInfoContract, "test_the_conf_digest_is_the_confs")
class ForgetsTheConf(_Misreports):
    """Keeps no digest of the conf."""

    def told(self, info: KeyInfo) -> KeyInfo:
        return replace(info, conf_digest=None)


@caught_by(KeyInfoContract, "test_facts_never_change")
class ChangesFactsOnRotation(_Misreports):
    """Moves the date of creation when a key is rotated."""

    def told(self, info: KeyInfo) -> KeyInfo:
        if len(super().describe_key(info).versions) < 2:
            return info
        return replace(info, created_at=info.created_at + timedelta(seconds=1))


@caught_by(KeyInfoContract, "test_a_fresh_keys_status")
class MakesDisabledKeys(ObservedProvider):
    """Makes keys that must be enabled first."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        info = super().create_key(template)
        self.set_enabled(info, False)
        return info


# Capabilities


@caught_by(CapabilityContract, "test_a_kind_is_claimed_whole_or_not_at_all[ES256]")
class ClaimsHalfAKind(ObservedProvider):
    """Claims to sign with ES256, but not to export its public key."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities - {Capability(Operation.GET_PUBLIC_KEY, Algorithm.ES256)}


@caught_by(CapabilityContract, "test_capabilities_are_known_without_io")
class AsksForItsCapabilities(ObservedProvider):
    """Asks the service what it can do, each time."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        self.list_keys()
        return super().capabilities


@caught_by(CapabilityContract, "test_a_level_asked_for_is_the_level_given[HSM]")
class CallsSoftwareAnHsm(ObservedProvider):
    """Claims hardware, and makes keys in software."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        claimed = Capability(Operation.GENERATE_KEY, Algorithm.A256GCM, None, ProtectionLevel.HSM)
        return super().capabilities | {claimed}

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return super().create_key(replace(template, protection_level=ProtectionLevel.SOFTWARE))


@caught_by(CapabilityContract, "test_a_kind_is_made_or_refused_unsent[RS256-3072]")
class MakesShorterKeys(ObservedProvider):
    """Makes RSA keys of 2048 bits, whatever size is asked for."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        return super().create_key(replace(template, key_size=template.key_size and 2048))


# Faults


@caught_by(ErrorsContract, "test_a_reply_lost_anywhere_repeats_nothing[generate]")
class RepeatsCreate(ObservedProvider):
    """Creates again when the reply is lost."""

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        try:
            return super().create_key(template)
        except UnavailableError:
            return super().create_key(template)


@caught_by(ErrorsContract, "test_a_reply_lost_anywhere_repeats_nothing[rotate]")
class RepeatsRotate(ObservedProvider):
    """Rotates again when the reply is lost."""

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        try:
            return super().rotate_key(info)
        except UnavailableError:
            return super().rotate_key(info)


@caught_by(ErrorsContract, "test_faults_on_the_wire_cost_the_same_attempts[wrap-UnavailableError]")
class RetriesItself(ObservedProvider):
    """Repeats calls below the seam, as SDKs do."""

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        for _ in range(2):
            try:
                return super().wrap(info, data_key, context)
            except UnavailableError:
                continue
        return super().wrap(info, data_key, context)


@caught_by(ErrorsContract, "test_faults_on_the_wire_cost_the_same_attempts[wrap-ThrottledError]")
class CallsThrottlingADenial(ObservedProvider):
    """Reports throttling as a missing permission."""

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        try:
            return super().wrap(info, data_key, context)
        except ThrottledError as error:
            raise PermissionDeniedError("not now") from error


@caught_by(ErrorsContract, "test_faults_on_the_wire_cost_the_same_attempts[describe-UnavailableError]")
class CallsAnOutageADestruction(ObservedProvider):
    """Takes a key that cannot be read for one that is gone."""

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        try:
            return super().describe_key(info)
        except UnavailableError as error:
            raise KeyDestroyedError("not found") from error


@caught_by(ErrorsContract, "test_real_errors_say_where")
class NamesOperationsItsOwnWay(ObservedProvider):
    """Gives its own name for the operation in errors."""

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        try:
            return super().wrap(info, data_key, context)
        except KeyDisabledError as error:
            raise KeyDisabledError("disabled", operation="Encrypt") from error


@caught_by(ErrorsContract, "test_real_errors_say_where")
class WritesSeveralLines(ObservedProvider):
    """Puts the service's whole answer into the text."""

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        try:
            return super().wrap(info, data_key, context)
        except KeyDisabledError as error:
            raise KeyDisabledError("HTTP/1.1 400\r\n\r\ndisabled") from error


# The checks


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_broken_provider_is_caught(tmp_path: Path, mutant: Mutant) -> None:
    with (
        _wired(tmp_path, mutant.kind) as harness,
        pytest.raises((AssertionError, pytest.fail.Exception, KMSError)),
    ):
        _run(mutant, harness)


_CLAUSES: Final = {(mutant.contract.__name__, mutant.clause): mutant for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", _CLAUSES.values(), ids=["-".join(clause) for clause in _CLAUSES])
def test_a_sound_provider_keeps_the_same_clause(tmp_path: Path, mutant: Mutant) -> None:
    with _wired(tmp_path, ObservedProvider) as harness:
        _run(mutant, harness)


def test_there_are_enough_and_each_is_another() -> None:
    assert len(MUTANTS) >= 40
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant.contract for mutant in MUTANTS}) >= 8


def test_the_page_lists_them_all() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/test_mutants.py"


def page() -> str:
    """docs/mutants.md."""
    rows = [
        f"| {mutant.name} | {inspect.getdoc(mutant.kind)} | `{mutant.contract.__name__}.{mutant.clause}` |"
        for mutant in MUTANTS
    ]
    return "\n".join(
        [
            "# Mutants",
            "",
            "The contract suite is tried on providers that are broken on purpose: a wrapper around the local",
            "keystore, at the seam, that does one thing wrong. Each must be caught by the clause named here, on its",
            "first run, and that clause must pass without the wrapper.",
            f"Caught: {len(MUTANTS)} of {len(MUTANTS)}. `tests/test_mutants.py` runs them and holds this page to it.",
            "",
            "| mutant | what it does wrong | caught by |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _spki(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _wired(folder: Path, kind: type[ObservedProvider]) -> Harness:
    """A harness whose wire is the seam below the provider under test."""
    uri = ConnectionURI.parse(f"local://{folder}/keys.db")
    services: list[ObservedProvider] = []
    ahead = [timedelta(0)]

    def sound() -> Provider:
        return LocalProvider.connect(uri, create=True, clock=lambda: datetime.now(UTC) + ahead[0])

    def open_provider() -> Provider:
        services.append(ObservedProvider(sound()))
        return kind(services[-1])

    def advance(step: timedelta) -> None:
        ahead[0] += step

    def fail(error: type[KMSError]) -> Callable[[int], None]:
        def arm(times: int) -> None:
            for operation in Operation:
                services[-1].fail(operation, lambda: error("on the wire"), times=times)

        return arm

    def lose(after: int) -> None:
        services[-1].lose_reply_after(after, lambda: UnavailableError("lost on the wire"))

    def heal() -> None:
        services[-1].heal()

    return Harness(
        open_provider=open_provider,
        advance=advance,
        requests=lambda: sum(len(service.calls) for service in services),
        wire_faults={error.__name__: fail(error) for error in (UnavailableError, ThrottledError)},
        lose_wire_reply=lose,
        heal_wire=heal,
    )


def _run(mutant: Mutant, harness: Harness) -> None:
    name, _, case = mutant.clause.rstrip("]").partition("[")
    function: Callable[..., None] = getattr(mutant.contract(), name)
    arguments: dict[str, Any] = {}
    if case:
        (mark,) = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
        names, values = mark.args[0].split(","), mark.args[1][mark.kwargs["ids"].index(case)]
        arguments = dict(zip(names, values if len(names) > 1 else [values], strict=True))
    function(harness=harness, **arguments)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
