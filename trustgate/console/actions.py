"""What can be added and changed in the console: each action is one form, one command, one line of the command line.

The commands are those of ``admin.commands``, and what is written in a field is read as the command line reads it
(``admin.notation``). A test gives each action's line to the command line and compares the commands.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from trustgate.admin import notation
from trustgate.admin.budgeting import BudgetPut, BudgetRemove
from trustgate.admin.commands import (
    AliasRemove,
    AliasSet,
    AnchorFlush,
    Command,
    KeyCreate,
    KeyRevoke,
    KeyRotate,
    KeySet,
    NewKey,
    PassportAdd,
    PassportSet,
    PassportStatus,
    PlanPut,
    PlanRemove,
    ReceiptMend,
    Reload,
    TenantAdd,
    TenantRemove,
    TenantRestore,
    TenantResume,
    TenantSet,
    TenantSuspend,
    TenantWithKey,
)
from trustgate.admin.money import PaymentReconcile, PaymentResolve, TenantCredit
from trustgate.admin.notation import Moment
from trustgate.ids import new_id, now_us
from trustgate.models.passports import PassportFields
from trustgate.models.pricing import slips
from trustgate.types import ENDPOINTS, FEATURES, Limits, Prices, Scope

#: What was given: of a field by its name, read; fields that were left empty are not in it.
Given = Mapping[str, Any]

#: What a field shows to choose from: of what exists.
Choices = Literal["tenants", "plans", "models", ""]


class _None:
    """What the word ``none`` is read as: it takes away what was there."""


NONE: Final = _None()


class Field(NamedTuple):
    """A field of a form, and the option of the command line that it stands for.

    ``flag``: "" for an argument; one with a ``kind`` of ``check`` stands alone. ``group``: fields of a group are shown
    under its name, folded.
    """

    name: str
    label: str
    flag: str = ""
    read: Callable[[str], Any] = str
    kind: Literal["text", "check"] = "text"
    help: str = ""
    required: bool = False
    example: str = ""
    options: tuple[str, ...] = ()
    choices: Choices = ""
    group: str = ""


class Action(NamedTuple):
    """One thing that can be done.

    Attributes:
        words: of the command line, after ``trustgate``.
        build: makes the command of what was given.
        then: the parts of the address to go to, of the command's result.
        ask: the question before it is done; "" for what needs none.
        note: what is to be known of it.
    """

    words: tuple[str, ...]
    title: str
    fields: tuple[Field, ...]
    build: Callable[[Given], Command[Any]]
    then: Callable[[Any], tuple[str, ...]]
    ask: str = ""
    note: str = ""

    def line(self, texts: Mapping[str, str]) -> str:
        """Returns the line that does the same, of what stands in the fields."""
        parts = ["trustgate", *self.words]
        for field in sorted(self.fields, key=lambda each: bool(each.flag)):
            text = texts.get(field.name, "").strip()
            if field.kind == "check":
                parts += [field.flag] if text else []
            elif not field.flag:
                parts.append(shlex.quote(text) if text else field.label.upper().replace(" ", "-"))
            elif text:
                parts += [field.flag, shlex.quote(text)]
        return " ".join(parts)


def secret_of(result: object) -> str | None:
    """Returns the secret that a result has, to be shown this one time."""
    return result.secret if isinstance(result, NewKey | TenantWithKey) else None


# reading


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: NONE if text.lower() == "none" else read(text)


def _moment_or_never(text: str) -> Any:
    return NONE if text.lower() == "never" else notation.moment(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _plain(value: Any) -> Any:
    return None if value is NONE else value


# limits and scope, of plans and keys

_WINDOWS = ("minute", "day", "month")
_LIMITS = (
    *(Field(f"requests_per_{w}", f"Requests a {w}", f"--requests-per-{w}", _or_none(notation.whole)) for w in _WINDOWS),
    *(Field(f"tokens_per_{w}", f"Tokens a {w}", f"--tokens-per-{w}", _or_none(notation.whole)) for w in _WINDOWS),
    *(
        Field(f"cost_nano_usd_per_{w}", f"Spending a {w}, USD", f"--usd-per-{w}", _or_none(notation.usd))
        for w in _WINDOWS
    ),
    Field("parallel_requests", "Requests at the same time", "--parallel-requests", _or_none(notation.whole)),
    Field("max_tokens", "Largest completion, tokens", "--max-tokens", _or_none(notation.whole)),
    Field("max_prompt_tokens", "Largest prompt, tokens", "--max-prompt-tokens", _or_none(notation.whole)),
)
_SCOPE = (
    Field("models", "Models", "--models", _words, example="gpt-4o, openai/*"),
    Field("endpoints", "Endpoints", "--endpoints", _words, help=", ".join(ENDPOINTS)),
    Field("features", "Features", "--features", _words, help=", ".join(FEATURES)),
    Field("parameters", "Parameters", "--parameters", _words, help="Members that steer an upstream; none takes back."),
    Field("end_users", "End users", "--end-users", _words, help="user, header:NAME, or off"),
)
_ALLOWED = tuple(
    field._replace(group=group) for group, fields in (("Limits", _LIMITS), ("Scope", _SCOPE)) for field in fields
)


def _limits(given: Given) -> dict[str, int | None]:
    return {field.name: _plain(given[field.name]) for field in _LIMITS if field.name in given}


def _scope(given: Given) -> dict[str, tuple[str, ...]]:
    found = {field.name: given[field.name] for field in _SCOPE if given.get(field.name)}
    if found.get("parameters") == ("none",):
        found["parameters"] = ()
    if found.get("end_users") == ("off",):
        found["end_users"] = ()
    return found


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
        price_factor_ppm=_plain(factor),
        factor_by_plan=factor is NONE,
    )


_TENANTS = {
    "tenant.add": Action(
        ("tenant", "add"),
        "Add a tenant",
        (Field("name", "Name", required=True), _PLAN, _FACTOR),
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
            _FACTOR._replace(read=_or_none(notation.factor), help="none: what its plan says"),
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

_KEY = Field("key", "Key", required=True, help="Its id, or its shortened form: tgk_Ab12…9xYz")
_EXPIRES = Field("expires", "Expires", "--expires", notation.moment, help="30d, 24h, or 2027-01-31", example="30d")


def _key_create(given: Given) -> Command[Any]:
    expires = given.get("expires", Moment())
    limits: dict[str, Any] = _limits(given)
    scope: dict[str, Any] = _scope(given)
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
        limits=_limits(given),
        scope=_scope(given),
        expires_in_s=moment.in_s,
        expires_us=moment.at_us,
        never_expires=expires is NONE,
    )


def _key_rotate(given: Given) -> Command[Any]:
    grace = given.get("grace", Moment())
    return KeyRotate(key=given["key"], grace_s=grace.in_s or 0, until_us=grace.at_us)


_KEYS = {
    "key.create": Action(
        ("key", "create"),
        "Create a key",
        (_TENANT, Field("name", "Name", "--name"), _EXPIRES, *_ALLOWED),
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
            _EXPIRES._replace(read=_moment_or_never, help="30d, 24h, 2027-01-31, or never"),
            *_ALLOWED,
        ),
        _key_set,
        lambda key: ("keys", key.id),
        note="What is left empty stays; none lifts a limit, * a scope.",
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
        limits=_limits(given),
        scope=_scope(given),
        on_disconnect=given.get("on_disconnect"),
        price_factor_ppm=given.get("price_factor"),
        unpriced_models=given.get("unpriced_models"),
    )


_PLAN_FIELDS = (
    _FACTOR,
    Field("on_disconnect", "When a client hangs up", "--on-disconnect", options=("abort", "drain")),
    Field("unpriced_models", "Models without a price", "--unpriced-models", options=("refuse", "allow")),
    *_ALLOWED,
)
_PLANS = {
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
        note="What is left empty stays; none lifts a limit.",
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
    Field("models", "Only these models", "--models", _words, example="openai/*"),
    Field("soft", "Only give notice, refuse nothing", "--soft", kind="check"),
    Field("notice_at", "Notice at percent", "--notice-at", notation.percentages, example="50,80,100"),
)
_BUDGETS = {
    "budget.add": Action(
        ("budget", "add"),
        "Add a budget",
        (Field("budget", "Name", required=True, help="Refusals tell it."), *_BUDGET_FIELDS),
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

# models

_PASSPORT = Field("passport", "Passport", required=True, choices="models")
_PRICES = (
    Field("input_pico_usd", "Prompt, USD per million tokens", "--input-price", _or_none(notation.usd_per_million)),
    Field("output_pico_usd", "Completion, per million", "--output-price", _or_none(notation.usd_per_million)),
    Field(
        "cached_input_pico_usd",
        "Cached prompt, per million",
        "--cached-input-price",
        _or_none(notation.usd_per_million),
    ),
    Field("call_nano_usd", "A call, USD", "--call-price", _or_none(notation.usd)),
)
_OPTIONAL = (
    Field("base_url", "LLM server", "--base-url", _or_none(str), example="https://llm.example.com/v1"),
    Field("credential_env", "Variable with its key", "--credential-env", _or_none(str), example="OPENAI_API_KEY"),
    Field("context_length", "Context, tokens", "--context-length", _or_none(notation.whole)),
    Field("max_output_tokens", "Largest completion, tokens", "--max-output-tokens", _or_none(notation.whole)),
)
_API_MODEL_ID = Field("api_model_id", "Sent as", "--api-model-id", help="The LLM server's name for the model")
_MEANT = Field("yes", "These prices are meant, though they look like a slip of the unit", "--yes", kind="check")
_PASSPORT_FIELDS = (_API_MODEL_ID, *_OPTIONAL, *(field._replace(group="Prices") for field in (*_PRICES, _MEANT)))


def _passport_fields(given: Given) -> dict[str, Any]:
    names = ("api_model_id", *(field.name for field in _OPTIONAL))
    return {name: given[name] for name in names if name in given and given[name] is not NONE}


def _prices(given: Given) -> dict[str, Any]:
    """Returns the prices that are no ``none``. Raises ``ValueError`` for what looks like a slip of the unit."""
    prices = {field.name: given[field.name] for field in _PRICES if _plain(given.get(field.name)) is not None}
    found = slips(Prices(**prices))
    if found and "yes" not in given:
        raise ValueError(
            f"These prices look like a slip of the unit: {', '.join(found[:5])}. Prices are USD per million tokens. "
            "If they are meant, tick that under Prices."
        )
    return prices


def _passport_add(given: Given) -> Command[Any]:
    prices = _prices(given)
    fields = _passport_fields(given)
    if prices:
        fields["prices"] = Prices(**prices)
    return PassportAdd(slug=given["slug"], fields=PassportFields(**fields))


def _passport_set(given: Given) -> Command[Any]:
    _prices(given)
    return PassportSet(
        passport=given["passport"],
        fields=PassportFields(**_passport_fields(given)),
        unset=tuple(field.name for field in _OPTIONAL if given.get(field.name) is NONE),
        prices={field.name: _plain(given[field.name]) for field in _PRICES if field.name in given},
    )


def _status(word: str, status: Literal["active", "deprecated", "revoked"], title: str, ask: str = "") -> Action:
    return Action(
        ("passport", word),
        title,
        (_PASSPORT,),
        lambda given: PassportStatus(passport=given["passport"], status=status),
        lambda passport: ("models", passport.id),
        ask=ask,
    )


_MODELS = {
    "passport.add": Action(
        ("passport", "add"),
        "Add a model",
        (Field("slug", "Slug", required=True, help="The name clients ask for; * is a wildcard"), *_PASSPORT_FIELDS),
        _passport_add,
        lambda passport: ("models", passport.id),
    ),
    "passport.set": Action(
        ("passport", "set"),
        "Change a model",
        (_PASSPORT, *_PASSPORT_FIELDS),
        _passport_set,
        lambda passport: ("models", passport.id),
        note="What is left empty stays; none clears an optional value.",
    ),
    "passport.activate": _status("activate", "active", "Activate a model"),
    "passport.deprecate": _status("deprecate", "deprecated", "Deprecate a model"),
    "passport.revoke": _status("revoke", "revoked", "Revoke a model", "Requests for it are refused."),
    "alias.set": Action(
        ("passport", "alias"),
        "Set an alias",
        (Field("name", "Name", required=True), Field("slug", "Slug", required=True, choices="models")),
        lambda given: AliasSet(name=given["name"], target=given["slug"]),
        lambda alias: ("models",),
    ),
    "alias.remove": Action(
        ("passport", "alias"),
        "Remove an alias",
        (Field("name", "Name", "--remove", required=True),),
        lambda given: AliasRemove(name=given["name"]),
        lambda alias: ("models",),
        ask="Requests for this name are refused, unless a passport has it.",
    ),
}

# the rest


def _payment_resolve(given: Given) -> Command[Any]:
    if ("settled" in given) is ("failed" in given):
        raise ValueError("Give the transaction, or tick that it never settled.")
    return PaymentResolve(payment=given["payment"], settled=given.get("settled"))


_OTHERS = {
    "payment.resolve": Action(
        ("payment", "resolve"),
        "Resolve a payment",
        (
            Field("payment", "Payment", required=True),
            Field("settled", "It settled in the transaction", "--settled"),
            Field("failed", "It did not settle and never will", "--failed", kind="check"),
        ),
        _payment_resolve,
        lambda detail: ("payments", detail.payment.id),
        ask="Look it up on the chain first: what is booked here is not undone.",
    ),
    "payment.reconcile": Action(
        ("payment", "reconcile"),
        "Look up open payments",
        (),
        lambda given: PaymentReconcile(reconcile=new_id("reconcile", now_us())),
        lambda state: ("payments",),
        note="The chains are asked; it goes on in the background.",
    ),
    "anchor.flush": Action(
        ("anchor", "flush"),
        "Anchor all receipts now",
        (),
        lambda given: AnchorFlush(flush=new_id("flush", now_us())),
        lambda state: ("anchors",),
        ask="A transaction on the chain of the settings is signed and paid for.",
        note="It goes on in the background.",
    ),
    "receipt.mend": Action(
        ("receipt", "mend"),
        "Mend receipts that were set aside",
        (Field("accept", "Accept those that still do not fit", "--accept", kind="check"),),
        lambda given: ReceiptMend(accept="accept" in given),
        lambda left: ("receipts",),
    ),
    "reload": Action(("reload",), "Reload the settings", (), lambda given: Reload(), lambda reloaded: ("settings",)),
}

#: Every action, by its name in addresses.
ACTIONS: Final[Mapping[str, Action]] = {**_TENANTS, **_KEYS, **_PLANS, **_BUDGETS, **_MODELS, **_OTHERS}
