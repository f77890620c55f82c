"""A ``Call``: the few facts of a request that plan, quota and routing decide by.

Owns what is added to it once its body has been decoded, and the call of a body that breaks its type. What is read of
each wire type is in ``api.parsing``.
"""

from __future__ import annotations

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.body_faults import explain
from trustgate.gateway.api.body_ids import Named
from trustgate.gateway.api.member_names import (
    Members,
    may_be_misnamed_inside,
    misnamed,
    misnamed_inside,
    misnamed_options,
)
from trustgate.gateway.api.members import JudgedMembers, judge, largest
from trustgate.gateway.api.object_ids import Kind, Work
from trustgate.gateway.api.schemas import ModelOnly


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, as far as the gateway must know."""

    model: str
    stream: bool = False
    #: The client's own bound on one completion, in tokens: the largest of those in ``bounds``; None when it set none.
    max_tokens: int | None = None
    #: Every bound that an upstream may read, by name, as it is given.
    bounds: tuple[tuple[str, float], ...] = ()
    #: Members that steer the upstream: what the plan must allow.
    steering: tuple[str, ...] = ()
    choices: int = 1
    prompt_tokens: int = 0
    #: How many messages it has, where they are called so.
    messages: int = 0
    #: A message's content is a list.
    has_parts: bool = False
    features: tuple[str, ...] = ()
    #: The client itself asked for the usage chunk at the end of its stream.
    include_usage: bool = False
    #: What is counted in other units than tokens and known beforehand: images to make, characters to speak.
    images: int = 0
    characters: int = 0
    #: The length of a recording at most, milliseconds.
    audio_ms: int = 0
    #: What a price may depend on: the tier that is asked for, and of images their size and quality.
    service_tier: str = ""
    image_size: str = ""
    image_quality: str = ""
    #: The upstream's ids that the request builds on: (kind, id).
    uses: tuple[tuple[Kind, str], ...] = ()
    #: Ids that are the tenant's own, or else an operator's that the plan shares by a member's name: (kind, id, member).
    shared: tuple[tuple[Kind, str, str], ...] = ()
    #: The models that a body names for tools, or at any depth, where they go upstream as they are.
    inner_models: tuple[str, ...] = ()
    #: The upstream is asked to keep the answer under an id.
    stored: bool = False
    #: The object or the model in the path, where what is paid for depends on it.
    place: str = ""
    #: Of a batch: what its lines ask for.
    work: Work | None = None
    #: The end user's pseudonym; "" where the request names none; None where those of its key do not.
    end_user: str | None = None
    #: Set when the body breaks the wire type: what the sixth step raises.
    invalid: InvalidRequest | None = None


#: The most members of a request: no API has half as many.
MOST_MEMBERS = 256


def too_many_members() -> InvalidRequest:
    return InvalidRequest(f"The body has more than {MOST_MEMBERS} parameters.", code="unsupported_parameter")


def with_members(call: Call, body: bytes, members: Members, wire: frozenset[str], *, generates: bool) -> Call:
    """Returns the call with what its other members say (``api.members``): what steers, further bounds, a wrong name."""
    if len(members) > MOST_MEMBERS:
        return msgspec.structs.replace(call, invalid=too_many_members())
    if not members.keys() <= wire:
        judged = judge(members, wire, generates=generates)
        if judged != _UNREMARKABLE:
            bounds = (*call.bounds, *judged.bounds)
            call = msgspec.structs.replace(
                call,
                bounds=bounds,
                # Of several names an upstream reads one, and it is not known which.
                max_tokens=largest(bounds) if judged.bounds else call.max_tokens,
                choices=max(call.choices, judged.choices) if generates else call.choices,
                images=max(call.images, judged.choices) if call.images else 0,
                steering=(*call.steering, *judged.steering),
                invalid=call.invalid or judged.fault,
            )
    fault = misnamed(body, members)
    if fault is None and call.messages and may_be_misnamed_inside(body, call.messages, parts=call.has_parts):
        fault = misnamed_inside(members)
    if fault is None and (options := members.get("stream_options")) is not None:
        fault = misnamed_options(options)
    return call if fault is None else msgspec.structs.replace(call, invalid=call.invalid or fault)


_UNREMARKABLE = JudgedMembers()


def with_ids(call: Call, named: Named, *, models: bool) -> Call:
    """Returns the call with the upstreams' ids that its body names.

    ``models``: whether the models that it names at any depth count too.
    """
    return msgspec.structs.replace(
        call,
        uses=(*call.uses, *named.uses),
        shared=named.shared,
        steering=tuple(dict.fromkeys((*call.steering, *named.steering))),
        inner_models=named.models if models else call.inner_models,
    )


def broken_call(body: bytes, error: msgspec.ValidationError) -> Call:
    """Returns the call of a body that is JSON and breaks its wire type: what can be read of it, and the refusal."""
    return Call(model=_readable_model(body), prompt_tokens=-(-len(body) // 4), invalid=explain(error))


def _readable_model(body: bytes) -> str:
    try:
        model = msgspec.json.decode(body, type=ModelOnly).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return model if isinstance(model, str) else ""
