"""Flushes in processes of their own, to be killed.

A mother process (``python -m tests.support.flush_driver``) imports what a flush needs, once, and forks a child for each
order that it reads, so that hundreds of them cost little. A child opens the store of its home, flushes a made-up log
with the real code, and writes what came of it. ``Drivers`` is the test's side of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from trustgate.errors import RpcUnavailable, TrustGateError
from trustgate.receipts.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from trustgate.receipts.logkey import LogKey
from trustgate.solana.anchors import AnchorBook, Anchorer, AnchorTarget, RetryTiming
from trustgate.solana.clusters import find_cluster
from trustgate.solana.keypair import PayerKey
from trustgate.solana.memo import Fee, sign_memo
from trustgate.types import Anchor

#: Of chains with slots of some 10 ms.
TIMING = RetryTiming(timeout_s=20.0, poll_s=0.04, resend_s=0.15, backoff_s=0.03)
CALL_TIMEOUT_S = 0.5

_CRASHED = 70


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One flush. From ``name`` the keys and the log follow; ``home`` has the store."""

    #: No other order of this mother has it.
    id: str
    name: str
    home: str
    url: str
    tree_size: int
    #: Kill itself at the so many-th time that something is recorded: before it, or after.
    kill_at_save: tuple[int, Literal["before", "after"]] | None = None
    #: Take a lock on the home first, as the store's would be, and wait for it.
    wait_for_lock: bool = False
    timeout_s: float = TIMING.timeout_s


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a flush that lived to its end has to say. ``error`` is a class of the error tree; "" for none."""

    error: str = ""
    message: str = ""
    anchored: bool = False
    signature: str = ""
    tree_size: int = 0
    anchors: tuple[Anchor, ...] = ()


def log_key(name: str) -> LogKey:
    return LogKey(f"example.com/{name}", hashlib.sha256(b"log " + name.encode()).digest())


def payer_key(name: str) -> PayerKey:
    return PayerKey.from_seed(hashlib.sha256(b"payer " + name.encode()).digest())


def root_of(name: str, size: int) -> bytes:
    """The root of a log that is made up."""
    return hashlib.sha256(f"{name} {size}".encode()).digest()


def target_of(name: str, size: int) -> AnchorTarget:
    key = log_key(name)

    async def root_at(size: int) -> bytes:
        return root_of(name, size)

    return AnchorTarget(
        tree_size=size,
        root=root_of(name, size),
        note=sign_checkpoint(Checkpoint(key.name, size, root_of(name, size)), key),
        origin=key.name,
        open_note=lambda note: open_checkpoint(note, key.verifier),
        root_at=root_at,
    )


class _Deadly:
    """A book that kills the process at one of its saves."""

    def __init__(self, book: AnchorBook, kill_at: tuple[int, Literal["before", "after"]] | None) -> None:
        self._book = book
        self._kill_at = kill_at
        self._saves = 0

    async def anchors(self) -> list[Anchor]:
        return await self._book.anchors()

    async def put(self, anchor: Anchor, /) -> None:
        self._saves += 1
        if self._kill_at == (self._saves, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        await self._book.put(anchor)
        if self._kill_at == (self._saves, "after"):
            os.kill(os.getpid(), signal.SIGKILL)


async def _flush(order: Order) -> Outcome:
    from trustgate.solana.rpc import RpcClient
    from trustgate.store import open_store

    store = await open_store(Path(order.home) / "trustgate.duckdb")
    try:
        anchorer = Anchorer(_Deadly(store, order.kill_at_save), timing=TIMING._replace(timeout_s=order.timeout_s))
        async with RpcClient(find_cluster(order.url), timeout_s=CALL_TIMEOUT_S) as rpc:
            try:
                result = await anchorer.flush(
                    rpc, payer_key(order.name), target_of(order.name, order.tree_size), max_fee_lamports=20_000
                )
            except TrustGateError as error:
                told = Outcome(error=type(error).__name__, message=error.message)
            else:
                told = Outcome(anchored=result.anchored, signature=result.signature, tree_size=result.tree_size)
        return msgspec.structs.replace(told, anchors=tuple(await store.anchors()))
    finally:
        await store.close()


def _child(order: Order) -> None:
    """Never returns."""
    home = Path(order.home)
    try:
        if order.wait_for_lock:
            lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = asyncio.run(_flush(order))
        (home / f"{order.id}.json").write_bytes(msgspec.json.encode(outcome))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the mother's stack must not go on in the child
        (home / f"{order.id}.crash").write_text(traceback.format_exc())
        os._exit(_CRASHED)


def main() -> None:
    """Until stdin ends: ``{order}`` forks a child that waits, ``go ID`` lets it begin."""
    asyncio.run(_load())
    gates: dict[str, int] = {}
    ids: dict[int, str] = {}
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    received = b""
    while True:
        ready, _, _ = select.select([0, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(ids)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                if line.startswith(b"go "):
                    os.write(gates.pop(line[3:].decode()), b"!")
                else:
                    _fork(msgspec.json.decode(line, type=Order), gates, ids)


async def _load() -> None:
    """Import what a child imports, by doing what it does as far as a node that is not there lets it."""
    import trustgate.store.duckdb  # noqa: F401
    from trustgate.solana.rpc import RpcClient

    sign_memo(payer_key("nobody"), target_of("nobody", 1).note, payer_key("nobody").address, Fee(1, 1, 1))
    with contextlib.suppress(RpcUnavailable):
        async with RpcClient(find_cluster("http://127.0.0.1:9")) as rpc:
            await rpc.genesis_hash()


def _fork(order: Order, gates: dict[str, int], ids: dict[int, str]) -> None:
    gate_read, gate_write = os.pipe()
    pid = os.fork()
    if not pid:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.read(gate_read, 1)
        _child(order)
    os.close(gate_read)
    gates[order.id] = gate_write
    ids[pid] = order.id
    _say({"id": order.id, "pid": pid})


def _reap(ids: dict[int, str]) -> None:
    while ids:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _say({"id": ids.pop(pid), "exit": os.waitstatus_to_exitcode(status)})


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


class Ended(NamedTuple):
    """A child's end: ``outcome`` is None if it was killed (``exit_code`` is minus the signal's number)."""

    exit_code: int
    outcome: Outcome | None


class Drivers:
    """The mother process, as the tests use it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Use ``running``."""
        self._process = process
        self._heard: dict[str, asyncio.Queue[dict[str, Any]]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator[Drivers]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.flush_driver", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        drivers = cls(process)
        listening = asyncio.create_task(drivers._listen())
        try:
            yield drivers
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            await listening

    async def run(self, order: Order, begun: Callable[[int], None] = lambda _: None) -> Ended:
        """Let a child do it. ``begun`` hears its process id before it does anything."""
        heard = self._heard[order.id] = asyncio.Queue()
        self._tell(msgspec.json.encode(order))
        begun((await heard.get())["pid"])
        self._tell(f"go {order.id}".encode())
        exit_code = (await heard.get())["exit"]
        home = Path(order.home)
        if exit_code == _CRASHED:
            raise AssertionError((home / f"{order.id}.crash").read_text())
        if exit_code:
            return Ended(exit_code, None)
        return Ended(0, msgspec.json.decode((home / f"{order.id}.json").read_bytes(), type=Outcome))

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            document = json.loads(line)
            self._heard[document["id"]].put_nowait(document)


if __name__ == "__main__":
    main()
