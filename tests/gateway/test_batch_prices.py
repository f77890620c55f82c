"""What a batch costs: each of its lines by itself, and what its receipts prove of that."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.environments import ROOT
from tests.examples.test_verify_node import node
from tests.gateway.conftest import SignUp, Tenant
from tests.gateway.test_batch_limits import (
    ASKED,
    BatchServer,
    batch_messages,
    held,
    message,
    place,
    server,
    server_upstream,
    start,
)
from tests.gateway.test_batches import lines, upload
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import Recorded, Reply, Upstream

__all__ = ["place", "server", "server_upstream"]

_SCRIPT = ROOT / "examples" / "verify" / "verify.mjs"
_VERIFY = """
import { verifyStatement } from %s;
import { readFileSync } from "node:fs";
const { checks } = await verifyStatement(new Uint8Array(readFileSync(%s)), { earlier: [] });
console.log(JSON.stringify(checks));
"""


def results(*usages: dict[str, Any] | None, kind: str = "files") -> bytes:
    """The file of a batch's results; None: a line that failed."""
    found: list[dict[str, Any]] = []
    for usage in usages:
        body: dict[str, Any] = {"usage": usage}
        if kind == "files":
            found.append({"response": None if usage is None else {"status_code": 200, "body": body}})
        else:
            good = {"type": "succeeded", "message": {"type": "message", "content": [], **body}}
            found.append({"result": {"type": "errored", "error": {"type": "error"}} if usage is None else good})
    return b"".join(json.dumps(each).encode() + b"\n" for each in found)


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """As a chat completion has it."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def charges(tenant: Tenant) -> list[dict[str, Any]]:
    return [each for each in tenant.receipts() if each["v"] >= 7]


def proofs(place: Gateway, tenant: Tenant) -> tuple[str, str]:
    """Returns the command's verdict on the tenant's month, and the script's."""
    file = place.home.parent / f"{tenant.name}.json"
    place.cli("statement", tenant.name, "--month", datetime.now(UTC).strftime("%Y-%m"), "--output", str(file))
    ran = node("--input-type=module", "--eval", _VERIFY % (json.dumps(_SCRIPT.as_uri()), json.dumps(str(file))))
    return place.cli("statement", "verify", str(file)).stdout, ran.stdout + ran.stderr


def stepped(place: Gateway, name: str) -> str:
    """A model whose prompts above 100 tokens cost ten times as much, and 0.01 USD a call."""
    if name not in place.cli("passport", "list").stdout:
        place.cli("passport", "add", name, "--input-price", "1", "--output-price", "10", "--call-price", "0.01")
        above = ("--above-prompt-tokens", "100", "--input-price", "10", "--output-price", "30")
        place.cli("passport", "set", name, *above)
    return name


def test_each_line_is_priced_by_its_own_prompt(place: Gateway, server: BatchServer, sign_up: SignUp) -> None:
    tenant, model = sign_up(place), stepped(place, "stepped")
    place.cli("payment", "set", tenant.name, "--mode", "prepaid")
    place.cli("tenant", "credit", tenant.name, "--add", "10")
    content = lines(*[model] * 4, max_tokens=50) + lines(
        model, max_tokens=50, messages=[{"role": "user", "content": "word " * 200}]
    )
    batch_id = start(tenant, content).json()["id"]
    balance = place.cli_json("tenant", "credit", tenant.name)
    worst_nano_usd = balance["held_nano_usd"]
    # Together they are far above the step; by itself only one is.
    server.files["stepped"] = results(usage(90, 5), usage(100, 10, 40), usage(60, 3), None, usage(101, 7))
    server.finish(batch_id, output_file_id="stepped", usage=usage(351, 25))
    wait_until(lambda: len(charges(tenant)) == 2, "the batch is charged")
    below, above = charges(tenant)
    assert (below["v"], below["calls"], below["price_above_prompt_tokens"]) == (8, 3, 0)
    assert (below["prompt_tokens"], below["completion_tokens"], below["cached_tokens"]) == (250, 18, 40)
    assert below["cost_nano_usd"] == 250 * 1_000 + 18 * 10_000 + 3 * 10_000_000
    assert (above["calls"], above["price_above_prompt_tokens"], above["prompt_tokens"]) == (1, 100, 101)
    assert above["cost_nano_usd"] == 101 * 10_000 + 7 * 30_000 + 10_000_000
    assert sum(each["charged_nano_usd"] for each in (below, above)) <= worst_nano_usd
    assert (held(tenant), place.cli_json("tenant", "credit", tenant.name)["held_nano_usd"]) == (376, 0)
    for said in proofs(place, tenant):
        assert "4 answered lines of batches are priced each by itself" in said, said
    assert "3 answered calls" in place.cli("receipt", "show", below["id"]).stdout
    assert "1 answered call, each priced as above 100 prompt tokens" in place.cli("receipt", "show", above["id"]).stdout
    correction = place.cli_json("tenant", "correct", tenant.name, "--since", "today")
    assert (correction["same"], correction["rows"], correction["unpriced"]) == (len(tenant.receipts()) - 1, [], 0)
    # A price without a step, and without one of a call.
    flat = ("--model", model, "--input-price", "1", "--output-price", "10")
    given = place.cli_json("tenant", "correct", tenant.name, "--since", "today", *flat)
    assert (given["credit_nano_usd"], given["unpriced"]) == (101 * 9_000 + 7 * 20_000 + 4 * 10_000_000, 0)
    books = place.cli("doctor", "--books", check=False)
    assert books.returncode == 0, books.stdout
    exported = place.cli("export", "receipts", "--tenant", tenant.name).stdout.splitlines()
    assert [json.loads(line)["calls"] for line in exported][-2:] == [3, 1]


