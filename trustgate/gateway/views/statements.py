"""``/v1/statements``: a tenant's own monthly statements, each a document that proves itself (statements.document).

They authenticate like the path, cost no quota and write no receipt. One is made at a time: adding up a month of many
receipts takes a second or more. ``MOST_OF_A_TENANT`` wait for their turn, so that none delays the others' for long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.types import Scope

from trustgate.access.directory import Caller, Directory
from trustgate.errors import InvalidRequest, RateLimited
from trustgate.gateway.views.account import RawAnswer
from trustgate.ids import now_us
from trustgate.models.catalog import Catalog
from trustgate.receipts.archive import Archive
from trustgate.receipts.log import Log
from trustgate.statements.document import outline
from trustgate.statements.making import Statements, statement_names
from trustgate.statements.months import Month, parse_month
from trustgate.statements.page import statement_page
from trustgate.statements.prices import find_prices
from trustgate.statements.sheet import statement_csv
from trustgate.store import Store
from trustgate.types import Prices

#: How many statements of one tenant are made or wait at once.
MOST_OF_A_TENANT: Final = 4

_FORMATS = {"json": "application/json", "html": "text/html; charset=utf-8", "csv": "text/csv; charset=utf-8"}


class TenantStatements:
    """The handlers of the two routes."""

    def __init__(self, directory: Directory, catalog: Catalog, log: Log, store: Store, archive: Archive) -> None:
        self._directory = directory
        self._catalog = catalog
        self._log = log
        self._store = store
        self._statements = Statements(store, archive, self._find_prices)
        self._making = asyncio.Lock()
        #: By tenant: how many are made or wait.
        self._asked: Counter[str] = Counter()

    async def list(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/statements``: the months in which the caller's tenant has receipts, the newest first."""
        await self._log.flush()
        at_us = now_us()
        cards = [_card(month, at_us) for month in await self._statements.months(caller.tenant.id)]
        return {"object": "list", "data": cards}

    async def show(self, caller: Caller, scope: Scope) -> Any:
        """``GET /v1/statements/2026-10?format=json|html|csv``: the caller's tenant's statement of a month (UTC).

        Raises ``InvalidRequest`` (400), ``NotFound`` (404), or ``RateLimited`` (429): too many at once.
        """
        month = parse_month(scope["path_params"]["month"])
        wanted = QueryParams(scope["query_string"]).get("format", "json")
        if wanted not in _FORMATS:
            raise InvalidRequest(f"format must be {', '.join(_FORMATS)}.", param="format")
        names = statement_names(caller.tenant, self._directory.keys_of(caller.tenant.id))
        text = bytearray()

        async def write(data: bytes) -> None:
            text.extend(data)

        async with self._turn(caller.tenant.id):
            await self._log.flush()
            await self._statements.make(caller.tenant.id, month, names, issued_us=now_us(), write=write)
            data = await asyncio.to_thread(_written, bytes(text), wanted)
        name = f"statement-{month}.{wanted}"
        return RawAnswer(_FORMATS[wanted], data, ((b"content-disposition", f'inline; filename="{name}"'.encode()),))

    @asynccontextmanager
    async def _turn(self, tenant_id: str) -> AsyncIterator[None]:
        """Wait for the turn of one of a tenant's statements. Raises ``RateLimited`` where too many wait already."""
        if self._asked[tenant_id] >= MOST_OF_A_TENANT:
            raise RateLimited(
                f"{MOST_OF_A_TENANT} of your statements are being made. Please try again when one is finished.",
                code="too_many_parallel_requests",
                headers={"retry-after": "1"},
                retryable=True,
            )
        self._asked[tenant_id] += 1
        try:
            async with self._making:
                yield
        finally:
            self._asked[tenant_id] -= 1
            if not self._asked[tenant_id]:
                del self._asked[tenant_id]

    async def _find_prices(self, hashes: Collection[str]) -> Mapping[str, Prices]:
        return await find_prices(self._store, self._catalog, hashes)


def _written(text: bytes, wanted: str) -> bytes:
    if wanted == "json":
        return text
    document = outline(text)
    return statement_page(document, text) if wanted == "html" else statement_csv(document)


def _card(month: Month, at_us: int) -> dict[str, Any]:
    return {
        "object": "statement",
        "id": str(month),
        "from_us": month.from_us,
        "until_us": month.until_us,
        "is_final": at_us >= month.until_us,
    }
