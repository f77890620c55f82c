"""Receipts and entries for tests: made by hand with good defaults, or drawn by hypothesis."""

from __future__ import annotations

import hashlib
from typing import Any, get_args

from hypothesis import strategies as st

from trustgate.ids import new_id
from trustgate.types import (
    END_USER_VERSIONS,
    PAYMENT_VERSIONS,
    RECEIPT_PRICE_MEMBERS,
    RECEIPT_WORK_MEMBERS,
    WORK_VERSIONS,
    Entry,
    Finish,
    Receipt,
)

FIRST_US = 1_770_000_000_000_000  # 2026-02-02 02:40 UTC


def make_receipt(number: int = 1, **members: Any) -> Receipt:
    """A receipt like the gateway's, a second and a bit after the one before; its hashes are no other's.

    Of version 1; with ``v=2``, 4 or 6 that of a request which was paid for, from 3 on with what its price looked at,
    from 5 on with an end user.
    """
    created_us = members.get("created_us", FIRST_US + number * 1_000_001)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    defaults: dict[str, Any] = {
        "v": 1,
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
    if members.get("v", 1) >= 3:
        defaults |= {
            "price_known": True,
            "billed_nano_usd": 13_580,
            "price_factor_ppm": 1_100_000,
            **dict.fromkeys((name for name in RECEIPT_PRICE_MEMBERS if name.endswith("_tokens")), 3),
            "images": 1,
            "audio_ms": 1_500,
            "characters": 20,
            "searches": 2,
            "service_tier": "priority",
            "image_size": "1024x1024",
            "image_quality": "high",
            "usage_contradictory": False,
        }
    if members.get("v", 1) in PAYMENT_VERSIONS:
        defaults |= {
            "charged_nano_usd": 12_345,
            "credited_nano_usd": 1_500_000_000,
            "payment": f"pay_{number}",
            "payment_network": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
            "payment_transaction": f"transaction_{number}",
            "payment_asset": "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
            "payment_amount": "1500000",
            "payment_payer": "payer_1",
        }
    if members.get("v", 1) in END_USER_VERSIONS:
        defaults["end_user"] = f"eu_{number:024x}"
    if members.get("v", 1) in WORK_VERSIONS:
        defaults |= {"endpoint": "batches", "calls": 2, "price_above_prompt_tokens": 32}
    return Receipt(**{**defaults, **members})


def make_credit(number: int = 1, **members: Any) -> Receipt:
    """The receipt of money that came onto a balance by itself (payment.credit)."""
    nothing = dict.fromkeys(
        ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano_usd"), 0
    )
    form = {"v": 2, "endpoint": "credits", "finish": "credited", "charged_nano_usd": 0, **nothing}
    return make_receipt(number, **{**form, "model": "", "passport": "", "upstream_model": "", **members})


def make_entry(seq: int, **members: Any) -> Entry:
    return Entry(seq=seq, receipt=make_receipt(seq, **members), secret=hashlib.sha256(b"%d" % seq).digest())


def make_entries(first: int, count: int) -> list[Entry]:
    return [make_entry(seq) for seq in range(first, first + count)]


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_counts = st.integers(0, 2**53 - 1)
_hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
_amounts = st.just("") | st.integers(0, 2**256 - 1).map(str)


def receipts() -> st.SearchStrategy[Receipt]:
    """Any receipt that can occur: any text, numbers up to the largest that JSON keeps exactly, real hashes."""
    paid: dict[str, st.SearchStrategy[Any]] = {
        "finish": _finishes(),
        "charged_nano_usd": _counts,
        "credited_nano_usd": _counts,
        "payment": _texts,
        "payment_network": _texts,
        "payment_transaction": _texts,
        "payment_asset": _texts,
        "payment_amount": _amounts,
        "payment_payer": _texts,
    }
    priced: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(RECEIPT_PRICE_MEMBERS, _counts),
        **dict.fromkeys(("service_tier", "image_size", "image_quality"), _texts),
        **dict.fromkeys(("price_known", "usage_contradictory"), st.booleans()),
    }
    summed: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(RECEIPT_WORK_MEMBERS, _counts)
    owes_nothing = _finishes(but="credited")
    return st.one_of(
        _receipts(v=st.just(1), finish=owes_nothing),
        _receipts(v=st.just(2), **paid),
        _receipts(v=st.just(3), finish=owes_nothing, **priced),
        _receipts(v=st.just(4), **paid, **priced),
        _receipts(v=st.just(5), finish=owes_nothing, **priced, end_user=_texts),
        _receipts(v=st.just(6), **paid, **priced, end_user=_texts),
        _receipts(v=st.just(7), finish=owes_nothing, **priced, **summed),
        _receipts(v=st.just(8), **paid, **priced, **summed),
        _receipts(v=st.just(9), finish=owes_nothing, **priced, end_user=_texts, **summed),
        _receipts(v=st.just(10), **paid, **priced, end_user=_texts, **summed),
    )


def _finishes(*, but: str = "") -> st.SearchStrategy[str]:
    return st.sampled_from([finish for finish in get_args(Finish) if finish != but])


def _receipts(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Receipt]:
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
        stream=st.booleans(),
        **members,
    )
