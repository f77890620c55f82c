"""The upstream client against a scripted transport: retries, fallbacks, breakers, and what clients are told."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple

import httpx
import pytest
from msgspec.structs import replace

from tests.support.upstream import DONE, delta
from trustgate.errors import NotFound, Unavailable, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from trustgate.models.catalog import Catalog, Resolved
from trustgate.models.metering.chunks import StreamMeter
from trustgate.models.metering.whole import read_answer
from trustgate.models.pricing import PriceTable
from trustgate.models.upstream.answer import Answer
from trustgate.models.upstream.breaker import Breaker
from trustgate.models.upstream.client import Outgoing, UpstreamClient
from trustgate.models.upstream.probe import probe
from trustgate.models.upstream.targets import Target, Targets
from trustgate.types import Fallback, HeaderValue, Passport, Profile, ProfileRules

SECRET = "sk-upstream-credential"
OK: dict[str, Any] = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}

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

    async def fetch(self, model: str = "a", *, deadline: float | None = None, **members: Any) -> Answer:
        prompt_tokens = members.get("prompt_tokens", 0)
        resolved = self.catalog.resolve(model)
        targets = self.targets.route(model, resolved, "chat.completions", prompt_tokens=prompt_tokens)
        return await self.client.fetch(targets, outgoing(model, **members), deadline=deadline)


def outgoing(model: str, **members: Any) -> Outgoing:
    return Outgoing(
        **{
            "path": "/chat/completions",
            "body_for": lambda target: b'{"model":"%b"}' % target.model.encode(),
            "headers": [("content-type", "application/json")],
            "model": model,
            "form": "chat",
            "meter": read_answer,
            "stream_meter": StreamMeter,
            **members,
        }
    )


def json_response(status: int = 200, body: Any = OK, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers=headers)


async def test_the_credential_travels_to_the_upstream_and_the_answer_back() -> None:
    world = World(Script(a=[json_response()]), passport("a"))
    answer = await world.fetch()
    request = world.script.requests[0]
    assert str(request.url) == "http://a/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert (answer.status, json.loads(answer.body), answer.is_stream) == (200, OK, False)


async def test_what_is_read_of_a_large_answer_is_what_it_was_taken_apart_to() -> None:
    class Apart(NamedTuple):
        skeleton: bytes
        hash: object = None

    apart = Apart(json.dumps({**OK, "model": "of the skeleton"}).encode())

    async def take_apart(body: bytes) -> Apart:
        assert json.loads(body) == OK
        return apart

    world = World(Script(a=[json_response()]), passport("a"))
    answer = await world.fetch(take_apart=take_apart)
    assert answer.reported is not None
    assert (answer.apart, answer.reported.model, json.loads(answer.body)) == (apart, "of the skeleton", OK)


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
        (httpx.Response(200, json={"choices": []}), "holds nothing"),
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


def with_fallback(a: list[Step], *, retries: int = 0) -> World:
    return World(
        Script(a=a, b=[json_response()]),
        passport("a", fallbacks=(Fallback(passport="b"),)),
        passport("b"),
        retries=retries,
    )


async def test_a_target_that_fails_for_several_callers_rests_and_its_fallback_serves() -> None:
    world = with_fallback([json_response(500)], retries=2)
    for number in range(7):
        await world.fetch(caller=f"tenant-{number % 2}")
    assert world.script.asked.count("a") == 5 * 3, "each request counts once, whatever its tries"
    resting = world.catalog.resolve("a")
    assert resting is not None and not world.targets.is_available(resting.passport, "a")


async def test_what_fails_for_one_caller_alone_is_no_verdict_on_the_server() -> None:
    world = with_fallback([json_response(500)])
    for _ in range(20):
        await world.fetch(caller="tenant-1")
    assert world.script.asked.count("a") == 20


async def test_the_health_probe_is_a_second_witness() -> None:
    world = with_fallback([json_response(500)])
    await probe(world.targets.upstream_of(world.catalog.passport("a")), world.client)
    world.script.requests.clear()
    for _ in range(4):
        await world.fetch(caller="tenant-1")
    assert world.script.asked.count("a") == 2


async def test_the_only_target_is_asked_once_while_it_rests_and_its_clients_are_told_when_to_return() -> None:
    world = World(Script(a=[httpx.ConnectError("x")]), passport("a"), retries=2)
    for _ in range(2):
        with pytest.raises(UpstreamFailed):
            await world.fetch()
    asked = len(world.script.requests)
    with pytest.raises(Unavailable, match="'a'") as caught:
        await world.fetch()
    assert caught.value.code == "model_unavailable"
    assert int(caught.value.headers["retry-after"]) in (4, 5)
    assert len(world.script.requests) == asked + 1
    world.script.hosts["a"] = [json_response()]
    assert (await world.fetch()).status == 200
    assert (await world.fetch()).status == 200


def test_what_an_upstream_made_is_looked_for_there() -> None:
    made, revoked = passport("a"), passport("b", status="revoked")
    targets = World(Script(), made, revoked).targets
    found = targets.made_by(made.id, "its-name")
    assert (found.upstream.base_url, found.model) == ("http://a/v1", "its-name")
    assert targets.made_by("", "").upstream.base_url == "http://default/v1"
    for gone in (revoked.id, "passport_none"):
        with pytest.raises(Unavailable, match="no longer served"):
            targets.made_by(gone, "b")


def test_an_upstream_is_not_probed_at_first() -> None:
    upstream = World(Script(), passport("a")).targets.made_by("passport_a", "a").upstream
    assert (upstream.healthy, upstream.detail, upstream.models) == (None, "not probed yet", ())


def test_fallbacks_are_chosen_by_weight_and_none_weighs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []

    def choices(self: random.Random, left: Sequence[int], by: list[int]) -> list[int]:
        drawn.append(by)
        return list(left[:1])

    monkeypatch.setattr(random.Random, "choices", choices)
    ranks = tuple(Fallback(passport=name, weight=weight) for name, weight in zip("bcd", (0, 1, 9), strict=True))
    world = World(Script(), passport("a", fallbacks=ranks), *map(passport, "bcd"))
    world.targets.route("a", world.catalog.resolve("a"), "chat.completions")
    assert drawn == [[1, 1, 9], [1, 9]]


async def test_a_breaker_is_of_one_kind_of_endpoint() -> None:
    world = with_fallback([httpx.ConnectError("x")])
    for _ in range(3):
        await world.fetch()
    resolved = world.catalog.resolve("a")
    assert resolved is not None
    assert world.targets.route("a", resolved, "chat.completions")[0].breaker.is_open
    assert not world.targets.route("a", resolved, "embeddings")[0].breaker.is_open
    assert world.targets.is_available(resolved.passport, "a"), "for embeddings"


# what is repeated


@pytest.mark.parametrize("failure", [httpx.ReadTimeout("x"), json_response(504), httpx.Response(200, html="<p>hi</p>")])
async def test_what_may_have_been_worked_on_is_not_asked_for_again(failure: Step) -> None:
    world = World(Script(a=[failure, json_response()]), passport("a"))
    with pytest.raises(UpstreamFailed) as caught:
        await world.fetch()
    assert len(world.script.requests) == 1
    assert caught.value.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("headers", "waited", "passed"),
    [
        ({"retry-after": "2"}, [2.0], None),
        ({"retry-after-ms": "1500"}, [1.5], None),
        ({"retry-after": "nan"}, None, None),
        ({"retry-after": "-1"}, None, None),
        ({"retry-after": "1e400"}, None, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, [0.0], None),
        ({"retry-after": "soon"}, None, None),
        ({"retry-after-ms": "60000", "retry-after": "1"}, [], {"retry-after": "60", "retry-after-ms": "60000"}),
        ({"retry-after": "30.2"}, [], {"retry-after": "31"}),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_obeyed_or_passed_on(
    status: int, headers: dict[str, str], waited: list[float] | None, passed: dict[str, str] | None
) -> None:
    """``waited`` None: the usual pause."""
    world = World(Script(a=[json_response(status, **headers), json_response()]), passport("a"))
    if passed is not None:
        with pytest.raises(UpstreamFailed) as caught:
            await world.fetch()
        assert {name: value for name, value in caught.value.headers.items() if name.startswith("retry")} == passed
        return
    await world.fetch()
    assert world.waits == waited if waited is not None else 0.1 <= world.waits[0] <= 0.2


async def test_a_date_to_retry_after_is_passed_on_in_seconds() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    world = World(Script(a=[json_response(503, **{"retry-after": later})]), passport("a"))
    with pytest.raises(UpstreamFailed) as caught:
        await world.fetch()
    assert 85 <= int(caught.value.headers["retry-after"]) <= 90


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (402, {"error": {"message": "Insufficient Balance"}}, (502, "upstream_payment_required")),
        (403, {"error": {"message": "Your input was flagged"}}, (403, None)),
        (403, {"error": {"message": "Invalid API key for model x"}}, (502, "upstream_authentication_error")),
        (404, {"error": {"message": "no such model", "code": "model_not_found"}}, (404, "model_not_found")),
        (424, {"detail": "a dependency failed"}, (424, None)),
        (451, {"message": "not here"}, (451, None)),
        (
            400,
            {"error": {"message": "maximum context length is 8", "code": "context_length_exceeded"}},
            (400, "context_length_exceeded"),
        ),
        (501, {"error": {"message": "no embeddings here", "code": 501}}, (501, "501")),
        (500, {"error": {"message": "image input is not supported", "code": 500}}, (500, "500")),
    ],
)
async def test_what_another_target_may_take_goes_to_the_fallback_and_is_not_repeated(
    status: int, body: Any, told: tuple[int, str | None]
) -> None:
    world = with_fallback([json_response(status, body)], retries=2)
    assert (await world.fetch()).target.passport.slug == "b"
    assert world.script.asked == ["a", "b"]
    alone = World(Script(a=[json_response(status, body)]), passport("a"))
    for _ in range(6):
        with pytest.raises(UpstreamFailed) as caught:
            await alone.fetch()
        assert (caught.value.status, caught.value.code) == told
    assert len(alone.script.requests) == 6, "none of these is a verdict on the server"


TOO_LONG = {"error": {"message": "maximum context length is 8", "code": "context_length_exceeded"}}


@pytest.mark.parametrize(
    ("of_a", "prompt_tokens", "asked"),
    [
        # A larger one is asked before the other fallbacks, of which those as small as the first are not asked at all.
        (json_response(400, TOO_LONG), 0, ["a", "large", "b"]),
        # What an upstream reports in an answer that is no failure by its status.
        (json_response(200, TOO_LONG), 0, ["a", "large", "b"]),
        # Another failure goes to the other fallbacks alone.
        (json_response(500), 0, ["a", "small", "b"]),
        # A prompt that is known to be too long goes to what is large enough first.
        (json_response(), 500, ["b"]),
    ],
    ids=["refused", "told", "failed", "known"],
)
async def test_a_prompt_that_is_too_long_goes_to_a_larger_model(
    of_a: httpx.Response, prompt_tokens: int, asked: list[str]
) -> None:
    further = (Fallback(passport="small"), Fallback(passport="b", rank=2))
    larger = (Fallback(passport="tiny", only_too_long=True), Fallback(passport="large", rank=2, only_too_long=True))
    world = World(
        Script(a=[of_a], b=[json_response()], small=[json_response(500)], large=[json_response(503, TOO_LONG)]),
        passport("a", fallbacks=(*larger, *further), context_length=100),
        *(passport("small", context_length=100), passport("b", context_length=900)),
        *(passport("tiny", context_length=50), passport("large", context_length=800)),
        retries=0,
    )
    answer = await world.fetch(prompt_tokens=prompt_tokens)
    assert (world.script.asked, answer.target.passport.slug) == (asked, asked[-1])


async def test_what_is_known_to_be_too_long_for_all_others_is_asked_of_the_larger_one_alone() -> None:
    first = passport("a", fallbacks=(Fallback(passport="large", only_too_long=True),), context_length=100)
    script = Script(a=[json_response(400, TOO_LONG)], large=[json_response(), json_response(400, TOO_LONG)])
    world = World(script, first, passport("large", context_length=800))
    assert (await world.fetch(prompt_tokens=500)).target.passport.slug == "large"
    with pytest.raises(UpstreamFailed) as caught:
        await world.fetch(prompt_tokens=500)
    assert (caught.value.code, script.asked) == ("context_length_exceeded", ["large", "large"])


async def test_where_the_larger_model_alone_can_answer_it_is_asked_as_any_other() -> None:
    """A conversation that is kept at its server goes on there."""
    first = passport("a", fallbacks=(Fallback(passport="large", only_too_long=True),))
    world = World(Script(large=[json_response(503), json_response()]), first, passport("large"), retries=1)
    found = world.targets.route("a", world.catalog.resolve("a"), "responses")
    larger = [target for target in found if target.only_too_long]
    answer = await world.client.fetch(larger, outgoing("a"), deadline=None)
    assert (world.script.asked, answer.target.passport.slug) == (["large", "large"], "large")


async def test_a_model_for_prompts_that_are_too_long_does_not_answer_for_one_that_failed() -> None:
    first = passport("a", fallbacks=(Fallback(passport="large", only_too_long=True),))
    world = World(Script(a=[json_response(500)], large=[json_response()]), first, passport("large"), retries=0)
    with pytest.raises(UpstreamFailed):
        await world.fetch()
    assert world.script.asked == ["a"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"detail": [{"loc": ["body", "tools"], "msg": "field required", "type": "missing"}]}, "field required"),
        ({"detail": "just a text"}, "just a text"),
        ({"message": "a message alone"}, "a message alone"),
        ({"error": "a text"}, "a text"),
        ({"errors": [{"message": "one of a list"}]}, "one of a list"),
        ({"object": "error", "message": "vLLM's old way", "code": 400}, "vLLM's old way"),
    ],
)
@pytest.mark.parametrize("status", [422, 500])
async def test_the_reason_survives_in_every_shape(status: int, body: Any, reason: str) -> None:
    world = World(Script(a=[json_response(status, body)]), passport("a"), retries=0)
    with pytest.raises(UpstreamFailed, match=reason):
        await world.fetch()


async def test_a_reason_in_plain_text_survives_and_a_stack_trace_does_not() -> None:
    text = 'cache is full at 10.1.2.3:9000\nTraceback (most recent call last):\n  File "/srv/app.py", line 3'
    world = World(Script(a=[httpx.Response(500, text=text)]), passport("a"), retries=0)
    with pytest.raises(UpstreamFailed) as caught:
        await world.fetch()
    assert caught.value.message == "The upstream failed (status 500): cache is full at …"


async def test_the_model_is_called_what_the_client_calls_it() -> None:
    named = replace(passport("a"), slug="nice-name", api_model_id="internal/deployment-7")
    world = World(
        Script(a=[json_response(404, {"error": {"message": "The model `internal/deployment-7` does not exist"}})]),
        named,
    )
    with pytest.raises(UpstreamRefused, match="The model `nice-name` does not exist"):
        await world.fetch("nice-name")


# what an answer is


FAILURES_WITH_200: list[tuple[Any, int]] = [
    ({"error": {"message": "full http://10.1.2.3:9/x", "code": 502}}, 502),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "full"}}, 502),
    ({"object": "error", "message": "full", "code": 500}, 502),
    ({"data": None, "error": {"message": "full", "code": 429}}, 429),
    ({"detail": "full"}, 502),
]


@pytest.mark.parametrize(("body", "status"), FAILURES_WITH_200)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_with_status_200_is_as_one_with_its_own(body: Any, status: int, stream: bool) -> None:
    content = [b": ping\n\n", b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n']
    content.append(b"data: " + json.dumps(body).encode() + b"\n\n")
    failing = (
        httpx.Response(200, headers={"content-type": "text/event-stream"}, content=b"".join(content))
        if stream
        else json_response(200, body)
    )
    world = with_fallback([failing], retries=1)
    world.script.hosts["b"] = [json_response() if not stream else sse(delta("hi", finish_reason="stop"))]
    assert (await world.fetch(stream=stream)).target.passport.slug == "b"
    assert world.script.asked == ["a", "a", "b"]
    alone = World(Script(a=[failing]), passport("a"), retries=0)
    with pytest.raises(UpstreamFailed) as caught:
        await alone.fetch(stream=stream)
    assert caught.value.status == status
    assert "10.1" not in caught.value.message and "full" in caught.value.message


def sse(*chunks: Any) -> httpx.Response:
    content = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + DONE
    return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=content)


async def test_stream_options_that_a_server_refuses_are_left_out_from_then_on() -> None:
    refusal = json_response(422, {"detail": [{"loc": ["body", "stream_options"], "msg": "extra"}]})
    world = World(Script(a=[refusal, sse(delta("hi", finish_reason="stop"))]), passport("a"))
    asked: list[bool] = []

    def body_for(target: Target) -> bytes:
        asked.append(target.takes_stream_options)
        return b"{}"

    for _ in range(2):
        await world.fetch(stream=True, asks_usage=True, body_for=body_for)
    assert asked == [True, False, False]


async def test_a_refusal_that_is_about_something_else_stays_one() -> None:
    world = World(Script(a=[json_response(422, {"detail": "no"})]), passport("a"))
    for count in (2, 4):
        with pytest.raises(UpstreamRefused, match="no"):
            await world.fetch(stream=True, asks_usage=True)
        assert len(world.script.requests) == count
    world.script.hosts["a"] = [sse(delta("hi", finish_reason="stop")), json_response(422, {"detail": "no"})]
    await world.fetch(stream=True, asks_usage=True)
    world.script.requests.clear()
    with pytest.raises(UpstreamRefused):
        await world.fetch(stream=True, asks_usage=True)
    assert len(world.script.requests) == 1, "the server is known to take them"


async def test_a_model_nobody_answers_for_is_not_found() -> None:
    world = World(Script(), passport("a"))
    with pytest.raises(NotFound) as caught:
        await world.fetch("b")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_streams_first_bytes_are_in_hand_before_it_is_an_answer() -> None:
    world = World(Script(a=[sse(delta("", role="assistant"), delta("hi", finish_reason="stop"))]), passport("a"))
    answer = await world.fetch(stream=True)
    assert answer.events is not None
    frames = [frame async for batch in answer.events.batches() for _, frame in batch]
    assert b"".join(frames) == world.script.hosts["a"][0].content  # type: ignore[union-attr]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_tries_one_and_rests_longer_each_time() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for number in range(5):
        assert breaker.admit(f"{number}")
        breaker.failed(f"{number}")
    assert not breaker.admit("a")
    clock.now += 5
    assert breaker.admit("a")
    assert not breaker.admit("a"), "one trial of a caller at a time"
    assert breaker.admit("b") and breaker.admit("c") and not breaker.admit("d"), "and of a few callers"
    breaker.failed("a")
    assert breaker.admit("d"), "one caller's failure is no verdict"
    breaker.failed("b")
    assert not breaker.admit("e")
    clock.now += 9.9
    assert not breaker.admit("a")
    clock.now += 0.2
    assert breaker.admit("a")
    breaker.abandoned("a")
    assert breaker.admit("a"), "a trial without a verdict lets the next request try"
    breaker.succeeded()
    assert breaker.admit("a") and breaker.admit("a")
    assert not breaker.is_open


def opened(clock: Clock) -> Breaker:
    """Returns a breaker that five callers' failures have opened."""
    breaker = Breaker(clock)
    for number in range(5):
        breaker.failed(f"{number}")
    assert breaker.is_open
    return breaker


