"""``trustgate backup``, ``restore``, ``accept-loss`` and ``compact``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustgate.admin.commands import Admin, Status
from trustgate.admin.log_commands import Backup, BackupMade, Compact
from trustgate.admin.server_state import socket_answers
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute, session, with_admin
from trustgate.cli.output import STDOUT, Sink, sink
from trustgate.errors import Conflict, InvalidRequest
from trustgate.settings import remote_server


def register(app: typer.Typer) -> None:
    app.command("backup", short_help="Back up the home folder into one file.")(backup)
    app.command("restore", short_help="Restore a backup.")(restore)
    app.command("accept-loss", short_help="Accept that data is lost, and start without it.")(accept_loss)
    app.command("compact", short_help="Make the database file smaller.")(compact)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; - is stdout, for a pipe.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    without_archives: Annotated[
        bool, typer.Option("--without-archives", help="Leave archive files out, which never change; they are named.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Back up the home folder into one file, with or without a running server.

    The database with its archive files, the log's key and checkpoint, the ids that upstreams gave out and
    trustgate.toml; not the keys that hold money. The file holds the log's key and the hashes of all API keys: protect
    it like the home folder.
    """
    if json and file == STDOUT:
        raise InvalidRequest("With --json the backup needs a FILE; stdout is for the JSON.")

    async def work(admin: Admin, into: Sink) -> BackupMade:
        with render.progress("Backing up", in_bytes=True, quiet=json) as advance:

            async def write(data: bytes) -> None:
                await into.write(data)
                advance(into.size_bytes, None)

            return await admin.feed(Backup(archives=not without_archives), write)

    with sink(file, force=force) as into:
        made = with_admin(context, lambda admin: work(admin, into))
    if json:
        render.document({"file": str(file), **render.plain(made)})
    else:
        what = f"{render.counted(made.last_seq, 'receipt')} of the log {made.origin}, {render.size(made.size_bytes)}"
        if made.archives_left_out:
            what += f", without {made.archives_left_out} archive files"
        render.say(f"Backed up {what}, to {file}." if file != STDOUT else f"Backed up {what}.", to_stderr=True)


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    new_log: Annotated[
        bool,
        typer.Option("--new-log", help="Continue as a log of another name, although the old log has newer receipts."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the backup and the home; change nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Restore a backup into the home folder. The server must not run; replaced files are kept beside it.

    Refused where the log would fork: where this home has signed, or still has, receipts that the backup lacks.
    """
    import asyncio

    from trustgate.admin.restore import restore as put_back

    if remote_server() is not None:
        raise InvalidRequest("A backup is restored on the machine itself.", hint="Unset TRUSTGATE_URL.")
    settings = session(context).settings()
    if socket_answers(settings):
        pid = execute(context, Status()).pid
        raise Conflict(f"A server (process {pid}) runs on {settings.home}.", hint=f"Stop it first: kill {pid}")
    with render.progress("Unpacking", in_bytes=True, quiet=json) as advance:
        done = asyncio.run(put_back(settings, file, new_log=new_log, dry_run=dry_run, report=advance))
    if json:
        render.document(done)
        return
    added = done.last_seq - done.backup_seq
    from_journal = f" and {render.number(added)} more from the journal" if added else ""
    rows: list[tuple[str, render.Cell]] = [
        ("Backup of", render.instant_utc(done.created_us)),
        ("Receipts", f"{render.number(done.backup_seq)}{from_journal}"),
        ("Log", done.origin + (", a new name" if new_log else "")),
    ]
    if done.replaced:
        rows.append(("Put aside", done.replaced))
    render.card(rows, title="It can be restored. Nothing was changed." if dry_run else "Restored.")
    if done.archives_missing:
        render.say(
            f"{len(done.archives_missing)} archive files are in neither the backup nor this home; put them into "
            f"{settings.home / 'archive'}: {', '.join(done.archives_missing)}",
            to_stderr=True,
        )
    if not new_log:
        render.say(
            "If the log went on after that backup, on a machine that is lost, this one would contradict it under "
            "its name: restore with --new-log instead.",
            to_stderr=True,
        )


def accept_loss(
    context: typer.Context,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; else what is missing is shown, and nothing changed.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Go on without what the database or its journal lacks, where nothing brings it back. The server must not run.

    A start that is refused because receipts, payments or changes of yours are missing says what and since when. Files
    that came back, or a backup (trustgate restore), are better than this. Nothing is deleted; what was accepted is
    written down in the operators' journal.
    """
    import asyncio

    from trustgate.admin.accepting import accept_loss as accept
    from trustgate.admin.accepting import missing

    if remote_server() is not None:
        raise InvalidRequest("A loss is accepted on the machine itself.", hint="Unset TRUSTGATE_URL.")
    settings = session(context).settings()
    if socket_answers(settings):
        raise Conflict(
            f"A server runs on {settings.home}: nothing is missing that it knows of.", hint="trustgate doctor"
        )
    lost = asyncio.run(missing(settings))
    if yes and lost:
        lost = asyncio.run(accept(settings))
    if json:
        render.document({"accepted": yes, "missing": lost})
    else:
        for what in lost or ["Nothing is missing."]:
            render.say(what)
    if lost and not yes:
        raise Conflict("Nothing has been changed.", hint="trustgate accept-loss --yes")


def compact(context: typer.Context, json: JsonOption = False) -> None:
    """Rewrite the database file without its unused space. An interruption loses nothing.

    A server goes on serving; receipts wait in its journal meanwhile.
    """
    with render.waiting("Rewriting the database", quiet=json):
        done = execute(context, Compact())
    if json:
        render.document(done)
    elif done.after_bytes < done.before_bytes:
        render.say(f"The database now takes {render.size(done.after_bytes)}; it took {render.size(done.before_bytes)}.")
    else:
        render.say(f"The database takes {render.size(done.before_bytes)}; it cannot be made smaller.")
