"""What callers have used up to now, out of the receipts: the counters of quotas and budgets as a server starts."""

from __future__ import annotations

from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.access.quota import Quota
from trustgate.admin.budget_counts import rebuild
from trustgate.ids import now_us
from trustgate.models.catalog import Catalog
from trustgate.store import Store


async def restore_counts(
    store: Store, directory: Directory, catalog: Catalog, quota: Quota, budgets: Budgets, at_us: int | None = None
) -> None:
    """Fill counters that count nothing yet with what the receipts of the running windows and spans say.

    Args:
        store: has the receipts.
        directory: who keys and budgets are of.
        catalog: the models' names.
        quota: the counters of quotas.
        budgets: those of budgets, which have them all.
        at_us: the time, microseconds UTC; None: now.
    """
    # A clock that was set back is behind the newest receipt: what was used since counts now, as it would have
    # without a restart. A receipt of a clock that ran ahead some time ago is not the newest, and does not.
    newest = max((head.entry for head in await store.load_heads()), key=lambda entry: entry.seq, default=None)
    newest_us = 0 if newest is None else newest.receipt.created_us
    at_us = now_us() if at_us is None else at_us
    quota.was_set_back = newest_us > at_us
    windows = quota.begin(at_us)
    for window, (since_us, until_us) in enumerate(zip(windows.starts, windows.ends, strict=True)):
        for used in await store.window_usage(since_us, max(until_us, newest_us + 1)):
            for subject in (used.tenant_id, directory.key_account_id(used.key_id)):
                quota.restore(window, subject, used.requests, used.tokens, used.cost_nano_usd)
    await rebuild(
        budgets,
        directory.budgets(),
        store=store,
        directory=directory,
        catalog=catalog,
        at_us=at_us,
        newest_us=newest_us,
    )
