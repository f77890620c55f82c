"""A local chain that is kept in a folder: what survives, who may open it, and ``trustgate localnet``."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Processed
from solana.rpc.models import TxOpts
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import CreateAccountParams, create_account
from solders.sysvar import CLOCK, RENT
from solders.transaction import VersionedTransaction

from tests.support.processes import PATIENCE_S, Process, clean_environment
from trustgate.errors import HomeUnusable, OperatorError, StoreDamaged, StoreLocked, StoreTooNew
from trustgate.localnet import Localnet, find_or_start, running_localnet
from trustgate.localnet.clock import block_height

ROOT = Path(__file__).parents[2]
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
SOL = 10**9
SEND = TxOpts(preflight_commitment=Processed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "localnet"


def by_hand(folder: Path, **options: Any) -> contextlib.AbstractAsyncContextManager[Localnet]:
    return running_localnet(**{"folder": folder, "slot_ms": 0, "finality_slots": 4, **options})


@contextlib.asynccontextmanager
async def asking(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, commitment=Processed) as client:
        yield client


async def write_memo(client: AsyncClient, payer: Keypair, text: bytes, options: TxOpts = SEND) -> Signature:
    latest = (await client.get_latest_blockhash()).value.blockhash
    memo = Instruction(MEMO, text, [AccountMeta(payer.pubkey(), True, False)])
    message = MessageV0.try_compile(payer.pubkey(), [memo], [], latest)
    return (await client.send_transaction(VersionedTransaction(message, [payer]), options)).value


async def fill(net: Localnet, count: int) -> Keypair:
    """An airdrop, and so many memos, the third of which fails; two to a slot."""
    payer = Keypair()
    net.airdrop(str(payer.pubkey()), SOL)
    async with asking(net.url) as client:
        for number in range(count):
            text = b"\xff" if number == 2 else f"memo {number}".encode()
            await write_memo(client, payer, text, TxOpts(skip_preflight=True))
            if number % 2:
                net.advance()
    return payer


def told(net: Localnet) -> list[Any]:
    """Everything that the chain tells of its transactions."""
    return [
        (entry.slot, net.chain.clock.time_s(entry.slot), bytes(entry.transaction), *entry[4:])
        for entry in net.chain.entries
    ]


# what survives


async def test_a_chain_goes_on_where_it_was(folder: Path) -> None:
    async with by_hand(folder) as net:
        genesis, payer = net.genesis, await fill(net, 6)
        before, slot = told(net), net.slot
        (balance,) = {net.chain.bank.lamports(payer.pubkey())}
    for _ in range(2):
        async with by_hand(folder) as net, asking(net.url) as client:
            assert net.genesis == genesis
            assert told(net)[: len(before)] == before
            assert net.slot > slot
            assert net.chain.bank.lamports(payer.pubkey()) == balance
            await write_memo(client, payer, b"one more")
            before, slot = told(net), net.slot
            balance = net.chain.bank.lamports(payer.pubkey())
    assert [each[3].err is not None for each in before].count(True) == 1


async def test_what_landed_before_a_restart_cannot_land_after_it(folder: Path) -> None:
    payer = Keypair()
    async with by_hand(folder) as net, asking(net.url) as client:
        net.airdrop(str(payer.pubkey()), SOL)
        await write_memo(client, payer, b"once")
        sent = net.chain.entries[-1].transaction
    async with by_hand(folder) as net:
        assert net.chain.send(sent) is None
        assert len(net.chain.entries) == 2


async def test_time_goes_on_while_nobody_runs_the_chain(folder: Path) -> None:
    """A slot seen once never comes again, and a blockhash does not live longer because the chain was closed."""
    seen = 0
    for _ in range(4):
        async with running_localnet(folder=folder, slot_ms=1) as net:
            assert net.slot > seen
            reached = net.slot + 5
            while net.slot < reached:
                pass
            seen = net.slot
            latest = net.chain.clock.hash_at(seen)
            assert latest.last_valid_block_height == block_height(seen) + 150
    async with running_localnet(folder=folder, slot_ms=1) as net:
        while net.slot <= seen + 151:
            pass
        assert not net.chain.blockhash_is_valid(latest.blockhash, "processed")


async def test_a_chain_moved_by_hand_does_not_fall_back(folder: Path) -> None:
    async with by_hand(folder) as net:
        net.advance(500)
        slot, latest = net.slot, net.chain.clock.hash_at(net.slot)
    async with by_hand(folder) as net:
        assert net.slot == slot + 1
        assert net.chain.blockhash_is_valid(latest.blockhash, "processed")


async def test_the_genesis_hash_of_a_chain_stays(folder: Path) -> None:
    posed = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"
    async with by_hand(folder, genesis=posed) as net:
        assert net.genesis == posed
    async with by_hand(folder) as net:
        assert net.genesis == posed
    with pytest.raises(OperatorError, match="has the genesis hash"):
        async with by_hand(folder, genesis="4uhcVJyU9pJkvQyS88uRDiswHXSCkY3zQawwpjk2NsNY"):
            pass
    with pytest.raises(OperatorError, match="not a genesis hash"):
        async with by_hand(folder, genesis="devnet"):
            pass


async def test_only_the_owner_may_read_the_folder(folder: Path) -> None:
    async with by_hand(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "ledger").stat().st_mode & 0o777 == 0o600


async def test_a_program_that_was_deployed_stays(folder: Path) -> None:
    """Programs are loaded in many transactions, and LiteSVM keeps them beside the accounts."""
    program = Keypair()
    async with by_hand(folder) as net:
        payer = Keypair()
        net.airdrop(str(payer.pubkey()), 100 * SOL)
        deploy(net, payer, program, net.chain.bank.account(MEMO).data)  # type: ignore[union-attr]
        net.advance()
    for _ in range(2):
        async with by_hand(folder) as net:
            send(net, [payer], Instruction(program.pubkey(), b"my own memo", []))
            assert any('"my own memo"' in line for line in net.chain.entries[-1].outcome.logs)
            net.advance()


def deploy(net: Localnet, payer: Keypair, program: Keypair, code: bytes) -> None:
    """As `solana program deploy` does it. Source: the interface of the upgradeable loader."""
    buffer, rent = Keypair(), net.chain.bank.rent_exempt_lamports
    place, _ = Pubkey.find_program_address([bytes(program.pubkey())], LOADER)

    def make(key: Pubkey, size: int) -> Instruction:
        return create_account(
            CreateAccountParams(
                from_pubkey=payer.pubkey(), to_pubkey=key, lamports=rent(size), space=size, owner=LOADER
            )
        )

    authority = AccountMeta(payer.pubkey(), True, False)
    target = AccountMeta(buffer.pubkey(), False, True)
    initialize = Instruction(LOADER, struct.pack("<I", 0), [target, AccountMeta(payer.pubkey(), False, False)])
    send(net, [payer, buffer], make(buffer.pubkey(), 37 + len(code)), initialize)
    for start in range(0, len(code), 900):
        part = code[start : start + 900]
        write = struct.pack("<IIQ", 1, start, len(part)) + part
        send(net, [payer], Instruction(LOADER, write, [target, authority]))
    net.advance()
    roles = [
        AccountMeta(payer.pubkey(), True, True),
        AccountMeta(place, False, True),
        AccountMeta(program.pubkey(), False, True),
        target,
        AccountMeta(RENT, False, False),
        AccountMeta(CLOCK, False, False),
        AccountMeta(Pubkey.default(), False, False),
        authority,
    ]
    finish = Instruction(LOADER, struct.pack("<IQ", 2, len(code)), roles)
    send(net, [payer, program], make(program.pubkey(), 36), finish)


def send(net: Localnet, signers: list[Keypair], *instructions: Instruction) -> None:
    blockhash = Hash.from_string(net.chain.clock.hash_at(net.slot).blockhash)
    message = MessageV0.try_compile(signers[0].pubkey(), instructions, [], blockhash)
    entry = net.chain.send(VersionedTransaction(message, signers))
    assert entry is not None
    assert entry.outcome.err is None


# damage


async def test_a_line_that_a_crash_cut_off_is_dropped(folder: Path) -> None:
    async with by_hand(folder) as net:
        await fill(net, 4)
        before = told(net)
    whole = (folder / "ledger").read_bytes()
    starts = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")][:-1]
    last = max(start for start in starts if b'"transaction"' in whole[start : whole.index(b"\n", start)])
    for cut in sorted({*random.Random(1).sample(range(last + 1, whole.index(b"\n", last)), 12), last + 1}):
        (folder / "ledger").write_bytes(whole[:cut])
        async with by_hand(folder) as net, asking(net.url) as client:
            assert told(net) == before[:-1]
            payer = Keypair()
            net.airdrop(str(payer.pubkey()), SOL)
            await write_memo(client, payer, b"after")
        async with by_hand(folder) as net:
            assert told(net)[: len(before) - 1] == before[:-1]
            assert len(net.chain.entries) == len(before) + 1


async def test_a_ledger_that_a_crash_cut_off_at_its_birth_is_begun_anew(folder: Path) -> None:
    async with by_hand(folder) as net:
        genesis = net.genesis
    line = (folder / "ledger").read_bytes().splitlines(keepends=True)[0]
    (folder / "ledger").write_bytes(line)
    async with by_hand(folder) as net:
        assert net.genesis == genesis
    for length in (0, 1, len(line) - 1):
        (folder / "ledger").write_bytes(line[:length])
        async with by_hand(folder) as net:
            assert net.genesis != genesis
        assert len((folder / "ledger").read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    "damage", ["a blank line", "no genesis", "two of them", "garbage", "other outcome", "no base64"]
)
async def test_damage_is_told_and_nothing_is_changed(folder: Path, damage: str) -> None:
    async with by_hand(folder) as net:
        await fill(net, 4)
    lines = (folder / "ledger").read_bytes().splitlines()
    failed = next(number for number, line in enumerate(lines) if b"InstructionError" in line)
    record = json.loads(lines[failed])
    spoilt = {
        "a blank line": [*lines[:2], b"", *lines[2:]],
        "no genesis": lines[1:],
        "two of them": [lines[0], *lines],
        "garbage": [*lines[:3], b'{"kind":"transaction"', *lines[3:]],
        "other outcome": [*lines[:failed], json.dumps({**record, "err": None}).encode(), *lines[failed + 1 :]],
        "no base64": [*lines[:failed], json.dumps({**record, "transaction": "AAAA"}).encode(), *lines[failed + 1 :]],
    }[damage]
    content = b"\n".join(spoilt) + b"\n"
    (folder / "ledger").write_bytes(content)
    with pytest.raises(StoreDamaged, match="is damaged") as refused:
        async with by_hand(folder):
            pass
    assert str(folder) in (refused.value.hint or "")
    assert (folder / "ledger").read_bytes() == content


async def test_a_ledger_of_a_newer_program_is_left_alone(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "ledger").write_text('{"kind":"genesis","hash":"x","created_us":1,"version":2}\n')
    with pytest.raises(StoreTooNew):
        async with by_hand(folder):
            pass


async def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable):
        async with by_hand(tmp_path / "file"):
            pass


async def test_what_cannot_be_kept_does_not_happen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with by_hand(folder) as net, asking(net.url) as client:
        payer = await fill(net, 1)
        before = told(net)

        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(os, "pwrite", full)
            with pytest.raises(Exception, match="No space left") as refused:
                await write_memo(client, payer, b"lost")
            assert "-32603" in str(refused.value) or "Internal" in str(refused.value)
        assert told(net) == before
        await write_memo(client, payer, b"kept")
        after = told(net)
    async with by_hand(folder) as net:
        assert told(net) == after


# one process at a time


async def test_a_second_one_is_refused_and_finds_the_first(folder: Path) -> None:
    async with by_hand(folder) as net:
        with pytest.raises(StoreLocked, match=net.url):
            async with by_hand(folder):
                pass
        async with find_or_start(folder) as url:
            assert url == net.url
    assert not (folder / "address").exists()
    async with find_or_start(folder) as url, find_or_start(folder) as again, asking(url) as client:
        assert again == url
        assert str((await client.get_genesis_hash()).value) == net.genesis


# processes

_HOLDER = """
import asyncio, sys
from pathlib import Path
from trustgate.localnet import find_or_start

