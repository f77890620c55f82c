"""Pools: which of several targets is asked first, what each is sent at most, and prompts that are too long for one."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.test_upstream import Script, World, json_response, passport
from trustgate.errors import InvalidRequest, Unavailable
from trustgate.gateway.path.conversation import conversation_key
from trustgate.models.importing.litellm import read_import_file
from trustgate.models.passports import PassportFields, change_passport
from trustgate.models.upstream.pools import TargetLoad, by_key, by_load, by_weight
from trustgate.models.upstream.targets import Targets
from trustgate.types import Fallback, Passport, Pool

_weighted = st.lists(st.integers(1, 50), min_size=1, max_size=6).map(
    lambda weights: [(f"target-{at}", weight) for at, weight in enumerate(weights)]
)


@given(_weighted, st.integers())
def test_chance_orders_all_and_is_drawn_from_its_seed(candidates: list[tuple[str, int]], seed: int) -> None:
    ordered = by_weight(candidates, random.Random(seed))
    assert sorted(ordered) == sorted(name for name, _ in candidates)
    assert ordered == by_weight(candidates, random.Random(seed))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_each_stands_first_as_often_as_its_weight_says(one: int, other: int, seed: int) -> None:
    chance = random.Random(seed)
    firsts = Counter(by_weight([("a", one), ("b", other)], chance)[0] for _ in range(2_000))
    share = one / (one + other)
    assert abs(firsts["a"] / 2_000 - share) < 6 * (share * (1 - share) / 2_000) ** 0.5


@given(_weighted, st.dictionaries(st.integers(0, 5), st.integers(0, 9)), st.integers())
def test_the_fewest_in_flight_for_its_weight_stands_first(
    candidates: list[tuple[str, int]], busy: dict[int, int], seed: int
) -> None:
    loads = {name: busy.get(at, 0) for at, (name, _) in enumerate(candidates)}
    weights = dict(candidates)
    ordered = by_load(candidates, lambda name: loads[name], random.Random(seed))
    figures = [(loads[name] + 1) / weights[name] for name in ordered]
    assert figures == sorted(figures) and len(ordered) == len(candidates)


@given(_weighted, st.binary(max_size=20), st.data())
def test_a_key_keeps_its_order_when_a_target_goes(
    candidates: list[tuple[str, int]], key: bytes, data: st.DataObject
) -> None:
    ordered = by_key(candidates, str, key)
    assert ordered == by_key(list(reversed(candidates)), str, key)
    gone = data.draw(st.sampled_from(candidates))
    rest = by_key([each for each in candidates if each != gone], str, key)
    assert rest == [name for name in ordered if name != gone[0]], "the others' keys stay where they are"


def test_keys_are_shared_by_weight() -> None:
    firsts = Counter(by_key([("a", 3), ("b", 1)], str, str(key).encode())[0] for key in range(4_000))
    assert abs(firsts["a"] / 4_000 - 0.75) < 0.03


def test_a_minutes_limits_are_of_that_minute() -> None:
    now = 120.0
    load = TargetLoad(lambda: now)
    pool = Pool(requests_per_minute=2, tokens_per_minute=100)
    for _ in range(2):
        assert load.has_room(pool)
        load.sent(pool, 10)
    assert not load.has_room(pool) and load.wait_s(pool) == 60.0
    assert load.has_room(Pool(tokens_per_minute=21))
    load.used(pool, 5)
    load.used(pool, -5)
    assert not load.has_room(Pool(tokens_per_minute=25)) and load.has_room(Pool(tokens_per_minute=26))
    now = 180.0
    assert load.has_room(pool)
    load.begin()
    assert not load.has_room(Pool(parallel_requests=1)) and load.has_room(Pool(parallel_requests=1), is_again=True)
    load.end()
    assert load.has_room(Pool(parallel_requests=1))


def pooled(choice: str = "weighted", **pool: Any) -> tuple[Passport, ...]:
    members = (Fallback(passport="b", rank=0), Fallback(passport="c", rank=0), Fallback(passport="d", rank=1))
    first = passport("a", fallbacks=members, pool=Pool(choice=choice, **pool))  # type: ignore[arg-type]
    return first, *map(passport, "bcd")


def firsts(world: World, sticky: bytes = b"", times: int = 60) -> Counter[str]:
    resolved = world.catalog.resolve("a")
    orders = [
        [target.passport.slug for target in world.targets.route("a", resolved, sticky=sticky)] for _ in range(times)
    ]
    assert all(order[3] == "d" and sorted(order[:3]) == ["a", "b", "c"] for order in orders), "a fallback comes last"
    return Counter(order[0] for order in orders)


def test_the_first_choice_falls_on_every_target_of_the_pool() -> None:
    assert set(firsts(World(Script(), *pooled()))) == {"a", "b", "c"}
    assert len(firsts(World(Script(), *pooled("tenant")), b"acme")) == 1
    weighted = World(Script(), *pooled(weight=1_000_000))
    assert firsts(weighted)["a"] > 55
    seeded = [
        [
            target.passport.slug
            for _ in range(9)
            for target in Targets(weighted.catalog, "http://d/v1", lambda _: None, random.Random(7)).route(
                "a", weighted.catalog.resolve("a")
            )
        ]
        for _ in range(2)
    ]
    assert seeded[0] == seeded[1]


async def test_the_least_busy_is_asked_and_is_free_again_at_its_end() -> None:
    script = Script(a=[json_response()] * 3, b=[json_response()] * 3, c=[json_response()] * 3, d=[])
    world = World(script, *pooled("least_busy"))
    answers = [await world.fetch() for _ in range(3)]
    assert sorted(script.asked) == ["a", "b", "c"]
    await answers[0].close()
    await answers[0].close()
    again = await world.fetch()
    assert again.target.passport == answers[0].target.passport
    for answer in (*answers, again):
        await answer.close()
    assert {answer.target.load.in_flight for answer in answers} == {0}


async def test_a_full_target_is_passed_over_and_all_full_is_told() -> None:
    script = Script(a=[json_response()] * 2, b=[json_response()], c=[], d=[])
    limit = Pool(requests_per_minute=1)
    world = World(script, passport("a", fallbacks=(Fallback(passport="b"),), pool=limit), passport("b", pool=limit))
    for _ in range(2):
        await (await world.fetch()).close()
    assert script.asked == ["a", "b"]
    with pytest.raises(Unavailable) as refused:
        await world.fetch()
    assert 1 <= int(refused.value.headers["retry-after"]) <= 60 and refused.value.code == "model_unavailable"
    assert script.asked == ["a", "b"], "no limit is passed"


async def test_a_retry_counts_against_the_limit_too() -> None:
    script = Script(a=[*[httpx.ConnectError("x")] * 3, json_response()])
    world = World(script, passport("a", pool=Pool(requests_per_minute=2)), retries=3)
    with pytest.raises(Exception, match="could not be reached"):
        await world.fetch()
    assert len(script.requests) == 2


async def test_several_keys_for_one_server_have_a_breaker_each() -> None:
    one = Passport(
        id="passport_a",
        slug="a",
        api_model_id="m",
        base_url="http://a/v1",
        credential_env="ONE",
        fallbacks=(Fallback(passport="b", rank=0),),
    )
    other = Passport(id="passport_b", slug="b", api_model_id="m", base_url="http://a/v1", credential_env="OTHER")
    world = World(Script(), one, other)
    first, second = world.targets.route("a", world.catalog.resolve("a"))
    assert first.breaker is not second.breaker and first.upstream is not second.upstream
    for caller in "xyxyx":
        first.breaker.failed(caller)
    assert first.breaker.is_open and not second.breaker.is_open
    assert world.targets.is_available(one, "m"), "another of the pool serves it"
    for caller in "xyxyx":
        second.breaker.failed(caller)
    assert not world.targets.is_available(one, "m")


def test_a_prompt_too_long_for_a_target_goes_to_one_with_room_first() -> None:
    members = (Fallback(passport="b", rank=1), Fallback(passport="c", rank=2))
    world = World(
        Script(),
        passport("a", fallbacks=members, context_length=1_000),
        passport("b", context_length=2_000),
        passport("c"),
    )

    def order(prompt_tokens: int) -> str:
        found = world.targets.route("a", world.catalog.resolve("a"), prompt_tokens=prompt_tokens)
        return "".join(target.passport.slug for target in found)

    assert [order(tokens) for tokens in (0, 1_000, 1_001, 2_001)] == ["abc", "abc", "bca", "cab"]


def test_the_requests_of_a_conversation_have_one_key() -> None:
    def key(*turns: str, **more: Any) -> bytes:
        import json

        roles = ("system", "user", "assistant", "user")
        messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
        return conversation_key(json.dumps({"model": "m", **more, "messages": messages}).encode())

    begun = key("Be kind.", "Hello")
    assert begun == key("Be kind.", "Hello", "Hi!", "And now?", temperature=1) != b""
    assert len({begun, key("Be kind.", "Goodbye"), key("Be terse.", "Hello")}) == 3
    assert key("a", "b", prompt_cache_key="x") == key("c", "d", prompt_cache_key="x")
    assert key("a", "b", prompt_cache_key=None) != key("c", "d", prompt_cache_key=None), "null is none"
    assert conversation_key(b'{"input": "Hi"}') != conversation_key(b'{"input": "Ho"}')
    assert conversation_key(b"[1]") == b""


def test_a_pool_is_changed_by_its_members() -> None:
    begun = change_passport(
        passport("a"), PassportFields(fallbacks=(Fallback(passport="d"),), pool={"weight": 3, "tokens_per_minute": 9})
    )
    members = (Fallback(passport="b", rank=0),)
    with_pool = change_passport(begun, PassportFields(pool_members=members, pool={"tokens_per_minute": None}))
    assert with_pool.fallbacks == (*members, Fallback(passport="d"))
    assert with_pool.pool == Pool(weight=3)
    assert change_passport(with_pool, PassportFields(), unset=("fallbacks",)).fallbacks == members
    assert change_passport(with_pool, PassportFields(), unset=("pool_members",)).fallbacks == (Fallback(passport="d"),)
    for fields in ({"pool": {"weight": 0}}, {"pool": {"choice": "best"}}, {"pool": {"requests_per_minute": 0}}):
        with pytest.raises(InvalidRequest):
            change_passport(begun, PassportFields(**fields))
    wildcard = Passport(id="passport_w", slug="w/*", api_model_id="*")
    with pytest.raises(InvalidRequest, match="no pool"):
        change_passport(wildcard, PassportFields(pool_members=members))


def test_several_entries_of_one_name_are_a_pool_with_weights(tmp_path: Path) -> None:
    text = """
