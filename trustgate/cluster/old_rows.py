"""Rows that several processes keep against what may come twice, or of spans that are over: removed when they are old.

    credited/…, recorded/…, settled work/…   after ``KEPT_DAYS``; the first two are found in the receipts from then on
    done/NODE/…                               of nodes that are gone, after as long
    budget/…                                  when all that it counts has ended, a day later

What is removed changes nothing: a row that is missing is made anew from the receipts where it is needed. Rows that a
transaction has locked are left for the next time, and so many are removed at once that no request waits for it.
"""

from __future__ import annotations

from collections.abc import Collection

from trustgate.access.spans import read_span
from trustgate.cluster.database import DatabaseConnection
from trustgate.cluster.rows import budget_ends
from trustgate.ids import MICROSECONDS_PER_SECOND
from trustgate.types import Budget

_DAY_US = 86_400 * MICROSECONDS_PER_SECOND
#: For so long a home may be away with receipts in its journal that others have put on record meanwhile, or of work that
#: others have charged, before only the receipts in the database show that.
KEPT_DAYS = 90
#: Requests that hold anything end sooner.
_HELD_MOST_US = _DAY_US

#: Rows of one statement.
_MOST = 1_000
#: Ids, behind the key's kind, of which the time is a part (``ids.new_id``).
_BY_TIME = ("credited/pay_", "credited/rcpt_", "recorded/rcpt_")

_REMOVE_BEFORE = """DELETE FROM shared_state WHERE key IN (
    SELECT key FROM shared_state WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3 FOR UPDATE SKIP LOCKED)"""
_REMOVE_DONE = """DELETE FROM shared_state WHERE key IN (
    SELECT key FROM shared_state s WHERE key >= 'done/node_' AND key < $1
        AND NOT EXISTS (SELECT 1 FROM nodes WHERE node_id = split_part(s.key, '/', 2))
    ORDER BY key LIMIT $2 FOR UPDATE SKIP LOCKED)"""
_REMOVE_WORK = """DELETE FROM shared_state WHERE key IN (
    SELECT key FROM shared_state WHERE key >= 'work/' AND key < 'work0'
        AND state @> '{"settled": true}' AND (state->>'settled_us')::bigint BETWEEN 1 AND $1
    ORDER BY key LIMIT $2 FOR UPDATE SKIP LOCKED)"""
#: Of a version that did not write the time down.
_STAMP_WORK = """UPDATE shared_state SET state = jsonb_set(state, '{settled_us}', to_jsonb($1::bigint)) WHERE key IN (
    SELECT key FROM shared_state WHERE key >= 'work/' AND key < 'work0'
        AND state @> '{"settled": true}' AND coalesce((state->>'settled_us')::bigint, 0) = 0
    ORDER BY key LIMIT $2 FOR UPDATE SKIP LOCKED)"""
_BUDGETS = """SELECT key, state::text AS state FROM shared_state WHERE key > $1 AND key < 'budget0'
    ORDER BY key LIMIT $2"""
_REMOVE_THESE = """DELETE FROM shared_state WHERE key IN (
    SELECT s.key FROM shared_state s JOIN unnest($1::text[], $2::text[]::jsonb[]) AS v (key, state)
        ON s.key = v.key AND s.state = v.state
    ORDER BY s.key FOR UPDATE OF s SKIP LOCKED)"""


async def remove_old_rows(
    connection: DatabaseConnection, budgets: Collection[Budget], removed: Collection[Budget], at_us: int
) -> int:
    """Remove what is old.

    Args:
        connection: In no transaction.
        budgets: Those that hold.
        removed: Those that were removed.
        at_us: The database's time, microseconds UTC.

    Returns:
        How many rows.
    """
    before_us = at_us - KEPT_DAYS * _DAY_US
    before = f"{before_us // 1_000:012x}"
    count = 0
    for prefix in _BY_TIME:
        count += await _repeat(connection, _REMOVE_BEFORE, prefix, prefix + before)
    count += await _repeat(connection, _REMOVE_DONE, f"done/node_{before}")
    await _repeat(connection, _STAMP_WORK, at_us)
    count += await _repeat(connection, _REMOVE_WORK, before_us)
    return count + await _remove_ended_budgets(connection, budgets, removed, at_us)


async def _repeat(connection: DatabaseConnection, statement: str, *args: object) -> int:
    """Run a statement until it changes fewer rows than it may. Returns how many it has changed in all."""
    total = 0
    while True:
        changed = _count(await connection.execute(statement, *args, _MOST))
        total += changed
        if changed < _MOST:
            return total


async def _remove_ended_budgets(
    connection: DatabaseConnection, budgets: Collection[Budget], removed: Collection[Budget], at_us: int
) -> int:
    spans = {budget.id: read_span(budget.span) for budget in budgets}
    gone = {budget.id for budget in removed if (budget.removed_us or at_us) < at_us - _HELD_MOST_US}
    total, last = 0, "budget/"
    while True:
        rows = await connection.fetch(_BUDGETS, last, _MOST)
        ended = []
        for row in rows:
            budget_id = row["key"].split("/", 2)[1]
            span = spans.get(budget_id)
            if budget_id in gone:
                ended.append(row)
            elif span is not None:
                ends_us = budget_ends(row["state"], span)
                if ends_us is not None and ends_us < at_us - _HELD_MOST_US:
                    ended.append(row)
        if ended:
            keys, states = [row["key"] for row in ended], [row["state"] for row in ended]
            total += _count(await connection.execute(_REMOVE_THESE, keys, states))
        if len(rows) < _MOST:
            return total
        last = rows[-1]["key"]


def _count(status: str) -> int:
    """Returns how many rows a statement has changed. ``status``: its command tag, for example "DELETE 3"."""
    return int(status.rpartition(" ")[2])
