"""The records that several rooms share: tenants, keys, plans, passports, usage, receipts.

All are frozen: a change makes a new record, so a record may be kept without a lock. Times are
microseconds since the epoch, UTC (``_us``). Money is integers: costs in nano-USD (10⁻⁹ USD), prices in
pico-USD a token (10⁻¹² USD), which is the same number as micro-USD a million tokens.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

NANO_USD_PER_USD = 1_000_000_000
PICO_USD_PER_NANO_USD = 1_000
#: A factor that changes nothing, in millionths.
FACTOR_ONE_PPM = 1_000_000

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


BudgetUnit = Literal["requests", "tokens", "cost_nano_usd"]


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="budget"):
    """How much some callers may use in a span of time, beside the limits of their plans and keys.

    It applies to a request whose tenant, key or plan it names, or to every request with ``everyone``, where a model
    that it covers is asked for. All that it applies to draw on it together, unless ``each`` gives a budget of this
    size to each of them.
    """

    id: str
    name: str
    unit: BudgetUnit
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


class Rates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What each thing that is counted costs. None: nothing is said of it, and models.pricing has the rule for it.

    Pico-USD a token and a character; nano-USD a call, an image, a second of audio and a search.
    """

    input_pico_usd: int | None = None
    cached_input_pico_usd: int | None = None
    output_pico_usd: int | None = None
    call_nano_usd: int | None = None
    image_nano_usd: int | None = None
    audio_second_nano_usd: int | None = None
    character_pico_usd: int | None = None
    #: Prompt tokens that the upstream writes to its cache, for five minutes and for an hour.
    cache_write_pico_usd: int | None = None
    cache_write_1h_pico_usd: int | None = None
    reasoning_pico_usd: int | None = None
    audio_input_pico_usd: int | None = None
    audio_output_pico_usd: int | None = None
    image_input_pico_usd: int | None = None
    image_output_pico_usd: int | None = None
    search_nano_usd: int | None = None


