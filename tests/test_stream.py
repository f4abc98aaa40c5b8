"""Streams and random access: any size, nothing unauthentic released, every truncation noticed."""

from __future__ import annotations

import io
import os
import random
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykms import Keyring, KMSClient, errors
from anykms.envelope.message import BODY_START, CHUNK, SEALED_CHUNK, Message
from anykms.envelope.stream import UNIT, MessageReader
from anykms_contract.vectors import VectorProvider

CONTEXT = {"tenant": "42"}


def a_ring() -> Keyring:
    client = KMSClient(VectorProvider())
    return Keyring([client.key("alpha")])


RING = a_ring()
LONG_PLAIN = random.Random(7).randbytes(5 * CHUNK + 123)  # noqa: S311 # a pattern, no secret
LONG = RING.encrypt(LONG_PLAIN, context=CONTEXT)


def body_offset(message: bytes) -> int:
    return len(message) - Message(message).header.body_size


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


class Trickle(io.RawIOBase):
    """A source that gives a few bytes at a time, and a sink that takes a few."""

    def __init__(self, data: bytes = b"", step: int = 1000) -> None:
        self._inner = io.BytesIO(data)
        self._step = step

    def read(self, size: int = -1, /) -> bytes:
        return self._inner.read(self._step if size < 0 else min(size, self._step))

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        return self._inner.write(data[: self._step])

    def getvalue(self) -> bytes:
        return self._inner.getvalue()


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0, 1, 100, CHUNK - 1, CHUNK, CHUNK + 1, 50000]), max_size=8), st.data())
def test_any_sequence_of_writes_reads_back_through_every_way_of_reading(
    sizes: list[int], data: st.DataObject
) -> None:
    sink = io.BytesIO()
    plain = pattern(sum(sizes))
    with RING.encrypt_stream(sink, context=CONTEXT, aad=b"a") as writer:
        at = 0
        for size in sizes:
            assert writer.write(memoryview(plain)[at : at + size]) == size
            at += size
    message = sink.getvalue()
    assert RING.decrypt(message, context=CONTEXT, aad=b"a") == plain
    with RING.decrypt_stream(io.BytesIO(message), context=CONTEXT, aad=b"a") as reader:
        step = data.draw(st.integers(1, 40000))
        assert b"".join(iter(lambda: reader.read(step), b"")) == plain
    with RING.open(io.BytesIO(message), context=CONTEXT, aad=b"a") as file:
        assert file.size == len(plain)
        start = data.draw(st.integers(0, len(plain) + 10))
        length = data.draw(st.integers(0, 40000))
        file.seek(start)
        assert file.read(length) == plain[start : start + length]


def test_the_three_ways_of_writing_make_messages_for_the_three_ways_of_reading() -> None:
    plain = pattern(3 * CHUNK)
    message = RING.encrypt(plain, context=CONTEXT)
    trickle = Trickle()
    with RING.encrypt_stream(trickle, context=CONTEXT) as writer:
        writer.write(plain)
    for made in (message, trickle.getvalue()):
        with RING.decrypt_stream(Trickle(made), context=CONTEXT) as reader:
            assert b"".join(reader.pieces()) == plain


def test_lines_and_buffered_readers_work_on_top() -> None:
    lines = [b"line %d\n" % n for n in range(5000)]
    message = RING.encrypt(b"".join(lines), context=CONTEXT)
    with RING.decrypt_stream(io.BytesIO(message), context=CONTEXT) as reader:
        assert list(reader) == lines
    reader = RING.decrypt_stream(io.BytesIO(message), context=CONTEXT)
    assert io.TextIOWrapper(cast("BinaryIO", reader)).read().count("\n") == 5000


