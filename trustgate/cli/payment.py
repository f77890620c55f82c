"""``trustgate payment``: how tenants pay, and what they have paid."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast, get_args

import msgspec
import typer

from trustgate.admin.commands import Admin, TenantList
from trustgate.admin.money import (
    OfferWanted,
    Payer,
    PaymentClose,
    PaymentDetail,
    PaymentFollow,
    PaymentKeygen,
    PaymentList,
    PaymentLookAgain,
    PaymentOff,
    PaymentOpen,
    PaymentReconcile,
    PaymentRefundCredit,
    PaymentResolve,
    PaymentSet,
    PaymentShow,
    PaymentTermsList,
    Reconciled,
    Refund,
    TermsDetail,
)
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute, with_admin
from trustgate.cli.repeating import repeatable, repeated_note
from trustgate.cli.values import Maybe, absolute
from trustgate.errors import InvalidRequest
from trustgate.ids import new_id, now_us
from trustgate.payment.interfaces import OfferFact
from trustgate.types import Offer, Payment, PaymentState

app = typer.Typer(help="Payments (x402): each tenant's terms, and payments received.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id or name.")]
#: The network's names that this program knows, as far as people type them.
_NETWORKS = "solana, solana-devnet, base, base-sepolia, or a CAIP-2 id"
_STYLES = {"delivered": "green", "credited": "green", "unknown": "yellow", "failed": "red"}
_STATES: tuple[str, ...] = get_args(PaymentState)
_BY_PASSPORT = "passports"


def _price(text: str) -> Maybe:
    """Nano-USD, or none of its own."""
    return Maybe(None if text == _BY_PASSPORT else values.usd(text))


@app.command("set")
def set_(
    context: typer.Context,
    tenant: TenantArgument,
    mode: Annotated[
        Literal["per-request", "prepaid"] | None,
        typer.Option(help="Pay for each request, or top up a balance that requests draw on.  [default: per-request]"),
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"The network to pay on: {_NETWORKS}. Repeat for more.")
    ] = None,
    pay_to: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="Your wallet on that network; one for each --network.")
    ] = None,
    asset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="usdc|MINT",
            help="The token, worth one USD; once for all networks, or once for each.  [default: usdc]",
        ),
    ] = None,
    facilitator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL|embedded",
            help="The facilitator that settles: its URL, or embedded (this gateway; Solana).  [default: embedded where "
            "there is a key for it, else on test networks https://x402.org/facilitator]",
        ),
    ] = None,
    price: Annotated[
        Maybe | None,
        typer.Option(
            parser=_price,
            metavar="USD|passports",
            help="The price of every request, or passports: the prices of passports.  [default: passports]",
        ),
    ] = None,
    top_up: Annotated[
        int | None,
        typer.Option(metavar="USD", parser=values.usd, help="The amount of a prepaid top-up.  [default: 1.00]"),
    ] = None,
    flow: Annotated[
        Literal["authorization", "upfront"] | None,
        typer.Option(
            help="When a payment is settled: once there is an answer, or upfront, before the LLM server is asked; "
            "where that fails, the payment is credited. upfront suits long work.  [default: authorization]"
        ),
    ] = None,
    contact: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="How the tenant gets more credit: a URL or mail address that refusals name."),
    ] = None,
    decimals: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=values.whole,
            help="Decimals of a token that is not listed here, where no node can be asked.",
        ),
    ] = None,
    asset_name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of its EIP-712 domain (EVM), for such a token.")
    ] = "",
    asset_version: Annotated[
        str, typer.Option(metavar="VERSION", help="Version of its EIP-712 domain (EVM), for such a token.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Set or change how a tenant pays.

    Networks, addresses, tokens and facilitators are checked before anything is saved. What is not
    given stays as it is; so do offers on other networks. With --mode prepaid and no network at all, it draws on the
    credit that you add: trustgate tenant credit TENANT --add USD.
    """
    offers = _offers(network, pay_to, asset, facilitator)
    if decimals is not None or asset_name or asset_version:
        offers = tuple(
            msgspec.structs.replace(offer, decimals=decimals, asset_name=asset_name, asset_version=asset_version)
            for offer in offers
        )
    command = PaymentSet(
        tenant=tenant,
        mode=mode,
        price_nano_usd=None if price is None else price.value,
        by_passport=price is not None and price.value is None,
        top_up_nano_usd=top_up,
        offers=offers,
        flow=flow,
        contact=contact,
    )
    _show_terms(execute(context, command), json)


