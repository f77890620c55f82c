"""What batches may use: limits of each line, all lines held to the end, and the end charged unasked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_batches import batch_object, file_object, lines, upload
from tests.gateway.test_path import error_of, receipt_of
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import Gate, Recorded, Reply, Upstream

#: Each line's prompt is some 12 tokens; the completion is what it asks for.
ASKED = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
MODEL = "batched"


_numbers = itertools.count(1)


class BatchServer:
    """An upstream that keeps files and batches. A batch goes on until ``finish``."""

    def __init__(self) -> None:
        self.ended: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        #: The gateway's own look at this batch waits at the gate.
        self.held_look = ""
        self.look = Gate()

    def __call__(self, request: Recorded) -> Reply:
        path = request.path.removeprefix("/v1")
        if path.startswith("/messages/batches"):
            return self._messages(request, path.removeprefix("/messages/batches").strip("/"))
        if request.method == "POST" and path == "/files":
            return Reply.json(file_object(f"file-{next(_numbers)}"))
        if request.method == "POST" and path == "/batches":
            return Reply.json(batch_object(f"batch-{next(_numbers)}", "validating"))
        folder, _, object_id = path.strip("/").partition("/")
        if object_id == self.held_look and object_id in self.ended and request.header("x-request-id") is None:
            return Reply.raw(self.look, *Reply.json(self.ended[object_id]).steps)
        if folder == "batches":
            return Reply.json(self.ended.get(object_id) or batch_object(object_id, "in_progress"))
        return Reply.body(
            self.files.get(object_id.removesuffix("/content"), b""), content_type="application/octet-stream"
        )

    def _messages(self, request: Recorded, rest: str) -> Reply:
        """Anthropic's."""
        object_id, _, verb = rest.partition("/")
        if not object_id and request.method == "GET":
            known = [message_batch(f"msgbatch_{name}", "ended") for name in ("strangers", *reversed(self.ended))]
            return Reply.json({"data": known, "has_more": False, "first_id": "x", "last_id": "y"})
        if verb == "results":
            return Reply.body(self.files.get(object_id, b""), content_type="application/x-jsonl")
        if request.method == "DELETE":
            return Reply.json({"id": object_id, "type": "message_batch_deleted"})
        if not object_id:
            return Reply.json(message_batch(f"msgbatch_{next(_numbers)}"))
        status = "ended" if object_id in self.ended else "canceling" if verb else "in_progress"
        return Reply.json(message_batch(object_id, status))

    def finish(self, batch_id: str, status: str = "completed", **members: Any) -> None:
        self.ended[batch_id] = batch_object(batch_id, status, **members)


def message_batch(object_id: str, status: str = "in_progress") -> dict[str, Any]:
    """As Anthropic has it (Anthropic API reference, "Message Batches")."""
    return {
        "id": object_id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": {"processing": 0, "succeeded": 1, "errored": 1, "canceled": 0, "expired": 0},
        "created_at": "2026-11-29T00:00:00Z",
        "results_url": f"https://elsewhere.example/{object_id}/results" if status == "ended" else None,
    }


@pytest.fixture(scope="module")
def server_upstream() -> Iterator[Upstream]:
    upstream = Upstream().start()
    yield upstream
    upstream.stop()


@pytest.fixture
def server(server_upstream: Upstream) -> BatchServer:
    server = BatchServer()
    server_upstream.requests.clear()
    server_upstream.default = server
    return server


@pytest.fixture(scope="module")
def place(make_module_gateway: GatewayFactory, server_upstream: Upstream) -> Gateway:
    """A gateway that looks after its batches every 0.1 s."""
    gateway = make_module_gateway(
        upstream=server_upstream.api_url, environment={"TRUSTGATE_UPSTREAM_BACKGROUND_INTERVAL_S": "0.1"}
    ).start()
    gateway.cli("passport", "add", MODEL, "--input-price", "1", "--output-price", "10")
    gateway.cli("plan", "add", "small", "--max-tokens", "50", "--tokens-per-day", "10000", "--models", MODEL)
    gateway.cli("plan", "add", "cents", "--usd-per-month", "0.10")
    gateway.cli("plan", "add", "plain", "--features", "logprobs", "--endpoints", "files,batches,chat.completions")
    return gateway


