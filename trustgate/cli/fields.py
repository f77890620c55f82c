"""The options that describe a passport, which ``passport add`` and ``passport set`` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import typer

from trustgate.admin import notation
from trustgate.cli import values
from trustgate.cli.options import option, with_options
from trustgate.cli.values import Maybe
from trustgate.errors import InvalidRequest
from trustgate.models.passports import PassportFields
from trustgate.models.prices import FREE
from trustgate.types import Prices

T = TypeVar("T")


class Given(NamedTuple):
    """What was given of a passport. ``unset``: members given as ``none``. ``prices``: by field name."""

    fields: PassportFields
    unset: tuple[str, ...]
    prices: dict[str, int | None]
    #: Under which the prices hold, by field name.
    conditions: dict[str, int | str]
    clear_conditions: bool

    def for_new(self) -> PassportFields:
        """Returns all of it as the fields of a new passport, where ``none`` is what it has anyway.

        Raises ``InvalidRequest`` for prices under a condition.
        """
        if self.conditions or self.clear_conditions:
            raise InvalidRequest(
                "A new passport has prices without a condition first.",
                hint="Add it, then: trustgate passport set SLUG with the condition and its prices",
            )
        return self.priced()

    def priced(self) -> PassportFields:
        """Returns the fields with the prices, whatever the conditions are."""
        from msgspec.structs import replace

        if not self.prices:
            return self.fields
        prices: dict[str, Any] = {name: value for name, value in self.prices.items() if value is not None}
        return replace(self.fields, prices=Prices(**prices))

    @property
    def is_empty(self) -> bool:
        return not (self.fields.given() or self.unset or self.prices or self.conditions or self.clear_conditions)


def _price(name: str, flag: str, what: str, parser: Callable[[str], Any]) -> Any:
    return option(name, Maybe, flag, help=what, parser=parser, metavar="USD")


def _per_million(name: str, flag: str, what: str) -> Any:
    return _price(name, flag, f"Per million {what}", values.usd_per_million_or_none)


def _weight(text: str) -> Maybe:
    return Maybe(values.whole(text))


_PRICES = [
    _price("input_pico_usd", "--input-price", "Per million prompt tokens, in USD", values.usd_per_million_or_none),
    _price(
        "output_pico_usd", "--output-price", "Per million completion tokens, in USD", values.usd_per_million_or_none
    ),
    _per_million(
        "cached_input_pico_usd", "--cached-input-price", "cached prompt tokens; without it they cost what others do"
    ),
    _per_million("cache_write_pico_usd", "--cache-write-price", "prompt tokens written to the cache"),
    _per_million("cache_write_1h_pico_usd", "--cache-write-1h-price", "of them that are kept for an hour"),
    _per_million("reasoning_pico_usd", "--reasoning-price", "reasoning tokens, if they cost other than output"),
    _per_million("audio_input_pico_usd", "--audio-input-price", "audio tokens heard"),
    _per_million("audio_output_pico_usd", "--audio-output-price", "audio tokens spoken"),
    _per_million("image_input_pico_usd", "--image-input-price", "image tokens seen"),
    _per_million("image_output_pico_usd", "--image-output-price", "image tokens made"),
    _price("call_nano_usd", "--call-price", "Added once a call, in USD", values.usd_or_none),
    _price("image_nano_usd", "--image-price", "Per image made, in USD", values.usd_or_none),
    _price("search_nano_usd", "--search-price", "Per search that a tool made, in USD", values.usd_or_none),
    _price("audio_second_nano_usd", "--audio-second-price", "Per second of audio heard, in USD", values.usd_or_none),
    _per_million("character_pico_usd", "--character-price", "characters spoken, in USD"),
]
_CONDITIONS = [
    option(
        "above_prompt_tokens",
        int,
        "--above-prompt-tokens",
        help="The prices given hold for prompts of more tokens than this alone",
        parser=values.whole,
        metavar="N",
    ),
    option("service_tier", str, "--service-tier", help="… for this tier alone: flex, priority, batch", metavar="NAME"),
    option("image_size", str, "--image-size", help="… for images of this size alone: 1024x1024", metavar="SIZE"),
    option("image_quality", str, "--image-quality", help="… for images of this quality alone: hd", metavar="NAME"),
    option(
        "from_us",
        int,
        "--price-from",
        help="… from this time on: 2027-01-31 (0:00 UTC)",
        parser=values.instant,
        metavar="DATE",
    ),
    option("until_us", int, "--price-until", help="… before this time", parser=values.instant, metavar="DATE"),
]
_CLEAR = option("clear_conditions", bool, "--clear-conditions", help="Take away all prices that hold under a condition")
_FREE = option("free", bool, "--free", help="The model costs nothing; any price given later ends that")
_PLAIN = [
    option("api_model_id", str, "--api-model-id", help="The LLM server's name for the model", metavar="ID"),
    option("provider", str, "--provider", help="The provider, such as openai", metavar="NAME"),
    option("format", Literal["api", "safetensors", "gguf"], "--format", help="The kind of model"),
]
#: Members that ``none`` takes away again.
_OPTIONAL = [
    option(
        "base_url",
        Maybe,
        "--base-url",
        help="The LLM server, if not the default one: https://…/v1",
        parser=values.text_or_none,
        metavar="URL",
    ),
    option(
        "credential_env",
        Maybe,
        "--credential-env",
        help="Name of the environment variable with its key",
        parser=values.text_or_none,
        metavar="NAME",
    ),
    option(
        "credential_file",
        Maybe,
        "--credential-file",
        help="Or the file with its key; relative to the home folder",
        parser=values.text_or_none,
        metavar="FILE",
    ),
    option(
        "context_length",
        Maybe,
        "--context-length",
        help="Prompt and completion together, in tokens",
        parser=values.count_or_none,
        metavar="N",
    ),
    option(
        "max_output_tokens",
        Maybe,
        "--max-output-tokens",
        help="The largest completion, in tokens",
        parser=values.count_or_none,
        metavar="N",
    ),
]
#: Of the passport's pool. ``none`` lifts a limit.
_POOL = [
    option("weight", Maybe, "--weight", help="Its own share beside the --pool", parser=_weight, metavar="N"),
    option(
        "choice",
        Literal["weighted", "least-busy", "tenant", "conversation"],
        "--choice",
        help="Which of the pool is asked first: by weight, the least busy, or always the same for a tenant or a "
        "conversation",
    ),
    option(
        "requests_per_minute",
        Maybe,
        "--upstream-requests-per-minute",
        help="What its server is sent at most",
        parser=values.count_or_none,
        metavar="N",
    ),
    option(
        "tokens_per_minute",
        Maybe,
        "--upstream-tokens-per-minute",
        help="The same, in tokens",
        parser=values.count_or_none,
        metavar="N",
    ),
    option(
        "parallel_requests",
        Maybe,
        "--upstream-parallel-requests",
        help="The same, at one time",
        parser=values.count_or_none,
        metavar="N",
    ),
]
_LISTS = [
    option("capabilities", list[str], "--capability", help="tools, vision …; repeat for more", metavar="WORD"),
    option(
        "fallbacks",
        list[str],
        "--fallback",
        help="Passports to try when this one fails; the next --fallback is tried after those. Weights share the load",
        metavar="SLUG[:WEIGHT][,…]",
    ),
    option(
        "pool_members",
        list[str],
        "--pool",
        help="Passports that serve the same model beside it: other servers, or other keys. Weights share the load",
        metavar="SLUG[:WEIGHT][,…]",
    ),
    option(
        "context_fallbacks",
        list[str],
        "--context-fallback",
        help="Passports to try only where the prompt is too long for this one; the next one is tried after those",
        metavar="SLUG[:WEIGHT][,…]",
    ),
    option(
        "default_parameters",
        list[str],
        "--parameter",
        help="Default request parameter, as NAME=JSON: temperature=0.2; repeat for more",
        metavar="NAME=JSON",
    ),
]
_PARSED: dict[str, tuple[str, Callable[[list[str]], Any]]] = {
    "capabilities": ("--capability", values.words),
    "fallbacks": ("--fallback", values.fallbacks),
    "pool_members": ("--pool", values.pool_members),
    "context_fallbacks": ("--context-fallback", values.context_fallbacks),
    "default_parameters": ("--parameter", values.parameters),
}


def _collect(given: Mapping[str, Any]) -> Given:
    fields: dict[str, Any] = {o.name: given[o.name] for o in _PLAIN}
    unset: list[str] = []
    for name in (o.name for o in _OPTIONAL):
        maybe: Maybe | None = given[name]
        if maybe is not None and maybe.value is None:
            unset.append(name)
        elif maybe is not None:
            fields[name] = maybe.value
    for name, (flag, parser) in _PARSED.items():
        if list(map(notation.is_none, given[name] or ())) == [True]:
            unset.append(name)
        elif given[name]:
            fields[name] = _parsed(given[name], flag, parser)
    pool = {o.name: getattr(given[o.name], "value", given[o.name]) for o in _POOL if given[o.name] is not None}
    if "choice" in pool:
        pool["choice"] = str(pool["choice"]).replace("-", "_")
    if pool:
        fields["pool"] = pool
    prices = {o.name: given[o.name].value for o in _PRICES if given[o.name] is not None}
    if given["free"]:
        if prices:
            raise typer.BadParameter("a model that is free has no prices besides.", param_hint="'--free'")
        fields["prices"] = FREE
    conditions = {o.name: given[o.name] for o in _CONDITIONS if given[o.name] is not None}
    return Given(PassportFields(**fields), tuple(unset), prices, conditions, bool(given["clear_conditions"]))


def _parsed(texts: list[str], flag: str, parser: Callable[[list[str]], T]) -> T:
    try:
        return parser(texts)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=f"'{flag}'") from None


#: Gives a command the options that describe a passport; its parameter ``given`` gets what they said.
with_passport_fields = with_options(
    "given", [*_PLAIN, *_OPTIONAL, _FREE, *_PRICES, *_CONDITIONS, _CLEAR, *_LISTS, *_POOL], _collect
)
