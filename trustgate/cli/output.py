"""Writing a command's output file: whole or not at all, readable by its owner only, or to stdout."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trustgate.errors import Conflict, OperatorError

STDOUT = Path("-")


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[Path]:
    """A path beside ``path`` to write to, mode 0600; it takes the place of ``path`` when the block ends well.

    Raises ``Conflict`` where there is such a file and not ``force``, ``OperatorError`` where it cannot be written.
    """
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
        raise _unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


class Sink:
    """Where the bytes of a feed go: ``write`` is an ``admin.commands.Write``."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self.size_bytes = 0
        self.lines = 0

    async def write(self, data: bytes) -> None:
        self.put(data)

    def put(self, data: bytes) -> None:
        """Raises ``OperatorError`` when they cannot be written."""
        try:
            self._file.write(data)
        except BrokenPipeError:
            raise SystemExit from None  # the entry point knows: the reader of the output has gone
        except OSError as error:
            raise _unwritable(self._path, error) from None
        self.size_bytes += len(data)
        self.lines += data.count(b"\n")


@contextlib.contextmanager
def sink(path: Path, *, force: bool = False) -> Iterator[Sink]:
    """The file ``path``, as ``new_file`` makes it, or stdout for ``-``."""
    if path == STDOUT:
        if sys.stdout.isatty():
            raise OperatorError(
                "Binary output is not written to a terminal.", hint="Name a file, or pipe the output: … - | …"
            )
        sys.stdout.flush()
        yield Sink(sys.stdout.buffer, path)
        sys.stdout.buffer.flush()
        return
    with new_file(path, force=force) as part, part.open("wb") as file:
        yield Sink(file, path)


def _unwritable(path: Path, error: OSError) -> OperatorError:
    return OperatorError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Choose another location, or free some space there.",
    )
