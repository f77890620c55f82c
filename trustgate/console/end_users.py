"""The page of end users: the users of an app behind a key, by pseudonym."""

from __future__ import annotations

from trustgate.admin.budgeting import EndUserList, EndUserUsage
from trustgate.admin.commands import TenantList
from trustgate.console.lists import ListColumn, listing
from trustgate.console.view import Shown, View, do, tenant_field, url, when, word
from trustgate.formats.written import names, number, usd
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import code, command, heading, link_button

_MOST = 1000


async def end_users(view: View) -> Shown:
    tenants = await view.admin.execute(TenantList())
    chosen = view.get("tenant")
    shown: object = None
    if chosen:
        found = await view.admin.execute(EndUserList(tenant=chosen, limit=_MOST))
        columns: list[ListColumn[EndUserUsage]] = [
            ListColumn("End user", lambda u: code(u.end_user or "(unnamed)"), lambda u: u.end_user),
            ListColumn("Requests", lambda u: number(u.requests), lambda u: u.requests, True),
            ListColumn("Tokens", lambda u: number(u.tokens), lambda u: u.tokens, True),
            ListColumn("Cost", lambda u: usd(u.cost_nano_usd), lambda u: u.cost_nano_usd, True),
            ListColumn("Last", lambda u: when(u.last_us), lambda u: u.last_us),
            ListColumn("Status", lambda u: word("blocked" if u.blocked else "active"), lambda u: u.blocked),
            ListColumn("Own amounts of", lambda u: names(u.amounts)),
            ListColumn("Change", lambda u: _buttons(chosen, u)),
        ]
        empty = join(
            tag("span", None, "No request has named an end user. The requests of a key do with:"),
            command("trustgate key set KEY --end-users user", "end-users-line"),
        )
        shown = listing(
            view,
            ("end-users",),
            found,
            columns,
            caption=f"End users (the dearest {number(_MOST)})",
            empty=empty,
            text=lambda u: u.end_user,
            keeping={"tenant": chosen},
        )
    choices = [(tenant.id, tenant.name) for tenant in tenants]
    body = join(
        heading("End users", beside=do("Limit an end user", "end-user.limit", tenant=chosen) if chosen else None),
        tag("p", None, "The users of an app behind a key, by pseudonym: their names are not kept."),
        tag(
            "form",
            {"class": "line", "method": "get", "action": url("end-users")},
            tenant_field(choices, chosen, empty="choose one"),
            tag("div", {"class": "field"}, tag("button", {"type": "submit"}, "Show")),
        ),
        shown,
    )
    return Shown("End users", body)


def _buttons(tenant: str, usage: EndUserUsage) -> Html | str:
    if not usage.end_user:
        return "–"
    action, text = ("end-user.unblock", "Serve again") if usage.blocked else ("end-user.block", "Block")
    given = {"tenant": tenant, "user": usage.end_user}
    return tag(
        "span",
        {"class": "buttons"},
        link_button(url("do", action, **given), text, kind="small"),
        link_button(url("do", "end-user.limit", **given), "Limit", kind="small"),
    )
