"""Images, audio, moderation and reranking through the gateway: other units than tokens, other bodies than JSON."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import socket
import wave
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import ClientFactory, GatewayFactory
from tests.gateway.conftest import Tenant
from tests.gateway.test_path import error_of, only_receipt, opens, receipt_of
from tests.support.answers import event
from tests.support.gateway import Gateway
from tests.support.upstream import CLOSE, Gate, Recorded, Reply, Upstream
from trustgate.gateway.api import units

SPEECH = secrets.token_bytes(300_000)


@pytest.fixture
def priced(tenant: Tenant, scripted: Upstream) -> str:
    """A model with a price for everything, in USD: 1e-6 and 2e-6 a token, 0.04 an image, 1e-4 a second of audio …"""
    slug = f"{tenant.name}/priced"
    info = {
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
        "output_cost_per_image": 0.04,
        "input_cost_per_second": 0.0001,
        "input_cost_per_character": 15e-6,
    }
    params = {"model": "openai/upstream-name"}
    config = {"model_list": [{"model_name": slug, "litellm_params": params, "model_info": info}]}
    path = tenant.gateway.home.parent / f"{tenant.name}.yaml"
    path.write_text(yaml.safe_dump(config))
    tenant.gateway.cli("passport", "import", str(path))
    tenant.gateway.cli("passport", "set", slug, "--api-model-id", "upstream-name")
    return slug


def cost_of(tenant: Tenant, response: httpx.Response) -> int:
    cost: int = receipt_of(tenant, response)["receipt"]["cost_nano_usd"]
    return cost


# images


@pytest.mark.parametrize("made", [None, []])
def test_no_image_made_is_none_charged(tenant: Tenant, scripted: Upstream, priced: str, made: object) -> None:
    scripted.script(Reply.json({"created": 1, "data": made}))
    got = tenant.http.post("/v1/images/generations", json={"model": priced, "prompt": "a cat", "n": 3})
    assert (got.status_code, cost_of(tenant, got)) == (200, 0)


def test_images_are_charged_one_by_one(tenant: Tenant, scripted: Upstream, priced: str) -> None:
    answer = {"created": 1, "data": [{"b64_json": "AA"}, {"b64_json": "BB"}]}
    scripted.script(Reply.json(answer))
    got = tenant.http.post("/v1/images/generations", json={"model": priced, "prompt": "a cat", "n": 3})
    assert got.json() == answer
    assert (scripted.requests[0].path, scripted.requests[0].json()["model"]) == (
        "/v1/images/generations",
        "upstream-name",
    )
    # Three were asked for and two came: two are charged.
    assert cost_of(tenant, got) == 2 * 40_000_000


def test_images_beyond_those_that_were_asked_for_are_not_charged(
    tenant: Tenant, scripted: Upstream, priced: str
) -> None:
    scripted.script(Reply.json({"created": 1, "data": [{"b64_json": "aGk="}] * 40}))
    got = tenant.http.post("/v1/images/generations", json={"model": priced, "prompt": "a cat", "n": 3})
    assert len(got.json()["data"]) == 40
    scripted.script(Reply.json({"created": 1, "data": [{"b64_json": "aGk="}] * 3}))
    tenant.http.post("/v1/images/generations", json={"model": priced, "prompt": "a cat", "n": 3})
    beyond, exact = tenant.receipts()
    assert beyond["cost_nano_usd"] == exact["cost_nano_usd"] > 0


def test_images_that_report_tokens_are_charged_by_both(tenant: Tenant, scripted: Upstream, priced: str) -> None:
    usage = {"input_tokens": 10, "output_tokens": 100, "total_tokens": 110}
    scripted.script(Reply.json({"data": [{"b64_json": "AA"}], "usage": usage}))
    got = tenant.http.post("/v1/images/generations", json={"model": priced, "prompt": "a cat"})
    assert cost_of(tenant, got) == 40_000_000 + 10 * 1_000 + 100 * 2_000


def test_images_stream(tenant: Tenant, scripted: Upstream, priced: str) -> None:
    usage = {"input_tokens": 10, "output_tokens": 100, "total_tokens": 110}
    frames = [
        event("image_generation.partial_image", b64_json="AA", partial_image_index=0),
        event("image_generation.completed", b64_json="AA" * 500_000, usage=usage),
    ]
    scripted.script(Reply.sse(frames))
    got = tenant.http.post("/v1/images/generations", json={"model": priced, "prompt": "a cat", "stream": True})
    assert got.content == b"".join(frames)
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["finish"], receipt["prompt_tokens"], receipt["completion_tokens"]) == ("complete", 10, 100)
    assert receipt["cost_nano_usd"] == 40_000_000 + 10 * 1_000 + 100 * 2_000


# audio


def test_speech_is_a_stream_of_bytes_charged_by_the_character(tenant: Tenant, scripted: Upstream, priced: str) -> None:
    scripted.script(Reply.body(SPEECH, content_type="audio/mpeg"))
    got = tenant.http.post("/v1/audio/speech", json={"model": priced, "input": "Grüße 👋", "voice": "alloy"})
    assert (got.content, got.headers["content-type"]) == (SPEECH, "audio/mpeg")
    shown = receipt_of(tenant, got)
    assert shown["receipt"]["cost_nano_usd"] == 7 * 15_000
    assert opens(shown, "response", SPEECH)


def test_speech_leaves_as_it_comes(tenant: Tenant, scripted: Upstream) -> None:
    gate = Gate()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n"
    scripted.script(Reply.raw(head, b"4\r\nRIFF\r\n", gate, b"4\r\nWAVE\r\n0\r\n\r\n"))
    body = {"model": "tts-1", "input": "Hello", "voice": "alloy"}
    with tenant.http.stream("POST", "/v1/audio/speech", json=body) as got:
        pieces = got.iter_raw()
        assert next(pieces) == b"RIFF"
        gate.open()
        assert b"".join(pieces) == b"WAVE"


def test_speech_that_is_cut_is_seen_to_be_cut(tenant: Tenant, scripted: Upstream) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n"
    scripted.script(Reply.raw(head, b"4\r\nRIFF\r\n", CLOSE))
    with pytest.raises(httpx.RemoteProtocolError):
        tenant.http.post("/v1/audio/speech", json={"model": "tts-1", "input": "Hello", "voice": "alloy"})
    assert only_receipt(tenant)["finish"] == "upstream_cut"


def test_speech_that_is_refused_is_an_error_like_any_other(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.error(400, "no such voice", type="invalid_request_error", param="voice"))
    got = tenant.http.post("/v1/audio/speech", json={"model": "tts-1", "input": "Hello", "voice": "nobody"})
    assert (got.status_code, error_of(got)["param"]) == (400, "voice")


def transcribe(tenant: Tenant, *, sound: bytes = b"RIFFsound", **fields: Any) -> httpx.Response:
    files = {"file": ("speech.wav", sound, "audio/wav")}
    return tenant.http.post("/v1/audio/transcriptions", data={"model": "whisper-1", **fields}, files=files)


@pytest.mark.parametrize(
    ("answer", "cost"),
    [
        ({"text": "Hello", "usage": {"type": "duration", "seconds": 9}}, 900_000),
        ({"text": "Hello", "task": "transcribe", "language": "english", "duration": 8.47, "segments": []}, 847_000),
        (
            {"text": "Hello", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}},
            14 * 1_000 + 45 * 2_000,
        ),
    ],
)
def test_transcripts_are_charged_by_what_they_report(
    tenant: Tenant, scripted: Upstream, priced: str, answer: dict[str, Any], cost: int
) -> None:
    scripted.script(Reply.json(answer))
    got = transcribe(tenant, model=priced, language="de")
    assert got.json() == answer
    assert cost_of(tenant, got) == cost
    sent = form_of(scripted.requests[0])
    assert (sent["model"], sent["language"], sent["file"]) == (b"upstream-name", b"de", b"RIFFsound")


def test_a_transcript_may_be_plain_text(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(Reply.body(b"1\n00:00:00,000 --> 00:00:02,000\nHello\n", content_type="text/plain; charset=utf-8"))
    got = transcribe(tenant, response_format="srt")
    assert (got.text[-6:], got.headers["content-type"]) == ("Hello\n", "text/plain; charset=utf-8")
    assert receipt_of(tenant, got)["receipt"]["finish"] == "complete"


HEARD = "four little words here"


@pytest.mark.parametrize(
    "answer",
    [
        Reply.json({"text": HEARD}),
        Reply.json({"text": HEARD, "duration": "3"}),
        Reply.json({"text": HEARD, "segments": [{"start": 0.0, "end": 2.5, "text": HEARD}]}),
        Reply.body(HEARD.encode(), content_type="text/plain; charset=utf-8"),
        Reply.body(b"1\n00:00:00,000 --> 00:00:02,500\nfour\n", content_type="application/x-subrip"),
        Reply.body(b"WEBVTT\n\n00:00.000 --> 00:02.500\nfour\n", content_type="text/vtt"),
        Reply.sse([event("transcript.text.delta", delta=HEARD), event("transcript.text.done", text=HEARD)]),
    ],
    ids=["json", "duration", "segments", "text", "srt", "vtt", "stream"],
)
def test_a_transcript_costs_the_same_in_every_form(
    tenant: Tenant, scripted: Upstream, priced: str, answer: Reply
) -> None:
    scripted.script(answer)
    got = transcribe(tenant, model=priced, sound=silence(3))
    assert got.status_code == 200
    receipt = receipt_of(tenant, got)["receipt"]
    assert receipt["cost_nano_usd"] == 300_000


_TOLD: dict[str, Any] = {"text": HEARD, "usage": {"type": "duration", "seconds": 9}}


@pytest.mark.parametrize("answer", [Reply.json(_TOLD), Reply.sse([event("transcript.text.done", **_TOLD)])])
def test_seconds_that_are_reported_count_in_a_stream_as_in_whole_answers(
    tenant: Tenant, scripted: Upstream, priced: str, answer: Reply
) -> None:
    """And a model with prices of tokens alone hears nothing for nothing."""
    by_tokens = f"{tenant.name}/by-tokens"
    tenant.gateway.cli("passport", "add", by_tokens, "--input-price", "1", "--output-price", "2")
    told = []
    for model in (priced, by_tokens):
        scripted.script(answer)
        receipt = receipt_of(tenant, transcribe(tenant, model=model, sound=silence(3)))["receipt"]
        told.append((receipt["audio_ms"], receipt["usage_source"], receipt["cost_nano_usd"]))
    prompt, completion = units.transcription_tokens(9_000)
    assert told == [(9_000, "provider", 900_000), (9_000, "estimate", prompt * 1_000 + completion * 2_000)]


def test_seconds_that_no_such_recording_has_are_not_believed(tenant: Tenant, scripted: Upstream, priced: str) -> None:
    for usage in ({"seconds": 10_000_000}, {"seconds": 10_000_000, "input_tokens": 14, "output_tokens": 5}):
        scripted.script(Reply.json({"text": HEARD, "usage": usage}))
        receipt = receipt_of(tenant, transcribe(tenant, model=priced, sound=silence(3)))["receipt"]
        by_tokens = "input_tokens" in usage
        assert receipt["cost_nano_usd"] == (14 * 1_000 + 5 * 2_000 if by_tokens else 300_000)
        assert receipt["usage_contradictory"] and receipt["usage_source"] == ("provider" if by_tokens else "estimate")


def test_a_recording_that_tells_no_length_is_estimated(tenant: Tenant, scripted: Upstream, priced: str) -> None:
    scripted.script(Reply.json({"text": HEARD}))
    got = transcribe(tenant, model=priced, sound=bytes(80_000))
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["usage_source"], receipt["cost_nano_usd"]) == ("estimate", 1_000_000)


def test_a_transcript_that_failed_costs_nothing(tenant: Tenant, scripted: Upstream, priced: str) -> None:
    scripted.default = lambda request: Reply.json({"error": "failed to read audio data"})
    got = transcribe(tenant, model=priced, sound=silence(3))
    assert (got.status_code >= 400, cost_of(tenant, got)) == (True, 0)


def silence(seconds: int) -> bytes:
    """A recording, RIFF WAVE."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8_000)
        file.writeframes(b"\x80" * 8_000 * seconds)
    return written.getvalue()


