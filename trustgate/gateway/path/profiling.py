"""A request as its caller's profile has it: what is judged, held, priced and sent is this body; the client's own bytes
are what the receipt commits to and what a payment is bound to.

Owns how a rule is written into the body of each API: OpenAI's chat completions, completions and responses, and
Anthropic's messages, and of embeddings what they have. A rule that an API has no member for is left out of its
requests. Forms take no parameters. A batch's lines go upstream as they are, so they must be as the rules would make
them (``batch_lines``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from trustgate.gateway.api.call import Call
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.large_body import LargeBody, in_reader
from trustgate.gateway.api.member_names import Members, misnamed, plain
from trustgate.gateway.api.members import BOUNDS, NESTED, steers
from trustgate.models.profiles import EFFORTS, MAX_TOKENS, lower_effort
from trustgate.types import Profile, ProfileRules

_EFFORT = "reasoning_effort"
_FORMAT = "response_format"
#: What embeddings alone have (OpenAI API reference, "Create embeddings"), and what they take of a profile.
_OF_EMBEDDINGS: Mapping[str, None] = dict.fromkeys(("dimensions", "encoding_format"))
_TAKEN_BY_EMBEDDINGS = (*_OF_EMBEDDINGS, "user")
#: What a parameter is called elsewhere than in chat completions; ``a.b`` is member b of the object a. None: nothing.
_RENAMED: Mapping[str, Mapping[str, str | None]] = {
    "chat.completions": _OF_EMBEDDINGS,
    "completions": {_EFFORT: None, _FORMAT: None, **_OF_EMBEDDINGS},
    "responses": {
        **_OF_EMBEDDINGS,
        _EFFORT: "reasoning.effort",
        _FORMAT: "text.format",
        "verbosity": "text.verbosity",
        **dict.fromkeys(("frequency_penalty", "presence_penalty", "seed", "stop", "logit_bias", "logprobs")),
    },
    "messages": {
        **_OF_EMBEDDINGS,
        "stop": "stop_sequences",
        **dict.fromkeys((_EFFORT, _FORMAT, "verbosity", "seed", "logprobs", "top_logprobs", "logit_bias")),
        **dict.fromkeys(("frequency_penalty", "presence_penalty", "parallel_tool_calls")),
    },
}
#: Where a system message stands that is a member of its own.
_SYSTEM_MEMBER = {"responses": "instructions", "messages": "system"}
#: Where else servers look for an effort, whatever the API (OpenRouter, Anthropic, DeepSeek).
_WITH_EFFORT = ("reasoning", "output_config")
_SYSTEM_ROLES = frozenset({"system", "developer"})
_BETWEEN = "\n\n"

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


async def under_profile(profile: Profile | None, endpoint: Endpoint, body: bytes | LargeBody) -> bytes | LargeBody:
    """Returns the body as the profile has it: the very same where nothing changes.

    A body that is not what its endpoint takes comes back as it is: it is refused later, in the client's own words.
    """
    if profile is None or endpoint.body != "json" or not _changes_bodies(profile.rules):
        return body
    if isinstance(body, bytes):
        return applied(profile.rules, endpoint, body)
    skeleton = await in_reader(lambda large: applied(profile.rules, endpoint, large.skeleton), body)
    return body if skeleton is body.skeleton else body.with_skeleton(skeleton)


def _changes_bodies(rules: ProfileRules) -> bool:
    return bool(rules.parameters or rules.defaults or rules.caps or rules.system or rules.default_model)


def applied(rules: ProfileRules, endpoint: Endpoint, body: bytes) -> bytes:
    """Returns a JSON body with the rules applied to it; the very same where nothing changes."""
    try:
        members = _members(body)
        if misnamed(body, members) is not None:
            return body
        edit = _Edit(members)
        _apply(rules, endpoint, edit)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body
    return _encode(edit.members) if edit.is_changed else body


def bounds_completion(rules: ProfileRules) -> bool:
    """Returns whether the rules have a bound on the completion, which is sent along with every request."""
    return any(MAX_TOKENS in each for each in (rules.parameters, rules.defaults, rules.caps))


def with_bound(rules: ProfileRules, call: Call) -> Call:
    """Returns the call with the bound on its completion that the rules leave it."""
    asked = call.max_tokens
    if MAX_TOKENS in rules.parameters:
        asked = rules.parameters[MAX_TOKENS]
    elif asked is None:
        asked = rules.defaults.get(MAX_TOKENS)
    most = rules.caps.get(MAX_TOKENS)
    if most is not None and MAX_TOKENS not in rules.parameters:
        asked = most if asked is None else min(asked, most)
    return call if asked == call.max_tokens else msgspec.structs.replace(call, max_tokens=asked)


def own_steering(rules: ProfileRules, endpoint: Endpoint, call: Call) -> Call:
    """Returns the call without the steering members that the rules set: those come from the operator.

    On endpoints whose bodies the rules do not change, they come from the client.
    """
    if not call.steering or not rules.parameters or not endpoint.generates or endpoint.name not in _RENAMED:
        return call
    own = {name for name in rules.parameters if steers(name)}
    return msgspec.structs.replace(call, steering=tuple(name for name in call.steering if name not in own))


def capped_defaults(rules: ProfileRules, defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns a passport's default parameters within the caps."""
    return {
        name: _within(name, value, rules.caps[name]) if name in rules.caps else value
        for name, value in defaults.items()
    }


