"""Bringing records into the range of what the store keeps, before they are journaled or written.

A chain, a facilitator or a client may say anything: a slot of 2**64, a payer with half a surrogate pair. Receipts have
``receipts.bounds`` for that; of all other records the values that no column or no JSON can hold become the nearest that
can, here, so that the operators' journal and the database hold the same.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

#: Of SQL's BIGINT, both ways.
_MOST = 2**63 - 1


def fitting(record: T) -> T:
    """Returns the record itself where every value fits; else one of which each does.

    Integers become the nearest that fits, a lone surrogate U+FFFD; members of members likewise.
    """
    fits: T = _fitting(record)
    return fits


def _fitting(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_MOST <= value <= _MOST else _MOST if value > 0 else -_MOST
    if isinstance(value, str):
        return value if value.isascii() else _valid(value)
    if isinstance(value, msgspec.Struct):
        changes = {}
        for name in value.__struct_fields__:
            has = getattr(value, name)
            fits = _fitting(has)
            if fits is not has:
                changes[name] = fits
        return msgspec.structs.replace(value, **changes) if changes else value
    if isinstance(value, tuple):
        parts = tuple(map(_fitting, value))
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
    if isinstance(value, dict):
        members = {_fitting(name): _fitting(member) for name, member in value.items()}
        return value if all(members.get(name) is member for name, member in value.items()) else members
    if isinstance(value, list):
        return [_fitting(member) for member in value]
    return value


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
