"""examples/verify/index.html, opened from the disk in a headless Chromium."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.environments import ROOT
from tests.support.bundles import REQUEST, RESPONSE, SampleLog, damaged, hostile
from tests.support.checker import check_readable, mood_of_chosen, shown
from tests.support.chromium import Browser
from tests.support.entries import make_credit
from trustgate.receipts.receipt import canonical
from trustgate.receipts.verify import verify_bundle
from trustgate.types import RECEIPT_PAYMENT_MEMBERS

FOLDER = ROOT / "examples" / "verify"
PAGE = FOLDER / "index.html"
LOG = SampleLog()
GOOD = LOG.bundle()
BAD = GOOD.replace(b'"cost_nano_usd": 12345', b'"cost_nano_usd": 12344')


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    """The page, just opened. However it is used, it complains of nothing and sends no request."""
    browser.open(PAGE)
    yield browser
    assert browser.complaints == []
    assert browser.requests == [PAGE.as_uri()]


def expected(data: bytes, **given: Any) -> list[list[str]]:
    return [[check.name, check.state] for check in verify_bundle(data, **given).checks]


def test_the_page_and_the_script_check_with_the_same_code() -> None:
    def core(path: Path) -> str:
        start, end = "// --- core: the same text in verify.mjs and index.html ---\n", "// --- end of core ---\n"
        before, _, rest = path.read_text().partition(start)
        found, _, after = rest.partition(end)
        assert before and found and after
        return found

    assert core(PAGE) == core(FOLDER / "verify.mjs")


def test_a_good_bundle_holds_under_the_logs_key(page: Browser) -> None:
    texts = {"key": f" {LOG.vkey}\n", "fee-payer": LOG.fee_payer}

    found = shown(page, GOOD, texts=texts, request=REQUEST, response=RESPONSE)

    passed = expected(GOOD, key=LOG.verifier, fee_payer=LOG.fee_payer, request=REQUEST, response=RESPONSE)
    assert found["checks"] == [*passed, ["chain", "not checked"]]
    assert {state for _, state in passed} == {"passed"}
    assert found["mood"] == "good" and "The bundle holds" in found["verdict"]
    for told in ("rcpt_sample", "log.example/tests", "2026-02-02 02:42:04.000 UTC", "0.000012345 USD", "complete"):
        assert told in found["receipt"]


def test_what_was_paid_is_shown(page: Browser) -> None:
    log = SampleLog(v=2)

    found = shown(page, log.bundle(), texts={"key": log.vkey}, request=REQUEST, response=RESPONSE)

    passed = expected(log.bundle(), key=log.verifier, request=REQUEST, response=RESPONSE)
    assert found["checks"] == [*passed, ["chain", "not checked"]]
    assert found["mood"] == "good"
    told = _told(found)
    assert (told["Charged"], told["Credited"]) == ("0.000012345 USD", "1.50 USD")
    assert told["Payment"] == "pay_124"
    assert told["Paid"] == f"1500000 atomic units of {log.receipt.payment_asset}"
    assert (told["Paid by"], told["Paid on"]) == ("payer_1", log.receipt.payment_network)
    assert told["Paid in"] == "transaction transaction_124"


def test_a_credit_is_shown_as_no_request(page: Browser) -> None:
    unpaid = dict.fromkeys(RECEIPT_PAYMENT_MEMBERS[2:], "")
    log = SampleLog(3, 1, forged=json.loads(canonical(make_credit(2, key="", **unpaid))))

    told = _told(shown(page, log.bundle(), texts={"key": log.vkey}))

    assert told["Endpoint"] == "credits" and told["Ended"].startswith("credited")
    assert told["Credited"] == "1.50 USD" and "key none" in told["Tenant"]
    assert told.keys().isdisjoint({"Model", "Prompt", "Completion", "Cost", "Payment", "Paid"})


def _told(found: dict[str, Any]) -> dict[str, str]:
    """What the page shows of the receipt."""
    lines = found["receipt"].splitlines()
    return dict(zip(lines[::2], lines[1::2], strict=True))


def test_without_the_logs_key_the_page_is_wary(page: Browser) -> None:
    found = shown(page, GOOD)

    assert found["checks"] == [*expected(GOOD), ["chain", "not checked"]]
    assert found["mood"] == "wary" and "whose it is was not checked" in found["verdict"]


def test_a_bundle_without_anchor(page: Browser) -> None:
    bundle = LOG.bundle(anchor=None, disclose=())

    found = shown(page, bundle, texts={"key": LOG.vkey})

    assert found["checks"] == expected(bundle, key=LOG.verifier)
    assert found["mood"] == "good" and "no anchor" in found["verdict"]


def test_every_damaged_bundle_is_refused_by_the_same_check(page: Browser) -> None:
    shown(page, GOOD, request=REQUEST, response=RESPONSE)
    paid = [damage for damage in damaged(SampleLog(v=2).bundle()) if damage.name.startswith("receipt.payment_a")]
    for damage in [*damaged(GOOD), *paid]:
        found = shown(page, damage.data)
        assert found["mood"] == "bad", f"{damage.name} was not noticed"
        assert found["checks"] == expected(damage.data, request=REQUEST, response=RESPONSE), damage.name
        assert found["verdict"].startswith(f"Refused: {found['checks'][-1][0]}")
        assert found["receipt"] is None, "nothing of a refused receipt is shown as if it held"


def test_what_is_signed_and_still_wrong_is_refused(page: Browser) -> None:
    for bundle in hostile(LOG):
        found = shown(page, bundle.data)
        assert (found["mood"], found["checks"][-1]) == ("bad", [bundle.check, "failed"]), bundle.name


def test_another_verdict_follows_what_is_put_in(page: Browser) -> None:
    other = SampleLog(origin="other.example/log")

    assert shown(page, GOOD, request=REQUEST)["mood"] == "wary"
    assert shown(page, GOOD, texts={"key": other.vkey})["checks"][-1] == ["checkpoint", "failed"]
    assert shown(page, GOOD, texts={"key": "nonsense"})["checks"][-1] == ["checkpoint", "failed"]
    assert shown(page, GOOD, texts={"key": LOG.vkey})["mood"] == "good"
    assert shown(page, GOOD, texts={"fee-payer": other.vkey})["checks"][-1] == ["anchor fee payer", "failed"]
    assert shown(page, GOOD, texts={"fee-payer": ""}, request=RESPONSE)["checks"][-1] == ["request", "failed"]


def test_a_file_of_the_disk_is_chosen(page: Browser, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(GOOD)
    assert mood_of_chosen(page, tmp_path / "bundle.json") == "wary"


def test_a_bundle_is_dropped_on_the_page(page: Browser) -> None:
    dropped = """
    async function (encoded) {
      const shown = new Promise((resolve) => new MutationObserver(() => resolve())
        .observe(document.getElementById("verdict"), { childList: true }));
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))], "dropped.json"));
      const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
      document.querySelector("h1").dispatchEvent(drop);
      await shown;
      return [drop.defaultPrevented, document.getElementById("bundle").files[0].name];
    }
    """
    assert page.call(dropped, base64.b64encode(GOOD).decode()) == [True, "dropped.json"]
    assert page.evaluate("document.getElementById('verdict').className") == "wary"


def test_what_is_typed_checks_again(page: Browser) -> None:
    shown(page, GOOD)
    typed = """
    async function (key) {
      const changed = new Promise((resolve) => new MutationObserver(() => resolve())
        .observe(document.getElementById("verdict"), { childList: true }));
      document.getElementById("key").value = key;
      document.getElementById("key").dispatchEvent(new Event("input"));
      await changed;
      return document.getElementById("verdict").className;
    }
    """
    assert page.call(typed, LOG.vkey) == "good"
    assert page.call(typed, LOG.vkey[:-1]) == "bad"


def test_what_a_bundle_says_is_text_and_nothing_else(page: Browser) -> None:
    """A model's name is what a client asked for: it may try to be a script."""
    log = SampleLog(model="<img src=x onerror=console.error('ran')><script>console.error('ran')</script>")

    found = shown(page, log.bundle())

    assert "<script>" in found["receipt"]
    assert page.evaluate("document.images.length") == 0


