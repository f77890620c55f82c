"""The pages of what operators manage: tenants, keys, plans, budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trustgate.access.budget_counter import BudgetStanding
from trustgate.admin.budgeting import BudgetList
from trustgate.admin.commands import KeyList, KeyShow, PlanList, PlanShow, TenantList, TenantShow
from trustgate.admin.log_commands import ReceiptList, UsageShow
from trustgate.admin.money import PaymentTermsList, TenantCredit
from trustgate.console.books import receipts_table
from trustgate.console.chain import terms_card
from trustgate.console.lists import Filter, ListColumn, listing, only_some
from trustgate.console.overview import usage_by_day
from trustgate.console.usage import since_days
from trustgate.console.view import Shown, View, do, link, moment, tenant_names, url, when, word
from trustgate.console.words import amount, everything, for_whom, limit_facts, per, scope_facts, windows
from trustgate.formats.written import factor, names, number, usd
from trustgate.ids import now_us
from trustgate.types import ApiKey, Budget, Plan, Tenant
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import buttons, card, code, command, facts, heading, heads, identifier, link_button, table

_DAYS = 30
_STANDINGS_MOST = 500


def _keeps(item: Tenant, chosen: str) -> bool:
    """Returns whether a list shows it: those of a status, or (``now``) all that are not gone."""
    return item.status == chosen or (chosen == "now" and item.status != "removed")


# tenants


async def tenants(view: View) -> Shown:
    found = await view.admin.execute(TenantList(removed=True))
    columns: list[ListColumn[Tenant]] = [
        ListColumn("Name", lambda t: link(t.name, "tenants", t.id), lambda t: t.name.casefold()),
        ListColumn("Plan", lambda t: link(t.plan, "plans", t.plan), lambda t: t.plan),
        ListColumn("Status", lambda t: word(t.status), lambda t: t.status),
        ListColumn("Created", lambda t: when(t.created_us), lambda t: t.created_us),
        ListColumn("Id", lambda t: code(t.id)),
    ]
    statuses = [("now", "all but removed"), ("active", "active"), ("suspended", "suspended"), ("removed", "removed")]
    status: Filter[Tenant] = Filter(
        "status",
        "Status",
        statuses,
        lambda t, chosen: t.status == chosen or (chosen == "now" and t.status != "removed"),
    )
    body = join(
        heading("Tenants", beside=join(do("Add a tenant", "tenant.add"), link("End users", "end-users"))),
        listing(
            view,
            ("tenants",),
            found,
            columns,
            caption="Tenants",
            empty=join(
                tag(
                    "p", None, "There is no tenant yet: an app, a team or a customer, with a plan and keys of its own."
                ),
                command("trustgate tenant add acme", "tenant-line"),
            ),
            text=lambda t: f"{t.name} {t.id} {t.plan}",
            filters=[status],
        ),
    )
    return Shown("Tenants", body)


async def tenant(view: View, ref: str) -> Shown:
    detail = await view.admin.execute(TenantShow(tenant=ref))
    found = detail.tenant
    balance = await view.admin.execute(TenantCredit(tenant=found.id))
    since_us = since_days(_DAYS)
    days = await view.admin.execute(UsageShow(by="day", tenant=found.id, since_us=since_us))
    budgets = await view.admin.execute(BudgetList(tenant=found.id))
    latest = await view.admin.execute(ReceiptList(tenant=found.id, limit=10))
    if detail.terms is None:
        set_terms = buttons(do("Set how it pays", "payment.set", tenant=found.id))
        pays = card("How it pays", tag("p", None, "Nothing is due."), set_terms)
    else:
        [terms] = await view.admin.execute(PaymentTermsList(tenant=found.id))
        pays = terms_card(terms)
    held = f" ({usd(balance.held_nano_usd)} held for requests that run)" if balance.held_nano_usd else ""
    allowed = [*limit_facts(detail.plan.limits, "unlimited"), *scope_facts(detail.plan.scope)]
    body = join(
        heading(found.name, beside=word(found.status)),
        buttons(_tenant_buttons(found)),
        tag(
            "div",
            {"class": "cards"},
            card(
                "Tenant",
                facts(
                    [
                        ("Id", identifier(found.id, "copy-id")),
                        ("Plan", link(found.plan, "plans", found.plan)),
                        ("Created", moment(found.created_us)),
                        ("Billed", factor(found.price_factor_ppm or detail.plan.price_factor_ppm)),
                        ("Balance", f"{usd(balance.balance_nano_usd)}{held}"),
                        ("Statements", link("by month", "statements", tenant=found.id)),
                        ("End users", link("by pseudonym", "end-users", tenant=found.id)),
                        ("Profile", link("names and settings of models", "profiles", "tenant", found.id)),
                    ]
                ),
            ),
            card("What its plan allows", facts(allowed)),
            pays,
        ),
        heading("Keys", level=2, beside=do("Create a key", "key.create", tenant=found.id)),
        _keys_table(detail.keys),
        heading("Budgets that it draws on", level=2, beside=do("Add a budget", "budget.add", for_tenant=found.id)),
        _standings(budgets.standings, budgets.names, budgets.budgets),
        tag("h2", None, f"The last {_DAYS} days"),
        usage_by_day(days, since_us),
        heading("Latest requests", level=2, beside=link("All receipts", "receipts", tenant=found.id)),
        receipts_table(latest, {found.id: found.name}),
    )
    return Shown(found.name, body)


def _tenant_buttons(found: Tenant) -> list[Html]:
    if found.status == "removed":
        return [do("Restore", "tenant.restore", tenant=found.id)]
    text, action = ("Resume", "tenant.resume") if found.status == "suspended" else ("Suspend", "tenant.suspend")
    return [
        do("Change", "tenant.set", tenant=found.id),
        do("Add credit", "tenant.credit", tenant=found.id),
        do(text, action, tenant=found.id),
        do("Remove", "tenant.remove", tenant=found.id),
    ]


# keys


def key_status(key: ApiKey) -> str:
    if key.revoked_us is not None:
        return "revoked"
    return "expired" if key.expires_us is not None and key.expires_us <= now_us() else "active"


async def keys(view: View) -> Shown:
    found = await view.admin.execute(KeyList(revoked=True))
    named = await tenant_names(view.admin)
    columns: list[ListColumn[ApiKey]] = [
        ListColumn("Key", lambda k: link(k.redacted, "keys", k.id), lambda k: k.redacted),
        ListColumn("Name", lambda k: k.name, lambda k: k.name.casefold()),
        ListColumn(
            "Tenant",
            lambda k: link(named.get(k.tenant_id, k.tenant_id), "tenants", k.tenant_id),
            lambda k: named.get(k.tenant_id, k.tenant_id).casefold(),
        ),
        ListColumn("Status", lambda k: word(key_status(k)), key_status),
        ListColumn("Created", lambda k: when(k.created_us), lambda k: k.created_us),
        ListColumn("Expires", lambda k: when(k.expires_us) if k.expires_us else "never", lambda k: k.expires_us or 0),
    ]
    statuses = [("active", "active"), ("expired", "expired"), ("revoked", "revoked"), ("all", "all")]
    status: Filter[ApiKey] = Filter("status", "Status", statuses, lambda k, chosen: chosen in ("all", key_status(k)))
    body = join(
        heading("Keys", beside=do("Create a key", "key.create")),
        listing(
            view,
            ("keys",),
            found,
            columns,
            caption="Keys",
            empty="There is no key yet: a tenant gets its first one when it is added.",
            text=lambda k: f"{k.redacted} {k.name} {k.id} {named.get(k.tenant_id, '')}",
            filters=[status],
        ),
    )
    return Shown("Keys", body)


async def key(view: View, ref: str) -> Shown:
    found = await view.admin.execute(KeyShow(key=ref))
    named = await tenant_names(view.admin)
    latest = await view.admin.execute(ReceiptList(key=found.id, limit=10))
    status = key_status(found)
    body = join(
        heading(f"Key {found.redacted}", beside=word(status)),
        buttons(
            do("Change", "key.set", key=found.id) if status != "revoked" else None,
            do("Rotate", "key.rotate", key=found.id) if status == "active" else None,
            do("Revoke", "key.revoke", key=found.id) if status != "revoked" else None,
        ),
        tag(
            "div",
            {"class": "cards"},
            card(
                "Key",
                facts(
                    [
                        ("Id", identifier(found.id, "copy-id")),
                        ("Name", found.name),
                        ("Tenant", link(named.get(found.tenant_id, found.tenant_id), "tenants", found.tenant_id)),
                        ("Created", moment(found.created_us)),
                        ("Expires", moment(found.expires_us) if found.expires_us else "never"),
                        ("Profile", link("names and settings of models", "profiles", "key", found.id)),
                        *([("Revoked", moment(found.revoked_us))] if found.revoked_us else []),
                        # By a key of its tenant's, and not by the operator.
                        *((what, link(by, "keys", by)) for what, by in _by_tenant(found) if by),
                        *(
                            [("Rotated from", link(found.origin_id, "keys", found.origin_id))]
                            if found.origin_id
                            else []
                        ),
                    ]
                ),
            ),
            card(
                "Its own limits",
                facts([*limit_facts(found.limits, "those of the plan alone"), *scope_facts(found.scope)]),
            ),
        ),
        heading("Latest requests", level=2, beside=link("All receipts", "receipts", key=found.id)),
        receipts_table(latest, named),
    )
    return Shown(f"Key {found.redacted}", body)


def _by_tenant(key: ApiKey) -> tuple[tuple[str, str], ...]:
    return ("Made by", key.made_by), ("Revoked by", key.revoked_by)


def _keys_table(found: Sequence[ApiKey]) -> Html:
    rows = [
        (
            link(key.redacted, "keys", key.id),
            key.name,
            word(key_status(key)),
            when(key.created_us),
            when(key.expires_us) if key.expires_us else "never",
        )
        for key in found
    ]
    return table(
        "Keys", ["Key", "Name", "Status", "Created", "Expires"], rows, empty="It has no key.", hide_caption=True
    )


# plans


async def plans(view: View) -> Shown:
    found = await view.admin.execute(PlanList())
    columns: list[ListColumn[Plan]] = [
        ListColumn("Name", lambda p: link(p.name, "plans", p.name), lambda p: p.name),
        ListColumn("Requests", lambda p: windows(p.limits, "requests") or "unlimited"),
        ListColumn("Tokens", lambda p: windows(p.limits, "tokens") or "unlimited"),
        ListColumn("Spending", lambda p: windows(p.limits, "cost_nano_usd") or "unlimited"),
        ListColumn("Models", lambda p: everything(p.scope.models)),
    ]
    body = join(
        heading("Plans", beside=do("Add a plan", "plan.add")),
        listing(view, ("plans",), found, columns, caption="Plans", empty="There is no plan.", text=lambda p: p.name),
    )
    return Shown("Plans", body)


async def plan(view: View, name: str) -> Shown:
    found = await view.admin.execute(PlanShow(name=name))
    members = [tenant for tenant in await view.admin.execute(TenantList()) if tenant.plan == found.name]
    rows = [(link(tenant.name, "tenants", tenant.id), word(tenant.status)) for tenant in members]
    refused = found.unpriced_models == "refuse"
    body = join(
        heading(f"Plan {found.name}"),
        buttons(
            do("Change", "plan.set", plan=found.name),
            link_button(url("profiles", "plan", found.name), "Profile"),
            do("Remove", "plan.remove", plan=found.name),
        ),
        card(
            "What it allows",
            facts(
                [
                    *limit_facts(found.limits, "unlimited"),
                    *scope_facts(found.scope),
                    ("On disconnect", found.on_disconnect),
                    ("Billed", factor(found.price_factor_ppm)),
                    ("Tenants' own keys", f"at most {found.own_keys} at once" if found.own_keys else "none"),
                    ("Without a price", "refused where spending counts" if refused else "served at no cost"),
                ]
            ),
        ),
        tag("h2", None, f"Tenants on it: {number(len(members))}"),
        table("Tenants", ["Name", "Status"], rows[:200], empty="No tenant is on it.", hide_caption=True),
    )
    return Shown(f"Plan {found.name}", body)


# budgets


async def budgets(view: View) -> Shown:
    report = await view.admin.execute(BudgetList())
    columns: list[ListColumn[Budget]] = [
        ListColumn("Name", lambda b: b.name, lambda b: b.name.casefold()),
        ListColumn("Amount", lambda b: f"{amount(b.unit, b.amount)} {per(b.span)}", lambda b: b.amount),
        ListColumn("For", lambda b: for_whom(b, report.names)),
        ListColumn("Models", lambda b: "all" if b.covers_all_models else names(b.models)),
        ListColumn("Kind", lambda b: word("hard" if b.hard else "soft"), lambda b: b.hard),
        ListColumn("Change", _budget_buttons),
    ]
    body = join(
        heading("Budgets", beside=do("Add a budget", "budget.add")),
        listing(
            view,
            ("budgets",),
            report.budgets,
            columns,
            caption="Budgets",
            empty="There is no budget: what tenants, keys or end users may use up in a span of time.",
            text=lambda b: f"{b.name} {b.id} {for_whom(b, report.names)}",
        ),
        tag("h2", None, "Where they stand"),
        _standings(report.standings, report.names, report.budgets),
    )
    return Shown("Budgets", body)


def _budget_buttons(budget: Budget) -> Html:
    return tag(
        "span",
        {"class": "buttons"},
        link_button(url("do", "budget.set", budget=budget.id), "Change", kind="small"),
        link_button(url("do", "budget.remove", budget=budget.id), "Remove", kind="small"),
    )


def _standings(standings: Sequence[BudgetStanding], named: Mapping[str, str], budgets: Sequence[Budget]) -> Html:
    each = {budget.id: f"each {budget.each.replace('_', ' ')}" for budget in budgets if budget.each != "all"}
    shown = standings
    if len(standings) > _STANDINGS_MOST:
        shown = sorted(standings, key=lambda each: -(each.used + each.held) / (each.amount or 1))[:_STANDINGS_MOST]
    rows = [
        (
            standing.name,
            named.get(standing.subject, standing.subject) or each.get(standing.budget, "shared"),
            amount(standing.unit, standing.used),
            amount(standing.unit, standing.held),
            amount(standing.unit, standing.left),
            _meter(standing),
            "never" if standing.span == "total" else when(standing.resets_us),
        )
        for standing in shown
    ]
    titles = heads("Budget", "Whose", ">Used", ">Held", ">Left", "Share used", "Resets")
    return join(
        only_some(len(shown), len(standings), "those of which most is used"),
        table("Where budgets stand", titles, rows, empty="There is none.", hide_caption=True),
    )


def _meter(standing: BudgetStanding) -> Html:
    share = min(100, 100 * (standing.used + standing.held) // standing.amount) if standing.amount else 100
    attributes: dict[str, str | int | bool | None] = {"min": 0, "max": 100, "value": share, "high": 80, "low": 50}
    return tag("meter", {**attributes, "optimum": 0, "aria-label": f"{standing.name}: share used"}, f"{share} %")
