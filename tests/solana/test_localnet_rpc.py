"""The local chain as a server: whatever is sent to it, it answers in the form of JSON-RPC, and goes on."""

from __future__ import annotations

import asyncio
import io
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from trustgate.formats.solana_transaction import b58encode
from trustgate.localnet import Localnet, running_localnet
from trustgate.localnet.chain import LocalChain
from trustgate.localnet.faults import RpcError
from trustgate.localnet.http import MAX_BODY_BYTES
from trustgate.localnet.methods import METHODS, call
from trustgate.localnet.rpc import answer

ADDRESS = str(Keypair.from_seed(bytes(32)).pubkey())
SIGNATURE = b58encode(bytes(range(64)))
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
JSON = {"content-type": "application/json"}


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    async with running_localnet(slot_ms=0, finality_slots=4) as running:
        yield running


@pytest.fixture(scope="module")
def chain() -> LocalChain:
    return LocalChain.open(ledger=None, genesis=ADDRESS, slot_ms=0, finality_slots=4, created_us=0)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def post(session: aiohttp.ClientSession, url: str, body: bytes | str, **options: Any) -> tuple[int, bytes]:
    async with session.post(
        url, data=io.BytesIO(body.encode() if isinstance(body, str) else body), **{"headers": JSON, **options}
    ) as response:
        return response.status, await response.read()


async def ask(chain: LocalChain, method: str, *params: Any) -> Any:
    """The answer to a call, made in process: what it sends over the wire is the same."""
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)})
    answered = json.loads(await answer(chain, body.encode()))
    assert answered["jsonrpc"] == "2.0"
    assert answered["id"] == 7
    assert ("result" in answered) != ("error" in answered)
    return answered


# HTTP


async def test_what_is_no_post_of_json_is_refused(net: Localnet, session: aiohttp.ClientSession) -> None:
    async with session.get(net.url) as response:
        assert response.status == 405
    async with session.get(f"{net.url}/health") as response:
        assert (response.status, await response.text()) == (200, "ok")
    status, _ = await post(session, net.url, "{}", headers={"content-type": "text/plain"})
    assert status == 415


