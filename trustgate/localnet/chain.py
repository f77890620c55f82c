"""A local chain: accepts or refuses transactions, and has blocks, history and commitment.

    processed  in the block that is being filled
    confirmed  that block is full: one slot later
    finalized  ``finality_slots`` later

Owns what landed and in which order. A transaction lands in the slot in which it arrives: there is no waiting, no fork,
no vote. Refused as on a cluster: a blockhash that is unknown or more than 150 blocks old, a transaction that landed
before, a payer who cannot pay. Transactions always run against the newest accounts, preflight at "finalized" included;
only the blockhash is judged as that commitment sees it. Durable nonces are not known.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable
from typing import Literal, NamedTuple

from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from trustgate.errors import TrustGateError
from trustgate.formats.spl_token import TokenBalance, token_balances
from trustgate.localnet.bank import Bank, BankState, Outcome
from trustgate.localnet.clock import BLOCKHASH_AGE_BLOCKS, SKIPPED_SLOTS, Clock, block_height
from trustgate.localnet.faults import INTERNAL_ERROR, RpcError
from trustgate.localnet.ledger import ChainLedger, Genesis, StoredTransaction, damaged
from trustgate.localnet.programs import memo_instruction, memo_summary

DEFAULT_FINALITY_SLOTS = 32

Commitment = Literal["processed", "confirmed", "finalized"]


class HistoryEntry(NamedTuple):
    """A transaction in its place in the history."""

    slot: int
    #: Its place among all that landed, from 0.
    order: int
    signature: str
    transaction: VersionedTransaction
    outcome: Outcome
    #: Lamports of each account before and after.
    before: tuple[int, ...]
    after: tuple[int, ...]
    tokens_before: tuple[TokenBalance, ...]
    tokens_after: tuple[TokenBalance, ...]
    #: Its memos, in the form of ``getSignaturesForAddress``.
    memo: str | None


class LocalChain:
    """Made by ``open``. ``listener`` receives every transaction that lands."""

    def __init__(
        self,
        genesis: str,
        clock: Clock,
        *,
        finality_slots: int = DEFAULT_FINALITY_SLOTS,
        ledger: ChainLedger | None = None,
    ) -> None:
        self.genesis = genesis
        self.clock = clock
        self.finality_slots = finality_slots
        self.listener: Callable[[HistoryEntry], None] | None = None
        self.entries: list[HistoryEntry] = []
        self._ledger = ledger
        # Knowing the genesis hash is enough to have this key, as befits a faucet.
        self._faucet = Keypair.from_seed(hashlib.sha256(f"trustgate localnet faucet {genesis}".encode()).digest())
        self.bank = Bank(self._faucet.pubkey())
        self._by_signature: dict[str, HistoryEntry] = {}
        self._by_address: dict[Pubkey, list[HistoryEntry]] = {}
        self._by_slot: dict[int, list[HistoryEntry]] = {}
        self._messages: set[bytes] = set()

    @classmethod
    def open(
        cls, *, ledger: ChainLedger | None, genesis: str, slot_ms: int, finality_slots: int, created_us: int
    ) -> LocalChain:
        """Returns a chain that runs: the ledger's, or a new one. ``genesis`` is for a new one; what is there keeps its
        own.

        Raises StoreDamaged, StoreTooNew, HomeUnusable.
        """
        records = ledger.read() if ledger is not None else []
        first, *rest = records or [Genesis(genesis, created_us)]
        assert isinstance(first, Genesis)
        transactions = [record for record in rest if isinstance(record, StoredTransaction)]
        beats = [record for record in rest if not isinstance(record, StoredTransaction | Genesis)]
        chain = cls(first.hash, Clock(first.hash, beats), finality_slots=finality_slots, ledger=ledger)
        for record in transactions:
            chain._replay(record)
        if not records and ledger is not None:
            ledger.write(first)
        # A new chain has as many blocks behind it as something needs to be final.
        last_slot = max((record.slot for record in transactions), default=SKIPPED_SLOTS + finality_slots)
        beat = chain.clock.start(slot_ms, least_slot=last_slot + 1)
        if ledger is not None:
            ledger.write(beat)
        return chain

    # time

    @property
    def slot(self) -> int:
        return self.clock.slot

    def slot_at(self, commitment: Commitment) -> int:
        """Returns the newest slot that is as settled as that."""
        behind = {"processed": 0, "confirmed": 1, "finalized": self.finality_slots}[commitment]
        return max(SKIPPED_SLOTS, self.slot - behind)

    def commitment_of(self, slot: int) -> Commitment:
        """Returns how settled what landed in ``slot`` is."""
        age = self.slot - slot
        if age >= self.finality_slots:
            return "finalized"
        return "confirmed" if age >= 1 else "processed"

    def advance(self, slots: int = 1) -> None:
        """Move on by hand."""
        beat = self.clock.advance(slots)
        if self._ledger is not None:
            self._ledger.write(beat)

    def blockhash_is_valid(self, blockhash: str, commitment: Commitment) -> bool:
        """Returns whether a transaction with it may land now, as seen by who knows blocks of that commitment only."""
        height = self.clock.height_of(blockhash)
        tip = block_height(self.slot_at(commitment))
        return height is not None and tip - BLOCKHASH_AGE_BLOCKS <= height <= tip

    # running

    def simulate(self, transaction: VersionedTransaction, commitment: Commitment | None) -> Outcome:
        """Returns what sending it would do. ``commitment`` None: with a blockhash of its own, that fits."""
        outcome = self.bank.simulate(transaction, self._moment(self.slot))
        refusal = None if commitment is None else self._refusal(transaction, commitment)
        if refusal is None:
            return outcome
        return Outcome(outcome.resolved, outcome.slot, refusal, lands=False, fee=outcome.fee)

    def send(self, transaction: VersionedTransaction, outcome: Outcome | None = None) -> HistoryEntry | None:
        """Run it for good, signed as it must be. None if it cannot land: a validator forgets such a transaction.

        ``outcome`` is what ``simulate`` has just said, if it was asked.
        """
        if outcome is None:
            outcome = self.bank.simulate(transaction, self._moment(self.slot))
        if not outcome.lands or self._refusal(transaction, "processed") is not None:
            return None
        if self._ledger is not None:
            try:
                self._ledger.write(StoredTransaction(outcome.slot, bytes(transaction), outcome.err))
            except TrustGateError as error:
                raise RpcError(INTERNAL_ERROR, f"Internal error: {error.message}") from None
        entry = self._land(transaction, outcome)
        if self.listener is not None:
            self.listener(entry)
        return entry

    def airdrop(self, to: Pubkey, lamports: int, blockhash: str | None = None) -> VersionedTransaction:
        """Returns a transaction with which the faucet pays. Its memo distinguishes it from others of the same
        amount."""
        latest = self.clock.hash_at(self.slot).blockhash
        payment = transfer(TransferParams(from_pubkey=self._faucet.pubkey(), to_pubkey=to, lamports=lamports))
        message = MessageV0.try_compile(
            self._faucet.pubkey(),
            [payment, memo_instruction(f"airdrop {len(self.entries)}")],
            [],
            Hash.from_string(blockhash or latest),
        )
        return VersionedTransaction(message, [self._faucet])

    # history

    def entry(self, signature: str) -> HistoryEntry | None:
        return self._by_signature.get(signature)

    def entries_of(self, address: Pubkey) -> list[HistoryEntry]:
        """Returns everything that mentioned the address, oldest first."""
        return self._by_address.get(address, [])

    def count(self, slot: int) -> int:
        """Returns how many transactions landed up to the end of a slot."""
        return bisect.bisect_right(self.entries, slot, key=lambda entry: entry.slot)

    def entries_in(self, slot: int) -> list[HistoryEntry]:
        return self._by_slot.get(slot, [])

    def _replay(self, record: StoredTransaction) -> None:
        """Run a transaction of the ledger again. Raises StoreDamaged if it ends in another way."""
        assert self._ledger is not None
        place = f"the transaction {len(self.entries) + 1} of its ledger"
        try:
            transaction = VersionedTransaction.from_bytes(record.transaction)
            outcome = self.bank.simulate(transaction, self._moment(record.slot))
        except (ValueError, RpcError) as error:
            raise damaged(self._ledger.folder, f"{place} cannot be read ({error})") from None
        if not outcome.lands or outcome.err != record.err:
            raise damaged(
                self._ledger.folder,
                f"{place} ended with {record.err or 'success'}, and now ends with {outcome.err or 'success'}",
            )
        self._land(transaction, outcome)

    def _refusal(self, transaction: VersionedTransaction, commitment: Commitment) -> str | None:
        message = transaction.message
        if not self.blockhash_is_valid(str(message.recent_blockhash), commitment):
            return "BlockhashNotFound"
        return "AlreadyProcessed" if bytes(message) in self._messages else None

    def _land(self, transaction: VersionedTransaction, outcome: Outcome) -> HistoryEntry:
        keys, slot = outcome.resolved.keys, outcome.slot
        before, tokens_before = self._balances(keys), token_balances(keys, self.bank.account)
        self.bank.execute(transaction, outcome, settled_slot=slot - self.finality_slots)
        entry = HistoryEntry(
            slot=slot,
            order=len(self.entries),
            signature=str(transaction.signatures[0]),
            transaction=transaction,
            outcome=outcome._replace(post={}),
            before=before,
            after=self._balances(keys),
            tokens_before=tokens_before,
            tokens_after=token_balances(keys, self.bank.account),
            memo=memo_summary(outcome.resolved.programs_and_data),
        )
        self.entries.append(entry)
        self._by_signature[entry.signature] = entry
        self._by_slot.setdefault(slot, []).append(entry)
        self._messages.add(bytes(transaction.message))
        for key in dict.fromkeys(keys):
            self._by_address.setdefault(key, []).append(entry)
        return entry

    def _moment(self, slot: int) -> BankState:
        return BankState(slot, self.clock.time_s(slot), lambda earlier: self.clock.hash_at(earlier).blockhash)

    def _balances(self, keys: tuple[Pubkey, ...]) -> tuple[int, ...]:
        return tuple(self.bank.lamports(key) for key in keys)
