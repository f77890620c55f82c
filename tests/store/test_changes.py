"""The operators' journal: what was decided holds whatever becomes of the database beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trustgate.errors import StoreDamaged, StoreIncomplete, TrustGateError
from trustgate.store import Store, open_store
from trustgate.store.changes import ChangeJournal, read_changes
from trustgate.types import Alias, Budget, EndUser, Plan, PseudonymKey, Tenant


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trustgate.duckdb"


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def tenant(number: int, created_us: int = 0) -> Tenant:
    return Tenant(id=f"tenant_{number}", name=f"n{number}", plan="pro", created_us=created_us)


async def names(store: Store) -> list[str]:
    return [tenant.name for tenant in (await store.load_state()).tenants]


async def test_changes_are_numbered_and_each_is_bound_to_the_one_before(path: Path) -> None:
    store = await open_store(path)
    await store.put(tenant(1), tenant(2))
    await store.remove(Plan(name="growth"))
    await store.close()

    found = read_changes(beside(path, ".changes"))

    assert found is not None
    assert [change.number for change in found.changes] == [1, 2, 3]
    assert [len(change.put) for change in found.changes] == [6, 2, 0], "it begins with everything there was"
    lines = beside(path, ".changes").read_bytes().splitlines(keepends=True)
    beside(path, ".changes").write_bytes(b"".join([lines[0], lines[1], lines[3]]))
    cut = read_changes(beside(path, ".changes"))
    assert cut is not None
    assert cut.damage == "the line after change 1 is unreadable", "a line taken out breaks the chain"


async def test_a_change_that_was_refused_leaves_nothing_behind(path: Path) -> None:
    """It fits the journal and not the database."""
    store = await open_store(path)
    with pytest.raises(TrustGateError):
        await store.put(tenant(1), Tenant(id="tenant_2", name=None, plan="pro"))  # type: ignore[arg-type]
    await store.put(tenant(3))
    await store.close()

    store = await open_store(path)

    assert await names(store) == ["n3"]
    assert store.info.notes == ()
    await store.close()


async def test_an_older_database_gets_what_was_decided_since(path: Path) -> None:
    store = await open_store(path)
    await store.put(tenant(1), Alias(name="old", target="trustgate/echo"))
    await store.close()
    older = path.read_bytes()
    store = await open_store(path)
    await store.put(tenant(2))
    await store.remove(Alias(name="old", target="trustgate/echo"), Plan(name="growth"))
    await store.close()
    path.write_bytes(older)

    store = await open_store(path)

    state = await store.load_state()
    assert (await names(store), state.aliases) == (["n1", "n2"], ())
    assert "growth" not in {plan.name for plan in state.plans}
    assert "changes 3 to 4" in store.info.notes[0]
    await store.close()


async def test_budgets_end_users_and_their_secret_are_journaled_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the secret every end user would be another one."""
    store = await open_store(path)
    await store.close()
    older = path.read_bytes()
    kept = (
        Budget(id="budget_1", name="b", unit="tokens", amount=5, span="21600s", plans=("pro",), each="end_user"),
        EndUser(id="eu_1", tenant_id="ten_1", blocked=True, amounts={"budget_1": 7}),
        PseudonymKey(id="pseudonyms_1", secret=bytes(range(32)), created_us=1),
    )
    store = await open_store(path)
    await store.put(*kept)
    await store.close()
    for _ in range(2):
        path.write_bytes(older)
        store = await open_store(path)
        state = await store.load_state()
        assert (*state.budgets, *state.end_users, state.pseudonym_key) == kept
        await store.close()
        # The second time the journal begins with everything there is.
        monkeypatch.setattr("trustgate.store.completeness.MOST_BYTES", 1)
        await (await open_store(path)).close()


async def test_what_neither_has_is_missed(path: Path) -> None:
    store = await open_store(path)
    await store.close()
    older = path.read_bytes(), beside(path, ".changes").read_bytes()
    store = await open_store(path)
    await store.put(tenant(1))
    await store.put(tenant(2))
    await store.close()
    for file, data in zip((path, beside(path, ".changes")), older, strict=True):
        file.write_bytes(data)

    with pytest.raises(StoreIncomplete, match="changes 2 to 3 of what operators decide are missing"):
        await open_store(path)
    store = await open_store(path, accept_loss=True)
    await store.put(tenant(3))
    await store.close()

    store = await open_store(path)
    assert await names(store) == ["n3"]
    await store.close()
    found = read_changes(beside(path, ".changes"))
    assert found is not None
    assert [change.number for change in found.changes] == [4, 5], "no number is used twice"


async def test_without_journal_and_mark_nothing_can_be_told(path: Path) -> None:
    store = await open_store(path)
    await store.put(tenant(1))
    await store.close()
    for suffix in (".changes", ".mark"):
        beside(path, suffix).unlink()

    with pytest.raises(StoreIncomplete, match="cannot be told"):
        await open_store(path)


async def test_another_databases_journal_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for place in (path, tmp_path / "other" / path.name):
        await (await open_store(place)).close()
    beside(path, ".changes").write_bytes((tmp_path / "other" / "trustgate.duckdb.changes").read_bytes())

    with pytest.raises(StoreDamaged, match="belongs to another database"):
        await open_store(path)


async def test_a_journal_that_has_grown_is_begun_anew_with_all_there_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(path)
    for number in range(20):
        await store.put(tenant(1, created_us=number))
    await store.close()
    monkeypatch.setattr("trustgate.store.completeness.MOST_BYTES", 1_000)

    await (await open_store(path)).close()

    found = read_changes(beside(path, ".changes"))
    assert found is not None
    assert (found.after, len(found.changes)) == (21, 1)
    assert [record.created_us for record in found.changes[0].put if isinstance(record, Tenant)] == [19]
    store = await open_store(path)
    assert store.info.notes == ()
    await store.close()


def test_a_torn_line_is_cut_off(path: Path) -> None:
    journal = ChangeJournal.begin(path, "store_1", 7)
    journal.append([tenant(1)])
    journal.close()
    whole = path.read_bytes()
    for cut in (1, 30, 100):
        path.write_bytes(whole + whole.splitlines()[1][:cut])
        found = read_changes(path)
        assert found is not None
        assert (found.last, found.damage) == (8, "")
        again = ChangeJournal.go_on(path, found)
        assert again.append([tenant(2)]).number == 9
        again.close()
        last = path.read_bytes().splitlines()[-1]
        assert json.loads(last.partition(b" ")[2])["number"] == 9
