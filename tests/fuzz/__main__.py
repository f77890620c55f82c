"""``python3 tests/fuzz``: makes the tests' environment and runs run.py in it; ``--help`` lists the options.

Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Run by its path, so that it needs nothing installed: the checkout is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests import environments

if __name__ == "__main__":
    raise SystemExit(environments.run_module("tests.fuzz.run", sys.argv[1:]))
