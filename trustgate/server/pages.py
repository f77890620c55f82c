"""The pages for people besides ``/``, and the files they need: where they are, and that nothing of them is loaded
before a page is requested; of the console, before a link to it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from trustgate.admin.consoling import ConsoleLink
from trustgate.errors import Conflict
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.net.addresses import is_loopback
from trustgate.settings import Settings

if TYPE_CHECKING:
    from trustgate.access.directory import Directory
    from trustgate.admin.commands import Admin
    from trustgate.console.app import Console
    from trustgate.gateway.views.wallet_node import SolanaNode
    from trustgate.observe.metrics import Metric
    from trustgate.types import Receipt

_ANY_ADDRESS = frozenset({"0.0.0.0", "::", "[::]"})


class Lazy:
    """An ASGI application that is made when it is first asked for."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._made: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._made is None:
            self._made = self._make()
        await self._made(scope, receive, send)


def account_routes(
    shown: Callable[[], bool], directory: Directory, node_of: Callable[[str], Awaitable[SolanaNode]]
) -> list[BaseRoute]:
    """Returns where the tenants' page is.

    Args:
        shown: Whether the settings want it now.
        directory: Who offers what.
        node_of: Returns the node of a Solana network, which payments from the page need.
    """

    def make_node() -> ASGIApp:
        from trustgate.gateway.views.wallet_node import WalletNode

        return WalletNode(directory, node_of)

    def make() -> ASGIApp:
        from trustgate.gateway.views.account_page import AccountPage

        return AccountPage()

    page = _Switched(Lazy(make), shown)
    return [
        *(Route(path, page, methods=["GET"]) for path in ("/account", "/account/verify.js")),
        Route("/account/node/{network}", _Switched(Lazy(make_node), shown), methods=["POST"]),
    ]


class _Switched:
    """An ASGI application that is there while the settings want it."""

    def __init__(self, served: ASGIApp, shown: Callable[[], bool]) -> None:
        self._served = served
        self._shown = shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._shown():
            raise HTTPException(404)
        await self._served(scope, receive, send)


def asset_routes() -> list[BaseRoute]:
    """Returns where the static files of the pages are."""

    def make() -> ASGIApp:
        from trustgate.web.assets import Assets

        return Assets()

    return [Route("/assets/{name:path}", Lazy(make), methods=["GET"])]


class ServedConsole:
    """The console on the public port: not there until ``trustgate console`` asks for a link.

    Implements ``admin.context.ConsoleDoor``.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        address: str,
        *,
        admin: Callable[[], Admin],
        recent: Callable[[], Sequence[Receipt]],
        stopping: Callable[[], bool],
        metrics: Callable[[], Sequence[Metric]],
    ) -> None:
        """
        Args:
            settings: as they hold now.
            address: where the server listens, with its scheme.
            admin: carries out the commands.
            recent: the last receipts, the newest at the end.
            stopping: whether the server stops.
            metrics: this process's, and other workers'.
        """
        self._settings = settings
        self._address = address
        self._admin = admin
        self._recent = recent
        self._stopping = stopping
        self._metrics = metrics
        self._folder = settings().console_folder
        self._console: Console | None = None

    def routes(self) -> list[BaseRoute]:
        methods = ["GET", "POST"]
        return [Route("/console", self, methods=methods), Route("/console/{page:path}", self, methods=methods)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._console is None:
            if not self._folder.is_dir():
                raise HTTPException(404)
            # Another worker may have given the link.
            self._console = self._make()
        await self._console(scope, receive, send)

    def open(self) -> ConsoleLink:
        """See ``ConsoleDoor``."""
        base = console_url(self._settings(), self._address)
        from trustgate.console.sessions import CODE_S, Sessions

        code = Sessions(self._folder).issue()
        expires_us = now_us() + int(CODE_S * MICROSECONDS_PER_SECOND)
        return ConsoleLink(url=f"{base}/console/open?code={code}", expires_us=expires_us)

    def end_all(self) -> int:
        """See ``ConsoleDoor``."""
        if not self._folder.is_dir():
            return 0
        from trustgate.console.sessions import Sessions

        return Sessions(self._folder).end_all()

    def _make(self) -> Console:
        from trustgate.console.app import Console
        from trustgate.console.sessions import Sessions
        from trustgate.console.works import Works

        return Console(
            self._admin(),
            Sessions(self._folder),
            Works(self._folder),
            self._settings,
            recent=self._recent,
            stopping=self._stopping,
            metrics=self._metrics,
        )


def forget_console(settings: Settings) -> None:
    """Remove the console's files of an earlier server: its sessions ended with it."""
    shutil.rmtree(settings.console_folder, ignore_errors=True)


def console_url(settings: Settings, address: str) -> str:
    """Returns the base URL at which a browser reaches the console.

    Args:
        settings: ``serve.console`` and what it depends on.
        address: where the server listens, with its scheme.

    Raises:
        Conflict: there is no such address.
    """
    mode = settings.serve.console
    if mode == "off":
        raise Conflict(
            "The console is switched off.",
            hint='Set console = "loopback" under [serve] in trustgate.toml, then run trustgate reload.',
        )
    public = (settings.payment.public_url or "").rstrip("/")
    if mode == "network" and public.startswith("https://"):
        return public
    parts = urlsplit(address)
    host = parts.hostname or ""
    if host in _ANY_ADDRESS:
        host = "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    elif not is_loopback(host):
        if mode == "network" and parts.scheme == "https":
            return address.rstrip("/")
        raise Conflict(
            f"The gateway listens on {host} alone, where the console is not served: serve.console is {mode}"
            + ("." if mode == "loopback" else ", and TLS is off."),
            hint="Listen on 127.0.0.1 or 0.0.0.0, or serve TLS (serve.tls_certificate, serve.tls_key) and set "
            'console = "network".',
        )
    elif ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}:{parts.port}"
