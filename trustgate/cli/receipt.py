"""``trustgate receipt``: the durable record of each request."""

from __future__ import annotations

from typing import Annotated

import typer

from trustgate.admin.commands import Admin, ReceiptDetail, ReceiptList, ReceiptShow, TenantList
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute, with_admin

app = typer.Typer(help="Receipts: the durable record of each request.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant's.")] = None,
    since: Annotated[
        int | None,
        typer.Option(metavar="WHEN", parser=values.since, help="From when on: 7d, today, month or 2026-01-31 (UTC)."),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many at most.")] = 50,
    json: JsonOption = False,
) -> None:
    """List receipts, the newest first."""

    async def work(admin: Admin) -> tuple[tuple[ReceiptDetail, ...], dict[str, str]]:
        found = await admin.execute(ReceiptList(tenant=tenant, since_us=since, limit=limit))
        tenants = () if json else await admin.execute(TenantList(removed=True))
        return found, {tenant.id: tenant.name for tenant in tenants}

    details, tenant_names = with_admin(context, work)
    if json:
        render.document({"receipts": details})
        return
    numbers = map(render.right, ("Tokens", "Cost", "ms", "Status"))
    render.table(
        ["Time (UTC)", "Tenant", "Model", *numbers, "Ended", "Id"],
        [_row(detail, tenant_names) for detail in details],
        empty="There is no receipt yet.",
    )


@app.command("show")
def show(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT", help="Its id: the header x-trustgate-receipt.")],
    json: JsonOption = False,
) -> None:
    """Show a receipt, with the secret that opens its commitments."""
    detail = execute(context, ReceiptShow(receipt=receipt))
    if json:
        render.document(detail)
    else:
        render.card(_fields(detail))


def _row(detail: ReceiptDetail, tenant_names: dict[str, str]) -> list[render.Cell]:
    receipt = detail.receipt
    return [
        render.instant(receipt.created_us),
        tenant_names.get(receipt.tenant, receipt.tenant),
        receipt.model,
        render.number(receipt.prompt_tokens + receipt.completion_tokens),
        render.usd(receipt.cost_nano_usd),
        render.number(receipt.latency_total_ms),
        str(receipt.status),
        render.Styled(receipt.finish, "green" if receipt.finish == "complete" else "yellow"),
        receipt.id,
    ]


def _fields(detail: ReceiptDetail) -> list[tuple[str, render.Cell]]:
    receipt = detail.receipt
    estimated = "" if receipt.usage_source == "provider" else ", estimated"
    return [
        ("Receipt", receipt.id),
        ("Time", render.instant_utc(receipt.created_us)),
        ("Tenant", receipt.tenant),
        ("Key", receipt.key),
        ("Endpoint", receipt.endpoint + (", streamed" if receipt.stream else "")),
        ("Model", f"{receipt.model} (answered by {receipt.upstream_model or 'none'})"),
        ("Passport", receipt.passport),
        ("Ended", f"{receipt.finish}, status {receipt.status}"),
        ("Prompt", f"{receipt.prompt_tokens:,} tokens, {receipt.cached_tokens:,} cached"),
        (
            "Completion",
            f"{receipt.completion_tokens:,} tokens, {receipt.reasoning_tokens:,} for reasoning{estimated}",
        ),
        ("Cost", render.usd(receipt.cost_nano_usd)),
        ("Took", f"{receipt.latency_first_ms:,} ms to the first byte, {receipt.latency_total_ms:,} ms in all"),
        ("Place in the log", render.number(detail.seq)),
        ("Place of the tenant", render.number(receipt.tseq)),
        ("Leaf hash", detail.leaf_hash),
        ("Previous of the tenant", receipt.tprev),
        ("Request commitment", receipt.request_commitment),
        ("Response commitment", receipt.response_commitment),
        ("Prices", receipt.price_hash),
        ("Policy", receipt.policy_hash),
        *([("Secret", detail.secret)] if detail.secret is not None else []),
    ]
