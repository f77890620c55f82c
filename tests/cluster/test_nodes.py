"""Leases of nodes, roles and changes, against a real Postgres."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cluster.members import TABLES, Memory, connect, identity, session
from tests.environments import ROOT
from tests.support.postgres import Postgres, run_sql
from tests.support.processes import Process, clean_environment, wait_until
from trustgate.cluster import changes, nodes, roles
from trustgate.cluster.database import DatabaseAway
from trustgate.cluster.following import one_at_a_time
from trustgate.cluster.member import Member
from trustgate.cluster.nodes import NodeBuried, list_nodes, node_findings
from trustgate.cluster.roles import Role, RoleLost, Tenure, check_tenure
from trustgate.errors import Unavailable
from trustgate.settings import PostgresAddress
from trustgate.store import open_store
from trustgate.store.changes import Change
from trustgate.types import Alias

LEASE_S = 30.0
RUN_OUT = "UPDATE nodes SET lease_until = clock_timestamp() - interval '1 second' WHERE node_id = $1"


@pytest.fixture(scope="module")
def database(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a schema with every table."""
    made = postgres.schema()

    async def make() -> None:
        home = tmp_path_factory.mktemp("home")
        await (await open_store(home / "trustgate.duckdb", PostgresAddress(made))).close()

    asyncio.run(make())
    run_sql(made, *(statement for statement in TABLES.split(";") if statement.strip()))
    return made


@pytest.fixture
def url(database: str) -> str:
    """The same, with the tables of nodes empty."""
    run_sql(database, "DELETE FROM nodes", "DELETE FROM roles", "TRUNCATE written, seen")
    return database


async def announce(connection: Any, body: bytes) -> int:
    """Make a change of operators, as far as nodes see it."""
    async with connection.transaction():
        number = await connection.fetchval("UPDATE progress SET changes = changes + 1 RETURNING changes")
        await connection.execute("INSERT INTO changes VALUES ($1, 0, '', '', $2)", number, body)
        await connection.execute("SELECT pg_notify($1, '')", changes.CHANNEL)
    return int(number)


async def bury(connection: Any) -> None:
    await nodes.bury(connection, no_holds)


async def no_holds(connection: Any, node_ids: Sequence[str]) -> None:
    """Nothing to give back."""


# nodes


async def test_a_node_whose_lease_is_over_is_buried_once_and_cannot_come_back(url: str) -> None:
    one, two = await connect(url), await connect(url)
    given: list[str] = []

    async def give_back(connection: Any, node_ids: Sequence[str]) -> None:
        await connection.execute("INSERT INTO seen (name, what) SELECT unnest($1::text[]), 'given back'", node_ids)
        given.extend(node_ids)

    dead = (await nodes.join(one, identity("dead"), LEASE_S)).node_id
    alive = (await nodes.join(one, identity("alive"), LEASE_S)).node_id
    await nodes.renew(one, dead, LEASE_S, 0)
    assert await nodes.bury(one, give_back) == []
    await one.execute(RUN_OUT, dead)
    buried = await asyncio.gather(nodes.bury(one, give_back), nodes.bury(two, give_back))
    assert sorted(buried) == [[], [dead]]
    assert given == [dead]
    with pytest.raises(NodeBuried):
        await nodes.renew(one, dead, LEASE_S, 0)
    await nodes.leave(one, alive, give_back)
    assert given == [dead, alive]
    await one.close()
    await two.close()


async def test_holds_that_cannot_be_given_back_keep_their_node(url: str) -> None:
    one = await connect(url)
    dead = (await nodes.join(one, identity(), LEASE_S)).node_id
    await one.execute(RUN_OUT, dead)

    async def fails(connection: Any, node_ids: Sequence[str]) -> None:
        await connection.execute("INSERT INTO seen (name, what) VALUES ('x', 'half')")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        await nodes.bury(one, fails)
    assert await one.fetchval("SELECT count(*) FROM seen") == 0
    assert await nodes.bury(one, no_holds) == [dead]
    await one.close()