def test_a_transcript_may_be_streamed(tenant: Tenant, scripted: Upstream, make_client: ClientFactory) -> None:
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 5, "total_tokens": 19}
    frames = [event("transcript.text.delta", delta="Hello"), event("transcript.text.done", text="Hello", usage=usage)]
    scripted.script(Reply.sse(frames))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    stream = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", b"RIFF"), stream=True)
    assert [one.type for one in stream] == ["transcript.text.delta", "transcript.text.done"]
    receipt = only_receipt(tenant)
    assert (receipt["stream"], receipt["prompt_tokens"], receipt["completion_tokens"]) == (True, 14, 5)


# forms


def form_of(request: Recorded) -> dict[str, bytes]:
    """The parts of a form as the upstream read it."""
    content_type = request.header("content-type") or ""
    boundary = b"--" + content_type.partition("boundary=")[2].encode()
    parts = {}
    for part in request.body.split(boundary)[1:-1]:
        head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
        parts[head.partition(b'name="')[2].partition(b'"')[0].decode()] = value
    return parts


def test_a_form_passes_byte_for_byte(tenant: Tenant, scripted: Upstream) -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a \\"b\\".wav"\r\nContent-Type: audio/wav\r\n'
        b'\r\n\r\n--A-\r\n--\x00\xff\r\n--B\r\ncontent-disposition:form-data; name="model"\r\n\r\nwhisper-1'
        b'\r\n--B\r\nContent-Disposition: form-data; name="timestamp_granularities[]"\r\n\r\nword\r\n--B--\r\n'
    )
    scripted.script(Reply.json({"text": "x"}))
    headers = {"content-type": "multipart/form-data; boundary=B"}
    got = tenant.http.post("/v1/audio/translations", content=body, headers=headers)
    assert got.status_code == 200, got.text
    assert scripted.requests[0].body == body
    assert opens(receipt_of(tenant, got), "request", body)


