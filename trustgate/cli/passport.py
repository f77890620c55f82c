"""``trustgate passport``: which models there are, where, and at what price."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from trustgate.admin.model_commands import (
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
from trustgate.admin.profile_words import rule_lines
from trustgate.admin.profiling import PassportResolve
from trustgate.cli import price, render
from trustgate.cli.context import JsonOption, execute, session
from trustgate.cli.fields import Given, with_passport_fields
from trustgate.cli.price import per_million, price_fields, source_text
from trustgate.errors import InvalidRequest, OperatorError
from trustgate.ids import now_us
from trustgate.models.prices import gaps, is_priced, slips
from trustgate.settings import remote_server
from trustgate.types import Fallback, Passport, Prices

app = typer.Typer(help="Models: where they are served, and at what price.", no_args_is_help=True)
app.add_typer(price.prices_app, name="prices")

YesOption = Annotated[bool, typer.Option("--yes", help="Take prices that look like a slip of the unit, too.")]
PassportArgument = Annotated[str, typer.Argument(metavar="PASSPORT", help="The passport's slug or id.")]


@app.command("add", short_help="Add a model.")
@with_passport_fields
def add(
    context: typer.Context,
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="The name clients ask for, such as openai/gpt-4o-mini.")],
    given: Given,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Add a model: the name clients ask for, where it is served, and its price.

    A * in the slug makes a wildcard: openai/* matches every model of that name. Without --base-url requests go to the
    default LLM server, without --api-model-id under the slug.
    """
    fields = given.for_new()
    _check_slips([] if fields.prices is None else [(slug, fields.prices)], yes=yes)
    added = execute(context, PassportAdd(slug=slug, fields=fields))
    _print(added, json)
    _note_gaps(added)
    _note_key(context, added)


@app.command("set", short_help="Change a passport.")
@with_passport_fields
def set_(
    context: typer.Context, passport: PassportArgument, given: Given, yes: YesOption = False, json: JsonOption = False
) -> None:
    """Change a passport, in effect from the next request on. `none` clears an optional value."""
    if given.is_empty:
        raise InvalidRequest("No change was given.", hint="trustgate passport set --help")
    prices = given.priced().prices
    _check_slips([] if prices is None else [(passport, prices)], yes=yes)
    command = PassportSet(
        passport=passport,
        fields=given.fields,
        unset=given.unset,
        prices=given.prices,
        conditions=given.conditions,
        clear_conditions=given.clear_conditions,
    )
    changed = execute(context, command)
    _print(changed, json)
    if prices is not None:
        _note_gaps(changed)
    if given.fields.credential_file is not None:
        _note_key(context, changed)


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
        [
            *("Slug", "Model", "Status", "Server", render.right("Input $/1M"), render.right("Output $/1M")),
            *("Price from", "Context"),
        ],
        [
            (
                passport.slug,
                passport.api_model_id,
                render.status(passport.status),
                passport.base_url or "default",
                _per_million(passport, passport.prices.input_pico_usd),
                _per_million(passport, passport.prices.output_pico_usd),
                _source(passport),
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


@app.command("resolve", short_help="Explain what a model's name means to a tenant.")
def resolve(
    context: typer.Context,
    tenant: Annotated[str, typer.Option("--tenant", metavar="TENANT", help="The tenant's name or id.")],
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="The name that is asked for; without it, a request without one.")
    ] = "",
    key: Annotated[str | None, typer.Option("--key", metavar="KEY", help="One of its keys.")] = None,
    json: JsonOption = False,
) -> None:
    """Explain what a request for a model gets, step by step.

    Which profile holds, where the name leads, the targets in order, their keys and prices, the parameters, and what the
    plan says to it. Nothing is sent.
    """
    found = execute(context, PassportResolve(model=model, tenant=tenant, key=key))
    if json:
        render.document({"resolution": found})
        return
    for number, line in enumerate(found.steps, start=1):
        render.say(f"{number}. {line}")
    fields = rule_lines(found.rules)
    if fields:
        render.say("")
        render.card(fields, title="What the profile has")


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
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Import models from a LiteLLM config.yaml, or prices from its model_prices_and_context_window.json.

    A config.yaml adds its models and updates those that exist; a table of prices adds nothing and updates the prices
    and limits of existing models. Keys in the file are never kept.
    """
    from trustgate.models.importing.litellm import read_import_file  # reading YAML takes 20 ms to load

    found = read_import_file(file, direct=direct, prices=prices)
    priced = [(passport.slug, passport.fields.prices) for passport in found.passports]
    # A table changes the models there are; which those are is known where they are kept.
    known = {passport.slug for passport in execute(context, PassportList(revoked=True))}
    from_config = found.kind == "litellm_config"
    _check_slips([(slug, prices) for slug, prices in priced if prices and (from_config or slug in known)], yes=yes)
    command = PassportImport(
        passports=found.passports, only_existing=not from_config, source=f"imported from {file.name}"
    )
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
            hint="trustgate passport alias --help",
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


def _check_slips(priced: Sequence[tuple[str, Prices]], *, yes: bool) -> None:
    """Refuse prices that look like a mistaken unit, unless they are meant."""
    found = [f"{slug}: {slip}" for slug, prices in priced for slip in slips(prices)]
    if found and not yes:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        raise InvalidRequest(
            f"These prices look like a slip of the unit: {', '.join(found[:5])}{more}.",
            hint="Prices are USD per million tokens. If they are meant, give --yes.",
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


def _note_gaps(passport: Passport) -> None:
    """Name what a passport's price leaves free: a price that was forgotten costs its operator until it is noticed."""
    free = gaps(passport.prices)
    if free:
        _note(f"This price leaves {' and '.join(free)} free. If that is meant, give a price of 0.")


