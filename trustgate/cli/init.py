"""``trustgate init``: writes a commented settings file, finds LLM servers on this machine and adds their models.

Owns the questions and what their answers become. ``models.importing.discovery`` finds the servers, ``settings_file``
writes.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer
from msgspec.structs import replace

from trustgate.admin.server_state import socket_answers
from trustgate.cli import render
from trustgate.cli.context import JsonOption, session, with_admin
from trustgate.cli.serve import ServeFlags, with_serve_flags
from trustgate.cli.settings_file import settings_file_exists, settings_file_text, write_settings_file
from trustgate.errors import InvalidRequest
from trustgate.settings import (
    BUILTIN_SCHEME,
    ServeSettings,
    Settings,
    check_values,
    find_home,
    read_secret_variable,
    remote_server,
    secret_variable_set,
)

if TYPE_CHECKING:
    from trustgate.admin.commands import Admin
    from trustgate.admin.model_commands import ImportResult
    from trustgate.models.importing.discovery import FoundServer
    from trustgate.models.passports import ImportedPassport

T = TypeVar("T")

_PORT_MOST = 65535
#: How many ports after the usual one are tried when that is taken.
_PORTS_TRIED = 20


def register(app: typer.Typer) -> None:
    app.command("init", short_help="Write trustgate.toml: find the LLM server, ask a few questions.")(init)


@with_serve_flags
def init(
    context: typer.Context,
    flags: ServeFlags,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Where to look for LLM servers, instead of the usual ports of this machine; repeat for more.",
        ),
    ] = None,
    models: Annotated[
        bool | None,
        typer.Option(
            "--models/--no-models", help="Whether to add the models of the servers found, with prices and limits."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, accept the proposals.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a settings file; the old one is kept.")] = False,
    json: JsonOption = False,
) -> None:
    """Write trustgate.toml into the home folder, with every setting explained.

    Looks for LiteLLM, Ollama, vLLM and llama.cpp on this machine and proposes what it finds; then asks the remaining
    questions. What a flag sets is not asked.
    """
    if remote_server() is not None:
        raise InvalidRequest("init sets up this machine, but TRUSTGATE_URL names another.", hint="unset TRUSTGATE_URL")
    settings = Settings(home=find_home(session(context).home))
    if settings.config_file.exists() and not force:
        raise settings_file_exists(settings.config_file)
    check_values({name: value for name, value in flags.items() if value is not None})
    setup = _Questions(flags, quiet=yes or json, running=socket_answers(settings)).setup(tuple(at or ()), models)
    check_values(setup.chosen)
    settings.make_home()
    kept = write_settings_file(settings.config_file, settings_file_text(setup.chosen), replace=force)
    imported = with_admin(context, lambda admin: _take_in(admin, setup.passports))
    if json:
        render.document(
            {
                "file": str(settings.config_file),
                "replaced": None if kept is None else str(kept),
                "settings": setup.chosen,
                "servers": setup.found,
                "passports": imported,
                "notes": setup.notes,
            }
        )
        return
    _print_result(context, settings, setup, imported, kept)


class _Setup(NamedTuple):
    chosen: dict[str, Any]
    server: FoundServer | None
    found: tuple[FoundServer, ...]
    passports: tuple[ImportedPassport, ...]
    notes: tuple[str, ...]


class _Questions:
    """The questions of the set-up, asked unless a flag answers them or nothing is to be asked."""

    def __init__(self, flags: ServeFlags, *, quiet: bool, running: bool) -> None:
        self._flags = flags
        self._quiet = quiet
        self._running = running
        self._chosen = {name: value for name, value in flags.items() if value is not None}
        self._notes: list[str] = []

    def setup(self, at: tuple[str, ...], models: bool | None) -> _Setup:
        found = self._look(at)
        server = self._server(found)
        key = self._key(server) if server is not None else None
        self._port()
        passports = () if models is False else self._models(server, key, found, asked=models is None)
        if server is None and not self._chosen.get("upstream.url"):
            self._notes.append(
                "Without an LLM server trustgate/echo alone answers. Set upstream.url in trustgate.toml, or give this "
                "command again with --force once one runs on this machine."
            )
        return _Setup(self._chosen, server, tuple(found), passports, tuple(self._notes))

    def _look(self, at: tuple[str, ...]) -> list[FoundServer]:
        from trustgate.models.importing.discovery import find_servers, usual_places

        named = self._flags["upstream.url"]
        places = at or ((named,) if named is not None else usual_places())
        places = tuple(place for place in places if not place.startswith(BUILTIN_SCHEME))
        with render.waiting("Looking for LLM servers", quiet=self._quiet):
            return find_servers(places)

    def _server(self, found: Sequence[FoundServer]) -> FoundServer | None:
        """Returns the server that requests go to by default; None where there is none, or one that does not answer
        yet.
        """
        named: str | None = self._flags["upstream.url"]
        if named is not None:
            return next((one for one in found if one.base_url.rstrip("/") == named.rstrip("/")), None)
        for number, one in enumerate(found, start=1):
            self._say(f"  {number}  {one.title} at {one.base_url}{_about(one)}")
        if not found:
            self._say("No LLM server answers at the usual ports of LiteLLM, Ollama, vLLM and llama.cpp.")
        if self._quiet:
            server = found[0] if found else None
        else:
            number = self._ask("Which server should requests go to? (0: none of these)", 1, len(found)) if found else 0
            server = found[number - 1] if number else None
            if server is None and (url := self._ask("Base URL of your LLM server (empty: none yet)", "")):
                self._chosen["upstream.url"] = url
                check_values({"upstream.url": url})
                return next(iter(self._look((url,))), None)
        if server is not None:
            self._chosen["upstream.url"] = server.base_url
        return server

    def _key(self, server: FoundServer) -> str | None:
        """Returns the server's key, if it requires one and its variable is set."""
        from trustgate.models.importing.discovery import KEY_VARIABLES, identify

        variable: str | None = self._flags["upstream.key_env"]
        if variable is None and not server.wants_key:
            return None
        if variable is None:
            self._say(
                f"{server.title} requires a key. Put it into an environment variable; the settings hold only its name."
            )
            variable = self._ask("Name of the variable that holds its key", KEY_VARIABLES[server.kind])
        check_values({"upstream.key_env": variable})
        self._chosen["upstream.key_env"] = variable
        if not secret_variable_set(variable):
            self._notes.append(f"{variable} is not set here: export {variable}=… before `trustgate serve`.")
            return None
        key = read_secret_variable(variable)
        asked = identify(server.base_url.removesuffix("/v1"), key)
        if asked is not None and asked.wants_key:
            self._notes.append(f"{server.title} refuses the key in {variable}.")
            return None
        return key

    def _port(self) -> None:
        from trustgate.http.sockets import why_not_free

        defaults = ServeSettings()
        if self._flags["serve.port"] is not None or self._running:
            return
        host = self._chosen.get("serve.host", defaults.host)
        candidates = range(defaults.port, defaults.port + _PORTS_TRIED)
        free = next((port for port in candidates if why_not_free(host, port) is None), defaults.port)
        port = free if self._quiet else self._ask("Port for the gateway to listen on", free)
        if port != defaults.port:
            self._chosen["serve.port"] = port
            if port == free and self._quiet:
                self._notes.append(
                    f"Port {defaults.port} is in use on this machine; the gateway will listen on {port}."
                )

    def _models(
        self, server: FoundServer | None, key: str | None, found: Sequence[FoundServer], *, asked: bool
    ) -> tuple[ImportedPassport, ...]:
        from trustgate.models.importing.discovery import offer_models

        passports: dict[str, ImportedPassport] = {}
        for one in ([] if server is None else [server]) + [other for other in found if other != server]:
            if one.wants_key and (one != server or key is None):
                continue  # what it has is not known
            offer = offer_models(one, key if one == server else None)
            self._notes += offer.notes
            # A server that is not the default one is named by its models' passports.
            place = None if one == server else one.base_url
            mine = [replace(o, fields=replace(o.fields, base_url=place)) for o in offer.passports]
            new = [passport for passport in mine if passport.slug not in passports]
            question = f"Add {_models_of(one, len(new))}, with the prices and limits it reports?"
            if new and (not asked or self._confirm(question)):
                passports.update((passport.slug, passport) for passport in new)
        return tuple(passports.values())

    def _say(self, text: str) -> None:
        if not self._quiet:
            render.say(text, to_stderr=True)

    def _confirm(self, question: str) -> bool:
        return self._quiet or _answered(lambda: typer.confirm(question, default=True, err=True))

    def _ask(self, question: str, proposal: T, most: int = _PORT_MOST) -> T:
        """Returns the answer; ``proposal`` where they say nothing. A number is from 0 to ``most``."""
        if self._quiet:
            return proposal

        def read(text: str) -> T:
            if isinstance(proposal, str):
                return text.strip()  # type: ignore[return-value]
            if not text.isascii() or not text.isdigit() or int(text[:10]) > most:
                raise typer.BadParameter(f"{text!r} is not a number from 0 to {most}.")
            return int(text)  # type: ignore[return-value]

        shown = proposal != ""
        answer: T = _answered(
            lambda: typer.prompt(question, default=str(proposal), value_proc=read, err=True, show_default=shown)
        )
        return answer


