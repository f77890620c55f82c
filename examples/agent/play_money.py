"""Play money for a local Solana: a token at USDC's terms, a wallet for the agent that has some, one for the seller.

    trustgate localnet                       (in another terminal)
    eval "$(python play_money.py)"

It prints a shell command that sets SOLANA_RPC_URL, AGENT_TOKEN, AGENT_WALLET (a file, wallet.json in this folder or in
the one that is named) and SELLER. SOLANA_RPC_URL, where it is set already, says where the chain is. What TrustGate is
installed with is all it needs. The chain is worth nothing, and so is the wallet.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized
from solana.rpc.types import TxOpts
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import VersionedTransaction
from spl.token import instructions as spl
from spl.token import models
from spl.token.constants import MINT_LEN, TOKEN_PROGRAM_ID

#: Atomic units that the agent gets: 10 USD, with the six decimals that USDC has.
UNITS, DECIMALS = 10_000_000, 6
LAMPORTS = 1_000_000_000
WAIT_S = 60


async def main(folder: Path, url: str) -> None:
    maker, mint, agent, seller = Keypair(), Keypair(), Keypair(), Keypair()
    async with AsyncClient(url, commitment=Confirmed) as chain:

        async def has_money() -> bool:
            return (await chain.get_balance(maker.pubkey())).value > 0

        async def is_final() -> bool:
            account = spl.get_associated_token_address(agent.pubkey(), mint.pubkey())
            return (await chain.get_account_info(account, commitment=Finalized)).value is not None

        await chain.request_airdrop(maker.pubkey(), LAMPORTS)
        await wait_until(has_money)
        rent = (await chain.get_minimum_balance_for_rent_exemption(MINT_LEN)).value
        instructions = token(maker, mint, rent) + accounts(maker, mint, agent, seller)
        latest = (await chain.get_latest_blockhash()).value.blockhash
        message = MessageV0.try_compile(maker.pubkey(), instructions, [], latest)
        signed = VersionedTransaction(message, [maker, mint])
        await chain.send_transaction(signed, opts=TxOpts(preflight_commitment=Confirmed))
        # What is not final yet an x402 client does not see.
        await wait_until(is_final)
    wallet = folder / "wallet.json"
    wallet.touch(mode=0o600)
    wallet.write_text(json.dumps(list(bytes(agent))))
    found = {"SOLANA_RPC_URL": url, "AGENT_TOKEN": mint.pubkey(), "AGENT_WALLET": wallet, "SELLER": seller.pubkey()}
    print("export", *(f"{name}={shlex.quote(str(value))}" for name, value in found.items()))


def token(maker: Keypair, mint: Keypair, rent: int) -> list[Instruction]:
    """A new token that ``maker`` can make as much of as it likes."""
    create = CreateAccountParams(
        from_pubkey=maker.pubkey(), to_pubkey=mint.pubkey(), lamports=rent, space=MINT_LEN, owner=TOKEN_PROGRAM_ID
    )
    terms = models.InitializeMint2Params(
        decimals=DECIMALS, program_id=TOKEN_PROGRAM_ID, mint=mint.pubkey(), mint_authority=maker.pubkey()
    )
    return [create_account(create), spl.initialize_mint2(terms)]


def accounts(maker: Keypair, mint: Keypair, agent: Keypair, seller: Keypair) -> list[Instruction]:
    """An account for the token for each of the two, and money in the agent's."""
    make = spl.create_idempotent_associated_token_account
    terms = models.MintToParams(
        program_id=TOKEN_PROGRAM_ID,
        mint=mint.pubkey(),
        dest=spl.get_associated_token_address(agent.pubkey(), mint.pubkey()),
        mint_authority=maker.pubkey(),
        amount=UNITS,
    )
    opened = [make(maker.pubkey(), owner.pubkey(), mint.pubkey()) for owner in (agent, seller)]
    return [*opened, spl.mint_to(terms)]


async def wait_until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await true():
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    asyncio.run(main(where.absolute(), os.environ.get("SOLANA_RPC_URL", "http://127.0.0.1:8899")))
