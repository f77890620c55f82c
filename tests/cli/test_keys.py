"""Keys and plans that are changed: by any name of the key, without a new secret, with times as spans and as dates."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conftest import GatewayFactory
from tests.support.gateway import Gateway

_DAY_US = 86_400_000_000


def _key(home: Gateway, name: str, *options: str) -> dict[str, Any]:
    """A new tenant's second key."""
    home.cli("tenant", "add", name)
    key: dict[str, Any] = home.cli_json("key", "create", name, *options)["key"]
    return key


def test_a_key_is_changed_and_what_is_not_given_stays(either_home: Gateway) -> None:
    key = _key(either_home, "changing", "--name", "app", "--expires", "30d", "--max-tokens", "7", "--models", "a,b")
    changed = either_home.cli_json(
        *("key", "set", key["id"], "--name", "new name", "--usd-per-month", "5", "--models", "openai/*"),
    )["key"]
    assert changed["name"] == "new name"
    assert changed["limits"] == {**key["limits"], "cost_nano_usd_per_month": 5_000_000_000}
    assert changed["scope"] == {**key["scope"], "models": ["openai/*"]}
    assert changed["expires_us"] == key["expires_us"]
    lifted = either_home.cli_json("key", "set", key["id"], "--usd-per-month", "none", "--models", "*")["key"]
    assert lifted["limits"] == key["limits"]
    assert lifted["scope"]["models"] == ["*"]
    assert either_home.cli_json("key", "show", key["id"])["key"] == lifted


