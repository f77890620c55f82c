"""The actions on tenants, keys, plans and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trustgate.admin import notation
from trustgate.admin.budgeting import BudgetPut, BudgetRemove
from trustgate.admin.commands import (
    Command,
    KeyCreate,
    KeyRevoke,
    KeyRotate,
    KeySet,
    PlanPut,
    PlanRemove,
    TenantAdd,
    TenantRemove,
    TenantRestore,
    TenantResume,
    TenantSet,
    TenantSuspend,
)
from trustgate.admin.money import TenantCredit
from trustgate.admin.notation import Moment
from trustgate.console.fields import (
    ALLOWED,
    NONE,
    Action,
    Field,
    Given,
    limits_of,
    or_absent,
    or_none,
    read_words_or_none,
    scope_of,
)
from trustgate.types import Limits, Scope

# tenants

_TENANT = Field("tenant", "Tenant", required=True, choices="tenants")
_PLAN = Field("plan", "Plan", "--plan", choices="plans")
_FACTOR = Field(
    "price_factor", "Price factor", "--price-factor", notation.factor, help="1.2 is a markup of 20 %", example="1.2"
)


def _tenant_set(given: Given) -> Command[Any]:
    factor = given.get("price_factor")
    return TenantSet(
        tenant=given["tenant"],
        name=given.get("name"),
        plan=given.get("plan"),
        price_factor_ppm=or_absent(factor),
        factor_by_plan=factor is NONE,
    )


TENANT_ACTIONS = {
    "tenant.add": Action(
        ("tenant", "add"),
        "Add a tenant",
        (Field("name", "Name", required=True), _PLAN._replace(help="pro, where none is chosen"), _FACTOR),
        lambda given: TenantAdd(
            name=given["name"], plan=given.get("plan", "pro"), price_factor_ppm=given.get("price_factor")
        ),
        lambda added: ("tenants", added.tenant.id),
        note="It gets its first key, whose secret is shown once.",
    ),
    "tenant.set": Action(
        ("tenant", "set"),
        "Change a tenant",
        (
            _TENANT,
            Field("name", "New name", "--name"),
            _PLAN,
            _FACTOR._replace(read=or_none(notation.factor), help="none: that of its plan"),
        ),
        _tenant_set,
        lambda tenant: ("tenants", tenant.id),
    ),
    "tenant.suspend": Action(
        ("tenant", "suspend"),
        "Suspend a tenant",
        (_TENANT,),
        lambda given: TenantSuspend(tenant=given["tenant"]),
        lambda tenant: ("tenants", tenant.id),
        ask="Its requests are refused, and its running streams are cut.",
    ),
    "tenant.resume": Action(
        ("tenant", "resume"),
        "Resume a tenant",
        (_TENANT,),
        lambda given: TenantResume(tenant=given["tenant"]),
        lambda tenant: ("tenants", tenant.id),
    ),
    "tenant.remove": Action(
        ("tenant", "remove"),
        "Remove a tenant",
        (_TENANT,),
        lambda given: TenantRemove(tenant=given["tenant"]),
        lambda tenant: ("tenants", tenant.id),
        ask="Its keys die at once, and its balance can no longer be used. Its receipts and usage stay.",
        note="trustgate tenant restore undoes it.",
    ),
    "tenant.restore": Action(
        ("tenant", "restore"),
        "Restore a tenant",
        (_TENANT, Field("name", "New name", "--name", help="Where its own is taken"), _PLAN),
        lambda given: TenantRestore(tenant=given["tenant"], name=given.get("name"), plan=given.get("plan")),
        lambda detail: ("tenants", detail.tenant.id),
    ),
    "tenant.credit": Action(
        ("tenant", "credit"),
        "Add credit",
        (
            _TENANT,
            Field("add", "Amount, USD", "--add", notation.usd, required=True, example="5.00"),
            Field("reference", "Reference", "--reference", help="An invoice's number: added again, it counts once."),
        ),
        lambda given: TenantCredit(
            tenant=given["tenant"], add_nano_usd=given["add"], reference=given.get("reference", "")
        ),
        lambda change: ("tenants", change.tenant.id),
    ),
}

# keys

_OF_NONE = "none lifts a limit. In a list it is none of them, and * all."
_KEY = Field("key", "Key", required=True, help="Its id, or its shortened form: tgk_Ab12…9xYz")
_EXPIRES = Field("expires", "Expires", "--expires", notation.moment, help="30d, 24h, or 2027-01-31", example="30d")


def _moment_or_none(text: str) -> Any:
    return NONE if notation.is_none(text) else notation.moment(text)


def _key_create(given: Given) -> Command[Any]:
    expires = given.get("expires", Moment())
    limits: dict[str, Any] = limits_of(given)
    scope: dict[str, Any] = scope_of(given)
    return KeyCreate(
        tenant=given["tenant"],
        name=given.get("name", "default"),
        expires_in_s=expires.in_s,
        expires_us=expires.at_us,
        limits=Limits(**limits),
        scope=Scope(**scope),
    )


def _key_set(given: Given) -> Command[Any]:
    expires = given.get("expires", Moment())
    moment = Moment() if expires is NONE else expires
    return KeySet(
        key=given["key"],
        name=given.get("name"),
        limits=limits_of(given),
        scope=scope_of(given),
        expires_in_s=moment.in_s,
        expires_us=moment.at_us,
        never_expires=expires is NONE,
    )


def _key_rotate(given: Given) -> Command[Any]:
    grace = given.get("grace", Moment())
    return KeyRotate(key=given["key"], grace_s=grace.in_s or 0, until_us=grace.at_us)


KEY_ACTIONS = {
    "key.create": Action(
        ("key", "create"),
        "Create a key",
        (_TENANT, Field("name", "Name", "--name"), _EXPIRES, *ALLOWED),
        _key_create,
        lambda new: ("keys", new.key.id),
        note="Its secret is shown once. Limits narrow what the plan allows; they never widen it.",
    ),
    "key.set": Action(
        ("key", "set"),
        "Change a key",
        (
            _KEY,
            Field("name", "New name", "--name"),
            _EXPIRES._replace(read=_moment_or_none, help="30d, 24h, 2027-01-31; none: it never expires"),
            *ALLOWED,
        ),
        _key_set,
        lambda key: ("keys", key.id),
        note=f"What is left empty stays. {_OF_NONE}",
    ),
    "key.revoke": Action(
        ("key", "revoke"),
        "Revoke a key",
        (_KEY,),
        lambda given: KeyRevoke(key=given["key"]),
        lambda key: ("keys", key.id),
        ask="Its next request fails, and its running streams are cut. This cannot be undone.",
    ),
    "key.rotate": Action(
        ("key", "rotate"),
        "Rotate a key",
        (_KEY, Field("grace", "Grace", "--grace", notation.moment, help="How long the old secret stays valid: 24h")),
        _key_rotate,
        lambda new: ("keys", new.key.id),
        ask="The old secret ends after the grace; without one, at once.",
        note="The new secret is shown once.",
    ),
}

# plans and budgets


def _plan_put(given: Given, *, create: bool) -> Command[Any]:
    return PlanPut(
        name=given["plan"],
        create=create,
        like=given.get("like"),
        limits=limits_of(given),
        scope=scope_of(given),
        on_disconnect=given.get("on_disconnect"),
        price_factor_ppm=given.get("price_factor"),
        unpriced_models=given.get("unpriced_models"),
        own_keys=given.get("own_keys"),
    )


_PLAN_FIELDS = (
    _FACTOR,
    Field("on_disconnect", "When a client hangs up", "--on-disconnect", options=("abort", "drain")),
    Field("unpriced_models", "Models without a price", "--unpriced-models", options=("refuse", "allow")),
    Field("own_keys", "Tenants' own keys", "--own-keys", notation.whole, help="How many a tenant may make; 0: none"),
    *ALLOWED,
)
PLAN_ACTIONS = {
    "plan.add": Action(
        ("plan", "add"),
        "Add a plan",
        (Field("plan", "Name", required=True), Field("like", "Like", "--like", choices="plans"), *_PLAN_FIELDS),
        lambda given: _plan_put(given, create=True),
        lambda plan: ("plans", plan.name),
        note="What is left empty is not limited, or as in the plan that it is like.",
    ),
    "plan.set": Action(
        ("plan", "set"),
        "Change a plan",
        (Field("plan", "Plan", required=True, choices="plans"), *_PLAN_FIELDS),
        lambda given: _plan_put(given, create=False),
        lambda plan: ("plans", plan.name),
        note=f"What is left empty stays. {_OF_NONE}",
    ),
    "plan.remove": Action(
        ("plan", "remove"),
        "Remove a plan",
        (Field("plan", "Plan", required=True, choices="plans"),),
        lambda given: PlanRemove(name=given["plan"]),
        lambda plan: ("plans",),
        ask="A plan that tenants are on cannot be removed.",
    ),
}

_EACH: Final[Mapping[str, Any]] = {"all": "all", "tenant": "tenant", "key": "key", "end-user": "end_user"}
_AMOUNTS: Final[Mapping[str, Any]] = {"usd": "cost_nano_usd", "tokens": "tokens", "requests": "requests"}


def _budget_put(given: Given, *, create: bool) -> Command[Any]:
    amounts = [(unit, given[name]) for name, unit in _AMOUNTS.items() if name in given]
    if len(amounts) > 1:
        raise ValueError("A budget has one amount: in USD, in tokens or in requests.")
    unit, amount = amounts[0] if amounts else (None, None)
    who = [(given[name],) if name in given else () for name in ("for_tenant", "for_key", "for_plan")]
    is_for = any(who) or "everyone" in given
    return BudgetPut(
        budget=given["budget"],
        create=create,
        name=given.get("name"),
        unit=unit,
        amount=amount,
        span=given.get("per"),
        tenants=who[0] if is_for else None,
        keys=who[1] if is_for else None,
        plans=who[2] if is_for else None,
        everyone="everyone" in given if is_for else None,
        each=_EACH[given["each"]] if "each" in given else None,
        models=given.get("models"),
        hard=False if "soft" in given else None,
        notice_at_percent=given.get("notice_at"),
    )


_BUDGET_FIELDS = (
    Field("usd", "Amount, USD", "--usd", notation.usd),
    Field("tokens", "or in tokens", "--tokens", notation.whole),
    Field("requests", "or in requests", "--requests", notation.whole),
    Field("per", "Span", "--per", notation.budget_span, help="minute, hour, day, week, month; 6h, 30d; total"),
    Field("for_tenant", "For the tenant", "--tenant", choices="tenants"),
    Field("for_key", "For the key", "--key"),
    Field("for_plan", "For the tenants on the plan", "--plan", choices="plans"),
    Field("everyone", "For every tenant", "--everyone", kind="check"),
    Field("each", "Each", "--each", options=tuple(_EACH), help="all: one amount that all of them share"),
    Field("models", "Only these models", "--models", read_words_or_none, example="openai/*"),
    Field("soft", "Only give notice, refuse nothing", "--soft", kind="check"),
    Field("notice_at", "Notice at percent", "--notice-at", notation.percentages, example="50,80,100"),
)
BUDGET_ACTIONS = {
    "budget.add": Action(
        ("budget", "add"),
        "Add a budget",
        (Field("budget", "Name", required=True, help="Refusals show it."), *_BUDGET_FIELDS),
        lambda given: _budget_put(given, create=True),
        lambda budget: ("budgets",),
    ),
    "budget.set": Action(
        ("budget", "set"),
        "Change a budget",
        (Field("budget", "Budget", required=True), Field("name", "New name", "--name"), *_BUDGET_FIELDS),
        lambda given: _budget_put(given, create=False),
        lambda budget: ("budgets",),
        note="What is left empty stays. Whom it is for is given anew as a whole.",
    ),
    "budget.remove": Action(
        ("budget", "remove"),
        "Remove a budget",
        (Field("budget", "Budget", required=True),),
        lambda given: BudgetRemove(budget=given["budget"]),
        lambda budget: ("budgets",),
        ask="Nothing counts against it any more.",
    ),
}