@pytest.fixture
def small(place: Gateway, server: BatchServer, sign_up: SignUp) -> Tenant:
    return sign_up(place, "--plan", "small")


def start(tenant: Tenant, content: bytes) -> httpx.Response:
    uploaded = upload(tenant, content)
    assert uploaded.status_code == 200, uploaded.text
    return tenant.http.post("/v1/batches", json={"input_file_id": uploaded.json()["id"], **ASKED})


def held(tenant: Tenant) -> int:
    return tenant.used()["day"]["tokens"]


# each line


@pytest.mark.parametrize(
    ("plan", "content", "code"),
    [
        ("small", lines(MODEL, max_tokens=51), "max_tokens_exceeded"),
        ("small", lines(MODEL, max_tokens=1, max_completion_tokens=51), "max_tokens_exceeded"),
        ("small", lines("o1-pro", max_tokens=5), "model_not_allowed"),
        # The file cannot be given a bound on its way.
        ("small", lines(MODEL), "invalid_batch_file"),
        ("small", lines(MODEL, max_tokens=-1), "invalid_batch_file"),
        ("small", lines(MODEL, n_predict=5), "invalid_batch_file"),
        ("cents", lines(MODEL), "invalid_batch_file"),
        ("plain", lines(MODEL, tools=[{"type": "function", "function": {"name": "f"}}]), "feature_not_allowed"),
        ("plain", lines(MODEL).replace(b"chat/completions", b"responses"), "endpoint_not_allowed"),
    ],
)
def test_limits_hold_for_each_line(
    place: Gateway,
    server: BatchServer,
    server_upstream: Upstream,
    sign_up: SignUp,
    plan: str,
    content: bytes,
    code: str,
) -> None:
    tenant = sign_up(place, "--plan", plan)
    good = lines(MODEL, max_tokens=5) if b"responses" not in content else b""
    refused = upload(tenant, good + content.replace(b'"messages"', b'"input"') if not good else good + content)
    assert (refused.status_code, error_of(refused)["code"]) == (400 if code == "invalid_batch_file" else 403, code)
    assert error_of(refused)["message"].startswith(f"Line {2 if good else 1} of the batch's file")
    assert server_upstream.requests == []


def test_a_narrower_key_cannot_start_what_a_wider_one_uploaded(
    place: Gateway, server: BatchServer, sign_up: SignUp
) -> None:
    tenant = sign_up(place)
    file_id = upload(tenant, lines(MODEL, max_tokens=51)).json()["id"]
    for limit in (("--max-tokens", "50"), ("--endpoints", "files,batches"), ("--models", "x")):
        secret = place.cli_json("key", "create", tenant.name, *limit)["key"]["secret"]
        with tenant.client(secret) as http:
            refused = http.post("/v1/batches", json={"input_file_id": file_id, **ASKED})
        assert refused.status_code == 403, limit
    assert tenant.http.post("/v1/batches", json={"input_file_id": file_id, **ASKED}).status_code == 200


# the sum of all lines


def test_the_sum_of_all_lines_is_held(small: Tenant, server_upstream: Upstream) -> None:
    refused = start(small, lines(*[MODEL] * 200, max_tokens=50))
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
    assert [each.path for each in server_upstream.requests if each.method == "POST"] == ["/v1/files"]
    assert held(small) == 0


def test_a_budget_of_cents_starts_no_dollars(place: Gateway, server: BatchServer, sign_up: SignUp) -> None:
    tenant = sign_up(place, "--plan", "cents")
    # 100 lines of 100,000 tokens at 10 USD a million are 100 USD.
    refused = start(tenant, lines(*[MODEL] * 100, max_tokens=100_000))
    assert (refused.status_code, error_of(refused)["code"]) == (429, "insufficient_quota")
    assert start(tenant, lines(*[MODEL] * 10, max_tokens=100)).status_code == 200


