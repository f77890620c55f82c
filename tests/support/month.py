"""Made traffic over some months: three tenants, a markup, a discount, credits, payments, a price that changes.

Each row of ``rows`` is plain data; what it costs is worked out here from prices and tokens, apart from the program's
own arithmetic, so that sums over rows can be held against the program's. ``fill`` puts them into a home at once; as a
program (``python -m tests.support.month HOME COUNT``) they go through the journal, one after another, from where the
last run was killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.entries import make_credit, make_receipt
from trustgate.models.prices import price_hash
from trustgate.receipts.journal import Journal
from trustgate.receipts.log import Log
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.receipts.tree import Tree
from trustgate.statements.months import Month
from trustgate.store import Store, open_store
from trustgate.types import (
    RECEIPT_PAYMENT_MEMBERS,
    RECEIPT_PRICE_MEMBERS,
    ApiKey,
    Entry,
    Passport,
    PriceChange,
    Prices,
    Receipt,
    Tenant,
)

TENANTS = ("Acme Labs", "Bob & Söhne", "=Carol <Studio>")
KEYS = ("default", "laptop", "batch job")
MONTHS = (Month(2026, 8), Month(2026, 9), Month(2026, 10))
#: Bob owes nothing by x402, so has no balance; his plan bills a fifth more than a model costs, Carol's a little less.
FACTORS = (1_000_000, 1_200_000, 950_000)
#: Pico-USD a token: prompt, cached, completion.
_OLD, _NEW, _MINI = (2_500_000, 1_250_000, 10_000_000), (2_000_001, 1_000_003, 8_000_007), (150_000, 150_000, 600_000)
_CHANGE_US = Month(2026, 9).from_us + 15 * 86_400_000_000
_COUNTED = ("complete", "client_gone", "upstream_cut", "cut")
_SPAN_END_US = MONTHS[-1].until_us - 86_400_000_000


class Row(NamedTuple):
    """One receipt to be; money in nano-USD."""

    number: int
    at_us: int
    tenant: int
    key: str
    model: str
    prices: tuple[int, int, int]
    finish: str
    prompt: int
    cached: int
    completion: int
    cost: int
    billed: int
    charged: int
    credited: int
    is_payment: bool

    @property
    def counts(self) -> bool:
        return self.finish in _COUNTED


def rows(count: int, seed: int = 1) -> list[Row]:
    """Returns as many rows, in the order in which they are written: mostly that of their times."""
    chance = random.Random(seed)
    start = MONTHS[0].from_us
    step = (_SPAN_END_US - start) // count
    return [_row(number, start + number * step + chance.randrange(3 * step), chance) for number in range(count)]


def _row(number: int, at_us: int, chance: random.Random) -> Row:
    tenant = chance.randrange(3)
    if tenant != 1 and chance.random() < 0.08:
        is_payment = chance.random() < 0.5
        is_refund = not is_payment and chance.random() < 0.4
        amount = chance.randrange(1, 9_000_000_000)
        charged, credited = (amount % 1_000_000, 0) if is_refund else (0, amount)
        return Row(number, at_us, tenant, "", "", _OLD, "credited", 0, 0, 0, 0, 0, charged, credited, is_payment)
    is_large = chance.random() < 0.4
    prices = (_OLD if at_us < _CHANGE_US else _NEW) if is_large else _MINI
    prompt, completion = chance.randrange(1, 9000), chance.randrange(900)
    cached = chance.randrange(prompt)
    finish = chance.choices((*_COUNTED, "refused", "upstream_error"), (80, 5, 3, 3, 4, 5))[0]
    pico = (prompt - cached) * prices[0] + cached * prices[1] + completion * prices[2]
    cost = ceil(Fraction(pico, 1000)) if finish in _COUNTED else 0
    billed = ceil(Fraction(cost * FACTORS[tenant], 1_000_000))
    charged = 0 if tenant == 1 or finish == "upstream_cut" else billed
    key = f"key_{tenant}{chance.randrange(3)}"
    model = "openai/gpt-4o" if is_large else "openai/gpt-4o-mini"
    return Row(
        number, at_us, tenant, key, model, prices, finish, prompt, cached, completion, cost, billed, charged, 0, False
    )


def receipt(row: Row, tseq: int, tprev: str) -> Receipt:
    """The receipt of a row; its id is always the same."""
    digest = hashlib.sha256(b"%d" % row.number).hexdigest()
    base: dict[str, Any] = {
        "id": f"rcpt_{row.at_us // 1000:012x}{digest[:20]}",
        "created_us": row.at_us,
        "tenant": f"tenant_{row.tenant}",
        "tseq": tseq,
        "tprev": tprev,
        "key": row.key,
        "finish": row.finish,
    }
    paid: dict[str, Any] = {"charged_nano_usd": row.charged, "credited_nano_usd": row.credited}
    if not row.is_payment:
        paid |= dict.fromkeys(RECEIPT_PAYMENT_MEMBERS[2:], "")
    if row.finish == "credited":
        return make_credit(row.number, **base, **paid)
    is_small = row.model.endswith("mini")
    nothing = [name for name in RECEIPT_PRICE_MEMBERS if name.endswith("_tokens")]
    return make_receipt(
        row.number,
        **base,
        **(paid if row.tenant != 1 else {}),
        v=3 if row.tenant == 1 else 4,
        model=row.model,
        passport=f"passport_{int(is_small)}",
        prompt_tokens=row.prompt,
        cached_tokens=row.cached,
        completion_tokens=row.completion,
        reasoning_tokens=0,
        cost_nano_usd=row.cost,
        billed_nano_usd=row.billed,
        price_factor_ppm=FACTORS[row.tenant],
        price_hash=price_hash(_table(row.prices)),
        status=200 if row.counts else 429,
        **dict.fromkeys((*nothing, "images", "audio_ms", "characters", "searches"), 0),
        service_tier="",
        image_size="",
        image_quality="",
    )


def _table(prices: tuple[int, int, int]) -> Prices:
    return Prices(input_pico_usd=prices[0], cached_input_pico_usd=prices[1], output_pico_usd=prices[2])


async def put_names(store: Store) -> None:
    """Keep the tenants, keys and models that the rows speak of, and the prices they had."""
    tenants = [Tenant(id=f"tenant_{at}", name=name, plan="pro") for at, name in enumerate(TENANTS)]
    keys = [
        ApiKey(
            id=f"key_{tenant}{at}",
            tenant_id=f"tenant_{tenant}",
            name=name,
            secret_sha256=hashlib.sha256(f"{tenant}{at}".encode()).hexdigest(),
            redacted=f"tgk_{tenant}{at}…9xYz",
        )
        for tenant in range(3)
        for at, name in enumerate(KEYS)
    ]
    passports = [
        Passport(id=f"passport_{at}", slug=slug, api_model_id=slug.partition("/")[2], prices=_table(prices))
        for at, (slug, prices) in enumerate((("openai/gpt-4o", _NEW), ("openai/gpt-4o-mini", _MINI)))
    ]
    before = PriceChange(
        id="change_1",
        passport_id="passport_0",
        slug="openai/gpt-4o",
        price_hash=price_hash(_table(_OLD)),
        prices=_table(_OLD),
        source="set by hand",
        from_us=0,
    )
    await store.put(*tenants, *keys, *passports, before)


def entries(made: list[Row]) -> list[Entry]:
    """The log of the rows: each tenant's receipts in a chain."""
    heads: dict[int, tuple[int, str]] = {}
    found = []
    for seq, row in enumerate(made, start=1):
        tseq, tprev = heads.get(row.tenant, (0, FIRST_TPREV))
        issued = receipt(row, tseq + 1, tprev)
        heads[row.tenant] = tseq + 1, leaf_hash(issued).hex()
        found.append(Entry(seq=seq, receipt=issued, secret=hashlib.sha256(b"%d" % seq).digest()))
    return found


