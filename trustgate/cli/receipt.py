"""``trustgate receipt``: the durable record of each request."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from msgspec import UnsetType

from trustgate.admin.commands import Admin, TenantList
from trustgate.admin.log_commands import ReceiptDetail, ReceiptExport, ReceiptList, ReceiptMend, ReceiptShow
from trustgate.admin.new_file import new_file
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute, session, with_admin
from trustgate.errors import OperatorError, VerificationFailed
from trustgate.types import Finish

if TYPE_CHECKING:
    from trustgate.receipts.verify import Verdict
    from trustgate.settings import Settings
    from trustgate.types import Receipt

_DISCLOSED: dict[str, tuple[Literal["request", "response"], ...]] = {
    "none": (),
    "request": ("request",),
    "response": ("response",),
    "both": ("request", "response"),
}

#: More than a bundle or a body of a request may have.
_MOST_BYTES = 1024 * 1024 * 1024

app = typer.Typer(help="Receipts: the provable record of each request.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Only this key, by its id or redacted form.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only models as asked for that match: gpt-4o, 'openai/*'.")
    ] = None,
    status: Annotated[
        Any, typer.Option(metavar="STATUS", parser=values.status, help="Only this HTTP status: 429, 5xx.")
    ] = None,
    ended: Annotated[Finish | None, typer.Option(help="Only those that ended so.")] = None,
    since: Annotated[
        int | None,
        typer.Option(metavar="WHEN", parser=values.since, help="Start: 7d, today, month or 2026-01-31 (UTC)."),
    ] = None,
    until: Annotated[int | None, typer.Option(metavar="WHEN", parser=values.since, help="End, exclusive.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The most to list.")] = 50,
    json: JsonOption = False,
) -> None:
    """List receipts, the newest first."""
    command = ReceiptList(
        tenant=tenant,
        key=key,
        model=model,
        status=status,
        finish=ended,
        since_us=since,
        until_us=until,
        limit=limit,
    )

    async def work(admin: Admin) -> tuple[tuple[ReceiptDetail, ...], dict[str, str]]:
        found = await admin.execute(command)
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
        empty="No receipts found.",
        optional=("ms", "Status", "Tenant", "Tokens"),
    )


@app.command("show")
def show(
    context: typer.Context,
    receipt: Annotated[
        str,
        typer.Argument(metavar="RECEIPT", help="Its id (x-trustgate-receipt) or that of its request (req_…)."),
    ],
    json: JsonOption = False,
) -> None:
    """Show a receipt, with the secret that opens its commitments."""
    detail = execute(context, ReceiptShow(receipt=receipt))
    if json:
        render.document(detail)
    else:
        render.card(_fields(detail))


@app.command("export")
def export(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT", help="Its id: the header x-trustgate-receipt.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write; default: stdout.")
    ] = None,
    disclose: Annotated[
        Literal["none", "request", "response", "both"],
        typer.Option(help="Disclose the salt of the request, the response or both: its holder can check or guess it."),
    ] = "none",
) -> None:
    """Export a receipt as a bundle that can be verified offline: its proof, checkpoint and anchor with it."""
    text = execute(context, ReceiptExport(receipt=receipt, disclose=_DISCLOSED[disclose]))
    if output is None:
        typer.echo(text, nl=False)
        return
    # It may hold what opens a commitment: for its owner alone, until they hand it on.
    with new_file(output, force=True) as part:
        part.write_text(text, encoding="utf-8")
    render.say(f"Wrote {output}. Check it: trustgate receipt verify {output}", to_stderr=True)


@app.command("mend")
def mend(
    context: typer.Context,
    accept: Annotated[
        bool, typer.Option("--accept", help="Accept those that still do not fit: they are not reported again.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Store receipts that the database could not hold before, and list those that it still cannot.

    Such a receipt keeps its place in the log, and its proof; in sums, what does not fit counts as nothing. Add what is
    missing to the tenant by hand (trustgate tenant credit), then accept it.
    """
    left = execute(context, ReceiptMend(accept=accept))
    if json:
        render.document({"set_aside": left})
        return
    render.table(
        [render.right("Number"), "Set aside (UTC)", "Why", "", "Id"],
        [
            (
                render.number(aside.seq),
                render.instant(aside.set_aside_us),
                aside.reason,
                "accepted" if aside.accepted else "",
                aside.id,
            )
            for aside in left
        ],
        empty="Every receipt is stored as it is.",
    )


