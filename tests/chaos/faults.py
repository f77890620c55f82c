"""What goes wrong in a chaos run. Each fault is done while clients are at work, and undone by its own end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.chaos import checks
from tests.chaos.clients import Traffic
from tests.chaos.world import MODEL, NodeMode, UpstreamMode, World, copy_of
from tests.support.disks import fill

Fault = Callable[[World, Traffic, random.Random], Awaitable[None]]


async def kill(world: World, traffic: Traffic, chance: random.Random) -> None:
    """kill -9, and a new start."""
    await world.kill()
    await world.start()


async def kill_starts(world: World, traffic: Traffic, chance: random.Random) -> None:
    """kill -9 of a server, then of some that are about to start."""
    await world.kill()
    for _ in range(chance.randrange(1, 3)):
        start = asyncio.create_task(world.start())
        while not start.done():
            pid = _pid_of_start(world)
            await asyncio.sleep(chance.random() * 0.5)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                break
        with contextlib.suppress(AssertionError):
            await start
            await world.kill()
    await world.start()


def _pid_of_start(world: World) -> int | None:
    """The process that holds, or waits for, the home: the one whose command line names it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if str(world.home).encode() in line and b"\0serve\0" in line:
                return int(path.parent.name)
    return None


async def terminate(world: World, traffic: Traffic, chance: random.Random) -> None:
    """SIGTERM, and a new start; what is under way is let end."""
    code = await asyncio.to_thread(world.gateway.stop)
    assert code == 0, f"SIGTERM ended it with exit code {code}"
    await world.start()


async def stop_and_continue(world: World, traffic: Traffic, chance: random.Random) -> None:
    """The machine sleeps for a moment (SIGSTOP, SIGCONT)."""
    process = world.gateway.process
    process.signal(signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(0.2, 2.0))
    process.signal(signal.SIGCONT)
    await traffic.wait_for(20)


async def full_disk(world: World, traffic: Traffic, chance: random.Random) -> None:
    """No room on the disk; killed there, or not; then room again."""
    if world.disk is None:
        world.told.counts["full disks that could not be had"] += 1
        return
    filler = fill(world.disk)
    try:
        await traffic.wait_for(60, timeout_s=5)
        if chance.random() < 0.3:
            await world.kill()
    finally:
        filler.unlink()
    if not world.gateway.is_running:
        await world.start()
    await traffic.wait_for(20)


async def clock(world: World, traffic: Traffic, chance: random.Random) -> None:
    """The clock is set ahead, or back, and right again."""
    world.shift_clock(chance.choice([-7_200, -90, -1, 1, 90, 7_200]))
    await traffic.wait_for(40)
    if chance.random() < 0.4:
        await kill(world, traffic, chance)
        await traffic.wait_for(20)
    world.shift_clock(0)
    await traffic.wait_for(20)


async def bad_upstream(world: World, traffic: Traffic, chance: random.Random) -> None:
    """The LLM server fails, resets, hangs, lies or breaks off."""
    modes: tuple[UpstreamMode, ...] = ("fail", "reset", "hang", "lie", "cut")
    world.upstream_mode = chance.choice(modes)
    world.told.counts[f"upstream: {world.upstream_mode}"] += 1
    await traffic.wait_for(60, timeout_s=10)
    world.upstream_mode = "ok"


async def bad_node(world: World, traffic: Traffic, chance: random.Random) -> None:
    """The chain's node refuses, hangs, or answers garbage, while people pay and an anchor is due."""
    modes: tuple[NodeMode, ...] = ("refuse", "hang", "garbage")
    mode = chance.choice(modes)
    world.told.counts[f"node: {mode}"] += 1
    world.node.switch(mode)
    await traffic.wait_for(60, timeout_s=8)
    world.node.switch("ok")


