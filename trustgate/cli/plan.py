"""``trustgate plan``: what tenants may use."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trustgate.admin.commands import Admin, PlanList, PlanPut, PlanRemove, PlanShow
from trustgate.admin.money import PaymentFinding, PriceCheck
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute, with_admin
from trustgate.cli.limits import Allowed, everything, limit_fields, scope_fields, windows, with_limits
from trustgate.errors import InvalidRequest
from trustgate.types import UNITS, Plan

app = typer.Typer(help="Plans: limits, and which models and endpoints are allowed.", no_args_is_help=True)

PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's name.")]
OnDisconnectOption = Annotated[
    Literal["abort", "drain"] | None,
    typer.Option(
        "--on-disconnect",
        help="When a client hangs up: abort the LLM server's answer, or read it to its end for exact usage.",
    ),
]
FactorOption = Annotated[
    int | None,
    typer.Option(
        "--price-factor",
        help="What tenants are billed of what models cost: 1.2 is a markup of 20 %, 0.9 a discount of 10 %.",
        parser=values.factor,
        metavar="FACTOR",
    ),
]
UnpricedOption = Annotated[
    Literal["refuse", "allow"] | None,
    typer.Option(
        "--unpriced-models",
        help="Models without a price, where spending is limited or paid for: refuse them, or serve them at no cost.",
    ),
]
OwnKeysOption = Annotated[
    int | None,
    typer.Option(
        "--own-keys",
        help="How many keys at once each tenant may make for itself, on its account page or over the API; 0: none.",
        min=0,
        max=1000,
        metavar="N",
    ),
]


@app.command("add")
@with_limits
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    allowed: Allowed,
    like: Annotated[
        str | None, typer.Option("--like", metavar="PLAN", help="Begin with what this plan has; change what is given.")
    ] = None,
    on_disconnect: OnDisconnectOption = None,
    price_factor: FactorOption = None,
    unpriced_models: UnpricedOption = None,
    own_keys: OwnKeysOption = None,
    json: JsonOption = False,
) -> None:
    """Add a plan. What is not given is not limited, or is as in the plan --like.

    `none` lifts a limit. In a list it is none of them: --features none allows no feature, '*' all of them.
    """
    command = PlanPut(
        name=name,
        create=True,
        like=like,
        limits=allowed.limits,
        scope=allowed.scope,
        on_disconnect=on_disconnect,
        price_factor_ppm=price_factor,
        unpriced_models=unpriced_models,
        own_keys=own_keys,
    )
    _show_made(context, command, json)


@app.command("set")
@with_limits
def set_(
    context: typer.Context,
    plan: PlanArgument,
    allowed: Allowed,
    on_disconnect: OnDisconnectOption = None,
    price_factor: FactorOption = None,
    unpriced_models: UnpricedOption = None,
    own_keys: OwnKeysOption = None,
    json: JsonOption = False,
) -> None:
    """Change a plan, in effect from the next request on.

    `none` lifts a limit. In a list it is none of them: --features none allows no feature, '*' all of them.
    """
    changes = (on_disconnect, price_factor, unpriced_models, own_keys)
    if not allowed.limits and not allowed.scope and all(change is None for change in changes):
        raise InvalidRequest("No change was given.", hint="trustgate plan set --help")
    command = PlanPut(
        name=plan,
        limits=allowed.limits,
        scope=allowed.scope,
        on_disconnect=on_disconnect,
        price_factor_ppm=price_factor,
        unpriced_models=unpriced_models,
        own_keys=own_keys,
    )
    _show_made(context, command, json)


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
                *(windows(plan.limits, unit) or "unlimited" for unit in UNITS),
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
    _show_made(context, PlanShow(name=plan), json)


@app.command("remove")
def remove(context: typer.Context, plan: PlanArgument, json: JsonOption = False) -> None:
    """Remove a plan that no tenant is on."""
    _print(execute(context, PlanRemove(name=plan)), json, removed=True)


def _show_made(context: typer.Context, command: PlanPut | PlanShow, json: bool) -> None:
    """The plan, and whether its limits on money meet models without a price."""

    async def work(admin: Admin) -> tuple[Plan, tuple[PaymentFinding, ...]]:
        plan = await admin.execute(command)
        return plan, () if json else await admin.execute(PriceCheck(plan=plan.name))

    plan, findings = with_admin(context, work)
    _print(plan, json)
    for found in findings:
        render.say(render.Styled(f"Note: {found.message}. {found.hint or ''}", "yellow"))


def _print(plan: Plan, json: bool, *, removed: bool = False) -> None:
    if json:
        render.document({"plan": plan})
        return
    if removed:
        render.say(f"Removed the plan {plan.name}.")
        return
    refused = plan.unpriced_models == "refuse"
    render.card(
        [
            ("Plan", plan.name),
            *limit_fields(plan.limits),
            *scope_fields(plan.scope),
            ("On disconnect", plan.on_disconnect),
            ("Billed", render.factor(plan.price_factor_ppm)),
            ("Without a price", "refused where spending counts" if refused else "served at no cost"),
            ("Tenants' own keys", f"at most {plan.own_keys} at once" if plan.own_keys else "none"),
        ]
    )
