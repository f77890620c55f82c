"""Addresses to listen on: how they may be written, and what is said about those that cannot be had."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from trustgate.errors import OperatorError
from trustgate.http.sockets import address_of, listen_public, why_not_free


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "[::1]"), ("[::1]", "[::1]")],
)
def test_an_address_is_listened_on_however_it_is_written(host: str, shown: str) -> None:
    with listen_public(host, 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(host, listener, "http") == f"http://{shown}:{port}"
        socket.create_connection((shown.strip("[]"), port), timeout=5).close()


def fault(host: str, port: int) -> tuple[str, str]:
    with pytest.raises(OperatorError) as failed, listen_public(host, port):
        pass
    return failed.value.message, failed.value.hint or ""


def test_a_port_in_use_is_told_with_the_way_to_see_by_whom() -> None:
    with listen_public("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        message, hint = fault("127.0.0.1", port)
    assert message == f"Cannot listen on 127.0.0.1:{port}: Address already in use."
    assert f"sport = :{port}" in hint


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_whether_a_port_is_free_is_told_however_its_host_is_written(host: str) -> None:
    with listen_public(host, 0) as listener:
        port = listener.getsockname()[1]
        assert why_not_free(host, port) == "Address already in use"
    assert why_not_free(host, port) is None
    assert why_not_free("a..b", port) is not None


def test_an_address_of_another_machine_is_told() -> None:
    message, hint = fault("192.0.2.1", 8080)  # TEST-NET-1 (RFC 5737)
    assert message == "Cannot listen on 192.0.2.1:8080: Cannot assign requested address."
    assert "does not have that address" in hint
    assert fault("[2001:db8::1]", 8080)[0].startswith("Cannot listen on [2001:db8::1]:8080: ")


def test_a_port_that_needs_rights_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket, __: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    message, hint = fault("127.0.0.1", 80)
    assert message == "Cannot listen on 127.0.0.1:80: Permission denied."
    assert "CAP_NET_BIND_SERVICE" in hint
    assert "--port 8080" in hint


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "a\0b"])
def test_what_is_no_address_is_told(host: str) -> None:
    message, hint = fault(host, 8080)
    assert message.startswith("Cannot listen on ")
    assert "--host 127.0.0.1" in hint