def test_an_expiry_is_a_span_a_date_or_none(either_home: Gateway) -> None:
    day = (datetime.now(UTC) + timedelta(days=400)).date()
    at_us = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
    key = _key(either_home, "expiring", "--expires", day.isoformat())
    assert key["expires_us"] == at_us
    before_us = time.time_ns() // 1000
    soon = either_home.cli_json("key", "set", key["id"], "--expires", "2d")["key"]
    assert before_us <= soon["expires_us"] - 2 * _DAY_US <= time.time_ns() // 1000
    assert either_home.cli_json("key", "set", key["id"], "--expires", "none")["key"]["expires_us"] is None
    new = either_home.cli_json("key", "rotate", key["id"], "--grace", day.isoformat())["key"]
    assert new["expires_us"] is None
    assert either_home.cli_json("key", "show", key["id"])["key"]["expires_us"] == at_us


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "No change was given"),
        (("--expires", "2020-01-01"), "must be in the future"),
        (("--expires", "0d"), "must be in the future"),
        (("--expires", "3000-01-01"), "a hundred years"),
        (("--expires", "tomorrow"), "is not a time to come"),
        (("--expires", "2027-02-30"), "is not a time to come"),
        (("--expires", "0001-01-01T00:00:00+23:00"), "must be in the future"),
        (("--name", ""), "name must have"),
        (("--models", ","), "is not a list of words"),
        (("--features", "none,tools"), "nor none, by itself"),
        (("--features", "telepathy"), "no feature"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(either_home: Gateway, options: tuple[str, ...], said: str) -> None:
    name = f"unchanged-{abs(hash(options))}"
    key = _key(either_home, name)
    refused = either_home.cli("key", "set", key["id"], *options, check=False)
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr
    del key["secret"]
    assert either_home.cli_json("key", "show", key["id"])["key"] == key


def test_a_dead_key_is_not_changed(either_home: Gateway) -> None:
    key = _key(either_home, "dead")
    either_home.cli("key", "revoke", key["id"])
    refused = either_home.cli("key", "set", key["id"], "--name", "alive", check=False)
    assert "has been revoked" in refused.stderr
    assert "trustgate key create dead" in refused.stderr


def test_a_key_is_found_by_its_whole_secret_which_is_never_repeated(either_home: Gateway) -> None:
    key = _key(either_home, "leaked")
    secret = key["secret"]
    assert either_home.cli_json("key", "show", secret)["key"]["id"] == key["id"]
    assert either_home.cli_json("key", "revoke", secret)["key"]["revoked_us"] is not None

    mistyped = secret[:-1] + ("x" if secret[-1] != "x" else "y")
    wrong = either_home.cli("key", "revoke", mistyped, check=False)
    assert wrong.returncode == 2
    assert "typing error" in wrong.stderr
    assert mistyped not in wrong.stderr

    other = Gateway(either_home.home.parent / f"other-{either_home.home.name}").make_home()
    unknown = other.cli("key", "revoke", secret, check=False)
    assert unknown.returncode == 4
    assert "No key here has this secret" in unknown.stderr
    assert secret not in unknown.stderr


def test_a_key_is_found_by_a_name_that_it_alone_has(either_home: Gateway) -> None:
    key = _key(either_home, "naming", "--name", "nightly")
    assert either_home.cli_json("key", "show", "nightly")["key"]["id"] == key["id"]
    either_home.cli("key", "rotate", "nightly", "--grace", "1h")
    two = either_home.cli("key", "revoke", "nightly", check=False)
    assert (two.returncode, "2 keys are called 'nightly'" in two.stderr) == (4, True)
    either_home.cli("key", "revoke", key["id"])
    assert either_home.cli_json("key", "revoke", "nightly")["key"]["revoked_us"] is not None
    none = either_home.cli("key", "show", "nightly", check=False)
    assert (none.returncode, "There is no key 'nightly'" in none.stderr) == (4, True)


def test_a_plan_like_another_differs_only_in_what_is_given(either_home: Gateway) -> None:
    model = either_home.cli_json(
        *("plan", "add", "model", "--requests-per-day", "7", "--usd-per-day", "5", "--models", "a"),
        *("--price-factor", "1.2", "--on-disconnect", "drain", "--unpriced-models", "allow"),
    )["plan"]
    like = either_home.cli_json(
        *("plan", "add", "copy", "--like", "model", "--usd-per-day", "none", "--price-factor", "1.5"),
    )["plan"]
    assert like["created_us"] >= model["created_us"]
    assert {**like, "created_us": 0} == {
        **model,
        "name": "copy",
        "limits": {**model["limits"], "cost_nano_usd_per_day": None},
        "price_factor_ppm": 1_500_000,
        "created_us": 0,
    }
    assert either_home.cli_json("plan", "show", "model")["plan"] == model
    unknown = either_home.cli("plan", "add", "other", "--like", "nothing", check=False)
    assert unknown.returncode == 4
    assert "no plan 'nothing'" in unknown.stderr


def test_a_change_holds_from_the_next_request_with_the_same_secret(make_gateway: GatewayFactory) -> None:
    gateway = make_gateway(upstream="builtin:echo").start()
    gateway.cli("tenant", "add", "app")
    key = gateway.cli_json("key", "create", "app", "--requests-per-month", "1")["key"]

    def ask(**members: object) -> httpx.Response:
        return httpx.post(
            f"{gateway.api_url}/chat/completions",
            headers={"authorization": f"Bearer {key['secret']}"},
            json={"model": "trustgate/echo", **members, "messages": [{"role": "user", "content": "Hi"}]},
            trust_env=False,
        )

    assert [ask().status_code, ask().status_code] == [200, 429]
    gateway.cli("key", "set", key["id"], "--requests-per-month", "2")
    assert [ask().status_code, ask().status_code] == [200, 429], "what was used before counts"
    gateway.cli("key", "set", key["id"], "--requests-per-month", "none", "--models", "other")
    assert ask().status_code == 403
    for option in ("--models", "--endpoints"):
        gateway.cli("key", "set", key["id"], option, "none")
        assert ask().status_code == 403, f"{option} none: none of them"
        gateway.cli("key", "set", key["id"], "--models", "trustgate/*", "--endpoints", "*")
    gateway.cli("key", "set", key["id"], "--models", "trustgate/*", "--endpoints", "*", "--features", "none")
    assert ask(stream=True).json()["error"]["code"] == "feature_not_allowed"
    assert ask().status_code == 200

    limits = (
        "--requests-per-day",
        "none",
        "--requests-per-month",
        "9",
        "--tokens-per-month",
        "5",
        "--usd-per-month",
        "3",
    )
    gateway.cli("plan", "set", "pro", *limits)
    shown = gateway.cli_json("tenant", "show", "app")["limits"]
    spent = gateway.cli_json("usage", "--by", "tenant")["usage"][0]
    tokens = spent["prompt_tokens"] + spent["completion_tokens"]
    assert [(each["unit"], each["limit"], each["used"], each["left"]) for each in shown] == [
        ("requests", 9, 3, 6),
        ("tokens", 5, tokens, 0),
        ("cost_nano_usd", 3_000_000_000, 0, 3_000_000_000),
    ]
    said = " ".join(gateway.cli("tenant", "show", "app").stdout.split())
    assert "9 requests a month 3 requests 6 requests" in said
