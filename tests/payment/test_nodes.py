"""The local chain of payments: found where it runs already, else run, and never waited for by a request."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE_S
from trustgate.errors import RpcUnavailable, TrustGateError
from trustgate.localnet import find_running, running_localnet
from trustgate.payment.chains.nodes import Nodes
from trustgate.payment.networks import SOLANA_DEVNET
from trustgate.settings import PaymentSettings, Settings


def settings(home: Path) -> Settings:
    return Settings(home=home, payment=PaymentSettings(solana_devnet_rpc="local"))


async def eventually(nodes: Nodes) -> str:
    """The URL of the local chain once it is there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                rpc = await nodes.solana(SOLANA_DEVNET)
                await rpc.genesis_hash()
                return rpc.cluster.url
            except TrustGateError:
                await asyncio.sleep(0.02)


async def test_it_is_run_where_nobody_runs_it(tmp_path: Path) -> None:
    nodes = Nodes(settings(tmp_path))
    await nodes.prepare([SOLANA_DEVNET])
    rpc = await nodes.solana(SOLANA_DEVNET)
    assert rpc.cluster.url == await find_running(tmp_path / "localnet")
    assert await nodes.solana(SOLANA_DEVNET) is rpc
    await nodes.close()
    assert await find_running(tmp_path / "localnet") is None


async def test_a_request_does_not_wait_until_it_runs(tmp_path: Path) -> None:
    nodes = Nodes(settings(tmp_path))
    with pytest.raises(RpcUnavailable, match="not running yet"):
        await nodes.solana(SOLANA_DEVNET)
    assert await eventually(nodes)
    await nodes.close()


async def test_it_is_found_where_it_runs_and_followed_where_it_goes(tmp_path: Path) -> None:
    nodes = Nodes(settings(tmp_path))
    async with running_localnet(folder=tmp_path / "localnet") as net:
        await nodes.prepare([SOLANA_DEVNET])
        assert (await nodes.solana(SOLANA_DEVNET)).cluster.url == net.url
    # The process that ran it has gone. It goes on from where it was, now run by this process.
    url = await eventually(nodes)
    assert url == await find_running(tmp_path / "localnet")
    assert await (await nodes.solana(SOLANA_DEVNET)).genesis_hash() == net.genesis
    await nodes.close()


def test_nothing_is_loaded_before_somebody_pays(tmp_path: Path) -> None:
    """A gateway whose tenants owe nothing makes these, and pays for none of it."""
    code = f"""
import sys, asyncio
from pathlib import Path
from trustgate.payment.chains.lookup import Chains
from trustgate.payment.facilitators.registry import Facilitators
from trustgate.payment.chains.nodes import Nodes
from trustgate.settings import Settings
async def main():
    settings = Settings(home=Path({str(tmp_path)!r}))
    nodes = Nodes(settings)
    facilitators = Facilitators(settings, nodes)
    Chains(nodes)
    await facilitators.prepare(())
    await facilitators.get("https://x402.example")
    await facilitators.close()
    await nodes.close()
asyncio.run(main())
print(*sorted({{"x402", "solders", "solana", "pydantic", "aiohttp", "httpx", "duckdb"}} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == ""