def _offers(
    networks: Sequence[str] | None,
    addresses: Sequence[str] | None,
    assets: Sequence[str] | None,
    facilitators: Sequence[str] | None,
) -> tuple[OfferWanted, ...]:
    """The n-th address is for the n-th network. One asset or facilitator is for all of them."""
    networks, addresses = networks or [], addresses or []
    if len(networks) != len(addresses):
        raise InvalidRequest(
            "Each --network needs its --pay-to: the address that receives there.",
            hint="For example: --network solana --pay-to ADDRESS --network base --pay-to 0x…",
        )
    assets = _for_each("--asset", assets or ["usdc"], networks)
    chosen = _for_each("--facilitator", facilitators, networks) if facilitators else [None] * len(networks)
    return tuple(
        OfferWanted(network=network, pay_to=address, asset=asset, facilitator=facilitator)
        for network, address, asset, facilitator in zip(networks, addresses, assets, chosen, strict=True)
    )


def _for_each(option: str, given: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
    if not networks and option == "--asset":
        return []
    if len(given) not in (1, len(networks)) or not networks:
        raise InvalidRequest(
            f"{option} is given {len(given)} times for {len(networks)} networks.",
            hint=f"Give {option} once for all, or once for each --network.",
        )
    return given if len(given) == len(networks) else [given[0]] * len(networks)


@app.command("off")
def off(
    context: typer.Context,
    tenant: TenantArgument,
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="Remove only this network; the others stay.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Stop charging a tenant. Its balance stays; `payment set` switches payment on again."""
    _show_terms(execute(context, PaymentOff(tenant=tenant, network=network)), json)


@app.command("open")
def open_(context: typer.Context, tenant: TenantArgument, json: JsonOption = False) -> None:
    """Sell to callers without an API key, at this tenant's terms and within its plan.

    Such callers pay for each request by itself. What is sold, and at what price, is published at
    /.well-known/x402, /llms.txt and /openapi.json.
    """
    _show_terms(execute(context, PaymentOpen(tenant=tenant)), json)


@app.command("close")
def close(context: typer.Context, tenant: TenantArgument, json: JsonOption = False) -> None:
    """Stop selling to callers without an API key."""
    _show_terms(execute(context, PaymentClose(tenant=tenant)), json)


@app.command("terms")
def terms(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="Only this tenant.")] = None,
    json: JsonOption = False,
) -> None:
    """Show each tenant's payment terms and balance."""
    found = execute(context, PaymentTermsList(tenant=tenant))
    if json:
        render.document({"terms": [_plain_terms(detail) for detail in found]})
    elif tenant is not None:
        _show_terms(found[0], json)
    else:
        numbers = map(render.right, ("Price", "Balance"))
        render.table(
            ["Tenant", "Mode", *numbers, "Networks"],
            [
                [
                    detail.tenant.name,
                    detail.terms.mode,
                    _price_of(detail),
                    render.usd(detail.balance_nano_usd),
                    render.names(_name(offer.network) for offer in detail.terms.offers),
                ]
                for detail in found
            ],
            empty="No tenant pays. Set terms: trustgate payment set TENANT --network solana-devnet --pay-to ADDRESS",
        )


def _show_terms(detail: TermsDetail, json: bool) -> None:
    if json:
        render.document(_plain_terms(detail))
        return
    terms = detail.terms
    fields: list[tuple[str, render.Cell]] = [
        ("Tenant", detail.tenant.name),
        ("Mode", render.Styled(terms.mode, "yellow" if terms.mode == "off" else "green")),
        ("Price", _price_of(detail)),
    ]
    if terms.mode == "prepaid" and terms.offers:
        fields.append(("Top-up", f"{render.usd(terms.top_up_nano_usd)} or more: POST /v1/credits"))
    elif terms.mode == "prepaid":
        fields.append(("Top-up", f"by you: trustgate tenant credit {shlex.quote(detail.tenant.name)} --add USD"))
    if terms.contact:
        fields.append(("Contact", terms.contact))
    fields.append(("Balance", render.usd(detail.balance_nano_usd)))
    if terms.keyless_key_id:
        fields.append(("Without a key", f"sold; the key {terms.keyless_key_id} has the limits"))
    for offer in terms.offers:
        fields += _offer_fields(offer)
    render.card(fields)
    for note in detail.notes:
        render.say(render.Styled(note, "yellow"))


def _price_of(detail: TermsDetail) -> str:
    price = detail.terms.price_nano_usd
    return "the prices of passports" if price is None else f"{render.usd(price)} a request"


def _offer_fields(offer: Offer) -> list[tuple[str, render.Cell]]:
    return [
        (_name(offer.network), f"{offer.asset} to {offer.pay_to}"),
        (
            "",
            f"settled by {offer.facilitator}" + (", before the LLM server is asked" if offer.flow == "upfront" else ""),
        ),
    ]


def _plain_terms(detail: TermsDetail) -> dict[str, Any]:
    return {
        "tenant": detail.tenant,
        "terms": detail.terms,
        "balance_nano_usd": detail.balance_nano_usd,
        "notes": detail.notes,
    }


