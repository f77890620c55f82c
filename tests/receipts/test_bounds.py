"""Whatever a receipt is made of: once it is brought into range it is journaled, stored, exported, summed and shown."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from tests.support.entries import make_entry, make_receipt
from trustgate.formats.written import INTEGER_MOST
from trustgate.receipts.bounds import fixed, in_range
from trustgate.receipts.receipt import canonical, leaf_hash
from trustgate.receipts.segment import MAX_RECORD_BYTES, RECORD_HEAD_BYTES, encode_entry
from trustgate.store import ExportFilter, ReceiptFilter, UsageFilter, open_store
from trustgate.store.exports import RECEIPT_COLUMNS, write_table
from trustgate.types import Entry, Receipt

_HASHES = ("tprev", "request_commitment", "response_commitment", "price_hash", "policy_hash")
_OURS = ("v", "usage_source", "finish", "stream", *_HASHES)
_EDGES = (-(2**63) - 1, -1, 0, 2**15, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**40)
_integers = st.sampled_from(_EDGES) | st.integers()
#: Lone surrogates, pairs of them, NUL, what takes four bytes, and more than a record has room for.
_texts = (
    st.text(st.characters(), max_size=40)
    | st.sampled_from(["\ud800", "\ud83d\ude00", "a\0b", "=1+1", '"\n\r,', "\x1b[31m"])
    | st.tuples(st.sampled_from("a\U0001f600\ud800"), st.integers(100, 5_000)).map(lambda drawn: drawn[0] * drawn[1])
)


def _drawn(version: int) -> st.SearchStrategy[Receipt]:
    """A receipt whose integers and texts are anything at all."""
    template = make_receipt(v=version)
    members: dict[str, Any] = {}
    for name, value in asdict(template).items():
        if name not in _OURS and isinstance(value, int) and not isinstance(value, bool):
            members[name] = _integers
        elif name not in _OURS and isinstance(value, str):
            members[name] = _texts
    return st.fixed_dictionaries(members).map(lambda drawn: replace(template, **drawn))


_any_receipt = st.sampled_from([1, 2, 3, 4]).flatmap(_drawn)


@given(_any_receipt)
def test_what_is_in_range_fits_into_a_record_and_has_a_canonical_form(receipt: Receipt) -> None:
    bounded = in_range(receipt)

    record = encode_entry(Entry(seq=2**53, receipt=bounded, secret=bytes(32)))
    assert len(record) + RECORD_HEAD_BYTES <= MAX_RECORD_BYTES
    told = json.loads(canonical(bounded))
    assert "\0" not in "".join(value for value in told.values() if isinstance(value, str)), (
        "what Postgres does not take"
    )
    assert all(0 <= value <= INTEGER_MOST for value in told.values() if isinstance(value, int))
    assert in_range(bounded) is bounded or in_range(bounded) == bounded
    assert fixed(receipt) == (bounded, canonical(bounded))


def test_a_receipt_in_range_is_left_as_it_is() -> None:
    receipt = make_receipt(v=2, model="größe 😀", prompt_tokens=INTEGER_MOST)

    assert in_range(receipt) == receipt
    plain = make_receipt()
    assert in_range(plain) is plain
    assert fixed(plain) == (plain, canonical(plain))
    assert fixed(replace(plain, prompt_tokens=-1))[0].prompt_tokens == 0


def test_usage_that_had_to_be_changed_is_marked_as_an_estimate() -> None:
    assert in_range(make_receipt(prompt_tokens=2**64)).usage_source == "estimate"
    assert in_range(make_receipt(cost_nano_usd=-1)).cost_nano_usd == 0
    assert in_range(make_receipt(latency_total_ms=-5)).usage_source == "provider", "the clock's fault, not the usage's"
    assert in_range(make_receipt(upstream_model="\ud800x")).upstream_model == "\ufffdx"
    assert fixed(make_receipt(model="a\0b"))[0].model == "a\ufffdb"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_any_receipt, min_size=1, max_size=4))
@pytest.mark.slow
async def test_what_is_in_range_is_stored_exported_summed_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Receipt]
) -> None:
    folder = tmp_path_factory.mktemp("bounds")
    entries = [
        Entry(seq=seq, receipt=in_range(receipt), secret=bytes(32)) for seq, receipt in enumerate(drawn, start=1)
    ]
    store = await open_store(folder / "trustgate.duckdb")
    try:
        await store.append_entries(entries)

        assert store.set_aside == ()
        assert await store.entries(ReceiptFilter(oldest_first=True)) == entries
        rows = await store.usage(UsageFilter(by="tenant"))
        counted = [entry.receipt for entry in entries]
        assert sum(row.cost_nano_usd for row in rows) == sum(receipt.cost_nano_usd for receipt in counted)
        await store.window_usage(0)
        await store.balances()
        exported = await store.export_receipts(ExportFilter(), 0, len(entries))
        assert [json.loads(line)["model"] for line in exported.text.splitlines()] == [
            receipt.model for receipt in counted
        ]
        (folder / "receipts.jsonl").write_bytes(exported.text)
        write_table(folder / "receipts.jsonl", folder / "receipts.csv", RECEIPT_COLUMNS, "csv")
        with (folder / "receipts.csv").open(newline="", encoding="utf-8") as file:
            assert [int(row["cost_nano_usd"]) for row in csv.DictReader(file)] == [
                receipt.cost_nano_usd for receipt in counted
            ]
    finally:
        await store.close()


async def test_what_does_not_fit_its_column_is_set_aside_and_stops_no_other(tmp_path: Path) -> None:
    path = tmp_path / "trustgate.duckdb"
    entries = [
        make_entry(1),
        make_entry(2, cost_nano_usd=2**63, prompt_tokens=2**64 - 1),
        make_entry(3, status=40_000),
        make_entry(4, policy_hash="XYZ"),
        make_entry(5),
    ]
    store = await open_store(path)
    await store.append_entries(entries)
    await store.close()

    store = await open_store(path)
    try:
        assert await store.last_seq() == 5
        assert {aside.entry.seq: aside.reason for aside in store.set_aside} == {
            2: "out of range: prompt_tokens, cost_nano_usd",
            3: "out of range: status",
            4: "The receipt's policy_hash is not lower-case hexadecimal.",
        }
        kept = await store.entries(ReceiptFilter(oldest_first=True))
        assert [leaf_hash(entry.receipt) for entry in kept] == [leaf_hash(entry.receipt) for entry in entries]
        assert (await store.load_heads())[0].entry == entries[4]
        (usage,) = await store.usage(UsageFilter(by="tenant"))
        assert (usage.requests, usage.cost_nano_usd) == (5, 4 * entries[0].receipt.cost_nano_usd)
        assert (await store.export_receipts(ExportFilter(), 0, 5)).rows == 5

        assert len(await store.mend_set_aside(accept=False)) == 3
        assert all(aside.accepted for aside in await store.mend_set_aside(accept=True))
    finally:
        await store.close()


async def test_sums_beyond_what_a_column_holds_end_at_its_largest(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "trustgate.duckdb")
    try:
        most = 2**63 - 1
        figures = dict.fromkeys(("prompt_tokens", "completion_tokens", "cost_nano_usd"), most)
        money = {"charged_nano_usd": most, "credited_nano_usd": most}
        await store.append_entries([make_entry(seq, v=2, **figures, **money) for seq in (1, 2)])

        (usage,) = await store.usage(UsageFilter(by="tenant"))
        (window,) = await store.window_usage(0)
        (balance,) = await store.balances()
        (line,) = (await store.export_usage(ExportFilter())).text.splitlines()
        assert usage.cost_nano_usd == window.cost_nano_usd == balance.charged_nano_usd == most
        assert window.tokens == json.loads(line)["prompt_tokens"] == most
    finally:
        await store.close()
