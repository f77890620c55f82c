"""The client programs that can be connected: the configuration of each, and how it is tried.

Owns that table. A configuration never holds a key: it names the environment variable that does. Sources: the
documentation of each program; the formats of codex 0.171, claude-code 2.1, opencode 1.18, aider 0.86, cline 3.0 and
Continue's cn 1.5 were tried with the programs themselves.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from trustgate.settings.environment import named_folder

FileFormat = Literal["toml", "json", "yaml"]
#: The programs, as the command line names them.
ClientName = Literal[
    "codex",
    "claude-code",
    "opencode",
    "aider",
    "cline",
    "continue",
    "open-webui",
    "litellm",
    "openai",
    "anthropic",
    "langchain",
    "vercel-ai",
    "curl",
]
#: The API in which a program makes its requests.
Api = Literal["chat", "responses", "messages"]

#: The variable that a configuration names where the program has no fixed one.
OWN_VARIABLE = "TRUSTGATE_KEY"
#: The model of a configuration unless another is named.
ECHO = "trustgate/echo"
PROMPT = "Reply with one word: ready"


class ClientTarget(msgspec.Struct, frozen=True):
    """What is connected to: ``origin`` without a path, ``model`` and the ``variable`` that holds the key."""

    origin: str
    model: str
    variable: str

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"


class Trial(msgspec.Struct, frozen=True):
    """How the program is made to send one request: its arguments, and variables of its environment."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = {}


def _no_variables(target: ClientTarget) -> dict[str, str]:
    return {}


class Connectable(msgspec.Struct, frozen=True, kw_only=True):
    """A client program, or a library."""

    title: str
    api: Api = "chat"
    #: The file, its format, and what belongs into it; None: it is connected by variables alone.
    path: Callable[[], Path] | None = None
    format: FileFormat = "json"
    document: Callable[[ClientTarget], dict[str, Any]] | None = None
    #: Members in which the program may have a key already: that would be sent to the gateway in place of its own.
    own_keys: tuple[tuple[str, ...], ...] = ()
    #: Variables besides that of the key, with their values.
    variables: Callable[[ClientTarget], dict[str, str]] = _no_variables
    #: The variable from which the program reads the key; "": the one that the configuration names.
    key_variable: str = ""
    #: Code or a command to copy.
    example: Callable[[ClientTarget], str] | None = None
    #: Its executable, and how it is tried: of the target, a folder to run in, and the configuration's file there.
    program: str = ""
    trial: Callable[[ClientTarget, Path, Path], Trial] | None = None
    #: What is printed after the configuration; "": nothing.
    note: str = ""


def _in_folder(variable: str, default: str, *names: str) -> Callable[[], Path]:
    return lambda: named_folder(variable, default).joinpath(*names)


def _codex(target: ClientTarget) -> dict[str, Any]:
    provider = {
        "name": "TrustGate",
        "base_url": target.base_url,
        "env_key": target.variable,
        "wire_api": "responses",
    }
    return {"model": target.model, "model_provider": "trustgate", "model_providers": {"trustgate": provider}}


def _claude_code(target: ClientTarget) -> dict[str, Any]:
    models = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL")
    named = {f"ANTHROPIC_{name}": target.model for name in models}
    return {
        "apiKeyHelper": f"printenv {target.variable}",
        "env": {"ANTHROPIC_BASE_URL": target.origin, **named},
    }


def _opencode_file() -> Path:
    """Returns the file that counts: opencode reads both, and what opencode.jsonc has goes before."""
    folder = named_folder("XDG_CONFIG_HOME", "~/.config") / "opencode"
    commented = folder / "opencode.jsonc"
    return commented if commented.exists() else folder / "opencode.json"


def _opencode(target: ClientTarget) -> dict[str, Any]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "TrustGate",
        "options": {"baseURL": target.base_url, "apiKey": f"{{env:{target.variable}}}"},
        "models": {target.model: {"name": target.model}},
    }
    model = f"trustgate/{target.model}"
    return {
        "$schema": "https://opencode.ai/config.json",
        "provider": {"trustgate": provider},
        "model": model,
        "small_model": model,
    }


