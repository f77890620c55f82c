"""The environments of the tests: virtual ones, and one of Node's. Owns where they are, what is in them and when they
are made anew.

Standard library only: it runs before anything is installed. Each environment is a folder named for its purpose, the
Python version and a digest of its lock file, under ``.venv-tests`` in the checkout or under the folder that the
variable TRUSTGATE_TEST_VENVS names. A changed lock file makes a new folder, so nothing is ever half up to date.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAIN_LOCK = ROOT / "requirements.lock"
TESTS_LOCK = ROOT / "tests" / "requirements.lock"
BINARY_LOCK = ROOT / "tests" / "binary" / "requirements.lock"
FUZZ_LOCK = ROOT / "tests" / "fuzz" / "requirements.lock"
MODEL_LOCK = ROOT / "tests" / "model" / "requirements.lock"
LITELLM_LOCK = ROOT / "tests" / "litellm" / "requirements.lock"
CLIENTS_LOCK = ROOT / "tests" / "clients" / "requirements.lock"
NODE_LOCK = ROOT / "tests" / "clients" / "package-lock.json"
VENVS_VARIABLE = "TRUSTGATE_TEST_VENVS"
#: Names the Python of the LiteLLM environment to the tests, and lets you bring your own.
LITELLM_VARIABLE = "TRUSTGATE_TEST_LITELLM_PYTHON"
#: The same for the Python that has the real model and its server.
MODEL_VARIABLE = "TRUSTGATE_TEST_MODEL_PYTHON"
#: The same for the Python that has the other clients, and for the folder that holds Node's node_modules.
CLIENTS_VARIABLE = "TRUSTGATE_TEST_CLIENTS_PYTHON"
NODE_VARIABLE = "TRUSTGATE_TEST_NODE"


class EnvironmentFailed(Exception):
    """An environment could not be made; the message is for the person at the terminal."""


def venvs_folder() -> Path:
    """Where the environments are: $TRUSTGATE_TEST_VENVS, or ``.venv-tests`` in the checkout."""
    return Path(os.environ.get(VENVS_VARIABLE) or ROOT / ".venv-tests").absolute()


def tests_python(base: Path) -> Path:
    """The Python that runs the tests: locked versions of everything, and this checkout, editable."""
    folder = _environment("tests", base, TESTS_LOCK)
    python = _python_of(folder)
    installed = folder / ".trustgate"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not installed.is_file() or installed.read_text() != wanted:
        _pip(python, "--no-deps", "--editable", str(ROOT))
        installed.write_text(wanted)
    return python


def binary_python(base: Path) -> Path:
    """The Python that makes the single file: TrustGate's dependencies and PyInstaller, nothing else."""
    return _python_of(_environment("binary", base, BINARY_LOCK))


def litellm_python(base: Path) -> Path:
    """The Python that runs the LiteLLM proxy."""
    return _python_of(_environment("litellm", base, LITELLM_LOCK))


def model_python(base: Path) -> Path:
    """The Python that runs llama.cpp's server, with a small model beside it."""
    return _python_of(_environment("model", base, MODEL_LOCK))


def clients_python(base: Path) -> Path:
    """The Python that has the clients whose requirements are not those of the tests."""
    return _python_of(_environment("clients", base, CLIENTS_LOCK))


def fuzz_packages(base: Path) -> Path:
    """The folder with the packages of the fuzzer, to be put on the path of the Python that runs the tests."""
    python = _python_of(_environment("fuzz", base, FUZZ_LOCK))
    return next((python.parent.parent / "lib").glob("python*")) / "site-packages"


