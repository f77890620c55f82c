"""``trustgate version``."""

from __future__ import annotations

import platform
import sys

import typer

from trustgate import __version__
from trustgate.cli import render
from trustgate.cli.context import JsonOption


def register(app: typer.Typer) -> None:
    app.command("version")(version)


def versions() -> dict[str, str]:
    """Returns what a report of a fault should name. ``duckdb`` is the library that the database file was written
    with.
    """
    from importlib import metadata  # 20 ms, which other commands need not spend

    return {
        "trustgate": __version__,
        "python": platform.python_version(),
        "duckdb": metadata.version("duckdb"),
        "platform": f"{platform.system()} {platform.machine()}",
        "executable": sys.executable,
    }


def version(json: JsonOption = False) -> None:
    """Show the versions of TrustGate and of what it runs on."""
    found = versions()
    if json:
        render.document(found)
    else:
        render.card(found.items())
