"""What OTLP messages share: values, attributes, the resource."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from trustgate import __version__
from trustgate.settings import OtlpSettings

Value = str | bool | int | float

SCOPE = InstrumentationScope(name="trustgate", version=__version__)


def resource(settings: OtlpSettings, instance_id: str) -> Resource:
    """Returns the resource: this gateway. ``instance_id`` distinguishes it from others of the same name."""
    own: dict[str, Value] = {
        "service.name": settings.service_name,
        "service.version": __version__,
        "service.instance.id": instance_id,
    }
    for pair in settings.attributes:
        name, _, value = pair.partition("=")
        own[name.strip()] = value.strip()
    return Resource(attributes=attributes(own.items()))


def attributes(pairs: Iterable[tuple[str, Value]]) -> list[KeyValue]:
    """An empty text is left out."""
    return [KeyValue(key=name, value=_any(value)) for name, value in pairs if value != ""]


def _any(value: Value) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=clean(value))


def clean(text: str) -> str:
    """Protocol buffers take no lone surrogates."""
    return text.encode(errors="replace").decode()
