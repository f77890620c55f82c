"""Work that goes on upstream after its request has ended: batches, and responses in the background.

What a batch may use at most stays held, on quota and balance, until its end is seen. Its client may never ask for it
again; so the gateway itself checks what is not settled, at an interval, with the credential of the target that has it,
and charges what it cost when that is known. Such a charge has a receipt like any other. ``path.work_holds`` holds what
they may use, and has the end charged once.

Owns the interval, and how the use of a batch is read from its results where the upstream does not report the sum.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from trustgate import __version__
from trustgate.access.budgets import Drawer
from trustgate.access.directory import Caller, Directory
from trustgate.errors import TrustGateError, Unavailable, UpstreamRefused
from trustgate.gateway.api.endpoints import ENDPOINTS, Call
from trustgate.gateway.api.object_accounting import GOES_ON, less, result_files, tells_all
from trustgate.gateway.api.object_ids import BATCHES, Kind, ObjectId, ObjectIds
from trustgate.gateway.path.accounting import Account, Accounting, Request
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.forwarding import ANTHROPIC_VERSION
from trustgate.gateway.path.payment_step import PaymentStep
from trustgate.gateway.path.work_holds import WorkHolds, WorkOwner
from trustgate.models.catalog import Catalog
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.counts import added
from trustgate.models.metering.events import read_object
from trustgate.models.metering.whole import read_answer, read_nothing_used
from trustgate.models.upstream.answer import Answer
from trustgate.models.upstream.client import Outgoing, UpstreamClient
from trustgate.models.upstream.targets import Target, Targets
from trustgate.tasks import Deferred
from trustgate.types import Usage

_logger = logging.getLogger("trustgate.gateway")

#: How long one look may take, seconds.
_LOOK_S = 60.0
#: The longest line of a batch's results that is read, bytes.
_MOST_LINE_BYTES = 64 * 1024 * 1024
_LOOKED_AFTER: tuple[Kind, ...] = (*BATCHES, "response")
#: What it is charged as: a look at the object.
_LOOKS = {
    endpoint.names: endpoint
    for endpoint in ENDPOINTS
    if endpoint.names in _LOOKED_AFTER and endpoint.method == "GET" and endpoint.upstream_path.endswith("/{id}")
}


class BackgroundWork:
    def __init__(
        self,
        handles: ObjectIds,
        *,
        directory: Directory,
        catalog: Catalog,
        targets: Targets,
        accounting: Accounting,
        holds: WorkHolds,
        payment_step: PaymentStep,
        upstream: Callable[[], UpstreamClient],
    ) -> None:
        """``upstream``: returns the client, which a reload replaces."""
        self._handles = handles
        self._directory = directory
        self._catalog = catalog
        self._targets = targets
        self._accounting = accounting
        self._holds = holds
        self._payment_step = payment_step
        self._upstream = upstream
        self._soon = asyncio.Event()
        if holds.begins_anew:
            self._hold_all()

    # holds

    async def take_up(self) -> None:
        """Hold what is not settled yet, whichever process began it: at the start."""
        for held in self._hold_all():
            await held

    def _hold_all(self) -> list[Deferred[None]]:
        held = [self._hold(handle) for kind in BATCHES for handle in self._handles.unsettled(kind)]
        return [each for each in held if each is not None]

    def begin(self, handle: ObjectId) -> None:
        """Hold what the work may still use."""
        _ = self._hold(handle)

    def _hold(self, handle: ObjectId) -> Deferred[None] | None:
        owner = self._directory.owner(handle.tenant, handle.key)
        drawer = None if owner is None else self._drawer(owner, handle)
        return self._holds.begin(handle, WorkOwner(owner, self._directory.key_account_id(handle.key), drawer))

    def end(self, handle: ObjectId) -> None:
        """Give it back: what was used is being charged."""
        self._holds.end(handle)

    def look_soon(self) -> None:
        self._soon.set()

    # looking

    async def run(self, interval_s: Callable[[], float]) -> None:
        """For ever: look at what is not settled, each time ``interval_s()`` seconds have passed."""
        while True:
            try:
                async with asyncio.timeout(interval_s()):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            try:
                await self._handles.compact()
            except OSError as error:
                _logger.warning("the file of ids cannot be written anew: %s", error.strerror)
            # On limits, too, that have come since.
            with contextlib.suppress(TrustGateError):
                await self.take_up()
            for kind in _LOOKED_AFTER:
                for handle in self._handles.unsettled(kind):
                    try:
                        await self._look(handle)
                    except Exception:
                        _logger.exception("looking at a %s failed", kind)

    async def _look(self, handle: ObjectId) -> None:
        """Ask the upstream how far it is; charge what is at its end."""
        try:
            async with asyncio.timeout(_LOOK_S):
                owner = self._directory.owner(handle.tenant, handle.key)
                profile = None if owner is None else owner.profile
                target = self._targets.made_by(handle.passport, handle.upstream_model, "background", profile)
                body = await self._get(target, _path_of(handle))
                _, status = read_object(body)
                if not status or status in GOES_ON:
                    return
                usage = await self._usage(handle, target, body)
        except UpstreamRefused as error:
            if error.status != _NOT_FOUND:
                _logger.info("the %s of tenant %s cannot be looked at: %s", handle.kind, handle.tenant, error.message)
                return
            # A server that does not know it any more has no results of it either.
            _logger.warning("the %s %s of tenant %s is gone upstream", handle.kind, handle.id, handle.tenant)
            usage, body = Usage(), b""
        except (TrustGateError, TimeoutError) as error:
            _logger.info("the %s of tenant %s cannot be looked at: %s", handle.kind, handle.tenant, error)
            return
        await self._charge(handle, target, body, usage)

    async def _charge(self, handle: ObjectId, target: Target, body: bytes, usage: Usage) -> None:
        """Settle it, unless a request has done so meanwhile: hold back, quota and balance charged, receipt written."""
        now = self._handles.current(handle)
        owner = self._directory.owner(handle.tenant, handle.key)
        if now is None or now.owed < 0 or owner is None:
            return
        self.end(now)
        call = Call(model=now.model, choices=0, end_user=now.end_user)
        drawer = self._drawer(owner, now)
        request = Request(Arrival.of({"headers": ()}), _LOOKS[now.kind], owner, call, b"", drawer.models)
        account = Account(self._accounting, request, None, self._payment_step.owing(request))
        account.target, account.work = target, now
        account.sent(body)
        account.close("complete", status=200, usage=less(usage, now.owed))
        await account.kept()

    def _drawer(self, owner: Caller, handle: ObjectId) -> Drawer:
        """Returns who draws on budgets with the work."""
        resolved = self._catalog.resolve(handle.model, owner.profile) if handle.model else None
        models = () if resolved is None else resolved.all_names(handle.model)
        return Drawer(owner.tenant.id, owner.key.account_id, owner.plan.name, models, handle.end_user)

    async def _usage(self, handle: ObjectId, target: Target, body: bytes) -> Usage:
        """Returns what it used in all: as the upstream sums it up, or by its results.

        Where there are neither: the estimate of its lines.
        """
        reported = read_answer(body)
        if handle.kind not in BATCHES:
            return reported.usage_or_estimate(handle.owed)
        if reported.usage is not None and tells_all(reported.usage):
            return reported.usage
        sums, work = Usage(), handle.work
        prompt_estimate = 0 if work is None else work.prompt_tokens // max(work.lines, 1)
        if handle.kind == "message_batch":
            files = [f"{_path_of(handle)}/results"]
        else:
            files = [f"/files/{file_id}/content" for file_id in result_files(body)]
        for path in files:
            answer = await self._fetch(target, path)
            try:
                async for line in _lines(answer):
                    sums = _plus(sums, line, prompt_estimate)
            finally:
                await answer.close()
        if sums.total_tokens or not files:
            return sums
        if work is None:
            return sums
        done = _completed(body)
        share = min(done, work.lines)
        return Usage(
            prompt_tokens=work.prompt_tokens * share // max(work.lines, 1),
            completion_tokens=work.completion_tokens * share // max(work.lines, 1),
            estimated=True,
        )

    async def _get(self, target: Target, path: str) -> bytes:
        answer = await self._fetch(target, path, is_document=True)
        await answer.close()
        return answer.body

    async def _fetch(self, target: Target, path: str, *, is_document: bool = False) -> Answer:
        headers = [("accept-encoding", "identity"), ("user-agent", f"trustgate/{__version__}")]
        is_anthropic = path.startswith("/messages/")
        asked = Outgoing(
            method="GET",
            path=path,
            headers=[*headers, ("anthropic-version", ANTHROPIC_VERSION)] if is_anthropic else headers,
            anthropic=is_anthropic,
            body_for=lambda _: b"",
            retries=False,
            takes_any=not is_document,
            may_be_empty=True,
            is_look=True,
            meter=read_nothing_used,
            stream_meter=StreamMeter,
        )
        return await self._upstream().fetch([target], asked, deadline=None)


_FOLDER: dict[Kind, str] = {"batch": "batches", "message_batch": "messages/batches", "response": "responses"}
_NOT_FOUND = 404


def _path_of(handle: ObjectId) -> str:
    return f"/{_FOLDER[handle.kind]}/{handle.id}"


class _Counts(msgspec.Struct):
    completed: int = 0
    #: Anthropic's word for it.
    succeeded: int = 0


class _Batch(msgspec.Struct):
    request_counts: _Counts | None = None


def _completed(body: bytes) -> int:
    try:
        counts = msgspec.json.decode(body, type=_Batch).request_counts
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return max(0, counts.completed, counts.succeeded) if counts is not None else 0


async def _lines(answer: Answer) -> AsyncIterator[bytes]:
    """The lines of a file, as they come. Raises ``Unavailable`` for a line that is too long."""
    if answer.chunks is None:
        for line in answer.body.split(b"\n"):
            yield line
        return
    rest: list[bytes] = []
    size = 0
    async for chunk in answer.chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        size += len(first)
        if size > _MOST_LINE_BYTES:
            raise Unavailable("a line of the results is too long")
        for line in others:
            yield b"".join(rest)
            rest, size = [line], len(line)
    yield b"".join(rest)


class _Response(msgspec.Struct):
    body: msgspec.Raw = msgspec.Raw()


class _BatchedAnswer(msgspec.Struct):
    message: msgspec.Raw = msgspec.Raw()


class _Result(msgspec.Struct):
    response: _Response | None = None
    #: Of a batch of messages.
    result: _BatchedAnswer | None = None


def _plus(sums: Usage, line: bytes, prompt_estimate: int) -> Usage:
    """Returns the sum with what one line of results used; of a line that failed nothing.

    ``prompt_estimate``: what counts for the prompt of an answer without usage.
    """
    try:
        result: Any = msgspec.json.decode(line, type=_Result) if line.strip() else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return sums
    if result is None or (result.response is None and result.result is None):
        return sums
    answer = result.result.message if result.response is None else result.response.body
    reported = read_answer(bytes(answer))
    if reported.failure is not None or (reported.usage is None and not reported.completion_estimate):
        return sums
    return added(sums, reported.usage_or_estimate(prompt_estimate))
