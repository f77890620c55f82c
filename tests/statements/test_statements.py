"""Statements: their sums against an independent calculation, and what every change to one does to its checks."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import io
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.environments import ROOT
from tests.support.chromium import find_chromium
from tests.support.gateway import Gateway
from tests.support.month import KEYS, MONTHS, TENANTS, Row, rows
from tests.support.statement_files import Made, make, resealed, tampered, written
from trustgate.errors import InvalidRequest
from trustgate.receipts.merkle import InvalidProof, root_of
from trustgate.receipts.note import VerifierKey
from trustgate.statements.batch import batch_root, uncovered
from trustgate.statements.document import read_document
from trustgate.statements.months import Month, month_of, parse_month
from trustgate.statements.opening import Opening
from trustgate.statements.page import statement_page
from trustgate.statements.pdf import statement_pdf
from trustgate.statements.prices import fits_statements
from trustgate.statements.sheet import statement_csv
from trustgate.statements.verify import verify_statement
from trustgate.types import ConditionalRates, Prices

ROWS = rows(360)
SEPTEMBER = str(MONTHS[1])
CHECKS = (
    *("form", "hash", "receipts", "chain", "period", "checkpoint", "inclusion", "prices", "sums", "opening balance"),
    *("anchor consistency", "anchor transaction", "anchor signature", "anchor memo", "anchor fee payer"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Statements whose log is anchored in the middle of the second month."""
    return asyncio.run(make(tmp_path_factory.mktemp("statements") / "home", ROWS, anchored=200))