def test_a_zip_file_can_be_read_inside_a_message(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", pattern(500_000))
        archive.writestr("small", b"42")
    path = tmp_path / "archive.anykms"
    path.write_bytes(RING.encrypt(inner.getvalue(), context=CONTEXT))
    with RING.open(path, context=CONTEXT) as file, zipfile.ZipFile(file) as archive:
        assert archive.read("small") == b"42"
        assert archive.read("big") == pattern(500_000)


# Release


def damaged(message: bytes, position: int) -> bytes:
    out = bytearray(message)
    out[position] ^= 0x40
    return bytes(out)


def released(reader: MessageReader) -> tuple[bytes, Exception | None]:
    out = b""
    try:
        while piece := reader.read1(1000):
            out += piece
    except errors.KMSError as error:
        return out, error
    return out, None


@pytest.mark.parametrize("chunk", range(4))
def test_nothing_of_a_damaged_chunk_or_after_it_is_released(chunk: int) -> None:
    plain = pattern(3 * CHUNK + 500)
    message = RING.encrypt(plain, context=CONTEXT)
    start = body_offset(message) + BODY_START + chunk * SEALED_CHUNK
    last = chunk == 3
    for position in (start, start + 200, len(message) - 1 if last else start + SEALED_CHUNK - 1):
        bad = damaged(message, position)
        reader = RING.decrypt_stream(io.BytesIO(bad), context=CONTEXT)
        out, error = released(reader)
        assert type(error) is (errors.TruncatedMessageError if last else errors.InvalidCiphertextError)
        assert len(out) <= chunk * CHUNK
        assert plain.startswith(out)
        with pytest.raises(type(error)):
            reader.read(1)
        with pytest.raises(type(error)):
            reader.close()


def test_a_buffer_of_the_callers_never_holds_what_was_not_authenticated() -> None:
    message = RING.encrypt(pattern(2 * CHUNK), context=CONTEXT)
    bad = damaged(message, body_offset(message) + BODY_START + SEALED_CHUNK + 5)
    for file in (
        RING.decrypt_stream(io.BytesIO(bad), context=CONTEXT),
        RING.open(io.BytesIO(bad), context=CONTEXT),
    ):
        if file.seekable():
            file.seek(CHUNK)
        target = bytearray(3 * CHUNK)
        with pytest.raises(errors.InvalidCiphertextError):  # noqa: PT012 # several reads may pass before the bad one
            while file.readinto(target):
                assert pattern(2 * CHUNK).startswith(bytes(target[:CHUNK]))
        assert target[CHUNK:] == bytes(2 * CHUNK)


def test_a_flip_anywhere_is_refused_by_random_access_where_it_matters() -> None:
    plain = pattern(2 * CHUNK + 100)
    message = RING.encrypt(plain, context=CONTEXT)
    start = body_offset(message)
    for position in [*range(start, start + BODY_START), len(message) - 1, len(message) - 50]:
        with pytest.raises(errors.InvalidCiphertextError):
            RING.open(io.BytesIO(damaged(message, position)), context=CONTEXT)
    bad = damaged(message, start + BODY_START + 9)
    with RING.open(io.BytesIO(bad), context=CONTEXT) as file:
        file.seek(CHUNK)
        assert file.read() == plain[CHUNK:]
        file.seek(0)
        for _ in range(2):
            with pytest.raises(errors.InvalidCiphertextError):
                file.read(1)
    with RING.open(io.BytesIO(bad), context=CONTEXT) as file:
        with pytest.raises(errors.InvalidCiphertextError):
            file.read(1)
        file.seek(CHUNK)  # found altered, it gives nothing of what comes after either
        with pytest.raises(errors.InvalidCiphertextError):
            file.read(1)


@settings(max_examples=200)
@given(st.data())
def test_a_flip_at_any_offset_releases_nothing_of_its_chunk_or_after_it(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(LONG) - 1))
    bad = damaged(LONG, position)
    chunk = max(0, position - body_offset(LONG) - BODY_START) // SEALED_CHUNK
    readers: list[Callable[[], BinaryIO]] = [
        lambda: cast("BinaryIO", RING.decrypt_stream(io.BytesIO(bad), context=CONTEXT)),
        lambda: cast("BinaryIO", RING.open(io.BytesIO(bad), context=CONTEXT)),
    ]
    for start in readers:
        out = b""
        try:
            with start() as reader:
                while piece := reader.read(CHUNK):
                    out += piece
        except errors.KMSError:  # a flip in the header may name another key, for one
            noticed = True
        else:
            noticed = False
        assert noticed
        assert out == LONG_PLAIN[: len(out)]
        assert len(out) <= chunk * CHUNK


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7])
def test_every_truncation_is_noticed(size: int) -> None:
    message = RING.encrypt(pattern(size), context=CONTEXT)
    start = body_offset(message)
    ends = {start + cut for cut in range(0, len(message) - start, 997)}
    ends |= {
        start + BODY_START,
        start + BODY_START + SEALED_CHUNK,
        len(message) - 1,
        len(message) - 16,
        start - 1,
        5,
    }
    for end in sorted(end for end in ends if end < len(message)):
        cut = message[:end]
        with pytest.raises(errors.InvalidCiphertextError):
            RING.open(io.BytesIO(cut), context=CONTEXT)
        with pytest.raises(errors.InvalidCiphertextError):
            released_all(RING, cut)
        with pytest.raises(errors.InvalidCiphertextError):
            RING.decrypt(cut, context=CONTEXT)


