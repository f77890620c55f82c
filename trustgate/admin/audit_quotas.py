"""The use of the running windows by the receipts, held against what the quotas count, for the audit of the books."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

from trustgate.access.quota import QuotaUsage
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.receipts.receipt import billed_of
from trustgate.types import COUNTED, UNITS, WINDOWS, Receipt

#: Receipts are written as requests end; one that ended so much before an earlier one was dated by another clock.
_CLOCK_SLACK_US = MICROSECONDS_PER_SECOND // 2
#: A request counts in the windows that run when it is admitted, which is so much after it arrived at most.
ADMISSION_US = 300 * MICROSECONDS_PER_SECOND
#: Half a millisecond's.
_SUBJECTS_A_TURN = 100


class QuotaAudit:
    """The use of the running windows by the receipts, to be held against the counters of the quotas."""

    def __init__(self, quota_usage: QuotaUsage, key_accounts: dict[str, str], *, counts_limited: bool) -> None:
        self._quota_usage = quota_usage
        self._counts_limited = counts_limited
        self._key_accounts = key_accounts
        self._oldest_us = min(quota_usage.windows.starts) - ADMISSION_US
        #: What is dated later is of a clock that ran ahead.
        self._newest_us = max(quota_usage.windows.ends)
        #: By window and subject: requests, tokens, cost of what arrived in the window, and of what did just before it.
        self._within: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._before: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        #: When the latest request so far ended, and the windows that a clock has left and come back to: what was
        #: counted in them before that is forgotten.
        self._latest_us = 0
        self._left: set[int] = set()

    def add(self, receipt: Receipt) -> None:
        self._look_at_clock(receipt.created_us + receipt.latency_total_ms * 1_000)
        is_now = self._oldest_us <= receipt.created_us < self._newest_us
        if not is_now or receipt.finish not in COUNTED:
            return
        use = 1, receipt.prompt_tokens + receipt.completion_tokens, billed_of(receipt)
        windows = self._quota_usage.windows
        for window, (start_us, end_us) in enumerate(zip(windows.starts, windows.ends, strict=True)):
            if start_us - ADMISSION_US <= receipt.created_us < end_us:
                sums = self._within if receipt.created_us >= start_us else self._before
                for subject in (receipt.tenant, self._key_accounts.get(receipt.key, receipt.key)):
                    for unit, amount in enumerate(use):
                        sums[window, subject][unit] += amount

    def _look_at_clock(self, ended_us: int) -> None:
        """Note the running windows that lie between the end of a request and that of one before it."""
        if ended_us < self._latest_us - _CLOCK_SLACK_US:
            starts = self._quota_usage.windows.starts
            self._left |= {window for window, start_us in enumerate(starts) if ended_us < start_us <= self._latest_us}
        self._latest_us = max(self._latest_us, ended_us)

    async def differences(self) -> AsyncIterator[tuple[str, str]]:
        """A request in flight counts with its hold, so a subject that has some is held to its least alone."""
        counters = self._quota_usage.counters
        subjects = set(counters)
        if not self._counts_limited:
            subjects |= {subject for _, subject in self._within}
        for number, subject in enumerate(sorted(subjects), 1):
            if number % _SUBJECTS_A_TURN == 0:
                await asyncio.sleep(0)  # requests go on meanwhile
            parallel, used = counters.get(subject, (0, ((0, 0, 0),) * len(WINDOWS)))
            for window, name in enumerate(WINDOWS):
                if window in self._left:
                    continue
                least = self._within[window, subject]
                most = [a + b for a, b in zip(least, self._before[window, subject], strict=True)]
                for unit, unit_name in enumerate(UNITS):
                    counted = used[window][unit]
                    if counted < least[unit] or (not parallel and counted > most[unit]):
                        yield (
                            f"quota of {subject}",
                            f"{unit_name} of this {name}: {counted} counted, by its receipts {least[unit]}",
                        )
