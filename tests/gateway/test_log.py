"""The log over HTTP: a tenant's receipts and proofs with its key, checkpoint, tiles and keys for anybody."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import SignUp, Tenant
from tests.support.gateway import Gateway
from tests.support.processes import wait_until
from trustgate.receipts.checkpoint import Checkpoint, open_checkpoint
from trustgate.receipts.merkle import root_of, verify_consistency, verify_inclusion
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.proof import parse_proof


class PublicLog:
    """What a stranger does with the public part of a log."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self.keys = self._http.get("/log/keys").json()
        self.verifier = VerifierKey.parse(self.keys["vkey"])

    def checkpoint(self) -> Checkpoint:
        response = self._http.get("/log/checkpoint")
        assert response.headers["access-control-allow-origin"] == "*"
        return open_checkpoint(response.content, self.verifier)

    def checkpoint_of(self, size: int) -> Checkpoint:
        """The checkpoint once it covers ``size`` leaves."""
        wait_until(lambda: self.checkpoint().size >= size, f"a checkpoint of {size}")
        return self.checkpoint()

    def leaves(self, size: int) -> list[bytes]:
        """Every leaf hash, from the tiles of level 0."""
        data = b""
        for index in range((size + 255) // 256):
            width = min(256, size - index * 256)
            path = f"/log/tile/0/{index:03d}" + ("" if width == 256 else f".p/{width}")
            response = self._http.get(path)
            assert response.status_code == 200, response.text
            assert "immutable" in response.headers["cache-control"]
            data += response.content
        return [data[start : start + 32] for start in range(0, len(data), 32)]

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)


@pytest.fixture
def log(gateway: Gateway) -> Iterator[PublicLog]:
    with httpx.Client(base_url=gateway.base_url, trust_env=False) as http:
        yield PublicLog(http)


@pytest.fixture
def tenant(gateway: Gateway, sign_up: SignUp) -> Tenant:
    return sign_up(gateway)


def test_tiles_make_the_root_and_proofs_lead_to_it(tenant: Tenant, log: PublicLog) -> None:
    ids = [tenant.chat().headers["x-trustgate-receipt"] for _ in range(7)]
    checkpoint = log.checkpoint_of(7)
    leaves = log.leaves(7)
    assert root_of(leaves) == checkpoint.root

    for index, receipt_id in enumerate(ids):
        response = tenant.http.get(f"/v1/receipts/{receipt_id}/proof")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        proof = parse_proof(response.content)
        signed = open_checkpoint(proof.checkpoint, log.verifier)
        card = tenant.http.get(f"/v1/receipts/{receipt_id}").json()
        leaf = bytes.fromhex(card["leaf_hash"])
        assert (proof.index, card["seq"]) == (index, index + 1)
        assert leaf == leaves[index]
        verify_inclusion(leaf, index, signed.size, proof.hashes, signed.root)


def test_a_proof_can_be_had_at_once(tenant: Tenant, log: PublicLog) -> None:
    receipt_id = tenant.chat().headers["x-trustgate-receipt"]
    proof = parse_proof(tenant.http.get(f"/v1/receipts/{receipt_id}/proof").content)
    assert open_checkpoint(proof.checkpoint, log.verifier).size >= 1


def test_receipts_are_paged_in_either_order(tenant: Tenant, gateway: Gateway, sign_up: SignUp) -> None:
    stranger = sign_up(gateway)
    ids = []
    for _ in range(5):
        ids.append(tenant.chat().headers["x-trustgate-receipt"])
        stranger.chat()

    def pages(order: str) -> list[str]:
        found: list[str] = []
        after = ""
        while True:
            page = tenant.http.get(f"/v1/receipts?limit=2&order={order}{after}").json()
            found += [card["receipt"]["id"] for card in page["data"]]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"

    assert pages("asc") == ids
    assert pages("desc") == ids[::-1]
    assert tenant.http.get("/v1/receipts").json()["first_id"] == ids[-1]
    assert tenant.http.get(f"/v1/receipts?after={ids[0]}").json()["data"] == []


def test_a_page_that_cannot_be_is_refused(tenant: Tenant) -> None:
    for query in ("limit=0", "limit=1e1", "limit=101", "limit=٣", "order=up"):
        response = tenant.http.get(f"/v1/receipts?{query}")
        assert (response.status_code, response.json()["error"]["param"]) == (400, query.partition("=")[0]), query


def test_a_strangers_receipt_is_none(tenant: Tenant, gateway: Gateway, sign_up: SignUp) -> None:
    stranger = sign_up(gateway)
    receipt_id = tenant.chat().headers["x-trustgate-receipt"]
    for path in (f"/v1/receipts/{receipt_id}/proof", f"/v1/receipts?after={receipt_id}"):
        response = stranger.http.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "receipt_not_found")
        assert httpx.get(gateway.base_url + path).status_code == 401


NO_TILES = (
    *("0/000", "0/001", "0/000.p/2", "0/000.p/0", "0/000.p/256", "1/000.p/1", "0/x001/000", "64/000", "-1/000", "0/0"),
    *("0/00", "0/000.p/01", "0/000/", "", "entries/000", "0/" + "x999/" * 40 + "999", "0/000.p/" + "9" * 5000),
)


def test_tiles_that_there_are_not(tenant: Tenant, log: PublicLog) -> None:
    tenant.chat()
    log.checkpoint_of(1)
    for path in NO_TILES:
        response = log.get(f"/log/tile/{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "tile_not_found"), path


def test_the_log_goes_on_after_a_kill(gateway: Gateway, tenant: Tenant, log: PublicLog) -> None:
    for _ in range(3):
        tenant.chat()
    before = log.checkpoint_of(3)
    gateway.kill()
    gateway.start()
    for _ in range(4):
        tenant.chat()
    after = log.checkpoint_of(7)
    assert after.origin == before.origin
    leaves = log.leaves(7)
    assert root_of(leaves[:3]) == before.root
    assert root_of(leaves) == after.root
    # The same by a proof, as a stranger who keeps no leaves would want it: here of hashes known to be right.
    proof = [leaves[2], leaves[3], root_of(leaves[:2]), root_of(leaves[4:7])]
    verify_consistency(3, before.root, 7, after.root, proof)


def test_a_database_put_back_from_a_copy_is_not_served(
    make_gateway: GatewayFactory, sign_up: SignUp, tmp_path: Path
) -> None:
    gateway = make_gateway(upstream="http://127.0.0.1:9/v1").start()
    tenant = sign_up(gateway)
    gateway.stop()
    copy = tmp_path / "copy.duckdb"
    shutil.copy(gateway.home / "trustgate.duckdb", copy)
    gateway.start()
    assert tenant.chat(model="trustgate/echo").status_code == 200
    gateway.stop()
    shutil.copy(copy, gateway.home / "trustgate.duckdb")
    shutil.rmtree(gateway.home / "journal")

    refused = gateway.cli("serve", "--port", "0", check=False)

    assert refused.returncode == 1
    assert "receipts 1 to 1, which were acknowledged until" in refused.stderr
    assert "trustgate accept-loss" in refused.stderr


def test_the_log_key_is_its_owners_alone(gateway: Gateway) -> None:
    assert stat.S_IMODE((gateway.home / "log.key").stat().st_mode) == 0o600
