"""Sending to a collector: in its own thread, so that no request waits for it.

Owns what waits, what is tried again and what is dropped. Spans wait in a queue with a bound; when a collector is away
for so long that it is full, further ones are dropped and counted. Metrics do not wait: they are sums since the start,
so the newest copy is complete. What is tried again, and after what time, follows OTLP (its specification, "Failures").
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from trustgate import __version__
from trustgate.telemetry.spans import Ended

if TYPE_CHECKING:
    import httpx

_logger = logging.getLogger("trustgate.telemetry")

#: Spans that may wait; a receipt and a few words each, some ten megabytes in all.
SPANS_MOST = 8_192
_BATCH = 512
_EVERY_S = 1.0
_TIMEOUT_S = 10.0
_RETRY_FIRST_S, _RETRY_LAST_S = 1.0, 60.0
_WARN_EVERY_S = 300.0
_TRY_AGAIN = frozenset({429, 502, 503, 504})

Outcome = Literal["taken", "later", "refused"]
Signal = Literal["traces", "metrics"]


class Lane:
    """One of the collector's paths: whether it may be asked now, and how often a failure is logged."""

    def __init__(self, what: str, url: str) -> None:
        self._what = what
        self._url = url
        self._retry_at = 0.0
        self._retry_s = _RETRY_FIRST_S
        self._warned_at: float | None = None
        self.is_failing = False

    @property
    def is_open(self) -> bool:
        return time.monotonic() >= self._retry_at

    def post(self, client: httpx.Client, body: bytes, timeout_s: float) -> tuple[Outcome, bytes]:
        """Send; gives what became of it, and the collector's answer."""
        import httpx

        try:
            answer = client.post(self._url, content=body, timeout=timeout_s)
        except httpx.HTTPError as error:
            return self._failed("later", f"{type(error).__name__}: {error}", None), b""
        if answer.is_success:
            if self.is_failing:
                _logger.info("the OTLP collector accepts %s again", self._what)
            self._retry_s, self.is_failing = _RETRY_FIRST_S, False
            return "taken", answer.content
        outcome: Outcome = "later" if answer.status_code in _TRY_AGAIN else "refused"
        return self._failed(outcome, f"it answers {answer.status_code}", answer.headers.get("retry-after")), b""

    def _failed(self, outcome: Outcome, why: str, retry_after: str | None) -> Outcome:
        if outcome == "later":
            asked_s = float(retry_after) if retry_after is not None and retry_after.isdecimal() else self._retry_s
            self._retry_at = time.monotonic() + min(asked_s, _RETRY_LAST_S)
            self._retry_s = min(self._retry_s * 2, _RETRY_LAST_S)
        self.is_failing = True
        self.warn(f"does not accept {self._what}: {why}")
        return outcome

    def warn(self, what: str) -> None:
        """Log it, unless something was logged a moment ago."""
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            _logger.warning("the OTLP collector at %s %s", urlsplit(self._url).netloc, what)


class Sent(NamedTuple):
    """What became of spans since the start."""

    sent: int
    dropped: int
    waiting: int


class _Held(NamedTuple):
    """A batch on its way."""

    body: bytes
    spans: int


def _read(answer: bytes, into: Message) -> bool:
    """Returns whether the answer has OTLP's form; acceptance is shown by its status."""
    try:
        into.ParseFromString(answer)
    except DecodeError:
        return False
    return True


