"""Frames come out whole, byte for byte, however the stream was cut up."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustgate.errors import UpstreamFailed
from trustgate.models.metering.sse import DONE, SseScanner, frame_data, frame_event, frame_parts

PIECES = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"data: x",
    b"data:",
    b": keepalive",
    b"event: e",
    b"\xef\xbb\xbf",
    b"\xf0\x9f",
]
LINES = [b"data: {}\n", b"data: {}\n\n", b"event: e\n", b"event: \xff\n", b"data:y\n", b"event:e\n", b"id: 1\n", b"\n"]
#: Streams with every kind of line end at every place, besides arbitrary bytes.
streams = st.one_of(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join), st.binary(max_size=60))


def scan(chunks: list[bytes], limit: int = 1 << 20) -> tuple[list[bytes], bytes]:
    scanner = SseScanner(limit)
    frames = [frame for chunk in chunks for frame in scanner.feed(chunk)]
    return frames, scanner.tail()


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(streams, st.lists(st.integers(min_value=0), max_size=20))
def test_any_split_gives_the_same_frames(stream: bytes, places: list[int]) -> None:
    whole = scan([stream])
    assert scan(cut(stream, places)) == whole
    assert scan([bytes([byte]) for byte in stream]) == whole


@given(st.one_of(streams, st.lists(st.sampled_from(PIECES + LINES), max_size=6).map(b"".join)))
def test_a_frames_parts_are_its_payload_and_its_events_name(frame: bytes) -> None:
    assert frame_parts(frame) == (frame_data(frame) or b"", frame_event(frame))
    parts = SseScanner().only_frame(frame)
    if parts is not None:
        assert (scan([frame]), parts) == (([frame], b""), frame_parts(frame))


@pytest.mark.parametrize("frame", [b"data: {}\n\n", b"event: e\ndata: {}\n\n"])
def test_a_usual_frame_is_known_for_one_unless_it_goes_on_with_another(frame: bytes) -> None:
    scanner = SseScanner(len(frame))
    assert scanner.only_frame(frame) == (b"{}", "e" if frame.startswith(b"event") else None)
    assert SseScanner(len(frame) - 1).only_frame(frame) is None
    assert scanner.only_frame(frame * 2) is None
    scanner.feed(b"data: ")
    assert scanner.only_frame(frame) is None


@given(streams)
def test_frames_and_tail_are_the_input(stream: bytes) -> None:
    frames, tail = scan([stream])
    assert b"".join(frames) + tail == stream
    assert all(frame.endswith((b"\n", b"\r")) for frame in frames)


@given(
    st.lists(st.sampled_from([b"data: {}", b": ping", b"event: x\ndata: 1"]), max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_uniform_line_ends_cut_at_every_blank_line(events: list[bytes], line_end: str) -> None:
    end = line_end.encode()
    expected = [event.replace(b"\n", end) + end + end for event in events]
    frames, tail = scan([b"".join(expected)])
    assert frames == expected
    assert tail == b""


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\n", b"\n\r\n"])
def test_a_frame_is_given_with_its_last_byte(end: bytes) -> None:
    scanner = SseScanner()
    frame = b"data: x" + end
    assert [scanner.feed(frame[i : i + 1]) for i in range(len(frame))] == [[]] * (len(frame) - 1) + [[frame]]


def test_a_cr_after_lf_waits_for_what_follows() -> None:
    scanner = SseScanner()
    assert scanner.feed(b"data: x\n\r") == []
    assert scanner.tail() == b"data: x\n\r"
    assert scanner.feed(b"data: y") == [b"data: x\n\r"]
    assert scanner.tail() == b"data: y"


def test_split_utf8_is_left_alone() -> None:
    text = "data: €😀\n\n".encode()
    assert scan([text[:7], text[7:10], text[10:]]) == ([text], b"")


def test_a_stream_without_its_last_blank_line_keeps_a_tail() -> None:
    frames, tail = scan([b"data: 1\n\nda", b"ta: [DONE]\n"])
    assert frames == [b"data: 1\n\n"]
    assert frame_data(tail) == DONE


@pytest.mark.parametrize(
    "stream", [b"data: " + b"x" * 95, b"data: " + b"x" * 93 + b"\n\n", b"data: " + b"x" * 95 + b"\r\n\r\n"]
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_frame_over_the_limit_is_refused(stream: bytes, size: int) -> None:
    chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
    with pytest.raises(UpstreamFailed, match="100 bytes"):
        scan(chunks, limit=100)
    scan(chunks, limit=len(stream))


def test_many_frames_in_one_chunk_may_exceed_the_limit_together() -> None:
    frames, tail = scan([b"data: 12345\n\n" * 100], limit=20)
    assert (len(frames), tail) == (100, b"")


def test_a_long_frame_in_tiny_chunks_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        scanner = SseScanner(1 << 24)
        start = time.process_time()
        for _ in range(size):
            scanner.feed(b"x")
        return time.process_time() - start

    seconds(20_000)
    # Quadratic work would take 256 times as long for 16 times the bytes.
    assert seconds(320_000) < 80 * max(seconds(20_000), 1e-3)


@pytest.mark.parametrize(
    ("frame", "data"),
    [
        (b'data: {"a":1}\n\n', b'{"a":1}'),
        (b'data:{"a":1}\n\n', b'{"a":1}'),
        (b"data:  two spaces\n\n", b" two spaces"),
        (b"data: one\ndata: two\n\n", b"one\ntwo"),
        (b"data: one\r\ndata: two\r\n\r\n", b"one\ntwo"),
        (b"data: one\rdata: two\r\r", b"one\ntwo"),
        (b"data: one\rdata: two\n\n", b"one\ntwo"),
        (b"event: error\nid: 7\nretry: 10\ndata: x\n\n", b"x"),
        (b"data: x\nid: 7\n\n", b"x"),
        (b": keepalive\n\n", None),
        (b": data: no\n\n", None),
        (b"database: no\n\n", None),
        (b"event: ping\n\n", None),
        (b"\n\n", None),
        (b"", None),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b"\ndata: x\n\n", b"x"),
        (b"data: x", b"x"),
        (b"data: x\r\n", b"x"),
        (b"data: x\ny", b"x"),
        (b"data: [DONE]\n\n", DONE),
        ("data: a\u2028b\u0085c\x0b\n\n".encode(), "a\u2028b\u0085c\x0b".encode()),
    ],
)
def test_frame_data(frame: bytes, data: bytes | None) -> None:
    assert frame_data(frame) == data


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (b"data: x\n\n", None),
        (b"data: x\r\n\r\n", None),
        (b"data:x\ndata: event: y\n\n", None),
        (b"event: error\ndata: x\n\n", "error"),
        (b"event:ping\r\ndata: x\r\n\r\n", "ping"),
        (b"data: x\nevent: message_stop\n\n", "message_stop"),
        (b"event: a\nevent: b\n\n", "b"),
        (b"\xef\xbb\xbfevent: a\ndata: x\n\n", "a"),
        (b"event: \xff\n\n", "\ufffd"),
        (b": event: a\n\n", None),
        (b"", None),
        # as llama.cpp told errors once
        (b'error: {"code":500}\n\n', "error"),
        (b"data: x\nerror: y\n\n", None),
    ],
)
def test_frame_event(frame: bytes, event: str | None) -> None:
    assert frame_event(frame) == event


def test_an_error_line_is_a_payload() -> None:
    assert frame_data(b'error: {"code":500}\n\n') == b'{"code":500}'
    assert frame_data(b"data: x\nerror: y\n\n") == b"x"
