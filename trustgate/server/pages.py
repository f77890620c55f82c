"""The pages for people besides ``/``, and the files they need: where they are, and that nothing of them is loaded
before a page is asked for."""

from __future__ import annotations

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Lazy:
    """An ASGI application that is made when it is first asked for."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._made: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._made is None:
            self._made = self._make()
        await self._made(scope, receive, send)


def account_routes(shown: Callable[[], bool]) -> list[BaseRoute]:
    """Returns where the tenants' page is. ``shown``: whether the settings want it now."""

    def make() -> ASGIApp:
        from trustgate.gateway.views.account_page import AccountPage

        return AccountPage()

    page = Lazy(make)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if not shown():
            raise HTTPException(404)
        await page(scope, receive, send)

    return [Route(path, Served(serve), methods=["GET"]) for path in ("/account", "/account/verify.js")]


class Served:
    """An ASGI application of a function: routes take a plain function for one of requests."""

    def __init__(self, serve: ASGIApp) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope, receive, send)


def asset_routes() -> list[BaseRoute]:
    """Returns where the static files of the pages are."""

    def make() -> ASGIApp:
        from trustgate.web.assets import Assets

        return Assets()

    return [Route("/assets/{name:path}", Lazy(make), methods=["GET"])]