class Sender:
    """``encode_spans``, ``encode_metrics``: called in the thread."""

    def __init__(
        self, endpoint: str, headers: Mapping[str, str], encode_spans: Callable[[Sequence[Ended]], bytes]
    ) -> None:
        base = endpoint.rstrip("/")
        self._headers = {
            **headers,
            "content-type": "application/x-protobuf",
            "user-agent": f"trustgate/{__version__}",
        }
        self._encode_spans = encode_spans
        self._traces = Lane("traces", f"{base}/v1/traces")
        self._metrics = Lane("metrics", f"{base}/v1/metrics")
        self._waiting: deque[Ended] = deque()
        self._held: _Held | None = None
        #: What makes the newest copy of the metrics into a message; and the message that is on its way.
        self._snapshots: deque[Callable[[], bytes]] = deque(maxlen=1)
        self._held_metrics: bytes | None = None
        #: Counted on the loop what found no room, in the thread what became of the rest.
        self._no_room = self._sent = self._lost = 0
        self._wake = threading.Event()
        #: When everything must have been sent, in monotonic time; None: no end is requested.
        self._end_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # on the loop

    def add(self, ended: Ended) -> None:
        if len(self._waiting) >= SPANS_MOST:
            self._no_room += 1
            return
        self._waiting.append(ended)
        if len(self._waiting) == _BATCH:
            self._wake.set()

    def renew(self, snapshot: Callable[[], bytes]) -> None:
        """Have these metrics sent, instead of any that still wait."""
        self._snapshots.append(snapshot)
        self._wake.set()

    @property
    def counts(self) -> Sent:
        held = self._held
        return Sent(self._sent, self._no_room + self._lost, len(self._waiting) + (0 if held is None else held.spans))

    @property
    def failing(self) -> dict[Signal, bool]:
        """Whether the collector accepts none of what was last sent to it, of each signal."""
        return {"traces": self._traces.is_failing, "metrics": self._metrics.is_failing}

    def finish(self, within_s: float) -> None:
        """Send what waits, and end; called once, anywhere but on the loop. What cannot be sent in time is logged."""
        self._end_at = time.monotonic() + within_s
        self._wake.set()
        self._thread.join(within_s)
        left = self.counts.waiting
        if left:
            _logger.warning("%d spans were not sent: the OTLP collector did not accept them in time", left)

    # in the thread

    def _run(self) -> None:
        import httpx

        with httpx.Client(headers=self._headers) as client:
            while True:
                # Looked at before the queue is, so that what was put there before is still sent.
                is_last = self._end_at is not None
                try:
                    self._send_spans(client)
                    self._send_metrics(client)
                except Exception:
                    _logger.exception("telemetry could not be sent")
                if is_last:
                    return
                self._wake.wait(_EVERY_S)
                self._wake.clear()

    def _send_spans(self, client: httpx.Client) -> None:
        while self._held is not None or self._waiting:
            if self._held is None:
                ended = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                try:
                    self._held = _Held(self._encode_spans(ended), len(ended))
                except Exception:
                    self._lost += len(ended)
                    raise
            timeout_s = self._time_for(self._traces)
            if timeout_s is None:
                return
            outcome, answer = self._traces.post(client, self._held.body, timeout_s)
            if outcome == "later":
                return
            spans, self._held = self._held.spans, None
            lost = spans if outcome == "refused" else self._not_taken(answer)
            self._sent += spans - lost
            self._lost += lost

    def _not_taken(self, answer: bytes) -> int:
        """Returns how many spans of a batch the collector reports as rejected."""
        response = ExportTraceServiceResponse()
        left = response.partial_success.rejected_spans if _read(answer, response) else 0
        if left:
            self._traces.warn(f"left {left} spans of a batch")
        return left

    def _send_metrics(self, client: httpx.Client) -> None:
        if self._snapshots:
            self._held_metrics = self._snapshots.popleft()()
        timeout_s = self._time_for(self._metrics)
        if self._held_metrics is None or timeout_s is None:
            return
        outcome, answer = self._metrics.post(client, self._held_metrics, timeout_s)
        if outcome == "taken":
            response = ExportMetricsServiceResponse()
            if _read(answer, response) and response.partial_success.rejected_data_points:
                self._metrics.warn(f"left {response.partial_success.rejected_data_points} data points")
        if outcome != "later":
            self._held_metrics = None

    def _time_for(self, lane: Lane) -> float | None:
        """Returns how long a request may take now; None: none is to be made. At the end everything is tried once
        more.
        """
        if self._end_at is not None:
            left_s = self._end_at - time.monotonic()
            return min(left_s, _TIMEOUT_S) if left_s > 0 else None
        return _TIMEOUT_S if lane.is_open else None
