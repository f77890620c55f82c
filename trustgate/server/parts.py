"""The parts of a running gateway, built once, in the order of their dependence, and how each learns of new settings."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from trustgate import __version__
from trustgate.access.budgets import BudgetEvent, Budgets
from trustgate.access.directory import Directory
from trustgate.access.quota import LimitReached, Quota
from trustgate.admin.budget_counts import load as load_budgets
from trustgate.admin.commands import Admin, ServerStatus, TargetStatus
from trustgate.admin.context import AdminContext, new_pseudonym_key
from trustgate.admin.local import LocalAdmin
from trustgate.admin.money import TenantCredit
from trustgate.admin.prices import price_findings
from trustgate.cluster.shared_log import SharedLog
from trustgate.errors import TrustGateError
from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint
from trustgate.gateway.api.object_ids import ObjectIds
from trustgate.gateway.api.shared_object_ids import SharedObjectIds
from trustgate.gateway.path.accounting import Accounting
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.background import BackgroundWork
from trustgate.gateway.path.delivery import RequestOutcome
from trustgate.gateway.path.inflight import InFlight
from trustgate.gateway.path.payment_step import PaymentStep
from trustgate.gateway.path.pipeline import Pipeline
from trustgate.gateway.path.routing import Routing
from trustgate.gateway.path.shared_keeping import SharedKeeping, SharedWorkHolds
from trustgate.gateway.path.shedding import Shedding
from trustgate.gateway.path.work_holds import OwnWorkHolds
from trustgate.gateway.views.credits import Credits
from trustgate.gateway.views.status import GatewayStatus
from trustgate.http.tls import Certificate
from trustgate.models.catalog import Catalog
from trustgate.models.upstream.client import UpstreamClient
from trustgate.models.upstream.targets import Targets
from trustgate.notify.conditions import GatewayConditions
from trustgate.notify.notifier import Notifier
from trustgate.notify.subscribers import Subscribers
from trustgate.observe.budget_notices import budget_notice
from trustgate.observe.counters import Counters
from trustgate.observe.limit_notices import limit_notice
from trustgate.observe.loop_lag import LoopLag
from trustgate.observe.metrics import Metric, Metrics
from trustgate.observe.notices import Notices
from trustgate.observe.request_log import RequestLog, use_format
from trustgate.payment.service import PaymentService
from trustgate.receipts.archive import Archive
from trustgate.receipts.log import Log
from trustgate.server.counts import restore_counts
from trustgate.server.handles import missing_handles, open_handles
from trustgate.server.pages import ServedConsole, account_routes, asset_routes
from trustgate.server.reload import SettingsReload
from trustgate.server.running_books import RunningBooks
from trustgate.settings import BUILTIN_SCHEME, Settings, UpstreamSettings
from trustgate.solana.anchoring import Anchoring
from trustgate.store import Store
from trustgate.types import Offer, Receipt

if TYPE_CHECKING:
    import httpx
    from starlette.types import ASGIApp

    from trustgate.cluster.member import Member
    from trustgate.telemetry.hub import Telemetry

_logger = logging.getLogger("trustgate.server")

#: What the last requests under old settings get to end beyond their deadline.
_GRACE_S = 10.0


class Observer(Protocol):
    """Who hears, in the server's process and at the moment they happen, of what it does."""

    def on_ready(self, address: str, admin: Admin) -> None:
        """It listens. ``admin`` carries out commands until it stops."""
        ...

    def on_receipt(self, receipt: Receipt) -> None:
        """A receipt is in the journal; the answer that it records may not be at its end yet."""
        ...

    def on_refusal(self, error: TrustGateError, endpoint: str, receipt_id: str) -> None:
        """A request is refused or has failed. There need not be a receipt of it."""
        ...