def _aider(target: ClientTarget) -> dict[str, Any]:
    return {"model": f"openai/{target.model}", "openai-api-base": target.base_url, "show-model-warnings": False}


def _cline(target: ClientTarget) -> dict[str, Any]:
    settings = {"provider": "openai-compatible", "model": target.model, "baseUrl": target.base_url}
    provider = {"settings": settings, "updatedAt": "2026-01-01T00:00:00.000Z", "tokenSource": "manual"}
    return {"version": 1, "lastUsedProvider": "openai-compatible", "providers": {"openai-compatible": provider}}


def _continue(target: ClientTarget) -> dict[str, Any]:
    model = {
        "name": "TrustGate",
        "provider": "openai",
        "model": target.model,
        "apiBase": target.base_url,
        "apiKey": f"${{{{ secrets.{target.variable} }}}}",
        "roles": ["chat", "edit", "apply"],
    }
    return {"name": "TrustGate", "version": "1.0.0", "schema": "v1", "models": [model]}


def _litellm(target: ClientTarget) -> dict[str, Any]:
    parameters = {
        "model": f"openai/{target.model}",
        "api_base": target.base_url,
        "api_key": f"os.environ/{target.variable}",
    }
    return {"model_list": [{"model_name": target.model, "litellm_params": parameters}]}


def _openai_variables(target: ClientTarget) -> dict[str, str]:
    return {"OPENAI_BASE_URL": target.base_url}


def _open_webui_variables(target: ClientTarget) -> dict[str, str]:
    return {"OPENAI_API_BASE_URL": target.base_url, "ENABLE_OLLAMA_API": "false", "DEFAULT_MODELS": target.model}


def _openai_python(target: ClientTarget) -> str:
    return f"""from openai import OpenAI

client = OpenAI()
answer = client.chat.completions.create(
    model={target.model!r}, messages=[{{"role": "user", "content": "Hello"}}]
)
print(answer.choices[0].message.content)"""


def _anthropic_python(target: ClientTarget) -> str:
    return f"""from anthropic import Anthropic

client = Anthropic()
answer = client.messages.create(
    model={target.model!r}, max_tokens=1000, messages=[{{"role": "user", "content": "Hello"}}]
)
print(answer.content[0].text)"""


def _langchain(target: ClientTarget) -> str:
    return f"""from langchain_openai import ChatOpenAI

print(ChatOpenAI(model={target.model!r}).invoke("Hello").content)"""


def _quoted(text: str) -> str:
    """Returns a string of JavaScript."""
    return msgspec.json.encode(text).decode()


def _vercel_ai(target: ClientTarget) -> str:
    return f"""import {{ createOpenAICompatible }} from "@ai-sdk/openai-compatible";
import {{ generateText }} from "ai";

const trustgate = createOpenAICompatible({{
  name: "trustgate",
  baseURL: {_quoted(target.base_url)},
  apiKey: process.env.{target.variable},
}});
const {{ text }} = await generateText({{ model: trustgate({_quoted(target.model)}), prompt: "Hello" }});
console.log(text);"""


def _curl(target: ClientTarget) -> str:
    body = msgspec.json.encode({"model": target.model, "messages": [{"role": "user", "content": "Hello"}]}).decode()
    # The key comes over stdin: arguments of a process are visible to others on the machine.
    return (
        f"""printf 'header = "Authorization: Bearer %s"\\n' "${target.variable}" |\n"""
        f"""  curl -sS -K - {target.base_url}/chat/completions -H 'Content-Type: application/json' \\\n"""
        f"""  -d {shlex.quote(body)}"""
    )


