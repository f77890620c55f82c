"""Test money: a token at USDC's terms on a local Solana, a buyer with a balance of it, and a seller.

Owns the buyer's wallet, which signs payments with the x402 SDK's own client, as an agent does. Keys are in memory
alone.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from trustgate.admin.walk import ClientAnswer
from trustgate.errors import RpcUnavailable
from trustgate.formats.spl_token import associated_account
from trustgate.localnet import Localnet
from trustgate.payment.networks import SOLANA_DEVNET
from trustgate.solana.clusters import LOCAL, Cluster
from trustgate.solana.rpc import RpcClient

if TYPE_CHECKING:
    from solders.instruction import Instruction
    from solders.keypair import Keypair

#: As USDC has them.
DECIMALS = 6
#: What the buyer begins with: 10 USD.
UNITS = 10 * 10**DECIMALS
#: The most that the buyer's wallet signs away at once.
_MOST_UNITS = 10**DECIMALS

_SOL = 10**9
#: What an account of a mint's size must hold.
_MINT_RENT_LAMPORTS = 1_461_600
_POLL_S = 0.02
_TIMEOUT_S = 30.0


class PlayMoney:
    """Made by ``made``. ``rpc`` is open for as long as the chain is."""

    def __init__(self, rpc: RpcClient, mint: str, buyer: Keypair, seller: str) -> None:
        self.rpc = rpc
        #: Addresses, base58.
        self.mint = mint
        self.buyer = str(buyer.pubkey())
        self.seller = seller
        self._buyer = buyer
        self._wallet: Any = None

    @classmethod
    async def made(cls, chain: Localnet, rpc: RpcClient) -> Self:
        """Returns a new token on the chain, the buyer's and the seller's accounts of it, and units in the buyer's."""
        from solders.hash import Hash
        from solders.keypair import Keypair
        from solders.message import MessageV0
        from solders.transaction import VersionedTransaction

        maker, mint, buyer, seller = Keypair(), Keypair(), Keypair(), Keypair()
        chain.airdrop(str(maker.pubkey()), _SOL)
        latest = Hash.from_string((await rpc.latest_blockhash()).blockhash)
        message = MessageV0.try_compile(maker.pubkey(), _instructions(maker, mint, buyer, seller), [], latest)
        await rpc.send(bytes(VersionedTransaction(message, [maker, mint])), preflight=False)
        return cls(rpc, str(mint.pubkey()), buyer, str(seller.pubkey()))

    async def final(self) -> None:
        """Wait until the token is final: what is not, clients do not see. Raises ``RpcUnavailable``."""
        wanted = (await self.rpc.epoch_info("processed")).absolute_slot
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while True:
                    if (await self.rpc.epoch_info("finalized")).absolute_slot >= wanted:
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise RpcUnavailable("The local chain makes no progress.") from None

    async def units(self, owner: str) -> int:
        """Returns the address's balance of the token on the chain, atomic units."""
        account = await self.rpc.account(associated_account(owner, self.mint))
        return 0 if account is None else int.from_bytes(account.data[64:72], "little")

    async def load(self) -> None:
        """Have the x402 SDK ready, which takes half a second."""
        await asyncio.to_thread(self._open_wallet)

    async def sign(self, demand: ClientAnswer) -> Mapping[str, str]:
        """Returns the header that pays what a 402 asks for, signed by the buyer. The SDK asks the chain for what it
        needs.
        """
        # On a thread: the chain that it waits for runs on this event loop.
        return await asyncio.to_thread(self._sign, demand)

    def _open_wallet(self) -> Any:
        from x402 import x402ClientSync
        from x402.http import x402HTTPClientSync
        from x402.mechanisms.svm import KeypairSigner
        from x402.mechanisms.svm.exact.register import register_exact_svm_client

        if self._wallet is None:
            # The SDK's own use of solana-py, of no interest to users.
            warnings.filterwarnings("ignore", "Client is deprecated", FutureWarning)
            wallet: Any = x402ClientSync()
            register_exact_svm_client(wallet, KeypairSigner(self._buyer), rpc_url=self.rpc.cluster.url)
            token = {"network": SOLANA_DEVNET, "asset": self.mint, "max_amount_per_payment": str(_MOST_UNITS)}
            wallet.set_spend_controls({"allowed_assets": [token]})
            self._wallet = x402HTTPClientSync(wallet)
        return self._wallet

    def _sign(self, demand: ClientAnswer) -> Mapping[str, str]:
        headers, _ = self._open_wallet().handle_402_response(dict(demand.headers), demand.body, demand.url)
        signed: Mapping[str, str] = headers
        return signed


def open_rpc(chain: Localnet) -> RpcClient:
    return RpcClient(Cluster(LOCAL, chain.url))


def fund(chain: Localnet, address: str) -> None:
    """SOL for the fees of a few transactions."""
    chain.airdrop(address, _SOL)


def _instructions(maker: Keypair, mint: Keypair, buyer: Keypair, seller: Keypair) -> list[Instruction]:
    """Returns the token, an account of it for each of the two, and the buyer's units."""
    from solders.system_program import CreateAccountParams, create_account
    from spl.token import instructions as spl
    from spl.token import models
    from spl.token.constants import MINT_LEN, TOKEN_PROGRAM_ID

    create = CreateAccountParams(
        from_pubkey=maker.pubkey(),
        to_pubkey=mint.pubkey(),
        lamports=_MINT_RENT_LAMPORTS,
        space=MINT_LEN,
        owner=TOKEN_PROGRAM_ID,
    )
    terms = models.InitializeMint2Params(
        decimals=DECIMALS, program_id=TOKEN_PROGRAM_ID, mint=mint.pubkey(), mint_authority=maker.pubkey()
    )
    units = models.MintToParams(
        program_id=TOKEN_PROGRAM_ID,
        mint=mint.pubkey(),
        dest=spl.get_associated_token_address(buyer.pubkey(), mint.pubkey()),
        mint_authority=maker.pubkey(),
        amount=UNITS,
    )
    opened = [
        spl.create_idempotent_associated_token_account(maker.pubkey(), owner.pubkey(), mint.pubkey())
        for owner in (buyer, seller)
    ]
    return [create_account(create), spl.initialize_mint2(terms), *opened, spl.mint_to(units)]