@pytest.mark.parametrize("kind", ["files", "messages"])
def test_at_a_price_for_each_call_the_answered_lines_are_charged(
    place: Gateway, server: BatchServer, sign_up: SignUp, kind: str
) -> None:
    tenant, model = sign_up(place), f"by-call-{kind}"
    place.cli("passport", "add", model, "--call-price", "0.01")
    told = {"input_tokens": 9, "output_tokens": 2}
    if kind == "files":
        batch_id = start(tenant, lines(*[model] * 3, max_tokens=5)).json()["id"]
        server.files[model] = results(told, None, told)
        server.finish(batch_id, output_file_id=model)
    else:
        batch_id = batch_messages(tenant, *(message(each, model=model) for each in "abc")).json()["id"]
        server.files[batch_id] = results(told, None, told, kind="messages")
        server.finish(batch_id)
    wait_until(lambda: len(charges(tenant)) == 1, "the batch is charged")
    [*begun, charged] = tenant.receipts()
    assert [(each["v"], each["cost_nano_usd"]) for each in begun] == [(3, 0)] * len(begun)
    assert (charged["v"], charged["calls"], charged["cost_nano_usd"]) == (7, 2, 2 * 10_000_000)
    assert (charged["prompt_tokens"], charged["completion_tokens"]) == (18, 4)
    # What gives money back, and what proves a bill, know that it is the bill of two calls.
    correction = place.cli_json("tenant", "correct", tenant.name, "--since", "today")
    assert (correction["same"], correction["rows"]) == (len(tenant.receipts()), [])
    for said in proofs(place, tenant):
        assert "2 answered lines of batches are priced each by itself" in said, said


def test_a_line_of_which_no_such_use_is_possible_is_charged_by_estimate(
    place: Gateway, server: BatchServer, sign_up: SignUp
) -> None:
    """As a request by itself: no more than its model's context, a few times over."""
    tenant, model = sign_up(place), "short"
    place.cli("passport", "add", model, "--input-price", "1", "--output-price", "10", "--context-length", "1000")
    batch_id = start(tenant, lines(model, model, max_tokens=50)).json()["id"]
    worst = held(tenant)
    server.files[model] = results(usage(900_000, 5), usage(9, 900_000))
    server.finish(batch_id, output_file_id=model, usage=usage(900_009, 900_005))
    wait_until(lambda: len(charges(tenant)) == 1, "the batch is charged")
    [charged] = charges(tenant)
    assert (charged["calls"], charged["usage_source"]) == (2, "estimate")
    assert 14 < charged["prompt_tokens"] + charged["completion_tokens"] <= worst


def test_results_that_are_gone_are_charged_by_what_the_upstream_reports_of_all(
    place: Gateway, server: BatchServer, server_upstream: Upstream, sign_up: SignUp
) -> None:
    """Its owner may delete them before the gateway looks."""
    tenant, model = sign_up(place), stepped(place, "stepped")
    batch_id = start(tenant, lines(*[model] * 4, max_tokens=50)).json()["id"]

    def gone(request: Any) -> Reply:
        if request.path.endswith("/files/gone/content"):
            return Reply.error(404)
        return server(request)

    server_upstream.default = gone
    counts = {"total": 4, "completed": 3, "failed": 1}
    server.finish(batch_id, output_file_id="gone", usage=usage(303, 20), request_counts=counts)
    wait_until(lambda: len(charges(tenant)) == 1, "the batch is charged")
    [charged] = charges(tenant)
    assert (charged["calls"], charged["price_above_prompt_tokens"]) == (3, 100)
    assert charged["cost_nano_usd"] == 303 * 10_000 + 20 * 30_000 + 3 * 10_000_000


