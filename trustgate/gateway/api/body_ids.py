"""The ids of upstreams' objects that a body names, wherever in it they stand.

All tenants share an upstream's account, so an id in a body is either one that this gateway gave to the same tenant
(``uses``), or one of an object that its operator may have made for everybody (a vector store, a container, a skill:
``shared``): where it is not the tenant's own, it is refused unless the plan allows the member. What no tenant can own
(the audio of an earlier answer, a source of what all tenants have kept, a tunnel into the operator's network) steers.
What passes: a ``connector_id``, which is the name of a service and comes with the caller's own token for it, and the
ids that one request gives its own calls (``call_id``, ``caller_id``, ``tool_use_id``). Sources: OpenAI API reference,
"Responses", "Chat" (``audio.id``), "Files", "Assistants", "Evals", "Fine-tuning"; Anthropic API reference, "Messages"
(``container``, ``file_id``, ``skill_id``). Ids at a body's top level that not all its servers read: ``api.members``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from trustgate.gateway.api.object_ids import Kind

#: What a body without such ids does not contain: cheaper to look for than to decode it. Each time one part, and marks
#: of which none counts in a body without that part. A single byte is found much faster than two.
Marks = tuple[tuple[bytes, tuple[bytes, ...]], ...]
#: In OpenAI's and Anthropic's own words; what is in escapes may be any of them. An ``audio`` or a ``voice`` counts
#: where it is an object with an ``id``. Behind this gateway a chat request may be turned into a response (LiteLLM), or
#: into a message of Claude's: it is looked through for what those name.
RESPONSES_MARKS: Marks = (
    (b"_", (b"file_id", b"store_id", b"skill_id", b"tunnel_id", b"litellm_proxy")),
    (b'"container', (b'"container',)),
)
OPENAI_MARKS: Marks = (*RESPONSES_MARKS, (b'"id"', (b'"audio"', b'"voice"')))
#: What every object contains: bodies of resources are small and name ids in many ways.
ALL_MARKS: Marks = ((b"{", (b"{",)),)
ANTHROPIC_MARKS: Marks = ((b"_", (b"file_id", b"skill_id", b"litellm_proxy")), (b'"container', (b'"container',)))
#: As a number: as bytes it is looked for more slowly.
_BACKSLASH = 0x5C


class Named(msgspec.Struct, frozen=True):
    """What a body names: ids that must be the tenant's own, and members that name what no tenant can own."""

    uses: tuple[tuple[Kind, str], ...] = ()
    #: (kind, id, the member that a plan may allow)
    shared: tuple[tuple[Kind, str, str], ...] = ()
    steering: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


NOTHING = Named()


def named_in(body: bytes, marks: Marks) -> Named:
    """Returns the ids in a JSON body, at any depth. ``body`` must have been decoded before; ``marks``: of its API."""
    # Python 3.11 makes an exception, and drops it, for each time that bytes are looked for with ``in``.
    for part, words in marks:
        if body.find(part) >= 0:
            for word in words:
                if body.find(word) >= 0:
                    return named_by(msgspec.json.decode(body))
    if _BACKSLASH in body and body.find(b"\\u00") >= 0:
        return named_by(msgspec.json.decode(body))
    return NOTHING


def named_by(value: Any) -> Named:
    uses: dict[tuple[Kind, str], None] = {}
    shared: dict[tuple[Kind, str, str], None] = {}
    steering: dict[str, None] = {}
    models: dict[str, None] = {}
    # A list of what is left instead of recursion: callers choose the depth.
    left: list[Any] = [value]
    if isinstance(value, dict):
        # The labels that a client gives its request, and the texts to order or to answer from.
        left = [{name: member for name, member in value.items() if name not in ("metadata", "documents")}]
    is_root = True
    while left:
        one = left.pop()
        if isinstance(one, list):
            left.extend(one)
        elif isinstance(one, dict):
            left.extend(one.values() if is_root else _read_by_upstreams(one))
            uses.update((named, None) for named in _own(one))
            shared.update((named, None) for named in _shared(one))
            steering.update((name, None) for name in _foreign(one))
            # That of the request itself is its wire type's.
            if not is_root and isinstance(model := one.get("model"), str):
                models[model] = None
            is_root = False
    if not (uses or shared or steering or models):
        return NOTHING
    return Named(tuple(uses), tuple(shared), tuple(steering), tuple(models))


#: Calls of the client's own tools (Anthropic API reference, "Messages"): their input is what the model wrote.
_TOOL_CALLS = frozenset(("tool_use", "mcp_tool_use"))


