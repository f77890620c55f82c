"""The upstream client against a scripted transport: retries, fallbacks, breakers, and what clients are told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from trustgate.errors import NotFound, Unavailable, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from trustgate.models.catalog import Catalog
from trustgate.models.upstream.breaker import Breaker
from trustgate.models.upstream.client import Answer, Outgoing, UpstreamClient
from trustgate.models.upstream.probe import probe
from trustgate.models.upstream.targets import Targets
from trustgate.types import Fallback, Passport

SECRET = "sk-upstream-credential"
OK: dict[str, Any] = {"choices": []}

Step = httpx.Response | Exception


class Script(httpx.AsyncBaseTransport):
    """Answers each request with the next step of its host's script; the last step repeats."""

    def __init__(self, **hosts: list[Step]) -> None:
        self.hosts = hosts
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        steps = self.hosts[request.url.host]
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, Exception):
            raise step
        return httpx.Response(step.status_code, headers=step.headers, stream=httpx.ByteStream(step.content))

    @property
    def asked(self) -> list[str]:
        return [request.url.host for request in self.requests]


def passport(slug: str, **more: Any) -> Passport:
    return Passport(id=f"passport_{slug}", slug=slug, api_model_id=slug, base_url=f"http://{slug}/v1", **more)


class World:
    def __init__(self, script: Script, *passports: Passport, retries: int = 2) -> None:
        self.script = script
        self.catalog = Catalog(passports, [])
        self.targets = Targets(self.catalog, "http://default/v1", lambda _: SECRET)
        self.waits: list[float] = []
        self.client = UpstreamClient(
            retries=retries,
            connect_timeout_s=1,
            read_timeout_s=1,
            max_connections=1,
            transports={"http": script},
            wait=self._wait,
        )

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def fetch(self, model: str = "a", deadline: float | None = None) -> Answer:
        return await self.client.fetch(
            self.targets.route(model, self.catalog.resolve(model)),
            Outgoing(
                path="/chat/completions",
                body_for=lambda target: b'{"model":"%b"}' % target.model.encode(),
                headers=[("content-type", "application/json")],
            ),
            deadline=deadline,
        )


def json_response(status: int = 200, body: Any = OK, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers=headers)


async def test_the_credential_travels_to_the_upstream_and_the_answer_back() -> None:
    world = World(Script(a=[json_response()]), passport("a"))
    answer = await world.fetch()
    request = world.script.requests[0]
    assert str(request.url) == "http://a/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert (answer.status, answer.body, answer.is_stream) == (200, b'{"choices":[]}', False)


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError("x"), httpx.ReadError("x"), json_response(500), json_response(503)]
)
async def test_a_passing_failure_is_retried_with_growing_pauses(failure: Step) -> None:
    world = World(Script(a=[failure, failure, json_response()]), passport("a"))
    assert (await world.fetch()).status == 200
    assert len(world.script.requests) == 3
    first, second = world.waits
    assert 0.1 <= first <= 0.2 <= second <= 0.4


async def test_a_short_retry_after_is_waited_for_and_a_long_one_is_passed_on() -> None:
    world = World(Script(a=[json_response(429, **{"retry-after": "2"}), json_response()]), passport("a"))
    await world.fetch()
    assert world.waits == [2.0]
    world = World(
        Script(a=[json_response(429, {"error": {"message": "slow down"}}, **{"retry-after": "60"})]), passport("a")
    )
    with pytest.raises(UpstreamRefused, match="slow down") as caught:
        await world.fetch()
    assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "60"})
    assert len(world.script.requests) == 1


async def test_no_retry_begins_that_the_deadline_would_cut() -> None:
    world = World(Script(a=[json_response(500)]), passport("a"))
    with pytest.raises(UpstreamFailed):
        await world.fetch(deadline=0.0)
    assert len(world.script.requests) == 1


async def test_fallbacks_are_tried_in_the_order_of_their_ranks() -> None:
    first = passport("a", fallbacks=(Fallback(passport="c", rank=2), Fallback(passport="b", rank=1)))
    script = Script(a=[json_response(500)], b=[json_response(500)], c=[json_response()])
    world = World(script, first, passport("b"), passport("c"), retries=0)
    answer = await world.fetch()
    assert script.asked == ["a", "b", "c"]
    assert answer.target.passport.slug == "c"
    assert script.requests[-1].content == b'{"model":"c"}'


async def test_within_a_rank_the_weights_decide_and_everyone_gets_a_turn() -> None:
    ranks = (Fallback(passport="b", weight=9), Fallback(passport="c", weight=1))
    script = Script(a=[json_response(500)], b=[json_response(500)], c=[json_response(500)])
    world = World(script, passport("a", fallbacks=ranks), passport("b"), passport("c"), retries=0)
    seconds = []
    for _ in range(200):
        resolved = world.catalog.resolve("a")
        order = [target.passport.slug for target in world.targets.route("a", resolved)]
        assert sorted(order) == ["a", "b", "c"]
        seconds.append(order[1])
    assert 150 < seconds.count("b") < 198


