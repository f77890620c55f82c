"""Gateways of which one is cut off from Postgres: what it may still do, and what it does when it is back."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.side_by_side import Neighbour, SideBySide, chat
from tests.support.links import Link
from tests.support.postgres import GivenPostgres, Postgres, run_sql
from tests.support.processes import wait_until
from tests.support.upstream import DONE, Gate, Reply, Upstream, delta

STREAM = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 10}
#: So short that a test need not wait for long until the right to serve is lost.
LEASE = {"TRUSTGATE_STORE_LEASE_S": "2", "TRUSTGATE_STORE_FINISH_S": "1"}
#: How long a stop lets requests run, and what it takes at most when no answer of the database comes any more; seconds.
GRACE_S, STOP_S = 2, 30


class World(SideBySide):
    """Two gateways; the second one's way to Postgres can be cut."""

    upstream: Upstream
    link: Link

    @property
    def far(self) -> Neighbour:
        return self.neighbours[1]

    def cut(self) -> None:
        """Nothing comes through any more, and Postgres sees the second one's connections end."""
        self.link.swallow()
        self.link.reset()


@pytest.fixture(scope="module")
def world(postgres: Postgres | GivenPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        url = postgres.schema()
        link = stack.enter_context(Link.to(url))
        upstream = Upstream().start()
        stack.callback(upstream.stop)
        folder = tmp_path_factory.mktemp("cut")
        world = World.__new__(World)
        far = link.over(url)
        world.begin(folder, [url, far], upstream.api_url, {**LEASE, "TRUSTGATE_SERVE_SHUTDOWN_GRACE_S": str(GRACE_S)})
        stack.callback(world.close)
        world.upstream, world.link = upstream, link
        world.gateway.add_tenant("acme", plan="internal")
        yield world


@contextlib.contextmanager
def streaming(world: World, gateway: Neighbour, key: str) -> Iterator[tuple[Gate, httpx.Response, Iterator[str]]]:
    """A stream of which the first piece has come, and the rest comes once the gate is open."""
    gate = Gate()
    world.upstream.script(Reply.sse([delta("a"), gate, delta(None, finish_reason="stop"), DONE]))
    url, headers = f"http://127.0.0.1:{gateway.port}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    with httpx.stream("POST", url, json=STREAM, headers=headers, timeout=60) as response:
        assert response.status_code == 200, response.read()
        lines = response.iter_lines()
        assert next(lines)
        yield gate, response, lines
        gate.open()


def status(gateway: Neighbour, key: str) -> int:
    """What a request with this key is answered."""
    url, headers = f"http://127.0.0.1:{gateway.port}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    return httpx.post(url, content=chat("gpt-4o"), headers=headers, timeout=60).status_code


def finish_of(world: World, receipt: str) -> list[str]:
    return [row[0] for row in run_sql(world.url, f"SELECT finish FROM receipts WHERE id = '{receipt}'")]


def is_journaled(gateway: Neighbour, receipt: str) -> bool:
    files = (gateway.gateway.home / "drafts").glob("*.journal")
    return any(receipt.encode() in file.read_bytes() for file in files)


def test_a_stream_whose_key_cannot_be_looked_at_is_cut_and_the_revocation_holds_when_the_database_is_back(
    world: World,
) -> None:
    made = world.gateway.cli_json("key", "create", "acme")["key"]
    with streaming(world, world.far, made["secret"]) as (_, response, lines):
        world.cut()
        world.gateway.cli("key", "revoke", made["id"])  # it waits until the other serves nothing new
        assert status(world.far, made["secret"]) == 503
        headers = {"authorization": f"Bearer {made['secret']}"}
        assert httpx.get(f"http://127.0.0.1:{world.far.port}/v1/models", headers=headers).status_code == 503
        rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "store_unreachable"
    world.link.mend(late=False)
    wait_until(lambda: status(world.far, made["secret"]) == 401, "the revocation to be taken in")
    receipt = response.headers["x-trustgate-receipt"]
    wait_until(lambda: finish_of(world, receipt) == ["cut"], "its receipt")
    world.books()


def test_what_waits_at_one_that_was_cut_off_counts_on_limits_that_came_meanwhile(world: World) -> None:
    """It takes changes in before it closes anything: the budget's row has been written without this use."""
    made = world.gateway.cli_json("tenant", "add", "meanwhile", "--plan", "internal")
    key = made["key"]["secret"]
    waiting: list[str] = []
    with contextlib.ExitStack() as streams:
        running = [streams.enter_context(streaming(world, world.far, key)) for _ in range(3)]
        world.cut()
        for gate, response, _ in running:
            gate.open()
            waiting.append(response.headers["x-trustgate-receipt"])
        wait_until(lambda: all(is_journaled(world.far, each) for each in waiting), "the receipts in the journal")
    world.gateway.cli("budget", "add", "came", "--requests", "100", "--per", "day", "--tenant", "meanwhile")
    world.gateway.cli("key", "set", made["key"]["id"], "--requests-per-day", "50")
    assert status(world.neighbours[0], key) == 200
    world.link.mend(late=False)
    wait_until(lambda: all(finish_of(world, each) for each in waiting), "the receipts")
    world.books()


def test_a_copy_that_serves_while_the_original_is_cut_off_ends_its_life_and_no_receipt_is_lost_or_doubled(
    world: World, tmp_path: Path
) -> None:
    """Receipts that both have in their journals are on record once, and so is one that the original alone has."""
    key = world.gateway.cli_json("key", "create", "acme")["key"]["secret"]
    original = world.far
    home = tmp_path / "copy"
    with streaming(world, original, key) as (gate, both, _), streaming(world, original, key) as (late, one, _):
        receipts = [answer.headers["x-trustgate-receipt"] for answer in (both, one)]
        world.cut()
        gate.open()
        wait_until(lambda: is_journaled(original, receipts[0]), "the first one's receipt in the journal")
        shutil.copytree(original.gateway.home, home, ignore=shutil.ignore_patterns("admin.sock", "*.new"))
        late.open()
        wait_until(lambda: is_journaled(original, receipts[1]), "the second one's")
    copy = Neighbour(tmp_path, "copy", world.url, world.upstream.api_url, LEASE)
    copy.start().wait()
    try:
        wait_until(lambda: len(finish_of(world, receipts[0])) == 1, "what the copy has of the original's receipts")
        assert [status(copy, key) for _ in range(3)] == [200] * 3
        world.link.mend(late=False)
        assert original.exit_code() == 1
        said = original.said()
        assert f"has gone on with a copy of the home folder {original.gateway.home}" in said
        assert "Start it again: it goes on as a home of its own" in said
        original.start().wait()
        wait_until(lambda: len(finish_of(world, receipts[1])) == 1, "what the original alone has")
        assert len(finish_of(world, receipts[0])) == 1
        assert [status(gateway, key) for gateway in (original, copy)] == [200] * 2
        ids = {(folder / "drafts.id").read_text() for folder in (home, original.gateway.home)}
        assert len(ids) == 2
        world.books()
    finally:
        copy.close()


def test_a_stop_ends_in_time_where_the_database_gives_no_answer_any_more_and_its_receipts_are_kept(
    world: World,
) -> None:
    key = world.gateway.cli_json("key", "create", "acme")["key"]["secret"]
    with streaming(world, world.far, key) as (_, response, _lines):
        world.link.swallow()
        world.far.signal(signal.SIGTERM)
        assert world.far.exit_code(GRACE_S + STOP_S) == 0
    # The connection that the last receipts are to go over has no answer for longer than a moment.
    assert "stopping: waiting for the last receipts, for" in world.far.said()
    receipt = response.headers["x-trustgate-receipt"]
    assert is_journaled(world.far, receipt)
    world.link.mend(late=False)
    world.far.start().wait()
    wait_until(lambda: finish_of(world, receipt) == ["cut"], "its receipt")
    world.books()
