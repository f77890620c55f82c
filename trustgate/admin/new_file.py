"""Writing an output file of a command: whole or not at all, readable by its owner only."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from trustgate.errors import Conflict, OperatorError


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """A path beside ``path`` to write to, mode 0600; it takes the place of ``path`` when the block ends well.

    Raises ``Conflict`` where there is such a file and not ``force``, ``OperatorError`` where it cannot be written.
    A device, a socket or a folder is never replaced: ``force`` is for files.
    """
    if path.exists() and not path.is_file():
        raise OperatorError(f"{path} is not a file, so it is left alone.", hint="Choose another name.")
    if path.exists() and not force:
        raise Conflict(f"{path} already exists.", hint="Choose another name, or replace it with --force.")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield part
        part.chmod(0o600)  # its writer may have replaced it
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def unwritable(path: Path | str, error: OSError) -> OperatorError:
    """Returns the error of a file that cannot be written. ``path``: or what a person calls it."""
    return OperatorError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Choose another location, or free some space there.",
    )
