"""Stores as places full of messages: S3 as moto's server plays it, and what fsspec knows."""

from __future__ import annotations

import importlib
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

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
from anykms.migration.targets import Entry, Swap, Target, open_target
from anykms.retrying import RetryPolicy
from anykms_objects.filesystems import FsspecTarget
from anykms_objects.s3 import PART, S3Target

MIB = 1024 * 1024
ONCE = RetryPolicy(max_attempts=1)
SEED = "HTTP_X_TEST_SEED"
"""Marks the requests of other writers than the one that is tested."""
HASTY = RetryPolicy(max_attempts=4, base_delay=0)


def fetch(name: str) -> Any:
    """A library without types."""
    return importlib.import_module(name)


@dataclass
class Fault:
    """Answers the next requests of a kind by itself, before or after they have happened.

    Attributes:
        path: what the request's line must contain: ``PUT``, ``uploadId``.
        status, body: the answer.
        headers: of the answer.
        late: the request happens first, so that its reply is lost.
        times: how often.
    """

    path: str
    status: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    late: bool = False
    times: int = 1


class Front:
    """moto as a WSGI application, with what it leaves out in front of it.

    moto 5.2 checks If-Match of PutObject, but not of CompleteMultipartUpload, and neither in one step with the
    write. S3 does (Amazon S3 User Guide, "How to prevent object overwrites with conditional writes").
    """

    def __init__(self) -> None:
        server = fetch("moto.server")
        self._moto = server.DomainDispatcherApplication(server.create_backend_app)
        self._lock = threading.RLock()
        self.seen: list[str] = []
        self.faults: list[Fault] = []
        self.before: list[tuple[str, Callable[[], None]]] = []
        """What another writer does just before a request of a kind."""

    def __call__(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Any:
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        self.seen.append(line)
        kind, act = self.before[0] if self.before else ("nothing", lambda: None)
        if kind in line and SEED not in environ:
            del self.before[0]
            act()
        fault = next((each for each in self.faults if each.path in line and each.times), None)
        if fault is not None:
            fault.times -= 1
            if not fault.late:
                start_response(fault.status, [("Content-Type", "application/xml"), *fault.headers])
                return [fault.body]
        with self._lock:
            wanted = environ.get("HTTP_IF_MATCH")
            if environ["REQUEST_METHOD"] == "POST" and "uploadId=" in line:
                assert wanted, "a completion without a condition"
                found = self._etag(environ["PATH_INFO"])
                if found != wanted.strip('"'):
                    gone = found is None
                    status = "404 Not Found" if gone else "412 Precondition Failed"
                    start_response(status, [("Content-Type", "application/xml")])
                    return [refusal("NoSuchKey" if gone else "PreconditionFailed")]
            if (
                environ["REQUEST_METHOD"] == "PUT"
                and "uploadId" not in line
                and environ["PATH_INFO"].count("/") > 1
            ):
                assert wanted or SEED in environ, "a write without a condition"
            if fault is None:
                return self._moto(environ, start_response)
            b"".join(self._moto(environ, keep_quiet))
        start_response(fault.status, [("Content-Type", "application/xml"), *fault.headers])
        return [fault.body]

    def _etag(self, path: str) -> str | None:
        _, bucket, key = path.split("/", 2)
        backends = fetch("moto.s3.models").s3_backends
        found = backends["123456789012"]["aws"].get_object(bucket, key)
        return None if found is None else str(found.etag).strip('"')


def keep_quiet(*_: object) -> None:
    """A start_response for an answer that is lost."""


def refusal(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>secret words</Message></Error>".encode()


@dataclass
class Store:
    """S3, and a client of its own that writes as other programs do."""

    front: Front
    endpoint: str
    client: Any
    bucket: str = field(default="archive")

    def put(self, key: str, body: bytes, **more: Any) -> str:
        return str(self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **more)["ETag"])

    def get(self, key: str) -> bytes:
        with closing(self.client.get_object(Bucket=self.bucket, Key=key)["Body"]) as body:
            return bytes(body.read())

    def target(self, prefix: str = "in/", retry: RetryPolicy | None = HASTY) -> S3Target:
        return S3Target(
            f"s3://{self.bucket}/{prefix}?region=eu-west-1", endpoint_url=self.endpoint, retry=retry
        )


@pytest.fixture(scope="module")
def service() -> Iterator[Store]:
    front = Front()
    server = fetch("werkzeug.serving").make_server("127.0.0.1", 0, front, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        endpoint = f"http://127.0.0.1:{server.server_port}"
        client = fetch("boto3").client("s3", endpoint_url=endpoint, region_name="us-east-1")

        def mark(request: Any, **_: object) -> None:
            request.headers.add_header("x-test-seed", "1")

        client.meta.events.register("before-sign.s3", mark)
        client.create_bucket(Bucket="archive")
        yield Store(front, endpoint, client)
        client.close()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def store(service: Store) -> Iterator[Store]:
    yield service
    service.front.faults.clear()
    service.front.before.clear()
    for row in service.client.list_objects_v2(Bucket=service.bucket).get("Contents", ()):
        service.client.delete_object(Bucket=service.bucket, Key=row["Key"])


@pytest.fixture(scope="module")
def s3(service: Store) -> Iterator[S3Target]:
    with closing(service.target()) as target:
        yield target


@pytest.fixture(scope="module")
def impatient(service: Store) -> Iterator[S3Target]:
    """Asks once."""
    with closing(service.target(retry=ONCE)) as target:
        yield target


def copy(source: Source, sink: Sink) -> int:
    size = 0
    while piece := source.read(MIB):
        sink.write(piece)
        size += len(piece)
    return size


def upper(source: Source, sink: Sink) -> str:
    while piece := source.read(MIB):
        sink.write(bytes(piece).upper())
    return "done"


# Walking and reading


def test_a_walk_lists_every_object_below_the_prefix(store: Store, s3: S3Target) -> None:
    for key in ("in/a", "in/deep/er/b", "in/ä \t%2F", "in-other/c", "in"):
        store.put(key, key.encode())
    found = {entry.id: entry.size for entry in s3.entries()}
    assert found == {"in/a": 4, "in/deep/er/b": 12, "in/ä %09%252F": 10}
    assert s3.starts(list(found)) == [b"in/a", b"in/deep/er/b", "in/ä \t%2F".encode()]


def test_a_walk_follows_the_pages(store: Store, s3: S3Target, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        store.put(f"in/{number}", b"x")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    before = len(store.front.seen)
    walk = s3.entries()
    assert next(walk) == Entry("in/0", 1)
    assert len(store.front.seen) - before == 1
    assert len(list(walk)) == 6
    assert len(store.front.seen) - before == 3


def test_a_whole_bucket_is_a_target(store: Store) -> None:
    store.put("a", b"1")
    store.put("b/c", b"2")
    with closing(S3Target(f"s3://{store.bucket}?region=eu-west-1", endpoint_url=store.endpoint)) as target:
        assert sorted(target.entries(), key=lambda entry: entry.id) == [Entry("a", 1), Entry("b/c", 1)]


def test_starts_are_as_long_as_asked_or_as_there_is(store: Store, s3: S3Target) -> None:
    store.put("in/long", bytes(10_000))
    store.put("in/short", b"short")
    store.put("in/empty", b"")
    ids = ["in/long", "in/gone", "in/short", "in/empty"]
    assert s3.starts(ids) == [bytes(4096), None, b"short", b""]
    assert s3.starts(ids, 0) == [b"", None, b"", b""]
    assert s3.starts(ids, 3) == [bytes(3), None, b"sho", b""]
    assert s3.starts([]) == []


def test_an_entry_is_read_in_order(store: Store, s3: S3Target) -> None:
    body = bytes(range(256)) * 8192
    store.put("in/a", body)
    with s3.reading("in/a") as source:
        assert source.read(5) == body[:5]
        rest = b""
        while piece := source.read(100_000):
            rest += piece
    assert rest == body[5:]


def test_an_entry_that_is_gone_is_not_found(s3: S3Target) -> None:
    with pytest.raises(FileNotFoundError), s3.reading("in/a"):
        pass
    with pytest.raises(FileNotFoundError):
        s3.replace("in/a", copy)


@pytest.mark.parametrize("entry_id", ["other/a", "in", "i%6e", "%ff"])
def test_an_entry_of_another_place_is_refused(s3: S3Target, entry_id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        s3.starts([entry_id])
    with pytest.raises(InvalidArgumentError):
        s3.replace(entry_id, copy)


# Headers


def test_headers_are_put_in_place_of_others(store: Store, s3: S3Target) -> None:
    store.put("in/a", b"old header|body")
    store.put("in/b", b"other header|body")
    store.put("in/empty", b"")
    swaps = [
        Swap(f"in/{name}", b"old header|", b"a longer new header|") for name in ("a", "b", "empty", "gone")
    ]
    assert s3.swap(swaps) == [True, False, False, False]
    assert store.get("in/a") == b"a longer new header|body"
    assert store.get("in/b") == b"other header|body"
    assert s3.swap(swaps) == [False, False, False, False]
    assert s3.swap([]) == []


@pytest.mark.parametrize("new", [b"n" * 700, b"new", b""], ids=len)
@pytest.mark.parametrize("size", [PART - 1000, PART + 1, 2 * PART])
def test_the_body_of_a_large_object_stays(store: Store, s3: S3Target, new: bytes, size: int) -> None:
    old = b"old header"
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    store.put("in/a", old + body)
    before = len(store.front.seen)
    assert s3.swap([Swap("in/a", old, new)]) == [True]
    assert store.get("in/a") == new + body
    copied = [line for line in store.front.seen[before:] if "partNumber=2" in line]
    assert bool(copied) is (len(body) > PART)


KEPT = {
    "ContentType": "application/x-anykms",
    "ContentEncoding": "identity",
    "ContentDisposition": "attachment",
    "ContentLanguage": "de",
    "CacheControl": "no-store",
    "Metadata": {"row": "17"},
    "StorageClass": "STANDARD_IA",
    "ServerSideEncryption": "aws:kms",
    "SSEKMSKeyId": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
}


@pytest.mark.parametrize("size", [100, PART + 100])
@pytest.mark.parametrize("how", ["swap", "replace"])
def test_a_change_keeps_all_but_the_content(store: Store, s3: S3Target, how: str, size: int) -> None:
    store.put("in/a", b"old" + bytes(size), Tagging="tenant=42&note=a%20b%3Dc", **KEPT)
    if how == "swap":
        assert s3.swap([Swap("in/a", b"old", b"new")]) == [True]
    else:
        assert s3.replace("in/a", upper) == "done"
    now = store.client.head_object(Bucket=store.bucket, Key="in/a")
    assert {name: now.get(name) for name in KEPT} == KEPT
    tags = store.client.get_object_tagging(Bucket=store.bucket, Key="in/a")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"tenant": "42", "note": "a b=c"}


def test_a_bucket_with_versions_keeps_the_message_as_it_was(store: Store, s3: S3Target) -> None:
    store.client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
    try:
        body = bytes(PART)
        store.put("in/a", b"old" + body)
        store.put("in/b", b"old")
        assert s3.swap([Swap(key, b"old", b"new") for key in ("in/a", "in/b")]) == [True, True]
        assert (store.get("in/a"), store.get("in/b")) == (b"new" + body, b"new")
        rows = store.client.list_object_versions(Bucket=store.bucket)["Versions"]
        assert sorted(row["Key"] for row in rows) == ["in/a", "in/a", "in/b", "in/b"]
        assert len(list(s3.entries())) == 2
    finally:
        store.client.put_bucket_versioning(
            Bucket=store.bucket, VersioningConfiguration={"Status": "Suspended"}
        )
        for row in store.client.list_object_versions(Bucket=store.bucket)["Versions"]:
            store.client.delete_object(Bucket=store.bucket, Key=row["Key"], VersionId=row["VersionId"])


# Other writers


@pytest.mark.parametrize("size", [10, PART + 10])
def test_what_was_changed_meanwhile_is_swapped_as_it_is_now(store: Store, s3: S3Target, size: int) -> None:
    store.put("in/a", b"old" + bytes(size))
    theirs = b"old" + b"\x01" * size
    kind = "PUT /archive/in/a" if size <= PART else "POST /archive/in/a?uploadId"
    store.front.before.append((kind, lambda: other_writer(store, "in/a", theirs)))
    assert s3.swap([Swap("in/a", b"old", b"new")]) == [True]
    assert store.get("in/a") == b"new" + theirs[3:]


def other_writer(store: Store, key: str, body: bytes | None) -> None:
    """Writes in a thread of its own: it comes while a request of ours waits."""
    with ThreadPoolExecutor(1) as pool:
        if body is None:
            pool.submit(store.client.delete_object, Bucket=store.bucket, Key=key).result()
        else:
            pool.submit(store.put, key, body).result()


@pytest.mark.parametrize("theirs", [b"another message", None], ids=["changed", "deleted"])
@pytest.mark.parametrize("size", [10, PART + 10])
def test_what_others_have_made_stays(store: Store, s3: S3Target, theirs: bytes | None, size: int) -> None:
    for how in ("swap", "replace"):
        store.put("in/a", b"old" + bytes(size))
        kind = "PUT /archive/in/a" if size <= PART else "POST /archive/in/a?uploadId"
        store.front.before.append((kind, lambda: other_writer(store, "in/a", theirs)))
        if how == "swap":
            assert s3.swap([Swap("in/a", b"old", b"new")]) == [False]
        else:
            with pytest.raises(ConflictError if theirs else FileNotFoundError):
                s3.replace("in/a", upper)
        assert not store.front.before
        assert s3.starts(["in/a"]) == [theirs]
    uploads = store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", [])
    assert uploads == []


def test_an_object_that_never_rests_is_given_up(store: Store, s3: S3Target) -> None:
    store.put("in/a", b"old0")
    for number in range(5):
        write = partial(other_writer, store, "in/a", b"old%d" % (number + 1))
        store.front.before.append(("PUT /archive/in/a", write))
    with pytest.raises(ConflictError, match="faster"):
        s3.swap([Swap("in/a", b"old", b"new")])
    assert store.get("in/a") == b"old5"


def test_many_writers_lose_nothing(store: Store, s3: S3Target) -> None:
    store.put("in/a", b"0000.xx|body")

    def count(writer: int) -> None:
        while True:
            (start,) = s3.starts(["in/a"], 8)
            assert start is not None
            # As headers are, each writer's is its own.
            if s3.swap([Swap("in/a", start, b"%04d.%02d|" % (int(start[:4]) + 1, writer))]) == [True]:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(12)))
    assert store.get("in/a")[:4] == b"0012"


# Replacing


@pytest.mark.parametrize("size", [0, 1000, PART - 1, PART, 2 * PART + 17])
def test_a_replacement_is_what_was_written(store: Store, s3: S3Target, size: int) -> None:
    body = (b"abcdefghijk" * (size // 11 + 1))[:size]
    store.put("in/a", body)
    assert s3.replace("in/a", upper) == "done"
    assert store.get("in/a") == body.upper()


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_a_failure_while_writing_changes_nothing(store: Store, s3: S3Target, size: int) -> None:
    store.put("in/a", bytes(size))

    def fail(source: Source, sink: Sink) -> None:
        copy(source, sink)
        raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        s3.replace("in/a", fail)
    assert store.get("in/a") == bytes(size)
    assert store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", []) == []


# Faults


@pytest.mark.parametrize("size", [10, PART + 10])
def test_a_lost_reply_to_a_swap_is_found_out(store: Store, s3: S3Target, size: int) -> None:
    store.put("in/a", b"old" + bytes(size))
    kind = "PUT /archive/in/a" if size <= PART else "POST /archive/in/a?uploadId"
    store.front.faults.append(Fault(kind, "500 Oops", refusal("InternalError"), late=True))
    assert s3.swap([Swap("in/a", b"old", b"new")]) == [True]
    assert store.get("in/a") == b"new" + bytes(size)


def test_a_lost_reply_to_a_replacement_is_a_conflict(store: Store, s3: S3Target) -> None:
    store.put("in/a", b"abc")
    store.front.faults.append(Fault("PUT /archive/in/a", "500 Oops", refusal("InternalError"), late=True))
    with pytest.raises(ConflictError, match="read it again"):
        s3.replace("in/a", upper)
    assert store.get("in/a") == b"ABC"


FAULTS: list[tuple[str, str, type[Exception]]] = [
    ("503 Slow Down", "SlowDown", ThrottledError),
    ("500 Internal", "InternalError", UnavailableError),
    ("503 Unavailable", "ServiceUnavailable", UnavailableError),
    ("400 Bad Request", "RequestTimeout", UnavailableError),
    ("403 Forbidden", "AccessDenied", PermissionDeniedError),
    ("403 Forbidden", "InvalidAccessKeyId", UnauthenticatedError),
    ("400 Bad Request", "ExpiredToken", UnauthenticatedError),
    ("409 Conflict", "OperationAborted", ConflictError),
    ("404 Not Found", "NoSuchBucket", OSError),
    ("403 Forbidden", "InvalidObjectState", OSError),
    ("400 Bad Request", "KMS.DisabledException", OSError),
    ("418 Teapot", "SomethingNew", OSError),
]


@pytest.mark.parametrize(("status", "code", "kind"), FAULTS, ids=[code for _, code, _ in FAULTS])
def test_a_refusal_has_its_class_and_none_of_its_words(
    store: Store, impatient: S3Target, status: str, code: str, kind: type[Exception]
) -> None:
    store.put("in/a", b"old")
    fault = Fault("/archive", status, refusal(code), headers=(("Retry-After", "7"),), times=100)
    store.front.faults.append(fault)
    for attempt in (
        lambda: list(impatient.entries()),
        lambda: impatient.starts(["in/a", "in/b"]),
        lambda: impatient.swap([Swap("in/a", b"old", b"new")]),
        lambda: impatient.replace("in/a", copy),
    ):
        with pytest.raises(kind) as caught:
            attempt()
        assert type(caught.value) is kind
        assert "secret words" not in str(caught.value)
        if kind is ThrottledError:
            assert isinstance(caught.value, KMSError)
            assert caught.value.retry_after == 7.0
    store.front.faults.clear()
    assert store.get("in/a") == b"old"


def test_a_busy_service_is_asked_again(store: Store, s3: S3Target) -> None:
    store.put("in/a", b"old")
    for _ in range(3):
        store.front.faults.append(Fault("/archive", "503 Slow Down", refusal("SlowDown")))
    assert s3.swap([Swap("in/a", b"old", b"new")]) == [True]
    assert not any(fault.times for fault in store.front.faults)


def test_an_endpoint_that_is_not_there_is_unavailable() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        target = S3Target("s3://archive?region=eu-west-1", endpoint_url="http://127.0.0.1:1", retry=ONCE)
        with closing(target), pytest.raises((UnavailableError, DeadlineExceededError)):
            list(target.entries())


def test_no_credentials_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    target = S3Target("s3://archive?region=eu-west-1", endpoint_url="http://127.0.0.1:1", retry=ONCE)
    with closing(target), pytest.raises(UnauthenticatedError, match="credentials"):
        list(target.entries())


def test_a_service_that_ignores_conditions_is_not_written_to(store: Store) -> None:
    # moto without the front: CompleteMultipartUpload writes whatever If-Match says.
    server = fetch("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        bare = fetch("boto3").client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        with (
            closing(bare),
            closing(S3Target("s3://archive/in", endpoint_url=f"http://{host}:{port}")) as target,
        ):
            store.put("in/a", b"old")  # the same store, seen through both
            assert target.starts(["in/a"]) == [b"old"]
            with pytest.raises(UnsupportedOperationError, match="CompleteMultipartUpload"):
                target.swap([Swap("in/a", b"old", b"new")])
            with pytest.raises(UnsupportedOperationError):
                target.replace("in/a", upper)
            assert [entry.id for entry in target.entries()] == ["in/a"]
            assert target.starts(["in/a"]) == [b"old"]
    finally:
        server.stop()


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://A_B/x",
        "s3://key:secret@archive/x",
        "s3://archive:80/x",
        "s3://archive/x#y",
        "s3://archive/x?colour=red",
        "s3://archive/x?region=a&region=b",
        "s3://archive/x?region=",
        "s3://archive/x?region",
        "s3://archive/%ff",
        "s3://archive/x\n",
        "s3://archive/x?endpoint_url=http://example.com",
        "s3://archive/x?endpoint_url=ftp://127.0.0.1",
        "s3://archive/x?endpoint_url=https://user@example.com",
        "gs://archive/x",
    ],
)
def test_a_bad_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        S3Target(url)


def test_a_name_says_where_and_not_as_whom(store: Store) -> None:
    target = S3Target("s3://archive/2024%20x?profile=me&region=eu-west-1", endpoint_url=store.endpoint)
    assert target.name == f"s3://archive/2024%20x/?endpoint_url={store.endpoint}"
    assert S3Target("s3://archive/x/").name == S3Target("s3://archive/x").name == "s3://archive/x/"
    assert "me" not in repr(target)


def test_a_target_of_s3_can_be_pickled(store: Store, s3: S3Target) -> None:
    store.put("in/a", b"old")
    assert s3.starts(["in/a"]) == [b"old"]
    plain = S3Target("s3://archive/in?region=eu-west-1", endpoint_url=store.endpoint)
    with closing(pickle.loads(pickle.dumps(plain))) as again:  # noqa: S301 # our own
        assert again.name == s3.name
        assert again.starts(["in/a"]) == [b"old"]


# fsspec


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Target, Any]]:
    folder = str(tmp_path / "in") if request.param == "file" else "/in"
    files: Any = fetch("fsspec").filesystem(request.param)
    files.makedirs(f"{folder}/deep", exist_ok=True)
    query = "" if request.param == "file" else "?allow_unconditional=yes"

    def path(name: str) -> str:
        return f"{folder}/{name}"

    yield open_target(f"{request.param}://{folder}{query}"), path
    files.rm(folder, recursive=True)


