"""The commands on statements: which months there are, and a month's document."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trustgate.admin.commands import Write
from trustgate.admin.context import AdminContext
from trustgate.admin.money import StatementExport, StatementMonths
from trustgate.ids import now_us
from trustgate.statements.making import StatementMade, Statements, statement_names
from trustgate.statements.months import parse_month
from trustgate.statements.prices import find_prices
from trustgate.types import Prices


async def statement_months(context: AdminContext, command: StatementMonths) -> tuple[str, ...]:
    tenant = context.tenant(command.tenant)
    await context.flush()
    return tuple(map(str, await (await _statements(context)).months(tenant.id)))


async def statement_export(context: AdminContext, command: StatementExport, write: Write) -> StatementMade:
    tenant, month = context.tenant(command.tenant), parse_month(command.month)
    await context.flush()
    names = statement_names(tenant, context.directory.keys_of(tenant.id), issuer=command.issuer)
    return await (await _statements(context)).make(tenant.id, month, names, issued_us=now_us(), write=write)


async def _statements(context: AdminContext) -> Statements:
    async def find(hashes: Collection[str]) -> Mapping[str, Prices]:
        return await find_prices(context.store, context.catalog, hashes)

    return Statements(context.store, await context.archive(), find)
