"""``trustgate payment set``, ``off``, ``open``, ``close`` and ``terms``: how tenants pay."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import typer

from trustgate.admin.money import (
    OfferWanted,
    PaymentClose,
    PaymentOff,
    PaymentOpen,
    PaymentSet,
    PaymentTermsList,
    TermsDetail,
)
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute
from trustgate.cli.values import Maybe
from trustgate.errors import InvalidRequest
from trustgate.types import Offer

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id or name.")]
#: The network's names that this program knows, as far as people type them.
_NETWORKS = "solana, solana-devnet, base, base-sepolia, or a CAIP-2 id"


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``payment``'s."""
    app.command("set")(set_)
    app.command("off")(off)
    app.command("open")(open_)
    app.command("close")(close)
    app.command("terms")(terms)


def network_name(network: str) -> str:
    """Returns a network's name as people type it, or its CAIP-2 id."""
    from trustgate.payment.networks import v1_name_of

    return v1_name_of(network) or network


# the options of ``set``

ModeOption = Annotated[
    Literal["per-request", "prepaid"] | None,
    typer.Option(help="Pay for each request, or top up a balance that requests draw on.  [default: per-request]"),
]
NetworkOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help=f"The network to pay on: {_NETWORKS}. Repeat for more.")
]
PayToOption = Annotated[
    list[str] | None, typer.Option(metavar="ADDRESS", help="Your wallet on that network; one for each --network.")
]
AssetOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="usdc|MINT",
        help="The token, worth one USD; once for all networks, or once for each.  [default: usdc]",
    ),
]
FacilitatorOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL|embedded",
        help="The facilitator that settles: its URL, or embedded (this gateway; Solana).  [default: embedded where "
        "there is a key for it, else on test networks https://x402.org/facilitator]",
    ),
]
UncheckedOption = Annotated[
    bool,
    typer.Option(
        "--unchecked",
        help="Save an offer on an EVM network although its facilitator cannot be reached now; doctor checks it later.",
    ),
]
PriceOption = Annotated[
    Maybe | None,
    typer.Option(
        parser=values.usd_or_none,
        metavar="USD",
        help="The price of every request; none: the prices of passports.  [default: none]",
    ),
]
TopUpOption = Annotated[
    int | None,
    typer.Option(metavar="USD", parser=values.usd, help="The amount of a prepaid top-up.  [default: 1.00]"),
]
FlowOption = Annotated[
    Literal["authorization", "upfront"] | None,
    typer.Option(
        help="When a payment is settled: once there is an answer, or upfront, before the LLM server is asked; "
        "where that fails, the payment is credited. upfront suits long work.  [default: authorization]"
    ),
]
ContactOption = Annotated[
    Maybe | None,
    typer.Option(
        parser=values.text_or_none,
        metavar="TEXT",
        help="How the tenant gets more credit: a URL or mail address that refusals name.",
    ),
]
DecimalsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=values.whole,
        help="Decimals of a token that is not listed here, where no node can be asked.",
    ),
]
AssetNameOption = Annotated[
    str, typer.Option(metavar="NAME", help="Name of its EIP-712 domain (EVM), for such a token.")
]
AssetVersionOption = Annotated[
    str, typer.Option(metavar="VERSION", help="Version of its EIP-712 domain (EVM), for such a token.")
]


def set_(
    context: typer.Context,
    tenant: TenantArgument,
    mode: ModeOption = None,
    network: NetworkOption = None,
    pay_to: PayToOption = None,
    asset: AssetOption = None,
    facilitator: FacilitatorOption = None,
    unchecked: UncheckedOption = False,
    price: PriceOption = None,
    top_up: TopUpOption = None,
    flow: FlowOption = None,
    contact: ContactOption = None,
    decimals: DecimalsOption = None,
    asset_name: AssetNameOption = "",
    asset_version: AssetVersionOption = "",
    json: JsonOption = False,
) -> None:
    """Set or change how a tenant pays.

    Networks, addresses, tokens and facilitators are checked before anything is saved. What is not
    given stays as it is; so do offers on other networks. With --mode prepaid and no network at all, it draws on the
    credit that you add: trustgate tenant credit TENANT --add USD.
    """
    given = {"decimals": decimals, "asset_name": asset_name, "asset_version": asset_version, "unchecked": unchecked}
    offers = tuple(msgspec.structs.replace(offer, **given) for offer in _offers(network, pay_to, asset, facilitator))
    command = PaymentSet(
        tenant=tenant,
        mode=mode,
        price_nano_usd=None if price is None else price.value,
        by_passport=price is not None and price.value is None,
        top_up_nano_usd=top_up,
        offers=offers,
        flow=flow,
        contact=None if contact is None else contact.value or "",
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


def open_(context: typer.Context, tenant: TenantArgument, json: JsonOption = False) -> None:
    """Sell to callers without an API key, at this tenant's terms and within its plan.

    Such callers pay for each request by itself. What is sold, and at what price, is published at
    /.well-known/x402, /llms.txt and /openapi.json.
    """
    _show_terms(execute(context, PaymentOpen(tenant=tenant)), json)


def close(context: typer.Context, tenant: TenantArgument, json: JsonOption = False) -> None:
    """Stop selling to callers without an API key."""
    _show_terms(execute(context, PaymentClose(tenant=tenant)), json)


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
                    render.names(network_name(offer.network) for offer in detail.terms.offers),
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
        sold = f"sold; the key {terms.keyless_key_id} has the limits"
        fields.append(("Without a key", "not sold while payment is off" if terms.mode == "off" else sold))
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
        (network_name(offer.network), f"{offer.asset} to {offer.pay_to}"),
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
