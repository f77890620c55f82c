"""What this process wrote last in each row, and which of its batches has a row to itself.

A batch that waited for a row of another one in the database instead would be decided from what the row had before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

_STATES_MOST = 50_000


class RowStates:
    """What this process wrote last, by row, and which rows a batch of its has to itself."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._owned: set[str] = set()
        self._waiting: deque[tuple[Collection[str], asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def own(self, keys: Collection[str]) -> AsyncIterator[None]:
        """Have rows to itself within this process, for the block. Waits for those that came before."""
        if self._waiting or not self._owned.isdisjoint(keys):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((keys, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._waiting.remove((keys, turn))
                    self._pass_on()
                else:
                    self._let_go(keys)
                raise
        else:
            self._owned.update(keys)
        try:
            yield
        finally:
            self._let_go(keys)

    def _let_go(self, keys: Collection[str]) -> None:
        self._owned.difference_update(keys)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting and self._owned.isdisjoint(self._waiting[0][0]):
            keys, turn = self._waiting.popleft()
            self._owned.update(keys)
            turn.set_result(None)

    def take(self, keys: Sequence[str]) -> list[str] | None:
        """Remove and return what this process wrote last; None where that is missing for one of the rows."""
        found = [self._states.pop(key, None) for key in keys]
        known = [state for state in found if state is not None]
        return known if len(known) == len(keys) else None

    def note(self, contents: Mapping[str, str]) -> None:
        """Keep what was written and committed, by key."""
        if len(self._states) + len(contents) > _STATES_MOST:
            self._states.clear()
        self._states.update(contents)

    def forget(self) -> None:
        """Forget what was in the rows: they were removed."""
        self._states.clear()
