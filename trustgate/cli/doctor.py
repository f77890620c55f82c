"""``trustgate doctor``: finds problems and how to fix them.

Owns the order of the checks and how they are shown; ``checks`` has the checks themselves, ``admin.audit`` the audit.
"""

from __future__ import annotations

from typing import Annotated

import typer

from trustgate.admin.commands import Admin
from trustgate.admin.money import BooksAudit, BooksReport
from trustgate.cli import render
from trustgate.cli.context import JsonOption, session, with_admin
from trustgate.ids import new_id, now_us

#: Differences that a person is shown; a program gets all that there are.
_SHOWN_DIFFERENCES = 50


def register(app: typer.Typer) -> None:
    app.command("doctor", short_help="Find what is wrong, and how to fix it.")(doctor)


def doctor(
    context: typer.Context,
    books: Annotated[
        bool,
        typer.Option(
            "--books", help="Audit the books instead: receipts = log = usage = payments = balances = quotas, every one."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check the settings, the home folder, the database, the server, the LLM servers, payments, the clock and the disk.

    Changes nothing. Exits with 1 when something keeps the gateway from working. With TRUSTGATE_URL that server is
    checked instead. --books reads every receipt and payment, some minutes for a million; the server serves on.
    """
    if books:
        _audit(context, json)
        return
    from trustgate.admin.findings import Finding
    from trustgate.cli.checks import check_everything

    findings: list[Finding] = []
    for finding in check_everything(session(context)):
        findings.append(finding)
        if not json:
            render.finding(finding.status, finding.name, finding.message, finding.hint)
    failed = any(finding.status == "fail" for finding in findings)
    if json:
        render.document({"ok": not failed, "checks": findings})
    if failed:
        raise typer.Exit(1)


def _audit(context: typer.Context, json: bool) -> None:
    command = BooksAudit(audit=new_id("audit", now_us()))

    async def work(admin: Admin) -> BooksReport:
        with render.working("Bringing the books up to date", quiet=json) as say:
            while True:
                state = await admin.execute(command)
                if state.report is not None:
                    return state.report
                say(state.stage)

    report = with_admin(context, work, copied=True)
    if json:
        render.document({"ok": not report.difference_count, **render.plain(report)})
    else:
        _show(report)
    if report.difference_count:
        raise typer.Exit(1)


def _tenants(count: int) -> str:
    return "1 tenant" if count == 1 else f"{render.number(count)} tenants"


def _show(report: BooksReport) -> None:
    charged = report.charged_nano_usd - report.refunded_nano_usd
    fields: list[tuple[str, render.Cell]] = [
        ("Receipts", f"{render.number(report.receipts)} of {_tenants(report.tenants)}"),
        ("Payments", f"{render.number(report.payments)}, {render.number(report.open_payments)} of them open"),
        ("Paid", render.usd(report.paid_nano_usd)),
        ("Added by you", render.usd(report.added_nano_usd)),
        ("Charged", render.usd(charged)),
        ("Paid back", render.usd(report.refunded_nano_usd)),
        ("Balances", render.usd(report.balance_nano_usd)),
        ("Quotas", "checked" if report.quotas_checked else "none in memory: no server runs"),
    ]
    render.card(fields)
    for difference in report.differences[:_SHOWN_DIFFERENCES]:
        render.finding("fail", "books", f"{difference.record}: {difference.detail}", None)
    count = report.difference_count
    if not count:
        render.say(render.Styled("The books balance.", "green"))
    elif count > _SHOWN_DIFFERENCES:
        render.say(f"{render.number(count)} differences in all; --json shows {len(report.differences)} of them.")
