"""Who may call, and how much: tenants, keys, plans with their limits and scope, budgets, end users."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final, Literal, get_args

import msgspec

from trustgate.types.units import FACTOR_ONE_PPM

Window = Literal["minute", "day", "month"]
#: What limits and budgets are in.
Unit = Literal["requests", "tokens", "cost_nano_usd"]
WINDOWS: Final[tuple[Window, ...]] = get_args(Window)
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one plan or key may use. ``None`` is "no limit"; zero is "none at all".

    Windows are calendar windows in UTC: the minute, the day and the month that contain the request.
    """

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    requests_per_month: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_nano_usd_per_minute: int | None = None
    cost_nano_usd_per_day: int | None = None
    cost_nano_usd_per_month: int | None = None
    parallel_requests: int | None = None
    #: The largest completion one request may ask for, in tokens.
    max_tokens: int | None = None
    #: The largest prompt one request may send, in tokens (by the gateway's estimate).
    max_prompt_tokens: int | None = None


class Scope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What may be called: shell globs over models, endpoints and features. ``("*",)`` is everything."""

    models: tuple[str, ...] = ("*",)
    endpoints: tuple[str, ...] = ("*",)
    features: tuple[str, ...] = ("*",)
    #: Request members that steer an upstream (``fallbacks``, ``provider`` …) and may be sent all the same. None: for a
    #: plan, none of them; for a key, what its plan allows.
    parameters: tuple[str, ...] | None = None
    #: Where requests name the end user of the app that sends them: ``user`` (members of the body) or ``header:NAME``;
    #: the first that names one counts. None: for a plan, nowhere; for a key, as its plan has it.
    end_users: tuple[str, ...] | None = None


def matches(patterns: tuple[str, ...], name: str) -> bool:
    """Returns whether ``name`` matches one of the shell globs. Case counts."""
    return "*" in patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


#: Features a plan can gate. Each is found by the request's own fields (gateway.api.endpoints).
FEATURES = (
    *("streaming", "tools", "vision", "audio", "files", "structured_outputs", "logprobs", "multiple_choices"),
    *("background", "unmetered_calls"),
)
#: The feature of endpoints whose answers do not tell what a call costs (gateway.api.resources).
UNMETERED_CALLS = FEATURES[-1]


#: What plans and receipts call the endpoints that serve models (gateway.api.endpoints).
ENDPOINTS = (
    *("chat.completions", "completions", "embeddings", "responses", "messages", "moderations", "rerank"),
    *("images.generations", "images.edits", "audio.speech", "audio.transcriptions", "audio.translations"),
    *("files", "batches", "images.variations", "conversations", "vector_stores", "uploads", "containers", "videos"),
    *("assistants", "threads", "evals", "fine_tuning", "skills", "audio.voices", "models"),
    *("content_provenance_checks", "tokenize"),
)
#: What the slug of a passport begins with that gives the calls of an endpoint without a meter their price.
SERVICE_PREFIX = "endpoint:"
#: What names the model of a stored prompt is ``prompt:`` and the prompt's id: an alias, or a name of a profile.
PROMPT_PREFIX = "prompt:"


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="plan"):
    name: str
    limits: Limits = Limits()
    scope: Scope = Scope()
    #: When a client hangs up: abort the upstream, or read it to its end so that the usage is exact.
    on_disconnect: Literal["abort", "drain"] = "abort"
    #: What its tenants are billed of what a model costs, in millionths: a markup or a discount.
    price_factor_ppm: int = FACTOR_ONE_PPM
    #: A model without a price under a limit on money, or for a tenant that pays: refused, or served at no cost.
    unpriced_models: Literal["refuse", "allow"] = "refuse"
    #: How many keys at once each of its tenants may make for itself over the API; 0: none, its keys are the operator's.
    own_keys: int = 0
    created_us: int = 0


class Tenant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tenant"):
    id: str
    name: str
    plan: str
    status: Literal["active", "suspended", "removed"] = "active"
    #: What it is billed of what a model costs, in millionths; None: its plan's factor.
    price_factor_ppm: int | None = None
    created_us: int = 0
    #: When it was removed; its keys that were revoked at that moment live again with it.
    removed_us: int | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="key"):
    """A key as it is kept: the SHA-256 of the secret, never the secret.

    ``limits`` and ``scope`` narrow what the tenant's plan allows; they hold besides it, so they cannot widen it.
    """

    id: str
    tenant_id: str
    name: str
    #: SHA-256 of the whole secret, 64 hexadecimal digits.
    secret_sha256: str
    #: The secret's first and last characters, to tell keys apart: ``tgk_Ab…9xYz``.
    redacted: str
    limits: Limits = Limits()
    scope: Scope = Scope()
    created_us: int = 0
    expires_us: int | None = None
    revoked_us: int | None = None
    #: The id of the key that this one goes back to by rotations; "" for a key that did not come from one.
    origin_id: str = ""
    #: What its tenant's own doing was: the account of the key that made this one, and that of the key that revoked it.
    #: "": the operator's.
    made_by: str = ""
    revoked_by: str = ""

    @property
    def account_id(self) -> str:
        """What limits and budgets count this key's use under: a key that was rotated goes on with the old one's."""
        return self.origin_id or self.id


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="budget"):
    """How much some callers may use in a span of time, beside the limits of their plans and keys.

    It applies to a request whose tenant, key or plan it names, or to every request with ``everyone``, where a model
    that it covers is asked for. All that it applies to draw on it together, unless ``each`` gives a budget of this
    size to each of them.
    """

    id: str
    name: str
    unit: Unit
    #: How much; of the unit ``cost_nano_usd`` that is nano-USD.
    amount: int
    #: A calendar span in UTC (``minute``, ``hour``, ``day``, ``week``, ``month``), ``total``, or a rolling span as a
    #: number of seconds, such as ``21600s``.
    span: str
    #: Ids. Of keys those that they go back to by rotations.
    tenants: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    #: Names.
    plans: tuple[str, ...] = ()
    everyone: bool = False
    #: Whether each tenant, key or end user has this amount, or all of them have it together.
    each: Literal["all", "tenant", "key", "end_user"] = "all"
    #: Shell globs over the names of models.
    models: tuple[str, ...] = ("*",)
    #: Requests that would pass it are refused; otherwise it only gives notice.
    hard: bool = True
    #: The shares of the amount, in percent, at whose use notice is given.
    notice_at_percent: tuple[int, ...] = (50, 80, 100)
    created_us: int = 0
    removed_us: int | None = None

    @property
    def covers_all_models(self) -> bool:
        return "*" in self.models


class EndUser(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="end_user"):
    """What an operator has decided of one user of an app behind a key. Most end users have no such record."""

    #: Pseudonym (access.end_users). Unique over all tenants, since each tenant's names are salted otherwise.
    id: str
    tenant_id: str
    blocked: bool = False
    #: By the id of a budget that each end user has: the amount for this one instead.
    amounts: dict[str, int] = {}
    changed_us: int = 0


class PseudonymKey(msgspec.Struct, frozen=True, kw_only=True, tag="pseudonym_key"):
    """The secret that end users' pseudonyms are made with (access.end_users). One in a database."""

    id: str
    secret: bytes
    created_us: int
