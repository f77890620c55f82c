"""The accounts of a local chain, and what a transaction does to them.

Owns the LiteSVM. It runs programs as a validator does, but charges no priority fee, lets an account fall below the
rent-exempt minimum and takes any blockhash; fees and rent are added here, blockhashes are the chain's affair. Accounts
of the last slots can be read as they were, for what is "finalized" lags behind.

Sources: Agave's ``validate_fee_payer``, ``check_rent_state`` and ``validate_account_locks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
from solders.account import Account
from solders.hash import Hash
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata

from trustgate.formats.solana_transaction import b58encode
from trustgate.localnet.clock import SKIPPED_SLOTS, SLOTS_PER_EPOCH
from trustgate.localnet.faults import tamed
from trustgate.localnet.fees import base_fee, priority_fee
from trustgate.localnet.lookup import ResolvedAccounts, resolve

FAUCET_LAMPORTS = 500_000_000 * 10**9
_MAX_ACCOUNT_LOCKS = 64
#: Of how many slots programs know the hash (512 on a cluster).
_SLOT_HASHES = 32
_LOADERS = frozenset(
    Pubkey.from_string(address)
    for address in (
        "BPFLoader1111111111111111111111111111111111",
        "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
        "LoaderV411111111111111111111111111111111111",
    )
)


class BankState(NamedTuple):
    """When a transaction runs."""

    slot: int
    time_s: int
    #: Gives the blockhash of an earlier slot.
    blockhash_of: Callable[[int], str]


class Inner(NamedTuple):
    """An instruction that a program gave to another; indexes into the transaction's accounts."""

    program: int
    accounts: tuple[int, ...]
    data: bytes
    depth: int


class Outcome(NamedTuple):
    """What running a transaction does, or would do. Balances and accounts are in the order of its account keys."""

    resolved: ResolvedAccounts
    #: When it ran.
    slot: int
    #: None, or the error in the JSON form that nodes use: ``{"InstructionError": [0, {"Custom": 1}]}``.
    err: Any
    #: Whether it gets into a block: a failed one does if its fee can be charged.
    lands: bool
    fee: int
    logs: tuple[str, ...] = ()
    units: int = 0
    inner: tuple[tuple[Inner, ...], ...] = ()
    #: The program that returned data last, and the data.
    returned: tuple[str, bytes] | None = None
    #: Writable accounts as they are afterwards; empty when it fails.
    post: dict[Pubkey, Account] = {}  # noqa: RUF012 - never changed


