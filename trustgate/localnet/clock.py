"""The clock of a local chain: which slot it is, when a slot was, and the blockhash of a block.

Owns time. Nothing ticks: the slot follows from the time that has passed, so an idle chain costs nothing. A chain
that is opened again later has moved on meanwhile, as a cluster does when its clients are away, so a slot never comes
twice, not even after ``kill -9``.

Slots run ahead of block heights by ``SKIPPED_SLOTS``, as they do on every cluster: a program that compares one with the
other finds out here. Blockhashes follow from the genesis hash and the height; knowing one in advance is worth
nothing, for a block is known only when its slot has come.
"""

from __future__ import annotations

import bisect
import hashlib
import time
from typing import NamedTuple

import msgspec

from trustgate.formats.solana_transaction import b58encode

DEFAULT_SLOT_MS = 400
#: Slots that had no block, all before the first block.
SKIPPED_SLOTS = 1_000
#: How many blocks back a transaction's blockhash may lie (Solana: MAX_PROCESSING_AGE).
BLOCKHASH_AGE_BLOCKS = 150
#: Solana without warm-up epochs.
SLOTS_PER_EPOCH = 432_000


class Beat(msgspec.Struct, frozen=True, tag_field="kind", tag="clock"):
    """From ``at_us`` on, the chain is in ``slot`` and goes on by one every ``slot_ms``; 0: only by hand."""

    slot: int
    at_us: int
    slot_ms: int


class Hash(NamedTuple):
    blockhash: str
    #: The last block height at which a transaction with this blockhash can land.
    last_valid_block_height: int


class Clock:
    """``beats`` is how it went so far, oldest first; see ``start``."""

    def __init__(self, genesis: str, beats: list[Beat]) -> None:
        self._genesis = genesis.encode()
        self._beats: list[Beat] = []
        self._starts: list[int] = []
        self._heights: dict[str, int] = {}
        self._hashed = 0
        self._lead_us = time.time_ns() // 1_000 - time.monotonic_ns() // 1_000
        for beat in beats:
            self._add(beat)

    def start(self, slot_ms: int, *, least_slot: int) -> Beat:
        """Begin to run, in ``least_slot`` or later: in a slot that has not been shown."""
        if not self._beats:
            return self._add(Beat(least_slot, self._now_us(), slot_ms))
        slot = max(least_slot, self.slot + 1)
        # If the system's clock was set back, time goes on from where it was.
        self._lead_us += max(0, self._beats[-1].at_us - self._now_us())
        return self._add(Beat(slot, self._now_us(), slot_ms))

    def advance(self, slots: int) -> Beat:
        """Move on by hand."""
        if slots < 1:
            raise ValueError("a chain moves forward only, by one slot or more")
        return self._add(Beat(self.slot + slots, self._now_us(), self._beats[-1].slot_ms))

    @property
    def slot(self) -> int:
        """The slot that is being filled now."""
        beat = self._beats[-1]
        return beat.slot + (max(0, self._now_us() - beat.at_us) // (beat.slot_ms * 1_000) if beat.slot_ms else 0)

    def time_s(self, slot: int) -> int:
        """When the slot was, whole seconds since the epoch."""
        place = max(0, bisect.bisect_right(self._starts, slot) - 1)
        beat = self._beats[place]
        at_us = beat.at_us + max(0, slot - beat.slot) * beat.slot_ms * 1_000
        if place + 1 < len(self._beats):
            at_us = min(at_us, self._beats[place + 1].at_us)
        return at_us // 1_000_000

    def hash_at(self, slot: int) -> Hash:
        """Returns the blockhash of the block in this slot."""
        height = block_height(slot)
        return Hash(self._blockhash(height), height + BLOCKHASH_AGE_BLOCKS)

    def height_of(self, blockhash: str) -> int | None:
        """Returns the height of the block with this hash; None unless it is one of the last few hundred."""
        tip = block_height(self.slot)
        oldest = max(0, tip - 2 * BLOCKHASH_AGE_BLOCKS)
        for height in range(max(self._hashed, oldest), tip + 1):
            self._heights[self._blockhash(height)] = height
        self._hashed = tip + 1
        if len(self._heights) > 4 * BLOCKHASH_AGE_BLOCKS:
            self._heights = {found: height for found, height in self._heights.items() if height >= oldest}
        return self._heights.get(blockhash)

    def _blockhash(self, height: int) -> str:
        return b58encode(hashlib.sha256(b"trustgate localnet block" + self._genesis + height.to_bytes(8)).digest())

    def _now_us(self) -> int:
        """Returns the time, which never goes back while the process lives."""
        return time.monotonic_ns() // 1_000 + self._lead_us

    def _add(self, beat: Beat) -> Beat:
        self._beats.append(beat)
        self._starts.append(beat.slot)
        return beat


def block_height(slot: int) -> int:
    return slot - SKIPPED_SLOTS
