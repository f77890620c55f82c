"""``trustgate payment``, ``tenant credit`` and ``doctor --books``, with a server on the home folder and without one."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import httpx
import pytest

from tests.support.facilitator import FacilitatorDouble
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, wait_until
from trustgate.types import NANO_USD_PER_USD

WALLET = "0x" + "b6" * 20
_names = (f"tenant-{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def facilitator() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble() as double:
        yield double


@pytest.fixture
def tenant(either_home: Gateway) -> str:
    name = next(_names)
    either_home.add_tenant(name)
    return name


def test_a_tenant_pays_from_set_to_off(either_home: Gateway, tenant: str, facilitator: FacilitatorDouble) -> None:
    network = ("--network", "base-sepolia", "--pay-to", WALLET, "--facilitator", facilitator.url)
    document = either_home.cli_json("payment", "set", tenant, *network, "--price", "0.01", "--mode", "prepaid")
    terms = document["terms"]
    assert (terms["mode"], terms["price_nano_usd"], terms["top_up_nano_usd"]) == ("prepaid", 10_000_000, 1_000_000_000)
    assert [offer["network"] for offer in terms["offers"]] == ["eip155:84532"]
    two = ("--network", "base", "--pay-to", WALLET, "--network", "base-sepolia", "--pay-to", WALLET)
    said = either_home.cli("payment", "set", tenant, *two, "--facilitator", facilitator.url, "--top-up", "5").stdout
    assert "$5.00 or more: POST /v1/credits" in said
    assert said.count(f"settled by {facilitator.url}") == 2
    listed = {each["tenant"]["name"]: each for each in either_home.cli_json("payment", "terms")["terms"]}
    assert [offer["network"] for offer in listed[tenant]["terms"]["offers"]] == ["eip155:84532", "eip155:8453"]
    assert tenant in either_home.cli("payment", "terms").stdout
    assert either_home.cli_json("tenant", "show", tenant)["terms"]["mode"] == "prepaid"
    assert either_home.cli_json("payment", "off", tenant, "--network", "base")["terms"]["mode"] == "prepaid"
    assert either_home.cli_json("payment", "off", tenant)["terms"]["mode"] == "off"


def test_without_a_network_an_offer_is_kept_unchecked_and_off_needs_no_terms(either_home: Gateway, tenant: str) -> None:
    nothing = either_home.cli("payment", "off", tenant)
    assert "Payment was never switched on" in nothing.stdout
    assert tenant not in either_home.cli("payment", "terms").stdout
    network = (
        "--network",
        "base-sepolia",
        "--pay-to",
        WALLET,
        "--facilitator",
        "http://127.0.0.1:9",
        "--price",
        "0.01",
    )
    refused = either_home.cli("payment", "set", tenant, *network, check=False)
    assert (refused.returncode, "--unchecked" in refused.stderr, "examples/agent" in refused.stderr) == (1, True, True)
    kept = either_home.cli_json("payment", "set", tenant, *network, "--unchecked")
    assert [offer["network"] for offer in kept["terms"]["offers"]] == ["eip155:84532"]
    assert any("was not checked. To check it later: trustgate doctor" in note for note in kept["notes"])
    wrong = either_home.cli("payment", "set", tenant, *network, "--unchecked", "--asset", "usdd", check=False)
    assert (wrong.returncode, "usdd" in wrong.stderr) == (2, True)


def test_the_flow_is_set_and_facilitators_are_asked_again(
    either_home: Gateway, tenant: str, facilitator: FacilitatorDouble
) -> None:
    network = ("--network", "base-sepolia", "--pay-to", WALLET, "--facilitator", facilitator.url)
    said = either_home.cli("payment", "set", tenant, *network, "--price", "0.01", "--flow", "upfront").stdout
    assert "before the LLM server is asked" in said
    [offer] = either_home.cli_json("payment", "set", tenant, *network)["terms"]["offers"]
    assert offer["extra"]["paymentFlow"] == "upfront", "what is not given stays"
    [offer] = either_home.cli_json("payment", "set", tenant, "--flow", "authorization")["terms"]["offers"]
    assert "paymentFlow" not in offer["extra"]
    facts = either_home.cli_json("payment", "refresh")["facilitators"]
    [fact] = [each for each in facts if each["facilitator"] == facilitator.url and each["network"] == "eip155:84532"]
    assert (fact["problem"], fact["changed"]) == ("", [])
    assert facilitator.url in either_home.cli("payment", "refresh").stdout


def test_a_tenant_that_pays_from_now_on_is_told(
    either_home: Gateway, tenant: str, facilitator: FacilitatorDouble
) -> None:
    for options in ((), ("--contact", "billing@example.org")):
        refused = either_home.cli("payment", "set", tenant, *options, check=False)
        assert (refused.returncode, "No network is set" in refused.stderr) == (2, True), "before anything of prices"
    network = ("--network", "base-sepolia", "--pay-to", WALLET, "--facilitator", facilitator.url, "--price", "0.01")
    assert (
        "From now on this tenant pays for each request." in either_home.cli("payment", "set", tenant, *network).stdout
    )
    refused = either_home.cli("payment", "set", tenant, check=False)
    assert (refused.returncode, "No change was given" in refused.stderr) == (2, True)
    changed = either_home.cli_json("payment", "set", tenant, "--contact", "billing@example.org")
    assert (changed["terms"]["contact"], "From now on" in str(changed["notes"])) == ("billing@example.org", False)
    either_home.cli("payment", "off", tenant)
    again = either_home.cli_json("payment", "set", tenant, "--contact", "none")
    assert again["terms"]["mode"] == "per-request"
    assert not again["terms"].get("contact")
    assert "From now on this tenant pays for each request." in again["notes"]
    prepaid = either_home.cli("payment", "set", tenant, "--mode", "prepaid", "--price", "none").stdout
    assert (
        "From now on this tenant's requests draw on its prepaid credit, and are refused where that is used up."
        in prepaid
    )
    assert "the prices of passports" in prepaid


@pytest.mark.parametrize(
    ("arguments", "code", "says", "hint"),
    [
        (
            ("--network", "polygon", "--pay-to", WALLET, "--facilitator", "https://f.example"),
            2,
            "cannot be looked up",
            "nodes = ",
        ),
        (
            ("--network", "base", "--pay-to", WALLET, "--facilitator", "https://api.cdp.coinbase.com/platform/v2/x402"),
            2,
            "only with a key",
            "CDP_API_KEY_ID",
        ),
        ((), 2, "No network is set for this tenant's payments", "trustgate payment set"),
        (("--network", "base"), 2, "Each --network needs its --pay-to", "For example"),
        (("--network", "nowhere", "--pay-to", WALLET), 2, "no network 'nowhere'", "solana-devnet"),
        (("--network", "base", "--pay-to", "0x12"), 2, "0x12", ""),
        (
            ("--network", "base", "--pay-to", WALLET),
            2,
            "No facilitator is known for payments on base",
            "--facilitator URL",
        ),
        (("--network", "solana", "--pay-to", "1" * 32), 2, "No facilitator is known", "trustgate payment keygen"),
        (("--network", "base", "--pay-to", WALLET, "--asset", "a", "--asset", "b"), 2, "given 2 times for 1", "once"),
    ],
)
def test_what_would_not_do_is_told_with_what_to_type(
    either_home: Gateway, tenant: str, arguments: tuple[str, ...], code: int, says: str, hint: str
) -> None:
    refused = either_home.cli("payment", "set", tenant, "--price", "0.01", *arguments, check=False)
    assert refused.returncode == code
    assert says in refused.stderr
    assert hint in refused.stderr


def test_the_price_list_is_a_price_to_sell_at(either_home: Gateway, tenant: str) -> None:
    """Without ``--price`` requests cost what passports and the price list tell: only the facilitator is missing."""
    refused = either_home.cli("payment", "set", tenant, "--network", "base", "--pay-to", WALLET, check=False)
    assert refused.returncode == 2
    assert "No facilitator is known for payments on base" in refused.stderr
    assert "--facilitator URL" in refused.stderr


def test_credit_is_given_and_paid_back_and_the_books_balance(either_home: Gateway, tenant: str) -> None:
    either_home.cli("payment", "set", tenant, "--mode", "prepaid")
    added = either_home.cli_json("tenant", "credit", tenant, "--add", "2.50")
    assert added["balance_nano_usd"] == 2_500_000_000
    assert either_home.cli_json("receipt", "show", added["receipt"])["receipt"]["credited_nano_usd"] == 2_500_000_000
    refund = either_home.cli_json("payment", "refund-credit", tenant, "--amount", "1")
    assert (refund["refunded_nano_usd"], refund["balance_nano_usd"]) == (1_000_000_000, 1_500_000_000)
    assert "To refund" in either_home.cli("payment", "refund-credit", tenant, "--amount", "0.5").stdout
    assert "$1.00" in either_home.cli("tenant", "credit", tenant).stdout
    too_much = either_home.cli("payment", "refund-credit", tenant, "--amount", "9", check=False)
    assert too_much.returncode == 5
    assert "could be paid back" in too_much.stderr
    report = either_home.cli_json("doctor", "--books")
    assert report["ok"] is True
    assert report["receipts"] >= 3
    assert "The books balance." in either_home.cli("doctor", "--books").stdout


def test_payments_are_looked_at(either_home: Gateway, tenant: str) -> None:
    assert either_home.cli_json("payment", "list", "--tenant", tenant, "--state", "unknown") == {"payments": []}
    assert either_home.cli_json("payment", "reconcile") == {"payments": []}
    missing = either_home.cli("payment", "show", "pay_none", check=False)
    assert (missing.returncode, "trustgate payment list" in missing.stderr) == (4, True)
    wrong = either_home.cli("payment", "list", "--state", "lost", check=False)
    assert wrong.returncode == 2
    assert "is not a state of a payment" in wrong.stderr


def test_what_a_server_left_is_changed_offline_and_found_by_the_next(home: Gateway) -> None:
    """Receipts of requests that a killed server has in its journal alone come before what is added offline."""
    gateway = Gateway(home.home, upstream="builtin:echo").start()
    headers = {"authorization": f"Bearer {gateway.add_tenant()}"}
    body = {"model": "trustgate/echo", "messages": [{"role": "user", "content": "Hi"}]}
    for _ in range(3):
        answer = httpx.post(f"{gateway.api_url}/chat/completions", json=body, headers=headers, trust_env=False)
        assert answer.status_code == 200
    gateway.kill()
    gateway.cli("payment", "set", "acme", "--mode", "prepaid", "--price", "0.01")
    assert gateway.cli_json("tenant", "credit", "acme", "--add", "1")["balance_nano_usd"] == 1_000_000_000
    gateway.start()
    answer = httpx.post(f"{gateway.api_url}/chat/completions", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 200
    report = gateway.cli_json("doctor", "--books")
    assert (report["ok"], report["receipts"], report["quotas_checked"]) == (True, 5, True), json.dumps(report)
    assert httpx.get(f"{gateway.api_url}/credits", headers=headers, trust_env=False).json()["balance_usd"] == "0.99"
    gateway.close()


@contextlib.contextmanager
def full_pipe() -> Iterator[IO[bytes]]:
    """A pipe that is full, and that no one reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as full:
        yield full


