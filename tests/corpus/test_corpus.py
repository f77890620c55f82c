"""Every answer of the corpus through one real gateway: what the client sees, what the receipt says, what it costs.

A case has a model of its own, so that no case rests another's target. What holds for all of them is checked for all:
an error has its API's form, a stream is a stream and ends once, the upstream's address and key stay here, and the cost
is the price of what the receipt counts. In the end the books must balance over all of it.
"""

from __future__ import annotations

import io
import json
import re
import threading
import wave
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.corpus import cases
from tests.corpus.cases import Case, read_corpus
from tests.corpus.seen import error_events, events_of, is_events, text_of
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import Recorded, Reply, Upstream, completion, delta, usage_chunk

CASES = read_corpus()

#: The least the corpus holds: it grows, and is never empty by an accident of reading it.
LEAST_CASES = 490
LEAST_SERVERS = 39

CREDENTIAL = "sk-corpus-upstream-secret"
#: An address inside the operator's network, which upstreams like to put into their errors.
INSIDE = "10.1.2.3"

FALLBACK_MODEL = "fallback-model"
FALLBACK_TEXT = "from the fallback"
FALLBACK_USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}

HELLO = [{"role": "user", "content": "Say four little words."}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "Say four little words."},
    "/v1/responses": {"input": "Say four little words."},
    "/v1/messages": {"messages": HELLO, "max_tokens": 100},
    "/v1/embeddings": {"input": "a"},
    "/v1/moderations": {"input": "a"},
    "/v1/rerank": {"query": "q", "documents": ["a", "b"]},
    "/v1/images/generations": {"prompt": "a blue square"},
    "/v1/audio/speech": {"input": "Hello", "voice": "alloy"},
}


class Corpus:
    """The gateway, the upstream that plays every server, and the callers."""

    def __init__(self, gateway: Gateway, upstream: Upstream, keys: dict[bool, str]) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.clients = {
            tight: httpx.Client(
                base_url=gateway.base_url, headers={"authorization": f"Bearer {key}"}, timeout=30.0, trust_env=False
            )
            for tight, key in keys.items()
        }
        host = upstream.url.partition("://")[2]
        self.words = {"address": upstream.api_url, "host": host, "credential": CREDENTIAL}
        self.secrets = (host, CREDENTIAL, INSIDE)
        self.run: list[str] = []
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._by_model = {case.upstream_model: case for case in CASES}
        upstream.default = self._answer

    def ask(self, case: Case) -> tuple[httpx.Response, list[Recorded], list[Recorded]]:
        """The client's answer, and what the upstream and the fallback were asked."""
        self.upstream.requests.clear()
        client = self.clients[case.tight]
        if case.path.startswith("/v1/audio/tr"):
            fields = {"model": case.model, **({"stream": "true"} if case.stream else {}), **case.form}
            files = {"file": ("speech.wav", recording(case.recording_ms), "audio/wav")}
            response = client.post(case.path, data=fields, files=files)
        else:
            members = {"model": case.model, **BODIES[case.path], **({"stream": True} if case.stream else {})}
            members.update(case.request)
            body = {name: value for name, value in members.items() if value is not None}
            response = client.post(case.path, json=body)
        self.run.append(case.id)
        sent = [(model_of(request), request) for request in self.upstream.requests]
        return (
            response,
            [request for model, request in sent if model == case.upstream_model],
            [request for model, request in sent if model == FALLBACK_MODEL],
        )

    def receipt(self, case: Case, response: httpx.Response) -> dict[str, Any]:
        """The receipt that the answer names, as soon as it can be read."""
        path = f"/v1/receipts/{response.headers['x-trustgate-receipt']}"
        client = self.clients[case.tight]
        wait_until(lambda: client.get(path).status_code == 200, "the receipt", timeout_s=10)
        receipt: dict[str, Any] = client.get(path).json()["receipt"]
        return receipt

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def _answer(self, request: Recorded) -> Reply:
        model = model_of(request)
        if model == FALLBACK_MODEL:
            return answer_well(request)
        with self._lock:
            number = self._asked[model]
            self._asked[model] += 1
        case = self._by_model.get(model)
        if case is None:
            return Reply.error(404, f"no case has the model {model}")
        return case.answer(number).reply({**self.words, "model": model})


def model_of(request: Recorded) -> str:
    """The model that a request names, in JSON or in a form."""
    if (request.header("content-type") or "").startswith("multipart/"):
        found = re.search(rb'name="model"\r\n(?:[^\r]+\r\n)*\r\n([^\r]*)\r\n', request.body)
        return "" if found is None else found[1].decode()
    # The gateway looks again, after some seconds, at a Response that its server called unfinished: without a body.
    return str(request.json().get("model", "")) if request.body else ""


