"""``trustgate anchor``: posting and verifying anchors."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trustgate.admin.commands import Admin
from trustgate.admin.log_commands import AnchorFlush, AnchorKeygen, AnchorList, AnchorStatus, AnchorVerify
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute, with_admin
from trustgate.cli.values import absolute
from trustgate.errors import VerificationFailed
from trustgate.ids import new_id, now_us
from trustgate.solana.reports import AnchorAudit, FlushOutcome
from trustgate.types import Anchor

app = typer.Typer(
    help="Anchors: the log of receipts on Solana, one transaction for all of them since the last.", no_args_is_help=True
)

RpcOption = Annotated[
    str | None,
    typer.Option(
        "--rpc",
        metavar="URL|NAME",
        help="devnet, testnet, mainnet-beta, local (a chain on this machine), or the URL of an RPC node.",
    ),
]
KeypairOption = Annotated[
    str | None,
    typer.Option("--keypair", metavar="FILE", help="The file with the key that pays, as the Solana CLI writes it."),
]


@app.command("flush")
def flush(
    context: typer.Context,
    rpc: RpcOption = None,
    keypair: KeypairOption = None,
    commitment: Annotated[
        Literal["confirmed", "finalized"] | None,
        typer.Option(help="The commitment that the transaction must reach before this is done."),
    ] = None,
    max_fee: Annotated[
        int | None, typer.Option(metavar="LAMPORTS", parser=values.whole, help="The highest fee to pay.")
    ] = None,
    mainnet: Annotated[
        bool, typer.Option("--mainnet", help="Allow a URL in --rpc that is of mainnet, where fees are real money.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be posted, and post nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Post the log's state to Solana: one transaction for all receipts since the last anchor.

    Its memo is the signed checkpoint. It can be interrupted at any time: the next flush continues.
    """
    command = AnchorFlush(
        flush=new_id("flush", now_us()),
        rpc=rpc,
        keypair=absolute(keypair),
        commitment=commitment,
        max_fee_lamports=max_fee,
        mainnet=mainnet,
        dry_run=dry_run,
    )

    async def work(admin: Admin) -> FlushOutcome:
        with render.working("Reading the log", quiet=json) as say:
            while True:
                state = await admin.execute(command)
                if state.outcome is not None:
                    return state.outcome
                say(state.stage)

    outcome = with_admin(context, work)
    if json:
        render.document(outcome)
    else:
        _show(outcome)


def _show(outcome: FlushOutcome) -> None:
    if outcome.dry_run:
        render.say(
            f"Would anchor {render.counted(outcome.tree_size, 'receipt')} on {outcome.network} "
            f"for {render.number(outcome.fee_lamports)} lamports. Nothing was posted."
        )
    elif not outcome.anchored:
        render.say(
            f"Nothing to anchor: {outcome.network} has {render.counted(outcome.tree_size, 'receipt')} already: all."
            if outcome.tree_size
            else "Nothing to anchor: there is no receipt yet."
        )
        return
    else:
        render.say(f"Anchored {render.counted(outcome.tree_size, 'receipt')} on {outcome.network}.")
    fields: list[tuple[str, render.Cell]] = [("Tree size", render.number(outcome.tree_size)), ("Root", outcome.root)]
    if outcome.signature:
        fields += [("Signature", outcome.signature), ("Slot", render.number(outcome.slot))]
    fields += [("Fee", f"{render.number(outcome.fee_lamports)} lamports"), ("Paid by", outcome.fee_payer)]
    if outcome.explorer:
        fields.append(("Explorer", outcome.explorer))
    render.card(fields)


