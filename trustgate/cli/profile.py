"""``trustgate profile``: which models, and which configuration of them, a plan, a tenant or a key gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trustgate.admin.profiling import ProfileClear, ProfileList, ProfilePut, ProfileShow, ProfileState
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute
from trustgate.errors import InvalidRequest
from trustgate.models.profiles import parameter_name, summed_up
from trustgate.types import HeaderValue, OwnCredential, ProfileRules

app = typer.Typer(
    help="Profiles: model names, parameters and upstream keys of a plan, a tenant or a key.", no_args_is_help=True
)

PlanOption = Annotated[str | None, typer.Option("--plan", metavar="PLAN", help="Of all tenants on this plan.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Of this tenant.")]
KeyOption = Annotated[str | None, typer.Option("--key", metavar="KEY", help="Of this key alone.")]


def _entries(flag: str, metavar: str, help: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=help)


@app.command("set", short_help="Add to a profile.")
def set_(
    context: typer.Context,
    plan: PlanOption = None,
    tenant: TenantOption = None,
    key: KeyOption = None,
    name: Annotated[
        list[str] | None,
        _entries("--name", "NAME=MODEL", "A name of its own for a model, before all others: gpt-4=llama. Repeatable."),
    ] = None,
    only_own_names: Annotated[
        Literal["yes", "no"] | None, typer.Option("--only-own-names", help="No models but those with a --name.")
    ] = None,
    default_model: Annotated[
        str | None, typer.Option("--default-model", metavar="MODEL", help="For requests that name no model.")
    ] = None,
    unknown_models: Annotated[
        Literal["refuse", "default"] | None,
        typer.Option("--unknown-models", help="Names that do not exist: refuse them, or take the default model."),
    ] = None,
    set_parameter: Annotated[
        list[str] | None,
        _entries("--set", "NAME=JSON", "A parameter, whatever the request has: temperature=0. Repeatable."),
    ] = None,
    default: Annotated[
        list[str] | None, _entries("--default", "NAME=JSON", "A parameter where the request has none. Repeatable.")
    ] = None,
    cap: Annotated[
        list[str] | None,
        _entries(
            "--cap", "NAME=MOST", "The most a request may ask for: max_tokens=800, reasoning_effort=low. Repeatable."
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="A system message put before each request's own; or @FILE."),
    ] = None,
    provider: Annotated[
        list[str] | None,
        _entries("--provider", "NAME[,…]", "The providers that may serve, the preferred first."),
    ] = None,
    target: Annotated[
        list[str] | None,
        _entries("--target", "GLOB[,…]", "The passports that may serve, the preferred first."),
    ] = None,
    header: Annotated[
        list[str] | None, _entries("--header", "NAME=TEXT", "A header for LLM servers; no secret. Repeatable.")
    ] = None,
    header_env: Annotated[
        list[str] | None,
        _entries("--header-env", "NAME=VARIABLE", "A header whose value is in a variable. Repeatable."),
    ] = None,
    header_file: Annotated[
        list[str] | None, _entries("--header-file", "NAME=FILE", "A header whose value is in a file. Repeatable.")
    ] = None,
    credential_env: Annotated[
        list[str] | None,
        _entries(
            "--credential-env",
            "PASSPORT=VARIABLE",
            "The variable with an upstream key of its own for this passport. Repeatable.",
        ),
    ] = None,
    credential_file: Annotated[
        list[str] | None, _entries("--credential-file", "PASSPORT=FILE", "Or the file with that key. Repeatable.")
    ] = None,
    fee: Annotated[
        list[str] | None,
        _entries("--fee", "PASSPORT=USD", "What a request with that upstream key is charged, instead of the price."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Add to a profile, in effect from the next request on. `none` takes an entry or a value away.

    A key's profile goes before its tenant's, a tenant's before its plan's, entry by entry.
    """
    given = _Given()
    given.entries("names", name, str)
    given.single("own_names_only", only_own_names, lambda text: text == "yes")
    given.single("default_model", default_model, str)
    given.single("default_for_unknown", unknown_models, lambda text: text == "default")
    given.parameters("parameters", set_parameter)
    given.parameters("defaults", default)
    given.parameters("caps", cap, words=True)
    given.single("system", system, _text)
    given.words("providers", provider)
    given.words("targets", target)
    given.entries("headers", header, lambda text: HeaderValue(text=text), fold=str.lower)
    given.entries("headers", header_env, lambda text: HeaderValue(env=text), fold=str.lower)
    given.entries("headers", header_file, lambda text: HeaderValue(file=text), fold=str.lower)
    given.entries("credentials", credential_env, lambda text: OwnCredential(env=text))
    given.entries("credentials", credential_file, lambda text: OwnCredential(file=text))
    fees = {slug: values.usd(text) for slug, text in _pairs("--fee", fee)}
    if not given.members and not given.removed and not fees:
        raise InvalidRequest("No change was given.", hint="trustgate profile set --help")
    removed = {member: tuple(entries) for member, entries in given.removed.items()}
    command = ProfilePut(
        plan=plan, tenant=tenant, key=key, rules=ProfileRules(**given.members), removed=removed, fees=fees
    )
    _print(execute(context, command), json)


