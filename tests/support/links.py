"""The network between a program and a server of TCP, such as Postgres, as a proxy that fails in the ways of networks.

A ``Link`` listens on a port of its own and passes on what comes. It can be slow, cut connections with RST or in the
middle of a message, and swallow everything: connections then stay open and nothing arrives, as behind a firewall that
drops packets. What it swallowed arrives late when it is mended, as TCP sends again what was not acknowledged, or never.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from tests.support.processes import PATIENCE_S

Direction = Literal["there", "back"]
BOTH: tuple[Direction, ...] = ("there", "back")

_NO_LINGER = struct.pack("ii", 1, 0)


class Link:
    """One way to the server at ``port``; ``with`` ends it."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._thread.start()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_whole: dict[Direction, asyncio.Event] = {}
        #: The same of connections that are open; those to come have ``_is_whole``.
        self._gates: list[dict[Direction, asyncio.Event]] = []
        #: How long each piece takes, seconds.
        self.delay_s: dict[Direction, float] = {"there": 0.0, "back": 0.0}
        #: Bytes a second, either way; None: as fast as they come.
        self.rate: int | None = None
        self._cut_at: Direction | None = None
        #: Pieces that came while nothing was let through.
        self.swallowed = 0
        #: Connections that were opened.
        self.opened = 0
        self.port: int = self._run(self._listen())

    @classmethod
    def to(cls, url: str) -> Self:
        """Returns a way to the server that a URL names; see ``over``."""
        return cls(urlsplit(url).port or 5432)

    def over(self, url: str) -> str:
        """Returns a URL of the server with this way's port in place of the server's."""
        return url.replace(f":{self._server_port}/", f":{self.port}/")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Cut every connection with RST."""
        self._run(self._reset())

    def cut_in_message(self, direction: Direction) -> None:
        """Pass on half of the next piece that goes this way, then cut its connection with RST."""

        def order() -> None:
            self._cut_at = direction

        self._call(order)

    def swallow(self, *directions: Direction, lets_new_through: bool = False) -> None:
        """Let nothing through any more, in these directions. ``lets_new_through``: over connections that are open."""

        def order() -> None:
            for direction in directions or BOTH:
                for gates in self._gates:
                    gates[direction].clear()
                if not lets_new_through:
                    self._is_whole[direction].clear()

        self._call(order)

    def mend(self, *, late: bool = True) -> None:
        """Let everything through at full speed. ``late``: what was swallowed, too; else its connections are cut."""

        async def order() -> None:
            self.delay_s = {"there": 0.0, "back": 0.0}
            self.rate = self._cut_at = None
            if not late:
                await self._reset()
            for gates in (self._is_whole, *self._gates):
                for event in gates.values():
                    event.set()

        self._run(order())

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            await self._reset()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._run(end())
        self._call(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # on its thread

    async def _listen(self) -> int:
        self._is_whole = {direction: asyncio.Event() for direction in BOTH}
        for event in self._is_whole.values():
            event.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.opened += 1
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            # A connection that is given up meanwhile reaches the server afterwards, if at all.
            await self._is_whole["there"].wait()
            if writer.transport.is_closing():
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
        except (OSError, asyncio.CancelledError):
            # Cancelled at the end, which the streams of Python 3.11 would log.
            self._abort(writer)
            return
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
        pair = (writer, back)
        self._writers.update(pair)
        gates = {direction: asyncio.Event() for direction in BOTH}
        for direction, gate in gates.items():
            if self._is_whole[direction].is_set():
                gate.set()
        self._gates.append(gates)
        copies = [
            asyncio.ensure_future(self._copy(reader, back, "there", gates["there"], pair)),
            asyncio.ensure_future(self._copy(there, writer, "back", gates["back"], pair)),
        ]
        self._tasks.update(copies)
        try:
            await asyncio.gather(*copies, return_exceptions=True)
        finally:
            self._tasks.difference_update(copies)
            self._writers.difference_update(pair)
            self._gates.remove(gates)
            for each in pair:
                each.close()

    async def _copy(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        direction: Direction,
        gate: asyncio.Event,
        pair: tuple[asyncio.StreamWriter, ...],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if not gate.is_set():
                    self.swallowed += 1
                    await gate.wait()
                if self.delay_s[direction]:
                    await asyncio.sleep(self.delay_s[direction])
                if self.rate is not None:
                    await asyncio.sleep(len(data) / self.rate)
                if self._cut_at == direction and len(data) > 1:
                    self._cut_at = None
                    target.write(data[: len(data) // 2])
                    await target.drain()
                    for each in pair:
                        self._abort(each)
                    return
                target.write(data)
                await target.drain()
        # Its end comes behind all that was sent.
        with contextlib.suppress(OSError):
            await gate.wait()
            target.close()

    async def _reset(self) -> None:
        for writer in list(self._writers):
            self._abort(writer)

    def _abort(self, writer: asyncio.StreamWriter) -> None:
        found: socket.socket | None = writer.get_extra_info("socket")
        if found is not None and found.fileno() >= 0:
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        writer.transport.abort()

    def _call(self, order: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(order)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)
