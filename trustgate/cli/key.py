"""``trustgate key``: API keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import typer

from trustgate.access.directory import limits_money
from trustgate.access.keys import reference
from trustgate.admin.commands import (
    Admin,
    Command,
    KeyCreate,
    KeyList,
    KeyRevoke,
    KeyRotate,
    KeySet,
    KeyShow,
    NewKey,
    TenantList,
    TenantShow,
)
from trustgate.admin.money import PaymentFinding, PriceCheck
from trustgate.admin.notation import Moment
from trustgate.cli import render, values
from trustgate.cli.context import JsonOption, with_admin
from trustgate.cli.limits import Allowed, limit_fields, scope_fields, with_limits
from trustgate.cli.values import Maybe
from trustgate.errors import AuthenticationFailed, InvalidRequest, TrustGateError
from trustgate.ids import now_us
from trustgate.types import ApiKey, Limits, Scope, Tenant

Made = TypeVar("Made", bound=ApiKey | NewKey)

app = typer.Typer(help="API keys of tenants.", no_args_is_help=True)

SecretOnlyOption = Annotated[bool, typer.Option("--secret-only", help="Print only the secret: KEY=$(trustgate …).")]


def _reference(text: str) -> str:
    """A whole secret as its hash, so that it goes no further than this process."""
    try:
        return reference(text)
    except AuthenticationFailed as error:
        raise typer.BadParameter(error.message) from None


KeyArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        parser=_reference,
        help="The key's id, its shortened form (tgk_Ab12…9xYz), its whole secret, or its name where only one has it.",
    ),
]


@app.command("create")
@with_limits
def create(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id or name.")],
    allowed: Allowed,
    name: Annotated[str, typer.Option(help="A name for the key.")] = "default",
    expires: Annotated[
        Moment | None,
        typer.Option(
            metavar="SPAN|DATE",
            parser=values.moment,
            help="Expires after 30d, 24h, 90m …, or at 2027-01-31 (0:00 UTC).",
        ),
    ] = None,
    secret_only: SecretOnlyOption = False,
    json: JsonOption = False,
) -> None:
    """Create another key. Its secret is shown only once.

    Limits, models, endpoints and features narrow what the tenant's plan allows; they never widen it.
    """
    expires = expires or Moment()
    command = KeyCreate(
        tenant=tenant,
        name=name,
        expires_in_s=expires.in_s,
        expires_us=expires.at_us,
        limits=Limits(**allowed.limits),
        scope=Scope(**allowed.scope),
    )
    new, tenant = _carry_out(context, command)
    if json:
        render.document({"key": secret_document(new.key, new.secret)})
        return
    _print_new(new, tenant, secret_only=secret_only)
    if not secret_only:
        _note_prices(context, new.key)


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="Only this tenant.")] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Include revoked keys.")] = False,
    json: JsonOption = False,
) -> None:
    """List the keys. Secrets are never shown again."""

    async def work(admin: Admin) -> tuple[tuple[ApiKey, ...], tuple[Tenant, ...]]:
        keys = await admin.execute(KeyList(tenant=tenant, revoked=revoked))
        return keys, () if json else await admin.execute(TenantList(removed=True))

    keys, tenants = with_admin(context, work)
    if json:
        render.document({"keys": keys})
        return
    tenant_names = {tenant.id: tenant.name for tenant in tenants}
    render.table(*key_rows(keys, tenant_names), empty="No keys found. Create one: trustgate key create TENANT")


@app.command("show")
def show(context: typer.Context, key: KeyArgument, json: JsonOption = False) -> None:
    """Show a key and its limits, not its secret."""
    found, tenant = _carry_out(context, KeyShow(key=key))
    _print(found, tenant, json)
    if not json:
        _note_prices(context, found)


def _note_prices(context: typer.Context, key: ApiKey) -> None:
    """Tell which models a key's limit on money refuses because they have no price."""
    if not limits_money(key.limits):
        return

    async def work(admin: Admin) -> tuple[PaymentFinding, ...]:
        tenant = await admin.execute(TenantShow(tenant=key.tenant_id))
        return await admin.execute(PriceCheck(plan=tenant.tenant.plan))

    for found in with_admin(context, work):
        render.say(render.Styled(f"Note: {found.message}. {found.hint or ''}", "yellow"))