def _answered(ask: Any) -> Any:
    try:
        return ask()
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        raise InvalidRequest(
            "The input is not a terminal, so no questions can be asked.", hint="trustgate init --yes"
        ) from None


def _about(found: FoundServer) -> str:
    if found.wants_key:
        return ", which requires a key"
    names = render.names((*found.models[:3], *(["…"] if len(found.models) > 3 else [])), nothing="no models yet")
    return f": {names}"


def _models_of(found: FoundServer, count: int) -> str:
    return f"the {count} models of {found.title}" if count > 1 else f"the model of {found.title}"


async def _take_in(admin: Admin, passports: tuple[ImportedPassport, ...]) -> ImportResult:
    """Makes the database too, where there is none."""
    from trustgate.admin.model_commands import PassportImport

    return await admin.execute(PassportImport(passports=passports))


def _print_result(
    context: typer.Context, settings: Settings, setup: _Setup, imported: ImportResult, kept: Path | None
) -> None:
    server, url = setup.server, setup.chosen.get("upstream.url")
    if server is not None:
        place = f"{server.title} at {server.base_url}"
    else:
        place = f"{url}, which does not answer yet" if url and not url.startswith(BUILTIN_SCHEME) else url or "none yet"
    taken = len(imported.added) + len(imported.changed)
    render.card(
        [
            ("Settings", str(settings.config_file)),
            *([("Before", f"kept as {kept}")] if kept is not None else []),
            ("LLM server", place),
            *([("Its key", f"in the variable {name}")] if (name := setup.chosen.get("upstream.key_env")) else []),
            ("Models", f"{taken} added; see trustgate passport list" if taken else "by their names"),
        ]
    )
    for note in setup.notes:
        render.say(render.Styled(f"Note: {note}", "yellow"))
    given = session(context).home
    program = "trustgate" if given is None else f"trustgate --home {shlex.quote(str(given))}"
    render.say("")
    render.say(render.Styled("Next", "bold"))
    if socket_answers(settings):
        render.say(f"  {program} reload    (the running server keeps its old settings until then)")
        return
    render.say(f"  {program} serve")
    render.say(f"  {program} tenant add NAME    (in another terminal)")
    render.say(f"  {program} doctor             (when something does not work)")
