"""``trustgate budget``: how much tenants, keys, plans and end users may use, alone or together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import typer
from typer.core import TyperGroup

from trustgate.access.budget_counter import BudgetStanding
from trustgate.admin.budgeting import BudgetList, BudgetPut, BudgetRemove, BudgetReport
from trustgate.admin.commands import Admin
from trustgate.admin.money import PaymentFinding, PriceCheck
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, execute, with_admin
from trustgate.cli.options import option, with_options
from trustgate.errors import InvalidRequest
from trustgate.types import Budget, Unit


class _Group(TyperGroup):
    """``trustgate budget [TENANT]`` is ``trustgate budget status [TENANT]``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = next((each for each in args if not each.startswith("-")), None)
        if first not in self.commands and not {"-h", "--help"} & set(args):
            args = ["status", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_Group,
    help="Budgets: how much tenants, keys and end users may use, alone or together. "
    "`trustgate budget [TENANT]` shows where they stand.",
)

BudgetArgument = Annotated[str, typer.Argument(metavar="BUDGET", help="The budget's id or name.")]


class BudgetTerms(NamedTuple):
    """What was given of a budget; None stays as it is."""

    unit: Unit | None
    amount: int | None
    span: str | None
    tenants: tuple[str, ...] | None
    keys: tuple[str, ...] | None
    plans: tuple[str, ...] | None
    everyone: bool | None
    each: Literal["all", "tenant", "key", "end_user"] | None
    models: tuple[str, ...] | None
    hard: bool | None
    notice_at_percent: tuple[int, ...] | None


_AMOUNTS: dict[str, Unit] = {"usd": "cost_nano_usd", "tokens": "tokens", "requests": "requests"}
_WHO = ("tenant", "key", "plan")
_EACH: dict[str, Literal["all", "tenant", "key", "end_user"]] = {
    "all": "all",
    "tenant": "tenant",
    "key": "key",
    "end-user": "end_user",
}
_OPTIONS = [
    option("usd", int, "--usd", help="The amount, in USD.", parser=values.usd, metavar="USD"),
    option("tokens", int, "--tokens", help="The amount, in tokens.", parser=values.whole, metavar="N"),
    option("requests", int, "--requests", help="The amount, in requests.", parser=values.whole, metavar="N"),
    option(
        "per",
        str,
        "--per",
        help="minute, hour, day, week or month (UTC); a rolling span: 6h, 30d; or total.",
        parser=values.budget_span,
        metavar="SPAN",
    ),
    option("tenant", list[str], "--tenant", help="For this tenant. Several share it.", metavar="TENANT"),
    option("key", list[str], "--key", help="For this key, and those that it is rotated to.", metavar="KEY"),
    option("plan", list[str], "--plan", help="For the tenants on this plan.", metavar="PLAN"),
    option("everyone", bool, "--everyone", help="For every tenant."),
    option(
        "each",
        Literal["all", "tenant", "key", "end-user"],
        "--each",
        help="all: one amount that all of them share. Otherwise each tenant, key or end user has that amount.",
    ),
    option("models", list[str], "--models", help="Only these models, as globs: 'openai/*'.", metavar="GLOB"),
    option("hard", bool, "--hard/--soft", help="Refuse what would pass it (--hard), or only give notice."),
    option(
        "notice_at",
        str,
        "--notice-at",
        help="Give notice at these percentages: 50,80,100, which is how a budget begins; or none.",
        metavar="N,N…",
    ),
]


def _collect(given: Any) -> BudgetTerms:
    amounts = [(unit, given[name]) for name, unit in _AMOUNTS.items() if given[name] is not None]
    if len(amounts) > 1:
        raise InvalidRequest("A budget has one amount.", hint="Give one of --usd, --tokens and --requests.")
    unit, amount = amounts[0] if amounts else (None, None)
    who = {name: tuple(given[name]) for name in _WHO if given[name]}
    is_for = bool(who) or given["everyone"] is not None
    return BudgetTerms(
        unit=unit,
        amount=amount,
        span=given["per"],
        tenants=who.get("tenant", ()) if is_for else None,
        keys=who.get("key", ()) if is_for else None,
        plans=who.get("plan", ()) if is_for else None,
        everyone=bool(given["everyone"]) if is_for else None,
        each=None if given["each"] is None else _EACH[given["each"]],
        models=values.words_or_none(given["models"]) if given["models"] else None,
        hard=given["hard"],
        notice_at_percent=None if given["notice_at"] is None else values.percentages(given["notice_at"]),
    )


with_terms = with_options("terms", _OPTIONS, _collect)