def _name(network: str) -> str:
    from trustgate.payment.networks import v1_name_of

    return v1_name_of(network) or network


# payments


def _known_state(text: str) -> str:
    if text not in _STATES:
        raise typer.BadParameter(f"{text!r} is not a state of a payment: {', '.join(_STATES)}.")
    return text


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATE",
            parser=_known_state,
            help=f"Only those in this state ({', '.join(_STATES)}). unknown: its outcome is still being looked up.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The most to list.")] = 50,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue a listing: only those before this one.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List payments, the newest first."""

    async def work(admin: Admin) -> tuple[tuple[Payment, ...], dict[str, str]]:
        states = cast(tuple[PaymentState, ...], tuple(state or ()))
        command = PaymentList(tenant=tenant, states=states, before_id=before, limit=limit)
        payments = await admin.execute(command)
        if json:
            return payments, {}
        return payments, {each.id: each.name for each in await admin.execute(TenantList(removed=True))}

    payments, names = with_admin(context, work)
    if json:
        render.document({"payments": [_plain(payment) for payment in payments]})
        return
    render.table(
        ["Time (UTC)", "State", "Tenant", render.right("Amount"), "Network", "Payer", "Id"],
        [
            [
                render.instant(payment.created_us),
                _state(payment.state),
                names.get(payment.tenant_id, payment.tenant_id),
                render.usd(payment.value_nano_usd),
                _name(payment.offer.network),
                payment.payer or "–",
                payment.id,
            ]
            for payment in payments
        ],
        empty="No payments found.",
    )


def _state(state: PaymentState) -> render.Styled:
    return render.Styled(state, _STYLES.get(state, ""))


def _plain(payment: Payment) -> dict[str, Any]:
    """Without what was signed."""
    members: dict[str, Any] = render.plain(payment)
    return {name: value for name, value in members.items() if name not in ("payload", "requirements")}


@app.command("show")
def show(
    context: typer.Context,
    payment: Annotated[str, typer.Argument(metavar="ID", help="The payment's id.")],
    json: JsonOption = False,
) -> None:
    """Show a payment, from its claim to its end; with --json also what was signed."""
    detail = execute(context, PaymentShow(payment=payment))
    if json:
        signed = {name: _json_or_text(getattr(detail.payment, name)) for name in ("payload", "requirements")}
        receipt = None if detail.receipt is None else {"seq": detail.receipt.seq, "receipt": detail.receipt.receipt}
        render.document({"payment": {**_plain(detail.payment), **signed}, "receipt": receipt})
    else:
        render.card(_fields(detail))


def _json_or_text(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return raw.decode(errors="replace")


def _fields(detail: PaymentDetail) -> list[tuple[str, render.Cell]]:
    payment = detail.payment
    offer = payment.offer
    fields: list[tuple[str, render.Cell]] = [
        ("Payment", payment.id),
        ("State", _state(payment.state)),
        ("Tenant", payment.tenant_id),
        ("Key", payment.key_id),
        ("Amount", f"{render.usd(payment.value_nano_usd)} ({payment.amount} units of {offer.asset})"),
        ("Network", f"{_name(offer.network)} ({offer.network})"),
        ("Payer", payment.payer or "–"),
        ("Paid to", offer.pay_to),
        ("Settled by", offer.facilitator),
        ("Transaction", payment.transaction or "–"),
        ("Receipt", "none yet" if detail.receipt is None else detail.receipt.receipt.id),
        ("Claimed", render.instant_utc(payment.created_us)),
        ("Changed", render.instant_utc(payment.updated_us)),
    ]
    if payment.identifier:
        fields.insert(4, ("Identifier", payment.identifier))
    if payment.reason:
        fields.append(("Reason", payment.reason))
    return fields


@app.command("refresh")
def refresh(context: typer.Context, json: JsonOption = False) -> None:
    """Ask facilitators again where they settle and who pays the fees; offers follow. A server does this by itself."""

    async def work(admin: Admin) -> list[tuple[OfferFact, tuple[str, ...]]]:
        facts = await admin.execute(PaymentLookAgain())
        return [(fact, await admin.execute(PaymentFollow(fact=fact)) if fact.is_news else ()) for fact in facts]

    found = with_admin(context, work)
    if json:
        render.document({"facilitators": [{**render.plain(fact), "changed": changed} for fact, changed in found]})
        return
    render.table(
        ["Facilitator", "Network", "Fee payer", "Offers"],
        [
            [
                fact.facilitator,
                _name(fact.network),
                fact.current or "–",
                render.Styled(fact.problem, "yellow")
                if fact.problem
                else f"changed for {render.names(changed)}"
                if changed
                else "as they were",
            ]
            for fact, changed in found
        ],
        empty="No tenant has offers. Set terms: trustgate payment set TENANT --network solana-devnet --pay-to ADDRESS",
    )


@app.command("reconcile")
def reconcile(context: typer.Context, json: JsonOption = False) -> None:
    """Look up on the chains the payments whose outcome is unknown. A running server does this by itself."""
    command = PaymentReconcile(reconcile=new_id("reconcile", now_us()))

    async def work(admin: Admin) -> tuple[Reconciled, ...]:
        with render.working("Looking for open payments", quiet=json) as say:
            while True:
                state = await admin.execute(command)
                if state.payments is not None:
                    return state.payments
                say(state.stage)

    found = with_admin(context, work)
    if json:
        render.document(
            {
                "payments": [
                    {**_plain(each.payment), "before": each.before, "released": each.released, "problem": each.problem}
                    for each in found
                ]
            }
        )
        return
    render.table(
        ["Payment", "Was", "Is", render.right("Amount"), "Why"],
        [
            [
                each.payment.id,
                each.before,
                render.Styled("released", "") if each.released else _state(each.payment.state),
                render.usd(each.payment.value_nano_usd),
                each.problem or each.payment.reason or "–",
            ]
            for each in found
        ],
        empty="No payment is open.",
    )


@app.command("resolve")
def resolve(
    context: typer.Context,
    payment: Annotated[str, typer.Argument(help="The payment's id.")],
    settled: Annotated[
        str | None, typer.Option(metavar="TRANSACTION", help="It settled, in this transaction: credit its tenant.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="It did not settle and never will.")] = False,
    json: JsonOption = False,
) -> None:
    """Set the outcome of an unknown payment that no node can look up, after looking it up yourself."""
    if (settled is None) is not failed:
        raise InvalidRequest("Give either --settled TRANSACTION or --failed.", hint="trustgate payment show PAYMENT")
    detail = execute(context, PaymentResolve(payment=payment, settled=settled))
    if json:
        render.document({"payment": _plain(detail.payment), "receipt": detail.receipt})
        return
    render.card(_fields(detail))


@app.command("refund-credit")
def refund_credit(
    context: typer.Context,
    tenant: TenantArgument,
    amount: Annotated[
        int | None,
        typer.Option(metavar="USD", parser=values.usd, help="The amount.  [default: the whole free balance]"),
    ] = None,
    reference: Annotated[
        str, typer.Option(metavar="TEXT", help="Your name for it: refunded again by it, it counts once.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Reduce a tenant's balance by a refund, with a receipt.

    TrustGate does not have your wallet's keys: send the money yourself, to one of the listed addresses. One that was
    broken off before its answer counts once when it is typed again within a day.
    """
    asked = PaymentRefundCredit(tenant=tenant, amount_nano_usd=amount, reference=reference)
    with repeatable(context, asked) as (command, before):
        _show_refund(execute(context, command), json, before)


