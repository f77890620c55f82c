"""The scripted upstream does what its scripts say, byte for byte."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests.support.upstream import CLOSE, DONE, RESET, Gate, Reply, Upstream, answer_like_openai, delta

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def post(upstream: Upstream, body: object = CHAT, path: str = "/v1/chat/completions") -> httpx.Response:
    return httpx.post(upstream.url + path, json=body, timeout=10)


def test_unscripted_requests_are_answered_like_openai(upstream: Upstream) -> None:
    plain = post(upstream)
    assert plain.json()["choices"][0]["message"]["content"] == "Hello!"
    assert plain.json()["usage"]["total_tokens"] == 12
    assert httpx.get(upstream.url + "/v1/models").json()["data"][0]["id"] == "gpt-4o"
    assert len(post(upstream, {"model": "e", "input": ["a", "b"]}, "/v1/embeddings").json()["data"]) == 2
    assert [request.path for request in upstream.requests] == ["/v1/chat/completions", "/v1/embeddings"]
    assert [probe.path for probe in upstream.probes] == ["/v1/models"]


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_has_usage_only_if_asked_for(upstream: Upstream, asked: bool) -> None:
    stream = post(upstream, {**CHAT, "stream": True, "stream_options": {"include_usage": asked}})
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.text.endswith("data: [DONE]\n\n")
    assert ('"prompt_tokens":7' in stream.text) is asked


def test_requests_are_recorded_as_sent(upstream: Upstream) -> None:
    with httpx.Client() as client:
        client.post(upstream.url + "/v1/x?y=1", content=b'{"a" : 1}', headers={"X-Odd": "Yes"})
        client.post(upstream.url + "/v1/x", content=iter([b'{"b"', b": 2}"]))
    first, second = upstream.requests
    assert (first.method, first.target, first.path, first.body) == ("POST", "/v1/x?y=1", "/v1/x", b'{"a" : 1}')
    assert ("X-Odd", "Yes") in first.headers
    assert first.header("x-odd") == "Yes"
    assert second.json() == {"b": 2}  # sent chunked
    assert first.connection == second.connection


def test_fail_then_succeed(upstream: Upstream) -> None:
    upstream.script(Reply.error(500), Reply.rate_limited("7"), Reply.html(), Reply.chat("at last"))
    answers = [post(upstream) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [500, 429, 502, 200]
    assert answers[1].headers["retry-after"] == "7"
    assert answers[3].json()["choices"][0]["message"]["content"] == "at last"


def test_breaking_off(upstream: Upstream) -> None:
    half = Reply.sse([delta("a"), CLOSE])
    upstream.script(Reply.reset(), Reply.close(), half, Reply.sse([delta("a"), RESET]), Reply.chat().cut(1))
    with pytest.raises(httpx.ReadError):
        post(upstream)
    for _ in range(4):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            post(upstream)
    for request in upstream.requests:
        request.wait_finished()


def test_a_gate_holds_a_stream_until_opened(upstream: Upstream) -> None:
    gate = Gate()
    upstream.script(Reply.sse([delta("a"), gate, b"data: \xc3", b"\xa4\n\n", DONE]))
    with httpx.stream("POST", upstream.url + "/v1/chat/completions", json=CHAT, timeout=10) as answer:
        pieces = answer.iter_raw()
        assert b'"content":"a"' in next(pieces)
        gate.wait_reached()
        assert not upstream.requests[0].finished.is_set()
        gate.open()
        assert "data: ä\n\ndata: [DONE]\n\n" in b"".join(pieces).decode()
    upstream.requests[0].wait_finished()


@pytest.mark.parametrize(
    "reply", [Reply.hang(), Reply.chat().slow_headers(Gate()), Reply.sse([delta("a"), Gate(), DONE])]
)
def test_it_notices_that_the_client_left(upstream: Upstream, reply: Reply) -> None:
    upstream.script(reply)
    with socket.create_connection(("127.0.0.1", upstream.port)) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        request = upstream.wait_for_requests()
        assert upstream.open_connections == 1
    request.wait_aborted()
    assert not request.finished.is_set()
    upstream.wait_for_connections(0)


def test_a_wrong_content_length_is_sent_as_scripted(upstream: Upstream) -> None:
    upstream.script(Reply.body(b"{}", headers={"content-length": "10"}), Reply.body(b"{not json"))
    with socket.create_connection(("127.0.0.1", upstream.port)) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        with client.makefile("rb") as answer:
            head = list(iter(answer.readline, b"\r\n"))
            assert b"content-length: 10\r\n" in head
            assert answer.read(2) == b"{}"
    assert post(upstream).content == b"{not json"


def test_a_script_can_depend_on_the_request(upstream: Upstream) -> None:
    upstream.script(lambda request: Reply.chat(request.json()["model"]), answer_like_openai)
    assert post(upstream).json()["choices"][0]["message"]["content"] == "gpt-4o"
    assert post(upstream).json()["choices"][0]["message"]["content"] == "Hello!"


def test_its_own_failures_fail_the_test() -> None:
    broken = Upstream().start()
    with socket.create_connection(("127.0.0.1", broken.port)) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(1) == b""
    with pytest.raises(AssertionError, match="scripted upstream: ValueError"):
        broken.stop()
