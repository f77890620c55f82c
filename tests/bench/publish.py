"""``python3 tests/bench publish FILE``: the page of the benchmark shows the numbers of this run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests import docs
from tests.bench import report


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python3 tests/bench publish FILE", file=sys.stderr)
        return 2
    found = json.loads(Path(sys.argv[1]).read_text())
    report.PUBLISHED.write_text(json.dumps(found, indent=1) + "\n")
    docs.write()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
