"""Probing upstreams: whether each answers, and which models it has. Runs beside the requests, never in one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from trustgate.errors import TrustGateError
from trustgate.models.upstream.client import UpstreamClient, is_credential_refusal
from trustgate.models.upstream.targets import Targets, Upstream
from trustgate.settings import BUILTIN_SCHEME

_logger = logging.getLogger("trustgate.models")

#: An upstream's own list is believed up to here.
_MODELS_MOST = 10_000


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model]


_decode = msgspec.json.Decoder(_ModelList).decode


async def probe_for_ever(
    targets: Targets, client: Callable[[], UpstreamClient], every_s: Callable[[], float], soon: asyncio.Event
) -> None:
    """Probe every upstream that a passport leads to: at once, every so many seconds, and when ``soon`` is set."""
    while True:
        await probe_all(targets, client())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(soon.wait(), every_s())
        soon.clear()


async def probe_all(targets: Targets, client: UpstreamClient) -> None:
    async def probe_one(upstream: Upstream) -> None:
        was = upstream.healthy
        await probe(upstream, client)
        if upstream.healthy is not was:
            level = logging.INFO if upstream.healthy else logging.WARNING
            _logger.log(level, "upstream %s: %s", upstream.base_url, upstream.detail)

    due = []
    for passport, upstream in targets.upstreams():
        if upstream.base_url.startswith(BUILTIN_SCHEME):
            # It cannot be away, and to ask it would import what most gateways never use.
            upstream.healthy, upstream.detail = True, "built in"
            continue
        # In a thread: the credential may be in a file on a slow disk.
        if await asyncio.to_thread(targets.refresh_credential, passport, upstream):
            due.append(probe_one(upstream))
    await asyncio.gather(*due)


async def probe(upstream: Upstream, client: UpstreamClient) -> None:
    """Ask one upstream for its models and note what it says. Never raises."""
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
    try:
        upstream.models = tuple(model.id for model in _decode(body).data[:_MODELS_MOST])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        upstream.models = ()
    upstream.healthy, upstream.detail = True, f"reachable, {len(upstream.models)} models"
