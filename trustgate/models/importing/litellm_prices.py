"""LiteLLM's price members: what each means in a price table here, and what is said of those that are not taken.

    MEMBER [_above_1hr] [_above_200k_tokens] [_priority]    a rate, how long a cache is kept, a step, a service tier

Owns that grammar, the limits and capabilities of a model's entry, and the notes. Nothing is left out in silence: a
member that is about money and has no place here is named in a note, with what it means for the bill. Sources: LiteLLM
documentation, "model_prices_and_context_window.json" and "Custom Pricing"; the notes of its ``sample_spec``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

import msgspec

from trustgate.formats.written import INTEGER_MOST
from trustgate.models.passports import ImportedPassport, PassportFields
from trustgate.models.pricing import MAX_COUNT
from trustgate.types import ConditionalRates, Prices

_PICO, _NANO = 12, 9
#: No token costs 1,000 USD: such a price was meant for a million tokens or is a slip.
_MAX_USD = 1000

#: LiteLLM's modes that this gateway serves, and the capability each gives. LiteLLM answers chats with the models
#: that the Responses API alone offers.
MODES = {
    "chat": "chat",
    "responses": "chat",
    "completion": "completions",
    "embedding": "embeddings",
    "image_generation": "images",
    "image_edit": "images",
    "audio_speech": "speech",
    "audio_transcription": "transcriptions",
    "moderation": "moderations",
    "rerank": "rerank",
}
_CAPABILITIES = {
    "supports_function_calling": "tools",
    "supports_vision": "vision",
    "supports_audio_input": "audio",
    "supports_pdf_input": "files",
    "supports_response_schema": "structured_outputs",
    "supports_reasoning": "reasoning",
    "supports_prompt_caching": "prompt_caching",
    "supports_web_search": "web_search",
}

#: Members that are a rate: its name here, and how many decimals of a USD it keeps. Of two of one rate the first counts.
_MEMBERS: dict[str, tuple[str, int]] = {
    "input_cost_per_token": ("input_pico_usd", _PICO),
    "output_cost_per_token": ("output_pico_usd", _PICO),
    "cache_read_input_token_cost": ("cached_input_pico_usd", _PICO),
    "input_cost_per_token_cache_hit": ("cached_input_pico_usd", _PICO),
    "cache_creation_input_token_cost": ("cache_write_pico_usd", _PICO),
    "output_cost_per_reasoning_token": ("reasoning_pico_usd", _PICO),
    "input_cost_per_audio_token": ("audio_input_pico_usd", _PICO),
    "output_cost_per_audio_token": ("audio_output_pico_usd", _PICO),
    "input_cost_per_image_token": ("image_input_pico_usd", _PICO),
    "output_cost_per_image_token": ("image_output_pico_usd", _PICO),
    "input_cost_per_character": ("character_pico_usd", _PICO),
    "input_cost_per_query": ("call_nano_usd", _NANO),
    "input_cost_per_request": ("call_nano_usd", _NANO),
    "output_cost_per_image": ("image_nano_usd", _NANO),
    "input_cost_per_second": ("audio_second_nano_usd", _NANO),
    "output_cost_per_second": ("audio_second_nano_usd", _NANO),
}
_TIERS = {"priority": "priority", "flex": "flex", "batches": "batch", "ultrafast": "ultrafast", "balanced": "balanced"}
_GRAMMAR = re.compile(
    rf"(?P<base>{'|'.join(sorted(_MEMBERS, key=len, reverse=True))})(?P<hour>_above_1hr)?"
    rf"(?:_above_(?P<step>[0-9]{{1,9}})(?P<kilo>k?)_tokens)?(?:_(?P<tier>{'|'.join(_TIERS)}))?"
)
#: Of these the longer prompt's rate holds from the step itself on, not above it.
_INCLUSIVE = frozenset({"xai"})
#: A member that is about money.
_MONEY = re.compile(r"cost|pric|multiplier|uplift|surcharge")
#: ``high/1024-x-1536/model``: an entry for one size, and perhaps one quality, of a model's images.
_IMAGE_ENTRY = re.compile(
    r"(?:(?P<quality>low|medium|high|hd|standard|auto)/)?(?P<width>\d{2,5})-x-(?P<height>\d{2,5})/(?P<model>[^/]+)"
)

#: What it means that a member is not taken: the first that fits.
_MEANINGS = (
    (
        r"^(rpm|tpm|max_parallel_requests|max_budget|budget_duration)$",
        "the proxy may apply it; here plans limit",
    ),
    (r"^weight$", "of several deployments behind the proxy its own choice holds"),
    (r"video", "video is not counted here: it is billed by tokens alone, if at all"),
    (r"(cache_read_input|cache_creation_input)_(audio|image)_token", "such tokens are billed as cached text is"),
    (r"off_peak", "billed at the peak price at all hours"),
    (r"tiered_pricing", "its steps cannot be read; not billed"),
    (r"page|ocr|credit|annotation", "pages are not counted here; not billed"),
    (r"dbu", "the same price in the provider's own unit; the one in USD is taken"),
    (r"multiplier|uplift|surcharge", "not applied: billed at the listed price"),
    (r"_above_\d+hr|explicit_cache", "billed as other reads and writes of the cache are"),
    (r"_above_\d+k?_tokens", "billed at the base price above that length"),
    (r"grounding|code_interpreter|computer_use|file_search|vector_store|session", "the provider's tool is not billed"),
    (r"citation|message|per_image|per_audio_per|per_character|per_second|per_pixel", "not counted here; not billed"),
)
_UNKNOWN = "not known here; not billed"


class Notes:
    """Notes in the order they arise, each once; members that were not taken are gathered by what that means."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}
        self._left: dict[str, dict[str, dict[str, None]]] = {}
        self.rounded: list[str] = []

    def add(self, note: str) -> None:
        self._notes[note] = None

    def not_taken(self, member: str, where: str) -> None:
        meaning = next(
            (text for pattern, text in _MEANINGS if re.search(pattern, member)), "not known here; not billed"
        )
        self._left.setdefault(meaning, {}).setdefault(member, {})[where] = None

    def all(self) -> tuple[str, ...]:
        left = [
            f"Not taken: {listed(list(members))} of {listed(_models(members))}: {meaning}."
            for meaning, members in self._left.items()
        ]
        rounded = self.rounded and [f"Rounded up to a whole pico-USD a token: the prices of {listed(self.rounded)}."]
        return (*self._notes, *left, *rounded)


