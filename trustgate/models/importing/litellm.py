"""Reading passports from files a LiteLLM user has: the proxy's ``config.yaml`` and the table of prices.

Owns what these files mean here. A model of a proxy's configuration is imported as *served by that proxy*: only
LiteLLM can translate to providers that do not speak OpenAI's protocol, so requests keep going to it (the default
upstream) under the model's public name, and the file gives the limits and prices. With ``direct`` the providers
that do speak it are called without the proxy.

A secret written into a configuration is never kept, shown or passed on. Sources: LiteLLM documentation, "Proxy
config.yaml" and "model_prices_and_context_window.json".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

import msgspec

from trustgate.errors import SettingsError
from trustgate.models.importing.documents import Document, load, refuse
from trustgate.models.importing.litellm_prices import (
    MODES,
    Notes,
    described,
    is_price_member,
    is_price_table,
    listed,
    read_table,
    served,
    table_fields,
)
from trustgate.models.passports import ImportedPassport, PassportFields
from trustgate.types import Fallback

_ENV_PREFIX = "os.environ/"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: LiteLLM's providers whose ``api_base`` speaks OpenAI's protocol.
_OPENAI_PROTOCOL = frozenset(
    (
        *("openai", "custom_openai", "text-completion-openai", "openai_like", "litellm_proxy"),
        *("hosted_vllm", "lm_studio", "llamafile", "deepseek", "groq", "xai", "together_ai", "openrouter"),
        *("fireworks_ai", "deepinfra", "nvidia_nim", "cerebras", "sambanova"),
    )
)
_OPENAI_BASE_URL = "https://api.openai.com/v1"
_OPENAI_MODEL = re.compile(r"(ft:)?(gpt-|o\d|chatgpt-|text-embedding-|davinci|babbage)")
#: Parameters of a deployment that become defaults of a passport that is called directly.
_DEFAULT_PARAMETERS = ("temperature", "top_p", "max_tokens", "seed", "frequency_penalty", "presence_penalty")


#: Members of a deployment that limit it, and share the load: without the proxy they are the passport's.
_POOL_MEMBERS = {
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "max_parallel_requests": "parallel_requests",
}
#: What the router of the proxy has for the choice of a deployment, and which of a pool's that is.
_CHOICES = {"simple-shuffle": "weighted", "least-busy": "least_busy"}
#: Members of a deployment that limit it in the proxy.
_LIMITS_OF_THE_PROXY = frozenset({"rpm", "tpm", "max_parallel_requests", "max_budget", "budget_duration", "weight"})
#: Members of the file's settings, and what it means that they are not taken.
_ROUTING = {
    "content_policy_fallbacks": "an answer that a filter stopped is passed on",
    "max_budget": "set a limit of a plan instead: trustgate plan set NAME --usd-per-month USD",
    "budget_duration": "set a limit of a plan instead: trustgate plan set NAME --usd-per-month USD",
    "provider_budget_config": "set a limit of a plan instead: trustgate plan set NAME --usd-per-month USD",
    "max_end_user_budget": "set a limit of a plan instead: trustgate plan set NAME --usd-per-month USD",
    "model_group_retry_policy": "retries are the gateway's own",
    "routing_strategy": "fallbacks of one rank share the load by their weights",
    "cost_margin_config": "bill by a factor instead: trustgate plan set NAME --price-factor 1.2",
    "cost_discount_config": "bill by a factor instead: trustgate plan set NAME --price-factor 0.9",
    "global_max_parallel_requests": "set a limit of a plan instead: trustgate plan set NAME --parallel-requests N",
}


class ImportFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds, and what the person who imports it should know."""

    kind: Literal["litellm_config", "litellm_prices"]
    passports: tuple[ImportedPassport, ...]
    notes: tuple[str, ...]


