"""The files that lie beside the database: their names, their sizes, and a folder that cannot be used."""

from __future__ import annotations

from pathlib import Path

from trustgate.errors import HomeUnusable, OperatorError, disk_hint


def beside(path: Path, suffix: str) -> Path:
    """Returns the file beside the database whose name has this ending too."""
    return path.with_name(path.name + suffix)


def size_of(path: Path) -> int:
    """Returns the size of a file, bytes; 0 where there is none, or it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def unusable(folder: Path, error: OSError) -> OperatorError:
    """Returns the error for a folder in which a file cannot be made or written."""
    return HomeUnusable(
        f"The folder {folder} cannot be used: {error.strerror or error}.",
        hint=disk_hint(
            error, "Create it, or give it to the user who runs TrustGate, or choose another one with --home."
        ),
    )