def kill_before_it_has_answered(gateway: Gateway, *arguments: str, done: Callable[[], bool]) -> None:
    """Start a command, and kill it once it is carried out, before its answer is out."""
    with full_pipe() as full, tempfile.TemporaryFile() as none:
        child = gateway.begin_cli(*arguments, stdout=full, stderr=none, stdin=none)
        try:
            wait_until(done, "it to be carried out")
        finally:
            child.kill()
            # What it has locked is free once it has ended.
            child.wait(PATIENCE_S)


def test_a_credit_that_was_killed_before_it_answered_counts_once_when_it_is_typed_again(
    either_home: Gateway, tenant: str
) -> None:
    def balance() -> int:
        return int(either_home.cli_json("tenant", "credit", tenant)["balance_nano_usd"])

    either_home.cli("payment", "set", tenant, "--mode", "prepaid")
    credit = ("tenant", "credit", tenant, "--add", "2")
    either_home.cli(*credit)
    kill_before_it_has_answered(either_home, *credit, done=lambda: balance() == 4 * NANO_USD_PER_USD)
    again = either_home.cli(*credit)
    assert "its answer was lost: it was carried out then" in " ".join(again.stdout.split())
    assert balance() == 4 * NANO_USD_PER_USD
    either_home.cli(*credit)
    assert balance() == 6 * NANO_USD_PER_USD, "what was answered is not taken for what was not"

    refund = ("payment", "refund-credit", tenant, "--amount", "1")
    kill_before_it_has_answered(either_home, *refund, done=lambda: balance() == 5 * NANO_USD_PER_USD)
    again = either_home.cli(*refund)
    assert "Send the money unless you have" in " ".join(again.stdout.split())
    assert balance() == 5 * NANO_USD_PER_USD
    everything = ("payment", "refund-credit", tenant)
    kill_before_it_has_answered(either_home, *everything, done=lambda: balance() == 0)
    in_json = either_home.cli(*everything, "--json")
    assert "To do it once more, type it again." in " ".join(in_json.stderr.split())
    found = json.loads(in_json.stdout)
    assert (found["refunded_nano_usd"], found["balance_nano_usd"], found["repeated"]) == (5 * NANO_USD_PER_USD, 0, True)
    assert list((either_home.home / "unanswered").iterdir()) == []


