"""The answers of paid requests, kept for a while so that a retry with the same payment gets the one it paid for.

In memory alone: what was asked and answered is never written to disk. Bounded in number of bytes and in time; later
requests are refused, as the payment is used.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

#: An answer that is larger is not kept, bytes.
MOST_ANSWER_BYTES = 4 * 1024 * 1024
_MOST_BYTES = 64 * 1024 * 1024
_KEPT_S = 3_600.0
_MOST_OWED = 10_000


class Recorded(NamedTuple):
    """A whole answer, as it went out."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class AnswerRecorder:
    """Takes down one answer while it is sent."""

    __slots__ = ("_chunks", "_head", "_is_whole", "_size")

    def __init__(self) -> None:
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_whole = False

    def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._head = status, list(headers)

    def write(self, body: bytes, *, last: bool) -> None:
        self._size += len(body)
        if self._size <= MOST_ANSWER_BYTES:
            self._chunks.append(body)
        else:
            self._chunks.clear()
        self._is_whole = self._is_whole or last

    def recorded(self) -> Recorded | None:
        """Returns the answer; None while it is not whole, or where it was too large."""
        if self._head is None or not self._is_whole or self._size > MOST_ANSWER_BYTES:
            return None
        return Recorded(*self._head, b"".join(self._chunks))


class Answers:
    """Recorded answers by the id of their payment."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, Recorded]] = OrderedDict()
        self._size = 0
        #: Payments whose client left before it had the answer, by the request: tenant, and digest of what was asked.
        self._owed: OrderedDict[tuple[str, str], str] = OrderedDict()

    def owe(self, request: tuple[str, str], payment_id: str) -> None:
        """The next such request has been paid for by the kept answer."""
        self._owed[request] = payment_id
        while len(self._owed) > _MOST_OWED:
            self._owed.popitem(last=False)

    def take_owed(self, request: tuple[str, str]) -> Recorded | None:
        payment_id = self._owed.pop(request, None)
        return None if payment_id is None else self.find(payment_id)

    def keep(self, payment_id: str, recorded: Recorded) -> None:
        self._drop(payment_id)
        self._kept[payment_id] = time.monotonic(), recorded
        self._size += len(recorded.body)
        while self._kept:
            oldest, (kept_at, _) = next(iter(self._kept.items()))
            if self._size <= _MOST_BYTES and time.monotonic() - kept_at < _KEPT_S:
                break
            self._drop(oldest)

    def find(self, payment_id: str) -> Recorded | None:
        found = self._kept.get(payment_id)
        if found is None or time.monotonic() - found[0] >= _KEPT_S:
            return None
        return found[1]

    def _drop(self, payment_id: str) -> None:
        dropped = self._kept.pop(payment_id, None)
        if dropped is not None:
            self._size -= len(dropped[1].body)
