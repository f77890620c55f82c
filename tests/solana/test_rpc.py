"""The JSON-RPC client over real sockets: what a node answers becomes a value that makes sense, or one of two errors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.processes import free_port
from tests.support.streams import serving
from tests.support.upstream import CLOSE, HANG, RESET, Recorded, Reply, Upstream
from trustgate.errors import ChainError, RpcRejected, RpcUnavailable
from trustgate.formats.solana_transaction import b58encode
from trustgate.localnet import running_localnet
from trustgate.solana.clusters import find_cluster
from trustgate.solana.keypair import PayerKey
from trustgate.solana.memo import Fee, sign_memo
from trustgate.solana.rpc import MAX_ANSWER_BYTES, RpcClient, SignatureStatus

ADDRESS = PayerKey.from_seed(bytes(32)).address
SIGNATURE = b58encode(bytes(range(64)))
HASH = b58encode(bytes(range(32)))


@pytest.fixture
def node() -> Iterator[Upstream]:
    """A scripted node. Nothing scripted may be left: the client asks as often as it is meant to, not more."""
    server = Upstream().start()
    yield server
    server.stop()
    assert server.unused == 0


@pytest.fixture
async def rpc(node: Upstream) -> AsyncIterator[RpcClient]:
    async with RpcClient(find_cluster(f"{node.url}/v2/PATHSECRET?api-key=QUERYSECRET"), timeout_s=5.0) as client:
        yield client


def result(value: Any) -> Callable[[Recorded], Reply]:
    """The answer to whatever was asked."""
    return lambda request: Reply.json({"jsonrpc": "2.0", "id": request.json()["id"], "result": value})


def error(code: int, message: Any = "no", *, status: int = 200, **more: Any) -> Callable[[Recorded], Reply]:
    return lambda request: Reply.json(
        {"jsonrpc": "2.0", "id": request.json()["id"], "error": {"code": code, "message": message, **more}},
        status=status,
    )


async def unavailable(rpc: RpcClient) -> RpcUnavailable:
    with pytest.raises(RpcUnavailable) as caught:
        await rpc.genesis_hash()
    assert "SECRET" not in f"{caught.value.message}{caught.value.hint}"
    assert "127.0.0.1" in caught.value.message
    assert caught.value.hint
    return caught.value


# what is asked, and what is understood


async def test_every_call_against_a_chain() -> None:
    key = PayerKey.generate()
    async with running_localnet(slot_ms=0) as net, RpcClient(find_cluster(net.url)) as rpc:
        assert await rpc.genesis_hash() == net.genesis
        net.advance(10)
        tip = await rpc.epoch_info("processed")
        assert (tip.absolute_slot, tip.block_height) == (net.slot, net.slot - 1_000)
        assert (await rpc.epoch_info("confirmed")).absolute_slot == net.slot - 1
        assert await rpc.balance(key.address) == 0
        assert await rpc.rent_minimum() == 890_880
        signature = await rpc.request_airdrop(key.address, 10**9)
        net.advance()
        assert await rpc.balance(key.address) == 10**9
        assert set(await rpc.prioritization_fees()) <= {0}

        blockhash = await rpc.latest_blockhash()
        assert blockhash.last_valid_block_height == net.slot - 1 - 1_000 + 150
        raw = sign_memo(key, b"text", blockhash.blockhash, Fee(10_000, 1, 5_001))
        simulated = await rpc.simulate(raw)
        assert simulated.err is None
        assert simulated.units_consumed is not None and 300 < simulated.units_consumed < 10_000
        sent = await rpc.send(raw, preflight=True)

        known = await rpc.signature_status(sent)
        assert known.slot == net.slot
        assert known.status is not None and not known.status.has_reached("confirmed")
        assert await rpc.transaction(sent, "confirmed") is None
        net.advance(32)
        known = await rpc.signature_status(sent)
        assert known.status is not None and known.status.has_reached("finalized") and known.status.err is None
        landed = await rpc.transaction(sent, "finalized")
        assert landed is not None
        assert (landed.raw, landed.err, landed.fee_lamports) == (raw, None, 5_001)

        newest, oldest = await rpc.mentions(key.address, "finalized")
        assert (newest.signature, oldest.signature) == (sent, signature)
        assert await rpc.mentions(key.address, "finalized", before=sent) == [oldest]
        assert await rpc.mentions(key.address, "finalized", until=signature) == [newest]

        net.advance(200)
        assert (await rpc.signature_status(SIGNATURE)).status is None
        assert await rpc.transaction(SIGNATURE, "finalized") is None
        with pytest.raises(RpcRejected, match=r"already been processed|Blockhash not found") as caught:
            await rpc.send(raw, preflight=True)
        assert caught.value.rpc_code == -32002
        assert caught.value.data["err"] in ("AlreadyProcessed", "BlockhashNotFound")


async def test_what_goes_over_the_wire(node: Upstream, rpc: RpcClient) -> None:
    node.script(result(HASH), result(SIGNATURE), result(SIGNATURE))
    assert await rpc.genesis_hash() == HASH
    assert await rpc.send(b"raw", preflight=True) == SIGNATURE
    assert await rpc.send(b"raw", preflight=False) == SIGNATURE
    first, second, third = node.requests
    assert first.target == "/v2/PATHSECRET?api-key=QUERYSECRET"
    assert first.json() == {"jsonrpc": "2.0", "id": 1, "method": "getGenesisHash", "params": []}
    assert first.header("content-type") == "application/json"
    assert first.header("accept-encoding") == "identity"
    assert first.header("authorization") is None
    options = {"encoding": "base64", "preflightCommitment": "confirmed", "maxRetries": 0}
    assert second.json()["params"] == [base64.b64encode(b"raw").decode(), {**options, "skipPreflight": False}]
    assert third.json()["params"][1] == {**options, "skipPreflight": True}
    assert third.json()["id"] == 3
    assert {request.connection for request in node.requests} == {1}, "the connection is kept"


async def test_a_page_of_history(node: Upstream, rpc: RpcClient) -> None:
    node.script(
        result([]), result([]), error(-32016, "Minimum context slot has not been reached", data={"contextSlot": 6})
    )
    await rpc.mentions(ADDRESS, "confirmed")
    await rpc.mentions(ADDRESS, "finalized", before=SIGNATURE, until="U", min_slot=7)
    with pytest.raises(RpcUnavailable, match="Minimum context slot"):
        await rpc.mentions(ADDRESS, "finalized", min_slot=7)
    first, second, _ = (request.json()["params"] for request in node.requests)
    assert first == [ADDRESS, {"commitment": "confirmed", "limit": 1000, "minContextSlot": 0}]
    options = {"commitment": "finalized", "limit": 1000, "minContextSlot": 7, "before": SIGNATURE, "until": "U"}
    assert second == [ADDRESS, options]


async def test_a_user_and_password_in_the_url_become_a_header(node: Upstream) -> None:
    node.script(result(HASH))
    url = node.url.replace("http://", "http://us%40er:pass%3Aword@")
    async with RpcClient(find_cluster(url)) as rpc:
        assert await rpc.genesis_hash() == HASH
    assert node.requests[0].header("authorization") == f"Basic {base64.b64encode(b'us@er:pass:word').decode()}"


async def test_calls_may_overlap(node: Upstream, rpc: RpcClient) -> None:
    node.default = result(HASH)
    assert await asyncio.gather(*(rpc.genesis_hash() for _ in range(40))) == [HASH] * 40
    assert len({request.json()["id"] for request in node.requests}) == 40


@pytest.mark.parametrize(
    ("status", "commitment", "reached"),
    [
        (SignatureStatus(slot=1, confirmations=0, confirmation_status="processed"), "confirmed", False),
        (SignatureStatus(slot=1, confirmations=3, confirmation_status="confirmed"), "confirmed", True),
        (SignatureStatus(slot=1, confirmations=3, confirmation_status="confirmed"), "finalized", False),
        (SignatureStatus(slot=1, confirmations=None, confirmation_status="finalized"), "finalized", True),
        (SignatureStatus(slot=1, confirmations=None, confirmation_status="finalized"), "confirmed", True),
        # Old nodes do not name it.
        (SignatureStatus(slot=1, confirmations=None), "finalized", True),
        (SignatureStatus(slot=1, confirmations=31), "confirmed", False),
    ],
)
def test_how_settled_a_status_is(status: SignatureStatus, commitment: Any, reached: bool) -> None:
    assert status.has_reached(commitment) is reached


# a node that fails


@pytest.mark.parametrize("how", [CLOSE, RESET])
async def test_a_broken_connection_is_not_repaired_by_asking_again(node: Upstream, rpc: RpcClient, how: Any) -> None:
    node.script(Reply.raw(how))
    assert "broke off the connection" in (await unavailable(rpc)).message
    assert len(node.requests) == 1, "whether to send again is for the caller to decide"


async def test_a_node_that_is_not_there() -> None:
    async with RpcClient(find_cluster(f"http://127.0.0.1:{free_port()}/SECRET")) as rpc:
        assert "cannot be reached" in (await unavailable(rpc)).message


async def test_a_host_that_has_no_address() -> None:
    async with RpcClient(find_cluster("http://node.invalid/SECRET")) as rpc:
        with pytest.raises(RpcUnavailable, match=r"The RPC node node\.invalid cannot be reached"):
            await rpc.genesis_hash()


@pytest.mark.parametrize(
    "steps",
    [(HANG,), (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", HANG), (b"HTTP/1.1 200 OK\r\n", HANG)],
)
async def test_a_node_that_says_nothing_more(node: Upstream, steps: Any) -> None:
    node.script(Reply.raw(*steps))
    async with RpcClient(find_cluster(node.url), timeout_s=0.2) as rpc:
        assert "did not answer getGenesisHash within 0.2 s" in (await unavailable(rpc)).message
        node.script(result(HASH))
        assert await rpc.genesis_hash() == HASH


async def test_a_node_that_drips() -> None:
    """The limit is on the whole call: each single byte comes in time."""
    left = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        while not reader.at_eof():
            writer.write(b" ")
            with contextlib.suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(reader.read(), 0.02)
        left.set()

    async with serving(drip) as port, RpcClient(find_cluster(f"http://127.0.0.1:{port}"), timeout_s=0.3) as rpc:
        assert "within 0.3 s" in (await unavailable(rpc)).message
        await left.wait()


@pytest.mark.parametrize("status", [301, 302, 307, 408, 409, 425, 500, 502, 503, 504, 520, 599])
async def test_a_status_that_may_pass(node: Upstream, rpc: RpcClient, status: int) -> None:
    node.script(Reply.body(b"<html>", status=status, content_type="text/html", headers={"location": node.url}))
    assert f"(HTTP {status})" in (await unavailable(rpc)).message
    assert len(node.requests) == 1, "a redirect is not followed: the key in the URL is for this node alone"


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        ("7", 7.0, 7.0),
        ("0", 0.0, 0.0),
        ("999999", 300.0, 300.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0, 0.0),
        ("Sun, 06 Nov 2094 08:49:37 GMT", 300.0, 300.0),
        (None, None, None),
        ("soon", None, None),
        ("-5", None, None),
        ("1.5", None, None),
        ("9" * 5000, None, None),
    ],
)
async def test_too_many_requests(
    node: Upstream, rpc: RpcClient, given: str | None, least: float | None, most: float | None
) -> None:
    headers = {} if given is None else {"retry-after": given}
    node.script(Reply.body(b"slow down", status=429, content_type="text/plain", headers=headers))
    caught = await unavailable(rpc)
    assert "limits the rate of requests" in caught.message
    if least is None or most is None:
        assert caught.retry_after_s is None
    else:
        assert caught.retry_after_s is not None and least <= caught.retry_after_s <= most


async def test_too_many_requests_until_a_date(node: Upstream, rpc: RpcClient) -> None:
    until = datetime.now(UTC) + timedelta(seconds=100)
    node.script(Reply.body(b"", status=429, headers={"retry-after": format_datetime(until, usegmt=True)}))
    caught = await unavailable(rpc)
    assert caught.retry_after_s is not None and 30 < caught.retry_after_s <= 100


async def test_too_many_requests_in_json(node: Upstream, rpc: RpcClient) -> None:
    body = json.dumps(
        {"jsonrpc": "2.0", "error": {"code": 429, "message": "Too many requests for QUERYSECRET"}, "id": 1}
    )
    node.script(Reply.body(body.encode(), status=429, content_type="application/json", headers={"retry-after": "3"}))
    caught = await unavailable(rpc)
    assert caught.retry_after_s == 3.0
    assert "Too many requests for … (429)" in caught.message


@pytest.mark.parametrize(
    ("status", "hint"), [(400, "URL"), (401, "API key"), (403, "API key"), (404, "URL"), (413, "URL")]
)
async def test_a_status_that_will_not_pass(node: Upstream, rpc: RpcClient, status: int, hint: str) -> None:
    node.script(Reply.html(status))
    with pytest.raises(RpcRejected, match=f"refused getGenesisHash: HTTP {status}") as caught:
        await rpc.genesis_hash()
    assert caught.value.hint is not None and hint in caught.value.hint
    assert caught.value.rpc_code is None


# a node that talks nonsense


NONSENSE = {
    "nothing": b"",
    "html": b"<!doctype html><title>Sign in</title>",
    "half": b'{"jsonrpc":"2.0","id":1,"resu',
    "binary": bytes(range(256)),
    "not utf-8": b'{"jsonrpc":"2.0","id":1,"result":"\xff"}',
    "a list": b"[]",
    "a batch": b'[{"jsonrpc":"2.0","id":1,"result":"' + HASH.encode() + b'"}]',
    "null": b"null",
    "no result": b'{"jsonrpc":"2.0","id":1}',
    "null result": b'{"jsonrpc":"2.0","id":1,"result":null}',
    "another id": b'{"jsonrpc":"2.0","id":2,"result":"' + HASH.encode() + b'"}',
    "text id": b'{"jsonrpc":"2.0","id":"1","result":"' + HASH.encode() + b'"}',
    "no id": b'{"jsonrpc":"2.0","result":"' + HASH.encode() + b'"}',
    "number": b'{"jsonrpc":"2.0","id":1,"result":5}',
    "not base58": b'{"jsonrpc":"2.0","id":1,"result":"0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl"}',
    "too short": b'{"jsonrpc":"2.0","id":1,"result":"abc"}',
    "error of a wrong form": b'{"jsonrpc":"2.0","id":1,"error":"no"}',
    "error without code": b'{"jsonrpc":"2.0","id":1,"error":{"message":"no"}}',
    "error with a fraction": b'{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":"no"}}',
    "deep": b'{"id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_is_no_answer(node: Upstream, rpc: RpcClient, name: str) -> None:
    node.script(Reply.body(NONSENSE[name]))
    await unavailable(rpc)


@pytest.mark.parametrize(
    ("ask", "value"),
    [
        (lambda rpc: rpc.epoch_info("finalized"), {"absoluteSlot": -1, "blockHeight": 5}),
        (lambda rpc: rpc.epoch_info("finalized"), {"absoluteSlot": 1, "blockHeight": 2**63}),
        (lambda rpc: rpc.epoch_info("finalized"), {"absoluteSlot": 1}),
        (lambda rpc: rpc.epoch_info("finalized"), {"absoluteSlot": 1.5, "blockHeight": 1}),
        (lambda rpc: rpc.latest_blockhash(), {"context": {"slot": 1}, "value": None}),
        (lambda rpc: rpc.latest_blockhash(), {"context": {"slot": 1}, "value": {"blockhash": HASH}}),
        (lambda rpc: rpc.latest_blockhash(), {"value": {"blockhash": HASH, "lastValidBlockHeight": 1}}),
        (lambda rpc: rpc.balance(ADDRESS), {"context": {"slot": 1}, "value": "1000"}),
        (lambda rpc: rpc.balance(ADDRESS), {"context": {"slot": 1}, "value": -1}),
        (lambda rpc: rpc.rent_minimum(), -1),
        (lambda rpc: rpc.prioritization_fees(), [{"slot": 1}]),
        (lambda rpc: rpc.prioritization_fees(), {"slot": 1}),
        (lambda rpc: rpc.simulate(b"raw"), {"context": {"slot": 1}, "value": [0]}),
        (lambda rpc: rpc.send(b"raw", preflight=True), None),
        (lambda rpc: rpc.send(b"raw", preflight=True), "accepted"),
        (lambda rpc: rpc.signature_status(SIGNATURE), {"context": {"slot": 1}, "value": []}),
        (lambda rpc: rpc.signature_status(SIGNATURE), {"context": {"slot": 1}, "value": [None, None]}),
        (lambda rpc: rpc.signature_status(SIGNATURE), {"value": [None]}),
        (
            lambda rpc: rpc.signature_status(SIGNATURE),
            {"context": {"slot": 1}, "value": [{"slot": 1, "confirmationStatus": "rooted"}]},
        ),
        (lambda rpc: rpc.mentions(ADDRESS, "finalized"), [{"signature": "x", "slot": 1}]),
        (lambda rpc: rpc.mentions(ADDRESS, "finalized"), None),
        (lambda rpc: rpc.transaction(SIGNATURE, "finalized"), {"slot": 1, "transaction": ["AA==", "base64"]}),
        (lambda rpc: rpc.transaction(SIGNATURE, "finalized"), {"slot": 1, "transaction": {}, "meta": {"fee": 1}}),
        (lambda rpc: rpc.transaction(SIGNATURE, "finalized"), {"slot": 1, "transaction": ["A", "base64"], "meta": {}}),
        (
            lambda rpc: rpc.transaction(SIGNATURE, "finalized"),
            {"slot": 1, "transaction": ["AA==", "base58"], "meta": {}},
        ),
        (lambda rpc: rpc.transaction(SIGNATURE, "finalized"), {"slot": 1, "transaction": ["", "base64"], "meta": {}}),
    ],
)
async def test_an_answer_that_makes_no_sense_is_none(
    node: Upstream, rpc: RpcClient, ask: Callable[[RpcClient], Awaitable[object]], value: Any
) -> None:
    node.script(result(value))
    with pytest.raises(RpcUnavailable, match=r"invalid result|invalid transaction"):
        await ask(rpc)


async def test_an_answer_of_any_size_is_not_read(node: Upstream, rpc: RpcClient) -> None:
    node.script(Reply.body(b" " * (MAX_ANSWER_BYTES + 1)))
    assert f"more than {MAX_ANSWER_BYTES} bytes" in (await unavailable(rpc)).message
    node.script(result(HASH))
    assert await rpc.genesis_hash() == HASH


async def test_what_is_compressed_though_nobody_asked_is_not_read(node: Upstream, rpc: RpcClient) -> None:
    node.script(Reply.body(b"\x1f\x8b", headers={"content-encoding": "gzip"}))
    assert "compressed" in (await unavailable(rpc)).message


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["id", "result", "error", "code", "message", "value", "context"]), inner)
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_answer_leads_to_anything_else(shared: Shared, body: bytes) -> None:
    shared.node.script(Reply.body(body))
    with pytest.raises((RpcUnavailable, RpcRejected)):
        shared.run(shared.rpc.transaction(SIGNATURE, "finalized"))


class Shared:
    """A node and a client for many examples of one test."""

    def __init__(self) -> None:
        self.node = Upstream().start()
        self._runner = asyncio.Runner()
        self.rpc = RpcClient(find_cluster(self.node.url))

    def run(self, work: Any) -> Any:
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self.rpc.close())
        self._runner.close()
        self.node.stop()


@pytest.fixture
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.close()


# a node that refuses


@pytest.mark.parametrize("code", [-32005, -32004, -32014, -32016, -32007, -32009, -32603, -32429, 429])
async def test_not_now(node: Upstream, rpc: RpcClient, code: int) -> None:
    node.script(error(code, "Node is behind by 42 slots"))
    assert f"Node is behind by 42 slots ({code})" in (await unavailable(rpc)).message


@pytest.mark.parametrize("status", [200, 400, 403])
@pytest.mark.parametrize("code", [-32002, -32003, -32015, -32600, -32601, -32602, -32700, 7, 10**12])
async def test_no(node: Upstream, rpc: RpcClient, code: int, status: int) -> None:
    """Also those codes that, without data, end other clients."""
    node.script(error(code, "because", status=status))
    with pytest.raises(RpcRejected, match=rf"refused getGenesisHash: because \({code}\)\.$") as caught:
        await rpc.genesis_hash()
    assert (caught.value.rpc_code, caught.value.data) == (code, None)


async def test_what_comes_with_a_refusal(node: Upstream, rpc: RpcClient) -> None:
    node.script(error(-32002, "Simulation failed.", data={"err": "BlockhashNotFound", "logs": []}))
    with pytest.raises(RpcRejected) as caught:
        await rpc.send(b"raw", preflight=True)
    assert caught.value.data == {"err": "BlockhashNotFound", "logs": []}


async def test_an_error_of_a_failing_server_is_not_a_refusal(node: Upstream, rpc: RpcClient) -> None:
    node.script(error(-32002, "lost my database", status=500))
    await unavailable(rpc)


async def test_what_a_node_says_is_shown_as_one_tame_line(
    node: Upstream, rpc: RpcClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    evil = "bad key QUERYSECRET\x1b[31m\r\n\tat /v2/PATHSECRET?api-key=QUERYSECRET \u202e" + "x" * 5000
    node.script(error(-32602, evil))
    with pytest.raises(RpcRejected) as caught:
        await rpc.genesis_hash()
    assert "SECRET" not in caught.value.message
    assert "SECRET" not in caplog.text
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500
    assert "bad key …" in caught.value.message


async def test_nothing_that_is_logged_holds_the_url(
    node: Upstream, rpc: RpcClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node.script(result(HASH), Reply.html(503), Reply.close())
    await rpc.genesis_hash()
    for _ in range(2):
        with pytest.raises(ChainError):
            await rpc.genesis_hash()
    assert "SECRET" not in caplog.text
    assert "SECRET" not in repr(rpc.cluster)


async def test_the_environments_proxies_are_not_used(
    node: Upstream, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        node.script(result(HASH))
        assert await rpc.genesis_hash() == HASH


async def test_a_closed_client_can_be_closed_again(node: Upstream) -> None:
    client = RpcClient(find_cluster(node.url))
    await client.close()
    node.script(result(HASH))
    await client.genesis_hash()
    await client.close()
    await client.close()
    await asyncio.to_thread(node.wait_for_connections, 0)
