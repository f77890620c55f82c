"""The first page: whether all is well, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Sequence

from trustgate.admin.commands import Admin, Look, TenantList
from trustgate.admin.findings import Finding, findings_of
from trustgate.admin.log_commands import AnchorStatus, LogStatus, UsageShow
from trustgate.admin.money import PaymentList, PaymentTermsList
from trustgate.console.storage import disk_card
from trustgate.console.view import Shown, View, do, link, url, when, word
from trustgate.console.workers import now_title, worker_table
from trustgate.errors import TrustGateError
from trustgate.formats.written import number, rate, usd
from trustgate.ids import MICROSECONDS_PER_SECOND, iso_us, now_us
from trustgate.observe.live_stats import LiveStats, Load
from trustgate.store import UsageRow
from trustgate.types import OPEN
from trustgate.web.charts import Bar, columns
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import (
    Figure,
    buttons,
    card,
    command,
    facts,
    figures,
    heading,
    heads,
    link_button,
    message,
    table,
)

_DAYS = 30
#: Codes of failures besides those of LLM servers.
_FAILURES = frozenset(("internal_error", "model_unavailable", "request_deadline", "storage_full", "store_unreachable"))
#: Of requests; more that fail are shown above all else.
_FAILED_MOST = 0.1
_DAY_US = 86_400 * MICROSECONDS_PER_SECOND


async def overview(view: View) -> Shown:
    admin = view.admin
    live = await admin.execute(Look())
    log = await admin.execute(AnchorStatus())
    since_us = (now_us() // _DAY_US - _DAYS + 1) * _DAY_US
    days = await admin.execute(UsageShow(by="day", since_us=since_us))
    findings = await findings_of(admin, view.settings)
    is_new = not live.receipts and not await admin.execute(TenantList())
    body = join(
        heading("Overview", beside=tag("span", {"class": "soft"}, f"{live.address}, version {live.version}")),
        _findings(findings, live),
        _first_steps(live) if is_new else None,
        now_title(view, live.window_s),
        now_figures(live),
        tag(
            "div",
            {"class": "cards"},
            card("Busiest tenants", _loads("Busiest tenants", live.tenants)),
            card("Busiest models", _loads("Busiest models", live.models)),
        ),
        worker_table(view),
        tag("h2", None, f"The last {_DAYS} days"),
        usage_by_day(days, since_us),
        tag("p", None, link("Usage by model, tenant and key", "usage")),
        tag("div", {"class": "cards"}, _upstreams(live), _log(live, log), await _money(admin), disk_card(view)),
    )
    return Shown("Overview", body, ("base.js", "console/live.js"))


def _first_steps(live: LiveStats) -> Html:
    """Returns what is to be done with a new gateway."""
    steps = (
        (
            "Add a tenant: an app, a team or a customer. Its key is shown once.",
            join(buttons(do("Add a tenant", "tenant.add")), command("trustgate tenant add acme", "first-tenant")),
        ),
        ("Ask a model with that key. trustgate/echo is built in and needs no LLM server:", trial(live.address)),
        (
            "See it come in, with what it cost and its receipt.",
            tag("p", None, link("Requests", "requests"), " · ", link("Receipts", "receipts")),
        ),
        (
            "Say where your models are served. A name without an entry goes to the LLM server of the settings.",
            buttons(do("Add a model", "passport.add"), link_button(url("models"), "Models")),
        ),
    )
    listed = [tag("li", None, tag("strong", None, told), how) for told, how in steps]
    return card("First steps", tag("ol", {"class": "steps"}, listed))


def trial(address: str) -> Html:
    """Returns a request to try a key with."""
    body = '{"model":"trustgate/echo","messages":[{"role":"user","content":"Hello"}]}'
    line = (
        f'curl -s {address}/v1/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" '
        f"-H \"Content-Type: application/json\" -d '{body}'"
    )
    return command(line, "trial-line")


def now_figures(live: LiveStats) -> Html:
    """Returns the numbers of now; a script puts newer ones in their place (``/console/live``)."""
    load = live.all
    told = ", ".join(f"{code} {rate:g}/s" for code, rate in live.errors.items())
    errors = tag("span", {"id": "live-errors"}, told)
    most = f"of at most {number(live.in_flight_limit)}"
    return figures(
        [
            Figure("Requests a second", rate(load.requests_per_s), id="live-requests"),
            Figure("Tokens a second", rate(load.tokens_per_s), id="live-tokens"),
            Figure("Cost a second", usd(load.cost_nano_usd_per_s), id="live-cost"),
            Figure("Failed", f"{load.failed:.1%}", errors, id="live-failed"),
            Figure("In flight", number(live.in_flight), most, id="live-in-flight"),
            Figure("First byte, p50 / p99", f"{load.first_p50_ms} / {load.first_p99_ms} ms", id="live-first"),
        ]
    )


def _findings(findings: Sequence[Finding], live: LiveStats) -> Html:
    wrong = [finding for finding in findings if finding.status != "ok"]
    # Findings are looked for at an interval; requests that fail are counted at once.
    failures = {code: per_s for code, per_s in live.errors.items() if _is_failure(code)}
    failing = sum(failures.values()) > _FAILED_MOST * live.all.requests_per_s
    if not wrong and not failing:
        return message("good", tag("p", None, tag("strong", None, "All is well."), " Nothing needs to be done."))
    shown = [
        message(
            "bad" if finding.status == "fail" else "wary",
            tag("p", None, tag("strong", None, finding.name), ": ", finding.message),
            _mend(finding, f"mend-{at}"),
        )
        for at, finding in enumerate(wrong)
    ]
    if failing:
        told = f"Requests fail just now: {', '.join(f'{code} {per_s:g}/s' for code, per_s in failures.items())}. "
        shown.insert(0, message("bad", tag("p", None, told, link("See them", "receipts", status="5xx"))))
    return tag("section", {"aria-label": "What needs to be looked at"}, shown)


def _is_failure(code: str) -> bool:
    """Returns whether a code is a failure of servers, and no refusal that a caller deserves."""
    return code.startswith("upstream_") or code in _FAILURES


def _mend(finding: Finding, name: str) -> Html | None:
    if not finding.hint:
        return None
    is_command = finding.hint.startswith("trustgate ")
    return command(finding.hint, name) if is_command else tag("p", None, finding.hint)


def _loads(caption: str, loads: Sequence[Load]) -> Html:
    titles = heads("Name", ">Requests /s", ">Tokens /s", ">p50 ms")
    rows = [
        (load.name or "(none)", rate(load.requests_per_s), rate(load.tokens_per_s), number(load.total_p50_ms))
        for load in loads[:8]
    ]
    return table(caption, titles, rows, empty="No requests just now.", hide_caption=True)


def usage_by_day(rows: Sequence[UsageRow], since_us: int) -> Html:
    """Returns requests and cost of each day as charts, and their table."""
    titles = heads("Day (UTC)", ">Requests", ">Prompt", ">Completion", ">Cost")
    listed = [
        (row.group, *map(number, (row.requests, row.prompt_tokens, row.completion_tokens)), usd(row.cost_nano_usd))
        for row in sorted(rows, key=lambda row: row.group, reverse=True)
    ]
    figures_ = table("Usage by day", titles, listed, empty="No requests yet.", hide_caption=True)
    return join(day_charts(rows, since_us), tag("details", None, tag("summary", None, "The figures"), figures_))


def day_charts(rows: Sequence[UsageRow], since_us: int) -> Html:
    """Returns requests and cost of each day since then, days without any included."""
    found = {row.group: row for row in rows}
    requests, costs = [], []
    for at in range((now_us() - since_us) // _DAY_US + 1):
        day = iso_us(since_us + at * _DAY_US)[:10]
        row = found.get(day)
        count, cost = (row.requests, row.cost_nano_usd) if row else (0, 0)
        requests.append(Bar(day[5:], count, number(count)))
        costs.append(Bar(day[5:], cost, usd(cost)))
    return tag("div", {"class": "cards"}, columns("Requests a day", requests), columns("Cost a day", costs))


def _upstreams(live: LiveStats) -> Html:
    rows = [
        (
            join(upstream.name, tag("small", None, tag("br"), upstream.detail) if upstream.detail else None),
            word("not probed" if upstream.healthy is None else "answers" if upstream.healthy else "does not answer"),
        )
        for upstream in live.upstreams
    ]
    return card("Upstreams", table("Upstreams", ["Address", "State"], rows, hide_caption=True))


def _log(live: LiveStats, log: LogStatus) -> Html:
    return card(
        "Log of receipts",
        facts(
            [
                ("Name", log.origin),
                ("Receipts", tag("span", {"id": "live-receipts"}, number(live.receipts))),
                ("In the signed checkpoint", number(live.checkpoint_size)),
                ("Waiting for the database", number(live.pending)),
                (
                    "Last anchor",
                    "none yet"
                    if not log.anchored_us
                    else join(when(log.anchored_us), f" ({number(log.anchored_size)} receipts)"),
                ),
                ("Schedule", log.schedule or "none: trustgate anchor flush"),
                *([("Problem", problem)] if (problem := log.problem or live.log_problem) else []),
            ]
        ),
        tag("p", None, link("Anchors", "anchors")),
    )


async def _money(admin: Admin) -> Html:
    terms = [detail for detail in await admin.execute(PaymentTermsList()) if detail.terms.mode != "off"]
    waiting = await admin.execute(PaymentList(states=tuple(sorted(OPEN)), limit=1000))  # type: ignore[arg-type]
    doubt = [payment for payment in waiting if payment.state == "unknown"]
    return card(
        "Money",
        facts(
            [
                ("Tenants that pay", number(len(terms))),
                ("Their balances", usd(sum(detail.balance_nano_usd for detail in terms))),
                ("Payments under way", number(len(waiting) - len(doubt))),
                (
                    "Payments of unknown outcome",
                    join(word("unknown"), f" {number(len(doubt))}: trustgate payment reconcile") if doubt else "none",
                ),
            ]
        ),
        tag("p", None, link("Payments and balances", "payments")),
    )


def refusal(error: TrustGateError) -> Shown:
    """Returns the page of a refusal, with what to do next."""
    hint = tag("p", None, error.hint) if error.hint else None
    body = join(heading("That did not work"), message("bad", tag("p", None, error.message), hint))
    return Shown("Not done", body, status=error.status)
