"""Files of LiteLLM users become passports; no secret in them survives; mistakes are named by file and line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from trustgate.errors import SettingsError
from trustgate.models.importing import documents
from trustgate.models.importing.litellm import ImportFile, read_import_file
from trustgate.models.passports import PassportFields
from trustgate.types import ConditionalRates, Fallback, Prices

DATA = Path(__file__).parent / "data"
CONFIG = DATA / "litellm_config.yaml"
TABLE = DATA / "litellm_prices.json"


def by_slug(imported: ImportFile) -> dict[str, PassportFields]:
    fields = {passport.slug: passport.fields for passport in imported.passports}
    assert len(fields) == len(imported.passports)
    return fields


def written(tmp_path: Path, text: str | bytes, name: str = "config.yaml") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_configuration_is_served_by_its_own_proxy() -> None:
    imported = read_import_file(CONFIG)
    fields = by_slug(imported)
    assert imported.kind == "litellm_config"
    assert list(fields) == ["gpt-4o-mini", "claude", "qwen", "embed", "openai/*", "gpt-4", "hidden"]
    assert all(passport.api_model_id == slug for slug, passport in fields.items())
    assert all(passport.base_url is None and passport.credential_env is None for passport in fields.values())
    assert all(passport.fallbacks is None and passport.default_parameters is None for passport in fields.values())
    assert [passport.provider for passport in fields.values()] == [
        *("openai", "anthropic", "hosted_vllm", None, "openai", "openai", "hosted_vllm")
    ]


def test_prices_limits_and_capabilities_of_a_configuration() -> None:
    qwen = by_slug(read_import_file(CONFIG))["qwen"]
    # 1.00000000001e-08 USD are 10,000.0000001 pico-USD: rounded up.
    assert qwen.prices == Prices(input_pico_usd=150_000, cached_input_pico_usd=10_001, output_pico_usd=600_000)
    assert (qwen.context_length, qwen.max_output_tokens) == (32_768, 8_192)
    assert qwen.capabilities == ("chat", "tools")


def test_notes_of_a_configuration() -> None:
    assert read_import_file(CONFIG).notes == (
        "qwen has deployments at different prices; the first one's apply.",
        "The alias 'lost' names no model of the file; left out.",
        "The proxy goes on applying its own fallbacks; none were imported.",
        "No prices for gpt-4o-mini, claude, embed and gpt-4: set them, or import LiteLLM's table of prices.",
        "Rounded up to a whole pico-USD a token: the prices of qwen (line 17).",
    )


@pytest.mark.parametrize("direct", [False, True])
def test_no_secret_of_a_configuration_is_kept(direct: bool) -> None:
    assert CONFIG.read_text().count("LITERAL-SECRET") == 3
    assert b"SECRET" not in msgspec.json.encode(read_import_file(CONFIG, direct=direct))


def test_direct_calls_the_providers_that_speak_openai() -> None:
    imported = read_import_file(CONFIG, direct=True)
    fields = by_slug(imported)
    assert list(fields) == [
        "gpt-4o-mini",
        "gpt-4o-mini-2",
        "claude",
        "qwen",
        "qwen-2",
        "embed",
        "openai/*",
        "gpt-4",
        "hidden",
    ]
    assert fields["gpt-4o-mini"] == PassportFields(
        api_model_id="gpt-4o-mini",
        provider="openai",
        base_url="https://api.openai.com/v1",
        credential_env="OPENAI_KEY_A",
        default_parameters={"temperature": 0.2},
        pool_members=(Fallback(passport="gpt-4o-mini-2", rank=0),),
        pool={"weight": 1, "choice": "weighted"},
    )
    assert (fields["gpt-4o-mini-2"].base_url, fields["gpt-4o-mini-2"].api_model_id) == (None, "gpt-4o-mini")
    qwen, spare = fields["qwen"], fields["qwen-2"]
    assert (qwen.api_model_id, qwen.base_url, qwen.credential_env) == ("Qwen/Qwen3-8B", "http://10.0.0.5:8000/v1", None)
    assert (spare.api_model_id, spare.base_url) == ("Qwen/Qwen3-8B", "http://10.0.0.6:8000/v1")
    assert qwen.pool_members == (Fallback(passport="qwen-2", rank=0),)
    assert qwen.fallbacks == (Fallback(passport="gpt-4o-mini", rank=1),)
    assert (fields["embed"].api_model_id, fields["embed"].credential_env) == (
        "text-embedding-3-small",
        "OPENAI_API_KEY",
    )
    assert fields["openai/*"].api_model_id == "*"
    assert (fields["claude"].api_model_id, fields["claude"].base_url) == ("claude", None)
    assert fields["gpt-4"].api_model_id == "gpt-4o-mini"
    notes = "\n".join(imported.notes)
    assert "claude (line 13): anthropic needs LiteLLM to translate" in notes
    assert "qwen (line 17): the api_key in the file was not kept" in notes
    assert "trustgate passport set qwen --credential-env NAME" in notes
    assert "not in the file were left out: absent" in notes


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("os.environ/BASE", "environment variable"),
        ("https://user:pw-SECRET@host/v1", "may hold a secret"),
        ("https://host/v1?api-key=SECRET", "may hold a secret"),
        ("ftp://host/v1", "not an http"),
        ("http://[", "not a URL"),
        ("7", "is missing"),
    ],
)
def test_a_base_that_cannot_be_kept_stays_behind_the_proxy(tmp_path: Path, base: str, problem: str) -> None:
    value = base if base == "7" else f"'{base}'"
    text = f"model_list: [{{model_name: m, litellm_params: {{model: openai/m, api_base: {value}}}}}]"
    imported = read_import_file(written(tmp_path, text), direct=True)
    assert by_slug(imported)["m"] == PassportFields(api_model_id="m", provider="openai")
    assert problem in imported.notes[0]
    assert "SECRET" not in "".join(imported.notes)


MINI = Prices(
    input_pico_usd=150_000,
    cached_input_pico_usd=75_000,
    output_pico_usd=600_000,
    search_nano_usd=25_000_000,
    conditional=(ConditionalRates(service_tier="batch", input_pico_usd=75_000),),
)


def test_the_table_of_prices() -> None:
    imported = read_import_file(TABLE)
    fields = by_slug(imported)
    assert imported.kind == "litellm_prices"
    assert fields["gpt-4o-mini"] == PassportFields(
        provider="openai",
        context_length=128_000,
        max_output_tokens=16_384,
        capabilities=("chat", "tools", "vision", "files", "structured_outputs", "prompt_caching"),
        prices=MINI,
    )
    assert fields["text-embedding-3-small"] == PassportFields(
        provider="openai",
        context_length=8191,
        capabilities=("embeddings",),
        prices=Prices(input_pico_usd=20_000, output_pico_usd=0),
    )
    assert fields["anthropic/claude-sonnet-4-5"].max_output_tokens == 64_000
    assert fields["anthropic/claude-sonnet-4-5"].context_length is None
    assert fields["fine"].prices == Prices(input_pico_usd=123_457, output_pico_usd=1)
    assert fields["free"].prices == Prices(input_pico_usd=0, output_pico_usd=0)
    assert fields["wrong"] == PassportFields(provider="x", capabilities=("chat",))
    assert fields["only-responses"].capabilities == ("chat",)
    assert not {"sample_spec", "nothing"} & fields.keys()
    assert fields["dall-e-3"].capabilities is not None and "images" in fields["dall-e-3"].capabilities
    assert imported.notes == (
        "wrong: input_cost_per_token is not a price in USD a token; left out.",
        "wrong: output_cost_per_token is not a price in USD a token; left out.",
        "Left out 1 entries of unsupported kinds.",
        "Rounded up to a whole pico-USD a token: the prices of fine.",
    )


def test_a_table_fills_in_what_a_configuration_leaves_out() -> None:
    fields = by_slug(read_import_file(CONFIG, prices=TABLE))
    assert fields["gpt-4o-mini"].prices == MINI
    assert fields["gpt-4o-mini"].api_model_id == "gpt-4o-mini"
    assert fields["claude"].prices == Prices(input_pico_usd=3_000_000, output_pico_usd=15_000_000)
    assert fields["embed"].prices == Prices(input_pico_usd=20_000, output_pico_usd=0)
    # The file's own word counts first.
    assert fields["qwen"].context_length == 32_768


@pytest.mark.parametrize(
    ("price", "pico"),
    [
        ("1.5e-07", 150_000),
        ("0.00000015", 150_000),
        ("'1.5e-07'", 150_000),
        ("15e-8", 150_000),
        ("1e-999999999", 1),
        ("0.0", 0),
        ("1000", 1_000_000_000_000_000),
        ("1001", None),
        (".nan", None),
        (".inf", None),
        ("true", None),
        ("[1]", None),
        ("cheap", None),
    ],
)
def test_prices_are_exact_or_left_out(tmp_path: Path, price: str, pico: int | None) -> None:
    text = f"model_list: [{{model_name: m, litellm_params: {{model: m, input_cost_per_token: {price}}}}}]"
    imported = read_import_file(written(tmp_path, text))
    prices = by_slug(imported)["m"].prices
    assert prices == (None if pico is None else Prices(input_pico_usd=pico))
    assert ("not a price" in "".join(imported.notes)) == (pico is None)


MISTAKES: list[tuple[str, str, str]] = [
    ("config.yaml", "a: [1,\n b: {", "line [23]: did not find"),
    ("config.yaml", "model_list:\n\t- x", "line 2: found character"),
    ("config.yaml", "", "has no mapping"),
    ("config.yaml", "- a", "has no mapping"),
    ("config.yaml", "general_settings: {}", "neither"),
    ("config.yaml", "model_list: {}", "not a list with entries"),
    ("config.yaml", "model_list: []", "not a list with entries"),
    ("config.yaml", "model_list:\n - model_name: a\n   litellm_params: {model: a}\n - 7", "line 4: an entry"),
    ("config.yaml", "model_list:\n\n - model_name: 7", "line 3: model_name"),
    ("config.yaml", "model_list: [{model_name: a}]", "line 1: litellm_params must"),
    ("config.yaml", "model_list: [{model_name: a, litellm_params: {}}]", "litellm_params.model must"),
    ("config.yaml", "model_list: [{model_name: a, litellm_params: {model: a}, model_info: 7}]", "model_info must"),
    ("config.yaml", "model_list: " + "[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ("config.yaml", "model_list: &a\n - *a", "too many values"),
    ("config.yaml", "a: 2024-13-45", "not valid YAML"),
    ("config.yaml", "a: \x01", "not valid YAML"),
    ("config.yaml", "model_list: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ("config.json", '{"model_list": [{"model_name": 7}]}', r"model_list\[0\]: model_name"),
    ("prices.json", '{\n "a": 1,\n "b" 2}', "line 3: Expecting ':' delimiter"),
    ("prices.json", "[]", "has no mapping"),
    ("prices.json", '{"a": {"b": 1}}', "neither"),
    ("prices.json", '{"a": NaN}', "NaN is not a JSON number"),
    ("prices.json", "[" * 100_000, "nested too deeply"),
    ("prices", '{"a": }', "line 1: Expecting value"),
]


@pytest.mark.parametrize(("name", "text", "problem"), MISTAKES)
def test_mistakes_are_named(tmp_path: Path, name: str, text: str, problem: str) -> None:
    path = written(tmp_path, text, name)
    with pytest.raises(SettingsError, match=problem) as raised:
        read_import_file(path)
    assert str(path) in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "model_list:\n - api_key: sk-SECRET\n  x: 'sk-SECRET",
        "api_key: sk-SECRET: x: [\n",
        "api_key: *sk-SECRET",
        "api_key: !sk-SECRET x",
    ],
)
def test_a_mistake_beside_a_secret_does_not_show_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_import_file(written(tmp_path, text))
    assert "SECRET" not in f"{raised.value.message}{raised.value.hint}"


@pytest.mark.parametrize("merge", [False, True])
def test_anchors_that_grow_exponentially_are_refused(tmp_path: Path, merge: bool) -> None:
    lines = ["a0: &a0 {k: v}"]
    for level in range(1, 12):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{aliases}]}}" if merge else f"[{aliases}]"))
    with pytest.raises(SettingsError, match="too many values"):
        read_import_file(written(tmp_path, "\n".join(lines)))


def test_ordinary_anchors_work(tmp_path: Path) -> None:
    text = """
