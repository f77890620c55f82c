"""A line of a batch's file, judged as a request of its own: what the plan allows, and what it may use at most.

The upstream runs the lines without asking the gateway again, and the file goes there as it is. So what could be added
to a request on its way (a bound on the completion) must be in the line already, for those who are held to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from trustgate.access.directory import Caller
from trustgate.access.end_users import BODY, name_in_body, pseudonym
from trustgate.access.plans import check_end_user, check_plan, completion_cap
from trustgate.access.quota import Ask
from trustgate.errors import InvalidRequest, TrustGateError
from trustgate.gateway.api.batch_files import JudgedLine, is_like, with_line
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint
from trustgate.gateway.api.member_names import misnamed
from trustgate.gateway.api.object_ids import Kind, Work
from trustgate.gateway.api.schemas import BatchedMessage, MessageBatchRequest
from trustgate.gateway.path.profiling import applied, bounds_completion
from trustgate.gateway.path.worst_case import completion_bound, worst_line
from trustgate.ids import now_us
from trustgate.models.catalog import Catalog, Resolved
from trustgate.models.profiles import MAX_TOKENS, summed_up
from trustgate.types import ProfileRules

#: The endpoints that lines may be for.
_BY_URL = {
    endpoint.path: endpoint
    for endpoint in ENDPOINTS
    if endpoint.has_model and endpoint.body == "json" and not endpoint.is_unmetered
}


class LineJudge:
    """Judges the lines of one file for its caller."""

    def __init__(
        self, caller: Caller, catalog: Catalog, check_shared: Callable[[Kind, str, str], None] | None = None
    ) -> None:
        """``check_shared``: takes the kind and the id of an object that may be an operator's, and the tenant's id;
        raises where it is another tenant's.
        """
        self._caller = caller
        self._check_shared = check_shared
        self._catalog = catalog
        self._cap = completion_cap(caller)
        bound = None if caller.profile is None else caller.profile.rules.caps.get(MAX_TOKENS)
        if bound is not None:
            self._cap = bound if self._cap is None else min(bound, self._cap)

    def __call__(self, method: str, url: str, body: bytes) -> JudgedLine:
        """Raises what such a request would be refused for."""
        endpoint = _BY_URL.get(url)
        if endpoint is None or method != "POST":
            raise InvalidRequest(f"There is no {method[:10]} {url[:80]} for batches.", code="invalid_batch_file")
        profile = self._caller.profile
        if profile is not None and applied(profile.rules, endpoint, body) != body:
            raise InvalidRequest(
                "It must be as this account's profile has it, since a batch's lines are not changed on their way: "
                f"{_wanted(profile.rules)}.",
                code="invalid_batch_file",
            )
        call = endpoint.peek(body)
        if call.uses:
            # Whose it is could be told only when the batch's file is upstream already.
            raise InvalidRequest(
                "It names a file or another object of an upstream: put its content into the request instead.",
                code="invalid_batch_file",
            )
        for kind, object_id, _ in call.shared:
            if self._check_shared is not None:
                self._check_shared(kind, object_id, self._caller.tenant.id)
        if call.inner_models:
            raise InvalidRequest("It names a model for a tool: leave that out in a batch.", code="invalid_batch_file")
        if BODY in self._caller.end_user_sources:
            name = name_in_body(body)
            check_end_user(self._caller, pseudonym(self._caller.end_user_salt, name) if name else None)
        resolved = self._catalog.resolve(call.model, profile) if call.model else None
        check_plan(
            self._caller,
            endpoint=endpoint.name,
            model=call.model,
            model_names=resolved.names if resolved is not None else (call.model,),
            features=call.features,
            max_tokens=call.max_tokens,
            prompt_tokens=call.prompt_tokens,
            # Whose a shared object is cannot be told either: the plan must allow the member.
            steering=(*call.steering, *(member for _, _, member in call.shared)),
        )
        if call.invalid is not None:
            raise call.invalid
        is_bounded = self._caller.is_metered or (profile is not None and bounds_completion(profile.rules))
        if is_bounded and endpoint.generates:
            self._check_bounded(endpoint, call, resolved)
        bound = completion_bound(call, resolved, self._cap)
        factor_ppm, at_us = self._caller.price_factor_ppm, now_us()
        able = self._able(call.model, resolved)
        asks = [worst_line(endpoint, call, each, bound, factor_ppm, at_us) for each in able]
        ask = Ask(max([each.tokens for each in asks]), max([each.cost_nano_usd for each in asks]))
        sizes, qualities = (frozenset(), frozenset()) if resolved is None else resolved.price.sizes()
        completion_tokens = bound * call.choices if endpoint.generates else 0
        return JudgedLine(
            endpoint=endpoint.name,
            model=call.model,
            prompt_tokens=ask.tokens - completion_tokens,
            completion_tokens=completion_tokens,
            cost_nano_usd=ask.cost_nano_usd,
            bound=call.max_tokens or 0,
            features=call.features,
            profile="" if profile is None else profile.id,
            image_size=call.image_size if sizes else "",
            image_quality=call.image_quality if qualities else "",
            prices=tuple([each.price.hash for each in able if each is not None]),
            factor_ppm=factor_ppm,
        )

    def _able(self, model: str, resolved: Resolved | None) -> Sequence[Resolved | None]:
        """Returns what may answer a line: the model, and of what stands in for it that which calls it by its name."""
        if resolved is None or not resolved.passport.fallbacks:
            return (resolved,)
        others = self._catalog.fallbacks(resolved.passport, self._caller.profile)
        return (resolved, *(each for each in others if each.upstream_model == model))

    def _check_bounded(self, endpoint: Endpoint, call: Call, resolved: Resolved | None) -> None:
        """Raise ``InvalidRequest`` for a line that could use more than is held for it."""
        most = completion_bound(call, resolved, self._cap)
        own = [value for name, value in call.bounds if endpoint.is_bounded_by([(name, value)])]
        if not own or not all(endpoint.keeps_bound(value, most) for _, value in call.bounds):
            raise InvalidRequest(
                f"It must set {endpoint.max_tokens_member}, to {most} at most: what this account uses is limited.",
                code="invalid_batch_file",
            )


async def judged_messages(body: bytes, call: Call, judge: LineJudge) -> Call:
    """Returns the call of a batch of messages, with the one model of its requests and their worst case in all.

    ``body``: as ``Endpoint.peek`` has read it. Raises the refusal of the first request that is refused.
    """
    if call.invalid is not None:
        return call
    work, model = Work(), ""
    for number, raw in enumerate(msgspec.json.decode(body, type=MessageBatchRequest).requests):
        if number % _LINES_A_TURN == _LINES_A_TURN - 1:
            await asyncio.sleep(0)  # other requests run
        try:
            line = _judged_message(bytes(raw), judge)
        except TrustGateError as refusal:
            told = refusal.message[:1].lower() + refusal.message[1:]
            refusal.message = f"requests.{number} is refused: {told}"
            refusal.param = f"requests.{number}"
            raise
        model = model or line.model
        if line.model != model:
            raise InvalidRequest(
                f"requests.{number} asks for the model {line.model[:80]!r}, others for {model[:80]!r}: a batch has one "
                "model.",
                param=f"requests.{number}",
                code="invalid_batch_file",
            )
        if not is_like(work, line):
            raise InvalidRequest(
                f"requests.{number} asks for images of another size or quality: a batch has one, since they have "
                "prices of their own.",
                param=f"requests.{number}",
                code="invalid_batch_file",
            )
        work = with_line(work, line)
    return msgspec.structs.replace(
        call,
        model=model,
        work=work,
        prompt_tokens=work.largest_prompt,
        max_tokens=work.largest_bound or None,
        features=work.features,
    )


def _judged_message(raw: bytes, judge: LineJudge) -> JudgedLine:
    try:
        asked = msgspec.json.decode(raw, type=BatchedMessage)
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("It is no object with custom_id and params.", code="invalid_batch_file") from None
    # What is judged is what the upstream reads.
    if misnamed(raw, members) is not None or any(
        name.casefold() in BatchedMessage.__struct_fields__ and name not in BatchedMessage.__struct_fields__
        for name in members
    ):
        raise InvalidRequest("It names a member twice, or in another spelling.", code="invalid_batch_file")
    params = bytes(asked.params)
    line = judge("POST", "/v1/messages", params)
    if "streaming" in line.features:
        raise InvalidRequest("A batch has no streams: leave stream out.", code="invalid_batch_file")
    return line


#: So many requests of a batch are judged in one turn of the event loop.
_LINES_A_TURN = 50
#: The rules that change a request's body.
_OF_BODIES = frozenset({"parameters", "defaults", "caps", "system", "default_model"})


def _wanted(rules: ProfileRules) -> str:
    """Returns the rules that change bodies, for people; a system message may be long, and is not repeated."""
    names = [
        name if name in ("system", "default_model") else ", ".join(f"{each} ({name})" for each in value)
        for name, value in summed_up(rules)
        if name in _OF_BODIES
    ]
    return f"see {', '.join(names)}"
