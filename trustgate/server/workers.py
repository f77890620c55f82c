"""Several processes of one ``trustgate serve``: what they share, and what each has of its own.

They share the sockets, the settings and the database; each has a folder of its own in the home, with its journal. How
they are started and replaced: supervisor.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator

import msgspec

from trustgate.errors import SettingsError, TrustGateError
from trustgate.http.sockets import address_of, listen_admin, listen_public
from trustgate.observe.request_log import log_to_stderr
from trustgate.server.membership import node_file
from trustgate.server.overseer import overseer_of
from trustgate.server.pages import forget_console
from trustgate.server.process import has_terminal, stop_on_signal
from trustgate.server.reload import BOUND, differences, is_reloaded
from trustgate.server.run import Inherited, grace_of, run_loop, serve
from trustgate.server.stopping import LAST_S, Stopping
from trustgate.server.supervisor import REPLACED, Place, Supervisor
from trustgate.settings import Settings
from trustgate.settings.environment import service_manager

_logger = logging.getLogger("trustgate.server")

#: How long after a worker should have ended by itself it is killed, seconds.
_KILL_S = 5.0


def check_workers(settings: Settings) -> None:
    """Check that several processes may serve this database.

    Raises:
        SettingsError: they may not, and why.
    """
    if not settings.store.url:
        raise SettingsError(
            f"{settings.serve.workers} workers cannot serve one DuckDB file: one process at a time can open it, and "
            "its memory decides quotas, budgets and balances.",
            hint="Leave --workers (serve.workers) out, or move the database to Postgres: trustgate migrate --to URL",
        )
    if settings.serve.wait:
        raise SettingsError(
            "With --wait (serve.wait) one process at a time serves a Postgres database, so there cannot be "
            f"{settings.serve.workers} workers.",
            hint="Leave out one of the two.",
        )


def as_served(settings: Settings) -> Settings:
    """Returns the settings of a server: on Postgres others may serve beside it, unless it waits for its turn."""
    return msgspec.structs.replace(settings, several=bool(settings.store.url) and not settings.serve.wait)


def as_worker(settings: Settings, number: int) -> Settings:
    """Returns the settings of one worker: those of all, and its number."""
    return msgspec.structs.replace(settings, worker=number)


def run_workers(
    settings: Settings,
    load: Callable[[], Settings] | None,
    *,
    settings_of: Callable[[Settings, int], Settings] = as_worker,
) -> int:
    """Serve with ``serve.workers`` processes until SIGTERM or SIGINT. In a worker's process it returns, too.

    Whether several processes may serve the database is for the caller to check (``check_workers``).

    Args:
        settings: those that hold at first.
        load: reads them anew, for SIGHUP.
        settings_of: makes the settings of a worker of those of all.

    Returns:
        The exit code.

    Raises:
        OperatorError: the port cannot be listened on; in a worker's process: the worker cannot start.
    """
    log_to_stderr(settings.log)
    overseer = overseer_of(service_manager())
    now = [settings]

    def on_hangup() -> bool:
        if load is None:
            return False
        try:
            new = load()
        except TrustGateError as error:
            _logger.error("the settings were not reloaded: %s", error.message)
            return False
        changed = differences(now[0], new)
        for name in BOUND.intersection(changed):
            _logger.warning("%s wants a restart of the whole server", name)
        restart = [name for name in changed if not is_reloaded(name) and name not in BOUND]
        now[0] = new
        return bool(restart)

    with _sockets(settings) as inherited:
        # Of a server before this one; a worker that is replaced leaves it alone.
        forget_console(settings)
        scheme = "http" if settings.serve.tls_certificate is None else "https"
        address = address_of(settings.serve.host, inherited.public, scheme)
        count = settings.serve.workers

        def on_ready() -> None:
            _say(f"TrustGate is ready at {address} (upstream {settings.upstream.url}, {count} workers)\n")
            overseer.ready(f"Serving at {address} with {count} workers")

        had_terminal = has_terminal()
        supervisor = Supervisor(
            count,
            lambda place: _work(settings_of(now[0], place.number), load, settings_of, inherited, place),
            on_ready=on_ready,
            on_hangup=on_hangup,
            on_stop=inherited.close,
            hung_after_s=settings.serve.worker_timeout_s,
            stop_within_s=lambda: grace_of(now[0]) + LAST_S + _KILL_S,
            overseer=overseer,
            terminal_gone=lambda: had_terminal and not has_terminal(),
        )
        return supervisor.run()


def _work(
    settings: Settings,
    load: Callable[[], Settings] | None,
    settings_of: Callable[[Settings, int], Settings],
    inherited: Inherited,
    place: Place,
) -> int:
    """Be a worker."""
    reload = None if load is None else lambda: settings_of(load(), place.number)
    stopping = Stopping(grace_of(settings), ends_process=True)

    async def until_told() -> None:
        stop = stop_on_signal()
        replaced = asyncio.Event()

        def be_replaced() -> None:
            replaced.set()
            stop.set()

        asyncio.get_running_loop().add_signal_handler(REPLACED, be_replaced)
        asyncio.get_running_loop().add_reader(place.supervisor_gone, stop.set)
        try:
            own = inherited._replace(is_replaced=replaced.is_set)
            await serve(settings, reload, stop=stop, inherited=own, overseer=place, stopping=stopping)
        finally:
            asyncio.get_running_loop().remove_reader(place.supervisor_gone)

    run_loop(until_told())
    return 0


@contextlib.contextmanager
def _sockets(settings: Settings) -> Iterator[Inherited]:
    """The sockets that workers inherit. The file of the admin socket goes with the supervisor, not with a worker."""
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(listen_public(settings.serve.host, settings.serve.port))
        # Before the admin socket takes the place of one that is there: it would be another server's of this home.
        stack.enter_context(node_file(settings.home / "node"))
        binder = os.getpid()
        admin = stack.enter_context(listen_admin(settings.socket))
        try:
            yield Inherited(public, admin)
        finally:
            if os.getpid() != binder:
                stack.pop_all()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, text.encode())