#: A form as each client writes it: its content type, and the form.
WRITTEN = {
    ".NET's HttpClient": (
        'multipart/form-data; boundary="B-1"',
        (
            "--B-1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model\r\n\r\n"
            "whisper-1\r\n"
            "--B-1\r\nContent-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav\r\n\r\nRIFF\r\n"
            "--B-1--\r\n"
        ),
    ),
    "Apache's HttpClient": (
        "multipart/form-data; boundary=B_1; charset=UTF-8",
        (
            '--B_1\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n'
            "Content-Transfer-Encoding: 8bit\r\n\r\nwhisper-1\r\n"
            '--B_1\r\nContent-Disposition: form-data; name="file"; filename="a;b \u00fc.wav"\r\n'
            "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\nRIFF\r\n--B_1--\r\n"
        ),
    ),
    "Android's samples": (
        "multipart/form-data;boundary=*****;",
        (
            '--*****\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
            '--*****\r\nContent-Disposition: form-data; name="file";filename="C:\\dir\\a.wav"\r\n\r\nRIFF\r\n'
            "--*****--\r\n"
        ),
    ),
    "RFC 2046 and 2183": (
        'Multipart/Form-Data; charset="utf-8"; boundary="B 1:?"',
        (
            "A preamble.\r\n\r\n--B 1:?\r\n"
            'content-disposition: Form-Data; NAME="model"; size=9; creation-date="Wed, 12 Feb 1997 16:29:51 -0500"\r\n'
            "\r\n"
            'whisper-1\r\n--B 1:?\r\nContent-Disposition: form-data; filename="a.wav"; name="file"\r\n\r\nRIFF\r\n'
            "--B 1:?--\r\nAn epilogue,\r\nof two lines."
        ),
    ),
}


