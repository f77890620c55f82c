"""How a body writes the names of its members: one that comes twice, in escapes or in another spelling is refused.

Readers differ in which of two members of a name counts, and in what they take for the same name: what is judged must be
what the upstream reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from trustgate.errors import InvalidRequest

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

#: A decoded object, its values as they were written.
Members = Mapping[str, msgspec.Raw]


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """Returns a name as the most lenient reader might take it: case, Unicode's other forms, blanks and dashes count
    nothing.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(character for character in folded if character.isalnum())


def alike(name: str) -> InvalidRequest:
    """Returns the refusal of a name that differs from a known one in its spelling alone."""
    shown = name[:80]
    return InvalidRequest(
        f"The parameter {shown!r} looks like another one but for its spelling: use the documented name.",
        param=shown,
        code="unsupported_parameter",
    )


def misnamed(body: bytes, members: Members) -> InvalidRequest | None:
    """Returns what is wrong with how ``body`` writes the names of its ``members``: one comes twice, or is in escapes.

    ``body`` must be the JSON object that ``members`` were decoded from. About a microsecond for a body that is written
    as most clients do.
    """
    # It is its distinct members and no more: with a blank behind each colon and each comma, or without any.
    if not members:
        return None
    if len(members) <= _MOST_USUAL:
        names_of = tuple(members)
        for known in _written.get(names_of) or _write(names_of):
            parts: list[Any] = known.copy()
            parts[1::2] = members.values()
            if b"".join(parts) == body:
                return None
    names = [name.encode() for name in members]
    values = [bytes(raw) for raw in members.values()]
    # A body can only be longer than its distinct members without blanks: of that length it holds nothing else.
    if len(body) == 1 + 4 * len(names) + sum(map(len, names)) + sum(map(len, values)):
        return None
    at = _skip(body, 0) + 1
    for name, value in zip(names, values, strict=True):
        at = _skip(body, at)
        key = b'"%b"' % name
        if not body.startswith(key, at):
            written = _STRING.match(body, at)
            if written is None:  # unreachable for JSON
                return _twice(name.decode())
            spelled = msgspec.json.decode(written[0])
            if spelled != name.decode():
                return _twice(spelled)
            if name.isascii():
                return alike(name.decode())
            key = written[0]
        at = _skip(body, _skip(body, at + len(key)) + 1)
        if not body.startswith(value, at):
            return _twice(name.decode())
        at = _skip(body, at + len(value)) + 1
    return None if _skip(body, at) == len(body) else _twice("")


#: What stands around the values of an object with these names, in the two ways in which clients write it. Names are the
#: callers': so many are kept, of objects with so many members and characters in their names.
_written: dict[tuple[str, ...], tuple[list[bytes], ...]] = {}
_MOST_WRITTEN = 1_000
_MOST_USUAL = 32
_MOST_NAMED = 512


def _write(names: tuple[str, ...]) -> tuple[list[bytes], ...]:
    """Returns, for each way of writing, the bytes before, between and behind the values, with room for these."""
    if sum(map(len, names)) > _MOST_NAMED:
        return ()
    made = []
    for colon, comma in ((b": ", b", "), (b":", b",")):
        parts = [b"{"]
        for name in names:
            parts[-1] += b'"%b"%b' % (name.encode(), colon)
            parts += [b"", comma]
        parts[-1] = b"}"
        made.append(parts)
    if len(_written) >= _MOST_WRITTEN:
        _written.clear()
    _written[names] = tuple(made)
    return _written[names]


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BLANKS = re.compile(rb"[ \t\r\n]*")


def _skip(body: bytes, at: int) -> int:
    found = _BLANKS.match(body, at)
    return found.end() if found is not None else at


def _twice(name: str) -> InvalidRequest:
    shown = name[:80]
    return InvalidRequest(
        f"The body gives the parameter {shown!r} more than once." if shown else "The body gives a parameter twice.",
        param=shown or None,
        code="duplicate_parameter",
    )


#: What is judged of messages and their parts: a second reading of one of these would be another request.
_JUDGED_INSIDE = ("content", "role", "type", "text", "tool_calls")
_CONTENT = b'"content"'
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode


def may_be_misnamed_inside(body: bytes, messages: int, *, parts: bool) -> bool:
    """Returns whether ``misnamed_inside`` is to look: a microsecond for all others.

    ``messages``: how many the body has; ``parts``: some have parts. Messages of text alone are looked at only where the
    name of the text comes more often than they do, or in another case.
    """
    return parts or body.lower().count(_CONTENT) > messages


def misnamed_inside(members: Members) -> InvalidRequest | None:
    """Returns what is wrong with the names in the messages of a body: one that is judged comes twice, or in another
    case.
    """
    raw = members.get("messages")
    if raw is None:
        return None
    for message in _raws(raw):
        fault = _misnamed_object(message)
        if fault is not None:
            return fault
        content = _object(message).get("content")
        if content is not None and bytes(content)[:1] == b"[":
            for part in _raws(content):
                fault = _misnamed_object(part) if bytes(part)[:1] == b"{" else None
                if fault is not None:
                    return fault
    return None


#: As nearly all clients write it.
_USUAL_OPTIONS = frozenset((b'{"include_usage":true}', b'{"include_usage": true}', b"null"))


def misnamed_options(raw: msgspec.Raw) -> InvalidRequest | None:
    """Returns what is wrong with the names in ``stream_options``: one comes twice, or ``include_usage`` is in another
    spelling. Readers differ in which of them counts, and a stream is charged by what it asks for.
    """
    written = bytes(raw)
    if written in _USUAL_OPTIONS or written[:1] != b"{":
        return None
    members = _object(raw)
    for name in members:
        if name != "include_usage" and plain(name) == "includeusage":
            return alike(f"stream_options.{name}")
    fault = misnamed(written, members)
    if fault is not None and fault.param is not None:
        fault.param = f"stream_options.{fault.param}"
    return fault


def _misnamed_object(raw: msgspec.Raw) -> InvalidRequest | None:
    members = _object(raw)
    for name in members:
        folded = name.casefold()
        if folded in _JUDGED_INSIDE and name != folded:
            return alike(name)
    fault = misnamed(bytes(raw), members)
    return fault if fault is None or fault.param is None or fault.param in _JUDGED_INSIDE else None
