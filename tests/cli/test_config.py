"""``trustgate config show``: every setting, and who said so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway
from trustgate.cli.checks import check_everything
from trustgate.cli.context import Session
from trustgate.settings import describe

_SECRET = "supersecretkey"


def _settings(home: Gateway, *arguments: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in home.cli_json("config", "show", *arguments)["settings"]}


def test_each_value_comes_with_its_source(home: Gateway) -> None:
    home = Gateway(home.home, environment={"TRUSTGATE_SERVE_PORT": "4444", "TRUSTGATE_LOG_LEVEL": "debug"})
    home.home.mkdir()
    file = home.home / "trustgate.toml"
    file.write_text(
        f"[serve]\nhost = '127.0.0.2'\nport = 1\n[anchor]\nrpc = 'https://u:{_SECRET}@rpc.example/{_SECRET}'\n"
    )
    found = _settings(home, "--upstream", "http://10.0.0.1:8000/v1")
    assert list(found) == [setting.name for setting in describe()]
    seen = {name: (row["value"], row["source"], row["place"]) for name, row in found.items()}
    assert seen["serve.host"] == ("127.0.0.2", "file", f"{file}, line 2")
    assert seen["serve.port"] == (4444, "variable", "TRUSTGATE_SERVE_PORT")
    assert seen["upstream.url"] == ("http://10.0.0.1:8000/v1", "flag", None)
    assert seen["journal.sync_ms"] == (50, "default", None)
    assert seen["anchor.rpc"][0] == "https://rpc.example/…"
    said = home.cli("config", "show").stdout
    assert _SECRET not in said
    assert "TRUSTGATE_LOG_LEVEL" in said
    assert f"{file}, line 2" in said


def test_only_what_is_changed(home: Gateway) -> None:
    assert _settings(home, "--changed") == {}
    assert set(_settings(home, "--changed", "--port", "5")) == {"serve.port"}
    assert not home.home.exists(), "looking makes nothing"


def test_where_the_home_folder_comes_from(home: Gateway) -> None:
    shown = home.cli_json("config", "show")
    assert shown["home"] == {"value": str(home.home), "source": "flag", "place": "--home"}
    assert shown["file_exists"] is False


def test_a_wrong_setting_is_told_with_its_place(home: Gateway) -> None:
    home.home.mkdir()
    (home.home / "trustgate.toml").write_text("[serve]\nport = 'x'\n")
    refused = home.cli("config", "show", check=False)
    assert refused.returncode == 2
    assert "line 2: serve.port" in refused.stderr


def test_of_no_node_more_than_the_host_is_shown(home: Gateway) -> None:
    """Providers of RPC nodes put their customers' keys into path and query."""
    names = ("solana_rpc", "solana_devnet_rpc", "base_rpc", "base_sepolia_rpc")
    lines = [f"{name} = 'https://{name.replace('_', '-')}.example/v2/{_SECRET}?api-key={_SECRET}'" for name in names]
    home.home.mkdir()
    written = "\n".join(["[payment]", *lines, f"nodes = ['polygon=https://p.example/{_SECRET}']"])
    (home.home / "trustgate.toml").write_text(written)
    shown = _settings(home)
    values = {name: row["value"] for name, row in shown.items()}
    assert values["payment.base_rpc"] == "https://base-rpc.example/…"
    assert values["payment.nodes"] == ["polygon=https://p.example/…"]
    assert _SECRET not in home.cli("config", "show").stdout + str(shown)


def test_doctor_names_where_the_settings_are_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_from() -> str:
        return next(found.message for found in check_everything(Session(tmp_path)) if found.name == "settings")

    file = tmp_path / "trustgate.toml"
    assert read_from() == "the defaults"
    monkeypatch.setenv("TRUSTGATE_SERVE_PORT", "4999")
    assert read_from() == "read from the environment (TRUSTGATE_SERVE_PORT)"
    file.write_text("")
    assert read_from() == f"read from {file} and the environment (TRUSTGATE_SERVE_PORT)"
