"""``trustgate init``: what it finds on a machine, what it asks, what it writes, and a green ``doctor`` afterwards."""

from __future__ import annotations

import json
import socket
import stat
import threading
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.litellm import LiteLLM
from tests.support.processes import free_port, wait_until
from trustgate.cli.settings_file import settings_file_text
from trustgate.models.importing.discovery import find_servers
from trustgate.settings import describe, load_settings

#: What each server answers, as its documentation shows it: path → (status, JSON).
OLLAMA = {
    "/v1/models": (200, {"object": "list", "data": [{"id": "llama3.2:3b", "object": "model", "owned_by": "library"}]}),
    "/api/version": (200, {"version": "0.12.6"}),
    "/api/show": (
        200,
        {
            "details": {"format": "gguf", "family": "llama"},
            "model_info": {"general.architecture": "llama", "llama.context_length": 131072},
            "capabilities": ["completion", "tools"],
        },
    ),
}
VLLM = {
    "/v1/models": (
        200,
        {"object": "list", "data": [{"id": "Qwen/Qwen3-8B", "owned_by": "vllm", "max_model_len": 40960}]},
    ),
    "/version": (200, {"version": "0.11.0"}),
}
LLAMACPP = {
    "/v1/models": (
        200,
        {"object": "list", "data": [{"id": "/models/gemma-3-4b-Q4_K_M.gguf", "meta": {"n_ctx_train": 131072}}]},
    ),
    "/props": (200, {"default_generation_settings": {"n_ctx": 8192}, "total_slots": 1}),
}
OTHER = {"/v1/models": (200, {"object": "list", "data": [{"id": "some-model"}]})}
CLOSED = {
    "/v1/models": (401, {"error": {"message": "no key", "type": "x", "param": None, "code": None}}),
    "/version": (200, {"version": "0.11.0"}),
}
NO_LLM = {"/": (200, {"hello": "world"}), "/v1/models": (200, {"models": "none"})}


@contextmanager
def answering(answers: Mapping[str, tuple[int, Any]], server_name: str = "uvicorn") -> Iterator[str]:
    """A server with these answers; gives its ``http://127.0.0.1:PORT``."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = server_name, ""

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, document = answers.get(self.path, (404, {"detail": "Not FoundServer"}))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - http.server's names

        def version_string(self) -> str:
            return server_name

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def servers() -> Iterator[dict[str, str]]:
    """One server of each kind, by name."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(answering(answers, server_name))
            for name, answers, server_name in (
                ("ollama", OLLAMA, "Go"),
                ("vllm", VLLM, "uvicorn"),
                ("llamacpp", LLAMACPP, "llama.cpp"),
                ("openai", OTHER, "uvicorn"),
                ("closed", CLOSED, "uvicorn"),
                ("no LLM", NO_LLM, "uvicorn"),
            )
        }


