"""``trustgate tenant``: who may call."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from trustgate.access.standing import limit_cards
from trustgate.access.windows import Windows
from trustgate.admin.commands import (
    Admin,
    Status,
    TenantAdd,
    TenantDetail,
    TenantList,
    TenantRemove,
    TenantRestore,
    TenantResume,
    TenantSet,
    TenantShow,
    TenantSuspend,
    TenantWithKey,
)
from trustgate.admin.log_commands import UsageShow
from trustgate.admin.money import BalanceChange, TenantCredit
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, confirm, execute, public_address, session, with_admin
from trustgate.cli.correction import correct
from trustgate.cli.key import SecretOnlyOption, key_rows, secret_document, show_secret
from trustgate.cli.repeating import note_in_json, repeatable, repeated_note
from trustgate.cli.values import Maybe
from trustgate.errors import InvalidRequest
from trustgate.ids import now_us
from trustgate.types import UNITS, WINDOWS, PaymentTerms, Tenant

app = typer.Typer(help="Tenants: the users of the gateway, each with keys and a plan.", no_args_is_help=True)

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id or name.")]


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    plan: Annotated[
        str, typer.Option(metavar="PLAN", help="The plan: free, pro, growth, internal, or one that you added.")
    ] = "pro",
    price_factor: Annotated[
        int | None,
        typer.Option(
            metavar="FACTOR",
            parser=values.factor,
            help="What it is billed of what models cost: 1.2 is a markup of 20 %.  [default: as its plan says]",
        ),
    ] = None,
    secret_only: SecretOnlyOption = False,
    json: JsonOption = False,
) -> None:
    """Add a tenant with its first key. The key's secret is shown only once."""

    async def work(admin: Admin) -> tuple[TenantWithKey, str]:
        added = await admin.execute(TenantAdd(name=name, plan=plan, price_factor_ppm=price_factor))
        return added, (await admin.execute(Status())).address

    added, address = with_admin(context, work)
    if json:
        render.document({"tenant": added.tenant, "key": secret_document(added.key, added.secret)})
        return
    if secret_only:
        render.say(added.secret)
        return
    show_secret(
        [
            ("Tenant", added.tenant.name),
            ("Id", added.tenant.id),
            ("Plan", added.tenant.plan),
            ("Key", added.key.id),
        ],
        added.secret,
    )
    render.say("")
    _show_first_request(added.secret, public_address(session(context).settings(), address))


