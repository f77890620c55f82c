"""The methods about transactions: sending, simulating, looking them up.

Refusals have the codes, texts and ``data`` of a node's. With ``skipPreflight`` a transaction that cannot land is
answered with its signature and dropped, as a cluster does. Source: Solana documentation, "RPC: HTTP methods"; Agave's
``rpc.rs`` where that is silent.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any

from solders.account import Account
from solders.message import Message, MessageV0, from_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from trustgate.formats.solana_transaction import MAX_TRANSACTION_BYTES, b58decode
from trustgate.localnet.accounts import with_context
from trustgate.localnet.bank import Outcome
from trustgate.localnet.chain import Commitment, HistoryEntry, LocalChain
from trustgate.localnet.clock import BLOCKHASH_AGE_BLOCKS, SKIPPED_SLOTS
from trustgate.localnet.encode import (
    ACCOUNT_ENCODINGS,
    TRANSACTION_ENCODINGS,
    account_json,
    inner_json,
    returned_json,
    status_json,
    transaction_json,
)
from trustgate.localnet.faults import (
    PREFLIGHT_FAILED,
    SIGNATURE_INVALID,
    RpcError,
    invalid,
    tamed,
    transaction_text,
)
from trustgate.localnet.fees import unit_price
from trustgate.localnet.params import Config, Params, to_pubkey, to_signature

_MOST_STATUSES = 256
_MOST_SIGNATURES = 1_000
_MOST_FEE_ACCOUNTS = 128
#: How long statuses are known without searching the history, slots (Agave's status cache).
_RECENT_SLOTS = 300
#: Characters that are decoded at a time.
_BASE58_PART = 100


# blockhashes and fees


def _latest_blockhash(chain: LocalChain, params: Params) -> dict[str, Any]:
    slot = params.config(0).slot(chain)
    latest = chain.clock.hash_at(slot)
    value = {"blockhash": latest.blockhash, "lastValidBlockHeight": latest.last_valid_block_height}
    return with_context(slot, value)


def _blockhash_valid(chain: LocalChain, params: Params) -> dict[str, Any]:
    blockhash, config = str(to_pubkey(params.need(0))), params.config(1)
    return with_context(config.slot(chain), chain.blockhash_is_valid(blockhash, config.commitment()))


def _fee_for_message(chain: LocalChain, params: Params) -> dict[str, Any]:
    text, config = params.text(0), params.config(1)
    slot = config.slot(chain)
    message = _read_message(text)
    if not chain.blockhash_is_valid(str(message.recent_blockhash), config.commitment()):
        return with_context(slot, None)
    return with_context(slot, chain.bank.fee(message))


def _prioritization_fees(chain: LocalChain, params: Params) -> list[dict[str, int]]:
    listed = [] if params.get(0) is None else params.array(0, _MOST_FEE_ACCOUNTS, "accounts")
    asked = {to_pubkey(value) for value in listed}
    tip = chain.slot
    slots = range(max(SKIPPED_SLOTS, tip - BLOCKHASH_AGE_BLOCKS + 1), tip + 1)
    return [{"slot": slot, "prioritizationFee": _least_price(chain, slot, asked)} for slot in slots]


def _least_price(chain: LocalChain, slot: int, asked: set[Pubkey]) -> int:
    """Returns the lowest price, micro-lamports a compute unit, among what landed in a slot and could write those
    accounts.
    """
    prices = []
    for entry in chain.entries_in(slot):
        resolved = entry.outcome.resolved
        writable = {key for key, flag in zip(resolved.keys, resolved.writable, strict=True) if flag}
        if asked <= writable:
            prices.append(unit_price(resolved.programs_and_data))
    return min(prices, default=0)


# sending


def _send(chain: LocalChain, params: Params) -> str:
    config = params.config(1)
    raw_encoding = config.encoding(("base58", "base64"), "base58")
    transaction = _read_transaction(params.text(0), raw_encoding)
    signature = str(transaction.signatures[0])
    preflight = not config.flag("skipPreflight")
    commitment = config.commitment("preflightCommitment")
    signed = all(transaction.verify_with_results())
    if preflight:
        if not signed:
            raise _unsigned()
        chain.send(transaction, _preflight(chain, transaction, commitment))
    elif signed:
        chain.send(transaction)
    return signature


def _preflight(chain: LocalChain, transaction: VersionedTransaction, commitment: Commitment) -> Outcome:
    outcome = chain.simulate(transaction, commitment)
    if outcome.err is None:
        return outcome
    raise RpcError(
        PREFLIGHT_FAILED,
        f"Transaction simulation failed: {transaction_text(outcome.err)}",
        _simulated(outcome, accounts=None, inner=None),
    )


def _airdrop(chain: LocalChain, params: Params) -> str:
    to, lamports, config = params.pubkey(0), params.number(1), params.config(2)
    blockhash = config.text("recentBlockhash")
    transaction = chain.airdrop(to, lamports, None if blockhash is None else str(to_pubkey(blockhash)))
    chain.send(transaction, _preflight(chain, transaction, "processed"))
    return str(transaction.signatures[0])


def _simulate(chain: LocalChain, params: Params) -> dict[str, Any]:
    config = params.config(1)
    verify, replace = config.flag("sigVerify"), config.flag("replaceRecentBlockhash")
    if verify and replace:
        raise invalid("sigVerify may not be used with replaceRecentBlockhash")
    transaction = _read_transaction(params.text(0), config.encoding(("base58", "base64"), "base58"))
    if verify and not all(transaction.verify_with_results()):
        raise _unsigned()
    slot = config.slot(chain)
    outcome = chain.simulate(transaction, None if replace else config.commitment())
    inner = inner_json(outcome, parsed=True) if config.flag("innerInstructions") else None
    value = _simulated(outcome, accounts=_simulated_accounts(chain, outcome, config), inner=inner)
    if replace:
        latest = chain.clock.hash_at(slot)
        value["replacementBlockhash"] = {
            "blockhash": latest.blockhash,
            "lastValidBlockHeight": latest.last_valid_block_height,
        }
    return with_context(slot, value)


def _simulated(outcome: Outcome, *, accounts: list[Any] | None, inner: list[Any] | None) -> dict[str, Any]:
    return {
        "err": outcome.err,
        "logs": outcome.logs,
        "accounts": accounts,
        "unitsConsumed": outcome.units,
        "returnData": returned_json(outcome),
        "innerInstructions": inner,
        "replacementBlockhash": None,
    }


def _simulated_accounts(chain: LocalChain, outcome: Outcome, config: Config) -> list[Any] | None:
    """Returns the accounts that the caller wants to see as they would be; null for those that would not be."""
    wanted = config.values.get("accounts")
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or not isinstance(wanted.get("addresses"), list):
        raise invalid("Invalid params: accounts has addresses, an array")
    encoding = Config(wanted).encoding(ACCOUNT_ENCODINGS, "base64")
    if encoding in ("binary", "base58"):
        raise invalid("base58 encoding not supported")
    keys = [to_pubkey(value) for value in wanted["addresses"]]
    if len(keys) > len(outcome.resolved.keys):
        raise invalid(f"Too many accounts provided; max {len(outcome.resolved.keys)}")
    if outcome.err is not None:
        return [None] * len(keys)

    def read(key: Pubkey) -> Account | None:
        account = outcome.post.get(key) or chain.bank.account(key)
        return account if account is not None and account.lamports else None

    found = [read(key) for key in keys]
    return [None if account is None else account_json(account, encoding, None, read) for account in found]


# looking up


def _statuses(chain: LocalChain, params: Params) -> dict[str, Any]:
    listed, config = params.array(0, _MOST_STATUSES, "inputs"), params.config(1)
    signatures = [to_signature(value) for value in listed]
    history = config.flag("searchTransactionHistory")
    return with_context(chain.slot, [_status(chain, signature, history) for signature in signatures])


def _status(chain: LocalChain, signature: str, history: bool) -> dict[str, Any] | None:
    entry = chain.entry(signature)
    if entry is None or (not history and chain.slot - entry.slot > _RECENT_SLOTS):
        return None
    commitment = chain.commitment_of(entry.slot)
    return {
        "slot": entry.slot,
        "confirmations": None if commitment == "finalized" else chain.slot - entry.slot,
        "err": entry.outcome.err,
        "status": status_json(entry.outcome.err),
        "confirmationStatus": commitment,
    }


def _signatures_for_address(chain: LocalChain, params: Params) -> list[dict[str, Any]]:
    address, config = params.pubkey(0), params.config(1)
    newest = chain.slot_at(config.settled())
    limit = config.number("limit")
    limit = _MOST_SIGNATURES if limit is None else limit
    if not 1 <= limit <= _MOST_SIGNATURES:
        raise invalid(f"Invalid limit; max {_MOST_SIGNATURES}")
    before, until = config.values.get("before"), config.values.get("until")
    below = None if before is None else chain.entry(to_signature(before))
    above = None if until is None else chain.entry(to_signature(until))
    if before is not None and below is None:
        return []
    found = []
    for entry in reversed(chain.entries_of(address)):
        if above is not None and entry.order <= above.order:
            break
        if entry.slot <= newest and (below is None or entry.order < below.order):
            found.append(_mention(chain, entry))
        if len(found) == limit:
            break
    return found


def _mention(chain: LocalChain, entry: HistoryEntry) -> dict[str, Any]:
    return {
        "signature": entry.signature,
        "slot": entry.slot,
        "err": entry.outcome.err,
        "memo": entry.memo,
        "blockTime": chain.clock.time_s(entry.slot),
        "confirmationStatus": chain.commitment_of(entry.slot),
    }


def _transaction(chain: LocalChain, params: Params) -> dict[str, Any] | None:
    signature = to_signature(params.need(0))
    config = params.config_or_encoding(1)
    newest = chain.slot_at(config.settled())
    encoding = config.encoding(TRANSACTION_ENCODINGS, "json")
    entry = chain.entry(signature)
    if entry is None or entry.slot > newest:
        return None
    told = transaction_json(entry, encoding, config.number("maxSupportedTransactionVersion"))
    return {"slot": entry.slot, **told, "blockTime": chain.clock.time_s(entry.slot)}


# reading


def _read_transaction(text: str, encoding: str) -> VersionedTransaction:
    """Returns a transaction that is sane: its counts and indexes fit together. Raises RpcError."""
    kind = "solana_transaction::versioned::VersionedTransaction"
    raw = _read_bytes(text, encoding, kind)
    with tamed("reading the transaction"):
        try:
            transaction = VersionedTransaction.from_bytes(raw)
        except ValueError as error:
            raise invalid(f"failed to deserialize {kind}: {error}") from None
        # What follows a transaction is not signed: a node refuses it as well.
        if bytes(transaction) != raw:
            raise invalid(f"failed to deserialize {kind}: it is followed by other bytes, or not in its shortest form")
        try:
            transaction.sanitize()
        except Exception as error:  # noqa: BLE001 - solders' SanitizeError is of no narrower kind
            raise invalid(
                f"invalid transaction: Transaction failed to sanitize accounts offsets correctly ({error})"
            ) from None
    return transaction


def _read_message(text: str) -> Message | MessageV0:
    raw = _read_bytes(text, "base64", "solana_message::versions::VersionedMessage")
    with tamed("reading the message"):
        try:
            message = from_bytes_versioned(raw)
            unsigned = [Signature.default()] * message.header.num_required_signatures
            VersionedTransaction.populate(message, unsigned).sanitize()
        except Exception as error:  # noqa: BLE001 - solders' SanitizeError is of no narrower kind
            raise invalid(f"failed to deserialize solana_message::versions::VersionedMessage: {error}") from None
    return message


def _read_bytes(text: str, encoding: str, kind: str) -> bytes:
    most = _encoded_most(encoding)
    if len(text) > most:
        raise invalid(
            f"{encoding} encoded {kind} too large: {len(text)} bytes (max: encoded/raw {most}/{MAX_TRANSACTION_BYTES})"
        )
    try:
        raw = b64decode(text, validate=True) if encoding == "base64" else _from_base58(text)
    except (Base64Error, ValueError) as error:
        raise invalid(f"invalid {encoding} encoding: {error}") from None
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise invalid(f"decoded {kind} too large: {len(raw)} bytes (max: {MAX_TRANSACTION_BYTES} bytes)")
    return raw


def _from_base58(text: str) -> bytes:
    """Of a text that is longer than an address or a signature. Raises ValueError."""
    number = 0
    for start in range(0, len(text), _BASE58_PART):
        part = text[start : start + _BASE58_PART]
        number = number * 58 ** len(part) + int.from_bytes(b58decode(part))
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8)


def _encoded_most(encoding: str) -> int:
    """Returns the most characters a transaction can have."""
    return (MAX_TRANSACTION_BYTES + 2) // 3 * 4 if encoding == "base64" else 1_683


def _unsigned() -> RpcError:
    return RpcError(SIGNATURE_INVALID, "Transaction signature verification failure")


TRANSACTION_METHODS = {
    "getLatestBlockhash": _latest_blockhash,
    "isBlockhashValid": _blockhash_valid,
    "getFeeForMessage": _fee_for_message,
    "getRecentPrioritizationFees": _prioritization_fees,
    "sendTransaction": _send,
    "requestAirdrop": _airdrop,
    "simulateTransaction": _simulate,
    "getSignatureStatuses": _statuses,
    "getSignaturesForAddress": _signatures_for_address,
    "getTransaction": _transaction,
}