async def test_a_request_the_upstream_calls_wrong_is_tried_nowhere_else() -> None:
    body = {"error": {"message": "bad temperature", "type": "invalid_request_error", "param": "temperature", "code": 7}}
    script = Script(a=[json_response(400, body)], b=[json_response()])
    world = World(script, passport("a", fallbacks=(Fallback(passport="b"),)), passport("b"))
    with pytest.raises(UpstreamRefused) as caught:
        await world.fetch()
    assert script.asked == ["a"]
    assert caught.value.to_openai() == {
        "error": {"message": "bad temperature", "type": "invalid_request_error", "param": "temperature", "code": "7"}
    }


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_credential_is_the_operators_trouble_not_the_callers(status: int) -> None:
    body = {"error": {"message": f"Incorrect API key {SECRET}"}}
    world = World(Script(a=[json_response(status, body)]), passport("a"))
    with pytest.raises(UpstreamFailed) as caught:
        await world.fetch()
    assert (caught.value.status, caught.value.code) == (502, "upstream_authentication_error")
    assert SECRET not in caught.value.message
    assert len(world.script.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        f"key {SECRET} is wrong",
        "see http://user:pw@a.internal:4000/v1/x",
        "key sk-abcdefgh12345678 expired",
        "cannot connect to internal.example:8443",
        "no route to internal.example",
    ],
)
async def test_what_an_upstream_says_is_cleaned_of_addresses_and_keys(message: str) -> None:
    target = replace(passport("a"), base_url="http://internal.example:8443/v1")
    script = Script()
    script.hosts["internal.example"] = [json_response(400, {"error": {"message": message}})]
    world = World(script, target)
    with pytest.raises(UpstreamRefused) as caught:
        await world.fetch()
    said = caught.value.message
    assert "…" in said
    assert not any(secret in said for secret in (SECRET, "internal", "sk-abc", "pw@"))


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(200, html="<h1>hi</h1>"), "not a JSON object"),
        (httpx.Response(200, text=""), "not a JSON object"),
        (httpx.Response(302, headers={"location": "http://elsewhere/"}), "status 302"),
        (httpx.Response(502, html="<h1>Bad gateway</h1>"), "status 502"),
        (httpx.Response(200, headers={"content-type": "text/event-stream"}, content=b""), "before it began"),
    ],
)
async def test_nonsense_is_a_failure_of_the_upstream(response: httpx.Response, said: str) -> None:
    world = World(Script(a=[response]), passport("a"), retries=0)
    with pytest.raises(UpstreamFailed, match=said) as caught:
        await world.fetch()
    assert caught.value.status == 502
    assert "<" not in caught.value.message


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (httpx.ReadTimeout("x"), UpstreamTimeout, "in time"),
        (httpx.ConnectError("http://secret:1"), UpstreamFailed, "could not be reached"),
        (httpx.ReadError("http://secret:1"), UpstreamFailed, "broke off"),
        (ValueError("http://secret:1"), UpstreamFailed, "broke off"),
    ],
)
async def test_failures_on_the_way_are_told_without_detail(
    error: Exception, kind: type[UpstreamFailed], said: str
) -> None:
    world = World(Script(a=[error]), passport("a"), retries=0)
    with pytest.raises(kind, match=said) as caught:
        await world.fetch()
    assert "secret" not in caught.value.message


async def test_after_failures_in_a_row_a_target_rests_and_its_clients_are_told_when_to_return() -> None:
    world = World(Script(a=[json_response(500)]), passport("a"), retries=0)
    for _ in range(5):
        with pytest.raises(UpstreamFailed):
            await world.fetch()
    with pytest.raises(Unavailable) as caught:
        await world.fetch()
    assert caught.value.code == "model_unavailable"
    assert int(caught.value.headers["retry-after"]) in (4, 5)
    assert len(world.script.requests) == 5
    resting = world.catalog.resolve("a")
    assert resting is not None and not world.targets.is_available(resting.passport, "a")


async def test_a_model_nobody_answers_for_is_not_found() -> None:
    world = World(Script(), passport("a"))
    with pytest.raises(NotFound) as caught:
        await world.fetch("b")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_streams_first_bytes_are_in_hand_before_it_is_an_answer() -> None:
    stream = httpx.Response(
        200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=b"\n\ndata: x\n\n"
    )
    world = World(Script(a=[stream]), passport("a"))
    answer = await world.fetch()
    assert answer.is_stream
    assert b"".join([chunk async for chunk in answer.chunks()]) == b"\n\ndata: x\n\n"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_tries_one_and_rests_longer_each_time() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(5):
        assert breaker.admit()
        breaker.failed()
    assert not breaker.admit()
    clock.now += 5
    assert breaker.admit()
    assert not breaker.admit(), "one trial at a time"
    breaker.failed()
    clock.now += 9.9
    assert not breaker.admit()
    clock.now += 0.2
    assert breaker.admit()
    breaker.abandoned()
    assert breaker.admit(), "a trial without a verdict lets the next request try"
    breaker.succeeded()
    assert breaker.admit() and breaker.admit()
    assert not breaker.is_open


@pytest.mark.parametrize(
    ("step", "healthy", "detail", "models"),
    [
        (json_response(200, {"data": [{"id": "x"}, {"id": "y"}]}), True, "2 models", ("x", "y")),
        (json_response(404), True, "reachable", ()),
        (httpx.Response(200, text="hello"), True, "reachable", ()),
        (json_response(401), False, "credentials", ()),
        (json_response(500), False, "status 500", ()),
        (httpx.ConnectError("x"), False, "could not be reached", ()),
    ],
)
async def test_a_probe_notes_what_it_finds(step: Step, healthy: bool, detail: str, models: tuple[str, ...]) -> None:
    world = World(Script(a=[step]), passport("a"))
    upstream = world.targets.upstream_of(world.catalog.passport("a"))
    await probe(upstream, world.client)
    assert upstream.healthy is healthy
    assert detail in upstream.detail
    assert upstream.models == models


async def test_a_credential_that_cannot_be_read_makes_its_upstream_unavailable() -> None:
    from trustgate.errors import SettingsError

    def fail(_: Passport) -> str:
        raise SettingsError("The variable OPENAI_API_KEY is not set.")

    targets = Targets(Catalog([passport("a")], []), "http://default/v1", fail)
    resolved = passport("a")
    assert not targets.is_available(resolved, "a")
    assert targets.upstream_of(resolved).detail == "The variable OPENAI_API_KEY is not set."
