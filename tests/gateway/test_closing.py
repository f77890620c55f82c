"""What a receipt says of a request, member by member."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from trustgate.gateway.api.call import Call
from trustgate.gateway.path import accounting
from trustgate.gateway.path.accounting import Account, AccountEnd
from trustgate.models.pricing import PriceTable
from trustgate.receipts.receipt import commitment
from trustgate.types import FACTOR_ONE_PPM, PAYMENT_VERSIONS, Prices, Receipt, Usage

_PRICE = PriceTable(Prices(input_pico_usd=1_000, output_pico_usd=2_000, image_nano_usd=7))
_EMPTY = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
#: Every count another one, each part of its sum.
_USAGE = Usage(
    prompt_tokens=1000,
    cached_tokens=11,
    cache_write_tokens=13,
    cache_write_1h_tokens=12,
    audio_prompt_tokens=14,
    image_prompt_tokens=15,
    completion_tokens=500,
    reasoning_tokens=16,
    audio_completion_tokens=17,
    image_completion_tokens=18,
    images=19,
    audio_ms=20,
    characters=21,
    searches=22,
    service_tier="flex",
    image_size="1x1",
    image_quality="high",
    contradictory=True,
)


class _Accounting:
    """A log whose tenant has four receipts, and a keeping that keeps what it is given."""

    def __init__(self) -> None:
        self.log = SimpleNamespace(link=lambda tenant_id: (5, f"tprev of {tenant_id}"))
        self.keeping = self
        self.ends: list[AccountEnd] = []

    def close(self, end: AccountEnd) -> None:
        self.ends.append(end)


def _account(end_user: str | None, factor_ppm: int) -> Account:
    arrival = SimpleNamespace(receipt_id="rcpt_1", at_us=1_234, secret=bytes(32), elapsed_ms=lambda: 99)
    caller = SimpleNamespace(
        terms=None,
        tenant=SimpleNamespace(id="tenant_1"),
        key=SimpleNamespace(id="key_1"),
        policy_hash="policy",
        price_factor_ppm=factor_ppm,
    )
    endpoint = SimpleNamespace(name="chat.completions", is_sold=True, is_unmetered=False, makes=None)
    call = Call(model="asked", stream=True, end_user=end_user)
    request: Any = SimpleNamespace(arrival=arrival, caller=caller, endpoint=endpoint, call=call, body=b"")
    accounting: Any = _Accounting()
    account = Account(accounting, request, None, None)
    target: Any = SimpleNamespace(
        price=_PRICE,
        passport=SimpleNamespace(id="passport_1", pool=None),
        load=SimpleNamespace(used=lambda pool, tokens: None),
    )
    account.target = target
    account.upstream_model, account.first_ms = "answered", 88
    return account


@pytest.mark.parametrize("end_user", [None, "", "eu_1"])
@pytest.mark.parametrize("factor_ppm", [FACTOR_ONE_PPM, 2 * FACTOR_ONE_PPM])
@pytest.mark.parametrize(
    "usage", [_USAGE, Usage(prompt_tokens=7, cached_tokens=3, completion_tokens=5, reasoning_tokens=2, estimated=True)]
)
def test_every_member_of_a_receipt_has_its_own_value(usage: Usage, factor_ppm: int, end_user: str | None) -> None:
    account = _account(end_user, factor_ppm)
    account.close("complete", status=203, usage=usage)
    cost_nano_usd = _PRICE.cost_nano_usd(usage, 1_234)
    expected = {
        "v": 3 if end_user is None else 5,
        "id": "rcpt_1",
        "created_us": 1_234,
        "tenant": "tenant_1",
        "key": "key_1",
        "tseq": 5,
        "tprev": "tprev of tenant_1",
        "endpoint": "chat.completions",
        "model": "asked",
        "passport": "passport_1",
        "upstream_model": "answered",
        "request_commitment": commitment(bytes(32), "request", _EMPTY),
        "response_commitment": commitment(bytes(32), "response", _EMPTY),
        "usage_source": "estimate" if usage.estimated else "provider",
        "cost_nano_usd": cost_nano_usd,
        "price_hash": _PRICE.hash,
        "policy_hash": "policy",
        "latency_first_ms": 88,
        "latency_total_ms": 99,
        "status": 203,
        "finish": "complete",
        "stream": True,
        "price_known": True,
        "billed_nano_usd": cost_nano_usd * factor_ppm // FACTOR_ONE_PPM,
        "price_factor_ppm": factor_ppm,
        "usage_contradictory": usage.contradictory,
        **{name: value for name, value in msgspec.structs.asdict(usage).items() if name in Receipt.__struct_fields__},
    }
    if end_user is not None:
        expected["end_user"] = end_user
    assert account.receipt is not None
    assert msgspec.to_builtins(account.receipt) == expected
    assert account.receipt.v not in PAYMENT_VERSIONS


def test_the_first_of_an_answer_is_timed_once() -> None:
    account = cast(Any, _account(None, FACTOR_ONE_PPM))
    account.first_ms = None
    account.sent(b"first")
    assert account.first_ms == 99
    account.first_ms = 98
    account.sent(b"second")
    assert account.first_ms == 98


@pytest.mark.parametrize(("choices", "counted"), [(0, 1), (1, 1), (3, 3)])
@pytest.mark.parametrize("has_target", [True, False])
def test_counts_beyond_what_a_request_can_have_used_are_not_believed(
    choices: int, counted: int, has_target: bool
) -> None:
    """A model's own lengths bound them; without a model, those of the largest ones."""
    account = _account(None, FACTOR_ONE_PPM)
    request = cast(Any, account.request)
    request.call = msgspec.structs.replace(request.call, choices=choices, prompt_tokens=3)
    bounds: dict[str, int] = {}

    def note(estimate: int, *, prompt_bound: int, completion_bound: int) -> Usage:
        bounds.update(prompt=prompt_bound, completion=completion_bound)
        assert estimate == 3
        return Usage()

    if has_target:
        account.target = cast(
            Any, SimpleNamespace(passport=SimpleNamespace(context_length=1_000, max_output_tokens=100))
        )
    else:
        account.target = None
    account.usage_of(cast(Any, SimpleNamespace(usage_or_estimate=note)))
    runs, context = accounting._RUNS, accounting._CONTEXT_TOKENS
    assert bounds == (
        {"prompt": runs * 1_000, "completion": runs * 100 * counted}
        if has_target
        else {"prompt": runs * context, "completion": runs * context * counted}
    )
