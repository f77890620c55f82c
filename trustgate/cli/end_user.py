"""``trustgate end-user``: the users of an app behind a key, by pseudonym."""

from __future__ import annotations

from typing import Annotated

import typer

from trustgate.admin.budgeting import EndUserList, EndUserSet, EndUserShow, EndUserUsage
from trustgate.cli import render, values
from trustgate.cli.budget import standings_table
from trustgate.cli.context import JsonOption, execute
from trustgate.errors import InvalidRequest

app = typer.Typer(
    help="End users: the users of an app behind a key, by pseudonym. A key has them with --end-users.",
    no_args_is_help=True,
)

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id or name.")]
UserArgument = Annotated[
    str, typer.Argument(metavar="USER", help="The end user, as the app names it, or its pseudonym (eu_…).")
]


@app.command("list")
def list_(
    context: typer.Context,
    tenant: TenantArgument,
    since: Annotated[
        int | None,
        typer.Option(metavar="WHEN", parser=values.since, help="Start: 7d, today, month or 2026-01-31 (UTC)."),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many.")] = 100,
    json: JsonOption = False,
) -> None:
    """List a tenant's end users, the dearest first."""
    listed = execute(context, EndUserList(tenant=tenant, since_us=since or 0, limit=limit))
    if json:
        render.document({"end_users": listed})
        return
    render.table(
        ["End user", *map(render.right, ("Requests", "Tokens", "Cost")), "Last (UTC)", "Status", "Own amounts"],
        [
            (
                each.end_user or "(unnamed)",
                render.number(each.requests),
                render.number(each.tokens),
                render.usd(each.cost_nano_usd),
                render.instant(each.last_us),
                _status(each),
                render.names(each.amounts),
            )
            for each in listed
        ],
        empty="No request has named an end user. A key's do with: trustgate key set KEY --end-users user",
    )


@app.command("show")
def show(context: typer.Context, tenant: TenantArgument, user: UserArgument, json: JsonOption = False) -> None:
    """Show an end user: its pseudonym, what it has used, and where its budgets stand."""
    detail = execute(context, EndUserShow(tenant=tenant, end_user=user))
    if json:
        render.document({"end_user": detail.usage, "budgets": detail.standings})
        return
    _card(detail.usage)
    if detail.standings:
        render.say("")
        standings_table(detail.standings, {})


@app.command("block")
def block(context: typer.Context, tenant: TenantArgument, user: UserArgument, json: JsonOption = False) -> None:
    """Refuse an end user's requests, from the next one on."""
    _changed(execute(context, EndUserSet(tenant=tenant, end_user=user, blocked=True)), json)


@app.command("unblock")
def unblock(context: typer.Context, tenant: TenantArgument, user: UserArgument, json: JsonOption = False) -> None:
    """Serve a blocked end user again."""
    _changed(execute(context, EndUserSet(tenant=tenant, end_user=user, blocked=False)), json)


@app.command("limit")
def limit(
    context: typer.Context,
    tenant: TenantArgument,
    user: UserArgument,
    budget: Annotated[str, typer.Option(metavar="BUDGET", help="A budget made with --each end-user.")],
    usd: Annotated[int | None, typer.Option(metavar="USD", parser=values.usd, help="Its own amount, in USD.")] = None,
    number: Annotated[
        int | None, typer.Option(metavar="N", parser=values.whole, help="Its own amount, in tokens or requests.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Give back the budget's amount.")] = False,
    json: JsonOption = False,
) -> None:
    """Give an end user another amount of a budget than the others have."""
    if sum((usd is not None, number is not None, reset)) != 1:
        raise InvalidRequest("An end user has one amount of a budget.", hint="Give one of --usd, --number and --reset.")
    amount = usd if usd is not None else number
    _changed(execute(context, EndUserSet(tenant=tenant, end_user=user, budget=budget, amount=amount)), json)


def _changed(usage: EndUserUsage, json: bool) -> None:
    if json:
        render.document({"end_user": usage})
    else:
        _card(usage)


def _card(usage: EndUserUsage) -> None:
    fields: list[tuple[str, render.Cell]] = [("End user", usage.end_user), ("Status", _status(usage))]
    if usage.last_us:
        fields += [
            ("Requests", render.number(usage.requests)),
            ("Tokens", render.number(usage.tokens)),
            ("Cost", render.usd(usage.cost_nano_usd)),
            ("First", render.instant_utc(usage.first_us)),
            ("Last", render.instant_utc(usage.last_us)),
        ]
    if usage.amounts:
        fields.append(("Own amounts of", render.names(usage.amounts)))
    render.card(fields)


def _status(usage: EndUserUsage) -> render.Styled:
    return render.Styled("blocked", "red") if usage.blocked else render.status("active")
