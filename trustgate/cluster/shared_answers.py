"""Answers of paid requests where a retry may arrive at another process: kept in the database, besides in memory.

As on one machine each is encrypted with a key derived from the API key of the request, or from the body of a request
without one, and is kept for a while.
"""

from __future__ import annotations

import asyncio
import logging

from trustgate.cluster.database import DatabaseSession
from trustgate.errors import TrustGateError
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.payment.paid_answers import KEPT_S, Answers, Recorded, opened, sealed_answer
from trustgate.types import Payment

#: How long after a payment was used its answer may yet come to be kept.
_ON_ITS_WAY_US = 5 * MICROSECONDS_PER_SECOND

_logger = logging.getLogger("trustgate.payment")

_KEEP = (
    "INSERT INTO kept_answers (payment_id, sealed, at) VALUES ($1, $2, clock_timestamp())"
    " ON CONFLICT (payment_id) DO UPDATE SET sealed = excluded.sealed, at = excluded.at"
)
_FIND = "SELECT sealed FROM kept_answers WHERE payment_id = $1 AND at > clock_timestamp() - make_interval(secs => $2)"
_SWEEP = "DELETE FROM kept_answers WHERE at <= clock_timestamp() - make_interval(secs => $1)"
#: The newest, up to so many bytes; the others go.
_BOUND = (
    "DELETE FROM kept_answers k USING ("
    "SELECT payment_id, sum(length(sealed)) OVER (ORDER BY at DESC, payment_id) AS size FROM kept_answers) s"
    " WHERE k.payment_id = s.payment_id AND s.size > $1"
)


class SharedAnswers(Answers):
    """See ``payment.paid_answers.Answers``."""

    def __init__(self, session: DatabaseSession, *, most_bytes: int) -> None:
        """``most_bytes``: in memory, and in the database, all together."""
        super().__init__(None, most_bytes=most_bytes)
        self._session = session
        self._bound = most_bytes
        self._sweeping: asyncio.Task[None] | None = None

    async def write(self, payment_id: str, key: bytes) -> None:
        recorded = self.find(payment_id, key)
        if recorded is None or not key:
            return
        sealed = await asyncio.to_thread(sealed_answer, recorded, key, payment_id)
        try:
            async with self._session.use() as connection:
                await connection.execute(_KEEP, payment_id, sealed)
        except TrustGateError as error:
            _logger.warning("the answer of payment %s is kept in memory alone: %s", payment_id, error.message)

    async def look_up(self, payment_id: str, key: bytes) -> Recorded | None:
        found = self.find(payment_id, key)
        if found is not None or not key:
            return found
        async with self._session.use() as connection:
            sealed = await connection.fetchval(_FIND, payment_id, KEPT_S)
        return None if sealed is None else opened(sealed, key, payment_id)

    def is_on_its_way(self, payment: Payment) -> bool:
        # Another process's clock may be ahead of ours.
        return abs(now_us() - payment.updated_us) < _ON_ITS_WAY_US

    def sweep(self) -> None:
        super().sweep()
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep_shared())

    async def _sweep_shared(self) -> None:
        try:
            async with self._session.use() as connection:
                await connection.execute(_SWEEP, KEPT_S)
                await connection.execute(_BOUND, self._bound)
        except TrustGateError as error:
            _logger.warning("kept answers that are over are not removed yet: %s", error.message)
