"""What a request has cost: the hold taken, the usage metered, the receipt written. Each exactly once.

Owns the moment between a request's admission and its receipt. ``Account.close`` is synchronous on purpose: it runs
wherever the request ends (complete, refused, cut, client gone, cancelled) without a point at which it could be
interrupted, and it runs before the last byte is sent, so what a client has seen the end of is already journaled. Where
the journal alone does not keep a receipt, the account says what to wait for (``Account.kept``) before that byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NoReturn, Protocol

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from trustgate.access.budget_reach import Drawer
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Caller
from trustgate.access.quota import Ask, Hold, ParallelSlot, Quota, Rate
from trustgate.cluster.holds import SharedHold
from trustgate.errors import RateLimited, TrustGateError
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.object_ids import AcceptedPrice, ObjectId
from trustgate.gateway.api.uploads import Payload, digest
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.inflight import Releasable
from trustgate.gateway.path.reply import Reply
from trustgate.gateway.path.worst_case import price_for, requests_in
from trustgate.models.prices import CONDITION_MOST, NOT_PRICED
from trustgate.models.pricing import BATCH_TIER, PriceTable, billed_nano_usd, bounded, is_plain
from trustgate.models.summing import SummedCalls
from trustgate.models.upstream.targets import Target
from trustgate.payment.credit import payment_members
from trustgate.payment.sale import Sale
from trustgate.receipts.log import Log
from trustgate.receipts.receipt import billed_of, commitments
from trustgate.tasks import Deferred
from trustgate.types import COUNTED, Finish, PaymentTerms, Receipt, Usage

#: The context of a model whose passport names none, tokens: with ``_RUNS`` no less than the largest that is sold.
_CONTEXT_TOKENS = 2_500_000
#: How often a server may run the model for one request, and how far off an estimate of a prompt may be.
_RUNS = 4
_ESTIMATES_OFF = 20
#: At most one refusal of a key in this time becomes a receipt, so that hammering a used-up quota cannot fill the disk.
_REFUSAL_EVERY_US = 1_000_000

#: Names in a receipt are cut here, characters: an entry must fit into a record of the journal.
_NAME_MOST = 256
_NOTHING = Usage()
_NO_ANSWER = hashlib.sha256().digest()
_NO_PRICE = PriceTable(NOT_PRICED)


def receipt_header(receipt_id: str) -> tuple[bytes, bytes]:
    """Names the client's receipt."""
    return b"x-trustgate-receipt", receipt_id.encode()


def plausible_bounds(target: Target | None, prompt_tokens: int, choices: int) -> tuple[int, int]:
    """Returns the most prompt and completion tokens that one call can have used at a target.

    ``prompt_tokens``: the estimate of its prompt; ``choices``: how many completions it asked for.
    """
    context = completion = None
    if target is not None:
        passport = target.passport
        context, completion = passport.context_length, passport.max_output_tokens
    by_context, by_estimate = _RUNS * (context or _CONTEXT_TOKENS), _ESTIMATES_OFF * prompt_tokens
    of_choice = _RUNS * completion if completion else by_context
    return max(by_estimate, by_context), of_choice * choices if choices > 1 else of_choice


class UsageMeter(Protocol):
    """What has metered an answer, whole or streamed."""

    def usage_or_estimate(
        self, prompt_estimate: int, *, prompt_bound: int | None = None, completion_bound: int | None = None
    ) -> Usage: ...


class Request(msgspec.Struct, frozen=True, eq=False):
    """A request whose caller is known: who asks what, of which endpoint, with which body."""

    arrival: Arrival
    endpoint: Endpoint
    caller: Caller
    call: Call
    body: Payload
    #: The names that its model goes by.
    models: tuple[str, ...] = ()
    #: The body as the caller's profile has it; None: as it is.
    sent: Payload | None = None
    #: Who draws on budgets with it, where that is known already.
    known_drawer: Drawer | None = None

    @property
    def drawer(self) -> Drawer:
        """Who draws on budgets with it."""
        if self.known_drawer is not None:
            return self.known_drawer
        caller = self.caller
        return Drawer(caller.tenant.id, caller.key.account_id, caller.plan.name, self.models, self.call.end_user)


