"""``python -m trustgate`` is ``trustgate``."""

from __future__ import annotations

from trustgate.cli import main

if __name__ == "__main__":
    main()