def read_import_file(path: Path, *, direct: bool = False, prices: Path | None = None) -> ImportFile:
    """Read a LiteLLM configuration or table of prices; the content decides which it is.

    ``direct``: call OpenAI-compatible providers of a configuration themselves, not through its proxy.
    ``prices``: a table that gives a configuration's models the prices and limits it leaves out.
    In a table, passports have no ``api_model_id``: it must not change where an existing passport leads.
    Raises ``SettingsError`` for a file that cannot be read or is neither of these.
    """
    document = load(path)
    if not isinstance(document.value, dict):
        refuse(path, "has no mapping at its top level", "Expected a LiteLLM config.yaml or its table of prices (JSON).")
    if "model_list" in document.value:
        table = {} if prices is None else _price_table(load(prices))
        return _ConfigReader(document, direct=direct, table=table).read()
    if is_price_table(document.value):
        return _read_price_table(document)
    return refuse(
        path,
        "is neither a LiteLLM configuration nor a table of prices",
        "A configuration has a model_list; a table maps model names to objects with litellm_provider and prices.",
    )


def read_model_info(models: Iterable[Mapping[str, Any]]) -> ImportFile:
    """Returns a running LiteLLM proxy's data on its models (``data`` of its ``/model/info``), by their public names.

    Of several deployments under one name the first counts. Sources: LiteLLM documentation, "Model Management".
    """
    notes = Notes()
    found: dict[str, ImportedPassport] = {}
    for model in models:
        name, info = model.get("model_name"), _mapping(model.get("model_info"))
        if isinstance(name, str) and name not in found and str(info.get("mode") or "chat") in MODES:
            found[name] = ImportedPassport(slug=name, fields=table_fields(name, info, notes))
    return ImportFile(kind="litellm_config", passports=tuple(found.values()), notes=notes.all())


# The table of prices


def _price_table(document: Document) -> dict[str, dict[str, Any]]:
    """Returns the models of a table this gateway can serve, by name."""
    if not isinstance(document.value, dict) or not is_price_table(document.value):
        refuse(document.path, "is not LiteLLM's table of prices", "It is model_prices_and_context_window.json.")
    return served(document.value)


def _read_price_table(document: Document) -> ImportFile:
    notes = Notes()
    passports = read_table(document.value, notes)
    skipped = len(document.value) - len(served(document.value)) - ("sample_spec" in document.value)
    if skipped:
        notes.add(f"Left out {skipped} entries of unsupported kinds.")
    return ImportFile(kind="litellm_prices", passports=passports, notes=notes.all())


# The configuration