class ConditionalRates(Rates, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Rates that hold where every condition does; of what they say nothing, the rates without conditions hold."""

    #: The prompt has more tokens than this.
    above_prompt_tokens: int | None = None
    #: The upstream served the request in this tier (OpenAI's ``service_tier``; ``batch`` for a line of a batch).
    service_tier: str | None = None
    #: The image's size (``1024x1024``) and quality, as the request names them.
    image_size: str | None = None
    image_quality: str | None = None
    #: The request came at this time or later, and before that one; microseconds UTC.
    from_us: int | None = None
    until_us: int | None = None


class Prices(Rates, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a model costs: a table of (what is counted, under which condition) → rate.

    An empty table is not a price: the model is *not priced*, which is not the same as ``free``.
    """

    #: Costs nothing, on purpose; such a table has no other member.
    free: bool = False
    conditional: tuple[ConditionalRates, ...] = ()


class Fallback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Another passport to try when this one's upstream fails: lower ranks first, within a rank by weighted chance.

    Rank 0: a target beside the passport's own, on which the first choice may fall (``Pool``).
    """

    passport: str
    rank: int = 1
    weight: int = 1
    #: It is tried only for a prompt that is too long for the passport's own target and those beside it.
    only_too_long: bool = False


class Pool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a passport shares its load with its fallbacks of rank 0, and how much its own target takes.

    A fallback of rank 0 serves the same model elsewhere, or under another key: it is no second choice.
    """

    #: The passport's own share in the first choice, beside the weights of its fallbacks of rank 0.
    weight: int = 1
    #: Which is asked first: by weighted chance; the one with the fewest requests in flight for its weight; always the
    #: same one for a tenant, or for a conversation, so that the upstream's prompt cache is of use.
    choice: Literal["weighted", "least_busy", "tenant", "conversation"] = "weighted"
    #: What this passport's own target is sent at most, by this gateway. None: no limit.
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel_requests: int | None = None


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
    #: Where the prices come from, for people, and since when they hold; "" and 0 where they are not known.
    price_source: str = ""
    priced_us: int = 0
    status: Literal["active", "deprecated", "revoked"] = "active"
    #: Request members set when the client did not set them.
    default_parameters: dict[str, Any] = {}
    fallbacks: tuple[Fallback, ...] = ()
    pool: Pool = Pool()
    created_us: int = 0

    @property
    def is_wildcard(self) -> bool:
        return "*" in self.slug

    @property
    def is_service(self) -> bool:
        """Whether it is no model's: it gives the calls of an endpoint without a meter their price and server."""
        return self.slug.startswith(SERVICE_PREFIX)


class OwnCredential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A tenant's own key for a passport's upstream: where it is found, never the key itself.

    What it is used for is the tenant's to pay there; here a fee is charged for each request.
    """

    env: str | None = None
    file: str | None = None
    fee_nano_usd: int = 0


class HeaderValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The value of a header for upstreams: a text, or where a secret is found. One of the three."""

    text: str | None = None
    env: str | None = None
    file: str | None = None


class ProfileRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which model, and which configuration of it, requests get. What is None, or empty, is not said."""

    #: Names of models that hold here alone, before all others: each leads to a slug or another name of a passport.
    names: dict[str, str] = {}
    #: Whether there are no models but under ``names``.
    own_names_only: bool | None = None
    #: For requests that name no model, and with ``default_for_unknown`` for those that name one that does not exist.
    default_model: str | None = None
    default_for_unknown: bool | None = None
    #: Parameters of requests, by their names in OpenAI's chat completions: set whatever the request has; set where it
    #: has none; the most that it may have.
    parameters: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    caps: dict[str, Any] = {}
    #: A system message that is put before the request's own.
    system: str | None = None
    #: The providers, and the passports by shell globs over their slugs, that may serve; in the order of preference.
    providers: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    #: Headers for upstreams, by name in lower case.
    headers: dict[str, HeaderValue] = {}
    #: Keys of the tenant's own, by the slug of the passport.
    credentials: dict[str, OwnCredential] = {}


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="profile"):
    """The rules of a plan, a tenant or a key. One without rules stands for none.

    ``id``: ``plan:NAME``, ``tenant:ID`` or ``key:ID`` (the key that it goes back to by rotations). Of the rules that
    hold for a key, merged of those three (access.profiles): their SHA-256, hexadecimal.
    """

    id: str
    rules: ProfileRules = ProfileRules()
    changed_us: int = 0


class PriceList(msgspec.Struct, frozen=True, kw_only=True, tag="price_list"):
    """A list of models' prices (models.catalogue) that holds for models whose passports say no price of their own.

    Kept for ever: what an older receipt's ``price_hash`` stands for is in the list that held then.
    """

    #: SHA-256 (hex) of the data.
    id: str
    #: What it is, for people, and the date of its prices, ISO 8601.
    source: str
    as_of: str
    installed_us: int
    #: The list as models.catalogue writes it, deflated (zlib).
    data: bytes


class PriceChange(msgspec.Struct, frozen=True, kw_only=True, tag="price_change"):
    """That a passport got other prices: the history that older receipts' ``price_hash`` is looked up in."""

    id: str
    passport_id: str
    slug: str
    price_hash: str
    prices: Prices
    #: Where they come from, for people.
    source: str
    from_us: int


class Alias(msgspec.Struct, frozen=True, kw_only=True, tag="alias"):
    """Another name for a passport: a request for ``name`` is answered by ``target`` (a slug)."""

    name: str
    target: str


class Offer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One way to pay: an x402 network, an asset on it, the address that receives, and who settles there."""

    #: CAIP-2, such as ``solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1`` or ``eip155:8453``.
    network: str
    #: Mint (Solana) or contract (EVM) of a token that is worth one USD a unit, with so many decimals.
    asset: str
    decimals: int
    pay_to: str
    #: ``embedded``, or the base URL of a remote facilitator.
    facilitator: str
    scheme: Literal["exact"] = "exact"
    #: The scheme's further data for clients: ``feePayer`` (Solana), ``name`` and ``version`` (EVM), ``paymentFlow``.
    extra: dict[str, Any] = {}

    @property
    def flow(self) -> PaymentFlow:
        return "upfront" if self.extra.get("paymentFlow") == "upfront" else "authorization"


#: When a payment is settled, in x402's words (``paymentFlow``). ``authorization``: once there is an answer.
#: ``upfront``: before the upstream is asked; where that fails, the payment is credited.
PaymentFlow = Literal["authorization", "upfront"]
PaymentMode = Literal["off", "per-request", "prepaid"]


class PaymentTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="payment_terms"):
    """How a tenant pays. One record a tenant; a tenant without one owes nothing.

    In both modes a request draws on the tenant's balance where that covers its worst case. Where it does not,
    ``per-request`` asks for that worst case, ``prepaid`` for ``top_up_nano_usd`` (or the worst case, if that is more);
    what a payment brings beyond the request's cost stays on the balance.
    """

    tenant_id: str
    mode: PaymentMode
    #: What every request costs; None: what its passport's prices say.
    price_nano_usd: int | None = None
    top_up_nano_usd: int = NANO_USD_PER_USD
    #: At most one for each network, in the order in which they are offered.
    offers: tuple[Offer, ...] = ()
    #: How the tenant gets more credit, for people: an address of mail or of a page. "": what the settings say.
    contact: str = ""
    created_us: int = 0
    #: The key whose limits and scope hold for callers without a key, who pay for each request; "": there are none.
    keyless_key_id: str = ""


class CreditNote(msgspec.Struct, frozen=True, kw_only=True, tag="credit_note"):
    """A credit or refund of the operator's that counts once: kept before its receipt is written, and found by its
    reference.
    """

    id: str
    tenant_id: str
    #: The operator's own name for it, one a tenant; "" for none.
    reference: str
    #: The id of the credit's receipt, minted before there is one.
    receipt_id: str
    #: Below zero: taken from the balance, to be paid back.
    credited_nano_usd: int
    #: The places in the log of the receipts whose price it corrects; none of them is corrected again.
    corrects: tuple[int, ...] = ()
    created_us: int


class Subscriber(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="subscriber"):
    """Who is sent notices: a webhook (``url``) or a program (``command``), one of the two."""

    id: str
    name: str
    #: Which notices, by ``observe.notices.Kind``; ``all`` for every one, those of later versions included.
    kinds: tuple[str, ...] = ("all",)
    url: str = ""
    #: The program, by its whole path, and its arguments.
    command: tuple[str, ...] = ()
    #: The webhook may be at a private address, and without TLS.
    is_private: bool = False
    #: What a webhook's messages are signed with, ``whsec_`` and base64; shown once, when it is made.
    secret: str = ""
    created_us: int = 0
    removed_us: int | None = None


#: What an operator can change. Plans are known by name, aliases by name, terms by their tenant, the rest by id (of a
#: profile, whose it is).
Record = Tenant | ApiKey | Plan | Passport | Alias | PaymentTerms | Budget | EndUser | Subscriber | Profile


#: ``reserved``: claimed for one request, nothing was asked of the facilitator but to verify. ``settling``: it was told
#: to settle. ``settled``: the money moved. ``delivered``: a receipt of the request that it paid for exists.
#: ``credited``: the money moved, the request was not served: the receipt of the credit exists. ``unknown``: it is
#: not known yet whether the money moved. ``failed``: it did not, and never will with this payment.
PaymentState = Literal["reserved", "settling", "settled", "delivered", "credited", "unknown", "failed"]

#: The states in which the money has moved.
PAID: frozenset[str] = frozenset({"settled", "delivered", "credited"})
#: The states from which a payment goes on by itself.
OPEN: frozenset[str] = frozenset({"reserved", "settling", "settled", "unknown"})


#: How the reason of a credited payment begins whose credit has paid for the request that it was presented with again.
SPENT_ON = "its credit paid for "


class Payment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="payment"):
    """One x402 payment, from its claim to its end: a row of the ledger, written before the act it describes."""

    id: str
    #: What makes it the same payment, however it is encoded: 64 hexadecimal digits (payment.x402_wire).
    key: str
    tenant_id: str
    key_id: str
    #: The id of the request's receipt, minted before there is one.
    receipt_id: str
    #: SHA-256 (hex) of what it pays for: endpoint and body.
    request_sha256: str
    #: The client's payment-identifier (x402 extension); "" without one. Unique for a tenant.
    identifier: str = ""
    x402_version: Literal[1, 2]
    offer: Offer
    #: Atomic units of the asset, decimal digits, and what they are worth.
    amount: str
    value_nano_usd: int
    #: The client's PaymentPayload and the PaymentRequirements it is held against, JSON as the facilitator takes them.
    payload: bytes
    requirements: bytes
    state: PaymentState = "reserved"
    #: As the scheme writes it (base58 signature, 0x hash); known before it is sent where the gateway itself sends it.
    transaction: str = ""
    payer: str = ""
    #: Why it failed or is unknown, for people. Of one that was credited: the request that its credit paid for.
    reason: str = ""
    created_us: int
    updated_us: int
    #: The process, of several on one database, whose request has it; "": there was one process.
    node: str = ""

    @property
    def spent_on(self) -> str:
        """The receipt of the request that a credited payment's own credit has paid for; "" while there is none."""
        is_spent = self.state == "credited" and self.reason.startswith(SPENT_ON)
        return self.reason.removeprefix(SPENT_ON) if is_spent else ""


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one request used, in OpenAI's words: every counter that a price may look at.

    Details are part of their sum: ``cached_tokens``, ``cache_write_tokens``, ``audio_prompt_tokens`` and
    ``image_prompt_tokens`` are part of ``prompt_tokens``; ``reasoning_tokens``, ``audio_completion_tokens`` and
    ``image_completion_tokens`` part of ``completion_tokens``; ``cache_write_1h_tokens`` part of ``cache_write_tokens``.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    #: Prompt tokens written to the upstream's cache, and those of them that it keeps for an hour (Anthropic).
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_completion_tokens: int = 0
    image_prompt_tokens: int = 0
    image_completion_tokens: int = 0
    #: What some endpoints are priced by besides tokens or instead of them: images made, milliseconds of audio,
    #: characters to be spoken, searches that a tool made.
    images: int = 0
    audio_ms: int = 0
    characters: int = 0
    searches: int = 0
    #: The service tier that the upstream names (OpenAI's ``service_tier``); "" where it names none.
    service_tier: str = ""
    #: Of the images made, as the request names them; "" where it does not.
    image_size: str = ""
    image_quality: str = ""
    #: The upstream did not report it; the gateway estimated.
    estimated: bool = False
    #: What the upstream reported contradicts itself (parts above their sum, another total); the reading is marked.
    contradictory: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


#: How a request ended. ``complete``: the client got it all. ``client_gone``: it hung up. ``upstream_cut``: the
#: upstream broke off in mid-answer. ``cut``: the gateway broke off (key revoked, deadline, shutdown).
#: ``upstream_error``: the upstream refused or failed before the first byte; nothing is charged.
#: ``refused``: a quota refused it, or its payment did not do. ``credited``: no request of a model; its receipt has
#: what a payment or the operator added to the tenant's balance, or took from it.
Finish = Literal["complete", "client_gone", "upstream_cut", "cut", "upstream_error", "refused", "credited"]

#: The endings that count against quotas. The others gave their hold back.
COUNTED: frozenset[str] = frozenset({"complete", "client_gone", "upstream_cut", "cut"})


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """One leaf of the log; times are microseconds UTC, money nano-USD.

    On the path of a request its members are given by position, in this order: by name they cost four times as much.

    Versions 1, 3 and 5 are receipts of tenants that owe nothing; 2, 4 and 6 have RECEIPT_PAYMENT_MEMBERS besides, 3 to
    6 RECEIPT_PRICE_MEMBERS, 5 and 6 ``end_user``. Within a version every member is always present, so each has one
    canonical form.
    """

    v: Literal[1, 2, 3, 4, 5, 6]
    id: str
    created_us: int
    tenant: str
    key: str
    #: The tenant's own count of receipts, from 1, and the leaf hash of the one before (hex; 64 zeros for the
    #: first): a tenant can notice an omitted receipt without seeing other tenants' receipts.
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
    #: What was taken from the tenant's balance, and what a payment (or the operator) added to it. A tenant's balance is
    #: the sum of what was credited less the sum of what was charged, over all of its receipts.
    charged_nano_usd: int | UnsetType = UNSET
    credited_nano_usd: int | UnsetType = UNSET
    #: The payment's id, network (CAIP-2), transaction, asset, amount (atomic units) and payer; "" where none was made.
    payment: str | UnsetType = UNSET
    payment_network: str | UnsetType = UNSET
    payment_transaction: str | UnsetType = UNSET
    payment_asset: str | UnsetType = UNSET
    payment_amount: str | UnsetType = UNSET
    payment_payer: str | UnsetType = UNSET
    #: Whether the model had a price: without one ``cost_nano_usd`` is 0, for want of a price.
    price_known: bool | UnsetType = UNSET
    #: What the tenant's plan makes of the cost: the cost times a factor in millionths, rounded up.
    billed_nano_usd: int | UnsetType = UNSET
    price_factor_ppm: int | UnsetType = UNSET
    #: What the price looked at besides (types.Usage), and whether the usage that was reported contradicts itself.
    cache_write_tokens: int | UnsetType = UNSET
    cache_write_1h_tokens: int | UnsetType = UNSET
    audio_prompt_tokens: int | UnsetType = UNSET
    audio_completion_tokens: int | UnsetType = UNSET
    image_prompt_tokens: int | UnsetType = UNSET
    image_completion_tokens: int | UnsetType = UNSET
    images: int | UnsetType = UNSET
    audio_ms: int | UnsetType = UNSET
    characters: int | UnsetType = UNSET
    searches: int | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    image_size: str | UnsetType = UNSET
    image_quality: str | UnsetType = UNSET
    usage_contradictory: bool | UnsetType = UNSET
    #: The pseudonym of the end user that the app behind the key named; "" where it named none.
    end_user: str | UnsetType = UNSET


#: The members of a receipt of a tenant that pays, in the order in which a Receipt has them.
RECEIPT_PAYMENT_MEMBERS = (
    *("charged_nano_usd", "credited_nano_usd", "payment", "payment_network", "payment_transaction"),
    *("payment_asset", "payment_amount", "payment_payer"),
)
#: The members that receipts have from version 3 on, in the order in which a Receipt has them.
RECEIPT_PRICE_MEMBERS = (
    *("price_known", "billed_nano_usd", "price_factor_ppm"),
    *("cache_write_tokens", "cache_write_1h_tokens", "audio_prompt_tokens", "audio_completion_tokens"),
    *("image_prompt_tokens", "image_completion_tokens", "images", "audio_ms", "characters", "searches"),
    *("service_tier", "image_size", "image_quality", "usage_contradictory"),
)
#: The member of receipts of keys whose requests name end users.
RECEIPT_END_USER_MEMBERS = ("end_user",)
#: The versions whose receipts have each of these.
PAYMENT_VERSIONS: frozenset[int] = frozenset({2, 4, 6})
PRICE_VERSIONS: frozenset[int] = frozenset({3, 4, 5, 6})
END_USER_VERSIONS: frozenset[int] = frozenset({5, 6})


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
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
    #: The chain: the hash of its genesis block, base58; identifies the cluster whatever the RPC's address.
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
