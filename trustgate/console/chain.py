"""The pages of payments and balances, and of anchors."""

from __future__ import annotations

from trustgate.admin.commands import (
    AnchorList,
    AnchorStatus,
)
from trustgate.admin.money import PaymentList, PaymentShow, PaymentTermsList
from trustgate.console.lists import Filter, ListColumn, listing
from trustgate.console.view import Shown, View, do, link, moment_link, tenant_names, url, when, word
from trustgate.formats.written import number, usd
from trustgate.solana.clusters import cluster_name, explorer_url
from trustgate.types import Anchor, Payment
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import (
    buttons,
    card,
    code,
    command,
    facts,
    heading,
    heads,
    link_button,
    message,
    table,
)

# payments


async def payments(view: View) -> Shown:
    named = await tenant_names(view.admin)
    terms = await view.admin.execute(PaymentTermsList())
    found = await view.admin.execute(PaymentList(limit=1000))
    columns_: list[ListColumn[Payment]] = [
        ListColumn("Time", lambda p: moment_link(p.created_us, "payments", p.id), lambda p: p.created_us),
        ListColumn("Tenant", lambda p: named.get(p.tenant_id, p.tenant_id), lambda p: named.get(p.tenant_id, "")),
        ListColumn("State", lambda p: word(p.state), lambda p: p.state),
        ListColumn("Value", lambda p: usd(p.value_nano_usd), lambda p: p.value_nano_usd, True),
        ListColumn("Payer", lambda p: code(p.payer or "–")),
        ListColumn("Id", lambda p: code(p.id)),
    ]
    states = [("", "all"), *((state, state) for state in _STATES)]
    state: Filter[Payment] = Filter("state", "State", states, lambda p, chosen: chosen in ("", p.state))
    rows = [
        (
            link(each.tenant.name, "tenants", each.tenant.id),
            each.terms.mode,
            usd(each.balance_nano_usd),
            ", ".join(offer.network for offer in each.terms.offers) or "–",
            "; ".join(each.notes),
        )
        for each in terms
    ]
    body = join(
        heading("Payments"),
        tag("h2", None, "Balances"),
        table(
            "Balances",
            heads("Tenant", "Pays", ">Balance", "On", "Notes"),
            rows,
            empty="No tenant has ever had to pay.",
            hide_caption=True,
        ),
        command("trustgate payment set TENANT --network solana --pay-to ADDRESS", "terms-line"),
        heading("Payments received", level=2, beside=do("Look up open payments", "payment.reconcile")),
        listing(
            view,
            ("payments",),
            found,
            columns_,
            caption="Payments (the newest 1,000)",
            empty="No payment yet.",
            text=lambda p: f"{p.id} {p.payer} {p.transaction} {named.get(p.tenant_id, '')}",
            filters=[state],
        ),
    )
    return Shown("Payments", body)


_STATES = ("reserved", "settling", "settled", "delivered", "credited", "unknown", "failed")


async def payment(view: View, ref: str) -> Shown:
    detail = await view.admin.execute(PaymentShow(payment=ref))
    found = detail.payment
    named = await tenant_names(view.admin)
    recorded = None if detail.receipt is None else detail.receipt.receipt
    resolve = url("do", "payment.resolve", payment=found.id)
    body = join(
        heading("Payment", beside=word(found.state)),
        buttons(link_button(resolve, "Resolve it by hand")) if found.state == "unknown" else None,
        card(
            "Payment",
            facts(
                [
                    ("Id", code(found.id)),
                    ("Tenant", link(named.get(found.tenant_id, found.tenant_id), "tenants", found.tenant_id)),
                    ("Value", f"{usd(found.value_nano_usd)} ({found.amount} atomic units of {found.offer.asset})"),
                    ("Network", found.offer.network),
                    ("Paid to", code(found.offer.pay_to)),
                    ("Paid by", code(found.payer or "unknown")),
                    ("Transaction", code(found.transaction or "none yet")),
                    ("Begun", when(found.created_us)),
                    ("Changed", when(found.updated_us)),
                    *([("Why", found.reason)] if found.reason else []),
                    ("Receipt", link(recorded.id, "receipts", recorded.id) if recorded else "none yet"),
                ]
            ),
        ),
        command(f"trustgate payment show {found.id}", "payment-line"),
    )
    return Shown("Payment", body)


# anchors


async def anchors(view: View) -> Shown:
    log = await view.admin.execute(AnchorStatus())
    made = await view.admin.execute(AnchorList())
    found = sorted(made, key=lambda each: -each.created_us)
    columns_: list[ListColumn[Anchor]] = [
        ListColumn("Made", lambda a: when(a.created_us), lambda a: a.created_us),
        ListColumn("State", lambda a: word(a.state), lambda a: a.state),
        ListColumn("Receipts", lambda a: number(a.tree_size), lambda a: a.tree_size, True),
        ListColumn("Chain", lambda a: cluster_name(a.genesis)),
        ListColumn("Fee, lamports", lambda a: number(a.fee_lamports), lambda a: a.fee_lamports, True),
        ListColumn("Transaction", _transaction),
    ]
    waiting = log.tree_size - log.anchored_size
    problem = message("wary", tag("p", None, "The schedule fails: ", log.problem)) if log.problem else None
    body = join(
        heading("Anchors", beside=do("Anchor all receipts now", "anchor.flush")),
        problem,
        card(
            "The log",
            facts(
                [
                    ("Name", log.origin),
                    ("Receipts", number(log.tree_size)),
                    ("Root", code(log.root)),
                    ("Verifier key", code(log.vkey)),
                    ("Not anchored", number(waiting)),
                    ("Last anchor", when(log.anchored_us)),
                    ("Schedule", log.schedule or "none"),
                    ("Pays for anchors", code(log.pubkey) if log.pubkey else "no key yet: trustgate anchor keygen"),
                ]
            ),
        ),
        tag("h2", None, "Anchors made"),
        listing(
            view,
            ("anchors",),
            found,
            columns_,
            caption="Anchors",
            empty="There is no anchor yet.",
            text=lambda a: f"{a.signature} {a.state} {cluster_name(a.genesis)}",
        ),
    )
    return Shown("Anchors", body)


def _transaction(anchor: Anchor) -> Html:
    if not anchor.signature:
        return code("–")
    address = explorer_url(anchor.signature, anchor.genesis)
    return (
        tag("a", {"href": address, "rel": "noreferrer"}, code(anchor.signature)) if address else code(anchor.signature)
    )
