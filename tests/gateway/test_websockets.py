"""The Responses API over a WebSocket: each event a request of the path, and the ways in which a connection ends."""

from __future__ import annotations

import contextlib
import json
import resource
import socket as sockets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.gateway.conftest import SignUp, Tenant
from tests.support.answers import response, response_stream
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import Gate, Reply, Upstream

PATIENCE_S = 60.0


def open_socket(tenant: Tenant, path: str = "/v1/responses", **headers: str) -> ClientConnection:
    url = tenant.gateway.base_url.replace("http", "ws", 1) + path
    sent = {"authorization": f"Bearer {tenant.secret}", **headers}
    return connect(url, additional_headers=sent, proxy=None, open_timeout=PATIENCE_S)


@pytest.fixture
def socket(tenant: Tenant) -> Iterator[ClientConnection]:
    with open_socket(tenant) as socket:
        yield socket


def create(socket: ClientConnection, **members: Any) -> None:
    socket.send(json.dumps({"type": "response.create", "model": "gpt-4o", "input": "Hello", **members}))


def received(socket: ClientConnection) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(socket.recv(PATIENCE_S))
    return event


def until_end(socket: ClientConnection) -> list[dict[str, Any]]:
    """The events up to the last of a response, or an error."""
    events = [received(socket)]
    while events[-1]["type"] not in ("response.completed", "error"):
        events.append(received(socket))
    return events


def test_openais_client_has_a_conversation_over_one_connection(tenant: Tenant, scripted: Upstream) -> None:
    first, second = f"resp_ws1_{tenant.name}", f"resp_ws2_{tenant.name}"
    scripted.script(
        Reply.sse(response_stream(["Grüße ", "👋"], object_id=first)), Reply.sse(response_stream(object_id=second))
    )
    client = openai.OpenAI(base_url=tenant.gateway.api_url, api_key=tenant.secret, max_retries=0)
    texts = []
    # "legacy": it connects without a block, and websockets warns of that otherwise.
    options: Any = {"proxy": None, "legacy": True}
    with client, client.responses.connect(websocket_connection_options=options) as connection:
        for members in ({"input": "Hello"}, {"input": "More", "previous_response_id": first}):
            connection.response.create(model="gpt-4o", **members)  # type: ignore[arg-type]
            text = ""
            for event in connection:
                text += event.delta if event.type == "response.output_text.delta" else ""
                if event.type == "response.completed":
                    break
            texts.append(text)
    assert texts == ["Grüße 👋", "Hello!"]
    assert [request.method for request in scripted.requests] == ["POST", "POST"]
    assert scripted.requests[1].json() == {
        "model": "gpt-4o",
        "input": "More",
        "previous_response_id": first,
        "stream": True,
    }
    receipts = tenant.receipts()
    assert [(each["endpoint"], each["finish"], each["stream"]) for each in receipts] == [
        ("responses", "complete", True)
    ] * 2
    assert all((each["prompt_tokens"], each["completion_tokens"]) == (9, 6) for each in receipts)
    assert tenant.used()["day"]["requests"] == 2


def test_what_is_refused_is_an_event_and_the_connection_goes_on(
    tenant: Tenant, scripted: Upstream, sign_up: SignUp
) -> None:
    stranger = sign_up(tenant.gateway)
    theirs = f"resp_theirs_{stranger.name}"
    scripted.script(Reply.json(response(object_id=theirs)))
    assert stranger.http.post("/v1/responses", json={"model": "gpt-4o", "input": "x"}).status_code == 200
    with open_socket(tenant, "/openai/v1/responses") as socket:
        for event, status, code, param in (
            ("hello", 400, "invalid_json", None),
            ('{"type": "response.steer"}', 400, "unsupported_event", "type"),
            ('{"type": "response.create", "generate": false}', 400, "unsupported_parameter", "generate"),
            ('{"type": "response.create", "background": true}', 400, "unsupported_parameter", "background"),
            ('{"type": "response.create", "input": "x"}', 400, "missing_required_parameter", "model"),
            ('{"type": "response.create", "model": "gpt-4o", "route": "x"}', 400, "unsupported_parameter", "route"),
        ):
            socket.send(event)
            told = received(socket)
            assert (told["type"], told["status"]) == ("error", status), told
            assert (told["error"]["code"], told["error"]["param"]) == (code, param)
        create(socket, previous_response_id=theirs)
        refused = received(socket)
        assert (refused["status"], refused["error"]["code"]) == (404, "response_not_found")
        assert len(scripted.requests) == 1
        scripted.script(Reply.error(429, headers={"retry-after": "7"}), Reply.sse(response_stream(object_id="resp_w")))
        create(socket)
        assert received(socket)["status"] == 429
        create(socket, stream_id="lane-1")
        events = until_end(socket)
        assert events[-1]["type"] == "response.completed"
        assert {event["stream_id"] for event in events} == {"lane-1"}
        assert "stream_id" not in scripted.requests[-1].json()


