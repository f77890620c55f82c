"""Work that goes on upstream after its request has ended: batches, and responses in the background.

What they may use at most stays held, on quota and balance, until their end is seen. Their client may never ask for
them again; so the gateway itself checks what is not settled, at an interval, with the credential of the target that has
it, and charges what it cost when that is known, at the price at which it was accepted. Such a charge has a receipt like
any other. ``path.work_holds`` holds what they may use, and has the end charged once.

Owns the interval, and which receipts charge an end: one for each step of the price that a batch's lines came to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

from trustgate import __version__
from trustgate.access.budget_reach import Drawer
from trustgate.access.directory import Caller, Directory
from trustgate.errors import TrustGateError, UpstreamRefused
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import ENDPOINTS
from trustgate.gateway.api.object_accounting import (
    accepted_price,
    answered_lines,
    goes_on,
    is_reported,
    lost_sum,
    reported_sum,
    response_sum,
    result_files,
)
from trustgate.gateway.api.object_ids import BATCHES, Charging, Kind, ObjectId, ObjectIds, StepReceipt
from trustgate.gateway.path.accounting import Account, Accounting, Request
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.batch_results import BatchResults, lines_of
from trustgate.gateway.path.forwarding import ANTHROPIC_VERSION
from trustgate.gateway.path.payment_step import PaymentStep
from trustgate.gateway.path.work_holds import WorkHolds, WorkOwner
from trustgate.models.catalog import Catalog
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.events import read_object
from trustgate.models.metering.whole import read_nothing_used
from trustgate.models.pricing import PriceTable
from trustgate.models.summing import SummedCalls
from trustgate.models.upstream.answer import Answer
from trustgate.models.upstream.client import Outgoing, UpstreamClient
from trustgate.models.upstream.targets import Target, Targets
from trustgate.tasks import Deferred
from trustgate.types import Entry

_logger = logging.getLogger("trustgate.gateway")

#: How long one look may take, seconds.
_LOOK_S = 60.0
#: How long results may come, seconds: those of 50,000 lines are some 100 MB.
_RESULTS_S = 1800.0
#: Work is gone upstream when so many looks, one after the other, have not found it.
_LOOKS_TO_BE_GONE = 3
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
        find_receipt: Callable[[str], Awaitable[Entry | None]],
    ) -> None:
        """``upstream``: returns the client, which a reload replaces; ``find_receipt``: by its id, on record."""
        self._handles = handles
        self._directory = directory
        self._catalog = catalog
        self._targets = targets
        self._accounting = accounting
        self._holds = holds
        self._payment_step = payment_step
        self._upstream = upstream
        self._find_receipt = find_receipt
        self._soon = asyncio.Event()
        #: By work: how many looks in a row have not found it.
        self._missing: dict[tuple[Kind, str, str], int] = {}
        self._cancelling: set[asyncio.Task[None]] = set()
        if holds.begins_anew:
            self._hold_all()

    # holds

    async def take_up(self) -> None:
        """Hold what is not settled yet, whichever process began it: at the start."""
        for held in self._hold_all():
            await held

    def _hold_all(self) -> list[Deferred[None]]:
        held = [self._hold(handle) for handle in self._unsettled()]
        return [each for each in held if each is not None]

    def begin(self, handle: ObjectId) -> None:
        """Hold what the work may still use."""
        _ = self._hold(handle)

    def _hold(self, handle: ObjectId) -> Deferred[None] | None:
        owner = self._directory.owner(handle.tenant, handle.key)
        drawer = None if owner is None else self._drawer(owner, handle)
        return self._holds.begin(handle, WorkOwner(owner, self._directory.key_account_id(handle.key), drawer))

    def end(self, handle: ObjectId, receipts: Sequence[StepReceipt] = ()) -> None:
        """Give it back: what was used is being charged. ``receipts``: by which, as ``Charging.receipts``."""
        self._holds.end(handle, receipts)

    def look_soon(self) -> None:
        self._soon.set()

    def abandon(self, handle: ObjectId, target: Target) -> None:
        """Have the upstream end what cannot be looked after; where it does not, that is charged to no tenant."""
        task = asyncio.create_task(self._cancel(handle, target))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, handle: ObjectId, target: Target) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                answer = await self._fetch(target, f"{_path_of(handle)}/cancel", method="POST")
                await answer.close()
        except (TrustGateError, TimeoutError) as error:
            _logger.warning("a %s whose id cannot be kept goes on upstream: %s", handle.kind, error)

    # looking

    async def run(self, interval_s: Callable[[], float]) -> None:
        """For ever: look at what is not settled, each time ``interval_s()`` seconds have passed."""
        if any(handle.charging is not None for handle in self._unsettled()):
            # What it came to is known, but for receipts that a crash has left out.
            self.look_soon()
        #: By upstream: set when what it has is to be looked at. One that is slow holds up no other's.
        due: dict[str, asyncio.Event] = {}
        async with asyncio.TaskGroup() as looking:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval_s()):
                        await self._soon.wait()
                self._soon.clear()
                try:
                    await self._handles.compact()
                except OSError as error:
                    _logger.warning("the file of ids cannot be written anew: %s", error.strerror)
                # On limits, too, that have come since.
                with contextlib.suppress(TrustGateError):
                    await self.take_up()
                for upstream in {handle.upstream for handle in self._unsettled()}:
                    if upstream not in due:
                        due[upstream] = asyncio.Event()
                        looking.create_task(self._look_at_all(upstream, due[upstream]))
                    due[upstream].set()

    def _unsettled(self) -> list[ObjectId]:
        return [handle for kind in _LOOKED_AFTER for handle in self._handles.unsettled(kind)]

    async def _look_at_all(self, upstream: str, is_due: asyncio.Event) -> None:
        """For ever: look at what an upstream has, one after the other, each time ``is_due`` is set."""
        while True:
            await is_due.wait()
            is_due.clear()
            for handle in self._unsettled():
                if handle.upstream == upstream:
                    try:
                        await self._look(handle)
                    except Exception:
                        _logger.exception("looking at a %s failed", handle.kind)

    async def _look(self, handle: ObjectId) -> None:
        """Ask the upstream how far it is; charge what is at its end."""
        sums: Sequence[SummedCalls]
        written: Sequence[StepReceipt] = ()
        try:
            async with asyncio.timeout(_LOOK_S) as limit:
                if handle.charging is not None:
                    written = await self._written(handle.charging)
                    if len(written) == len(handle.charging.receipts):
                        self.end(handle)
                        return
                owner = self._directory.owner(handle.tenant, handle.key)
                profile = None if owner is None else owner.profile
                target = self._targets.made_by(
                    handle.passport, handle.upstream_model, "background", profile, even_revoked=True
                )
                body = await self._get(target, _path_of(handle))
                self._missing.pop(handle.place, None)
                _, status = read_object(body)
                if not status or goes_on(status):
                    return
                arrival = Arrival.of({"headers": ()})
                price = accepted_price(handle, target.price)
                if handle.kind in BATCHES:
                    sums = await self._sums(handle, target, price, body, arrival.at_us, limit)
                else:
                    usage = _LOOKS[handle.kind].meter(body).usage_or_estimate(0)
                    sums = [response_sum(handle, usage, price, arrival.at_us)]
        except UpstreamRefused as error:
            if error.status != _NOT_FOUND:
                _logger.info("the %s of tenant %s cannot be looked at: %s", handle.kind, handle.tenant, error.message)
                return
            self._missing[handle.place] = looks = self._missing.get(handle.place, 0) + 1
            if looks < _LOOKS_TO_BE_GONE:
                return
            # A server that does not know it any more has no results of it either.
            _logger.warning("the %s %s of tenant %s is gone upstream", handle.kind, handle.id, handle.tenant)
            arrival, body = Arrival.of({"headers": ()}), b""
            sums = [lost_sum(handle, accepted_price(handle, target.price), arrival.at_us)]
        except (TrustGateError, TimeoutError) as error:
            _logger.info("the %s of tenant %s cannot be looked at: %s", handle.kind, handle.tenant, error)
            return
        if handle.charging is not None and written:
            missing = {each.step for each in handle.charging.receipts} - {each.step for each in written}
            sums = [charged for charged in sums if charged.step in missing]
        await self._charge(handle, target, body, arrival, sums, written)

    async def _written(self, charging: Charging) -> Sequence[StepReceipt]:
        """Returns those of the receipts of work, whose charging a crash has broken off, that are on record."""
        return [each for each in charging.receipts if await self._find_receipt(each.id) is not None]

    async def _charge(
        self,
        handle: ObjectId,
        target: Target,
        body: bytes,
        arrival: Arrival,
        sums: Sequence[SummedCalls],
        written: Sequence[StepReceipt],
    ) -> None:
        """Settle it, unless a request has done so meanwhile: hold back, quota and balance charged, receipts written.

        Args:
            handle: of the work.
            target: has it.
            body: what its upstream shows of it: the receipts commit to that.
            arrival: when the gateway looked.
            sums: what each receipt charges.
            written: receipts that have charged a part of it, as ``Charging.receipts``.
        """
        now = self._handles.current(handle)
        owner = self._directory.owner(handle.tenant, handle.key)
        if now is None or now.owed < 0 or owner is None:
            return
        # The price of one time holds for all.
        arrivals = [arrival if n == 0 else arrival.another() for n in range(len(sums))]
        own = [StepReceipt(charged.step, each.receipt_id) for charged, each in zip(sums, arrivals, strict=True)]
        self._missing.pop(now.place, None)
        self.end(now, (*written, *own) if own else ())
        call = Call(model=now.model, choices=0, end_user=now.end_user)
        drawer = self._drawer(owner, now)
        accounts: list[Account] = []
        for charged, arrives in zip(sums, arrivals, strict=True):
            request = Request(arrives, _LOOKS[now.kind], owner, call, b"", drawer.models)
            account = Account(self._accounting, request, None, self._payment_step.owing(request))
            account.target, account.work = target, now
            account.summed, account.part = charged, charged.step if accounts or written else 0
            account.sent(body)
            account.close("complete", status=200)
            accounts.append(account)
        for account in accounts:
            await account.kept()

    def _drawer(self, owner: Caller, handle: ObjectId) -> Drawer:
        """Returns who draws on budgets with the work."""
        resolved = self._catalog.resolve(handle.model, owner.profile) if handle.model else None
        models = () if resolved is None else resolved.all_names(handle.model)
        return Drawer(owner.tenant.id, owner.key.account_id, owner.plan.name, models, handle.end_user)

    async def _sums(
        self, handle: ObjectId, target: Target, price: PriceTable, body: bytes, at_us: int, limit: asyncio.Timeout
    ) -> Sequence[SummedCalls]:
        """Returns what a batch is charged: by what its upstream reports of all lines where that is enough, else by its
        results; where there are neither, by the estimate of its lines.

        ``price``: the batch's; ``limit``: of the look, put off while results come.
        """
        found, answered = _LOOKS[handle.kind].meter(body).usage, answered_lines(body)
        results, reported = BatchResults(handle, target, price, at_us), None
        if found is not None and is_reported(found) and results.is_plausible(found):
            reported = found
            summed = reported_sum(handle, reported, answered, price)
            if summed is not None:
                return (summed,)
        if handle.kind == "message_batch":
            files = [f"{_path_of(handle)}/results"]
        else:
            files = [f"/files/{quote(file_id, safe='', errors='replace')}/content" for file_id in result_files(body)]
        clock = asyncio.get_running_loop().time
        latest = clock() + _RESULTS_S
        for path in files:
            try:
                answer = await self._fetch(target, path)
            except UpstreamRefused as error:
                if error.status != _NOT_FOUND:
                    raise
                continue  # its owner may have deleted it
            try:
                async for line in lines_of(answer):
                    await results.read(line)
                    now, ends = clock(), limit.when()
                    if ends is not None and ends - now < _LOOK_S / 2:
                        limit.reschedule(min(now + _LOOK_S, latest))
            finally:
                await answer.close()
        if results.unread:
            _logger.warning(
                "%d lines of the results of the %s %s of tenant %s cannot be read: each is charged what a line of it "
                "may use",
                *(results.unread, handle.kind, handle.id, handle.tenant),
            )
        return results.sums(reported, answered)

    async def _get(self, target: Target, path: str) -> bytes:
        answer = await self._fetch(target, path, is_document=True)
        await answer.close()
        return answer.body

    async def _fetch(self, target: Target, path: str, *, method: str = "GET", is_document: bool = False) -> Answer:
        headers = [("accept-encoding", "identity"), ("user-agent", f"trustgate/{__version__}")]
        is_anthropic = path.startswith("/messages/")
        asked = Outgoing(
            method=method,
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
    return f"/{_FOLDER[handle.kind]}/{quote(handle.id, safe='', errors='replace')}"