#: What is known of a request that is refused before its body is read.
_NOT_READ = Call(model="")


def _always() -> None:
    """A process alone may always serve."""


class RequestHold(Protocol):
    """What a request holds of quota and budgets."""

    @property
    def rates(self) -> tuple[Rate | None, Rate | None]:
        """The tightest limits on requests and on tokens."""
        ...


class AccountEnd(msgspec.Struct, frozen=True, eq=False):
    """What a request came to: its receipt, and what that settles."""

    request: Request
    receipt: Receipt
    secret: bytes
    #: None: it was refused, or was admitted before.
    hold: Any
    #: Whether what it used counts.
    counted: bool
    sale: Sale | None
    #: Work that went on upstream, whose end was seen, and which the receipt charges; None: none.
    work: ObjectId | None = None
    #: Of several receipts that charge the work the second is another than the first: ``Account.part``.
    part: int = 0


class Keeping(Protocol):
    """Where what requests hold and use is counted, and their receipts kept."""

    def enter(self, caller: Caller) -> ParallelSlot | Awaitable[Releasable]:
        """Take one of the caller's parallel requests; at once, as ``open``.

        Raises ``RateLimited``, ``Unavailable``.
        """
        ...

    def open(self, request: Request, ask: Ask, slot: Any) -> Hold | SharedHold | Awaitable[SharedHold]:
        """Hold the worst case: at once where the database need not admit it. ``slot``: what ``enter`` gave.

        Raises ``RateLimited``, ``Unavailable``.
        """
        ...

    def void(self, hold: Any) -> None:
        """Give back what ``open`` gave."""
        ...

    def close(self, outcome: AccountEnd) -> Deferred[Any] | None:
        """Settle what a request holds and keep its receipt. No await may stand between its ``Log.link`` and this.

        Returns:
            What ends once the receipt cannot be lost any more; None: it cannot be lost already.
        """
        ...


class OwnKeeping:
    """Counts in the memory of this process, which serves alone; receipts go to its log."""

    def __init__(
        self, quota: Quota, budgets: Budgets, log: Log, on_charged: Callable[[ObjectId, str], None] | None = None
    ) -> None:
        """``on_charged``: is called with work and the id of the receipt that charges it, once that is written."""
        self._quota = quota
        self._on_charged = on_charged
        self._budgets = budgets
        self._log = log

    def enter(self, caller: Caller) -> ParallelSlot:
        return self._quota.enter(caller.tenant, caller.plan, caller.key)

    def open(self, request: Request, ask: Ask, slot: ParallelSlot | None) -> Hold:
        caller, at_us = request.caller, request.arrival.at_us
        # Where there is no budget, too: one that is added meanwhile counts what is under way.
        claim = self._budgets.claim(request.known_drawer or request.drawer, ask.tokens, ask.cost_nano_usd, at_us)
        return self._quota.reserve(caller.tenant, caller.plan, caller.key, ask, at_us, slot, claim)

    def void(self, hold: Hold) -> None:
        self._quota.void(hold)

    def close(self, outcome: AccountEnd) -> Deferred[Any] | None:
        request, receipt, hold, counted = outcome.request, outcome.receipt, outcome.hold, outcome.counted
        tokens, billed = receipt.prompt_tokens + receipt.completion_tokens, billed_of(receipt)
        if hold is not None and counted:
            self._quota.post(hold, tokens, billed)
        elif hold is not None:
            self._quota.void(hold)
        elif counted:
            # Work that was admitted before, and is charged now that it has ended.
            tenant, key, at_us = request.caller.tenant, request.caller.key, receipt.created_us
            self._quota.charge((tenant.id, key.account_id), tokens, billed, at_us)
            if request.caller.has_budgets:
                self._budgets.count(request.drawer, tokens, billed, at_us)
        entry = self._log.append(receipt, outcome.secret)
        if outcome.work is not None and self._on_charged is not None:
            self._on_charged(outcome.work, receipt.id)
        return self._log.committed(entry)