CLIENTS: Mapping[str, Connectable] = {
    "codex": Connectable(
        title="Codex CLI",
        api="responses",
        path=_in_folder("CODEX_HOME", "~/.codex", "config.toml"),
        format="toml",
        document=_codex,
        program="codex",
        trial=lambda target, folder, file: Trial(
            ("exec", "--skip-git-repo-check", "--sandbox", "read-only", PROMPT), {"CODEX_HOME": str(file.parent)}
        ),
    ),
    "claude-code": Connectable(
        title="Claude Code",
        api="messages",
        path=_in_folder("CLAUDE_CONFIG_DIR", "~/.claude", "settings.json"),
        document=_claude_code,
        own_keys=(("env", "ANTHROPIC_AUTH_TOKEN"), ("env", "ANTHROPIC_API_KEY")),
        program="claude",
        trial=lambda target, folder, file: Trial(
            ("-p", PROMPT),
            {"CLAUDE_CONFIG_DIR": str(file.parent), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
        ),
        note="A sign-in of its own goes before apiKeyHelper where there is one: end it with /logout. So do "
        "ANTHROPIC_API_KEY and ANTHROPIC_AUTH_TOKEN: unset them, or their key is sent to this gateway.",
    ),
    "opencode": Connectable(
        title="opencode",
        path=_opencode_file,
        document=_opencode,
        program="opencode",
        trial=lambda target, folder, file: Trial(
            ("run", PROMPT), {"OPENCODE_CONFIG": str(file), "HOME": str(folder), "OPENCODE_DISABLE_AUTOUPDATE": "1"}
        ),
    ),
    "aider": Connectable(
        title="aider",
        path=_in_folder("HOME", "~", ".aider.conf.yml"),
        format="yaml",
        document=_aider,
        own_keys=(("openai-api-key",),),
        key_variable="OPENAI_API_KEY",
        program="aider",
        trial=lambda target, folder, file: Trial(
            (
                *("--config", str(file), "--no-git", "--chat-mode", "ask", "--yes-always", "--no-check-update"),
                *("--analytics-disable", "--no-pretty", "--message", PROMPT),
            ),
            {"HOME": str(folder)},
        ),
    ),
    "cline": Connectable(
        title="Cline CLI",
        path=_in_folder("HOME", "~", ".cline", "data", "settings", "providers.json"),
        document=_cline,
        own_keys=(("providers", "openai-compatible", "settings", "apiKey"),),
        key_variable="OPENAI_API_KEY",
        program="cline",
        trial=lambda target, folder, file: Trial((PROMPT,), {"HOME": str(folder), "AI_SDK_LOG_WARNINGS": "false"}),
        note="In the editor's extension: Settings, API Provider 'OpenAI Compatible', with this address, key and model.",
    ),
    "continue": Connectable(
        title="Continue",
        path=_in_folder("HOME", "~", ".continue", "config.yaml"),
        format="yaml",
        document=_continue,
        program="cn",
        trial=lambda target, folder, file: Trial(("--config", str(file), "-p", PROMPT), {"HOME": str(folder)}),
        note="An editor that was started without the variable finds it in ~/.continue/.env.",
    ),
    "open-webui": Connectable(
        title="Open WebUI",
        variables=_open_webui_variables,
        key_variable="OPENAI_API_KEY",
        note="They are read at its first start; later: Admin Panel, Settings, Connections. In a container the gateway "
        "has another address than 127.0.0.1: give it with --url.",
    ),
    "litellm": Connectable(
        title="LiteLLM proxy",
        path=lambda: Path("litellm_config.yaml"),
        format="yaml",
        document=_litellm,
        note="Start it with: litellm --config litellm_config.yaml",
    ),
    "openai": Connectable(
        title="OpenAI's SDKs",
        variables=_openai_variables,
        key_variable="OPENAI_API_KEY",
        example=_openai_python,
    ),
    "anthropic": Connectable(
        title="Anthropic's SDKs",
        api="messages",
        variables=lambda target: {"ANTHROPIC_BASE_URL": target.origin},
        key_variable="ANTHROPIC_API_KEY",
        example=_anthropic_python,
    ),
    "langchain": Connectable(
        title="LangChain",
        variables=_openai_variables,
        key_variable="OPENAI_API_KEY",
        example=_langchain,
    ),
    "vercel-ai": Connectable(title="Vercel AI SDK", example=_vercel_ai),
    "curl": Connectable(title="curl", example=_curl),
}
