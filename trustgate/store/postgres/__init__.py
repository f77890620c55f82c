"""The store on Postgres, in place of a DuckDB file. Nothing of it is loaded unless ``store.url`` is set."""

from __future__ import annotations
