"""What is amiss with a running gateway and how to mend it: for ``trustgate doctor`` and the console's overview.

A ``fail`` keeps the gateway from working or its books from being safe; a ``warn`` is worth knowing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from trustgate.admin.clustering import NodeList, NodesFound
from trustgate.admin.commands import Admin, ServerStatus, Status, TargetStatus
from trustgate.admin.log_commands import AnchorStatus, ArchiveFound, ArchiveList, LogStatus
from trustgate.admin.money import PaymentCheck, PaymentFinding, PriceCheck
from trustgate.admin.subscriptions import NotifyList, SubscriberState
from trustgate.formats import written
from trustgate.notify.disk import disk_space
from trustgate.settings import Settings, UpstreamSettings

#: A gateway that serves hundreds of requests at a time has turns of some ten milliseconds.
LOOP_LAG_MOST_MS = 100
_MEND_UPSTREAM = (
    "Start that LLM server, or correct its address: upstream.url (trustgate serve --upstream URL), or a passport's "
    "(trustgate passport set SLUG --base-url URL)"
)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found; ``hint`` is how to fix it."""

    name: str
    status: Literal["ok", "warn", "fail"]
    message: str
    hint: str | None = None


def ok(name: str, message: str) -> Finding:
    return Finding(name=name, status="ok", message=message)


def warn(name: str, message: str, hint: str) -> Finding:
    return Finding(name=name, status="warn", message=message, hint=hint)


def fail(name: str, message: str, hint: str | None) -> Finding:
    return Finding(name=name, status="fail", message=message, hint=hint)


def disk_finding(settings: Settings) -> Finding:
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    try:
        space = disk_space(place)
    except OSError as error:
        return fail("disk", f"the free space of {place} cannot be read: {error.strerror}", None)
    message = f"{written.size(space.free_bytes)} free"
    hint = f"Free some space on the disk of {place}; without any, receipts cannot be stored and requests are refused."
    if space.state == "critical":
        return fail("disk", message, hint)
    return warn("disk", message, hint) if space.state == "low" else ok("disk", message)


def log_finding(log: LogStatus) -> Finding:
    waiting = log.tree_size - log.anchored_size
    message = f"{log.origin}: {written.counted(log.tree_size, 'receipt')}, {written.number(waiting)} not anchored"
    if log.problem:
        return warn("log", f"{message}; the schedule ({log.schedule}) fails: {log.problem}", "trustgate anchor flush")
    if log.planned:
        return warn("log", f"{message}; an anchor was sent and is not final yet", "trustgate anchor flush")
    return ok("log", f"{message}{f'; anchored {log.schedule}' if log.schedule else ''}")


def node_findings(found: NodesFound) -> Iterator[Finding]:
    """Yields what is wrong with the processes that serve the same Postgres database."""
    if found.nodes is None:
        return
    for finding in found.findings:
        yield warn("nodes", finding, "trustgate node list")
    if not found.findings:
        yield ok("nodes", ", ".join(f"{node.address} on {node.host}" for node in found.nodes))


def archive_findings(archives: Sequence[ArchiveFound]) -> Iterator[Finding]:
    """Yields what is wrong with archive files: missing, or of another size. ``trustgate archive`` reads them all."""
    for found in archives:
        if found.problem:
            file = found.file
            yield fail(
                "archive",
                f"{found.path} is {found.problem}; it holds receipts {written.number(file.first_seq)} to "
                f"{written.number(file.last_seq)}",
                "Put a copy back there, for instance out of a backup. Until then they are not found; all else works.",
            )
    if archives and not any(found.problem for found in archives):
        receipts = written.counted(archives[-1].file.last_seq, "receipt")
        files = written.counted(len(archives), "file")
        yield ok("archive", f"{receipts} in {files}; trustgate archive reads them")


def upstream_finding(target: TargetStatus) -> Finding:
    detail = f" ({target.detail})" if target.detail else ""
    if target.healthy:
        return ok("upstream", f"{target.base_url}{detail}")
    if target.healthy is None:
        return warn("upstream", f"{target.base_url} has not been probed yet{detail}", "Try again in a few seconds.")
    return unreachable(target.base_url, target.detail)


def price_finding(found: PaymentFinding) -> Finding:
    return Finding(name="prices", status=found.status, message=found.message, hint=found.hint)


def payment_finding(found: PaymentFinding) -> Finding:
    return Finding(name="payment", status=found.status, message=found.message, hint=found.hint)


def subscriber_finding(subscriber: SubscriberState) -> Finding:
    """Whether notices arrive: one that is tried again, or was given up, did not."""
    if subscriber.retrying or subscriber.failed:
        message = f"{subscriber.name}: {subscriber.retrying} are tried again, {subscriber.failed} were given up"
        hint = f"trustgate notify show {shlex.quote(subscriber.name)}"
        return warn("notices", f"{message}; the last attempt: {subscriber.detail}", hint)
    return ok("notices", f"{subscriber.name} is told of {', '.join(subscriber.kinds)}")


def amiss_findings(status: ServerStatus) -> Iterator[Finding]:
    """What was missing at the start and was mended, what the database cannot hold, and a loop that is held up."""
    for note in status.notes:
        yield warn("files", note, "Find out what happened to the file. Nothing is to be done here; a restart forgets.")
    if status.set_aside:
        yield warn(
            "receipts",
            f"the database cannot hold {status.set_aside} of them as they are: they are set aside, and what does not "
            "fit counts as nothing",
            "trustgate receipt mend",
        )
    if status.loop_lag_p99_ms > LOOP_LAG_MOST_MS:
        yield warn(
            "loop",
            f"requests waited up to {status.loop_lag_p99_ms} ms (p99) and {status.loop_lag_worst_ms} ms (worst) for "
            "their turn in the last minute",
            "The machine is busy with something else, or too slow for this load: look with top, give the "
            "gateway a core of its own, or lower serve.max_concurrent_requests.",
        )


def unreachable(url: str, reason: str) -> Finding:
    message = f"{url} does not answer: {reason.rstrip('.') or 'the reason is not known'}"
    if url == UpstreamSettings().url:
        # No setting names one.
        return warn(
            "upstream",
            f"{message}; only the built-in trustgate/echo can serve",
            "Start LiteLLM there, or name your LLM server: trustgate serve --upstream URL",
        )
    return fail("upstream", message, _MEND_UPSTREAM)


async def findings_of(admin: Admin, settings: Settings) -> list[Finding]:
    """Returns what a running gateway finds of itself. Raises as ``Admin.execute``."""
    status = await admin.execute(Status())
    archives = await admin.execute(ArchiveList())
    log = await admin.execute(AnchorStatus())
    prices = await admin.execute(PriceCheck())
    payments = await admin.execute(PaymentCheck())
    subscribers = await admin.execute(NotifyList())
    nodes = await admin.execute(NodeList())
    return [
        disk_finding(settings),
        *node_findings(nodes),
        *amiss_findings(status),
        *archive_findings(archives),
        log_finding(log),
        *map(upstream_finding, status.targets),
        *map(price_finding, prices),
        *map(payment_finding, payments),
        *map(subscriber_finding, subscribers),
    ]
