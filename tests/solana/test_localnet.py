"""The local chain through an unmodified ``solana.rpc.async_api.AsyncClient``, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Commitment, Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.models import MemcmpOpts, TokenAccountOpts, TxOpts
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.rpc.errors import RpcCustomErrorFieldless, SendTransactionPreflightFailureMessage
from solders.signature import Signature
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer
from solders.transaction import Transaction, VersionedTransaction
from solders.transaction_status import TransactionConfirmationStatus, TransactionErrorFieldless
from spl.token import instructions as tokens
from spl.token import models
from spl.token.constants import MINT_LEN, TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID

from trustgate.formats.solana_transaction import b58encode
from trustgate.localnet import Localnet, running_localnet
from trustgate.localnet.clock import SKIPPED_SLOTS

FINALITY_SLOTS = 4
SOL = 10**9
FEE = 5_000
MEMO_PROGRAMS = {
    "v1": Pubkey.from_string("Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"),
    "v3": Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"),
}
#: Sent without preflight at "finalized", which knows no blockhash as new as those used here.
SEND = TxOpts(preflight_commitment=Processed)
SEND_UNSEEN = TxOpts(skip_preflight=True)


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    """A chain that moves only by hand."""
    async with running_localnet(slot_ms=0, finality_slots=FINALITY_SLOTS) as running:
        yield running


@pytest.fixture
async def client(net: Localnet) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(net.url, commitment=Processed) as made:
        yield made


async def funded(client: AsyncClient, lamports: int = SOL) -> Keypair:
    key = Keypair()
    await client.request_airdrop(key.pubkey(), lamports)
    return key


async def signed(client: AsyncClient, payer: Keypair, *instructions: Instruction) -> VersionedTransaction:
    latest = await client.get_latest_blockhash()
    message = MessageV0.try_compile(payer.pubkey(), instructions, [], latest.value.blockhash)
    return VersionedTransaction(message, [payer])


def pay(source: Keypair, to: Pubkey, lamports: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=source.pubkey(), to_pubkey=to, lamports=lamports))


def memo(text: str, program: str = "v3", *signers: Pubkey) -> Instruction:
    return Instruction(MEMO_PROGRAMS[program], text.encode(), [AccountMeta(key, True, False) for key in signers])


async def refusal(sending: Any) -> Any:
    with pytest.raises(RPCException) as refused:
        await sending
    return refused.value.args[0]


async def balance(client: AsyncClient, key: Pubkey, commitment: Commitment = Processed) -> int:
    return (await client.get_balance(key, commitment)).value


# the chain itself


async def test_it_says_what_it_is(net: Localnet, client: AsyncClient) -> None:
    assert await client.is_connected()
    version = (await client.get_version()).value
    assert "trustgate-localnet" in version.solana_core
    assert version.feature_set == 0
    assert str((await client.get_genesis_hash()).value) == net.genesis
    assert (await client.get_identity()).value.identity == (await client.get_slot_leader()).value


async def test_each_chain_has_a_genesis_hash_of_its_own_unless_it_poses_as_another() -> None:
    devnet = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"
    async with running_localnet() as one, running_localnet() as two, running_localnet(genesis=devnet) as three:
        assert len({one.genesis, two.genesis, devnet}) == 3
        async with AsyncClient(three.url) as client:
            assert str((await client.get_genesis_hash()).value) == devnet


async def test_slots_go_by_and_are_ahead_of_block_heights() -> None:
    async with running_localnet(slot_ms=5) as net, AsyncClient(net.url) as client:
        seen = [(await client.get_slot(Processed)).value]
        while seen[-1] < seen[0] + 20:
            seen.append((await client.get_slot(Processed)).value)
        assert seen == sorted(seen)
        info = (await client.get_epoch_info(Confirmed)).value
        assert info.absolute_slot == info.block_height + SKIPPED_SLOTS
        assert (await client.get_block_height(Confirmed)).value >= info.block_height


async def test_commitments_lag_behind_each_other(net: Localnet, client: AsyncClient) -> None:
    slots = [(await client.get_slot(level)).value for level in (Processed, Confirmed, Finalized)]
    assert slots == [net.slot, net.slot - 1, net.slot - FINALITY_SLOTS]
    heights = [(await client.get_block_height(level)).value for level in (Processed, Confirmed, Finalized)]
    assert heights == [slot - SKIPPED_SLOTS for slot in slots]
    hashes = {(await client.get_latest_blockhash(level)).value.blockhash for level in (Processed, Confirmed, Finalized)}
    assert len(hashes) == 3


async def test_what_else_the_typed_client_reads(net: Localnet, client: AsyncClient) -> None:
    await funded(client)
    net.advance(FINALITY_SLOTS)
    assert (await client.get_epoch_schedule()).value.slots_per_epoch == 432_000
    assert (await client.get_first_available_block()).value == SKIPPED_SLOTS
    assert (await client.get_minimum_ledger_slot()).value == SKIPPED_SLOTS
    assert (await client.get_transaction_count()).value == 1
    assert len((await client.get_slot_leaders(net.slot, 3)).value) == 3
    assert (await client.get_recent_performance_samples(4)).value == []
    assert (await client.get_blocks(SKIPPED_SLOTS, SKIPPED_SLOTS + 2)).value == [1000, 1001, 1002]
    assert ((await client.get_block_time(net.slot)).value or 0) > 1_700_000_000
    assert (await client.get_minimum_balance_for_rent_exemption(0)).value == 890_880
    assert (await client.get_minimum_balance_for_rent_exemption(165)).value == 2_039_280


# transactions that land


async def test_a_payment(net: Localnet, client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    sent = await client.send_transaction(await signed(client, payer, pay(payer, to, SOL // 2)), SEND)
    assert await balance(client, to) == SOL // 2
    assert await balance(client, payer.pubkey()) == SOL - SOL // 2 - FEE
    net.advance()
    found = (await client.get_transaction(sent.value, commitment=Confirmed, max_supported_transaction_version=0)).value
    assert found is not None and found.transaction.meta is not None
    assert found.slot == net.slot - 1
    assert found.transaction.meta.fee == FEE
    assert found.transaction.meta.err is None
    assert found.transaction.meta.pre_balances[:2] == [SOL, 0]
    assert found.transaction.meta.post_balances[:2] == [SOL // 2 - FEE, SOL // 2]
    assert found.transaction.version == 0


async def test_a_legacy_transaction(net: Localnet, client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    latest = (await client.get_latest_blockhash()).value.blockhash
    message = Message.new_with_blockhash([pay(payer, to, SOL // 2)], payer.pubkey(), latest)
    sent = await client.send_raw_transaction(bytes(Transaction([payer], message, latest)), SEND)
    net.advance()
    found = (await client.get_transaction(sent.value, commitment=Confirmed)).value
    assert found is not None
    assert await balance(client, to) == SOL // 2


@pytest.mark.parametrize("program", ["v1", "v3"])
@pytest.mark.parametrize("encoding", ["json", "jsonParsed", "base64", "base58"])
async def test_a_memo_comes_back_as_it_was(net: Localnet, client: AsyncClient, program: str, encoding: str) -> None:
    payer = await funded(client)
    text = "trustgate\n42\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— ü"
    signers = [payer.pubkey()] if program == "v3" else []
    transaction = await signed(client, payer, memo(text, program, *signers))
    signature = (await client.send_transaction(transaction, SEND)).value
    net.advance()
    (mention,) = (await client.get_signatures_for_address(payer.pubkey(), commitment=Confirmed, limit=1)).value
    assert (mention.signature, mention.memo) == (signature, f"[{len(text.encode())}] {text}")
    found = (await client.get_transaction(signature, encoding, Confirmed, 0)).value
    assert found is not None
    whole: Any = found.transaction.transaction
    if encoding.startswith("base"):
        assert whole == transaction
    elif encoding == "json":
        assert whole.message.instructions[0].data == b58encode(text.encode())
    else:
        assert whole.message.instructions[0].program == "spl-memo"
        assert whole.message.instructions[0].parsed == text


async def test_the_priority_fee_is_charged(net: Localnet, client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    net.advance()
    priced = (set_compute_unit_limit(10_001), set_compute_unit_price(1_000_001))
    transaction = await signed(client, payer, *priced, pay(payer, to, SOL // 10))
    fee = FEE + 10_002  # 10,001 units at a little more than a lamport each, rounded up
    asked = (await client.get_fee_for_message(transaction.message, Processed)).value  # type: ignore[arg-type]
    assert asked == fee
    await client.send_transaction(transaction, SEND)
    assert await balance(client, payer.pubkey()) == SOL - SOL // 10 - fee
    fees = (await client.get_recent_prioritization_fees([payer.pubkey()])).value
    assert {each.slot: each.prioritization_fee for each in fees}[net.slot] == 1_000_001
    assert max(each.prioritization_fee for each in (await client.get_recent_prioritization_fees([to])).value) > 0


async def test_two_signatures_cost_twice(client: AsyncClient) -> None:
    payer, other = await funded(client), Keypair()
    latest = (await client.get_latest_blockhash()).value.blockhash
    message = MessageV0.try_compile(payer.pubkey(), [memo("both", "v3", payer.pubkey(), other.pubkey())], [], latest)
    await client.send_transaction(VersionedTransaction(message, [payer, other]), SEND)
    assert await balance(client, payer.pubkey()) == SOL - 2 * FEE


async def test_a_failed_transaction_is_in_the_history_and_costs_its_fee(net: Localnet, client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    transaction = await signed(client, payer, pay(payer, to, 5 * SOL))
    signature = (await client.send_transaction(transaction, SEND_UNSEEN)).value
    (status,) = (await client.get_signature_statuses([signature])).value
    assert status is not None
    assert '{"InstructionError":[0,{"Custom":1}]}' in status.to_json()
    assert await balance(client, payer.pubkey()) == SOL - FEE
    assert await balance(client, to) == 0
    net.advance()
    found = (await client.get_transaction(signature, "json", Confirmed, 0)).value
    assert found is not None and found.transaction.meta is not None
    assert found.transaction.meta.err is not None
    assert found.transaction.meta.fee == FEE
    assert any("insufficient lamports" in line for line in found.transaction.meta.log_messages or [])


# how settled


async def test_a_transaction_becomes_confirmed_and_final(net: Localnet, client: AsyncClient) -> None:
    payer = await funded(client)
    signature = (await client.send_transaction(await signed(client, payer, memo("x")), SEND)).value
    seen = []
    for _ in range(FINALITY_SLOTS + 1):
        (status,) = (await client.get_signature_statuses([signature])).value
        assert status is not None
        seen.append((status.confirmation_status, status.confirmations))
        net.advance()
    levels = TransactionConfirmationStatus
    assert seen[0] == (levels.Processed, 0)
    assert seen[1:-1] == [(levels.Confirmed, age) for age in range(1, FINALITY_SLOTS)]
    assert seen[-1] == (levels.Finalized, None)


async def test_history_and_balances_show_up_as_late_as_asked_for(net: Localnet, client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    signature = (await client.send_transaction(await signed(client, payer, pay(payer, to, SOL // 2)), SEND)).value
    for age in range(FINALITY_SLOTS + 2):
        for level, lag in ((Confirmed, 1), (Finalized, FINALITY_SLOTS)):
            known = age >= lag
            assert await balance(client, to, level) == (SOL // 2 if known else 0)
            assert ((await client.get_transaction(signature, "json", level, 0)).value is not None) == known
            assert len((await client.get_signatures_for_address(to, commitment=level)).value) == known
        net.advance()


async def test_confirm_transaction_of_the_client_works_by_the_clock() -> None:
    async with running_localnet(slot_ms=5, finality_slots=4) as net, AsyncClient(net.url, Confirmed) as client:
        payer = await funded(client)
        options = TxOpts(skip_confirmation=False, preflight_commitment=Confirmed)
        while not await balance(client, payer.pubkey(), Confirmed):
            pass
        sent = await client.send_transaction(await signed(client, payer, memo("waited for")), options)
        assert (await client.get_transaction(sent.value, "json", Confirmed, 0)).value is not None


async def test_a_block_has_what_landed_in_its_slot(net: Localnet, client: AsyncClient) -> None:
    payer = await funded(client)
    slot = net.slot
    sent = [(await client.send_transaction(await signed(client, payer, memo(f"{n}")), SEND)).value for n in range(3)]
    net.advance(FINALITY_SLOTS + 1)
    block = (await client.get_block(slot, max_supported_transaction_version=0)).value
    after = (await client.get_block(slot + 1, max_supported_transaction_version=0)).value
    assert block is not None
    assert after is not None
    assert [each.transaction.signatures[0] for each in block.transactions or []][1:] == sent
    assert after.transactions == []
    assert after.previous_blockhash == block.blockhash
    assert (after.parent_slot, after.block_height) == (slot, slot + 1 - SKIPPED_SLOTS)


async def test_history_is_told_newest_first_in_pages(net: Localnet, client: AsyncClient) -> None:
    payer = await funded(client)
    (airdrop,) = [each.signature for each in net.chain.entries]
    signatures = []
    for number in range(7):
        sent = await client.send_transaction(await signed(client, payer, memo(f"{number}")), SEND)
        signatures.append(sent.value)
        if number % 3 == 0:
            net.advance()
    net.advance(FINALITY_SLOTS)
    newest_first = [*reversed(signatures), Signature.from_string(airdrop)]

    async def page(**options: Any) -> list[Signature]:
        found = await client.get_signatures_for_address(payer.pubkey(), commitment=Finalized, **options)
        return [each.signature for each in found.value]

    assert await page() == newest_first
    assert await page(limit=3) == newest_first[:3]
    assert await page(before=newest_first[2], limit=2) == newest_first[3:5]
    assert await page(until=newest_first[4]) == newest_first[:4]
    assert await page(before=newest_first[1], until=newest_first[4]) == newest_first[2:4]
    assert await page(before=newest_first[-1]) == []


async def test_old_statuses_want_a_search(net: Localnet, client: AsyncClient) -> None:
    payer = await funded(client)
    signature = (await client.send_transaction(await signed(client, payer, memo("old")), SEND)).value
    net.advance(1_000)
    assert (await client.get_signature_statuses([signature])).value == [None]
    (found,) = (await client.get_signature_statuses([signature], search_transaction_history=True)).value
    assert found is not None and found.confirmation_status == TransactionConfirmationStatus.Finalized


# refusals


def preflight_error(refused: Any) -> Any:
    assert isinstance(refused, SendTransactionPreflightFailureMessage)
    return refused.data.err


async def test_a_blockhash_dies_after_150_blocks(net: Localnet, client: AsyncClient) -> None:
    payer = await funded(client)
    latest = (await client.get_latest_blockhash()).value
    first, second = await signed(client, payer, memo("just in time")), await signed(client, payer, memo("too late"))
    net.advance(150)
    assert (await client.get_block_height()).value == latest.last_valid_block_height
    await client.send_transaction(first, SEND)
    net.advance()
    refused = await refusal(client.send_transaction(second, SEND))
    assert refused.message == "Transaction simulation failed: Blockhash not found"
    assert preflight_error(refused) == TransactionErrorFieldless.BlockhashNotFound
    # Without preflight the node says nothing, and nothing happens.
    unseen = (await client.send_transaction(second, SEND_UNSEEN)).value
    assert (await client.get_signature_statuses([unseen], True)).value == [None]


async def test_a_blockhash_is_unknown_to_who_knows_finalized_blocks_alone(client: AsyncClient) -> None:
    payer = await funded(client)
    transaction = await signed(client, payer, memo("x"))
    refused = await refusal(client.send_transaction(transaction, TxOpts(preflight_commitment=Finalized)))
    assert preflight_error(refused) == TransactionErrorFieldless.BlockhashNotFound
    await client.send_transaction(transaction, SEND)


async def test_nothing_lands_twice(net: Localnet, client: AsyncClient) -> None:
    payer = await funded(client)
    transaction = await signed(client, payer, memo("once"))
    signature = (await client.send_transaction(transaction, SEND)).value
    for _ in range(2):
        refused = await refusal(client.send_transaction(transaction, SEND))
        assert refused.message == "Transaction simulation failed: This transaction has already been processed"
        assert preflight_error(refused) == TransactionErrorFieldless.AlreadyProcessed
        assert (await client.send_transaction(transaction, SEND_UNSEEN)).value == signature
        net.advance()
    assert await balance(client, payer.pubkey()) == SOL - FEE


async def test_who_has_nothing_pays_nothing(client: AsyncClient) -> None:
    payer = Keypair()
    transaction = await signed(client, payer, memo("x"))
    refused = await refusal(client.send_transaction(transaction, SEND))
    assert preflight_error(refused) == TransactionErrorFieldless.AccountNotFound
    unseen = (await client.send_transaction(transaction, SEND_UNSEEN)).value
    assert (await client.get_signature_statuses([unseen], True)).value == [None]


async def test_a_fee_must_leave_the_payer_rent_exempt_or_empty(client: AsyncClient) -> None:
    payer = await funded(client, 890_880 + FEE - 1)
    refused = await refusal(client.send_transaction(await signed(client, payer, memo("x")), SEND))
    assert refused.message == (
        "Transaction simulation failed: Transaction results in an account (0) with insufficient funds for rent"
    )
    assert '"InsufficientFundsForRent":{"account_index":0}' in refused.to_json()
    await client.request_airdrop(payer.pubkey(), 1)
    await client.send_transaction(await signed(client, payer, memo("x")), SEND)
    assert await balance(client, payer.pubkey()) == 890_880


async def test_an_account_must_hold_its_rent(client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    signature = (await client.send_transaction(await signed(client, payer, pay(payer, to, 1_000)), SEND_UNSEEN)).value
    (status,) = (await client.get_signature_statuses([signature])).value
    assert status is not None
    assert '{"InsufficientFundsForRent":{"account_index":1}}' in status.to_json()
    assert (await balance(client, to), await balance(client, payer.pubkey())) == (0, SOL - FEE)


async def test_a_wrong_signature_is_refused(client: AsyncClient) -> None:
    payer = await funded(client)
    good = await signed(client, payer, memo("x"))
    forged = VersionedTransaction.populate(good.message, [Keypair().sign_message(b"other")])
    refused = await refusal(client.send_transaction(forged, SEND))
    assert refused == RpcCustomErrorFieldless.TransactionSignatureVerificationFailure
    await client.send_transaction(forged, SEND_UNSEEN)
    assert await balance(client, payer.pubkey()) == SOL


async def test_an_account_named_twice_is_refused(client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    raw = bytearray(bytes(await signed(client, payer, pay(payer, to, SOL // 10))))
    place = bytes(raw).index(bytes(to))
    raw[place : place + 32] = bytes(payer.pubkey())
    simulated = await client.simulate_transaction(VersionedTransaction.from_bytes(bytes(raw)))
    assert simulated.value.err == TransactionErrorFieldless.AccountLoadedTwice


# simulation


async def test_an_unsigned_transaction_can_be_simulated(client: AsyncClient) -> None:
    payer = await funded(client)
    message = MessageV0.try_compile(payer.pubkey(), [memo("hello", "v3", payer.pubkey())], [], Hash.default())
    unsigned = VersionedTransaction.populate(message, [Signature.default()])
    assert (await client.simulate_transaction(unsigned)).value.err == TransactionErrorFieldless.BlockhashNotFound
    simulated = (await client.simulate_transaction(unsigned, replace_recent_blockhash=True)).value
    assert simulated.err is None
    assert simulated.replacement_blockhash is not None
    assert any("hello" in line for line in simulated.logs or [])
    assert simulated.units_consumed is not None and simulated.units_consumed > 1_000
    assert await balance(client, payer.pubkey()) == SOL

    refused = await refusal(client.simulate_transaction(unsigned, sig_verify=True))
    assert refused == RpcCustomErrorFieldless.TransactionSignatureVerificationFailure


async def test_a_simulation_tells_accounts_as_they_would_be(client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    transaction = await signed(client, payer, pay(payer, to, SOL // 4))
    simulated = (
        await client.simulate_transaction(transaction, accounts_addresses=[payer.pubkey(), to], inner_instructions=True)
    ).value
    assert [each.lamports for each in simulated.accounts or [] if each] == [SOL - SOL // 4 - FEE, SOL // 4]
    assert simulated.inner_instructions == []
    assert await balance(client, to) == 0


async def test_a_simulation_that_fails_says_why(client: AsyncClient) -> None:
    payer = await funded(client)
    broken = Instruction(MEMO_PROGRAMS["v3"], b"\xff", [])
    simulated = (await client.simulate_transaction(await signed(client, payer, broken))).value
    assert '{"InstructionError":[0,"InvalidInstructionData"]}' in simulated.to_json()
    assert any("Invalid UTF-8" in line for line in simulated.logs or [])
    refused = await refusal(client.send_transaction(await signed(client, payer, broken), SEND))
    assert refused.message == (
        "Transaction simulation failed: Error processing Instruction 0: invalid instruction data"
    )
    assert any("Invalid UTF-8" in line for line in refused.data.logs or [])


# accounts and tokens


async def test_accounts_in_every_encoding(client: AsyncClient) -> None:
    payer, made = await funded(client), Keypair()
    rent = (await client.get_minimum_balance_for_rent_exemption(8)).value
    create = create_account(
        CreateAccountParams(
            from_pubkey=payer.pubkey(), to_pubkey=made.pubkey(), lamports=rent, space=8, owner=MEMO_PROGRAMS["v3"]
        )
    )
    latest = (await client.get_latest_blockhash()).value.blockhash
    message = MessageV0.try_compile(payer.pubkey(), [create], [], latest)
    await client.send_transaction(VersionedTransaction(message, [payer, made]), SEND)
    for encoding in ("base64", "base58"):
        account = (await client.get_account_info(made.pubkey(), encoding=encoding)).value
        assert account is not None
        assert (account.lamports, account.data, account.owner) == (rent, bytes(8), MEMO_PROGRAMS["v3"])
    parsed = (await client.get_account_info_json_parsed(made.pubkey())).value
    assert parsed is not None and parsed.data == bytes(8)
    several = (await client.get_multiple_accounts([made.pubkey(), Keypair().pubkey(), payer.pubkey()])).value
    assert [each is None for each in several] == [False, True, False]
    assert (await client.get_account_info(Keypair().pubkey())).value is None
    owned = await client.get_program_accounts(MEMO_PROGRAMS["v3"], filters=[8, MemcmpOpts(offset=0, bytes="1111")])
    assert [each.pubkey for each in owned.value] == [made.pubkey()]
    assert (await client.get_program_accounts(MEMO_PROGRAMS["v3"], filters=[9])).value == []


class Token(NamedTuple):
    """A mint of six decimals, and what its account of the payer's and another owner's are called."""

    mint: Pubkey
    program: Pubkey
    own: Pubkey
    other: Pubkey


async def make_token(client: AsyncClient, payer: Keypair, owner: Pubkey, program: Pubkey) -> Token:
    """With 5 units in the payer's account, 1.25 of which then go to ``owner``, in four transactions."""
    mint = Keypair()
    rent = (await client.get_minimum_balance_for_rent_exemption(MINT_LEN)).value
    create = create_account(
        CreateAccountParams(
            from_pubkey=payer.pubkey(), to_pubkey=mint.pubkey(), lamports=rent, space=MINT_LEN, owner=program
        )
    )
    initialize = tokens.initialize_mint2(
        models.InitializeMint2Params(decimals=6, program_id=program, mint=mint.pubkey(), mint_authority=payer.pubkey())
    )
    own, other = (
        tokens.get_associated_token_address(holder, mint.pubkey(), program) for holder in (payer.pubkey(), owner)
    )
    fill = tokens.mint_to(
        models.MintToParams(
            program_id=program, mint=mint.pubkey(), dest=own, mint_authority=payer.pubkey(), amount=5_000_000
        )
    )
    move = tokens.transfer_checked(
        models.TransferCheckedParams(
            program_id=program,
            source=own,
            mint=mint.pubkey(),
            dest=other,
            owner=payer.pubkey(),
            amount=1_250_000,
            decimals=6,
        )
    )
    accounts = [
        tokens.create_associated_token_account(payer.pubkey(), holder, mint.pubkey(), program)
        for holder in (payer.pubkey(), owner)
    ]
    latest = (await client.get_latest_blockhash()).value.blockhash
    made = MessageV0.try_compile(payer.pubkey(), [create, initialize], [], latest)
    await client.send_transaction(VersionedTransaction(made, [payer, mint]), SEND)
    for instructions in (accounts, [fill], [move]):
        await client.send_transaction(await signed(client, payer, *instructions), SEND)
    return Token(mint.pubkey(), program, own, other)


