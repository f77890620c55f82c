"""The listener of a local chain: JSON-RPC over HTTP POST, as a node has it.

Owns the HTTP side: what is no POST of JSON, bodies that are too large, and the headers that let a page in a browser
ask.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from trustgate.errors import OperatorError
from trustgate.localnet.chain import LocalChain
from trustgate.localnet.rpc import answer

MAX_BODY_BYTES = 1024 * 1024

_BACKLOG = 128
#: How long a stop waits for answers that are under way, seconds.
_GRACE_S = 1.0
_ANY_ORIGIN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET, OPTIONS",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "86400",
}


@asynccontextmanager
async def listening(chain: LocalChain, host: str, port: int) -> AsyncIterator[str]:
    """Answer for the chain, within the block, at the URL that this gives. Raises OperatorError if it cannot listen."""
    listener = _bind(host, port)
    try:
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", _handler(chain))
        runner = web.AppRunner(
            application,
            access_log=None,
            # What is no HTTP gets its 400; a traceback for each would not help. Internal errors are reported by rpc.
            logger=logging.Logger("silent", logging.CRITICAL + 1),  # noqa: LOG001 - a private one
            auto_decompress=False,
            handle_signals=False,
            shutdown_timeout=_GRACE_S,
        )
        await runner.setup()
        try:
            await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            yield _url(host, listener)
        finally:
            await runner.cleanup()
    finally:
        listener.close()


def _handler(chain: LocalChain) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=_ANY_ORIGIN)
        if request.method == "GET" and request.path == "/health":
            return web.Response(text="ok", headers=_ANY_ORIGIN)
        if request.method != "POST":
            return _refused(405, "Used HTTP Method is not allowed. POST or OPTIONS is required\n")
        if request.content_type != "application/json":
            return _refused(415, "Supplied content type is not allowed. Content-Type: application/json is required\n")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _refused(413, f"The request is larger than {MAX_BODY_BYTES} bytes\n")
        except (web.RequestPayloadError, ConnectionError):
            return _refused(400, "The request broke off\n")
        answered = await answer(chain, body)
        return web.Response(body=answered, content_type="application/json", headers=_ANY_ORIGIN)

    return handle


def _refused(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers=_ANY_ORIGIN)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise OperatorError(
            f"Cannot listen on {host!r}: {getattr(error, 'strerror', None) or error}.",
            hint="Use --host 127.0.0.1 (this machine only) or --host 0.0.0.0 (every interface).",
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OperatorError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            hint=f"See what uses the port (ss -ltnp 'sport = :{port}'), or choose another: --port {port + 1}",
        ) from None
    listener.setblocking(False)
    return listener


def _url(host: str, listener: socket.socket) -> str:
    """Returns where to ask from this machine."""
    port = listener.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
