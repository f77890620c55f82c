"""The checks of ``trustgate doctor``. Each looks at one thing, changes nothing, and reports how to fix what it finds.

A ``fail`` keeps the gateway from working or its books from being safe; a ``warn`` is worth knowing.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from trustgate.admin.clustering import NodeList
from trustgate.admin.commands import Admin, Command, ServerStatus, Status
from trustgate.admin.findings import (
    Finding,
    amiss_findings,
    archive_findings,
    disk_finding,
    fail,
    log_finding,
    node_findings,
    ok,
    payment_finding,
    price_finding,
    subscriber_finding,
    unreachable,
    upstream_finding,
    warn,
)
from trustgate.admin.log_commands import AnchorStatus, ArchiveList
from trustgate.admin.model_commands import PassportList
from trustgate.admin.money import PaymentCheck, PaymentFinding, PriceCheck
from trustgate.admin.profiling import ProfileList, ProfileState
from trustgate.admin.server_state import socket_answers
from trustgate.admin.subscriptions import NotifyList
from trustgate.cli import render
from trustgate.cli.context import Session, open_here, remote_admin
from trustgate.cli.version import versions
from trustgate.errors import TrustGateError
from trustgate.net.addresses import is_loopback
from trustgate.settings import (
    BUILTIN_SCHEME,
    RemoteServer,
    Settings,
    Traced,
    is_read_only,
    remote_server,
    trace_settings,
)
from trustgate.types import Passport

R = TypeVar("R")

_UPSTREAM_TIMEOUT_S = 5.0
#: Files from further ahead than this mean that the clock was set back, seconds.
_CLOCK_SLACK_S = 60
#: 2026-01-01: this program is younger than any earlier time.
_CLOCK_LEAST_S = 1_767_225_600


def check_everything(session: Session) -> Iterator[Finding]:
    """Yields what is found, as it is found: a server that does not answer takes seconds."""
    yield _versions()
    try:
        remote = remote_server()
        traced = trace_settings(session.home)
    except TrustGateError as error:
        yield _failed("settings", error)
        return
    settings = traced.settings
    if remote is not None:
        yield from _remote(remote)
        return
    yield _read_from(traced)
    yield _home(settings)
    yield disk_finding(settings)
    yield _clock(settings)
    yield from _parts(settings)


def _failed(name: str, error: TrustGateError) -> Finding:
    return fail(name, error.message, error.hint)


def _versions() -> Finding:
    found = versions()
    return ok("versions", f"trustgate {found['trustgate']}, python {found['python']}, duckdb {found['duckdb']}")


# this machine


def _read_from(traced: Traced) -> Finding:
    file = traced.settings.config_file
    variables = sorted(source.place for source in traced.sources.values() if source.kind == "variable")
    places = [str(file)] if file.exists() else []
    if variables:
        places.append(f"the environment ({', '.join(variables)})")
    return ok("settings", f"read from {' and '.join(places)}" if places else "the defaults")


def _home(settings: Settings) -> Finding:
    home = settings.home
    try:
        mode = home.stat().st_mode
    except FileNotFoundError:
        return warn("home", f"{home} does not exist yet", "trustgate serve creates it.")
    except OSError as error:
        return fail("home", f"{home} cannot be read: {error.strerror}", "Choose another folder with --home.")
    if not stat.S_ISDIR(mode):
        return fail("home", f"{home} is not a folder", "Choose another one with --home.")
    if is_read_only(home):
        return fail("home", f"{home} is on a disk that is mounted read-only", "Mount it for writing.")
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return fail("home", f"{home} cannot be written by this user", f"See who owns it: ls -ld {home}")
    if mode & 0o022:
        return fail("home", f"{home} can be changed by other users", f"chmod 700 {home}")
    if mode & 0o055:
        return warn("home", f"{home} can be read by other users", f"chmod 700 {home}")
    return ok("home", str(home))


def _clock(settings: Settings) -> Finding:
    now_s = time.time()
    shown = render.instant_utc(int(now_s * 1_000_000))
    hint = "Set the clock, and keep it with NTP: timedatectl set-ntp true"
    if now_s < _CLOCK_LEAST_S:
        return fail("clock", f"it reads {shown}, which is in the past", hint)
    with contextlib.suppress(OSError):
        ahead_s = settings.database.stat().st_mtime - now_s
        if ahead_s > _CLOCK_SLACK_S:
            return fail("clock", f"it reads {shown}, {ahead_s:,.0f} s before the database was last written", hint)
    return ok("clock", shown)


def _parts(settings: Settings) -> Iterator[Finding]:
    """Yields the server and what it works with; or, where none runs, what it would find."""
    if not is_loopback(settings.serve.host) and settings.metrics.key_env is None:
        yield warn(
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
        profiles = _ask(admin, ProfileList())
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
    yield from node_findings(nodes)
    yield ok("database", f"open in the server (process {status.pid}), {render.counted(status.last_seq, 'receipt')}")
    yield from amiss_findings(status)
    yield from archive_findings(archives)
    yield _journal(settings, status.pending)
    yield log_finding(log)
    yield from _keys(settings)
    yield from map(upstream_finding, status.targets)
    yield from _credentials(settings, (*passports, *_of_profiles(profiles)), running=True)
    yield from map(price_finding, prices)
    yield from map(payment_finding, payments)
    yield from map(subscriber_finding, subscribers)


def _server(status: ServerStatus) -> Finding:
    since = render.instant_utc(status.started_us)
    processes = f"process {status.pid}"
    if status.workers:
        ids, wanted = [str(each.pid) for each in status.workers], max(status.workers_wanted, len(status.workers))
        count = str(wanted) if len(ids) == wanted else f"{len(ids)} of {wanted}"
        processes = f"{count} workers ({render.names(ids)})"
    running = render.counted(status.active_requests, "request")
    message = f"runs at {status.address} as {processes} since {since}, {running} now"
    mine = versions()["trustgate"]
    if status.version != mine:
        return warn("server", f"{message}; its version is {status.version}, this one {mine}", "Restart the server.")
    if len(status.workers) < status.workers_wanted:
        return warn(
            "server",
            message,
            "Wait a moment: workers may be starting. If this lasts, a worker is stopped (state T in ps), and its "
            "connections hang: end it with kill -9, and it is replaced.",
        )
    return ok("server", message)


def _keys(settings: Settings) -> Iterator[Finding]:
    """Yields whether others on this machine could sign for the log, or spend what anchors and payments are paid
    with.
    """
    for path in (settings.log_key, settings.anchor_keypair, settings.payment_keypair):
        with contextlib.suppress(OSError):
            if path.stat().st_mode & 0o077:
                yield fail("keys", f"{path} can be read by other users of this machine", f"chmod 600 {path}")


def _remote(remote: RemoteServer) -> Iterator[Finding]:
    try:
        status = _ask(remote_admin(remote), Status())
        payments = _ask(remote_admin(remote), PaymentCheck())
    except TrustGateError as error:
        yield _failed("server", error)
        return
    yield _server(status)
    yield from map(upstream_finding, status.targets)
    yield from map(payment_finding, payments)


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
        yield warn("database", f"{settings.database} does not exist yet", "trustgate serve creates it.")
    yield _journal(settings, 0)
    yield from _keys(settings)
    yield _upstream(settings)
    yield from _credentials(settings, passports, running=False)
    yield from map(payment_finding, payments)


def _no_server(settings: Settings) -> Finding:
    stale = " (a stale socket is left; the next start replaces it)" if settings.socket.exists() else ""
    return warn("server", f"none runs on this home folder{stale}", "trustgate serve")


def _port(settings: Settings) -> Finding:
    from trustgate.http.sockets import why_not_free

    host, port = settings.serve.host, settings.serve.port
    place = f"{host}:{port}"
    fault = why_not_free(host, port)
    if fault is not None:
        hint = f"See what uses it (ss -ltnp 'sport = :{port}'), or serve on another: --port {port + 1}"
        return fail("port", f"{place} cannot be used: {fault}", hint)
    return ok("port", f"{place} is free")


async def _database(settings: Settings) -> tuple[tuple[Passport, ...], tuple[PaymentFinding, ...], list[Finding]]:
    admin = await open_here(settings)
    try:
        status = await admin.execute(Status())
        passports = await admin.execute(PassportList())
        profiles = await admin.execute(ProfileList())
        prices = [price_finding(found) for found in await admin.execute(PriceCheck())]
        payments = await admin.execute(PaymentCheck())
        archives = await admin.execute(ArchiveList())
    finally:
        await admin.close()
    url = settings.store.url
    place = f"on Postgres, {url.partition('?')[0]}" if url else render.size(settings.database.stat().st_size)
    opens = ok("database", f"opens; {render.counted(status.last_seq, 'receipt')}, {place}")
    findings = [*_ids(settings, status), *amiss_findings(status), *archive_findings(archives), *prices]
    return (*passports, *_of_profiles(profiles)), payments, [opens, *findings]


def _ids(settings: Settings, status: ServerStatus) -> Iterator[Finding]:
    """Yields whether the file of upstreams' ids is missing, as a start would tell it."""
    if status.last_seq and not settings.handles_file.exists():
        yield warn(
            "files",
            f"{settings.handles_file} is missing: files, batches and responses that upstreams made before now are not "
            "found any more",
            "Put it back from a backup before the next start, to find them.",
        )