def test_what_is_held_stays_held_to_the_end_and_over_a_kill(place: Gateway, server: BatchServer, small: Tenant) -> None:
    batch_id = start(small, lines(*[MODEL] * 100, max_tokens=50)).json()["id"]
    worst = held(small)
    assert 5000 < worst < 10_000
    assert start(small, lines(*[MODEL] * 100, max_tokens=50)).status_code == 429
    books = place.cli("doctor", "--books", check=False)
    assert books.returncode == 0, books.stdout
    place.kill()
    place.start()
    assert held(small) == worst
    server.finish(batch_id, usage={"input_tokens": 700, "output_tokens": 300, "total_tokens": 1000})
    wait_until(lambda: held(small) == 1000, "the batch is charged")
    assert [(each["endpoint"], each["prompt_tokens"], each["completion_tokens"]) for each in small.receipts()][-1] == (
        "batches",
        700,
        300,
    )
    books = place.cli("doctor", "--books", check=False)
    assert books.returncode == 0, books.stdout


def test_a_batch_is_held_on_budgets_too(place: Gateway, server: BatchServer, sign_up: SignUp) -> None:
    tenant = sign_up(place)
    place.cli("budget", "add", "batches", "--tokens", "10000", "--per", "total", "--tenant", tenant.name)

    def stands() -> tuple[int, int]:
        (standing,) = place.cli_json("budget", tenant.name)["budgets"]
        return standing["used"], standing["held"]

    batch_id = start(tenant, lines(*[MODEL] * 100, max_tokens=50)).json()["id"]
    used, held_now = stands()
    assert used == 0 and 5000 < held_now < 10_000
    refused = start(tenant, lines(*[MODEL] * 100, max_tokens=50))
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
    place.kill()
    place.start()
    assert stands() == (0, held_now)
    place.cli("budget", "set", "batches", "--per", "month")
    assert stands() == (0, held_now)
    server.finish(batch_id, usage={"input_tokens": 700, "output_tokens": 300, "total_tokens": 1000})
    wait_until(lambda: stands() == (1000, 0), "the batch is charged")
    place.cli("budget", "remove", "batches")


# the end


def test_a_batch_that_nobody_asks_about_is_charged_by_its_results(
    place: Gateway, server: BatchServer, sign_up: SignUp
) -> None:
    tenant = sign_up(place)
    batch_id = start(tenant, lines(MODEL, MODEL, MODEL)).json()["id"]
    results = [
        {"custom_id": "r0", "response": {"status_code": 200, "body": {"usage": _usage(10, 5)}}},
        {"custom_id": "r1", "response": {"status_code": 200, "body": {"usage": _usage(20, 7)}}},
        {"custom_id": "r2", "response": None, "error": {"code": "batch_expired"}},
    ]
    server.files["output"] = b"\n".join(json.dumps(each).encode() for each in results) + b"\n\nnonsense\n"
    server.finish(batch_id, output_file_id="output")
    wait_until(lambda: held(tenant) == 42, "the batch is charged")
    [_, _, charged] = tenant.receipts()
    assert (charged["prompt_tokens"], charged["completion_tokens"], charged["usage_source"]) == (30, 12, "provider")
    assert charged["cost_nano_usd"] == 30 * 1_000 + 12 * 10_000
    assert (charged["model"], charged["key"], charged["status"]) == (MODEL, tenant.key_id, 200)
    # Once.
    shown = receipt_of(tenant, tenant.http.get(f"/v1/batches/{batch_id}"))["receipt"]
    assert (shown["prompt_tokens"], shown["cost_nano_usd"], held(tenant)) == (0, 0, 42)


