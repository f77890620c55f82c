"""The composition root: opens the store, recovers, builds the parts, listens, and takes it all down in order.

    store (its lock decides who is the server) → journal → recovery → log (checked against what it has signed)
    → memory → tasks → listeners
    SIGTERM: stop accepting → let requests end (a limit says how long) → flush → close

Owns the order. Two listeners run in one event loop: the public one over TCP, the admin socket beside the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustgate import __version__
from trustgate.access.directory import Directory
from trustgate.access.quota import Quota
from trustgate.admin.commands import ServerStatus, TargetStatus
from trustgate.admin.desk import Desk
from trustgate.admin.local import LocalAdmin
from trustgate.errors import OperatorError
from trustgate.gateway.accounting import Books
from trustgate.gateway.handles import Handles
from trustgate.gateway.leash import Running
from trustgate.gateway.pipeline import Pipeline
from trustgate.gateway.tls import Certificate
from trustgate.ids import now_us
from trustgate.models.catalog import Catalog
from trustgate.models.health import probe_for_ever
from trustgate.models.targets import Targets
from trustgate.models.upstream import UpstreamClient
from trustgate.payment.balance import Balances
from trustgate.payment.house import House
from trustgate.receipts.archive import Archive
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.publisher import Publisher
from trustgate.receipts.tree import Tree
from trustgate.settings import BUILTIN_SCHEME, Settings
from trustgate.solana.anchoring import Anchoring
from trustgate.store import Store, open_store
from trustgate.types import Offer

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from trustgate.gateway.metrics import Metric

_logger = logging.getLogger("trustgate.server")

_BACKLOG = 1024


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; gives back the exit code. Raises ``OperatorError`` when it cannot start."""
    _log_to_stderr(settings.log.level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's, which makes Hypercorn much quicker; where there is no uvloop, asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _serve(settings: Settings) -> None:
    stop = _stop_on_signal()
    settings.make_home()
    # A key that is missing should stop the start, not surprise the first caller.
    settings.upstream_key()
    settings.admin_key()
    files = settings.tls_files()
    certificate = None if files is None else Certificate(*files)
    async with contextlib.AsyncExitStack() as stack:
        store = await open_store(settings.database)
        stack.push_async_callback(store.close)
        public = stack.enter_context(_listen(settings.serve.host, settings.serve.port))
        journal = Journal.open(
            settings.journal_folder,
            store_id=store.store_id,
            last_seq=await store.last_seq(),
            segment_bytes=settings.journal.segment_bytes,
        )
        stack.callback(journal.close)
        tree = await Tree.open(store)
        log = await Log.recover(store, journal, tree)
        publisher = await Publisher.open(
            store,
            tree,
            key_file=settings.log_key,
            checkpoint_file=settings.checkpoint,
            origin=settings.receipts.origin,
        )
        archive = Archive(store, tree, publisher)
        address = _address(settings.serve.host, public, "http" if certificate is None else "https")
        payments = await House.open(settings, store, log, public_url=address)
        stack.push_async_callback(payments.close)
        server = await _Server.build(settings, store, log, archive, payments, address)
        stack.push_async_callback(server.upstream.close)
        stack.callback(server.handles.close)
        admin = stack.enter_context(_listen_admin(settings.socket))
        async with _background(publisher.run(settings.receipts.checkpoint_every_s)):
            await _run_until(stop, settings, server, public, admin, certificate)
        await log.flush()
        await archive.renewed()


async def _run_until(
    stop: asyncio.Event,
    settings: Settings,
    server: _Server,
    public: socket.socket,
    admin: socket.socket,
    certificate: Certificate | None,
) -> None:
    """Serve both listeners until ``stop``, then drain."""
    from trustgate.gateway.listener import listen

    log = server.books.log
    async with _background(
        log.run(),
        log.sync_journal(settings.journal.sync_ms / 1000),
        server.anchoring.run(),
        server.payments.facilitators.prepare(server.offers()),
        server.payments.reconciler.run(settings.payment.reconcile_every_s),
        probe_for_ever(server.targets, server.upstream, settings.upstream.health_interval_s),
        server.running.cut_stalled(settings.serve.stall_timeout_s),
        *(() if certificate is None else (certificate.look_for_ever(),)),
    ):
        grace_s = settings.serve.shutdown_grace_s
        serve = partial(
            listen,
            stop=stop,
            grace_s=grace_s,
            head_timeout_s=settings.serve.head_timeout_s,
            stall_timeout_s=settings.serve.stall_timeout_s,
        )
        listeners = asyncio.gather(
            serve(server.public_app(settings), public, tls=None if certificate is None else certificate.context),
            serve(server.admin_app(), admin),
        )
        print(f"TrustGate is ready at {server.address} (upstream {settings.upstream.url})", flush=True)
        draining = asyncio.ensure_future(_drain_on(stop, server.running, grace_s))
        try:
            await listeners
            await draining
            # While its upkeep still runs: cancelled in the middle of a batch, that would leave the batch to be written
            # a second time.
            await log.flush()
        finally:
            draining.cancel()


async def _drain_on(stop: asyncio.Event, running: Running, grace_s: float) -> None:
    await stop.wait()
    _logger.info("stopping: %d requests have %g s to end", len(running), grace_s)
    await running.drain(grace_s)


class _Server:
    """The parts of a running gateway, built once, in the order of their dependence."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        log: Log,
        archive: Archive,
        payments: House,
        *,
        directory: Directory,
        catalog: Catalog,
        quota: Quota,
        address: str,
    ) -> None:
        from trustgate.models.echo import EchoTransport

        upstream = settings.upstream
        self.address = address
        self.started_us = now_us()
        self.store = store
        self.directory = directory
        self.catalog = catalog
        self.quota = quota
        self.books = Books(quota, log)
        self.archive = archive
        self.payments = payments
        self.handles = _open_handles(settings.handles_file)
        self.running = Running(settings.serve.max_concurrent_requests, settings.serve.request_timeout_s)
        self.targets = Targets(catalog, upstream.url, settings.read_credential)
        self.upstream = UpstreamClient(
            retries=upstream.retries,
            connect_timeout_s=upstream.connect_timeout_s,
            read_timeout_s=upstream.read_timeout_s,
            max_connections=upstream.max_connections,
            transports={BUILTIN_SCHEME: EchoTransport()},
        )
        online = _Online(log, archive, payments)
        self.anchoring = Anchoring(settings, store, online.archive)
        self.admin = LocalAdmin(
            Desk(
                store,
                directory,
                catalog,
                books=online,
                anchoring=self.anchoring,
                settings=settings,
                quota=quota,
                on_keys_dead=self.running.cut_keys,
                status=self.status,
            )
        )

    @classmethod
    async def build(
        cls, settings: Settings, store: Store, log: Log, archive: Archive, payments: House, address: str
    ) -> _Server:
        """Fill the memory from the store: who may call, what there is, what the running windows have used."""
        state = await store.load_state()
        quota = Quota()
        for window, since_us in enumerate(quota.begin(now_us()).starts):
            for used in await store.window_usage(since_us):
                for subject in (used.tenant_id, used.key_id):
                    quota.restore(window, subject, used.requests, used.tokens, used.cost_nano_usd)
        catalog = Catalog(state.passports, state.aliases)
        directory = Directory(state)
        return cls(
            settings,
            store,
            log,
            archive,
            payments,
            directory=directory,
            catalog=catalog,
            quota=quota,
            address=address,
        )

    def offers(self) -> list[Offer]:
        """All the ways that tenants pay."""
        return [offer for terms in self.directory.all_terms() if terms.mode != "off" for offer in terms.offers]

    def public_app(self, settings: Settings) -> ASGIApp:
        from trustgate.admin.routes import admin_routes
        from trustgate.gateway.app import make_app
        from trustgate.gateway.credits import Credits
        from trustgate.gateway.metrics import Metrics
        from trustgate.gateway.reads import Health, Reads
        from trustgate.gateway.routing import Routing
        from trustgate.gateway.sales import Sales
        from trustgate.gateway.transparency import Transparency

        pipeline = Pipeline(
            settings,
            directory=self.directory,
            catalog=self.catalog,
            routing=Routing(self.targets, self.handles),
            upstream=self.upstream,
            books=self.books,
            running=self.running,
            sales=Sales(self.payments.cashier, self.books, settings.serve),
        )
        reads = Reads(
            directory=self.directory,
            catalog=self.catalog,
            targets=self.targets,
            quota=self.quota,
            log=self.books.log,
            store=self.store,
            archive=self.archive,
        )
        key = settings.admin_key()
        extra = admin_routes(self.admin, key=key) if key is not None else ()
        return make_app(
            pipeline,
            reads,
            Credits(self.directory, self.payments.cashier, self.running, settings.serve),
            Health(self.check),
            Transparency(self.archive),
            Metrics(self.metrics),
            extra,
            settings.serve.cors_origins,
        )

    def admin_app(self) -> ASGIApp:
        from starlette.applications import Starlette

        from trustgate.admin.routes import admin_routes

        return Starlette(routes=admin_routes(self.admin, key=None))

    def check(self) -> dict[str, str]:
        """What ``/ready`` tells: no addresses, no paths."""
        upstreams = [
            upstream for _, upstream in self.targets.upstreams() if not upstream.base_url.startswith(BUILTIN_SCHEME)
        ]
        if any(upstream.healthy for upstream in upstreams):
            reachable = "ok"
        else:
            reachable = "no upstream is reachable" if upstreams else "there is no upstream"
        store = "ok" if self.books.log.fault is None else "receipts cannot be stored right now"
        return {"store": store, "upstream": reachable, "serving": "draining" if self.running.draining else "ok"}

    def metrics(self) -> Iterator[Metric]:
        from trustgate.gateway.metrics import Metric

        log, archive, anchoring = self.books.log, self.archive, self.anchoring
        yield Metric("requests_in_flight", "gauge", "Requests being served.", len(self.running))
        yield Metric("receipts_total", "counter", "Receipts written, over the life of the log.", log.last_seq)
        yield Metric("receipts_pending", "gauge", "Receipts that wait in the journal for the database.", log.pending)
        yield Metric("log_checkpoint_size", "gauge", "Receipts under the signed checkpoint.", archive.checkpoint_size)
        yield Metric("log_anchored_size", "gauge", "Receipts under the last anchor.", anchoring.anchored_size)
        yield Metric("anchor_failures", "gauge", "Failed tries to anchor in a row.", anchoring.failures)

    def status(self) -> ServerStatus:
        return ServerStatus(
            version=__version__,
            pid=os.getpid(),
            address=self.address,
            started_us=self.started_us,
            store_id=self.store.store_id,
            last_seq=self.books.log.last_seq,
            pending=self.books.log.pending,
            active_requests=len(self.running),
            targets=tuple(
                TargetStatus(
                    base_url=upstream.base_url,
                    healthy=upstream.healthy,
                    detail=upstream.detail,
                    models=len(upstream.models),
                )
                for _, upstream in self.targets.upstreams()
            ),
        )


class _Online:
    """The running server's books, for its commands. Closed by whoever opened them."""

    def __init__(self, log: Log, archive: Archive, payments: House) -> None:
        self._log = log
        self._archive = archive
        self._payments = payments

    async def flush(self) -> None:
        await self._log.flush()

    async def archive(self) -> Archive:
        await self._log.flush()
        return self._archive

    async def tree(self) -> Tree:
        await self._log.flush()
        return self._archive.tree

    async def house(self) -> House:
        return self._payments

    async def balances(self) -> Balances:
        return self._payments.balances

    async def close(self) -> None:
        """Nothing: the server goes on."""


def _open_handles(path: Path) -> Handles:
    try:
        return Handles(path)
    except OSError as error:
        raise OperatorError(
            f"The file {path} cannot be used: {error.strerror}.", hint="Mend who may read and write it."
        ) from None


# listening


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Bind the public port ourselves: a port in use is then a sentence, and port 0 a number we can tell."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OperatorError(
            f"{host!r} is no address to listen on: {error.strerror}.",
            hint="Use --host 127.0.0.1 (this machine only) or --host 0.0.0.0 (every interface).",
        ) from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise OperatorError(
                f"Cannot listen on {host}:{port}: {error.strerror}.",
                hint=f"See what uses the port (ss -ltnp 'sport = :{port}'), or choose another: --port {port + 1}",
            ) from None
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def _listen_admin(path: Path) -> Iterator[socket.socket]:
    """The admin socket, for its owner alone. Whoever gets here holds the store, so an older socket is stale."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        umask = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            raise OperatorError(f"Cannot make the admin socket {path}: {error.strerror}.") from None
        finally:
            os.umask(umask)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _address(host: str, listener: socket.socket, scheme: str) -> str:
    port = listener.getsockname()[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


# the process


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    return stop


@contextlib.asynccontextmanager
async def _background(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the jobs beside the block; a job that dies takes the server down rather than leave it half alive."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    root = logging.getLogger("trustgate")
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
    # Hypercorn tells at level INFO where it listens; the ready line says that better.
    logging.getLogger("trustgate.hypercorn").setLevel(logging.WARNING)