def node_folder() -> Path:
    """The folder whose ``node_modules`` holds the clients for Node."""
    folder = _folder("node", "", NODE_LOCK)
    with _made_once(folder, "node") as is_complete:
        if not is_complete:
            folder.mkdir()
            for source in (NODE_LOCK, NODE_LOCK.with_name("package.json")):
                shutil.copy(source, folder)
            # Scripts of packages have no business here, and none of these packages needs one.
            command = ["npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
            _run([*command, "--loglevel=error"], "npm could not install the clients for Node; is it there, with Node?")
    return folder


def find_litellm() -> Path | None:
    """The Python of a finished LiteLLM environment, or None. Never installs: tests call this."""
    return _found(LITELLM_VARIABLE, "litellm", LITELLM_LOCK)


def find_model() -> Path | None:
    """The Python of a finished environment of the real model, or None. Never installs."""
    return _found(MODEL_VARIABLE, "model", MODEL_LOCK)


def find_clients() -> Path | None:
    """The Python of a finished environment of the clients, or None. Never installs."""
    return _found(CLIENTS_VARIABLE, "clients", CLIENTS_LOCK)


def find_node() -> Path | None:
    """The folder with the clients for Node, or None. Never installs."""
    if named := os.environ.get(NODE_VARIABLE):
        return Path(named)
    folder = _folder("node", "", NODE_LOCK)
    return folder if (folder / ".complete").is_file() else None


def _found(variable: str, purpose: str, lock: Path) -> Path | None:
    if named := os.environ.get(variable):
        return Path(named)
    folder = _folder(purpose, f"py{_version_of(Path(sys.executable))}", lock)
    return _python_of(folder) if (folder / ".complete").is_file() else None


def _environment(purpose: str, base: Path, lock: Path) -> Path:
    """Make the environment unless it is there, and give its folder. Two runs at once wait for each other."""
    folder = _folder(purpose, f"py{_version_of(base)}", lock)
    with _made_once(folder, purpose) as is_complete:
        if not is_complete:
            _run([str(base), "-m", "venv", str(folder)], f"{base} cannot make a virtual environment")
            # The lock has everything. Left to look for itself, pip takes `name[extra]` for a package apart from the
            # pinned `name`, and chooses the newest, which has no hash here: every release of such a package would
            # break the lock.
            _pip(_python_of(folder), "--no-deps", "--require-hashes", "--requirement", str(lock))
    return folder


def run_module(name: str, arguments: Sequence[str]) -> int:
    """Run a module in the tests' environment, which is made where it is missing. Returns its exit code."""
    try:
        python = tests_python(Path(sys.executable))
    except EnvironmentFailed as error:
        say(str(error))
        return 1
    try:
        return subprocess.run([str(python), "-m", name, *arguments], cwd=ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def _made_once(folder: Path, purpose: str) -> Iterator[bool]:
    """Whether the folder is complete; when it is not, the block makes it, and it is complete when the block ends."""
    complete = folder / ".complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.with_name(f"{folder.name}.lock")):
        if complete.is_file():
            yield True
            return
        shutil.rmtree(folder, ignore_errors=True)
        say(f"making the {purpose} environment in {_short(folder)} (once for each lock file; it takes a minute or two)")
        yield False
        complete.touch()


def _folder(purpose: str, version: str, lock: Path) -> Path:
    # The checkout's path counts as well: a shared cache must not serve one checkout the editable install of another.
    digest = hashlib.sha256(f"{ROOT}\n".encode() + lock.read_bytes()).hexdigest()[:12]
    return venvs_folder() / "-".join(filter(None, (purpose, version, digest)))


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _version_of(python: Path) -> str:
    if python == Path(sys.executable):
        return ".".join(map(str, sys.version_info[:3]))
    code = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentFailed(f"{python} is not a Python that runs: {error}") from error


def _pip(python: Path, *arguments: str) -> None:
    # No configuration is overridden: a mirror or a proxy is set for pip.
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *arguments]
    _run(command, "pip could not install what the tests need; is the package index reachable?")


def _run(command: list[str], failure: str) -> None:
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentFailed(f"{failure}\n  {' '.join(command)}\n  {error}") from error


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def say(message: str) -> None:
    """A line about what goes on, on stderr: stdout belongs to the program that is run."""
    print(f"tests: {message}", file=sys.stderr, flush=True)