@pytest.fixture(scope="module")
def unanchored(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Other traffic, in another log."""
    return asyncio.run(make(tmp_path_factory.mktemp("statements") / "home", rows(360, seed=2), anchored=0))


def expected(every: list[Row], tenant: int, month: Month) -> dict[str, Any]:
    """The account's sums by plain arithmetic over the rows."""
    own = [row for row in every if row.tenant == tenant]
    inside = [row for row in own if month.from_us <= row.at_us < month.until_us]
    opening = sum(row.credited - row.charged for row in own if row.at_us < month.from_us)
    credited, charged = sum(row.credited for row in inside), sum(row.charged for row in inside)

    def usage(of: list[Row]) -> dict[str, int]:
        used = [row for row in of if row.counts]
        return {
            "requests": len(used),
            "refused": sum(row.finish == "refused" for row in of),
            "failed": sum(row.finish == "upstream_error" for row in of),
            "prompt_tokens": sum(row.prompt for row in used),
            "cached_tokens": sum(row.cached for row in used),
            "completion_tokens": sum(row.completion for row in used),
            "cost_nano_usd": sum(row.cost for row in used),
            "billed_nano_usd": sum(row.billed for row in used),
            "charged_nano_usd": sum(row.charged for row in of),
        }

    requests = [row for row in inside if row.finish != "credited"]
    return {
        "receipts": len(inside),
        "opening_nano_usd": opening,
        "credited_nano_usd": credited,
        "charged_nano_usd": charged,
        "closing_nano_usd": opening + credited - charged,
        "total": usage(requests),
        "by_model": {
            name: usage([row for row in requests if row.model == name]) for name in {r.model for r in requests}
        },
        "by_key": {name: usage([row for row in requests if row.key == name]) for name in {r.key for r in requests}},
        "money": Counter((row.at_us, row.credited, row.charged) for row in inside if row.finish == "credited"),
    }


def said(account: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The account in the form of ``expected``."""

    def usage(totals: dict[str, Any]) -> dict[str, int]:
        return {name: totals[name] for name in like["total"]}

    return {
        **{name: account[name] for name in like if name.endswith("_usd") or name == "receipts"},
        "total": usage(account["total"]),
        "by_model": {group["name"]: usage(group) for group in account["by_model"]},
        "by_key": {group["name"]: usage(group) for group in account["by_key"]},
        "money": Counter(
            (line["at_us"], line["credited_nano_usd"], line["charged_nano_usd"]) for line in account["money"]
        ),
    }


@pytest.mark.parametrize("tenant", range(3))
def test_every_sum_is_that_of_an_independent_calculation(made: Made, tenant: int) -> None:
    for month in MONTHS:
        account = json.loads(made.statements[tenant, str(month)])["account"]
        right = expected(ROWS, tenant, month)
        assert said(account, right) == right
        assert right["total"]["requests"] > 20 and bool(right["money"]) == (tenant != 1)


def test_a_price_change_within_the_month_is_two_lines(made: Made) -> None:
    document = json.loads(made.statements[1, SEPTEMBER])
    lines = [line for line in document["account"]["by_price"] if line["model"] == "openai/gpt-4o"]

    assert [document["prices"][line["price_hash"]]["input_pico_usd"] for line in lines] == [2_500_000, 2_000_001]
    assert lines[0]["last_us"] < lines[1]["first_us"]
    assert {line["price_factor_ppm"] for line in lines} == {1_200_000}


@pytest.mark.parametrize("tenant", range(3))
def test_statements_hold_and_each_continues_the_one_before(made: Made, tenant: int) -> None:
    key = VerifierKey.parse(made.key)
    earlier: list[Opening] = []
    for month in MONTHS:
        verdict = verify_statement(
            made.statements[tenant, str(month)], key=key, fee_payer=made.fee_payer, earlier=earlier
        )
        assert verdict.ok, verdict.failed
        assert [(check.name, check.state) for check in verdict.checks] == [(name, "passed") for name in CHECKS]
        assert verdict.opening is not None
        earlier.append(verdict.opening)
    counted = [
        receipt["id"]
        for month in MONTHS
        for receipt in json.loads(made.statements[tenant, str(month)])["receipts"]
        if month.from_us <= receipt["created_us"] < month.until_us
    ]
    assert len(counted) == len(set(counted)) == sum(row.tenant == tenant for row in ROWS)


def test_without_the_months_before_the_opening_balance_is_left_open(made: Made) -> None:
    states = {check.name: check.state for check in verify_statement(made.statements[0, SEPTEMBER]).checks}
    assert states.pop("opening balance") == "not checked"
    assert set(states.values()) == {"passed"}


def test_a_month_left_out_between_two_statements_is_noticed(made: Made) -> None:
    first, _, third = (made.statements[0, str(month)] for month in MONTHS)
    opening = verify_statement(first).opening
    assert opening is not None

    failed = verify_statement(third, earlier=[opening]).failed

    assert failed is not None and failed.name == "opening balance" and "in none of the statements" in failed.detail


def test_an_opening_balance_that_the_months_before_do_not_come_to_is_noticed(made: Made) -> None:
    first, second = (made.statements[0, str(month)] for month in MONTHS[:2])
    document = json.loads(second)
    for name in ("opening_nano_usd", "closing_nano_usd"):
        document["account"][name] += 1
    opening = verify_statement(first).opening
    assert opening is not None

    failed = verify_statement(resealed(document), earlier=[opening]).failed

    assert failed is not None and failed.name == "opening balance" and "account.opening_nano_usd" in failed.detail


def test_whatever_is_changed_fails_with_the_place_named(made: Made, unanchored: Made) -> None:
    own, other_month = (made.statements[0, str(month)] for month in MONTHS[1:])
    assert verify_statement(own).ok
    cases = 0
    for case in tampered(own, made.statements[2, SEPTEMBER], other_month, unanchored.statements[0, SEPTEMBER]):
        failed = verify_statement(case.data).failed
        assert failed is not None, case.name
        assert failed.name == case.check, f"{case.name}: {failed}"
        assert case.place in failed.detail, f"{case.name}: {failed.detail}"
        cases += 1
    assert cases > 150


def test_another_key_or_fee_payer_than_the_published_one_is_refused(made: Made, unanchored: Made) -> None:
    statement = made.statements[0, SEPTEMBER]
    failed = verify_statement(statement, key=VerifierKey.parse(unanchored.key)).failed
    assert failed is not None and failed.name == "checkpoint"
    failed = verify_statement(statement, fee_payer="1" * 32).failed
    assert failed is not None and failed.name == "anchor fee payer"
    failed = verify_statement(unanchored.statements[0, SEPTEMBER], fee_payer=made.fee_payer).failed
    assert failed is not None and failed.name == "anchor consistency"


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"nothing", b"\xff", b"<html></html>", b"\x1f\x8b\x08", b"[" * 100_000, b'{"format":1e999}'],
)
def test_what_is_no_statement_is_refused(data: bytes) -> None:
    failed = verify_statement(data).failed
    assert failed is not None and failed.name == "form"


def test_a_document_has_one_reading(made: Made) -> None:
    statement = made.statements[1, SEPTEMBER]
    document = json.loads(statement)
    assert verify_statement(written(dict(reversed(document.items())))).ok  # another order, other blanks
    assert verify_statement(gzip.compress(statement)).ok
    for data in (
        statement.replace(b'"leaves":', b'"leaves":[],"leaves":', 1),
        statement.replace(b'"issuer":"Our', b'"issuer":"\\u004fur', 1),
        statement.replace(b'"refused":', b'"refused":-0,"x":', 1),
        written({**document, "more": 1}),
        written({name: document[name] for name in document if name != "anchor"}),
        gzip.compress(statement)[:-1],
        gzip.compress(statement) + b"x",
    ):
        failed = verify_statement(data).failed
        assert failed is not None and failed.name == "form", data[:80]


def test_the_page_shows_what_its_data_says(made: Made) -> None:
    statement = made.statements[2, SEPTEMBER]
    page = statement_page(read_document(statement), statement)
    text = page.decode()
    assert verify_statement(page).checks[-1].name == "page" and verify_statement(page).ok
    total = json.loads(statement)["account"]["total"]
    assert f">{total['requests']:,}<" in text
    assert "=Carol &lt;Studio&gt;" in text and "<Studio>" not in text
    assert "http://" not in text and "https://" not in text and "<script>" not in text

    for old, new in ((f">{total['requests']:,}<", ">9<"), ("Our gateway", "A gateway"), ("</body>", "<p>Pay</body>")):
        failed = verify_statement(text.replace(old, new, 1).encode()).failed
        assert failed is not None and failed.name == "page"


def test_a_spreadsheet_gets_exact_decimals_and_runs_nothing(made: Made) -> None:
    document = read_document(made.statements[2, SEPTEMBER])
    lines = list(csv.DictReader(io.StringIO(statement_csv(document).decode(), newline="")))
    total = next(line for line in lines if line["line"] == "total")
    assert total["tenant_name"] == "'=Carol <Studio>"
    assert round(float(total["billed_usd"]) * 1e9) == document.account.total.billed_nano_usd
    models = [line for line in lines if line["line"] == "model"]
    assert sum(int(line["prompt_tokens"]) for line in models) == int(total["prompt_tokens"])
    assert lines[-1]["line"] == "closing balance"
    for name, cell in (("＝1", "'＝1"), ('a;=1;b;"+1', "a;'=1;b;\"'+1"), ("a=b;c", "a=b;c")):
        named = replace(document, names=replace(document.names, tenant=name))
        first = next(csv.DictReader(io.StringIO(statement_csv(named).decode(), newline="")))
        assert first["tenant_name"] == cell


def test_a_pdf_is_printed_by_the_browser(made: Made) -> None:
    find_chromium()
    pdf = statement_pdf(statement_page(read_document(made.statements[0, SEPTEMBER]), None))
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")


def test_a_table_with_a_number_that_not_every_reader_keeps_is_left_out() -> None:
    late = ConditionalRates(input_pico_usd=1, until_us=2**53)
    assert fits_statements(Prices(input_pico_usd=2, conditional=(replace(late, until_us=2**53 - 1),)))
    assert not fits_statements(Prices(input_pico_usd=2, conditional=(late,)))


# the proof of many leaves


@given(st.integers(1, 200), st.data())
def test_a_proof_of_many_leaves_leads_to_the_root_and_to_no_other(size: int, data: st.DataObject) -> None:
    leaves = [hashlib.sha256(b"%d" % number).digest() for number in range(size)]
    indices = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
    proof = [root_of(leaves[start:end]) for start, end in uncovered(indices, size)]
    chosen = [leaves[index] for index in indices]

    assert batch_root(indices, chosen, size, proof) == root_of(leaves)

    wrong = data.draw(st.integers(0, len(indices) - 1))
    chosen[wrong] = bytes(32)
    assert batch_root(indices, chosen, size, proof) != root_of(leaves)
    if proof:
        with pytest.raises(InvalidProof):
            batch_root(indices, chosen, size, proof[:-1])
    with pytest.raises(InvalidProof):
        batch_root(indices, chosen, size, [*proof, bytes(32)])


# months


@given(st.integers(0, 4_000_000_000_000_000))
def test_every_moment_is_in_one_month(at_us: int) -> None:
    month = month_of(at_us)
    assert month.from_us <= at_us < month.until_us == month.following.from_us
    assert parse_month(str(month)) == month == month.following.preceding


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-1", "26-01", "2026-00", "2026-10-01", "9999-12"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_month(text)


# the command line


def test_statements_by_command(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "home")
    asyncio.run(make(gateway.home, rows(120), anchored=0))
    for name in ("september.html", "september.json", "september.csv", "september.json.gz"):
        gateway.cli(
            "statement", TENANTS[0], "--month", SEPTEMBER, "-o", str(tmp_path / name), "--issuer", "Our gateway"
        )
    shown = gateway.cli("statement", TENANTS[0], "--month", SEPTEMBER).stdout
    assert "openai/gpt-4o-mini" in shown and "Closing balance" in shown and KEYS[1] in shown
    assert gateway.cli_json("statement", "list", TENANTS[1])["months"] == [str(month) for month in reversed(MONTHS)]
    as_json = gateway.cli_json("statement", TENANTS[0], "--month", SEPTEMBER)
    assert as_json["account"] == json.loads((tmp_path / "september.json").read_bytes())["account"] | {
        "issued_us": as_json["account"]["issued_us"]
    }
    alone = Gateway(tmp_path / "elsewhere")
    for name in ("september.html", "september.json", "september.json.gz"):
        checked = alone.cli("statement", "verify", str(tmp_path / name))
        assert "✓ sums" in checked.stdout and "✗" not in checked.stdout
    assert not alone.home.exists()
    forged = (tmp_path / "september.json").read_bytes().replace(b'"cost_nano_usd":', b'"cost_nano_usd":1', 1)
    (tmp_path / "forged.json").write_bytes(forged)
    refused = alone.cli("statement", "verify", str(tmp_path / "forged.json"), check=False)
    assert refused.returncode == 7 and "✗ hash" in refused.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nobody",), "nobody"),
        (("Acme Labs", "--month", "October"), "October"),
        (("Acme Labs", "-o", "x.docx"), "does not show the format"),
        (("Acme Labs", "--format", "pdf"), "--output"),
        (("verify", "nothing.json"), "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    gateway = Gateway(tmp_path / "home")
    gateway.add_tenant("Acme Labs")
    refused = gateway.cli("statement", *arguments, check=False)
    assert refused.returncode != 0 and told in refused.stderr


@pytest.mark.slow
def test_a_month_of_ten_thousand_requests_through_kills(tmp_path: Path) -> None:
    """Written through the journal by a process that is killed again and again: nothing is lost or doubled."""
    count, kills = 10_000, 0
    home = tmp_path / "home"
    command = [sys.executable, "-m", "tests.support.month", str(home), str(count)]
    while True:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            begins = int(writer.stdout.readline().rpartition(" ")[2])
            for lines, line in enumerate(writer.stdout, start=1):
                if line == "done\n":
                    break
                if lines == 11 and begins < count - 2_000:
                    writer.send_signal(signal.SIGKILL)
            writer.wait()
        kills += writer.returncode == -signal.SIGKILL
        if writer.returncode == 0:
            break
    assert kills >= 5
    gateway = Gateway(home)
    every = rows(count)
    for tenant, name in enumerate(TENANTS):
        previous: list[str] = []
        for month in MONTHS:
            file = tmp_path / f"{tenant}-{month}.html"
            gateway.cli("statement", name, "--month", str(month), "-o", str(file))
            shown = gateway.cli_json("statement", "verify", str(file), *previous)
            assert (
                shown["ok"]
                and {"name": "opening balance", "state": "passed"}.items()
                <= next(check for check in shown["checks"] if check["name"] == "opening balance").items()
            )
            right = expected(every, tenant, month)
            assert said(shown["account"], right) == right
            previous += ["--previous", str(file)]
