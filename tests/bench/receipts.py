"""A home folder with millions of receipts and ten thousand tenants, written through the store's own verbs.

``python3 tests/bench receipts`` makes it, which takes minutes and gigabytes; it is kept among the tests' environments.
The receipts are chained by tenant, their tree is whole and its state signed, so that the gateway finds a log that it
might have written itself over the last two months.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.installed import RECEIPTS, big_home
from tests.environments import say
from trustgate.access.keys import mint
from trustgate.ids import now_us
from trustgate.receipts.publisher import Publisher
from trustgate.receipts.receipt import FIRST_TPREV, leaf_hash
from trustgate.receipts.tree import Tree
from trustgate.settings import load_settings
from trustgate.store import open_store
from trustgate.types import ApiKey, Entry, Receipt, Tenant

TENANTS = 10_000
_BATCH = 20_000
_SPAN_US = 60 * 86_400 * 1_000_000
_MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4", "llama3.1:8b", "o3-mini", "mistral-large")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 tests/bench receipts", description=__doc__)
    parser.add_argument("--count", type=int, default=RECEIPTS)
    options = parser.parse_args()
    folder = big_home(options.count)
    if folder.is_dir():
        say(f"{folder} is there already")
        return 0
    made = folder.with_name(folder.name + ".new")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True, mode=0o700)
    asyncio.run(_make(made, options.count))
    made.rename(folder)
    return 0


async def _make(folder: Path, count: int) -> None:
    settings = load_settings(home=folder)
    store = await open_store(settings.database)
    chance = random.Random(1)
    subjects = [_subject(number) for number in range(TENANTS)]
    for start in range(0, TENANTS, 1000):
        await store.put(*(record for pair in subjects[start : start + 1000] for record in pair))
    tree = await Tree.open(store)
    log = _Log(subjects, count, chance)
    began = time.monotonic()
    for first in range(1, count + 1, _BATCH):
        batch = list(log.entries(first, min(_BATCH, count + 1 - first)))
        grown, tiles = await tree.extended([leaf for _, leaf in batch])
        await store.append_entries([entry for entry, _ in batch], tiles)
        tree.adopt(grown)
        if first // _BATCH % 25 == 0:
            say(f"{first:,} of {count:,} receipts, {time.monotonic() - began:.0f} s")
    await Publisher.open(
        store, tree, key_file=settings.log_key, checkpoint_file=settings.checkpoint, origin="example.com/benchmark"
    )
    await store.close()


def _subject(number: int) -> tuple[Tenant, ApiKey]:
    at_us = now_us() - _SPAN_US
    tenant = Tenant(id=f"ten_{number:032x}", name=f"tenant-{number}", plan="internal", created_us=at_us)
    minted = mint()
    key = ApiKey(
        id=f"key_{number:032x}",
        tenant_id=tenant.id,
        name="default",
        secret_sha256=minted.sha256,
        redacted=minted.redacted,
        created_us=at_us,
    )
    return tenant, key


class _Log:
    """Receipts in the order of time, of tenants some of which are busier than others."""

    def __init__(self, subjects: list[tuple[Tenant, ApiKey]], count: int, chance: random.Random) -> None:
        self._subjects = subjects
        self._chance = chance
        self._begin_us = now_us() - _SPAN_US
        self._step_us = _SPAN_US / (count + 1)
        self._heads: dict[int, tuple[int, str]] = {}
        self._hash = os.urandom(32).hex()

    def entries(self, first: int, count: int) -> Iterator[tuple[Entry, bytes]]:
        random_bytes = os.urandom(96 * count)
        for seq in range(first, first + count):
            at = (seq - first) * 96
            subject = min(int(self._chance.expovariate(4) * TENANTS), TENANTS - 1)
            receipt = self._receipt(seq, subject, random_bytes[at : at + 64])
            leaf = leaf_hash(receipt)
            self._heads[subject] = (receipt.tseq, leaf.hex())
            yield Entry(seq=seq, receipt=receipt, secret=random_bytes[at + 64 : at + 96]), leaf

    def _receipt(self, seq: int, subject: int, noise: bytes) -> Receipt:
        tenant, key = self._subjects[subject]
        tseq, tprev = self._heads.get(subject, (0, FIRST_TPREV))
        at_us = self._begin_us + int(seq * self._step_us)
        tokens = noise[0] * 8 + 1
        return Receipt(
            v=1,
            id=f"rcpt_{at_us // 1000:012x}{noise[:10].hex()}",
            created_us=at_us,
            tenant=tenant.id,
            key=key.id,
            tseq=tseq + 1,
            tprev=tprev,
            endpoint="chat.completions",
            model=_MODELS[noise[1] % len(_MODELS)],
            passport="passport_any",
            upstream_model=_MODELS[noise[1] % len(_MODELS)],
            request_commitment=noise[:32].hex(),
            response_commitment=noise[32:].hex(),
            prompt_tokens=tokens,
            cached_tokens=0,
            completion_tokens=noise[2],
            reasoning_tokens=0,
            usage_source="provider",
            cost_nano_usd=tokens * 150,
            price_hash=self._hash,
            policy_hash=self._hash,
            latency_first_ms=noise[3],
            latency_total_ms=noise[3] * 4,
            status=200,
            finish="complete",
            stream=noise[4] > 100,
        )


if __name__ == "__main__":
    raise SystemExit(main())
