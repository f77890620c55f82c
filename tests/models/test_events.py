"""Metering streams of typed events: however they are split, what comes out and what is counted is the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.answers import message_stream, response_stream
from tests.support.upstream import DONE, delta, encode, usage_chunk
from trustgate.models.metering.chunks import FrameKind, StreamMeter
from trustgate.models.metering.events import EventMeter, MessagesMeter
from trustgate.models.metering.sse import SseScanner, frame_data
from trustgate.models.metering.whole import read_answer, read_images, read_transcript
from trustgate.types import Usage

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def chat_stream(texts: list[str]) -> list[bytes]:
    chunks = [delta("", role="assistant"), *map(delta, texts), delta(None, finish_reason="stop"), usage_chunk(USAGE)]
    return [*(b"data: " + encode(chunk) + b"\n\n" for chunk in chunks), DONE]


STREAMS: dict[str, tuple[Callable[[list[str]], list[bytes]], type[StreamMeter]]] = {
    "chat": (chat_stream, StreamMeter),
    "responses": (response_stream, EventMeter),
    "messages": (message_stream, MessagesMeter),
}


def run(meter: StreamMeter, chunks: list[bytes]) -> tuple[list[bytes], list[FrameKind], Usage]:
    scanner = SseScanner()
    frames = [frame for chunk in chunks for frame in scanner.feed(chunk)]
    tail = scanner.tail()
    if tail:
        frames.append(tail)
    kinds = [meter.feed(data) for frame in frames if (data := frame_data(frame)) is not None]
    return frames, kinds, meter.usage_or_estimate(3)


@st.composite
def split_streams(draw: st.DrawFn) -> tuple[str, bytes, list[bytes], bool]:
    """A stream of each API with any text, any line ends and comments, whole or broken off, cut anywhere."""
    name = draw(st.sampled_from(sorted(STREAMS)))
    # Texts of every plane; half a surrogate pair cannot be sent in UTF-8.
    texts = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=5))
    frames = STREAMS[name][0](texts)
    comments = draw(st.lists(st.sampled_from([b": ping\n\n", b":\r\n\r\n", b"retry: 5\n\n", b"\n"]), max_size=3))
    for comment in comments:
        frames.insert(draw(st.integers(0, len(frames))), comment)
    whole = b"".join(frames)
    if draw(st.booleans()):
        whole = whole.replace(b"\n", b"\r\n")
    is_whole = draw(st.booleans())
    if not is_whole:
        whole = whole[: draw(st.integers(0, len(whole)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return name, whole, chunks, is_whole


@given(split_streams())
def test_any_split_gives_the_same_frames_and_the_same_usage(case: tuple[str, bytes, list[bytes], bool]) -> None:
    name, whole, chunks, is_whole = case
    meters = [STREAMS[name][1]() for _ in range(3)]
    frames, kinds, usage = run(meters[0], chunks)
    assert b"".join(frames) == whole
    assert (frames, kinds, usage) == run(meters[1], [whole])
    assert (frames, kinds, usage) == run(meters[2], [whole[at : at + 1] for at in range(len(whole))])
    if is_whole:
        assert meters[0].done
        assert not usage.estimated
        assert usage.completion_tokens == {"chat": 5, "responses": 6, "messages": 5}[name]


@given(st.binary(max_size=300))
def test_nothing_that_a_server_sends_raises(data: bytes) -> None:
    for meter in (EventMeter(), MessagesMeter()):
        meter.feed(data)
        meter.feed(b'{"type":"response.completed","response":' + data + b"}")
        meter.usage_or_estimate(1)
    read_images(data)
    read_transcript(data)


@pytest.mark.parametrize(
    "value",
    [
        {"type": 5},
        {"type": "message_delta", "usage": []},
        {"type": "message_start", "message": {"usage": {"input_tokens": "x"}}},
        {"type": "response.completed", "response": {"id": 5, "usage": {"input_tokens": -1}}},
        {"type": "response.output_text.delta", "delta": {"a": 1}},
        {"type": "content_block_delta", "delta": "x"},
        {"type": "image_generation.completed", "usage": 5},
        [1],
        None,
    ],
)
def test_events_that_make_no_sense_say_nothing(value: object) -> None:
    for meter in (EventMeter(), MessagesMeter()):
        meter.feed(json.dumps(value).encode())
        assert meter.usage is None
        assert meter.failure is None


def test_a_running_count_is_replaced_not_added() -> None:
    meter = MessagesMeter()
    meter.feed(b'{"type":"message_start","message":{"model":"m","usage":{"input_tokens":10,"output_tokens":1}}}')
    for count in (5, 9):
        meter.feed(b'{"type":"message_delta","delta":{},"usage":{"output_tokens":%d}}' % count)
    assert (meter.model, meter.usage_or_estimate(0)) == ("m", Usage(prompt_tokens=10, completion_tokens=9))


STARTED: dict[str, object] = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 100,
    "cache_creation": {"ephemeral_1h_input_tokens": 100, "ephemeral_5m_input_tokens": 0},
    "output_tokens": 1,
}


@pytest.mark.parametrize(
    "last",
    [
        {"output_tokens": 9},
        {"output_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0}},
        {"output_tokens": 9, "cache_creation": {}, "input_tokens": 0},
        {"output_tokens": 9, "cache_creation": None, "input_tokens": "10 or so"},
    ],
    ids=str,
)
def test_a_later_report_takes_back_nothing_that_an_earlier_one_told(last: dict[str, object]) -> None:
    meter = MessagesMeter()
    meter.feed(json.dumps({"type": "message_start", "message": {"usage": STARTED}}).encode())
    for usage in (last, {"output_tokens": 2}):
        meter.feed(json.dumps({"type": "message_delta", "delta": {}, "usage": usage}).encode())
    assert meter.usage_or_estimate(0) == Usage(
        prompt_tokens=110, completion_tokens=9, cache_write_tokens=100, cache_write_1h_tokens=100
    )


@pytest.mark.parametrize("last", [{"output_tokens": 0}, {"output_tokens": "many"}, {"input_tokens": 10}], ids=str)
def test_a_last_report_that_tells_nothing_of_the_text_leaves_it_to_the_estimate(last: dict[str, object]) -> None:
    text = "word " * 50
    message = MessagesMeter()
    message.feed(json.dumps({"type": "message_start", "message": {"usage": STARTED}}).encode())
    message.feed(json.dumps({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}).encode())
    message.feed(json.dumps({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": last}).encode())
    chat = StreamMeter()
    chat.feed(encode({**delta("", role="assistant"), "usage": {"prompt_tokens": 110, "completion_tokens": 1}}))
    chat.feed(encode(delta(text)))
    chat.feed(encode(usage_chunk({"prompt_tokens": 110, "completion_tokens": last.get("output_tokens")})))
    for meter in (message, chat):
        usage = meter.usage_or_estimate(0)
        assert (usage.prompt_tokens, usage.completion_tokens > 30, usage.estimated) == (110, True, True), meter


def test_text_after_the_last_report_is_estimated() -> None:
    meter = MessagesMeter()
    meter.feed(b'{"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":1}}}')
    meter.feed(
        json.dumps({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "word " * 50}}).encode()
    )
    usage = meter.usage_or_estimate(0)
    assert usage.estimated
    assert (usage.prompt_tokens, usage.completion_tokens > 30) == (10, True)


@pytest.mark.parametrize(
    "body",
    [
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": "word " * 50}]}]},
        {"output": [{"type": "function_call", "name": "f", "arguments": "word " * 50}]},
        {"content": [{"type": "text", "text": "word " * 50}]},
        {"content": [{"type": "tool_use", "name": "f", "input": {"a": "word " * 50}}]},
    ],
)
def test_answers_without_usage_are_estimated_by_what_they_say(body: dict[str, object]) -> None:
    usage = read_answer(json.dumps(body).encode()).usage_or_estimate(4)
    assert usage.estimated
    assert (usage.prompt_tokens, usage.completion_tokens > 30) == (4, True)
