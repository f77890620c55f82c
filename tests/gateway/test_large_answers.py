"""Large answers: read in pieces that hold nothing up, metered as if they were read whole, given on byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_path import only_receipt
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream, completion
from trustgate.gateway.api import large_body
from trustgate.gateway.api.large_body import DIRECT_BYTES, LargeBodyReader
from trustgate.gateway.path.large_answer import AnswerReader, LargeAnswer, take_apart
from trustgate.models.metering.whole import read_answer, read_images, read_scores

MIB = 1024 * 1024
#: As JSON writes them, and one that is longer than any server should write it.
_numbers = (st.floats(-1, 1) | st.integers(-9, 9)).map(json.dumps) | st.just("1.25e-7")
_LONG = "-0." + "12345" * 14
_vectors = st.builds(list.__add__, st.sampled_from([[], [_LONG]]), st.lists(_numbers, min_size=20, max_size=40))
_spaces = st.sampled_from(["", " ", "\n  "])
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def apart(body: bytes, *, drops_vectors: bool = False) -> LargeAnswer:
    found = asyncio.run(take_apart(body, drops_vectors=drops_vectors))
    assert found is not None, "large enough"
    assert found.hash.digest() == hashlib.sha256(body).digest()
    return found


@settings(max_examples=30, deadline=None)
@given(_vectors, st.integers(1, 6), _spaces, st.booleans(), st.integers(1, 10**6))
def test_vectors_are_cut_out_and_what_is_reported_stays(
    numbers: list[str], vectors: int, space: str, usage_first: bool, tokens: int
) -> None:
    written = ("," + space).join(numbers)
    times = 90_000 // (len(written) + 1) // vectors + 1
    vector = "[" + space + ",".join([written] * times) + "]"
    data = ",".join(f'{{"object":"embedding","index":{n},"embedding":{vector}}}' for n in range(vectors))
    usage = f'"usage":{space}{{"prompt_tokens":{space}{tokens},"total_tokens":{tokens}}}'
    parts = [usage, f'"data":[{data}]'] if usage_first else [f'"data":[{data}]', usage]
    body = ('{"object":"list","model":"e",' + ",".join(parts) + "}").encode()
    found = apart(body, drops_vectors=True)
    decoded = json.loads(found.skeleton)
    assert decoded["usage"]["prompt_tokens"] == tokens
    assert [len(each["embedding"]) > 0 for each in decoded["data"]] == [True] * vectors
    assert len(found.skeleton) < len(body) // 4 or _LONG in numbers
    whole, read = read_scores(body), read_scores(found.skeleton)
    assert (read.usage, read.model, read.failure) == (whole.usage, whole.model, whole.failure)


@pytest.mark.parametrize("text", ["a long answer. ", "é漢 ", '\\"quoted\\" ', ",".join("12345678901234567")])
def test_an_answer_without_usage_is_estimated_alike(text: str) -> None:
    body = json.dumps(completion(text * 20_000)).encode()
    whole = read_answer(body).usage_or_estimate(7).completion_tokens
    found = apart(body)
    assert abs(read_answer(found.skeleton).usage_or_estimate(7).completion_tokens - whole) <= whole // 100 + 2
    assert len(found.skeleton) < 4096


def test_images_are_counted_and_their_bytes_are_not_kept() -> None:
    body = json.dumps({"created": 1, "data": [{"b64_json": "QUJD" * MIB}] * 3, "usage": None}).encode()
    found = apart(body)
    assert len(found.skeleton) < 4096
    assert read_images(found.skeleton).usage == read_images(body).usage


_SUBTITLES = b"1\n00:00:01,000 --> 00:00:02,500\n" * 4000
_NO_STRING = b'{"a":"' + b"a" * 100_000 + b'\\x"}'
_MANY_VALUES = b"[" + b"{}," * 100_000 + b"{}]"


def test_what_is_no_json_is_read_as_it_is() -> None:
    assert apart(_SUBTITLES).skeleton == _SUBTITLES
    begun = apart(_NO_STRING).skeleton
    assert _NO_STRING.startswith(begun) and len(begun) <= DIRECT_BYTES, "what shows that it is none"


_members = st.dictionaries(st.text(max_size=3), st.none() | st.integers(0, 9) | st.text(max_size=9), max_size=4)
_documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text('ab"\\[]{},:é', max_size=2_000),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text('ab"]}', max_size=9), inner, max_size=6),
    max_leaves=40,
)


@settings(max_examples=60, deadline=None)
@given(_members, st.lists(_documents, min_size=1, max_size=5), st.integers(0, 12), st.integers(1, 4_000), st.data())
def test_of_an_answer_with_too_many_values_the_outline_is_read(
    small: dict[str, Any], large: list[Any], bound: int, step: int, data: st.DataObject
) -> None:
    members = [("usage", USAGE), *small.items(), *((f"large{n}", each) for n, each in enumerate(large))]
    document = dict(data.draw(st.permutations(members)))
    body = json.dumps(document, indent=data.draw(st.sampled_from([None, 1]))).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_body, "MOST_CONTAINERS", bound)
        patch.setattr(large_body, "MOST_VALUES", 4 * bound)
        reader = AnswerReader()
        for at in range(0, len(body), step):
            reader.feed(body[at : at + step])
    found = reader.finish()
    outline = json.loads(found.skeleton)
    assert list(outline) == [name for name in document if name in outline]
    if not reader.is_outlining:
        assert json.loads(b"".join(found.restored(found.skeleton))) == document
    # What was cut in the middle, or was too large, is not whole. All else is there as it came.
    cut = [name for name, value in document.items() if name not in outline or outline[name] != value]
    assert all(len(json.dumps(document[name])) > 16_000 or name == cut[0] or name.startswith("large") for name in cut)
    if cut and cut[0] != "usage":
        assert outline["usage"] == USAGE


@pytest.mark.parametrize("space", ["", " "])
def test_usage_at_the_end_of_a_text_with_log_probabilities_is_read(space: str) -> None:
    top = [{"token": "a", "logprob": -0.5, "bytes": [97]}] * 20
    tokens = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top}] * 3_000
    answer = completion("a" * 3_000)
    answer["choices"][0]["logprobs"] = {"content": tokens, "refusal": None}
    body = json.dumps({**answer, "usage": USAGE}, separators=("," + space, ":" + space)).encode()
    found = apart(body)
    assert len(found.skeleton) < len(body) < large_body.MOST_SKELETON_BYTES, "it is cut for its many objects"
    assert json.loads(found.skeleton)["choices"][0]["message"] == {**answer["choices"][0]["message"], "content": ANY}
    whole, read = read_answer(body), read_answer(found.skeleton)
    assert (read.usage, read.model, read.failure) == (whole.usage, whole.model, None)


@pytest.mark.parametrize(
    "body",
    [
        _MANY_VALUES,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"{" + b",".join(b'"%d":%d' % (n, n) for n in range(600_000)) + b"}",
        b"[" + b"[]," * 60_000 + b'{"a":"' + b"b" * 2_000 + b'"}]',
        b"{" + b'"a":[{}],' * 60_000 + b'"usage":1}]]]}}',
    ],
    ids=["objects", "nested lists", "nested objects", "members", "lists", "closed too often"],
)
def test_hostile_answers_leave_a_bounded_skeleton(body: bytes) -> None:
    found = apart(body)
    assert len(found.skeleton) <= large_body.MOST_SKELETON_BYTES + 512 * 1024
    read_answer(found.skeleton)


def test_no_turn_of_the_loop_reads_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"data": [{"b64_json": "QUJD" * (2 * MIB)}], "usage": USAGE}).encode()
    fed: list[tuple[int, int]] = []
    turn = 0
    feed = LargeBodyReader.feed

    def counted(reader: LargeBodyReader, data: bytes) -> None:
        fed.append((turn, len(data)))
        feed(reader, data)

    async def read() -> Any:
        nonlocal turn
        reading = asyncio.ensure_future(take_apart(body, drops_vectors=False))
        while not reading.done():
            turn += 1
            await asyncio.sleep(0)
        return await reading

    monkeypatch.setattr(LargeBodyReader, "feed", counted)
    found = asyncio.run(read())
    assert sum(size for _, size in fed) == len(body)
    assert max(size for _, size in fed) <= DIRECT_BYTES
    assert len({turn for turn, _ in fed}) == len(fed), "two pieces were read in one turn"
    assert len(found.skeleton) <= DIRECT_BYTES


# over sockets


@pytest.fixture(scope="module")
def gateway(make_module_gateway: GatewayFactory, shared_upstream: Upstream) -> Gateway:
    return make_module_gateway(upstream=shared_upstream.api_url).start()


@pytest.fixture
def tenant(gateway: Gateway, scripted: Upstream, sign_up: SignUp) -> Tenant:
    return sign_up(gateway, "--plan", "internal")


def test_a_large_chat_is_given_byte_for_byte_and_its_usage_read(tenant: Tenant, scripted: Upstream) -> None:
    body = json.dumps({**completion("é\n" * MIB), "usage": USAGE}, indent=1).encode() + b"\n"
    scripted.script(Reply.body(body))
    response = tenant.http.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO})
    assert (response.status_code, response.content) == (200, body)
    receipt = only_receipt(tenant)
    assert (receipt["prompt_tokens"], receipt["completion_tokens"], receipt["finish"]) == (7, 5, "complete")
    assert receipt["usage_source"] == "provider"


def test_large_embeddings_are_given_byte_for_byte_and_their_usage_read(tenant: Tenant, scripted: Upstream) -> None:
    vector = [0.0123456 + n / 10**6 for n in range(3072)]
    data = [{"object": "embedding", "index": n, "embedding": vector} for n in range(100)]
    usage = {"prompt_tokens": 321, "total_tokens": 321}
    body = json.dumps({"object": "list", "data": data, "model": "e", "usage": usage}).encode()
    assert len(body) > 3 * MIB
    scripted.script(Reply.body(body))
    response = tenant.http.post("/v1/embeddings", json={"model": "e", "input": ["x"] * 100})
    assert (response.status_code, response.content) == (200, body)
    receipt = only_receipt(tenant)
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (321, 0)
