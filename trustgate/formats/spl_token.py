"""Tokens: what the accounts of the two token programs hold.

Owns the layouts of mints and token accounts, the two forms nodes tell amounts in, and where a wallet's tokens are.
Source: SPL Token, ``state.rs``; extensions of Token-2022 follow behind and are not shown. SPL Associated Token Account.

    mint     authority 4 ‖ 32, supply u64, decimals u8, initialized u8, freeze authority 4 ‖ 32            82 bytes
    account  mint 32, owner 32, amount u64, delegate 4 ‖ 32, state u8, native 4 ‖ u64, delegated u64,
             close authority 4 ‖ 32                                                                       165 bytes
    Token-2022 puts at byte 165 which of the two it is, where extensions follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from solders.account import Account
from solders.pubkey import Pubkey

TOKEN_PROGRAM = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"  # noqa: S105 - an address
TOKEN_2022_PROGRAM = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"  # noqa: S105 - an address
#: The token programs, by the names nodes give them.
TOKEN_PROGRAMS = {TOKEN_PROGRAM: "spl-token", TOKEN_2022_PROGRAM: "spl-token-2022"}

ASSOCIATED_TOKEN_PROGRAM = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"  # noqa: S105 - an address

ReadAccount = Callable[[Pubkey], Account | None]

_MINT_BYTES = 82
_ACCOUNT_BYTES = 165
_MULTISIG_BYTES = 355
_IS_MINT, _IS_ACCOUNT = 1, 2
_STATES = ("uninitialized", "initialized", "frozen")


class Mint(NamedTuple):
    authority: Pubkey | None
    supply: int
    decimals: int
    freeze_authority: Pubkey | None


class TokenAccount(NamedTuple):
    mint: Pubkey
    owner: Pubkey
    amount: int
    delegate: Pubkey | None
    state: str
    #: Of wrapped SOL: the lamports that make it rent-exempt, which are no tokens.
    native_reserve: int | None
    delegated_amount: int
    close_authority: Pubkey | None


class TokenBalance(NamedTuple):
    #: The account's place among the transaction's accounts.
    place: int
    mint: Pubkey
    owner: Pubkey
    program: str
    amount: int
    decimals: int


def read_mint(account: Account | None) -> Mint | None:
    """None if it is not a mint."""
    data = _data_of(account, _MINT_BYTES, _IS_MINT)
    if data is None or data[45] != 1:
        return None
    return Mint(
        authority=_optional(data, 0),
        supply=int.from_bytes(data[36:44], "little"),
        decimals=data[44],
        freeze_authority=_optional(data, 46),
    )


def read_token_account(account: Account | None) -> TokenAccount | None:
    """None if it is not a token account, or not yet one."""
    data = _data_of(account, _ACCOUNT_BYTES, _IS_ACCOUNT)
    if data is None or not 0 < data[108] < len(_STATES):
        return None
    return TokenAccount(
        mint=Pubkey.from_bytes(data[0:32]),
        owner=Pubkey.from_bytes(data[32:64]),
        amount=int.from_bytes(data[64:72], "little"),
        delegate=_optional(data, 72),
        state=_STATES[data[108]],
        native_reserve=int.from_bytes(data[113:121], "little") if data[109] else None,
        delegated_amount=int.from_bytes(data[121:129], "little"),
        close_authority=_optional(data, 129),
    )


def associated_account(wallet: str, mint: str, program: str = TOKEN_PROGRAM) -> str:
    """Returns the address of the account with a wallet's tokens of one mint; base58 all of them."""
    seeds = [bytes(Pubkey.from_string(address)) for address in (wallet, program, mint)]
    address, _ = Pubkey.find_program_address(seeds, Pubkey.from_string(ASSOCIATED_TOKEN_PROGRAM))
    return str(address)


def token_balances(keys: Sequence[Pubkey], read: ReadAccount) -> tuple[TokenBalance, ...]:
    """Returns what those of the accounts hold that hold tokens."""
    found = []
    for index, key in enumerate(keys):
        account = read(key)
        held = read_token_account(account)
        mint = None if held is None else read_mint(read(held.mint))
        if account is not None and held is not None and mint is not None:
            balance = TokenBalance(index, held.mint, held.owner, str(account.owner), held.amount, mint.decimals)
            found.append(balance)
    return tuple(found)


def amount_json(amount: int, decimals: int) -> dict[str, Any]:
    """Returns an amount of tokens as nodes tell it: exactly as digits, as a decimal text, and as a float for people."""
    whole, rest = divmod(amount, 10**decimals)
    text = f"{whole}.{rest:0{decimals}d}".rstrip("0").rstrip(".") if decimals else str(whole)
    return {"amount": str(amount), "decimals": decimals, "uiAmount": amount / 10**decimals, "uiAmountString": text}


def parsed_account(account: Account, read: ReadAccount) -> dict[str, Any] | None:
    """Returns the ``jsonParsed`` form of a mint or a token account; None for anything else."""
    mint = read_mint(account)
    if mint is not None:
        info: dict[str, Any] = {
            "decimals": mint.decimals,
            "freezeAuthority": _text(mint.freeze_authority),
            "isInitialized": True,
            "mintAuthority": _text(mint.authority),
            "supply": str(mint.supply),
        }
        return _parsed(account, "mint", info)
    held = read_token_account(account)
    mint = None if held is None else read_mint(read(held.mint))
    if held is None or mint is None:
        return None
    info = {
        "isNative": held.native_reserve is not None,
        "mint": str(held.mint),
        "owner": str(held.owner),
        "state": held.state,
        "tokenAmount": amount_json(held.amount, mint.decimals),
    }
    if held.native_reserve is not None:
        info["rentExemptReserve"] = amount_json(held.native_reserve, mint.decimals)
    if held.delegate is not None:
        info["delegate"] = str(held.delegate)
        info["delegatedAmount"] = amount_json(held.delegated_amount, mint.decimals)
    if held.close_authority is not None:
        info["closeAuthority"] = str(held.close_authority)
    return _parsed(account, "account", info)


def _parsed(account: Account, kind: str, info: dict[str, Any]) -> dict[str, Any]:
    return {
        "program": TOKEN_PROGRAMS[str(account.owner)],
        "parsed": {"type": kind, "info": info},
        "space": len(account.data),
    }


def _data_of(account: Account | None, size: int, kind: int) -> bytes | None:
    if account is None or account.executable or str(account.owner) not in TOKEN_PROGRAMS:
        return None
    data = account.data
    if len(data) == size:
        return data
    extended = str(account.owner) == TOKEN_2022_PROGRAM and len(data) > _ACCOUNT_BYTES
    return data if extended and len(data) != _MULTISIG_BYTES and data[_ACCOUNT_BYTES] == kind else None


def _optional(data: bytes, at: int) -> Pubkey | None:
    return Pubkey.from_bytes(data[at + 4 : at + 36]) if data[at] else None


def _text(key: Pubkey | None) -> str | None:
    return None if key is None else str(key)
