"""The page of what is on the disk: the database, archive files, backups."""

from __future__ import annotations

from trustgate.admin.log_commands import ArchiveFound, ArchiveList
from trustgate.console.view import Shown, View, do, when, word
from trustgate.errors import TrustGateError
from trustgate.formats.written import number, size
from trustgate.notify.disk import disk_space
from trustgate.web.html import Html, join, tag
from trustgate.web.parts import buttons, card, code, command, facts, heading, heads, message, table


async def storage(view: View) -> Shown:
    found: tuple[ArchiveFound, ...] = ()
    problem = None
    try:
        found = await view.admin.execute(ArchiveList())
    except TrustGateError as error:
        problem = message("bad", tag("p", None, error.message))
    rows = [
        (
            code(each.path),
            f"{number(each.file.first_seq)}–{number(each.file.last_seq)}",
            when(each.file.first_us),
            when(each.file.last_us),
            size(each.file.size_bytes),
            word("fail") if each.problem else word("ok"),
        )
        for each in found
    ]
    body = join(
        heading("Storage"),
        buttons(
            do("Back up", "backup"),
            do("Archive old receipts", "archive"),
            do("Make the database smaller", "compact"),
        ),
        disk_card(view),
        tag("h2", None, "Archive files"),
        problem,
        table(
            "Archive files",
            heads("File", "Receipts", "From", "To", ">Size", "State"),
            rows,
            empty="No receipts are archived. Every receipt is in the database.",
            hide_caption=True,
        ),
        tag("p", {"class": "soft"}, "Their contents are read and compared with their hashes by:") if rows else None,
        command("trustgate archive", "archive-line") if rows else None,
        tag("h2", None, "Backups"),
        tag("p", None, "A backup is restored with the gateway stopped, on its machine:"),
        command("trustgate restore FILE --dry-run", "restore-line"),
    )
    return Shown("Storage", body)


def disk_card(view: View) -> Html:
    home = view.settings.home
    try:
        space = disk_space(home)
        free: object = join(size(space.free_bytes), " ", word("ok" if space.state == "ok" else "warn"))
        database = "on Postgres" if view.settings.store.url else size(view.settings.database.stat().st_size)
    except OSError as error:
        free, database = f"cannot be read: {error.strerror}", "unknown"
    return card("Disk", facts([("Home", str(home)), ("Free", free), ("Database", database)]))
