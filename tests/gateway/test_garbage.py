"""What a request that is answered leaves to Python's garbage collector: nothing.

Objects that hold each other in a circle stay until the collector walks all that is new, which stops the event loop for
milliseconds. The server runs in this process, the collector switched off.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.conftest import HELLO
from tests.gateway.test_order import serving
from tests.support.processes import PATIENCE_S
from tests.support.upstream import Gate, Reply, Upstream
from trustgate.admin.commands import TenantAdd
from trustgate.gateway.path.accounting import Account
from trustgate.gateway.path.client_watch import ClientWatch
from trustgate.models.upstream.answer import EventStream


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_what_a_request_is_made_of_is_freed_with_its_answer(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, start = Gate(), ClientWatch._start

    def started(watch: ClientWatch) -> None:
        start(watch)
        gate.open()

    monkeypatch.setattr(ClientWatch, "_start", started)
    chat = {"model": "gpt-4o-mini", "messages": HELLO}
    async with serving(tmp_path / "home", upstream.api_url) as (address, admin):
        secret = (await admin.execute(TenantAdd(name="acme", plan="internal"))).secret
        async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=PATIENCE_S) as client:
            client.headers["authorization"] = f"Bearer {secret}"
            upstream.script(Reply.chat(), Reply.chat_stream(["a", "b"]), Reply.chat_stream(["a"]).held(gate))
            for stream in (False, True, True):
                response = await client.post("/v1/chat/completions", json={**chat, "stream": stream})
                assert response.status_code == 200, response.text
        for _ in range(100):  # turns in which what was cancelled ends
            await asyncio.sleep(0)
        kinds = (Account, EventStream, ClientWatch)
        assert [each for each in gc.get_objects() if isinstance(each, kinds)] == []
