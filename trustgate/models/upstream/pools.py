"""Pools: several targets that serve one model. Which is asked first, and how much each is sent.

Owns the first choice between a passport and its fallbacks of rank 0 (``types.Pool``), and the count of what each target
has been sent by this gateway in the running minute and has in flight.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from trustgate.types import Pool

T = TypeVar("T")
#: A candidate for the first choice, and its weight.
Weighted = tuple[T, int]

_MINUTE_S = 60.0


class TargetLoad:
    """What one target has in flight, and what it was sent in the running minute (of this process's clock)."""

    __slots__ = ("_clock", "_minute", "_requests", "_tokens", "in_flight")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock``: seconds since the epoch."""
        self._clock = clock
        self._minute = 0
        self._requests = 0
        self._tokens = 0
        self.in_flight = 0

    def has_room(self, pool: Pool, *, is_again: bool = False) -> bool:
        """Returns whether the target may be sent another request within the pool's limits.

        ``is_again``: one that is in flight already.
        """
        if not is_again and pool.parallel_requests is not None and self.in_flight >= pool.parallel_requests:
            return False
        if pool.requests_per_minute is None and pool.tokens_per_minute is None:
            return True
        self._turn()
        return (pool.requests_per_minute is None or self._requests < pool.requests_per_minute) and (
            pool.tokens_per_minute is None or self._tokens < pool.tokens_per_minute
        )

    def wait_s(self, pool: Pool) -> float:
        """Returns in how many seconds there may be room again."""
        if pool.parallel_requests is not None and self.in_flight >= pool.parallel_requests:
            return 1.0
        return _MINUTE_S - self._clock() % _MINUTE_S

    def begin(self) -> None:
        """A request is to be sent; followed by ``end``."""
        self.in_flight += 1

    def end(self) -> None:
        """Its answer is over, or there was none."""
        self.in_flight -= 1

    def sent(self, pool: Pool, tokens: int) -> None:
        """Count a request that was sent, and each time that it is tried again. ``tokens``: the estimate of its prompt.

        Counted where the pool has a limit by the minute: one that is given to it counts from then on.
        """
        if pool.requests_per_minute is not None or pool.tokens_per_minute is not None:
            self._turn()
            self._requests += 1
            self._tokens += tokens

    def used(self, pool: Pool, tokens: int) -> None:
        """Count what an answer used beyond the estimate of its prompt, as ``sent`` does."""
        if pool.tokens_per_minute is not None:
            self._turn()
            self._tokens += max(0, tokens)

    def _turn(self) -> None:
        minute = int(self._clock() // _MINUTE_S)
        if minute != self._minute:
            self._minute, self._requests, self._tokens = minute, 0, 0


def by_weight(candidates: Sequence[Weighted[T]], chance: random.Random) -> list[T]:
    """Returns the candidates in an order of weighted chance: each stands first as often as its weight says."""
    left = list(candidates)
    ordered = []
    while left:
        at = chance.choices(range(len(left)), [max(weight, 1) for _, weight in left])[0] if len(left) > 1 else 0
        ordered.append(left.pop(at)[0])
    return ordered


def by_load(candidates: Sequence[Weighted[T]], load_of: Callable[[T], int], chance: random.Random) -> list[T]:
    """Returns the candidates with the fewest requests in flight for their weights first; of equal ones by chance."""
    weights = {id(candidate): max(weight, 1) for candidate, weight in candidates}
    return sorted(by_weight(candidates, chance), key=lambda each: (load_of(each) + 1) / weights[id(each)])


def by_key(candidates: Sequence[Weighted[T]], name_of: Callable[[T], str], key: bytes) -> list[T]:
    """Returns the candidates in an order that a key always gets, and keys share by weight.

    Weighted rendezvous hashing: a candidate that comes or goes moves its own keys alone.
    """

    def score(candidate: Weighted[T]) -> float:
        digest = hashlib.sha256(name_of(candidate[0]).encode() + b"\0" + key).digest()
        drawn = (int.from_bytes(digest[:6], "big") + 1) / (2**48 + 1)  # a float holds it, and so it is never 1
        return -max(candidate[1], 1) / math.log(drawn)

    return [candidate for candidate, _ in sorted(candidates, key=score, reverse=True)]