class Bank:
    """Accounts now, and as they were back to the slot that ``execute`` is given as settled."""

    def __init__(self, faucet: Pubkey) -> None:
        self._vm = LiteSVM().with_sigverify(False).with_blockhash_check(False).with_transaction_history(0)
        self._known: dict[Pubkey, None] = {}
        #: For each account: the slots that changed it, and what it was before each.
        self._before: dict[Pubkey, list[tuple[int, Account | None]]] = {}
        self._vm.set_account(faucet, Account(FAUCET_LAMPORTS, b"", SYSTEM_PROGRAM))
        self._known[faucet] = None

    # reading

    def account(self, key: Pubkey, slot: int | None = None) -> Account | None:
        """Returns an account as it was at the end of ``slot``, or as it is. None if it has nothing."""
        for changed, before in self._before.get(key, ()) if slot is not None else ():
            if changed > slot:  # type: ignore[operator] # not None, or there would be nothing to go through
                return before
        found = self._vm.get_account(key)
        return found if found is not None and found.lamports else None

    def lamports(self, key: Pubkey) -> int:
        return self._vm.get_balance(key) or 0

    def fee(self, message: Message | MessageV0) -> int:
        """Returns what a transaction with this message would cost, lamports."""
        return _fee(resolve(message, self.account))

    def known(self) -> tuple[Pubkey, ...]:
        """Returns every account that a transaction may have changed: all there are, but for programs that were always
        there.
        """
        return tuple(self._known)

    def rent_exempt_lamports(self, data_bytes: int) -> int:
        """Returns what an account with so much data must hold."""
        return self._vm.minimum_balance_for_rent_exemption(data_bytes)

    # running

    def simulate(self, transaction: VersionedTransaction, moment: BankState) -> Outcome:
        """Returns what the transaction would do now. Changes nothing; signatures and blockhash are not looked at."""
        resolved = resolve(transaction.message, self.account)
        fee, priority = _fee(resolved), priority_fee(resolved.programs_and_data)
        refusal = resolved.err or _lock_error(resolved) or self._payer_error(resolved.keys[0], fee)
        if refusal is not None:
            return Outcome(resolved, moment.slot, refusal, lands=False, fee=fee)
        payer, before = resolved.keys[0], self.account(resolved.keys[0])
        assert before is not None  # else it could not have paid
        with tamed("running the transaction"):
            self._set_moment(moment)
            self._vm.set_account(payer, _with_lamports(before, before.lamports - priority))
            try:
                result = self._vm.simulate_transaction(transaction)
            finally:
                self._vm.set_account(payer, before)
            if isinstance(result, FailedTransactionMetadata):
                # The JSON form, because solders has no other way to tell errors that carry details.
                err = msgspec.json.decode(result.to_json())["err"]
                lands = isinstance(err, dict) and "InstructionError" in err
                return _outcome(resolved, moment.slot, err, result.meta(), lands=lands, fee=fee)
            post = dict(result.post_accounts())
            err = self._rent_error(resolved, post)
            post = post if err is None else {}
            return _outcome(resolved, moment.slot, err, result.meta(), lands=True, fee=fee, post=post)

    def execute(self, transaction: VersionedTransaction, outcome: Outcome, settled_slot: int) -> None:
        """Do what ``simulate`` has just said; of accounts, what they were up to ``settled_slot`` is forgotten."""
        assert outcome.lands
        keys = outcome.resolved.keys
        before = self.account(keys[0])
        assert before is not None  # else it could not have paid
        for key, writable in zip(keys, outcome.resolved.writable, strict=True):
            if writable:
                self._remember(key, outcome.slot, settled_slot)
        if outcome.err is not None:
            self._vm.set_account(keys[0], _with_lamports(before, before.lamports - outcome.fee))
            return
        with tamed("running the transaction"):
            if _LOADERS.isdisjoint(keys):
                for key, account in outcome.post.items():
                    self._vm.set_account(key, account)
                return
            # LiteSVM keeps programs ready to run; when they may have changed, it must see it happen.
            priority = priority_fee(outcome.resolved.programs_and_data)
            self._vm.set_account(keys[0], _with_lamports(before, before.lamports - priority))
            self._vm.send_transaction(transaction)

    def _remember(self, key: Pubkey, slot: int, settled_slot: int) -> None:
        self._known[key] = None
        entries = [entry for entry in self._before.get(key, ()) if entry[0] > settled_slot]
        if not entries or entries[-1][0] != slot:
            entries.append((slot, self.account(key)))
        self._before[key] = entries

    def _set_moment(self, moment: BankState) -> None:
        """What programs can ask the chain for: the clock, and the hashes of the last slots."""
        clock = self._vm.get_clock()
        if (clock.slot, clock.unix_timestamp) == (moment.slot, moment.time_s):
            return
        clock.slot, clock.unix_timestamp = moment.slot, moment.time_s
        clock.epoch = moment.slot // SLOTS_PER_EPOCH
        clock.leader_schedule_epoch = clock.epoch + 1
        self._vm.set_clock(clock)
        recent = range(moment.slot - 1, max(SKIPPED_SLOTS, moment.slot - _SLOT_HASHES) - 1, -1)
        self._vm.set_slot_hashes([(slot, Hash.from_string(moment.blockhash_of(slot))) for slot in recent])

    def _payer_error(self, payer: Pubkey, fee: int) -> Any:
        account = self.account(payer)
        if account is None:
            return "AccountNotFound"
        if account.owner != SYSTEM_PROGRAM:
            return "InvalidAccountForFee"
        if account.lamports < fee:
            return "InsufficientFundsForFee"
        after = _with_lamports(account, account.lamports - fee)
        return None if self._rent_kept(account, after) else {"InsufficientFundsForRent": {"account_index": 0}}

    def _rent_error(self, resolved: ResolvedAccounts, post: dict[Pubkey, Account]) -> Any:
        for index, key in enumerate(resolved.keys):
            if key in post and not self._rent_kept(self.account(key), post[key]):
                return {"InsufficientFundsForRent": {"account_index": index}}
        return None

    def _rent_kept(self, before: Account | None, after: Account) -> bool:
        """An account must hold enough or nothing; one that never held enough may go on so, but not grow."""
        if not after.lamports or after.lamports >= self.rent_exempt_lamports(len(after.data)):
            return True
        if before is None or before.lamports >= self.rent_exempt_lamports(len(before.data)):
            return False
        return len(before.data) == len(after.data) and after.lamports <= before.lamports


def _fee(resolved: ResolvedAccounts) -> int:
    return base_fee(resolved.signers, resolved.programs_and_data) + priority_fee(resolved.programs_and_data)


def _lock_error(resolved: ResolvedAccounts) -> Any:
    if len(resolved.keys) > _MAX_ACCOUNT_LOCKS:
        return "TooManyAccountLocks"
    return "AccountLoadedTwice" if len(set(resolved.keys)) != len(resolved.keys) else None


def _with_lamports(account: Account, lamports: int) -> Account:
    return Account(lamports, account.data, account.owner, account.executable, account.rent_epoch)


def _outcome(
    resolved: ResolvedAccounts,
    slot: int,
    err: Any,
    meta: TransactionMetadata,
    *,
    lands: bool,
    fee: int,
    post: dict[Pubkey, Account] | None = None,
) -> Outcome:
    # Its JSON has more than its methods: how deep a call was.
    told = msgspec.json.decode(meta.to_json())
    returned = told["return_data"]
    return Outcome(
        resolved=resolved,
        slot=slot,
        err=err,
        lands=lands,
        fee=fee,
        logs=tuple(told["logs"]),
        units=told["compute_units_consumed"],
        inner=tuple(_inner(told["inner_instructions"])),
        returned=(b58encode(bytes(returned["program_id"])), bytes(returned["data"])) if returned["data"] else None,
        post=post or {},
    )


def _inner(listed: list[list[dict[str, Any]]]) -> Iterator[tuple[Inner, ...]]:
    """Yields what each instruction called. Lists of bytes begin with their length."""
    for group in listed:
        yield tuple(
            Inner(
                program=entry["instruction"]["programIdIndex"],
                accounts=tuple(entry["instruction"]["accounts"][1:]),
                data=bytes(entry["instruction"]["data"][1:]),
                depth=entry["stackHeight"],
            )
            for entry in group
        )
