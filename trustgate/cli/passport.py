"""``trustgate passport``: which models there are, where, and at what price."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustgate.admin.commands import (
    AliasList,
    AliasRemove,
    AliasSet,
    ImportResult,
    PassportAdd,
    PassportImport,
    PassportList,
    PassportSet,
    PassportShow,
    PassportStatus,
)
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute
from trustgate.cli.fields import Given, with_passport_fields
from trustgate.errors import InvalidRequest
from trustgate.models.pricing import is_priced
from trustgate.types import ConditionalRates, Fallback, Passport, Prices

app = typer.Typer(help="Models: where they are served, and at what price.", no_args_is_help=True)

PassportArgument = Annotated[str, typer.Argument(metavar="PASSPORT", help="The passport's slug or id.")]


@app.command("add", short_help="Add a model.")
@with_passport_fields
def add(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The name clients ask for, such as openai/gpt-4o-mini.")],
    given: Given,
    json: JsonOption = False,
) -> None:
    """Add a model: the name clients ask for, where it is served, and its price.

    A * in the slug makes a wildcard: openai/* matches every model of that name. Without --base-url requests go to the
    default LLM server, without --api-model-id under the slug.
    """
    _print(execute(context, PassportAdd(slug=slug, fields=given.for_new())), json)


@app.command("set", short_help="Change a passport.")
@with_passport_fields
def set_(context: typer.Context, passport: PassportArgument, given: Given, json: JsonOption = False) -> None:
    """Change a passport, in effect from the next request on. `none` clears an optional value."""
    if given.is_empty:
        raise InvalidRequest("No change was given.", hint="trustgate passport set --help")
    command = PassportSet(passport=passport, fields=given.fields, unset=given.unset, prices=given.prices)
    _print(execute(context, command), json)


@app.command("list")
def list_(
    context: typer.Context,
    revoked: Annotated[bool, typer.Option("--revoked", help="Include revoked passports.")] = False,
    json: JsonOption = False,
) -> None:
    """List the models."""
    passports = execute(context, PassportList(revoked=revoked))
    if json:
        render.document({"passports": passports})
        return
    render.table(
        ["Slug", "Model", "Status", "Server", render.right("Input $/1M"), render.right("Output $/1M"), "Context"],
        [
            (
                passport.slug,
                passport.api_model_id,
                render.status(passport.status),
                passport.base_url or "default",
                _per_million(passport.prices, passport.prices.input_pico_usd),
                _per_million(passport.prices, passport.prices.output_pico_usd),
                render.optional(passport.context_length),
            )
            for passport in passports
        ],
        empty="There is no passport. Add one: trustgate passport add SLUG, or trustgate passport import FILE",
    )


@app.command("show")
def show(context: typer.Context, passport: PassportArgument, json: JsonOption = False) -> None:
    """Show a passport."""
    _print(execute(context, PassportShow(passport=passport)), json)


@app.command("deprecate")
def deprecate(context: typer.Context, passport: PassportArgument, json: JsonOption = False) -> None:
    """Mark a model as going away; it still serves."""
    _print(execute(context, PassportStatus(passport=passport, status="deprecated")), json)


@app.command("revoke")
def revoke(context: typer.Context, passport: PassportArgument, json: JsonOption = False) -> None:
    """Stop serving a model, under all its names."""
    _print(execute(context, PassportStatus(passport=passport, status="revoked")), json)


@app.command("activate")
def activate(context: typer.Context, passport: PassportArgument, json: JsonOption = False) -> None:
    """Serve a deprecated or revoked model again."""
    _print(execute(context, PassportStatus(passport=passport, status="active")), json)


@app.command("import", short_help="Import models and prices from LiteLLM's files.")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="LiteLLM's config.yaml, or its table of prices (JSON).")],
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A table of prices for models without a price in config.yaml."),
    ] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Call OpenAI-compatible providers directly, not through LiteLLM.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Import models from a LiteLLM config.yaml, or prices from its model_prices_and_context_window.json.

    A config.yaml adds its models and updates those that exist; a table of prices adds nothing and updates the prices
    and limits of existing models. Keys in the file are never kept.
    """
    from trustgate.models.importing.litellm import read_import_file  # reading YAML takes 20 ms to load

    found = read_import_file(file, direct=direct, prices=prices)
    command = PassportImport(passports=found.passports, only_existing=found.kind == "litellm_prices")
    with render.waiting("Importing models", quiet=json):
        result = execute(context, command)
    if json:
        render.document({**render.plain(result), "notes": found.notes})
    else:
        _print_import(result, found.notes)


@app.command("alias", short_help="Give a model an alias.")
def alias(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The alias, such as gpt-4o.")] = None,
    slug: Annotated[str | None, typer.Argument(metavar="SLUG", help="The slug of the model's passport.")] = None,
    all_: Annotated[bool, typer.Option("--list", help="List the aliases.")] = False,
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="Remove an alias.")] = None,
    json: JsonOption = False,
) -> None:
    """Give a model an alias: trustgate passport alias NAME SLUG. Or list or remove aliases."""
    wanted = (name is not None, all_, remove is not None)
    if wanted.count(True) != 1 or (name is None) != (slug is None):
        raise InvalidRequest(
            "NAME and SLUG, --list or --remove is missing.",
            hint="trustgate passport alias NAME SLUG, or --list, or --remove NAME",
        )
    if all_:
        _list_aliases(context, json)
        return
    done = execute(context, AliasRemove(name=remove) if remove is not None else _alias_set(name, slug))
    if json:
        render.document({"alias": done})
    elif remove is not None:
        render.say(f"Removed the alias {done.name} of {done.target}.")
    else:
        render.say(f"{done.name} now stands for {done.target}.")


def _alias_set(name: str | None, slug: str | None) -> AliasSet:
    assert name is not None
    assert slug is not None
    return AliasSet(name=name, target=slug)


def _list_aliases(context: typer.Context, json: bool) -> None:
    aliases = execute(context, AliasList())
    if json:
        render.document({"aliases": aliases})
        return
    render.table(
        ["Name", "Stands for"],
        [(found.name, found.target) for found in aliases],
        empty="There is no alias. Add one: trustgate passport alias NAME SLUG",
    )


def _print_import(result: ImportResult, notes: tuple[str, ...]) -> None:
    for title, slugs in (("Added", result.added), ("Changed", result.changed)):
        if slugs:
            render.say(f"{title} {len(slugs)}:")
            for slug in slugs:
                render.say(f"  {slug}")
    if not result.added and not result.changed:
        render.say("Nothing to change.")
    if result.unchanged:
        render.say(f"Unchanged {result.unchanged}.")
    for note in notes:
        render.say(render.Styled(f"Note: {note}", "yellow"))


def _print(passport: Passport, json: bool) -> None:
    if json:
        render.document({"passport": passport})
    else:
        render.card(_fields(passport))


def _fields(passport: Passport) -> list[tuple[str, render.Cell]]:
    return [
        ("Passport", passport.slug),
        ("Id", passport.id),
        ("Status", render.status(passport.status)),
        ("Model", passport.api_model_id),
        ("Provider", passport.provider),
        ("Format", passport.format),
        ("Server", passport.base_url or "the default upstream"),
        ("Key", _credential(passport)),
        ("Context", _tokens(passport.context_length)),
        ("Max. output", _tokens(passport.max_output_tokens)),
        ("Capabilities", render.names(passport.capabilities)),
        *_price_fields(passport.prices),
        ("Fallbacks", _fallbacks(passport.fallbacks)),
        *((f"Sets {name}", render.json_text(value)) for name, value in passport.default_parameters.items()),
        ("Created", render.instant_utc(passport.created_us)),
    ]


def _credential(passport: Passport) -> str:
    if passport.credential_env is not None:
        return f"in the environment variable {passport.credential_env}"
    if passport.credential_file is not None:
        return f"in the file {passport.credential_file}"
    return "the default upstream's" if passport.base_url is None else "none"


def _per_million(prices: Prices, pico_usd: int | None) -> str:
    """A price a million, ``free``, or ``not priced``; nothing where the table says nothing of it."""
    if prices.free:
        return "free"
    if pico_usd is None:
        return "" if is_priced(prices) else "not priced"
    return render.usd_per_million(pico_usd)


#: What each rate is shown as, in order: its title and what it is for.
_RATE_TITLES = {
    "input_pico_usd": ("Input", "per million tokens"),
    "cached_input_pico_usd": ("Input, cached", "per million tokens"),
    "cache_write_pico_usd": ("Cache write", "per million tokens"),
    "cache_write_1h_pico_usd": ("Cache write, 1 h", "per million tokens"),
    "output_pico_usd": ("Output", "per million tokens"),
    "reasoning_pico_usd": ("Reasoning", "per million tokens"),
    "audio_input_pico_usd": ("Audio input", "per million tokens"),
    "audio_output_pico_usd": ("Audio output", "per million tokens"),
    "image_input_pico_usd": ("Image input", "per million tokens"),
    "image_output_pico_usd": ("Image output", "per million tokens"),
    "call_nano_usd": ("Call", "each"),
    "image_nano_usd": ("Image", "each"),
    "search_nano_usd": ("Search", "each"),
    "audio_second_nano_usd": ("Audio", "a second"),
    "character_pico_usd": ("Speech", "per million characters"),
}


def _price_fields(prices: Prices) -> list[tuple[str, render.Cell]]:
    if prices.free:
        return [("Price", "free")]
    if not is_priced(prices):
        return [("Price", "not priced")]
    fields: list[tuple[str, render.Cell]] = [
        (title, _rate(rate, name, unit))
        for name, (title, unit) in _RATE_TITLES.items()
        if (rate := getattr(prices, name)) is not None
    ]
    for rates in prices.conditional:
        told = [
            f"{title[0].lower()}{title[1:]} {_rate(rate, name, unit)}"
            for name, (title, unit) in _RATE_TITLES.items()
            if (rate := getattr(rates, name)) is not None
        ]
        fields.append((_conditions(rates), "; ".join(told)))
    return fields


def _rate(rate: int, name: str, unit: str) -> str:
    return f"{render.usd(rate) if name.endswith('_nano_usd') else render.usd_per_million(rate)} {unit}"


def _conditions(rates: ConditionalRates) -> str:
    told = []
    if rates.above_prompt_tokens is not None:
        told.append(f"above {render.number(rates.above_prompt_tokens)} prompt tokens")
    if rates.service_tier is not None:
        told.append(f"tier {rates.service_tier}")
    told += [text for text in (rates.image_size, rates.image_quality) if text is not None]
    if rates.from_us is not None:
        told.append(f"from {render.instant_utc(rates.from_us)}")
    if rates.until_us is not None:
        told.append(f"until {render.instant_utc(rates.until_us)}")
    text = ", ".join(told)
    return text[0].upper() + text[1:]


def _tokens(count: int | None) -> str:
    return "not known" if count is None else f"{render.number(count)} tokens"


def _fallbacks(fallbacks: tuple[Fallback, ...]) -> str:
    """``a or b (weight 3), then c``."""
    ranks: dict[int, list[str]] = {}
    for fallback in sorted(fallbacks, key=lambda fallback: fallback.rank):
        weight = "" if fallback.weight == 1 else f" (weight {fallback.weight})"
        ranks.setdefault(fallback.rank, []).append(fallback.passport + weight)
    return ", then ".join(" or ".join(rank) for rank in ranks.values()) or "none"