class Server:
    """The parts of a running gateway, built once, in the order of their dependence."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        log: Log,
        archive: Archive,
        payments: PaymentService,
        *,
        directory: Directory,
        catalog: Catalog,
        quota: Quota,
        budgets: Budgets,
        address: str,
        load: Callable[[], Settings] | None,
        observer: Observer | None,
        subscribers: Subscribers,
        certificate: Certificate | None,
        object_ids: SharedObjectIds | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        upstream = settings.upstream
        self.address = address
        self.observer = observer
        self.store = store
        self.directory = directory
        self.catalog = catalog
        self.quota = quota
        self.budgets = budgets
        self.subscribers = subscribers
        budgets.on_event = self._on_budget
        quota.on_limit = self._on_limit
        self.handles = open_handles(settings.handles_file, ObjectIds) if object_ids is None else object_ids
        keeping, holds = None, None
        if isinstance(log, SharedLog) and object_ids is not None:
            keeping, holds = SharedKeeping(log, object_ids), SharedWorkHolds(log)
        self.accounting = Accounting(quota, log, budgets, keeping)
        self.counters = Counters(catalog)
        self.notices = Notices()
        self.request_log = RequestLog(settings.log.format if settings.log.requests else None)
        log.on_append = self._on_receipt
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
        self.payment_step = PaymentStep(payments.cashier, self.accounting, settings.serve)
        self.credits = Credits(directory, payments.cashier, self.running, settings.serve)
        self.telemetry = _telemetry(settings, address, store.store_id)
        own_holds = OwnWorkHolds(self.handles, quota, budgets, payments.balances)
        self.background = BackgroundWork(
            self.handles,
            directory=directory,
            catalog=catalog,
            targets=self.targets,
            accounting=self.accounting,
            holds=own_holds if holds is None else holds,
            payment_step=self.payment_step,
            upstream=lambda: self.upstream,
        )
        self.pipeline = Pipeline(
            settings,
            directory=directory,
            catalog=catalog,
            routing=Routing(self.targets, self.handles, self.background),
            upstream=self.upstream,
            accounting=self.accounting,
            running=self.running,
            payment_step=self.payment_step,
            on_end=self._on_end,
            tracing=None if self.telemetry is None else self.telemetry.tracing,
        )
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
        self.metrics = Metrics(
            lambda: self.settings, self.counters, self._status_metrics, self.gateway_status.tenant_name
        )
        #: This process among the nodes of its database; None where the database is a file.
        self.member: Member | None = None
        self.notifier = Notifier(
            store,
            subscribers,
            self.notices,
            GatewayConditions(
                settings=lambda: self.settings,
                directory=directory,
                targets=self.targets,
                anchoring=self.anchoring,
                log=log,
                store=store,
                balances=payments.balances,
                certificate=certificate,
                started_us=self.gateway_status.started_us,
            ),
            gateway=settings.payment.public_url or address,
            settings=lambda: self.settings.notify,
        )
        self.console = ServedConsole(
            lambda: self.settings,
            address,
            admin=lambda: self.admin,
            recent=lambda: list(self.counters.newest),
            stopping=lambda: self.running.stopping,
            metrics=lambda: self.metrics.merge(self.metrics.collect()),
        )
        self.admin = LocalAdmin(
            AdminContext(
                store,
                directory,
                catalog,
                books=online,
                anchoring=self.anchoring,
                settings=settings,
                quota=quota,
                budgets=budgets,
                on_keys_revoked=self.running.cut_keys,
                status=self.status,
                reload=self.reload.reload_all,
                pulse=self.gateway_status.pulse,
                subscribers=subscribers,
                deliveries=self.notifier.deliveries,
                console=self.console,
            )
        )

    @classmethod
    async def build(
        cls,
        settings: Settings,
        store: Store,
        log: Log,
        archive: Archive,
        payments: PaymentService,
        address: str,
        load: Callable[[], Settings] | None,
        observer: Observer | None,
        certificate: Certificate | None = None,
        object_ids: SharedObjectIds | None = None,
    ) -> Server:
        """Fill the memory from the store: who may call, what there is, what the running windows have used."""
        state = await store.load_state()
        directory = Directory(state)
        scopes = [*(plan.scope for plan in state.plans), *(key.scope for key in state.keys)]
        if state.pseudonym_key is None and any(scope.end_users for scope in scopes):
            made = new_pseudonym_key()
            await store.put(made)
            directory.put(made)
        catalog = Catalog(state.passports, state.aliases, state.price_lists, settings.upstream.url)
        if isinstance(log, SharedLog):
            # What is used is in the rows that all processes have.
            quota, budgets = log.books.quota, log.books.budgets
            load_budgets(budgets, directory, directory.budgets())
        else:
            quota, budgets = Quota(), Budgets()
            load_budgets(budgets, directory, directory.budgets())
            await restore_counts(store, directory, catalog, quota, budgets)
        for found in price_findings(directory, catalog):
            _logger.warning("%s. %s", found.message, found.hint)
        return cls(
            settings,
            store,
            log,
            archive,
            payments,
            directory=directory,
            catalog=catalog,
            quota=quota,
            budgets=budgets,
            address=address,
            load=load,
            observer=observer,
            subscribers=Subscribers(state.subscribers),
            certificate=certificate,
            object_ids=object_ids,
            notes=await missing_handles(settings.handles_file, store),
        )

    @property
    def settings(self) -> Settings:
        """As they hold now."""
        return self.reload.settings

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

    def _on_receipt(self, receipt: Receipt) -> None:
        self.counters.count(receipt)
        if self.request_log.form is not None:
            self.request_log.request(receipt)
        if self.observer is not None:
            self.observer.on_receipt(receipt)

    def _on_end(self, end: RequestOutcome) -> None:
        """A request has ended. Its receipt was counted when it was written: before the answer's last byte."""
        if self.telemetry is not None:
            self.telemetry.on_end(end)
        if end.error is not None:
            self._on_refusal(end.error, end.endpoint, end.arrival)

    def _count_shed(self, error: TrustGateError) -> bool:
        """Count a request that was refused at the door.

        Returns:
            Whether that is all; False where telemetry, the request log or an observer needs the request itself.
        """
        if self.telemetry is not None or self.request_log.form is not None or self.observer is not None:
            return False
        self.counters.count_error(error)
        return True

    def _on_refusal(self, error: TrustGateError, endpoint: Endpoint, arrival: Arrival) -> None:
        self.counters.count_error(error)
        if self.request_log.form is not None:
            self.request_log.refusal(error, endpoint.name, arrival.receipt_id, arrival.request_id.decode())
        if self.observer is not None:
            self.observer.on_refusal(error, endpoint.name, arrival.receipt_id)

    def _on_unserved(self, error: TrustGateError, what: str, request_id: str) -> None:
        """A request was refused that is of no endpoint of the path: an unknown route or method, or an unknown key."""
        self.counters.count_error(error)
        if self.request_log.form is not None:
            self.request_log.refusal(error, what, "", request_id)

    def _on_limit(self, reached: LimitReached) -> None:
        self.notices.publish(limit_notice(reached, self.gateway_status.tenant_name(reached.tenant_id)))

    def _on_budget(self, event: BudgetEvent) -> None:
        self.notices.publish(budget_notice(event))

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

    def public_app(self, settings: Settings) -> ASGIApp:
        from trustgate.admin.routes import admin_routes
        from trustgate.gateway.app import make_app
        from trustgate.gateway.views.account import Reads
        from trustgate.gateway.views.credit_webhooks import CreditWebhooks
        from trustgate.gateway.views.health import Health
        from trustgate.gateway.views.keys import TenantKeys
        from trustgate.gateway.views.log import Transparency
        from trustgate.gateway.views.page import Page
        from trustgate.gateway.views.payments import Payments
        from trustgate.gateway.views.statements import TenantStatements
        from trustgate.gateway.views.storefront import Storefront
        from trustgate.server.own_keys import OwnKeys

        reads = Reads(
            directory=self.directory,
            catalog=self.catalog,
            targets=self.targets,
            quota=self.quota,
            budgets=self.budgets,
            log=self.accounting.log,
            store=self.store,
            archive=self.archive,
        )
        reads.on_refusal = self._on_unserved
        reads.check_serving = self.accounting.check_serving
        if self.online.shared is not None:
            reads.refresh_counts = self.online.shared.refresh_counts
        url = (settings.payment.public_url or self.address).rstrip("/")
        storefront = Storefront(self.directory, self.catalog, self.targets, url)
        self.payment_step.quote_example = storefront.quote_example
        key = settings.admin_key()
        extra = [
            *(admin_routes(self.admin, key=key) if key is not None else ()),
            *asset_routes(),
            *self.console.routes(),
        ]
        extra += account_routes(lambda: self.settings.serve.account, self.directory, self.payments.nodes.solana)
        return make_app(
            self.pipeline,
            reads,
            self.credits,
            Payments(self.store),
            TenantStatements(self.directory, self.catalog, self.accounting.log, self.store, self.archive),
            TenantKeys(self.directory, OwnKeys(self.admin), lambda: self.settings.serve),
            Health(self.gateway_status.check, self.gateway_status.notes, lambda: self.running.leaving),
            Transparency(self.archive),
            self.metrics,
            Page(self.gateway_status.page, lambda: self.settings.serve.page),
            storefront,
            CreditWebhooks(self._add_credit, self._credit_secrets),
            extra,
            settings.serve.cors_origins,
        )

    def _credit_secrets(self) -> dict[str, tuple[str, ...]]:
        return self.settings.credit_secrets()

    async def _add_credit(self, tenant: str, nano_usd: int, reference: str) -> tuple[str, bool]:
        """Returns the receipt of the credit, and whether it had been added before. Raises as ``tenant credit``."""
        change = await self.admin.execute(TenantCredit(tenant=tenant, add_nano_usd=nano_usd, reference=reference))
        return change.receipt, change.repeated

    def shedding(self, settings: Settings) -> Shedding:
        """Returns what answers at the door under overload."""
        return Shedding(
            ENDPOINTS,
            self.directory,
            self.running,
            self._on_end,
            count=self._count_shed,
            trusts_id=lambda: self.settings.serve.trust_request_id,
            has_cors=bool(settings.serve.cors_origins),
        )

    def admin_app(self) -> ASGIApp:
        from starlette.applications import Starlette

        from trustgate.admin.routes import admin_routes

        return Starlette(routes=admin_routes(self.admin, key=None))

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