def _note_key(context: typer.Context, passport: Passport) -> None:
    """Say where the file with a passport's key cannot be read. The server may be on another machine, or start later."""
    if passport.credential_file is None or remote_server() is not None:
        return
    try:
        session(context).settings().read_credential(passport)
    except OperatorError as error:
        _note(f"{error.message} The passport is kept; its requests fail until the file is there.")


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
        *price_fields(passport.prices),
        *([("Price from", text)] if (text := source_text(passport.price_source, passport.priced_us)) else []),
        *_pool(passport),
        ("Fallbacks", _fallbacks(_further(passport, only_too_long=False))),
        *([("Too long", _fallbacks(larger))] if (larger := _further(passport, only_too_long=True)) else []),
        *((f"Sets {name}", render.json_text(value)) for name, value in passport.default_parameters.items()),
        ("Created", render.instant_utc(passport.created_us)),
    ]


def _per_million(passport: Passport, pico_usd: int | None) -> str:
    by_name = passport.is_wildcard and not is_priced(passport.prices)
    return "by name" if by_name else per_million(passport.prices, pico_usd)


def _source(passport: Passport) -> str:
    since = f", {render.instant(passport.priced_us)[:10]}" if passport.priced_us else ""
    now = now_us()
    turns = {at for rates in passport.prices.conditional for at in (rates.from_us, rates.until_us) if at is not None}
    coming = min((at for at in turns if at > now), default=None)
    until = "" if coming is None else f", until {render.instant(coming)[:10]}"
    return f"{passport.price_source}{since}{until}"


def _credential(passport: Passport) -> str:
    if passport.credential_env is not None:
        return f"in the environment variable {passport.credential_env}"
    if passport.credential_file is not None:
        return f"in the file {passport.credential_file}"
    return "the default upstream's" if passport.base_url is None else "none"


def _tokens(count: int | None) -> str:
    return "not known" if count is None else f"{render.number(count)} tokens"


def _pool(passport: Passport) -> list[tuple[str, render.Cell]]:
    """Returns what a passport shares its load with, and what its own target is sent at most."""
    pool = passport.pool
    beside = tuple(each for each in passport.fallbacks if each.rank == 0)
    fields: list[tuple[str, render.Cell]] = []
    if beside:
        own = f"itself (weight {pool.weight})" if pool.weight != 1 else "itself"
        fields.append(("Pool", f"{own} or {_fallbacks(beside)}"))
        fields.append(("First choice", _CHOICES[pool.choice]))
    limits = [
        f"{render.number(limit)} {what}"
        for limit, what in (
            (pool.requests_per_minute, "requests a minute"),
            (pool.tokens_per_minute, "tokens a minute"),
            (pool.parallel_requests, "at the same time"),
        )
        if limit is not None
    ]
    return [*fields, ("Sent at most", ", ".join(limits))] if limits else fields


_CHOICES = {
    "weighted": "by weight",
    "least_busy": "the least busy",
    "tenant": "always the same for a tenant",
    "conversation": "always the same for a conversation",
}


def _further(passport: Passport, *, only_too_long: bool) -> tuple[Fallback, ...]:
    found = (each for each in passport.fallbacks if each.rank > 0)
    return tuple(each for each in found if each.only_too_long == only_too_long)


def _fallbacks(fallbacks: tuple[Fallback, ...]) -> str:
    """``a or b (weight 3), then c``."""
    ranks: dict[int, list[str]] = {}
    for fallback in sorted(fallbacks, key=lambda fallback: fallback.rank):
        weight = "" if fallback.weight == 1 else f" (weight {fallback.weight})"
        ranks.setdefault(fallback.rank, []).append(fallback.passport + weight)
    return ", then ".join(" or ".join(rank) for rank in ranks.values()) or "none"


def _note(text: str) -> None:
    """Print a note to stderr: what a command prints of its result stays as it is."""
    render.say(render.Styled(f"Note: {text}", "yellow"), to_stderr=True)
