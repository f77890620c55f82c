"""``trustgate localnet``: a local Solana, for development."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trustgate.cli import render
from trustgate.cli.context import session

if TYPE_CHECKING:
    from trustgate.localnet.chain import HistoryEntry


_FUND_LAMPORTS = 10 * 10**9


def register(app: typer.Typer) -> None:
    app.command("localnet")(localnet)


def localnet(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="The address to listen on; every client that reaches it can use the chain.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 lets the system choose.")] = 8899,
    slot_ms: Annotated[
        int, typer.Option(metavar="MS", min=1, max=60_000, help="How long a slot lasts, milliseconds.")
    ] = 400,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Keep nothing: a new chain, discarded at the end.")
    ] = False,
    fund: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Fund this address with 10 SOL of this chain at the start; repeat for more."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print a line for each transaction that lands.")
    ] = False,
) -> None:
    """Run a local Solana for development until SIGTERM or Ctrl-C.

    It runs real programs (memo, token, associated token) and answers like an RPC node, but it is one process, and its
    coins have no value. The chain is kept in the home folder, in localnet; two cannot run there at once.
    """
    import asyncio

    settings = session(context).settings()
    folder = None
    if not ephemeral:
        settings.make_home()
        folder = settings.localnet_folder
    asyncio.run(_run(host, port, slot_ms, folder, tuple(fund or ()), _print_entry if verbose else None))


async def _run(
    host: str,
    port: int,
    slot_ms: int,
    folder: Path | None,
    funded: tuple[str, ...],
    listener: Callable[[HistoryEntry], None] | None,
) -> None:
    import asyncio

    from trustgate.localnet import running_localnet

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        chain = running_localnet(host=host, port=port, slot_ms=slot_ms, folder=folder, listener=listener)
        # What is kept is run again, which takes a second for some thousand transactions.
        with render.waiting("Starting the local Solana", quiet=False):
            net = await stack.enter_async_context(chain)
        for address in funded:
            net.airdrop(address, _FUND_LAMPORTS)
        kept = "in memory only" if folder is None else f"kept in {folder}"
        render.say(
            f"A local Solana is ready at {net.url} ({kept}). DEVELOPMENT ONLY: its coins have no value and its "
            f"history proves nothing. Use it with: --rpc {net.url}"
        )
        await stop.wait()


def _print_entry(entry: HistoryEntry) -> None:
    """One transaction, one line."""
    outcome = entry.outcome
    ended = "ok" if outcome.err is None else f"FAILED {render.json_text(outcome.err)}"
    memo = "" if entry.memo is None else f"  memo {render.json_text(entry.memo)}"
    with contextlib.suppress(BrokenPipeError):  # there is no reader any longer; the chain goes on
        render.say(f"slot {entry.slot}  {entry.signature}  {ended}  fee {outcome.fee} lamports{memo}")
