"""A failure is found in every shape that servers tell one in, with the status, the code and the reason it gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from trustgate.models.metering.answer import Failure, failure_of
from trustgate.models.metering.chunks import FrameKind, StreamMeter
from trustgate.models.metering.events import EventMeter, MessagesMeter
from trustgate.models.metering.whole import (
    Reported,
    read_answer,
    read_images,
    read_kept,
    read_nothing_used,
    read_response,
    read_scores,
    read_speech,
    read_transcript,
)

#: What servers send, and what it means: status, code, a part of the message.
FAILURES: list[tuple[object, int | None, str | None, str]] = [
    ({"error": {"message": "no", "code": 502}}, 502, "502", "no"),
    ({"error": {"message": "no", "code": "429"}}, 429, "429", "no"),
    ({"error": {"message": "no", "type": "rate_limit_exceeded", "code": None}}, 429, None, "no"),
    ({"error": {"message": "no", "type": "insufficient_quota", "code": "insufficient_quota"}}, 429, None, "no"),
    ({"error": {"message": "Insufficient Balance"}}, None, None, "Insufficient Balance"),
    ({"error": {"code": "context_length_exceeded", "message": "too long", "param": "messages"}}, 400, None, "too long"),
    ({"error": {"message": "This model's maximum context length is 8192 tokens"}}, 400, None, "8192"),
    ({"error": {"code": 500, "type": "exceed_context_size_error", "message": "m"}}, 500, "500", "m"),
    ({"error": {"type": "invalid_request_error", "code": "model_not_found", "message": "m"}}, 404, None, "m"),
    ({"error": {"type": "invalid_request_error", "code": "invalid_api_key", "message": "m"}}, 401, None, "m"),
    ({"error": "out of memory"}, None, None, "out of memory"),
    ({"error": "too long", "error_type": "validation"}, 422, None, "too long"),
    ({"error": "m", "error_type": "overloaded"}, 503, None, "m"),
    ({"error": ["one", "two"], "warnings": []}, None, None, "one; two"),
    ({"error": {"error": {"message": "inner", "code": 503}}}, 503, "503", "inner"),
    ({"error": True, "message": "m"}, None, None, "m"),
    ({"error": {"message": "m", "http_status_code": 422}}, 422, None, "m"),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529, None, "Overloaded"),
    ({"type": "error", "message": "m", "code": "server_error"}, 500, "server_error", "m"),
    ({"object": "error", "message": "died", "code": 500}, 500, "500", "died"),
    ({"object": "error", "message": {"detail": [{"loc": ["body", "n"], "msg": "bad"}]}}, 422, None, "n: bad"),
    ({"detail": "Not Found"}, None, None, "Not Found"),
    ({"detail": [{"loc": ["body", "tools", 0], "msg": "field required"}]}, 422, None, "tools.0: field required"),
    ({"errors": [{"code": 7003, "message": "no route"}], "result": None, "success": False}, None, None, "no route"),
    ({"errors": [{"message": "m"}, "n"]}, None, None, "m; n"),
    (
        {
            "choices": [{"error": {"code": 502, "message": "m"}, "message": {"content": ""}}],
            "usage": {"prompt_tokens": 4, "completion_tokens": 3},
        },
        502,
        "502",
        "m",
    ),
    ({"message": "invalid request: m", "code": "bad_request"}, 400, "bad_request", "invalid request: m"),
    ({"id": "1", "message": "m"}, None, None, "m"),
    ({"statusCode": 401, "message": "m"}, 401, None, "m"),
    ({"title": "Forbidden", "status": 403, "type": "about:blank"}, 403, None, "Forbidden"),
    ({"data": None, "error": {"message": "m"}}, None, None, "m"),
    ({"success": False, "msg": "m", "code": 500}, 500, "500", "m"),
    ({"fault": {"faultstring": "m", "detail": {"errorcode": "x"}}}, None, None, "m"),
    ({"error_code": 17, "error_msg": "Open api daily request limit reached"}, None, "17", "daily request limit"),
    ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": None}, 429, None, "rate limit"),
    ([{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}], 429, "429", "m"),
    ([{"msg": "one"}, {"msg": "two"}], None, None, "one; two"),
    ("a text", None, None, "a text"),
    (
        {"object": "response", "status": "failed", "error": {"code": "rate_limit_exceeded", "message": "m"}},
        429,
        None,
        "m",
    ),
    ({"choices": [{"error": {"code": 502, "message": "m"}, "message": {"content": ""}}]}, 502, "502", "m"),
    ({"choices": [{"finish_reason": "error", "message": {"content": None}}]}, None, None, ""),
]

#: Answers, however much they resemble a failure.
ANSWERS: list[object] = [
    {"choices": [{"message": {"content": "x"}}], "error": None},
    {"choices": [{"message": {"content": "x"}}], "error": {}},
    {"choices": [{"message": {"content": "x"}}], "error": {"code": None, "message": ""}},
    {"choices": [{"message": {"content": "x"}}], "message": "ok", "code": 0, "detail": "none"},
    {"choices": [{"message": {"content": "x"}}], "base_resp": {"status_code": 0, "status_msg": "success"}},
    {"choices": [{"message": {"content": "x"}, "finish_reason": "error"}]},
    {"choices": [{"error": {"message": "m"}}, {"message": {"content": "x"}}]},
    {"object": "response", "status": "incomplete", "error": None, "output": []},
    {"object": "response", "status": "queued", "error": None, "output": []},
    {"object": "batch", "id": "b", "status": "failed", "errors": {"data": [{"message": "m"}]}},
    {"message": {"role": "assistant", "content": "x"}},
    {"data": [{"embedding": [0.5]}]},
    {"results": [], "usage": {"total_tokens": 4}},
    {"text": "error: he said", "duration": 1.0},
]


@pytest.mark.parametrize(("said", "status", "code", "message"), FAILURES)
def test_failures(said: object, status: int | None, code: str | None, message: str) -> None:
    body = json.dumps(said).encode()
    failure = failure_of(body)
    assert failure is not None
    assert failure.status == status
    assert code is None or failure.code == code
    assert message in failure.message
    assert read_answer(body).failure == failure
    # The same with what may stand around it.
    assert failure_of(b"\xef\xbb\xbf\r\n" + body + b"\n\ndata: [DONE]\n\n") == failure


@pytest.mark.parametrize("said", ANSWERS)
def test_answers_are_no_failures(said: object) -> None:
    body = json.dumps(said).encode()
    assert failure_of(body) is None
    assert read_kept(body).failure is None


def test_a_failure_names_what_the_caller_can_mend() -> None:
    too_long = failure_of(b'{"error":{"code":"context_length_exceeded","message":"m","param":"messages"}}')
    assert too_long == Failure(status=400, code="context_length_exceeded", message="m", param="messages")
    assert too_long.is_context_overflow
    detail = failure_of(b'{"detail":[{"loc":["body","tools"],"msg":"field required"}]}')
    assert detail is not None
    assert (detail.param, detail.is_context_overflow) == ("tools", False)
    broke = failure_of(b'{"error":{"code":"insufficient_quota","message":"m"}}')
    assert broke is not None
    assert broke.is_unfunded


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html><head><title>502 Bad\n Gateway</title></head><body>x</body></html>", "502 Bad Gateway"),
        (b"upstream connect error", "upstream connect error"),
        (b"", ""),
        (b'{"choices": [{"mess', '{"choices": [{"mess'),
    ],
)
def test_what_is_no_json_is_a_failure_where_json_is_due(body: bytes, message: str) -> None:
    for read in (read_answer, read_scores, read_response, read_images, read_speech):
        failure = read(body).failure
        assert failure is not None
        assert failure.message == message


@pytest.mark.parametrize("body", [b"{}", b'{"choices":[]}', b'{"choices":null,"usage":null}', b"7", b"[]", b"null"])
def test_an_answer_without_anything_in_it_is_a_failure(body: bytes) -> None:
    assert read_answer(body).failure is not None


def test_a_look_at_what_failed_did_not_fail_itself() -> None:
    failed = b'{"id":"r","object":"response","status":"failed","error":{"code":"server_error","message":"m"}}'
    assert read_response(failed).failure == Failure(status=500, code="server_error", message="m")
    assert read_kept(failed).failure is None
    assert read_nothing_used(failed).failure is None
    assert read_kept(b'{"error":{"message":"m"}}').failure == Failure(message="m")
    assert read_nothing_used(b'{"error":{"message":"m"}}').failure == Failure(message="m")


# streams


def chat(delta: object, **choice: Any) -> bytes:
    return json.dumps({"id": "c", "choices": [{"index": 0, "delta": delta, **choice}]}).encode()


def said(kind: str, **members: Any) -> bytes:
    return json.dumps({"type": kind, **members}).encode()


N, C, E, F, END, DONE = (
    FrameKind.NOTHING,
    FrameKind.CONTENT,
    FrameKind.ERROR,
    FrameKind.FAILED,
    FrameKind.END,
    FrameKind.DONE,
)
FAILED = {"id": "r", "status": "failed", "error": {"code": "rate_limit_exceeded", "message": "m"}}
FRAMES: list[tuple[Callable[[], StreamMeter], str | None, bytes, FrameKind]] = [
    (StreamMeter, None, b'{"type":"ping"}', N),
    (StreamMeter, "ping", b"{}", N),
    (StreamMeter, None, b"", N),
    (StreamMeter, None, chat({"role": "assistant", "content": ""}), N),
    (StreamMeter, None, chat({}), N),
    (StreamMeter, None, b'{"choices":[],"prompt_filter_results":[]}', N),
    (StreamMeter, None, chat({"reasoning_content": "x"}), C),
    (StreamMeter, None, chat({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f"}}]}), C),
    (StreamMeter, None, chat({"audio": {"data": "AAAA"}}), C),
    (StreamMeter, None, chat({"images": [{"image_url": {"url": "data:"}}]}), C),
    (StreamMeter, None, chat({"content": "x"}, finish_reason="stop"), C),
    (StreamMeter, None, chat({}, finish_reason="stop"), END),
    (StreamMeter, None, chat({}, finish_reason="something_new"), END),
    (StreamMeter, None, chat({}, finish_reason=""), N),
    (StreamMeter, None, chat({}, finish_reason="error"), E),
    (StreamMeter, None, b"[DONE] ", DONE),
    (StreamMeter, None, b"[done]", DONE),
    (StreamMeter, None, b'"[DONE]"', DONE),
    (StreamMeter, "error", b"anything", E),
    (StreamMeter, "error", b"", E),
    (StreamMeter, None, b"Internal Server Error", E),
    (StreamMeter, None, b"<html><title>502</title>", E),
    (StreamMeter, None, b"half of a word", N),
    (EventMeter, None, said("response.created", response={"id": "r", "status": "in_progress"}), N),
    (EventMeter, None, said("response.output_item.added", item={"type": "message", "content": []}), N),
    (EventMeter, None, said("response.output_item.added", item={"type": "function_call", "name": "f"}), C),
    (EventMeter, None, said("response.output_text.delta", delta="x"), C),
    (EventMeter, None, said("response.output_text.delta", delta=""), N),
    (EventMeter, None, said("response.reasoning_summary_text.delta", delta="x"), C),
    (EventMeter, None, said("response.image_generation_call.partial_image", partial_image_b64="x"), C),
    (EventMeter, "response.output_text.delta", b'{"delta":"x"}', C),
    (EventMeter, None, said("response.completed", response={"id": "r", "status": "completed"}), END),
    (EventMeter, None, said("response.incomplete", response={"id": "r", "status": "incomplete"}), END),
    (EventMeter, None, said("response.cancelled", response={"id": "r", "status": "cancelled"}), END),
    (EventMeter, None, said("response.failed", response=FAILED), F),
    (EventMeter, None, said("response.completed", response=FAILED), F),
    (EventMeter, None, said("error", message="m", code="c"), E),
    (EventMeter, None, b"[DONE] ", DONE),
    (EventMeter, None, said("image_generation.partial_image", b64_json="x"), C),
    (EventMeter, None, said("image_generation.completed", b64_json="x"), END),
    (EventMeter, None, said("transcript.text.delta", delta="x"), C),
    (EventMeter, None, said("transcript.text.done", text="x"), END),
    (EventMeter, None, said("speech.audio.delta", audio="x", delta="AAAA"), C),
    (EventMeter, None, b'{"text":"a segment"}', C),
    (MessagesMeter, None, said("message_start", message={"model": "m", "usage": {"input_tokens": 4}}), N),
    (MessagesMeter, None, said("ping"), N),
    (MessagesMeter, None, said("content_block_start", content_block={"type": "text", "text": ""}), N),
    (MessagesMeter, None, said("content_block_start", content_block={"type": "thinking", "thinking": ""}), N),
    (MessagesMeter, None, said("content_block_start", content_block={"type": "tool_use", "name": "f"}), C),
    (MessagesMeter, None, said("content_block_delta", delta={"type": "text_delta", "text": "x"}), C),
    (MessagesMeter, None, said("content_block_delta", delta={"type": "input_json_delta", "partial_json": ""}), N),
    (MessagesMeter, None, said("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}), END),
    (MessagesMeter, None, said("message_stop"), END),
    (MessagesMeter, None, said("error", error={"type": "overloaded_error", "message": "m"}), E),
]


@pytest.mark.parametrize(("make", "event", "data", "kind"), FRAMES)
def test_kinds_of_frames(make: Callable[[], StreamMeter], event: str | None, data: bytes, kind: FrameKind) -> None:
    meter = make()
    assert meter.feed(data, event) is kind
    assert (meter.failure is not None) == (kind in (E, F))
    assert meter.done is (kind is DONE or b"message_stop" in data or (kind is END and b'"response.' in data))


@pytest.mark.parametrize("make", [StreamMeter, EventMeter, MessagesMeter])
@pytest.mark.parametrize(
    ("said", "status"),
    [(said, status) for said, status, *_ in FAILURES if isinstance(said, dict) and "title" not in said],
)
def test_failures_in_streams(make: Callable[[], StreamMeter], said: dict[str, object], status: int | None) -> None:
    meter = make()
    kind = meter.feed(json.dumps(said).encode())
    assert kind in (E, F)
    assert meter.failure is not None
    assert meter.failure.status == status


def test_the_status_of_a_failed_response_is_kept() -> None:
    meter = EventMeter()
    meter.feed(said("response.failed", response=FAILED))
    assert meter.failure == Failure(status=429, code="rate_limit_exceeded", message="m")


# what is held beside the usage, and other units


def test_what_stands_beside_the_usage_is_not_lost() -> None:
    meter = StreamMeter()
    chunk = {"id": "c", "choices": [], "model": "m", "usage": {"prompt_tokens": 4, "completion_tokens": 3}}
    plain = json.dumps(chunk).encode()
    assert meter.feed(plain) is FrameKind.USAGE_ONLY
    assert meter.without_usage(plain) is None
    assert meter.without_usage(json.dumps({**chunk, "citations": None, "x": {}}).encode()) is None
    rest = meter.without_usage(json.dumps({**chunk, "timings": {"prompt_n": 4}, "citations": ["u"]}).encode())
    assert rest is not None
    quiet = {"index": 0, "delta": {}, "finish_reason": None}
    assert json.loads(rest) == {
        "id": "c",
        "model": "m",
        "choices": [quiet],
        "timings": {"prompt_n": 4},
        "citations": ["u"],
    }


@pytest.mark.parametrize(
    ("body", "images"),
    [
        ({"data": [{"b64_json": "x"}, {"url": "x"}]}, 2),
        ({"data": []}, 0),
        ({"data": None}, 0),
        ({"images": [{"url": "x"}]}, 1),
    ],
)
def test_images_made_are_counted(body: object, images: int) -> None:
    reported = read_images(json.dumps(body).encode())
    usage = reported.usage_or_estimate(7)
    assert (reported.failure, usage.images, usage.prompt_tokens, usage.estimated) == (None, images, 0, False)


def test_the_tokens_of_images_are_image_tokens() -> None:
    body = {"data": [{}], "usage": {"input_tokens": 9, "output_tokens": 400, "total_tokens": 409}}
    usage = read_images(json.dumps(body).encode()).usage_or_estimate(7)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.image_completion_tokens) == (9, 400, 400)


SRT = b"1\n00:00:00,000 --> 00:00:01,500\nfour words\n\n2\n00:01:02,000 --> 00:01:03,25\nmore\n"
TRANSCRIPTS: list[tuple[bytes, int]] = [
    (b'{"text":"x","duration":"2.5"}', 2_500),
    (b'{"text":"x","duration":2.5,"segments":[{"end":1.0}]}', 2_500),
    (b'{"text":"x","usage":{"type":"duration","seconds":3}}', 3_000),
    (b'{"text":"x","segments":[{"end":1.0},{"end":4.25},{"end":2}]}', 4_250),
    (SRT, 63_250),
    (b"WEBVTT\n\n00:00.000 --> 00:01.500\nfour words\n", 1_500),
    (b"four words", 0),
    (b'{"text":"x"}', 0),
    (b'{"text":"x","duration":-1}', 0),
    (b'{"text":"x","duration":1e300}', 0),
]


@pytest.mark.parametrize(("body", "audio_ms"), TRANSCRIPTS)
def test_transcripts_tell_seconds_in_every_form(body: bytes, audio_ms: int) -> None:
    reported: Reported = read_transcript(body)
    usage = reported.usage_or_estimate(0)
    assert (reported.failure, usage.audio_ms) == (None, audio_ms)
    assert (reported.usage is None) == (not audio_ms)


def test_tokens_of_a_transcript_count_besides_its_seconds() -> None:
    usage = read_transcript(
        b'{"text":"x","usage":{"type":"tokens","input_tokens":14,"output_tokens":4,"total_tokens":18,'
        b'"input_token_details":{"text_tokens":0,"audio_tokens":14}}}'
    ).usage_or_estimate(0)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.audio_prompt_tokens) == (14, 4, 14)


def test_searches_of_a_response_are_counted() -> None:
    items = [{"type": "web_search_call"}, {"type": "message", "content": []}, {"type": "web_search_call"}]
    body = {
        "object": "response",
        "status": "completed",
        "output": items,
        "usage": {"input_tokens": 4, "output_tokens": 3},
    }
    assert read_response(json.dumps(body).encode()).usage_or_estimate(0).searches == 2
    meter = EventMeter()
    meter.feed(said("response.completed", response=body))
    assert meter.usage_or_estimate(0).searches == 2


def test_text_that_stands_in_the_last_event_alone_is_counted() -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "word " * 50}]}]
    meter = EventMeter()
    meter.feed(said("response.completed", response={"id": "r", "status": "completed", "output": output}))
    usage = meter.usage_or_estimate(4)
    assert (usage.completion_tokens > 30, usage.estimated) == (True, True)


def test_zeros_of_a_translating_server_are_no_report() -> None:
    meter = MessagesMeter()
    meter.feed(said("message_start", message={"usage": {"input_tokens": 0, "output_tokens": 0}}))
    meter.feed(said("content_block_delta", delta={"text": "hello"}))
    meter.feed(said("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 9, "output_tokens": 4}))
    meter.feed(said("message_delta", delta={}, usage={"input_tokens": 0, "output_tokens": 0}))
    usage = meter.usage_or_estimate(50)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (9, 4, False)
