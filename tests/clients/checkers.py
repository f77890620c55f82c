"""Other people's tools that judge an OpenAI-compatible server, run against the gateway: a checker and a fuzzer.

``python -m tests.clients.checkers`` (by ``python3 tests --run``) fuzzes for longer and prints what was found.

llm-comply compares answers with the published OpenAPI documents of the three APIs. schemathesis makes requests, right
and wrong ones, from the document that the gateway serves at ``/openapi.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import environments
from tests.clients import persona
from tests.support.gateway import Gateway
from tests.support.processes import clean_environment
from tests.support.upstream import Recorded, Reply, Upstream, answer_like_openai

#: llm-comply's names of the three APIs, and what it needs to know to speak each.
FORMATS: dict[str, tuple[str, ...]] = {
    "openai-chat": (),
    "open-responses": (),
    "anthropic": ("--auth-header", "x-api-key", "--no-bearer", "-H", "anthropic-version:2023-06-01"),
}
#: What a request may hold beyond the members that the gateway reads is its upstream's to judge.
_NOT_OURS = ("positive_data_acceptance", "negative_data_rejection")
_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Fuzzed:
    """What a run of the fuzzer came to."""

    requests: int
    operations: int
    failures: list[dict[str, Any]]
    #: All that it said.
    log: str


@contextmanager
def served(folder: Path) -> Iterator[tuple[Gateway, str]]:
    """A gateway in front of a server that answers anything, and a key. It must not have logged a traceback."""
    upstream = Upstream().start()
    upstream.default = _answer
    gateway = Gateway(folder / "home", upstream=upstream.api_url).start()
    try:
        gateway.cli("passport", "add", "scripted")
        yield gateway, gateway.add_tenant("checker", plan="internal")
    finally:
        gateway.close()
        upstream.stop()


def comply(gateway: Gateway, key: str, kind: str) -> list[dict[str, Any]]:
    """llm-comply's verdicts on one API: its tests with id, status and errors."""
    where = ("-u", gateway.api_url, "-k", key, "-m", "scripted")
    done = _run("llm-comply", "run", *where, "--format", kind, "--json", *FORMATS[kind])
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return results


def fuzz(gateway: Gateway, key: str, folder: Path, *, examples: int, seed: int) -> Fuzzed:
    """Every route of ``/openapi.json``, with systematic requests and ``examples`` made-up ones each."""
    report = folder / "report.json"
    done = _run(
        *("schemathesis", "run", f"{gateway.base_url}/openapi.json", "-H", f"Authorization: Bearer {key}"),
        *("--checks", "all", "--exclude-checks", ",".join(_NOT_OURS)),
        *("--phases", "coverage,fuzzing", "--max-examples", str(examples), "--seed", str(seed), "--workers", "2"),
        *("--continue-on-failure", "--no-shrink", "--suppress-health-check", "all"),
        *("--report", "json", "--report-json-path", str(report)),
        cwd=folder,
    )
    assert report.is_file(), done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["complete"] and not found["errors"], done.stdout
    return Fuzzed(found["test_cases"]["generated"], found["operations"]["tested"], found["failures"], done.stdout)


def _run(program: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    python = environments.find_clients()
    assert python is not None, "the clients are not installed: run `python3 tests --install-only`"
    command = [str(python.with_name(program)), *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def _answer(request: Recorded) -> Reply:
    """As the clients' upstream does where it can make sense of the request, else anything that is JSON."""
    try:
        return persona.answer(request)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return answer_like_openai(request) if request.path.endswith("/embeddings") else Reply.json({"id": "x"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="made-up requests a route")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as (gateway, key):
        for kind in FORMATS:
            verdicts = [result["status"] for result in comply(gateway, key, kind)]
            print(f"llm-comply, {kind}: {', '.join(f'{verdicts.count(one)} {one}' for one in sorted(set(verdicts)))}")
        fuzzed = fuzz(gateway, key, Path(name), examples=options.examples, seed=options.seed)
    if fuzzed.failures:
        print(fuzzed.log)
    print(f"schemathesis: {fuzzed.requests} requests to {fuzzed.operations} routes, {len(fuzzed.failures)} failures")
    return 1 if fuzzed.failures else 0


if __name__ == "__main__":
    sys.exit(main())
