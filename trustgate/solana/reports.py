"""The results of anchoring, as records sent to the command line."""

from __future__ import annotations

import msgspec


class FlushOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """``anchored``: something was posted, now or before by a flush that did not get to say so."""

    anchored: bool
    dry_run: bool
    tree_size: int
    root: str
    network: str
    fee_lamports: int
    fee_payer: str
    signature: str = ""
    slot: int = 0
    explorer: str = ""


class AnchorFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain has of one anchor: ``problem`` is empty when all holds."""

    signature: str
    slot: int
    tree_size: int
    root: str
    problem: str = ""


class AnchorAudit(msgspec.Struct, frozen=True, kw_only=True):
    network: str
    address: str
    origin: str
    vkey: str
    findings: tuple[AnchorFinding, ...]
    #: Memos of this fee payer that are not anchors of this log.
    other_memos: int