@app.command("verify")
def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle of receipt export; - is stdin.")],
    rpc: Annotated[
        str | None,
        typer.Option(metavar="URL|NAME", help="Also check the anchor on this Solana cluster or node."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="VKEY", help="The log's verifier key, as its operator publishes it (/log/keys)."),
    ] = None,
    payer: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="The address that pays for the log's anchors, as its operator publishes it."
        ),
    ] = None,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prove that this file, byte for byte, was the request.")
    ] = None,
    response: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prove that this file, byte for byte, was the response.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a bundle, offline and without a database. Exit code 7 at the first check that fails."""
    from trustgate.receipts.note import VerifierKey
    from trustgate.receipts.verify import CHAIN_NOT_ASKED, verify_bundle

    verdict = verify_bundle(
        read_file(file),
        key=None if key is None else VerifierKey.parse(key),
        request=None if request is None else read_file(request),
        response=None if response is None else read_file(response),
        fee_payer=payer,
    )
    if rpc is not None and verdict.ok:
        with render.waiting("Asking the chain", quiet=json):
            verdict = _ask_chain(verdict, rpc, session(context).settings())
    elif verdict.ok and verdict.transaction is not None:
        verdict = verdict.plus(CHAIN_NOT_ASKED)
    # A receipt's content counts only if every check passed.
    proven = verdict.receipt if verdict.ok else None
    if json:
        checks = [check._asdict() for check in verdict.checks]
        render.document({"ok": verdict.ok, "checks": checks, "receipt": proven})
    else:
        for check in verdict.checks:
            render.check(check.state, check.name, check.detail)
        if proven is not None:
            render.say("")
            render.card(_told(proven))
    verdict.require()


def _ask_chain(verdict: Verdict, rpc: str, settings: Settings) -> Verdict:
    """Returns the verdict with the chain's check of the anchor. Raises ``ChainError`` when it cannot be asked."""
    import asyncio

    from trustgate.receipts.verify import Check
    from trustgate.solana.anchoring import open_rpc
    from trustgate.solana.verify import verify_on_chain

    transaction = verdict.transaction
    if transaction is None:
        return verdict.plus(Check("chain", "failed", "The bundle has no anchor that could be on a chain."))

    async def ask() -> str:
        async with open_rpc(rpc, settings.localnet_folder) as client:
            return await verify_on_chain(client, transaction)

    try:
        detail = asyncio.run(ask())
    except VerificationFailed as error:
        return verdict.plus(Check("chain", "failed", error.message, error.hint))
    return verdict.plus(Check("chain", "passed", detail))


def read_file(path: Path) -> bytes:
    """Returns a file's content, or stdin's for ``-``. Raises ``OperatorError``."""
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(_MOST_BYTES)
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}.") from None


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
        render.Styled(receipt.finish, "green" if receipt.finish in ("complete", "credited") else "yellow"),
        receipt.id,
    ]


