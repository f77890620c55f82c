"""One WebSocket, of Hypercorn's: what arrives is bounded, read in turns, and answered within the protocol.

Owns what Hypercorn leaves open towards hostile clients (RFC 6455):

    compression (RFC 7692)                              not agreed to: a message would be bounded only once expanded
    a message that is too long                          closed with 1009, and dropped from there on, instead of kept
    frames that are none, or text that is not UTF-8     closed with 1002 or 1007, instead of silence
    thousands of small frames at once                   read in turns, between which other requests run
    fields of the handshake that are not ASCII          ignored, instead of failing
    pings to a client that has gone                     end with the connection, instead of keeping it for 20 s more
    frames before the handshake is answered             refused, and the application gets a disconnect
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any, Final

from hypercorn.protocol.events import Body, Data, Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import FrameTooLargeError, WSStream
from hypercorn.typing import ASGISendEvent
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

#: What a handshake may ask for and does not get: extensions and protocols.
_NOT_OFFERED: Final = frozenset((b"sec-websocket-extensions", b"sec-websocket-protocol"))
#: How many frames are taken in at one turn of the loop; each takes some hundredths of a millisecond.
_FRAMES_PER_TURN: Final = 64
#: How long a client has to end its side after a close was sent, seconds.
_CLOSING_S: Final = 5.0


class WebSocketStream(WSStream):
    """A WebSocket with the module's bounds."""

    #: A close was sent: what the client still sends is dropped.
    _is_over = False

    async def handle(self, event: Event) -> None:
        if isinstance(event, Request):
            self._ended = asyncio.Event()
            # That it asks for an upgrade is known by now.
            headers = [
                (name, b"upgrade" if name == b"connection" else value)
                for name, value in event.headers
                if name not in _NOT_OFFERED
            ]
            event = replace(event, headers=headers)
        elif isinstance(event, StreamClosed):
            self._ended.set()
        elif isinstance(event, Body | Data) and not self.closed:
            if not self.handshake.accepted:
                await self._refuse_early(event)
                return
            if self.connection.state is ConnectionState.CLOSED:
                return
        await super().handle(event)

    async def _refuse_early(self, event: Body | Data) -> None:
        """Refuse frames that came before the handshake was answered: no client may send them yet (RFC 6455, 4.1)."""
        await super().handle(event)
        if self.app_put is not None:
            await self.app_put({"type": "websocket.disconnect", "code": int(CloseReason.ABNORMAL_CLOSURE)})
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def app_send(self, message: ASGISendEvent | None) -> None:
        if message is None and self._is_over:
            # Closed at once, with data on its way, the client might not see why.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _CLOSING_S)
        await super().app_send(message)

    async def _send_pings(self) -> None:
        interval_s = self.config.websocket_ping_interval
        while not self._ended.is_set():
            await self._send_wsproto_event(Ping())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), interval_s)

    async def _handle_events(self) -> None:
        for number, event in enumerate(self.connection.events(), 1):
            if isinstance(event, Message):
                await self._take(event)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                await self._close(event)
                return
            if number % _FRAMES_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _take(self, event: Message[Any]) -> None:
        if self._is_over or self.app_put is None:
            return
        try:
            self.buffer.extend(event)
        except FrameTooLargeError:
            self._is_over = True
            self.buffer.clear()
            await self._send_wsproto_event(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG))
            await self.app_put({"type": "websocket.disconnect", "code": int(CloseReason.MESSAGE_TOO_BIG)})
            return
        if event.message_finished:
            await self.app_put(self.buffer.to_message())
            self.buffer.clear()

    async def _close(self, event: CloseConnection) -> None:
        """The client ends the connection, or has sent what is no WebSocket's."""
        if self.connection.state is ConnectionState.REMOTE_CLOSING:
            await self._send_wsproto_event(event.response())
        elif self.connection.state is ConnectionState.OPEN:
            await self._send_wsproto_event(CloseConnection(code=event.code))
        await self.send(StreamClosed(stream_id=self.stream_id))