class _Edit:
    """The members of a body, and whether any has been changed. A value that is the same already is no change."""

    def __init__(self, members: Members) -> None:
        self.members = dict(members)
        self.is_changed = False

    def has(self, name: str) -> bool:
        return bytes(self.members.get(name, b"null")) != b"null"

    def read(self, path: str) -> Any:
        """Returns a value; None where it is absent or null."""
        outer, dot, inner = path.partition(".")
        raw: Any = self.members.get(outer)
        if dot:
            raw = _members(bytes(raw)).get(inner) if raw is not None and bytes(raw)[:1] == b"{" else None
        return None if raw is None else _decode(bytes(raw))

    def inside(self, outer: str) -> list[str]:
        """Returns the names in a member that is an object; from then on each stands there once, and not in escapes."""
        raw = bytes(self.members.get(outer, b""))
        if raw[:1] != b"{":
            return []
        inner = _members(raw)
        if misnamed(raw, inner) is not None:
            self.replace(outer, _encode(inner))
        return list(inner)

    def write(self, path: str, value: Any) -> None:
        if self.read(path) == value and not isinstance(value, bool):
            return
        outer, dot, inner = path.partition(".")
        if not dot:
            self.replace(outer, _encode(value))
            return
        raw = self.members.get(outer)
        kept = _members(bytes(raw)) if raw is not None and bytes(raw)[:1] == b"{" else {}
        kept[inner] = msgspec.Raw(_encode(value))
        self.replace(outer, _encode(kept))

    def replace(self, name: str, raw: bytes) -> None:
        self.members[name] = msgspec.Raw(raw)
        self.is_changed = True


def _apply(rules: ProfileRules, endpoint: Endpoint, edit: _Edit) -> None:
    # A stored prompt names a model itself.
    has_prompt = endpoint.name == "responses" and edit.has("prompt")
    takes_default = endpoint.has_model and not endpoint.is_unmetered and not has_prompt
    if takes_default and rules.default_model is not None and _is_blank(edit.members.get("model")):
        edit.replace("model", _encode(rules.default_model))
    if endpoint.name == "embeddings":
        _apply_to_embeddings(rules, edit)
    renamed = _RENAMED.get(endpoint.name)
    if renamed is None or not (endpoint.generates or endpoint.counts):
        return
    if endpoint.generates:
        for name, value in rules.parameters.items():
            if name == MAX_TOKENS:
                _set_bound(endpoint, edit, value)
            else:
                if (path := renamed.get(name, name)) is not None:
                    edit.write(path, _in_api(endpoint, name, value))
                for other in _elsewhere(endpoint, edit, name):
                    edit.write(other, value)
        for name, value in rules.defaults.items():
            path = renamed.get(name, name)
            if name not in rules.parameters and name != MAX_TOKENS and path is not None and edit.read(path) is None:
                edit.write(path, _in_api(endpoint, name, value))
        for name, most in rules.caps.items():
            if name not in rules.parameters and name != MAX_TOKENS:
                _cap(endpoint, edit, name, most)
        _bound_messages(rules, endpoint, edit)
    if rules.system is not None:
        _put_before(rules.system, endpoint, edit)


def _apply_to_embeddings(rules: ProfileRules, edit: _Edit) -> None:
    for name in _TAKEN_BY_EMBEDDINGS:
        if name in rules.parameters:
            edit.write(name, rules.parameters[name])
        elif name in rules.defaults and edit.read(name) is None:
            edit.write(name, rules.defaults[name])
        asked = edit.read(name)
        if name in rules.caps and name not in rules.parameters and asked is not None:
            edit.write(name, _within(name, asked, rules.caps[name]))