def _show_first_request(secret: str, address: str) -> None:
    render.say(render.Styled("A first request", "bold"))
    render.say(
        f"""curl {address}/v1/chat/completions \\
  -H "Authorization: Bearer {secret}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "trustgate/echo", "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""
    )
    render.say(render.Styled("With the OpenAI SDK", "bold"))
    render.say(
        f"""from openai import OpenAI

client = OpenAI(base_url="{address}/v1", api_key="{secret}")
answer = client.chat.completions.create(
    model="trustgate/echo", messages=[{{"role": "user", "content": "Hello"}}]
)
print(answer.choices[0].message.content)

trustgate/echo is built in; any model of your LLM server works the same way."""
    )


@app.command("list")
def list_(
    context: typer.Context,
    removed: Annotated[bool, typer.Option("--removed", help="Include removed tenants.")] = False,
    json: JsonOption = False,
) -> None:
    """List the tenants."""
    tenants = execute(context, TenantList(removed=removed))
    if json:
        render.document({"tenants": tenants})
        return
    render.table(
        ["Name", "Plan", "Status", "Created (UTC)", "Id"],
        [(t.name, t.plan, render.status(t.status), render.instant(t.created_us), t.id) for t in tenants],
        empty="There is no tenant yet. Add one: trustgate tenant add NAME",
    )


@app.command("show")
def show(context: typer.Context, tenant: TenantArgument, json: JsonOption = False) -> None:
    """Show a tenant with its keys, and where it stands at its plan's limits.

    What running requests hold is not among what is used. Budgets: trustgate budget TENANT.
    """

    async def work(admin: Admin) -> tuple[TenantDetail, list[dict[str, Any]]]:
        detail = await admin.execute(TenantShow(tenant=tenant))
        return detail, await _standing(admin, detail)

    _show_detail(*with_admin(context, work), json)


async def _standing(admin: Admin, detail: TenantDetail) -> list[dict[str, Any]]:
    """Returns what the receipts of the running windows have of each limit of the plan."""
    at_us = now_us()
    used: dict[str, dict[str, int]] = {}
    limits = detail.plan.limits
    for window, since_us in zip(WINDOWS, Windows.at(at_us).starts, strict=True):
        is_limited = any(getattr(limits, f"{unit}_per_{window}") is not None for unit in UNITS)
        asked = UsageShow(by="tenant", tenant=detail.tenant.id, since_us=since_us)
        rows = await admin.execute(asked) if is_limited else ()
        used[window] = {
            "requests": sum(row.requests for row in rows),
            "tokens": sum(row.prompt_tokens + row.completion_tokens for row in rows),
            "cost_nano_usd": sum(row.billed_nano_usd for row in rows),
        }
    return limit_cards("plan", limits, used, at_us)


def _show_detail(detail: TenantDetail, standing: Sequence[Mapping[str, Any]] | None, json: bool) -> None:
    if json:
        members = {"tenant": detail.tenant, "plan": detail.plan, "keys": detail.keys, "terms": detail.terms}
        render.document(members if standing is None else {**members, "limits": standing})
        return
    _card(detail.tenant, detail.terms)
    if standing:
        render.say("")
        render.table(
            ["Limit of the plan", *map(render.right, ("Used", "Left")), "Resets (UTC)"],
            [
                (
                    f"{_amount(each, 'limit')} a {each['window']}",
                    _amount(each, "used"),
                    render.Styled(_amount(each, "left"), "" if each["left"] else "bold red"),
                    render.instant(each["resets_us"]),
                )
                for each in standing
            ],
            empty="",
        )
    render.say("")
    render.table(*key_rows(detail.keys), empty="It has no key: trustgate key create TENANT")


def _amount(standing: Mapping[str, Any], member: str) -> str:
    if standing["unit"] == "cost_nano_usd":
        return render.usd(standing[member])
    return f"{render.number(standing[member])} {standing['unit']}"


@app.command("set")
def set_(
    context: typer.Context,
    tenant: TenantArgument,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    plan: Annotated[
        str | None, typer.Option(metavar="PLAN", help="Another plan, in effect from the next request on.")
    ] = None,
    price_factor: Annotated[
        Maybe | None,
        typer.Option(
            metavar="FACTOR|none",
            parser=values.factor_or_none,
            help="What it is billed of what models cost, instead of what its plan says; none: as its plan says.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Rename a tenant, move it to another plan, or change what it is billed, from the next request on."""
    if name is None and plan is None and price_factor is None:
        raise InvalidRequest("No change was given.", hint="Give --name, --plan or --price-factor.")
    command = TenantSet(
        tenant=tenant,
        name=name,
        plan=plan,
        price_factor_ppm=None if price_factor is None else price_factor.value,
        factor_by_plan=price_factor is not None and price_factor.value is None,
    )
    _changed(execute(context, command), json)


@app.command("suspend")
def suspend(context: typer.Context, tenant: TenantArgument, json: JsonOption = False) -> None:
    """Refuse a tenant's requests. Its running streams are cut."""
    _changed(execute(context, TenantSuspend(tenant=tenant)), json)


@app.command("resume")
def resume(context: typer.Context, tenant: TenantArgument, json: JsonOption = False) -> None:
    """Serve a suspended tenant again."""
    _changed(execute(context, TenantResume(tenant=tenant)), json)


@app.command("remove")
def remove(
    context: typer.Context,
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove a tenant. Its keys are revoked; its receipts and usage stay, and `tenant restore` undoes it.

    Shows what it loses, and asks.
    """

    async def work(admin: Admin) -> tuple[TenantDetail, BalanceChange]:
        return await admin.execute(TenantShow(tenant=tenant)), await admin.execute(TenantCredit(tenant=tenant))

    if not yes:
        _show_loss(*with_admin(context, work))
        confirm("Remove it?", yes=False, command=f"trustgate tenant remove {shlex.quote(tenant)}")
    removed = execute(context, TenantRemove(tenant=tenant))
    _changed(removed, json)
    if not json:
        render.say(f"To undo this: trustgate tenant restore {removed.id}", to_stderr=True)


def _show_loss(detail: TenantDetail, balance: BalanceChange) -> None:
    living = sum(key.revoked_us is None for key in detail.keys)
    keys = "1 key, which dies" if living == 1 else f"{living} keys, which die"
    render.say(f"{detail.tenant.name} has {keys} at once; its receipts and usage stay.", to_stderr=True)
    if balance.balance_nano_usd:
        name = shlex.quote(detail.tenant.name)
        render.say(
            f"Its balance of {render.usd(balance.balance_nano_usd)} can no longer be used. To pay it back first: "
            f"trustgate payment refund-credit {name}",
            to_stderr=True,
        )


@app.command("restore")
def restore(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The removed tenant's id, or its name.")],
    name: Annotated[str | None, typer.Option(help="A new name, where its own is another tenant's now.")] = None,
    plan: Annotated[str | None, typer.Option(metavar="PLAN", help="Another plan, where its own is gone.")] = None,
    json: JsonOption = False,
) -> None:
    """Undo a removal: the tenant, the keys that died with it, its limits and its balance are there again."""
    _show_detail(execute(context, TenantRestore(tenant=tenant, name=name, plan=plan)), None, json)


@app.command("credit")
def credit(
    context: typer.Context,
    tenant: TenantArgument,
    add: Annotated[
        int | None, typer.Option(metavar="USD", parser=values.usd, help="The amount to add, for requests to draw on.")
    ] = None,
    reference: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Your name for it, an invoice's number: added again, it counts once."),
    ] = "",
    json: JsonOption = False,
) -> None:
    """Show a tenant's balance, or add to it. An addition has a receipt.

    One that was broken off before its answer counts once when it is typed again within a day.
    """
    if add == 0:
        raise InvalidRequest("No amount was given.", hint=f"trustgate tenant credit {shlex.quote(tenant)}")
    if reference and add is None:
        raise InvalidRequest("A reference names an addition.", hint="Give --add USD, too.")
    if add is None:
        show_balance(execute(context, TenantCredit(tenant=tenant)), json)
        return
    with repeatable(context, TenantCredit(tenant=tenant, add_nano_usd=add, reference=reference)) as (command, before):
        show_balance(execute(context, command), json, before)


app.command("correct")(correct)


def show_balance(change: BalanceChange, json: bool, typed_before: str = "") -> None:
    """``typed_before``: when the command was typed that had no answer, and is repeated now; else ""."""
    if json:
        render.document(change)
        note_in_json(change, typed_before)
        return
    fields: list[tuple[str, render.Cell]] = [
        ("Tenant", change.tenant.name),
        ("Balance", render.usd(change.balance_nano_usd)),
    ]
    if change.held_nano_usd:
        fields.append(("Held", f"{render.usd(change.held_nano_usd)} of it, for requests that run"))
    if change.receipt:
        fields.append(("Receipt", change.receipt))
    render.card(fields)
    if change.repeated:
        render.say(render.Styled(repeated_note(typed_before), "yellow"))


def _changed(tenant: Tenant, json: bool) -> None:
    if json:
        render.document({"tenant": tenant})
    else:
        _card(tenant)


def _card(tenant: Tenant, terms: PaymentTerms | None = None) -> None:
    own = tenant.price_factor_ppm
    render.card(
        [
            ("Tenant", tenant.name),
            ("Id", tenant.id),
            ("Plan", tenant.plan),
            *([] if own is None else [("Billed", render.factor(own))]),
            ("Status", render.status(tenant.status)),
            ("Created", render.instant_utc(tenant.created_us)),
            *([] if terms is None or terms.mode == "off" else [("Pays", _pays(tenant, terms))]),
        ]
    )


def _pays(tenant: Tenant, terms: PaymentTerms) -> str:
    return f"{terms.mode}: trustgate payment terms {shlex.quote(tenant.name)}"
