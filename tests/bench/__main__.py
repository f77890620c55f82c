"""``python3 tests/bench``: how fast the gateway is, beside bare passthroughs in the same run.

Makes the tests' environment if need be and runs measure.py in it; ``--help`` lists the options. Standard library only.
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
    command = [str(python), "-m", "tests.bench.measure", *sys.argv[1:]]
    try:
        return subprocess.run(command, cwd=environments.ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
