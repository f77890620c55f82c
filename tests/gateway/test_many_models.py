"""Lists of very many models."""

from __future__ import annotations

from typing import Any

from tests.cluster.bookkeeping import make_caller
from tests.support.loop_turns import turns_until
from trustgate.gateway.views.account import Reads
from trustgate.models.catalog import Catalog
from trustgate.models.upstream.targets import Targets
from trustgate.types import Passport, Prices


async def test_other_requests_run_while_very_many_models_are_listed() -> None:
    prices = Prices(input_pico_usd=1, output_pico_usd=2)
    passports = [Passport(id=f"passport_{n}", slug=f"m{n}", api_model_id="m", prices=prices) for n in range(1_000)]
    catalog: Any = Catalog(passports, [])
    targets = Targets(catalog, "http://127.0.0.1:9/v1", lambda _: None)
    nothing: Any = None
    reads = Reads(
        directory=nothing,
        catalog=catalog,
        targets=targets,
        quota=nothing,
        budgets=nothing,
        log=nothing,
        store=nothing,
        archive=nothing,
    )
    listed, turns = await turns_until(reads.models(make_caller(), {"query_string": b"", "headers": []}))
    assert [model["id"] for model in listed["data"]] == [passport.slug for passport in passports]
    assert turns >= 10