class _Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``model_list``. ``where`` names it for a person."""

    name: str
    where: str
    model: str
    provider: str | None
    params: dict[str, Any]
    info: dict[str, Any]


class _ConfigReader:
    """Turns a configuration into passports. One reading each."""

    def __init__(self, document: Document, *, direct: bool, table: dict[str, dict[str, Any]]) -> None:
        self._document = document
        self._config: dict[str, Any] = document.value
        self._direct = direct
        self._table = table
        self._notes = Notes()
        self._passports: dict[str, PassportFields] = {}
        #: Further deployments of a model, by its name: with it they are a pool.
        self._spares: dict[str, list[tuple[str, _Deployment]]] = {}
        self._first: dict[str, _Deployment] = {}

    def read(self) -> ImportFile:
        deployments = self._deployments()
        names = {deployment.name for deployment in deployments}
        for deployment in deployments:
            self._add(deployment, names)
        self._add_aliases()
        if self._direct:
            self._add_fallbacks()
        elif self._fallback_rules() or self._fallback_rules("context_window_fallbacks"):
            self._notes.add("The proxy goes on applying its own fallbacks; none were imported.")
        unpriced = [slug for slug, fields in self._passports.items() if fields.prices is None and "*" not in slug]
        if unpriced:
            self._notes.add(f"No prices for {listed(unpriced)}: set them, or import LiteLLM's table of prices.")
        self._note_routing()
        if self._config.get("include"):
            self._notes.add("Files named under include were not read; import each by itself.")
        passports = tuple(ImportedPassport(slug=slug, fields=fields) for slug, fields in self._passports.items())
        return ImportFile(kind="litellm_config", passports=passports, notes=self._notes.all())

    # entries

    def _deployments(self) -> list[_Deployment]:
        models = self._config["model_list"]
        if not isinstance(models, list) or not models:
            hint = "Expected entries such as: - model_name: gpt-4o, litellm_params: {model: openai/gpt-4o}."
            refuse(self._document.path, "has a model_list that is not a list with entries", hint)
        return [self._deployment(index, entry) for index, entry in enumerate(models)]

    def _deployment(self, index: int, entry: object) -> _Deployment:
        lines = self._document.model_lines
        place = f"line {lines[index]}" if index < len(lines) else f"model_list[{index}]"
        if not isinstance(entry, dict):
            self._refuse_entry(place, "an entry of model_list must be a mapping")
        name, params, info = entry.get("model_name"), entry.get("litellm_params"), entry.get("model_info")
        if not isinstance(name, str) or not name:
            self._refuse_entry(place, "model_name must be a text")
        if not isinstance(params, dict):
            self._refuse_entry(place, "litellm_params must be a mapping")
        model = params.get("model")
        if not isinstance(model, str) or not model:
            self._refuse_entry(place, "litellm_params.model must be a text")
        if not isinstance(info, dict | None):
            self._refuse_entry(place, "model_info must be a mapping")
        provider, model = _split_model(model, params.get("custom_llm_provider"))
        where = f"{name} ({place})"
        return _Deployment(name=name, where=where, model=model, provider=provider, params=params, info=info or {})

    def _refuse_entry(self, place: str, what: str) -> NoReturn:
        hint = "An entry is: model_name: NAME, litellm_params: {model: PROVIDER/MODEL}, and perhaps model_info."
        raise SettingsError(f"{self._document.path}, {place}: {what}.", hint=hint)

    def _add(self, deployment: _Deployment, names: set[str]) -> None:
        """Add the passport of a deployment. Through the proxy one is enough for all deployments of a model."""
        name = deployment.name
        fields = self._describe(deployment)
        if name not in self._passports:
            self._passports[name] = fields
            self._first[name] = deployment
        elif self._direct:
            slug = next(s for n in range(2, 1_000_000) if (s := f"{name}-{n}") not in names | self._passports.keys())
            self._passports[slug] = fields
            self._spares.setdefault(name, []).append((slug, deployment))
        elif fields.prices != self._passports[name].prices:
            self._notes.add(f"{name} has deployments at different prices; the first one's apply.")

    def _describe(self, deployment: _Deployment) -> PassportFields:
        # The entry's own values override those of a table of prices.
        # Of the parameters only the prices describe the model: their max_tokens is what requests are sent with.
        prices = {name: value for name, value in deployment.params.items() if is_price_member(name)}
        said = {name: value for name, value in deployment.info.items() if value is not None}
        info = {**self._from_table(deployment), **prices, **said}
        for member in {**deployment.params, **said}:
            if member in _LIMITS_OF_THE_PROXY and not (
                self._direct and (member in _POOL_MEMBERS or member == "weight")
            ):
                self._notes.not_taken(member, deployment.name)
        fields = described(info, deployment.where, self._notes)
        route = self._direct_route(deployment) if self._direct else None
        if route is None:
            return msgspec.structs.replace(fields, api_model_id=deployment.name, provider=deployment.provider)
        given = {**deployment.params, **deployment.info}
        limits = {name: _limit(given.get(member)) for member, name in _POOL_MEMBERS.items()}
        pool = {name: limit for name, limit in limits.items() if limit is not None}
        return msgspec.structs.replace(fields, **route, pool=pool or None)

    def _from_table(self, deployment: _Deployment) -> dict[str, Any]:
        base = deployment.info.get("base_model")
        for name in (base, f"{deployment.provider}/{deployment.model}", deployment.model):
            if isinstance(name, str) and name in self._table:
                return self._table[name]
        return {}

    # calling a provider without the proxy

    def _direct_route(self, deployment: _Deployment) -> dict[str, Any] | None:
        """Returns where and how to call the deployment's provider; None if only the proxy can, which is noted."""
        provider = deployment.provider or ("openai" if _OPENAI_MODEL.match(deployment.model) else None)
        if provider not in _OPENAI_PROTOCOL:
            speaker = provider or "its provider"
            self._notes.add(f"{deployment.where}: {speaker} needs LiteLLM to translate; it stays behind the proxy.")
            return None
        base_url = deployment.params.get("api_base") or deployment.params.get("base_url")
        if base_url is None and provider == "openai":
            base_url = _OPENAI_BASE_URL
        problem = _url_problem(base_url)
        if problem or not isinstance(base_url, str):
            self._notes.add(f"{deployment.where}: api_base {problem}; it stays behind the proxy.")
            return None
        numbers = {name: _number(deployment.params.get(name)) for name in _DEFAULT_PARAMETERS}
        return {
            "api_model_id": deployment.model,
            "provider": provider,
            "base_url": base_url,
            "credential_env": self._credential_env(deployment, base_url),
            "default_parameters": {name: number for name, number in numbers.items() if number is not None} or None,
        }

    def _credential_env(self, deployment: _Deployment, base_url: str) -> str | None:
        key = deployment.params.get("api_key")
        if key is None:
            # What LiteLLM falls back on.
            return "OPENAI_API_KEY" if base_url == _OPENAI_BASE_URL else None
        if isinstance(key, str) and key.startswith(_ENV_PREFIX):
            name = key.removeprefix(_ENV_PREFIX)
            if _ENV_NAME.fullmatch(name):
                return name
        self._notes.add(
            f"{deployment.where}: the api_key in the file was not kept. Put it in an environment variable and name "
            f"that: trustgate passport set {deployment.name} --credential-env NAME."
        )
        return None

    # aliases and fallbacks

    def _add_aliases(self) -> None:
        """``router_settings.model_group_alias``: another name for a model becomes a passport like the model's."""
        aliases = _mapping(_mapping(self._config.get("router_settings")).get("model_group_alias"))
        for name, target in aliases.items():
            model = target.get("model") if isinstance(target, dict) else target
            fields = self._passports.get(model) if isinstance(model, str) else None
            if fields is None or not isinstance(name, str):
                self._notes.add(f"The alias {name!r} names no model of the file; left out.")
            elif name not in self._passports:
                model_id = name if fields.base_url is None else fields.api_model_id
                self._passports[name] = msgspec.structs.replace(fields, api_model_id=model_id)

    def _note_routing(self) -> None:
        """Members of the file's settings that change what is served or spent, and that have no place here."""
        for section in ("router_settings", "litellm_settings", "general_settings"):
            for member, value in _mapping(self._config.get(section)).items():
                if member == "routing_strategy" and self._direct and value in _CHOICES:
                    continue
                if member in _ROUTING and value:
                    self._notes.add(f"Not taken: {section}.{member}: {_ROUTING[member]}.")

    def _fallback_rules(self, member: str = "fallbacks") -> dict[str, list[str]]:
        """Names to try by model name; ``*`` for all models (``default_fallbacks``)."""
        rules: dict[str, list[str]] = {}
        for section in ("router_settings", "litellm_settings"):
            settings = _mapping(self._config.get(section))
            for rule in _items(settings.get(member)):
                rules.update({str(name): _texts(names) for name, names in _mapping(rule).items()})
            if member == "fallbacks" and settings.get("default_fallbacks"):
                rules["*"] = _texts(settings["default_fallbacks"])
        return rules

    def _add_pool(self, slug: str) -> None:
        """Make a pool of a model's deployments: its own passport beside those of the others."""
        spares = self._spares.get(slug)
        if spares is None:
            return
        weights = _weights([self._first[slug], *(deployment for _, deployment in spares)])
        strategy = _mapping(self._config.get("router_settings")).get("routing_strategy")
        pool: dict[str, int | str | None] = {**(self._passports[slug].pool or {}), "weight": weights[0]}
        pool["choice"] = _CHOICES.get(strategy, "weighted") if isinstance(strategy, str) else "weighted"
        names = (name for name, _ in spares)
        members = tuple(
            Fallback(passport=name, rank=0, weight=weight) for name, weight in zip(names, weights[1:], strict=True)
        )
        self._passports[slug] = msgspec.structs.replace(self._passports[slug], pool_members=members, pool=pool)

    def _add_fallbacks(self) -> None:
        """A model's further deployments share its load by their weights; then come the fallbacks, in their order."""
        rules, larger = self._fallback_rules(), self._fallback_rules("context_window_fallbacks")
        unknown: list[str] = []
        for slug in self._passports:
            self._add_pool(slug)
            taken = {name for name, _ in self._spares.get(slug, ())} | {slug}
            fallbacks = self._ranked(rules.get(slug, rules.get("*", ())), taken, unknown)
            taken |= {each.passport for each in fallbacks}
            context_fallbacks = tuple(
                msgspec.structs.replace(each, only_too_long=True)
                for each in self._ranked(larger.get(slug, larger.get("*", ())), taken, unknown)
            )
            if fallbacks or context_fallbacks:
                self._passports[slug] = msgspec.structs.replace(
                    self._passports[slug], fallbacks=fallbacks or None, context_fallbacks=context_fallbacks or None
                )
        if unknown:
            self._notes.add(f"Fallbacks to models that are not in the file were left out: {listed(unknown)}.")

    def _ranked(self, names: Iterable[str], taken: set[str], unknown: list[str]) -> tuple[Fallback, ...]:
        """Returns the names as fallbacks, one after the other; those of no model are added to ``unknown``."""
        ranks: dict[str, int] = {}
        for rank, name in enumerate(names, start=1):
            if name in self._passports:
                ranks.setdefault(name, rank)
            else:
                unknown.append(name)
        return tuple(Fallback(passport=name, rank=rank) for name, rank in ranks.items() if name not in taken)


