"""A statement for people: one HTML page that prints well and needs nothing from elsewhere.

Owns what it looks like. The page is made of the document alone, and it carries the document, so that what it shows can
be made again and compared. It has no script. Paper is A4 or Letter: tables repeat their heads, rows are not broken.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Sequence
from html import escape

from trustgate.statements import words
from trustgate.statements.account import AccountTotals, MoneyLine, PriceLine, StatementAccount
from trustgate.statements.document import DATA_END, DATA_START, StatementDocument
from trustgate.statements.months import parse_month

#: The most lines of payments and credits on the page; all are in the data.
_MONEY_MOST = 400

_STYLE = """
@page { margin: 16mm 15mm 18mm; }
* { box-sizing: border-box; }
:root { color-scheme: light; --ink: #1b1f24; --soft: #56606c; --line: #d5dae1; --tint: #f3f5f8; --accent: #1f4f9e; }
body { margin: 0 auto; padding: 2.5rem 1.5rem; max-width: 60rem; color: var(--ink); background: #fff;
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
header { display: flex; justify-content: space-between; gap: 2rem; align-items: flex-start; margin-bottom: 1.5rem;
  border-bottom: 3px solid var(--accent); padding-bottom: 1rem; }
header p { margin: 0; }
h1 { margin: 0 0 .2rem; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 1.75rem 0 .5rem; font-size: 1.05rem; break-after: avoid; }
.soft { color: var(--soft); }
.right { text-align: right; }
.name { font-weight: 600; overflow-wrap: anywhere; }
.provisional { display: inline-block; margin-top: .4rem; padding: .1rem .6rem; border: 1px solid #b07a00;
  border-radius: 1rem; color: #7a5200; font-weight: 600; font-size: .85rem; }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0 0 .5rem; break-inside: avoid; }
.figures div { flex: 1 1 9rem; padding: .7rem .9rem; background: var(--tint); border-radius: .4rem; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.2rem; font-weight: 650; font-variant-numeric: tabular-nums; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
thead { display: table-header-group; }
tr { break-inside: avoid; }
th { padding: .35rem .5rem; text-align: left; vertical-align: bottom; font-size: .8rem; color: var(--soft);
  border-bottom: 1.5px solid var(--ink); white-space: nowrap; }
td { padding: .35rem .5rem; vertical-align: top; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th.n, td.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
th:first-child, td:first-child { padding-left: 0; min-width: 7.5rem; }
th:last-child, td:last-child { padding-right: 0; }
tr.sum td { border-top: 1.5px solid var(--ink); border-bottom: 0; font-weight: 650; }
.whole { white-space: nowrap; }
td small { display: block; color: var(--soft); }
.balance { max-width: 26rem; }
.remarks { margin: 1rem 0 0; padding: 0 0 0 1.1rem; color: var(--soft); }
.proof { margin-top: 2rem; padding: 1rem 1.2rem; border: 1px solid var(--line); border-radius: .5rem;
  break-inside: avoid; font-size: .85rem; }
.proof h2 { margin-top: 0; }
.proof dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .6rem 0 0; }
.proof dt { color: var(--soft); }
.proof dd { margin: 0; overflow-wrap: anywhere; font-size: .8rem;
  font-family: ui-monospace, "Liberation Mono", monospace; }
code { font-family: ui-monospace, "Liberation Mono", monospace; font-size: .95em; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  .figures div { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
@media (max-width: 40rem) { body { padding: 1rem; } header { display: block; } .right { text-align: left; }
  .wide { overflow-x: auto; } .prices td:nth-child(4) { min-width: 14rem; }
  .proof dl { grid-template-columns: 1fr; } .proof dd { margin-bottom: .4rem; } }
""".strip()


def statement_page(document: StatementDocument, text: bytes | None) -> bytes:
    """Returns the HTML of a document. ``text``: the document as it was written, to be carried; None leaves it out."""
    packed = b"" if text is None else base64.b64encode(gzip.compress(text, 6, mtime=0))
    return _body(document).encode() + DATA_START + packed + DATA_END + b"\n</body>\n</html>\n"


def page_matches(page: bytes, document: StatementDocument) -> bool:
    """Returns whether all that the page shows is what the document that it carries makes of it."""
    before, start, rest = page.partition(DATA_START)
    _, end, after = rest.partition(DATA_END)
    return before + start + end + after == statement_page(document, None)


def _body(document: StatementDocument) -> str:
    account, names = document.account, document.names
    month = parse_month(account.month)
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Statement {_text(account.month)}: {_text(names.tenant or account.tenant)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        "</head>",
        "<body>",
        _head(document, month.title),
        _figures(account),
        _balance(account),
        _models(account),
        _keys(document),
        _prices(document),
        _money(account.money),
        _remarks(account),
        _proof(document),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _head(document: StatementDocument, title: str) -> str:
    account, names = document.account, document.names
    provisional = "" if account.is_final else '<p class="provisional">Provisional</p>'
    last_day = words.day(account.until_us - 1)
    return (
        f"<header>\n<div><h1>Statement, {_text(title)}</h1>"
        f'<p class="soft">{words.day(account.from_us)} to {last_day}, in UTC</p>{provisional}</div>\n'
        f'<div class="right"><p class="name">{_text(names.tenant or account.tenant)}</p>'
        f'<p class="soft">{_text(account.tenant)}</p>'
        + (f'<p>From <span class="name">{_text(names.issuer)}</span></p>' if names.issuer else "")
        + f'<p class="soft">Issued {words.moment(account.issued_us)} UTC</p>'
        f'<p class="soft">Number {document.sha256[:16]}</p></div>\n</header>'
    )


def _figures(account: StatementAccount) -> str:
    total = account.total
    figures = [
        ("Billed", words.usd(total.billed_nano_usd)),
        ("Requests", f"{total.requests:,}"),
        ("Tokens", f"{total.prompt_tokens + total.completion_tokens:,}"),
    ]
    if account.has_balance:
        figures.insert(1, ("Closing balance", words.usd(account.closing_nano_usd)))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    return f'<dl class="figures">{items}</dl>'


def _balance(account: StatementAccount) -> str:
    if not account.has_balance:
        return ""
    lines = words.balance_lines(account)
    rows = [_row([name, words.usd(value)], [False, True]) for name, value in lines[:-1]]
    rows.append(_row([lines[-1][0], words.usd(lines[-1][1])], [False, True], "sum"))
    return f'<h2>Balance</h2>\n<table class="balance"><tbody>\n{"".join(rows)}</tbody></table>'


def _models(account: StatementAccount) -> str:
    money = _money_columns(account)
    heads = ["Model", "Requests", "Prompt", "Cached", "Completion", *(title for title, _ in money)]

    def cells(name: str, totals: AccountTotals) -> list[str]:
        counts = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
        return [
            name,
            *(f"{getattr(totals, member):,}" for member in counts),
            *(words.usd(getattr(totals, member)) for _, member in money),
        ]

    rows = [cells(_group_name(group.name or "(none)", words.other_units(group)), group) for group in account.by_model]
    return "<h2>Usage by model</h2>\n" + _table(
        heads, rows, cells("Total", account.total), "No requests in this month."
    )


def _money_columns(account: StatementAccount) -> list[tuple[str, str]]:
    """Returns what is billed; what it cost and what was charged only where that is another amount."""
    columns = [("Billed", "billed_nano_usd")]
    if any(group.cost_nano_usd != group.billed_nano_usd for group in account.by_model):
        columns.insert(0, ("Cost", "cost_nano_usd"))
    if account.has_balance and any(group.charged_nano_usd != group.billed_nano_usd for group in account.by_model):
        columns.append(("Charged", "charged_nano_usd"))
    return columns


def _keys(document: StatementDocument) -> str:
    account, names = document.account, document.names
    if not account.by_key:
        return ""
    heads = ["Key", "Requests", "Prompt", "Completion", "Billed"]
    rows = [
        [
            _group_name(names.keys.get(group.name, group.name), group.name if group.name in names.keys else ""),
            f"{group.requests:,}",
            f"{group.prompt_tokens:,}",
            f"{group.completion_tokens:,}",
            words.usd(group.billed_nano_usd),
        ]
        for group in account.by_key
    ]
    return "<h2>Usage by key</h2>\n" + _table(heads, rows, None, "")


def _prices(document: StatementDocument) -> str:
    if not document.account.by_price:
        return ""
    heads = ["Model", "From", "To", "Price (USD)", "Billed at", "Requests", "Billed"]

    def cells(line: PriceLine) -> list[str]:
        return [
            _text(line.model),
            _whole(words.day(line.first_us)),
            _whole(words.day(line.last_us)),
            _text(words.rates(document.prices.get(line.price_hash))),
            words.factor(line.price_factor_ppm),
            f"{line.requests:,}",
            words.usd(line.billed_nano_usd),
        ]

    rows = [cells(line) for line in document.account.by_price]
    table = _table(heads, rows, None, "", numbers=(False, False, False, False, True, True, True))
    return f'<h2>Prices</h2>\n<div class="prices">{table}</div>'


def _money(money: Sequence[MoneyLine]) -> str:
    if not money:
        return ""
    kinds = {"payment": "Payment", "credit": "Credit", "refund": "Paid back"}

    def cells(line: MoneyLine) -> list[str]:
        details = f"<small>{_text(line.transaction)}</small>" if line.transaction else ""
        return [
            _whole(words.moment(line.at_us)),
            kinds[line.kind],
            _text(line.payment or line.receipt) + details,
            words.usd(line.credited_nano_usd - line.charged_nano_usd),
        ]

    rows = [cells(line) for line in money[:_MONEY_MOST]]
    rest = money[_MONEY_MOST:]
    if rest:
        sums = sum(line.credited_nano_usd - line.charged_nano_usd for line in rest)
        rows.append(["", "", f"and {len(rest):,} more, in the data", words.usd(sums)])
    heads = ["Time (UTC)", "What", "Reference", "Amount"]
    return "<h2>Payments and credits</h2>\n" + _table(heads, rows, None, "", numbers=(False, False, False, True))


def _remarks(account: StatementAccount) -> str:
    told = words.remarks(account)
    return f'<ul class="remarks">{"".join(f"<li>{_text(line)}</li>" for line in told)}</ul>' if told else ""


def _proof(document: StatementDocument) -> str:
    account = document.account
    lines = document.checkpoint.split("\n")
    origin, size, root = (*lines, "", "", "")[:3]
    covers = f"{account.receipts:,}, numbers {account.first:,} to {account.last:,} of the account"
    fields = [
        ("Receipts", covers if account.receipts else "none in this month"),
        ("Log", f"{origin}, {size} receipts"),
        ("Root", root),
        ("Key of the log", document.key),
        ("Anchor", "none yet" if document.anchor is None else "a Solana transaction carries a checkpoint of the log"),
        ("SHA-256", document.sha256),
    ]
    items = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in fields)
    return (
        '<section class="proof"><h2>This statement proves itself</h2>\n'
        "Its HTML or JSON file carries the receipt of every request, and the proof that the log has them all: nothing "
        "was added, left out or priced otherwise. Every sum above can be added up again from them, without trusting "
        "the issuer: with <code>trustgate statement verify FILE</code>, with <code>verify.mjs</code> and Node, or on "
        "the page that a gateway shows at its address.\n"
        f"<dl>{items}</dl></section>"
    )


def _whole(text: str) -> str:
    return f'<span class="whole">{text}</span>'


def _group_name(name: str, detail: str) -> str:
    return _text(name) + (f"<small>{_text(detail)}</small>" if detail else "")


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    sums: Sequence[str] | None,
    empty: str,
    numbers: Sequence[bool] | None = None,
) -> str:
    """Cells are HTML. ``numbers``: which columns are aligned right; unless said all but the first."""
    right = numbers or [at > 0 for at in range(len(heads))]
    if not rows:
        return f'<p class="soft">{empty}</p>'
    head = "".join(f"<th{_class(is_number)}>{name}</th>" for name, is_number in zip(heads, right, strict=True))
    body = "".join(_row(row, right) for row in rows)
    if sums is not None and len(rows) > 1:
        body += _row(sums, right, "sum")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _row(cells: Iterable[str], right: Sequence[bool], name: str = "") -> str:
    made = "".join(f"<td{_class(is_number)}>{cell}</td>" for cell, is_number in zip(cells, right, strict=True))
    opened = f'<tr class="{name}">' if name else "<tr>"
    return f"{opened}{made}</tr>\n"


def _class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _text(text: str) -> str:
    return escape(words.printable(text))