def _init(home: Gateway, *arguments: str, **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(home.cli("init", *arguments, "--json", **options).stdout)
    return made


def _written(home: Gateway) -> dict[str, Any]:
    return tomllib.loads((home.home / "trustgate.toml").read_text())


# what is found


def test_servers_are_told_apart_by_what_they_answer(servers: dict[str, str]) -> None:
    with socket.socket() as silent:  # accepts, and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        places = [*servers.values(), f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        found = {one.base_url: one for one in find_servers(places)}
    assert {place.removesuffix("/v1"): one.kind for place, one in found.items()} == {
        servers["ollama"]: "ollama",
        servers["vllm"]: "vllm",
        servers["llamacpp"]: "llamacpp",
        servers["openai"]: "openai",
        servers["closed"]: "vllm",
    }
    assert {one.base_url for one in found.values() if one.wants_key} == {f"{servers['closed']}/v1"}
    assert found[f"{servers['ollama']}/v1"].models == ("llama3.2:3b",)


def test_another_trustgate_is_no_llm_server(home: Gateway) -> None:
    with home_serving(home) as address:
        assert find_servers([address]) == []


@contextmanager
def home_serving(home: Gateway) -> Iterator[str]:
    home.start("--upstream", "builtin:echo")
    yield home.base_url
    home.close()


def test_the_default_server_and_the_models_of_all(home: Gateway, servers: dict[str, str]) -> None:
    made = _init(home, *(f"--at={servers[name]}" for name in ("ollama", "vllm", "llamacpp", "openai", "closed")))
    assert _written(home)["upstream"] == {"url": f"{servers['ollama']}/v1"}
    assert sorted(made["passports"]["added"]) == ["Qwen/Qwen3-8B", "gemma-3-4b-Q4_K_M", "llama3.2:3b"]
    passports = {one["slug"]: one for one in home.cli_json("passport", "list")["passports"]}
    llama, qwen, gemma = (passports[name] for name in ("llama3.2:3b", "Qwen/Qwen3-8B", "gemma-3-4b-Q4_K_M"))
    assert (llama["base_url"], llama["context_length"], llama["capabilities"]) == (None, 131072, ["chat", "tools"])
    assert (qwen["base_url"], qwen["context_length"], qwen["provider"]) == (f"{servers['vllm']}/v1", 40960, "vllm")
    assert gemma["api_model_id"] == "/models/gemma-3-4b-Q4_K_M.gguf"
    assert gemma["context_length"] == 8192, "what is served, not what it was trained for"


def test_litellm_is_found_with_its_prices_and_doctor_is_green(home: Gateway, litellm: LiteLLM) -> None:
    key = {"LITELLM_MASTER_KEY": litellm.master_key}
    home = Gateway(home.home, environment=key)
    with socket.socket() as taken:
        # The usual port may be taken on a machine; then another one is proposed.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 4010))
            taken.listen()
        except OSError:
            pass  # it is taken already
        made = _init(home, f"--at={litellm.api_url}")
        assert made["servers"][0]["kind"] == "litellm"
        assert _written(home)["upstream"] == {"url": litellm.api_url, "key_env": "LITELLM_MASTER_KEY"}
        assert _written(home)["serve"]["port"] != 4010
        mini = home.cli_json("passport", "show", "gpt-4o-mini")["passport"]
        assert mini["prices"]["input_pico_usd"] == 150_000
        assert mini["context_length"] == 128_000
        checks = home.cli_json("doctor")["checks"]
        assert {check["name"] for check in checks if check["status"] != "ok"} == {"server"}, checks
        home.start()
        wait_until(lambda: ": reachable" in home.logs(), "the first probe of LiteLLM")
        checks = home.cli_json("doctor")["checks"]
        assert [check for check in checks if check["status"] != "ok"] == []
        home.close()
    assert litellm.master_key not in (home.home / "trustgate.toml").read_text()


def test_a_key_that_is_not_set_is_told(home: Gateway, servers: dict[str, str]) -> None:
    made = _init(home, f"--at={servers['closed']}")
    assert _written(home)["upstream"]["key_env"] == "VLLM_API_KEY"
    assert "VLLM_API_KEY is not set" in " ".join(made["notes"])


def test_without_any_server_the_defaults_hold_and_doctor_does_not_fail(home: Gateway) -> None:
    made = _init(home, f"--at=http://127.0.0.1:{free_port()}", "--port", str(free_port()))
    assert made["servers"] == []
    assert "upstream" not in {name.partition(".")[0] for name in made["settings"]}
    assert "Set upstream.url in trustgate.toml" in " ".join(made["notes"])
    home.cli("doctor")


# the file


def test_a_file_is_replaced_only_when_told_and_kept(home: Gateway) -> None:
    nowhere = f"--at=http://127.0.0.1:{free_port()}"
    _init(home, nowhere, "--port", "4321")
    file = home.home / "trustgate.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    refused = home.cli("init", nowhere, "--yes", check=False)
    assert refused.returncode == 5
    assert "--force" in refused.stderr
    assert file.read_text() == before
    file.write_text("[serve]\nport = 'broken'\n")
    made = _init(home, nowhere, "--port", "4322", "--force")
    assert Path(made["replaced"]).read_text() == "[serve]\nport = 'broken'\n"
    assert _written(home)["serve"]["port"] == 4322


def test_the_file_explains_every_setting_with_a_default_that_holds(tmp_path: Path) -> None:
    text = settings_file_text({"serve.port": 8443, "upstream.forward_headers": ("x-a", 'quo"te')})
    assert tomllib.loads(text)["serve"] == {"port": 8443}
    assert tomllib.loads(text)["upstream"] == {"forward_headers": ["x-a", 'quo"te']}
    for setting in describe():
        assert setting.doc.split(".")[0].split(";")[0].split(",")[0][:30] in text.replace("\n# ", " ")
    # Every comment that is a setting, made one: the file means what the program does without it.
    plain = settings_file_text({})
    lines = [line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in plain.splitlines()]
    (tmp_path / "trustgate.toml").write_text("\n".join(lines))
    settings = load_settings(tmp_path)
    for setting in describe():
        section, _, name = setting.name.partition(".")
        value = getattr(getattr(settings, section), name)
        assert value == (setting.example if setting.default is None else setting.default), setting.name
        assert value is not None, f"{setting.name} shows nothing to write"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--upstream", "ftp://h"), "upstream.url must begin with http"),
        (("--port", "99999"), "serve.port"),
        (("--upstream-key-env", "sk-not a name"), "not the key itself"),
        (("--at", "somewhere"), "must begin with http"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    home: Gateway, arguments: tuple[str, ...], says: str
) -> None:
    refused = home.cli("init", "--yes", *arguments, check=False)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert not home.home.exists()


# the questions


def test_the_questions(home: Gateway, servers: dict[str, str]) -> None:
    at = [f"--at={servers[name]}" for name in ("vllm", "ollama")]
    # The second server, port 4567, its model, not the other's.
    said = home.cli("init", *at, stdin="2\n4567\ny\nn\n")
    assert _written(home) == {
        **{section: {} for section in _written(home)},
        "serve": {"port": 4567},
        "upstream": {"url": f"{servers['ollama']}/v1"},
    }
    assert "trustgate --home" in said.stdout
    slugs = {one["slug"] for one in home.cli_json("passport", "list")["passports"]}
    assert "llama3.2:3b" in slugs
    assert "Qwen/Qwen3-8B" not in slugs


def test_a_server_that_is_named_by_hand(home: Gateway, servers: dict[str, str]) -> None:
    home.cli("init", f"--at={servers['vllm']}", stdin=f"0\n{servers['openai']}/v1\n4568\nn\n")
    assert _written(home)["upstream"] == {"url": f"{servers['openai']}/v1"}


def test_nobody_to_ask(home: Gateway, servers: dict[str, str]) -> None:
    refused = home.cli("init", f"--at={servers['vllm']}", check=False)
    assert refused.returncode == 2
    assert "trustgate init --yes" in refused.stderr
    assert not (home.home / "trustgate.toml").exists()
