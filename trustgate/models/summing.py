"""What several calls used, summed up so that the sum costs what they do by themselves.

A provider prices each call by its own prompt. So calls are summed apart by the step of the price, by the length of a
prompt, that holds for each (``PriceTable.step``); within a step their cost is that of the sum, rounded once, up. Each
sum becomes one receipt (of version 7 to 10), from which its cost can be computed again.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from trustgate.models.pricing import COUNTS, PriceTable
from trustgate.types import Usage


class SummedCalls(msgspec.Struct, frozen=True, kw_only=True):
    """What answered calls of one step of the price used."""

    usage: Usage
    #: 0: what a call used that has its receipt already, or nothing.
    calls: int
    #: What they are charged by.
    price: PriceTable
    #: As ``PriceTable.step`` has it, of each of the calls.
    step: int = 0

    def cost_nano_usd(self, at_us: int) -> int:
        """Returns what the calls cost at a time (microseconds UTC), nano-USD, rounded once, up."""
        return self.price.summed_nano_usd(self.usage, at_us, self.calls, self.step)


class CallSums:
    """Sums up calls, one after the other."""

    def __init__(self, price: PriceTable, at_us: int, conditions: Usage) -> None:
        """``conditions``: has the tier of all calls, and the size and quality of their images."""
        self.calls = 0
        self._price = price
        self._at_us = at_us
        self._conditions = conditions
        self._steps = price.steps(conditions, at_us)
        self._sums: dict[int, SummedCalls] = {}

    def add(self, usage: Usage) -> None:
        """Add what one call used, each of its counts within its sum (``usages.consistent``)."""
        usage = self._under_conditions(usage)
        step = self._step(usage.prompt_tokens)
        self._add(self._price.apart(usage, self._at_us, step), 1, step)

    def add_sum(self, usage: Usage, calls: int) -> None:
        """Add what so many calls used of which no more is known than the sum: as calls of one length."""
        longest = -(-usage.prompt_tokens // max(calls, 1))
        self._add(self._under_conditions(usage), calls, self._step(longest))

    def sums(self) -> tuple[SummedCalls, ...]:
        """Returns what was added, the lowest step first; one sum of nothing where nothing was."""
        if not self._sums:
            return (SummedCalls(usage=self._conditions, calls=0, price=self._price),)
        return tuple(self._sums[step] for step in sorted(self._sums))

    def _under_conditions(self, usage: Usage) -> Usage:
        of = self._conditions
        return msgspec.structs.replace(
            usage, service_tier=of.service_tier, image_size=of.image_size, image_quality=of.image_quality
        )

    def _step(self, prompt_tokens: int) -> int:
        above = bisect_left(self._steps, prompt_tokens)
        return self._steps[above - 1] if above else 0

    def _add(self, usage: Usage, calls: int, step: int) -> None:
        self.calls += calls
        before = self._sums.get(step)
        if before is not None:
            usage, calls = _plus(before.usage, usage), before.calls + calls
        self._sums[step] = SummedCalls(usage=usage, calls=calls, price=self._price, step=step)


def _plus(one: Usage, other: Usage) -> Usage:
    """Returns the sum; unlike ``usages.added`` of many calls, so what one call can use is no bound of it."""
    return msgspec.structs.replace(
        one,
        **{name: getattr(one, name) + getattr(other, name) for name in COUNTS},
        estimated=one.estimated or other.estimated,
        contradictory=one.contradictory or other.contradictory,
    )