def test_a_batch_whose_end_is_seen_twice_at_once_is_charged_once(
    place: Gateway, server: BatchServer, sign_up: SignUp
) -> None:
    tenant = sign_up(place)
    batch_id = start(tenant, lines(MODEL)).json()["id"]
    server.held_look = batch_id
    server.finish(batch_id, usage=_usage(10, 5))
    # The gateway's look has begun; a client's overtakes it.
    server.look.wait_reached()
    shown = receipt_of(tenant, tenant.http.get(f"/v1/batches/{batch_id}"))["receipt"]
    assert (shown["prompt_tokens"], shown["completion_tokens"]) == (10, 5)
    server.look.open()
    # What is started later is looked at later.
    next_id = start(tenant, lines(MODEL)).json()["id"]
    server.finish(next_id, usage=_usage(1, 1))
    wait_until(lambda: held(tenant) == 17, "the batches are charged")
    assert sum(each["prompt_tokens"] for each in tenant.receipts()) == 11


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_a_batch_that_came_to_nothing_costs_nothing(small: Tenant, server: BatchServer, status: str) -> None:
    batch_id = start(small, lines(*[MODEL] * 10, max_tokens=50)).json()["id"]
    assert held(small) > 500
    server.finish(batch_id, status)
    wait_until(lambda: held(small) == 0, "the batch is charged")
    assert small.receipts()[-1]["cost_nano_usd"] == 0


