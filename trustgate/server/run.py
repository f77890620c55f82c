"""The composition root: opens the store, recovers, builds the parts, listens, and takes it all down in order.

    store (its lock decides who is the server) → journal → recovery → log (checked against what it has signed)
    → memory → tasks → listeners

    among several processes: store → node → log (followed) → memory → journal → roles → listeners

    SIGTERM: not ready (for ``serve.stop_delay_s``) → stop accepting
             → let requests end (within ``serve.shutdown_grace_s``) → flush → close

Owns the order. Two listeners run in one event loop (``listening``): the public one over TCP, the admin socket beside
the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from trustgate.admin.server_state import LOCK_POLL_S, LockPatience, ServerStateFile, socket_answers
from trustgate.admin.staged import clean_up
from trustgate.errors import StoreLocked
from trustgate.http.sockets import address_of, listen_admin, listen_public
from trustgate.http.tls import Certificate
from trustgate.observe.request_log import log_to_stderr
from trustgate.payment.service import PaymentService
from trustgate.server.handles import missing_handles
from trustgate.server.keeping import Kept, keep_receipts
from trustgate.server.listening import Listening, listen_until
from trustgate.server.memory import load_memory
from trustgate.server.overseer import NO_OVERSEER, Overseer, beat_for_ever, overseer_of
from trustgate.server.pages import forget_console
from trustgate.server.parts import Server
from trustgate.server.process import background, loop_factory, on_hangup, share_one_heap, stop_on_signal
from trustgate.server.request_events import Observer
from trustgate.server.stopping import CLOSE_S, RECEIPTS_S, Stopping
from trustgate.settings import Settings
from trustgate.settings.environment import service_manager
from trustgate.store import Store, open_store
from trustgate.tasks import end_tasks

if TYPE_CHECKING:
    pass

R = TypeVar("R")

_SWITCH_S = 0.001
#: How often a spare looks whether the database is free.
_LOOK_EVERY_S = 1.0

_logger = logging.getLogger("trustgate.server")


def run(settings: Settings, load: Callable[[], Settings] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: those that hold at first.
        load: reads the settings anew, for SIGHUP and ``trustgate reload``.

    Returns:
        The exit code.

    Raises:
        OperatorError: it cannot start.
    """
    log_to_stderr(settings.log)

    overseer = overseer_of(service_manager())
    stopping = Stopping(grace_of(settings), ends_process=True)

    async def until_signal() -> None:
        await serve(settings, load, stop=stop_on_signal(), overseer=overseer, stopping=stopping)

    run_loop(until_signal())
    return 0


