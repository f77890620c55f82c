"""``trustgate payment``: how tenants pay, and what they have paid."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, cast, get_args

import msgspec
import typer

from trustgate.admin.commands import Admin, TenantList
from trustgate.admin.money import (
    Payer,
    PaymentDetail,
    PaymentFollow,
    PaymentKeygen,
    PaymentList,
    PaymentLookAgain,
    PaymentReconcile,
    PaymentRefundCredit,
    PaymentResolve,
    PaymentShow,
    Reconciled,
    Refund,
)
from trustgate.cli import payment_terms, render, values
from trustgate.cli.context import JsonOption, execute, with_admin
from trustgate.cli.payment_terms import TenantArgument, network_name
from trustgate.cli.repeating import note_in_json, repeatable, repeated_note
from trustgate.cli.values import absolute
from trustgate.errors import InvalidRequest
from trustgate.ids import new_id, now_us
from trustgate.payment.interfaces import OfferFact
from trustgate.types import Payment, PaymentState

app = typer.Typer(help="Payments (x402): each tenant's terms, and payments received.", no_args_is_help=True)
payment_terms.add_to(app)

_STYLES = {"delivered": "green", "credited": "green", "unknown": "yellow", "failed": "red"}
_STATES: tuple[str, ...] = get_args(PaymentState)


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
                network_name(payment.offer.network),
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
        ("Network", f"{network_name(offer.network)} ({offer.network})"),
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
                network_name(fact.network),
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
        note_in_json(change, typed_before)
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
        [
            [_payer(each), network_name(each.network), each.asset, render.usd(each.value_nano_usd)]
            for each in refund.payers
        ],
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
