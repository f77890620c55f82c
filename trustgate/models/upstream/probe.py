"""Probing upstreams: whether each answers, and which models it has. Runs beside the requests, never in one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from trustgate.errors import TrustGateError
from trustgate.models.upstream.client import UpstreamClient
from trustgate.models.upstream.failures import is_credential_refusal
from trustgate.models.upstream.targets import Targets, Upstream
from trustgate.settings import BUILTIN_SCHEME

_logger = logging.getLogger("trustgate.models")

#: An upstream's own list is believed up to here.
_MODELS_MOST = 10_000


async def probe_for_ever(
    targets: Targets, client: Callable[[], UpstreamClient], every_s: Callable[[], float], soon: asyncio.Event
) -> None:
    """Probe every upstream that a passport leads to: at once, every so many seconds, and when ``soon`` is set."""
    while True:
        await probe_all(targets, client())
        with contextlib.suppress(TimeoutError):
            # Not wait_for, which in Python 3.11 loses a cancellation that comes as the event is set.
            async with asyncio.timeout(every_s()):
                await soon.wait()
        soon.clear()


async def probe_all(targets: Targets, client: UpstreamClient) -> None:
    async def probe_one(upstream: Upstream) -> None:
        was = upstream.healthy
        await probe(upstream, client)
        if upstream.healthy is not was:
            if upstream.healthy:
                _logger.info("upstream %s: %s", upstream.base_url, upstream.detail)
            else:
                _logger.warning("upstream %s: %s What to do: trustgate doctor", upstream.base_url, upstream.detail)

    due = []
    for passport, upstream in targets.upstreams():
        if upstream.base_url.startswith(BUILTIN_SCHEME):
            # It cannot be away, and to ask it would import what most gateways never use.
            upstream.healthy, upstream.detail = True, "built in"
            continue
        # In a thread: the credential may be in a file on a slow disk.
        if await asyncio.to_thread(targets.refresh_credential, passport, upstream):
            due.append(probe_one(upstream))
    await asyncio.to_thread(targets.refresh_secrets)
    await asyncio.gather(*due)


async def probe(upstream: Upstream, client: UpstreamClient) -> None:
    """Ask one upstream for its models and note what it answers. Never raises."""
    try:
        status, body = await client.probe(upstream.base_url, upstream.credential)
    except TrustGateError as error:
        upstream.healthy, upstream.detail = False, error.message
        return
    if is_credential_refusal(status, body):
        upstream.healthy, upstream.detail = False, f"it refuses the gateway's credentials (status {status})"
        return
    if status >= 500:
        upstream.healthy, upstream.detail = False, f"it fails (status {status})"
        return
    # A server without a model list (404) is alive all the same.
    upstream.models = read_models(body)
    upstream.healthy, upstream.detail = True, f"reachable, {len(upstream.models)} models"


def read_models(body: bytes) -> tuple[str, ...]:
    """Returns the names in a list of models, as far as they can be read: never raises.

    The list may be bare or stand under ``data`` or ``models``; an entry may be an object with an ``id``, a ``name`` or
    a ``model``, or the name itself. Entries that are neither are left out.
    """
    try:
        listed = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    if isinstance(listed, dict):
        listed = next((listed[name] for name in ("data", "models") if isinstance(listed.get(name), list)), None)
    if not isinstance(listed, list):
        return ()
    names = (_name_of(entry) for entry in listed)
    return tuple(dict.fromkeys(name for name in names if name))[:_MODELS_MOST]


def _name_of(entry: object) -> str:
    if isinstance(entry, dict):
        entry = next((entry[name] for name in ("id", "name", "model") if isinstance(entry.get(name), str)), None)
    return entry if isinstance(entry, str) else ""
