"""How statements write what they tell: money, counts, times and prices; exact, and the same in every format."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from trustgate.statements.account import AccountTotals, StatementAccount
from trustgate.types import NANO_USD_PER_USD

_MICROSECONDS = 1_000_000
_ONE_PPM = 1_000_000
#: Rates of a price table: what they are called, and what they are per.
_RATES = {
    "input_pico_usd": ("prompt", "1M tokens"),
    "cached_input_pico_usd": ("cached", "1M tokens"),
    "cache_write_pico_usd": ("cache write", "1M tokens"),
    "cache_write_1h_pico_usd": ("cache write 1 h", "1M tokens"),
    "audio_input_pico_usd": ("audio in", "1M tokens"),
    "image_input_pico_usd": ("image in", "1M tokens"),
    "output_pico_usd": ("completion", "1M tokens"),
    "reasoning_pico_usd": ("reasoning", "1M tokens"),
    "audio_output_pico_usd": ("audio out", "1M tokens"),
    "image_output_pico_usd": ("image out", "1M tokens"),
    "call_nano_usd": ("request", ""),
    "image_nano_usd": ("image", ""),
    "audio_second_nano_usd": ("audio", "second"),
    "character_pico_usd": ("characters", "1M"),
    "search_nano_usd": ("search", ""),
}


def usd(nano_usd: int) -> str:
    """Nano-USD as dollars, exactly: at least two decimals, at most nine. ``$0.0000015``."""
    whole, rest = divmod(abs(nano_usd), NANO_USD_PER_USD)
    return f"{'-' if nano_usd < 0 else ''}${whole:,}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"


def decimal(nano_usd: int) -> str:
    """Nano-USD as a decimal for spreadsheets, exactly: ``0.0000015``."""
    return usd(nano_usd).replace("$", "").replace(",", "")


def factor(ppm: int) -> str:
    """Returns a factor in millionths: ``× 1.2``."""
    whole, rest = divmod(ppm, _ONE_PPM)
    decimals = f"{rest:06d}".rstrip("0")
    return f"× {whole}.{decimals}" if decimals else f"× {whole}"


def moment(at_us: int) -> str:
    """``2026-10-31 23:59:59``, UTC."""
    return datetime.fromtimestamp(at_us // _MICROSECONDS, UTC).strftime("%Y-%m-%d %H:%M:%S")


def day(at_us: int) -> str:
    """``2026-10-31``, UTC."""
    return moment(at_us)[:10]


def printable(text: str) -> str:
    """Returns the text without control characters, which could forge lines or colours."""
    return "".join(c if c.isprintable() else "�" for c in text)


def rates(prices: Mapping[str, Any] | None) -> str:
    """Returns a price table in words: what is counted, what it costs, per what."""
    if prices is None:
        return "not in this statement"
    if prices.get("free"):
        return "free"
    told = []
    for name, (what, per) in _RATES.items():
        rate = prices.get(name)
        if rate is not None:
            nano = rate * 1000 if name.endswith("_pico_usd") else rate
            told.append(f"{what} {usd(nano)}" + (f" / {per}" if per else ""))
    if more := len(prices.get("conditional", ())):
        told.append(f"{more} conditional rate{'s' if more > 1 else ''}")
    return ", ".join(told) or "not priced"


def other_units(totals: AccountTotals) -> str:
    """Returns what was used besides tokens: ``12 images, 30.5 s of audio``; "" for nothing."""
    audio = f"{totals.audio_ms / 1000:,.3f}".rstrip("0").rstrip(".")
    units = (
        (totals.images, f"{totals.images:,} images"),
        (totals.audio_ms, f"{audio} s of audio"),
        (totals.characters, f"{totals.characters:,} characters"),
        (totals.searches, f"{totals.searches:,} searches"),
        (totals.cache_write_tokens, f"{totals.cache_write_tokens:,} tokens written to the cache"),
        (totals.reasoning_tokens, f"{totals.reasoning_tokens:,} tokens of reasoning"),
    )
    return ", ".join(text for count, text in units if count)


def balance_lines(account: StatementAccount) -> list[tuple[str, int]]:
    """Returns the way from the opening balance to the closing one, nano-USD; lines of nothing are left out."""
    paid = sum(line.credited_nano_usd for line in account.money if line.kind == "payment")
    added = sum(line.credited_nano_usd for line in account.money if line.kind != "payment")
    taken = sum(line.charged_nano_usd for line in account.money)
    between = [
        ("Payments", paid),
        ("Credits", added),
        ("Paid back", -taken),
        ("Requests", -account.total.charged_nano_usd),
    ]
    return [
        ("Opening balance", account.opening_nano_usd),
        *((name, value) for name, value in between if value),
        ("Closing balance", account.closing_nano_usd),
    ]


def remarks(account: StatementAccount) -> list[str]:
    """Returns what a reader should know of the sums: sentences."""
    total = account.total
    told = []
    if not account.is_final:
        told.append("The month was not over when this was issued: the sums are provisional.")
    without = [(total.refused, "refused"), (total.failed, "failed before an answer")]
    if any(count for count, _ in without):
        counts = " and ".join(f"{count:,} {what}" for count, what in without if count)
        told.append(f"Further requests: {counts}. They cost nothing.")
    if total.estimated:
        told.append(f"{total.estimated:,} requests were metered by an estimate: their server did not report the usage.")
    if total.unpriced:
        told.append(f"{total.unpriced:,} requests had a model without a price; they are in no sum of money.")
    return told