class Responder:
    """Responses of one upstream, in the background: each goes on until it is ``finish``ed."""

    def __init__(self, server: BatchServer) -> None:
        self._server = server
        self.ended: dict[str, dict[str, Any]] = {}
        #: Their ids, in order.
        self.begun: list[str] = []

    def __call__(self, request: Recorded) -> Reply:
        folder, _, object_id = request.path.removeprefix("/v1/").partition("/")
        if folder != "responses":
            return self._server(request)
        if request.method == "POST":
            object_id = f"resp_{id(self)}_{len(self.begun)}"
            self.begun.append(object_id)
        response = {"id": object_id, "object": "response", "status": "queued", "output": []}
        return Reply.json(self.ended.get(object_id, response))

    def finish(self, object_id: str, status: str = "completed", **members: Any) -> None:
        self.ended[object_id] = {"id": object_id, "object": "response", "status": status, "output": [], **members}


@pytest.fixture
def responder(server: BatchServer, server_upstream: Upstream) -> Responder:
    server_upstream.default = responder = Responder(server)
    return responder


def begin(tenant: Tenant, responder: Responder, model: str, text: str = "Hi") -> str:
    """Returns the id of a response in the background."""
    made = tenant.http.post("/v1/responses", json={"model": model, "input": text, "background": True})
    assert made.status_code == 200, made.text
    return responder.begun[-1]


def test_a_response_in_the_background_is_priced_by_its_whole_prompt(
    place: Gateway, responder: Responder, sign_up: SignUp
) -> None:
    """Nothing of it is charged when it begins: an estimate might be of another step."""
    tenant, model = sign_up(place), stepped(place, "stepped")
    place.cli("payment", "set", tenant.name, "--mode", "prepaid")
    place.cli("tenant", "credit", tenant.name, "--add", "10")
    response_id = begin(tenant, responder, model, "word " * 40)
    worst = held(tenant)
    assert worst > 40
    assert place.cli_json("tenant", "credit", tenant.name)["held_nano_usd"] > 0
    place.kill()
    place.start()
    assert held(tenant) == worst
    responder.finish(response_id, usage={"input_tokens": 120, "output_tokens": 10, "total_tokens": 130})
    wait_until(lambda: len(charges(tenant)) == 1, "the response is charged")
    [begun, charged] = [each for each in tenant.receipts() if each["endpoint"] == "responses"]
    assert (begun["v"], begun["prompt_tokens"], begun["cost_nano_usd"], begun["charged_nano_usd"]) == (4, 0, 0, 0)
    assert (charged["v"], charged["calls"], charged["price_above_prompt_tokens"]) == (8, 1, 100)
    assert (charged["prompt_tokens"], charged["completion_tokens"]) == (120, 10)
    assert charged["charged_nano_usd"] == 120 * 10_000 + 10 * 30_000 + 10_000_000
    assert (held(tenant), place.cli_json("tenant", "credit", tenant.name)["held_nano_usd"]) == (130, 0)
    for said in proofs(place, tenant):
        assert "The cost of 2 requests follows" in said, said
    correction = place.cli_json("tenant", "correct", tenant.name, "--since", "today")
    assert (correction["rows"], correction["unpriced"]) == ([], 0)
    books = place.cli("doctor", "--books", check=False)
    assert books.returncode == 0, books.stdout


