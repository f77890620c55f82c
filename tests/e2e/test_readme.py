"""The README and its pages on models, payments and receipts, run in front of a real LiteLLM proxy."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import GatewayFactory
from tests.docs import COMMANDS, MODELS, PAYMENTS, README, RECEIPTS, TROUBLESHOOTING, generated
from tests.support.facilitator import FacilitatorDouble
from tests.support.gateway import Gateway
from tests.support.litellm import CONFIG, LiteLLM
from tests.support.processes import clean_environment
from trustgate.cli.commands import TABLE

_BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each block of commands, in order; those of the other pages go on with what came before."""
    pages = (README, MODELS, PAYMENTS, RECEIPTS)
    return [(found[1], found[2]) for page in pages for found in _BLOCK.finditer(page.read_text())]


def test_generated_files_are_up_to_date() -> None:
    stale = [path.name for path, text in generated().items() if path.read_text() != text]
    assert not stale, "run: python tests/docs.py"


def test_the_two_commands_of_the_start_are_on_the_first_screen() -> None:
    screen = "\n".join(README.read_text().splitlines()[:25])
    assert ".venv/bin/trustgate demo\n```" in screen and "```sh\n.venv/bin/trustgate serve\n```" in screen
    assert all(f"**{word}**" in screen for word in ("tenant", "passport", "receipt"))


def test_the_contents_list_every_section_and_links_lead_somewhere() -> None:
    text = README.read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"): heading for heading in headings}
    contents = text.partition("\n## Contents\n")[2].partition("\n## ")[0]
    listed = re.findall(r"\[([^\]]+)\]\(#([\w-]+)\)", contents)
    assert [name for name, anchor in listed if anchors.get(anchor) != name] == []
    assert set(headings) - {name for name, _ in listed} == {"Start", "Contents"}
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        assert anchor in anchors if not file else (README.parent / file).exists(), target


@pytest.mark.parametrize(
    "page",
    [README, *sorted((README.parent / "examples").glob("*/*.md"))],
    ids=lambda page: page.name if page == README else page.parent.name,
)
def test_links_of_the_guides_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        assert (page.parent / file).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (page.parent / (file or page.name)).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}, target


def test_each_symptom_is_one_that_the_program_shows() -> None:
    """The first column of the table: error codes, and parts of messages."""
    quoted = re.findall(r"^\| [^|`]*`([^`]+)`", TROUBLESHOOTING.read_text(), re.MULTILINE)
    assert len(quoted) > 10
    source = "\n".join(path.read_text() for path in sorted((README.parent / "trustgate").rglob("*.py")))
    assert [text for text in quoted if text not in source] == []


@pytest.fixture(scope="module")
def facilitator() -> Iterator[FacilitatorDouble]:
    with FacilitatorDouble() as double:
        yield double


@pytest.fixture(scope="module")
def served(make_module_gateway: GatewayFactory, litellm: LiteLLM, facilitator: FacilitatorDouble) -> Gateway:
    """As in the other tests, but that no public facilitator is asked."""
    return make_module_gateway(
        upstream=litellm.api_url,
        arguments=("--upstream-key-env", "UPSTREAM_KEY"),
        environment={"UPSTREAM_KEY": litellm.master_key, "X402_FACILITATOR_URL": facilitator.url},
    ).start()


def test_the_readme_from_top_to_bottom(served: Gateway, tmp_path: Path) -> None:
    script = ["set -eu"]
    skipped = []
    for language, text in blocks():
        if re.search(r"^trustgate serve|trustgate (serve|demo)$|^python3 tests$", text.strip()):
            # Installing and serving are done (by tests/walk and by the fixture, with the same flags); so are the tests.
            skipped.append(text)
        elif language == "python":
            script.append(f"python3 - <<'PYTHON' | tee answer\n{text}PYTHON\nexport RECEIPT=$(tail -n 1 answer)")
        else:
            script.append(text)
    assert len(skipped) == 4
    program = "\n".join(script).replace("http://127.0.0.1:4010", served.base_url)
    done = run(program, served, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "Hello!" in said, "the echo"
    assert "data: [DONE]" in said, "the stream"
    assert re.search(r"^rcpt_[0-9a-f]{32}$", said, re.MULTILINE), "the SDK's answer and receipt"
    assert "gpt-4o" in said.split("data: [DONE]")[1], "usage and receipts"
    assert "The books balance." in said
    aliases = served.cli_json("passport", "alias", "--list")["aliases"]
    assert {"name": "gpt-4", "target": "fast"} in aliases


def test_each_promise_names_a_test_that_exists() -> None:
    named = re.findall(r"\[`(test_\w+)`\]\((\S+?)\)", README.read_text())
    assert len(named) >= 7
    for test, file in named:
        assert f"def {test}(" in (README.parent / file).read_text(), f"{file} has no {test}"


def test_the_start_is_what_ci_walks() -> None:
    assert blocks()[0][1].strip().endswith("trustgate demo")
    assert "python3 tests/walk" in (README.parent / ".ci" / "run").read_text()


def run(program: str, gateway: Gateway, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the README's script where ``trustgate`` and ``python3`` are those of this environment."""
    programs = folder / "bin"
    programs.mkdir()
    for name, command in (("trustgate", f"{sys.executable} -m trustgate"), ("python3", sys.executable)):
        shim = programs / name
        shim.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        shim.chmod(0o755)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    program = program.replace('export PATH="$PWD/.venv/bin:$PATH"', f"export PATH={shlex.quote(str(programs))}:$PATH")
    environment = clean_environment({"TRUSTGATE_HOME": str(gateway.home), "PATH": os.environ["PATH"]})
    return subprocess.run(
        ["bash", "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize("word", ["trustgate demo", "trustgate serve", "trustgate doctor", "python3 tests"])
def test_the_readme_names_what_a_newcomer_needs(word: str) -> None:
    assert word in README.read_text()


def test_the_table_of_commands_names_every_command() -> None:
    rows = "\n".join(line for line in COMMANDS.read_text().splitlines() if line.startswith("| `"))
    assert [name for name in TABLE if name != "version" and not re.search(rf"`(trustgate )?{name}\b", rows)] == []
