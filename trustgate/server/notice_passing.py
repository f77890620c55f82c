"""Notices of every process on their way to the one that sends them.

Limits, budgets and upstreams are watched where requests pass, by each process; notices of them are sent by the one that
holds the role of the notifier. They go there as notes of the database (NOTIFY). One that is sent while no
process holds the role is lost; conditions that last are published again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from trustgate.cluster.database import DatabaseConnection, DatabaseSession, is_away
from trustgate.observe.notices import Notice, Notices

_logger = logging.getLogger("trustgate.cluster")

#: All schemas of a database share it.
CHANNEL = "trustgate_notices"
#: Postgres takes no longer payload than 8,000 bytes.
_MOST_BYTES = 7_900
_RETRY_S = 2.0
#: How often it is checked that the receiving connection is open.
_CHECK_S = 5.0


class _Passed(msgspec.Struct, frozen=True):
    store_id: str
    notice: Notice


class NoticePassing:
    """The notices of one process."""

    def __init__(
        self,
        notices: Notices,
        store_id: str,
        session: DatabaseSession,
        connect: Callable[[], Awaitable[DatabaseConnection]],
        is_notifier: Callable[[], bool],
    ) -> None:
        """
        Args:
            notices: what is published in this process.
            store_id: of the database.
            session: to send over.
            connect: opens another connection, to receive over.
            is_notifier: whether this process sends notices itself now.
        """
        self._notices = notices
        self._published = notices.subscribe()
        self._store_id = store_id
        self._session = session
        self._connect = connect
        self._is_notifier = is_notifier

    async def pass_on(self) -> None:
        """Pass on what is published here while another process is the notifier, for ever."""
        while True:
            for notice in await self._published.take():
                if self._is_notifier():
                    continue
                body = msgspec.json.encode(_Passed(self._store_id, notice)).decode()
                if len(body.encode()) > _MOST_BYTES:
                    _logger.warning("a notice is too long to be passed on: %s", notice.identity)
                    continue
                try:
                    async with self._session.use() as connection:
                        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, body)
                except Exception as error:
                    if not is_away(error):
                        _logger.exception("a notice was not passed on")
                        continue
                    _logger.warning("a notice is lost while the database is away: %s", notice.identity)

    async def receive(self) -> None:
        """Publish here what others pass on, for ever. The notifier's."""
        while True:
            try:
                connection = await self._connect()
                try:
                    await connection.add_listener(CHANNEL, self._take)
                    while not connection.is_closed():  # noqa: ASYNC110 - it has no event for that
                        await asyncio.sleep(_CHECK_S)
                finally:
                    connection.terminate()
            except Exception as error:
                if not is_away(error):
                    raise
            await asyncio.sleep(_RETRY_S)

    def _take(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        try:
            passed = msgspec.json.decode(payload, type=_Passed)
        except msgspec.DecodeError as error:
            _logger.warning("a notice that another process passed on cannot be read: %s", error)
            return
        if passed.store_id == self._store_id:
            self._notices.publish(passed.notice)
