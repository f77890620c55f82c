"""A Solana node that misbehaves on purpose: a JSON-RPC proxy in front of a local chain, over real sockets.

Owns every byte that the client gets and the moment it gets it. Each client has a path of its own, and a script: which
calls go wrong, how, and at which call the client's process is killed. What is not in the script goes through.

    async with running_localnet(slot_ms=10) as net, faulty_node(net.url) as node:
        lane = node.lane("a", Wrong("sendTransaction", drop_after))
        ... a client of lane.url ...
        assert lane.calls["sendTransaction"] == 2
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import aiohttp

from tests.support.streams import serving

Document = dict[str, Any]

#: Every method that an anchor needs, in the order of the first calls.
METHODS = (
    "getGenesisHash",
    "getSignaturesForAddress",
    "getMinimumBalanceForRentExemption",
    "getBalance",
    "simulateTransaction",
    "getRecentPrioritizationFees",
    "getLatestBlockhash",
    "getEpochInfo",
    "sendTransaction",
    "getSignatureStatuses",
    "getTransaction",
)


class Call(NamedTuple):
    """One call as it arrived. ``number`` counts the calls of this method on the lane, from 1."""

    method: str
    number: int
    request: Document
    #: Ask the chain. Each time anew.
    forward: Callable[[], Awaitable[Document]]
    node: FaultyNode


class Answer(NamedTuple):
    """What goes over the wire; a body of None closes the connection."""

    body: bytes | None
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    #: Fewer bytes are sent than were announced, and the connection is closed.
    cut: int | None = None


Fault = Callable[[Call], Awaitable[Answer]]


class Wrong(NamedTuple):
    """``fault`` happens to calls of ``method`` ("*" is any) from number ``first`` on, ``times`` in all."""

    method: str
    fault: Fault
    times: int = 1
    first: int = 1

    def concerns(self, call: Call) -> bool:
        return self.method in ("*", call.method) and self.first <= call.number < self.first + self.times


class Kill(NamedTuple):
    """Kill the client's process when it makes this call: before the chain hears of it, or after."""

    method: str
    number: int
    when: Literal["before", "after"]


class Lane:
    """One client's way to the chain."""

    def __init__(self, url: str, wrongs: tuple[Wrong, ...], kill: Kill | None) -> None:
        self.url = url
        self.wrongs = wrongs
        self.kill = kill
        #: To be set before the process makes its first call.
        self.pid = 0
        #: How often the script has struck.
        self.went_wrong = 0
        self.calls: Counter[str] = Counter()


