"""The JSON-RPC client: asks one Solana node, believes nothing that does not make sense, and never guesses.

Owns the calls that anchoring needs, and the translation of everything a node can do wrong into two errors:
``RpcUnavailable`` (no usable answer; asking again may help: the network, 429, 5xx, HTML, broken JSON, another call's
answer, a node that lags) and ``RpcRejected`` (the node understood, and refused). What the answers say is not trusted
here either; that is the business of who asks.

Keys, messages and transactions are solders'. The client of the package ``solana`` is not used, for reasons that were
all reproduced with 0.39: an error of the codes -32002 and -32005 without ``data`` ends in a Rust panic, which is a
BaseException; codes it does not know come back as a bare number; an HTTP status is hidden in ``__cause__``; it reads
answers of any size, and it asks again by itself after a broken connection, where sending twice must be a decision.
Requests go straight to an httpx transport: httpx's client logs the URL, in which providers put API keys.

Source of the methods: Solana documentation, "RPC HTTP methods"; of the codes: ``rpc-custom-error`` of the Agave client.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Meta, Struct

from trustgate.errors import RpcRejected, RpcUnavailable
from trustgate.ids import MICROSECONDS_PER_SECOND, now_us
from trustgate.solana.clusters import Cluster

if TYPE_CHECKING:
    import httpx

__all__ = [
    "Balance",
    "Blockhash",
    "Commitment",
    "EpochInfo",
    "Landed",
    "Mention",
    "RpcClient",
    "SignatureStatus",
    "Simulation",
    "Status",
]

Commitment = Literal["processed", "confirmed", "finalized"]

#: The largest answer that is read, bytes: a page of 1,000 signatures is some 300 KB.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
#: Signatures in a page of an address's history; the most a node gives.
PAGE_SIGNATURES: Final = 1_000
_TIMEOUT_S: Final = 15.0
_RETRY_AFTER_MOST_S: Final = 300.0
_MESSAGE_MOST: Final = 300
#: Parts of a URL shorter than this are words such as "v2", not keys.
_SECRET_LEAST: Final = 8

#: Statuses of HTTP that may be another one the next time.
_PASSING_STATUSES: Final = frozenset({408, 409, 425, 429})
#: JSON-RPC errors that say "not now": node unhealthy or behind (-32005), block or status not there yet (-32004,
#: -32014), minContextSlot not reached (-32016), slot skipped or pruned (-32007, -32009), internal error (-32603), and
#: what providers say for too many requests.
_PASSING_CODES: Final = frozenset({-32005, -32004, -32014, -32016, -32007, -32009, -32603, -32429, 429})

_U64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Base58 = Annotated[str, Meta(pattern="^[1-9A-HJ-NP-Za-km-z]{32,88}$")]
T = TypeVar("T")


class _Error(Struct):
    code: int
    message: str = ""
    data: Any = None


class _Envelope(Struct):
    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


class _Context(Struct):
    slot: _U64


class EpochInfo(Struct, frozen=True, rename="camel"):
    #: The slot of the block that was asked about, and how many blocks there are up to it.
    absolute_slot: _U64
    block_height: _U64


class Blockhash(Struct, frozen=True, rename="camel"):
    blockhash: _Base58
    last_valid_block_height: _U64


class _BlockhashAnswer(Struct):
    context: _Context
    value: Blockhash


class Balance(Struct, frozen=True):
    context: _Context
    value: _U64


class _PriorityFee(Struct, rename="camel"):
    prioritization_fee: _U64


class Simulation(Struct, frozen=True, rename="camel"):
    #: None if it would succeed.
    err: Any = None
    units_consumed: _U64 | None = None


class _SimulationAnswer(Struct):
    context: _Context
    value: Simulation


class Status(Struct, frozen=True, rename="camel"):
    """What a node says of a transaction. ``confirmations`` is None once it is final."""

    slot: _U64
    confirmations: _U64 | None = None
    err: Any = None
    confirmation_status: Commitment | None = None

    def has_reached(self, commitment: Commitment) -> bool:
        order = ("processed", "confirmed", "finalized")
        reached = self.confirmation_status or ("finalized" if self.confirmations is None else "processed")
        return order.index(reached) >= order.index(commitment)


class SignatureStatus(Struct, frozen=True):
    """``value`` has one item: None where the node knows no such transaction as of the slot of ``context``."""

    context: _Context
    value: Annotated[tuple[Status | None, ...], Meta(min_length=1, max_length=1)]

    @property
    def slot(self) -> int:
        return self.context.slot

    @property
    def status(self) -> Status | None:
        return self.value[0]


class Mention(Struct, frozen=True, rename="camel"):
    """A transaction that names an address. Anybody can make one: who signed it is to be looked up."""

    signature: _Base58
    slot: _U64
    err: Any = None
    confirmation_status: Commitment | None = None


class _Meta(Struct, rename="camel"):
    err: Any = None
    fee: _U64 = 0


class _TransactionAnswer(Struct, rename="camel"):
    slot: _U64
    transaction: Annotated[tuple[str, ...], Meta(min_length=2, max_length=2)]
    meta: _Meta
    block_time: int | None = None


#: A union is no ``type`` to mypy.
_TRANSACTION_OR_NONE: Final[Any] = _TransactionAnswer | None


class Landed(Struct, frozen=True):
    """A transaction in a block: its wire bytes, and what came of it. ``err`` is None if it did what it says."""

    raw: bytes
    slot: int
    err: Any
    fee_lamports: int
    #: Seconds since the epoch, as the validators' clocks have it; None where the node does not know.
    block_time_s: int | None


class RpcClient:
    """One node. Calls may overlap. To be closed, or used as an asynchronous context manager.

    Every method raises ``RpcUnavailable`` or ``RpcRejected``, whose texts hold no more of the node's URL than the host.
    """

    def __init__(self, cluster: Cluster, *, timeout_s: float = _TIMEOUT_S) -> None:
        """``timeout_s`` bounds each call from its first to its last byte."""
        self.cluster = cluster
        self._timeout_s = timeout_s
        self._secrets = _secrets_in(cluster.url)
        self._transport: httpx.AsyncBaseTransport | None = None
        self._ids = count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._transport is not None:
            transport, self._transport = self._transport, None
            await transport.aclose()

    # the cluster

    async def genesis_hash(self) -> str:
        """The hash of the genesis block, base58: which cluster this is."""
        return await self._call("getGenesisHash", [], _Base58)

    async def epoch_info(self, commitment: Commitment) -> EpochInfo:
        return await self._call("getEpochInfo", [{"commitment": commitment}], EpochInfo)

    async def latest_blockhash(self) -> Blockhash:
        """The latest confirmed one. A finalized one is some 13 s older, of the 60 to 90 that it is good for."""
        answer = await self._call("getLatestBlockhash", [{"commitment": "confirmed"}], _BlockhashAnswer)
        return answer.value

    async def prioritization_fees(self) -> list[int]:
        """What the cheapest transaction of each recent block paid, micro-lamports a compute unit."""
        answer = await self._call("getRecentPrioritizationFees", [], list[_PriorityFee])
        return [fee.prioritization_fee for fee in answer]

    # accounts

    async def balance(self, address: str) -> int:
        """Lamports."""
        return (await self._call("getBalance", [address, {"commitment": "confirmed"}], Balance)).value

    async def rent_minimum(self) -> int:
        """Lamports that must stay on an account without data, such as a fee payer's."""
        return await self._call("getMinimumBalanceForRentExemption", [0], _U64)

    async def request_airdrop(self, address: str, lamports: int) -> str:
        """Ask a test chain for lamports; gives the signature of the transfer."""
        return await self._call("requestAirdrop", [address, lamports, {"commitment": "confirmed"}], _Base58)

    # transactions

    async def simulate(self, raw: bytes) -> Simulation:
        """What an unsigned transaction would do. Its blockhash is replaced, so it need not have a good one."""
        options = {"encoding": "base64", "sigVerify": False, "replaceRecentBlockhash": True, "commitment": "confirmed"}
        return (await self._call("simulateTransaction", [_base64(raw), options], _SimulationAnswer)).value

    async def send(self, raw: bytes, *, preflight: bool) -> str:
        """Hand over a signed transaction; gives the signature that the node says it has.

        The node does not send it again by itself. That it was taken says nothing about whether it will land, and that
        it was refused says nothing about whether it will not.
        """
        options = {
            "encoding": "base64",
            "skipPreflight": not preflight,
            "preflightCommitment": "confirmed",
            "maxRetries": 0,
        }
        return await self._call("sendTransaction", [_base64(raw), options], _Base58)

    async def signature_status(self, signature: str) -> SignatureStatus:
        """What the node knows of a transaction, however old."""
        params = [[signature], {"searchTransactionHistory": True}]
        return await self._call("getSignatureStatuses", params, SignatureStatus)

    async def mentions(
        self,
        address: str,
        commitment: Commitment,
        *,
        before: str | None = None,
        until: str | None = None,
        min_slot: int = 0,
    ) -> list[Mention]:
        """A page of the transactions that name an address, the newest first.

        ``before`` and ``until`` are signatures, neither part of the page. A node that has not yet seen ``min_slot``
        is refused (``RpcUnavailable``).
        """
        options: dict[str, Any] = {"commitment": commitment, "limit": PAGE_SIGNATURES, "minContextSlot": min_slot}
        options |= {name: value for name, value in (("before", before), ("until", until)) if value is not None}
        return await self._call("getSignaturesForAddress", [address, options], list[Mention])

    async def transaction(self, signature: str, commitment: Commitment) -> Landed | None:
        """The transaction of this signature; None where the node has none."""
        options = {"encoding": "base64", "commitment": commitment, "maxSupportedTransactionVersion": 0}
        answer: _TransactionAnswer | None = await self._call(
            "getTransaction", [signature, options], _TRANSACTION_OR_NONE
        )
        if answer is None:
            return None
        encoded, encoding = answer.transaction
        try:
            raw = base64.b64decode(encoded, validate=True) if encoding == "base64" else b""
        except ValueError:
            raw = b""
        if not raw:
            raise self._unavailable("answered getTransaction with something that is no transaction")
        return Landed(
            raw=raw,
            slot=answer.slot,
            err=answer.meta.err,
            fee_lamports=answer.meta.fee,
            block_time_s=answer.block_time,
        )

    # one call

    async def _call(self, method: str, params: Sequence[Any], result: type[T]) -> T:
        call_id = next(self._ids)
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params})
        status, retry_after_s, answer = await self._exchange(method, body)
        envelope = _decode(answer)
        if envelope is not None and envelope.error is not None and (status == 200 or status < 500):
            if envelope.error.code in _PASSING_CODES or status in _PASSING_STATUSES:
                raise self._unavailable(f"cannot answer {method} now: {self._said(envelope.error)}", retry_after_s)
            raise self._rejected(method, envelope.error)
        if status != 200:
            raise self._bad_status(method, status, retry_after_s)
        if envelope is None:
            raise self._unavailable(f"answered {method} with something that is no JSON-RPC")
        if envelope.id != call_id:
            raise self._unavailable(f"gave {method} the answer of another call")
        try:
            return msgspec.json.decode(envelope.result, type=result)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._unavailable(f"answered {method} with something that makes no sense") from None

    async def _exchange(self, method: str, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, Retry-After in seconds, and the body; all within the time limit."""
        import httpx

        if self._transport is None:
            # Loading the certificate authorities takes 50 ms, and http:// has no use for them: this one trusts nobody.
            verify = True if self.cluster.url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            limits = httpx.Limits(max_connections=16)
            self._transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits, trust_env=False)
        request = httpx.Request("POST", self.cluster.url, headers=_headers(self.cluster.url), content=body)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    return response.status_code, _retry_after_s(response), await self._read(method, response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise self._unavailable(f"did not answer {method} within {self._timeout_s:g} s") from None
        except (httpx.TransportError, httpx.StreamError, httpx.InvalidURL) as error:
            why = "cannot be reached" if isinstance(error, httpx.ConnectError) else "broke off the connection"
            raise self._unavailable(f"{why} ({method}: {type(error).__name__})") from None

    async def _read(self, method: str, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._unavailable(f"answered {method} compressed, which nobody asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise self._unavailable(f"answered {method} with more than {MAX_ANSWER_BYTES} bytes")
        return bytes(body)

    # what went wrong

    def _unavailable(self, what: str, retry_after_s: float | None = None) -> RpcUnavailable:
        error = RpcUnavailable(
            f"The RPC node {self.cluster.host} {what}.", hint="Try again later, or use another node: --rpc URL."
        )
        error.retry_after_s = retry_after_s
        return error

    def _bad_status(self, method: str, status: int, retry_after_s: float | None) -> RpcUnavailable | RpcRejected:
        if status == 429:
            return self._unavailable(f"is asked too often ({method}: HTTP 429)", retry_after_s)
        if status in _PASSING_STATUSES or status >= 500 or status < 400:
            return self._unavailable(f"cannot answer {method} now (HTTP {status})", retry_after_s)
        hint = (
            "Check the API key in its URL."
            if status in (401, 403)
            else "Check that the URL is that of a Solana RPC node."
        )
        return RpcRejected(f"The RPC node {self.cluster.host} refused {method}: HTTP {status}.", hint=hint)

    def _rejected(self, method: str, error: _Error) -> RpcRejected:
        rejected = RpcRejected(f"The RPC node {self.cluster.host} refused {method}: {self._said(error)}.")
        rejected.rpc_code = error.code
        rejected.data = error.data
        return rejected

    def _said(self, error: _Error) -> str:
        """An error's text as it may be shown: one line, not long, without what the URL may hold of secrets."""
        text = " ".join("".join(c if c.isprintable() else " " for c in error.message[: 4 * _MESSAGE_MOST]).split())
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return f"{text[:_MESSAGE_MOST].rstrip('.') or 'no reason given'} ({error.code})"


def _decode(answer: bytes) -> _Envelope | None:
    try:
        return msgspec.json.decode(answer, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _headers(url: str) -> dict[str, str]:
    """Nothing is asked for compressed: the size limit holds for what is decoded."""
    headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
    parts = urlsplit(url)
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["authorization"] = f"Basic {_base64(user.encode())}"
    return headers


def _retry_after_s(response: httpx.Response) -> float | None:
    """Retry-After in seconds, from either of its forms (RFC 9110 section 10.2.3)."""
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), _RETRY_AFTER_MOST_S)
    try:
        until_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(until_s - now_us() / MICROSECONDS_PER_SECOND, 0.0), _RETRY_AFTER_MOST_S)


def _secrets_in(url: str) -> list[str]:
    """What of a URL may be an API key, the longest first."""
    parts = urlsplit(url)
    found = [parts.username or "", parts.password or "", *parts.path.split("/"), parts.query]
    found += [value for _, value in parse_qsl(parts.query)]
    return sorted({text for text in found if len(text) >= _SECRET_LEAST}, key=len, reverse=True)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
