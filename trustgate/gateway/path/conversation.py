"""What conversation a request goes on with, as far as its beginning shows.

Each request of a conversation repeats it from the start (chat completions, messages, and responses without state), so
what stays the same over its turns is its beginning: the system message and the first words of the user. An upstream's
prompt cache goes by that too.
"""

from __future__ import annotations

import hashlib

import msgspec

from trustgate.gateway.api.large_body import LargeBody
from trustgate.gateway.api.uploads import Payload
from trustgate.models.stand_in import MARK

#: Members that name the conversation themselves (OpenAI API reference, ``prompt_cache_key``).
_NAMES = ("prompt_cache_key",)
_NO_NAME = frozenset((b"null", b'""'))
#: Members that stand before the conversation, and those that hold it.
_BEFORE = ("system", "instructions", "tools")
_TURNS = ("messages", "input")
#: So much of a prompt that is one text, bytes.
_BEGINNING = 1_024

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_USER = b'"user"'


def conversation_key(body: Payload) -> bytes:
    """Returns a digest that the requests of one conversation share; b"" for a body that holds none.

    Of a large body the long texts do not count beyond their lengths and beginnings.
    """
    data = body.skeleton if isinstance(body, LargeBody) else body
    if not isinstance(data, bytes):
        return b""
    data = data.replace(MARK, b"")  # each process has another
    try:
        members = _members(data)
        named = next((raw for name in _NAMES if (raw := bytes(members.get(name, b"null"))) not in _NO_NAME), None)
        if named is not None:
            return hashlib.sha256(named).digest()
        parts = [bytes(members[name]) for name in _BEFORE if name in members]
        for name in _TURNS:
            if name in members:
                parts += _first_turns(bytes(members[name]))
        if "prompt" in members:
            parts.append(bytes(members["prompt"])[:_BEGINNING])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return b""
    return hashlib.sha256(b"\0".join(parts)).digest()


def _first_turns(raw: bytes) -> list[bytes]:
    """Returns the turns up to the first of the user."""
    if raw[:1] != b"[":
        return [raw[:_BEGINNING]]
    turns = []
    for each in _raws(raw):
        turn = bytes(each)
        turns.append(turn)
        if turn[:1] == b"{" and bytes(_members(turn).get("role", b"")) == _USER:
            break
    return turns
