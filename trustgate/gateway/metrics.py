"""``GET /metrics``: the gateway's state in the text format of Prometheus (version 0.0.4).

No key needed and nothing of any tenant in it: sizes of the log, what waits, whether anchoring works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from starlette.types import Receive, Scope, Send

from trustgate.gateway.responses import send_body

_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Metric(NamedTuple):
    name: str
    kind: Literal["gauge", "counter"]
    help: str
    value: int | float


class Metrics:
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_body(send, 200, [_TYPE], "".join(map(_lines, self._read())).encode())


def _lines(metric: Metric) -> str:
    name = f"trustgate_{metric.name}"
    return f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n{name} {metric.value}\n"
