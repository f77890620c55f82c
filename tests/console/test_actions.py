"""Each form of the console gives the command that its line gives on the command line: there is no second logic."""

from __future__ import annotations

import shlex
from tempfile import gettempdir
from typing import Any

import pytest

from trustgate import cli
from trustgate.admin.commands import Command, Feed
from trustgate.cli import context
from trustgate.console.actions import ACTIONS
from trustgate.console.fields import Action
from trustgate.errors import Conflict

#: Besides the examples below, each action with nothing but what it needs.
EXAMPLES: list[tuple[str, dict[str, str]]] = [
    ("tenant.add", {"name": "Acme & 'Söhne' <b>", "plan": "free", "price_factor": "1.25"}),
    ("tenant.set", {"tenant": "acme", "name": "-x", "plan": "growth", "price_factor": "none"}),
    ("tenant.set", {"tenant": "acme", "price_factor": "0.9"}),
    ("tenant.restore", {"tenant": "acme", "name": "acme2", "plan": "pro"}),
    ("tenant.credit", {"tenant": "acme", "add": "5.00", "reference": "invoice 7"}),
    ("key.create", {"tenant": "acme", "name": "ci", "expires": "30d", "requests_per_minute": "60"}),
    ("key.create", {"tenant": "acme", "expires": "2099-01-31", "cost_nano_usd_per_month": "9.5", "models": "a, o*"}),
    ("key.set", {"key": "key_1", "name": "n", "expires": "none", "tokens_per_day": "none", "end_users": "none"}),
    ("key.set", {"key": "key_1", "expires": "24h", "features": "tools,vision", "parameters": "none"}),
    ("key.rotate", {"key": "key_1", "grace": "24h"}),
    ("plan.add", {"plan": "gold", "like": "pro", "on_disconnect": "drain", "unpriced_models": "allow"}),
    ("plan.add", {"plan": "gold", "own_keys": "3"}),
    ("plan.set", {"plan": "gold", "price_factor": "1.1", "max_tokens": "none", "endpoints": "embeddings"}),
    ("budget.add", {"budget": "b", "usd": "100", "per": "month", "for_tenant": "acme", "each": "end-user"}),
    ("budget.add", {"budget": "b", "tokens": "1000", "per": "6h", "everyone": "yes", "soft": "yes"}),
    ("budget.set", {"budget": "b", "name": "c", "requests": "5", "models": "a*,b", "notice_at": "50,80"}),
    ("budget.set", {"budget": "b", "for_plan": "pro", "for_key": "key_1"}),
    ("passport.add", {"slug": "m", "api_model_id": "x", "base_url": "https://l.example/v1", "input_pico_usd": "0.15"}),
    ("passport.add", {"slug": "m", "credential_env": "X_KEY", "context_length": "8000", "call_nano_usd": "0.01"}),
    ("passport.set", {"passport": "m", "base_url": "none", "output_pico_usd": "none", "input_pico_usd": "1"}),
    ("passport.set", {"passport": "m", "input_pico_usd": "900000", "yes": "yes"}),
    ("alias.set", {"name": "gpt-4o", "slug": "m"}),
    ("payment.resolve", {"payment": "pay_1", "settled": "0xabc"}),
    ("payment.resolve", {"payment": "pay_1", "failed": "yes"}),
    ("receipt.mend", {"accept": "yes"}),
    ("payment.set", {"tenant": "acme", "network": "base", "pay_to": "0xab", "price": "0.01", "flow": "upfront"}),
    ("payment.set", {"tenant": "acme", "mode": "prepaid", "top_up": "5", "price": "none", "contact": "a@b.c"}),
    (
        "payment.set",
        {"tenant": "a", "network": "eip155:10", "pay_to": "0x1", "asset": "0x2", "facilitator": "embedded"},
    ),
    ("payment.set", {"tenant": "a", "network": "base", "pay_to": "0x1", "decimals": "6", "asset_name": "A B"}),
    ("payment.off", {"tenant": "acme", "network": "base"}),
    ("end-user.limit", {"tenant": "acme", "user": "eu_1", "budget": "b", "usd": "2.5"}),
    ("end-user.limit", {"tenant": "acme", "user": "-x", "budget": "b", "number": "7"}),
    ("profile.set", {"tenant": "acme", "names": "gpt-4=llama\n my name = none\n", "only_own_names": "yes"}),
    (
        "profile.set",
        {"plan": "pro", "set": 'stop=["a,b"]\nseed=none', "cap": "reasoning_effort=low", "default": "top_p=1"},
    ),
    (
        "profile.set",
        {"key": "key_1", "system": "Be brief.", "provider": "a,b", "target": "none", "default_model": "none"},
    ),
    ("profile.set", {"tenant": "a", "header": "X-A=b", "header_env": "x-c=D", "header_file": "x-e=/f"}),
    ("profile.set", {"tenant": "a", "credential_env": "m=V", "fee": "m=0.001", "unknown_models": "default"}),
    ("profile.clear", {"key": "key_1"}),
    ("notify.add", {"url": "https://h.example/x", "on": "budget, disk", "name": "ops", "private": "yes"}),
    ("notify.test", {"subscriber": "ops"}),
    ("statement.make", {"tenant": "acme", "month": "2026-10", "issuer": "A & B"}),
    ("anchor.flush", {"dry_run": "yes", "mainnet": "yes"}),
    ("archive", {"before": "2026-01", "to": "/srv/old receipts", "dry_run": "yes"}),
    ("backup", {"file": f"{gettempdir()}/trustgate-backup", "without_archives": "yes"}),
]

