"""``trustgate statement``: what a tenant used, was billed and paid in a month, in a file that proves itself."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from trustgate.admin.commands import Admin
from trustgate.admin.money import StatementExport, StatementMonths
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute, with_admin
from trustgate.cli.output import STDOUT, sink
from trustgate.cli.receipt import read_file
from trustgate.errors import InvalidRequest
from trustgate.statements import words
from trustgate.statements.account import AccountGroup

if TYPE_CHECKING:
    from trustgate.statements.document import StatementDocument
    from trustgate.statements.opening import Opening
    from trustgate.statements.verify import StatementVerdict

Format = Literal["html", "pdf", "csv", "json"]
_ENDINGS: dict[str, Format] = {".html": "html", ".htm": "html", ".pdf": "pdf", ".csv": "csv", ".json": "json"}


class _Statements(TyperGroup):
    """A tenant's name in the place of a command is that of ``make``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Statements,
    help="Monthly statements that prove themselves.",
    epilog="A tenant's statement: trustgate statement TENANT --month last -o october.html",
    no_args_is_help=True,
)

_Month = Annotated[
    str, typer.Option("--month", metavar="MONTH", parser=values.month, help="2026-10, last or this (UTC).")
]


@app.command("make")
def make(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Id or name.")],
    month: _Month = "last",
    format: Annotated[
        Format | None, typer.Option("--format", help="The format, if the name of FILE does not show it.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write: .html, .pdf, .csv, .json, .json.gz."),
    ] = None,
    issuer: Annotated[str, typer.Option(metavar="TEXT", help="Whose statement it is: a name for its head.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a tenant's statement of a month; the word make can be left out.

    HTML and JSON carry the receipts and the proof that the log has them all. Without a format the sums are shown here.
    """
    chosen = _format(output, format)
    if chosen == "pdf":
        from trustgate.statements.pdf import find_browser

        find_browser()  # refuses before the work what cannot be
    text = _fetched(context, StatementExport(tenant=tenant, month=month, issuer=issuer), quiet=json)
    from trustgate.statements.document import outline

    document = outline(text)
    into = STDOUT if output is None and format is not None else output
    if into is not None:
        packs = output is not None and output.name.endswith(".gz")
        data = _written(document, text, chosen or "html")
        with sink(into, force=force) as file:
            file.put(gzip.compress(data, mtime=0) if packs else data)
    if json and into != STDOUT:
        render.document(
            {"file": None if output is None else str(output), "sha256": document.sha256, **_plain(document)}
        )
    elif into is None:
        _show(document)
    elif output is not None:
        render.say(f"Wrote {output}. {_next_step(output, chosen)}", to_stderr=True)
    _check_own(text)


def _fetched(context: typer.Context, command: StatementExport, *, quiet: bool) -> bytes:
    text = bytearray()

    async def write(data: bytes) -> None:
        text.extend(data)

    async def work(admin: Admin) -> None:
        await admin.feed(command, write)

    with render.waiting("Adding up", quiet=quiet):
        with_admin(context, work)
    return bytes(text)


def _format(output: Path | None, given: Format | None) -> Format | None:
    if output is None or output == STDOUT:
        if given == "pdf":
            raise InvalidRequest("A PDF needs a file: --output FILE.pdf.", param="output")
        return given
    ending = Path(output.name.removesuffix(".gz")).suffix.lower()
    chosen = given or _ENDINGS.get(ending)
    if chosen is None:
        raise InvalidRequest(
            f"{output.name} does not show the format: it ends in none of {', '.join(_ENDINGS)}.",
            hint="Name it, or say which: --format html",
            param="output",
        )
    return chosen


def _written(document: StatementDocument, text: bytes, format: Format) -> bytes:
    if format == "json":
        return text
    if format == "csv":
        from trustgate.statements.sheet import statement_csv

        return statement_csv(document)
    from trustgate.statements.page import statement_page

    if format == "html":
        return statement_page(document, text)
    from trustgate.statements.pdf import statement_pdf

    with render.waiting("Printing", quiet=False):
        return statement_pdf(statement_page(document, None))


def _next_step(output: Path, chosen: Format | None) -> str:
    if chosen in ("html", "json"):
        return f"Check it: trustgate statement verify {output}"
    return "It can be printed or filed; what proves itself is the HTML or JSON file."


def _check_own(text: bytes) -> None:
    """Check what was made before it is sent. Raises ``VerificationFailed``."""
    from trustgate.statements.verify import verify_statement

    verify_statement(text).require()


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Id or name.")],
    json: JsonOption = False,
) -> None:
    """List the months in which a tenant has receipts."""
    months = execute(context, StatementMonths(tenant=tenant))
    if json:
        render.document({"months": months})
        return
    render.table(["Month"], [[month] for month in months], empty="The tenant has no receipts yet.")


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A statement, HTML or JSON; - is stdin.")],
    previous: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A statement of a month before, for the opening balance; repeatable."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="VKEY", help="The log's verifier key, as its operator publishes it (/log/keys)."),
    ] = None,
    payer: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The address that pays for the log's anchors."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a statement, offline and without a database: add every sum up again from its receipts.

    Exit code 7 at the first check that fails.
    """
    from trustgate.receipts.note import VerifierKey
    from trustgate.statements.verify import verify_statement

    vkey = None if key is None else VerifierKey.parse(key)
    earlier: list[Opening] = []
    for path in previous or ():
        before = verify_statement(read_file(path), key=vkey)
        if not before.ok and not json:
            render.say(f"{path}:")
            _print_checks(before)
        before.require()
        assert before.opening is not None, "a statement that holds shows what comes before the next"
        earlier.append(before.opening)
    verdict = verify_statement(read_file(file), key=vkey, fee_payer=payer, earlier=earlier)
    proven = verdict.document if verdict.ok else None
    if json:
        checks = [check._asdict() for check in verdict.checks]
        render.document({"ok": verdict.ok, "checks": checks, **({} if proven is None else _plain(proven))})
    else:
        _print_checks(verdict)
        if proven is not None:
            render.say("")
            _show(proven)
    verdict.require()


def _print_checks(verdict: StatementVerdict) -> None:
    for check in verdict.checks:
        render.check(check.state, check.name, check.detail)


def _plain(document: StatementDocument) -> dict[str, Any]:
    return {"account": document.account, "names": document.names}


def _show(document: StatementDocument) -> None:
    """The sums, in a terminal."""
    account, names = document.account, document.names
    total = account.total
    render.card(
        [
            ("Tenant", f"{names.tenant} ({account.tenant})" if names.tenant else account.tenant),
            ("Month", f"{account.month} (UTC)"),
            ("Receipts", f"{account.receipts:,}, numbers {account.first:,} to {account.last:,}"),
            ("Billed", words.usd(total.billed_nano_usd)),
            *([("Cost", words.usd(total.cost_nano_usd))] if total.cost_nano_usd != total.billed_nano_usd else []),
            *((name, words.usd(value)) for name, value in words.balance_lines(account) if account.has_balance),
            ("SHA-256", document.sha256),
        ]
    )
    render.say("")
    numbers = [render.right(title) for title in ("Requests", "Prompt", "Completion", "Billed")]
    rows = [_line(group.name or "(none)", group) for group in account.by_model]
    render.table(["Model", *numbers], _with_total(rows, document), empty="No requests in this month.")
    if len(account.by_key) > 1:
        render.say("")
        named = [_line(names.keys.get(group.name, group.name), group) for group in account.by_key]
        render.table(["Key", *numbers], named, empty="")
    for line in words.remarks(account):
        render.say(line)


def _line(name: str, group: AccountGroup) -> list[render.Cell]:
    return [
        name,
        render.number(group.requests),
        render.number(group.prompt_tokens),
        render.number(group.completion_tokens),
        words.usd(group.billed_nano_usd),
    ]


def _with_total(rows: list[list[render.Cell]], document: StatementDocument) -> Sequence[Sequence[render.Cell]]:
    total = document.account.total
    if len(rows) < 2:
        return rows
    counts = (total.requests, total.prompt_tokens, total.completion_tokens)
    return [*rows, ["Total", *map(render.number, counts), words.usd(total.billed_nano_usd)]]
