"""Serves a server's two listeners until it is to stop, beside the jobs that run as long; then lets requests end.

Owns what runs beside the listeners, and the order in which they stop.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from trustgate.access.budgets import Budgets
from trustgate.gateway.path.inflight import CUT_S, InFlight
from trustgate.http.timeouts import ConnectionTimeouts
from trustgate.http.tls import Certificate
from trustgate.models.upstream.probe import probe_for_ever
from trustgate.server.parts import Server
from trustgate.server.process import background, let_go_of_code
from trustgate.server.stopping import CLOSE_S, RECEIPTS_S, Stopping
from trustgate.settings import Settings

if TYPE_CHECKING:
    from trustgate.server.several import Together

_logger = logging.getLogger("trustgate.server")

#: How long a stop waits for commands under way, seconds.
_COMMANDS_S = 5.0
#: How often end users are forgotten, and, while there are more, the pause between two parts of them, seconds.
_FORGET_EVERY_S = 60.0
_PIECE_S = 0.05
#: What the file names of the largest libraries begin with; all are loaded before a server is built.
_LARGE_LIBRARIES = ("_duckdb.", "libcrypto.", "libpython3.", "libstdc++.")


class Listening(NamedTuple):
    """What a server listens on, what is called once it does, and whether another takes its place when it stops."""

    public: socket.socket
    admin: socket.socket
    certificate: Certificate | None
    on_ready: Callable[[], None]
    is_replaced: Callable[[], bool]


async def listen_until(
    stop: asyncio.Event,
    stopping: Stopping,
    settings: Settings,
    server: Server,
    listening: Listening,
    together: Together | None,
) -> None:
    """Serve both listeners until ``stop``, then drain.

    ``together``: what this process does among several; None: it has the database to itself.
    """
    from trustgate.gateway.app import WEBSOCKET_PATHS
    from trustgate.http.listener import listen
    from trustgate.server.apps import admin_app, public_app, shedding

    log = server.accounting.log
    certificate = listening.certificate
    async with background(*_tasks(settings, server, certificate, is_alone=together is None)):
        grace_s = settings.serve.shutdown_grace_s
        leave = asyncio.Event()
        serve = partial(
            listen,
            stop=leave,
            grace_s=grace_s,
            # Requests that are accounted for have a shorter grace of their own, and a receipt of how they ended.
            timeouts=ConnectionTimeouts(
                head_s=settings.serve.head_timeout_s, write_s=2 * settings.serve.stall_timeout_s + 1
            ),
        )
        listeners = asyncio.gather(
            serve(
                public_app(server, settings),
                listening.public,
                tls=None if certificate is None else certificate.context,
                shed=shedding(server, settings),
                websockets=WEBSOCKET_PATHS,
                processes=settings.serve.workers if settings.worker else 1,
            ),
            serve(admin_app(server), listening.admin),
        )
        _settle()
        listening.on_ready()
        draining = asyncio.ensure_future(
            _drain_on(stop, stopping, leave, settings, server.running, listeners, listening.is_replaced)
        )
        try:
            # A listener that fails ends the server; else its connections end with their requests, or after those.
            await asyncio.wait((listeners, draining), return_when=asyncio.FIRST_COMPLETED)
            if listeners.done():
                listeners.result()
            await draining
            async with stopping.step("connections", CLOSE_S):
                await listeners
            # No new command can come now; the store is still open for those under way. One that is broken off, or waits
            # for other processes, is as if this one were killed then.
            async with stopping.step("commands under way", _COMMANDS_S):
                await server.admin.settle()
            # While the log's upkeep still runs: what a commit comes too late for is in the journal.
            async with stopping.step("the last receipts", RECEIPTS_S):
                if together is not None:
                    await together.leave_nothing()
                elif not server.is_taken_over:
                    await log.flush()
            stopping.name_step("jobs that run beside requests")
        finally:
            draining.cancel()
            server.request_log.flush()


def _tasks(
    settings: Settings, server: Server, certificate: Certificate | None, *, is_alone: bool
) -> tuple[Coroutine[Any, Any, Any], ...]:
    """Returns what runs beside the listeners for as long as they do.

    ``is_alone``: no other process serves the database. Among several, one process at a time anchors, reconciles, sends
    notices and keeps batches, as its roles.
    """
    from trustgate.payment.facilitators.facts import look_again
    from trustgate.server.offer_facts import follow_for_ever

    log = server.accounting.log
    return (
        log.run(),
        log.sync_journal(settings.journal.sync_ms / 1000),
        server.payments.facilitators.prepare(server.offers()),
        follow_for_ever(
            server.admin,
            lambda: look_again(server.payments.facilitators, server.offers()),
            server.payments.doubt,
            settings.payment.facilitator_every_s,
            server.notices,
        ),
        server.request_log.run(),
        server.gateway_status.loop_lag.run(),
        probe_for_ever(
            server.targets,
            lambda: server.upstream,
            lambda: server.settings.upstream.health_interval_s,
            server.probe_soon,
        ),
        _forget_end_users(server.budgets),
        server.running.cut_stalled(lambda: server.settings.serve.stall_timeout_s),
        *(
            ()
            if server.member is None
            else (server.running.cut_unchecked(server.member.lapsed_s, lambda: settings.store.finish_s),)
        ),
        *(
            ()
            if not is_alone
            else (
                server.anchoring.run(),
                server.payments.reconciler.run(settings.payment.reconcile_every_s),
                server.notifier.run(),
                server.background.run(lambda: server.settings.upstream.background_interval_s),
            )
        ),
        *(() if certificate is None else (certificate.look_for_ever(),)),
        *(() if server.telemetry is None else (server.telemetry.run(),)),
    )


async def _forget_end_users(budgets: Budgets) -> None:
    """For ever: have end users forgotten of whom nothing counts any more, also while no new one comes."""
    while True:
        is_left = budgets.forget_some()
        await asyncio.sleep(_PIECE_S if is_left else _FORGET_EVERY_S)


def _settle() -> None:
    """Freeze what was loaded to start: it stays, so the collector need not walk it again and again."""
    gc.collect()
    gc.freeze()
    let_go_of_code(*_LARGE_LIBRARIES)
    # Requests make few cycles: to look for them after every 700 objects costs more than what is found.
    gc.set_threshold(10_000, 20, 20)


async def _drain_on(
    stop: asyncio.Event,
    stopping: Stopping,
    leave: asyncio.Event,
    settings: Settings,
    running: InFlight,
    listeners: asyncio.Future[Any],
    is_replaced: Callable[[], bool],
) -> None:
    """Set ``leave`` after ``stop``, and end requests in time, those that connections still bring among them."""
    await stop.wait()
    running.begin_stop()
    running.leaving = not is_replaced()
    delay_s, grace_s = settings.serve.stop_delay_s, settings.serve.shutdown_grace_s
    if delay_s and running.leaving:
        _logger.info("stopping in %g s: /health answers 503 until then", delay_s)
        stopping.name_step("proxies to send requests elsewhere (serve.stop_delay_s)", delay_s)
        await asyncio.wait((listeners,), timeout=delay_s)
    leave.set()
    until_s = time.monotonic() + grace_s
    _logger.info("stopping: what runs has %g s to end (requests: %d)", grace_s, len(running))
    stopping.name_step("requests to end", grace_s + CUT_S)
    await asyncio.wait((listeners,), timeout=grace_s)
    await running.drain(max(0.0, until_s - time.monotonic()))
