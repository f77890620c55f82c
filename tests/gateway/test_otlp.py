"""Traces and metrics over OTLP: what arrives at a collector, what does not, and that nothing waits for one."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.conftest import GatewayFactory
from tests.environments import ROOT
from tests.gateway.conftest import HELLO, SignUp, Tenant
from tests.gateway.test_metrics import scrape, value
from tests.support.collector import Answer, Collector, attributes, running_collector
from tests.support.gateway import Gateway
from tests.support.processes import PATIENCE_S, clean_environment, wait_until
from tests.support.upstream import Gate, Reply, Upstream
from trustgate.observe.traces import Tracing
from trustgate.telemetry import REQUIREMENT
from trustgate.telemetry.sender import SPANS_MOST, Sender
from trustgate.telemetry.spans import provider_name

_IMPORTED = re.compile(r"^import time: .*\| +(opentelemetry|google|trustgate\.telemetry)(?:\.|$)", re.MULTILINE)
_TRACE, _PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def shared_collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture
def collector(shared_collector: Collector) -> Collector:
    shared_collector.spans.clear()
    return shared_collector


@pytest.fixture(scope="module")
def traced_gateway(
    make_module_gateway: GatewayFactory, shared_upstream: Upstream, shared_collector: Collector
) -> Gateway:
    return make_module_gateway(
        upstream=shared_upstream.api_url,
        environment={
            "COLLECTOR_HEADERS": "X-Key=col%20lector-secret",
            "TRUSTGATE_OTLP_ENDPOINT": f"{shared_collector.endpoint}/",
            "TRUSTGATE_OTLP_HEADERS_ENV": "COLLECTOR_HEADERS",
            "TRUSTGATE_OTLP_SERVICE_NAME": "gate",
            "TRUSTGATE_OTLP_ATTRIBUTES": "deployment.environment.name=test",
            "TRUSTGATE_OTLP_METRICS_EVERY_S": "1",
            "TRUSTGATE_UPSTREAM_FORWARD_HEADERS": "traceparent",
        },
    ).start()


@pytest.fixture
def traced(traced_gateway: Gateway, scripted: Upstream, collector: Collector, sign_up: SignUp) -> Tenant:
    return sign_up(traced_gateway)


def only_span(collector: Collector) -> tuple[Span, dict[str, Any]]:
    (span,) = collector.wait_for(1)
    return span, attributes(span.attributes)


@pytest.mark.parametrize(
    ("provider", "model", "said"),
    [
        ("openai", "gpt-4o", "openai"),
        ("openai", "anthropic/claude-x", "anthropic"),
        ("openai", "mistralai/some-model", "openai"),
        ("azure", "gpt-4o", "azure.ai.openai"),
        ("bedrock", "x", "aws.bedrock"),
        ("openrouter", "gemini/x", "gcp.gemini"),
        ("vllm", "org/model", "vllm"),
    ],
)
def test_the_provider_is_called_what_the_conventions_call_it(provider: str, model: str, said: str) -> None:
    assert provider_name(provider, model) == said


def test_a_request_is_a_span_after_the_conventions(
    traced: Tenant, traced_gateway: Gateway, collector: Collector, scripted: Upstream
) -> None:
    scripted.script(Reply.chat(usage={"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}))
    answer = traced.chat()
    assert answer.status_code == 200
    span, told = only_span(collector)
    receipt_id = answer.headers["x-trustgate-receipt"]
    (receipt,) = traced.receipts()
    url = httpx.URL(traced_gateway.base_url)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "gpt-4o",
        "gen_ai.response.time_to_first_chunk": receipt["latency_first_ms"] / 1000,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "server.address": url.host,
        "server.port": url.port,
        "url.scheme": "http",
        "trustgate.cost_nano_usd": 7 * 2_500 + 5 * 10_000,  # of a model that the price list knows
        "trustgate.finish": "complete",
        "trustgate.passport.id": receipt["passport"],
        "trustgate.receipt.id": receipt_id,
        "trustgate.request.id": answer.headers["x-request-id"],
        "trustgate.tenant.id": traced.id,
        "trustgate.upstream.address": httpx.URL(scripted.url).netloc.decode(),
        "trustgate.usage.source": "provider",
    }
    assert told == expected
    assert (span.name, span.kind, span.status.code) == ("chat gpt-4o", Span.SPAN_KIND_SERVER, Status.STATUS_CODE_UNSET)
    # Who has the receipt finds the trace.
    assert f"rcpt_{span.trace_id.hex()}" == receipt_id
    assert (span.span_id, span.parent_span_id) == (span.trace_id[8:], b"")
    assert span.start_time_unix_nano == receipt["created_us"] * 1000
    # By the clock of the wall; the receipt's latency is by the monotonic one, which may run a little ahead.
    lasted_ns = span.end_time_unix_nano - span.start_time_unix_nano
    assert lasted_ns >= (receipt["latency_total_ms"] - 1) * 1_000_000
    assert collector.resource["service.name"] == "gate"
    assert collector.resource["deployment.environment.name"] == "test"
    assert len(collector.resource["service.instance.id"]) > 8
    headers = next(headers for path, headers in collector.requests if path == "/v1/traces")
    assert (headers["x-key"], headers["content-type"]) == ("col lector-secret", "application/x-protobuf")


def test_a_span_takes_its_place_in_the_clients_trace_and_the_upstream_in_ours(
    traced: Tenant, collector: Collector, scripted: Upstream
) -> None:
    traced.http.headers["traceparent"] = f"00-{_TRACE}-{_PARENT}-01"
    traced.http.headers["tracestate"] = "vendor=1"
    with traced.stream() as stream:
        stream.read()
    span, told = only_span(collector)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (_TRACE, _PARENT)
    assert (span.trace_state, span.flags) == ("vendor=1", 0x301)
    assert told["gen_ai.request.stream"] is True
    sent = dict(scripted.requests[-1].headers)
    assert sent["traceparent"] == f"00-{_TRACE}-{span.span_id.hex()}-01"
    assert "tracestate" not in sent, "it was not to travel on"

    # A client that does not want its trace kept is not in the collector's; the next one is.
    traced.http.headers["traceparent"] = f"00-{_TRACE}-{_PARENT}-00"
    assert traced.chat().status_code == 200
    assert dict(scripted.requests[-1].headers)["traceparent"].endswith("-00")
    del traced.http.headers["traceparent"]
    assert traced.chat().status_code == 200
    collector.wait_for(2)
    assert [span.parent_span_id for span in collector.spans[1:]] == [b""]


def test_what_goes_wrong_is_told_and_what_was_said_is_not(
    traced: Tenant, collector: Collector, scripted: Upstream, traced_gateway: Gateway
) -> None:
    scripted.script(Reply.error(400, code="a-code-of-the-upstreams"))
    assert traced.chat(model="a-name-of-the-clients").status_code == 400
    assert traced.chat(messages=7).status_code == 400
    scripted.script(*[Reply.error(500, code="x")] * 3)
    assert traced.chat().status_code == 502
    refused = httpx.post(
        f"{traced_gateway.api_url}/chat/completions", json={}, headers={"authorization": "Bearer tg_nobody"}
    )
    assert refused.status_code == 401
    spans = {str(told.get("error.type")): (span, told) for span, told in _all(collector, 4)}
    assert spans.keys() == {"upstream_refused", "invalid_value", "upstream_error", "invalid_api_key"}
    failed = {name: span.status.code == Status.STATUS_CODE_ERROR for name, (span, _) in spans.items()}
    assert [name for name, is_failure in failed.items() if is_failure] == ["upstream_error"]
    statuses = {name: told["http.response.status_code"] for name, (_, told) in spans.items()}
    assert statuses == {"upstream_refused": 400, "invalid_value": 400, "upstream_error": 502, "invalid_api_key": 401}
    assert all("gen_ai.usage.input_tokens" not in told for _, told in spans.values())
    assert spans["invalid_api_key"][0].name == "chat"
    said = [HELLO[0]["content"], "Hello!", traced.secret, traced.key_id, "tg_nobody", "a-code-of", "col lector"]
    assert [word for word in said if word.encode() in collector.raw] == []


def test_a_client_that_hangs_up_has_a_span_and_is_no_refusal(
    traced: Tenant, collector: Collector, scripted: Upstream, traced_gateway: Gateway
) -> None:
    gate = Gate()
    scripted.script(Reply.chat_stream(["one", gate, "two"]))
    with traced.stream() as stream:
        next(stream.iter_lines())
    span, told = only_span(collector)
    gate.open()
    assert (told["error.type"], told["trustgate.finish"]) == ("client_gone", "client_gone")
    assert told["http.response.status_code"] == 499
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert told["gen_ai.usage.input_tokens"] > 0
    assert value(scrape(traced_gateway), "trustgate_errors_total", code="shutting_down") == 0


def test_metrics_are_those_that_are_scraped(traced: Tenant, collector: Collector, traced_gateway: Gateway) -> None:
    assert traced.chat().status_code == 200
    (span,) = collector.wait_for(1)
    asked = scrape(traced_gateway)

    def is_new() -> bool:
        """Both are of after the request: what is scraped may be a second old."""
        nonlocal asked
        asked = scrape(traced_gateway)
        metric = collector.metrics.get("trustgate.receipts")
        if metric is None:
            return False
        (point,) = metric.sum.data_points
        is_later = point.time_unix_nano > span.end_time_unix_nano
        return is_later and point.as_int == value(asked, "trustgate_receipts_total")

    wait_until(is_new, "metrics as new as the scrape")
    duration = collector.metrics["gen_ai.server.request.duration"]
    assert duration.unit == "s"
    assert duration.histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    for point in duration.histogram.data_points:
        labels = {name.replace(".", "_"): text for name, text in attributes(point.attributes).items()}
        exact = [
            (name, number)
            for name, given, number in asked
            if name.startswith("gen_ai_server_request_duration_seconds_")
            and {label: text for label, text in given.items() if label != "le"} == labels
        ]
        counts = [number for name, number in exact if name.endswith("_bucket")]
        assert [sum(point.bucket_counts[: end + 1]) for end in range(len(point.bucket_counts))] == counts
        assert point.count == counts[-1]
        assert point.sum == pytest.approx(next(number for name, number in exact if name.endswith("_sum")))
        assert len(point.explicit_bounds) == len(point.bucket_counts) - 1
        assert 0 < point.start_time_unix_nano < span.start_time_unix_nano < point.time_unix_nano
    for name, unit in (("gen_ai.client.token.usage", "{token}"), ("gen_ai.server.time_to_first_token", "s")):
        assert (collector.metrics[name].unit, len(collector.metrics[name].histogram.data_points) > 0) == (unit, True)
    requests = collector.metrics["trustgate.requests"].sum
    assert requests.is_monotonic
    assert sum(point.as_int for point in requests.data_points) == value(asked, "trustgate_requests_total")
    assert value(asked, "trustgate_otlp_spans_total", outcome="sent") > 0
    assert value(asked, "trustgate_otlp_spans_total", outcome="dropped") == 0


def _all(collector: Collector, count: int) -> list[tuple[Span, dict[str, Any]]]:
    return [(span, attributes(span.attributes)) for span in collector.wait_for(count)]


# a collector that does not do as it should


def test_a_collector_that_is_away_delays_nobody_and_gets_everything_later(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    with running_collector() as collector:
        collector.stop()
        environment = {"TRUSTGATE_OTLP_ENDPOINT": collector.endpoint, "TRUSTGATE_OTLP_SIGNALS": "traces"}
        gateway = make_gateway(upstream=upstream.api_url, environment=environment).start()
        tenant = sign_up(gateway)
        assert tenant.chat().status_code == 200
        wait_until(lambda: "does not accept traces" in gateway.logs(), "the warning")
        assert tenant.chat().status_code == 200
        # Its span is made once the answer is out.
        wait_until(lambda: value(scrape(gateway), "trustgate_otlp_waiting") == 2, "both to wait")
        assert value(scrape(gateway), "trustgate_otlp_failing", signal="traces") == 1
        # Too busy, then failing for good: the first is tried again at once, what the second was given is dropped.
        collector.script(Answer(429, {"retry-after": "0"}), Answer(400))
        collector.start()
        wait_until(lambda: value(scrape(gateway), "trustgate_otlp_spans_total", outcome="dropped") > 0, "a drop")
        assert tenant.chat().status_code == 200
        collector.wait_for(1)
        wait_until(lambda: value(scrape(gateway), "trustgate_otlp_failing", signal="traces") == 0, "its end")
        collector.script(Answer(leaves=1))
        assert tenant.chat().status_code == 200
        dropped = value(scrape(gateway), "trustgate_otlp_spans_total", outcome="dropped")
        wait_until(lambda: value(scrape(gateway), "trustgate_otlp_spans_total", outcome="dropped") > dropped, "a drop")
        assert gateway.logs().count("the OTLP collector at") == 1, "once in a while, not each time"

        # What waits at the end is sent before it, and the answer to it then does not matter.
        collector.script(Answer(body=b"<html>"))
        sent = len(collector.spans)
        assert tenant.chat().status_code == 200
        assert gateway.stop() == 0
        assert len(collector.spans) == sent + 1
        assert {path for path, _ in collector.requests} == {"/v1/traces"}


def test_a_stop_waits_for_no_collector_that_hangs(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    with running_collector() as collector:
        collector.gate.clear()
        gateway = make_gateway(
            upstream=upstream.api_url, environment={"TRUSTGATE_OTLP_ENDPOINT": collector.endpoint}
        ).start()
        tenant = sign_up(gateway)
        assert tenant.chat().status_code == 200
        assert gateway.stop(timeout_s=30) == 0
        assert "1 spans were not sent" in gateway.logs()


def test_what_waits_is_bounded() -> None:
    sender = Sender("http://127.0.0.1:9", {}, lambda ended: b"")
    for _ in range(SPANS_MOST + 3):
        sender.add(None)  # type: ignore[arg-type] # what it is does not matter until it is sent
    assert sender.counts == (0, 3, SPANS_MOST)


# off, and not there


def test_nothing_of_it_is_loaded_where_nothing_is_sent(
    make_gateway: GatewayFactory, upstream: Upstream, sign_up: SignUp
) -> None:
    gateway = make_gateway(
        upstream=upstream.api_url,
        environment={"PYTHONPROFILEIMPORTTIME": "1", "TRUSTGATE_UPSTREAM_FORWARD_HEADERS": "traceparent"},
    ).start()
    tenant = sign_up(gateway)
    tenant.http.headers["traceparent"] = f"00-{_TRACE}-{_PARENT}-01"
    assert tenant.chat().status_code == 200
    sent = dict(upstream.requests[-1].headers)
    assert sent["traceparent"] == f"00-{_TRACE}-{_PARENT}-01", "without spans of our own it travels as it is"
    assert "otlp" not in " ".join(name for name, _, _ in scrape(gateway))
    assert gateway.stop() == 0
    told = gateway.logs()
    assert "trustgate.observe.traces" in told, "imports are told"
    assert sorted(set(_IMPORTED.findall(told))) == []


def test_without_the_extra_the_start_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    hidden = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "TRUSTGATE_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    command = [sys.executable, "-m", "trustgate", "--home", str(tmp_path / "home"), "serve", "--port", "0"]
    failed = subprocess.run(
        command, env=clean_environment(hidden), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert failed.returncode == 2
    assert f"-m pip install '{REQUIREMENT}'" in " ".join(failed.stderr.split())
    assert "Traceback" not in failed.stderr


def test_what_is_said_to_install_is_the_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["otlp"] == [REQUIREMENT]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TRUSTGATE_OTLP_ENDPOINT": "localhost:4318"}, "must begin with http"),
        ({"TRUSTGATE_OTLP_ENDPOINT": "builtin:echo"}, "must begin with http"),
        ({"TRUSTGATE_OTLP_ATTRIBUTES": "env"}, "not name=value"),
        ({"TRUSTGATE_OTLP_HEADERS_ENV": "x-key=secret"}, "name of an environment variable"),
        ({"TRUSTGATE_OTLP_HEADERS_ENV": "NONE"}, "NONE is not set"),
        ({"TRUSTGATE_OTLP_HEADERS_ENV": "BAD", "BAD": "just-a-secret"}, "BAD does not hold headers"),
        ({"TRUSTGATE_OTLP_HEADERS_ENV": "BAD", "BAD": "x-key=secret%0d%0a"}, "BAD does not hold headers"),
        ({"TRUSTGATE_OTLP_HEADERS_ENV": "BAD", "BAD": "content-type=secret"}, "BAD does not hold headers"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trustgate.errors import SettingsError
    from trustgate.settings import load_settings

    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError, match=said) as caught:
        load_settings(tmp_path).otlp_headers()
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


# the trace context


@pytest.mark.parametrize(
    ("traceparent", "is_taken"),
    [
        (f"00-{_TRACE}-{_PARENT}-01", True),
        (f"00-{_TRACE}-{_PARENT}-ff", True),
        (f"cc-{_TRACE}-{_PARENT}-01", True),
        (f"cc-{_TRACE}-{_PARENT}-01-what-the-future-has", True),
        (f"00-{_TRACE}-{_PARENT}-01-more", False),
        (f"cc-{_TRACE}-{_PARENT}-01.more", False),
        (f"ff-{_TRACE}-{_PARENT}-01", False),
        (f"00-{'0' * 32}-{_PARENT}-01", False),
        (f"00-{_TRACE}-{'0' * 16}-01", False),
        (f"00-{_TRACE.upper()}-{_PARENT}-01", False),
        (f"00-{_TRACE}-{_PARENT}", False),
        ("", False),
    ],
)
def test_a_traceparent_is_read_as_the_standard_says(traceparent: str, is_taken: bool) -> None:
    own = "019b2f3c4d5e" + "0123456789abcdef0123"
    context = Tracing(1.0).context({b"traceparent": traceparent.encode(), b"tracestate": b"a=1"}, f"rcpt_{own}")
    assert context.span_id == own[16:]
    assert (context.trace_id, context.parent_id, context.state) == (
        (_TRACE, _PARENT, "a=1") if is_taken else (own, "", "")
    )
    assert context.is_sampled


def test_a_part_of_the_traces_is_kept() -> None:
    ids = [f"rcpt_{0:012x}{number << 60:020x}" for number in range(16)]
    for ratio, kept in ((0.0, 0), (0.25, 4), (1.0, 16)):
        tracing = Tracing(ratio)
        assert sum(tracing.context({}, each).is_sampled for each in ids) == kept
