"""What every handler of a command works with: the store, the memory beside it, and the rule that joins them.

A change is made durable first and then shown to the request path, so what a caller meets is never lost by a crash.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Protocol

from trustgate.access.directory import Directory
from trustgate.admin.commands import ServerStatus
from trustgate.admin.flushing import Flushing
from trustgate.models.catalog import Catalog
from trustgate.settings import Settings
from trustgate.solana.anchoring import Anchoring
from trustgate.store import Store
from trustgate.types import Alias, Passport, Plan, Record, Tenant

if TYPE_CHECKING:
    from trustgate.receipts.archive import Archive
    from trustgate.receipts.pulse import Pulse


class Books(Protocol):
    """The log of receipts, as far as commands need it."""

    async def flush(self) -> None:
        """Bring everything that was acknowledged into the store."""
        ...

    async def archive(self) -> Archive:
        """The log with everything that was acknowledged. Raises ``StoreDamaged`` where it is other than it has said."""
        ...


class Desk:
    def __init__(
        self,
        store: Store,
        directory: Directory,
        catalog: Catalog,
        *,
        settings: Settings,
        books: Books,
        anchoring: Anchoring,
        on_keys_dead: Callable[[Collection[str]], None] | None = None,
        status: Callable[[], ServerStatus] | None = None,
        reload: Callable[[], Awaitable[tuple[list[str], list[str]]]] | None = None,
        pulse: Callable[[], Pulse] | None = None,
    ) -> None:
        """``on_keys_dead`` and what stands after it are the running server's; without one there are none."""
        self.store = store
        self.settings = settings
        self.directory = directory
        self.catalog = catalog
        self.status = status
        self.reload = reload
        self.pulse = pulse
        self.anchoring = anchoring
        self.flushing = Flushing(anchoring)
        #: The database is copied or rewritten by one command at a time.
        self.copying = asyncio.Lock()
        self._books = books
        self._on_keys_dead = on_keys_dead

    def tenant(self, ref: str) -> Tenant:
        """The tenant of this id or name, however its letters are composed. Raises ``NotFound``."""
        return self.directory.tenant(unicodedata.normalize("NFC", ref))

    async def keep(self, *records: Record) -> None:
        await self.store.put(*records)
        for record in records:
            if isinstance(record, Passport | Alias):
                self.catalog.put(record)
            else:
                self.directory.put(record)

    async def forget(self, record: Plan | Alias) -> None:
        await self.store.remove(record)
        if isinstance(record, Alias):
            self.catalog.remove(record)
        else:
            self.directory.remove(record)

    def cut(self, key_ids: Collection[str]) -> None:
        """End the running requests of keys that died."""
        if self._on_keys_dead is not None:
            self._on_keys_dead(key_ids)

    async def flush(self) -> None:
        await self._books.flush()

    async def archive(self) -> Archive:
        return await self._books.archive()
