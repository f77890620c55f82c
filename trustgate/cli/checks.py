"""The checks of ``trustgate doctor``. Each looks at one thing, changes nothing, and reports how to fix what it finds.

A ``fail`` keeps the gateway from working or its books from being safe; a ``warn`` is worth knowing.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shlex
import socket
import ssl
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from trustgate.admin.clustering import NodeList, NodesFound
from trustgate.admin.commands import (
    Admin,
    AnchorStatus,
    ArchiveFound,
    ArchiveList,
    Command,
    LogStatus,
    PassportList,
    ServerStatus,
    Status,
    TargetStatus,
)
from trustgate.admin.money import PaymentCheck, PaymentFinding, PriceCheck
from trustgate.admin.subscriptions import NotifyList, SubscriberState
from trustgate.cli import render
from trustgate.cli.context import Session, open_here, remote_admin, socket_answers
from trustgate.cli.version import versions
from trustgate.errors import TrustGateError
from trustgate.net.addresses import is_loopback
from trustgate.notify.disk import disk_space
from trustgate.settings import BUILTIN_SCHEME, RemoteServer, Settings, UpstreamSettings, remote_server
from trustgate.types import Passport

R = TypeVar("R")

_UPSTREAM_TIMEOUT_S = 5.0
#: Files from further ahead than this mean that the clock was set back, seconds.
_CLOCK_SLACK_S = 60
#: 2026-01-01: this program is younger than any earlier time.
_CLOCK_LEAST_S = 1_767_225_600
_MEND_UPSTREAM = "Start that LLM server, or name another: trustgate serve --upstream URL"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found; ``hint`` is how to fix it."""

    name: str
    status: Literal["ok", "warn", "fail"]
    message: str
    hint: str | None = None


def check_everything(session: Session) -> Iterator[Finding]:
    """Yields what is found, as it is found: a server that does not answer takes seconds."""
    yield _versions()
    try:
        remote = remote_server()
        settings = session.settings()
    except TrustGateError as error:
        yield _failed("settings", error)
        return
    if remote is not None:
        yield from _remote(remote)
        return
    yield _ok("settings", f"read from {settings.config_file}" if settings.config_file.exists() else "the defaults")
    yield _home(settings)
    yield _disk(settings)
    yield _clock(settings)
    yield from _parts(settings)


def _ok(name: str, message: str) -> Finding:
    return Finding(name=name, status="ok", message=message)


def _warn(name: str, message: str, hint: str) -> Finding:
    return Finding(name=name, status="warn", message=message, hint=hint)


def _fail(name: str, message: str, hint: str | None) -> Finding:
    return Finding(name=name, status="fail", message=message, hint=hint)


def _failed(name: str, error: TrustGateError) -> Finding:
    return _fail(name, error.message, error.hint)


def _versions() -> Finding:
    found = versions()
    return _ok("versions", f"trustgate {found['trustgate']}, python {found['python']}, duckdb {found['duckdb']}")


# this machine


def _home(settings: Settings) -> Finding:
    home = settings.home
    try:
        mode = home.stat().st_mode
    except FileNotFoundError:
        return _warn("home", f"{home} does not exist yet", "trustgate serve creates it.")
    except OSError as error:
        return _fail("home", f"{home} cannot be read: {error.strerror}", "Choose another folder with --home.")
    if not stat.S_ISDIR(mode):
        return _fail("home", f"{home} is not a folder", "Choose another one with --home.")
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return _fail("home", f"{home} cannot be written by this user", f"See who owns it: ls -ld {home}")
    if mode & 0o022:
        return _fail("home", f"{home} can be changed by other users", f"chmod 700 {home}")
    if mode & 0o055:
        return _warn("home", f"{home} can be read by other users", f"chmod 700 {home}")
    return _ok("home", str(home))


def _disk(settings: Settings) -> Finding:
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    try:
        space = disk_space(place)
    except OSError as error:
        return _fail("disk", f"the free space of {place} cannot be read: {error.strerror}", None)
    message = f"{render.size(space.free_bytes)} free"
    hint = f"Free some space on the disk of {place}; without any, receipts cannot be stored and requests are refused."
    if space.state == "critical":
        return _fail("disk", message, hint)
    return _warn("disk", message, hint) if space.state == "low" else _ok("disk", message)