@pytest.mark.parametrize("client", WRITTEN)
@pytest.mark.parametrize("size", [1, 1_000_000], ids=["by byte", "whole"])
def test_a_form_is_taken_as_each_client_writes_it(tenant: Tenant, scripted: Upstream, client: str, size: int) -> None:
    content_type, text = WRITTEN[client]
    body = text.encode()
    chunks = (body[at : at + size] for at in range(0, len(body), size))
    scripted.script(Reply.json({"text": "x"}))
    got = tenant.http.post("/v1/audio/transcriptions", content=chunks, headers={"content-type": content_type})
    assert got.status_code == 200, got.text
    assert (scripted.requests[0].body, scripted.requests[0].header("content-type")) == (body, content_type)
    receipt = receipt_of(tenant, got)
    assert receipt["receipt"]["model"] == "whisper-1"
    assert opens(receipt, "request", body)


def test_a_model_is_added_to_a_form_behind_its_preamble(tenant: Tenant, scripted: Upstream) -> None:
    form = part("prompt", "a cat").encode() + b"--B--\r\n"
    scripted.script(Reply.json({"created": 1, "data": [{"b64_json": "AA"}]}))
    headers = {"content-type": "multipart/form-data; boundary=B"}
    got = tenant.http.post("/v1/images/edits", content=b"A preamble.\r\n" + form, headers=headers)
    assert got.status_code == 200, got.text
    assert scripted.requests[0].body.startswith(b"A preamble.\r\n--B\r\n")
    assert form_of(scripted.requests[0]) == {"model": b"dall-e-2", "prompt": b"a cat"}


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_form_is_sent_on_while_it_arrives(tenant: Tenant, scripted: Upstream, declared: bool) -> None:
    """The upstream has the beginning before the client has sent the end; the gateway's body limit is 100,000 bytes."""
    slug = f"{tenant.name}/renamed"
    tenant.gateway.cli("passport", "add", slug, "--api-model-id", "whisper-large-v3", "--base-url", scripted.api_url)
    sound = secrets.token_bytes(4_000_000)
    head = (
        f'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n{slug}\r\n'
        '--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    ).encode()
    body = head + sound + b"\r\n--B--\r\n"
    began = scripted.uploads

    def send() -> Iterator[bytes]:
        yield body[:2_000_000]
        scripted.wait_for_uploads(began + 1)
        yield body[2_000_000:]

    headers = {"content-type": "multipart/form-data; boundary=B"}
    if declared:
        headers["content-length"] = str(len(body))
    scripted.script(Reply.json({"text": "x", "usage": {"type": "duration", "seconds": 1}}))
    # A connection of its own: the upstream's side is only opened once the gateway begins to send.
    got = tenant.http.post("/v1/audio/transcriptions", content=send(), headers=headers)
    assert got.status_code == 200, got.text
    request = scripted.requests[0]
    assert (
        hashlib.sha256(request.body).digest()
        == hashlib.sha256(body.replace(slug.encode(), b"whisper-large-v3")).digest()
    )
    assert (request.header("content-length") is not None) is declared
    assert opens(receipt_of(tenant, got), "request", body)


def test_an_upload_that_is_broken_off_is_accounted_and_its_upstream_aborted(tenant: Tenant, scripted: Upstream) -> None:
    host, port = tenant.gateway.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        head += b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        connection.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=B\r\n"
            b"authorization: Bearer " + tenant.secret.encode() + b"\r\ncontent-length: 9000000\r\n\r\n"
        )
        opened = scripted.uploads
        connection.sendall(head + b"x" * 2_000_000)
        scripted.wait_for_uploads(opened + 1)
    assert only_receipt(tenant)["finish"] == "client_gone"
    scripted.wait_for_connections(0)


