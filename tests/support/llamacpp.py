"""A real model: llama.cpp's server, from a wheel, with SmolLM2-135M, in a virtual environment of its own."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Self

from tests.environments import find_model
from tests.support.processes import Process, clean_environment

#: The model is loaded in some seconds; a busy machine with a cold disk takes longer.
START_TIMEOUT_S = 180.0

MODEL = "smollm2"
_PROGRAM = Path(__file__).with_name("llama_server.py")
_READY = re.compile(r"ready at (http://\S+)")


class LlamaCpp:
    """The server. ``api_url`` is what OpenAI clients call the base URL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Process | None = None
        self._url = ""

    @property
    def url(self) -> str:
        return self._url

    @property
    def api_url(self) -> str:
        return f"{self._url}/v1"

    def start(self) -> Self:
        """Start it and wait until it listens. Raises AssertionError that says how to install it when it is missing."""
        python = find_model()
        if python is None or not python.exists():
            raise AssertionError(
                "The real model is not installed for the tests. `python3 tests` installs it by itself; to only install "
                "it run `python3 tests --install-only`, to leave its tests out run `python3 tests --no-litellm`."
            )
        process = Process(
            "llama.cpp", [python, _PROGRAM, MODEL], self._folder, clean_environment(), self._folder / "llama.log"
        )
        process.wait_until(lambda: _READY.search(process.stdout) is not None, START_TIMEOUT_S)
        ready = _READY.search(process.stdout)
        assert ready is not None
        self._url, self._process = ready[1], process
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait()