def answer_well(request: Recorded) -> Reply:
    """What the fallback answers to a chat."""
    if not request.json().get("stream"):
        return Reply.json({**completion(FALLBACK_TEXT), "usage": FALLBACK_USAGE})
    last = delta(None, finish_reason="stop")
    return Reply.sse([delta(FALLBACK_TEXT, role="assistant"), last, usage_chunk(FALLBACK_USAGE), b"data: [DONE]\n\n"])


def recording(length_ms: int) -> bytes:
    """A silent recording of that length, RIFF WAVE, 8 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(8_000)
        writer.writeframes(b"\x80" * (8 * length_ms))
    return file.getvalue()


@pytest.fixture(scope="module")
def corpus(make_module_gateway: GatewayFactory) -> Iterator[Corpus]:
    yield from running(make_module_gateway)


@pytest.fixture(scope="module")
def corpus_of_nonsense(make_module_gateway: GatewayFactory) -> Iterator[Corpus]:
    """Another such gateway, for counts that may break the books: what they break is theirs alone."""
    yield from running(make_module_gateway)


def running(make_gateway: GatewayFactory) -> Iterator[Corpus]:
    upstream = Upstream().start()
    gateway = make_gateway(
        upstream=upstream.api_url,
        environment={
            "UPSTREAM_KEY": CREDENTIAL,
            "TRUSTGATE_UPSTREAM_KEY_ENV": "UPSTREAM_KEY",
            "TRUSTGATE_UPSTREAM_RETRIES": "1",
        },
    ).start()
    made = None
    try:
        made = Corpus(gateway, upstream, set_up(gateway))
        yield made
    finally:
        if made is not None:
            made.close()
        upstream.stop()


def set_up(gateway: Gateway) -> dict[bool, str]:
    """The passports and the callers: gives the keys, by whether their plan is tight."""
    units = ["--image-price", "0.04", "--audio-second-price", "0.0001", "--character-price", "15"]
    prices = ["--input-price", "1", "--cached-input-price", "0.1", "--output-price", "2", *units]
    gateway.cli("passport", "add", "fallback", "--api-model-id", FALLBACK_MODEL, *prices)
    gateway.cli("passport", "add", "corpus/*", "--api-model-id", "*", *prices)
    gateway.cli("passport", "add", "dear/*", "--api-model-id", "*", *prices, "--input-price", "1.5")
    gateway.cli("passport", "add", "backed/*", "--api-model-id", "*", *prices, "--fallback", "fallback")
    gateway.cli("plan", "add", "tight", "--max-tokens", "100", "--features", "*")
    return {False: gateway.add_tenant("wide", plan="internal"), True: gateway.add_tenant("narrow", plan="tight")}


def test_the_corpus_is_there() -> None:
    assert len(CASES) >= LEAST_CASES
    assert len({case.server for case in CASES}) >= LEAST_SERVERS
    names = Counter(case.id for case in CASES)
    assert [name for name, count in names.items() if count > 1] == [], "a name is given twice"


def test_the_data_does_not_contradict_itself() -> None:
    wrong = {case.id: why for case in CASES if (why := contradiction(case))}
    assert wrong == {}


def contradiction(case: Case) -> str:
    want = case.want
    if not case.why or not re.fullmatch(r"[a-z0-9-]+", case.name):
        return "it has a reason, and a name of words with dashes"
    exact = [count for count in (want.prompt, want.completion) if isinstance(count, int)]
    if want.cost_nano_usd is None or len(exact) < 2:
        return ""
    units = (want.images, want.audio_ms, want.characters)
    right = cases.cost(exact[0], want.cached or 0, exact[1], *units)
    return "" if want.cost_nano_usd == right else f"the cost of these counts is {right}"


@pytest.mark.parametrize("case", [case for case in CASES if not case.nonsense], ids=lambda case: case.id)
def test_an_answer(corpus: Corpus, case: Case) -> None:
    check(corpus, case)


@pytest.mark.parametrize("case", [case for case in CASES if case.nonsense], ids=lambda case: case.id)
def test_an_answer_with_impossible_counts(corpus_of_nonsense: Corpus, case: Case) -> None:
    check(corpus_of_nonsense, case)


@pytest.mark.parametrize("case", [case for case in CASES if case.want.sent_last_without], ids=lambda case: case.id)
def test_what_a_server_refuses_is_not_sent_again(corpus: Corpus, case: Case) -> None:
    corpus.ask(case)
    response, asked, _ = corpus.ask(case)
    assert (response.status_code, len(asked)) == (200, 1), "its refusal is remembered"
    assert not members_of(asked[0]) & set(case.want.sent_last_without)


def check(corpus: Corpus, case: Case) -> None:
    """Ask, and look at everything: what the client sees, what went upstream, what the receipt says."""
    response, asked, asked_elsewhere = corpus.ask(case)
    want = case.want
    statuses = want.status if isinstance(want.status, tuple) else (want.status,)
    assert response.status_code in statuses, response.text[:2000]
    check_form(case, response)
    shown = response.text + str(response.headers)
    assert [secret for secret in corpus.secrets if secret in shown] == [], "what the client need not know stays here"
    check_seen(case, response, corpus.words)
    calls = want.calls if isinstance(want.calls, tuple) else (want.calls,)
    assert (len(asked) in calls, len(asked_elsewhere)) == (True, want.fallback_calls), f"asked {len(asked)} times"
    check_sent(case, asked)
    if asked:
        check_receipt(case, response, corpus.receipt(case, response))


def check_form(case: Case, response: httpx.Response) -> None:
    """What holds for every answer, whatever the case."""
    assert "content-encoding" not in response.headers
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["message"]
        members = {"message", "type"} if case.path == "/v1/messages" else {"message", "type", "param", "code"}
        assert set(error) == members
        return
    if not case.path.startswith("/v1/audio/"):
        assert is_events(response) == case.stream, response.headers["content-type"]
    if not is_events(response):
        return
    events = events_of(response.content)
    complete = case.want.finish in ("", "complete")
    assert bool(error_events(events)) != complete, response.text[-2000:]
    if case.path.endswith("/completions") and complete:
        ends = [number for number, event in enumerate(events) if event == "[DONE]"]
        assert ends == [len(events) - 1] or (not ends and not case.want.done), response.text[-2000:]


def check_seen(case: Case, response: httpx.Response, words: dict[str, str]) -> None:
    want = case.want
    if want.text is not None:
        assert text_of(case.path, response) == want.text
    assert [said for said in want.says if said not in response.text] == [], response.text[:2000]
    assert [said for said in want.says_not if said in response.text] == [], response.text[:2000]
    if want.unchanged:
        assert response.content == case.answer(99).content(words)
    if want.client_body is not None:
        assert response.content == want.client_body.encode()
    if want.retry_after is not None:
        least, most = want.retry_after
        assert least <= int(response.headers["retry-after"]) <= most
    if want.code is not None:
        assert response.json()["error"]["code"] == want.code


def members_of(request: Recorded) -> set[str]:
    """The members of a JSON body, or the fields of a form."""
    if request.body.startswith(b"{"):
        return set(json.loads(request.body))
    return {name.decode() for name in re.findall(rb'name="([^"]+)"', request.body)}


def check_sent(case: Case, asked: list[Recorded]) -> None:
    if case.want.sent_last_without:
        assert not members_of(asked[-1]) & set(case.want.sent_last_without)
    for request in asked:
        sent = members_of(request)
        assert set(case.want.sent_has) <= sent
        assert not sent & set(case.want.sent_without)
        numbers = json.loads(request.body) if case.want.sent_most else {}
        assert {name: most for name, most in case.want.sent_most.items() if numbers.get(name, most) > most} == {}


def check_receipt(case: Case, response: httpx.Response, receipt: dict[str, Any]) -> None:
    want = case.want
    if response.status_code >= 400:
        assert (receipt["status"], receipt["finish"]) == (response.status_code, want.finish or "upstream_error")
        assert receipt["cost_nano_usd"] == 0, "what failed is not charged"
        assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (0, 0)
        return
    assert receipt["finish"] == (want.finish or "complete")
    counts = {"prompt_tokens": want.prompt, "completion_tokens": want.completion}
    counts |= {"cached_tokens": want.cached, "reasoning_tokens": want.reasoning}
    wrong = {name: (receipt[name], count) for name, count in counts.items() if not fits(receipt[name], count)}
    assert wrong == {}, "what the receipt says, and what it should"
    total = receipt["prompt_tokens"] + receipt["completion_tokens"]
    assert fits(total, want.total), total
    if want.usage_source:
        assert receipt["usage_source"] == want.usage_source
    used = (receipt["prompt_tokens"], receipt["cached_tokens"], receipt["completion_tokens"])
    if not case.nonsense:
        assert receipt["cost_nano_usd"] == cases.cost(*used, want.images, want.audio_ms, want.characters)
    if want.cost_nano_usd is not None:
        assert receipt["cost_nano_usd"] == want.cost_nano_usd


def fits(count: int, wanted: cases.Count | None) -> bool:
    if wanted is None:
        return True
    least, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    return least <= count <= most


def test_the_books_balance_over_all_of_it(corpus: Corpus) -> None:
    assert corpus.run, "this looks at what the cases above left"
    assert_books_balance(corpus.gateway)


def test_the_books_balance_whatever_was_claimed(corpus_of_nonsense: Corpus) -> None:
    assert corpus_of_nonsense.run, "this looks at what the cases above left"
    assert_books_balance(corpus_of_nonsense.gateway)


def assert_books_balance(gateway: Gateway) -> None:
    """Now, and after the next start: what was claimed can be kept, listed and read again."""
    for _ in range(2):
        assert gateway.cli_json("doctor", "--books")["ok"] is True
        assert gateway.cli_json("receipt", "list", "--limit", "10")["receipts"]
        assert gateway.stop() == 0
        gateway.start()
