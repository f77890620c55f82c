"""Statements in the page and in Node: the verdicts of ``trustgate statement verify``, and its sums and prices."""

from __future__ import annotations

import asyncio
import base64
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
from tests.support.statement_files import Made, make, tampered
from trustgate.models.pricing import RATES, PriceTable
from trustgate.receipts.note import VerifierKey
from trustgate.receipts.receipt import canonical
from trustgate.statements.document import read_document
from trustgate.statements.page import statement_page
from trustgate.statements.verify import Opening, verify_statement
from trustgate.types import ConditionalRates, Prices, Usage

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
import { costOf } from %s;
let text = "";
for await (const chunk of process.stdin) text += chunk;
process.stdout.write(JSON.stringify(JSON.parse(text).map(([table, receipt]) => String(costOf(table, receipt)))));
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
        receipt = make_receipt(1, v=3, created_us=at_us, **counts)
        made.append([json.loads(msgspec.json.encode(table)), json.loads(canonical(receipt))])
        right.append(str(PriceTable(table).cost_nano_usd(Usage(**counts), at_us)))
    ran = node("--input-type=module", "--eval", _COSTS % json.dumps(SCRIPT.as_uri()), stdin=json.dumps(made))
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == right
    assert len(set(right)) > 2_000
