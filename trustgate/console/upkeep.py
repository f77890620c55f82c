"""The actions that keep a gateway well: notices, anchors, open payments, archives, backups. Most of them take long."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from trustgate.admin import notation
from trustgate.admin.commands import Admin
from trustgate.admin.log_commands import AnchorFlush, ArchiveReceipts, ArchiveReport, Backup, BackupMade, Compact
from trustgate.admin.money import PaymentReconcile, Reconciled, StatementExport
from trustgate.admin.new_file import new_file, unwritable
from trustgate.admin.subscriptions import NotifyAdd, NotifyRemove, NotifyTest, TrialOutcome
from trustgate.console.fields import Action, Field, Given, Progress, read_path
from trustgate.console.view import link, word
from trustgate.console.works import awaited, polled
from trustgate.formats.written import number, size, usd
from trustgate.ids import new_id, now_us
from trustgate.observe.notices import KINDS
from trustgate.solana.reports import FlushOutcome
from trustgate.statements.making import StatementMade
from trustgate.store import Compacted
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import code, facts, heads, message, table

# notices

_SUBSCRIBER = Field("subscriber", "Subscriber", required=True, help="Its name or id")


def _trials(outcomes: tuple[TrialOutcome, ...]) -> Html:
    rows = [(each.name, word("delivered" if each.ok else "failed"), each.detail) for each in outcomes]
    return table("Test notices", ["To", "State", "What came of it"], rows, empty="There is no subscriber.")


NOTICE_ACTIONS = {
    "notify.add": Action(
        ("notify", "add"),
        "Add a webhook",
        (
            Field("url", "URL", required=True, example="https://hooks.example.com/trustgate"),
            Field("on", "Only these kinds", "--on", help=", ".join(KINDS)),
            Field("name", "Name", "--name"),
            Field("private", "It may be on this machine or a private network, without TLS", "--private", kind="check"),
        ),
        lambda given: NotifyAdd(
            url=given["url"],
            kinds=notation.words([given.get("on", "")]),
            name=given.get("name", ""),
            is_private="private" in given,
        ),
        lambda made: ("notices",),
        note="It gets one notice when a condition begins and one when it ends; what cannot be delivered is tried again "
        "for two days. Messages are signed (Standard Webhooks); the secret to check them with is shown once. A program "
        "instead of a webhook is added on the command line: trustgate notify add --command PROGRAM.",
    ),
    "notify.remove": Action(
        ("notify", "remove"),
        "Remove a subscriber",
        (_SUBSCRIBER,),
        lambda given: NotifyRemove(subscriber=given["subscriber"]),
        lambda state: ("notices",),
        ask="It gets no more notices, and what waits for it is given up.",
    ),
    "notify.test": Action(
        ("notify", "test"),
        "Send a test notice",
        (_SUBSCRIBER._replace(required=False, help="Its name or id; empty: all of them"),),
        lambda given: NotifyTest(subscriber=given.get("subscriber")),
        lambda state: ("notices",),
        run=awaited("Waiting for the receivers", _trials),
    ),
}

# the chains


def _flushed(outcome: FlushOutcome) -> Html:
    count = number(outcome.tree_size)
    if outcome.dry_run:
        told = f"Would anchor {count} receipts on {outcome.network} for {number(outcome.fee_lamports)} lamports."
    elif not outcome.anchored:
        told = (
            f"Nothing to anchor: {outcome.network} has all {count} receipts already."
            if outcome.tree_size
            else "Nothing to anchor: there is no receipt yet."
        )
        return message("good", tag("p", None, told))
    else:
        told = f"Anchored {count} receipts on {outcome.network}."
    signature = code(outcome.signature or "none yet")
    if outcome.explorer:
        signature = tag("a", {"href": outcome.explorer, "rel": "noreferrer"}, signature)
    shown = facts(
        [
            ("Root", code(outcome.root)),
            ("Transaction", signature),
            ("Fee", f"{number(outcome.fee_lamports)} lamports"),
            ("Paid by", code(outcome.fee_payer)),
        ]
    )
    return join(message("good", tag("p", None, told)), shown)


def _reconciled(found: tuple[Reconciled, ...]) -> Html:
    rows = [
        (
            link(each.payment.id, "payments", each.payment.id),
            each.before,
            "released" if each.released else word(each.payment.state),
            usd(each.payment.value_nano_usd),
            each.problem or each.payment.reason or "–",
        )
        for each in found
    ]
    return table("Payments that were open", heads("Payment", "Was", "Is", ">Value", "Why"), rows, empty="None is open.")


CHAIN_ACTIONS = {
    "payment.reconcile": Action(
        ("payment", "reconcile"),
        "Look up open payments",
        (),
        lambda given: PaymentReconcile(reconcile=new_id("reconcile", now_us())),
        lambda state: ("payments",),
        note="Looked up on their chains. The gateway does this by itself, too.",
        run=polled(lambda state: state.payments, _reconciled),
    ),
    "anchor.flush": Action(
        ("anchor", "flush"),
        "Anchor all receipts now",
        (
            Field("dry_run", "Only show what would be posted", "--dry-run", kind="check"),
            Field("mainnet", "It may be mainnet, where fees are real money", "--mainnet", kind="check"),
        ),
        lambda given: AnchorFlush(
            flush=new_id("flush", now_us()), dry_run="dry_run" in given, mainnet="mainnet" in given
        ),
        lambda state: ("anchors",),
        ask="A transaction on the chain of the settings is signed and paid for.",
        run=polled(lambda state: state.outcome, _flushed),
    ),
}

# the home folder


def _archived(report: ArchiveReport) -> Html:
    if report.dry_run:
        told = f"Would archive {number(report.receipts)} receipts. Nothing was moved."
    elif not report.receipts:
        told = "There is nothing to archive."
    else:
        sizes = f"the database takes {size(report.after_bytes)}, it took {size(report.before_bytes)}"
        told = f"Archived {number(report.receipts)} receipts: {sizes}."
    rows = [(file.name, size(file.size_bytes)) for file in report.files]
    return join(
        message("good", tag("p", None, told)),
        message("wary", tag("p", None, f"Not moved: {report.kept}.")) if report.kept else None,
        table("Files", heads("File", ">Size"), rows, hide_caption=True) if rows else None,
    )


def _compacted(done: Compacted) -> Html:
    told = (
        f"The database now takes {size(done.after_bytes)}; it took {size(done.before_bytes)}."
        if done.after_bytes < done.before_bytes
        else f"The database takes {size(done.before_bytes)}; it cannot be made smaller."
    )
    return message("good", tag("p", None, told))


async def _back_up(admin: Admin, ordered: Any, given: Given, progress: Progress) -> Html:
    path = Path(given["file"])
    written = 0
    with new_file(path, force=False) as part, part.open("wb") as file:

        async def write(data: bytes) -> None:
            nonlocal written
            try:
                file.write(data)
            except OSError as error:
                raise unwritable(path, error) from None
            written += len(data)
            progress.say(f"{size(written)} written")

        made: BackupMade = await admin.feed(ordered, write)
    at = shlex.quote(str(path))
    told = f"Backed up {number(made.last_seq)} receipts of the log {made.origin}, {size(made.size_bytes)}, to {path}."
    left_out = f"Without {made.archives_left_out} archive files: back them up too." if made.archives_left_out else None
    return join(
        message("good", tag("p", None, told), tag("p", None, left_out) if left_out else None),
        tag("p", None, "Try it in an empty folder: ", code(f"trustgate --home FOLDER restore {at} --dry-run")),
    )


HOME_ACTIONS = {
    "backup": Action(
        ("backup",),
        "Back up",
        (
            Field("file", "File", read=read_path, required=True, example="/var/backups/trustgate.backup"),
            Field("without_archives", "Leave the archive files out", "--without-archives", kind="check"),
        ),
        lambda given: Backup(archives="without_archives" not in given),
        lambda state: ("storage",),
        note="Written on the gateway's machine, for its user alone: the file holds the log's key and the hashes of all "
        "API keys, so it never leaves through a browser. It has everything but the keys that hold money.",
        run=_back_up,
    ),
    "archive": Action(
        ("archive",),
        "Archive old receipts",
        (
            Field(
                *("before", "Made before", "--before", notation.month_or_since),
                required=True,
                help="2026-01, 2026-01-15, 90d",
                example="90d",
            ),
            Field("to", "Folder", "--to", read_path, help="Instead of archive/ in the home folder"),
            Field("dry_run", "Only show what would be moved", "--dry-run", kind="check"),
        ),
        lambda given: ArchiveReceipts(
            order=new_id("archive", now_us()),
            before_us=given["before"],
            to=given.get("to"),
            dry_run="dry_run" in given,
        ),
        lambda state: ("storage",),
        ask="Receipts move out of the database into files. Every page still finds them: keep the files, back them up.",
        run=polled(lambda state: state.report, _archived),
    ),
    "compact": Action(
        ("compact",),
        "Make the database smaller",
        (),
        lambda given: Compact(),
        lambda state: ("storage",),
        note="The file is written anew without its unused space; the gateway goes on serving.",
        run=awaited("Writing the database anew", _compacted),
    ),
}


# statements


async def _make_statement(admin: Admin, ordered: Any, given: Given, progress: Progress) -> Html:
    text = bytearray()

    async def write(data: bytes) -> None:
        text.extend(data)
        progress.say(f"{size(len(text))} made")

    progress.say("Adding up")
    made: StatementMade = await admin.feed(ordered, write)
    progress.statement = bytes(text)
    told = f"The statement has {number(made.receipts)} receipts, {size(len(text))}."
    return message("good", tag("p", None, told))


STATEMENT_ACTIONS = {
    "statement.make": Action(
        ("statement", "make"),
        "Make a statement",
        (
            Field("tenant", "Tenant", required=True, choices="tenants"),
            Field("month", "Month", "--month", notation.month, help="2026-10, last or this; empty: last"),
            Field("issuer", "Issuer", "--issuer", help="Whose statement it is: a name for its head"),
        ),
        lambda given: StatementExport(
            tenant=given["tenant"], month=given.get("month", notation.month("last")), issuer=given.get("issuer", "")
        ),
        lambda state: ("statements",),
        note="A tenant's month: its sums, its receipts, and the proof that the log has them.",
        run=_make_statement,
    ),
}

UPKEEP_ACTIONS = {**NOTICE_ACTIONS, **CHAIN_ACTIONS, **HOME_ACTIONS, **STATEMENT_ACTIONS}
