"""What holds of several gateways whatever has happened, looked at when all is still."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import signal
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.cluster.failover import Machine
from tests.cluster.load import Load
from tests.support.links import Link
from tests.support.postgres import Postgres, run_sql
from tests.support.processes import wait_until
from trustgate.admin import commands, log_commands
from trustgate.admin.remote import RemoteAdmin
from trustgate.receipts.merkle import root_of
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.settings import PostgresAddress, Settings
from trustgate.store import open_store
from trustgate.store.queries import ReceiptFilter
from trustgate.types import Entry

_logger = logging.getLogger(__name__)

_PATIENCE_S = 60.0
_COUNTED = ("complete", "client_gone", "upstream_cut", "cut")


class Asked(NamedTuple):
    """A tenant of a round."""

    name: str
    tenant_id: str
    key: str
    #: How many requests it gets.
    most: int
    #: The status of the one after.
    refusal: int


class Promises:
    """Made by a world of gateways, clients and tenants."""

    def __init__(self, url: str, chain: str, chance: random.Random) -> None:
        """
        Args:
            url: of the database, with nothing in between.
            chain: a Solana node's URL; "": nothing is anchored.
            chance: chooses.
        """
        self.url, self.chain, self.random = url, chain, chance
        self.postgres: Postgres
        self.links: list[Link] = []
        self.machines: list[Machine] = []
        self.load: Load
        #: Requests that were charged though nothing was left, of gateways that were killed.
        self.beyond = 0
        #: Checkpoints that were shown: by size, the root.
        self.shown: dict[int, str] = {}
        #: What gateways answered that were not ready.
        self.unready: list[str] = []

    def close(self) -> None:
        self.load.close()
        for machine in self.machines:
            machine.send(signal.SIGCONT)
            machine.end(signal.SIGKILL)
        for link in self.links:
            link.close()
        self.postgres.close()

    def execute(self, command: commands.Command[Any], machine: Machine | None = None) -> Any:
        """A command of the operator's at a machine, the first unless one is named."""
        home = (machine or self.machines[0]).gateway.home
        return asyncio.run(RemoteAdmin.over_socket(Settings(home=home).socket).execute(command))

    def check(self, tenants: list[Asked], *, was_killed: bool, begun: int = 0) -> None:
        """Every promise.

        Args:
            tenants: Who asked.
            was_killed: A gateway ended, perhaps with receipts in its journal alone.
            begun: How many answers gateways may have begun that were cut off, or asleep, until their leases were over.
        """
        try:
            wait_until(self._all_serve, "all to serve", _PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.unready}") from None
        for tenant in tenants:
            self._draw_to_the_end(tenant)
        wait_until(lambda: run_sql(self.url, "SELECT count(*) FROM waiting_receipts") == [(0,)], "all to have places")
        rows = run_sql(self.url, "SELECT id, seq, tenant, tseq, finish FROM receipts ORDER BY seq")
        kept = Counter(row[0] for row in rows)
        assert max(kept.values()) == 1, "a receipt is in the log twice"
        missing = [receipt for receipt in self.load.receipts if receipt not in kept]
        assert not missing, f"{len(missing)} of {len(self.load.receipts)} receipts are missing: {missing[:5]}"
        assert [row[1] for row in rows] == list(range(1, len(rows) + 1)), "the log has a gap"
        chains: dict[str, list[int]] = defaultdict(list)
        for _, _, tenant_id, tseq, _ in rows:
            chains[tenant_id].append(tseq)
        for tenant_id, numbers in chains.items():
            assert numbers == list(range(1, len(numbers) + 1)), f"the chain of {tenant_id} has a gap"
        acknowledged = set(self.load.receipts)
        for tenant in tenants:
            ended = [row[0] for row in rows if row[2] == tenant.tenant_id and row[4] in _COUNTED]
            # What a gateway that was killed held is given back; answers whose end it sent to no client, and that are in
            # its journal, are charged at its next start.
            late = [receipt for receipt in ended if was_killed and receipt not in acknowledged]
            assert tenant.most <= len(ended) <= tenant.most + len(late) + begun, (
                f"{tenant.name} has got {len(ended)} of {tenant.most}: {self._rows_of(tenant)}"
            )
            self.beyond += len(ended) - tenant.most
        self._check_one_log()
        books = self.machines[0].gateway.cli("doctor", "--books", check=False)
        assert books.returncode == 0, books.stdout
        assert not self.load.late, f"late: {self.load.late[:5]}"
        assert not self.load.unexpected, self.load.unexpected[:5]

    def _rows_of(self, tenant: Asked) -> list[Any]:
        """What the database has of what it may still use."""
        query = "SELECT key, state::text FROM shared_state WHERE key ~ '^(budget|quota|balance)/' AND key !~ '/key_'"
        return [row for row in run_sql(self.url, query) if tenant.tenant_id in row[0] or row[0].startswith("budget/")]

    def _draw_to_the_end(self, tenant: Asked) -> None:
        """Ask until it is refused, once what dead processes held is given back."""
        served = 0

        def all_drawn() -> bool:
            nonlocal served
            machine = self.random.choice(self.machines)
            while (status := self.load.ask(machine, tenant.key)) == 200:
                pass
            if status == 503:
                return False
            assert status == tenant.refusal, f"{tenant.name} was answered with {status}"
            [[served]] = run_sql(
                self.url,
                f"SELECT count(*) FROM receipts WHERE tenant = '{tenant.tenant_id}' AND finish IN {_COUNTED}",
            )
            return int(served) >= tenant.most

        try:
            wait_until(all_drawn, f"{tenant.name} to get all {tenant.most}", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}; it has got {served}") from None

    def _check_one_log(self) -> None:
        found: set[str] = set()

        def is_one() -> bool:
            nonlocal found
            found = {_get(each, "/log/checkpoint") for each in self.machines}
            return len(found) == 1 and "" not in found

        wait_until(is_one, "all to show one checkpoint")
        _, size, root = found.pop().split("\n")[:3]
        assert self.shown.setdefault(int(size), root) == root, f"two logs of {size} receipts"

    def _all_serve(self) -> bool:
        for machine in self.machines:
            if not machine.is_running():
                machine.start()
        if not all(machine.listens() for machine in self.machines):
            return False
        found = [_get(machine, "/ready") for machine in self.machines]
        # "upstream" is for one that can fail.
        self.unready = [text for text in found if text.count('"ok"') < 2]
        return not self.unready

    def check_history(self) -> None:
        """Check what takes long: the chains' hashes, every checkpoint that was shown, the anchors on the chain."""
        wait_until(lambda: run_sql(self.url, "SELECT count(*) FROM waiting_receipts") == [(0,)], "no receipt to wait")
        asyncio.run(self._check_tree())
        if self.chain:
            self._check_anchors()
        for machine in self.machines:
            for log in machine.folder.glob(f"{machine.name}.*.log"):
                before, found, after = log.read_text().partition("Traceback")
                assert not found, f"{log}: {before[-500:]}{found}{after[:3_000]}"

    async def _check_tree(self) -> None:
        """Each checkpoint that was shown is of the receipts as they are now, and each chain links to its last."""
        with tempfile.TemporaryDirectory() as home:
            store = await open_store(Path(home) / "none", PostgresAddress(self.url), several=True)
            entries: list[Entry] = []
            while found := await store.entries(ReceiptFilter(after_seq=len(entries), limit=1_000, oldest_first=True)):
                entries += found
            await store.close()
        leaves = [leaf_hash(entry.receipt) for entry in entries]
        for size, root in self.shown.items():
            found_root = base64.b64encode(root_of(leaves[:size])).decode()
            assert found_root == root, f"the checkpoint of {size} is of another log"
        ends: dict[str, str] = {}
        for entry, leaf in zip(entries, leaves, strict=True):
            receipt = entry.receipt
            assert ends.get(receipt.tenant, FIRST_TPREV) == receipt.tprev, f"{receipt.id} follows another receipt"
            ends[receipt.tenant] = leaf.hex()
        _logger.info("%d receipts, %d checkpoints", len(entries), len(self.shown))

    def _check_anchors(self) -> None:
        """One that was sent when its process was killed, or lost the database, is recorded by the next flush."""
        sizes: list[int] = []
        recorded: list[int] = []

        def is_settled() -> bool:
            gateway = self.machines[0].gateway
            if gateway.cli("anchor", "flush", check=False).returncode:
                return False
            done = gateway.cli("anchor", "verify", "--rpc", self.chain, "--json", check=False)
            if done.returncode:
                return False
            audit = json.loads(done.stdout)
            assert audit["ok"], audit
            sizes[:] = sorted(finding["tree_size"] for finding in audit["findings"])
            assert len(set(sizes)) == len(sizes), f"anchored twice: {sizes}"
            anchors = self.execute(log_commands.AnchorList())
            recorded[:] = sorted(anchor.tree_size for anchor in anchors if anchor.state == "anchored")
            return sizes == recorded

        try:
            wait_until(is_settled, "the anchors of the book to be those of the chain")
        except AssertionError as error:
            raise AssertionError(f"{error}: {recorded} in the book, {sizes} on the chain") from None
        _logger.info("%d anchors", len(sizes))


def _get(machine: Machine, path: str) -> str:
    """What a machine shows; "" where it cannot be reached."""
    try:
        return httpx.get(f"http://127.0.0.1:{machine.port}{path}", timeout=30).text
    except httpx.TransportError:
        return ""
