"""``trustgate export``: receipts and usage for spreadsheets, notebooks and other databases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from trustgate.admin.commands import Admin, Feed
from trustgate.admin.log_commands import Exported, ReceiptsExport, UsageExport
from trustgate.admin.new_file import new_file
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, with_admin
from trustgate.cli.output import STDOUT, Sink, sink
from trustgate.errors import InvalidRequest

_TABLE = "Writing the table"

Format = Literal["jsonl", "csv", "parquet"]
_FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}

_Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write; the ending sets the format. - is stdout."),
]
_Format = Annotated[Format | None, typer.Option("--format", help="The format, if the name of FILE does not show it.")]
_Tenant = Annotated[str | None, typer.Option(metavar="TENANT", help="Only this tenant.")]
_Since = Annotated[
    int | None,
    typer.Option(metavar="WHEN", parser=values.since, help="Start: 7d, today, month or 2026-01-31 (UTC)."),
]
_Until = Annotated[int | None, typer.Option(metavar="WHEN", parser=values.since, help="End, exclusive.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")]

app = typer.Typer(help="Export receipts or usage as JSON lines, CSV or Parquet.", no_args_is_help=True)


@app.command("receipts")
def receipts(
    context: typer.Context,
    output: _Output = STDOUT,
    format: _Format = None,
    tenant: _Tenant = None,
    since: _Since = None,
    until: _Until = None,
    force: _Force = False,
    json: JsonOption = False,
) -> None:
    """Export receipts, in the log's order: one row each, without the secrets that open their commitments."""
    command = ReceiptsExport(tenant=tenant, since_us=since, until_us=until)
    _export(context, command, "receipts", output, format, force=force, json=json)


@app.command("usage")
def usage(
    context: typer.Context,
    output: _Output = STDOUT,
    format: _Format = None,
    tenant: _Tenant = None,
    since: _Since = None,
    until: _Until = None,
    force: _Force = False,
    json: JsonOption = False,
) -> None:
    """Export usage: one row for each day (UTC), tenant, key, endpoint and model."""
    command = UsageExport(tenant=tenant, since_us=since, until_us=until)
    _export(context, command, "usage", output, format, force=force, json=json)


def _export(
    context: typer.Context,
    command: Feed[Exported],
    what: Literal["receipts", "usage"],
    output: Path,
    given: Format | None,
    *,
    force: bool,
    json: bool,
) -> None:
    chosen = given or _format_of(output)
    if output == STDOUT and (chosen == "parquet" or json):
        raise InvalidRequest("That needs a file: --output FILE.", param="output")

    def run(into: Sink) -> Exported:
        async def work(admin: Admin) -> Exported:
            with render.progress(f"Exporting {what}", quiet=json) as advance:

                async def write(data: bytes) -> None:
                    await into.write(data)
                    advance(into.lines, None)

                return await admin.feed(command, write)

        return with_admin(context, work)

    if chosen == "jsonl":
        with sink(output, force=force) as into:
            done = run(into)
    else:
        done = _as_table(run, what, output, chosen, force=force, json=json)
    if json:
        render.document({"file": str(output), "format": chosen, "rows": done.rows})
    elif output != STDOUT:
        render.say(f"Wrote {render.number(done.rows)} rows to {output}.", to_stderr=True)


def _format_of(output: Path) -> Format:
    """Raises ``InvalidRequest`` for a name that does not show the format: it is not guessed."""
    if output == STDOUT:
        return "jsonl"
    found = _FORMATS.get(output.suffix.lower())
    if found is None:
        raise InvalidRequest(
            f"The name {str(output)!r} does not show the format.",
            hint="End it in .jsonl, .csv or .parquet, or give --format.",
            param="output",
        )
    return found


def _as_table(
    run: Callable[[Sink], Exported],
    what: str,
    output: Path,
    kind: Literal["csv", "parquet"],
    *,
    force: bool,
    json: bool,
) -> Exported:
    """Gather the lines in a file first: a table is made of the whole."""
    from trustgate.store.exports import RECEIPT_COLUMNS, USAGE_COLUMNS, write_table

    columns = RECEIPT_COLUMNS if what == "receipts" else USAGE_COLUMNS
    folder = tempfile.gettempdir() if output == STDOUT else output.absolute().parent
    with tempfile.TemporaryDirectory(prefix=".trustgate-export-", dir=folder) as made:
        lines = Path(made) / "lines.jsonl"
        with sink(lines) as into:
            done = run(into)
        if output == STDOUT:
            table = Path(made) / "table"
            with render.waiting(_TABLE, quiet=json):
                write_table(lines, table, columns, kind)
            with sink(output) as into, table.open("rb") as file:
                while piece := file.read(1024 * 1024):
                    into.put(piece)
        else:
            with new_file(output, force=force) as part, render.waiting(_TABLE, quiet=json):
                write_table(lines, part, columns, kind)
    return done
