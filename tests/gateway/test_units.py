"""Every unit is held before it is used: seconds of audio, characters, images, and the tokens that they become."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.conftest import SignUp, Tenant
from tests.gateway.test_path import error_of
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream
from trustgate.gateway.api import units


def wav(seconds: int, rate: int = 8_000) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\x00\x00" * rate * seconds)
    return written.getvalue()


def flac(seconds: int, rate: int = 44_100) -> bytes:
    """A FLAC header that tells its length, and hardly any sound."""
    packed = rate << 44 | 1 << 41 | 15 << 36 | rate * seconds
    return b"fLaC" + b"\x80\x00\x00\x22" + struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big")


# prices: USD a second, a character, an image; of tokens a million
PRICED: dict[str, tuple[str, ...]] = {
    "heard": ("--audio-second-price", "0.0001"),
    "spoken": ("--character-price", "100"),
    "drawn": ("--image-price", "0.004"),
    "drawn-by-tokens": ("--output-price", "1"),
}


@pytest.fixture(scope="module")
def priced(shared_gateway: Gateway) -> Gateway:
    """A plan with half a cent a month, and models whose requests may cost more."""
    shared_gateway.cli("plan", "add", "half-a-cent", "--usd-per-month", "0.005")
    for name, prices in PRICED.items():
        shared_gateway.cli("passport", "add", name, *prices)
    return shared_gateway


@pytest.fixture
def poor(priced: Gateway, scripted: Upstream, sign_up: SignUp) -> Tenant:
    return sign_up(priced, "--plan", "half-a-cent")


def transcribe(tenant: Tenant, sound: bytes, model: str = "heard", *, chunked: bool = False) -> httpx.Response:
    form: dict[str, Any] = {"data": {"model": model}, "files": {"file": ("a.wav", sound)}}
    if not chunked:
        return tenant.http.post("/v1/audio/transcriptions", **form)
    request = tenant.http.build_request("POST", "/v1/audio/transcriptions", **form)
    body = request.read()
    pieces = (body[at : at + 10_000] for at in range(0, len(body), 10_000))
    headers = {"content-type": request.headers["content-type"]}
    return tenant.http.post("/v1/audio/transcriptions", content=pieces, headers=headers)


def speak(tenant: Tenant, characters: int, model: str = "spoken") -> httpx.Response:
    return tenant.http.post("/v1/audio/speech", json={"model": model, "input": "x" * characters, "voice": "alloy"})


def draw(tenant: Tenant, images: int, model: str = "drawn", **members: Any) -> httpx.Response:
    return tenant.http.post("/v1/images/generations", json={"model": model, "prompt": "x", "n": images, **members})


@pytest.mark.parametrize(
    "ask",
    [
        # 0.006 USD by the header of 960 kB, and by the size alone: 16 kbit/s.
        lambda tenant: transcribe(tenant, wav(60)),
        lambda tenant: transcribe(tenant, flac(60)[:42] + bytes(8_000)),
        lambda tenant: transcribe(tenant, b"OggS" + bytes(120_000)),
        # A length that was not told may be any.
        lambda tenant: transcribe(tenant, b"OggS" + bytes(200_000), chunked=True),
        lambda tenant: speak(tenant, 51),
        lambda tenant: draw(tenant, 2),
        lambda tenant: draw(tenant, 1, n=None, num_images=2),
        # 6,240 tokens an image where the quality is open.
        lambda tenant: draw(tenant, 1, "drawn-by-tokens"),
    ],
)
def test_what_may_cost_too_much_is_refused_before(
    poor: Tenant, scripted: Upstream, ask: Callable[[Tenant], httpx.Response]
) -> None:
    refused = ask(poor)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "insufficient_quota")
    assert scripted.requests == []


def test_what_a_dearer_model_may_answer_is_held_at_its_price(poor: Tenant, scripted: Upstream) -> None:
    dear, cheap = f"{poor.name}/dear", f"{poor.name}/cheap"
    poor.gateway.cli("passport", "add", dear, "--output-price", "100")
    poor.gateway.cli("passport", "add", cheap, "--output-price", "1")
    assert poor.chat(model=cheap, max_tokens=100).status_code == 200
    poor.gateway.cli("passport", "set", cheap, "--fallback", dear)
    refused = poor.chat(model=cheap, max_tokens=100)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "insufficient_quota")
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda tenant: transcribe(tenant, wav(40)), {"text": "x", "duration": 40}),
        (lambda tenant: transcribe(tenant, b"OggS" + bytes(80_000)), {"text": "x", "duration": 40}),
        (lambda tenant: speak(tenant, 49), {}),
        (lambda tenant: draw(tenant, 1), {"data": [{"url": "x"}]}),
        (lambda tenant: draw(tenant, 1, "drawn-by-tokens", quality="medium"), {"data": [{"url": "x"}]}),
    ],
)
def test_what_cannot_cost_too_much_is_served(
    poor: Tenant, scripted: Upstream, ask: Callable[[Tenant], httpx.Response], answer: dict[str, Any]
) -> None:
    scripted.script(Reply.json(answer))
    assert ask(poor).status_code == 200


AN_IMAGE = Reply.json({"data": [{"url": "x"}]})
SOUND = Reply.body(b"ID3 and so on", content_type="audio/mpeg")
TOKENS = Reply.json({"text": "x", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 5}})


@pytest.mark.parametrize(
    ("prices", "ask", "answer", "cost"),
    [
        # OpenAI's speech models are priced by tokens, and answer without usage: 900 characters are a minute.
        (("--input-price", "1", "--audio-output-price", "12"), speak, SOUND, 171_000 + 1_250 * 12_000),
        (("--audio-second-price", "0.00025"), speak, SOUND, 60 * 250_000),
        (("--character-price", "15", "--output-price", "10"), speak, SOUND, 900 * 15_000),
        (("--output-price", "10"), draw, AN_IMAGE, 1_584 * 10_000),
        (("--image-price", "0.04", "--output-price", "10"), draw, AN_IMAGE, 40_000_000),
        (("--audio-second-price", "0.0001"), transcribe, TOKENS, 300_000),
    ],
)
def test_what_an_answer_does_not_report_in_the_unit_of_its_price_is_estimated_in_it(
    priced: Gateway,
    scripted: Upstream,
    sign_up: SignUp,
    prices: tuple[str, ...],
    ask: Callable[..., httpx.Response],
    answer: Reply,
    cost: int,
    request: pytest.FixtureRequest,
) -> None:
    """Nothing is made for nothing; and what was held covers it, to the unit."""
    tenant = sign_up(priced)
    slug = f"unit-{request.node.callspec.indices['prices']}"
    priced.cli("passport", "add", slug, *prices)
    plan = f"just-{slug}"
    given = {speak: 900, draw: 1, transcribe: wav(3)}[ask]
    scripted.script(answer)
    assert ask(tenant, given, model=slug).status_code == 200
    receipt = tenant.receipts()[-1]
    assert receipt["cost_nano_usd"] == cost
    # A plan with less than that refuses it before it is asked for.
    priced.cli("plan", "add", plan, "--usd-per-month", f"{(cost - 1) / 1e9:.9f}")
    asked = len(scripted.requests)
    refused = ask(sign_up(priced, "--plan", plan), given, model=slug)
    assert (refused.status_code, error_of(refused)["code"], len(scripted.requests)) == (
        429,
        "insufficient_quota",
        asked,
    )


# the length of a recording


@given(st.integers(1, 300), st.sampled_from([8_000, 16_000, 44_100]))
def test_the_length_of_a_wave_file_is_by_its_header(seconds: int, rate: int) -> None:
    size = 44 + 2 * rate * seconds
    told = units.audio_ms(wav(1, rate)[: units.HEAD_BYTES], size)
    assert seconds * 1000 <= told <= seconds * 1000 + 10


@given(st.integers(1, 10_000), st.sampled_from([8_000, 44_100, 192_000]))
def test_the_length_of_a_flac_file_is_by_its_header(seconds: int, rate: int) -> None:
    assert units.audio_ms(flac(seconds, rate), seconds * 1_000 + 42) == seconds * 1000


def test_a_header_that_lies_makes_no_recording_shorter_than_its_samples() -> None:
    an_hour = 3600 * 44_100 * 4
    assert units.audio_ms(flac(1), an_hour) >= 3_600_000
    lying = bytearray(wav(1))
    struct.pack_into("<I", lying, 28, 2**32 - 1)  # bytes a second, which no decoder goes by
    assert units.audio_ms(bytes(lying[: units.HEAD_BYTES]), 44 + 60 * 16_000) >= 60_000


@given(st.binary(max_size=100), st.integers(0, 10**9))
def test_no_header_makes_a_recording_longer_than_its_size_can_hold(head: bytes, size: int) -> None:
    for start in (b"", b"fLaC", b"RIFF\x00\x00\x00\x00WAVEfmt "):
        assert 0 <= units.audio_ms(start + head, size) <= 16 * (-(-size * 1000 // 2_000))