@pytest.mark.parametrize("program", [TOKEN_PROGRAM_ID, TOKEN_2022_PROGRAM_ID], ids=["token", "token-2022"])
async def test_tokens(net: Localnet, client: AsyncClient, program: Pubkey) -> None:
    payer, owner = await funded(client), Keypair().pubkey()
    token = await make_token(client, payer, owner, program)

    assert (await client.get_token_account_balance(token.own)).value.amount == "3750000"
    held = (await client.get_token_account_balance(token.other)).value
    assert (held.amount, held.decimals, held.ui_amount_string) == ("1250000", 6, "1.25")
    assert (await client.get_token_supply(token.mint)).value.amount == "5000000"
    largest = (await client.get_token_largest_accounts(token.mint)).value
    assert [(each.address, each.amount.amount) for each in largest] == [
        (token.own, "3750000"),
        (token.other, "1250000"),
    ]
    mint: Any = (await client.get_account_info_json_parsed(token.mint)).value
    assert mint.data.parsed["info"] == {
        "decimals": 6,
        "freezeAuthority": None,
        "isInitialized": True,
        "mintAuthority": str(payer.pubkey()),
        "supply": "5000000",
    }
    for options in (TokenAccountOpts(mint=token.mint), TokenAccountOpts(program_id=program)):
        found = await client.get_token_accounts_by_owner(owner, options)
        assert [each.pubkey for each in found.value] == [token.other]
        (parsed,) = (await client.get_token_accounts_by_owner_json_parsed(owner, options)).value
        info: Any = parsed.account.data.parsed["info"]
        assert (info["owner"], info["tokenAmount"]["uiAmountString"]) == (str(owner), "1.25")
    assert (await client.get_token_accounts_by_delegate(owner, TokenAccountOpts(mint=token.mint))).value == []


