"""``POST /account/node/{network}``: the two questions that a wallet's payment asks of a Solana node, answered here.

The account page may send requests to the gateway alone (its Content-Security-Policy), and an operator's node is not
public. Owns what is let through: the latest blockhash, and the accounts of tokens that are offered; each is fetched
from the node once in a while, however often it is requested here. The client is x402's own, which sends JSON-RPC
without the tenant's key.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from trustgate.access.directory import Directory
from trustgate.errors import InvalidRequest, NotFound, TrustGateError, Unavailable
from trustgate.gateway.api.uploads import ClientDisconnected
from trustgate.gateway.path.arrival import read_body
from trustgate.http.sending import send_error, send_json

_MAX_BODY_BYTES = 4_096
_BODY_TIMEOUT_S = 10.0
#: How long an answer is good for, seconds. A blockhash lives for a minute or more; what a token is does not change.
_FRESH_S = {"getLatestBlockhash": 2.0, "getAccountInfo": 60.0}
#: How long the node is not called again after a failure, seconds.
_FAILED_S = 2.0
_CONFIRMED = {"commitment": "confirmed"}


#: Network, method, asset.
_Which = tuple[str, str, str]


class SolanaNode(Protocol):
    async def call(self, method: str, params: list[Any], result: type[Any]) -> Any: ...


class _Question(msgspec.Struct):
    method: str
    id: int | str = 0
    params: list[Any] = []


class WalletNode:
    """The ASGI application of the route."""

    def __init__(self, directory: Directory, node_of: Callable[[str], Awaitable[SolanaNode]]) -> None:
        """``node_of`` returns the node of a network (CAIP-2). It raises as ``payment.chains.nodes`` does."""
        self._directory = directory
        self._node_of = node_of
        #: Until when an answer is good (monotonic), and the answer, a refusal too.
        self._kept: dict[_Which, tuple[float, Any]] = {}
        #: One at a time asks a node; those who wait then have its answer. What one network does holds up no other.
        self._asking: defaultdict[_Which, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            question = _read(await read_body(receive, _MAX_BODY_BYTES, _BODY_TIMEOUT_S))
            result = await self._answer(scope["path_params"]["network"], question)
        except ClientDisconnected:
            return
        except TrustGateError as error:
            await send_error(send, error)
        else:
            await send_json(send, {"jsonrpc": "2.0", "id": question.id, "result": result})

    async def _answer(self, network: str, question: _Question) -> Any:
        """Raises ``NotFound`` for what no payment here needs, ``Unavailable`` where the node gives no answer."""
        offered = {
            offer.asset
            for terms in self._directory.all_terms()
            if terms.mode != "off"
            for offer in terms.offers
            if offer.network == network
        }
        asset = str(question.params[0]) if question.method == "getAccountInfo" and question.params else ""
        if not network.startswith("solana:") or not offered or question.method not in _FRESH_S:
            raise NotFound("Nothing is sold on this network, or payments do not need this.", code="not_offered")
        if question.method == "getAccountInfo" and asset not in offered:
            raise NotFound("No payment is taken in this token.", code="not_offered")
        which = (network, question.method, asset)
        async with self._asking[which]:
            kept = self._kept.get(which)
            if kept is None or kept[0] < time.monotonic():
                try:
                    answer, fresh_s = await self._ask(which), _FRESH_S[question.method]
                except Unavailable as error:
                    answer, fresh_s = error, _FAILED_S
                kept = self._kept[which] = time.monotonic() + fresh_s, answer
        if isinstance(kept[1], Unavailable):
            raise kept[1].with_traceback(None)
        return kept[1]

    async def _ask(self, which: _Which) -> Any:
        asset = which[2]
        params = [asset, {**_CONFIRMED, "encoding": "base64"}] if asset else [_CONFIRMED]
        try:
            node = await self._node_of(which[0])
            return await node.call(which[1], params, msgspec.Raw)
        except TrustGateError:
            # Whose node it is, and what it says, is the operator's.
            raise Unavailable(
                "The network cannot be asked right now. Try again later.", code="node_unavailable"
            ) from None


def _read(body: bytes) -> _Question:
    try:
        return msgspec.json.decode(body, type=_Question)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("The body is no JSON-RPC call.", code="invalid_json") from None
