"""The numbers of ``/metrics`` as OTLP's data points: the same names and counts, cumulative since the start."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as wire
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from trustgate.observe.metrics import Histogram, Labels, Metric
from trustgate.telemetry.messages import SCOPE, attributes


class Points:
    """Makes data points. ``started_us``: since when is counted."""

    def __init__(self, resource: Resource, started_us: int) -> None:
        self._resource = resource
        self._started_us = started_us

    def encode(self, metrics: Iterable[Metric], at_us: int) -> bytes:
        """Returns the body of a request to /v1/metrics."""
        scope = wire.ScopeMetrics(scope=SCOPE, metrics=[self._metric(each, at_us) for each in metrics if each.series])
        whole = wire.ResourceMetrics(resource=self._resource, scope_metrics=[scope])
        body: bytes = ExportMetricsServiceRequest(resource_metrics=[whole]).SerializeToString()
        return body

    def _metric(self, metric: Metric, at_us: int) -> wire.Metric:
        made = wire.Metric(name=metric.name, description=metric.help, unit=metric.unit)
        began_us = 0 if metric.is_older or metric.kind == "gauge" else self._started_us
        numbers = [
            _number(labels, value, began_us, at_us)
            for labels, value in metric.series.items()
            if not isinstance(value, Histogram)
        ]
        if metric.kind == "gauge":
            made.gauge.data_points.extend(numbers)
        elif metric.kind == "counter":
            made.sum.data_points.extend(numbers)
            made.sum.is_monotonic = True
            made.sum.aggregation_temporality = wire.AGGREGATION_TEMPORALITY_CUMULATIVE
        else:
            made.histogram.aggregation_temporality = wire.AGGREGATION_TEMPORALITY_CUMULATIVE
            made.histogram.data_points.extend(
                wire.HistogramDataPoint(
                    attributes=attributes(labels),
                    start_time_unix_nano=began_us * 1000,
                    time_unix_nano=at_us * 1000,
                    count=sum(value.counts),
                    sum=value.total,
                    bucket_counts=value.counts,
                    explicit_bounds=value.bounds,
                )
                for labels, value in metric.series.items()
                if isinstance(value, Histogram)
            )
        return made


def _number(labels: Labels, value: float, began_us: int, at_us: int) -> wire.NumberDataPoint:
    point = wire.NumberDataPoint(
        attributes=attributes(labels), start_time_unix_nano=began_us * 1000, time_unix_nano=at_us * 1000
    )
    if isinstance(value, int):
        point.as_int = int(value)  # a truth is a number, too
    else:
        point.as_double = value
    return point