model_list:
  - {model_name: m, litellm_params: {model: openai/m, api_key: os.environ/ONE, rpm: 60, tpm: 9000}}
  - {model_name: m, litellm_params: {model: openai/m, api_key: os.environ/TWO, weight: 3, max_parallel_requests: 4}}
  - {model_name: n, litellm_params: {model: openai/n, api_key: os.environ/ONE}}
router_settings: {routing_strategy: least-busy, fallbacks: [{m: [n]}]}
"""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    imported = read_import_file(file, direct=True)
    fields = {each.slug: each.fields for each in imported.passports}
    assert fields["m"].pool_members == (Fallback(passport="m-2", rank=0, weight=3),)
    assert fields["m"].fallbacks == (Fallback(passport="n", rank=1),)
    assert fields["m"].pool == {
        "requests_per_minute": 60,
        "tokens_per_minute": 9_000,
        "weight": 1,
        "choice": "least_busy",
    }
    assert (fields["m-2"].pool, fields["m-2"].credential_env) == ({"parallel_requests": 4}, "TWO")
    notes = "\n".join(imported.notes)
    assert not any(word in notes for word in ("rpm", "weight", "routing_strategy", "max_parallel"))
    through_the_proxy = read_import_file(file)
    assert "weight of m" in "\n".join(through_the_proxy.notes)