def test_an_event_of_a_hundred_thousand_members_is_read_once(
    tenant: Tenant, socket: ClientConnection, scripted: Upstream
) -> None:
    """It is refused before a request is made of it: that would read all of them again."""
    create(socket, **{f"member_{number}": 0 for number in range(100_000)})
    error = received(socket)["error"]
    assert error["message"] == "The body has more than 256 parameters."
    assert "headers" not in error, "no request was made of it"
    scripted.script(Reply.sse(response_stream()))
    create(socket, **{f"member_{number}": 0 for number in range(200)})
    assert until_end(socket)[-1]["type"] == "response.completed"


def test_limits_hold_for_each_event(shared_gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> None:
    shared_gateway.cli("plan", "add", "two-a-day", "--requests-per-day", "2")
    tenant = sign_up(shared_gateway, "--plan", "two-a-day")
    scripted.script(*(Reply.sse(response_stream(object_id=f"resp_l{number}")) for number in range(2)))
    with open_socket(tenant) as socket:
        for _ in range(2):
            create(socket)
            assert until_end(socket)[-1]["type"] == "response.completed"
        create(socket)
        refused = received(socket)
    assert (refused["status"], refused["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused["error"]["headers"]["retry-after"]) > 0
    assert scripted.unused == 0


def test_who_hangs_up_is_accounted_for_and_the_upstream_aborted(
    tenant: Tenant, scripted: Upstream, socket: ClientConnection
) -> None:
    gate = Gate()
    frames = response_stream(["one ", "two "], object_id="resp_gone")
    scripted.script(Reply.sse([*frames[:-1], gate, frames[-1]]))
    create(socket)
    while received(socket)["type"] != "response.output_text.delta":
        pass
    socket.close()
    scripted.requests[0].wait_aborted()
    wait_until(lambda: len(tenant.receipts()) == 1, "the receipt is written")
    [receipt] = tenant.receipts()
    assert (receipt["finish"], receipt["status"]) == ("client_gone", 499)
    assert receipt["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("is_busy", "code"),
    [(False, "api_key_revoked"), (True, "api_key_revoked"), (False, "account_inactive"), (True, "account_inactive")],
)
def test_a_dead_key_cuts_it_and_is_told_why(
    tenant: Tenant, scripted: Upstream, socket: ClientConnection, is_busy: bool, code: str
) -> None:
    if is_busy:
        frames = response_stream(object_id="resp_cut")
        scripted.script(Reply.sse([*frames[:-1], Gate(), frames[-1]]))
        create(socket)
        while received(socket)["type"] != "response.output_text.delta":
            pass
    if code == "api_key_revoked":
        tenant.gateway.cli("key", "revoke", tenant.key_id)
    else:
        tenant.gateway.cli("tenant", "suspend", tenant.name)
    event = received(socket)
    while event["type"] != "error":
        event = received(socket)
    assert event["error"]["code"] == code
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    if is_busy:
        scripted.requests[0].wait_aborted()


@pytest.mark.parametrize(("path", "status"), [("/v1/responses", 401), ("/v1/embeddings", 426)])
def test_a_handshake_that_is_refused_is_told_why(tenant: Tenant, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(tenant, path, authorization="Bearer tgk_unknown")
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["error"]["code"] in ("invalid_api_key", "upgrade_required")


def test_a_client_may_not_have_many_events_wait(tenant: Tenant, scripted: Upstream, socket: ClientConnection) -> None:
    gate = Gate()
    scripted.script(Reply.sse(response_stream(object_id="resp_many")).held(gate))
    create(socket)
    gate.wait_reached()
    for _ in range(10):
        create(socket)
    assert socket.ping().wait(PATIENCE_S), "what was sent before it has been read"
    gate.open()
    assert until_end(socket)[-1]["type"] == "response.completed"
    assert received(socket)["error"]["message"].startswith("Too many events wait")
    with pytest.raises(ConnectionClosed):
        socket.recv(PATIENCE_S)
    assert len(scripted.requests) == 1


def test_the_end_of_the_gateway_does_not_wait_for_it(tenant: Tenant, socket: ClientConnection) -> None:
    gateway = tenant.gateway
    gateway.stop()
    try:
        assert received(socket)["error"]["code"] == "shutting_down"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    finally:
        gateway.start()
    assert httpx.get(f"{gateway.base_url}/health", trust_env=False).status_code == 200


@contextlib.contextmanager
def raw_socket(tenant: Tenant, fields: bytes = b"", behind: bytes = b"") -> Iterator[sockets.socket]:
    """A connection on which a handshake was sent, with these further fields and bytes."""
    url = httpx.URL(tenant.gateway.base_url)
    with sockets.create_connection((url.host, url.port or 80), PATIENCE_S) as raw:
        raw.sendall(
            b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Authorization: Bearer %b\r\n%b\r\n%b" % (tenant.secret.encode(), fields, behind)
        )
        yield raw


def head_of(raw: sockets.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += raw.recv(1)
    return head


def rest_of(raw: sockets.socket) -> bytes:
    rest = b""
    while more := raw.recv(65536):
        rest += more
    return rest


def frame(first: int, payload: bytes = b"") -> bytes:
    """A frame of a client. ``first``: its first byte: 0x80 for the last of a message, and its kind."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + size.to_bytes(8)
    return bytes([first]) + length + bytes(4) + payload


_CLOSE = 0x88


@pytest.mark.parametrize(
    "fields",
    [
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=x\r\n",
        b"Sec-WebSocket-Extensions: \xff\r\nSec-WebSocket-Protocol: \xff\r\nConnection: \xff\r\n",
    ],
    ids=range(3),
)
def test_no_extension_is_agreed_to_and_no_handshake_fails(tenant: Tenant, fields: bytes) -> None:
    with raw_socket(tenant, fields) as raw:
        head = head_of(raw)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"deflate" not in head
        raw.sendall(frame(0x89, b"x") + frame(_CLOSE, b"\x03\xe8"))
        told = rest_of(raw)
        assert told.endswith(b"\x8a\x01x\x88\x02\x03\xe8"), "a pong, and the end"


@pytest.mark.parametrize(
    ("frames", "code"), [(frame(0x81, b"\xff"), 1007), (frame(0xC1, b"x"), 1002)], ids=["no UTF-8", "compressed"]
)
def test_what_is_no_websocket_is_told_so(tenant: Tenant, frames: bytes, code: int) -> None:
    with raw_socket(tenant) as raw:
        head_of(raw)
        raw.sendall(frames)
        assert rest_of(raw).endswith(b"\x88\x02" + code.to_bytes(2))


def test_a_message_without_an_end_is_not_kept(tenant: Tenant) -> None:
    megabyte = b"x" * 1024 * 1024
    before = memory_of(tenant.gateway)
    with raw_socket(tenant) as raw:
        head_of(raw)
        raw.sendall(frame(0x01, megabyte))
        for _ in range(40):
            raw.sendall(frame(0x00, megabyte))
        raw.sendall(frame(_CLOSE, b"\x03\xf1"))
        assert rest_of(raw).endswith(b"\x88\x02\x03\xf1")
    assert memory_of(tenant.gateway) - before < 30 * 1024 * 1024


def test_frames_before_the_handshakes_answer_end_the_connection(tenant: Tenant) -> None:
    with raw_socket(tenant, behind=frame(0x81, b"{}")) as raw:
        assert rest_of(raw).startswith(b"HTTP/1.1 400 ")


def memory_of(gateway: Gateway) -> int:
    """What its process has in memory, bytes."""
    return int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
