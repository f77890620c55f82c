"""The accounts that a transaction's message names, those in address tables included.

Owns the order of everything about a transaction: the message's own keys, then what the tables add,
writable before read-only. Source: Solana documentation, "Address lookup tables".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from solders.account import Account
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey

TABLE_PROGRAM = "AddressLookupTab1e1111111111111111111111111"
#: A table's addresses stand behind its head.
_TABLE_HEAD_BYTES = 56
_KEY_BYTES = 32


class ResolvedAccounts(NamedTuple):
    keys: tuple[Pubkey, ...]
    #: How many of the keys sign: the first ones.
    signers: int
    writable: tuple[bool, ...]
    #: How many of the keys come from tables: so many writable ones, so many read-only ones, at the end.
    loaded_writable: int
    loaded_readonly: int
    #: Of each instruction, its program, base58, and its data.
    programs_and_data: tuple[tuple[str, bytes], ...]
    #: What is wrong with a table, as a transaction error.
    err: Any = None

    @property
    def own(self) -> int:
        """How many keys stand in the message itself."""
        return len(self.keys) - self.loaded_writable - self.loaded_readonly


def resolve(message: Message | MessageV0, read: Callable[[Pubkey], Account | None]) -> ResolvedAccounts:
    """``message`` must be sane (``VersionedTransaction.sanitize``)."""
    own = tuple(message.account_keys)
    header = message.header
    signers, total = header.num_required_signatures, len(own)
    writable = [
        index < signers - header.num_readonly_signed_accounts
        or signers <= index < total - header.num_readonly_unsigned_accounts
        for index in range(total)
    ]
    added: tuple[list[Pubkey], list[Pubkey]] = ([], [])
    err = None
    for lookup in message.address_table_lookups if isinstance(message, MessageV0) else ():
        table = _table(read(lookup.account_key))
        err = err or (table if isinstance(table, str) else None)
        for into, indexes in zip(added, (lookup.writable_indexes, lookup.readonly_indexes), strict=True):
            err = err or _add(into, table, indexes)
    programs = tuple((str(own[entry.program_id_index]), bytes(entry.data)) for entry in message.instructions)
    flags = (*writable, *[True] * len(added[0]), *[False] * len(added[1]))
    return ResolvedAccounts((*own, *added[0], *added[1]), signers, flags, len(added[0]), len(added[1]), programs, err)


def _table(account: Account | None) -> bytes | str:
    """Returns the table's addresses, or the name of the error."""
    if account is None:
        return "AddressLookupTableNotFound"
    if str(account.owner) != TABLE_PROGRAM:
        return "InvalidAddressLookupTableOwner"
    if len(account.data) < _TABLE_HEAD_BYTES or (len(account.data) - _TABLE_HEAD_BYTES) % _KEY_BYTES:
        return "InvalidAddressLookupTableData"
    return account.data[_TABLE_HEAD_BYTES:]


def _add(into: list[Pubkey], table: bytes | str, indexes: Iterable[int]) -> str | None:
    for index in indexes:
        if isinstance(table, str) or (index + 1) * _KEY_BYTES > len(table):
            return "InvalidAddressLookupTableIndex"
        into.append(Pubkey.from_bytes(table[index * _KEY_BYTES : (index + 1) * _KEY_BYTES]))
    return None
