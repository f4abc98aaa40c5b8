"""The AWS emulator where it is not a table: the wire, time, faults, paging, threads and real cryptography."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import importlib
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, padding, rsa, utils
from hypothesis import given, settings
from hypothesis import strategies as st

from anykms_emulators import Clock
from anykms_emulators.aws import HANDLERS, AWSEmulator
from anykms_emulators.aws.parameters import (
    OPERATIONS,
    Blob,
    Flag,
    Group,
    Kind,
    Many,
    Moment,
    Need,
    StringMap,
    Text,
    Whole,
)
from anykms_emulators.loopback import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

DER = serialization.Encoding.DER
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
PKCS8 = serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()
START = datetime(2030, 1, 1, tzinfo=UTC)


def client(aws: AWSEmulator, region: str | None = None, **config: Any) -> Any:
    made = importlib.import_module("botocore.config").Config(retries={"total_max_attempts": 1}, **config)
    return importlib.import_module("boto3").client("kms", config=made, **aws.client_kwargs(region))


@pytest.fixture(scope="module")
def aws() -> Iterator[AWSEmulator]:
    with AWSEmulator(clock=Clock(START), replica_regions=("us-east-1",)) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def kms(aws: AWSEmulator) -> Any:
    return client(aws)


@pytest.fixture
def own() -> Iterator[AWSEmulator]:
    """An emulator of the test's own, whose clock and faults it may move."""
    with AWSEmulator(clock=Clock(START), replica_regions=("us-east-1",)) as emulator:
        yield emulator


def new_key(kms: Any, **parameters: Any) -> str:
    return cast("str", kms.create_key(**parameters)["KeyMetadata"]["KeyId"])


def refused(kms: Any, code: str) -> Any:
    return pytest.raises(kms.exceptions.ClientError, match=rf"\({code}\)")


def _service_model() -> Any:
    return importlib.import_module("botocore.session").get_session().get_service_model("kms")


NOT_HERE = {"SM2", "SM2DSA", "SM2PKE", "ML_KEM_512"}


def test_every_operation_of_the_model_is_answered() -> None:
    assert set(_service_model().operation_names) <= OPERATIONS.keys()
    assert OPERATIONS.keys() == HANDLERS.keys()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_parameters_are_those_of_the_model(operation: str) -> None:
    model = _service_model()
    if operation not in model.operation_names:
        pytest.fail(f"the installed botocore has no {operation}; the emulators' tests need botocore >= 1.44")
    _compare_group(model.operation_model(operation).input_shape, OPERATIONS[operation], operation)


def _compare_group(shape: Any, ours: Any, at: str) -> None:
    assert shape.members.keys() == ours.keys(), at
    for name, member in shape.members.items():
        need = ours[name]
        assert isinstance(need, Need) == (name in shape.required_members), f"{at}.{name}"
        _compare(member, need.kind if isinstance(need, Need) else need, f"{at}.{name}")


def _compare(shape: Any, ours: Kind, at: str) -> None:
    facts = shape.metadata
    match ours:
        case Text(least, most, pattern, values):
            assert (facts.get("min"), facts.get("max"), facts.get("pattern")) == (least, most, pattern), at
            assert set(shape.enum) - NOT_HERE == set(values), at
        case Blob(least, most, sensitive):
            assert (shape.type_name, facts["min"], facts["max"]) == ("blob", least, most), at
            assert facts.get("sensitive", False) == sensitive, at
        case Whole(least, most):
            assert (shape.type_name, facts["min"], facts["max"]) == ("integer", least, most), at
        case Many(of, least, most):
            assert (shape.type_name, facts.get("min", 0), facts.get("max")) == ("list", least, most), at
            _compare(shape.member, of, at)
        case Group(members):
            _compare_group(shape, members, at)
        case Flag():
            assert shape.type_name == "boolean", at
        case Moment():
            assert shape.type_name == "timestamp", at
        case StringMap():
            assert (shape.type_name, shape.value.type_name) == ("map", "string"), at


def authorization(
    scope: str = "AKIDEXAMPLE/20300101/eu-west-1/kms/aws4_request",
    signed: str = "host;x-amz-date",
    signature: str = "a" * 64,
) -> dict[str, str]:
    fields = f"Credential={scope}, SignedHeaders={signed}, Signature={signature}"
    return {"Authorization": f"AWS4-HMAC-SHA256 {fields}", "X-Amz-Date": "20300101T000000Z"}


def post(
    aws: AWSEmulator,
    operation: str,
    body: bytes | object,
    headers: dict[str, str] | None = None,
    *,
    path: str = "/",
    method: str = "POST",
) -> tuple[int, dict[str, Any], dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", int(aws.endpoint_url.rsplit(":", 1)[1]), timeout=30)
    try:
        connection.request(
            method,
            path,
            body if isinstance(body, bytes) else json.dumps(body).encode(),
            {
                "X-Amz-Target": f"TrentService.{operation}",
                "Content-Type": "application/x-amz-json-1.1",
                **(authorization() if headers is None else headers),
            },
        )
        reply = connection.getresponse()
        text = reply.read()
        return reply.status, json.loads(text) if text else {}, dict(reply.getheaders())
    finally:
        connection.close()


def test_a_good_request_needs_no_sdk(aws: AWSEmulator) -> None:
    status, document, headers = post(aws, "GenerateRandom", {"NumberOfBytes": 8, "Unknown": 1})
    assert status == 200
    assert len(base64.b64decode(document["Plaintext"])) == 8
    assert headers["Content-Type"] == "application/x-amz-json-1.1"
    assert len(headers["x-amzn-RequestId"]) == 36


def test_decrypt_names_the_origin_of_the_key(aws: AWSEmulator, kms: Any) -> None:
    # go-cloud awskms-TestEncryptDecrypt.replay: a member that botocore's model does not have
    blob = kms.encrypt(KeyId=new_key(kms), Plaintext=b"x")["CiphertextBlob"]
    _, document, _ = post(aws, "Decrypt", {"CiphertextBlob": base64.b64encode(blob).decode()})
    assert document.keys() == {
        "EncryptionAlgorithm",
        "KeyId",
        "KeyMaterialId",
        "KeyOrigin",
        "Plaintext",
    }


def test_an_error_without_message_is_the_type_alone(aws: AWSEmulator) -> None:
    # go-cloud awskms-TestDecryptMalformedError.replay: {"__type":"InvalidCiphertextException"}
    status, document, _ = post(aws, "Decrypt", {"CiphertextBlob": "AAAA"})
    assert (status, document) == (400, {"__type": "InvalidCiphertextException"})


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "MissingAuthenticationTokenException"),
        ({"Authorization": "Bearer token"}, "IncompleteSignatureException"),
        ({"Authorization": "AWS4-HMAC-SHA256 Credential=a"}, "IncompleteSignatureException"),
        ({**authorization(), "X-Amz-Date": "yesterday"}, "IncompleteSignatureException"),
        (authorization("AKID/20300101/eu-west-1"), "IncompleteSignatureException"),
        (authorization("AKID/20300101/eu-west-2/kms/aws4_request"), "InvalidSignatureException"),
        (authorization("AKID/20300101/eu-west-1/s3/aws4_request"), "InvalidSignatureException"),
        (authorization("AKID/20300101/eu-west-1/kms/aws5_request"), "InvalidSignatureException"),
        (authorization("AKID/20300102/eu-west-1/kms/aws4_request"), "InvalidSignatureException"),
        (authorization(signed="content-type"), "InvalidSignatureException"),
        (authorization(signature="short"), "InvalidSignatureException"),
    ],
)
def test_the_authorization_header_is_checked(aws: AWSEmulator, headers: dict[str, str], code: str) -> None:
    status, document, _ = post(aws, "ListKeys", {}, headers)
    assert (status, document["__type"]) == (400, code)


