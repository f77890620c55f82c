"""The parts of a running gateway, built once, in the order of their dependence, and how each learns of new settings."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from trustgate import __version__
from trustgate.admin.commands import ServerStatus, TargetStatus
from trustgate.admin.context import AdminContext
from trustgate.admin.local import LocalAdmin
from trustgate.cluster.shared_log import SharedLog
from trustgate.errors import TrustGateError
from trustgate.gateway.api.object_ids import ObjectIds
from trustgate.gateway.api.shared_object_ids import SharedObjectIds
from trustgate.gateway.path.accounting import Accounting, Keeping, OwnKeeping
from trustgate.gateway.path.background import BackgroundWork
from trustgate.gateway.path.inflight import InFlight
from trustgate.gateway.path.payment_step import PaymentStep
from trustgate.gateway.path.pipeline import Pipeline
from trustgate.gateway.path.routing import Routing
from trustgate.gateway.path.shared_keeping import SharedKeeping, SharedWorkHolds
from trustgate.gateway.path.work_holds import OwnWorkHolds, WorkHolds
from trustgate.gateway.views.credits import Credits
from trustgate.gateway.views.status import GatewayStatus
from trustgate.http.tls import Certificate
from trustgate.models.upstream.client import UpstreamClient
from trustgate.models.upstream.targets import Targets
from trustgate.notify.conditions import GatewayConditions
from trustgate.notify.notifier import Notifier
from trustgate.observe.counters import Counters
from trustgate.observe.loop_lag import LoopLag
from trustgate.observe.metrics import Metric, Metrics
from trustgate.observe.notices import Notices
from trustgate.observe.request_log import RequestLog, use_format
from trustgate.payment.service import PaymentService
from trustgate.receipts.archive import Archive
from trustgate.receipts.log import Log
from trustgate.server.handles import open_handles
from trustgate.server.memory import ServerMemory
from trustgate.server.pages import ServedConsole
from trustgate.server.reload import SettingsReload
from trustgate.server.request_events import Observer, RequestEvents
from trustgate.server.running_books import RunningBooks
from trustgate.settings import BUILTIN_SCHEME, Settings, UpstreamSettings
from trustgate.solana.anchoring import Anchoring
from trustgate.store import Store
from trustgate.types import Offer

if TYPE_CHECKING:
    import httpx

    from trustgate.cluster.member import Member
    from trustgate.telemetry.hub import Telemetry

_logger = logging.getLogger("trustgate.server")

#: What the last requests under old settings get to end beyond their deadline.
_GRACE_S = 10.0


class Server:
    """The parts of a running gateway, built once, in the order of their dependence."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        log: Log,
        archive: Archive,
        payments: PaymentService,
        memory: ServerMemory,
        *,
        address: str,
        load: Callable[[], Settings] | None,
        observer: Observer | None,
        certificate: Certificate | None,
        object_ids: SharedObjectIds | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            settings: those that hold at first.
            store: the database.
            log: the receipts.
            archive: the log as it is published.
            payments: takes payments.
            memory: what requests are decided by.
            address: the public address, for people.
            load: reads the settings anew; None: they cannot be reloaded.
            observer: is called as things happen.
            certificate: of HTTPS; None: it serves HTTP.
            object_ids: the ids of upstream objects that several processes have together; None: this one's own.
            notes: what the start found wrong and has mended.
        """
        directory, catalog, quota, budgets, subscribers = memory
        upstream = settings.upstream
        self.address = address
        self.store = store
        self.directory = directory
        self.catalog = catalog
        self.quota = quota
        self.budgets = budgets
        self.subscribers = subscribers
        self.handles = open_handles(settings.handles_file, ObjectIds) if object_ids is None else object_ids
        keeping: Keeping = OwnKeeping(quota, budgets, log, self.handles.charged)
        holds: WorkHolds | None = None
        if isinstance(log, SharedLog) and object_ids is not None:
            keeping, holds = SharedKeeping(log, object_ids), SharedWorkHolds(log)
        self.accounting = Accounting(quota, log, budgets, keeping)
        self.counters = Counters(catalog)
        self.notices = Notices()
        self.request_log = RequestLog(settings.log.format if settings.log.requests else None)
        self.telemetry = _telemetry(settings, address, store.store_id)
        self.archive = archive
        self.payments = payments
        self.running = InFlight(settings.serve.max_concurrent_requests, settings.serve.request_timeout_s)
        self.running.is_revoked = directory.is_revoked
        self.targets = Targets(catalog, upstream.url, settings.read_credential)
        self.upstream, self._upstream_settings = _upstream_client(upstream), upstream
        #: Of settings that no longer hold: requests that began under them may still use them.
        self._old_upstreams: list[UpstreamClient] = []
        self.probe_soon = asyncio.Event()
        self.reload = SettingsReload(settings, load, [self._apply_settings])
        self.online = online = RunningBooks(log, archive, payments)
        self.anchoring = Anchoring(settings, store, online.archive)
        self.gateway_status = GatewayStatus(
            address=address,
            settings=lambda: self.settings,
            counters=self.counters,
            directory=directory,
            running=self.running,
            targets=self.targets,
            log=log,
            archive=archive,
            anchoring=self.anchoring,
            store=store,
            loop_lag=LoopLag(),
            notes=notes,
        )
        self.events = RequestEvents(
            self.counters,
            self.request_log,
            self.notices,
            telemetry=self.telemetry,
            observer=observer,
            tenant_name=self.gateway_status.tenant_name,
        )
        log.on_append = self.events.on_receipt
        quota.on_limit = self.events.on_limit
        budgets.on_event = self.events.on_budget
        self.payment_step = PaymentStep(payments.cashier, self.accounting, settings.serve)
        self.credits = Credits(directory, payments.cashier, self.running, settings.serve)
        own_holds = OwnWorkHolds(self.handles, quota, budgets, payments.balances)
        self.background = self._background_work(own_holds if holds is None else holds)
        self.pipeline = self._pipeline(settings)
        self.metrics = Metrics(
            lambda: self.settings, self.counters, self._status_metrics, self.gateway_status.tenant_name
        )
        #: This process among the nodes of its database; None where the database is a file.
        self.member: Member | None = None
        self.notifier = self._notifier(settings, certificate)
        self.console = ServedConsole(
            lambda: self.settings,
            address,
            admin=lambda: self.admin,
            recent=lambda: list(self.counters.newest),
            stopping=lambda: self.running.stopping,
            metrics=lambda: self.metrics.merge(self.metrics.collect()),
        )
        self.admin = self._local_admin(settings)

    def _background_work(self, holds: WorkHolds) -> BackgroundWork:
        return BackgroundWork(
            self.handles,
            directory=self.directory,
            catalog=self.catalog,
            targets=self.targets,
            accounting=self.accounting,
            holds=holds,
            payment_step=self.payment_step,
            upstream=lambda: self.upstream,
            find_receipt=self.store.entry,
        )

    def _pipeline(self, settings: Settings) -> Pipeline:
        return Pipeline(
            settings,
            directory=self.directory,
            catalog=self.catalog,
            routing=Routing(self.targets, self.handles, self.background),
            upstream=self.upstream,
            accounting=self.accounting,
            running=self.running,
            payment_step=self.payment_step,
            on_end=self.events.on_end,
            tracing=None if self.telemetry is None else self.telemetry.tracing,
        )

    def _notifier(self, settings: Settings, certificate: Certificate | None) -> Notifier:
        return Notifier(
            self.store,
            self.subscribers,
            self.notices,
            GatewayConditions(
                settings=lambda: self.settings,
                directory=self.directory,
                targets=self.targets,
                anchoring=self.anchoring,
                log=self.accounting.log,
                store=self.store,
                balances=self.payments.balances,
                certificate=certificate,
                started_us=self.gateway_status.started_us,
            ),
            gateway=settings.payment.public_url or self.address,
            settings=lambda: self.settings.notify,
        )

    def _local_admin(self, settings: Settings) -> LocalAdmin:
        return LocalAdmin(
            AdminContext(
                self.store,
                self.directory,
                self.catalog,
                books=self.online,
                anchoring=self.anchoring,
                settings=settings,
                quota=self.quota,
                budgets=self.budgets,
                on_keys_revoked=self.running.cut_keys,
                before_passports=self.targets.read_keys,
                status=self.status,
                reload=self.reload.reload_all,
                pulse=self.gateway_status.pulse,
                subscribers=self.subscribers,
                deliveries=self.notifier.deliveries,
                console=self.console,
            )
        )

    @property
    def settings(self) -> Settings:
        """As they hold now."""
        return self.reload.settings

    @property
    def is_taken_over(self) -> bool:
        """Whether another process has taken over the database: nothing can be written there any more."""
        return self.member is not None and self.member.is_ended

    def _apply_settings(self, settings: Settings) -> None:
        """Have every part go by other settings, from the next request on."""
        upstream = settings.upstream
        if upstream != self._upstream_settings:
            # Requests that have begun go on with the old one.
            self._old_upstreams.append(self.upstream)
            asyncio.get_running_loop().call_later(self.running.timeout_s + _GRACE_S, self._close_oldest_upstream)
            self.upstream, self._upstream_settings = _upstream_client(upstream), upstream
        self.pipeline.apply_settings(settings, self.upstream)
        for part in (self.payment_step, self.credits):
            part.apply_settings(settings.serve)
        self.targets.apply_settings(upstream.url, settings.read_credential)
        self.catalog.apply_settings(upstream.url)
        self.probe_soon.set()
        self.running.most = settings.serve.max_concurrent_requests
        self.running.timeout_s = settings.serve.request_timeout_s
        self.anchoring.apply_settings(settings)
        self.request_log.form = settings.log.format if settings.log.requests else None
        use_format(settings.log)

    def _status_metrics(self) -> Iterable[Metric]:
        """Yields what ``/metrics`` has besides the counters."""
        return (
            *self.gateway_status.metrics(),
            *self._node_metrics(),
            *(() if self.telemetry is None else self.telemetry.metrics()),
        )

    def _node_metrics(self) -> Iterable[Metric]:
        if self.member is not None:
            left_s = self.member.left_s()
            yield Metric.of(
                "trustgate.lease_left", "gauge", "How long this process may serve without its database.", left_s, "s"
            )

    def _close_oldest_upstream(self) -> None:
        if self._old_upstreams:
            self._closing = asyncio.ensure_future(self._old_upstreams.pop(0).close())

    async def reload_or_tell(self) -> None:
        """Reload at SIGHUP. There is no client to answer: a failure goes to the log."""
        try:
            await self.reload.reload()
        except TrustGateError as error:
            _logger.error("the settings stay as they are: %s", error.message)

    async def close_upstreams(self) -> None:
        for client in (*self._old_upstreams, self.upstream):
            await client.close()

    def offers(self) -> list[Offer]:
        """Returns all the ways that tenants pay."""
        return [offer for terms in self.directory.all_terms() if terms.mode != "off" for offer in terms.offers]

    async def status(self) -> ServerStatus:
        live = await self.gateway_status.pulse()
        lag = self.gateway_status.loop_lag
        return ServerStatus(
            version=__version__,
            pid=os.getpid(),
            address=self.address,
            started_us=live.started_us,
            store_id=self.store.store_id,
            last_seq=self.accounting.log.last_seq,
            pending=live.pending,
            active_requests=live.in_flight,
            loop_lag_p99_ms=live.loop_lag_p99_ms,
            loop_lag_worst_ms=max(round(lag.worst_ms), live.loop_lag_p99_ms),
            workers=live.workers,
            workers_wanted=self.settings.serve.workers if self.settings.worker else 0,
            set_aside=self.gateway_status.set_aside(),
            notes=self.gateway_status.mended,
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


def _echo() -> httpx.AsyncBaseTransport:
    from trustgate.models.echo import EchoTransport

    return EchoTransport()


def _telemetry(settings: Settings, address: str, instance_id: str) -> Telemetry | None:
    """None where nothing is to be sent anywhere: then nothing of it is loaded."""
    if not settings.otlp.endpoint:
        return None
    from trustgate.telemetry.hub import Telemetry

    return Telemetry(settings, address=address, instance_id=instance_id)


def _upstream_client(upstream: UpstreamSettings) -> UpstreamClient:
    return UpstreamClient(
        retries=upstream.retries,
        connect_timeout_s=upstream.connect_timeout_s,
        read_timeout_s=upstream.read_timeout_s,
        max_connections=upstream.max_connections,
        hold_s=upstream.hold_s,
        max_event_bytes=upstream.max_event_bytes,
        transports={BUILTIN_SCHEME: _echo},
    )
