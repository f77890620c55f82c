"""What callers have used up to now, out of the receipts: the counters of quotas and budgets as a server starts."""

from __future__ import annotations

from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.access.quota import Quota
from trustgate.access.windows import Windows
from trustgate.admin.budget_counts import rebuild
from trustgate.ids import now_us
from trustgate.models.catalog import Catalog
from trustgate.store import Store


async def restore_counts(store: Store, directory: Directory, catalog: Catalog, quota: Quota, budgets: Budgets) -> None:
    """Fill empty counters with the use in the receipts of the running windows and spans.

    Args:
        store: has the receipts.
        directory: whose keys and budgets are.
        catalog: the models' names.
        quota: the counters of quotas.
        budgets: those of budgets, which have them all.
    """
    at_us = now_us()
    await restore_quotas(store, directory, quota, at_us)
    await rebuild(
        budgets,
        directory.budgets(),
        store=store,
        directory=directory,
        catalog=catalog,
        at_us=at_us,
        counts_ahead=True,
    )


async def restore_quotas(store: Store, directory: Directory, quota: Quota, at_us: int) -> None:
    """Fill empty counters of quotas with the use in the receipts of the running windows; arguments as above."""
    # Where the clock was set back, what was used since counts now, as it would have without a restart. What a clock
    # that ran ahead dated before the window began does not.
    windows = quota.begin(at_us)
    for window, (since_us, until_us) in enumerate(zip(windows.starts, windows.ends, strict=True)):
        ahead_us = await store.latest_ahead(since_us, at_us)
        quota.was_set_back |= ahead_us > 0
        for used in await store.window_usage(since_us, max(until_us, ahead_us + 1)):
            for subject in (used.tenant_id, directory.key_account_id(used.key_id)):
                quota.restore(window, subject, used.requests, used.tokens, used.cost_nano_usd)
        later = Windows.at(ahead_us)
        if later.starts[window] > since_us:
            # The clock may have been right before, and jump to where it was.
            start_us, end_us = later.starts[window], later.ends[window]
            for used in await store.window_usage(start_us, end_us):
                for subject in (used.tenant_id, directory.key_account_id(used.key_id)):
                    quota.await_window(window, start_us, subject, (used.requests, used.tokens, used.cost_nano_usd))
