"""The events of a request of HTTP/2 for its application, and what of its body counts as read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.processes import PATIENCE_S
from trustgate.http.http2_tasks import _Events


class Read:
    """Events, and how many bytes were read, each time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.events = _Events(self._on_read)

    async def _on_read(self, size: int) -> None:
        self.sizes.append(size)

    async def body(self, body: bytes, *, more: bool = True) -> None:
        await self.events.put({"type": "http.request", "body": body, "more_body": more})

    async def get(self) -> Any:
        return await asyncio.wait_for(self.events.get(), PATIENCE_S)


def part(body: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_is_given_as_it_has_come_and_counts_as_read_then() -> None:
    read = Read()
    await read.body(b"ab")
    await read.body(b"c")
    assert read.sizes == []
    assert await read.get() == part(b"abc", more=True)
    assert read.sizes == [3]
    waiting = asyncio.ensure_future(read.get())
    await asyncio.sleep(0)
    assert not waiting.done(), "nothing has come"
    await read.body(b"d", more=False)
    assert await waiting == part(b"d", more=False)
    assert read.sizes == [3, 1]
    waiting = asyncio.ensure_future(read.get())
    await asyncio.sleep(0)
    assert not waiting.done(), "the end is reported once"
    await read.events.put({"type": "http.disconnect"})
    assert await waiting == await read.get() == {"type": "http.disconnect"}


async def test_an_empty_body_has_an_end_and_other_events_come_first() -> None:
    read = Read()
    await read.body(b"", more=False)
    await read.events.put({"type": "other"})
    assert [await read.get(), await read.get()] == [{"type": "other"}, part(b"", more=False)]
    assert read.sizes == []


async def test_what_its_application_leaves_unread_counts_as_read_at_its_end() -> None:
    read = Read()
    await read.body(b"abc")
    await read.events.close()
    assert read.sizes == [3]
    await read.body(b"defg")
    assert read.sizes == [3, 4], "what comes later is dropped as well"
    waiting = asyncio.ensure_future(read.events.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


@pytest.mark.parametrize("body", [b"", b"ab"])
async def test_nothing_need_listen(body: bytes) -> None:
    events = _Events(None)
    await events.put(part(body, more=False))
    assert await events.get() == part(body, more=False)
    await events.close()
