"""What can be called, and at what price: passports, pools, profiles, price lists, aliases."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from trustgate.types.callers import SERVICE_PREFIX


class Rates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What each thing that is counted costs. None: it is not given, and models.pricing has the rule for it.

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
