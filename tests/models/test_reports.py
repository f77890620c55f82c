"""Reports of usage and failure that come early, late, twice or in part."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trustgate.models.metering.answer import failure_in, failure_of_event
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.events import EventMeter, MessagesMeter, read_object
from trustgate.models.metering.sse import frame_data, frame_event, frame_parts
from trustgate.models.metering.whole import read_images, read_scores, read_transcript
from trustgate.models.pricing import PriceTable
from trustgate.types import ConditionalRates, Prices, Usage

LONG = "Many words that nothing has counted yet. " * 20


def feed(meter: StreamMeter, *events: dict[str, Any]) -> Usage:
    for event in events:
        meter.feed(json.dumps(event).encode())
    return meter.usage_or_estimate(3)


def chunk(content: object, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}], **more}


@pytest.mark.parametrize("content", [LONG, [{"type": "text", "text": LONG}]], ids=["text", "parts"])
def test_text_after_a_running_count_is_estimated_whatever_form_it_has(content: object) -> None:
    counted = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    usage = feed(StreamMeter(), chunk("Many", usage=counted), chunk(content))
    assert (usage.prompt_tokens, usage.completion_tokens > 100, usage.estimated) == (7, True, True)


def _message(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": kind, **members}


def test_a_count_that_is_repeated_after_the_text_is_the_count() -> None:
    meter = MessagesMeter()
    usage = feed(
        meter,
        _message("message_start", message={"model": "m", "usage": {"input_tokens": 9, "output_tokens": 5}}),
        _message("content_block_delta", delta={"type": "text_delta", "text": LONG}),
        _message("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5}),
    )
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (9, 5, False)
    assert (meter.finished, meter.done) == (True, False), "its last event is still to come"


def test_what_an_event_does_not_repeat_still_holds() -> None:
    meter = EventMeter()
    begun = {"id": "resp_1", "model": "m-1", "status": "in_progress"}
    feed(meter, {"type": "response.created", "response": begun, "sequence_number": 7})
    feed(meter, {"type": "response.in_progress", "response": {"status": "in_progress"}})
    assert (meter.model, meter.object_id, meter.sequence) == ("m-1", "resp_1", 7)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"id": "b", "status": "ended"}', ("b", "ended")),
        (b'{"id": "b", "processing_status": "ended"}', ("b", "ended")),
        (b'{"status": "ended"}', ("", "ended")),
        (b"{", ("", "")),
    ],
)
def test_the_id_and_the_status_of_an_object_are_read(body: bytes, told: tuple[str, str]) -> None:
    assert read_object(body) == told


@pytest.mark.parametrize(
    ("frame", "data", "event"),
    [
        (b"event: a\ndata: x\n\n", b"x", "a"),
        (b"event: a\nretry: 5\n\n", None, "a"),
        (b"id: 1234\ndata: x\n\n", b"x", None),
    ],
)
def test_two_lines_are_an_event_and_data_only_with_those_fields(frame: bytes, data: bytes | None, event: str) -> None:
    assert (frame_data(frame), frame_event(frame)) == (data, event)
    assert frame_parts(frame) == (data or b"", event)


def test_an_empty_list_and_a_list_of_vectors_are_no_failures() -> None:
    assert [failure_in(value) for value in ([], [[0.5]], [1, 2])] == [None] * 3
    assert failure_in(["no such model"]) is not None


def test_an_event_named_error_is_read_where_nothing_in_it_is() -> None:
    assert failure_of_event(b'{"message": "Too many.", "code": "rate_limit_exceeded"}').message == "Too many."
    assert failure_of_event(b'{"code": "rate_limit_exceeded"}').status == 429, "without that event it is no message"


def test_what_an_image_endpoint_thought_is_no_image() -> None:
    details = {"reasoning_tokens": 20}
    usage = {"input_tokens": 10, "output_tokens": 100, "total_tokens": 110, "output_tokens_details": details}
    found = read_images(json.dumps({"data": [{"b64_json": "aGk="}], "usage": usage}).encode()).usage
    assert found is not None
    assert (found.images, found.completion_tokens, found.image_completion_tokens) == (1, 100, 80)


def test_a_transcript_may_speak_of_an_error_and_a_page_is_none() -> None:
    assert read_transcript(b"Internal server error, said the machine.").failure is None
    assert read_transcript(b"<html><body>502 Bad Gateway</body></html>").failure is not None


def test_what_a_total_has_beyond_its_parts_was_read_where_nothing_is_generated() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 10}
    found = read_scores(json.dumps({"data": [{"score": 1}], "usage": usage}).encode()).usage
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens) == (9, 1)


def test_a_line_of_a_batch_may_cost_what_holds_later_and_not_what_held_before() -> None:
    """A token costs 1 nano-USD; before the 10th microsecond 9, from the 100th on 3."""
    before = ConditionalRates(until_us=10, input_pico_usd=9_000)
    later = ConditionalRates(from_us=100, input_pico_usd=3_000)
    table = PriceTable(Prices(input_pico_usd=1_000, output_pico_usd=0, conditional=(before, later)))
    ask = Usage(prompt_tokens=50)
    assert [table.worst_line_nano_usd(ask, at_us) for at_us in (5, 50, 150)] == [450, 150, 150]
    assert table.worst_nano_usd(ask, 50) == 50
