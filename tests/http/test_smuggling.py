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
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http.serving import App, LogRecords, Server, serving
from tests.http.test_parser import damaged
from tests.support.reached import reached, reaches

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


@reaches(0.95)
@settings(max_examples=300)
@given(data=damaged(), cut=st.integers(0, 300))
def test_no_damage_to_a_request_is_an_error_of_ours(server: tuple[App, Server], data: bytes, cut: int) -> None:
    """Whatever comes is answered in whole answers or not at all, and nothing is logged of it."""
    app, running = server
    app.open()
    errors = LogRecords()
    with errors, running.connect() as connection:
        try:
            connection.sendall(data[:cut])
            connection.sendall(data[cut:])
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it had hung up; its answer may be lost with it
        statuses, _ = read_answers(connection, "HEAD" if data.startswith(b"HEAD ") else "GET")
    reached()
    assert set(statuses) <= {200, 400, 431, 501, 505}
    assert statuses.count(200) >= len(statuses) - 1, "an error is the last that is said"
    assert not errors.records


def send_bytes(connection: socket.socket, data: bytes) -> None:
    """Each byte for itself, until the server wants no more of them."""
    for byte in data:
        try:
            connection.sendall(bytes((byte,)))
        except OSError:
            return


def read_answers(connection: socket.socket, method: str = "GET") -> tuple[list[int], list[dict[str, Any]]]:
    """The statuses of all answers until the connection ends, and the bodies of the errors among them.

    Args:
        method: of the first request; answers to HEAD have no body.
    """
    statuses: list[int] = []
    errors: list[dict[str, Any]] = []
    with connection.makefile("rb") as stream:
        while True:
            answer = _Answer(stream, method)
            method = "GET"
            try:
                answer.begin()
            except (http.client.BadStatusLine, ConnectionResetError):
                return statuses, errors
            body = answer.read()
            statuses.append(answer.status)
            if answer.status >= 400:
                assert answer.headers["connection"] == "close"
                assert answer.headers["content-type"] == "application/json"
                errors += [json.loads(body)] if body else []


class _Answer(http.client.HTTPResponse):
    """An answer read off a stream that others follow on."""

    def __init__(self, stream: BufferedReader, method: str) -> None:
        super().__init__(_Socket(stream), method=method)  # type: ignore[arg-type]

    def _close_conn(self) -> None:
        pass


class _Socket:
    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> BufferedReader:
        return self._stream
