"""Money for tests: a token on a local chain at the terms of USDC, wallets that hold it, and their payments with it.

Works on any local chain by its URL: one that runs in the test (``running_localnet``) or beside it (``trustgate
localnet``). The transactions are the SPL library's, the payments those of the x402 SDK's own client.

    async with running_localnet(slot_ms=20) as net, Token.made(net.url) as usdc:
        alice = await usdc.wallet(units=5_000_000)
        shop = await usdc.wallet()
        payload = await usdc.payment(alice, requirements)
        ...
        assert await usdc.units(shop.address) == 1_000
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import VersionedTransaction
from spl.token import instructions as spl
from spl.token import models
from spl.token.constants import MINT_LEN, TOKEN_PROGRAM_ID

from tests.support.processes import PATIENCE_S
from trustgate.formats.solana_transaction import b58encode
from trustgate.formats.spl_token import associated_account
from trustgate.payment.networks import SOLANA_DEVNET
from trustgate.solana.clusters import Cluster
from trustgate.solana.keypair import PayerKey
from trustgate.solana.rpc import RpcClient

#: As USDC has them.
DECIMALS = 6
SOL = 1_000_000_000
_MINT_RENT_LAMPORTS = 1_461_600


class Wallet(NamedTuple):
    keypair: Keypair
    #: Base58.
    address: str
    #: The account with its tokens, base58.
    account: str

    def write(self, path: Path) -> Path:
        """As a keypair file of the Solana CLI."""
        path.write_text(PayerKey(self.keypair).secret_text())
        path.chmod(0o600)
        return path


class Token:
    """A token that its maker can make more of. Use ``made``."""

    def __init__(self, rpc: RpcClient, bank: Keypair, mint: Keypair) -> None:
        self.rpc = rpc
        self._bank = bank
        #: Base58.
        self.mint = str(mint.pubkey())
        #: The SDK's clients make their connections at the first use, and two threads two of them.
        self._signing = threading.Lock()
        #: The SDK's clients, by their wallets.
        self._payers: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def made(cls, url: str) -> AsyncIterator[Token]:
        """A new token on the chain at ``url``."""
        bank, mint = Keypair(), Keypair()
        async with RpcClient(Cluster("local", url)) as rpc:
            await rpc.request_airdrop(str(bank.pubkey()), 1_000 * SOL)
            token = cls(rpc, bank, mint)
            create = create_account(
                CreateAccountParams(
                    from_pubkey=bank.pubkey(),
                    to_pubkey=mint.pubkey(),
                    lamports=_MINT_RENT_LAMPORTS,
                    space=MINT_LEN,
                    owner=TOKEN_PROGRAM_ID,
                )
            )
            terms = models.InitializeMint2Params(
                decimals=DECIMALS, program_id=TOKEN_PROGRAM_ID, mint=mint.pubkey(), mint_authority=bank.pubkey()
            )
            await token.send([create, spl.initialize_mint2(terms)], mint)
            await token.wait_final()
            try:
                yield token
            finally:
                token._close_payers()

    # wallets

    async def wallet(self, *, units: int | None = 0, lamports: int = 0) -> Wallet:
        """A new wallet. ``units`` are atomic; None: it has no account for this token."""
        keypair = Keypair()
        address = str(keypair.pubkey())
        if lamports:
            await self.rpc.request_airdrop(address, lamports)
        if units is not None:
            await self.open_account(address)
            await self.mint_to(address, units)
        return Wallet(keypair, address, associated_account(address, self.mint))

    async def fee_payer(self, path: Path | None = None) -> PayerKey:
        """A key with SOL and no tokens, written to a keypair file where one is named."""
        wallet = await self.wallet(units=None, lamports=10 * SOL)
        if path is not None:
            wallet.write(path)
        return PayerKey(wallet.keypair)

    async def open_account(self, owner: str) -> None:
        """Make the account that holds the owner's tokens."""
        mint = Pubkey.from_string(self.mint)
        await self.send(
            [spl.create_idempotent_associated_token_account(self._bank.pubkey(), Pubkey.from_string(owner), mint)]
        )

    async def mint_to(self, owner: str, units: int) -> None:
        if not units:
            return
        mint, account = Pubkey.from_string(self.mint), Pubkey.from_string(associated_account(owner, self.mint))
        terms = models.MintToParams(
            program_id=TOKEN_PROGRAM_ID, mint=mint, dest=account, mint_authority=self._bank.pubkey(), amount=units
        )
        await self.send([spl.mint_to(terms)])

    async def units(self, owner: str) -> int:
        """How much an address holds, atomic units; 0 where it has no account."""
        account = await self.rpc.account(associated_account(owner, self.mint))
        return 0 if account is None else int.from_bytes(account.data[64:72], "little")

    async def send(self, instructions: list[Instruction], *signers: Keypair) -> str:
        """Send a transaction that the token's maker pays for; gives its signature."""
        latest = Hash.from_string((await self.rpc.latest_blockhash()).blockhash)
        message = MessageV0.try_compile(self._bank.pubkey(), instructions, [], latest)
        raw = bytes(VersionedTransaction(message, [self._bank, *signers]))
        return await self.rpc.send(raw, preflight=True)

    async def wait_final(self) -> None:
        """Wait until all that was sent so far is final: the SDK's client sees nothing else."""
        wanted = (await self.rpc.epoch_info("processed")).absolute_slot
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if (await self.rpc.epoch_info("finalized")).absolute_slot >= wanted:
                    return
                await asyncio.sleep(0.005)

    # payments

    def requirements(self, pay_to: str, units: int, fee_payer: str, **members: Any) -> dict[str, Any]:
        """PaymentRequirements of version 2."""
        return {
            "scheme": "exact",
            "network": SOLANA_DEVNET,
            "asset": self.mint,
            "amount": str(units),
            "payTo": pay_to,
            "maxTimeoutSeconds": 60,
            "extra": {"feePayer": fee_payer},
            **members,
        }

    async def payment(self, payer: Wallet, requirements: Mapping[str, Any]) -> dict[str, Any]:
        """The PaymentPayload (version 2) with which the x402 SDK's client pays."""
        # The SDK's client asks the node and waits for it; the node may be in this process.
        inner = await asyncio.to_thread(self._sign, payer, requirements)
        return {"x402Version": 2, "payload": inner, "accepted": dict(requirements)}

    def _sign(self, payer: Wallet, requirements: Mapping[str, Any]) -> dict[str, Any]:
        with self._signing:
            return self._sign_alone(payer, requirements)

    def _sign_alone(self, payer: Wallet, requirements: Mapping[str, Any]) -> dict[str, Any]:
        from x402.mechanisms.svm import KeypairSigner
        from x402.mechanisms.svm.exact import ExactSvmClientScheme
        from x402.schemas import PaymentRequirements

        scheme = self._payers.get(payer.address)
        if scheme is None:
            scheme = ExactSvmClientScheme(KeypairSigner(payer.keypair), rpc_url=self.rpc.cluster.url)
            self._payers[payer.address] = scheme
        inner: dict[str, Any] = scheme.create_payment_payload(PaymentRequirements.model_validate(dict(requirements)))
        return inner

    def _close_payers(self) -> None:
        """Close the connections of the SDK's clients, which do not do it themselves."""
        for scheme in self._payers.values():
            for client in scheme._clients.values():
                client._provider.session.close()


def settle_by_hand(url: str, fee_payer: PayerKey, payload: Mapping[str, Any]) -> str:
    """What an honest facilitator does: sign as the fee payer and send; gives the signature.

    ``payload`` is a PaymentPayload. Blocks, so it is not for the thread that runs the chain.
    """
    transaction = VersionedTransaction.from_bytes(base64.b64decode(payload["payload"]["transaction"]))
    signature = fee_payer.sign(to_bytes_versioned(transaction.message))
    signed = VersionedTransaction.populate(
        transaction.message, [Signature.from_bytes(signature), *transaction.signatures[1:]]
    )
    params = [base64.b64encode(bytes(signed)).decode(), {"encoding": "base64", "preflightCommitment": "confirmed"}]
    body = {"jsonrpc": "2.0", "id": 1, "method": "sendTransaction", "params": params}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=15) as response:
        answer = json.load(response)
    assert "result" in answer, answer
    assert answer["result"] == b58encode(signature)
    return b58encode(signature)
