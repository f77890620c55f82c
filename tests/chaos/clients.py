"""The traffic of a chaos run: clients who ask, stream, leave early, pay, pay again, and use keys that are dead.

Owns what a client may conclude. An answer counts as told once its last byte (a stream's ``[DONE]``) was read; of
everything else a client knows nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from typing import Any

import httpx

from tests.chaos.world import MODEL, PAID_MODEL, Buyer, World

_TIMEOUT = httpx.Timeout(20.0, connect=5.0)
_GONE = (httpx.TransportError, asyncio.TimeoutError)


class Traffic:
    """Some clients at a time, until ``stop``. A client that finds no server pauses for a moment and comes again."""

    def __init__(self, world: World, chance: random.Random, clients: int = 12) -> None:
        self._world = world
        self._chance = chance
        self._stopping = False
        self._ended = asyncio.Condition()
        self.requests = 0
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]

    async def wait_for(self, requests: int, timeout_s: float = 30.0) -> None:
        """Wait until so many more requests have ended, however; or for so long: a stopped server serves none."""
        wanted = self.requests + requests
        try:
            async with asyncio.timeout(timeout_s), self._ended:
                await self._ended.wait_for(lambda: self.requests >= wanted)
        except TimeoutError:
            self._world.told.counts["waits that timed out"] += 1

    async def stop(self) -> None:
        """Let the requests under way end, and start no other."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._chance.random()} {number}")
        async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
            while not self._stopping:
                try:
                    await self._one(client, chance)
                except _GONE:
                    self._world.told.counts["cut off"] += 1
                    await asyncio.sleep(0.05)
                async with self._ended:
                    self.requests += 1
                    self._ended.notify_all()

    async def _one(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        what = chance.choices(
            (self._whole, self._stream, self._leave, self._embed, self._with_dead_key, self._large, self._buy),
            (30, 25, 15, 10, 5, 3, 12),
        )[0]
        await what(client, chance)

    async def _whole(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        await self._ask(client, chance, _chat(chance))

    async def _embed(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        await self._ask(client, chance, {"model": MODEL, "input": ["a", "b"]}, "embeddings")

    async def _large(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        await self._ask(client, chance, {**_chat(chance), "messages": [{"role": "user", "content": "x" * 300_000}]})

    async def _ask(
        self, client: httpx.AsyncClient, chance: random.Random, body: dict[str, Any], route: str = "chat/completions"
    ) -> None:
        tenant, key = self._tenant(chance)
        answer = await client.post(self._url(route), json=body, headers=_bearer(key))
        self._told(tenant, answer)

    async def _stream(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        tenant, key = self._tenant(chance)
        body = {**_chat(chance), "stream": True}
        async with client.stream("POST", self._url("chat/completions"), json=body, headers=_bearer(key)) as answer:
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    # At this moment, not when the connection ends.
                    self._told(tenant, answer, "streams")
                    return

    async def _leave(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        _, key = self._tenant(chance)
        body = {**_chat(chance), "stream": chance.random() < 0.7}
        async with client.stream("POST", self._url("chat/completions"), json=body, headers=_bearer(key)) as answer:
            if chance.random() < 0.5:
                async for _ in answer.aiter_bytes():
                    break
        self._world.told.counts["left early"] += 1

    async def _with_dead_key(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        dead = sorted(self._world.told.revoked)
        key = chance.choice(dead) if dead and chance.random() < 0.8 else "sk-" + "0" * 40
        answer = await client.post(self._url("chat/completions"), json=_chat(chance), headers=_bearer(key))
        self._world.told.counts[f"dead key: {answer.status_code}"] += 1
        is_dead = answer.status_code in (401, 429, 503)
        assert is_dead, f"a dead key was answered with {answer.status_code} while: {self._world.told.fault}"

    async def _buy(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        """Ask, pay for what is asked, and ask again with the same payment when the answer did not come."""
        buyer = chance.choice(self._world.buyers)
        body = {**_chat(chance), "model": PAID_MODEL, "max_tokens": 20, "stream": chance.random() < 0.3}
        content = json.dumps(body).encode()
        headers = {**_bearer(buyer.key), "content-type": "application/json"}
        answer = await client.post(self._url("chat/completions"), content=content, headers=headers)
        if answer.status_code != 402:
            self._told(buyer.tenant, answer, "bought with credit")
            return
        paid = await self._sign(buyer, answer)
        if paid is None:
            return
        for _ in range(3):
            try:
                answer = await client.post(
                    self._url("chat/completions"), content=content, headers={**headers, "payment-signature": paid}
                )
            except _GONE:
                self._world.told.counts["cut off while paying"] += 1
                await asyncio.sleep(0.2)
                continue
            self._told(buyer.tenant, answer, f"paid: {answer.status_code}")
            return

    async def _sign(self, buyer: Buyer, answer: httpx.Response) -> str | None:
        header = answer.headers.get("payment-required")
        if header is None:
            return None
        accepts = json.loads(base64.b64decode(header))["accepts"]
        try:
            payload = await self._world.token.payment(buyer.wallet, accepts[0])
        except Exception:  # noqa: BLE001 - the SDK's client looks at the chain first, and fails in ways of its own
            self._world.told.counts["could not sign"] += 1
            return None
        return base64.b64encode(json.dumps(payload).encode()).decode()

    def _told(self, tenant: str, answer: httpx.Response, what: str = "answers") -> None:
        told = self._world.told
        told.counts[f"{what}: {answer.status_code}" if what == "answers" else what] += 1
        assert answer.status_code != 500, f"an internal error: {answer.text}"
        receipt = answer.headers.get("x-trustgate-receipt")
        if receipt is not None:
            told.receipts[receipt] = tenant

    def _tenant(self, chance: random.Random) -> tuple[str, str]:
        tenant = chance.choice(sorted(self._world.keys))
        return tenant, chance.choice(self._world.keys[tenant])

    def _url(self, route: str) -> str:
        return f"{self._world.gateway.api_url}/{route}"


def _chat(chance: random.Random) -> dict[str, Any]:
    content = f"Hello {chance.randrange(1_000_000)} ü \U0001f600"
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 50}
    return {**body, "user": f"user-{chance.randrange(5)}"} if chance.random() < 0.7 else body


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