def _weights(deployments: Sequence[_Deployment]) -> list[int]:
    """Returns the shares of a model's deployments, as the proxy's router has them.

    By their weights where one has a weight, else by their rpm, else by their tpm; else they are all alike.
    """
    for member in ("weight", "rpm", "tpm"):
        found = [_limit({**each.info, **each.params}.get(member)) for each in deployments]
        if any(found):
            return [weight or 1 for weight in found]
    return [1] * len(deployments)


def _limit(value: object) -> int | None:
    """Returns a whole number from 1 on and no larger than any that is kept."""
    number = _number(value)
    return None if number is None or number < 1 else min(int(number), 1_000_000)


def _split_model(model: str, custom_provider: object) -> tuple[str | None, str]:
    """Provider and model of ``provider/model``; the provider is None when neither member names it."""
    prefix, slash, rest = model.partition("/")
    if isinstance(custom_provider, str) and custom_provider:
        return custom_provider, rest if slash and prefix == custom_provider else model
    return (prefix, rest) if slash else (None, model)


def _url_problem(url: object) -> str | None:
    """Why a passport cannot have this base URL, if it cannot."""
    if not isinstance(url, str):
        return "is missing"
    if url.startswith(_ENV_PREFIX):
        return "is kept in an environment variable"
    try:
        parts = urlsplit(url)
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is not an http(s) URL"
    if parts.username or parts.password or parts.query:
        return "may hold a secret (a user name, a password or a query)"
    return None


def _number(value: object) -> int | float | None:
    """Returns the value, if JSON can carry it as a number."""
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _mapping(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    """Returns a list of names; anything else in it (LiteLLM also takes whole parameter objects) is left out."""
    return [item for item in _items(value) if isinstance(item, str)]
