"""The ``Admin`` who passes commands on to a running server: over its Unix socket, or over HTTP(S) with the admin key.

Owns the client side of ``POST /admin/v1/execute`` and ``/admin/v1/feed``. Plain ``http.client``: it loads in a few
milliseconds, and a command is one request. A refusal comes back as the very exception the server raised.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import msgspec

from trustgate import errors
from trustgate.admin.commands import Command, Feed, Write
from trustgate.errors import AuthenticationFailed, OperatorError, SettingsError, TrustGateError

R = TypeVar("R")

_PATH = "/admin/v1/execute"
_FEED_PATH = "/admin/v1/feed"
_CONNECT_TIMEOUT_S = 5.0
#: Between two pieces of a feed. Before the first one of a backup the database is copied.
_FEED_TIMEOUT_S = 600.0
#: More than any outcome has.
_OUTCOME_BYTES = 1024 * 1024


class _Refusal(msgspec.Struct):
    """The OpenAI-shaped part of a refusal."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None


class _Answer(msgspec.Struct):
    """Either ``result`` or ``error``; ``kind`` names the error's class."""

    result: msgspec.Raw = msgspec.Raw()
    error: _Refusal | None = None
    kind: str | None = None
    hint: str | None = None


class RemoteAdmin:
    """Carries commands to a server. One connection a command, so it may be kept for as long as one likes."""

    def __init__(self, connection: _Maker, place: str, *, base_path: str = "", key: str | None = None) -> None:
        self._connect = connection
        self._place = place
        self._base_path = base_path
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"

    @classmethod
    def over_socket(cls, path: Path) -> RemoteAdmin:
        """To the server of this machine that listens on the Unix socket ``path``."""
        return cls(_SocketMaker(path), f"The server on {path}")

    @classmethod
    def over_network(cls, url: str, key: str) -> RemoteAdmin:
        """To the server at ``url``. Raises ``SettingsError`` rather than send the key in clear over a network."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme != "https" and not _is_loopback(host):
            raise SettingsError(
                f"The admin key must not travel to {host} over plain http, where it can be read on the way.",
                hint="Use an https:// address, or a tunnel: ssh -L 4010:127.0.0.1:4010 HOST, then "
                "TRUSTGATE_URL=http://127.0.0.1:4010",
            )
        maker = _NetworkMaker(host, parts.port, secure=parts.scheme == "https")
        return cls(maker, f"The server at {url}", base_path=parts.path.rstrip("/"), key=key)

    async def execute(self, command: Command[R]) -> R:
        """As ``ask``, for an ``Admin``. Blocks: it serves programs that have nothing else to do meanwhile."""
        return self.ask(command)

    def ask(self, command: Command[R]) -> R:
        """Have the server do it. Raises what the server raised, or ``OperatorError`` when it cannot be asked."""
        with contextlib.closing(self._connected(command.timeout_s)) as connection:
            with self._unless_it_breaks_off():
                response = self._post(connection, _PATH, msgspec.json.encode(command))
                body = response.read()
            return cast(R, self._result(body, response.status, command.result))

    async def feed(self, command: Feed[R], write: Write) -> R:
        """Have the server answer with its bytes; blocks and raises as ``execute``, and what ``write`` raises."""
        with contextlib.closing(self._connected(_FEED_TIMEOUT_S)) as connection:
            with self._unless_it_breaks_off():
                response = self._post(connection, _FEED_PATH, msgspec.json.encode(command))
            while response.status == http.HTTPStatus.OK:
                with self._unless_it_breaks_off():
                    data = _read_all(response, int.from_bytes(_read_all(response, 4)))
                if not data:
                    break
                await write(data)
            with self._unless_it_breaks_off():
                body = response.read(_OUTCOME_BYTES)
            return cast(R, self._result(body, response.status, command.result))

    def _result(self, body: bytes, status: int, kind: Any) -> Any:
        """Returns the result in an answer. Raises the refusal in it."""
        try:
            answer = msgspec.json.decode(body, type=_Answer)
            if answer.error is None and status == http.HTTPStatus.OK:
                return msgspec.json.decode(answer.result, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._misunderstood(status) from None
        raise self._refusal(answer, status)

    async def close(self) -> None:
        """Nothing to do: connections end with their command."""

    def _connected(self, timeout_s: float) -> http.client.HTTPConnection:
        connection = self._connect()
        try:
            connection.connect()
            assert connection.sock is not None
            connection.sock.settimeout(timeout_s)
        except OSError as error:
            connection.close()
            raise OperatorError(
                f"{self._place} cannot be reached: {_reason(error)}.",
                hint="Check that it runs, and that the address is right.",
                code="server_unreachable",
            ) from None
        return connection

    def _post(self, connection: http.client.HTTPConnection, path: str, body: bytes) -> http.client.HTTPResponse:
        connection.request("POST", self._base_path + path, body, self._headers)
        return connection.getresponse()

    @contextlib.contextmanager
    def _unless_it_breaks_off(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise OperatorError(
                f"{self._place} broke off before it answered: {_reason(error)}. The command may have been carried out.",
                hint="Check with list or show before you repeat it.",
                code="server_broke_off",
            ) from None

    def _refusal(self, answer: _Answer, status: int) -> TrustGateError:
        refusal = answer.error
        kind = _KINDS.get(answer.kind or "")
        if refusal is None:
            return self._misunderstood(status)
        if kind is None and status == http.HTTPStatus.UNAUTHORIZED:
            kind = AuthenticationFailed
        if kind is None:
            # An answer of the public side: the address is a TrustGate's, but its admin routes are shut.
            return OperatorError(
                f"{self._place} does not accept commands: {refusal.message}",
                hint="Remote management is off until its settings name a key: [admin] key_env in trustgate.toml.",
                code="remote_management_off",
            )
        return _rebuild(kind, refusal, answer.hint)

    def _misunderstood(self, status: int) -> OperatorError:
        return OperatorError(
            f"{self._place} sent an invalid response to the command (status {status}).",
            hint="Check that the address is a TrustGate server of this version: trustgate version",
            code="server_misunderstood",
        )


def _read_all(response: http.client.HTTPResponse, length: int) -> bytes:
    data = response.read(length)
    if len(data) < length:
        raise http.client.IncompleteRead(data, length - len(data))
    return data


# connections


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_CONNECT_TIMEOUT_S)
        self._socket_path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


class _SocketMaker:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)


class _NetworkMaker:
    def __init__(self, host: str, port: int | None, *, secure: bool) -> None:
        self._host = host
        self._port = port
        self._secure = secure

    def __call__(self) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=_CONNECT_TIMEOUT_S, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT_TIMEOUT_S)


_Maker = _SocketMaker | _NetworkMaker


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


# errors


def _classes(root: type[TrustGateError]) -> Iterator[type[TrustGateError]]:
    yield root
    for branch in root.__subclasses__():
        yield from _classes(branch)


#: The whole tree of trustgate.errors, by class name.
_KINDS: dict[str, type[TrustGateError]] = {
    kind.__name__: kind for kind in _classes(TrustGateError) if kind.__module__ == errors.__name__
}


def _rebuild(kind: type[TrustGateError], refusal: _Refusal, hint: str | None) -> TrustGateError:
    """Returns the exception as the server raised it. Bypasses ``__init__`` of subclasses, which may have other
    parameters.
    """
    error = kind.__new__(kind)
    details: dict[str, Any] = {"code": refusal.code, "param": refusal.param, "type": refusal.type}
    TrustGateError.__init__(error, refusal.message, hint=hint, **details)
    return error
