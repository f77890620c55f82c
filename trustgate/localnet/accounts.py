"""The methods about accounts: balances, data, tokens.

Answers are for accounts as they were at the commitment asked for, "finalized" unless said otherwise, so a payment shows
as late as on a cluster. Source: Solana documentation, "RPC: HTTP methods".
"""

from __future__ import annotations

import functools
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from trustgate.formats.solana_transaction import b58decode
from trustgate.formats.spl_token import (
    TOKEN_PROGRAMS,
    Mint,
    ReadAccount,
    TokenAccount,
    amount_json,
    read_mint,
    read_token_account,
)
from trustgate.localnet.chain import LocalChain
from trustgate.localnet.encode import ACCOUNT_ENCODINGS, account_json
from trustgate.localnet.faults import invalid
from trustgate.localnet.params import Config, Params, to_number, to_pubkey

_MOST_ACCOUNTS = 100
_MOST_FILTERS = 4
_MOST_FILTER_BYTES = 128
_LARGEST = 20


def with_context(slot: int, value: Any) -> dict[str, Any]:
    """Returns a result as most methods give it: with the slot that it was true in."""
    return {"context": {"slot": slot, "apiVersion": "2.3.0"}, "value": value}


def _reader(chain: LocalChain, slot: int) -> ReadAccount:
    return functools.partial(chain.bank.account, slot=slot)


# accounts


def _balance(chain: LocalChain, params: Params) -> dict[str, Any]:
    key, slot = params.pubkey(0), params.config(1).slot(chain)
    account = chain.bank.account(key, slot)
    return with_context(slot, account.lamports if account is not None else 0)


def _account_info(chain: LocalChain, params: Params) -> dict[str, Any]:
    key, config = params.pubkey(0), params.config(1)
    slot = config.slot(chain)
    return with_context(slot, _told(chain, key, slot, config))


def _multiple_accounts(chain: LocalChain, params: Params) -> dict[str, Any]:
    listed, config = params.array(0, _MOST_ACCOUNTS, "inputs"), params.config(1)
    keys = [to_pubkey(value) for value in listed]
    slot = config.slot(chain)
    # Without an encoding, this one method means base64.
    return with_context(slot, [_told(chain, key, slot, config, default="base64") for key in keys])


def _told(chain: LocalChain, key: Pubkey, slot: int, config: Config, default: str = "binary") -> dict[str, Any] | None:
    read = _reader(chain, slot)
    encoding, cut = config.encoding(ACCOUNT_ENCODINGS, default), config.data_slice()
    account = read(key)
    return None if account is None else account_json(account, encoding, cut, read)


def _program_accounts(chain: LocalChain, params: Params) -> Any:
    program, config = params.pubkey(0), params.config(1)
    slot = config.slot(chain)
    filters = config.values.get("filters") or []
    if not isinstance(filters, list) or len(filters) > _MOST_FILTERS:
        raise invalid(f"Too many filters provided; max {_MOST_FILTERS}")
    checks = [_filter(each) for each in filters]
    read, encoding, cut = _reader(chain, slot), config.account_encoding(), config.data_slice()
    found = [
        {"pubkey": str(key), "account": account_json(account, encoding, cut, read)}
        for key, account in _accounts(chain, slot)
        if account.owner == program and all(check(account.data) for check in checks)
    ]
    return with_context(slot, found) if config.flag("withContext") else found


def _accounts(chain: LocalChain, slot: int) -> Iterator[tuple[Pubkey, Account]]:
    for key in chain.bank.known():
        account = chain.bank.account(key, slot)
        if account is not None:
            yield key, account


def _filter(value: Any) -> Callable[[bytes], bool]:
    """Returns a check of an account's data: by its size, or by bytes at a place."""
    if isinstance(value, dict) and "dataSize" in value:
        size = to_number(value["dataSize"])
        return lambda data: len(data) == size
    compared = value.get("memcmp") if isinstance(value, dict) else None
    if isinstance(compared, dict):
        offset, wanted = to_number(compared.get("offset")), _compared_bytes(compared)
        return lambda data: data[offset : offset + len(wanted)] == wanted
    raise invalid("Invalid params: a filter is dataSize or memcmp")


def _compared_bytes(compared: dict[str, Any]) -> bytes:
    text, encoding = compared.get("bytes"), compared.get("encoding") or "base58"
    if not isinstance(text, str) or encoding not in ("base58", "base64"):
        raise invalid("Invalid params: memcmp has bytes in base58 or base64")
    try:
        wanted = b58decode(text) if encoding == "base58" else b64decode(text, validate=True)
    except ValueError:
        raise invalid(f"Invalid param: these bytes are no {encoding}") from None
    if len(wanted) > _MOST_FILTER_BYTES:
        raise invalid(f"Invalid param: at most {_MOST_FILTER_BYTES} bytes can be compared")
    return wanted


