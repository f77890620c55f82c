"""What a tenant's key may do with its tenant's keys: rules for the handlers of ``key.create``, ``.set``, ``.revoke``.

Owns what keeps such a key from being a way around a limit. Only a key that the operator has made and that has no limits
of its own makes others, as many as its plan says (``Plan.own_keys``); what it makes is narrower than the plan, is valid
no longer than it is, makes no keys itself, and ends with it. A key that has made others cannot be limited later: that
is refused, with a hint of what limits them all. Keys that the operator has made are changed by the operator alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from trustgate.access.profiles import key_profile_id
from trustgate.admin.context import AdminContext
from trustgate.errors import AuthenticationFailed, Conflict, NotFound, PermissionDenied
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.types import ApiKey, Limits, ProfileRules, Scope, Tenant

#: Keys that a refusal names.
_NAMED_MOST = 5
#: For each key that may be there at once, so many may be made within 24 hours.
_A_DAY = 10
_DAY_US = 86_400 * MICROSECONDS_PER_SECOND


def maker(context: AdminContext, key_id: str) -> ApiKey:
    """Returns the key that asks, if it may make and change keys.

    Raises:
        AuthenticationFailed: it has been revoked, or has expired, meanwhile.
        PermissionDenied: it may not, and why.
    """
    key = context.directory.key(key_id)
    if not is_living(key, now_us()):
        raise AuthenticationFailed("The API key has been revoked.", code="api_key_revoked")
    plan = context.directory.plan(context.tenant(key.tenant_id).plan)
    if not plan.own_keys:
        raise PermissionDenied(
            f"The plan {plan.name!r} leaves keys to the operator of this gateway: ask there for another key.",
            code="own_keys_not_allowed",
        )
    if key.made_by:
        raise PermissionDenied(
            "This API key was made with another key, so it makes and changes none. Use the key that made it.",
            code="own_keys_not_allowed",
        )
    is_limited = key.limits != Limits() or key.scope != Scope()
    if is_limited or _has_budget(context, key) or _has_profile(context, key):
        raise PermissionDenied(
            "This API key has limits of its own, so it makes and changes no keys. Use one that has the whole plan.",
            code="own_keys_not_allowed",
        )
    return key


def check_room(context: AdminContext, tenant: Tenant, at_us: int) -> None:
    """Raise ``PermissionDenied`` where the tenant has as many keys of its own making as its plan allows.

    Or where it has made very many of late: revoked ones are kept, since receipts name them.
    """
    most = context.directory.plan(tenant.plan).own_keys
    made = [key for key in context.directory.keys_of(tenant.id) if key.made_by]
    living = [key for key in made if is_living(key, at_us)]
    if len(living) >= most:
        raise PermissionDenied(
            f"Your plan allows {most} keys of your own at once, and there are {len(living)}. Revoke one first.",
            code="own_keys_reached",
        )
    late = sum(key.created_us > at_us - _DAY_US for key in made)
    if late >= most * _A_DAY:
        raise PermissionDenied(
            f"Your plan allows {most * _A_DAY} new keys of your own within 24 hours, and you have made {late}. "
            "Change the ones you have, or try again tomorrow.",
            code="own_keys_reached",
        )


def own_key(context: AdminContext, by: ApiKey, ref: str) -> ApiKey:
    """Returns the key ``ref`` (an id), one of the same tenant's own making.

    Raises:
        NotFound: there is none, or it is another tenant's.
        PermissionDenied: the operator has made it.
    """
    key = next((each for each in context.directory.keys_of(by.tenant_id) if each.id == ref), None)
    if key is None:
        raise NotFound(f"There is no key {ref[:100]!r}.", code="key_not_found", param="key")
    if not key.made_by:
        raise PermissionDenied(
            "The operator of this gateway has made this key: only the operator changes or revokes it.",
            code="own_keys_not_allowed",
        )
    return key


def within_life_of(by: ApiKey, expires_us: int | None) -> int | None:
    """Returns when a key ends that is to end at ``expires_us`` and not after the key that makes it."""
    if by.expires_us is None or expires_us is None:
        return by.expires_us if expires_us is None else expires_us
    return min(by.expires_us, expires_us)


def revoked_with(keys: Iterable[ApiKey], key: ApiKey, at_us: int) -> list[ApiKey]:
    """Returns, revoked, the keys that go with a revoked one: those it made, unless it lives on by rotation."""
    keys = list(keys)
    goes_on = any(each.account_id == key.account_id and each.id != key.id and is_living(each, at_us) for each in keys)
    made = [] if goes_on else [each for each in keys if each.made_by == key.account_id and each.revoked_us is None]
    return [replace(each, revoked_us=at_us, revoked_by=key.revoked_by) for each in made]


def ended_with(keys: Iterable[ApiKey], key: ApiKey) -> list[ApiKey]:
    """Returns, ending with it, the keys that a key made and that would outlive it and what it is rotated to."""
    keys, at_us = list(keys), now_us()
    rotated = [each for each in keys if each.account_id == key.account_id and each.id != key.id]
    ends = [each.expires_us for each in (key, *(each for each in rotated if is_living(each, at_us)))]
    if None in ends:
        return []
    last_us = max(end for end in ends if end is not None)
    made = [each for each in keys if each.made_by == key.account_id and is_living(each, at_us)]
    return [replace(each, expires_us=last_us) for each in made if each.expires_us is None or each.expires_us > last_us]


def check_binds(context: AdminContext, key: ApiKey, what: str, also: Iterable[str] = ()) -> None:
    """Raise ``Conflict`` where a key that is to be limited has made others, which would not be.

    Args:
        key: the one that has made them.
        what: that is to bind it, as the beginning of a sentence.
        also: ids, or what their use is counted under, of keys that it binds besides.
    """
    at_us, bound = now_us(), set(also)
    made = [
        each.id
        for each in context.directory.keys_of(key.tenant_id)
        if each.made_by == key.account_id and is_living(each, at_us) and not bound & {each.id, each.account_id}
    ]
    if made:
        listed = ", ".join(made[:_NAMED_MOST]) + (" …" if len(made) > _NAMED_MOST else "")
        raise Conflict(
            f"{what} would not bind the keys that {key.id} has made for itself: {listed}.",
            hint=f"Limit the tenant (trustgate budget add, or its plan), or revoke them first: trustgate key revoke "
            f"{made[0]}",
            code="made_keys_unbound",
        )


def is_living(key: ApiKey, at_us: int) -> bool:
    """Returns whether a key is neither revoked nor expired."""
    return key.revoked_us is None and (key.expires_us is None or key.expires_us > at_us)


def _has_budget(context: AdminContext, key: ApiKey) -> bool:
    return any(key.account_id in budget.keys or key.id in budget.keys for budget in context.directory.budgets())


def _has_profile(context: AdminContext, key: ApiKey) -> bool:
    profile = context.directory.profile(key_profile_id(key.account_id))
    return profile is not None and profile.rules != ProfileRules()
