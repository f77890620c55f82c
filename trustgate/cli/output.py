"""Writing a command's output, to a file (``admin.new_file``) or to stdout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trustgate.admin.new_file import new_file, unwritable
from trustgate.errors import OperatorError

STDOUT = Path("-")


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
            raise unwritable("The output" if self._path == STDOUT else self._path, error) from None
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
