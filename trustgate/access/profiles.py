"""Profiles: the rules of a plan, a tenant and a key, merged into those that hold for the key.

Owns the order: the narrower wins, member by member. Of a member that is a table (names, parameters, headers, …) each
entry is one by itself; of any other, the narrowest profile that has it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from trustgate.types import Profile, ProfileRules

_NOTHING = ProfileRules()


def plan_profile_id(name: str) -> str:
    return f"plan:{name}"


def tenant_profile_id(tenant_id: str) -> str:
    return f"tenant:{tenant_id}"


def key_profile_id(account_id: str) -> str:
    """``account_id``: of the key that it goes back to by rotations."""
    return f"key:{account_id}"


def merged(rules: Iterable[ProfileRules]) -> ProfileRules:
    """Returns what holds of several, the widest first."""
    found = _NOTHING
    for each in rules:
        if each == _NOTHING:
            continue
        members: dict[str, Any] = {}
        for name in ProfileRules.__struct_fields__:
            wider, narrower = getattr(found, name), getattr(each, name)
            if isinstance(narrower, dict):
                members[name] = {**wider, **narrower}
            else:
                members[name] = wider if narrower is None else narrower
        found = ProfileRules(**members)
    return found


def effective(profiles: Iterable[Profile | None]) -> Profile | None:
    """Returns the profile that holds where these do, the widest first; None where they have no rules.

    Its id is the SHA-256 (hex) of its rules: two with the same rules are the same.
    """
    rules = merged(profile.rules for profile in profiles if profile is not None)
    if rules == _NOTHING:
        return None
    return Profile(id=hashlib.sha256(msgspec.json.encode(rules, order="sorted")).hexdigest(), rules=rules)