def _models(members: Mapping[str, Mapping[str, None]]) -> list[str]:
    return [where for wheres in members.values() for where in wheres]


def listed(names: list[str]) -> str:
    """``a, b and c``, or the first few and how many more."""
    names = list(dict.fromkeys(names))
    if len(names) > 5:
        return f"{', '.join(names[:4])} and {len(names) - 4} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


# rates


def is_price_member(member: object) -> bool:
    """Returns whether a member is about money."""
    return isinstance(member, str) and _MONEY.search(member) is not None


def read_prices(info: Mapping[str, Any], where: str, notes: Notes) -> Prices | None:
    """Returns the price table that an entry's members make; None where none is a price."""
    rows: dict[tuple[int | None, str | None], dict[str, int]] = {}
    inclusive = info.get("litellm_provider") in _INCLUSIVE
    # Of other models a second is one of a machine that is hired, not of audio.
    speaks = info.get("mode") in (None, "audio_transcription", "audio_speech")
    for member, value in sorted(_unfolded(info), key=lambda pair: _order(pair[0])):
        found = _GRAMMAR.fullmatch(member)
        if found is None or (found["hour"] and not found["base"].startswith("cache_creation")):
            if is_price_member(member) and member not in _OTHER and _is_given(value):
                notes.not_taken(member, where)
            continue
        name, decimals = _MEMBERS[found["base"]]
        if name == "audio_second_nano_usd" and not speaks:
            if _is_given(value):
                notes.not_taken(member, where)
            continue
        step = int(found["step"]) * (1000 if found["kilo"] else 1) if found["step"] else None
        if step is not None and step > MAX_COUNT:  # no prompt is as long
            notes.not_taken(member, where)
            continue
        rate = _rate(value, member, where, notes, decimals)
        if rate is None:
            continue
        row = rows.setdefault((step, _TIERS.get(found["tier"] or "")), {})
        if name == "audio_second_nano_usd":  # in and out: of a transcription both are its one length
            row[name] = max(rate, row.get(name, 0))
        else:
            row.setdefault("cache_write_1h_pico_usd" if found["hour"] else name, rate)
    _read_others(info, where, notes, rows)
    base = rows.pop((None, None), {})
    if not base and not rows:
        return None
    conditional = []
    for (step, tier), rates in rows.items():
        above = {} if step is None else {"above_prompt_tokens": max(step - inclusive, 0)}
        conditional.append({**rates, **above, **({} if tier is None else {"service_tier": tier})})
    return msgspec.convert({**base, "conditional": conditional}, Prices)


