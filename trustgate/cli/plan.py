"""``trustgate plan``: what tenants may use."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trustgate.admin.commands import PlanList, PlanPut, PlanRemove, PlanShow
from trustgate.cli import render
from trustgate.cli.context import JsonOption, execute
from trustgate.cli.limits import Allowed, everything, limit_fields, scope_fields, windows, with_limits
from trustgate.errors import InvalidRequest
from trustgate.types import Plan

app = typer.Typer(help="Plans: limits, and which models and endpoints are allowed.", no_args_is_help=True)

PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's name.")]
OnDisconnectOption = Annotated[
    Literal["abort", "drain"] | None,
    typer.Option(
        "--on-disconnect",
        help="When a client hangs up: abort the LLM server's answer, or read it to its end for exact usage.",
    ),
]


@app.command("add")
@with_limits
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    allowed: Allowed,
    on_disconnect: OnDisconnectOption = None,
    json: JsonOption = False,
) -> None:
    """Add a plan. What is not given is not limited."""
    command = PlanPut(name=name, create=True, limits=allowed.limits, scope=allowed.scope, on_disconnect=on_disconnect)
    _print(execute(context, command), json)


@app.command("set")
@with_limits
def set_(
    context: typer.Context,
    plan: PlanArgument,
    allowed: Allowed,
    on_disconnect: OnDisconnectOption = None,
    json: JsonOption = False,
) -> None:
    """Change a plan; it holds from the next request on. `none` lifts a limit."""
    if not allowed.limits and not allowed.scope and on_disconnect is None:
        raise InvalidRequest("No change was given.", hint="trustgate plan set --help")
    command = PlanPut(name=plan, limits=allowed.limits, scope=allowed.scope, on_disconnect=on_disconnect)
    _print(execute(context, command), json)


@app.command("list")
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the plans."""
    plans = execute(context, PlanList())
    if json:
        render.document({"plans": plans})
        return
    render.table(
        ["Name", "Requests", "Tokens", "Spending", "Models", "Features"],
        [
            (
                plan.name,
                *(windows(plan.limits, unit) or "unlimited" for unit in ("requests", "tokens", "cost_nano_usd")),
                everything(plan.scope.models),
                everything(plan.scope.features),
            )
            for plan in plans
        ],
        empty="There is no plan. Add one: trustgate plan add NAME",
    )


@app.command("show")
def show(context: typer.Context, plan: PlanArgument, json: JsonOption = False) -> None:
    """Show a plan."""
    _print(execute(context, PlanShow(name=plan)), json)


@app.command("remove")
def remove(context: typer.Context, plan: PlanArgument, json: JsonOption = False) -> None:
    """Remove a plan that no tenant is on."""
    _print(execute(context, PlanRemove(name=plan)), json, removed=True)


def _print(plan: Plan, json: bool, *, removed: bool = False) -> None:
    if json:
        render.document({"plan": plan})
        return
    if removed:
        render.say(f"Removed the plan {plan.name}.")
        return
    render.card(
        [
            ("Plan", plan.name),
            *limit_fields(plan.limits),
            *scope_fields(plan.scope),
            ("On disconnect", plan.on_disconnect),
        ]
    )
