"""The records that several rooms share: tenants, keys, plans, passports, usage, receipts.

All are frozen: a change makes a new record, so whoever holds one may keep it without a lock. Times are
microseconds since the epoch, UTC (``_us``). Money is integers: costs in nano-USD (10⁻⁹ USD), prices in
pico-USD a token (10⁻¹² USD), which is the same number as micro-USD a million tokens.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec

NANO_USD_PER_USD = 1_000_000_000
PICO_USD_PER_NANO_USD = 1_000

Window = Literal["minute", "day", "month"]
Unit = Literal["requests", "tokens", "cost_nano_usd"]


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


def matches(patterns: tuple[str, ...], name: str) -> bool:
    """Whether ``name`` matches one of the shell globs. Case counts."""
    return "*" in patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


#: Features a plan can gate. Each is found by the request's own fields (gateway.endpoints).
FEATURES = (
    *("streaming", "tools", "vision", "audio", "files", "structured_outputs", "logprobs", "multiple_choices"),
    "background",
)


#: What plans and receipts call the endpoints that serve models (gateway.endpoints).
ENDPOINTS = (
    *("chat.completions", "completions", "embeddings", "responses", "messages", "moderations", "rerank"),
    *("images.generations", "images.edits", "audio.speech", "audio.transcriptions", "audio.translations"),
    *("files", "batches"),
)


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="plan"):
    name: str
    limits: Limits = Limits()
    scope: Scope = Scope()
    #: When a client hangs up: abort the upstream, or read it to its end so that the usage is exact.
    on_disconnect: Literal["abort", "drain"] = "abort"
    created_us: int = 0


class Tenant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tenant"):
    id: str
    name: str
    plan: str
    status: Literal["active", "suspended", "removed"] = "active"
    created_us: int = 0


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


class Prices(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a model costs. Pico-USD a token; ``call_nano_usd`` is added once a call.

    ``cached_input`` None means that cached prompt tokens cost what other prompt tokens cost. What is not counted in
    tokens has prices of its own: a made image, a second of audio, a character to be spoken.
    """

    input_pico_usd: int = 0
    cached_input_pico_usd: int | None = None
    output_pico_usd: int = 0
    call_nano_usd: int = 0
    image_nano_usd: int = 0
    audio_second_nano_usd: int = 0
    character_pico_usd: int = 0

    def cost_nano_usd(self, usage: Usage) -> int:
        """The cost of ``usage``, nano-USD, rounded once, up."""
        cached_price = self.input_pico_usd if self.cached_input_pico_usd is None else self.cached_input_pico_usd
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        pico = (
            (usage.prompt_tokens - cached) * self.input_pico_usd
            + cached * cached_price
            + usage.completion_tokens * self.output_pico_usd
        )
        if usage.images or usage.audio_ms or usage.characters:
            pico += (
                usage.images * self.image_nano_usd * PICO_USD_PER_NANO_USD
                # A thousandth of a second costs a thousandth of the price: nano-USD a second is pico-USD a millisecond.
                + usage.audio_ms * self.audio_second_nano_usd
                + usage.characters * self.character_pico_usd
            )
        return self.call_nano_usd - (-pico // PICO_USD_PER_NANO_USD)


class Fallback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Another passport to try when this one's upstream fails: lower ranks first, within a rank by weighted chance."""

    passport: str
    rank: int = 1
    weight: int = 1


class Passport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="passport"):
    """A model's identity card: which model, where, how, at what price.

    A slug or ``api_model_id`` with a ``*`` in it is a wildcard: ``openai/*`` takes every model of that name.
    ``base_url`` None means the default upstream of the settings. ``credential_env`` or ``credential_file``
    name where the upstream's key is to be found; the key itself is never kept.
    """

    id: str
    slug: str
    api_model_id: str
    provider: str = "openai"
    format: Literal["api", "safetensors", "gguf"] = "api"
    base_url: str | None = None
    credential_env: str | None = None
    credential_file: str | None = None
    context_length: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[str, ...] = ()
    prices: Prices = Prices()
    status: Literal["active", "deprecated", "revoked"] = "active"
    #: Request members set when the client did not set them.
    default_parameters: dict[str, Any] = {}
    fallbacks: tuple[Fallback, ...] = ()
    created_us: int = 0

    @property
    def is_wildcard(self) -> bool:
        return "*" in self.slug


