"""Statements by the owner of the log's key: the log has every receipt, each is signed, every sum is right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.examples.test_verify_statement import by_node, by_python
from tests.support.month import MONTHS, rows
from tests.support.statement_files import Made, forged, make, resealed, written
from trustgate.statements.document import table_hash
from trustgate.statements.opening import Opening
from trustgate.statements.verify import StatementVerdict, verify_statement

AUGUST, SEPTEMBER, OCTOBER = map(str, MONTHS)
Members = dict[str, Any]
_COSTS = ("cost_nano_usd", "billed_nano_usd", "charged_nano_usd")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return asyncio.run(make(tmp_path_factory.mktemp("statements") / "home", rows(240), anchored=0))


def opening(statement: bytes) -> Opening:
    verdict = verify_statement(statement)
    assert verdict.ok and verdict.opening is not None, verdict.failed
    return verdict.opening


def verdict_on(statement: bytes, *earlier: bytes) -> StatementVerdict:
    """The verdict, which is Node's as well."""
    before = [opening(each) for each in earlier]
    assert by_node([statement], earlier=earlier) == [by_python(statement, earlier=before)]
    return verify_statement(statement, earlier=before)


def detail(verdict: StatementVerdict, name: str) -> str:
    return next(check.detail for check in verdict.checks if check.name == name)


def inside(receipts: list[Members], month: str, **members: Any) -> Members:
    """The third receipt of the month, of those with these members."""
    at = next(month_ for month_ in MONTHS if str(month_) == month)
    found = [
        each
        for each in receipts
        if at.from_us <= each["created_us"] < at.until_us and members.items() <= each.items() and each["model"]
    ]
    return found[2]


def test_other_receipts_with_right_sums_hold(made: Made) -> None:
    """What the tests below stand on: a forger makes no mistake besides the one that is looked for."""
    statement = forged(made.statements[0, SEPTEMBER], lambda receipts: None)
    verdict = verdict_on(statement)
    assert verdict.ok, verdict.failed
    requests = json.loads(statement)["account"]["total"]["requests"]
    assert f"The cost of {requests} requests follows" in detail(verdict, "prices")


def test_a_request_that_was_not_answered_is_not_charged(made: Made) -> None:
    def charge(receipts: list[Members]) -> None:
        next(each for each in receipts[2:-2] if each["finish"] == "upstream_error").update(charged_nano_usd=5)

    failed = verdict_on(forged(made.statements[0, SEPTEMBER], charge)).failed

    assert failed is not None and failed.name == "prices" and "was not answered" in failed.detail


def test_a_cost_that_names_no_passport_follows_from_its_prices_too(made: Made) -> None:
    def cost(receipts: list[Members]) -> None:
        each = inside(receipts, SEPTEMBER, finish="complete")
        each.update(passport="", cost_nano_usd=10**9, billed_nano_usd=10**9, charged_nano_usd=10**9)

    failed = verdict_on(forged(made.statements[0, SEPTEMBER], cost)).failed

    assert failed is not None and failed.name == "prices" and "price table" in failed.detail


def test_more_charged_than_billed_is_told(made: Made) -> None:
    def charge(receipts: list[Members]) -> None:
        inside(receipts, SEPTEMBER, finish="complete")["charged_nano_usd"] += 1

    def told(change: Callable[[list[Members]], None]) -> str:
        return detail(verdict_on(forged(made.statements[0, SEPTEMBER], change)), "prices")

    assert " 1 were charged more than they are billed at" in told(charge)
    assert "charged more" not in told(lambda receipts: None)


def test_a_history_from_the_first_receipt_on_is_held_against_earlier_statements(made: Made) -> None:
    """The owner begins the tenant's receipts anew: in October number 1 is another one than in August."""
    august = forged(made.statements[0, AUGUST], lambda receipts: None)

    def anew(receipts: list[Members]) -> None:
        for number, each in enumerate(receipts, start=1):
            each["tseq"] = number
        receipts[0]["tprev"] = "0" * 64

    october = json.loads(forged(made.statements[0, OCTOBER], anew))
    before = october["receipts"][0]
    change = before["credited_nano_usd"] - before["charged_nano_usd"]
    account = october["account"]
    account["closing_nano_usd"] += change - account["opening_nano_usd"]
    account["opening_nano_usd"] = change
    statement = resealed(october)
    assert verdict_on(statement).ok

    failed = verdict_on(statement, august).failed

    assert failed is not None and failed.name == "opening balance" and "two histories" in failed.detail


def test_a_receipt_of_the_month_that_only_the_statement_before_has_is_missed(made: Made) -> None:
    """The log's order is not quite that of times: an October receipt among September's is left out of October's."""
    september, october = made.statements[0, SEPTEMBER], made.statements[0, OCTOBER]

    def misplaced(receipts: list[Members]) -> None:
        receipts[-3]["created_us"] = MONTHS[2].from_us
        receipts[-3]["charged_nano_usd"] = receipts[-3]["credited_nano_usd"] = 0

    earlier = json.loads(forged(september, misplaced))
    whole = json.loads(forged(october, lambda receipts: None))
    shared = {each["tseq"]: each for each in earlier["receipts"]}

    def joined(receipts: list[Members]) -> None:
        for at, each in enumerate(receipts):
            receipts[at] = shared.get(each["tseq"], each)

    account = whole["account"]
    opened = earlier["account"]["closing_nano_usd"]
    account["closing_nano_usd"] += opened - account["opening_nano_usd"]
    account["opening_nano_usd"] = opened
    later = forged(resealed(whole), joined)

    failed = verdict_on(later, resealed(earlier)).failed

    assert failed is not None and failed.name == "opening balance"
    assert str(earlier["receipts"][-3]["tseq"]) in failed.detail and "this one does not" in failed.detail


