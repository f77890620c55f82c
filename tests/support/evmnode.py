"""A scripted EVM node over real sockets: enough of JSON-RPC to tell what became of an authorization (EIP-3009).

Blocks come every two seconds of a clock that the test moves. Owns what the token knows and what its log says; faults
are those of ``tests.support.upstream``: an answer scripted there comes before any of these.
"""

from __future__ import annotations

from typing import Any

from tests.support.payments import BASE_USDC, PAYER, SHOP
from tests.support.upstream import Recorded, Reply, Upstream
from trustgate.payment.chains.evm import (
    AUTHORIZATION_CANCELED,
    AUTHORIZATION_STATE,
    AUTHORIZATION_USED,
    DECIMALS,
    NAME,
    TRANSFER,
    VERSION,
    word,
)

_REVERTED = {"code": 3, "message": "execution reverted"}


class EvmNode:
    """``url`` is the node's. Times are seconds since the epoch."""

    def __init__(self, upstream: Upstream, *, chain_id: int = 8453, now_s: int = 1_800_000_000) -> None:
        self.upstream = upstream
        self.chain_id = chain_id
        self.now_s = now_s
        self.first_block_s = now_s - 1_000_000
        #: nonce → the transaction that used or cancelled it.
        self.used: dict[str, str] = {}
        #: transaction → (block, succeeded, logs).
        self.transactions: dict[str, tuple[int, bool, list[dict[str, Any]]]] = {}
        self.receipts_lost = False
        self.token: dict[str, int | str] = {DECIMALS: 6, NAME: "USD Coin", VERSION: "2"}
        self.contracts = {BASE_USDC.lower()}
        #: The most blocks that one eth_getLogs may ask for.
        self.most_blocks = 1_000
        upstream.default = self._answer

    @property
    def url(self) -> str:
        return self.upstream.url

    @property
    def height(self) -> int:
        return (self.now_s - self.first_block_s) // 2

    def pay(
        self,
        nonce: int,
        units: int,
        *,
        to: str = SHOP,
        event: str = AUTHORIZATION_USED,
        succeeded: bool = True,
        token: str = BASE_USDC,
    ) -> str:
        """Put a transaction with that authorization into the newest block; gives its hash."""
        transaction = f"0x{len(self.transactions) + 1:064x}"
        authorized = {"address": token, "topics": [event, f"0x{word(PAYER)}", f"0x{nonce:064x}"], "data": "0x"}
        moved = {"address": token, "topics": [TRANSFER, f"0x{word(PAYER)}", f"0x{word(to)}"], "data": f"0x{units:064x}"}
        logs = [authorized, moved] if event == AUTHORIZATION_USED else [authorized]
        self.transactions[transaction] = (self.height, succeeded, logs if succeeded else [])
        if succeeded:
            self.used[f"{nonce:064x}"] = transaction
        return transaction

    def _answer(self, request: Recorded) -> Reply:
        asked = request.json()
        answered = self._result(asked["method"], asked["params"])
        return Reply.json({"jsonrpc": "2.0", "id": asked["id"], **answered})

    def _result(self, method: str, params: list[Any]) -> dict[str, Any]:
        match method:
            case "eth_chainId":
                return {"result": hex(self.chain_id)}
            case "eth_getBlockByNumber":
                number = self.height if params[0] == "latest" else int(params[0], 16)
                return {"result": {"number": hex(number), "timestamp": hex(self.first_block_s + 2 * number)}}
            case "eth_getCode":
                return {"result": "0x60" if params[0].lower() in self.contracts else "0x"}
            case "eth_getTransactionReceipt":
                return {"result": self._receipt(params[0])}
            case "eth_getLogs":
                return self._logs(params[0])
            case "eth_call":
                return self._called(params[0]["data"])
        return {"error": {"code": -32601, "message": "no such method"}}

    def _receipt(self, transaction: str) -> dict[str, Any] | None:
        if transaction not in self.transactions or self.receipts_lost:
            return None
        _, succeeded, logs = self.transactions[transaction]
        return {"transactionHash": transaction, "status": "0x1" if succeeded else "0x0", "logs": logs}

    def _logs(self, asked: dict[str, Any]) -> dict[str, Any]:
        first, last = int(asked["fromBlock"], 16), int(asked["toBlock"], 16)
        if last - first >= self.most_blocks:
            return {"error": {"code": -32000, "message": f"at most {self.most_blocks} blocks"}}
        events, *others = asked["topics"]
        assert set(events) == {AUTHORIZATION_USED, AUTHORIZATION_CANCELED}
        found = [
            {**log, "transactionHash": transaction}
            for transaction, (block, _, logs) in self.transactions.items()
            for log in logs
            if first <= block <= last and log["topics"][0] in events and log["topics"][1:] == others
        ]
        return {"result": found}

    def _called(self, data: str) -> dict[str, Any]:
        if data.startswith(AUTHORIZATION_STATE):
            return {"result": f"0x{int(data[-64:] in self.used):064x}"}
        said = self.token.get(data)
        if said is None:
            return {"error": _REVERTED}
        if isinstance(said, int):
            return {"result": f"0x{said:064x}"}
        padded = said.encode().ljust(32, b"\0").hex()
        return {"result": f"0x{32:064x}{len(said):064x}{padded}"}