def test_a_form_with_its_decisive_fields_behind_a_large_file_is_refused(tenant: Tenant, scripted: Upstream) -> None:
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b'\r\n--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--B--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=B"}
    got = tenant.http.post("/v1/audio/transcriptions", content=head + b"x" * 3_000_000 + tail, headers=headers)
    assert (got.status_code, error_of(got)["code"]) == (400, "invalid_form")
    assert "model must come before the file" in error_of(got)["message"]
    assert scripted.requests == []


def ordered(*parts: str, sound: int) -> bytes:
    """A form with its parts in this order, and "sound" for a file of so many bytes."""
    file = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * sound + b"\r\n"
    return b"".join(file if name == "sound" else name.encode() for name in parts) + b"--B--\r\n"


def in_cuts(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def test_the_order_of_a_large_forms_fields_decides_nothing(gateway: Gateway, upstream: Upstream, sign_up: Any) -> None:
    tenant = sign_up(gateway)
    streams, model = part("stream", "true"), part("model", "whisper-1")
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 5, "total_tokens": 19}
    answer = Reply.sse([event("transcript.text.done", text="Hello", usage=usage)])
    for parts in ((streams, model, "sound"), (model, "sound", streams), ("sound", streams, model)):
        for size in (50_001, 1_400_003, 10_000_000):
            upstream.script(answer)
            body = ordered(*parts, sound=1_500_000)
            headers = {"content-type": "multipart/form-data; boundary=B"}
            got = tenant.http.post("/v1/audio/transcriptions", content=in_cuts(body, size), headers=headers)
            assert (got.status_code, got.text) == (200, got.text), (parts[0], size)
            assert upstream.requests[-1].body == body
            receipt = receipt_of(tenant, got)
            assert (receipt["receipt"]["stream"], receipt["receipt"]["prompt_tokens"]) == (True, 14)
            assert opens(receipt, "request", body)


