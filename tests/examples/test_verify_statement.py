"""Statements in the page and in Node: the verdicts of ``trustgate statement verify``, and its sums and prices."""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.environments import ROOT
from tests.examples.test_verify_node import node
from tests.support.checker import shown
from tests.support.chromium import Browser
from tests.support.entries import make_receipt
from tests.support.month import MONTHS, TENANTS, rows
from tests.support.statement_files import Made, forged, forged_table, make, resealed, tampered
from trustgate.models.prices import RATES
from trustgate.models.pricing import PriceTable
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.receipt import canonical
from trustgate.statements.document import DATA_START, read_document
from trustgate.statements.opening import Opening
from trustgate.statements.page import statement_page
from trustgate.statements.summed import step_fault
from trustgate.statements.verify import verify_statement
from trustgate.types import (
    RECEIPT_END_USER_MEMBERS,
    RECEIPT_PAYMENT_MEMBERS,
    RECEIPT_PRICE_MEMBERS,
    ConditionalRates,
    Prices,
    Usage,
)

FOLDER = ROOT / "examples" / "verify"
SCRIPT = FOLDER / "verify.mjs"
SEPTEMBER = str(MONTHS[1])
NOT_COMPARED = ["page", "not checked"]

#: Verdicts on statements: [{data, key, feePayer, earlier}] from stdin, bytes base64.
_HARNESS = """
import { verifyStatement } from %s;
let text = "";
for await (const chunk of process.stdin) text += chunk;
const bytes = (encoded) => new Uint8Array(Buffer.from(encoded, "base64"));
const verdicts = [];
for (const { data, key, feePayer, earlier } of JSON.parse(text)) {
  const openings = [];
  for (const before of earlier) openings.push((await verifyStatement(bytes(before))).opening);
  const { checks } = await verifyStatement(bytes(data), { key, feePayer, earlier: openings });
  verdicts.push(checks.map(({ name, state }) => [name, state]));
}
process.stdout.write(JSON.stringify(verdicts));
"""
#: Costs: [[table, receipt]] from stdin.
_COSTS = """
import { costOf, stepFault } from %s;
let text = "";
for await (const chunk of process.stdin) text += chunk;
const said = ([table, receipt]) => (receipt.v > 6 && stepFault(table, receipt)) || String(costOf(table, receipt));
process.stdout.write(JSON.stringify(JSON.parse(text).map(said)));
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return asyncio.run(make(tmp_path_factory.mktemp("statements") / "home", rows(240), anchored=140))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return asyncio.run(make(tmp_path_factory.mktemp("statements") / "home", rows(240, seed=2), anchored=0))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def by_node(statements: Iterable[bytes], **given: Any) -> list[list[list[str]]]:
    """Names and states of the checks that Node makes of each."""
    earlier = [base64.b64encode(data).decode() for data in given.get("earlier", ())]
    texts = {"key": given.get("key"), "feePayer": given.get("fee_payer"), "earlier": earlier}
    cases = [{"data": base64.b64encode(data).decode(), **texts} for data in statements]
    ran = node("--input-type=module", "--eval", _HARNESS % json.dumps(SCRIPT.as_uri()), stdin=json.dumps(cases))
    assert ran.returncode == 0, ran.stderr
    verdicts: list[list[list[str]]] = json.loads(ran.stdout)
    return verdicts


def by_python(data: bytes, **given: Any) -> list[list[str]]:
    return [[check.name, check.state] for check in verify_statement(data, **given).checks]


def openings(made: Made, *months: str) -> list[Opening]:
    found = [verify_statement(made.statements[0, month]).opening for month in months]
    return [opening for opening in found if opening is not None]


def test_node_comes_to_the_same_verdicts(made: Made, other: Made) -> None:
    whole = [*made.statements.values(), *other.statements.values()]
    own, month = made.statements[0, SEPTEMBER], made.statements[0, str(MONTHS[2])]
    cases = list(tampered(own, made.statements[2, SEPTEMBER], month, other.statements[0, SEPTEMBER]))
    assert len(cases) > 150
    verdicts = by_node([*whole, *(case.data for case in cases)])
    for data, verdict in zip(whole, verdicts, strict=False):
        assert verdict == by_python(data)
    for case, verdict in zip(cases, verdicts[len(whole) :], strict=True):
        assert verdict[-1] == [case.check, "failed"], case.name
        assert verdict == by_python(case.data), case.name


def odd_files(statement: bytes) -> Iterator[tuple[str, bytes]]:
    """Files that one reader might take for a statement and another not."""
    page = statement_page(read_document(statement), statement)
    end = page.index(b"</script>", page.index(DATA_START))
    yield "a page that breaks off after its data", page[:end] + b"\n"
    yield "a blank that is none in ASCII", page[:end] + "\u00a0".encode() + page[end:]
    yield "a control character after the data", page[:end] + b"\x1f" + page[end:]
    packed, half = gzip.compress(statement), len(statement) // 2
    yield "zeros after gzip's end", packed + bytes(2)
    yield "two members of gzip", gzip.compress(statement[:half]) + gzip.compress(statement[half:])
    for name in ("a-b", "\u00e9", "-", "0" * 64):
        names = json.loads(statement)
        names["names"]["keys"][name] = "x"
        yield f"a key named {name}", resealed(names)
    for text in ("0070-01", "1969-12", "9999-12"):
        month = json.loads(statement)
        month["account"]["month"] = text
        yield f"the month {text}", resealed(month)


def odd_tables() -> Iterator[tuple[str, dict[str, Any]]]:
    """What a price table is not, though a script would get a price out of it."""
    rates: list[Any] = ["1", True, [1]]
    rows: list[Any] = [1, {"x": 1}, {"service_tier": 1}, {"above_prompt_tokens": "9"}, {"conditional": []}]
    tables: list[dict[str, Any]] = [
        *({"search_nano_usd": rate} for rate in rates),
        *({"conditional": [row]} for row in rows),
        *({"free": "x"}, {"free": 0}, {"discount": 1}),
    ]
    yield from ((f"the table with {table}", table) for table in tables)


def test_what_is_odd_and_signed_is_refused_by_both(made: Made) -> None:
    own = made.statements[0, SEPTEMBER]
    cases = [*odd_files(own), *((name, forged_table(own, members)) for name, members in odd_tables())]
    for (name, data), verdict in zip(cases, by_node(data for _, data in cases), strict=True):
        found = by_python(data)
        assert found[-1][1] == "failed" == verdict[-1][1], (name, found[-1], verdict[-1])


def test_a_table_with_null_for_a_rate_is_the_same_to_both(made: Made) -> None:
    row = {"above_prompt_tokens": 0, "service_tier": None, "search_nano_usd": 7, "call_nano_usd": None}
    data = forged_table(made.statements[0, SEPTEMBER], {"search_nano_usd": None, "conditional": [row]})
    assert by_node([data]) == [by_python(data)]
    assert "failed" not in {state for _, state in by_python(data)}


def test_sums_are_exact_however_large_their_parts(made: Made) -> None:
    most = 2**53 - 1

    def change(receipts: list[dict[str, Any]]) -> None:
        # The balance begins and grows by nearly all that a statement can hold, and nearly all is charged again.
        del receipts[2:]
        for each, at_us in zip(receipts, (MONTHS[1].from_us - 1, MONTHS[1].from_us), strict=True):
            each.update(v=2, created_us=at_us, finish="credited", endpoint="credits")
            each.update(dict.fromkeys(RECEIPT_PAYMENT_MEMBERS, ""), charged_nano_usd=0, credited_nano_usd=most - 1)
            for name in (*RECEIPT_PRICE_MEMBERS, *RECEIPT_END_USER_MEMBERS):
                each.pop(name, None)
        receipts[0] |= {"tseq": 1, "tprev": "0" * 64, "credited_nano_usd": most}
        receipts[1] |= {"tseq": 2, "charged_nano_usd": most - 1}

    data = forged(made.statements[0, SEPTEMBER], change, opening_nano_usd=most)
    assert by_node([data]) == [by_python(data)]
    assert "failed" not in {state for _, state in by_python(data)}


def test_the_script_prints_no_control_codes(made: Made, tmp_path: Path) -> None:
    """A file that is checked must not write the verdict."""
    code = "\x1b[2J\x9b1m\u202e\u2028\n"

    def change(receipts: list[dict[str, Any]], billed_more: int = 0) -> None:
        for each in receipts:
            each["model"] = f"{code}The statement holds."
            each["id"] += code
            if each["finish"] == "complete" and each["v"] > 2:
                each["billed_nano_usd"] += billed_more

    file = tmp_path / "statement.json"
    for billed_more, last in ((0, "The statement holds."), (1, "REFUSED: prices")):
        spoil = functools.partial(change, billed_more=billed_more)
        file.write_bytes(forged(made.statements[0, SEPTEMBER], spoil))
        said = node(SCRIPT, file).stdout
        assert not set(code) - {"\n", "[", "2", "J", "1", "m"} & set(said)
        assert "\ufffd[2J" in said and said.splitlines()[-1] == last
        assert "\nThe statement holds." not in said.removesuffix(f"\n{last}\n")


def test_node_with_all_that_can_be_given(made: Made, other: Made) -> None:
    months = [str(month) for month in MONTHS]
    earlier = [made.statements[0, month] for month in months[:2]]
    last = made.statements[0, months[2]]
    key = VerifierKey.parse(made.key)
    (verdict,) = by_node([last], key=made.key, fee_payer=made.fee_payer, earlier=earlier)
    assert {state for _, state in verdict} == {"passed"}
    assert verdict == by_python(last, key=key, fee_payer=made.fee_payer, earlier=openings(made, *months[:2]))
    (gap,) = by_node([last], earlier=earlier[:1])
    assert gap[-1] == ["opening balance", "failed"] == by_python(last, earlier=openings(made, months[0]))[-1]
    (wrong_key,) = by_node([last], key=other.key)
    assert wrong_key[-1] == ["checkpoint", "failed"]
    page = statement_page(read_document(last), last)
    packed, html = by_node([gzip.compress(last), page])
    assert packed == by_python(last) and html == [*packed, NOT_COMPARED]


def test_the_script_prints_what_the_statement_says(made: Made, tmp_path: Path) -> None:
    for month in MONTHS[:2]:
        (tmp_path / f"{month}.json").write_bytes(made.statements[0, str(month)])
    ran = node(SCRIPT, tmp_path / f"{MONTHS[1]}.json", "--previous", tmp_path / f"{MONTHS[0]}.json")
    assert ran.returncode == 0, ran.stderr
    total = json.loads(made.statements[0, SEPTEMBER])["account"]["total"]
    assert "The statement holds." in ran.stdout
    assert re.search(rf"^Requests +{total['requests']}$", ran.stdout, re.MULTILINE)
    assert "not checked" not in ran.stdout.replace("not checked  chain", "")


def test_the_page_checks_statements(browser: Browser, made: Made) -> None:
    browser.open(FOLDER / "index.html")
    statement = made.statements[0, str(MONTHS[0])]
    found = shown(browser, statement, texts={"key": made.key})
    assert found["checks"] == [*by_python(statement, key=VerifierKey.parse(made.key)), ["chain", "not checked"]]
    assert found["mood"] == "good" and "The statement holds" in found["verdict"]
    assert TENANTS[0] in found["receipt"] and "Closing balance" in found["receipt"]
    html = statement_page(read_document(statement), statement)
    assert shown(browser, html, texts={"key": made.key})["checks"][-2] == NOT_COMPARED
    forged = shown(browser, statement.replace(b'"failed":', b'"failed":1', 1))
    assert forged["mood"] == "bad" and "hash" in forged["verdict"]
    assert browser.complaints == [] and browser.requests == [(FOLDER / "index.html").as_uri()]


def random_rates(chance: random.Random) -> dict[str, Any]:
    return {name: chance.randrange(10**7) for name in RATES if chance.random() < 0.5}


def random_table(chance: random.Random) -> Prices:
    conditions: dict[str, Callable[[], Any]] = {
        "above_prompt_tokens": lambda: chance.randrange(2_000),
        "service_tier": lambda: chance.choice(["flex", "batch"]),
        "image_quality": lambda: chance.choice(["low", "high"]),
        "from_us": lambda: chance.randrange(2 * 10**15),
        "until_us": lambda: chance.randrange(2 * 10**15),
    }
    conditional = [
        ConditionalRates(
            **random_rates(chance), **{name: make() for name, make in conditions.items() if chance.random() < 0.4}
        )
        for _ in range(chance.randrange(5))
    ]
    return Prices(**random_rates(chance), conditional=tuple(conditional))


def test_node_prices_as_the_gateway_does() -> None:
    chance = random.Random(7)
    counters = [name for name in Usage.__struct_fields__ if name.endswith("_tokens")]
    made, right = [], []
    for _ in range(3_000):
        table, at_us = random_table(chance), chance.randrange(2 * 10**15)
        counts: dict[str, Any] = {
            name: chance.randrange(5_000) if chance.random() < 0.7 else 0
            for name in (*counters, "images", "audio_ms", "characters", "searches")
        }
        counts |= {
            "service_tier": chance.choice(["", "flex", "batch"]),
            "image_size": "",
            "image_quality": chance.choice(["", "low", "high"]),
        }
        price, usage = PriceTable(table), Usage(**counts)
        if chance.random() < 0.7:
            receipt = make_receipt(1, v=3, created_us=at_us, **counts)
            right.append(str(price.cost_nano_usd(usage, at_us)))
        else:
            calls, step = chance.randrange(5), chance.choice([0, *price.steps(usage, at_us), chance.randrange(2_000)])
            receipt = make_receipt(1, v=7, created_us=at_us, calls=calls, price_above_prompt_tokens=step, **counts)
            right.append(step_fault(price, receipt, usage) or str(price.summed_nano_usd(usage, at_us, calls, step)))
        made.append([json.loads(msgspec.json.encode(table)), json.loads(canonical(receipt))])
    ran = node("--input-type=module", "--eval", _COSTS % json.dumps(SCRIPT.as_uri()), stdin=json.dumps(made))
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == right
    assert len(set(right)) > 2_000
    assert sum("calls" in each for each in right) > 50 and sum("no step" in each for each in right) > 50