async def test_a_page_in_a_browser_may_ask(net: Localnet, session: aiohttp.ClientSession) -> None:
    async with session.options(net.url, headers={"Origin": "null"}) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    async with session.post(net.url, json={}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_body_has_a_largest_size(net: Localnet, session: aiohttp.ClientSession) -> None:
    call = b'{"jsonrpc":"2.0","id":1,"method":"getHealth"}'
    status, body = await post(session, net.url, call + b" " * (MAX_BODY_BYTES - len(call)))
    assert (status, json.loads(body)["result"]) == (200, "ok")
    status, _ = await post(session, net.url, call + b" " * (MAX_BODY_BYTES - len(call) + 1))
    assert status == 413
    status, body = await post(session, net.url, call)
    assert status == 200


async def test_what_is_no_http_is_refused_without_a_word(net: Localnet, capfd: pytest.CaptureFixture[str]) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for sent, status in (
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\n\r\n", b"400"),
        (b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (head + b"Content-Length: -5\r\n\r\n{}", b"400"),
        (head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (head + b"Content-Length: 99999999\r\n\r\n" + b" " * 2 * MAX_BODY_BYTES, b"413"),
        (head + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", b"200"),
        (head + b"Content-Length: 50\r\n\r\n{}", None),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(net.url.rpartition(":")[2]))
        writer.write(sent)
        if status is not None:
            assert (await reader.readline()).split()[1] == status
        writer.close()
    assert (await ask(net.chain, "getHealth"))["result"] == "ok"
    assert capfd.readouterr() == ("", "")


# the envelope


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"17", -32600),
        (b'"getHealth"', -32600),
        (b"{}", -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
        (b'{"id":1,"method":"getHealth"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"getHealt"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"getHealth","params":{"a":1}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"getHealth","params":5}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"getHealth","params":[1,2,3,4]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"getBalance"}', -32602),
    ],
)
async def test_what_is_no_call_is_refused(
    net: Localnet, session: aiohttp.ClientSession, body: bytes, code: int
) -> None:
    status, answered = await post(session, net.url, body)
    assert status == 200
    assert json.loads(answered)["error"]["code"] == code


async def test_a_batch_is_answered_in_one(net: Localnet, session: aiohttp.ClientSession) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": "a", "method": "getSlot", "params": [{"commitment": "processed"}]},
        {"jsonrpc": "2.0", "method": "getSlot"},
        17,
        {"jsonrpc": "2.0", "id": None, "method": "getNothing"},
        {"jsonrpc": "2.0", "id": 2.5, "method": "getHealth", "params": None},
    ]
    _, body = await post(session, net.url, json.dumps(batch))
    slot, wrong, unknown, health = json.loads(body)
    assert slot == {"jsonrpc": "2.0", "id": "a", "result": net.slot}
    assert (wrong["id"], wrong["error"]["code"]) == (None, -32600)
    assert (unknown["id"], unknown["error"]["code"]) == (None, -32601)
    assert health == {"jsonrpc": "2.0", "id": 2.5, "result": "ok"}
    _, body = await post(session, net.url, '{"jsonrpc":"2.0","method":"getHealth"}')
    assert body == b""


# arguments

BAD_ARGUMENTS: list[tuple[str, list[Any], int]] = [
    ("getBalance", [5], -32602),
    ("getBalance", ["0OIl"], -32602),
    ("getBalance", [ADDRESS[:20]], -32602),
    ("getBalance", [ADDRESS, "confirmed"], -32602),
    ("getBalance", [ADDRESS, {"commitment": "sure"}], -32602),
    ("getBalance", [ADDRESS, {"commitment": ["confirmed"]}], -32602),
    ("getBalance", [ADDRESS, {"minContextSlot": 10**9}], -32016),
    ("getBalance", [ADDRESS, {"minContextSlot": -1}], -32602),
    ("getAccountInfo", [ADDRESS, {"encoding": "base32"}], -32602),
    ("getAccountInfo", [ADDRESS, {"dataSlice": {"offset": 1}}], -32602),
    ("getMultipleAccounts", [[ADDRESS] * 101], -32602),
    ("getMultipleAccounts", [ADDRESS], -32602),
    ("getProgramAccounts", [ADDRESS, {"filters": [{"memcmp": {"offset": 0, "bytes": "0"}}]}], -32602),
    ("getProgramAccounts", [ADDRESS, {"filters": [5]}], -32602),
    ("getProgramAccounts", [ADDRESS, {"filters": [{"dataSize": 1}] * 5}], -32602),
    ("getTokenAccountBalance", [ADDRESS], -32602),
    ("getTokenAccountsByOwner", [ADDRESS, {}], -32602),
    ("getTokenAccountsByOwner", [ADDRESS, {"programId": ADDRESS}], -32602),
    ("getTokenSupply", [ADDRESS], -32602),
    ("getMinimumBalanceForRentExemption", [-1], -32602),
    ("getMinimumBalanceForRentExemption", [2**64], -32602),
    ("getMinimumBalanceForRentExemption", [2**40], -32602),
    ("getMinimumBalanceForRentExemption", [True], -32602),
    ("getBlock", [2**40], -32004),
    ("getBlock", [1], -32007),
    ("getBlock", [1000, {"commitment": "processed"}], -32602),
    ("getSlotLeaders", [0, 10**6], -32602),
    ("getTransaction", ["abc"], -32602),
    ("getTransaction", [SIGNATURE, {"commitment": "processed"}], -32602),
    ("getTransaction", [SIGNATURE, {"encoding": 5}], -32602),
    ("getSignaturesForAddress", [ADDRESS, {"limit": 0}], -32602),
    ("getSignaturesForAddress", [ADDRESS, {"limit": 1001}], -32602),
    ("getSignaturesForAddress", [ADDRESS, {"before": "x"}], -32602),
    ("getSignatureStatuses", [[SIGNATURE] * 257], -32602),
    ("getSignatureStatuses", [["x"]], -32602),
    ("requestAirdrop", [ADDRESS, -5], -32602),
    ("requestAirdrop", [ADDRESS, 1], -32002),
    ("requestAirdrop", [ADDRESS, 2**63], -32002),
    ("sendTransaction", ["AAAA", {"encoding": "base64"}], -32602),
    ("sendTransaction", ["*", {"encoding": "base64"}], -32602),
    ("sendTransaction", ["0", {"encoding": "base58"}], -32602),
    ("sendTransaction", ["A" * 2000, {"encoding": "base64"}], -32602),
    ("sendTransaction", ["z" * 1683], -32602),
    ("simulateTransaction", ["AAAA", {"encoding": "base64", "sigVerify": "yes"}], -32602),
    (
        "simulateTransaction",
        ["AAAA", {"encoding": "base64", "sigVerify": True, "replaceRecentBlockhash": True}],
        -32602,
    ),
    ("getFeeForMessage", ["AAAA"], -32602),
    ("getFeeForMessage", [b64encode(b"\x80").decode()], -32602),
    ("getRecentPrioritizationFees", [[ADDRESS] * 129], -32602),
    ("isBlockhashValid", ["x"], -32602),
]


@pytest.mark.parametrize(("method", "params", "code"), BAD_ARGUMENTS)
async def test_wrong_arguments_have_the_codes_of_a_node(
    chain: LocalChain, method: str, params: list[Any], code: int
) -> None:
    answered = await ask(chain, method, *params)
    assert answered["error"]["code"] == code, answered
    assert answered["error"]["message"]


async def test_arguments_that_are_null_were_left_out(chain: LocalChain) -> None:
    for params in ([], [None], [None, None]):
        assert (await ask(chain, "getSlot", *params))["result"] == chain.slot - 4


async def test_unknown_options_are_overlooked_and_old_names_understood(chain: LocalChain) -> None:
    answered = await ask(chain, "getSlot", {"commitment": "recent", "colour": "green"})
    assert answered["result"] == chain.slot


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from([ADDRESS, SIGNATURE, "base64", "jsonParsed", "confirmed", "processed", "finalized"]),
    st.binary(max_size=60).map(lambda data: b64encode(data).decode()),
)
_names = st.sampled_from(
    (
        *("commitment", "encoding", "minContextSlot", "dataSlice", "offset", "length", "filters", "memcmp", "bytes"),
        *("limit", "before", "until", "accounts", "addresses", "sigVerify", "replaceRecentBlockhash", "mint"),
        *("programId", "dataSize", "skipPreflight", "searchTransactionHistory", "maxSupportedTransactionVersion"),
    )
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
_calls = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "id": _scalars, "method": st.sampled_from(sorted(METHODS))},
    optional={"params": st.lists(_values, max_size=4)},
)