async def revoke(world: World, traffic: Traffic, chance: random.Random) -> None:
    """A key is made, used, and revoked; from the moment the command returns it is dead."""
    tenant = chance.choice(sorted(world.keys))
    made = await world.command_json("key", "create", tenant)
    secret, key_id = made["key"]["secret"], made["key"]["id"]
    world.keys[tenant].append(secret)
    await traffic.wait_for(30)
    world.keys[tenant].remove(secret)
    await world.command("key", "revoke", key_id)
    world.told.revoked.add(secret)
    await traffic.wait_for(10)


async def change_plan(world: World, traffic: Traffic, chance: random.Random) -> None:
    """Limits and prices change under way."""
    await world.command("plan", "set", "frugal", "--tokens-per-minute", str(chance.randrange(1_000, 50_000)))
    await world.command("passport", "set", MODEL, "--input-price", str(chance.randrange(50, 500)), "--yes")
    await traffic.wait_for(20)


async def reload(world: World, traffic: Traffic, chance: random.Random) -> None:
    """SIGHUP with a settings file that is new, wrong, or gone."""
    path = world.home / "trustgate.toml"
    text = chance.choice(["[log]\nrequests = true\n", "[log]\nrequests = maybe\n", "[nonsense", ""])
    path.write_text(text)
    world.gateway.process.signal(signal.SIGHUP)
    await traffic.wait_for(20)
    path.unlink()
    world.gateway.process.signal(signal.SIGHUP)


async def back_up(world: World, traffic: Traffic, chance: random.Random) -> None:
    """A backup is made under load; restored, it is a home whose books balance."""
    target = world.folder / "backup.tar"
    told = set(world.told.receipts)
    await world.command("backup", str(target), "--force")
    await checks.backup_holds(world, target, told)


async def credit(world: World, traffic: Traffic, chance: random.Random) -> None:
    """The operator gives a customer credit, while that one pays."""
    buyer = chance.choice(world.buyers)
    await world.command("tenant", "credit", buyer.tenant, "--add", "0.01")
    await traffic.wait_for(10)


async def anchor(world: World, traffic: Traffic, chance: random.Random) -> None:
    """An anchor is posted; whether it succeeds is the node's affair."""
    done = await world.command("anchor", "flush", "--rpc", world.node.url, "--keypair", str(world.payer), check=False)
    world.told.counts["anchors posted" if done else "anchors that failed"] += 1


async def damaged_home(world: World, traffic: Traffic, chance: random.Random) -> None:
    """Killed, and a file is damaged: the start refuses with a sentence, or serves and has lost nothing."""
    await world.kill()
    kept = copy_of(world.home, world.folder / "kept")
    path = chance.choice([file for file in sorted(world.home.rglob("*")) if file.is_file() and file.stat().st_size])
    data = bytearray(path.read_bytes())
    how = chance.choice(["empty", "cut", "flip", "missing"])
    world.told.counts[f"damage: {how} {'a journal file' if path.suffix == '.journal' else path.name}"] += 1
    if how == "missing":
        path.unlink()
    else:
        at = chance.randrange(len(data))
        data[at] ^= 0xFF
        path.write_bytes(b"" if how == "empty" else data if how == "flip" else data[:at])
    served = True
    try:
        await world.start()
    except AssertionError as refusal:
        world.told.counts["damage that a start refused"] += 1
        served = "Traceback" in str(refusal)
        assert not served, refusal  # noqa: PT017 - the refusal is what is looked at
    if served:
        # What it has signed and acknowledged since then stays; only a file that people write is put right.
        await checks.receipts_are_kept(world)
        await world.kill()
        if path.suffix in (".json", ".toml", ".key"):
            shutil.copy2(kept / path.relative_to(world.home), path)
    else:
        copy_of(kept, world.home)
    await world.start()


FAULTS: dict[str, Fault] = {
    "kill": kill,
    "kill_starts": kill_starts,
    "terminate": terminate,
    "stop_and_continue": stop_and_continue,
    "full_disk": full_disk,
    "clock": clock,
    "bad_upstream": bad_upstream,
    "bad_node": bad_node,
    "revoke": revoke,
    "change_plan": change_plan,
    "reload": reload,
    "back_up": back_up,
    "credit": credit,
    "anchor": anchor,
    "damaged_home": damaged_home,
}
