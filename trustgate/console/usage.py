"""The pages of usage, and of requests as they come."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trustgate.admin.commands import KeyList, TenantList
from trustgate.admin.log_commands import UsageShow
from trustgate.console.lists import only_some
from trustgate.console.live import latest
from trustgate.console.overview import day_charts
from trustgate.console.view import Shown, View, link, tenant_field, tenant_names, url
from trustgate.formats.written import instant, number, usd
from trustgate.ids import MICROSECONDS_PER_SECOND, iso_us, now_us
from trustgate.store import UsageRow
from trustgate.web.charts import Bar, columns, ranks
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import (
    command,
    heading,
    heads,
    message,
    select_field,
    table,
    text_field,
)

_DAY_US = 86_400 * MICROSECONDS_PER_SECOND
_BARS_MOST = 12
_ROWS_MOST = 500


def since_days(days: int) -> int:
    """Returns the beginning (UTC) of the day so many days ago, today counted as one."""
    return (now_us() // _DAY_US - days + 1) * _DAY_US


# usage


async def usage(view: View) -> Shown:
    by = view.get("by") if view.get("by") in _GROUPS else "day"
    days = int(view.get("days")) if view.get("days") in dict(_SPANS) else 30
    tenant = view.get("tenant") or None
    since_us = since_days(days)
    rows = await view.admin.execute(UsageShow(by=by, tenant=tenant, since_us=since_us))  # type: ignore[arg-type]
    named = await _group_names(view, by)
    tenants = await view.admin.execute(TenantList(removed=True))
    choices = [(each.id, each.name) for each in tenants]
    line = f"trustgate usage --by {by} --since {iso_us(since_us)[:10]}"
    line += f" --tenant {shlex.quote(tenant)}" if tenant else ""
    body = join(
        heading("Usage"),
        tag(
            "form",
            {"class": "line", "method": "get", "action": url("usage")},
            select_field("by", "By", [(name, name) for name in _GROUPS], value=by),
            select_field("days", "Time", _SPANS, value=str(days)),
            tenant_field(choices, tenant or "", empty="all"),
            tag("div", {"class": "field"}, tag("button", {"type": "submit"}, "Show")),
        ),
        _usage_charts(rows, by, named, since_us),
        _usage_table(rows, by, named),
        tag("h2", None, "The same on the command line"),
        command(line, "usage-line"),
    )
    return Shown("Usage", body)


_GROUPS = ("day", "hour", "model", "tenant", "key", "end_user")
_SPANS = (("1", "today"), ("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("365", "365 days"))


async def _group_names(view: View, by: str) -> Mapping[str, str]:
    if by == "tenant":
        return await tenant_names(view.admin)
    if by == "key":
        return {key.id: f"{key.redacted} ({key.name})" for key in await view.admin.execute(KeyList(revoked=True))}
    return {}


def _usage_charts(rows: Sequence[UsageRow], by: str, named: Mapping[str, str], since_us: int) -> Html:
    if by == "day":
        return day_charts(rows, since_us)
    if by == "hour":
        latest_rows = rows[-_ROWS_MOST:]
        bars = [Bar(row.group[5:], row.requests, number(row.requests)) for row in latest_rows]
        costs = [Bar(row.group[5:], row.cost_nano_usd, usd(row.cost_nano_usd)) for row in latest_rows]
        return tag("div", {"class": "cards"}, columns("Requests an hour", bars), columns("Cost an hour", costs))
    if not rows:
        return join()
    busy = sorted(rows, key=lambda row: -row.requests)[:_BARS_MOST]
    dear = sorted(rows, key=lambda row: -row.cost_nano_usd)[:_BARS_MOST]
    name, by = _named(named), by.replace("_", " ")
    return tag(
        "div",
        {"class": "cards"},
        ranks(f"Requests by {by}", [Bar(name(row), row.requests, number(row.requests)) for row in busy]),
        ranks(f"Cost by {by}", [Bar(name(row), row.cost_nano_usd, usd(row.cost_nano_usd)) for row in dear]),
    )


def _named(named: Mapping[str, str]) -> Any:
    return lambda row: named.get(row.group, row.group) or "(none)"


def _usage_table(rows: Sequence[UsageRow], by: str, named: Mapping[str, str]) -> Html:
    numbers = ("Requests", "Refused", "Failed", "Prompt", "Cached", "Completion", "Cost", "Billed")
    titles = heads(by.replace("_", " ").capitalize(), *(f">{name}" for name in numbers))
    counted = ("requests", "refused", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")
    money = ("cost_nano_usd", "billed_nano_usd")

    def cells(first: object, value: Any) -> list[object]:
        return [first, *(number(value(name)) for name in counted), *(usd(value(name)) for name in money)]

    shown, which = rows[-_ROWS_MOST:], "the latest"
    if by not in ("day", "hour") and len(rows) > _ROWS_MOST:
        shown, which = sorted(rows, key=lambda row: -row.cost_nano_usd)[:_ROWS_MOST], "the dearest"
    listed = [cells(_named(named)(row), lambda name, row=row: getattr(row, name)) for row in shown]
    total = cells("Total", lambda name: sum(getattr(row, name) for row in rows))
    return join(
        only_some(len(shown), len(rows), which),
        table("Usage", titles, listed, empty="No requests in this time.", total=total, hide_caption=True),
    )


# requests as they come


async def live(view: View) -> Shown:
    named = await tenant_names(view.admin)
    newest = list(await latest(view.admin, view.settings, view.recent))[-100:][::-1]
    rows = [
        tag(
            "tr",
            {"data-id": receipt.id},
            tag("th", {"scope": "row", "class": "whole"}, link(instant(receipt.created_us), "receipts", receipt.id)),
            tag("td", None, named.get(receipt.tenant, receipt.tenant)),
            tag("td", None, receipt.endpoint),
            tag("td", None, receipt.model),
            tag("td", {"class": "n"}, receipt.status),
            tag("td", None, receipt.finish),
            tag("td", {"class": "n"}, number(receipt.prompt_tokens + receipt.completion_tokens)),
            tag("td", {"class": "n"}, usd(receipt.cost_nano_usd)),
            tag("td", {"class": "n"}, number(receipt.latency_total_ms)),
        )
        for receipt in newest
    ]
    numbers = {"Status", "Tokens", "Cost", "ms"}
    titles = ("Time", "Tenant", "Endpoint", "Model", "Status", "Ended", "Tokens", "Cost", "ms")
    head = [tag("th", {"scope": "col", "class": "n" if title in numbers else None}, title) for title in titles]
    box = {"class": "wide", "tabindex": "0", "role": "region", "aria-label": "Requests"}
    state = tag("span", {"id": "live-state", "class": "state", "role": "status"}, "Not live")
    pause: dict[str, str | int | bool | None] = {"type": "button", "id": "live-pause", "aria-pressed": "false"}
    pause["hidden"] = True
    body = join(
        heading("Requests as they come", beside=state),
        tag(
            "form",
            {"class": "line", "role": "search", "method": "get", "action": url("requests")},
            text_field("live", "Filter", kind="search"),
            tag("div", {"class": "field"}, tag("button", pause, "Pause")),
        ),
        tag("noscript", None, message("wary", "Scripts are switched off: reload the page for newer requests.")),
        tag(
            "div",
            box,
            tag(
                "table",
                None,
                tag("caption", {"class": "visually-hidden"}, "The last requests, the newest first"),
                tag("thead", None, tag("tr", None, head)),
                tag("tbody", {"id": "live-log"}, rows),
            ),
        ),
        tag("p", None, "All of them: ", link("receipts", "receipts")),
    )
    return Shown("Requests", body, ("base.js", "console/live.js"))
