"""Traces and metrics over OTLP: one span a request, and the numbers of ``/metrics``, for an OpenTelemetry collector.

Loaded only where ``[otlp] endpoint`` names one. The messages are those of opentelemetry-proto, the extra ``otlp``.
Nothing that was said goes out: no prompt, no answer, no key, and of addresses only hosts.

    on the loop     a request ends → a few words about it, in a queue with a bound
    in a thread     the queue → spans → POST /v1/traces; a copy of the metrics → POST /v1/metrics
"""

from __future__ import annotations

from trustgate.errors import ExtraMissing

#: As pyproject.toml has it for the extra.
REQUIREMENT = "opentelemetry-proto>=1.35,<2"


def check_installed() -> None:
    """Raise ``ExtraMissing``, which names what to install, unless the extra is there."""
    try:
        import opentelemetry.proto.trace.v1.trace_pb2  # noqa: F401 - whether it can be had
    except ImportError:
        message = "otlp.endpoint is set, but the packages that send to a collector are not installed."
        raise ExtraMissing.of(message, "otlp", REQUIREMENT) from None
