"""S3 as a place full of messages. Every write is conditional on the ETag of what was read."""

from __future__ import annotations

import ipaddress
import re
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import boto3  # pyright: ignore[reportMissingTypeStubs] # the SDK has no types
from botocore import exceptions as sdk  # pyright: ignore[reportMissingTypeStubs] # the SDK has no types
from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs] # the SDK has no types

from anykms.envelope.stream import Sink, Source
from anykms.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidArgumentError,
    KMSError,
    PermissionDeniedError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)
from anykms.migration.targets import HEAD, Entry, Swap
from anykms.retrying import RetryPolicy
from anykms_objects.names import id_of, name_of

S = TypeVar("S")
T = TypeVar("T")
Reply = Mapping[str, Any]

OPTIONS: Final = ("region", "profile", "endpoint_url")
PART: Final = 8 * 1024 * 1024
"""Bytes of a part, and of the longest object that is written in one request. S3 wants 5 MiB of a part at least."""
_NEAR: Final = 64 * 1024
_COPIED: Final = 512 * 1024 * 1024
_MAX_PARTS: Final = 10_000
_AT_ONCE: Final = 16
_TRIES: Final = 5
_TIMEOUT: Final = 60.0
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_KEPT: Final = (
    "BucketKeyEnabled",
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "Metadata",
    "ObjectLockLegalHoldStatus",
    "ObjectLockMode",
    "ObjectLockRetainUntilDate",
    "ServerSideEncryption",
    "SSEKMSKeyId",
    "StorageClass",
    "WebsiteRedirectLocation",
)
"""What an answer to GetObject or HeadObject says and PutObject and CreateMultipartUpload take."""

_AWS_HOSTS: Final = (".amazonaws.com", ".amazonaws.com.cn")

_GONE: Final = frozenset({"NoSuchKey", "NotFound", "404"})
_CHANGED: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_DENIED: Final = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403"})
_UNKNOWN_CALLER: Final = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnauthorizedAccess",
    }
)
_THROTTLED: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "429",
    }
)
_SDK_ERRORS: Final = (sdk.BotoCoreError, sdk.ClientError)


class _Found(NamedTuple):
    """An object as it was read."""

    etag: str
    size: int
    kept: Mapping[str, Any]
    is_tagged: bool


class _Gone(Exception):  # noqa: N818 # an answer, turned into what the seam says of it
    """There is no such object."""


class _Changed(Exception):  # noqa: N818 # an answer, turned into what the seam says of it
    """The object is another than the one that was read."""


class _EmptyRange(Exception):  # noqa: N818 # an answer, and a fact about the object
    """The object has no bytes in the range: it is empty."""


