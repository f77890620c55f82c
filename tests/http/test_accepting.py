"""Accepting connections: the whole queue at once, and what happens when the system has no more to give."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from tests.http.serving import PATIENCE_S, App, Server, serving
from tests.support.processes import wait_until
from trustgate.http import accepting
from trustgate.http.accepting import MAX_PER_TURN, Acceptor


class _Made(asyncio.Protocol):
    """Counts connections, and the turns of the loop until all of them are there."""

    def __init__(self, all_made: asyncio.Event, wanted: int, made: list[asyncio.BaseTransport]) -> None:
        self._all_made = all_made
        self._wanted = wanted
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(transport)
        if len(self._made) == self._wanted:
            self._all_made.set()


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    yield clients
    for client in clients:
        client.close()


def test_the_whole_queue_is_accepted_within_a_few_turns_of_the_loop(clients: list[socket.socket]) -> None:
    async def run(listener: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        all_made, made, turns = asyncio.Event(), list[asyncio.BaseTransport](), 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not all_made.is_set():
                loop.call_soon(turn)

        acceptor = Acceptor(listener, lambda: _Made(all_made, len(clients), made))
        turn()
        async with asyncio.timeout(PATIENCE_S):
            await all_made.wait()
        acceptor.close()
        for transport in made:
            transport.close()
        return turns

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        clients += [socket.create_connection(listener.getsockname()) for _ in range(MAX_PER_TURN)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(run(listener)) < 20


class _Silent(socket.socket):
    """A listener of a system that has no length of the queue to report, or refuses to."""

    refuses = False

    def getsockopt(self, *_: Any) -> Any:
        if self.refuses:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return bytes(28)


class _Refusing(_Silent):
    refuses = True


@pytest.mark.parametrize("kind", [socket.socket, _Silent, _Refusing])
@pytest.mark.parametrize("is_late", [False, True])
def test_while_requests_wait_connections_do_but_for_no_longer_than_they_may(
    clients: list[socket.socket], monkeypatch: pytest.MonkeyPatch, is_late: bool, kind: type[socket.socket]
) -> None:
    monkeypatch.setattr(accepting, "MOST_LATE_S", -1.0 if is_late else 3600.0)
    asked = asyncio.Event()
    made = list[asyncio.BaseTransport]()
    are_waiting = True

    def waiting() -> int:
        """Each connection brings a request that waits."""
        asked.set()
        return accepting.MAX_WAITING - 3 + len(made) if are_waiting else 0

    async def run(listener: socket.socket) -> None:
        nonlocal are_waiting
        all_made = asyncio.Event()
        acceptor = Acceptor(listener, lambda: _Made(all_made, len(clients), made), waiting=waiting)
        try:
            async with asyncio.timeout(PATIENCE_S):
                if not is_late:
                    for _ in range(5):
                        asked.clear()
                        await asked.wait()
                        await asyncio.sleep(0)
                    assert len(made) == 3, "as many as may wait"
                    are_waiting = False
                await all_made.wait()
        finally:
            acceptor.close()
            for transport in made:
                transport.close()

    with kind(fileno=socket.create_server(("127.0.0.1", 0), backlog=1024).detach()) as listener:
        clients += [socket.create_connection(listener.getsockname()) for _ in range(40)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(listener))


def test_of_several_that_accept_on_one_socket_none_takes_all_that_come_at_once(clients: list[socket.socket]) -> None:
    async def run(listener: socket.socket) -> tuple[int, int]:
        all_made = asyncio.Event()
        first, second = list[asyncio.BaseTransport](), list[asyncio.BaseTransport]()

        class Counted(asyncio.Protocol):
            def __init__(self, made: list[asyncio.BaseTransport]) -> None:
                self._made = made

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self._made.append(transport)
                if len(first) + len(second) == len(clients):
                    all_made.set()

        with listener.dup() as other:
            acceptors = [
                Acceptor(each, lambda made=made: Counted(made), processes=2)  # type: ignore[misc]
                for each, made in ((listener, first), (other, second))
            ]
            async with asyncio.timeout(PATIENCE_S):
                await all_made.wait()
            for acceptor in acceptors:
                acceptor.close()
        for transport in (*first, *second):
            transport.close()
        return len(first), len(second)

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        clients += [socket.create_connection(listener.getsockname()) for _ in range(40)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            counts = runner.run(run(listener))
    assert sum(counts) == 40
    assert min(counts) >= 12, counts


class _Told(asyncio.Protocol):
    """Closes the acceptor as soon as it is connected, and knows what it was told."""

    def __init__(self, told: list[tuple[str, int]], close: list[Callable[[], None]], lost: asyncio.Event) -> None:
        self._told = told
        self._close = close
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._told.append(("made", id(self)))
        self._close[0]()

    def connection_lost(self, error: Exception | None) -> None:
        self._told.append(("lost", id(self)))
        self._lost.set()


def test_a_connection_that_is_broken_off_is_told_so(clients: list[socket.socket]) -> None:
    """Its request would be answered into a transport that is gone: an internal error for each at a stop."""

    async def run(listener: socket.socket) -> list[tuple[str, int]]:
        told, close, lost = list[tuple[str, int]](), list[Callable[[], None]](), asyncio.Event()
        acceptor = Acceptor(listener, lambda: _Told(told, close, lost))
        close.append(acceptor.close)
        async with asyncio.timeout(PATIENCE_S):
            await lost.wait()
        return told

    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients += [socket.create_connection(listener.getsockname()) for _ in range(4)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            told = runner.run(run(listener))
    made = {of for what, of in told if what == "made"}
    assert made and made <= {of for what, of in told if what == "lost"}


class _Poor(socket.socket):
    """A listener of a process that may open no more files, until it may."""

    failures = 3

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_without_files_accepts_again_when_it_has_some(
    clients: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    async def run(listener: socket.socket) -> None:
        all_made, made = asyncio.Event(), list[asyncio.BaseTransport]()
        acceptor = Acceptor(listener, lambda: _Made(all_made, 2, made))
        async with asyncio.timeout(PATIENCE_S):
            await all_made.wait()
        acceptor.close()
        for transport in made:
            transport.close()

    with _Poor() as listener, caplog.at_level(logging.WARNING):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        clients += [socket.create_connection(listener.getsockname()) for _ in range(2)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(listener))
    assert caplog.text.count("cannot accept connections: Too many open files") == 3, "told once for each wait"


def test_a_new_client_does_not_wait_for_all_that_are_busy(clients: list[socket.socket]) -> None:
    """While the loop is held up, 200 connections get a request ready and a client connects: it is not the last."""
    order: list[str] = []
    held, go_on = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append(scope["path"])
        if scope["path"] == "/block":
            held.set()
            go_on.wait(PATIENCE_S)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"."})

    def ask(client: socket.socket, path: str) -> None:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    with serving(app) as server:
        clients += [server.connect() for _ in range(200)]
        for client in clients:
            ask(client, "/warm")
            assert client.recv(1000)
        order.clear()
        with server.connect() as blocker:
            ask(blocker, "/block")
            assert held.wait(PATIENCE_S)
            for client in clients:
                ask(client, "/busy")
            clients.append(server.connect())
            ask(clients[-1], "/new")
            go_on.set()
            for client in clients:
                assert client.recv(1000)
    assert len(order) == 202
    assert order.index("/new") < 100


def is_refused(server: Server) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # in the queue, at the moment of the end
    return False


def test_a_listener_that_ends_refuses_at_once_while_requests_run_on() -> None:
    app = App()
    with serving(app, grace_s=PATIENCE_S) as server, server.connect() as connection:
        connection.sendall(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n")
        assert app.begun.wait(PATIENCE_S)
        server.stop()
        wait_until(lambda: is_refused(server), "the end of the listener")
        app.open()
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"\r\nconnection: close\r\n" in answer