def test_a_batch_whose_results_tell_nothing_is_charged_by_estimate(small: Tenant, server: BatchServer) -> None:
    batch_id = start(small, lines(*[MODEL] * 10, max_tokens=50)).json()["id"]
    worst = held(small)
    server.files["mute"] = b'{"custom_id":"r0","response":{"body":{}}}\n'
    server.finish(batch_id, output_file_id="mute", request_counts={"total": 10, "completed": 5, "failed": 5})
    wait_until(lambda: held(small) == worst // 2, "the batch is charged")
    assert small.receipts()[-1]["usage_source"] == "estimate"


def test_of_a_batchs_lines_what_failed_costs_nothing_and_what_is_silent_an_estimate(
    place: Gateway, server: BatchServer, sign_up: SignUp
) -> None:
    """As for requests by themselves; the tier of the lines is the batch's."""
    tenant = sign_up(place)
    batch_id = start(tenant, lines(MODEL, MODEL, MODEL)).json()["id"]
    failed = {"error": {"message": "died", "type": "server_error"}, "usage": _usage(4_000, 4_000)}
    told = {"choices": [{"message": {"content": "Hi"}}], "usage": _usage(10, 5), "service_tier": "batch"}
    silent = {"choices": [{"message": {"content": "word " * 200}}]}
    bodies = [(500, failed), (200, silent), (200, told)]
    results = [{"response": {"status_code": status, "body": body}} for status, body in bodies]
    server.files["mixed"] = b"\n".join(json.dumps(each).encode() for each in results)
    server.finish(batch_id, output_file_id="mixed")
    wait_until(lambda: len(tenant.receipts()) == 3, "the batch is charged")
    [*_, charged] = tenant.receipts()
    assert 10 < charged["prompt_tokens"] < 100
    assert 150 < charged["completion_tokens"] < 400
    assert (charged["usage_source"], charged["service_tier"]) == ("estimate", "batch")


@pytest.mark.parametrize("bad", ["b" * 257, "batch\n1/é", "", None], ids=["long", "control", "empty", "strangers"])
@pytest.mark.parametrize("kind", ["batch", "message_batch", "response"])
def test_work_whose_id_cannot_be_kept_is_refused_and_ended(
    place: Gateway, server: BatchServer, server_upstream: Upstream, sign_up: SignUp, kind: str, bad: str | None
) -> None:
    """It could never be charged, and what is held for it would stay held."""
    tenant = sign_up(place)
    path = {"batch": "/v1/batches", "message_batch": "/v1/messages/batches", "response": "/v1/responses"}[kind]
    object_id = f"taken-{kind}-{tenant.name}" if bad is None else bad
    cancelled: list[str] = []

    def answer(request: Recorded) -> Reply:
        if request.method == "POST" and request.path.endswith("/cancel"):
            cancelled.append(request.target)
        elif request.path == path and request.method == "POST":
            return Reply.json({"id": object_id, "object": kind, "status": "queued", "output": []})
        elif path in request.path:
            return Reply.json({"id": object_id, "object": kind, "status": "in_progress"})
        return server(request)

    server_upstream.default = answer

    def begin(tenant: Tenant) -> httpx.Response:
        if kind == "batch":
            return start(tenant, lines(MODEL, max_tokens=5))
        if kind == "message_batch":
            return batch_messages(tenant, message())
        return tenant.http.post(path, json={"model": MODEL, "input": "x", "background": True})

    if bad is None:
        assert begin(sign_up(place)).status_code == 200
    refused = begin(tenant)
    assert refused.status_code == 502, refused.text
    assert "whose id cannot be kept" in refused.json()["error"]["message"]
    assert held(tenant) == 0
    assert tenant.receipts()[-1]["finish"] == "upstream_error"
    if bad:
        wait_until(lambda: cancelled == [f"{path}/{quote(bad, safe='')}/cancel"], "it to be ended upstream")
    else:
        assert cancelled == []


def test_a_file_whose_id_cannot_be_kept_is_refused(
    place: Gateway, server_upstream: Upstream, server: BatchServer, sign_up: SignUp
) -> None:
    """A request could not name it again. A response that is at its end is an answer all the same."""
    tenant = sign_up(place)
    bad = "x" * 257
    done = {"id": bad, "object": "response", "status": "completed", "output": [], "usage": _usage(3, 2)}

    def answer(request: Recorded) -> Reply:
        return Reply.json(file_object(bad) if request.path == "/v1/files" else done)

    server_upstream.default = answer
    refused = upload(tenant, b"x", "user_data")
    assert (refused.status_code, error_of(refused)["code"]) == (502, "upstream_error")
    answered = tenant.http.post("/v1/responses", json={"model": MODEL, "input": "x"})
    assert (answered.status_code, answered.json()["id"]) == (200, bad)


# batches of messages


def message(custom_id: str = "a", **params: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "params": {"model": MODEL, "max_tokens": 50, "messages": HELLO, **params}}


def posted(upstream: Upstream) -> list[Recorded]:
    """Without the gateway's own looks."""
    return [each for each in upstream.requests if each.method == "POST"]


def batch_messages(tenant: Tenant, *requests: Any) -> httpx.Response:
    return tenant.http.post("/v1/messages/batches", json={"requests": requests})


def test_a_batch_of_messages_is_held_its_tenants_and_charged_by_its_results(
    place: Gateway, server: BatchServer, server_upstream: Upstream, sign_up: SignUp
) -> None:
    tenant, stranger = sign_up(place), sign_up(place)
    made = batch_messages(tenant, message("a"), message("b", max_tokens=40))
    [sent] = posted(server_upstream)
    assert (sent.path, sent.json()) == (
        "/v1/messages/batches",
        {"requests": [message("a"), message("b", max_tokens=40)]},
    )
    assert sent.header("anthropic-version") is not None
    mine = made.json()["id"]
    receipt = receipt_of(tenant, made)["receipt"]
    assert (receipt["endpoint"], receipt["model"], receipt["cost_nano_usd"]) == ("batches", MODEL, 0)
    assert held(tenant) >= 90
    path = f"/v1/messages/batches/{mine}"
    for method, rest in (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")):
        refused = stranger.http.request(method, path + rest)
        assert (refused.status_code, refused.json()["error"]["type"]) == (404, "not_found_error"), (method, rest)
    assert stranger.http.get("/v1/messages/batches").json()["data"] == []
    assert tenant.http.post(f"{path}/cancel").json()["processing_status"] == "canceling"
    unsettled = tenant.http.delete(path)
    assert (unsettled.status_code, "not settled" in unsettled.json()["error"]["message"]) == (409, True)
    usage = {"input_tokens": 100, "output_tokens": 50}
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "usage": usage}
    results = [
        {"custom_id": "a", "result": {"type": "succeeded", "message": answer}},
        {"custom_id": "b", "result": {"type": "errored", "error": {"type": "error"}}},
    ]
    server.files[mine] = b"".join(json.dumps(each).encode() + b"\n" for each in results)
    server.finish(mine)
    server.ended[mine.removeprefix("msgbatch_")] = {}
    wait_until(lambda: held(tenant) == 150, "the batch is charged")
    charged = tenant.receipts()[-1]
    assert (charged["prompt_tokens"], charged["completion_tokens"], charged["service_tier"]) == (100, 50, "batch")
    # The upstream's address is not told: clients follow this one.
    assert tenant.http.get(path).json()["results_url"] == f"{path}/results"
    [listed] = tenant.http.get("/v1/messages/batches?limit=5").json()["data"]
    assert (listed["id"], listed["results_url"]) == (mine, f"{path}/results")
    assert tenant.http.get(f"{path}/results").content == server.files[mine]
    assert tenant.http.delete(path).json() == {"id": mine, "type": "message_batch_deleted"}
    assert tenant.http.get(path).status_code == 404
    assert held(tenant) == 150


@pytest.mark.parametrize(
    ("plan", "bad", "status", "said"),
    [
        ("small", message(max_tokens=51), 403, "at most 50 tokens"),
        ("small", message(model="o1-pro"), 403, "o1-pro"),
        ("plain", message(), 403, "messages"),
        ("internal", message(model="gpt-4o"), 400, "a batch has one model"),
        ("internal", message(stream=True), 400, "stream"),
        ("internal", message(container="container_1"), 400, "container"),
        ("internal", message(fallbacks=["x"]), 400, "fallbacks"),
        ("internal", {"custom_id": "a"}, 400, "custom_id and params"),
        ("internal", {**message(), "Params": message(model="o1-pro")["params"]}, 400, "another spelling"),
    ],
)
def test_each_message_of_a_batch_is_judged(
    place: Gateway,
    server: BatchServer,
    server_upstream: Upstream,
    sign_up: SignUp,
    plan: str,
    bad: Any,
    status: int,
    said: str,
) -> None:
    tenant = sign_up(place, "--plan", plan)
    refused = batch_messages(tenant, *([] if plan == "plain" else [message()]), bad)
    assert refused.status_code == status, refused.text
    assert said in refused.json()["error"]["message"]
    assert posted(server_upstream) == []


def test_a_batch_of_messages_has_one_reading(place: Gateway, server_upstream: Upstream, sign_up: SignUp) -> None:
    body = {"requests": [message()], "Requests": [message(max_tokens=9_000)]}
    refused = sign_up(place, "--plan", "small").http.post("/v1/messages/batches", json=body)
    assert (refused.status_code, "its spelling" in refused.json()["error"]["message"]) == (400, True)
    assert posted(server_upstream) == []


def test_a_blocked_end_users_messages_are_in_no_batch(
    place: Gateway, server_upstream: Upstream, sign_up: SignUp
) -> None:
    tenant = sign_up(place)
    place.cli("key", "set", tenant.key_id, "--end-users", "user")
    place.cli("end-user", "block", tenant.name, "bob")
    refused = batch_messages(tenant, message(metadata={"user_id": "ann"}), message(metadata={"user_id": "bob"}))
    assert (refused.status_code, "requests.1 is refused: the end user" in refused.json()["error"]["message"]) == (
        403,
        True,
    )
    uploaded = upload(tenant, lines(MODEL, user="bob"))
    assert (uploaded.status_code, error_of(uploaded)["code"]) == (403, "end_user_blocked")
    assert posted(server_upstream) == []
