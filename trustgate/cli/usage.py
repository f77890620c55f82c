"""``trustgate usage``: what was used, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from trustgate.admin.commands import Admin, KeyList, TenantList
from trustgate.admin.log_commands import UsageShow
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, with_admin
from trustgate.cli.output import sink
from trustgate.errors import InvalidRequest
from trustgate.store import UsageRow
from trustgate.store.queries import UsageGroup
from trustgate.types import ApiKey

_BAR_WIDTH = 16
_SPARK_DAYS = 90
#: What stands in its own order.
_TIMES = ("day", "hour")

_SUMS = tuple(name for name in UsageRow.__struct_fields__ if name != "group")


def register(app: typer.Typer) -> None:
    app.command("usage", short_help="Show requests, tokens and cost.")(usage)


def usage(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant.")] = None,
    by: Annotated[UsageGroup, typer.Option(help="Group by.")] = "day",
    since: Annotated[
        int | None,
        typer.Option(metavar="WHEN", parser=values.since, help="Start: 7d, today, month or 2026-01-31 (UTC)."),
    ] = None,
    until: Annotated[int | None, typer.Option(metavar="WHEN", parser=values.since, help="End, exclusive.")] = None,
    month: Annotated[
        str | None,
        typer.Option(metavar="MONTH", parser=values.month, help="A whole month instead: last, this or 2026-10 (UTC)."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg|png", help="Also draw requests, tokens and cost into this file (.svg or .png)."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show requests, tokens and cost by day, hour, model, key or tenant.

    Days and hours stand in their order, the rest by what they cost, the dearest first. Requests are answered ones;
    refused and failed ones are counted separately and cost nothing.
    """

    if plot is not None:
        from trustgate.cli.plot import writer

        writer(plot)  # refuses before the work what cannot be
    if month is not None:
        if since is not None or until is not None:
            raise InvalidRequest("--month is a span of its own: leave out --since and --until.", param="month")
        from trustgate.statements.months import parse_month

        whole = parse_month(month)
        since, until = whole.from_us, whole.until_us

    async def work(admin: Admin) -> tuple[tuple[UsageRow, ...], dict[str, str]]:
        rows = await admin.execute(UsageShow(by=by, tenant=tenant, since_us=since, until_us=until))
        return rows, await _names(admin, by, with_tenant=tenant is None)

    found, names = with_admin(context, work)
    rows = found if by in _TIMES else tuple(sorted(found, key=_dearest_first))
    total = {name: sum(getattr(row, name) for row in rows) for name in _SUMS}
    if plot is not None:
        _draw(plot, by, rows, names)
    if json:
        listed = [{"name": names.get(row.group, row.group), **render.plain(row)} for row in rows]
        render.document({"usage": listed, "total": total})
    else:
        _print(by, rows, total, names)


def _dearest_first(row: UsageRow) -> tuple[int, int, int, str]:
    return -row.billed_nano_usd, -row.cost_nano_usd, -row.requests, row.group


async def _names(admin: Admin, by: UsageGroup, *, with_tenant: bool) -> dict[str, str]:
    """People's names for the ids that rows are grouped by. Of keys the name that all have at first is left out."""
    if by not in ("tenant", "key"):
        return {}
    tenants = {tenant.id: tenant.name for tenant in await admin.execute(TenantList(removed=True))}
    if by == "tenant":
        return tenants

    def name(key: ApiKey) -> str:
        whose = tenants.get(key.tenant_id, key.tenant_id) if with_tenant else ""
        return " ".join(part for part in (whose, "" if key.name == "default" else key.name, key.redacted) if part)

    return {key.id: name(key) for key in await admin.execute(KeyList(revoked=True))}


def _print(by: UsageGroup, rows: Sequence[UsageRow], total: Mapping[str, int], names: Mapping[str, str]) -> None:
    most = max((row.requests for row in rows), default=0)
    columns = _columns(total)
    is_billed = columns[-1][0] == "Billed"
    listed: list[list[render.Cell]] = [
        [
            names.get(row.group, row.group) or "(none)",
            *(write(getattr(row, name)) for _, name, write in columns),
            render.Styled(render.bar(row.requests, most, _BAR_WIDTH), "cyan"),
        ]
        for row in rows
    ]
    if len(listed) > 1:
        listed.append(["Total", *(write(total[name]) for _, name, write in columns), ""])
    head = {"day": "Day (UTC)", "hour": "Hour (UTC)", "end_user": "End user"}.get(by, by.capitalize())
    render.table(
        [head, *(render.right(title) for title, _, _ in columns), ""],
        listed,
        empty="No usage in that time.",
        optional=("", "Cached", "Failed", "Refused", *(["Cost"] if is_billed else []), "Completion", "Prompt"),
    )
    if by == "day" and len(rows) > 2:
        for title, values in (
            ("Requests", [row.requests for row in rows]),
            ("Tokens", [row.prompt_tokens + row.completion_tokens for row in rows]),
            ("Cost", [row.cost_nano_usd for row in rows]),
        ):
            render.say(f"{title:<10}{render.sparkline(values, _SPARK_DAYS)}")
    _remark(total)


def _remark(total: Mapping[str, int]) -> None:
    if total["estimated"]:
        render.say(
            f"{render.number(total['estimated'])} of the requests were metered by an estimate: "
            "the LLM server did not report their usage."
        )
    if total["unpriced"]:
        render.say(
            render.Styled(
                f"{render.number(total['unpriced'])} of the requests had a model without a price: what they cost is "
                "not known and not in the sums. Set it: trustgate passport set MODEL --input-price USD …, or --free",
                "yellow",
            )
        )
    if total["billed_nano_usd"] != total["cost_nano_usd"]:
        render.say(f"Billed by the tenants' plans: {render.usd(total['billed_nano_usd'])} in all.")


def _columns(total: Mapping[str, int]) -> list[tuple[str, str, Callable[[int], str]]]:
    """Title, sum and form of each column that has something to show."""
    numbers = [
        ("Requests", "requests"),
        ("Refused", "refused"),
        ("Failed", "failed"),
        ("Prompt", "prompt_tokens"),
        ("Cached", "cached_tokens"),
        ("Completion", "completion_tokens"),
    ]
    shown = [
        (title, name, render.number)
        for title, name in numbers
        if total[name] or title in ("Requests", "Prompt", "Completion")
    ]
    money = [("Cost", "cost_nano_usd", render.usd)]
    if total["billed_nano_usd"] != total["cost_nano_usd"]:
        money.append(("Billed", "billed_nano_usd", render.usd))
    return [*shown, *money]


def _draw(file: Path, by: UsageGroup, rows: Sequence[UsageRow], names: Mapping[str, str]) -> None:
    from trustgate.cli.plot import Panel, svg, writer

    def panel(title: str, values: Sequence[int], write: Callable[[int], str]) -> Panel:
        groups = [names.get(row.group, row.group) for row in rows]
        return Panel(title, [(name, value, write(value)) for name, value in zip(groups, values, strict=True)])

    picture = svg(
        f"Usage by {by}",
        [
            panel("Requests", [row.requests for row in rows], render.number),
            panel("Tokens", [row.prompt_tokens + row.completion_tokens for row in rows], render.number),
            panel("Cost", [row.cost_nano_usd for row in rows], render.usd),
        ],
    )
    drawn = writer(file)(picture)
    with sink(file, force=True) as into:
        into.put(drawn)