def _show_refund(refund: Refund, json: bool, typed_before: str) -> None:
    change = refund.change
    if json:
        render.document(
            {
                "tenant": change.tenant,
                "refunded_nano_usd": refund.refunded_nano_usd,
                "balance_nano_usd": change.balance_nano_usd,
                "receipt": change.receipt,
                "payers": refund.payers,
                "repeated": change.repeated,
            }
        )
        return
    render.card(
        [
            ("Tenant", change.tenant.name),
            ("To refund", render.Styled(render.usd(refund.refunded_nano_usd), "bold")),
            ("Balance", render.usd(change.balance_nano_usd)),
            ("Receipt", change.receipt),
        ]
    )
    render.say("")
    render.table(
        ["Paid by", "Network", "Token", render.right("Paid in total")],
        [[_payer(each), _name(each.network), each.asset, render.usd(each.value_nano_usd)] for each in refund.payers],
        empty="This tenant never paid: its whole credit was added by you.",
    )
    if change.repeated:
        note = f"{repeated_note(typed_before)} Send the money unless you have."
        render.say(render.Styled(note, "yellow"))
    elif refund.payers:
        render.say(render.Styled("The balance is reduced. Now send the money: TrustGate does not do that.", "yellow"))


def _payer(payer: Payer) -> str:
    return payer.payer or "not said"


@app.command("keygen")
def keygen(
    context: typer.Context,
    keypair: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Where to write it.  [default: the setting payment.keypair: facilitator.json in the home folder]",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make the key with which the gateway settles Solana payments itself. It pays their fees: send some SOL to it."""
    made = execute(context, PaymentKeygen(keypair=absolute(keypair)))
    if json:
        render.document(made)
        return
    render.card([("Address", made.pubkey), ("Kept in", made.path)])
    example = shlex.join(["trustgate", "payment", "set", "TENANT", "--network", "solana", "--pay-to", "ADDRESS"])
    render.say(f"Send some SOL to it (0.01 pays for about a thousand payments); then: {example} --facilitator embedded")
