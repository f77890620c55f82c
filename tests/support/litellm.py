"""A real LiteLLM proxy, from PyPI, in a virtual environment of its own. Its models answer without any network."""

from __future__ import annotations

import secrets
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.environments import find_litellm
from tests.support.processes import Process, clean_environment, free_port

#: It imports some 2,000 modules; on a busy machine with a cold disk that takes a while.
START_TIMEOUT_S = 180.0

REPLY = "Hello from LiteLLM!"
EMBEDDING = [0.25, -0.5, 0.125]


def _model(name: str, **parameters: Any) -> dict[str, Any]:
    params = {"model": f"openai/{name}", "api_key": "sk-offline", **parameters}
    return {"model_name": name, "litellm_params": params}


CONFIG: dict[str, Any] = {
    "model_list": [
        _model("gpt-4o-mini", mock_response=REPLY),
        _model("gpt-4o", mock_response="Grüße aus Köln, 你好 👋"),
        _model("gpt-3.5-turbo-instruct", mock_response=REPLY),
        _model("text-embedding-3-small", mock_response=EMBEDDING),
        # What these say instead of answering:
        _model("rate-limited", mock_response="litellm.RateLimitError"),
        _model("too-long", mock_response="litellm.ContextWindowExceededError"),
        _model("broken", mock_response="litellm.InternalServerError"),
        _model("filtered", mock_response="Exception: content_filter_policy"),
    ],
    # It answers with what happened, at once: retries are the gateway's business here.
    "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    "litellm_settings": {"num_retries": 0, "telemetry": False},
}


class LiteLLM:
    """The proxy. ``api_url`` is what OpenAI clients call the base URL, ``master_key`` the only key it takes."""

    def __init__(self, folder: Path, models: Sequence[dict[str, Any]] = ()) -> None:
        """``models``: entries of its list of models besides those that answer by themselves."""
        self._models = [*CONFIG["model_list"], *models]
        self.master_key = f"sk-{secrets.token_urlsafe(24)}"
        self._folder = folder
        self._process: Process | None = None
        self._url = ""

    @property
    def api_url(self) -> str:
        return f"{self._url}/v1"

    def start(self) -> Self:
        """Start it and wait until it is ready. Raises AssertionError that says how to install it when it is missing."""
        python = find_litellm()
        if python is None or not python.exists():
            raise AssertionError(
                "LiteLLM is not installed for the tests. `python3 tests` installs it by itself; to only install it run "
                "`python3 tests --install-only`, to leave its tests out run `python3 tests --no-litellm`."
            )
        config = self._folder / "config.yaml"
        config.write_text(yaml.safe_dump({**CONFIG, "model_list": self._models}, allow_unicode=True))
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        command: list[str | Path] = [
            python.with_name("litellm"),
            "--config",
            config,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        environment = clean_environment(
            {
                "LITELLM_MASTER_KEY": self.master_key,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it fetches its price table at start
                "DO_NOT_TRACK": "1",
            }
        )
        self._process = Process("LiteLLM", command, self._folder, environment, self._folder / "litellm.log")
        self._process.wait_until(self._is_ready, START_TIMEOUT_S)
        return self

    def stop(self) -> None:
        if self._process is not None and self._process.exit_code is None:
            self._process.signal(signal.SIGTERM)
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/health/readiness", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
