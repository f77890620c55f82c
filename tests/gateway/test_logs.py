"""The server's lines on stderr: JSON that a machine reads, one a request, and nothing in them that was said."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import httpx

from tests.conftest import GatewayFactory
from tests.gateway.conftest import SignUp
from tests.support.entries import make_receipt
from tests.support.processes import wait_until
from tests.support.upstream import Reply, Upstream
from trustgate.errors import NotFound
from trustgate.observe.request_log import RequestLog, StderrHandler, formatter

_SAID = "a prompt that nobody may read"


def test_a_line_a_request_without_what_was_said(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(
        upstream=upstream.api_url,
        environment={"TRUSTGATE_LOG_FORMAT": "json", "TRUSTGATE_LOG_REQUESTS": "true", "TRUSTGATE_LOG_LEVEL": "debug"},
    ).start()
    tenant = sign_up(gateway)
    upstream.script(Reply.chat("an answer that nobody may read"))
    url = "/v1/chat/completions?secret=in-the-query"
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": _SAID}]}
    answer = tenant.http.post(url, json=body)
    assert answer.status_code == 200
    refused = httpx.post(gateway.base_url + url, json=body, headers={"authorization": "Bearer tgk_x"}, trust_env=False)
    assert refused.status_code == 401

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in gateway.logs().splitlines()]

    def of(event: str) -> list[dict[str, Any]]:
        return [line for line in lines() if line["event"] == event]

    wait_until(lambda: bool(of("refusal")), "the line of the refusal")
    (line,) = of("request")
    assert line["receipt"] == answer.headers["x-trustgate-receipt"]
    assert (line["tenant"], line["key"], line["endpoint"], line["model"]) == (
        tenant.id,
        tenant.key_id,
        "chat.completions",
        "gpt-4o",
    )
    assert (line["status"], line["finish"], line["prompt_tokens"], line["completion_tokens"]) == (200, "complete", 7, 5)
    assert line["time"].endswith("Z")
    (told,) = of("refusal")
    assert (told["status"], told["code"], told["endpoint"]) == (401, "invalid_api_key", "chat.completions")
    assert told["request_id"] == refused.headers["x-request-id"]
    gateway.stop()
    assert of("message"), "the server's own messages are JSON, too"
    for secret in (_SAID, "nobody may read", "in-the-query", tenant.secret, "tgk_x"):
        assert secret not in gateway.logs()


def test_text_for_people_stays_on_one_line(capfdbinary: Any) -> None:
    log = RequestLog("text")
    log.request(make_receipt(model="a\nname"))
    log.refusal(NotFound("no"), "embeddings", "rcpt_1", "req_1")
    log.flush()
    request, refusal = capfdbinary.readouterr().err.decode().splitlines()
    assert "chat.completions a�name: 200 complete, 100+50 tokens, 100/900 ms" in request
    assert refusal.endswith("REFUSAL embeddings: 404 not_found, rcpt_1")


def test_a_reader_that_has_stopped_holds_up_no_message_for_longer_than_a_moment() -> None:
    reader, writer = os.pipe()
    stderr = os.dup(2)
    handler = StderrHandler()
    handler.setFormatter(formatter("json"))
    try:
        os.dup2(writer, 2)
        for n in range(40):  # more than a pipe holds; a handler that waits for the reader never ends
            handler.emit(logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": f"{n} {'x' * 4000}"}))
        os.set_blocking(reader, False)
        taken = os.read(reader, 2**20)
        handler.emit(logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "the last"}))
        *lines, lost, last = (taken + os.read(reader, 2**20)).splitlines()
    finally:
        os.dup2(stderr, 2)
        for number in (reader, writer, stderr):
            os.close(number)
    whole = sum(line.endswith(b"}") for line in lines)
    assert 0 < whole < 40
    assert json.loads(lost)["message"] == f"stderr could not be written: {40 - whole} messages were lost"
    assert json.loads(last)["message"] == "the last"


def test_a_reader_that_does_not_keep_up_costs_lines_not_memory(capfdbinary: Any) -> None:
    log = RequestLog("json")
    receipt = make_receipt()
    for _ in range(20_005):
        log.request(receipt)
    log.flush()
    assert len(capfdbinary.readouterr().err.splitlines()) == 20_000
