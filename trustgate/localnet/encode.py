"""Transactions, blocks and accounts in the forms that clients ask for.

Owns the encodings: ``json``, ``jsonParsed``, ``base64`` and ``base58`` of transactions; ``base64``, ``base58``,
``jsonParsed`` and the old bare ``binary`` of accounts. Source: Solana documentation, "RPC: JSON structures".
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, NamedTuple

from solders.account import Account
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey

from trustgate.formats.solana_transaction import b58encode
from trustgate.formats.spl_token import ReadAccount, TokenBalance, amount_json, parsed_account
from trustgate.localnet.bank import Inner, Outcome
from trustgate.localnet.chain import HistoryEntry
from trustgate.localnet.faults import INVALID_REQUEST, VERSION_UNSUPPORTED, RpcError
from trustgate.localnet.lookup import ResolvedAccounts
from trustgate.localnet.programs import parsed_instruction

TRANSACTION_ENCODINGS = ("json", "jsonParsed", "base64", "base58")
ACCOUNT_ENCODINGS = ("base64", "base58", "jsonParsed", "binary")
#: base58 takes time that grows with the square of the length; nodes refuse it beyond this.
_MAX_BASE58_BYTES = 128


class Slice(NamedTuple):
    offset: int
    length: int


# accounts


def account_json(account: Account, encoding: str, cut: Slice | None, read: ReadAccount) -> dict[str, Any]:
    """Raises RpcError where the data is too long for base58."""
    return {
        "data": _account_data(account, encoding, cut, read),
        "executable": account.executable,
        "lamports": account.lamports,
        "owner": str(account.owner),
        "rentEpoch": account.rent_epoch,
        "space": len(account.data),
    }


def _account_data(account: Account, encoding: str, cut: Slice | None, read: ReadAccount) -> Any:
    if encoding == "jsonParsed":
        parsed = parsed_account(account, read)
        if parsed is not None:
            return parsed
    data = account.data if cut is None else account.data[cut.offset : cut.offset + cut.length]
    if encoding not in ("binary", "base58"):
        return [b64encode(data).decode(), "base64"]
    if len(data) > _MAX_BASE58_BYTES:
        raise RpcError(
            INVALID_REQUEST,
            f"Encoded binary (base 58) data should be less than {_MAX_BASE58_BYTES} bytes, please use Base64 encoding.",
        )
    return b58encode(data) if encoding == "binary" else [b58encode(data), "base58"]


# transactions


def transaction_json(entry: HistoryEntry, encoding: str, max_version: int | None) -> dict[str, Any]:
    """Returns a transaction and its meta, as in a block. Raises RpcError if its version is one the client does not
    read.
    """
    message = entry.transaction.message
    versioned = isinstance(message, MessageV0)
    if versioned and max_version is None:
        raise RpcError(
            VERSION_UNSUPPORTED,
            "Transaction version (0) is not supported by the requesting client. Please try the request again with the "
            'following configuration parameter: "maxSupportedTransactionVersion": 0',
        )
    told = {"transaction": _transaction(entry, encoding), "meta": _meta(entry, parsed=encoding == "jsonParsed")}
    if max_version is not None:
        told["version"] = 0 if versioned else "legacy"
    return told


def accounts_json(entry: HistoryEntry, max_version: int | None) -> dict[str, Any]:
    """Returns a transaction of a block that is asked for with the detail ``accounts``."""
    whole = transaction_json(entry, "jsonParsed", max_version)
    kept = ("err", "status", "fee", "preBalances", "postBalances", "preTokenBalances", "postTokenBalances")
    keys = whole["transaction"]["message"]["accountKeys"]
    return {
        **whole,
        "transaction": {"signatures": whole["transaction"]["signatures"], "accountKeys": keys},
        "meta": {name: whole["meta"][name] for name in kept},
    }


def _transaction(entry: HistoryEntry, encoding: str) -> Any:
    raw = bytes(entry.transaction)
    if encoding == "base64":
        return [b64encode(raw).decode(), "base64"]
    if encoding == "base58":
        return [b58encode(raw), "base58"]
    message = entry.transaction.message
    told = _parsed_message(entry, message) if encoding == "jsonParsed" else _message(message)
    if isinstance(message, MessageV0):
        told["addressTableLookups"] = [
            {
                "accountKey": str(lookup.account_key),
                "writableIndexes": list(lookup.writable_indexes),
                "readonlyIndexes": list(lookup.readonly_indexes),
            }
            for lookup in message.address_table_lookups
        ]
    return {"signatures": [str(signature) for signature in entry.transaction.signatures], "message": told}


def _message(message: Message | MessageV0) -> dict[str, Any]:
    header = message.header
    return {
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "accountKeys": _texts(message.account_keys),
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            {
                "programIdIndex": instruction.program_id_index,
                "accounts": list(instruction.accounts),
                "data": b58encode(bytes(instruction.data)),
                "stackHeight": None,
            }
            for instruction in message.instructions
        ],
    }


def _parsed_message(entry: HistoryEntry, message: Message | MessageV0) -> dict[str, Any]:
    resolved = entry.outcome.resolved
    texts = _texts(resolved.keys)
    return {
        "accountKeys": [
            {
                "pubkey": text,
                "signer": index < resolved.signers,
                "writable": resolved.writable[index],
                "source": "transaction" if index < resolved.own else "lookupTable",
            }
            for index, text in enumerate(texts)
        ],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            parsed_instruction(
                texts[instruction.program_id_index],
                [texts[account] for account in instruction.accounts],
                bytes(instruction.data),
                None,
            )
            for instruction in message.instructions
        ],
    }


def _meta(entry: HistoryEntry, *, parsed: bool) -> dict[str, Any]:
    outcome = entry.outcome
    meta: dict[str, Any] = {
        "err": outcome.err,
        "status": status_json(outcome.err),
        "fee": outcome.fee,
        "preBalances": entry.before,
        "postBalances": entry.after,
        "innerInstructions": inner_json(outcome, parsed=parsed),
        "logMessages": outcome.logs,
        "preTokenBalances": [_token_balance(balance) for balance in entry.tokens_before],
        "postTokenBalances": [_token_balance(balance) for balance in entry.tokens_after],
        "rewards": [],
        "computeUnitsConsumed": outcome.units,
    }
    if not parsed:
        meta["loadedAddresses"] = loaded_json(outcome.resolved)
    if outcome.returned is not None:
        meta["returnData"] = returned_json(outcome)
    return meta


def status_json(err: Any) -> dict[str, Any]:
    return {"Ok": None} if err is None else {"Err": err}


def loaded_json(resolved: ResolvedAccounts) -> dict[str, list[str]]:
    """Returns the accounts that came from address tables."""
    middle = resolved.own + resolved.loaded_writable
    return {"writable": _texts(resolved.keys[resolved.own : middle]), "readonly": _texts(resolved.keys[middle:])}


def returned_json(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.returned is None:
        return None
    program, data = outcome.returned
    return {"programId": program, "data": [b64encode(data).decode(), "base64"]}


def inner_json(outcome: Outcome, *, parsed: bool) -> list[dict[str, Any]]:
    """Returns what programs called, under the index of the instruction that made them."""
    texts = _texts(outcome.resolved.keys)
    return [
        {"index": index, "instructions": [_inner(call, texts, parsed=parsed) for call in calls]}
        for index, calls in enumerate(outcome.inner)
        if calls
    ]


def _inner(call: Inner, texts: list[str], *, parsed: bool) -> dict[str, Any]:
    if parsed:
        accounts = [texts[account] for account in call.accounts]
        return parsed_instruction(texts[call.program], accounts, call.data, call.depth)
    return {
        "programIdIndex": call.program,
        "accounts": list(call.accounts),
        "data": b58encode(call.data),
        "stackHeight": call.depth,
    }


def _token_balance(balance: TokenBalance) -> dict[str, Any]:
    return {
        "accountIndex": balance.place,
        "mint": str(balance.mint),
        "owner": str(balance.owner),
        "programId": balance.program,
        "uiTokenAmount": amount_json(balance.amount, balance.decimals),
    }


def _texts(keys: tuple[Pubkey, ...] | list[Pubkey]) -> list[str]:
    return [str(key) for key in keys]
