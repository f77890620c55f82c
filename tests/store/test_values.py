"""Whatever a record says, of values that clients, facilitators and chains choose, can be kept, summed and shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.entries import receipts
from tests.support.payments import evm_payload, evm_requirements, payment_of
from tests.support.reached import reached, reaches
from trustgate.admin.books import receipt_detail
from trustgate.ids import new_id
from trustgate.receipts.bounds import in_range
from trustgate.receipts.journal import Journal
from trustgate.receipts.receipt import canonical
from trustgate.store import ExportFilter, PaymentFilter, ReceiptFilter, Store, UsageFilter, open_store
from trustgate.store.queries import SUM_MOST, UsageGroup
from trustgate.types import Anchor, AnchorAttempt, Entry, Offer, Payment, PaymentState, Receipt

_EXTREMES = st.sampled_from([0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63)])
_INTEGERS = _EXTREMES | st.integers(-(2**70), 2**70)
#: Lone surrogates, NUL, quotes, line ends and right-to-left marks among them.
_LETTERS = st.characters() | st.sampled_from('\ud800\udfff\0"\\\n\r\u202e\ufeff𝄞')
_TEXTS = st.text(_LETTERS, max_size=40) | st.sampled_from(
    ["", "\ud800", "x" * 70_000, "é" * 30_000, "'; DROP TABLE receipts; --", "[", "null"]
)
_SETTINGS = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


class Kept:
    """One store for all examples of a test: opening one takes longer than an example."""

    def __init__(self, path: Path) -> None:
        self._runner = asyncio.Runner()
        self.path = path
        self.store: Store = self.run(open_store(path))
        self.journal = Journal.open(path.parent / "journal", store_id=self.store.store_id, last_seq=0)
        self.last_seq = 0
        self.number = 0

    def run(self, work: Any) -> Any:
        return self._runner.run(work)

    def opened_again(self) -> Store:
        self.run(self.store.close())
        self.store = self.run(open_store(self.path))
        return self.store

    def close(self) -> None:
        self.journal.close()
        self.run(self.store.close())
        self._runner.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    kept = Kept(tmp_path_factory.mktemp("values") / "trustgate.duckdb")
    yield kept
    kept.close()


@st.composite
def wild_receipts(draw: st.DrawFn) -> Receipt:
    """A receipt of which some members are what no honest upstream says."""
    receipt = draw(receipts())
    names = [name for name in Receipt.__struct_fields__ if type(getattr(receipt, name)) in (int, str)]
    fixed = {"v", "finish", "usage_source", "tprev", "request_commitment", "response_commitment", "price_hash"}
    chosen = draw(st.sets(st.sampled_from([n for n in names if n not in {*fixed, "policy_hash"}]), min_size=1))
    changes = {name: draw(_INTEGERS if isinstance(getattr(receipt, name), int) else _TEXTS) for name in sorted(chosen)}
    return msgspec.structs.replace(receipt, **changes)


@reaches(1.0)
@_SETTINGS
@given(receipt=wild_receipts())
def test_a_receipt_that_is_journaled_can_be_stored_exported_summed_and_shown(kept: Kept, receipt: Receipt) -> None:
    entry = Entry(seq=kept.last_seq + 1, receipt=in_range(receipt), secret=b"\1" * 32)
    kept.journal.append(entry)
    assert list(kept.journal.replay(kept.last_seq)) == [entry], "the journal gives back what it took"
    kept.journal.release(entry.seq)

    kept.run(kept.store.append_entries([entry]))
    kept.last_seq += 1

    assert not kept.store.set_aside
    (stored,) = kept.run(kept.store.entries(ReceiptFilter(after_seq=entry.seq - 1)))
    assert stored == entry
    assert canonical(stored.receipt) == canonical(entry.receipt), "its place in the tree is the same"
    lines = kept.run(kept.store.export_receipts(ExportFilter(), entry.seq - 1, entry.seq))
    told = json.loads(lines.text) if entry.receipt.created_us < 2**63 - 1 else {"id": entry.receipt.id}
    assert told["id"] == entry.receipt.id
    for by in get_args(UsageGroup):
        for row in kept.run(kept.store.usage(UsageFilter(by=by))):
            assert 0 <= row.prompt_tokens <= SUM_MOST and 0 <= row.cost_nano_usd <= SUM_MOST
    assert json.loads(msgspec.json.encode(receipt_detail(stored)))["seq"] == entry.seq
    reached()


@st.composite
def wild_payments(draw: st.DrawFn, number: int = 0) -> dict[str, Any]:
    texts = {name: draw(_TEXTS) for name in ("identifier", "transaction", "payer", "reason", "key_id", "tenant_id")}
    offer = Offer(
        network=draw(_TEXTS),
        asset=draw(_TEXTS),
        decimals=draw(st.integers(0, 255)),
        pay_to=draw(_TEXTS),
        facilitator=draw(_TEXTS),
        extra=draw(st.dictionaries(_TEXTS, _TEXTS | st.integers(-(2**63), 2**63 - 1) | st.booleans(), max_size=3)),
    )
    return {
        **texts,
        "offer": offer,
        "amount": str(draw(st.integers(0, 2**256 - 1))),
        "value_nano_usd": draw(_INTEGERS),
        "payload": draw(st.binary(max_size=200)),
        "requirements": draw(st.binary(max_size=200)),
        "state": draw(st.sampled_from(get_args(PaymentState))),
        "created_us": draw(_INTEGERS),
        "updated_us": draw(_INTEGERS),
    }


@reaches(1.0)
@_SETTINGS
@given(members=wild_payments())
def test_a_payment_that_is_claimed_can_be_read_listed_moved_and_shown(kept: Kept, members: dict[str, Any]) -> None:
    kept.number += 1
    made = payment_of(
        evm_payload(evm_requirements()), evm_requirements(), id=f"pay_{kept.number:032x}", key=f"{kept.number:064x}"
    )
    payment = msgspec.structs.replace(made, **{**members, "identifier": f"{kept.number}{members['identifier']}"})

    claimed: Payment = kept.run(kept.store.claim_payment(payment))

    assert claimed.id == payment.id
    assert kept.run(kept.store.payment(payment.id)) == claimed
    assert claimed in kept.run(kept.store.payments(PaymentFilter(limit=None)))
    assert not kept.run(kept.store.damaged_rows())
    moved = msgspec.structs.replace(payment, state="failed", reason=members["payer"])
    assert kept.run(kept.store.move_payment(moved, before=claimed.state))
    assert msgspec.json.decode(msgspec.json.encode(claimed), type=Payment) == claimed
    reached()


@st.composite
def wild_anchors(draw: st.DrawFn) -> Anchor:
    attempt = AnchorAttempt(
        signature=draw(_TEXTS),
        transaction=draw(st.binary(max_size=300)),
        last_valid_block_height=draw(_INTEGERS),
        created_us=draw(_INTEGERS),
        outcome=draw(st.sampled_from(["open", "final", "failed", "expired"])),
        detail=draw(_TEXTS),
    )
    return Anchor(
        id=new_id("anchor", 1),
        state=draw(st.sampled_from(["planned", "anchored"])),
        genesis=draw(_TEXTS),
        fee_payer=draw(_TEXTS),
        tree_size=draw(_INTEGERS),
        root=draw(_TEXTS),
        note=draw(_TEXTS),
        created_us=draw(_INTEGERS),
        attempts=(attempt,) * draw(st.integers(0, 3)),
        signature=draw(_TEXTS),
        slot=draw(_INTEGERS),
        fee_lamports=draw(_INTEGERS),
        anchored_us=draw(_INTEGERS),
    )


@reaches(1.0)
@settings(parent=_SETTINGS, max_examples=12)
@given(anchor=wild_anchors())
def test_an_anchor_that_is_journaled_is_there_after_the_next_opening(kept: Kept, anchor: Anchor) -> None:
    kept.run(kept.store.put(anchor))
    (before,) = [found for found in kept.run(kept.store.anchors()) if found.id == anchor.id]

    store = kept.opened_again()

    assert not store.info.notes, "journal and database agree"
    assert before in kept.run(store.anchors())
    assert msgspec.json.decode(msgspec.json.encode(before), type=Anchor) == before
    assert abs(before.slot) <= SUM_MOST
    reached()