class FaultyNode:
    """The proxy. See ``faulty_node``."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._chain_url = url
        self._session = session
        self._lanes: dict[str, Lane] = {}
        self.address = ""
        #: A blockhash that expired long ago, with its last block height.
        self.stale: Document = {}

    @property
    def lane_calls(self) -> Counter[str]:
        """Calls of all lanes, by method."""
        return sum((lane.calls for lane in self._lanes.values()), Counter())

    def lane(self, name: str, *wrongs: Wrong, kill: Kill | None = None) -> Lane:
        lane = Lane(f"{self.address}/{name}", wrongs, kill)
        self._lanes[f"/{name}"] = lane
        return lane

    async def forward(self, request: Document) -> Document:
        async with self._session.post(self._chain_url, json=request) as response:
            answer: Document = await response.json()
            return answer

    async def ask(self, method: str, *params: Any) -> Any:
        """What the chain says, with nothing in between."""
        return (await self.forward({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))["result"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._serve_one(reader, writer):
                pass

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. Whether the connection lives on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        request = json.loads(await reader.readexactly(int(headers["content-length"])))
        answer = await self._answer(self._lanes[head[0].split(" ")[1]], request)
        if answer.body is None:
            return False
        lines = [
            f"HTTP/1.1 {answer.status} Scripted",
            f"content-type: {answer.content_type}",
            f"content-length: {len(answer.body)}",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        writer.write("\r\n".join((*lines, "", "")).encode() + answer.body[: answer.cut])
        await writer.drain()
        return answer.cut is None

    async def _answer(self, lane: Lane, request: Document) -> Answer:
        method = request["method"]
        lane.calls[method] += 1
        call = Call(method, lane.calls[method], request, lambda: self.forward(request), self)
        if lane.kill is not None and lane.kill[:2] == (method, call.number):
            if lane.kill.when == "after":
                await self.forward(request)
            os.kill(lane.pid, signal.SIGKILL)
            return _CLOSED
        wrong = next((wrong for wrong in lane.wrongs if wrong.concerns(call)), None)
        if wrong is None:
            return encoded(await call.forward())
        lane.went_wrong += 1
        return await wrong.fault(call)


@asynccontextmanager
async def faulty_node(chain_url: str) -> AsyncIterator[FaultyNode]:
    async with aiohttp.ClientSession() as session:
        node = FaultyNode(chain_url, session)
        async with serving(node.serve, backlog=256) as port:
            node.address = f"http://127.0.0.1:{port}"
            node.stale = (await node.ask("getLatestBlockhash", {"commitment": "processed"}))["value"]
            yield node


def encoded(document: Document) -> Answer:
    return Answer(json.dumps(document).encode())


_CLOSED = Answer(None)


# a node or a network that fails


async def drop_before(_: Call) -> Answer:
    """The connection breaks before the chain hears of it."""
    return _CLOSED


async def drop_after(call: Call) -> Answer:
    """The chain does it, and no answer comes."""
    await call.forward()
    return _CLOSED


async def late(call: Call) -> Answer:
    """It takes longer than the client waits. Its answer goes nowhere."""
    await asyncio.sleep(0.6)
    return encoded(await call.forward())


async def too_many(_: Call) -> Answer:
    return Answer(b"Too many requests", 429, "text/plain", (("Retry-After", "0"),))


async def status_500(call: Call) -> Answer:
    """After the chain has done it."""
    await call.forward()
    return Answer(b"oops", 500, "text/plain")


async def html_503(_: Call) -> Answer:
    return Answer(b"<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>", 503, "text/html")


async def html_200(_: Call) -> Answer:
    return Answer(b"<!doctype html><title>Sign in to the hotel's network</title>", 200, "text/html")


async def truncated(call: Call) -> Answer:
    answer = encoded(await call.forward())
    assert answer.body is not None
    return answer._replace(cut=len(answer.body) // 2)


async def half_json(call: Call) -> Answer:
    """Half of the answer, as if that were all."""
    answer = encoded(await call.forward())
    assert answer.body is not None
    return Answer(answer.body[: len(answer.body) // 2])


async def garbage(call: Call) -> Answer:
    await call.forward()
    return Answer(bytes(range(256)) * 4)


async def wrong_id(call: Call) -> Answer:
    return encoded({**await call.forward(), "id": "another"})


async def nonsense(call: Call) -> Answer:
    """JSON-RPC, but no answer to this question."""
    return encoded({**await call.forward(), "result": {"value": [{"slot": -1}], "slot": "ten"}})


async def unhealthy(call: Call) -> Answer:
    """As it comes from Agave, without ``data``."""
    return _error(call, -32005, "Node is behind by 42 slots")


async def internal_error(call: Call) -> Answer:
    await call.forward()
    return _error(call, -32603, "Internal error")


# a node that is wrong, or lies

#: For so long a transaction is new. A blockhash lives for 150: who then signs anew has not waited until it was dead.
_NEW_SLOTS = 60


async def null_status(call: Call) -> Answer:
    """Says that it does not know the transaction."""
    return await changed(call, lambda result: {**result, "value": [None]})


async def null_status_of_the_new(call: Call) -> Answer:
    """Says that it does not know the transaction, while another node still might not either."""
    answer = await call.forward()
    result = answer["result"]
    is_new = [status and result["context"]["slot"] - status["slot"] < _NEW_SLOTS for status in result["value"]]
    return encoded({**answer, "result": {**result, "value": [None]}} if all(is_new) else answer)


async def no_history_of_the_new(call: Call) -> Answer:
    """Has nothing of the address, while what it did last is that young."""
    answer = await call.forward()
    slot = await call.node.ask("getSlot", {"commitment": "processed"})
    is_new = [slot - entry["slot"] < _NEW_SLOTS for entry in answer["result"]]
    return encoded({**answer, "result": []} if all(is_new) else answer)


async def failed_status(call: Call) -> Answer:
    """Says that the transaction is finalized, and failed."""
    status = {
        "slot": 1,
        "confirmations": None,
        "err": {"InstructionError": [2, "InvalidInstructionData"]},
        "status": {"Err": {"InstructionError": [2, "InvalidInstructionData"]}},
        "confirmationStatus": "finalized",
    }
    return await changed(call, lambda result: {**result, "value": [status]})


async def final_status(call: Call) -> Answer:
    """Says that the transaction is finalized, whatever became of it."""
    status = {"slot": 1, "confirmations": None, "err": None, "status": {"Ok": None}, "confirmationStatus": "finalized"}
    return await changed(call, lambda result: {**result, "value": [status]})


async def nothing(call: Call) -> Answer:
    """Does not have the transaction."""
    return await changed(call, lambda _: None)


async def no_history(call: Call) -> Answer:
    """Has nothing of the address."""
    return await changed(call, lambda _: [])


async def other_transaction(call: Call) -> Answer:
    """Has other bytes under the signature."""
    return await changed(call, lambda result: result and {**result, "transaction": ["AAAA", "base64"]})


async def accepted_but_refused(call: Call) -> Answer:
    """Takes the transaction, and says that its blockhash is unknown."""
    await call.forward()
    data: Document = {"err": "BlockhashNotFound", "logs": [], "accounts": None, "unitsConsumed": 0, "returnData": None}
    return _error(call, -32002, "Transaction simulation failed: Blockhash not found", data)


async def accepted_and_bare(call: Call) -> Answer:
    """The same, without ``data``."""
    await call.forward()
    return _error(call, -32002, "Transaction simulation failed: Blockhash not found")


async def refused(call: Call) -> Answer:
    """Does not take the transaction."""
    data = {"err": "BlockhashNotFound", "logs": []}
    return _error(call, -32002, "Transaction simulation failed: Blockhash not found", data)


async def swallowed(call: Call) -> Answer:
    """Says that it took the transaction, and loses it."""
    return encoded({"jsonrpc": "2.0", "id": call.request["id"], "result": "1" * 64})


async def stale_blockhash(call: Call) -> Answer:
    """Gives a blockhash that expired long ago, as if it were new."""
    stale = call.node.stale["blockhash"]
    return await changed(call, lambda result: {**result, "value": {**result["value"], "blockhash": stale}})


async def stale_answer(call: Call) -> Answer:
    """Gives a blockhash that expired long ago, and says so."""
    return await changed(call, lambda result: {**result, "value": call.node.stale})


async def short_life(call: Call) -> Answer:
    """Says that a good blockhash is good for one block more."""
    height = (await call.node.ask("getEpochInfo", {"commitment": "processed"}))["blockHeight"]
    return await changed(
        call, lambda result: {**result, "value": {**result["value"], "lastValidBlockHeight": height + 1}}
    )


async def endless_life(call: Call) -> Answer:
    """Says that a blockhash is good for ever."""
    return await changed(call, lambda result: {**result, "value": {**result["value"], "lastValidBlockHeight": 2**60}})


async def far_ahead(call: Call) -> Answer:
    """Says that the chain is a million blocks further than it is."""
    return await changed(call, lambda result: {**result, "blockHeight": result["blockHeight"] + 1_000_000})


async def far_ahead_all(call: Call) -> Answer:
    """And a million slots."""
    ahead = 1_000_000
    return await changed(
        call,
        lambda result: {
            **result,
            "blockHeight": result["blockHeight"] + ahead,
            "absoluteSlot": result["absoluteSlot"] + ahead,
        },
    )


async def behind(call: Call) -> Answer:
    """Answers as a node that lags by some hundred slots."""
    lag = 300
    answer = await call.forward()
    result = answer.get("result")
    if isinstance(result, dict) and "blockHeight" in result:
        result = {
            **result,
            "blockHeight": max(0, result["blockHeight"] - lag),
            "absoluteSlot": result["absoluteSlot"] - lag,
        }
    elif isinstance(result, dict) and "context" in result:
        result = {**result, "context": {**result["context"], "slot": result["context"]["slot"] - lag}}
        if call.method == "getSignatureStatuses":
            result["value"] = [None]
        if call.method == "getLatestBlockhash":
            height = max(0, result["value"]["lastValidBlockHeight"] - lag)
            result["value"] = {**call.node.stale, "lastValidBlockHeight": height}
    elif call.method == "getTransaction":
        result = None
    elif call.method == "getSignaturesForAddress":
        result = []
    return encoded({**answer, "result": result})


def _error(call: Call, code: int, message: str, data: Any = None) -> Answer:
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    return encoded({"jsonrpc": "2.0", "id": call.request["id"], "error": error})


async def changed(call: Call, change: Callable[[Any], Any]) -> Answer:
    answer = await call.forward()
    return encoded({**answer, "result": change(answer["result"])} if "result" in answer else answer)