async def test_a_burial_waits_for_a_write_under_way_and_a_renewal_does_not(url: str) -> None:
    writing, other = await connect(url), await connect(url)
    node_id = (await nodes.join(other, identity(), LEASE_S)).node_id
    async with writing.transaction():
        await writing.execute("SELECT 1 FROM nodes WHERE node_id = $1 FOR KEY SHARE", node_id)  # as each batch does
        async with asyncio.timeout(10):
            await nodes.renew(other, node_id, LEASE_S, 0)
        await other.execute(RUN_OUT, node_id)
        assert await nodes.bury(other, no_holds) == []
        await writing.execute("INSERT INTO written (name, epoch) VALUES ('a', 1)")
    assert await nodes.bury(other, no_holds) == [node_id]
    await writing.close()
    await other.close()


async def test_what_is_wrong_with_nodes_is_said(url: str) -> None:
    one = await connect(url)
    member = Member(identity("here"), session(url), Memory(), lease_s=LEASE_S)
    member.cannot_hold(Role.SEQUENCER, "its log.key is not the log's.")
    await member.join()
    assert member.node_id is not None
    await nodes.renew(one, member.node_id, LEASE_S, 0, {"sequencer": "its log.key is not the log's."})
    assert [finding for finding in node_findings(await list_nodes(one)) if "cannot be the sequencer" in finding]
    late = (await nodes.join(one, identity("late")._replace(version="2.0"), LEASE_S)).node_id
    await one.execute(RUN_OUT, late)
    await one.execute("UPDATE nodes SET skew_us = -5000000 WHERE node_id = $1", late)
    findings = "\n".join(node_findings(await list_nodes(one)))
    assert "http://late" in findings
    assert "has not renewed its lease" in findings
    assert "5.0 s behind" in findings
    assert "2 versions (1.0, 2.0)" in findings
    await member.leave()
    assert [node.id for node in await list_nodes(one)] == [late]
    await one.close()


# roles


async def test_one_of_many_takes_a_role_and_its_successor_has_the_next_epoch(url: str) -> None:
    connections = [await connect(url) for _ in range(8)]
    ids = [(await nodes.join(each, identity(), LEASE_S)).node_id for each in connections]
    taken = await asyncio.gather(
        *(roles.take(each, node_id, list(Role)) for each, node_id in zip(connections, ids, strict=True))
    )
    tenures = [tenure for found in taken for tenure in found]
    # A role that was locked just then is left; none is given twice.
    assert len({tenure.role for tenure in tenures}) == len(tenures)
    first = next(tenure for tenure in tenures if tenure.role == tenures[0].role)
    one = connections[0]
    await check_tenure(one, first)
    await one.execute(RUN_OUT, first.node_id)
    await nodes.bury(one, no_holds)
    with pytest.raises(RoleLost):
        await check_tenure(one, first)
    successor = next(node_id for node_id in ids if node_id != first.node_id)
    (second,) = await roles.take(one, successor, [first.role])
    assert second.epoch == first.epoch + 1
    # Taken again by its own holder, after a lapse: the older tenure is over.
    (third,) = await roles.take(one, successor, [first.role])
    with pytest.raises(RoleLost):
        await check_tenure(one, second)
    await roles.release(one, second)
    await check_tenure(one, third)
    for each in connections:
        await each.close()


async def test_a_role_is_not_lost_in_the_middle_of_a_write(url: str) -> None:
    writing, burying, looking = [await connect(url) for _ in range(3)]
    node_id = (await nodes.join(writing, identity(), LEASE_S)).node_id
    (tenure,) = await roles.take(writing, node_id, [Role.ANCHORER])
    await writing.execute(RUN_OUT, node_id)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'"
    async with writing.transaction():
        await check_tenure(writing, tenure)
        burial = asyncio.ensure_future(nodes.bury(burying, no_holds))
        async with asyncio.timeout(10):
            while not burial.done() and not await looking.fetchval(waiting, burying.get_server_pid()):
                pass
        assert not burial.done()
        await writing.execute("INSERT INTO written (name, epoch) VALUES ('a', 1)")
    assert await burial == [node_id]
    with pytest.raises(RoleLost):
        await check_tenure(writing, tenure)
    for each in (writing, burying, looking):
        await each.close()


@pytest.fixture
def start_writer(url: str, tmp_path: Path) -> Iterator[Any]:
    running: list[Process] = []

    def start(name: str) -> Process:
        command = [sys.executable, str(ROOT / "tests/cluster/members.py"), url, name, "1.0"]
        environment = clean_environment({"PYTHONPATH": str(ROOT)})
        process = Process(name, command, tmp_path, environment, tmp_path / f"{name}.log")
        running.append(process)
        return process

    yield start
    for process in running:
        process.signal(signal.SIGKILL)
        process.wait()


