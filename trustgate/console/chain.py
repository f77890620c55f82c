"""The pages of payments and balances, and of anchors."""

from __future__ import annotations

from trustgate.admin.log_commands import AnchorList, AnchorStatus
from trustgate.admin.money import PaymentList, PaymentShow, PaymentTermsList, TermsDetail
from trustgate.console.lists import Filter, ListColumn, listing
from trustgate.console.view import Shown, View, do, link, moment, moment_link, tenant_names, url, when, word
from trustgate.formats.written import number, usd
from trustgate.payment.networks import v1_name_of
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
    identifier,
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
        ListColumn(
            "Tenant",
            lambda p: link(named.get(p.tenant_id, p.tenant_id), "tenants", p.tenant_id),
            lambda p: named.get(p.tenant_id, ""),
        ),
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
            ", ".join(network_title(offer.network) for offer in each.terms.offers) or "–",
            "; ".join(each.notes) or "–",
            link_button(url("do", "payment.set", tenant=each.tenant.id), "Change", kind="small"),
        )
        for each in terms
    ]
    body = join(
        heading("Payments"),
        heading("Terms and balances", level=2, beside=do("Set how a tenant pays", "payment.set")),
        table(
            "Balances",
            heads("Tenant", "Pays", ">Balance", "On", "Notes", "Change"),
            rows,
            empty="No tenant pays. Set how one does: on which network, to which wallet, at which price.",
            hide_caption=True,
        ),
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
                    ("Id", identifier(found.id, "copy-id")),
                    ("Tenant", link(named.get(found.tenant_id, found.tenant_id), "tenants", found.tenant_id)),
                    ("Value", f"{usd(found.value_nano_usd)} ({found.amount} atomic units of {found.offer.asset})"),
                    ("Network", network_title(found.offer.network)),
                    ("Paid to", code(found.offer.pay_to)),
                    ("Paid by", code(found.payer or "unknown")),
                    ("Transaction", code(found.transaction or "none yet")),
                    ("Begun", moment(found.created_us)),
                    ("Changed", moment(found.updated_us)),
                    *([("Why", found.reason)] if found.reason else []),
                    ("Receipt", link(recorded.id, "receipts", recorded.id) if recorded else "none yet"),
                ]
            ),
        ),
        command(f"trustgate payment show {found.id}", "payment-line"),
    )
    return Shown("Payment", body)


def network_title(network: str) -> str:
    """Returns the name that people use for a network, and its CAIP-2 id."""
    name = v1_name_of(network)
    return f"{name} ({network})" if name else network


def terms_card(detail: TermsDetail) -> Html:
    """Returns how a tenant pays, with what may be done about it."""
    terms, tenant = detail.terms, {"tenant": detail.tenant.id}
    pays = terms.mode != "off"
    price = "the prices of the models" if terms.price_nano_usd is None else f"{usd(terms.price_nano_usd)} a request"
    shown: list[tuple[str, object]] = [("Mode", word(terms.mode) if pays else "off: nothing is due")]
    if pays:
        shown.append(("Price", price))
        if terms.mode == "prepaid":
            shown.append(("Top-up", f"{usd(terms.top_up_nano_usd)} or more" if terms.offers else "by you: add credit"))
        if terms.contact:
            shown.append(("Contact", terms.contact))
        shown.append(("Without a key", "sold" if terms.keyless_key_id else "not sold"))
    for offer in terms.offers:
        flow = ", before the LLM server is asked" if offer.flow == "upfront" else ""
        told = join(code(offer.asset), " to ", code(offer.pay_to), f"; settled by {offer.facilitator}{flow}")
        shown.append((network_title(offer.network), told))
    opened = do("Stop selling without a key", "payment.close", **tenant)
    return card(
        "How it pays",
        [message("wary", tag("p", None, note)) for note in detail.notes],
        facts(shown),
        buttons(
            do("Set how it pays", "payment.set", **tenant),
            do("Stop charging", "payment.off", **tenant) if pays else None,
            (opened if terms.keyless_key_id else do("Sell without a key", "payment.open", **tenant)) if pays else None,
        ),
    )


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
                    ("Root", identifier(log.root, "copy-root")),
                    ("Verifier key", identifier(log.vkey, "copy-vkey")),
                    ("Not anchored", number(waiting)),
                    ("Last anchor", moment(log.anchored_us) if log.anchored_us else "none yet"),
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
            empty="There is no anchor yet: a transaction on Solana with the log's signed root.",
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
