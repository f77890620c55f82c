"""The status of a running gateway, read off its parts for ``/ready``, ``/``, ``/metrics`` and ``trustgate top``.

Owns the content of each. All but the last are public: no address, no path, no name of a tenant.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from trustgate import __version__
from trustgate.access.directory import Directory
from trustgate.errors import NotFound
from trustgate.gateway.path.inflight import InFlight
from trustgate.gateway.views.page import LastAnchor, PageStatus
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.models.upstream.targets import Targets
from trustgate.observe.counters import Counters
from trustgate.observe.live_stats import LiveStats, RequestSummary, UpstreamPulse, in_window, load_of, loads_by
from trustgate.observe.loop_lag import LoopLag
from trustgate.observe.metrics import Labels, Metric
from trustgate.observe.worker_pulse import WorkerPulse, spread_of, spreads_by
from trustgate.receipts.archive import Archive
from trustgate.receipts.log import Log
from trustgate.settings import BUILTIN_SCHEME, Settings
from trustgate.solana.anchoring import Anchoring
from trustgate.solana.clusters import cluster_name, explorer_url
from trustgate.store import Store

#: How far back ``top`` looks, and how many tenants and models it shows.
_PULSE_WINDOW_S = 10.0
_PULSE_GROUPS = 50


class GatewayStatus:
    def __init__(
        self,
        *,
        address: str,
        settings: Callable[[], Settings],
        counters: Counters,
        directory: Directory,
        running: InFlight,
        targets: Targets,
        log: Log,
        archive: Archive,
        anchoring: Anchoring,
        store: Store,
        loop_lag: LoopLag,
        notes: tuple[str, ...],
    ) -> None:
        """``settings``: as they hold now. ``notes``: what was mended besides what the parts tell themselves."""
        self._address = address
        self._settings = settings
        self._counters = counters
        self._directory = directory
        self._running = running
        self._targets = targets
        self._log = log
        self._archive = archive
        self._anchoring = anchoring
        self._store = store
        self.loop_lag = loop_lag
        #: What was missing or damaged at the start and could be mended.
        self.mended = (*store.info.notes, *log.notes, *archive.notes, *notes)
        self.started_us = now_us()
        #: Whether requests may be admitted; of a process whose database is reached.
        self.may_serve: Callable[[], bool] = lambda: True
        #: Returns the live statistics of all workers, with at most so many tenants and models; None: there is one.
        self.whole_pulse: Callable[[int], Awaitable[LiveStats]] | None = None

    def check(self) -> dict[str, str]:
        """Returns the content of ``/ready``: no addresses, no paths."""
        upstreams = [
            upstream for _, upstream in self._targets.upstreams() if not upstream.base_url.startswith(BUILTIN_SCHEME)
        ]
        if any(upstream.healthy for upstream in upstreams):
            reachable = "ok"
        else:
            reachable = "no upstream is reachable" if upstreams else "there is no upstream"
        store = "ok" if self._log.fault is None else "receipts cannot be stored right now"
        if not self.may_serve():
            store = "the database is away"
        return {"store": store, "upstream": reachable, "serving": "draining" if self._running.leaving else "ok"}

    def set_aside(self) -> int:
        """Returns how many receipts the database cannot hold as they are, unless the operator has accepted that."""
        return sum(not aside.accepted for aside in self._store.set_aside)

    def notes(self) -> list[str]:
        """Returns the warnings of ``/ready``: nothing of it keeps the gateway from serving."""
        notes = []
        if count := self.set_aside():
            notes.append(f"receipts set aside: {count} (trustgate receipt mend)")
        if self.mended:
            notes.append(f"mended at the start: {len(self.mended)} (trustgate doctor)")
        return notes

    def page(self) -> PageStatus:
        """Returns what the page at ``/`` shows."""
        archive = self._archive
        return PageStatus(
            checks=self.check(),
            version=__version__,
            started_us=self.started_us,
            models=tuple(self._targets.names()),
            public_url=self._settings().payment.public_url,
            has_account=self._settings().serve.account,
            origin=archive.origin,
            vkey=archive.vkey,
            size=archive.checkpoint_size,
            root=archive.checkpoint_root,
            signed_us=archive.signed_us,
            anchor=self._last_anchor(),
        )

    def _last_anchor(self) -> LastAnchor | None:
        """Unless it was made under another name of the log."""
        last = self._anchoring.last
        if last is None or last.note.partition("\n")[0] != self._archive.origin:
            return None
        return LastAnchor(
            size=last.tree_size,
            at_us=last.anchored_us,
            network=cluster_name(last.genesis),
            signature=last.signature,
            explorer=explorer_url(last.signature, last.genesis),
            fee_payer=last.fee_payer,
        )

    def metrics(self) -> Iterator[Metric]:
        """Yields the samples of ``/metrics`` on the state of the parts."""
        log, archive, anchoring = self._log, self._archive, self._anchoring
        shows_models = "model" in self._settings().metrics.labels
        up: dict[Labels, float] = {
            (("upstream", passport.slug if shows_models else str(number)),): upstream.healthy is not False
            for number, (passport, upstream) in enumerate(self._targets.upstreams(), 1)
        }
        one = Metric.of
        yield Metric("trustgate.info", "gauge", "The version that runs.", {(("version", __version__),): 1})
        started_s = self.started_us / MICROSECONDS_PER_SECOND
        yield one("process.start_time", "gauge", "When the server started, seconds since the epoch.", started_s, "s")
        yield one("trustgate.requests_in_flight", "gauge", "Requests being served.", len(self._running))
        yield one(
            "trustgate.requests_in_flight_limit",
            "gauge",
            "The most requests served at the same time.",
            self._running.most,
        )
        yield self.loop_lag.metric()
        written: dict[Labels, float] = {(): log.last_seq}
        life = "Receipts written, over the life of the log."
        yield Metric("trustgate.receipts", "counter", life, written, is_older=True)
        yield one("trustgate.receipts_pending", "gauge", "Receipts that wait for the database.", log.pending)
        aside = "Receipts that the database cannot hold as they are: trustgate receipt mend."
        yield one("trustgate.receipts_set_aside", "gauge", aside, self.set_aside())
        yield one("trustgate.log.failing", "gauge", "1 while receipts cannot be kept as they should.", bool(log.fault))
        yield one("trustgate.log.checkpoint_size", "gauge", "Receipts under the checkpoint.", archive.checkpoint_size)
        yield one("trustgate.log.anchored_size", "gauge", "Receipts under the last anchor.", anchoring.anchored_size)
        anchored_s = anchoring.anchored_us / MICROSECONDS_PER_SECOND
        yield one(
            "trustgate.log.anchored_time", "gauge", "Time of the last anchor, seconds since the epoch.", anchored_s, "s"
        )
        yield one("trustgate.anchor.failures", "gauge", "Failed attempts to anchor in a row.", anchoring.failures)
        yield Metric(
            "trustgate.upstream.up", "gauge", "Whether an upstream can be reached, by one of its passports.", up
        )

    async def pulse(self) -> LiveStats:
        """Returns what ``trustgate top`` shows: of all workers, where there are several."""
        if self.whole_pulse is not None:
            return await self.whole_pulse(_PULSE_GROUPS)
        return self._own_pulse(*self._lately())[0]

    async def worker_pulse(self) -> WorkerPulse:
        """Returns what this worker shows the others. Worked out in a thread, beside the event loop."""
        return await asyncio.to_thread(self._worker_pulse, *self._lately())

    def _worker_pulse(self, receipts: list[RequestSummary], refused: list[tuple[float, str]]) -> WorkerPulse:
        live, recent = self._own_pulse(receipts, refused)
        return WorkerPulse(
            pid=os.getpid(),
            live=live,
            all=spread_of(recent),
            tenants=spreads_by(recent, lambda receipt: self.tenant_name(receipt.tenant), live.tenants),
            models=spreads_by(recent, self._counters.model_of, live.models),
        )

    def _lately(self) -> tuple[list[RequestSummary], list[tuple[float, str]]]:
        """Returns how the last requests ended, and the last refusals and failures with their times."""
        return list(self._counters.recent), list(self._counters.recent_errors)

    def _own_pulse(
        self, receipts: list[RequestSummary], refused: list[tuple[float, str]]
    ) -> tuple[LiveStats, list[RequestSummary]]:
        """Returns this process's live statistics, and the receipts that they are of."""
        log, archive, anchoring, counters = self._log, self._archive, self._anchoring, self._counters
        at_us, now_s = now_us(), time.monotonic()
        recent, window_s = in_window(receipts, at_us, _PULSE_WINDOW_S)
        errors = Counter(code for at_s, code in refused if at_s >= now_s - _PULSE_WINDOW_S)
        live = LiveStats(
            at_us=at_us,
            started_us=self.started_us,
            version=__version__,
            address=self._address,
            window_s=round(window_s, 3),
            all=load_of("all", recent, window_s),
            tenants=loads_by(recent, window_s, lambda receipt: self.tenant_name(receipt.tenant), _PULSE_GROUPS),
            models=loads_by(recent, window_s, counters.model_of, _PULSE_GROUPS),
            errors={code: round(count / _PULSE_WINDOW_S, 3) for code, count in errors.most_common()},
            in_flight=len(self._running),
            in_flight_limit=self._running.most,
            loop_lag_p99_ms=round(self.loop_lag.p99_ms),
            receipts=log.last_seq,
            pending=log.pending,
            checkpoint_size=archive.checkpoint_size,
            anchored_size=anchoring.anchored_size,
            anchored_us=anchoring.anchored_us,
            schedule=anchoring.schedule(),
            log_problem=log.fault or "",
            anchor_problem=anchoring.problem,
            upstreams=tuple(
                UpstreamPulse(name=upstream.base_url, healthy=upstream.healthy, detail=upstream.detail)
                for _, upstream in self._targets.upstreams()
            ),
        )
        return live, recent

    def tenant_name(self, tenant_id: str) -> str:
        try:
            return self._directory.tenant(tenant_id).name
        except NotFound:
            return tenant_id