@pytest.mark.parametrize(
    ("end", "tokens", "calls"),
    [
        ({"status": "failed"}, (0, 0), 0),
        ({"status": "cancelled"}, (0, 0), 0),
        ({"status": "failed", "usage": {"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}}, (9, 0), 1),
        (None, (0, 0), 0),
    ],
    ids=["failed", "cancelled", "failed with usage", "gone"],
)
def test_a_response_in_the_background_that_made_nothing_costs_what_its_upstream_reports(
    place: Gateway,
    responder: Responder,
    server_upstream: Upstream,
    sign_up: SignUp,
    end: dict[str, Any] | None,
    tokens: tuple[int, int],
    calls: int,
) -> None:
    tenant, model = sign_up(place), stepped(place, "stepped")
    response_id = begin(tenant, responder, model)
    if end is None:
        server_upstream.default = lambda request: (
            Reply.error(404) if request.path.endswith(response_id) else responder(request)
        )
    else:
        responder.finish(response_id, **end)
    wait_until(lambda: len(charges(tenant)) == 1, "the response is charged")
    [charged] = charges(tenant)
    assert (charged["prompt_tokens"], charged["completion_tokens"], charged["calls"]) == (*tokens, calls)
    assert held(tenant) == sum(tokens)


def test_searches_of_a_response_count_wherever_its_end_is_seen(
    place: Gateway, responder: Responder, sign_up: SignUp
) -> None:
    place.cli("passport", "add", "searching", "--input-price", "1", "--search-price", "0.01")
    told = {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}
    output = [{"type": "web_search_call", "id": f"ws_{n}", "status": "completed"} for n in range(2)]
    tenant = sign_up(place)
    responder.finish(begin(tenant, responder, "searching"), output=output, usage=told)
    wait_until(lambda: len(charges(tenant)) == 1, "the response is charged")
    [charged] = charges(tenant)
    assert (charged["searches"], charged["cost_nano_usd"]) == (2, 9 * 1_000 + 2 * 10_000_000)


# changes of the price meanwhile


@pytest.mark.parametrize(
    ("kind", "is_asked_for"), [("files", False), ("files", True), ("messages", False), ("response", False)]
)
def test_work_is_charged_by_the_price_at_which_it_was_accepted(
    place: Gateway, server: BatchServer, responder: Responder, sign_up: SignUp, kind: str, is_asked_for: bool
) -> None:
    """Whatever is changed meanwhile, over a restart, and whatever sees its end: so it costs no more than was held."""
    model = f"rising-{kind}-{is_asked_for}".lower()
    place.cli("passport", "add", model, "--input-price", "1", "--output-price", "10", "--call-price", "0.001")
    place.cli("plan", "add", f"of-{model}", "--price-factor", "1.5")
    tenant = sign_up(place, "--plan", f"of-{model}")
    place.cli("payment", "set", tenant.name, "--mode", "prepaid")
    place.cli("tenant", "credit", tenant.name, "--add", "10")
    if kind == "files":
        object_id, path = start(tenant, lines(model, model, max_tokens=50)).json()["id"], "batches"
    elif kind == "messages":
        made = batch_messages(tenant, *(message(each, model=model) for each in "ab"))
        object_id, path = made.json()["id"], "messages/batches"
    else:
        object_id, path = begin(tenant, responder, model), "responses"
    most = place.cli_json("tenant", "credit", tenant.name)["held_nano_usd"]
    place.cli("passport", "set", model, "--input-price", "100", "--output-price", "1000", "--call-price", "1")
    place.cli("passport", "set", model, "--above-prompt-tokens", "5", "--input-price", "500")
    place.cli("plan", "set", f"of-{model}", "--price-factor", "40")
    place.cli("payment", "set", tenant.name, "--mode", "prepaid", "--price", "0.5")
    place.kill()
    told = {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}
    if kind == "response":
        responder.finish(object_id, usage=told)
    else:
        server.files[object_id] = results(told, told, kind=kind)
        reported = {"input_tokens": 18, "output_tokens": 4, "total_tokens": 22}
        counts = {"total": 2, "completed": 2, "failed": 0}
        server.finish(object_id, output_file_id=object_id, usage=reported, request_counts=counts)
    server.held_look = object_id if is_asked_for else ""
    place.start()
    if is_asked_for:
        # The gateway's look has begun; a client's overtakes it.
        server.look.wait_reached()
        assert tenant.http.get(f"/v1/{path}/{object_id}").status_code == 200
        server.look.open()
    wait_until(lambda: len(charges(tenant)) == 1, "the work is charged")
    [charged] = charges(tenant)
    calls = 1 if kind == "response" else 2
    cost_nano_usd = calls * (9 * 1_000 + 2 * 10_000 + 1_000_000)
    assert (charged["calls"], charged["price_above_prompt_tokens"]) == (calls, 0)
    assert charged["price_factor_ppm"] == 1_500_000
    assert (charged["cost_nano_usd"], charged["charged_nano_usd"]) == (cost_nano_usd, cost_nano_usd * 3 // 2)
    assert charged["charged_nano_usd"] <= most
    assert place.cli_json("tenant", "credit", tenant.name)["held_nano_usd"] == 0
    for said in proofs(place, tenant):
        assert "1 have none in the file" not in said and "The cost of" in said, said
    books = place.cli("doctor", "--books", check=False)
    assert books.returncode == 0, books.stdout


def test_what_was_paid_by_the_request_is_not_paid_again_at_its_end(
    place: Gateway, server: BatchServer, sign_up: SignUp
) -> None:
    tenant, model = sign_up(place), stepped(place, "stepped")
    place.cli("payment", "set", tenant.name, "--mode", "prepaid", "--price", "0.5")
    place.cli("tenant", "credit", tenant.name, "--add", "10")
    batch_id = start(tenant, lines(model, model, max_tokens=50)).json()["id"]
    balance = place.cli_json("tenant", "credit", tenant.name)
    assert (balance["balance_nano_usd"], balance["held_nano_usd"]) == (9 * 10**9, 0)
    place.cli("payment", "set", tenant.name, "--mode", "prepaid", "--price", "none")
    server.files[batch_id] = results(usage(9, 2), usage(9, 2))
    server.finish(batch_id, output_file_id=batch_id)
    wait_until(lambda: len(charges(tenant)) == 1, "the batch is charged")
    [charged] = charges(tenant)
    assert (charged["calls"], charged["charged_nano_usd"]) == (2, 0)
    assert charged["billed_nano_usd"] == 18 * 1_000 + 4 * 10_000 + 2 * 10_000_000


def test_a_response_that_a_version_before_has_begun_is_charged_what_that_has_not(
    place: Gateway, responder: Responder, sign_up: SignUp
) -> None:
    """It charged an estimate, and what a call costs, and kept how many tokens that was: here 30 and 2."""
    tenant, model = sign_up(place), stepped(place, "stepped")
    response_id = begin(tenant, responder, model)
    place.kill()
    file = place.home / "handles.jsonl"
    begun = [each for each in map(json.loads, file.read_bytes().splitlines()) if each[1] == response_id][-1][:14]
    begun[6], begun[10], begun[13] = 32, None, 2
    with file.open("ab") as handles:
        handles.write(json.dumps(begun).encode() + b"\n")
    place.start()
    assert held(tenant) == 0
    responder.finish(response_id, usage={"input_tokens": 120, "output_tokens": 10, "total_tokens": 130})
    wait_until(lambda: len(charges(tenant)) == 1, "the response is charged")
    [charged] = charges(tenant)
    assert (charged["calls"], charged["prompt_tokens"], charged["completion_tokens"]) == (0, 90, 8)
    assert charged["cost_nano_usd"] == 90 * 10_000 + 8 * 30_000
    for said in proofs(place, tenant):
        assert "The cost of 2 requests follows" in said, said


@pytest.mark.parametrize("change", ["price", "factor"])
def test_a_batch_does_not_begin_at_another_price_than_it_is_held_by(
    place: Gateway, server: BatchServer, server_upstream: Upstream, sign_up: SignUp, change: str
) -> None:
    tenant, model = sign_up(place), f"changed-{change}"
    place.cli("passport", "add", model, "--input-price", "1", "--output-price", "10")
    file_id = upload(tenant, lines(model, max_tokens=50)).json()["id"]
    if change == "price":
        place.cli("passport", "set", model, "--input-price", "2")
    else:
        place.cli("tenant", "set", tenant.name, "--price-factor", "2")
    refused = tenant.http.post("/v1/batches", json={"input_file_id": file_id, **ASKED})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input_file_id")
    assert "was changed after the batch's lines were looked at: upload it again" in refused.json()["error"]["message"]
    assert [each.path for each in server_upstream.requests if each.method == "POST"] == ["/v1/files"]
    assert start(tenant, lines(model, max_tokens=50)).status_code == 200


def test_a_batch_has_images_of_one_size_where_sizes_have_prices(
    place: Gateway, server: BatchServer, sign_up: SignUp
) -> None:
    tenant, model = sign_up(place), "painter"
    place.cli("passport", "add", model, "--image-price", "0.08")
    place.cli("passport", "set", model, "--image-size", "256x256", "--image-price", "0.02")

    def painted(*sizes: str) -> bytes:
        return b"".join(
            lines(model, prompt="a cat", size=size).replace(b"chat/completions", b"images/generations")
            for size in sizes
        )

    refused = start_or_refusal(tenant, painted("256x256", "1024x1024"))
    assert "Line 2 of the batch's file asks for images of another size" in refused
    batch_id = start(tenant, painted("256x256", "256x256")).json()["id"]
    answer = {"response": {"body": {"created": 1, "data": [{"b64_json": "aGk="}]}}}
    server.files[model] = b"".join(json.dumps(each).encode() + b"\n" for each in (answer, answer))
    server.finish(batch_id, output_file_id=model)
    wait_until(lambda: len(charges(tenant)) == 1, "the batch is charged")
    [charged] = charges(tenant)
    assert (charged["calls"], charged["images"], charged["image_size"]) == (2, 2, "256x256")
    assert charged["cost_nano_usd"] == 2 * 20_000_000


def start_or_refusal(tenant: Tenant, content: bytes) -> str:
    refused = tenant.http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", content)})
    return str(refused.json()["error"]["message"])
