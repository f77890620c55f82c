"""One span a request: its name and its attributes.

The names are those of the OpenTelemetry semantic conventions for GenAI and HTTP; ``server.*`` is this gateway, which is
the server of the request, and ours begin with ``trustgate``. Only what a receipt holds goes out, and a refusal's code:
no text of a prompt, an answer or an error, no key and no key's id.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from trustgate.errors import UpstreamRefused
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.delivery import RequestOutcome
from trustgate.ids import now_us
from trustgate.models.upstream.targets import Target
from trustgate.observe.metrics import operation_of
from trustgate.observe.traces import TraceContext
from trustgate.settings import BUILTIN_SCHEME
from trustgate.telemetry.messages import SCOPE, Value, attributes, clean
from trustgate.types import COUNTED, Receipt

_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
#: The endings that are a failure although an answer with status 200 had begun.
_FAILURES = frozenset({"upstream_cut", "cut"})


class Ended(NamedTuple):
    """What is kept of a request that has ended, until its span is made."""

    endpoint: Endpoint
    context: TraceContext
    request_id: bytes
    at_us: int
    ended_us: int
    receipt: Receipt | None
    target: Target | None
    #: What it was refused for, or failed with.
    code: str
    status: int

    @classmethod
    def of(cls, end: RequestOutcome, context: TraceContext) -> Ended:
        code, status, error = "", 0, end.error
        if error is not None:
            # An upstream's own codes are the upstream's to choose.
            code = "upstream_refused" if isinstance(error, UpstreamRefused) else error.code or "error"
            status = error.status
        arrival = end.arrival
        return cls(
            endpoint=end.endpoint,
            context=context,
            request_id=arrival.request_id,
            at_us=arrival.at_us,
            ended_us=now_us(),
            receipt=end.receipt,
            target=end.target,
            code=code,
            status=status,
        )


class Spans:
    """Makes spans. ``address``: where clients reach this gateway, a URL."""

    def __init__(self, resource: Resource, address: str) -> None:
        self._resource = resource
        parts = urlsplit(address)
        self._server: list[tuple[str, Value]] = [("url.scheme", parts.scheme), ("server.address", parts.hostname or "")]
        if parts.port is not None:
            self._server.append(("server.port", parts.port))

    def encode(self, ended: Sequence[Ended]) -> bytes:
        """Returns the body of a request to /v1/traces."""
        scope = ScopeSpans(scope=SCOPE)
        for each in ended:
            scope.spans.append(self._span(each))
            # Let the loop on: it would else wait for the interpreter until its switch interval is over, 5 ms.
            time.sleep(0)
        whole = ResourceSpans(resource=self._resource, scope_spans=[scope])
        body: bytes = ExportTraceServiceRequest(resource_spans=[whole]).SerializeToString()
        return body

    def _span(self, ended: Ended) -> Span:
        context, receipt = ended.context, ended.receipt
        fault = _fault(ended)
        is_failure = ended.status >= 500 or (receipt is not None and receipt.finish in _FAILURES)
        told = [*_asked(ended), *self._server, *_answered(ended), ("error.type", fault)]
        return Span(
            trace_id=bytes.fromhex(context.trace_id),
            span_id=bytes.fromhex(context.span_id),
            parent_span_id=bytes.fromhex(context.parent_id),
            trace_state=context.state,
            flags=int(context.is_sampled) | _HAS_IS_REMOTE | (_IS_REMOTE if context.parent_id else 0),
            name=_name(ended),
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=ended.at_us * 1000,
            end_time_unix_nano=max(ended.ended_us, ended.at_us) * 1000,
            attributes=attributes(told),
            status=Status(code=Status.STATUS_CODE_ERROR) if is_failure else None,
        )


def _name(ended: Ended) -> str:
    """``chat gpt-4o``. A name that led to no model may be anything and is not in it: names of spans are few."""
    operation = operation_of(ended.endpoint.name)
    if ended.receipt is None or not ended.receipt.passport or not ended.receipt.model:
        return operation
    return clean(f"{operation} {ended.receipt.model}")


def _fault(ended: Ended) -> str:
    """Returns the value of error.type; "" for success, as an absent attribute."""
    receipt = ended.receipt
    if receipt is not None and receipt.finish in COUNTED:
        return "" if receipt.finish == "complete" else receipt.finish
    return ended.code or ("" if receipt is None else receipt.finish)


def _asked(ended: Ended) -> Iterator[tuple[str, Value]]:
    endpoint, receipt = ended.endpoint, ended.receipt
    yield "gen_ai.operation.name", operation_of(endpoint.name)
    yield "http.request.method", endpoint.method
    yield "http.route", endpoint.path
    yield "trustgate.request.id", ended.request_id.decode()
    if receipt is not None:
        yield "gen_ai.request.model", receipt.model
        yield "gen_ai.request.stream", receipt.stream
        yield "trustgate.tenant.id", receipt.tenant
        yield "trustgate.receipt.id", receipt.id


def _answered(ended: Ended) -> Iterator[tuple[str, Value]]:
    receipt, target = ended.receipt, ended.target
    if receipt is None:
        if ended.status:
            yield "http.response.status_code", ended.status
        else:
            yield "trustgate.finish", "replayed"
        return
    yield "http.response.status_code", receipt.status
    yield "trustgate.finish", receipt.finish
    if target is not None:
        yield "gen_ai.provider.name", provider_name(target.passport.provider, target.model)
        yield "trustgate.passport.id", receipt.passport
        yield "trustgate.upstream.address", _host(target.upstream.base_url)
    if receipt.finish in COUNTED:
        yield "gen_ai.response.model", receipt.upstream_model
        yield "gen_ai.response.time_to_first_chunk", receipt.latency_first_ms / 1000
        yield "gen_ai.usage.input_tokens", receipt.prompt_tokens
        yield "gen_ai.usage.output_tokens", receipt.completion_tokens
        yield "gen_ai.usage.cache_read.input_tokens", receipt.cached_tokens
        yield "gen_ai.usage.reasoning.output_tokens", receipt.reasoning_tokens
        yield "trustgate.usage.source", receipt.usage_source
        yield "trustgate.cost_nano_usd", receipt.cost_nano_usd


#: The names of providers in the semantic conventions, where gateways and price tables call them otherwise.
_PROVIDERS = {
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "gemini": "gcp.gemini",
    "groq": "groq",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "openai": "openai",
    "perplexity": "perplexity",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def provider_name(provider: str, model: str) -> str:
    """The value of ``gen_ai.provider.name`` (OpenTelemetry semantic conventions for GenAI, "gen_ai.provider.name").

    Args:
        provider: as in the passport; a server of one's own stays what it is called.
        model: as the upstream calls it. A provider before its slash is the one behind a proxy, whatever speaks to it.
    """
    prefix, slash, _ = model.partition("/")
    named = prefix.lower() if slash and prefix.lower() in _PROVIDERS else provider
    return _PROVIDERS.get(named.lower(), named)


def _host(base_url: str) -> str:
    """Only the host and port: a path may hold private data."""
    return base_url if base_url.startswith(BUILTIN_SCHEME) else urlsplit(base_url).netloc
