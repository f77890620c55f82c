"""Settings: which source wins, what is refused and how it is said, where things lie, and what secrets may be."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest

from trustgate.errors import HomeUnusable, SettingsError
from trustgate.settings import Settings, describe, load_settings, read_secret_variable, remote_server
from trustgate.types import Passport


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for described in describe():
        monkeypatch.delenv(described.variable, raising=False)
    for name in ("TRUSTGATE_HOME", "TRUSTGATE_URL", "TRUSTGATE_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)


def _write(home: Path, text: str) -> Path:
    path = home / "trustgate.toml"
    path.write_text(text)
    return path


# which source wins


def test_defaults_need_nothing(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "none")
    assert (settings.serve.host, settings.serve.port) == ("127.0.0.1", 4010)
    assert settings.upstream.url == "http://127.0.0.1:4000/v1"
    assert settings.admin_key() is None
    assert not settings.home.exists(), "reading settings makes nothing"


def test_flags_beat_variables_beat_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, "[serve]\nhost = '10.0.0.1'\nport = 1\nmax_concurrent_requests = 7\n")
    monkeypatch.setenv("TRUSTGATE_SERVE_PORT", "2")
    monkeypatch.setenv("TRUSTGATE_SERVE_MAX_CONCURRENT_REQUESTS", "")
    serve = load_settings(tmp_path, {"serve.port": 3, "serve.host": None}).serve
    assert (serve.host, serve.port, serve.max_concurrent_requests) == ("10.0.0.1", 3, 7)
    assert load_settings(tmp_path).serve.port == 2


def test_variables_are_read_as_their_settings_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTGATE_SERVE_TRUST_REQUEST_ID", "false")
    monkeypatch.setenv("TRUSTGATE_UPSTREAM_FORWARD_HEADERS", "x-a, x-b")
    monkeypatch.setenv("TRUSTGATE_SERVE_SHUTDOWN_GRACE_S", "2.5")
    settings = load_settings(tmp_path)
    assert settings.serve.trust_request_id is False
    assert settings.serve.shutdown_grace_s == 2.5
    assert settings.upstream.forward_headers == ("x-a", "x-b")


def test_home_is_the_flag_then_the_variable_then_the_platforms_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert load_settings().home == tmp_path / "data" / "trustgate"
    monkeypatch.setenv("TRUSTGATE_HOME", str(tmp_path / "named"))
    assert load_settings().home == tmp_path / "named"
    assert load_settings(tmp_path / "flag").home == tmp_path / "flag"
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("here")).home == tmp_path / "here"


def test_an_xdg_folder_that_is_not_absolute_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    assert load_settings().home == tmp_path / ".local" / "share" / "trustgate"


def test_a_user_that_does_not_exist_has_no_home() -> None:
    with pytest.raises(HomeUnusable):
        load_settings(Path("~nobody-of-that-name/x"))


# what is refused


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[serve]\nport = 'x\n", 2, "nterminated|llegal|xpected"),
        ("# a comment\n\n[serve]\nhost = 'h'\nport = 99999\n", 5, "serve.port: expected int <= 65535"),
        ("[serve]\nport = '4010'\n", 2, "serve.port: expected int, got str"),
        ("[serve]\nport = true\n", 2, "expected int, got bool"),
        ("[serve]\nhost = ''\n", 2, "serve.host"),
        ("[log]\n[serve]\nprt = 1\n", 3, r"no setting prt in \[serve\]"),
        ("serve.host = 'h'\nserve.prt = 1\n", 2, "no setting prt"),
        ("serve = {host = 'h', prt = 1}\n", 1, "no setting prt"),
        ("\n[server]\nport = 1\n", 2, r"no section \[server\]"),
        ("port = 1\n", 1, r"no section \[port\]"),
        ("serve = 1\n", 1, "is a section"),
        ("[serve]\nbody_timeout_s = nan\n", 2, "body_timeout_s"),
        ("[upstream]\nurl = 'ftp://h'\n", 2, "upstream.url must begin with http"),
        ("[upstream]\nurl = 'http://h:0/'\n", 2, "is not a URL"),
        ("[upstream]\nurl = 'http://[::1'\n", 2, "is not a URL"),
        ("[upstream]\nurl = 'http://h/v1?key=1'\n", 2, "query"),
        ("[upstream]\nurl = 'builtin:nothing'\n", 2, "builtin:echo"),
        ("[upstream]\nforward_headers = ['x-a', 'Authorization']\n", 2, "must not hold Authorization"),
        ("[upstream]\nforward_headers = ['x a']\n", 2, "not a header name"),
        ("[log]\nlevel = 'loud'\n", 2, "log.level"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(SettingsError, match=f"(?s){re.escape(str(path))}, line {line}\\b.*({says})") as refused:
        load_settings(tmp_path)
    assert refused.value.exit_code == 2


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "trustgate.toml").write_bytes(b"[serve]\nhost = '\xff'\n")
    with pytest.raises(SettingsError, match="line 2: this is not UTF-8"):
        load_settings(tmp_path)


def test_a_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trustgate.toml").mkdir()
    with pytest.raises(SettingsError, match=r"trustgate\.toml cannot be read"):
        load_settings(tmp_path)


def test_typing_errors_get_a_suggestion(tmp_path: Path) -> None:
    _write(tmp_path, "[upstream]\nretrys = 1\n")
    with pytest.raises(SettingsError) as refused:
        load_settings(tmp_path)
    assert refused.value.hint == "Did you mean retries?"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("TRUSTGATE_SERVE_PORT", "http", "TRUSTGATE_SERVE_PORT: expected int"),
        ("TRUSTGATE_SERVE_PORT", "-1", "TRUSTGATE_SERVE_PORT: expected int >= 0"),
        ("TRUSTGATE_UPSTREAM_URL", "localhost:4000", "TRUSTGATE_UPSTREAM_URL must begin with"),
        ("TRUSTGATE_SERVE_PROT", "1", "TRUSTGATE_SERVE_PROT is not a setting"),
        ("TRUSTGATE_SERVER_PORT", "1", "TRUSTGATE_SERVER_PORT is not a setting"),
        ("TRUSTGATE_UPSTREAM_API_KEY", "secret-value", "TRUSTGATE_UPSTREAM_API_KEY is not a setting"),
    ],
)
def test_a_bad_variable_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=says) as refused:
        load_settings(tmp_path)
    assert "secret-value" not in f"{refused.value} {refused.value.hint}"


def test_variables_that_settings_name_for_a_key_are_not_taken_for_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUSTGATE_UPSTREAM_KEY", "sk-upstream")
    settings = load_settings(tmp_path, {"upstream.key_env": "TRUSTGATE_UPSTREAM_KEY"})
    assert settings.upstream_key() == "sk-upstream"


def test_variables_of_other_programs_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTGATE_MY_OWN_THING", "1")
    assert load_settings(tmp_path).serve.port == 4010


def test_a_bad_flag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"The flag for serve\.port: expected int <= 65535"):
        load_settings(tmp_path, {"serve.port": 70000})


def test_a_key_pasted_where_its_variable_is_named_is_refused_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not the key itself") as refused:
        load_settings(tmp_path, {"upstream.key_env": "sk-abcdef"})
    assert "sk-abcdef" not in f"{refused.value} {refused.value.hint}"


# paths and folders


def test_the_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "a" / "home")
    settings.make_home()
    settings.make_home()
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700
    assert settings.socket == settings.home / "admin.sock"


def test_a_home_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(HomeUnusable, match=str(home)) as refused:
            load_settings(home).make_home()
        assert "--home" in str(refused.value.hint)


def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")  # a short one: pytest's own folders are long
    settings = load_settings(tmp_path / ("long" * 30))
    other = load_settings(tmp_path / ("long" * 31))
    assert len(str(settings.socket).encode()) < 104
    assert settings.socket != other.socket
    settings.make_home()
    folder = settings.socket.parent
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.chmod(0o777)  # as another user could have made it
        with pytest.raises(HomeUnusable, match="does not belong to this user alone"):
            settings.check_socket_folder()
    finally:
        folder.rmdir()


# secrets


def test_credentials_come_from_where_the_passport_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " sk-env \n")
    (tmp_path / "key").write_text("sk-file\n")
    settings = load_settings(tmp_path, {"upstream.key_env": "DEFAULT_KEY"})
    monkeypatch.setenv("DEFAULT_KEY", "sk-default")

    def read(**members: Any) -> str | None:
        return settings.read_credential(Passport(id="passport_1", slug="m", api_model_id="m", **members))

    assert read(credential_env="MY_KEY") == "sk-env"
    assert read(credential_file=str(tmp_path / "key")) == "sk-file"
    assert read(credential_file="key") == "sk-file", "relative to the home"
    assert read() == "sk-default"
    assert read(base_url=settings.upstream.url + "/") == "sk-default"
    assert read(base_url="https://elsewhere.example/v1") is None, "the default key goes nowhere else"
    assert read(base_url="builtin:echo") is None


@pytest.mark.parametrize("value", [None, "", "  \n", "two words", "sk-\x01", "sk-é"])
def test_a_secret_that_cannot_be_one_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("MY_KEY", raising=False)
    else:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(SettingsError, match="MY_KEY") as refused:
        read_secret_variable("MY_KEY")
    if value and value.strip():
        assert value not in f"{refused.value} {refused.value.hint}"


def test_a_credential_file_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    passport = Passport(id="passport_1", slug="m", api_model_id="m", credential_file="none")
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path).read_credential(passport)


def test_a_weak_admin_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(tmp_path, {"admin.key_env": "MY_ADMIN_KEY"})
    monkeypatch.setenv("MY_ADMIN_KEY", "short")
    with pytest.raises(SettingsError, match="too short") as refused:
        settings.admin_key()
    assert "'short'" not in str(refused.value)
    monkeypatch.setenv("MY_ADMIN_KEY", "a-long-enough-admin-key")
    assert settings.admin_key() == "a-long-enough-admin-key"


def test_a_remote_server_is_an_address_and_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote_server() is None
    monkeypatch.setenv("TRUSTGATE_URL", "https://gateway.example/")
    with pytest.raises(SettingsError, match="TRUSTGATE_ADMIN_KEY is not set"):
        remote_server()
    monkeypatch.setenv("TRUSTGATE_ADMIN_KEY", "k" * 20)
    assert remote_server() == ("https://gateway.example", "k" * 20)
    for url in ("gateway.example", "builtin:echo", "https://user:pass@gateway.example"):
        monkeypatch.setenv("TRUSTGATE_URL", url)
        with pytest.raises(SettingsError, match="TRUSTGATE_URL is not a server address"):
            remote_server()


# documentation


def test_every_setting_is_described(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    for described in describe():
        section, field = described.name.split(".")
        assert getattr(getattr(settings, section), field) == described.default
        assert described.variable == f"TRUSTGATE_{section}_{field}".upper()
        assert described.doc.endswith((".", ")."))
    sections = [name for name in Settings.__struct_fields__ if name not in ("home", "worker", "several")]
    assert {described.name.split(".")[0] for described in describe()} == set(sections)
