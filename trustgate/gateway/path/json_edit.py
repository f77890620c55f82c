"""The outgoing body: the client's bytes, untouched where nothing has to change.

Owns the one edit the gateway makes to a request: setting members of its top-level JSON object. Every other
member keeps its bytes. (A body with a member twice was refused before: ``api.members``.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def outgoing(
    body: bytes, changes: Mapping[str, Any], defaults: Mapping[str, Any], merges: Mapping[str, Mapping[str, Any]]
) -> bytes:
    """``body`` with ``changes`` set, ``defaults`` where the member is absent or null, ``merges`` into objects.

    ``body`` must have been decoded as a JSON object before. The very same bytes come back when nothing changes.
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
    return _encode(members) if changed else body


def _is_object(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(raw)[:1] == b"{"