@settings(max_examples=250, deadline=None)
@given(body=st.one_of(_calls, st.lists(_calls | _values, max_size=3), _values).map(json.dumps) | st.binary(max_size=40))
def test_whatever_is_asked_something_sensible_is_answered(chain: LocalChain, body: str | bytes) -> None:
    answered = asyncio.run(answer(chain, body.encode() if isinstance(body, str) else body))
    document = json.loads(answered) if answered else []
    for each in document if isinstance(document, list) else [document]:
        assert each["jsonrpc"] == "2.0"
        assert each.get("error", {}).get("code") != -32603, each


def simulated(chain: LocalChain, text: str, options: dict[str, Any]) -> str:
    try:
        return "run" if "err" in call(chain, "simulateTransaction", [text, options])["value"] else "nonsense"
    except RpcError as error:
        return "refused" if error.code == -32602 else error.message


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_transaction_is_refused_or_run(chain: LocalChain, data: st.DataObject) -> None:
    """Nothing in it makes the chain stumble: where its parts do not fit it says so, and else it simulates it."""
    payer = Keypair()
    call(chain, "requestAirdrop", [str(payer.pubkey()), 10**9])
    memo = Instruction(MEMO, b"hello", [AccountMeta(payer.pubkey(), True, False)])
    blockhash = Hash.from_string(call(chain, "getLatestBlockhash", [])["value"]["blockhash"])
    kind = data.draw(st.sampled_from([Message.new_with_blockhash, None]))
    message = (
        kind([memo], payer.pubkey(), blockhash)
        if kind is not None
        else MessageV0.try_compile(payer.pubkey(), [memo], [], blockhash)
    )
    raw = bytearray(bytes(VersionedTransaction(message, [payer])))
    # The places that give structure: counts, header and indexes, and some of the keys.
    structure = st.sampled_from([0, *range(65, 72), *range(len(raw) - 16, len(raw))])
    for place in data.draw(st.sets(structure, min_size=1, max_size=3)):
        raw[place] ^= data.draw(st.integers(1, 255))
    text = b64encode(raw).decode()
    for options in ({"encoding": "base64"}, {"encoding": "base64", "replaceRecentBlockhash": True}):
        assert simulated(chain, text, options) in ("refused", "run")
    with pytest.raises(RpcError) as refused:
        call(chain, "sendTransaction", [text, {"encoding": "base64"}])
    assert refused.value.code in (-32602, -32003)