common: &common {api_key: os.environ/KEY, api_base: "https://host/v1"}
model_list:
  - {model_name: m, litellm_params: {<<: *common, model: openai/m}}
"""
    fields = by_slug(read_import_file(written(tmp_path, text), direct=True))
    assert (fields["m"].base_url, fields["m"].credential_env) == ("https://host/v1", "KEY")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        read_import_file(tmp_path / "absent.yaml")
    with pytest.raises(SettingsError, match="is not a file"):
        read_import_file(tmp_path)
    with pytest.raises(SettingsError, match="line 2: not UTF-8"):
        read_import_file(written(tmp_path, b"a: 1\nb: \xff"))
    monkeypatch.setattr(documents, "MAX_YAML_BYTES", 10)
    with pytest.raises(SettingsError, match="is larger"):
        read_import_file(written(tmp_path, "a: 1 # " + "x" * 10))
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 10)
    with pytest.raises(SettingsError, match="is larger"):
        read_import_file(written(tmp_path, '{"a": "xxxxxxx"}', "a.json"))


def test_a_table_given_as_prices_must_be_one() -> None:
    with pytest.raises(SettingsError, match="is not LiteLLM's table"):
        read_import_file(CONFIG, prices=CONFIG)


def test_fallbacks_for_prompts_that_are_too_long_are_taken(tmp_path: Path) -> None:
    text = """
