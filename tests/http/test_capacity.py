"""As many connections as may be open: idle ones end for new ones, and none with a request does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.http.serving import PATIENCE_S, App, Server, serving
from tests.http.test_http2 import Client
from tests.http.test_listener import make_certificate
from trustgate.http import capacity, listener
from trustgate.http.capacity import Capacity, Idle, most_connections

_MOST = 32
_ASKED = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def server(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(listener, "most_connections", lambda: _MOST)
    with serving(app) as running:
        yield running
        app.open()


@pytest.fixture
def clients() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def is_answered(client: socket.socket, path: bytes = b"/a") -> bool:
    try:
        client.sendall(_ASKED % path)
        return client.recv(65536).startswith(b"HTTP/1.1 200 ")
    except ConnectionError:
        return False


def has_ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_those_that_are_idle_for_longest_end_for_new_ones(server: Server, clients: contextlib.ExitStack) -> None:
    silent = [clients.enter_context(server.connect()) for _ in range(_MOST)]
    for _ in range(3 * _MOST):
        assert is_answered(clients.enter_context(server.connect()))
    assert all(has_ended(client) for client in silent)


def test_one_that_has_had_a_request_is_kept_for_longer_than_those_that_have_not(
    server: Server, clients: contextlib.ExitStack
) -> None:
    used = clients.enter_context(server.connect())
    assert is_answered(used)
    for _ in range(3 * _MOST):
        clients.enter_context(server.connect())
    assert is_answered(clients.enter_context(server.connect()))
    assert is_answered(used)


def test_one_with_a_request_is_not_ended_for_another(server: Server, clients: contextlib.ExitStack, app: App) -> None:
    held = clients.enter_context(server.connect())
    held.sendall(_ASKED % b"/hold")
    assert app.begun.wait(PATIENCE_S)
    half = clients.enter_context(server.connect())
    assert is_answered(half)
    half.sendall(b"GET /half HTTP/1.1\r\n")
    for _ in range(3 * _MOST):
        assert is_answered(clients.enter_context(server.connect()))
    app.open()
    assert held.recv(65536).startswith(b"HTTP/1.1 200 ")
    half.sendall(b"host: x\r\n\r\n")
    assert half.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_connections_of_http2_give_way_too_with_a_goaway_frame(
    server: Server, clients: contextlib.ExitStack, app: App
) -> None:
    held = Client(server)
    stream = held.request("/hold")
    assert app.begun.wait(PATIENCE_S)
    idle = []
    for _ in range(_MOST):
        client = Client(server)
        client.read_until_ended(client.request("/a"))
        idle.append(client)
    for _ in range(2 * _MOST):
        assert is_answered(clients.enter_context(server.connect()))
    for client in idle:
        while client.read():
            pass
        assert client.goaway == 0
        client.socket.close()
    app.open()
    held.read_until_ended(stream)
    held.socket.close()


def test_handshakes_that_do_not_go_on_give_way_first(
    app: App, clients: contextlib.ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "most_connections", lambda: _MOST)
    certificate, key = make_certificate(tmp_path, "first")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with serving(app, tls=tls) as server:

        def connect() -> ssl.SSLSocket:
            return clients.enter_context(trusting.wrap_socket(server.connect(), server_hostname=server.address[0]))

        used = connect()
        assert is_answered(used)
        silent = [clients.enter_context(server.connect()) for _ in range(3 * _MOST)]
        assert is_answered(connect())
        assert is_answered(used)
        assert all(has_ended(client) for client in silent[:_MOST])
        clients.close()  # else the server's end waits for theirs


def test_where_all_have_requests_a_new_one_waits(
    server: Server, clients: contextlib.ExitStack, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        held = []
        for _ in range(_MOST):
            held.append(clients.enter_context(server.connect()))
            held[-1].sendall(_ASKED % b"/wait-stream")
            assert held[-1].recv(65536)
        new = clients.enter_context(server.connect())
        new.sendall(_ASKED % b"/a")
        held[0].close()  # before or after it was looked at: then it has a place
        assert new.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert all("as many connections as may be open are in use" in text for text in caplog.messages)


def test_half_of_few_files_and_all_but_a_reserve_of_many_are_for_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in ((300, 150), (1_024, 512), (65_536, 65_536 - 2_048), (resource.RLIM_INFINITY, capacity._MOST)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert most_connections() == most


async def test_of_many_idle_ones_a_part_ends_in_a_turn_for_as_many_new_ones() -> None:
    ended: list[int] = []

    def end(number: int) -> bool:
        ended.append(number)
        return number != 50  # it has got a request

    places = Capacity(
        100, lambda: 100, lambda: [Idle(each < 50, float(each % 50), partial(end, each)) for each in range(100)]
    )
    assert [places.has_place() for _ in range(8)] == [True] * 6 + [False] * 2
    assert ended == [50, 51, 52, 53, 54, 55, 56], "those that never had a request"
    assert places.is_clearing
    await asyncio.sleep(0)
    assert places.has_place()
    assert len(ended) == 14