@pytest.fixture
def files(place: tuple[Target, Any]) -> Any:
    protocol = place[0].name.partition(":")[0]
    return fetch("fsspec").filesystem(protocol)


def test_files_are_walked_and_read(place: tuple[Target, Any], files: Any) -> None:
    target, path = place
    files.pipe_file(path("a"), b"alpha")
    files.pipe_file(path("deep/b"), bytes(10_000))
    files.pipe_file(path("deep/empty"), b"")
    assert {e.id: e.size for e in target.entries()} == {"a": 5, "deep/b": 10_000, "deep/empty": 0}
    ids = ["a", "gone", "deep/b", "deep/empty", "deep"]
    assert target.starts(ids) == [b"alpha", None, bytes(4096), b"", None]
    with target.reading("a") as source:
        assert (source.read(2), source.read(100), source.read(1)) == (b"al", b"pha", b"")
    with pytest.raises(FileNotFoundError), target.reading("gone"):
        pass


def test_files_are_changed_at_once(place: tuple[Target, Any], files: Any) -> None:
    target, path = place
    files.pipe_file(path("a"), b"old|body")
    files.pipe_file(path("b"), b"other|body")
    swaps = [Swap(name, b"old|", b"a new one|") for name in ("a", "b", "gone")]
    assert target.swap(swaps) == [True, False, False]
    assert files.cat_file(path("a")) == b"a new one|body"
    assert target.swap(swaps) == [False, False, False]
    assert target.replace("b", upper) == "done"
    assert files.cat_file(path("b")) == b"OTHER|BODY"
    assert {entry.id for entry in target.entries()} == {"a", "b"}
    with pytest.raises(FileNotFoundError):
        target.replace("gone", upper)