@app.command("list")
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the anchors, the oldest first."""
    anchors = execute(context, AnchorList())
    if json:
        render.document({"anchors": [_plain(anchor) for anchor in anchors]})
        return
    numbers = map(render.right, ("Receipts", "Slot", "Lamports"))
    render.table(
        ["Time (UTC)", "State", *numbers, "Signature"],
        [_row(anchor) for anchor in anchors],
        empty="Nothing has been anchored yet. Try: trustgate anchor flush --rpc local",
    )


def _row(anchor: Anchor) -> list[render.Cell]:
    anchored = anchor.state == "anchored"
    return [
        render.instant(anchor.anchored_us or anchor.created_us),
        render.Styled(anchor.state, "green" if anchored else "yellow"),
        render.number(anchor.tree_size),
        render.number(anchor.slot) if anchored else "–",
        render.number(anchor.fee_lamports) if anchored else "–",
        anchor.signature or (anchor.attempts[-1].signature if anchor.attempts else "–"),
    ]


def _plain(anchor: Anchor) -> dict[str, object]:
    """Without the transactions' bytes, which are for exports."""
    members = render.plain(anchor)
    members["attempts"] = [
        {name: value for name, value in attempt.items() if name != "transaction"} for attempt in members["attempts"]
    ]
    return dict(members)


@app.command("status")
def status(context: typer.Context, json: JsonOption = False) -> None:
    """Show the log's name and keys, and how much of it is anchored."""
    found = execute(context, AnchorStatus())
    if json:
        render.document({**render.plain(found), "planned": [_plain(anchor) for anchor in found.planned]})
        return
    waiting = found.tree_size - found.anchored_size
    fields: list[tuple[str, render.Cell]] = [
        ("Log", found.origin),
        ("Verifier key", found.vkey),
        ("Receipts", render.number(found.tree_size)),
        ("Root", found.root),
        ("Anchored", f"{render.counted(found.anchored_size, 'receipt')}, {render.number(waiting)} wait"),
        ("Paid by", found.pubkey or "no key yet: trustgate anchor keygen"),
        ("Schedule", found.schedule or "none: trustgate anchor flush, or [anchor] every in trustgate.toml"),
    ]
    if found.anchored_us:
        fields.insert(5, ("Last anchor", render.instant_utc(found.anchored_us)))
    fields += [
        ("Begun", f"{render.counted(anchor.tree_size, 'receipt')}; trustgate anchor flush goes on with it")
        for anchor in found.planned
    ]
    if found.problem:
        fields.append(("Problem", render.Styled(found.problem, "yellow")))
    render.card(fields)


@app.command("verify")
def verify(
    context: typer.Context, rpc: RpcOption = None, keypair: KeypairOption = None, json: JsonOption = False
) -> None:
    """Check every anchor from chain data alone, and against the log here. Exit code 7 when one is wrong."""
    with render.waiting("Reading every anchor from the chain", quiet=json):
        audit = execute(context, AnchorVerify(rpc=rpc, keypair=absolute(keypair)))
    wrong = [finding for finding in audit.findings if finding.problem]
    if json:
        render.document({"ok": not wrong, **render.plain(audit)})
    else:
        _show_audit(audit)
    if wrong:
        raise VerificationFailed(
            f"{len(wrong)} of {len(audit.findings)} anchors on {audit.network} are wrong: {wrong[0].problem}",
            hint="Check that this home folder has the database and the log.key that were anchored.",
        )


def _show_audit(audit: AnchorAudit) -> None:
    render.table(
        [render.right("Receipts"), render.right("Slot"), "Signature", "Holds"],
        [
            [
                render.number(finding.tree_size),
                render.number(finding.slot),
                finding.signature,
                render.Styled(finding.problem or "yes", "red" if finding.problem else "green"),
            ]
            for finding in audit.findings
        ],
        empty=f"There is no anchor of {audit.origin} by {audit.address} on {audit.network}.",
    )
    if audit.other_memos:
        render.say(f"{render.number(audit.other_memos)} other memos of {audit.address} are not anchors of this log.")


@app.command("keygen")
def keygen(context: typer.Context, keypair: KeypairOption = None, json: JsonOption = False) -> None:
    """Make the key that pays for anchors. Fund its address before the first flush."""
    made = execute(context, AnchorKeygen(keypair=absolute(keypair)))
    if json:
        render.document(made)
    else:
        render.card([("Address", made.pubkey), ("Kept in", made.path)])
