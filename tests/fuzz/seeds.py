"""Valid inputs to begin from: a mutation of something that is nearly right goes deeper than any noise."""

from __future__ import annotations

import base64
import functools
import io
import json
import tempfile
import wave
from pathlib import Path
from zlib import crc32

import msgspec

from tests.support.answers import message, message_stream, response, response_stream
from tests.support.bundles import SampleLog
from tests.support.entries import make_entry
from tests.support.payments import evm_payload, evm_requirements
from trustgate.models.pricelist import write_list
from trustgate.receipts.segment import encode_entry, pack_header, pack_record_head
from trustgate.store.changes import ChangeJournal
from trustgate.types import ConditionalRates, Plan, Prices

STORE_ID = "store_1"
_MODELS_DATA = Path(__file__).parent.parent / "models" / "data"


@functools.cache
def _log() -> SampleLog:
    return SampleLog(size=5, index=2)


def vkey() -> str:
    return _log().vkey


def receipt_id() -> str:
    return _log().receipt.id


def heads() -> list[bytes]:
    fields = b"Host: x\r\nAuthorization: Bearer sk-1\r\nContent-Type: application/json\r\n"
    return [
        b"POST /v1/chat/completions HTTP/1.1\r\n" + fields + b"Content-Length: 2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\n" + fields + b"Transfer-Encoding: chunked\r\n\r\n",
        b"GET http://x/v1/models?limit=2 HTTP/1.1\r\nHost: x\r\nConnection: close, te\r\nTE: trailers\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nOrigin: https://page.example\r\nAccess-Control-Request-Method: POST\r\n\r\n",
        b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"PUT /v1/models HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ]


def chunked() -> list[bytes]:
    return [
        b"\x03" + b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"\x01" + b"A\r\n0123456789\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n",
    ]


def forms() -> list[bytes]:
    head = b"multipart/form-data; boundary=B\n"
    part = b'--B\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    file = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    file += b"Content-Type: audio/wav\r\n\r\nRIFF\r\n"
    return [
        head + part % (b"model", b"whisper-1") + file + b"--B--\r\n",
        head + part % (b"purpose", b"batch") + part % (b"stream", b"true") + file + b"--B--",
        head + b'--B\r\nContent-Disposition: form-data; name="timestamp_granularities[]"\r\n\r\nword\r\n--B--\r\n',
        b'multipart/form-data; boundary="B"; charset=UTF-8\npreamble\r\n'
        + part.replace(b'"%b"', b"%b") % (b"model", b"m")
        + file.replace(b'"a.wav"', b"a.wav; filename*=utf-8''a.wav; size=4")
        + b"--B--\r\nepilogue",
    ]


def streams() -> list[bytes]:
    chunk = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    end += b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    return [
        chunk + end + b"\n\ndata: [DONE]\n\n",
        (chunk + end).replace(b"\n", b"\r\n") + b"\r\n\r\n: ping\r\n\r\n",
        b"\xef\xbb\xbf" + b'event: error\rdata: {"error":{"message":"no","code":429}}\r\rdata\ndata:x\n\n',
        b"".join(response_stream()),
        b"".join(message_stream()),
    ]


def answers() -> list[bytes]:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    chat = {
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": usage,
    }
    documents = [
        chat,
        response(),
        message(),
        {"object": "list", "data": [{"embedding": [0.1, 2]}], "model": "m", "usage": {"prompt_tokens": 2}},
        {"results": [{"index": 0, "relevance_score": 0.5}], "meta": {"billed_units": {"search_units": 1}}},
        {"created": 1, "data": [{"b64_json": "AA=="}], "usage": {"input_tokens": 5, "output_tokens": 7}},
        {"text": "hello", "usage": {"type": "duration", "seconds": 2.5}, "segments": [{"start": 0, "end": 2.5}]},
        {"error": {"message": "Rate limit", "type": "rate_limit_error", "code": "429", "param": None}},
        {"base_resp": {"status_code": 1002, "status_msg": "limit"}},
        [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "no"}}],
    ]
    texts = [
        b"1\n00:00:00,000 --> 00:00:02,500\nhello\n",
        b"WEBVTT\n\n00:00.000 --> 00:02.500\nhello\n",
        b"<html><title>502</title>",
    ]
    return [*(json.dumps(one).encode() for one in documents), *texts]


def recordings() -> list[bytes]:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(8_000)
        writer.writeframes(bytes(800))
    ogg = b"OggS\0\2" + bytes(8) + b"\1\0\0\0" + bytes(4) + bytes(4) + b"\1\x13OpusHead\1\1" + bytes(9)
    return [
        file.getvalue(),
        b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + (b"\xff\xfb\x90\x64" + bytes(413)) * 3,
        b"fLaC\x80\0\0\x22" + bytes(10) + b"\x0a\xc4\x40\xf0" + bytes(40),
        ogg + b"OggS\0\4" + (48_000).to_bytes(8, "little") + bytes(12) + b"\1\1x",
        b"\x1aE\xdf\xa3\x80\x18S\x80g\x8a\x15I\xa9f\x85D\x89\x82\x04\x00" + bytes(100),
        b"\0\0\0\x18ftypisom\0\0\0\0isomiso2\0\0\0\x74moov\0\0\0\x6cmvhd" + bytes(100),
    ]


