"""Promises that are about order, tested at the moment at which they are made.

A client stops reading at the end of its answer (``[DONE]``, ``message_stop``, the last byte of a document): its receipt
has to be in the journal when that leaves, not when the connection ends. The server runs in this process, over real
sockets and a real home folder; every message it sends passes a check of what the journal's files hold at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.gateway.conftest import HELLO
from tests.support.entries import make_entries
from tests.support.processes import PATIENCE_S
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta
from trustgate.admin.commands import Admin, PlanPut, TenantAdd
from trustgate.errors import TrustGateError, Unavailable
from trustgate.gateway.path.accounting import AccountEnd, OwnKeeping
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.tree import Tree
from trustgate.server import apps, serve
from trustgate.server.parts import Server
from trustgate.settings import load_settings
from trustgate.store import Store, open_store
from trustgate.tasks import Deferred
from trustgate.types import Receipt


class Journaled:
    """An ASGI application around the gateway's.

    For every message with the end of an answer in it, notes whether the journal's files hold the receipt that the
    answer's head named.
    """

    def __init__(self, app: ASGIApp, folder: Path, end: bytes) -> None:
        self._app = app
        self._folder = folder
        self._end = end
        self.seen: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        receipt_id = b""

        async def checked(message: Message) -> None:
            nonlocal receipt_id
            if message["type"] == "http.response.start":
                receipt_id = dict(message["headers"]).get(b"x-trustgate-receipt", b"")
            elif receipt_id and self._end in message.get("body", b""):
                self.seen.append(any(receipt_id in file.read_bytes() for file in self._folder.iterdir()))
            await send(message)

        await self._app(scope, receive, checked)


class Ready:
    """Learns from the server's observer hooks that it listens."""

    def __init__(self) -> None:
        self.server: asyncio.Future[tuple[str, Admin]] = asyncio.get_running_loop().create_future()

    def on_ready(self, address: str, admin: Admin) -> None:
        self.server.set_result((address, admin))

    def on_receipt(self, receipt: Receipt) -> None:
        """Nothing to do."""

    def on_refusal(self, error: TrustGateError, endpoint: str, receipt_id: str) -> None:
        """Nothing to do."""


@contextlib.asynccontextmanager
async def serving(home: Path, upstream: str = "builtin:echo") -> AsyncIterator[tuple[str, Admin]]:
    """A gateway in this process, on a port of its own; unless told otherwise the built-in model is its upstream."""
    settings = load_settings(home, {"serve.port": 0, "upstream.url": upstream})
    ready, stop = Ready(), asyncio.Event()
    server = asyncio.ensure_future(serve(settings, stop=stop, observer=ready))
    # A server that cannot start ends the wait as well.
    server.add_done_callback(lambda _: ready.server.cancel() if not ready.server.done() else None)
    try:
        yield await asyncio.wait_for(ready.server, PATIENCE_S)
    finally:
        stop.set()
        await asyncio.wait_for(server, PATIENCE_S)
        gc.unfreeze()  # the server freezes what is there when it is ready


CHAT = {"model": "trustgate/echo", "messages": HELLO}


@pytest.mark.parametrize(
    ("members", "end"),
    [
        pytest.param({"stream": True}, b"data: [DONE]", id="stream"),
        pytest.param({}, b"}", id="document"),
    ],
)
async def test_the_receipt_is_journaled_before_the_end_of_the_answer_leaves(
    members: dict[str, Any], end: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[Journaled] = []
    public_app = apps.public_app

    def app(server: Server, settings: Any) -> ASGIApp:
        watched.append(Journaled(public_app(server, settings), settings.journal_folder, end))
        return watched[0]

    monkeypatch.setattr(apps, "public_app", app)
    async with serving(tmp_path / "home") as (address, admin):
        added = await admin.execute(TenantAdd(name="acme", plan="internal"))
        headers = {"authorization": f"Bearer {added.secret}"}
        async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=PATIENCE_S) as client:
            response = await client.post("/v1/chat/completions", json={**CHAT, **members})
        assert response.status_code == 200, response.text
        assert end in response.content
    assert watched[0].seen and all(watched[0].seen)


