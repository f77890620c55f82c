"""The sockets that are listened on: the public one, bound by ourselves, and the admin socket beside the database.

Owns what goes wrong with them, in words.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from trustgate.errors import OperatorError

_BACKLOG = 1024


@contextlib.contextmanager
def listen_public(host: str, port: int) -> Iterator[socket.socket]:
    """Bind the public port ourselves: a port in use is then a sentence, and port 0 a number we can tell."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OperatorError(
            f"Cannot listen on {host!r}: {error.strerror}.",
            hint="Use --host 127.0.0.1 (this machine only) or --host 0.0.0.0 (every interface).",
        ) from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise OperatorError(
                f"Cannot listen on {host}:{port}: {error.strerror}.",
                hint=f"See what uses the port (ss -ltnp 'sport = :{port}'), or choose another: --port {port + 1}",
            ) from None
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def listen_admin(path: Path) -> Iterator[socket.socket]:
    """The admin socket, for its owner alone. Whoever gets here holds the store, so an older socket is stale."""
    path.unlink(missing_ok=True)
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
            path.unlink(missing_ok=True)


def address_of(host: str, listener: socket.socket, scheme: str) -> str:
    port = listener.getsockname()[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
