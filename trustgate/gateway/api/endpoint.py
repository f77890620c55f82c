"""What an endpoint of the path is: route, wire type, what to hold, gate, meter and remember.

Owns the form of the description. The endpoints themselves are in ``api.endpoints`` (what is metered) and
``api.resources`` (what upstreams keep).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.api.batch_files import BatchFile
from trustgate.gateway.api.body_faults import explain, json_fault
from trustgate.gateway.api.body_ids import (
    ALL_MARKS,
    ANTHROPIC_MARKS,
    NOTHING,
    OPENAI_MARKS,
    RESPONSES_MARKS,
    Marks,
    named_in,
)
from trustgate.gateway.api.call import Call, broken_call, with_ids, with_members
from trustgate.gateway.api.dialects import ANTHROPIC, OPENAI, Dialect
from trustgate.gateway.api.members import BOUNDS, COMMON
from trustgate.gateway.api.object_ids import BATCHES, Kind
from trustgate.gateway.api.parsing import read_nothing
from trustgate.gateway.api.schemas import Nothing
from trustgate.models.metering import whole
from trustgate.types import SERVICE_PREFIX

Body = Literal["json", "form", "none"]
Method = Literal["GET", "POST", "DELETE", "PUT", "PATCH"]


#: What decodes bodies, by wire type: one for all its endpoints, since each takes some kilobytes.
_decoders: dict[Any, Callable[[bytes], Any]] = {}


def _decoder(wire: Any) -> Callable[[bytes], Any]:
    found = _decoders.get(wire)
    if found is None:
        found = _decoders[wire] = msgspec.json.Decoder(wire).decode
    return found


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One route of the path. ``name`` is what plans and receipts call it; several routes may share one."""

    name: str
    #: ``{id}`` in it is an upstream's id, which must belong to the caller's tenant (``names`` holds the kind); another
    #: name in braces is the kind of an id below that one.
    path: str
    #: Where the upstream serves it, below its base URL.
    upstream_path: str
    summary: str
    method: Method = "POST"
    body: Body = "json"
    #: What the refusal of a form that lacks a required field ends with.
    form_hint: str = ""
    #: A form that may be sent as JSON as well.
    takes_json: bool = False
    wire: type[Any] = Nothing
    read: Callable[[Any], Call] = read_nothing
    dialect: Dialect = OPENAI
    #: What an answer that is no stream of events may be: a JSON object, or anything (relayed as it comes).
    answers: Literal["object", "any"] = "object"
    #: Reads the usage of a whole answer.
    meter: Callable[[bytes], whole.Reported] = whole.read_answer
    #: Whether the answer holds generated tokens that a bound applies to.
    generates: bool = False
    #: The member that bounds the completion when the gateway has to set one; and what OpenAI's own servers want.
    max_tokens_member: str = "max_tokens"
    openai_max_tokens_member: str = ""
    #: Whether a bound of 0 is one by the API's own definition.
    zero_is_none: bool = False
    #: Whether a stream reports its usage only when ``stream_options.include_usage`` asks for it.
    asks_usage: bool = False
    #: Whether a passport's default parameters belong into the request.
    takes_defaults: bool = False
    #: Whether a try that failed may be made again: not where a second try could make a second thing.
    retries: bool = True
    #: The kind of id that the answer gives out, that the path names, that the answer lists, and whether it is deleted.
    makes: Kind | None = None
    names: Kind | None = None
    lists: Kind | None = None
    deletes: bool = False
    #: What it deletes is taken out of another object only, and is still there.
    keeps_child: bool = False
    #: Further ids in the answer that are the caller's from then on: the member's path (``file.id``) and the kind.
    learns: tuple[tuple[str, Kind], ...] = ()
    #: The kind of the id of an answer that its request asks the upstream to keep (``store``).
    stores: Kind | None = None
    #: The answer does not tell what the call costs (``api.resources``); and whether it may have a price all the same.
    is_unmetered: bool = False
    is_sold_by_call: bool = False
    #: Its body names models at any depth, which the upstream reads as they are.
    has_inner_models: bool = False
    #: Its file is a recording.
    hears: bool = False
    #: It only counts what another request would use.
    counts: bool = False
    #: Servers have it beside ``/v1``, not below it.
    at_root: bool = False
    # What follows from the others, worked out when it is made, since each request needs these.
    #: Whether a request costs something by itself: not one that looks at, lists, ends or counts.
    is_sold: bool = False
    #: Names no upstream's ids and gives none out: the usual case.
    is_plain: bool = False
    #: Whether every body names its model, in the bytes that it was read from.
    is_model_named: bool = False
    #: Whether its body is JSON of which nothing is to be read before the rest, or changed in it by its kind.
    goes_as_it_came: bool = False
    #: Whether callers without a key can buy it: nothing that an upstream keeps or has kept, and no form.
    sells_keyless: bool = False
    #: Decodes a body into its wire type.
    _decode: Callable[[bytes], Any] = msgspec.json.decode
    #: The members that need no second look.
    _unremarkable: frozenset[str] = COMMON
    #: What ids in a body are called.
    _marks: Marks = ALL_MARKS

    def __post_init__(self) -> None:
        if self.is_unmetered:
            is_sold, marks = self.is_sold_by_call, ALL_MARKS
        else:
            is_sold = (self.has_model and not self.counts) or self.makes in BATCHES
            # What is asked about a response names what a response does, in the errors and streams of other documents.
            marks = RESPONSES_MARKS if self.name == "responses" else _MARKS.get(self.dialect, OPENAI_MARKS)
        is_plain = self.has_model and not self.is_unmetered and (self.makes or self.names or self.lists) is None
        is_keyless = is_sold and is_plain and self.body == "json" and self.name not in ("responses", "images.edits")
        worked_out = {
            "is_sold": is_sold,
            "is_plain": is_plain,
            "is_model_named": is_plain and "model" in self.needed,
            "goes_as_it_came": self.body == "json" and self.makes != "message_batch",
            "sells_keyless": is_keyless,
            "_decode": _decoder(self.wire),
            "_unremarkable": COMMON | frozenset(self.wire.__struct_fields__),
            "_marks": marks,
        }
        for name, value in worked_out.items():
            msgspec.structs.force_setattr(self, name, value)

    @cached_property
    def has_model(self) -> bool:
        return "model" in self.wire.__struct_fields__

    @cached_property
    def service_slug(self) -> str:
        """The slug of the passport that has the price of its calls; "" where its answers are metered."""
        return SERVICE_PREFIX + self.name if self.is_unmetered else ""

    @cached_property
    def children(self) -> tuple[str, ...]:
        """The kinds of the ids in its path that stand below the caller's own one."""
        return tuple(name for name in re.findall(r"\{(\w+)\}", self.path) if name != "id")

    @cached_property
    def as_json(self) -> Endpoint:
        """The same endpoint for a request whose body is JSON, where its body is a form otherwise."""
        return msgspec.structs.replace(self, body="json", takes_json=False) if self.takes_json else self

    @cached_property
    def needed(self) -> frozenset[str]:
        """The fields without which nothing can be decided."""
        return frozenset(field.name for field in msgspec.structs.fields(self.wire) if field.required)

    @cached_property
    def decisive(self) -> frozenset[str]:
        """The fields of a form that may be said once only, and not after its beginning was sent on."""
        return frozenset(self.wire.__struct_fields__) & {"model", "stream", "n", "purpose", "file_id"}

    def is_bounded_by(self, bounds: Iterable[tuple[str, float]]) -> bool:
        """Returns whether one of these bounds has a name that every server of this endpoint reads."""
        return any(name in self._bound_members for name, _ in bounds)

    @cached_property
    def _bound_members(self) -> frozenset[str]:
        return frozenset(self.wire.__struct_fields__) & BOUNDS

    def keeps_bound(self, value: float, most: int) -> bool:
        """Returns whether a bound of the client's may stay as it is where ``most`` is allowed.

        0 means "nothing" where the API defines it so (the texts of ``/completions`` are scored with it, a prompt is put
        into a cache with it); elsewhere some servers take it for "no bound" (Ollama), as all take -1.
        """
        return 0 < value <= most or (value == 0 and self.zero_is_none)

    def peek(self, body: bytes) -> Call:
        """Read a body once. Raises ``InvalidRequest`` when it is not a JSON object in UTF-8."""
        if self.body == "none":
            return _NOTHING_ASKED
        try:
            if not body.isascii():
                body.decode()  # msgspec looks into no text that it skips
            read, decode = self.read, self._decode
            call = read(decode(body))
            call = with_members(call, body, _members(body), self._unremarkable, generates=self.generates)
            named = named_in(body, self._marks)
            return call if named is NOTHING else with_ids(call, named, models=self.has_inner_models)
        except msgspec.ValidationError as error:
            return broken_call(body, error)
        except RecursionError:
            raise InvalidRequest("The JSON body is nested too deeply.", code="invalid_json") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(
                f"We could not parse the JSON body of your request: {json_fault(body, error)}.", code="invalid_json"
            ) from None

    def peek_query(self, query: bytes) -> Call:
        """Read the query of a request whose model stands there, since it has no body."""
        names = [value for name, value in parse_qsl(query.decode("latin-1")) if name == "model"]
        try:
            return self.read(msgspec.convert({"model": names[0]} if len(names) == 1 else {}, self.wire))
        except msgspec.ValidationError as error:
            return Call(model="", choices=0, invalid=explain(error))

    def peek_form(self, fields: dict[str, str], batch: BatchFile | None, audio_ms: int) -> Call:
        """Read the fields of a form: each is text, and converted to what its member is.

        ``batch``: the requests in its file; ``audio_ms``: how long a recording that is its file may be.
        """
        try:
            call = self.read(msgspec.convert(fields, self.wire, strict=False))
            if batch is not None:
                return msgspec.structs.replace(call, model=batch.model)
            return call if not self.hears else msgspec.structs.replace(call, audio_ms=audio_ms)
        except msgspec.ValidationError as error:
            invalid = explain(error)
            if self.form_hint and invalid.code == "missing_required_parameter":
                invalid.message += f" {self.form_hint}"
            return Call(model=fields.get("model", ""), choices=0, invalid=invalid)


#: What the ids in a body are called, by API.
_MARKS = {ANTHROPIC: ANTHROPIC_MARKS}
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOTHING_ASKED = Call(model="", choices=0)
