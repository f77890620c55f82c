"""Homes whose log goes back to months that are over."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.entries import FIRST_US, make_receipt
from trustgate.ids import new_id
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.tree import Tree
from trustgate.store import open_store

#: Receipts of ``fill`` are so far apart; the first is of 2026-02-02.
STEP_US = 60_000_000


def fill(home: Path, count: int, tenants: Sequence[tuple[str, str]], **members: Any) -> list[str]:
    """Append so many receipts to a home that is not open, a minute apart, the tenants (id, key id) in turn.

    They are of versions 1 and 3 in turn. Returns their ids, in the log's order.
    """
    return asyncio.run(_fill(home, count, tenants, members))


async def _fill(home: Path, count: int, tenants: Sequence[tuple[str, str]], members: dict[str, Any]) -> list[str]:
    store = await open_store(home / "trustgate.duckdb")
    try:
        journal = Journal.open(home / "journal", store_id=store.store_id, last_seq=await store.last_seq())
        try:
            log = await Log.recover(store, journal, await Tree.open(store))
            ids = []
            for number in range(log.last_seq + 1, log.last_seq + count + 1):
                tenant, key = tenants[number % len(tenants)]
                tseq, tprev = log.link(tenant)
                created_us = members.get("created_us", FIRST_US + number * STEP_US)
                own = {
                    "v": 1 + number % 2 * 2,
                    "id": new_id("rcpt", created_us),
                    "created_us": created_us,
                    "model": f"model-{number % 3}",
                    "cost_nano_usd": 1_000 + number,
                    **members,
                }
                receipt = make_receipt(number, tenant=tenant, key=key, tseq=tseq, tprev=tprev, **own)
                log.append(receipt, hashlib.sha256(b"%d" % number).digest())
                ids.append(receipt.id)
            await log.flush()
            return ids
        finally:
            journal.close()
    finally:
        await store.close()
