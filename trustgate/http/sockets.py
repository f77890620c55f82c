"""The sockets that are listened on: the public one, bound by ourselves, and the admin socket beside the database.

Owns what goes wrong with them, in words.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trustgate.errors import OperatorError

_BACKLOG = 1024
_LAST_PORT = 65_535
_USUAL_HOSTS = "--host 127.0.0.1 (this machine only) or --host 0.0.0.0 (every interface)"


@contextlib.contextmanager
def listen_public(host: str, port: int) -> Iterator[socket.socket]:
    """Bind the public port. Port 0 is any that is free.

    Args:
        host: a name or an address; one of IPv6 with or without brackets.

    Raises:
        OperatorError: it cannot be listened on; with the reason and a way out.
    """
    host = _without_brackets(host)
    try:
        listener, address = _socket_for(host, port)
    except (OSError, ValueError) as error:
        raise OperatorError(
            f"Cannot listen on {host!r}: {getattr(error, 'strerror', None) or error}.",
            hint=f"Use {_USUAL_HOSTS}.",
        ) from None
    with listener:
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise OperatorError(
                f"Cannot listen on {_with_port(host, port)}: {error.strerror}.", hint=_way_out(error, port)
            ) from None
        listener.setblocking(False)
        yield listener


def why_not_free(host: str, port: int) -> str | None:
    """Returns why the public port cannot be bound, for people; None where it is free."""
    try:
        probe, address = _socket_for(_without_brackets(host), port)
        with probe:
            probe.bind(address)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _socket_for(host: str, port: int) -> tuple[socket.socket, Any]:
    """Returns a socket to be bound, and its address. Raises ``OSError``; ``ValueError`` for what cannot be a name."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made, address


def _way_out(error: OSError, port: int) -> str:
    """Returns what to do about an address that cannot be bound."""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return (
                "Ports below 1024 are for root: choose another, such as --port 8080, or give the service the "
                "capability CAP_NET_BIND_SERVICE."
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"This machine does not have that address (ip address lists them): use {_USUAL_HOSTS}."
        case _:
            other = port + 1 if port < _LAST_PORT else port - 1
            return f"See what uses the port (ss -ltnp 'sport = :{port}'), or choose another: --port {other}"


@contextlib.contextmanager
def listen_admin(path: Path) -> Iterator[socket.socket]:
    """The admin socket, for its owner alone. The caller holds the store, so an older socket is stale."""
    path.unlink(missing_ok=True)
    binder = os.getpid()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        umask = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            raise OperatorError(f"Cannot make the admin socket {path}: {error.strerror}.") from None
        finally:
            os.umask(umask)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            # A worker that inherited it ends: it is the others' still.
            if os.getpid() == binder:
                path.unlink(missing_ok=True)


def address_of(host: str, listener: socket.socket, scheme: str) -> str:
    """Returns the URL under which clients reach a listener that was bound to ``host``."""
    return f"{scheme}://{_with_port(_without_brackets(host), listener.getsockname()[1])}"


def _without_brackets(host: str) -> str:
    """Returns ``::1`` for ``[::1]``, as URLs write it."""
    return host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
