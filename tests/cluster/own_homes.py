"""``trustgate serve --workers N`` with a database for each worker: the supervisor alone is tried, without Postgres.

``python tests/cluster/own_homes.py HOME N serve``: worker 2 serves the home HOME/2.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from trustgate.server.workers import run_workers
from trustgate.settings import Settings, load_settings


def own_home(settings: Settings, number: int) -> Settings:
    """The settings of a worker with a home of its own."""
    return msgspec.structs.replace(settings, home=settings.home / str(number))


def load() -> Settings:
    return load_settings(Path(sys.argv[1]), {"serve.workers": int(sys.argv[2])})


if __name__ == "__main__":
    sys.exit(run_workers(load(), load, settings_of=own_home))