def released_all(ring: Keyring, message: bytes) -> bytes:
    with ring.decrypt_stream(io.BytesIO(message), context=CONTEXT) as reader:
        return reader.read()


def test_a_cut_between_chunks_is_a_truncation_not_an_alteration() -> None:
    message = RING.encrypt(pattern(3 * CHUNK), context=CONTEXT)
    cut = message[: body_offset(message) + BODY_START + 2 * SEALED_CHUNK]
    with pytest.raises(errors.TruncatedMessageError):
        released_all(RING, cut)
    with pytest.raises(errors.TruncatedMessageError):
        RING.open(io.BytesIO(cut), context=CONTEXT)


def test_a_reader_that_stops_early_is_told_so_unless_it_aborts() -> None:
    message = RING.encrypt(pattern(3 * CHUNK), context=CONTEXT)
    reader = RING.decrypt_stream(io.BytesIO(message), context=CONTEXT)
    assert reader.read(10) == pattern(10)
    with pytest.raises(errors.TruncatedMessageError, match="not read to its end"):
        reader.close()
    reader = RING.decrypt_stream(io.BytesIO(message), context=CONTEXT)
    assert reader.read(10) == pattern(10)
    reader.abort()
    with pytest.raises(ZeroDivisionError), RING.decrypt_stream(io.BytesIO(message), context=CONTEXT):
        raise ZeroDivisionError


# Unfinished and misused


def test_a_writer_that_did_not_finish_leaves_nothing_that_opens() -> None:
    def by_exception(sink: io.BytesIO) -> None:
        with pytest.raises(ZeroDivisionError), RING.encrypt_stream(sink, context=CONTEXT) as writer:  # noqa: PT012
            writer.write(pattern(40000))
            raise ZeroDivisionError

    def by_forgetting(sink: io.BytesIO) -> None:
        RING.encrypt_stream(sink, context=CONTEXT).write(pattern(40000))

    def by_abort(sink: io.BytesIO) -> None:
        writer = RING.encrypt_stream(sink, context=CONTEXT)
        writer.write(pattern(40000))
        writer.abort()

    for way in (by_exception, by_forgetting, by_abort):
        sink = io.BytesIO()
        way(sink)
        with pytest.raises(errors.InvalidCiphertextError):
            RING.decrypt(sink.getvalue(), context=CONTEXT)


def test_an_empty_stream_is_a_message_too() -> None:
    sink = io.BytesIO()
    RING.encrypt_stream(sink, context=CONTEXT).close()
    assert RING.decrypt(sink.getvalue(), context=CONTEXT) == b""


def test_a_sink_that_fails_is_not_written_to_again() -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(28, "No space left on device")

    writer = RING.encrypt_stream(Full(), context=CONTEXT)
    with pytest.raises(OSError, match="No space"):
        writer.write(b"x")
    with pytest.raises(ValueError, match="failed"):
        writer.write(b"x")
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"x")


def in_another_thread(function: Callable[[], object]) -> Exception | None:
    caught: list[Exception] = []

    def run() -> None:
        try:
            function()
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return caught[0] if caught else None


def test_a_stream_stays_in_its_thread() -> None:
    writer = RING.encrypt_stream(io.BytesIO(), context=CONTEXT)
    assert isinstance(in_another_thread(lambda: writer.write(b"x")), errors.InvalidArgumentError)
    message = RING.encrypt(b"x", context=CONTEXT)
    reader = RING.decrypt_stream(io.BytesIO(message), context=CONTEXT)
    assert isinstance(in_another_thread(reader.read), errors.InvalidArgumentError)
    assert writer.write(b"x") == 1
    assert reader.read() == b"x"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_writer_refuses_to_go_on_in_a_forked_child(tmp_path: Path) -> None:
    report = tmp_path / "report"
    sink = io.BytesIO()
    writer = RING.encrypt_stream(sink, context=CONTEXT)
    writer.write(pattern(100))
    child = os.fork()
    if child == 0:
        try:
            writer.write(b"again")
        except errors.InvalidArgumentError as error:
            report.write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert "fork" in report.read_text()
    writer.close()
    assert RING.decrypt(sink.getvalue(), context=CONTEXT) == pattern(100)


