"""LiteLLM's price members: each is taken or named, and they cost what the table says, by another calculation."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from trustgate.models.importing.litellm import read_import_file
from trustgate.models.importing.litellm_prices import Notes, read_prices
from trustgate.models.pricelist import PriceBook, built_in
from trustgate.models.prices import merged, slips
from trustgate.models.pricing import PriceTable
from trustgate.types import ConditionalRates, Prices, Usage

AT_US = 1_780_000_000_000_000


def listed_cost(model: str, **usage: Any) -> Decimal:
    """USD, by the list that comes with the program."""
    entry = PriceBook(built_in()).entry(model)
    assert entry is not None
    return Decimal(PriceTable(entry.prices).cost_nano_usd(Usage(**usage), AT_US)).scaleb(-9)


# LiteLLM's own entries, as its package has them: 1-hour cache writes 1e-05, input 5e-06, output 2.5e-05; input above
# 272k tokens 1e-05, output 4.5e-05; in the priority tier 1.25e-05 and 7.5e-05, of which nothing is said above 272k.


def test_cache_writes_for_an_hour() -> None:
    used = {"prompt_tokens": 100_010, "cache_write_tokens": 100_000, "cache_write_1h_tokens": 100_000}
    assert listed_cost("claude-opus-4-5", completion_tokens=10, **used) == Decimal("1.0003")
    used["cache_write_1h_tokens"] = 0
    assert listed_cost("claude-opus-4-5", completion_tokens=10, **used) == Decimal("0.6253")


def test_a_step_of_the_prompts_length_and_a_tier() -> None:
    used = {"prompt_tokens": 300_000, "completion_tokens": 1_000}
    assert listed_cost("gpt-5.5", **used) == Decimal("3.045")
    assert listed_cost("gpt-5.5", **used, service_tier="priority") == Decimal("3.825")
    assert listed_cost("gpt-5.5", **used, service_tier="flex") == Decimal("1.5225")
    used["prompt_tokens"] = 272_000
    assert listed_cost("gpt-5.5", **used) == Decimal("1.39")
    assert listed_cost("gpt-5.5", **used, service_tier="priority") == Decimal("3.475")


def prices_of(info: dict[str, Any], name: str = "m") -> tuple[Prices | None, tuple[str, ...]]:
    notes = Notes()
    return read_prices(info, name, notes), notes.all()


TAKEN: list[tuple[dict[str, Any], Prices]] = [
    ({"input_cost_per_token": 1e-06}, Prices(input_pico_usd=1_000_000)),
    ({"output_cost_per_token": "1e-06"}, Prices(output_pico_usd=1_000_000)),
    ({"cache_read_input_token_cost": 1e-07}, Prices(cached_input_pico_usd=100_000)),
    ({"input_cost_per_token_cache_hit": 1e-07}, Prices(cached_input_pico_usd=100_000)),
    ({"cache_creation_input_token_cost": 1e-06}, Prices(cache_write_pico_usd=1_000_000)),
    ({"cache_creation_input_token_cost_above_1hr": 2e-06}, Prices(cache_write_1h_pico_usd=2_000_000)),
    ({"output_cost_per_reasoning_token": 4e-06}, Prices(reasoning_pico_usd=4_000_000)),
    ({"input_cost_per_audio_token": 4e-05}, Prices(audio_input_pico_usd=40_000_000)),
    ({"output_cost_per_audio_token": 8e-05}, Prices(audio_output_pico_usd=80_000_000)),
    ({"input_cost_per_image_token": 1e-05}, Prices(image_input_pico_usd=10_000_000)),
    ({"output_cost_per_image_token": 4e-05}, Prices(image_output_pico_usd=40_000_000)),
    ({"input_cost_per_query": 0.002}, Prices(call_nano_usd=2_000_000)),
    ({"input_cost_per_request": 0.005}, Prices(call_nano_usd=5_000_000)),
    ({"output_cost_per_image": 0.04}, Prices(image_nano_usd=40_000_000)),
    ({"mode": "image_generation", "input_cost_per_image": 0.04}, Prices(image_nano_usd=40_000_000)),
    ({"mode": "audio_speech", "input_cost_per_character": 1.5e-05}, Prices(character_pico_usd=15_000_000)),
    ({"mode": "audio_transcription", "input_cost_per_second": 1e-04}, Prices(audio_second_nano_usd=100_000)),
    (
        {"mode": "audio_transcription", "input_cost_per_second": 0.0, "output_cost_per_second": 1e-04},
        Prices(audio_second_nano_usd=100_000),
    ),
    (
        {"search_context_cost_per_query": {"search_context_size_low": 0.01, "search_context_size_high": 0.01}},
        Prices(search_nano_usd=10_000_000),
    ),
    (
        {"input_cost_per_token_above_200k_tokens_priority": 4e-06},
        Prices(
            conditional=(
                ConditionalRates(above_prompt_tokens=200_000, service_tier="priority", input_pico_usd=4_000_000),
            )
        ),
    ),
    (
        {"input_cost_per_token_batches": 1e-06, "output_cost_per_token_flex": 2e-06},
        Prices(
            conditional=(
                ConditionalRates(service_tier="batch", input_pico_usd=1_000_000),
                ConditionalRates(service_tier="flex", output_pico_usd=2_000_000),
            )
        ),
    ),
    # xAI bills the higher step from the step itself on.
    (
        {"litellm_provider": "xai", "input_cost_per_token_above_128k_tokens": 4e-06},
        Prices(conditional=(ConditionalRates(above_prompt_tokens=127_999, input_pico_usd=4_000_000),)),
    ),
    (
        {
            "tiered_pricing": [
                {"input_cost_per_token": 5e-08, "range": [0, 256000.0]},
                {"input_cost_per_token": 2.5e-07, "range": [256000.0, 1000000.0]},
            ]
        },
        Prices(
            input_pico_usd=50_000,
            conditional=(ConditionalRates(above_prompt_tokens=256_000, input_pico_usd=250_000),),
        ),
    ),
]


@pytest.mark.parametrize(("info", "prices"), TAKEN)
def test_members_that_are_taken(info: dict[str, Any], prices: Prices) -> None:
    assert prices_of(info) == (prices, ())


@pytest.mark.parametrize(
    ("member", "means"),
    [
        ("input_cost_per_video_per_second", "video is not counted"),
        ("cache_read_input_audio_token_cost", "billed as cached text is"),
        ("off_peak_pricing", "peak price at all hours"),
        ("ocr_cost_per_page", "pages are not counted"),
        ("input_dbu_cost_per_token", "the one in USD is taken"),
        ("fedramp_uplift_multiplier", "not applied"),
        ("code_interpreter_cost_per_session", "tool is not billed"),
        ("output_cost_per_character", "not counted here"),
        ("input_cost_per_second", "not counted here"),
        ("cache_creation_input_token_cost_above_12hr", "as other reads and writes"),
        ("input_cost_per_wish", "not known here"),
        ("input_cost_per_wish_above_200k_tokens", "base price above that length"),
        ("tiered_pricing", "its steps cannot be read"),
        ("input_cost_per_token_above_99999999999k_tokens", "base price above that length"),
        (f"input_cost_per_token_above_{'9' * 5000}_tokens", "base price above that length"),
    ],
    ids=lambda text: text[:60],
)
def test_members_that_are_not_taken_are_named_with_what_that_means(member: str, means: str) -> None:
    found, notes = prices_of({"mode": "chat", "input_cost_per_token": 1e-06, member: 0.5}, "one")
    assert found == Prices(input_pico_usd=1_000_000)
    (note,) = notes
    assert note.startswith(f"Not taken: {member} of one: ") and means in note


def test_images_by_size_and_quality(tmp_path: Path) -> None:
    """By hand: 0.04 and 0.08 USD an image, and 1e-08 USD a pixel of 1024 × 1024."""
    made = {"litellm_provider": "p", "mode": "image_generation"}
    table = {
        "p/1024-x-1024/painter": {**made, "output_cost_per_image": 0.04},
        "p/hd/1792-x-1024/painter": {**made, "output_cost_per_image": 0.08},
        "p/low/1024-x-1024/dots": {**made, "input_cost_per_pixel": 1e-08},
        # In tokens already: an image is not billed twice.
        "p/tokens": {**made, "output_cost_per_image_token": 4e-05},
        "p/low/1024-x-1024/tokens": {**made, "input_cost_per_pixel": 1e-08},
    }
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    found = {passport.slug: passport.fields.prices for passport in read_import_file(path).passports}
    assert set(found) == {"p/painter", "p/dots", "p/tokens"}
    painter, dots, tokens = (PriceTable(found[name] or Prices()) for name in ("p/painter", "p/dots", "p/tokens"))

    def image(table: PriceTable, image_size: str = "", image_quality: str = "") -> int:
        return table.cost_nano_usd(Usage(images=1, image_size=image_size, image_quality=image_quality), AT_US)

    assert image(painter, image_size="1024x1024") == 40_000_000
    assert image(painter, image_size="1792x1024", image_quality="hd") == 80_000_000
    assert image(painter) == 80_000_000, "its size was not named: the dearest"
    assert image(dots, image_size="1024x1024", image_quality="low") == 1024 * 1024 * 10
    assert image(tokens, image_size="1024x1024", image_quality="low") == 0
    assert tokens.cost_nano_usd(Usage(images=1, completion_tokens=100), AT_US) == 100 * 40_000


def test_seconds_are_not_billed_besides_tokens() -> None:
    """A model with both prices is billed by its tokens where they are told, by its length where they are not."""
    both = PriceTable(Prices(input_pico_usd=2_500_000, output_pico_usd=10_000_000, audio_second_nano_usd=100_000))
    told = Usage(prompt_tokens=100, audio_prompt_tokens=100, completion_tokens=10, audio_ms=10_000)
    assert both.cost_nano_usd(told, AT_US) == 100 * 2_500 + 10 * 10_000
    assert both.cost_nano_usd(Usage(audio_ms=10_000), AT_US) == 1_000_000


def test_importing_again_keeps_what_the_file_does_not_speak_of() -> None:
    by_hand = Prices(
        input_pico_usd=5,
        call_nano_usd=2_000_000,
        conditional=(ConditionalRates(service_tier="flex", input_pico_usd=2, output_pico_usd=3),),
    )
    file = Prices(input_pico_usd=7, conditional=(ConditionalRates(service_tier="flex", input_pico_usd=4),))
    assert merged(by_hand, file) == Prices(
        input_pico_usd=7,
        call_nano_usd=2_000_000,
        conditional=(ConditionalRates(service_tier="flex", input_pico_usd=4, output_pico_usd=3),),
    )
    assert merged(Prices(free=True), file) == file
    assert merged(by_hand, Prices()) == by_hand


@pytest.mark.parametrize(
    ("pico_usd", "is_slip"), [(0, False), (9, True), (10, False), (10_000_000_000, False), (10_000_000_001, True)]
)
def test_slips_of_the_unit(pico_usd: int, is_slip: bool) -> None:
    assert bool(slips(Prices(input_pico_usd=pico_usd))) == is_slip
    assert bool(slips(Prices(conditional=(ConditionalRates(service_tier="x", output_pico_usd=pico_usd),)))) == is_slip
    assert not slips(Prices(call_nano_usd=pico_usd))