async def test_moved_tokens_and_calls_between_programs_are_told(net: Localnet, client: AsyncClient) -> None:
    payer = await funded(client)
    await make_token(client, payer, Keypair().pubkey(), TOKEN_PROGRAM_ID)
    net.advance()
    *_, created, _, moved = (Signature.from_string(entry.signature) for entry in net.chain.entries)

    whole = (await client.get_transaction(moved, "jsonParsed", Confirmed, 0)).value
    assert whole is not None and whole.transaction.meta is not None
    meta = whole.transaction.meta
    amounts = [
        [each.ui_token_amount.amount for each in listed or []]
        for listed in (meta.pre_token_balances, meta.post_token_balances)
    ]
    assert [sorted(each) for each in amounts] == [["0", "5000000"], ["1250000", "3750000"]]
    told: Any = whole.transaction.transaction
    (instruction,) = told.message.instructions
    assert instruction.parsed["type"] == "transferChecked"
    assert instruction.parsed["info"]["tokenAmount"]["amount"] == "1250000"

    for encoding in ("json", "jsonParsed"):
        found = (await client.get_transaction(created, encoding, Confirmed, 0)).value
        assert found is not None and found.transaction.meta is not None
        inner = found.transaction.meta.inner_instructions or []
        assert [(each.index, len(each.instructions)) for each in inner] == [(0, 4), (1, 4)]
        calls: list[Any] = [call for each in inner for call in each.instructions]
        assert {call.stack_height for call in calls} == {2}


