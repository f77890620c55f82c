"""``trustgate serve``."""

from __future__ import annotations

from typing import Any

import typer

from trustgate.admin.commands import Reload
from trustgate.admin.server_state import socket_answers
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute, session
from trustgate.cli.options import option, with_options
from trustgate.errors import StoreLocked
from trustgate.settings import Settings

#: What the flags of ``serve`` say, by the names of settings; None where one was not given.
ServeFlags = dict[str, Any]

_FLAGS = {
    "serve.host": option(
        "host",
        str,
        "--host",
        help="The address to listen on; 0.0.0.0 is every interface.  [default: 127.0.0.1]",
    ),
    "serve.port": option("port", int, "--port", help="The port; 0 lets the system choose.  [default: 4010]"),
    "store.url": option(
        "store",
        str,
        "--store",
        help="A Postgres database in place of the file in the home folder: postgresql://user@host/database",
        metavar="URL",
    ),
    "serve.workers": option(
        "workers",
        int,
        "--workers",
        help="How many processes serve the port. More than 1 need a database on Postgres.  [default: 1]",
    ),
    "serve.wait": option(
        "wait",
        bool,
        "--wait",
        help="Where another process serves the database, wait until it has ended, as a spare.",
    ),
    "upstream.url": option(
        "upstream",
        str,
        "--upstream",
        help="Base URL of the LLM server (OpenAI-compatible).  [default: http://127.0.0.1:4000/v1, LiteLLM's]",
        metavar="URL",
    ),
    "upstream.key_env": option(
        "upstream_key_env",
        str,
        "--upstream-key-env",
        help="Name of the environment variable that holds the LLM server's key.",
        metavar="NAME",
    ),
}

#: Gives a command the flags of ``serve``; its parameter ``flags`` gets them as settings.
with_serve_flags = with_options(
    "flags",
    list(_FLAGS.values()),
    lambda given: {setting: given[parameter.name] for setting, parameter in _FLAGS.items()},
)


def register(app: typer.Typer) -> None:
    app.command("serve", short_help="Run the gateway until SIGTERM or Ctrl-C.")(serve)
    app.command("reload", short_help="Reload the settings of the running server.")(reload)


@with_serve_flags
def serve(context: typer.Context, flags: ServeFlags) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Creates what is missing in the home folder. On SIGTERM running streams end first.
    """
    settings = session(context).settings(flags)
    settings.make_home()

    def load() -> Settings:
        return as_served(session(context).settings(flags))

    from trustgate.server.workers import as_served, check_workers, run_workers

    settings = as_served(settings)
    if settings.serve.workers > 1:
        check_workers(settings)
        raise typer.Exit(run_workers(settings, load))
    from trustgate.server import run

    try:
        raise typer.Exit(run(settings, load))
    except StoreLocked as error:
        if not socket_answers(settings):
            raise
        raise StoreLocked(
            error.message,
            hint="It serves this home already, and commands go through it. To start it anew, stop it first. A second "
            "gateway needs another --home and --port.",
        ) from error


def reload(context: typer.Context, json: JsonOption = False) -> None:
    """Reload trustgate.toml in the running server, as SIGHUP does.

    An invalid file is refused, and the old settings stay. Prints which settings are in effect from the next request on,
    and which need a restart. Of several workers all reload; for what needs a restart they are replaced one by one.
    """
    done = execute(context, Reload())
    if json:
        render.document(done)
        return
    render.say("Changed, in effect from the next request on: " + render.names(done.changed, nothing="nothing") + ".")
    if done.replacing:
        say = "Changed, in effect as the workers are replaced, one after the other from now on: "
        render.say(say + render.names(done.replacing) + ".")
    if done.restart:
        render.say("Changed, in effect after a restart: " + render.names(done.restart) + ".")
