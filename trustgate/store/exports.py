"""Rows for other programs: receipts and usage as JSON lines, and files of them that tools read.

Owns the columns of an export and the SQL that makes its lines. The database builds the text itself, so that an export
in a server's process holds up the requests as little as a few milliseconds of Python would.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec.structs import replace

from trustgate.errors import OperatorError
from trustgate.store.queries import ExportFilter, Lines
from trustgate.store.rows import BILLED, HASHES, IS_COUNTED, PAYMENT_DETAIL, PRICE_DETAIL, sum_sql
from trustgate.store.sql import SqlConnection, SqlDialect, dialect_of
from trustgate.types import Receipt

_US_PER_DAY = 86_400_000_000
_LAST_US = 2**63 - 1
#: Groups in a page of usage, some 2 MB of text. DuckDB takes 0.6 to 1 kB of memory for each on its two threads, and may
#: have 64 MB in all: 18,000 passed on an idle server.
_PAGE_GROUPS = 4_000


def _sql_type(kind: Any) -> str:
    kinds = {kind, *get_args(kind)}
    return "BOOLEAN" if bool in kinds else "BIGINT" if int in kinds or kinds & set(range(1, 11)) else "VARCHAR"


#: The columns of an export with their types in SQL, in order.
RECEIPT_COLUMNS: dict[str, str] = {
    "seq": "BIGINT",
    **{field.name: _sql_type(field.type) for field in msgspec.structs.fields(Receipt)},
}
USAGE_COLUMNS: dict[str, str] = {
    **dict.fromkeys(("day", "tenant", "tenant_name", "key", "endpoint", "model"), "VARCHAR"),
    **dict.fromkeys(("requests", "refused", "failed", "estimated"), "BIGINT"),
    **dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"), "BIGINT"),
    **dict.fromkeys(("cost_nano_usd", "billed_nano_usd", "charged_nano_usd", "credited_nano_usd"), "BIGINT"),
}


def _member(name: str, dialect: SqlDialect) -> str:
    """Returns a receipt's member in SQL. What its version does not have is null."""
    for detail, members in (("payment_detail", PAYMENT_DETAIL), ("price_detail", PRICE_DETAIL)):
        if name in members:
            text = dialect.json_item(detail, members.index(name))
            return text if RECEIPT_COLUMNS[name] == "VARCHAR" else f"({text})::{RECEIPT_COLUMNS[name]}"
    return dialect.hexadecimal(f'"{name}"') if name in HASHES else f'"{name}"'


def receipt_lines(connection: SqlConnection, source: str, query: ExportFilter, after_seq: int, up_to_seq: int) -> Lines:
    """See ``Store.export_receipts``."""
    dialect = dialect_of(connection)
    line = dialect.json_object({name: _member(name, dialect) for name in RECEIPT_COLUMNS})
    where, values = _where(query, "seq > ? AND seq <= ?", after_seq, up_to_seq)
    return _lines(
        connection,
        f"SELECT seq AS place, {line} AS line FROM {source} {where}",  # noqa: S608 - bound
        values,
    )


def usage_lines(connection: SqlConnection, source: str, query: ExportFilter) -> Lines:
    """See ``Store.export_usage``."""
    where, values = _where(query, "true")
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano_usd")
    sums = ", ".join(f"{sum_sql(name, IS_COUNTED)} AS {name}" for name in tokens)
    dialect = dialect_of(connection)
    line = dialect.json_object({name: f'"{name}"' for name in USAGE_COLUMNS})
    return _lines(
        connection,
        f"""WITH used AS (
                SELECT {dialect.day("created_us")} AS "day", tenant, "key", endpoint, model,
                    count(*) FILTER (WHERE {IS_COUNTED}) AS requests,
                    count(*) FILTER (WHERE finish = 'refused') AS refused,
                    count(*) FILTER (WHERE finish = 'upstream_error') AS failed,
                    count(*) FILTER (WHERE {IS_COUNTED} AND usage_source = 'estimate') AS estimated,
                    {sums},
                    {sum_sql(BILLED, IS_COUNTED)} AS billed_nano_usd,
                    {sum_sql("charged_nano_usd")} AS charged_nano_usd,
                    {sum_sql("credited_nano_usd")} AS credited_nano_usd
                FROM {source} {where} GROUP BY 1, 2, 3, 4, 5
            ), named AS (
                SELECT used.*, coalesce(tenants.name, '') AS tenant_name
                FROM used LEFT JOIN tenants ON tenants.id = used.tenant
            )
            SELECT ("day", tenant, "key", endpoint, model) AS place, {line} AS line
            FROM named""",  # noqa: S608 - constants; values are bound
        values,
    )


