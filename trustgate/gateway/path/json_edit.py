"""The outgoing body: the client's bytes, untouched where nothing has to change.

Owns the one edit the gateway makes to a request: setting members of its top-level JSON object. Every other
member keeps its bytes. A body that says a member twice is never passed on as it is: the gateway and the
upstream might each believe another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode
_WHITE = b" \t\r\n"


def outgoing(
    body: bytes, changes: Mapping[str, Any], defaults: Mapping[str, Any], merges: Mapping[str, Mapping[str, Any]]
) -> bytes:
    """``body`` with ``changes`` set, ``defaults`` where the member is absent or null, ``merges`` into objects.

    ``body`` must have been decoded as a JSON object before. The very same bytes come back when nothing
    changes and each top-level member is said once, without escapes in its name.
    """
    members = _members.decode(body)
    changed = False
    for name, value in changes.items():
        raw = _encode(value)
        if bytes(members.get(name, b"")) != raw:
            members[name] = msgspec.Raw(raw)
            changed = True
    for name, value in defaults.items():
        if bytes(members.get(name, b"null")) == b"null":
            members[name] = msgspec.Raw(_encode(value))
            changed = True
    for name, inner in merges.items():
        merged = _members.decode(bytes(members[name])) if _is_object(members.get(name)) else {}
        merged.update((key, msgspec.Raw(_encode(value))) for key, value in inner.items())
        members[name] = msgspec.Raw(_encode(merged))
        changed = True
    if not changed and _is_verbatim(body, members):
        return body
    return _encode(members)


def _is_object(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(raw)[:1] == b"{"


def _is_verbatim(body: bytes, members: dict[str, msgspec.Raw]) -> bool:
    """Whether ``body`` is exactly these members, in this order, each once."""
    values = [(name.encode(), bytes(raw)) for name, raw in members.items()]
    # As most programs write JSON: without any blanks, or with one after each colon and comma.
    if body == b"{" + b",".join([b'"%b":%b' % member for member in values]) + b"}":
        return True
    if body == b"{" + b", ".join([b'"%b": %b' % member for member in values]) + b"}":
        return True
    at = _skip(body, 0) + 1
    for name, value in values:
        at = _skip(body, at)
        key = b'"%b"' % name
        if not body.startswith(key, at):
            return False
        at = _skip(body, _skip(body, at + len(key)) + 1)
        if not body.startswith(value, at):
            return False
        at = _skip(body, at + len(value))
        if body[at : at + 1] not in (b",", b"}"):
            return False
        at += 1
    return _skip(body, at) == len(body)


def _skip(body: bytes, at: int) -> int:
    while at < len(body) and body[at] in _WHITE:
        at += 1
    return at
