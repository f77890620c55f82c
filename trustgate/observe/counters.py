"""Counters of what has been served since the start: a few additions for each receipt.

Owns the counters that ``/metrics`` and ``trustgate top`` read. What callers choose (models' names, upstreams' statuses)
is bounded here, so that no caller can fill the memory, or a time series database, with names.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque

from trustgate.errors import NotFound, TrustGateError, UpstreamRefused
from trustgate.models.catalog import Catalog
from trustgate.observe.live_stats import PastRequest, RequestSummary
from trustgate.types import COUNTED, Receipt

#: Upper bounds of the buckets, as the OpenTelemetry GenAI conventions advise for these metrics.
DURATION_MS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 20480, 40960, 81920)
FIRST_MS = (1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)
TOKENS = tuple(4**power for power in range(14))

#: Names of models with a label of their own; what comes later is ``OTHER``.
MODELS_MOST = 100
OTHER = "other"
_CODES_MOST = 100
_CACHED_KEYS = 2_000
#: Requests and refusals that ``top`` looks back on.
RECENT = 4_096
#: Receipts that the console shows.
_NEWEST = 100
#: So many receipts are counted at once at the latest.
_TOGETHER = 64


class Cell:
    """The requests of one endpoint and model that ended in one way."""

    __slots__ = (
        *("cached_tokens", "completion_sizes", "completion_tokens", "cost_nano_usd", "first", "first_ms"),
        *("prompt_sizes", "prompt_tokens", "reasoning_tokens", "requests", "total", "total_ms"),
    )

    def __init__(self) -> None:
        self.requests = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = self.reasoning_tokens = 0
        self.cost_nano_usd = 0
        self.first_ms = self.total_ms = 0
        #: How many lie in each bucket, the last one without an upper bound.
        self.first = [0] * (len(FIRST_MS) + 1)
        self.total = [0] * (len(DURATION_MS) + 1)
        self.prompt_sizes = [0] * (len(TOKENS) + 1)
        self.completion_sizes = [0] * (len(TOKENS) + 1)


class TenantCell:
    __slots__ = ("cost_nano_usd", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = self.cost_nano_usd = 0


class Counters:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._cells: dict[tuple[str, str, int, str], Cell] = {}
        self._tenants: dict[str, TenantCell] = {}
        #: Receipts that are not counted yet: one after another they cost half of what each costs amid a request.
        self._uncounted: list[Receipt] = []
        #: Refusals by their code, whether there is a receipt of them or not.
        self.errors: dict[str, int] = {}
        self._recent: deque[RequestSummary] = deque(maxlen=RECENT)
        self.newest: deque[Receipt] = deque(maxlen=_NEWEST)
        #: (time.monotonic(), code)
        self.recent_errors: deque[tuple[float, str]] = deque(maxlen=RECENT)
        #: Each with its key, whose names are kept in place of the equal ones of each request.
        self._by_key: dict[tuple[str, str, str, int, str], tuple[Cell, tuple[str, str, str, int, str]]] = {}
        self._models: set[str] = set()

    @property
    def cells(self) -> dict[tuple[str, str, int, str], Cell]:
        """By endpoint, model (a passport's slug, or what a wildcard passport was asked for), status and finish."""
        self._count_all()
        return self._cells

    @property
    def tenants(self) -> dict[str, TenantCell]:
        """By tenant's id."""
        self._count_all()
        return self._tenants

    @property
    def recent(self) -> deque[RequestSummary]:
        """How the last requests ended, in the order of their receipts."""
        self._count_all()
        return self._recent

    def count(self, receipt: Receipt) -> None:
        """Called for every receipt as it is written."""
        if receipt.finish == "credited":
            return  # nothing was requested
        self.newest.append(receipt)
        self._uncounted.append(receipt)
        if len(self._uncounted) >= _TOGETHER:
            self._count_all()

    def _count_all(self) -> None:
        receipts, self._uncounted = self._uncounted, []
        for receipt in receipts:
            self._count(receipt)

    def _count(self, receipt: Receipt) -> None:
        key = (receipt.endpoint, receipt.model, receipt.passport, receipt.status, receipt.finish)
        cell, names = self._by_key.get(key) or self._cell(key)
        self._recent.append(
            RequestSummary(
                receipt.tenant,
                names[1],
                names[2],
                names[4],
                receipt.created_us,
                receipt.latency_first_ms,
                receipt.latency_total_ms,
                receipt.prompt_tokens,
                receipt.completion_tokens,
                receipt.cost_nano_usd,
            )
        )
        cell.requests += 1
        cell.total_ms += receipt.latency_total_ms
        cell.total[bisect_left(DURATION_MS, receipt.latency_total_ms)] += 1
        tenant = self._tenants.get(receipt.tenant)
        if tenant is None:
            tenant = self._tenants[receipt.tenant] = TenantCell()
        tenant.requests += 1
        if receipt.finish in COUNTED:
            cell.first_ms += receipt.latency_first_ms
            cell.first[bisect_left(FIRST_MS, receipt.latency_first_ms)] += 1
            cell.prompt_tokens += receipt.prompt_tokens
            cell.prompt_sizes[bisect_left(TOKENS, receipt.prompt_tokens)] += 1
            cell.completion_tokens += receipt.completion_tokens
            cell.completion_sizes[bisect_left(TOKENS, receipt.completion_tokens)] += 1
            cell.cached_tokens += receipt.cached_tokens
            cell.reasoning_tokens += receipt.reasoning_tokens
            cell.cost_nano_usd += receipt.cost_nano_usd
            tenant.tokens += receipt.prompt_tokens + receipt.completion_tokens
            tenant.cost_nano_usd += receipt.cost_nano_usd

    def count_error(self, error: TrustGateError) -> None:
        """Called for every request that is refused or fails."""
        # An upstream's own codes are the upstream's to choose.
        code = "upstream_refused" if isinstance(error, UpstreamRefused) else error.code or "none"
        if code not in self.errors and len(self.errors) >= _CODES_MOST:
            code = OTHER
        self.errors[code] = self.errors.get(code, 0) + 1
        self.recent_errors.append((time.monotonic(), code))

    def _cell(self, key: tuple[str, str, str, int, str]) -> tuple[Cell, tuple[str, str, str, int, str]]:
        endpoint, model, passport, status, finish = key
        cell = self._cells.setdefault((endpoint, self.model_label(model, passport, finish), status, finish), Cell())
        if len(self._by_key) >= _CACHED_KEYS:
            self._by_key.clear()
        self._by_key[key] = cell, key
        return cell, key

    def model_of(self, receipt: PastRequest) -> str:
        return self.model_label(receipt.model, receipt.passport, receipt.finish)

    def model_label(self, model: str, passport_id: str, finish: str) -> str:
        """Returns the model's label: its passport's slug; of a wildcard passport the name asked for, if it
        is one.

        A name is taken to be a model's once a request for it was answered.
        """
        label = ""
        if passport_id:
            try:
                passport = self._catalog.passport(passport_id)
            except NotFound:
                return OTHER
            label = passport.slug if not passport.is_wildcard else model
            if passport.is_wildcard and finish not in COUNTED and label not in self._models:
                return OTHER
        else:
            resolved = self._catalog.resolve(model) if model else None
            if resolved is None or (resolved.passport.is_wildcard and model not in self._models):
                return OTHER if model else ""
            label = model if resolved.passport.is_wildcard else resolved.passport.slug
        if label not in self._models:
            if len(self._models) >= MODELS_MOST:
                return OTHER
            self._models.add(label)
        return label
