"""Work in a fork of its own, which may kill itself."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def in_a_child(work: Callable[[], object]) -> int:
    """Do it in a fork of its own. Returns how that ended: a status as ``os.waitpid`` has it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a test's process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]
