"""``trustgate console``: opens the operator's pages in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from trustgate.admin.consoling import ConsoleEnd, ConsoleOpen
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute


def register(app: typer.Typer) -> None:
    app.command("console", short_help="Open the console: pages to watch and manage the running gateway.")(console)


def console(
    context: typer.Context,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the link.")] = False,
    end: Annotated[
        bool, typer.Option("--end", help="End all sessions of the console instead, and links that were not used.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Open the console of the running gateway in your browser: pages to watch it and to manage it.

    Prints a link, which works once and for two minutes, and opens it. A session ends after half an hour without use,
    after twelve hours, or with the server. Every worker of the server has it, a server with another home does not. The
    link gives what the command line gives: do not pass it on.
    """
    if end:
        ended = execute(context, ConsoleEnd())
        if json:
            render.document(ended)
        else:
            render.say(f"Ended {render.number(ended.sessions)} sessions.")
        return
    link = execute(context, ConsoleOpen())
    if json:
        render.document(link)
        return
    render.say(link.url)
    render.say(f"It works once, until {render.instant_utc(link.expires_us)}.", to_stderr=True)
    if not no_open:
        import webbrowser

        if not webbrowser.open(link.url):
            render.say("No browser could be started here: open the link yourself.", to_stderr=True)