@app.command("set")
@with_limits
def set_(
    context: typer.Context,
    key: KeyArgument,
    allowed: Allowed,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    expires: Annotated[
        Maybe | None,
        typer.Option(
            metavar="SPAN|DATE|none",
            parser=values.moment_or_none,
            help="Expires after 30d, 24h, 90m … from now, at 2027-01-31 (0:00 UTC); none: it never expires.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Change a key, in effect from its next request on. Its secret stays.

    `none` lifts a limit. In a list it is none of them: --features none allows no feature, '*' all of the plan's.
    """
    if not allowed.limits and not allowed.scope and name is None and expires is None:
        raise InvalidRequest("No change was given.", hint="trustgate key set --help")
    moment = Moment() if expires is None or expires.value is None else expires.value
    command = KeySet(
        key=key,
        name=name,
        limits=allowed.limits,
        scope=allowed.scope,
        expires_in_s=moment.in_s,
        expires_us=moment.at_us,
        never_expires=expires is not None and expires.value is None,
    )
    changed, tenant = _carry_out(context, command)
    _print(changed, tenant, json)
    if not json:
        _note_prices(context, changed)


@app.command("revoke")
def revoke(context: typer.Context, key: KeyArgument, json: JsonOption = False) -> None:
    """Revoke a key now. Its next request fails, its running streams are cut."""
    _print(*_carry_out(context, KeyRevoke(key=key)), json)


@app.command("rotate")
def rotate(
    context: typer.Context,
    key: KeyArgument,
    grace: Annotated[
        Moment | None,
        typer.Option(
            metavar="SPAN|DATE",
            parser=values.moment,
            help="How long the old secret stays valid: 24h, 30m …, or until a date.  [default: revoked at once]",
        ),
    ] = None,
    secret_only: SecretOnlyOption = False,
    json: JsonOption = False,
) -> None:
    """Replace a key by a new one. Its secret is shown only once.

    The new key has the old one's rights, limits and expiry.
    """
    grace = grace or Moment()
    new, tenant = _carry_out(context, KeyRotate(key=key, grace_s=grace.in_s or 0, until_us=grace.at_us))
    if json:
        render.document({"key": secret_document(new.key, new.secret)})
    else:
        _print_new(new, tenant, secret_only=secret_only)


def _carry_out(context: typer.Context, command: Command[Made]) -> tuple[Made, str]:
    """Returns what a command made or found of a key, and the name of the key's tenant."""

    async def work(admin: Admin) -> tuple[Made, str]:
        made = await admin.execute(command)
        tenant_id = (made.key if isinstance(made, NewKey) else made).tenant_id
        try:
            return made, (await admin.execute(TenantShow(tenant=tenant_id))).tenant.name
        except TrustGateError:
            # A secret that was made is shown all the same: only this once.
            return made, tenant_id

    return with_admin(context, work)


# what the tenant's commands show too


def secret_document(key: ApiKey, secret: str) -> dict[str, Any]:
    """Returns a new key for ``--json``: the only document with a secret in it."""
    return {"id": key.id, "secret": secret, **render.plain(key)}


def show_secret(fields: Iterable[tuple[str, render.Cell]], secret: str) -> None:
    """What was made, and the only sight of its secret."""
    render.card([*fields, ("Secret", render.Styled(secret, "bold green"))])
    render.say(render.Styled("Save the secret now: it is not shown again. TrustGate keeps only its hash.", "yellow"))


def key_rows(
    keys: Iterable[ApiKey], tenant_names: dict[str, str] | None = None
) -> tuple[list[str | render.Column], list[list[render.Cell]]]:
    """Columns and rows for a table of keys; with a column for the tenant where their names are given."""
    columns: list[str | render.Column] = ["Name", "Key", "Status", "Expires (UTC)", "Created (UTC)", "Id"]
    rows: list[list[render.Cell]] = [
        [
            key.name,
            key.redacted,
            _status(key),
            render.instant(key.expires_us),
            render.instant(key.created_us),
            key.id,
        ]
        for key in keys
    ]
    if tenant_names is None:
        return columns, rows
    owners = [tenant_names.get(key.tenant_id, key.tenant_id) for key in keys]
    return ["Tenant", *columns], [[owner, *row] for owner, row in zip(owners, rows, strict=True)]


def _print_new(new: NewKey, tenant: str, *, secret_only: bool) -> None:
    if secret_only:
        render.say(new.secret)
        return
    show_secret(
        [field for field in _fields(new.key, tenant) if field[0] not in ("Key", "Status", "Created")], new.secret
    )


def _print(key: ApiKey, tenant: str, json: bool) -> None:
    if json:
        render.document({"key": key})
        return
    fields = _fields(key, tenant)
    if key.revoked_us is not None:
        fields.append(("Revoked", render.instant_utc(key.revoked_us)))
    fields += [(what, f"its tenant's key {by}") for what, by in _by_tenant(key) if by]
    render.card(fields)


def _by_tenant(key: ApiKey) -> tuple[tuple[str, str], ...]:
    return ("Made by", key.made_by), ("Revoked by", key.revoked_by)


def _fields(key: ApiKey, tenant: str) -> list[tuple[str, render.Cell]]:
    return [
        ("Key", key.redacted),
        ("Id", key.id),
        ("Name", key.name),
        ("Tenant", tenant),
        ("Status", _status(key)),
        ("Created", render.instant_utc(key.created_us)),
        ("Expires", "never" if key.expires_us is None else render.instant_utc(key.expires_us)),
        *limit_fields(key.limits, none="as in the plan"),
        *scope_fields(key.scope),
    ]


def _status(key: ApiKey) -> render.Styled:
    if key.revoked_us is not None:
        return render.status("revoked")
    if key.expires_us is not None and key.expires_us <= now_us():
        return render.status("expired")
    return render.status("active")
