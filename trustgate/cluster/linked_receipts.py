"""Receipts that this process has linked to their tenants' chains, until its own sequencer gives them their places.

A sequencer that has linked a receipt itself need not decode and hash it again: most of them, where one process serves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trustgate.types import Entry

#: So many at most are kept, about a kilobyte each: a sequencer that is further behind reads them from the database.
_MOST = 8_000


class LinkedReceipt(NamedTuple):
    """A receipt in its tenant's chain."""

    #: Without its place in the log (0).
    entry: Entry
    leaf_hash: bytes
    #: As the journal has it, and the table of those that wait for their places.
    encoded: bytes


class LinkedReceipts:
    """Those that are committed and wait for their places, by id; none where this process is not the sequencer."""

    def __init__(self) -> None:
        self._found: dict[str, LinkedReceipt] = {}
        self._is_wanted = False

    @contextlib.contextmanager
    def wanted(self) -> Iterator[LinkedReceipts]:
        """Keep them for the block: this process is the sequencer."""
        self._is_wanted = True
        try:
            yield self
        finally:
            self._is_wanted = False
            self._found.clear()

    def note(self, committed: Iterable[LinkedReceipt]) -> None:
        """Keep what is committed, if it is wanted."""
        if not self._is_wanted:
            return
        if len(self._found) >= _MOST:
            self._found.clear()
        for linked in committed:
            self._found[linked.entry.receipt.id] = linked

    def take(self, receipt_id: str) -> LinkedReceipt | None:
        """Remove and return one; None where another process has linked it, or it is kept no more."""
        return self._found.pop(receipt_id, None)