def test_a_refund_with_a_reference_counts_once(either_home: Gateway, tenant: str) -> None:
    either_home.cli("payment", "set", tenant, "--mode", "prepaid")
    either_home.cli("tenant", "credit", tenant, "--add", "2", "--reference", "in 1")
    refund = ("payment", "refund-credit", tenant, "--amount", "0.5", "--reference", "out 1")
    assert [either_home.cli_json(*refund)["repeated"] for _ in range(3)] == [False, True, True]
    assert either_home.cli_json("tenant", "credit", tenant)["balance_nano_usd"] == 3 * NANO_USD_PER_USD // 2
    other = either_home.cli("tenant", "credit", tenant, "--add", "0.5", "--reference", "out 1", check=False)
    assert (other.returncode, "was used for a refund of" in other.stderr) == (5, True)
    either_home.cli("doctor", "--books")


def test_commands_that_run_at_once_are_each_carried_out(either_home: Gateway, tenant: str) -> None:
    """The second is not taken for the first one, which has not answered yet."""
    either_home.cli("payment", "set", tenant, "--mode", "prepaid")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: either_home.cli("tenant", "credit", tenant, "--add", "1"), range(3)))
    assert either_home.cli_json("tenant", "credit", tenant)["balance_nano_usd"] == 3 * NANO_USD_PER_USD


def test_a_command_that_was_refused_is_forgotten(either_home: Gateway, tenant: str) -> None:
    refused = either_home.cli("tenant", "credit", tenant, "--add", "1", check=False)
    assert refused.returncode == 5, "it draws on no balance"
    either_home.cli("payment", "set", tenant, "--mode", "prepaid")
    assert list((either_home.home / "unanswered").iterdir()) == []
