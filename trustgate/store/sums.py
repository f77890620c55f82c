"""What receipts add up to: usage by group, what the running windows and the budgets count, balances.

Owns the SQL of the sums. Each function runs on the writer thread. Where there are more groups than fit into the
database's memory (a million end users) they are added up part by part, however many parts that takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from trustgate.store.archives import Archives, ReadRange
from trustgate.store.queries import (
    Balance,
    BudgetUse,
    BudgetUseFilter,
    EndUserUse,
    StatementSpan,
    UsageFilter,
    UsageGroup,
    UsageRow,
    WindowUsage,
)
from trustgate.store.rows import BILLED, IS_COUNTED, sum_sql
from trustgate.store.sql import SqlConnection, dialect_of, where_clause

_US_PER_DAY = 86_400_000_000
_US_PER_HOUR = 3_600_000_000
_LAST_US = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = {"day": _US_PER_DAY, "hour": _US_PER_HOUR}
_GROUPS = {
    "model": "model",
    "key": '"key"',
    "tenant": "tenant",
    "end_user": "coalesce(end_user, '')",
}


#: By how much the number of parts is multiplied while groups do not fit into memory, and the largest that is tried.
_MORE_PARTS = 4
_MOST_PARTS = 4**6


def _groups(
    connection: SqlConnection, query: Callable[[str], str], values: Sequence[object], column: str | None
) -> list[Any]:
    """Returns the groups of a sum: of all at once or, where these need more memory than the database has, in parts.

    Args:
        connection: what the sum is read from.
        query: returns its SQL, of the rows that meet a condition.
        values: what that binds.
        column: what each of the groups has one text of, and no part is to divide; None: there are few groups.

    Returns:
        The groups; in the order of the query within each part alone.
    """
    dialect = dialect_of(connection)
    parts, conditions = 1, ["true"]
    while True:
        try:
            return [row for condition in conditions for row in connection.execute(query(condition), values).fetchall()]
        except dialect.too_little_memory:
            if column is None or parts >= _MOST_PARTS:
                raise
            parts *= _MORE_PARTS
            conditions = [dialect.part(column, parts, number) for number in range(parts)]


class Sources(NamedTuple):
    """What a sum is read from: what stands after FROM, and the files whose sums the database has (``first_seq``)."""

    rows: str
    summed: Sequence[int] = ()

    @classmethod
    def of(cls, archives: Archives, span: ReadRange, whole: bool) -> Sources:
        """``whole``: use the sums of files that are within the span altogether."""
        within = archives.within(span)
        summed = [file for file in within if whole and span.has_all(file)]
        return cls(
            archives.source_of(file for file in within if file not in summed), [file.first_seq for file in summed]
        )


def sum_windows(connection: SqlConnection, sources: Sources, since_us: int, until_us: int | None) -> list[WindowUsage]:
    wide = dialect_of(connection).wide
    rows = _groups(
        connection,
        lambda condition: (
            f"""WITH used AS (
                SELECT tenant, "key", 1 AS requests, prompt_tokens::{wide} + completion_tokens AS tokens,
                    {BILLED} AS billed
                FROM {sources.rows} WHERE created_us >= ? AND created_us < ? AND {IS_COUNTED}
                UNION ALL SELECT tenant, "key", requests, tokens, billed_nano_usd FROM archived_sums
                WHERE requests > 0 AND {_in_files(sources)}
            )
            SELECT tenant, "key", sum(requests), {sum_sql("tokens")}, {sum_sql("billed")}
            FROM used WHERE {condition} GROUP BY tenant, "key" """  # noqa: S608 - constants
        ),
        [since_us, _LAST_US if until_us is None else until_us],
        '"key"',
    )
    return [
        WindowUsage(tenant_id=tenant, key_id=key, requests=int(requests), tokens=int(tokens), cost_nano_usd=int(cost))
        for tenant, key, requests, tokens, cost in sorted(rows)
    ]


def latest_ahead(connection: SqlConnection, since_us: int, at_us: int) -> int:
    """Returns when the latest receipt was made that a clock ahead of ``at_us`` has dated since ``since_us``; 0: none.

    What was written after one that is dated before ``since_us`` was not written before that, whatever its own date.
    """
    found = connection.execute("SELECT max(seq) FROM receipts WHERE created_us > ?", [at_us]).fetchone()
    if found is None or found[0] is None:
        return 0
    older = connection.execute(
        "SELECT seq FROM receipts WHERE created_us < ? ORDER BY seq DESC LIMIT 1", [since_us]
    ).fetchone()
    after_seq = 0 if older is None else older[0]
    latest = connection.execute(
        "SELECT max(created_us) FROM receipts WHERE created_us > ? AND seq > ?", [at_us, after_seq]
    ).fetchone()
    return 0 if latest is None else int(latest[0] or 0)


def _in_files(sources: Sources) -> str:
    return f"first_seq IN ({', '.join(map(str, sources.summed))})" if sources.summed else "false"


def sum_budget_use(connection: SqlConnection, sources: Sources, query: BudgetUseFilter) -> list[BudgetUse]:
    """Returns the sums over the receipts, added up in SQL: over millions it takes a second, a minute in Python."""
    dialect = dialect_of(connection)
    part = f"{query.since_us}::BIGINT"
    if query.part_us:
        part = f"{dialect.per('created_us', query.part_us)} * {query.part_us}"
    rows = _groups(
        connection,
        lambda condition: (
            f"""WITH used AS (
                SELECT tenant, "key", model, end_user, {part} AS part, 1 AS requests,
                    prompt_tokens::{dialect.wide} + completion_tokens AS tokens, {BILLED} AS billed
                FROM {sources.rows} WHERE created_us >= ? AND created_us < ? AND seq <= ? AND {IS_COUNTED}
                UNION ALL SELECT tenant, "key", model, end_user, {query.since_us}::BIGINT, requests, tokens,
                    billed_nano_usd
                FROM archived_sums WHERE requests > 0 AND {_in_files(sources)}
            )
            SELECT tenant, "key", {"model" if query.by_model else "''"} AS model,
                {"end_user" if query.by_end_user else "NULL"} AS end_user, part, sum(requests), {sum_sql("tokens")},
                {sum_sql("billed")}
            FROM used WHERE {condition} GROUP BY 1, 2, 3, 4, 5
            ORDER BY part, tenant, "key", model, end_user"""  # noqa: S608 - constants, integers
        ),
        [query.since_us, query.until_us, _LAST_US if query.until_seq is None else query.until_seq],
        _GROUPS["end_user" if query.by_end_user else "key"],
    )
    return [BudgetUse(*row[:4], *map(int, row[4:])) for row in rows]


def sum_end_users(
    connection: SqlConnection, source: str, tenant_id: str, since_us: int, limit: int, end_user: str | None
) -> list[EndUserUse]:
    where, values = where_clause(("tenant = ?", tenant_id), ("created_us >= ?", since_us), ("end_user = ?", end_user))
    rows = _groups(
        connection,
        lambda condition: (
            f"""SELECT end_user, count(*) FILTER (WHERE {IS_COUNTED}),
                {sum_sql(f"prompt_tokens::{dialect_of(connection).wide} + completion_tokens", IS_COUNTED)} AS tokens,
                {sum_sql(BILLED, IS_COUNTED)} AS billed, min(created_us), max(created_us)
            FROM {source} {where} AND end_user IS NOT NULL AND {condition}
            GROUP BY end_user ORDER BY billed DESC, tokens DESC, end_user LIMIT ?"""  # noqa: S608 - values are bound
        ),
        [*values, limit],
        "end_user",
    )
    most = sorted(rows, key=lambda row: (-row[3], -row[2], row[0]))
    return [EndUserUse(row[0], *map(int, row[1:])) for row in most[:limit]]


def sum_usage(connection: SqlConnection, source: str, query: UsageFilter) -> list[UsageRow]:
    where, values = where_clause(
        ("finish <> ?", "credited"),  # which is no request, and has no model
        ("tenant = ?", query.tenant_id),
        ("created_us >= ?", query.since_us),
        ("created_us < ?", query.until_us),
        ("seq <= ?", query.until_seq),
    )
    sums = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano_usd")
    group = _GROUPS.get(query.by) or dialect_of(connection).per("created_us", _TIMES[query.by])
    rows = _groups(
        connection,
        lambda condition: (
            f"""SELECT {group} AS "group",
                count(*) FILTER (WHERE {IS_COUNTED}),
                count(*) FILTER (WHERE finish = 'refused'),
                count(*) FILTER (WHERE finish = 'upstream_error'),
                {", ".join(sum_sql(name, IS_COUNTED) for name in sums)},
                count(*) FILTER (WHERE {IS_COUNTED} AND usage_source = 'estimate'),
                {sum_sql(BILLED, IS_COUNTED)},
                count(*) FILTER (WHERE {IS_COUNTED} AND price_known = false)
            FROM {source} {where} AND {condition} GROUP BY 1"""  # noqa: S608 - constants; values are bound
        ),
        values,
        _GROUPS.get(query.by),
    )
    rows.sort()
    members = ("requests", "refused", "failed", *sums, "estimated", "billed_nano_usd", "unpriced")
    return [
        UsageRow(
            group=_time(query.by, row[0]),
            **{member: int(value) for member, value in zip(members, row[1:], strict=True)},
        )
        for row in rows
    ]


def _time(by: UsageGroup, group: Any) -> str:
    """Returns the name of a group: of days and hours, which are counted from the epoch, ISO 8601."""
    if by == "day":
        return (_EPOCH + timedelta(days=group)).date().isoformat()
    return f"{_EPOCH + timedelta(hours=group):%Y-%m-%d %H}:00" if by == "hour" else str(group)


def sum_balances(connection: SqlConnection) -> list[Balance]:
    rows = connection.execute(
        f"""WITH kept AS (
                SELECT tenant, credited_nano_usd, charged_nano_usd FROM receipts WHERE charged_nano_usd IS NOT NULL
                UNION ALL SELECT tenant, credited_nano_usd, charged_nano_usd FROM archived_sums WHERE with_balance > 0
            )
            SELECT tenant, {sum_sql("credited_nano_usd")}, {sum_sql("charged_nano_usd")} FROM kept
            GROUP BY tenant ORDER BY tenant"""  # noqa: S608 - constants
    ).fetchall()
    return [
        Balance(tenant_id=tenant, credited_nano_usd=int(credited), charged_nano_usd=int(charged))
        for tenant, credited, charged in rows
    ]


def receipt_months(connection: SqlConnection, source: str, tenant_id: str) -> list[int]:
    rows = connection.execute(
        f"""SELECT max(created_us) FROM {source} WHERE tenant = ?
            GROUP BY {dialect_of(connection).month("created_us")} ORDER BY 1 DESC""",  # noqa: S608 - constants
        [tenant_id],
    ).fetchall()
    return [int(at_us) for (at_us,) in rows]


def statement_span(
    connection: SqlConnection, source: str, tenant_id: str, since_us: int, until_us: int, until_seq: int
) -> StatementSpan | None:
    """Returns the period's receipts and what came before. The tenant's own numbers (``tseq``) make them neighbours."""
    wide = dialect_of(connection).wide
    row = connection.execute(
        f"""SELECT max(tseq), min(tseq) FILTER (WHERE created_us >= ? AND created_us < ?),
                max(tseq) FILTER (WHERE created_us >= ? AND created_us < ?),
                max(tseq) FILTER (WHERE created_us < ?),
                coalesce(sum(credited_nano_usd::{wide} - charged_nano_usd) FILTER (WHERE created_us < ?), 0)
            FROM {source} WHERE tenant = ? AND seq <= ?""",  # noqa: S608 - values are bound
        [since_us, until_us, since_us, until_us, since_us, since_us, tenant_id, until_seq],
    ).fetchall()[0]
    most, first, last, before, opening = row
    if most is None:
        return None
    if first is None:
        first, last = (before or 0) + 1, before or 0
    ends = connection.execute(
        f"SELECT min(seq), max(seq) FROM {source} WHERE tenant = ? AND seq <= ? AND tseq >= ? AND tseq <= ?",  # noqa: S608
        [tenant_id, until_seq, first - 1, last + 1],
    ).fetchall()[0]
    return StatementSpan(first_seq=ends[0], last_seq=ends[1], opening_nano_usd=int(opening))
