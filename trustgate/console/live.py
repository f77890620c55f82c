"""Numbers and requests as they come: a stream of server-sent events (WHATWG HTML, section 9.2).

Nothing is measured for it on the path of a request: it reads the receipts that the counters keep for ``trustgate top``,
once a second, and only while a page is open. All pages that are open share one look.

Where several processes serve, the numbers are those of the process that serves the stream, and the requests are read
from the database: those of all processes, as soon as their receipts have their places.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from starlette.types import Receive, Send

from trustgate.admin.commands import Admin, Look
from trustgate.admin.log_commands import ReceiptList
from trustgate.console.sessions import ConsoleSession, Sessions
from trustgate.console.view import tenant_names
from trustgate.errors import Unavailable
from trustgate.formats.written import instant, number, rate, usd
from trustgate.settings import Settings
from trustgate.types import Receipt

_EVERY_S: Final = 1.0
#: Requests that a page is sent at a time, and pages that are open at the same time.
_REQUESTS_MOST: Final = 100
_STREAMS_MOST: Final = 16

_encode = msgspec.json.Encoder().encode


class Live:
    def __init__(
        self,
        admin: Admin,
        sessions: Sessions,
        settings: Callable[[], Settings],
        recent: Callable[[], Sequence[Receipt]],
        stopping: Callable[[], bool],
    ) -> None:
        self._admin = admin
        self._sessions = sessions
        self._settings = settings
        self._recent = recent
        self._stopping = stopping
        self._streams = 0
        self._names: dict[str, str] = {}
        self._looked_s = float("-inf")
        self._numbers: dict[str, str] = {}
        self._latest: Sequence[Receipt] = ()

    @property
    def is_full(self) -> bool:
        """Whether as many pages are open as may be."""
        return self._streams >= _STREAMS_MOST

    async def stream(self, session: ConsoleSession, receive: Receive, send: Send) -> None:
        """Send events until the page is closed, the session is over or the server stops."""
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            (b"x-content-type-options", b"nosniff"),
        ]
        gone = asyncio.ensure_future(_gone(receive))
        # Before anything is waited for, so that no more are let in meanwhile.
        self._streams += 1
        last = ""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not gone.done() and not self._stopping() and self._sessions.is_alive(session):
                await self._look()
                receipts = _after(self._latest, last)
                last = receipts[-1].id if receipts else last
                data = {"numbers": self._numbers, "requests": await self._shown(receipts)}
                await send(
                    {"type": "http.response.body", "body": b"data: " + _encode(data) + b"\n\n", "more_body": True}
                )
                await asyncio.wait({gone}, timeout=_EVERY_S)
            if not gone.done():
                await send({"type": "http.response.body", "body": b"event: end\ndata: {}\n\n"})
        finally:
            self._streams -= 1
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _look(self) -> None:
        """Have the last receipts, and the numbers by the ids of their places on the page."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._looked_s >= _EVERY_S * 0.9:
            self._looked_s = now_s
            settings = self._settings()
            self._latest = await latest(self._admin, settings, self._recent)
            live = await self._admin.execute(Look())
            load = live.all
            self._numbers = {
                "live-requests": rate(load.requests_per_s),
                "live-tokens": rate(load.tokens_per_s),
                "live-cost": usd(load.cost_nano_usd_per_s),
                "live-failed": f"{load.failed:.1%}",
                "live-errors": ", ".join(f"{code} {rate:g}/s" for code, rate in live.errors.items()),
                "live-in-flight": number(live.in_flight),
                "live-first": f"{load.first_p50_ms} / {load.first_p99_ms} ms",
                "live-receipts": number(live.receipts),
                "live-process": process_name(settings),
            }

    async def _shown(self, receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
        if any(receipt.tenant not in self._names for receipt in receipts):
            self._names = await tenant_names(self._admin)
        return [
            {
                "id": receipt.id,
                "time": instant(receipt.created_us),
                "tenant": self._names.get(receipt.tenant, receipt.tenant),
                "endpoint": receipt.endpoint,
                "model": receipt.model,
                "status": str(receipt.status),
                "ended": receipt.finish,
                "tokens": number(receipt.prompt_tokens + receipt.completion_tokens),
                "cost": usd(receipt.cost_nano_usd),
                "ms": number(receipt.latency_total_ms),
            }
            for receipt in receipts
        ]


async def latest(admin: Admin, settings: Settings, recent: Callable[[], Sequence[Receipt]]) -> Sequence[Receipt]:
    """Returns the last receipts, the newest at the end: of all processes that serve the database.

    Args:
        admin: reads them where there are several.
        settings: whether there may be.
        recent: those of this process, which are what there is while the database is away.
    """
    if settings.several:
        with contextlib.suppress(Unavailable):
            found = await admin.execute(ReceiptList(limit=_REQUESTS_MOST))
            return [detail.receipt for detail in reversed(found)]
    return recent()


def process_name(settings: Settings) -> str:
    """Returns that numbers are of all workers, and which of them made them; "" for the only process."""
    return f"of all workers, by worker {settings.worker} of {settings.serve.workers}" if settings.worker else ""


def _after(recent: Sequence[Receipt], last: str) -> Sequence[Receipt]:
    """Returns the receipts after one, at most the newest ones."""
    found: list[Receipt] = []
    for receipt in reversed(recent):
        if receipt.id == last or len(found) >= _REQUESTS_MOST:
            break
        found.append(receipt)
    return found[::-1]


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
