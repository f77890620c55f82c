"""Many receipts at once go into the file as columns; what is read back is what rows would have been."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.test_values import wild_receipts
from tests.support.entries import make_entries, make_entry, receipts
from trustgate.store import ReceiptFilter, Store, entries, open_store
from trustgate.store.sql import DuckDBDialect
from trustgate.types import Entry, Receipt

_ROWS_ALONE = 10**9


class Pair:
    """Two stores that get the same, the one as columns and the other as rows: to open them takes long."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._stores = [self.run(open_store(folder / name)) for name in ("columns.duckdb", "rows.duckdb")]
        self.last_seq = 0

    def run(self, work: Any) -> Any:
        return self._runner.run(work)

    def append(self, batch: list[Entry], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Returns what each of the two has of the batch then."""
        found = []
        before, self.last_seq = self.last_seq, batch[-1].seq
        for store, many in zip(self._stores, (1, _ROWS_ALONE), strict=True):
            monkeypatch.setattr(entries, "_MANY", many)
            self.run(store.append_entries(batch))
            found.append(self.run(_read(store, before)))
        return found

    def close(self) -> None:
        for store in self._stores:
            self.run(store.close())
        self._runner.close()


async def _read(store: Store, after_seq: int) -> tuple[Any, Any]:
    rows = await store.entries(ReceiptFilter(after_seq=after_seq, oldest_first=True, limit=5_000))
    return rows, [(each.entry, each.counted) for each in store.set_aside if each.entry.seq > after_seq]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("columns"))
    yield pair
    pair.close()


def _journaled(receipt: Receipt) -> Receipt:
    """Returns a receipt whose text has UTF-8: the journal has taken it."""
    texts = {name: text for name in Receipt.__struct_fields__ if isinstance(text := getattr(receipt, name), str)}
    return msgspec.structs.replace(
        receipt, **{name: text.encode(errors="replace").decode() for name, text in texts.items()}
    )


_BATCHES = st.lists(receipts(), min_size=1, max_size=9) | st.lists(
    receipts() | wild_receipts().map(_journaled), min_size=1, max_size=3
)


@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(batch=_BATCHES)
def test_columns_keep_what_rows_keep(batch: list[Any], pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any version, any text and numbers; what does not fit is set aside in the same way."""
    numbered = [Entry(seq=pair.last_seq + 1 + at, receipt=each, secret=b"s" * 32) for at, each in enumerate(batch)]
    columns, rows = pair.append(numbered, monkeypatch)
    assert columns == rows


def test_thousands_come_back_in_order(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one array holds, of one version and of several within it, with text beyond ASCII and one misfit."""
    taken: list[bool] = []
    append_columns = DuckDBDialect.append_columns

    def watched(*arguments: Any) -> bool:
        taken.append(append_columns(*arguments))
        return taken[-1]

    monkeypatch.setattr(DuckDBDialect, "append_columns", watched)
    first = pair.last_seq + 1
    batch = make_entries(first, 2_300)
    batch[1_200] = make_entry(first + 1_200, v=6, model="modèle 𝄞", end_user="")
    columns, rows = pair.append(batch, monkeypatch)
    assert taken == [True]
    are_same = columns == rows == (batch, [])
    assert are_same  # thousands of them would be shown

    batch = make_entries(first + 2_300, 20)
    batch[7] = make_entry(first + 2_307, prompt_tokens=2**63)
    columns, rows = pair.append(batch, monkeypatch)
    assert taken == [True, False, True]
    assert columns == rows
    assert [entry.seq for entry, _ in columns[1]] == [first + 2_307]
