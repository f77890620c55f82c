"""What the embedded facilitator signs and what it does not, by transactions that are spoilt in one part each."""

from __future__ import annotations

import base64
from typing import Any

from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from tests.payment.conftest import PRICE, Shop, settle
from tests.support.payments import payment_of
from trustgate.formats.spl_token import TOKEN_PROGRAM
from trustgate.payment.facilitators.signing_policy import MOST_FEE_LAMPORTS
from trustgate.types import Payment


class Craft:
    """A payment that can be spoilt in every part."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.limit = 20_000
        self.price = 1
        self.payer = Pubkey.from_string(shop.fee_payer.address)
        self.signers = [shop.buyer.keypair]
        transfer = self._decoded()
        self.transfer = transfer
        self.more: list[Instruction] = []
        self.tables: list[Any] = []

    def _decoded(self) -> Instruction:
        shop = self.shop
        keys = [shop.buyer.account, shop.token.mint, shop.seller.account]
        accounts = [AccountMeta(Pubkey.from_string(key), False, key != shop.token.mint) for key in keys]
        accounts.append(AccountMeta(shop.buyer.keypair.pubkey(), True, False))
        data = bytes([12]) + PRICE.to_bytes(8, "little") + bytes([6])
        return Instruction(Pubkey.from_string(TOKEN_PROGRAM), data, accounts)

    def with_accounts(self, **replaced: Any) -> Instruction:
        accounts = list(self.transfer.accounts)
        for place, account in replaced.items():
            accounts[int(place.removeprefix("a"))] = account
        return Instruction(self.transfer.program_id, bytes(self.transfer.data), accounts)

    async def payment(self, instructions: list[Instruction] | None = None) -> Payment:
        wanted = instructions or [
            set_compute_unit_limit(self.limit),
            set_compute_unit_price(self.price),
            self.transfer,
            *self.more,
        ]
        latest = Hash.from_string((await self.shop.token.rpc.latest_blockhash()).blockhash)
        message = MessageV0.try_compile(self.payer, wanted, self.tables, latest)
        signable = to_bytes_versioned(message)
        known = {str(signer.pubkey()): signer for signer in self.signers}
        required = message.header.num_required_signatures
        signatures = [
            known[str(key)].sign_message(signable) if str(key) in known else Signature.default()
            for key in message.account_keys[:required]
        ]
        raw = bytes(VersionedTransaction.populate(message, signatures))
        payload = {"payload": {"transaction": base64.b64encode(raw).decode()}}
        return payment_of(payload, self.shop.requirements())


MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
LIGHTHOUSE = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")


async def spoilt(shop: Shop, how: str) -> Payment:
    craft = Craft(shop)
    stranger = Keypair()
    fee_payer = AccountMeta(craft.payer, True, True)
    own = craft.transfer.accounts
    match how:
        case "nothing":
            pass
        case "compute price":
            craft.price = 2_100_000
        case "compute limit":
            craft.limit = 200_001
        case "no compute limit":
            return await craft.payment([set_compute_unit_price(1), set_compute_unit_price(1), craft.transfer])
        case "no compute price":
            return await craft.payment([set_compute_unit_limit(9), set_compute_unit_limit(9), craft.transfer])
        case "too few instructions":
            return await craft.payment([set_compute_unit_limit(9), craft.transfer])
        case "too many instructions":
            craft.more = [Instruction(LIGHTHOUSE, bytes([n]), []) for n in range(4)]
        case "another instruction":
            params = TransferParams(from_pubkey=shop.buyer.keypair.pubkey(), to_pubkey=stranger.pubkey(), lamports=1)
            craft.more = [transfer(params)]
        case "two memos":
            craft.more = [Instruction(MEMO, b"a", []), Instruction(MEMO, b"b", [])]
        case "the fee payer in a memo":
            craft.more = [Instruction(MEMO, b"a", [fee_payer])]
        case "the fee payer in an assertion":
            craft.more = [Instruction(LIGHTHOUSE, b"a", [fee_payer])]
        case "the fee payer owns the tokens":
            craft.transfer = craft.with_accounts(a3=fee_payer)
        case "another fee payer":
            craft.payer = stranger.pubkey()
        case "a third signer":
            craft.transfer = Instruction(
                craft.transfer.program_id,
                bytes(craft.transfer.data),
                [*own, AccountMeta(stranger.pubkey(), True, False)],
            )
            craft.signers.append(stranger)
        case "an account more":
            craft.transfer = Instruction(
                craft.transfer.program_id,
                bytes(craft.transfer.data),
                [*own, AccountMeta(stranger.pubkey(), False, False)],
            )
        case "another mint":
            craft.transfer = craft.with_accounts(a1=AccountMeta(stranger.pubkey(), False, False))
        case "another receiver":
            craft.transfer = craft.with_accounts(a2=AccountMeta(stranger.pubkey(), False, True))
        case "too little":
            data = bytes([12]) + (PRICE - 1).to_bytes(8, "little") + bytes([6])
            craft.transfer = Instruction(craft.transfer.program_id, data, own)
        case "too much":
            data = bytes([12]) + (PRICE + 1).to_bytes(8, "little") + bytes([6])
            craft.transfer = Instruction(craft.transfer.program_id, data, own)
        case "a transfer that names no mint":
            data = bytes([3]) + PRICE.to_bytes(8, "little")
            craft.transfer = Instruction(craft.transfer.program_id, data, [own[0], own[2], own[3]])
        case "an account from a table":
            table = AddressLookupTableAccount(stranger.pubkey(), [own[2].pubkey])
            craft.tables = [table]
        case "not signed by the payer":
            craft.signers = []
    return await craft.payment()


SPOILT = {
    "compute price": "instructions_compute_price_instruction_too_high",
    "compute limit": "instructions_compute_limit_instruction",
    "no compute limit": "instructions_compute_limit_instruction",
    "no compute price": "instructions_compute_price_instruction",
    "too few instructions": "instructions_length",
    "too many instructions": "instructions_length",
    "another instruction": "unknown_fourth_instruction",
    "two memos": "memo_count",
    "the fee payer in a memo": "fee_payer_included_in_instruction_accounts",
    "the fee payer in an assertion": "fee_payer_included_in_instruction_accounts",
    "the fee payer owns the tokens": "signers",
    "another fee payer": "fee_payer_not_managed_by_facilitator",
    "a third signer": "signers",
    "an account more": "no_transfer_instruction",
    "another mint": "mint_mismatch",
    "another receiver": "recipient_mismatch",
    "too little": "amount_insufficient",
    "too much": "amount_mismatch",
    "a transfer that names no mint": "no_transfer_instruction",
    "an account from a table": "address_lookup_tables",
    "not signed by the payer": "invalid_exact_svm_payload_signature",
}


async def test_a_crafted_payment_that_is_not_spoilt_is_taken(shop: Shop) -> None:
    """So that the refusals below are for what was spoilt."""
    facilitator = shop.facilitator()
    payment = await spoilt(shop, "nothing")
    assert (await facilitator.verify(payment)).valid
    assert (await settle(shop, facilitator, payment))[0].outcome == "settled"
    assert await shop.earned() == PRICE


async def test_what_the_fee_payer_does_not_sign(shop: Shop) -> None:
    facilitator = shop.facilitator()
    for how, reason in SPOILT.items():
        payment = await spoilt(shop, how)
        verdict = await facilitator.verify(payment)
        assert not verdict.valid and verdict.reason.endswith(reason), (how, verdict)
        settlement, recorded = await settle(shop, facilitator, payment)
        assert (settlement.outcome, settlement.reason, recorded) == ("failed", verdict.reason, []), how
    assert not shop.lane.calls, "the node was never asked"


async def test_wallets_may_add_assertions(shop: Shop) -> None:
    """The local chain has no such program, so it ends in the simulation, and not before."""
    craft = Craft(shop)
    craft.more = [Instruction(LIGHTHOUSE, b"\1", []), Instruction(MEMO, b"for lunch", [])]
    verdict = await shop.facilitator().verify(await craft.payment())
    assert verdict.reason.startswith("transaction_simulation_failed")


async def test_a_fee_at_the_ceiling_is_paid(shop: Shop) -> None:
    craft = Craft(shop)
    craft.price = 2_000_000
    facilitator = shop.facilitator()
    settlement, _ = await settle(shop, facilitator, await craft.payment())
    assert settlement.outcome == "settled"
    landed = await shop.token.rpc.transaction(settlement.transaction, "confirmed")
    assert landed is not None and landed.fee_lamports == MOST_FEE_LAMPORTS


async def test_what_is_no_transaction(shop: Shop) -> None:
    facilitator = shop.facilitator()
    for payload in ({}, {"transaction": "?"}, {"transaction": 1}, {"transaction": "AAAA"}):
        verdict = await facilitator.verify(payment_of({"payload": payload}, shop.requirements()))
        assert verdict == (False, "invalid_exact_svm_payload_transaction_could_not_be_decoded", "")


async def test_a_payment_for_less_does_not_pay_for_more(shop: Shop) -> None:
    cheap = shop.requirements(PRICE - 1)
    payload = await shop.token.payment(shop.buyer, cheap)
    verdict = await shop.facilitator().verify(payment_of(payload, shop.requirements()))
    assert verdict.reason == "invalid_exact_svm_payload_amount_insufficient"