def _clock(settings: Settings) -> Finding:
    now_s = time.time()
    shown = render.instant_utc(int(now_s * 1_000_000))
    hint = "Set the clock, and keep it with NTP: timedatectl set-ntp true"
    if now_s < _CLOCK_LEAST_S:
        return _fail("clock", f"it reads {shown}, which is in the past", hint)
    with contextlib.suppress(OSError):
        ahead_s = settings.database.stat().st_mtime - now_s
        if ahead_s > _CLOCK_SLACK_S:
            return _fail("clock", f"it reads {shown}, {ahead_s:,.0f} s before the database was last written", hint)
    return _ok("clock", shown)


def _parts(settings: Settings) -> Iterator[Finding]:
    """Yields the server and what it works with; or, where none runs, what it would find."""
    if not is_loopback(settings.serve.host) and settings.metrics.key_env is None:
        yield _warn(
            "metrics",
            f"/metrics is open to every client that reaches {settings.serve.host}",
            "Set metrics.key_env to the name of an environment variable with the key that scrapers send.",
        )
    try:
        running = socket_answers(settings)
    except TrustGateError as error:
        yield _failed("server", error)
        return
    if running:
        yield from _running(settings)
    else:
        yield from _not_running(settings)


# with a running server


def _running(settings: Settings) -> Iterator[Finding]:
    from trustgate.admin.remote import RemoteAdmin

    admin = RemoteAdmin.over_socket(settings.socket)
    try:
        status = _ask(admin, Status())
        passports = _ask(admin, PassportList())
        log = _ask(admin, AnchorStatus())
        archives = _ask(admin, ArchiveList())
        payments = _ask(admin, PaymentCheck())
        prices = _ask(admin, PriceCheck())
        subscribers = _ask(admin, NotifyList())
        nodes = _ask(admin, NodeList())
    except TrustGateError as error:
        yield _failed("server", error)
        return
    yield _server(status)
    yield from _nodes(nodes)
    yield _ok("database", f"open in the server (process {status.pid}), {render.number(status.last_seq)} receipts")
    yield from _amiss(status)
    yield from _archives(archives)
    yield _journal(settings, status.pending)
    yield _anchored(log)
    yield from _keys(settings)
    yield from map(_target, status.targets)
    yield from _credentials(settings, passports, running=True)
    yield from map(_price, prices)
    yield from map(_payment, payments)
    yield from map(_subscriber, subscribers)


def _server(status: ServerStatus) -> Finding:
    since = render.instant_utc(status.started_us)
    message = f"runs at {status.address} as process {status.pid} since {since}, {status.active_requests} requests now"
    mine = versions()["trustgate"]
    if status.version != mine:
        return _warn("server", f"{message}; its version is {status.version}, this one {mine}", "Restart the server.")
    return _ok("server", message)


def _nodes(found: NodesFound) -> Iterator[Finding]:
    """Yields what is wrong with the processes that serve the same Postgres database."""
    if found.nodes is None:
        return
    for finding in found.findings:
        yield _warn("nodes", finding, "trustgate node list")
    if not found.findings:
        yield _ok("nodes", ", ".join(f"{node.address} on {node.host}" for node in found.nodes))


def _anchored(log: LogStatus) -> Finding:
    waiting = log.tree_size - log.anchored_size
    message = f"{log.origin}: {render.number(log.tree_size)} receipts, {render.number(waiting)} not anchored"
    if log.problem:
        return _warn("log", f"{message}; the schedule ({log.schedule}) fails: {log.problem}", "trustgate anchor flush")
    if log.planned:
        return _warn("log", f"{message}; an anchor was sent and is not final yet", "trustgate anchor flush")
    return _ok("log", f"{message}{f'; anchored {log.schedule}' if log.schedule else ''}")


def _archives(archives: Sequence[ArchiveFound]) -> Iterator[Finding]:
    """Yields what is wrong with archive files: missing, or of another size. ``trustgate archive`` reads them all."""
    for found in archives:
        if found.problem:
            file = found.file
            yield _fail(
                "archive",
                f"{found.path} is {found.problem}; it holds receipts {render.number(file.first_seq)} to "
                f"{render.number(file.last_seq)}",
                "Put a copy back there, for instance out of a backup. Until then they are not found; all else works.",
            )
    if archives and not any(found.problem for found in archives):
        count = archives[-1].file.last_seq
        yield _ok("archive", f"{render.number(count)} receipts in {len(archives)} files; trustgate archive reads them")