class Accounting:
    """Where accounts are opened: the quota they draw on and the log their receipts go to."""

    def __init__(self, quota: Quota, log: Log, budgets: Budgets | None = None, keeping: Keeping | None = None) -> None:
        """``keeping``: where requests are counted; None: in ``quota`` and ``budgets``."""
        self.quota = quota
        self.budgets = Budgets() if budgets is None else budgets
        self.log = log
        self.keeping: Keeping = OwnKeeping(quota, self.budgets, log) if keeping is None else keeping
        #: Called before a request is admitted. Raises ``Unavailable`` where this process may serve none at the moment.
        self.check_serving: Callable[[], None] = _always
        self._last_refusal_us: dict[str, int] = {}

    def enter(
        self, arrival: Arrival, endpoint: Endpoint, caller: Caller, reply: Reply
    ) -> ParallelSlot | Awaitable[Releasable]:
        """Take one of the caller's parallel requests: at once where this process counts alone and it may have one.

        Raises ``RateLimited`` (429), which is put on record too, or ``Unavailable`` where none may be admitted now.
        """
        check_serving = self.check_serving
        check_serving()
        try:
            slot = self.keeping.enter(caller)
        except RateLimited as refusal:
            return self._refuse_entry(Request(arrival, endpoint, caller, _NOT_READ, b""), refusal, reply)
        if isinstance(slot, ParallelSlot):
            return slot
        return self._enter_shared(slot, Request(arrival, endpoint, caller, _NOT_READ, b""), reply)

    async def _enter_shared(self, entering: Awaitable[Releasable], request: Request, reply: Reply) -> Releasable:
        try:
            return await entering
        except RateLimited as refusal:
            return await self._refuse_entry(request, refusal, reply)

    async def _refuse_entry(self, request: Request, refusal: RateLimited, reply: Reply) -> NoReturn:
        """Put a refusal on record and raise it. The body has not been read: the receipt commits to none."""
        account = self.refuse(request, refusal, reply)
        if account is not None:
            await account.kept()
        raise refusal

    def refuse(self, request: Request, refusal: TrustGateError, reply: Reply) -> Account | None:
        """Write a receipt of a refusal, so that it can be proven too, and name it in the reply's headers.

        Returns: its account, closed; None where the key had one a moment ago. It is to be ``kept`` before the refusal
        is sent.
        """
        arrival, key_id = request.arrival, request.caller.key.id
        last_us = self._last_refusal_us.get(key_id)
        if last_us is not None and arrival.at_us - last_us < _REFUSAL_EVERY_US:
            return None
        self._last_refusal_us[key_id] = arrival.at_us
        account = Account(self, request, None, None)
        account.sent(request.endpoint.dialect.body(refusal, arrival.request_id.decode()))
        account.close("refused", status=refusal.status)
        reply.headers.append(receipt_header(arrival.receipt_id))
        return account


