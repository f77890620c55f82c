"""Finding LLM servers on this machine: which of the usual ports answer, what answers there, and which models it has.

Owns how LiteLLM, Ollama, vLLM and llama.cpp are recognised. The port decides nothing: each server is known by an answer
that only it gives. Plain ``http.client`` in threads: it runs in a command that has nothing else to do meanwhile.

Sources: LiteLLM documentation, "Health Checks" and "Model Management" (``/model/info``); Ollama API documentation,
"Version" and "Show model details"; vLLM documentation, "OpenAI-Compatible Server"; llama.cpp server README, ``/props``.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from trustgate.errors import InvalidRequest, SettingsError
from trustgate.models.importing.litellm import read_model_info
from trustgate.models.passports import ImportedPassport, PassportFields, make_passport
from trustgate.settings import why_not_base_url

Kind = Literal["litellm", "ollama", "vllm", "llamacpp", "openai"]

#: The usual ports of LiteLLM, Ollama, vLLM and llama.cpp.
USUAL_PORTS = (4000, 11434, 8000, 8080)
#: What each is called.
TITLES: dict[Kind, str] = {
    "litellm": "LiteLLM",
    "ollama": "Ollama",
    "vllm": "vLLM",
    "llamacpp": "llama.cpp",
    "openai": "an OpenAI-compatible server",
}
#: The environment variable in which its own documentation keeps its key.
KEY_VARIABLES: dict[Kind, str] = {
    "litellm": "LITELLM_MASTER_KEY",
    "ollama": "OLLAMA_API_KEY",
    "vllm": "VLLM_API_KEY",
    "llamacpp": "LLAMA_API_KEY",
    "openai": "UPSTREAM_API_KEY",
}

#: A server of this machine answers at once that it is alive; LiteLLM thinks for seconds before it lists its models.
_FIRST_TIMEOUT_S = 2.0
_TIMEOUT_S = 15.0
_ANSWER_MOST_BYTES = 32 * 1024 * 1024
_MODELS_MOST = 1000
#: What Ollama calls a model's abilities, and what they are called here.
_OLLAMA_CAPABILITIES = {
    "completion": "chat",
    "embedding": "embeddings",
    "tools": "tools",
    "vision": "vision",
    "thinking": "reasoning",
}


class FoundServer(msgspec.Struct, frozen=True, kw_only=True):
    """An LLM server. ``base_url`` ends with ``/v1``; ``models`` is empty where it ``wants_key`` and got none."""

    kind: Kind
    base_url: str
    wants_key: bool
    models: tuple[str, ...]

    @property
    def title(self) -> str:
        return TITLES[self.kind]


class DiscoveredServer(NamedTuple):
    """The models of a server as passports, and what the person who takes them should know."""

    passports: tuple[ImportedPassport, ...]
    notes: tuple[str, ...] = ()


def usual_places() -> tuple[str, ...]:
    return tuple(f"http://127.0.0.1:{port}" for port in USUAL_PORTS)


def find_servers(places: Iterable[str]) -> list[FoundServer]:
    """Returns the LLM servers among ``places`` (``http://HOST:PORT``, a ``/v1`` at the end or not), in their order.

    Asks all of them at once and takes some seconds at most. Raises ``SettingsError`` for an invalid address.
    """
    asked = [_root(place) for place in places]
    with ThreadPoolExecutor(max_workers=max(1, len(asked))) as threads:
        return [found for found in threads.map(lambda root: identify(root, None), asked) if found is not None]


def _root(place: str) -> str:
    fault = why_not_base_url(place)
    if fault is not None:
        raise SettingsError(f"{place} {fault}.", hint="For example: --at http://127.0.0.1:11434")
    return place.rstrip("/").removesuffix("/v1")


def identify(root: str, key: str | None) -> FoundServer | None:
    """Returns what answers at ``root``; None: nothing, or no LLM server. Never raises for what a server does."""
    alive = _request("GET", root, "/health/liveliness", timeout_s=_FIRST_TIMEOUT_S)
    if alive is None:
        return None  # whatever speaks HTTP has some answer to that
    models = _get(root, "/v1/models", key)
    kind = _kind(root, alive, models)
    if kind is None:
        return None
    names = () if models is None else _model_names(models)
    # LiteLLM without a database answers a request without a key with status 500.
    refusals = (401, 403, 500) if kind == "litellm" else (401, 403)
    wants_key = models is None or models.status in refusals
    return FoundServer(kind=kind, base_url=f"{root}/v1", wants_key=wants_key, models=names)


def _kind(root: str, alive: _Answer, models: _Answer | None) -> Kind | None:
    if models is not None and models.headers.get("server") == "llama.cpp":
        return "llamacpp"
    # LiteLLM before the others: it may stand in front of them and pass their paths on.
    if _json(alive) == "I'm alive!":
        return "litellm"
    if _is_version(_json(_get(root, "/api/version"))):
        return "ollama"
    if _is_version(_json(_get(root, "/version"))):
        return "vllm"
    return "openai" if models is not None and _speaks_openai(root, models) else None


def _is_version(document: object) -> bool:
    return isinstance(document, dict) and list(document) == ["version"] and isinstance(document["version"], str)


def _speaks_openai(root: str, models: _Answer) -> bool:
    """Returns whether ``/v1/models`` answers as OpenAI does, with a list or with an error; another TrustGate is left
    alone.
    """
    document = _json(models)
    if not isinstance(document, dict):
        return False
    if models.status == http.HTTPStatus.OK:
        return isinstance(document.get("data"), list)
    refused = models.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN) and "error" in document
    description = _json(_get(root, "/openapi.json")) if refused else None
    info = description.get("info") if isinstance(description, dict) else None
    return refused and not (isinstance(info, dict) and info.get("title") == "TrustGate")


def _model_names(models: _Answer) -> tuple[str, ...]:
    return tuple(str(model["id"]) for model in _listed(models) if isinstance(model.get("id"), str))


def _listed(answer: _Answer | None) -> list[dict[str, Any]]:
    """Returns the objects under ``data``."""
    document = _json(answer)
    data = document.get("data") if isinstance(document, dict) else None
    return [item for item in data[:_MODELS_MOST] if isinstance(item, dict)] if isinstance(data, list) else []


# models as passports


def offer_models(found: FoundServer, key: str | None) -> DiscoveredServer:
    """Returns what a server knows of its models (prices, limits, abilities) as passports, in its order.

    Passports name no address: they are asked of the default LLM server unless the caller gives them one. A server of
    which nothing but names is known has nothing to offer: the passport ``*`` serves those names anyway.
    """
    root = found.base_url.removesuffix("/v1")
    if found.kind == "litellm":
        info = read_model_info(_listed(_get(root, "/model/info", key)))
        offer = DiscoveredServer(info.passports, info.notes)
    elif found.kind == "ollama":
        with ThreadPoolExecutor(max_workers=8) as threads:
            offer = DiscoveredServer(tuple(threads.map(lambda name: _ollama_model(root, name), found.models)))
    elif found.kind == "vllm":
        offer = DiscoveredServer(tuple(map(_vllm_model, _listed(_get(root, "/v1/models", key)))))
    elif found.kind == "llamacpp":
        context = _served_context(_json(_get(root, "/props", key)))
        offer = DiscoveredServer(tuple(_llamacpp_model(name, context) for name in found.models))
    else:
        offer = DiscoveredServer(())
    return _only_good(offer)


def _only_good(offer: DiscoveredServer) -> DiscoveredServer:
    """Without what no passport can be, and what a name stands for a second time."""
    kept: dict[str, ImportedPassport] = {}
    notes = list(offer.notes)
    for passport in offer.passports:
        try:
            make_passport("", passport.slug, passport.fields, 0)
            kept.setdefault(passport.slug, passport)
        except InvalidRequest as error:
            notes.append(f"Left out: {error.message}")
    return DiscoveredServer(tuple(passport for slug, passport in kept.items() if "*" not in slug), tuple(notes))


def _ollama_model(root: str, name: str) -> ImportedPassport:
    document = _json(_request("POST", root, "/api/show", body=msgspec.json.encode({"model": name})))
    shown: Mapping[str, Any] = document if isinstance(document, dict) else {}
    info, abilities = shown.get("model_info"), shown.get("capabilities")
    # The member is named for the architecture: llama.context_length, qwen2.context_length …
    lengths = [v for k, v in info.items() if str(k).endswith(".context_length")] if isinstance(info, dict) else []
    fields = PassportFields(
        provider="ollama",
        format="gguf",
        context_length=_count(next(iter(lengths), None)),
        capabilities=tuple(
            mapped for ability in abilities if (mapped := _OLLAMA_CAPABILITIES.get(str(ability))) is not None
        )
        if isinstance(abilities, list)
        else None,
    )
    return ImportedPassport(slug=name, fields=fields)


def _vllm_model(model: Mapping[str, Any]) -> ImportedPassport:
    fields = PassportFields(
        provider="vllm", format="safetensors", context_length=_count(model.get("max_model_len")), capabilities=("chat",)
    )
    return ImportedPassport(slug=str(model.get("id", "")), fields=fields)


def _llamacpp_model(name: str, context_length: int | None) -> ImportedPassport:
    # Without --alias the name is the path of the file, which is awkward as a model's name.
    slug = re.sub(r"\.gguf$", "", name.rpartition("/")[2]) if name.endswith(".gguf") else name
    fields = PassportFields(
        api_model_id=name, provider="llama.cpp", format="gguf", context_length=context_length, capabilities=("chat",)
    )
    return ImportedPassport(slug=slug, fields=fields)


def _served_context(props: object) -> int | None:
    """Returns how many tokens a request of llama.cpp may have: what the model was trained for may be more."""
    defaults = props.get("default_generation_settings") if isinstance(props, dict) else None
    return _count(defaults.get("n_ctx")) if isinstance(defaults, dict) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


# asking


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def _get(root: str, path: str, key: str | None = None) -> _Answer | None:
    return _request("GET", root, path, key=key)


def _request(
    method: str,
    root: str,
    path: str,
    *,
    key: str | None = None,
    body: bytes | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> _Answer | None:
    """Returns the answer; None when there is none: no server listens, it takes too long, or it is not HTTP."""
    parts = urlsplit(root)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    if body is not None:
        headers["content-type"] = "application/json"
    try:
        connection.request(method, parts.path + path, body, headers)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return _Answer(response.status, found, response.read(_ANSWER_MOST_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _json(answer: _Answer | None) -> Any:
    """Returns the answer's JSON; None where there is none, or where it is a refusal without any."""
    if answer is None:
        return None
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