def test_a_client_of_another_region_is_refused(aws: AWSEmulator) -> None:
    wrong = client(aws, "eu-central-1")
    with refused(wrong, "InvalidSignatureException"):
        wrong.list_keys()


BAD_BODIES: list[tuple[str, bytes | object]] = [
    ("Encrypt", b""),
    ("Encrypt", b"{"),
    ("Encrypt", b"\xff\xfe"),
    ("Encrypt", b"[" * 100_000),
    ("Encrypt", b'{"KeyId": ' * 50_000),
    ("Encrypt", b'{"KeyId": NaN}'),
    ("Encrypt", []),
    ("Encrypt", "text"),
    ("Encrypt", {"KeyId": 1, "Plaintext": "AA=="}),
    ("Encrypt", {"KeyId": "k", "Plaintext": "not base64!"}),
    ("Encrypt", {"KeyId": "k", "Plaintext": "A"}),
    ("Encrypt", {"KeyId": "k", "Plaintext": ["AA=="]}),
    ("Encrypt", b'{"KeyId": "\\ud800", "Plaintext": "AA=="}'),
    ("Encrypt", {"KeyId": "k", "Plaintext": "AA==", "EncryptionContext": {"a": 1}}),
    ("Encrypt", {"KeyId": "k", "Plaintext": "AA==", "EncryptionContext": [["a", "b"]]}),
    ("Encrypt", {"KeyId": "k", "Plaintext": "AA==", "DryRun": "true"}),
    ("Encrypt", {"KeyId": "k", "Plaintext": "AA==", "GrantTokens": "token"}),
    ("GenerateRandom", {"NumberOfBytes": "8"}),
    ("GenerateRandom", {"NumberOfBytes": True}),
    ("GenerateRandom", {"NumberOfBytes": 8.5}),
    ("GenerateRandom", {"NumberOfBytes": 1 << 31}),
    ("GenerateRandom", b'{"NumberOfBytes": ' + b"9" * 10_000 + b"}"),
    ("CreateKey", {"Tags": [{"TagKey": "a"}, "b"]}),
    (
        "ImportKeyMaterial",
        {"KeyId": "k", "ImportToken": "AA==", "EncryptedKeyMaterial": "AA==", "ValidTo": 1e300},
    ),
    (
        "ImportKeyMaterial",
        {"KeyId": "k", "ImportToken": "AA==", "EncryptedKeyMaterial": "AA==", "ValidTo": "soon"},
    ),
]


@pytest.mark.parametrize(("operation", "body"), BAD_BODIES)
def test_what_is_no_request_is_a_serialization_error(
    aws: AWSEmulator, operation: str, body: bytes | object
) -> None:
    status, document, _ = post(aws, operation, body)
    assert (status, document["__type"]) == (400, "SerializationException")


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("NoSuchOperation", {}),
        ("", {}),
        ("ListKeys", {"path": "/keys"}),
        ("ListKeys", {"method": "GET"}),
        ("ListKeys", {"headers": {**authorization(), "X-Amz-Target": "DynamoDB_20120810.ListKeys"}}),
        ("ListKeys", {"headers": {**authorization(), "Content-Type": "text/xml"}}),
    ],
)
def test_what_names_no_operation_is_unknown(aws: AWSEmulator, operation: str, more: dict[str, Any]) -> None:
    status, document, _ = post(aws, operation, {}, **more)
    assert (status, document["__type"]) == (400, "UnknownOperationException")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"Content-Length": "9" * 5000}, 413),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "ten"}, 400),
        ({"Transfer-Encoding": "chunked"}, 501),
    ],
)
def test_bodies_are_bounded(aws: AWSEmulator, headers: dict[str, str], status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(aws.endpoint_url.rsplit(":", 1)[1]), timeout=30)
    connection.putrequest("POST", "/")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    reply = connection.getresponse()
    reply.read()
    assert reply.status == status
    assert reply.getheader("Connection") == "close"
    connection.close()


def test_one_connection_serves_many_requests(aws: AWSEmulator) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(aws.endpoint_url.rsplit(":", 1)[1]), timeout=30)
    headers = {
        "X-Amz-Target": "TrentService.GenerateRandom",
        "Content-Type": "application/x-amz-json-1.1",
        **authorization(),
    }
    sockets: set[int] = set()
    for body in (b'{"NumberOfBytes": 1}', b"{", b'{"NumberOfBytes": 2}'):
        connection.request("POST", "/", body, headers)
        sockets.add(id(connection.sock))
        connection.getresponse().read()
    assert len(sockets) == 1
    connection.close()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