class Account(msgspec.Struct, eq=False):
    """One admitted request. The path fills it in as it goes; whatever happens, it is closed once."""

    _accounting: Accounting
    request: Request
    #: What its request holds (``Keeping.open``); None: it is refused, or was admitted before.
    _hold: RequestHold | None
    #: What the request is paid by; None: it owes nothing.
    sale: Sale | None
    target: Target | None = None
    upstream_model: str = ""
    first_ms: int | None = None
    #: Returns what a meter knows to be used up to now; None: there is none yet.
    metered: Callable[[], Usage] | None = None
    closed: bool = False
    #: Work that went on upstream, whose end it has seen, and which it charges.
    work: ObjectId | None = None
    #: What it charges for the work, at the price of that.
    summed: SummedCalls | None = None
    #: What it has begun goes on upstream, and is charged at its end.
    is_begun: bool = False
    #: Which part of the work it charges: 0 the first, which gives back what is held; else a number of its own.
    part: int = 0
    #: What it came to, once it is closed.
    receipt: Receipt | None = None
    #: What ``kept`` waits for; None: nothing.
    pending: Deferred[Any] | None = None
    #: The hash of what was sent, still open; None: nothing was.
    _answer: hashlib._Hash | None = None

    def usage_so_far(self) -> Usage:
        """Returns what was used up to now: the prompt's estimate, until a meter knows better."""
        if self.closed:
            return _NOTHING
        if self.metered is not None:
            return self.metered()
        return Usage(prompt_tokens=self.request.call.prompt_tokens, estimated=True)

    @property
    def rates(self) -> tuple[Rate | None, Rate | None]:
        """The tightest limits on requests and on tokens, for the response's headers."""
        return self._hold.rates if self._hold is not None else (None, None)

    def leave(self) -> None:
        """The request is over. One that was refused before anything was done for it is not closed: its hold is given
        back, and nothing is written.
        """
        if not self.closed:
            self.closed = True
            if self._hold is not None:
                self._accounting.keeping.void(self._hold)

    def usage_of(self, meter: UsageMeter) -> Usage:
        """Returns what an answer's meter reports, completed by estimates.

        A count beyond what the request can have used is not believed: the estimate stands in its place, and marks it.
        The bounds are wide, since a server may run a model several times for one request (hosted tools), read a
        conversation that it keeps, and count otherwise than the estimate does.
        """
        call = self.request.call
        prompt_bound, completion_bound = plausible_bounds(self.target, call.prompt_tokens, call.choices)
        return meter.usage_or_estimate(call.prompt_tokens, prompt_bound=prompt_bound, completion_bound=completion_bound)

    @property
    def prompt_tokens(self) -> int:
        """The estimate of the prompt."""
        return self.request.call.prompt_tokens

    def sent(self, data: bytes) -> Callable[[bytes], object]:
        """Bytes of the answer that go to the client: they are what the receipt commits to.

        Returns what does the same with those that follow.
        """
        if self.first_ms is None:
            self.first_ms = self.request.arrival.elapsed_ms()
        if self._answer is None:
            self._answer = hashlib.sha256(data)
        else:
            self._answer.update(data)
        return self._answer.update

    def sent_whole(self, body: bytes, digest: hashlib._Hash | None) -> None:
        """All of an answer goes to the client at once. ``digest``: its SHA-256, where that is known."""
        self._answer = hashlib.sha256(body) if digest is None else digest

    def close(self, finish: Finish, *, status: int, usage: Usage = _NOTHING) -> None:
        """Settle the hold and write the receipt. Does nothing when the account is closed already."""
        if self.closed:
            return
        self.closed = True
        # It holds the account itself: let go of, or a request's objects are a cycle that the collector has to find.
        if self.metered is not None:
            self.metered = None
        request, target = self.request, self.target
        arrival, endpoint, caller, call = request.arrival, request.endpoint, request.caller, request.call
        summed = self.summed if finish in COUNTED else None
        if summed is not None:
            usage = summed.usage
        elif usage.images or endpoint.name == "batches":
            usage = _with_what_was_asked(usage, endpoint, call)
        is_token_use = summed is None and is_plain(usage)
        if summed is None and not is_token_use:
            usage = bounded(usage)
        counted, cost_nano_usd, price = False, 0, _NO_PRICE
        if target is not None:
            if summed is not None:
                price = summed.price
            else:
                price = target.price.without_call if self.is_begun else price_for(endpoint, target.price)
            if finish in COUNTED:
                counted = True
                beyond_estimate = usage.prompt_tokens + usage.completion_tokens - call.prompt_tokens
                target.load.used(target.passport.pool, beyond_estimate)
                if is_token_use:  # as nearly always
                    cost_nano_usd = price.plain_nano_usd(usage, arrival.at_us)
                elif summed is None:
                    cost_nano_usd = price.cost_nano_usd(usage, arrival.at_us)
                else:
                    cost_nano_usd = summed.cost_nano_usd(arrival.at_us)
        accepted = None if summed is None or self.work is None else self.work.accepted
        factor_ppm = caller.price_factor_ppm if accepted is None else accepted.factor_ppm
        billed = billed_nano_usd(cost_nano_usd, factor_ppm)
        paid = None if caller.terms is None else self._paid(caller.terms, finish, billed, accepted)
        receipt = self._receipt(finish, status, usage, price, cost_nano_usd, billed, factor_ppm, summed)
        if paid is not None:
            receipt = replace(receipt, **paid)
        if summed is not None:
            receipt = replace(receipt, calls=summed.calls, price_above_prompt_tokens=summed.step)
        self.receipt = receipt
        pending = self._accounting.keeping.close(
            AccountEnd(request, receipt, arrival.secret, self._hold, counted, self.sale, self.work, self.part)
        )
        if pending is not None:
            self.pending = pending

    def _receipt(
        self,
        finish: Finish,
        status: int,
        usage: Usage,
        price: PriceTable,
        cost_nano_usd: int,
        billed_nano_usd: int,
        factor_ppm: int,
        summed: SummedCalls | None,
    ) -> Receipt:
        """Returns the receipt of a tenant that owes nothing, its members by position (see ``Receipt``)."""
        request, target = self.request, self.target
        arrival, caller, call = request.arrival, request.caller, request.call
        total_ms = arrival.elapsed_ms()
        answered = _NO_ANSWER if self._answer is None else self._answer.digest()
        for_request, for_response = commitments(arrival.secret, digest(request.body), answered)
        tenant_id = caller.tenant.id
        tseq, tprev = self._accounting.log.link(tenant_id)
        return Receipt(
            _version(caller, call) if summed is None else _version_of_work(caller, call),
            arrival.receipt_id,
            arrival.at_us,
            tenant_id,
            caller.key.id,
            tseq,
            tprev,
            request.endpoint.name,
            call.model[:_NAME_MOST],
            "" if target is None else target.passport.id,
            self.upstream_model[:_NAME_MOST],
            for_request,
            for_response,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            usage.reasoning_tokens,
            "estimate" if usage.estimated else "provider",
            cost_nano_usd,
            price.hash,
            caller.policy_hash,
            total_ms if self.first_ms is None else self.first_ms,
            total_ms,
            status,
            finish,
            call.stream,
            UNSET,
            UNSET,
            UNSET,
            UNSET,
            UNSET,
            UNSET,
            UNSET,
            UNSET,
            price.known,
            billed_nano_usd,
            factor_ppm,
            usage.cache_write_tokens,
            usage.cache_write_1h_tokens,
            usage.audio_prompt_tokens,
            usage.audio_completion_tokens,
            usage.image_prompt_tokens,
            usage.image_completion_tokens,
            usage.images,
            usage.audio_ms,
            usage.characters,
            usage.searches,
            usage.service_tier[:CONDITION_MOST],
            usage.image_size[:CONDITION_MOST],
            usage.image_quality[:CONDITION_MOST],
            usage.contradictory,
            UNSET if call.end_user is None else call.end_user,
        )

    async def kept(self) -> None:
        """Wait until the receipt of a closed account cannot be lost: before the answer's last byte leaves.

        A caller that is cancelled meanwhile does not stop the keeping.
        """
        if self.pending is not None:
            await self.pending.ended()

    def _paid(self, terms: PaymentTerms, finish: Finish, billed: int, accepted: AcceptedPrice | None) -> dict[str, Any]:
        """What the tenant is charged: what the request is billed at, or its terms' price for each that was answered.

        An answer that the upstream broke off is not charged: what was paid for it stays on the balance. ``accepted``:
        of work at its end, which holds whatever the terms are by then.
        """
        if self.sale is None:
            return {"charged_nano_usd": 0, "credited_nano_usd": 0, **payment_members(None)}
        delivered = finish in COUNTED and finish != "upstream_cut"
        if not delivered:
            billed = 0
        elif accepted is not None:
            billed = billed if accepted.is_owed else 0
        elif terms.price_nano_usd is not None:
            billed = terms.price_nano_usd * requests_in(self.request.call) if self.request.endpoint.is_sold else 0
        return self.sale.close(billed, delivered=delivered)


def _version(caller: Caller, call: Call) -> Literal[3, 4, 5, 6]:
    if call.end_user is None:
        return 3 if caller.terms is None else 4
    return 5 if caller.terms is None else 6


def _version_of_work(caller: Caller, call: Call) -> Literal[7, 8, 9, 10]:
    if call.end_user is None:
        return 7 if caller.terms is None else 8
    return 9 if caller.terms is None else 10


def _with_what_was_asked(usage: Usage, endpoint: Endpoint, call: Call) -> Usage:
    """Returns the usage with what its price depends on besides."""
    if usage.images and (call.image_size or call.image_quality):
        usage = replace(usage, image_size=call.image_size, image_quality=call.image_quality)
    return replace(usage, service_tier=BATCH_TIER) if endpoint.name == "batches" else usage