def _rent_exemption(chain: LocalChain, params: Params) -> int:
    size = params.number(0)
    if size > 10 * 1024 * 1024:
        raise invalid("Invalid param: no account has more than 10 MiB of data")
    return chain.bank.rent_exempt_lamports(size)


# tokens


def _token_balance(chain: LocalChain, params: Params) -> dict[str, Any]:
    key, slot = params.pubkey(0), params.config(1).slot(chain)
    held, mint = _token_account(chain, key, slot)
    return with_context(slot, amount_json(held.amount, mint.decimals))


def _token_supply(chain: LocalChain, params: Params) -> dict[str, Any]:
    key, slot = params.pubkey(0), params.config(1).slot(chain)
    mint = _mint(chain, key, slot)
    return with_context(slot, amount_json(mint.supply, mint.decimals))


def _token_largest_accounts(chain: LocalChain, params: Params) -> dict[str, Any]:
    key, slot = params.pubkey(0), params.config(1).slot(chain)
    mint = _mint(chain, key, slot)
    held = [(at, token) for at, _, token in _token_accounts(chain, slot) if token.mint == key]
    held.sort(key=lambda each: -each[1].amount)
    told = [{"address": str(at), **amount_json(token.amount, mint.decimals)} for at, token in held[:_LARGEST]]
    return with_context(slot, told)


def _token_accounts_by_owner(chain: LocalChain, params: Params) -> dict[str, Any]:
    owner = params.pubkey(0)
    return _token_accounts_where(chain, params, lambda held: held.owner == owner)


def _token_accounts_by_delegate(chain: LocalChain, params: Params) -> dict[str, Any]:
    delegate = params.pubkey(0)
    return _token_accounts_where(chain, params, lambda held: held.delegate == delegate)


def _token_accounts_where(chain: LocalChain, params: Params, fits: Callable[[TokenAccount], bool]) -> dict[str, Any]:
    config, wanted = params.config(2), params.need(1)
    slot = config.slot(chain)
    mint, program = _mint_or_program(chain, wanted, slot)
    read, encoding, cut = _reader(chain, slot), config.account_encoding(), config.data_slice()
    found = [
        {"pubkey": str(key), "account": account_json(account, encoding, cut, read)}
        for key, account, held in _token_accounts(chain, slot)
        if fits(held) and mint in (None, held.mint) and program in (None, str(account.owner))
    ]
    return with_context(slot, found)


def _mint_or_program(chain: LocalChain, wanted: Any, slot: int) -> tuple[Pubkey | None, str | None]:
    """Returns which tokens are meant: those of one mint, or all of one token program."""
    if isinstance(wanted, dict) and "mint" in wanted:
        mint = to_pubkey(wanted["mint"])
        if read_mint(chain.bank.account(mint, slot)) is None:
            raise invalid("Invalid param: could not find mint")
        return mint, None
    if isinstance(wanted, dict) and "programId" in wanted:
        program = str(to_pubkey(wanted["programId"]))
        if program not in TOKEN_PROGRAMS:
            raise invalid("Invalid param: unrecognized Token program id")
        return None, program
    raise invalid("Invalid params: expected an object with mint or programId")


def _token_accounts(chain: LocalChain, slot: int) -> Iterator[tuple[Pubkey, Account, TokenAccount]]:
    for key, account in _accounts(chain, slot):
        held = read_token_account(account)
        if held is not None:
            yield key, account, held


def _token_account(chain: LocalChain, key: Pubkey, slot: int) -> tuple[TokenAccount, Mint]:
    account = chain.bank.account(key, slot)
    if account is None:
        raise invalid("Invalid param: could not find account")
    held = read_token_account(account)
    if held is None:
        raise invalid("Invalid param: not a Token account")
    return held, _mint(chain, held.mint, slot)


def _mint(chain: LocalChain, key: Pubkey, slot: int) -> Mint:
    account = chain.bank.account(key, slot)
    if account is None:
        raise invalid("Invalid param: could not find account")
    mint = read_mint(account)
    if mint is None:
        raise invalid("Invalid param: not a Token mint")
    return mint


ACCOUNT_METHODS = {
    "getBalance": _balance,
    "getAccountInfo": _account_info,
    "getMultipleAccounts": _multiple_accounts,
    "getProgramAccounts": _program_accounts,
    "getMinimumBalanceForRentExemption": _rent_exemption,
    "getTokenAccountBalance": _token_balance,
    "getTokenSupply": _token_supply,
    "getTokenLargestAccounts": _token_largest_accounts,
    "getTokenAccountsByOwner": _token_accounts_by_owner,
    "getTokenAccountsByDelegate": _token_accounts_by_delegate,
}
