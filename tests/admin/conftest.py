"""The control plane on a real database, reached in every way there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE_S
from tests.support.stores import new_store
from trustgate.access.budgets import Budgets
from trustgate.access.directory import Directory
from trustgate.access.quota import Quota
from trustgate.admin.commands import Admin, ServerStatus
from trustgate.admin.context import AdminContext
from trustgate.admin.local import LocalAdmin
from trustgate.admin.remote import RemoteAdmin
from trustgate.admin.routes import admin_routes
from trustgate.models.catalog import Catalog
from trustgate.notify.subscribers import Subscribers
from trustgate.payment.balance import Balances
from trustgate.payment.service import PaymentService
from trustgate.receipts.archive import Archive
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.publisher import Publisher
from trustgate.receipts.tree import Tree
from trustgate.settings import PaymentSettings, Settings
from trustgate.solana.anchoring import Anchoring
from trustgate.store import Store
from trustgate.types import Entry

ADMIN_KEY = "the-admin-key-of-these-tests"
STATUS = ServerStatus(
    version="0",
    pid=1,
    address="http://127.0.0.1:1",
    started_us=1,
    store_id="s",
    last_seq=0,
    pending=0,
    active_requests=0,
)


async def _status() -> ServerStatus:
    return STATUS


class Plane:
    """A server's control plane without the server: what it works on, and what it told the request path."""

    def __init__(self, store: Store, directory: Directory, catalog: Catalog, home: Path) -> None:
        self.store = store
        self.directory = directory
        self.catalog = catalog
        self.cut: list[str] = []
        #: Entries that were acknowledged and are not in the store yet.
        self.acknowledged: list[Entry] = []
        #: Flushing the books tells that it has begun, and waits while ``slow`` is there and not set.
        self.flushing = asyncio.Event()
        self.slow: asyncio.Event | None = None
        self._home = home
        nowhere = "http://127.0.0.1:9"
        self.settings = Settings(
            home=home, payment=PaymentSettings(solana_devnet_rpc=nowhere, base_sepolia_rpc=nowhere)
        )
        self.quota = Quota()
        self.budgets = Budgets()
        self._tree: Tree | None = None
        #: Of the log that ``payment_service`` writes to, once there is one.
        self.journal: Journal | None = None
        self._payment_service: PaymentService | None = None
        self.context = AdminContext(
            store,
            directory,
            catalog,
            books=self,
            anchoring=Anchoring(self.settings, store, self.archive),
            settings=self.settings,
            subscribers=Subscribers(),
            quota=self.quota,
            budgets=self.budgets,
            on_keys_revoked=self._on_keys_revoked,
            status=_status,
        )
        self.admin = LocalAdmin(self.context)

    @classmethod
    async def open(cls, home: Path) -> Plane:
        store = await new_store(home)
        state = await store.load_state()
        return cls(store, Directory(state), Catalog(state.passports, state.aliases), home)

    async def flush(self) -> None:
        self.flushing.set()
        if self.slow is not None:
            await self.slow.wait()
        entries, self.acknowledged = self.acknowledged, []
        await self.store.append_entries(entries)
        if self._payment_service is not None:
            await self._payment_service.log.flush()

    async def tree(self) -> Tree:
        await self.flush()
        if self._tree is None or self._payment_service is None:
            self._tree = await Tree.open(self.store)
        return self._tree

    async def payment_service(self) -> PaymentService:
        """From the first time on, receipts go through its log."""
        if self._payment_service is None:
            tree = await self.tree()
            self.journal = Journal.open(
                self._home / "journal", store_id=self.store.store_id, last_seq=await self.store.last_seq()
            )
            log = await Log.recover(self.store, self.journal, tree)
            self._payment_service = await PaymentService.open(self.settings, self.store, log)
        return self._payment_service

    async def refresh_counts(self) -> None:
        """Nothing."""

    async def counted(self, directory: Directory) -> None:
        """No other process counts."""

    async def balances(self) -> Balances:
        return (await self.payment_service()).balances

    async def close(self) -> None:
        """On the loop on which it was opened, as a server does."""
        payment_service, self._payment_service = self._payment_service, None
        if payment_service is not None:
            await payment_service.close()
            await payment_service.log.flush()
        journal, self.journal = self.journal, None
        if journal is not None:
            journal.close()

    async def archive(self) -> Archive:
        tree = await self.tree()
        publisher = await Publisher.open(
            self.store,
            tree,
            key_file=self._home / "log.key",
            checkpoint_file=self._home / "checkpoint",
            origin="example.com/log",
        )
        return Archive(self.store, tree, publisher)

    def _on_keys_revoked(self, key_ids: Collection[str]) -> None:
        self.cut += key_ids


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    plane = await Plane.open(tmp_path)
    yield plane
    await plane.admin.close()


@pytest.fixture(params=["local", "socket", "network"])
async def admin(request: pytest.FixtureRequest, plane: Plane, tmp_path: Path) -> AsyncIterator[Admin]:
    """Every implementation of ``Admin``, over the same ``plane``."""
    if request.param == "local":
        yield plane.admin
        return
    key = ADMIN_KEY if request.param == "network" else None
    with serve(plane, tmp_path, key=key) as address:
        if key is None:
            yield RemoteAdmin.over_socket(Path(address))
        else:
            yield RemoteAdmin.over_network(address, key)


@contextlib.contextmanager
def serve(plane: Plane, folder: Path, *, key: str | None) -> Iterator[str]:
    """Serve the admin routes in a thread; gives the socket's path, or with a key the URL."""
    listener = socket.socket(socket.AF_UNIX if key is None else socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        # Relative to the current folder: pytest's folders are too long for a socket's path.
        path = os.path.relpath(folder / "admin.sock")
        listener.bind(path if key is None else ("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        ended = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(_serve(plane, listener, key, ended)))
        thread.start()
        try:
            yield path if key is None else f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


async def _serve(plane: Plane, listener: socket.socket, key: str | None, ended: threading.Event) -> None:
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config
    from starlette.applications import Starlette

    config = Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]
    config.errorlog = None
    config.graceful_timeout = 1

    async def wait_for_end() -> None:
        await asyncio.to_thread(ended.wait)

    app = Starlette(routes=admin_routes(plane.admin, key=key))
    try:
        await hypercorn_serve(app, config, shutdown_trigger=wait_for_end)  # type: ignore[arg-type]
    finally:
        await plane.close()
