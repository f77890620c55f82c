"""Nodes for tests: members with a memory that only counts, and a process of its own that writes under a role.

``python tests/cluster/members.py URL NAME LEASE_S`` joins the nodes of a database and competes for one role. While it
holds the role it writes rows (name, epoch) as quickly as it can, each in a transaction that checks the tenure.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from trustgate.cluster.changes import Announced
from trustgate.cluster.database import DatabaseSession
from trustgate.cluster.member import Member
from trustgate.cluster.nodes import Identity
from trustgate.cluster.roles import Role, RoleLost, Tenure, check_tenure
from trustgate.settings import PostgresAddress
from trustgate.store.postgres import connecting

TABLES = """
CREATE TABLE IF NOT EXISTS written (n bigserial PRIMARY KEY, name text, epoch bigint);
CREATE TABLE IF NOT EXISTS seen (n bigserial PRIMARY KEY, name text, what text);
"""


class Memory:
    """A memory that keeps the bodies of changes."""

    def __init__(self) -> None:
        self.loads = 0
        self.bodies: list[bytes] = []

    async def load(self) -> None:
        self.loads += 1

    async def take_in(self, found: Sequence[Announced]) -> None:
        self.bodies += [change.body for change in found]


async def connect(url: str) -> Any:
    """As the gateway's own: a process that is stopped within a transaction keeps its locks for half a second."""
    return await connecting.connect(PostgresAddress(url), "test", idle_in_transaction_session_timeout="500ms")


def session(url: str, timeout_s: float = 10.0) -> DatabaseSession:
    return DatabaseSession(lambda: connect(url), timeout_s=timeout_s)


def identity(name: str = "a") -> Identity:
    return Identity("localhost", os.getpid(), "1.0", f"http://{name}")


async def _run(url: str, name: str, lease_s: float) -> None:
    writing = await connect(url)

    async def write(tenure: Tenure) -> None:
        with contextlib.suppress(RoleLost):
            while True:
                async with writing.transaction():
                    await check_tenure(writing, tenure)
                    await writing.execute("INSERT INTO written (name, epoch) VALUES ($1, $2)", name, tenure.epoch)

    member = Member(identity(name), session(url, lease_s / 4), Memory(), lease_s=lease_s)
    member.while_holding(Role.SEQUENCER, write)
    await member.run()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], sys.argv[2], float(sys.argv[3])))
