"""The gateway's telemetry: started, fed and stopped by the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from trustgate.gateway.path.delivery import RequestOutcome
from trustgate.ids import now_us
from trustgate.observe.metrics import Labels, Metric
from trustgate.observe.traces import Tracing
from trustgate.settings import Settings
from trustgate.telemetry.messages import resource
from trustgate.telemetry.points import Points
from trustgate.telemetry.sender import Sender
from trustgate.telemetry.spans import Ended, Spans

#: How long a stop waits for the collector.
_FLUSH_S = 5.0


class Telemetry:
    def __init__(self, settings: Settings, *, address: str, instance_id: str) -> None:
        """``address``: where clients reach the gateway; ``instance_id`` distinguishes it from others of the same name.

        Raises ``SettingsError`` when the headers for the collector are missing.
        """
        otlp = settings.otlp
        itself = resource(otlp, instance_id)
        spans = Spans(itself, settings.payment.public_url or address)
        self._points = Points(itself, now_us())
        self._sender = Sender(otlp.endpoint, settings.otlp_headers(), spans.encode)
        self._every_s = otlp.metrics_every_s
        self._signals = otlp.signals
        self._sends_metrics = "metrics" in otlp.signals
        #: None: requests are not traced.
        self.tracing = Tracing(otlp.sample_ratio) if "traces" in otlp.signals else None
        self._collect: Callable[[], Sequence[Metric]] | None = None

    def start(self, collect: Callable[[], Sequence[Metric]]) -> None:
        """``collect``: the samples of ``/metrics``."""
        self._collect = collect
        self._sender.start()

    def on_end(self, end: RequestOutcome) -> None:
        """A request has ended."""
        if self.tracing is None:
            return
        context = self.tracing.context(end.arrival.headers, end.arrival.receipt_id)
        if context.is_sampled:
            self._sender.add(Ended.of(end, context))

    async def run(self) -> None:
        """For ever: have a copy of the metrics sent. It is taken on the loop, where nothing counts meanwhile."""
        while True:
            await asyncio.sleep(self._every_s)
            self._renew()

    def _renew(self) -> None:
        if self._sends_metrics and self._collect is not None:
            metrics, at_us = self._collect(), now_us()
            self._sender.renew(lambda: self._points.encode(metrics, at_us))

    def metrics(self) -> Iterator[Metric]:
        """Yields how the sending itself stands, for ``/metrics``."""
        sent = self._sender.counts
        by_outcome: dict[Labels, float] = {(("outcome", "sent"),): sent.sent, (("outcome", "dropped"),): sent.dropped}
        yield Metric("trustgate.otlp.spans", "counter", "Spans for the OTLP collector, by outcome.", by_outcome)
        yield Metric.of("trustgate.otlp.waiting", "gauge", "Spans that wait for the OTLP collector.", sent.waiting)
        failing: dict[Labels, float] = {
            (("signal", signal),): is_failing
            for signal, is_failing in self._sender.failing.items()
            if signal in self._signals
        }
        yield Metric(
            "trustgate.otlp.failing", "gauge", "1 while the OTLP collector accepts nothing of the signal.", failing
        )

    async def close(self) -> None:
        """Send what is left, as far as that is soon done."""
        self._renew()
        await asyncio.to_thread(self._sender.finish, _FLUSH_S)