def test_a_holder_that_slept_cannot_write_over_its_successor(url: str, start_writer: Any) -> None:
    def count(what: str) -> int:
        return int(run_sql(url, f"SELECT count(*) FROM {what}")[0][0])

    first = start_writer("first")
    wait_until(lambda: count("written WHERE name = 'first'") > 20, "the first to write")
    start_writer("second")
    wait_until(lambda: count("nodes") == 2, "the second to join")
    first.signal(signal.SIGSTOP)
    wait_until(lambda: count("written WHERE name = 'second'") > 20, "the second to take the role")
    first.signal(signal.SIGCONT)
    # It finds itself buried and comes back as another node, while the second goes on.
    wait_until(lambda: count("nodes") == 2, "the first to join anew")
    before = count("written")
    wait_until(lambda: count("written") > before + 20, "more to be written")
    epochs = [row[0] for row in run_sql(url, "SELECT epoch FROM written ORDER BY n")]
    assert epochs == sorted(epochs)
    writers = run_sql(url, "SELECT epoch, count(DISTINCT name) FROM written GROUP BY epoch")
    assert {names for _, names in writers} == {1}


# changes


async def test_versions_are_in_the_order_of_commits_and_reach_every_node(url: str) -> None:
    memories = [Memory(), Memory()]
    members = [Member(identity(), session(url), memory, lease_s=LEASE_S) for memory in memories]
    for member in members:
        await member.join()
    running = [asyncio.ensure_future(member.run()) for member in members]
    connections = [await connect(url) for _ in range(4)]

    before = await connections[0].fetchval("SELECT changes FROM progress")
    versions = []
    for start in range(0, 40, 4):
        versions += await asyncio.gather(*(announce(each, b"%d" % (start + i)) for i, each in enumerate(connections)))
    assert sorted(versions) == list(range(before + 1, before + 41))
    asking = session(url)
    async with asyncio.timeout(20):
        await changes.wait_until_taken_in(asking, before + 40, bury)
    found = [each.body for each in await changes.read_after(connections[0], before)]
    assert memories[0].bodies == memories[1].bodies == found
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for closing in (asking, *connections):
        await closing.close()
    for member in members:
        await member.leave()


async def test_what_the_store_keeps_reaches_a_node_in_the_stores_form(url: str, tmp_path: Path) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb", PostgresAddress(url))
    memory = Memory()
    member = Member(identity(), session(url), memory, lease_s=LEASE_S)
    await member.join()
    alias = Alias(name="short", target="long")
    await store.put(alias)
    await member.renew()
    assert [msgspec.json.decode(body, type=Change).put for body in memory.bodies] == [(alias,)]
    await member.leave()
    await store.close()


async def test_a_command_waits_for_a_node_that_has_not_heard_until_its_lease_is_over(url: str) -> None:
    one = await connect(url)
    deaf = Member(identity("deaf"), session(url), Memory(), lease_s=LEASE_S)  # never runs, so it hears nothing
    await deaf.join()
    version = await announce(one, b"revoked")
    asking = session(url)
    waited_for: asyncio.Queue[list[str]] = asyncio.Queue()
    waiting = asyncio.ensure_future(changes.wait_until_taken_in(asking, version, bury, waited_for.put_nowait))
    assert await waited_for.get() == ["http://deaf"]
    assert not waiting.done()
    await one.execute(RUN_OUT, deaf.node_id)
    async with asyncio.timeout(10):
        await waiting
    # It is no node any more: what it decides by what it knows cannot be put on record.
    assert await list_nodes(one) == []
    await asking.close()
    await one.close()
    await deaf.leave()


