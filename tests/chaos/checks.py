"""The promises, looked at after each round, when no fault is left and no request is under way.

Owns what "all is well" means. Each check raises AssertionError with what it found.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.world import MODEL, World
from tests.support.gateway import Gateway
from tests.support.processes import POLL_S

_COUNTED = frozenset({"complete", "client_gone", "upstream_cut", "cut"})
#: Bounds for a gateway that has served for minutes and serves no request now.
_MOST_RSS_BYTES = 400 * 1024 * 1024
_MOST_DESCRIPTORS = 150
_PATIENCE_S = 60.0
_NANO_USD_A_UNIT = 1_000


async def all_promises(world: World) -> None:
    """Every check, in an order in which the first failure tells the most."""
    await _ready(world)
    await receipts_are_kept(world)
    await _payments_end(world)
    await _quotas_hold(world)
    await _dead_keys_stay_dead(world)
    await _books_balance(world)
    _bounds_hold(world)
    log = world.gateway.logs()
    assert "Traceback (most recent call last)" not in log, f"the gateway logged a traceback\n{log[-8000:]}"


async def _ready(world: World) -> None:
    async with httpx.AsyncClient() as client:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                answer = await client.get(f"{world.gateway.base_url}/ready")
                if answer.status_code == 200:
                    return
                await asyncio.sleep(POLL_S)


async def receipts_are_kept(world: World) -> None:
    """Every receipt that a client was told of is in the log, once; each tenant's are numbered without a gap."""
    told = set(world.told.receipts)  # as of now: clients may be at work
    _check_receipts(_exported(await world.command("export", "receipts", "--format", "jsonl")), told)


def _check_receipts(receipts: list[dict[str, Any]], told: set[str]) -> None:
    found = Counter(receipt["id"] for receipt in receipts)
    doubled = [one for one, times in found.items() if times > 1]
    assert not doubled, f"receipts that are in the log twice: {doubled[:5]}"
    lost = told - found.keys()
    assert not lost, f"{len(lost)} of {len(told)} receipts that clients were told of are lost: {sorted(lost)[:5]}"
    for tenant in {receipt["tenant"] for receipt in receipts}:
        numbers = [receipt["tseq"] for receipt in receipts if receipt["tenant"] == tenant]
        assert numbers == list(range(1, len(numbers) + 1)), f"the receipts of {tenant} have a gap"


async def _payments_end(world: World) -> None:
    """Every payment comes to its end, and what came to the seller is what was paid for."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            payments = (await world.command_json("payment", "list", "--limit", "10000"))["payments"]
            if all(payment["state"] in ("delivered", "credited", "failed") for payment in payments):
                break
            await world.command("payment", "reconcile", check=False)
            await asyncio.sleep(POLL_S)
    await world.token.wait_final()
    tenants = {row["id"]: row["name"] for row in (await world.command_json("tenant", "list"))["tenants"]}
    for buyer in world.buyers:
        own = [one for one in payments if tenants[one["tenant_id"]] == buyer.tenant and one["state"] != "failed"]
        booked = sum(one["value_nano_usd"] for one in own)
        moved = await world.token.units(buyer.seller) * _NANO_USD_A_UNIT
        assert moved == booked, f"{buyer.tenant}: {moved} nano-USD moved on the chain, {booked} are in the ledger"
    world.told.counts["payments"] = len(payments)


async def _quotas_hold(world: World) -> None:
    """No more requests were served than the month's quota, whatever happened to the counters meanwhile."""
    receipts = _exported(await world.command("export", "receipts", "--format", "jsonl", "--tenant", "counted"))
    served = sum(receipt["finish"] in _COUNTED for receipt in receipts)
    assert served <= world.quota, f"{served} requests were served under a quota of {world.quota}"
    world.told.counts["rounds that reached the quota"] += served == world.quota
    world.quota = served + 60
    await world.command("plan", "set", "counted", "--requests-per-month", str(world.quota))


async def _dead_keys_stay_dead(world: World) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    async with httpx.AsyncClient() as client:
        for key in sorted(world.told.revoked):
            url, headers = f"{world.gateway.api_url}/chat/completions", {"authorization": f"Bearer {key}"}
            answer = await client.post(url, json=body, headers=headers)
            assert answer.status_code in (401, 429), f"a revoked key was answered with {answer.status_code}"


async def _books_balance(world: World) -> None:
    done = await asyncio.to_thread(world.gateway.cli, "doctor", "--books", check=False)
    assert done.returncode == 0, f"the books do not balance\n{done.stdout}\n{done.stderr}"


def _bounds_hold(world: World) -> None:
    folder = Path(f"/proc/{world.gateway.process.pid}")
    descriptors = len(list((folder / "fd").iterdir()))
    rss = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert descriptors < _MOST_DESCRIPTORS, f"{descriptors} descriptors are open"
    assert rss < _MOST_RSS_BYTES, f"{rss >> 20} MiB are in memory"
    world.told.counts["MiB in memory, last"] = rss >> 20


async def backup_holds(world: World, backup: Path, told: set[str]) -> None:
    """Restored elsewhere, a backup has every receipt that was told before it was begun, and its books balance."""
    home = world.folder / "restored"
    gateway = Gateway(home)
    shutil.rmtree(home, ignore_errors=True)
    await asyncio.to_thread(gateway.cli, "restore", str(backup), "--new-log")
    done = await asyncio.to_thread(gateway.cli, "export", "receipts", "--format", "jsonl")
    _check_receipts(_exported(done.stdout), told)
    books = await asyncio.to_thread(gateway.cli, "doctor", "--books", check=False)
    assert books.returncode == 0, f"the books of a backup do not balance\n{books.stdout}\n{books.stderr}"
    world.told.counts["backups restored"] += 1


def _exported(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]
