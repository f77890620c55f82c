"""``GET /metrics``: the metrics of the gateway, in the text format of Prometheus (version 0.0.4).

Owns the names. They are OpenTelemetry's, whose semantic conventions for GenAI have many of them; ours begin with
``trustgate``. The text spells them as Prometheus does (``gen_ai.server.request.duration``, in seconds, is
``gen_ai_server_request_duration_seconds``); over OTLP (``telemetry``) they go as they are. Access is set in the
settings: without ``metrics.key_env`` every client that reaches the port; and ``metrics.labels`` selects whether models
and tenants are labels. No tenant is named unless it is asked for.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Literal, NamedTuple

from starlette.types import Receive, Scope, Send

from trustgate.errors import AuthenticationFailed
from trustgate.http.sending import send_body, send_error
from trustgate.observe.counters import DURATION_MS, FIRST_MS, OTHER, TOKENS, Cell, Counters
from trustgate.settings import MetricsSettings, Settings
from trustgate.types import COUNTED, NANO_USD_PER_USD

_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
#: gen_ai.operation.name of our endpoints; the others are called as they are.
_OPERATIONS = {"chat.completions": "chat", "responses": "chat", "messages": "chat", "completions": "text_completion"}
_TENANTS_MOST = 1_000
#: How old the numbers may be, seconds.
FRESH_S: Final = 1.0
#: How Prometheus spells a unit at the end of a name; an annotation in braces is not a unit there.
_UNITS = {"s": "_seconds", "USD": "_usd"}

Labels = tuple[tuple[str, str], ...]
MetricKind = Literal["gauge", "counter", "histogram"]


class Metric(NamedTuple):
    """One metric with all its series. A histogram's values are its buckets' counts, the sum and the bounds."""

    name: str
    kind: MetricKind
    help: str
    series: Mapping[Labels, float | Histogram]
    #: As OpenTelemetry writes it (UCUM): s, USD, {token}.
    unit: str = ""
    #: It has been counted since before this process began.
    is_older: bool = False

    @classmethod
    def of(cls, name: str, kind: Literal["gauge", "counter"], help: str, value: float, unit: str = "") -> Metric:
        """Returns a metric with one series."""
        return cls(name, kind, help, {(): value}, unit)


class Histogram(NamedTuple):
    counts: list[int]
    total: float
    bounds: Sequence[float]


class _Made(NamedTuple):
    """The text as it was made, when (in the loop's time) and under which settings."""

    settings: MetricsSettings
    at: float
    text: bytes


class Metrics:
    def __init__(
        self,
        settings: Callable[[], Settings],
        counters: Counters,
        state: Callable[[], Iterable[Metric]],
        tenant_name: Callable[[str], str],
    ) -> None:
        """``settings``: as they hold now; ``state``: what is read off the other parts, not counted."""
        self._settings = settings
        self._counters = counters
        self._state = state
        self._tenant_name = tenant_name
        self._made: _Made | None = None
        #: Adds those of other workers on the same port.
        self.merge: Callable[[list[Metric]], list[Metric]] = _as_they_are

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = self._settings().metrics_key()
        if key is not None and not _has_key(scope, key):
            await send_error(send, AuthenticationFailed("The key for /metrics is missing or wrong."))
            return
        await send_body(send, 200, [_TYPE], self._text())

    def _text(self) -> bytes:
        """Returns the text: made at most once in ``FRESH_S``, however many ask."""
        now, settings = asyncio.get_running_loop().time(), self._settings().metrics
        if self._made is None or self._made.settings != settings or now - self._made.at >= FRESH_S:
            text = "".join(line for metric in self.merge(self.collect()) for line in _lines(metric))
            self._made = _Made(settings, now, text.encode())
        return self._made.text

    def collect(self) -> list[Metric]:
        """Returns all metrics, as of now."""
        labels = self._settings().metrics.labels
        metrics = [*self._state(), *_counted(self._counters, shows_models="model" in labels)]
        if "tenant" in labels:
            metrics += _by_tenant(self._counters, self._tenant_name)
        return metrics


def _as_they_are(metrics: list[Metric]) -> list[Metric]:
    return metrics


def _has_key(scope: Scope, key: str) -> bool:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), key.encode())
    return False


# what was counted