def _order(member: str) -> int:
    return list(_MEMBERS).index(member) if member in _MEMBERS else len(_MEMBERS)


def _unfolded(info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The members of an entry, with those of ``tiered_pricing`` as members of their steps."""
    for member, value in info.items():
        if member != "tiered_pricing" or not isinstance(value, list):
            yield str(member), value
            continue
        for tier in value:
            bounds = tier.get("range") if isinstance(tier, dict) else None
            least = _limit_of(bounds[0]) if isinstance(bounds, list) and len(bounds) == 2 else None
            if least is None:
                yield "tiered_pricing", value
                continue
            suffix = f"_above_{least}_tokens" if least else ""
            yield from ((f"{name}{suffix}", price) for name, price in tier.items() if name != "range")


#: Members that are no rate of their own and are read all the same.
_OTHER = frozenset(
    {"search_context_cost_per_query", "input_cost_per_image", "input_cost_per_pixel", "output_cost_per_pixel"}
)


def _read_others(
    info: Mapping[str, Any], where: str, notes: Notes, rows: dict[tuple[int | None, str | None], dict[str, int]]
) -> None:
    base = rows.setdefault((None, None), {})
    searches = info.get("search_context_cost_per_query")
    if isinstance(searches, dict):
        member = "search_context_cost_per_query"
        found = [_rate(value, member, where, notes, _NANO) for value in searches.values()]
        rates = [rate for rate in found if rate is not None]
        if rates:
            base["search_nano_usd"] = max(rates)
            if len(set(rates)) > 1:
                notes.add(f"{where}: searches cost by the size of their context; each is billed as the largest.")
    for member in ("input_cost_per_image", "input_cost_per_pixel", "output_cost_per_pixel"):
        if not _is_given(info.get(member)):
            continue
        makes_images = MODES.get(str(info.get("mode"))) == "images"
        pixels = _pixels(where) if member.endswith("pixel") else 1
        rate = _rate(info.get(member), member, where, notes, _NANO, pixels or 1) if makes_images and pixels else None
        if rate is None:
            notes.not_taken(member, where)
        elif rate:
            base.setdefault("image_nano_usd", rate)
    if not base:
        del rows[(None, None)]


def _pixels(name: str) -> int | None:
    found = re.search(r"(\d{2,5})-x-(\d{2,5})", name)
    return int(found[1]) * int(found[2]) if found else None


def _is_given(value: object) -> bool:
    return value not in (None, "", 0, 0.0, [], {}) and value != Decimal(0)


def _rate(value: object, member: str, where: str, notes: Notes, decimals: int, times: int = 1) -> int | None:
    """Returns a price in USD as an integer with so many decimals, rounded up; None if there is none.

    What is no price is noted, and none.
    """
    if value is None:
        return None
    try:
        # str() of a float is the shortest decimal that is that float: what the file's author wrote.
        usd = Decimal(str(value)) if not isinstance(value, bool) else None
        if usd is not None and times != 1:
            usd *= times
    except InvalidOperation:
        usd = None
    if usd is None or not usd.is_finite() or not 0 <= usd <= _MAX_USD:
        notes.add(f"{where}: {member} is not a price in USD a token; left out.")
        return None
    scaled = usd.scaleb(decimals)
    whole = int(scaled.to_integral_value(ROUND_CEILING))
    if usd and whole != scaled:
        notes.rounded.append(where)
    return max(whole, 1) if usd else 0


# limits and capabilities


def described(info: Mapping[str, Any], where: str, notes: Notes) -> PassportFields:
    """Returns what is in model info: prices, limits and capabilities."""
    # max_tokens is LiteLLM's older name for the limit of the output, for embeddings of the input.
    legacy = _limit(info, "max_tokens")
    embedding = info.get("mode") == "embedding"
    return PassportFields(
        prices=read_prices(info, where, notes),
        context_length=_limit(info, "max_input_tokens") or (legacy if embedding else None),
        max_output_tokens=None if embedding else _limit(info, "max_output_tokens") or legacy,
        capabilities=_capabilities(info),
    )


def _limit(info: Mapping[str, Any], member: str) -> int | None:
    """Returns a number of tokens, if the member is one."""
    return _limit_of(info.get(member)) or None


def _limit_of(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    elif isinstance(value, Decimal | float) and float(value).is_integer():
        value = int(float(value))
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INTEGER_MOST else None


def _capabilities(info: Mapping[str, Any]) -> tuple[str, ...] | None:
    found = [name for member, name in _CAPABILITIES.items() if info.get(member) is True]
    mode = MODES.get(str(info.get("mode")))
    if mode:
        found.insert(0, mode)
    return tuple(found) or None


# the table


def is_price_table(table: Mapping[Any, Any]) -> bool:
    return any(isinstance(info, dict) and ("litellm_provider" in info or "mode" in info) for info in table.values())


def served(table: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """Returns the entries of a table for models that this gateway can serve, by name."""
    return {
        name: info
        for name, info in table.items()
        if name != "sample_spec" and isinstance(info, dict) and str(info.get("mode", "chat")) in MODES
    }


def read_table(table: Mapping[Any, Any], notes: Notes) -> tuple[ImportedPassport, ...]:
    """The models of a table. Entries for one size of a model's images become conditional rates of that model."""
    entries = served(table)
    fields: dict[str, PassportFields] = {}
    sizes: list[tuple[str, ConditionalRates, PassportFields]] = []
    for name, info in entries.items():
        described_ = table_fields(name, info, notes)
        image = _image_entry(name, described_.prices)
        if image is None:
            fields[name] = described_
        else:
            sizes.append((*image, described_))
    for name, rates, described_ in sizes:
        model = fields.get(name)
        prices = None if model is None else model.prices
        if prices is not None and prices.image_output_pico_usd is not None:
            continue  # the same image, counted in tokens
        prices = prices or Prices(image_nano_usd=rates.image_nano_usd)
        # An image whose size was not named costs what the dearest does.
        dearest = max(prices.image_nano_usd or 0, rates.image_nano_usd or 0)
        prices = msgspec.structs.replace(prices, image_nano_usd=dearest, conditional=(*prices.conditional, rates))
        fields[name] = msgspec.structs.replace(model or described_, prices=prices)
    return tuple(ImportedPassport(slug=name, fields=each) for name, each in fields.items())


def _image_entry(name: str, prices: Prices | None) -> tuple[str, ConditionalRates] | None:
    """Returns the model that an entry for one size of images belongs to, and its rates."""
    provider, slash, rest = name.partition("/")
    for prefix, text in (("", name), (provider + slash, rest)):
        found = _IMAGE_ENTRY.fullmatch(text)
        if found and prices is not None and prices.image_nano_usd:
            size = f"{found['width']}x{found['height']}"
            rates = ConditionalRates(
                image_size=size, image_quality=found["quality"], image_nano_usd=prices.image_nano_usd
            )
            return prefix + found["model"], rates
    return None


def table_fields(name: str, info: dict[str, Any], notes: Notes) -> PassportFields:
    provider = info.get("litellm_provider")
    fields = described(info, name, notes)
    return msgspec.structs.replace(fields, provider=provider if isinstance(provider, str) else None)