def _journal(settings: Settings, pending: int) -> Finding:
    folder = settings.journal_folder
    if not folder.exists():
        return ok("journal", "none yet")
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return fail("journal", f"{folder} cannot be written by this user", f"See who owns it: ls -ld {folder}")
    files = [path for path in folder.iterdir() if path.is_file()]
    size = render.size(sum(_size(path) for path in files))
    waiting = f", {render.number(pending)} receipts wait for the database" if pending else ""
    return ok("journal", f"{size} in {render.counted(len(files), 'file')}{waiting}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # the server has just done with it


def _upstream(settings: Settings) -> Finding:
    """Ask the default upstream for its models, as the server's health probe does."""
    url = settings.upstream.url
    if url.startswith(BUILTIN_SCHEME):
        return ok("upstream", f"{url}, which is built in")
    try:
        key = settings.upstream_key()
    except TrustGateError as error:
        return _failed("upstream", error)
    try:
        status = _get_status(f"{url.rstrip('/')}/models", key)
    except (OSError, http.client.HTTPException) as error:
        return unreachable(url, getattr(error, "strerror", None) or str(error) or type(error).__name__)
    # LiteLLM without a database answers a request without a key with status 500.
    keyless_litellm = status == http.HTTPStatus.INTERNAL_SERVER_ERROR and key is None
    if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN) or keyless_litellm:
        hint = "Name the environment variable with its key: --upstream-key-env NAME, or key_env under [upstream]."
        return fail("upstream", f"{url} refuses this key (status {status})" if key else f"{url} wants a key", hint)
    if status != http.HTTPStatus.OK:
        return warn(
            "upstream",
            f"{url}/models answers with status {status}",
            "Is that the base URL of an OpenAI-compatible API?",
        )
    return ok("upstream", f"{url} answers")


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
                yield warn("credential", f"{message} At least not here; the server may have it.", error.hint or "")
            else:
                yield fail("credential", message, error.hint)
    if named and good == len(named):
        yield ok("credential", f"all {good} keys that passports and profiles name are there")


def _of_profiles(profiles: tuple[ProfileState, ...]) -> Iterator[Passport]:
    """Yields where profiles have secrets: each as a passport with such a credential, called as people know it."""
    for each in profiles:
        whose = f"the profile of the {each.kind} {each.owner}"
        for slug, own in each.rules.credentials.items():
            yield _place(f"{whose}, key for {slug}", own.env, own.file)
        for name, value in each.rules.headers.items():
            yield _place(f"{whose}, header {name}", value.env, value.file)


def _place(name: str, env: str | None, file: str | None) -> Passport:
    return Passport(id="", slug=name, api_model_id="", credential_env=env, credential_file=file)
