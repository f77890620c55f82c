"""Has a server stop itself while it charges work: loaded before anything else where this folder is on PYTHONPATH.

The file that TRUSTGATE_TEST_CHARGING names has the point and the number of a signal. The first server that comes to the
point removes the file, writes its process's id into one beside it, ``.reached``, and sends itself the signal.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

_order = os.environ.get("TRUSTGATE_TEST_CHARGING")
if _order and "serve" in sys.orig_argv:
    from trustgate.gateway.path.accounting import Account
    from trustgate.gateway.path.background import BackgroundWork

    _end, _close = BackgroundWork.end, Account.close
    _file = Path(_order)

    def _reach(point: str) -> None:
        try:
            wanted, number = _file.read_text().split()
            if wanted != point:
                return
            _file.unlink()
        except (OSError, ValueError):
            return
        reached = _file.with_suffix(".writing")
        reached.write_text(str(os.getpid()))
        reached.rename(_file.with_suffix(".reached"))
        os.kill(os.getpid(), int(number))

    def end(self: BackgroundWork, handle: Any, receipts: Any = ()) -> None:
        if receipts:
            _reach("seen")
        _end(self, handle, receipts)
        if receipts:
            _reach("noted")

    def close(self: Account, *arguments: Any, **options: Any) -> None:
        _close(self, *arguments, **options)
        if self.summed is not None and self.summed.calls:
            _reach("second" if self.part else "first")

    BackgroundWork.end = end  # type: ignore[method-assign]
    Account.close = close  # type: ignore[method-assign]
