"""Instructions of the common programs in words, for ``jsonParsed``.

Owns which are known: memos, SOL transfers and new accounts, token transfers and mints, associated token accounts.
Every other one is shown as its accounts and data, as nodes do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from solders.instruction import Instruction
from solders.pubkey import Pubkey

from trustgate.formats.solana_transaction import MEMO_PROGRAMS, b58encode
from trustgate.formats.spl_token import TOKEN_PROGRAMS, amount_json

SYSTEM_PROGRAM = "11111111111111111111111111111111"
ASSOCIATED_TOKEN_PROGRAM = "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"  # noqa: S105 - an address
_MEMO_PROGRAM = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"


def memo_instruction(text: str) -> Instruction:
    return Instruction(Pubkey.from_string(_MEMO_PROGRAM), text.encode(), [])


def memo_summary(instructions: Iterable[tuple[str, bytes]]) -> str | None:
    """Returns the memos among instructions, in the form of ``getSignaturesForAddress``: ``[5] hello; [2] hi``."""
    memos = [data for program, data in instructions if program in MEMO_PROGRAMS]
    return "; ".join(f"[{len(data)}] {_utf8(data) or '(unprintable)'}" for data in memos) or None


def parsed_instruction(program: str, accounts: Sequence[str], data: bytes, depth: int | None) -> dict[str, Any]:
    """Returns one instruction in its ``jsonParsed`` form; ``depth`` counts calls from 2, None at the top."""
    try:
        name, parsed = _parse(program, accounts, data)
    except (IndexError, ValueError):
        return {"programId": program, "accounts": list(accounts), "data": b58encode(data), "stackHeight": depth}
    return {"program": name, "programId": program, "parsed": parsed, "stackHeight": depth}


def _parse(program: str, accounts: Sequence[str], data: bytes) -> tuple[str, Any]:
    """Returns the program's name and the instruction's description. Raises IndexError or ValueError if it is not
    known.
    """
    if program in MEMO_PROGRAMS:
        return "spl-memo", data.decode()
    if program == SYSTEM_PROGRAM:
        return "system", _system(accounts, data)
    if program in TOKEN_PROGRAMS:
        return TOKEN_PROGRAMS[program], _token(accounts, data)
    if program == ASSOCIATED_TOKEN_PROGRAM:
        return "spl-associated-token-account", _associated(accounts, data)
    raise ValueError("another program")


def _system(accounts: Sequence[str], data: bytes) -> dict[str, Any]:
    kind = _number(data, 0, 4)
    if kind == 0:
        info = {
            "source": accounts[0],
            "newAccount": accounts[1],
            "lamports": _number(data, 4, 8),
            "space": _number(data, 12, 8),
            "owner": b58encode(_bytes(data, 20, 32)),
        }
        return {"type": "createAccount", "info": info}
    if kind == 2:
        info = {"source": accounts[0], "destination": accounts[1], "lamports": _number(data, 4, 8)}
        return {"type": "transfer", "info": info}
    raise ValueError("another instruction")


def _token(accounts: Sequence[str], data: bytes) -> dict[str, Any]:
    kind = data[0]
    if kind == 3:
        info: dict[str, Any] = {
            "source": accounts[0],
            "destination": accounts[1],
            "amount": str(_number(data, 1, 8)),
        }
        return {"type": "transfer", "info": _with_signers(info, "authority", "multisigAuthority", accounts[2:])}
    if kind == 7:
        info = {"mint": accounts[0], "account": accounts[1], "amount": str(_number(data, 1, 8))}
        return {"type": "mintTo", "info": _with_signers(info, "mintAuthority", "multisigMintAuthority", accounts[2:])}
    if kind == 12:
        amount = amount_json(_number(data, 1, 8), data[9])
        info = {"source": accounts[0], "mint": accounts[1], "destination": accounts[2], "tokenAmount": amount}
        return {"type": "transferChecked", "info": _with_signers(info, "authority", "multisigAuthority", accounts[3:])}
    if kind == 14:
        amount = amount_json(_number(data, 1, 8), data[9])
        info = {"mint": accounts[0], "account": accounts[1], "tokenAmount": amount}
        return {
            "type": "mintToChecked",
            "info": _with_signers(info, "mintAuthority", "multisigMintAuthority", accounts[2:]),
        }
    if kind == 18:
        info = {"account": accounts[0], "mint": accounts[1], "owner": b58encode(_bytes(data, 1, 32))}
        return {"type": "initializeAccount3", "info": info}
    if kind == 20:
        authority = b58encode(_bytes(data, 2, 32))
        return {
            "type": "initializeMint2",
            "info": {"mint": accounts[0], "decimals": data[1], "mintAuthority": authority},
        }
    raise ValueError("another instruction")


def _associated(accounts: Sequence[str], data: bytes) -> dict[str, Any]:
    kind = data[0] if data else 0
    info = {
        "source": accounts[0],
        "account": accounts[1],
        "wallet": accounts[2],
        "mint": accounts[3],
        "systemProgram": accounts[4],
        "tokenProgram": accounts[5],
    }
    return {"type": ("create", "createIdempotent")[kind], "info": info}


def _with_signers(info: dict[str, Any], single: str, several: str, signers: Sequence[str]) -> dict[str, Any]:
    """Who agreed: one key, or an account that several keys sign for."""
    if len(signers) == 1:
        return {**info, single: signers[0]}
    return {**info, several: signers[0], "signers": list(signers[1:])}


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(_bytes(data, at, size), "little")


def _bytes(data: bytes, at: int, size: int) -> bytes:
    if len(data) < at + size:
        raise ValueError("too short")
    return data[at : at + size]


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
