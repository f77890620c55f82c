"""``trustgate demo``, as it is typed: what the tour saw, what stays up, and that nothing is left of it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ClientFactory
from tests.support.processes import PATIENCE_S, Process, clean_environment
from tests.support.terminal import Terminal

_COMMAND = (sys.executable, "-m", "trustgate", "demo")
_STEPS = (
    *("request", "bearer auth", "payment", "plan", "quota", "validation"),
    *("passport", "fetch", "metering", "receipt", "response"),
)
_SECRET = re.compile(r"tgk_[0-9A-Za-z]{38}")


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Where the demo makes its folder. The test fails if something is left there."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == [], "the demo left something behind"


@pytest.fixture
def environment(temporary: Path, tmp_path: Path) -> dict[str, str]:
    """Of a user whose own settings are of no use, behind a proxy that knows nothing of this machine."""
    nowhere = "http://127.0.0.1:9"
    return clean_environment(
        {
            "TMPDIR": str(temporary),
            "TRUSTGATE_HOME": str(tmp_path / "home"),
            "TRUSTGATE_URL": nowhere,
            "TRUSTGATE_SERVE_PORT": "many",
            "HTTP_PROXY": nowhere,
            "http_proxy": nowhere,
        }
    )


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_COMMAND, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def start(environment: dict[str, str], folder: Path) -> Process:
    return Process("the demo", _COMMAND, folder, environment, folder / "demo.log")


def test_what_the_tour_saw(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(environment, "--exit", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)

    requests = {request["name"]: request for request in seen["requests"]}
    assert {name: request["status"] for name, request in requests.items()} == {
        "plain": 200,
        "streamed": 200,
        "refused": 429,
        "unpaid": 402,
        "paid": 200,
    }
    for request in requests.values():
        assert tuple(step["name"] for step in request["steps"]) == _STEPS
    assert {name: stop_of(request) for name, request in requests.items()} == {
        "plain": None,
        "streamed": None,
        "refused": "quota",
        "unpaid": "payment",
        "paid": None,
    }
    assert requests["streamed"]["receipt"]["stream"] is True
    assert requests["refused"]["receipt"]["finish"] == "refused"
    assert requests["unpaid"]["receipt"] is None
    for name in ("plain", "streamed", "refused", "paid"):
        assert detail(requests[name], "response").endswith(": those that the receipt commits to")

    # The money of the receipt is that which moved on the chain.
    paid = requests["paid"]["receipt"]
    assert (paid["payment_amount"], paid["charged_nano_usd"]) == ("10000", 10_000_000)
    (buyer_before, buyer_after), (seller_before, seller_after) = seen["moved"]["buyer"], seen["moved"]["seller"]
    assert buyer_before - buyer_after == seller_after - seller_before == 10_000

    assert (seen["anchor"]["anchored"], seen["anchor"]["tree_size"]) == (True, 4)
    assert seen["receipt"] == paid["id"]
    assert {check["state"] for check in seen["checks"]} == {"passed"}
    assert seen["checks"][-1]["name"] == "chain"
    assert seen["forgery_fails"] == "inclusion"
    # Of three keys that were made only the one to play with is told.
    assert set(_SECRET.findall(done.stdout)) == {seen["key"]}
    assert not (tmp_path / "home").exists()


def test_it_stays_for_requests_of_ones_own(
    environment: dict[str, str], tmp_path: Path, make_client: ClientFactory
) -> None:
    process = start(environment, tmp_path)
    process.wait_until(lambda: "Ctrl-C stops the demo" in process.stdout)
    shown = process.stdout
    for number, name in enumerate(_STEPS, start=1):
        assert re.search(rf"^ ✓ +{number}  {name} ", shown, re.MULTILINE), name
    assert "✗    5  quota        429 rate_limit_exceeded" in shown
    assert "✗    3  payment      402 payment_required" in shown
    assert "Seller  $0.00 before, $0.01 now" in shown
    assert "one token less, and the check 'inclusion' fails" in shown
    exported = dict(re.findall(r"^export (\w+)=(\S+)$", shown, re.MULTILINE))

    url, key = exported["OPENAI_BASE_URL"], exported["OPENAI_API_KEY"]
    answer = make_client(url, key).chat.completions.create(
        model="trustgate/echo", messages=[{"role": "user", "content": "Is anybody there?"}]
    )
    assert answer.choices[0].message.content == "Is anybody there?"
    refused = httpx.post(f"{url}/chat/completions", json={}, headers={"authorization": "Bearer no"}, trust_env=False)
    assert refused.status_code == 401
    process.wait_until(
        lambda: process.stdout.count("\nYour request\n") == 2 and "11  response     401" in process.stdout
    )
    [home] = re.findall(r"trustgate --home (\S+) top", shown)
    operator = [sys.executable, "-m", "trustgate", "--home", home, "receipt", "list", "--json"]
    environment = {name: value for name, value in environment.items() if not name.startswith("TRUSTGATE_")}
    listed = subprocess.run(operator, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert len(json.loads(listed.stdout)["receipts"]) == 5

    process.signal(signal.SIGINT)
    assert process.wait() == 0
    told = process.stdout.rpartition("\nYour request\n")[2]
    assert "✗    2  bearer auth  401 invalid_api_key" in told
    assert "The demo and its folder are removed." in told
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("moment", "number"), [("Starting a gateway", signal.SIGTERM), ("Posting the log", signal.SIGINT)]
)
def test_it_can_be_ended_in_the_middle(
    environment: dict[str, str], tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    process = start(environment, tmp_path)
    process.wait_until(lambda: moment in process.stdout + process.stderr)
    # Before there is a folder nothing has to be cleaned up, and SIGTERM has no handler.
    process.wait_until(lambda: any(Path(environment["TMPDIR"]).iterdir()))
    process.signal(number)
    assert process.wait() == 130
    assert "Traceback" not in process.stderr
    assert "That was all of it" not in process.stdout


def test_ctrl_c_on_a_narrow_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    environment = {**environment, "COLUMNS": "40", "NO_COLOR": "1", "TERM": "xterm"}
    with Terminal(_COMMAND, environment, tmp_path) as terminal:
        terminal.wait_for("A streamed request")
        assert (
            " ✓   11  response\r\n    200, 320 bytes: those that the\r\n    receipt commits to\r\n" in terminal.before
        )
        assert "\x1b[32m" not in terminal.before, "NO_COLOR"
        terminal.type("\x03")
        rest = terminal.rest()
    assert "That was all of it" not in rest
    assert "Traceback" not in rest
    assert rest.rfind("\x1b[?25h") >= rest.rfind("\x1b[?25l"), "the cursor is shown again"


def test_what_keeps_it_from_starting_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run(environment, "--port", str(port), "--exit")
    assert refused.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr
    refused = subprocess.run(
        [sys.executable, "-m", "trustgate", "--home", str(tmp_path / "mine"), "demo"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert refused.returncode == 2
    assert "accepts no --home" in refused.stderr


def stop_of(request: dict[str, Any]) -> str | None:
    """The step that the request was refused at; all up to there, and for an answered one all, were passed."""
    stops = [place for place, step in enumerate(request["steps"]) if step["state"] == "stopped"]
    assert len(stops) <= 1
    before = request["steps"][: stops[0]] if stops else request["steps"]
    assert {step["state"] for step in before} == {"passed"}
    return _STEPS[stops[0]] if stops else None


def detail(request: dict[str, Any], name: str) -> str:
    return next(str(step["detail"]) for step in request["steps"] if step["name"] == name)