def usage_pages(connection: SqlConnection, source: str, query: ExportFilter) -> list[ExportFilter]:
    """See ``Store.usage_pages``. The groups of one key of a tenant, which differ by day and model, stay together."""
    where, values = _where(query, "true")
    dialect = dialect_of(connection)
    ends = connection.execute(
        f"""WITH found AS (
                SELECT DISTINCT {dialect.day("created_us")} AS "day", tenant, "key", endpoint, model
                FROM {source} {where}
            ), counted AS (
                SELECT tenant, "key", count(*) AS groups FROM found GROUP BY tenant, "key"
            ), added AS (
                SELECT tenant, "key", groups, (sum(groups) OVER (ORDER BY tenant, "key"))::BIGINT AS up_to FROM counted
            )
            SELECT tenant, "key" FROM added
            WHERE {dialect.per("(up_to - groups)", _PAGE_GROUPS)} < {dialect.per("up_to", _PAGE_GROUPS)}
            ORDER BY tenant, "key" """,  # noqa: S608 - constants; values are bound
        values,
    ).fetchall()
    bounds = [query.after, *((tenant, key) for tenant, key in ends), query.up_to]
    return [replace(query, after=after, up_to=up_to) for after, up_to in pairwise(bounds)]


def first_and_last_us(connection: SqlConnection, source: str, query: ExportFilter) -> tuple[int, int] | None:
    """See ``Store.first_and_last_us``."""
    where, values = _where(query, "true")
    row = connection.execute(
        f"SELECT min(created_us), max(created_us) FROM {source} {where}",  # noqa: S608 - values are bound
        values,
    ).fetchone()
    return None if row is None or row[0] is None else (int(row[0]), int(row[1]))


def _lines(connection: SqlConnection, rows_sql: str, values: list[Any]) -> Lines:
    """Returns the lines in the order of ``place``.

    Not as one value: that takes DuckDB several times its size of memory.
    """
    rows = connection.execute(f"SELECT line FROM ({rows_sql}) AS rows ORDER BY place", values).fetchall()  # noqa: S608 - as above
    return Lines(len(rows), "".join(f"{line}\n" for (line,) in rows).encode())


def _where(query: ExportFilter, condition: str, *values: Any) -> tuple[str, list[Any]]:
    bound = [*values, query.since_us or 0, _LAST_US if query.until_us is None else query.until_us]
    sql = f"WHERE {condition} AND created_us >= ? AND created_us < ?"
    if query.tenant_id is not None:
        sql, bound = f"{sql} AND tenant = ?", [*bound, query.tenant_id]
    for sign, last, bounds in ((">", ">", query.after), ("<", "<=", query.up_to)):
        if bounds is not None:
            tenant, key = bounds
            sql, bound = f'{sql} AND (tenant {sign} ? OR tenant = ? AND "key" {last} ?)', [*bound, tenant, tenant, key]
    return sql, bound


def write_table(lines: Path, to: Path, columns: dict[str, str], kind: Literal["csv", "parquet"]) -> None:
    """Turn a file of JSON lines into a table. Raises OperatorError where ``to`` cannot be written."""
    import duckdb

    types = ", ".join(f"'{name}': '{sql}'" for name, sql in columns.items())
    members = [_inert(name) if kind == "csv" and sql == "VARCHAR" else f'"{name}"' for name, sql in columns.items()]
    options = "FORMAT parquet, COMPRESSION zstd" if kind == "parquet" else "FORMAT csv, HEADER"
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": "512MB",
        "threads": 2,
        # What does not fit goes beside the lines; DuckDB's own choice is the folder that the command was typed in.
        "temp_directory": f"{lines}.tmp",
        "autoinstall_known_extensions": False,
    }
    try:
        with duckdb.connect(":memory:", config=config) as connection:
            connection.execute(
                f"""COPY (SELECT {", ".join(members)} FROM read_json({_text(lines)}, format = 'newline_delimited',
                    columns = {{{types}}})) TO {_text(to)} ({options})"""  # noqa: S608 - constants, quoted paths
            )
    except duckdb.Error as error:
        # Members of JSON may follow the words.
        words = str(error).splitlines()[0].rpartition(": ")[2].partition('"')[0]
        raise OperatorError(
            f"{to} cannot be written: {words}.",
            hint="Choose another --output, or make room on its disk.",
        ) from error


#: A cell that begins like this is a formula to a spreadsheet, which runs it when the file is opened (OWASP, "CSV
#: Injection"; the full-width signs are taken for the others). After a semicolon a cell begins where commas are decimal.
_FORMULA = r'(^|;"*)([=+\-@\t\r\n＝＋－＠])'


def _inert(name: str) -> str:
    """Returns a text column in SQL, an apostrophe before what a spreadsheet would run."""
    return f"""regexp_replace("{name}", '{_FORMULA}', '\\1''\\2', 'g') AS "{name}\""""


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