@pytest.mark.parametrize("is_late", [False, True])
def test_without_memory_a_form_is_sent_on_unless_a_field_behind_its_file_decides(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: Any, is_late: bool
) -> None:
    """A tenant may have four fifths of 8 MB: what is more goes on to the upstream before the form's end has come."""
    limits = {f"TRUSTGATE_SERVE_MAX_{what}_BYTES": "8000000" for what in ("BODY", "BUFFERED")}
    tenant = sign_up(make_gateway(upstream=upstream.api_url, environment=limits).start())
    if not is_late:
        upstream.script(Reply.json({"text": "x"}))
    late = part("stream", "false") if is_late else part("language", "de")
    body = ordered(part("model", "whisper-1"), "sound", late, sound=7_900_000)
    began = upstream.uploads

    def send() -> Iterator[bytes]:
        yield body[:7_800_000]
        upstream.wait_for_uploads(began + 1)
        yield body[7_800_000:]

    headers = {"content-type": "multipart/form-data; boundary=B"}
    got = tenant.http.post("/v1/audio/transcriptions", content=send(), headers=headers)
    if is_late:
        assert (got.status_code, error_of(got)["code"]) == (503, "overloaded")
        assert "with stream behind its file" in error_of(got)["message"]
    else:
        assert got.status_code == 200, got.text
        assert upstream.requests[0].body == body


