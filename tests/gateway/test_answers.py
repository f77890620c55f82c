"""What an upstream says is understood by its content, before anything of it is charged or sent: over real sockets."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import httpx
import openai
import pytest

from tests.conftest import ClientFactory, GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import error_of, opens, receipt_of
from tests.support.answers import event, message, message_stream, response, response_stream
from tests.support.gateway import Gateway
from tests.support.upstream import (
    CLOSE,
    DONE,
    USAGE,
    Gate,
    Reply,
    Upstream,
    completion,
    delta,
    encode,
    text_completion,
    usage_chunk,
)

PATHS = {"chat": "chat/completions", "completion": "completions", "response": "responses", "message": "messages"}
FORMS: dict[str, dict[str, Any]] = {
    "chat": {"messages": HELLO},
    "completion": {"prompt": "Hello"},
    "response": {"input": "Hello"},
    "message": {"messages": HELLO, "max_tokens": 100},
}


def ask(tenant: Tenant, form: str, **members: Any) -> httpx.Response:
    """A request of one API, in its least form."""
    return tenant.http.post(f"/v1/{PATHS[form]}", json={"model": "gpt-4o", **FORMS[form], **members})


# the head of a response


def raw(*lines: str, body: bytes | None = None, end: str = "\r\n") -> Reply:
    head = "".join(f"{line}{end}" for line in ("HTTP/1.1 200 OK", "content-type: application/json", *lines, ""))
    return Reply.raw(head.encode() + (encode(completion("Hello!")) if body is None else body))


def bytes_of(reply: Reply) -> bytes:
    return b"".join(step for step in reply.steps if isinstance(step, bytes))


BODY = encode(completion("Hello!"))
LENGTH = f"content-length: {len(BODY)}"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "reply",
    {
        "a long line": raw(f"x-long: {'a' * 60_000}", LENGTH),
        "many lines": raw(*(f"x-{number}: a" for number in range(1000)), LENGTH),
        "one length twice": raw(LENGTH, LENGTH),
        "one length in a list": raw(f"content-length: {len(BODY)}, {len(BODY)}"),
        "both lengths": raw("content-length: 3", "transfer-encoding: chunked", body=CHUNKED),
        "chunked twice": raw("transfer-encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED),
        "an empty coding": raw("transfer-encoding: identity", LENGTH),
        "bare line feeds": raw(LENGTH, end="\n"),
        "an interim response": Reply.raw(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", *raw(LENGTH).steps),
        "byte by byte": Reply.raw(*(bytes([byte]) for byte in bytes_of(raw(LENGTH, LENGTH)))),
        "a byte order mark": raw(f"content-length: {len(BODY) + 3}", body=b"\xef\xbb\xbf" + BODY),
        "the end of a stream behind it": raw(f"content-length: {len(BODY) + 16}", body=BODY + b"\n\ndata: [DONE]\n\n"),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_head_that_can_be_read_safely_is_read(tenant: Tenant, scripted: Upstream, reply: tuple[str, Reply]) -> None:
    scripted.script(reply[1])
    got = tenant.chat()
    assert (got.status_code, got.content) == (200, BODY), got.text
    scripted.script(Reply.chat("again"))
    assert tenant.chat().json()["choices"][0]["message"]["content"] == "again", "the connection is in order"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (raw(LENGTH, "content-length: 3"), "two different Content-Length values"),
        (raw(f"x-long: {'a' * 300_000}", LENGTH), "longer than 262144 bytes"),
        (raw("content-length: many"), "not valid HTTP/1.1"),
        (raw("content-encoding: compress", LENGTH), "compressed in a way"),
        (raw("content-encoding: gzip", LENGTH), "compressed with gzip, but it is not"),
        (raw("content-encoding: gzip", "content-length: 40", body=gzip.compress(BODY)[:40]), "ends too early"),
    ],
)
def test_what_is_wrong_with_a_response_is_named(tenant: Tenant, scripted: Upstream, reply: Reply, said: str) -> None:
    scripted.script(reply)
    got = tenant.chat()
    assert got.status_code == 502
    assert said in error_of(got)["message"]
    assert got.headers["x-should-retry"] == "false"
    assert len(scripted.requests) == 1
    assert receipt_of(tenant, got)["receipt"]["cost_nano_usd"] == 0


# compressed although it was not asked for


def _deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def _zstd(data: bytes) -> bytes:
    """A frame of raw blocks (RFC 8878, section 3.1.1)."""
    blocks = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
    frame = b"\x28\xb5\x2f\xfd\x00\x58"
    for number, block in enumerate(blocks):
        frame += (len(block) << 3 | (number == len(blocks) - 1)).to_bytes(3, "little") + block
    return frame


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": _deflate,
    "br": brotli.compress,
    "zstd": _zstd,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_what_comes_compressed_is_passed_on_as_it_was_asked_for(
    tenant: Tenant, scripted: Upstream, coding: str
) -> None:
    compress = CODINGS[coding]
    headers = {"content-encoding": coding}
    answer = completion("Hello!" * 10_000)
    scripted.script(Reply.body(compress(encode(answer)), headers=headers))
    got = tenant.chat()
    assert (got.status_code, got.json()) == (200, answer)
    assert "content-encoding" not in got.headers
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["prompt_tokens"], receipt["usage_source"]) == (7, "provider")

    frames = b"".join(
        b"data: " + encode(frame) + b"\n\n" for frame in (delta("Hi", finish_reason="stop"), usage_chunk(USAGE))
    )
    stream = compress(frames + DONE)
    pieces = [stream[at : at + 7] for at in range(0, len(stream), 7)]
    scripted.script(Reply.sse(pieces, headers=headers))
    got = tenant.chat(stream=True)
    assert got.content == b"data: " + encode(delta("Hi", finish_reason="stop")) + b"\n\n" + DONE
    assert receipt_of(tenant, got)["receipt"]["completion_tokens"] == 5

    scripted.script(Reply.body(compress(b"\0\1\2" * 1000), content_type="audio/mpeg", headers=headers))
    speech = tenant.http.post("/v1/audio/speech", json={"model": "tts-1", "input": "Hi", "voice": "alloy"})
    assert speech.content == b"\0\1\2" * 1000
    scripted.script(Reply.body(compress(b'{"detail":"field required"}'), status=422, headers=headers))
    assert "field required" in error_of(tenant.chat())["message"]


def test_a_small_answer_cannot_fill_the_memory(tenant: Tenant, scripted: Upstream) -> None:
    bomb = gzip.compress(b" " * (80 * 1024 * 1024))
    scripted.script(Reply.body(bomb, headers={"content-encoding": "gzip"}))
    got = tenant.chat()
    assert (got.status_code, "too large" in error_of(got)["message"]) == (502, True)


# a document for a stream, a stream for a document


DOCUMENTS: dict[str, dict[str, Any]] = {
    "chat": completion("Hello!"),
    "completion": text_completion("Hello!"),
    "response": response("Hello!"),
    "message": message("Hello!"),
}
STREAMS: dict[str, list[Any]] = {
    "chat": [
        delta("", role="assistant"),
        delta("Hel"),
        delta("lo!"),
        delta(None, finish_reason="stop"),
        usage_chunk(USAGE),
        DONE,
    ],
    "completion": [text_completion("Hel", done=False), text_completion("lo!"), DONE],
    "response": response_stream(),
    "message": message_stream(),
}


def text_of(form: str, document: dict[str, Any]) -> str:
    match form:
        case "chat":
            return str(document["choices"][0]["message"]["content"])
        case "completion":
            return str(document["choices"][0]["text"])
        case "response":
            return str(document["output"][0]["content"][0]["text"])
    return str(document["content"][0]["text"])


@pytest.mark.parametrize("form", DOCUMENTS)
def test_a_stream_for_a_document_becomes_one(tenant: Tenant, scripted: Upstream, form: str) -> None:
    scripted.script(Reply.sse(STREAMS[form]))
    got = ask(tenant, form)
    assert got.headers["content-type"] == "application/json"
    assert text_of(form, got.json()) == "Hello!"
    assert receipt_of(tenant, got)["receipt"]["usage_source"] == "provider"
    assert got.json()["usage"]


@pytest.mark.parametrize("form", DOCUMENTS)
def test_a_document_for_a_stream_becomes_one_that_adds_up_to_it(tenant: Tenant, scripted: Upstream, form: str) -> None:
    scripted.script(Reply.json(DOCUMENTS[form]))
    asks = {"stream_options": {"include_usage": True}} if form in ("chat", "completion") else {}
    got = ask(tenant, form, stream=True, **asks)
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert receipt_of(tenant, got)["receipt"]["finish"] == "complete"
    assert receipt_of(tenant, got)["receipt"]["usage_source"] == "provider"
    scripted.script(Reply.sse([got.content]))
    again = ask(tenant, form).json()
    known = DOCUMENTS[form]
    assert {name: value for name, value in again.items() if value is not None} == {
        name: value for name, value in known.items() if value is not None
    }


def test_the_sdk_reads_the_stream_that_was_made_of_a_document(
    tenant: Tenant, scripted: Upstream, make_client: ClientFactory
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    answer = completion("Hello!")
    answer["choices"][0]["message"]["tool_calls"] = [call]
    scripted.script(Reply.json(answer), Reply.json(DOCUMENTS["response"]))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    create: Any = client.chat.completions.create
    chunks = list(create(model="gpt-4o", messages=HELLO, stream=True))
    assert chunks[0].choices[0].delta.content == "Hello!"
    assert chunks[0].choices[0].delta.tool_calls[0].function.arguments == '{"at":1}'
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "stop"]
    with client.responses.stream(model="gpt-4o", input="Hello") as events:
        assert events.get_final_response().output_text == "Hello!"


def test_an_unwanted_stream_that_fails_is_a_failure(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.sse([delta("Hel"), {"error": {"message": "gone", "code": 400}}]), Reply.sse([delta("Hel")]))
    refused = tenant.chat()
    assert (refused.status_code, error_of(refused)["message"]) == (400, "gone")
    assert tenant.chat().status_code == 502
    assert tenant.used()["day"]["requests"] == 0


# held until there is content


ROLE = delta("", role="assistant")
PING = b": ping\n\n"


@pytest.mark.parametrize(
    ("form", "before"),
    [
        ("chat", [PING, ROLE]),
        ("response", response_stream()[:4]),
        ("message", message_stream()[:3]),
    ],
)
@pytest.mark.parametrize(
    "error", [{"error": {"message": "no", "code": 429}}, {"object": "error", "message": "no", "code": 429}], ids=str
)
def test_a_stream_that_fails_before_its_content_is_an_error_with_a_status(
    tenant: Tenant, scripted: Upstream, form: str, before: list[Any], error: dict[str, Any]
) -> None:
    scripted.script(*[Reply.sse([*before, error])] * 3)
    got = ask(tenant, form, stream=True)
    assert (got.status_code, got.json()["error"]["message"]) == (429, "no")
    assert len(scripted.requests) == 3, "it may be asked for again"
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["finish"], receipt["cost_nano_usd"], receipt["prompt_tokens"]) == ("upstream_error", 0, 0)
    scripted.script(Reply.sse([*before, error]), Reply.sse(STREAMS[form]))
    assert "lo!" in ask(tenant, form, stream=True).text


def test_a_stream_without_content_is_held_only_so_long(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    environment = {"TRUSTGATE_UPSTREAM_HOLD_S": "0.2"}
    tenant = sign_up(make_gateway(upstream=upstream.api_url, environment=environment).start())
    gate = Gate()
    upstream.script(Reply.sse([PING, ROLE, gate, {"error": {"message": "no"}}]))
    with tenant.stream() as streamed:
        lines = streamed.iter_lines()
        assert next(lines) == ": ping"
        gate.open()
        rest = "".join(lines)
    assert streamed.status_code == 200
    assert '"no"' in rest
    assert tenant.receipts()[-1]["finish"] == "upstream_cut"


@pytest.mark.parametrize(
    "content",
    [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    ],
)
def test_reasoning_and_calls_are_content(tenant: Tenant, scripted: Upstream, content: dict[str, Any]) -> None:
    gate = Gate()
    chunk = delta(None)
    chunk["choices"][0]["delta"] = content
    scripted.script(Reply.sse([chunk, gate, delta(None, finish_reason="stop"), DONE]))
    with tenant.stream() as streamed:
        lines = streamed.iter_lines()
        assert json.loads(next(lines).removeprefix("data: ")) == chunk
        gate.open()
        assert any("[DONE]" in line for line in lines)


@pytest.mark.parametrize("kind", ["audio/mpeg", "application/json", "application/octet-stream"])
def test_speech_that_is_an_error_in_json_is_one(tenant: Tenant, scripted: Upstream, kind: str) -> None:
    body = encode({"error": {"message": "no such voice", "code": 400}})
    scripted.script(Reply.body(body, content_type=kind), Reply.body(b"", content_type="audio/mpeg"))
    request = {"model": "tts-1", "input": "Hi", "voice": "x"}
    got = tenant.http.post("/v1/audio/speech", json=request)
    assert (got.status_code, error_of(got)["message"]) == (400, "no such voice")
    empty = tenant.http.post("/v1/audio/speech", json=request)
    assert (empty.status_code, error_of(empty)["message"]) == (502, "The upstream's answer is empty.")
    assert tenant.used()["day"]["requests"] == 0


def test_images_that_are_an_error_in_json_are_one(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.json({"error": {"message": "not that", "code": "content_policy_violation"}}))
    got = tenant.http.post("/v1/images/generations", json={"model": "dall-e-3", "prompt": "a cat"})
    assert (got.status_code, error_of(got)["code"]) == (400, "content_policy_violation")
    assert receipt_of(tenant, got)["receipt"]["cost_nano_usd"] == 0


# in the middle


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "died", "code": 500}},
        {"object": "error", "message": "died", "code": 500},
        {"detail": "died"},
        b'event: error\ndata: {"message": "died"}\n\n',
        b"event: error\ndata: died\n\n",
    ],
    ids=str,
)
def test_an_error_in_any_shape_ends_a_stream_as_one(
    tenant: Tenant, scripted: Upstream, make_client: ClientFactory, error: Any
) -> None:
    scripted.script(Reply.sse([delta("a"), error, CLOSE]))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    create: Any = client.chat.completions.create
    with pytest.raises(openai.APIError, match="died"):
        list(create(model="gpt-4o", messages=HELLO, stream=True))
    assert tenant.receipts()[-1]["finish"] == "upstream_cut"


def test_what_stands_beside_the_usage_is_passed_on(tenant: Tenant, scripted: Upstream) -> None:
    last = {**usage_chunk(USAGE), "timings": {"predicted_n": 5}}
    scripted.script(Reply.sse([delta("a", finish_reason="stop"), last, DONE]))
    got = tenant.chat(stream=True)
    chunks = [json.loads(line[6:]) for line in got.text.splitlines() if line.startswith("data: {")]
    assert chunks[-1]["timings"] == {"predicted_n": 5}
    assert "usage" not in chunks[-1]


def test_stream_options_that_are_refused_are_left_out(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    tenant = sign_up(make_gateway(upstream=upstream.api_url).start())
    upstream.script(Reply.error(422, "extra inputs are not permitted"), *[Reply.chat_stream(without_usage=True)] * 2)
    for _ in range(2):
        assert tenant.chat(stream=True).status_code == 200
    assert ["stream_options" in request.json() for request in upstream.requests] == [True, False, False]
    assert tenant.receipts()[-1]["usage_source"] == "estimate"


def test_a_passport_can_withhold_stream_options(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url).start()
    gateway.cli("passport", "add", "picky", "--capability", "no_stream_options")
    tenant = sign_up(gateway)
    assert tenant.chat(stream=True, model="picky").status_code == 200
    assert "stream_options" not in upstream.requests[0].json()


# whose fault


def test_one_tenant_cannot_take_a_model_from_another(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway: Gateway = make_gateway(upstream=upstream.api_url, environment={"TRUSTGATE_UPSTREAM_RETRIES": "0"}).start()
    first, second = sign_up(gateway), sign_up(gateway)
    for status in (500, 501, 505):
        for _ in range(6):
            upstream.script(Reply.error(status, "no images here"))
            got = first.chat()
            assert "no images here" in error_of(got)["message"]
            assert second.chat().status_code == 200
        assert got.status_code == (502 if status == 500 else status)
    upstream.script(*[Reply.error(500, "crashed")] * 12)
    assert {tenant.chat().status_code for _ in range(6) for tenant in (first, second)} == {502}
    assert first.chat().status_code == 200, "the only one there is is asked"


def test_a_connection_that_was_closed_meanwhile_is_not_used(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(upstream=upstream.api_url, environment={"TRUSTGATE_UPSTREAM_RETRIES": "0"}).start()
    tenant = sign_up(gateway)
    files = {"file": ("a.wav", b"x" * 2_000_000)}
    for _ in range(10):
        whole = Reply.chat()
        upstream.script(Reply(steps=(*whole.steps, CLOSE)))
        assert tenant.chat().status_code == 200
        upstream.script(Reply.json({"text": "hi", "usage": {"type": "duration", "seconds": 1}}))
        got = tenant.http.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files=files)
        assert got.status_code == 200, got.text


MORE = "word " * 200
#: Of each API: a whole stream, and what its server sends behind its end.
ENDED: dict[str, tuple[list[bytes], bytes]] = {
    "chat": (
        [
            b"data: %b\n\n" % encode(each)
            for each in (delta("Hi"), delta(None, finish_reason="stop"), usage_chunk(USAGE))
        ]
        + [DONE],
        b"data: %b\n\ndata: %b\n\n" % (encode(delta(MORE)), encode(usage_chunk({**USAGE, "completion_tokens": 500}))),
    ),
    "response": (
        response_stream(),
        event("response.output_text.delta", delta=MORE)
        + event("response.completed", response=response(usage={"input_tokens": 9, "output_tokens": 500}))
        + DONE,
    ),
    "message": (
        message_stream(),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": MORE})
        + event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 500})
        + event("message_stop"),
    ),
}


@pytest.mark.parametrize("is_apart", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("form", ENDED)
def test_what_comes_behind_the_end_of_a_stream_is_neither_charged_nor_passed_on(
    tenant: Tenant, scripted: Upstream, form: str, is_apart: bool
) -> None:
    """Wherever TCP cuts it: the receipt is closed at the end, and is of what the client got."""
    frames, behind = ENDED[form]
    scripted.script(Reply.sse(frames))
    plain = ask(tenant, form, stream=True)
    gate = Gate()
    scripted.script(Reply.sse([*frames, gate, behind] if is_apart else [*frames[:-1], frames[-1] + behind]))
    body: dict[str, Any] = {"model": "gpt-4o", "stream": True, **FORMS[form]}
    with tenant.http.stream("POST", f"/v1/{PATHS[form]}", json=body) as answer:
        got = b""
        for piece in answer.iter_raw():
            got += piece
            if got.endswith(plain.content[-20:]):
                gate.open()
    assert got == plain.content
    shown, expected = receipt_of(tenant, answer), receipt_of(tenant, plain)["receipt"]
    assert opens(shown, "response", got)
    counts = ("prompt_tokens", "completion_tokens", "cost_nano_usd", "usage_source", "finish")
    assert [shown["receipt"][name] for name in counts] == [expected[name] for name in counts]


@pytest.mark.parametrize("form", ENDED)
def test_an_answer_ends_with_its_last_event_though_its_server_goes_on(
    tenant: Tenant, scripted: Upstream, form: str
) -> None:
    gate = Gate()
    frames, _ = ENDED[form]
    scripted.script(Reply.sse([*frames, gate]))
    try:
        answer = ask(tenant, form, stream=True)  # whole, while its server stands at the gate
        assert answer.content.endswith(frames[-1])
        assert receipt_of(tenant, answer)["receipt"]["finish"] == "complete"
    finally:
        gate.open()


# counts that cannot be


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("prompt", "completion_tokens"), [(11_000_000, 7), (12, 900_000_000), (11_000_000, 11_000_000)]
)
def test_counts_beyond_what_the_request_can_have_used_are_not_believed(
    tenant: Tenant, scripted: Upstream, prompt: int, completion_tokens: int, stream: bool
) -> None:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt + completion_tokens,
    }
    whole = {**completion("Hello there!"), "usage": usage}
    last = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage}
    scripted.script(
        Reply.sse([delta("Hello there!"), delta("", finish_reason="stop"), last, DONE]) if stream else Reply.json(whole)
    )
    answer = tenant.chat(stream=stream)
    assert answer.status_code == 200
    receipt = receipt_of(tenant, answer)["receipt"]
    assert receipt["prompt_tokens"] < 100
    assert receipt["completion_tokens"] < 100
    assert (receipt["usage_source"], receipt["finish"]) == ("estimate", "complete")


def test_a_long_context_and_many_choices_are_believed(tenant: Tenant, scripted: Upstream) -> None:
    usage = {"prompt_tokens": 9_000_000, "completion_tokens": 300_000, "total_tokens": 9_300_000}
    scripted.script(Reply.json({**completion("Hello there!"), "usage": usage}))
    receipt = receipt_of(tenant, tenant.chat())["receipt"]
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (9_000_000, 300_000)
    assert receipt["usage_source"] == "provider"