def bodies() -> list[bytes]:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    documents = [
        {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "tools": [tool],
            "stream": True,
            "max_tokens": 10,
            "n": 2,
            "metadata": {"a": "b"},
        },
        {"model": "m", "prompt": ["a", "b"], "best_of": 2, "max_tokens": 0, "suffix": None},
        {"model": "m", "input": [[1, 2, 3], [4]], "encoding_format": "base64", "dimensions": 3},
        {
            "model": "m",
            "input": [{"role": "user", "content": "x"}, {"type": "item_reference", "id": "msg_1"}],
            "previous_response_id": "resp_1",
            "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}],
            "max_output_tokens": 5,
        },
        {
            "model": "m",
            "max_tokens": 5,
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": [{"role": "user", "content": "x"}],
        },
        {"model": "m", "prompt": "a cat", "size": "1024x1024", "quality": "high", "n": 1},
        {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1},
        {"model": "m", "input": "text", "voice": "alloy", "speed": 1.0},
        {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    ]
    return [json.dumps(one).encode() for one in documents]


def large_bodies() -> list[bytes]:
    return [
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "a" * 1_500}]}).encode(),
        json.dumps({"model": "m", "input": ["é\\n" * 600, "\U0001f600" * 300, {"x": [1, 2.5, None]}]}).encode(),
        json.dumps({"input": "ü\U0001f600" * 500}, ensure_ascii=False).encode(),
    ]


def batch_files() -> list[bytes]:
    line = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}'
    return [line + b"\n" + line + b"\r\n\n", line]


def payments() -> list[bytes]:
    return [
        json.dumps(evm_payload(evm_requirements())).encode(),
        json.dumps(
            {
                "x402Version": 2,
                "accepted": {"scheme": "exact", "network": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"},
                "payload": {"transaction": base64.b64encode(transactions()[0]).decode()},
                "extensions": {"payment-identifier": {"info": {"id": "a" * 16}}},
            }
        ).encode(),
        b'{"x402Version":1,"scheme":"exact","network":"base","payload":{"authorization":{"from":"0x1","nonce":"0x2"}}}',
    ]


def transactions() -> list[bytes]:
    return [_log().anchor(), _log().anchor(b"memo", version="legacy")]


def addresses() -> list[bytes]:
    return [b"11111111111111111111111111111111", b"MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr", b"\0\0\1\2"]


def notes() -> list[bytes]:
    return [_log().note]


def proofs() -> list[bytes]:
    return [_log().proof]


def tile_paths() -> list[bytes]:
    return [b"0/000", b"0/x001/x234/067", b"1/001.p/17", b"entries/000"]


def bundles() -> list[bytes]:
    return [_log().bundle(), _log().bundle(anchor=None, disclose=()), SampleLog(size=3, index=1, v=4).bundle()]


def keys() -> list[bytes]:
    return [vkey().encode()]


def settings_files() -> list[bytes]:
    return [
        b'[serve]\nhost = "127.0.0.1"\nport = 8080\n[upstream]\nurl = "http://127.0.0.1:4000"\n[log]\n',
        b"serve.port = 0x1F90\n[limits]\nmax_body_bytes = 1_000\n",
    ]


def price_lists() -> list[bytes]:
    prices = Prices(
        input_pico_usd=2_500_000,
        output_pico_usd=10_000_000,
        conditional=(ConditionalRates(input_pico_usd=5_000_000, service_tier="priority"),),
    )
    return [write_list("LiteLLM", "2026-11-01", {"gpt-4o": ("openai", prices)})]


def litellm_files() -> list[bytes]:
    table = msgspec.json.decode((_MODELS_DATA / "litellm_prices.json").read_bytes())
    return [
        (_MODELS_DATA / "litellm_config.yaml").read_bytes()[:4_000],
        msgspec.json.encode(dict(list(table.items())[:6])),
    ]


def journals() -> list[bytes]:
    data = journal_of(*(encode_entry(make_entry(seq)) for seq in (1, 2, 3)))
    return [data, data + bytes(64), data[:-5], encode_entry(make_entry(1, v=4))]


def journal_of(*payloads: bytes) -> bytes:
    """Returns a journal with these records, whose checksums are right."""
    data, salt = pack_header(1, STORE_ID)
    return data + b"".join(pack_record_head(len(one), crc32(one, salt)) + one for one in payloads)


def operators_journals() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "changes.journal")
        journal = ChangeJournal.begin(path, STORE_ID, 0)
        journal.append([Plan(name="free")])
        journal.append((), [Plan(name="free")])
        journal.close()
        data = path.read_bytes()
        return [data, data.split(b"\n")[1].partition(b" ")[2]]