model_list:
  - {model_name: small, litellm_params: {model: openai/small}}
  - {model_name: beside, litellm_params: {model: openai/beside}}
  - {model_name: large, litellm_params: {model: openai/large}}
router_settings: {fallbacks: [{small: [beside]}]}
litellm_settings: {context_window_fallbacks: [{small: [beside, large, unknown]}]}
"""
    imported = read_import_file(written(tmp_path, text), direct=True)
    small = by_slug(imported)["small"]
    assert small.fallbacks == (Fallback(passport="beside"),)
    assert small.context_fallbacks == (Fallback(passport="large", rank=2, only_too_long=True),)
    assert "left out: unknown" in "\n".join(imported.notes)
    assert "context_window_fallbacks" not in "\n".join(imported.notes)


def test_what_the_proxy_does_and_the_import_does_not_is_named(tmp_path: Path) -> None:
    text = """
model_list:
  - model_name: m
    litellm_params:
      {model: openai/m, rpm: 10, tpm: 100, weight: 3, input_cost_per_token_flex: 1.0e-06, input_cost_per_wish: 1}
    model_info: {input_cost_per_token: 2.0e-06, output_cost_per_token: 0}
router_settings: {content_policy_fallbacks: [{m: [n]}]}
litellm_settings: {max_budget: 10, cost_margin_config: {global: 0.1}}
"""
    imported = read_import_file(written(tmp_path, text))
    assert by_slug(imported)["m"].prices == Prices(
        input_pico_usd=2_000_000,
        output_pico_usd=0,
        conditional=(ConditionalRates(service_tier="flex", input_pico_usd=1_000_000),),
    )
    notes = "\n".join(imported.notes)
    for told in (
        "rpm and tpm of m",
        "weight of m",
        "input_cost_per_wish of m",
        "router_settings.content_policy_fallbacks",
    ):
        assert told in notes
    assert "litellm_settings.max_budget" in notes and "--price-factor" in notes