def _fields(detail: ReceiptDetail) -> list[tuple[str, render.Cell]]:
    receipt = detail.receipt
    return [
        *_told(receipt),
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


def _told(receipt: Receipt) -> list[tuple[str, render.Cell]]:
    """Returns a receipt as labelled rows for people."""
    request = receipt.finish != "credited"
    return [
        ("Receipt", receipt.id),
        ("Time", render.instant_utc(receipt.created_us)),
        ("Tenant", receipt.tenant),
        ("Key", receipt.key or "none"),
        *([("End user", receipt.end_user)] if isinstance(receipt.end_user, str) and receipt.end_user else []),
        ("Endpoint", receipt.endpoint + (", streamed" if receipt.stream else "")),
        *([("Model", f"{receipt.model} ({_answered_by(receipt)})")] if request else []),
        *([("Passport", receipt.passport or "–")] if request else []),
        ("Ended", f"{receipt.finish}, status {receipt.status}"),
        *(_used(receipt) if request else []),
        *_balance(receipt),
    ]


def _answered_by(receipt: Receipt) -> str:
    return f"answered by {receipt.upstream_model}" if receipt.upstream_model else "not answered"


def _used(receipt: Receipt) -> list[tuple[str, render.Cell]]:
    estimated = "" if receipt.usage_source == "provider" else ", estimated"
    return [
        ("Prompt", f"{receipt.prompt_tokens:,} tokens, {receipt.cached_tokens:,} cached"),
        (
            "Completion",
            f"{receipt.completion_tokens:,} tokens, {receipt.reasoning_tokens:,} for reasoning{estimated}",
        ),
        *_besides(receipt),
        ("Cost", _cost(receipt)),
        ("Took", f"{receipt.latency_first_ms:,} ms to the first byte, {receipt.latency_total_ms:,} ms in all"),
    ]


def _cost(receipt: Receipt) -> str:
    if receipt.price_known is False:
        return "not known: the model had no price"
    cost, factor_ppm = render.usd(receipt.cost_nano_usd), receipt.price_factor_ppm
    if isinstance(factor_ppm, UnsetType) or isinstance(receipt.billed_nano_usd, UnsetType) or factor_ppm == 1_000_000:
        return cost
    return f"{cost}, billed {render.usd(receipt.billed_nano_usd)} (times {factor_ppm / 1_000_000:g})"


def _besides(receipt: Receipt) -> list[tuple[str, render.Cell]]:
    """What else the price looked at, as far as there was any of it; nothing before version 3."""
    counted = (
        (receipt.cache_write_tokens, "tokens written to the cache"),
        (receipt.cache_write_1h_tokens, "of them for an hour"),
        (receipt.audio_prompt_tokens, "audio tokens heard"),
        (receipt.audio_completion_tokens, "audio tokens spoken"),
        (receipt.image_prompt_tokens, "image tokens seen"),
        (receipt.image_completion_tokens, "image tokens made"),
        (receipt.images, "images made"),
        (receipt.audio_ms, "ms of audio"),
        (receipt.characters, "characters spoken"),
        (receipt.searches, "searches"),
    )
    told = [f"{count:,} {what}" for count, what in counted if isinstance(count, int) and count]
    told += _summed(receipt)
    conditions = (receipt.service_tier, receipt.image_size, receipt.image_quality)
    told += [text for text in conditions if isinstance(text, str) and text]
    if receipt.usage_contradictory is True:
        told.append("the reported usage contradicts itself")
    return [("Besides", ", ".join(told))] if told else []


def _summed(receipt: Receipt) -> list[str]:
    """Returns how many calls a receipt of a batch sums up, and which step of the price holds for each."""
    calls, step = receipt.calls, receipt.price_above_prompt_tokens
    if not isinstance(calls, int) or not isinstance(step, int):
        return []
    above = f", each priced as above {step:,} prompt tokens" if step else ""
    return [f"{calls:,} answered {'call' if calls == 1 else 'calls'}{above}"]


def _balance(receipt: Receipt) -> list[tuple[str, render.Cell]]:
    """Returns what left the tenant's balance and came onto it, and by which payment; nothing if payment is off."""
    charged, credited = receipt.charged_nano_usd, receipt.credited_nano_usd
    if isinstance(charged, UnsetType) or isinstance(credited, UnsetType):
        return []
    moved: list[tuple[str, render.Cell]] = [("Charged", render.usd(charged)), ("Credited", render.usd(credited))]
    if not receipt.payment:
        return moved
    return [
        *moved,
        ("Payment", f"{receipt.payment}"),
        ("Paid", f"{receipt.payment_amount} atomic units of {receipt.payment_asset}"),
        ("Paid by", f"{receipt.payment_payer or 'unknown'}"),
        ("Paid on", f"{receipt.payment_network}"),
        ("Paid in", f"transaction {receipt.payment_transaction or 'unknown'}"),
    ]