def _keys(settings: Settings) -> Iterator[Finding]:
    """Yields whether others on this machine could sign for the log, or spend what anchors and payments are paid
    with.
    """
    for path in (settings.log_key, settings.anchor_keypair, settings.payment_keypair):
        with contextlib.suppress(OSError):
            if path.stat().st_mode & 0o077:
                yield _fail("keys", f"{path} can be read by other users of this machine", f"chmod 600 {path}")


def _target(target: TargetStatus) -> Finding:
    detail = f" ({target.detail})" if target.detail else ""
    if target.healthy:
        return _ok("upstream", f"{target.base_url}{detail}")
    if target.healthy is None:
        return _warn("upstream", f"{target.base_url} has not been probed yet{detail}", "Try again in a few seconds.")
    return _unreachable(target.base_url, target.detail)


def _remote(remote: RemoteServer) -> Iterator[Finding]:
    try:
        status = _ask(remote_admin(remote), Status())
        payments = _ask(remote_admin(remote), PaymentCheck())
    except TrustGateError as error:
        yield _failed("server", error)
        return
    yield _server(status)
    yield from map(_target, status.targets)
    yield from map(_payment, payments)


def _price(found: PaymentFinding) -> Finding:
    return Finding(name="prices", status=found.status, message=found.message, hint=found.hint)


def _payment(found: PaymentFinding) -> Finding:
    return Finding(name="payment", status=found.status, message=found.message, hint=found.hint)


def _subscriber(subscriber: SubscriberState) -> Finding:
    """Whether notices arrive: one that is tried again, or was given up, did not."""
    if subscriber.retrying or subscriber.failed:
        message = f"{subscriber.name}: {subscriber.retrying} are tried again, {subscriber.failed} were given up"
        hint = f"trustgate notify show {shlex.quote(subscriber.name)}"
        return _warn("notices", f"{message}; the last attempt: {subscriber.detail}", hint)
    return _ok("notices", f"{subscriber.name} is told of {', '.join(subscriber.kinds)}")


def _ask(admin: Admin, command: Command[R]) -> R:
    return asyncio.run(_execute(admin, command))


async def _execute(admin: Admin, command: Command[R]) -> R:
    return await admin.execute(command)


# without one


def _not_running(settings: Settings) -> Iterator[Finding]:
    yield _no_server(settings)
    yield _port(settings)
    passports: tuple[Passport, ...] = ()
    payments: tuple[PaymentFinding, ...] = ()
    if settings.may_have_database:
        try:
            passports, payments, findings = asyncio.run(_database(settings))
            yield from findings
        except TrustGateError as error:
            yield _failed("database", error)
    else:
        yield _warn("database", f"{settings.database} does not exist yet", "trustgate serve creates it.")
    yield _journal(settings, 0)
    yield from _keys(settings)
    yield _upstream(settings)
    yield from _credentials(settings, passports, running=False)
    yield from map(_payment, payments)


def _no_server(settings: Settings) -> Finding:
    stale = " (a stale socket is left; the next start replaces it)" if settings.socket.exists() else ""
    return _warn("server", f"none runs on this home folder{stale}", "trustgate serve")


def _port(settings: Settings) -> Finding:
    host, port = settings.serve.host, settings.serve.port
    place = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        hint = f"See what uses it (ss -ltnp 'sport = :{port}'), or serve on another: --port {port + 1}"
        return _fail("port", f"{place} cannot be used: {error.strerror}", hint)
    return _ok("port", f"{place} is free")


async def _database(settings: Settings) -> tuple[tuple[Passport, ...], tuple[PaymentFinding, ...], list[Finding]]:
    admin = await open_here(settings)
    try:
        status = await admin.execute(Status())
        passports = await admin.execute(PassportList())
        prices = [_price(found) for found in await admin.execute(PriceCheck())]
        payments = await admin.execute(PaymentCheck())
        archives = await admin.execute(ArchiveList())
    finally:
        await admin.close()
    url = settings.store.url
    place = f"on Postgres, {url.partition('?')[0]}" if url else render.size(settings.database.stat().st_size)
    opens = _ok("database", f"opens; {render.number(status.last_seq)} receipts, {place}")
    return passports, payments, [opens, *_ids(settings, status), *_amiss(status), *_archives(archives), *prices]


