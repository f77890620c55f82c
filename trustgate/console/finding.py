"""One search over everything that has a page: by id, by name, by what is shown of a key."""

from __future__ import annotations

from trustgate.admin.commands import KeyList, PlanList, TenantList
from trustgate.admin.log_commands import ReceiptShow
from trustgate.admin.model_commands import PassportList
from trustgate.admin.money import PaymentList
from trustgate.console.view import Redirect, Shown, View, link, url
from trustgate.errors import TrustGateError
from trustgate.formats.written import number
from trustgate.web.html import join, tag
from trustgate.web.parts import code, heading, table

_SHOWN_MOST = 20


async def find(view: View) -> Shown | Redirect:
    wanted = view.get("q")
    if not wanted:
        return _page(wanted, [])
    # Receipts are too many to be searched: they are found by their ids.
    try:
        found = await view.admin.execute(ReceiptShow(receipt=wanted))
        return Redirect(url("receipts", found.receipt.id))
    except TrustGateError:
        pass
    hits: list[tuple[str, str, str, tuple[str, ...]]] = []
    named = {tenant.id: tenant for tenant in await view.admin.execute(TenantList(removed=True))}
    hits += [("tenant", tenant.name, tenant.id, ("tenants", tenant.id)) for tenant in named.values()]
    for key in await view.admin.execute(KeyList(revoked=True)):
        owner = named[key.tenant_id].name if key.tenant_id in named else key.tenant_id
        hits.append(("key", key.redacted, f"{key.name} of {owner}, {key.id}", ("keys", key.id)))
    hits += [("plan", plan.name, "", ("plans", plan.name)) for plan in await view.admin.execute(PlanList())]
    for passport in await view.admin.execute(PassportList(revoked=True)):
        hits.append(("model", passport.slug, f"{passport.api_model_id} {passport.id}", ("models", passport.id)))
    for payment in await view.admin.execute(PaymentList(limit=1000)):
        about = f"{payment.payer or ''} {payment.transaction or ''}"
        hits.append(("payment", payment.id, about, ("payments", payment.id)))
    text = wanted.casefold()
    kept = [hit for hit in hits if text in hit[1].casefold() or text in hit[2].casefold()]
    exact = [hit for hit in kept if text in (hit[1].casefold(), *hit[2].casefold().replace(",", "").split())]
    chosen = exact if len(exact) == 1 else kept
    return Redirect(url(*chosen[0][3])) if len(chosen) == 1 else _page(wanted, kept)


def _page(wanted: str, kept: list[tuple[str, str, str, tuple[str, ...]]]) -> Shown:
    rows = [
        (link(name, *place), kind, code(about) if about else "–") for kind, name, about, place in kept[:_SHOWN_MOST]
    ]
    more = f"{number(_SHOWN_MOST)} of {number(len(kept))} are shown: write more of it." if len(kept) > len(rows) else ""
    body = join(
        heading(f"Search: {wanted}" if wanted else "Search"),
        table(
            "What was found",
            ["Name", "What", "Also"],
            rows,
            empty="Nothing has this in its name or id. Receipts are found by their id or their request's, whole."
            if wanted
            else "Write a name or an id into the field at the top: of a tenant, key, plan, model, payment or receipt.",
            hide_caption=True,
        ),
        tag("p", {"class": "soft"}, more) if more else None,
    )
    return Shown("Search", body)