TABLES = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")


async def test_accounts_from_an_address_table(net: Localnet, client: AsyncClient) -> None:
    payer, to = await funded(client), Keypair().pubkey()
    slot = (await client.get_slot()).value - 1
    table, bump = Pubkey.find_program_address([bytes(payer.pubkey()), slot.to_bytes(8, "little")], TABLES)
    roles = [
        AccountMeta(table, False, True),
        AccountMeta(payer.pubkey(), True, False),
        AccountMeta(payer.pubkey(), True, True),
        AccountMeta(Pubkey.default(), False, False),
    ]
    create = Instruction(TABLES, bytes(4) + slot.to_bytes(8, "little") + bytes([bump]), roles)
    extend = Instruction(TABLES, b"\2\0\0\0" + (1).to_bytes(8, "little") + bytes(to), roles)
    await client.send_transaction(await signed(client, payer, create, extend), SEND)
    net.advance()

    known = AddressLookupTableAccount(table, [to])
    latest = (await client.get_latest_blockhash()).value.blockhash
    message = MessageV0.try_compile(payer.pubkey(), [pay(payer, to, SOL // 4)], [known], latest)
    assert to not in message.account_keys
    sent = await client.send_transaction(VersionedTransaction(message, [payer]), SEND)
    net.advance()

    assert await balance(client, to) == SOL // 4
    (mention,) = (await client.get_signatures_for_address(to, commitment=Confirmed)).value
    assert mention.signature == sent.value
    found = (await client.get_transaction(sent.value, "json", Confirmed, 0)).value
    assert found is not None
    meta = found.transaction.meta
    assert meta is not None
    assert meta.loaded_addresses is not None
    assert meta.loaded_addresses.writable == [to]
    assert meta.post_balances[-1] == SOL // 4

    missing = AddressLookupTableAccount(Keypair().pubkey(), [to])
    message = MessageV0.try_compile(payer.pubkey(), [pay(payer, to, SOL // 4)], [missing], latest)
    refused = await refusal(client.send_transaction(VersionedTransaction(message, [payer]), SEND))
    assert preflight_error(refused) == TransactionErrorFieldless.AddressLookupTableNotFound
