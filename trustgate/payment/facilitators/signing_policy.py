"""What the embedded facilitator signs, and nothing else: one transfer of exactly the amount, at a fee with a ceiling.

Owns the rules, which are stricter than those of the exact scheme where those leave a fee payer's money open: the stock
facilitator takes a transaction that names the fee payer among an instruction's accounts, asks any number of compute
units at up to five lamports each, or brings accounts from address tables. Here

    signers       two, the fee payer first, then the owner of the tokens
    instructions  compute-unit limit, compute-unit price, TransferChecked, then at most one memo and the assertions that
                  wallets add (Lighthouse), three of these in all
    accounts      in the message itself; the fee payer in no instruction's, so that no program can touch what it holds
    fee           at most ``MOST_FEE_LAMPORTS``, signatures included

Lighthouse is let in because Phantom and others add it unasked, and harmless because no instruction reaches the fee
payer: all that it can do is fail the transaction. Source: x402 specification, "exact" for SVM; its reasons are used.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from trustgate.formats.solana_transaction import Instruction, Transaction, b58encode
from trustgate.payment.payment_key import TOKEN_PROGRAMS

#: What a payment may cost the fee payer: 5,000 for each of the two signatures, the rest for priority.
MOST_FEE_LAMPORTS: Final = 50_000
MOST_COMPUTE_UNITS: Final = 200_000
_SIGNERS: Final = 2
_LAMPORTS_PER_SIGNATURE: Final = 5_000
_MICRO_LAMPORTS: Final = 1_000_000

_COMPUTE_BUDGET: Final = "ComputeBudget111111111111111111111111111111"
_MEMO: Final = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
_LIGHTHOUSE: Final = "L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95"
_SET_LIMIT, _SET_PRICE, _TRANSFER_CHECKED = 2, 3, 12
_FIRST_OPTIONAL: Final = 3
_MOST_OPTIONAL: Final = 3

_REASON: Final = "invalid_exact_svm_payload_"
_TRANSACTION: Final = "invalid_exact_svm_payload_transaction_"


class Terms(NamedTuple):
    """What a payment has to be. Addresses are base58."""

    fee_payer: str
    mint: str
    decimals: int
    #: The receiver's token account, by the token program that the transfer names.
    destinations: dict[str, str]
    #: Atomic units.
    amount: int


def why_not(transaction: Transaction, terms: Terms) -> str | None:
    """Returns the reason (x402's words) for which the fee payer does not sign this; None if it may.

    Signatures are not looked at.
    """
    return _why_not_shape(transaction, terms) or _why_not_fee(transaction) or _why_not_transfer(transaction, terms)


def _why_not_shape(transaction: Transaction, terms: Terms) -> str | None:
    instructions = transaction.instructions
    if transaction.fee_payer != terms.fee_payer:
        return "fee_payer_not_managed_by_facilitator"
    if len(transaction.signatures) != _SIGNERS:
        return f"{_TRANSACTION}signers"
    if transaction.looked_up:
        return f"{_TRANSACTION}address_lookup_tables"
    if not _FIRST_OPTIONAL <= len(instructions) <= _FIRST_OPTIONAL + _MOST_OPTIONAL:
        return f"{_TRANSACTION}instructions_length"
    if any(0 in instruction.accounts for instruction in instructions):
        return f"{_TRANSACTION}fee_payer_included_in_instruction_accounts"
    optional = [instruction.program for instruction in instructions[_FIRST_OPTIONAL:]]
    for program, place in zip(optional, ("fourth", "fifth", "sixth"), strict=False):
        if program not in (_MEMO, _LIGHTHOUSE):
            return f"{_REASON}unknown_{place}_instruction"
    return f"{_REASON}memo_count" if optional.count(_MEMO) > 1 else None


def _why_not_fee(transaction: Transaction) -> str | None:
    limit = _budget(transaction.instructions[0], _SET_LIMIT, 4)
    if limit is None or limit > MOST_COMPUTE_UNITS:
        return f"{_TRANSACTION}instructions_compute_limit_instruction"
    price = _budget(transaction.instructions[1], _SET_PRICE, 8)
    if price is None:
        return f"{_TRANSACTION}instructions_compute_price_instruction"
    fee = _SIGNERS * _LAMPORTS_PER_SIGNATURE - (-limit * price // _MICRO_LAMPORTS)
    return f"{_TRANSACTION}instructions_compute_price_instruction_too_high" if fee > MOST_FEE_LAMPORTS else None


def _why_not_transfer(transaction: Transaction, terms: Terms) -> str | None:
    program, accounts, data = transaction.instructions[2]
    if program not in TOKEN_PROGRAMS or len(accounts) != 4 or len(data) != 10 or data[0] != _TRANSFER_CHECKED:
        return f"{_REASON}no_transfer_instruction"
    _, mint, destination, _ = (b58encode(transaction.keys[place]) for place in accounts)
    if accounts[3] != 1:
        return f"{_REASON}transfer_authority"
    if mint != terms.mint or data[9] != terms.decimals:
        return f"{_REASON}mint_mismatch"
    if destination != terms.destinations.get(program):
        return f"{_REASON}recipient_mismatch"
    amount = int.from_bytes(data[1:9], "little")
    if amount != terms.amount:
        return f"{_REASON}amount_{'insufficient' if amount < terms.amount else 'mismatch'}"
    return None


def _budget(instruction: Instruction, kind: int, size: int) -> int | None:
    """Returns the number in an instruction of the compute budget; None if it is another one."""
    program, accounts, data = instruction
    if program != _COMPUTE_BUDGET or accounts or len(data) != 1 + size or data[0] != kind:
        return None
    return int.from_bytes(data[1:], "little")
