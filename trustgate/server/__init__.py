"""The server: what ``trustgate serve`` runs. ``run`` owns the order of start and stop, ``parts`` what it is made of."""

from __future__ import annotations

from trustgate.server.request_events import Observer
from trustgate.server.run import run, run_loop, serve

__all__ = ["Observer", "run", "run_loop", "serve"]
