"""``trustgate profile``: which models, and which configuration of them, a plan, a tenant or a key gets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trustgate.admin.profile_words import TITLES, GivenRules, rule_lines
from trustgate.admin.profiling import ProfileClear, ProfileList, ProfilePut, ProfileShow, ProfileState
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute
from trustgate.cli.options import option, with_options
from trustgate.errors import InvalidRequest
from trustgate.models.profiles import summed_up
from trustgate.types import ProfileRules

app = typer.Typer(
    help="Profiles: model names, parameters and upstream keys of a plan, a tenant or a key.", no_args_is_help=True
)

PlanOption = Annotated[str | None, typer.Option("--plan", metavar="PLAN", help="Of all tenants on this plan.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Of this tenant.")]
KeyOption = Annotated[str | None, typer.Option("--key", metavar="KEY", help="Of this key alone.")]


#: ``--`` and these, in the order of the help; each is a member of ``GivenRules``, or a part of one.
_OPTIONS = [
    option(
        "name",
        list[str],
        "--name",
        metavar="NAME=MODEL",
        help="A name of its own for a model, before all others: gpt-4=llama. Repeatable.",
    ),
    option("only_own_names", Literal["yes", "no"], "--only-own-names", help="No models but those with a --name."),
    option("default_model", str, "--default-model", metavar="MODEL", help="For requests that name no model."),
    option(
        "unknown_models",
        Literal["refuse", "default"],
        "--unknown-models",
        help="Names that do not exist: refuse them, or take the default model.",
    ),
    option(
        "set_parameter",
        list[str],
        "--set",
        metavar="NAME=JSON",
        help="A parameter, whatever the request has: temperature=0. Repeatable.",
    ),
    option(
        "default",
        list[str],
        "--default",
        metavar="NAME=JSON",
        help="A parameter where the request has none. Repeatable.",
    ),
    option(
        "cap",
        list[str],
        "--cap",
        metavar="NAME=MOST",
        help="The most a request may ask for: max_tokens=800, reasoning_effort=low. Repeatable.",
    ),
    option(
        "system",
        str,
        "--system",
        metavar="TEXT",
        help="A system message put before each request's own; or @FILE.",
    ),
    option(
        "provider",
        list[str],
        "--provider",
        metavar="NAME[,…]",
        help="The providers that may serve, the preferred first.",
    ),
    option(
        "target",
        list[str],
        "--target",
        metavar="GLOB[,…]",
        help="The passports that may serve, the preferred first.",
    ),
    option(
        "header",
        list[str],
        "--header",
        metavar="NAME=TEXT",
        help="A header for LLM servers, or NAME@PROVIDER; no secret. Repeatable.",
    ),
    option(
        "header_env",
        list[str],
        "--header-env",
        metavar="NAME=VARIABLE",
        help="A header whose value is in a variable. Repeatable.",
    ),
    option(
        "header_file",
        list[str],
        "--header-file",
        metavar="NAME=FILE",
        help="A header whose value is in a file. Repeatable.",
    ),
    option(
        "credential_env",
        list[str],
        "--credential-env",
        metavar="PASSPORT=VARIABLE",
        help="The variable with an upstream key of its own for this passport. Repeatable.",
    ),
    option(
        "credential_file",
        list[str],
        "--credential-file",
        metavar="PASSPORT=FILE",
        help="Or the file with that key. Repeatable.",
    ),
    option(
        "fee",
        list[str],
        "--fee",
        metavar="PASSPORT=USD",
        help="What a request with that upstream key is charged, instead of the price.",
    ),
]


def _collect(options: Mapping[str, Any]) -> GivenRules:
    given = GivenRules()
    try:
        given.names(options["name"])
        given.single("own_names_only", options["only_own_names"], lambda text: text == "yes")
        given.single("default_model", options["default_model"])
        given.single("default_for_unknown", options["unknown_models"], lambda text: text == "default")
        given.parameters("parameters", "--set", options["set_parameter"])
        given.parameters("defaults", "--default", options["default"])
        given.parameters("caps", "--cap", options["cap"], words=True)
        given.single("system", options["system"], _text)
        given.words("providers", options["provider"])
        given.words("targets", options["target"])
        for kind, name in (("text", "header"), ("env", "header_env"), ("file", "header_file")):
            given.headers(kind, options[name])
        given.credentials("env", options["credential_env"])
        given.credentials("file", options["credential_file"])
        given.fee(options["fee"])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return given


@app.command("set", short_help="Add to a profile.")
@with_options("given", _OPTIONS, _collect)
def set_(
    context: typer.Context,
    given: GivenRules,
    plan: PlanOption = None,
    tenant: TenantOption = None,
    key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Add to a profile, in effect from the next request on. `none` takes an entry or a value away.

    A key's profile goes before its tenant's, a tenant's before its plan's, entry by entry.
    """
    if given.is_empty:
        raise InvalidRequest("No change was given.", hint="trustgate profile set --help")
    rules = ProfileRules(**given.members)
    command = ProfilePut(plan=plan, tenant=tenant, key=key, rules=rules, removed=given.removed, fees=given.fees)
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
                render.names(TITLES[name].lower() for name, _ in summed_up(each.rules)),
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


def _print(profile: ProfileState, json: bool) -> None:
    if json:
        render.document({"profile": profile})
        return
    fields = rule_lines(profile.rules)
    render.card([("Profile of", f"{profile.kind} {profile.owner}"), *(fields or [("Rules", "none")])])
