"""The memory of a server, filled from its database: who may call, what there is, what running windows have used."""

from __future__ import annotations

import logging
from typing import NamedTuple

from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.access.quota import Quota
from trustgate.admin.budget_counts import load as load_budgets
from trustgate.admin.context import new_pseudonym_key
from trustgate.admin.prices import price_findings
from trustgate.cluster.shared_log import SharedLog
from trustgate.models.catalog import Catalog
from trustgate.notify.subscribers import Subscribers
from trustgate.receipts.log import Log
from trustgate.server.counts import restore_counts
from trustgate.settings import Settings
from trustgate.store import Store

_logger = logging.getLogger("trustgate.server")


class ServerMemory(NamedTuple):
    """What requests are decided by. Operators' changes are made here as well as in the database."""

    directory: Directory
    catalog: Catalog
    quota: Quota
    budgets: Budgets
    subscribers: Subscribers


async def load_memory(settings: Settings, store: Store, log: Log) -> ServerMemory:
    """Returns what the database has; of a log with others, the counters that its books keep.

    Makes the key of end users' pseudonyms where a rule wants one and there is none.
    """
    state = await store.load_state()
    directory = Directory(state)
    scopes = [*(plan.scope for plan in state.plans), *(key.scope for key in state.keys)]
    if state.pseudonym_key is None and any(scope.end_users for scope in scopes):
        made = new_pseudonym_key()
        await store.put(made)
        directory.put(made)
    catalog = Catalog(state.passports, state.aliases, state.price_lists, settings.upstream.url)
    if isinstance(log, SharedLog):
        # What is used is in the rows that all processes have.
        quota, budgets = log.books.quota, log.books.budgets
        load_budgets(budgets, directory, directory.budgets())
    else:
        quota, budgets = Quota(), Budgets()
        load_budgets(budgets, directory, directory.budgets())
        await restore_counts(store, directory, catalog, quota, budgets)
    for found in price_findings(directory, catalog):
        _logger.warning("%s. %s", found.message, found.hint)
    return ServerMemory(directory, catalog, quota, budgets, Subscribers(state.subscribers))