async def fill(home: Path, made: list[Row]) -> None:
    """Make a home whose database has all of it."""
    home.mkdir(parents=True, exist_ok=True)
    store = await open_store(home / "trustgate.duckdb")
    await put_names(store)
    tree = await Tree.open(store)
    log = entries(made)
    _, tiles = await tree.extended([leaf_hash(entry.receipt) for entry in log])
    await store.append_entries(log, tiles)
    await store.close()


async def _write(home: Path, made: list[Row]) -> None:
    """Go on with the rows where the log ends; the journal and the store in batches, as a server does."""
    home.mkdir(parents=True, exist_ok=True)
    store = await open_store(home / "trustgate.duckdb")
    await put_names(store)
    tree = await Tree.open(store)
    journal = Journal.open(home / "journal", store_id=store.store_id, last_seq=await store.last_seq())
    log = await Log.recover(store, journal, tree)
    work = asyncio.create_task(log.run())
    print(f"begins at {log.last_seq}", flush=True)
    for row in made[log.last_seq :]:
        issued = receipt(row, *log.link(f"tenant_{row.tenant}"))
        log.append(issued, hashlib.sha256(b"%d" % row.number).digest())
        if row.number % 100 == 0:
            print(row.number, flush=True)
            await asyncio.sleep(0.001)
    await log.flush()
    work.cancel()
    journal.close()
    await store.close()
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(_write(Path(sys.argv[1]), rows(int(sys.argv[2]))))
