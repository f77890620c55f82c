"""Reading a request's body: under its bounds, within its tenant's share of the memory, and without holding the loop.

Owns the memory that bodies may take: ``serve.max_buffered_bytes`` in all, shared between tenants (``shares``). A length
that a client declares is asked for before anything is read; without one, each piece is as it arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from starlette.types import Receive, Scope

from trustgate.access.directory import Caller
from trustgate.access.end_users import BODY, name_in_body, name_in_header, pseudonym
from trustgate.errors import RequestTimeout, Unavailable
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.large_body import DIRECT_BYTES, LargeBody, LargeBodyReader, in_reader
from trustgate.gateway.api.uploads import ClientDisconnected, Payload, Upload
from trustgate.gateway.path.arrival import too_large
from trustgate.gateway.path.shares import Shares
from trustgate.http.sending import EXCHANGE
from trustgate.settings import ServeSettings


class BodyMemory:
    """The bytes of bodies that are held in memory."""

    def __init__(self, limits: ServeSettings) -> None:
        self._shares = Shares(0)
        self.apply_settings(limits)

    def apply_settings(self, limits: ServeSettings) -> None:
        """Go by these from the next byte on."""
        # One body of the largest size must always fit.
        self._shares.most = max(limits.max_buffered_bytes, limits.max_body_bytes)

    @property
    def total(self) -> int:
        """What is held now, bytes."""
        return self._shares.total

    def room_for(self, tenant_id: str) -> Room:
        """Returns the room of one request of a tenant: nothing so far."""
        return Room(self._shares, tenant_id)


class Room(msgspec.Struct, eq=False):
    """What one request holds of the memory for bodies, until ``release``."""

    _shares: Shares
    _tenant_id: str
    _size: int = 0
    #: What of it has been asked for beforehand and has not come yet.
    _told: int = 0

    def expect(self, size: int) -> None:
        """Ask for room for a body whose length is told, bytes. Raises ``Unavailable`` (503)."""
        self.take(size)
        self._told = size

    def take(self, size: int) -> None:
        """Room for bytes that have come. Raises ``Unavailable`` (503) where there is none, with ``Retry-After``."""
        if self._told:
            known = min(size, self._told)
            self._told -= known
            size -= known
            if not size:
                return
        if not self._shares.take_if_room(self._tenant_id, size):
            raise Unavailable(
                "The gateway has no memory for this body now: others are being read.",
                code="overloaded",
                headers={"retry-after": "1", "connection": "close"},
                retryable=True,
            )
        self._size += size

    def release(self) -> None:
        """Give all of it back."""
        if self._size:
            self._shares.give_back(self._tenant_id, self._size)
            self._size = 0


def whole_body(scope: Scope, declared: int, max_body_bytes: int, room: Room) -> bytes | None:
    """Returns the whole body of a request that has JSON, where it came with its head, as it nearly always does.

    None where it has to be read (``read_json``). ``declared``: its length as in the head, bytes; 0 without. Raises
    ``Unavailable`` (503) where there is no memory for it.
    """
    if 0 < declared <= DIRECT_BYTES and declared <= max_body_bytes:
        exchange = scope["extensions"].get(EXCHANGE) if "extensions" in scope else None
        body: bytes | None = None if exchange is None else exchange.take_whole()
        if body is not None:
            room.take(len(body))
            return body
    return None


async def read_json(receive: Receive, max_body_bytes: int, timeout_s: float, room: Room) -> bytes | LargeBody:
    """Returns the whole body of a request that has JSON or nothing, of which ``whole_body`` gave none.

    Raises ``RequestTooLarge`` (413), ``RequestTimeout`` (408), ``Unavailable`` (503) where there is no memory for it,
    ``InvalidRequest`` or ``ClientDisconnected``.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_json(receive, max_body_bytes, room)
    except TimeoutError:
        raise RequestTimeout(
            f"The request body did not arrive within {timeout_s:g} s.", headers={"connection": "close"}
        ) from None


async def _read_json(receive: Receive, max_body_bytes: int, room: Room) -> bytes | LargeBody:
    parts: list[bytes] = []
    size = 0
    large: LargeBodyReader | None = None
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = message.get("body", b"")
        if chunk:
            size += len(chunk)
            if size > max_body_bytes:
                raise too_large(max_body_bytes)
            room.take(len(chunk))
            if size <= DIRECT_BYTES:
                parts.append(chunk)
            else:
                if large is None:
                    large = LargeBodyReader()
                    chunk = b"".join([*parts, chunk])
                for at in range(0, len(chunk), DIRECT_BYTES):
                    large.feed(chunk[at : at + DIRECT_BYTES])
                    await asyncio.sleep(0)  # the others' turn
        if not message.get("more_body", False):
            if large is not None:
                return large.finish()
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def peek(endpoint: Endpoint, body: LargeBody) -> Call:
    """Returns the call that a large body makes. Raises ``InvalidRequest`` when it is not a JSON object in UTF-8."""
    return await in_reader(endpoint.peek, body.skeleton)


async def end_user_of(caller: Caller, headers: Mapping[bytes, bytes], body: Payload) -> str:
    """Returns the pseudonym of the end user that a request names where its key's requests do; "" where it names none.

    Neither the name nor anything else of it is kept.
    """
    for source in caller.end_user_sources:
        name = await _name_in(body) if source == BODY else name_in_header(headers.get(source, b""))
        if name:
            return pseudonym(caller.end_user_salt, name)
    return ""


async def _name_in(body: Payload) -> str:
    if isinstance(body, Upload):
        return body.fields.get("safety_identifier", "").strip() or body.fields.get("user", "").strip()
    return name_in_body(body) if isinstance(body, bytes) else await in_reader(name_in_body, body.skeleton)
