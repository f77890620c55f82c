"""Three gateways that serve one Postgres at once: a change at one holds at all, and all show one log."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.failover import CHAT, Machine
from tests.cluster.faults import Faulty
from tests.cluster.several import Several
from tests.support.disks import mounted_disk
from tests.support.gateway import Gateway
from tests.support.postgres import run_sql
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    made = Several(tmp_path_factory.mktemp("several"), 1)
    yield made
    made.close()


def ask(machine: Machine, key: str, path: str = "/v1/chat/completions", body: str | None = CHAT) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    method = "GET" if body is None else "POST"
    return httpx.request(method, f"http://127.0.0.1:{machine.port}{path}", content=body, headers=headers, timeout=30)


def test_a_receipt_and_its_proof_are_found_at_every_process(world: Several) -> None:
    receipts = []
    for machine in world.machines:
        answer = ask(machine, world.key)
        assert answer.status_code == 200
        receipts.append(answer.headers["x-trustgate-receipt"])
    seqs = set()
    for machine in world.machines:
        for receipt in receipts:
            found = ask(machine, world.key, f"/v1/receipts/{receipt}", None)
            assert found.status_code == 200, found.text
            seqs.add(found.json()["seq"])
            proof = ask(machine, world.key, f"/v1/receipts/{receipt}/bundle", None)
            assert proof.status_code == 200, proof.text
    assert len(seqs) == len(receipts)
    assert len(world.checkpoints()) == 1


def test_what_one_process_has_set_aside_is_known_to_all_until_it_is_mended(world: Several) -> None:
    answer = ask(world.machines[0], world.key)
    receipt = answer.headers["x-trustgate-receipt"]
    wait_until(lambda: run_sql(world.url, f"SELECT 1 FROM receipts WHERE id = '{receipt}'") != [], "its place")
    [kept] = world.machines[0].gateway.cli_json("receipt", "list", "--limit", "1")["receipts"]
    body = json.dumps(kept["receipt"]).encode().hex()
    run_sql(
        world.url,
        f"INSERT INTO set_aside SELECT seq, decode('{body}', 'hex'), secret, 'too long', 0, false"
        f" FROM receipts WHERE id = '{receipt}'",
    )

    def warnings() -> list[bool]:
        pages = [httpx.get(f"http://127.0.0.1:{machine.port}/ready").text for machine in world.machines]
        return ["set aside: 1" in page for page in pages]

    wait_until(lambda: warnings() == [True] * 3, "all to know of it")
    world.machines[2].gateway.cli("receipt", "mend")
    wait_until(lambda: warnings() == [False] * 3, "all to know that it is mended")


def test_what_an_operator_changes_at_one_holds_at_all_when_the_command_returns(world: Several) -> None:
    first, second, third = world.machines
    key = first.gateway.add_tenant("umbrella", plan="internal")
    assert [ask(machine, key).status_code for machine in world.machines] == [200] * 3
    third.gateway.cli("tenant", "suspend", "umbrella")
    assert [ask(machine, key).status_code for machine in world.machines] == [401] * 3
    second.gateway.cli("tenant", "resume", "umbrella")
    assert [ask(machine, key).status_code for machine in world.machines] == [200] * 3
    again = first.gateway.cli("tenant", "add", "umbrella", check=False)
    assert again.returncode != 0
    assert "already exists" in again.stderr


def test_a_copy_of_a_home_that_serves_does_not_serve(world: Several, tmp_path: Path) -> None:
    """Each would take its own receipts for recorded where the other's of the same number are."""
    served = world.machines[1]
    home = tmp_path / "copy"
    shutil.copytree(served.gateway.home, home, ignore=shutil.ignore_patterns("admin.sock", "node", "*.new"))
    copied = Gateway(home, environment={"TRUSTGATE_STORE_URL": world.url}).cli("serve", "--port", "0", check=False)
    assert copied.returncode != 0
    assert f"the home folder {home}, or with a copy of it" in copied.stderr
    assert served.listens()


def test_of_two_commands_at_once_the_second_sees_what_the_first_has_done(world: Several) -> None:
    with ThreadPoolExecutor() as pool:
        tried = [pool.submit(machine.gateway.cli, "tenant", "add", "twin", check=False) for machine in world.machines]
        done = [each.result() for each in tried]
    assert sorted(each.returncode == 0 for each in done) == [False, False, True]
    assert ["already exists" in each.stderr for each in done].count(True) == 2
    names = [
        {tenant["name"] for tenant in machine.gateway.cli_json("tenant", "list")["tenants"]}
        for machine in world.machines
    ]
    assert all("twin" in each for each in names)


class Hammer:
    """Threads that ask all processes with one key, and note when each request began and how it ended."""

    def __init__(self, machines: list[Machine], key: str) -> None:
        self._end = threading.Event()
        self.answers: list[tuple[float, int]] = []
        self._threads = [threading.Thread(target=self._run, args=(machine, key)) for machine in machines]

    def _run(self, machine: Machine, key: str) -> None:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=30)
        while not self._end.is_set():
            began = time.monotonic()
            connection.request("POST", "/v1/chat/completions", CHAT, headers)
            answer = connection.getresponse()
            answer.read()
            self.answers.append((began, answer.status))
        connection.close()

    def __enter__(self) -> Hammer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_once_a_revocation_has_returned_no_request_passes_at_any_process(world: Several) -> None:
    admin = world.machines[1].gateway
    made = admin.cli_json("key", "create", "acme")["key"]
    with Hammer(world.machines, made["secret"]) as hammer:
        while len(hammer.answers) < 30:
            time.sleep(0.01)
        admin.cli("key", "revoke", made["id"])
        revoked = time.monotonic()
        count = len(hammer.answers)
        while len(hammer.answers) < count + 150:
            time.sleep(0.01)
    assert {status for began, status in hammer.answers if began > revoked} == {401}
    assert 200 in {status for _, status in hammer.answers}


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_while_processes_and_postgres_end(tmp_path: Path) -> None:
    """Some of the faults that ``python -m tests.cluster.faults`` has, each of a kind of its own."""
    # Not below pytest's folder, which is root's alone.
    with tempfile.TemporaryDirectory() as below, mounted_disk(Path(below), 400 * 2**20) as (disk, _):
        world = Faulty(tmp_path, disk, 7, "")
        try:
            faults = ["swallow_and_kill", "kill_postgres", "cut_in_message", "sleep_of_the_signer"]
            for number, fault in enumerate([*faults, "read_only" if disk is None else "fill_disk"], start=1):
                world.round(number, fault)
            world.check_history()
        finally:
            world.close()
