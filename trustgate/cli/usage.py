"""``trustgate usage``: what was used, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from trustgate.admin.commands import Admin, KeyList, TenantList, UsageShow
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, with_admin
from trustgate.cli.output import sink
from trustgate.store import UsageRow
from trustgate.store.base import UsageGroup

_BAR_WIDTH = 16
_SPARK_DAYS = 90

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
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg|png", help="Also draw requests, tokens and cost into this file (.svg or .png)."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show requests, tokens and cost by day, model, key or tenant.

    Requests are answered ones; refused and failed ones are counted separately and cost nothing.
    """

    if plot is not None:
        from trustgate.cli.plot import writer

        writer(plot)  # refuses before the work what cannot be

    async def work(admin: Admin) -> tuple[tuple[UsageRow, ...], dict[str, str]]:
        rows = await admin.execute(UsageShow(by=by, tenant=tenant, since_us=since))
        return rows, {} if json and plot is None else await _names(admin, by)

    rows, names = with_admin(context, work)
    total = {name: sum(getattr(row, name) for row in rows) for name in _SUMS}
    if plot is not None:
        _draw(plot, by, rows, names)
    if json:
        render.document({"usage": rows, "total": total})
    else:
        _print(by, rows, total, names)


async def _names(admin: Admin, by: UsageGroup) -> dict[str, str]:
    """People's names for the ids that rows are grouped by."""
    if by not in ("tenant", "key"):
        return {}
    tenants = {tenant.id: tenant.name for tenant in await admin.execute(TenantList(removed=True))}
    if by == "tenant":
        return tenants
    keys = await admin.execute(KeyList(revoked=True))
    return {key.id: f"{tenants.get(key.tenant_id, key.tenant_id)} {key.name} {key.redacted}" for key in keys}


def _print(by: UsageGroup, rows: Sequence[UsageRow], total: Mapping[str, int], names: Mapping[str, str]) -> None:
    most = max((row.requests for row in rows), default=0)
    listed = [
        [
            *_row(names.get(row.group, row.group), {name: getattr(row, name) for name in _SUMS}),
            render.Styled(render.bar(row.requests, most, _BAR_WIDTH), "cyan"),
        ]
        for row in rows
    ]
    if len(listed) > 1:
        listed.append([*_row("Total", total), ""])
    head = "Day (UTC)" if by == "day" else by.capitalize()
    numbers = ("Requests", "Refused", "Failed", "Prompt", "Cached", "Completion", "Cost")
    render.table([head, *map(render.right, numbers), ""], listed, empty="No usage in that time.")
    if by == "day" and len(rows) > 2:
        for title, values in (
            ("Requests", [row.requests for row in rows]),
            ("Tokens", [row.prompt_tokens + row.completion_tokens for row in rows]),
            ("Cost", [row.cost_nano_usd for row in rows]),
        ):
            render.say(f"{title:<10}{render.sparkline(values, _SPARK_DAYS)}")
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


def _row(group: str, sums: Mapping[str, int]) -> list[render.Cell]:
    counts = ("requests", "refused", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")
    return [group, *(render.number(sums[name]) for name in counts), render.usd(sums["cost_nano_usd"])]