def _counted(counters: Counters, *, shows_models: bool) -> Iterator[Metric]:
    requests: dict[Labels, float] = {}
    tokens: dict[Labels, float] = {}
    cost: dict[Labels, float] = {}
    duration: dict[Labels, float | Histogram] = {}
    first: dict[Labels, float | Histogram] = {}
    sizes: dict[Labels, float | Histogram] = {}
    for (endpoint, model, status, finish), cell in list(counters.cells.items()):
        of_model: Labels = (("gen_ai.request.model", model),) if shows_models else ()
        where: Labels = (("endpoint", endpoint), *of_model)
        _add(requests, (*where, ("status", str(status)), ("finish", finish)), cell.requests)
        asked: Labels = (("gen_ai.operation.name", operation_of(endpoint)), *of_model)
        _merge(duration, (*asked, ("error.type", _error_type(status, finish))), cell.total, cell.total_ms / 1000, _S)
        if finish not in COUNTED:
            continue
        for name, count in _tokens(cell):
            _add(tokens, (*where, ("type", name)), count)
        _add(cost, where, cell.cost_nano_usd / NANO_USD_PER_USD)
        _merge(first, asked, cell.first, cell.first_ms / 1000, _FIRST_S)
        _merge(sizes, (*asked, ("gen_ai.token.type", "input")), cell.prompt_sizes, cell.prompt_tokens, TOKENS)
        _merge(sizes, (*asked, ("gen_ai.token.type", "output")), cell.completion_sizes, cell.completion_tokens, TOKENS)
    errors: dict[Labels, float] = {(("code", code),): count for code, count in list(counters.errors.items())}
    yield Metric("trustgate.requests", "counter", "Requests with a receipt, by how they ended.", requests)
    yield Metric("trustgate.errors", "counter", "Requests that were refused or failed, by code.", errors)
    yield Metric("trustgate.tokens", "counter", "Tokens of answered requests.", tokens, "{token}")
    yield Metric("trustgate.cost", "counter", "Cost of answered requests, USD.", cost, "USD")
    took, waited = "From a request to the end of its answer.", "From a request to its answer's first byte."
    yield Metric("gen_ai.server.request.duration", "histogram", took, duration, "s")
    yield Metric("gen_ai.server.time_to_first_token", "histogram", waited, first, "s")
    yield Metric("gen_ai.client.token.usage", "histogram", "Input and output tokens of a request.", sizes, "{token}")


def operation_of(endpoint: str) -> str:
    """Returns the endpoint as gen_ai.operation.name."""
    return _OPERATIONS.get(endpoint, endpoint)


_S = [bound / 1000 for bound in DURATION_MS]
_FIRST_S = [bound / 1000 for bound in FIRST_MS]


def _error_type(status: int, finish: str) -> str:
    """ "" for success, as an absent label; else how it went wrong (error.type is free to choose within bounds)."""
    return "" if finish == "complete" else finish if status < 400 else str(status)


def _tokens(cell: Cell) -> Iterator[tuple[str, int]]:
    yield "prompt", cell.prompt_tokens
    yield "cached", cell.cached_tokens
    yield "completion", cell.completion_tokens
    yield "reasoning", cell.reasoning_tokens


def _by_tenant(counters: Counters, name_of: Callable[[str], str]) -> Iterator[Metric]:
    requests: dict[Labels, float] = {}
    tokens: dict[Labels, float] = {}
    cost: dict[Labels, float] = {}
    for count, (tenant_id, cell) in enumerate(list(counters.tenants.items())):
        labels: Labels = (("tenant", name_of(tenant_id) if count < _TENANTS_MOST else OTHER),)
        _add(requests, labels, cell.requests)
        _add(tokens, labels, cell.tokens)
        _add(cost, labels, cell.cost_nano_usd / NANO_USD_PER_USD)
    yield Metric("trustgate.tenant.requests", "counter", "Requests with a receipt, by tenant.", requests)
    yield Metric("trustgate.tenant.tokens", "counter", "Tokens of answered requests, by tenant.", tokens, "{token}")
    yield Metric("trustgate.tenant.cost", "counter", "Cost of answered requests, USD, by tenant.", cost, "USD")


def _add(series: dict[Labels, float], labels: Labels, value: float) -> None:
    series[labels] = series.get(labels, 0) + value


def _merge(
    series: dict[Labels, float | Histogram], labels: Labels, counts: list[int], total: float, bounds: Sequence[float]
) -> None:
    known = series.get(labels)
    if isinstance(known, Histogram):
        counts = [one + other for one, other in zip(known.counts, counts, strict=True)]
        total += known.total
    series[labels] = Histogram(list(counts), total, bounds)


# the text


def _lines(metric: Metric) -> Iterator[str]:
    name = _spelled(metric.name) + _UNITS.get(metric.unit, "") + ("_total" if metric.kind == "counter" else "")
    yield f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"
    for labels, value in metric.series.items():
        if not isinstance(value, Histogram):
            yield f"{name}{_braces(labels)} {_number(value)}\n"
            continue
        for bound, count in zip((*map(_number, value.bounds), "+Inf"), accumulate(value.counts), strict=True):
            yield f"{name}_bucket{_braces((*labels, ('le', bound)))} {count}\n"
        yield f"{name}_sum{_braces(labels)} {_number(value.total)}\n"
        yield f"{name}_count{_braces(labels)} {sum(value.counts)}\n"


def _spelled(name: str) -> str:
    return name.replace(".", "_")


def _braces(labels: Labels) -> str:
    """An empty value is the same as no label."""
    given = [f'{_spelled(name)}="{_escaped(value)}"' for name, value in labels if value]
    return "{" + ",".join(given) + "}" if given else ""


def _escaped(value: str) -> str:
    clean = "".join(c if c.isprintable() or c == "\n" else "�" for c in value)
    return clean.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
