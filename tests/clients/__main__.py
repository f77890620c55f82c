"""``python3 tests --run python -m tests.clients``: run every client and write the findings into the page of clients."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.clients.clients import table
from tests.clients.stage import stage
from tests.docs import CLIENTS, with_table
from tests.support.litellm import LiteLLM


def main() -> int:
    """Exit code 1 when something does not work: the table says so as well."""
    with tempfile.TemporaryDirectory() as folder:
        litellm = LiteLLM(Path(folder)).start()
        try:
            with stage(Path(folder), litellm) as made:
                findings = made.find()
        finally:
            litellm.stop()
    CLIENTS.write_text(with_table(CLIENTS.read_text(), table(findings)))
    broken = [
        f"{client}, {feature}: {why}" for client, found in findings.items() for feature, why in found.items() if why
    ]
    print("\n".join(broken) or table(findings))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
