"""The end of a batch, whatever becomes of the process, of its tenant and of its upstream meanwhile."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import SignUp
from tests.gateway.test_batch_limits import BatchServer, held, place, server, server_upstream, start
from tests.gateway.test_batch_prices import charges, proofs, results, stepped, usage
from tests.gateway.test_batches import batch_object, lines
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from tests.support.stopping_itself import POINTS, Order
from tests.support.upstream import CLOSE, Recorded, Reply, Upstream
from trustgate.gateway.api.object_ids import Charging, ObjectId, ObjectIds, StepReceipt

__all__ = ["place", "server", "server_upstream"]

PLAIN = "plainly-priced"
MortalGateway = tuple[Gateway, Order]


def plain(place: Gateway) -> str:
    if PLAIN not in place.cli("passport", "list").stdout:
        place.cli("passport", "add", PLAIN, "--input-price", "1", "--output-price", "10")
    return PLAIN


@pytest.fixture
def elsewhere() -> Iterator[Upstream]:
    upstream = Upstream().start()
    yield upstream
    upstream.stop()


def last_of(place: Gateway, batch_id: str) -> list[Any]:
    """What the gateway has written down of a batch last."""
    known = [json.loads(line) for line in (place.home / "handles.jsonl").read_bytes().splitlines()]
    found: list[Any] = [each for each in known if each[1] == batch_id][-1]
    return found


@pytest.fixture(scope="module")
def mortal(make_module_gateway: GatewayFactory, server_upstream: Upstream, tmp_path_factory: Any) -> MortalGateway:
    order = Order(tmp_path_factory.mktemp("order"))
    environment = {"TRUSTGATE_UPSTREAM_BACKGROUND_INTERVAL_S": "0.1", **order.environment}
    return make_module_gateway(upstream=server_upstream.api_url, environment=environment).start(), order


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_of_its_charging_a_batch_is_charged_once(
    mortal: MortalGateway, server: BatchServer, sign_up: SignUp, point: str
) -> None:
    gateway, order = mortal
    tenant, model = sign_up(gateway), stepped(gateway, "stepped")
    batch_id = start(tenant, lines(*[model] * 3, max_tokens=50)).json()["id"]
    server.files[batch_id] = results(usage(90, 5), usage(60, 3), usage(101, 7))
    order.give(point, signal.SIGKILL)
    server.finish(batch_id, output_file_id=batch_id)
    order.wait()
    assert gateway.process.wait() == -signal.SIGKILL
    gateway.kill()
    gateway.start()
    wait_until(lambda: last_of(gateway, batch_id)[12] is None and held(tenant) == 150 + 8 + 101 + 7, "it to be charged")
    below, above = charges(tenant)
    assert (below["calls"], below["prompt_tokens"], below["price_above_prompt_tokens"]) == (2, 150, 0)
    assert (above["calls"], above["prompt_tokens"], above["price_above_prompt_tokens"]) == (1, 101, 100)
    gateway.kill()
    gateway.start()
    assert tenant.http.get(f"/v1/batches/{batch_id}").status_code == 200
    assert len(charges(tenant)) == 2
    for said in proofs(gateway, tenant):
        assert "3 answered lines of batches are priced each by itself" in said, said
    books = gateway.cli("doctor", "--books", check=False)
    assert books.returncode == 0, books.stdout


def test_what_a_process_noted_of_a_charge_is_looked_up_only_after_it_has_ended(tmp_path: Path) -> None:
    ids = ObjectIds(tmp_path / "ids")
    begun = ObjectId("batch", "b", "ten_1", "pas_1", "m", "m", owed=7)
    ended = msgspec.structs.replace(
        begun, owed=-1, charging=Charging(7, (StepReceipt(0, "rcpt_1"), StepReceipt(100, "rcpt_2")))
    )
    for each in (begun, ended):
        ids.keep(each)
    ids.charged(begun, "rcpt_1")
    assert ids.unsettled("batch") == []
    ids.close()
    after_kill = ObjectIds(tmp_path / "ids")
    assert after_kill.unsettled("batch") == [msgspec.structs.replace(ended, owed=7)]
    after_kill.keep(ended)
    after_kill.charged(begun, "rcpt_2")
    after_kill.close()
    assert ObjectIds(tmp_path / "ids").unsettled("batch") == []


def answered(number: int, status: int = 200) -> bytes:
    response = {"status_code": status, "body": {"usage": usage(10, 5)}}
    return json.dumps({"id": f"line{number}", "custom_id": f"r{number}", "response": response}).encode()


THREE = [answered(number) for number in range(3)]


@pytest.mark.parametrize(
    ("file", "calls"),
    [
        (b"\xef\xbb\xbf" + b"\r\n\r\n".join(THREE), 3),
        (b"\n".join([THREE[0].replace(b"r0", b"\\ud800"), *THREE[1:]]), 3),
        (b"\n".join([*THREE[:2], *THREE[:2]]), 2),
        (b"\n".join([*THREE, answered(3), answered(4)]), 3),
        (b"\n".join([*THREE[:2], answered(2, status=500)]), 2),
    ],
    ids=["byte order mark", "lone surrogate", "twice", "more than asked", "failed with usage"],
)
def test_each_line_that_was_asked_and_answered_is_charged_once(
    place: Gateway, server: BatchServer, sign_up: SignUp, file: bytes, calls: int
) -> None:
    tenant, model = sign_up(place), plain(place)
    batch_id = start(tenant, lines(*[model] * 3, max_tokens=50)).json()["id"]
    server.files[batch_id] = file
    server.finish(batch_id, output_file_id=batch_id)
    wait_until(lambda: len(charges(tenant)) == 1, "the batch is charged")
    [charged] = charges(tenant)
    assert (charged["calls"], charged["prompt_tokens"], charged["completion_tokens"]) == (calls, calls * 10, calls * 5)


_PACKED = gzip.compress(b"\n".join(THREE))
_LONGER = {"content-length": str(len(b"\n".join(THREE)) + 100)}


@pytest.mark.parametrize(
    "replies",
    [
        [(_PACKED, {"content-encoding": "gzip"})],
        [(_PACKED[:-9], {"content-encoding": "gzip"}), (_PACKED, {"content-encoding": "gzip"})],
        [(b"\n".join(THREE), _LONGER), (b"\n".join(THREE), {})],
        [(b"\n".join(THREE[:2]), _LONGER), (b"\n".join(THREE), {})],
    ],
    ids=["packed", "packed, and cut off", "shorter than its length", "cut off behind a line"],
)
def test_results_that_do_not_come_whole_are_fetched_again(
    place: Gateway,
    server: BatchServer,
    server_upstream: Upstream,
    sign_up: SignUp,
    replies: list[tuple[bytes, dict[str, str]]],
) -> None:
    """What came of them is charged once, and not before."""
    tenant, model = sign_up(place), plain(place)
    batch_id = start(tenant, lines(*[model] * 3, max_tokens=50)).json()["id"]
    left = iter(replies)

    def answer(request: Recorded) -> Reply:
        if not request.path.endswith(f"/files/{batch_id}/content"):
            return server(request)
        body, headers = next(left)
        whole = Reply.body(body, content_type="application/octet-stream", headers=headers)
        return Reply.raw(*whole.steps, CLOSE) if headers is _LONGER else whole

    server_upstream.default = answer
    server.finish(batch_id, output_file_id=batch_id)
    wait_until(lambda: len(charges(tenant)) == 1, "the batch is charged")
    [charged] = charges(tenant)
    assert (charged["calls"], charged["prompt_tokens"], charged["completion_tokens"]) == (3, 30, 15)
    assert next(left, None) is None


def test_a_batch_goes_on_in_other_words_and_where_it_is_not_found_for_a_moment(
    place: Gateway, server: BatchServer, server_upstream: Upstream, sign_up: SignUp
) -> None:
    tenant, model = sign_up(place), plain(place)
    batch_id = start(tenant, lines(*[model] * 3, max_tokens=50)).json()["id"]
    missing: Iterator[int | str] = iter([404, 404, "IN_PROGRESS", "running", "pending", 404, 404])
    looked: list[int | str] = []

    def answer(request: Recorded) -> Reply:
        said = next(missing, None) if request.method == "GET" and request.path.endswith(batch_id) else None
        if said is None:
            return server(request)
        looked.append(said)
        return Reply.error(said) if isinstance(said, int) else Reply.json(batch_object(batch_id, said))

    server.files[batch_id] = b"\n".join(THREE)
    server.finish(batch_id, output_file_id=batch_id)
    server_upstream.default = answer
    wait_until(lambda: len(tenant.receipts()) == 3, "the batch is charged")
    assert (len(looked), [each["calls"] for each in charges(tenant)]) == (7, [3])


def test_an_upstream_that_does_not_answer_holds_up_no_batch_of_another(
    place: Gateway, server: BatchServer, sign_up: SignUp, elsewhere: Upstream
) -> None:
    tenant, model, other = sign_up(place), plain(place), BatchServer()
    elsewhere.default = other
    place.cli("passport", "add", "elsewhere", "--base-url", elsewhere.api_url, "--input-price", "1")
    server.held_look = silent = start(tenant, lines(*[model] * 3, max_tokens=50)).json()["id"]
    server.files[silent] = b"\n".join(THREE)
    server.finish(silent, output_file_id=silent)
    server.look.wait_reached()
    batch_id = start(tenant, lines("elsewhere", max_tokens=50)).json()["id"]
    other.files[batch_id] = THREE[0]
    other.finish(batch_id, output_file_id=batch_id)
    wait_until(lambda: [each["calls"] for each in charges(tenant)] == [1], "the other's batch is charged")
    server.look.open()
    wait_until(lambda: sorted(each["calls"] for each in charges(tenant)) == [1, 3], "both are charged")


def test_a_batch_is_charged_whose_model_tenant_and_plan_were_removed(
    place: Gateway, server: BatchServer, sign_up: SignUp
) -> None:
    place.cli("passport", "add", "leaving", "--input-price", "1", "--output-price", "10")
    place.cli("plan", "add", "leaving", "--tokens-per-day", "100000")
    tenant = sign_up(place, "--plan", "leaving")
    batch_id = start(tenant, lines(*["leaving"] * 3, max_tokens=50)).json()["id"]
    tenant_id = tenant.receipts()[0]["tenant"]
    place.cli("tenant", "remove", tenant.name, "--yes")
    place.cli("plan", "remove", "leaving")
    place.cli("passport", "revoke", "leaving")
    server.files[batch_id] = b"\n".join(THREE)
    server.finish(batch_id, output_file_id=batch_id)

    def costs() -> list[int]:
        listed = place.cli_json("receipt", "list", "--tenant", tenant_id)["receipts"]
        return [each["receipt"]["cost_nano_usd"] for each in listed]

    wait_until(lambda: len(costs()) == 3, "the batch is charged")
    assert costs()[0] == 30 * 1_000 + 15 * 10_000
    books = place.cli("doctor", "--books", check=False)
    assert books.returncode == 0, books.stdout


def test_a_streamed_response_in_the_background_whose_id_cannot_be_kept_is_refused_and_ended(
    place: Gateway, server: BatchServer, server_upstream: Upstream, sign_up: SignUp
) -> None:
    """It goes on when its client has left, and could never be charged."""
    tenant, model, bad = sign_up(place), plain(place), "r" * 257
    cancelled: list[str] = []
    begun = {"type": "response.created", "response": {"id": bad, "object": "response", "status": "queued"}}

    def answer(request: Recorded) -> Reply:
        if request.path.endswith("/cancel"):
            cancelled.append(request.path)
            return Reply.json({"id": bad, "object": "response", "status": "cancelled"})
        return Reply.sse([begun, {"type": "response.output_text.delta", "item_id": "i", "delta": "Hi"}])

    server_upstream.default = answer
    asked = {"model": model, "input": "x", "background": True, "stream": True}
    refused = tenant.http.post("/v1/responses", json=asked)
    assert refused.status_code == 502, refused.text
    assert "whose id cannot be kept" in refused.json()["error"]["message"]
    wait_until(lambda: cancelled == [f"/v1/responses/{bad}/cancel"], "it to be ended upstream")
    assert (held(tenant), tenant.receipts()[-1]["finish"]) == (0, "upstream_error")


@pytest.mark.parametrize(
    "last", [CLOSE, {"type": "error", "code": "server_error", "message": "sorry"}], ids=["broken", "failed"]
)
def test_a_streamed_response_in_the_background_that_breaks_off_before_its_client_knows_of_it_is_ended(
    place: Gateway, server: BatchServer, server_upstream: Upstream, sign_up: SignUp, last: Any
) -> None:
    """It would go on, and never be charged. Of several tries each has begun one."""
    tenant, model = sign_up(place), plain(place)
    begun: list[str] = []
    ended: list[str] = []

    def answer(request: Recorded) -> Reply:
        *_, object_id, verb = request.path.split("/")
        if verb == "cancel":
            ended.append(object_id)
            return Reply.json({"id": object_id, "object": "response", "status": "cancelled"})
        begun.append(f"resp_{tenant.name}_{len(begun)}")
        response = {"id": begun[-1], "object": "response", "status": "queued"}
        return Reply.sse([{"type": "response.created", "response": response}, last])

    server_upstream.default = answer
    asked = {"model": model, "input": "x", "background": True, "stream": True}
    assert tenant.http.post("/v1/responses", json=asked).status_code >= 500
    wait_until(lambda: sorted(ended) == begun, "all of them to be ended upstream")
    assert (held(tenant), tenant.receipts()[-1]["finish"]) == (0, "upstream_error")
