"""A scripted OpenTelemetry collector: takes OTLP over real HTTP, decodes it, and answers as it is told."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.processes import wait_until


class Answer(NamedTuple):
    """What one request is answered with. ``leaves``: so many spans of it are said to have been left."""

    status: int = 200
    headers: Mapping[str, str] = {}
    leaves: int = 0
    #: Instead of what OTLP wants.
    body: bytes | None = None


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        #: The newest copy of each metric.
        self.metrics: dict[str, Metric] = {}
        self.resource: dict[str, Any] = {}
        #: (path, headers) of every request, also of those that were not taken.
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.raw = b""
        self._answers: deque[Answer] = deque()
        self._lock = threading.Lock()
        #: Shut: requests wait.
        self.gate = threading.Event()
        self.gate.set()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def start(self) -> None:
        """Listen; a second time on the same port."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.gate.wait()
                answer, reply = collector.take(self.path, dict(self.headers.items()), body)
                self.send_response(answer.status)
                for name, value in {**answer.headers, "content-length": str(len(reply))}.items():
                    self.send_header(name, value)
                with contextlib.suppress(ConnectionError):  # who has waited long enough is gone
                    self.end_headers()
                    self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so."""
        self._answers.extend(answers)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[Answer, bytes]:
        with self._lock:
            self.requests.append((path, {name.lower(): value for name, value in headers.items()}))
            answer = self._answers.popleft() if self._answers else Answer()
            if answer.status != 200:
                return answer, b""
            self.raw += body
            if path.endswith("/v1/traces"):
                for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resource = attributes(resource_spans.resource.attributes)
                    self.spans += [span for scope in resource_spans.scope_spans for span in scope.spans]
            elif path.endswith("/v1/metrics"):
                for resource_metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    self.resource = attributes(resource_metrics.resource.attributes)
                    for scope in resource_metrics.scope_metrics:
                        self.metrics |= {metric.name: metric for metric in scope.metrics}
            partial = ExportTracePartialSuccess(rejected_spans=answer.leaves) if answer.leaves else None
            reply: bytes = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
            return answer, reply if answer.body is None else answer.body

    def wait_for(self, spans: int) -> list[Span]:
        """The spans, once there are so many."""
        wait_until(lambda: len(self.spans) >= spans, f"{spans} spans")
        return self.spans


@contextmanager
def running_collector() -> Iterator[Collector]:
    collector = Collector()
    collector.start()
    try:
        yield collector
    finally:
        collector.gate.set()
        collector.stop()


def attributes(pairs: Any) -> dict[str, Any]:
    """As a dictionary. Fails for a name that comes twice."""
    listed: list[KeyValue] = list(pairs)
    found = {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in listed}
    assert len(found) == len(listed), listed
    return found
