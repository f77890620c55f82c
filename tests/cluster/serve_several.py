"""``trustgate`` where several processes serve one Postgres database."""

from __future__ import annotations

from trustgate.server import workers

workers.SEVERAL = True

if __name__ == "__main__":
    from trustgate.cli import main

    main()