#: What an action cannot do without, besides what it requires.
NEEDED = {
    "tenant.set": {"name": "n"},
    "key.set": {"name": "n"},
    "plan.set": {"max_tokens": "5"},
    "budget.set": {"name": "n"},
    "passport.set": {"context_length": "5"},
    "payment.resolve": {"failed": "yes"},
    "payment.set": {"mode": "prepaid"},
    "end-user.limit": {"reset": "yes"},
    "profile.set": {"plan": "pro", "default_model": "m"},
    "profile.clear": {"tenant": "acme"},
    "archive": {"before": "2026-01"},
    "backup": {"file": f"{gettempdir()}/trustgate-backup"},
}
#: Members that are made anew each time.
_FRESH = ("flush", "reconcile", "order")


class _Seen(Exception):
    def __init__(self, command: Command[Any] | Feed[Any]) -> None:
        self.command = command


class _Recorder:
    """An ``Admin`` that carries nothing out."""

    def ask(self, command: Command[Any]) -> Any:
        raise _Seen(command)

    async def execute(self, command: Command[Any]) -> Any:
        raise _Seen(command)

    async def feed(self, command: Any, write: Any) -> Any:
        raise _Seen(command)

    async def close(self) -> None: ...


def least(name: str, action: Action) -> dict[str, str]:
    needed = {field.name: "7" if field.name == "add" else "x" for field in action.fields if field.required}
    return {**needed, **NEEDED.get(name, {})}


def by_form(action: Action, texts: dict[str, str]) -> Command[Any] | Feed[Any]:
    given = {field.name: field.read(texts[field.name]) for field in action.fields if texts.get(field.name)}
    return action.build(given)


def by_command_line(line: str, monkeypatch: pytest.MonkeyPatch) -> Command[Any] | Feed[Any]:
    monkeypatch.setattr(context, "_server", lambda settings: _Recorder())
    words = shlex.split(line)[1:]
    if words[:2] == ["tenant", "remove"]:
        words.append("--yes")
    with pytest.raises(_Seen) as seen:
        cli.app(words, standalone_mode=False)
    return seen.value.command


@pytest.mark.parametrize(
    ("name", "texts"), [*EXAMPLES, *((name, least(name, action)) for name, action in ACTIONS.items())]
)
def test_a_form_gives_the_command_of_its_line(
    name: str, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    action = ACTIONS[name]
    assert set(texts) <= {field.name for field in action.fields}
    formed, typed = by_form(action, texts), by_command_line(action.line(texts), monkeypatch)
    assert type(formed) is type(typed)
    for member in formed.__struct_fields__:
        # The command line gives what it may have to send again a reference of its own (cli.repeating).
        if member not in _FRESH and not str(getattr(typed, member)).startswith("typed "):
            assert getattr(formed, member) == getattr(typed, member), member


def test_what_destroys_asks() -> None:
    for name, action in ACTIONS.items():
        if name.endswith(
            (".remove", ".revoke", ".suspend", ".rotate", ".resolve", ".clear", ".off", ".block", ".open")
        ):
            assert action.ask, name


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("budget.add", {"budget": "b", "usd": "1", "tokens": "1"}),
        ("payment.resolve", {"payment": "p", "settled": "x", "failed": "yes"}),
        ("passport.add", {"slug": "m", "input_pico_usd": "900000"}),
        ("payment.set", {"tenant": "t", "network": "base"}),
        ("payment.set", {"tenant": "t", "facilitator": "embedded"}),
        ("end-user.limit", {"tenant": "t", "user": "u", "budget": "b", "usd": "1", "reset": "yes"}),
        ("profile.set", {"tenant": "t", "names": "no equals sign"}),
        ("profile.set", {"tenant": "t", "plan": "p", "default_model": "m"}),
        ("profile.set", {"tenant": "t"}),
        ("archive", {"before": "2026-01", "to": "a/relative/folder"}),
        ("archive", {"before": "2026-01", "to": "~no-such-user/folder"}),
        ("backup", {"file": "/var/backups/a\0b"}),
        ("profile.set", {"tenant": "t", "set": f"x={'[' * 9000}"}),
    ],
)
def test_what_the_command_line_refuses_is_refused(name: str, texts: dict[str, str]) -> None:
    with pytest.raises((ValueError, Conflict)):
        by_form(ACTIONS[name], texts)
