"""/metrics: numbers that add up with what was asked, labels no client can fill, no name that was not asked for."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.gateway.conftest import HELLO, SignUp
from tests.support.entries import make_receipt
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream
from trustgate.errors import NotFound, UpstreamRefused
from trustgate.models.catalog import Catalog
from trustgate.observe.counters import MODELS_MOST, OTHER, RECENT, Counters
from trustgate.observe.live_stats import in_window, load_of, loads_by
from trustgate.observe.metrics import FRESH_S, Metric, Metrics, _braces
from trustgate.settings import load_settings
from trustgate.types import Passport

#: One sample of the text format: name, labels, value.
_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"')

DASHBOARD = Path(__file__).parents[2] / "examples" / "deploy" / "grafana.json"

Sample = tuple[str, dict[str, str], float]


def parse(text: str) -> list[Sample]:
    """Every sample. Fails for a line that is none, a metric without its type, and one whose lines are apart."""
    samples: list[Sample] = []
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds, f"{name} comes twice"
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            found = _SAMPLE.fullmatch(line)
            assert found, line
            family = next(reversed(kinds))
            assert found[1].removeprefix(family) in ("", "_bucket", "_sum", "_count"), line
            assert kinds[family] == "histogram" or found[1] == family, line
            samples.append((found[1], dict(_LABEL.findall(found[2] or "")), float(found[3])))
    return samples


def scrape(gateway: Gateway, key: str | None = None) -> list[Sample]:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    answer = httpx.get(f"{gateway.base_url}/metrics", headers=headers, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.text)


def value(samples: list[Sample], name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(number for found, given, number in samples if found == name and labels.items() <= given.items())


def dashboard() -> list[str]:
    """Every query of the example dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def dashboard_metrics() -> set[str]:
    return set(re.findall(r"\b(?:trustgate|gen_ai)_\w+(?=\{)", " ".join(dashboard())))


def dashboard_labels() -> set[str]:
    queries = " ".join(dashboard())
    grouped = re.findall(r"by \(([^)]*)\)", queries)
    return {
        *re.findall(r"[{,]\s*(\w+)(?:=|!)", queries),
        *(label.strip() for labels in grouped for label in labels.split(",")),
    }


@pytest.fixture
def gateway(make_gateway: GatewayFactory, upstream: Upstream) -> Gateway:
    made: Gateway = make_gateway(
        upstream=upstream.api_url, arguments=(), environment={"SCRAPE_KEY": "scrape-with-this-key"}
    )
    made.home.mkdir()
    return made


def test_what_was_asked_is_counted(gateway: Gateway, upstream: Upstream, sign_up: SignUp) -> None:
    gateway.start()
    gateway.cli("passport", "add", "fast", "--api-model-id", "gpt-4o-mini", "--input-price", "1", "--output-price", "2")
    tenant = sign_up(gateway)
    upstream.script(Reply.chat(usage={"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}))
    assert tenant.chat(model="fast").status_code == 200
    with tenant.stream() as stream:
        stream.read()
    upstream.script(Reply.error(400, code="a-code-of-the-upstreams"))
    assert tenant.chat(model="no-such-model-yet").status_code == 400
    assert tenant.http.post("/v1/chat/completions", json={"messages": HELLO}).status_code == 400
    assert httpx.post(f"{gateway.api_url}/chat/completions", json={}, trust_env=False).status_code == 401

    samples = scrape(gateway)
    asked = {"endpoint": "chat.completions", "gen_ai_request_model": "fast"}
    assert value(samples, "trustgate_requests_total", **asked, status="200", finish="complete") == 1
    assert value(samples, "trustgate_requests_total", gen_ai_request_model="gpt-4o") == 1
    assert value(samples, "trustgate_requests_total", gen_ai_request_model=OTHER, finish="upstream_error") == 1
    assert value(samples, "trustgate_tokens_total", **asked, type="prompt") == 7
    assert value(samples, "trustgate_tokens_total", **asked, type="completion") == 5
    assert value(samples, "trustgate_cost_usd_total", **asked) == pytest.approx(17e-6)
    assert value(samples, "trustgate_errors_total", code="upstream_refused") == 1
    assert value(samples, "trustgate_errors_total", code="invalid_api_key") == 1
    assert value(samples, "trustgate_errors_total", code="missing_required_parameter") == 1
    duration = "gen_ai_server_request_duration_seconds"
    chat = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "fast"}
    assert value(samples, f"{duration}_count", **chat) == value(samples, f"{duration}_bucket", **chat, le="+Inf") == 1
    assert value(samples, f"{duration}_count", error_type="400") == 1
    assert value(samples, "gen_ai_client_token_usage_sum", **chat, gen_ai_token_type="input") == 7
    assert value(samples, "gen_ai_client_token_usage_bucket", **chat, gen_ai_token_type="input", le="4") == 0
    assert value(samples, "gen_ai_client_token_usage_bucket", **chat, gen_ai_token_type="input", le="16") == 1
    assert value(samples, "gen_ai_server_time_to_first_token_seconds_count", gen_ai_operation_name="chat") == 2
    assert value(samples, "trustgate_upstream_up", upstream="trustgate/echo") == 1
    assert value(samples, "trustgate_receipts_total") == 3
    text = httpx.get(f"{gateway.base_url}/metrics", trust_env=False).text
    for secret in (tenant.name, tenant.id, tenant.secret, "no-such-model-yet", "a-code", upstream.url, "127.0.0.1"):
        assert secret not in text


def test_a_key_shuts_it_and_labels_are_as_the_settings_say(gateway: Gateway, sign_up: SignUp) -> None:
    config = gateway.home / "trustgate.toml"
    config.write_text('[metrics]\nkey_env = "SCRAPE_KEY"\nlabels = ["model", "tenant"]\n')
    gateway.start()
    tenant = sign_up(gateway)
    assert tenant.chat().status_code == 200
    assert httpx.post(f"{gateway.api_url}/chat/completions", json={}, trust_env=False).status_code == 401
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "scrape-with-this-key"}):
        refused = httpx.get(f"{gateway.base_url}/metrics", headers=headers, trust_env=False)
        assert refused.status_code == 401
        assert "trustgate_" not in refused.text
    samples = scrape(gateway, "scrape-with-this-key")
    assert value(samples, "trustgate_tenant_requests_total", tenant=tenant.name) == 1
    assert value(samples, "trustgate_tenant_tokens_total", tenant=tenant.name) > 0

    names = {name for name, _, _ in samples}
    assert len(dashboard_metrics()) > 12
    assert dashboard_metrics() <= names, "the dashboard asks for what is not served"
    labels = {label for _, given, _ in samples for label in given}
    assert dashboard_labels() <= labels | {"job"}

    config.write_text("[metrics]\nlabels = []\n")
    assert set(gateway.cli_json("reload")["changed"]) == {"metrics.key_env", "metrics.labels"}
    samples = scrape(gateway)
    assert value(samples, "trustgate_requests_total", status="200") == 1
    assert not any({"gen_ai_request_model", "tenant"} & labels.keys() for _, labels, _ in samples)


