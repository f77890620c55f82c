"""The end of a batch, whatever becomes of the process, of its tenant and of its upstream meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.conftest import SignUp, Tenant
from tests.gateway.test_batch_limits import BatchServer, held, place, server, server_upstream, start
from tests.gateway.test_batch_prices import charges, proofs, results, stepped, usage
from tests.gateway.test_batches import lines
from tests.support.gateway import Gateway
from tests.support.processes import wait_until

__all__ = ["place", "server", "server_upstream"]

PLAIN = "plainly-priced"


def plain(place: Gateway) -> str:
    if PLAIN not in place.cli("passport", "list").stdout:
        place.cli("passport", "add", PLAIN, "--input-price", "1", "--output-price", "10")
    return PLAIN


def last_of(place: Gateway, batch_id: str) -> list[Any]:
    """What the gateway has written down of a batch last."""
    known = [json.loads(line) for line in (place.home / "handles.jsonl").read_bytes().splitlines()]
    return [each for each in known if each[1] == batch_id][-1]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_killed_before_between_and_after_its_receipts_a_batch_is_charged_once(
    place: Gateway, server: BatchServer, sign_up: SignUp, written: int
) -> None:
    """Each step of the price has a receipt, written one after the other."""
    tenant, model = sign_up(place), stepped(place, "stepped")
    batch_id = start(tenant, lines(*[model] * 3, max_tokens=50)).json()["id"]
    server.files[model] = results(usage(90, 5), usage(60, 3))
    if written == 2:
        server.files[model] = results(usage(90, 5), usage(60, 3), usage(101, 7))
    begun = last_of(place, batch_id)
    if written:
        server.finish(batch_id, output_file_id=model)
        wait_until(lambda: len(charges(tenant)) == written, "the batch is charged")
    found = [(each["price_above_prompt_tokens"], each["id"]) for each in charges(tenant)]
    place.kill()
    # As a crash leaves it: its end is noted, and so many of its receipts are on record.
    missing = [(step, f"rcpt_of_{step}") for step in (0, 100)[len(found) :]]
    begun[6], begun[12] = -1, [0, [*found, *missing]]
    with (place.home / "handles.jsonl").open("ab") as file:
        file.write(json.dumps(begun).encode() + b"\n")
    server.files[model] = results(usage(90, 5), usage(60, 3), usage(101, 7))
    server.finish(batch_id, output_file_id=model)
    place.start()
    wait_until(lambda: len(charges(tenant)) == 2, "all of it is charged")
    wait_until(lambda: held(tenant) == 90 + 5 + 60 + 3 + 101 + 7, "nothing of it is held")
    place.kill()
    place.start()
    assert last_of(place, batch_id)[12] is None
    tenant.http.get(f"/v1/batches/{batch_id}")
    below, above = charges(tenant)
    assert (below["calls"], below["prompt_tokens"]) == (2, 150)
    assert (above["calls"], above["prompt_tokens"], above["price_above_prompt_tokens"]) == (1, 101, 100)
    for said in proofs(place, tenant):
        assert "3 answered lines of batches are priced each by itself" in said, said
    books = place.cli("doctor", "--books", check=False)
    assert books.returncode == 0, books.stdout
