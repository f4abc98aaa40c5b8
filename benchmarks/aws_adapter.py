"""CPU that the AWS adapter adds to a call, over a stub of the SDK's client; beside it what the SDK itself takes."""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from anykms import KeyURI
from anykms.algorithms import Algorithm, KeyPurpose
from anykms.keys import ConnectionURI, KeyInfo, KeyOrigin, ProtectionLevel
from anykms.provider import WrapContext
from anykms_aws import AWSProvider, client_config
from rounds import Subject, medians

ARN = "arn:aws:kms:eu-west-1:111122223333:key/01234567-89ab-cdef-0123-456789abcdef"
DATA_KEY = bytes(range(32))
BLOB = bytes(range(184))
CONTEXT = WrapContext({"tenant": "42", "anykms:bind": "A" * 43}, bytes(32))
REPLIES: Mapping[str, dict[str, Any]] = {
    "encrypt": {"KeyId": ARN, "CiphertextBlob": BLOB, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"},
    "decrypt": {"KeyId": ARN, "Plaintext": DATA_KEY, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"},
    "sign": {"KeyId": ARN, "Signature": BLOB[:71], "SigningAlgorithm": "ECDSA_SHA_256"},
    "generate_mac": {"KeyId": ARN, "Mac": DATA_KEY, "MacAlgorithm": "HMAC_SHA_256"},
}


def key(purpose: KeyPurpose, algorithm: Algorithm) -> KeyInfo:
    return KeyInfo(
        name="orders",
        uri=KeyURI("awskms", "/" + ARN),
        provider="awskms",
        purpose=purpose,
        algorithm=algorithm,
        key_size=None,
        protection_level=ProtectionLevel.HSM,
        origin=KeyOrigin.PROVIDER,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        tags={},
        destroy_window=30,
        destroy_window_enforced=False,
    )


def stub() -> Any:
    """The SDK's client, as far as the adapter looks at it, with ready answers."""

    def answering(reply: dict[str, Any]) -> Callable[..., dict[str, Any]]:
        def answer(**parameters: object) -> dict[str, Any]:
            return reply

        return answer

    meta = SimpleNamespace(
        endpoint_url="https://kms.eu-west-1.amazonaws.com",
        region_name="eu-west-1",
        config=SimpleNamespace(retries={"total_max_attempts": 1}),
    )
    return SimpleNamespace(meta=meta, **{name: answering(reply) for name, reply in REPLIES.items()})


def offline() -> Any:
    """The real SDK's client, whose requests are answered before they are sent."""
    client: Any = importlib.import_module("boto3").client(
        "kms",
        region_name="eu-west-1",
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
        aws_secret_access_key="x",  # noqa: S106 - no account's
        config=client_config(),
    )
    response: Any = importlib.import_module("botocore.awsrequest").AWSResponse
    bodies = {
        "".join(part.title() for part in name.split("_")): json.dumps(
            {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in reply.items()}
        ).encode()
        for name, reply in REPLIES.items()
    }

    def answer(request: Any, **more: object) -> Any:
        body = bodies[request.headers["X-Amz-Target"].decode().partition(".")[2]]
        raw = SimpleNamespace(stream=lambda: iter((body,)))
        return response(request.url, 200, {"x-amzn-RequestId": "0"}, raw)

    client.meta.events.register("before-send.kms", answer)
    return client


def calls(client: Any) -> dict[str, tuple[Subject, Subject]]:
    """The bare call and the adapter's, by operation."""
    provider = AWSProvider.connect(ConnectionURI.parse("awskms:///"), client=client)
    wrapping = key(KeyPurpose.ENCRYPT_DECRYPT, Algorithm.A256GCM)
    signing = key(KeyPurpose.SIGN_VERIFY, Algorithm.ES256)
    macs = key(KeyPurpose.MAC, Algorithm.HS256)
    pairs, symmetric = dict(CONTEXT.pairs), "SYMMETRIC_DEFAULT"
    return {
        "wrap": (
            lambda: client.encrypt(
                KeyId=ARN, Plaintext=DATA_KEY, EncryptionContext=pairs, EncryptionAlgorithm=symmetric
            ),
            lambda: provider.wrap(wrapping, DATA_KEY, CONTEXT),
        ),
        "unwrap": (
            lambda: client.decrypt(
                KeyId=ARN, CiphertextBlob=BLOB, EncryptionContext=pairs, EncryptionAlgorithm=symmetric
            ),
            lambda: provider.unwrap(wrapping, BLOB, None, CONTEXT),
        ),
        "sign": (
            lambda: client.sign(
                KeyId=ARN, Message=DATA_KEY, MessageType="DIGEST", SigningAlgorithm="ECDSA_SHA_256"
            ),
            lambda: provider.sign(signing, DATA_KEY, True),
        ),
        "mac": (
            lambda: client.generate_mac(KeyId=ARN, Message=DATA_KEY, MacAlgorithm="HMAC_SHA_256"),
            lambda: provider.mac(macs, DATA_KEY),
        ),
    }


def main() -> None:
    print("| operation | the adapter adds us | the SDK's own call, without network, us |")
    print("|---|---:|---:|")
    stubbed, real = calls(stub()), calls(offline())
    for name in stubbed:
        over_stub = medians({"bare": stubbed[name][0], "adapter": stubbed[name][1]})
        added = over_stub["adapter"] - over_stub["bare"]
        print(f"| {name} | {added * 1e6:.1f} | {medians({'sdk': real[name][0]})['sdk'] * 1e6:.0f} |")


if __name__ == "__main__":
    main()
