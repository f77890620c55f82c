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
    BatchServer,
    batch_messages,
    held,
    message,
    place,
    server,
    server_upstream,
    start,
)
from tests.gateway.test_batches import lines
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.upstream import Reply, Upstream

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


def test_a_response_in_the_background_is_priced_by_its_whole_prompt(
    place: Gateway, server: BatchServer, server_upstream: Upstream, sign_up: SignUp
) -> None:
    """A part of it is charged when it begins: the rest is at the step of all of it."""
    tenant, model = sign_up(place), stepped(place, "stepped")
    response = {"id": f"resp_{tenant.name}", "object": "response", "status": "queued", "output": []}

    def answer(request: Any) -> Reply:
        if not request.path.startswith("/v1/responses"):
            return server(request)
        told = {"input_tokens": 120, "output_tokens": 10, "total_tokens": 130}
        done = {**response, "status": "completed", "usage": told}
        return Reply.json(response if request.method == "POST" else done)

    server_upstream.default = answer
    made = tenant.http.post("/v1/responses", json={"model": model, "input": "word " * 40, "background": True})
    assert made.status_code == 200, made.text
    wait_until(lambda: len(charges(tenant)) == 1, "the response is charged")
    begun, rest = tenant.receipts()
    assert 0 < begun["prompt_tokens"] < 100
    assert (rest["prompt_tokens"], rest["completion_tokens"]) == (120 - begun["prompt_tokens"], 10)
    assert (rest["calls"], rest["price_above_prompt_tokens"]) == (0, 100)
    assert rest["cost_nano_usd"] == rest["prompt_tokens"] * 10_000 + 10 * 30_000
    for said in proofs(place, tenant):
        assert "The cost of 2 requests follows" in said, said


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