KEY_KINDS: list[dict[str, Any]] = [
    {},
    {"Origin": "EXTERNAL"},
    {"MultiRegion": True},
    {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
    {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"},
    {"KeySpec": "ECC_NIST_EDWARDS25519", "KeyUsage": "SIGN_VERIFY"},
    {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
    {"KeySpec": "ML_DSA_44", "KeyUsage": "SIGN_VERIFY"},
    {"KeySpec": "ML_KEM_768", "KeyUsage": "ENCAPSULATE_DECAPSULATE"},
    {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
    {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_document_upsets_the_server(data: st.DataObject, aws: AWSEmulator) -> None:
    made = post(aws, "CreateKey", data.draw(st.sampled_from(KEY_KINDS)))[1]["KeyMetadata"]["KeyId"]
    operation = data.draw(st.sampled_from(sorted(OPERATIONS)))
    wild = data.draw(st.booleans())
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, member in OPERATIONS[operation].items():
        value = _plausible(member.kind if isinstance(member, Need) else member)
        if name.endswith("KeyId") and name != "XksKeyId":
            value = st.just(made)
        target = required if isinstance(member, Need) and not wild else optional
        target[name] = value | JSON_VALUES if wild else value
    document = data.draw(st.fixed_dictionaries(required, optional=optional))
    status, reply, _ = post(aws, operation, document)
    assert status in (200, 400)
    assert status == 200 or reply["__type"].isascii()


def _plausible(kind: Kind) -> st.SearchStrategy[Any]:
    match kind:
        case Text(values=values) if values:
            return st.sampled_from(values)
        case Text():
            return st.text(max_size=12)
        case Blob():
            return st.binary(max_size=80).map(lambda raw: base64.b64encode(raw).decode())
        case Whole(least, most):
            return st.integers(least, min(most, 400))
        case Flag():
            return st.booleans()
        case Moment():
            return st.integers(0, 4_000_000_000)
        case StringMap():
            return st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)
        case Many(of):
            return st.lists(_plausible(of), max_size=3)
        case Group(members):
            return st.fixed_dictionaries(
                {},
                optional={
                    name: _plausible(member.kind if isinstance(member, Need) else member)
                    for name, member in members.items()
                },
            )


def test_state_outlasts_a_stop() -> None:
    aws = AWSEmulator()
    with pytest.raises(RuntimeError, match="not started"):
        _ = aws.uri
    with aws:
        key_id = new_key(client(aws))
        assert aws.uri == f"awskms:///?region=eu-west-1&endpoint_url={aws.endpoint_url}"
        with pytest.raises(RuntimeError, match="already started"):
            aws.start()
    with aws:
        assert client(aws).describe_key(KeyId=key_id)["KeyMetadata"]["KeyId"] == key_id


def test_stop_closes_open_connections() -> None:
    with AWSEmulator() as aws:
        kms = client(aws)
        kms.list_keys()
    with pytest.raises(importlib.import_module("botocore.exceptions").BotoCoreError):
        kms.list_keys()


def test_its_own_client_and_options_agree(own: AWSEmulator) -> None:
    assert own.client().list_keys()["Keys"] == []
    assert own.client("us-east-1").list_keys()["Keys"] == []
    credentials = own.options["credentials"]
    assert own.options["allow_insecure_endpoint"] is True
    assert credentials.items() <= own.client_kwargs().items()
    assert own.environment["AWS_ENDPOINT_URL_KMS"] == own.endpoint_url


def test_requests_are_recorded_without_telling_secrets(own: AWSEmulator) -> None:
    kms = client(own)
    reply = kms.encrypt(KeyId=new_key(kms), Plaintext=b"secret text", EncryptionContext={"a": "b"})
    assert own.requests.operations == ["CreateKey", "Encrypt"]
    request = own.requests[-1]
    assert request.parameters["EncryptionContext"] == {"a": "b"}
    assert base64.b64decode(request.parameters["Plaintext"]) == b"secret text"
    assert request.caller == own.client_kwargs()["aws_access_key_id"]
    assert request.request_id == reply["ResponseMetadata"]["RequestId"]
    assert request.headers["x-amz-target"] == "TrentService.Encrypt"
    assert base64.b64encode(b"secret text").decode() not in repr(request)
    own.requests.clear()
    assert len(own.requests) == 0


def test_the_command_serves_until_interrupted() -> None:
    code = "from anykms_emulators.command import emulator; emulator()"
    with subprocess.Popen(  # noqa: S603 - our own interpreter and our own words
        [sys.executable, "-c", code, "aws", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        environment = said["environment"]
        kms = importlib.import_module("boto3").client(
            "kms",
            endpoint_url=environment["AWS_ENDPOINT_URL_KMS"],
            region_name=environment["AWS_REGION"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )
        assert kms.list_keys()["Keys"] == []
        assert environment["AWS_ENDPOINT_URL_KMS"] in said["uri"]
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in complaints


def test_an_error_fault_does_nothing(own: AWSEmulator) -> None:
    kms = client(own)
    own.faults.add("CreateKey", "KMSInternalException")
    with pytest.raises(kms.exceptions.KMSInternalException) as caught:
        kms.create_key()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert kms.list_keys()["Keys"] == []
    assert own.faults.pending == ()
    assert own.requests.operations == ["CreateKey", "ListKeys"]


def test_throttling_is_a_400_with_retry_after(own: AWSEmulator) -> None:
    kms = client(own)
    own.faults.add("ListKeys", kind="throttle", retry_after=2, after=1)
    kms.list_keys()
    with pytest.raises(kms.exceptions.ClientError) as caught:
        kms.list_keys()
    metadata = caught.value.response["ResponseMetadata"]
    assert caught.value.response["Error"]["Code"] == "ThrottlingException"
    assert (metadata["HTTPStatusCode"], metadata["HTTPHeaders"]["retry-after"]) == (400, "2")
    kms.list_keys()


@pytest.mark.parametrize(("kind", "made"), [("reset", 0), ("lost reply", 1)])
def test_a_cut_connection(own: AWSEmulator, kind: Any, made: int) -> None:
    kms = client(own)
    own.faults.add("CreateKey", kind=kind)
    with pytest.raises(importlib.import_module("botocore.exceptions").HTTPClientError):
        kms.create_key()
    assert len(kms.list_keys()["Keys"]) == made


def test_boto3_retries_of_its_own_make_two_keys_of_a_lost_reply(own: AWSEmulator) -> None:
    own.faults.add("CreateKey", kind="lost reply")
    own.client().create_key()
    assert len(client(own).list_keys()["Keys"]) == 2


def test_a_delayed_reply_outlasts_a_read_timeout(own: AWSEmulator) -> None:
    kms = client(own, read_timeout=0.05)
    own.faults.add("CreateKey", kind="delay", delay=0.3)
    with pytest.raises(importlib.import_module("botocore.exceptions").ReadTimeoutError):
        kms.create_key()


def test_a_fault_for_no_operation_is_refused(own: AWSEmulator) -> None:
    with pytest.raises(ValueError, match="no operation 'Encript' here: CancelKeyDeletion, "):
        own.faults.add("Encript")
    with pytest.raises(ValueError, match="kind must be one of error, throttle"):
        own.faults.add("Encrypt", kind=cast("Any", "flood"))


def test_faults_come_before_every_other_check(own: AWSEmulator) -> None:
    own.faults.add(code="ServiceUnavailable", message="try later")
    status, document, _ = post(own, "Encrypt", b"{", {})
    assert (status, document) == (503, {"__type": "ServiceUnavailable", "message": "try later"})


def test_a_key_dies_with_its_aliases_when_the_window_ends(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    kms.create_alias(AliasName="alias/doomed", TargetKeyId=key_id)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    planned = kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)["DeletionDate"]
    assert planned == START + timedelta(days=7)
    own.clock.advance(timedelta(days=7) - timedelta(seconds=1))
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    own.clock.advance(timedelta(seconds=1))
    for operation, request in (
        ("describe_key", {"KeyId": key_id}),
        ("cancel_key_deletion", {"KeyId": key_id}),
        ("encrypt", {"KeyId": "alias/doomed", "Plaintext": b"x"}),
        ("decrypt", {"KeyId": key_id, "CiphertextBlob": blob}),
    ):
        with refused(kms, "NotFoundException"):
            getattr(kms, operation)(**request)
    kms.create_alias(AliasName="alias/doomed", TargetKeyId=new_key(kms))


def test_a_cancelled_deletion_never_happens(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    kms.cancel_key_deletion(KeyId=key_id)
    own.clock.advance(timedelta(days=60))
    kms.enable_key(KeyId=key_id)
    kms.encrypt(KeyId=key_id, Plaintext=b"x")


def test_automatic_rotation_follows_the_clock(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    before = kms.describe_key(KeyId=key_id)["KeyMetadata"]["CurrentKeyMaterialId"]
    own.clock.advance(timedelta(days=181))
    rotations = kms.list_key_rotations(KeyId=key_id)["Rotations"]
    assert [row["RotationDate"] for row in rotations] == [
        START + timedelta(days=90),
        START + timedelta(days=180),
    ]
    assert {row["RotationType"] for row in rotations} == {"AUTOMATIC"}
    assert kms.get_key_rotation_status(KeyId=key_id)["NextRotationDate"] == START + timedelta(days=270)
    assert kms.decrypt(CiphertextBlob=blob)["KeyMaterialId"] == before
    fresh = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=fresh)["KeyMaterialId"] == rotations[-1]["KeyMaterialId"] != before
    kms.disable_key_rotation(KeyId=key_id)
    own.clock.advance(timedelta(days=400))
    assert len(kms.list_key_rotations(KeyId=key_id)["Rotations"]) == 2


def test_a_disabled_key_rotates_once_enabled_again(own: AWSEmulator) -> None:
    # service model, GetKeyRotationStatus: Disabled
    kms = client(own)
    key_id = new_key(kms)
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    kms.disable_key(KeyId=key_id)
    own.clock.advance(timedelta(days=100))
    assert kms.list_key_rotations(KeyId=key_id)["Rotations"] == []
    kms.enable_key(KeyId=key_id)
    assert len(kms.list_key_rotations(KeyId=key_id)["Rotations"]) == 1


def test_no_rotation_on_demand_just_before_a_scheduled_one(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    own.clock.advance(timedelta(days=90) - timedelta(minutes=19))
    with refused(kms, "ConflictException"):
        kms.rotate_key_on_demand(KeyId=key_id)


def test_imported_material_expires(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms, Origin="EXTERNAL")
    expires = START + timedelta(days=1)
    import_material(kms, key_id, b"m" * 32, ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=expires)
    described = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    assert (described["KeyState"], described["ValidTo"]) == ("Enabled", expires)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    own.clock.advance(timedelta(days=1))
    with refused(kms, "KMSInvalidStateException"):
        kms.decrypt(CiphertextBlob=blob)
    import_material(kms, key_id, b"m" * 32)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_an_import_token_lasts_a_day(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms, Origin="EXTERNAL")
    request = import_request(kms, key_id, b"m" * 32)
    own.clock.advance(timedelta(hours=24))
    with refused(kms, "ExpiredImportTokenException"):
        kms.import_key_material(**request)


def test_a_primary_waits_for_its_replicas(own: AWSEmulator) -> None:
    here, there = client(own), client(own, "us-east-1")
    key_id = new_key(here, MultiRegion=True)
    assert key_id.startswith("mrk-")
    assert len(key_id) == 36
    here.replicate_key(KeyId=key_id, ReplicaRegion="us-east-1")
    here.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    own.clock.advance(timedelta(days=30))
    described = here.describe_key(KeyId=key_id)["KeyMetadata"]
    assert described["KeyState"] == "PendingReplicaDeletion"
    assert described["PendingDeletionWindowInDays"] == 7
    there.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=10)
    own.clock.advance(timedelta(days=10))
    with refused(there, "NotFoundException"):
        there.describe_key(KeyId=key_id)
    assert here.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    own.clock.advance(timedelta(days=7))
    with refused(here, "NotFoundException"):
        here.describe_key(KeyId=key_id)


def test_pages_hold_each_key_once_while_keys_come_and_go(own: AWSEmulator) -> None:
    kms = client(own)
    made = {new_key(kms) for _ in range(7)}
    seen: list[str] = []
    marker: dict[str, str] = {}
    while True:
        page = kms.list_keys(Limit=3, **marker)
        assert len(page["Keys"]) <= 3
        seen += [row["KeyId"] for row in page["Keys"]]
        if not page["Truncated"]:
            break
        marker = {"Marker": page["NextMarker"]}
        # the key that a marker points at may be gone by the time of the next page
        kms.schedule_key_deletion(KeyId=seen[-1], PendingWindowInDays=7)
        own.clock.advance(timedelta(days=7))
    assert sorted(seen) == sorted(made)
    with refused(kms, "InvalidMarkerException"):
        kms.list_aliases(**marker)


def test_every_list_pages(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms, Tags=[{"TagKey": f"t{n}", "TagValue": "v"} for n in range(5)])
    for n in range(5):
        kms.create_alias(AliasName=f"alias/a{n}", TargetKeyId=key_id)
        kms.create_grant(
            KeyId=key_id, GranteePrincipal=f"arn:aws:iam::111122223333:role/r{n}", Operations=["Decrypt"]
        )
        kms.rotate_key_on_demand(KeyId=key_id)
    for operation, member in (
        ("list_aliases", "Aliases"),
        ("list_grants", "Grants"),
        ("list_key_rotations", "Rotations"),
        ("list_resource_tags", "Tags"),
    ):
        pages = kms.get_paginator(operation).paginate(KeyId=key_id, PaginationConfig={"PageSize": 2})
        assert [len(page[member]) for page in pages] == [2, 2, 1], operation
    for operation, limit in (("list_aliases", 101), ("list_grants", 101), ("list_resource_tags", 51)):
        with refused(kms, "ValidationException"):
            getattr(kms, operation)(KeyId=key_id, Limit=limit)


def test_an_alias_follows_its_key(own: AWSEmulator) -> None:
    kms = client(own)
    first, second = new_key(kms), new_key(kms)
    kms.create_alias(AliasName="alias/a", TargetKeyId=first)
    kms.update_alias(AliasName="alias/a", TargetKeyId=second)
    assert kms.describe_key(KeyId="alias/a")["KeyMetadata"]["KeyId"] == second
    assert kms.list_aliases(KeyId=first)["Aliases"] == []
    kms.delete_alias(AliasName="alias/a")
    with refused(kms, "NotFoundException"):
        kms.update_alias(AliasName="alias/a", TargetKeyId=first)
    for name in ("alias/aws/mine", "alias/aws/s3"):
        with refused(kms, "NotAuthorizedException"):
            kms.create_alias(AliasName=name, TargetKeyId=first)


def test_one_request_names_a_tag_once(kms: Any) -> None:
    tags = [{"TagKey": "a", "TagValue": "1"}, {"TagKey": "a", "TagValue": "2"}]
    with refused(kms, "TagException"):
        kms.create_key(Tags=tags)
    key_id = new_key(kms, Tags=tags[:1])
    kms.tag_resource(KeyId=key_id, Tags=tags[1:])
    assert kms.list_resource_tags(KeyId=key_id)["Tags"] == tags[1:]


def test_only_a_whole_arn_names_a_key(kms: Any) -> None:
    key_id = new_key(kms)
    kms.create_alias(AliasName="alias/whole", TargetKeyId=key_id)
    here = "arn:aws:kms:eu-west-1:111122223333"
    for name in (key_id, f"{here}:key/{key_id}", "alias/whole", f"{here}:alias/whole"):
        assert kms.describe_key(KeyId=name)["KeyMetadata"]["KeyId"] == key_id
    for name in (
        f"{here}:key/alias/whole",
        f"{here}:{key_id}",
        f"{here}:grant/{key_id}",
        f"key/{key_id}",
        key_id.upper(),
        "arn:aws:kms",
        f"arn:aws:s3:eu-west-1:111122223333:key/{key_id}",
    ):
        with refused(kms, "NotFoundException"):
            kms.describe_key(KeyId=name)


def test_another_account_is_out_of_reach(kms: Any) -> None:
    arn = "arn:aws:kms:eu-west-1:999999999999:key/12345678-1234-1234-1234-123456789012"
    with refused(kms, "AccessDeniedException"):
        kms.describe_key(KeyId=arn)


def test_grants_are_kept_and_their_tokens_accepted(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    role = "arn:aws:iam::111122223333:role/reader"
    grant = kms.create_grant(
        KeyId=key_id, GranteePrincipal=role, RetiringPrincipal=role, Operations=["Decrypt", "Encrypt"]
    )
    kms.encrypt(KeyId=key_id, Plaintext=b"x", GrantTokens=[grant["GrantToken"]])
    assert [g["GrantId"] for g in kms.list_retirable_grants(RetiringPrincipal=role)["Grants"]] == [
        grant["GrantId"]
    ]
    kms.retire_grant(GrantToken=grant["GrantToken"])
    with refused(kms, "InvalidGrantTokenException"):
        kms.retire_grant(GrantToken=grant["GrantToken"])
    with refused(kms, "NotFoundException"):
        kms.revoke_grant(KeyId=key_id, GrantId=grant["GrantId"])


def test_a_policy_is_kept(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    assert json.loads(kms.get_key_policy(KeyId=key_id)["Policy"])["Id"] == "key-default-1"
    policy = '{"Version": "2012-10-17", "Statement": []}'
    kms.put_key_policy(KeyId=key_id, Policy=policy)
    assert kms.get_key_policy(KeyId=key_id) | {"ResponseMetadata": None} == {
        "Policy": policy,
        "PolicyName": "default",
        "ResponseMetadata": None,
    }
    with refused(kms, "NotFoundException"):
        kms.get_key_policy(KeyId=key_id, PolicyName="other")


def test_the_last_usage_is_noted(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    assert kms.get_key_last_usage(KeyId=key_id)["KeyLastUsage"] == {}
    reply = kms.encrypt(KeyId=key_id, Plaintext=b"x")
    usage = kms.get_key_last_usage(KeyId=key_id)["KeyLastUsage"]
    assert usage["Operation"] == "Encrypt"
    assert usage["KmsRequestId"] == reply["ResponseMetadata"]["RequestId"]


def test_a_dry_run_changes_nothing(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    with refused(kms, "DryRunOperationException"):
        kms.create_grant(
            KeyId=key_id,
            GranteePrincipal="arn:aws:iam::111122223333:role/r",
            Operations=["Decrypt"],
            DryRun=True,
        )
    assert kms.list_grants(KeyId=key_id)["Grants"] == []
    # a request that would fail says why, dry or not
    with refused(kms, "InvalidCiphertextException"):
        kms.decrypt(KeyId=key_id, CiphertextBlob=b"x" * 100, DryRun=True)
    with refused(kms, "DryRunOperationException"):
        kms.decrypt(KeyId=key_id, DryRun=True, DryRunModifiers=["IGNORE_CIPHERTEXT"])


def public_key(kms: Any, key_id: str) -> Any:
    return serialization.load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])


def test_no_two_ciphertexts_are_equal(kms: Any) -> None:
    # go-cloud awskms-TestMultipleEncryptionsNotEqual.replay
    key_id = new_key(kms)
    blobs = [kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"] for _ in range(2)]
    assert blobs[0] != blobs[1]
    assert [kms.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in blobs] == [b"x", b"x"]


def test_every_bit_of_a_ciphertext_counts(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"some text")["CiphertextBlob"]
    for position in range(len(blob)):
        damaged = bytearray(blob)
        damaged[position] ^= 0x80
        with refused(kms, "InvalidCiphertextException"):
            kms.decrypt(KeyId=key_id, CiphertextBlob=bytes(damaged))
    for end in range(1, len(blob)):
        with refused(kms, "InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=blob[:end])


@pytest.mark.parametrize(
    ("algorithm", "hashing"),
    [
        ("RSAES_OAEP_SHA_1", hashes.SHA1()),  # noqa: S303 - an algorithm of AWS's
        ("RSAES_OAEP_SHA_256", hashes.SHA256()),
    ],
)
def test_what_is_encrypted_offline_is_decrypted(kms: Any, algorithm: str, hashing: Any) -> None:
    key_id = new_key(kms, KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
    oaep = padding.OAEP(padding.MGF1(hashing), hashing, None)
    blob = public_key(kms, key_id).encrypt(b"offline", oaep)
    assert len(blob) == 256
    plain = kms.decrypt(KeyId=key_id, CiphertextBlob=blob, EncryptionAlgorithm=algorithm)
    assert plain["Plaintext"] == b"offline"
    with refused(kms, "ValidationException"):
        kms.decrypt(CiphertextBlob=blob, EncryptionAlgorithm=algorithm)
    with refused(kms, "InvalidCiphertextException"):
        kms.decrypt(KeyId=key_id, CiphertextBlob=blob[:-1] + b"x", EncryptionAlgorithm=algorithm)


RSA_SIGNERS = [
    (f"RSASSA_{scheme}_SHA_{hashing.digest_size * 8}", scheme, hashing)
    for scheme in ("PSS", "PKCS1_V1_5")
    for hashing in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
]


@pytest.fixture(scope="module")
def rsa_signer(kms: Any) -> str:
    return new_key(kms, KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")


@pytest.mark.parametrize(("algorithm", "scheme", "hashing"), RSA_SIGNERS)
def test_rsa_signatures_verify_offline(
    kms: Any, rsa_signer: str, algorithm: str, scheme: str, hashing: Any
) -> None:
    how: Any = padding.PKCS1v15()
    if scheme == "PSS":
        how = padding.PSS(padding.MGF1(hashing), hashing.digest_size)
    message = b"a message"
    digest = hashlib.new(hashing.name, message).digest()
    public = public_key(kms, rsa_signer)
    for kind, value in (("RAW", message), ("DIGEST", digest)):
        signature = kms.sign(KeyId=rsa_signer, Message=value, MessageType=kind, SigningAlgorithm=algorithm)[
            "Signature"
        ]
        public.verify(signature, message, how, hashing)
        public.verify(signature, digest, how, utils.Prehashed(hashing))


@pytest.mark.parametrize(
    ("spec", "algorithm", "hashing"),
    [
        ("ECC_NIST_P256", "ECDSA_SHA_256", hashes.SHA256()),
        ("ECC_NIST_P384", "ECDSA_SHA_384", hashes.SHA384()),
        ("ECC_NIST_P521", "ECDSA_SHA_512", hashes.SHA512()),
        ("ECC_SECG_P256K1", "ECDSA_SHA_256", hashes.SHA256()),
    ],
)
def test_ecdsa_signatures_verify_offline(kms: Any, spec: str, algorithm: str, hashing: Any) -> None:
    key_id = new_key(kms, KeySpec=spec, KeyUsage="SIGN_VERIFY")
    digest = hashlib.new(hashing.name, b"a message").digest()
    signature = kms.sign(KeyId=key_id, Message=digest, MessageType="DIGEST", SigningAlgorithm=algorithm)[
        "Signature"
    ]
    public_key(kms, key_id).verify(signature, b"a message", ec.ECDSA(hashing))
    assert kms.verify(KeyId=key_id, Message=b"a message", Signature=signature, SigningAlgorithm=algorithm)[
        "SignatureValid"
    ]


def test_a_pss_signature_of_another_salt_length_is_refused(kms: Any, own: AWSEmulator) -> None:
    # localstack snapshot TestKMS::test_verify_salt_length: the salt is as long as the digest
    private = rsa.generate_private_key(65537, 2048)
    kms = client(own)
    key_id = new_key(kms, KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY", Origin="EXTERNAL")
    import_material(
        kms, key_id, private.private_bytes(DER, PKCS8, PLAIN), algorithm="RSA_AES_KEY_WRAP_SHA_256"
    )
    for salt, valid in ((64, True), (20, False), (190, False)):
        how = padding.PSS(padding.MGF1(hashes.SHA512()), salt)
        request = {
            "KeyId": key_id,
            "Message": b"m",
            "Signature": private.sign(b"m", how, hashes.SHA512()),
            "SigningAlgorithm": "RSASSA_PSS_SHA_512",
        }
        if valid:
            assert kms.verify(**request)["SignatureValid"] is True
        else:
            with refused(kms, "KMSInvalidSignatureException"):
                kms.verify(**request)


def test_ed25519(kms: Any) -> None:
    key_id = new_key(kms, KeySpec="ECC_NIST_EDWARDS25519", KeyUsage="SIGN_VERIFY")
    public = public_key(kms, key_id)
    assert isinstance(public, ed25519.Ed25519PublicKey)
    pure = kms.sign(KeyId=key_id, Message=b"m", SigningAlgorithm="ED25519_SHA_512")["Signature"]
    public.verify(pure, b"m")
    digest = hashlib.sha512(b"m").digest()
    how = {
        "KeyId": key_id,
        "Message": digest,
        "MessageType": "DIGEST",
        "SigningAlgorithm": "ED25519_PH_SHA_512",
    }
    hashed = kms.sign(**how)["Signature"]
    assert kms.verify(Signature=hashed, **how)["SignatureValid"]
    # the digest is hashed once more (service model, Sign.MessageType): libsodium hashes what it is given
    bindings = importlib.import_module("nacl.bindings")
    state = bindings.crypto_sign_ed25519ph_state()
    bindings.crypto_sign_ed25519ph_update(state, digest)
    assert bindings.crypto_sign_ed25519ph_final_verify(state, hashed, public.public_bytes_raw())


@pytest.mark.parametrize("size", [44, 65, 87])
def test_ml_dsa_signatures_verify_offline(kms: Any, size: int) -> None:
    key_id = new_key(kms, KeySpec=f"ML_DSA_{size}", KeyUsage="SIGN_VERIFY")
    public = public_key(kms, key_id)
    how = {"KeyId": key_id, "SigningAlgorithm": "ML_DSA_SHAKE_256"}
    public.verify(kms.sign(Message=b"m", **how)["Signature"], b"m")
    hasher = mldsa.MLDSAMuHasher(public)
    hasher.update(b"m")
    mu = hasher.finalize()
    public.verify(kms.sign(Message=mu, MessageType="EXTERNAL_MU", **how)["Signature"], b"m")


def test_ml_kem_meets_an_offline_peer(kms: Any) -> None:
    key_id = new_key(kms, KeySpec="ML_KEM_768", KeyUsage="ENCAPSULATE_DECAPSULATE")
    public = public_key(kms, key_id)
    assert isinstance(public, mlkem.MLKEM768PublicKey)
    shared, ciphertext = public.encapsulate()
    how = {"KeyId": key_id, "EncapsulationAlgorithm": "ML_KEM"}
    assert kms.decapsulate(SharedSecretCiphertextBlob=ciphertext, **how)["SharedSecret"] == shared
    # implicit rejection: a damaged ciphertext gives another secret and no error (service model, Decapsulate)
    damaged = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert kms.decapsulate(SharedSecretCiphertextBlob=damaged, **how)["SharedSecret"] != shared
    with refused(kms, "InvalidCiphertextException"):
        kms.decapsulate(SharedSecretCiphertextBlob=ciphertext[1:], **how)
    made = kms.encapsulate(**how)
    assert (
        kms.decapsulate(SharedSecretCiphertextBlob=made["SharedSecretCiphertextBlob"], **how)["SharedSecret"]
        == made["SharedSecret"]
    )


@pytest.mark.parametrize(
    ("spec", "curve"),
    [("ECC_NIST_P256", ec.SECP256R1()), ("ECC_NIST_P384", ec.SECP384R1()), ("ECC_NIST_P521", ec.SECP521R1())],
)
def test_key_agreement_meets_an_offline_peer(kms: Any, spec: str, curve: Any) -> None:
    key_id = new_key(kms, KeySpec=spec, KeyUsage="KEY_AGREEMENT")
    peer = ec.generate_private_key(curve)
    reply = kms.derive_shared_secret(
        KeyId=key_id,
        KeyAgreementAlgorithm="ECDH",
        PublicKey=peer.public_key().public_bytes(DER, SPKI),
    )
    assert reply["SharedSecret"] == peer.exchange(ec.ECDH(), public_key(kms, key_id))


def import_request(
    kms: Any, key_id: str, material: bytes, *, algorithm: str = "RSAES_OAEP_SHA_256", **more: Any
) -> dict[str, Any]:
    wrapping = kms.get_parameters_for_import(
        KeyId=key_id, WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048"
    )
    public = cast("rsa.RSAPublicKey", serialization.load_der_public_key(wrapping["PublicKey"]))
    hashing: Any = hashes.SHA256() if algorithm.endswith("256") else hashes.SHA1()  # noqa: S303
    oaep = padding.OAEP(padding.MGF1(hashing), hashing, None)
    if algorithm.startswith("RSA_AES"):
        wrapped = public.encrypt(b"k" * 32, oaep) + keywrap.aes_key_wrap_with_padding(b"k" * 32, material)
    else:
        wrapped = public.encrypt(material, oaep)
    return {
        "KeyId": key_id,
        "ImportToken": wrapping["ImportToken"],
        "EncryptedKeyMaterial": wrapped,
        **({"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"} | more),
    }


def import_material(kms: Any, key_id: str, material: bytes, **more: Any) -> Any:
    return kms.import_key_material(**import_request(kms, key_id, material, **more))


@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1"])
@pytest.mark.parametrize("bits", [224, 256, 384, 512])
def test_an_imported_hmac_key_makes_the_same_macs(kms: Any, bits: int, algorithm: str) -> None:
    material = bytes(range(bits // 8))
    key_id = new_key(kms, KeySpec=f"HMAC_{bits}", KeyUsage="GENERATE_VERIFY_MAC", Origin="EXTERNAL")
    import_material(kms, key_id, material, algorithm=algorithm)
    mac = kms.generate_mac(KeyId=key_id, Message=b"m", MacAlgorithm=f"HMAC_SHA_{bits}")["Mac"]
    assert mac == hmac.digest(material, b"m", f"sha{bits}")
    with refused(kms, "KMSInvalidMacException"):
        kms.verify_mac(KeyId=key_id, Message=b"m", Mac=mac[:-1], MacAlgorithm=f"HMAC_SHA_{bits}")


def test_imported_private_keys_are_used(kms: Any) -> None:
    private = ec.generate_private_key(ec.SECP256K1())
    key_id = new_key(kms, KeySpec="ECC_SECG_P256K1", KeyUsage="SIGN_VERIFY", Origin="EXTERNAL")
    import_material(kms, key_id, private.private_bytes(DER, PKCS8, PLAIN))
    assert public_key(kms, key_id) == private.public_key()
    other = new_key(kms, KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Origin="EXTERNAL")
    with refused(kms, "IncorrectKeyMaterialException"):
        import_material(kms, other, private.private_bytes(DER, PKCS8, PLAIN))


def test_a_second_imported_material_takes_over_on_rotation(kms: Any) -> None:
    key_id = new_key(kms, Origin="EXTERNAL")
    first = import_material(kms, key_id, b"1" * 32, KeyMaterialDescription="the first")["KeyMaterialId"]
    old = kms.encrypt(KeyId=key_id, Plaintext=b"old")["CiphertextBlob"]
    second = import_material(kms, key_id, b"2" * 32, ImportType="NEW_KEY_MATERIAL")["KeyMaterialId"]
    rows = kms.list_key_rotations(KeyId=key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert [(row["KeyMaterialId"], row["KeyMaterialState"]) for row in rows] == [
        (first, "CURRENT"),
        (second, "PENDING_ROTATION"),
    ]
    assert rows[0]["KeyMaterialDescription"] == "the first"
    kms.rotate_key_on_demand(KeyId=key_id)
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["CurrentKeyMaterialId"] == second
    assert kms.decrypt(CiphertextBlob=old)["KeyMaterialId"] == first
    kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=first)
    with refused(kms, "KMSInvalidStateException"):
        kms.encrypt(KeyId=key_id, Plaintext=b"x")
    assert import_material(kms, key_id, b"1" * 32, KeyMaterialId=first)["KeyMaterialId"] == first
    assert kms.decrypt(CiphertextBlob=old)["Plaintext"] == b"old"


@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"])
def test_a_data_key_pair_is_a_pair(kms: Any, spec: str) -> None:
    key_id = new_key(kms)
    pair = kms.generate_data_key_pair(KeyId=key_id, KeyPairSpec=spec, EncryptionContext={"a": "b"})
    private: Any = serialization.load_der_private_key(pair["PrivateKeyPlaintext"], None)
    assert private.public_key().public_bytes(DER, SPKI) == pair["PublicKey"]
    plain = kms.decrypt(CiphertextBlob=pair["PrivateKeyCiphertextBlob"], EncryptionContext={"a": "b"})
    assert plain["Plaintext"] == pair["PrivateKeyPlaintext"]


def test_data_keys_have_the_size_asked_for(kms: Any) -> None:
    key_id = new_key(kms)
    for size, request in (
        (16, {"KeySpec": "AES_128"}),
        (32, {"KeySpec": "AES_256"}),
        (1, {"NumberOfBytes": 1}),
        (1024, {"NumberOfBytes": 1024}),
    ):
        made = kms.generate_data_key(KeyId=key_id, **request)
        assert len(made["Plaintext"]) == size
        assert kms.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    assert "Plaintext" not in kms.generate_data_key_without_plaintext(KeyId=key_id, KeySpec="AES_256")


def test_a_replica_decrypts_what_its_primary_encrypted(own: AWSEmulator) -> None:
    here, there = client(own), client(own, "us-east-1")
    key_id = new_key(here, MultiRegion=True)
    alone = new_key(here)
    here.replicate_key(KeyId=key_id, ReplicaRegion="us-east-1")
    blob = here.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    reply = there.decrypt(CiphertextBlob=blob)
    assert reply["Plaintext"] == b"x"
    assert ":us-east-1:" in reply["KeyId"]
    there.disable_key(KeyId=key_id)
    assert here.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Enabled"
    with refused(there, "DisabledException"):
        there.decrypt(CiphertextBlob=blob)
    with refused(there, "AccessDeniedException"):
        there.decrypt(CiphertextBlob=here.encrypt(KeyId=alone, Plaintext=b"x")["CiphertextBlob"])
    here.update_primary_region(KeyId=key_id, PrimaryRegion="us-east-1")
    configuration = here.describe_key(KeyId=key_id)["KeyMetadata"]["MultiRegionConfiguration"]
    assert configuration["MultiRegionKeyType"] == "REPLICA"
    assert configuration["PrimaryKey"]["Region"] == "us-east-1"


def test_re_encryption_crosses_key_kinds(kms: Any) -> None:
    symmetric = new_key(kms)
    asymmetric = new_key(kms, KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
    blob = kms.encrypt(KeyId=symmetric, Plaintext=b"x", EncryptionContext={"a": "b"})["CiphertextBlob"]
    moved = kms.re_encrypt(
        CiphertextBlob=blob,
        SourceEncryptionContext={"a": "b"},
        DestinationKeyId=asymmetric,
        DestinationEncryptionAlgorithm="RSAES_OAEP_SHA_256",
    )
    assert "DestinationKeyMaterialId" not in moved
    back = kms.re_encrypt(
        CiphertextBlob=moved["CiphertextBlob"],
        SourceKeyId=asymmetric,
        SourceEncryptionAlgorithm="RSAES_OAEP_SHA_256",
        DestinationKeyId=symmetric,
    )
    assert kms.decrypt(CiphertextBlob=back["CiphertextBlob"])["Plaintext"] == b"x"


def test_threads_use_and_change_one_key(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    start = threading.Barrier(8)

    def use(worker: int) -> list[bytes]:
        start.wait()
        seen: list[bytes] = []
        for n in range(20):
            text = f"{worker}/{n}".encode()
            blob = kms.encrypt(KeyId=key_id, Plaintext=text, EncryptionContext={"n": str(n)})[
                "CiphertextBlob"
            ]
            if n % 10 == 0:
                kms.rotate_key_on_demand(KeyId=key_id)
            seen.append(kms.decrypt(CiphertextBlob=blob, EncryptionContext={"n": str(n)})["Plaintext"])
        return seen

    with ThreadPoolExecutor(8) as pool:
        for worker, seen in enumerate(pool.map(use, range(8))):
            assert seen == [f"{worker}/{n}".encode() for n in range(20)]
    assert len(kms.list_key_rotations(KeyId=key_id)["Rotations"]) == 16


def test_one_alias_is_given_once(own: AWSEmulator) -> None:
    kms = client(own)
    key_id = new_key(kms)
    start = threading.Barrier(6)

    def claim(_: int) -> bool:
        start.wait()
        try:
            kms.create_alias(AliasName="alias/contested", TargetKeyId=key_id)
        except kms.exceptions.AlreadyExistsException:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(claim, range(6))) == 1


def test_two_rsa_keys_are_two_keys(kms: Any) -> None:
    made = [new_key(kms, KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY") for _ in range(2)]
    assert public_key(kms, made[0]) != public_key(kms, made[1])
