"""``trustgate top``: the running gateway, live."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated

import typer

from trustgate.admin.commands import Admin, Look
from trustgate.cli import render
from trustgate.cli.context import JsonOption, with_admin
from trustgate.formats.written import rate
from trustgate.observe.live_stats import LiveStats, Load, WorkerLoad

_SPARK_LOOKS = 40
_SHOWN = 8


def register(app: typer.Typer) -> None:
    app.command("top", short_help="Watch the running gateway.")(top)


def top(
    context: typer.Context,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, max=60, help="Time between two updates, seconds.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one snapshot and exit.")] = False,
    json: JsonOption = False,
) -> None:
    """Watch the running gateway: rates, latencies, errors, tenants, models, the log and its anchors. Ctrl-C stops it.

    Rates and latencies are those of the last ten seconds. Of a server with --workers they are those of all workers
    together, and each has a row of its own.
    """

    import asyncio  # with the command: `trustgate --help` has no use for it

    async def work(admin: Admin) -> None:
        if once or json:
            pulse = await admin.execute(Look())
            if json:
                render.document(pulse)
            else:
                render.screen(_screen(pulse, [pulse.all.requests_per_s]))
            return
        history: deque[float] = deque(maxlen=_SPARK_LOOKS)
        pulse = await admin.execute(Look())  # before the screen is taken: there may be no server
        with render.live() as show:
            while True:
                history.append(pulse.all.requests_per_s)
                show(_screen(pulse, list(history)))
                await asyncio.sleep(every)  # not time.sleep: Ctrl-C ends this one
                pulse = await admin.execute(Look())

    with_admin(context, work)


def _screen(pulse: LiveStats, history: list[float]) -> list[render.Part]:
    everything = pulse.all
    workers: list[render.Part] = [[""], _workers(pulse.workers)] if pulse.workers else []
    parts: list[render.Part] = [
        [
            render.Styled(f"TrustGate {pulse.version}", "bold"),
            pulse.address,
            f"up {_span(pulse.at_us - pulse.started_us)}",
            f"{render.instant(pulse.at_us)} UTC",
        ],
        [
            render.Styled(f"{rate(everything.requests_per_s)} requests/s", "bold"),
            render.Styled(f"{rate(everything.tokens_per_s)} tokens/s", "bold"),
            f"{render.usd(_per_hour(everything))}/h",
            render.Styled(render.sparkline(history, _SPARK_LOOKS), "cyan"),
        ],
        [
            f"first byte p50 {_ms(everything.first_p50_ms)} p99 {_ms(everything.first_p99_ms)}",
            f"total p50 {_ms(everything.total_p50_ms)} p99 {_ms(everything.total_p99_ms)}",
        ],
        _queues(pulse),
        _log(pulse),
        _errors(pulse),
        *workers,
        [""],
        _grid("Tenant", pulse.tenants),
        [""],
        _grid("Model", pulse.models),
        [""],
        render.Grid(
            ["Upstream", "State"],
            [[upstream.name, _health(upstream.healthy, upstream.detail)] for upstream in pulse.upstreams],
        ),
    ]
    return parts


def _queues(pulse: LiveStats) -> list[render.Cell]:
    full = pulse.in_flight >= pulse.in_flight_limit
    return [
        render.Styled(
            f"{render.number(pulse.in_flight)} of {render.number(pulse.in_flight_limit)} in flight",
            "bold red" if full else "",
        ),
        f"{render.number(pulse.pending)} receipts wait for the database",
        f"turns p99 {_ms(pulse.loop_lag_p99_ms)} late",
        *([render.Styled(f"log: {pulse.log_problem}", "bold red")] if pulse.log_problem else []),
    ]


def _log(pulse: LiveStats) -> list[render.Cell]:
    anchored = f"{render.number(pulse.anchored_size)} anchored"
    if pulse.anchored_us:
        anchored += f" {_span(pulse.at_us - pulse.anchored_us)} ago"
    return [
        f"{render.counted(pulse.receipts, 'receipt')}",
        f"{render.number(pulse.checkpoint_size)} under the checkpoint",
        anchored,
        *([pulse.schedule] if pulse.schedule else []),
        *([render.Styled(f"not anchored: {pulse.anchor_problem}", "yellow")] if pulse.anchor_problem else []),
    ]


def _errors(pulse: LiveStats) -> list[render.Cell]:
    if not pulse.errors:
        return [render.Styled("no errors", "green")]
    return [render.Styled(f"{code} {rate(per_s)}/s", "yellow") for code, per_s in pulse.errors.items()]


def _workers(workers: Sequence[WorkerLoad]) -> render.Grid:
    heads = ("process", "req/s", "p50 ms", "p99 ms", "failed", "in flight", "waiting", "late ms")
    rows: list[list[render.Cell]] = [
        [
            str(worker.number),
            str(worker.pid),
            rate(worker.requests_per_s),
            render.number(worker.total_p50_ms),
            render.number(worker.total_p99_ms),
            render.Styled(f"{worker.failed:.1%}", "yellow" if worker.failed else ""),
            render.number(worker.in_flight),
            render.number(worker.pending),
            render.number(worker.loop_lag_p99_ms),
        ]
        for worker in workers
    ]
    return render.Grid(["Worker", *map(render.right, heads)], rows)


def _grid(what: str, loads: tuple[Load, ...]) -> render.Grid:
    heads = ("req/s", "tok/s", "p50 ms", "p99 ms", "failed", "first p50", "first p99", "$/h")
    rows: list[list[render.Cell]] = [
        [
            load.name,
            rate(load.requests_per_s),
            rate(load.tokens_per_s),
            render.number(load.total_p50_ms),
            render.number(load.total_p99_ms),
            render.Styled(f"{load.failed:.1%}", "yellow" if load.failed else ""),
            render.number(load.first_p50_ms),
            render.number(load.first_p99_ms),
            render.usd(_per_hour(load)),
        ]
        for load in loads[:_SHOWN]
    ]
    if len(loads) > _SHOWN:
        rows.append([f"and {len(loads) - _SHOWN} more", *[""] * len(heads)])
    return render.Grid([what, *map(render.right, heads)], rows)


def _per_hour(load: Load) -> int:
    """Nano-USD, to a hundredth of a cent."""
    return load.cost_nano_usd_per_s * 3600 // 100_000 * 100_000


def _ms(milliseconds: int) -> str:
    return f"{render.number(milliseconds)} ms"


def _span(us: int) -> str:
    seconds = max(0, us) // 1_000_000
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _health(healthy: bool | None, detail: str) -> render.Cell:
    return render.Styled(detail, "" if healthy is None else "green" if healthy else "bold red")
