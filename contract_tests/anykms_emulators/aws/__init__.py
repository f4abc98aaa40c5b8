"""A strict AWS KMS on a loopback port: JSON 1.1, SigV4 header, AWS's own errors, real cryptography.

    with AWSEmulator() as aws:
        kms = boto3.client("kms", **aws.client_kwargs())
        key_id = kms.create_key()["KeyMetadata"]["KeyId"]

It implements every operation of the KMS service model but custom key stores, which it refuses as an account
without one is refused. What it does otherwise than AWS, by choice: no IAM (grants and policies are kept, not
enforced); reads are consistent at once unless `lag` says
otherwise; rotation is instant; no SM2 (China only), no ML_KEM_512 and no Nitro
attestation; its ciphertexts are its own. Where no public recording has the words of an error, they are the
emulator's: rely on the code.
"""

from __future__ import annotations

import importlib
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import urlencode

from anykms_emulators.aws import control_plane, data_plane, wire
from anykms_emulators.aws.account import Account, Call
from anykms_emulators.aws.errors import KmsError, status_of
from anykms_emulators.aws.parameters import check
from anykms_emulators.emulator import Emulator
from anykms_emulators.loopback import HttpRequest, LoopbackServer, Reply
from anykms_emulators.recorder import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from anykms_emulators.clock import Clock
    from anykms_emulators.faults import Fault

__all__ = ["AWSEmulator"]

ACCOUNT: Final = "111122223333"
ACCESS_KEY_ID: Final = "AKIAIOSFODNN7EXAMPLE"
SECRET_ACCESS_KEY: Final = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # noqa: S105 - AWS's documented example


class AWSEmulator(Emulator):
    """AWS KMS in one account.

    region: the Region that `uri` and `client_kwargs` name; `replica_regions` are served on the same port to
    clients that sign for them. A request signed for any other Region is refused, as AWS refuses it.
    """

    def __init__(
        self,
        *,
        region: str = "eu-west-1",
        replica_regions: Sequence[str] = (),
        account: str = ACCOUNT,
        port: int = 0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(port=port, clock=clock, operations=HANDLERS.keys())
        self.region = region
        self._account = Account(account, (region, *replica_regions))
        self._server = LoopbackServer(self._handle)

    def start(self) -> Self:
        """Listen on 127.0.0.1; returns itself."""
        self._server.start(self._wanted_port)
        return self

    def stop(self) -> None:
        """Close the port and every connection. Keys stay."""
        self._server.stop()

    @property
    def endpoint_url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def uri(self) -> str:
        """`awskms:///?region=...&endpoint_url=...`."""
        query = urlencode({"region": self.region, "endpoint_url": self.endpoint_url}, safe=":/")
        return f"awskms:///?{query}"

    @property
    def options(self) -> Mapping[str, Any]:
        """`allow_insecure_endpoint` and throw-away `credentials`."""
        return {
            "allow_insecure_endpoint": True,
            "credentials": {
                "aws_access_key_id": ACCESS_KEY_ID,
                "aws_secret_access_key": SECRET_ACCESS_KEY,
            },
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """What the AWS command line and every AWS SDK read."""
        return {
            "AWS_ENDPOINT_URL_KMS": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        }

    def client_kwargs(self, region: str | None = None) -> dict[str, Any]:
        """Keyword arguments for `boto3.client("kms", ...)`."""
        return {
            "endpoint_url": self.endpoint_url,
            "region_name": region or self.region,
            "aws_access_key_id": ACCESS_KEY_ID,
            "aws_secret_access_key": SECRET_ACCESS_KEY,
        }

    def client(self, region: str | None = None) -> Any:
        """A boto3 KMS client with boto3's defaults, retries included (needs boto3)."""
        return importlib.import_module("boto3").client("kms", **self.client_kwargs(region))

    def _handle(self, request: HttpRequest) -> Reply | None:
        request_id = str(uuid.uuid4())
        operation = request.headers.get("x-amz-target", "").removeprefix(wire.TARGET_PREFIX)
        fault = self._record(request, operation, request_id)
        if fault is not None and fault.delay:
            time.sleep(fault.delay)
        if fault is not None and fault.action is not None:
            fault.action()
        if fault is not None and fault.kind == "reset":
            return None
        if fault is not None and fault.kind in ("error", "throttle"):
            return _faulty_reply(fault, request_id)
        try:
            reply = wire.success(self._answer(request, operation, request_id), request_id)
        except KmsError as error:
            reply = wire.failure(error, status_of(error.code), request_id)
        return None if fault is not None and fault.kind == "lost reply" else reply

    def _record(self, request: HttpRequest, operation: str, request_id: str) -> Fault | None:
        try:
            document = wire.parse(request.body)
        except KmsError:
            document = None
        try:
            caller = wire.authenticate(request.headers, self._account.regions).access_key
        except KmsError:
            caller = ""
        parameters = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        self.requests.record(Request(operation, parameters, request.headers, caller, request_id))
        return self.faults.take(operation)

    def _answer(self, request: HttpRequest, operation: str, request_id: str) -> Mapping[str, Any] | None:
        target = request.headers.get("x-amz-target", "")
        known = target.startswith(wire.TARGET_PREFIX) and operation in HANDLERS
        if request.method != "POST" or request.path != "/" or not known:
            raise KmsError("UnknownOperationException")
        caller = wire.authenticate(request.headers, self._account.regions)
        if not request.headers.get("content-type", "").startswith(wire.CONTENT_TYPE):
            raise KmsError("UnknownOperationException")
        parameters = check(operation, wire.parse(request.body))
        now = self.clock.now()
        with self._account.lock:
            self._account.catch_up(now)
            account = self._account
            if operation in _LAGGING:
                account = self._behind(now) or account
            else:
                self.lag.change(account.number, account.copy)
            call = Call(account, operation, caller.region, parameters, now, request_id)
            if operation not in data_plane.HANDLERS:
                return HANDLERS[operation](call)
        return HANDLERS[operation](call)  # cryptography runs outside the lock

    def _behind(self, now: datetime) -> Account | None:
        account = cast("Account | None", self.lag.view(self._account.number))
        if account is not None:
            account.catch_up(now)
        return account


HANDLERS: Final = {**control_plane.HANDLERS, **control_plane.REFUSED, **data_plane.HANDLERS}
# "The AWS KMS API follows an eventual consistency model" (AWS KMS developer guide, "Eventual consistency"): all
# that reads or uses a key. What changes a key is done on the newest state, which is kinder than AWS.
_LAGGING: Final = frozenset(
    name for name in HANDLERS if name in data_plane.HANDLERS or name.startswith(("Describe", "Get", "List"))
) - {"GetParametersForImport"}


def _faulty_reply(fault: Fault, request_id: str) -> Reply:
    if fault.kind == "throttle":
        error = KmsError(fault.code or "ThrottlingException", fault.message or "Rate exceeded")
    else:
        error = KmsError(fault.code or "KMSInternalException", fault.message)
    extra = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return wire.failure(error, fault.status or status_of(error.code), request_id, extra)