@app.command("status")
def status(
    context: typer.Context,
    tenant: Annotated[
        str | None, typer.Argument(metavar="TENANT", help="Only those that this tenant draws on.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show where budgets stand: used, held for what is under way, left, and when they begin anew.

    `status` may be left out: trustgate budget, trustgate budget TENANT.
    """
    _print_standings(execute(context, BudgetList(tenant=tenant)), json)


@app.command("add")
@with_terms
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, which refusals tell.")],
    terms: BudgetTerms,
    json: JsonOption = False,
) -> None:
    """Add a budget. What was used in its running span counts."""
    _put(context, BudgetPut(budget=name, create=True, **terms._asdict()), json)


@app.command("set")
@with_terms
def set_(
    context: typer.Context,
    budget: BudgetArgument,
    terms: BudgetTerms,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    json: JsonOption = False,
) -> None:
    """Change a budget, in effect from the next request on. Whom it is for is given anew as a whole."""
    if name is None and all(value is None for value in terms):
        raise InvalidRequest("No change was given.", hint="trustgate budget set --help")
    _put(context, BudgetPut(budget=budget, name=name, **terms._asdict()), json)


@app.command("remove")
def remove(context: typer.Context, budget: BudgetArgument, json: JsonOption = False) -> None:
    """Remove a budget."""
    removed = execute(context, BudgetRemove(budget=budget))
    if json:
        render.document({"budget": removed})
    else:
        render.say(f"Removed the budget {removed.name}.")


@app.command("list")
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the budgets: how much, and for whom."""
    report = execute(context, BudgetList())
    if json:
        render.document({"budgets": report.budgets})
        return
    render.table(
        ["Name", "Amount", "For", "Models", "Kind", "Notice at", "Id"],
        [
            (
                budget.name,
                f"{_amount(budget.unit, budget.amount)} {_per(budget.span)}",
                _for_whom(budget, report.names),
                "all" if budget.covers_all_models else render.names(budget.models),
                "hard" if budget.hard else "soft",
                _steps(budget),
                budget.id,
            )
            for budget in report.budgets
        ],
        empty=_NONE,
    )


@app.command("show")
def show(context: typer.Context, budget: BudgetArgument, json: JsonOption = False) -> None:
    """Show one budget, and where it stands."""
    report = execute(context, BudgetList(budget=budget))
    if json:
        render.document({"budget": report.budgets[0], "standings": report.standings})
        return
    _card(report.budgets[0], report.names)
    render.say("")
    _print_standings(report, json)


_NONE = "There is no budget. Add one: trustgate budget add NAME --usd 5 --per month --tenant TENANT"


def _print_standings(report: BudgetReport, json: bool) -> None:
    if json:
        render.document({"budgets": report.standings})
    else:
        each = {budget.id: budget.each.replace("_", " ") for budget in report.budgets if budget.each != "all"}
        standings_table(report.standings, report.names, each)


def standings_table(
    standings: Sequence[BudgetStanding], names: Mapping[str, str], each: Mapping[str, str] | None = None
) -> None:
    """Show where budgets stand.

    ``names``: people's names of the ids of tenants and keys; ``each``: who has a budget of its own, by the budget's id.
    """
    render.table(
        [
            *("Budget", "Whose", "Amount"),
            *map(render.right, ("Used", "Held", "Left", "%")),
            *("Resets (UTC)", "Kind"),
        ],
        [
            (
                standing.name,
                names.get(standing.subject, standing.subject) or _whose((each or {}).get(standing.budget)),
                f"{_amount(standing.unit, standing.amount)} {_per(standing.span)}",
                *(_amount(standing.unit, n) for n in (standing.used, standing.held)),
                _left(standing.unit, standing.left),
                _share(standing.used, standing.amount),
                "never" if standing.span == "total" else render.instant(standing.resets_us),
                "hard" if standing.hard else "soft",
            )
            for standing in standings
        ],
        empty=_NONE,
    )


def _whose(each: str | None) -> str:
    return "shared" if each is None else f"each {each}"


def _left(unit: Unit, left: int) -> render.Cell:
    return render.Styled(_amount(unit, left), "" if left else "bold red")


def _share(used: int, amount: int) -> render.Cell:
    percent = 100 if amount == 0 else used * 100 // amount
    return render.Styled(str(percent), "red" if percent >= 100 else "yellow" if percent >= 80 else "")


def _put(context: typer.Context, command: BudgetPut, json: bool) -> None:
    async def work(admin: Admin) -> tuple[Budget, BudgetReport, tuple[PaymentFinding, ...]]:
        budget = await admin.execute(command)
        findings = () if json or budget.unit != "cost_nano_usd" else await admin.execute(PriceCheck())
        return budget, await admin.execute(BudgetList(budget=budget.id)), findings

    budget, report, findings = with_admin(context, work)
    if json:
        render.document({"budget": budget})
        return
    _card(budget, report.names)
    for found in findings:
        render.say(render.Styled(f"Note: {found.message}. {found.hint or ''}", "yellow"))


def _card(budget: Budget, names: dict[str, str]) -> None:
    render.card(
        [
            ("Budget", budget.name),
            ("Id", budget.id),
            ("Amount", f"{_amount(budget.unit, budget.amount)} {_per(budget.span)}"),
            ("For", _for_whom(budget, names)),
            ("Models", "all" if budget.covers_all_models else render.names(budget.models)),
            ("Kind", "hard: refuses what would pass it" if budget.hard else "soft: only gives notice"),
            ("Notice at", _steps(budget)),
            ("Created", render.instant_utc(budget.created_us)),
        ]
    )


def _amount(unit: Unit, amount: int) -> str:
    return render.usd(amount) if unit == "cost_nano_usd" else f"{render.number(amount)} {unit}"


def _per(span: str) -> str:
    written = values.written_span(span)
    return "in all" if written == "total" else f"in {written}" if written[0].isdigit() else f"a {written}"


def _for_whom(budget: Budget, names: dict[str, str]) -> str:
    if budget.everyone:
        whom = ["everyone"]
    else:
        whom = [names.get(each, each) for each in (*budget.tenants, *budget.keys)]
        whom += [f"plan {plan}" for plan in budget.plans]
    each = "" if budget.each == "all" else f", each {budget.each.replace('_', ' ')}"
    return render.names(whom) + each


def _steps(budget: Budget) -> str:
    return render.names([f"{step} %" for step in budget.notice_at_percent], nothing="never")
