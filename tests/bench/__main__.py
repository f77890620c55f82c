"""``python3 tests/bench``: how fast the gateway is, beside bare passthroughs in the same run.

``python3 tests/bench log`` measures the tree over the receipts instead. Makes the tests' environment if need be and
runs measure.py or log.py in it; ``--help`` lists the options. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Run by its path, so that it needs nothing installed: the checkout is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests import environments


def main() -> int:
    try:
        python = environments.tests_python(Path(sys.executable))
    except environments.EnvironmentFailed as error:
        environments.say(str(error))
        return 1
    arguments = sys.argv[1:]
    name = arguments.pop(0) if arguments[:1] == ["log"] else "measure"
    command = [str(python), "-m", f"tests.bench.{name}", *arguments]
    try:
        return subprocess.run(command, cwd=environments.ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
