"""``trustgate serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from trustgate.admin.commands import Reload
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute, session


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)
    app.command("reload", short_help="Have the running server read its settings again.")(reload)


def serve(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on; 0.0.0.0 is every interface.  [default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0 lets the system choose.  [default: 4010]")] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Base URL of the LLM server (OpenAI-compatible).  [default: http://127.0.0.1:4000/v1, LiteLLM's]",
        ),
    ] = None,
    upstream_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the environment variable that holds the LLM server's key."),
    ] = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Creates what is missing in the home folder. On SIGTERM running streams end first.
    """
    flags: dict[str, object] = {
        "serve.host": host,
        "serve.port": port,
        "upstream.url": upstream,
        "upstream.key_env": upstream_key_env,
    }
    settings = session(context).settings(flags)
    settings.make_home()
    from trustgate.server import run

    raise typer.Exit(run(settings, lambda: session(context).settings(flags)))


def reload(context: typer.Context, json: JsonOption = False) -> None:
    """Have the running server read trustgate.toml again, as SIGHUP does.

    A bad file is refused, and the old settings stay. Says which settings hold from the next request on, and which want
    a restart.
    """
    done = execute(context, Reload())
    if json:
        render.document(done)
        return
    render.say("Changed, from the next request on: " + render.names(done.changed, nothing="nothing") + ".")
    if done.restart:
        render.say("Changed, but only after a restart: " + render.names(done.restart) + ".")