def _cap(endpoint: Endpoint, edit: _Edit, name: str, most: Any) -> None:
    path = _RENAMED[endpoint.name].get(name, name)
    for each in (*(() if path is None else (path,)), *_elsewhere(endpoint, edit, name)):
        asked = edit.read(each)
        # Anthropic's has none below "low".
        limit = "low" if each == "output_config.effort" and most in EFFORTS[:2] else most
        within = asked if asked is None else _within(name, asked, limit)
        is_number = isinstance(within, int | float) and not isinstance(within, bool)
        if name != _EFFORT and asked is not None and not is_number and each not in endpoint.wire.__struct_fields__:
            within = most  # nothing else refuses it, and a lenient server makes a number of it
        if within != asked:
            edit.write(each, within)


def _elsewhere(endpoint: Endpoint, edit: _Edit, name: str) -> list[str]:
    """Returns where else in the body a server may read a parameter: under a name of another case, inside of the
    objects that some servers take, and an effort in other APIs' words.
    """
    path, wanted = _RENAMED[endpoint.name].get(name, name), plain(name)
    found = [each for each in edit.members if plain(each) == wanted]
    found += [f"{outer}.{inner}" for outer in NESTED for inner in edit.inside(outer) if plain(inner) == wanted]
    if name == _EFFORT:
        found += [f"{outer}.effort" for outer in _WITH_EFFORT if "effort" in edit.inside(outer)]
        found += ["effort"] if "effort" in edit.members else []
    return [each for each in found if each != path]


def _is_blank(raw: msgspec.Raw | None) -> bool:
    return raw is None or bytes(raw) in (b"null", b'""')


def _within(name: str, asked: Any, most: Any) -> Any:
    """Returns what is asked, or the most that may be; what is no number as it is."""
    if name == _EFFORT:
        return lower_effort(asked, most)
    return min(asked, most) if isinstance(asked, int | float) and not isinstance(asked, bool) else asked


def _in_api(endpoint: Endpoint, name: str, value: Any) -> Any:
    """Returns a value as the endpoint's API has it."""
    if endpoint.name == "responses" and name == _FORMAT and isinstance(value, dict):
        # There the members of ``json_schema`` stand beside the type.
        schema = value.get("json_schema")
        return {"type": "json_schema", **schema} if isinstance(schema, dict) else value
    if endpoint.name == "messages" and name == "stop" and isinstance(value, str):
        return [value]
    return value


def _set_bound(endpoint: Endpoint, edit: _Edit, value: int) -> None:
    """Set every bound that the body has; where it has none, the gateway sends one under the name that a target takes
    (``forwarding``)."""
    for name in BOUNDS & edit.members.keys():
        if edit.has(name):
            edit.write(name, value)


def _bound_messages(rules: ProfileRules, endpoint: Endpoint, edit: _Edit) -> None:
    """Anthropic's messages must have a bound: where one is in the rules, the client may leave it out."""
    if endpoint.name != "messages" or edit.has("max_tokens"):
        return
    wanted = (each[MAX_TOKENS] for each in (rules.parameters, rules.defaults, rules.caps) if MAX_TOKENS in each)
    bound = next(wanted, None)
    if bound is not None:
        edit.write("max_tokens", bound)


def _put_before(system: str, endpoint: Endpoint, edit: _Edit) -> None:
    member = _SYSTEM_MEMBER.get(endpoint.name)
    if member is not None:
        raw = edit.members.get(member)
        together = _encode(system) if _is_blank(raw) else _before(system, raw)
        if together is not None:
            edit.replace(member, together)
    elif endpoint.name == "chat.completions" and "messages" in edit.members:
        messages = _raws(bytes(edit.members["messages"]))
        first = _members(bytes(messages[0])) if messages and bytes(messages[0])[:1] == b"{" else {}
        role = _decode(bytes(first["role"])) if "role" in first else None
        together = _before(system, first.get("content")) if role in _SYSTEM_ROLES else None
        if together is None:
            messages.insert(0, msgspec.Raw(_encode({"role": "system", "content": system})))
        else:
            # Some servers take one system message alone.
            messages[0] = msgspec.Raw(_encode({**first, "content": msgspec.Raw(together)}))
        edit.replace("messages", _encode(messages))


def _before(system: str, raw: msgspec.Raw | None) -> bytes | None:
    """Returns the JSON of a text, or of a list of parts, with ``system`` before it; None for anything else.

    The text's own bytes stay: stand-ins may be in it (models.stand_in).
    """
    own = b"" if raw is None else bytes(raw)
    if own[:1] == b'"':
        return _encode(system + _BETWEEN)[:-1] + own[1:]
    if own[:1] == b"[":
        return _encode([{"type": "text", "text": system}, *_raws(own)])
    return None
