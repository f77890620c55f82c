"""``trustgate migrate``."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from trustgate.admin.commands import Status
from trustgate.admin.server_state import socket_answers
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute, session
from trustgate.errors import Conflict, InvalidRequest, SettingsError
from trustgate.settings import check_values, remote_server


def register(app: typer.Typer) -> None:
    app.command("migrate", short_help="Move the database to Postgres, or back into a file.")(migrate)


def migrate(
    context: typer.Context,
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="Move the database file to this Postgres database.")
    ] = None,
    back: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Move this Postgres database into a file in the home.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Move everything to Postgres, or back into a file: receipts, keys, plans, payments, names of the log.

    The server must not run. The root of the log is compared before the old database is closed for good; broken off at
    any point, the command goes on when it is given again. The database's password is found as ``serve`` finds it.
    """
    if (to is None) == (back is None):
        raise InvalidRequest("Give either --to or --from.", hint="trustgate migrate --to postgresql://user@host/name")
    if remote_server() is not None:
        raise InvalidRequest("A database is moved on the machine itself.", hint="Unset TRUSTGATE_URL.")
    url = to or back or ""
    try:
        check_values({"store.url": url})
    except SettingsError as error:
        flag = "--to" if to is not None else "--from"
        raise InvalidRequest(
            error.message.replace("store.url", flag), hint=f"trustgate migrate {flag} postgresql://user@host/name"
        ) from None
    settings = session(context).settings()
    if to is not None and settings.store.url:
        raise SettingsError(
            "store.url is set already: this home's database is on Postgres.",
            hint="Take it out of trustgate.toml and the environment until the database has been moved.",
        )
    if socket_answers(settings):
        pid = execute(context, Status()).pid
        raise Conflict(f"A server (process {pid}) runs on {settings.home}.", hint=f"Stop it first: kill {pid}")
    from trustgate.admin.moving import move_from_postgres, move_to_postgres

    settings.make_home()
    address = settings.postgres(url)
    assert address is not None, "a URL was given"
    with render.progress("Moving receipts", quiet=json) as advance:
        move = move_to_postgres if to is not None else move_from_postgres
        done = asyncio.run(move(settings, address, advance))
    if json:
        render.document(done)
        return
    rows: list[tuple[str, render.Cell]] = [
        ("Database", done.place),
        ("Receipts", render.number(done.receipts)),
        ("Root", f"{done.root}, as before"),
    ]
    if done.kept:
        rows.append(("Kept", done.kept))
    render.card(rows, title="Moved.")
    if to is not None:
        render.say(f'Now write into trustgate.toml, and start the server:\n[store]\nurl = "{url}"')
    else:
        render.say("Now take store.url out of trustgate.toml and the environment, and start the server.")