async def main():
    async with find_or_start(Path(sys.argv[1]), slot_ms=20) as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts Python with these arguments; kills what still runs at the end."""
    started: list[Process] = []

    def begin(*arguments: str | Path) -> Process:
        name = f"process {len(started)}"
        log = tmp_path / f"{name}.log"
        process = Process(name, [sys.executable, *arguments], ROOT, clean_environment(), log)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.exit_code is None:
            process.signal(signal.SIGKILL)
            process.wait()


def ready(process: Process) -> str:
    """The first line it prints."""
    process.wait_until(lambda: "\n" in process.stdout)
    return process.stdout.splitlines()[0]


async def test_what_was_told_survives_kill_9(folder: Path, start: Any) -> None:
    payer = Keypair()
    signatures: list[Signature] = []
    for round_number in range(3):
        holder = start("-c", _HOLDER, folder)
        async with asking(ready(holder)) as client:
            if not round_number:
                await client.request_airdrop(payer.pubkey(), SOL)
            texts = [f"{round_number}.{number}".encode() for number in range(5)]
            signatures += [await write_memo(client, payer, text) for text in texts]
            statuses = (await client.get_signature_statuses(signatures, search_transaction_history=True)).value
            assert None not in statuses
        holder.signal(signal.SIGKILL)
        holder.wait()
    async with by_hand(folder) as net:
        assert [entry.signature for entry in net.chain.entries][1:] == [str(signature) for signature in signatures]
        assert net.chain.bank.lamports(payer.pubkey()) == SOL - 15 * 5_000


async def test_the_second_process_uses_the_first_ones_chain(folder: Path, start: Any) -> None:
    holder = start("-c", _HOLDER, folder)
    url = ready(holder)
    others = [start("-c", _HOLDER, folder) for _ in range(2)]
    assert [ready(other) for other in others] == [url, url]
    async with find_or_start(folder) as found:
        assert found == url
    holder.signal(signal.SIGKILL)
    holder.wait()
    async with find_or_start(folder) as found:
        assert found != url
        async with asking(found) as client:
            assert await client.is_connected()


# the command


def command(*arguments: str | Path) -> list[str | Path]:
    return ["-m", "trustgate", *arguments]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_runs_a_chain_until_told_to_stop(tmp_path: Path, start: Any, number: int) -> None:
    home, payer = tmp_path / "home", Keypair()
    options = ("--port", "0", "--slot-ms", "50", "--verbose", "--fund", str(payer.pubkey()))
    process = start(*command("--home", home, "localnet", *options))
    process.wait_until(lambda: "is ready at" in process.stdout)
    url = process.stdout.split("is ready at ")[1].split()[0]
    assert "DEVELOPMENT ONLY" in process.stdout
    assert f"--rpc {url}" in process.stdout
    assert str(home / "localnet") in process.stdout
    async with asking(url) as client:
        assert (await client.get_balance(payer.pubkey())).value == 10 * SOL
        signature = await write_memo(client, payer, b"seen")
    async with find_or_start(home / "localnet") as found:
        assert found == url
    process.wait_until(lambda: str(signature) in process.stdout)
    process.signal(number)
    assert process.wait() == 0
    assert process.stderr == ""
    async with find_or_start(home / "localnet") as found, asking(found) as client:
        (status,) = (await client.get_signature_statuses([signature], search_transaction_history=True)).value
        assert status is not None


async def test_an_ephemeral_chain_leaves_nothing_behind(tmp_path: Path, start: Any) -> None:
    process = start(*command("--home", tmp_path / "home", "localnet", "--port", "0", "--ephemeral"))
    process.wait_until(lambda: "is ready at" in process.stdout)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert not (tmp_path / "home").exists()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command(*arguments))],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


async def test_what_stops_the_command_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("--home", tmp_path / "home", "localnet", "--port", port)
        assert done.returncode == 1
        assert f"Cannot listen on 127.0.0.1:{port}: Address already in use." in done.stderr

    async with by_hand(tmp_path / "home" / "localnet") as net:
        done = run("--home", tmp_path / "home", "localnet", "--port", "0")
        assert done.returncode == 6
        assert net.url in done.stderr

    done = run("--home", tmp_path / "home", "localnet", "--ephemeral", "--port", "0", "--fund", "nobody")
    assert done.returncode == 2
    assert "cannot be put on 'nobody'" in done.stderr