def test_after_a_success_a_breaker_rests_no_longer_than_at_first() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5
    assert breaker.admit("a")
    breaker.failed("a", is_witnessed=True)
    assert breaker.retry_after_s == 10
    clock.now += 10
    assert breaker.admit("a")
    breaker.succeeded()
    for number in range(5):
        breaker.failed(f"{number}")
    assert breaker.retry_after_s == 5


def test_a_success_ends_what_was_counted_and_tried_before_it() -> None:
    breaker = Breaker(Clock())
    breaker.failed("a")
    breaker.succeeded()
    for _ in range(9):
        breaker.failed("b")
    assert not breaker.is_tripped(), "one caller alone, as the other's failure was before the success"

    clock = Clock()
    breaker = opened(clock)
    clock.now += 5
    assert breaker.admit("a") and breaker.admit("b")
    breaker.succeeded()
    breaker.failed("b", is_witnessed=True)
    assert not breaker.is_tripped(), "a trial is none any more once another's success has closed the breaker"


@pytest.mark.parametrize(
    ("step", "healthy", "detail", "models"),
    [
        (json_response(200, {"data": [{"id": "x"}, {"id": "y"}]}), True, "2 models", ("x", "y")),
        (json_response(200, [{"id": "x"}, 7, "y", {"id": None}, {"id": "x"}]), True, "2 models", ("x", "y")),
        (json_response(200, {"models": [{"name": "x"}, {"model": "y"}, None]}), True, "2 models", ("x", "y")),
        (json_response(200, {"data": None}), True, "0 models", ()),
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


async def test_keys_in_files_are_read_aside_where_a_request_is_the_first_to_need_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenant's own key, a passport that another process was told of, the secret of a profile's header."""
    answers, begun, readers = threading.Event(), threading.Semaphore(0), []

    def read(_: Passport) -> str:
        readers.append(threading.current_thread())
        begun.release()
        answers.wait()
        return SECRET

    rules = ProfileRules(headers={"x-team": HeaderValue(file="/net/header"), "x-app": HeaderValue(text="a")})
    profile = Profile(id="tenant:ten_1", rules=rules)
    targets = Targets(Catalog([held := passport("held", credential_file="/net/key")], []), "http://default/v1", read)
    target = targets.only(Resolved(held, "held", (), PriceTable(held.prices)), "")
    reading = asyncio.ensure_future(targets.read_files([target], profile))
    for _ in range(2):
        await asyncio.to_thread(begun.acquire)
    assert target.upstream.credential is None
    with pytest.raises(Unavailable):
        targets.headers(profile)
    meanwhile = [asyncio.ensure_future(targets.read_files([], profile)) for _ in range(2)]
    meanwhile.append(asyncio.ensure_future(targets.read_files([target], None)))
    await asyncio.sleep(0)
    are_over = [each.done() for each in meanwhile]
    meanwhile[0].cancel()
    answers.set()
    assert not any(are_over), "each request that needs them waits"
    await asyncio.gather(reading, *meanwhile[1:])
    assert (str(target.upstream.credential), target.upstream.healthy) == (SECRET, None)
    assert targets.headers(profile) == [("x-team", SECRET, ""), ("x-app", "a", "")]
    await targets.read_files([target], profile)
    assert len(readers) == 2, "once each"
    assert threading.main_thread() not in readers

    answers.clear()
    monkeypatch.setattr("trustgate.models.upstream.targets._READ_S", 0.01)
    other = targets.only(Resolved(passport("b", credential_file="/net/b"), "b", (), PriceTable(held.prices)), "")
    await targets.read_files([other], None)
    assert (other.upstream.healthy, other.upstream.reading) == (False, None), "it is waited for once"
    answers.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert other.upstream.credential == SECRET


async def test_a_new_key_file_that_is_not_answered_for_holds_up_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its disk may not answer: the event loop reads it neither then nor at the first request."""
    answers, readers = threading.Event(), []

    def read(_: Passport) -> str:
        readers.append(threading.current_thread())
        answers.wait()
        return SECRET

    monkeypatch.setattr("trustgate.models.upstream.targets._READ_S", 0.01)
    held = passport("held", credential_file="/net/key")
    targets = Targets(Catalog([held], []), "http://default/v1", read)
    await targets.read_keys([held, passport("b")])
    upstream = targets.upstream_of(held)
    assert (upstream.healthy, upstream.detail) == (False, "its key is not read yet: /net/key")
    answers.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert (upstream.credential, upstream.healthy) == (SECRET, None)
    assert len(readers) == 1, "only files are read so"
    assert readers[0] is not threading.main_thread()
    await targets.read_keys([held])
    assert len(readers) == 1, "and only new ones"
