"""The request path: eleven steps, from top to bottom in the order in which every request walks them.

    1 request     head under limits, then (for callers we know) the body          400 408 413
    2 bearer auth SHA-256 of the key, looked up in memory                         401
    3 payment     x402, for tenants that pay: balance held, or payment verified   402 409
    4 plan        endpoint, model, features, sizes                                403
    5 quota       the worst case is held                                          429
    6 validation  the members that matter have the right types                    400
    7 passport    the model's name leads to an ordered list of targets            404
    8 fetch       the first target that answers; retries before the first byte    502 503 504
    9 metering    usage, from the answer or its last chunk
    10 receipt    journaled before the last byte leaves
    11 response   the upstream's bytes; a payment is settled before the first

The body is read after the key is checked, so that a stranger cannot make the gateway buffer anything (where requests
are sold without a key, strangers share one tenant's part of that memory). No step touches a database, a file (but the
journal) or a name server; each takes values and gives a value. There are two exceptions: a payment that a client
presents, whose steps are in the ledger before they are taken; and where several processes serve one Postgres, the ids
of upstreams (step 1), what is held (steps 3 and 5) and the receipt (step 10), which are rows there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Any

import msgspec
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from trustgate.access.directory import Caller, Directory
from trustgate.access.plans import check_end_user, check_plan, check_priced
from trustgate.access.quota import Ask, Hold, ParallelSlot
from trustgate.cluster.holds import SharedHold
from trustgate.errors import (
    InvalidRequest,
    RateLimited,
    TrustGateError,
)
from trustgate.gateway.api.aliases import MODEL_IN_PATH
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.large_body import DIRECT_BYTES, LargeBody
from trustgate.gateway.api.object_ids import Work
from trustgate.gateway.api.uploads import ClientDisconnected, Payload, Upload
from trustgate.gateway.path.accounting import Account, Accounting, Request, RequestHold, receipt_header
from trustgate.gateway.path.arrival import Arrival, check_head, is_json
from trustgate.gateway.path.batch_lines import LineJudge, judged_messages
from trustgate.gateway.path.body import BodyMemory, Room, end_user_of, peek, read_json, whole_body
from trustgate.gateway.path.caller_models import CallerModel, CallerModels
from trustgate.gateway.path.client_watch import ClientWatch
from trustgate.gateway.path.content_coding import undone
from trustgate.gateway.path.delivery import Delivery, OnEnd
from trustgate.gateway.path.forwarding import Forwarding
from trustgate.gateway.path.identity import identify
from trustgate.gateway.path.inflight import InFlight, RequestCancelled
from trustgate.gateway.path.json_edit import outgoing as edited
from trustgate.gateway.path.own_lists import OwnList
from trustgate.gateway.path.payment_step import PaymentStep
from trustgate.gateway.path.profiling import own_steering, under_profile, with_bound
from trustgate.gateway.path.relay import relay
from trustgate.gateway.path.reply import Reply, rate_headers
from trustgate.gateway.path.routing import Route, Routing
from trustgate.gateway.path.worst_case import completion_bound, worst_case
from trustgate.http.sending import Headers
from trustgate.models.catalog import Catalog
from trustgate.models.stand_in import shown
from trustgate.models.upstream.answer import Answer
from trustgate.models.upstream.client import Outgoing, UpstreamClient
from trustgate.models.upstream.targets import Target
from trustgate.observe.traces import Tracing
from trustgate.payment.paid_answers import Recorded
from trustgate.payment.sale import Sale
from trustgate.settings import Settings

_logger = logging.getLogger("trustgate.gateway")


class _Asked(msgspec.Struct, frozen=True, eq=False):
    """A request with its route and its model, and what it may use."""

    request: Request
    route: Route
    model: CallerModel
    #: Its worst case.
    ask: Ask
    #: The most tokens of one completion, as it is sent to the upstream; None: no bound is sent.
    bound: int | None


class Pipeline:
    """The eleven steps, over the parts that each of them asks."""

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Directory,
        catalog: Catalog,
        routing: Routing,
        upstream: UpstreamClient,
        accounting: Accounting,
        running: InFlight,
        payment_step: PaymentStep,
        on_end: OnEnd,
        tracing: Tracing | None = None,
    ) -> None:
        """``on_end``: is called once for every request, when it has ended."""
        self._settings = settings
        self._on_end = on_end
        self._tracing = tracing
        self._directory = directory
        self._catalog = catalog
        self._models = CallerModels(catalog)
        self._routing = routing
        self._upstream = upstream
        self._accounting = accounting
        self._running = running
        self._payment_step = payment_step
        self._forwarding = Forwarding(settings.upstream.forward_headers, tracing)
        self._memory = BodyMemory(settings.serve)

    def apply_settings(self, settings: Settings, upstream: UpstreamClient) -> None:
        """Go by these from the next request on."""
        self._settings = settings
        self._upstream = upstream
        self._forwarding = Forwarding(settings.upstream.forward_headers, self._tracing)
        self._memory.apply_settings(settings.serve)

    @property
    def running(self) -> InFlight:
        """The requests in flight, and the connections that stay."""
        return self._running

    def caller_of(self, scope: Scope) -> Caller:
        """Returns whose key a request has. Raises ``AuthenticationFailed`` (401)."""
        return identify(self._directory, Arrival.of(scope))

    async def serve(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens: the ASGI application of an endpoint."""
        arrival = Arrival.of(scope, trusts_id=self._settings.serve.trust_request_id)
        if endpoint.takes_json and is_json(arrival.headers.get(b"content-type", b"")):
            endpoint = endpoint.as_json
        reply = Reply(send, arrival.request_id, endpoint.dialect, scope.get("extensions", {}))
        delivery = Delivery(reply)
        error: TrustGateError | None = None
        try:
            await self._walk(endpoint, arrival, scope, receive, delivery)
        except ClientDisconnected:
            return
        except RequestCancelled as cancelled:
            error = delivery.refusal_of(cancelled.reason)
        except TrustGateError as caught:
            error = caught
            error.message = shown(error.message)
            error.param = shown(error.param) if error.param else error.param
        except Exception:
            _logger.exception("internal error in request %s", arrival.request_id.decode())
            error = TrustGateError("The gateway failed. The error is in its log.")
        on_end = self._on_end
        on_end(delivery.end(endpoint, arrival, error))
        if error is not None:
            await delivery.kept()
            await reply.refuse(error)

    async def _walk(
        self, endpoint: Endpoint, arrival: Arrival, scope: Scope, receive: Receive, delivery: Delivery
    ) -> None:
        """Steps 1 to 3, and ``_fulfil`` for the rest."""
        limits, reply = self._settings.serve, delivery.reply
        body: Payload
        sent: Payload

        # 1 request: its head
        max_bytes = limits.max_upload_bytes if endpoint.body == "form" else limits.max_body_bytes
        check_head(scope, arrival, endpoint.body, max_bytes)

        # 2 bearer auth
        caller = identify(self._directory, arrival, takes_keyless=endpoint.sells_keyless)

        # A share of the gateway, and one of the caller's own parallel requests: asked for before anything is read.
        with self._running.admit(caller.key.id, caller.tenant.id) as cancellation:
            cancellation.reply = reply
            entered = self._accounting.enter(arrival, endpoint, caller, reply)
            slot: Any = entered if isinstance(entered, ParallelSlot) else await entered
            cancellation.slot = slot
            cancellation.room = room = self._memory.room_for(caller.tenant.id)
            # 1 request: its body, now that we know whose it is, and the ids of upstreams that it names
            self._accounting.log.check_room(self._running.shares.total)
            try:
                whole = self._body_at_hand(endpoint, arrival, scope, caller, room)
                if whole is not None:
                    body, sent, call = whole, whole, endpoint.peek(whole)
                else:
                    body, sent, call = await self._read(endpoint, arrival, scope, receive, caller, room)
            except InvalidRequest as error:
                # Who sends nothing yet wants to know what it costs: directories of paid services ask so.
                if caller.is_keyless and error.code == "invalid_json":
                    self._payment_step.tell_price(endpoint, caller, arrival)
                raise
            if caller.is_keyless and (call.uses or call.shared):
                # What is of the tenant that sells is not of those who buy.
                raise InvalidRequest(
                    "Without an API key a request cannot name what an upstream keeps: send the content itself.",
                    code="unsupported_parameter",
                )
            if caller.end_user_sources:
                call = replace(call, end_user=await end_user_of(caller, arrival.headers, body))
            if (call.uses or call.shared or not endpoint.is_plain) and self._routing.looks_up_ids(endpoint, call):
                await self._routing.catch_up()
            route = self._routing.begin(endpoint, call, body, scope, caller)
            asked = self._ask(arrival, endpoint, caller, route, sent)

            # 3 payment
            watch = ClientWatch(receive, reply, cancellation, caller.plan.on_disconnect == "drain")
            if caller.terms is None:
                await self._fulfil(asked, None, slot, watch, delivery)
                return
            sale = await self._payment_step.admit(asked.request, asked.model.resolved, asked.ask, delivery)
            if isinstance(sale, Recorded):
                await reply.replay(*sale)
                return
            async with sale or _OWES_NOTHING:
                await self._fulfil(asked, sale, slot, watch, delivery)

    def _ask(self, arrival: Arrival, endpoint: Endpoint, caller: Caller, route: Route, sent: Payload) -> _Asked:
        """Returns what the model's name means, and what the request may use at most.

        A name that means nothing is refused at step 7. ``sent``: the body as it goes upstream.
        """
        call = route.call
        model = self._models.find(caller, None if route.is_modelless else call.model)
        if endpoint.is_unmetered:
            model = self._models.priced_by_call(model, endpoint, is_asked=route.asks_model)
        drawer = model.drawer if call.end_user is None else None
        request = Request(arrival, endpoint, caller, call, route.body, model.names, sent, drawer)
        bound = model.usual_bound
        if call.max_tokens is not None or call.bounds:
            bound = completion_bound(call, model.resolved, model.completion_cap)
        ask = worst_case(endpoint, call, model.resolved, bound, caller.price_factor_ppm, arrival.at_us, model.fallbacks)
        if endpoint.makes == "response" and "background" in call.features and route.objects is not None:
            route.objects.worst = Work(lines=1, prompt_tokens=ask.tokens, cost_nano_usd=ask.cost_nano_usd)
        return _Asked(request, route, model, ask, bound if model.is_bounded else None)

    async def _fulfil(
        self, asked: _Asked, sale: Sale | None, slot: ParallelSlot, watch: ClientWatch, delivery: Delivery
    ) -> None:
        """Steps 4 to 11 of a request that is paid for, or owes nothing."""
        request, route, model, resolved = asked.request, asked.route, asked.model, asked.model.resolved
        call, caller = request.call, request.caller

        # 4 plan
        self._check_plan(asked)

        # 5 quota
        opened = self._open_account(request, asked.ask, sale, slot, delivery)
        account = opened if isinstance(opened, Account) else await opened
        try:
            # 6 validation
            if call.invalid is not None:
                raise call.invalid

            # 7 passport
            targets = self._routing.targets(route, resolved, caller.profile)
            if model.wants_price:  # a fallback of unknown price is not served for nothing
                targets = [target for target in targets if target.price.known] or targets[:1]

            # 8 fetch, 9 metering, 10 receipt, 11 response
            delivery.reply.headers.append(receipt_header(request.arrival.receipt_id))
            try:
                watch.begin_behind(request.body)
                if self._routing.reads_files(caller.profile):
                    await self._routing.read_files(targets, caller.profile)
                headers = () if caller.profile is None else self._routing.headers(caller.profile)
                outgoing = self._forwarding.outgoing(request, route.path, asked.bound, headers)
                if route.objects is not None and route.objects.worst is not None:
                    outgoing = replace(outgoing, on_left=route.objects.leave)
                if sale is not None:
                    await delivery.pay_upfront(watch.cancellation)
                answer = await self._fetch(asked, targets, outgoing)
                try:
                    account.target = answer.target
                    if self._settings.upstream.forward_response_headers:
                        delivery.reply.headers += self._passed_on(answer)
                    relaying = relay(answer, delivery, route.objects)
                    if relaying is not None:
                        await relaying
                        if answer.events is not None:
                            watch.stop()  # to it the end of the exchange looks like a client that leaves
                            await answer.events.wait_for_end()
                finally:
                    closing = answer.let_go()
                    if closing is not None:
                        await closing
            except TrustGateError as error:
                delivery.failed(error)
                raise
            except asyncio.CancelledError:
                account.target = account.target or targets[0]
                delivery.cancelled(watch.cancellation.reason or "shutdown")
                raise
            finally:
                watch.stop()
        finally:
            if not account.closed:
                account.leave()

    def _check_plan(self, asked: _Asked) -> None:
        """Step 4. Raises what ``access.plans`` raises: the plan does not allow the request."""
        request, model = asked.request, asked.model
        endpoint, caller, call, resolved = request.endpoint, request.caller, request.call, asked.model.resolved
        if call.end_user:
            check_end_user(caller, call.end_user)
        if not caller.is_unrestricted or call.steering:
            check_plan(
                caller,
                endpoint=endpoint.name,
                model=call.model,
                model_names=model.plan_names,
                features=call.features,
                max_tokens=call.max_tokens,
                prompt_tokens=call.prompt_tokens,
                steering=call.steering,
                lines_for=call.work.endpoints if call.work is not None else (),
            )
        for name in call.inner_models:
            self._models.check_inner(caller, name)
        # A request that names no model is refused for that, before a price is looked for.
        if resolved is not None and not resolved.price.known and (call.model or call.invalid is None):
            slug = endpoint.service_slug or resolved.passport.slug
            check_priced(caller, call.model, slug, model.names, is_priced=False)

    def _fetch(self, asked: _Asked, targets: list[Target], outgoing: Outgoing) -> Awaitable[Answer]:
        """Step 8. Returns the answer of the first target that gives one; for a list, the caller's objects at all."""
        route = asked.route
        deadline = asked.request.arrival.started + self._settings.serve.request_timeout_s
        if route.own is None:
            return self._upstream.fetch(targets, outgoing, deadline=deadline)
        return OwnList(self._upstream, outgoing, route.own, deadline, route.hidden).page(targets)

    def _body_at_hand(
        self, endpoint: Endpoint, arrival: Arrival, scope: Scope, caller: Caller, room: Room
    ) -> bytes | None:
        """Returns the body of a request that goes upstream as it is, where all of it came with its head.

        As it nearly always is; None where ``_read`` is to read it, or to change it. Raises ``Unavailable`` (503) where
        there is no memory for it.
        """
        head = arrival.head
        if head is None or not head.is_usual or not endpoint.goes_as_it_came or caller.profile is not None:
            return None
        if MODEL_IN_PATH in scope:
            return None
        return whole_body(scope, head.length, self._settings.serve.max_body_bytes, room)

    async def _read(
        self, endpoint: Endpoint, arrival: Arrival, scope: Scope, receive: Receive, caller: Caller, room: Room
    ) -> tuple[Payload, Payload, Call]:
        """Returns the request's body, or the beginning of it that can be decided on; that body as the caller's profile
        has it; and what this asks for.
        """
        limits = self._settings.serve
        declared = arrival.headers.get(b"content-length")
        #: Of a path in Azure's form.
        model: str | None = scope.get(MODEL_IN_PATH)
        if endpoint.body != "form":
            max_bytes = limits.max_body_bytes if endpoint.body == "json" else DIRECT_BYTES
            coding = arrival.headers.get(b"content-encoding")
            if coding is not None and endpoint.body == "json":
                # Its length is not told: what counts is the content.
                scope, receive, declared = {}, undone(receive, coding, max_bytes), None
            length = int(declared or b"0")
            body: bytes | LargeBody | None = whole_body(scope, length, max_bytes, room)
            if body is None:
                room.expect(length)
                body = await read_json(receive, max_bytes, limits.body_timeout_s, room)
            sent = body if model is None else with_model(body, model)
            profile = caller.profile
            if profile is not None:
                sent = await under_profile(profile, endpoint, sent)
            call = endpoint.peek(sent) if isinstance(sent, bytes) else await peek(endpoint, sent)
            if endpoint.body == "none" and endpoint.has_model:
                call = endpoint.peek_query(scope["query_string"])
            elif endpoint.makes == "message_batch":
                text = sent if isinstance(sent, bytes) else sent.skeleton
                judge = LineJudge(caller, self._catalog, self._routing.check_shared)
                call = await judged_messages(text, call, judge)
            if model is not None:
                call = replace(call, place=model)
            if profile is None:
                return body, sent, call
            call = own_steering(profile.rules, endpoint, call)
            return body, sent, with_bound(profile.rules, call) if endpoint.generates else call
        content_type = arrival.headers.get(b"content-type", b"")
        upload = Upload(
            receive,
            content_type,
            endpoint.needed - {"model"} if model is not None else endpoint.needed,
            endpoint.decisive,
            limits.max_upload_bytes,
            limits.max_body_bytes,
            judge_line=LineJudge(caller, self._catalog, self._routing.check_shared)
            if endpoint.makes == "file"
            else None,
            hears=endpoint.hears,
            hold=room.take,
        )
        await upload.read_head(limits.body_timeout_s)
        audio_ms = upload.audio_ms(None if declared is None else int(declared)) if endpoint.hears else 0
        fields = upload.fields if model is None else {**upload.fields, "model": model}
        call = endpoint.peek_form(fields, upload.batch, audio_ms)
        return upload, upload, call if model is None else replace(call, place=model)

    def _open_account(
        self, request: Request, ask: Ask, sale: Sale | None, slot: ParallelSlot, delivery: Delivery
    ) -> Account | Awaitable[Account]:
        """Hold the worst case: at once where this process counts alone, or nothing limits the caller.

        Raises ``RateLimited`` (429), which gets a receipt, too, or ``Unavailable``.
        """
        try:
            hold = self._accounting.keeping.open(request, ask, slot)
        except RateLimited as refusal:
            delivery.account = self._accounting.refuse(request, refusal, delivery.reply)
            raise
        if isinstance(hold, _AT_ONCE):
            return self._admit(request, hold, sale, delivery)
        return self._open_shared(request, hold, sale, delivery)

    async def _open_shared(
        self, request: Request, opening: Awaitable[RequestHold], sale: Sale | None, delivery: Delivery
    ) -> Account:
        """As ``_open_account``, where several processes count."""
        try:
            return self._admit(request, await opening, sale, delivery)
        except RateLimited as refusal:
            delivery.account = self._accounting.refuse(request, refusal, delivery.reply)
            raise

    def _admit(self, request: Request, hold: RequestHold, sale: Sale | None, delivery: Delivery) -> Account:
        account = delivery.account = Account(self._accounting, request, hold, sale)
        if hold.rates != _NO_RATES:
            delivery.reply.headers += rate_headers(hold.rates)
        return account

    def _passed_on(self, answer: Answer) -> Headers:
        """Returns the upstream's response headers that the operator lets through."""
        headers: Headers = []
        for name in self._settings.upstream.forward_response_headers:
            value = answer.headers.get(name)
            if value is not None:
                headers.append((name.lower().encode(), value.encode("latin-1", "replace")))
        return headers


def with_model(body: bytes | LargeBody, model: str) -> bytes | LargeBody:
    """Returns a JSON body with the model that its request's path names. One that is no JSON stays as it is."""
    try:
        if isinstance(body, LargeBody):
            return body.with_skeleton(edited(body.skeleton, {"model": model}, {}, {}))
        return edited(body, {"model": model}, {}, {})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body


_NO_RATES = (None, None)
#: What is held where nothing has to be waited for.
_AT_ONCE = Hold, SharedHold
_OWES_NOTHING: contextlib.nullcontext[None] = contextlib.nullcontext()