@app.command("show")
def show(
    context: typer.Context,
    plan: PlanOption = None,
    tenant: TenantOption = None,
    key: KeyOption = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="With what the tenant's and the plan's profiles add: what holds.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show a profile."""
    _print(execute(context, ProfileShow(plan=plan, tenant=tenant, key=key, is_merged=merged)), json)


@app.command("list")
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the profiles."""
    profiles = execute(context, ProfileList())
    if json:
        render.document({"profiles": profiles})
        return
    render.table(
        ["Of", "Owner", "Has", "Changed (UTC)"],
        [
            (
                each.kind,
                each.owner,
                render.names(_TITLES[name].lower() for name, _ in summed_up(each.rules)),
                render.instant(each.changed_us),
            )
            for each in profiles
        ],
        empty="There is no profile. Set one: trustgate profile set --tenant TENANT --name NAME=MODEL",
    )


@app.command("clear")
def clear(
    context: typer.Context,
    plan: PlanOption = None,
    tenant: TenantOption = None,
    key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Take a whole profile away, in effect from the next request on."""
    cleared = execute(context, ProfileClear(plan=plan, tenant=tenant, key=key))
    if json:
        render.document({"profile": cleared})
    else:
        render.say(f"Cleared the profile of the {cleared.kind} {cleared.owner}.")


class _Given:
    """What was given of the rules, by member, and what was given as ``none``."""

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.removed: dict[str, list[str]] = {}

    def single(self, member: str, text: str | None, parse: Callable[[str], Any]) -> None:
        if text == "none":
            self.removed[member] = []
        elif text is not None:
            self.members[member] = parse(text)

    def words(self, member: str, texts: Sequence[str] | None) -> None:
        if texts == ["none"]:
            self.removed[member] = []
        elif texts:
            self.members[member] = values.words(list(texts))

    def entries(
        self,
        member: str,
        texts: Sequence[str] | None,
        parse: Callable[[str], Any],
        *,
        fold: Callable[[str], str] = str,
    ) -> None:
        for name, text in _pairs(_FLAGS[member], texts):
            if text == "none":
                self.removed.setdefault(member, []).append(fold(name))
            else:
                self.members.setdefault(member, {})[fold(name)] = parse(text)

    def parameters(self, member: str, texts: Sequence[str] | None, *, words: bool = False) -> None:
        """``words``: a text needs no quotes."""
        for name, text in _pairs(_FLAGS[member], texts):
            own = parameter_name(name)
            if text == "none" and not (words and own == "reasoning_effort"):
                self.removed.setdefault(member, []).append(own)
                continue
            quoted = f'"{text}"' if words and text.isalpha() else text
            self.members.setdefault(member, {})[own] = values.parameters([f"{name}={quoted}"])[name]


#: The options whose values are of a member, for messages.
_FLAGS = {
    "names": "--name",
    "parameters": "--set",
    "defaults": "--default",
    "caps": "--cap",
    "headers": "--header",
    "credentials": "--credential-env",
}


def _pairs(flag: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    """``NAME=VALUE`` each."""
    found = []
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint=f"'{flag}'")
        found.append((name.strip(), value))
    return found


def _text(text: str) -> str:
    """A text, or with ``@`` before it the file that has it."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"The system message cannot be read from {text[1:]}: {error}.", hint="--system TEXT, or --system @FILE"
        ) from None


# showing them

_TITLES = {
    "names": "Names",
    "own_names_only": "Only own names",
    "default_model": "Default model",
    "default_for_unknown": "For unknown names",
    "parameters": "Set",
    "defaults": "Default",
    "caps": "Most of",
    "system": "System message",
    "providers": "Providers",
    "targets": "Targets",
    "headers": "Headers",
    "credentials": "Upstream keys",
}


def _print(profile: ProfileState, json: bool) -> None:
    if json:
        render.document({"profile": profile})
        return
    fields = rule_fields(profile.rules)
    render.card([("Profile of", f"{profile.kind} {profile.owner}"), *(fields or [("Rules", "none")])])


def rule_fields(rules: ProfileRules) -> list[tuple[str, render.Cell]]:
    """Returns what the rules say, a line each entry."""
    fields: list[tuple[str, render.Cell]] = []
    for name, value in summed_up(rules):
        title = _TITLES[name]
        if name == "names":
            fields += [(f"Name {each}", target) for each, target in value.items()]
        elif name == "headers":
            fields += [(f"Header {each}", _header(source)) for each, source in value.items()]
        elif name == "credentials":
            fields += [(f"Upstream key for {each}", _own_key(own)) for each, own in value.items()]
        elif isinstance(value, dict):
            fields += [(f"{title} {each}", render.json_text(entry)) for each, entry in value.items()]
        elif isinstance(value, tuple):
            fields.append((title, ", ".join(value)))
        else:
            fields.append((title, ("yes" if value else "no") if isinstance(value, bool) else value))
    return fields


def _header(source: HeaderValue) -> str:
    return source.text if source.text is not None else _place(source.env, source.file)


def _own_key(own: OwnCredential) -> str:
    fee = render.usd(own.fee_nano_usd) if own.fee_nano_usd else "nothing"
    return f"{_place(own.env, own.file)}; a request is charged {fee}"


def _place(env: str | None, file: str | None) -> str:
    return f"in the environment variable {env}" if env is not None else f"in the file {file}"