# whether it may serve


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_node_stops_serving_before_its_lease_is_over_and_serves_again_once_it_has_heard_everything(
    url: str,
) -> None:
    clock, memory, one = Clock(), Memory(), await connect(url)
    member = Member(identity(), session(url), memory, lease_s=LEASE_S, clock=clock)
    assert not member.may_serve()
    await member.join()
    first = member.node_id
    clock.now_s += LEASE_S * 0.79
    assert member.may_serve()
    clock.now_s += LEASE_S * 0.02
    assert not member.may_serve()
    version = await announce(one, b"while it slept")

    heard_while_serving: list[bool] = []
    take_in = memory.take_in

    async def watched(found: Sequence[changes.Announced]) -> None:
        heard_while_serving.append(member.may_serve())
        await take_in(found)

    memory.take_in = watched  # type: ignore[method-assign]
    await member.renew()
    assert (member.may_serve(), memory.bodies, heard_while_serving) == (True, [b"while it slept"], [False])
    assert [node.taken_in for node in await list_nodes(one)] == [version]
    # Buried: another node from then on, with everything loaded anew.
    await one.execute(RUN_OUT, first)
    await nodes.bury(one, no_holds)
    await member.renew()
    assert not member.may_serve()
    await member.renew()
    assert member.may_serve()
    assert member.node_id not in (None, first)
    assert memory.loads == 2
    await member.leave()
    assert not member.may_serve()
    assert await list_nodes(one) == []
    await one.close()


async def test_a_node_that_cannot_take_in_a_change_loses_its_lease(url: str) -> None:
    clock, memory, one = Clock(), Memory(), await connect(url)
    member = Member(identity(), session(url), memory, lease_s=LEASE_S, clock=clock)
    await member.join()
    await announce(one, b"odd")

    async def fails(found: Sequence[changes.Announced]) -> None:
        raise ValueError("cannot read this")

    memory.take_in = fails  # type: ignore[method-assign]
    await member.renew()
    lease = (await list_nodes(one))[0].lease_left_s
    clock.now_s += LEASE_S * 0.7
    await member.renew()
    assert (await list_nodes(one))[0].lease_left_s <= lease
    clock.now_s += LEASE_S * 0.2
    assert not member.may_serve()
    await member.leave()
    await one.close()


async def test_a_cut_connection_is_made_anew_and_what_was_missed_is_heard(url: str) -> None:
    memory, one = Memory(), await connect(url)
    member = Member(identity(), session(url), memory, lease_s=LEASE_S)
    await member.join()
    others = "FROM pg_stat_activity WHERE query LIKE '%nodes%' AND pid <> pg_backend_pid()"
    assert await one.fetch(f"SELECT pg_terminate_backend(pid) {others}")
    await announce(one, b"missed")
    await member.renew()
    await member.renew()
    assert memory.bodies == [b"missed"]
    await member.leave()
    await one.close()


async def test_a_job_that_has_ended_before_its_role_is_lost_is_told_of_once(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: Tenure) -> None:
        raise Unavailable("The database is away.")

    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    member = Member(identity(), session(url), Memory(), lease_s=LEASE_S)
    member.while_holding(Role.ANCHORER, fail)
    await member.join()
    await member.renew()
    await asyncio.sleep(0)
    await member.leave()
    del member
    gc.collect()
    assert not unheard
    assert caplog.text.count("the job of the anchorer ended: The database is away.") == 1


# a session


@pytest.mark.parametrize("kind", ["another service is away", "a disk is full", "a file is missing"])
async def test_an_error_of_a_block_that_is_not_the_databases_is_raised_as_it_is(url: str, kind: str) -> None:
    errors: dict[str, Exception] = {
        "another service is away": Unavailable("The facilitator is away."),
        "a disk is full": OSError(errno.ENOSPC, "No space left on device"),
        "a file is missing": FileNotFoundError(errno.ENOENT, "No such file", "checkpoint"),
    }
    asking = session(url)

    async def fail() -> None:
        async with asking.use() as connection, connection.transaction():
            await connection.execute("INSERT INTO seen (name, what) VALUES ('a', 'b')")
            raise errors[kind]

    with pytest.raises(type(errors[kind])) as raised:
        await fail()
    assert raised.value is errors[kind]
    async with asking.use() as connection:
        assert await connection.fetchval("SELECT count(*) FROM seen") == 0
    await asking.close()


async def test_a_connection_that_was_lost_is_the_databases_absence(url: str) -> None:
    asking = session(url)
    with pytest.raises(DatabaseAway, match="The database is away"):
        async with asking.use() as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    async with asking.use() as connection:
        assert await connection.fetchval("SELECT 1") == 1
    await asking.close()


async def test_who_waits_for_another_for_too_long_is_told_so(url: str) -> None:
    first, second = session(url), session(url, 0.2)
    async with one_at_a_time(first, "command"):
        with pytest.raises(Unavailable, match=r"Another process is at work \(command\), and did not end in 0\.2 s"):
            async with one_at_a_time(second, "command"):
                pass
    await asyncio.gather(first.close(), second.close())
