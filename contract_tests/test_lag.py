"""Lag of the emulators: what is seen late, by which calls, and for how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from anykms_emulators import Clock, Lag
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.gcp import GCPEmulator


def states(kms: Any, key_id: str, times: int) -> list[str]:
    return [kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] for _ in range(times)]


def test_aws_flip_flops_for_a_number_of_reads() -> None:
    with AWSEmulator() as aws:
        kms = aws.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        aws.lag.behind(reads=4)
        kms.disable_key(KeyId=key_id)
        assert aws.lag.pending == 1
        assert states(kms, key_id, 6) == ["Enabled", "Disabled"] * 2 + ["Disabled"] * 2
        assert aws.lag.pending == 0


def test_aws_lags_for_a_time() -> None:
    with AWSEmulator() as aws:
        kms = aws.client()
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        aws.lag.behind(lasting=timedelta(minutes=1), flip_flop=False)
        kms.disable_key(KeyId=key_id)
        assert states(kms, key_id, 3) == ["Enabled"] * 3
        assert kms.encrypt(KeyId=key_id, Plaintext=b"m")["KeyId"]
        aws.clock.advance(timedelta(minutes=1))
        assert states(kms, key_id, 1) == ["Disabled"]


def test_aws_does_not_find_a_new_key_at_once() -> None:
    with AWSEmulator() as aws:
        kms = aws.client()
        aws.lag.behind(reads=1)
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]
        with pytest.raises(kms.exceptions.NotFoundException):
            kms.describe_key(KeyId=key_id)
        assert states(kms, key_id, 1) == ["Enabled"]


def test_gcp_lags_for_uses_of_a_disabled_version_alone() -> None:
    with GCPEmulator() as gcp:
        kms = gcp.client()
        key = kms.create_crypto_key(
            parent=gcp.key_ring, crypto_key_id="k", crypto_key={"purpose": "ENCRYPT_DECRYPT"}
        )
        gcp.lag.behind()
        version = {"name": key.primary.name, "state": "DISABLED"}
        kms.update_crypto_key_version(
            request={"crypto_key_version": version, "update_mask": {"paths": ["state"]}}
        )
        assert kms.get_crypto_key_version(name=key.primary.name).state.name == "DISABLED"
        assert kms.encrypt(name=key.name, plaintext=b"m").ciphertext  # by the replica that is behind
        with pytest.raises(Exception, match="DISABLED"):
            kms.encrypt(name=key.name, plaintext=b"m")
        enabled = {**version, "state": "ENABLED"}
        kms.update_crypto_key_version(
            request={"crypto_key_version": enabled, "update_mask": {"paths": ["state"]}}
        )
        for _ in range(3):  # enabling is strongly consistent
            assert kms.encrypt(name=key.name, plaintext=b"m").ciphertext


def test_azure_flip_flops() -> None:
    with AzureEmulator() as az:
        keys = az.key_client()
        version = keys.create_ec_key("k").properties.version
        az.lag.behind(reads=3)
        keys.update_key_properties("k", version, enabled=False)
        assert [keys.get_key("k", version).properties.enabled for _ in range(4)] == [True, False, True, False]


def test_what_is_in_step_stays_so() -> None:
    lag = Lag(Clock())
    lag.change("here", lambda: "old")
    assert lag.view("here") is None
    lag.behind()
    lag.change("here", lambda: "old")
    assert lag.view("elsewhere") is None
    assert lag.view("here") == "old"
    lag.clear()
    assert lag.view("here") is None


@pytest.mark.parametrize("arguments", [{"reads": -1}, {"lasting": timedelta()}])
def test_a_lag_of_nothing_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reads is not negative"):
        Lag().behind(**arguments)
