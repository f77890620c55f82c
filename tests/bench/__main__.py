"""``python3 tests/bench``: how fast the gateway is, beside bare passthroughs and other gateways in the same run.

Makes the environments that it can (the tests' own, LiteLLM's, Portkey's from npm) and runs measure.py, or the file
that the first argument names: ``receipts``, ``publish``, ``log``, ``soak``, ``frames``, ``paid``, ``path_cpu``,
``overload``, ``hostile``, ``several``. ``--help`` lists the options. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Run by its path, so that it needs nothing installed: the checkout is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests import environments
from tests.bench import installed


def main() -> int:
    try:
        python = environments.tests_python(Path(sys.executable))
    except environments.EnvironmentFailed as error:
        environments.say(str(error))
        return 1
    arguments = sys.argv[1:]
    # Every program here is a file with a ``main`` of its own.
    name = arguments.pop(0) if arguments[:1] and not arguments[0].startswith("-") else "measure"
    if name == "measure" and not {"--quick", "--peers", "--help", "-h"} & set(arguments):
        _install_peers()
    command = [str(python), "-m", f"tests.bench.{name}", *arguments]
    try:
        return subprocess.run(command, cwd=environments.ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 130


def _install_peers() -> None:
    """Install the peers; one that cannot be installed is left out, which the table shows."""
    if environments.find_litellm() is None:
        try:
            environments.litellm_python(Path(sys.executable))
        except environments.EnvironmentFailed as error:
            environments.say(str(error))
    installed.install_portkey()


if __name__ == "__main__":
    raise SystemExit(main())