class Alias(msgspec.Struct, frozen=True, kw_only=True, tag="alias"):
    """Another name for a passport: a request for ``name`` is answered by ``target`` (a slug)."""

    name: str
    target: str


#: What an operator can change. Plans are known by name, aliases by name, the rest by id.
Record = Tenant | ApiKey | Plan | Passport | Alias


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one request used, in OpenAI's words.

    ``cached_tokens`` are part of ``prompt_tokens``, ``reasoning_tokens`` part of ``completion_tokens``.
    ``estimated``: the upstream did not say, the gateway estimated. Images, milliseconds of audio and characters are
    what some endpoints are priced by besides tokens or instead of them.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    images: int = 0
    audio_ms: int = 0
    characters: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


#: How a request ended. ``complete``: the client got it all. ``client_gone``: it hung up. ``upstream_cut``: the
#: upstream broke off in mid-answer. ``cut``: the gateway broke off (key revoked, deadline, shutdown).
#: ``upstream_error``: the upstream refused or failed before the first byte; nothing is charged.
#: ``refused``: a quota refused it.
Finish = Literal["complete", "client_gone", "upstream_cut", "cut", "upstream_error", "refused"]

#: The endings that count against quotas. The others gave their hold back.
COUNTED: frozenset[str] = frozenset({"complete", "client_gone", "upstream_cut", "cut"})


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One leaf of the log. Every field is always present; times are microseconds UTC, money nano-USD."""

    v: int = 1
    id: str
    created_us: int
    tenant: str
    key: str
    #: The tenant's own count of receipts, from 1, and the leaf hash of the one before (hex; 64 zeros for the
    #: first): a tenant can notice an omitted receipt without seeing anybody else's.
    tseq: int
    tprev: str
    endpoint: str
    #: As the client asked for it; the id of the passport that answered; as the upstream named it.
    model: str
    passport: str
    upstream_model: str
    request_commitment: str
    response_commitment: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    usage_source: Literal["provider", "estimate"]
    cost_nano_usd: int
    #: SHA-256 (hex) of the prices and of the plan and key limits that applied: they settle disputes.
    price_hash: str
    policy_hash: str
    #: To the first byte and to the end of the answer.
    latency_first_ms: int
    latency_total_ms: int
    status: int
    finish: Finish
    stream: bool


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A receipt in its place in the log: ``seq`` counts from 1 without gaps; ``secret`` is 32 bytes."""

    seq: int
    receipt: Receipt
    secret: bytes


class LogName(msgspec.Struct, frozen=True, kw_only=True, tag="log_name"):
    """A name the log has had: the verifier key (C2SP signed-note) of its checkpoints, which begins with the origin."""

    vkey: str
    created_us: int


class AnchorAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One signed transaction of an anchor, recorded before it is sent: its base58 signature and its own bytes."""

    signature: str
    transaction: bytes
    #: After this block height the chain no longer takes the transaction.
    last_valid_block_height: int
    created_us: int
    #: ``open``: it may still land. ``final``: it is the anchor. ``failed``: it landed with an error and did nothing
    #: but cost its fee. ``expired``: it can never land.
    outcome: Literal["open", "final", "failed", "expired"] = "open"
    detail: str = ""


class Anchor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="anchor"):
    """One state of the log on its way to a chain, or there. At most one is planned for each chain at a time."""

    id: str
    state: Literal["planned", "anchored"] = "planned"
    #: The chain: the hash of its genesis block, base58; tells clusters apart whatever the RPC's address.
    genesis: str
    #: Who signs and pays, base58.
    fee_payer: str
    tree_size: int
    #: Root hash, 64 hexadecimal digits.
    root: str
    #: The signed checkpoint, which the memo carries verbatim.
    note: str
    created_us: int
    attempts: tuple[AnchorAttempt, ...] = ()
    #: Of the transaction that landed, once the state is ``anchored``.
    signature: str = ""
    slot: int = 0
    fee_lamports: int = 0
    anchored_us: int = 0