@pytest.mark.parametrize("size", [1_000, 10_000_000])
def test_where_a_form_over_the_limit_is_cut_decides_nothing(tenant: Tenant, scripted: Upstream, size: int) -> None:
    body = ordered(part("model", "whisper-1"), "sound", part("stream", "false"), sound=100_000)
    headers = {"content-type": "multipart/form-data; boundary=B"}
    got = tenant.http.post("/v1/audio/transcriptions", content=in_cuts(body, size), headers=headers)
    assert (got.status_code, error_of(got)["code"]) == (400, "invalid_form")
    assert "larger than 100000 bytes, stream must come before the file" in error_of(got)["message"]


def part(name: str, value: str, more: str = "") -> str:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


MODEL = part("model", "whisper-1")
FILE = part("file", "RIFF", '; filename="a.wav"')


@pytest.mark.parametrize(
    "body",
    [
        "",
        "--B--\r\n",
        "--B\n\r\n" + MODEL + FILE + "--B--\r\n",
        "x" * 1100 + "\r\n" + MODEL + FILE + "--B--\r\n",
        MODEL + FILE,
        MODEL + part("model", "gpt-4o") + FILE + "--B--\r\n",
        part("model", "whisper-1", '; filename="x"') + FILE + "--B--\r\n",
        MODEL + FILE + "--B--\r\n" + MODEL,
        MODEL + FILE + "--B--more",
        MODEL + FILE + "--B--\r",
        MODEL + FILE + "--B--\r\n" + "x" * 1100,
        MODEL.replace('"model"', "\"model\"; filename*=utf-8''x") + FILE + "--B--\r\n",
        MODEL.replace('"model"', "\"model\"; name*=utf-8''other") + FILE + "--B--\r\n",
        MODEL.replace('"model"', '"model"; name*0=other') + FILE + "--B--\r\n",
        MODEL.replace('"model"', '"model"; size=1; SIZE=2') + FILE + "--B--\r\n",
        MODEL.replace('"model"', 'mo"del"') + FILE + "--B--\r\n",
        MODEL.replace("Content-Disposition:", "Content-Disposition :") + FILE + "--B--\r\n",
        MODEL.replace("\r\n\r\n", "\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n") + FILE + "--B--\r\n",
        MODEL.replace("\r\n\r\n", "\r\nContent-Type: application/octet-stream\r\n\r\n") + FILE + "--B--\r\n",
        MODEL.replace("\r\n\r\n", "\r\nContent-Type: a/b\r\nContent-Type: a/c\r\n\r\n") + FILE + "--B--\r\n",
        MODEL + FILE.replace("a.wav", r"a\"; name=\"model") + "--B--\r\n",
        MODEL + FILE.replace("\r\n\r\n", "\r\nContent-Type: multipart/mixed; boundary=C\r\n\r\n") + "--B--\r\n",
        part("_charset_", "utf-16") + MODEL + FILE + "--B--\r\n",
        part("prompt", "\xfc").replace("\r\n\r\n", "\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n\r\n")
        + (MODEL + FILE + "--B--\r\n"),
        MODEL.replace("\r\n", "\n") + FILE + "--B--\r\n",
        MODEL.replace('name="model"', 'name="model"; name="other"') + FILE + "--B--\r\n",
        MODEL.replace('name="model"', "name*=utf-8''model") + FILE + "--B--\r\n",
        MODEL.replace("form-data", "attachment") + FILE + "--B--\r\n",
        MODEL.replace("\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n") + FILE + "--B--\r\n",
        MODEL.replace("\r\n\r\n", "\r\nX-Long: " + "x" * 9000 + "\r\n\r\n") + FILE + "--B--\r\n",
        part("model", "\udcff\udcfe") + FILE + "--B--\r\n",
        part("stream", "perhaps") + MODEL + FILE + "--B--\r\n",
        part("x", "1") * 300 + MODEL + FILE + "--B--\r\n",
        part("prompt", "x" * 1_100_000) + MODEL + FILE + "--B--\r\n",
        FILE + "--B--\r\n",
    ],
)
def test_a_form_that_two_could_read_differently_is_refused(tenant: Tenant, scripted: Upstream, body: str) -> None:
    got = tenant.http.post(
        "/v1/audio/transcriptions",
        content=body.encode("utf-8", "surrogateescape"),
        headers={"content-type": "multipart/form-data; boundary=B"},
    )
    assert (got.status_code, error_of(got)["type"]) == (400, "invalid_request_error")
    assert scripted.requests == []
    assert tenant.used()["day"]["requests"] == 0


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=B"]
    + [f"multipart/form-data; boundary{more}" for more in ("=B; boundary=B", "=B; charset=utf-16", "*=B")],
)
def test_what_says_that_it_is_no_form_is_refused(tenant: Tenant, content_type: str) -> None:
    got = tenant.http.post("/v1/audio/transcriptions", content=b"x", headers={"content-type": content_type})
    assert (got.status_code, error_of(got)["code"]) == (400, "unsupported_content_type")


