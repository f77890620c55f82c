"""``trustgate tenant correct``: giving back what a mistaken price billed."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from trustgate.admin.money import Correction, TenantCorrect
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, confirm, execute
from trustgate.errors import InvalidRequest
from trustgate.types import Prices


def _usd_per_million(flag: str, of_what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        flag,
        metavar="USD",
        parser=values.usd_per_million,
        help=f"The price it should have been, per million {of_what}.  [default: the price now]",
    )
    return option


def correct(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id or name.")],
    receipt: Annotated[str | None, typer.Option("--for", metavar="RECEIPT", help="This receipt alone.")] = None,
    since: Annotated[
        int | None,
        typer.Option(metavar="WHEN", parser=values.since, help="Start: 7d, today, month or 2026-01-31 (UTC)."),
    ] = None,
    until: Annotated[int | None, typer.Option(metavar="WHEN", parser=values.since, help="End, exclusive.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Requests for this model alone, or a glob of names.")
    ] = None,
    input_price: Annotated[int | None, _usd_per_million("--input-price", "prompt tokens")] = None,
    output_price: Annotated[int | None, _usd_per_million("--output-price", "completion tokens")] = None,
    cached_input_price: Annotated[int | None, _usd_per_million("--cached-input-price", "cached prompt tokens")] = None,
    price_factor: Annotated[
        int | None,
        typer.Option(
            metavar="FACTOR", parser=values.factor, help="The factor it should have been.  [default: the receipt's]"
        ),
    ] = None,
    reference: Annotated[str, typer.Option(metavar="TEXT", help="Your name for the credit.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Book it, and do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Give back what a mistaken price billed: the difference to the price now, or to the one given.

    Shows the difference, asks, and books it as a credit with a receipt. A receipt is corrected once.
    """
    if (receipt is None) == (since is None):
        raise InvalidRequest("Give either --for RECEIPT or --since DATE.", hint="trustgate tenant correct --help")
    command = TenantCorrect(
        tenant=tenant,
        receipt=receipt,
        since_us=since,
        until_us=until,
        model=model,
        prices=Prices(
            input_pico_usd=input_price, output_pico_usd=output_price, cached_input_pico_usd=cached_input_price
        ),
        price_factor_ppm=price_factor,
        reference=reference,
    )
    found = execute(context, command)
    if not json:
        _show(found)
    if found.credit_nano_usd > 0 and (yes or not json):
        question = f"Credit {render.usd(found.credit_nano_usd)} to {found.tenant.name}?"
        confirm(question, yes=yes, command="trustgate tenant correct …")
        found = execute(context, _booking(command, found))
    if json:
        render.document(found)
    elif found.change is not None:
        render.card([("Receipt", found.change.receipt), ("Balance", render.usd(found.change.balance_nano_usd))])
        if not found.draws:
            note = "It draws on no balance: take the credit off its next invoice."
            render.say(render.Styled(note, "yellow"))


def _booking(command: TenantCorrect, found: Correction) -> TenantCorrect:
    from msgspec.structs import replace

    return replace(command, book_nano_usd=found.credit_nano_usd)


def _show(found: Correction) -> None:
    render.table(
        ["Model", *map(render.right, ("Requests", "Billed", "By the price", "Difference"))],
        [
            [
                row.model,
                render.number(row.requests),
                render.usd(row.billed_nano_usd),
                render.usd(row.now_nano_usd),
                render.usd(row.billed_nano_usd - row.now_nano_usd),
            ]
            for row in found.rows
        ],
        empty="No request was billed otherwise than by that price.",
    )
    for count, why in (
        (found.corrected, "were corrected before"),
        (found.otherwise, "were not charged by their model's price (a price for each request, or a cut answer)"),
        (found.unpriced, "are for models without a price now"),
    ):
        if count:
            render.say(render.Styled(f"Left out: {render.number(count)} that {why}.", "yellow"))
    if found.rows and found.credit_nano_usd <= 0:
        name = shlex.quote(found.tenant.name)
        render.say(f"There is nothing to give back to {name}: by that price it would have been billed more.")