def run_loop(main: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that serves, to its end, in the event loop of servers (uvloop where it is installed).

    Returns:
        The coroutine's result.
    """
    share_one_heap()
    # The longest that the database's thread keeps the interpreter when the event loop wants it.
    sys.setswitchinterval(_SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(main)
    finally:
        # What was frozen (``listening``) is let go of: extension modules complain of what they find alive at the end.
        gc.unfreeze()


class Inherited(NamedTuple):
    """The bound sockets that one of several workers has from its supervisor.

    ``is_replaced`` returns whether it stops so that another one takes its place; else all stop.
    """

    public: socket.socket
    admin: socket.socket
    is_replaced: Callable[[], bool] = lambda: False

    def close(self) -> None:
        """Close the sockets in this process: as long as any process has one open, clients wait in its queue."""
        self.public.close()
        self.admin.close()


async def serve(
    settings: Settings,
    load: Callable[[], Settings] | None = None,
    *,
    stop: asyncio.Event,
    observer: Observer | None = None,
    inherited: Inherited | None = None,
    overseer: Overseer = NO_OVERSEER,
    stopping: Stopping | None = None,
) -> None:
    """Serve until ``stop`` is set.

    Args:
        settings: those that hold at first.
        load: reads the settings anew; None: they cannot be reloaded.
        stop: set to end it.
        observer: called as things happen; without one, a line on stdout marks that it is ready.
        inherited: of one worker among several; without it, the sockets are bound here.
        overseer: what supervises this process.
        stopping: bounds the stop; without it nothing ends the process where that hangs.

    Raises:
        OperatorError: it cannot start.
    """
    stopping = stopping or Stopping(grace_of(settings))
    # Workers share a socket that takes commands from the first moment on; a spare's database may be another server's.
    state = None if inherited is not None or settings.serve.wait else ServerStateFile(settings.home)
    # No task group, which would raise what stops the start as an exception group.
    jobs = [asyncio.ensure_future(job) for job in (beat_for_ever(overseer), _on_stop(stop, stopping, overseer, state))]
    try:
        settings.make_home()
        await _serve(settings, load, stop, observer, inherited, overseer, stopping, state)
    finally:
        if state is not None:
            state.remove()
        await end_tasks(jobs)
    stopping.closed()


def grace_of(settings: Settings) -> float:
    """Returns how long a stop lets requests come and end, seconds."""
    return settings.serve.stop_delay_s + settings.serve.shutdown_grace_s


async def _on_stop(stop: asyncio.Event, stopping: Stopping, overseer: Overseer, state: ServerStateFile | None) -> None:
    await stop.wait()
    stopping.begin()
    if state is not None:
        state.write("stopping")
    overseer.stopping(stopping.within_s)


async def _serve(
    settings: Settings,
    load: Callable[[], Settings] | None,
    stop: asyncio.Event,
    observer: Observer | None,
    inherited: Inherited | None,
    overseer: Overseer,
    stopping: Stopping,
    state: ServerStateFile | None,
) -> None:
    _check_secrets(settings)
    files = settings.tls_files()
    certificate = None if files is None else Certificate(*files)
    async with contextlib.AsyncExitStack() as stack:
        store = await _open_store(settings, stop, overseer, state)
        if store is None:
            return
        stack.push_async_callback(stopping.close, "the database", None, store.close)
        clean_up(settings.home)
        if inherited is None:
            public = stack.enter_context(listen_public(settings.serve.host, settings.serve.port))
        else:
            public = stack.enter_context(inherited.public)
        address = address_of(settings.serve.host, public, "http" if certificate is None else "https")
        kept = await keep_receipts(settings, store, address, stop, stack)
        server = await _build(settings, store, kept, address, load, observer, certificate, stack, stopping)
        admin = stack.enter_context(listen_admin(settings.socket) if inherited is None else inherited.admin)
        if inherited is None:
            # The supervisor does it once for all of its workers.
            forget_console(settings)

        async def reload() -> None:
            overseer.reloading()
            await server.reload_or_tell()
            overseer.reloaded()

        def on_ready() -> None:
            if server.events.observer is not None:
                server.events.observer.on_ready(server.address, server.admin)
            elif inherited is None:
                _say(f"TrustGate is ready at {server.address} (upstream {settings.upstream.url})\n")
            overseer.ready(f"Serving at {server.address}")

        stack.enter_context(on_hangup(stop, reload))
        async with background(kept.upkeep(lambda: server.settings.receipts.checkpoint_every_s)):
            is_replaced = (lambda: False) if inherited is None else inherited.is_replaced
            listening = Listening(public, admin, certificate, on_ready, is_replaced)
            await listen_until(stop, stopping, settings, server, listening, kept.together)
            stopping.name_step("the work of this process among others" if kept.together else "the log's upkeep")
        if server.is_taken_over:
            raise StoreLocked(
                "Another gateway has taken over the database: this one could not reach it for too long.",
                hint="Start it again: it serves when the other one has ended.",
            )
        if kept.together is None:
            async with stopping.step("the last receipts", RECEIPTS_S):
                await kept.log.flush()
                await kept.archive.renewed()
    # Not within the task group of the jobs, which would raise it as an exception group.
    if kept.together is not None:
        kept.together.check_home()


async def _build(
    settings: Settings,
    store: Store,
    kept: Kept,
    address: str,
    load: Callable[[], Settings] | None,
    observer: Observer | None,
    certificate: Certificate | None,
    stack: contextlib.AsyncExitStack,
    stopping: Stopping,
) -> Server:
    """Fill the memory from the store, and begin what this process does together with others."""
    payments = await PaymentService.open(
        settings,
        store,
        kept.log,
        public_url=address,
        others=None if kept.together is None else kept.together.books,
    )
    stack.push_async_callback(stopping.close, "payments that are settled behind their answers", CLOSE_S, payments.close)
    server = Server(
        settings,
        store,
        kept.log,
        kept.archive,
        payments,
        await load_memory(settings, store, kept.log),
        address=address,
        load=load,
        observer=observer,
        certificate=certificate,
        object_ids=None if kept.together is None else kept.together.books.object_ids,
        notes=await missing_handles(settings.handles_file, store),
    )
    stack.push_async_callback(stopping.close, "connections to LLM servers", CLOSE_S, server.close_upstreams)
    stack.callback(server.handles.close)
    if kept.together is not None:
        await kept.together.begin(server)
    elif kept.member is not None:
        server.member = kept.member
        kept.log.commits_first = True
        server.accounting.check_serving = kept.member.check_serving
        server.gateway_status.may_serve = kept.member.may_serve
    if server.telemetry is not None:
        server.telemetry.start(server.metrics.collect)
        stack.push_async_callback(stopping.close, "the telemetry's last batch", CLOSE_S, server.telemetry.close)
    return server


def _check_secrets(settings: Settings) -> None:
    """Read what the settings name: a missing key stops the start rather than fail the first request."""
    settings.upstream_key()
    settings.admin_key()
    settings.metrics_key()
    settings.credit_secrets()
    if settings.otlp.endpoint:
        settings.otlp_headers()
        from trustgate.telemetry import check_installed

        check_installed()


async def _open_store(
    settings: Settings, stop: asyncio.Event, overseer: Overseer, state: ServerStateFile | None
) -> Store | None:
    """Open the database; a spare (``serve.wait``) waits until no other process has it.

    A command may have it, or a server that stops: that is waited for, as commands wait.

    Returns:
        None where ``stop`` came first.
    """
    if state is not None:
        return await _open_soon(settings, stop, state)
    if not settings.serve.wait:
        return await _open(settings)
    turn = None
    if settings.store.url and not settings.several:
        from trustgate.server.membership import Turn

        turn = Turn(settings)
    told = ""
    while not stop.is_set():
        why = "" if turn is None else await turn.why_not()
        if not why:
            try:
                return await _open(settings)
            except StoreLocked as error:
                why = error.message
        if told != why:
            told = why
            _logger.info("waiting: %s", why)
            # As started as it will be until its turn comes.
            overseer.ready(f"Waiting: {why}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
    return None


async def _open_soon(settings: Settings, stop: asyncio.Event, state: ServerStateFile) -> Store | None:
    patience = LockPatience(settings.home, lambda what: _logger.info("waiting: %s", what))
    while not stop.is_set():
        state.write("starting")
        try:
            return await _open(settings)
        except StoreLocked as error:
            if socket_answers(settings):
                raise
            patience.check(error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOCK_POLL_S)
    return None


async def _open(settings: Settings) -> Store:
    return await open_store(
        settings.database, settings.postgres(), several=settings.several, mark_folder=settings.mark_folder
    )


def _say(text: str) -> None:
    """Write to stdout. A closed or full stdout is ignored: the server does not depend on it."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode())