class Held:
    """Keeps receipts as the accounting does, and says that they are kept when the test does (``let_go``)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        close = OwnKeeping.close
        self.keeping: asyncio.Future[Deferred[None]] = asyncio.get_running_loop().create_future()

        def held(keeping: OwnKeeping, outcome: AccountEnd) -> Deferred[None]:
            close(keeping, outcome)
            kept: Deferred[None] = Deferred(asyncio.get_running_loop())
            self.keeping.set_result(kept)
            return kept

        monkeypatch.setattr(OwnKeeping, "close", held)

    async def let_go(self) -> None:
        """Once there is a receipt, and whatever can be sent without it being kept is sent."""
        kept = await asyncio.wait_for(asyncio.shield(self.keeping), PATIENCE_S)
        for _ in range(100):
            await asyncio.sleep(0)
        kept.succeed(None)


@pytest.mark.parametrize(
    ("members", "limits", "end", "status"),
    [
        pytest.param({"stream": True}, {}, b"data: [DONE]", 200, id="stream"),
        pytest.param({}, {}, b"}", 200, id="document"),
        pytest.param({}, {"requests_per_day": 0}, b"}", 429, id="over its quota"),
        pytest.param({}, {"parallel_requests": 0}, b"}", 429, id="too many at once"),
    ],
)
async def test_the_end_of_an_answer_waits_until_its_receipt_is_kept(
    members: dict[str, Any],
    limits: dict[str, int | None],
    end: bytes,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    public_app, ends = apps.public_app, Ends(end)
    monkeypatch.setattr(apps, "public_app", lambda server, settings: ends.around(public_app(server, settings)))
    held = Held(monkeypatch)
    async with serving(tmp_path / "home") as (address, admin):
        await admin.execute(PlanPut(name="few", create=True, like="internal", limits=limits))
        added = await admin.execute(TenantAdd(name="acme", plan="few"))
        headers = {"authorization": f"Bearer {added.secret}"}
        async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=PATIENCE_S) as client:
            asked = asyncio.ensure_future(client.post("/v1/chat/completions", json={**CHAT, **members}))
            await held.let_go()
            assert ends.sent == 0, "it left before its receipt was kept"
            response = await asked
        assert (response.status_code, ends.sent) == (status, 1), response.text
        assert end in response.content


class Ends:
    """Counts the messages of an application that have the end of an answer in them."""

    def __init__(self, end: bytes) -> None:
        self._end = end
        self.sent = 0

    def around(self, app: ASGIApp) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            async def counted(message: Message) -> None:
                self.sent += message["type"] == "http.response.body" and self._end in message.get("body", b"")
                await send(message)

            await app(scope, receive, counted)

        return watched


# the upstream's connection


async def test_an_upstream_that_ends_its_response_a_moment_later_is_not_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is watched while its answer takes long; that it has got it all is no reason to break off."""
    monkeypatch.setattr("trustgate.gateway.path.inflight.SLOW_AFTER_S", 0.0)
    monkeypatch.setattr("trustgate.models.upstream.answer.END_S", 2 * PATIENCE_S)
    upstream, rest, end = Upstream().start(), Gate(), Gate()
    upstream.script(Reply.sse([delta("a"), rest, delta(None, finish_reason="stop"), DONE, end]))
    try:
        async with serving(tmp_path / "home", upstream.api_url) as (address, admin):
            added = await admin.execute(TenantAdd(name="acme", plan="internal"))
            headers = {"authorization": f"Bearer {added.secret}"}
            body = {"model": "gpt-4o", "messages": HELLO, "stream": True}
            async with httpx.AsyncClient(
                base_url=address, headers=headers, trust_env=False, timeout=PATIENCE_S
            ) as http:
                async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                    pieces = answer.aiter_raw()
                    await anext(pieces)
                    # Another request's whole way: the watch, which was due at once, has begun.
                    await http.get("/v1/usage")
                    rest.open()
                    assert b"".join([piece async for piece in pieces]).endswith(DONE)
                await http.get("/v1/usage")
                end.open()
                await asyncio.to_thread(upstream.wait_for_requests().wait_finished)
    finally:
        upstream.stop()


# before the work


async def test_what_is_refused_before_its_work_takes_nothing_of_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what cannot be understood, nor what no receipt could be kept of."""
    limits: dict[str, int | None] = {"requests_per_day": 1}
    async with serving(tmp_path / "home") as (address, admin):
        await admin.execute(PlanPut(name="one", create=True, like="internal", limits=limits))
        added = await admin.execute(TenantAdd(name="acme", plan="one"))
        headers = {"authorization": f"Bearer {added.secret}"}
        async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=PATIENCE_S) as client:

            async def ask(**members: Any) -> int:
                return (await client.post("/v1/chat/completions", json={**CHAT, **members})).status_code

            assert [await ask(messages=None), await ask(messages=7)] == [400, 400]

            def full(*_: object) -> None:
                raise Unavailable("The disk is full.", code="storage_full")

            with monkeypatch.context() as failing:
                failing.setattr(Journal, "check_room", full)
                assert await ask() == 503
            assert [await ask(), await ask()] == [200, 429]


# the journal and the store


async def test_the_journal_keeps_what_the_store_could_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is released after the store's commit: a store that fails loses nothing, and neither does a death then."""
    store = await open_store(tmp_path / "store.duckdb")
    journal = Journal.open(tmp_path / "journal", store_id=store.store_id, last_seq=0, segment_bytes=64 * 1024)
    log = await Log.recover(store, journal, await Tree.open(store))
    released: list[int] = []
    monkeypatch.setattr(journal, "release", released.append)

    async def full(*_: object) -> None:
        assert released == [], "released before the commit"
        raise Unavailable("The disk is full.")

    append = store.append_entries
    monkeypatch.setattr(store, "append_entries", full)
    for entry in make_entries(1, 5):
        log.append(entry.receipt, entry.secret)
    with pytest.raises(Unavailable):
        await log.flush()
    assert (released, log.pending) == ([], 5)
    assert [entry.seq for entry in journal.replay(0)] == [1, 2, 3, 4, 5]

    monkeypatch.setattr(store, "append_entries", append)
    await log.flush()
    assert (released, log.pending, await _stored(store)) == ([5], 0, 5)
    journal.close()
    await store.close()


async def _stored(store: Store) -> int:
    return await store.last_seq()
