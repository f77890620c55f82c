"""``trustgate archive``: old receipts in Parquet files, where every command still finds them."""

from __future__ import annotations

from typing import Annotated

import typer

from trustgate.admin.commands import Admin
from trustgate.admin.log_commands import ArchiveFound, ArchiveList, ArchiveReceipts, ArchiveReport
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute, with_admin
from trustgate.cli.values import absolute
from trustgate.errors import InvalidRequest
from trustgate.ids import new_id, now_us


def register(app: typer.Typer) -> None:
    app.command("archive", short_help="Move old receipts out of the database, into Parquet files.")(archive)


def archive(
    context: typer.Context,
    before: Annotated[
        int | None,
        typer.Option(
            metavar="WHEN",
            parser=values.month_or_since,
            help="Move receipts made before then: 2026-01, 2026-01-15, 90d.",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FOLDER", help="Where to put the files, instead of HOME/archive.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be moved, and move nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Move old receipts out of the database into Parquet files, and make the database smaller.

    Every command still finds them, and their proofs stay what they are: keep the files, and back them up. An
    interruption loses nothing. Without --before the files are listed, each read and checked.
    """
    if before is None:
        if to is not None or dry_run:
            raise InvalidRequest(
                "The time before which receipts are moved is missing.",
                hint="Give one: --before 2026-01",
                param="before",
            )
        _list(context, json)
        return
    command = ArchiveReceipts(order=new_id("archive", now_us()), before_us=before, to=absolute(to), dry_run=dry_run)

    async def work(admin: Admin) -> ArchiveReport:
        with render.working("Bringing the log up to date", quiet=json) as say:
            while True:
                state = await admin.execute(command)
                if state.report is not None:
                    return state.report
                say(state.stage)

    report = with_admin(context, work)
    if json:
        render.document(report)
    else:
        _show(report)


def _show(report: ArchiveReport) -> None:
    if report.dry_run:
        render.say(f"Would archive {render.counted(report.receipts, 'receipt')}. Nothing was moved.")
    elif not report.receipts:
        render.say("There is nothing to archive.")
    else:
        sizes = f"the database takes {render.size(report.after_bytes)}, it took {render.size(report.before_bytes)}"
        render.say(f"Archived {render.counted(report.receipts, 'receipt')}: {sizes}.")
    for file in report.files:
        render.say(f"  {file.name}  {render.size(file.size_bytes)}")
    if report.kept:
        render.say(f"Not moved: {report.kept}.", to_stderr=True)


def _list(context: typer.Context, json: bool) -> None:
    with render.waiting("Reading the files", quiet=json):
        found = execute(context, ArchiveList(check=True))
    if json:
        render.document({"archives": found})
    else:
        columns: list[str | render.Column] = [
            "File",
            render.right("Receipts"),
            "From",
            "To",
            render.right("Size"),
            "State",
        ]
        render.table(columns, map(_row, found), empty="No receipts are archived.")
    if any(file.problem for file in found):
        raise typer.Exit(1)


def _row(found: ArchiveFound) -> list[render.Cell]:
    file = found.file
    state = render.Styled(found.problem, "red") if found.problem else render.Styled("ok", "green")
    return [
        *(found.path, f"{render.number(file.first_seq)}–{render.number(file.last_seq)}"),
        *(render.instant_utc(file.first_us), render.instant_utc(file.last_us), render.size(file.size_bytes), state),
    ]