def _ids(settings: Settings, status: ServerStatus) -> Iterator[Finding]:
    """Yields whether the file of upstreams' ids is missing, as a start would tell it."""
    if status.last_seq and not settings.handles_file.exists():
        yield _warn(
            "files",
            f"{settings.handles_file} is missing: files, batches and responses that upstreams made before now are not "
            "found any more",
            "Put it back from a backup before the next start, to find them.",
        )


def _amiss(status: ServerStatus) -> Iterator[Finding]:
    """What was missing at the start and was mended, and what the database cannot hold."""
    for note in status.notes:
        yield _warn("files", note, "Find out what happened to the file. Nothing is to be done here; a restart forgets.")
    if status.set_aside:
        yield _warn(
            "receipts",
            f"the database cannot hold {status.set_aside} of them as they are: they are set aside, and what does not "
            "fit counts as nothing",
            "trustgate receipt mend",
        )


def _journal(settings: Settings, pending: int) -> Finding:
    folder = settings.journal_folder
    if not folder.exists():
        return _ok("journal", "none yet")
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return _fail("journal", f"{folder} cannot be written by this user", f"See who owns it: ls -ld {folder}")
    files = [path for path in folder.iterdir() if path.is_file()]
    size = render.size(sum(_size(path) for path in files))
    waiting = f", {render.number(pending)} receipts wait for the database" if pending else ""
    return _ok("journal", f"{size} in {len(files)} files{waiting}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # the server has just done with it


def _upstream(settings: Settings) -> Finding:
    """Ask the default upstream for its models, as the server's health probe does."""
    url = settings.upstream.url
    if url.startswith(BUILTIN_SCHEME):
        return _ok("upstream", f"{url}, which is built in")
    try:
        key = settings.upstream_key()
    except TrustGateError as error:
        return _failed("upstream", error)
    try:
        status = _get_status(f"{url.rstrip('/')}/models", key)
    except (OSError, http.client.HTTPException) as error:
        return _unreachable(url, getattr(error, "strerror", None) or str(error) or type(error).__name__)
    # LiteLLM without a database answers a request without a key with status 500.
    keyless_litellm = status == http.HTTPStatus.INTERNAL_SERVER_ERROR and key is None
    if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN) or keyless_litellm:
        hint = "Name the environment variable with its key: --upstream-key-env NAME, or key_env under [upstream]."
        return _fail("upstream", f"{url} refuses this key (status {status})" if key else f"{url} wants a key", hint)
    if status != http.HTTPStatus.OK:
        return _warn(
            "upstream",
            f"{url}/models answers with status {status}",
            "Is that the base URL of an OpenAI-compatible API?",
        )
    return _ok("upstream", f"{url} answers")


def _unreachable(url: str, reason: str) -> Finding:
    message = f"{url} does not answer: {reason.rstrip('.') or 'the reason is not known'}"
    if url == UpstreamSettings().url:
        # No setting names one.
        return _warn(
            "upstream",
            f"{message}; only the built-in trustgate/echo can serve",
            "Start LiteLLM there, or name your LLM server: trustgate serve --upstream URL",
        )
    return _fail("upstream", message, _MEND_UPSTREAM)


def _get_status(url: str, key: str | None) -> int:
    """Returns the status that a GET of ``url`` is answered with. Raises ``OSError`` or ``HTTPException``."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=_UPSTREAM_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=_UPSTREAM_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", parts.path, headers={} if key is None else {"authorization": f"Bearer {key}"})
        return connection.getresponse().status


def _credentials(settings: Settings, passports: tuple[Passport, ...], *, running: bool) -> Iterator[Finding]:
    """Yields whether the key that each passport names is there. A running server has an environment of its own."""
    named = [p for p in passports if p.credential_env is not None or p.credential_file is not None]
    good = 0
    for passport in named:
        try:
            settings.read_credential(passport)
            good += 1
        except TrustGateError as error:
            message = f"{passport.slug}: {error.message}"
            if running and passport.credential_env is not None:
                yield _warn("credential", f"{message} At least not here; the server may have it.", error.hint or "")
            else:
                yield _fail("credential", message, error.hint)
    if named and good == len(named):
        yield _ok("credential", f"all {good} passports that name a key have it")