def test_where_a_browser_gives_a_page_no_cryptography_it_says_why(browser: Browser) -> None:
    """A page of a gateway that is reached over plain HTTP from another machine."""
    browser.open(
        PAGE,
        first="""
        Object.defineProperty(globalThis, "isSecureContext", { value: false });
        Object.defineProperty(crypto, "subtle", { value: undefined });
        """,
    )
    found = shown(browser, GOOD)

    trouble = browser.evaluate("document.getElementById('trouble').innerText")
    assert "only if it came over HTTPS" in trouble and "open the copy" in trouble
    assert found["mood"] == "bad"


def test_a_browser_without_ed25519_is_told_so(browser: Browser) -> None:
    browser.open(
        PAGE,
        first="""
        const real = SubtleCrypto.prototype.importKey;
        SubtleCrypto.prototype.importKey = function (format, data, algorithm, ...rest) {
          return algorithm.name === "Ed25519"
            ? Promise.reject(new DOMException("Unrecognized name.", "NotSupportedError"))
            : real.call(this, format, data, algorithm, ...rest);
        };
        """,
    )
    found = shown(browser, GOOD)

    assert "cannot check Ed25519" in browser.evaluate("document.getElementById('trouble').innerText")
    assert found["mood"] == "bad" and "cannot check Ed25519" in found["verdict"]
    assert found["checks"][-1] == ["checkpoint", "failed"]


@pytest.mark.parametrize("bundle", [GOOD, BAD], ids=["good", "bad"])
def test_it_can_be_read_by_day_and_by_night_on_screens_of_every_width(page: Browser, bundle: bytes) -> None:
    shown(page, bundle)
    check_readable(page)
