"""What a chaos run plays with: a gateway on a small disk, an upstream, a chain behind a node that can fail, a clock.

Owns the processes and their faults' switches. What happened is in ``Told``: what clients were told is the yardstick
of every check.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.support.gateway import Gateway
from tests.support.shifted_clock import ShiftedClock
from tests.support.tokens import SOL, Token, Wallet
from tests.support.upstream import CLOSE, HANG, RESET, Recorded, Reply, Upstream, answer_like_openai
from trustgate.localnet import running_localnet

MODEL, PAID_MODEL = "open-model", "paid-model"
#: What a month's quota of requests grows by in each round.
QUOTA_STEP = 60
_UNITS = 50_000_000

_BOTH = ("--tenant", "free", "--tenant", "frugal")
_EACH = ("--each", "end-user")

UpstreamMode = Literal["ok", "fail", "reset", "hang", "lie", "cut"]
NodeMode = Literal["ok", "refuse", "hang", "garbage"]

_LIES: tuple[Any, ...] = (
    {"prompt_tokens": 18446744073709551615, "completion_tokens": 5},
    {"prompt_tokens": -1, "completion_tokens": "many", "total_tokens": None},
    {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 1e300},
    {"prompt_tokens": 7, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 10**19}},
    [],
    "none",
)
_HALF_A_CHARACTER = rb'{"model": "\ud800", "choices": [{"index": 0, "message": {"content": "\udc00"}}]}'


class Buyer(NamedTuple):
    tenant: str
    key: str
    wallet: Wallet
    seller: str


class Told:
    """What clients and the operator were told; nothing of it may turn out wrong."""

    def __init__(self) -> None:
        #: Receipts whose answer was read to its end: id → tenant's name.
        self.receipts: dict[str, str] = {}
        #: Keys whose revocation was confirmed.
        self.revoked: set[str] = set()
        #: The fault that is being done, or was done last.
        self.fault = ""
        #: How often what happened, for the report.
        self.counts: Counter[str] = Counter()


class Node:
    """A TCP proxy before the chain's RPC node: passes on, refuses, hangs, or answers garbage."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._mode: NodeMode = "ok"
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def switch(self, mode: NodeMode) -> None:
        """From now on; open connections end."""
        self._mode = mode
        for writer in list(self._open):
            writer.transport.abort()

    async def close(self) -> None:
        self.switch("refuse")
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self._mode == "ok":
                await self._pass(reader, writer)
            elif self._mode == "hang":
                await reader.read()
            elif self._mode == "garbage":
                await reader.read(64)
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{"result": ')
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._open.add(back)
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            self._open.discard(back)
            back.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        target.close()


class World:
    """Made by ``world``."""

    def __init__(self, folder: Path, disk: Path | None, upstream: Upstream, node: Node, token: Token) -> None:
        #: Where the home is; on a small disk of its own where one can be mounted.
        self.disk = disk
        self.home = (disk or folder) / "home"
        self.folder = folder
        self.upstream = upstream
        self.node = node
        self.token = token
        self.told = Told()
        self.chance = random.Random()
        self.upstream_mode: UpstreamMode = "ok"
        self._clock = ShiftedClock(folder / "clock")
        self.quota = 0
        #: Tenant → keys that work.
        self.keys: dict[str, list[str]] = {}
        self.buyers: list[Buyer] = []
        #: The keypair file of who pays for anchors.
        self.payer = folder / "anchor.json"
        upstream.default = self._answer
        self.gateway = Gateway(
            self.home,
            upstream=upstream.api_url,
            environment={
                "TRUSTGATE_PAYMENT_SOLANA_DEVNET_RPC": node.url,
                **self._clock.environment,
            },
            forked=False,
        )
        self.gateway.log_path = folder / "home.log"

    def shift_clock(self, seconds: float) -> None:
        """Set the gateway's clock ahead of the real one, or behind it."""
        self._clock.shift(seconds)

    async def command(self, *arguments: str, check: bool = True) -> str:
        """A command of the operator's; its output. Never a traceback."""
        done = await asyncio.to_thread(self.gateway.cli, *arguments, check=check)
        return done.stdout if done.returncode == 0 else ""

    async def command_json(self, *arguments: str) -> Any:
        return json.loads(await self.command(*arguments, "--json"))

    async def start(self) -> None:
        await asyncio.to_thread(self.gateway.start)

    async def kill(self) -> None:
        """kill -9. Nothing where none was started; one that a fault has killed since is over with it."""
        if self.gateway.is_started:
            await asyncio.to_thread(self.gateway.kill)

    async def heal(self) -> None:
        """No fault is left: all that is switched off is on, and the gateway runs."""
        self.upstream_mode = "ok"
        self.node.switch("ok")
        self.shift_clock(0)
        if not self.gateway.is_running:
            await self.start()

    async def furnish(self) -> None:
        """The tenants: one without limits, one with a quota, one who pays in advance, two who pay on the chain."""
        fee_payer = (await self.command_json("payment", "keygen"))["pubkey"]
        await self.token.rpc.request_airdrop(fee_payer, 100 * SOL)
        await self.token.fee_payer(self.payer)
        prices = ("--input-price", "100", "--output-price", "1000")
        await self.start()
        for model in (MODEL, PAID_MODEL):
            await self.command("passport", "add", model, "--base-url", self.upstream.api_url, *prices)
        self.quota = QUOTA_STEP
        await self.command("plan", "add", "counted", "--requests-per-month", str(self.quota))
        await self.command("plan", "add", "frugal", "--usd-per-month", "5", "--tokens-per-minute", "20000")
        for name, plan in (("free", "internal"), ("counted", "counted"), ("frugal", "frugal")):
            added = await self.command_json("tenant", "add", name, "--plan", plan)
            self.keys[name] = [added["key"]["secret"]]
        await self.command("budget", "add", "team", "--requests", "100000", "--per", "month", *_BOTH)
        await self.command("budget", "add", "rolling", "--tokens", "10000000", "--per", "6h", *_BOTH, "--soft")
        await self.command("budget", "add", "each", "--usd", "100", "--per", "day", "--tenant", "free", *_EACH)
        key_id = (await self.command_json("key", "list", "free"))["keys"][0]["id"]
        await self.command("key", "set", key_id, "--end-users", "user")
        await self.command("notify", "add", "--command", "true", "--on", "all")
        wallets = [(await self.token.wallet(units=_UNITS), await self.token.wallet()) for _ in range(2)]
        await self.token.wait_final()
        for number, (wallet, seller) in enumerate(wallets, start=1):
            added = await self.command_json("tenant", "add", f"buyer-{number}", "--plan", "internal")
            mode = "per-request" if number == 1 else "prepaid"
            await self.command(
                *("payment", "set", f"buyer-{number}", "--mode", mode, "--network", "solana-devnet"),
                *(
                    "--pay-to",
                    seller.address,
                    "--asset",
                    self.token.mint,
                    "--facilitator",
                    "embedded",
                    "--top-up",
                    "0.05",
                ),
            )
            self.buyers.append(Buyer(f"buyer-{number}", added["key"]["secret"], wallet, seller.address))

    def _answer(self, request: Recorded) -> Reply:
        mode = self.upstream_mode
        # Not every request at once: a fault that hits all of them tests one path alone.
        if mode == "ok" or self.chance.random() < 0.3:
            return answer_like_openai(request)
        if mode == "fail":
            return Reply.error(self.chance.choice([400, 401, 429, 500, 503]))
        if mode == "reset":
            return Reply.raw(RESET)
        if mode == "hang":
            return Reply.raw(HANG)
        if mode == "lie":
            usage = self.chance.choice(_LIES)
            return self.chance.choice([Reply.chat(usage=usage), Reply.html(200), Reply.body(_HALF_A_CHARACTER)])
        return answer_like_openai(request).cut(1, CLOSE)


@asynccontextmanager
async def world(folder: Path, disk: Path | None) -> AsyncIterator[World]:
    """A furnished world whose gateway runs. ``disk``: a folder that may be filled up."""
    upstream = Upstream().start()
    try:
        async with running_localnet(slot_ms=100, finality_slots=4) as net:
            node = Node(int(net.url.rpartition(":")[2].strip("/")))
            await node.start()
            try:
                async with Token.made(net.url) as token:
                    found = World(folder, disk, upstream, node, token)
                    try:
                        await found.furnish()
                        yield found
                    finally:
                        with contextlib.suppress(AssertionError):
                            await found.kill()
            finally:
                await node.close()
    finally:
        upstream.stop()


def copy_of(home: Path, target: Path) -> Path:
    """A copy of a home whose server does not run."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(home, target, symlinks=True, ignore=_sockets))


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]


assert sys.platform == "linux", "chaos runs need Linux: /proc, tmpfs, SIGSTOP"
