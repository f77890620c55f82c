"""One call of JSON-RPC 2.0 to one node, whose every fault becomes one of two errors.

``RpcUnavailable``: no usable answer; asking again may help (the network, 429, 5xx, HTML, broken JSON, another call's
answer, a node that lags). ``RpcRejected``: the node understood, and refused. Source of the codes: ``rpc-custom-error``
of the Agave client, and EIP-1474.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Final, Self, TypeVar

import msgspec
from msgspec import Struct

from trustgate.errors import RpcRejected, RpcUnavailable
from trustgate.net.addresses import host_of
from trustgate.net.peer import Peer, PeerFailed

#: The largest answer that is read, bytes: a page of 1,000 signatures is some 300 KB.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

#: Statuses of HTTP that may be another one the next time.
_PASSING_STATUSES: Final = frozenset({408, 409, 425, 429})
#: JSON-RPC errors that say "not now": node unhealthy or behind (-32005), block or status not there yet (-32004,
#: -32014), minContextSlot not reached (-32016), slot skipped or pruned (-32007, -32009), internal error (-32603), and
#: what providers say for too many requests.
_PASSING_CODES: Final = frozenset({-32005, -32004, -32014, -32016, -32007, -32009, -32603, -32429, 429})

T = TypeVar("T")


class _Error(Struct):
    code: int
    message: str = ""
    data: Any = None


class _Envelope(Struct):
    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


class JsonRpc:
    """One node. Calls may overlap. To be closed, or used as an asynchronous context manager.

    Every call raises ``RpcUnavailable`` or ``RpcRejected``, whose texts hold no more of the node's URL than the host.
    """

    def __init__(self, url: str, *, timeout_s: float, kind: str, hint: str) -> None:
        """``timeout_s`` bounds each call. ``kind`` names the kind of node; ``hint`` how another one is named."""
        self.host = host_of(url)
        self._kind = kind
        self._hint = hint
        self._peer = Peer(url, timeout_s=timeout_s, most_bytes=MAX_ANSWER_BYTES)
        self._ids = count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._peer.close()

    async def call(self, method: str, params: Sequence[Any], result: type[T]) -> T:
        call_id = next(self._ids)
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params})
        try:
            status, answer, retry_after_s, _ = await self._peer.exchange(method, body)
        except PeerFailed as failure:
            raise self.unavailable(str(failure)) from None
        envelope = _decode(answer)
        if envelope is not None and envelope.error is not None and status < 500:
            if envelope.error.code in _PASSING_CODES or status in _PASSING_STATUSES:
                raise self.unavailable(f"cannot answer {method} now: {self._said(envelope.error)}", retry_after_s)
            raise self._rejected(method, envelope.error)
        if status != 200:
            raise self._bad_status(method, status, retry_after_s)
        if envelope is None:
            raise self.unavailable(f"answered {method} with a response that is not JSON-RPC")
        if envelope.id != call_id:
            raise self.unavailable(f"gave {method} the answer of another call")
        try:
            return msgspec.json.decode(envelope.result, type=result)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self.unavailable(f"sent an invalid result for {method}") from None

    def unavailable(self, what: str, retry_after_s: float | None = None) -> RpcUnavailable:
        error = RpcUnavailable(f"The RPC node {self.host} {what}.", hint=f"Try again later, or {self._hint}.")
        error.retry_after_s = retry_after_s
        return error

    def _bad_status(self, method: str, status: int, retry_after_s: float | None) -> RpcUnavailable | RpcRejected:
        if status == 429:
            return self.unavailable(f"limits the rate of requests ({method}: HTTP 429)", retry_after_s)
        if status in _PASSING_STATUSES or status >= 500 or status < 400:
            return self.unavailable(f"cannot answer {method} now (HTTP {status})", retry_after_s)
        hint = (
            "Check the API key in its URL."
            if status in (401, 403)
            else f"Check that the URL is that of {self._kind} RPC node."
        )
        return RpcRejected(f"The RPC node {self.host} refused {method}: HTTP {status}.", hint=hint)

    def _rejected(self, method: str, error: _Error) -> RpcRejected:
        rejected = RpcRejected(f"The RPC node {self.host} refused {method}: {self._said(error)}.")
        rejected.rpc_code = error.code
        rejected.data = error.data
        return rejected

    def _said(self, error: _Error) -> str:
        return f"{self._peer.tamed(error.message).rstrip('.') or 'no reason given'} ({error.code})"


def _decode(answer: bytes) -> _Envelope | None:
    try:
        return msgspec.json.decode(answer, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