def test_an_earlier_statement_that_lacks_late_receipts_is_told(made: Made) -> None:
    """A receipt of September that came after its statement was made counts into October's opening balance."""
    september = json.loads(made.statements[0, SEPTEMBER])
    october = made.statements[0, OCTOBER]

    def late(receipts: list[Members]) -> None:
        receipts[5]["created_us"] = MONTHS[1].until_us - 1

    changed = json.loads(forged(october, late))
    each = changed["receipts"][5]
    account = changed["account"]
    account["opening_nano_usd"] += each["credited_nano_usd"] - each["charged_nano_usd"]
    account["closing_nano_usd"] += each["credited_nano_usd"] - each["charged_nano_usd"]
    first = forged(resealed(september), lambda receipts: None)
    shared = {each["tseq"]: each for each in json.loads(first)["receipts"]}

    def joined(receipts: list[Members]) -> None:
        for at, each in enumerate(receipts):
            receipts[at] = shared.get(each["tseq"], each)

    verdict = verdict_on(forged(resealed(changed), joined), first)

    assert verdict.ok, verdict.failed
    assert f"The statement of {SEPTEMBER} lacks" in detail(verdict, "opening balance")


def test_names_cannot_lack_a_member(made: Made) -> None:
    document = json.loads(made.statements[0, SEPTEMBER])
    del document["names"]["issuer"]
    failed = verdict_on(resealed(document)).failed
    assert failed is not None and failed.name == "form" and "names is missing" in failed.detail


def test_sums_of_nothing_cannot_be_left_out(made: Made) -> None:
    document = json.loads(made.statements[0, SEPTEMBER])
    del document["account"]["by_model"][0]["images"]
    statement = resealed(document)
    failed = verify_statement(statement).failed
    assert failed is not None and failed.name == "form" and "account is missing" in failed.detail
    ((*_, last),) = by_node([statement])
    assert last == ["sums", "failed"]


def test_the_first_receipt_of_the_month_may_be_left_out_no_more_than_another(made: Made) -> None:
    """The second of the tenant's receipts is one of the month as the first is."""
    failed = verdict_on(forged(made.statements[0, AUGUST], lambda receipts: receipts.pop(0))).failed
    assert failed is not None and failed.name == "period" and "left out" in failed.detail


_BEFORE, _AFTER = MONTHS[1].from_us - 1, MONTHS[1].until_us


@pytest.mark.parametrize(
    ("times", "first", "holds"),
    [
        ((_BEFORE,), 7, True),  # none was written after it
        ((_AFTER,), 1, True),  # there was none before it
        ((_BEFORE, _AFTER), 7, True),
        ((_AFTER,), 7, False),
        ((_BEFORE, _BEFORE), 7, False),
        ((_AFTER, _AFTER), 1, False),
        ((_BEFORE, _BEFORE, _AFTER), 7, False),
        ((_BEFORE, _AFTER, _AFTER), 7, False),
    ],
)
def test_a_month_without_receipts_is_shown_by_those_around_it(
    made: Made, times: tuple[int, ...], first: int, holds: bool
) -> None:
    def leave(receipts: list[Members]) -> None:
        del receipts[len(times) :]
        for number, (each, at_us) in enumerate(zip(receipts, times, strict=True), start=first):
            each.update(tseq=number, created_us=at_us)
        if first == 1:
            receipts[0]["tprev"] = "0" * 64

    verdict = verdict_on(forged(made.statements[0, SEPTEMBER], leave, opening_nano_usd=0 if first == 1 else None))

    assert verdict.ok is holds, verdict.failed
    assert holds or "no receipt of the month" in detail(verdict, "period")
    assert not holds or ("a later month follows" in detail(verdict, "period")) is (times[-1] == _AFTER)


@pytest.mark.parametrize(
    ("cost", "told"), [(10, ""), (30, " 1 batches are priced as 3 calls in all"), (15, "by its price table")]
)
def test_a_batch_of_a_time_before_its_calls_were_counted_costs_some_number_of_them(
    made: Made, cost: int, told: str
) -> None:
    table = {"call_nano_usd": 10}  # a request by itself
    document = json.loads(made.statements[0, SEPTEMBER])
    document["prices"][table_hash(table)] = table

    def batch(receipts: list[Members]) -> None:
        inside(receipts, SEPTEMBER, finish="complete").update(
            endpoint="batches", price_hash=table_hash(table), **dict.fromkeys(_COSTS, cost)
        )

    verdict = verdict_on(forged(written(document), batch))

    assert verdict.ok is (cost != 15), verdict.failed
    assert told in detail(verdict, "prices")
    assert cost == 30 or "batches are priced" not in detail(verdict, "prices")