def test_names_that_callers_choose_are_bounded() -> None:
    counters = Counters(Catalog([Passport(id="any", slug="*", api_model_id="*")], []))
    for number in range(5 * MODELS_MOST):
        counters.count(make_receipt(number, model=f"m{number}", passport="any"))
        counters.count(make_receipt(number, model=f"x{number}", passport="", finish="refused", status=429))
        counters.count(make_receipt(number, model=f"y{number}", passport="gone"))
        error = UpstreamRefused("no", status=400, type="t", code=f"c{number}", param=None, headers={})
        counters.count_error(error)
        counters.count_error(NotFound("no", code=f"n{number}"))
    assert len({model for _, model, _, _ in counters.cells}) == MODELS_MOST + 1
    assert sum(cell.requests for cell in counters.cells.values()) == 15 * MODELS_MOST
    assert len(counters.errors) <= 102
    assert sum(counters.errors.values()) == 10 * MODELS_MOST


def test_of_requests_long_past_little_is_kept() -> None:
    """Whole receipts of the last thousands would take megabytes; live statistics need some members of each."""
    counters = Counters(Catalog([Passport(id="any", slug="*", api_model_id="*")], []))
    receipts = [
        make_receipt(seq, model="".join(("gpt", "-4o")), passport="any", latency_total_ms=seq % 90, prompt_tokens=seq)
        for seq in range(1, RECENT + 301)
    ]
    for receipt in receipts:
        counters.count(receipt)
    recent = list(counters.recent)
    assert load_of("all", recent, 1.0) == load_of("all", receipts[300:], 1.0)
    assert loads_by(recent, 1.0, counters.model_of, 2) == loads_by(receipts[300:], 1.0, counters.model_of, 2)
    assert in_window(recent, receipts[-1].created_us, 5.0)[1] == in_window(receipts, receipts[-1].created_us, 5.0)[1]
    assert list(counters.newest) == receipts[-100:]
    assert len({id(summary.model) for summary in recent}) == 1, "equal names are one text"


def test_credits_are_no_requests() -> None:
    counters = Counters(Catalog([], []))
    counters.count(make_receipt(finish="credited", passport="", model=""))
    assert counters.cells == {}


@pytest.mark.parametrize("name", ['a"b\\c\nd', "名\u202e"])
def test_any_tenant_can_be_named(name: str) -> None:
    text = f"x{_braces((('tenant', name),))} 1\n"
    assert len(parse(f"# TYPE x gauge\n{text}")) == 1
    assert "\u202e" not in text


def test_the_text_is_made_once_a_second_however_many_ask() -> None:
    made: list[int] = []

    def state() -> list[Metric]:
        made.append(len(made))
        return [Metric.of("trustgate.made", "counter", "How often this was made.", len(made))]

    async def ask_often() -> list[bytes]:
        settings = load_settings(Path("nowhere"), {})
        metrics = Metrics(lambda: settings, Counters(Catalog([], [])), state, str)
        sent: list[bytes] = []

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        async def receive() -> Any:
            raise AssertionError("nothing of a request for /metrics is read")

        loop, now = asyncio.get_running_loop(), [0.0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "time", lambda: now[0])
            for now[0] in (0.0, 0.1, 0.9, FRESH_S, 1.5):
                await metrics({"type": "http", "headers": []}, receive, send)
        return [body for body in sent if body]

    answers = asyncio.run(ask_often())
    assert len(answers) == 5
    assert len(made) == 2
    assert answers[0] == answers[2] != answers[3] == answers[4]
