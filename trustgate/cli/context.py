"""How a command reaches an ``Admin``, and what all commands share.

    TRUSTGATE_URL is set         → the server there
    the admin socket answers     → the server of this home folder
    otherwise                    → the database, opened in this process

Owns that choice. When another process holds the database and no socket answers, the server may be about to start or
another command about to end: that is waited for, for a moment, before ``StoreLocked`` is the answer; for a server that
starts or stops, for longer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from trustgate.admin.commands import Admin, Command, Feed, Look, Reload, Write
from trustgate.admin.consoling import ConsoleEnd, ConsoleOpen
from trustgate.admin.server_state import LOCK_POLL_S, LockPatience, socket_answers
from trustgate.errors import Conflict, HomeUnusable, StoreLocked
from trustgate.settings import RemoteServer, Settings, load_settings, remote_server

if TYPE_CHECKING:
    from trustgate.admin.remote import RemoteAdmin

R = TypeVar("R")


#: Commands that make a home where there is none: those that add something, or change what each home begins with.
_MAKES_HOME = frozenset(
    {
        *("tenant.add", "plan.put", "plan.remove", "passport.add", "passport.set", "passport.status"),
        *("passport.import", "alias.set", "budget.put", "price.update", "notify.add"),
        *("anchor.keygen", "payment.keygen"),
    }
)

#: The option that every command which prints data has.
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]


class Session:
    """What the global options say; ``typer.Context.obj`` of every command."""

    def __init__(self, home: Path | None) -> None:
        self.home = home

    def settings(self, overrides: dict[str, object] | None = None) -> Settings:
        """Raises ``SettingsError``."""
        return load_settings(self.home, overrides)


def confirm(question: str, *, yes: bool, command: str) -> None:
    """Ask before something is done that is hard to undo; ``yes``: it was answered by ``--yes``.

    Raises ``Conflict`` where the answer is no, or where there is no terminal to ask on.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Conflict(
            "Nothing has been changed: this command asks first, and the input is not a terminal.",
            hint=f"{command} --yes",
        )
    if not typer.confirm(question, err=True):
        raise Conflict("Nothing has been changed.")


def session(context: typer.Context) -> Session:
    return cast(Session, context.obj)


def execute(context: typer.Context, command: Command[R]) -> R:
    """Carry out one command wherever it can be done. Raises the ``TrustGateError`` of the failure."""
    server = _server(session(context).settings())
    if server is not None:
        return server.ask(command)

    async def one(admin: Admin) -> R:
        return await admin.execute(command)

    return with_admin(context, one)


def with_admin(context: typer.Context, work: Callable[[Admin], Awaitable[R]], *, copied: bool = False) -> R:
    """Several commands in one go: opens an ``Admin``, does ``work`` with it and closes it.

    ``copied``: where no server runs, on a copy of the home, so that nothing in it is changed.
    """
    import asyncio

    async def opened() -> R:
        admin = await open_admin(session(context).settings(), copied=copied)
        try:
            return await work(admin)
        finally:
            await admin.close()

    return asyncio.run(opened())


async def open_admin(settings: Settings, *, copied: bool = False) -> Admin:
    """Raises ``StoreLocked`` when another process has the database and does not answer on the socket."""
    patience = LockPatience(settings.home, lambda what: typer.echo(f"Waiting for it: {what}", err=True))
    while True:
        server = _server(settings)
        if server is not None:
            return server
        try:
            return await (open_copied(settings) if copied else open_here(settings))
        except StoreLocked as error:
            patience.check(error)
        time.sleep(LOCK_POLL_S)  # noqa: ASYNC251 - nothing else runs in this loop


def _server(settings: Settings) -> RemoteAdmin | None:
    """Returns the server to ask: the one of ``TRUSTGATE_URL``, or else the one of this home, where it runs."""
    from trustgate.admin.remote import RemoteAdmin

    remote = remote_server()
    if remote is not None:
        return remote_admin(remote)
    if settings.home.exists():
        settings.make_home()  # says what is wrong with it
    return RemoteAdmin.over_socket(settings.socket) if socket_answers(settings) else None


def remote_admin(remote: RemoteServer) -> RemoteAdmin:
    from trustgate.admin.remote import RemoteAdmin

    return RemoteAdmin.over_network(remote.url, remote.key)


async def open_here(settings: Settings) -> Admin:
    """Returns the database, opened in this process; where there is none, what makes one. Raises ``StoreLocked``."""
    if _is_empty(settings):
        return EmptyHome(settings)
    from trustgate.admin.local import open_local_admin

    return await open_local_admin(settings)


async def open_copied(settings: Settings) -> Admin:
    """Returns a copy of the database, opened in this process. Raises ``StoreLocked``."""
    if _is_empty(settings):
        return EmptyHome(settings)
    if settings.store.url:
        # Not a file that could be copied; what a killed server has left in its journal is taken in, as by any command.
        from trustgate.admin.local import open_local_admin

        return await open_local_admin(settings)
    from trustgate.admin.staged import open_copy

    return await open_copy(settings)


def _is_empty(settings: Settings) -> bool:
    """Whether the home has no database, nor anything that shows that it has had one."""
    if settings.store.url:
        return False
    database = settings.database
    return not any(
        database.with_name(database.name + ending).exists() for ending in ("", ".wal", ".changes", ".mark", ".moved")
    )


class EmptyHome:
    """``Admin`` of a home without a database: what adds something makes one, everything else is refused."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin: Admin | None = None

    async def execute(self, command: Command[R]) -> R:
        return await (await self._opened(command)).execute(command)

    async def feed(self, command: Feed[R], write: Write) -> R:
        return await (await self._opened(command)).feed(command, write)

    async def close(self) -> None:
        if self._admin is not None:
            await self._admin.close()

    async def _opened(self, command: Command[R] | Feed[R]) -> Admin:
        if self._admin is None:
            if isinstance(command, Look | Reload | ConsoleOpen | ConsoleEnd):
                raise Conflict("No server runs on this home folder.", hint="trustgate serve", code="no_server")
            if command.__struct_config__.tag not in _MAKES_HOME:
                raise HomeUnusable(
                    f"There is no database in {self._settings.home} yet, so there is nothing to look at or to change.",
                    hint="Make one: trustgate serve, or trustgate tenant add NAME. Or name another folder: --home DIR",
                )
            from trustgate.admin.local import open_local_admin

            self._admin = await open_local_admin(self._settings)
        return self._admin


def public_address(settings: Settings, address: str) -> str:
    """Returns where clients find the server: as it reports, else where it would listen."""
    remote = remote_server()
    if remote is not None:
        return remote.url
    address = address or f"http://{settings.serve.host}:{settings.serve.port}"
    # 0.0.0.0 is not an address that a client could use.
    return address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