def test_images_are_edited_by_a_form(tenant: Tenant, scripted: Upstream, make_client: ClientFactory) -> None:
    scripted.script(Reply.json({"created": 1, "data": [{"b64_json": "AA"}]}))
    client = make_client(tenant.gateway.api_url, tenant.secret)
    edited = client.images.edit(image=[b"one", b"two"], prompt="a cat", n=1)
    assert edited.data is not None
    assert edited.data[0].b64_json == "AA"
    assert form_of(scripted.requests[0])["model"] == b"dall-e-2"
    assert only_receipt(tenant)["endpoint"] == "images.edits"


# moderation, reranking


@pytest.mark.parametrize("model", [None, "omni-moderation-latest"])
def test_moderations(tenant: Tenant, scripted: Upstream, model: str | None) -> None:
    answer = {"id": "modr-1", "model": "omni-moderation-latest", "results": [{"flagged": False}]}
    scripted.script(Reply.json(answer))
    got = tenant.http.post("/v1/moderations", json={"input": "hello", **({"model": model} if model else {})})
    assert got.json() == answer
    assert scripted.requests[0].json()["model"] == "omni-moderation-latest"
    assert receipt_of(tenant, got)["receipt"]["endpoint"] == "moderations"


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_reranking(tenant: Tenant, scripted: Upstream, path: str) -> None:
    answer = {"results": [{"index": 1, "relevance_score": 0.9}], "usage": {"total_tokens": 21, "prompt_tokens": 21}}
    scripted.script(Reply.json(answer))
    body = {"model": "rerank-1", "query": "who?", "documents": ["a", {"text": "b"}], "top_n": 1}
    got = tenant.http.post(path, json=body)
    assert got.json() == answer
    assert scripted.requests[0].path == "/v1/rerank"
    assert scripted.requests[0].body == json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    receipt = receipt_of(tenant, got)["receipt"]
    assert (receipt["endpoint"], receipt["prompt_tokens"], receipt["completion_tokens"]) == ("rerank", 21, 0)


def test_every_endpoint_can_be_gated_by_name(shared_gateway: Gateway, scripted: Upstream, sign_up: Any) -> None:
    shared_gateway.cli("plan", "add", "chat-only", "--endpoints", "chat.completions")
    tenant = sign_up(shared_gateway, "--plan", "chat-only")
    for path, body in (
        ("/v1/moderations", {"input": "x"}),
        ("/v1/images/generations", {"prompt": "x"}),
        ("/v1/audio/speech", {"model": "m", "input": "x"}),
        ("/v1/rerank", {"model": "m", "query": "x", "documents": ["x"]}),
        ("/v1/responses", {"model": "m", "input": "x"}),
    ):
        refused = tenant.http.post(path, json=body)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "endpoint_not_allowed"), path
    assert error_of(transcribe(tenant))["code"] == "endpoint_not_allowed"
    assert scripted.requests == []
