"""Two processes' books, in one event loop, while limits come and go, nodes are buried and connections are lost.

``python -m tests.cluster.limited SEED ROUNDS`` runs rounds, each with a seed of its own from SEED on, and prints those
whose rows have something else at the end than receipts have. A round takes a second, so it finds orders of events that
rounds with processes (``tests.cluster.commanded``) rarely reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from tests.cluster.bookkeeping import Bookkeeper, bookkeepers, bury
from tests.cluster.test_new_limits import LimitedTogether
from tests.support.postgres import Postgres
from tests.support.processes import PATIENCE_S
from trustgate.access.directory import Caller
from trustgate.cluster.holds import SharedSlot, Use
from trustgate.errors import RateLimited, Unavailable
from trustgate.types import Limits

_CALLERS, _WORKERS, _STEPS = 2, 6, 12
_LIMITS = (
    *(Limits(), Limits()),
    *(Limits(tokens_per_day=10**9), Limits(requests_per_day=10**6), Limits(parallel_requests=40)),
)
#: Half of the connections that requests are opened and closed over.
_CUT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND application_name LIKE 'trustgate%' AND random() < 0.5"""


class Round:
    """What happens in one round, each a method."""

    def __init__(self, keepers: list[Bookkeeper], seed: int) -> None:
        self.random = random.Random(seed)
        self.both = LimitedTogether(keepers)
        self.keepers = keepers
        self.callers = [self.both.add(str(number)) for number in range(_CALLERS)]
        #: What each key's limits are now.
        self.limits = {caller.key.id: Limits() for caller in self.callers}
        #: One command, or fault, at a time.
        self.command = asyncio.Lock()

    async def pause(self) -> None:
        for _ in range(self.random.choice((0, 0, 1, 2, 5, 20, 60))):
            await asyncio.sleep(0)

    def _caller(self, at: int) -> Caller:
        caller = self.random.choice(self.callers)
        found = self.both.directories[at].owner(caller.tenant.id, caller.key.id)
        return cast("Caller", found)

    @contextlib.asynccontextmanager
    async def _entered(self, caller: Caller, at: int) -> AsyncIterator[SharedSlot | None]:
        """A parallel request, for the block; given back where that is refused or cancelled."""
        slot = await self.both.enter(caller, at)
        try:
            yield slot
        except BaseException:
            if slot is not None:
                _ = self.keepers[at].books.close(slot=slot)
            raise

    async def request(self) -> None:
        at = self.random.randrange(2)
        caller = self._caller(at)
        try:
            async with self._entered(caller, at) as slot:
                await self.pause()
                hold = await self.both.open(caller, slot, at)
        except RateLimited:
            return
        try:
            await self.pause()
        except asyncio.CancelledError:
            _ = self.keepers[at].books.close(hold=hold)
            raise
        use = None if self.random.random() < 0.3 else Use(self.random.randrange(1, 20), self.random.randrange(5))
        await self.both.end(hold, use, at)

    async def gone(self) -> None:
        """A request whose client goes away."""
        task = asyncio.ensure_future(self.request())
        await self.pause()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def limit(self) -> None:
        """A command sets a key's limits: each process takes them in, and all is counted anew."""
        caller, limits = self.random.choice(self.callers), self.random.choice(_LIMITS)
        async with self.command:
            for at in self.random.sample((0, 1), 2):
                self.both.set_limits(caller, limits, at=(at,))
                await self.keepers[at].books.closing.pass_on()
                await self.pause()
            if limits != Limits() and self.limits[caller.key.id] == Limits():
                await _until_done(lambda: self.both.count_anew(caller))
            self.limits[caller.key.id] = limits

    async def bury_one(self) -> None:
        living, dead = self.random.sample(self.keepers, 2)

        async def is_node() -> bool:
            async with living.own.use() as connection:
                found = await connection.fetchval("SELECT 1 FROM nodes WHERE node_id = $1", dead.node_id)
            return found is not None

        async def end() -> None:
            while await is_node():
                # Not while one of its batches holds its row.
                with contextlib.suppress(AssertionError):
                    await bury(living, dead)

        async with self.command:
            await _until_done(end)
            await self.pause()
            await _until_done(dead.join)

    async def cut(self) -> None:
        async with self.command, self.random.choice(self.keepers).own.use() as connection:
            await connection.fetch(_CUT)

    async def forget(self) -> None:
        """A process forgets which rows there are."""
        self.random.choice(self.keepers).books.forget_rows()

    async def run(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [*[self.request] * 12, *[self.limit] * 3, *[self.gone] * 2]
        kinds += [self.bury_one, self.cut, self.forget]

        async def work() -> None:
            for _ in range(_STEPS):
                with contextlib.suppress(Unavailable):
                    await self.random.choice(kinds)()
                await self.pause()

        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(work() for _ in range(_WORKERS)))
            for keeper in self.keepers:
                # What was lost while it was opened is given back.
                await keeper.books.opening.flush()
                await keeper.books.closing.flush()
                await keeper.own.close()
        for caller in self.callers:
            await self.both.check(caller, caller.key.id, of_key=self.limits[caller.key.id] != Limits())


async def _until_done(act: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await act()
        except Unavailable:
            continue
        return


async def one_round(url: str, seed: int) -> None:
    """Run a round. Raises AssertionError where rows differ from receipts."""
    async with bookkeepers(url, 2) as keepers:
        await Round(keepers, seed).run()


def main(seed: int, rounds: int) -> int:
    """Returns in how many rounds rows differed."""
    postgres, count = Postgres().start(), 0
    try:
        for number in range(seed, seed + rounds):
            try:
                asyncio.run(one_round(postgres.clean(), number))
            except AssertionError as error:
                count += 1
                print(f"seed {number}: {error}", flush=True)
    finally:
        postgres.close()
    print(f"seeds {seed} to {seed + rounds - 1}: rows differ in {count}")
    return count


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]), int(sys.argv[2]))))
