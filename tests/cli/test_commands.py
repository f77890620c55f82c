"""Every command that manages tenants, keys, plans and passports, with a server on the home folder and without one."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from tests.support.gateway import Gateway

_HOUR_US = 3_600_000_000


def _tenant(home: Gateway, name: str, *arguments: str) -> dict[str, Any]:
    made: dict[str, Any] = home.cli_json("tenant", "add", name, *arguments)
    return made


# tenants


def test_tenant_add_gives_the_tenant_and_its_first_key(either_home: Gateway) -> None:
    made = _tenant(either_home, "acme", "--plan", "free")
    assert made["tenant"]["name"] == "acme"
    assert made["tenant"]["plan"] == "free"
    assert made["tenant"]["status"] == "active"
    assert made["tenant"]["id"].startswith("ten_")
    assert made["key"]["tenant_id"] == made["tenant"]["id"]
    assert made["key"]["secret"].startswith("tgk_")
    assert made["key"]["expires_us"] is None
    assert "secret_sha256" not in made["key"]


def test_the_plan_is_pro_unless_said_otherwise(either_home: Gateway) -> None:
    assert _tenant(either_home, "default plan")["tenant"]["plan"] == "pro"


def test_a_tenant_through_its_life(either_home: Gateway) -> None:
    made = _tenant(either_home, "Zoë & [bold]Söhne[/bold] 日本")
    tenant_id = made["tenant"]["id"]
    assert either_home.cli_json("tenant", "set", tenant_id, "--name", "zoë", "--plan", "growth")["tenant"] == {
        **made["tenant"],
        "name": "zoë",
        "plan": "growth",
    }
    assert either_home.cli_json("tenant", "suspend", "zoë")["tenant"]["status"] == "suspended"
    assert either_home.cli_json("tenant", "resume", "zoë")["tenant"]["status"] == "active"
    shown = either_home.cli_json("tenant", "show", "zoë")
    assert shown["plan"]["name"] == "growth"
    assert [key["id"] for key in shown["keys"]] == [made["key"]["id"]]
    assert either_home.cli_json("tenant", "remove", "zoë", "--yes")["tenant"]["status"] == "removed"
    assert tenant_id not in {tenant["id"] for tenant in either_home.cli_json("tenant", "list")["tenants"]}
    assert tenant_id in {tenant["id"] for tenant in either_home.cli_json("tenant", "list", "--removed")["tenants"]}


def test_a_secret_is_shown_once_and_never_again(either_home: Gateway) -> None:
    added = _tenant(either_home, "secretive")
    created = either_home.cli_json("key", "create", "secretive")
    rotated = either_home.cli_json("key", "rotate", created["key"]["id"])
    secrets = {made["key"]["secret"] for made in (added, created, rotated)}
    assert len(secrets) == 3
    for command in (
        ("tenant", "list"),
        ("tenant", "show", "secretive"),
        ("key", "list", "--revoked"),
        ("key", "show", added["key"]["id"]),
        ("key", "revoke", added["key"]["id"]),
    ):
        for more in ((), ("--json",)):
            result = either_home.cli(*command, *more)
            assert not any(secret in result.stdout + result.stderr for secret in secrets), command
            assert "secret_sha256" not in result.stdout


def test_a_secret_can_be_had_alone(either_home: Gateway) -> None:
    name = "scripted"
    first = either_home.cli("tenant", "add", name, "--secret-only").stdout
    second = either_home.cli("key", "create", name, "--secret-only").stdout
    key = either_home.cli_json("key", "list", name)["keys"][0]["id"]
    third = either_home.cli("key", "rotate", key, "--secret-only").stdout
    for secret in (first, second, third):
        assert re.fullmatch(r"tgk_\w{38}\n", secret)
    assert len({first, second, third}) == 3


# keys


def test_a_key_with_limits_scope_and_an_expiry(either_home: Gateway) -> None:
    _tenant(either_home, "narrow")
    before_us = time.time_ns() // 1000
    key = either_home.cli_json(
        *("key", "create", "narrow", "--name", "ci", "--expires", "30d"),
        *("--requests-per-day", "100", "--tokens-per-minute", "10_000", "--usd-per-month", "12.50"),
        *("--parallel-requests", "2", "--max-tokens", "none"),
        *("--models", "openai/*", "--models", "a,b", "--endpoints", "chat.completions", "--features", "streaming"),
    )["key"]
    assert key["name"] == "ci"
    assert key["limits"]["requests_per_day"] == 100
    assert key["limits"]["tokens_per_minute"] == 10_000
    assert key["limits"]["cost_nano_usd_per_month"] == 12_500_000_000
    assert key["limits"]["parallel_requests"] == 2
    assert key["limits"]["max_tokens"] is None
    assert key["scope"] == {
        "models": ["openai/*", "a", "b"],
        "endpoints": ["chat.completions"],
        "features": ["streaming"],
        "parameters": None,
        "end_users": None,
    }
    after_us = time.time_ns() // 1000
    assert before_us <= key["expires_us"] - 30 * 24 * _HOUR_US <= after_us
    shown = either_home.cli("key", "show", key["id"]).stdout
    assert "100 a day" in shown
    assert "$12.50 a month" in shown
    assert "openai/*, a, b" in shown


def test_a_rotated_key_keeps_its_rights_and_the_old_one_ends_after_the_grace(either_home: Gateway) -> None:
    _tenant(either_home, "rotator")
    old = either_home.cli_json("key", "create", "rotator", "--name", "app", "--max-tokens", "7")["key"]
    new = either_home.cli_json("key", "rotate", old["id"], "--grace", "24h")["key"]
    assert (new["name"], new["limits"], new["scope"]) == (old["name"], old["limits"], old["scope"])
    ending = either_home.cli_json("key", "show", old["id"])["key"]
    assert ending["revoked_us"] is None
    assert 0 < ending["expires_us"] - time.time_ns() // 1000 <= 24 * _HOUR_US
    either_home.cli("key", "rotate", new["id"])
    assert either_home.cli_json("key", "show", new["id"])["key"]["revoked_us"] is not None


def test_revoked_keys_are_listed_when_asked_for(either_home: Gateway) -> None:
    key = _tenant(either_home, "lister")["key"]
    either_home.cli("key", "revoke", key["id"])
    assert either_home.cli_json("key", "list", "lister") == {"keys": []}
    assert [k["id"] for k in either_home.cli_json("key", "list", "lister", "--revoked")["keys"]] == [key["id"]]


# plans


def test_the_seeded_plans(either_home: Gateway) -> None:
    plans = {plan["name"]: plan for plan in either_home.cli_json("plan", "list")["plans"]}
    assert {"free", "pro", "growth", "internal"} <= set(plans)
    assert plans["free"]["limits"]["requests_per_day"] == 1000
    assert set(plans["internal"]["limits"].values()) == {None}


def test_a_plan_through_its_life(either_home: Gateway) -> None:
    plan = either_home.cli_json("plan", "add", "team", "--usd-per-day", "5.00", "--max-tokens", "0")["plan"]
    assert plan["limits"]["cost_nano_usd_per_day"] == 5_000_000_000
    assert plan["limits"]["max_tokens"] == 0
    assert plan["on_disconnect"] == "abort"
    changed = either_home.cli_json(
        *("plan", "set", "team", "--usd-per-day", "none", "--requests-per-minute", "9"),
        *("--on-disconnect", "drain", "--features", "tools"),
    )["plan"]
    assert changed["limits"] == {**plan["limits"], "cost_nano_usd_per_day": None, "requests_per_minute": 9}
    assert changed["on_disconnect"] == "drain"
    assert changed["scope"] == {**plan["scope"], "features": ["tools"]}
    assert either_home.cli_json("plan", "show", "team")["plan"] == changed
    assert either_home.cli_json("plan", "remove", "team")["plan"]["name"] == "team"
    assert either_home.cli("plan", "show", "team", check=False).returncode == 4


# passports


def test_a_key_file_that_is_not_there_is_named_at_once(either_home: Gateway, tmp_path: Path) -> None:
    key = tmp_path / "key"
    added = either_home.cli(
        *("passport", "add", "held", "--base-url", "http://127.0.0.1:9/v1", "--credential-file", str(key), "--json")
    )
    assert json.loads(added.stdout)["passport"]["slug"] == "held"
    assert added.stderr.startswith(f"Note: The credential file {key} cannot be read: No such file or directory.")
    assert either_home.cli("passport", "set", "held", "--credential-file", str(key)).stderr == added.stderr
    key.write_text("sk-1")
    assert either_home.cli("passport", "set", "held", "--credential-file", str(key)).stderr == ""


def test_a_passport_through_its_life(either_home: Gateway) -> None:
    made = either_home.cli_json(
        *("passport", "add", "openai/small", "--api-model-id", "gpt-4o-mini", "--base-url", "https://api.example/v1"),
        *("--credential-env", "EXAMPLE_KEY", "--input-price", "0.15", "--output-price", "0.60"),
        *("--cached-input-price", "0.075", "--call-price", "0.001", "--context-length", "128000"),
        *("--capability", "tools", "--capability", "vision", "--fallback", "trustgate/echo:2"),
        *("--parameter", "temperature=0.2"),
    )["passport"]
    assert {name: rate for name, rate in made["prices"].items() if rate is not None} == {
        "input_pico_usd": 150_000,
        "cached_input_pico_usd": 75_000,
        "output_pico_usd": 600_000,
        "call_nano_usd": 1_000_000,
        "free": False,
        "conditional": [],
    }
    assert made["fallbacks"] == [{"passport": "trustgate/echo", "rank": 1, "weight": 2, "only_too_long": False}]
    assert made["default_parameters"] == {"temperature": 0.2}
    assert made["capabilities"] == ["tools", "vision"]
    changed = either_home.cli_json(
        *("passport", "set", "openai/small", "--input-price", "0.2", "--context-length", "none"),
        *("--cached-input-price", "none", "--fallback", "none"),
    )["passport"]
    prices = {**made["prices"], "input_pico_usd": 200_000, "cached_input_pico_usd": None}
    assert made["priced_us"] < changed["priced_us"] and changed["price_source"] == "set by hand"
    expected = {**made, "prices": prices, "context_length": None, "fallbacks": [], "priced_us": changed["priced_us"]}
    assert changed == expected
    for verb, status in (("deprecate", "deprecated"), ("revoke", "revoked"), ("activate", "active")):
        assert either_home.cli_json("passport", verb, "openai/small")["passport"]["status"] == status
    shown = either_home.cli("passport", "show", "openai/small").stdout
    assert "$0.20 per million tokens" in shown
    assert "environment variable EXAMPLE_KEY" in shown


def test_prices_of_what_is_not_counted_in_tokens(either_home: Gateway) -> None:
    made = either_home.cli_json(
        *("passport", "add", "media", "--image-price", "0.04", "--audio-second-price", "0.0001"),
        *("--character-price", "15"),
    )["passport"]
    wanted = {"image_nano_usd": 40_000_000, "audio_second_nano_usd": 100_000, "character_pico_usd": 15_000_000}
    assert {name: made["prices"][name] for name in wanted} == wanted
    shown = either_home.cli("passport", "set", "media", "--image-price", "0.02").stdout
    for line in ("$0.02 each", "$0.0001 a second", "$15.00 per million characters"):
        assert line in shown


def test_aliases(either_home: Gateway) -> None:
    assert either_home.cli_json("passport", "alias", "parrot", "trustgate/echo") == {
        "alias": {"name": "parrot", "target": "trustgate/echo"}
    }
    assert {"name": "parrot", "target": "trustgate/echo"} in either_home.cli_json("passport", "alias", "--list")[
        "aliases"
    ]
    either_home.cli("passport", "alias", "--remove", "parrot")
    names = {alias["name"] for alias in either_home.cli_json("passport", "alias", "--list")["aliases"]}
    assert "parrot" not in names


def test_import_of_a_litellm_configuration_and_then_of_prices(either_home: Gateway, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model_list:\n- model_name: fast\n  litellm_params: {model: openai/gpt-4o-mini, api_key: sk-x}\n")
    table = tmp_path / "prices.json"
    entry = {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1.5e-07,
        "output_cost_per_token": 6e-07,
    }
    table.write_text(json.dumps({"fast": entry, "not-here": entry}))
    first = either_home.cli_json("passport", "import", str(config))
    assert first["added"] == ["fast"]
    assert either_home.cli_json("passport", "import", str(table))["changed"] == ["fast"]
    again = either_home.cli_json("passport", "import", str(table))
    assert (again["added"], again["changed"], again["unchanged"]) == ([], [], 1)
    prices = either_home.cli_json("passport", "show", "fast")["passport"]["prices"]
    assert prices["input_pico_usd"] == 150_000


# the books


def test_books_without_entries(either_home: Gateway) -> None:
    assert either_home.cli_json("receipt", "list") == {"receipts": []}
    nothing = either_home.cli_json("usage", "--by", "model", "--since", "month")
    assert nothing["usage"] == []
    assert set(nothing["total"].values()) == {0}
