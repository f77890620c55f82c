"""OpenAI's own tests of its SDKs, against a mock of its specification: directly, and through the gateway.

By hand, as it wants things from elsewhere: the source distribution of ``openai`` (its folder ``tests``), a Python with
that package and pytest, the specification of its repository, and the mock server of its tests (``@stdy/cli`` of npm).

    python -m tests.peers --suite openai-3.3.1 --python venv/bin/python --spec openapi.yml --mock bin/steady

Or, with ``--node`` in place of ``--python``, a checkout of openai-node with ``jest``, ``@swc/core``, ``@swc/jest``,
``zod`` and ``ws`` in its ``node_modules``.

First the suite runs directly; what it asks for is noted. Then the ids in these requests are made a tenant's, as if the
gateway had given them out, and the suite runs through the gateway with that tenant's key. Prints a table by resource:
the tests that pass directly, and how many of these pass through the gateway.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import msgspec

from tests.support.gateway import Gateway
from trustgate.gateway.api.body_ids import items_named, named_by
from trustgate.gateway.api.endpoints import ENDPOINTS
from trustgate.gateway.api.object_ids import ObjectId, Work

_HERE = Path(__file__).parent
_READY_S = 60.0
_COPIES = 60
#: What the mock checks of arrays and objects in queries and forms, as the suite's own scripts have it.
_MOCK_OPTIONS = [
    f"--validator-{where}-{kind}-format=brackets" for where in ("query", "form") for kind in ("array", "object")
]
#: Resources that are an operator's, and so refused on purpose.
_LEFT_OUT = ("admin", "organization")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (
        ("suite", "the unpacked source distribution of openai, or a checkout of openai-node"),
        ("spec", "the OpenAPI document of openai's repository"),
        ("mock", "the program steady of @stdy/cli"),
    ):
        parser.add_argument(f"--{name}", required=True, type=lambda text: Path(text).absolute(), help=text)
    runner = parser.add_mutually_exclusive_group(required=True)
    text = "a Python that has openai, pytest and its plugins asyncio, xdist and timeout"
    runner.add_argument("--python", type=lambda text: Path(text).absolute(), help=text)
    runner.add_argument("--node", type=lambda text: Path(text).absolute(), help="a node, for openai-node's suite")
    parser.add_argument("--only", nargs="*", default=[], help="files or folders of the suite")
    parser.add_argument("-k", default="", help="which tests, as pytest has it: 'not Async' is a third of them")
    parser.add_argument("--failures", action="store_true", help="list the tests that pass directly alone")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        _mock(asked.mock, _told(asked.spec, Path(folder)), Path(folder)) as url,
    ):
        home = Path(folder)
        direct = _run(asked, url, home / "direct.xml", {"PEERS_RECORD": str(home / "asked")})
        gateway = Gateway(home / "home", upstream=url)
        try:
            gateway.start()
            # As an operator has it who wants all of the suite to pass: stored prompts are allowed, and what names no
            # model has one.
            gateway.cli("plan", "add", "peers", "--like", "internal", "--parameters", "prompt")
            key = gateway.add_tenant("peers", plan="peers")
            gateway.cli("profile", "set", "--tenant", "peers", "--default-model", "gpt-4o")
            tenant = gateway.cli_json("tenant", "show", "peers")["tenant"]["id"]
            gateway.stop()
            path = next(gateway.home.rglob("handles.jsonl"))
            path.write_bytes(b"".join(_seeds(home.glob("asked.*"), tenant, url)))
            gateway.start()
            through = _run(asked, gateway.api_url, home / "through.xml", {"PEERS_KEY": key})
        finally:
            gateway.close()
    _print(direct, through, failures=asked.failures)


def _told(spec: Path, folder: Path) -> Path:
    """Returns a copy of the specification in which a Response has no error beside its output.

    The mock makes up both, and the gateway takes such an answer for a failure.
    """
    copy = folder / "openapi.yml"
    copy.write_text(_RESPONSE_ERROR.sub("type: 'null'", spec.read_text()))
    return copy


_RESPONSE_ERROR = re.compile(r"\$ref: '#/components/schemas/\w*ResponseError'")


@contextmanager
def _mock(program: Path, spec: Path, folder: Path) -> Iterator[str]:
    """The mock server, running; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (folder / "mock.log").open("wb") as log:
        command = [str(program), "--host", "127.0.0.1", "-p", str(port), *_MOCK_OPTIONS, str(spec)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + _READY_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/_x-steady/health").close()
                break
            except OSError:
                if time.monotonic() > until or server.poll() is not None:
                    sys.exit("the mock server did not start")
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


def _run(asked: argparse.Namespace, url: str, report: Path, environment: dict[str, str]) -> dict[str, bool]:
    """Returns of each test of the suite whether it passes."""
    environment = {**os.environ, "PYTHONPATH": str(_HERE), "TEST_API_BASE_URL": url, **environment}
    return (_pytest if asked.node is None else _jest)(asked, report, environment)


def _jest(asked: argparse.Namespace, report: Path, environment: dict[str, str]) -> dict[str, bool]:
    settings = {
        "rootDir": str(asked.suite),
        "testEnvironment": "node",
        "testMatch": ["<rootDir>/tests/api-resources/**/*.test.ts"],
        "testPathIgnorePatterns": [f"/{each}/" for each in _LEFT_OUT],
        "setupFiles": [str(_HERE / "recorder.cjs"), "<rootDir>/scripts/jest-setup.ts"],
        "transform": {r"\.ts$": ["@swc/jest", {"jsc": {"parser": {"syntax": "typescript"}, "target": "es2022"}}]},
        "moduleNameMapper": {"^openai$": "<rootDir>/src/index.ts", "^openai/(.*)$": "<rootDir>/src/$1"},
    }
    program = asked.suite / "node_modules/jest/bin/jest.js"
    command = [str(asked.node), str(program), "--config", json.dumps(settings), "-w", "1", "--testTimeout", "20000"]
    command += ["-t", asked.k] if asked.k else []
    subprocess.run(
        [*command, "--json", f"--outputFile={report}", *asked.only],
        cwd=asked.suite,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    found = {}
    for file in json.loads(report.read_text())["testResults"]:
        place = Path(file["name"]).relative_to(asked.suite / "tests/api-resources").as_posix().removesuffix(".test.ts")
        for test in file["assertionResults"]:
            if test["status"] in ("passed", "failed"):
                name = f"{place.replace('/', '.')}.{test['title'].replace('.', ' ')}"
                found[f"tests.api_resources.{name}.jest"] = test["status"] == "passed"
    return found


def _pytest(asked: argparse.Namespace, report: Path, environment: dict[str, str]) -> dict[str, bool]:
    command = [
        str(asked.python),
        "-m",
        "pytest",
        "-q",
        "-n",
        "1",
        "-p",
        "recorder",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "20",
        "-k",
        asked.k,
    ]
    subprocess.run(
        [*command, f"--junitxml={report}", *(asked.only or ["tests/api_resources"])],
        cwd=asked.suite,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return {
        f"{case.get('classname')}.{case.get('name')}": case.find("failure") is None and case.find("error") is None
        for case in ElementTree.parse(report).iter("testcase")
        if case.find("skipped") is None
    }


def _seeds(recorded: Iterator[Path], tenant: str, upstream: str) -> Iterator[bytes]:
    """Yields a line for each id that the requests name, as the gateway writes down what an upstream gave out."""
    seen = set()
    for path in recorded:
        for line in path.read_text().splitlines():
            method, target, body = json.loads(line)
            for kind, object_id in {*_in_path(method, unquote(target)), *_in_body(body)}:
                if (kind, object_id) not in seen:
                    seen.add((kind, object_id))
                    # Many times over, as of so many servers: what a test deletes, others ask for again.
                    for number in range(_COPIES):
                        server = f"{upstream}#{number}"
                        # Any file is one of a batch, too.
                        work = Work(1, endpoints=("chat.completions",)) if kind == "file" else None
                        model = "gpt-4o" if kind == "file" else ""
                        made = ObjectId(kind, object_id, tenant, "", model, model, upstream=server, work=work)
                        yield msgspec.json.encode(made) + b"\n"


_ROUTES = [
    (
        endpoint.method,
        re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(endpoint.upstream_path))),
        endpoint,
    )
    for endpoint in ENDPOINTS
    if endpoint.names is not None
]


def _in_path(method: str, target: str) -> Iterator[tuple[Any, str]]:
    for expected, route, endpoint in _ROUTES:
        found = route.fullmatch(target)
        if expected == method and found is not None:
            yield endpoint.names, found["id"]


def _in_body(body: str) -> Iterator[tuple[Any, str]]:
    try:
        value = json.loads(body)
    except ValueError:
        return
    if isinstance(value, dict):
        named = named_by(value)
        yield from named.uses
        yield from ((kind, object_id) for kind, object_id, _ in named.shared)
        items = value.get("input")
        yield from items_named(items if isinstance(items, list) else ())
        for name, kind in (
            ("previous_response_id", "response"),
            ("conversation", "conversation"),
            ("input_file_id", "file"),
        ):
            if isinstance(value.get(name), str):
                yield kind, value[name]


def _print(direct: dict[str, bool], through: dict[str, bool], *, failures: bool) -> None:
    ours, passing = Counter[str](), Counter[str]()
    for test, passes in direct.items():
        if passes:
            resource = _resource(test)
            ours[resource] += 1
            passing[resource] += through.get(test, False)
            if failures and not through.get(test, False):
                print(test)
    print("| resource | directly | through the gateway |\n|---|---|---|")
    for resource in sorted(ours):
        print(f"| {resource} | {ours[resource]} | {passing[resource]} |")
    served = [resource for resource in ours if not resource.startswith(_LEFT_OUT)]
    total, passed = sum(ours[each] for each in served), sum(passing[each] for each in served)
    print(f"\nWithout organization: {passed} of {total}, {passed / max(total, 1):.1%}.")


def _resource(test: str) -> str:
    parts = test.removeprefix("tests.api_resources.").split(".")
    return ".".join(part.removeprefix("test_") for part in parts[:-2])


if __name__ == "__main__":
    main()
