"""Requests on which two readers could disagree: each is either read in the one way that RFC 9112 allows, or refused.

smuggling.json holds them, with what is expected: the statuses of the answers, the requests that the application sees
(path and body), and whether the connection ends. Bytes are written as the characters of Latin-1.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest

from tests.http.serving import App, Server, serving

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("smuggling.json").read_text())
#: Where the connection is to go on, this shows that it does, from where it should.
_LAST = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[App, Server]]:
    app = App()
    with serving(app) as running:
        yield app, running


def test_the_names_are_unique() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) > 100


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_a_request_is_read_in_one_way_or_refused(server: tuple[App, Server], case: dict[str, Any], pieces: str) -> None:
    app, running = server
    app.seen.clear()
    data = case["data"].encode("latin-1")
    if not case["closes"]:
        data += _LAST.encode()
    with running.connect() as connection:
        if pieces == "whole":
            connection.sendall(data)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            send_bytes(connection, data)
        statuses, errors = read_answers(connection)
    asked = [[seen.path, seen.body.decode("latin-1")] for seen in app.seen if seen.is_whole]
    assert statuses == case["answers"] + ([] if case["closes"] else [200])
    assert asked == case["requests"] + ([] if case["closes"] else [["/last", ""]])
    assert all(error["error"]["message"] for error in errors)


def send_bytes(connection: socket.socket, data: bytes) -> None:
    """Each byte for itself, until the server wants no more of them."""
    for byte in data:
        try:
            connection.sendall(bytes((byte,)))
        except OSError:
            return


def read_answers(connection: socket.socket) -> tuple[list[int], list[dict[str, Any]]]:
    """The statuses of all answers until the connection ends, and the bodies of the errors among them."""
    statuses: list[int] = []
    errors: list[dict[str, Any]] = []
    with connection.makefile("rb") as stream:
        while True:
            answer = _Answer(stream)
            try:
                answer.begin()
            except (http.client.BadStatusLine, ConnectionResetError):
                return statuses, errors
            body = answer.read()
            statuses.append(answer.status)
            if answer.status >= 400:
                assert answer.headers["connection"] == "close"
                assert answer.headers["content-type"] == "application/json"
                errors.append(json.loads(body))


class _Answer(http.client.HTTPResponse):
    """An answer read off a stream that others follow on."""

    def __init__(self, stream: BufferedReader) -> None:
        super().__init__(_Socket(stream))  # type: ignore[arg-type]
        self._stream = stream

    def _close_conn(self) -> None:
        pass


class _Socket:
    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> BufferedReader:
        return self._stream
