"""Making and changing passports. Owns what makes a passport, an alias and their names valid."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.formats.written import INTEGER_MOST
from trustgate.models.prices import CONDITION_MOST, CONDITIONS, FREE, RATES, with_condition
from trustgate.settings import BUILTIN_SCHEME, why_not_base_url, why_not_variable_name
from trustgate.types import Fallback, Passport, Pool, Prices

__all__ = [
    "BUILTIN_SCHEME",
    "OPTIONAL",
    "ImportedPassport",
    "PassportFields",
    "change_passport",
    "check_name",
    "make_passport",
]

#: Members that a request decides itself; a default for them would change what was asked, or break the answer.
_NOT_DEFAULTS = frozenset({"model", "messages", "prompt", "input", "stream", "stream_options"})
#: What can be taken away again from a passport.
OPTIONAL = frozenset(
    (
        *("base_url", "credential_env", "credential_file", "context_length", "max_output_tokens"),
        *("capabilities", "default_parameters", "fallbacks", "pool_members", "context_fallbacks"),
    )
)

_NAME_CHARACTERS = 200
_CAPABILITY = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: The largest number of tokens and the largest price (pico-USD a token, 1,000 USD) that are no slip of the keyboard.
_MAX_TOKENS = 1_000_000_000
_MAX_PRICE = 10**15
_MAX_CONDITIONAL = 100
_MOST_WEIGHT = 1_000_000


class PassportFields(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What can be given of a passport; what is absent keeps its value (or, for a new one, its default)."""

    api_model_id: str | None = None
    provider: str | None = None
    format: Literal["api", "safetensors", "gguf"] | None = None
    base_url: str | None = None
    credential_env: str | None = None
    credential_file: str | None = None
    context_length: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[str, ...] | None = None
    prices: Prices | None = None
    default_parameters: dict[str, Any] | None = None
    #: Those of ranks from 1 on; of rank 0, the targets beside the passport's own; and for prompts that are too long.
    fallbacks: tuple[Fallback, ...] | None = None
    pool_members: tuple[Fallback, ...] | None = None
    context_fallbacks: tuple[Fallback, ...] | None = None
    #: Members of ``types.Pool`` to change; None lifts a limit.
    pool: dict[str, int | str | None] | None = None

    def given(self) -> dict[str, Any]:
        """Returns the members that are given, by name."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


class ImportedPassport(msgspec.Struct, frozen=True, kw_only=True):
    """One passport as an import file describes it (models.importing.litellm)."""

    slug: str
    fields: PassportFields


def make_passport(passport_id: str, slug: str, fields: PassportFields, created_us: int) -> Passport:
    """Returns a passport from what is given of it; without a model id the slug is sent upstream.

    Raises ``InvalidRequest`` naming the member that cannot be so.
    """
    blank = Passport(id=passport_id, slug=slug, api_model_id=slug, created_us=created_us)
    return change_passport(blank, fields)


def change_passport(
    passport: Passport,
    fields: PassportFields,
    *,
    unset: tuple[str, ...] = (),
    prices: dict[str, int | None] | None = None,
    conditions: dict[str, int | str] | None = None,
    clear_conditions: bool = False,
) -> Passport:
    """Returns the passport with what is given changed, and the ``unset`` members as a new passport has them.

    Raises ``InvalidRequest`` naming the member that cannot be so.
    """
    for name in unset:
        if name not in OPTIONAL:
            raise InvalidRequest(f"A passport requires {name}.", param=name)
    defaults = Passport(id="", slug="", api_model_id="")
    members: dict[str, Any] = {name: getattr(defaults, name) for name in unset if name not in _KINDS}
    members.update(fields.given())
    _take_pool(passport, members, unset)
    # One place to look for the key: naming another takes the older one's place.
    for one, other in (("credential_env", "credential_file"), ("credential_file", "credential_env")):
        if members.get(one) is not None:
            members.setdefault(other, None)
    if clear_conditions:
        members["prices"] = msgspec.structs.replace(members.get("prices", passport.prices), conditional=())
    if prices or conditions:
        members["prices"] = _changed_prices(members.get("prices", passport.prices), prices or {}, conditions or {})
    changed = msgspec.structs.replace(passport, **members)
    _check(changed)
    return changed


def _take_pool(passport: Passport, members: dict[str, Any], unset: tuple[str, ...]) -> None:
    """Put all kinds of fallbacks in one place: those that are given over those of the kind that it has."""
    given = {kind: members.pop(kind, () if kind in unset else None) for kind in _KINDS}
    if any(each is not None for each in given.values()):
        members["fallbacks"] = tuple(
            fallback
            for kind, those in given.items()
            for fallback in (_of_kind(passport.fallbacks, kind) if those is None else those)
        )
    changes = members.pop("pool", None)
    if changes:
        try:
            members["pool"] = msgspec.convert({**msgspec.to_builtins(passport.pool), **changes}, Pool)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"This is not a pool: {error}.", param="pool") from None


def _of_kind(fallbacks: tuple[Fallback, ...], kind: str) -> tuple[Fallback, ...]:
    return tuple(each for each in fallbacks if _kind_of(each) == kind)


def _kind_of(fallback: Fallback) -> str:
    if fallback.rank == 0:
        return "pool_members"
    return "context_fallbacks" if fallback.only_too_long else "fallbacks"


#: What fallbacks are given as.
_KINDS = ("pool_members", "fallbacks", "context_fallbacks")


def _changed_prices(prices: Prices, changes: dict[str, int | None], conditions: dict[str, int | str]) -> Prices:
    for name in changes:
        if name not in RATES:
            raise InvalidRequest(f"There is no price {name}.", param="prices")
    if conditions:
        return _with_condition(prices, changes, conditions)
    given = any(value is not None for value in changes.values())
    return msgspec.structs.replace(prices, **changes, free=prices.free and not given)


def _with_condition(prices: Prices, changes: dict[str, int | None], conditions: dict[str, int | str]) -> Prices:
    if not changes:
        raise InvalidRequest("A condition needs a price that holds under it.", param="prices")
    if all(getattr(prices, name) is None for name in RATES):
        # Where the condition does not hold, the model would cost nothing.
        raise InvalidRequest(
            "The passport has no price of its own that holds without a condition.",
            hint="Set that first, then the prices that hold under a condition.",
            param="prices",
        )
    try:
        return with_condition(prices, conditions, changes)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"This is not a condition of a price: {error}.", param="conditions") from None


def check_name(name: str, what: str) -> None:
    """Raise ``InvalidRequest`` unless ``name`` can be a slug or an alias: something a request can ask for."""
    if not name or len(name) > _NAME_CHARACTERS or not name.isprintable() or name != name.strip():
        raise InvalidRequest(
            f"{what} must have 1 to {_NAME_CHARACTERS} printable characters, without blanks at its ends.", param="slug"
        )
    if name.startswith("passport_"):
        raise InvalidRequest(f"{what} must not begin with passport_: that is how ids begin.", param="slug")
    if name.startswith("-"):
        raise InvalidRequest(f"{what} must not begin with a dash.", param="slug")
    if not name.strip("."):
        # In an address of the console it would be taken for a folder.
        raise InvalidRequest(f"{what} must not be of dots alone.", param="slug")


def _check(passport: Passport) -> None:
    check_name(passport.slug, f"The slug {passport.slug[:40]!r}")
    _check_names(passport)
    _check_upstream(passport)
    _check_sizes(passport)
    for capability in passport.capabilities:
        if not _CAPABILITY.fullmatch(capability):
            raise InvalidRequest(
                f"{capability[:40]!r} is not a capability; capabilities are words such as tools or vision.",
                param="capabilities",
            )
    for name in passport.default_parameters:
        if name in _NOT_DEFAULTS:
            raise InvalidRequest(f"{name} cannot be a default parameter.", param="default_parameters")
    _check_fallbacks(passport)


def _check_names(passport: Passport) -> None:
    model = passport.api_model_id
    if not model or len(model) > _NAME_CHARACTERS or not model.isprintable() or model != model.strip():
        raise InvalidRequest(
            f"api_model_id must have 1 to {_NAME_CHARACTERS} printable characters, without blanks at its ends.",
            param="api_model_id",
        )
    if passport.is_wildcard:
        if passport.slug.count("*") > 1 or set("?[") & set(passport.slug):
            raise InvalidRequest("A wildcard slug has one * and neither ? nor [.", param="slug")
        if model.count("*") > 1:
            raise InvalidRequest("api_model_id may have one * at most.", param="api_model_id")
    elif "*" in model:
        raise InvalidRequest(
            "api_model_id has a *, but the slug has none.",
            hint="Give the slug a * as well, as in openai/*.",
            param="api_model_id",
        )
    if not re.fullmatch(r"[\w.+-]{1,64}", passport.provider):
        raise InvalidRequest("provider must be one word, such as openai or anthropic.", param="provider")


def _check_upstream(passport: Passport) -> None:
    if passport.base_url is not None:
        fault = why_not_base_url(passport.base_url)
        if fault is not None:
            raise InvalidRequest(
                f"base_url {fault}.", hint="For example: --base-url https://api.openai.com/v1", param="base_url"
            )
    if passport.credential_env is not None:
        fault = why_not_variable_name(passport.credential_env)
        if fault is not None:
            raise InvalidRequest(
                f"credential_env {fault}.", hint="For example: --credential-env OPENAI_API_KEY", param="credential_env"
            )
    if passport.credential_env is not None and passport.credential_file is not None:
        raise InvalidRequest("Give credential_env or credential_file, not both.", param="credential_file")
    path = passport.credential_file
    if path is not None and (not path or not path.isprintable()):
        raise InvalidRequest("credential_file must be the path of a file.", param="credential_file")


def _check_sizes(passport: Passport) -> None:
    for name in ("context_length", "max_output_tokens"):
        value = getattr(passport, name)
        if value is not None and not 1 <= value <= _MAX_TOKENS:
            raise InvalidRequest(f"{name} must be between 1 and {_MAX_TOKENS:,}.", param=name)
    check_prices(passport.prices)


def check_prices(prices: Prices) -> None:
    """Raise ``InvalidRequest`` unless the table makes sense: rates in bounds, conditions that can hold, free or not."""
    for rates in (prices, *prices.conditional):
        for name in RATES:
            value = getattr(rates, name)
            if value is not None and not 0 <= value <= _MAX_PRICE:
                raise InvalidRequest("A price must not be negative, nor above 1,000 USD a token.", param="prices")
    if prices.free and prices != FREE:
        raise InvalidRequest("What is free has no prices besides.", param="prices")
    if len(prices.conditional) > _MAX_CONDITIONAL:
        raise InvalidRequest(f"A price table has at most {_MAX_CONDITIONAL} conditional rates.", param="prices")
    for rates in prices.conditional:
        if all(getattr(rates, name) is None for name in CONDITIONS):
            raise InvalidRequest("Conditional rates need a condition.", param="prices")
        if all(getattr(rates, name) is None for name in RATES):
            raise InvalidRequest("Conditional rates need a rate.", param="prices")
        for text in (rates.service_tier, rates.image_size, rates.image_quality):
            if text is None:
                continue
            if not 0 < len(text) <= CONDITION_MOST or not text.isprintable() or text != text.strip():
                raise InvalidRequest(
                    f"A price's tier, size or quality has 1 to {CONDITION_MOST} printable characters, without blanks "
                    "around it.",
                    hint="It is compared to what a request or its answer has, such as flex, 1024x1024 or hd.",
                    param="prices",
                )
        if any(at_us is not None and at_us <= 0 for at_us in (rates.from_us, rates.until_us)):
            raise InvalidRequest("A price cannot begin or end before 1970.", param="prices")
        # Statements carry price tables, as JSON.
        if any(at_us is not None and at_us > INTEGER_MOST for at_us in (rates.from_us, rates.until_us)):
            raise InvalidRequest(
                "A price cannot begin or end after 2255-06-05: later times are no integers that every reader keeps.",
                hint="Leave the end out: a price without one holds from its beginning on.",
                param="prices",
            )
        if rates.above_prompt_tokens is not None and not 0 <= rates.above_prompt_tokens <= _MAX_TOKENS:
            raise InvalidRequest(
                f"A price's length of the prompt must be between 0 and {_MAX_TOKENS:,}.", param="prices"
            )
        if rates.from_us is not None and rates.until_us is not None and rates.from_us >= rates.until_us:
            raise InvalidRequest("A price must end after it begins.", param="prices")


def _check_fallbacks(passport: Passport) -> None:
    names = [fallback.passport for fallback in passport.fallbacks]
    if len(set(names)) != len(names):
        raise InvalidRequest("A fallback is named twice.", param="fallbacks")
    if passport.slug in names or passport.id in names:
        raise InvalidRequest("A passport cannot fall back on itself.", param="fallbacks")
    for fallback in passport.fallbacks:
        if not 1 <= fallback.weight <= _MOST_WEIGHT or not 0 <= fallback.rank <= 1_000_000:
            raise InvalidRequest("The weight of a fallback must be between 1 and 1,000,000.", param="fallbacks")
    if passport.is_wildcard and any(fallback.rank == 0 for fallback in passport.fallbacks):
        raise InvalidRequest(
            "A wildcard has no pool: the others would not know which model is asked for.",
            hint="Add the model by its name, with --pool.",
            param="pool_members",
        )
    pool = passport.pool
    if not 1 <= pool.weight <= _MOST_WEIGHT:
        raise InvalidRequest("The weight of a passport must be between 1 and 1,000,000.", param="pool")
    for name in ("requests_per_minute", "tokens_per_minute", "parallel_requests"):
        limit = getattr(pool, name)
        if limit is not None and not 1 <= limit <= _MAX_TOKENS:
            raise InvalidRequest(f"{name} must be between 1 and {_MAX_TOKENS:,}.", param="pool")
