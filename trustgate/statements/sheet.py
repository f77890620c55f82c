"""A statement for spreadsheets: its lines as CSV (RFC 4180), money as exact decimals.

A cell that a spreadsheet would run as a formula is made text by an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import re

from trustgate.statements import words
from trustgate.statements.account import AccountTotals
from trustgate.statements.document import StatementDocument

_COUNTS = (
    *("requests", "refused", "failed", "estimated", "unpriced", "prompt_tokens", "cached_tokens", "cache_write_tokens"),
    *("completion_tokens", "reasoning_tokens", "images", "audio_ms", "characters", "searches"),
)
_MONEY = ("cost_nano_usd", "billed_nano_usd", "charged_nano_usd")
COLUMNS = (
    *("tenant", "tenant_name", "month", "line", "name", "time"),
    *_COUNTS,
    *("cost_usd", "billed_usd", "charged_usd", "credited_usd", "balance_usd"),
)
#: Full-width signs are taken for the others; where commas are decimal, a cell begins after a semicolon.
_FORMULA = re.compile(r'(^|;"*)([=+\-@＝＋－＠])')


def statement_csv(document: StatementDocument) -> bytes:
    """Returns one line for each balance, model, key, payment and credit, and one for the total."""
    account, names = document.account, document.names
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()

    def put(line: str, name: str = "", **cells: int | str) -> None:
        said = {"tenant": account.tenant, "tenant_name": names.tenant, "month": account.month, "line": line}
        texts = {key: _safe(value) for key, value in {**said, "name": name}.items()}
        writer.writerow({**texts, **cells})

    put("opening balance", balance_usd=words.decimal(account.opening_nano_usd))
    for group in account.by_model:
        put("model", group.name, **_sums(group))
    for group in account.by_key:
        put("key", names.keys.get(group.name, group.name), **_sums(group))
    for line in account.money:
        put(
            line.kind,
            line.payment or line.receipt,
            time=words.moment(line.at_us),
            credited_usd=words.decimal(line.credited_nano_usd),
            charged_usd=words.decimal(line.charged_nano_usd),
        )
    put("total", "", **_sums(account.total), credited_usd=words.decimal(account.credited_nano_usd))
    put("closing balance", balance_usd=words.decimal(account.closing_nano_usd))
    return out.getvalue().encode()


def _sums(totals: AccountTotals) -> dict[str, int | str]:
    counts: dict[str, int | str] = {name: getattr(totals, name) for name in _COUNTS}
    return counts | {name.replace("_nano", ""): words.decimal(getattr(totals, name)) for name in _MONEY}


def _safe(text: str) -> str:
    return _FORMULA.sub(r"\1'\2", words.printable(text))