def _read_by_upstreams(value: dict[str, Any]) -> list[Any]:
    """Returns what an upstream reads of an object's members: not the JSON Schema of a tool or a format, nor the
    arguments of a tool call. A tool that takes a ``container`` or a ``file_id`` is an ordinary one.
    """
    opaque: list[str] = []
    if isinstance(value.get("name"), str):
        # Some clients and servers write a call's arguments as an object, not as the text of one.
        opaque = ["parameters", "input_schema", "schema", "arguments"]
        if value.get("type") in _TOOL_CALLS:
            opaque.append("input")
    elif value.get("type") == "exec":
        # A local shell's environment (OpenAI API reference, "Responses"): systemd names its ``container`` there.
        opaque.append("env")
    return [member for name, member in value.items() if name not in opaque]


#: Members that hold an id of the caller's own, or several.
_OWN: dict[str, Kind] = {
    **dict.fromkeys(("file_id", "file_ids", "training_file", "validation_file"), "file"),
    "assistant_id": "assistant",
    "thread_id": "thread",
    "part_ids": "part",
}
#: Members that hold an object with such an id.
_OWN_OBJECTS: dict[str, Kind] = {"video": "video", "characters": "character", "voice": "voice"}
#: The sources of an evaluation that read what the upstream keeps for everybody.
_OF_EVERYBODY = frozenset(("stored_completions", "responses", "logs"))


def _own(value: dict[str, Any]) -> list[tuple[Kind, str]]:
    """Returns the ids in an object's members that must be the caller's own."""
    found = [(kind, name) for member, kind in _OWN.items() for name in _texts(value.get(member))]
    found += [(kind, name) for member, kind in _OWN_OBJECTS.items() for name in _ids_in(value.get(member))]
    if value.get("type") == "file_id" and isinstance(value.get("id"), str):
        found.append(("file", value["id"]))
    return found


def _texts(value: Any) -> list[str]:
    several = value if isinstance(value, list) else [value]
    return [name for name in several if isinstance(name, str)]


def _ids_in(value: Any) -> list[str]:
    several = value if isinstance(value, list) else [value]
    return [one["id"] for one in several if isinstance(one, dict) and isinstance(one.get("id"), str)]


def _shared(value: dict[str, Any]) -> list[tuple[Kind, str, str]]:
    """Returns the ids that are the caller's own, or an operator's who shares them."""
    found: list[tuple[Kind, str, str]] = []
    for member in ("vector_store_ids", "vector_store_id"):
        found += [("vector_store", name, "vector_store_ids") for name in _texts(value.get(member))]
    for member in ("container", "container_id"):
        named = value.get(member)
        found += [("container", name, "container") for name in (*_ids_in(named), *_texts(named))]
    if value.get("type") in ("custom", "skill_reference") and isinstance(value.get("skill_id"), str):
        found.append(("skill", value["skill_id"], "skill_id"))
    return found


def _foreign(value: dict[str, Any]) -> list[str]:
    """Returns the members of an object that name what no caller can own."""
    found = []
    audio = value.get("audio")
    if isinstance(audio, dict) and isinstance(audio.get("id"), str):
        found.append("audio")
    source = value.get("source")
    if isinstance(source, dict) and source.get("type") in _OF_EVERYBODY:
        found.append("source")
    address = value.get("server_url")
    if isinstance(address, str) and address.strip().lower().startswith("litellm_proxy"):
        # LiteLLM's word for the tool servers that its operator has set up.
        found.append("server_url")
    if isinstance(value.get("tunnel_id"), str):
        # A tool server inside of the operator's own network (OpenAI API reference, "Secure MCP Tunnel").
        found.append("tunnel_id")
    return found


#: Items of a response's input that say all there is to them, whatever their id: others are looked up by it.
_SELF_CONTAINED = frozenset(
    (
        *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("computer_call", "computer_call_output", "local_shell_call", "local_shell_call_output", "shell_call"),
        *("shell_call_output", "apply_patch_call", "apply_patch_call_output", "mcp_list_tools", "mcp_call"),
        *("mcp_approval_request", "compaction"),
    )
)
#: Where others hold what they are, if they do.
_CONTENT_OF = ("content", "encrypted_content", "result", "results", "role")


def items_named(items: Iterable[Any]) -> tuple[tuple[Kind, str], ...]:
    """Returns the ids of stored items that a response's input refers to: ``item_reference``, or an item without its
    content.
    """
    found: dict[tuple[Kind, str], None] = {}
    for item in items:
        if not isinstance(item, dict):
            continue
        kind, item_id = item.get("type"), item.get("id")
        if kind == "mcp_approval_response":
            item_id = item.get("approval_request_id")
        elif kind in _SELF_CONTAINED or (kind != "item_reference" and any(item.get(name) for name in _CONTENT_OF)):
            continue
        if isinstance(item_id, str):
            found["item", item_id] = None
    return tuple(found)
