"""Receipts and entries for tests: made by hand with good defaults, or drawn by hypothesis."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import strategies as st

from trustgate.ids import new_id
from trustgate.types import Entry, Receipt

FIRST_US = 1_770_000_000_000_000  # 2026-02-02 02:40 UTC


def make_receipt(number: int = 1, **members: Any) -> Receipt:
    """A receipt like the gateway's, a second and a bit after the one before; its hashes are no other's."""
    created_us = members.get("created_us", FIRST_US + number * 1_000_001)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    defaults: dict[str, Any] = {
        "id": new_id("rcpt", created_us),
        "created_us": created_us,
        "tenant": "tenant_1",
        "key": "key_1",
        "tseq": number,
        "tprev": digest,
        "endpoint": "chat.completions",
        "model": "gpt-4o",
        "passport": "passport_1",
        "upstream_model": "gpt-4o-2024-08-06",
        "request_commitment": digest,
        "response_commitment": digest,
        "prompt_tokens": 100,
        "cached_tokens": 10,
        "completion_tokens": 50,
        "reasoning_tokens": 5,
        "usage_source": "provider",
        "cost_nano_usd": 12_345,
        "price_hash": digest,
        "policy_hash": digest,
        "latency_first_ms": 100,
        "latency_total_ms": 900,
        "status": 200,
        "finish": "complete",
        "stream": False,
    }
    return Receipt(**{**defaults, **members})


def make_entry(seq: int, **members: Any) -> Entry:
    return Entry(seq=seq, receipt=make_receipt(seq, **members), secret=hashlib.sha256(b"%d" % seq).digest())


def make_entries(first: int, count: int) -> list[Entry]:
    return [make_entry(seq) for seq in range(first, first + count)]


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_counts = st.integers(0, 2**53 - 1)
_hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)


def receipts() -> st.SearchStrategy[Receipt]:
    """Any receipt that can occur: any text, numbers up to the largest that JSON keeps exactly, real hashes."""
    return st.builds(
        Receipt,
        id=_texts,
        created_us=_counts,
        tenant=_texts,
        key=_texts,
        tseq=_counts,
        tprev=_hashes,
        endpoint=_texts,
        model=_texts,
        passport=_texts,
        upstream_model=_texts,
        request_commitment=_hashes,
        response_commitment=_hashes,
        prompt_tokens=_counts,
        cached_tokens=_counts,
        completion_tokens=_counts,
        reasoning_tokens=_counts,
        usage_source=st.sampled_from(["provider", "estimate"]),
        cost_nano_usd=_counts,
        price_hash=_hashes,
        policy_hash=_hashes,
        latency_first_ms=_counts,
        latency_total_ms=_counts,
        status=st.integers(100, 599),
        finish=st.sampled_from(["complete", "client_gone", "upstream_cut", "cut", "upstream_error", "refused"]),
        stream=st.booleans(),
    )
