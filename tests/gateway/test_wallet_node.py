"""The node that wallets ask through the gateway: strangers may ask it, so it must not be a way to wear anything out."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
from starlette.routing import Route, Router

from trustgate.errors import RpcUnavailable
from trustgate.gateway.views.wallet_node import WalletNode

ALIVE, DEAD = "solana:alive", "solana:dead"
LATEST = {"jsonrpc": "2.0", "id": 1, "method": "getLatestBlockhash"}


class Node:
    """A node that counts its calls. ``answers``: is set when it gives an answer; it fails where ``fails``."""

    def __init__(self, *, fails: bool) -> None:
        self.calls = 0
        self.fails = fails
        self.answers = asyncio.Event()

    async def call(self, method: str, params: list[Any], result: type[Any]) -> Any:
        self.calls += 1
        await self.answers.wait()
        if self.fails:
            raise RpcUnavailable("The RPC node secret.example is down.")
        return {"value": {}}


def test_a_node_that_fails_is_not_asked_for_each_who_asks_and_holds_up_no_other() -> None:
    async def work() -> None:
        nodes = {ALIVE: Node(fails=False), DEAD: Node(fails=True)}
        offers = [SimpleNamespace(network=network, asset="MINT") for network in nodes]
        directory: Any = SimpleNamespace(all_terms=lambda: [SimpleNamespace(mode="prepaid", offers=offers)])

        async def node_of(network: str) -> Node:
            return nodes[network]

        route = Route("/account/node/{network}", WalletNode(directory, node_of), methods=["POST"])
        transport = httpx.ASGITransport(app=Router([route]))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            asked = [asyncio.create_task(http.post(f"/account/node/{DEAD}", json=LATEST)) for _ in range(20)]
            nodes[ALIVE].answers.set()
            async with asyncio.timeout(10):
                assert (await http.post(f"/account/node/{ALIVE}", json=LATEST)).status_code == 200
                nodes[DEAD].answers.set()
                answers = await asyncio.gather(*asked)
        assert {(each.status_code, each.json()["error"]["code"]) for each in answers} == {(503, "node_unavailable")}
        assert not any("secret.example" in each.text for each in answers)
        assert nodes[DEAD].calls == 1

    asyncio.run(work())
