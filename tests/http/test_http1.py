"""The quick way through HTTP/1.1: what it recognises, and that it serves as Hypercorn's protocols do."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from tests.gateway.conftest import SignUp, Tenant
from tests.gateway.test_path import only_receipt
from tests.http.test_listener import BODY, connect, read_all
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta

#: In /proc/net/tcp.
_TCP_ESTABLISHED = "01"


def request(tenant: Tenant, body: str = BODY, *fields: bytes, method: bytes = b"POST") -> bytes:
    head = [
        method + b" /v1/chat/completions HTTP/1.1",
        b"host: x",
        b"authorization: Bearer " + tenant.secret.encode(),
        b"content-length: %d" % len(body),
        *fields,
    ]
    return b"\r\n".join([*head, b"", body.encode()])


def read_answer(connection: socket.socket, left: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """The head and the body of an answer that tells its length, and what came behind it."""
    data = left
    while b"\r\n\r\n" not in data:
        data += receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    [length] = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < length:
        body += receive(connection)
    return head, body[:length], body[length:]


def receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the gateway hung up"
    return data


def test_requests_behind_one_another_are_answered_in_order(tenant: Tenant, scripted: Upstream) -> None:
    scripted.script(*[Reply.chat(f"answer {number}") for number in range(5)])
    with connect(tenant.gateway) as connection:
        connection.sendall(request(tenant) * 5)
        left = b""
        for number in range(5):
            head, body, left = read_answer(connection, left)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert json.loads(body)["choices"][0]["message"]["content"] == f"answer {number}"


@pytest.mark.parametrize("odd", [b"expect: 100-continue", b"te: trailers", b"connection: upgrade"])
def test_an_odd_request_after_ordinary_ones_is_served_by_the_other_way(
    tenant: Tenant, scripted: Upstream, odd: bytes
) -> None:
    with connect(tenant.gateway) as connection:
        left = b""
        for fields in ((), (), (odd,), ()):
            connection.sendall(request(tenant, BODY, *fields))
            while left.startswith(b"HTTP/1.1 100") or (odd.startswith(b"expect") and fields and not left):
                left = left.partition(b"\r\n\r\n")[2] if left else receive(connection)
            head, _, left = read_answer(connection, left)
            assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("cut", [1, 20, 60, 200, -1])
def test_a_request_in_two_pieces_is_one_request(tenant: Tenant, scripted: Upstream, cut: int) -> None:
    data = request(tenant)
    with connect(tenant.gateway) as connection:
        for piece in (data[:cut], data[cut:]):
            connection.sendall(piece)
            time.sleep(0.02)  # so that they are two pieces to the gateway as well; one is served all the same
        head, _, left = read_answer(connection)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert left == b""


def test_a_client_that_wants_the_connection_closed_is_told_so(tenant: Tenant, scripted: Upstream) -> None:
    with connect(tenant.gateway) as connection:
        connection.sendall(request(tenant, BODY, b"connection: close"))
        answer = read_all(connection)
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_client_that_closes_its_half_gets_its_answer_and_a_receipt_of_it(tenant: Tenant, scripted: Upstream) -> None:
    gate = Gate()
    scripted.script(Reply.chat("an answer").held(gate))
    with connect(tenant.gateway) as connection:
        connection.sendall(request(tenant))
        gate.wait_reached()
        connection.shutdown(socket.SHUT_WR)
        gate.open()
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"an answer" in answer
    assert only_receipt(tenant)["finish"] == "complete"


def test_a_refusal_is_seen_though_the_body_still_comes(shared_gateway: Gateway) -> None:
    body = b"x" * 3_000_000
    with connect(shared_gateway) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer tgk_nobody\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body)
        answer = read_all(connection)
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 413 "))


def test_a_client_that_hangs_up_in_a_stream_is_noticed(tenant: Tenant, scripted: Upstream) -> None:
    gate = Gate()
    scripted.script(Reply.sse([delta("a"), gate, DONE]))
    with connect(tenant.gateway) as connection:
        connection.sendall(request(tenant, json.dumps({**json.loads(BODY), "stream": True})))
        gate.wait_reached()
    wait_until(lambda: bool(tenant.receipts()), "the receipt of a request whose client has gone")
    gate.open()
    assert only_receipt(tenant)["finish"] == "client_gone"


def test_a_body_that_is_larger_than_its_length_is_another_request(tenant: Tenant, scripted: Upstream) -> None:
    with connect(tenant.gateway) as connection:
        connection.sendall(request(tenant) + b"GARBAGE\r\n\r\n")
        head, _, left = read_answer(connection)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (left + read_all(connection)).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_does_not_read_does_not_keep_its_connection(
    quick_gateway: Gateway, scripted: Upstream, sign_up: SignUp
) -> None:
    """Cut off in the middle of a stream, with bytes that it has not taken: they are not waited for."""
    tenant = sign_up(quick_gateway)
    gate = Gate()
    scripted.script(Reply.sse([*[delta("word " * 20_000)] * 300, gate]))
    with connect(quick_gateway) as connection:
        connection.sendall(request(tenant, json.dumps({**json.loads(BODY), "stream": True})))
        scripted.wait_for_requests(1).wait_aborted()
        assert only_receipt(tenant)["finish"] == "cut"
        wait_until(lambda: not _established(quick_gateway, connection), "the end of the connection")
    gate.open()


def _established(gateway: Gateway, connection: socket.socket) -> bool:
    """Whether the gateway still has the connection, as the kernel tells."""
    ports = f":{int(gateway.base_url.rpartition(':')[2]):04X}", f":{connection.getsockname()[1]:04X}"
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(
        local.endswith(ports[0]) and remote.endswith(ports[1]) and state == _TCP_ESTABLISHED
        for _, local, remote, state, *_ in lines
    )