class S3Target:
    """The objects of a bucket, or those below a prefix, in S3 or what speaks as it does.

    A write happens only while the object still has the ETag that was read (If-Match), large objects included. A
    service other than AWS's is tried out before the first write, and refused if it ignores such conditions. Kept are
    content type and its kin, metadata, tags, storage class, encryption and object lock; not ACLs, which S3 itself
    advises to switch off. In a bucket with versions the message as it was stays behind as an older version, which
    nothing here counts.

    Args:
        url: ``s3://BUCKET``, ``s3://BUCKET/PREFIX``: the prefix is a folder, with or without its slash; with the
            options ``region``, ``profile`` and ``endpoint_url``. Credentials come from the SDK's own chain.
        endpoint_url: instead of the option. https, or http on this machine.
        retry: when reads, and writes that are safe to repeat, are repeated.

    Raises:
        InvalidArgumentError: not such a URL.

    >>> S3Target("s3://archive/2024").name
    's3://archive/2024/'
    """

    def __init__(
        self, url: str, *, endpoint_url: str | None = None, retry: RetryPolicy | None = None
    ) -> None:
        parts = urlsplit(url)
        if (
            not url.isprintable()
            or parts.scheme != "s3"
            or not _BUCKET.fullmatch(parts.netloc)
            or parts.fragment
        ):
            raise InvalidArgumentError(
                "an S3 target is s3://BUCKET or s3://BUCKET/PREFIX; a # in the prefix is %23"
            )
        self.bucket = parts.netloc
        folder = name_of(parts.path.removeprefix("/"), "")
        self.prefix = folder if not folder or folder.endswith("/") else f"{folder}/"
        try:
            given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            given = [("", "")]
        options = dict(given)
        if len(options) != len(given) or not set(options) <= set(OPTIONS) or not all(options.values()):
            raise InvalidArgumentError(
                f"the options of an S3 target are {', '.join(OPTIONS)}, each once; a ? in the prefix is %3F"
            )
        if endpoint_url is not None:
            options["endpoint_url"] = endpoint_url
        if "endpoint_url" in options:
            _check_endpoint(options["endpoint_url"])
        self._options = options
        self._given = retry
        self._retry = retry or RetryPolicy()
        self._lock = threading.Lock()
        self._client: Any = None
        self._is_conditional = False

    def __reduce__(self) -> tuple[object, ...]:
        return partial(S3Target, retry=self._given), (self._url(OPTIONS),)

    def __repr__(self) -> str:
        return f"<S3Target {self.name}>"

    def _url(self, names: Sequence[str]) -> str:
        query = {name: self._options[name] for name in names if name in self._options}
        where = f"s3://{self.bucket}/{quote(self.prefix)}"
        return f"{where}?{urlencode(query, safe=':/')}" if query else where

    @property
    def name(self) -> str:
        """The URL; with the endpoint where it is not AWS's, since another one has other objects."""
        return self._url(("endpoint_url",))

    def entries(self) -> Iterator[Entry]:
        """See ``Target.entries``; ids are names of objects in the bucket, from its root."""
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Bucket=self.bucket, Prefix=self.prefix, **more)
            for row in page.get("Contents", ()):
                yield Entry(id_of(row["Key"]), int(row["Size"]))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def starts(self, ids: Sequence[str], size: int = HEAD) -> Sequence[bytes | None]:
        """See ``Target.starts``; up to 16 requests at once."""
        return _each(lambda entry_id: self._start(name_of(entry_id, self.prefix), size), ids)

    def _start(self, key: str, size: int) -> bytes | None:
        try:
            return self._read(key, size)[1]
        except _Gone:
            return None

    def _read(self, key: str, size: int, etag: str = "") -> tuple[_Found, bytes]:
        """An object and its first bytes; with ``etag`` that very object."""
        what: dict[str, str] = {"Bucket": self.bucket, "Key": key}
        if etag:
            what["IfMatch"] = etag

        def read() -> tuple[_Found, bytes]:
            try:
                reply = self._ask("get_object", **what, Range=f"bytes=0-{max(size, 1) - 1}")
            except _EmptyRange:
                reply = self._ask("get_object", **what)
            with closing(reply["Body"]):
                return _found(reply), _Body(reply["Body"]).exactly(size)

        return self._retry.call(read)

    @contextmanager
    def reading(self, entry_id: str) -> Generator[Source]:
        """See ``Target.reading``."""
        key = name_of(entry_id, self.prefix)
        with _seam(entry_id):
            reply = self._call("get_object", Bucket=self.bucket, Key=key)
        with closing(reply["Body"]):
            yield _Body(reply["Body"])

    def swap(self, swaps: Sequence[Swap]) -> Sequence[bool]:
        """See ``Target.swap``; up to 16 at once. The body of a large object is copied within S3."""
        return _each(self._swap, swaps)

    def _swap(self, swap: Swap) -> bool:
        key = name_of(swap.id, self.prefix)
        for _ in range(_TRIES):
            try:
                return self._swap_once(key, swap)
            except _Gone:
                return False
            except _Changed:
                # Perhaps by our own write, whose reply was lost; perhaps behind the header only. Look again.
                if self._start(key, len(swap.new)) == swap.new:
                    return True
        raise ConflictError("the object changes faster than its header can be replaced; try again later")

    def _swap_once(self, key: str, swap: Swap) -> bool:
        skipped = len(swap.old)
        found, start = self._read(key, max(skipped, _NEAR))
        if not start.startswith(swap.old):
            return False
        if found.size - skipped > PART:
            self._recompose(key, found, swap)
            return True
        body = start if len(start) == found.size else self._read(key, found.size, found.etag)[1]
        with self._upload(key, found) as upload:
            upload.write(swap.new + body[skipped:])
            upload.complete(found.etag)
        return True

    def _recompose(self, key: str, found: _Found, swap: Swap) -> None:
        """Put a new beginning before the rest of a large object, which S3 copies by itself."""
        end = PART + len(swap.old)
        start = self._read(key, end, found.etag)[1]
        size = max(_COPIED, -(-(found.size - end) // (_MAX_PARTS - 1)))
        with self._upload(key, found) as upload:
            upload.part(swap.new + start[len(swap.old) :])
            for at in range(end, found.size, size):
                # The last piece may be short, so nothing is left over for another one.
                upload.copy(found.etag, at, min(at + size, found.size) - 1)
            upload.complete(found.etag)

    def replace(self, entry_id: str, write: Callable[[Source, Sink], T]) -> T:
        """See ``Target.replace``. What is written takes 16 MiB of memory, of objects above 40 GiB more."""
        key = name_of(entry_id, self.prefix)
        with _seam(entry_id):
            reply = self._call("get_object", Bucket=self.bucket, Key=key)
            found = _found(reply)
            with closing(reply["Body"]), self._upload(key, found) as upload:
                result = write(_Body(reply["Body"]), upload)
                upload.complete(found.etag)
        return result

    def _kept(self, key: str, found: _Found) -> dict[str, Any]:
        """What the object's successor takes over from it, as writes take it."""
        if found.kept.get("MissingMeta"):
            raise OSError("the object has metadata that this client cannot read, and so cannot keep")
        return {**found.kept, **self._tags(key, found)}

    def _tags(self, key: str, found: _Found) -> dict[str, str]:
        """The tags, as a write takes them. They may change without the ETag: what others do in between is lost."""
        if not found.is_tagged:
            return {}
        reply = self._call("get_object_tagging", Bucket=self.bucket, Key=key)
        return {"Tagging": urlencode({tag["Key"]: tag["Value"] for tag in reply["TagSet"]})}

    def _upload(self, key: str, found: _Found) -> _Upload:
        kept = partial(self._kept, key, found)

        # Ten thousand parts are all there may be.
        size = max(PART, -(-2 * found.size // _MAX_PARTS))
        self._require_conditions()
        return _Upload(self._bound(key), kept, size, {"Bucket": self.bucket, "Key": key})

    def _bound(self, key: str) -> Callable[..., Reply]:
        def call(method: str, **more: object) -> Reply:
            return self._call(method, Bucket=self.bucket, Key=key, **more)

        return call

    def _require_conditions(self) -> None:
        """Before the first write: a service that is not AWS's must refuse writes whose condition does not hold.

        Raises:
            UnsupportedOperationError: it does not.
        """
        endpoint: str = self._connected().meta.endpoint_url
        host = urlsplit(endpoint).hostname or ""
        if self._is_conditional or host.endswith(_AWS_HOSTS):
            return
        key = f"{self.prefix}.anykms-{secrets.token_hex(8)}.tmp"
        call = self._bound(key)
        for whole in (True, False):
            with _Upload(call, dict, PART, {}) as upload:
                if not whole:
                    upload.part(b"?")
                try:
                    upload.complete('"00000000000000000000000000000000"')
                except (_Gone, _Changed):
                    continue
            call("delete_object")
            raise UnsupportedOperationError(
                "the service writes although a condition (If-Match) does not hold, "
                f"{'of PutObject' if whole else 'of CompleteMultipartUpload'}: what others write would be lost"
            )
        self._is_conditional = True

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _connect(self._options)
            return self._client

    def _call(self, method: str, **parameters: object) -> Reply:
        """One request, repeated while that may help. A conditional write is safe to repeat.

        Raises:
            _Gone, _Changed: what the answer says.
            KMSError, OSError: as the seam has them.
        """
        return self._retry.call(lambda: self._ask(method, **parameters))

    def _ask(self, method: str, **parameters: object) -> Reply:
        try:
            reply: Reply = getattr(self._connected(), method)(**parameters)
        except _SDK_ERRORS as error:
            raise _translated(error) from error
        return reply

    def close(self) -> None:
        """Close the connections; the next use connects again."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None


class _Upload:
    """A successor for one object, written in order: whole when it is small, in parts when it is not.

    Leaving the block without ``complete`` removes the parts.

    Args:
        call: asks S3 about the object.
        kept: what the successor takes over; asked for when the writing begins.
        size: bytes of a part.
        source: the object itself, as what is copied.
    """

    def __init__(
        self,
        call: Callable[..., Reply],
        kept: Callable[[], dict[str, Any]],
        size: int,
        source: dict[str, str],
    ) -> None:
        self._call = call
        self._kept = kept
        self._size = size
        self._source = source
        self._waiting = bytearray()
        self._id = ""
        self._parts: list[dict[str, object]] = []
        self._completed = False

    def __enter__(self) -> _Upload:
        return self

    def __exit__(self, *_: object) -> None:
        if self._id and not self._completed:
            # What cannot be removed now is removed by a lifecycle rule for incomplete uploads.
            with suppress(KMSError, OSError, _Gone, _Changed):
                self._call("abort_multipart_upload", UploadId=self._id)

    def write(self, data: bytes | memoryview, /) -> int:
        """Take bytes; whole parts are sent."""
        self._waiting += data
        while len(self._waiting) > self._size:
            self.part(bytes(self._waiting[: self._size]))
            del self._waiting[: self._size]
        return len(data)

    def part(self, part: bytes) -> None:
        """Send one part: 5 MiB at least, unless it is the last one."""
        number, upload = self._next()
        reply = self._call("upload_part", UploadId=upload, PartNumber=number, Body=part)
        self._keep(number, reply)

    def copy(self, etag: str, first: int, last: int) -> None:
        """Add bytes of the object itself, ends included, while it is the one that was read."""
        number, upload = self._next()
        reply = self._call(
            "upload_part_copy",
            UploadId=upload,
            PartNumber=number,
            CopySource=dict(self._source),
            CopySourceIfMatch=etag,
            CopySourceRange=f"bytes={first}-{last}",
        )
        self._keep(number, reply["CopyPartResult"])

    def _next(self) -> tuple[int, str]:
        if not self._id:
            self._id = str(self._call("create_multipart_upload", **self._kept())["UploadId"])
        return len(self._parts) + 1, self._id

    def _keep(self, number: int, reply: Reply) -> None:
        sums = {name: value for name, value in reply.items() if name.startswith("Checksum")}
        sums.pop("ChecksumType", None)
        self._parts.append({"PartNumber": number, "ETag": reply["ETag"], **sums})

    def complete(self, etag: str) -> None:
        """Put it in the object's place, if that is still the one with ``etag``.

        Raises:
            _Gone, _Changed: it is not.
        """
        if not self._id:
            self._call("put_object", Body=bytes(self._waiting), IfMatch=etag, **self._kept())
            return
        if self._waiting:
            self.part(bytes(self._waiting))
        self._call(
            "complete_multipart_upload",
            UploadId=self._id,
            IfMatch=etag,
            MultipartUpload={"Parts": self._parts},
        )
        self._completed = True


class _Body:
    """The body of an answer, whose errors are the seam's."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, all for a negative size; empty at the end, once as many came as were announced."""
        try:
            piece: bytes = self._body.read(None if size < 0 else size)
        except _SDK_ERRORS as error:
            raise _translated(error) from error
        return piece

    def exactly(self, size: int) -> bytes:
        """``size`` bytes, fewer only at the end."""
        pieces: list[bytes] = []
        while size and (piece := self.read(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _found(reply: Reply) -> _Found:
    whole = str(reply.get("ContentRange", "")).rpartition("/")[2]
    kept = {name: reply[name] for name in _KEPT if reply.get(name) not in (None, "")}
    until = kept.get("ObjectLockRetainUntilDate")
    if until is not None and until <= datetime.now(UTC):
        # S3 takes no lock that has ended.
        del kept["ObjectLockRetainUntilDate"]
        kept.pop("ObjectLockMode", None)
    if reply.get("MissingMeta"):
        kept["MissingMeta"] = reply["MissingMeta"]
    return _Found(
        etag=str(reply["ETag"]),
        size=int(whole) if whole.isdigit() else int(reply["ContentLength"]),
        kept=kept,
        is_tagged=bool(reply.get("TagCount")),
    )


def _each(function: Callable[[S], T], items: Sequence[S]) -> list[T]:
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), _AT_ONCE)) as pool:
        return list(pool.map(function, items))


@contextmanager
def _seam(entry_id: str) -> Generator[None]:
    try:
        yield
    except _Gone as error:
        raise FileNotFoundError(f"there is no object {entry_id!a}") from error.__cause__
    except _Changed as error:
        raise ConflictError(
            "the object was changed while its successor was written, or the reply to a first attempt was lost; "
            "read it again"
        ) from error.__cause__


def _connect(options: Mapping[str, str]) -> Any:
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=5.0,
        read_timeout=_TIMEOUT,
        max_pool_connections=2 * _AT_ONCE,
        user_agent_extra=f"anykms/{version('anykms')}",
    )
    try:
        session: Any = boto3.Session(profile_name=options.get("profile"), region_name=options.get("region"))
        client: Any = session.client("s3", endpoint_url=options.get("endpoint_url"), config=config)
    except _SDK_ERRORS as error:
        raise _translated(error) from error
    except ValueError as error:  # botocore's word for a malformed endpoint
        raise InvalidArgumentError("the AWS SDK cannot use its endpoint: see the cause") from error
    # The environment and the profile may name an endpoint too.
    _check_endpoint(client.meta.endpoint_url)
    return client


def _check_endpoint(url: str) -> None:
    """Raises InvalidArgumentError unless it is https, or http on this very machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    bare = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
    if not host or port == 0 or not bare or parts.scheme not in ("http", "https"):
        raise InvalidArgumentError("endpoint_url is https://HOST[:PORT]")
    if parts.scheme == "http" and not _is_loopback(host):
        raise InvalidArgumentError("an http endpoint must be on this machine: 127.0.0.1, [::1] or localhost")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _translated(error: Exception) -> Exception:
    """The seam's error for one of the SDK's; the caller raises it ``from`` that one. S3's own text is not quoted."""
    if isinstance(error, sdk.ClientError):
        return _refused(error)
    name = type(error).__name__
    if isinstance(error, (sdk.ConnectTimeoutError, sdk.ReadTimeoutError)):
        return DeadlineExceededError(f"S3 did not answer in time ({name})")
    if isinstance(error, (sdk.HTTPClientError, sdk.ConnectionError, sdk.IncompleteReadError)):
        return UnavailableError(f"S3 cannot be reached, or its answer was cut off ({name})")
    if isinstance(
        error,
        (
            sdk.NoCredentialsError,
            sdk.PartialCredentialsError,
            sdk.CredentialRetrievalError,
            sdk.TokenRetrievalError,
        ),
    ):
        return UnauthenticatedError(
            f"no usable AWS credentials ({name}); give them, or configure the SDK's chain"
        )
    return OSError(f"the AWS SDK cannot do this: {name}")


def _refused(error: Any) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    facts: Reply = error.response.get("ResponseMetadata", {})
    status = int(facts.get("HTTPStatusCode") or 0)
    shown = ascii(code)[1:-1][:80]
    if code in _GONE:
        return _Gone()
    if code in _CHANGED or code == "NoSuchUpload":
        return _Changed()
    if code == "InvalidRange":
        return _EmptyRange()
    if code in _THROTTLED:
        return ThrottledError(f"S3 is throttling requests ({shown})", retry_after=_retry_after(facts))
    if code in _UNKNOWN_CALLER:
        return UnauthenticatedError(f"AWS does not accept the credentials ({shown})")
    if code in _DENIED:
        return PermissionDeniedError(f"AWS does not allow it ({shown})")
    if code in ("OperationAborted",):
        return ConflictError(f"S3 is changing the same thing ({shown})")
    if status >= 500 or code == "RequestTimeout":
        return UnavailableError(f"S3 failed for a reason of its own ({shown})")
    if code == "InvalidObjectState":
        return OSError("the object is archived: restore it first")
    return OSError(f"S3 refuses ({status} {shown})")


def _retry_after(facts: Mapping[str, Any]) -> float | None:
    headers: Mapping[str, str] = facts.get("HTTPHeaders") or {}
    seconds = headers.get("retry-after", "")
    return float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) <= 6 else None