def test_text_is_refused() -> None:
    writer = RING.encrypt_stream(io.BytesIO(), context=CONTEXT)
    with pytest.raises(TypeError):
        writer.write("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Zeros:
    """A source and a sink of any size that hold nothing."""

    def __init__(self, message: Iterator[bytes] | None = None) -> None:
        self.taken = 0
        self._message = message
        self._rest = b""

    def write(self, data: bytes | memoryview, /) -> int:
        self.taken += len(data)
        return len(data)


@pytest.mark.parametrize("mebibytes", [8, 64])
def test_memory_does_not_grow_with_the_message(mebibytes: int) -> None:
    unit = bytes(UNIT)
    sink = Zeros()
    tracemalloc.start()
    with RING.encrypt_stream(sink, context=CONTEXT) as writer:
        for _ in range(mebibytes):
            writer.write(unit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sink.taken > mebibytes * UNIT
    assert peak < 4 * 1024 * 1024


@pytest.mark.parametrize("mebibytes", [8, 64])
def test_memory_does_not_grow_with_the_message_that_is_read(mebibytes: int) -> None:
    message = RING.encrypt(bytes(mebibytes * UNIT), context=CONTEXT)
    source, done = io.BytesIO(message), 0
    tracemalloc.start()
    with RING.decrypt_stream(source, context=CONTEXT) as reader:
        for piece in reader.pieces():
            done += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done == mebibytes * UNIT
    assert peak < 4 * 1024 * 1024


# Whole messages in one buffer

AROUND_LARGE = [0, 1, 65535, 65536, 65537, 8 * CHUNK, 8 * CHUNK + 5]


@pytest.mark.parametrize("size", AROUND_LARGE)
def test_a_message_into_a_buffer_is_one_as_any_other(size: int) -> None:
    plain = pattern(size)
    target = bytearray(b"\xaa" * (size + 1000))
    used = RING.encrypt_into(plain, memoryview(target)[3:], context=CONTEXT, aad=b"a", required=["tenant"])
    assert target[:3] + target[3 + used :] == b"\xaa" * (len(target) - used)
    message = bytes(target[3 : 3 + used])
    assert RING.decrypt(message, context=CONTEXT, aad=b"a") == plain
    assert len(RING.encrypt(plain, context=CONTEXT, aad=b"a", required=["tenant"])) == used
    with RING.open(io.BytesIO(message), context=CONTEXT, aad=b"a") as file:
        assert file.read() == plain


@pytest.mark.parametrize("size", AROUND_LARGE)
def test_no_altered_byte_of_a_whole_message_passes(size: int) -> None:
    message = RING.encrypt(pattern(size), context=CONTEXT)
    start = body_offset(message)
    places = {start, start + 30, start + BODY_START, len(message) - 1}
    places |= set(range(start + BODY_START, len(message), SEALED_CHUNK))
    for position in places:
        with pytest.raises(errors.InvalidCiphertextError):
            RING.decrypt(damaged(message, position), context=CONTEXT)
    for end in (start + BODY_START, len(message) - 1, len(message) - 16):
        with pytest.raises(errors.InvalidCiphertextError):
            RING.decrypt(message[:end], context=CONTEXT)


def test_a_buffer_that_is_too_small_is_left_as_it_is_and_told_the_size() -> None:
    needed = len(RING.encrypt(b"paid", context=CONTEXT))
    for size in (1, 10, needed - 1):
        target = bytearray(size)
        with pytest.raises(errors.InvalidArgumentError, match=f"the target has {size} bytes"):
            RING.encrypt_into(b"paid", target, context=CONTEXT)
        assert target == bytes(size)
    with pytest.raises(errors.InvalidArgumentError, match=f"the message takes {needed}"):
        RING.encrypt_into(b"paid", bytearray(needed - 1), context=CONTEXT)
    assert RING.encrypt_into(b"paid", bytearray(needed), context=CONTEXT) == needed


def test_what_cannot_be_written_is_no_target() -> None:
    for target in (memoryview(bytes(1000)), memoryview(bytearray(2000))[::2], bytearray()):
        with pytest.raises(errors.InvalidArgumentError, match="target is memory that can be written"):
            RING.encrypt_into(b"paid", target, context=CONTEXT)
    with pytest.raises(TypeError, match="target is a bytearray or a memoryview"):
        RING.encrypt_into(b"paid", cast("bytearray", b"x" * 1000), context=CONTEXT)
