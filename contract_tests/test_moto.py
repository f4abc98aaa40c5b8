"""The contract, bound to AWS KMS as moto plays it in server mode: a peer that others wrote, with what it gets wrong.

Each deviation names moto's behaviour and is a strict expected failure: a mended moto fails this run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Any, ClassVar, cast

import pytest

from anykms.keys import ConnectionURI
from anykms_aws import AWSProvider, client_config
from anykms_contract import (
    AsymmetricDecryptionContract,
    CapabilityContract,
    ConsistencyContract,
    CrossProviderContract,
    EnvelopeContract,
    ErrorsContract,
    Harness,
    KeyInfoContract,
    LifecycleContract,
    MACContract,
    SigningContract,
    StateContract,
    WrappingContract,
)
from anykms_local import LocalProvider

SDK = ConnectionURI.parse("awskms:///")

ID_FOR_ARN = (
    "moto's GetPublicKey, GenerateMac and VerifyMac name the key by its id; AWS by its ARN, which we compare"
)
NO_ARN = (
    "moto answers EnableKey, DisableKey, ScheduleKeyDeletion and CancelKeyDeletion with HTTP 500 for an ARN"
)
NO_MATERIAL = "moto's ListKeyRotations has no KeyMaterialId, and a rotation makes no new material"
NO_PERIOD = "moto drops RotationPeriodInDays"
NO_SPEC = "moto does not know ECC_NIST_EDWARDS25519, ML_DSA_44, ML_DSA_65 and ML_DSA_87"
DENIED = "moto's Decrypt answers AccessDeniedException for a ciphertext under another key, or with an altered key id"
UNKNOWN = ("Ed25519", "ML-DSA-*")


def cases(reason: str, clause: Callable[..., object], *patterns: str) -> dict[str, str]:
    """The cases of a clause that match one of the patterns, all for one reason."""
    marks = cast("list[pytest.Mark]", getattr(clause, "pytestmark", []))
    ids = [str(case) for mark in marks for case in mark.kwargs.get("ids", ())]
    for pattern in patterns:
        assert any(fnmatchcase(case, pattern) for case in ids), f"no case of {clause.__name__} is {pattern}"
    return {
        f"{clause.__name__}[{case}]": reason
        for case in ids
        if any(fnmatchcase(case, pattern) for pattern in patterns)
    }


def whole(reason: str, *clauses: Callable[..., object]) -> dict[str, str]:
    """Whole clauses, all for one reason."""
    return {clause.__name__: reason for clause in clauses}


@pytest.fixture(scope="class")
def harness() -> Iterator[Harness]:
    server: Any = importlib.import_module("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    try:
        host, port = server.get_host_and_port()
        where = {
            "endpoint_url": f"http://{host}:{port}",
            "region_name": "eu-west-1",
            "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
            "aws_secret_access_key": "x",
        }
        sdk = importlib.import_module("boto3").client("kms", config=client_config(), **where)
        with (
            closing(sdk),
            Harness(
                open_provider=lambda: AWSProvider.connect(SDK, client=sdk, allow_insecure_endpoint=True),
                names_return=True,
            ) as opened,
        ):
            yield opened
    finally:
        server.stop()


@pytest.fixture(scope="class")
def harnesses(
    harness: Harness, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Harness, Harness]]:
    where = ConnectionURI.parse(f"local://{tmp_path_factory.mktemp('store')}/keys.db")
    with Harness(open_provider=lambda: LocalProvider.connect(where, create=True)) as local:
        yield harness, local


class TestLifecycle(LifecycleContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **whole(NO_PERIOD, LifecycleContract.test_a_rotation_period_at_the_limits_is_kept),
        **whole(
            NO_ARN,
            LifecycleContract.test_the_name_of_a_disabled_key_is_taken,
            LifecycleContract.test_the_name_of_a_key_pending_destruction_is_reserved,
            LifecycleContract.test_a_key_that_differs_from_its_conf_is_disabled,
            LifecycleContract.test_a_key_of_another_algorithm_or_size_is_disabled,
            LifecycleContract.test_the_list_holds_every_key_but_destroyed_ones,
            LifecycleContract.test_disable_and_enable,
            LifecycleContract.test_a_scheduled_destruction_says_when,
            LifecycleContract.test_the_destroy_window_is_kept_exactly,
            LifecycleContract.test_a_cancelled_destruction_gives_a_disabled_key,
            LifecycleContract.test_what_is_not_scheduled_cannot_be_cancelled,
            LifecycleContract.test_destruction_waits_for_its_window,
        ),
        **whole(
            NO_MATERIAL,
            LifecycleContract.test_rotation_makes_a_new_version_of_the_same_key,
            LifecycleContract.test_old_messages_open_after_rotation_in_a_new_process,
        ),
    }


_ASYMMETRIC_OR_MAC = ("sign-*", "verify-*", "public-key-*", "mac-*", "decrypt-*", "decryption-*")


class TestStates(StateContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **cases(
            NO_ARN, StateContract.test_cryptography_in_every_state, "*-DISABLED", "*-PENDING_DESTRUCTION"
        ),
        **cases(
            NO_ARN,
            StateContract.test_cryptography_in_every_state_unseen,
            "*-DISABLED",
            "*-PENDING_DESTRUCTION",
        ),
        **cases(ID_FOR_ARN, StateContract.test_cryptography_in_every_state, *_ASYMMETRIC_OR_MAC),
        **cases(ID_FOR_ARN, StateContract.test_cryptography_in_every_state_unseen, *_ASYMMETRIC_OR_MAC),
        **cases(
            NO_ARN,
            StateContract.test_the_lifecycle_in_every_state,
            "*-DISABLED",
            "*-PENDING_DESTRUCTION",
            "disable-ENABLED",
            "schedule-ENABLED",
            "cancel-ENABLED",
        ),
        **cases(NO_MATERIAL, StateContract.test_the_lifecycle_in_every_state, "rotate-ENABLED"),
        **whole(ID_FOR_ARN, StateContract.test_our_own_changes_are_seen_at_once),
        **whole(
            NO_ARN,
            StateContract.test_a_remembered_state_lasts_no_longer_than_its_ttl,
            StateContract.test_reads_must_agree_before_a_change_returns,
        ),
    }


class TestConsistency(ConsistencyContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **cases(ID_FOR_ARN, ConsistencyContract.test_a_new_key_is_usable_although_reads_lag, "signing-*"),
        **cases(ID_FOR_ARN, ConsistencyContract.test_a_name_is_given_once_to_two_at_once, "signing"),
        **whole(ID_FOR_ARN, ConsistencyContract.test_a_disabling_ends_signing),
        **whole(
            NO_MATERIAL,
            ConsistencyContract.test_two_rotations_at_once,
            ConsistencyContract.test_a_rotation_disturbs_no_decryption,
        ),
        **whole(
            NO_ARN,
            ConsistencyContract.test_what_a_lifecycle_call_has_said_stays,
            ConsistencyContract.test_reads_that_never_agree_end_a_call,
            ConsistencyContract.test_one_read_that_a_key_is_gone_decides_nothing,
            ConsistencyContract.test_disabling_and_destroying_at_once,
            ConsistencyContract.test_dates_are_the_providers,
            ConsistencyContract.test_a_clock_that_jumps_changes_no_wait,
        ),
    }


class TestCapabilities(CapabilityContract):
    deviations: ClassVar[Mapping[str, str]] = cases(
        NO_SPEC, CapabilityContract.test_a_kind_is_made_or_refused_unsent, *UNKNOWN
    )


class TestKeyInfo(KeyInfoContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **cases(NO_SPEC, KeyInfoContract.test_the_facts_have_one_shape, *UNKNOWN),
        **cases(NO_SPEC, KeyInfoContract.test_fingerprints, *UNKNOWN),
        **cases(NO_SPEC, KeyInfoContract.test_the_uri_is_canonical, *UNKNOWN),
        **cases(NO_SPEC, KeyInfoContract.test_times_are_utc_and_whole_seconds, *UNKNOWN),
        **cases(NO_SPEC, KeyInfoContract.test_the_json_comes_back, *UNKNOWN),
        **whole(NO_PERIOD, KeyInfoContract.test_the_conf_digest_is_the_confs),
        **whole(NO_MATERIAL, KeyInfoContract.test_facts_never_change),
    }


class TestWrapping(WrappingContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **cases(DENIED, WrappingContract.test_a_relabelled_wrap_does_not_open, "wrap-A256GCM"),
        **cases(DENIED, WrappingContract.test_every_flipped_byte_is_refused, "wrap-A256GCM"),
    }


class TestSigning(SigningContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **whole(
            ID_FOR_ARN,
            SigningContract.test_a_signature_verifies_everywhere,
            SigningContract.test_certificates_are_signed_by_the_key,
            SigningContract.test_certificates_are_not_signed_by_another_algorithm,
            SigningContract.test_the_public_key_is_the_pinned_one,
            SigningContract.test_the_public_key_survives_every_encoding,
            SigningContract.test_another_message_or_key_is_refused,
            SigningContract.test_a_damaged_signature_is_refused,
            SigningContract.test_ecdsa_signatures_have_two_encodings,
            SigningContract.test_malformed_ecdsa_signatures_are_refused,
            SigningContract.test_rsa_paddings_are_not_confused,
            SigningContract.test_a_digest_can_be_brought,
            SigningContract.test_digested_messages_have_any_size,
            SigningContract.test_bytes_like_forms_are_the_same,
            SigningContract.test_other_types_are_a_type_error,
            SigningContract.test_another_public_key_is_refused,
            SigningContract.test_verification_ends_with_the_key,
            SigningContract.test_a_state_is_read_once_per_ttl,
            SigningContract.test_verification_fails_closed,
            SigningContract.test_a_public_key_needs_nobody,
        ),
        **whole(
            NO_SPEC,
            SigningContract.test_whole_message_algorithms_take_no_digest,
            SigningContract.test_whole_messages_have_limits,
        ),
        **cases(NO_SPEC, SigningContract.test_a_signature_verifies_everywhere, *UNKNOWN),
        **cases(NO_SPEC, SigningContract.test_certificates_are_signed_by_the_key, *UNKNOWN),
        **cases(NO_SPEC, SigningContract.test_the_public_key_is_the_pinned_one, *UNKNOWN),
        **cases(NO_SPEC, SigningContract.test_the_public_key_survives_every_encoding, *UNKNOWN),
        **cases(NO_SPEC, SigningContract.test_another_message_or_key_is_refused, *UNKNOWN),
        **cases(NO_SPEC, SigningContract.test_a_damaged_signature_is_refused, *UNKNOWN),
    }


class TestMAC(MACContract):
    deviations: ClassVar[Mapping[str, str]] = whole(
        ID_FOR_ARN,
        MACContract.test_a_tag_verifies,
        MACContract.test_every_other_tag_is_refused,
        MACContract.test_a_tag_of_another_length_is_refused_unsent,
        MACContract.test_another_message_or_key_is_refused,
        MACContract.test_message_sizes,
        MACContract.test_bytes_like_forms_are_the_same,
        MACContract.test_other_types_are_a_type_error,
    )


class TestAsymmetricDecryption(AsymmetricDecryptionContract):
    deviations: ClassVar[Mapping[str, str]] = whole(
        ID_FOR_ARN,
        AsymmetricDecryptionContract.test_plaintexts_of_every_size_come_back,
        AsymmetricDecryptionContract.test_what_another_library_encrypted_is_decrypted,
        AsymmetricDecryptionContract.test_other_plaintext_sizes_are_refused,
        AsymmetricDecryptionContract.test_every_failure_is_one_class_and_text_and_is_not_retried,
        AsymmetricDecryptionContract.test_a_ciphertext_of_another_length_is_refused_unsent,
        AsymmetricDecryptionContract.test_bytes_like_forms_are_the_same,
        AsymmetricDecryptionContract.test_other_types_are_a_type_error,
    )


class TestEnvelope(EnvelopeContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **whole(DENIED, EnvelopeContract.test_a_relabelled_message_does_not_open),
        **cases(DENIED, EnvelopeContract.test_every_flipped_byte_is_refused, "wrap-A256GCM"),
        **whole(NO_ARN, EnvelopeContract.test_encryption_needs_every_key),
    }


class TestErrors(ErrorsContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **cases(
            ID_FOR_ARN,
            ErrorsContract.test_passing_faults_are_retried,
            "public-key-*",
            "sign-*",
            "mac-*",
            "verify-mac-*",
            "decrypt-*",
        ),
        **cases(
            ID_FOR_ARN, ErrorsContract.test_lasting_faults_are_raised, "sign-*", "verify-mac-*", "decrypt-*"
        ),
        **cases(
            ID_FOR_ARN,
            ErrorsContract.test_final_faults_are_not_retried,
            "sign-*",
            "verify-mac-*",
            "decrypt-*",
        ),
        **cases(
            ID_FOR_ARN,
            ErrorsContract.test_faults_on_the_wire_cost_the_same_attempts,
            "sign-*",
            "verify-mac-*",
            "decrypt-*",
        ),
        **cases(NO_ARN, ErrorsContract.test_a_reply_lost_anywhere_repeats_nothing, "enable", "cancel"),
        **cases(NO_MATERIAL, ErrorsContract.test_a_reply_lost_anywhere_repeats_nothing, "rotate"),
        **cases(ID_FOR_ARN, ErrorsContract.test_refusals_are_not_retried, "decrypt", "verify-mac"),
        **cases(ID_FOR_ARN, ErrorsContract.test_errors_hold_no_secrets, "sign", "verify-mac", "decrypt"),
        **whole(ID_FOR_ARN, ErrorsContract.test_nothing_but_our_errors_leaves),
        **cases(
            NO_ARN,
            ErrorsContract.test_a_change_that_failed_is_raised_and_not_repeated,
            "enable-*",
            "cancel-*",
        ),
        **cases(
            NO_ARN,
            ErrorsContract.test_a_change_whose_reply_was_lost_is_finished,
            "disable-*",
            "enable-*",
            "schedule-*",
            "cancel-*",
        ),
        **cases(NO_MATERIAL, ErrorsContract.test_a_change_whose_reply_was_lost_is_finished, "rotate-*"),
        **cases(
            NO_ARN, ErrorsContract.test_reads_that_never_agree_end_at_the_deadline, "disable", "schedule"
        ),
        **cases(NO_MATERIAL, ErrorsContract.test_reads_that_never_agree_end_at_the_deadline, "rotate"),
        **cases(NO_ARN, ErrorsContract.test_nothing_but_our_errors_leaves_a_change, "enable", "cancel"),
        **whole(
            NO_ARN,
            ErrorsContract.test_reads_that_flip_are_waited_out,
            ErrorsContract.test_real_errors_say_where,
        ),
    }


class TestWithLocal(CrossProviderContract):
    deviations: ClassVar[Mapping[str, str]] = {
        **whole(NO_ARN, CrossProviderContract.test_a_disabled_key_gives_way_to_the_other_provider),
        **whole(
            ID_FOR_ARN,
            CrossProviderContract.test_signatures_verify_under_the_exported_key,
            CrossProviderContract.test_public_keys_look_alike,
        ),
        **cases(NO_SPEC, CrossProviderContract.test_signatures_verify_under_the_exported_key, *UNKNOWN),
        **cases(NO_SPEC, CrossProviderContract.test_public_keys_look_alike, *UNKNOWN),
        **cases(NO_ARN, CrossProviderContract.test_errors_look_alike, "disabled", "pending", "cancel"),
        **cases(
            ID_FOR_ARN, CrossProviderContract.test_artefacts_are_the_golden_ones, "signature", "public-key"
        ),
        **cases(NO_ARN, CrossProviderContract.test_artefacts_are_the_golden_ones, "errors"),
    }