def test_files_changed_meanwhile_stay(place: tuple[Target, Any], files: Any) -> None:
    target, path = place
    files.pipe_file(path("a"), b"old|body")

    def slow(source: Source, sink: Sink) -> None:
        copy(source, sink)
        files.pipe_file(path("a"), b"another's message")

    with pytest.raises(ConflictError):
        target.replace("a", slow)
    assert files.cat_file(path("a")) == b"another's message"
    assert [entry.id for entry in target.entries()] == ["a"]
    assert files.ls(path(""), detail=False) == [path("a"), path("deep")] or len(files.ls(path(""))) == 2


def test_a_failure_while_writing_leaves_nothing_behind(place: tuple[Target, Any], files: Any) -> None:
    target, path = place
    files.pipe_file(path("a"), b"old|body")

    def fail(source: Source, sink: Sink) -> None:
        copy(source, sink)
        raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        target.replace("a", fail)
    assert files.cat_file(path("a")) == b"old|body"
    assert len(files.ls(path(""))) == 2


@pytest.mark.parametrize("entry_id", ["../x", "deep/../../x", "/etc/x", "", "%2e%2e/x"])
def test_files_outside_are_refused(place: tuple[Target, Any], entry_id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        place[0].starts([entry_id])
    with pytest.raises(InvalidArgumentError):
        place[0].replace(entry_id, copy)


def test_a_place_without_conditions_is_changed_only_where_that_was_allowed() -> None:
    files: Any = fetch("fsspec").filesystem("memory")
    files.pipe_file("/quiet/a", b"old")
    try:
        target = open_target("memory://quiet")
        assert target.starts(["a"]) == [b"old"]
        with pytest.raises(UnsupportedOperationError, match="allow_unconditional"):
            target.swap([Swap("a", b"old", b"new")])
        assert target.swap([Swap("a", b"other", b"new")]) == [False]
        assert files.cat_file("/quiet/a") == b"old"
        allowed = FsspecTarget("memory://quiet", allow_unconditional=True)
        assert pickle.loads(pickle.dumps(allowed)).swap([Swap("a", b"old", b"new")]) == [True]  # noqa: S301 # our own
    finally:
        files.rm("/quiet", recursive=True)


@pytest.mark.parametrize(
    "url",
    [
        "nothing-known://x",
        "memory://x?colour=red",
        "memory://x?allow_unconditional=maybe",
        "memory://x?allow_unconditional",
        "simplecache::memory://x",
        "sftp://me:secret@host/x",
        "plain/path",
        "/plain/path",
        "memory:x",
        "MEMORY://x",
        "memory://x\n",
    ],
)
def test_a_bad_url_of_a_place_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        open_target(url)


def test_a_store_whose_library_is_missing_is_named() -> None:
    fetch("fsspec").register_implementation(
        "absent", "absentfs.Files", errtxt="Please install absentfs to use it", clobber=True
    )
    with pytest.raises(UnsupportedOperationError, match="absentfs"):
        open_target("absent://bucket/x")


def test_s3_has_its_own_target() -> None:
    assert isinstance(open_target("s3://archive/x"), S3Target)
